"""The command line: a YAML file (`--config`) and dotted options that override it become a recipe's session."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from startup_llm.config import (
    DEFAULT_DATASET,
    REFUSED_OPTIMIZERS,
    SHARED_TRAIN_DEFAULTS,
    TRAIN_DEFAULTS,
    TRAIN_FIELDS,
    TRAIN_RANGES,
    DataConfig,
    Range,
    ScratchModelConfig,
    TrainField,
    default_run_dir,
    find_range,
)
from startup_llm.errors import UserError, nearest
from startup_llm.plain_data import read_yaml_mapping
from startup_llm.reporter import Reporter
from startup_llm.run_folder import AUTO, RunFolder, choose_run_dir
from startup_llm.session import Session
from startup_llm.tasks.options import Section, choose_sections

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from jsonargparse import ArgumentParser

Config = TypeVar("Config", bound="DataclassInstance")

CHOOSING = ("task", "method", "model.name")
"""Options that are read first, because they choose the options of the sections and their defaults."""


def read_session(
    recipe: str,
    config_class: type[Config],
    reporter: Reporter,
    *,
    train_section: bool = False,
    one_process: bool = False,
) -> Session[Config]:
    """Read the command line of a recipe.

    Args:
        recipe: The recipe's `__file__`.
        config_class: One of the config dataclasses.
        reporter: What the main process shows things by.
        train_section: Whether there is a `train` section.
        one_process: Whether the recipe runs in one process, which `python` starts.

    Raises:
        UserError: If an option is wrong, or there are several processes where one is expected.
    """
    config, section, text = parse_config(config_class, train_section=train_section)
    file = Path(recipe)
    path = f"recipes/{file.name}"
    if one_process:
        require_one_process(path)
    hide_library_warnings()
    launcher = ["python"] if one_process else ["accelerate", "launch"]
    return Session(
        config,
        train_section=section,
        config_text=text,
        recipe=file.absolute(),
        command=shlex.join([*launcher, path, *sys.argv[1:]]),
        reporter=reporter if os.environ.get("RANK", "0") == "0" else Reporter(),
    )


@contextmanager
def open_session(
    recipe: str,
    config_class: type[Config],
    reporter: Reporter,
    *,
    name_run: Callable[[Any], str] | None = None,
    train_section: bool = False,
    one_process: bool = False,
) -> Iterator[Session[Config]]:
    """Read the command line of a recipe and hold its run folder while the block lasts.

    Args:
        recipe: The recipe's `__file__`.
        config_class: One of the config dataclasses, with `run_dir` and `overwrite`.
        reporter: What the main process shows things by.
        name_run: Gives the folder of a config without `run_dir`; default its default, or runs/DATASET-METHOD.
        train_section: Whether there is a `train` section.
        one_process: Whether the recipe runs in one process, which `python` starts.

    Raises:
        UserError: If an option is wrong, or the folder may not be written.
    """
    session = read_session(recipe, config_class, reporter, train_section=train_section, one_process=one_process)
    config: Any = session.config
    resume = getattr(config, "resume", False)
    name_run = name_run or _name_run
    path = choose_run_dir(name_run(config), resume=resume) if config.run_dir == AUTO else config.run_dir
    path = path or name_run(config)
    with RunFolder(path, overwrite=config.overwrite, resume=resume, config=config) as run:
        yield replace(session, folder=run)


def _name_run(config: Any) -> str:
    default = next(part.default for part in fields(config) if part.name == "run_dir")
    return default if isinstance(default, str) else default_run_dir(config.data, config.method)


def hide_library_warnings() -> None:
    """Keep the warnings that libraries address to those who write code from those who run it.

    Warnings about this package's own code stay, and `PYTHONWARNINGS=default` or `python -W` shows all.
    """
    if not sys.warnoptions:
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=r"(?!startup_llm\b|__main__)")


def require_one_process(recipe: str) -> None:
    """Refuse to be one of several processes, which would all write the same files.

    Args:
        recipe: Path of the recipe as it is typed, such as recipes/evaluate.py.

    Raises:
        UserError: If a launcher started more than one.
    """
    processes = int(os.environ.get("WORLD_SIZE") or 1)
    if processes > 1:
        raise UserError(f"{recipe} runs in one process, got {processes}; start it with python {recipe}")


def parse_config(
    config_class: type[Config], argv: Sequence[str] | None = None, *, train_section: bool = False
) -> tuple[Config, dict[str, Any], str]:
    """Read a YAML (`--config`) and dotted overrides.

    The task, and for a run from scratch the reference model, choose the options of the sections, which `--help` lists.
    It leaves the `train` section out: `--train.help` lists its 130 fields, because reading them means importing torch.

    Args:
        config_class: One of the config dataclasses; its docstring is the recipe's description.
        argv: Command-line words; default `sys.argv[1:]`.
        train_section: Whether there is a `train` section, which is `transformers.TrainingArguments`. The config
            then has a field `method` or `model.name`, which chooses the section's defaults.

    Returns:
        The config, the `train` section as keyword arguments (empty without one), and the whole as YAML.

    Raises:
        UserError: On an unknown option (with the nearest one), an option of another task, a value of the wrong type or
            out of range, or a broken YAML file.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--train.help" in argv and train_section:
        _build_parser(None, {}, train_section=True, documented=True).print_help()
        sys.exit(0)
    _check_config_files(argv)
    chosen = _read_chosen(argv)
    sections = choose_sections(config_class, chosen)
    if any(word in ("-h", "--help") for word in argv):
        _print_help(config_class, sections, train_section)
        sys.exit(0)
    method = _find_method(config_class, chosen.get("method"), sections["model"].kind()) if train_section else None
    parser = _find_parser(config_class, tuple(sections.items()), method)
    argv = _drop_defaults_of_others(_complete_flags(parser, argv), sections)
    parsed = _parse(parser, argv, sections)
    train = _check_train_section(vars(parsed.train)) if train_section else {}
    text = parser.dump(parsed)
    values = vars(parser.instantiate(parsed))
    config = config_class(**{part.name: values[part.name] for part in fields(config_class)})
    check_ranges(config)
    _check_named_rows(config, argv)
    return config, train, text


