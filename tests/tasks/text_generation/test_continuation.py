"""Prompts that are continued together are continued as they would be alone."""

from __future__ import annotations

import pytest
import torch
from chat_checkpoints import build_chat_checkpoint
from conftest import DECODERS
from transformers import AutoModelForCausalLM, AutoTokenizer

from startup_llm.tasks.text_generation.continuation import PROMPTS_AT_ONCE, continue_prompts

GREEDY = {"do_sample": False, "num_beams": 1}
LENGTHS = (3, 50, 11, 58, 58, 1, 24, 60, 7)


@pytest.fixture(params=DECODERS)
def writer(request, tmp_path):
    """Return a model and its tokenizer, of at most 64 tokens together, and prompts of many lengths."""
    folder = build_chat_checkpoint(request.param, tmp_path / "base", initializer_range=1.0)
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=64)
    tokenizer.pad_token = tokenizer.eos_token
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(1, 300, (length,), generator=draw).tolist() for length in LENGTHS]
    return AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer, prompts


def test_each_is_continued_as_it_would_be_alone_up_to_its_own_end(writer):
    model, tokenizer, prompts = writer
    alone = []
    for ids in prompts:
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        room = {"max_new_tokens": min(10, 64 - len(ids)), "pad_token_id": tokenizer.pad_token_id}
        alone.append(model.generate(**inputs, **room, **GREEDY)[0, len(ids) :].tolist())
    assert len({tuple(ids) for ids in alone}) > 3
    assert continue_prompts(model, tokenizer, prompts, 10, **GREEDY) == alone
    end = alone[0][3]  # a token that ends some of them before the others
    stopped = [ids[: ids.index(end) + 1] if end in ids else ids for ids in alone]
    assert stopped != alone
    assert continue_prompts(model, tokenizer, prompts, 10, eos_token_id=end, **GREEDY) == stopped


def test_more_prompts_than_are_continued_at_once_keep_their_places(writer):
    model, tokenizer, prompts = writer
    many = [prompts[place % 3] for place in range(PROMPTS_AT_ONCE + 5)]
    written = continue_prompts(model, tokenizer, many, 2, **GREEDY)
    assert written == [written[place % 3] for place in range(len(many))]
    assert written[:3] == continue_prompts(model, tokenizer, prompts[:3], 2, **GREEDY)
