import csv
import json

import pytest

from startup_llm.config import LabelledTextData
from startup_llm.data.classification import load_labelled_text
from startup_llm.data.label_cells import inspect_cells, split_cell
from startup_llm.errors import UserError

QUICK = [
    "--train.max_steps", "2", "--evaluation.resamples", "50", "--data.validation_fraction", "0",
    "--train.per_device_train_batch_size", "8",
]  # fmt: skip
SINGLE = ["billing", "refund", "login", "delivery"]


def build_cells(separator):
    return [*SINGLE * 6, *[f"billing{separator}refund", f"login{separator}delivery"] * 4]


def write_csv(path, labels):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "tags"])
        writer.writerows((f"message number {row} about {label}", label) for row, label in enumerate(labels))
    return str(path)


@pytest.mark.parametrize("separator", [";", "|", ",", "; ", ", "])
def test_parts_that_stand_alone_elsewhere_are_labels(separator):
    found = inspect_cells(build_cells(separator))
    assert found.are_several
    assert found.separator == separator.strip()
    assert (found.cells, found.total) == (8, 32)


def test_parts_that_are_combined_in_other_ways_are_labels_where_the_share_is_high():
    found = inspect_cells(["a;b", "b;c", "c;a"] * 5)
    assert found.are_several


@pytest.mark.parametrize(
    "cells",
    [
        ["Food, drinks", "Clothes, shoes", "Toys"] * 5,
        ["Food, drinks", "Food, bread", "Toys"] * 5,
        ["Nashville, TN", "Memphis, TN", "Austin, TX"] * 5,
        ["yes", "yes, please", "no"] * 5,
    ],
)
def test_names_with_a_comma_are_one_class_each(cells):
    assert not inspect_cells(cells).are_several


def test_plain_names_hold_no_separator():
    assert inspect_cells(["a", "b", "[not a list]"] * 4) is None


@pytest.mark.parametrize(
    ("cell", "separator", "labels"),
    [
        ("a; b;;a;", ";", ["a", "b"]),
        (" ", ";", None),
        (";", ";", None),
        ('["a", "b"]', "json", ["a", "b"]),
        ("['a', 'b']", "json", ["a", "b"]),
        ("[]", "json", []),
    ],
)
def test_a_cell_is_split_into_its_labels(cell, separator, labels):
    assert split_cell(cell, separator) == labels


def test_a_run_stops_before_training_and_proposes_the_separator(tmp_path, run_recipe, tiny_checkpoint):
    words = ["--data.train_file", write_csv(tmp_path / "rows.csv", build_cells(";")), "--data.label_column", "tags"]
    words += ["--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", tmp_path / "run", *QUICK]
    code, _, err = run_recipe("finetune", *words)
    assert code == 2
    assert "8 of 32 cells of the label column 'tags' hold ';'" in err
    assert "--data.label_separator ';'" in err
    assert not (tmp_path / "run" / "results.json").exists()
    code, _, err = run_recipe("finetune", *words, "--data.label_separator", ";")
    assert code == 0, err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["config"]["data"]["label_separator"] == ";"
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert sorted(config["id2label"].values()) == sorted(SINGLE)


def test_cells_are_one_class_each_where_the_option_says_so(tmp_path):
    data = LabelledTextData(train_file=write_csv(tmp_path / "rows.csv", build_cells(";")), label_separator="none")
    assert len(load_labelled_text(data).label_names) == 6


def test_a_run_says_why_it_takes_a_cell_as_one_class(tmp_path):
    path = write_csv(tmp_path / "rows.csv", ["Food, drinks", "Clothes, shoes", "Toys"] * 5)
    loaded = load_labelled_text(LabelledTextData(train_file=path))
    assert any("'Food, drinks'. Each is read as one class, as" in note for note in loaded.notes)


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_lists_written_as_text_are_read(tmp_path, write):
    path = write_csv(tmp_path / "rows.csv", [write(labels) for labels in [["a", "b"], ["b"], ["a"], []] * 5])
    with pytest.raises(UserError, match=r"a list as text.*--data.label_separator json"):
        load_labelled_text(LabelledTextData(train_file=path))
    loaded = load_labelled_text(LabelledTextData(train_file=path, label_separator="json", validation_fraction=0))
    assert loaded.label_names == ("a", "b")
    assert {tuple(row) for row in loaded.splits["train"]["label"]} == {(1, 1), (0, 1), (1, 0), (0, 0)}


def test_a_cell_that_is_no_list_is_named_by_its_row(tmp_path):
    path = write_csv(tmp_path / "rows.csv", ['["a"]', "b"])
    with pytest.raises(UserError, match="train split, row 2: 'b' is no list of labels in the label column 'tags'"):
        load_labelled_text(LabelledTextData(train_file=path, label_column="tags", label_separator="json"))


def test_an_empty_cell_has_no_label(tmp_path):
    path = write_csv(tmp_path / "rows.csv", ["a;b", "", "a", "b"])
    with pytest.raises(
        UserError, match=r"1 of 4 rows cannot be used \(no label 1\): row 2: no label in column 'tags'"
    ):
        load_labelled_text(LabelledTextData(train_file=path, label_column="tags", label_separator=";"))


def test_a_separator_is_refused_for_labels_that_are_no_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {n}", "label": [n % 2]}) + "\n" for n in range(6)))
    with pytest.raises(UserError, match=r"data.label_separator ';' is for a column of text"):
        load_labelled_text(LabelledTextData(train_file=str(path), label_separator=";"))


def test_the_audit_reports_cells_of_several_labels_and_its_fix_reads_them(tmp_path, run_recipe):
    labels = [*build_cells(";"), "Billing;refund", ""]
    path = write_csv(tmp_path / "rows.csv", labels)
    words = ["--data.train_file", path, "--data.label_column", "tags", "--output", tmp_path / "audit"]
    code, out, err = run_recipe("audit", *words, "--fix", "true", "--fix_kinds", "missing-labels,label-spelling")
    assert code == 0, err
    assert "several-labels-in-a-cell" in out
    finding = next(
        finding
        for finding in json.loads((tmp_path / "audit" / "audit.json").read_text())["findings"]
        if finding["kind"] == "several-labels-in-a-cell"
    )
    assert finding["count"] == 9
    assert finding["details"] == {"option": "--data.label_separator ';'"}
    with (tmp_path / "rows.cleaned.csv").open(newline="") as file:
        cleaned = [row["tags"] for row in csv.DictReader(file)]
    assert cleaned == [*build_cells(";"), "billing;refund"]
