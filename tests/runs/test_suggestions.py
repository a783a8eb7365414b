"""Suggesting rows to label, for a run of a tiny classifier."""

import csv
import json

import pytest
from served_models import LABELS, save_classifier

from startup_llm.data.annotation_tools import find_tool, read_export
from startup_llm.runs.suggestions import Suggestion, build_interface, build_labelling_task

ROWS = [("where is my parcel", "delivery"), ("please refund my order", "refund"), ("reset my password", "password")]
THINGS = ("kettle", "lamp", "bicycle", "umbrella", "jacket", "keyboard", "mattress", "toaster")
POOL = [f"the {thing} {what}" for thing in THINGS for what in ("has not come", "is to go back", "lost its secret")]


@pytest.fixture(scope="module")
def run(tiny_checkpoint, tmp_path_factory):
    """A run's folder: a model, and results that name its training rows."""
    folder = tmp_path_factory.mktemp("runs") / "tickets"
    save_classifier(tiny_checkpoint("bert"), folder / "model")
    train = folder / "train.csv"
    train.write_text("text,label\n" + "".join(f"{text} {n},{label}\n" for text, label in ROWS for n in range(9)))
    results = {
        "task": "text-classification",
        "problem_type": "single_label_classification",
        "config": {"data": {"train_file": str(train)}},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def suggest(run, run_recipe, tmp_path):
    """Return a function that suggests rows of texts into a folder."""

    def recipe(texts, *options, name="pool.csv", columns="text"):
        pool = tmp_path / name
        pool.write_text(columns + "\n" + "".join(f"{text}\n" for text in texts), encoding="utf-8")
        return run_recipe("suggest", "--run", run, "--pool", pool, "--output", tmp_path / "out", *options)

    return recipe


def test_rows_are_suggested_as_a_table_and_as_an_import_that_comes_back_as_training_rows(suggest, tmp_path):
    pool = ["Where is my parcel 3?", *POOL, "=" + POOL[0] + " at all, I ask you"]
    code, out, err = suggest([f'"{text}"' for text in pool], "--rows", 6)
    assert code == 0, err
    assert "1 near-duplicates of the run's rows and 0 of other rows of the pool are left out" in out
    with (tmp_path / "out" / "suggestions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["row", "text", "model_label", "score", "why", "label"]
    assert len(rows) == 6
    for row in rows:
        assert row["text"].removeprefix("'") == pool[int(row["row"]) - 1] != pool[0]
        assert row["model_label"] in LABELS
        assert f"unsure between {row['model_label']} (" in row["why"]
        assert row["label"] == ""
    tasks = json.loads((tmp_path / "out" / "label_studio.json").read_text(encoding="utf-8"))
    assert [task["data"]["row"] for task in tasks] == [int(row["row"]) for row in rows]
    assert tasks[0]["predictions"][0]["result"][0]["value"]["choices"] == [rows[0]["model_label"]]
    assert tasks[0]["predictions"][0]["model_version"] == "tickets"

    for task in tasks:  # as Label Studio exports what a person accepted
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    export = read_export(find_tool(tasks), enumerate(tasks, start=1), "export.json")
    assert [(row["text"], row["label"]) for row in export.rows] == [
        (row["text"].removeprefix("'"), row["model_label"]) for row in rows
    ]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], (), "no rows"),
        (POOL[:4], ("--rows", 6), "has 4 rows; ask for fewer, or label all of them"),
        ([f"reset my password {n}" for n in range(8)], ("--rows", 3), "none rows of"),
        ([*POOL[:4], *[POOL[3] + "!"] * 9], ("--rows", 6), "4 of 13 rows of"),
    ],
)
def test_a_pool_with_too_few_new_rows_is_one_line(suggest, tmp_path, texts, options, message):
    code, _, err = suggest(texts, *options)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_pool_with_labels_is_one_line_and_an_empty_label_column_is_none(suggest):
    labelled = [f"{text}," for text in POOL]
    assert suggest(labelled, "--rows", 3, columns="text,label")[0] == 0
    labelled[7] += "refund"
    code, _, err = suggest(labelled, "--rows", 3, "--overwrite", columns="text,label")
    assert code == 2
    assert "row 8: column 'label' holds a label ('refund'); expected rows without labels" in err


def test_runs_of_other_tasks_and_of_numbers_are_one_line(run_recipe, tmp_path):
    (tmp_path / "pool.csv").write_text("text\nhello\n")
    words = ["--pool", tmp_path / "pool.csv", "--output", tmp_path / "out"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}")
    code, _, err = run_recipe("suggest", "--run", tmp_path / "plain", "--task", "token-classification", *words)
    assert code == 2
    assert "token-classification; suggestions are made of runs of text-classification alone" in err
    numbers = tmp_path / "numbers"
    (numbers / "model").mkdir(parents=True)
    (numbers / "model" / "config.json").write_text("{}")
    (numbers / "results.json").write_text('{"task": "text-classification", "problem_type": "regression"}')
    code, _, err = run_recipe("suggest", "--run", numbers, *words)
    assert code == 2
    assert "predicts numbers" in err


def test_training_rows_that_are_gone_are_reported_and_suggestions_made_all_the_same(run, suggest, tmp_path):
    results = json.loads((run / "results.json").read_text())
    gone = {**results, "config": {"data": {"train_file": str(tmp_path / "gone.csv")}}}
    try:
        (run / "results.json").write_text(json.dumps(gone))
        code, out, _ = suggest(POOL, "--rows", 3)
    finally:
        (run / "results.json").write_text(json.dumps(results))
    assert code == 0
    assert "near-duplicates of the run's own rows are not left out" in out
    assert "gone.csv" in out


def test_label_studio_s_files_name_the_same_controls_and_escape_what_a_label_holds():
    row = Suggestion(4, {"text": "a", "text_pair": "b"}, ("refund & more", "<x>"), 0.4, "unsure")
    task = build_labelling_task(row, "run")
    answer = task["predictions"][0]["result"][0]
    interface = build_interface(list(row.texts), row.labels, several=True)
    assert f'<Choices name="{answer["from_name"]}" toName="{answer["to_name"]}" choice="multiple"' in interface
    assert '<Choice value="refund &amp; more"/>' in interface
    assert '<Choice value="&lt;x&gt;"/>' in interface
    assert task["data"] == {"text": "a", "text_pair": "b", "row": 4, "why": "unsure"}
    assert build_labelling_task(Suggestion(1, {"text": "a"}, (), 0.2, "unsure"), "run")["predictions"] == []
