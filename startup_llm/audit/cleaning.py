"""A cleaned copy of each audited file, beside it, with a record of every change."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.audit.audit import KINDS, Audit, Finding, Rows, audit_rows
from startup_llm.audit.label_faults import EncodeTexts
from startup_llm.audit.odd_texts import repair_characters
from startup_llm.audit.personal_data import mask_text
from startup_llm.config import AuditConfig
from startup_llm.data.annotation_tools import find_tool
from startup_llm.data.classification import find_rare_labels
from startup_llm.data.label_cells import JSON, split_cell
from startup_llm.data.row_source import EXTENSIONS, FileOptions, Piece, RowSource
from startup_llm.data.row_target import RowTarget, extend_schema
from startup_llm.data.spreadsheets import SPREADSHEETS
from startup_llm.errors import UserError
from startup_llm.written_files import check_replaceable, list_written, refuse_inputs_inside, write_atomically

if TYPE_CHECKING:
    import pyarrow

REMOVALS = (
    "empty-texts", "oversized-texts", "missing-labels", "rare-labels", "unseen-labels", "duplicates",
    "duplicates-across-splits", "near-duplicates", "near-duplicates-across-splits",
)  # fmt: skip
REPAIRS = ("odd-characters", "personal-data", "label-spelling")
FIXABLE = (*REMOVALS, *REPAIRS)
_NOT_ASKED = "add {} to --fix_kinds to have it fixed"
_MADE_BY_FIXES = "the other fixes brought it about: audit the copies with --fix again"
_LEFT = {
    "several-labels-in-a-cell": "how a cell is read is told by the option, in training too",
    "contradicting-labels": "which of two labels is right, a reader decides",
    "groups-across-splits": "drop the given splits, and let --data.group_column cut them",
    "duplicates": "the copies have other labels: which one is right, a reader decides",
    "near-duplicates": "nearly equal is not equal; those with other labels stay in any case",
    "suspect-labels": "a suspicion is no proof: read these rows",
    "imbalance": "rows cannot be invented",
    "odd-characters": "what stood in the place of a replacement character is lost",
    "other-languages": "it is no fault by itself",
    "long-texts": "it is no fault by itself",
    "rare-labels": "two labels with rows enough would not be left",
    "unseen-labels": "two labels with rows enough would not be left",
}
"""Why a finding is left by `--fix`, or may be."""
_EXTENSION = re.compile(rf"\.({'|'.join(EXTENSIONS)})(\.gz)?$", re.IGNORECASE)


def name_copies(path: str | Path) -> tuple[Path, Path]:
    """Return where a file's cleaned copy and its changes are written: NAME.cleaned.EXT, NAME.changes.jsonl.

    A spreadsheet's copy is a CSV file.
    """
    place = Path(path)
    extension = _EXTENSION.search(place.name)[0]
    stem = place.name.removesuffix(extension)
    if extension.lower().split(".")[1] in SPREADSHEETS:
        extension = ".csv"
    return place.with_name(f"{stem}.cleaned{extension}"), place.with_name(f"{stem}.changes.jsonl")


def find_files(audit: Audit, folder: Path, *, overwrite: bool) -> list[tuple[str, dict[str, Any]]]:
    """Return each audited file with its split.

    Args:
        audit: What was audited.
        folder: The audit's folder, whose marker lists earlier copies.
        overwrite: Replace earlier copies.

    Raises:
        UserError: if the rows do not come from files, or a copy exists that is not to be replaced.
    """
    rows = audit.rows
    files = [(split, file) for split, records in rows.files.items() for file in records]
    if not files or not all(Path(file["path"]).is_file() for _, file in files):
        raise UserError("--fix needs files of your own (--data.train_file or --data.data_dir) to write copies beside")
    if isinstance(rows.columns.label, list) or (
        rows.problem_type == "multi_label_classification" and rows.columns.label_separator is None
    ):
        raise UserError("--fix is for one label per row; of several labels, fix the audit's rows yourself")
    for _, file in files:
        _check_is_table(file["path"], audit.options)
    copies = [copy for _, file in files for copy in name_copies(file["path"])]
    refuse_inputs_inside({"--fix: the audited file": [file["path"] for _, file in files]}, copies)
    check_replaceable(folder, copies, kind="audit", overwrite=overwrite, option="--output")
    return files


def _check_is_table(path: str, options: FileOptions) -> None:
    """Refuse a file whose rows are not those that were audited.

    Raises:
        UserError: If it is an annotation tool's export, or no table.
    """
    tool = "no table"
    if _EXTENSION.search(Path(path).name):
        found = find_tool(next(RowSource(path, options=options).pieces()).rows)
        tool = f"read as {found.name}" if found else ""
    if tool:
        raise UserError(
            f"--fix writes tables, and {path} is {tool}; correct the rows in the tool, and export them again"
        )


def write_cleaned_copies(
    audit: Audit, kinds: list[str], folder: Path, *, names: bool = False, overwrite: bool = False
) -> list[str]:
    """Write the cleaned copies, and list them in the marker of the audit's folder.

    Of equal texts in a split only those with the first one's label are removed: which of two labels is right, a reader
    decides. Of texts that two splits share, the earlier split's row goes, that of training.

    Args:
        audit: What was found.
        kinds: What to fix, of `FIXABLE`.
        folder: The audit's folder.
        names: Whether masking covers names too.
        overwrite: Replace earlier copies; the originals are never written.

    Returns:
        A sentence per file.

    Raises:
        UserError: if the rows do not come from files, or a copy exists or cannot be written.
    """
    files = find_files(audit, folder, overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    plan = _Plan(audit, kinds, names)
    sentences, start = [], {split: 0 for split, _ in files}
    for split, file in files:
        first = plan.first_position(split) + start[split]
        start[split] += file["rows"]
        sentences.append(_clean_file(file["path"], plan, first, overwrite=overwrite))
        list_written(folder, name_copies(file["path"]), kind="audit")
    return sentences


def audit_copies(
    audit: Audit, config: AuditConfig, kinds: Sequence[str], encode: EncodeTexts | None = None
) -> list[dict[str, Any]]:
    """Audit the cleaned copies in the same way.

    Args:
        audit: What was found in the files.
        config: How they were audited.
        kinds: What was fixed.
        encode: See `audit_rows`.

    Returns:
        Each finding that is left: kind, severity, count, and why it is.
    """
    copies = {
        f"{split}_file": [str(name_copies(file["path"])[0]) for file in files]
        for split, files in audit.rows.files.items()
    }
    as_read = {"encoding": None, "quoting": "double", "sheet": None, "query": None, "data_dir": None, "dataset": None}
    changes: dict[str, Any] = {**as_read, **copies}
    again = audit_rows(replace(config, data=replace(config.data, **changes)), encode)
    return [
        {
            "kind": kind,
            "severity": KINDS[kind][0],
            "count": len(finding.positions),
            "why": _explain(finding, again.rows, kinds),
        }
        for kind, finding in again.findings.items()
    ]


def _explain(finding: Finding, rows: Rows, kinds: Sequence[str]) -> str:
    """Say why a finding of the cleaned copies was left."""
    if finding.kind in FIXABLE and finding.kind not in kinds:
        return _NOT_ASKED.format(finding.kind)
    if finding.kind == "duplicates" and finding.partners is not None:
        pairs = zip(finding.positions.tolist(), finding.partners.tolist(), strict=True)
        if any(agree(rows, position, partner) for position, partner in pairs):
            return _MADE_BY_FIXES
    return _LEFT.get(finding.kind, _MADE_BY_FIXES)


def agree(rows: Rows, position: int, partner: int) -> bool:
    """Whether two rows have the same labels, case and surrounding spaces aside."""
    first, second = (rows.labels[i] for i in (position, partner))
    return [name.strip().casefold() for name in first] == [name.strip().casefold() for name in second]


class _Plan:
    """What happens to each row."""

    def __init__(self, audit: Audit, kinds: list[str], names: bool) -> None:
        self.rows, self.options, self.names, self.kinds = audit.rows, audit.options, names, kinds
        self.label: Any = audit.rows.columns.label  # several columns were refused
        self.removed: dict[int, tuple[str, int | None]] = {}
        self.repaired: dict[str, set[int]] = {}
        for kind in kinds:
            if kind not in audit.findings:
                continue
            finding = audit.findings[kind]
            if kind in ("rare-labels", "unseen-labels"):
                continue  # by the rows that stay
            if kind in REPAIRS:
                self.repaired[kind] = set(finding.positions.tolist())
                continue
            partners = [None] * len(finding.positions) if finding.partners is None else finding.partners.tolist()
            for position, partner in zip(finding.positions.tolist(), partners, strict=True):
                if partner is None or kind.endswith("-across-splits") or agree(audit.rows, position, partner):
                    self.removed.setdefault(position, (kind, partner))
        spelling = audit.findings.get("label-spelling")
        self.spellings = spelling.mapping if spelling else {}
        if "empty-texts" in kinds:
            self._remove_emptied()
        if audit.rows.problem_type == "single_label_classification":
            self._remove_unusable_labels()

    def _remove_emptied(self) -> None:
        """Remove the rows of which nothing is left without their odd characters."""
        for position in self.repaired.get("odd-characters", set()) - self.removed.keys():
            if not all(repair_characters(part[position]).strip() for part in self.rows.parts):
                self.removed[position] = ("empty-texts", None)

    def _remove_unusable_labels(self) -> None:
        """Remove the rows whose labels training refuses, given the rows that stay."""
        rows, stays = self.rows, [i for i in range(len(self.rows.labels)) if i not in self.removed]
        labels: dict[str, list[tuple[str, ...]]] = {split: [] for split in rows.splits}
        positions: dict[str, list[int]] = {split: [] for split in rows.splits}
        for position in stays:
            split = str(rows.split[position])
            labels[split].append(tuple(self.spellings.get(name, name) for name in rows.labels[position]))
            positions[split].append(position)
        faults, present = find_rare_labels(labels, positions)
        if len(present) < 2:
            return
        for split, found in faults.items():
            kind = "rare-labels" if split == "train" else "unseen-labels"
            if kind in self.kinds:
                self.removed |= {fault.row: (kind, None) for fault in found}

    def first_position(self, split: str) -> int:
        return int((self.rows.split == split).argmax())

    def change(self, position: int, row: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
        """Yield kind, column and new value of each change to a row that stays."""
        columns = self.rows.columns
        for column in (*(columns.joined or (columns.text,)), columns.text_pair):
            text = row.get(column) if column else None
            for kind, repair in (
                ("odd-characters", repair_characters),
                ("personal-data", lambda text: mask_text(text, names=self.names)),
            ):
                if position in self.repaired.get(kind, ()) and isinstance(text, str) and repair(text) != text:
                    text = repair(text)
                    yield kind, column, text
        label = row.get(self.label)
        if position in self.repaired.get("label-spelling", ()) and label is not None:
            spelled = self._spell(label, columns.label_separator)
            if spelled != label:
                yield "label-spelling", self.label, spelled

    def _spell(self, label: Any, separator: str | None) -> Any:
        """Write the label of a row, or each label of its cell, as most rows do."""
        if separator is None:
            return self.spellings.get(label, label)
        names = [self.spellings.get(name, name) for name in split_cell(label, separator) or ()]
        return json.dumps(names, ensure_ascii=False) if separator == JSON else separator.join(dict.fromkeys(names))


def _clean_file(path: str, plan: _Plan, first: int, *, overwrite: bool) -> str:
    cleaned, changes_path = name_copies(path)
    source = RowSource(path, options=plan.options)
    changes: list[dict[str, Any]] = []
    pieces = [_clean_piece(piece, plan, first, changes) for piece in source.pieces()]
    columns = list(dict.fromkeys(name for piece in pieces for name in piece.columns))
    schema: pyarrow.Schema | None = None
    if source.format == "parquet":
        schema = extend_schema(None, pieces[0], source.name)
    with RowTarget(str(cleaned), "auto", source, overwrite=overwrite, raw=True) as target:
        target.open(columns, {}, schema)
        for piece in pieces:
            target.write(piece, [{}] * len(piece))
    lines = [json.dumps(change, ensure_ascii=False) for change in changes]
    write_atomically(changes_path, "".join(f"{line}\n" for line in lines))
    counts = Counter(change["what"] for change in changes)
    what = ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "nothing to fix"
    return (
        f"{cleaned}: {sum(map(len, pieces)):,} rows ({what}); changes in {changes_path}{_describe_form(plan.options)}"
    )


def _describe_form(options: FileOptions) -> str:
    """Say which options a copy is read without, as it is UTF-8 with quotes and no spreadsheet."""
    given = {"encoding": options.encoding, "sheet": options.sheet, "quoting": options.quoting != "double"}
    names = [f"--data.{name}" for name, value in given.items() if value]
    return f" (read it without {' and '.join(names)})" if names else ""


def _clean_piece(piece: Piece, plan: _Plan, first: int, changes: list[dict[str, Any]]) -> Piece:
    kept, rows, touched = [], [], False
    source_rows = piece.to_rows()
    for number, row in enumerate(source_rows):
        position = first + piece.start + number
        record: dict[str, Any] = {"row": piece.start + number + 1}
        if position in plan.removed:
            kind, partner = plan.removed[position]
            record |= {"what": kind, "action": "removed", "before_sha256": _hash(row)}
            if partner is not None:
                record["same_as"] = plan.rows.place(partner)
            changes.append(record)
            continue
        new = dict(row)
        for kind, column, value in plan.change(position, row):
            changes.append(
                {**record, "what": kind, "action": "changed", "column": column, "before_sha256": _hash(new[column]),
                 "after": value}
            )  # fmt: skip
            new[column], touched = value, True
        kept.append(number)
        rows.append(new)
    if piece.table is None:
        return Piece(piece.start, rows)
    table = piece.table.take(kept)
    if touched:
        import pyarrow

        columns = plan.rows.columns
        for name in {*(columns.joined or (columns.text,)), columns.text_pair, plan.label} - {None}:
            index = table.schema.get_field_index(name)
            values = pyarrow.array([row[name] for row in rows], table.schema.field(name).type)
            table = table.set_column(index, table.schema.field(name), values)
    return replace(piece, table=table)


def _hash(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
