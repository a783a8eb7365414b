"""A finished run made again from its lock. Lock and config may come from anybody: they are checked before use."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.command_line import parse_config
from startup_llm.config import AlignConfig, FinetuneConfig, PretrainConfig
from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.errors import UserError
from startup_llm.evaluation.environment import VARIABLES, withhold_secrets
from startup_llm.models.hashes import compute_sha256
from startup_llm.plain_data import read_yaml_mapping
from startup_llm.run_folder import RESULTS, RUN_LOCK, read_run_lock
from startup_llm.runs.lock import CHECKPOINT_FILES, find_files
from startup_llm.runs.lock_schema import DATA_FILES, check_lock
from startup_llm.tasks import load_task
from startup_llm.tasks.checkpoint import load_task_checkpoint

if TYPE_CHECKING:
    from startup_llm.config import ReproduceConfig

RECIPES: Mapping[str, type] = {"finetune.py": FinetuneConfig, "align.py": AlignConfig, "pretrain.py": PretrainConfig}
"""Recipes whose runs can be made again, and their configs."""
OWNER_S_TRAIN_FIELDS = ("project",)
"""Fields that the `train` section takes and a config from elsewhere leaves: they name programs or places elsewhere."""


@dataclass(frozen=True)
class MetricCheck:
    """One metric of one model, then and now.

    Attributes:
        model: The model.
        metric: The metric.
        expected: Its value in the lock.
        value: Its value now; None where the new run has no such metric.
        tolerance: Largest difference allowed.
    """

    model: str
    metric: str
    expected: float
    value: float | None
    tolerance: float

    @property
    def inside(self) -> bool:
        """Whether the difference is allowed."""
        return self.value is not None and abs(self.value - self.expected) <= self.tolerance

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.model} {self.metric}: {self.expected:.6g}, now missing"
        allowed = "expected the same" if self.tolerance == 0 else f"tolerance {self.tolerance:.3g}"
        equal = "exactly equal" if self.value == self.expected else f"difference {self.value - self.expected:+.3g}"
        verdict = "inside" if self.inside else "OUTSIDE"
        return f"{self.model} {self.metric}: {self.expected:.6g}, now {self.value:.6g}: {equal} ({allowed}): {verdict}"


@dataclass(frozen=True)
class Reproduction:
    """What is run to make a run again.

    Attributes:
        name: The run, as it was named.
        run: Its folder, with lock and config.
        lock: The known part of its lock.
        config: Its config, with the lock's overrides.
        command: Command line of the recipe.
        variables: Environment variables that are taken from the lock.
        new_run: The new run's folder.
    """

    name: str
    run: Path
    lock: Mapping[str, Any]
    config: FinetuneConfig | AlignConfig | PretrainConfig
    command: Sequence[str]
    variables: Mapping[str, str]
    new_run: Path

    def describe(self) -> str:
        """Return what is run, with what it reads and writes, a line each."""
        code = getattr(self.config.model, "trust_remote_code", False)
        lines = {
            "run": f"{self.name} ({self.run})",
            "folder": str(Path.cwd()),
            "command": shlex.join(self.command),
            "reads": ", ".join(shlex.quote(path) for path in _list_paths(self.config).values()) or "shipped rows",
            "variables": shlex.join(f"{name}={value}" for name, value in self.variables.items()) or "none",
            "code": "THE CHECKPOINT'S OWN PYTHON CODE IS RUN" if code else "none but this package's",
            "writes": str(self.new_run),
        }
        return "\n".join(f"{name + ':':10} {text}" for name, text in lines.items())

    def build_environment(self) -> dict[str, str]:
        """Return the child's environment: this process's without secrets, and the lock's variables that move numbers.

        Without a token the Hub does not give what is private; both were fetched by then, and the cache has them.
        """
        from huggingface_hub import get_token

        plain = {name: value for name, value in withhold_secrets(os.environ).items() if name not in VARIABLES}
        runs_code = getattr(self.config.model, "trust_remote_code", False)
        offline = {"HF_HUB_OFFLINE": "1"} if get_token() and not runs_code else {}
        return {**plain, **offline, **self.variables}


def plan_reproduction(asked: ReproduceConfig, recipes: Path) -> Reproduction:
    """Check a run's lock and config, go to the folder that its paths start from, and say what is to be run.

    Args:
        asked: Names the run, and allows what it may do.
        recipes: Folder of the recipes.

    Raises:
        UserError: If there is no such run, or if it asks for what a run from elsewhere may not.
    """
    run = load_run_folder(asked.run, asked.revision)
    lock, run, local = check_lock(read_run_lock(run), asked.run), run.absolute(), Path(asked.run).exists()
    new_run = Path(asked.run_dir or (run.parent if local else Path("runs")) / f"{Path(asked.run).name}-again")
    new_run = new_run.absolute()
    if new_run == run:
        raise UserError(f"run_dir {asked.run_dir} is the run itself; name another, so that both can be compared")
    if lock["recipe"] not in RECIPES:
        raise UserError(f"{asked.run} was made by {lock['recipe']}; expected a run of {', '.join(RECIPES)}")
    if not (run / "config.yaml").is_file():
        raise UserError(f"no config.yaml in {asked.run}; copy the whole run")
    allowed = [Path(folder).expanduser().absolute() for folder in asked.allowed_folders]
    os.chdir(find_working_folder(run, lock) if local else Path.cwd())
    words = ["--config", os.path.relpath(run / "config.yaml"), *_list_options(lock, new_run, asked.overwrite)]
    _check_values(run / "config.yaml", asked.run)
    words += _keep_offline(run / "config.yaml")
    config: Any
    config, train_section, _ = parse_config(RECIPES[lock["recipe"]], words, train_section=True)
    _check_config(config, train_section, asked)
    paths = {**_list_paths(config), **{f"data file {path}": path for path in _list_files(lock)}}
    _check_paths(paths, asked.run, [Path.cwd(), *allowed], run)
    command = [*_list_launcher(lock, asked.run), str(recipes / lock["recipe"]), *words]
    return Reproduction(asked.run, run, lock, config, command, lock["environment"]["variables"], new_run)


def _list_options(lock: Mapping[str, Any], new_run: Path, overwrite: bool) -> list[str]:
    """Return the lock's overrides and where the new run is kept, as words; no tracker hears of it."""
    options = {**lock["overrides"], "train.report_to": "none"}
    options |= {"run_dir": str(new_run), "overwrite": overwrite, "resume": False}
    return [f"--{name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in options.items()]


def _list_launcher(lock: Mapping[str, Any], name: str) -> list[str]:
    processes = lock["environment"]["processes"]
    if processes == 1:
        return [sys.executable]
    if processes > (limit := max(8, os.cpu_count() or 1)):
        raise UserError(f"{name} was made by {processes} processes; expected at most {limit} on this machine")
    on_cpu = ["--cpu"] if lock["plan"]["device"] == "cpu" else []
    return [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), *on_cpu]


