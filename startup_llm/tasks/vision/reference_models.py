"""Models that read images, from random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.reference_models import ReferenceModels
from startup_llm.tasks.vision.detector import build_scratch_detector
from startup_llm.tasks.vision.options import ScratchDetector, ScratchImageDnn, ScratchVit

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import BaseImageProcessor

    from startup_llm.config import ScratchModelConfig
    from startup_llm.data.task_data import TaskData

_LOAD_CODE = """from huggingface_hub import snapshot_download
from PIL import Image
from startup_llm.models.scratch.image import load_image_dnn

model, processor, label_names = load_image_dnn(snapshot_download("REPOSITORY"))
logits = model(**processor([Image.open("image.png")], return_tensors="pt"))["logits"]"""


class ImageClassifiers(ReferenceModels):
    """dnn and vit."""

    def build(
        self, data: TaskData, model: ScratchModelConfig, attention_kernel: str
    ) -> tuple[BaseImageProcessor, TaskModel]:
        """Return an image processor of the model's size, and an `ImageDnn` or a `VisionTransformer`.

        Both read three channels, grey repeated, as `transformers.pipeline` gives them.

        Raises:
            UserError: If another model is asked for.
        """
        from startup_llm.models.scratch.dnn import ImageDnn
        from startup_llm.models.scratch.image import build_image_processor, shift_while_training
        from startup_llm.models.scratch.vit import VisionTransformer

        classes = len(data.label_names)
        if isinstance(model, ScratchImageDnn):
            network: Any = ImageDnn(model.image_size, 3, classes, model.hidden, model.activation, model.dropout)
        elif isinstance(model, ScratchVit):
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
        else:
            return super().build(data, model, attention_kernel)
        shift_while_training(network, model.shift_pixels)
        return build_image_processor(model.image_size), TaskModel(network)

    def save(self, model: Any, processor: BaseImageProcessor, data: TaskData, folder: Path) -> None:
        """Write a ViT as `transformers` would, or an `ImageDnn`."""
        from startup_llm.models.scratch.image import save_image_classifier

        save_image_classifier(model, data.label_names, folder)
        processor.save_pretrained(folder)

    def find_load_code(self, name: str) -> str | None:
        """Return code that loads an `ImageDnn`; an Auto class loads a ViT."""
        return _LOAD_CODE if name == "dnn" else None


class Detectors(ReferenceModels):
    """rt-detr."""

    def build(
        self, data: TaskData, model: ScratchModelConfig, attention_kernel: str
    ) -> tuple[BaseImageProcessor, TaskModel]:
        """Return an image processor and a small RT-DETR.

        Raises:
            UserError: If another model is asked for.
        """
        if not isinstance(model, ScratchDetector):
            return super().build(data, model, attention_kernel)
        return build_scratch_detector(data.label_names, model, attention_kernel)
