from __future__ import annotations

import json
import random
from pathlib import Path

import datasets
import numpy as np
import pytest

from startup_llm.config import EvaluationConfig
from startup_llm.data.task_data import TaskData
from startup_llm.evaluation.baselines import predict_baselines
from startup_llm.evaluation.metrics import is_share, score_rows
from startup_llm.evaluation.statistics import compute_interval
from startup_llm.tasks import load_task
from startup_llm.tasks.base import find_metric
from startup_llm.tasks.question_answering.baselines import predict_overlap_sentence, predict_sliding_window
from startup_llm.tasks.question_answering.metrics import (
    SQUAD_EXACT_MATCH,
    SQUAD_F1,
    SQUAD_V2_EXACT_MATCH,
    SQUAD_V2_F1,
    normalize_answer,
)

PARTS = [
    "the",
    "The",
    "a",
    "an",
    "A",
    "1999",
    "3.5",
    "café",
    "Café",
    "Zürich",
    "U.S.",
    "us",
    "it's",
    "its",
    "North-West",
]
PARTS += [
    "(the",
    "end)",
    "—",
    "“quoted”",
    "quoted",
    "state",
    "of",
    "art",
    "  ",
    "\t",
    "\u00a0",
    "naïve",
    "東京",
    "theory",
]
PARTS += ["AN", "!"]
OFFICIAL = json.loads(Path(__file__).with_name("squad_scores.json").read_text())
"""What SQuAD's evaluation of version 1.1 and, for 2.0, transformers 4.57's squad_metrics give for `build_cases`."""


def build_cases(count: int) -> tuple[list[list[str]], list[dict]]:
    """Return true answers and a given one for each case, from a seed; only `random` itself is the same everywhere."""
    draw = random.Random(0).random

    def write(most: int) -> str:
        return " ".join(PARTS[int(draw() * len(PARTS))] for _ in range(int(draw() * most)))

    references, predictions = [], []
    for _ in range(count):
        answers = [write(5) for _ in range(1 + int(draw() * 4))]
        source = answers[int(draw() * len(answers))]
        given = source.upper() if draw() < 0.15 else f"{source}, {write(3)}" if draw() < 0.35 else write(6)
        references.append(answers)
        predictions.append({"text": given})
    return references, predictions


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_a_thousand_answers_have_the_official_value(name):
    references, predictions = build_cases(1000)
    metric = find_metric(load_task("question-answering"), name)
    found = metric.count(references, predictions)
    np.testing.assert_allclose(found[:, 0], OFFICIAL[name], atol=1e-6)
    assert metric.compute(references, predictions) == pytest.approx(np.mean(OFFICIAL[name]), abs=1e-6)
    assert is_share(name)


def test_the_two_versions_differ_in_answers_of_which_nothing_is_left():
    references, predictions = [["The", "Dutch"]], [{"text": "the"}]
    assert [metric.compute(references, predictions) for metric in (SQUAD_EXACT_MATCH, SQUAD_F1)] == [1, 0]
    assert SQUAD_V2_EXACT_MATCH.compute(references, predictions) == 0
    assert SQUAD_V2_F1.compute([[""]], [{"text": ""}]) == 1
    assert SQUAD_V2_F1.compute([[""]], [{"text": "x"}]) == 0


def test_normal_form_keeps_letters_that_are_not_ascii():
    assert normalize_answer("The  Café,\u00a0in (a) Zürich!") == "café in zürich"
    assert normalize_answer("theory") == "theory"


def test_the_published_object_gives_the_same_and_an_interval_lies_around_it():
    references, predictions = build_cases(60)
    given = [{**prediction, "start": 0, "end": 1, "score": 0.5} for prediction in predictions]
    value = SQUAD_F1.compute(references, given)
    assert score_rows(SQUAD_F1, references, given) == pytest.approx(value)
    interval = compute_interval(SQUAD_F1, references, given, EvaluationConfig(resamples=100))
    assert interval.low < interval.value < interval.high


def build_data(*rows: tuple[str, str, list[str]]) -> TaskData:
    questions, contexts, answers = zip(*rows, strict=True)
    columns = {"question": questions, "context": contexts, "answers": answers}
    split = datasets.Dataset.from_dict({name: list(values) for name, values in columns.items()})
    return TaskData(datasets.DatasetDict({"train": split, "test": split}))


def test_the_sentence_with_most_words_of_the_question_is_taken():
    context = "Ada was born in London. Her father, Dr. Byron, left in 1816! She wrote the first program in 1843."
    data = build_data(
        ("When did she write the first program?", context, ["1843"]), ("Who left in 1816?", context, ["x"])
    )
    found = predict_overlap_sentence(data.splits, data)
    assert found[0]["text"] == "She wrote the first program in 1843."
    assert "left in 1816!" in found[1]["text"]
    assert all(context[answer["start"] : answer["end"]] == answer["text"] for answer in found)


def test_the_sliding_window_stands_beside_the_question_s_words_and_holds_none_of_them():
    context = (
        "Albert sang. " + "Rain fell on green hills. " * 6 + "In Ulm Albert Einstein was born. " + "It was cold. " * 6
    )
    data = build_data(("Where was Albert Einstein born?", context, ["Ulm"]))
    (found,) = predict_sliding_window(data.splits, data)
    assert abs(found["start"] - context.index("Einstein")) < 60
    assert found["text"].lower() not in ("where", "was", "albert", "einstein", "born")
    assert context[found["start"] : found["end"]] == found["text"]


def test_baselines_answer_every_context_and_saying_nothing_is_one():
    data = build_data(("why?", "Word", ["Word"]), ("?", "...", []), ("a b c", "a b c", ["a b c d"]))
    predicted = predict_baselines(load_task("question-answering").baselines(data), data)
    assert list(predicted) == ["overlap-sentence", "sliding-window", "no-answer"]
    for found in predicted.values():
        assert len(found) == 3
        assert all(set(answer) == {"text", "start", "end", "score"} for answer in found)
    assert all(answer["text"] == "" for answer in found)
