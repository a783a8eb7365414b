"""What a device's matrix products reach at most: the rate that a share of the peak is measured against."""

from __future__ import annotations

from collections.abc import Mapping

GPU_PEAKS: Mapping[str, float] = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
}
"""Part of a GPU's name -> bfloat16 with float32 accumulation, without sparsity, in TFLOP/s. Half of what NVIDIA's data
sheets of H100 and H200 state with sparsity (https://www.nvidia.com/en-us/data-center/h100 and .../h200), and what that
of A100 states without (https://www.nvidia.com/en-us/data-center/a100). The first part that fits counts."""


def find_peak(given_tflops: float | None = None) -> dict[str, float]:
    """Return the rate of matrix products per number type, in GFLOP/s.

    On a CPU it is measured, the best of five; of a GPU it is looked up, and empty where its name is not known.

    Args:
        given_tflops: What to take instead, in TFLOP/s.
    """
    import torch

    from startup_llm.training.speed import measure_matrix_product

    if given_tflops is not None:
        return {"given": given_tflops * 1e3}
    if not torch.accelerator.is_available():
        return {name: measure_matrix_product(name) for name in ("float32", "bfloat16")}
    return look_up_peak(torch.cuda.get_device_name()) if torch.cuda.is_available() else {}


def look_up_peak(gpu: str) -> dict[str, float]:
    """Return the data sheet's rate of a GPU, by its name as CUDA tells it, in GFLOP/s; empty for others."""
    return next(({"bfloat16": rate * 1e3} for part, rate in GPU_PEAKS.items() if part in gpu), {})
