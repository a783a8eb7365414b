"""Search what is to be published for access tokens and personal data, in the decoded content of every file."""

from __future__ import annotations

import html
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from startup_llm.access_tokens import FORMS, find_access_tokens, mask_token, redact_tokens
from startup_llm.audit.personal_data import PERSONAL_KINDS, find_personal_data, show_text
from startup_llm.errors import UserError, nearest
from startup_llm.hub.published_folder import PublishedFolder

PERSONAL_DATA = "personal-data"
"""Stands for every kind of personal data."""
OWN_TOKEN = "your access token"
_MOST_SHOWN = 50
_SMALLEST_CARD_NUMBER = 10**12
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
_VOCABULARY_MARKS = "Ġ▁Ċ#"
"""Stand for blanks and for the inside of a word."""
_VERSION_KEYS = ("versions", "packages")
"""Keys of results and lock below which versions stand, some of which look like IP addresses."""
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_BATCH_TEXTS = 10_000
_HEADER_BYTES = 8
_MOST_HEADER_BYTES = 100 << 20


@dataclass(frozen=True)
class Text:
    """A text within a file.

    Attributes:
        place: Where it stands.
        text: What it says.
        searched_for_people: Whether it may hold personal data; False for random bytes and for versions.
    """

    place: str
    text: str
    searched_for_people: bool = True


@dataclass(frozen=True)
class Exposure:
    """What somebody may not want to publish.

    Attributes:
        kind: Key of `FORMS`, a kind of personal data, or `OWN_TOKEN`.
        file: Path in the repository.
        place: Where in the file.
        shown: The text there, masked.
    """

    kind: str
    file: str
    place: str
    shown: str

    def __str__(self) -> str:
        return f"{' '.join(filter(None, map(_mask, (self.file, self.place))))}: {self.kind} in {self.shown!r}"


class Allowances:
    """What a person lets be published all the same.

    Args:
        option: Kinds by commas, each perhaps with the files that it is allowed in: `email`, `phone@config.yaml`,
            `ip_address@data/*`.
        findings: Kinds of an audit's findings, which may stand beside them.

    Raises:
        UserError: If there is no such kind.
    """

    def __init__(self, option: str | None, findings: Sequence[str] = ()) -> None:
        known = dict.fromkeys((*findings, PERSONAL_DATA, *PERSONAL_KINDS, *FORMS))
        self.words = [word.strip() for word in (option or "").split(",") if word.strip()]
        self._pairs = [word.partition("@")[::2] for word in self.words]
        for kind, _ in self._pairs:
            if kind not in known:
                raise UserError(f"allow_findings: no kind {kind!r}, only {', '.join(known)}{nearest(kind, known)}")

    def cover(self, kind: str, file: str) -> bool:
        """Whether a kind may be published in a file."""
        names = {kind, PERSONAL_DATA} if kind in PERSONAL_KINDS else {kind}
        return any(name in names and (not files or fnmatchcase(file, files)) for name, files in self._pairs)


def check_content(
    folder: PublishedFolder, allowed: Allowances, own_tokens: Sequence[str], *, names: bool = False
) -> None:
    """Refuse to publish tokens and personal data that are not allowed.

    Args:
        folder: What is to be published.
        allowed: What may be published.
        own_tokens: The tokens of this person, which are never published.
        names: Whether to search names of people too.

    Raises:
        UserError: If there is one, with a line for each.
    """
    exposed = []
    for path, file in folder.files.items():
        vocabulary = Path(path).name not in _VOCABULARIES or folder.has_own_vocabulary
        exposures = search_file(path, file.content, own_tokens, people=vocabulary, names=names)
        exposed += [exposure for exposure in exposures if not allowed.cover(exposure.kind, exposure.file)]
    if not exposed:
        return
    lines = [str(exposure) for exposure in exposed[:_MOST_SHOWN]]
    if more := len(exposed) - len(lines):
        lines.append(f"and {more:,} more")
    if own := [exposure for exposure in exposed if exposure.kind == OWN_TOKEN]:
        raise UserError(
            f"{own[0].file} of {folder.name} holds your access token; remove it there, and replace the token", lines
        )
    kinds = ",".join(dict.fromkeys([*allowed.words, *(f"{exposure.kind}@{exposure.file}" for exposure in exposed)]))
    raise UserError(
        f"{folder.name} holds {len(exposed):,} access tokens or personal data, such as {exposed[0]}; remove them, or "
        f"publish them all the same with --allow_findings '{kinds}'",
        lines,
    )


