from __future__ import annotations

import copy
import re
import shutil
import xml.etree.ElementTree
from html.parser import HTMLParser

import pytest

from startup_llm.evaluation import report
from startup_llm.evaluation.report import (
    build_report,
    build_verdict,
    describe_comparison,
    format_duration,
    format_value,
    hide_local_paths,
    judge_comparison,
    list_files,
    rank_models,
)

NEW_FIGURE = report._new_figure
VOID_TAGS = {"meta", "br", "link", "img", "hr", "input"}

MINIMAL = {
    "schema_version": 1,
    "task": "text-classification",
    "method": "lora",
    "decides": "accuracy",
    "test": {"rows": 900, "sha256": "97f2"},
    "models": {
        "majority": {"accuracy": {"value": 0.083, "low": 0.07, "high": 0.1}},
        "lora": {"accuracy": {"value": 0.908, "low": 0.889, "high": 0.927}},
    },
    "comparisons": [],
    "seconds": 97.3,
    "peak_memory_bytes": 1.6e9,
    "throughput": {"train_examples_per_second": 84.5},
    "versions": {"python": "3.11.7"},
}

EVERYTHING = MINIMAL | {
    "run_name": "helpdesk-lora",
    "rows": {"train": 1500, "validation": 300, "test": 900},
    "comparisons": [
        {
            "a": "lora",
            "b": "majority",
            "metric": "accuracy",
            "difference": 0.825,
            "low": 0.8,
            "high": 0.85,
            "p_value": 1e-9,
            "test": "exact McNemar",
        }
    ],
    "per_class": {"refund": {"precision": 0.9, "recall": 0.8, "f1": 0.847, "rows": 75}},
    "confusions": [{"label": "refund", "predicted": "status", "rows": 9, "examples": ["where is my money"]}],
    "calibration": {
        "expected_calibration_error": 0.031,
        "bins": [
            {"low": 0.0, "high": 0.1, "rows": 0, "confidence": None, "accuracy": None},
            {"low": 0.9, "high": 1.0, "rows": 80, "confidence": 0.95, "accuracy": 0.9},
        ],
    },
    "mistakes": [
        {"row": 17, "text": "still broken", "text_pair": None, "label": "a", "predicted": "b", "confidence": 0.98}
    ],
    "history": [
        {"step": 10, "epoch": 0.4, "loss": 1.2, "learning_rate": 1e-3},
        {"step": 24, "epoch": 1.0, "eval_loss": 0.9, "eval_accuracy": 0.8},
    ],
    "checkpoint": {"name": "acme/tiny", "source": "Hub", "parameters": 1000, "trainable_parameters": 10},
    "data": {"dataset": "helpdesk", "license": None, "notes": ["a note"], "sources": []},
    "truncation": {"max_length_tokens": 256, "test": {"rows": 1, "rows_share": 0.001, "tokens_share": 0.0002}},
    "reload_gate": {"rows": 64, "merged_max_difference": 2e-6, "tolerance": 0.001},
    "stage_seconds": {"train": 71.0},
    "hardware": "2 CPU cores",
    "command": "accelerate launch recipes/finetune.py",
    "config": {"method": "lora"},
    "seed": 42,
}

SECTIONS = [
    "models",
    "comparisons",
    "calibration",
    "classes",
    "confusions",
    "mistakes",
    "curves",
    "data",
    "cost",
    "reproduce",
]
OPTIONAL_SECTIONS = [name for name in SECTIONS if name not in ("models", "cost")]


class PageReader(HTMLParser):
    """Collect tags and attributes, and fail on a tag that is closed out of turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    """The whole page, the texts of its figures laid out, which those of other tests are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_new_figure", NEW_FIGURE)
        return build_report(EVERYTHING)


def test_every_section_appears_with_its_data(page):
    assert re.findall(r'<(?:section|div) id="(\w+)">', page) == SECTIONS


def test_the_navigation_leads_to_every_section_that_is_there(page):
    assert re.findall(r'<a href="#(\w+)">', page) == SECTIONS
    assert re.findall(r'<a href="#(\w+)">', build_report(MINIMAL)) == ["models", "cost"]


