"""COCO's average precision of boxes: matched and summed up by pycocotools, resampled from the kept matches.

Precision and recall come from one ranking of all detections of a class, so they do not add up over images. What stays
the same in a resample of images is which detection found which box. So each image is matched once, and a resample
weighs the matches by how often their image was drawn.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.evaluation.metrics import Metric

Boxes = Mapping[str, Sequence[Any]]
"""What is in an image: labels (class ids), boxes (left, top, width, height in pixels), and scores of found boxes, or
for true ones crowds (1 where a box holds a crowd, which counts for nobody)."""

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""A detection finds a box where their intersection is this share of their union (Lin et al. 2014)."""
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
MOST_DETECTIONS = 100
"""Detections of a class in an image that count, the surest first."""


@dataclass(frozen=True)
class Matches:
    """Which detections found a box.

    Attributes:
        classes: Class ids that have a true box, shape (classes,).
        positives: True boxes that are no crowd, shape (images, classes).
        detections: For each class: image of each detection, surest first, shape (detections,); whether it found a box
            of its own at each threshold, and whether it lies in a crowd, so that it does not count, both shape
            (detections, thresholds).
        precision: As the library sums them up, shape (thresholds, recall points, classes).
        recall: Likewise, shape (thresholds, classes).
    """

    classes: np.ndarray
    positives: np.ndarray
    detections: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    precision: np.ndarray
    recall: np.ndarray


def compute_mean_average_precision(references: Sequence[Boxes], predictions: Sequence[Boxes]) -> float:
    """Return the mean over classes and ten thresholds of overlap, 0.50 to 0.95: COCO's AP."""
    return _mean(match_boxes(references, predictions).precision)


def compute_average_precision_50(references: Sequence[Boxes], predictions: Sequence[Boxes]) -> float:
    """Return the mean over classes at an overlap of 0.50: COCO's AP50, PASCAL VOC's."""
    return _mean(match_boxes(references, predictions).precision[:1])


def compute_average_recall(references: Sequence[Boxes], predictions: Sequence[Boxes]) -> float:
    """Return the share of boxes that are found, mean over classes and thresholds: COCO's AR with 100 detections."""
    return _mean(match_boxes(references, predictions).recall)


def prepare_average_precision(
    references: Sequence[Boxes], predictions: Sequence[Boxes], thresholds: slice = slice(None)
) -> Callable[[np.ndarray], float]:
    """Return the mean average precision as a function of the images that are drawn.

    Args:
        references: True boxes of each image.
        predictions: Found boxes of each image.
        thresholds: Which of `IOU_THRESHOLDS`.
    """
    return functools.partial(_Resampler(match_boxes(references, predictions), thresholds).measure, precision=True)


def prepare_average_precision_50(
    references: Sequence[Boxes], predictions: Sequence[Boxes]
) -> Callable[[np.ndarray], float]:
    """Return `compute_average_precision_50` as a function of the images that are drawn."""
    return prepare_average_precision(references, predictions, slice(1))


def prepare_average_recall(references: Sequence[Boxes], predictions: Sequence[Boxes]) -> Callable[[np.ndarray], float]:
    """Return `compute_average_recall` as a function of the images that are drawn."""
    return functools.partial(_Resampler(match_boxes(references, predictions)).measure, precision=False)


