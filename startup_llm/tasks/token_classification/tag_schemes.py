"""Tags that mark entities word by word: the schemes in use, and the one that everything here is turned into (IOB2).

IOB2 writes B-TYPE on an entity's first word, I-TYPE on its further words and O elsewhere. IOB1 writes I-TYPE on the
first word too, unless an entity of the same type ends right before it (Ramshaw & Marcus 1995). BIOES marks the last
word (E) and a single one (S); BILOU calls these L and U, BMEWO calls I, E, S by M, E, W.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

OUTSIDE = "O"
PLAIN, TYPES = "plain", "types"
_PREFIXED = re.compile(r"([BIESLUMW])-(.+)", re.DOTALL)
_MEANING = {"M": "I", "L": "E", "U": "S", "W": "S"}
"""What a letter of BILOU and BMEWO is called in BIOES."""
_NAMES = {"B": "IOB2", "I": "IOB1", "E": "BIOES", "S": "BIOES", "L": "BILOU", "U": "BILOU", "M": "BMEWO", "W": "BMEWO"}


@dataclass(frozen=True)
class Entity:
    """An entity of a sentence.

    Attributes:
        type: Its type, such as person.
        start: Its first word.
        end: The word behind its last one.
    """

    type: str
    start: int
    end: int

    def overlaps(self, other: Entity) -> bool:
        """Say whether the two share a word."""
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True)
class TagFault:
    """A tag that its scheme does not allow where it stands.

    Attributes:
        sentence: Which sentence.
        word: Which word of it.
        reason: What is wrong, such as "I-person follows O".
    """

    sentence: int
    word: int
    reason: str


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that IOB2 tags mark, in their order.

    A tag that IOB2 does not allow is read as conlleval and seqeval do: I-TYPE begins an entity where none of its type
    goes on. A tag without B- or I- is an entity of one word.

    Args:
        tags: One for each word.
    """
    entities, kind, start = [], None, 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, dash, entity_type = tag.partition("-")
        marked = bool(dash) and prefix in ("B", "I")
        if kind is not None and not (marked and prefix == "I" and entity_type == kind):
            entities.append(Entity(kind, start, place))
            kind = None
        if kind is None and tag != OUTSIDE:
            kind, start = entity_type if marked else tag, place
            if not marked:
                entities.append(Entity(kind, start, place + 1))
                kind = None
    return entities


def find_scheme(sentences: Sequence[Sequence[str]]) -> str:
    """Name the scheme of tags: IOB1, IOB2, BIOES, BILOU, BMEWO, `types` (an entity's type and O), or `plain` ones.

    Args:
        sentences: The tags of each sentence.

    Raises:
        ValueError: If some tags have a prefix and others have not; the arguments are one of each.
    """
    distinct = dict.fromkeys(tag for tags in sentences for tag in tags if tag != OUTSIDE)
    prefixed = [tag for tag in distinct if _PREFIXED.fullmatch(tag)]
    if not prefixed:
        return TYPES if any(OUTSIDE in tags for tags in sentences) else PLAIN
    if bare := [tag for tag in distinct if not _PREFIXED.fullmatch(tag)]:
        raise ValueError(bare[0], prefixed[0])
    letters = {tag[0] for tag in prefixed}
    for letter in "LUMWES":
        if letter in letters:
            return _NAMES[letter]
    begun_by_b, begun_by_i = 0, 0
    for tags in sentences:
        for before, tag in _pair(tags):
            begun_by_b += tag[0] == "B" and before[2:] != tag[2:]
            begun_by_i += tag[0] == "I" and tag != OUTSIDE and before[2:] != tag[2:]
    return "IOB1" if begun_by_i > begun_by_b else "IOB2"


def convert_tags(sentences: Sequence[Sequence[str]], scheme: str) -> tuple[list[list[str]], list[TagFault]]:
    """Turn tags into IOB2, and list those that their scheme does not allow.

    Args:
        sentences: The tags of each sentence.
        scheme: From `find_scheme`.

    Returns:
        IOB2 tags of each sentence (plain ones as they are), and the faults, at most one a sentence.
    """
    converted, faults = [], []
    for number, tags in enumerate(sentences):
        if scheme == PLAIN:
            converted.append(list(tags))
            continue
        if scheme == TYPES:
            converted.append(
                [tag if tag == OUTSIDE else f"{'I' if a == tag else 'B'}-{tag}" for a, tag in _pair(tags)]
            )
            continue
        own = [tag if tag == OUTSIDE else f"{_MEANING.get(tag[0], tag[0])}-{tag[2:]}" for tag in tags]
        faults += [
            TagFault(number, word, reason)
            for word, reason in [
                *(_find_iob_faults if scheme in ("IOB1", "IOB2") else _find_open_ends)(own, tags, scheme)
            ][:1]
        ]
        converted.append([_to_iob2(before, tag, scheme) for before, tag in _pair(own)])
    return converted, faults


def _pair(tags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return each tag with the one before it."""
    return zip([OUTSIDE, *tags], tags, strict=False)


def _to_iob2(before: str, tag: str, scheme: str) -> str:
    if tag == OUTSIDE:
        return tag
    starts = tag[0] in "BS" or (scheme == "IOB1" and before[2:] != tag[2:])
    return f"{'B' if starts else 'I'}-{tag[2:]}"


def _find_iob_faults(own: Sequence[str], tags: Sequence[str], scheme: str) -> Iterator[tuple[int, str]]:
    for word, (before, tag) in enumerate(_pair(own)):
        begins = tag != OUTSIDE and before[2:] != tag[2:]
        if begins and tag[0] == ("I" if scheme == "IOB2" else "B"):
            yield word, f"{tag} follows {before if word else 'nothing'}, which {scheme} does not allow"


def _find_open_ends(own: Sequence[str], tags: Sequence[str], scheme: str) -> Iterator[tuple[int, str]]:
    for word, (before, tag) in enumerate(_pair([*own, OUTSIDE])):
        is_open, goes_on = before[0] in "BI" and before != OUTSIDE, tag[0] in "IE"
        if is_open != goes_on or (is_open and before[2:] != tag[2:]):
            earlier = tags[word - 1] if word else "nothing"
            later = tags[word] if word < len(tags) else "the end"
            yield min(word, len(tags) - 1), f"{later} follows {earlier}, which {scheme} does not allow"
