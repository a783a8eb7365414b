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
    """Put the same training conversations before each test conversation, as many as leave room for an answer.

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
    places = np.random.default_rng(seed).permutation(len(train))[:count]
    examples = [_skip_opening(messages) for messages in train.select(places)["messages"]]
    examples = [[{**message, "learn": False} for message in messages] for messages in examples]
    changed = [{**row, "messages": _fit_examples(longer, row, examples)} for row in test]
    splits = {**data.splits, "test": replace_messages(test, changed, ["messages"])}
    return replace(data, splits=datasets.DatasetDict(splits)), longer


def _skip_opening(messages: Messages) -> Messages:
    return [message for message in messages if message["role"] not in OPENING_ROLES]


def _fit_examples(processor: PreTrainedTokenizerBase, row: dict[str, Any], examples: Sequence[Messages]) -> Messages:
    """Return a row's conversation behind as many examples as half of the longest text holds with its prompt."""
    messages: Messages = row["messages"]
    opening, rest = messages[: len(messages) - len(_skip_opening(messages))], _skip_opening(messages)
    for count in range(len(examples), 0, -1):
        longer = [*opening, *(message for shown in examples[:count] for message in shown), *rest]
        prompt = encode_prompt(processor, longer[:-1], arguments=read_arguments(row))
        if len(prompt) <= processor.model_max_length // 2:
            return longer
    return messages