def build_helpdesk() -> dict:
    """Return results of the size of a helpdesk's: 12 classes, a hand-over, errors with texts of a usual length."""
    share, names = {"value": 0.5, "low": 0.4, "high": 0.6}, [f"a_class_of_tickets_{i}" for i in range(12)]
    text = "We have hard water, and the tabs leave a white film over everything. " * 3
    curve = [{"threshold": place / 7, "coverage": share, "accuracy": share} for place in range(7)]
    sentence = "from a score of 0.631 on it answers 80.1 % (77.3 to 82.8) of the test rows by itself with 90.7 % right"
    return EVERYTHING | {
        "headline": ["The tuned model is right on 81.3 % of 900 test rows.", "It beats every other model."],
        "advice": [{"action": sentence, "gain": sentence, "command": "accelerate launch x"}] * 4,
        "decision": {"validation_rows": 300, "sentences": [sentence, sentence], "risk_coverage": curve},
        "per_class": {name: {"precision": 0.9, "recall": 0.8, "f1": 0.847, "rows": 75} for name in names},
        "confusion_matrix": {"labels": names, "others": 0, "counts": [[60] * 12] * 12},
        "confusions": [{"label": names[0], "predicted": names[1], "rows": 9, "examples": [text, text]}] * 20,
        "mistakes": [EVERYTHING["mistakes"][0] | {"text": text, "label": names[0], "predicted": names[1]}] * 20,
        "models": {
            name: dict.fromkeys(("accuracy", "macro_f1"), share) for name in ("lora", "majority", "svm", "probe")
        },
    }


def test_what_few_readers_need_is_folded_behind_a_line_that_sums_it_up(page):
    lines = re.findall(r'<summary><h2>(.*?)</h2> <span class="source">(.*?)</span></summary>', page)
    assert lines == [
        ("Calibration", "expected calibration error: 3.1 points"),
        ("The data", "1,500 train, 300 validation, 900 test"),
    ]
    audited = build_report(MINIMAL | {"rows": {"test": 900}, "audit": {"level": "full", "findings": [], "notes": []}})
    assert "900 test; no findings of the full audit</span>" in audited


def test_the_first_lines_say_when_to_hand_over_unless_an_action_does():
    decision = {"validation_rows": 90, "sentences": ["no threshold helps"]}
    assert "<b>When to hand over:</b> no threshold helps." in build_report(MINIMAL | {"decision": decision})
    action = {"action": "a", "gain": "b", "command": "x --decision.target_accuracy 0.9"}
    results = MINIMAL | {"decision": decision, "headline": ["good."], "advice": [action]}
    assert "When to hand over:" not in build_report(results)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser_the_page_is_short_fits_a_phone_and_opens_its_folds_without_a_script(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    file = tmp_path / "report.html"
    file.write_text(build_report(build_helpdesk()))
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        page = browser.new_context(java_script_enabled=False, viewport={"width": 1200, "height": 900}).new_page()
        page.goto(file.as_uri())
        assert page.locator("html").bounding_box()["height"] < 6000
        assert page.locator("nav").bounding_box()["y"] < 900
        calibration, data = page.locator("#calibration"), page.locator("#data")
        assert not calibration.is_visible()
        page.click('nav a[href="#calibration"]')
        assert calibration.is_visible()
        page.locator("summary", has_text="The data").press("Enter")
        assert data.is_visible()
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.reload()
        page.emulate_media(media="print")
        assert data.bounding_box()["height"] > 100


def test_the_threshold_is_a_slider_above_the_table_that_stands_without_a_script():
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows = [{"threshold": place / 4, "coverage": share, "accuracy": share} for place in range(3)]
    decision = {"validation_rows": 90, "sentences": ["a"], "risk_coverage": rows}
    page = build_report(EVERYTHING | {"decision": decision})
    assert '<div class="slider" hidden>' in page
    assert 'max="2"' in page
    assert page.count("data-step>") == len(rows)


def test_confusions_are_a_heat_map_that_takes_small_classes_together():
    matrix = {"labels": ["a", "<b>"], "others": 3, "counts": [[8, 2, 0], [0, 5, 0], [0, 0, 7]]}
    page = build_report(EVERYTHING | {"confusion_matrix": matrix})
    assert '<td class="right" style="--share: 80%">8</td><td style="--share: 20%">2</td>' in page
    assert "2 &lt;b&gt;" in page
    assert "3 3 other classes" in page


@pytest.mark.parametrize("section", OPTIONAL_SECTIONS)
def test_a_section_is_absent_without_its_data(section):
    assert f' id="{section}">' not in build_report(MINIMAL)


@pytest.mark.parametrize("key", sorted(set(EVERYTHING) - set(MINIMAL)))
def test_any_optional_key_may_be_missing(key):
    results = {name: value for name, value in EVERYTHING.items() if name != key}
    assert "Models compared" in build_report(results)


def test_the_page_closes_every_tag(page):
    reader = PageReader(page)
    assert reader.open == []


def test_the_page_loads_nothing_from_elsewhere(page):
    reader = PageReader(page)
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert not [value for name, value in reader.attributes if name in ("src", "href") and value[0] != "#"]
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_figures_are_labelled_and_take_the_colours_of_the_page(page):
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) == 4
    for figure in figures:
        assert 'role="img" aria-label="' in figure
        assert "#1a1e24" not in figure
        xml.etree.ElementTree.fromstring(figure)
    assert "lora 90.8 % (88.9 to 92.7)" in figures[0]
    assert "var(--accent)" in figures[0]


