"""The options of token classification."""

from __future__ import annotations

from dataclasses import dataclass

from startup_llm.config import (
    AnnotatedData,
    CheckedData,
    GroupedData,
    HandoverDecision,
    LabelledData,
    LinearHead,
    TaskOptions,
    TextModelConfig,
)


@dataclass(frozen=True)
class TaggedTextData(AnnotatedData, CheckedData, GroupedData, LabelledData):
    """Sentences with a tag for each word, or texts with marked spans."""

    train_file: str | list[str] | None = None
    """CSV, TSV, JSONL, Parquet or CoNLL file(s), gzip allowed."""
    text_column: str | None = None
    """Column with a sentence's words, or with the text; found automatically if only one column fits."""
    label_column: str | list[str] | None = None
    """Column with a sentence's tags, or with the spans of a text; found automatically if only one column fits."""


@dataclass(frozen=True)
class TokenClassificationModel(LinearHead, TextModelConfig):
    """The pretrained checkpoint."""


OPTIONS = {
    "token-classification": TaskOptions(data=TaggedTextData, model=TokenClassificationModel, decision=HandoverDecision)
}
