import csv
import datetime
import gzip
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from chat_checkpoints import build_chat_checkpoint
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from startup_llm.errors import run_recipe
from startup_llm.tasks.text_generation.chat_templates import TEMPLATES

RECIPE = Path(__file__).parents[2] / "recipes" / "predict.py"
TEXTS = [
    "where is my parcel",
    "please refund my order, and the money",
    'a "quoted" refund\nover two lines\r\nor three',
    "reset my password please " * 20,
    " parcel",
    "café 包裹 , the password",
    "i want my money back",
]
LABELS = ["refund", "delivery", "password"]
ON_CPU = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
LAUNCH = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
LAUNCH_TWO = [  # accelerate launch --cpu starts one process, whatever --num_processes says
    *["-m", "torch.distributed.run", "--nproc_per_node", "2"],
    *["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--"],
]


def save_bert(folder, **settings):
    """Save a BERT classifier of random weights and a WordPiece tokenizer whose vocabulary is the texts' words."""
    folder.mkdir()
    words = sorted({word for text in TEXTS for word in text.replace(",", " ").replace('"', " ").split()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", '"', *words]
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    torch.manual_seed(4)  # of these, one that gives every label
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.4, **settings,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert_folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("checkpoints") / "bert", id2label=dict(enumerate(LABELS)))


@pytest.fixture(scope="module")
def expected(tiny_bert_folder):
    """What the pipeline answers to TEXTS."""
    answers = pipeline("text-classification", model=str(tiny_bert_folder), device="cpu")(TEXTS, truncation=True)
    assert {answer["label"] for answer in answers} == set(LABELS)
    assert len({round(answer["score"], 3) for answer in answers}) == len(TEXTS)
    return answers


@pytest.fixture
def predict(tiny_bert_folder, monkeypatch, capsysbinary):
    """Run the recipe in this process; return exit code, stdout and stderr."""

    def run(*options, run=tiny_bert_folder, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["predict.py", "--run", str(run), *map(str, options)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        code = 0
        try:
            run_recipe(runpy.run_path(str(RECIPE))["main"])
        except SystemExit as stop:
            code = stop.code
        out, err = capsysbinary.readouterr()
        return code, out, err.decode()

    return run


def write_rows(path, rows):
    name = path.name
    if "parquet" in name:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3)
        content = path.read_bytes()
    elif "jsonl" in name:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if "tsv" in name else ",")
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def read_rows(path):
    content = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    if "parquet" in path.name:
        return pyarrow.parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
    if "jsonl" in path.name:
        return [json.loads(line) for line in content.decode().splitlines()]
    return list(
        csv.DictReader(io.StringIO(content.decode(), newline=""), delimiter="\t" if "tsv" in path.name else ",")
    )


def assert_answered(rows, sources, expected, label="label"):
    """The columns unchanged and in order, then the pipeline's answers."""
    assert len(rows) == len(sources)
    for row, source, answer in zip(rows, sources, expected, strict=True):
        assert list(row) == [*source, label, "score"]
        assert {name: row[name] for name in source} == source
        assert row[label] == answer["label"]
        assert float(row["score"]) == pytest.approx(answer["score"], abs=1e-4)


def rows_of_texts():
    return [{"id": f"00{number}", "text": text, "label": "NA"} for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("input_name", ["a.csv", "a.tsv.gz", "a.jsonl", "a.parquet", "a.parquet.gz"])
@pytest.mark.parametrize("output_name", ["b.csv.gz", "b.tsv", "b.jsonl.gz", "b.parquet", "b.parquet.gz"])
def test_every_format_keeps_rows_and_order_and_adds_the_pipelines_answers(
    predict, tmp_path, expected, input_name, output_name
):
    write_rows(tmp_path / input_name, rows_of_texts())
    code, out, err = predict("--input", tmp_path / input_name, "--output", tmp_path / output_name, "--piece_rows", 2)
    assert (code, out) == (0, b"")
    assert f"{len(TEXTS)} rows" in err
    assert_answered(read_rows(tmp_path / output_name), rows_of_texts(), expected, label="predicted_label")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([input_name, output_name])


def test_jsonl_keeps_types_and_missing_keys(predict, tmp_path, expected):
    rows = [{"text": text} for text in TEXTS]
    rows[0] |= {"n": 2**70, "tags": ["a", None], "half": "\ud83d"}
    rows[1] |= {"n": "two", "é": {"x": 1.5}}
    write_rows(tmp_path / "a.jsonl", rows)
    assert predict("--input", tmp_path / "a.jsonl", "--output", tmp_path / "b.jsonl")[0] == 0
    assert_answered(read_rows(tmp_path / "b.jsonl"), rows, expected)
    assert predict("--input", tmp_path / "a.jsonl", "--output", tmp_path / "b.csv", "--piece_rows", "1")[0] == 0
    table = read_rows(tmp_path / "b.csv")
    assert (table[0]["tags"], table[1]["é"], table[1]["tags"]) == ('["a", null]', '{"x": 1.5}', "")


def test_parquet_keeps_its_types_and_gives_the_others_what_they_can_hold(predict, tmp_path):
    table = pyarrow.table({
        "text": pyarrow.array(TEXTS).dictionary_encode(),
        "day": pyarrow.array([datetime.date(2024, 1, 2)] * len(TEXTS)),
        "raw": pyarrow.array([b"\xff\x00"] * len(TEXTS)),
        "nested": pyarrow.array([[{"a": 1}]] * len(TEXTS)),
    }).replace_schema_metadata({"huggingface": '{"info": {"features": {}}}', "mine": "kept"})  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("b.parquet", "b.csv", "b.jsonl"):
        assert predict("--input", tmp_path / "a.parquet", "--output", tmp_path / name)[0] == 0
    answered = pyarrow.parquet.read_table(tmp_path / "b.parquet")
    assert answered.drop_columns(["label", "score"]).equals(table)
    assert answered.schema.metadata == {b"mine": b"kept"}
    assert [str(answered.schema.field(name).type) for name in ("label", "score")] == ["string", "double"]
    assert read_rows(tmp_path / "b.jsonl")[0]["nested"] == [{"a": 1}]
    row = read_rows(tmp_path / "b.csv")[0]
    assert (row["day"], row["raw"], row["nested"]) == ("2024-01-02", "/wA=", '[{"a": 1}]')


def test_jsonl_to_parquet_finds_types_that_hold_all_pieces(predict, tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"text": "parcel"}, {"text": "refund", "n": 1}, {"text": "money", "n": 1.5}])
    assert predict("--input", tmp_path / "a.jsonl", "--output", tmp_path / "b.parquet", "--piece_rows", "1")[0] == 0
    assert [row["n"] for row in read_rows(tmp_path / "b.parquet")] == [None, 1.0, 1.5]
    write_rows(tmp_path / "c.jsonl", [{"text": "parcel", "n": 1}, {"text": "refund", "n": "one"}])
    code, _, err = predict("--input", tmp_path / "c.jsonl", "--output", tmp_path / "d.parquet")
    assert code == 2
    assert "c.jsonl: rows 1 to 2: Parquet cannot hold column 'n'" in err
    assert not (tmp_path / "d.parquet").exists()


