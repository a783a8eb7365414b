"""What the tasks on images share."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from startup_llm.tasks.base import Data, Model, Task
from startup_llm.tasks.vision.classifier import load_image_processor
from startup_llm.tasks.vision.labelled_images import read_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import BaseImageProcessor

    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint

PATCH_PIXELS = 16 * 16
"""Pixels that cost about as much as a token: a ViT's usual patch."""
KEPT_BYTES = 256 * 1024**2
"""Room for pixels that a collator keeps from one epoch to the next."""
_LEAST_SHOWN_PIXELS = 96


class ImageTask(Task[Data, Model]):
    """A row has a column image, which stays the file that it is until a collator decodes it."""

    peft_task_type = None
    reads_text = False

    def load_processor(self, checkpoint: Checkpoint, model: Model, data: TaskData | None = None) -> BaseImageProcessor:
        """Load the checkpoint's image processor."""
        return load_image_processor(checkpoint, model.trust_remote_code)


def keep_pixels(processor: BaseImageProcessor, **arguments: Any) -> Callable[[bytes], Tensor]:
    """Return what turns an image file's bytes into pixels, each file's once while there is room for them.

    Decoding small images anew in each epoch takes longer than training on them.

    Args:
        processor: Resizes and scales.
        **arguments: Passed to it.
    """
    known: dict[bytes, Tensor] = {}

    def compute(content: bytes) -> Tensor:
        pixels = known.get(content)
        if pixels is None:
            pixels = processor([read_image(content)], return_tensors="pt", **arguments)["pixel_values"][0]
            if (len(known) + 1) * pixels.nbytes <= KEPT_BYTES:
                known[content] = pixels
        return pixels

    return compute


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
