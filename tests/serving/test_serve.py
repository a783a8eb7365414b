import asyncio
import base64
import json
import shutil
import socket
import threading
import time

import httpx
import pytest
from served_models import KEY, LABELS, TEXTS, run_service

from startup_llm.config import ServeConfig
from startup_llm.errors import UserError
from startup_llm.serving.batching import Batcher
from startup_llm.serving.server import open_socket, read_key


@pytest.fixture(scope="module")
def predicted(classifier, tmp_path_factory):
    """What predict.py writes for TEXTS."""
    import runpy
    import sys
    from pathlib import Path

    folder = tmp_path_factory.mktemp("predicted")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    recipe = Path(__file__).parents[2] / "recipes" / "predict.py"
    words = ["--run", classifier, "--input", folder / "rows.jsonl", "--output", folder / "answers.jsonl"]
    before, sys.argv = sys.argv, [str(recipe), *map(str, words)]
    try:
        runpy.run_path(str(recipe), run_name="__main__")
    finally:
        sys.argv = before
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def is_like(answer, expected):
    return answer["label"] == expected["label"] and answer["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_answers_are_those_of_predict(client, predicted):
    assert len({row["label"] for row in predicted}) > 1
    together = client.post("/predict", json={"inputs": TEXTS}).json()["answers"]
    alone = [client.post("/predict", json={"inputs": text}).json()["answers"][0] for text in TEXTS]
    by_column = client.post("/predict", json={"inputs": [{"text": text} for text in TEXTS]}).json()["answers"]
    for answers in (together, alone, by_column):
        assert all(map(is_like, answers, predicted))
        assert [set(answer) for answer in answers] == [{"label", "score"}] * len(TEXTS)


def test_200_clients_at_once_get_their_own_answers(client, predicted):
    async def ask_all():
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60, limits=limits) as many:
            return await asyncio.gather(
                *(many.post("/predict", json={"inputs": TEXTS[number % len(TEXTS)]}) for number in range(200))
            )

    for number, answer in enumerate(asyncio.run(ask_all())):
        assert answer.status_code == 200
        assert is_like(answer.json()["answers"][0], predicted[number % len(TEXTS)])
    figures = client.get("/metrics").text
    batches = float(next(line for line in figures.splitlines() if "batch_rows_count" in line).split()[1])
    rows = float(next(line for line in figures.splitlines() if line.startswith("startup_llm_rows_total")).split()[1])
    assert batches < rows / 2  # requests were computed together


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 422, "JSON"),
        (b'{"inputs": ', 422, "JSON"),
        (b"[" * 100_000, 422, "JSON"),
        (b'{"inputs": "\xff"}', 422, "JSON"),
        (b'{"inputs": 3}', 422, "inputs"),
        (b'{"inputs": []}', 422, "expected 1 to 256"),
        (b'{"inputs": ["a", "  "]}', 422, "row 2: column 'text' has no text"),
        (b'{"inputs": [{"txet": "a"}]}', 422, "did you mean text?"),
        (b'{"inputs": [{"text": null}]}', 422, "has no text"),
        (b'{"inputs": [{"text": 3}]}', 422, "expected text"),
        (b'{"inputs": [{}]}', 422, "no column 'text'"),
        (b'{"inputs": "\\ud800"}', 422, "JSON"),
        (b'{"inputs": "a", "inptus": "b"}', 422, "inptus"),
        (json.dumps({"inputs": ["a"] * 257}).encode(), 422, "257 rows"),
        (json.dumps({"inputs": "a" * 10_000_000}).encode(), 413, "larger than 4,000,000 bytes"),
    ],
)
def test_a_bad_request_gets_its_reason_in_one_line(client, content, status, said):
    answer = client.post("/predict", content=content)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text
    assert "\n" not in answer.json()["error"]
    assert client.post("/predict", json={"inputs": "a refund"}).status_code == 200


def test_a_body_without_a_length_is_limited_too(client):
    answer = client.post("/predict", content=(b"x" * 100_000 for _ in range(100)))
    assert answer.status_code == 413


@pytest.mark.slow
def test_200_clients_and_a_small_queue_none_is_lost_or_left_without_a_reason(classifier, predicted):
    async def ask_all(address):
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as many:

            async def ask(number):
                refused = 0
                while (answer := await many.post("/predict", json={"inputs": TEXTS[number % 7]})).status_code == 429:
                    assert "the limit is 64; try again later" in answer.json()["error"]
                    assert answer.headers["Retry-After"] == "1"
                    refused += 1
                    await asyncio.sleep(0.1 * refused)
                return answer, refused

            return await asyncio.gather(*(ask(number) for number in range(200)))

    with run_service(classifier, max_queue_rows=64, max_batch_rows=64) as (client, _):
        answers = asyncio.run(ask_all(client.base_url))
    assert sum(refused for _, refused in answers) > 0
    for number, (answer, _) in enumerate(answers):
        assert is_like(answer.json()["answers"][0], predicted[number % 7])


