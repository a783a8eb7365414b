"""Suggesting which rows of a pool to label next, as a table for people and as an import into Label Studio."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np

from startup_llm.data.row_target import escape_formula
from startup_llm.data.text_reading import TEXTS, TextReading
from startup_llm.errors import UserError
from startup_llm.run_folder import require_results
from startup_llm.runs.prediction import AnsweringModel, find_run, load_answering_model, open_questions
from startup_llm.tasks.options import build_section
from startup_llm.training.selection import choose_rows, compute_uncertainty, find_new_texts
from startup_llm.written_files import check_output_folder, write_output_folder

if TYPE_CHECKING:
    from startup_llm.config import SuggestConfig
    from startup_llm.tasks.base import Task

NAMES = ("suggestions.csv", "label_studio.json", "label_studio.xml")
LABEL_COLUMNS = ("label", "labels", "category", "intent", "class", "target")
"""Where labels are looked for in a pool, if the run's config does not name their column."""


@dataclass(frozen=True)
class Suggestion:
    """A row that is worth a label.

    Attributes:
        row: Its number in the pool, from 1.
        texts: Its text, and of a pair the second one, by their names.
        labels: What the model answers.
        score: The answer's probability; of several labels that of the likeliest.
        why: The reason, for a person.
    """

    row: int
    texts: Mapping[str, str]
    labels: tuple[str, ...]
    score: float
    why: str


@dataclass(frozen=True)
class Suggestions:
    """The rows to label.

    Attributes:
        rows: The most unsure first.
        run: Name of the run, as Label Studio shows it.
        labels: Every label that the model knows.
        several_labels: Whether a row can have several.
        notes: Sentences on what was left out.
    """

    rows: list[Suggestion]
    run: str
    labels: list[str]
    several_labels: bool
    notes: list[str]


@dataclass(frozen=True)
class Pool:
    """The rows without labels.

    Attributes:
        name: The file.
        numbers: Number of each row in the file, from 1.
        texts: The rows' texts by column.
        notes: Sentences to be reported.
    """

    name: str
    numbers: list[int]
    texts: dict[str, list[str]]
    notes: list[str]

    def list_texts(self) -> list[str]:
        """Return each row's text, a pair's two joined by a line break."""
        return _join_texts(self.texts)


def check_suggestions(config: SuggestConfig) -> tuple[Task, Path, dict[str, Any], Path]:
    """Find the run and the folder for the suggestions, before anything that takes time.

    Returns:
        The run's task, the folder of its model, its results, and where suggestions go.

    Raises:
        UserError: If there is no such run, it labels no texts, or the folder holds something else.
    """
    task, model, results = find_run(config)
    if set(task.predictor.columns) != set(TEXTS) or task.probe is None:
        raise UserError(f"run {config.run}: {task.tag}; suggestions are made of runs of text-classification alone")
    if results.get("problem_type") == "regression":
        raise UserError(f"run {config.run} predicts numbers; suggestions are made of runs with labels alone")
    folder = check_output_folder(config.output, NAMES, config, kind="suggestion", overwrite=config.overwrite)
    return task, model, results, folder


def read_pool(config: SuggestConfig, task: Task, results: Mapping[str, Any]) -> Pool:
    """Read the rows without labels.

    Args:
        config: Where they are.
        task: The run's task.
        results: The run's.

    Raises:
        UserError: If there are none, or fewer than are asked for, a row has no text, or rows have labels.
    """
    source, questions = open_questions(config.pool, config, task, results)
    reading = TextReading.of_results(results)
    survey = questions.survey()
    trained = results.get("config", {}).get("data", {}).get("label_column")
    wanted = [trained] if isinstance(trained, str) else trained or LABEL_COLUMNS
    labels = [name for name in survey.columns if name in wanted and name not in config.columns.values()]
    numbers: list[int] = []
    texts: dict[str, list[str]] = {}
    while (columns := questions.read()) is not None:
        piece = questions.piece
        for name in labels:
            if labelled := [place for place, value in enumerate(piece.values(name)) if value not in (None, "", [])]:
                raise UserError(
                    f"{source.name}: row {piece.start + labelled[0] + 1}: column {name!r} holds a label "
                    f"({str(piece.values(name)[labelled[0]])[:50]!r}); expected rows without labels: train on these, "
                    "and leave them, or the column, out of the pool"
                )
        answered = questions.place([{"answered": True}] * len(next(iter(columns.values()))))
        numbers += [piece.start + place + 1 for place, answer in enumerate(answered) if answer]
        for name, values in reading.read(columns).items():
            texts.setdefault(name, []).extend(values)
    skipped = [f"{questions.skipped:,} rows without a usable text are left out"] if questions.skipped else []
    notes = [note for note in (*source.notes, survey.note, *skipped) if note]
    if len(numbers) < config.rows:
        raise UserError(
            f"rows {config.rows}: {source.name} has {len(numbers):,} rows; ask for fewer, or label all of them"
        )
    return Pool(source.name, numbers, texts, notes)


