"""Joined columns and cleaned texts in the tasks beside classification, and columns guessed by their names."""

from __future__ import annotations

import json

import pytest

from startup_llm.data.row_source import RowSource
from startup_llm.data.rows_to_predict import Questions
from startup_llm.data.sources import load_splits
from startup_llm.data.text_reading import TextReading
from startup_llm.errors import UserError
from startup_llm.tasks.sentence_similarity.options import SimilarityData
from startup_llm.tasks.sentence_similarity.rows import load_similarity, read_corpus
from startup_llm.tasks.text_generation.conversations import (
    JSON_COLUMNS,
    build_conversations,
    find_conversation_form,
    join_prompt,
)
from startup_llm.tasks.text_generation.options import GenerationData
from startup_llm.tasks.text_generation.running_text import load_running_text
from startup_llm.tasks.text_to_text.options import TextPairData
from startup_llm.tasks.text_to_text.rows import load_text_to_text

READ = {"text_column": ["subject", "body"], "clean": "html,signature,quoted"}
TEXT = "subject: late\nbody: Ticket {0}: where is it?"


def ticket(number, **more):
    body = f"<p>Ticket {number}: where is <b>it</b>?</p><p>--<br>Jo Doe<br>Acme</p>"
    return {"subject": "late", "body": body, **more}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def find_texts(rows, column="text"):
    return {text for split in rows.splits.values() for text in split[column]}


def test_texts_to_texts_are_joined_and_cleaned_on_both_sides(tmp_path):
    rows = [ticket(n, answer=f"<div>Answer {n}</div>") for n in range(12)]
    data = load_text_to_text(TextPairData(train_file=write(tmp_path / "a.jsonl", rows), **READ))
    assert find_texts(data) == {TEXT.format(n) for n in range(12)}
    assert find_texts(data, "target") == {f"Answer {n}" for n in range(12)}
    assert any("Removed from the texts: html, signature, quoted" in note for note in data.notes)
    plain = load_text_to_text(TextPairData(train_file=str(tmp_path / "a.jsonl"), text_column="body"))
    assert any("training texts hold HTML" in note and "--data.clean html removes it" in note for note in plain.notes)


@pytest.mark.parametrize(
    "more", [{"positive": "<i>because</i>"}, {"positive": "<i>because</i>", "score": 0.5}, {"label": "a"}]
)
def test_texts_that_are_compared_are_joined_and_cleaned_once(tmp_path, more):
    rows = [ticket(n, **{**more, **({"label": "ab"[n % 2]} if "label" in more else {})}) for n in range(16)]
    data = load_similarity(SimilarityData(train_file=write(tmp_path / "a.jsonl", rows), **READ))
    assert {TEXT.format(n) for n in range(16)} == find_texts(data)
    if "positive" in more:
        assert set(data.splits["train"]["text_pair"]) == {"because"}
    corpus = read_corpus(write(tmp_path / "corpus.jsonl", [ticket(1), ticket(2)]), TextReading.of_config(READ))
    assert [row["text"] for row in corpus] == [TEXT.format(1), TEXT.format(2)]


def read_conversations(path, **options):
    data = GenerationData(train_file=path, **options)
    loaded, data = join_prompt(load_splits(data, as_json=JSON_COLUMNS), data)
    return build_conversations(loaded, data, find_conversation_form(loaded.splits["train"], data))


@pytest.mark.parametrize("answer", ["completion", "output"])
def test_a_prompt_is_joined_and_conversations_are_cleaned(tmp_path, answer):
    rows = [ticket(n, **{answer: f"<p>Answer {n}</p>"}) for n in range(12)]
    data = read_conversations(write(tmp_path / "a.jsonl", rows), **READ)
    turns = {tuple(message["content"] for message in messages) for messages in find_messages(data)}
    assert turns == {(TEXT.format(n), f"Answer {n}") for n in range(12)}


def find_messages(data):
    return [messages for split in data.splits.values() for messages in split["messages"]]


def test_the_turns_of_users_and_the_assistant_are_cleaned_and_a_system_s_stay(tmp_path):
    messages = [("system", "Use <b>HTML</b>"), ("user", "<p>hello</p>"), ("assistant", "<p>hi</p>")]
    row = {"messages": [{"role": role, "content": content} for role, content in messages]}
    data = read_conversations(write(tmp_path / "a.jsonl", [row] * 12), clean="html")
    assert [message["content"] for message in find_messages(data)[0]] == ["Use <b>HTML</b>", "hello", "hi"]


def test_documents_are_joined_and_cleaned_and_text_files_are_not(tmp_path):
    rows = [ticket(n) for n in range(12)]
    data = load_running_text(GenerationData(train_file=write(tmp_path / "a.jsonl", rows), **READ))
    assert find_texts(data) == {TEXT.format(n) for n in range(12)}
    (tmp_path / "a.txt").write_text("a text\n" * 50)
    with pytest.raises(UserError, match=r"data\.clean html: text files are learnt as they stand; leave it out"):
        load_running_text(GenerationData(train_file=str(tmp_path / "a.txt"), clean="html"))


@pytest.mark.parametrize("form", ["list", "json"])
def test_predictions_clean_a_conversation_as_training_does(tmp_path, form):
    conversation = [{"role": "user", "content": "<p>hello</p>"}]
    row = {"messages": conversation if form == "list" else json.dumps(conversation)}
    questions = Questions(
        RowSource(write(tmp_path / "a.jsonl", [row])), ("text",), lambda name, value: None,
        reading=TextReading.of_config({"clean": "html"}),
    )  # fmt: skip
    questions.survey()
    read = TextReading.of_config({"clean": "html"}).read(questions.read())
    assert read["text"] == [[{"role": "user", "content": "hello"}]]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("review", "summary"), ("article", "highlights"), ("question", "answer"), ("source", "target"),
        ("Text", "Summary "), ("body", "reply"), ("document", "headline"),
    ],
)  # fmt: skip
def test_usual_names_of_texts_and_targets_are_found(tmp_path, source, target):
    rows = [{"id": n, source: f"text {n}", target: f"target {n}"} for n in range(12)]
    data = load_text_to_text(TextPairData(train_file=write(tmp_path / "a.jsonl", rows)))
    assert find_texts(data) == {f"text {n}" for n in range(12)}
    assert find_texts(data, "target") == {f"target {n}" for n in range(12)}
    assert f"Found text from column {source!r}, target from column {target!r}." in data.notes


def test_names_that_differ_by_a_blank_or_case_are_shown_in_quotes(tmp_path):
    rows = [{"text": "a", "text ": "b", "summary": "c"}] * 12
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=r"'text', 'text ', 'summary', of which several could be meant"):
        load_text_to_text(TextPairData(train_file=path))
    with pytest.raises(UserError, match=r"no column 'Text' .* only 'text', 'text ', 'summary'; did you mean 'text'"):
        load_text_to_text(TextPairData(train_file=path, text_column="Text"))
