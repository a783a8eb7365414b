import csv
import json

import datasets
import pytest

from startup_llm.config import LabelledTextData
from startup_llm.data.classification import load_labelled_text
from startup_llm.data.cleaned_texts import clean_text
from startup_llm.data.columns import find_columns
from startup_llm.data.text_reading import TextReading
from startup_llm.errors import UserError

QUICK = [
    "--train.max_steps", "2", "--evaluation.resamples", "50", "--data.validation_fraction", "0",
    "--train.per_device_train_batch_size", "8",
]  # fmt: skip
MAIL = """My parcel {0} is lost.

Best regards,
Anna Smith

On Mon, Jan 5, 2026 at 10:00 AM Support <help@example.com> wrote:
> please tell us your number"""
HTML = "<p>My card {0} does <b>not</b> work &amp; I am&nbsp;sad</p><style>p {{color: red}}</style>"


def write_tickets(path, count=12):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "subject", "description", "label"])
        for number in range(count):
            kind, text = (("card", HTML), ("parcel", MAIL))[number % 2]
            subject = "" if number % 3 == 0 else f"about a {kind}"
            writer.writerow([number, subject, text.format(number), kind])
    return str(path)


@pytest.mark.parametrize(
    ("text", "kinds", "cleaned"),
    [
        (HTML, ["html"], "My card {0} does not work & I am sad"),
        ("one<br>two<div>three</div>four", ["html"], "one\ntwo\nthree\nfour"),
        ("line one\nline <b>two</b>", ["html"], "line one\nline two"),
        ("a < b and c > d", ["html"], "a < b and c > d"),
        ("salt &amp; pepper", ["html"], "salt & pepper"),
        ("<div>new</div><div class='gmail_quote'>old</div>", ["html", "quoted"], "new"),
        (MAIL, ["signature", "quoted"], "My parcel {0} is lost."),
        (MAIL, ["quoted"], "My parcel {0} is lost.\n\nBest regards,\nAnna Smith"),
        ("Wo ist es?\n\nMit freundlichen Grüßen\nMax", ["signature"], "Wo ist es?"),
        ("plain words", ["html", "signature", "quoted"], "plain words"),
        ("Thanks,\nJoe", ["signature"], "Thanks,\nJoe"),
        (None, ["html"], None),
    ],
)
def test_texts_are_cleaned(text, kinds, cleaned):
    assert clean_text(text, kinds) == cleaned


def test_columns_are_joined_with_their_names_and_empty_ones_are_left_out():
    reading = TextReading(("subject", "description"))
    columns = {"subject": ["Hi", " ", None, None], "description": ["there", "you", 3, ""], "text_pair": list("abcd")}
    assert reading.read(columns) == {
        "text": ["subject: Hi\ndescription: there", "description: you", "description: 3", ""],
        "text_pair": list("abcd"),
    }


def test_training_joins_and_cleans(tmp_path):
    data = LabelledTextData(
        train_file=write_tickets(tmp_path / "rows.csv"), text_column=["subject", "description"], clean="quoted,html"
    )
    loaded = load_labelled_text(data)
    texts = {row["row"]: row["text"] for rows in loaded.splits.values() for row in rows}
    assert texts[1] == "description: My card 0 does not work & I am sad"
    assert texts[2] == "subject: about a parcel\ndescription: My parcel 1 is lost.\n\nBest regards,\nAnna Smith"
    assert "Removed from the texts: html, quoted (predictions do the same)." in loaded.notes


def test_html_and_quoted_replies_are_found_and_the_option_proposed(tmp_path):
    path = write_tickets(tmp_path / "rows.csv")
    notes = load_labelled_text(LabelledTextData(train_file=path, text_column="description")).notes
    assert any("6 of 12 training texts hold HTML ('<p>'); --data.clean html removes" in note for note in notes)
    assert any("6 of 12 training texts hold quoted replies" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"text_column": ["subject", "descripton"]},
            "no column .descripton. in the train .*description",
        ),
        ({"text_column": ["subject", "subject"]}, "names a column twice"),
        ({"text_column": "description", "clean": "htm"}, "data.clean: 'htm' is none of html, signature, quoted"),
    ],
)
def test_columns_that_are_not_there_and_unknown_kinds_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        load_labelled_text(LabelledTextData(train_file=write_tickets(tmp_path / "rows.csv"), **options))


def test_names_that_differ_by_a_blank_or_case_are_shown_in_quotes():
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"Body ": ["a"], "label": ["b"]})})
    with pytest.raises(UserError, match="no column 'body' among 'Body ', 'label'; did you mean 'Body '"):
        find_columns(splits, LabelledTextData(text_column="body"))
    splits = datasets.DatasetDict(
        {"train": datasets.Dataset.from_dict({"Text": ["a"], "text ": ["c"], "label": ["b"]})}
    )
    with pytest.raises(UserError, match=r"several columns could be the text \('Text', 'text '\)"):
        find_columns(splits, LabelledTextData())


def test_a_run_keeps_how_it_reads_texts_and_predictions_do_the_same(tmp_path, run_recipe, tiny_checkpoint):
    path = write_tickets(tmp_path / "rows.csv", 24)
    code, out, err = run_recipe(
        "finetune", "--data.train_file", path, "--data.text_column", "[subject,description]",
        "--data.clean", "html,signature,quoted", "--data.label_column", "label", "--model.checkpoint",
        tiny_checkpoint("bert"), "--run_dir", tmp_path / "run", *QUICK,
    )  # fmt: skip
    assert code == 0, err
    assert "Text from the columns 'subject', 'description'" in out + err
    rows = [
        {"subject": "about a card", "description": HTML.format(7)},
        {"subject": "", "description": MAIL.format(8)},
    ]
    made = [
        {"text": "subject: about a card\ndescription: My card 7 does not work & I am sad"},
        {"text": "description: My parcel 8 is lost."},
    ]
    scores = []
    for name, content in (("raw", rows), ("made", made)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        target = tmp_path / f"{name}.answers.jsonl"
        words = ["--run", tmp_path / "run", "--input", tmp_path / f"{name}.jsonl", "--output", target]
        code, _, err = run_recipe("predict", *words)
        assert code == 0, err
        scores.append([json.loads(line)["score"] for line in target.read_text().splitlines()])
    assert scores[0] == scores[1]
    (tmp_path / "half.jsonl").write_text(json.dumps({"subject": "a"}) + "\n")
    words = ["--run", tmp_path / "run", "--input", tmp_path / "half.jsonl", "--output", tmp_path / "x.jsonl"]
    code, _, err = run_recipe("predict", *words)
    assert code == 2
    assert "no column 'description' among subject; the run joins subject, description" in err
    (tmp_path / "bad.jsonl").write_text(json.dumps({"subject": " ", "description": "<p></p>"}) + "\n")
    words[3] = tmp_path / "bad.jsonl"
    code, _, err = run_recipe("predict", *words)
    assert code == 2
    assert "row 1: column 'subject + description' has no text" in err