def test_pipes_take_json_lines_plain_lines_and_csv(predict, expected):
    lines = json.dumps({"text": TEXTS[0], "n": 7}) + "\n" + "i want my money back\r\n" + "{no json\n" + "42"
    code, out, err = predict("--input", "-", "--output", "-", stdin=lines.encode())
    answers = [json.loads(line) for line in out.decode().splitlines()]
    assert code == 0
    assert "rows" in err
    assert answers[0] == {"text": TEXTS[0], "n": 7, "label": expected[0]["label"], "score": answers[0]["score"]}
    assert answers[1]["score"] == pytest.approx(expected[6]["score"], abs=1e-4)
    assert [answer["text"] for answer in answers[1:]] == ["i want my money back", "{no json", "42"]

    code, out, _ = predict("--input", "-", "--input_format", "csv", "--output", "-", stdin=b"text\n parcel\n")
    assert code == 0
    header, row = csv.reader(io.StringIO(out.decode()))
    assert header == ["text", "label", "score"]
    assert row[:2] == [" parcel", expected[4]["label"]]


def test_rows_before_a_broken_one_of_a_pipe_are_answered(predict, tmp_path):
    code, out, err = predict("--input", "-", "--output", "-", stdin=b"parcel\nrefund\n \nmoney\n")
    assert code == 2
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["parcel", "refund"]
    assert err.splitlines()[-1].startswith("error: stdin: row 3: column 'text' has no text; ")

    broken = b'text\nparcel\nrefund\n"money\n'
    code, _, err = predict("--input", "-", "--input_format", "csv", "--output", tmp_path / "b.csv", stdin=broken)
    assert code == 2
    assert "the quote opened in line 4 is never closed" in err
    assert f"the answers to the 2 rows before are in {tmp_path / 'b.csv.partial'}" in err
    assert [row["text"] for row in read_rows(tmp_path / "b.csv.partial")] == ["parcel", "refund"]
    assert [path.name for path in tmp_path.iterdir()] == ["b.csv.partial"]


