"""Where a text came from: how much an encoder-decoder attended to each source word while it wrote."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def compute_source_attention(model: PreTrainedModel, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
    """Return the cross-attention of each read token, the mean over layers, heads and written tokens.

    It tells where the decoder looked, which is not always why it wrote what it did (Jain and Wallace 2019).

    Args:
        model: An encoder-decoder of transformers.
        input_ids: What it read, shape (1, source), int64.
        decoder_input_ids: What it had written before each token, start token first, shape (1, target), int64.

    Returns:
        Shape (source,), float32; the sum is 1.
    """
    import torch

    kernel = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the one that keeps its weights
    try:
        with torch.inference_mode():
            outputs = model(input_ids=input_ids, decoder_input_ids=decoder_input_ids, output_attentions=True)
    finally:
        model.set_attn_implementation(kernel)
    layers = torch.stack([layer.float() for layer in outputs.cross_attentions])  # (layers, 1, heads, target, source)
    return layers.mean(dim=(0, 1, 2, 3)).cpu()


def weigh_words(text: str, processor: PreTrainedTokenizerBase, attention: Tensor) -> list[dict[str, Any]]:
    """Share the read tokens' attention out over the text's words.

    Args:
        text: What was read.
        processor: Its tokenizer; one that tells each token's place in the text.
        attention: Of each token of `processor(text)`, shape (source,). What special tokens got is left out.

    Returns:
        start and end of each word in characters, and its weight: 1 for the word that was attended to most.
    """
    places = processor(text, truncation=True, max_length=len(attention), return_offsets_mapping=True)["offset_mapping"]
    words = [(word.start(), word.end()) for word in re.finditer(r"\S+", text)]
    weights = [0.0] * len(words)
    for (first, last), weight in zip(places, attention.tolist(), strict=True):
        for index, (start, end) in enumerate(words):
            if first < end and last > start:
                weights[index] += weight
                break
    largest = max(weights, default=0.0) or 1.0
    return [
        {"start": start, "end": end, "weight": weight / largest}
        for (start, end), weight in zip(words, weights, strict=True)
    ]
