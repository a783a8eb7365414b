from __future__ import annotations

import json
import re

import datasets
import pytest

from startup_llm.errors import UserError
from startup_llm.tasks.question_answering.options import QuestionData
from startup_llm.tasks.question_answering.rows import count_unanswerable, load_extractive_questions

CONTEXT = "  Zoë Müller lebt in Köln. Zoë is 42 – or 43."


def build_question(number, text="Köln", start=None, **more):
    start = CONTEXT.find(text) if start is None else start
    return {
        "id": f"q{number}",
        "question": f" Where {number}? ",
        "answers": [{"text": text, "answer_start": start}],
        **more,
    }


def write_nested(path, questions, *, indent=None, articles=4, version="1.1"):
    """Write questions in SQuAD's form, as many in each article."""
    data = [
        {"title": f"Article {n}", "paragraphs": [{"context": f"{CONTEXT} {n}", "qas": questions[n::articles]}]}
        for n in range(articles)
    ]
    path.write_text(json.dumps({"version": version, "data": data}, indent=indent, ensure_ascii=False))
    return str(path)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def flat(number, text="Köln", start=None):
    start = CONTEXT.find(text) if start is None else start
    answers = {"text": [text], "answer_start": [start]}
    names = {"id": f"q{number}", "title": f"t{number % 4}"}
    return {**names, "context": f"{CONTEXT} {number}", "question": f"Where {number}?", "answers": answers}


def load(file, **options):
    return load_extractive_questions(QuestionData(train_file=file, **options))


@pytest.mark.parametrize("indent", [None, 2])
def test_squad_s_own_form_is_read_in_one_line_or_many(tmp_path, indent):
    data = load(write_nested(tmp_path / "train.json", [build_question(n) for n in range(20)], indent=indent))
    rows = datasets.concatenate_datasets(list(data.splits.values()))
    assert len(rows) == 20
    assert sorted(rows["row"]) == list(range(1, 21))
    first = data.splits["train"][0]
    assert first["answers"] == ["Köln"]
    assert first["context"][first["answer_starts"][0] :].startswith("Köln")
    assert first["question"] == first["question"].strip()
    assert first["title"].startswith("Article")
    by_context = [set(split["context"]) for split in data.splits.values()]
    assert not set.intersection(*by_context)


def test_squad_two_has_questions_without_an_answer(tmp_path):
    none = {"answers": [], "is_impossible": True, "plausible_answers": [{"text": "42", "answer_start": 3}]}
    questions = [build_question(n, **(none if n % 3 == 0 else {"is_impossible": False})) for n in range(24)]
    data = load(write_nested(tmp_path / "dev.json", questions, version="v2.0"))
    assert sum(count_unanswerable(rows) for rows in data.splits.values()) == 8
    assert any("have no answer" in note for note in data.notes)


def test_flat_columns_of_every_file_type_give_the_same_rows(tmp_path):
    rows = [flat(n) for n in range(12)] + [{**flat(12), "answers": {"text": [], "answer_start": []}}]
    lines = write_lines(tmp_path / "a.jsonl", rows)
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "b.parquet"))
    cells = [{**row, "answers": json.dumps(row["answers"])} for row in rows]
    datasets.Dataset.from_list(cells).to_csv(str(tmp_path / "c.csv"), index=False)
    pairs = [
        {**row, "answers": [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values(), strict=True)]}
        for row in rows
    ]
    found = [
        load(str(file), test_fraction=0.2).splits["test"].to_list()
        for file in (lines, tmp_path / "b.parquet", tmp_path / "c.csv", write_lines(tmp_path / "d.jsonl", pairs))
    ]
    assert found[0] == found[1] == found[2] == found[3]


def test_columns_of_other_names_are_named_and_a_bare_text_is_found(tmp_path):
    rows = [{"q": f"who {n}?", "passage": f"It was Ada {n}.", "a": f"Ada {n}"} for n in range(8)]
    data = load(
        write_lines(tmp_path / "a.jsonl", rows), text_column="q", text_pair_column="passage", target_column="a"
    )
    assert data.splits["train"][0]["answer_starts"] == [7]
    rows = [{"question": "who?", "context": f"Ada or Ada {n}.", "answers": "Ada", "answer_start": 7} for n in range(8)]
    assert load(write_lines(tmp_path / "b.jsonl", rows)).splits["train"][0]["answer_starts"] == [7]
    with pytest.raises(UserError, match=re.escape("data.text_column: no column 'q'")):
        load(write_lines(tmp_path / "c.jsonl", rows), text_column="q")
    with pytest.raises(UserError, match=r"data\.group_column: no column 'titel'"):
        load(write_lines(tmp_path / "d.jsonl", [flat(n) for n in range(8)]), group_column="titel")


