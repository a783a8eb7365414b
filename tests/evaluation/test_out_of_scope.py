"""Scores that tell inputs out of scope, each against other libraries' numbers, and what is stored of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from startup_llm.config import EvaluationConfig
from startup_llm.errors import UserError
from startup_llm.evaluation.out_of_scope import (
    BANK_FILE,
    NEIGHBOURS,
    SCORES,
    Detector,
    FeatureRows,
    ScopeRows,
    _rank_auroc,
    analyse_out_of_scope,
    measure_detection,
    read_detector,
)

QUICK = EvaluationConfig(resamples=30)
CENTRES = np.random.default_rng(7).normal(0, 3, (4, 8))


def draw(rows: int, seed: int, *, centre: np.ndarray | None = None, group: str = "") -> FeatureRows:
    """Return rows about the classes' centres, or about another one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, rows)
    middle = CENTRES[labels] if centre is None else np.tile(centre, (rows, 1))
    features = (middle + rng.normal(0, 0.7, (rows, 8))).astype(np.float32)
    return FeatureRows(
        features @ CENTRES.T, features, labels if centre is None else None, (group,) * rows if group else ()
    )


TRAIN = draw(200, 0)
AWAY = np.full(8, 2.5)


def gather(*, outside: bool) -> ScopeRows:
    others = (draw(40, 3, centre=AWAY, group="far"), draw(60, 4, centre=AWAY, group="far_test")) if outside else ()
    return ScopeRows(TRAIN, draw(100, 1), draw(120, 2), *others)


def fit(name: str) -> Detector:
    return Detector(name, SCORES[name].fit(TRAIN, draw(40, 3, centre=AWAY, group="far")))


def test_softmax_and_energy_read_the_logits_alone():
    rows = draw(20, 5)
    np.testing.assert_allclose(fit("softmax").compute_rows(rows), softmax(rows.logits, axis=1).max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(fit("energy").compute_rows(rows), logsumexp(rows.logits, axis=1), rtol=1e-5)


def test_nearest_is_the_mean_cosine_that_scikit_learn_finds():
    rows = draw(30, 5)
    found = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine").fit(TRAIN.features).kneighbors(rows.features)[0]
    np.testing.assert_allclose(fit("nearest").compute_rows(rows), 1 - found.mean(axis=1), atol=2e-3)  # of float16


def test_mahalanobis_is_the_distance_that_scikit_learns_covariance_gives():
    rows = draw(30, 5)
    means = np.stack([TRAIN.features[TRAIN.labels == label].mean(axis=0) for label in range(4)])
    shrunk = LedoitWolf(assume_centered=True).fit(TRAIN.features - means[TRAIN.labels])
    expected = -np.min([shrunk.mahalanobis(rows.features - mean) for mean in means], axis=0)
    np.testing.assert_allclose(fit("mahalanobis").compute_rows(rows), expected, rtol=1e-3)


@pytest.mark.parametrize("name", SCORES)
def test_every_score_is_higher_in_scope_and_reads_back_as_it_was_stored(name, tmp_path):
    detector = Detector(name, fit(name).tensors, 0.25)
    inside, outside = detector.compute_rows(draw(50, 5)), detector.compute_rows(draw(50, 6, centre=AWAY))
    if SCORES[name].names:  # logits alone may be as high there
        assert roc_auc_score(np.repeat([1, 0], 50), np.concatenate([inside, outside])) > 0.9
    (tmp_path / BANK_FILE).write_bytes(b"of another run")
    detector.save(tmp_path)
    assert (tmp_path / BANK_FILE).exists() == bool(SCORES[name].names)
    again = read_detector(SimpleNamespace(out_of_scope=detector.describe()), tmp_path)
    assert again is not None
    np.testing.assert_array_equal(again.compute_rows(draw(50, 5)), inside)
    assert again.threshold == 0.25


def test_detection_is_measured_as_scikit_learn_does_with_rows_out_of_scope_as_positive():
    inside, outside = np.arange(20.0), np.array([-3.0, -1.0, 0.5, 30.0])
    found = measure_detection(inside, outside)
    assert found["auroc"] == pytest.approx(_rank_auroc(np.concatenate([inside, outside]), np.repeat([0, 1], [20, 4])))
    assert found["auroc"] == pytest.approx((20 + 20 + 19) / 80)
    assert found["fpr_at_95_recall"] == 0.25  # the one at 30


def test_the_best_score_is_chosen_on_rows_out_of_scope_and_judged_on_others():
    found, detector = analyse_out_of_scope(gather(outside=True), "auto", 0.05, QUICK)
    measured = {entry["score"]: entry["validation"]["far"] for entry in found["scores"]}
    assert measured.keys() == SCORES.keys()
    assert measured[found["score"]] == max(measured.values())
    assert detector.threshold == pytest.approx(np.quantile(detector.compute_rows(draw(100, 1)), 0.05))
    group = found["judged"]["groups"]["far_test"]
    assert group["auroc_low"] <= group["auroc"] <= group["auroc_high"]
    assert group["rejected"] > 0.9
    assert found["judged"]["kept_and_right"] <= found["judged"]["accuracy"]
    assert "the best of 6 scores by AUROC on 40 rows out of scope" in found["sentences"][0]


def test_without_rows_out_of_scope_the_threshold_rejects_the_asked_share_of_validation_rows():
    found, detector = analyse_out_of_scope(gather(outside=False), "auto", 0.1, QUICK)
    assert found["score"] == "nearest"
    assert [entry["score"] for entry in found["scores"]] == ["softmax", "energy", "nearest", "mahalanobis"]
    assert (detector.compute_rows(draw(100, 1)) < detector.threshold).mean() == pytest.approx(0.1, abs=0.011)
    assert "no rows out of scope (data.oos_file) were given to choose it by" in found["sentences"][0]
    assert "the threshold rejects 10 % of the 100 validation rows" in found["sentences"][0]
    assert found["sentences"][-1].startswith(f"{BANK_FILE} takes 0.0 MB for 200 of 200 training rows")


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"score": "nearest"}, "expected score and threshold, got {'score': 'nearest'}"),
        ({"score": "cosine", "threshold": 0.5}, "expected a score of softmax, .*, got 'cosine'"),
        ({"score": "energy", "threshold": "high"}, "expected a number as threshold, got 'high'"),
        ({"score": "nearest", "threshold": 0.5}, "out_of_scope.safetensors cannot be read .* copy it again"),
    ],
)
def test_what_is_stored_is_refused_where_it_is_not_whole(stored, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_detector(SimpleNamespace(out_of_scope=stored), tmp_path)


def test_a_bank_without_what_the_score_needs_is_refused(tmp_path):
    fit("reject-class").save(tmp_path)
    with pytest.raises(UserError, match="has no bank, which the score nearest needs"):
        read_detector(SimpleNamespace(out_of_scope={"score": "nearest", "threshold": 0.5}), tmp_path)
