"""Find personal data by its form, and mask it.

What has a check digit is checked: payment cards by the first digits of a brand and Luhn's, IBANs by the country's form
and ISO 7064 mod 97 (both python-stdnum), IP addresses by Python's `ipaddress`. A telephone number that begins with its
country is checked by Google's libphonenumber (phonenumbers). Other telephone numbers have no check: they are taken by
their form (a leading 0, or NNN-NNN-NNNN), so some are missed and some number of another kind may be taken for one;
dates, and numbers that the text calls a ticket's, an order's or a version's, are not. Names are not searched unless
asked for, and then only after words that introduce one in English.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

_BATCH_TEXTS = 20_000
_LONG_NUMBER = re.compile(r"\d(?:[ .\-/]?\d){5,}")
_CONTEXT_CHARACTERS = 40
_CARD_BRANDS = re.compile(
    r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}"
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}"
)
"""Visa, Mastercard (two ranges), American Express, Diners Club, JCB, Discover, UnionPay and Maestro (ISO/IEC 7812)."""
_OTHER_NUMBER = re.compile(
    r"(?:#|\b(?:ticket|case|incident|order|booking|invoice|receipt|ref|reference|tracking|shipment|parcel|serial|article"
    r"|item|product|sku|part|batch|commande|facture|pedido|factura|auftrag|vorgang|bestellung|rechnung|sendung)s?[^\w\n]{0,3}(?:(?:number|no|nr|num|id|code)\b"
    r"[^\w\n]{0,3})?|\b(?:account|customer|client|contract|policy|member|user)[ _\-]?(?:number|no|nr|id)\b[^\w\n]{0,3}"
    r"|\b(?!tel|handy|mobil|ruf|fax)[^\W\d_]{3,20}(?:nummer|nr)\b[^\w\n]{0,3})\Z",
    re.IGNORECASE,
)
"""What stands before a number that is a thing's, not a person's."""
_VERSION = re.compile(r"(?:\b(?:version|ver|v|release|firmware|driver|build)[^\w\n]{0,3}|[^\W\d_]/)\Z", re.IGNORECASE)
_DATE = re.compile(
    r"\d{1,2}([./\-])\d{1,2}\1(?:19|20)\d\d(?!\d)|\d{1,2}/(?:19|20)\d\d(?!\d)"
    r"|\d{1,2}([./\-])\d{1,2}\2\d\d,? \d{1,2}[:.]\d\d"
)


def is_payment_card(digits: str) -> bool:
    """Whether digits are a card number: a brand's first digits and length, and Luhn's check digit."""
    from stdnum import luhn

    return _CARD_BRANDS.fullmatch(digits) is not None and luhn.is_valid(digits)


@cache
def _find_iban_length(country: str) -> int:
    """Return the characters of a country's IBANs, from the SWIFT IBAN registry; 0 where it has none."""
    from stdnum import numdb

    form = numdb.get("iban").info(country)[0][1].get("bban")
    return 4 + sum(map(int, re.findall(r"\d+", form))) if form else 0


def _find_iban_end(match: str, before: str) -> int:
    """Return how many characters of a match are the IBAN, 0 for none; capitals that follow belong to the text."""
    from stdnum import iban

    wanted, seen = _find_iban_length(match[:2].upper()), 0
    for end, character in enumerate(match, start=1):
        seen += character != " "
        if seen == wanted:
            return end if iban.is_valid(match[:end], check_country=False) else 0
    return 0


def _find_card_end(match: str, before: str) -> int:
    """Return how many characters of a match are the card number, 0 for none; digits may follow it after a space."""
    if _OTHER_NUMBER.search(before):
        return 0
    ends = [len(match), *(gap.start() for gap in re.finditer("[ -]", match))]
    return max((end for end in ends if is_payment_card(re.sub(r"\D", "", match[:end]))), default=0)


def _find_address_end(match: str, before: str) -> int:
    if "." in match and _VERSION.search(before):
        return 0
    try:
        ipaddress.ip_address(match)
    except ValueError:
        return 0
    return len(match) if len(match) > 4 else 0


