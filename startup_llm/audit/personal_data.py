"""Find personal data by its form, and mask it.

What has a check digit is checked: payment cards by Luhn's, IBANs by ISO 7064 mod 97 and their country's length, IP
addresses by Python's `ipaddress`. Telephone numbers have none: they are taken by their form (+country, a leading 0, or
NNN-NNN-NNNN), so some are missed and some number of another kind may be taken for one. Names are not searched unless
asked for, and then only after words that introduce one in English.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

_IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"(..)(\d\d)",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22GI23"
        "GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MR27MT31MU30"
        "NL18NO15PK24PL28PS29PT25QA29RO24RS22SA24SC31SD18SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20",
    )
}
"""Characters of an IBAN by country, from the SWIFT IBAN registry."""
_BATCH_TEXTS = 20_000
_LONG_NUMBER = re.compile(r"\d(?:[ .\-/]?\d){5,}")


def is_payment_card(digits: str) -> bool:
    """Whether 13 to 19 digits are a card number: a first digit that cards have, and Luhn's check digit."""
    if not 13 <= len(digits) <= 19 or digits[0] not in "23456" or len(set(digits)) < 2:
        return False
    doubled = [2 * int(digit) for digit in digits[-2::-2]]
    return (sum(map(int, digits[::-2])) + sum(number // 10 + number % 10 for number in doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Whether capitals and digits without spaces are an IBAN (ISO 13616): the country's length, and mod 97 is 1."""
    if len(text) != _IBAN_LENGTHS.get(text[:2]):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def _find_iban_end(match: str) -> int:
    """Return how many characters of a match are the IBAN, 0 for none; capitals that follow belong to the text."""
    wanted, seen = _IBAN_LENGTHS.get(match[:2].upper(), 0), 0
    for end, character in enumerate(match, start=1):
        seen += character != " "
        if seen == wanted:
            return end if is_iban(match[:end].replace(" ", "").upper()) else 0
    return 0


def _find_card_end(match: str) -> int:
    """Return how many characters of a match are the card number, 0 for none; digits may follow it after a space."""
    ends = [len(match), *(gap.start() for gap in re.finditer("[ -]", match))]
    return max((end for end in ends if is_payment_card(re.sub(r"\D", "", match[:end]) or "0")), default=0)


def _find_address_end(match: str) -> int:
    try:
        ipaddress.ip_address(match)
    except ValueError:
        return 0
    return len(match) if len(match) > 4 else 0


def _find_phone_end(match: str) -> int:
    digits = len(re.sub(r"\D", "", match))
    return len(match) if 9 <= digits <= 15 else 0


_PATTERNS: dict[str, tuple[re.Pattern[str], Callable[[str], int]]] = {
    "email": (re.compile(r"(?<![\w.+\-])[\w.+\-]{1,64}@(?:[\w\-]{1,63}\.){1,8}[^\W\d_]{2,24}\b"), len),
    "iban": (re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}"), _find_iban_end),
    "payment_card": (re.compile(r"(?<![\w.+])\d(?:[ \-]?\d){12,18}(?!\w)"), _find_card_end),
    "ip_address": (
        re.compile(
            r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)|(?=[0-9A-Fa-f]*:[0-9A-Fa-f]*:)[0-9A-Fa-f:]{5,39}(?![\w:]))"
        ),
        _find_address_end,
    ),
    "phone": (
        re.compile(
            r"(?<![\w.+/\-])(?:\+\d(?:[ .\-/()]{0,2}\d){7,14}|\(?0\d{1,4}\)?(?:[ .\-/]?\d){6,11}"
            r"|\(?[2-9]\d{2}\)?[ .\-]\d{3}[ .\-]\d{4})(?![\w\-]|[.,]\d)"
        ),
        _find_phone_end,
    ),
}
_NAME = re.compile(
    r"(?:\b(?i:my name is|this is|i am|i'm|dear|mrs?\.?|ms\.?|dr\.?|regards,?|sincerely,?) +)"
    r"([A-Z][a-zà-ÿ'\-]+(?: +[A-Z][a-zà-ÿ'\-]+){0,2})"
)


def find_personal_data(texts: Sequence[str], *, names: bool = False) -> dict[str, np.ndarray]:
    """Find the texts that hold personal data.

    Args:
        texts: Any texts.
        names: Whether to search names too.

    Returns:
        Positions of the texts per kind, ascending; kinds without one are left out.
    """
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(texts), _BATCH_TEXTS):
        batch = texts[start : start + _BATCH_TEXTS]
        ends = np.cumsum([len(text) + 1 for text in batch])
        joined = "\n".join(batch)  # one pass per kind, not one per text
        for kind, spans in _find_spans(joined, names):
            if spans:
                owners = np.searchsorted(ends, [begin for begin, _ in spans], side="right")
                found.setdefault(kind, []).append(start + np.unique(owners))
    return {kind: np.concatenate(positions) for kind, positions in found.items()}


def mask_text(text: str, *, names: bool = False) -> str:
    """Return a text with `<EMAIL>`, `<PHONE>`, ... in the place of personal data."""
    spans = sorted((begin, end, kind) for kind, spans in _find_spans(text, names) for begin, end in spans)
    parts, done = [], 0
    for begin, end, kind in spans:
        parts += [text[done:begin], f"<{kind.upper()}>"]
        done = end
    return "".join([*parts, text[done:]])


def show_text(text: str, *, names: bool = False, longest_characters: int = 160) -> str:
    """Return a text as it may be shown: masked, other long numbers too, on one line, cut."""
    masked = _LONG_NUMBER.sub("<NUMBER>", mask_text(text[: 10 * longest_characters], names=names))
    line = "".join(character if character.isprintable() else " " for character in masked)
    line = " ".join(line.split())
    return line if len(line) <= longest_characters else line[: longest_characters - 1] + "…"


def _find_spans(text: str, names: bool) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yield each kind with its places, from the surest kind on; no place is taken twice."""
    taken: set[int] = set()
    for kind, (pattern, find_end) in _PATTERNS.items():
        spans, place = [], 0
        while match := pattern.search(text, place):
            begin, length = match.start(), find_end(match[0])
            place = begin + max(length, 1)
            if length and not taken.intersection(range(begin, place)):
                spans.append((begin, place))
                taken.update(range(begin, place))
        yield kind, spans
    if names:
        spans = [match.span(1) for match in _NAME.finditer(text)]
        yield "name", [span for span in spans if not taken.intersection(range(*span))]
