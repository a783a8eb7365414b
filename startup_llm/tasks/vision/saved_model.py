"""Saved models that read images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.saved_model import SavedModel, compare_labels
from startup_llm.tasks.vision.detector import compute_comparable, detect
from startup_llm.tasks.vision.labelled_images import read_images
from startup_llm.tasks.vision.prediction import write_objects

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel

CHECKED_ROWS = 16


class SavedImageClassifier(SavedModel):
    """Loaded by transformers, or where it is an `ImageDnn` by its own loader."""

    auto_class = "AutoModelForImageClassification"
    auto_processor = "AutoImageProcessor"

    def has_own_format(self, path: str) -> bool:
        """Return whether an `ImageDnn` lies there."""
        from startup_llm.models.scratch.image import holds_image_dnn

        return holds_image_dnn(path)

    def load(self, path: str, **arguments: Any) -> PreTrainedModel:
        """Load with `AutoModelForImageClassification`, an `ImageDnn` with its own loader."""
        from startup_llm.models.scratch.image import load_image_dnn

        return load_image_dnn(path)[0] if self.has_own_format(path) else super().load(path, **arguments)

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare raw scores with `pipeline("image-classification")`; a DNN has no pipeline."""
        from transformers import pipeline

        if self.has_own_format(folder):
            return 0.0
        processor = self.load_processor(folder)
        classify = pipeline(self.task.tag, model=folder, image_processor=processor, dtype="float32", device="cpu")
        return compare_labels(classify, read_images(rows), outputs)


class SavedDetector(SavedModel):
    """Loaded by transformers."""

    auto_class = "AutoModelForObjectDetection"
    auto_processor = "AutoImageProcessor"

    def order_labels(self, outputs: Sequence[np.ndarray], order: Sequence[int]) -> Sequence[np.ndarray]:
        """Rename the classes of the boxes, which stand in the first column."""
        places = np.zeros(max(order) + 1, dtype=int)
        for place, former in enumerate(order):
            if former >= 0:  # not of a class that the model does not know
                places[former] = place
        return [np.column_stack([places[output[:, 0].astype(int)], output[:, 1:]]) for output in outputs]

    def compute_scores(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return each image's logits and boxes, whatever the order of the queries."""
        return [compute_comparable(*row) for row in detect(model, batch["pixel_values"], batch.get("pixel_mask"))]

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare with `pipeline("object-detection")` at a score of 0.

        Returns:
            The largest difference of scores, the surest first; infinity where labels differ, or a box by more than the
            pixel to which the pipeline cuts it.
        """
        import torch
        from transformers import pipeline

        processor, model = self.load_processor(folder), self.load(folder).eval()
        find = pipeline(self.task.tag, model=folder, image_processor=processor, dtype="float32", device="cpu")
        rows = rows.select(range(min(CHECKED_ROWS, len(rows))))
        encoded, _ = self.task.encode(rows, processor)
        collate = self.task.build_collator(processor)
        differences = [0.0]
        for row, image in zip(encoded, read_images(rows), strict=True):
            batch = collate([{"pixel_values": row["pixel_values"]}])
            with torch.inference_mode():
                output = self.task.compute_outputs(model, batch, processor)[0]
            width, height = row["_size"]
            own = write_objects(output, width, height, model.config.id2label)
            theirs = sorted(find(image, threshold=0.0), key=lambda answer: -answer["score"])
            differences.append(_compare_objects(own, theirs))
        return max(differences)


def _compare_objects(own: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> float:
    """Return the largest difference of scores; infinity where an object has no partner of its label and place."""
    difference = 0.0
    for mine, other in zip(own, theirs, strict=False):
        difference = max(difference, abs(mine["score"] - other["score"]))
        alike = (
            partner
            for partner in theirs
            if partner["label"] == mine["label"] and abs(partner["score"] - mine["score"]) < 1e-3
        )
        if not any(
            all(abs(mine["box"][key] - other_object["box"][key]) <= 1 for key in mine["box"]) for other_object in alike
        ):
            return float("inf")
    return difference if theirs or not own else float("inf")
