import gzip
import hashlib
import json

import datasets
import pytest

from startup_llm.config import DataConfig
from startup_llm.data import sources
from startup_llm.data.sources import load_splits
from startup_llm.errors import UserError

CSV = "text,label\nhello there,a\ngood bye,b\n"


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


def load_train(path):
    return load_splits(DataConfig(train_file=path)).splits["train"]


def expect_error(path, *parts):
    with pytest.raises(UserError) as raised:
        load_train(path)
    message = str(raised.value)
    for part in parts:
        assert part in message
    assert "\n" not in message


def test_csv_cells_stay_the_strings_they_are(write):
    train = load_train(write("a.csv", 'text,label\n0012,NA\nnull,1.0\n"two\nlines, ""quoted""",\n'))
    assert train["text"][:] == ["0012", "null", 'two\nlines, "quoted"']
    assert train["label"][:] == ["NA", "1.0", ""]


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.json", "a.jsonl.gz", "a.parquet", "A.CSV"]
)
def test_every_format_gives_the_same_rows(write, tmp_path, name):
    expected = {"text": ["hello there", "good bye"], "label": ["a", "b"]}
    if "parquet" in name:
        datasets.Dataset.from_dict(expected).to_parquet(tmp_path / name)
        path = str(tmp_path / name)
    else:
        content = CSV.replace(",", "\t") if ".tsv" in name else CSV
        if "json" in name:
            rows = zip(expected["text"], expected["label"], strict=True)
            content = "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
        path = write(name, gzip.compress(content.encode()) if name.endswith(".gz") else content)
    assert load_train(path).to_dict() == expected


def test_several_files_of_a_split_are_joined_and_hashed(write):
    first, second = write("1.csv", CSV), write("2.csv", "label,text\nc,third one\n")
    loaded = load_splits(DataConfig(train_file=[first, second], test_file=first))
    assert loaded.splits["train"]["label"][:] == ["a", "b", "c"]
    assert loaded.sources[0]["rows"] == 3
    assert loaded.sources[1]["files"] == [
        {"path": first, "sha256": hashlib.sha256(CSV.encode()).hexdigest(), "rows": 2}
    ]


def test_byte_order_mark_is_accepted_silently(write):
    assert load_train(write("a.csv", b"\xef\xbb\xbf" + CSV.encode())).column_names == ["text", "label"]


def test_windows_line_ends_and_blank_lines_are_accepted(write):
    assert load_train(write("a.csv", CSV.replace("\n", "\r\n") + "\r\n\r\n")).num_rows == 2


def test_cells_longer_than_the_csv_module_allows_by_default_are_read(write):
    assert len(load_train(write("a.csv", f"text,label\n{'x' * 200_000},a\n"))["text"][0]) == 200_000


def test_missing_file_names_the_nearest(write, tmp_path):
    write("reviews.csv", CSV)
    expect_error(str(tmp_path / "review.csv"), "review.csv", "did you mean reviews.csv?")


def test_missing_folder_of_a_file_is_named(tmp_path):
    expect_error(str(tmp_path / "nowhere" / "a.csv"), "nowhere", "does not exist")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", "", ["a.csv", "empty (0 bytes)"]),
        ("a.csv", "\n \n", ["a.csv", "no text"]),
        ("a.csv", "text,label\n", ["a.csv", "a header (text, label) and no rows"]),
        ("a.csv", "text,label\na,b\nc\n", ["line 3 has 1 fields where the header has 2"]),
        ("a.csv", 'text,label\n"a\nb",x\nc,d,e\n', ["line 4 has 3 fields where the header has 2"]),
        ("a.csv", "text,label,text\na,b,c\n", ["2 columns named 'text'"]),
        ("a.docx", "x", ["a.docx", "unknown file type", ".parquet"]),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"\n', ["line 2 is not JSON", '{"text": "b"']),
        ("a.jsonl", '{"text": "a"}\n[1]\n', ["line 2 holds a JSON list"]),
        ("a.jsonl", '{"text": "a"}\n\n{"text": 5}\n', ["line 3", "'text' is 5 (int)", '"a" (str)']),
        ("a.jsonl", '{"label": 1}\n{"label": 99999999999999999999}\n', ["line 2", "99999999999999999999"]),
        ("a.jsonl", '{"label": [1]}\n{"label": ["a"]}\n', ["line 2", "'label' is [\"a\"]"]),
        ("a.jsonl", '{"t": "a"}\n{"t": "\\ud83d"}\n', ["line 2", "surrogate"]),
        ("a.csv.gz", b"\x1f\x8bnonsense", ["a.csv.gz", "not a readable gzip file"]),
        ("a.csv.gz", gzip.compress(CSV.encode() * 99, mtime=0)[:-20], ["a.csv.gz", "not a readable gzip file"]),
        ("a.parquet", b"PAR1nonsense", ["a.parquet", "not a readable Parquet file"]),
    ],
)
def test_broken_file_is_explained(write, name, content, parts):
    expect_error(write(name, content), *parts)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('good,a\n"never closed,a\nmore,b\n', 3),
        ('good,a\n"never closed,a\n"fine",b\n', 3),
        ('good,a\n"never closed,a\nmore,"fine"\n', 3),
        ('good,a\n"two\nlines","never closed\nmore,b\n', 4),
        ('"quote" in the middle,a\n', 2),
        ('"never closed ""\nmore,b\n', 2),
    ],
)
def test_broken_quote_is_found_at_the_line_where_it_opens(write, rows, line):
    expect_error(write("a.csv", "text,label\n" + rows), f"the quote opened in line {line} ")


