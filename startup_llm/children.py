"""Child processes that end with the process that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

SECONDS_TO_END = 30
"""How long a child may take to end by itself."""


def run_child(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess:
    """Run a command to its end, as `subprocess.run` does, in a process group of its own.

    Where this process is interrupted meanwhile, the child and all that it started get SIGTERM, so that none of them
    goes on with a run that nobody waits for.

    Args:
        command: Words of the command.
        options: Those of `subprocess.Popen`.
    """
    with subprocess.Popen(command, start_new_session=True, **options) as child:
        try:
            out, err = child.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)
