"""What the tasks that listen have in common: how a recording is encoded, batched, answered and shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.audio.recordings import read_bytes, read_recordings
from startup_llm.tasks.audio.sound_files import measure_seconds, read_audio
from startup_llm.tasks.audio.spectrograms import SAMPLING_RATE, draw_spectrograms
from startup_llm.tasks.audio.speech_models import (
    FRAMES_PER_SECOND,
    compute_logits,
    measure_window_seconds,
    needs_rows_apart,
)
from startup_llm.tasks.base import Collator, Data, Model, Task, Truncation

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

KEPT_BYTES = 256 * 1024**2
"""Room for features that a collator keeps from one epoch to the next."""


class AudioTask(Task[Data, Model]):
    """A column audio: a sound file's path, or the file as `datasets.Audio` keeps it, not decoded."""

    peft_task_type = None
    reads_text = False

    def feature_extractor(self, processor: Any) -> Any:
        """Return what turns samples into numbers: the processor, or its part."""
        return getattr(processor, "feature_extractor", processor)

    def encode_recordings(
        self, rows: Dataset, processor: Any, *, windows: bool = False
    ) -> tuple[dict[str, list[Any]], Truncation]:
        """Leave the files as they are, for the collator to decode: features take far more room.

        Args:
            rows: Rows with audio, and seconds where they are known.
            processor: The feature extractor, or what holds it.
            windows: Cut a recording that is longer than the model's window into several rows instead of at its end.

        Returns:
            Columns: the file with the second to start at, named as the model names its input; length in frames;
            `_row`, the place of the raw row. And what was cut.
        """
        extractor = self.feature_extractor(processor)
        window = measure_window_seconds(extractor)
        if "seconds" in rows.column_names:
            lengths = list(rows["seconds"])
        else:
            lengths = [measure_seconds(read_bytes(value)) for value in rows["audio"]]
        files, frames, owners = [], [], []
        for row, (value, seconds) in enumerate(zip(rows["audio"], lengths, strict=True)):
            file = {"bytes": None, "path": value} if isinstance(value, str) else dict(value)
            starts = np.arange(0.0, seconds, window) if windows and window else [0.0]
            for start in starts:
                files.append({**file, "start": float(start)})
                frames.append(max(1, round((window or seconds) * FRAMES_PER_SECOND)))
                owners.append(row)
        lost = 0.0 if windows or not window else sum(max(0.0, seconds - window) for seconds in lengths)
        cut = 0 if windows or not window else sum(seconds > window for seconds in lengths)
        truncation = Truncation(cut, cut / len(lengths), lost / sum(lengths))
        return {extractor.model_input_names[0]: files, "length": frames, "_row": owners}, truncation

    def build_collator(self, processor: Any) -> Collator:
        """Decode a batch's recordings and compute their features, each once while there is room."""
        tokenizer = getattr(processor, "tokenizer", None)
        return RecordingCollator(self.feature_extractor(processor), tokenizer)


def name_recordings(rows: Dataset) -> list[str]:
    """Name each recording by its file and row."""
    paths = [Path(value["path"] or "").name for value in rows["audio"]]
    return [f"{path or 'recording'} (row {row})" for path, row in zip(paths, rows["row"], strict=True)]


def show_recordings(rows: Dataset, places: Sequence[int], title: str, captions: Sequence[str]) -> list[dict[str, Any]]:
    """Return spectrograms of some rows for the report's gallery.

    Args:
        rows: Raw rows.
        places: Which of them.
        title: What they show.
        captions: One for each.
    """
    shown = rows.select(places)
    return [
        {
            "title": title,
            "kind": "image",
            "png_base64": draw_spectrograms([samples], [name]),
            "caption": caption,
        }
        for samples, name, caption in zip(
            read_recordings(shown, SAMPLING_RATE), name_recordings(shown), captions, strict=True
        )
    ]


def split_batch(batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Return the model's inputs of a batch without labels, and the length of each row's features."""
    return {name: values for name, values in batch.items() if name != "row_lengths"}, batch["row_lengths"]


def compute_frame_logits(model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
    """Return the logits of each frame of each row, shape (frames, letters), of a model with CTC."""
    inputs, lengths = split_batch(batch)
    logits = compute_logits(model, inputs, lengths, apart=needs_rows_apart(processor.feature_extractor))
    frames = model._get_feat_extract_output_lengths(lengths).tolist()
    return [row[: int(count)].float().cpu().numpy() for row, count in zip(logits, frames, strict=True)]


class RecordingCollator:
    """Makes a batch of recordings: features, a mask where the model takes one, and labels where the rows have them.

    Rows without labels come with `row_lengths`, by which a task tells a row's outputs from those of its padding.

    Args:
        extractor: Turns samples into features.
        tokenizer: Of the texts that are the labels; None where labels are classes.
    """

    def __init__(self, extractor: Any, tokenizer: Any = None) -> None:
        self.extractor, self.tokenizer = extractor, tokenizer
        self._name = extractor.model_input_names[0]
        self._window = measure_window_seconds(extractor)
        self._masked = self._window is None and not needs_rows_apart(extractor)
        self._known: dict[tuple[Any, float], tuple[np.ndarray, np.ndarray]] = {}
        self._free_bytes = KEPT_BYTES

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the model's inputs."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        features, masks = zip(*(self._compute(row[self._name]) for row in rows), strict=True)
        batch = {self._name: pad_sequence(list(map(torch.from_numpy, features)), batch_first=True)}
        if self._masked:
            batch["attention_mask"] = pad_sequence(list(map(torch.from_numpy, masks)), batch_first=True)
        if "labels" not in rows[0]:
            batch["row_lengths"] = torch.tensor(list(map(len, features)))
        elif self.tokenizer is None:
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        else:
            labels = [torch.tensor(row["labels"]) for row in rows]
            batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=-100)
        return batch

    def _compute(self, value: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return a recording's features, float32, and their mask, int64, as its feature extractor makes them."""
        key = (value["bytes"] or value["path"], value["start"])
        features_and_mask = self._known.get(key)
        if features_and_mask is None:
            rate = self.extractor.sampling_rate
            first = round(value["start"] * rate)
            last = None if self._window is None else first + round(self._window * rate)
            samples = read_audio(read_bytes(value), rate)[first:last]
            wanted = {"return_attention_mask": True} if self._masked else {}
            extracted = self.extractor(samples, sampling_rate=rate, **wanted)
            features = np.asarray(extracted[self._name][0], np.float32)
            mask = extracted["attention_mask"][0] if self._masked else np.ones(0)
            features_and_mask = features, np.asarray(mask, np.int64)
            if features.nbytes <= self._free_bytes:
                self._free_bytes -= features.nbytes
                self._known[key] = features_and_mask
        return features_and_mask
