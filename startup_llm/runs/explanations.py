"""Why a run's model gave its answers: the words that made them, and the training rows that are most alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.text_reading import TEXTS
from startup_llm.errors import UserError
from startup_llm.tasks.explanation import (
    Explanation,
    explain_label,
    find_alike,
    judge_deletion,
    measure_deletion,
    require_captum,
)
from startup_llm.tasks.options import build_section

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.config import EvaluationConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.runs.prediction import AnsweringModel
    from startup_llm.tasks.base import Task
    from startup_llm.training.finetuning import Prepared

MOST_TRAINING_ROWS = 5_000
"""Training rows among which alike ones are looked for; of more, as many are drawn."""
DELETION_ROWS = 50
SEED = 0


@dataclass(frozen=True)
class KnownRows:
    """Training rows that an answer can be like.

    Attributes:
        rows: With row, text and label.
        labels: Names of the labels; empty for numbers.
        features: Of the rows, shape (rows, width).
    """

    rows: Dataset
    labels: Sequence[str]
    features: np.ndarray

    def list_alike(self, features: np.ndarray) -> list[list[dict[str, Any]]]:
        """Return for each row, shape (rows, width), the three most alike ones as plain data."""
        places, cosines = find_alike(features, self.features)
        return [
            [
                {**self._describe(int(place)), "cosine": round(float(cosine), 4)}
                for place, cosine in zip(*pair, strict=True)
            ]
            for pair in zip(places, cosines, strict=True)
        ]

    def _describe(self, place: int) -> dict[str, Any]:
        row = self.rows[place]
        label = row["label"]
        if isinstance(label, list):
            label = ", ".join(name for name, holds in zip(self.labels, label, strict=True) if holds)
        elif self.labels:
            label = self.labels[label]
        texts = [row[name] for name in TEXTS if name in row]
        return {"row": row["row"], **({"text": "\n".join(texts)} if texts else {}), "label": label}


def check_explained(task: Task) -> None:
    """Refuse what cannot be explained before anything that takes time.

    Raises:
        UserError: If the task's answers are not explained, or captum is missing.
    """
    if task.predictor.explained is None:
        kinds = "text-, token- and image-classification and of question-answering"
        raise UserError(f"explain: {task.tag}; answers of {kinds} alone are explained")
    require_captum()


class Explainer:
    """Explains the answers of a loaded model.

    Args:
        model: The model.
        results: Its run's; empty for a plain checkpoint, which has no training rows.
        find_alike: Whether training rows are read, to show those that are most alike.

    Attributes:
        note: Why no alike rows are shown, or None.
    """

    def __init__(self, model: AnsweringModel, results: Mapping[str, Any], *, find_alike: bool = True) -> None:
        check_explained(model.task)
        self._model = model
        self._known: KnownRows | None = None
        self.note: str | None = None
        probe = model.task.probe
        if not find_alike or probe is None or probe.per_token:
            return
        if not results:
            self.note = "alike training rows are not shown: a plain checkpoint has none"
            return
        try:
            data = model.task.read_data(build_section(model.task.tag, "data", results["config"]["data"]))
        except UserError as error:
            self.note = f"alike training rows are not shown, because they cannot be read: {error}"
            return
        rows = draw_known_rows(data.splits["train"])
        self._known = KnownRows(rows, data.label_names, self._compute_features(rows))

    def example(self) -> dict[str, Any]:
        """Return what `explain` adds to an answer, with every key and no empty list."""
        alike = {"row": 1, "text": "a text", "label": "a label", "cosine": 0.5}
        return {**(self._model.task.predictor.explained or {}), **({"alike": [alike]} if self._known else {})}

    def explain(self, rows: Dataset, answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the answers with the words that made them, and with the three training rows that are most alike.

        Args:
            rows: The raw rows, as the model reads them.
            answers: Theirs.
        """
        model = self._model
        explained = model.task.predictor.explain(model.model, model.processor, rows, answers, model.plan)
        if self._known is None:
            return explained
        alike = self._known.list_alike(self._compute_features(rows))
        return [{**answer, "alike": near} for answer, near in zip(explained, alike, strict=True)]

    def _compute_features(self, rows: Dataset) -> np.ndarray:
        return self._model.compute_with_features(self._model.task.encode(rows, self._model.processor)[0])[1]


