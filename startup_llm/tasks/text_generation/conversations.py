"""Conversations between a user and an assistant, whatever columns they come in, and preferences between answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from startup_llm.data.bad_rows import BadRows, Fault, list_numbers
from startup_llm.data.columns import list_columns
from startup_llm.data.sources import LoadedData
from startup_llm.data.splits import make_splits, read_groups, sample_rows
from startup_llm.data.task_data import TaskData
from startup_llm.data.text_reading import TextReading, describe_cleaning, join_columns
from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.feedback import find_feedback, read_label
from startup_llm.tasks.text_generation.messages import (
    MessageFault,
    Messages,
    find_conversation_fault,
    is_learnt,
    list_words,
    read_messages,
)
from startup_llm.tasks.text_generation.options import GenerationData

if TYPE_CHECKING:
    import datasets

    Row = dict[str, Any]

SHAREGPT_NAMES = ("conversations", "conversation")
PROMPT_NAMES = ("prompt", "instruction", "question", "messages", *SHAREGPT_NAMES)
"""Columns that may hold what two answers are compared on, the first that a row has."""
ANSWERS = ("chosen", "rejected")
TEMPLATE_COLUMNS = ("tools", "documents", "chat_template_kwargs")
"""Columns beside a conversation that a chat template takes as arguments."""
BESIDE_COLUMNS = ("system", "history", *TEMPLATE_COLUMNS)
_ANSWER_COLUMNS = ("completion", "output")
"""Columns that answer the columns that are joined to a prompt."""
JSON_COLUMNS = ("messages", *SHAREGPT_NAMES, "prompt", "completion", *ANSWERS, *BESIDE_COLUMNS)
"""Columns whose objects keep the keys that they have in a JSON file."""


def join_prompt(loaded: LoadedData, data: GenerationData) -> tuple[LoadedData, GenerationData]:
    """Join the columns that data.text_column names to a prompt, where it names several and rows have an answer to one.

    Raises:
        UserError: If a column is missing.
    """
    answer = next((name for name in _ANSWER_COLUMNS if name in loaded.splits["train"].column_names), None)
    if not TextReading.of_config(vars(data)).columns or answer is None:
        return loaded, data
    joined, joined_data, notes = join_columns(loaded.splits, data)
    changed = {}
    for split, rows in joined.items():
        rows = rows.remove_columns(list({"prompt"} & set(rows.column_names)))
        names = {str(joined_data.text_column): "prompt", answer: "completion"}
        changed[split] = rows.rename_columns({old: new for old, new in names.items() if old != new})
    return replace(loaded, splits=type(joined)(changed), notes=[*loaded.notes, *notes]), replace(
        data, text_column=None
    )


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
    form_of_columns = next((form for form, names in FORM_COLUMNS.items() if columns.issuperset(names)), None)
    named = data.text_column
    if form_of_columns is None or (named and named not in FORM_COLUMNS[form_of_columns]):
        return None
    if "text" in columns and not data.text_column:
        name = FORM_COLUMNS[form_of_columns][0]
        raise UserError(
            f"the rows hold a text (column 'text') and a conversation (column {name!r}); choose with "
            f"--data.text_column text or --data.text_column {name}"
        )
    return form_of_columns


def build_conversations(loaded: LoadedData, data: GenerationData, form: str) -> TaskData:
    """Read conversations out of loaded rows, check every one, and split them.

    Args:
        loaded: The splits as their source gives them.
        data: Splits, limits, and whether bad rows are left out.
        form: From `find_conversation_form`.

    Returns:
        Splits with row and messages, as `messages` describes them, and label where people judged them; for
        preferences row, chosen and rejected, each the whole conversation. Where rows have what a chat template takes
        beside the messages, `arguments` holds it as a JSON object.

    Raises:
        UserError: If a conversation is bad and not to be left out; it names the row and the message.
    """
    import datasets

    column = data.text_column
    names = FORM_COLUMNS.get(form, (column if isinstance(column, str) else "",))
    if form == "dialogue" and not data.text_column:
        raise UserError("data.speakers is given; name the column of the dialogues with --data.text_column")
    reader = _RowReader(
        form,
        FORMS[form] if form in FORMS else _build_dialogue_reader(names[0], data.speakers),
        ANSWERS if form == "preference" else ("messages",),
        None if form == "preference" else find_feedback(loaded.splits),
        TextReading.of_config(vars(data)),
    )
    keep, group, feedback = reader.keep, data.group_column, reader.feedback
    notes = [f"{FORM_NOTES[form]} from column{'s' * (len(names) > 1)} {', '.join(map(repr, names))}."]
    splits: dict[str, dict[str, list[Any]]] = {}
    bad_rows = BadRows(data.skip_bad)
    for split, rows in loaded.splits.items():
        for name in names:
            if name not in rows.column_names:
                raise UserError(f"the {split} split has no column {name!r}, only {list_columns(rows.column_names)}")
        splits[split], notes_of_split = reader.read(rows, split, loaded.json_columns.get(split, ()), group, bad_rows)
        notes += notes_of_split
    notes += bad_rows.notes
    if reader.reading.kinds:
        notes.append(describe_cleaning(reader.reading))
    if feedback:
        notes.append(_settle_feedback(splits, feedback))
    notes += _name_unused(loaded.splits["train"], {*names, group or "", feedback or ""}, form)
    columns = [name for name in ("row", *keep, "arguments", "label") if _is_needed(splits, name)]
    cut, decided = make_splits(_build_splits(splits, [*columns, *([group] if group else [])]), data, group_by=group)
    cut = datasets.DatasetDict({name: rows.select_columns(columns) for name, rows in cut.items()})
    notes += decided + _treat_overlap(cut, data, keep)
    for name, max_rows in (("train", data.max_train_rows), ("test", data.max_test_rows)):
        if max_rows is not None and max_rows < len(cut[name]):
            notes.append(f"{max_rows:,} of the {len(cut[name]):,} {name} rows are used (seed {data.split_seed}).")
            cut[name] = sample_rows(cut[name], max_rows, data.split_seed)
    left_out = dict(bad_rows.left_out)
    return TaskData(cut, notes=[*loaded.notes, *notes], sources=loaded.sources, left_out=left_out)


@dataclass(frozen=True)
class _RowReader:
    """How the rows of a split are read.

    Attributes:
        form: A key of `FORM_NOTES`.
        read_row: From a raw row to its conversations.
        keep: The conversations of a row.
        feedback: Column that says whether the answer is good, or None.
        reading: What is removed from messages.
    """

    form: str
    read_row: Callable[[Row], Row]
    keep: tuple[str, ...]
    feedback: str | None
    reading: TextReading

    def read(
        self, rows: datasets.Dataset, split: str, exact: Collection[str], group: str | None, bad_rows: BadRows
    ) -> tuple[dict[str, list[Any]], list[str]]:
        """Return the columns of a split's good rows, and notes on the others.

        Args:
            rows: The raw rows.
            split: Its name, for the notes.
            exact: Columns of JSON text.
            group: The column of groups.
            bad_rows: Refuses bad rows, or counts them.

        Raises:
            UserError: If a row is bad and not to be left out.
        """
        columns = [*self.keep, "arguments"]
        if self.feedback:
            columns.append("label")
        kept: dict[str, list[Any]] = {name: [] for name in ("row", *columns)}
        if group:
            kept[group] = []
            groups = read_groups(rows, group) if split == "train" or group in rows.column_names else [None] * len(rows)
        faults, unjudged, notes = [], [], []
        for place, row in enumerate(rows, start=1):
            label = read_label(row[self.feedback]) if self.feedback else None
            if self.feedback and label is None:
                unjudged.append(place)
                continue
            conversation, fault = _read_row(self._read_messages, _decode(row, exact), self.form)
            if fault:
                faults.append(Fault(place, fault, "unusable conversation"))
                continue
            for name, value in {**conversation, "row": place, "label": label}.items():
                if name in kept:
                    kept[name].append(value)
            if group:
                kept[group].append(groups[place - 1])
        bad_rows.leave_out(faults, len(rows), f"{split} split", "conversations")
        if unjudged:
            bad_rows.left_out["answer without feedback"] += len(unjudged)
            notes.append(
                f"{len(unjudged):,} {split} rows were left out, which column {self.feedback!r} neither accepts nor "
                f"rejects (rows {list_numbers(unjudged)})."
            )
        return kept, notes

    def _read_messages(self, row: Row) -> Row:
        read = self.read_row(row)
        return {name: self.reading.clean_text(value) if name in self.keep else value for name, value in read.items()}


def _decode(row: Row, exact: Collection[str]) -> Row:
    """Return a row's values: of columns of JSON text what it says, of others objects without their missing keys."""
    return {
        name: json.loads(value) if name in exact and isinstance(value, str) else _drop_missing(value)
        for name, value in row.items()
    }


