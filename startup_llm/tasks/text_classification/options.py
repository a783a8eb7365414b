"""The options of text classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from startup_llm.config import (
    Count,
    LabelledTextData,
    LinearHead,
    ScratchDnn,
    ScratchTransformer,
    TaskOptions,
    TextModelConfig,
)


@dataclass(frozen=True)
class TextClassificationModel(LinearHead, TextModelConfig):
    """The pretrained checkpoint."""

    pooling: Literal["auto", "mean", "cls", "last", "native"] = "auto"
    """How token features become one vector; auto follows the checkpoint, native is the architecture's own head."""


@dataclass(frozen=True)
class ScratchTextDnn(ScratchDnn):
    """Feed-forward network on the mean of hashed n-gram embeddings, its weights drawn at random."""

    width: Count = 128
    """Width of an n-gram's embedding."""
    max_length_tokens: Count = 256
    """Longer texts are cut to this many n-grams; the run reports how many were cut."""
    vocab_size: Count = 32768
    """Number of buckets that n-grams are hashed into."""
    longest_ngram: Count = 2
    """Words in the longest n-gram."""


@dataclass(frozen=True)
class ScratchTextTransformer(ScratchTransformer):
    """Transformer encoder with mean pooling, its weights drawn at random."""

    max_length_tokens: Count = 256
    """Longer texts are cut to this many tokens; the run reports how many were cut."""
    vocab_size: Count = 32768
    """Largest number of tokens in the vocabulary."""
    tokenizer: Literal["wordpiece", "bpe"] = "wordpiece"
    """Kind of tokenizer, trained on the training split alone."""


OPTIONS = {
    "text-classification": TaskOptions(
        data=LabelledTextData,
        model=TextClassificationModel,
        scratch_models={"dnn": ScratchTextDnn, "transformer": ScratchTextTransformer},
    )
}
