"""A pretrained checkpoint with a classifier on each token, in its architecture's own class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_tokenizer
from startup_llm.models.pretrained import (
    find_head_modules,
    load_config_for,
    load_labelled_model,
    set_dropout,
)
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.tasks.token_classification.options import TokenClassificationModel


def load_word_tokenizer(checkpoint: Checkpoint, model: TokenClassificationModel) -> PreTrainedTokenizerBase:
    """Load a tokenizer that cuts sentences given as words, and tells which word a token is of.

    Byte-level ones (RoBERTa, GPT-2, ModernBERT) mark a word that follows a blank; each word is to be one.

    Raises:
        UserError: If the checkpoint has no fast tokenizer, which alone tells the words.
    """
    tokenizer = load_tokenizer(checkpoint, model.max_length_tokens, model.trust_remote_code)
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of {checkpoint.name} does not tell which word a token is of; choose a checkpoint with "
            "tokenizer.json"
        )
    if _prefix_blanks(tokenizer.backend_tokenizer.pre_tokenizer):
        tokenizer.add_prefix_space = True
        tokenizer.init_kwargs["add_prefix_space"] = True
    return tokenizer


def _prefix_blanks(pre_tokenizer: Any) -> bool:
    """Let byte-level tokens of each word begin with a blank; say whether there was one to change."""
    from tokenizers import pre_tokenizers

    if isinstance(pre_tokenizer, pre_tokenizers.ByteLevel):
        pre_tokenizer.add_prefix_space = True
        return True
    if isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        return sum(map(_prefix_blanks, pre_tokenizer)) > 0  # every part of it
    return False


def build_token_classifier(
    checkpoint: Checkpoint,
    *,
    label_names: tuple[str, ...],
    dropout: float = 0.0,
    attention_kernel: str | None = None,
    trust_remote_code: bool = False,
) -> TaskModel:
    """Load a checkpoint and put a classifier of its own kind on each token.

    Args:
        checkpoint: Where its files are.
        label_names: Names of the tags.
        dropout: Dropout inside the checkpoint.
        attention_kernel: eager, sdpa, flash_attention_2; default what transformers picks.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the architecture has no token classifier.
    """
    from transformers import AutoModelForTokenClassification

    config = load_config_for(
        AutoModelForTokenClassification,
        checkpoint,
        trust_remote_code,
        lacks="has no token classifier",
        choose="a BERT-, RoBERTa- or DeBERTa-style checkpoint",
    )
    model, loaded, arguments = load_labelled_model(
        AutoModelForTokenClassification, checkpoint, config, label_names, attention_kernel, trust_remote_code
    )
    set_dropout(model, dropout)
    heads = find_head_modules(model, loaded.new)
    return TaskModel(model, head_modules=heads, load_arguments=arguments, notes=loaded.notes)
