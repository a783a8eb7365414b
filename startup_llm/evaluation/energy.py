"""The energy that a run took, where the machine counts it; nothing is estimated from a processor's name.

Processors of Intel and AMD count the energy of each package (RAPL), which Linux shows under `/sys/class/powercap` to
root, or to all where an administrator allows it. NVIDIA's GPUs since Volta count theirs, which NVML reads
(`nvmlDeviceGetTotalEnergyConsumption`), in Python by nvidia-ml-py of the extra `gpu`. Both count all that runs on the
part meanwhile, other programs too. Memory, disks, fans and power supplies are not counted.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_KILOWATT_HOUR = 3.6e6
_SECONDS_BETWEEN_READS = 30.0
"""A RAPL counter of 262 kJ is full after some 15 minutes at 300 W, and begins anew."""


@dataclass
class _PackageCounter:
    """A counter that begins anew at its range.

    Attributes:
        file: Holds microjoules.
        range: Microjoules at which it begins anew.
        last: What it said last.
        total: Microjoules since it was first read.
    """

    file: Path
    range: int
    last: int
    total: int = 0

    def read(self) -> None:
        now = int(self.file.read_text())
        self.total += now - self.last if now >= self.last else now + self.range - self.last
        self.last = now


@dataclass
class EnergyMeter:
    """Counts energy from when it is made.

    Attributes:
        powercap: Where Linux shows RAPL's counters.
    """

    powercap: Path = POWERCAP
    _packages: list[_PackageCounter] = field(default_factory=list, init=False)
    _gpus: list[Any] = field(default_factory=list, init=False)
    _gpu_start: int | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        for folder in sorted(self.powercap.glob("*-rapl:*")):
            with suppress(OSError, ValueError):
                if (folder / "name").read_text().startswith("package"):
                    file, range_uj = folder / "energy_uj", int((folder / "max_energy_range_uj").read_text())
                    self._packages.append(_PackageCounter(file, range_uj, int(file.read_text())))
        self._gpus = _list_gpus()
        self._gpu_start = _read_millijoules(self._gpus)
        if self._packages:
            threading.Thread(target=self._keep_reading, daemon=True).start()

    def _keep_reading(self) -> None:
        while not threading.Event().wait(_SECONDS_BETWEEN_READS):
            self._read_packages()

    def _read_packages(self) -> None:
        with self._lock, suppress(OSError, ValueError):
            for counter in self._packages:
                counter.read()

    def read(self) -> dict[str, Any] | None:
        """Return kilowatt hours since the meter was made, by part.

        Returns:
            `kilowatt_hours` in all and `parts`, such as processor and GPU, of those that count; None where none does.
        """
        parts = {}
        if self._packages:
            self._read_packages()
            parts["processor"] = sum(counter.total for counter in self._packages) / 1e6 / JOULES_PER_KILOWATT_HOUR
        if self._gpu_start is not None and (now := _read_millijoules(self._gpus)) is not None:
            parts["GPU"] = (now - self._gpu_start) / 1000 / JOULES_PER_KILOWATT_HOUR
        return {"kilowatt_hours": sum(parts.values()), "parts": parts} if parts else None


def _list_gpus() -> list[Any]:
    """Return NVML's handles of the GPUs that this process may use; none where one of them is not found."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = map(str, range(pynvml.nvmlDeviceGetCount())) if visible is None else visible.split(",")
        return [
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdecimal()
            else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in filter(None, map(str.strip, names))
        ]
    except pynvml.NVMLError:
        return []


def _read_millijoules(gpus: list[Any]) -> int | None:
    """Return what the GPUs' counters say together; None without a GPU, or where one of them does not count."""
    if not gpus:
        return None
    import pynvml

    try:
        return sum(map(pynvml.nvmlDeviceGetTotalEnergyConsumption, gpus))
    except pynvml.NVMLError:
        return None


def describe_energy(energy: dict[str, Any] | None) -> str:
    """Say what was measured, and what was not."""
    if not energy:
        return "not measured"
    parts = energy["parts"]
    missing = [part for part in ("processor", "GPU") if part not in parts]
    parts_text = ", ".join(f"{part} {value:.3g} kWh" for part, value in parts.items())
    return parts_text + "".join(f"; that of the {part}, if any, was not measured" for part in missing)
