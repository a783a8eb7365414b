import datasets
import pytest

from startup_llm.config import LabelledTextData
from startup_llm.data.columns import find_columns
from startup_llm.errors import UserError

GLUE = {
    "cola": ("sentence", None),
    "sst2": ("sentence", None),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
TEXTS = [f"this is sentence number {number}" for number in range(8)]


def build(**columns):
    return datasets.DatasetDict(train=datasets.Dataset.from_dict(columns))


@pytest.mark.parametrize("task", GLUE)
def test_columns_of_every_glue_task_are_found(task):
    text, pair = GLUE[task]
    texts = {name: TEXTS for name in (text, pair) if name}
    label = [number * 0.625 for number in range(8)] if task == "stsb" else [0, 1] * 4
    found = find_columns(build(**texts, label=label, idx=list(range(8))), LabelledTextData())
    assert (found.text, found.text_pair, found.label) == (text, pair, "label")


def test_well_known_names_are_found_whatever_their_case_and_said():
    found = find_columns(build(Message=TEXTS, Intent=["a", "b"] * 4), LabelledTextData())
    assert (found.text, found.label) == ("Message", "Intent")
    assert found.notes == ["Found text from column 'Message', label from column 'Intent'."]


def test_unknown_names_are_found_by_content():
    splits = build(ticket_id=["7", "8"] * 4, lang=["en"] * 8, words=TEXTS, queue=["a", "b"] * 4)
    found = find_columns(splits, LabelledTextData())
    assert (found.text, found.label) == ("words", "queue")


def test_named_columns_are_taken_without_a_note():
    splits = build(text=TEXTS, other=TEXTS, label=[0, 1] * 4, kind=["a", "b"] * 4)
    found = find_columns(splits, LabelledTextData(text_column="other", label_column="kind"))
    assert (found.text, found.text_pair, found.label, found.notes) == ("other", None, "kind", [])


def test_several_label_columns_stay_a_list():
    splits = build(text=TEXTS, spam=[0, 1] * 4, rude=[1, 0] * 4)
    assert find_columns(splits, LabelledTextData(label_column=["spam", "rude"])).label == ["spam", "rude"]


@pytest.mark.parametrize("option", ["text_column", "text_pair_column", "label_column", "group_column"])
def test_named_column_that_does_not_exist_names_the_nearest(option):
    splits = build(message=TEXTS, customer=["a", "b"] * 4)
    with pytest.raises(UserError, match=rf"data\.{option}: no column 'mesage' .* did you mean message\?"):
        find_columns(splits, LabelledTextData(**{option: "mesage"}))


@pytest.mark.parametrize(
    "columns",
    [{"category": ["a", "b"] * 4, "intent": ["c", "d"] * 4}, {"coarse": ["a", "b"] * 4, "fine": ["c", "d"] * 4}],
)
def test_several_possible_labels_are_named(columns):
    with pytest.raises(UserError, match=rf"could be the label \({', '.join(columns)}\).*--data\.label_column"):
        find_columns(build(text=TEXTS, **columns), LabelledTextData())


def test_no_possible_label_is_an_error():
    with pytest.raises(UserError, match=r"no label column found among text, id; .*--data\.label_column"):
        find_columns(build(text=TEXTS, id=[0, 1] * 4), LabelledTextData())


def test_several_possible_texts_are_named():
    with pytest.raises(UserError, match=r"could be the text \(review, comment\).*--data\.text_column"):
        find_columns(build(review=TEXTS, comment=TEXTS, label=[0, 1] * 4), LabelledTextData())


def test_no_possible_text_is_an_error():
    with pytest.raises(UserError, match=r"no text column found among label, x; .*--data\.text_column"):
        find_columns(build(label=[0, 1] * 4, x=[0.5] * 8), LabelledTextData())


def test_column_named_twice_is_an_error():
    with pytest.raises(UserError, match="'text' is named twice"):
        find_columns(build(text=TEXTS), LabelledTextData(text_column="text", label_column="text"))


def test_column_that_another_split_lacks_is_an_error():
    splits = build(text=TEXTS, label=[0, 1] * 4)
    splits["test"] = splits["train"].remove_columns("label")
    with pytest.raises(UserError, match="the test split has no column 'label', only text"):
        find_columns(splits, LabelledTextData())