def test_a_body_that_dribbles_in_is_ended_and_holds_up_nobody(classifier, predicted):
    with run_service(classifier, timeout_seconds=1.0) as (client, _):
        slow = send_raw(client, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        slow.settimeout(0.05)
        said, end = b"", time.monotonic() + 20
        while not said and time.monotonic() < end:
            slow.sendall(b" ")
            assert is_like(client.post("/predict", json={"inputs": TEXTS[0]}).json()["answers"][0], predicted[0])
            try:
                said = slow.recv(1000)
            except TimeoutError:
                continue
        slow.settimeout(10)
        said += read_to_end(slow)
        assert b"408" in said
        assert b"did not arrive within 1 s" in said


def send_raw(client, content):
    sender = socket.create_connection(("127.0.0.1", client.base_url.port), timeout=10)
    sender.sendall(content)
    return sender


def read_to_end(connection):
    """Return all that a server says until it closes, however many packets it comes in, and close too."""
    with connection, connection.makefile("rb") as reader:
        return reader.read()


def test_clients_that_leave_or_stall_do_no_harm(classifier, predicted):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with run_service(classifier, timeout_seconds=1.0) as (client, _):
        for _ in range(20):
            send_raw(client, head + b'{"inputs": "a te').close()
            send_raw(client, b"nonsense\r\n\r\n").close()
        slow = send_raw(client, head + b'{"inputs"')
        answers = client.post("/predict", json={"inputs": TEXTS}).json()["answers"]
        assert all(map(is_like, answers, predicted))
        assert b"408" in read_to_end(slow)


def test_a_full_queue_refuses_and_a_late_answer_says_so(classifier, monkeypatch):
    with run_service(classifier, max_queue_rows=2, timeout_seconds=0.5, max_wait_ms=0) as (client, service):
        compute, go_on = service.batcher._compute, threading.Event()
        monkeypatch.setattr(service.batcher, "_compute", lambda rows: go_on.wait() and compute(rows))
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post("/predict", json={"inputs": "a"})))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        go_on.set()
        assert sorted({answer.status_code for answer in answers}) == [429, 504]
        assert all(answer.json()["error"] for answer in answers)
        time.sleep(0.2)
        assert client.post("/predict", json={"inputs": "a"}).status_code == 200


def test_a_key_is_asked_for_and_the_documentation_then_shows_no_texts(classifier):
    with run_service(classifier, key=KEY) as (client, _):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer é"}):
            sent = {name: value.encode() for name, value in headers.items()}
            assert client.post("/predict", json={"inputs": "a"}, headers=sent).status_code == 401
            assert client.get("/info", headers=sent).status_code == 401
        right = {"Authorization": f"Bearer {KEY}"}
        assert client.post("/predict", json={"inputs": "a"}, headers=right).status_code == 200
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").status_code == 200
        assert list_examples(client)["one"]["value"] == {"inputs": {"text": "...", "text_pair": "..."}}


def test_a_reload_under_load_loses_no_request_and_mixes_no_answers(classifier, successor, predicted):
    right = {"Authorization": f"Bearer {KEY}"}
    with run_service(classifier, key=KEY) as (client, service):
        expected = {service.model.sha256: predicted}
        reloaded, answers = {}, []

        async def ask_all():
            limits = httpx.Limits(max_connections=100)
            async with httpx.AsyncClient(base_url=client.base_url, timeout=60, limits=limits, headers=right) as many:

                async def ask(number):
                    await asyncio.sleep(number / 100)
                    answers.append(await many.post("/predict", json={"inputs": TEXTS}))

                async def reload():
                    await asyncio.sleep(0.5)
                    answer = await many.post("/admin/reload", json={"run": str(successor)})
                    reloaded.update(answer.json())

                await asyncio.gather(reload(), *(ask(number) for number in range(150)))

        asyncio.run(ask_all())
        assert reloaded["before"] in expected
        after = client.post("/predict", json={"inputs": TEXTS}, headers=right).json()
        expected[after["model_sha256"]] = after["answers"]
        assert len(expected) == 2
        for answer in answers:
            assert answer.status_code == 200
            body = answer.json()
            assert all(map(is_like, body["answers"], expected[body["model_sha256"]]))
        assert {answer.json()["model_sha256"] for answer in answers} == set(expected)


