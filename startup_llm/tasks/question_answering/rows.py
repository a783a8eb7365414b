"""Questions whose answers stand in a context: SQuAD's nested JSON, and tables with a row for each question."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from startup_llm.data.bad_rows import EMPTY_TEXT, BadRows, Fault, RowFaultError, list_numbers
from startup_llm.data.columns import list_columns
from startup_llm.data.rows_to_predict import find_text_fault
from startup_llm.data.sources import load_splits
from startup_llm.data.splits import check_group_column, handle_overlap, make_splits, sample_rows
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError, nearest
from startup_llm.tasks.question_answering.options import QuestionData

if TYPE_CHECKING:
    import datasets

_KEPT = ("id", "title")


def load_extractive_questions(data: QuestionData) -> TaskData:
    """Load questions, their contexts and their answers: SQuAD 1.1 and 2.0, or rows of the Hub's form.

    A table has the columns question, context and answers (text and answer_start; none for a question without an
    answer); other names are given by data.text_column, data.text_pair_column and data.target_column. An answer that
    does not stand at its answer_start is moved where it stands once in the context.

    Where a split has to be cut, questions on one context stay on the same side, or those of one data.group_column.

    Returns:
        Splits with question, context, answers (texts, none where there is no answer), answer_starts (in characters),
        row, and id, title and the group's column where the source has them.

    Raises:
        UserError: If a column is missing, or if data.skip_bad is off and a text is empty, an answer cannot be placed,
            an article has no paragraphs, or a paragraph has no questions.
    """
    import datasets

    loaded = load_splits(data)
    splits, notes, bad_rows = {}, [], BadRows(data.skip_bad)
    for name, rows in loaded.splits.items():
        splits[name], said = _read_questions(rows, data, name, bad_rows)
        notes += said
    cut, said = make_splits(datasets.DatasetDict(splits), data, group_by=data.group_column or "context")
    notes += said
    cut, said = handle_overlap(cut, data.remove_overlap, "questions")
    cut = cut.remove_columns("digest")
    notes += said
    for name, max_rows in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if max_rows is not None and max_rows < len(cut[name]):
            notes.append(f"{max_rows:,} of the {len(cut[name]):,} {name} questions are used (seed {data.split_seed}).")
            cut[name] = sample_rows(cut[name], max_rows, data.split_seed)
    for name, rows in cut.items():
        if without := count_unanswerable(rows):
            notes.append(f"{without:,} of the {len(rows):,} {name} questions have no answer.")
    notes = [*loaded.notes, *bad_rows.notes, *notes]
    return TaskData(cut, notes=notes, sources=loaded.sources, left_out=dict(bad_rows.left_out))


def knows_unanswerable(data: TaskData) -> bool:
    """Return whether any row has no answer."""
    return any(count_unanswerable(rows) for rows in data.splits.values())


def expects_abstention(may_abstain: bool | None, data: TaskData) -> bool:
    """Return whether no answer is an answer: as the model was taught, or as the rows say where it does not tell."""
    return knows_unanswerable(data) if may_abstain is None else may_abstain


def count_unanswerable(rows: datasets.Dataset) -> int:
    """Return how many questions have no answer.

    Args:
        rows: A split with the column `answers`.
    """
    import pyarrow.compute

    lengths = pyarrow.compute.list_value_length(rows.with_format("arrow")[:]["answers"])
    return pyarrow.compute.sum(pyarrow.compute.equal(lengths, 0)).as_py() or 0


def _read_questions(
    rows: datasets.Dataset, data: QuestionData, split: str, bad_rows: BadRows
) -> tuple[datasets.Dataset, list[str]]:
    """Check one split's rows and return them with what was decided."""
    import datasets

    kept: dict[str, list[Any]] = {name: [] for name in ("question", "context", "answers", "answer_starts", "row")}
    others: dict[str, list[Any]] = {}
    faults: list[Fault] = []
    moved: list[int] = []
    parts = _Parts()
    number = 0
    for number, row in enumerate(_list_rows(rows, data, split, parts), start=1):
        try:
            texts, starts, was_moved = _place_answers(row)
        except RowFaultError as fault:
            faults.append(Fault(number, str(fault), fault.kind))
            continue
        moved += [number] if was_moved else []
        place = (row["question"].strip(), row["context"], texts, starts, number)
        for name, value in zip(kept, place, strict=True):
            kept[name].append(value)
        for name in row.keys() - {"question", "context", "answers"}:
            others.setdefault(name, []).append(row[name])
    bad_rows.leave_out(parts.faults, parts.seen, f"{split} split", "articles and paragraphs", usable=number)
    bad_rows.leave_out(faults, number, f"{split} split", "questions")
    notes = []
    if not kept["row"]:
        raise UserError(f"the {split} split has no usable question")
    if moved:
        notes.append(
            f"{len(moved):,} {split} questions had an answer that is not at its answer_start; it stands once in the "
            f"context and was moved there (rows {list_numbers(moved)})."
        )
    text, texts, starts = datasets.Value("string"), datasets.List(datasets.Value("string")), datasets.Value("int64")
    features = datasets.Features(
        {"question": text, "context": text, "answers": texts, "answer_starts": datasets.List(starts), "row": starts}
    )
    questions = datasets.Dataset.from_dict(kept, features=features)
    digests = [json.dumps(pair) for pair in zip(kept["question"], kept["context"], strict=True)]
    questions = questions.add_column("digest", digests)
    for name, values in others.items():
        questions = questions.add_column(name, values)
    return questions, notes


