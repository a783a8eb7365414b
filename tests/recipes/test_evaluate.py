import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from loopback_hub import LoopbackHub

from startup_llm.errors import run_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "evaluate.py"
LABELS = ["delivery", "password", "refund"]
ROWS = [
    ("please refund my order", "refund"),
    ("i want my money back", "refund"),
    ("where is my parcel", "delivery"),
    ("the parcel has not arrived", "delivery"),
    ("i forgot my password", "password"),
    ("reset my password please", "password"),
    ("the password does not work", "password"),
    ("when does the parcel arrive", "delivery"),
]
TASK = {
    "task": "choose_end",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}",
    "doc_to_target": "answer",
    "doc_to_choice": "{{choices}}",
    "metric_list": [{"metric": "acc"}, {"metric": "brier_score"}],
}


@pytest.fixture
def evaluate(monkeypatch, capsys, tmp_path):
    """Run the recipe in this process; return exit code, results and stderr."""

    def run(*options, run_dir="evaluation"):
        folder = tmp_path / run_dir
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--run_dir", str(folder), *map(str, options)])
        code = 0
        try:
            run_recipe(runpy.run_path(str(RECIPE))["main"])
        except SystemExit as stop:
            code = stop.code
        file = folder / "results.json"
        return code, json.loads(file.read_text()) if file.is_file() else None, capsys.readouterr().err

    return run


def save_classifier(base, folder, labels, seed=0, steps=0):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels), **names)
    torch.nn.init.normal_(model.classifier.weight)
    tokenizer = AutoTokenizer.from_pretrained(base)
    inputs = tokenizer([text for text, _ in ROWS], padding=True, return_tensors="pt")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        model(**inputs, labels=torch.tensor([labels.index(label) for _, label in ROWS])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def rows_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    return file


def test_a_checkpoint_is_measured_as_its_pipeline_answers(evaluate, tiny_checkpoint, rows_file, tmp_path):
    from transformers import pipeline

    model = save_classifier(tiny_checkpoint("bert"), tmp_path / "model", LABELS[::-1])  # not in the data's order
    code, results, _ = evaluate("--model", model, "--data.test_file", rows_file)
    answers = pipeline("text-classification", model=str(model), device="cpu")([text for text, _ in ROWS])
    right = [answer["label"] == label for answer, (_, label) in zip(answers, ROWS, strict=True)]
    figure = results["entries"][0]["metrics"]["accuracy"]
    assert code == 0
    assert figure["value"] == sum(right) / len(ROWS)
    assert figure["low"] <= figure["value"] <= figure["high"]
    assert 0 < sum(right) < len(ROWS)
    table = (tmp_path / "evaluation" / "table.md").read_text()
    assert f"{100 * figure['value']:.1f} %" in table
    assert f"{100 * figure['value']:.1f} %" in (tmp_path / "evaluation" / "table.html").read_text()


def read_files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_model_and_an_adapter_of_the_hub_are_measured_as_their_folders_are(
    evaluate, tiny_checkpoint, rows_file, tmp_path, monkeypatch
):
    from huggingface_hub import close_session, constants
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = save_classifier(tiny_checkpoint("bert"), tmp_path / "model", LABELS)
    settings = LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False)
    adapted = get_peft_model(AutoModelForSequenceClassification.from_pretrained(model), settings)
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "adapter")
    results = {"schema_version": 1, "task": "text-classification", "labels": LABELS, "models": {}}
    (tmp_path / "adapter" / "results.json").write_text(json.dumps(results))
    for name, value in {"OFFLINE": False, "DISABLE_XET": True, "CACHE": str(tmp_path / "hf")}.items():
        monkeypatch.setattr(constants, f"HF_HUB_{name}", value)
    address = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    figures = {}
    with LoopbackHub(tmp_path / "hub") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + address)
        for name in ("model", "adapter"):
            hub.create(f"me/{name}", private=False, files=read_files(tmp_path / name))
        for name in ("me/model", tmp_path / "model", "me/adapter", tmp_path / "adapter"):
            code, found, err = evaluate("--model", name, "--data.test_file", rows_file, run_dir=f"e{len(figures)}")
            assert code == 0, err
            file = tmp_path / f"e{len(figures)}" / "predictions-test.jsonl"
            figures[str(name)] = found["entries"][0]["metrics"], file.read_text()
        close_session()
    hub_model, model, hub_adapter, adapter = figures.values()
    assert hub_model == model
    assert hub_adapter == adapter
    assert model[1] != adapter[1]


