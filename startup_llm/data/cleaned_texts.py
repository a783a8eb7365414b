"""Texts without HTML, quoted replies and signatures, as a helpdesk's export has them."""

from __future__ import annotations

import html
import importlib.util
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from startup_llm.errors import UserError, nearest

KINDS = ("html", "signature", "quoted")
_LIBRARIES = {"html": "selectolax", "signature": "mailparser_reply", "quoted": "mailparser_reply"}
_MAIL_LANGUAGES = ("en", "cs", "da", "de", "es", "fr", "it", "ja", "ko", "nl", "pl", "sv", "zh")
_TAG = re.compile(
    r"</?(a|b|blockquote|body|br|code|div|em|font|h[1-6]|head|hr|html|i|img|li|meta|ol|p|pre|s|span|strong|style|table|"
    r"tbody|td|th|title|tr|u|ul)(\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(#\d{1,7}|#x[0-9a-f]{1,6}|amp|lt|gt|quot|apos|nbsp|[a-z]{2,8});", re.IGNORECASE)
_BLOCKS = "blockquote, br, dd, div, dt, h1, h2, h3, h4, h5, h6, hr, li, ol, p, pre, table, tr, ul"
_IS_LAID_OUT = re.compile(r"<(br|p|div|table|tr|li|ul|ol|h[1-6]|html|body)\b", re.IGNORECASE)
_QUOTED_IN_HTML = "blockquote[type=cite], .gmail_quote, .yahoo_quoted, .moz-cite-prefix"
_SIGNATURE_IN_HTML = ".gmail_signature, .moz-signature"
_QUOTED = re.compile(
    r"^\s*>|^-{2,}\s*Original Message|^(On|Am|Le|El|Il) .{6,100}(wrote|schrieb|écrit|escribió|ha scritto)",
    re.MULTILINE,
)
_FEWEST_SHARE = 0.01
_SAMPLE = 2_000


def read_cleaning(value: str | None) -> tuple[str, ...]:
    """Split data.clean at its commas.

    Raises:
        UserError: If a part is not one of `KINDS`, or the library for it is missing.
    """
    kinds = tuple(kind.strip() for kind in (value or "").strip("[]").split(",") if kind.strip())
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"data.clean: {kind!r} is none of {', '.join(KINDS)}{nearest(kind, KINDS)}")
        if importlib.util.find_spec(_LIBRARIES[kind]) is None:
            raise UserError(f"data.clean {kind} needs the extra clean: pip install 'startup-llm[clean]'")
    return tuple(kind for kind in KINDS if kind in kinds)


def clean_text(text: Any, kinds: Sequence[str]) -> Any:
    """Return a text without HTML, quoted replies and the signature; what is no text stays as it is.

    Where nothing but a quoted reply or a signature stands in a text, it stays.

    Args:
        text: The text.
        kinds: What is removed, of `KINDS`.
    """
    if not isinstance(text, str) or not kinds:
        return text
    if "html" in kinds:
        text = _strip_html(text, kinds)
    if "signature" in kinds or "quoted" in kinds:
        text = _strip_mail(text, kinds)
    return text


def _strip_html(text: str, kinds: Sequence[str]) -> str:
    if not _TAG.search(text):
        return html.unescape(text).replace("\xa0", " ") if _ENTITY.search(text) else text
    from selectolax.lexbor import LexborHTMLParser

    if _IS_LAID_OUT.search(text):  # a line break of the source is a blank then
        text = " ".join(text.split())
    tree = LexborHTMLParser(text)
    hidden = ["script", "style", "head"]
    hidden += [_QUOTED_IN_HTML] * ("quoted" in kinds) + [_SIGNATURE_IN_HTML] * ("signature" in kinds)
    for node in tree.css(", ".join(hidden)):
        node.decompose()
    for node in tree.css(_BLOCKS):
        node.insert_before("\n")
        if node.tag != "br":
            node.insert_after("\n")
    for node in tree.css("td, th"):
        node.insert_after(" ")
    lines = (" ".join(line.split()) for line in (tree.root.text() if tree.root else "").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


@cache
def _mail_parser() -> Any:
    from mailparser_reply import EmailReplyParser

    return EmailReplyParser(languages=list(_MAIL_LANGUAGES))


def _strip_mail(text: str, kinds: Sequence[str]) -> str:
    replies = _mail_parser().read(text=text).replies
    if not replies:
        return text
    parts = [(replies[0].body if "signature" in kinds else replies[0].content) or ""]
    if "quoted" in kinds:
        parts = ["\n".join(line for line in parts[0].split("\n") if not line.lstrip().startswith(">"))]
    else:
        parts += [reply.content or "" for reply in replies[1:]]
    return "\n\n".join(filter(None, map(str.strip, parts))) or text


def propose_cleaning(texts: Iterable[Any], kinds: Sequence[str]) -> list[str]:
    """Return a note on HTML and quoted replies in texts that are not to be cleaned of them.

    Args:
        texts: Of the training split; the first 2,000 are inspected.
        kinds: What is removed already.
    """
    sample = [text for text, _ in zip(texts, range(_SAMPLE), strict=False) if isinstance(text, str)]
    notes = []
    for kind, pattern, what in (("html", _TAG, "HTML"), ("quoted", _QUOTED, "quoted replies")):
        matches = [match[0].strip() for text in sample if (match := pattern.search(text))] if kind not in kinds else []
        if matches and len(matches) >= _FEWEST_SHARE * len(sample):
            option = ",".join(part for part in KINDS if part in (*kinds, kind))
            notes.append(
                f"{len(matches):,} of {len(sample):,} training texts hold {what} ({matches[0][:40]!r}); --data.clean "
                f"{option} removes it, in predictions too."
            )
    return notes