def search_file(
    path: str, content: Path | bytes, own_tokens: Sequence[str] = (), *, people: bool = True, names: bool = False
) -> Iterator[Exposure]:
    """Yield what a file and its path hold.

    Args:
        path: Path in the repository.
        content: The file's bytes, or the local file that holds them.
        own_tokens: The tokens of this person.
        people: Whether to search personal data.
        names: Whether to search names of people too.
    """
    read = _READERS.get(Path(path).suffix, _read_text)
    texts = itertools.chain([Text("", path)], read(content))
    if Path(path).name in _VOCABULARIES:
        texts = (replace(text, text=text.text.strip(_VOCABULARY_MARKS)) for text in texts)
    while batch := list(itertools.islice(texts, _BATCH_TEXTS)):
        for text in batch:
            for kind in _find_token_kinds(text.text, own_tokens):
                yield Exposure(kind, path, text.place, _mask(text.text, own_tokens, names=names))
        kept = [text for text in batch if people and text.searched_for_people]
        for kind, positions in find_personal_data([text.text for text in kept], names=names).items():
            for text in (kept[position] for position in positions.tolist()):
                yield Exposure(kind, path, text.place, _mask(text.text, own_tokens, names=names))


def _find_token_kinds(text: str, own_tokens: Sequence[str]) -> list[str]:
    kinds = [OWN_TOKEN for token in own_tokens if token in text]
    for kind, begin, end in find_access_tokens(text):
        if not any(token in text[begin:end] for token in own_tokens):
            kinds.append(kind)
    return list(dict.fromkeys(kinds))


def _mask(text: str, own_tokens: Sequence[str] = (), *, names: bool = False) -> str:
    for token in own_tokens:
        text = text.replace(token, mask_token(token))
    return show_text(redact_tokens(text), names=names)


# What a file says, by its extension ----------------------------------------------------------------------------------


def _read_bytes(content: Path | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _read_text(content: Path | bytes) -> Iterator[Text]:
    yield from _decode(_read_bytes(content), "")


def _decode(content: bytes, place: str) -> Iterator[Text]:
    """Yield the lines of a text; random bytes are one text, each byte a character."""
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        yield Text(place, content.decode("latin-1"), searched_for_people=False)
        return
    for number, line in enumerate(lines, start=1):
        yield Text(f"{place} line {number}".strip() if len(lines) > 1 or not place else place, line)


def _read_json(content: Path | bytes) -> Iterator[Text]:
    text = _read_bytes(content)
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        yield from _decode(text, "")
        return
    yield from _walk(plain, "")


def _read_yaml(content: Path | bytes) -> Iterator[Text]:
    import yaml

    text = _read_bytes(content)
    try:
        plain = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        yield from _decode(text, "")
        return
    yield from _walk(plain, "")


def _walk(value: Any, place: str, *, searched_for_people: bool = True) -> Iterator[Text]:
    """Yield the strings of plain data, keys too, with where they stand."""
    if isinstance(value, str):
        yield Text(place, value, searched_for_people)
    elif isinstance(value, bytes):
        yield from _decode(value, place)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            below = f"{place}.{key}".lstrip(".")
            yield Text(f"{place} key".strip(), str(key), searched_for_people)
            yield from _walk(part, below, searched_for_people=searched_for_people and key not in _VERSION_KEYS)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _walk(part, f"{place}[{number}]", searched_for_people=searched_for_people)


def _read_html(content: Path | bytes) -> Iterator[Text]:
    """Yield the page's text, and its markup for tokens alone."""
    page = _read_bytes(content).decode(errors="replace")
    for line in page.splitlines():
        yield Text("markup", html.unescape(line), searched_for_people=False)
    for line in html.unescape(_MARKUP.sub("\n", page)).splitlines():
        yield Text("text", line)


def _read_safetensors(content: Path | bytes) -> Iterator[Text]:
    """Yield the header: names of weights and metadata."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_BYTES), "little")
        header = stream.read(min(length, _MOST_HEADER_BYTES))
    for text in _read_json(header):
        yield replace(text, searched_for_people=text.place.startswith("__metadata__"))


def _read_onnx(content: Path | bytes) -> Iterator[Text]:
    """Yield the names of operators and weights, and the metadata."""
    try:
        import onnx
    except ImportError:  # a machine that publishes what another one exported
        yield from _decode(_read_bytes(content), "")
        return
    model = onnx.load_from_string(_read_bytes(content))
    for entry in model.metadata_props:
        yield Text(f"metadata.{entry.key}", entry.value)
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        yield Text("names", f"{part.name} {part.doc_string}".strip(), searched_for_people=bool(part.doc_string))


def _read_parquet(content: Path | bytes) -> Iterator[Text]:
    """Yield the names of columns, and the strings, bytes and long whole numbers of each cell."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(_read_bytes(content)))
    yield Text("schema", str(file.schema_arrow.remove_metadata()).replace("\n", " "))
    row = 0
    for batch in file.iter_batches(_BATCH_TEXTS):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for number, value in enumerate(column.to_pylist(), start=row + 1):
                if isinstance(value, int) and value >= _SMALLEST_CARD_NUMBER:
                    value = str(value)
                yield from _walk(value, f"row {number} {name}")
        row += batch.num_rows


_READERS: dict[str, Callable[[Path | bytes], Iterator[Text]]] = {
    ".json": _read_json,
    ".yaml": _read_yaml,
    ".html": _read_html,
    ".onnx": _read_onnx,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}
