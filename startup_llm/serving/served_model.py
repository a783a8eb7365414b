"""A run's model as the server asks it: what a request's rows may be, their answers, and what is known of the run."""

from __future__ import annotations

import base64
import binascii
import copy
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import ServeConfig
from startup_llm.errors import UserError, nearest
from startup_llm.runs.explanations import Explainer, check_explained
from startup_llm.runs.onnx_model import holds_onnx
from startup_llm.runs.prediction import (
    AnsweringModel,
    find_run,
    follow_run,
    list_trained_columns,
    load_answering_model,
)

if TYPE_CHECKING:
    from startup_llm.tasks.base import Task

SHOWN_EXAMPLES = 2
"""Rows of the run's test that the documentation of the interface shows."""


@dataclass(frozen=True)
class Row:
    """A checked row of a request.

    Attributes:
        values: By the names that the task's predictor reads.
        embed: Whether its vector is asked for, and not its answer.
    """

    values: Mapping[str, Any]
    embed: bool = False

    @property
    def kind(self) -> tuple:
        """What rows that are computed together have in common."""
        return self.embed, tuple((name, type(value)) for name, value in self.values.items())


@dataclass(frozen=True)
class RowResult:
    """What was computed for a row.

    Attributes:
        answer: As predict.py writes it; empty where the vector was asked for.
        scores: Probability of each label; None where the task has none.
        vector: Embedding at norm 1, shape (width,); None where the answer was asked for.
        tokens: Tokens that were read for the vector.
    """

    answer: dict[str, Any]
    scores: dict[str, float] | None = None
    vector: np.ndarray | None = None
    tokens: int = 0


