"""Text classification: one label, several labels, or a number, for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import LabelledTextData
from startup_llm.data.batching import encode_rows
from startup_llm.data.classification import load_labelled_text, load_later_rows
from startup_llm.data.task_data import SEVERAL_LABELS
from startup_llm.errors import UserError
from startup_llm.evaluation.baselines import predict_majority
from startup_llm.evaluation.metrics import (
    ACCURACY,
    F1,
    MACRO_F1,
    MATTHEWS_CORRELATION,
    MEAN_SQUARED_ERROR,
    MICRO_F1,
    PEARSON,
    SPEARMAN,
    Metric,
)
from startup_llm.evaluation.results import describe_classification, describe_label_sets, describe_numbers
from startup_llm.models.sequence_classifier import build_sequence_classifier
from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.base import Collator, Task, Truncation, rank_by_balance
from startup_llm.tasks.probing import RowProbe
from startup_llm.tasks.text_classification.baselines import join_pairs, predict_tfidf_linear_svm
from startup_llm.tasks.text_classification.llm_baseline import ask_llm
from startup_llm.tasks.text_classification.options import TextClassificationData, TextClassificationModel
from startup_llm.tasks.text_classification.out_of_scope_rows import add_out_of_scope
from startup_llm.tasks.text_classification.prediction import TextLabelPredictor, compute_probabilities
from startup_llm.tasks.text_classification.reference_models import TextClassifiers
from startup_llm.tasks.text_classification.saved_model import SavedTextClassifier

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint

METRICS: dict[str, tuple[Metric, ...]] = {
    "single_label_classification": (ACCURACY, MACRO_F1, MATTHEWS_CORRELATION),
    "multi_label_classification": (MICRO_F1, MACRO_F1, ACCURACY),
    "regression": (SPEARMAN, PEARSON, MEAN_SQUARED_ERROR),
}


class TextClassification(Task[LabelledTextData, TextClassificationModel]):
    """Columns text, perhaps text_pair, and label."""

    tag = "text-classification"
    default_checkpoint = example_checkpoint = "sentence-transformers/all-MiniLM-L6-v2"
    peft_task_type = "SEQ_CLS"
    probe = RowProbe()
    ask_llm = staticmethod(ask_llm)
    read_later_rows = staticmethod(load_later_rows)
    predictor_class = TextLabelPredictor
    saved_model_class = SavedTextClassifier
    reference_models_class = TextClassifiers
    known_metrics = (*dict.fromkeys(metric for metrics in METRICS.values() for metric in metrics), F1)
    known_baselines = {"majority": predict_majority, "tfidf-linear-svm": predict_tfidf_linear_svm}  # noqa: RUF012

    def read_data(self, data: LabelledTextData) -> TaskData:
        """Read, check and split the rows.

        Raises:
            UserError: On anything wrong with the files, the columns or the labels.
        """
        loaded = load_labelled_text(data)
        if not isinstance(data, TextClassificationData) or data.oos_file is None:
            return loaded
        return add_out_of_scope(loaded, data)

    def check_method(self, method: str, data: TaskData) -> None:
        """Refuse names of labels as a head where a row is a pair of texts or has not exactly one label."""
        if method != "zero-shot":
            return super().check_method(method, data)
        if data.problem_type != "single_label_classification":
            raise UserError(
                f"--method zero-shot compares a text with the names of classes; the labels are a {data.problem_type}"
            )
        if "text_pair" in data.splits["train"].column_names:
            raise UserError(
                "--method zero-shot compares one text with the names of classes; the rows are pairs of texts"
            )
        return None

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: PreTrainedTokenizerBase,
        data: TaskData,
        model: TextClassificationModel,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint with a classification head on it."""
        return build_sequence_classifier(
            checkpoint,
            processor,
            label_names=data.label_names,
            problem_type=data.problem_type,
            pooling=model.pooling,
            dropout=model.dropout,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )

    def encode(self, rows: Dataset, processor: PreTrainedTokenizerBase) -> tuple[Dataset, Truncation]:
        """Tokenize texts or pairs, cut at the tokenizer's `model_max_length`, and count what is cut."""
        limit = processor.model_max_length

        def tokenize(batch: dict[str, list]) -> dict[str, list]:
            pairs = batch.get("text_pair")
            encoded = dict(processor(batch["text"], pairs, truncation=False, verbose=False))
            encoded["whole_length"] = [len(ids) for ids in encoded["input_ids"]]
            for row in (row for row, length in enumerate(encoded["whole_length"]) if length > limit):
                cut = processor(batch["text"][row], pairs and pairs[row], truncation=True, max_length=limit)
                for name, values in cut.items():
                    encoded[name][row] = values
            encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
            if "label" in batch:
                encoded["labels"] = batch["label"]
            return encoded

        encoded = encode_rows(rows, tokenize)
        lengths, whole = np.asarray(encoded["length"]), np.asarray(encoded["whole_length"])
        cut = int((whole > lengths).sum())
        truncation = Truncation(cut, cut / len(whole), float((whole - lengths).sum() / whole.sum()))
        return encoded.remove_columns("whole_length"), truncation

    def build_collator(self, processor: PreTrainedTokenizerBase) -> Collator:
        """Pad each batch to its longest text."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(processor)

    def metrics(self, data: TaskData) -> tuple[Metric, ...]:
        """Return the metrics of the kind of labels; two classes have F1 of the second one as well.

        Macro F1 is first where the classes are of very different size.
        """
        binary = data.problem_type == "single_label_classification" and len(data.label_names) == 2
        return rank_by_balance(METRICS[data.problem_type] + (F1,) * binary, data)

    def references(self, rows: Dataset) -> np.ndarray:
        """Return the labels: ids, 0/1 rows, or floats."""
        labels = np.asarray(rows["label"])
        return labels.astype(np.int64) if labels.ndim == 2 else labels

    def read_predictions(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, data: TaskData
    ) -> np.ndarray:
        """Take the largest logit, each positive one, or the value itself."""
        return self._read_logits(np.asarray(outputs), data.problem_type)

    def read_validation(self, logits: np.ndarray, labels: np.ndarray, data: TaskData) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and what the logits say."""
        return labels, self._read_logits(logits, data.problem_type)

    def _read_logits(self, logits: np.ndarray, problem_type: str) -> np.ndarray:
        if problem_type == "regression":
            return logits[:, 0]
        if problem_type == "multi_label_classification":
            return (logits > 0).astype(np.int64)
        return logits.argmax(axis=1)

    def has_one_label(self, data: TaskData) -> bool:
        """Return whether the labels are classes of which a row has one."""
        return data.problem_type == "single_label_classification"

    def describe_errors(
        self, rows: Dataset, outputs: Sequence[np.ndarray], predictions: Any, data: TaskData
    ) -> dict[str, Any]:
        """Return scores per class, confusions, mistakes and calibration; of numbers, fifths and mistakes."""
        if data.problem_type == "regression":
            return describe_numbers(rows, join_pairs(rows), np.asarray(predictions))
        scores = compute_probabilities(np.asarray(outputs), data.problem_type)
        if data.problem_type == SEVERAL_LABELS:
            return describe_label_sets(rows, join_pairs(rows), scores, np.asarray(predictions), data.label_names)
        return describe_classification(rows, join_pairs(rows), scores, data.label_names)
