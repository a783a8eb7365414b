import numpy as np
import pytest

from startup_llm.benchmark.label_faults import NOISES, build_label_fault_tables

CODES = np.repeat(np.arange(10), 60)
FEATURES = np.eye(10)[CODES] + np.arange(10)[CODES, None] / 10


@pytest.mark.parametrize("name", NOISES)
def test_each_noise_changes_its_share_of_the_labels_and_the_same_ones_for_a_seed(name):
    changed = NOISES[name](CODES, FEATURES, np.random.default_rng(3))
    assert (changed != CODES).sum() == 36
    assert np.array_equal(changed, NOISES[name](CODES, FEATURES, np.random.default_rng(3)))


def test_blocks_are_named_as_the_class_that_comes_next_in_the_file():
    changed = next(iter(NOISES.values()))(CODES, FEATURES, np.random.default_rng(3))
    wrong = np.flatnonzero(changed != CODES)
    assert set((changed[wrong] - CODES[wrong]) % 10) == {1}
    assert max(np.bincount(CODES[wrong], minlength=10)) <= 30


def test_the_tables_show_the_mean_and_the_spread():
    figure = {"mean": 0.9, "low": 0.85, "high": 0.95}
    row = {"order": "file", "method": "words", "recall": figure, "precision": figure}
    results = {"share": 0.06, "rows": 600, "labels": 10, "seeds": 2, "checkpoint": "x", "tables": {"noise": [row]}}
    table = build_label_fault_tables(results)
    assert "| the file, sorted by label | words | 0.90 (0.85 to 0.95) | 0.90 (0.85 to 0.95) |" in table
