import csv
import dataclasses
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import build_tokenizer

from startup_llm.audit.audit import audit_before_publishing, audit_rows, audit_task_data, read_kinds
from startup_llm.audit.checkpoint_languages import describe_language_gap
from startup_llm.audit.cleaning import FIXABLE, audit_copies, name_copies, write_cleaned_copies
from startup_llm.audit.label_faults import find_spellings, find_suspect_labels
from startup_llm.audit.near_duplicates import compute_similarities, find_near_duplicates, normalise_text
from startup_llm.audit.odd_texts import find_odd_characters, repair_characters
from startup_llm.audit.personal_data import find_personal_data, is_payment_card, mask_text, show_text
from startup_llm.audit.report import check_output, render_markdown, summarize, write_audit
from startup_llm.audit.text_features import load_text_encoder
from startup_llm.config import AuditConfig, LabelledTextData, ModelConfig
from startup_llm.data.classification import load_labelled_text
from startup_llm.data.sources import load_splits
from startup_llm.errors import UserError
from startup_llm.hub.dataset_figures import load_rows, render_figures
from startup_llm.models.checkpoints import Checkpoint
from startup_llm.run_folder import RunFolder
from startup_llm.tasks.text_to_text.options import TextPairData
from startup_llm.tasks.text_to_text.rows import load_text_to_text
from startup_llm.tasks.vision.labelled_images import load_labelled_images
from startup_llm.tasks.vision.options import LabelledImageData

RECIPE = Path(__file__).parents[2] / "recipes" / "audit.py"
TOPICS = {"refund": "money back for", "parcel": "courier lost", "password": "login rejects"}
THINGS = re.findall(
    r"\w+",
    """lamp kettle blanket mirror bicycle pillow camera ladder teapot carpet violin compass hammock toaster
    wallet scarf helmet bucket candle trumpet drawer hammer curtain suitcase notebook keyboard umbrella
    basket saddle anchor feather garden window orange yellow purple silver golden wooden broken little heavy
    empty yesterday tomorrow morning evening winter summer weather mountain river forest castle village
    station harbour bridge market kitchen""",
)


