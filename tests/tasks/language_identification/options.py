"""The options of language identification."""

from __future__ import annotations

from dataclasses import dataclass

from startup_llm.config import LabelledTextData, LinearHead, TaskOptions, TextModelConfig


@dataclass(frozen=True)
class LanguageData(LabelledTextData):
    """Texts with their language."""

    lowercase: bool = False
    """Train and test on lower-case text."""


@dataclass(frozen=True)
class LanguageModel(LinearHead, TextModelConfig):
    """The pretrained checkpoint."""


OPTIONS = {"language-identification": TaskOptions(data=LanguageData, model=LanguageModel)}
