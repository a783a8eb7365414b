import json
from collections import Counter

import datasets
import numpy as np
import pytest

from startup_llm.config import DataConfig
from startup_llm.data.splits import cut_rows, make_splits, sample_rows
from startup_llm.errors import UserError
from startup_llm.tasks import load_task
from startup_llm.tasks.options import build_section


def build(**columns):
    return datasets.DatasetDict(train=datasets.Dataset.from_dict(columns))


def rows_of(splits):
    return {split: dataset["row"][:] for split, dataset in splits.items()}


def test_missing_splits_are_cut_with_each_labels_share():
    splits, notes = make_splits(
        build(row=list(range(100)), label=[0] * 80 + [1] * 20), DataConfig(), stratify_by="label"
    )
    assert {split: Counter(dataset["label"][:]) for split, dataset in splits.items()} == {
        "train": {0: 58, 1: 14},
        "validation": {0: 6, 1: 2},
        "test": {0: 16, 1: 4},
    }
    assert sorted(row for rows in rows_of(splits).values() for row in rows) == list(range(100))
    assert "20 test rows were cut from train" in notes[0]


def test_same_seed_gives_the_same_rows_and_another_seed_others():
    given = build(row=list(range(100)), label=[0, 1] * 50)
    first, again, other = (
        rows_of(make_splits(given, DataConfig(split_seed=seed), stratify_by="label")[0]) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_given_splits_are_left_alone():
    given = build(row=list(range(10)))
    given["validation"] = given["test"] = given["train"]
    splits, notes = make_splits(given, DataConfig())
    assert rows_of(splits) == rows_of(given)
    assert notes == []


def test_no_validation_split_for_fraction_zero():
    splits, _ = make_splits(build(row=list(range(10))), DataConfig(validation_fraction=0))
    assert {split: len(rows) for split, rows in rows_of(splits).items()} == {"train": 8, "test": 2}


def test_rare_labels_keep_a_row_in_train():
    labels = [0] * 20 + [1] * 2 + list(range(2, 40))
    splits, _ = make_splits(build(row=list(range(len(labels))), label=labels), DataConfig(), stratify_by="label")
    assert set(splits["train"]["label"][:]) == set(labels)


def test_labels_of_one_row_each_cannot_be_cut():
    with pytest.raises(UserError, match=r"5 training rows are too few .* test split"):
        make_splits(build(label=list(range(5))), DataConfig(), stratify_by="label")


@pytest.mark.parametrize(
    ("option", "value"), [("test_fraction", 0.0), ("test_fraction", 1.5), ("validation_fraction", 1.0)]
)
def test_fraction_out_of_range_is_an_error(option, value):
    with pytest.raises(UserError, match=rf"data\.{option} \({value}\)"):
        make_splits(build(row=[1, 2]), DataConfig(**{option: value}))


def test_a_group_stands_on_one_side_of_every_cut():
    groups = [f"customer {number % 17}" for number in range(200)]
    splits, notes = make_splits(build(customer=groups), DataConfig(), group_by="customer")
    sides = [set(dataset["customer"][:]) for dataset in splits.values()]
    assert len(sides) == 3
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides)) == 17
    assert len(notes) == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_group_with_the_only_rows_of_a_label_stays_in_train(seed):
    groups = [number // 10 for number in range(100)]
    labels = [group if group < 4 else 4 for group in groups]
    data = DataConfig(split_seed=seed, test_fraction=0.5, validation_fraction=0)
    splits, _ = make_splits(build(g=groups, label=labels), data, stratify_by="label", group_by="g")
    assert set(splits["train"]["label"][:]) == {0, 1, 2, 3, 4}
    assert set(splits["test"]["label"][:]) == {4}


def test_groups_that_each_hold_a_label_alone_cannot_be_cut():
    with pytest.raises(UserError, match="no group of 'g' can be put aside for the test split"):
        make_splits(build(g=[0, 0, 1, 1], label=[0, 0, 1, 1]), DataConfig(), stratify_by="label", group_by="g")


def test_one_group_cannot_be_cut():
    with pytest.raises(UserError, match="all 5 training rows have 'x'"):
        make_splits(build(g=["x"] * 5), DataConfig(), group_by="g")


def test_missing_group_is_an_error():
    with pytest.raises(UserError, match=r"2 rows have no 'g' \(first: row 2\)"):
        make_splits(build(g=["x", "", None, "y"]), DataConfig(), group_by="g")


def test_groups_on_both_sides_of_given_splits_are_counted():
    given = build(g=["a", "b", "c"])
    given["validation"] = datasets.Dataset.from_dict({"g": ["d"]})
    given["test"] = datasets.Dataset.from_dict({"g": ["a", "a", "b", "e"]})
    _, notes = make_splits(given, DataConfig(), group_by="g")
    assert len(notes) == 1
    assert "2 groups of 'g' stand in both train and test (3 test rows)" in notes[0]


def test_cut_draws_the_count_asked_for_and_every_row_once():
    strata = np.repeat(np.arange(77), 3)
    drawn, others = cut_rows(strata, 50, seed=3)
    assert len(drawn) == 50
    assert sorted([*drawn, *others]) == list(range(231))


def test_sample_keeps_one_row_of_each_label_where_there_is_room():
    dataset = datasets.Dataset.from_dict({"label": [0] * 90 + list(range(1, 11))})
    sampled = sample_rows(dataset, 12, seed=0, stratify_by="label")
    assert sampled.num_rows == 12
    assert set(sampled["label"][:]) == set(range(11))
    assert sample_rows(dataset, 5, seed=0, stratify_by="label").num_rows == 5
    assert sample_rows(dataset, 500, seed=0) is dataset


def test_sample_of_no_rows_is_an_error():
    with pytest.raises(UserError, match="1 or more, not 0"):
        sample_rows(datasets.Dataset.from_dict({"label": [0]}), 0, seed=0)


@pytest.mark.parametrize(
    "how", [{}, {"stratify_by": "label"}, {"group_by": "group"}, {"stratify_by": "label", "group_by": "group"}]
)
def test_folds_are_disjoint_and_together_all_rows(how):
    rows = datasets.Dataset.from_dict(
        {"row": range(60), "label": [n % 3 for n in range(60)], "group": [f"g{n // 5}" for n in range(60)]}
    )
    cut = []
    for fold in range(1, 5):
        data = DataConfig(folds=4, fold=fold, validation_fraction=0.1)
        splits, notes = make_splits(datasets.DatasetDict({"train": rows}), data, **how)
        again, _ = make_splits(datasets.DatasetDict({"train": rows}), data, **how)
        assert splits["test"]["row"] == again["test"]["row"]
        assert f"fold {fold} of 4 of the 60 rows" in notes[0]
        seen = set(splits["train"]["row"]) | set(splits["validation"]["row"])
        assert seen | set(splits["test"]["row"]) == set(range(60))
        assert len(splits["test"]) == 15
        if "group_by" in how:
            assert not {rows[n]["group"] for n in seen} & set(splits["test"]["group"])
        elif how:
            assert sorted(splits["test"]["label"]) == [0] * 5 + [1] * 5 + [2] * 5
        cut += splits["test"]["row"]
    assert sorted(cut) == list(range(60))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "data.folds \\(1\\) must be 2 to 12"),
        ({"folds": 13}, "data.folds \\(13\\) must be 2 to 12"),
    ],
)
def test_impossible_folds_are_refused(options, message):
    rows = datasets.Dataset.from_dict({"row": range(12)})
    with pytest.raises(UserError, match=message):
        make_splits(datasets.DatasetDict({"train": rows}), DataConfig(**options))


def test_folds_beside_a_test_split_are_refused():
    rows = datasets.Dataset.from_dict({"row": range(12)})
    with pytest.raises(UserError, match="but a test split is given too"):
        make_splits(datasets.DatasetDict({"train": rows, "test": rows}), DataConfig(folds=3))


@pytest.mark.parametrize(
    ("tag", "row"),
    [
        ("text-generation", {"text": "some words"}),
        ("text-generation", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        ("text-classification", {"text": "some words", "label": "a"}),
        ("token-classification", {"tokens": ["Rome"], "ner_tags": ["B-place"]}),
        ("question-answering", {"question": "q", "context": "a b", "answers": "b"}),
        ("summarization", {"text": "some words", "summary": "words"}),
    ],
)
def test_every_task_names_a_group_column_that_is_not_there_alike(tmp_path, tag, row):
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 9)
    data = build_section(tag, "data", {"train_file": str(tmp_path / "rows.jsonl"), "group_column": "customer"})
    with pytest.raises(UserError, match=rf"^data.group_column: no column 'customer' among {', '.join(row)}$"):
        load_task(tag).load_data(data)
