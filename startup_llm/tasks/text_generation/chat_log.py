"""A chat log, a row for each message, as a helpdesk exports it: turned into a row for each conversation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from startup_llm.data.bad_rows import list_numbers
from startup_llm.data.columns import list_columns
from startup_llm.data.sources import LoadedData
from startup_llm.data.text_reading import TextReading, describe_cleaning
from startup_llm.errors import UserError, fold_name, nearest
from startup_llm.tasks.text_generation.options import GenerationData

if TYPE_CHECKING:
    import datasets

CONVERSATION_NAMES = (
    "conversation_id", "conversation", "thread_id", "chat_id", "session_id", "dialog_id", "dialogue_id", "ticket_id",
    "case_id",
)  # fmt: skip
SENDER_NAMES = ("sender", "speaker", "author", "from", "role", "sender_type", "author_type", "sent_by", "user")
MESSAGE_NAMES = ("message", "text", "content", "body", "utterance")
TIME_NAMES = ("time", "timestamp", "created_at", "sent_at", "date", "datetime", "created")
_ASSISTANT_WORDS = frozenset(
    ("agent", "support", "bot", "chatbot", "assistant", "operator", "helpdesk", "staff", "advisor", "ai")
)
_SYSTEM = "system"
_MOST_NAMED = 8


@dataclass(frozen=True)
class ChatLog:
    """The columns of a chat log.

    Attributes:
        conversation: What the messages of a conversation share.
        sender: Who wrote a message.
        message: The message.
        time: When it was written; None where the rows stand in order.
    """

    conversation: str
    sender: str
    message: str
    time: str | None


@dataclass
class _Counts:
    """What is not learnt of a split."""

    empty: int = 0
    notices: int = 0
    openings: int = 0
    ends: int = 0
    unanswered: list[str] = field(default_factory=list)


def find_chat_log(rows: datasets.Dataset, data: GenerationData) -> ChatLog | None:
    """Find the columns of a chat log by their names; None where rows are something else.

    Args:
        rows: The training rows.
        data: A text column that is named is text, unless the assistant is named too.

    Raises:
        UserError: If an assistant is named, and the rows are no chat log.
    """
    is_named = data.assistant_sender is not None
    if (data.text_column or data.speakers) and not is_named:
        return None
    by_name = {fold_name(name): name for name in reversed(rows.column_names)}
    parts = [
        next((by_name[name] for name in names if name in by_name), None)
        for names in (CONVERSATION_NAMES, SENDER_NAMES, MESSAGE_NAMES, TIME_NAMES)
    ]
    conversation, sender, message, time = parts
    if isinstance(data.text_column, str):
        message = data.text_column
    if conversation and sender and message and "messages" not in by_name:
        return ChatLog(conversation, sender, message, time)
    if is_named:
        raise UserError(
            f"data.assistant_sender {data.assistant_sender!r}: expected a chat log with the columns conversation_id, "
            f"sender, message and perhaps time, and the rows have {list_columns(rows.column_names)}"
        )
    return None


def group_messages(loaded: LoadedData, data: GenerationData, log: ChatLog) -> tuple[LoadedData, GenerationData]:
    """Turn the messages of a chat log into conversations: a column `messages`, and the group's where one is named.

    Messages stand in the order of their times, or of the rows. Those of one side that follow each other are one turn.
    What the assistant says before anybody wrote to it, and a user's last words without an answer, are left away.

    Raises:
        UserError: If no sender is known for the assistant, a time is none, or no conversation has an answer.
    """
    import datasets

    train = loaded.splits["train"]
    assistants, how = _find_assistants(train[log.sender], data)
    order = f"by {log.time!r}" if log.time else "as the rows stand"
    notes = [
        f"A chat log: conversations by {log.conversation!r}, senders from {log.sender!r}, messages from "
        f"{log.message!r}, {order}. The assistant is {', '.join(map(repr, assistants))} ({how})."
    ]
    used = {log.conversation, log.sender, log.message, log.time, data.group_column}
    if unused := [name for name in train.column_names if name not in used]:
        notes.append(f"Columns that are not used: {', '.join(map(repr, unused))}.")
    reading, splits = TextReading.of_config(vars(data)), {}
    if reading.kinds:
        notes.append(describe_cleaning(reading))
    for split, rows in loaded.splits.items():
        _check_columns(rows, split, log)
        columns, counts = _group_rows(rows, split, log, reading, {fold_name(name) for name in assistants}, data)
        if not columns["messages"]:
            raise UserError(f"the {split} split: none of its conversations has a turn of {', '.join(assistants)}")
        splits[split] = datasets.Dataset.from_dict(columns)
        notes += _describe(split, counts, len(columns["messages"]))
    grouped = replace(loaded, splits=datasets.DatasetDict(splits), notes=[*loaded.notes, *notes], json_columns={})
    return grouped, replace(data, text_column=None, clean=None, assistant_sender=None)


def _check_columns(rows: datasets.Dataset, split: str, log: ChatLog) -> None:
    for name in (log.conversation, log.sender, log.message, log.time):
        if name and name not in rows.column_names:
            raise UserError(f"the {split} split has no column {name!r}, only {list_columns(rows.column_names)}")


def _find_assistants(senders: Sequence[Any], data: GenerationData) -> tuple[list[str], str]:
    """Return the senders that are the assistant, and how that is known.

    Raises:
        UserError: If none is, or all are.
    """
    counts = Counter(str(sender) for sender in senders if sender not in (None, ""))
    listed = ", ".join(f"{name!r} ({count:,})" for name, count in counts.most_common(_MOST_NAMED))
    listed += ", ..." * (len(counts) > _MOST_NAMED)
    if data.assistant_sender is not None:
        named = data.assistant_sender if isinstance(data.assistant_sender, list) else [data.assistant_sender]
        for name in named:
            if name not in counts:
                raise UserError(f"data.assistant_sender: no sender {name!r}, only {listed}{nearest(name, counts)}")
        return named, "as data.assistant_sender says"
    found = [name for name in counts if _ASSISTANT_WORDS & set(re.findall(r"[a-z]+", name.casefold()))]
    others = [name for name in counts if name not in found and fold_name(name) != _SYSTEM]
    if not found or not others:
        what = "all look like the assistant's" if found else "none is known for the assistant's"
        raise UserError(
            f"the rows are a chat log, and of its senders, {listed}, {what}; name it: --data.assistant_sender NAME, "
            "or name the column of a text with --data.text_column"
        )
    return found, "by its name; --data.assistant_sender names another"


def _group_rows(
    rows: datasets.Dataset,
    split: str,
    log: ChatLog,
    reading: TextReading,
    assistants: set[str],
    data: GenerationData,
) -> tuple[dict[str, list[Any]], _Counts]:
    """Return a split's conversations, and what is not learnt of it."""
    counts, group = _Counts(), data.group_column
    texts = reading.clean(rows[log.message])
    conversations: dict[Any, list[int]] = {}
    for place, identity in enumerate(rows[log.conversation]):
        if identity in (None, ""):
            raise UserError(f"{split} row {place + 1} has no {log.conversation!r}; fill it in or delete the row")
        conversations.setdefault(identity, []).append(place)
    times = _read_times(rows[log.time], log.time, split) if log.time else range(len(rows))
    senders = [fold_name(str(sender or "")) for sender in rows[log.sender]]
    columns: dict[str, list[Any]] = {"messages": [], **({group: []} if group else {})}
    for identity, places in conversations.items():
        places.sort(key=times.__getitem__)
        messages: list[dict[str, str]] = []
        for place in places:
            _add_message(messages, senders[place], texts[place], assistants, counts)
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
            counts.ends += bool(messages)
        if not messages:
            counts.unanswered.append(str(identity))
            continue
        columns["messages"].append(messages)
        if group:
            columns[group].append(rows[places[0]][group])
    return columns, counts


