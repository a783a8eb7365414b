"""Answers that a server explains on request, and the batches of others beside them."""

import asyncio
import json
import shutil
import threading

import httpx
import pytest
from served_models import LABELS, TEXTS, run_service

from startup_llm.config import PredictConfig
from startup_llm.runs.prediction import find_run, load_answering_model

ROWS = [TEXTS[0], TEXTS[1]]


@pytest.fixture(scope="module")
def explained(classifier):
    """What predict.py --explain answers to ROWS."""
    config = PredictConfig(run=str(classifier), explain=True)
    task, folder, _ = find_run(config)
    return load_answering_model(config, task, folder).answer({"text": ROWS})


def assert_alike(answers, expected):
    assert [set(answer) for answer in answers] == [set(answer) for answer in expected]
    for answer, other in zip(answers, expected, strict=True):
        assert answer["label"] == other["label"]
        assert answer["completeness_error"] == pytest.approx(other["completeness_error"], abs=2e-3)
        assert {word["word"]: word["weight"] for word in answer["explanation"]} == pytest.approx(
            {word["word"]: word["weight"] for word in other["explanation"]}, abs=2e-3
        )


def test_explained_answers_are_those_of_predict(client, explained):
    by_key = client.post("/predict", json={"inputs": ROWS, "explain": True}).json()["answers"]
    by_parameter = client.post("/predict", params={"explain": True}, json={"inputs": ROWS}).json()["answers"]
    assert_alike(by_key, explained)
    assert_alike(by_parameter, explained)
    plain = client.post("/predict", json={"inputs": ROWS, "explain": False}).json()["answers"]
    assert [set(answer) for answer in plain] == [{"label", "score"}] * len(ROWS)
    assert client.get("/info").json()["explains"] is True


def test_batches_beside_an_explanation_have_the_answers_that_they_have_without(client, explained):
    expected = client.post("/predict", json={"inputs": TEXTS}).json()["answers"]

    async def ask_all():
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as many:

            async def ask_while(explaining):
                answers = []
                while not explaining.done():
                    answers += [(await many.post("/predict", json={"inputs": TEXTS})).json()["answers"]]
                return answers

            asked = [many.post("/predict", json={"inputs": ROWS, "explain": True}) for _ in range(4)]
            explaining = asyncio.gather(*asked)
            return await ask_while(explaining), await explaining

    plain, answers = asyncio.run(ask_all())
    for answer in answers:
        assert_alike(answer.json()["answers"], explained)
    assert len(plain) > 1
    for batch in plain:
        assert [row["score"] for row in batch] == pytest.approx([row["score"] for row in expected], abs=1e-5)


def test_an_explanation_that_takes_long_holds_up_nobody_and_a_full_queue_refuses(classifier, monkeypatch):
    with run_service(classifier, max_explained_rows=1, timeout_seconds=2.0) as (client, service):
        explain, go_on = service.explanations._compute, threading.Event()
        monkeypatch.setattr(service.explanations, "_compute", lambda rows: go_on.wait() and explain(rows))
        answers = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(client.post("/predict", json={"inputs": "a", "explain": True}))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for _ in range(20):
            assert client.post("/predict", json={"inputs": "a"}).status_code == 200
        for thread in threads:
            thread.join()
        go_on.set()
        assert sorted({answer.status_code for answer in answers}) == [429, 504]
        assert client.post("/predict", json={"inputs": "a", "explain": True}).status_code == 200


def test_what_is_not_explained_is_refused_in_one_line(client, tiny_checkpoint, monkeypatch):
    many = client.post("/predict", json={"inputs": ["a"] * 9, "explain": True})
    assert (many.status_code, many.json()["error"]) == (422, "9 rows to explain; expected 1 to 8 in one request")
    assert client.post("/predict", json={"inputs": "a", "explain": "yes"}).status_code == 422
    assert client.post("/predict", params={"explain": "perhaps"}, json={"inputs": "a"}).status_code == 422
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lacking = client.post("/predict", json={"inputs": "a", "explain": True})
    assert (lacking.status_code, "pip install 'startup-llm[explain]'" in lacking.json()["error"]) == (501, True)
    assert 'id="explain"' not in client.get("/").text
    monkeypatch.undo()
    with run_service(tiny_checkpoint("bert"), task="sentence-similarity") as (other, _):
        answer = other.post("/predict", json={"inputs": {"text": "a", "text_pair": "b"}, "explain": True})
        assert (answer.status_code, "sentence-similarity" in answer.json()["error"]) == (501, True)


def test_training_rows_are_shown_only_where_that_is_asked_for(classifier, tmp_path):
    shutil.copytree(classifier, tmp_path / "run" / "model")
    rows = "".join(
        f'"{text} {number}",{label}\n' for number in range(20) for text, label in zip("abc", LABELS, strict=True)
    )
    (tmp_path / "train.csv").write_text("text,label\n" + rows)
    data = {"train_file": str(tmp_path / "train.csv")}
    results = {"task": "text-classification", "config": {"data": data}, "columns": ["text"]}
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    body = {"inputs": "a 1", "explain": True}
    with run_service(tmp_path / "run") as (client, _):
        assert "alike" not in client.post("/predict", json=body).json()["answers"][0]
    with run_service(tmp_path / "run", show_training_rows=True) as (client, _):
        alike = client.post("/predict", json=body).json()["answers"][0]["alike"]
        assert len(alike) == 3
        assert {row["label"] for row in alike} <= set(LABELS)
    (tmp_path / "train.csv").unlink()
    with run_service(tmp_path / "run", show_training_rows=True) as (client, _):
        answer = client.post("/predict", json=body)
        assert (answer.status_code, "leave out --show_training_rows" in answer.json()["error"]) == (501, True)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_marks_the_words_and_says_their_part(client):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    text = "where is my parcel"
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        page = browser.new_page()
        page.goto(str(client.base_url))
        page.fill("#column-text", text)
        page.check("#explain")
        page.click("#ask button")
        page.wait_for_selector("#why mark")
        (answer,) = client.post("/predict", json={"inputs": text, "explain": True}).json()["answers"]
        expected = {word["word"]: word["weight"] for word in answer["explanation"]}
        for mark in page.locator("#why mark").all():
            word, part = mark.inner_text().split()
            assert float(part.replace("−", "-")) == pytest.approx(expected[word], abs=0.011)
        assert page.locator("#why mark").count() == len(expected)
        assert "explanation" not in page.inner_text("#rows")
