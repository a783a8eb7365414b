from pathlib import Path

import pytest

from startup_llm.errors import UserError
from startup_llm.evaluation.suites import find_missed, match_labels, parse_limits, read_suite
from startup_llm.tasks import list_metric_names
from startup_llm.tasks.options import choose_section, list_options

SUITES = Path(__file__).parents[2] / "recipes" / "suites"
OPTIONS = list_options(choose_section("data", None).kind)
GLUE_METRICS = {  # https://gluebenchmark.com/faq
    "cola": ("matthews_correlation",),
    "sst2": ("accuracy",),
    "mrpc": ("f1", "accuracy"),
    "stsb": ("pearson", "spearman"),
    "qqp": ("f1", "accuracy"),
    "mnli": ("accuracy",),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
}


def test_glue_has_its_nine_tasks_and_official_metrics():
    assert {
        entry.name: entry.metrics for entry in read_suite("glue", SUITES, list_metric_names, OPTIONS)
    } == GLUE_METRICS


@pytest.mark.parametrize("file", sorted(SUITES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_suite_can_be_read(file):
    for entry in read_suite(str(file), SUITES, list_metric_names, OPTIONS):
        assert entry.data["dataset"]
        assert entry.metrics


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("one: {dat: {}}", "one.data is None"),
        ("one: {data: {datset: x}}", "did you mean data.dataset?"),
        ("one: {data: {dataset: x}, metrics: [acuracy]}", "unknown metric acuracy; did you mean accuracy?"),
        ("one: {data: {dataset: x}, metrics: [zzz]}", "unknown metric zzz; metrics: accuracy, macro_f1"),
        ("one: {data: {dataset: x}, metrics: [bleu], task: summarization}", "unknown metric bleu; metrics: rouge_l"),
        ("- one", "it holds a list"),
        ("one: [", "no YAML file"),
    ],
)
def test_a_broken_suite_is_told(tmp_path, text, word):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError) as told:
        read_suite(str(tmp_path / "own.yaml"), SUITES, list_metric_names, OPTIONS)
    assert word in str(told.value)


def test_labels_are_matched_by_name():
    assert match_labels(["b", "c", "a"], ["a", "b", "c"], "m", "d") == [2, 0, 1]
    with pytest.raises(UserError, match="m alone has c; d alone has x"):
        match_labels(["a", "c"], ["a", "x"], "m", "d")


def test_a_limit_is_a_least_value_and_for_an_error_a_most():
    limits = parse_limits("accuracy=0.9, mean_squared_error=0.2")
    figures = {"accuracy": {"value": 0.9}, "mean_squared_error": {"value": 0.3}}
    entries = [{"name": "x", "metrics": figures, "lower_is_better": ["mean_squared_error"]}]
    assert find_missed(limits, entries) == ["x: mean_squared_error 0.3 is above 0.2"]
    entries[0]["metrics"] = {"accuracy": {"value": float("nan")}, "mean_squared_error": {"value": 0.2}}
    assert find_missed(limits, entries) == ["x: accuracy nan is under 0.9"]
