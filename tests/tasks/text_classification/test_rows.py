import datetime
import json
from collections import Counter

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from startup_llm.config import EvaluationConfig, LabelledTextData
from startup_llm.data.classification import draw_rows_per_class, load_labelled_text
from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.errors import UserError
from startup_llm.tasks import load_task

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEN = [{"text": f"text number {word}", "label": "ab"[number % 2]} for number, word in enumerate(WORDS)]


@pytest.fixture
def write(tmp_path):
    def write_file(name, rows):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write_file


@pytest.fixture
def load(write):
    """Load rows given per split; no validation split unless it is given."""

    def load_rows(train, validation=None, test=None, **options):
        files = {"train_file": write("train", train)}
        if validation:
            files["validation_file"] = write("validation", validation)
        if test:
            files["test_file"] = write("test", test)
        return load_labelled_text(LabelledTextData(**{"validation_fraction": 0, **files, **options}))

    return load_rows


def vary(rows, **columns):
    """Give the rows other texts, and the columns' values."""
    return [
        row | {"text": f"{row['text']} again"} | {name: values[index] for name, values in columns.items()}
        for index, row in enumerate(rows)
    ]


def relabel(*labels):
    return [row | {"label": label} for row, label in zip(TEN, labels, strict=False)]


def test_rows_come_back_with_class_ids_and_their_source_row(load):
    loaded = load(TEN, test=vary(TEN[:3]))
    assert loaded.problem_type == "single_label_classification"
    assert loaded.label_names == ("a", "b")
    assert loaded.splits["train"].features == {
        "text": datasets.Value("string"),
        "label": datasets.Value("int64"),
        "row": datasets.Value("int64"),
    }
    assert loaded.splits["train"][4] == {"text": "text number four", "label": 0, "row": 5}
    assert [record["rows"] for record in loaded.sources] == [10, 3]


def test_missing_splits_are_cut_and_rows_point_into_the_source(load):
    loaded = load(TEN * 2, validation_fraction=0.2)
    assert {split: dataset.num_rows for split, dataset in loaded.splits.items()} == {
        "train": 13,
        "validation": 3,
        "test": 4,
    }
    for dataset in loaded.splits.values():
        for row in dataset:
            assert row["text"] == (TEN * 2)[row["row"] - 1]["text"]


def test_pairs_keep_both_texts(load):
    rows = [{"premise": f"p {i}", "hypothesis": f"h {i}", "label": i % 2} for i in range(10)]
    loaded = load(rows)
    assert loaded.splits["train"].column_names == ["text", "text_pair", "label", "row"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["l10", "l2"] * 5, ("l2", "l10")),
        ([10, 2] * 5, ("2", "10")),
        ([True, False] * 5, ("False", "True")),
        ([1.0, 3.0] * 5, ("1", "3")),
        (["NA", "null"] * 5, ("NA", "null")),
    ],
)
def test_labels_are_named_and_sorted_naturally(load, labels, names):
    assert load(relabel(*labels)).label_names == names


def test_class_label_keeps_its_names_and_order(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg"])}
    )
    rows = {"text": [row["text"] for row in TEN], "label": [0, 1] * 5}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    loaded = load_labelled_text(LabelledTextData(data_dir=str(tmp_path)))
    assert loaded.label_names == ("pos", "neg")
    assert [row["label"] == (row["row"] - 1) % 2 for row in loaded.splits["train"]] == [True] * 7


def test_decimal_labels_make_a_regression_and_the_note_names_the_override(load):
    loaded = load(relabel(*(number * 0.5 for number in range(10))))
    assert loaded.problem_type == "regression"
    assert loaded.label_names == ()
    assert loaded.splits["train"].features["label"] == datasets.Value("float64")
    assert any("10 different decimal numbers" in note and "--data.problem_type" in note for note in loaded.notes)


