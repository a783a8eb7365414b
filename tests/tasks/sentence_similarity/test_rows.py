from __future__ import annotations

import dataclasses
import gzip
import json

import pytest

from startup_llm.errors import UserError
from startup_llm.tasks.sentence_similarity.options import SimilarityData
from startup_llm.tasks.sentence_similarity.rows import load_similarity, read_corpus

LABELLED = [("please refund my order", "refund"), ("where is my parcel", "delivery"), ("my money back", "refund")]


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def write_beir(folder, *, compressed=False):
    documents = [{"_id": f"d{n}", "title": f"title {n}" * (n > 0), "text": f"text {n}"} for n in range(4)]
    write(folder / "corpus.jsonl", documents)
    if compressed:
        (folder / "corpus.jsonl.gz").write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes()))
        (folder / "corpus.jsonl").unlink()
    write(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(3)])
    (folder / "qrels").mkdir()
    for split, lines in (
        ("train", ["q0\td0\t1", "q0\td1\t2"]),
        ("test", ["q1\td2\t2", "q2\td3\t1", "q1\td0\t1", "q2\td1\t0"]),
    ):
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return SimilarityData(data_dir=str(folder), validation_fraction=0)


def test_labelled_texts_search_the_training_texts_of_their_label(tmp_path):
    rows = [{"text": f"{text} {n}", "label": label} for n in range(4) for text, label in LABELLED]
    test = [{"text": "refund it", "label": "refund"}, {"text": "any parcel", "label": "delivery"}]
    data = load_similarity(
        SimilarityData(
            train_file=write(tmp_path / "train.jsonl", rows),
            test_file=write(tmp_path / "test.jsonl", test),
            validation_fraction=0.25,
        )
    )
    train, corpus = data.splits["train"], data.corpus
    label_of = {row["text"]: row["label"] for row in rows}
    assert len(corpus) == len(train) == 9
    assert corpus["id"] == [str(row) for row in train["row"]]
    for split in ("train", "validation"):
        for row in data.splits[split]:
            assert row["text"] != row["text_pair"]
            assert label_of[row["text"]] == label_of[row["text_pair"]]
            assert row["text_pair"] in corpus["text"]
            assert row["groups"][0] == row["groups"][1]
    for query, relevant in zip(test, data.splits["test"]["relevant"], strict=True):
        found = {corpus["text"][place] for place, grade in relevant if grade == 1}
        assert found == {text for text in corpus["text"] if label_of[text] == query["label"]}
    assert any("test texts search the 9 training texts" in note for note in data.notes)


def test_a_label_with_one_text_has_nothing_to_learn_from_and_is_told(tmp_path):
    rows = [{"text": text, "label": label} for text, label in (*LABELLED, LABELLED[1])]
    file = write(tmp_path / "train.jsonl", rows)
    data = load_similarity(SimilarityData(train_file=file, test_file=file, validation_fraction=0))
    assert data.splits["train"]["text"] == [LABELLED[0][0], LABELLED[2][0]]
    assert "2 train texts have no other text of their label to learn from." in data.notes
    single = write(tmp_path / "single.jsonl", [row for row in rows for _ in range(2) if row["text"] != LABELLED[2][0]])
    with pytest.raises(UserError, match="no train text has another one of its label"):
        load_similarity(SimilarityData(train_file=single, test_file=single, validation_fraction=0))


@pytest.mark.parametrize("names", [("anchor", "positive", "negative"), ("query", "answer", "negative")])
def test_queries_search_the_answers_of_all_splits_and_stay_on_one_side(tmp_path, names):
    texts = [(f"question {n // 2}", f"answer {n}", f"wrong {n % 3}") for n in range(40)]
    rows = [dict(zip(names, row, strict=True)) for row in texts]
    data = load_similarity(SimilarityData(train_file=write(tmp_path / "t.jsonl", rows), test_fraction=0.25))
    assert set(data.corpus["text"]) == {text for row in texts for text in row[1:]}
    queries = {name: set(split["text"]) for name, split in data.splits.items()}
    assert not queries["train"] & (queries["test"] | queries["validation"])
    assert len(data.splits["test"]) == len(queries["test"])
    for query, relevant in zip(data.splits["test"]["text"], data.splits["test"]["relevant"], strict=True):
        assert {data.corpus["text"][place] for place, _ in relevant} == {a for q, a, _ in texts if q == query}
    first, second = data.splits["train"].select(range(2))
    assert first["text"] == second["text"]
    assert first["groups"][0] == second["groups"][0]
    assert first["groups"][1] != second["groups"][1]
    wrong = data.splits["train"].filter(lambda row: row["negative"] == "wrong 0")
    assert len({groups[2] for groups in wrong["groups"]}) == 1


