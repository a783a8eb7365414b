"""Texts that fit no label: read, refused where they are in scope, and told by the answers of a finished run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from startup_llm.config import ClassDecision, FinetuneConfig, PretrainConfig
from startup_llm.errors import UserError
from startup_llm.evaluation.out_of_scope import BANK_FILE
from startup_llm.runs.decision import check_decision
from startup_llm.tasks import load_task
from startup_llm.tasks.text_classification.options import (
    ScratchTextDnn,
    TextClassificationData,
    TextClassificationModel,
)

PHRASES = {"greeting": ["hello there", "good morning"], "parting": ["goodbye now", "take care"]}
QUICK = ["--audit", "none", "--evaluation.resamples", "20", "--speed.compute_dtype", "float32"]


def write_texts(path: Path, texts: list[str], label: str | None = None) -> Path:
    column = "" if label is None else f",{label}"
    head = "text\n" if label is None else "text,label\n"
    path.write_text(head + "".join(f"{text}{column}\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def train(tmp_path) -> Path:
    rows = [f"{text} {number},{label}" for number in range(60) for label in PHRASES for text in PHRASES[label]]
    path = tmp_path / "messages.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def load(train):
    def load(**options: object):
        data = TextClassificationData(train_file=str(train), validation_fraction=0.3, **options)
        return load_task("text-classification").load_data(data)

    return load


def test_rows_are_told_by_file_and_half_of_them_are_kept_to_judge_by(load, tmp_path):
    near = write_texts(tmp_path / "near.csv", [f"what is new {i}" for i in range(30)])
    far = write_texts(tmp_path / "far.csv", [f"prime number {i}" for i in range(20)])
    loaded = load(oos_file=[str(near), str(far)])
    splits = loaded.out_of_scope
    assert {name: sorted(set(rows["group"])) for name, rows in splits.items()} == {
        "validation": ["far", "near"], "test": ["far", "near"],
    }  # fmt: skip
    assert sum(len(rows) for rows in splits.values()) == 50
    assert not set(splits["validation"]["text"]) & set(splits["test"]["text"])
    assert (
        "Half of the texts of data.oos_file are kept to judge by, as no data.oos_test_file is given." in loaded.notes
    )
    assert [source["split"] for source in loaded.sources][-1] == "out of scope, validation"


def test_a_label_column_is_not_read_and_files_to_judge_by_stand_alone(load, tmp_path):
    own = write_texts(tmp_path / "valid.csv", [f"what is new {i}" for i in range(12)], "oos")
    other = write_texts(tmp_path / "test.csv", [f"what is new {i}" for i in range(10, 24)], "oos")
    loaded = load(oos_file=str(own), oos_test_file=str(other))
    assert {name: len(rows) for name, rows in loaded.out_of_scope.items()} == {"validation": 12, "test": 14}
    assert "2 texts out of scope stand in both, so that the figures may be too high." in loaded.notes


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["Good  MORNING 3", *map(str, range(20))],
            r"data.oos_file: 1 of 21 texts stand among the \w+ rows too \(rows 1, ",
        ),
        (list(map(str, range(9))), "data.oos_file: 5 texts out of scope to be chosen by, expected at least 10"),
        (["", *map(str, range(20))], "1 of 21 texts cannot be used .*the column 'text' is empty"),
    ],
)
def test_texts_that_cannot_be_out_of_scope_are_refused(load, tmp_path, texts, message):
    path = tmp_path / "oos.csv"
    path.write_text("text\n" + "".join(f'"{text}"\n' for text in texts), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load(oos_file=str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"oos_test_file": "a.csv"}, "data.oos_test_file 'a.csv': expected data.oos_file too"),
        ({"oos_file": []}, r"data.oos_file \[\] names nothing"),
        ({"oos_file": "missing.csv"}, "missing.csv"),
    ],
)
def test_files_that_are_none_are_refused(load, options, message):
    with pytest.raises(UserError, match=message):
        load(**options)


@pytest.mark.parametrize(
    ("decision", "scratch", "message"),
    [
        (ClassDecision(rejected_share=0.1), False, "decision.rejected_share 0.1: no input is told out of scope"),
        (ClassDecision(out_of_scope="reject-class"), False, "reject-class: expected texts out of scope to learn from"),
        (ClassDecision(out_of_scope="energy"), True, "energy: expected a pretrained checkpoint under a linear layer"),
    ],
)
def test_scores_that_cannot_be_computed_are_refused(load, decision, scratch, message):
    model = ScratchTextDnn() if scratch else TextClassificationModel()
    config = (PretrainConfig if scratch else FinetuneConfig)(decision=decision, model=model)
    with pytest.raises(UserError, match=message):
        check_decision(config, load_task("text-classification"), load())


def test_a_run_stores_what_its_answers_are_told_out_of_scope_by(run_recipe, tiny_checkpoint, train, tmp_path):
    oos = write_texts(tmp_path / "oos.csv", [f"prime number {i} zz" for i in range(40)])
    run = tmp_path / "run"
    code, out, err = run_recipe(
        "finetune", "--data.train_file", train, "--data.validation_fraction", 0.3, "--method", "probe",
        "--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", run, "--data.oos_file", oos, *QUICK,
    )  # fmt: skip
    assert code == 0, err
    found = json.loads((run / "results.json").read_text())["out_of_scope"]
    stored = json.loads((run / "model" / "config.json").read_text())["out_of_scope"]
    assert stored == {"score": found["score"], "threshold": found["threshold"]}
    assert (run / "model" / BANK_FILE).is_file() == bool(found["size_bytes"])
    for sentence in found["sentences"]:
        assert sentence in out
    assert "Inputs that fit no label" in (run / "report.html").read_text()
    assert "### Inputs out of scope" in (run / "README.md").read_text()

    known = [line.rpartition(",")[0] for line in train.read_text(encoding="utf-8").splitlines()[1:]]
    write_texts(tmp_path / "new.csv", [*known, *(f"prime number {i} zz" for i in range(40, 80))])
    words = ["--input", tmp_path / "new.csv", "--output", tmp_path / "answers.csv", "--overwrite"]
    code, _, err = run_recipe("predict", "--run", run, *words)
    assert code == 0, err
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as stream:
        answers = list(csv.DictReader(stream))
    assert list(answers[0]) == ["text", "label", "score", "out_of_scope"]
    flags = [row["out_of_scope"] == "true" for row in answers]
    assert sum(flags[: len(known)]) < 0.1 * len(known)
    assert sum(flags[len(known) :]) > 20

    config = json.loads((run / "model" / "config.json").read_text())
    config["out_of_scope"] = {"score": "nearest", "threshold": 0.5}
    (run / "model" / "config.json").write_text(json.dumps(config))
    (run / "model" / BANK_FILE).write_bytes(b"cut")
    code, _, err = run_recipe("predict", "--run", run, *words)
    assert code == 2
    assert f"{BANK_FILE} cannot be read" in err