def test_what_was_recognised_in_a_file_is_noted(write):
    train = write("a.csv", CSV.replace(",", ";").encode("utf-16"))
    loaded = load_splits(DataConfig(train_file=train, test_file=write("b.csv", CSV)))
    assert loaded.splits["train"].to_dict() == loaded.splits["test"].to_dict()
    note = "read as utf-16 (--data.encoding names another encoding), columns separated by ';'."
    assert loaded.notes == [f"{train}: {note}"]


def test_json_rows_may_have_different_keys(write):
    train = load_train(write("a.jsonl", '{"text": "a", "x": 1}\n{"text": "b", "y": 2}\n'))
    assert train.to_dict() == {"text": ["a", "b"], "x": [1, None], "y": [None, 2]}


def test_csv_files_of_a_split_need_the_same_columns(write):
    with pytest.raises(UserError, match=r"2\.csv: columns text, x, but .*1\.csv .* has text, label"):
        load_splits(DataConfig(train_file=[write("1.csv", CSV), write("2.csv", "text,x\na,b\n")]))


def test_test_file_without_train_file_is_refused(write):
    with pytest.raises(UserError, match=r"data\.test_file .* without data\.train_file"):
        load_splits(DataConfig(test_file=write("a.csv", CSV)))


@pytest.mark.parametrize("validation", ["validation.csv", "valid.csv", "val.csv", "dev.csv"])
def test_folder_finds_splits_by_their_usual_names(write, tmp_path, validation):
    for name in ("train.csv", validation, "test.csv", "notes.txt"):
        write(name, CSV)
    assert list(load_splits(DataConfig(data_dir=str(tmp_path))).splits) == ["train", "validation", "test"]


def test_folder_replaces_the_hub_dataset_and_says_so(write, tmp_path):
    write("train.csv", CSV)
    loaded = load_splits(DataConfig(dataset="someone/something", data_dir=str(tmp_path)))
    assert loaded.splits["train"].num_rows == 2
    assert "someone/something" in loaded.notes[0]


