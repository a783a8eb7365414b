"""A language model from random weights: a GPT of characters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.models.task_model import TaskModel
from startup_llm.tasks.reference_models import ReferenceModels
from startup_llm.tasks.text_generation.chat import find_form
from startup_llm.tasks.text_generation.options import ScratchGpt
from startup_llm.tasks.text_generation.running_text import train_character_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from startup_llm.config import ScratchModelConfig
    from startup_llm.data.task_data import TaskData


class LanguageModels(ReferenceModels):
    """gpt."""

    def build(
        self, data: TaskData, model: ScratchModelConfig, attention_kernel: str
    ) -> tuple[PreTrainedTokenizerBase, TaskModel]:
        """Return a tokenizer of the training split's characters and a `Decoder`.

        Raises:
            UserError: If another model is asked for, or the rows are conversations.
        """
        from startup_llm.models.scratch.transformer import Decoder

        if not isinstance(model, ScratchGpt):
            return super().build(data, model, attention_kernel)
        if find_form(data.splits["train"].column_names):
            columns = data.splits["train"].column_names
            raise UserError(
                f"the rows hold {', '.join(columns)}: a model from scratch learns running text alone; pretrain it on "
                "text, then tune it with recipes/finetune.py"
            )
        tokenizer = train_character_tokenizer(data.splits["train"]["text"], model.max_length_tokens)
        decoder = Decoder(
            len(tokenizer),
            width=model.width,
            heads=model.heads,
            layers=model.layers,
            inner_width=model.inner_width,
            max_length_tokens=model.max_length_tokens,
            dropout=model.dropout,
            kernel=attention_kernel,
        )
        note = f"a token per character: {len(tokenizer):,} tokens, from the training split alone"
        return tokenizer, TaskModel(decoder, notes=(note,))

    def save(self, model: Any, processor: Any, data: TaskData, folder: Path) -> None:
        """Write the decoder in GPT-2's format, with its tokenizer."""
        from startup_llm.models.scratch.formats import save_decoder

        save_decoder(model, folder, eos_token_id=processor.eos_token_id, pad_token_id=processor.pad_token_id)
        processor.save_pretrained(folder)
