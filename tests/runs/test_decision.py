"""The hand-over of a run, from its options to the answers of its saved model."""

from __future__ import annotations

import csv
import html
import json
from pathlib import Path

import pytest

from startup_llm.command_line import parse_config
from startup_llm.config import FinetuneConfig
from startup_llm.errors import UserError
from startup_llm.runs.answering import store_answering

PHRASES = {
    "greeting": ["hello there", "good morning", "how are you"],
    "parting": ["goodbye now", "take care", "adieu"],
}
OPTIONS = ["--decision.target_accuracy", "0.6", "--decision.sets", "0.9"]
QUICK = ["--audit", "none", "--evaluation.resamples", "50", "--speed.compute_dtype", "float32"]


@pytest.fixture
def table(tmp_path) -> Path:
    rows = [(f"{text} {number}", label) for number in range(50) for label in PHRASES for text in PHRASES[label]]
    path = tmp_path / "messages.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return path


@pytest.fixture
def finetune(run_recipe, tiny_checkpoint, table, tmp_path):
    """Return a function that fits a linear probe in a folder of a name."""

    def run(name: str, *words: object) -> tuple[int, str, str]:
        rows = ["--data.train_file", table, "--data.validation_fraction", 0.3, "--method", "probe"]
        checkpoint = ["--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", tmp_path / name]
        return run_recipe("finetune", *rows, *checkpoint, *QUICK, *words)

    return run


def answer(run_recipe, run: Path, folder: Path) -> list[dict[str, str]]:
    (folder / "new.csv").write_text("text\nhello there\nadieu 7\n", encoding="utf-8")
    code, _, err = run_recipe(
        "predict", "--run", run, "--input", folder / "new.csv", "--output", folder / "answers.csv", "--overwrite"
    )
    assert code == 0, err
    with (folder / "answers.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_hand_over_is_judged_stored_shown_and_answered_by(finetune, run_recipe, tmp_path):
    assert finetune("plain")[0] == 0
    code, out, err = finetune("decided", *OPTIONS)
    assert code == 0, err
    plain, decided = tmp_path / "plain", tmp_path / "decided"
    assert (plain / "predictions.jsonl").read_bytes() == (decided / "predictions.jsonl").read_bytes()

    found = json.loads((decided / "results.json").read_text())["decision"]
    stored = json.loads((decided / "model" / "config.json").read_text())["decision"]
    assert stored == found["stored"]
    assert stored.keys() == {"temperature", "threshold", "set_threshold"}
    for sentence in found["sentences"]:
        assert sentence in out
        assert sentence.split(" (")[0] in (decided / "report.html").read_text()
    assert "### Confidence and hand-over" in (decided / "README.md").read_text()
    assert {answer_["needs_human"] for answer_ in answer(run_recipe, decided, tmp_path)} <= {"true", "false"}
    assert list(answer(run_recipe, decided, tmp_path)[0]) == [
        "text",
        "label",
        "score",
        "needs_human",
        "possible_labels",
    ]

    assert "decision" not in json.loads((plain / "model" / "config.json").read_text())
    assert list(answer(run_recipe, plain, tmp_path)[0]) == ["text", "label", "score"]


def test_pairs_of_texts_have_what_single_texts_have(finetune, run_recipe, table, tmp_path):
    texts = [text for label in PHRASES for text in PHRASES[label]]
    rows = [f"{texts[n % 6]},{texts[n // 6 % 6]} {n},{'yes' if n % 7 < 4 else 'no'}\n" for n in range(200)]
    table.write_text("text,text_pair,label\n" + "".join(rows), encoding="utf-8")
    code, _, err = finetune("pairs", *OPTIONS)
    assert code == 0, err
    results = json.loads((tmp_path / "pairs" / "results.json").read_text())
    assert {"per_class", "confusions", "confusion_matrix", "mistakes", "calibration", "decision"} <= results.keys()
    page = (tmp_path / "pairs" / "report.html").read_text()
    for part in ("handover", "calibration", "classes", "confusions", "frequent-confusions", "mistakes"):
        assert f'id="{part}"' in page
    assert html.escape(results["mistakes"][0]["text"]) in page
    assert "\n" in results["mistakes"][0]["text"]
    (tmp_path / "new.csv").write_text("text,text_pair\nadieu,hello\n", encoding="utf-8")
    words = ["--run", tmp_path / "pairs", "--input", tmp_path / "new.csv", "--output", tmp_path / "o.jsonl"]
    assert run_recipe("predict", *words)[0] == 0
    stored = results["decision"]["stored"] or {}
    found = json.loads((tmp_path / "o.jsonl").read_text())
    assert ("needs_human" in found, "possible_labels" in found) == ("threshold" in stored, "set_threshold" in stored)


def test_a_reference_model_answers_by_its_decision_too(run_recipe, table, tmp_path):
    words = ["--data.train_file", table, "--data.validation_fraction", 0.3, "--run_dir", tmp_path / "dnn"]
    quick = ["--evaluation.resamples", 50, "--train.max_steps", 2, "--model.width", 8]
    code, _, err = run_recipe("pretrain", *words, *quick, "--decision.sets", 0.9)
    assert code == 0, err
    assert list(answer(run_recipe, tmp_path / "dnn", tmp_path)[0]) == ["text", "label", "score", "possible_labels"]


def test_too_few_validation_rows_are_reported_and_the_run_goes_on(finetune, tmp_path):
    code, out, err = finetune("few", *OPTIONS, "--data.validation_fraction", 0.1)
    assert code == 0, err
    found = json.loads((tmp_path / "few" / "results.json").read_text())["decision"]
    assert found["validation_rows"] < 50
    assert "confidence was not calibrated and no hand-over chosen" in out


def test_a_hand_over_without_validation_rows_is_refused_before_training(finetune, tmp_path):
    code, _, err = finetune("none", "--decision.sets", 0.9, "--data.validation_fraction", 0)
    assert code == 2
    assert "decision.sets 0.9: no validation rows; set data.validation_fraction or _file" in err
    assert not (tmp_path / "none").exists()


def test_a_hand_over_of_numbers_is_refused(finetune, table):
    table.write_text("text,label\n" + "".join(f"text {n},{n / 7}\n" for n in range(50)), encoding="utf-8")
    code, _, err = finetune("number", "--decision.target_accuracy", 0.9, "--data.problem_type", "regression")
    assert code == 2
    assert "decision.target_accuracy 0.9: expected rows with one label each, or spans, got regression" in err


def test_numbers_are_answered_with_an_interval_that_the_validation_rows_chose(finetune, run_recipe, table, tmp_path):
    table.write_text("text,label\n" + "".join(f"text {n},{n % 50 / 7}\n" for n in range(90)), encoding="utf-8")
    numbers = ["--data.problem_type", "regression"]
    code, out, err = finetune("number", "--decision.sets", 0.9, *numbers)
    assert code == 0, err
    found = json.loads((tmp_path / "number" / "results.json").read_text())["numbers"]
    assert found["validation_rows"] > 20
    assert all(sentence in out for sentence in found["sentences"])
    assert "mean true number" in (tmp_path / "number" / "report.html").read_text()
    assert "### Calibration" in (tmp_path / "number" / "README.md").read_text()
    width = found["interval"]["half_width"]
    assert json.loads((tmp_path / "number" / "model" / "config.json").read_text())["decision"] == {"half_width": width}
    first = answer(run_recipe, tmp_path / "number", tmp_path)[0]
    assert list(first) == ["text", "score", "low", "high"]
    assert float(first["high"]) - float(first["score"]) == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--decision.target_accuracy", "1.2"], "option decision.target_accuracy: expected a number above 0"),
        (["--decision.cost_of_error", "-5", "--decision.cost_of_handover", "1"], "option decision.cost_of_error"),
        (["--task", "question-answering", "--decision.sets", "0.9"], "it belongs to audio-classification"),
    ],
)
def test_options_out_of_range_or_of_other_tasks_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        parse_config(FinetuneConfig, words)


