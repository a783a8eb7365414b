"""Recipes in forked children of one process that has imported what they need, which is most of a short run.

Each child is a process of its own with its own folder, environment and output, and ends by itself or is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """How a recipe ended.

    Attributes:
        code: Its exit code, negative for a signal; None where it was still running at its limit and was killed.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
    """

    code: int | None
    out: str
    err: str


class RecipeServer:
    """A process that imports the libraries once and forks for each recipe; a context manager.

    Args:
        folder: Where output is kept.
        environment: Variables of the process.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, environment

    def __enter__(self) -> RecipeServer:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment
        )
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def run(
        self, recipe: str, *words: object, cwd: Path | None = None, limit_seconds: float = 120, **variables: str
    ) -> Ended:
        """Run a recipe by its name with its words."""
        request = {
            "recipe": str(ROOT / "recipes" / f"{recipe}.py"),
            "words": [str(word) for word in words],
            "cwd": str(cwd or self._folder),
            "limit_seconds": limit_seconds,
            "variables": variables,
            "output": str(self._folder),
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())
        out, err = ((self._folder / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
        return Ended(code, out, err)


def _serve() -> None:
    """Read a request a line, fork for it, and answer with its exit code."""
    import startup_llm.config  # noqa: F401, I001  # first, as in a recipe
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import sklearn.svm  # noqa: F401
    import torch
    import transformers.trainer  # noqa: F401

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _run(request)
        answers.write(json.dumps(_wait(child, request["limit_seconds"])) + "\n")
        answers.flush()


def _wait(child: int, limit_seconds: float) -> int | None:
    end = time.monotonic() + limit_seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run(request: Mapping[str, Any]) -> None:
    """Become the recipe; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(Path(request["output"], name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
        os.chdir(request["cwd"])
        os.environ.update(request["variables"])
        sys.argv = [request["recipe"], *request["words"]]
        try:
            runpy.run_path(request["recipe"], run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                sys.stderr.write(f"{stop.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


if __name__ == "__main__":
    _serve()