def _check_values(file: Path, name: str) -> None:
    """Refuse values of a config that would name a class to import, or another file to read options from."""
    values = read_yaml_mapping(file)
    waiting: list[Any] = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if named := {"class_path", "init_args", "dict_kwargs", "config"} & {str(key) for key in value}:
                raise UserError(f"config.yaml of {name} holds {min(named)}, which a run never writes; nothing was run")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    for section in ("model", "data", "lora", "baselines", "preflight", "evaluation", "decision", "speed", "train"):
        if not isinstance(values.get(section, {}), dict):
            raise UserError(f"config.yaml of {name}: {section}: expected options, got {values[section]!r:.60}")


def _keep_offline(file: Path) -> list[str]:
    """Return the words by which a run that asked a language model reads its answers and sends no row anywhere."""
    llm = (read_yaml_mapping(file).get("baselines") or {}).get("llm")
    return ["--baselines.llm.offline=true"] if isinstance(llm, dict) and llm.get("model") else []


def _check_config(config: Any, train_section: Mapping[str, Any], asked: ReproduceConfig) -> None:
    """Refuse what only the person at this keyboard may ask for: code of the checkpoint, and places elsewhere."""
    from transformers import TrainingArguments

    if getattr(config.model, "trust_remote_code", False) and not asked.trust_remote_code:
        raise UserError(
            f"{asked.run} asks for model.trust_remote_code: Python code that comes with its checkpoint "
            f"{config.model.checkpoint!r} would be run here; read that code, then allow it with --trust_remote_code"
        )
    defaults = {field.name: field.default for field in fields(TrainingArguments)}
    for name in OWNER_S_TRAIN_FIELDS:
        value, default = train_section.get(name), defaults.get(name)
        if value and value != default and default is not MISSING:
            raise UserError(
                f"{asked.run} sets train.{name} to {value!r:.60}, which a run from elsewhere may not; nothing was run"
            )