def test_what_cannot_take_the_place_is_refused_and_the_model_goes_on(classifier, tiny_checkpoint, tmp_path):
    right = {"Authorization": f"Bearer {KEY}"}
    with run_service(classifier, key=KEY) as (client, _):
        missing = client.post("/admin/reload", json={"run": str(tmp_path / "none")}, headers=right)
        headless = client.post("/admin/reload", json={"run": str(tiny_checkpoint("gpt2"))}, headers=right)
        assert (missing.status_code, headless.status_code) == (422, 422)
        assert "no finished run" in missing.json()["error"]
        assert client.post("/admin/reload", headers=right).status_code == 200
        assert client.post("/predict", json={"inputs": "a"}, headers=right).status_code == 200
    with run_service(classifier) as (client, _):
        assert client.post("/admin/reload").status_code == 403


def test_the_hubs_client_reads_the_answers(client, predicted, monkeypatch):
    from huggingface_hub import InferenceClient

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the client asks this machine alone
    hub = InferenceClient(model=str(client.base_url))
    for text, expected in zip(TEXTS, predicted, strict=True):
        answers = hub.text_classification(text)
        assert is_like(answers[0], expected)
        assert {answer.label for answer in answers} == set(LABELS)
        assert sum(answer.score for answer in answers) == pytest.approx(1, abs=1e-5)
    assert len(hub.text_classification(TEXTS[0], top_k=1)) == 1
    assert "function_to_apply" in client.post("/", json={"inputs": "a", "parameters": {"function_to_apply": "x"}}).text


def test_the_server_describes_itself(client):
    info = client.get("/info").json()
    assert info["labels"] == LABELS
    assert info["task"] == "text-classification"
    assert client.get("/ready").json()["model_sha256"] == info["model_sha256"]
    example = list_examples(client)["several"]["value"]
    assert client.post("/predict", json=example).status_code == 200
    assert client.get("/docs").status_code == 200
    figures = client.get("/metrics").text
    assert 'startup_llm_requests_total{path="/predict",status="200"}' in figures
    assert 'startup_llm_labels_total{label="' in figures
    assert client.get("/none/of/these").status_code == 404
    assert "/none/of/these" not in client.get("/metrics").text


def list_examples(client):
    described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    return described["requestBody"]["content"]["application/json"]["examples"]


@pytest.mark.parametrize("log_texts", [False, True])
def test_the_log_holds_texts_only_where_that_is_asked_for(classifier, log_texts):
    lines = []
    with run_service(classifier, log=lines.append, log_texts=log_texts) as (client, _):
        client.post("/predict", json={"inputs": "a refund of mine"})
    line = json.loads(lines[-1])
    assert (line["path"], line["status"], line["rows"]) == ("/predict", 200, 1)
    assert ("a refund of mine" in lines[-1]) is log_texts
    assert ("answers" in line) is log_texts


def test_the_columns_of_the_run_are_read(classifier, tmp_path):
    shutil.copytree(classifier, tmp_path / "run" / "model")
    results = {"task": "text-classification", "config": {"data": {"text_column": "message"}}, "columns": ["text"]}
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    with run_service(tmp_path / "run") as (client, _):
        by_name, alone = (
            client.post("/predict", json={"inputs": row}).json()["answers"]
            for row in ({"message": "parcel"}, "parcel")
        )
        assert by_name == alone
        pair = client.post("/predict", json={"inputs": {"text": "a", "text_pair": "b"}})
        assert (pair.status_code, "unknown column 'text_pair'" in pair.text) == (422, True)


def test_joined_columns_and_the_decision_of_the_run_are_those_of_predict(classifier, tmp_path):
    shutil.copytree(classifier, tmp_path / "run" / "model")
    config = json.loads((classifier / "config.json").read_text()) | {"decision": {"temperature": 40, "threshold": 0.9}}
    (tmp_path / "run" / "model" / "config.json").write_text(json.dumps(config))
    data = {"text_column": ["subject", "body"]}
    results = {"task": "text-classification", "config": {"data": data}, "columns": ["text"]}
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    with run_service(tmp_path / "run") as (client, service):
        row = {"subject": "parcel", "body": "where is it"}
        answer = client.post("/predict", json={"inputs": row}).json()["answers"][0]
        assert answer == service.model.model.answer({"subject": ["parcel"], "body": ["where is it"]})[0]
        assert answer["needs_human"] is True
        assert client.post("/", json={"inputs": row}).json()[0][0]["score"] == pytest.approx(answer["score"], abs=1e-6)
        assert "startup_llm_hand_overs_total 2.0" in client.get("/metrics").text
        assert "no column 'body'" in client.post("/predict", json={"inputs": {"subject": "a"}}).text
        assert "has no text" in client.post("/predict", json={"inputs": {"subject": "", "body": " "}}).text


