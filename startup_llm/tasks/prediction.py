"""How a task answers rows that have no label: what predict.py asks of it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.rows_to_predict import find_file_fault, find_text_fault
from startup_llm.errors import UserError
from startup_llm.evaluation.decisions import (
    ClassifiedRows,
    Decision,
    ScoredAnswers,
    answer_labels,
    compute_probabilities,
)
from startup_llm.evaluation.probabilities import compute_softmax

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset
    from torch import Tensor

    from startup_llm.config import AnswerConfig, EvaluationConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.out_of_scope import Detector
    from startup_llm.tasks.base import Task


class Predictor(ABC):
    """Answers rows as the task's pipeline would.

    Args:
        task: The task.

    Attributes:
        columns: What a row holds, as `encode` reads it; text_pair may be missing.
        reads_files: Whether a row is a file: its column then holds absolute paths.
        embeds: Whether the model's output for a row with a text alone is that text's vector.
        samples_texts: Whether answers are texts that may be drawn at random and stopped.
        exported: Whether answers are made of what a model in ONNX form computes, without torch.
        packages: What that imports of others beside numpy and tokenizers.
        explained: What `explain` adds to an answer, with every key; None where answers are not explained.
    """

    columns: tuple[str, ...] = ("text",)
    reads_files = False
    embeds = False
    samples_texts = False
    exported = False
    packages: tuple[str, ...] = ()
    explained: Mapping[str, Any] | None = None

    def __init__(self, task: Task) -> None:
        self.task = task

    def has_confidence(self, data: TaskData) -> bool:
        """Return whether `score_answers` gives each answer a confidence, by which it may go to a person."""
        return self.task.has_one_label(data)

    def score_answers(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> ScoredAnswers:
        """Return how sure each answer is, and whether it is right; called where `has_confidence`.

        Args:
            outputs: One per encoded row.
            encoded: The encoded rows.
            rows: The raw rows.
            data: What is known of the labels.
        """
        return ClassifiedRows(np.asarray(outputs), np.asarray(self.task.references(rows)))

    def find_fault(self, column: str, value: Any) -> str | None:
        """Return what is wrong with a row, such as "has no text"; None where it can be answered.

        Args:
            column: One of `columns`.
            value: The row's value there.
        """
        return (find_file_fault if self.reads_files else find_text_fault)(value)

    def prepare(
        self, config: AnswerConfig, folder: Path, processor: Any, embed: Callable[[Sequence[str]], np.ndarray]
    ) -> str | None:
        """Read what answers are taken from besides the model, such as texts to search.

        Args:
            config: The options of predict.py.
            folder: The run's, or a checkpoint's.
            processor: What encodes rows.
            embed: From texts to their vectors at norm 1, shape (texts, width), of a model that makes such.

        Returns:
            A sentence about it to log, or None.

        Raises:
            UserError: If an option of a search is given and nothing is searched.
        """
        for name in ("corpus", "matches"):
            if (value := getattr(config, name)) != getattr(type(config), name):
                raise UserError(f"{name} {value}: {self.task.tag} searches no texts; leave it out")
        return None

    def encode(self, rows: Dataset, processor: Any) -> Dataset:
        """Turn rows of `columns` into the model's inputs, as `Task.encode` does."""
        return self.task.encode(rows, processor)[0]

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return what `answer` reads, for each row of a batch: the model's outputs, or a text that it writes.

        Behind the logits of a model that tells inputs out of scope stands how well the row is in scope.
        """
        if getattr(model, "out_of_scope", None) is None:
            return self.task.compute_outputs(model, batch, processor)
        from startup_llm.models.sequence_classifier import capture_features, pool_features

        with capture_features(model) as seen:
            logits = self.task.compute_outputs(model, batch, processor)
            features = pool_features(seen, batch, model.config.pad_token_id).cpu().numpy()
        return append_scope(model, logits, features)

    def show_answer(
        self, text: str, model: Any, processor: Any, write: Callable[[str], object], compute: Callable[[Dataset], Any]
    ) -> None:
        """Answer one text on the console.

        Args:
            text: The text.
            model: The run's.
            processor: What encodes it.
            write: Takes the answer, in one piece or several.
            compute: From encoded rows to the model's outputs.

        Raises:
            UserError: If it cannot be answered.
        """
        import datasets

        if self.columns[0] != "text" or self.reads_files:
            raise UserError(f"--text: {self.task.tag} reads {', '.join(self.columns)}; give --input and --output")
        if fault := self.find_fault("text", text):
            raise UserError(f"--text {fault}")
        rows = datasets.Dataset.from_dict({"text": [text]})
        encoded = self.encode(rows, processor)
        answer = self.answer(compute(encoded), encoded, rows, processor, model.config)[0]
        write(json.dumps(answer, ensure_ascii=False) + "\n")

    def write_files(self, folder: Path, data: TaskData, outputs: Sequence[np.ndarray], processor: Any) -> list[Path]:
        """Write what belongs to a run beside its model: answers that are no numbers, or texts to search later.

        Args:
            folder: The run's.
            data: The rows that it was trained and tested on.
            outputs: Of the test split as `Task.encode_split` gives it.
            processor: What encoded it.

        Returns:
            The files.
        """
        return []

    @abstractmethod
    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return one dict of plain values per raw row, always with the same keys.

        Args:
            outputs: From `compute_outputs`, one per encoded row.
            encoded: From `encode`.
            rows: The raw rows.
            processor: What encoded them.
            config: The model's.
        """

    def list_questions(self, data: TaskData, split: str = "test") -> dict[str, list]:
        """Return a split's rows by column as `encode_exported` reads them, in the order of `Task.encode_split`."""
        rows = data.splits[split]
        return {name: list(rows[name]) for name in self.columns if name in rows.column_names}

    def encode_exported(self, model: Any, rows: Mapping[str, Sequence[Any]]) -> tuple[list, dict[str, list]]:
        """Return what a model in ONNX form computes of rows, by column, and the columns that `answer` reads of it.

        Args:
            model: What tokenizes.
            rows: In `columns`.
        """
        return model.tokenize(rows["text"], rows.get("text_pair")), {}

    def compute_exported(
        self, model: Any, rows: Mapping[str, Sequence[Any]]
    ) -> tuple[list[np.ndarray], dict[str, list]]:
        """Return the outputs of a model in ONNX form for rows, by column, and the columns that `answer` reads."""
        encodings, encoded = self.encode_exported(model, rows)
        return model.compute_encodings(encodings), encoded

    def answer_exported(
        self, model: Any, rows: Mapping[str, Sequence[Any]], config: Any
    ) -> tuple[list[dict[str, Any]], list[dict[str, float]] | None]:
        """Return the answers of a model in ONNX form to rows, by column, and each label's probability.

        Raises:
            UserError: If a row cannot be answered.
        """
        outputs, encoded = self.compute_exported(model, rows)
        columns: tuple[Any, Any] = encoded, rows  # both are read by column alone
        return self.answer(outputs, *columns, None, config), self.score_labels(outputs, config)

    def find_other_server(self, folder: Path) -> str | None:
        """Return the command of a server for what recipes/serve.py does not answer, such as chats; None for no such.

        Args:
            folder: The model's.
        """
        return None

    def score_labels(self, outputs: Sequence[np.ndarray], config: Any) -> list[dict[str, float]] | None:
        """Return the probability of every label, one dict per output; None where answers are no labels.

        Args:
            outputs: From `compute_outputs`.
            config: The model's.
        """
        return None

    def explain(
        self, model: Any, processor: Any, rows: Dataset, answers: Sequence[dict[str, Any]], plan: Any
    ) -> list[dict[str, Any]]:
        """Return the answers with what made them; called where `explained` says what that is.

        Args:
            model: The model.
            processor: What encodes rows.
            rows: The raw rows.
            answers: From `answer`.
            plan: Where the model is, and the numbers that it computes in.

        Raises:
            UserError: If captum cannot take the model.
        """
        raise NotImplementedError

    @abstractmethod
    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer with every key and no empty list, which tells a table's columns and their types."""

    def add_examples(
        self, data: TaskData, processor: Any, model: Any, evaluation: EvaluationConfig
    ) -> tuple[TaskData, Any] | None:
        """Put training rows with their answers before the test rows, for a model that is prompted instead of tuned.

        Args:
            data: The rows.
            processor: What encodes them.
            model: The checkpoint's.
            evaluation: How many examples.

        Returns:
            The data with such test rows, and a processor with room for them; None where no prompt has an answer.
        """
        return None