def draw_known_rows(train: Dataset) -> Dataset:
    """Return the training rows, or of many as many as are looked through."""
    if len(train) <= MOST_TRAINING_ROWS:
        return train
    return train.select(np.sort(np.random.default_rng(SEED).permutation(len(train))[:MOST_TRAINING_ROWS]))


def explain_mistakes(
    prepared: Prepared, model: Any, outputs: Sequence[np.ndarray], predictions: Any, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Explain a run's worst mistakes, and measure on test rows whether explanations point at words that matter.

    Every process computes it.

    Args:
        prepared: The task and its rows.
        model: The trained model.
        outputs: Its logits of the test rows.
        predictions: What they say.
        evaluation: Whether explanations are asked for.

    Returns:
        The key `mistakes` of `results.json` with an explanation of each, and the key `explanation` with the deletion
        test; nothing where none is asked for.
    """
    data = prepared.data
    if not getattr(evaluation, "explain", False):
        return {}
    test, labels = data.splits["test"], list(data.label_names)
    mistakes = prepared.task.describe_errors(test, outputs, predictions, data)["mistakes"]
    by_number = {number: place for place, number in enumerate(test["row"])}
    places = [by_number[mistake["row"]] for mistake in mistakes]
    drawn = np.random.default_rng(SEED).permutation(len(test))[:DELETION_ROWS].tolist()
    answers = [int(np.argmax(outputs[place])) for place in drawn]

    def explain(place: int, label: int) -> Explanation:
        return explain_label(model, prepared.processor, _read_texts(test, place), label, prepared.plan)

    explained = [explain(place, label) for place, label in zip(drawn, answers, strict=True)]
    texts = [_read_texts(test, place) for place in drawn]
    deletion = measure_deletion(texts, explained, answers, lambda rows: _predict(prepared, model, rows), SEED)
    known = _list_known_rows(prepared, model)
    alike = known.list_alike(_compute_features(prepared, model, test.select(places))) if places else []
    reasons = [explain(place, labels.index(m["predicted"])) for place, m in zip(places, mistakes, strict=True)]
    agreements = [one.agreement for one in explained if one.agreement is not None]
    return {
        "mistakes": [
            {**mistake, "explanation": _mark_words(_read_texts(test, place), reason), "alike": rows}
            for mistake, place, reason, rows in zip(mistakes, places, reasons, alike, strict=True)
        ],
        "explanation": {
            "deletion": deletion,
            "sentence": judge_deletion(deletion),
            "completeness_error": float(np.median([one.completeness_error for one in explained])),
            "agreement": float(np.median(agreements)) if agreements else None,
        },
    }


def check_explanation(evaluation: EvaluationConfig, task: Task, data: TaskData) -> None:
    """Refuse explanations that are asked for and cannot be given, before the run starts.

    Raises:
        UserError: If captum is missing, or the rows have not one label each.
    """
    if not getattr(evaluation, "explain", False):
        return
    check_explained(task)
    if not task.has_one_label(data):
        raise UserError(f"evaluation.explain: expected rows with one label each, got {data.problem_type}")


def _mark_words(texts: Mapping[str, str], explanation: Explanation) -> list[dict[str, Any]]:
    """Return per text of the row the words that spoke for the answer, as the report marks them."""
    return [
        {
            "text": text,
            "words": [
                {"start": word.start, "end": word.end, "weight": round(word.weight, 4)}
                for word in explanation.words
                if word.column == column and word.weight > 0
            ],
        }
        for column, text in texts.items()
    ]


def _read_texts(rows: Dataset, place: int) -> dict[str, str]:
    row = rows[place]
    return {name: row[name] for name in TEXTS if name in row}


def _list_known_rows(prepared: Prepared, model: Any) -> KnownRows:
    train = draw_known_rows(prepared.data.splits["train"])
    return KnownRows(train, prepared.data.label_names, _compute_features(prepared, model, train))


def _compute_features(prepared: Prepared, model: Any, rows: Dataset) -> np.ndarray:
    from startup_llm.training.inference import extract_features

    task, processor = prepared.task, prepared.processor
    return extract_features(task, model, task.encode(rows, processor)[0], processor, prepared.plan)


def _predict(prepared: Prepared, model: Any, rows: list[dict[str, str]]) -> np.ndarray:
    """Return the probabilities of the labels of rows, shape (rows, labels)."""
    import datasets
    from scipy.special import softmax

    encoded, _ = prepared.task.encode(datasets.Dataset.from_list(rows), prepared.processor)
    return softmax(np.asarray(prepared.predict(model, encoded)), axis=1)
