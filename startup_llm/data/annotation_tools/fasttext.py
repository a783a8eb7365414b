"""fastText's lines (https://fasttext.cc/docs/en/supervised-tutorial.html): labels behind a prefix, then the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from startup_llm.errors import UserError

if TYPE_CHECKING:
    import pyarrow

PREFIX = "__label__"


def read_fasttext(name: str, text: str) -> pyarrow.Table:
    """Read lines of labels, each behind `__label__`, and a text.

    Args:
        name: The file's name, for errors.
        text: Its content.

    Returns:
        Columns text and label: a name where every line has one label, a list where one has several.

    Raises:
        UserError: If a line has no label, or no text behind its labels.
    """
    import pyarrow

    texts, labels = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.split()
        if not words:
            continue
        own = [word.removeprefix(PREFIX) for word in words if word.startswith(PREFIX)]
        rest = " ".join(word for word in words if not word.startswith(PREFIX))
        if not all(own) or not own or not rest:
            missing = "text" if own and not rest else "label"
            raise UserError(f"{name}: line {number} has no {missing}: {line[:60]!r}; expected {PREFIX}NAME TEXT")
        texts.append(rest)
        labels.append(list(dict.fromkeys(own)))
    is_single = all(len(own) == 1 for own in labels)
    return pyarrow.table({"text": texts, "label": [own[0] for own in labels] if is_single else labels})


READERS = {"txt": read_fasttext, "ft": read_fasttext}
"""What reads labelled texts beside tables."""
