"""What several annotators say of a row, and which of it counts: what one of them says, the truth, or the majority."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from startup_llm.data.annotation_tools.elements import Labels
from startup_llm.errors import UserError, nearest

Row = dict[str, Any]
_MOST_NAMED = 20


@dataclass(frozen=True)
class Annotation:
    """What one annotator says of a row.

    Attributes:
        row: The row with its labels or spans; None where it is rejected.
        names: What the annotator can be named by, the usual one first; () where the export does not say it.
        is_true: Whether it is marked as the truth.
    """

    row: Row | None
    names: tuple[str, ...] = ()
    is_true: bool = False


@dataclass
class AnnotatedRow:
    """A row with all that is said of it.

    Attributes:
        number: Its 1-based place in the file.
        line: Its line there.
        annotations: What the annotators say.
    """

    number: int
    line: int
    annotations: list[Annotation] = field(default_factory=list)


@dataclass
class Choice:
    """What counts of an export.

    Attributes:
        rows: The rows that are learnt.
        lines: Line of each.
        disputed: How many rows annotators disagree on.
    """

    rows: list[Row] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    disputed: int = 0


def choose_annotations(annotated: Sequence[AnnotatedRow], name: str, annotator: str | None, option: str) -> Choice:
    """Choose one annotation of each row: the named annotator's last, the one marked as true, or the majority's.

    Args:
        annotated: The rows.
        name: The file, for the errors.
        annotator: Whose annotations count alone; None for those of all.
        option: What names the annotator, for the errors.

    Returns:
        The rows that anybody annotated and that are not rejected.

    Raises:
        UserError: If there is no such annotator, or annotators disagree on a row and none of it is the majority's.
    """
    if annotator is not None:
        _check_annotator(annotated, name, annotator, option)
    choice, draws = Choice(), []
    for row in annotated:
        found = [one for one in row.annotations if annotator in (None, *one.names)]
        if annotator is not None:
            found = found[-1:]
        opinions = _group(found)
        choice.disputed += len(opinions) > 1
        opinions = _group([one for one in found if one.is_true]) or opinions
        most = max(map(len, opinions.values()), default=0)
        best = [group for group in opinions.values() if len(group) == most]
        if len(best) > 1:
            draws.append((row, best))
        elif best and best[0][0].row is not None:
            choice.rows.append(best[0][0].row)
            choice.lines.append(row.line)
    if draws:
        raise UserError(_explain_draws(draws, annotated, name, option))
    return choice


def _group(annotations: Iterable[Annotation]) -> dict[str, list[Annotation]]:
    """Group annotations that say the same, in whatever order labels stand."""
    groups: dict[str, list[Annotation]] = {}
    for one in annotations:
        groups.setdefault(_write(one.row), []).append(one)
    return groups


def _write(values: Row | None) -> str:
    plain = values and {key: sorted(value) if isinstance(value, Labels) else value for key, value in values.items()}
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, default=str)


def _list_annotators(annotated: Iterable[AnnotatedRow]) -> str:
    counts = Counter(one.names[0] for row in annotated for one in row.annotations if one.names)
    listed = ", ".join(f"{name!r} ({count:,})" for name, count in counts.most_common(_MOST_NAMED))
    return listed + ", ..." * (len(counts) > _MOST_NAMED)


def _check_annotator(annotated: Sequence[AnnotatedRow], name: str, annotator: str, option: str) -> None:
    known = {one for row in annotated for annotation in row.annotations for one in annotation.names}
    if not known:
        raise UserError(
            f"{option} {annotator!r}: {name} does not say who annotated; export each annotator's rows to a file of "
            "its own, and name that one"
        )
    if annotator not in known:
        listed = _list_annotators(annotated)
        raise UserError(f"{option}: no annotator {annotator!r} in {name}, only {listed}{nearest(annotator, known)}")


def _explain_draws(
    draws: Sequence[tuple[AnnotatedRow, list[list[Annotation]]]],
    annotated: Sequence[AnnotatedRow],
    name: str,
    option: str,
) -> str:
    row, best = draws[0]
    said = [group[0].row for group in best]
    columns = dict.fromkeys(key for values in said if values for key in values)
    differing = [key for key in columns if len({_write({key: (values or {}).get(key)}) for values in said}) > 1]
    shown = "; ".join(_show(group, differing) for group in best)
    more = f", and so on {len(draws) - 1:,} more rows" if len(draws) > 1 else ""
    count = sum(map(len, best))
    listed = _list_annotators(annotated)
    one_alone = f", or learn from one annotator alone: {option} NAME, of {listed}" if listed else ""
    return (
        f"{name}: row {row.number}: {count} annotators disagree ({shown}){more}; mark one as ground truth, or add "
        f"one{one_alone}"
    )


def _show(group: Sequence[Annotation], columns: Sequence[str]) -> str:
    names = ", ".join(one.names[0] for one in group if one.names)
    values = group[0].row
    said = "rejected" if values is None else _write({key: values.get(key) for key in columns})[:80]
    return f"{names}: {said}" if names else said


Task = Callable[[Row], Any]
"""From a row to what it shares with other annotators' rows of the same text; None where it is alone."""
