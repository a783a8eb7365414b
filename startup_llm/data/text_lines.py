"""The lines of a text file or a pipe, in the encoding that it has."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import IO

from startup_llm.errors import UserError
from startup_llm.plain_data import explain_broken_gzip

LONGEST_LINE = 64 * 2**20
"""Characters; a longer line, or CSV cell, is taken for a mistake, such as a quote that is never closed."""
UTF_8 = "utf-8-sig"
"""UTF-8, with or without a byte order mark."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHUNK_BYTES = 2**16
_SAMPLE_BYTES = 2**14
_NOT_DECODED = re.compile("[\udc80-\udcff]")
"""What the error handler surrogateescape makes of a byte that is no UTF-8."""


def find_encoding(stream: IO[bytes], name: str, option: str) -> str:
    """Return the encoding of a file: by its byte order mark, by its zero bytes, UTF-8, or as chardet takes it.

    Args:
        stream: The file, decompressed; it is read up to the first byte that is no UTF-8.
        name: The file, for the errors.
        option: What names the encoding, for the errors.

    Returns:
        Python's name of the encoding. UTF-8 too where most of the text is, so that reading names what is not.

    Raises:
        UserError: If the encoding is not recognised.
    """
    chunk = stream.read(_CHUNK_BYTES)
    if encoding := read_mark(chunk):
        return encoding
    even, odd = chunk[:1000:2].count(0), chunk[1:1000:2].count(0)
    if len(chunk) % 2 == 0 and max(even, odd) > len(chunk[:1000]) // 4 > 0 == min(even, odd):
        return "utf-16-le" if odd else "utf-16-be"
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines, number = chunk, 1
    try:
        while chunk:
            decoder.decode(chunk)
            number += chunk.count(b"\n")
            lines, chunk = chunk, stream.read(_CHUNK_BYTES)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        sample, start = (error.object, error.start) if chunk else (lines, len(lines))
        return _recognise_encoding(sample, start, number + sample.count(b"\n", 0, start), name, option)
    return UTF_8


def read_mark(start: bytes) -> str | None:
    """Return the encoding that a file's first bytes, its byte order mark, stand for; None where there is no such."""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), None)


def _recognise_encoding(content: bytes, start: int, line: int, name: str, option: str) -> str:
    """Return the encoding of bytes that are no UTF-8.

    chardet is right for more of the European and Japanese encodings in short texts than charset-normalizer is.
    """
    import chardet

    text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if sum(not character.isascii() for character in text) > 2 * broken:
        return UTF_8
    sample = b"\n".join(row for row in content.splitlines() if not row.isascii())[:_SAMPLE_BYTES]
    encoding = chardet.detect(sample)["encoding"]
    if encoding is None:
        raise UserError(
            f"{name}: not UTF-8 (line {line}: {_quote_around(content, start)}), and its encoding is not recognised; "
            f"name it, such as {option} cp1252"
        )
    return encoding.lower()


def _quote_around(content: bytes, start: int) -> str:
    return repr(content[max(start - 10, 0) : start + 10])[1:]


def check_encoding(encoding: str) -> None:
    """Check an encoding's name.

    Raises:
        UserError: If Python knows no such encoding of text.
    """
    try:
        "".encode(encoding)
    except LookupError:
        raise UserError(f"encoding {encoding!r} is not known; name it such as utf-8, cp1252, big5, utf-16") from None


class Lines:
    """The lines of a stream, each with its end.

    Args:
        stream: Bytes, decompressed.
        name: The file, for the errors.
        encoding: Python's name of its encoding.
        option: What names the encoding, for the errors.
        every_end: Whether a carriage return ends a line too, as in CSV.

    Attributes:
        number: Lines read so far.
        kept: Lines read since it was last cleared.

    Raises:
        UserError: While iterating, if a line is too long, is not text, or cannot be decoded; it names the line.
    """

    def __init__(self, stream: IO[bytes], name: str, encoding: str, option: str, *, every_end: bool = False) -> None:
        self._name, self._encoding, self._option = name, encoding, option
        self.number = 0
        self.kept: list[str] = []
        errors = "surrogateescape" if encoding == UTF_8 else "strict"
        self._text = io.TextIOWrapper(stream, encoding, errors, newline="" if every_end else "\n")
        self._lines = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def _read(self) -> Iterator[str]:
        keep = self.kept.append
        try:
            with explain_broken_gzip(self._name):
                while line := self._text.readline(LONGEST_LINE + 1):
                    self.number += 1
                    if "\0" in line or len(line) > LONGEST_LINE or not line.isascii():
                        self._check(line)
                    keep(line)
                    yield line
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self._name}: read as {self._encoding}, in which {_quote_around(error.object, error.start)} after "
                f"line {self.number} is no text; name the right encoding with {self._option}"
            ) from None

    def _check(self, line: str) -> None:
        if len(line) > LONGEST_LINE:
            raise UserError(f"{self._name}: line {self.number} is longer than {LONGEST_LINE:,} characters")
        if "\0" in line:
            raise UserError(
                f"{self._name}: a NUL character in line {self.number}; expected text (is it a binary file?)"
            )
        if self._encoding == UTF_8 and (broken := _NOT_DECODED.search(line)):
            raise UserError(
                f"{self._name}: not UTF-8: byte 0x{ord(broken[0]) - 0xDC00:02x} in line {self.number}, character "
                f"{broken.start() + 1}; fix the line, or name the file's encoding, such as {self._option} cp1252"
            )

    def detach(self) -> None:
        """Leave the stream open for others when this object goes."""
        self._text.detach()