def test_few_decimal_labels_are_classes_and_the_note_says_so(load):
    loaded = load(relabel(*([0.5, 1.5] * 5)))
    assert (loaded.problem_type, loaded.label_names) == ("single_label_classification", ("0.5", "1.5"))
    assert any("2 different decimal numbers" in note for note in loaded.notes)


def test_whole_numbers_can_be_regressed_when_asked(load):
    assert load(relabel(*range(10)), problem_type="regression").splits["train"]["label"][0] == 0.0


def test_regression_label_that_is_no_number_is_an_error(load):
    with pytest.raises(UserError, match=r"train\.jsonl.* row 3: the label 'four' in column 'label' is no number"):
        load(relabel("1.5", "2.5", "four", "4"), problem_type="regression")


def test_lists_of_labels_become_vectors(load):
    loaded = load(relabel(*([["x"], ["y", "x"], [], ["y"]] * 2)), test=vary(relabel(["x"], ["y"])))
    assert loaded.problem_type == "multi_label_classification"
    assert loaded.label_names == ("x", "y")
    assert loaded.splits["train"]["label"][:4] == [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]


def test_several_columns_of_zero_and_one_become_vectors_in_their_order(load):
    rows = [row | {"spam": index % 2, "rude": str((index + 1) % 2)} for index, row in enumerate(TEN)]
    loaded = load(rows, test=vary(rows[:2]), label_column=["spam", "rude"])
    assert loaded.label_names == ("spam", "rude")
    assert loaded.splits["train"]["label"][:2] == [[0.0, 1.0], [1.0, 0.0]]


def test_label_columns_hold_only_zero_and_one(load):
    rows = [row | {"spam": index % 3, "rude": 1} for index, row in enumerate(TEN)]
    with pytest.raises(UserError, match=r"row 3: '2' in the label column 'spam'; expected 0 or 1"):
        load(rows, label_column=["spam", "rude"])


def test_vector_in_a_list_column_is_refused(load):
    with pytest.raises(UserError, match=r"row 1: it lists a label twice: \[0, 0, 1\]"):
        load(relabel(*([[0, 0, 1], [1, 0, 0]] * 5)))


@pytest.mark.parametrize("problem_type", ["single_label_classification", "regression"])
def test_lists_are_not_single_labels(load, problem_type):
    with pytest.raises(UserError, match=f"{problem_type}, but 'label' holds lists"):
        load(relabel(*([["x"], ["y"]] * 5)), problem_type=problem_type)


def test_single_labels_are_not_multi_labels(load):
    with pytest.raises(UserError, match="multi_label_classification, but the label column 'label' holds one value"):
        load(TEN, problem_type="multi_label_classification")


@pytest.mark.parametrize("missing", [None, "", "  "])
def test_missing_labels_are_counted_and_located(load, missing):
    with pytest.raises(
        UserError, match=r"train\.jsonl.*2 of 4 rows cannot be used \(no label 2\): row 2: .*; row 4: "
    ):
        load(relabel("a", missing, "b", missing))


def test_one_class_is_an_error(load):
    with pytest.raises(UserError, match="two or more labels in training, found 'a';"):
        load(relabel(*["a"] * 6))


def test_lists_without_any_label_are_an_error(load):
    with pytest.raises(UserError, match=r"train\.jsonl.*two or more labels in training, found none"):
        load(relabel([], [], []))


@pytest.mark.parametrize("label", [{"name": "a"}, [{"name": "a"}]])
def test_labels_that_are_objects_are_an_error(load, label):
    with pytest.raises(UserError, match=r"'label' holds .*struct<name: string>"):
        load(relabel(*[label] * 6))


def test_label_seen_once_in_training_is_an_error(load):
    with pytest.raises(
        UserError,
        match=r"one row 1\): row 5: the label 'rare' .*\(4 rows stay\) with --data.skip",
    ):
        load(relabel("a", "a", "b", "b", "rare"))


def test_spellings_of_one_label_are_named_with_counts(load):
    with pytest.raises(UserError, match=r"' Refund' \(1\) / 'refund' \(2\)"):
        load(relabel("refund", "other", " Refund", "refund", "other"))


