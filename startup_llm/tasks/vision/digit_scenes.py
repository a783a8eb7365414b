"""Scenes of scanned digits: real 8x8 digits of scikit-learn, pasted at known places onto drawn paper."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from startup_llm.data.digits import DIGITS_TEST_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CANVAS_PIXELS = 64
SCENES = {"train": 2000, "validation": 200, "test": 500}
"""Scenes of each split, no two of which show the same scan."""
VALIDATION_DIGITS = 130
MOST_DIGITS = 5
"""A scene shows 1 to this many digits."""
_HEIGHTS = (10, 20)
_MOST_SHARED = 0.1
_INK_LEVELS = 16
_LINE_SHARE = 0.3


@dataclass(frozen=True)
class Scene:
    """A picture and what stands where in it.

    Attributes:
        png: The picture as a PNG file of `CANVAS_PIXELS` grey pixels a side.
        labels: The digits.
        boxes: For each digit left, top, width and height of its ink, in pixels.
    """

    png: bytes
    labels: Sequence[int]
    boxes: Sequence[Sequence[float]]


def build_digit_scenes(seed: int, counts: Mapping[str, int] = SCENES) -> dict[str, list[Scene]]:
    """Draw the scenes of each split.

    The test split's scenes show the 500 digits that `load_digits` tests on, the validation split's 130 others, the
    training split's the rest. Paper has a brightness, a slope of it and noise; ink has a strength; now and then a
    ruled line crosses the paper; and neighbours may touch.

    Args:
        seed: Seed of the split of the digits and of the scenes.
        counts: Scenes of the splits train, validation and test.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    kept, test = train_test_split(
        np.arange(len(digits.target)), test_size=DIGITS_TEST_ROWS, random_state=seed, stratify=digits.target
    )
    train, validation = train_test_split(
        kept, test_size=VALIDATION_DIGITS, random_state=seed, stratify=digits.target[kept]
    )
    ink = [_cut_ink(image / _INK_LEVELS) for image in digits.images]
    scenes = {}
    for place, (split, rows) in enumerate((("train", train), ("validation", validation), ("test", test))):
        generator = np.random.default_rng([seed, place])
        scenes[split] = [_draw_scene(ink, digits.target, rows, generator) for _ in range(counts[split])]
    return scenes


def _cut_ink(image: np.ndarray) -> np.ndarray:
    """Return the part of a digit that holds ink."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _draw_scene(
    ink: Sequence[np.ndarray], labels: np.ndarray, rows: np.ndarray, generator: np.random.Generator
) -> Scene:
    from PIL import Image

    size = CANVAS_PIXELS
    across, down = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    slope = generator.uniform(-0.1, 0.1, 2)
    paper = generator.uniform(0.7, 0.95) + slope[0] * across + slope[1] * down
    paper += generator.normal(0, generator.uniform(0.0, 0.05), (size, size))
    if generator.random() < _LINE_SHARE:
        paper[generator.integers(size)] -= generator.uniform(0.1, 0.4)
    boxes: list[tuple[int, int, int, int]] = []
    shown = []
    for row in generator.choice(rows, generator.integers(1, MOST_DIGITS + 1), replace=False):
        height = int(generator.integers(_HEIGHTS[0], _HEIGHTS[1] + 1))
        width = max(3, round(height * ink[row].shape[1] / 8 * generator.uniform(0.8, 1.2)))
        if (place := _find_place(width, height, boxes, generator)) is None:
            continue
        left, top = place
        drawn = Image.fromarray((255 * ink[row]).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
        strength = generator.uniform(0.4, 0.7)
        paper[top : top + height, left : left + width] -= strength * np.asarray(drawn) / 255
        boxes.append((left, top, width, height))
        shown.append(int(labels[row]))
    stream = io.BytesIO()
    Image.fromarray((255 * paper.clip(0, 1)).astype(np.uint8)).save(stream, "png")
    return Scene(stream.getvalue(), shown, [[float(value) for value in box] for box in boxes])


def _find_place(
    width: int, height: int, taken: Sequence[tuple[int, int, int, int]], generator: np.random.Generator
) -> tuple[int, int] | None:
    """Return left and top of a box that covers little of the others; None where a few draws find none."""
    for _ in range(20):
        left, top = (int(generator.integers(CANVAS_PIXELS - edge + 1)) for edge in (width, height))
        shared = [
            max(0, min(left + width, x + w) - max(left, x)) * max(0, min(top + height, y + h) - max(top, y)) / (w * h)
            for x, y, w, h in taken
        ]
        if max(shared, default=0.0) <= _MOST_SHARED:
            return left, top
    return None
