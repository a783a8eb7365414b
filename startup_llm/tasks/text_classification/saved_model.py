"""A saved text classifier: a checkpoint of transformers, or a reference model in its own format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from startup_llm.tasks.saved_model import SavedModel, compare_labels

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedModel


class SavedTextClassifier(SavedModel):
    """Loaded by transformers, or by the reference models' own loader."""

    auto_class = "AutoModelForSequenceClassification"
    shown_in_space = True
    pipeline_call_arguments = {"truncation": True}  # noqa: RUF012

    def has_own_format(self, path: str) -> bool:
        """Return whether a reference model lies there."""
        from startup_llm.models.scratch.text import holds_text_classifier

        return holds_text_classifier(path)

    def load(self, path: str, **arguments: Any) -> PreTrainedModel:
        """Load with `AutoModelForSequenceClassification`, a reference model with its own loader."""
        from startup_llm.models.scratch.text import load_text_classifier

        return load_text_classifier(path)[0] if self.has_own_format(path) else super().load(path, **arguments)

    def load_processor(self, path: str) -> Any:
        """Load the tokenizer, that of a reference model with its own loader."""
        from startup_llm.models.scratch.text import load_text_classifier

        return load_text_classifier(path)[1] if self.has_own_format(path) else super().load_processor(path)

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare raw scores with `pipeline("text-classification")`; a reference model has no pipeline."""
        from transformers import pipeline

        if self.has_own_format(folder):
            return 0.0
        classify = pipeline(self.task.tag, model=folder, dtype="float32", device="cpu")
        inputs = rows.select_columns([name for name in ("text", "text_pair") if name in rows.column_names]).to_list()
        return compare_labels(classify, inputs, outputs, truncation=True)
