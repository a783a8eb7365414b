"""What people said of single answers: good or bad, in a column beside a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError

if TYPE_CHECKING:
    import datasets

FEEDBACK_COLUMNS = ("label", "accepted", "answer")
"""Columns that may say whether an answer is good; rows with a rating have to be judged by a person."""
_MEANINGS = {
    1: True, 0: False, "1": True, "0": False, "true": True, "false": False, "accept": True, "reject": False,
    "ignore": None,
}  # fmt: skip


def find_feedback(splits: datasets.DatasetDict) -> str | None:
    """Return the column that says of each answer whether it is good; None where there is none.

    Args:
        splits: Rows with conversations.

    Raises:
        UserError: If there are ratings, whose bad answers would be learnt like the good ones, or labels in the
            training split alone.
    """
    train = splits["train"]
    if "rating" in train.column_names:
        values = sorted({str(value) for value in train["rating"]})
        raise UserError(
            f"the rows have ratings (column 'rating': {', '.join(values[:5])}{', ...' * (len(values) > 5)}), and "
            "badly rated answers would be learnt like good ones; keep the good rows in a file without that column, "
            "or write a column label (true, false) and tune with recipes/align.py --method kto"
        )
    name = next((name for name in FEEDBACK_COLUMNS if _judges(train, name)), None)
    for split, rows in splits.items():
        if name is not None and not _judges(rows, name):
            raise UserError(
                f"column {name!r} of the train split says whether an answer is good, that of the {split} split does "
                "not; give every split the same columns"
            )
    return name


def read_label(value: Any) -> bool | None:
    """Say whether an answer is good; None where it was not judged."""
    return None if value is None else _MEANINGS[value.lower() if isinstance(value, str) else value]


def _judges(rows: datasets.Dataset, name: str) -> bool:
    """Say whether a column holds labels of answers; one may be missing here and there."""
    if name not in rows.column_names:
        return False
    values = [value.lower() if isinstance(value, str) else value for value in rows[name]]
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, (bool, int, float, str)) and value in _MEANINGS for value in known)