def _check_named_rows(config: Any, argv: Sequence[str]) -> None:
    """Refuse to fall back on the shipped rows where an option takes the place of rows and names none.

    A stored config has null for every place without rows, so that the command line alone is checked.
    """
    data = getattr(config, "data", None)
    if not isinstance(data, DataConfig) or data.dataset or data.data_dir or data.train_file:
        return
    for _, name, value in _list_given(argv):
        if name in ("data.train_file", "data.data_dir", "data.dataset") and value.strip().lower() in ("", "~", "null"):
            raise UserError(
                f"option {name}: {value!r} names no rows; name a file, a folder or a dataset, or leave the option out "
                f"for the shipped rows ({DEFAULT_DATASET})"
            )


def check_ranges(config: Any, prefix: str = "") -> None:
    """Check the numbers of a config and of its sections.

    Args:
        config: A config dataclass.
        prefix: What stands before the names of its fields, such as `data.`.

    Raises:
        UserError: If a number is outside the range of its field, or a value names nothing.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for part in fields(config):
        name, value = f"{prefix}{part.name}", getattr(config, part.name)
        if is_dataclass(value):
            check_ranges(value, f"{name}.")
        elif value == "" or (value == [] and part.default is None):
            raise UserError(f"option {name}: {value!r} names nothing; give a value, or leave the option out")
        elif (allowed := find_range(hints[part.name])) is not None:
            _check_range(name, value, allowed)


def _check_range(name: str, value: Any, allowed: Range) -> None:
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, (int, float)) and number not in allowed:
            raise UserError(f"option {name}: expected {allowed}, got {number}")


def _find_method(config_class: type[Config], method: str | None, model: Any) -> str:
    """Return what chooses the defaults of the `train` section: the reference model's name, else the method."""
    if isinstance(model, ScratchModelConfig):
        return model.name
    return method or str({part.name: part.default for part in fields(config_class)}["method"])


