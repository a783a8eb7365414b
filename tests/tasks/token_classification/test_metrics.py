from __future__ import annotations

import numpy as np
import pytest

from startup_llm.config import EvaluationConfig
from startup_llm.evaluation.metrics import score_rows
from startup_llm.evaluation.statistics import compare_models, compute_interval
from startup_llm.tasks.token_classification.baselines import describe_shape, describe_word
from startup_llm.tasks.token_classification.metrics import (
    ENTITY_F1,
    ENTITY_PRECISION,
    ENTITY_RECALL,
    TOKEN_ACCURACY,
    pair_mistakes,
)
from startup_llm.tasks.token_classification.tag_schemes import Entity

TAGS = ["O", "B-person", "I-person", "B-place", "I-place", "B-creative-work", "I-creative-work"]


def draw(generator, rows: int) -> list[list[str]]:
    return [generator.choice(TAGS, generator.integers(1, 9)).tolist() for _ in range(rows)]


def test_precision_recall_and_f1_are_seqeval_s_on_random_corpora():
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

    theirs = {
        ENTITY_F1: f1_score,
        ENTITY_PRECISION: precision_score,
        ENTITY_RECALL: recall_score,
        TOKEN_ACCURACY: accuracy_score,
    }
    generator = np.random.default_rng(0)
    for _ in range(300):
        references = draw(generator, int(generator.integers(1, 6)))
        predictions = [
            [tag if generator.random() < 0.7 else str(generator.choice(TAGS)) for tag in tags] for tags in references
        ]
        for metric, function in theirs.items():
            kwargs = {} if metric is TOKEN_ACCURACY else {"zero_division": 0}
            expected = function(references, predictions, **kwargs)
            assert metric.compute(references, predictions) == pytest.approx(expected, abs=1e-12), (
                metric.name, references, predictions,
            )  # fmt: skip


def test_counts_add_up_over_sentences_so_that_the_bootstrap_resamples_counts():
    generator = np.random.default_rng(1)
    references = draw(generator, 60)
    worse = [["O"] * len(tags) if i % 3 else tags for i, tags in enumerate(references)]
    evaluation = EvaluationConfig(resamples=200)
    interval = compute_interval(ENTITY_F1, references, worse, evaluation)
    assert interval.low < interval.value < interval.high
    assert interval.value == pytest.approx(ENTITY_F1.compute(references, worse))
    assert score_rows(ENTITY_F1, references, worse) == pytest.approx(interval.value)
    found = compare_models(ENTITY_F1, references, ("a", references), ("b", worse), evaluation)
    assert found.p_value < 0.05
    assert found.difference == pytest.approx(1 - interval.value)


def test_mistakes_are_paired_by_the_words_that_they_share():
    meant = [Entity("person", 0, 2), Entity("place", 3, 4), Entity("group", 5, 6)]
    answered = [Entity("person", 0, 1), Entity("group", 3, 4), Entity("place", 8, 9)]
    assert pair_mistakes(meant, answered) == [
        ("person", "person, other words"),
        ("place", "group"),
        ("group", "no entity"),
        ("no entity", "place"),
    ]
    assert pair_mistakes(meant, meant) == []


def test_a_word_is_described_by_itself_its_affixes_its_shape_and_its_neighbours():
    features = set(describe_word(["The", "iPhone7", "rang"], 1))
    assert {"word=iPhone7", "lower=iphone7", "begins=ip", "ends=one7", "shape=xXx0"} <= features
    assert {"-1:lower=the", "1:shape=x", "pair=the iphone7", "-2:lower=</s>"} <= features
    assert describe_shape("U.S.-2017") == "X.X.-0"
