"""The task: a text has one language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from startup_llm.tasks.language_identification.options import LanguageData, LanguageModel

from startup_llm.data.classification import load_labelled_text
from startup_llm.evaluation.baselines import predict_majority
from startup_llm.models.sequence_classifier import build_sequence_classifier
from startup_llm.tasks.base import Collator, SingleLabelTask, Truncation
from startup_llm.tasks.prediction import LabelPredictor
from startup_llm.tasks.probing import RowProbe
from startup_llm.tasks.saved_model import SavedModel, compare_labels

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.models.task_model import TaskModel


class SavedLanguageClassifier(SavedModel):
    """A sequence classifier of transformers."""

    auto_class = "AutoModelForSequenceClassification"

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare raw scores with `pipeline("text-classification")`."""
        from transformers import pipeline

        classify = pipeline("text-classification", model=folder, dtype="float32", device="cpu")
        return compare_labels(classify, rows["text"], outputs, truncation=True)


class LanguageIdentification(SingleLabelTask[LanguageData, LanguageModel]):
    """Columns text and label."""

    tag = "language-identification"
    default_checkpoint = example_checkpoint = "sentence-transformers/all-MiniLM-L6-v2"
    peft_task_type = "SEQ_CLS"
    probe = RowProbe()
    predictor_class = LabelPredictor
    saved_model_class = SavedLanguageClassifier
    known_baselines = {"majority": predict_majority}  # noqa: RUF012

    def read_data(self, data: LanguageData) -> TaskData:
        """Read, check and split the rows."""
        loaded = load_labelled_text(data)
        if not data.lowercase:
            return loaded
        lower = loaded.splits.map(lambda row: {"text": row["text"].lower()})
        return replace(loaded, splits=lower)

    def build_model(
        self,
        checkpoint: Checkpoint,
        processor: Any,
        data: TaskData,
        model: LanguageModel,
        attention_kernel: str | None,
    ) -> TaskModel:
        """Load the checkpoint with a classification head on it."""
        return build_sequence_classifier(
            checkpoint,
            processor,
            label_names=data.label_names,
            problem_type="single_label_classification",
            pooling="auto",
            dropout=model.dropout,
            attention_kernel=attention_kernel,
            trust_remote_code=model.trust_remote_code,
        )

    def encode(self, rows: Dataset, processor: Any) -> tuple[Dataset, Truncation]:
        """Tokenize texts, cut at the tokenizer's `model_max_length`."""

        def tokenize(batch: dict[str, list]) -> dict[str, list]:
            encoded = dict(processor(batch["text"], truncation=True))
            encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
            return encoded | ({"labels": batch["label"]} if "label" in batch else {})

        encoded = rows.map(tokenize, batched=True, remove_columns=rows.column_names)
        at_limit = int((np.asarray(encoded["length"]) >= processor.model_max_length).sum())
        return encoded, Truncation(at_limit, at_limit / len(rows), 0.0)

    def build_collator(self, processor: Any) -> Collator:
        """Pad each batch to its longest text."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(processor)

    def summarize(self, rows: Dataset) -> list[str]:
        """Return the texts."""
        return list(rows["text"])
