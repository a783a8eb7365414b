"""Several workers behind one address: real processes, which an export lets start quickly."""

import contextlib
import re
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from served_models import save_classifier
from uvicorn.config import STARTUP_FAILURE

from startup_llm.config import ServeConfig
from startup_llm.runs.prediction import load_exported_run
from startup_llm.serving.load_test import is_alike, run_server
from startup_llm.serving.workers import build_worker_app

SERVE = Path(__file__).parents[2] / "recipes" / "serve.py"
TEXTS = ["where is my parcel", "please refund my order", "reset my password"]


def find_workers(server):
    found = set()
    for child in server.process.children():
        with contextlib.suppress(psutil.Error):  # it has just died
            if any("spawn_main" in word for word in child.cmdline()):
                found.add(child.pid)
    return found


def read_metric(client, name):
    found = re.search(rf"^startup_llm_{name}(?:{{.*}})? (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


class Asking(threading.Thread):
    """A client that asks again where its connection breaks."""

    def __init__(self, address, text, *expected):
        super().__init__()
        self.address, self.text, self.expected = address, text, expected
        self.answered, self.broken, self.faults, self.ends = 0, 0, [], False

    def run(self):
        with httpx.Client(base_url=self.address, timeout=60) as client:
            while not self.ends:
                try:
                    answer = client.post("/predict", json={"inputs": self.text})
                except httpx.TransportError:
                    self.broken += 1
                    continue
                if answer.status_code != 200 or not any(
                    is_alike(answer.json()["answers"], [expected]) for expected in self.expected
                ):
                    self.faults.append(answer.text)
                self.answered += 1


@pytest.mark.slow
@pytest.mark.cold_start  # its workers are to be children of the process that is started
def test_a_killed_worker_is_replaced_while_the_other_answers_and_counts_stay(exported):
    model = load_exported_run(exported)
    expected = [model.answer({"text": [text]})[0] for text in TEXTS]
    command = [sys.executable, str(SERVE), "--run", str(exported), "--port", "0", "--workers", "2"]
    with run_server(command) as server, httpx.Client(base_url=server.address, timeout=60) as client:
        wait_for(lambda: read_metric(client, "model_info") == 2)
        before = find_workers(server)
        assert len(before) == 2
        clients = [Asking(server.address, *pair) for pair in zip(TEXTS, expected, strict=True) for _ in range(2)]
        for asking in clients:
            asking.start()
        wait_for(lambda: all(asking.answered > 5 for asking in clients))
        killed = psutil.Process(min(before))
        killed.kill()
        wait_for(lambda: len(find_workers(server) - {killed.pid}) == 2)
        wait_for(lambda: read_metric(client, "model_info") == 2)
        for asking in clients:
            asking.ends = True
        for asking in clients:
            asking.join()
        assert [asking.faults for asking in clients] == [[]] * len(clients)
        assert sum(asking.broken for asking in clients) <= len(clients)  # what the killed one had in hand
        answered = sum(asking.answered for asking in clients)
        assert answered <= read_metric(client, "rows_total") <= answered + len(clients)
        workers = [psutil.Process(pid) for pid in find_workers(server)]
        server.process.kill()  # workers do not outlive the process that started them
        assert psutil.wait_procs(workers, timeout=60)[1] == []


@pytest.mark.slow
@pytest.mark.cold_start
def test_workers_follow_a_watched_link_and_no_answer_is_lost_or_mixed(exported, exported_successor, tmp_path):
    link = tmp_path / "production"
    link.symlink_to(exported)
    models = [load_exported_run(run) for run in (exported, exported_successor)]
    expected = [[model.answer({"text": [text]})[0] for model in models] for text in TEXTS]
    assert all(before["label"] != after["label"] for before, after in expected)
    command = [sys.executable, str(SERVE), "--run", str(link), "--port", "0", "--workers", "2"]
    command += ["--max_batch_rows", "1", "--watch_seconds", "0.2"]

    def ask_anew():  # each over a connection of its own, which either worker may take
        answers = [httpx.post(f"{server.address}/predict", json={"inputs": TEXTS[0]}, timeout=60) for _ in range(20)]
        return [answer.json()["answers"][0] for answer in answers]

    with run_server(command) as server, httpx.Client(base_url=server.address, timeout=60) as client:
        wait_for(lambda: read_metric(client, "model_info") == 2)
        workers = find_workers(server)
        clients = [Asking(server.address, text, *pair) for text, pair in zip(TEXTS, expected, strict=True)]
        for asking in clients:
            asking.start()
        wait_for(lambda: all(asking.answered > 5 for asking in clients))
        assert is_alike(ask_anew(), [expected[0][0]] * 20)
        (tmp_path / "next").symlink_to(exported_successor)
        (tmp_path / "next").rename(link)
        wait_for(lambda: is_alike(ask_anew(), [expected[0][1]] * 20))
        answered = [asking.answered for asking in clients]
        wait_for(lambda: all(asking.answered > n + 5 for asking, n in zip(clients, answered, strict=True)))
        for asking in clients:
            asking.ends = True
        for asking in clients:
            asking.join()
        assert [asking.faults for asking in clients] == [[]] * len(clients)
        assert [asking.broken for asking in clients] == [0] * len(clients)
        assert find_workers(server) == workers


def test_a_worker_that_cannot_load_the_run_says_why_and_ends_the_server(tiny_checkpoint, tmp_path, capsys):
    save_classifier(tiny_checkpoint("bert"), tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").write_text("{")
    with pytest.raises(SystemExit) as stop:
        build_worker_app(ServeConfig(run=str(tmp_path / "broken"), workers=2))
    assert stop.value.code == STARTUP_FAILURE
    assert "error: " in (said := capsys.readouterr().err)
    assert said.count("\n") == 1
