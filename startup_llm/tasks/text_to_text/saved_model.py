"""A saved encoder-decoder of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from startup_llm.tasks.saved_model import SavedModel
from startup_llm.tasks.text_to_text.model import find_start_token

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor


class SavedTextToText(SavedModel):
    """Loaded by transformers."""

    auto_class = "AutoModelForSeq2SeqLM"
    load_code = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("REPOSITORY")
model = AutoModelForSeq2SeqLM.from_pretrained("REPOSITORY").eval()
written = model.generate(**tokenizer(["a text"], truncation=True, return_tensors="pt"))
texts = [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]"""

    def compute_scores(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return the logits of the first token to be written, shape (vocabulary,)."""
        first = batch["input_ids"].new_full((len(batch["input_ids"]), 1), find_start_token(model))
        return list(model(**batch, decoder_input_ids=first)["logits"][:, 0].float().cpu().numpy())

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> None:
        """Return None: transformers has no pipeline for encoder-decoders of text since version 5."""
