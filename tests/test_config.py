from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from startup_llm.benchmark.options import BenchmarkConfig
from startup_llm.command_line import check_ranges, parse_config
from startup_llm.config import (
    TRAIN_DEFAULTS,
    TRAIN_RANGES,
    AlignConfig,
    AuditConfig,
    CompareConfig,
    DataConfig,
    DriftConfig,
    EvaluateConfig,
    ExportConfig,
    FinetuneConfig,
    PoolConfig,
    PredictConfig,
    PretrainConfig,
    PushConfig,
    Range,
    ReproduceConfig,
    RunsConfig,
    ServeConfig,
    SuggestConfig,
    default_run_dir,
    find_range,
)
from startup_llm.errors import UserError
from startup_llm.gan.options import GanConfig
from startup_llm.tasks import TASKS
from startup_llm.tasks.options import load_options

RECIPES = {
    AlignConfig: [],
    AuditConfig: [],
    BenchmarkConfig: [],
    CompareConfig: [],
    DriftConfig: ["--run", "a", "--input", "a"],
    EvaluateConfig: ["--model", "a"],
    ExportConfig: ["--run", "a"],
    FinetuneConfig: [],
    GanConfig: [],
    PoolConfig: ["--runs", "[a]"],
    PredictConfig: ["--run", "a", "--input", "a", "--output", "b"],
    PretrainConfig: [],
    PushConfig: ["--repo", "a/b"],
    ReproduceConfig: ["--run", "a"],
    RunsConfig: [],
    ServeConfig: ["--run", "a"],
    SuggestConfig: ["--run", "a", "--pool", "a"],
}
"""Config of each recipe -> the options that it needs."""


