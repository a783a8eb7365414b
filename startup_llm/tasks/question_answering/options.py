"""The options of extractive question answering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from startup_llm.config import CheckedData, GroupedData, HandoverDecision, Range, TaskOptions, TextModelConfig


@dataclass(frozen=True)
class QuestionData(CheckedData, GroupedData):
    """Questions with a context that contains the answer."""

    text_column: str | None = None
    """Column with the question, if it is not named question."""
    text_pair_column: str | None = None
    """Column with the context, if it is not named context."""
    target_column: str | None = None
    """Column with the answers, if it is not named answers."""


@dataclass(frozen=True)
class QuestionAnsweringModel(TextModelConfig):
    """The pretrained checkpoint."""

    null_threshold: Annotated[float, Range()] = 0.0
    """A question gets no answer if the score of no answer exceeds that of the best span by more than this."""


OPTIONS = {
    "question-answering": TaskOptions(data=QuestionData, model=QuestionAnsweringModel, decision=HandoverDecision)
}
