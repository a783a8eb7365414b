"""Encoder-decoders from random weights: Vaswani et al.'s transformer and a T5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.reference_models import ReferenceModels
from startup_llm.tasks.text_to_text.model import build_scratch_t5, find_most_tokens
from startup_llm.tasks.text_to_text.options import ScratchEncoderDecoder, ScratchT5

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from startup_llm.config import ScratchModelConfig
    from startup_llm.data.task_data import TaskData


class TextToTextModels(ReferenceModels):
    """transformer and t5."""

    def build(
        self, data: TaskData, model: ScratchModelConfig, attention_kernel: str
    ) -> tuple[PreTrainedTokenizerBase, TaskModel]:
        """Return a tokenizer of both sides of the training split, and an `EncoderDecoder` or a T5.

        Raises:
            UserError: If another model is asked for.
        """
        from startup_llm.models.scratch.text_to_text import build_text_to_text_transformer, train_shared_tokenizer

        if not isinstance(model, (ScratchEncoderDecoder, ScratchT5)):
            return super().build(data, model, attention_kernel)
        if model.tokenizer == "bpe":
            train = data.splits["train"]
            texts = [*train["text"], *train["target"]]
            tokenizer = train_shared_tokenizer(texts, model.vocab_size, model.max_length_tokens)
            note = f"bpe tokenizer of {len(tokenizer):,} tokens, trained on the training split alone"
        else:
            from transformers import ByT5Tokenizer

            tokenizer, note = ByT5Tokenizer(model_max_length=model.max_length_tokens), "a token per byte"
        if isinstance(model, ScratchT5):
            network = build_scratch_t5(tokenizer, model, attention_kernel)
        else:
            network = build_text_to_text_transformer(
                tokenizer,
                model.layers,
                width=model.width,
                heads=model.heads,
                inner_width=model.inner_width,
                dropout=model.dropout,
                label_smoothing=model.label_smoothing,
                beams=model.beams,
                kernel=attention_kernel,
            )
        return tokenizer, TaskModel(network, notes=(note,))

    def save(self, model: Any, processor: Any, data: TaskData, folder: Path) -> None:
        """Write the encoder-decoder in Pegasus's format, a T5 in its own, with its tokenizer.

        It will write at most twice as many tokens as the longest training target has.
        """
        from startup_llm.models.scratch.formats import save_encoder_decoder
        from startup_llm.models.scratch.transformer import EncoderDecoder

        max_tokens = find_most_tokens(processor, data)
        if isinstance(model, EncoderDecoder):
            save_encoder_decoder(model, folder, max_tokens)
        else:
            model.generation_config.max_new_tokens = max_tokens
            model.save_pretrained(folder)
        processor.save_pretrained(folder)