def test_embeddings_have_openais_form(tiny_checkpoint, tmp_path):
    import numpy as np
    from transformers import AutoModel, AutoTokenizer

    with run_service(tiny_checkpoint("bert"), task="sentence-similarity") as (client, _):
        answer = client.post("/v1/embeddings", json={"input": TEXTS[:3], "model": "mine"}).json()
        vectors = np.array([one["embedding"] for one in answer["data"]])
        packed = client.post("/v1/embeddings", json={"input": TEXTS[0], "encoding_format": "base64"}).json()
        pair = client.post("/predict", json={"inputs": {"text": TEXTS[0], "text_pair": TEXTS[1]}}).json()
        openai = pytest.importorskip("openai").OpenAI(
            base_url=str(client.base_url.join("v1")), api_key="none", max_retries=0
        )
        read = [one.embedding for one in openai.embeddings.create(input=TEXTS[:3], model="mine").data]
        assert np.allclose(read, vectors, atol=1e-6)
        assert client.post("/predict", json={"inputs": "alone"}).status_code == 422
    tokenizer, model = (kind.from_pretrained(tiny_checkpoint("bert")) for kind in (AutoTokenizer, AutoModel))
    for text, vector in zip(TEXTS[:3], vectors, strict=True):
        states = model(**tokenizer(text, return_tensors="pt"))["last_hidden_state"][0].detach().numpy()
        mean = states.mean(axis=0)
        assert np.allclose(mean / np.linalg.norm(mean), vector, atol=1e-5)
    unpacked = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert np.allclose(unpacked, vectors[0], atol=1e-6)
    assert pair["answers"][0]["score"] == pytest.approx(vectors[0] @ vectors[1], abs=1e-5)
    assert answer["model"] == "mine"
    assert answer["usage"]["prompt_tokens"] == sum(len(tokenizer(text)["input_ids"]) for text in TEXTS[:3])


def test_images_come_as_base64_or_as_they_are(tmp_path, monkeypatch):
    import io

    from huggingface_hub import InferenceClient
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**size, image_size=8, patch_size=4, id2label=dict(enumerate(LABELS)))
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "vit")
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "png")
    content = stream.getvalue()
    with run_service(tmp_path / "vit", task="image-classification") as (client, _):
        raw = client.post("/predict", content=content, headers={"Content-Type": "image/png"}).json()
        packed = client.post("/predict", json={"inputs": {"image": base64.b64encode(content).decode()}}).json()
        assert raw == packed
        for value in ("/etc/hostname", "no base64!", base64.b64encode(b"no image").decode()):
            refused = client.post("/predict", json={"inputs": value})
            assert refused.status_code == 422
            assert "startup-llm-" not in refused.text  # the name of the temporary folder
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        found = InferenceClient(model=str(client.base_url)).image_classification(content)
        assert found[0].label == raw["answers"][0]["label"]


def test_one_requests_failure_is_not_the_others():
    def compute(rows):
        if "bad" in rows:
            raise ValueError("bad row")
        return [row.upper() for row in rows]

    async def ask():
        batcher = Batcher(compute, max_wait_seconds=0.05, max_batch_rows=10, max_queue_rows=10)
        batcher.start()
        answers = await asyncio.gather(
            *(batcher.submit([row], 5) for row in ("a", "bad", "b")), return_exceptions=True
        )
        await batcher.stop()
        return answers

    first, failed, last = asyncio.run(ask())
    assert (first, last) == (["A"], ["B"])
    assert isinstance(failed, ValueError)


def test_requests_that_wait_are_answered_before_the_stop():
    async def ask():
        batcher = Batcher(lambda rows: list(rows), max_wait_seconds=60, max_batch_rows=10, max_queue_rows=10)
        batcher.start()
        waiting = [asyncio.create_task(batcher.submit([row], 5)) for row in range(3)]
        await asyncio.sleep(0.01)
        await batcher.stop()
        return await asyncio.gather(*waiting)

    assert asyncio.run(ask()) == [[0], [1], [2]]


def test_an_address_that_others_reach_needs_a_key(monkeypatch):
    monkeypatch.delenv("STARTUP_LLM_API_KEY", raising=False)
    assert read_key(ServeConfig(run="x")) is None
    with pytest.raises(UserError, match=r"host '0\.0\.0\.0' can be reached by others"):
        read_key(ServeConfig(run="x", host="0.0.0.0"))
    monkeypatch.setenv("STARTUP_LLM_API_KEY", "short")
    with pytest.raises(UserError, match="16 or more"):
        read_key(ServeConfig(run="x"))


