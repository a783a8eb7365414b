"""A saved model that answers questions by spans of their contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.question_answering.model import compute_span_logits
from startup_llm.tasks.saved_model import SavedModel

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor


class SavedQuestionAnswerer(SavedModel):
    """Loaded by transformers."""

    auto_class = "AutoModelForQuestionAnswering"
    load_code = """import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

question, context = "Who wrote it?", "It was written by Ada Lovelace in 1843."
tokenizer = AutoTokenizer.from_pretrained("REPOSITORY")
model = AutoModelForQuestionAnswering.from_pretrained("REPOSITORY").eval()
batch = tokenizer(question, context, return_offsets_mapping=True, return_tensors="pt")
spans = batch.pop("offset_mapping")[0]
with torch.inference_mode():
    outputs = model(**batch)
scores = outputs.start_logits[0][:, None] + outputs.end_logits[0]
context_tokens = torch.tensor([part == 1 for part in batch.sequence_ids(0)])
allowed = context_tokens[:, None] & context_tokens & torch.ones_like(scores, dtype=bool).triu().tril(29)
best = int(scores.masked_fill(~allowed, -torch.inf).argmax())
print(context[spans[best // len(spans)][0] : spans[best % len(spans)][1]])"""

    def compute_scores(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return the model's own logits, which no threshold has moved, shape (2, tokens)."""
        return compute_span_logits(model, batch)

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare logits with those of the plain Auto classes: transformers 5 has no pipeline for the task."""
        import torch
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype="float32").eval()
        window = {"max_length": tokenizer.model_max_length, "stride": tokenizer.model_max_length // 3}
        own: dict[int, list[np.ndarray]] = {}
        for row, output in zip(self.task.encode(rows, tokenizer)[0]["_question"], outputs, strict=True):
            own.setdefault(row, []).append(output)
        difference = 0.0
        for row, (question, context) in enumerate(zip(rows["question"], rows["context"], strict=True)):
            if len(tokenizer(question, verbose=False)["input_ids"]) > window["stride"]:
                continue  # a question that is cut
            batch = tokenizer(
                question,
                context,
                truncation="only_second",
                return_overflowing_tokens=True,
                padding=True,
                return_tensors="pt",
                **window,
            )
            batch.pop("overflow_to_sample_mapping")
            with torch.inference_mode():
                model_outputs = model(**batch)
            for start, end, output in zip(model_outputs.start_logits, model_outputs.end_logits, own[row], strict=True):
                plain = np.stack([start.numpy(), end.numpy()])[:, : output.shape[1]]
                difference = max(difference, float(np.abs(plain - output).max()))
        return difference