@dataclass
class _Parts:
    """The articles and paragraphs of SQuAD's form that were read, and what is wrong with some."""

    seen: int = 0
    faults: list[Fault] = field(default_factory=list)

    def add(self, place: str, fault: str | None) -> None:
        self.seen += 1
        if fault is not None:
            self.faults.append(Fault(self.seen, fault, "part without questions", place))


def _list_rows(rows: datasets.Dataset, data: QuestionData, split: str, parts: _Parts) -> Iterator[dict[str, Any]]:
    """Yield question, context, answers (any form) and the other columns that are kept, one dict per question.

    What is read of SQuAD's form is counted in `parts`.
    """
    names = rows.column_names
    if "data" in names or "paragraphs" in names:
        yield from _list_nested(rows, data, parts)
        return
    usual = {"question": data.text_column, "context": data.text_pair_column, "answers": data.target_column}
    options = {"question": "text_column", "context": "text_pair_column", "answers": "target_column"}
    columns = {}
    for name, named in usual.items():
        columns[name] = named or name
        if columns[name] not in names:
            raise UserError(
                f"data.{options[name]}: no column {columns[name]!r} for the {name} in the {split} split"
                f"{nearest(columns[name], names) or ';'} it has {list_columns(names)}"
            )
    if len(set(columns.values())) < len(columns):
        raise UserError("data.text_column, data.text_pair_column and data.target_column must be three columns")
    wanted = [name for name in (*_KEPT, data.group_column) if name and name in names and name not in columns]
    if data.group_column:
        check_group_column(rows, data.group_column)
    for row in rows:
        question = {name: row[column] for name, column in columns.items()}
        if row.get("is_impossible") is True:
            question["answers"] = None
        elif isinstance(question["answers"], str) and row.get("answer_start") not in (None, ""):
            question["answers"] = {"text": question["answers"], "answer_start": row["answer_start"]}
        yield question | {name: row[name] for name in wanted}


