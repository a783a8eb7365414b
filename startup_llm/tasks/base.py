"""What a task has to say, so that nothing else branches on its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from startup_llm.config import TextModelConfig
from startup_llm.data.label_balance import MACRO_F1_RATIO, count_training_labels
from startup_llm.errors import UserError, nearest
from startup_llm.evaluation.metrics import ACCURACY, MACRO_F1, Metric, Values, rank_metrics
from startup_llm.evaluation.results import describe_classification
from startup_llm.tasks.reference_models import ReferenceModels

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from startup_llm.config import BaselinesConfig, DataConfig, EvaluationConfig, ModelConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.baselines import Baseline
    from startup_llm.evaluation.llm_costs import PromptedAnswers
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.task_model import TaskModel
    from startup_llm.tasks.prediction import Predictor
    from startup_llm.tasks.probing import RowProbe
    from startup_llm.tasks.saved_model import SavedModel

Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]

LEAST_TEST_ROWS = 2
"""Fewest rows that a bootstrap can resample."""
TARGET_LENGTH = "_target_length"
"""Column of encoded rows: tokens to be written for a row, so that rows alike in both lengths are trained together."""


@dataclass(frozen=True)
class Truncation:
    """How much of a split was cut.

    Attributes:
        rows: Rows that were cut.
        rows_share: Their share of all rows, 0 to 1.
        tokens_share: Share of all tokens that was cut away, 0 to 1.
        targets: Rows among them whose target was cut, so that its end is not learnt.
    """

    rows: int
    rows_share: float
    tokens_share: float
    targets: int = 0


Data = TypeVar("Data", bound="DataConfig")
"""The data section of a task."""
Model = TypeVar("Model", bound="ModelConfig")
"""The model section of a task's run that starts from a pretrained checkpoint."""


