"""What one process of a distributed run does for all."""

from __future__ import annotations

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

UNUSED_SHARDING = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""How Accelerate's launcher asks for a model in shards that nothing here trains, and for whose."""

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


def is_sharded() -> bool:
    """Say whether the launcher asks for a model in shards: FSDP."""
    return os.environ.get(FSDP, "").lower() in _YES


def start_run(seed: int, *, shards: bool = False) -> None:
    """Join the other processes, seed every generator, and keep libraries from talking over the run.

    Args:
        seed: `train.seed`.
        shards: Whether the recipe trains a model in shards (FSDP2) where the launcher asks for it.

    Raises:
        UserError: If the launcher asks for a model in shards that this recipe does not train.
    """
    for variable, name in UNUSED_SHARDING.items():
        if os.environ.get(variable, "").lower() in _YES:
            raise UserError(
                f"{variable}={os.environ[variable]}: {name} does not train here; for a model in shards use "
                "accelerate launch --config_file recipes/accelerate/fsdp2.yaml"
            )
    if is_sharded() and not shards:
        raise UserError(
            f"{FSDP}={os.environ[FSDP]}: this recipe does not train a model in shards; use the whole model in every "
            "process, with accelerate launch --config_file recipes/accelerate/ddp.yaml"
        )
    if is_sharded() and os.environ.get("FSDP_VERSION") != "2":
        raise UserError(
            f"FSDP_VERSION={os.environ.get('FSDP_VERSION', '1')}: a model in shards trains by FSDP2 only; set "
            "fsdp_version: 2, as recipes/accelerate/fsdp2.yaml does"
        )
    # else every process but the first reads a checkpoint as noise, and all of them predict before training
    os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)
    import warnings

    import datasets
    import transformers

    join_processes(LONGEST_STAGE)
    # peft asks transformers for a name that it is about to drop: not the reader's concern
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    transformers.set_seed(seed)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def require_one_process(recipe: str) -> None:
    """Refuse to be one of several processes, which would all write the same files.

    Args:
        recipe: Path of the recipe as it is typed, such as recipes/evaluate.py.

    Raises:
        UserError: If a launcher started more than one.
    """
    processes = int(os.environ.get("WORLD_SIZE") or 1)
    if processes > 1:
        raise UserError(f"{recipe} runs in one process, got {processes}; start it with python {recipe}")


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