def _list_nested(rows: datasets.Dataset, data: QuestionData, parts: _Parts) -> Iterator[dict[str, Any]]:
    """Yield the questions of SQuAD's own form: articles of paragraphs of questions."""
    if data.group_column not in (None, "title", "context"):
        raise UserError(f"data.group_column: SQuAD's form has title and context, not {data.group_column!r}")
    articles = (
        rows.to_list()
        if "paragraphs" in rows.column_names
        else [document for row in rows for document in row["data"] or ()]
    )
    for number, article in enumerate(articles, start=1):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        is_read = isinstance(paragraphs, list) and paragraphs
        lacks = "paragraphs" if paragraphs == [] else "list of paragraphs"
        parts.add(f"article {number}", None if is_read else f"it has no {lacks}")
        for place, paragraph in enumerate(paragraphs if is_read else (), start=1):
            questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
            is_read = isinstance(questions, list) and questions
            lacks = "questions" if questions == [] else "list qas"
            parts.add(f"paragraph {place} of article {number}", None if is_read else f"it has no {lacks}")
            for asked in questions if is_read else ():
                question = asked if isinstance(asked, dict) else {}
                yield {
                    "question": question.get("question"),
                    "context": paragraph.get("context"),
                    "answers": None if question.get("is_impossible") else question.get("answers"),
                    "id": str(question.get("id") or ""),
                    "title": str(article.get("title") or ""),
                }


def _place_answers(row: dict[str, Any]) -> tuple[list[str], list[int], bool]:
    """Return the answers' texts and places, and whether an answer was moved.

    Raises:
        RowFaultError: If a text is empty, or an answer cannot be placed.
    """
    for name in ("question", "context"):
        if (fault := find_text_fault(row[name])) is not None:
            raise RowFaultError(f"the {name} {fault}", EMPTY_TEXT)
    try:
        pairs = _list_answers(row["answers"])
    except (ValueError, TypeError, KeyError) as error:
        raise RowFaultError(
            f"the answers are no texts with their answer_start: {error}", "answer of no known form"
        ) from None
    texts, starts, was_moved = [], [], False
    for text, start in pairs:
        stripped = text.strip()
        if not stripped:
            continue
        if start is not None:
            start += len(text) - len(text.lstrip())
        place = _find_place(row["context"], stripped, start)
        if place is None:
            raise RowFaultError(_explain_place(row["context"], stripped, start), "answer out of place")
        was_moved |= start is not None and place != start
        texts.append(stripped)
        starts.append(place)
    return texts, starts, was_moved


def _list_answers(value: Any) -> list[tuple[str, int | None]]:
    """Read answers of any usual form: text and answer_start as lists or single values, a list of pairs, or JSON."""
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        value = json.loads(value)
    if value is None:
        return []
    if isinstance(value, str):
        return [(value, None)]
    if isinstance(value, dict):
        texts, starts = value["text"], value.get("answer_start")
        texts = [texts] if isinstance(texts, str) else list(texts or ())
        starts = list(starts) if isinstance(starts, (list, tuple)) else [starts] * len(texts)
        if len(starts) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(starts)} places")
        pairs = list(zip(texts, starts, strict=True))
    else:
        pairs = [
            (answer, None) if isinstance(answer, str) else (answer["text"], answer.get("answer_start"))
            for answer in list(value)
        ]
    if any(not isinstance(text, str) for text, _ in pairs):
        raise ValueError("a text is missing")
    return [(text, None if start is None else int(start)) for text, start in pairs]


def _find_place(context: str, text: str, start: int | None) -> int | None:
    """Return where a text stands: at `start`, or at its only place; None where neither is so."""
    if start is not None and start >= 0 and context.startswith(text, start):
        return start
    first = context.find(text)
    return first if first >= 0 and context.find(text, first + 1) < 0 else None


def _explain_place(context: str, text: str, start: int | None) -> str:
    shown = repr(text if len(text) <= 40 else f"{text[:40]}...")
    if text not in context:
        return f"the answer {shown} is not in the context"
    times = sum(context.startswith(text, place) for place in range(len(context)))
    if start is None:
        return f"the answer {shown} has no answer_start and stands {times} times in the context"
    there = repr(context[max(start, 0) : max(start, 0) + len(text)][:40])
    return f"the answer {shown} is not at its answer_start {start} ({there}) and stands {times} times in the context"
