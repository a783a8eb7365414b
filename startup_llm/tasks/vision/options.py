"""The options of image classification and object detection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from startup_llm.config import (
    CheckedData,
    ClassDecision,
    Count,
    GroupedData,
    LabelledData,
    LinearHead,
    Range,
    ScratchDnn,
    ScratchModelConfig,
    ScratchTransformer,
    TaskOptions,
)


@dataclass(frozen=True)
class LabelledImageData(CheckedData, GroupedData, LabelledData):
    """Images with one label each."""

    labels_per_class: Count | None = None
    """Train on this many images of each class, drawn by split_seed, and keep the others without their labels."""


@dataclass(frozen=True)
class DetectionData(CheckedData, GroupedData):
    """Images with boxes around objects."""

    box_format: Literal["xywh", "xyxy"] = "xywh"
    """The four numbers of a box in a table: left, top, width, height (COCO's), or left, top, right, bottom."""


@dataclass(frozen=True)
class ScratchImageModel(ScratchModelConfig):
    """A reference model that reads images."""

    image_size: Count = 32
    """Images are resized to squares of this many pixels a side."""


@dataclass(frozen=True)
class ScratchImageClassifier(ScratchImageModel):
    """A reference model that classifies images."""

    shift_pixels: Annotated[int, Range(0)] = 0
    """While training, images are shifted at random by up to this many pixels."""


@dataclass(frozen=True)
class ScratchImageDnn(ScratchImageClassifier, ScratchDnn):
    """Feed-forward network on an image's pixels, its weights drawn at random."""

    name: str = "dnn"


@dataclass(frozen=True)
class ScratchVit(ScratchImageClassifier, ScratchTransformer):
    """Vision transformer, its weights drawn at random."""

    name: str = "vit"
    patch_size: Count = 4
    """Pixels a side of a patch."""


@dataclass(frozen=True)
class ScratchDetector(ScratchImageModel, ScratchTransformer):
    """RT-DETR: convolutions and a transformer decoder that finds objects, its weights drawn at random."""

    name: str = "rt-detr"
    queries: Count = 20
    """Largest number of objects that are detected in an image."""


OPTIONS = {
    "image-classification": TaskOptions(
        data=LabelledImageData,
        model=LinearHead,
        decision=ClassDecision,
        scratch_models={"dnn": ScratchImageDnn, "vit": ScratchVit},
    ),
    "object-detection": TaskOptions(data=DetectionData, scratch_models={"rt-detr": ScratchDetector}),
}
