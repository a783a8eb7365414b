"""Batch normalisation that keeps the statistics it was pretrained with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class _KeepsStatistics:
    """Normalises by the running mean and variance in training too; scale and shift may learn.

    Batches of detectors are small, so their own statistics are noise, and an adapter's file has no place for others.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    eps: float

    def forward(self, features: Tensor) -> Tensor:
        """Return (features - mean) / deviation * scale + shift, in the features' type.

        Args:
            features: Shape (batch, channels, ...).
        """
        scale = self.weight.float() * (self.running_var + self.eps).rsqrt()
        shift = self.bias.float() - self.running_mean * scale
        shape = (-1, *[1] * (features.dim() - 2))
        return (features * scale.view(shape) + shift.view(shape)).to(features.dtype)


class FixedBatchNorm1d(_KeepsStatistics, nn.BatchNorm1d):
    """Of vectors, shape (batch, channels), or of series, shape (batch, channels, length)."""


class FixedBatchNorm2d(_KeepsStatistics, nn.BatchNorm2d):
    """Of maps, shape (batch, channels, height, width)."""


_FIXED = {nn.BatchNorm1d: FixedBatchNorm1d, nn.BatchNorm2d: FixedBatchNorm2d}


def fix_batch_norms(model: nn.Module, exclude: Sequence[str] = ()) -> None:
    """Let every batch norm of a model, changed in place, keep its statistics.

    Args:
        model: The model; a batch norm without weights or without statistics stays as it is.
        exclude: Names of modules to leave alone.
    """
    for name, module in model.named_modules():
        skipped = any(name == other or name.startswith(f"{other}.") for other in exclude)
        if not skipped and type(module) in _FIXED and module.affine and module.track_running_stats:
            module.__class__ = _FIXED[type(module)]
