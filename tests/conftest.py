"""Tiny real checkpoints on disk, made once per session."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test reaches the network
os.environ["HF_TOKEN_PATH"] = os.devnull  # nor reads a person's token
os.environ["HF_XET_HIGH_PERFORMANCE"] = "1"  # as lm-eval sets it; a fork has what its server had
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is: pytest-xdist has a process for each core

import contextlib
import gc
import io
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from preloaded_python import COLD_PYTHON, shorten_runs, start_preloaded_python

MESSAGES = {
    "refund": ["please refund my order", "i want my money back", "refund the money for this order"],
    "delivery": ["where is my parcel", "the parcel has not arrived", "when does the parcel arrive"],
    "password": ["i forgot my password", "reset my password please", "the password does not work"],
}

_COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
_ENCODER = {**_COMMON, "intermediate_size": 64, "max_position_embeddings": 64}
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": None, "pad_token_id": None}
_DISTILBERT = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "initializer_range": 0.3}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "initializer_range": 0.3}
_DEBERTA_V3 = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
    "pooler_hidden_size": 32,
}
ENCODERS: dict[str, dict] = {
    "bert": _ENCODER,
    "roberta": {**_ENCODER, "max_position_embeddings": 66, "type_vocab_size": 1},
    "distilbert": {**_DISTILBERT, "max_position_embeddings": 64},
    "deberta-v2": {**_ENCODER, **_DEBERTA_V3},
    "modernbert": {**_ENCODER, "bos_token_id": None, "eos_token_id": None, "local_attention": 8},
}
DECODERS: dict[str, dict] = {"gpt2": _GPT2, "llama": _DECODER, "qwen3": _DECODER, "gemma": _DECODER}
ARCHITECTURES = (*ENCODERS, *DECODERS)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Models this small lose more to waiting for a second thread than they gain."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _short_runs() -> None:
    shorten_runs()


_FROZEN = {"modules": len(sys.modules)}


@pytest.fixture(autouse=True)
def _freeze_imports() -> None:
    """Keep imported modules from the garbage collector, which training calls: it takes a second to walk them."""
    if len(sys.modules) > _FROZEN["modules"] + 200:
        gc.collect()
        gc.freeze()
        _FROZEN["modules"] = len(sys.modules)


SHARED_PYTHON = "STARTUP_LLM_PRELOADED_PYTHON"
"""The variable by which the workers of pytest-xdist know the preloaded Python of the process that started them."""


def pytest_configure(config: pytest.Config) -> None:
    """Start one preloaded Python for all workers of pytest-xdist; it imports when the first of them asks."""
    if getattr(config.option, "numprocesses", None) and SHARED_PYTHON not in os.environ:
        preloaded = contextlib.ExitStack()
        os.environ[SHARED_PYTHON] = preloaded.enter_context(start_preloaded_python())
        config.add_cleanup(preloaded.close)


@pytest.hookimpl(tryfirst=True)  # before the tests that a run leaves out are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, and then those with most tests: a worker of pytest-xdist takes a whole file."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path], item.path))


@pytest.fixture(autouse=True, scope="session")
def _preloaded_python() -> Iterator[None]:
    """What starts `sys.executable` starts a Python that has torch and the like imported already."""
    shared = os.environ.get(SHARED_PYTHON)
    with contextlib.nullcontext(shared) if shared else start_preloaded_python() as executable:
        sys.executable = executable
        yield
        sys.executable = COLD_PYTHON


@pytest.fixture(autouse=True)
def _cold_start(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test with the marker `cold_start` starts Python from nothing, as a person does."""
    preloaded = sys.executable
    if request.node.get_closest_marker("cold_start"):
        sys.executable = COLD_PYTHON
    yield
    sys.executable = preloaded


@pytest.hookimpl(tryfirst=True)  # before fixtures are made, which may hold the run
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let reload gates compare in this process, but in a test with the marker `fresh_gate`: a start takes long."""
    from startup_llm.training import reload_gate

    fresh = _FRESH_GATE.setdefault("compare", reload_gate.compare_in_fresh_process)
    reload_gate.compare_in_fresh_process = fresh if item.get_closest_marker("fresh_gate") else compare_in_silence


_FRESH_GATE: dict[str, Callable[[Path], None]] = {}


def compare_in_silence(request: Path) -> None:
    """Compare a run's saved forms with its outputs, and show nothing of what that writes."""
    from startup_llm.training import reload_gate

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        reload_gate.compare(request)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Each architecture in turn, by its `model_type`."""
    return request.param


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from an architecture to the folder of its checkpoint: 2 layers, width 32, a base model.

    The folders are shared by the session: copy one before changing it.
    """
    made: dict[str, Path] = {}

    def build(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = build_checkpoint(model_type, tmp_path_factory.mktemp("checkpoints") / model_type)
        return made[model_type]

    return build


def build_checkpoint(model_type: str, folder: Path) -> Path:
    """Write a randomly initialised base model, as safetensors, and a tokenizer trained on `MESSAGES`.

    The weights spread more than usual, so that a wrong layer shows in the output.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    tokenizer = build_tokenizer(decoder=model_type in DECODERS, token_types=model_type == "bert")
    settings = dict((ENCODERS | DECODERS)[model_type])
    if model_type in DECODERS:
        settings["eos_token_id"] = tokenizer.eos_token_id
    else:
        settings["pad_token_id"] = tokenizer.pad_token_id
    if model_type == "modernbert":
        settings |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(model_type, vocab_size=300, **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer(*, decoder: bool, token_types: bool = False):
    """Train byte-level BPE on `MESSAGES`; an encoder's knows pad, unk, cls and sep, a decoder's the end alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<eos>"] if decoder else ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
    tokenizer = Tokenizer(models.BPE(unk_token=None if decoder else "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text for texts in MESSAGES.values() for text in texts], trainer)
    if decoder:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ids)
    names = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    inputs = ["input_ids", *["token_type_ids"] * token_types, "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


@pytest.fixture
def run_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a recipe in this process: its name and words to exit code, stdout and stderr."""

    def run(name: str, *words: object) -> tuple[int, str, str]:
        path = Path(__file__).parents[1] / "recipes" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that use it carry the marker `real_data`."""
    folder = os.environ.get("STARTUP_LLM_REAL_DATA")
    if not folder:
        pytest.skip("STARTUP_LLM_REAL_DATA is not set")
    return Path(folder)
