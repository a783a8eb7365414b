"""The features of an encoder, by which labels are judged."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.config import ModelConfig
from startup_llm.data.batching import split_by_length
from startup_llm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from startup_llm.models.checkpoints import Checkpoint

PACKAGED_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_MAX_LENGTH_TOKENS = 128
_TOKENS_PER_BATCH = 4096


class TextEncoder:
    """Computes one vector per text, and keeps it for texts that come again.

    Args:
        checkpoint: Where its files are.

    Raises:
        UserError: If the checkpoint is no encoder of text.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        from accelerate import PartialState
        from transformers import AutoModel

        from startup_llm.models.checkpoints import load_tokenizer
        from startup_llm.models.pretrained import load_model

        self.checkpoint = checkpoint
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(checkpoint, _MAX_LENGTH_TOKENS)
        model, _ = load_model(AutoModel, checkpoint, None, False, find_new=lambda model: ["pooler"])
        if getattr(model.config, "is_encoder_decoder", False):
            raise UserError(
                f"checkpoint {checkpoint.name} ({model.config.model_type}) reads one text to write another; expected "
                "an encoder, such as a BERT-style or sentence-transformers one"
            )
        self._model: Any = model.eval().to(PartialState().device)
        self._vectors: dict[bytes, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return the mean over the tokens of each text, cut at 128 of them; shape (texts, width), float32."""
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._vectors}
        if new:
            self._vectors |= dict(zip(new, self._compute(list(new.values())), strict=True))
        return np.stack([self._vectors[key] for key in keys])

    def _compute(self, texts: list[str]) -> np.ndarray:
        import torch

        encoded = self.tokenizer(texts, truncation=True, max_length=self.tokenizer.model_max_length)
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        vectors: np.ndarray | None = None
        with torch.inference_mode():
            for rows in split_by_length(lengths, _TOKENS_PER_BATCH):
                batch = self.tokenizer.pad(
                    {name: [values[row] for row in rows] for name, values in encoded.items()}, return_tensors="pt"
                ).to(self._model.device)
                features = self._model(**batch).last_hidden_state.float()  # (rows, tokens, width)
                mask = batch["attention_mask"].unsqueeze(-1)
                mean = ((features * mask).sum(dim=1) / mask.sum(dim=1)).cpu().numpy()
                if vectors is None:
                    vectors = np.empty((len(texts), mean.shape[1]), np.float32)
                vectors[rows] = mean
        assert vectors is not None  # there is a text
        return vectors


def load_text_encoder(name: str) -> TextEncoder:
    """Load an encoder by its name: the packaged one, a folder, or a Hub id.

    Raises:
        UserError: If there is no such checkpoint, or it is no encoder of text.
    """
    from startup_llm.models.checkpoints import load_checkpoint

    return TextEncoder(load_checkpoint(ModelConfig(checkpoint=name)))


def load_encoder_at_hand(model: ModelConfig | None) -> TextEncoder | None:
    """Load the encoder of a run's checkpoint, or the packaged one; None where neither is at hand.

    A decoder is left alone: its features take long, and tell labels apart worse.

    Args:
        model: Names the run's checkpoint; default the packaged one.
    """
    packaged = ModelConfig(checkpoint=PACKAGED_ENCODER)
    own = model if model is not None and model.checkpoint else packaged
    return _try_encoder(own) or (None if own.checkpoint == PACKAGED_ENCODER else _try_encoder(packaged))


def _try_encoder(model: ModelConfig) -> TextEncoder | None:
    from startup_llm.models.checkpoints import load_checkpoint, read_json

    try:
        checkpoint = load_checkpoint(model)
        classes = read_json(checkpoint.path / "config.json").get("architectures") or ()
        return None if any("ForCausalLM" in kind for kind in classes) else TextEncoder(checkpoint)
    except UserError:  # not installed, or no encoder
        return None
