"""The command `startup-llm NAME ...`, which runs `recipes/NAME.py` with the words that follow."""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from startup_llm import __version__
from startup_llm.errors import UserError, nearest, run_recipe
from startup_llm.reporter import Reporter


def find_recipes() -> dict[str, Path]:
    """Return the recipes by name: those of the clone, or those that were installed with the package."""
    package = Path(__file__).parent
    folders = (package.parent / "recipes", package / "recipes")
    folder = next((candidate for candidate in folders if (candidate / "finetune.py").is_file()), folders[1])
    return {file.stem: file for file in sorted(folder.glob("*.py"))}


def import_library_behind(recipe: str) -> None:
    """Import the library that a recipe hides by its name, where its folder stands first on the path.

    Args:
        recipe: The `__file__` of the recipe, which is being imported as if it were the library.
    """
    name, folder = Path(recipe).stem, Path(recipe).resolve().parent
    others = [path for path in sys.path if Path(path).resolve() != folder]
    spec = importlib.machinery.PathFinder.find_spec(name, others)
    if spec is not None and spec.loader is not None:
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


def main(argv: Sequence[str] | None = None) -> None:
    """Run a recipe in this process, as `python recipes/NAME.py` would.

    Args:
        argv: The command's words; default `sys.argv[1:]`.
    """
    name, *words = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    recipes = find_recipes()
    if name in recipes:
        sys.argv = [str(recipes[name]), *words]
        runpy.run_path(str(recipes[name]), run_name="__main__")
    else:
        run_recipe(functools.partial(_answer, name, recipes))


def _answer(option: str, recipes: dict[str, Path]) -> None:
    """Show what is asked for besides the commands.

    Raises:
        UserError: If it is neither a command nor an option.
    """
    if option not in ("-h", "--help", "--version"):
        raise UserError(f"unknown command {option!r}{nearest(option, recipes) or ';'} startup-llm --help lists all")
    Reporter(sys.stdout).report(f"startup-llm {__version__}" if option == "--version" else _describe(recipes))


def _describe(recipes: dict[str, Path]) -> str:
    """Return a line for each command: the first of its recipe's description."""
    lines = ["usage: startup-llm COMMAND [--help] [--config FILE.yaml] [--OPTION VALUE ...]", ""]
    for name, file in recipes.items():
        purpose = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        lines.append(f"  {name:<12} {purpose}")
    folder = next(iter(recipes.values()), Path()).parent
    return "\n".join(
        [*lines, "", f"The commands are the files of {folder}, which accelerate launch takes as well.", ""]
    )
