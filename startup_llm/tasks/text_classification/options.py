"""The options of text classification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from startup_llm.config import (
    BaselinesConfig,
    ClassDecision,
    Count,
    EvaluationConfig,
    LabelledTextData,
    LinearHead,
    Price,
    Range,
    ScratchDnn,
    ScratchTransformer,
    TaskOptions,
    TextModelConfig,
)
from startup_llm.errors import UserError


@dataclass(frozen=True)
class TextClassificationData(LabelledTextData):
    """Texts, or pairs of them, with a label; and texts that fit none of the labels."""

    oos_file: str | list[str] | None = None
    """File(s) of texts that fit none of the labels (out of scope), by which a score that finds such texts is fitted
    and chosen; results are told by file. A label column is not read."""
    oos_test_file: str | list[str] | None = None
    """File(s) of such texts that the score is judged on; default half of the rows of oos_file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("oos_file", "oos_test_file"):
            value = getattr(self, name)
            names = value if isinstance(value, list) else [value]
            if value == [] or any(isinstance(part, str) and not part.strip() for part in names):
                raise UserError(f"data.{name} {value!r} names nothing; give a name, or leave the option out")
        if self.oos_test_file is not None and self.oos_file is None:
            raise UserError(
                f"data.oos_test_file {self.oos_test_file!r}: expected data.oos_file too, by which a score is chosen"
            )


@dataclass(frozen=True)
class TextClassificationModel(LinearHead, TextModelConfig):
    """The pretrained checkpoint."""

    pooling: Literal["auto", "mean", "cls", "last", "native"] = "auto"
    """How token features become one vector; auto follows the checkpoint, native is the architecture's own head."""


@dataclass(frozen=True)
class LlmBaseline:
    """A large language model that is asked for the label of each test row, and costs what its tokens cost."""

    model: str | None = None
    """Name of the model at the endpoint, such as gpt-4o-mini; default none is asked."""
    base_url: str = "https://api.openai.com/v1"
    """Address of an endpoint that speaks as OpenAI's chat completions do."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, which is read from nowhere else and never kept."""
    examples_per_class: Annotated[int, Range(0)] = 1
    """Training rows of each class that every prompt shows with their labels."""
    dollars_per_million_input_tokens: Price | None = None
    """Price of a million tokens of prompts."""
    dollars_per_million_output_tokens: Price | None = None
    """Price of a million tokens of answers."""
    answers: str = "runs/llm_answers.jsonl"
    """JSONL file that keeps each answer with its prompt's hash, tokens, latency and price; a prompt whose answer it
    holds is not asked again."""
    offline: bool = False
    """Ask nothing: each answer has to be in the file."""
    max_answer_tokens: Count | None = 64
    """Largest number of tokens of an answer; null sends none, for models that do not take max_tokens."""
    request: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request, such as {reasoning_effort: low}; null leaves one out, such as {temperature:
    null}."""
    timeout_seconds: Annotated[float, Range(above=0)] = 60.0
    """How long an answer is waited for."""
    attempts: Count = 5
    """How often a request is sent that times out, comes too early (429) or is answered by what is no answer."""
    parallel_requests: Annotated[int, Range(1, 256)] = 4
    """Requests under way at once."""


@dataclass(frozen=True)
class TextClassificationBaselines(BaselinesConfig):
    """Baselines that are measured only where they are asked for."""

    llm: LlmBaseline = field(default_factory=LlmBaseline)
    """A large language model that is prompted."""


@dataclass(frozen=True)
class TextClassificationEvaluation(EvaluationConfig):
    """How the numbers are made, and whether answers are explained."""

    explain: bool = False
    """Show in the report which words made the worst mistakes and which training rows are most alike, and measure on 50
    test rows whether explanations point at words that matter (extra explain)."""


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
        data=TextClassificationData,
        model=TextClassificationModel,
        evaluation=TextClassificationEvaluation,
        baselines=TextClassificationBaselines,
        decision=ClassDecision,
        scratch_models={"dnn": ScratchTextDnn, "transformer": ScratchTextTransformer},
    )
}
