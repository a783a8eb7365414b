"""LoRA on a linear layer at the price of the linear layer.

PEFT computes y = x W' + s (x A') B' as it is written: the side path makes two more outputs of y's size and keeps them
for the backward pass. The sum W + s B A is as small as W, and with it

    forward     y  = x (W + s B A)'                  one product, only x is kept
    backward    dx = g (W + s B A)                   one product, side path included
                dA = s (g B)' x,   dB = s g' (x A')  four thin products of rank r

which is the same function and the same gradients in float32. In a shorter type the sum would round the update away,
so it is used in float32 only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _MergedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return nn.functional.linear(x, torch.addmm(weight, b, a, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        g, flat = gradients[0].reshape(-1, weight.shape[0]), x.reshape(-1, weight.shape[1])
        dx = g @ torch.addmm(weight, b, a, alpha=ctx.scale) if ctx.needs_input_grad[0] else None
        da = (g @ b).mul_(ctx.scale).T @ flat  # (rank, in)
        db = g.T @ (flat @ a.T).mul_(ctx.scale)  # (out, rank)
        return dx.view_as(x) if dx is not None else None, None, None, da, db, None


class FusedLoraLinear:
    """Mixin for PEFT's LoRA linear layer with one adapter and no dropout."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return x (W + s B A)' + bias; everything out of the ordinary goes PEFT's own way.

        Args:
            x: Shape (..., in), float32.
            *args: As PEFT's layer.
            **kwargs: As PEFT's layer.
        """
        if args or kwargs or self.disable_adapters or self.merged or self.active_adapters != ["default"]:
            return super().forward(x, *args, **kwargs)
        base, name = self.base_layer, "default"
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return _MergedLinear.apply(x, base.weight, base.bias, a, b, self.scaling[name])


def fuse_lora(model: nn.Module) -> int:
    """Let every plain LoRA linear layer of a PEFT model compute by the merged weight; returns how many.

    Parameters, their names and what is saved stay as they are.
    """
    from peft.tuners.lora.layer import Linear

    fused = 0
    for module in model.modules():
        if type(module) is not Linear or not isinstance(module.base_layer, nn.Linear):
            continue
        variant = module.lora_variant or any(module.use_dora.values())
        dropout = not isinstance(module.lora_dropout["default"], nn.Identity)
        float32 = module.base_layer.weight.dtype == torch.float32
        if not variant and not dropout and float32 and not module.lora_bias["default"]:
            module.__class__ = type("FusedLoraLinear", (FusedLoraLinear, Linear), {})
            fused += 1
    return fused
