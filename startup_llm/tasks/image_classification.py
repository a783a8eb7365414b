"""Image classification: one label for an image."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.labelled_images import load_labelled_images, read_bytes, read_image, read_images
from startup_llm.errors import UserError
from startup_llm.models.image_classifier import build_image_classifier, load_image_processor
from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.base import Collator, Truncation
from startup_llm.tasks.one_label import OneLabel

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image
    from torch import Tensor
    from transformers import BaseImageProcessor, PreTrainedModel

    from startup_llm.config import DataConfig, ModelConfig, ScratchModelConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint

PATCH_PIXELS = 16 * 16
"""Pixels that cost about as much as a token: a ViT's usual patch."""
KEPT_BYTES = 256 * 1024**2
"""Room for pixels that a collator keeps from one epoch to the next."""
_SHOWN = 12
_LEAST_SHOWN_PIXELS = 96


class ImageClassification(OneLabel):
    """Columns image and label."""

    tag = "image-classification"
    auto_class = "AutoModelForImageClassification"
    auto_processor = "AutoImageProcessor"
    peft_task_type = None
    supports_probe = True
    question_columns = ("image",)
    question_files = True
    errors = "classification"
    scratch_load_code = """from huggingface_hub import snapshot_download
from PIL import Image
from startup_llm.models.scratch.image import load_image_dnn

model, processor, label_names = load_image_dnn(snapshot_download("REPOSITORY"))
logits = model(**processor([Image.open("image.png")], return_tensors="pt"))["logits"]"""

    def load_data(self, data: DataConfig) -> TaskData:
        """Read, check and split the rows.

        Raises:
            UserError: On anything wrong with the files, the columns, the images or the labels.
        """
        return load_labelled_images(data)

    def load_processor(self, checkpoint: Checkpoint, model: ModelConfig) -> BaseImageProcessor:
        """Load the checkpoint's image processor."""
        return load_image_processor(checkpoint, model.trust_remote_code)

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: BaseImageProcessor,
        data: TaskData,
        model: ModelConfig,
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

    def build_scratch_model(
        self, data: TaskData, model: ScratchModelConfig, attention_kernel: str
    ) -> tuple[BaseImageProcessor, TaskModel]:
        """Return an image processor of the model's size, and an `ImageDnn` or a `VisionTransformer`.

        Both read three channels, grey repeated, as `transformers.pipeline` gives them.
        """
        from startup_llm.models.scratch.dnn import ImageDnn
        from startup_llm.models.scratch.image import build_image_processor, shift_while_training
        from startup_llm.models.scratch.vit import VisionTransformer

        if model.name not in ("dnn", "vit"):
            raise UserError(f"model.name {model.name}: {self.tag} has the reference models dnn and vit")
        classes = len(data.label_names)
        if model.name == "dnn":
            network = ImageDnn(model.image_size, 3, classes, model.hidden, dropout=model.dropout)
        else:
            self.scratch_load_code = None  # the pipeline loads a ViT
            network = VisionTransformer(
                model.image_size,
                model.patch_size,
                classes,
                width=model.width,
                heads=model.heads,
                layers=model.layers,
                inner_width=model.inner_width,
                dropout=model.dropout,
                kernel=attention_kernel,
            )
        shift_while_training(network, model.shift_pixels)
        return build_image_processor(model.image_size), TaskModel(network)

    def save_scratch_model(self, model: Any, processor: BaseImageProcessor, data: TaskData, folder: Path) -> None:
        """Write a ViT as `transformers` would, or an `ImageDnn`."""
        from startup_llm.models.scratch.image import save_image_classifier

        save_image_classifier(model, data.label_names, folder)
        processor.save_pretrained(folder)

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

        known: dict[bytes, Tensor] = {}  # decoding small images anew in each epoch takes longer than training on them

        def compute_pixels(content: bytes) -> Tensor:
            pixels = known.get(content)
            if pixels is None:
                pixels = processor([read_image(content)], return_tensors="pt")["pixel_values"][0]
                if (len(known) + 1) * pixels.nbytes <= KEPT_BYTES:
                    known[content] = pixels
            return pixels

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            batch = {"pixel_values": torch.stack([compute_pixels(read_bytes(row["pixel_values"])) for row in rows])}
            if "labels" in rows[0]:
                batch["labels"] = torch.tensor([row["labels"] for row in rows])
            return batch

        return collate

    def baselines(self, data: TaskData) -> tuple[str, ...]:
        """Name the baselines."""
        return ("majority", "nearest-pixels")

    def summarize(self, rows: Dataset) -> list[str]:
        """Name each image by its row."""
        return [f"image of row {row}" for row in rows["row"]]

    def show(self, rows: Dataset, predictions: Sequence[Any], data: TaskData) -> list[dict[str, Any]]:
        """Return test images that were answered wrongly."""
        wrong = np.flatnonzero(np.asarray(predictions) != self.references(rows))[:_SHOWN]
        shown = rows.select(wrong)
        return [
            {
                "title": "Images that were answered wrongly",
                "kind": "image",
                "png_base64": draw_png(image),
                "caption": f"row {row}: {data.label_names[label]}, answered {data.label_names[predictions[place]]}",
            }
            for image, row, label, place in zip(read_images(shown), shown["row"], shown["label"], wrong, strict=True)
        ]

    def find_question_fault(self, column: str, value: Any) -> str | None:
        """Return why a path leads to no usable image."""
        if (fault := super().find_question_fault(column, value)) is None:
            try:
                read_image(Path(value).read_bytes())
            except UserError as error:
                fault = f"names {value}: {error}"
        return fault

    def check_pipeline(self, model_folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare raw scores with `pipeline("image-classification")`; a DNN has no pipeline."""
        from transformers import pipeline

        from startup_llm.models.scratch.image import holds_image_dnn

        if holds_image_dnn(model_folder):
            return 0.0
        processor = self.restore_processor(model_folder)
        classify = pipeline(self.tag, model=model_folder, image_processor=processor, dtype="float32", device="cpu")
        return self.compare_with_pipeline(classify, read_images(rows), outputs)

    def holds_scratch_model(self, path: str) -> bool:
        """Say whether an `ImageDnn` lies there."""
        from startup_llm.models.scratch.image import holds_image_dnn

        return holds_image_dnn(path)

    def load_plain(self, path: str, **arguments: Any) -> PreTrainedModel:
        """Load with `AutoModelForImageClassification`, an `ImageDnn` with its own loader."""
        from startup_llm.models.scratch.image import holds_image_dnn, load_image_dnn

        return load_image_dnn(path)[0] if holds_image_dnn(path) else super().load_plain(path, **arguments)


def _count_pixels(processor: BaseImageProcessor) -> int:
    """Return how many pixels an image has when the processor is done with it."""
    cropped = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
    size = dict(cropped or processor.size)
    edge = size.get("shortest_edge") or size.get("longest_edge") or 224
    return (size.get("height") or edge) * (size.get("width") or edge)


def draw_png(image: Image, most_pixels: int = 256) -> str:
    """Return an image as base64 of a PNG file, small ones enlarged so that their pixels show.

    Args:
        image: The image; a large one is shrunk in place.
        most_pixels: Its longer side at the most.
    """
    from PIL.Image import Resampling

    scale = -(-_LEAST_SHOWN_PIXELS // max(image.size))
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Resampling.NEAREST)
    else:
        image.thumbnail((most_pixels, most_pixels))
    stream = io.BytesIO()
    image.save(stream, "png")
    return base64.b64encode(stream.getvalue()).decode("ascii")
