from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

PARENT = """
import sys
from startup_llm.children import run_child
from startup_llm.errors import run_recipe

child = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"
run_recipe(lambda: run_child([sys.executable, "-c", child, *sys.argv[1:]]))
"""
GRANDCHILD = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.cold_start
def test_a_child_and_its_children_end_with_their_parent(tmp_path):
    place = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", PARENT, GRANDCHILD, str(place)]) as parent:
        while not place.exists() or not place.read_text():
            time.sleep(0.02)
        grandchild = psutil.Process(int(place.read_text()))
        os.kill(parent.pid, signal.SIGTERM)
        assert parent.wait(20) == 143
    assert psutil.wait_procs([grandchild], timeout=10)[1] == []


def test_output_and_exit_code_are_handed_on():
    from startup_llm.children import run_child

    code = "import sys; sys.stdout.write('out'); sys.stderr.write('err'); sys.exit(3)"
    done = run_child([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out", "err")
