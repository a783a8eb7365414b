"""Exports of annotation tools, written by their documented schemas, as training reads them."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from startup_llm.config import LabelledTextData
from startup_llm.data.classification import load_labelled_text
from startup_llm.data.row_source import FileOptions, RowSource
from startup_llm.errors import UserError

QUICK = [
    "--train.max_steps", "2", "--evaluation.resamples", "50", "--data.validation_fraction", "0",
    "--train.per_device_train_batch_size", "8",
]  # fmt: skip
TEXT = "Anna lives in Paris"
SPANS = [{"start": 0, "end": 4, "label": "PERSON"}, {"start": 14, "end": 19, "label": "CITY"}]


def write(path, rows, *, as_list=False):
    lines = json.dumps(rows) if as_list else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines, encoding="utf-8")
    return str(path)


def read(path):
    source = RowSource(path)
    return source.read_table().to_pylist(), source.notes


def studio(number, *annotations, **data):
    return {"id": number, "data": {"text": TEXT, **data}, "annotations": list(annotations), "predictions": []}


def choose(*choices, annotator=1, name="intent", **more):
    result = {"id": "a", "type": "choices", "from_name": name, "to_name": "text", "value": {"choices": list(choices)}}
    return {"id": 1, "completed_by": annotator, "was_cancelled": False, "result": [result], **more}


def mark(*spans):
    results = [
        {
            "type": "labels",
            "from_name": "ner",
            "to_name": "text",
            "value": {"start": span["start"], "end": span["end"], "text": "x", "labels": [span["label"]]},
        }
        for span in spans
    ]
    return {"id": 1, "completed_by": {"id": 1}, "was_cancelled": False, "result": results}


def record(number, **responses):
    values = [{"value": value, "user_id": user, "status": "submitted"} for user, value in responses.items()]
    fields = {"id": str(number), "fields": {"text": TEXT}, "metadata": {}, "status": "completed"}
    return {**fields, "suggestions": {}, "responses": {"intent": values}, "vectors": {}}


def flat_record(number, **responses):
    own = {"id": str(number), "status": "completed", "_server_id": "x", "text": TEXT}
    columns = {"intent.responses": list(responses.values()), "intent.responses.users": list(responses)}
    return {**own, **columns, "intent.responses.status": ["submitted"] * len(responses), "intent.suggestion": "x"}


PRODIGY = {
    "text": TEXT,
    "_input_hash": 1,
    "_task_hash": 2,
    "tokens": [{"text": "Anna", "start": 0, "end": 4, "id": 0}],
}
EXPORTS = {
    "label studio, labels": ([studio(1, mark(*SPANS))], {"entities": SPANS}),
    "label studio, choices": ([studio(1, choose("refund"))], {"label": "refund"}),
    "label studio, several choices": ([studio(1, choose("refund", "angry"))], {"label": ["refund", "angry"]}),
    "label studio, min": (
        [{"id": 1, "text": TEXT, "annotation_id": 1, "annotator": 1, "lead_time": 2.0, "intent": "refund"}],
        {"intent": "refund"},
    ),
    "doccano": ([{"id": 1, "text": TEXT, "label": [[0, 4, "PERSON"], [14, 19, "CITY"]]}], {"entities": SPANS}),
    "doccano, offsets": (
        [
            {
                "id": 1,
                "text": TEXT,
                "entities": [
                    {"id": n, "label": span["label"], "start_offset": span["start"], "end_offset": span["end"]}
                    for n, span in enumerate(SPANS)
                ],
                "relations": [],
            }
        ],
        {"entities": SPANS},
    ),
    "prodigy, spans": (
        [{**PRODIGY, "spans": [{**span, "token_start": 0, "token_end": 0} for span in SPANS], "answer": "accept"}],
        {"entities": SPANS},
    ),
    "prodigy, choice": (
        [
            {
                **PRODIGY,
                "options": [{"id": "a", "text": "A"}, {"id": "b", "text": "B"}],
                "accept": ["b"],
                "answer": "accept",
            }
        ],
        {"label": "b"},
    ),
    "prodigy, label": ([{**PRODIGY, "label": "refund", "answer": "accept"}], {"label": "refund"}),
    "argilla, labels": ([record(1, anna=["refund", "angry"])], {"intent": ["refund", "angry"]}),
    "argilla, spans": ([record(1, anna=SPANS)], {"entities": SPANS}),
    "spacy, tuples": ([[TEXT, {"entities": [[0, 4, "PERSON"], [14, 19, "CITY"]]}]], {"entities": SPANS}),
    "spacy, cats": ([{"text": TEXT, "cats": {"a": 0.0, "b": 1.0}}], {"label": "b"}),
}


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_becomes_rows_of_text_with_label_labels_or_entities(tmp_path, name, as_list):
    rows, expected = EXPORTS[name]
    rows = [{**row, "id": number} if "id" in row else row for number, row in enumerate(rows * 2)]
    found, notes = read(write(tmp_path / "rows.json", rows, as_list=as_list))
    assert len(found) == 2
    for row in found:
        assert row["text"] == TEXT
        assert {column: row.get(column) for column in expected} == expected
    assert len(notes) == 1
    assert notes[0].startswith("read as ")


def test_rows_that_are_rejected_or_not_annotated_are_not_learnt_and_are_counted(tmp_path):
    rows = [
        {**PRODIGY, "label": f"label {n}", "answer": answer} for n, answer in enumerate(("accept", "reject", "ignore"))
    ]
    found, notes = read(write(tmp_path / "rows.jsonl", rows))
    assert [row["label"] for row in found] == ["label 0"]
    assert notes == ["read as Prodigy's export, without 2 of 3 rows that are not accepted or not annotated"]
    found, _ = read(write(tmp_path / "tasks.json", [studio(1, choose("a")), studio(2)], as_list=True))
    assert len(found) == 1
    with pytest.raises(UserError, match="none of its 1 rows is accepted or annotated"):
        read(write(tmp_path / "none.json", [studio(2)], as_list=True))


def test_of_several_annotators_the_majority_or_the_ground_truth_counts(tmp_path):
    three = studio(1, choose("a"), choose("b", annotator=2), choose("b", annotator=3))
    true = studio(2, choose("a", ground_truth=True), choose("b", annotator=2))
    cancelled = studio(3, choose("a", was_cancelled=True), choose("b"))
    found, _ = read(write(tmp_path / "tasks.json", [three, true, cancelled], as_list=True))
    assert [row["label"] for row in found] == ["b", "a", "b"]


ANNA, BOB = {"id": 7, "email": "anna@example.org"}, {"id": 8, "email": "bob@example.org"}


def answer(label, annotator, task=1, verdict="accept"):
    return {**PRODIGY, "label": label, "answer": verdict, "_task_hash": task, "_annotator_id": annotator}


SEVERAL = {
    "label studio": (
        [studio(1, choose("a", annotator=ANNA), choose("b", annotator=BOB)), studio(2, choose("c", annotator=BOB))],
        ("anna@example.org", "bob@example.org"),
        "label",
    ),
    "label studio, min": (
        [
            {"id": task, "text": TEXT, "annotation_id": n, "annotator": who, "lead_time": 1.0, "label": label}
            for n, (task, who, label) in enumerate([(1, 7, "a"), (1, 8, "b"), (2, 8, "c")])
        ],
        ("7", "8"),
        "label",
    ),
    "prodigy": ([answer("a", "anna"), answer("b", "bob"), answer("c", "bob", task=2)], ("anna", "bob"), "label"),
    "argilla": ([record(1, anna="a", bob="b"), record(2, bob="c")], ("anna", "bob"), "intent"),
    "argilla, flat": ([flat_record(1, anna="a", bob="b"), flat_record(2, bob="c")], ("anna", "bob"), "intent"),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_one_annotator_s_rows_are_read_by_name_and_an_unknown_name_lists_all(tmp_path, name):
    rows, (first, second), column = SEVERAL[name]
    path = write(tmp_path / "rows.jsonl", rows)
    listed = rf"'{second}' \(2\), '{first}' \(1\)"
    with pytest.raises(
        UserError, match=rf"row 1: 2 annotators disagree \({first}: .*\); .*annotator NAME, of {listed}"
    ):
        RowSource(path).read_table()
    with pytest.raises(UserError, match=rf"--data.annotator: no annotator 'carl' in .*, only {listed}"):
        RowSource(path, options=FileOptions(annotator="carl")).read_table()
    for annotator, labels in ((first, ["a"]), (second, ["b", "c"])):
        source = RowSource(path, options=FileOptions(annotator=annotator))
        assert [row[column] for row in source.read_table().to_pylist()] == labels
        assert source.notes[0].endswith(f"by the annotator '{annotator}' alone")


def test_rows_on_which_annotators_disagree_are_counted(tmp_path):
    three = [choose("a"), choose("b", annotator=2), choose("b", annotator=3)]
    _, notes = read(write(tmp_path / "rows.jsonl", [studio(1, *three), studio(2, choose("a"))]))
    assert "of which annotators disagree on 1: the ground truth or else the majority counts" in notes[0]
    swapped = [choose("a", "b"), choose("b", "a", annotator=2)]
    found, notes = read(write(tmp_path / "rows.jsonl", [studio(1, *swapped)]))
    assert found[0]["label"] == ["a", "b"]
    assert "disagree" not in notes[0]
    rejected = [answer("a", "anna", verdict="reject"), answer("a", "bob", verdict="reject"), answer("a", "carl")]
    found, notes = read(write(tmp_path / "rows.jsonl", [*rejected, answer("b", "anna", task=2)]))
    assert [row["label"] for row in found] == ["b"]
    assert "without 1 of 2 rows" in notes[0]


def test_an_annotator_is_refused_where_the_rows_do_not_tell_any(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"text": TEXT, "label": [[0, 4, "PERSON"]]}])
    with pytest.raises(UserError, match="does not say who annotated; export each annotator's rows to a file of its"):
        RowSource(path, options=FileOptions(annotator="anna")).read_table()
    plain = write(tmp_path / "plain.jsonl", [{"text": TEXT, "label": "a"}])
    with pytest.raises(UserError, match=r"data.annotator 'anna': .*plain.jsonl is no export of an annotation tool"):
        load_labelled_text(LabelledTextData(train_file=plain, annotator="anna"))


def test_argilla_s_parquet_is_read_by_its_responses(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [flat_record(1, anna="a"), {**flat_record(2, anna="b"), "intent.responses.status": ["draft"]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found, notes = read(str(path))
    assert found == [{"id": "1", "text": TEXT, "intent": "a"}]
    assert notes == ["read as Argilla's records, without 1 of 2 rows that are not accepted or not annotated"]


def test_annotators_who_disagree_are_named_with_their_row(tmp_path):
    rows = [studio(1, choose("a")), studio(2, choose("a"), choose("b", annotator=2))]
    with pytest.raises(UserError, match=r"tasks.json: row 2: 2 annotators disagree .*ground truth"):
        read(write(tmp_path / "tasks.json", rows, as_list=True))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": TEXT, "label": [[0, "ORG"]]}, r"row 2: 'label' holds \[0, 'ORG'\], expected a span"),
        ({"text": TEXT, "label": [[0, 4, None]]}, r"row 2: 'label' holds \[0, 4, None\], expected a span"),
        ({"text": TEXT, "label": [["0", "4", "ORG"]]}, "row 2: 'label' holds .*expected a span"),
        ({"text": TEXT, "cats": {"a": "yes"}}, "row 2: 'cats' holds a: 'yes', expected a number"),
    ],
)
def test_an_element_that_cannot_be_read_is_named_with_file_row_and_value(tmp_path, row, message):
    good = {"text": TEXT, "label": [[0, 4, "PERSON"]]}
    with pytest.raises(UserError, match=rf"rows.jsonl: {message}"):
        read(write(tmp_path / "rows.jsonl", [good, row]))


def test_results_of_another_kind_are_refused(tmp_path):
    box = {"type": "rectanglelabels", "from_name": "b", "value": {"x": 1}}
    rows = [studio(1, {"result": [box]})]
    with pytest.raises(UserError, match="row 1: a result of type 'rectanglelabels', expected choices or labels"):
        read(write(tmp_path / "tasks.json", rows, as_list=True))


def test_plain_rows_stay_as_they_are(tmp_path):
    rows = [{"text": "a", "label": ["x"], "entities": [{"start": 0, "end": 1, "label": "b"}]}]
    assert read(write(tmp_path / "rows.jsonl", rows)) == (rows, [])


def test_fasttext_lines_are_read(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("".join(f"__label__{'ab'[n % 2]} message number {n}\n" for n in range(12)))
    loaded = load_labelled_text(LabelledTextData(train_file=str(path), validation_fraction=0))
    assert loaded.label_names == ("a", "b")
    assert sorted(row["text"] for row in loaded.splits["train"])[0] == "message number 0"
    path.write_text("__label__a one\nno label here\n")
    with pytest.raises(UserError, match="line 2 has no label: 'no label here'; expected __label__NAME TEXT"):
        load_labelled_text(LabelledTextData(train_file=str(path)))


@pytest.mark.slow
def test_a_classification_export_is_fine_tuned_as_it_comes(tmp_path, run_recipe, tiny_checkpoint):
    rows = [studio(n, choose("ab"[n % 2]), text=f"message number {n}") for n in range(16)]
    path = write(tmp_path / "project-1.json", rows, as_list=True)
    words = ["--data.train_file", path, "--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", tmp_path / "run"]
    code, out, err = run_recipe("finetune", *words, *QUICK)
    assert code == 0, err
    assert "project-1.json: read as Label Studio's export." in out + err


@pytest.mark.slow
def test_one_annotator_s_records_are_fine_tuned_as_argilla_writes_them(tmp_path, run_recipe, tiny_checkpoint):
    rows = [record(n, anna="ab"[n % 2], bob="c") for n in range(16)]
    for row in rows:
        row["fields"]["text"] = f"message number {row['id']}"
    words = ["--data.train_file", write(tmp_path / "records.json", rows, as_list=True), "--data.annotator", "anna"]
    words += ["--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", tmp_path / "run"]
    code, out, err = run_recipe("finetune", *words, *QUICK)
    assert code == 0, err
    assert "records.json: read as Argilla's records, by the annotator 'anna' alone." in out + err


def test_an_export_of_spans_is_fine_tuned_as_it_comes(tmp_path, run_recipe, tiny_checkpoint):
    rows = [
        {"id": n, "text": f"{name} lives in Paris {n}", "label": [[0, len(name), "PERSON"]]}
        for n, name in enumerate(["Anna", "Bernard", "Chloe", "Dora"] * 5)
    ]
    words = ["--task", "token-classification", "--data.train_file", write(tmp_path / "all.jsonl", rows)]
    words += ["--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", tmp_path / "run"]
    code, out, err = run_recipe("finetune", *words, *QUICK)
    assert code == 0, err
    assert "read as spans or categories as doccano and spaCy write them" in out + err


def test_the_audit_reads_an_export_and_its_fix_refuses_to_write_one(tmp_path, run_recipe):
    rows = [studio(n, choose("ab"[n % 2]), text=f"message number {n} of many") for n in range(16)]
    path = write(tmp_path / "tasks.json", rows, as_list=True)
    words = ["--data.train_file", path, "--output", tmp_path / "audit"]
    code, _, err = run_recipe("audit", *words)
    assert code == 0, err
    code, _, err = run_recipe("audit", *words, "--overwrite", "true", "--fix", "true")
    assert code == 2
    assert "--fix writes tables" in err
    assert "Label Studio's export" in err