def test_limits_and_a_better_run_give_exit_code_1(evaluate, tiny_checkpoint, tmp_path):
    rows = tmp_path / "many.jsonl"
    rows.write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in ROWS * 8))
    data = ("--data.test_file", rows)
    models = [save_classifier(tiny_checkpoint("bert"), tmp_path / f"m{n}", LABELS, steps=n) for n in (0, 30)]
    found = [evaluate("--model", model, *data, run_dir=f"e{place}") for place, model in enumerate(models)]
    scores = [results["entries"][0]["metrics"]["accuracy"]["value"] for _, results, _ in found]
    worst, best = 0, 1
    assert scores[best] - scores[worst] > 0.3
    options = ("--model", models[worst], *data)
    code, results, err = evaluate(*options, "--fail_under", f"accuracy={max(scores)}", run_dir="under")
    assert (code, len(results["failed"])) == (1, 1)
    assert "accuracy" in err
    code, _, _ = evaluate(*options, "--fail_under", f"accuracy={min(scores)}", run_dir="kept")
    assert code == 0
    code, _, err = evaluate(*options, "--fail_if_worse_than", tmp_path / f"e{best}", run_dir="worse")
    assert code == 1
    assert "loses to" in err
    code, results, _ = evaluate(*options, "--compare", tmp_path / f"e{best}", run_dir="told")
    assert code == 0
    assert results["entries"][0]["comparisons"][0]["test"] == "exact McNemar"
    code, _, _ = evaluate(
        "--model", models[best], *data, "--fail_if_worse_than", tmp_path / f"e{worst}", run_dir="good"
    )
    assert code == 0


def test_other_labels_other_rows_and_unknown_names_are_told(evaluate, tiny_checkpoint, rows_file, tmp_path):
    model = save_classifier(tiny_checkpoint("bert"), tmp_path / "model", ["delivery", "password", "invoice"])
    code, _, err = evaluate("--model", tiny_checkpoint("bert"), "--data.test_file", rows_file)
    assert (code, "classifier" in err) == (2, True), err
    code, _, err = evaluate("--model", model, "--data.test_file", rows_file)
    assert code == 2
    assert "invoice" in err
    assert "refund" in err
    good = save_classifier(tiny_checkpoint("bert"), tmp_path / "good", LABELS)
    assert evaluate("--model", good, "--data.test_file", rows_file, run_dir="first")[0] == 0
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(rows_file.read_text().splitlines(keepends=True)[:-1]))
    code, _, err = evaluate("--model", good, "--data.test_file", fewer, "--compare", tmp_path / "first")
    assert code == 2
    assert "other rows" in err
    for options, word in (
        (("--suite", "gleu"), "did you mean glue?"),
        (("--suite", "glue", "--only", "[sst3]"), "did you mean sst2?"),
        (("--fail_under", "accuracy"), "METRIC=NUMBER"),
        (("--data.test_file", rows_file, "--fail_under", "acuracy=1"), "did you mean accuracy?"),
    ):
        code, _, err = evaluate("--model", good, *options)
        assert (code, word in err) == (2, True), err


def test_a_suite_takes_a_model_per_entry(evaluate, tiny_checkpoint, rows_file, tmp_path):
    for name in ("one", "two"):
        save_classifier(tiny_checkpoint("bert"), tmp_path / f"m-{name}", LABELS, seed=len(name))
    suite = tmp_path / "suite.yaml"
    entry = {"data": {"test_file": str(rows_file)}, "metrics": ["macro_f1"]}
    suite.write_text(yaml.safe_dump({"one": entry, "two": entry}))
    code, results, _ = evaluate("--model", tmp_path / "m-{entry}", "--suite", suite)
    assert code == 0
    assert [entry["name"] for entry in results["entries"]] == ["one", "two"]
    assert [list(entry["metrics"]) for entry in results["entries"]] == [["macro_f1"]] * 2