@pytest.mark.parametrize("empty", ["", " \t\n", None])
def test_empty_texts_are_counted_and_located(load, empty):
    rows = [row | ({"text": empty} if index in (1, 6) else {}) for index, row in enumerate(TEN)]
    with pytest.raises(
        UserError, match=r"2 of 10 rows cannot be used \(empty text 2\): row 2: the column 'text' is empty; row 7: "
    ):
        load(rows)


def test_text_above_one_megabyte_is_located(load):
    rows = [row | ({"text": "x" * 1_000_001} if index == 3 else {}) for index, row in enumerate(TEN)]
    with pytest.raises(UserError, match="row 4: the column 'text' has 1,000,001 bytes, the limit is 1,000,000"):
        load(rows)


def test_text_column_of_numbers_is_refused(load):
    with pytest.raises(UserError, match="'text' holds int64, expected text"):
        load([{"text": index, "label": index % 2} for index in range(4)])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_label_never_seen_in_training_is_an_error(load, split):
    with pytest.raises(
        UserError,
        match=rf"{split}\.jsonl.*\(label that training lacks 2\): row 2: the label 'c' is never seen in training",
    ):
        load(TEN, **{"test": vary(TEN[:2]), split: vary(relabel("a", "c", "c"))})


def test_duplicates_of_test_rows_are_counted_with_case_and_spaces_folded(load):
    test = [{"text": " Text  NUMBER zero", "label": "a"}, {"text": "new", "label": "b"}]
    loaded = load(TEN, test=test)
    assert loaded.splits["train"].num_rows == 10
    assert any(
        note.startswith("1 training rows have a text that the test split has too (1 test") for note in loaded.notes
    )


def test_duplicates_of_test_rows_are_removed_from_training_when_asked(load):
    loaded = load(TEN, test=TEN[:3], remove_overlap=True)
    assert loaded.splits["train"]["row"][:] == [4, 5, 6, 7, 8, 9, 10]
    assert any("3 training rows" in note and "removed" in note for note in loaded.notes)


def test_removing_every_training_row_is_an_error(load):
    with pytest.raises(UserError, match="all 10 training rows stand in the test split"):
        load(TEN, test=TEN, remove_overlap=True)


def test_equal_text_with_another_pair_is_no_duplicate(load):
    rows = [{"text": "same", "text_pair": row["text"], "label": row["label"]} for row in TEN]
    assert not any("test split has too" in note or "repeat" in note for note in load(rows).notes)


def test_duplicates_inside_train_are_counted(load):
    loaded = load(TEN + TEN[:2], test=vary(TEN))
    assert "2 of the 12 training rows repeat the text of an earlier one." in loaded.notes


def test_an_imbalance_above_ten_to_one_is_noted_with_the_primary_metric(write):
    def load(rows: list[dict], evaluation: EvaluationConfig) -> list[str]:
        data = LabelledTextData(train_file=write("train", rows), test_file=write("test", vary(rows)))
        return load_task("text-classification").load_data(data, evaluation).notes

    rows = [{"text": f"text {index}", "label": "rare" if index < 2 else "common"} for index in range(25)]
    noted = "The classes are unbalanced: 21 training rows of 'common', 2 of 'rare'; "
    primary = f"{noted}macro F1 is the primary metric (--evaluation.decides chooses another)."
    assert primary in load(rows, EvaluationConfig())
    assert f"{noted}accuracy alone will mislead." in load(rows, EvaluationConfig(decides="accuracy"))
    assert not any("unbalanced" in note for note in load(rows[:22], EvaluationConfig()))


def test_the_share_of_rows_without_any_of_several_labels_is_noted(load):
    rows = [{"text": f"text {index}", "labels": [["a"], ["b"], ["a", "b"], []][index % 4]} for index in range(20)]
    assert "5 of the 20 train rows (25.0%) have no label." in load(rows, test=vary(rows)).notes


