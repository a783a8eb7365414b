from __future__ import annotations

import json

import pytest

from startup_llm.errors import UserError
from startup_llm.tasks.text_generation.options import GenerationData
from startup_llm.tasks.text_generation.running_text import (
    UNKNOWN,
    cut_passages,
    load_running_text,
    train_character_tokenizer,
)

TEXT = "".join(f"SPEAKER {number}:\nA line of a play, the {number}th of them.\n\n" for number in range(200))


def write(path, text=TEXT):
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def join(rows):
    return "".join(rows["text"])


def test_passages_end_at_line_ends_and_give_the_text_again():
    passages = list(cut_passages(TEXT, 100))
    assert "".join(passages) == TEXT
    assert all(len(passage) >= 100 and passage.endswith("\n") for passage in passages[:-1])
    assert len(passages) > 50


def test_one_file_is_cut_at_its_end_to_the_character(tmp_path):
    data = GenerationData(train_file=write(tmp_path / "play.txt"), test_fraction=0.1, validation_fraction=0.1)
    found = load_running_text(data)
    train, validation, test = (join(found.splits[name]) for name in ("train", "validation", "test"))
    assert train + validation + test == TEXT
    assert test == TEXT[int(0.9 * len(TEXT)) :]
    assert len(validation) == len(train + validation) - int(0.9 * len(train + validation))
    assert any("last 10%" in note and f"{len(test):,} characters" in note for note in found.notes)
    assert found.splits["test"]["ends"][-1]
    assert not any(found.splits["train"]["ends"])


def test_a_folder_names_its_splits_or_is_one_running_text(tmp_path):
    for name in ("train", "valid", "test"):
        write(tmp_path / f"{name}.txt", f"{name} {TEXT}")
    found = load_running_text(GenerationData(data_dir=str(tmp_path)))
    assert {name: join(rows).split()[0] for name, rows in found.splits.items()} == {
        "train": "train",
        "validation": "valid",
        "test": "test",
    }
    assert all(rows["ends"][-1] for rows in found.splits.values())
    books = tmp_path / "books"
    books.mkdir()
    for name in ("a", "b"):
        write(books / f"{name}.txt", f"{name} {TEXT}")
    found = load_running_text(GenerationData(data_dir=str(books), test_fraction=0.2, validation_fraction=0))
    assert join(found.splits["train"]) + join(found.splits["test"]) == f"a {TEXT}b {TEXT}"
    assert sum(found.splits["train"]["ends"]) == 1


def test_rows_of_a_table_are_documents(tmp_path):
    rows = [{"id": number, "text": f"document {number} says something\nin two lines"} for number in range(40)]
    path = write(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, [*rows, {"id": 40, "text": ""}])))
    found = load_running_text(GenerationData(train_file=path))
    assert sum(map(len, found.splits.values())) == 40
    assert all(all(split["ends"]) for split in found.splits.values())
    assert any("were left out (empty text 1): " in note for note in found.notes)


def test_bad_texts_are_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"one\ncaf\xe9\n")
    with pytest.raises(UserError, match=r"latin.txt: not UTF-8: byte 0xe9 at offset 7 \(line 2\)"):
        load_running_text(GenerationData(train_file=str(tmp_path / "latin.txt")))
    (tmp_path / "long.txt").write_bytes(b"one caf\xe9 and another\n" * 200)
    read = load_running_text(GenerationData(train_file=str(tmp_path / "long.txt"), encoding="cp1252"))
    assert "one café" in read.splits["train"]["text"][0]
    with pytest.raises(UserError, match="encoding 'cp125' is not known"):
        load_running_text(GenerationData(train_file=str(tmp_path / "long.txt"), encoding="cp125"))
    with pytest.raises(UserError, match=r"empty.txt: the file holds no text \(3 bytes\)"):
        load_running_text(GenerationData(train_file=write(tmp_path / "empty.txt", " \n\n")))
    write(tmp_path / "play.txt")
    with pytest.raises(UserError, match=r"no such file: .*plays.txt; did you mean .*play.txt"):
        load_running_text(GenerationData(train_file=str(tmp_path / "plays.txt")))
    with pytest.raises(UserError, match=r"data.test_fraction \(1.5\)"):
        load_running_text(GenerationData(train_file=str(tmp_path / "play.txt"), test_fraction=1.5))
    with pytest.raises(UserError, match=r"rows.csv: a table beside .txt files"):
        load_running_text(GenerationData(train_file=str(tmp_path / "play.txt"), test_file="rows.csv"))


def test_a_character_the_training_text_lacks_is_told(tmp_path):
    found = load_running_text(
        GenerationData(train_file=write(tmp_path / "a.txt", TEXT), test_file=write(tmp_path / "b.txt", TEXT + "é"))
    )
    assert any(note.startswith("1 test characters never occur in train ('é')") for note in found.notes)


def test_a_character_tokenizer_gives_the_text_again(tmp_path):
    from transformers import AutoTokenizer

    text = "To be,\n\n  or not\tto be?\r\nThat 's 'the' question . \n"
    train_character_tokenizer([text, "é"], 16).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(text, verbose=False)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == len(set(text + "é")) + 2
    assert tokenizer.decode(tokenizer("to € be")["input_ids"]) == f"to {UNKNOWN} be"
    assert tokenizer.model_max_length == 16
