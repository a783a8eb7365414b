"""What one process of a distributed run does for all."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from startup_llm.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState

Value = TypeVar("Value")

FSDP = "ACCELERATE_USE_FSDP"
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
MEGATRON = "ACCELERATE_USE_MEGATRON_LM"

_YES = ("1", "true", "yes")

LONGEST_STAGE = timedelta(hours=2)
"""How long a run's processes wait for the main one, which alone computes baselines, before one counts as lost."""


def join_processes(longest_wait: timedelta = timedelta(days=7)) -> PartialState:
    """Join the run's other processes: to be called before anything else asks accelerate for its state.

    Accelerate forms a group of CPU processes only where it is told that the CPU is meant; without that, each process
    would take itself for the only one, and all would write the output.

    Args:
        longest_wait: How long one process may wait for another, such as the one that reads a silent pipe.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import is_torch_xla_available

    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in _YES
    on_cpu = asked or not (torch.accelerator.is_available() or is_torch_xla_available())
    return PartialState(cpu=on_cpu, timeout=longest_wait)


def find_sharding() -> str | None:
    """Return the variable by which the launcher asks for a model in shards: FSDP's, DeepSpeed's or None."""
    return next((variable for variable in (FSDP, DEEPSPEED) if _is_set(variable)), None)


def is_sharded() -> bool:
    """Say whether the launcher asks for a model in shards."""
    return find_sharding() is not None


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in _YES


def _check_sharding(*, shards: bool) -> None:
    """Make sure that the launcher asks for no model in shards but one that the recipe trains.

    Raises:
        UserError: If it does, or if DeepSpeed is asked for and is not installed.
    """
    if _is_set(MEGATRON):
        raise UserError(
            f"{MEGATRON}={os.environ[MEGATRON]}: Megatron-LM does not train here; for a model in shards use "
            "accelerate launch --config_file recipes/accelerate/fsdp2.yaml"
        )
    asked = find_sharding()
    if asked and not shards:
        raise UserError(
            f"{asked}={os.environ[asked]}: this recipe does not train a model in shards; use the whole model in every "
            "process, with accelerate launch --config_file recipes/accelerate/ddp.yaml"
        )
    version = os.environ.get("FSDP_VERSION", "1")
    if asked == FSDP and version != "2":
        raise UserError(
            f"FSDP_VERSION={version}: a model in shards trains by FSDP2 only; set fsdp_version: 2, as "
            "recipes/accelerate/fsdp2.yaml does"
        )
    if asked != DEEPSPEED:
        return
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if file:
        raise UserError(
            f"deepspeed_config_file {file}: a file of DeepSpeed's own is not read here; set what Accelerate's file "
            "takes, as recipes/accelerate/deepspeed_zero3.yaml does"
        )
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")  # what Accelerate takes where none is named
    if stage != "3":
        raise UserError(
            f"ACCELERATE_DEEPSPEED_ZERO_STAGE={stage}: DeepSpeed trains here by ZeRO-3 only; set zero_stage: 3, as "
            "recipes/accelerate/deepspeed_zero3.yaml does"
        )
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f"{DEEPSPEED}={os.environ[DEEPSPEED]}: the package is not installed; pip install 'startup-llm[deepspeed]'"
        )


def start_run(seed: int, *, shards: bool = False) -> None:
    """Join the other processes, seed every generator, and keep libraries from talking over the run.

    Args:
        seed: `train.seed`.
        shards: Whether the recipe trains a model in shards (FSDP2, ZeRO-3) where the launcher asks for it.

    Raises:
        UserError: If the launcher asks for a model in shards that this recipe does not train.
    """
    _check_sharding(shards=shards)
    # else every process but the first reads a checkpoint as noise, and all of them predict before training
    os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)
    import transformers

    join_processes(LONGEST_STAGE)
    transformers.set_seed(seed)
    hide_library_bars()


def hide_library_bars() -> None:
    """Keep datasets and transformers from showing progress of their own beside the recipe's."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def call_on_main_process(function: Callable[[], Value]) -> Value:
    """Call a function on the main process alone and return its value on every process.

    A `UserError` is raised on the main process, which tells it; the others end quietly with exit code 2.

    Args:
        function: What to call; its value can be pickled.

    Raises:
        UserError: On the main process, if the function raises it.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState()
    value, error = None, None
    if state.is_main_process:
        try:
            value = function()
        except UserError as raised:
            error = raised
    value, failed = broadcast_object_list([value, error is not None])
    if failed:
        state.wait_for_everyone()
        state.destroy_process_group()  # a group whose members just vanish aborts the others
    if error is not None:
        raise error
    if failed:
        time.sleep(1)  # a launcher ends all when one ends, and the main process has to tell first
        sys.exit(2)
    return value
