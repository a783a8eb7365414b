"""Texts that are empty, wrongly decoded, or in another language than the rest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u202a-\u202e\u2060-\u2069\ufeff]")
_LOOKS_MISDECODED = re.compile(r"[\u00c2-\u00f4\u0102-\u0164\u0420\u0421\u2021\u0432][^\x00-\x7f]")
_FEWEST_LETTERS = 20
_SURE = 0.95
"""Least probability that a text is in another language than most, and not in theirs."""


def find_odd_characters(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Find texts with characters that a reader would not have written.

    Mojibake is UTF-8 read as another encoding (`cafÃ©`); whether a text is, ftfy decides, which changes nothing where
    it is not sure.

    Returns:
        Positions per kind, ascending: replacement (U+FFFD), control, invisible (zero width, direction marks, byte
        order marks; joiners of emoji and of Persian are left alone), mojibake. Kinds without a text are left out.
    """
    import ftfy

    tests: dict[str, Callable[[str], object]] = {
        "replacement": lambda text: "\ufffd" in text,
        "control": _CONTROL.search,
        "invisible": _INVISIBLE.search,
        "mojibake": lambda text: _LOOKS_MISDECODED.search(text) and ftfy.fix_encoding(text) != text,
    }
    odd = [position for position, text in enumerate(texts) if not text.isascii() or _CONTROL.search(text)]
    positions_of_kind = {
        kind: np.array([i for i in odd if test(texts[i])], dtype=np.int64) for kind, test in tests.items()
    }
    return {kind: positions for kind, positions in positions_of_kind.items() if len(positions)}


def repair_characters(text: str) -> str:
    """Return a text without control and invisible characters, mojibake decoded again where that is sure.

    A replacement character stays: what stood there is lost.
    """
    import ftfy

    repaired = ftfy.fix_encoding(text) if _LOOKS_MISDECODED.search(text) else text
    return _INVISIBLE.sub("", _CONTROL.sub("", repaired))


def find_other_languages(
    texts: Sequence[str], most_texts: int, seed: int = 0
) -> tuple[Counter[str], np.ndarray, list[str]]:
    """Find texts that are in another language than most, by langid's classifier (Lui and Baldwin 2012).

    Texts of fewer than 20 letters are left out: their language cannot be told.

    Args:
        texts: Any texts.
        most_texts: More are not inspected; those that are, are drawn by `seed`.
        seed: Seed of the draw.

    Returns:
        How many texts are in each language (ISO 639-1), the unsure ones left out; positions of the texts in another
        one than most, ascending; and their languages.
    """
    identifier = _load_identifier()
    long_enough = np.array(
        [i for i, text in enumerate(texts) if sum(map(str.isalpha, text[:200])) >= _FEWEST_LETTERS], np.int64
    )
    if len(long_enough) > most_texts:
        long_enough = np.sort(np.random.default_rng(seed).choice(long_enough, most_texts, replace=False))
    sure: dict[int, str] = {}
    for position in long_enough.tolist():
        language, probability = identifier.classify(texts[position][:1_000])
        if probability >= _SURE:
            sure[position] = language
    counts = Counter(sure.values())
    if not counts:
        return counts, np.empty(0, np.int64), []
    main = counts.most_common(1)[0][0]
    others = {position: language for position, language in sure.items() if language != main}
    return counts, np.array(list(others), dtype=np.int64), list(others.values())


@cache
def _load_identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
