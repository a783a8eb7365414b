from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "startup_llm"
LAYERS = {
    "recipes": 10,
    "serving": 9,
    "export": 9,
    "console": 9,
    "__init__": 11,
    "api": 10,
    "runs": 8,
    "gan": 7,
    "benchmark": 7,
    "hub": 6,
    "command_line": 6,
    "training": 6,
    "session": 5,
    "tasks": 5,
    "evaluation": 4,
    "audit": 4,
    "data": 3,
    "models": 3,
    "config": 2,
    "run_folder": 1,
    "pages": 0,
    "written_files": 0,
    "plain_data": 0,
    "children": 0,
    "access_tokens": 0,
    "reporter": 0,
    "errors": -1,
}
"""Part of the project -> its height; imports point down only, or stay within a part."""

KEPT_NAMES = {"startup_llm/training/ganbert.py", "startup_llm/evaluation/readme.py"}
"""Modules that keep a published name for what lies higher up today."""

MODULES = sorted(path.relative_to(ROOT) for path in PACKAGE.rglob("*.py"))
RECIPES = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.py"))
LIGHT = [
    "startup_llm",
    "startup_llm.errors",
    "startup_llm.command_line",
    "startup_llm.config",
    "startup_llm.reporter",
    "startup_llm.run_folder",
    "startup_llm.written_files",
    "startup_llm.session",
    "startup_llm.tasks",
    "startup_llm.tasks.base",
    "startup_llm.data.classification",
    "startup_llm.data.columns",
    "startup_llm.data.row_source",
    "startup_llm.data.row_target",
    "startup_llm.data.rows_to_predict",
    "startup_llm.data.sources",
    "startup_llm.data.splits",
    "startup_llm.models",
    "startup_llm.models.checkpoints",
    "startup_llm.models.adapters",
    "startup_llm.models.scratch",
    "startup_llm.training",
    "startup_llm.training.speed",
    "startup_llm.training.probe",
    "startup_llm.training.processes",
    "startup_llm.training.reload_gate",
    "startup_llm.evaluation.baselines",
    "startup_llm.evaluation.environment",
    "startup_llm.evaluation.metrics",
    "startup_llm.evaluation.report",
    "startup_llm.evaluation.results",
    "startup_llm.evaluation.statistics",
    "startup_llm.hub.model_card",
]


def find_part(module: str) -> str:
    """Return the part of the project that a module belongs to."""
    names = module.split(".")
    return names[0] if names[0] == "recipes" else names[1] if len(names) > 1 else ""


def read_imports(source: str) -> list[tuple[int, str]]:
    """Return line and module of every import of this project, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                found.append((node.lineno, "a relative import"))
            elif node.module == "startup_llm":
                found += [(node.lineno, f"startup_llm.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, node.module or ""))
    return [
        (line, name) for line, name in found if name.split(".")[0] in ("startup_llm", "recipes", "a relative import")
    ]


def find_wrong_imports(path: Path, source: str) -> list[str]:
    part = find_part(".".join(path.with_suffix("").parts))
    wrong = []
    for line, name in read_imports(source):
        other = find_part(name)
        down = LAYERS.get(part, 0) > LAYERS.get(other, 99) or path.as_posix() in KEPT_NAMES
        if name in ("startup_llm", "a relative import") or (other and part != other and not down):
            wrong.append(f"{path}:{line} imports {name}")
    return [line for line in wrong if not line.endswith("startup_llm.__version__")]


def test_every_part_of_the_package_has_its_height():
    parts = {path.parts[1].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert parts <= LAYERS.keys()


def test_imports_point_down_only():
    sources = {path: (ROOT / path).read_text(encoding="utf-8") for path in (*MODULES, *RECIPES)}
    assert len(sources) > 100
    assert [line for path, source in sources.items() for line in find_wrong_imports(path, source)] == []


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("startup_llm/data/splits.py", "from startup_llm.models.pooling import MeanPooling"),
        ("startup_llm/models/pooling.py", "from startup_llm.data.columns import find_columns"),
        ("startup_llm/models/pooling.py", "import startup_llm.training.speed"),
        ("startup_llm/evaluation/metrics.py", "from startup_llm.training import trainer"),
        ("startup_llm/evaluation/results.py", "from startup_llm.tasks.vision.metrics import compute_class_scores"),
        ("startup_llm/errors.py", "from startup_llm.run_folder import RESULTS"),
        ("startup_llm/config.py", "def read():\n    from startup_llm import tasks"),
        ("startup_llm/hub/push.py", "from recipes import finetune"),
        ("startup_llm/hub/push.py", "from . import model_card"),
    ],
)
def test_import_in_the_wrong_direction_would_be_found(path, statement):
    assert len(find_wrong_imports(Path(path), statement)) == 1


def find_prints(path: Path, source: str) -> list[str]:
    names = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))
    return [f"{path}:{node.lineno} prints" for node in names if node.id == "print"]


def test_package_does_not_print():
    sources = {path: (ROOT / path).read_text(encoding="utf-8") for path in MODULES}
    assert [line for path, source in sources.items() for line in find_prints(path, source)] == []


def test_the_console_is_reached_through_the_reporter_that_a_recipe_hands_over():
    """One line of an error is written before there is a reporter, the answers of predict.py are data, the command
    startup-llm stands in for a recipe, and a worker of the server is a process that no recipe started.
    """
    files = ("errors.py", "console.py", "data/row_target.py", "serving/workers.py")
    allowed = {f"startup_llm/{file}" for file in files}
    writers = {
        path.as_posix()
        for path in MODULES
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr")
    }
    assert writers <= allowed


def test_a_print_would_be_found():
    assert find_prints(Path("startup_llm/errors.py"), "def tell():\n    print(1)") == [
        "startup_llm/errors.py:2 prints"
    ]


@pytest.mark.cold_start
def test_light_modules_import_neither_torch_nor_transformers():
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'transformers', 'datasets', 'peft', 'sklearn'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {sorted(heavy)}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *LIGHT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.cold_start
def test_importing_the_package_takes_well_under_a_second_and_says_nothing():
    code = "import os, startup_llm; print(sum(os.times()[:2]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert float(done.stdout) < 0.5
