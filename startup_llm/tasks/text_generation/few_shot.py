"""Training rows with their answers before a prompt: what a model that is prompted, not tuned, is shown."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.tasks.text_generation.chat import encode_prompt, read_arguments
from startup_llm.tasks.text_generation.conversations import replace_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from startup_llm.data.task_data import TaskData
    from startup_llm.tasks.text_generation.messages import Messages

OPENING_ROLES = ("system", "developer")


def add_examples(
    data: TaskData, processor: PreTrainedTokenizerBase, model: Any, count: int, seed: int
) -> tuple[TaskData, PreTrainedTokenizerBase]:
    """Put training conversations before each test conversation, as many as leave room for an answer.

    They open with the row's own system message, or are any where no training row does: an answer to a customer is no
    example of how a message is routed. Rows with the same opening get the same examples.

    Args:
        data: Rows with messages and answer.
        processor: The model's tokenizer, limited to the longest text to train on.
        model: Its config says how long a text may be.
        count: Number of examples.
        seed: Draws them.

    Returns:
        The data with the longer test rows, in which the turns of the examples are not measured; and a tokenizer that
        is limited by the model alone.
    """
    import datasets

    longer = copy.deepcopy(processor)
    positions = getattr(model.config, "max_position_embeddings", None)
    longer.model_max_length = positions or processor.model_max_length
    train, test = data.splits["train"], data.splits["test"]
    drawn = train.select(np.random.default_rng(seed).permutation(len(train)))["messages"]
    examples: list[Messages] = []
    alike: dict[str, list[Messages]] = {}
    for messages in drawn:
        opening, rest = _split_opening(messages)
        examples.append([{**message, "learn": False} for message in rest])
        alike.setdefault(str(opening), []).append(examples[-1])
    changed = []
    for row in test:
        opening, rest = _split_opening(row["messages"])
        own = alike.get(str(opening), examples)[:count]
        changed.append({**row, "messages": _fit_examples(longer, row, opening, rest, own)})
    splits = {**data.splits, "test": replace_messages(test, changed, ["messages"])}
    return replace(data, splits=datasets.DatasetDict(splits)), longer


def _split_opening(messages: Messages) -> tuple[Messages, Messages]:
    """Return the messages before the first turn, and the others."""
    turns = (place for place, message in enumerate(messages) if message["role"] not in OPENING_ROLES)
    start = next(turns, len(messages))
    return messages[:start], messages[start:]


def _fit_examples(
    processor: PreTrainedTokenizerBase,
    row: dict[str, Any],
    opening: Messages,
    rest: Messages,
    examples: Sequence[Messages],
) -> Messages:
    """Return a row's conversation behind as many examples as half of the longest text holds with its prompt."""
    for count in range(len(examples), 0, -1):
        longer = [*opening, *(message for shown in examples[:count] for message in shown), *rest]
        prompt = encode_prompt(processor, longer[:-1], arguments=read_arguments(row))
        if len(prompt) <= processor.model_max_length // 2:
            return longer
    return [*opening, *rest]
