"""Chat logs: a row for each message becomes a row for each conversation."""

from __future__ import annotations

import csv

import pytest

from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.options import GenerationData
from startup_llm.tasks.text_generation.task import TextGeneration

COLUMNS = ("conversation_id", "sender", "message", "time")


def write(path, rows, columns=COLUMNS):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return str(path)


def talk(number, customer="customer", agent="Support Agent"):
    return [
        (number, customer, "hello", f"2026-05-01T10:00:0{0}"),
        (number, customer, f"where is order {number}?", "2026-05-01T10:00:01"),
        (number, agent, "let me see", "2026-05-01T10:01:00"),
        (number, agent, f"it is on its way, {number}", "2026-05-01T10:02:00"),
    ]


def load(path, **options):
    return TextGeneration().read_data(GenerationData(train_file=path, **options))


def list_turns(data):
    return {
        tuple((one["role"], one["content"]) for one in messages)
        for split in data.splits.values()
        for messages in split["messages"]
    }


def expect(number):
    return (
        ("user", f"hello\nwhere is order {number}?"),
        ("assistant", f"let me see\nit is on its way, {number}"),
    )


def test_messages_become_conversations_in_the_order_of_their_times(tmp_path):
    rows = [row for step in (3, 1, 0, 2) for number in range(12) for row in [talk(number)[step]]]
    data = load(write(tmp_path / "log.csv", rows))
    assert list_turns(data) == {expect(number) for number in range(12)}
    assert (
        "A chat log: conversations by 'conversation_id', senders from 'sender', messages from 'message', by 'time'. "
        "The assistant is 'Support Agent' (by its name; --data.assistant_sender names another)."
    ) in data.notes


def test_without_a_time_the_rows_stand_in_order_and_senders_are_named(tmp_path):
    rows = [row[:3] for number in range(12) for row in talk(number, "Jo", "Anna" if number % 2 else "Bob")]
    path = write(tmp_path / "log.csv", rows, ("Ticket_ID", "Author", "Body"))
    with pytest.raises(UserError, match=r"of its senders, 'Jo' \(24\), .*'Bob' \(12\).*, none is known"):
        load(path)
    with pytest.raises(UserError, match=r"assistant_sender: no sender 'Ann', only .*; did you mean Anna"):
        load(path, assistant_sender="Ann")
    data = load(path, assistant_sender=["Anna", "Bob"])
    assert list_turns(data) == {expect(number) for number in range(12)}
    assert "The assistant is 'Anna', 'Bob' (as data.assistant_sender says)." in data.notes[0]
    assert "messages" not in load(path, text_column="Body").splits["train"].column_names


def test_what_is_not_learnt_of_a_log_is_counted_and_named(tmp_path):
    rows = [row for number in range(12) for row in talk(number)]
    rows += [("lost", "customer", "is anybody there?", "2026-05-02T10:00:00")]
    rows += [(0, "customer", "thanks", "2026-05-03T10:00:00"), (1, "system", "agent left", "2026-05-03T10:00:00")]
    rows += [(2, "customer", " ", "2026-05-03T10:00:00"), (3, "Support Agent", "welcome", "2026-04-03T10:00:00")]
    data = load(write(tmp_path / "log.csv", rows))
    assert list_turns(data) == {expect(number) for number in range(12)}
    assert (
        "Left out of 12 train conversations: empty messages: 1; notices of the system: 1; messages of the assistant "
        "before anybody wrote: 1; last turns without an answer: 1."
    ) in data.notes
    assert "1 train conversations without a turn of the assistant were left out (lost)." in data.notes


def test_messages_are_cleaned_one_by_one(tmp_path):
    rows = [
        (number, sender, f"<p>{message}</p>", time)
        for number in range(12)
        for _, sender, message, time in talk(number)
    ]
    data = load(write(tmp_path / "log.csv", rows), clean="html")
    assert list_turns(data) == {expect(number) for number in range(12)}
    assert any("Removed from the texts: html" in note for note in data.notes)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ((0, "customer", "x", "yesterday"), {}, r"train row 49: 'time' is 'yesterday', expected a date as ISO 8601"),
        (("", "customer", "x", "2026-05-01"), {}, "train row 49 has no 'conversation_id'"),
    ],
)
def test_a_row_that_cannot_be_placed_is_named(tmp_path, change, options, message):
    rows = [*(row for number in range(12) for row in talk(number)), change]
    with pytest.raises(UserError, match=message):
        load(write(tmp_path / "log.csv", rows), **options)


def test_an_assistant_is_refused_where_rows_are_no_log(tmp_path):
    path = write(tmp_path / "rows.csv", [("a", "b")] * 12, ("prompt", "completion"))
    with pytest.raises(UserError, match=r"expected a chat log with the columns .*, and the rows have prompt"):
        load(path, assistant_sender="bot")
