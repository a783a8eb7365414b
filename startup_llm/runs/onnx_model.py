"""A model in ONNX form with its tokenizer, which answers without torch and transformers.

numpy, tokenizers and onnxruntime are all that is imported of others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from startup_llm.data.batching import split_by_length
from startup_llm.errors import UserError
from startup_llm.plain_data import read_json_object

ONNX_FILE = "model.onnx"
ONNX_SETTINGS = "onnx.json"
"""Beside the model: its length limit, its padding, and the type of its weights."""
TOKENS_PER_BATCH = 512
"""Padded tokens that are computed at once: enough to fill two to eight cores, small enough for their caches."""


def holds_onnx(folder: Path) -> bool:
    """Return whether a folder holds an exported model."""
    return (folder / ONNX_FILE).is_file() and (folder / ONNX_SETTINGS).is_file()


class OnnxModel:
    """A text model, from texts to its outputs.

    Args:
        folder: Of `model.onnx`, `onnx.json`, `config.json` and `tokenizer.json`.
        threads: That compute; default one for each core that this process may use.

    Attributes:
        config: What the model's config.json says of its labels: `id2label`, `num_labels`, `problem_type`, `decision`,
            `label_thresholds`.
        weights: float32 or int8.

    Raises:
        UserError: If a file is missing or broken, or onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        folder = Path(folder)
        settings = read_json_object(folder / ONNX_SETTINGS)
        self.config = _read_labels(read_json_object(folder / "config.json"))
        self.weights: str = settings["weights"]
        self._pad_id, self._pad_type = settings["pad_token_id"], settings["pad_token_type_id"]
        self._max_length: int = settings["max_length_tokens"]
        self._tokenizer = _load_tokenizer(folder / "tokenizer.json", self._max_length)
        self._session = _open_session(folder / ONNX_FILE, threads)
        self._inputs = [part.name for part in self._session.get_inputs()]

    def tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Any]:
        """Return the encoding of each text, or pair of texts, cut to the model's length."""
        return self._tokenizer.encode_batch(list(texts) if pairs is None else list(zip(texts, pairs, strict=True)))

    def tokenize_words(self, sentences: Sequence[Sequence[str]], shared: float) -> list[list[Any]]:
        """Return the windows of each list of words, none longer than the model's length.

        Args:
            sentences: Words.
            shared: Share of a window that the next one repeats.
        """
        room = max(self._max_length - self._tokenizer.num_special_tokens_to_add(is_pair=False), 0)
        self._tokenizer.enable_truncation(self._max_length, stride=int(shared * room))
        encodings = self._tokenizer.encode_batch([list(words) for words in sentences], is_pretokenized=True)
        return [[encoding, *encoding.overflowing] for encoding in encodings]

    def compute(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[np.ndarray]:
        """Return the model's output for each text, rows of like length computed together.

        Args:
            texts: The texts.
            pairs: The second text of each, where the model compares two.

        Returns:
            float32, shape (labels,) each.
        """
        return self.compute_encodings(self.tokenize(texts, pairs))

    def compute_encodings(self, encodings: Sequence[Any]) -> list[np.ndarray]:
        """Return the model's output for each encoding, in their order: of the text, or of each of its tokens."""
        outputs: list[np.ndarray | None] = [None] * len(encodings)
        lengths = np.array([len(encoding.ids) for encoding in encodings], dtype=np.int64)
        for places in split_by_length(lengths, TOKENS_PER_BATCH):
            inputs = self.pad([encodings[place] for place in places])
            for place, output in zip(places, self._session.run(None, inputs)[0], strict=True):
                outputs[place] = output[: len(encodings[place].ids)] if output.ndim > 1 else output
        return outputs

    def pad(self, encodings: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return the inputs of encodings by name, shape (rows, longest) each, padded on the right."""
        length = max(len(encoding.ids) for encoding in encodings)
        filled = {"input_ids": self._pad_id, "attention_mask": 0, "token_type_ids": self._pad_type}
        inputs = {name: np.full((len(encodings), length), filled[name], np.int64) for name in self._inputs}
        for row, encoding in enumerate(encodings):
            values = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask}
            values["token_type_ids"] = encoding.type_ids
            for name, array in inputs.items():
                array[row, : len(encoding.ids)] = values[name]
        return inputs


def _read_labels(config: dict[str, Any]) -> SimpleNamespace:
    names = {int(place): name for place, name in (config.get("id2label") or {}).items()}
    return SimpleNamespace(
        id2label=names,
        num_labels=len(names),
        problem_type=config.get("problem_type"),
        decision=config.get("decision"),
        label_thresholds=config.get("label_thresholds"),
    )


def _load_tokenizer(file: Path, max_length: int) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no class of its own
        raise UserError(f"{file} is no tokenizer ({error}); export the run again") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def import_onnxruntime() -> Any:
    """Import the library without its telemetry: its builds for Linux write an id of the machine and send events.

    Raises:
        UserError: If it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded
    try:
        import onnxruntime
    except ImportError:
        raise UserError("an export is computed by onnxruntime; pip install 'startup-llm[export]'") from None
    return onnxruntime


def _open_session(file: Path, threads: int | None) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = threads or (int(asked) if asked.isdigit() else 0) or len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's errors share no class
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{file} is no model that onnxruntime can load ({reason:.100}); export the run again"
        ) from None
