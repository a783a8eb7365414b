"""Grids of generated images, as PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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


def plot_losses(history: Sequence[Mapping[str, float]], names: Sequence[str]) -> bytes:
    """Plot records of `history` over their `step` as PNG, one line per name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name in names:
        axes.plot([record["step"] for record in history], [record[name] for record in history], label=name)
    axes.set(xlabel="step", ylabel="mean over the epoch")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
