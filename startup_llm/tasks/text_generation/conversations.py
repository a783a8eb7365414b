"""Conversations between a user and an assistant, whatever columns they come in, and preferences between answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from startup_llm.data.bad_rows import leave_out
from startup_llm.data.rows_to_predict import find_text_fault
from startup_llm.data.sources import LoadedData
from startup_llm.data.splits import make_splits, read_groups, sample_rows
from startup_llm.data.task_data import TaskData
from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.options import GenerationData

if TYPE_CHECKING:
    import datasets

    Row = dict[str, Any]
    Messages = list[dict[str, str]]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
"""The names that data sets give the three roles."""
SHAREGPT_NAMES = ("conversations", "conversation")
ANSWERS = ("chosen", "rejected")


def find_conversation_form(rows: datasets.Dataset, data: GenerationData) -> str | None:
    """Say in which form rows hold conversations: a key of `FORM_NOTES`; None for a column of text.

    Args:
        rows: The training rows.
        data: Names columns and speakers.

    Raises:
        UserError: If the rows hold both a text and a conversation, and data.text_column names neither.
    """
    columns = set(rows.column_names)
    if data.speakers:
        return "dialogue"
    found = next((form for form, names in FORM_COLUMNS.items() if columns.issuperset(names)), None)
    if found is None or (data.text_column and data.text_column not in FORM_COLUMNS[found]):
        return None
    if "text" in columns and not data.text_column:
        name = FORM_COLUMNS[found][0]
        raise UserError(
            f"the rows hold a text (column 'text') and a conversation (column {name!r}); choose with "
            f"--data.text_column text or --data.text_column {name}"
        )
    return found


def build_conversations(loaded: LoadedData, data: GenerationData, form: str) -> TaskData:
    """Read conversations out of loaded rows, check every one, and split them.

    Args:
        loaded: The splits as their source gives them.
        data: Splits, limits, and whether bad rows are left out.
        form: From `find_conversation_form`.

    Returns:
        Splits with row and messages, a list of {role, content}; for preferences row, chosen and rejected, each the
        whole conversation.

    Raises:
        UserError: If a conversation is bad and not to be left out; it names the row and the message.
    """
    import datasets

    names = FORM_COLUMNS.get(form, (data.text_column or "",))
    if form == "dialogue" and not data.text_column:
        raise UserError("data.speakers is given; name the column of the dialogues with --data.text_column")
    read = FORMS[form] if form in FORMS else _build_dialogue_reader(names[0], data.speakers)
    keep, group = ANSWERS if form == "preference" else ("messages",), data.group_column
    splits, notes = {}, [f"{FORM_NOTES[form]} from column{'s' * (len(names) > 1)} {', '.join(map(repr, names))}."]
    for split, rows in loaded.splits.items():
        for name in names:
            if name not in rows.column_names:
                raise UserError(f"the {split} split has no column {name!r}, only {', '.join(rows.column_names)}")
        kept: dict[str, list[Any]] = {"row": [], **{name: [] for name in keep}}
        if group:
            kept[group] = []
            groups = read_groups(rows, group) if split == "train" or group in rows.column_names else [None] * len(rows)
        faults = []
        for place, row in enumerate(rows, start=1):
            found, fault = _read_row(read, row, form)
            if fault:
                faults.append((place, fault))
                continue
            kept["row"].append(place)
            for name in keep:
                kept[name].append(found[name])
            if group:
                kept[group].append(groups[place - 1])
        notes += leave_out(faults, len(rows), split, "conversations", skip_bad=data.skip_bad)[1]
        splits[split] = datasets.Dataset.from_dict(kept)
    cut, decided = make_splits(datasets.DatasetDict(splits), data, group_by=group)
    cut = datasets.DatasetDict({name: rows.select_columns(["row", *keep]) for name, rows in cut.items()})
    notes += decided + _treat_overlap(cut, data, keep)
    for name, most in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if most is not None and most < len(cut[name]):
            notes.append(f"{most:,} of the {len(cut[name]):,} {name} rows are used (seed {data.split_seed}).")
            cut[name] = sample_rows(cut[name], most, data.split_seed)
    return TaskData(cut, notes=[*loaded.notes, *notes], sources=loaded.sources)


def add_answers(data: TaskData) -> TaskData:
    """Give each conversation a column `answer`, its last message: what is to be written for those before it.

    Raises:
        UserError: If a test row has nothing before it.
    """
    import datasets

    for row in data.splits["test"]:
        if len(row["messages"]) < 2:
            raise UserError(
                f"evaluation.generate: the test split's row {row['row']} has nothing before its answer, expected a "
                "question; leave the row or the option out"
            )
    splits = {
        name: rows.add_column("answer", [messages[-1]["content"] for messages in rows["messages"]])
        for name, rows in data.splits.items()
    }
    return replace(data, splits=datasets.DatasetDict(splits))


def find_conversation_fault(messages: Any, *, question: bool = False) -> str | None:
    """Return what is wrong with a conversation, such as "message 3 (user) is empty"; None where nothing is.

    Args:
        messages: A list of {role, content}.
        question: Whether it is to be answered, so that it ends with the user; otherwise it ends with the assistant.
    """
    if not isinstance(messages, list) or not messages:
        return "has no messages"
    roles = []
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            return f"message {place} is {str(message)[:50]}, expected a role and a content"
        role, content = message["role"], message["content"]
        if role not in ("system", "user", "assistant"):
            return f"message {place} has the role {role!r}, expected system, user or assistant"
        if not isinstance(content, str) or not content.strip():
            return f"message {place} ({role}) is {'empty' if content is None or isinstance(content, str) else content}"
        if fault := find_text_fault(content):
            return f"message {place} ({role}) {fault}"
        if role == "system" and place > 1:
            return f"message {place} is a system message, which may only come first"
        if roles and role == roles[-1]:
            return f"messages {place - 1} and {place} are both the {role}'s"
        roles.append(role)
    if question:
        return None if roles[-1] == "user" else f"ends with the {roles[-1]}, so there is nothing to answer"
    if "assistant" not in roles:
        return "has no turn of the assistant"
    return None if roles[-1] == "assistant" else f"ends with the {roles[-1]}, expected an answer of the assistant"


def render_plain(messages: Messages) -> tuple[str, list[bool]]:
    """Write a conversation as lines `role: words`, and tell which characters are the assistant's.

    A line end closes each turn; the assistant's own count as its words, as the end of a turn does for a model.
    """
    text, own = "", []
    for message in messages:
        opening, words = f"{message['role']}: ", message["content"] + "\n"
        text += opening + words
        own += [False] * len(opening) + [message["role"] == "assistant"] * len(words)
    return text, own


def join_answers(messages: Messages) -> str:
    """Return the assistant's words, each turn closed by a line end: the text that a conversation's figures are of."""
    return "".join(message["content"] + "\n" for message in messages if message["role"] == "assistant")


def _read_row(read: Callable[[Row], Row], row: Row, form: str) -> tuple[Row, str | None]:
    try:
        found = read(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return {}, f"is no conversation of the form {form} ({str(error)[:80]})"
    if form == "preference":
        for name in ANSWERS:
            if fault := find_conversation_fault(found[name]):
                return {}, f"column {name!r}: {fault}"
        if found["chosen"] == found["rejected"]:
            return {}, "chosen and rejected are the same answer"
        if found["chosen"][:-1] != found["rejected"][:-1]:
            return {}, "chosen and rejected answer different questions"
        return found, None
    return found, find_conversation_fault(found["messages"])


def _read_messages(row: Row) -> Row:
    return {"messages": _standardize(row["messages"])}


def _read_sharegpt(row: Row) -> Row:
    name = next(name for name in SHAREGPT_NAMES if name in row)
    return {"messages": _standardize(row[name])}


def _standardize(messages: Any) -> Messages:
    """Name roles and contents alike; what is not known stays for `find_conversation_fault`."""
    if isinstance(messages, str):
        messages = json.loads(messages)
    standard = []
    for message in messages or []:
        role = message.get("role", message.get("from"))
        standard.append({"role": ROLES.get(role, role), "content": message.get("content", message.get("value"))})
    return standard


def _read_prompt_completion(row: Row) -> Row:
    return {"messages": _join(row["prompt"], row["completion"])}


def _join(prompt: Any, answer: Any) -> Messages:
    """Put an answer behind a prompt, each a text or messages; an answer may repeat the prompt's messages."""
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _standardize(prompt)
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else _standardize(answer)
    return said if said[: len(asked)] == asked else [*asked, *said]