def list_numbers(config_class: type, prefix: str = "") -> Iterator[tuple[str, Range | None]]:
    """Give the dotted name and the range of each field that takes a number, those of the sections too."""
    for name, hint in typing.get_type_hints(config_class, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            yield from list_numbers(hint, f"{prefix}{name}.")
        elif takes_number(hint):
            yield f"{prefix}{name}", find_range(hint)


def takes_number(hint: Any) -> bool:
    return hint in (int, float) or any(map(takes_number, typing.get_args(hint)))


def list_outside(allowed: Range, kind: type) -> list[float]:
    """Return numbers just outside a range, as its field's type can hold them."""
    step = 1 if kind is int else 0.001
    bounds = (allowed.least, -step), (allowed.above, 0), (allowed.most, step), (allowed.below, 0)
    return [kind(bound + move) for bound, move in bounds if bound is not None]


def find_kind(hint: Any) -> type:
    return int if hint is int or any(find_kind(part) is int for part in typing.get_args(hint)) else float


OF_TASKS = {
    kind: section
    for options in map(load_options, TASKS)
    for section, kinds in (
        ("data", [options.data]),
        ("evaluation", [options.evaluation]),
        ("model", [options.model, *options.scratch_models.values()]),
    )
    for kind in kinds
}
"""Each section of a task, with its name."""
NUMBERS = [
    *((kind, name, allowed) for kind in RECIPES for name, allowed in list_numbers(kind)),
    *((kind, f"{part}.{name}", allowed) for kind, part in OF_TASKS.items() for name, allowed in list_numbers(kind)),
]
"""Every field of every config that takes a number."""


@pytest.mark.parametrize(
    ("config_class", "name", "allowed"), NUMBERS, ids=lambda part: getattr(part, "__name__", part)
)
def test_each_number_declares_its_range_and_is_refused_outside_it(config_class, name, allowed):
    assert allowed is not None, f"{config_class.__name__}: give {name} a range: Annotated[..., Range(...)]"
    section, _, field = name.rpartition(".")
    hints = typing.get_type_hints(config_class)
    kind = hints.get(section, config_class)
    hint = typing.get_type_hints(kind)[field]
    needed = {part.name: "a" for part in dataclasses.fields(kind) if needs_value(part)}
    needed |= {"model": "a"} if kind is EvaluateConfig else {}  # it, or a run
    for number in list_outside(allowed, find_kind(hint)):
        config = kind(**needed | {field: [number] if typing.get_origin(hint) is list else number})
        with pytest.raises(UserError) as caught:
            check_ranges(config, f"{section}." if section else "")
        assert str(caught.value) == f"option {name}: expected {allowed}, got {number}"


def needs_value(part: dataclasses.Field) -> bool:
    return part.default is part.default_factory is dataclasses.MISSING


@pytest.mark.parametrize("config_class", RECIPES)
def test_the_defaults_lie_within_their_ranges(config_class):
    check_ranges(parse_config(config_class, RECIPES[config_class])[0])


@pytest.mark.parametrize("kind", OF_TASKS)
def test_the_defaults_of_a_task_s_section_lie_within_their_ranges(kind):
    check_ranges(kind())


def test_every_recipe_s_config_is_checked():
    recipes = (Path(__file__).parents[1] / "recipes").glob("*.py")
    named = {name for recipe in recipes for name in re.findall(r"\b[A-Z]\w+Config\b", recipe.read_text())}
    sections = {"DataConfig", "ModelConfig", "SpeedConfig", "EvaluationConfig"}
    assert named - sections == {config_class.__name__ for config_class in RECIPES}


def test_each_number_of_the_train_section_has_a_range_that_holds_its_default():
    from transformers import TrainingArguments

    hints = typing.get_type_hints(TrainingArguments)
    parts = {part.name: part.default for part in dataclasses.fields(TrainingArguments) if part.init}
    numbers = {name for name in parts if takes_number(hints[name]) and not takes_mapping(hints[name])}
    assert numbers == set(TRAIN_RANGES)
    assert [name for name in numbers if parts[name] is not None and parts[name] not in TRAIN_RANGES[name]] == []
    chosen = [(name, value) for defaults in TRAIN_DEFAULTS.values() for name, value in defaults.items()]
    assert [name for name, value in chosen if value not in TRAIN_RANGES[name]] == []


def takes_mapping(hint: Any) -> bool:
    return typing.get_origin(hint) in (dict, list) or any(map(takes_mapping, typing.get_args(hint)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.test_fraction", "1.5"], "option data.test_fraction: expected a number from 0 to 1, got 1.5"),
        (["--lora.rank", "0"], "option lora.rank: expected a number of at least 1, got 0"),
        (["--lora.alpha", "0"], "option lora.alpha: expected a number above 0, got 0.0"),
        (["--data.split_seed", "-1"], "option data.split_seed: expected a number from 0 to 4294967295, got -1"),
        (["--lora.dropout", "1"], "option lora.dropout: expected a number of at least 0 and below 1, got 1.0"),
        (["--data.fold", "2"], "data.fold 2: expected data.folds too, the number of folds; try data.folds=5"),
        (["--data.folds", "3", "--data.fold", "4"], "data.fold 4: expected 1 to 3, the number of folds (data.folds)"),
    ],
)  # fmt: skip
def test_number_out_of_range_is_refused_in_one_line(words, message):
    with pytest.raises(UserError) as caught:
        parse_config(FinetuneConfig, words)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_train_epochs", "-1", "expected a number of at least 0, got -1.0"),
        ("max_steps", "0", "expected a number of at least 1, or -1, got 0"),
        ("seed", "-1", "expected a number from 0 to 4294967295, got -1"),
        ("per_device_train_batch_size", "0", "expected a number of at least 1, got 0"),
        ("dataloader_num_workers", "-1", "expected a number from 0 to 256, got -1"),
        ("learning_rate", "2", "expected a number from 0 to 1, got 2.0"),
    ],
)
def test_number_of_the_train_section_out_of_range_is_refused_in_one_line(option, value, message):
    with pytest.raises(UserError) as caught:
        parse_config(FinetuneConfig, [f"--train.{option}={value}"], train_section=True)
    assert str(caught.value) == f"option train.{option}: {message}"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_range_holds_what_is_not_finite(number):
    assert number not in Range()
    assert number not in Range(0)


@pytest.mark.parametrize(
    ("data", "run_dir"),
    [
        (DataConfig(), "runs/helpdesk-lora"),
        (DataConfig(dataset="nyu-mll/glue", subset="sst2"), "runs/glue-sst2-lora"),
        (DataConfig(train_file="my/tickets.csv.gz"), "runs/tickets-lora"),
        (DataConfig(train_file=["my/a.csv", "my/b.csv"]), "runs/a-lora"),
        (DataConfig(data_dir="my/folder/"), "runs/folder-lora"),
    ],
)
def test_default_run_dir_is_named_after_the_data_and_the_method(data, run_dir):
    assert default_run_dir(data, "lora") == run_dir
