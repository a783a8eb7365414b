"""What a recipe does as one of several processes."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest

from startup_llm.command_line import require_one_process
from startup_llm.training import processes


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("evaluate", ["--model", "runs/a"]),
        ("compare", []),
        ("benchmark", []),
        ("pool_folds", ["--runs", "[runs/a, runs/b]"]),
    ],
)
def test_a_recipe_of_one_process_refuses_to_be_one_of_several(run_recipe, monkeypatch, tmp_path, recipe, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_recipe(recipe, *words) == (
        2,
        "",
        f"error: recipes/{recipe}.py runs in one process, got 2; start it with python recipes/{recipe}.py\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "variable", "told"),
    [
        (
            "pretrain",
            "ACCELERATE_USE_MEGATRON_LM",
            "ACCELERATE_USE_MEGATRON_LM=true: Megatron-LM does not train here; for a model in shards use accelerate "
            "launch --config_file recipes/accelerate/fsdp2.yaml",
        ),
        (
            "pretrain",
            "ACCELERATE_USE_DEEPSPEED",
            "ACCELERATE_DEEPSPEED_ZERO_STAGE=2: DeepSpeed trains here by ZeRO-3 only; set zero_stage: 3, as "
            "recipes/accelerate/deepspeed_zero3.yaml does",
        ),
        (
            "align",
            "ACCELERATE_USE_DEEPSPEED",
            "ACCELERATE_USE_DEEPSPEED=true: this recipe does not train a model in shards; use the whole model in "
            "every process, with accelerate launch --config_file recipes/accelerate/ddp.yaml",
        ),
        (
            "finetune",
            "ACCELERATE_USE_FSDP",
            "FSDP_VERSION=1: a model in shards trains by FSDP2 only; set fsdp_version: 2, as "
            "recipes/accelerate/fsdp2.yaml does",
        ),
        (
            "align",
            "ACCELERATE_USE_FSDP",
            "ACCELERATE_USE_FSDP=true: this recipe does not train a model in shards; use the whole model in every "
            "process, with accelerate launch --config_file recipes/accelerate/ddp.yaml",
        ),
    ],
)
def test_shards_that_do_not_train_are_refused_before_anything_is_computed(
    run_recipe, monkeypatch, tmp_path, recipe, variable, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "true")
    assert run_recipe(recipe, "--run_dir", "run") == (2, "", f"error: {told}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (
            "ACCELERATE_DEEPSPEED_ZERO_STAGE",
            "3",
            "ACCELERATE_USE_DEEPSPEED=true: the package is not installed; pip install 'startup-llm[deepspeed]'",
        ),
        (
            "ACCELERATE_DEEPSPEED_CONFIG_FILE",
            "zero.json",
            "deepspeed_config_file zero.json: a file of DeepSpeed's own is not read here; set what Accelerate's file "
            "takes, as recipes/accelerate/deepspeed_zero3.yaml does",
        ),
    ],
)
def test_deepspeed_is_refused_without_its_package_and_with_a_file_of_its_own(
    run_recipe, monkeypatch, tmp_path, variable, value, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv(variable, value)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    assert run_recipe("finetune", "--run_dir", "run") == (2, "", f"error: {told}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["1", "", None])
def test_a_launcher_of_one_process_is_taken_for_none(monkeypatch, size):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    require_one_process("recipes/evaluate.py")


def test_a_run_gives_up_a_lost_process_after_hours_and_a_pipe_after_days(monkeypatch):
    import accelerate

    waits = []
    monkeypatch.setattr(accelerate, "PartialState", lambda cpu, timeout: waits.append(timeout))
    processes.start_run(0)
    processes.join_processes()
    assert waits == [timedelta(hours=2), timedelta(days=7)]