def _drop_missing(value: Any) -> Any:
    """Leave out the keys without a value, which a table gives an object that another row's has."""
    if isinstance(value, dict):
        return {key: _drop_missing(inner) for key, inner in value.items() if inner is not None}
    return [_drop_missing(inner) for inner in value] if isinstance(value, list) else value


def _settle_feedback(splits: dict[str, dict[str, list[Any]]], column: str) -> str:
    """Say how many answers are good; of rows with bad ones the last turn alone is judged, and learnt.

    Rows that are all good are conversations like others: their labels are dropped.
    """
    labels = [label for kept in splits.values() for label in kept["label"]]
    if all(labels):
        for kept in splits.values():
            del kept["label"]
        return f"Column {column!r} accepts every row."
    for kept in splits.values():
        for messages in kept["messages"]:
            for message in messages[:-1]:
                if message["role"] == "assistant":
                    message["learn"] = False
    return f"Feedback from column {column!r}: {labels.count(True):,} good answers, {labels.count(False):,} bad ones."


def _name_unused(rows: datasets.Dataset, used: set[str], form: str) -> list[str]:
    """Name the columns that are not read."""
    if form != "dialogue":
        used = used | set(BESIDE_COLUMNS)
    if form == "alpaca":
        used = used | {"input"}
    if form == "preference":
        prompt = next((name for name in PROMPT_NAMES if name in rows.column_names), "")
        used = used | {prompt, *(["input"] if prompt == "instruction" else [])}
    unused = [name for name in rows.column_names if name not in used]
    return [f"Columns that are not used: {', '.join(map(repr, unused))}."] if unused else []


