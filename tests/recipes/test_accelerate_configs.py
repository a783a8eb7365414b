"""The launcher's own reader takes every file in recipes/accelerate, and those for the CPU are run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
RUN_HERE = ("cpu", "cpu_two_processes")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_the_file_and_knows_every_key(file):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.num_processes >= config.num_machines


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_file_tells_its_command_and_whether_it_was_run(file):
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert f"accelerate launch --config_file recipes/accelerate/{file.name}" in head[1]
    says = {
        "fsdp2": "Run for this version on CPU processes alone.",
        "deepspeed_zero3": "Run for this version on CPU processes alone.",
    }.get(file.stem, "Not run for this version.")
    assert (says in head[0]) != (file.stem in RUN_HERE)


def load(name: str):
    from accelerate.commands.config.config_args import load_config_from_file

    return load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"{name}.yaml"))


def launched_environment(monkeypatch, name: str) -> dict[str, str]:
    """Return what `accelerate launch` would tell each process, by its own arithmetic."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    for variable in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(variable, raising=False)
    file = str(ROOT / "recipes" / "accelerate" / f"{name}.yaml")
    arguments, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", file, "recipes/finetune.py"])
    )
    return prepare_multi_gpu_env(arguments)


def test_fsdp2_shards_everything_and_saves_whole_files(monkeypatch):
    config = load("fsdp2")
    assert str(config.distributed_type) == "DistributedType.FSDP"
    told = launched_environment(monkeypatch, "fsdp2")
    assert told["ACCELERATE_USE_FSDP"] == "true"
    assert told["FSDP_VERSION"] == "2"
    assert told["FSDP_RESHARD_AFTER_FORWARD"] == "true"
    assert told["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert told["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    assert told["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    assert told["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_fsdp2_names_only_fields_that_accelerate_has():
    import dataclasses

    from accelerate.utils import FullyShardedDataParallelPlugin

    known = {field.name for field in dataclasses.fields(FullyShardedDataParallelPlugin)}
    known |= {"offload_params", "version"}  # the launcher's own names of cpu_offload and fsdp_version
    assert {key.removeprefix("fsdp_") for key in load("fsdp2").fsdp_config} <= known


def test_zero3_shards_everything_and_saves_whole_files():
    from accelerate.commands.launch import launch_command_parser

    config = load("deepspeed_zero3")
    assert str(config.distributed_type) == "DistributedType.DEEPSPEED"
    assert config.deepspeed_config["zero_stage"] == 3
    assert config.deepspeed_config["zero3_init_flag"] is False
    assert config.deepspeed_config["zero3_save_16bit_model"] is True
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.deepspeed_config) <= known


def launch(folder: Path, name: str, *words: object) -> dict:
    """Train two steps through `accelerate launch` as the file's header says, and return the results."""
    data = [
        f"{['hello good morning', 'goodbye see you'][i % 2]} {i},{['greeting', 'parting'][i % 2]}" for i in range(40)
    ]
    (folder / "data.csv").write_text("\n".join(["text,label", *data]) + "\n", encoding="utf-8")
    file = ROOT / "recipes" / "accelerate" / f"{name}.yaml"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        file,
        ROOT / "recipes" / "pretrain.py",
    ]
    command += ["--data.train_file", "data.csv", "--data.test_file", "data.csv", "--data.validation_fraction", 0]
    command += ["--train.max_steps", 2, "--train.logging_steps", 1, "--evaluation.resamples", 20]
    command += ["--speed.compute_dtype", "float32", "--speed.attention_kernel", "sdpa", "--run_dir", "run", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return json.loads((folder / "run" / "results.json").read_text())


def list_losses(results: dict) -> list[float]:
    return [entry["loss"] for entry in results["history"] if "loss" in entry]


def test_cpu_yaml_runs_the_recipe_and_cpu_two_processes_yaml_gives_its_losses(tmp_path):
    small = ["--model.width", 16, "--model.layers", 1, "--model.heads", 2, "--model.dropout", 0]
    small += ["--model.name", "transformer"]
    losses = []
    for name, batch in (("cpu", 8), ("cpu_two_processes", 4)):
        folder = tmp_path / name
        folder.mkdir()
        words = [*small, "--train.per_device_train_batch_size", batch]
        losses.append(list_losses(launch(folder, name, *words)))
        assert (folder / "run" / "model" / "config.json").is_file()
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
