"""A helpdesk's export, as it comes, from the audit to the next week's figures and a published folder."""

import csv
import json
import os
import random
import re
from pathlib import Path

import pytest

SENTENCES = {
    "billing": ("my invoice is wrong", "die rechnung ist falsch", "ma facture est fausse"),
    "refund": ("please refund my order", "bitte erstatten sie das geld", "remboursez ma commande"),
    "delivery": ("where is my parcel", "wo ist mein paket", "où est mon colis"),
    "login": ("i forgot my password", "ich habe mein passwort vergessen", "mot de passe oublié"),
}
GREETINGS = ("hello", "guten tag", "bonjour")
SHARES = {"delivery": 40, "billing": 24, "refund": 12, "login": 6}
COLUMNS = ("id", "created_at", "subject", "description", "tags")


def write_export(file, seed, shares, day, new=()):
    """Write tickets with HTML and signatures, in three languages, some with several tags, some twice, some empty."""
    draw, rows = random.Random(seed), []
    for tag, count in shares.items():
        for number in range(count):
            language = number % 3
            said = SENTENCES[tag][language]
            tags = [tag]
            if number % 5 == 0 and tag != "login":
                tags.append("login")
                said += " " + SENTENCES["login"][language]
            words = f"{GREETINGS[language]} {draw.randrange(10**6)}, {said}"
            body = f"<p>{words}</p>" if number % 2 else f"{words}\n\n-- \nJane Roe\nACME Ltd"
            subject = "" if number % 7 == 3 else said.split()[-1]
            rows.append([subject, body, ";".join(tags)])
    rows += [["plan", f"<p>cancel my subscription now {number}</p>", tag] for number, tag in enumerate(new)]
    rows += [list(row) for row in rows[:4]]  # sent twice
    rows += [["", "", "billing"], ["hello", "no tag was given to this one", ""]]
    draw.shuffle(rows)
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for number, row in enumerate(rows):
            writer.writerow([1000 + number, f"{day}T{number // 60 % 24:02}:{number % 60:02}:00Z", *row])
    return file


def test_an_export_goes_from_audit_to_publication_without_an_edit_by_hand(
    run_recipe, tiny_checkpoint, tmp_path, monkeypatch
):
    pytest.importorskip("selectolax")
    pytest.importorskip("mailparser_reply")
    monkeypatch.chdir(tmp_path)
    write_export("tickets.csv", 0, SHARES, "2026-11-02")
    write_export("week-48.csv", 1, {tag: count // 2 for tag, count in SHARES.items()}, "2026-11-23", ["cancel"] * 5)
    read = (
        "--data.text_column",
        "[subject,description]",
        "--data.label_column",
        "tags",
        "--data.label_separator",
        ";",
    )
    quick = ("--evaluation.resamples", 50)

    def run(name, *words, code=0):
        found, out, err = run_recipe(name, *words)
        assert found == code, f"{name}: {out[-1500:]}{err[-1500:]}"
        return out + err

    out = run("audit", "--data.train_file", "tickets.csv", *read, "--fail_on", "missing-labels", code=1)
    assert "hold HTML ('<p>'); --data.clean html removes it" in out
    out = run("audit", "--data.train_file", "tickets.csv", *read, "--fix", "--overwrite")
    assert "tickets.cleaned.csv: " in out

    train = (
        *("--data.train_file", "tickets.cleaned.csv", *read, "--data.clean", "html,signature", *quick),
        *("--model.checkpoint", tiny_checkpoint("bert"), "--run_dir", "auto", "--audit", "none"),
    )
    out = run("finetune", *train, "--train.max_steps", 2)
    tuned, later = (
        re.search(rf"python recipes/{name}", out)[0] for name in (r"predict.py --run (\S+)", "evaluate.py")
    )
    tuned = tuned.split()[-1]
    assert (later, Path(tuned).parent.name) == ("python recipes/evaluate.py", "runs")
    run("finetune", *train, "--method", "probe")
    probe = tuned.replace("-lora-", "-probe-")

    run("predict", "--run", tuned, "--input", "week-48.csv", "--output", "answers.csv", "--skip_bad")
    with open("answers.csv", newline="", encoding="utf-8") as stream:
        answers = list(csv.DictReader(stream))
    assert {*COLUMNS, "labels"} <= answers[0].keys()

    week = ("--run", tuned, "--input", "week-48.csv")
    refused = run("evaluate", *week, *quick, "--run_dir", "auto", code=2)
    assert "--data.skip_bad true" in refused
    out = run("evaluate", *week, "--data.skip_bad", "true", "--compare_with", probe, *quick, "--run_dir", "auto")
    assert "1 label is new to the run and counts as wrong: 'cancel' (5 rows)" in out
    assert f"runs.py --production {tuned}" in out
    results = json.loads(next(Path("runs").glob("tickets-lora-*-on-week-48-*/results.json")).read_text())
    assert results["entries"][0]["new_labels"] == {"cancel": 5}
    assert {test["with"] for test in results["entries"][0]["comparisons"]} == {probe}
    run(
        "evaluate",
        *week,
        "--data.skip_bad",
        "true",
        "--fail_under",
        "accuracy=0.99",
        *quick,
        "--run_dir",
        "auto",
        code=1,
    )

    out = run("runs", "--production", tuned)
    assert len([line for line in out.splitlines() if "evaluation on week-48" in line]) == 2
    run("push", "--run", "runs/production", "--repo", "me/tickets", "--dry_run", "published")
    assert {"README.md", "config.json", "model.safetensors"} <= set(os.listdir("published"))
