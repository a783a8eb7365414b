"""How images are answered: a label, or the objects that are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.tasks.explanation import explain_regions
from startup_llm.tasks.prediction import LabelPredictor, Predictor
from startup_llm.tasks.vision.labelled_images import read_image

if TYPE_CHECKING:
    from datasets import Dataset

ANSWERED_SCORE = 0.5
"""What is found with a smaller score is no answer, as `transformers.pipeline` has it."""


class ImagePredictor(Predictor):
    """Answers image files."""

    columns = ("image",)
    reads_files = True

    def find_fault(self, column: str, value: Any) -> str | None:
        """Return why a path leads to no usable image."""
        if (fault := super().find_fault(column, value)) is None:
            try:
                read_image(Path(value).read_bytes())
            except UserError as error:
                fault = f"names {value}: {error}"
        return fault


class ImageLabelPredictor(ImagePredictor, LabelPredictor):
    """Answers an image with a label."""

    explained: Mapping[str, Any] = {
        "explanation": [{"left": 0.0, "top": 0.0, "right": 0.125, "bottom": 0.125, "weight": 1.0}]
    }

    def explain(
        self, model: Any, processor: Any, rows: Dataset, answers: Sequence[dict[str, Any]], plan: Any
    ) -> list[dict[str, Any]]:
        """Name the regions of each image by which the label's logit falls most when they are covered."""
        encoded, collate = self.encode(rows, processor), self.task.build_collator(processor)
        labels = {name: label for label, name in model.config.id2label.items()}
        explained = []
        for place, answer in enumerate(answers):
            pixels = collate([{"pixel_values": encoded[place]["pixel_values"]}])["pixel_values"]
            regions = explain_regions(model, pixels, labels[answer["label"]], plan)
            explained.append({**answer, "explanation": regions})
        return explained


class DetectionPredictor(ImagePredictor):
    """Answers an image with its objects."""

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return what the pipeline returns for each image: label, score and box of each object, the surest first."""
        return [
            {"objects": write_objects(output[output[:, 1] > ANSWERED_SCORE], width, height, config.id2label)}
            for output, (width, height) in zip(outputs, encoded["_size"], strict=True)
        ]

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer of the right types."""
        return {"objects": write_objects(np.array([[0, 1.0, 0.0, 0.0, 1.0, 1.0]]), 1, 1, config.id2label)}


def write_objects(output: np.ndarray, width: int, height: int, names: dict[int, str]) -> list[dict[str, Any]]:
    """Return objects as the pipeline does: corners in whole pixels, cut towards zero."""
    objects = []
    for label, score, left, top, across, down in output.tolist():
        corners = (left * width, top * height, (left + across) * width, (top + down) * height)
        box = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, corners), strict=True))
        objects.append({"label": names[int(label)], "score": score, "box": box})
    return objects