def _read_alpaca(row: Row) -> Row:
    given = row.get("input")
    question = row["instruction"] + (f"\n\n{given}" if isinstance(given, str) and given.strip() else "")
    return {"messages": _join(question, row["output"])}


def _read_preference(row: Row) -> Row:
    prompt = row.get("prompt") or []
    return {name: _join(prompt, row[name]) for name in ANSWERS}


def _build_dialogue_reader(column: str, speakers: dict[str, str]) -> Callable[[Row], Row]:
    """Return what reads lines `speaker: words`, the speakers' roles given; one speaker's lines in a row are one turn.

    What the assistant says before anybody spoke to it, and the user's last words without an answer, are left away.

    Raises:
        UserError: If the roles are not those of a user and an assistant.
    """
    if not {"user", "assistant"} <= set(speakers.values()) <= {"system", "user", "assistant"}:
        given = ", ".join(f"{name}: {role}" for name, role in speakers.items())
        raise UserError(f"data.speakers ({given}) must name a user and an assistant")
    line_of = re.compile(r"\s*([^:]{1,40}?)\s*:\s*(.*)")

    def read(row: Row) -> Row:
        messages: Messages = []
        for line in row[column].splitlines():
            if not line.strip():
                continue
            match = line_of.fullmatch(line)
            if match is None:
                raise ValueError(f"a line without a speaker: {line[:40]!r}")
            if match[1] not in speakers:
                raise ValueError(f"speaker {match[1]!r}, expected {', '.join(speakers)}")
            role = speakers[match[1]]
            if messages and messages[-1]["role"] == role:
                messages[-1]["content"] += "\n" + match[2]
            elif messages or role != "assistant":
                messages.append({"role": role, "content": match[2]})
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        return {"messages": messages}

    return read


