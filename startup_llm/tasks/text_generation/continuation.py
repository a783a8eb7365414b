"""Continuing prompts with a language model, several at once."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from startup_llm.data.batching import IS_PROMPT

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
GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1}
_HEADS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""Model -> its output layer, where its outputs are the logits."""


def continue_prompts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
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
        stop: Texts that end a continuation, whose tokens are returned too.
        **how: Further arguments of `generate`, before those of the generation config.
    """
    import torch

    own = model.generation_config.max_new_tokens or getattr(model.config, ANSWER_LIMIT, None)
    max_new_tokens = max_new_tokens or own or MOST_WRITTEN_TOKENS
    rooms = [max(1, min(max_new_tokens, tokenizer.model_max_length - len(ids))) for ids in prompts]
    order = sorted(range(len(prompts)), key=lambda place: (rooms[place], len(prompts[place])))
    stopping = {"stop_strings": list(stop), "tokenizer": tokenizer} if stop else {}
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
                **stopping,
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


def write_texts(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], stop: Sequence[str] = (), **how: Any
) -> list[str]:
    """Return what a model writes after each prompt, as text; see `continue_prompts`.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: Token ids of each.
        stop: Texts at which it stops; what is returned ends before them.
        **how: Further arguments of `generate`.
    """
    written = continue_prompts(model, tokenizer, prompts, stop=stop, **how)
    return [cut_at_stop(tokenizer.decode(ids, skip_special_tokens=True), stop) for ids in written]


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return a text up to the first of the stop texts in it."""
    places = [place for mark in stop if (place := text.find(mark)) >= 0]
    return text[: min(places)] if places else text


class ShownText:
    """Shows what a model writes as it writes it, but for what may become a stop text.

    Args:
        write: Takes the pieces.
        stop: Texts at which the model stops.
        strip: Leave out the white space around the text.
    """

    def __init__(self, write: Callable[[str], object], stop: Sequence[str], *, strip: bool = False) -> None:
        self._write, self._stop, self._strip = write, stop, strip
        self._kept_back = max(map(len, stop), default=1) - 1
        self._text, self._shown = "", 0

    def add(self, text: str, *, ends: bool) -> None:
        """Show the next piece."""
        self._text += text
        whole = cut_at_stop(self._text, self._stop)
        stop = len(whole) if ends or len(whole) < len(self._text) else len(whole) - self._kept_back
        visible = whole[: max(stop, 0)]
        visible = visible.strip() if self._strip else visible
        if len(visible) > self._shown:
            self._write(visible[self._shown :])
            self._shown = len(visible)


def build_streamer(
    tokenizer: PreTrainedTokenizerBase, write: Callable[[str], object], stop: Sequence[str], *, strip: bool = False
) -> Any:
    """Return what `generate` tells the tokens of one text as it writes them."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def __init__(self) -> None:
            super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
            self.shown = ShownText(write, stop, strip=strip)

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.shown.add(text, ends=stream_end)

    return Streamer()


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
