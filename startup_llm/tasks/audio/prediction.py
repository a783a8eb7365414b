"""How recordings are answered, by a label or a text, and how a text is spoken."""

from __future__ import annotations

import base64
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.tasks.audio.sound_files import read_audio, write_wav
from startup_llm.tasks.audio.spectrograms import SAMPLING_RATE
from startup_llm.tasks.audio.speech_synthesis import build_vocoder, is_waveform_model, speak_texts
from startup_llm.tasks.prediction import LabelPredictor, Predictor

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor

    from startup_llm.data.task_data import TaskData
    from startup_llm.tasks.audio.base import AudioTask

SPEECH_FOLDER = "speech"
"""Folder of a run with a sound for each test row, and metadata.csv with file_name and text."""


class RecordingPredictor(Predictor):
    """Answers sound files."""

    columns = ("audio",)
    reads_files = True

    def find_fault(self, column: str, value: Any) -> str | None:
        """Return why a path leads to no usable recording."""
        if (fault := super().find_fault(column, value)) is None:
            try:
                read_audio(Path(value).read_bytes())
            except UserError as error:
                fault = f"names {value}: {error}"
        return fault


class RecordingLabelPredictor(RecordingPredictor, LabelPredictor):
    """Answers a recording with a label."""


class TranscriptPredictor(RecordingPredictor):
    """Answers a recording with the text that is spoken in it."""

    task: AudioTask

    def encode(self, rows: Dataset, processor: Any) -> Dataset:
        """Encode recordings, a long one in windows where the model has one."""
        import datasets

        return datasets.Dataset.from_dict(self.task.encode_recordings(rows, processor, windows=True)[0])

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return the texts."""
        return [{"text": text} for text in join_windows(outputs, encoded, len(rows))]

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return {"text": ""}


class SpeechPredictor(Predictor):
    """Answers a text with a sound in which it is spoken."""

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return spectrograms, or the samples of a model that writes them itself, each shape (samples,)."""
        return speak_texts(model, batch)

    def write_files(self, folder: Path, data: TaskData, outputs: Sequence[np.ndarray], processor: Any) -> list[Path]:
        """Write what was spoken as WAV files, with the texts in metadata.csv, for a recogniser to listen to."""
        vocode, place = build_vocoder(processor.feature_extractor), folder / SPEECH_FOLDER
        place.mkdir(exist_ok=True)
        with (place / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["file_name", "text"])
            for number, (text, frames) in enumerate(zip(data.splits["test"]["text"], outputs, strict=True)):
                name = f"{number:04d}.wav"
                (place / name).write_bytes(write_wav(vocode(frames), SAMPLING_RATE))
                table.writerow([name, text])
        return sorted(place.iterdir())

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return WAV files in base64."""
        if is_waveform_model(config):
            sounds, rate = outputs, config.sampling_rate
        else:
            sounds, rate = list(map(build_vocoder(processor.feature_extractor), outputs)), SAMPLING_RATE
        return [{"wav_base64": base64.b64encode(write_wav(samples, rate)).decode("ascii")} for samples in sounds]

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return {"wav_base64": ""}


def join_windows(outputs: Sequence[np.ndarray], encoded: Dataset, rows: int) -> list[str]:
    """Return one text per raw row, those of its windows joined by blanks."""
    texts: list[list[str]] = [[] for _ in range(rows)]
    for row, output in zip(encoded["_row"], outputs, strict=True):
        texts[row] += [str(output)] if str(output) else []
    return [" ".join(parts) for parts in texts]
