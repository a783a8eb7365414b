"""The options of text generation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from startup_llm.config import (
    CheckedData,
    Count,
    EvaluationConfig,
    GroupedData,
    Range,
    ScratchTransformer,
    TaskOptions,
    TextModelConfig,
    TextReadingData,
)


@dataclass(frozen=True)
class GenerationData(TextReadingData, CheckedData, GroupedData):
    """Running text, conversations, or preferences between two answers."""

    text_column: str | list[str] | None = None
    """Column with the text or the conversation; found automatically if only one column fits. Several, such as
    [subject,description], are joined, each with its name before it: the prompt of rows with a column completion or
    output, else the text."""
    clean: str | None = None
    """What is removed from texts and the turns of users and the assistant, in predictions too: html, signature and
    quoted (replies), separated by commas."""
    speakers: dict[str, str] = field(default_factory=dict)
    """Roles of a dialogue's speakers in text_column, such as {'#Person1#': user, '#Person2#': assistant}."""
    assistant_sender: str | list[str] | None = None
    """Which senders of a chat log (conversation_id, sender, message, perhaps time) are the assistant; default those
    whose name says so, such as agent, support or bot."""
    packing: bool = False
    """Put several conversations into each training row; none of them attends to another."""


@dataclass(frozen=True)
class ChatModel(TextModelConfig):
    """The pretrained checkpoint."""

    chat_template: str | None = None
    """How conversations are written, if the checkpoint's tokenizer has no template: chatml, plain, or a Jinja file."""


@dataclass(frozen=True)
class ChatEvaluation(EvaluationConfig):
    """How the numbers are made."""

    generate: bool = False
    """Let a chat model write the last answer of each test conversation, the most probable token at each step, and
    measure its overlap with the reference answer (ROUGE, BLEU, chrF); this takes time."""
    few_shot_examples: Annotated[int, Range(least=0)] = 3
    """With generate: training rows whose answers stand before each prompt of the baseline few-shot, which is the
    checkpoint before it is tuned; 0 leaves it out."""


@dataclass(frozen=True)
class ScratchGpt(ScratchTransformer):
    """Transformer decoder that writes text, its weights drawn at random."""

    name: str = "gpt"
    max_length_tokens: Count = 256
    """Longest context in tokens; text is cut into blocks of this length."""
    tokenizer: Literal["character"] = "character"
    """Kind of tokenizer, built on the training split alone."""


OPTIONS = {
    "text-generation": TaskOptions(
        data=GenerationData, model=ChatModel, evaluation=ChatEvaluation, scratch_models={"gpt": ScratchGpt}
    )
}
