"""The options of summarization and translation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from startup_llm.config import (
    CheckedData,
    Count,
    GroupedData,
    Range,
    ScratchTransformer,
    TaskOptions,
    TextModelConfig,
    TextReadingData,
)


@dataclass(frozen=True)
class TextPairData(TextReadingData, CheckedData, GroupedData):
    """Texts, each with the text that is to be written for it."""

    text_column: str | list[str] | None = None
    """Column with the text that is read; several, such as [subject,description], are joined, each with its name before
    it. For a folder with a file per language, its language."""
    clean: str | None = None
    """What is removed from texts and targets, in predictions too: html, signature and quoted (replies), separated by
    commas."""
    target_column: str | None = None
    """Column with the text to be written: a translation or a summary. For a folder with a file per language, its
    language."""


@dataclass(frozen=True)
class TextToTextModel(TextModelConfig):
    """The pretrained checkpoint."""

    language: str | None = None
    """Language that is written, for a multilingual checkpoint, such as deu_Latn for NLLB."""
    source_language: str | None = None
    """Language that is read, for a multilingual checkpoint, such as eng_Latn for NLLB."""


@dataclass(frozen=True)
class EncoderDecoder(ScratchTransformer):
    """Transformer encoder-decoder, its weights drawn at random."""

    max_length_tokens: Count = 256
    """Longer texts are cut to this many tokens; the run reports how many were cut."""
    vocab_size: Count = 32768
    """Largest number of tokens in the vocabulary that both sides share (bpe)."""
    beams: Count = 4
    """Texts that are kept at each step while one is written; 1 takes the most probable token."""


@dataclass(frozen=True)
class ScratchEncoderDecoder(EncoderDecoder):
    """Transformer encoder-decoder, its weights drawn at random."""

    tokenizer: Literal["bpe"] = "bpe"
    """Kind of tokenizer, trained on the training split alone."""
    label_smoothing: Annotated[float, Range(0, below=1)] = 0.0
    """Fraction of the target probability that is spread over all tokens while training."""


@dataclass(frozen=True)
class ScratchT5(EncoderDecoder):
    """Encoder-decoder with the architecture of T5, its weights drawn at random."""

    name: str = "t5"
    tokenizer: Literal["bpe", "byte"] = "bpe"
    """Kind of tokenizer: bpe is trained on the training split alone, byte needs no training."""


_OPTIONS = TaskOptions(
    data=TextPairData,
    model=TextToTextModel,
    scratch_models={"transformer": ScratchEncoderDecoder, "t5": ScratchT5},
)
OPTIONS = {"summarization": _OPTIONS, "translation": _OPTIONS}
