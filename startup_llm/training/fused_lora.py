"""LoRA on a linear layer at the price of the linear layer.

PEFT computes y = x W' + s (x A') B' as it is written: the side path makes two more outputs of y's size and keeps them
for the backward pass. In float32 the sum W + s B A is as small as W, and with it

    forward     y  = x (W + s B A)'                  one product, only x is kept
    backward    dx = g (W + s B A)                   one product, side path included
                dA = s (g B)' x,   dB = s g' (x A')  four thin products of rank r

which is the same function and the same gradients. In a shorter type the sum would round the update away. There the
side path is added in place to what the frozen weight gave, and x and the thin h are all that is kept:

    forward     h  = s x A',   y = x W',   y += h B'
    backward    e  = s g B,    dx = g W,   dx += e A,   dA = e' x,   dB = g' h
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


class _SidePathLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, weight.shape[1])
        h = (flat @ a.to(x.dtype).T).mul_(scale)  # (rows, rank)
        y = nn.functional.linear(flat, weight, bias)
        y.addmm_(h, b.to(x.dtype).T)
        ctx.save_for_backward(flat, weight, a, b, h)
        ctx.scale = scale
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, h = ctx.saved_tensors
        g = gradients[0].reshape(-1, weight.shape[0]).to(x.dtype)
        e = (g @ b.to(x.dtype)).mul_(ctx.scale)  # (rows, rank)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (g @ weight).addmm_(e, a.to(x.dtype)).view(*gradients[0].shape[:-1], -1)
        return dx, None, None, (e.T @ x).to(a.dtype), (g.T @ h).to(b.dtype), None


class FusedLoraLinear:
    """Mixin for PEFT's LoRA linear layer with one adapter and no dropout."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return x (W + s B A)' + bias; everything out of the ordinary goes PEFT's own way.

        Args:
            x: Shape (..., in); computed in the frozen weight's type.
            *args: As PEFT's layer.
            **kwargs: As PEFT's layer.
        """
        if args or kwargs or self.disable_adapters or self.merged or self.active_adapters != ["default"]:
            return super().forward(x, *args, **kwargs)
        base, name = self.base_layer, "default"
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        function = _MergedLinear if base.weight.dtype == torch.float32 else _SidePathLinear
        with torch.autocast(x.device.type, enabled=False):  # types are settled here
            return function.apply(x.to(base.weight.dtype), base.weight, base.bias, a, b, self.scaling[name])


def fuse_lora(model: nn.Module) -> int:
    """Let every plain LoRA linear layer of a PEFT model compute so; returns how many.

    Parameters, their names and what is saved stay as they are.
    """
    from peft.tuners.lora.layer import Linear

    fused = 0
    for module in model.modules():
        if type(module) is not Linear or not isinstance(module.base_layer, nn.Linear):
            continue
        variant = module.lora_variant or any(module.use_dora.values())
        dropout = not isinstance(module.lora_dropout["default"], nn.Identity)
        floating = module.base_layer.weight.is_floating_point()
        if not variant and not dropout and floating and not module.lora_bias["default"]:
            module.__class__ = type("FusedLoraLinear", (FusedLoraLinear, Linear), {})
            fused += 1
    return fused
