"""Comparing rows with those of a finished run, from training to the verdict."""

import json

import numpy as np
import pytest

from startup_llm.runs.drift import read_reference, read_statistics

PHRASES = {
    "greeting": ["hello there", "good morning", "how are you"],
    "parting": ["goodbye now", "take care", "farewell friend"],
}
QUICK = ["--audit", "none", "--evaluation.resamples", "50", "--speed.compute_dtype", "float32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drift")


@pytest.fixture
def run(folder, run_recipe, tiny_checkpoint):
    """A run with a linear probe, made once, whose test rows stand in test.csv."""
    if not (folder / "run").is_dir():
        for name, numbers in (("train", range(40)), ("test", range(40, 80))):
            rows = [f"{text} {n},{label}\n" for n in numbers for label in PHRASES for text in PHRASES[label]]
            (folder / f"{name}.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
        data = ["--data.train_file", folder / "train.csv", "--data.test_file", folder / "test.csv"]
        model = ["--model.checkpoint", tiny_checkpoint("bert"), "--method", "probe", "--run_dir", folder / "run"]
        code, _, err = run_recipe("finetune", *data, "--data.validation_fraction", 0.2, *model, *QUICK)
        assert code == 0, err
    return folder / "run"


def test_the_test_rows_raise_no_alarm_and_new_words_do(run, run_recipe, folder, tmp_path):
    reference = read_reference(str(run))
    assert reference.rows == 240
    assert reference.labels.total() == len(reference.scores) == len(reference.lengths) == 240
    assert reference.words["hello"] == 40
    assert not any(any(letter.isdigit() for letter in word) for word in reference.words)
    assert reference.features.shape == (240, 32)

    words = ["drift", "--run", run, "--fail_on_change", "--output", tmp_path / "same"]
    code, out, err = run_recipe(*words, "--input", folder / "test.csv")
    assert code == 0, err
    assert "No change was found in 240 rows" in out
    results = json.loads((tmp_path / "same" / "drift.json").read_text(encoding="utf-8"))
    assert [change["changed"] for change in results["changes"]] == [False] * len(results["changes"])
    assert {"labels", "scores", "lengths", "words", "features"} <= {change["name"] for change in results["changes"]}
    assert "No change was found" in (tmp_path / "same" / "drift.html").read_text(encoding="utf-8")

    changed = (folder / "test.csv").read_text(encoding="utf-8").replace("farewell friend", "cheerio mate")
    (tmp_path / "new.csv").write_text(changed, encoding="utf-8")
    words[-1] = tmp_path / "changed"
    code, out, err = run_recipe(*words, "--input", tmp_path / "new.csv")
    assert code == 1, err
    assert "words: changed" in out
    changes = json.loads((tmp_path / "changed" / "drift.json").read_text(encoding="utf-8"))["changes"]
    details = next(change["details"] for change in changes if change["name"] == "words")
    assert any(detail.startswith("cheerio: 0.0% before, 16.7% now") for detail in details)
    assert any(" (in rows answered " in detail for detail in details)


def test_predictions_leave_statistics_without_texts_which_are_compared_too(run, run_recipe, folder, tmp_path):
    log = tmp_path / "log.jsonl"
    words = ["--run", run, "--input", folder / "test.csv", "--output", tmp_path / "answers.csv", "--overwrite"]
    for _ in range(2):
        code, _, err = run_recipe("predict", *words, "--piece_rows", 100, "--log_statistics", log)
        assert code == 0, err
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["rows"] for line in lines] == [100, 100, 40] * 2
    assert "hello there" not in log.read_text(encoding="utf-8")
    pooled, reference = read_statistics(str(log)), read_reference(str(run))
    assert pooled.rows == 480
    assert pooled.words == {word: 2 * rows for word, rows in reference.words.items()}
    assert pooled.feature_mean == pytest.approx(reference.feature_mean, abs=1e-3)
    code, out, err = run_recipe("drift", "--run", run, "--statistics", log, "--output", tmp_path / "out")
    assert code == 0, err
    assert "No change was found in 480 rows" in out
    log.write_text("something else\n", encoding="utf-8")
    code, _, err = run_recipe("predict", *words, "--log_statistics", log)
    assert code == 2
    assert "line 1 holds no statistics of rows" in err
    assert log.read_text(encoding="utf-8") == "something else\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected --input FILE with rows, or --statistics FILE"),
        (["--input", "few.csv"], "there are 3 rows; a comparison needs 20 at least"),
        (["--statistics", "none.jsonl"], "no such file"),
        (["--input", "few.csv", "--output", "few.csv"], "is a file, expected a folder"),
    ],
)
def test_what_cannot_be_compared_is_one_line(run, run_recipe, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.csv").write_text("text\nhello\ngood\nnow\n")
    code, _, err = run_recipe("drift", "--run", run, *options)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert message in err


def test_a_run_without_a_reference_and_one_of_another_task_are_one_line(run, run_recipe, folder, tmp_path):
    words = ["--input", folder / "test.csv", "--output", tmp_path / "out"]
    code, _, err = run_recipe("drift", "--run", run / "model", *words)
    assert code == 2
    assert "keeps no drift_reference.json" in err
    code, _, err = run_recipe("drift", "--run", tmp_path / "other", *words)
    assert code == 2
    assert "no finished run" in err
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}")
    code, _, err = run_recipe("drift", "--run", tmp_path / "plain", "--task", "token-classification", *words)
    assert code == 2
    assert "token-classification; rows are compared for runs of text-, image- and audio-classification alone" in err
    assert isinstance(np.load(run / "drift_reference.npy", allow_pickle=False), np.ndarray)