def test_the_same_results_give_the_same_page(page, monkeypatch):
    monkeypatch.setattr(report, "_new_figure", NEW_FIGURE)
    assert build_report(EVERYTHING) == page


HOSTILE = "<script>alert(\"x\")</script> $\\frac{1}{0}$ & 'y' -->"


def test_texts_of_the_data_are_escaped_wherever_they_stand():
    results = copy.deepcopy(EVERYTHING)
    results["run_name"] = HOSTILE
    results["sentences"] = [HOSTILE, HOSTILE]
    results["models"][HOSTILE] = results["models"]["majority"]
    results["comparisons"][0] |= {"b": HOSTILE, "test": HOSTILE}
    results["confusions"] = [{"label": HOSTILE, "predicted": HOSTILE, "rows": 1, "examples": [HOSTILE]}]
    results["mistakes"][0] |= {"text": HOSTILE, "text_pair": HOSTILE, "label": HOSTILE, "predicted": HOSTILE}
    results["per_class"] = {HOSTILE: results["per_class"]["refund"]}
    results["data"] |= {"dataset": HOSTILE, "notes": [HOSTILE]}
    results |= {"command": HOSTILE, "hardware": HOSTILE, "config": {HOSTILE: HOSTILE}}
    page = build_report(results)
    assert "script" not in PageReader(page).tags
    assert "&lt;script&gt;alert(" in page


def test_the_first_sentence_is_the_headline():
    page = build_report(EVERYTHING | {"sentences": ["lora loses.", "And more."]})
    assert "<h1>lora loses.</h1>" in page
    assert "<li>And more.</li>" in page


def test_without_sentences_a_lost_comparison_is_said_plainly():
    lost = {"a": "lora", "b": "svm", "metric": "accuracy", "difference": -0.03, "low": -0.05, "high": -0.01}
    assert build_verdict(MINIMAL | {"comparisons": [lost]}) == ["lora loses to svm by 3.0 points (95 % -5.0 to -1.0)"]


def test_a_difference_that_may_be_zero_is_not_called_a_win():
    close = {"a": "lora", "b": "svm", "metric": "accuracy", "difference": 0.01, "low": -0.01, "high": 0.03}
    assert describe_comparison(close, MINIMAL) == ("lora does not beat svm: +1.0 points (95 % -1.0 to 3.0)")


def test_a_score_without_any_comparison_claims_no_win():
    assert build_verdict(MINIMAL) == ["lora reaches 90.8 % of accuracy; it was compared with no other model"]


@pytest.mark.parametrize(
    ("low", "high", "p_value", "outcome"),
    [
        (0.01, 0.05, 0.001, "better"),
        (0.01, 0.05, None, "better"),
        (-0.05, -0.01, 0.001, "worse"),
        (-0.01, 0.05, 0.2, "undecided"),
        (0.0, 0.05, None, "undecided"),
        (0.001, 0.05, 0.06, "undecided"),
    ],
)
def test_a_difference_is_shown_when_interval_and_p_value_agree(low, high, p_value, outcome):
    comparison = {"metric": "accuracy", "difference": (low + high) / 2, "low": low, "high": high, "p_value": p_value}
    assert judge_comparison(comparison, MINIMAL) == outcome


def test_a_run_s_model_may_bear_another_name_than_its_method():
    models = {"majority": MINIMAL["models"]["majority"], "linear-probe": MINIMAL["models"]["lora"]}
    comparisons = [EVERYTHING["comparisons"][0] | {"a": "linear-probe"}]
    results = EVERYTHING | {"method": "probe", "models": models, "comparisons": comparisons}
    assert '<tr class="run"><th scope="row">linear-probe</th>' in build_report(results)


