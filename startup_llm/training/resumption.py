"""What an interrupted run began with, by which `--resume` knows whether it is the same run that goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.errors import UserError
from startup_llm.run_folder import RESUMPTION
from startup_llm.training.processes import call_on_main_process

if TYPE_CHECKING:
    from startup_llm.session import Session
    from startup_llm.training.finetuning import Prepared

HARMLESS = (
    *("run_dir", "overwrite", "resume", "audit"),
    *("train.logging_steps", "train.logging_strategy", "train.logging_first_step", "train.disable_tqdm"),
    *("train.report_to", "train.save_total_limit", "train.dataloader_num_workers", "train.dataloader_pin_memory"),
)
"""Options that may differ: they change neither what is trained nor what is chosen of it."""
_HARMLESS_SECTIONS = ("preflight.", "evaluation.", "decision.", "speed.")  # speed is compared with the run's plan
_NOT_HARMLESS = ("evaluation.decides",)
_COMPARED_BY_HASH = (
    *("data.data_dir", "data.train_file", "data.validation_file", "data.test_file"),
    *("data.oos_file", "data.oos_test_file"),  # they change neither what is trained nor what is chosen of it
    *("model.checkpoint", "model.revision", "encoder.checkpoint", "encoder.revision"),
)


def check_resumption(session: Session[Any], prepared: Prepared | None = None) -> None:
    """Keep what a run begins with in its folder; where one is resumed, refuse another one in its place.

    Compared are the rows of each split, the checkpoint's weights, the number of processes, and the options but for
    those that are `HARMLESS`.

    Args:
        session: The run.
        prepared: Its rows and checkpoint; None where the options tell all.

    Raises:
        UserError: If something differs; the first of it is named.
    """
    call_on_main_process(lambda: _keep_or_compare(session, prepared))


def _keep_or_compare(session: Session[Any], prepared: Prepared | None) -> None:
    now = _describe(session, prepared)
    began = session.run.read_resumption() if getattr(session.config, "resume", False) else None
    if began is None:
        session.run.write_json(RESUMPTION, now)
        return
    different = [name for name, value in now.items() if name in began and began[name] != value]
    if different:
        first = different[0]
        more = f", and so are {', '.join(different[1:4])}" if different[1:] else ""
        raise UserError(
            f"--resume: {first} was {_quote(began[first])} when the run began, and is {_quote(now[first])} now{more}; "
            "go on with what it began with, or start again with --overwrite"
        )


def _describe(session: Session[Any], prepared: Prepared | None) -> dict[str, Any]:
    """Return what a run begins with, by name."""
    from accelerate import PartialState

    options = {**asdict(session.config), **({"train": dict(session.train_section)} if session.train_section else {})}
    options = json.loads(json.dumps(options, default=str))
    begins = {name: value for name, value in _flatten(options) if not _is_harmless(name)}
    begins["number of processes"] = PartialState().num_processes
    if prepared is not None:
        begins = {name: value for name, value in begins.items() if name not in _COMPARED_BY_HASH}
        begins["checkpoint (SHA-256 of its weights)"] = prepared.checkpoint.weights_sha256
        for name, rows in prepared.data.splits.items():
            begins[f"{name} split (SHA-256 of its rows)"] = compute_rows_sha256(rows)
    return begins


def _flatten(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_harmless(name: str) -> bool:
    return name in HARMLESS or (name.startswith(_HARMLESS_SECTIONS) and name not in _NOT_HARMLESS)


def _quote(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:20]}...{text[-1]}"
