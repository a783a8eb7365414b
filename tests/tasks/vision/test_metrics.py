"""COCO's average precision against the library, on whole sets and on resamples of images."""

from __future__ import annotations

import numpy as np
import pytest

from startup_llm.config import EvaluationConfig
from startup_llm.evaluation.metrics import score_rows
from startup_llm.evaluation.results import score_models
from startup_llm.tasks.vision.metrics import (
    AVERAGE_PRECISION_50,
    AVERAGE_RECALL,
    MEAN_AVERAGE_PRECISION,
    compute_class_scores,
)

METRICS = (MEAN_AVERAGE_PRECISION, AVERAGE_PRECISION_50, AVERAGE_RECALL)


def draw_case(seed: int, images: int, classes: int, crowds: float = 0.0) -> tuple[list[dict], list[dict]]:
    """Return random true boxes, and detections near to some of them."""
    generator = np.random.default_rng(seed)
    true, found = [], []
    for _ in range(images):
        count = int(generator.integers(0, 5))
        boxes = np.column_stack([generator.uniform(0, 60, (count, 2)), generator.uniform(5, 40, (count, 2))])
        labels = generator.integers(0, classes, count).tolist()
        is_crowd = (generator.random(count) < crowds).astype(int).tolist()
        true.append({"labels": labels, "boxes": boxes.tolist(), "crowds": is_crowd})
        near, seen = [], []
        for _ in range(int(generator.integers(0, 7))):
            if count and generator.random() < 0.7:
                place = int(generator.integers(count))
                near.append((boxes[place] + generator.normal(0, 2, 4)).clip(0.5).tolist())
                seen.append(labels[place] if generator.random() < 0.8 else int(generator.integers(classes)))
            else:
                near.append([*generator.uniform(0, 60, 2).tolist(), *generator.uniform(5, 40, 2).tolist()])
                seen.append(int(generator.integers(classes)))
        found.append({"labels": seen, "boxes": near, "scores": generator.random(len(seen)).tolist()})
    return true, found


@pytest.mark.parametrize("crowds", [0.0, 0.3])
@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_resampled_matches_give_the_library_s_value_for_the_drawn_images(metric, crowds):
    generator = np.random.default_rng(0)
    for seed in range(6):
        true, found = draw_case(seed, images=4 + 5 * seed, classes=1 + seed % 4, crowds=crowds)
        measure = metric.prepare(true, found)
        for rows in (np.arange(len(true)), *(generator.integers(0, len(true), len(true)) for _ in range(3))):
            drawn = [[values[row] for row in rows] for values in (true, found)]
            expected = metric.compute(*drawn)
            assert measure(rows) == pytest.approx(0.0 if np.isnan(expected) else expected, abs=1e-12)


def test_values_on_boxes_that_are_counted_by_hand():
    box, half = [10.0, 10.0, 20.0, 20.0], [10.0, 10.0, 20.0, 12.0]  # their overlap is 0.6
    true = [{"labels": [0], "boxes": [box], "crowds": [0]}] * 2
    exact = [{"labels": [0], "boxes": [box], "scores": [0.9]}] * 2
    rough = [{"labels": [0], "boxes": [half], "scores": [0.9]}] * 2
    one = [exact[0], {"labels": [], "boxes": [], "scores": []}]
    assert [metric.compute(true, exact) for metric in METRICS] == [1.0, 1.0, 1.0]
    assert [metric.compute(true, rough) for metric in METRICS] == pytest.approx([0.3, 1.0, 0.3])
    assert AVERAGE_PRECISION_50.compute(true, one) == pytest.approx(51 / 101)
    assert AVERAGE_RECALL.compute(true, one) == pytest.approx(0.5)


def test_a_detection_inside_a_crowd_counts_for_nobody():
    true = [{"labels": [0, 0], "boxes": [[0, 0, 10, 10], [30, 30, 40, 40]], "crowds": [0, 1]}]
    found = [{"labels": [0, 0], "boxes": [[35, 35, 10, 10], [0, 0, 10, 10]], "scores": [0.9, 0.8]}]
    assert MEAN_AVERAGE_PRECISION.compute(true, found) == pytest.approx(1.0)
    without = [{**true[0], "crowds": [0, 0]}]
    assert MEAN_AVERAGE_PRECISION.compute(without, found) < 0.5


def test_nothing_found_scores_zero_through_the_published_metric_too():
    true, _ = draw_case(1, images=5, classes=2)
    nothing = [{"labels": [], "boxes": [], "scores": []}] * 5
    for metric in METRICS:
        assert score_rows(metric, true, nothing) == 0.0


def test_models_are_compared_on_the_same_images():
    true, found = draw_case(3, images=40, classes=3)
    exact = [{"labels": row["labels"], "boxes": row["boxes"], "scores": [1.0] * len(row["labels"])} for row in true]
    scores = score_models(METRICS, true, {"rough": found, "exact": exact}, "exact", EvaluationConfig(resamples=200))
    entry = scores["models"]["rough"]["mean_average_precision"]
    assert entry["value"] == pytest.approx(MEAN_AVERAGE_PRECISION.compute(true, found))
    assert 0.0 < entry["low"] < entry["value"] < entry["high"] < 1.0
    assert scores["models"]["exact"]["mean_average_precision"]["low"] == 1.0
    assert scores["comparisons"][0]["p_value"] < 0.02
    assert scores["comparisons"][0]["test"] == "paired bootstrap"
    assert scores["sentences"][0].startswith("exact beats rough by ")


def test_classes_are_measured_apart():
    true, found = draw_case(4, images=30, classes=3)
    names = ("cat", "dog", "bird", "fish")
    scores = compute_class_scores(true, found, names)
    assert set(scores) == {"cat", "dog", "bird"}
    overall = MEAN_AVERAGE_PRECISION.compute(true, found)
    assert np.mean([entry["average_precision"] for entry in scores.values()]) == pytest.approx(overall)
    assert scores["cat"]["rows"] == sum(row["labels"].count(0) for row in true)