def test_folder_joins_shards_and_notices_a_missing_one(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
    rows.to_parquet(tmp_path / "train-00000-of-00002.parquet")
    with pytest.raises(UserError, match="part 00001 of 00002 of train is missing"):
        load_splits(DataConfig(data_dir=str(tmp_path)))
    rows.to_parquet(tmp_path / "train-00001-of-00002.parquet")
    assert load_splits(DataConfig(data_dir=str(tmp_path))).splits["train"].num_rows == 4


def test_folder_without_split_files_lists_what_it_holds(write, tmp_path):
    write("things.csv", CSV)
    with pytest.raises(UserError, match=r"no train file found, only: things\.csv"):
        load_splits(DataConfig(data_dir=str(tmp_path)))


def test_two_files_for_one_split_are_ambiguous(write, tmp_path):
    write("train.csv", CSV)
    write("train.tsv", CSV)
    with pytest.raises(UserError, match=r"several files for one split \(train\.csv, train\.tsv\)"):
        load_splits(DataConfig(data_dir=str(tmp_path)))


def test_missing_folder_names_the_nearest(write, tmp_path):
    write("reviews/train.csv", CSV)
    with pytest.raises(UserError, match=r"no such folder: .*review; did you mean reviews\?"):
        load_splits(DataConfig(data_dir=str(tmp_path / "review")))


def test_folder_and_files_together_are_refused(write, tmp_path):
    with pytest.raises(UserError, match=r"data\.data_dir .* data\.train_file"):
        load_splits(DataConfig(data_dir=str(tmp_path), train_file=write("train.csv", CSV)))


def test_hidden_test_labels_make_the_validation_split_the_test(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    for split, labels in (("train", [0, 1]), ("validation", [1, 0]), ("test", [-1, -1])):
        rows = {"text": [f"{split} {i}" for i in range(2)], "label": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    loaded = load_splits(DataConfig(data_dir=str(tmp_path)))
    assert list(loaded.splits) == ["train", "test"]
    assert loaded.splits["test"]["text"][:] == ["validation 0", "validation 1"]
    assert loaded.splits["test"].features["label"].names == ["no", "yes"]
    assert "labels are hidden" in loaded.notes[0]
    assert [record["split"] for record in loaded.sources] == ["train", "test"]


def test_shipped_dataset_is_loaded_by_name_and_by_default(write, tmp_path, monkeypatch):
    write("helpdesk/train.jsonl", '{"text": "a", "label": "b"}\n')
    monkeypatch.setattr(sources, "_builtin_folder", lambda: tmp_path)
    for data in (DataConfig(), DataConfig(dataset="helpdesk")):
        loaded = load_splits(data)
        assert loaded.splits["train"].to_dict() == {"text": ["a"], "label": ["b"]}
        assert loaded.sources[0]["dataset"] == "helpdesk"
        assert loaded.sources[0]["files"][0]["path"] == "train.jsonl"


@pytest.fixture
def hub_dataset(tmp_path, monkeypatch):
    """A dataset in the Hub's layout, in a local folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "glue"
    folder.mkdir()
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]})
    lines = ["---", "configs:"]
    for subset, splits in (("sst2", ["train", "validation", "test"]), ("mnli", ["train", "validation_matched"])):
        lines += [f"- config_name: {subset}", "  data_files:"]
        for split in splits:
            rows.to_parquet(folder / subset / f"{split}.parquet")
            lines += [f"  - split: {split}", f"    path: {subset}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return str(folder)


def test_hub_splits_and_subset_are_loaded(hub_dataset):
    loaded = load_splits(DataConfig(dataset=hub_dataset, subset="sst2"))
    assert list(loaded.splits) == ["train", "validation", "test"]
    assert loaded.sources[0]["subset"] == "sst2"
    assert loaded.sources[0]["fingerprint"]


def test_hub_split_names_are_followed_and_unused_ones_noted(hub_dataset):
    loaded = load_splits(DataConfig(dataset=hub_dataset, subset="mnli"))
    assert list(loaded.splits) == ["train"]
    assert "validation_matched" in loaded.notes[0]
    loaded = load_splits(DataConfig(dataset=hub_dataset, subset="mnli", test_split="validation_matched"))
    assert loaded.sources[1]["hub_split"] == "validation_matched"
    loaded = load_splits(DataConfig(dataset=hub_dataset, subset="sst2", test_split="validation"))
    assert list(loaded.splits) == ["train", "test"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"subset": "sst"}, ["no subset 'sst'", "sst2, mnli", "did you mean sst2?"]),
        ({}, ["several subsets", "--data.subset: sst2, mnli"]),
        (
            {"subset": "mnli", "test_split": "validation_mached"},
            ["no split 'validation_mached'", "train, validation_matched"],
        ),
        ({"subset": "sst2", "test_split": "test", "validation_split": "test"}, ["cannot serve twice"]),
    ],
)
def test_hub_names_that_do_not_exist_are_listed(hub_dataset, options, parts):
    with pytest.raises(UserError) as raised:
        load_splits(DataConfig(dataset=hub_dataset, **options))
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            ConnectionError("Couldn't reach 'helpdesc' on the Hub"),
            ["cannot be reached", "did you mean helpdesk?", "data_dir"],
        ),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'helpdesc' doesn't exist"),
            ["no dataset helpdesc", "helpdesk"],
        ),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'x' is a gated dataset"), ["gated", "hf auth login"]),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), ["Python code", "--data.data_dir"]),
        (ValueError("odd\nthing"), ["cannot be loaded: odd thing"]),
    ],
)
def test_hub_failure_is_one_clear_line(write, tmp_path, monkeypatch, error, parts):
    def fail(*args, **options):
        raise error

    write("helpdesk/train.jsonl", '{"text": "a", "label": "b"}\n')
    monkeypatch.setattr(sources, "_builtin_folder", lambda: tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError) as raised:
        load_splits(DataConfig(dataset="helpdesc"))
    for part in parts:
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)


def test_file_given_as_dataset_points_to_train_file():
    with pytest.raises(UserError, match=r"--data\.train_file reviews\.csv"):
        load_splits(DataConfig(dataset="reviews.csv"))
