"""What people say of the answers that they try: rows with the right label, kept for the next training."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from startup_llm.errors import UserError


class CorrectionFile:
    """A file of JSON lines that corrections are added to: the row's columns, label, predicted and time.

    Args:
        path: The file; it may exist.

    Raises:
        UserError: If it cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path, self._lock = Path(path), threading.Lock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.open("a", encoding="utf-8").close()
        except OSError as error:
            raise UserError(f"corrections {path!r}: {error.strerror}; name a file that can be written") from None

    def add(self, row: Mapping[str, Any], label: str, predicted: Any) -> None:
        """Add a row with the label that a person gave it.

        Args:
            row: Its columns.
            label: The right label.
            predicted: What the model had answered.
        """
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({**row, "label": label, "predicted": predicted, "time": stamp}, ensure_ascii=False)
        with self._lock, self._path.open("ab", buffering=0) as file:  # in one piece, as other workers write too
            file.write(f"{line}\n".encode())
