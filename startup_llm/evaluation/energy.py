"""The energy that a run took, where the machine counts it; nothing is estimated from a processor's name.

Processors of Intel and AMD count the energy of each package (RAPL), which Linux shows under `/sys/class/powercap` to
root, or to all where an administrator allows it. NVIDIA's GPUs since Volta count theirs, which the driver's library
tells (`nvmlDeviceGetTotalEnergyConsumption`). Both count all that runs on the part meanwhile, other programs too.
Memory, disks, fans and power supplies are not counted.
"""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"
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
        nvml: Name of the GPU driver's library.
    """

    powercap: Path = POWERCAP
    nvml: str = NVML
    _packages: list[_PackageCounter] = field(default_factory=list, init=False)
    _gpus: _Gpus | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        for folder in sorted(self.powercap.glob("*-rapl:*")):
            with suppress(OSError, ValueError):
                if (folder / "name").read_text().startswith("package"):
                    file, most = folder / "energy_uj", int((folder / "max_energy_range_uj").read_text())
                    self._packages.append(_PackageCounter(file, most, int(file.read_text())))
        self._gpus = _Gpus.find(self.nvml)
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
        if self._gpus is not None and (joules := self._gpus.read_joules()) is not None:
            parts["GPU"] = joules / JOULES_PER_KILOWATT_HOUR
        return {"kilowatt_hours": sum(parts.values()), "parts": parts} if parts else None


class _Gpus:
    """The GPUs that this process may use, as the driver's library counts their energy."""

    def __init__(self, library: ctypes.CDLL, handles: list[ctypes.c_void_p]) -> None:
        self._library, self._handles = library, handles
        self._start = self._read_millijoules()

    @classmethod
    def find(cls, name: str) -> _Gpus | None:
        """Return the GPUs that count, or None where there is no driver, no GPU, or one of them does not count."""
        try:
            library = ctypes.CDLL(name)
        except OSError:
            return None
        if library.nvmlInit_v2() != 0:
            return None
        gpus = cls(library, cls._list_handles(library))
        return gpus if gpus._start is not None else None

    @staticmethod
    def _list_handles(library: ctypes.CDLL) -> list[ctypes.c_void_p]:
        count = ctypes.c_uint()
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(index) for index in range(count.value)] if visible is None else visible.split(",")
        handles = []
        for name in filter(None, map(str.strip, names)):
            handle = ctypes.c_void_p()
            if name.isdecimal():
                status = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(name)), ctypes.byref(handle))
            else:
                status = library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
            if status != 0:
                return []
            handles.append(handle)
        return handles

    def _read_millijoules(self) -> int | None:
        total = 0
        for handle in self._handles:
            energy = ctypes.c_ulonglong()
            if self._library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy)) != 0:
                return None
            total += energy.value
        return total if self._handles else None

    def read_joules(self) -> float | None:
        """Return joules since the object was made, or None where the driver says no more."""
        now = self._read_millijoules()
        return None if now is None or self._start is None else (now - self._start) / 1000


def describe_energy(energy: dict[str, Any] | None) -> str:
    """Say what was measured, and what was not."""
    if not energy:
        return "not measured"
    parts = energy["parts"]
    missing = [part for part in ("processor", "GPU") if part not in parts]
    told = ", ".join(f"{part} {value:.3g} kWh" for part, value in parts.items())
    return told + "".join(f"; that of the {part}, if any, was not measured" for part in missing)