def test_shared_queries_are_told_and_can_be_taken_out(tmp_path):
    rows = [{"query": f"q {n}", "positive": f"a {n}"} for n in range(8)]
    files = {"train_file": write(tmp_path / "a.jsonl", rows), "test_file": write(tmp_path / "b.jsonl", rows[:3])}
    data = load_similarity(SimilarityData(**files, validation_fraction=0))
    assert any("3 queries stand in both train and test" in note for note in data.notes)
    cleaned = load_similarity(SimilarityData(**files, validation_fraction=0, remove_overlap=True))
    assert cleaned.splits["train"]["text"] == [f"q {n}" for n in range(3, 8)]
    some = load_similarity(SimilarityData(**files, validation_fraction=0, max_train_rows=4, max_test_rows=2))
    assert (len(some.splits["train"]), len(some.splits["test"]), len(some.corpus)) == (4, 2, 8)


def test_scored_pairs_keep_their_scores(tmp_path):
    rows = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "score": n % 6} for n in range(30)]
    data = load_similarity(SimilarityData(train_file=write(tmp_path / "t.jsonl", rows)))
    assert data.corpus is None
    assert data.problem_type == ""
    for row in data.splits["test"]:
        number = int(row["text"].split()[1])
        assert (row["text_pair"], row["label"]) == (f"b {number}", number % 6)
    assert data.splits["test"].features["label"].dtype == "float64"


def test_scored_pairs_that_cannot_be_used_are_named_or_left_out_and_the_others_keep_their_numbers(tmp_path):
    rows = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "score": str(n % 6)} for n in range(1, 31)]
    rows[2]["sentence2"], rows[4]["score"], rows[6]["score"], rows[8]["score"] = " ", "high", "", "nan"
    data = SimilarityData(train_file=write(tmp_path / "train.jsonl", rows))
    with pytest.raises(
        UserError, match=r"4 of 30 rows .*row 3: the column 'sentence2' is empty; row 5: .*; row 7: .*; row 9: "
    ):
        load_similarity(data)
    loaded = load_similarity(dataclasses.replace(data, skip_bad=True))
    assert any("train.jsonl): 4 of 30 rows were left out (" in note for note in loaded.notes)
    found = [row for split in loaded.splits.values() for row in split]
    assert sorted(row["row"] for row in found) == [n for n in range(1, 31) if n not in (3, 5, 7, 9)]
    assert all(row["text"] == f"a {row['row']}" and row["label"] == row["row"] % 6 for row in found)


def test_labelled_texts_that_cannot_be_used_are_named_or_left_out(tmp_path):
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(1, 31)]
    rows[2]["text"], rows[4]["label"] = "", None
    data = SimilarityData(train_file=write(tmp_path / "train.jsonl", rows))
    with pytest.raises(
        UserError, match=r"row 3: the column 'text' is empty; row 5: no label in column 'label'; .*\(28 rows stay\)"
    ):
        load_similarity(data)
    loaded = load_similarity(dataclasses.replace(data, skip_bad=True))
    assert any(": 2 of 30 rows were left out (" in note for note in loaded.notes)
    assert all(row["text"] == f"text {row['row']}" for split in loaded.splits.values() for row in split)


@pytest.mark.parametrize("compressed", [False, True])
def test_beir_s_files_give_graded_queries(tmp_path, compressed):
    data = load_similarity(write_beir(tmp_path, compressed=compressed))
    assert data.corpus["id"] == ["d0", "d1", "d2", "d3"]
    assert data.corpus["text"][:2] == ["text 0", "title 1 text 1"]
    assert data.splits["train"]["text"] == ["query 0", "query 0"]
    assert data.splits["train"]["text_pair"] == ["text 0", "title 1 text 1"]
    assert data.splits["test"]["text"] == ["query 1", "query 2"]
    assert data.splits["test"]["relevant"] == [[[0, 1], [2, 2]], [[3, 1]]]
    assert {record["path"] for record in data.sources[0]["files"]} >= {"train.tsv", "queries.jsonl"}