@pytest.mark.parametrize("output_name", ["b.csv", "b.jsonl", "b.parquet"])
def test_skip_bad_leaves_the_answer_empty_and_counts(predict, tmp_path, expected, output_name):
    rows = [{"text": text} for text in ["", TEXTS[0], " \n", None, 5, "\ud83d", TEXTS[6]]]
    if output_name == "b.parquet":
        rows = [row if isinstance(row["text"], str) and row["text"] != "\ud83d" else {"text": None} for row in rows]
    write_rows(tmp_path / "a.jsonl", rows)
    options = ["--input", tmp_path / "a.jsonl", "--output", tmp_path / output_name, "--skip_bad", "--piece_rows", "3"]
    code, _, err = predict(*options)
    assert code == 0
    assert "7 rows, 5 that cannot be answered left out" in err
    answered = read_rows(tmp_path / output_name)
    assert [bool(row["label"]) for row in answered] == [False, True, False, False, False, False, True]
    assert float(answered[6]["score"]) == pytest.approx(expected[6]["score"], abs=1e-4)
    assert answered[0]["score"] in (None, "")


CSV = "text,label\nparcel,a\nrefund,b\n"


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", 'text\nparcel\n""\n', [], "a.csv: row 2: column 'text' has no text; fix the row, or leave such"),
        ("a.jsonl", '{"text": "x"}\n{"text": 5}\n', [], "a.jsonl: row 2: column 'text' holds 5 (int), expected text"),
        ("a.csv", "text\n", [], "a.csv: a header (text) and no rows; expected at least one row"),
        ("a.jsonl", "", [], "a.jsonl: empty (0 bytes), so no rows; expected at least one"),
        ("a.csv", "text,n\nparcel,1\nrefund\n", [], "a.csv: line 3 has 1 fields where the header has 2"),
        ("a.csv", 'text\nparcel\n"refund\n', [], "a.csv: the quote opened in line 3 is never closed"),
        ("a.csv", "text,text\na,b\n", [], "the header has 2 columns named 'text'"),
        ("a.csv", "text;n\na\n", [], "a.csv: line 2 has 1 fields where the header has 2"),
        (
            "a.csv",
            b"text\nparcel\n2 \x80\n",
            [],
            "its encoding is not recognised; name it, such as --encoding cp1252",
        ),
        ("a.csv", "text\npar\0cel\n", [], "a.csv: a NUL character in line 2"),
        ("a.csv.gz", "text\nparcel\n", [], "a.csv.gz: not a readable gzip file"),
        ("a.parquet", "text\nparcel\n", [], "a.parquet: not a readable Parquet file"),
        ("a.jsonl", '{"text": "x"}\n{"text"\n', [], "a.jsonl: line 2 is not JSON"),
        ("a.jsonl", '["x"]\n', [], "a.jsonl: line 1 holds a JSON list"),
        ("a.txt", "parcel\n", [], "a.txt: unknown file type; expected .csv"),
        ("a.csv", "n,m\n1,2\n", [], "a.csv: no text column found among n, m; name it with --columns.text"),
        (
            "a.csv",
            CSV,
            ["--columns.text", "txt"],
            "columns.text: no column 'txt' among text, label; did you mean text?",
        ),
        ("a.csv", "text,label,predicted_label\na,b,c\n", [], "both columns 'label' and 'predicted_label'"),
        ("a.csv", CSV, ["--input", "FOLDER/b.csv"], "no such file: FOLDER/b.csv; did you mean a.csv?"),
        ("a.csv", CSV, ["--input", "FOLDER"], "FOLDER is a folder, expected a file"),
        ("a.csv", CSV, ["--output", "FOLDER/no/b.csv"], "the folder of the output FOLDER/no/b.csv does not exist"),
        ("a.csv", CSV, ["--output", "FOLDER/b.txt"], "b.txt: unknown file type"),
        ("a.csv", CSV, ["--output", "FOLDER/a.csv", "--overwrite"], "the output FOLDER/a.csv is the input itself"),
        ("a.csv", CSV, ["--output", "FOLDER/kept.csv"], "the output FOLDER/kept.csv exists already"),
        ("a.csv", CSV, ["--output", "-", "--output_format", "parquet"], "Parquet cannot be written to stdout"),
        ("a.csv", CSV, ["--input", "-", "--input_format", "parquet"], "stdin: Parquet cannot be read from a pipe"),
        ("a.csv", CSV, ["--input", "-"], "stdin: empty (0 bytes), so no rows"),
        ("a.csv", CSV, ["--piece_rows", "0"], "option piece_rows: expected a number of at least 1, got 0"),
        ("a.csv", CSV, ["--run", "FOLDER"], "no finished run in FOLDER"),
        ("results.json", "{", ["--run", "FOLDER"], "FOLDER/results.json is no JSON file"),
        ("a.csv", CSV, ["--max_new_tokens", "0"], "option max_new_tokens: expected a number of at least 1, got 0"),
        ("a.csv", CSV, ["--matches", "2"], "matches 2: text-classification searches no texts; leave it out"),
    ],
)
def test_a_mistake_is_one_line_and_changes_no_file(predict, tmp_path, name, content, options, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "kept.csv").write_text("precious")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    options = [option.replace("FOLDER", str(tmp_path)) for option in options]
    code, out, err = predict("--input", tmp_path / name, "--output", tmp_path / "out.csv", *options)
    assert (code, out) == (2, b"")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message.replace("FOLDER", str(tmp_path)) in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwrite_replaces_the_output_only_when_the_new_one_is_whole(predict, tmp_path, monkeypatch):
    write_rows(tmp_path / "a.csv", rows_of_texts())
    (tmp_path / "b.csv").write_text("precious")
    with monkeypatch.context() as patch:
        patch.setattr("startup_llm.training.inference.predict_answers", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict("--input", tmp_path / "a.csv", "--output", tmp_path / "b.csv", "--overwrite")
    assert (tmp_path / "b.csv").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]
    assert predict("--input", tmp_path / "a.csv", "--output", tmp_path / "b.csv", "--overwrite")[0] == 0
    assert len(read_rows(tmp_path / "b.csv")) == len(TEXTS)