def _check_train_section(section: dict[str, Any]) -> dict[str, Any]:
    """Return the `train` section without what the run itself decides, or cannot honour."""
    from transformers import TrainingArguments

    defaults = {part.name: part.default for part in fields(TrainingArguments)} | dict(SHARED_TRAIN_DEFAULTS)
    for name, field in TRAIN_FIELDS.items():
        is_given = section.get(name) not in (None, [], defaults.get(name))
        if field.use != "honoured":
            section.pop(name, None)
        if is_given:
            _check_given(section, name, field)
    for name, allowed in TRAIN_RANGES.items():
        _check_range(f"train.{name}", section.get(name), allowed)
    if str(section.get("optim")).startswith(REFUSED_OPTIMIZERS):
        raise UserError(
            f"train.optim {section['optim']} takes gradients in a way of its own, which a run cannot honour; "
            "use another, such as adamw_torch or adafactor"
        )
    return section


def _check_given(section: Mapping[str, Any], name: str, field: TrainField) -> None:
    """Refuse a field that is given and would be ignored."""
    if field.use != "honoured":
        end = "is set by the run itself" if field.use == "set" else "cannot be honoured by a run"
        raise UserError(f"train.{name} {end}; {field.advice}")
    if field.needs and not _is_needed(needed := section.get(field.needs), field):
        wanted = field.values[0] if field.values else "VALUE"
        raise UserError(
            f"train.{name} {section[name]!r} is ignored where train.{field.needs} is {needed!r}; "
            f"add --train.{field.needs} {wanted}, or leave it out"
        )


def _is_needed(value: Any, field: TrainField) -> bool:
    """Say whether the option that a field needs has a value with which the field is not ignored."""
    if field.values:
        return str(getattr(value, "value", value)) in field.values
    return value not in (None, 0, "none", [], ["none"])


def _read_chosen(argv: Sequence[str]) -> dict[str, str]:
    """Return the last value of each option that chooses others; a file that cannot be read is refused later."""
    chosen: dict[str, str] = {}
    for _, name, value in _list_given(argv):
        content: dict[str, Any] = {name: value}
        if name == "config":
            content = _load_yaml(value)
            model = content.get("model")
            content |= {"model.name": model["name"]} if isinstance(model, dict) and "name" in model else {}
        chosen |= {option: content[option] for option in CHOOSING if isinstance(content.get(option), str)}
    return chosen


def _list_given(argv: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Give place, name and value of each option."""
    for place, (word, following) in enumerate(zip(argv, [*argv, ""][1:], strict=True)):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield place, name, value if equals else following


def _load_yaml(path: str) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty one where it cannot be read."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _drop_defaults_of_others(argv: Sequence[str], sections: Mapping[str, Section]) -> list[str]:
    """Leave out of each YAML file the options of other tasks and models that have their default.

    Older runs stored the options of all tasks. The parser takes a file's content in place of its name.
    """
    import yaml

    words = list(argv)
    for place, name, value in _list_given(argv):
        content = _load_yaml(value) if name == "config" else {}
        dropped = [
            values.pop(option)
            for field, section in sections.items()
            if isinstance(values := content.get(field), dict)
            for option in list(values)
            if not section.has(option) and section.is_default(option, values[option])
        ]
        if dropped:
            at = place if "=" in words[place] else place + 1
            words[at] = f"--config={yaml.safe_dump(content)}" if at == place else yaml.safe_dump(content)
    return words


def _print_help(config_class: type, sections: Mapping[str, Section], train_section: bool) -> None:
    parser = _build_parser(config_class, sections, train_section=False, documented=True)
    lines = ["train.NAME: a field of transformers.TrainingArguments; list them with --train.help."] * train_section
    if owners := list(dict.fromkeys(section.owner for section in sections.values() if section.owner)):
        options = "--task TASK" + " --model.name NAME" * any(section.others for section in sections.values())
        lines.append(f"These are the options of {' and '.join(owners)}; list those of others with {options} --help.")
    parser.epilog = " ".join(lines)
    for action in parser._actions:
        if action.dest == "model.name":
            names = " or ".join(name for name, _ in sections["model"].known)
            action.help = f"Name of the reference model: {names}."
    parser.print_help()


@functools.lru_cache(maxsize=16)
def _find_parser(config_class: type, sections: tuple[tuple[str, Section], ...], method: str | None) -> ArgumentParser:
    """Return the parser of a config whose `train` section, if a method is given, has the method's defaults.

    It is kept, because building it takes longer than parsing.
    """
    parser = _build_parser(config_class, dict(sections), train_section=method is not None)
    if method is not None:
        defaults = {**SHARED_TRAIN_DEFAULTS, **TRAIN_DEFAULTS.get(method, {})}
        parser.set_defaults({f"train.{name}": value for name, value in defaults.items()})
    return parser


def _build_parser(
    config_class: type | None, sections: Mapping[str, Section], train_section: bool, documented: bool = False
) -> ArgumentParser:
    """Build the parser; `documented` reads the string under each field from the source, which takes time."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=documented)
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False, prog=Path(sys.argv[0]).name)
    parser.add_argument("--config", action="config", help="YAML file; dotted options override it.")
    if config_class is not None:
        parser.description = (config_class.__doc__ or "").strip()
        nested = {name: hint for name, hint in get_type_hints(config_class).items() if is_dataclass(hint)}
        parser.add_class_arguments(config_class, fail_untyped=True, skip=set(nested))
        for name, hint in nested.items():
            parser.add_class_arguments(sections[name].kind if name in sections else hint, name, fail_untyped=True)
    if train_section:
        from transformers import TrainingArguments

        parser.add_class_arguments(TrainingArguments, "train", instantiate=False)
    return parser