def _list_paths(config: Any) -> dict[str, str]:
    """Return what a config names that is, or may be, a path, by the option's name."""
    data, model = config.data, config.model
    paths = {f"data.{name}": getattr(data, name, None) for name in DATA_FILES}
    paths |= {"data.dataset": data.dataset, "model.checkpoint": getattr(model, "checkpoint", None)}
    if llm := getattr(getattr(config, "baselines", None), "llm", None):
        paths["baselines.llm.answers"] = llm.answers if llm.model else None
    paths["model.chat_template"] = getattr(model, "chat_template", None)
    return {
        f"{name}{f'[{place}]' if isinstance(value, list) else ''}": path
        for name, value in paths.items()
        for place, path in enumerate(value if isinstance(value, list) else [value])
        if path
    }


def _check_paths(paths: Mapping[str, str], name: str, folders: Sequence[Path], run: Path) -> None:
    """Refuse paths that leave the folders, as they are written, or the run's own folder by a link in it."""
    for option, path in paths.items():
        if not path.isprintable():
            raise UserError(f"{name}: {option}: {path!a} holds control characters; nothing was run")
        place = Path(os.path.abspath(Path(path).expanduser()))
        inside_run = place.is_relative_to(run) and place.resolve().is_relative_to(run.resolve())
        if not inside_run and (
            place.is_relative_to(run) or not any(place.is_relative_to(folder) for folder in folders)
        ):
            raise UserError(
                f"{name}: {option} {path!r} lies outside {Path.cwd()}; nothing was read. "
                f"If you know that folder, allow it: --allowed_folders '[{place.parent}]'"
            )


def load_run_folder(name: str, revision: str | None = None) -> Path:
    """Return the folder of a finished run, or one with a published run's lock, config and numbers from the Hub.

    Args:
        name: Folder or Hub id.
        revision: Hub branch, tag or commit.

    Raises:
        UserError: If a Hub id cannot be downloaded.
    """
    if Path(name).parent.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return Path(name)
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[RUN_LOCK, RESULTS, "config.yaml"]))
    except (errors.HTTPError, OSError, ValueError) as error:
        said = str(error).strip().splitlines()
        raise UserError(
            f"{name} is no folder here, and the Hub does not give it ({said[0] if said else type(error).__name__}); "
            "name a finished run's folder or its Hub id, and log in with `hf auth login` where it is private"
        ) from None


def find_working_folder(run: Path, lock: Mapping[str, Any]) -> Path:
    """Return the folder that the lock's relative paths start from: the current one, or the one the run was made in.

    The current one is taken where all files are there, or where the other has not all of them either.
    """
    here = Path.cwd()
    made_in = (run / lock["working_folder"]).resolve() if lock["working_folder"] else here
    names = list(_list_files(lock))
    if lock["checkpoint"]["source"] == "local folder":
        names.append(lock["checkpoint"]["name"])
    for folder in (here, made_in):
        if all((folder / name).exists() for name in names):
            return folder
    return here


def find_changed_files(run: Path, lock: Mapping[str, Any], config: Any) -> tuple[list[str], list[str]]:
    """Compare the run's config, its data files and its checkpoint with their hashes in the lock.

    Args:
        run: The finished run's folder.
        lock: Its lock.
        config: Its config, with the lock's overrides; paths start from the current folder.

    Returns:
        Sentences that name each changed or missing file, and notes on files that were not there then.

    Raises:
        UserError: If the checkpoint cannot be found.
    """
    changed = _compare_hash(run / "config.yaml", lock["config_sha256"])
    for path, sha256 in _list_files(lock).items():
        changed += _compare_hash(Path(path), sha256)
    for source in lock["data"]:
        if source.get("dataset") is not None and source.get("files"):
            folder = files("startup_llm.data.builtin") / source["dataset"]
            for file in source["files"]:
                changed += _compare_hash(Path(str(folder / file["path"])), file["sha256"])
    if not lock["checkpoint"]["files"]:  # random weights
        return changed, []
    expected = lock["checkpoint"]["files"]
    named = Path(config.model.checkpoint or "")
    if config.model.checkpoint and named.is_dir():  # before it is read: a changed file may be no checkpoint any more
        changed += _compare_hashes(named, expected)
        if changed:
            return changed, []
    folder = Path(load_task_checkpoint(load_task(config.task), config.model).path)
    if folder != named:
        changed += _compare_hashes(folder, expected)
    added = sorted(set(find_files(folder, CHECKPOINT_FILES)) - set(expected))
    return changed, [f"the checkpoint has a file that it had not: {folder / name}" for name in added]


