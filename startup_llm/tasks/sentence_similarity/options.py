"""The options of sentence similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from startup_llm.config import CheckedData, LabelledData, TaskOptions, TextModelConfig, TextReadingData


@dataclass(frozen=True)
class SimilarityData(TextReadingData, CheckedData, LabelledData):
    """Pairs of texts, texts of classes, or queries with the documents that are relevant to them."""

    text_column: str | list[str] | None = None
    """Column with the text or the query; found automatically if only one column fits. Several, such as
    [subject,description], are joined, each with its name before it; empty ones are left out."""
    text_pair_column: str | None = None
    """Column with the text that answers the one in text_column, or is scored against it."""
    negative_column: str | None = None
    """Column with a text that does not answer the one in text_column."""
    label_column: str | list[str] | None = None
    """Column with the score of a pair, or with the class of a text."""
    corpus_subset: str | None = None
    """Subset of the Hub dataset with the texts to search (BEIR's form); its split has the same name."""
    queries_subset: str | None = None
    """Subset of the Hub dataset with the queries; data.subset then holds which texts are relevant to them."""


@dataclass(frozen=True)
class SentenceModel(TextModelConfig):
    """The pretrained checkpoint."""

    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """How token features become one vector; auto follows the checkpoint."""


OPTIONS = {"sentence-similarity": TaskOptions(data=SimilarityData, model=SentenceModel)}