def test_a_stricter_level_asks_for_a_smaller_p_value():
    comparison = EVERYTHING["comparisons"][0] | {"p_value": 0.02}
    strict = MINIMAL | {"config": {"evaluation": {"confidence_level": 0.99}}}
    assert judge_comparison(comparison, MINIMAL) == "better"
    assert judge_comparison(comparison, strict) == "undecided"


def test_for_an_error_a_fall_is_better_and_the_smallest_comes_first():
    fall = {"metric": "mean_squared_error", "difference": -0.2, "low": -0.3, "high": -0.1}
    assert judge_comparison(fall, {"lower_is_better": ["mean_squared_error"]}) == "better"
    results = {
        "decides": "mean_squared_error",
        "lower_is_better": ["mean_squared_error"],
        "models": {name: {"mean_squared_error": {"value": value}} for name, value in (("a", 2.0), ("b", 0.5))},
    }
    assert rank_models(results) == ["b", "a"]


def test_a_regression_run_with_another_task_and_without_intervals_is_reported():
    page = build_report(
        MINIMAL
        | {
            "task": "sentence-similarity",
            "decides": "mean_squared_error",
            "lower_is_better": ["mean_squared_error"],
            "models": {
                "mean": {"mean_squared_error": {"value": 2.25}},
                "lora": {"mean_squared_error": {"value": 0.5}},
            },
            "mistakes": [{"row": 3, "text": "a", "text_pair": "b", "label": 4.5, "predicted": 1.25}],
        }
    )
    assert "2.25" in page
    assert '<span class="label">4.5</span>' in page
    assert "225.0 %" not in page
    assert "confidence" not in page


def test_a_loss_that_is_not_a_number_does_not_break_the_curve():
    history = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": float("inf")}, {"step": 3, "loss": 0.5}]
    assert "training from 0.5 at step 3 to 0.5 at step 3" in build_report(MINIMAL | {"history": history})


def test_a_long_text_is_cut_and_its_length_said():
    mistakes = [{"row": 1, "text": "word " * 1000, "label": "a", "predicted": "b", "confidence": 0.9}]
    assert "(5,000 characters in all)" in build_report(MINIMAL | {"mistakes": mistakes})


def test_the_command_shows_no_token():
    page = build_report(MINIMAL | {"command": "x --token hf_abcdefghijklmnop"})
    assert "hf_abc" not in page


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("accuracy", 0.9412, "94.1 %"),
        ("macro_f1", 1.0, "100.0 %"),
        ("mean_squared_error", 0.012341, "0.01234"),
        ("matthews_correlation", 0.5, "0.5"),
        ("accuracy", None, "–"),
        ("accuracy", float("nan"), "–"),
    ],
)
def test_shares_are_in_percent_and_other_metrics_plain(metric, value, text):
    assert format_value(metric, value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.23, "1.2 s"), (97.3, "97 s"), (725, "12 min 5 s"), (12000, "3 h 20 min")]
)
def test_durations_are_in_the_unit_that_fits(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("read /home/me/data/train.csv twice", "read train.csv twice"),
        ("--x=/home/me/a.csv", "--x=a.csv"),
        (r"C:\Users\me\a.csv", "a.csv"),
        ("~/secret/a.csv and file:///tmp/b.csv", "a.csv and b.csv"),
        ("nyu-mll/glue at https://huggingface.co/datasets/x", "nyu-mll/glue at https://huggingface.co/datasets/x"),
        ("recipes/configs/a.yaml", "recipes/configs/a.yaml"),
    ],
)
def test_only_absolute_local_paths_are_cut(given, shown):
    assert hide_local_paths(given) == shown


def test_files_are_listed_from_plain_names_records_and_hub_splits():
    sources = [
        {"split": "train", "files": ["/data/train.csv"], "sha256": "aa", "rows": 5},
        {"split": "validation", "files": [{"path": "/data/v.csv", "sha256": "bb", "rows": 2}], "rows": 2},
        {
            "split": "test",
            "dataset": "nyu-mll/glue",
            "subset": "sst2",
            "hub_split": "test",
            "revision": "cc",
            "rows": 3,
        },
    ]
    listed = [(file["name"], file["rows"], file["digest"]) for file in list_files({"data": {"sources": sources}})]
    assert listed == [("train.csv", 5, "aa"), ("v.csv", 2, "bb"), ("nyu-mll/glue sst2 test", 3, "cc")]


