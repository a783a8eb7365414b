import numpy as np
import pytest

from startup_llm.training.selection import choose_rows, compute_uncertainty, find_new_texts


def test_near_duplicates_of_labelled_and_of_earlier_texts_are_left_out():
    labelled = ["Where is my parcel?", "please refund the order of last week"]
    pool = [
        "where is my PARCEL",  # labelled but for case and punctuation
        "please refund the order of last weeks",  # nearly labelled
        "how do I change my password",
        "how do I change my password!",
        "how do I change my passwords",
        "the kettle arrived broken",
    ]
    new = find_new_texts(pool, labelled)
    assert new.positions.tolist() == [2, 5]
    assert (new.known, new.repeated) == (2, 2)


def test_a_text_that_repeats_a_near_duplicate_is_left_out():
    pool = ["please refund the order of last weeks", "Please refund the order of last weeks!"]
    new = find_new_texts(pool, ["please refund the order of last week"])
    assert len(new.positions) == 0
    assert new.known == 2


def test_uncertainty_is_one_minus_the_margin_and_that_of_the_label_nearest_to_a_half():
    one = compute_uncertainty(np.array([[0.5, 0.5, 0.0], [0.1, 0.7, 0.2], [0.0, 1.0, 0.0]]))
    assert one == pytest.approx([1, 0.5, 0])
    several = compute_uncertainty(np.array([[0.9, 0.6], [1.0, 0.0]]), several_labels=True)
    assert several == pytest.approx([0.8, 0])
    assert compute_uncertainty(np.ones((2, 1))).tolist() == [0, 0]


def test_unsure_rows_of_every_direction_are_chosen_and_sure_ones_are_not():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 25)
    features = np.eye(4)[groups] + 0.01 * generator.normal(size=(100, 4))
    uncertainty = np.where(groups < 3, 0.9, 0.1) + 0.01 * generator.random(100)
    chosen, counts = choose_rows(features, uncertainty, 3)
    assert sorted(groups[chosen]) == [0, 1, 2]
    assert counts.sum() == 30
    assert (np.diff(uncertainty[chosen]) <= 0).all()
    most_unsure = np.argsort(-uncertainty)[:3]
    assert len(set(groups[most_unsure])) < 3  # which the least margin alone would take


def test_as_many_rows_as_asked_are_chosen_where_features_are_equal_or_few():
    chosen, counts = choose_rows(np.ones((40, 3)), np.linspace(0, 1, 40), 5)
    assert len(set(chosen.tolist())) == 5 == len(counts)
    chosen, counts = choose_rows(np.eye(3), np.array([0.1, 0.3, 0.2]), 3)
    assert chosen.tolist() == [1, 2, 0]
    assert counts.tolist() == [1, 1, 1]
