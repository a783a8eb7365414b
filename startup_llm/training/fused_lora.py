"""LoRA on a linear layer at the price of the linear layer.

PEFT computes y = x W' + s (x A') B' as it is written: the side path makes two more outputs of y's size and keeps them
for the backward pass. In float32 the sum W + s B A is as small as W, and with it

    forward     y  = x (W + s B A)'                  one product, only x is kept
    backward    dx = g (W + s B A)                   one product, side path included
                dA = s (g B)' x,   dB = s g' (x A')  four thin products of rank r

which is the same function and the same gradients. In a shorter type the sum would round the update away. There the
side path is written first, so that the large product adds to it before its sums are rounded and no output is read
again, and x and the thin h are all that is kept:

    forward     h  = s x A',   y = h B',   y += x W'
    backward    e  = s g B,    dx = e A,   dx += g W,   dA = e' x,   dB = g' h
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula


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


def _add_products(x: Tensor, weight: Tensor, h: Tensor, side: Tensor, bias: Tensor | None) -> Tensor:
    """Return x weight + h side + bias, shape (rows, out)."""
    thin = h @ side if bias is None else torch.addmm(bias, h, side)
    return thin.addmm_(x, weight)


_add_products_whole = torch.library.custom_op("startup_llm::add_products", _add_products, mutates_args=())
"""The same, which torch.compile leaves as it is: it would copy the side path's part before the product adds to it."""


@_add_products_whole.register_fake
def _(x: Tensor, weight: Tensor, h: Tensor, side: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@register_flop_formula(torch.ops.startup_llm.add_products)
def _count_operations(x: Any, weight: Any, *arguments: Any, **named: Any) -> int:
    """Say what an output costs to compute again: two operations a multiplication."""
    return 2 * x[0] * x[1] * weight[1]


class _SidePathLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        flat, kind = x.reshape(-1, weight.shape[1]), x.dtype
        h = (flat @ a.to(kind).T).mul_(scale)  # (rows, rank)
        add = _add_products_whole if torch.compiler.is_compiling() else _add_products
        y = add(flat, weight.T, h, b.to(kind).T, bias)
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
            add = _add_products_whole if torch.compiler.is_compiling() else _add_products
            dx = add(g, weight, e, a.to(x.dtype), None).view(*gradients[0].shape[:-1], -1)
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


@functools.cache
def _fused_class() -> type:
    """Return one class for all layers, or torch.compile would compile each anew."""
    from peft.tuners.lora.layer import Linear

    return type("FusedLoraLinear", (FusedLoraLinear, Linear), {})


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
            module.__class__ = _fused_class()
            fused += 1
    return fused