def find_changed_rows(lock: Mapping[str, Any], config: FinetuneConfig | AlignConfig | PretrainConfig) -> list[str]:
    """Load the data and compare the rows of every split with their hash in the lock.

    Raises:
        UserError: If the data cannot be loaded.
    """
    splits = load_task(config.task).load_data(config.data, config.evaluation).splits
    changed = [f"split {name}: not there" for name in sorted(lock["splits"].keys() - splits.keys())]
    for name, rows in splits.items():
        expected, sha256 = lock["splits"].get(name, {}).get("sha256", "none"), compute_rows_sha256(rows)
        if expected != sha256:
            changed.append(f"rows of split {name}: SHA-256 expected {_cut(expected)}, found {_cut(sha256)}")
    return changed


def find_changed_environment(lock: Mapping[str, Any], now: Mapping[str, Any], *, threads: bool = True) -> list[str]:
    """Name what differs between a lock's code, packages and machine and others.

    Args:
        lock: A run's lock.
        now: Another lock, or the keys code and environment alone.
        threads: Whether to compare the number of threads, and the variables that may set it.
    """
    left_out: tuple[str, ...] = () if threads else ("threads", "processes", "variables")
    left_out += ("commit", "dirty") if lock["code"]["sources_sha256"] == now["code"]["sources_sha256"] else ()
    changed = []
    for part in ("code", "environment"):
        then_flat, now_flat = _flatten(lock[part]), _flatten(now[part])
        changed += [
            f"{name}: {_show(then_flat.get(name))} then, {_show(now_flat.get(name))} now"
            for name in dict.fromkeys([*then_flat, *now_flat])
            if then_flat.get(name) != now_flat.get(name) and name.split(".")[0] not in left_out
        ]
    return changed


def compare_metrics(lock: Mapping[str, Any], now: Mapping[str, Any], *, exact: bool) -> list[MetricCheck]:
    """Compare every metric of a lock with another lock's.

    Args:
        lock: The lock of the run that was to be made again.
        now: The new run's lock.
        exact: Whether nothing but equality will do.
    """
    return [
        MetricCheck(
            model=model,
            metric=metric,
            expected=score["value"],
            value=now["metrics"].get(model, {}).get(metric, {}).get("value"),
            tolerance=0.0 if exact else score["tolerance"],
        )
        for model, scores in lock["metrics"].items()
        for metric, score in scores.items()
    ]


def compare_rows(lock: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the splits whose rows are not those of the lock: the new run read its data anew."""
    return [
        f"rows of split {name}: SHA-256 expected {_cut(split['sha256'])}"
        for name, split in lock["splits"].items()
        if split["sha256"] != now["splits"].get(name, {}).get("sha256")
    ]


def compare_outputs(lock: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say of each file that a run ends in whether it is the same bytes."""
    return [
        f"{name}: {'the same bytes' if digest == now['outputs'].get(name) else 'other bytes'}"
        for name, digest in lock["outputs"].items()
    ]


def _list_files(lock: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each data file that is not shipped with the package, by its path."""
    sources = [source for source in lock["data"] if source.get("dataset") is None]
    return {file["path"]: file["sha256"] for source in sources for file in source.get("files", ())}


def _compare_hashes(folder: Path, expected: Mapping[str, str]) -> list[str]:
    return [line for name, digest in expected.items() for line in _compare_hash(folder / name, digest)]


def _compare_hash(file: Path, expected: str) -> list[str]:
    if not file.is_file():
        return [f"{file}: not there, expected SHA-256 {_cut(expected)}"]
    sha256 = compute_sha256([file])
    return [] if sha256 == expected else [f"{file}: SHA-256 expected {_cut(expected)}, found {_cut(sha256)}"]


def _cut(digest: str) -> str:
    return f"{digest[:12]}..." if len(digest) > 12 else digest


def _show(value: Any) -> Any:
    return "none" if value is None else _cut(value) if isinstance(value, str) and len(value) in (40, 64) else value


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
