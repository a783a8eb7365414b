"""Renew the generated part of a published card and keep what a person wrote.

The generated text stands between two comments, the first of which carries its hash: whatever a person writes above
or below stays, and a change between them is noticed. The front matter is merged key by key against the one that was
published last, by the lines of each key, so that comments and order stay too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Set
from typing import Any

_BEGIN = re.compile(r"<!-- startup-llm:begin sha256=([0-9a-f]{64})[^>]*-->")
_END = re.compile(r"<!-- startup-llm:end -->")
_MARK = re.compile(r"<!-- startup-llm:(?:begin|end)\b[^>]*-->\r?\n?")
_FRONT_MATTER = re.compile(r"\A(\ufeff?---[ \t]*\r?\n)(.*?)(^---[ \t]*(?:\r?\n|\Z))", re.DOTALL | re.MULTILINE)
_KEY = re.compile(r"""("[^"]*"|'[^']*'|[^\s#:\-\[\]{}"'][^:]*?)\s*:(?=\s|$)""")
_INLINE_COMMENT = re.compile(r"\s(#.*)$")
_ABSENT = object()


class CardConflict(Exception):
    """The card was changed by a person in a way that cannot be merged; the message says where."""


def build_readme(card: str) -> str:
    """Put a generated card's text between the marks."""
    front, body = _split(card)
    return f"---\n{front}---\n\n{_build_section(body)}"


def read_metadata(text: str) -> dict[str, Any]:
    """Return a card's front matter as plain data.

    Raises:
        CardConflict: If it is not a YAML mapping.
    """
    return _load(_split(text)[0])


def drop_generated(text: str) -> str:
    """Return what a person wrote of a card's text: all that stands outside the marks."""
    return re.sub(f"{_BEGIN.pattern}.*?{_END.pattern}", "", text, flags=re.DOTALL).strip()


def merge_readme(
    card: str, theirs: str | None, base: Mapping[str, Any], prefer: Set[str] = frozenset(), *, force: bool = False
) -> str:
    """Merge a newly generated card into the published one.

    Args:
        card: The generated card, without marks.
        theirs: The card as it is published now, or None.
        base: Front matter that was generated for the last publication; empty where that is not known.
        prefer: Keys of the front matter that take the generated value whatever a person wrote.
        force: Where both sides changed the same thing, take the generated one; for a proposal that a person reviews.
            Text outside the marks is kept even then.

    Returns:
        The card to publish.

    Raises:
        CardConflict: If the generated text was changed by a person, or both sides changed the same metadata.
    """
    if theirs is None:
        return build_readme(card)
    front, body = _split(card)
    try:
        merged_front = _merge_front_matter(front, _split(theirs)[0], base, prefer, force)
    except CardConflict:
        if not force:
            raise
        merged_front = front
    return f"---\n{merged_front}---\n{_merge_body(_build_section(body), _split(theirs)[1], force)}"


def _split(text: str) -> tuple[str, str]:
    """Cut a card into front matter, without its rules, and body, with the line breaks that lead it."""
    match = _FRONT_MATTER.match(text)
    return (match[2], text[match.end() :]) if match else ("", f"\n{text}")


def _build_section(body: str) -> str:
    body = body.strip()
    begin = f"<!-- startup-llm:begin sha256={_hash(body)} Written by recipes/push.py, which replaces it. -->"
    return f"{begin}\n\n{body}\n\n<!-- startup-llm:end -->\n"


def _hash(body: str) -> str:
    return hashlib.sha256(body.replace("\r\n", "\n").strip().encode()).hexdigest()


def _merge_body(section: str, theirs: str, force: bool) -> str:
    begins, ends = list(_BEGIN.finditer(theirs)), list(_END.finditer(theirs))
    if not begins and not ends:
        return f"{theirs.rstrip()}\n\n{section}"
    whole = len(begins) == len(ends) == 1 and begins[0].end() <= ends[0].start()
    if whole and (force or _hash(theirs[begins[0].end() : ends[0].start()]) == begins[0][1]):
        return theirs[: begins[0].start()] + section.removesuffix("\n") + theirs[ends[0].end() :]
    if force:
        return f"\n{section}\n{_MARK.sub('', theirs).lstrip()}"
    if whole:
        raise CardConflict("its generated text was changed by hand; move your words above or below the marks")
    raise CardConflict("the marks around its generated text are damaged")


