from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from startup_llm.tasks import TASKS, load_task
from startup_llm.tasks.base import Task


def list_methods(kind: type) -> dict[str, object]:
    return {name: value for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"}


def test_a_task_has_few_methods_each_of_which_says_what_it_gives():
    methods = list_methods(Task)
    assert len(methods) <= 20, sorted(methods)
    assert all(inspect.getdoc(method) for method in methods.values())


@pytest.mark.parametrize("tag", TASKS)
def test_a_task_says_nothing_that_only_another_part_of_it_is_asked(tag):
    """What is asked of the task is in its interface; the rest is in its predictor, saved and reference models."""
    task = load_task(tag)
    public = {name for kind in type(task).__mro__ if kind is not object for name in list_methods(kind)}
    extra = public - set(list_methods(Task))
    helpers = {"summarize", "feature_extractor", "encode_recordings"}  # of several tasks of one folder
    assert extra <= helpers
    for part in (task.predictor, task.saved_model, task.reference_models):
        assert part.task is task


@pytest.mark.parametrize("tag", TASKS)
def test_what_a_task_is_asked_by_its_flags_it_answers(tag):
    kind = type(load_task(tag))
    overridden = {name for base in kind.__mro__ if issubclass(base, Task) and base is not Task for name in vars(base)}
    assert kind.computes_loss is ("compute_loss" in overridden)
    assert kind.selects_by_loss is ("read_validation" not in overridden)
    assert kind.samples_each_epoch is ("write_samples" in overridden)


def find_reflection(source: str) -> list[int]:
    """Return the lines that compare an attribute of `type(...)` by identity, which tells what a class overrides."""
    compared = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Compare))
    return [
        node.lineno
        for node in compared
        if any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops)
        and isinstance(node.left, ast.Attribute)
        and isinstance(node.left.value, ast.Call)
        and getattr(node.left.value.func, "id", "") == "type"
    ]


def test_nothing_asks_which_methods_a_class_overrides():
    package = Path(__file__).parents[2] / "startup_llm"
    assert {
        str(file): lines for file in package.rglob("*.py") if (lines := find_reflection(file.read_text("utf-8")))
    } == {}
    assert find_reflection("by_metric = type(task).read_validation is not Task.read_validation") == [1]
