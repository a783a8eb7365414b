"""What a run took and where it ran."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGES = (
    "startup-llm",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "evaluate",
    "scikit-learn",
    "scipy",
)


class StageClock:
    """Seconds per named stage of a run, and in total since the process was started."""

    def __init__(self) -> None:
        import psutil

        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter() - (time.time() - psutil.Process().create_time())

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    @property
    def total(self) -> float:
        """Seconds since the process was started."""
        return time.perf_counter() - self._start


def read_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that make the numbers."""
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def describe_hardware() -> str:
    """Return the processor, cores, memory and accelerators in one line."""
    import psutil
    import torch

    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass  # no Linux: the platform's own name stands
    memory = psutil.virtual_memory().total / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join([f"{psutil.cpu_count()} cores of {cpu}", f"{memory:.0f} GiB", *gpus])


def read_peak_memory_bytes() -> int:
    """Return this process's largest resident memory so far, plus what it took on the GPU."""
    import resource
    import sys

    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return resident + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