def _treat_overlap(splits: datasets.DatasetDict, data: GenerationData, columns: tuple[str, ...]) -> list[str]:
    """Count the training rows that stand in the test split too, and remove them where that is asked for."""
    as_keys = lambda rows: [json.dumps(row, sort_keys=True) for row in rows.select_columns(list(columns))]  # noqa: E731
    tested = set(as_keys(splits["test"]))
    own = [key not in tested for key in as_keys(splits["train"])]
    if all(own):
        return []
    count = f"{len(own) - sum(own):,} training rows stand in the test split too"
    if not data.remove_overlap:
        return [f"{count}; remove them with --data.remove_overlap."]
    splits["train"] = splits["train"].select([place for place, is_own in enumerate(own) if is_own])
    return [f"{count} and were removed."]


FORMS: dict[str, Callable[[Row], Row]] = {
    "preference": _read_preference,
    "messages": _read_messages,
    "conversations": _read_sharegpt,
    "conversation": _read_sharegpt,
    "prompt-completion": _read_prompt_completion,
    "alpaca": _read_alpaca,
}
"""Form -> from a raw row to {messages}, or {chosen, rejected}; the form dialogue is read by its speakers."""
FORM_COLUMNS: dict[str, tuple[str, ...]] = {
    "preference": ("chosen", "rejected"),
    "messages": ("messages",),
    "conversations": ("conversations",),
    "conversation": ("conversation",),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
FORM_NOTES = {
    "preference": "Preferences between two answers",
    "messages": "Conversations",
    "conversations": "Conversations (ShareGPT)",
    "conversation": "Conversations (ShareGPT)",
    "prompt-completion": "Conversations of a prompt and its completion",
    "alpaca": "Conversations of an instruction, perhaps with an input (Alpaca)",
    "dialogue": "Conversations between speakers",
}