def test_a_run_says_its_columns_and_a_pair_is_read_as_one(predict, tmp_path, tiny_bert_folder):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(tiny_bert_folder)
    trained = {"text_column": "one", "text_pair_column": "two"}
    (run / "results.json").write_text(json.dumps({"task": "text-classification", "config": {"data": trained}}))
    row = {"text": "parcel", "two": "refund", "one": "password"}
    write_rows(tmp_path / "a.csv", [row])
    classify = pipeline("text-classification", model=str(tiny_bert_folder), device="cpu")
    pair = classify({"text": "password", "text_pair": "refund"})
    for folder in (run, run / "model"):
        code, _, err = predict(
            "--input", tmp_path / "a.csv", "--output", tmp_path / "b.csv", "--overwrite", run=folder
        )
        assert code == 0
        assert "text from column 'one', text pair from column 'two'" in err
        assert_answered(read_rows(tmp_path / "b.csv"), [row], [pair])
    options = ["--input", tmp_path / "a.csv", "--output", tmp_path / "c.csv", "--columns.text", "text"]
    assert predict(*options, run=run)[0] == 0
    assert_answered(read_rows(tmp_path / "c.csv"), [row], [classify("parcel")[0]])


def test_several_labels_are_lists(predict, tmp_path):
    several = save_bert(
        tmp_path / "several", id2label=dict(enumerate(LABELS)), problem_type="multi_label_classification"
    )
    write_rows(tmp_path / "a.csv", rows_of_texts())
    for name in ("b.csv", "b.parquet", "b.jsonl"):
        assert predict("--input", tmp_path / "a.csv", "--output", tmp_path / name, run=several)[0] == 0
    truth = read_rows(tmp_path / "b.jsonl")
    assert list(truth[0]["scores"]) == LABELS
    assert all((score > 0.5) == (name in row["labels"]) for row in truth for name, score in row["scores"].items())
    assert read_rows(tmp_path / "b.parquet") == truth
    assert [json.loads(row["labels"]) for row in read_rows(tmp_path / "b.csv")] == [row["labels"] for row in truth]


