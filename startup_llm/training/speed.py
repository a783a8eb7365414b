"""How to compute on the device at hand."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import nn


@dataclass(frozen=True)
class SpeedPlan:
    """Choices for one device, each with its reason.

    Attributes:
        device: cpu, cuda, xpu, mps, xla.
        compute_dtype: bfloat16 or float32: the type of matrix products, under autocast.
        frozen_dtype: Type in which weights that are not trained are kept while training.
        attention_kernel: eager or sdpa.
        tokens_per_batch: Padded tokens in one batch of prediction.
        reasons: One sentence per choice.
    """

    device: str
    compute_dtype: str
    frozen_dtype: str
    attention_kernel: str
    tokens_per_batch: int
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def exact(self) -> SpeedPlan:
        """Return this plan with float32 throughout, to compare numbers."""
        return replace(self, compute_dtype="float32")

    def autocast(self) -> AbstractContextManager:
        """Return the context in which this plan computes."""
        import torch

        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.compute_dtype == "bfloat16")


def plan_speed() -> SpeedPlan:
    """Look at the device, measure what cannot be looked up, and choose.

    A CPU that lists bfloat16 among its instructions is not always faster with it: without matrix units (AMX) it can be
    slower than float32, so both are timed.
    """
    import torch
    from accelerate import PartialState

    device = PartialState().device.type
    if device == "cpu":
        rates = {name: measure_matrix_product(name) for name in ("float32", "bfloat16")}
        fast = rates["bfloat16"] > 1.2 * rates["float32"]
        seen = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in rates.items())
        why = f"measured {seen}"
    elif device == "cuda":
        fast = torch.cuda.is_bf16_supported()
        why = f"the GPU has {'' if fast else 'no '}bfloat16 units"
    else:
        fast = device == "xla"
        why = f"the usual choice on {device}"
    dtype = "bfloat16" if fast else "float32"
    kernel = "eager" if device == "cpu" else "sdpa"
    return SpeedPlan(
        device=device,
        compute_dtype=dtype,
        frozen_dtype=dtype,
        attention_kernel=kernel,
        tokens_per_batch=4096 if device == "cpu" else 65536,
        reasons=(
            f"matrix products in {dtype}: {why}",
            f"frozen weights kept in {dtype}, trained ones in float32",
            f"{kernel} attention: {'the fused kernel is slower backwards on a CPU' if device == 'cpu' else 'fused'}",
        ),
    )


def measure_matrix_product(dtype_name: str, rows: int = 1024, width: int = 768) -> float:
    """Return the rate of a (rows, width) by (width, width) matrix product on the CPU, in GFLOP/s: the best of five."""
    import time

    import torch

    dtype = getattr(torch, dtype_name)
    a, b = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    torch.nn.functional.linear(a, b)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * width**2 / best / 1e9


def store_frozen_weights(model: nn.Module, dtype_name: str) -> None:
    """Keep the weights that are not trained in the given type, so that they are not cast again at every step."""
    import torch

    dtype = getattr(torch, dtype_name)
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
