from __future__ import annotations

import dataclasses

import pytest

from startup_llm.config import DataConfig, EvaluationConfig, ModelConfig
from startup_llm.errors import UserError
from startup_llm.tasks import TASKS, load_task
from startup_llm.tasks.base import OPTIONS_OF_SOME_TASKS

FLAGS = ("remove_overlap", "packing", "skip_bad", "warp_spectrum", "generate")
MAPPINGS = ("speakers", "value_names", "keep_where", "test_where")


@pytest.mark.parametrize("tag", TASKS)
def test_an_option_that_a_task_does_not_use_is_refused_before_anything_is_read(tag, tmp_path):
    task = load_task(tag)
    kinds = {"data": DataConfig(train_file=str(tmp_path / "none.csv")), "model": ModelConfig()}
    kinds["evaluation"] = EvaluationConfig()
    check = {"data": task.load_data, "model": task.check_model_options}
    check["evaluation"] = lambda evaluation: task.load_data(kinds["data"], evaluation)
    used = {"data": task.data_options, "model": task.model_options, "evaluation": task.evaluation_options}
    for section, names in OPTIONS_OF_SOME_TASKS.items():
        assert set(used[section]) <= set(names)
        for name in sorted(set(names) - set(used[section])):
            value = True if name in FLAGS else {"a": ["b"]} if name in MAPPINGS else "x"
            given = dataclasses.replace(kinds[section], **{name: value})
            with pytest.raises(UserError, match=f"{section}.{name} .*: {tag} does not use it; leave it out"):
                check[section](given)


@pytest.mark.parametrize("section", OPTIONS_OF_SOME_TASKS)
def test_each_of_these_options_is_used_by_some_task(section):
    used = {name for tag in TASKS for name in getattr(load_task(tag), f"{section}_options")}
    assert used == set(OPTIONS_OF_SOME_TASKS[section])