@pytest.mark.parametrize("problem_type", ["regression", None])
def test_one_output_is_scored_as_the_pipeline_does(predict, tmp_path, problem_type):
    one = save_bert(tmp_path / "one", num_labels=1, problem_type=problem_type)
    write_rows(tmp_path / "a.csv", rows_of_texts())
    assert predict("--input", tmp_path / "a.csv", "--output", tmp_path / "b.jsonl", run=one)[0] == 0
    answers = pipeline("text-classification", model=str(one), device="cpu")(TEXTS, truncation=True)
    scores = [row["score"] for row in read_rows(tmp_path / "b.jsonl")]
    assert scores == pytest.approx([answer["score"] for answer in answers], abs=1e-4)


def test_a_checkpoint_without_a_classifier_is_refused(predict, tmp_path, tiny_checkpoint):
    (tmp_path / "a.csv").write_text(CSV)
    code, _, err = predict("--input", tmp_path / "a.csv", "--output", "-", run=tiny_checkpoint("bert"))
    assert code == 2
    assert "has no head for AutoModelForSequenceClassification (its config names BertModel)" in err


def test_a_checkpoint_of_an_unknown_architecture_is_refused(predict, tmp_path, tiny_bert_folder):
    folder = shutil.copytree(tiny_bert_folder, tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bret"}))
    (tmp_path / "a.csv").write_text(CSV)
    code, _, err = predict("--input", tmp_path / "a.csv", "--output", "-", run=folder)
    assert (code, err.count("\n")) == (2, 1)
    assert f"checkpoint {folder}: The checkpoint you are trying to load has model type `bret`" in err


def test_a_text_among_conversations_is_named_or_left_out(predict, tmp_path):
    chat = build_chat_checkpoint("gpt2", tmp_path / "chat", TEMPLATES["chatml"])
    rows = [{"messages": [{"role": "user", "content": "where is my parcel"}]}, {"messages": "refund"}]
    write_rows(tmp_path / "a.jsonl", rows)
    words = ["--task", "text-generation", "--input", tmp_path / "a.jsonl", "--output", tmp_path / "b.jsonl"]
    code, _, err = predict(*words, run=chat)
    assert (code, err.count("\n")) == (2, 1)
    assert "a.jsonl: row 2: column 'messages' holds refund (str), which does not go with a list before it" in err
    code, _, err = predict(*words, "--skip_bad", "true", "--max_new_tokens", 3, run=chat)
    assert code == 0, err
    assert [row["generated_text"] is None for row in read_rows(tmp_path / "b.jsonl")] == [False, True]


def test_as_a_command_it_answers_and_fails_with_code_2(tmp_path, tiny_bert_folder, expected):
    command = [sys.executable, str(RECIPE), "--run", str(tiny_bert_folder), "--output", "-", "--input"]
    lines = "\n".join(json.dumps({"text": text}) for text in TEXTS)
    done = subprocess.run([*command, "-"], input=lines, capture_output=True, text=True, env=ON_CPU, check=False)
    assert done.returncode == 0, done.stderr
    assert_answered([json.loads(line) for line in done.stdout.splitlines()], [{"text": t} for t in TEXTS], expected)
    failed = subprocess.run([*command, "no.csv"], capture_output=True, text=True, env=ON_CPU, check=False)
    assert (failed.returncode, failed.stdout, failed.stderr) == (
        2,
        "",
        "error: no such file: no.csv (nothing of a similar name in .)\n",
    )


def test_a_reader_that_stops_early_ends_it_without_a_traceback(tmp_path, tiny_bert_folder):
    write_rows(tmp_path / "a.csv", rows_of_texts())
    command = [sys.executable, RECIPE, "--run", tiny_bert_folder, "--input", tmp_path / "a.csv", "--output", "-"]
    process = subprocess.Popen(
        [*map(str, command), "--piece_rows", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ON_CPU
    )
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait() == 141, err
    assert "Traceback" not in err
    assert "Exception" not in err


@pytest.mark.slow
def test_one_and_two_launched_processes_write_the_same_answers(tmp_path, tiny_bert_folder, expected):
    write_rows(tmp_path / "a.csv", rows_of_texts())
    files = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for launch, file, devices in zip([LAUNCH, LAUNCH_TWO], files, ["cpu", "2 x cpu"], strict=True):
        options = ["--run", tiny_bert_folder, "--input", tmp_path / "a.csv", "--output", file, "--piece_rows", 3]
        command = list(map(str, [sys.executable, *launch, RECIPE, *options]))
        done = subprocess.run(command, capture_output=True, text=True, env=ON_CPU, check=False)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert done.stderr.count(f"float32 on {devices}\n") == 1
        assert done.stderr.count("; answers in") == 1
    assert_answered(read_rows(files[1]), rows_of_texts(), expected, label="predicted_label")
    one, two = map(read_rows, files)
    # two processes have half the cores each, and the number of threads decides in which order products are summed
    scores = [[float(row.pop("score")) for row in rows] for rows in (one, two)]
    assert one == two
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_a_mistake_is_told_once_by_two_processes(tmp_path, tiny_bert_folder):
    (tmp_path / "a.csv").write_text('text\nparcel\n""\n')
    options = ["--run", tiny_bert_folder, "--input", tmp_path / "a.csv", "--output", tmp_path / "b.csv"]
    command = list(map(str, [sys.executable, *LAUNCH_TWO, RECIPE, *options]))
    done = subprocess.run(command, capture_output=True, text=True, env=ON_CPU, check=False)
    assert done.returncode != 0
    assert done.stderr.count("has no text; fix the row") == 1
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "b.csv").exists()


@pytest.fixture(scope="module")
def tiny_vit_folder(tmp_path_factory):
    from startup_llm.models.scratch.image import build_image_processor

    folder = tmp_path_factory.mktemp("checkpoints") / "vit"
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=8, patch_size=4,
        initializer_range=0.4, id2label=dict(enumerate(LABELS)),
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    build_image_processor(8).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for number in range(3):
        pixels = torch.randint(0, 256, (8, 8), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / ("inner" if number == 2 else "") / f"{number}.png")
    return folder


def test_a_folder_of_images_is_answered_file_by_file(predict, tiny_vit_folder, photos, tmp_path):
    code, _, err = predict(
        *["--input", photos, "--output", tmp_path / "out.csv", "--task", "image-classification"], run=tiny_vit_folder
    )
    assert code == 0, err
    rows = read_rows(tmp_path / "out.csv")
    assert [row["file"] for row in rows] == ["0.png", "1.png", "inner/2.png"]
    classify = pipeline("image-classification", model=str(tiny_vit_folder), device="cpu")
    for row in rows:
        best = classify(str(photos / row["file"]))[0]
        assert row["label"] == best["label"]
        assert float(row["score"]) == pytest.approx(best["score"], abs=1e-4)


def test_a_broken_image_is_named_or_skipped(predict, tiny_vit_folder, photos, tmp_path):
    (photos / "1.png").write_bytes(b"")
    (tmp_path / "rows.jsonl").write_text('{"image": "photos/0.png"}\n{"image": "photos/1.png"}\n')
    words = ["--input", tmp_path / "rows.jsonl", "--output", "-", "--task", "image-classification"]
    code, _, err = predict(*words, run=tiny_vit_folder)
    assert code == 2
    assert f"row 2: column 'image' names {photos}/1.png: 0 bytes; fix the row" in err
    code, out, _ = predict(*words, "--skip_bad", "true", run=tiny_vit_folder)
    assert code == 0
    assert [json.loads(line)["label"] is None for line in out.splitlines()] == [False, True]


def test_prompts_are_continued_as_by_generate(predict, tiny_checkpoint, tmp_path):
    folder = tmp_path / "gpt"
    shutil.copytree(tiny_checkpoint("gpt2"), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = ["where is my parcel", "refund"]
    code, out, err = predict(
        *["--input", "-", "--output", "-", "--task", "text-generation"], run=folder, stdin="\n".join(prompts).encode()
    )
    assert code == 0, err
    answers = [json.loads(line)["generated_text"] for line in out.splitlines()]
    write = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = write(prompt, max_new_tokens=20, do_sample=False, return_full_text=False)[0]["generated_text"]
        assert expected
        assert answer.startswith(expected)


FORMULAS = ["=1+1", "+49 171", "-x", "@SUM(A1)", "\t=1", "\r=1", "a=1", "-5", "+4.2e-3", "-"]


@pytest.mark.parametrize("input_name", ["a.csv", "a.jsonl"])
def test_cells_that_a_spreadsheet_would_run_are_quoted_in_tables_unless_raw(predict, tmp_path, input_name):
    rows = [{"=note": cell, "number": -5, "text": "hello"} for cell in FORMULAS]
    source = tmp_path / input_name
    write_rows(source, rows)
    quoted = ["'=1+1", "'+49 171", "'-x", "'@SUM(A1)", "'\t=1", "'\r=1", "a=1", "-5", "+4.2e-3", "'-"]
    calls = {"b.csv": [], "b.tsv": [], "raw.csv": ["--raw"], "b.jsonl": []}
    for name, options in calls.items():
        code, _, err = predict("--input", source, "--output", tmp_path / name, "--columns.text", "text", *options)
        assert code == 0, err
        answered = read_rows(tmp_path / name)
        is_quoted = not options and not name.endswith(".jsonl")
        assert [row["'=note" if is_quoted else "=note"] for row in answered] == (quoted if is_quoted else FORMULAS)
        assert {str(row["number"]) for row in answered} == {"-5"}
