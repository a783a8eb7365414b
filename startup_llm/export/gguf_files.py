"""A causal language model in a GGUF file, as llama.cpp and what is built on it read it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.plain_data import read_json_object
from startup_llm.runs.llama_cpp import GGUF_FILE

if TYPE_CHECKING:
    import gguf
    import numpy as np
    from transformers import PreTrainedTokenizerBase

ARCHITECTURES = ("llama",)
"""Architectures that can be written, as their configs and llama.cpp name them; SmolLM2 is one."""
FILE_TYPES = {"q8_0": 7, "q4_0": 2, "q4_1": 3, "f16": 1}
"""How weights may be quantized, the default first, with its number in the file: llama.cpp's LlamaFileType."""
BLOCK = 32
"""Weights that share a scale."""
_LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [{"type": "ByteLevel", "use_regex": True}],
    "smollm": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True}],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _LLAMA_3_SPLIT}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "use_regex": False},
    ],
}
"""How texts are cut before merges, by llama.cpp's name, as tokenizer.json says it."""


def require_packages() -> None:
    """Refuse to export without the package of the extra.

    Raises:
        UserError: If it is missing.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UserError("exporting to GGUF needs the package gguf; pip install 'startup-llm[gguf]'")


def check_config(name: str, config: Any) -> None:
    """Refuse a model that cannot be written.

    Args:
        name: What to call it in an error.
        config: The model's.

    Raises:
        UserError: If its architecture is another, or has parts that the file cannot say.
    """
    if config.model_type not in ARCHITECTURES:
        raise UserError(
            f"{name} has the architecture {config.model_type!r}, which cannot be written as GGUF; expected "
            f"{', '.join(ARCHITECTURES)}"
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    for is_other, what in (
        (config.attention_bias or config.mlp_bias, "biases"),
        (rope != "default", f"rotary positions of the kind {rope!r}"),
        (config.hidden_act != "silu", f"the activation {config.hidden_act!r}"),
    ):
        if is_other:
            raise UserError(f"{name} has {what}, which cannot be written as GGUF; fine-tune a checkpoint without")


def write_gguf(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, quantization: str, name: str) -> None:
    """Write a language model with its tokenizer and its chat template into one file.

    Beside it come `config.json`, `generation_config.json` and the tokenizer's own files, which transformers reads.

    Args:
        model: A Llama of transformers, in float32; an adapter is merged.
        tokenizer: Its tokenizer, byte-level BPE.
        folder: Where the files go.
        quantization: A key of `FILE_TYPES`. With 4 bits the embeddings, which are the output layer too where both are
            one, have 8. Vectors stay float32, and matrices whose rows are no whole number of blocks become float16.
        name: What the file calls the model.

    Raises:
        UserError: If the tokenizer is of another kind.
    """
    import gguf

    described = read_tokenizer(tokenizer)
    writer = gguf.GGUFWriter(folder / GGUF_FILE, model.config.model_type)
    _add_sizes(writer, model.config, quantization, name)
    _add_tokenizer(writer, tokenizer, described, model.config.vocab_size)
    _add_weights(writer, model, quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def read_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what the tokenizer's file needs: `merges`, and llama.cpp's name of how texts are cut, `split`.

    Raises:
        UserError: If the tokenizer is no byte-level BPE that llama.cpp knows.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{type(tokenizer).__name__} has no tokenizer.json, which a GGUF file is made of")
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model, cutting = described["model"], described["pre_tokenizer"] or {}
    steps = cutting.get("pretokenizers", [cutting])
    kept = [
        {key: value for key, value in step.items() if key not in ("trim_offsets", "add_prefix_space")}
        for step in steps
    ]
    split = next((split for split, known in _SPLITS.items() if known == kept), None)
    changes_text = described["normalizer"] is not None or any(step.get("add_prefix_space") for step in steps)
    if model["type"] != "BPE" or split is None or changes_text:
        raise UserError(
            f"the tokenizer ({model['type']}) cuts texts in a way that has no name in GGUF; expected byte-level "
            f"BPE as {', '.join(_SPLITS)} has it"
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"merges": merges, "split": split}


def _add_sizes(writer: gguf.GGUFWriter, config: Any, quantization: str, name: str) -> None:
    import gguf

    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, described: dict[str, Any], vocabulary: int
) -> None:
    """Write tokens, merges and marks; rows of the embeddings without a token get a name that no text has."""
    import gguf

    if len(tokenizer) > vocabulary:
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens and the model {vocabulary:,}; train the run again"
        )
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    for place, token in tokenizer.added_tokens_decoder.items():
        kinds[place] = gguf.TokenType.CONTROL if token.special else gguf.TokenType.USER_DEFINED
    unused = vocabulary - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(described["split"])
    writer.add_token_list([*tokens, *(f"[PAD{place}]" for place in range(len(tokens), vocabulary))])
    writer.add_token_types([*kinds, *[gguf.TokenType.UNUSED] * unused])
    writer.add_token_merges(described["merges"])
    for add, token in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if token is not None:
            add(token)
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    writer.add_add_bos_token(begins)
    if template := tokenizer.chat_template:
        from startup_llm.tasks.text_generation.chat_templates import find_end_of_turn

        writer.add_chat_template(template)
        writer.add_eot_token_id(find_end_of_turn(tokenizer))


def _add_weights(writer: gguf.GGUFWriter, model: Any, quantization: str) -> None:
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weight.float().cpu().numpy()
        module = key.split(".")[-2]
        if module in heads:
            values = interleave_halves(values, heads[module])
        name = names.get_name(key, try_suffixes=(".weight",))
        kind = _choose_type(values, quantization, is_table=module in ("embed_tokens", "lm_head"))
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def interleave_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Put rows of queries or keys into llama.cpp's order: it rotates pairs of neighbours, transformers of halves.

    Args:
        values: Shape (heads * width, inputs).
        heads: Of queries or keys.
    """
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _choose_type(values: np.ndarray, quantization: str, *, is_table: bool) -> gguf.GGMLQuantizationType:
    import gguf

    kinds = gguf.GGMLQuantizationType
    if values.ndim == 1:
        return kinds.F32
    if values.shape[-1] % BLOCK:
        return kinds.F16
    return kinds.Q8_0 if is_table and quantization.startswith("q4") else kinds[quantization.upper()]


def load_gguf(folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a file that was written, its tokenizer and chat template too, by transformers; the weights become float32.

    The file is loaded alone. How much is written and where it ends, which it does not say, is read beside it.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    from startup_llm.models.gguf import load_gguf_tokenizer
    from startup_llm.tasks.text_generation.continuation import ANSWER_LIMIT

    with tempfile.TemporaryDirectory(prefix="startup-llm-") as alone, contextlib.redirect_stderr(io.StringIO()):
        file = Path(alone, GGUF_FILE)  # bars of the conversion go to stderr whatever is asked for
        file.symlink_to((folder / GGUF_FILE).resolve())
        model = AutoModelForCausalLM.from_pretrained(alone, gguf_file=GGUF_FILE, dtype="float32")
        tokenizer = load_gguf_tokenizer(file)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    setattr(model.config, ANSWER_LIMIT, read_json_object(folder / "config.json").get(ANSWER_LIMIT))
    return model.eval(), tokenizer