def _is_needed(splits: Mapping[str, Mapping[str, list[Any]]], name: str) -> bool:
    return all(name in kept for kept in splits.values()) and any(
        value is not None for kept in splits.values() for value in kept[name]
    )


def _build_splits(splits: Mapping[str, Mapping[str, list[Any]]], columns: Sequence[str]) -> datasets.DatasetDict:
    """Return the rows with the same types in each split; a message has `extra` and `learn` where any has."""
    import datasets

    parts = [name for name in columns if name in ("messages", *ANSWERS)]
    keys = {
        key
        for kept in splits.values()
        for name in parts
        for messages in kept[name]
        for message in messages
        for key in message
    }
    text = datasets.Value("string")
    kinds = {"role": text, "content": text, "extra": text, "learn": datasets.Value("bool")}
    message = {key: kind for key, kind in kinds.items() if key in keys}
    types = {
        "row": datasets.Value("int64"),
        "arguments": text,
        "label": datasets.Value("bool"),
        **{name: datasets.List(message) for name in parts},
    }

    def build(kept: Mapping[str, list[Any]]) -> datasets.Dataset:
        filled = {name: kept[name] for name in columns if name not in parts}
        filled |= {
            name: [[{key: entry.get(key) for key in message} for entry in messages] for messages in kept[name]]
            for name in parts
        }
        rows = datasets.Dataset.from_dict({name: filled[name] for name in columns})
        return rows.cast(datasets.Features({**rows.features, **{n: types[n] for n in columns if n in types}}))

    return datasets.DatasetDict({split: build(kept) for split, kept in splits.items()})


