from __future__ import annotations

import random

import pytest

from startup_llm.hub.card_merge import CardConflict, build_readme, merge_readme, read_metadata

OLD = "---\nlicense: mit\ntags:\n- lora\n- startup-llm\nmetrics:\n- accuracy\n---\n\n# mine\n\nIt scores 80 %.\n"
NEW = OLD.replace("80 %", "90 %").replace("- accuracy\n", "- accuracy\n- f1\n")
BASE = read_metadata(OLD)
PUBLISHED = build_readme(OLD)


def merge(theirs: str, **options) -> str:
    return merge_readme(NEW, theirs, BASE, **options)


def test_an_untouched_card_becomes_the_new_one():
    assert merge(PUBLISHED) == build_readme(NEW)


def test_merging_once_more_changes_nothing():
    edited = PUBLISHED.replace("license: mit", "license: mit  # asked the lawyers") + "\nCall me.\n"
    once = merge(edited)
    assert merge_readme(NEW, once, read_metadata(NEW)) == once


def test_words_above_and_below_the_generated_text_stay():
    edited = PUBLISHED.replace("<!-- startup-llm:begin", "Read me first.\n\n<!-- startup-llm:begin") + "\nCall me.\n"
    merged = merge(edited)
    assert merged.index("Read me first.") < merged.index("90 %") < merged.index("Call me.")
    assert "80 %" not in merged


def test_every_line_that_a_person_adds_anywhere_outside_stays():
    draw = random.Random(0)
    for number in range(200):
        lines = PUBLISHED.splitlines()
        start = next(i for i, line in enumerate(lines) if "startup-llm:begin" in line)
        place = draw.choice([draw.randint(lines.index("---", 1) + 1, start), len(lines)])
        words = draw.choice(["---", "# heading", "license: gpl", "<!-- mine -->", "", "| a | b |"]) + f" {number}"
        lines[place:place] = [words]
        merged = merge("\n".join(lines) + "\n").splitlines()
        assert words in merged
        assert "It scores 90 %." in merged


def test_metadata_that_a_person_added_or_changed_stays_with_its_comments():
    edited = PUBLISHED.replace("license: mit", "# our lawyers said so\nlicense: gpl-3.0").replace(
        "tags:\n- lora", "language: de  # mostly\ntags:\n- helpdesk\n- lora"
    )
    merged = merge(edited)
    assert "# our lawyers said so\nlicense: gpl-3.0\n" in merged
    assert "language: de  # mostly\n" in merged
    assert read_metadata(merged) == {
        "license": "gpl-3.0",
        "language": "de",
        "tags": ["helpdesk", "lora", "startup-llm"],
        "metrics": ["accuracy", "f1"],
    }


def test_a_list_that_both_changed_keeps_what_each_added_and_what_the_person_took_out():
    edited = PUBLISHED.replace("- accuracy\n", "- recall  # why not\n")
    merged = merge(edited)
    assert read_metadata(merged)["metrics"] == ["f1", "recall"]
    assert "# why not" in merged


def test_comments_in_what_the_run_renews_stay():
    edited = PUBLISHED.replace("- accuracy\n", "# the one that counts\n- accuracy  # as agreed\n")
    merged = merge(edited)
    assert read_metadata(merged)["metrics"] == ["accuracy", "f1"]
    assert "# the one that counts" in merged
    assert "# as agreed" in merged


def test_a_front_matter_that_was_lost_comes_back():
    body = PUBLISHED.split("---\n", 2)[2]
    assert read_metadata(merge(body)) == read_metadata(NEW)


def test_a_field_that_a_person_took_out_stays_out():
    assert "license" not in read_metadata(merge(PUBLISHED.replace("license: mit\n", "")))


def test_a_licence_named_at_the_keyboard_wins():
    edited = PUBLISHED.replace("license: mit", "license: gpl-3.0")
    ours = NEW.replace("license: mit", "license: apache-2.0")
    assert read_metadata(merge_readme(ours, edited, BASE, {"license"}))["license"] == "apache-2.0"


def test_a_field_that_both_changed_is_a_conflict_that_names_it():
    edited = PUBLISHED.replace("license: mit", "license: gpl-3.0")
    ours = NEW.replace("license: mit", "license: apache-2.0")
    with pytest.raises(CardConflict, match="metadata field license was changed by hand and by the run"):
        merge_readme(ours, edited, BASE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("It scores 80 %", "It scores nearly 80 %"), "generated text was changed by hand"),
        (("<!-- startup-llm:end -->", ""), "marks around its generated text are damaged"),
        (("license: mit", "license: [mit"), "not valid YAML"),
        (("license: mit\ntags:\n- lora\n- startup-llm\nmetrics:\n- accuracy\n", "- mit\n"), "not a mapping"),
    ],
)
def test_what_cannot_be_merged_is_a_conflict_and_a_proposal_keeps_the_words_outside(change, words):
    edited = PUBLISHED.replace(*change) + "\nCall me.\n"
    assert edited != PUBLISHED + "\nCall me.\n"
    with pytest.raises(CardConflict, match=words):
        merge(edited)
    proposal = merge(edited, force=True)
    assert "It scores 90 %" in proposal
    assert "Call me." in proposal
    assert read_metadata(proposal)["tags"] == ["lora", "startup-llm"]


def test_a_card_of_a_person_s_own_keeps_its_text_and_metadata():
    merged = merge_readme(NEW, "---\r\nlicense: mit\r\ntags: [mine]\r\n---\r\n# My words\r\n", {})
    assert "# My words" in merged
    assert "90 %" in merged
    assert read_metadata(merged)["tags"] == ["lora", "startup-llm", "mine"]
    plain = merge_readme(NEW, "# My words\n\n---\n\nmore", {})
    assert read_metadata(plain) == read_metadata(NEW)
    assert "# My words\n\n---\n\nmore" in plain


def test_windows_line_breaks_are_no_edit():
    assert "90 %" in merge(PUBLISHED.replace("\n", "\r\n"))
