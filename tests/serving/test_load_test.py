"""The load test, against a server that answers and one that does not."""

import json

import pytest
from served_models import TEXTS, run_service

from startup_llm.benchmark.options import BenchmarkConfig
from startup_llm.benchmark.serving_load import build_load_table, judge_load, summarize_load
from startup_llm.errors import UserError
from startup_llm.serving.load_test import Question, Server, check_load_test, is_alike


def build_record(name, clients, requests, **changes):
    record = summarize_load(name, clients, 2.0, [0.01] * requests, {"wrong": 0, "refused": 0, "lost": 0})
    return {**record, "server_cores": 1.0, "rss_start_bytes": 2**30, "rss_end_bytes": 2**30, **changes}


@pytest.fixture
def questions(client):
    answers = client.post("/predict", json={"inputs": TEXTS}).json()["answers"]
    pairs = zip(TEXTS, answers, strict=True)
    return [Question(json.dumps({"inputs": text}).encode(), answer) for text, answer in pairs]


@pytest.fixture
def server(client):
    import psutil

    return Server(str(client.base_url).rstrip("/"), psutil.Process())


def test_right_answers_are_counted_and_timed(server, questions):
    record = server.measure("8 clients", 8, questions, 0.3, 50)
    assert record["requests"] >= 50
    assert (record["wrong"], record["refused"], record["lost"]) == (0, 0, 0)
    assert 0 < record["p50_ms"] <= record["p95_ms"] <= record["p99_ms"]
    assert record["rss_end_bytes"] > 2**20


def test_wrong_refused_and_lost_answers_are_told_apart(server, questions, classifier):
    wrong = [Question(one.body, {**one.answer, "score": one.answer["score"] + 1e-3}) for one in questions]
    assert server.measure("wrong", 2, wrong, 0.0, 10)["wrong"] == 10
    assert server.measure("refused", 2, [Question(b"{", {})], 0.0, 4)["refused"] == 4
    with run_service(classifier) as (client, _):
        gone = Server(str(client.base_url).rstrip("/"), server.process)
    assert gone.measure("lost", 2, questions, 0.0, 4)["lost"] == 4


def test_numbers_are_compared_and_nothing_else_is_rounded():
    expected = {"label": "a", "score": 0.5, "spans": [{"start": 1, "score": 0.25}]}
    assert is_alike({"label": "a", "score": 0.500009, "spans": [{"start": 1, "score": 0.25}]}, expected)
    for change in ({"label": "b"}, {"score": 0.50002}, {"score": "0.5"}, {"spans": []}, {"spans": [{"start": 2}]}):
        assert not is_alike({**expected, **change}, expected)
    assert not is_alike({**expected, "more": 1}, expected)


def test_the_verdict_names_the_gain_of_batches_and_every_fault():
    one = build_record("one by one", 1, 100)
    reached, missed = build_record("32 clients", 32, 300), build_record("200 clients", 200, 290)
    assert "With 32 clients batches answer 3.0 times" in build_load_table([one, reached, missed])
    assert "is reached" in judge_load([one, reached, missed])[1]
    assert "is not reached" in judge_load([one, missed])[1]
    faulty = build_record("32 clients", 32, 300, wrong=1, lost=2, rss_end_bytes=2**30 + 2**24)
    sentences = judge_load([one, faulty])
    assert sentences[0].endswith("1 wrong, 0 refused, 2 lost.")
    assert "+16 MiB" in sentences[-1]
    assert "compared with predict.py's (to 1e-5): " in sentences[0]


def test_a_load_test_needs_a_finished_run(classifier):
    with pytest.raises(UserError, match="--run runs/NAME"):
        check_load_test(BenchmarkConfig(what="serving"))
    with pytest.raises(UserError, match="plain checkpoint"):
        check_load_test(BenchmarkConfig(what="serving", run=str(classifier)))
    with pytest.raises(UserError, match="no finished run"):
        check_load_test(BenchmarkConfig(what="serving", run="runs/none"))
