"""A saved tagger of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from startup_llm.tasks.saved_model import SavedModel

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


class SavedTagger(SavedModel):
    """Loaded by transformers."""

    auto_class = "AutoModelForTokenClassification"
    shown_in_space = True
    pipeline_arguments = {"aggregation_strategy": "first"}  # noqa: RUF012

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare each token's tag and probability with `pipeline("token-classification")` on the same words.

        The pipeline reads a sentence's first window.
        """
        from scipy.special import softmax
        from transformers import pipeline

        tagger = pipeline(self.task.tag, model=folder, dtype="float32", device="cpu")
        encoded, _ = self.task.encode(rows, tagger.tokenizer)
        ids, difference, seen = tagger.model.config.label2id, 0.0, set()
        for row, logits in zip(encoded["_row"], outputs, strict=True):
            if row in seen:
                continue
            seen.add(row)
            own = softmax(logits, axis=-1)
            for entity in tagger([rows["tokens"][row]], is_split_into_words=True, ignore_labels=[])[0]:
                difference = max(difference, abs(entity["score"] - own[entity["index"], ids[entity["entity"]]]))
        return float(difference)
