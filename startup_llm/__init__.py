"""Fine-tune pretrained checkpoints on your own data and prove that it helped."""

import os

__version__ = "0.1.0"

# The libraries read these when they are imported, which is after this: nothing is sent to anybody but the Hub, and to
# the Hub only what was asked for. TRL reports what is trained, evaluate counts downloads, and transformers asks for a
# conversion of checkpoints without safetensors. What a person has set stays.
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
}.items():
    os.environ.setdefault(_name, _value)
