"""The two image classifiers from scratch: what turns their images into numbers, how they are saved and loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from startup_llm.errors import UserError
from startup_llm.models.scratch import formats
from startup_llm.models.scratch.checks import check_at_least
from startup_llm.models.scratch.dnn import ImageDnn
from startup_llm.models.scratch.vit import VisionTransformer

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

IMAGE_DNN = "startup_llm-image-dnn"
"""The `model_type` in the config of a saved `ImageDnn`."""


def build_image_processor(image_size: int) -> BaseImageProcessor:
    """Return what resizes images to a square of RGB pixels from -1 to 1; any transformers installation loads it.

    Args:
        image_size: Height and width, in pixels.

    Raises:
        UserError: if the size is below 1.
    """
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    check_at_least(1, image_size=image_size)
    return ViTImageProcessorPil(size={"height": image_size, "width": image_size}, do_convert_rgb=True)


def shift_while_training(model: nn.Module, most_pixels: int) -> None:
    """Let a model see each training image shifted by up to `most_pixels` in both directions, another way each time.

    Args:
        model: Its forward takes `pixel_values`, shape (batch, channels, size, size).
        most_pixels: 0 for no shift.

    Raises:
        UserError: if it is below 0.
    """
    check_at_least(0, shift_pixels=most_pixels)

    def shift(module: nn.Module, positional: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if not module.training:
            return None
        return positional, {**named, "pixel_values": shift_images(named["pixel_values"], most_pixels)}

    if most_pixels:
        model.register_forward_pre_hook(shift, with_kwargs=True)


def shift_images(images: Tensor, most_pixels: int) -> Tensor:
    """Shift each image by a random whole number of pixels; the outermost pixels are repeated where it leaves a gap.

    Args:
        images: Shape (batch, channels, height, width).
        most_pixels: Largest shift in each direction.

    Returns:
        Like images.
    """
    batch, _, height, width = images.shape
    padded = functional.pad(images, (most_pixels,) * 4, mode="replicate")
    rows, columns = torch.randint(0, 2 * most_pixels + 1, (2, batch, 1), device=images.device)
    rows = rows + torch.arange(height, device=images.device)  # (batch, height)
    columns = columns + torch.arange(width, device=images.device)  # (batch, width)
    image = torch.arange(batch, device=images.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def save_image_classifier(
    model: ImageDnn | VisionTransformer, label_names: Sequence[str], folder: str | os.PathLike[str]
) -> None:
    """Write a classifier and the names of its classes: a ViT as `transformers` writes it, a DNN with its sizes.

    Args:
        model: The model.
        label_names: Names of the classes.
        folder: Made if it is not there.
    """
    if isinstance(model, VisionTransformer):
        formats.save_vit(model, folder)
        config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    else:
        channels, image_size, _ = model.image_shape
        widths = [layer.out_features for layer in model.dnn.layers]
        config = {"model_type": IMAGE_DNN, "image_size": image_size, "num_channels": channels, "widths": widths}
        config["activation"] = model.dnn.activation_name
        formats._write_folder(folder, config, model.state_dict())
    config["id2label"] = {str(number): name for number, name in enumerate(label_names)}
    config["label2id"] = {name: number for number, name in enumerate(label_names)}
    Path(folder, "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def holds_image_dnn(folder: str | os.PathLike[str]) -> bool:
    """Say whether `save_image_classifier` wrote a DNN into the folder."""
    config = Path(folder, "config.json")
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == IMAGE_DNN


def load_image_dnn(folder: str | os.PathLike[str]) -> tuple[ImageDnn, BaseImageProcessor, list[str]]:
    """Read a DNN that `save_image_classifier` wrote.

    Returns:
        The model in evaluation mode, its labels in `config`; what turns images into its numbers; and the names of its
        classes.

    Raises:
        UserError: if the folder holds no such model.
    """
    from transformers import PretrainedConfig

    if not holds_image_dnn(folder):
        raise UserError(f"{folder} holds no {IMAGE_DNN}; give the model folder of a run of recipes/pretrain.py")
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    *hidden, classes = config["widths"]
    model = ImageDnn(config["image_size"], config["num_channels"], classes, hidden, config.get("activation", "relu"))
    model.load_state_dict(formats._read_tensors(folder, ""))
    names = list(config["id2label"].values())
    model.config = PretrainedConfig(id2label=dict(enumerate(names)), problem_type="single_label_classification")
    return model.eval(), build_image_processor(config["image_size"]), names
