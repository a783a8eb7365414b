"""What the blocks below the lowest adapter give for a row, computed once and kept.

Those blocks learn nothing, so that a row's hidden states after them are the same for the probe and in every epoch.
Whichever reads a row first computes and keeps them; the others begin above.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from startup_llm.models.adapters import find_block_stacks
from startup_llm.models.pretrained import list_dropouts

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from datasets import Dataset

    from startup_llm.tasks.base import Collator

ROW_NUMBER = "row_number"
"""Column of encoded training rows: the row's place, by which its states are kept."""

MOST_BYTES = 2**30


def number_rows(rows: Dataset) -> Dataset:
    """Return encoded rows with a column of their places."""
    return rows.add_column(ROW_NUMBER, np.arange(len(rows)))


class KeptStates:
    """Stands in for the lower blocks of a model, for training rows whose states are known.

    Outside of `rows` the blocks compute as ever. A part of a batch is taken from what is kept where all of its rows
    are known.

    Args:
        blocks: The lower blocks, in order.
        most_bytes: No further rows are kept beyond this.

    Attributes:
        blocks: The blocks.
        bytes: What the kept states take.
    """

    def __init__(self, blocks: Sequence[nn.Module], most_bytes: int = MOST_BYTES) -> None:
        self.blocks = tuple(blocks)
        self.bytes = 0
        self._most_bytes = most_bytes
        self._known: dict[int, Tensor] = {}
        self._numbers: list[int] | None = None
        self._lengths: list[int] = []
        self._in_tuple = False
        for place, block in enumerate(blocks):
            block.forward = functools.partial(self._forward, block.forward, place == len(blocks) - 1)

    @property
    def row_count(self) -> int:
        """The number of rows whose states are known."""
        return len(self._known)

    @contextlib.contextmanager
    def rows(self, numbers: Tensor, mask: Tensor) -> Iterator[None]:
        """Compute these rows, padded on the right, inside.

        Args:
            numbers: Their places, shape (rows,).
            mask: 1 at tokens and 0 at padding, shape (rows, length).
        """
        self._numbers, self._lengths = numbers.tolist(), mask.sum(dim=1).tolist()
        try:
            yield
        finally:
            self._numbers = None

    def _forward(self, compute: Any, last: bool, *args: Any, **kwargs: Any) -> Any:
        if self._numbers is None:
            return compute(*args, **kwargs)
        if all(number in self._known for number in self._numbers):
            hidden_states = args[0] if args else kwargs["hidden_states"]
            states = self._read(hidden_states) if last else hidden_states
            return (states,) if self._in_tuple else states
        computed = compute(*args, **kwargs)
        if last:
            self._in_tuple = isinstance(computed, tuple)
            self._keep(computed[0] if self._in_tuple else computed)
        return computed

    def _read(self, hidden_states: Tensor) -> Tensor:
        """Return the known states in the form and type of a block's input, shape (rows, length, width).

        The probe computes with weights in float32, and so keeps longer numbers than training may take.
        """
        states = torch.zeros_like(hidden_states)
        for row, number in enumerate(self._numbers):
            known = self._known[number]
            states[row, : len(known)] = known
        return states

    def _keep(self, states: Tensor) -> None:
        for row, (number, length) in enumerate(zip(self._numbers, self._lengths, strict=True)):
            kept = states[row, :length].detach().clone()
            if number not in self._known and self.bytes + kept.nbytes <= self._most_bytes:
                self._known[number] = kept
                self.bytes += kept.nbytes


def use_kept_states(kept_states: KeptStates | None, batch: dict[str, Tensor]) -> AbstractContextManager:
    """Take a batch's row numbers out of it; within, blocks that learn nothing give what was kept for the rows."""
    numbers = batch.pop(ROW_NUMBER, None)
    if numbers is None:
        return contextlib.nullcontext()
    ids = batch["input_ids"]
    return kept_states.rows(numbers, batch.get("attention_mask", ids.new_ones(ids.shape)))


class NumberedCollator:
    """Makes batches as another collator does, and puts the rows' numbers beside them."""

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the other collator's batch and, where rows have numbers, `row_number`, shape (rows,)."""
        if ROW_NUMBER not in rows[0]:
            return self._collator(rows)
        numbers = torch.tensor([row[ROW_NUMBER] for row in rows])
        batch = self._collator([{name: row[name] for name in row if name != ROW_NUMBER} for row in rows])
        return {**batch, ROW_NUMBER: numbers}


def find_lower_blocks(model: nn.Module, learning: Sequence[str]) -> list[nn.Module]:
    """Return the blocks below the lowest that learns; none where something before them does, or drops at random.

    Args:
        model: A model, before its adapter.
        learning: Full names of the modules that will learn.
    """
    stacks = find_block_stacks(model)
    if len(stacks) != 1:
        return []
    named, blocks = dict(model.named_modules()), model.get_submodule(stacks[0])
    first = next(name for name in named if name in learning)  # in the order in which they are computed
    if not first.startswith(f"{stacks[0]}."):
        return []
    lowest = int(first.removeprefix(f"{stacks[0]}.").partition(".")[0])
    before = itertools.takewhile(lambda module: module is not blocks[lowest], named.values())
    drops = any(getattr(module, name) > 0 for module in before for name in list_dropouts(module))
    return [] if drops else list(blocks[:lowest])