def test_an_adapter_that_is_not_whole_or_has_another_base_is_refused(evaluate, tiny_checkpoint, rows_file, tmp_path):
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = save_classifier(tiny_checkpoint("bert"), tmp_path / "model", LABELS)
    settings = LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False)
    adapter, file = tmp_path / "adapter", tmp_path / "adapter" / "adapter_model.safetensors"
    get_peft_model(AutoModelForSequenceClassification.from_pretrained(model), settings).save_pretrained(adapter)
    AutoTokenizer.from_pretrained(model).save_pretrained(adapter)
    results = {"schema_version": 1, "task": "text-classification", "labels": LABELS, "models": {}}

    def refuse(checkpoint: dict) -> str:
        (adapter / "results.json").write_text(json.dumps({**results, "checkpoint": checkpoint}))
        code, _, err = evaluate("--model", adapter, "--data.test_file", rows_file)
        assert code == 2
        return err

    whole = load_file(file)
    assert "was trained on other weights than those of" in refuse({"sha256": "0" * 64})
    lost = next(name for name in whole if "lora_B" in name)
    save_file({name: value for name, value in whole.items() if name != lost}, file, metadata={"format": "pt"})
    assert f"the adapter {adapter} has no weights {lost}; copy it again" in refuse({})
    save_file({**whole, lost: torch.full_like(whole[lost], float("nan"))}, file, metadata={"format": "pt"})
    assert "are NaN or infinite" in refuse({})
    save_file({**whole, lost: torch.zeros(3, 3)}, file, metadata={"format": "pt"})
    assert f"checkpoint {adapter}: Error(s) in loading state_dict" in refuse({})
    torch.save(whole, adapter / "adapter_model.bin")
    file.unlink()
    assert "has no adapter_model.safetensors; only safetensors are loaded" in refuse({})


@pytest.mark.slow
def test_lm_eval_gives_a_gpt_its_copy_and_its_adapter_their_figures(evaluate, tiny_checkpoint, tmp_path):
    pytest.importorskip("lm_eval")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tmp_path / "gpt"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_pretrained(tiny_checkpoint("gpt2")).save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint("gpt2"))
    tokenizer.save_pretrained(base)
    rows = [
        {"text": text, "choices": [f" {label}" for label in LABELS], "answer": LABELS.index(label)}
        for text, label in ROWS * 3
    ]
    (tmp_path / "ends.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    task = {**TASK, "dataset_kwargs": {"data_files": {"test": str(tmp_path / "ends.jsonl")}}}
    (tmp_path / "tasks" / "choose_end.yaml").write_text(yaml.safe_dump(task))
    shutil.copytree(base, tmp_path / "copy")
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, target_modules=["c_attn"])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    found = {}
    for name in ("gpt", "copy", "adapter", "merged"):
        options = ("--lm_tasks", "[choose_end]", "--lm_task_folder", tmp_path / "tasks")
        code, results, err = evaluate("--model", tmp_path / name, *options, run_dir=f"e-{name}")
        assert code == 0, err
        assert results["entries"][0]["rows"] == len(rows)
        found[name] = results["entries"][0]["metrics"]
    assert found["gpt"] == found["copy"]
    assert found["adapter"] == found["merged"]
    assert found["gpt"] != found["adapter"]
    assert found["gpt"]["acc"]["low"] < found["gpt"]["acc"]["value"] < found["gpt"]["acc"]["high"]
    code, _, err = evaluate("--model", base, "--lm_tasks", "[choose_ends]", "--lm_task_folder", tmp_path / "tasks")
    assert code == 2
    assert "choose_end" in err


