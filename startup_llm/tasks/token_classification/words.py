"""Where the words of a text begin and end: the one segmentation of training, scoring and prediction.

It reads nothing but the text, so that a test split is cut as a text without labels is.
"""

from __future__ import annotations

import regex

_UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Bopomofo}\p{Hangul}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
    r"\p{Javanese}\p{Balinese}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}"
)
"""Scripts that write no blanks between words, and Hangul, whose particles follow a name without one."""
_LETTER = rf"[\w--[{_UNSPACED}]]"
_ENDS = rf"(?!{_LETTER})"
_WORD = regex.compile(
    rf"""
    [{_UNSPACED}]\p{{M}}*                                     # one character with its vowel signs and tone marks
    | (?i:https?://|www\.)[\S--[{_UNSPACED}]]+                 # addresses
    | [@#]{_LETTER}+                                          # names and topics of short messages
    | [{_LETTER}--[\d_]]\.(?:[{_LETTER}--[\d_]]\.)+           # U.S.
    | \d+(?:[.,:/]\d+)*                                       # numbers, times, dates
      (?:-?{_LETTER}+(?:-{_LETTER}+)*)?
    | {_LETTER}+?(?=(?i:n['’]t){_ENDS})                            # the "do" of "don't"
    | (?i:n['’]t){_ENDS}
    | ['’](?i:s|m|d|re|ve|ll){_ENDS}
    | {_LETTER}+(?:[-.]{_LETTER}+)*(?:['’](?!(?i:s|m|d|re|ve|ll){_ENDS}){_LETTER}+)?
    | ([^\w\s])\1*                                            # one sign, perhaps repeated
    | \S
    """,
    regex.VERBOSE | regex.V1,
)


def split_words(text: str) -> list[tuple[int, int]]:
    """Return start and end of each word of a text, in characters; between words is nothing but white space.

    Signs stand alone, and so do English endings such as 's and n't, as in the Penn Treebank. In scripts without blanks
    between words, such as Chinese, Japanese and Thai, and in Korean, a word is one character.

    Args:
        text: Any text.
    """
    return [match.span() for match in _WORD.finditer(text)]
