"""What a linear probe on a task's frozen features learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.evaluation.metrics import Values


class RowProbe:
    """A task whose output layer reads one vector for each row.

    Attributes:
        per_token: Whether that layer reads a vector for each token of a row instead.
    """

    per_token = False

    def list_examples(
        self, features: Sequence[np.ndarray], encoded: Dataset, references: Values
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what the probe learns from.

        Args:
            features: What the output layer reads, one array per encoded row.
            encoded: The encoded rows.
            references: True values of the raw rows.

        Returns:
            Features, shape (examples, width), and their labels.
        """
        return np.stack(features), np.asarray(references)
