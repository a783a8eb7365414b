"""Where the words of a text begin and end, as data sets of entities cut them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(
    r"""
    https?://\S+ | www\.\S+                       # addresses
    | [@#]\w+                                     # names and topics of short messages
    | [^\W\d_]\.(?:[^\W\d_]\.)+                   # U.S.
    | \d+(?:[.,:/]\d+)*                           # numbers, times, dates
      (?:-?\w+(?:-\w+)*)?
    | \w+?(?=n['’]t\b)                            # the "do" of "don't"
    | n['’]t\b
    | ['’](?:s|m|d|re|ve|ll)\b
    | \w+(?:[-.]\w+)*(?:['’](?!(?:s|m|d|re|ve|ll)\b)\w+)?
    | ([^\w\s])\1*                                # one sign, perhaps repeated
    """,
    re.VERBOSE | re.IGNORECASE,
)


def split_words(text: str, cuts: Iterable[int] = ()) -> list[tuple[int, int]]:
    """Return start and end of each word of a text, in characters; between words is nothing but white space.

    Signs stand alone, and so do English endings such as 's and n't, as in the Penn Treebank.

    Args:
        text: Any text.
        cuts: Places where a word ends in any case, such as the ends of entities.
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    for cut in sorted(set(cuts)):
        place = next((i for i, (start, end) in enumerate(spans) if start < cut < end), None)
        if place is not None:
            start, end = spans[place]
            spans[place : place + 1] = [(start, cut), (cut, end)]
    return spans
