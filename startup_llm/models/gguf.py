"""A checkpoint in a GGUF file, converted once into a folder that every loader reads: safetensors and a tokenizer."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from startup_llm.models.hashes import compute_sha256

CONVERSION = "conversion.json"
"""In a converted folder: the hashes of the GGUF file and of the weights that were made of it."""
_WRITER_FIELDS = ("_model_name_or_path", "transformers_version", "is_local", "local_files_only")


def find_cache_folder() -> Path:
    """Return the folder of what is kept between runs.

    It is `STARTUP_LLM_CACHE`, else `startup_llm` in `XDG_CACHE_HOME`, else `~/.cache/startup_llm`.
    """
    if own := os.environ.get("STARTUP_LLM_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "startup_llm"


def convert_once(file: Path, sha256: str, name: str, card: str) -> tuple[Path, str]:
    """Convert a GGUF file to float32 safetensors in the cache, where that is not done yet.

    Several processes may ask at once: one converts, the others wait. The folder is written under another name and
    renamed, so that it is there whole or not at all. One whose weights were damaged since is made again.

    Args:
        file: The GGUF file of a language model.
        sha256: Its hash.
        name: The checkpoint's Hub id, by which the folder is called.
        card: README.md of the folder.

    Returns:
        The folder, and the SHA-256 of its weights.

    Raises:
        ImportError: If the package gguf is missing.
        OSError: If the cache cannot be written.
    """
    from filelock import FileLock

    folder = find_cache_folder() / "checkpoints" / f"{name.replace('/', '--')}-{sha256[:12]}"
    if weights_sha256 := _check_converted(folder):
        return folder, weights_sha256
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if weights_sha256 := _check_converted(folder):  # another process was first
            return folder, weights_sha256
        for rest in (folder, *folder.parent.glob(f"{folder.name}.part-*")):  # of a process that was killed
            shutil.rmtree(rest, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
        try:
            _convert(file, part)
            (part / "README.md").write_text(card, encoding="utf-8")
            weights_sha256 = compute_sha256([part / "model.safetensors"])
            record = {"gguf_sha256": sha256, "weights_sha256": weights_sha256}
            (part / CONVERSION).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            part.chmod(0o755)  # mkdtemp's is for its owner alone
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder, weights_sha256


def _check_converted(folder: Path) -> str | None:
    """Return the hash of a converted folder's weights; None where it is missing or damaged."""
    try:
        expected = json.loads((folder / CONVERSION).read_text(encoding="utf-8"))["weights_sha256"]
        return expected if compute_sha256([folder / "model.safetensors"]) == expected else None
    except (OSError, ValueError, KeyError):
        return None


def _convert(file: Path, folder: Path) -> None:
    """Write config, weights, tokenizer and chat template of a GGUF file."""
    if importlib.util.find_spec("gguf") is None:  # transformers would log several lines
        raise ImportError("the package gguf is not installed")
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
    model.hf_quantizer, model.is_quantized = None, False  # its weights are plain float32 now, but it would not save
    model.config.__dict__.pop("quantization_config", None)
    tokenizer = load_gguf_tokenizer(file)
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        _drop_writer_fields(folder / name)


def load_gguf_tokenizer(file: Path) -> Any:
    """Load the tokenizer of a GGUF file, which cuts texts as `tokenizer.ggml.pre` says: transformers does not read it.

    Of its values "smollm" is known: each digit stands alone before the byte-level split.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


def _drop_writer_fields(file: Path) -> None:
    """Take out what tells of the writer alone, so that other versions write the same bytes."""
    values = json.loads(file.read_text(encoding="utf-8"))
    kept = {name: value for name, value in values.items() if name not in _WRITER_FIELDS}
    file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
