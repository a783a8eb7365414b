"""All runs of a folder: what each reached, on which rows, what it came from, and which one is in production."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from startup_llm.errors import UserError
from startup_llm.evaluation.report import find_run_model, format_interval, format_value, name_metric
from startup_llm.pages import load_page
from startup_llm.run_folder import RESULTS, read_results
from startup_llm.runs.production import LINK, Production, Switch
from startup_llm.written_files import check_replaceable, list_written, write_atomically

INDEX = "index.html"
HEADER = ("run", "made", "what", "figure", "rows", "data", "from")
_HASH_DIGITS = 10


@dataclass(frozen=True)
class ListedRun:
    """A run, an evaluation or a comparison.

    Attributes:
        name: Its folder, from the folder of the runs.
        made: When its results were written, in local time.
        what: Task and method, or what it is.
        figure: Its primary metric with the interval, or an empty string.
        rows: Test rows.
        data: Digest of its training data, or of the rows that it measured; an empty string where it is not known.
        origin: The run that it came from or measured, or the checkpoint.
        page: Its report, from its folder; None where it has none.
        failed: What an evaluation's limits missed.
    """

    name: str
    made: datetime
    what: str
    figure: str = ""
    rows: int | None = None
    data: str = ""
    origin: str = ""
    page: str | None = None
    failed: Sequence[str] = ()


@dataclass(frozen=True)
class RunList:
    """The runs of a folder.

    Attributes:
        folder: It.
        runs: The latest first.
        broken: Sentences about folders whose results cannot be read.
        unfinished: Names of runs that were interrupted, or are being made.
        production: The run in production, or None.
        history: The switches of it.
    """

    folder: Path
    runs: list[ListedRun]
    broken: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    production: str | None = None
    history: list[Switch] = field(default_factory=list)


def list_runs(folder: Path) -> RunList:
    """Read the runs of a folder.

    Raises:
        UserError: If there is no such folder, or none of its folders is a run.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; name the folder of the runs with --folder")
    runs, broken, unfinished = [], [], []
    for place in sorted(folder.iterdir()):
        if place.name.startswith(".") or place.is_symlink() or not place.is_dir():
            continue
        if place.name.endswith(".partial"):
            unfinished.append(place.name.removesuffix(".partial"))
        elif (place / RESULTS).is_file():
            try:
                runs.append(_describe(place, folder))
            except (UserError, LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
                broken.append(f"{place.name}: {error}" if isinstance(error, UserError) else f"{place.name}: {RESULTS}")
    if not runs:
        raise UserError(f"{folder} holds no finished run; expected folders that recipes/finetune.py made")
    runs.sort(key=lambda run: run.made, reverse=True)
    production = Production(folder)
    return RunList(folder, runs, broken, unfinished, production.current, production.read_history())


def _describe(place: Path, folder: Path) -> ListedRun:
    results = read_results(place)
    made = datetime.fromtimestamp((place / RESULTS).stat().st_mtime)
    page = next((name for name in ("report.html", "table.html") if (place / name).is_file()), None)
    name = place.name
    if "entries" in results:
        entry = results["entries"][0]
        metric, score = next(iter(entry["metrics"].items()))
        more = f" and {len(results['entries']) - 1} more" if len(results["entries"]) > 1 else ""
        return ListedRun(
            name, made, f"evaluation on {entry['name']}{more}", _write_figure(metric, score), entry["rows"],
            str(entry.get("sha256") or "")[:_HASH_DIGITS], _name_origin(results["model"], folder), page,
            results.get("failed") or (),
        )  # fmt: skip
    decides, model = results.get("decides"), find_run_model(results) if "models" in results else None
    score = (results.get("models") or {}).get(model, {}).get(decides)
    checkpoint = (results.get("checkpoint") or {}).get("name") or ""
    what = " ".join(filter(None, (results.get("task"), results.get("method"))))
    return ListedRun(
        name, made, what or "comparison", _write_figure(decides, score) if decides and score else "",
        (results.get("test") or {}).get("rows"), hash_data(results), _name_origin(checkpoint, folder), page,
    )  # fmt: skip


def _write_figure(metric: str, score: Mapping[str, Any]) -> str:
    interval = format_interval(metric, score)
    return f"{name_metric(metric)} {format_value(metric, score['value'])}" + (f" ({interval})" if interval else "")


def hash_data(results: Mapping[str, Any]) -> str:
    """Return a digest of the files, or revisions, that a run read its rows from; equal for runs on the same rows."""
    records = []
    for source in (results.get("data") or {}).get("sources") or ():
        digests = [file.get("sha256") for file in source.get("files") or () if isinstance(file, Mapping)]
        records.append([source.get("split"), digests or source.get("fingerprint") or source.get("revision")])
    if not records:
        return ""
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()[:_HASH_DIGITS]


def _name_origin(name: str, folder: Path) -> str:
    """Return a checkpoint's name; of one that lies in a run of the folder the run's."""
    if os.path.isdir(name):
        inside = os.path.relpath(os.path.realpath(name), os.path.realpath(folder))
        if not inside.startswith(os.pardir):
            return inside.partition(os.sep)[0]
        return Path(name).name if Path(name).name != "model" else Path(name).parent.name
    return name


def build_rows(listed: RunList) -> list[tuple[str, ...]]:
    """Return the table's rows of text, in the order of `HEADER`; the run in production has a star."""
    return [
        (
            f"{run.name} *" if run.name == listed.production else run.name,
            f"{run.made:%Y-%m-%d %H:%M}",
            run.what,
            run.figure + (" failed" if run.failed else ""),
            "" if run.rows is None else f"{run.rows:,}",
            run.data,
            run.origin,
        )
        for run in listed.runs
    ]


def describe_state(listed: RunList) -> list[str]:
    """Return what is said below the table: the run in production, what is unfinished, what cannot be read."""
    lines = []
    if listed.production is not None:
        since = listed.history[-1].at if listed.history else None
        lines.append(f"in production (*): {listed.production}" + (f" since {since}" if since else ""))
        if (
            listed.production not in [run.name for run in listed.runs]
            and not (listed.folder / listed.production / RESULTS).is_file()
        ):
            lines.append(f"{listed.folder / LINK} leads to no finished run; name another with --production")
    if listed.unfinished:
        lines.append(f"unfinished: {', '.join(listed.unfinished)}")
    return [*lines, *(f"cannot be read: {sentence}" for sentence in listed.broken)]


def write_index(listed: RunList) -> Path:
    """Write the page of the runs into their folder, and return it.

    Raises:
        UserError: If a file of that name was not written here.
    """
    page = listed.folder / INDEX
    check_replaceable(listed.folder, [page], kind="runs", overwrite=True, option="--folder")
    names = {run.name for run in listed.runs}
    text = load_page("startup_llm.evaluation", "runs.html.jinja").render(
        folder=listed.folder.resolve().name,
        runs=listed.runs,
        names=names,
        production=listed.production,
        history=listed.history[::-1],
        notes=describe_state(listed),
    )
    write_atomically(page, text)
    list_written(listed.folder, [page], kind="runs")
    return page
