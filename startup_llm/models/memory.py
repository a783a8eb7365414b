"""How much memory there is, and whether a model fits into it, before it is built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from startup_llm.errors import UserError


def check_memory(name: str, auto_class: Any, config: Any, *, trust_remote_code: bool = False) -> None:
    """Refuse a model whose float32 weights do not fit into memory; to count them it is built without any.

    Args:
        name: Of the checkpoint.
        auto_class: The Auto class that will load it.
        config: What it is built from.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If it does not fit.
    """
    import torch
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        return  # each process holds a part of it
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = auto_class.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # the loading, which fails at the same place, says why
        return
    count = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    total = read_total_memory_bytes()
    if 4 * count > total:
        raise UserError(
            f"checkpoint {name}: its config.json asks for {count:,} weights, {4 * count / 2**30:,.1f} GiB in float32, "
            f"and there are {total / 2**30:,.1f} GiB of memory; choose a smaller one, or copy a damaged one again"
        )


def check_blocks_memory(width: int, layers: int) -> None:
    """Refuse transformer blocks whose float32 weights alone do not fit into memory.

    Args:
        width: Of the vector of a token.
        layers: Number of blocks, each of at least 12 * width^2 weights: four projections of the attention, and two
            of the feed-forward network of four times the width.

    Raises:
        UserError: If they do not fit.
    """
    count, total = 12 * layers * width**2, read_total_memory_bytes()
    if 4 * count > total:
        raise UserError(
            f"model.width {width:,} and model.layers {layers:,} ask for {count:,} weights, "
            f"{4 * count / 2**30:,.1f} GiB in float32, and there are {total / 2**30:,.1f} GiB of memory; choose less"
        )


def read_total_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much memory this process can have at most: the machine's with its swap space, or a limit below it.

    What is free just now does not count, as a model may be loaded where another one is about to be dropped.

    Args:
        cgroup: Folder of the control group (cgroup v2).
    """
    import resource

    import psutil

    sizes = [psutil.virtual_memory().total + psutil.swap_memory().total]
    limit = _read_figure(cgroup / "memory.max")
    sizes += [limit] if limit is not None else []
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    sizes += [address_space] if address_space != resource.RLIM_INFINITY else []
    return min(sizes)


def read_free_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much more this process can get of the machine's memory.

    The limits of the container (cgroup v2: memory.max) and of the process (ulimit -v) count.

    Args:
        cgroup: Folder of the control group.
    """
    import resource

    import psutil

    free = [psutil.virtual_memory().available]
    limit = _read_figure(cgroup / "memory.max")
    if limit is not None:
        cache = re.search(r"^inactive_file (\d+)$", _read_text(cgroup / "memory.stat"), re.MULTILINE)
        free.append(limit - (_read_figure(cgroup / "memory.current") or 0) + (int(cache[1]) if cache else 0))
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        free.append(address_space - psutil.Process().memory_info().vms)
    return max(min(free), 0)


def _read_text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""  # no control group here


def _read_figure(file: Path) -> int | None:
    figure = _read_text(file).strip()
    return int(figure) if figure.isdigit() else None  # "max" is no limit