def list_own_texts(task: Task, results: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """Return the texts that the run was trained and measured on, and a note where they cannot be read any more."""
    require_results(results, "the run", ["config"])
    try:
        data = task.read_data(build_section(task.tag, "data", results["config"]["data"]))
    except UserError as error:
        return [], f"near-duplicates of the run's own rows are not left out, because these cannot be read: {error}"
    rows = [data.splits[name] for name in data.splits]
    return [text for split in rows for text in _join_texts({n: split[n] for n in TEXTS if n in split.features})], None


def suggest_rows(
    config: SuggestConfig, task: Task, model_folder: Path, results: Mapping[str, Any], pool: Pool
) -> Suggestions:
    """Choose the rows to label.

    Args:
        config: How many.
        task: The run's task.
        model_folder: Of the run's model.
        results: The run's.
        pool: The rows without labels.

    Raises:
        UserError: If too few rows are left beside near-duplicates.
    """
    from startup_llm.training.processes import join_processes

    own, note = list_own_texts(task, results) if results else ([], "a plain checkpoint has no rows of its own")
    new = find_new_texts(pool.list_texts(), own)
    left_out = (
        f"{new.known:,} near-duplicates of the run's rows and {new.repeated:,} of other rows of the pool are left out"
    )
    if len(new.positions) < config.rows:
        left = f"{len(new.positions):,} of {len(pool.numbers):,}" if len(new.positions) else "none"
        raise UserError(
            f"rows {config.rows}: {left} rows of {pool.name} are new ({left_out}); ask for fewer, or give other rows"
        )
    model = load_answering_model(config, task, model_folder, join_processes().device)
    columns = {name: [values[place] for place in new.positions] for name, values in pool.texts.items()}
    probabilities, features = _compute(model, columns)
    several = model.model.config.problem_type == "multi_label_classification"
    uncertainty = compute_uncertainty(probabilities, several_labels=several)
    chosen, counts = choose_rows(features, uncertainty, config.rows, config.seed)
    names = [model.model.config.id2label[place] for place in range(probabilities.shape[1])]
    rows = [
        Suggestion(
            pool.numbers[new.positions[place]],
            {name: values[place] for name, values in columns.items()},
            *_answer(probabilities[place], names, int(count), several=several),
        )
        for place, count in zip(chosen, counts, strict=True)
    ]
    return Suggestions(rows, Path(config.run).name, names, several, [left_out, *([note] if note else [])])


def _compute(model: AnsweringModel, columns: Mapping[str, Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of rows, shape (rows, labels), and the features that they were computed from."""
    import datasets

    predictor, config = model.task.predictor, model.model.config
    outputs, features = model.compute_with_features(
        predictor.encode(datasets.Dataset.from_dict(dict(columns)), model.processor)
    )
    scores = predictor.score_labels(list(outputs), config)
    if scores is None:
        raise UserError("the model predicts numbers; suggestions are made of models with labels alone")
    return np.array([list(row.values()) for row in scores]), features


def _answer(
    probabilities: np.ndarray, names: Sequence[str], count: int, *, several: bool
) -> tuple[tuple[str, ...], float, str]:
    """Return a row's labels, its score, and why it was chosen."""
    order = np.argsort(-probabilities, kind="stable")
    labels = tuple(names[place] for place in order if probabilities[place] > 0.5) if several else (names[order[0]],)
    if several:
        unsure = names[int(np.abs(probabilities - 0.5).argmin())]
        why = f"unsure whether {unsure} holds ({probabilities[names.index(unsure)]:.0%})"
    else:
        why = "unsure between " + " and ".join(f"{names[place]} ({probabilities[place]:.0%})" for place in order[:2])
    return labels, float(probabilities[order[0]]), why + (f"; stands for {count} such rows" if count > 1 else "")


def write_suggestions(folder: Path, suggestions: Suggestions) -> None:
    """Write the three files, each whole or not at all, and list them in the folder's marker.

    Raises:
        UserError: If the folder cannot be written.
    """
    rows = suggestions.rows
    tasks = [build_labelling_task(row, suggestions.run) for row in rows]
    interface = build_interface(list(rows[0].texts), suggestions.labels, several=suggestions.several_labels)
    texts = (build_table(rows), json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", interface)
    write_output_folder(folder, dict(zip(NAMES, texts, strict=True)), kind="suggestion")


def build_table(suggestions: Sequence[Suggestion]) -> str:
    """Return the suggestions as CSV, with an empty column `label` to fill in."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = list(suggestions[0].texts)
    writer.writerow(["row", *names, "model_label", "score", "why", "label"])
    for suggestion in suggestions:
        cells = [*suggestion.texts.values(), ", ".join(suggestion.labels)]
        score = f"{suggestion.score:.4f}"
        writer.writerow([suggestion.row, *map(escape_formula, cells), score, escape_formula(suggestion.why), ""])
    return text.getvalue()


def build_labelling_task(suggestion: Suggestion, run: str) -> dict[str, Any]:
    """Return a task with the model's answer as a prediction (https://labelstud.io/guide/predictions).

    Args:
        suggestion: The row.
        run: What Label Studio calls the model's version.
    """
    answer = {
        "from_name": "label",
        "to_name": next(iter(suggestion.texts)),
        "type": "choices",
        "value": {"choices": list(suggestion.labels)},
    }
    prediction = {"model_version": run, "score": suggestion.score, "result": [answer]}
    return {
        "data": {**suggestion.texts, "row": suggestion.row, "why": suggestion.why},
        "predictions": [prediction] if suggestion.labels else [],
    }


def build_interface(texts: Sequence[str], labels: Sequence[str], *, several: bool) -> str:
    """Return the labelling interface that the tasks are for (https://labelstud.io/tags/choices).

    Args:
        texts: Names of a row's texts.
        labels: Every label.
        several: Whether a row can have several.
    """
    shown = "\n".join(f'  <Text name="{name}" value="${name}"/>' for name in texts)
    choices = "\n".join(f"    <Choice value={quoteattr(label)}/>" for label in labels)
    kind = "multiple" if several else "single"
    return (
        f'<View>\n{shown}\n  <Choices name="label" toName="{texts[0]}" choice="{kind}" showInline="true">\n'
        f'{choices}\n  </Choices>\n  <Text name="why" value="$why"/>\n</View>\n'
    )


def _join_texts(columns: Mapping[str, Sequence[str]]) -> list[str]:
    return ["\n".join(texts) for texts in zip(*columns.values(), strict=True)]
