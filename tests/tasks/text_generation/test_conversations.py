from __future__ import annotations

import json

import pytest

from startup_llm.errors import UserError
from startup_llm.tasks import load_task
from startup_llm.tasks.text_generation.conversations import find_conversation_fault, join_answers, render_plain
from startup_llm.tasks.text_generation.options import GenerationData

ASKED = {"role": "user", "content": "where is it?"}
SAID = {"role": "assistant", "content": "on its way"}


def load(tmp_path, rows, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"test_fraction": 0.25, "validation_fraction": 0, **options}
    return load_task("text-generation").load_data(GenerationData(train_file=str(path), **options))


def all_rows(data):
    rows = [row for split in data.splits.values() for row in split]
    return sorted(rows, key=lambda row: row["row"])


def asked(number):
    return {"role": "user", "content": f"where is it? {number}"}


FORMS = {
    "Conversations from column 'messages'": lambda n: {"messages": [asked(n), SAID]},
    "Conversations of a prompt and its completion": lambda n: {
        "prompt": asked(n)["content"],
        "completion": SAID["content"],
    },
    "prompt and its completion from columns 'prompt'": lambda n: {"prompt": [asked(n)], "completion": [SAID]},
    "Alpaca": lambda n: {"instruction": "where is it?", "input": str(n), "output": SAID["content"]},
    "ShareGPT": lambda n: {
        "conversations": [
            {"from": "human", "value": asked(n)["content"]},
            {"from": "gpt", "value": SAID["content"]},
        ]
    },
}


@pytest.mark.parametrize("said", FORMS)
def test_each_form_is_recognised_and_said_aloud(tmp_path, said):
    data = load(tmp_path, [FORMS[said](number) for number in range(4)])
    assert any(said in note for note in data.notes)
    rows = all_rows(data)
    assert [row["row"] for row in rows] == [1, 2, 3, 4]
    question = "where is it?\n\n0" if said == "Alpaca" else "where is it? 0"
    assert rows[0]["messages"] == [{"role": "user", "content": question}, SAID]


def test_an_alpaca_row_without_input_asks_the_instruction_alone(tmp_path):
    rows = [{"instruction": f"say {number}", "input": "", "output": "yes"} for number in range(4)]
    assert all_rows(load(tmp_path, rows))[2]["messages"][0]["content"] == "say 2"


def test_a_dialogue_of_speakers_becomes_turns(tmp_path):
    lines = "#2#: Hm.\n#1#: Hello: you\n#1#: there\n#2#: Hi.\n\n#1#: Bye."
    speakers = {"#1#": "user", "#2#": "assistant"}
    rows = [{"dialogue": f"{lines} {number}"} for number in range(4)]
    data = load(tmp_path, rows, text_column="dialogue", speakers=speakers)
    expected = [{"role": "user", "content": "Hello: you\nthere"}, {"role": "assistant", "content": "Hi."}]
    assert all_rows(data)[0]["messages"] == expected
    rows[1]["dialogue"] += "\n#3#: Who?"
    with pytest.raises(UserError, match=r"row 2: .*speaker '#3#', expected #1#, #2#"):
        load(tmp_path, rows, text_column="dialogue", speakers=speakers)
    with pytest.raises(UserError, match=r"data.speakers \(#1#: user\) must name a user and an assistant"):
        load(tmp_path, rows, text_column="dialogue", speakers={"#1#": "user"})
    data = load(tmp_path, rows, text_column="dialogue", speakers=speakers, skip_bad=True)
    assert any("conversations were left out (unusable conversation 1): row 2: " in note for note in data.notes)
    assert [row["row"] for row in all_rows(data)] == [1, 3, 4]


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([], "has no messages"),
        ([ASKED], "has no turn of the assistant"),
        ([ASKED, SAID, ASKED], "ends with the user"),
        ([ASKED, SAID, SAID], "messages 2 and 3 are both the assistant's"),
        ([ASKED, {"role": "narrator", "content": "x"}], "message 2 has the role 'narrator'"),
        ([ASKED, {"role": "assistant", "content": "  "}], "message 2 (assistant) is empty"),
        ([ASKED, {"role": "assistant", "content": None}], "message 2 (assistant) is empty"),
        ([ASKED, SAID, {"role": "system", "content": "x"}], "message 3 is a system message"),
        (["hello"], "message 1 is hello, expected a role and a content"),
    ],
)
def test_a_bad_conversation_is_named_by_its_row_and_message(tmp_path, messages, fault):
    assert fault in find_conversation_fault(messages)
    if messages and isinstance(messages[0], dict):
        rows = [{"messages": [ASKED, SAID]}] * 2 + [{"messages": messages}]
        with pytest.raises(UserError) as raised:
            load(tmp_path, rows)
        assert "cannot be used (unusable conversation 1): row 3: " in str(raised.value)
        assert fault in str(raised.value)


def test_a_question_has_to_end_with_the_user():
    assert find_conversation_fault([ASKED], question=True) is None
    assert "nothing to answer" in find_conversation_fault([ASKED, SAID], question=True)


def test_rows_with_a_text_and_a_conversation_have_to_be_chosen_from(tmp_path):
    rows = [{"text": f"a text {number}", "messages": [asked(number), SAID]} for number in range(4)]
    with pytest.raises(UserError, match=r"--data.text_column text or --data.text_column messages"):
        load(tmp_path, rows)
    assert "messages" in load(tmp_path, rows, text_column="messages").splits["train"].column_names
    assert "text" in load(tmp_path, rows, text_column="text").splits["train"].column_names


def test_preferences_are_read_with_a_prompt_or_with_whole_conversations(tmp_path):
    other = {"role": "assistant", "content": "no idea"}
    strings = [{"prompt": asked(n)["content"], "chosen": SAID["content"], "rejected": "no idea"} for n in range(4)]
    whole = [{"chosen": [asked(n), SAID], "rejected": [asked(n), other]} for n in range(4)]
    apart = [{"prompt": [asked(n)], "chosen": [SAID], "rejected": [other]} for n in range(4)]
    for rows in (strings, whole, apart):
        found = all_rows(load(tmp_path, rows))[1]
        assert found["chosen"] == [asked(1), SAID]
        assert found["rejected"] == [asked(1), other]
    whole[2]["rejected"] = [asked(7), other]
    with pytest.raises(UserError, match="row 3: chosen and rejected answer different questions"):
        load(tmp_path, whole)
    strings[0]["rejected"] = SAID["content"]
    with pytest.raises(UserError, match="row 1: chosen and rejected are the same answer"):
        load(tmp_path, strings)


def test_groups_stay_on_one_side_and_overlap_is_told(tmp_path):
    rows = [{"messages": [asked(0), SAID], "customer": str(number % 4)} for number in range(20)]
    data = load(tmp_path, rows, group_column="customer", remove_overlap=False)
    place = {split: {row % 4 for row in rows["row"]} for split, rows in data.splits.items()}
    assert not place["train"] & place["test"]
    assert any("training rows stand in the test split too" in note for note in data.notes)


def test_the_assistant_s_characters_are_those_that_are_counted():
    conversation = [{"role": "system", "content": "Be kind."}, ASKED, SAID, ASKED, SAID]
    text, own = render_plain(conversation)
    assert "".join(c for c, is_own in zip(text, own, strict=True) if is_own) == join_answers(conversation)
    assert join_answers(conversation) == "on its way\non its way\n"
    assert text.startswith("system: Be kind.\nuser: where is it?\nassistant: on its way\n")
