"""Training a model in shards: FSDP2 through Accelerate (Zhao et al. 2023, https://arxiv.org/abs/2304.11277).

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
from startup_llm.models.adapters import find_block_stacks
from startup_llm.training.processes import FSDP

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn
    from transformers import Trainer


def choose_shards(accelerator: Accelerator, model: nn.Module) -> None:
    """Let Accelerate gather one block at a time, unless the launcher names what, and add up gradients in float32.

    The classes that a checkpoint's own code names are passed over: BERT's embeddings would be cut twice.

    Args:
        accelerator: Before it has prepared the model.
        model: The model.
    """
    import torch

    plugin = accelerator.state.fsdp_plugin
    if plugin.transformer_cls_names_to_wrap is None:
        blocks = [block for name in find_block_stacks(model) for block in model.get_submodule(name)]
        plugin.transformer_cls_names_to_wrap = sorted({type(block).__name__ for block in blocks})
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )


class Shards(TrainerCallback):
    """A model's copy for training, of the same weights; while it trains, it alone has them.

    Attributes:
        model: The copy; Accelerate cuts its weights into shards in place.
    """

    def __init__(self, whole: nn.Module) -> None:
        self._whole = whole
        self.model: Any = copy.deepcopy(whole, {id(weight): weight for weight in whole.parameters()})

    def check(self, trainer: Trainer) -> None:
        """Make sure that a trainer of the copy cuts it.

        Raises:
            UserError: If Accelerate does not do so on this device.
        """
        if not trainer.is_fsdp_enabled:
            raise UserError(
                f"{FSDP}={os.environ[FSDP]}: Accelerate cuts a model into shards on GPUs, and here is "
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
            weight.data = shard.full_tensor().detach().to(weight.device)
        for values, trained in zip(self._whole.buffers(), self.model.buffers(), strict=True):
            values.data = broadcast(trained.contiguous())  # each process has statistics of its own