def test_an_answer_that_stands_once_is_moved_there_and_its_blanks_are_cut(tmp_path):
    rows = [flat(n) for n in range(8)]
    rows[2] = flat(2, start=4)
    rows[3]["answers"] = {"text": [" Köln."], "answer_start": [CONTEXT.find(" Köln.")]}
    data = load(write_lines(tmp_path / "a.jsonl", rows))
    everything = {row["row"]: row for split in data.splits.values() for row in split}
    assert everything[3]["answer_starts"] == [CONTEXT.find("Köln")]
    assert everything[4]["answers"] == ["Köln."]
    assert everything[4]["answer_starts"] == [CONTEXT.find("Köln.")]
    assert [note for note in data.notes if "moved there (rows 3)" in note]
    assert not [note for note in data.notes if "rows 4" in note]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {"text": ["Zoë"], "answer_start": [5]}}, "the answer 'Zoë' is not at its answer_start 5 (' Mü')"),
        ({"answers": {"text": ["Bonn"], "answer_start": [5]}}, "the answer 'Bonn' is not in the context"),
        ({"answers": {"text": ["Zoë"], "answer_start": [-40]}}, "stands 2 times"),
        ({"answers": {"text": ["Köln", "Zoë"], "answer_start": [5]}}, "2 texts and 1 places"),
        ({"question": " "}, "the question has no text"),
        ({"context": None}, "the context has no text"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_or_left_out(tmp_path, change, message):
    rows = [flat(n) for n in range(10)]
    rows[4] |= change
    rows[6] |= change
    file = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=f"train split: 2 of .* row 5: .*{re.escape(message)}") as raised:
        load(file)
    assert "; row 7: " in str(raised.value)
    assert "--data.skip_bad" in str(raised.value)
    data = load(file, skip_bad=True)
    assert sum(len(split) for split in data.splits.values()) == 8
    assert any("2 of 10 questions were left out (" in note for note in data.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": [{"title": "x"}]}, "no column 'question' .* it has title"),
        ({"data": [{"paragraphs": [{"context": "x"}]}]}, "paragraph 1 of article 1: it has no list qas"),
        ({"data": [{"title": "x", "paragraphs": None}]}, "article 1: it has no list of paragraphs"),
        ({"data": [{"paragraphs": []}]}, "article 1: it has no paragraphs"),
        ({"data": []}, "no usable question"),
        ({"question": "x", "context": "y"}, "no column 'answers'"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, content, message):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load(str(file))


@pytest.mark.parametrize(
    ("article", "fault"),
    [
        ({"title": "x"}, "article 2: it has no list of paragraphs"),
        ({"title": "x", "paragraphs": []}, "article 2: it has no paragraphs"),
        ({"title": "x", "paragraphs": [{"context": "x"}]}, "paragraph 1 of article 2: it has no list qas"),
        ({"title": "x", "paragraphs": [{"context": "x", "qas": []}]}, "paragraph 1 of article 2: it has no questions"),
    ],
)
def test_an_article_without_questions_is_named_or_left_out(tmp_path, article, fault):
    file = tmp_path / "a.json"
    write_nested(file, [build_question(n) for n in range(20)])
    content = json.loads(file.read_text())
    content["data"][1:1] = [article, article]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{fault}; .*--data.skip_bad true"):
        load(str(file))
    data = load(str(file), skip_bad=True)
    assert sum(map(len, data.splits.values())) == 20
    assert any(f"were left out (part without questions 2): {fault}; " in note for note in data.notes)


def test_a_question_that_is_null_in_squad_s_form_is_named_by_its_row(tmp_path):
    questions = [build_question(n) for n in range(20)]
    questions[4] = None
    with pytest.raises(UserError, match="row 2: the question has no text"):
        load(write_nested(tmp_path / "a.json", questions))


def test_questions_of_the_test_split_are_counted_in_training_and_taken_out_where_that_is_asked_for(tmp_path):
    train = write_lines(tmp_path / "train.jsonl", [flat(n) for n in range(20)])
    test = write_lines(tmp_path / "test.jsonl", [flat(3), flat(30), {**flat(7), "question": "Why 7?"}, flat(9)])
    files = {"test_file": test, "validation_fraction": 0}
    data = load(train, **files)
    said = "2 training questions stand in the test split too"
    assert [note.split(",")[0] for note in data.notes if said in note] == [said]
    assert len(data.splits["train"]) == 20
    assert "digest" not in data.splits["train"].column_names
    data = load(train, **files, remove_overlap=True)
    assert data.splits["train"]["row"] == [row for row in range(1, 21) if row not in (4, 10)]
    assert f"{said}; they were removed from training." in data.notes


def test_folds_by_article_are_all_rows_and_share_no_article(tmp_path):
    file = write_nested(tmp_path / "train.json", [build_question(n) for n in range(60)], articles=10)
    folds = [
        load(file, group_column="title", folds=5, fold=fold, validation_fraction=0.0).splits for fold in range(1, 6)
    ]
    assert sorted(row for splits in folds for row in splits["test"]["row"]) == list(range(1, 61))
    assert all(not set(splits["train"]["title"]) & set(splits["test"]["title"]) for splits in folds)


@pytest.mark.real_data
def test_xquad_has_every_answer_at_its_place(real_data):
    options = {"data_dir": str(real_data / "xquad"), "train_split": "xquad.en", "group_column": "title"}
    data = load_extractive_questions(QuestionData(**options, validation_fraction=0.0))
    rows = datasets.concatenate_datasets(list(data.splits.values()))
    assert len(rows) == 1190
    assert not any("moved" in note for note in data.notes)
    for row in rows:
        assert row["context"].startswith(row["answers"][0], row["answer_starts"][0])
