"""What a run took and where it ran."""

from __future__ import annotations

import functools
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm import __version__
from startup_llm.evaluation.energy import EnergyMeter

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "evaluate",
    "scikit-learn",
    "scipy",
)
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_CBWR",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "PYTHONHASHSEED",
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_USE_CPU",
)
"""Environment variables that move numbers."""

_SECRET = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)


class StageClock:
    """Seconds per named stage of a run and in total since the process was started, and energy since the clock was."""

    def __init__(self) -> None:
        import psutil

        self.seconds: dict[str, float] = {}
        self.energy = EnergyMeter()
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
    """Return the versions of Python, of this package, installed or not, and of those that make the numbers."""
    from importlib.metadata import version

    own = {"python": platform.python_version(), "startup-llm": __version__}
    return own | {name: version(name) for name in PACKAGES}


def read_required_versions(package: str = "startup-llm") -> dict[str, str]:
    """Return the version of a package and of all that it requires, directly or through others, as installed."""
    from packaging.utils import canonicalize_name

    versions: dict[str, str] = {}
    seen, waiting = set(), [(canonicalize_name(package), "")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if (installed := _read_installed(name)) is None:
            continue  # a requirement of another platform
        versions[name], requirements = installed
        for needed in requirements:
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needed.name), wanted) for wanted in ("", *needed.extras)]
    return dict(sorted(versions.items()))


@functools.cache
def _read_installed(name: str) -> tuple[str, tuple[Requirement, ...]] | None:
    """Return an installed package's version and what it requires; kept, because parsing it takes milliseconds."""
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return None
    return installed.version, tuple(Requirement(line) for line in installed.requires or ())


def describe_code() -> dict[str, Any]:
    """Return this package's version, the SHA-256 of its sources, and the commit that they were checked out from.

    The commit is None where the package does not lie in a git repository that holds it; `dirty` says whether a file
    of that repository differs from the commit.
    """
    import hashlib

    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    tracked = _ask_git("ls-files", "--error-unmatch", "__init__.py", folder=folder) is not None
    changes = _ask_git("status", "--porcelain", "--untracked-files=no", folder=folder) if tracked else None
    return {
        "version": __version__,
        "sources_sha256": digest.hexdigest(),
        "commit": _ask_git("rev-parse", "HEAD", folder=folder) if tracked else None,
        "dirty": None if changes is None else bool(changes),
    }


def _ask_git(*words: str, folder: Path) -> str | None:
    """Return git's answer, or None. Git reads the repository's own configuration alone, and runs no program for it."""
    import subprocess

    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }
    no_programs = ["core.fsmonitor=false", f"core.hooksPath={os.devnull}", "core.untrackedCache=false"]
    options = [word for setting in no_programs for word in ("-c", setting)]
    try:
        answer = subprocess.run(
            ["git", *options, "-C", str(folder), *words],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:
        return None  # git is not installed
    return answer.stdout.strip() if answer.returncode == 0 else None


def withhold_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables without tokens, keys and passwords; the Hub's token file is not read either."""
    plain = {name: value for name, value in variables.items() if not _SECRET.search(name)}
    return {**plain, "HF_TOKEN_PATH": os.devnull}


def describe_environment() -> dict[str, Any]:
    """Return what the numbers of a computation depend on beside its inputs: packages, machine, threads, variables."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": read_required_versions(),
        "hardware": describe_hardware(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def describe_determinism() -> dict[str, Any]:
    """Return what PyTorch was told about giving the same numbers twice."""
    import torch

    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def describe_hardware() -> str:
    """Return the processor, its vector instructions, cores, memory and accelerators in one line."""
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
    vectors = torch.backends.cpu.get_cpu_capability()  # one name of a processor may stand for several kinds
    return ", ".join([f"{psutil.cpu_count()} cores of {cpu} ({vectors})", f"{memory:.0f} GiB", *gpus])


def read_peak_memory_bytes() -> int:
    """Return this process's largest resident memory so far, plus what it took on the GPU."""
    import resource
    import sys

    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return resident + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
