"""Fine-tune pretrained checkpoints on your own data and prove that it helped."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from startup_llm.api import Run, finetune, load_run

__version__ = "0.1.0"
__all__ = ["Run", "finetune", "load_run"]

# The libraries read these when they are imported, which is after this: nothing is sent to anybody but the Hub, and to
# the Hub only what was asked for. TRL reports what is trained, evaluate counts downloads, and transformers asks for a
# conversion of checkpoints without safetensors. What a person has set stays.
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
}.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    """Import the interface for Python when it is first asked for, so that importing the package costs nothing."""
    if name in __all__:
        return getattr(importlib.import_module("startup_llm.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
