"""What a chat template does not write of the rows as they stand: it is not learnt in another form, and it is named."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from startup_llm.data.bad_rows import list_numbers
from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.chat_templates import (
    find_end_of_turn,
    list_marked_tokens,
    locate_turns,
    render_conversation,
    restore_control_tokens,
    tokenize_conversation,
)
from startup_llm.tasks.text_generation.conversations import replace_messages
from startup_llm.tasks.text_generation.messages import REASONING_KEYS, Message, Messages, is_learnt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from startup_llm.data.task_data import TaskData

_ALIASES = dict.fromkeys(REASONING_KEYS, REASONING_KEYS)


@dataclass
class TemplateLosses:
    """Counts over the rows of all splits.

    Attributes:
        rows: Number of rows.
        columns: Rows with an argument that the template does not write, by its name.
        keys: The same of a message's keys.
        unlearnt: Turns that are not learnt, by why.
        unwritten: Messages of others that the template does not write, by their role.
        developers: Rows with a developer's message that is written as the system's.
        controls: Rows with control tokens among their words, by the token.
    """

    rows: int = 0
    columns: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)
    unlearnt: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    unwritten: Counter[str] = field(default_factory=Counter)
    developers: int = 0
    controls: Counter[str] = field(default_factory=Counter)

    def describe(self) -> list[str]:
        """Return a sentence on each kind of loss."""
        every = f"of {self.rows:,} rows"
        notes = [
            f"{rows:,} {every}: the chat template does not write the column {name!r}; it is left out."
            for name, rows in sorted(self.columns.items())
        ]
        notes += [
            f"{rows:,} {every}: the chat template does not write the key {name!r} of a message; it is left out."
            for name, rows in sorted(self.keys.items())
        ]
        notes += [
            f"{sum(turns.values()):,} turns of the assistant in {len(turns):,} {every}: the chat template {why}; they "
            "are not learnt."
            for why, turns in self.unlearnt.items()
        ]
        notes += [
            f"{count:,} messages of the role {role}: the chat template does not write them as they stand."
            for role, count in self.unwritten.items()
        ]
        if self.developers:
            notes.append(f"{self.developers:,} {every}: the developer's message is written as the system's.")
        notes += [
            f"{rows:,} {every} hold the control token {token!r} among their words, where it is read as plain text."
            for token, rows in sorted(self.controls.items())
        ]
        return notes


def fit_conversations(
    data: TaskData, processor: PreTrainedTokenizerBase, columns: Sequence[str], *, by_trl: bool
) -> TaskData:
    """Mark the turns that a chat template does not write as they stand as not learnt, and say what else it leaves out.

    Args:
        data: Rows with conversations.
        processor: Has the template, and the longest length.
        columns: A row's conversations.
        by_trl: Whether TRL's trainer reads them, two answers or one: of the training and validation rows those are
            left out that hold control tokens, or whose answers lie beyond the longest length.

    Returns:
        The same, with the loaded splits in `loaded` where rows have changed.

    Raises:
        UserError: If the template refuses a conversation, or no training row is left.
    """
    import datasets

    end, losses, notes, splits = find_end_of_turn(processor), TemplateLosses(), [], {}
    for split, rows in data.splits.items():
        changed, dropped = [], defaultdict(list)
        for place, row in enumerate(rows):
            name = f"{split} row {row.get('row', place + 1)}"
            fitted_row, has_controls = _fit_row(processor, row, columns, end, losses, name)
            losses.rows += 1
            if (
                by_trl
                and split != "test"
                and (why := _find_trl_fault(processor, fitted_row, columns, end, has_controls))
            ):
                dropped[why].append(row["row"])
            elif not all(any(map(is_learnt, fitted_row[column])) for column in columns):
                dropped["have no turn that is learnt"].append(row["row"])
            else:
                changed.append(fitted_row)
        if not changed:
            why = next(iter(dropped))
            raise UserError(f"no {split} row is left: {len(dropped[why]):,} rows {why}")
        notes += [
            f"{len(numbers):,} {split} rows {why} and were left out (rows {list_numbers(numbers)})."
            for why, numbers in dropped.items()
        ]
        splits[split] = replace_messages(rows, changed, columns)
    fitted = replace(data, notes=[*data.notes, *losses.describe(), *notes])
    if all(splits[name] is rows for name, rows in data.splits.items()):
        return fitted
    return replace(fitted, splits=datasets.DatasetDict(splits), loaded=data.loaded or data.splits)


def _fit_row(
    processor: PreTrainedTokenizerBase,
    row: dict[str, Any],
    columns: Sequence[str],
    end: int,
    losses: TemplateLosses,
    name: str,
) -> tuple[dict[str, Any], bool]:
    """Return a row with its unlearnt turns marked, and whether its words hold control tokens; count what is lost."""
    arguments = json.loads(row.get("arguments") or "{}")
    fitted_row, controls, keys, developer = dict(row), set(), set(), False
    for column in columns:
        messages: Messages = row[column]
        try:
            text, turns = locate_turns(processor, messages, end, arguments)
            lost_columns, lost_keys = _find_unwritten_keys(processor, messages, arguments, text)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        squeezed = _squeeze(restore_control_tokens(processor, text))
        fitted = [dict(message) for message in messages]
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                start, stop = turns.get(place, (0, 0))
                turn = _squeeze(restore_control_tokens(processor, text[start:stop]))
                why = _find_turn_loss(message, turn, lost_keys)
                if is_learnt(message) and why:
                    losses.unlearnt[why][losses.rows] += 1
                    fitted[place]["learn"] = False
            elif _squeeze(message["content"]) not in squeezed:
                losses.unwritten[message["role"]] += 1
        fitted_row[column] = fitted
        keys |= lost_keys - {"tool_calls"}  # whose turns are not learnt
        controls |= list_marked_tokens(processor, text)
        developer = developer or any(message["role"] == "developer" for message in messages)
    losses.columns.update(lost_columns)
    losses.keys.update(keys)
    losses.controls.update(controls)
    losses.developers += developer and "developer" not in processor.chat_template
    return fitted_row, bool(controls)


def _find_unwritten_keys(
    processor: PreTrainedTokenizerBase, messages: Messages, arguments: Mapping[str, Any], text: str
) -> tuple[set[str], set[str]]:
    """Return the arguments and the keys of messages without which a template writes the same text."""
    columns = {
        name
        for name in arguments
        if _renders(processor, messages, {key: arguments[key] for key in arguments if key != name}, text)
    }
    keys = {key for message in messages for key in json.loads(message.get("extra") or "{}")}
    unwritten = {
        key
        for key in keys
        if _renders(
            processor, [_leave_out(message, _ALIASES.get(key, (key,))) for message in messages], arguments, text
        )
    }
    return columns, unwritten


def _renders(processor: PreTrainedTokenizerBase, messages: Messages, arguments: Mapping[str, Any], text: str) -> bool:
    try:
        return render_conversation(processor, messages, arguments=arguments) == text
    except UserError:
        return False  # the template needs it


def _leave_out(message: Message, keys: Sequence[str]) -> Message:
    extra = {key: value for key, value in json.loads(message.get("extra") or "{}").items() if key not in keys}
    return {**message, "extra": json.dumps(extra)}


def _find_turn_loss(message: Message, turn: str, lost_keys: set[str]) -> str | None:
    """Say what a template does to a turn of the assistant that it does not write as it stands; None where it does.

    Args:
        message: The turn.
        turn: What the template writes of it, without white space; empty where it writes nothing.
        lost_keys: Keys that the template never writes.
    """
    extra, content = json.loads(message.get("extra") or "{}"), message["content"]
    for call in extra.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, dict) else {}
        if "tool_calls" in lost_keys or _squeeze(str(function.get("name", ""))) not in turn:
            return "does not write their tool_calls"
    thoughts = [extra[key] for key in REASONING_KEYS if isinstance(extra.get(key), str) and key not in lost_keys]
    if any(_squeeze(thought) not in turn for thought in thoughts):
        return "leaves out their thoughts"
    if _squeeze(content) in turn:
        return None
    answer = content.rpartition("</think>")[2]
    return "leaves out their thoughts" if answer != content and _squeeze(answer) in turn else "writes other words"


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _find_trl_fault(
    processor: PreTrainedTokenizerBase, row: dict[str, Any], columns: Sequence[str], end: int, has_controls: bool
) -> str | None:
    """Say why TRL's trainer cannot learn from one answer, or compare two; None where it can."""
    if has_controls:
        return "hold control tokens among their words"
    size, arguments = processor.model_max_length, json.loads(row.get("arguments") or "{}")
    whole = [tokenize_conversation(processor, row[column], end, arguments) for column in columns]
    cut = [ids[:size] for ids, _ in whole]
    is_beyond = cut[0] == cut[1] if len(cut) > 1 else not any(whole[0][1][:size])
    return f"have their answers beyond the longest length ({size:,} tokens)" if is_beyond else None