def replace_messages(
    rows: datasets.Dataset, changed: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> datasets.Dataset:
    """Return rows with other messages; the same object where none are left out and no message is another.

    Args:
        rows: The rows, for their types.
        changed: Those that are kept, with their messages, some of which may have `learn`.
        columns: A row's conversations.
    """
    import datasets

    if len(changed) == len(rows) and all(
        new_row[name] == row[name] for new_row, row in zip(changed, rows, strict=True) for name in columns
    ):
        return rows
    features = dict(rows.features)
    for name in columns:
        features[name] = datasets.List({**features[name].feature, "learn": datasets.Value("bool")})
    filled = [
        {**row, **{name: [{"learn": None, **message} for message in row[name]] for name in columns}} for row in changed
    ]
    return datasets.Dataset.from_list(filled, features=datasets.Features(features))


def add_answers(data: TaskData) -> TaskData:
    """Give each conversation a column `answer`, its last message: what is to be written for those before it.

    Raises:
        UserError: If a test row has nothing before it, or its answer is a call alone.
    """
    import datasets

    for row in data.splits["test"]:
        fault = "" if len(row["messages"]) > 1 else "has nothing before its answer, expected a question"
        if fault or not row["messages"][-1]["content"]:
            raise UserError(
                f"evaluation.generate: the test split's row {row['row']} {fault or 'ends with a call, not words'}; "
                "leave the row or the option out"
            )
    splits = {
        name: rows.add_column("answer", [messages[-1]["content"] for messages in rows["messages"]])
        for name, rows in data.splits.items()
    }
    return replace(data, splits=datasets.DatasetDict(splits))


def render_plain(messages: Messages) -> tuple[str, list[bool]]:
    """Write a conversation as lines `role: words`, and tell which characters are the assistant's that are learnt.

    A line end closes each turn; the assistant's own count as its words, as the end of a turn does for a model.
    """
    text, own = "", []
    for message in messages:
        opening, words = f"{message['role']}: ", list_words(message) + "\n"
        text += opening + words
        own += [False] * len(opening) + [is_learnt(message)] * len(words)
    return text, own


def join_answers(messages: Messages) -> str:
    """Return the assistant's words that are learnt, each turn closed by a line end: what figures are of."""
    return "".join(list_words(message) + "\n" for message in messages if is_learnt(message))


def _read_row(read: Callable[[Row], Row], row: Row, form: str) -> tuple[Row, str | None]:
    try:
        conversation = {**read(row), "arguments": _read_arguments(row)}
    except MessageFault as fault:
        return {}, str(fault)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return {}, f"is no conversation of the form {form} ({str(error)[:80]})"
    if form == "preference":
        for name in ANSWERS:
            if fault := find_conversation_fault(conversation[name]):
                return {}, f"column {name!r}: {fault}"
        if conversation["chosen"] == conversation["rejected"]:
            return {}, "chosen and rejected are the same answer"
        shared = count_shared(conversation["chosen"], conversation["rejected"])
        behind = [conversation[name][shared]["role"] for name in ANSWERS if shared < len(conversation[name])]
        if behind == ["assistant", "assistant"]:
            return conversation, None
        return {}, "chosen and rejected answer different questions"
    return conversation, find_conversation_fault(conversation["messages"])


def count_shared(chosen: Messages, rejected: Messages) -> int:
    """Return how many messages two conversations begin with alike."""
    pairs = zip(chosen, rejected, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))


def _read_arguments(row: Row) -> str | None:
    """Return what a chat template takes beside the messages, as a JSON object; None for nothing."""
    arguments = {}
    for name in TEMPLATE_COLUMNS:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except ValueError:
                raise MessageFault(f"column {name!r} is {value[:50]!r}, expected JSON") from None
        if not value:
            continue
        expected = dict if name == "chat_template_kwargs" else list
        if not isinstance(value, expected) or not all(isinstance(item, (dict, str)) for item in value):
            kind = "an object" if expected is dict else "a list of objects"
            raise MessageFault(f"column {name!r} is {str(value)[:50]!r}, expected {kind}")
        arguments[name] = value
    return json.dumps(arguments, ensure_ascii=False) if arguments else None


