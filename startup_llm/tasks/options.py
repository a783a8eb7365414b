"""The sections of a config whose options the task chooses; read without importing the task, and so without torch."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from startup_llm.config import (
    DEFAULT_TASK,
    BaselinesConfig,
    DataConfig,
    DecisionConfig,
    EvaluationConfig,
    ModelConfig,
    ScratchModelConfig,
    TaskOptions,
)
from startup_llm.errors import UserError, nearest
from startup_llm.tasks import TASKS, find_task

SHARED_SECTIONS: Mapping[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "evaluation": EvaluationConfig,
    "baselines": BaselinesConfig,
    "decision": DecisionConfig,
}
"""Section -> the options that every task has."""


@dataclass(frozen=True)
class Section:
    """A section of a config.

    Attributes:
        kind: The dataclass of its options.
        owner: The task, or the reference model, whose options they are; None if they are not those of one alone.
        known: Every task, or every reference model of the task, with the dataclass of its options.
        others: The reference models of other tasks.
    """

    kind: type
    owner: str | None
    known: tuple[tuple[str, type], ...]
    others: tuple[tuple[str, type], ...] = ()

    def has(self, option: str) -> bool:
        """Say whether the section has an option."""
        return option in list_options(self.kind)

    def find_owners(self, option: str) -> list[str]:
        """Return the tasks or reference models that have an option; those of other tasks if none of this one has."""
        for pairs in (self.known, self.others):
            if owners := list(dict.fromkeys(owner for owner, kind in pairs if option in list_options(kind))):
                return owners
        return []

    def is_default(self, option: str, value: Any) -> bool:
        """Say whether a value is the default of an option for a task or reference model that has it."""
        kinds = [kind for _, kind in (*self.known, *self.others) if option in list_options(kind)]
        return any(_as_plain(getattr(kind(), option)) == _as_plain(value) for kind in kinds)

    def explain_unknown(self, name: str, options: Iterable[str]) -> str:
        """Return the line that refuses an option.

        Args:
            name: Its dotted name.
            options: Dotted names that may be meant.
        """
        option = name.split(".")[1] if "." in name else name
        owners = [] if self.owner and self.has(option) else self.find_owners(option)
        if owners:
            place = f" for {self.owner}" if self.owner else ""
            return f"unknown option {name}{place}; it belongs to {', '.join(owners)}"
        return f"unknown option {name}{nearest(name, options)}"


def list_options(kind: type) -> list[str]:
    """Return the names of a section's options."""
    return [part.name for part in dataclasses.fields(kind)]


def load_options(tag: str) -> TaskOptions:
    """Return the sections of a task: those of `options.py` beside its module, else the shared ones.

    Raises:
        UserError: If there is no such task.
    """
    module = f"{find_task(tag)[0].rpartition('.')[0]}.options"
    if importlib.util.find_spec(module) is None:
        return TaskOptions()
    return importlib.import_module(module).OPTIONS[tag]


def build_section(tag: str, name: str, values: Mapping[str, Any]) -> Any:
    """Build a section of a task from values that a run stored, or that were given before the task was known.

    Options of other tasks are left out at their default: older runs stored those of all tasks.

    Args:
        tag: The task.
        name: data, model, evaluation, baselines or decision.
        values: Options by name.

    Raises:
        UserError: If an option that the task does not have is not at its default.
    """
    section = choose_section(name, tag)
    for option in values.keys() - set(list_options(section.kind)):
        if not section.is_default(option, values[option]):
            own = [f"{name}.{option}" for option in list_options(section.kind)]
            raise UserError(section.explain_unknown(f"{name}.{option}", own))
    own = {option: value for option, value in values.items() if section.has(option)}
    for option, value in own.items():
        part = getattr(section.kind(), option)
        if dataclasses.is_dataclass(part) and not isinstance(part, type) and isinstance(value, dict):
            own[option] = dataclasses.replace(part, **value)
    return section.kind(**own)


def _as_plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def choose_sections(config_class: type, chosen: Mapping[str, str]) -> dict[str, Section]:
    """Return the sections of a config whose options depend on the task or on the reference model.

    Args:
        config_class: A recipe's config. Without a field `task` its sections stay as they are declared; a task of None
            stands for any task.
        chosen: The values of `task` and `model.name`, as far as they are given.

    Raises:
        UserError: If there is no such task, or the task has no such reference model.
    """
    hints = get_type_hints(config_class)
    tag = chosen.get("task") or getattr(config_class, "task", None)
    sections = {}
    for field, hint in hints.items():
        if hint is ScratchModelConfig:
            sections[field] = _choose_scratch_model(tag or DEFAULT_TASK, chosen.get(f"{field}.name"))
        for name, shared in SHARED_SECTIONS.items():
            if isinstance(hint, type) and issubclass(hint, shared):
                declared = hint if hint is not shared or "task" not in hints else None
                sections[field] = choose_section(name, tag, declared)
    return sections


def choose_section(name: str, tag: str | None, declared: type | None = None) -> Section:
    """Return a section of a task, or one with the options of all tasks.

    Args:
        name: data, model, evaluation, baselines or decision.
        tag: The task; None for any.
        declared: The dataclass of the options of a recipe that has one task alone.

    Raises:
        UserError: If there is no such task.
    """
    known = tuple((other, getattr(load_options(other), name)) for other in TASKS)
    if declared is not None:
        return Section(declared, None, known)
    if tag is None:
        return Section(_join([kind for _, kind in known]), None, known)
    return Section(getattr(load_options(tag), name), tag, known)


def _join(kinds: Iterable[type]) -> type:
    """Return a dataclass with the options of several sections."""
    different = list(dict.fromkeys(kinds))
    leaves = [kind for kind in different if not any(kind in other.__mro__[1:] for other in different)]
    return dataclass(frozen=True)(type("SectionOfAnyTask", tuple(leaves), {"__doc__": leaves[0].__doc__}))


def _choose_scratch_model(tag: str, name: str | None) -> Section:
    models = load_options(tag).scratch_models
    if not models:
        with_models = [other for other in TASKS if load_options(other).scratch_models]
        raise UserError(f"{tag} has no reference model to train from scratch; {', '.join(with_models)} have")
    name = name or next(iter(models))
    if name not in models:
        plural = "s" * (len(models) > 1)
        raise UserError(f"model.name {name}: {tag} has the reference model{plural} {' and '.join(models)}")
    others = [
        (task if other == name else other, kind)
        for task in TASKS
        for other, kind in load_options(task).scratch_models.items()
    ]
    return Section(models[name], name, tuple(models.items()), tuple(others))
