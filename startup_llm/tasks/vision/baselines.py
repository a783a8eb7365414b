"""Honest baselines for images.

For labels the nearest training images; for boxes those that a class usually has, and patches of ink that look like
known objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.vision.labelled_images import read_images

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from PIL.Image import Image

    from startup_llm.data.task_data import TaskData

MOST_IMAGES = 2000
"""Training images that the nearest pixels are looked for in, drawn by seed 0."""
_MOST_PIXELS = 256
_SIDE = 12
_NEIGHBOURS = 5
_SAME_OBJECT = 0.5


def predict_nearest_pixels(splits: DatasetDict, data: TaskData) -> np.ndarray:
    """Answer as most of the 5 training images do whose pixels are nearest, all shrunk to at most 32x32 pixels."""
    from sklearn.neighbors import KNeighborsClassifier

    side = min(32, *(min(image.size) for image in read_images(splits["train"])))

    def read_pixels(rows: Any) -> np.ndarray:
        return np.stack([np.asarray(image.resize((side, side)), np.float32).ravel() for image in read_images(rows)])

    model = KNeighborsClassifier(min(5, len(splits["train"])))
    model.fit(read_pixels(splits["train"]), np.asarray(splits["train"]["label"]))
    return model.predict(read_pixels(splits["test"]))


def predict_mean_boxes(splits: DatasetDict, data: TaskData) -> list[dict[str, list[Any]]]:
    """Answer each image with every class's mean box in shares of the image, as sure as the class is frequent."""
    boxes: dict[int, list[np.ndarray]] = {}
    train = splits["train"]
    for width, height, objects in zip(train["width"], train["height"], train["objects"], strict=True):
        for category, box in zip(objects["category"], objects["bbox"], strict=True):
            boxes.setdefault(category, []).append(np.divide(box, [width, height, width, height]))
    labels = sorted(boxes, key=lambda label: (-len(boxes[label]), label))
    scores = [len(boxes[label]) / sum(map(len, boxes.values())) for label in labels]
    means = [np.mean(boxes[label], axis=0) for label in labels]
    return [
        {
            "labels": labels,
            "boxes": [(mean * [width, height, width, height]).round(2).tolist() for mean in means],
            "scores": scores,
        }
        for width, height in zip(splits["test"]["width"], splits["test"]["height"], strict=True)
    ]


def predict_components_nearest_pixels(splits: DatasetDict, data: TaskData) -> list[dict[str, list[Any]]]:
    """Answer with the connected patches that stand out of an image, each as its 5 nearest training crops are.

    A pixel stands out where it differs from the image's median by more than Otsu's threshold (Otsu 1979). Crops are
    the training boxes with their classes, and the patches of training images that are no object. The score is the
    share of neighbours of the class.
    """
    from sklearn.neighbors import KNeighborsClassifier

    train = splits["train"]
    if len(train) > MOST_IMAGES:
        drawn = np.random.default_rng(0).choice(len(train), MOST_IMAGES, replace=False)
        train = train.select(np.sort(drawn))
    nothing = len(data.label_names)
    crops, labels, sides = [], [], []
    for pixels, scale, objects in zip(*_read_grey(train), train["objects"], strict=True):
        true = np.asarray(objects["bbox"], dtype=float).reshape(-1, 4) * scale
        for category, box in zip(objects["category"], true, strict=True):
            crops.append(_crop(pixels, box))
            labels.append(category)
            sides.append(box[2:].max())
        for patch in _find_patches(pixels, 2.0):
            if not len(true) or _overlap(patch, true).max() < _SAME_OBJECT:
                crops.append(_crop(pixels, patch))
                labels.append(nothing)
    model = KNeighborsClassifier(min(_NEIGHBOURS, len(crops))).fit(np.stack(crops), labels)
    known, least = model.classes_.tolist(), float(np.quantile(sides, 0.01))
    detections = []
    for pixels, scale in zip(*_read_grey(splits["test"]), strict=True):
        row: dict[str, list[Any]] = {"labels": [], "boxes": [], "scores": []}
        patches = _find_patches(pixels, least)
        if patches:
            shares = model.predict_proba(np.stack([_crop(pixels, patch) for patch in patches]))
            for patch, votes in zip(patches, shares, strict=True):
                for label, share in zip(known, votes.tolist(), strict=True):
                    if share > 0 and label != nothing:
                        row["labels"].append(label)
                        row["boxes"].append((patch / scale).round(2).tolist())
                        row["scores"].append(share)
        detections.append(row)
    return detections


def _read_grey(rows: Dataset) -> tuple[Iterator[np.ndarray], Iterator[float]]:
    """Return grey images of at most 256 pixels a side, and by how much each was shrunk."""
    scales = [min(1.0, _MOST_PIXELS / max(size)) for size in zip(rows["width"], rows["height"], strict=True)]

    def shrink(image: Image, scale: float) -> np.ndarray:
        size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
        return np.asarray(image.convert("L").resize(size) if scale < 1 else image.convert("L"), dtype=float)

    return (shrink(*pair) for pair in zip(read_images(rows), scales, strict=True)), iter(scales)


def _find_patches(pixels: np.ndarray, least_pixels: float) -> list[np.ndarray]:
    """Return left, top, width and height of each connected patch whose longer side has at least so many pixels."""
    from scipy import ndimage

    difference = np.abs(pixels - np.median(pixels))
    marked, _ = ndimage.label(difference > _compute_otsu(difference), structure=np.ones((3, 3)))
    boxes = [
        np.array([across.start, down.start, across.stop - across.start, down.stop - down.start], dtype=float)
        for down, across in ndimage.find_objects(marked)
    ]
    return [box for box in boxes if box[2:].max() >= least_pixels]


def _compute_otsu(values: np.ndarray) -> float:
    """Return the threshold that separates the values into two groups of least spread."""
    counts, edges = np.histogram(values, bins=64)
    middles = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1:][int(np.argmax(np.nan_to_num(between)))])


def _crop(pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return a box's pixels as a square, from 0 to 1 between its darkest and its brightest, and the box's shape."""
    from PIL import Image

    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.maximum(np.ceil(box[:2] + box[2:]).astype(int), [left + 1, top + 1])
    part = Image.fromarray(pixels[top:bottom, left:right].astype(np.float32)).resize((_SIDE, _SIDE))
    values = np.asarray(part, dtype=float)
    values = (values - values.min()) / max(float(np.ptp(values)), 1.0)
    return np.append(values.ravel(), box[2] / (box[2] + box[3]))


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return intersection over union of a box with each other one."""
    corner = np.maximum(box[:2], others[:, :2])
    end = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared = (end - corner).clip(min=0).prod(axis=1)
    return shared / (box[2:].prod() + others[:, 2:].prod(axis=1) - shared)
