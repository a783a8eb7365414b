import json

import datasets
import numpy as np
import pytest

from startup_llm.benchmark.labelling import (
    LabelledRows,
    build_labelling_table,
    simulate_labelling,
    summarize_labelling,
)
from startup_llm.benchmark.options import BenchmarkConfig
from startup_llm.config import LabelledTextData
from startup_llm.data.task_data import TaskData
from startup_llm.runs.readme import keep_results, render_page


@pytest.fixture(scope="module")
def rows():
    """Rows of four classes, of which two are hard to tell apart and rare."""
    generator = np.random.default_rng(0)
    centers = np.zeros((4, 20))
    centers[[0, 1, 2, 3], [0, 1, 2, 2]] = 1
    centers[2:, 3] = 0.16, -0.16

    def draw(counts):
        labels = np.repeat(np.arange(4), counts)
        return labels, (centers[labels] + 0.1 * generator.normal(size=(len(labels), 20))).astype(np.float32)

    (train, features), (test, test_features) = draw([300, 300, 40, 40]), draw([50] * 4)
    splits = {
        name: datasets.Dataset.from_dict({"label": labels}) for name, labels in (("train", train), ("test", test))
    }
    data = TaskData(datasets.DatasetDict(splits), tuple("abcd"), "single_label_classification")
    words = [" ".join(f"{generator.integers(10**6)}" for _ in range(6)) for _ in train]
    return LabelledRows(data, words, features, test_features)


def simulate(labelled, way, **options):
    config = BenchmarkConfig(data=LabelledTextData(labels_per_class=2), batch_rows=10, **options)
    return list(simulate_labelling(way, 0, labelled, config))


def test_each_way_begins_with_the_same_labels_gives_batches_and_stops_at_the_accuracy(rows):
    suggested, drawn = (simulate(rows, way, rows=None, target_accuracy=0.96) for way in ("suggested", "random"))
    assert suggested[0] == drawn[0]
    for steps in (suggested, drawn):
        assert [step["labels"] for step in steps] == [8 + 10 * place for place in range(len(steps))]
        assert all(step["accuracy"] < 0.96 for step in steps[:-1])
    assert suggested[-1]["accuracy"] >= 0.96
    assert len(suggested) < len(drawn)  # the rare classes are the unsure ones
    assert simulate(rows, "random", rows=25, target_accuracy=1.0)[-1]["labels"] == 25


def test_the_table_has_the_mean_its_draws_and_the_share_of_random_choice():
    curves = {
        "suggested": [[{"labels": 10, "accuracy": 0.8}, {"labels": 20, "accuracy": 0.9}]] * 2,
        "random": [
            [{"labels": 10, "accuracy": 0.8}, {"labels": 20, "accuracy": 0.84}, {"labels": 40, "accuracy": 0.91}],
            [{"labels": 10, "accuracy": 0.8}, {"labels": 20, "accuracy": 0.86}, {"labels": 60, "accuracy": 0.9}],
        ],
        "least-margin": [[{"labels": 10, "accuracy": 0.8}]] * 2,
    }
    summary = summarize_labelling(curves, 0.9)
    assert summary["random"]["labels"] == [40, 60]
    assert summary["random"]["accuracy"] == pytest.approx({10: 0.8, 20: 0.85, 40: 0.905})
    assert build_labelling_table({"target_accuracy": 0.9, "summary": summary}).splitlines() == [
        "| rows chosen by | labels to 90% accuracy | draws | of random choice |",
        "|---|---|---|---|",
        "| suggested | 20 | 20, 20 | 40% |",
        "| random | 50 | 40, 60 | 100% |",
        "| least-margin | not reached | not reached, not reached |  |",
    ]


@pytest.mark.slow
def test_the_recipe_simulates_reads_its_features_again_and_fills_a_page(run_recipe, tiny_checkpoint, tmp_path):
    features = tmp_path / "features.npz"
    words = ["--what", "suggest", "--data.labels_per_class", 2, "--data.max_test_rows", 40, "--repetitions", 1]
    words += ["--rows", 40, "--batch_rows", 8, "--features", features, "--model.checkpoint", tiny_checkpoint("bert")]
    code, out, err = run_recipe("benchmark", *words, "--run_dir", tmp_path / "run")
    assert code == 0, err
    assert "| suggested |" in out
    before = features.read_bytes()
    code, _, err = run_recipe("benchmark", *words, "--ways", "[random]", "--run_dir", tmp_path / "again")
    assert code == 0, err
    assert features.read_bytes() == before
    curves = [json.loads((tmp_path / name / "results.json").read_text())["curves"] for name in ("run", "again")]
    assert curves[0]["random"] == curves[1]["random"]
    assert (tmp_path / "run" / "curve.png").stat().st_size > 10_000
    (tmp_path / "kept" / "labelling").mkdir(parents=True)
    keep_results(tmp_path / "kept", "tickets", [str(tmp_path / "run")])
    page = render_page("<!-- labelling: tickets -->\n<!-- /labelling -->\n", tmp_path / "kept")
    assert "| suggested |" in page
    assert "command" not in json.loads((tmp_path / "kept" / "labelling" / "tickets.json").read_text())

    code, _, err = run_recipe("benchmark", *words, "--data.max_train_rows", 100, "--run_dir", tmp_path / "other")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "are of other rows, or of another model" in err
    code, _, err = run_recipe("benchmark", "--what", "suggest", "--run_dir", tmp_path / "other")
    assert code == 2
    assert "data.labels_per_class is not given" in err
