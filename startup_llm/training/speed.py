"""How to compute on the device at hand.

Ideas that lost, or have too little to win, on BANKING77 with MiniLM and LoRA on two processor cores:

- Unpadding (rows end to end, with block-diagonal attention): batches grouped by length compute 1.04 padded tokens
  for a real one, so it could win 4 % at most. (Random batches of 32, padded to their longest row, compute 2.93;
  padding to 128 tokens, 7.91.)
- bfloat16 because the processor lists it, or for less memory: without matrix units a product runs at 5 to 20 GFLOP/s
  against 68 to 96 in float32, and Trainer with `bf16` at 1.5 rows a second against 26. So both are timed here.
- torch.compile: a step of 64 rows takes 520 ms instead of 526, and four compilations, for batches of other lengths,
  take 131 s in the first 120 steps, which take 81 s without.
- Keeping tokenized rows on disk or collating without loops: 9,000 texts are tokenized in a second and collated in half
  of one, of some 75 s to train on them once.
- Larger parts of a batch than 2,048 padded tokens: `pipeline()` with 128 rows at once answers half as many rows a
  second as with 8.

What pays beside the plan's own choices: rows of like length together and in parts, LoRA at the price of a linear layer
(`fused_lora`), and, where the adapter sits in upper blocks alone, states of the lower ones that the probe computes and
training keeps (`kept_states`). In one run, rows a second: 840 with the last block adapted, 277 with the upper half,
143 with all; 84 with Trainer, PEFT and rows of like length together, 49 with its batches padded at random, 45 with
SetFit.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from startup_llm.config import SpeedConfig
from startup_llm.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from torch import nn


TOKENS_PER_BATCH = {"cpu": 2048}
"""Device -> padded tokens that are computed at once; 65,536 on others. More of them take memory, and on two processor
cores no less time."""


MEMORY_BUDGET = 0.9
"""Share of what torch.compile would keep for the backward pass of a block that may be kept. With the sizes of Llama
3.2 1B and LoRA on an H200: 16.1 GiB with 0.9, 22.1 with 1, in the same time; below it, matrix products are computed
again (5.6 GiB, and 24 % more time)."""


@dataclass(frozen=True)
class AttentionShape:
    """What attention has to do in a typical part of a batch.

    Attributes:
        lengths: Tokens of each row; the others up to the longest are padding.
        heads: Attention heads.
        head_width: Width of a head.
        key_heads: Heads of keys and values, each for as many heads; None for one each.
        causal: Whether tokens see none behind them, in a model that has `causal_attention`.
    """

    lengths: tuple[int, ...] = (32,) * 32
    heads: int = 12
    head_width: int = 32
    key_heads: int | None = None
    causal: bool = False

    def __str__(self) -> str:
        return f"{len(self.lengths)} rows of {min(self.lengths)} to {max(self.lengths)} tokens"


@dataclass(frozen=True)
class SpeedPlan:
    """Choices for one device, each with its reason.

    Attributes:
        device: cpu, cuda, xpu, mps, xla.
        compute_dtype: bfloat16 or float32: the type of matrix products, under autocast.
        frozen_dtype: Type in which weights that are not trained are kept while training.
        attention_kernel: eager, sdpa, flash_attention_2 or causal_blocks; None for what transformers picks.
        tokens_per_batch: Padded tokens that are computed at once, in training and in prediction.
        reasons: One sentence per choice.
        plain: Train as transformers' Trainer and PEFT do, without what this package adds for speed.
        compile: Train through torch.compile, block by block.
    """

    device: str
    compute_dtype: str
    frozen_dtype: str
    attention_kernel: str | None
    tokens_per_batch: int
    reasons: tuple[str, ...]
    plain: bool = False
    compile: bool = False

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


def plan_speed(
    config: SpeedConfig | None = None, find_shape: Callable[[], AttentionShape | None] | None = None
) -> SpeedPlan:
    """Inspect the device, measure what cannot be looked up, and choose; what the config gives is taken as it is.

    A CPU that lists bfloat16 among its instructions is not always faster with it: without matrix units (AMX) it can be
    slower than float32. And which attention kernel is faster, forwards and backwards, depends on the processor. So
    both are timed.

    Args:
        config: What is not to be chosen.
        find_shape: Called where attention is timed: tells on what, or None for the usual.
    """
    import torch
    from accelerate import PartialState

    config = config or SpeedConfig()
    device = PartialState().device.type
    use_threads(config)
    tokens = config.tokens_per_batch or TOKENS_PER_BATCH.get(device, 65536)
    if config.plan == "plain":
        name, kernel = config.compute_dtype or "float32", config.attention_kernel
        reason = f"the Trainer as it comes, in {name}, with {kernel or 'its own choice of'} attention: as asked for"
        return SpeedPlan(device, name, "float32", kernel, tokens, (reason,), plain=True, compile=config.compile)
    if device == "cpu":
        keep_freed_memory()
    name, why = _choose_dtype(config, device)
    kernel, why_kernel = _choose_kernel(config, device, name, find_shape)
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    return SpeedPlan(
        device=device,
        compute_dtype=name,
        frozen_dtype=name,
        attention_kernel=kernel,
        tokens_per_batch=tokens,
        reasons=(
            f"matrix products in {name}: {why}",
            f"frozen weights kept in {name}, trained ones in float32",
            f"{kernel} attention: {why_kernel}; at most {tokens:,} tokens at once{threads}; "
            + ("blocks compiled, as asked for" if config.compile else "not compiled, which only long runs earn back"),
        ),
        compile=config.compile,
    )


def resume_plan(stored: dict[str, Any], config: SpeedConfig) -> SpeedPlan:
    """Return the plan that an interrupted run began with, on the device at hand.

    Args:
        stored: `SpeedPlan.as_dict` of that plan.
        config: What is asked for now.

    Raises:
        UserError: If the config asks for another plan.
    """
    from accelerate import PartialState

    device = PartialState().device.type
    plan = SpeedPlan(**{**stored, "device": device, "reasons": (*stored["reasons"], "as the interrupted run began")})
    asked = {name: getattr(config, name) for name in ("compute_dtype", "attention_kernel", "tokens_per_batch")}
    began = plan.as_dict() | {"plan": "plain" if plan.plain else "auto"}
    asked |= {"plan": config.plan if config.plan == "plain" else None, "compile": config.compile or None}
    for name, value in asked.items():
        if value not in (None, began[name]):
            raise UserError(
                f"speed.{name} is {value}, but the interrupted run began with {began[name]}; "
                "leave the option out, or start again with --overwrite"
            )
    return plan


def _choose_dtype(config: SpeedConfig, device: str) -> tuple[str, str]:
    """Return the type of matrix products and why."""
    import torch

    if config.compute_dtype:
        return config.compute_dtype, "as asked for"
    if device == "cpu":
        rates = {name: measure_matrix_product(name) for name in ("float32", "bfloat16")}
        fast = rates["bfloat16"] > 1.2 * rates["float32"]
        measured = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in rates.items())
        why = f"measured {measured} with {torch.get_num_threads()} threads"
    elif device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        why = f"the GPU has {'' if fast else 'no '}bfloat16 units"
    else:
        fast = device == "xla"
        why = f"the usual choice on {device}"
    return "bfloat16" if fast else "float32", why


def _choose_kernel(
    config: SpeedConfig, device: str, dtype_name: str, find_shape: Callable[[], AttentionShape | None] | None
) -> tuple[str, str]:
    """Return the attention kernel and why."""
    import torch

    if config.attention_kernel:
        return config.attention_kernel, "as asked for"
    if device != "cpu":
        return "sdpa", "fused, which a GPU is fastest with"
    shape = (find_shape and find_shape()) or AttentionShape()
    kernels = ["eager", "sdpa", *["causal_blocks"] * (shape.causal and not config.compile)]
    times = {name: measure_attention(name, getattr(torch, dtype_name), shape) for name in kernels}
    measured = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in times.items())
    return min(times, key=times.__getitem__), f"measured {measured} on {shape}"


def use_plan(plan: SpeedPlan, config: SpeedConfig) -> None:
    """Let this process compute as planned: each one has threads and a C library of its own."""
    use_threads(config)
    if plan.device == "cpu" and not plan.plain:
        keep_freed_memory()


def use_threads(config: SpeedConfig) -> None:
    """Compute with the threads that the config gives, else with every idle core of the CPU."""
    import torch
    from accelerate import PartialState

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif PartialState().device.type == "cpu":
        use_idle_cores()


def use_idle_cores() -> None:
    """Share the cores among the processes here: `accelerate launch` gives each one thread by default.

    More threads asked for by OMP_NUM_THREADS stand, and so does a single one without that launcher.
    """
    import os

    import torch

    if os.environ.get("OMP_NUM_THREADS") == "1" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next tensor: giving it back costs page faults at every step."""
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # another C library: its own habits stand
    mmap_max, trim_threshold = -4, -1  # malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def wait_for_device() -> float:
    """Wait until an accelerator has computed what it was given, and return the time, in seconds."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def measure_attention(kernel: str, dtype: torch.dtype, shape: AttentionShape) -> float:
    """Return the seconds of one masked attention, forwards and backwards, on the CPU: the best of five."""
    import torch

    from startup_llm.models.causal_attention import compute_causal_attention

    rows, length = len(shape.lengths), max(shape.lengths)
    key_heads = shape.key_heads or shape.heads
    sizes = [(rows, heads, length, shape.head_width) for heads in (shape.heads, key_heads, key_heads)]
    query, key, value = (torch.ones(size, dtype=dtype, requires_grad=True) for size in sizes)
    padded = torch.arange(length) >= torch.tensor(shape.lengths)[:, None]  # (rows, length)
    mask = torch.zeros(rows, 1, length, length, dtype=dtype)
    mask = mask.masked_fill(padded[:, None, None, :], torch.finfo(dtype).min)

    def repeat(x: torch.Tensor) -> torch.Tensor:
        return x if key_heads == shape.heads else x.repeat_interleave(shape.heads // key_heads, dim=1)

    def attend() -> None:
        if kernel == "causal_blocks":
            out = compute_causal_attention(query, key, value, shape.head_width**-0.5)
        elif kernel == "sdpa":
            out = torch.nn.functional.scaled_dot_product_attention(query, repeat(key), repeat(value), mask)
        else:
            scores = query @ repeat(key).transpose(2, 3) * shape.head_width**-0.5 + mask
            out = torch.softmax(scores, dim=-1, dtype=torch.float32).to(dtype) @ repeat(value)
        out.sum().backward()

    return _best_time(attend)


def measure_matrix_product(dtype_name: str, rows: int = 1024, width: int = 768) -> float:
    """Return the rate of a (rows, width) by (width, width) matrix product on the CPU, in GFLOP/s: the best of five."""
    import torch

    dtype = getattr(torch, dtype_name)
    a, b = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    return 2 * rows * width**2 / _best_time(lambda: torch.nn.functional.linear(a, b)) / 1e9


def _best_time(work: Callable[[], object], times: int = 5) -> float:
    work()
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def store_frozen_weights(model: nn.Module, dtype_name: str) -> None:
    """Keep the weights that are not trained in the given type, so that they are not cast again at every step."""
    import torch

    dtype = getattr(torch, dtype_name)
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


@contextlib.contextmanager
def compile_blocks(model: nn.Module) -> Iterator[None]:
    """Within, the model's repeated blocks learn through torch.compile; a model without any as a whole.

    The blocks share what is compiled, so that it takes seconds, and what surrounds them stays as it is. What is cheap
    beside the matrix products, such as norms and activations, is computed again in the backward pass, not kept for it.

    Args:
        model: As it is called, perhaps with an adapter.
    """
    import torch._functorch.config

    from startup_llm.models.adapters import find_blocks

    blocks = find_blocks(model) or [model]
    for block in blocks:
        block.forward = _compile_training(block)
    try:
        with torch._functorch.config.patch(activation_memory_budget=MEMORY_BUDGET):
            yield
    finally:
        for block in blocks:
            del block.forward


def _compile_training(block: nn.Module) -> Callable:
    """Return a block's forward that is compiled while it learns, and else as it was."""
    import torch

    plain, compiled = block.forward, torch.compile(block.forward)

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (compiled if block.training and torch.is_grad_enabled() else plain)(*args, **kwargs)

    return forward