def test_a_decision_that_a_checkpoint_brought_along_is_taken_out(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"decision": {"temperature": 2.0}, "hidden_size": 32}')
    store_answering(tmp_path, {})
    assert json.loads(file.read_text()) == {"hidden_size": 32}


def test_rows_of_several_labels_are_answered_by_thresholds_that_the_validation_rows_chose(
    run_recipe, tiny_checkpoint, tmp_path
):
    labels = [["calm"], ["calm"], ["calm", "sad"], ["calm"], ["glad"], []]
    words = ["tea", "hill", "rain", "lake", "song", "stone"]
    rows = [{"text": f"{words[i % 6]} {i}", "labels": labels[i % 6]} for i in range(300)]
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = tmp_path / "run"
    code, out, err = run_recipe(
        "finetune", "--data.train_file", train, "--data.validation_fraction", 0.3, "--model.checkpoint",
        tiny_checkpoint("bert"), "--method", "full", "--train.max_steps", 2, "--train_balance", "weights",
        "--train.learning_rate", 0, "--model.head_learning_rate", 0, "--run_dir", run, *QUICK,
    )  # fmt: skip
    assert code == 0, err
    results = json.loads((run / "results.json").read_text())
    found, balance = results["label_thresholds"], results["balance"]
    assert (balance["used"], balance["unlabelled"] > 0.1) == ("weights", True)
    page = html.unescape((run / "report.html").read_text())
    for sentence in [*found["sentences"], *balance["sentences"]]:
        assert sentence in out
        assert sentence in page
    scored = results["models"]["full"][results["decides"]]["value"]
    assert scored == pytest.approx(found["models"]["chosen"][results["decides"]]["value"])
    assert results["per_class"].keys() == {"calm", "glad", "sad"}

    config = json.loads((run / "model" / "config.json").read_text())
    assert config["label_thresholds"].keys() == {"calm", "glad", "sad"}
    config["label_thresholds"] = {"calm": 1e-6, "glad": 1 - 1e-6, "sad": 1e-6}
    (run / "model" / "config.json").write_text(json.dumps(config))
    code, answer, err = run_recipe("predict", "--run", run, "--text", "tea")
    assert code == 0, err
    assert json.loads(answer)["labels"] == ["calm", "sad"]
