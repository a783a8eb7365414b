"""Continuing prompts with a language model, several at once."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

MOST_WRITTEN_TOKENS = 200
"""So many tokens are written by a model that says no number itself."""
ANSWER_LIMIT = "max_answer_tokens"
"""Key of a chat model's config: how many tokens it writes where its generation config says no number."""
PROMPTS_AT_ONCE = 32
PROMPT_TOKENS = 16
"""Tokens of a passage that are continued to show what a model writes."""
GREEDY = {"do_sample": False, "num_beams": 1}
_HEADS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""Model -> its output layer, where its outputs are the logits."""
IS_PROMPT = "is_prompt"
"""Column of encoded rows: 1 where the model is to write what follows, 0 where its tokens are predicted."""


def continue_prompts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | None = None,
    **how: Any,
) -> list[list[int]]:
    """Return the tokens that a model writes after each prompt, the one that ends the text among them.

    Prompts with the same room behind them are continued together, padded on the left: the mask hides the padding and
    positions are counted behind it, so that each is continued as it would be alone.

    Args:
        model: A causal language model, perhaps with an adapter.
        tokenizer: Tells the padding and the longest text, prompt and continuation together.
        prompts: Token ids of each, fewer than the longest text has.
        max_new_tokens: Most tokens to be written; default what the model's generation config says, or its config.
        **how: Further arguments of `generate`, before those of the generation config.
    """
    import torch

    own = model.generation_config.max_new_tokens or getattr(model.config, ANSWER_LIMIT, None)
    max_new_tokens = max_new_tokens or own or MOST_WRITTEN_TOKENS
    rooms = [max(1, min(max_new_tokens, tokenizer.model_max_length - len(ids))) for ids in prompts]
    order = sorted(range(len(prompts)), key=lambda place: (rooms[place], len(prompts[place])))
    ends = how.get("eos_token_id", model.generation_config.eos_token_id)
    written: list[list[int]] = [[]] * len(prompts)
    for room, group in itertools.groupby(order, key=rooms.__getitem__):
        places = list(group)
        for start in range(0, len(places), PROMPTS_AT_ONCE):
            chosen = places[start : start + PROMPTS_AT_ONCE]
            longest = max(len(prompts[place]) for place in chosen)
            padding = [longest - len(prompts[place]) for place in chosen]
            ids = [
                [tokenizer.pad_token_id] * n + list(prompts[place]) for n, place in zip(padding, chosen, strict=True)
            ]
            mask = torch.arange(longest) >= torch.tensor(padding)[:, None]
            generated = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=mask.long().to(model.device),
                max_new_tokens=room,
                pad_token_id=tokenizer.pad_token_id,
                **how,
            )[:, longest:]
            for place, tokens in zip(chosen, generated.tolist(), strict=True):
                written[place] = _cut_behind_end(tokens, ends)
    return written


def _cut_behind_end(tokens: list[int], ends: int | list[int] | None) -> list[int]:
    """Leave away what pads a text that ended before the others."""
    marks = ends if isinstance(ends, list) else [ends]
    stop = next((place for place, token in enumerate(tokens) if token in marks), len(tokens))
    return tokens[: stop + 1]


def write_texts(model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], **how: Any) -> list[str]:
    """Return what a model writes after each prompt, as text; see `continue_prompts`."""
    written = continue_prompts(model, tokenizer, prompts, **how)
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]


def list_tokens(batch: dict[str, Tensor]) -> list[list[int]]:
    """Return the token ids of each row of a batch, without what pads it."""
    return [row[:length] for row, length in zip(batch["input_ids"].tolist(), count_tokens(batch), strict=True)]


def count_tokens(batch: dict[str, Tensor]) -> list[int]:
    """Return the number of tokens of each row of a batch, without what pads it."""
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    return mask.sum(dim=1).tolist() if mask is not None else [ids.shape[1]] * len(ids)


def compute_rows(
    model: Any, batch: dict[str, Tensor], write: Callable[[list[list[int]]], list[np.ndarray]]
) -> list[np.ndarray]:
    """Return the nats of the rows that are no prompts, and what is written after those that are."""
    batch = dict(batch)
    prompts = batch.pop(IS_PROMPT, None)
    if prompts is None:
        return compute_nats(model, batch)
    outputs: list[Any] = [None] * len(prompts)
    for is_prompt, compute in (
        (0, lambda rows: compute_nats(model, rows)),
        (1, lambda rows: write(list_tokens(rows))),
    ):
        places = (prompts == is_prompt).nonzero()[:, 0]
        if len(places):
            computed = compute({name: values[places] for name, values in batch.items()})
            for place, output in zip(places.tolist(), computed, strict=True):
                outputs[place] = output
    return outputs


def compute_nats(model: Any, batch: dict[str, Tensor]) -> list[np.ndarray]:
    """Return -log P of each token of a row given those before it, shape (tokens - 1,)."""
    from startup_llm.models import language_model_head

    targets = batch["input_ids"][:, 1:]
    if model not in _HEADS:
        _HEADS[model] = language_model_head.find_plain_head(model)
    if (head := _HEADS[model]) is None:
        log_p = model(**batch)["logits"][:, :-1].float().log_softmax(-1)
        nats = -log_p.gather(-1, targets[..., None])[..., 0]
    else:  # no logits of all tokens at once
        states = language_model_head.compute_states(model, head, batch)[:, :-1]
        flat = language_model_head.compute_nats(states.flatten(0, 1), head, targets.flatten())
        nats = flat.view_as(targets)
    nats = nats.cpu().numpy()
    return [row[: length - 1] for row, length in zip(nats, count_tokens(batch), strict=True)]
