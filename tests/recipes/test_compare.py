"""The comparison recipe on rows of the form that its config reads."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from startup_llm.command_line import parse_config
from startup_llm.config import CompareConfig

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "compare.py"
CONFIG = ROOT / "recipes" / "configs" / "banking77_ladder.yaml"


@pytest.fixture
def call(monkeypatch, capsys):
    """Return a function that runs the recipe in this process: exit code and standard error."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(RECIPE), *map(str, words)])
        try:
            runpy.run_path(str(RECIPE), run_name="__main__")
        except SystemExit as stop:
            return stop.code or 0, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


@pytest.fixture
def rows(tmp_path):
    """Return a folder with 40 training and 16 test rows of two classes."""
    texts = ["the parcel came today", "my filter is broken", "i like the new filter", "nobody answers me"]
    for split, count in (("train", 40), ("test", 16)):
        lines = [json.dumps({"text": f"{texts[i % 4]} {split} {i}", "label": "ab"[i % 2]}) for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_config_leaves_a_whole_comparison_and_resumes_with_the_runs_it_finished(call, rows, tiny_checkpoint):
    words = ["--config", CONFIG, "--data.data_dir", rows, "--run_dir", rows / "ladder", "--evaluation.resamples", 20]
    words += ["--rungs", "[majority, tfidf-linear-svm, dnn, ganbert]", "--budgets", "[3, all]", "--draws", 1]
    ganbert = {"text.epochs": 1, "encoder.checkpoint": str(tiny_checkpoint("bert"))}
    options = {"dnn": {"train.max_steps": 2}, "ganbert": ganbert}
    code, err = call(*words, "--options", json.dumps({**options, "dnn-all": {"train.max_steps": "many"}}))
    assert code == 2
    assert "dnn-all-0 failed" in err
    assert "train.max_steps" in err
    kept = rows / "ladder.partial" / "runs" / "dnn-3-0" / "results.json"
    finished = json.loads(kept.read_text())

    code, err = call(*words, "--options", json.dumps(options), "--resume")
    assert code == 0, err[-2000:]
    results = json.loads((rows / "ladder" / "results.json").read_text())
    assert [entry["budget"] for entry in results["budgets"]] == [3, "all"]
    for entry, count in zip(results["budgets"], (6, 40), strict=True):
        found = {model["name"]: model for model in entry["rungs"]}
        assert found.keys() == {"majority", "tfidf-linear-svm", "dnn", *["ganbert"] * (entry["budget"] == 3)}
        assert {model["train_rows"] for model in found.values()} == {count}
        assert all(found[name]["milliseconds_per_prediction"] > 0 for name in ("dnn", "ganbert") if name in found)
    dnn = next(model for model in results["budgets"][0]["rungs"] if model["name"] == "dnn")
    assert dnn["draws"][0]["value"] == finished["models"]["dnn"]["accuracy"]["value"]
    assert dnn["draws"][0]["seconds"] == finished["seconds"]
    assert results["test"] == finished["test"]
    assert (rows / "ladder" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert results["sentences"][0] in (rows / "ladder" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rungs", "[majority, lorra]"], "unknown model lorra; did you mean lora?"),
        (["--options", '{"lorra-7": {}}'], "lorra-7 is no MODEL or MODEL-BUDGET of the comparison; did you mean lora"),
        (["--budgets", "[0, all]"], "option budgets: expected a number of at least 1, got 0"),
        (["--draws", "0"], "option draws: expected a number of at least 1, got 0"),
        (["--budgets", "[]"], "8 rungs, 0 budgets: expected at least one of each"),
        (["--data.labels_per_class", "4"], "data.labels_per_class 4"),
    ],
)
def test_a_mistake_is_found_before_anything_is_trained(call, tmp_path, words, said):
    code, err = call(*words, "--run_dir", tmp_path / "ladder")
    assert code == 2
    assert said in err
    assert not list(tmp_path.iterdir())


def test_test_rows_that_change_with_the_draw_are_refused(call, rows):
    words = ["--data.train_file", rows / "train.jsonl", "--run_dir", rows / "ladder", "--rungs", "[majority]"]
    code, err = call(*words, "--budgets", "[3]", "--draws", 2)
    assert code == 2
    assert "2 draws make 2 different test splits" in err


def test_the_config_s_header_tells_its_command_and_its_options_name_real_ones():
    head = [line for line in CONFIG.read_text().splitlines() if line.startswith("#")]
    assert f"# python recipes/compare.py --config recipes/configs/{CONFIG.name}" in head
    parsed, _, _ = parse_config(CompareConfig, ["--config", str(CONFIG)])
    assert parsed.options == yaml.safe_load(CONFIG.read_text())["options"]