def test_an_empty_text_is_named_or_left_out(tmp_path):
    rows = [{"query": f"q{n}", "positive": "" if n in (2, 5) else f"p{n}"} for n in range(20)]
    file = write(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(UserError, match=r"row 3: the column 'positive' is empty; row 6: .*--data.skip_bad true"):
        load_similarity(SimilarityData(train_file=file))
    data = load_similarity(SimilarityData(train_file=file, skip_bad=True))
    kept = sorted(row for rows in data.splits.values() for row in rows["row"])
    assert kept == [row for row in range(1, 21) if row not in (3, 6)]
    said = "pairs were left out (empty text 2): row 3: the column 'positive' is empty; row 6: "
    assert any(said in note for note in data.notes)


def test_beir_s_empty_document_is_named_or_left_out_with_its_judgements(tmp_path):
    config = write_beir(tmp_path)
    lines = (tmp_path / "corpus.jsonl").read_text().splitlines()
    lines[3] = json.dumps({"_id": "d3", "title": "", "text": " "})
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(
        UserError, match=r"corpus.jsonl: 1 of .* row 4: the column 'text' is empty; .*--data.skip_bad true"
    ):
        load_similarity(config)
    data = load_similarity(dataclasses.replace(config, skip_bad=True))
    assert data.corpus["id"] == ["d0", "d1", "d2"]
    assert data.splits["test"]["text"] == ["query 1"]
    assert any("judgements were left out (query or document without a text 1): " in note for note in data.notes)


def test_beir_s_files_without_training_rows_can_be_measured(tmp_path):
    data = write_beir(tmp_path)
    (tmp_path / "qrels" / "train.tsv").unlink()
    assert set(load_similarity(data).splits) == {"test"}
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td9\t1\n")
    with pytest.raises(UserError, match="row 1: the document 'd9' has no text"):
        load_similarity(data)
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\thigh\n")
    with pytest.raises(UserError, match=r"qrels/test.tsv: a score is no whole number .*'high'"):
        load_similarity(data)
    (tmp_path / "qrels" / "test.tsv").unlink()
    with pytest.raises(UserError, match=r"no qrels/test\.tsv"):
        load_similarity(data)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"query": "q", "positive": " "}], {}, r"row 1: the column 'positive' is empty"),
        ([{"query": "q", "positive": 3}], {}, r"the column 'positive' is no text: 3"),
        (
            [{"a": "q", "b": "p"}],
            {"text_column": "aa"},
            r"data.text_column: no column 'aa' among a, b; did you mean a",
        ),
        ([{"query": "q", "positive": "p"}], {"negative_column": "n"}, r"data.negative_column: no column 'n'"),
        (
            [{"sentence1": "q", "sentence2": "p", "score": "x"}] * 9,
            {},
            r"row 1: the label 'x' in column 'score' is no number",
        ),
        ([{"sentence1": "q", "sentence2": "p"}], {"label_column": "s"}, r"data.label_column: no column 's'"),
        ([{"text": "q", "label": 0.5 + n} for n in range(30)], {}, r"the labels are a regression; expected one class"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(tmp_path, rows, options, message):
    with pytest.raises(UserError, match=message):
        load_similarity(SimilarityData(train_file=write(tmp_path / "train.jsonl", rows), **options))


def test_a_corpus_is_read_with_its_ids_or_its_rows_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\nx,one\ny,two\n")
    assert read_corpus(tmp_path / "a.csv") == [{"id": "x", "text": "one"}, {"id": "y", "text": "two"}]
    file = write(tmp_path / "b.jsonl", [{"passage": "one"}, {"passage": "two"}])
    assert read_corpus(file) == [{"id": "1", "text": "one"}, {"id": "2", "text": "two"}]
    with pytest.raises(UserError, match="no such file"):
        read_corpus(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_text("id,words\nx,one\n")
    with pytest.raises(UserError, match="no column 'text' among id, words"):
        read_corpus(tmp_path / "d.csv")
