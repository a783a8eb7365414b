"""Image classification: one label for an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import LinearHead
from startup_llm.evaluation.baselines import predict_majority
from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.base import Collator, SingleLabelTask, Truncation
from startup_llm.tasks.probing import RowProbe
from startup_llm.tasks.vision.base import PATCH_PIXELS, ImageTask, draw_png, keep_pixels
from startup_llm.tasks.vision.baselines import predict_nearest_pixels
from startup_llm.tasks.vision.classifier import build_image_classifier
from startup_llm.tasks.vision.labelled_images import load_labelled_images, read_bytes, read_images
from startup_llm.tasks.vision.options import LabelledImageData
from startup_llm.tasks.vision.prediction import ImageLabelPredictor
from startup_llm.tasks.vision.reference_models import ImageClassifiers
from startup_llm.tasks.vision.saved_model import SavedImageClassifier

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor

    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint

_SHOWN = 12


class ImageClassification(ImageTask[LabelledImageData, LinearHead], SingleLabelTask[LabelledImageData, LinearHead]):
    """Columns image and label."""

    tag = "image-classification"
    example_checkpoint = "google/vit-base-patch16-224-in21k"
    probe = RowProbe()
    predictor_class = ImageLabelPredictor
    saved_model_class = SavedImageClassifier
    reference_models_class = ImageClassifiers
    known_baselines = {"majority": predict_majority, "nearest-pixels": predict_nearest_pixels}  # noqa: RUF012

    def read_data(self, data: LabelledImageData) -> TaskData:
        """Read, check and split the rows.

        Raises:
            UserError: On anything wrong with the files, the columns, the images or the labels.
        """
        return load_labelled_images(data)

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: BaseImageProcessor,
        data: TaskData,
        model: LinearHead,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint with a classification head on it."""
        return build_image_classifier(
            checkpoint,
            label_names=data.label_names,
            dropout=model.dropout,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )

    def encode(self, rows: Dataset, processor: BaseImageProcessor) -> tuple[Dataset, Truncation]:
        """Leave the image files as they are, for the collator to decode: a large one's pixels take far more room."""
        import datasets

        encoded = rows.select_columns([name for name in ("image", "label") if name in rows.column_names])
        encoded = encoded.cast_column("image", datasets.Image(decode=False)).rename_column("image", "pixel_values")
        if "label" in encoded.column_names:
            encoded = encoded.rename_column("label", "labels")
        patches = max(1, _count_pixels(processor) // PATCH_PIXELS)
        return encoded.add_column("length", [patches] * len(rows)), Truncation(0, 0.0, 0.0)

    def build_collator(self, processor: BaseImageProcessor) -> Collator:
        """Decode a batch's images and let the processor resize and scale them, each once while there is room."""
        import torch

        compute_pixels = keep_pixels(processor)

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            batch = {"pixel_values": torch.stack([compute_pixels(read_bytes(row["pixel_values"])) for row in rows])}
            if "labels" in rows[0]:
                batch["labels"] = torch.tensor([row["labels"] for row in rows])
            return batch

        return collate

    def summarize(self, rows: Dataset) -> list[str]:
        """Name each image by its row."""
        return [f"image of row {row}" for row in rows["row"]]

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return what every classification does, and a gallery of test images that were answered wrongly."""
        wrong = np.flatnonzero(np.asarray(predictions) != self.references(rows))[:_SHOWN]
        shown = rows.select(wrong)
        gallery = [
            {
                "title": "Images that were answered wrongly",
                "kind": "image",
                "png_base64": draw_png(image),
                "caption": f"row {row}: {data.label_names[label]}, answered {data.label_names[predictions[place]]}",
            }
            for image, row, label, place in zip(read_images(shown), shown["row"], shown["label"], wrong, strict=True)
        ]
        return {**super().describe_errors(rows, outputs, predictions, data), "gallery": gallery}


def _count_pixels(processor: BaseImageProcessor) -> int:
    """Return how many pixels an image has when the processor is done with it."""
    cropped = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
    size = dict(cropped or processor.size)
    edge = size.get("shortest_edge") or size.get("longest_edge") or 224
    return (size.get("height") or edge) * (size.get("width") or edge)
