"""Publishing a data set over real HTTP, and what others can do with what was published."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import mlcroissant
import pytest
from huggingface_hub import DatasetCard, constants, snapshot_download
from loopback_hub import TOKEN, LoopbackHub

from startup_llm.config import LabelledTextData, PushConfig
from startup_llm.errors import UserError
from startup_llm.hub import push as hub_push
from startup_llm.tasks.vision.options import LabelledImageData

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "data_cards"
REPO = "datasets/me/mine"
FILES = {"README.md", "audit.json", "croissant.json", "data/train-00000-of-00001.parquet"}
WORDS = [
    "the parcel is late",
    "my card was charged twice",
    "how do I change my plan",
    "the app does not open any more",
]
ROWS = [{"text": f"{WORDS[i % 4]} since day {i * 37}", "label": "ab"[i % 2]} for i in range(40)]
TEST_ROWS = [{"text": f"nobody answers about order {chr(97 + i) * 5}", "label": "ab"[i % 2]} for i in range(10)]


def write(folder: Path, **splits: list[dict]) -> LabelledTextData:
    """Write a file for each split and return the `data` section that names the folder."""
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return LabelledTextData(data_dir=str(folder))


@pytest.fixture
def rows(tmp_path: Path) -> LabelledTextData:
    """Labelled texts in two splits without a fault."""
    return write(tmp_path / "rows", train=ROWS, test=TEST_ROWS)


@pytest.fixture
def push(hub: LoopbackHub) -> Callable[..., hub_push.Push]:
    """Publish rows from this process."""

    def publish(data: LabelledTextData, **options: object) -> hub_push.Push:
        return hub_push.push(PushConfig("me/mine", dataset=True, data=data, **options), CARDS, hub.url)

    return publish


@pytest.fixture
def preview(hub: LoopbackHub, tmp_path: Path) -> Callable[..., Path]:
    """Write what would be published, and return the folder."""

    def write_it(data: LabelledTextData, name: str = "dry", **options: object) -> Path:
        config = PushConfig("me/mine", dataset=True, data=data, dry_run=str(tmp_path / name), **options)
        hub_push.preview(config, CARDS, hub.url)
        return tmp_path / name

    return write_it


def read(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def load(folder: Path, tmp_path: Path) -> datasets.DatasetDict:
    return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


def test_what_is_published_is_the_dry_run_and_loads_with_its_splits(hub, rows, push, preview, tmp_path):
    shown = preview(rows, license="cc-by-4.0")
    done = push(rows, license="cc-by-4.0")
    assert hub.files(REPO) == read(shown)
    assert set(read(shown)) == FILES | {"data/test-00000-of-00001.parquet"}
    assert hub.is_private(REPO)
    assert done.url == f"{hub.url}/datasets/me/mine/commit/{done.commit}"
    pulled = snapshot_download(
        "me/mine", repo_type="dataset", endpoint=hub.url, token=TOKEN, local_dir=tmp_path / "got"
    )
    loaded = load(Path(pulled), tmp_path)
    assert {split: part.to_list() for split, part in loaded.items()} == {"train": ROWS, "test": TEST_ROWS}
    assert load(shown, tmp_path)["test"].to_list() == TEST_ROWS


def test_a_new_card_tells_what_the_audit_found_and_the_hub_takes_it(hub, tmp_path, preview, monkeypatch):
    repeated = [*ROWS, ROWS[0], {"text": "broken \u00c3\u00a9 text", "label": "a"}]
    shown = preview(write(tmp_path / "rows", train=repeated, test=TEST_ROWS), license="cc-by-nc-4.0")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    card = DatasetCard.load(shown / "README.md")
    card.validate()
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.language == ["en"]
    assert card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["text-classification"]
    assert "| duplicates | 1 | texts that repeat an earlier one of the split |" in card.text
    assert "| odd-characters | 1 |" in card.text
    assert re.search(r"No findings of: .*personal-data", card.text)
    assert "2 labels in training: `a` (22), `b` (20)." in card.text
    audit = json.loads((shown / "audit.json").read_text())
    assert audit["statistics"]["rows"] == {"train": 42, "test": 10}


@pytest.mark.parametrize(
    ("train", "kind"),
    [
        ([*ROWS, {"text": "write to jane.roe@example.org please", "label": "a"}], "personal-data"),
        ([*ROWS, TEST_ROWS[0]], "duplicates-across-splits"),
        ([*ROWS, {**TEST_ROWS[1], "text": TEST_ROWS[1]["text"] + " please"}], "near-duplicates-across-splits"),
    ],
)
def test_personal_data_and_leaks_stop_a_publication_until_they_are_allowed_by_name(
    hub, tmp_path, push, preview, train, kind
):
    data = write(tmp_path / "rows", train=train, test=TEST_ROWS)
    for publish in (push, preview):
        with pytest.raises(
            UserError, match=f"the audit stops .*{kind}: 1, such as train row 41: .*--allow_findings {kind}$"
        ):
            publish(data, allow_findings="groups-across-splits" if kind == "none" else None)
    assert hub.requests == []
    assert not (tmp_path / "dry").exists()
    push(data, allow_findings=kind)
    assert f"as allowed by the publisher: {kind}." in hub.files(REPO)["README.md"].decode()


def test_an_example_is_masked_in_the_refusal_and_in_what_is_published(hub, tmp_path, push):
    data = write(tmp_path / "rows", train=[*ROWS, {"text": "mail jane.roe@example.org now", "label": "a"}])
    with pytest.raises(UserError, match="mail <EMAIL> now") as refused:
        push(data)
    assert "jane.roe" not in str(refused.value)
    push(data, allow_findings="personal-data")
    files = hub.files(REPO)
    assert b"jane.roe" not in files["README.md"] + files["audit.json"] + files["croissant.json"]


def test_personal_data_in_any_column_stops_it(tmp_path, push):
    marked = [{**row, "writer": "jane.roe@example.org" if i == 3 else "none"} for i, row in enumerate(ROWS)]
    data = write(tmp_path / "rows", train=marked)
    with pytest.raises(UserError, match="personal-data: 1, such as train row 4"):
        push(LabelledTextData(data_dir=data.data_dir, text_column="text", label_column="label"))


def test_a_group_on_two_sides_stops_it(tmp_path, push):
    train, test = ([{**row, "customer": i} for i, row in enumerate(part)] for part in (ROWS, TEST_ROWS))
    data = write(tmp_path / "rows", train=train, test=test)
    with pytest.raises(UserError, match="groups-across-splits: 10, such as"):
        push(LabelledTextData(data_dir=data.data_dir, group_column="customer"))


def test_a_second_push_sends_nothing_and_a_person_s_words_stay(hub, tmp_path, rows, push):
    first = push(rows)
    hub.requests.clear()
    assert push(rows).commit == first.commit
    assert {method for method, _ in hub.requests} == {"GET", "HEAD"}
    hub.commit(REPO, {"README.md": hub.files(REPO)["README.md"] + b"\nAsk Jo.\n"})
    write(tmp_path / "rows", train=ROWS[:30])
    assert set(push(rows).changed) == FILES
    card = hub.files(REPO)["README.md"].decode()
    assert card.endswith("Ask Jo.\n")
    assert "30 train, 10 test" in card


def test_branch_pull_request_and_visibility_are_as_for_a_model(hub, tmp_path, rows, push):
    first = push(rows)
    write(tmp_path / "rows", train=ROWS[:30])
    on_branch = push(rows, branch="smaller")
    assert hub.refs(REPO) == {"main": first.commit, "smaller": on_branch.commit}
    proposal = push(rows, pull_request=True)
    assert proposal.url == f"{hub.url}/datasets/me/mine/discussions/1"
    assert push(rows, pull_request=True).url == proposal.url
    assert hub.refs(REPO)["main"] == first.commit
    hub.create("datasets/me/open", private=False)
    with pytest.raises(UserError, match="me/open is public: everybody would see this data set; say so with --public"):
        hub_push.push(PushConfig("me/open", dataset=True, data=rows), CARDS, hub.url)


def test_a_model_and_a_data_set_of_one_name_stand_beside_each_other(hub, rows, push):
    before = hub.create("me/mine", files={"config.json": b"{}"})
    push(rows)
    assert hub.refs("me/mine") == {"main": before}
    assert set(hub.files(REPO)) > FILES


def test_the_shipped_messages_are_published_with_the_card_that_a_person_wrote(preview, tmp_path):
    shown = preview(LabelledTextData(), allow_findings="personal-data,near-duplicates-across-splits")
    card = DatasetCard.load(shown / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert "Every message was written by a large language model" in card.text
    assert {split: len(part) for split, part in load(shown, tmp_path).items()} == {
        "train": 1500, "validation": 300, "test": 900
    }  # fmt: skip


def test_a_published_card_may_be_the_card_of_the_next_data_set_by_its_person_s_words(preview, rows, tmp_path):
    first = preview(rows)
    card = tmp_path / "card.md"
    card.write_text((first / "README.md").read_text() + "\nAsk Jo about these rows.\n")
    text = (preview(rows, name="next", card=str(card)) / "README.md").read_text()
    assert "Ask Jo about these rows." in text
    assert (text.count("## Audit"), text.count("startup-llm:begin")) == (1, 1)


@pytest.mark.parametrize(
    "row",
    [
        {"de": "Das Haus ist alt und klein.", "en": "The house is old and small."},
        {"messages": [{"role": "user", "content": "Are you there?"}, {"role": "assistant", "content": "Yes, I am."}]},
        {"tokens": ["Rome", "is", "old", "and", "large"], "tags": ["B-loc", "O", "O", "O", "O"]},
        {"text": "a text", "score": 1.5, "count": 2, "good": True},
    ],
)
def test_croissant_metadata_is_valid_and_gives_the_rows_of_any_form(preview, tmp_path, row):
    shown = preview(write(tmp_path / "rows", train=[row, row]), license="mit")
    described = mlcroissant.Dataset(jsonld=shown / "croissant.json")
    assert not described.metadata.issues.errors
    assert described.metadata.license == ["mit"]
    records = list(described.records("train"))
    assert [set(record) for record in records] == [{f"train/{column}" for column in row}] * 2
    assert load(shown, tmp_path)["train"][0] == row
    text = json.dumps(row)
    for record in records:
        assert all(value.decode() in text for value in record.values() if isinstance(value, bytes))


def test_a_missing_library_is_named_with_its_extra_before_a_row_is_read(preview, rows, monkeypatch):
    really = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlcroissant" else really(name))
    with pytest.raises(UserError, match=r"written by mlcroissant; pip install 'startup-llm\[publish\]'"):
        preview(rows)


def test_images_are_published_once_a_person_has_looked_at_them(preview, tmp_path):
    digits = LabelledImageData(dataset="digits", max_train_rows=30, max_test_rows=20)
    with pytest.raises(UserError, match=r"not-searched: 50\); .*--allow_findings not-searched$"):
        preview(digits, task="image-classification")
    shown = preview(digits, task="image-classification", allow_findings="not-searched")
    loaded = load(shown, tmp_path)
    assert loaded["test"].features["label"].names == list("0123456789")
    assert loaded["test"][0]["image"].size == (8, 8)
    record = next(iter(mlcroissant.Dataset(jsonld=shown / "croissant.json").records("test")))
    assert record["test/image"].size == (8, 8)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dataset", "--run", "runs/x"], "--dataset and --run runs/x given; expected"),
        ([], "neither --run nor --dataset given; expected"),
        (["--dataset", "--allow_findings", "personal"], "allow_findings: no kind 'personal', only personal-data"),
        (["--dataset", "--card", "none.md"], "card: no such file: none.md"),
        (["--dataset"], "the audit stops this publication (near-duplicates-across-splits: 1, such as train row"),
    ],
)
def test_the_recipe_ends_with_one_line_and_exit_code_two(hub, monkeypatch, capsys, words, told):
    monkeypatch.setattr(sys, "argv", ["push.py", "--repo", "me/mine", *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "recipes" / "push.py"), run_name="__main__")
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert told in lines[0]
    assert hub.requests == []
