"""Fine-tune pretrained checkpoints on your own data and prove that it helped."""

__version__ = "0.1.0"