def test_a_taken_port_and_a_missing_package_are_one_line(classifier, run_recipe, monkeypatch):
    with open_socket(ServeConfig(run="x", port=0)) as taken:
        taken.listen()
        code, _, error = run_recipe("serve", "--run", classifier, "--port", taken.getsockname()[1])
    assert (code, "name another --port" in error) == (2, True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, error = run_recipe("serve", "--run", classifier)
    assert (code, "startup-llm[serve]" in error) == (2, True)


def test_the_page_to_try_it_shows_no_text_and_needs_no_key_itself(classifier):
    with run_service(classifier, key=KEY) as (client, _):
        page = client.get("/")
        assert page.status_code == 200
        assert "script-src 'unsafe-inline'" in page.headers["content-security-policy"]
        assert 'type="password"' in page.text
        assert 'id="correct"' not in page.text
        assert client.post("/corrections", json={"inputs": {"text": "a"}, "label": LABELS[0]}).status_code == 401


def test_a_correction_is_kept_as_a_row_to_train_on(classifier, tmp_path):
    file = tmp_path / "later" / "corrections.jsonl"
    with run_service(classifier, corrections=str(file)) as (client, _):
        assert "kept on the server" in client.get("/").text
        body = {"inputs": {"text": "no, é refund"}, "label": LABELS[1], "predicted": LABELS[0]}
        assert client.post("/corrections", json=body).json() == {"status": "kept"}
        assert "unknown label 'x'" in client.post("/corrections", json=body | {"label": "x"}).json()["error"]
        assert "unknown column" in client.post("/corrections", json=body | {"inputs": {"body": "a"}}).json()["error"]
    kept = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert [(row["text"], row["label"], row["predicted"]) for row in kept] == [("no, é refund", LABELS[1], LABELS[0])]


def test_without_a_file_no_correction_is_kept(client):
    answer = client.post("/corrections", json={"inputs": {"text": "a"}, "label": LABELS[0]})
    assert (answer.status_code, "--corrections FILE" in answer.text) == (404, True)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_person_gets_an_answer_and_corrects_it_in_a_browser(classifier, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    file = tmp_path / "corrections.jsonl"
    with (
        run_service(classifier, corrections=str(file)) as (client, _),
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        page = browser.new_page()
        page.goto(str(client.base_url))
        page.fill("#column-text", TEXTS[0])
        page.click("#ask button")
        page.wait_for_selector("#scores tr")
        answer = client.post("/predict", json={"inputs": TEXTS[0]}).json()["answers"][0]
        assert answer["label"] in page.inner_text("#rows")
        assert page.locator("#scores tr").count() == min(5, len(LABELS))
        page.select_option("#label", LABELS[0])
        page.click("#correct button")
        page.wait_for_selector("#correct output:not(:empty)")
    assert json.loads(file.read_text("utf-8"))["label"] == LABELS[0]


def test_a_watched_link_is_followed_when_another_run_comes_into_production(classifier, successor, tmp_path):
    import shutil

    from startup_llm.runs.production import Production

    for name, model in (("old", classifier), ("new", successor)):
        shutil.copytree(model, tmp_path / name / "model")
        (tmp_path / name / "results.json").write_text(json.dumps({"task": "text-classification", "columns": ["text"]}))
    switcher, lines = Production(tmp_path), []
    switcher.name(tmp_path / "old")
    with run_service(tmp_path / "production", log=lines.append, watch_seconds=0.1) as (client, _):
        before = client.post("/predict", json={"inputs": TEXTS}).json()
        assert client.get("/info").json()["run"] == "old"
        switcher.name(tmp_path / "new")
        end = time.monotonic() + 60
        while client.get("/ready").json()["model_sha256"] == before["model_sha256"] and time.monotonic() < end:
            time.sleep(0.05)
        after = client.post("/predict", json={"inputs": TEXTS}).json()
        assert client.get("/info").json()["run"] == "new"
        assert after["model_sha256"] != before["model_sha256"]
        (tmp_path / "production").unlink()  # what cannot be read changes nothing
        (tmp_path / "production").symlink_to("none")
        time.sleep(0.3)
        assert client.post("/predict", json={"inputs": TEXTS}).json() == after
    reloads = [json.loads(line) for line in lines if "reload" in line]
    assert [(one["event"], one["run"]) for one in reloads] == [("reload", "new")]
