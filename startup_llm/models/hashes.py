"""Hashes of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def compute_sha256(files: Iterable[Path]) -> str:
    """Return the hex SHA-256 over the bytes of `files`, in the given order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
