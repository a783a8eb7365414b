"""brat's standoff files (https://brat.nlplab.org/standoff.html): a text, and beside it an .ann file of its spans."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.data.sources import (
    SPLIT_ALIASES,
    LoadedData,
    choose_splits,
    find_split_folders,
    hash_file,
    list_asked_splits,
)
from startup_llm.errors import UserError
from startup_llm.plain_data import read_text
from startup_llm.tasks.token_classification.options import TaggedTextData

if TYPE_CHECKING:
    import datasets

FILE, FAULT = "file", "fault"
"""Columns beside text and entities: the document's file, and why it cannot be used."""
_UNUSED_KINDS = {
    "R": "relations",
    "*": "equivalences",
    "E": "events",
    "A": "attributes",
    "M": "attributes",
    "N": "normalizations",
    "#": "notes",
}
_OFFSETS = re.compile(r"(\S+) (\d+ \d+(?:;\d+ \d+)*)")


@dataclass
class _Documents:
    """The documents of a split, and how often what is not read stands in them."""

    texts: list[str] = field(default_factory=list)
    entities: list[list[dict[str, Any]]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    faults: list[str | None] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    without_annotations: int = 0

    def to_rows(self) -> datasets.Dataset:
        import datasets

        value = datasets.Value
        span = {"start": value("int64"), "end": value("int64"), "label": value("string")}
        features = {
            "text": value("string"),
            "entities": datasets.List(span),
            FILE: value("string"),
            FAULT: value("string"),
        }
        columns = {"text": self.texts, "entities": self.entities, FILE: self.files, FAULT: self.faults}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def load_brat(data: TaggedTextData) -> LoadedData | None:
    """Read a folder of brat's files, perhaps with a sub-folder for each split; None where the data are something else.

    Raises:
        UserError: If a text is missing, or there are no annotations to train on.
    """
    import datasets

    folders = _find_folders(Path(data.data_dir)) if data.data_dir else {}
    if not folders:
        return None
    asked = list_asked_splits(data)
    named = {split: SPLIT_ALIASES.get(name, name) for split, name in asked.items()}
    for split, name in named.items():
        if name not in folders:
            raise UserError(f"data.{split}_split: no folder {asked[split]!r}, only {', '.join(folders)}")
    chosen = choose_splits(named, list(folders), data)
    if "train" not in chosen:
        raise UserError(
            f"{data.data_dir}: annotations of {', '.join(folders)} alone; name one with --data.train_split"
        )
    splits, notes, sources = {}, [], []
    for split, name in chosen.items():
        documents, records = _read_folder(folders[name], data.encoding)
        splits[split] = documents.to_rows()
        notes.append(_describe(folders[name], documents))
        sources.append({"split": split, "files": records, "rows": len(documents.texts)})
    return LoadedData(datasets.DatasetDict(splits), notes, sources)


def _find_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; none where no .ann file is there."""
    if not folder.is_dir():
        return {}
    entries = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and any(entry.rglob("*.ann"))]
    named = find_split_folders(entries)
    if "train" in named:
        return named
    return {"train": folder} if entries or any(folder.glob("*.ann")) else {}


def _describe(folder: Path, documents: _Documents) -> str:
    note = f"{folder}: read as brat's {len(documents.texts):,} documents"
    if documents.without_annotations:
        note += f" (texts without an .ann file, which are left out: {documents.without_annotations:,})"
    if documents.unused:
        listed = ", ".join(f"{count:,} {kind}" for kind, count in documents.unused.items())
        note += f"; not used: {listed}"
    return f"{note}."


def _read_folder(folder: Path, encoding: str | None) -> tuple[_Documents, list[dict[str, Any]]]:
    documents, records = _Documents(), []
    for file in sorted(folder.rglob("*.ann")):
        text_file = file.with_suffix(".txt")
        if not text_file.is_file():
            raise UserError(f"{file}: there is no {text_file.name} beside it, whose spans it marks; add it")
        text = read_text(text_file, encoding)
        documents.texts.append(text)
        documents.files.append(str(file))
        entities, fault = _read_annotations(file, text, encoding, documents.unused)
        documents.entities.append(entities)
        documents.faults.append(fault)
        digest = hashlib.sha256(f"{hash_file(text_file)}{hash_file(file)}".encode()).hexdigest()
        records.append({"path": str(file), "sha256": digest, "rows": 1})
    texts = set(folder.rglob("*.txt"))
    documents.without_annotations = sum(not path.with_suffix(".ann").is_file() for path in texts)
    return documents, records


def _read_annotations(
    file: Path, text: str, encoding: str | None, unused: Counter[str]
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the spans of a text, or what is wrong with the first that cannot be used."""
    entities = []
    for number, line in enumerate(read_text(file, encoding).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        if kind := _UNUSED_KINDS.get(line[0]):
            unused[kind] += 1
            continue
        try:
            entities.append(_read_span(line, text))
        except ValueError as error:
            return [], f"line {number} ({line[:60]!r}): {error}"
    return entities, None


def _read_span(line: str, text: str) -> dict[str, Any]:
    """Read `T1<tab>TYPE START END<tab>TEXT`.

    Raises:
        ValueError: If it is something else, its parts lie apart, or its text stands elsewhere.
    """
    identity, _, rest = line.partition("\t")
    offsets, _, marked = rest.partition("\t")
    match = _OFFSETS.fullmatch(offsets.strip())
    if not identity.startswith("T") or match is None:
        raise ValueError("expected T1, a tab, a type with start and end, a tab, and the text")
    parts = [tuple(map(int, part.split())) for part in match[2].split(";")]
    for (_, end), (start, _) in itertools.pairwise(parts):
        if text[end:start].strip() or start < end:  # brat cuts a span in two at a line end
            raise ValueError("a discontinuous span, which no words in a row can be; mark each part as a span")
    start, end = parts[0][0], parts[-1][1]
    if end <= len(text) and marked and "".join(marked.split()) != "".join(text[start:end].split()):
        raise ValueError(f"the text there is {text[start:end][:40]!r}; is the .txt file another version?")
    return {"start": start, "end": end, "label": match[1]}
