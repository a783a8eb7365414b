"""brat's standoff files, by their documented form, and what cannot be used of them."""

from __future__ import annotations

import pytest

from startup_llm.errors import UserError
from startup_llm.tasks.token_classification.options import TaggedTextData
from startup_llm.tasks.token_classification.rows import load_tagged_text, read_tag_names

TEXT = "Ada Lovelace lives in London.\nShe works for Acme\nCorp.\n"
MARKS = "T1\tperson 0 12\tAda Lovelace\nT2\tplace 22 28\tLondon\nT3\tcompany 44 48;49 53\tAcme Corp\n"


def write(folder, count=12, text=TEXT, marks=MARKS, name="doc"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{name}-{number:02}.txt").write_text(text)
        (folder / f"{name}-{number:02}.ann").write_text(marks)


def load(folder, **options):
    return load_tagged_text(TaggedTextData(data_dir=str(folder), **options))


def test_a_folder_of_documents_is_read_and_what_is_not_used_is_named(tmp_path):
    beside = "R1\tworks-for Arg1:T1 Arg2:T3\nA1\tnegated T2\n#1\tAnnotatorNotes T2\tsure?\n"
    write(tmp_path / "a", marks=MARKS + beside)
    (tmp_path / "a" / "raw.txt").write_text("nobody has read this")
    data = load(tmp_path / "a", validation_fraction=0)
    assert sum(map(len, data.splits.values())) == 12
    assert data.label_names == ("O", *(f"{mark}-{kind}" for kind in ("company", "person", "place") for mark in "BI"))
    words, tags = data.splits["train"][0]["tokens"], read_tag_names(data.splits["train"])[0]
    found = {word: tag for word, tag in zip(words, tags, strict=True) if tag != "O"}
    assert found == {
        "Ada": "B-person", "Lovelace": "I-person", "London": "B-place", "Acme": "B-company", "Corp": "I-company"
    }  # fmt: skip
    assert data.notes[0].endswith(
        "a: read as brat's 12 documents (texts without an .ann file, which are left out: 1); not used: 12 relations, "
        "12 attributes, 12 notes."
    )


def test_folders_by_split_are_kept_and_chosen(tmp_path):
    for place, split in enumerate(("train", "dev", "test")):
        write(tmp_path / split, 4 + place, name=split)
    sizes = {split: len(rows) for split, rows in load(tmp_path).splits.items()}
    assert sizes == {"train": 4, "validation": 5, "test": 6}
    assert len(load(tmp_path, test_split="dev", validation_fraction=0).splits["test"]) == 5
    with pytest.raises(UserError, match="no folder 'week', only validation"):
        load(tmp_path, test_split="week")


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ("T1\tperson 0 3;22 28\tAda London\n", r"line 1 \('T1.*'\): a discontinuous span, which no words in a row"),
        ("T1\tperson 0 99\tAda\n", r"doc-00\.ann: the span 0 to 99 \(person\) lies outside the text of 55 characters"),
        ("T1\tperson 4 12\tAda\n", r"line 1 .*: the text there is 'Lovelace'; is the \.txt file another version"),
        ("T1\tperson 0 x\tAda\n", r"line 1 .*: expected T1, a tab, a type with start and end"),
        ("who knows\n", r"line 1 .*: expected T1, a tab"),
        (MARKS + "T4\tname 0 3\tAda\n", r"doc-00\.ann: the spans 0 to 3 \(name\) and 0 to 12 \(person\) overlap"),
    ],
)
def test_a_mark_that_cannot_be_used_is_named_with_file_line_and_value(tmp_path, marks, message):
    write(tmp_path)
    (tmp_path / "doc-00.ann").write_text(marks)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path)
    assert "doc-00.ann" in str(error.value)
    assert sum(map(len, load(tmp_path, skip_bad=True, validation_fraction=0).splits.values())) == 11


def test_a_missing_text_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "doc-03.txt").unlink()
    with pytest.raises(UserError, match=r"doc-03\.ann: there is no doc-03\.txt beside it"):
        load(tmp_path)


@pytest.mark.slow
def test_a_folder_is_fine_tuned_as_it_comes(tmp_path, run_recipe, tiny_checkpoint):
    write(tmp_path / "documents", 16)
    code, out, err = run_recipe(
        "finetune", "--task", "token-classification", "--data.data_dir", tmp_path / "documents",
        "--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", tmp_path / "run", "--train.max_steps", 2,
        "--evaluation.resamples", 50, "--data.validation_fraction", 0,
    )  # fmt: skip
    assert code == 0, err
    assert "read as brat's 16 documents." in out + err
