"""Recipes in processes of a preloaded Python, each of which ends by itself or is killed at its limit."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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


def run_forked(
    executable: str,
    recipe: str,
    *words: object,
    cwd: Path,
    environment: Mapping[str, str],
    limit_seconds: float = 120,
) -> Ended:
    """Run a recipe by its name with its words.

    Args:
        executable: What `start_preloaded_python` gives.
        recipe: Name of the recipe.
        words: Its words.
        cwd: The folder to run it in.
        environment: Its variables.
        limit_seconds: When it is killed.
    """
    command = [executable, str(ROOT / "recipes" / f"{recipe}.py"), *map(str, words)]
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            out, err = process.communicate(timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return Ended(None, "", "")
    return Ended(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
