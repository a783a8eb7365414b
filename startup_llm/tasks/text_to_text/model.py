"""Encoder-decoders of texts as their architectures' own classes have them: pretrained, or with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError, nearest
from startup_llm.models.pretrained import load_config, load_model, set_dropout
from startup_llm.models.scratch.checks import check_heads
from startup_llm.models.task_model import TaskModel

if TYPE_CHECKING:
    from startup_llm.data.task_data import TaskData
    from startup_llm.models.checkpoints import Checkpoint
    from startup_llm.tasks.text_to_text.options import ScratchT5

MOST_MEASURED_TARGETS = 1_000
"""So many of the longest training targets tell how much is written at most."""


def build_sequence_to_sequence(
    checkpoint: Checkpoint, processor: Any, *, dropout: float, attention_kernel: str | None, trust_remote_code: bool
) -> TaskModel:
    """Load a T5-, BART- or Marian-style checkpoint, or one of many languages that begins with the wanted one's token.

    Args:
        checkpoint: Where its files are.
        processor: Its tokenizer, with `set_languages`.
        dropout: Dropout inside the checkpoint.
        attention_kernel: eager, sdpa, flash_attention_2; where the architecture lacks it, its own choice.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the checkpoint is no encoder-decoder, or lacks weights.
    """
    from transformers import AutoModelForSeq2SeqLM

    config = load_config(checkpoint, trust_remote_code)
    if not config.is_encoder_decoder:
        raise UserError(
            f"checkpoint {checkpoint.name} is of type {config.model_type}, without a decoder that reads an encoder; "
            "choose a T5-, BART- or Marian-style checkpoint"
        )
    remedy = "choose one with its output layer"
    model, loaded = load_model(AutoModelForSeq2SeqLM, checkpoint, attention_kernel, trust_remote_code, remedy=remedy)
    set_dropout(model, dropout)
    if language := getattr(processor, "tgt_lang", None):
        token = _find_language_token(processor, language, "language")
        if processor(text_target="a")["input_ids"][0] == token:  # NLLB, M2M-100, mBART-50
            model.generation_config.forced_bos_token_id = token
        else:  # mBART, whose texts end with it
            model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = token
    return TaskModel(model, notes=loaded.notes, answers_untuned=True)


def set_languages(tokenizer: Any, source: str | None, target: str | None) -> None:
    """Tell a tokenizer of many languages which one is read and which one is written; it saves them with itself.

    Args:
        tokenizer: A checkpoint's.
        source: Its name of the language of the texts; None where it knows already.
        target: Its name of the language of what is written.

    Raises:
        UserError: If it needs them and has none, knows no such language, or knows one pair alone.
    """
    if not hasattr(tokenizer, "tgt_lang"):
        for option, language in (("source_language", source), ("language", target)):
            if language is not None:
                raise UserError(f"model.{option} {language}: the checkpoint knows one pair of languages; leave it out")
        return
    if target is None and tokenizer.tgt_lang is None:
        raise UserError(
            "the checkpoint knows many languages; name yours: --model.source_language eng_Latn "
            "--model.language deu_Latn (NLLB's names), or en and de (M2M-100's)"
        )
    for option, language, attribute in (("source_language", source, "src_lang"), ("language", target, "tgt_lang")):
        if language is not None:
            _find_language_token(tokenizer, language, option)
            setattr(tokenizer, attribute, language)
            tokenizer.init_kwargs[attribute] = language


def _find_language_token(tokenizer: Any, language: str, option: str) -> int:
    names = getattr(tokenizer, "lang_code_to_token", None) or {
        token: token for token in tokenizer.all_special_tokens if token.strip("<>") == token
    }
    if language not in names:
        raise UserError(f"model.{option}: the checkpoint knows no language {language}{nearest(language, names)}")
    return tokenizer.convert_tokens_to_ids(names[language])


def build_scratch_t5(tokenizer: Any, model: ScratchT5, attention_kernel: str | None) -> Any:
    """Return a small T5 with random weights (Raffel et al. 2020).

    Args:
        tokenizer: Gives the number of ids and of positions, and the special tokens.
        model: Width, layers of encoder and decoder each, heads, dropout, beams.
        attention_kernel: eager or sdpa; where T5 lacks it, its own choice.
    """
    from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

    check_heads(model.width, model.heads)
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    tokens["decoder_start_token_id"] = tokenizer.pad_token_id  # as all T5s have it
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=model.width,
        d_kv=model.width // model.heads,
        d_ff=model.inner_width or 4 * model.width,
        num_layers=model.layers,
        num_heads=model.heads,
        dropout_rate=model.dropout,
        **tokens,
    )
    try:
        network = T5ForConditionalGeneration._from_config(config, attn_implementation=attention_kernel)
    except ValueError:
        network = T5ForConditionalGeneration._from_config(config)
    network.generation_config = GenerationConfig(**tokens, num_beams=model.beams)
    return network


def find_start_token(model: Any) -> int:
    """Return the id that stands before the first token to be written."""
    if hasattr(model, "start_token_id"):  # from scratch
        return model.start_token_id
    start = model.config.decoder_start_token_id
    return model.config.bos_token_id if start is None else start


def find_most_tokens(processor: Any, data: TaskData) -> int:
    """Return twice the tokens of the longest training target, looked for among those of the most characters."""
    limit = processor.model_max_length
    targets = sorted(data.splits["train"]["target"], key=len)[-MOST_MEASURED_TARGETS:]
    encoded = processor(text_target=targets, truncation=True, max_length=limit)
    return min(2 * max(map(len, encoded["input_ids"])), limit)
