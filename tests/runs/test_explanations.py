"""Explanations of a run's answers, from training to predict.py."""

import csv
import json

import pytest
from served_models import LABELS, save_classifier

from startup_llm.evaluation.report import build_report
from startup_llm.runs.masking import mask_examples

PHRASES = {"greeting": ["hello there", "good morning"], "parting": ["goodbye now", "take care"]}
QUICK = ["--audit", "none", "--evaluation.resamples", "50", "--speed.compute_dtype", "float32", "--method", "probe"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("explanations")


@pytest.fixture
def run(folder, run_recipe, tiny_checkpoint):
    """A run with explained mistakes, made once; a few test rows have the other label, so that there are mistakes."""
    if not (folder / "run").is_dir():
        rows = [(f"{text} {n}", label) for n in range(30) for label in PHRASES for text in PHRASES[label]]
        table = "".join(f"{text},{label}\n" for text, label in rows)
        (folder / "train.csv").write_text("text,label\n" + table, encoding="utf-8")
        test = [(f"{text} {n}", label) for n in range(30, 40) for label in PHRASES for text in PHRASES[label]]
        test += [(f"hello there my number is 0049 30 12345{n} ok", "parting") for n in range(5)]
        table = "".join(f"{text},{label}\n" for text, label in test)
        (folder / "test.csv").write_text("text,label\n" + table, encoding="utf-8")
        data = ["--data.train_file", folder / "train.csv", "--data.test_file", folder / "test.csv"]
        words = [*data, "--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", folder / "run", *QUICK]
        code, _, err = run_recipe("finetune", *words, "--evaluation.explain", "true")
        assert code == 0, err
    return folder / "run"


def test_a_run_explains_its_mistakes_and_says_whether_that_is_better_than_random(run):
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert results["mistakes"]
    for mistake in results["mistakes"]:
        (part,) = mistake["explanation"]
        assert all(0 < word["weight"] <= 1 and word["end"] <= len(part["text"]) for word in part["words"])
        assert len(mistake["alike"]) == 3
        assert {row["label"] for row in mistake["alike"]} <= set(PHRASES)
        cosines = [row["cosine"] for row in mistake["alike"]]
        assert cosines == sorted(cosines, reverse=True)
    deletion = results["explanation"]["deletion"]
    assert deletion["rows"] == 45
    assert deletion["low"] <= deletion["difference"] <= deletion["high"]
    is_better = results["explanation"]["sentence"].startswith("The explanations point at words that matter")
    assert is_better == (deletion["low"] > 0)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert results["explanation"]["sentence"][:40] in page
    assert '<mark class="attended"' in page
    assert "Training rows that are most alike" in page


def test_personal_data_in_explained_texts_is_covered():
    text = "write to me at jane.doe@example.com please"
    mistake = {
        **{"row": 1, "text": text, "label": "a", "predicted": "b", "confidence": 0.9},
        "explanation": [{"text": text, "words": [{"start": 0, "end": 5, "weight": 1.0}]}],
        "alike": [{"row": 2, "text": text, "label": "a", "cosine": 0.5}],
    }
    masked = mask_examples({"mistakes": [mistake]})
    assert "jane.doe" not in json.dumps(masked)
    assert len(masked["mistakes"][0]["explanation"][0]["text"]) == len(text)


def test_predictions_are_explained_by_words_and_alike_training_rows(run, run_recipe, tmp_path):
    (tmp_path / "new.csv").write_text("id,text\n7,hello there you\n8,take care\n", encoding="utf-8")
    words = ["predict", "--run", run, "--input", tmp_path / "new.csv", "--explain"]
    code, _, err = run_recipe(*words, "--output", tmp_path / "answers.csv")
    assert code == 0, err
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert {word["word"] for word in json.loads(first["explanation"])} == {"hello", "there", "you"}
    assert float(first["completeness_error"]) < 0.1
    assert second["occlusion_agreement"] == ""
    assert [row["text"].rstrip("0123456789") for row in json.loads(second["alike"])] == ["take care "] * 3
    code, out, err = run_recipe("predict", "--run", run, "--text", "good morning", "--explain")
    assert code == 0, err
    assert {"label", "score", "explanation", "alike"} <= json.loads(out.splitlines()[-1]).keys()


def test_what_cannot_be_explained_is_one_line_and_a_plain_checkpoint_has_no_alike_rows(
    run_recipe, tiny_checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "new.csv").write_text("text\nhello there\n", encoding="utf-8")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}")
    words = ["--input", tmp_path / "new.csv", "--output", tmp_path / "out.jsonl", "--explain"]
    code, _, err = run_recipe("predict", "--run", tmp_path / "plain", "--task", "object-detection", *words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "explain: object-detection; answers of text-, token- and image-classification and of question" in err
    folder = save_classifier(tiny_checkpoint("bert"), tmp_path / "classifier")
    code, _, err = run_recipe("predict", "--run", folder, *words)
    assert code == 0, err
    assert "alike training rows are not shown: a plain checkpoint has none" in err
    answer = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert answer["label"] in LABELS
    assert "alike" not in answer
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    code, _, err = run_recipe("predict", "--run", folder, *words, "--overwrite")
    assert (code, err) == (2, "error: explanations need captum; install it: pip install 'startup-llm[explain]'\n")


def test_a_report_without_explanations_has_none():
    results = {
        **{"task": "text-classification", "method": "lora", "decides": "accuracy", "models": {}, "comparisons": []},
        **{"lower_is_better": [], "sentences": ["One."]},
        "mistakes": [{"row": 1, "text": "a text", "label": "a", "predicted": "b", "confidence": 0.9}],
    }
    page = build_report(results)
    assert "a text" in page
    assert "integrated gradients" not in page
