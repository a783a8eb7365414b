"""What a task has to say, so that nothing else branches on its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from datasets import Dataset
    from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

    from startup_llm.config import DataConfig, ModelConfig, ScratchModelConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.sequence_classifier import SequenceClassifier


@dataclass(frozen=True)
class Truncation:
    """How much of a split was cut.

    Attributes:
        rows: Rows that were cut.
        rows_share: Their share of all rows, 0 to 1.
        tokens_share: Share of all tokens that was cut away, 0 to 1.
    """

    rows: int
    rows_share: float
    tokens_share: float


class Task(ABC):
    """A task, named by its Hub pipeline tag."""

    tag: str
    auto_class: str
    peft_task_type: str

    @abstractmethod
    def load_data(self, data: DataConfig) -> TaskData:
        """Read, check and split the rows."""

    @abstractmethod
    def build_model(
        self,
        checkpoint: Checkpoint,
        tokenizer: PreTrainedTokenizerBase,
        data: TaskData,
        model: ModelConfig,
        attention_kernel: str | None,
    ) -> SequenceClassifier:
        """Load the checkpoint with the task's head on it."""

    @abstractmethod
    def build_scratch_model(
        self, data: TaskData, model: ScratchModelConfig, attention_kernel: str
    ) -> tuple[Any, SequenceClassifier]:
        """Return what cuts rows into numbers, fitted on the training rows alone, and a model with random weights."""

    @abstractmethod
    def save_scratch_model(self, model: Any, tokenizer: Any, data: TaskData, folder: Path) -> None:
        """Write a model from `build_scratch_model` so that `load_plain` and `check_pipeline` read it."""

    @abstractmethod
    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Tokenize rows: columns input_ids, length and what else the model takes, `labels` where rows have them."""

    @abstractmethod
    def build_collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorWithPadding:
        """Return what makes a batch of encoded rows."""

    @abstractmethod
    def metrics(self, data: TaskData) -> tuple[str, ...]:
        """Name the metrics; the first decides."""

    @abstractmethod
    def baselines(self, data: TaskData) -> tuple[str, ...]:
        """Name the baselines."""

    @abstractmethod
    def references(self, rows: Dataset) -> np.ndarray:
        """Return the true values of rows, in the form of `decide`."""

    @abstractmethod
    def decide(self, logits: np.ndarray, problem_type: str) -> np.ndarray:
        """Turn logits into predictions that the metrics take."""

    @abstractmethod
    def probabilities(self, logits: np.ndarray, problem_type: str) -> np.ndarray:
        """Turn logits into probabilities, shape (rows, labels)."""

    @abstractmethod
    def answer(self, logits: np.ndarray, config: Any) -> dict[str, Any]:
        """Show one row's logits as the task's pipeline would; `config` is the model's."""

    @abstractmethod
    def check_pipeline(self, model_folder: str, rows: Dataset) -> np.ndarray:
        """Return the logits that `transformers.pipeline` gives for `rows`, shape (rows, labels)."""

    @abstractmethod
    def load_plain(self, path: str, **arguments: Any) -> PreTrainedModel:
        """Load a folder with the task's Auto class alone, as anyone without this package would."""
