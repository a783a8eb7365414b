"""Batch normalisation that keeps the statistics it was pretrained with."""

from __future__ import annotations

from torch import Tensor, nn


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Normalises by the running mean and variance in training too; scale and shift may learn.

    Batches of detectors are small, so their own statistics are noise, and an adapter's file has no place for others.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return (features - mean) / deviation * scale + shift, in the features' type.

        Args:
            features: Shape (batch, channels, height, width).
        """
        scale = self.weight.float() * (self.running_var + self.eps).rsqrt()
        shift = self.bias.float() - self.running_mean * scale
        return (features * scale[:, None, None] + shift[:, None, None]).to(features.dtype)


def fix_batch_norms(model: nn.Module) -> None:
    """Let every `BatchNorm2d` of a model, changed in place, keep its statistics."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = FixedBatchNorm2d
