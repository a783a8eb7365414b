"""Options that name no rows, and runs on the rows that come with the package."""

from __future__ import annotations

import pytest

from startup_llm.command_line import parse_config
from startup_llm.config import DataConfig, FinetuneConfig
from startup_llm.errors import UserError
from startup_llm.evaluation.suites import parse_limits
from startup_llm.tasks import load_task
from startup_llm.tasks.text_classification.options import LabelledTextData


@pytest.mark.parametrize("option", ["dataset", "data_dir", "train_file", "validation_file", "test_file"])
@pytest.mark.parametrize("value", ["", " ", [], ["a.csv", ""]])
def test_an_option_that_names_nothing_is_refused(option, value):
    with pytest.raises(UserError, match=rf"data\.{option} .* names nothing"):
        DataConfig(**{option: value})


@pytest.mark.parametrize("word", ["", "[]", "null", "~", '[""]'])
@pytest.mark.parametrize("joined", [True, False])
def test_an_empty_file_on_the_command_line_does_not_become_the_shipped_rows(word, joined):
    words = [f"--data.train_file={word}"] if joined else ["--data.train_file", word]
    with pytest.raises(UserError, match=r"data\.train_file.* names no(thing| rows)"):
        parse_config(FinetuneConfig, words)


def test_null_takes_a_config_s_dataset_away_where_other_rows_are_named(tmp_path):
    (tmp_path / "a.yaml").write_text("data:\n  dataset: me/rows\n  train_file: null\n")
    words = ["--config", str(tmp_path / "a.yaml"), "--data.dataset", "null"]
    assert parse_config(FinetuneConfig, [*words, "--data.train_file", "a.csv"])[0].data.named_dataset is None
    with pytest.raises(UserError, match=r"data\.dataset: 'null' names no rows"):
        parse_config(FinetuneConfig, words)


def test_a_stored_config_without_names_is_read_again(tmp_path):
    text = parse_config(FinetuneConfig, [])[2]
    (tmp_path / "config.yaml").write_text(text)
    assert parse_config(FinetuneConfig, ["--config", str(tmp_path / "config.yaml")])[0].data.train_file is None


def test_shipped_rows_are_named_in_the_first_line_and_others_are_not(tmp_path):
    task = load_task("text-classification")
    assert (
        task.load_data(LabelledTextData())
        .describe()
        .startswith("the shipped rows helpdesk, not your own: 1,500 train")
    )
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"word {n},{'ab'[n % 2]}\n" for n in range(40)))
    own = task.load_data(LabelledTextData(train_file=str(tmp_path / "train.csv")))
    assert "shipped" not in own.describe()


@pytest.mark.parametrize("text", ["", " ", "accuracy", "accuracy=", "accuracy=0.9,"])
def test_limits_that_say_nothing_are_refused(text):
    with pytest.raises(UserError, match="expected METRIC=NUMBER"):
        parse_limits(text)
    assert parse_limits(None) == {}