def _add_message(
    messages: list[dict[str, str]], sender: str, text: Any, assistants: set[str], counts: _Counts
) -> None:
    """Add a message to its conversation, to the last turn where that is the same side's."""
    role = "assistant" if sender in assistants else "user"
    if not isinstance(text, str) or not text.strip():
        counts.empty += 1
    elif sender == _SYSTEM:
        counts.notices += 1
    elif messages and messages[-1]["role"] == role:
        messages[-1]["content"] += "\n" + text.strip()
    elif messages or role == "user":
        messages.append({"role": role, "content": text.strip()})
    else:
        counts.openings += 1


def _read_times(values: Sequence[Any], name: str, split: str) -> Sequence[Any]:
    """Return what times are sorted by.

    Raises:
        UserError: If one is neither a number nor a date as ISO 8601 writes it.
    """
    import pandas as pd

    numbers = pd.to_numeric(pd.Series(list(values), dtype=object), errors="coerce")
    if numbers.notna().all():
        return numbers.to_list()
    times = pd.to_datetime(pd.Series(list(values), dtype=object), errors="coerce", utc=True, format="ISO8601")
    if times.isna().any():
        row = int(times.isna().to_numpy().argmax())
        raise UserError(
            f"{split} row {row + 1}: {name!r} is {values[row]!r}, expected a date as ISO 8601 writes it "
            "(2026-05-01T12:30:00) or a number; rewrite the column, or take it out where the rows stand in order"
        )
    return times.to_list()


def _describe(split: str, counts: _Counts, conversations: int) -> list[str]:
    parts: Mapping[str, int] = {
        "empty messages": counts.empty,
        "notices of the system": counts.notices,
        "messages of the assistant before anybody wrote": counts.openings,
        "last turns without an answer": counts.ends,
    }
    notes = []
    if listed := "; ".join(f"{what}: {count:,}" for what, count in parts.items() if count):
        notes.append(f"Left out of {conversations:,} {split} conversations: {listed}.")
    if unanswered := counts.unanswered:
        notes.append(
            f"{len(unanswered):,} {split} conversations without a turn of the assistant were left out "
            f"({list_numbers(unanswered)})."
        )
    return notes
