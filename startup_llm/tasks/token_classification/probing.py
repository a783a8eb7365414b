"""A linear probe on the tokens that decide on words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from startup_llm.tasks.probing import RowProbe

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.evaluation.metrics import Values

IGNORED = -100
"""Label of a token that does not count: the further tokens of a word, and those around the text."""


class TokenProbe(RowProbe):
    """The output layer reads a vector for each token."""

    per_token = True

    def list_examples(
        self, features: Sequence[np.ndarray], encoded: Dataset, references: Values
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of the tokens that decide on a word, and the words' tags."""
        labels = [np.asarray(row) for row in encoded["labels"]]
        kept = [row[own != IGNORED] for row, own in zip(features, labels, strict=True)]
        return np.concatenate(kept), np.concatenate([own[own != IGNORED] for own in labels])