class Task(ABC, Generic[Data, Model]):
    """A task, named by its Hub pipeline tag.

    A processor is what turns a raw row into numbers: a tokenizer, an image processor or a feature extractor.

    Attributes:
        tag: Hub pipeline tag.
        default_checkpoint: Hub id of the packaged checkpoint that is tuned where none is named; None for no such one.
        example_checkpoint: Hub id of one that a person could name.
        predictor_class: Makes `predictor`.
        predictor: Answers rows without labels, as predict.py asks.
        saved_model_class: Makes `saved_model`.
        saved_model: Loads what was saved, and compares it with the model in memory.
        reference_models_class: Makes `reference_models`.
        reference_models: Builds models with random weights.
        reads_text: Whether a row is tokens of a text, which `length` counts.
        peft_task_type: PEFT's name of the task.
        probe: What a linear probe learns from, where the head is one linear layer; else None.
        packer: Puts several encoded rows into each row to train on; None where the task has no such thing.
        ask_llm: Asks the large language model that a config names for the answers to the test rows, with examples that
            the seed draws; None where the task cannot be asked so.
        read_later_rows: Reads rows on which a trained model is measured, as the split test: from the file as
            `train_file` and the model's labels in the order of its outputs. None where `read_data` does that too.
        computes_loss: Whether `compute_loss` gives a batch's loss, not the model.
        token_logits: Whose label the logits at a token are for, its own or the next token's, where their cross-entropy
            is the loss; else None.
        selects_by_loss: Whether the validation loss chooses the best checkpoint, not the primary metric.
        cuts_long_rows: Whether what is beyond the processor's longest length is lost.
        samples_each_epoch: Whether `write_samples` is shown after epochs too.
        splits_batches: Whether a batch's loss is the mean over its rows, so that it can be computed in parts.
        known_metrics: Every metric that some rows of the task are measured by.
        known_baselines: Every baseline of some rows of the task, by name.
    """

    tag: str
    default_checkpoint: str | None = None
    example_checkpoint: str
    predictor_class: type[Predictor]
    saved_model_class: type[SavedModel]
    reference_models_class: type[ReferenceModels] = ReferenceModels
    peft_task_type: str | None
    reads_text = True
    probe: RowProbe | None = None
    packer: Callable[[Dataset, Any], Dataset] | None = None
    ask_llm: Callable[[TaskData, BaselinesConfig, int], PromptedAnswers | None] | None = None
    read_later_rows: Callable[[Data, Sequence[str]], TaskData] | None = None
    computes_loss = False
    token_logits: Literal["own", "next"] | None = None
    selects_by_loss = False
    cuts_long_rows = True
    known_metrics: tuple[Metric, ...] = ()
    known_baselines: ClassVar[Mapping[str, Baseline]] = {}
    splits_batches = True
    samples_each_epoch = False

    def __init__(self) -> None:
        self.predictor = self.predictor_class(self)
        self.saved_model = self.saved_model_class(self)
        self.reference_models = self.reference_models_class(self)

    def load_data(self, data: Data, evaluation: EvaluationConfig | None = None) -> TaskData:
        """Read, check and split the rows.

        Args:
            data: Where they are.
            evaluation: How they will be measured, which may ask for more of each row.

        Raises:
            UserError: On anything wrong with the files, the columns or a row, or if models are to be measured on a
                single test row.
        """
        loaded = self.read_data(data)
        if evaluation is not None and len(loaded.splits["test"]) < LEAST_TEST_ROWS:
            raise UserError(
                f"the test split has 1 row, but a metric's interval is resampled from {LEAST_TEST_ROWS} rows or more; "
                "give more test rows, or a larger --data.test_fraction or --data.max_test_rows where they are drawn"
            )
        if evaluation is not None and (counted := count_training_labels(loaded)) and is_macro_primary(loaded):
            chosen = "macro F1 is the primary metric" if evaluation.decides is None else "accuracy alone will mislead"
            option = " (--evaluation.decides chooses another)" if evaluation.decides is None else ""
            loaded.notes.append(f"The classes are unbalanced: {counted.describe()}; {chosen}{option}.")
        return loaded

    @abstractmethod
    def read_data(self, data: Data) -> TaskData:
        """Read, check and split the rows."""

    def load_processor(self, checkpoint: Checkpoint, model: Model, data: TaskData | None = None) -> Any:
        """Load what turns the checkpoint's rows into numbers.

        Args:
            checkpoint: Where its files are.
            model: Longest length, language, and whether to run the checkpoint's own Python code.
            data: The rows, whose training split completes what the checkpoint was never taught, such as letters; None
                for a model that was trained before.
        """
        from startup_llm.models.checkpoints import load_tokenizer

        if not isinstance(model, TextModelConfig):
            raise NotImplementedError(f"{self.tag} reads no text")
        return load_tokenizer(checkpoint, model.max_length_tokens, model.trust_remote_code)

    def fit_data(self, data: TaskData, processor: Any, model: Any = None) -> TaskData:
        """Complete the rows, or leave some out, by what the processor tells, and then by what the model can learn.

        Args:
            data: The rows.
            processor: What encodes them, whose chat template may leave turns out.
            model: The model with its head, once it is built: some training and validation rows it may never learn.

        Raises:
            UserError: If the processor cannot read a row, or rows that cannot be learnt are not to be left out.
        """
        return data

    def check_method(self, method: str, data: TaskData) -> None:
        """Refuse a method by which the rows cannot be learnt.

        Args:
            method: lora, full, probe, zero-shot, dpo, orpo or kto.
            data: The rows.

        Raises:
            UserError: If it is one.
        """
        if method == "probe" and self.probe is None:
            raise UserError(f"--method probe: {self.tag} has no linear probe; use lora or full")
        if method == "zero-shot":
            raise UserError(f"--method zero-shot: {self.tag} has no names of labels to compare; use lora or full")
        if method in ("dpo", "orpo", "kto"):
            raise UserError(f"--method {method}: {self.tag} has no preferences between texts; use recipes/finetune.py")

    @abstractmethod
    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: Any,
        data: TaskData,
        model: Model,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint with the task's head on it."""

    @abstractmethod
    def encode(self, rows: Dataset, processor: Any) -> tuple[Dataset, Truncation]:
        """Turn raw rows into the model's inputs.

        Returns:
            Inputs, `labels` where the rows have them, and `length`: what a row costs, in tokens, patches or frames.
            A raw row may become several; columns that begin with an underscore never reach the model: they are for
            `read_predictions`, and `TARGET_LENGTH` for the order of training.
        """

    def encode_split(self, name: str, data: TaskData, processor: Any) -> tuple[Dataset, Truncation]:
        """Encode a split, and behind its rows what else `read_predictions` needs the outputs of, such as a corpus.

        Args:
            name: train, validation or test.
            data: The rows.
            processor: What encodes them.
        """
        return self.encode(data.splits[name], processor)

    @abstractmethod
    def build_collator(self, processor: Any) -> Collator:
        """Return what makes a batch of encoded rows."""

    def compute_loss(self, model: Any, batch: dict[str, Tensor], processor: Any) -> tuple[Tensor, Tensor]:
        """Return a batch's loss, the mean over its targets, and its outputs; called where `computes_loss`."""
        raise NotImplementedError

    def count_targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Return how many terms each row of a batch adds to the loss, which is their mean; shape (rows,)."""
        return batch["labels"].new_ones(len(batch["labels"]), dtype=int)

    def compute_outputs(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return the model's output for each row of a batch: its logits, unless the task says otherwise."""
        return list(model(**batch)["logits"].float().cpu().numpy())

    def metrics(self, data: TaskData) -> tuple[Metric, ...]:
        """Return what models of these rows are measured by, the primary metric first."""
        return self.known_metrics

    def baselines(self, data: TaskData) -> Mapping[str, Baseline]:
        """Return the baselines that models of these rows stand beside, by name."""
        return self.known_baselines

    @abstractmethod
    def references(self, rows: Dataset) -> Values:
        """Return the true values of raw rows, in the form of `read_predictions`: an array, or a list of plain data."""

    @abstractmethod
    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> Values:
        """Turn outputs into one prediction per raw row, in the form that the metrics take.

        Args:
            outputs: One per encoded row.
            encoded: The encoded rows.
            rows: The raw rows.
            data: What is known of the labels.
        """

    def read_validation(self, logits: np.ndarray, labels: np.ndarray, data: TaskData) -> tuple[Values, Values]:
        """Return references and predictions of the validation rows; called unless `selects_by_loss`.

        Args:
            logits: As the Trainer gathers them, padded with -100.
            labels: The encoded labels, padded with -100.
            data: What is known of the labels.
        """
        raise NotImplementedError

    def has_one_label(self, data: TaskData) -> bool:
        """Return whether every row has one label, and an output is the logits of the labels, shape (labels,)."""
        return False

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Look into a model's answers to the test rows.

        Args:
            rows: Raw test rows.
            outputs: The model's, one per encoded row.
            predictions: From `read_predictions`.
            data: The task's rows.

        Returns:
            Sections of `results.json`, such as per_class, confusions and mistakes, and the report's gallery.
        """
        return {}

    def write_samples(self, model: Any, processor: Any, rows: Dataset) -> list[dict[str, Any]]:
        """Return what the trained model writes by itself: further items of the report's gallery."""
        return []


