"""Object detection: boxes around the objects of an image, each with a label."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import ModelConfig
from startup_llm.errors import UserError
from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.base import Collator, Truncation
from startup_llm.tasks.vision.base import PATCH_PIXELS, ImageTask, draw_png, keep_pixels
from startup_llm.tasks.vision.baselines import predict_components_nearest_pixels, predict_mean_boxes
from startup_llm.tasks.vision.boxed_images import load_boxed_images
from startup_llm.tasks.vision.detector import (
    build_object_detector,
    compute_detections,
    detect,
    measure_processed_size,
)
from startup_llm.tasks.vision.labelled_images import measure_image, read_bytes, read_images
from startup_llm.tasks.vision.metrics import (
    AVERAGE_PRECISION_50,
    AVERAGE_RECALL,
    MEAN_AVERAGE_PRECISION,
    compute_class_scores,
)
from startup_llm.tasks.vision.options import DetectionData
from startup_llm.tasks.vision.prediction import ANSWERED_SCORE, DetectionPredictor
from startup_llm.tasks.vision.reference_models import Detectors
from startup_llm.tasks.vision.saved_model import SavedDetector

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image
    from torch import Tensor
    from transformers import BaseImageProcessor

    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint

_SHOWN = 8
_SHOWN_PIXELS = 384
_TRUE_COLOR, _FOUND_COLOR = "#1d5fa8", "#d9601a"


class ObjectDetection(ImageTask[DetectionData, ModelConfig]):
    """Columns image, width, height and objects.

    A target is a class and a box as centre, width and height in shares of the image; -100 fills up. An output is what
    was found: class, score, left, top, width and height in shares of the image, shape (found, 6).
    """

    tag = "object-detection"
    example_checkpoint = "PekingU/rtdetr_r18vd"
    predictor_class = DetectionPredictor
    saved_model_class = SavedDetector
    computes_loss = True
    reference_models_class = Detectors
    known_metrics = (MEAN_AVERAGE_PRECISION, AVERAGE_PRECISION_50, AVERAGE_RECALL)
    known_baselines = {  # noqa: RUF012
        "mean-boxes": predict_mean_boxes,
        "components-nearest-pixels": predict_components_nearest_pixels,
    }

    def read_data(self, data: DetectionData) -> TaskData:
        """Read, check and split the rows.

        Raises:
            UserError: On anything wrong with the files, the columns, the images or the boxes, or where what measures
                them is not installed.
        """
        if importlib.util.find_spec("pycocotools") is None:
            raise UserError("boxes are matched by pycocotools; pip install 'startup-llm[detection]'")
        return load_boxed_images(data)

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: BaseImageProcessor,
        data: TaskData,
        model: ModelConfig,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint with heads for the data's classes."""
        return build_object_detector(
            checkpoint,
            processor,
            label_names=data.label_names,
            dropout=model.dropout,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )

    def encode(self, rows: Dataset, processor: BaseImageProcessor) -> tuple[Dataset, Truncation]:
        """Leave the image files as they are, for the collator to decode, and write boxes as the models learn them."""
        import datasets

        encoded = rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        encoded = encoded.rename_column("image", "pixel_values")
        if "width" in rows.column_names:
            sizes = list(zip(rows["width"], rows["height"], strict=True))
        else:
            sizes = [measure_image(read_bytes(value))[1] for value in encoded["pixel_values"]]
        if "objects" in rows.column_names:
            targets = [_write_targets(objects, *size) for objects, size in zip(rows["objects"], sizes, strict=True)]
            feature = datasets.List(datasets.List(datasets.Value("float32")))
            encoded = encoded.add_column("labels", targets, feature=feature)
        processed = [measure_processed_size(processor, *size) for size in sizes]
        encoded = encoded.add_column("length", [max(1, width * height // PATCH_PIXELS) for width, height in processed])
        encoded = encoded.add_column("_size", [list(size) for size in sizes])
        return encoded, Truncation(0, 0.0, 0.0)

    def build_collator(self, processor: BaseImageProcessor) -> Collator:
        """Decode a batch's images, resize and scale them, each once while there is room, and pad to the largest."""
        import torch
        from torch.nn import functional

        compute_pixels = keep_pixels(processor, do_pad=False)

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            images = [compute_pixels(read_bytes(row["pixel_values"])) for row in rows]
            height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
            gaps = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
            batch = {"pixel_values": torch.stack([functional.pad(*pair) for pair in zip(images, gaps, strict=True)])}
            if any(any(gap) for gap in gaps):
                masks = [torch.ones(image.shape[1:], dtype=torch.long) for image in images]
                batch["pixel_mask"] = torch.stack([functional.pad(*pair) for pair in zip(masks, gaps, strict=True)])
            if "labels" in rows[0]:
                max_objects = max(1, *(len(row["labels"]) for row in rows))
                batch["labels"] = torch.full((len(rows), max_objects, 5), -100.0)
                for place, row in enumerate(rows):
                    if row["labels"]:
                        batch["labels"][place, : len(row["labels"])] = torch.tensor(row["labels"])
            return batch

        return collate

    def count_targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Count the boxes, by which the loss is divided; an image without one counts as if it had one."""
        return _is_box(batch["labels"]).sum(dim=1).clamp(min=1)

    def compute_loss(self, model: Any, batch: dict[str, Tensor], processor: Any) -> tuple[Tensor, Tensor]:
        """Return the set loss over matched queries, and logits and boxes side by side."""
        import torch

        inputs = {name: values for name, values in batch.items() if name != "labels"}
        targets = [
            {"class_labels": row[kept][:, 0].long(), "boxes": row[kept][:, 1:].float()}
            for row, kept in zip(batch["labels"], _is_box(batch["labels"]), strict=True)
        ]
        outputs = model(**inputs, labels=targets)
        return outputs["loss"], torch.cat([outputs["logits"].float(), outputs["pred_boxes"].float()], dim=-1)

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return what is found in each image."""
        classes = len(model.config.id2label)
        return [
            compute_detections(logits.float().cpu().numpy(), boxes.float().cpu().numpy(), classes)
            for logits, boxes, _ in detect(model, batch["pixel_values"], batch.get("pixel_mask"))
        ]

    def references(self, rows: Dataset) -> list[dict[str, Any]]:
        """Return each image's labels, boxes in pixels, and which of them are crowds."""
        return [
            {"labels": objects["category"], "boxes": objects["bbox"], "crowds": objects["crowd"]}
            for objects in rows["objects"]
        ]

    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> list[dict[str, Any]]:
        """Write what was found as labels, boxes in pixels, and scores."""
        sizes = zip(rows["width"], rows["height"], strict=True)
        return [_write_found(output, *size) for output, size in zip(outputs, sizes, strict=True)]

    def read_validation(
        self, logits: np.ndarray, labels: np.ndarray, data: TaskData
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return boxes and what was found, in shares of the images, which leaves every overlap as it is."""
        true, detected = [], []
        for row, targets in zip(logits, labels, strict=True):
            targets = targets[targets[:, 0] >= 0]
            boxes = np.column_stack([targets[:, 1:3] - targets[:, 3:] / 2, targets[:, 3:]])
            true.append(
                {"labels": targets[:, 0].astype(int).tolist(), "boxes": boxes.tolist(), "crowds": [0] * len(boxes)}
            )
            output = compute_detections(row[:, :-4], row[:, -4:], len(data.label_names))
            detected.append(
                {
                    "labels": output[:, 0].astype(int).tolist(),
                    "boxes": output[:, 2:].tolist(),
                    "scores": output[:, 1].tolist(),
                }
            )
        return true, detected

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return scores per class, and a gallery of test images with their true boxes and those that were found."""
        scores = compute_class_scores(self.references(rows), predictions, data.label_names)
        gallery = self._show_images(rows, predictions, data)
        return {"per_class": scores, "counted": ["box", "boxes"], "gallery": gallery}

    def _show_images(
        self, rows: Dataset, predictions: Sequence[dict[str, Any]], data: TaskData
    ) -> list[dict[str, Any]]:
        shown = rows.select(range(min(_SHOWN, len(rows))))
        items = []
        for row, image, true, detected in zip(
            shown["row"], read_images(shown), self.references(shown), predictions, strict=False
        ):
            sure = [place for place, score in enumerate(detected["scores"]) if score > ANSWERED_SCORE]
            caption = (
                f"row {row}: true {_list_labels(true['labels'], data)} (solid blue); "
                f"found {_list_labels([detected['labels'][place] for place in sure], data)} (dashed orange)"
            )
            picture = _draw_boxes(image, true, detected, sure, data.label_names)
            items.append(
                {
                    "title": "True and found boxes",
                    "kind": "image",
                    "png_base64": draw_png(picture, _SHOWN_PIXELS),
                    "caption": caption,
                }
            )
        return items


def _write_targets(objects: dict[str, list[Any]], width: int, height: int) -> list[list[float]]:
    """Return class, centre, width and height in shares of the image of each object that is no crowd."""
    return [
        [category, (left + across / 2) / width, (top + down / 2) / height, across / width, down / height]
        for category, (left, top, across, down), crowd in zip(
            objects["category"], objects["bbox"], objects["crowd"], strict=True
        )
        if not crowd
    ]


def _is_box(labels: Tensor) -> Tensor:
    return labels[..., 0] >= 0


def _write_found(output: np.ndarray, width: int, height: int) -> dict[str, list[Any]]:
    boxes = output[:, 2:] * [width, height, width, height]
    return {
        "labels": output[:, 0].astype(int).tolist(),
        "boxes": boxes.round(2).tolist(),
        "scores": output[:, 1].round(6).tolist(),
    }


def _list_labels(labels: Sequence[int], data: TaskData) -> str:
    return ", ".join(sorted(data.label_names[label] for label in labels)) or "nothing"


def _draw_boxes(
    image: Image, true: dict[str, Any], detected: dict[str, Any], sure: Sequence[int], label_names: Sequence[str]
) -> Image:
    """Draw true boxes solid, with their labels inside, and found ones dashed, with theirs and the score above."""
    from PIL import ImageDraw, ImageFont
    from PIL.Image import Resampling

    scale = _SHOWN_PIXELS / max(image.size)
    if scale > 1:
        scale = float(int(scale)) or 1.0
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    picture = image.resize(size, Resampling.NEAREST if scale > 1 else Resampling.BILINEAR)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)

    def write(place: tuple[float, float], text: str, color: str) -> None:
        left, top, right, bottom = draw.textbbox(place, text, font=font)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill="white")
        draw.text(place, text, fill=color, font=font)

    for label, box in zip(true["labels"], true["boxes"], strict=True):
        left, top, right, bottom = _scale_box(box, scale)
        draw.rectangle((left, top, right, bottom), outline=_TRUE_COLOR, width=2)
        write((left + 4, bottom - 17), label_names[label], _TRUE_COLOR)
    for place in sure:
        corners = _scale_box(detected["boxes"][place], scale)
        _draw_dashes(draw, corners)
        text = f"{label_names[detected['labels'][place]]} {detected['scores'][place]:.2f}"
        write((corners[0] + 2, max(0.0, corners[1] - 16)), text, _FOUND_COLOR)
    return picture


def _scale_box(box: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    left, top, width, height = (scale * value for value in box)
    return left, top, left + width, top + height


def _draw_dashes(draw: Any, corners: tuple[float, float, float, float], dash: int = 6) -> None:
    left, top, right, bottom = corners
    for start in np.arange(left, right, 2 * dash).tolist():
        for height in (top, bottom):
            draw.line((start, height, min(start + dash, right), height), fill=_FOUND_COLOR, width=2)
    for start in np.arange(top, bottom, 2 * dash).tolist():
        for across in (left, right):
            draw.line((across, start, across, min(start + dash, bottom)), fill=_FOUND_COLOR, width=2)
