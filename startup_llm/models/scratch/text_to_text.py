"""The encoder-decoder from scratch that writes a text for a text: its tokenizer, and how it is built from values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from startup_llm.models.scratch.checks import check_at_least
from startup_llm.models.scratch.transformer import EncoderDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")


def train_shared_tokenizer(texts: Iterable[str], vocab_size: int, max_length_tokens: int) -> PreTrainedTokenizerFast:
    """Train one byte-level BPE tokenizer for texts and targets (Sennrich et al. 2016, section 3.2: joint BPE).

    It keeps case and punctuation, and ends every text with `</s>`.

    Args:
        texts: What it may learn from: both sides of the training split, nothing else.
        vocab_size: Largest number of tokens, special ones included.
        max_length_tokens: Its `model_max_length`.

    Raises:
        UserError: if there is no room for the bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    check_at_least(len(SPECIAL_TOKENS) + len(alphabet), vocab_size=vocab_size)
    pad, start, end = SPECIAL_TOKENS
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length_tokens,
        model_input_names=["input_ids", "attention_mask"],
        pad_token=pad,
        bos_token=start,
        eos_token=end,
    )


def build_text_to_text_transformer(tokenizer: PreTrainedTokenizerFast, layers: int, **sizes: Any) -> EncoderDecoder:
    """Build a pre-norm `EncoderDecoder` over a shared tokenizer's ids, as many layers on either side.

    Args:
        tokenizer: Gives the number of ids and of positions, and the special tokens.
        layers: Blocks of the encoder, and of the decoder.
        sizes: Further arguments of `EncoderDecoder`.
    """
    return EncoderDecoder(
        len(tokenizer),
        encoder_layers=layers,
        decoder_layers=layers,
        max_length_tokens=tokenizer.model_max_length,
        norm="pre",
        start_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