def compute_class_scores(
    references: Sequence[Boxes], predictions: Sequence[Boxes], label_names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return for each class that has a true box: average precision, that at 0.50, recall, and its boxes (rows)."""
    matches = match_boxes(references, predictions)
    return {
        label_names[label]: {
            "average_precision": _mean(matches.precision[:, :, place]),
            "average_precision_50": _mean(matches.precision[:1, :, place]),
            "average_recall": _mean(matches.recall[:, place]),
            "rows": int(matches.positives[:, place].sum()),
        }
        for place, label in enumerate(matches.classes.tolist())
        if matches.positives[:, place].any()
    }


def match_boxes(references: Sequence[Boxes], predictions: Sequence[Boxes]) -> Matches:
    """Match every image's boxes by pycocotools; the last few results are kept.

    Raises:
        UserError: If pycocotools is not installed.
    """
    return _match(*(_Text(json.dumps([dict(row) for row in rows])) for rows in (references, predictions)))


class _Text(str):
    """A long text that is looked up by a digest of it."""

    def __hash__(self) -> int:
        return int.from_bytes(hashlib.sha256(self.encode()).digest()[:8], "big")


@functools.lru_cache(maxsize=8)
def _match(references: str, predictions: str) -> Matches:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UserError("boxes are matched by pycocotools; pip install 'startup-llm[detection]'") from None
    true, detected = json.loads(references), json.loads(predictions)
    classes = sorted({label for row in true for label in row["labels"]})
    with contextlib.redirect_stdout(io.StringIO()):  # it reports on its progress
        evaluation = COCOeval(_index(COCO(), true, classes), _index(COCO(), detected, classes), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST_DETECTIONS]
        evaluation.params.imgIds, evaluation.params.catIds = list(range(len(true))), classes
        evaluation.evaluate()
        evaluation.accumulate()
    cells = iter(evaluation.evalImgs)  # by class, then by image
    positives, detections = np.zeros((len(true), len(classes))), []
    for place in range(len(classes)):
        kept = [(image, cell) for image, cell in zip(range(len(true)), cells, strict=False) if cell is not None]
        scores, images, right, left_out = [np.empty(0)], [np.empty(0, int)], [], []
        for image, cell in kept:
            positives[image, place] = np.sum(np.asarray(cell["gtIgnore"]) == 0)
            scores.append(np.asarray(cell["dtScores"], dtype=float))
            images.append(np.full(len(cell["dtScores"]), image))
            ignored = np.asarray(cell["dtIgnore"], dtype=bool).T
            right.append((np.asarray(cell["dtMatches"]).T > 0) & ~ignored)
            left_out.append(ignored)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        none = np.zeros((0, len(IOU_THRESHOLDS)), bool)
        matched, skipped = (np.concatenate([none, *part])[order] for part in (right, left_out))
        detections.append((np.concatenate(images)[order], matched, skipped))
    return Matches(
        np.asarray(classes, dtype=int),
        positives,
        detections,
        evaluation.eval["precision"][:, :, :, 0, 0],
        evaluation.eval["recall"][:, :, 0, 0],
    )


def _index(coco: Any, rows: Sequence[Boxes], classes: Sequence[int]) -> Any:
    """Fill a `COCO` object with the boxes of images; its ids begin at 1, as 0 stands for no match there."""
    annotations = []
    for image, row in enumerate(rows):
        extra = row.get("scores") or row.get("crowds") or []
        for label, box, value in zip(row["labels"], row["boxes"], extra, strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": list(box)}
            properties = {"score": value, "iscrowd": 0} if "scores" in row else {"iscrowd": int(value)}
            annotations.append({**entry, **properties, "area": box[2] * box[3]})
    images, categories = [{"id": image} for image in range(len(rows))], [{"id": label} for label in classes]
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    return coco


class _Resampler:
    """Sums up matches whose images count several times or not at all, exactly as if they stood there that often.

    A segment is a class at a threshold. Only detections that found a box end a step of the curve, so precision is
    looked at there alone.
    """

    def __init__(self, matches: Matches, thresholds: slice = slice(None)) -> None:
        self.positives = matches.positives
        chosen = np.arange(len(IOU_THRESHOLDS))[thresholds]
        self.segment_class = np.repeat(np.arange(len(matches.classes)), len(chosen))
        images, patterns, found_place, found_segment = [], [], [], []
        start = 0
        for place, (image, right, ignored) in enumerate(matches.detections):
            images.append(image)
            for column, threshold in enumerate(chosen):
                hits = np.flatnonzero(right[:, threshold])
                found_place.append(start + hits)
                found_segment.append(np.full(len(hits), place * len(chosen) + column))
            patterns.append(ignored[:, chosen])
            start += len(image)
        self.image = np.concatenate([np.empty(0, int), *images])
        self.counts_not = np.concatenate([np.zeros((0, len(chosen)), bool), *patterns])
        self.found_place = np.concatenate([np.empty(0, int), *found_place])  # (found,)
        self.found_segment = np.concatenate([np.empty(0, int), *found_segment])
        sizes = np.array([len(image) for image in images], dtype=int)
        self.class_start = (np.cumsum(sizes) - sizes)[self.segment_class[self.found_segment]]
        segments = np.arange(len(self.segment_class))
        self.first = np.searchsorted(self.found_segment, segments, "left")
        self.end = np.searchsorted(self.found_segment, segments, "right")
        self.column = self.found_segment % max(len(chosen), 1)

    def measure(self, rows: np.ndarray, *, precision: bool) -> float:
        """Return the mean average precision, or the mean recall, of drawn images; 0 where none of them has a box.

        Args:
            rows: Their numbers, shape (drawn,).
            precision: Which of the two.
        """
        weight = np.bincount(rows, minlength=len(self.positives)).astype(float)
        by_class = weight @ self.positives
        positives = by_class[self.segment_class]  # (segments,)
        present = positives > 0
        if not present.any():
            return 0.0
        found_weight = _sum_behind(weight[self.image[self.found_place]])
        before = found_weight[self.first]
        found_so_far = found_weight[1:] - before[self.found_segment]  # (found,)
        if not precision:
            return float(((found_weight[self.end] - before)[present] / positives[present]).mean())
        detected = self._count_detections(weight)
        exact = np.divide(found_so_far, detected, out=np.zeros_like(detected), where=detected > 0)
        above = 2.0 * (len(self.segment_class) - self.found_segment)  # keeps the segments apart
        best = np.maximum.accumulate((exact + above)[::-1])[::-1] - above  # the best precision from here on
        segments = np.flatnonzero(present)
        needed = _count_needed(np.maximum(by_class, 1))[self.segment_class[segments]]  # (segments, recall points)
        apart = weight.sum() * self.positives.sum() + 1
        place = np.searchsorted(self.found_segment * apart + found_so_far, segments[:, None] * apart + needed)
        reached = place < self.end[segments][:, None]
        return float(np.where(reached, np.append(best, 0.0)[place], 0.0).mean())

    def _count_detections(self, weight: np.ndarray) -> np.ndarray:
        """Return how many detections that count stand before each that found a box, itself among them."""
        drawn = weight[self.image]
        if not self.counts_not.any():
            behind = _sum_behind(drawn)
            return behind[self.found_place + 1] - behind[self.class_start]
        behind = np.vstack([np.zeros(self.counts_not.shape[1]), np.cumsum(drawn[:, None] * ~self.counts_not, axis=0)])
        return behind[self.found_place + 1, self.column] - behind[self.class_start, self.column]


def _sum_behind(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(values)])


def _count_needed(positives: np.ndarray) -> np.ndarray:
    """Return the least number of found boxes whose share of all reaches each recall point, at least 1.

    Shares are compared as they are computed, in double precision, since the library does so.
    """
    total = positives[:, None]
    needed = np.ceil(RECALL_POINTS * total)
    needed = np.where((needed - 1) / total >= RECALL_POINTS, needed - 1, needed)
    needed = np.where(needed / total < RECALL_POINTS, needed + 1, needed)
    return np.maximum(needed, 1)


def _mean(values: np.ndarray) -> float:
    """Return the mean of what is known: -1 stands for a class without a true box."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


MEAN_AVERAGE_PRECISION = Metric(
    "mean_average_precision", compute_mean_average_precision, prepare=prepare_average_precision
)
AVERAGE_PRECISION_50 = Metric(
    "average_precision_50", compute_average_precision_50, prepare=prepare_average_precision_50
)
AVERAGE_RECALL = Metric("average_recall", compute_average_recall, prepare=prepare_average_recall)
