from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from startup_llm.gan.metrics import compute_frechet_distance, compute_precision_recall


@pytest.fixture
def sets():
    random = np.random.default_rng(0)
    return random.normal(size=(300, 5)), random.normal(size=(200, 5)) @ random.normal(size=(5, 5)) + 1


def test_frechet_distance_is_the_published_formula(sets):
    real, generated = sets
    first, second = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    shift = real.mean(0) - generated.mean(0)
    expected = shift @ shift + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert compute_frechet_distance(real, generated) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_a_shifted_set_is_the_shift_squared(sets):
    assert compute_frechet_distance(sets[0], sets[0]) == pytest.approx(0, abs=1e-9)
    assert compute_frechet_distance(sets[0], sets[0] + 2) == pytest.approx(5 * 2**2)


def test_frechet_distance_bears_a_feature_that_is_always_zero(sets):
    real = np.pad(sets[0], ((0, 0), (0, 2)))
    assert compute_frechet_distance(real, real) == pytest.approx(0, abs=1e-6)


def test_the_same_set_has_full_precision_and_recall(sets):
    assert compute_precision_recall(sets[0], sets[0]) == (1.0, 1.0)


def test_copies_of_one_real_point_are_precise_and_recall_little(sets):
    precision, recall = compute_precision_recall(sets[0], np.repeat(sets[0][:1], 50, axis=0))
    assert precision == 1.0
    assert recall == pytest.approx(1 / 300)


def test_points_far_away_are_neither(sets):
    assert compute_precision_recall(sets[0], sets[0] + 1000) == (0.0, 0.0)


def test_the_ball_reaches_to_the_neighbour_asked_for():
    real = np.array([[0.0], [1.0], [3.0], [6.0]])
    assert compute_precision_recall(real, np.array([[9.0], [9.1]]), neighbours=1)[0] == 0.5
