import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from startup_llm.errors import UserError
from startup_llm.evaluation.drift import (
    Change,
    RowStatistics,
    build_drift_page,
    compare_counts,
    compare_feature_means,
    compare_features,
    compare_statistics,
    correct_p_values,
    count_words,
    describe_drift,
    keep_frequent_words,
    pool_statistics,
)

LABELS = ("refund", "delivery", "password", "plan")
WORDS = {label: [f"{label}{chr(97 + place)}" for place in range(12)] for label in LABELS}


def draw_rows(rows, seed):
    """Return texts, labels, scores and features of rows of four classes."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(LABELS, rows, p=[0.4, 0.3, 0.2, 0.1])
    texts = [" ".join(["please", *generator.choice(WORDS[label], 5)]) for label in labels]
    scores = generator.beta(8, 2, rows)
    places = np.array([LABELS.index(label) for label in labels])
    return texts, labels, scores, np.eye(8)[places] + 0.5 * generator.normal(size=(rows, 8))


def summarize(rows, places=None):
    texts, labels, scores, features = rows
    places = np.arange(len(texts)) if places is None else places
    chosen = [texts[place] for place in places]
    return RowStatistics(
        rows=len(places),
        labels=Counter(labels[places].tolist()),
        scores=scores[places],
        lengths=np.array([len(text) for text in chosen], float),
        words=keep_frequent_words(count_words(chosen)),
        label_words={
            label: keep_frequent_words(count_words(texts[place] for place in places if labels[place] == label))
            for label in LABELS
        },
        languages=Counter({"en": len(places) - 1, "de": 1}),
        features=features[places],
        feature_mean=features[places].mean(axis=0),
    )


@pytest.mark.slow
def test_of_100_resamples_of_the_same_rows_at_most_five_percent_raise_an_alarm():
    rows = draw_rows(500, seed=0)
    generator = np.random.default_rng(1)
    alarms = []
    for draw in range(100):
        order = generator.permutation(500)
        changes = compare_statistics(summarize(rows, order[:250]), summarize(rows, order[250:]), seed=draw)
        assert [change.name for change in changes] == ["labels", "scores", "lengths", "words", "languages", "features"]
        alarms.append(any(change.adjusted_p_value < 0.05 for change in changes))
    assert np.mean(alarms) <= 0.05


def test_the_rows_themselves_raise_no_alarm():
    statistics = summarize(draw_rows(400, seed=2))
    changes = compare_statistics(statistics, statistics)
    assert all(change.adjusted_p_value > 0.5 for change in changes)
    assert describe_drift(changes, 400, 0.05) == ["No change was found in 400 rows: 6 tests, at most 5% false alarms."]


def test_a_class_whose_words_change_is_found_by_its_words_alone():
    reference, (texts, labels, *rest) = draw_rows(600, seed=3), draw_rows(600, seed=4)
    renamed = [
        text.replace("plana", "tariff") if label == "plan" else text for text, label in zip(texts, labels, strict=True)
    ]
    changes = compare_statistics(summarize(reference), summarize((renamed, labels, *rest)))
    changed = [change for change in changes if change.adjusted_p_value < 0.05]
    assert [change.name for change in changed] == ["words"]
    assert any(detail.startswith("tariff: 0.0% before") for detail in changed[0].details)
    assert "differ from the test rows in words." in describe_drift(changes, 600, 0.05)[0]


def test_a_word_of_a_rare_label_is_found_among_that_label_s_rows_where_all_rows_hide_it():
    reference, (texts, labels, *rest) = draw_rows(1500, seed=12), draw_rows(1500, seed=13)
    rare = np.flatnonzero(labels == "plan")[:12]
    others = np.flatnonzero(labels != "plan")
    kept = np.concatenate([rare, others])
    known = [f"{text} tariff" if label == "plan" else text for text, label in zip(*reference[:2], strict=True)]
    old = (known, *reference[1:])
    places = np.concatenate([np.flatnonzero(reference[1] == "plan")[:12], np.flatnonzero(reference[1] != "plan")])
    changes = compare_statistics(summarize(old, places), summarize((texts, labels, *rest), kept))
    words = next(change for change in changes if change.name == "words")
    assert words.adjusted_p_value < 0.05
    assert words.details[0].startswith("tariff (in rows answered plan): 100.0% before, 0.0% now")


@pytest.mark.parametrize("name", ["labels", "scores", "lengths", "languages", "features"])
def test_each_kind_of_change_is_found(name):
    reference, new = (
        replace(summarize(draw_rows(400, seed)), label_words={})
        for seed in (5, 6)  # which would be other rows
    )
    changed = {
        "labels": Counter({"refund": 100, "plan": 300}),
        "scores": new.scores - 0.1,
        "lengths": new.lengths * 1.5,
        "languages": Counter({"en": 340, "fr": 60}),
        "features": new.features + 0.4,
    }[name]
    changes = compare_statistics(reference, replace(new, **{name: changed}))
    assert [change.name for change in changes if change.adjusted_p_value < 0.05] == [name]


def test_the_mean_of_features_is_compared_where_a_log_has_no_more():
    _, _, _, features = draw_rows(2_000, seed=7)
    alarms = [
        compare_feature_means(features[:1000], part.mean(axis=0), len(part)).p_value < 0.05
        for part in np.array_split(features[1000:], 20)
    ]
    assert np.mean(alarms) <= 0.15
    assert compare_feature_means(features[:1000], features[1000:].mean(axis=0) + 0.1, 1000).p_value < 0.001
    with pytest.raises(UserError, match="features of width 3, the reference's have 8"):
        compare_feature_means(features, np.zeros(3), 10)


def test_a_classifier_s_auroc_has_an_interval_that_holds_a_half_for_equal_rows():
    _, _, _, features = draw_rows(800, seed=8)
    change = compare_features(features[:400], features[400:])
    assert change.p_value > 0.05
    area, low, high = map(float, re.search(r"AUROC (.+) \((.+) to (.+); 0.5", change.size).groups())
    assert low < area < high
    assert low < 0.5 < high


def test_p_values_are_corrected_as_holm_does():
    changes = [Change(str(p), "", p, "") for p in (0.01, 0.04, 0.03, 0.005)]
    assert [change.adjusted_p_value for change in correct_p_values(changes)] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_records_of_a_log_count_as_one_and_come_back_from_json():
    rows = draw_rows(100, seed=9)
    parts = [summarize(rows, np.arange(start, start + 50)) for start in (0, 50)]
    read = [RowStatistics.from_json(part.to_json(), "line 1") for part in parts]
    pooled = pool_statistics(read)
    assert pooled.rows == 100
    assert pooled.labels == parts[0].labels + parts[1].labels
    assert pooled.scores == pytest.approx(rows[2], abs=1e-6)
    assert pooled.feature_mean == pytest.approx(rows[3].mean(axis=0), abs=1e-5)
    assert len(pooled.features) == 0
    with pytest.raises(UserError, match="line 1 holds no statistics of rows"):
        RowStatistics.from_json({"rows": 3}, "line 1")


def test_rare_words_and_numbers_are_not_kept_and_few_rows_are_refused():
    texts = ["Pay 4111 to Ms Quint"] + ["pay the bill 77"] * 3
    assert keep_frequent_words(count_words(texts)) == {"pay": 4, "the": 3, "bill": 3}
    assert keep_frequent_words(count_words(texts), ["quint"])["quint"] == 1
    few = summarize(draw_rows(19, seed=10))
    with pytest.raises(UserError, match="there are 19 rows; a comparison needs 20 at least"):
        compare_statistics(summarize(draw_rows(40, seed=11)), few)


def test_the_page_shows_the_verdict_and_escapes_what_a_word_holds():
    change = {**vars(Change("words", "Fisher's exact", 1e-9, "3 of 9 words", ("<b>: 0 %",), 1e-8)), "changed": True}
    page = build_drift_page(
        {
            **{"run": "tickets", "input": "new.csv", "rows": 1200, "reference_rows": 1000, "level": 0.05},
            **{"sentences": ["The 1,200 new rows differ.", "Label some."], "changes": [change], "notes": ["A note."]},
            "command": "python recipes/drift.py",
        }
    )
    assert "<h1>The 1,200 new rows differ.</h1>" in page
    assert "p &lt; 0.001" in page
    assert "&lt;b&gt;: 0 %" in page
    assert "<script" not in page


def test_the_interval_of_a_share_s_change_stays_within_what_shares_can_change():
    details = compare_counts("labels", Counter(old=80), Counter(new=5)).details
    assert sorted(end for detail in details for end in re.findall(r"[+-]100\.0", detail)) == ["+100.0", "-100.0"]
