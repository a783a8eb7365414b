"""Run recipes with their models in shards on CPU processes.

With FSDP2 PyTorch can, but Accelerate asks for it on GPUs alone. DeepSpeed can, but first compiles an operation for
faster exchange, for minutes.

accelerate launch --config_file recipes/accelerate/fsdp2.yaml --num_processes 2 tests/recipes/shard_on_cpu.py \\
    RECIPE OPTIONS --next RECIPE OPTIONS
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

begin = AcceleratorState.__init__


def begin_with_shards(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    """Take CPU processes for what `AcceleratorState` takes GPUs for."""
    begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)


AcceleratorState.__init__ = begin_with_shards
if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}
words = sys.argv[1:]
while words:
    end = words.index("--next") if "--next" in words else len(words)
    sys.argv, words = words[:end], words[end + 1 :]
    runpy.run_path(sys.argv[0], run_name="__main__")
