from __future__ import annotations

import torch
from torch import Tensor, nn

from startup_llm.errors import UserError
from startup_llm.models.scratch.checks import check_at_least, check_heads, check_probability
from startup_llm.models.scratch.losses import build_output
from startup_llm.models.scratch.transformer import Block, initialize_normal


class VisionTransformer(nn.Module):
    """An image classifier: a transformer over the image's patches (Dosovitskiy et al. 2021, section 3.1).

    Args:
        image_size: Height and width of the images, in pixels.
        patch_size: Height and width of a patch, in pixels.
        classes: Number of classes.
        channels: 1 for grey, 3 for colour.
        width: Width of the token vectors.
        heads: Number of attention heads.
        layers: Number of blocks.
        inner_width: Width inside the feed-forward networks; default 4 * width.
        activation: relu, gelu or gelu_new.
        norm_eps: Added to the variance inside LayerNorm.
        dropout: Dropout probability.
        kernel: eager or sdpa, see `attention.compute_attention`.

    Raises:
        UserError: if an option is unknown or a size does not fit.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        classes: int,
        channels: int = 3,
        width: int = 128,
        heads: int = 4,
        layers: int = 4,
        inner_width: int | None = None,
        activation: str = "gelu",
        norm_eps: float = 1e-12,
        dropout: float = 0.0,
        kernel: str = "eager",
    ) -> None:
        super().__init__()
        check_at_least(1, image_size=image_size, patch_size=patch_size, classes=classes)
        check_at_least(1, channels=channels, layers=layers)
        check_heads(width, heads)
        check_probability(dropout=dropout)
        if image_size % patch_size:
            divisors = [size for size in range(1, image_size + 1) if image_size % size == 0]
            better = min(divisors, key=lambda divisor: abs(divisor - patch_size))
            raise UserError(
                f"image_size ({image_size}) must be divisible by patch_size ({patch_size}); try patch_size={better}"
            )
        inner_width = 4 * width if inner_width is None else inner_width
        self.image_size, self.patch_size, self.channels = image_size, patch_size, channels
        self.width, self.heads, self.inner_width = width, heads, inner_width
        self.activation, self.norm_eps, self.dropout_probability = activation, norm_eps, dropout
        patches = (image_size // patch_size) ** 2
        self.patch_embedding = nn.Linear(channels * patch_size * patch_size, width)  # E
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))  # x_class
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + patches, width))  # E_pos
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, inner_width, activation, "pre", norm_eps, dropout, kernel=kernel)
            for _ in range(layers)
        )
        self.final_norm = nn.LayerNorm(width, norm_eps)
        self.classifier = nn.Linear(width, classes)
        initialize_normal(self)
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.02)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Classify images.

        Args:
            pixel_values: Shape (batch, channels, image_size, image_size), float.
            labels: See `losses.compute_classification_loss`.

        Returns:
            logits, shape (batch, classes), and, where labels are given, loss.

        Raises:
            UserError: if an image has another shape.
        """
        shape, expected = tuple(pixel_values.shape[1:]), (self.channels, self.image_size, self.image_size)
        if shape != expected:
            raise UserError(f"image of shape {shape} given, {expected} expected")
        patches = self.patch_embedding(split_into_patches(pixel_values, self.patch_size))  # x_p E
        first = self.class_token.expand(len(patches), -1, -1)  # (batch, 1, width)
        x = torch.cat([first, patches], dim=1) + self.position_embedding  # equation 1: (batch, 1 + patches, width)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)  # equations 2 and 3
        y = self.final_norm(x[:, 0])  # equation 4: (batch, width)
        return build_output(self.classifier(y), labels)


def split_into_patches(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into square patches, row by row, and lay each patch's pixels in one row.

    Args:
        images: Shape (batch, channels, height, width).
        patch_size: P, in pixels.

    Returns:
        Shape (batch, (height / P) * (width / P), channels * P * P).
    """
    batch, channels, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    grid = images.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * patch_size * patch_size)