class LabelPredictor(Predictor):
    """Answers with the likeliest label and its probability; an output is the logits of the classes."""

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return label and score as the pipeline does, or as the decision in the model's config has it.

        A model that tells inputs out of scope adds `out_of_scope`.
        """
        return self.answer_outputs(outputs, config)

    def answer_outputs(self, outputs: Sequence[np.ndarray], config: Any) -> list[dict[str, Any]]:
        """Return the answers to logits, shape (labels,) each."""
        logits, flags = split_scope(outputs, config)
        if decision := Decision.read(config):
            return add_scope(answer_labels(logits, config.id2label, decision), flags)
        scores = compute_softmax(np.asarray(logits))
        answers = [
            {"label": config.id2label[int(best)], "score": float(row[best])}
            for row, best in zip(scores, scores.argmax(axis=1), strict=True)
        ]
        return add_scope(answers, flags)

    def score_labels(self, outputs: Sequence[np.ndarray], config: Any) -> list[dict[str, float]]:
        """Return the softmax of each row's logits, calibrated where the model's config has a decision."""
        temperature = (Decision.read(config) or Decision()).temperature
        return [
            name_scores(row, config) for row in compute_probabilities(split_scope(outputs, config)[0], temperature)
        ]

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return self.answer_outputs([build_example(config)], config)[0]


def append_scope(model: Any, logits: Sequence[np.ndarray], features: np.ndarray) -> list[np.ndarray]:
    """Return logits, and behind those of a model that tells inputs out of scope how well each row is in scope.

    Args:
        model: A run's.
        logits: Shape (labels,) each.
        features: What the output layer read, shape (rows, width).
    """
    detector: Detector | None = getattr(model, "out_of_scope", None)
    if detector is None:
        return list(logits)
    scores = detector.compute(np.stack(logits), features)
    return [np.append(row, score) for row, score in zip(logits, scores, strict=True)]


def split_scope(outputs: Sequence[np.ndarray], config: Any) -> tuple[list[np.ndarray], list[bool] | None]:
    """Return logits, and whether each row is out of scope; None where the model does not tell.

    Args:
        outputs: Logits, shape (labels,), or (labels + 1,) with how well the row is in scope behind them.
        config: The model's.
    """
    labels = len(config.id2label)
    if not len(outputs) or len(outputs[0]) == labels:
        return list(outputs), None
    threshold = config.out_of_scope["threshold"]
    return [row[:labels] for row in outputs], [bool(row[labels] < threshold) for row in outputs]


def add_scope(answers: list[dict[str, Any]], flags: list[bool] | None) -> list[dict[str, Any]]:
    """Return answers with whether each row is out of scope, where that is known."""
    if flags is None:
        return answers
    return [{**answer, "out_of_scope": flag} for answer, flag in zip(answers, flags, strict=True)]


def build_example(config: Any) -> np.ndarray:
    """Return an output of ones as `compute_outputs` gives it."""
    return np.ones(len(config.id2label) + (getattr(config, "out_of_scope", None) is not None), np.float32)


def name_scores(scores: np.ndarray, config: Any) -> dict[str, float]:
    """Return the scores of a row, shape (labels,), by the names of the labels."""
    return {config.id2label[place]: float(score) for place, score in enumerate(scores)}
