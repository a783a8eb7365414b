"""A Space of a run: its files as the hub gets them, and the page's answers, which are the run's."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from hub.test_model_card import RESULTS
from hub.test_push import CARDS
from huggingface_hub import snapshot_download
from loopback_hub import TOKEN

from startup_llm.config import PushConfig, ServeConfig
from startup_llm.errors import UserError
from startup_llm.hub.push import preview, push

LABELS = ["refund", "delivery", "password"]
TEXTS = ["where is my parcel", "i want my money back", "reset my password please " * 30]
KINDS = {
    "one label": {"decision": {"temperature": 1.7, "threshold": 0.45, "set_threshold": 0.2}},
    "several labels": {
        "problem_type": "multi_label_classification",
        "label_thresholds": {"refund": 0.3, "delivery": 0.5, "password": 0.9},
    },
}


def build_run(folder: Path, checkpoint: Path, task: str, **config) -> Path:
    """Write a finished run whose model is a tiny BERT with a head drawn at random."""
    import torch
    import transformers

    torch.manual_seed(1)
    kind = "Sequence" if task == "text-classification" else "Token"
    auto_class = getattr(transformers, f"AutoModelFor{kind}Classification")
    model = auto_class.from_pretrained(checkpoint, id2label=dict(enumerate(LABELS)), num_labels=3)
    model.save_pretrained(folder / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, model_max_length=64)
    tokenizer.save_pretrained(folder / "model")
    stored = json.loads((folder / "model" / "config.json").read_text()) | config
    (folder / "model" / "config.json").write_text(json.dumps(stored))
    results = RESULTS | {"task": task, "labels": LABELS, "columns": ["text"]}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_in_the_space_answers_as_the_run_does(hub, tiny_checkpoint, tmp_path, kind):
    from startup_llm.runs.prediction import find_run, load_answering_model

    run = build_run(tmp_path / "page", tiny_checkpoint("bert"), "text-classification", **KINDS[kind])
    config = PushConfig("me/page", str(run), space=True)
    done = push(config, CARDS, hub.url)
    assert done.url
    assert hub.is_private("spaces/me/page")
    assert push(config, CARDS, hub.url).url is None
    where = {"repo_type": "space", "endpoint": hub.url, "token": TOKEN, "local_dir": tmp_path / "space"}
    folder = Path(snapshot_download("me/page", **where))
    app = runpy.run_path(str(folder / "app.py"))
    assert "gradio" not in sys.modules
    served = ServeConfig(run=str(run))
    expected = load_answering_model(served, *find_run(served)[:2]).answer({"text": TEXTS})
    for text, answer in zip(TEXTS, expected, strict=True):
        own = app["answer"](text)
        assert own.keys() == answer.keys()
        assert own.pop("score", None) == pytest.approx(answer.pop("score", None), abs=1e-6)
        assert own.pop("scores", None) == pytest.approx(answer.pop("scores", None), abs=1e-6)
        assert own == answer
    if kind == "one label":
        lines = [app["show"](text)[1] for text in TEXTS]
        assert any("a person should look at it" in line for line in lines)
        assert app["show"](" ") == (None, "Write a text first.")


def test_the_files_of_a_space_are_what_the_hub_starts_a_page_by(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    run = build_run(tmp_path / "page", tiny_checkpoint("bert"), "token-classification")
    done = preview(PushConfig("me/page", str(run), space=True, dry_run=str(tmp_path / "space")), CARDS)
    assert {"README.md", "app.py", "requirements.txt", "space.json", "model/model.safetensors"} <= set(done.files)
    front = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---")[1])
    assert (front["sdk"], front["app_file"], front["license"]) == ("gradio", "app.py", "apache-2.0")
    assert front["sdk_version"].count(".") == 2
    pins = (tmp_path / "space" / "requirements.txt").read_text().split()
    assert {pin.split("==")[0] for pin in pins} == {"numpy", "safetensors", "tokenizers", "torch", "transformers"}
    assert not any("+" in pin for pin in pins)
    assert "secret" not in "".join(file.read_text() for file in (tmp_path / "space").glob("*.*"))
    shown, line = runpy.run_path(str(tmp_path / "space" / "app.py"))["show"](TEXTS[0])
    assert shown["text"] == TEXTS[0]
    assert line == f"{len(shown['entities'])} found"


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"task": "text-to-speech"}, {}, "is for text-to-speech; a Space is made of runs for text-class"),
        ({"export": {"format": "onnx"}}, {}, "is an export, which no pipeline loads"),
        ({"columns": ["text", "text_pair"]}, {}, "reads several columns"),
        ({"config": {"data": {"text_column": ["subject", "body"]}}}, {}, "reads several columns"),
        ({"config": {"data": {"clean": "html"}}}, {}, "removes html from its texts"),
        ({}, {"what": "adapter"}, "leave out --what adapter"),
        ({}, {"dataset": True}, "neither|given"),
    ],
)
def test_a_run_that_a_pipeline_alone_does_not_answer_is_refused(tmp_path, change, options, said):
    run = tmp_path / "page"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    (run / "model" / "model.safetensors").write_bytes(b"")
    (run / "results.json").write_text(json.dumps(RESULTS | change))
    config = PushConfig("me/page", str(run), space=True, dry_run=str(tmp_path / "space"), **options)
    with pytest.raises(UserError, match=said):
        preview(config, CARDS)
    assert not (tmp_path / "space").exists()
    shutil.rmtree(run)
