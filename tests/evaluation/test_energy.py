from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from startup_llm.evaluation import energy
from startup_llm.evaluation.energy import EnergyMeter, describe_energy
from startup_llm.evaluation.environment import StageClock

ROOT = Path(__file__).parents[2]


def make_counter(folder: Path, name: str, microjoules: int, most: int = 1_000_000_000) -> Path:
    """Write a counter as Linux shows one, and return the file that counts."""
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_packages_are_summed_over_a_counter_that_begins_anew_and_their_parts_are_left_out(tmp_path):
    first = make_counter(tmp_path / "intel-rapl:0", "package-0", 400_000_000)
    second = make_counter(tmp_path / "intel-rapl:1", "package-1", 999_000_000)
    core = make_counter(tmp_path / "intel-rapl:0:0", "core", 0)
    meter = EnergyMeter(powercap=tmp_path)
    first.write_text("500000000\n")
    second.write_text("1000000\n")
    core.write_text("77000000\n")
    meter._read_packages()
    first.write_text("200000000\n")
    found = meter.read()
    assert found["parts"] == {"processor": pytest.approx((100 + 2 + 700) / 3.6e6)}
    assert found["kilowatt_hours"] == found["parts"]["processor"]


def test_a_counter_is_read_again_before_it_has_gone_round(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "_SECONDS_BETWEEN_READS", 0.01)
    file = make_counter(tmp_path / "intel-rapl:0", "package-0", 0, most=1_000_000)
    meter = EnergyMeter(powercap=tmp_path)
    for microjoules in (900_000, 800_000, 700_000):  # each less than the one before: it went round between
        file.write_text(f"{microjoules}\n")
        for _ in range(1000):
            if meter._packages[0].last == microjoules:
                break
            energy.threading.Event().wait(0.01)
    assert meter.read()["kilowatt_hours"] == pytest.approx(2.7 / 3.6e6)


DRIVER = """
static unsigned long long energy[2] = {5000, 7000000};
static int handles[2] = {0, 1};
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  if (index > 1) return 2;
  *handle = &handles[index]; return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  *handle = &handles[1]; return uuid[4] == 'b' ? 0 : 6; }
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *total) {
  *total = energy[*(int *)handle] += 3600; return 0; }
"""
"""Stands for the GPU driver's library, with its functions' types: two GPUs that count 3.6 J more at each look."""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize(
    ("visible", "gpus"), [(None, 2), ("0,1", 2), ("1", 1), ("GPU-b", 1), ("GPU-x", 0), ("0,7", 0), ("", 0)]
)
def test_the_gpus_that_this_process_may_use_are_summed(tmp_path, visible, gpus):
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    program = "import pathlib, sys; from startup_llm.evaluation.energy import EnergyMeter as Meter; "
    program += "print(Meter(pathlib.Path(sys.argv[1])).read())"
    read = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env=environment | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = ast.literal_eval(read.stdout)
    assert found == ({"kilowatt_hours": gpus * 1e-6, "parts": {"GPU": gpus * 1e-6}} if gpus else None)


def test_where_nothing_counts_nothing_is_told(tmp_path):
    assert EnergyMeter(powercap=tmp_path).read() is None
    assert describe_energy(None) == "not measured"


def test_this_machine_tells_what_it_counts_or_nothing():
    found = StageClock().energy.read()
    assert found is None or found["kilowatt_hours"] >= 0
