"""Image data that comes with scikit-learn: small enough for a laptop, split in one stated way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DIGITS_TEST_ROWS = 500
"""Test rows of the 1,797 digits; the other 1,297 are trained on."""


@dataclass(frozen=True)
class LabelledImages:
    """Images in two splits.

    Attributes:
        train_images: Shape (rows, channels, size, size), float32 in [-1, 1].
        train_labels: Shape (rows,), int64.
        test_images: Like train_images.
        test_labels: Like train_labels.
        label_names: Name of each class.
        notes: Sentences about the source and the split.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    label_names: tuple[str, ...]
    notes: tuple[str, ...]


def load_digits(seed: int = 0) -> LabelledImages:
    """Load scikit-learn's 1,797 handwritten digits of 8x8 grey pixels (Alpaydin & Kaynak 1998).

    Pixels 0 to 16 become -1 to 1. The test split holds 500 images, drawn by `seed` with every digit in proportion.

    Args:
        seed: Seed of the split.
    """
    import numpy as np
    import torch
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    digits = datasets.load_digits()
    rows = np.arange(len(digits.target))
    train, test = train_test_split(rows, test_size=DIGITS_TEST_ROWS, random_state=seed, stratify=digits.target)
    images = torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32)
    labels = torch.tensor(digits.target, dtype=torch.int64)
    return LabelledImages(
        images[train],
        labels[train],
        images[test],
        labels[test],
        tuple(str(name) for name in digits.target_names),
        (
            "The digits come with scikit-learn: 1,797 grey images of 8x8 pixels in 10 classes.",
            f"{len(train):,} images are trained on and {len(test)} tested on, stratified by digit (seed {seed}).",
        ),
    )
