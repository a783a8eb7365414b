"""Training a model in shards: FSDP2 and DeepSpeed's ZeRO-3, both through Accelerate.

FSDP: Zhao et al. 2023, https://arxiv.org/abs/2304.11277. ZeRO: Rajbhandari et al. 2020,
https://arxiv.org/abs/1910.02054.

While it trains, each process keeps its part of every weight, of the gradients and of Adam's figures, and has a block's
whole weights only as long as it computes that block. Before and after, a model is whole in every process.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from startup_llm.errors import UserError
from startup_llm.models.adapters import find_blocks
from startup_llm.training.processes import DEEPSPEED, find_sharding

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import Trainer


def choose_shards(trainer: Trainer) -> None:
    """Settle how a model is cut, where it is; to be called before the trainer's accelerator has prepared the model."""
    if trainer.is_fsdp_enabled:
        _choose_fsdp2(trainer)
    elif trainer.is_deepspeed_enabled:
        _choose_zero3(trainer)


def _choose_fsdp2(trainer: Trainer) -> None:
    """Let Accelerate gather one block at a time, unless the launcher names what, and add up gradients in float32.

    The classes that a checkpoint's own code names are passed over: BERT's embeddings would be cut twice.
    """
    import torch

    model, plugin = trainer.model, trainer.accelerator.state.fsdp_plugin
    if plugin.transformer_cls_names_to_wrap is None:
        blocks = find_blocks(model)
        plugin.transformer_cls_names_to_wrap = sorted({type(block).__name__ for block in blocks})
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )


def _choose_zero3(trainer: Trainer) -> None:
    """Let the model compute in bfloat16 by autocast: DeepSpeed's own way rounds the weights, frozen ones for good."""
    import torch
    from accelerate.utils import convert_outputs_to_fp32
    from transformers.integrations.deepspeed import propagate_args_to_deepspeed

    model = trainer.model
    if trainer.args.bf16:
        cast = torch.autocast(trainer.args.device.type, torch.bfloat16, cache_enabled=False)  # no whole model in casts
        model.forward = convert_outputs_to_fp32(cast(model.forward))
    trainer.accelerator.state.deepspeed_plugin.deepspeed_config.pop("bf16", None)
    propagate_args_to_deepspeed(trainer.accelerator, trainer.args)


class Shards(TrainerCallback):
    """A model's copy for training, of the same weights; while it trains, it alone has them.

    Attributes:
        model: The copy; Accelerate cuts its weights into shards in place.
    """

    def __init__(self, whole: nn.Module) -> None:
        from torch import nn

        self._whole = whole
        self._copies = {id(weight): nn.Parameter(weight.data, weight.requires_grad) for weight in whole.parameters()}
        self.model: Any = copy.deepcopy(whole, dict(self._copies))

    def find(self, weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Return the copy's parameters that stand for the whole model's."""
        return [self._copies[id(weight)] for weight in weights]

    def check(self, trainer: Trainer) -> None:
        """Make sure that a trainer of the copy cuts it.

        Raises:
            UserError: If Accelerate does not do so on this device.
        """
        if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            asked = find_sharding()
            raise UserError(
                f"{asked}={os.environ[asked]}: Accelerate cuts a model into shards on GPUs, and here is "
                f"{trainer.args.device.type}; use recipes/accelerate/cpu_two_processes.yaml"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the whole weights, as the copy's are cut now."""
        for weight in self._whole.parameters():
            weight.data = weight.data.new_empty(0)

    def gather(self) -> None:
        """Put the trained weights together in the model that was copied, in every process."""
        from accelerate.utils import broadcast

        for weight, shard in zip(self._whole.parameters(), self.model.parameters(), strict=True):
            weight.data = _gather(shard).to(weight.device)
        for values, trained in zip(self._whole.buffers(), self.model.buffers(), strict=True):
            values.data = broadcast(trained.contiguous())  # each process has statistics of its own
        if find_sharding() == DEEPSPEED:
            _leave_zero3()


def check_checkpoint(folder: Path, processes: int) -> None:
    """Make sure that training can go on from a checkpoint: DeepSpeed's has a part of Adam's figures per process.

    Args:
        folder: What is gone on from.
        processes: How many processes go on.

    Raises:
        UserError: If it was written by another number of processes, or with DeepSpeed where that is not asked for, or
            without where it is.
    """
    parts = len(list(folder.glob("global_step*/*_optim_states.pt")))
    by_deepspeed = find_sharding() == DEEPSPEED
    if parts == (processes if by_deepspeed else 0):
        return
    how = "in {} processes of DeepSpeed" if by_deepspeed else "without DeepSpeed"
    wrote = f"in {parts} processes of DeepSpeed" if parts else "without DeepSpeed"
    raise UserError(
        f"--resume: {folder} was written {wrote}, and this run is {how.format(processes)}; start it as it was started"
    )


def _gather(shard: nn.Parameter) -> Tensor:
    """Return a whole weight."""
    if hasattr(shard, "full_tensor"):
        return shard.full_tensor().detach()
    import deepspeed

    with deepspeed.zero.GatheredParameters([shard]):
        return shard.detach().clone()


def _leave_zero3() -> None:
    """Let models be whole again: DeepSpeed leaves another `linear` behind, and transformers would load shards."""
    import torch
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    torch.nn.functional.linear = InsertPostInitMethodToModuleSubClasses.linear_bk
    unset_hf_deepspeed_config()