def build_clean_rows(count=240):
    """Return rows of three labels, no two of them alike, no fault in any."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(count):
        label = sorted(TOPICS)[number % 3]
        things = generator.choice(THINGS, 6, replace=False)
        text = f"{things[0]} {things[1]}, {TOPICS[label]} the {things[2]} {things[3]} and {things[4]} {things[5]}"
        rows.append({"text": text, "label": label})
    return rows


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def audit(folder, train, test=None, *, config=None, **data):
    files = {"train_file": write_csv(folder / "train.csv", train)}
    if test:
        files["test_file"] = write_csv(folder / "test.csv", test)
    return audit_rows(AuditConfig(data=LabelledTextData(**files, **data), **(config or {})))


def found_rows(result, kind, split="train"):
    finding = result.findings.get(kind)
    positions = [] if finding is None else finding.positions
    return {int(result.rows.row[i]) for i in positions if result.rows.split[i] == split}


PLANTS = {
    "empty-texts": ({"text": " \t "}, {3}),
    "missing-labels": ({"label": " "}, {3}),
    "label-spelling": ({"label": "Refund "}, {3}),
    "rare-labels": ({"label": "praise"}, {3}),
    "odd-characters": ({"text": "the cafÃ© never sent my blue umbrella stand"}, {3}),
    "personal-data": ({"text": "write to jo.doe@example.org about my umbrella stand"}, {3}),
    "other-languages": ({"text": "Warum ist mein Regenschirmständer noch nicht bei mir angekommen?"}, {3}),
    "long-texts": ({"text": "umbrella stand number " + " ".join(map(str, range(400)))}, {3}),
}


def test_clean_rows_have_no_finding(tmp_path):
    result = audit(tmp_path, build_clean_rows()[:200], build_clean_rows()[200:])
    assert {kind: found_rows(result, kind) for kind in result.findings} == {}


@pytest.mark.parametrize("kind", PLANTS)
def test_planted_row_is_found_and_no_other(tmp_path, kind):
    rows = build_clean_rows(90)
    change, expected = PLANTS[kind]
    rows[2] = {**rows[2], "label": "refund", **change}
    result = audit(tmp_path, rows)
    assert found_rows(result, kind) == expected
    flagged = set().union(*(found_rows(result, other) for other in result.findings if other != "imbalance"))
    assert flagged == expected


def test_copies_are_found_in_and_across_splits(tmp_path):
    train, test = build_clean_rows()[:200], build_clean_rows()[200:]
    train[100] = {**train[0], "text": train[0]["text"].upper()}
    train[101] = {**train[1], "text": train[1]["text"].replace("and", "&", 1)}
    train[102] = test[5]
    train[103] = {**test[6], "text": test[6]["text"] + " please"}
    result = audit(tmp_path, train, test)
    assert found_rows(result, "duplicates") == {101}
    assert found_rows(result, "near-duplicates") == {102}
    assert found_rows(result, "duplicates-across-splits") == {103}
    assert found_rows(result, "near-duplicates-across-splits") == {104}
    assert found_rows(result, "contradicting-labels") == set()
    against = result.findings["duplicates-across-splits"].examples[0]["against"]
    assert (against["split"], against["row"]) == ("test", 6)


def test_contradicting_labels_name_both_rows(tmp_path):
    rows = build_clean_rows(90)
    rows[10] = {"text": rows[0]["text"], "label": rows[1]["label"]}
    rows[20] = {"text": rows[3]["text"] + "!", "label": rows[4]["label"]}
    result = audit(tmp_path, rows)
    assert found_rows(result, "contradicting-labels") == {1, 11, 4, 21}
    assert result.findings["contradicting-labels"].details["pairs"] == 2


def test_spelling_of_a_label_is_no_contradiction(tmp_path):
    rows = build_clean_rows(90)
    rows[10] = {"text": rows[0]["text"], "label": rows[0]["label"].upper()}
    assert found_rows(audit(tmp_path, rows), "contradicting-labels") == set()


def test_wrong_labels_come_first_among_the_suspects(tmp_path):
    rows = build_clean_rows()
    for i in (30, 61, 122):
        rows[i] = {
            **rows[i],
            "label": {"refund": "parcel", "parcel": "password", "password": "refund"}[rows[i]["label"]],
        }
    result = audit(tmp_path, rows)
    assert found_rows(result, "suspect-labels") == {31, 62, 123}
    assert result.findings["suspect-labels"].examples[0]["probable_label"] in TOPICS


def test_groups_imbalance_and_unseen_labels(tmp_path):
    train, test = build_clean_rows()[:200], build_clean_rows()[200:]
    train = [{**row, "customer": f"c{i}"} for i, row in enumerate(train)]
    test = [{**row, "customer": f"t{i}"} for i, row in enumerate(test)]
    test[3]["customer"] = "c7"
    train[5]["label"] = train[6]["label"] = "praise"
    test[9]["label"] = "scolding"
    result = audit(tmp_path, train, test, group_column="customer")
    assert found_rows(result, "groups-across-splits", "test") == {4}
    assert result.findings["imbalance"].details["labels"] == {"praise": 2}
    assert found_rows(result, "unseen-labels", "test") == {10}
    assert "c7" not in json.dumps(result.to_json()["findings"][-1]["examples"])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("jo.doe+x@mail.example.co.uk", "email"),
        ("4111 1111 1111 1111", "payment_card"),
        ("378282246310005", "payment_card"),
        ("GB82 WEST 1234 5698 7654 32", "iban"),
        ("DE89370400440532013000", "iban"),
        ("192.168.1.254", "ip_address"),
        ("2001:db8::8a2e:370:7334", "ip_address"),
        ("+44 20 7946 0958", "phone"),
        ("020 7946 0958", "phone"),
        ("(555) 555-0199", "phone"),
        ("+290 22158", "phone"),
        ("0049 30 901820", "phone"),
        ("01.02.03.04.05", "phone"),
    ],
)
def test_personal_data_is_found_and_masked(text, kind):
    sentence = f"It is {text}, I think"
    assert {name: found.tolist() for name, found in find_personal_data(["nothing", sentence]).items()} == {kind: [1]}
    assert mask_text(sentence) == f"It is <{kind.upper()}>, I think"


@pytest.mark.parametrize(
    "text",
    [
        "order 60417 of 2024-01-02 at 12:30:45",
        "on 01.02.2024 I paid $1,234,567.00",
        "4111 1111 1111 1112 fails its check digit",
        "GB83 WEST 1234 5698 7654 32 fails too",
        "tracking 12345678",
        "@handle and a@b",
        "999.999.1.1 is no address, std::move no more",
        "My name is Joan Smith",
        "Re: [Ticket#2024030110000123], Ticket 2024030110000057 and HD-2024-000123",
        "#4000123412341234",
        "Order 0123456789 is late, order number: 555-123-4567, order no. 0012345678",
        "invoice 4111 1111 1111 1111",
        "Bestellnummer 0123456789, Kundennummer: 0301234567",
        "Auftrag 0049 1234567, Vorgang 0123/456789, Rechnung 0151 23456789",
        "0004512398",
        "302-1234567-1234567 for article 4006381333931",
        "01.02.2024 10:30",
        "01/02/2024 10:30:45",
        "01-02-2024 10.30.45",
        "01.02.24 10:30:15",
        "01.02.2024-15.02.2024, then 05/2024-06/2024",
        "2024-03-01T10:22:31.123456+00:00 or 2024-03-01T10:22:31+0100",
        "20240301T102231Z or 20240301102231",
        "1709288551123 and 4709288551123",
        "Fri, 01 Mar 2024 10:22:31 +0000 (UTC)",
        "version 1.2.3.4, v10.4.2.1, firmware 7.4.2.1, Chrome/99.0.48.44, build 10.0.19045.3803",
        "550e8400-e29b-41d4-4716-446655440000",
    ],
)
def test_what_only_looks_like_personal_data_is_left(text):
    assert find_personal_data([text]) == {}


def test_every_audit_and_the_card_count_the_same_personal_data_in_a_helpdesk_export(tmp_path):
    rows = build_clean_rows(60)
    for number, row in enumerate(rows):
        row["id"] = f"2024030110{number:06}"
        row["created_at"] = f"{number % 28 + 1:02}.03.2024 10:{number:02}"
        row["text"] = f"[Ticket#{4_000_000_000_000_000 + number}] order 0{number:09}: {row['text']}"
    for number in (4, 50):
        rows[number]["text"] += ", call +44 20 7946 0958"
    rows[9]["text"] += " from 203.0.113.9"
    files = {"train_file": write_csv(tmp_path / "train.csv", rows[:45])}
    files["test_file"] = write_csv(tmp_path / "test.csv", rows[45:])
    config = AuditConfig(data=LabelledTextData(**files))
    expected = {"phone": 2, "ip_address": 1}
    full = audit_rows(config)
    assert full.findings["personal-data"].details == expected
    whole = audit_before_publishing(load_splits(config.data), config, labelled=True)
    assert whole.findings["personal-data"].details == expected
    data = load_rows("text-classification", config.data)
    quick = {found["kind"]: found["count"] for found in audit_task_data(data, "quick")["findings"]}
    assert quick["personal-data"] == 3
    assert "telephone): 1 ip address, 2 phone." in render_figures(data)


def test_names_are_searched_where_asked():
    assert mask_text("Hello, my name is Joan Smith.", names=True) == "Hello, my name is <NAME>."


def test_shown_texts_hide_other_long_numbers_too():
    assert show_text("account 12345678\nopened") == "account <NUMBER> opened"


def test_a_card_needs_its_check_digit_and_a_brand_s_first_digits():
    assert [is_payment_card(number) for number in ("4111111111111111", "4111111111111112", "2024030110000176")] == [
        True, False, False,
    ]  # fmt: skip


def test_odd_characters_are_told_from_other_scripts_and_quotes():
    odd = ["cafÃ©", "itâ€™s", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "a\x07b", "a\u200bb", "x\ufffdy"]
    fine = ["café", "„MENÜ“", "naïve façade", "привет", "这是", "👨‍👩‍👧", "£20 – “now”", "می‌خواهم"]
    found = {kind: positions.tolist() for kind, positions in find_odd_characters(odd + fine).items()}
    assert found == {"mojibake": [0, 1, 2], "control": [3], "invisible": [4], "replacement": [5]}
    assert [repair_characters(text) for text in odd] == ["café", "it’s", "привет", "ab", "ab", "x\ufffdy"]


def test_near_duplicates_are_the_pairs_that_comparing_all_finds():
    generator = np.random.default_rng(0)
    texts = list(dict.fromkeys(" ".join(generator.choice(THINGS, 5)) for _ in range(150)))
    texts += [text + " now" for text in texts[:30]] + [text[1:] for text in texts[30:60]]
    left, right = np.triu_indices(len(texts), 1)
    normal = [normalise_text(text) for text in texts]
    exact = compute_similarities([normal[i] for i in left], [normal[i] for i in right]) >= 0.8
    pairs, similarity = find_near_duplicates(texts, 0.8)
    assert set(map(tuple, pairs.tolist())) == set(zip(left[exact].tolist(), right[exact].tolist(), strict=True))
    assert len(pairs) >= 60
    assert similarity.min() >= 0.8


def test_similarity_is_the_share_of_common_shingles():
    # " abcdef " has 5 shingles, " abcdeg " 5, of which 3 are common
    assert compute_similarities(["abcdef", "abc"], ["abcdeg", "abc"]) == pytest.approx([3 / 7, 1])


@pytest.mark.parametrize("texts", [[], ["one"], ["a", "b"], ["!!!", "???"]])
def test_few_or_short_texts_have_no_near_duplicates(texts):
    assert len(find_near_duplicates(texts, 0.8)[0]) == 0


def test_frequent_spelling_wins():
    assert find_spellings({"Refund": 2, "refund": 5, " refund": 1, "parcel": 1}) == {
        "Refund": "refund",
        " refund": "refund",
    }


def test_examples_mask_and_the_page_lists_what_was_not_found(tmp_path):
    rows = build_clean_rows(90)
    rows[2]["text"] += " jo.doe@example.org"
    content = audit(tmp_path, rows).to_json()
    page = render_markdown(content)
    assert "jo.doe" not in json.dumps(content) + page
    assert "&lt;EMAIL&gt;" in page or "<EMAIL>" in page
    assert re.search("No findings of: .*duplicates", page)


def test_rows_of_several_files_are_placed_in_their_file(tmp_path):
    rows = build_clean_rows(90)
    rows[70]["text"] = ""
    files = [write_csv(tmp_path / "a.csv", rows[:60]), write_csv(tmp_path / "b.csv", rows[60:])]
    result = audit_rows(AuditConfig(data=LabelledTextData(train_file=files)))
    example = result.findings["empty-texts"].examples[0]
    assert (example["row"], example["file"], example["file_row"]) == (71, files[1], 11)


def plant_fixable(rows):
    rows = [dict(row) for row in rows]
    rows[5]["text"] = ""
    rows[6]["text"] = "the cafÃ© never sent my blue umbrella stand"
    rows[7]["label"] = rows[7]["label"].upper()
    rows.append(dict(rows[0]))
    rows.append({**rows[1], "label": rows[2]["label"]})
    rows[8]["text"] = "write to jo.doe@example.org about my umbrella"
    return rows


def write_rows(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write_csv(path, rows)
    return str(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_fix_writes_a_copy_and_its_changes_and_leaves_the_original(tmp_path, name):
    rows = plant_fixable(build_clean_rows(90))
    path = Path(write_rows(tmp_path / name, rows))
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    kinds = [kind for kind in FIXABLE if not kind.startswith("near")]
    write_cleaned_copies(
        audit_rows(AuditConfig(data=LabelledTextData(train_file=str(path)))), kinds, tmp_path / "audit"
    )
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    copy, changes = name_copies(path)
    changes = [json.loads(line) for line in changes.read_text().splitlines()]
    assert [(change["row"], change["what"], change["action"]) for change in changes] == [
        (6, "empty-texts", "removed"),
        (7, "odd-characters", "changed"),
        (8, "label-spelling", "changed"),
        (9, "personal-data", "changed"),
        (91, "duplicates", "removed"),
    ]
    assert changes[1]["before_sha256"] == hashlib.sha256(rows[6]["text"].encode()).hexdigest()
    again = audit_rows(AuditConfig(data=LabelledTextData(train_file=str(copy))))
    assert len(again.rows.texts) == 90
    # which of two labels is right is left to a reader
    assert set(again.findings) == {"contradicting-labels", "duplicates", "suspect-labels"}
    assert len(again.findings["duplicates"].positions) == 1
    assert [a for a, b in zip(again.rows.texts, [row["text"] for row in rows[:5]], strict=False) if a != b] == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rows.csv", {"encoding": "cp1252"}),
        ("rows.tsv", {"quoting": "none"}),
        ("rows.xlsx", {"sheet": "tickets"}),
    ],
)
def test_fix_reads_the_original_by_the_options_of_the_audit(tmp_path, name, options):
    rows = [{**row, "text": f'"{row["text"]} in the café'} for row in build_clean_rows(60)]
    rows.append(dict(rows[0]))
    path = tmp_path / name
    if "sheet" in options:
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        book.active.append(["nothing", "here"])
        sheet = book.create_sheet("tickets")
        for row in [list(rows[0]), *(list(row.values()) for row in rows)]:
            sheet.append(row)
        book.save(path)
    elif "quoting" in options:
        lines = ["\t".join(map(str, row)) for row in [list(rows[0]), *(row.values() for row in rows)]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        write_csv(path, rows)
        path.write_bytes(path.read_text(encoding="utf-8").encode("cp1252"))
    result = audit_rows(AuditConfig(data=LabelledTextData(train_file=str(path), **options)))
    (told,) = write_cleaned_copies(result, ["duplicates"], tmp_path / "audit")
    assert told.endswith(f"(read it without --data.{next(iter(options))})")
    again = audit_rows(AuditConfig(data=LabelledTextData(train_file=str(name_copies(path)[0]))))
    assert again.rows.texts == [row["text"] for row in rows[:60]]


def build_nasty_rows():
    """Return rows with every fault that training refuses or that `--fix` has to leave."""
    clean = build_clean_rows(90)
    twice = {"text": "an umbrella was blown over the bridge again", "label": "weather"}
    return [
        *clean,
        {"text": " ", "label": "refund"},
        {"text": "\u200b\u200b", "label": "refund"},
        {"text": "nobody labelled this yellow kettle", "label": ""},
        {"text": "the only one of its kind on the mountain", "label": "lonely"},
        {"text": "a silver trumpet was refunded to the wrong castle", "label": " REFUND"},
        {"text": "the cafÃ© lost a parcel on the way to the station", "label": "parcel"},
        {"text": "- a dash begins this refund for a purple carpet", "label": "refund"},
        twice,
        twice,  # without it its label is rare
        {**clean[0], "label": clean[1]["label"]},
        {"text": "x" * 1_000_001, "label": "refund"},
    ]


def test_after_fix_training_takes_the_rows_and_the_audit_says_what_was_left_and_why(tmp_path):
    path = write_csv(tmp_path / "rows.csv", build_nasty_rows())
    config = AuditConfig(data=LabelledTextData(train_file=path))
    result, kinds = audit_rows(config), config.fix_kinds.split(",")
    with pytest.raises(UserError, match=r"no label 1, oversized text 1\): .*--data.skip_bad true"):
        load_labelled_text(config.data)
    write_cleaned_copies(result, kinds, tmp_path / "audit")
    left = audit_copies(result, config, kinds)
    reasons = {entry["kind"]: entry["why"] for entry in left if entry["kind"] != "suspect-labels"}
    assert reasons == {
        "contradicting-labels": "which of two labels is right, a reader decides",
        "duplicates": "the copies have other labels: which one is right, a reader decides",
    }
    cleaned = load_labelled_text(LabelledTextData(train_file=str(name_copies(path)[0])))
    assert cleaned.left_out == {}
    assert sum(map(len, cleaned.splits.values())) == 94
    assert cleaned.label_names == ("parcel", "password", "refund")
    texts = [text for rows in cleaned.splits.values() for text in rows["text"]]
    assert "- a dash begins this refund for a purple carpet" in texts
    content = dataclasses.replace(result, after_fix=left).to_json()
    assert "left: which of two labels is right, a reader decides" in "\n".join(summarize(content))
    assert "| error | contradicting-labels | 2 | which of two" in render_markdown(content)


def test_what_training_leaves_out_is_a_warning_where_it_is_asked_to(tmp_path):
    path = write_csv(tmp_path / "rows.csv", build_nasty_rows())
    severities = []
    for skip_bad in (False, True):
        content = audit_rows(AuditConfig(data=LabelledTextData(train_file=path, skip_bad=skip_bad))).to_json()
        severities.append({finding["kind"]: finding["severity"] for finding in content["findings"]})
    kinds = ("empty-texts", "oversized-texts", "missing-labels", "rare-labels")
    assert [[found[kind] for kind in kinds] for found in severities] == [["error"] * 4, ["warning"] * 4]
    assert severities[1]["contradicting-labels"] == "error"


def build_features(count=300, labels=6):
    """Return labels in blocks as a file sorted by label has them, and features that tell them apart, mostly."""
    generator = np.random.default_rng(0)
    codes = np.repeat(np.arange(labels), count // labels)
    features = np.eye(labels)[codes] * 4 + generator.normal(size=(count, labels))
    return codes, features


def search(codes, features, **options):
    texts = [str(place) for place in range(len(codes))]
    labels = [f"label {code}" for code in codes]
    groups = np.arange(len(codes))
    return find_suspect_labels(texts, labels, groups, encode=lambda texts: features[list(map(int, texts))], **options)


def test_a_block_of_rows_named_as_another_label_is_found_whole_and_named():
    codes, features = build_features()
    wrong = codes.copy()
    wrong[20:31] = 1
    found = search(wrong, features)
    assert [(b.label, b.probable_label, b.positions.tolist()) for b in found.blocks] == [
        ("label 1", "label 0", list(range(20, 31)))
    ]
    assert set(range(20, 31)) <= set(found.positions.tolist())
    assert len(found.positions) <= 14
    order = np.random.default_rng(1).permutation(len(codes))
    assert search(wrong[order], features[order]).blocks == []


def test_neighbours_of_another_file_have_no_say():
    codes, features = build_features()
    wrong = codes.copy()
    wrong[45:50] = 1  # they would stand in one run with the label's own rows
    parts = (np.arange(len(codes)) >= 50).astype(int)
    assert set(range(45, 50)) <= set(search(wrong, features, parts=parts).positions.tolist())


def test_two_labels_that_are_mixed_up_both_ways_are_named():
    codes, features = build_features()
    wrong = codes.copy()
    wrong[:8], wrong[60:69] = 1, 0
    (pair,) = search(wrong, features).swapped
    assert (pair.labels, pair.rows) == (("label 0", "label 1"), (9, 8))


def test_no_label_is_suspect_where_the_texts_do_not_tell_labels_apart():
    codes, features = build_features()
    assert len(search(np.random.default_rng(0).permutation(codes), features).positions) == 0
    wrong = np.where(np.arange(len(codes)) % 50 < 20, (codes + 1) % 6, codes)
    found = search(wrong, features)
    assert (len(found.positions), found.is_unclear, len(found.judged)) == (0, True, len(codes))


def test_blocks_of_wrong_labels_are_named_in_the_audit(tmp_path):
    rows = sorted(build_clean_rows(), key=lambda row: row["label"])
    for row in rows[30:41]:
        row["label"] = "password"
    result = audit(tmp_path, rows)
    (line,) = result.findings["suspect-labels"].details["blocks"]
    assert line == "11 rows of `password` in a row read like `parcel` (train rows 31 to 41)"
    assert f"{line}." in result.notes
    assert set(range(31, 42)) <= found_rows(result, "suspect-labels")


def test_labels_are_judged_by_a_checkpoint_s_features_which_are_computed_once(tiny_checkpoint):
    encode = load_text_encoder(str(tiny_checkpoint("bert")))
    first = encode(["a short one", "a much longer text of several words", "a short one"])
    assert first.shape[0] == 3
    assert np.array_equal(first[0], first[2])
    alone = encode._compute(["a much longer text of several words"])
    np.testing.assert_allclose(first[1], alone[0], atol=1e-5)
    encode._model = None
    assert np.array_equal(encode(["a short one"]), first[:1])


GERMAN = "Wo bleibt mein Paket mit der gelben Lampe, die ich letzte Woche bestellt habe"


def test_a_quick_audit_counts_the_languages_of_a_run_s_rows(tmp_path):
    rows = [{**row, "text": f"{GERMAN} {number}?"} for number, row in enumerate(build_clean_rows(40))]
    found = audit_task_data(load_for_training(tmp_path, rows[:30], rows[30:]), "quick")
    assert found["languages"] == {"texts_by_language": {"de": 40}, "texts": 40}
    assert "languages: de 100% (40 of 40 texts inspected could be told)" in summarize(found)


def build_named_checkpoint(folder, name, language=None):
    if language:
        (folder / "README.md").write_text(f"---\nlanguage: {language}\n---\n")
    return Checkpoint(name, folder, "local folder", None, "", None)


@pytest.mark.parametrize(
    ("name", "language", "counts", "why"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", None, {"de": 50}, "it was trained on English alone"),
        ("someone/own", "en", {"de": 30, "en": 70}, "its card names en"),
        ("someone/own", "[en, fr]", {"zh": 30, "fr": 70}, "its card names en, fr"),
        ("bert-base-uncased", None, {"zh": 99}, "it was trained on English alone"),
        ("someone/own", "[en, de]", {"de": 50}, None),
        ("someone/own", "multilingual", {"de": 50}, None),
        ("intfloat/multilingual-e5-small", None, {"de": 50}, None),
        ("sentence-transformers/all-MiniLM-L6-v2", None, {"en": 95, "de": 5}, None),
        ("someone/own", None, {"de": 50}, None),
    ],
)
def test_rows_in_a_language_that_the_checkpoint_was_not_made_for_are_warned_of(tmp_path, name, language, counts, why):
    told = describe_language_gap(counts, build_named_checkpoint(tmp_path, name, language), None, [GERMAN])
    assert (told is None) == (why is None)
    if why:
        assert why in told
        assert "multilingual checkpoint, such as --model.checkpoint sentence-transformers/paraphrase-multi" in told


def test_a_tokenizer_that_does_not_know_the_rows_words_shows_a_checkpoint_of_another_language(tmp_path):
    tokenizer = build_tokenizer(decoder=False)
    own = build_named_checkpoint(tmp_path, "someone/own")
    told = describe_language_gap({"zh": 50}, own, tokenizer, ["我的包裹在哪里", "请退款"] * 20)
    assert re.search(r"\(zh 100% of .*; (\d+% of their tokens are unknown|its tokens hold)", told)


def test_fix_does_not_replace_a_copy_unasked(tmp_path):
    path = Path(write_rows(tmp_path / "rows.csv", plant_fixable(build_clean_rows(90))))
    result = audit_rows(AuditConfig(data=LabelledTextData(train_file=str(path))))
    write_cleaned_copies(result, ["empty-texts"], tmp_path / "audit")
    with pytest.raises(UserError, match=r"rows\.cleaned\.csv exists already"):
        write_cleaned_copies(result, ["empty-texts"], tmp_path / "audit")
    write_cleaned_copies(result, ["empty-texts"], tmp_path / "audit", overwrite=True)


def test_fix_needs_files(tmp_path):
    result = audit_rows(AuditConfig(data=LabelledTextData(dataset="helpdesk")))
    with pytest.raises(UserError, match="needs files of your own"):
        write_cleaned_copies(result, ["empty-texts"], tmp_path / "audit")


def test_removal_across_splits_takes_the_training_row(tmp_path):
    train, test = build_clean_rows()[:200], build_clean_rows()[200:]
    train[102] = test[5]
    result = audit(tmp_path, train, test)
    told = write_cleaned_copies(result, ["duplicates-across-splits"], tmp_path / "audit")
    assert [line.partition(": ")[2].split(" rows")[0] for line in told] == ["199", "40"]


def test_audit_is_not_replaced_unasked(tmp_path):
    result = audit(tmp_path, build_clean_rows(60))
    write_audit(result, check_output(tmp_path / "audit", overwrite=False))
    with pytest.raises(UserError, match=r"audit\.json exists already"):
        check_output(tmp_path / "audit", overwrite=False)
    assert check_output(tmp_path / "audit", overwrite=True) == tmp_path / "audit"


@pytest.mark.parametrize("name", ["rows.cleaned.csv", "rows.changes.jsonl"])
def test_fix_does_not_replace_what_it_did_not_write(tmp_path, name):
    path = Path(write_rows(tmp_path / "rows.csv", plant_fixable(build_clean_rows(90))))
    result = audit_rows(AuditConfig(data=LabelledTextData(train_file=str(path))))
    write_cleaned_copies(result, ["empty-texts"], tmp_path / "audit")
    (tmp_path / name).write_text("rows that I corrected by hand")
    with pytest.raises(UserError, match=rf"{re.escape(name)} was not written by this recipe, or was changed since"):
        write_cleaned_copies(result, ["empty-texts"], tmp_path / "audit", overwrite=True)
    assert (tmp_path / name).read_text() == "rows that I corrected by hand"


def test_fix_does_not_replace_another_audited_file(tmp_path):
    for name in ("rows.csv", "rows.cleaned.csv"):
        write_rows(tmp_path / name, build_clean_rows(60))
    files = [str(tmp_path / name) for name in ("rows.csv", "rows.cleaned.csv")]
    result = audit_rows(AuditConfig(data=LabelledTextData(train_file=files)))
    before = (tmp_path / "rows.cleaned.csv").read_bytes()
    with pytest.raises(UserError, match="lies inside what is to be written"):
        write_cleaned_copies(result, ["duplicates"], tmp_path / "audit", overwrite=True)
    assert (tmp_path / "rows.cleaned.csv").read_bytes() == before


@pytest.mark.parametrize("name", ["audit.json", "audit.md", "audit.html"])
def test_an_audit_does_not_replace_what_it_did_not_write(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="was not written by this recipe"):
        check_output(tmp_path, overwrite=True)
    config = AuditConfig(data=LabelledTextData(train_file=str(tmp_path / name)))
    with pytest.raises(UserError, match=r"data\.train_file .* lies inside what is to be written"):
        check_output(tmp_path, config, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"


def test_an_audit_is_not_written_into_a_run(tmp_path):
    with RunFolder(tmp_path / "run") as run:
        run.write_json("results.json", {})
        run.finish()
    with pytest.raises(UserError, match="is the folder of a run; name another with --output"):
        check_output(tmp_path / "run", overwrite=True)


def test_unknown_kind_gets_the_nearest():
    with pytest.raises(UserError, match=r"no kind 'duplicate', .*did you mean duplicates"):
        read_kinds("fail_on", "near-duplicates,duplicate")


@pytest.mark.parametrize("faulty", ["multi", "regression"])
def test_other_problem_types_are_audited(tmp_path, faulty):
    rows = build_clean_rows(60)
    if faulty == "multi":
        rows = [{"text": row["text"], "a": i % 2, "b": i % 3 // 2} for i, row in enumerate(rows)]
        result = audit(tmp_path, rows, label_column=["a", "b"])
    else:
        rows = [{"text": row["text"], "label": i / 7} for i, row in enumerate(rows)]
        result = audit(tmp_path, rows)
    assert result.findings == {}


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        ([("", "a"), (" ", "b")], {"empty-texts", "rare-labels"}),
        ([("hello there my friend", None)] * 3, {"missing-labels", "duplicates"}),
        ([("hello there my friend", "a")], {"rare-labels"}),
        ([(f"hi {i} word", i / 7 if i % 3 else None) for i in range(60)], {"missing-labels"}),
    ],
)
def test_rows_that_training_refuses_are_audited(tmp_path, rows, kinds):
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    data = LabelledTextData(train_file=str(tmp_path / "rows.jsonl"), text_column="text", label_column="label")
    assert set(audit_rows(AuditConfig(data=data)).findings) == kinds


def run_recipe(*words):
    return subprocess.run([sys.executable, RECIPE, *map(str, words)], capture_output=True, text=True, check=False)


def test_recipe_fails_on_what_it_is_told_to(tmp_path):
    file = write_rows(tmp_path / "rows.csv", plant_fixable(build_clean_rows(90)))
    words = ["--data.train_file", file, "--output", tmp_path / "audit"]
    done = run_recipe(*words, "--fail_on", "duplicates,groups-across-splits")
    assert (done.returncode, done.stderr) == (1, "failed on duplicates\n")
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["findings"][0]["kind"] == "empty-texts"
    done = run_recipe(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.slow
@pytest.mark.real_data
def test_two_hundred_faults_planted_into_banking77_are_found(tmp_path, real_data):
    train, test = (
        list(csv.DictReader((real_data / "banking77" / f"{split}.csv").open(encoding="utf-8")))
        for split in ("train", "test")
    )
    clean = audit(tmp_path, train, test)
    generator = np.random.default_rng(7)
    targets = iter(generator.permutation(len(train)).tolist())
    labels = sorted({row["category"] for row in train})
    personal = [
        "jo.doe@example.org",
        "+44 20 7946 0958",
        "4111 1111 1111 1111",
        "GB82 WEST 1234 5698 7654 32",
        "10.1.2.3",
    ]
    planted = {}

    def plant(kind, count, change):
        planted[kind] = {target + 1 for target in (next(targets) for _ in range(count)) if not change(target)}

    def misspell(target):
        text = train[next(targets)]
        place = int(generator.integers(1, len(text["text"]) - 1))
        train[target] = {**text, "text": text["text"][:place] + "q" + text["text"][place:]}

    def mislabel(target):
        others = [label for label in labels if label != train[target]["category"]]
        train[target] = {**train[target], "category": str(generator.choice(others))}

    plant("duplicates", 29, lambda i: train.__setitem__(i, dict(train[next(targets)])))
    plant("duplicates-across-splits", 29, lambda i: train.__setitem__(i, dict(test[i % len(test)])))
    plant("near-duplicates", 29, misspell)
    plant("suspect-labels", 29, mislabel)
    plant("label-spelling", 28, lambda i: train[i].update(category=train[i]["category"].upper()))
    plant("odd-characters", 28, lambda i: train[i].update(text=f"{train[i]['text']} caf\u00c3\u00a9"))
    plant("personal-data", 28, lambda i: train[i].update(text=f"{train[i]['text']} {personal[i % 5]}"))
    result = audit(tmp_path, train, test)

    table, hits, wrong = [], 0, 0
    for kind, rows in planted.items():
        named, finding = found_rows(result, kind), result.findings[kind]
        new = named - found_rows(clean, kind) - rows
        if kind in ("duplicates", "near-duplicates"):  # of two copies the later one is named, planted or not
            partners = dict(zip(result.rows.row[finding.positions], result.rows.row[finding.partners], strict=True))
            new -= {row for row, partner in partners.items() if partner in rows}
            named |= {partner for row, partner in partners.items() if partner in rows}
        hits, wrong = hits + len(rows & named), wrong + len(new)
        table.append(f"{kind}: {len(rows & named)} of {len(rows)} found, {len(new)} rows named that were not before")
    sys.stdout.write("\n".join(table))
    assert sum(map(len, planted.values())) == 200
    assert hits >= 190, table
    assert hits / (hits + wrong) >= 0.75, table


def load_for_training(folder, train, test):
    files = {"train_file": write_csv(folder / "train.csv", train), "test_file": write_csv(folder / "test.csv", test)}
    return load_labelled_text(LabelledTextData(**files, validation_fraction=0))


def test_a_quick_audit_of_what_is_trained_on_finds_what_the_full_one_finds_of_its_kinds(tmp_path, tiny_checkpoint):
    rows = build_clean_rows(90)
    train = [*rows[:60], rows[0], {**rows[1], "text": "write to jo.doe@example.org"}, rows[70]]
    data = load_for_training(tmp_path, train, rows[60:])
    model = ModelConfig(checkpoint=str(tiny_checkpoint("bert")))
    quick, full = (audit_task_data(data, level, model) for level in ("quick", "full"))
    assert f"Labels were judged by the features of {model.checkpoint}." in full["notes"]
    counts = {finding["kind"]: finding["count"] for finding in quick["findings"]}
    assert counts == {"duplicates-across-splits": 1, "duplicates": 1, "personal-data": 1}
    assert counts.items() <= {finding["kind"]: finding["count"] for finding in full["findings"]}.items()
    assert "jo.doe" not in json.dumps([quick, full])


def test_a_quick_audit_needs_no_library_of_the_extra_and_a_full_one_says_which(tmp_path, monkeypatch):
    rows = build_clean_rows(36)
    data = load_for_training(tmp_path, rows[:30], rows[30:])
    really = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ftfy" else really(name))
    assert audit_task_data(data, "quick")["findings"] == []
    with pytest.raises(UserError, match="the audit needs ftfy; install them"):
        audit_task_data(data, "full")


def test_rows_of_other_tasks_are_looked_at_as_their_whole_text_and_images_not_at_all(tmp_path):
    pairs = [{"de": f"Das ist Satz {i}.", "en": f"That is sentence {i}."} for i in range(20)]
    pairs[3] = {**pairs[3], "en": "Write to jo.doe@example.org."}
    write_csv(tmp_path / "train.csv", [*pairs, pairs[0]])
    write_csv(tmp_path / "test.csv", [pairs[1], {"de": "Das ist Satz 2.", "en": "Another translation."}])
    columns = {"text_column": "de", "target_column": "en", "validation_fraction": 0}
    found = audit_task_data(load_text_to_text(TextPairData(data_dir=str(tmp_path), **columns)), "quick")
    counts = {finding["kind"]: finding["count"] for finding in found["findings"]}
    assert counts == {"duplicates-across-splits": 1, "duplicates": 1, "personal-data": 1}
    assert audit_task_data(load_labelled_images(LabelledImageData(dataset="digits")), "quick") is None
