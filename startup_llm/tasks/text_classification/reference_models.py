"""Text classifiers from random weights: a deep averaging network and a transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.reference_models import ReferenceModels
from startup_llm.tasks.text_classification.options import ScratchTextDnn, ScratchTextTransformer

if TYPE_CHECKING:
    from pathlib import Path

    from startup_llm.config import ScratchModelConfig
    from startup_llm.data.task_data import TaskData

_LOAD_CODE = """from huggingface_hub import snapshot_download
from startup_llm.models.scratch.text import load_text_classifier

model, tokenizer, label_names = load_text_classifier(snapshot_download("REPOSITORY"))
logits = model(**tokenizer.pad([tokenizer("a text")], return_tensors="pt"))["logits"]"""


class TextClassifiers(ReferenceModels):
    """dnn and transformer."""

    def build(self, data: TaskData, model: ScratchModelConfig, attention_kernel: str) -> tuple[Any, TaskModel]:
        """Return an n-gram hasher or a tokenizer trained on the training split, and a `TextDnn` or an encoder.

        Raises:
            UserError: If another model is asked for.
        """
        from startup_llm.models.scratch import text

        rows, classes = data.splits["train"], max(len(data.label_names), 1)
        if isinstance(model, ScratchTextDnn):
            hasher = text.NgramHasher(model.vocab_size, model.longest_ngram, model.max_length_tokens)
            network = text.build_text_dnn(hasher, classes, model.width, model.hidden, model.dropout, model.activation)
            return hasher, TaskModel(network, "mean of n-gram vectors")
        if not isinstance(model, ScratchTextTransformer):
            return super().build(data, model, attention_kernel)
        texts = [value for name in ("text", "text_pair") if name in rows.column_names for value in rows[name]]
        tokenizer = text.train_tokenizer(texts, model.tokenizer, model.vocab_size, model.max_length_tokens)
        network = text.build_text_transformer(
            tokenizer,
            classes,
            width=model.width,
            heads=model.heads,
            layers=model.layers,
            inner_width=model.inner_width,
            dropout=model.dropout,
            kernel=attention_kernel,
        )
        note = f"{model.tokenizer} tokenizer of {len(tokenizer):,} tokens, trained on the training split alone"
        return tokenizer, TaskModel(network, "mean", notes=(note,))

    def save(self, model: Any, processor: Any, data: TaskData, folder: Path) -> None:
        """Write a `TextDnn` or a from-scratch encoder with its classifier."""
        from startup_llm.models.scratch.text import save_text_classifier

        save_text_classifier(model, processor, data.label_names, folder, data.problem_type)

    def find_load_code(self, name: str) -> str | None:
        """Return code that loads a model without an Auto class."""
        return _LOAD_CODE
