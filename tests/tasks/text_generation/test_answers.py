"""How predict.py asks a language model: one text on the console, several turns, stop texts, samples and seeds."""

from __future__ import annotations

import csv
import json

import pytest
from chat_checkpoints import build_chat_checkpoint

from startup_llm.tasks.text_generation.chat_templates import TEMPLATES
from startup_llm.tasks.text_generation.continuation import ShownText

TURNS = [
    {"role": "user", "content": "please refund my order"},
    {"role": "assistant", "content": "which order"},
    {"role": "user", "content": "the parcel has not arrived"},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "base"
    return build_chat_checkpoint("llama", folder, TEMPLATES["chatml"], initializer_range=0.6)


@pytest.fixture
def ask(run_recipe, checkpoint, tmp_path):
    def ask(*words, rows=None):
        if rows is None:
            return run_recipe("predict", "--run", checkpoint, "--task", "text-generation", *words)
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = ["--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", "--overwrite", "true"]
        code, _, err = run_recipe("predict", "--run", checkpoint, "--task", "text-generation", *files, *words)
        assert code == 0, err[-3000:]
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    return ask


def test_one_text_is_shown_as_a_file_s_row_is_answered(ask, run_recipe, checkpoint, tmp_path):
    [row] = ask("--max_new_tokens", 20, rows=[{"messages": TURNS}])
    code, out, err = ask("--max_new_tokens", 20, "--text", json.dumps(TURNS))
    assert code == 0, err[-3000:]
    assert out == row["generated_text"] + "\n"
    assert len(out) > 10
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["number", "messages"], [1, json.dumps(TURNS)]])
    files = ["--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv", "--max_new_tokens", 20]
    code, _, err = run_recipe("predict", "--run", checkpoint, "--task", "text-generation", *files)
    assert code == 0, err[-3000:]
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [one["generated_text"] for one in csv.DictReader(file)] == [row["generated_text"]]


def test_an_answer_ends_before_a_stop_text(ask):
    rows = [{"messages": TURNS}, {"messages": TURNS[:1]}]
    whole = [row["generated_text"] for row in ask("--max_new_tokens", 20, rows=rows)]
    mark = whole[0][len(whole[0]) // 2 :][:2]
    words = ["--max_new_tokens", 20, "--stop", json.dumps([mark])]
    cut = [row["generated_text"] for row in ask(*words, rows=rows)]
    assert cut == [text.partition(mark)[0] for text in whole]
    assert cut[0] != whole[0]
    code, out, err = ask(*words, "--text", json.dumps(TURNS))
    assert code == 0, err[-3000:]
    assert out == cut[0] + "\n"


def test_samples_are_drawn_by_the_seed(ask):
    words, rows = ["--max_new_tokens", 12, "--samples", 3], [{"messages": TURNS}, {"text": "x", "messages": TURNS[:1]}]
    first, again, other = (ask(*words, "--seed", seed, rows=rows) for seed in (1, 1, 2))
    assert first == again != other
    assert all(len(set(row["generated_texts"])) == 3 for row in first)
    assert "generated_text" not in first[0]
    greedy = ask("--max_new_tokens", 12, "--temperature", 0, rows=rows)
    assert greedy == ask("--max_new_tokens", 12, rows=rows)
    code, out, err = ask(*words, "--text", json.dumps(TURNS))
    assert code == 0, err[-3000:]
    assert out.count("\n") >= 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --input FILE and --output FILE, or --text TEXT"),
        (["--text", "hi", "--input", "a.csv"], "leave out --input and --output"),
        (["--text", " "], "--text has no text"),
        (["--text", json.dumps(TURNS[:2])], "--text ends with the assistant, so there is nothing to answer"),
        (["--text", "hi", "--stop", "['']"], "stop: expected texts of at least one character"),
        (["--text", "hi", "--samples", 2, "--temperature", 0], "samples 2: at temperature 0 all are the same"),
    ],
)
def test_a_mistake_is_one_line(ask, words, message):
    code, _, err = ask(*words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_classifier_answers_one_text_and_draws_nothing(run_recipe, tiny_checkpoint):
    words = ["--run", tiny_checkpoint("bert"), "--text", "please refund my order"]
    code, _, err = run_recipe("predict", *words, "--samples", 2)
    assert code == 2
    assert "samples 2: text-classification draws no texts; leave it out" in err


def test_a_stop_text_in_pieces_is_not_shown():
    shown = []
    text = ShownText(shown.append, ["User:", "##"])
    for piece in ("Yes. ", "#1 Us", "e it. Us", "er", ": more"):
        text.add(piece, ends=False)
    text.add("", ends=True)
    assert "".join(shown) == "Yes. #1 Use it. "