def test_groups_stay_together_and_leave_no_column(load):
    rows = [row | {"customer": index // 2} for index, row in enumerate(TEN)]
    loaded = load(rows, group_column="customer")
    sides = [{(row - 1) // 2 for row in dataset["row"]} for dataset in loaded.splits.values()]
    assert not sides[0] & sides[1]
    assert loaded.splits["train"].column_names == ["text", "label", "row"]
    assert any("'customer'" in note for note in loaded.notes)


def test_row_limits_sample_with_each_labels_share(load):
    loaded = load(TEN, test=vary(TEN), max_train_rows=4, max_test_rows=6)
    assert Counter(loaded.splits["train"]["label"]) == {0: 2, 1: 2}
    assert Counter(loaded.splits["test"]["label"]) == {0: 3, 1: 3}
    assert "4 of the 10 train rows are used (seed 0)." in loaded.notes


def test_rows_sha256_changes_with_text_label_and_order_only(load):
    train = load(TEN, test=vary(TEN)).splits["train"]
    digest = compute_rows_sha256(train)
    assert digest == compute_rows_sha256(train.remove_columns("row"))
    changed = [
        train.select(range(9, -1, -1)),
        train.map(lambda row: {"label": 1 - row["label"]}),
        train.map(lambda row: {"text": row["text"] + "."}),
    ]
    assert len({digest, *map(compute_rows_sha256, changed)}) == 4


def test_shipped_helpdesk_is_the_default():
    loaded = load_labelled_text(LabelledTextData())
    assert list(loaded.splits) == ["train", "validation", "test"]
    assert len(loaded.label_names) == 12
    assert {record["dataset"] for record in loaded.sources} == {"helpdesk"}


@pytest.mark.real_data
def test_banking77_loads_from_its_folder(real_data):
    loaded = load_labelled_text(LabelledTextData(data_dir=str(real_data / "banking77"), validation_fraction=0))
    assert loaded.splits["train"].num_rows == 10_003
    assert loaded.splits["test"].num_rows == 3_080
    assert len(loaded.label_names) == 77


def test_as_many_rows_of_each_class_keep_their_labels_and_the_others_lose_them(load):
    rows = [{"text": f"text {number}", "label": "abc"[number % 7 % 3]} for number in range(70)]
    drawn = {
        (count, seed): load(rows, test=vary(rows[:3]), labels_per_class=count, split_seed=seed)
        for count, seed in ((2, 0), (5, 0), (5, 1))
    }
    kept = {key: loaded.splits["train"]["row"][:] for key, loaded in drawn.items()}
    assert Counter(drawn[5, 0].splits["train"]["label"]) == {0: 5, 1: 5, 2: 5}
    assert drawn[5, 0].unlabelled.column_names == ["text", "row"]
    assert sorted(kept[5, 0] + drawn[5, 0].unlabelled["row"][:]) == list(range(1, 71))
    assert "15 of the 70 train rows keep their labels, 5 per class (seed 0)." in drawn[5, 0].notes
    assert set(kept[2, 0]) < set(kept[5, 0]) != set(kept[5, 1])
    assert load(rows, test=vary(rows[:3]), labels_per_class=5).splits["train"]["row"][:] == kept[5, 0]
    assert drawn[5, 0].splits["test"].num_rows == 3


def test_a_class_with_fewer_rows_than_asked_for_gives_all_and_is_named(load):
    loaded = load(relabel(*"aaaaaaabbb"), test=vary(TEN[:2]), labels_per_class=5)
    assert Counter(loaded.splits["train"]["label"]) == {0: 5, 1: 3}
    assert "1 classes have fewer rows: 'b' (3 rows)." in loaded.notes


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [
        ("ab" * 5, 0, "labels_per_class must be 1 or more, not 0"),
        ([number + 0.5 for number in range(10)], 3, "labels_per_class is 3, but the problem type is regression"),
        ([["a"], ["a", "b"]] * 5, 3, "labels_per_class is 3, but the problem type is multi_label_classification"),
    ],
)
def test_rows_per_class_need_a_number_and_classes(load, labels, count, message):
    options = {"problem_type": "regression"} if isinstance(labels[0], float) else {}
    with pytest.raises(UserError, match=message):
        load(relabel(*labels), test=vary(relabel(*labels)[:4]), labels_per_class=count, **options)


def test_rows_per_class_need_a_training_row_of_every_named_class():
    with pytest.raises(UserError, match="labels_per_class is 2, but 1 classes have no training row: 'b'"):
        draw_rows_per_class(np.array([0, 0, 2, 2]), 2, 0, ("a", "b", "c"))


@pytest.mark.parametrize("name", ["rows.parquet", "rows.xlsx"])
def test_dates_are_labels_as_iso_8601_writes_them(tmp_path, name):
    rows = [{"text": f"message number {n}", "label": datetime.date(2026, 5, 1 + n % 2)} for n in range(20)]
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    else:
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row in [list(rows[0]), *(list(row.values()) for row in rows)]:
            book.active.append(row)
        book.save(tmp_path / name)
    data = load_labelled_text(LabelledTextData(train_file=str(tmp_path / name)))
    assert data.label_names == ("2026-05-01", "2026-05-02")


NASTY = [
    *[{"text": f"please refund order {word}", "label": "refund"} for word in WORDS],
    *[{"text": f"where is parcel {word}", "label": "parcel"} for word in WORDS],
    {"text": " ", "label": "refund"},
    {"text": None, "label": None},
    {"text": "no label here", "label": ""},
    {"text": "x" * 1_000_001, "label": "parcel"},
    {"text": "the only one of its kind", "label": "lonely"},
]
"""Rows 21 to 25 cannot be used."""


def test_what_cannot_be_used_is_left_out_if_asked_to_and_counted_by_kind(load):
    test = [*vary(NASTY[8:12]), {"text": "a new kind", "label": "unheard"}]
    loaded = load(NASTY, test=test, skip_bad=True)
    assert loaded.splits["train"]["row"][:] == list(range(1, 21))
    assert loaded.splits["test"]["row"][:] == [1, 2, 3, 4]
    assert loaded.label_names == ("parcel", "refund")
    assert loaded.left_out == {
        "empty text": 2,
        "no label": 1,
        "oversized text": 1,
        "label of one row": 1,
        "label that training lacks": 1,
    }
    assert len([note for note in loaded.notes if "were left out" in note]) == 3


def test_the_error_names_each_kind_and_proposes_to_leave_the_rows_out(load):
    with pytest.raises(UserError) as error:
        load(NASTY)
    assert "4 of 25 rows cannot be used (empty text 2, no label 1, oversized text 1): row 21: " in str(error.value)
    assert str(error.value).endswith("leave them out (21 rows stay) with --data.skip_bad true")


def test_leaving_out_is_not_proposed_where_hardly_a_row_would_stay(load):
    with pytest.raises(UserError, match=r"fix them: too few others are left to go on with$"):
        load([row | {"text": "" if index else "x"} for index, row in enumerate(TEN)])
    with pytest.raises(UserError, match="fix them: too few others"):
        load(relabel("a", "a", "a", "b", "c"))


def test_a_row_of_several_labels_goes_with_its_rare_one_and_may_take_another_along(load):
    rows = relabel(*[["x"], ["y"]] * 3, ["x", "rare"], ["next"], ["rare", "next"])
    assert load(rows + vary(rows[-1:], label=[["z"]]), skip_bad=True).splits["train"].num_rows == 7
    loaded = load([*rows[:6], rows[7] | {"label": ["rare", "next"]}, rows[8] | {"label": ["next"]}], skip_bad=True)
    assert loaded.label_names == ("x", "y")
    assert loaded.left_out == {"label of one row": 2}