@dataclass(frozen=True)
class ServedModel:
    """A loaded run.

    Attributes:
        run: Its folder.
        named: The folder as it was named, perhaps a link to it.
        model: What answers.
        results: The run's; empty for a plain checkpoint.
        columns: What a row may hold -> whether it must; the first one may stand alone as the row itself.
        names: Further names of the columns: those that the run was trained with.
        note: A sentence about what answers are taken from besides the model, or None.
        shows_training_rows: Whether explanations name the training rows that are most alike.
    """

    run: Path
    model: AnsweringModel
    results: Mapping[str, Any]
    columns: Mapping[str, bool]
    names: Mapping[str, str]
    named: str
    note: str | None = None
    shows_training_rows: bool = False

    @property
    def task(self) -> Task:
        """The run's task."""
        return self.model.task

    @property
    def sha256(self) -> str:
        """Of the model's weights."""
        return self.model.checkpoint.weights_sha256

    @property
    def labels(self) -> list[str] | None:
        """Every label that an answer can have; None where answers are no labels."""
        config = self.model.model.config
        if self.task.predictor.score_labels([np.zeros(len(config.id2label), np.float32)], config) is None:
            return None
        return [config.id2label[place] for place in range(len(config.id2label))]

    @property
    def embeds(self) -> bool:
        """Whether it gives vectors of texts."""
        return self.task.predictor.embeds

    @property
    def explains(self) -> bool:
        """Whether answers are explained here."""
        try:
            self.check_explained()
        except UserError:
            return False
        return True

    def check_explained(self) -> None:
        """Refuse explanations where they cannot be made.

        Raises:
            UserError: If the model is an export, answers of its task are not explained, or captum is missing.
        """
        if holds_onnx(self.model.checkpoint.path):
            raise UserError(f"explain: {self.run.name} is an export, which shows nothing of its layers; serve the run")
        check_explained(self.task)

    @cached_property
    def explainer(self) -> Explainer:
        """What explains answers: made once, in the thread of the explanations.

        It has a copy of the model with the same weights, since captum hangs hooks into the layers, which would change
        the answers of a batch that is computed at the same time.

        Raises:
            UserError: If answers cannot be explained, or the training rows cannot be read that are to be shown.
        """
        self.check_explained()
        explainer = Explainer(self._copy_beside(), self.results, find_alike=self.shows_training_rows)
        if explainer.note is not None:
            raise UserError(f"{explainer.note}; leave out --show_training_rows")
        return explainer

    def _copy_beside(self) -> AnsweringModel:
        """Return the model with the weights of this one, and with all that a call changes for itself alone."""
        model = self.model
        weights: dict[int, Any] = {id(tensor): tensor for tensor in model.model.parameters()}
        weights |= {id(tensor): tensor for tensor in model.model.buffers()}
        return replace(
            model, model=copy.deepcopy(model.model, weights), processor=copy.deepcopy(model.processor), log=None
        )

    def explain(self, rows: Sequence[Row], answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the answers to rows with what made them, as predict.py does; called in the explanations' thread.

        Raises:
            UserError: If captum cannot take the model.
        """
        import datasets

        explained = []
        for row, answer in zip(rows, answers, strict=True):
            texts = self.model.reading.read({name: [value] for name, value in row.values.items()})
            explained += self.explainer.explain(datasets.Dataset.from_dict(texts), [answer])
        return explained

    @contextmanager
    def read_rows(self, inputs: Sequence[Any], *, embed: bool = False) -> Iterator[list[Row]]:
        """Check the rows of a request; files that come with it lie in a temporary folder while the block lasts.

        Args:
            inputs: Texts, the bytes of files, or objects by column; a file is base64 there.
            embed: Whether vectors of texts are asked for.

        Raises:
            UserError: If a row cannot be answered.
        """
        reads_files = self.task.predictor.reads_files
        with tempfile.TemporaryDirectory(prefix="startup-llm-") if reads_files else nullcontext("") as folder:
            yield [
                Row(self._read_row(value, number, Path(folder, str(number)), embed), embed)
                for number, value in enumerate(inputs, start=1)
            ]

    def _read_row(self, value: Any, number: int, file: Path, embed: bool) -> dict[str, Any]:
        columns = {"text": True} if embed else self.columns
        first = next(iter(columns))
        cells = value if isinstance(value, Mapping) else {first: value}
        values: dict[str, Any] = {}
        for name, cell in cells.items():
            column = name if name in columns else self.names.get(name, name)
            if column not in columns:
                known = list(columns) + [other for other, its in self.names.items() if its in columns]
                raise UserError(
                    f"row {number}: unknown column {name!r}{nearest(name, known)}; expected {_join(columns)}"
                )
            if column in values:
                raise UserError(f"row {number}: column {name!r} gives {column} a second time; leave one out")
            values[column] = _save_file(cell, file, number) if self.task.predictor.reads_files else cell
        for name, is_needed in columns.items():
            if is_needed and name not in values:
                raise UserError(f"row {number}: no column {name!r}; expected {_join(columns)}")
        for name, cell in self.model.read_texts(values).items():
            if (fault := self.task.predictor.find_fault(name, cell)) is not None:
                fault = fault.replace(f"names {file}: ", "holds no file that can be read: ")
                raise UserError(f"row {number}: column {name!r} {fault}")
        return {name: values[name] for name in columns if name in values}

    def compute(self, rows: Sequence[Row]) -> list[RowResult]:
        """Compute rows, those of one kind together; called in the model's thread."""
        places: dict[tuple, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row.kind, []).append(place)
        results: dict[int, RowResult] = {}
        for among in places.values():
            chosen = [rows[place] for place in among]
            columns = {name: [row.values[name] for row in chosen] for name in chosen[0].values}
            compute = self._embed if chosen[0].embed else self._answer
            results.update(zip(among, compute(columns), strict=True))
        return [results[place] for place in range(len(rows))]

    def _answer(self, columns: Mapping[str, list[Any]]) -> list[RowResult]:
        answers, scores = self.model.answer_with_scores(columns)
        return [
            RowResult(answer, row_scores)
            for answer, row_scores in zip(answers, scores or [None] * len(answers), strict=True)
        ]

    def _embed(self, columns: Mapping[str, list[str]]) -> list[RowResult]:
        vectors, tokens = self.model.embed(columns["text"])
        return [RowResult({}, vector=vector, tokens=count) for vector, count in zip(vectors, tokens, strict=True)]

    def describe(self) -> dict[str, Any]:
        """Return what `/info` says: the run, its model, its columns and labels, its figures and its card."""
        card, results = self.run / "README.md", self.results
        return {
            "run": self.run.name,
            "task": self.task.tag,
            "model_sha256": self.sha256,
            "compute_dtype": self.model.plan.compute_dtype,
            "device": self.model.plan.device,
            "columns": {name: "needed" if is_needed else "optional" for name, is_needed in self.columns.items()},
            "labels": self.labels,
            "explains": self.explains,
            "note": self.note,
            "primary_metric": results.get("decides"),
            "figures": (results.get("models") or {}).get(results.get("method")),
            "test_rows": (results.get("test") or {}).get("rows"),
            "sentences": results.get("sentences", []),
            "other_server": self.task.predictor.find_other_server(self.model.checkpoint.path),
            "card": card.read_text(encoding="utf-8") if card.is_file() else None,
        }

    def list_examples(self) -> list[dict[str, Any]]:
        """Return rows for the documentation: test rows that the run kept, else placeholders."""
        if self.task.predictor.reads_files:
            return [dict.fromkeys(self.columns, "base64 of the file")]
        texts = [
            mistake["text"] for mistake in self.results.get("mistakes", ()) if isinstance(mistake.get("text"), str)
        ]
        if list(self.columns) == ["text"] and texts:
            return [{"text": text} for text in texts[:SHOWN_EXAMPLES]]
        return [{name: f"a {name.replace('_', ' ')}" for name, is_needed in self.columns.items() if is_needed}]


def _save_file(cell: Any, file: Path, number: int) -> str:
    """Write a file that came with a request, and return its path; a path is never taken from a client."""
    if not isinstance(cell, (bytes, str)):
        raise UserError(f"row {number}: expected a file as base64, got {str(cell)[:50]!r}")
    try:
        content = (
            cell if isinstance(cell, bytes) else base64.b64decode(re.sub(r"^data:[^,]*,", "", cell), validate=True)
        )
    except (binascii.Error, ValueError):
        raise UserError(f"row {number}: {cell[:50]!r} is no base64; send the bytes of the file as base64") from None
    file.write_bytes(content)
    return str(file)


def _join(columns: Mapping[str, bool]) -> str:
    return ", ".join(name if is_needed else f"{name} (optional)" for name, is_needed in columns.items())


def load_served_model(config: ServeConfig, run: str) -> ServedModel:
    """Load a run and answer an example, so that the first request finds the model warm.

    Args:
        config: How to compute.
        run: Its folder.

    Raises:
        UserError: If the folder holds no model for its task, or an option asks for what it does not do.
    """
    config = follow_run(replace(config, run=run))
    named, run = run, config.run
    task, folder, results = find_run(config)
    model = load_answering_model(config, task, folder)
    note = task.predictor.prepare(config, Path(run), model.processor, lambda texts: model.compute_vectors(texts)[0])
    trained = list_trained_columns(task, results)
    names = {column: name for name, column in trained.items() if isinstance(column, str)}
    columns = _find_columns(task, results, task.predictor.example(model.model.config))
    if joined := model.reading.columns:
        columns = {
            **dict.fromkeys(joined, True),
            **{name: needed for name, needed in columns.items() if name != "text"},
        }
    served = ServedModel(Path(run), model, results, columns, names, named, note, config.show_training_rows)
    if config.show_training_rows:
        served.check_explained()
    if not task.predictor.reads_files:
        warm = replace(served, model=replace(model, log=None))  # examples are no rows that came in
        with warm.read_rows(warm.list_examples()) as rows:
            warm.compute(rows)
    return served


def _find_columns(task: Task, results: Mapping[str, Any], example: Mapping[str, Any]) -> dict[str, bool]:
    """Return what a row may hold: a second text where it is compared, was trained with, or may have been."""
    known = results.get("columns")
    compares = task.predictor.embeds
    columns = {}
    for name in task.predictor.columns:
        if name != "text_pair":
            columns[name] = True
        elif "matches" not in example and (compares or known is None or name in known):
            columns[name] = compares or known is not None
    return columns