def make_run(base, folder, labels):
    """Write a run folder with a classifier of `labels`, as far as an evaluation of later rows reads it."""
    save_classifier(base, folder / "model", labels, steps=40)
    results = {
        "task": "text-classification",
        "problem_type": "single_label_classification",
        "method": "full",
        "decides": "macro_f1",
        "labels": list(labels),
        "models": {},
        "config": {"data": {"train_file": "tickets.csv", "label_column": None}},
        "data": {"columns": {"text_column": "message", "label_column": "topic"}, "sources": []},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def write_week(file, rows, columns=("message", "topic")):
    lines = [f'"{text}",{label}' for text, label in rows]
    file.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return file


QUICK = ("--evaluation.resamples", 100)
WEEK = [*ROWS, ("cancel my plan now", "cancel"), ("please end the contract", "cancel"), ("  refund", "refund")]


def test_later_rows_are_read_as_the_run_reads_its_own_and_new_labels_count_as_wrong(
    evaluate, tiny_checkpoint, tmp_path
):
    run = make_run(tiny_checkpoint("bert"), tmp_path / "run", [*LABELS, "other"])
    week = write_week(tmp_path / "week-48.csv", [row for row in WEEK if row[1] != "password"])
    code, results, err = evaluate("--run", run, "--input", week, *QUICK)
    assert code == 0, err
    entry = results["entries"][0]
    assert (entry["name"], entry["rows"]) == ("week-48", len(WEEK) - 3)
    assert (entry["new_labels"], entry["missing_labels"]) == ({"cancel": 2}, ["password", "other"])
    assert next(iter(entry["metrics"])) == "macro_f1"  # the run's own
    said = " ".join(results["sentences"])
    assert "1 label is new to the run and counts as wrong: 'cancel' (2 rows)" in said
    assert "on the 6 rows whose labels the run knows" in said
    assert "no row has 'password', 'other'" in said
    assert "8 rows give macro F1" in said
    lines = [json.loads(line) for line in (tmp_path / "evaluation" / "predictions-week-48.jsonl").open()]
    right = [entry["labels"][line["prediction"]] for line in lines]
    accuracy = sum(
        label == own for label, (_, own) in zip(right, [row for row in WEEK if row[1] != "password"], strict=True)
    )
    assert entry["metrics"]["accuracy"]["value"] == accuracy / 8
    assert accuracy >= 4


def test_a_gate_on_the_interval_s_end_fails_where_the_figure_passes(evaluate, tiny_checkpoint, tmp_path):
    run = make_run(tiny_checkpoint("bert"), tmp_path / "run", LABELS)
    week = write_week(tmp_path / "week.csv", WEEK)
    options = ("--run", run, "--input", week, *QUICK)
    _, results, _ = evaluate(*options)
    score = results["entries"][0]["metrics"]["accuracy"]
    assert score["low"] < score["value"]
    limit = f"accuracy={(score['low'] + score['value']) / 2}"
    assert evaluate(*options, "--fail_under", limit, run_dir="point")[0] == 0
    code, results, err = evaluate(*options, "--fail_under", limit, "--gate", "lower", run_dir="lower")
    assert code == 1
    assert "the low end is under" in err
    assert "rows with the same figure would keep it" in err
    assert results["failed"]


def test_runs_and_evaluations_are_compared_on_the_same_texts_by_the_labels_names(evaluate, tiny_checkpoint, tmp_path):
    old = make_run(tiny_checkpoint("bert"), tmp_path / "old", LABELS)
    new = make_run(tiny_checkpoint("bert"), tmp_path / "new", ["cancel", *LABELS[::-1]])
    week = write_week(tmp_path / "week.csv", WEEK)
    code, results, err = evaluate("--run", new, "--input", week, "--compare_with", old, *QUICK)
    assert code == 0, err
    entry = results["entries"][0]
    comparison = next(test for test in entry["comparisons"] if test["metric"] == "accuracy")
    _, alone, _ = evaluate("--run", old, "--input", week, *QUICK, run_dir="old-week")
    theirs = alone["entries"][0]["metrics"]["accuracy"]["value"]
    assert comparison["difference"] == pytest.approx(entry["metrics"]["accuracy"]["value"] - theirs)
    assert (comparison["with"], comparison["rows"]) == (str(old), len(WEEK))

    later = write_week(tmp_path / "later.csv", [*WEEK[4:][::-1], ("another text", "cancel")])
    code, results, err = evaluate(
        "--run", new, "--input", later, "--fail_if_worse_than", tmp_path / "old-week", *QUICK, run_dir="later"
    )
    assert code in (0, 1), err
    again = next(test for test in results["entries"][0]["comparisons"] if test["metric"] == "accuracy")
    assert again["rows"] == len(WEEK) - 4
    assert "on the 7 of 8 rows that both have" in again["sentence"]
    code, _, err = evaluate("--run", new, "--input", later, "--compare", tmp_path / "old-week", run_dir="strict")
    assert (code, "has no predictions for later; it measured week" in err) == (2, True)
    others = write_week(tmp_path / "others.csv", [("quite another text", "refund"), ("and a second one", "cancel")])
    code, _, err = evaluate("--run", new, "--input", others, "--compare_with", tmp_path / "old-week", run_dir="none")
    assert (code, "was measured on 0 of the 2 texts" in err) == (2, True)


@pytest.fixture(scope="module")
def bad_weeks(tiny_checkpoint, tmp_path_factory):
    """A run, and files that it cannot be measured on, by name."""
    folder = tmp_path_factory.mktemp("weeks")
    return {
        "tmp": folder,
        "run": make_run(tiny_checkpoint("bert"), folder / "run", LABELS),
        "week": write_week(folder / "week.csv", WEEK),
        "empty": write_week(folder / "none.csv", []),
        "one": write_week(folder / "one.csv", WEEK[:1]),
        "renamed": write_week(folder / "renamed.csv", WEEK, ("message", "Topic ")),
        "new": write_week(folder / "new.csv", [(text, "cancel") for text, _ in WEEK]),
        "spelled": write_week(folder / "spelled.csv", [(text, label.capitalize()) for text, label in WEEK]),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--run", "{run}"), "--run and --input go together"),
        (("--input", "{week}"), "name it: --run RUN"),
        (("--run", "{run}", "--model", "{run}", "--input", "{week}"), "not both"),
        (("--run", "{run}", "--input", "{week}", "--suite", "glue"), "--suite goes with --model"),
        (("--run", "{tmp}", "--input", "{week}"), "no finished run in"),
        (("--run", "{run}", "--input", "{tmp}/wek.csv"), "did you mean week.csv?"),
        (("--run", "{run}", "--input", "{tmp}"), "is a folder, expected a file"),
        (("--run", "{run}", "--input", "{empty}"), "no rows; expected at least one row"),
        (("--run", "{run}", "--input", "{one}"), "1 row, but an interval is resampled from 2 rows or more"),
        (("--run", "{run}", "--input", "{renamed}"), "no column 'topic', which the run was trained with, among"),
        (("--run", "{run}", "--input", "{new}"), "every label is new to the run: 'cancel'; it knows 'delivery'"),
        (("--run", "{run}", "--input", "{spelled}"), "differ only by case or surrounding spaces: 'Delivery' (3)"),
        (("--run", "{run}", "--input", "{week}", "--data.max_test_rows", "3"), "data.max_test_rows 3: with --run"),
        (("--run", "{run}", "--input", "{week}", "--fail_under", "acuracy=1"), "did you mean accuracy?"),
        (("--run", "{run}", "--input", "{week}", "--gate", "upper"), "option gate: expected 'point', 'lower', got"),
    ],
)
def test_bad_later_rows_and_options_are_one_line(evaluate, bad_weeks, options, message):
    code, results, err = evaluate(*(option.format(**bad_weeks) for option in options))
    assert (code, results) == (2, None)
    assert message in err
    assert err.count("\n") == 1
