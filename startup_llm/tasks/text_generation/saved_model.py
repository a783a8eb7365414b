"""A saved language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.saved_model import SavedModel
from startup_llm.tasks.text_generation.chat import AnsweredConversations, encode_prompt, find_form
from startup_llm.tasks.text_generation.chat_templates import (
    find_end_of_turn,
    list_marked_tokens,
    render_conversation,
)
from startup_llm.tasks.text_generation.continuation import GREEDY, PROMPT_TOKENS, compute_rows, continue_prompts
from startup_llm.tasks.text_generation.messages import list_template_messages, read_messages

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

CHECKED_PROMPTS, CHECKED_TOKENS = 3, 24


class SavedLanguageModel(SavedModel):
    """Loaded by transformers."""

    auto_class = "AutoModelForCausalLM"
    compared_rows = 16  # of hundreds of tokens each, computed once in every form that was saved

    def encode_sample(self, rows: Dataset, processor: Any) -> Dataset:
        """Encode rows, and where answers are written some of their prompts."""
        encoded, form = self.task.encode(rows, processor)[0], find_form(rows.column_names)
        if isinstance(form, AnsweredConversations):
            some = rows.select(range(min(CHECKED_PROMPTS, len(rows))))
            return form.add_prompts(encoded, some, processor)[0]
        return encoded

    def compute_scores(self, model: Any, batch: dict[str, Tensor], processor: Any) -> list[np.ndarray]:
        """Return what `compute_outputs` does; of a prompt the first tokens of a turn, -1 behind its end."""

        def write(prompts: list[list[int]]) -> list[np.ndarray]:
            ends = find_end_of_turn(processor)  # a base without its adapter knows no end
            how: dict[str, Any] = {**GREEDY, "eos_token_id": ends}
            written = continue_prompts(model, processor, prompts, CHECKED_TOKENS, **how)
            return [np.array(ids + [-1] * (CHECKED_TOKENS - len(ids))) for ids in written]

        return compute_rows(model, batch, write)

    def check_pipeline(self, folder: str, rows: Dataset, outputs: Sequence[np.ndarray]) -> float:
        """Continue passages greedily by `pipeline("text-generation")` and by plain `generate`.

        Returns:
            0 where both write the same, else infinity.
        """
        import torch
        from transformers import pipeline

        write = pipeline(self.task.tag, model=folder, dtype="float32", device="cpu")
        model, tokenizer = self.load(folder).eval(), self.load_processor(folder)
        max_tokens = min(CHECKED_TOKENS, tokenizer.model_max_length // 2)
        how = {"do_sample": False, "max_new_tokens": max_tokens, "pad_token_id": tokenizer.pad_token_id}
        form = find_form(rows.column_names)
        for prompt in self._list_prompts(rows, tokenizer, max_tokens):
            if form:
                ids = torch.tensor([encode_prompt(tokenizer, read_messages(prompt), tokenizer.model_max_length)])
            else:
                ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                plain = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)[0, ids.shape[1] :]
            answer = write(prompt, return_full_text=False, **how)[0]["generated_text"]
            if answer != tokenizer.decode(plain, skip_special_tokens=True):
                return float("inf")
        return 0.0

    def _list_prompts(self, rows: Dataset, tokenizer: Any, max_tokens: int) -> list[Any]:
        """Return short prompts: the beginnings of passages, or questions of conversations."""
        if form := find_form(rows.column_names):
            room = tokenizer.model_max_length - max_tokens
            questions = [list_template_messages(asked) for asked, _, _ in form.list_questions(rows)]
            begun = [[{"role": "user", "content": asked[-1]["content"][: room // 8]}] for asked in questions]
            fitting = [q for q in questions if len(encode_prompt(tokenizer, read_messages(q), room + 1)) <= room]
            # a pipeline takes control tokens in a message's content for the template's
            return [prompt for prompt in fitting or begun if not _has_marks(tokenizer, prompt)][:CHECKED_PROMPTS]
        passages = tokenizer(rows["text"][:CHECKED_PROMPTS], add_special_tokens=False, verbose=False)["input_ids"]
        return [tokenizer.decode(ids[: min(PROMPT_TOKENS, max_tokens)]) for ids in passages]


def _has_marks(tokenizer: Any, prompt: list[dict[str, Any]]) -> bool:
    return bool(list_marked_tokens(tokenizer, render_conversation(tokenizer, read_messages(prompt), answer=True)))
