"""A prompted language model beside the tuned one, over a real server on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import MESSAGES
from loopback_llm import LoopbackLlm, serve_llm

from startup_llm.errors import UserError
from startup_llm.evaluation.chat_endpoint import AnswerFile, ChatEndpoint, ask_all
from startup_llm.tasks.text_classification.llm_baseline import read_labels

KEY = "sk-secret-of-the-test"
NAMES = list(MESSAGES)


def find_intent(messages):
    text = messages[-1]["content"]
    return next(name for name, texts in MESSAGES.items() if any(text.startswith(one) for one in texts))


@pytest.fixture
def rows(tmp_path):
    for split, count in (("train", 8), ("test", 4)):
        lines = [
            json.dumps({"text": f"{text} {number}", "label": name})
            for name, texts in MESSAGES.items()
            for number in range(count)
            for text in texts[:1]
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def words(rows, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    words = ["--method", "probe", "--model.checkpoint", tiny_checkpoint("bert"), "--data.data_dir", rows]
    words += ["--run_dir", rows / "run", "--evaluation.resamples", 50, "--train.disable_tqdm", "true"]
    return [*words, "--baselines.llm.model", "served", "--baselines.llm.answers", rows / "answers.jsonl"]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_prompted_model_stands_beside_the_tuned_one_and_is_not_asked_twice(run_recipe, rows, words):
    prices = ["--baselines.llm.dollars_per_million_input_tokens", 2, "--preflight.dollars_per_hour", 1]
    prices += ["--baselines.llm.dollars_per_million_output_tokens", 10]
    with serve_llm(LoopbackLlm(lambda messages: f"Label: **{find_intent(messages).upper()}**.")) as llm:
        llm.faults = [429, "garbage", 500]
        words += ["--baselines.llm.base_url", llm.url, *prices]
        code, out, err = run_recipe("finetune", *words)
        assert code == 0, err[-3000:]
        assert len(llm.requests) == 3 + 12
        headers, body = llm.requests[0]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["temperature"] == 0
    assert all(f"- {name}" in body["messages"][0]["content"] for name in NAMES)
    shown = [message["content"] for message in body["messages"][1:-1] if message["role"] == "assistant"]
    assert sorted(shown) == sorted(NAMES)
    kept = read(rows / "answers.jsonl")
    assert len(kept) == 12
    assert kept[0]["dollars"] == pytest.approx((100 * 2 + 2 * 10) / 1e6)
    assert kept[0].keys() >= {"prompt_sha256", "input_tokens", "output_tokens", "latency_seconds", "text"}

    run = rows / "run"
    results = json.loads((run / "results.json").read_text())
    assert results["models"]["prompted-llm"]["accuracy"]["value"] == 1
    assert any(comparison["b"] == "prompted-llm" for comparison in results["comparisons"])
    costs = results["prompted_llm"]
    assert costs["compared"]["prompted-llm"]["dollars_per_1000"] == pytest.approx(0.22)
    assert costs["compared"]["linear-probe"]["latency_ms_median"] > 0
    saved = (0.22 - costs["compared"]["linear-probe"]["dollars_per_1000"]) / 1000
    assert costs["break_even_rows"] == int(np.ceil(costs["training_dollars"] / saved))
    sentence = f"linear-probe pays from {costs['break_even_rows']:,} rows"
    for text in (out, (run / "report.html").read_text(), (run / "README.md").read_text()):
        assert sentence in " ".join(text.replace("\\", "").split())
    for file in [*run.rglob("*"), rows / "answers.jsonl"]:
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file

    code, again, err = run_recipe("finetune", *words, "--overwrite", "true", "--baselines.llm.offline", "true")
    assert code == 0, err[-3000:]
    assert "12 answers from" in again
    repeated = json.loads((run / "results.json").read_text())
    assert repeated["models"]["prompted-llm"] == results["models"]["prompted-llm"]
    code, _, err = run_recipe(
        "finetune", *words, "--overwrite", "true", "--baselines.llm.offline", "true", "--evaluation.seed", 3
    )
    assert code == 2
    assert "has no answer to 12 test rows (1, 2, 3" in err


def test_rows_without_an_answer_are_named_and_the_others_kept(run_recipe, rows, words):
    def answer(messages):
        if messages[-1]["content"].endswith("2"):
            llm.faults.append("garbage")  # the next request's
        return find_intent(messages)

    with serve_llm(LoopbackLlm(answer)) as llm:
        words += ["--baselines.llm.base_url", llm.url, "--baselines.llm.parallel_requests", 1]
        words += ["--baselines.llm.attempts", 1]
        code, _, err = run_recipe("finetune", *words)
        assert code == 2
        assert "gave no answer to 3 test rows (4, 8, 12) (HTTP 200: <html>proxy</html>)" in err
        assert not (rows / "run").exists()
        assert len(read(rows / "answers.jsonl")) == 9
        asked = len(llm.requests)
        llm.answer = find_intent
        llm.faults = []
        code, _, err = run_recipe("finetune", *words)
        assert code == 0, err[-3000:]
        assert len(llm.requests) - asked == 3


def build_endpoint(url, **options):
    values = {"parameters": {}, "api_key_variable": "OPENAI_API_KEY", "timeout_seconds": 0.2, "attempts": 2}
    return ChatEndpoint(url, "served", parallel_requests=2, **values | options)


PROMPTS = [[{"role": "user", "content": f"please refund my order {number}"}] for number in range(4)]


def test_a_timeout_is_tried_again_and_a_refused_prompt_is_an_answer(tmp_path):
    refuses = lambda messages: messages[-1]["content"].endswith("3")  # noqa: E731
    with serve_llm(LoopbackLlm(find_intent, ["slow"], refuses)) as llm:
        file = AnswerFile(tmp_path / "a.jsonl")
        answers, asked = ask_all(build_endpoint(llm.url), PROMPTS, file, names=[1, 2, 3, 4])
    assert asked == 4
    assert [answer.text for answer in answers] == ["refund"] * 3 + [""]
    assert "content filter" in answers[3].refused
    assert read_labels([answer.text for answer in answers], NAMES).tolist() == [0, 0, 0, 3]
    again, asked = ask_all(build_endpoint(llm.url), PROMPTS, AnswerFile(tmp_path / "a.jsonl"), names=[1, 2, 3, 4])
    assert (again, asked) == (answers, 0)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([401], "HTTP 401: fault; sent Bearer ***; the key in OPENAI_API_KEY is refused"),
        ([404], "does not take the request for model 'served'"),
        ([400], "does not take the request for model 'served'"),
        ([429, 429], "gave no answer to 4 test rows (1, 2, 3, 4) (HTTP 429"),
        (["slow", "slow"], "gave no answer to 4 test rows (1, 2, 3, 4) (ReadTimeout"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_is_one_line_without_the_key(tmp_path, monkeypatch, faults, message):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve_llm(LoopbackLlm(find_intent, faults)) as llm, pytest.raises(UserError) as error:
        ask_all(build_endpoint(llm.url), PROMPTS, AnswerFile(tmp_path / "a.jsonl"), names=[1, 2, 3, 4])
    assert message in str(error.value)
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_half_written_line_is_dropped_and_a_strange_file_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    with serve_llm(LoopbackLlm(find_intent)) as llm:
        ask_all(build_endpoint(llm.url), PROMPTS[:2], AnswerFile(path), names=[1, 2])
        with path.open("a") as file:
            file.write('{"prompt_sha256": "ab')
        _, asked = ask_all(build_endpoint(llm.url), PROMPTS, AnswerFile(path), names=[1, 2, 3, 4])
    assert asked == 2
    assert len(read(path)) == 4
    path.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="line 1 is no answer of a language model"):
        AnswerFile(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base_url", "http://me:word@host/v1"], "holds a user, a password or a query"),
        (["base_url", "host/v1"], "base_url 'host/v1': expected an address"),
        (["attempts", 0], "option baselines.llm.attempts: expected"),
        (["modle", "x"], "unknown option baselines.llm.modle; did you mean baselines.llm.model?"),
    ],
)
def test_a_mistake_is_one_line(run_recipe, words, rows, tiny_checkpoint, message):
    options = ["--model.checkpoint", tiny_checkpoint("bert"), "--data.data_dir", rows, "--run_dir", rows / "run"]
    options += ["--baselines.llm.model", "x", f"--baselines.llm.{words[0]}", words[1]]
    code, _, err = run_recipe("finetune", *options)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_other_tasks_have_no_prompted_model(run_recipe):
    code, _, err = run_recipe("finetune", "--task", "image-classification", "--baselines.llm.model", "x")
    assert code == 2
    assert "unknown option baselines.llm.model for image-classification; it belongs to text-classification" in err


def test_answers_are_read_whatever_their_form():
    names = ["card_arrival", "card-lost", "Refund", "card"]
    answers = ["card_arrival", " Card arrival.", '"refund"', "The label is: card lost", "card lost or refund", "none"]
    answers += ["<think>refund? no</think>\ncard", "cardio"]
    assert read_labels(answers, names).tolist() == [0, 0, 2, 1, 4, 4, 3, 4]


@pytest.mark.slow
def test_the_server_of_transformers_is_asked_with_the_packaged_model(run_recipe, rows, words, tmp_path):
    from transformers.utils.import_utils import is_serve_available

    from startup_llm.config import ModelConfig
    from startup_llm.models.checkpoints import load_checkpoint

    if not is_serve_available():
        pytest.skip("transformers serve needs transformers[serving]")
    try:
        folder = str(load_checkpoint(ModelConfig(checkpoint="HuggingFaceTB/SmolLM2-135M-Instruct")).path)
    except UserError as error:
        pytest.skip(str(error))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", folder]
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*start, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        words += ["--baselines.llm.base_url", f"http://127.0.0.1:{port}/v1", "--baselines.llm.parallel_requests", 1]
        words += ["--baselines.llm.model", folder, "--baselines.llm.max_answer_tokens", 8]
        code, _, err = run_recipe("finetune", *words)
        assert code == 0, err[-3000:]
    finally:
        server.terminate()
        server.wait()
    kept = read(rows / "answers.jsonl")
    assert len(kept) == 12
    assert all(answer["input_tokens"] > 50 and 0 < answer["output_tokens"] <= 8 for answer in kept)
    results = json.loads((rows / "run" / "results.json").read_text())
    assert results["models"]["prompted-llm"]["accuracy"]["value"] > 0.3  # of three labels, by a small model


def _wait_for(url, server):
    for _ in range(150):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            time.sleep(1)
        else:
            return
    raise AssertionError(f"nothing answers at {url}")
