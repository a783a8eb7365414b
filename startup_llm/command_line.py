"""The command line: a YAML file (`--config`) and dotted options that override it become a config."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from startup_llm.config import (
    RESERVED_TRAIN_FIELDS,
    SHARED_TRAIN_DEFAULTS,
    TRAIN_DEFAULTS,
    TRAIN_RANGES,
    Range,
    find_range,
)
from startup_llm.errors import UserError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from jsonargparse import ArgumentParser

Config = TypeVar("Config", bound="DataclassInstance")


def parse_config(
    config_class: type[Config], argv: Sequence[str] | None = None, *, train_section: bool = False
) -> tuple[Config, dict[str, Any], str]:
    """Read a YAML (`--config`) and dotted overrides.

    `--help` leaves the `train` section out: its 130 fields are listed by `--train.help`, because reading them means
    importing torch.

    Args:
        config_class: One of the config dataclasses; its docstring is the recipe's description.
        argv: Command-line words; default `sys.argv[1:]`.
        train_section: Whether there is a `train` section, which is `transformers.TrainingArguments`. The config
            then has a field `method` or `model.name`, which chooses the section's defaults.

    Returns:
        The config, the `train` section as keyword arguments (empty without one), and the whole as YAML.

    Raises:
        UserError: On an unknown option (with the nearest one), a value of the wrong type, or a broken YAML file.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--train.help" in argv and train_section:
        _build_parser(None, train_section=True, documented=True).print_help()
        sys.exit(0)
    if any(word in ("-h", "--help") for word in argv):
        parser = _build_parser(config_class, train_section=False, documented=True)
        if train_section:
            parser.epilog = "train.NAME: any field of transformers.TrainingArguments; list them with --train.help"
        parser.print_help()
        sys.exit(0)
    parser = _build_parser(config_class, train_section)
    argv = _complete_flags(parser, argv)
    train: dict[str, Any] = {}
    if train_section:  # the method chooses the section's defaults, so it is read first, and nothing is printed yet
        parsed = _parse(parser, [word for word in argv if not word.startswith("--print_config")])
        defaults = {**SHARED_TRAIN_DEFAULTS, **TRAIN_DEFAULTS[parsed.get("method") or parsed.model.name]}
        parser.set_defaults({f"train.{name}": value for name, value in defaults.items()})
    parsed = _parse(parser, argv)
    if train_section:
        for name, advice in RESERVED_TRAIN_FIELDS.items():
            if vars(parsed.train).pop(name, None):
                raise UserError(f"train.{name} is set by the run itself; {advice}")
        train = vars(parsed.train)
        for name, allowed in TRAIN_RANGES.items():
            _check_range(f"train.{name}", train.get(name), allowed)
    text = parser.dump(parsed)
    values = vars(parser.instantiate(parsed))
    config = config_class(**{part.name: values[part.name] for part in fields(config_class)})
    check_ranges(config)
    return config, train, text


def check_ranges(config: Any, prefix: str = "") -> None:
    """Check the numbers of a config and of its sections.

    Args:
        config: A config dataclass.
        prefix: What stands before the names of its fields, such as `data.`.

    Raises:
        UserError: If a number is outside the range of its field.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for part in fields(config):
        name, value = f"{prefix}{part.name}", getattr(config, part.name)
        if is_dataclass(value):
            check_ranges(value, f"{name}.")
        elif (allowed := find_range(hints[part.name])) is not None:
            _check_range(name, value, allowed)


def _check_range(name: str, value: Any, allowed: Range) -> None:
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, (int, float)) and number not in allowed:
            raise UserError(f"option {name}: expected {allowed}, got {number}")


def _build_parser(config_class: type | None, train_section: bool, documented: bool = False) -> ArgumentParser:
    """Build the parser; `documented` reads the string under each field from the source, which takes time."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=documented)
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False, prog=Path(sys.argv[0]).name)
    parser.add_argument("--config", action="config", help="YAML file; dotted options override it.")
    if config_class is not None:
        parser.description = (config_class.__doc__ or "").strip()
        parser.add_class_arguments(config_class, fail_untyped=True)
    if train_section:
        from transformers import TrainingArguments

        parser.add_class_arguments(TrainingArguments, "train", instantiate=False)
    return parser


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


def _parse(parser: ArgumentParser, argv: Sequence[str]) -> Any:
    from argparse import ArgumentError

    try:
        return parser.parse_args(list(argv))
    except ArgumentError as error:
        message = _explain(str(error), list(_options(parser)))
        if message.startswith("Problems parsing config") and "--config" in argv:
            message = f"{argv[list(argv).index('--config') + 1]} is no YAML file: {message.partition(':')[2].strip()}"
        raise UserError(message) from None


def _explain(message: str, options: Sequence[str]) -> str:
    """Turn jsonargparse's message into one line that names the option, what was given and what is expected."""
    if found := re.search(r"unrecognized arguments: (?:--)?([^\s=]+)", message):
        name = found[1]
    elif found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        name = f"{found[1]}.{found[2]}"
    elif found := re.search(r"Option '([^']+)' is not accepted", message):
        name = found[1]
    else:
        name = None
    if name is not None:
        return f"unknown option {name}{nearest(name, options)}"
    if found := re.search(r'Parser key "([^"]+)":\s*Expected (.*)\. Got value: (.*)', message, re.DOTALL):
        expected = re.sub(r"(an? )?(<class '|typing\.Literal\[)|'>|\]$", "", found[2])
        return f"option {found[1]}: expected {expected}, got {found[3]}"
    if found := re.search(r'Parser key "([^"]+)":.*Subtypes: (.*?)\n.*Given value: (.*)', message, re.DOTALL):
        expected = re.sub(r"<class '|'>|[\[\]]", "", found[2]).replace("NoneType", "null").replace(", ", " or ")
        return f"option {found[1]}: expected {expected}, got {found[3]}"
    if found := re.search(r"File does not exist: '(.*)'", message):
        return f"no such file: {found[1]}"
    return message
