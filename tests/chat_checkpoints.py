"""Tiny chat checkpoints: the published architectures with random weights, and a tokenizer with ChatML's tokens."""

from __future__ import annotations

from pathlib import Path

from conftest import DECODERS, build_tokenizer

CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
SIZES = {"gpt2": "n_positions"}


def build_chat_tokenizer(template: str | None = None):
    """Return byte-level BPE that knows the end of a text and ChatML's tokens."""
    tokenizer = build_tokenizer(decoder=True)
    tokenizer.add_special_tokens({"additional_special_tokens": CHATML_TOKENS})
    tokenizer.chat_template = template
    return tokenizer


def build_chat_checkpoint(model_type: str, folder: Path, template: str | None = None, **settings: object) -> Path:
    """Write a language model of an architecture, 2 layers of width 32, 256 positions."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = build_chat_tokenizer(template)
    known = {**DECODERS[model_type], "eos_token_id": tokenizer.eos_token_id, **settings}
    known[SIZES.get(model_type, "max_position_embeddings")] = 256
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **known)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