def _find_phone_end(match: str, before: str) -> int:
    if not match.startswith("+") and (_DATE.match(match) or _OTHER_NUMBER.search(before)):
        return 0
    if match.startswith(("+", "00")):
        import phonenumbers

        full = re.sub(r"\A00", "+", match)
        number = next(iter(phonenumbers.PhoneNumberMatcher(full, None, phonenumbers.Leniency.POSSIBLE)), None)
        return number.end + len(match) - len(full) if number and number.start == 0 else 0
    return len(match) if 9 <= len(re.sub(r"\D", "", match)) <= 15 else 0


_PATTERNS: dict[str, tuple[re.Pattern[str], Callable[[str, str], int]]] = {
    "email": (
        re.compile(r"(?<![\w.+\-])[\w.+\-]{1,64}@(?:[\w\-]{1,63}\.){1,8}[^\W\d_]{2,24}\b"),
        lambda match, before: len(match),
    ),
    "iban": (re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}"), _find_iban_end),
    "payment_card": (
        re.compile(
            r"(?<![\w.+])(?:\d{13,19}|(?:\d{4}[ \-]){3}\d{1,4}(?:[ \-]\d{1,3})?|\d{4}[ \-]\d{6}[ \-]\d{4,5})(?!\w)"
        ),
        _find_card_end,
    ),
    "ip_address": (
        re.compile(
            r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)|(?=[0-9A-Fa-f]*:[0-9A-Fa-f]*:)[0-9A-Fa-f:]{5,39}(?![\w:]))"
        ),
        _find_address_end,
    ),
    "phone": (
        re.compile(
            r"(?<![\w.+/\-])(?:(?:\+|00)[1-9](?:[ .\-/()]{0,2}\d){6,14}|\(?0[1-9]\d{0,3}\)?(?:[ .\-/]?\d){6,11}"
            r"|\(?[2-9]\d{2}\)?[ .\-]\d{3}[ .\-]\d{4})(?![\w\-]|[.,]\d)"
        ),
        _find_phone_end,
    ),
}
PERSONAL_KINDS = (*_PATTERNS, "name")
"""What is found."""
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
    positions_of_kind: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(texts), _BATCH_TEXTS):
        batch = texts[start : start + _BATCH_TEXTS]
        ends = np.cumsum([len(text) + 1 for text in batch])
        joined = "\n".join(batch)  # one pass per kind, not one per text
        for kind, spans in _find_spans(joined, names):
            if spans:
                owners = np.searchsorted(ends, [begin for begin, _ in spans], side="right")
                positions_of_kind.setdefault(kind, []).append(start + np.unique(owners))
    return {kind: np.concatenate(positions) for kind, positions in positions_of_kind.items()}


def mask_text(text: str, *, names: bool = False) -> str:
    """Return a text with `<EMAIL>`, `<PHONE>`, ... in the place of personal data."""
    return _replace(text, names, lambda kind, characters: f"<{kind.upper()}>")


def cover_text(text: str, *, names: bool = False) -> str:
    """Return a text of the same length with a dot for each character of personal data."""
    return _replace(text, names, lambda kind, characters: "•" * characters)


def _replace(text: str, names: bool, build: Callable[[str, int], str]) -> str:
    spans = sorted((begin, end, kind) for kind, spans in _find_spans(text, names) for begin, end in spans)
    parts, done = [], 0
    for begin, end, kind in spans:
        parts += [text[done:begin], build(kind, end - begin)]
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
            begin = match.start()
            length = find_end(match[0], text[max(begin - _CONTEXT_CHARACTERS, 0) : begin])
            place = begin + max(length, 1)
            if length and not taken.intersection(range(begin, place)):
                spans.append((begin, place))
                taken.update(range(begin, place))
        yield kind, spans
    if names:
        spans = [match.span(1) for match in _NAME.finditer(text)]
        yield "name", [span for span in spans if not taken.intersection(range(*span))]