def _check_config_files(argv: Sequence[str]) -> None:
    """Read each file that --config names within limits, before it is read for its options.

    Raises:
        UserError: If one is not a regular file, no YAML mapping, or stands for too much.
    """
    for _, name, file in _list_given(argv):
        if name == "config" and os.path.lexists(file):
            read_yaml_mapping(Path(file))


def _options(parser: ArgumentParser) -> dict[str, Any]:
    """Map each dotted option name to the type that it takes."""
    return {action.dest: getattr(action, "_typehint", None) for action in parser._actions}


def _complete_flags(parser: ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Let `--resume` stand for `--resume true`."""
    flags = {f"--{name}" for name, typehint in _options(parser).items() if typehint is bool}
    following = [*argv, "--"][1:]
    return [
        f"{word}=true" if word in flags and after.startswith("--") else word
        for word, after in zip(argv, following, strict=True)
    ]


def _parse(parser: ArgumentParser, argv: Sequence[str], sections: Mapping[str, Section]) -> Any:
    from argparse import ArgumentError

    try:
        return parser.parse_args(list(argv))
    except ArgumentError as error:
        message = _explain(str(error), list(_options(parser)), sections)
        if message.startswith("Problems parsing config") and "--config" in argv:
            message = f"{argv[list(argv).index('--config') + 1]} is no YAML file: {message.partition(':')[2].strip()}"
        raise UserError(message) from None


def _explain(message: str, options: Sequence[str], sections: Mapping[str, Section]) -> str:
    """Turn jsonargparse's message into one line that names the option, what was given and what is expected."""
    if match := re.search(r"unrecognized arguments: (?:--)?([^\s=]+)", message):
        name = match[1]
    elif match := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        name = f"{match[1]}.{match[2]}"
    elif match := re.search(r"Option '([^']+)' is not accepted", message):
        name = match[1]
    else:
        name = None
    if name is not None:
        section = sections.get(name.partition(".")[0])
        return section.explain_unknown(name, options) if section else f"unknown option {name}{nearest(name, options)}"
    if match := re.search(r'Parser key "([^"]+)":\s*Expected (.*)\. Got value: (.*)', message, re.DOTALL):
        expected = re.sub(r"(an? )?(<class '|typing\.Literal\[)|'>|\]$", "", match[2])
        return f"option {match[1]}: expected {expected}, got {match[3]}"
    if match := re.search(r'Parser key "([^"]+)":.*Subtypes: (.*?)\n.*Given value: (.*)', message, re.DOTALL):
        expected = re.sub(r"<class '|'>|typing\.Literal|[\[\]]", "", match[2])
        expected = expected.replace("NoneType", "null").replace(", ", " or ")
        return f"option {match[1]}: expected {expected}, got {match[3]}"
    if match := re.search(r"File does not exist: '(.*)'", message):
        path = Path(match[1])
        return f"no such file: {path}{nearest(str(path), [str(other) for other in path.parent.glob('*.yaml')])}"
    return message
