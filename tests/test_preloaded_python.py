"""A program of the preloaded Python does what it does in a Python that was started for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from preloaded_python import COLD_PYTHON

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is preloaded here")
SAY = "import os, sys; sys.stdout.write(f'{sys.argv[1:]} {os.getcwd()} {sys.stdin.read()} {os.environ[\"SAID\"]}')"
PROGRAMS = {
    "words, streams, folder and environment": ["-c", SAY, "a", "b c"],
    "an exit code": ["-c", "import sys; sys.stderr.write('wrong\\n'); sys.exit(3)"],
    "a message": ["-c", "import sys; sys.exit('wrong')"],
    "a signal": ["-c", "import os; os.kill(os.getpid(), 9)"],
    "a module": ["-m", "json.tool"],
    "a file": ["program.py", "a"],
    "what is printed at the end": ["-c", "import atexit, sys; atexit.register(sys.stdout.write, 'end')"],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_as_it_does_in_a_new_process(name, tmp_path):
    (tmp_path / "program.py").write_text("import sys; print(__name__, __file__, sys.argv, sys.path[0])")
    environment = {**os.environ, "SAID": "yes"}
    options = {"cwd": tmp_path, "input": "[1]", "env": environment, "capture_output": True, "text": True}
    answers = [
        subprocess.run([python, *PROGRAMS[name]], check=False, **options) for python in (COLD_PYTHON, sys.executable)
    ]
    assert len({(done.returncode, done.stdout, done.stderr) for done in answers}) == 1, answers


def test_libraries_are_imported_and_a_traceback_is_written():
    code = "import sys; assert 'torch' in sys.modules; print(sys.executable); raise ValueError('wrong')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, f"{sys.executable}\n")
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: wrong\n")


@pytest.mark.parametrize(
    ("words", "variables"), [(["-W", "error"], {}), ([], {"HF_HOME": "/elsewhere"}), ([], {"PYTHONHASHSEED": "1"})]
)
def test_what_was_decided_by_the_imports_starts_from_nothing(words, variables):
    code = "import sys; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, **variables}
    assert subprocess.run([sys.executable, *words, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_program(number, tmp_path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        program = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(timeout=30) == -number
    for _ in range(100):
        if not os.path.exists(f"/proc/{program}"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the program goes on")


@pytest.mark.cold_start
def test_a_test_may_start_python_from_nothing():
    assert sys.executable == COLD_PYTHON
