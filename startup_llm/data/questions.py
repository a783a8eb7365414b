from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from startup_llm.data.classification import LONGEST_TEXT_BYTES
from startup_llm.data.columns import find_text_columns
from startup_llm.data.streams import Piece, RowSource, extend_schema
from startup_llm.errors import UserError

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Survey:
    """What is known of a source before the first answer.

    Attributes:
        rows: Their number; None for a pipe.
        columns: Every column that a row has; of a pipe, that a row of the first piece has.
        schema: The columns' Arrow types, where they were asked for.
        note: A sentence about the text's columns, to be said aloud.
    """

    rows: int | None
    columns: list[str]
    schema: pyarrow.Schema | None
    note: str


class Questions:
    """The texts of a source that are to be answered, piece by piece.

    Args:
        source: The rows.
        text_column: The text's column; default the trained one, else the one that fits.
        text_pair_column: The second text's column, for pairs.
        trained_columns: The two columns as the training's config names them, each perhaps None.
        skip_bad: Leave rows without a usable text unanswered, and count them, instead of refusing them.

    Attributes:
        piece: The rows that were read last.
        skipped: Rows left unanswered so far.
    """

    def __init__(
        self,
        source: RowSource,
        text_column: str | None = None,
        text_pair_column: str | None = None,
        *,
        trained_columns: tuple[str | None, str | None] = (None, None),
        skip_bad: bool = False,
    ) -> None:
        self._source, self._skip_bad = source, skip_bad
        self._asked, self._trained = (text_column, text_pair_column), trained_columns
        self._failure: UserError | None = None
        self.piece = Piece(0)
        self.skipped = 0

    def survey(self, *, with_schema: bool = False) -> Survey:
        """Find the text's columns and, where the source can be read twice, check every row.

        Raises:
            UserError: If there are no rows, no text column, or a bad row that is not to be skipped.
        """
        pieces = self._source.pieces()
        first = next(pieces, None)
        if first is None:
            raise UserError(f"{self._source.name}: no rows; expected at least one")
        self._columns = self._find_columns(first)
        seen = itertools.chain([first], pieces) if self._source.can_reread else [first]
        rows, columns, schema = 0, {}, None
        for piece in seen:
            rows += len(piece)
            columns.update(dict.fromkeys(piece.columns))
            if with_schema:
                schema = extend_schema(schema, piece, self._source.name)
            if self._source.can_reread and not self._skip_bad and (faults := self._find_faults(piece)):
                raise faults[min(faults)]
        self._pieces: Iterator[Piece] = (
            self._source.pieces() if self._source.can_reread else itertools.chain([first], pieces)
        )
        note = ", ".join(f"{role} from column {name!r}" for role, name in self._columns.items())
        return Survey(rows if self._source.can_reread else None, list(columns), schema, note.replace("_", " ", 1))

    def read(self) -> dict[str, list[str]] | None:
        """Read the next piece and return its texts, as columns text and perhaps text_pair; None at the end.

        Raises:
            UserError: If a row is bad and not to be skipped; the rows before it have been returned by then.
        """
        if self._failure is not None:
            raise self._failure
        piece = next(self._pieces, None)
        if piece is None:
            return None
        faults = self._find_faults(piece)
        if faults and not self._skip_bad:
            count = min(faults)
            self._failure = faults[count]
            if count == 0:
                raise self._failure
            piece, faults = piece.first(count), {}
        self.piece, self.skipped = piece, self.skipped + len(faults)
        self._good = [index for index in range(len(piece)) if index not in faults]
        texts = {}
        for role, column in self._columns.items():
            values = piece.values(column)
            texts[role] = [values[index] for index in self._good]
        return texts

    def place(self, answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return one answer per row of `piece`: {} for a row that was skipped."""
        placed: list[dict[str, Any]] = [{} for _ in range(len(self.piece))]
        for index, answer in zip(self._good, answers, strict=True):
            placed[index] = answer
        return placed

    def _find_columns(self, first: Piece) -> dict[str, str]:
        import datasets

        text, text_pair = self._asked
        if text is None and self._trained[0] in first.columns:
            text, text_pair = self._trained[0], text_pair or self._trained[1]
        texts = {
            column: [value if _find_fault(value) is None else None for value in first.values(column)]
            for column in first.columns
        }
        text, text_pair = find_text_columns(datasets.Dataset.from_dict(texts), text, text_pair)
        return {"text": text} | ({"text_pair": text_pair} if text_pair else {})

    def _find_faults(self, piece: Piece) -> dict[int, UserError]:
        faults = {}
        for column in self._columns.values():
            for index, value in enumerate(piece.values(column) if column in piece.columns else [None] * len(piece)):
                if (fault := _find_fault(value)) and index not in faults:
                    faults[index] = UserError(
                        f"{self._source.name}: row {piece.start + index + 1}: column {column!r} {fault}; mend the "
                        "row, or leave such rows unanswered with --skip_bad"
                    )
        return faults


def _find_fault(value: Any) -> str | None:
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return "has no text"
    if not isinstance(value, str):
        return f"holds {str(value)[:50]} ({type(value).__name__}), expected text"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "holds half of a surrogate pair (\\ud800-\\udfff), which is no character"
    if size > LONGEST_TEXT_BYTES:
        return f"has a text of {size:,} bytes, the limit is {LONGEST_TEXT_BYTES:,}"
    return None