class SingleLabelTask(Task[Data, Model]):
    """A row's `label` is one class id; an output is the logits of the classes, shape (classes,)."""

    known_metrics = (ACCURACY, MACRO_F1)

    def metrics(self, data: TaskData) -> tuple[Metric, ...]:
        """Return accuracy and macro F1, macro F1 first where the classes are of very different size."""
        return rank_by_balance(self.known_metrics, data)

    def has_one_label(self, data: TaskData) -> bool:
        """Return that it is so."""
        return True

    def references(self, rows: Dataset) -> np.ndarray:
        """Return the class ids."""
        return np.asarray(rows["label"])

    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> np.ndarray:
        """Take the largest logit."""
        return np.asarray(outputs).argmax(axis=1)

    def read_validation(self, logits: np.ndarray, labels: np.ndarray, data: TaskData) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and what the logits say."""
        return labels, logits.argmax(axis=1)

    @abstractmethod
    def summarize(self, rows: Dataset) -> list[str]:
        """Return a line of text for each raw row, to name it in a report."""

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return scores per class, confusions, mistakes and calibration."""
        from scipy.special import softmax

        scores = softmax(np.asarray(outputs), axis=1)
        return describe_classification(rows, self.summarize(rows), scores, data.label_names)


def is_macro_primary(data: TaskData) -> bool:
    """Return whether the largest class is so much larger than the smallest that macro F1 is the primary metric."""
    counted = count_training_labels(data)
    return counted is not None and counted.ratio > MACRO_F1_RATIO


def rank_by_balance(metrics: tuple[Metric, ...], data: TaskData) -> tuple[Metric, ...]:
    """Put macro F1 first where the classes are of very different size: others are high with the large ones alone."""
    return rank_metrics(metrics, MACRO_F1.name) if is_macro_primary(data) else metrics


def find_metric(task: Task, name: str) -> Metric:
    """Return the task's metric of a name, as results, suites and configs tell it.

    Raises:
        UserError: If the task has no such metric.
    """
    known = {metric.name: metric for metric in task.known_metrics}
    if name not in known:
        raise UserError(f"unknown metric {name}{nearest(name, known) or ';'} {task.tag} has {', '.join(known)}")
    return known[name]
