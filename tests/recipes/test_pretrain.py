"""Every config of the recipe is run for two steps on rows of its own form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIGS = [
    file
    for file in sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
    if "recipes/pretrain.py" in file.read_text() and "task" not in yaml.safe_load(file.read_text())
]
QUICK = ["--train.max_steps", 2, "--evaluation.resamples", 20, "--train.per_device_train_batch_size", 8]


def write_rows(folder: Path) -> None:
    texts = ["the parcel came today", "my filter is broken", "i like the new filter", "nobody answers me"]
    for split, count in (("train", 32), ("test", 12)):
        rows = [
            json.dumps({"text": f"{texts[i % 4]} {split} {i}", "label": ("good", "bad")[i % 2]}) for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")


@pytest.mark.fresh_gate
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_runs_and_leaves_a_whole_run(config, run_recipe, tmp_path):
    content = yaml.safe_load(config.read_text())
    words = ["--config", config, "--run_dir", tmp_path / "run", *QUICK]
    if content["data"]["dataset"] == "helpdesk":
        words += ["--data.max_train_rows", 60, "--data.max_test_rows", 60]
    else:
        write_rows(tmp_path)
        words += ["--data.data_dir", tmp_path]
    code, _, err = run_recipe("pretrain", *words)
    assert code == 0, err[-2000:]
    run, name = tmp_path / "run", content["model"]["name"]
    results = json.loads((run / "results.json").read_text())
    assert results["method"] == name
    assert set(results["models"]) == {"majority", "tfidf-linear-svm", name}
    assert {(c["a"], c["b"]) for c in results["comparisons"]} == {(name, "majority"), (name, "tfidf-linear-svm")}
    assert {"per_class", "calibration", "sentences", "history"} <= results.keys()
    assert results["reload_gate"]["merged_max_difference"] <= results["reload_gate"]["tolerance"]
    assert results["checkpoint"]["trainable_parameters"] == results["checkpoint"]["parameters"]
    card = (run / "README.md").read_text()
    assert "load_text_classifier" in card
    assert "pipeline(" not in card
    assert "random weights" in (run / "report.html").read_text()


@pytest.mark.parametrize("name", ["dnn", "transformer"])
def test_a_model_from_scratch_answers_new_rows(name, run_recipe, tmp_path):
    write_rows(tmp_path)
    config = ROOT / "recipes" / "configs" / f"banking77_{name}.yaml"
    code, _, err = run_recipe(
        "pretrain", "--config", config, "--data.data_dir", tmp_path, "--run_dir", tmp_path / "run", *QUICK
    )
    assert code == 0, err[-2000:]
    words = ["--run", tmp_path / "run", "--input", tmp_path / "test.jsonl", "--output", "-"]
    code, out, err = run_recipe("predict", *words)
    assert code == 0, err
    answers = [json.loads(line)["predicted_label"] for line in out.splitlines()]
    kept = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert answers == [("bad", "good")[json.loads(line)[name]] for line in kept]
    code, _, err = run_recipe("evaluate", "--model", tmp_path / "run", "--run_dir", tmp_path / "measured")
    assert code == 0, err[-2000:]
    measured = json.loads((tmp_path / "measured" / "results.json").read_text())["entries"][0]["metrics"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert measured["accuracy"]["value"] == results["models"][name]["accuracy"]["value"]


def test_a_plain_plan_trains_a_reference_model_too(run_recipe, tmp_path):
    write_rows(tmp_path)
    small = ["--model.name", "transformer", "--model.width", 32, "--model.vocab_size", 300, "--speed.plan", "plain"]
    words = ["--data.data_dir", tmp_path, "--run_dir", tmp_path / "run", *small, *QUICK]
    code, _, err = run_recipe("pretrain", *words)
    assert code == 0, err[-2000:]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_s_header_tells_its_command(config):
    head = [line for line in config.read_text().splitlines() if line.startswith("#")]
    assert f"# accelerate launch recipes/pretrain.py --config recipes/configs/{config.name}" in head


def test_an_unknown_model_is_named(run_recipe, tmp_path):
    code, _, err = run_recipe("pretrain", "--model.name", "lstm", "--run_dir", tmp_path / "run")
    assert code == 2
    assert "lstm" in err


def test_a_single_test_row_is_refused_before_training(run_recipe, tmp_path):
    write_rows(tmp_path)
    test = tmp_path / "test.jsonl"
    test.write_text(test.read_text().partition("\n")[0] + "\n")
    words = ["--data.data_dir", tmp_path, "--model.name", "dnn", *QUICK]
    code, out, err = run_recipe("pretrain", *words, "--run_dir", tmp_path / "run")
    assert code == 2, err[-2000:]
    assert "error: the test split has 1 row, but a metric's interval is resampled from 2 rows or more; give" in err
    assert "model:" not in out
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_task_is_refused(run_recipe, tmp_path):
    code, _, err = run_recipe("pretrain", "--model.name", "gpt", "--run_dir", tmp_path / "run")
    assert code == 2
    assert "model.name gpt: text-classification has the reference models dnn and transformer" in err