def _merge_front_matter(
    ours_text: str, theirs_text: str, base: Mapping[str, Any], prefer: Set[str], force: bool
) -> str:
    ours, theirs, base = _load(ours_text), _load(theirs_text), _plain(dict(base))
    if not theirs:
        base = {}
    our_lines, their_lines = _cut_by_key(ours_text), _cut_by_key(theirs_text)
    merged: dict[str, Any] = {}
    lines = []
    for key in dict.fromkeys([*their_lines, *ours]):
        block = their_lines.get(key, "")
        if key == "":  # comments behind the last key
            continue
        value = _merge_value(
            key, ours.get(key, _ABSENT), theirs.get(key, _ABSENT), base.get(key, _ABSENT), key in prefer, force
        )
        if value is _ABSENT:
            lines.append(_keep_comments(block))
            continue
        merged[key] = value
        if key in theirs and value == theirs[key]:
            lines.append(block)
        elif key in ours and value == ours[key]:
            lines.append(_keep_comments(block) + our_lines[key])
        else:
            lines.append(_keep_comments(block) + _dump(key, value))
    lines.append(their_lines.get("", ""))
    text = "".join(line if not line or line.endswith("\n") else f"{line}\n" for line in lines)
    if _load(text) != merged:
        raise CardConflict("its front matter is written in a way that cannot be merged")
    return text


def _merge_value(key: str, ours: Any, theirs: Any, base: Any, preferred: bool, force: bool) -> Any:
    if ours == theirs or (preferred and ours is not _ABSENT):
        return ours
    if theirs is _ABSENT:
        return ours if base is _ABSENT else _ABSENT  # a person took the key out: it stays out
    if theirs == base:
        return ours
    if ours is _ABSENT or ours == base:
        return theirs
    if isinstance(ours, list) and not any(isinstance(item, dict | list) for item in ours):
        known = _as_list(base)
        wanted = [item for item in ours if item in _as_list(theirs) or item not in known]
        added = [item for item in _as_list(theirs) if item not in known and item not in wanted]
        return wanted + added
    if force:
        return ours
    raise CardConflict(f"its metadata field {key} was changed by hand and by the run")


def _as_list(value: Any) -> list[Any]:
    if value is _ABSENT or value is None:
        return []
    return value if isinstance(value, list) else [value]


def _cut_by_key(text: str) -> dict[str, str]:
    """Map each top-level key to its lines, the comments above it included; the empty key holds what is left."""
    blocks: dict[str, str] = {}
    current, waiting = "", ""
    for line in text.splitlines(keepends=True):
        if match := _KEY.match(line):
            current = match[1].strip("\"'")
            blocks[current] = blocks.get(current, "") + waiting + line
            waiting = ""
        elif line.startswith("#") or not line.strip():
            waiting += line
        else:
            blocks[current] = blocks.get(current, "") + waiting + line
            waiting = ""
    if waiting:
        blocks[""] = blocks.get("", "") + waiting
    return blocks


def _keep_comments(block: str) -> str:
    comments = (
        line.strip() if line.lstrip().startswith("#") else match[1]
        for line in block.splitlines()
        if line.lstrip().startswith("#") or (match := _INLINE_COMMENT.search(line))
    )
    return "".join(f"{comment}\n" for comment in comments)


def _load(text: str) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        raise CardConflict("its front matter is not valid YAML") from None
    if data is not None and not isinstance(data, dict):
        raise CardConflict("its front matter is not a mapping")
    return _plain(data or {})


def _plain(data: Any) -> Any:
    """Return what JSON can carry, dates as text, so that data can be compared with what was kept as JSON."""
    return json.loads(json.dumps(data, default=str))


def _dump(key: str, value: Any) -> str:
    import yaml

    return yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True)
