from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from startup_llm.command_line import parse_config
from startup_llm.config import DataConfig, EvaluationConfig, FinetuneConfig, ModelConfig, TaskOptions
from startup_llm.errors import UserError
from startup_llm.tasks import TASKS
from startup_llm.tasks.options import SHARED_SECTIONS, build_section, choose_section, list_options, load_options

ROOT = Path(__file__).parents[2]


def list_others(tag: str, section: str) -> list[str]:
    """Return the options of a section that other tasks have and this one has not."""
    every = {option for other in TASKS for option in list_options(getattr(load_options(other), section))}
    return sorted(every - set(list_options(getattr(load_options(tag), section))))


@pytest.mark.parametrize("tag", TASKS)
def test_a_task_s_sections_extend_the_shared_ones(tag):
    options = load_options(tag)
    for name, shared in SHARED_SECTIONS.items():
        assert issubclass(getattr(options, name), shared)
    assert {name: kind().name for name, kind in options.scratch_models.items()} == {
        name: name for name in options.scratch_models
    }


def test_a_task_without_options_of_its_own_has_the_shared_sections(monkeypatch):
    monkeypatch.setitem(TASKS, "toy", "startup_llm.errors:Toy")
    assert load_options("toy") == TaskOptions()


@pytest.mark.parametrize("section", SHARED_SECTIONS)
def test_the_section_of_any_task_has_the_options_of_all(section):
    every = {option for tag in TASKS for option in list_options(getattr(load_options(tag), section))}
    kind = choose_section(section, None).kind
    assert set(list_options(kind)) == every
    defaults = {option: getattr(kind(), option) for option in every}
    for tag in TASKS:
        own = getattr(load_options(tag), section)()
        assert {option: getattr(own, option) for option in list_options(type(own))}.items() <= defaults.items()


@pytest.mark.parametrize("tag", TASKS)
def test_a_stored_section_with_the_options_of_all_tasks_is_read(tag):
    for section in SHARED_SECTIONS:
        stored = dataclasses.asdict(choose_section(section, None).kind())
        assert build_section(tag, section, stored) == getattr(load_options(tag), section)()


@pytest.mark.parametrize("tag", TASKS)
def test_a_stored_option_of_another_task_is_refused_where_it_was_changed(tag):
    for option in list_others(tag, "data"):
        with pytest.raises(UserError, match=rf"^unknown option data\.{option} for {tag}; it belongs to [a-z, -]+$"):
            build_section(tag, "data", {option: "changed"})


def test_a_stored_option_that_no_task_has_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"^unknown option data\.box_formt; did you mean data\.box_format\?$"):
        build_section("object-detection", "data", {"box_formt": "xyxy"})


@pytest.mark.parametrize("tag", TASKS)
def test_help_of_a_task_names_its_options_alone(tag, capsys):
    with pytest.raises(SystemExit):
        parse_config(FinetuneConfig, ["--task", tag, "--help"])
    text = capsys.readouterr().out
    for section in SHARED_SECTIONS:
        shown = set(re.findall(rf"--{section}\.(\w+)", text))
        assert shown == set(list_options(getattr(load_options(tag), section)))
        assert not shown & set(list_others(tag, section))


def test_help_of_a_reference_model_names_its_options_alone():
    done = subprocess.run(
        [sys.executable, "recipes/pretrain.py", "--task", "image-classification", "--model.name", "vit", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    vit = load_options("image-classification").scratch_models["vit"]
    assert set(re.findall(r"--model\.(\w+)", done.stdout)) == set(list_options(vit))
    assert "Name of the reference model: dnn or vit." in " ".join(done.stdout.split())


@pytest.mark.cold_start
def test_options_are_read_without_the_libraries_that_a_task_needs():
    code = (
        "import sys\n"
        "from startup_llm.tasks import TASKS\n"
        "from startup_llm.tasks.options import load_options\n"
        "for tag in TASKS:\n    load_options(tag)\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_option_is_documented_once():
    """A field without a string under it, here or in a base, would have an empty `--help`."""
    from docstring_parser import parse_from_object

    kinds = [kind for tag in TASKS for kind in (load_options(tag).data, load_options(tag).model)]
    kinds += [kind for tag in TASKS for kind in load_options(tag).scratch_models.values()]
    for kind in dict.fromkeys([*kinds, DataConfig, ModelConfig, EvaluationConfig]):
        documented = {
            parameter.arg_name
            for base in kind.__mro__[:-1]
            for parameter in parse_from_object(base).params
            if parameter.description
        }
        assert set(list_options(kind)) <= documented, kind
