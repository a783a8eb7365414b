"""A checkpoint as a sentence encoder: one vector per text, saved so that sentence-transformers loads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.models.checkpoints import read_json
from startup_llm.models.pretrained import load_model, set_dropout
from startup_llm.models.sequence_classifier import read_sentence_pooling
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from startup_llm.models.checkpoints import Checkpoint

POOLINGS = ("mean", "cls", "last")
SIMILARITY_SCALE = 20.0
"""Factor of a cosine before a softmax or a logarithm, as sentence-transformers has it."""


@dataclass(frozen=True)
class SentenceProcessor:
    """A tokenizer with what makes one vector of a text's tokens; what is saved of it is sentence-transformers' own.

    Attributes:
        tokenizer: The checkpoint's.
        pooling: mean over the tokens, cls (the first one) or last.
        normalize: Whether the vector is scaled to norm 1.
        width: Of the vector.
    """

    tokenizer: PreTrainedTokenizerBase
    pooling: str
    normalize: bool
    width: int

    @property
    def model_max_length(self) -> int:
        """Most tokens of a text."""
        return self.tokenizer.model_max_length

    def save_pretrained(self, folder: str | Path, **arguments: Any) -> None:
        """Write the tokenizer, and the files by which `SentenceTransformer(folder)` makes the same vectors.

        The names of the modules are those that every version of sentence-transformers reads.
        """
        folder = Path(folder)
        self.tokenizer.save_pretrained(folder, **arguments)
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *[("2_Normalize", "Normalize")] * self.normalize]
        described = [
            {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{name}"}
            for place, (path, name) in enumerate(modules)
        ]
        modes = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}
        pooling = {"word_embedding_dimension": self.width}
        pooling |= {f"pooling_mode_{mode}": name == self.pooling for name, mode in modes.items()}
        _write_json(folder / "modules.json", described)
        _write_json(folder / "sentence_bert_config.json", {"max_seq_length": self.model_max_length})
        _write_json(folder / "1_Pooling" / "config.json", pooling)

    def pool(self, features: Tensor, attention_mask: Tensor) -> Tensor:
        """Make one vector per text.

        Args:
            features: Of the tokens, padded on the right, shape (texts, tokens, width).
            attention_mask: 1 at real tokens, shape (texts, tokens).

        Returns:
            float32, shape (texts, width).
        """
        import torch

        features, mask = features.float(), attention_mask.unsqueeze(-1).float()
        if self.pooling == "mean":
            pooled = (features * mask).sum(dim=1) / mask.sum(dim=1)
        elif self.pooling == "cls":
            pooled = features[:, 0]
        else:
            last = attention_mask.sum(dim=1) - 1
            pooled = features[torch.arange(len(features), device=features.device), last]
        return torch.nn.functional.normalize(pooled) if self.normalize else pooled


def load_sentence_processor(folder: Path, name: str, tokenizer: PreTrainedTokenizerBase, asked: str = "auto"):
    """Return a tokenizer with the pooling that a checkpoint's files say; without such files the normalized mean.

    Args:
        folder: Of the checkpoint.
        name: Of the checkpoint, for an error.
        tokenizer: Its tokenizer.
        asked: auto, or a pooling to use in place of the checkpoint's.

    Raises:
        UserError: If the checkpoint makes its vectors in a way that is not known here.
    """
    config = read_json(folder / "config.json")
    adapter = read_json(folder / "adapter_config.json")
    modules = read_json(folder / "modules.json")
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules] if isinstance(modules, list) else []
    if further := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise UserError(f"{name} has a module {further[0]} behind its pooling, which cannot be trained here")
    trained = read_sentence_pooling(folder)
    if kinds and asked == "auto" and trained not in POOLINGS:
        raise UserError(f"{name} pools its tokens otherwise than by {', '.join(POOLINGS)}; choose another one")
    if asked not in ("auto", *POOLINGS):
        raise UserError(f"model.pooling {asked}: a sentence's vector is made by one of auto, {', '.join(POOLINGS)}")
    width = read_json(folder / "1_Pooling" / "config.json").get("word_embedding_dimension") if adapter else None
    width = width or config.get("hidden_size") or config.get("dim") or config.get("n_embd") or config.get("d_model")
    pooling = asked if asked != "auto" else trained or "mean"
    return SentenceProcessor(tokenizer, pooling, "Normalize" in kinds or not kinds, width)


def build_sentence_encoder(
    checkpoint: Checkpoint,
    processor: SentenceProcessor,
    *,
    dropout: float = 0.0,
    attention_kernel: str | None = None,
    trust_remote_code: bool = False,
) -> TaskModel:
    """Load a checkpoint without a head.

    Args:
        checkpoint: Where its files are.
        processor: Its tokenizer and pooling.
        dropout: Dropout inside the checkpoint.
        attention_kernel: eager, sdpa, flash_attention_2; default what transformers picks.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the checkpoint is no encoder or decoder of text.
    """
    from transformers import AutoModel

    model, loaded = load_model(
        AutoModel, checkpoint, attention_kernel, trust_remote_code, find_new=lambda model: ["pooler"]
    )
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(
            f"checkpoint {checkpoint.name} ({model.config.model_type}) reads one text to write another; "
            "choose a BERT-style checkpoint or a sentence-transformers one"
        )
    set_dropout(model, dropout)
    notes = [*loaded.notes, f"one vector of {processor.width} numbers per text: {processor.pooling} pooling"]
    if not (checkpoint.path / "modules.json").is_file():
        notes.append(f"{checkpoint.name} was not trained to compare texts: without tuning it may do so badly")
    unread = ("pooler",) if getattr(model, "pooler", None) is not None else ()  # the loss does not reach it
    return TaskModel(
        model, pooling=processor.pooling, constant_modules=unread, notes=tuple(notes), answers_untuned=True
    )


def compute_ranking_loss(queries: Tensor, documents: Tensor, groups: Tensor) -> Tensor:
    """Return the multiple negatives ranking loss (Henderson et al. 2017; InfoNCE): each query's own document first.

    All other documents of the batch are its negatives, except those of the same group as its own document and those
    that belong to an equal query.

    Args:
        queries: Shape (rows, width).
        documents: The positives of the rows, then, where there are, their negatives; shape (rows or 2 rows, width).
        groups: Per row the group of the query, of its positive and, where there is one, of its negative; int64.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize

    rows = len(queries)
    scores = SIMILARITY_SCALE * normalize(queries) @ normalize(documents).T  # (rows, documents)
    document_groups = groups[:, 1:].T.reshape(-1)  # positives, then negatives
    alike = groups[:, 1:2] == document_groups
    alike[:, :rows] |= groups[:, :1] == groups[:, 0]
    own = torch.arange(rows, device=scores.device)
    alike[own, own] = False
    return cross_entropy(scores.masked_fill(alike, float("-inf")), own)


def compute_cosent_loss(left: Tensor, right: Tensor, scores: Tensor) -> Tensor:
    """Return the CoSENT loss (Su 2022): a pair with a higher score has a higher cosine than one with a lower score.

    It is log(1 + sum exp(20 (cos_j - cos_i))) over the pairs of rows whose scores are score_i > score_j.

    Args:
        left: First texts' vectors, shape (rows, width).
        right: Second texts' vectors, shape (rows, width).
        scores: How alike they are, shape (rows,).
    """
    import torch
    from torch.nn.functional import cosine_similarity

    cosines = SIMILARITY_SCALE * cosine_similarity(left, right)
    differences = cosines[None, :] - cosines[:, None]  # [i, j]: cos_j - cos_i
    ordered = differences[scores[:, None] > scores[None, :]]
    return torch.logsumexp(torch.cat([ordered.new_zeros(1), ordered]), dim=0)


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
