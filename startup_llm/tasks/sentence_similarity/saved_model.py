"""A saved sentence encoder, in the format of sentence-transformers."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.saved_model import SavedModel
from startup_llm.tasks.sentence_similarity.model import SentenceProcessor, load_sentence_processor
from startup_llm.tasks.sentence_similarity.rows import TEXT_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel


class SavedSentenceEncoder(SavedModel):
    """Loaded by sentence-transformers, or by transformers with the pooling that its files describe."""

    auto_class = "AutoModel"
    library = "sentence-transformers"
    load_code = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("REPOSITORY")
scores = model.similarity(model.encode(["a query"]), model.encode(["a text", "another text"]))"""

    def compute_exported(self, model: Any, inputs: Mapping[str, Tensor], processor: SentenceProcessor) -> Tensor:
        """Return the texts' vectors, pooled, shape (rows, width)."""
        return processor.pool(model(**inputs).last_hidden_state, inputs["attention_mask"])

    def load_processor(self, path: str) -> SentenceProcessor:
        """Load what was saved beside a model or an adapter."""
        return load_sentence_processor(Path(path), path, super().load_processor(path))

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Compare vectors with `SentenceTransformer(folder)`, or what its files say where that is missing."""
        columns = [list(rows[name]) for name in TEXT_COLUMNS if name in rows.column_names]
        if importlib.util.find_spec("sentence_transformers"):
            from sentence_transformers import SentenceTransformer

            encoder = SentenceTransformer(folder, device="cpu")
            vectors = [encoder.encode(texts, show_progress_bar=False) for texts in columns]
        else:
            vectors = [_encode_plainly(folder, texts) for texts in columns]
        return float(np.abs(np.concatenate(vectors, axis=1) - np.asarray(outputs)).max())

    def load(self, path: str, **arguments: Any) -> PreTrainedModel:
        """Load with `AutoModel`; a pooler that the files lack is not read, so it is not missed."""
        loaded = super().load(path, **arguments)
        if isinstance(loaded, tuple):
            loaded[1]["missing_keys"] = {key for key in loaded[1]["missing_keys"] if "pooler." not in key}
        return loaded


def _encode_plainly(folder: str, texts: list[str]) -> np.ndarray:
    """Return the vectors that a folder's own files describe, one text at a time, so that nothing is padded."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    modules = json.loads((Path(folder) / "modules.json").read_text(encoding="utf-8"))
    modes = json.loads((Path(folder) / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype="float32").eval()
    vectors = []
    with torch.inference_mode():
        for text in texts:
            states = model(**tokenizer(text, truncation=True, return_tensors="pt")).last_hidden_state[0]
            means = modes["pooling_mode_mean_tokens"]
            vector = states.mean(dim=0) if means else states[0 if modes["pooling_mode_cls_token"] else -1]
            vectors.append((vector / vector.norm() if len(modules) == 3 else vector).numpy())
    return np.stack(vectors)
