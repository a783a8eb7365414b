"""Honest baselines for sound: the statistics of its spectrogram, and the text that is heard most."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from startup_llm.tasks.audio.recordings import read_recordings
from startup_llm.tasks.audio.spectrograms import SAMPLING_RATE, compute_log_mel, compute_speech_frames

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from startup_llm.data.task_data import TaskData


def predict_mel_statistics_svm(splits: DatasetDict, data: TaskData) -> np.ndarray:
    """Answer by mean, spread, least and most of each log-mel band over time, and of its change, and a linear SVM."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    model = make_pipeline(StandardScaler(), LinearSVC(C=0.1, max_iter=5000))
    model.fit(_describe(splits["train"]), np.asarray(splits["train"]["label"]))
    return model.predict(_describe(splits["test"]))


def predict_most_frequent_text(splits: DatasetDict, data: TaskData) -> list[str]:
    """Answer with the text that most training recordings have; of several the first by the alphabet."""
    counts = Counter(splits["train"]["text"])
    return [min(counts, key=lambda text: (-counts[text], text))] * len(splits["test"])


def predict_any_recording(splits: DatasetDict, data: TaskData) -> list[list[list[float]]]:
    """Answer with the training recordings in turn, whatever is said in them."""
    rows = len(splits["train"])
    return _read_frames(splits["train"], [place % rows for place in range(len(splits["test"]))])


def predict_same_text_recording(splits: DatasetDict, data: TaskData) -> list[list[list[float]]]:
    """Answer with a training recording of the same text: how far two recordings of a person are apart.

    It is no rival but a measure of what can be reached; a text that was never recorded gets any recording.
    """
    places = {text: place for place, text in enumerate(splits["train"]["text"])}
    return _read_frames(splits["train"], [places.get(text, 0) for text in splits["test"]["text"]])


def _read_frames(rows: Dataset, places: list[int]) -> list[list[list[float]]]:
    frames_of_row = {}
    for place in sorted(set(places)):
        samples = next(read_recordings(rows.select([place]), SAMPLING_RATE))
        frames_of_row[place] = compute_speech_frames(samples).round(2).tolist()
    return [frames_of_row[place] for place in places]


def _describe(rows: Dataset) -> np.ndarray:
    """Return the statistics of each row, shape (rows, 8 * bands)."""
    statistics = []
    for samples in read_recordings(rows, SAMPLING_RATE):
        bands = compute_log_mel(samples)
        change = np.diff(bands, axis=0)
        kinds = (np.mean, np.std, np.min, np.max)
        statistics.append(np.concatenate([kind(values, axis=0) for values in (bands, change) for kind in kinds]))
    return np.stack(statistics)
