"""Grids of generated images, as PNG."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

from startup_llm.gan.image_gan import draw_labelled_images

if TYPE_CHECKING:
    from startup_llm.gan.image_gan import AdversarialTrainer
    from startup_llm.gan.options import GanConfig
    from startup_llm.models.scratch.gan import ImageGenerator
    from startup_llm.run_folder import RunFolder
    from startup_llm.session import Session


class SampleGrid:
    """A grid of generated images of fixed noise, a row per class, drawn again as training goes on.

    Args:
        session: The run; a picture after each of `train.grids` epochs, evenly spread, goes into its folder `samples`.
        generator: A class-conditional generator in evaluation mode.
        classes: Number of classes, and of images of each.
    """

    def __init__(self, session: Session[GanConfig], generator: ImageGenerator, classes: int) -> None:
        self._session, self._generator, self._classes = session, generator, classes

    def keep(self, epoch: int) -> None:
        """Write the grid of an epoch, from 1, if it is one of those that are kept."""
        settings, run = self._session.config.train, self._session.run
        kept = {round(settings.epochs * (number + 1) / settings.grids) for number in range(settings.grids)}
        if run.is_writer and epoch in kept:
            (run.path / "samples").mkdir(exist_ok=True)
            (run.path / "samples" / f"epoch_{epoch:04d}.png").write_bytes(render_png(self._draw(), scale=4))

    def describe(self) -> dict[str, str]:
        """Return the grid as it is now for the report: `caption`, and the picture as `png_base64`."""
        epochs = self._session.config.train.epochs
        caption = f"Generated digits after {epochs} epochs, a row per class, none chosen by hand"
        return {"caption": caption, "png_base64": base64.b64encode(render_png(self._draw(), scale=4)).decode()}

    def _draw(self) -> np.ndarray:
        import torch

        labels = torch.arange(self._classes).repeat_interleave(self._classes)
        images = draw_labelled_images(self._generator, labels, seed=self._session.config.train.seed)
        return lay_out_grid(images.numpy(), columns=self._classes)


def lay_out_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Lay images side by side, row by row, with one pixel between them.

    Args:
        images: Shape (rows * columns, channels, height, width), values in [-1, 1].
        columns: Images per row.

    Returns:
        Shape (height, width, 3), values in [0, 1].
    """
    pixels = np.clip((images + 1) / 2, 0, 1)
    pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.5)
    count, channels, height, width = pixels.shape
    grid = pixels.reshape(count // columns, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    grid = grid.reshape(count // columns * height, columns * width, channels)
    return np.repeat(grid, 3, axis=2) if channels == 1 else grid


def render_png(grid: np.ndarray, scale: int = 1) -> bytes:
    """Render a picture, shape (height, width, 3) in [0, 1], as PNG, each pixel `scale` pixels wide."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(grid.repeat(scale, axis=0).repeat(scale, axis=1)), format="png")
    return buffer.getvalue()


def write_losses(trainer: AdversarialTrainer, run: RunFolder) -> None:
    """Plot the losses that a training is judged by over its steps, as `losses.png` in the run's folder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    steps = [record["step"] for record in trainer.history]
    for name in trainer.shown_losses:
        axes.plot(steps, [record[name] for record in trainer.history], label=name)
    axes.set(xlabel="step", ylabel="mean over the epoch")
    axes.legend()
    figure.savefig(run.path / "losses.png", dpi=120)