def _add_beside(messages: Messages, row: Row) -> Messages:
    """Put the columns system and history before a conversation.

    Raises:
        MessageFault: If the conversation begins with another system message.
    """
    history = row.get("history") or []
    if history and all(isinstance(turn, (list, tuple)) for turn in history):
        pairs = [zip(("user", "assistant"), turn, strict=True) for turn in history]
        history = [{"role": role, "content": words} for turn in pairs for role, words in turn]
    messages = [*read_messages(history), *messages]
    system = row.get("system")
    if not isinstance(system, str) or not system.strip():
        return messages
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] != system:
            raise MessageFault("message 1 is a system message other than the one in column 'system'")
        return messages
    return [{"role": "system", "content": system}, *messages]


def _read_conversation(name: str) -> Callable[[Row], Row]:
    """Return what reads the messages in a column."""
    return lambda row: {"messages": _add_beside(read_messages(row[name]), row)}


def _read_prompt_completion(row: Row) -> Row:
    return {"messages": _add_beside(_join(row["prompt"], row["completion"]), row)}


def _join(prompt: Any, answer: Any) -> Messages:
    """Put an answer behind a prompt, each a text, a message or messages, which may repeat the prompt's."""
    if isinstance(prompt, str) and isinstance(answer, str) and _read_human_turns(prompt):
        answer = answer.strip()
    asked, said = _read_side(prompt, "user"), _read_side(answer, "assistant")
    return said if asked and said[: len(asked)] == asked else [*asked, *said]


def _read_side(side: Any, role: str) -> Messages:
    """Read a prompt or an answer: messages, one message, or a text, in turns `Human:` and `Assistant:` perhaps."""
    if isinstance(side, str):
        return _read_human_turns(side) or [{"role": role, "content": side}]
    return read_messages([side] if isinstance(side, dict) else side)


def _read_human_turns(text: str) -> Messages:
    """Read a text of turns that begin with `Human:` and `Assistant:` on lines of their own; none for another text."""
    if not re.match(r"\s*Human:", text):
        return []
    parts = re.split(r"(?:^|\n\n)\s*(Human|Assistant):", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": roles[name], "content": words.strip()} for name, words in turns if words.strip()]


def _read_instruction(row: Row) -> str:
    context = row.get("input")
    return row["instruction"] + (f"\n\n{context}" if isinstance(context, str) and context.strip() else "")


def _read_alpaca(row: Row) -> Row:
    return {"messages": _add_beside(_join(_read_instruction(row), row["output"]), row)}


def _read_preference(row: Row) -> Row:
    name = next((name for name in PROMPT_NAMES if row.get(name)), None)
    prompt = [] if name is None else _read_instruction(row) if name == "instruction" else row[name]
    if name is None and all(isinstance(row[side], str) and not _read_human_turns(row[side]) for side in ANSWERS):
        raise MessageFault(
            f"has no prompt; expected a column {', '.join(PROMPT_NAMES[:3])}, or whole conversations in chosen and "
            "rejected"
        )
    return {side: _add_beside(_join(prompt, row[side]), row) for side in ANSWERS}


def _build_dialogue_reader(column: str, speakers: dict[str, str]) -> Callable[[Row], Row]:
    """Return what reads lines `speaker: words`, the speakers' roles given; one speaker's lines in a row are one turn.

    What the assistant says before anybody spoke to it, and the user's last words without an answer, are left away.

    Raises:
        UserError: If the roles are not those of a user and an assistant.
    """
    if not {"user", "assistant"} <= set(speakers.values()) <= {"system", "user", "assistant"}:
        roles = ", ".join(f"{name}: {role}" for name, role in speakers.items())
        raise UserError(f"data.speakers ({roles}) must name a user and an assistant")
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
    "messages": _read_conversation("messages"),
    "conversations": _read_conversation("conversations"),
    "conversation": _read_conversation("conversation"),
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
