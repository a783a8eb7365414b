"""The honest baselines: what a model has to beat to be worth its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.evaluation.text_baselines import (
    answer_conversations,
    predict_copy,
    predict_first_sentences,
    predict_most_frequent_target,
    predict_word_by_word,
)
from startup_llm.tasks.audio.baselines import (
    predict_any_recording,
    predict_mel_statistics_svm,
    predict_most_frequent_text,
    predict_same_text_recording,
)
from startup_llm.tasks.question_answering.baselines import (
    predict_no_answer,
    predict_overlap_sentence,
    predict_sliding_window,
)
from startup_llm.tasks.sentence_similarity.retrieval import predict_bm25, predict_tfidf_cosine, predict_word_overlap
from startup_llm.tasks.text_generation.language_modelling import predict_sixgram, predict_trigram, predict_unigram
from startup_llm.tasks.token_classification.baselines import predict_linear_tagger, predict_most_frequent_tag
from startup_llm.tasks.vision.baselines import predict_components_nearest_pixels, predict_mean_boxes

if TYPE_CHECKING:
    from datasets import DatasetDict

    from startup_llm.data.task_data import TaskData


def predict_baselines(names: Sequence[str], data: TaskData) -> dict[str, Sequence[Any]]:
    """Fit each baseline on the training rows and predict the test rows.

    Args:
        names: Keys of `BASELINES`.
        data: The task's rows.

    Returns:
        Predictions per name, in the form that the task decides in.
    """
    return {name: BASELINES[name](data.splits, data) for name in names}


def join_pairs(rows: Any) -> list[str]:
    """Return each row's text, a pair's two texts joined by a line break."""
    if "text_pair" in rows.column_names:
        return [f"{a}\n{b}" for a, b in zip(rows["text"], rows["text_pair"], strict=True)]
    return list(rows["text"])


def predict_majority(splits: DatasetDict, data: TaskData) -> np.ndarray:
    """Answer with the most frequent class; for a target in numbers, with its mean."""
    from sklearn.dummy import DummyClassifier, DummyRegressor

    model = DummyRegressor() if data.problem_type == "regression" else DummyClassifier(strategy="most_frequent")
    labels = np.asarray(splits["train"]["label"])
    return model.fit(np.zeros((len(labels), 1)), labels).predict(np.zeros((len(splits["test"]), 1)))


def predict_tfidf_linear_svm(splits: DatasetDict, data: TaskData) -> np.ndarray:
    """Answer by TF-IDF over words and word pairs, and a linear support vector machine (Joachims 1998)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC, LinearSVR

    machine = {
        "single_label_classification": LinearSVC,
        "multi_label_classification": lambda: OneVsRestClassifier(LinearSVC()),
        "regression": lambda: LinearSVR(max_iter=10_000),
    }[data.problem_type]()
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), machine)
    model.fit(join_pairs(splits["train"]), np.asarray(splits["train"]["label"]))
    return model.predict(join_pairs(splits["test"]))


def predict_nearest_pixels(splits: DatasetDict, data: TaskData) -> np.ndarray:
    """Answer as most of the 5 training images do whose pixels are nearest, all shrunk to at most 32x32 pixels."""
    from sklearn.neighbors import KNeighborsClassifier

    from startup_llm.tasks.vision.labelled_images import read_images

    side = min(32, *(min(image.size) for image in read_images(splits["train"])))

    def read_pixels(rows: Any) -> np.ndarray:
        return np.stack([np.asarray(image.resize((side, side)), np.float32).ravel() for image in read_images(rows)])

    model = KNeighborsClassifier(min(5, len(splits["train"])))
    model.fit(read_pixels(splits["train"]), np.asarray(splits["train"]["label"]))
    return model.predict(read_pixels(splits["test"]))


BASELINES: dict[str, Callable[[DatasetDict, TaskData], Sequence[Any]]] = {
    "majority": predict_majority,
    "tfidf-linear-svm": predict_tfidf_linear_svm,
    "nearest-pixels": predict_nearest_pixels,
    "mean-boxes": predict_mean_boxes,
    "components-nearest-pixels": predict_components_nearest_pixels,
    "mel-statistics-svm": predict_mel_statistics_svm,
    "most-frequent-text": predict_most_frequent_text,
    "any-recording": predict_any_recording,
    "same-text-recording": predict_same_text_recording,
    "most-frequent-tag": predict_most_frequent_tag,
    "linear-tagger": predict_linear_tagger,
    "bm25": predict_bm25,
    "tfidf-cosine": predict_tfidf_cosine,
    "word-overlap": predict_word_overlap,
    "overlap-sentence": predict_overlap_sentence,
    "sliding-window": predict_sliding_window,
    "no-answer": predict_no_answer,
    "copy": answer_conversations(predict_copy),
    "word-by-word": answer_conversations(predict_word_by_word),
    "first-sentence": answer_conversations(predict_first_sentences(1)),
    "first-three-sentences": answer_conversations(predict_first_sentences(3)),
    "most-frequent-answer": answer_conversations(predict_most_frequent_target),
    "character-unigram": predict_unigram,
    "character-trigram": predict_trigram,
    "character-sixgram": predict_sixgram,
}
"""From the splits and what is known of their labels to predictions on the test rows."""