def test_gallery_marks_spans_and_escapes_every_text():
    spans = [
        {"start": 0, "end": 5, "label": "person", "true": True},
        {"start": 2, "end": 7, "label": "overlap", "true": True},
        {"start": 9, "end": 14, "label": "place", "true": False},
    ]
    gallery = [
        {"title": "row 1", "kind": "spans", "text": "Maria in Paris <b>", "spans": spans},
        {"title": "row 2", "kind": "text", "pairs": [["meant", "a <script>"], ["written", "b"]]},
        {"title": "row 3", "kind": "image", "png_base64": "AAAA", "caption": "a digit"},
        {
            "title": "row 4",
            "kind": "weights",
            "text": "so <i> it",
            "words": [{"start": 0, "end": 2, "weight": 0.0}, {"start": 3, "end": 6, "weight": 0.5}],
            "written": "c",
        },
    ]
    page = build_report({**MINIMAL, "gallery": gallery})
    assert '<mark class="right">Maria <small>person</small></mark> in <mark class="wrong">Paris' in page
    assert "overlap" not in page
    assert "a &lt;script&gt;" in page
    assert "a <script>" not in page
    assert 'src="data:image/png;base64,AAAA"' in page
    assert 'so <mark class="attended" style="--weight: 50%">&lt;i&gt;</mark> it' in page


def test_the_answers_before_and_after_tuning_stand_beside_each_other():
    asked = ["user", "where is it?"]
    answers = [["meant", "on its way"], ["untuned", "I am <b>"], ["written", "on the way"]]
    gallery = [{"title": "row 1", "kind": "text", "pairs": [asked, *answers]}]
    page = build_report({**MINIMAL, "gallery": gallery})
    beside = page.split('<div class="answers">')[1].split("</li>")[0]
    assert re.findall(r'source">(\w+)</p><blockquote dir="auto">(.*?)</blockquote>', beside) == [
        ("meant", "on its way"),
        ("untuned", "I am &lt;b&gt;"),
        ("tuned", "on the way"),
    ]
    assert page.count("where is it?") == 1
    gallery[0]["pairs"].remove(answers[1])
    assert '<div class="answers">' not in build_report({**MINIMAL, "gallery": gallery})


def test_report_without_a_gallery_has_no_section_for_it():
    assert 'id="gallery"' not in build_report(MINIMAL)


def test_the_rows_that_were_left_out_are_counted_and_the_languages_named():
    languages = {"texts_by_language": {"de": 930, "en": 70}, "texts": 1000}
    audit = {"level": "quick", "findings": [], "notes": [], "languages": languages}
    data = {**EVERYTHING["data"], "left_out": {"empty text": 3, "no label": 1}}
    page = build_report({**EVERYTHING, "data": data, "audit": audit})
    assert "Left out, as they could not be used: empty text 3, no label 1." in page
    assert "(1,000 texts inspected): de 930, en 70." in page


def test_inputs_out_of_scope_thresholds_and_balance_have_a_section_where_they_were_measured():
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    entry = {
        "score": "nearest", "source": "Sun et al. 2022", "size_bytes": 5_000_000, "validation": {"near": 0.91},
        "test": {"near_test": {"auroc": 0.93, "aupr": 0.9, "fpr_at_95_recall": 0.31}},
    }  # fmt: skip
    thresholds = {
        "kind": "by-label", "metric": "macro_f1", "validation": {"default": 0.4, "common": 0.45, "by-label": 0.47},
        "models": {name: {"accuracy": share, "unlabelled": 0.2} for name in ("default", "chosen")},
        "sentences": ["thresholds help"],
    }  # fmt: skip
    page = build_report(
        MINIMAL
        | {
            "out_of_scope": {"score": "nearest", "scores": [entry], "sentences": ["out of scope is what scores low"]},
            "label_thresholds": thresholds,
            "balance": {"sentences": ["12 times as many"], "unlabelled": 0.125},
        }
    )
    for text in ("out of scope is what scores low", "0.930", "31.0 %", "5.0 MB", "a threshold for each label"):
        assert text in page
    assert "thresholds help" in page
    assert "12 times as many" in page
    assert "12.5 % of the training rows have no label" in page
    assert 'id="out-of-scope"' not in build_report(MINIMAL)
