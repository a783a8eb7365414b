"""What a finished run was made from, by hash, so that anyone can check it, make it again and compare the numbers."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.errors import UserError
from startup_llm.evaluation.environment import VARIABLES, describe_code, describe_determinism, describe_environment
from startup_llm.models.hashes import compute_sha256
from startup_llm.run_folder import RESULTS, RUN_LOCK
from startup_llm.tasks import load_task

if TYPE_CHECKING:
    from startup_llm.config import FinetuneConfig, PretrainConfig
    from startup_llm.run_folder import RunFolder
    from startup_llm.training.finetuning import Prepared

SCHEMA_VERSION = 1
CHECKPOINT_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py", "*/config.json")
"""Files of a checkpoint that make its numbers: weights, configuration, tokenizer, pooling, code."""
OUTPUT_FILES = ("model/*.safetensors", "adapter/*.safetensors", "predictions.jsonl")
"""Files that are the same bytes where a run is made again exactly."""


@dataclass(frozen=True)
class MetricCheck:
    """One metric of one model, then and now.

    Attributes:
        model: The model.
        metric: The metric.
        expected: Its value in the lock.
        found: Its value now; None where the new run has no such metric.
        tolerance: Largest difference allowed.
    """

    model: str
    metric: str
    expected: float
    found: float | None
    tolerance: float

    @property
    def inside(self) -> bool:
        """Whether the difference is allowed."""
        return self.found is not None and abs(self.found - self.expected) <= self.tolerance

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.model} {self.metric}: {self.expected:.6g}, now missing"
        allowed = "expected the same" if self.tolerance == 0 else f"tolerance {self.tolerance:.3g}"
        equal = "exactly equal" if self.found == self.expected else f"difference {self.found - self.expected:+.3g}"
        verdict = "inside" if self.inside else "OUTSIDE"
        return f"{self.model} {self.metric}: {self.expected:.6g}, now {self.found:.6g}: {equal} ({allowed}): {verdict}"


def build_run_lock(
    run: RunFolder, config_text: str, train_section: Mapping[str, Any], prepared: Prepared, results: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe all that a run's numbers depend on, and the numbers.

    A metric's tolerance is for other machines and versions, whose rounding training carries on: half the width of its
    interval, which is what the test rows cannot tell from chance, and at least one test row. The same environment has
    to give the same numbers.

    Args:
        run: The run's folder, with `config.yaml`, models and predictions already in it.
        config_text: The resolved config as YAML.
        train_section: The `train` section.
        prepared: Data, checkpoint and plan.
        results: What `results.json` will hold; its command names the recipe.
    """
    import yaml

    checkpoint, plan, environment = prepared.checkpoint, prepared.plan, describe_environment()
    config = yaml.safe_load(config_text)
    sources = [
        {**source, "files": [{**file, "path": _shorten(file["path"])} for file in source["files"]]}
        if "files" in source
        else source
        for source in prepared.data.sources
    ]
    implementation = getattr(getattr(prepared.task_model.model, "config", None), "_attn_implementation", None)
    determinism = {**describe_determinism(), "full_determinism": bool(train_section.get("full_determinism"))}
    one_row = 1 / len(prepared.data.splits["test"])
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": next((Path(word).name for word in shlex.split(results["command"]) if word.endswith(".py")), None),
        "working_folder": _find_way_up(run.final),
        "config": config,
        "config_sha256": compute_sha256([run.path / "config.yaml"]),
        "overrides": _list_overrides(config, prepared, environment["threads"]),
        "plan": {**plan.as_dict(), "attention_implementation": implementation},
        "seeds": {
            "train.seed": train_section["seed"],
            "train.data_seed": train_section.get("data_seed"),
            "data.split_seed": config["data"]["split_seed"],
            "evaluation.seed": config["evaluation"]["seed"],
        },
        "determinism": determinism,
        "exact": plan.device == "cpu" or determinism["deterministic_algorithms"],
        "code": describe_code(),
        "environment": environment,
        "data": sources,
        "splits": {
            name: {"rows": len(rows), "sha256": compute_rows_sha256(rows)}
            for name, rows in prepared.data.splits.items()
        },
        "checkpoint": {
            "name": _shorten(checkpoint.name),
            "revision": checkpoint.revision,
            "source": checkpoint.source,
            "weights_sha256": checkpoint.weights_sha256,
            "files": _hash_files(Path(checkpoint.path), CHECKPOINT_FILES) if checkpoint.weights_sha256 else {},
        },
        "processor": results.get("processor", {}),
        "outputs": _hash_files(run.path, OUTPUT_FILES),
        "metrics": {
            model: {
                metric: {"value": s["value"], "tolerance": max((s["high"] - s["low"]) / 2, one_row)}
                for metric, s in scores.items()
            }
            for model, scores in results["models"].items()
        },
    }


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
    names = [file["path"] for file in _list_files(lock)]
    if lock["checkpoint"]["source"] == "local folder":
        names.append(lock["checkpoint"]["name"])
    for folder in (here, made_in):
        if all((folder / name).exists() for name in names):
            return folder
    return here


def find_changed_files(
    run: Path, lock: Mapping[str, Any], config: FinetuneConfig | PretrainConfig
) -> tuple[list[str], list[str]]:
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
    for file in _list_files(lock):
        changed += _compare_hash(Path(file["path"]), file["sha256"])
    for source in lock["data"]:
        if "files" in source and "dataset" in source:
            folder = files("startup_llm.data.builtin") / source["dataset"]
            for file in source["files"]:
                changed += _compare_hash(Path(str(folder / file["path"])), file["sha256"])
    if not lock["checkpoint"]["files"]:  # random weights
        return changed, []
    checkpoint = load_task(config.task).load_checkpoint(config.model)
    folder, expected = Path(checkpoint.path), lock["checkpoint"]["files"]
    for name, digest in expected.items():
        changed += _compare_hash(folder / name, digest)
    added = sorted(set(_find_files(folder, CHECKPOINT_FILES)) - set(expected))
    return changed, [f"the checkpoint has a file that it had not: {folder / name}" for name in added]


def find_changed_rows(lock: Mapping[str, Any], config: FinetuneConfig | PretrainConfig) -> list[str]:
    """Load the data and compare the rows of every split with their hash in the lock.

    Raises:
        UserError: If the data cannot be loaded.
    """
    splits = load_task(config.task).load_data(config.data, config.evaluation).splits
    changed = [f"split {name}: not there" for name in sorted(lock["splits"].keys() - splits.keys())]
    for name, rows in splits.items():
        expected, found = lock["splits"].get(name, {}).get("sha256", "none"), compute_rows_sha256(rows)
        if expected != found:
            changed.append(f"rows of split {name}: SHA-256 expected {_cut(expected)}, found {_cut(found)}")
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
            found=now["metrics"].get(model, {}).get(metric, {}).get("value"),
            tolerance=0.0 if exact else score["tolerance"],
        )
        for model, scores in lock["metrics"].items()
        for metric, score in scores.items()
    ]


def compare_outputs(lock: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say of each file that a run ends in whether it is the same bytes."""
    return [
        f"{name}: {'the same bytes' if digest == now['outputs'].get(name) else 'other bytes'}"
        for name, digest in lock["outputs"].items()
    ]


def build_environment(lock: Mapping[str, Any]) -> dict[str, str]:
    """Return this process's environment variables, with the lock's for those that move numbers."""
    plain = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return {**plain, **lock["environment"]["variables"]}


def check_schema(lock: Mapping[str, Any]) -> None:
    """Refuse a lock of another form.

    Raises:
        UserError: If it is one.
    """
    if lock.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"the run's lock has schema_version {lock.get('schema_version')}, expected {SCHEMA_VERSION}; "
            "use the version of startup-llm that made the run"
        )


def _shorten(path: str) -> str:
    """Return a path inside the current folder as relative to it; others as they were given."""
    if not os.path.isabs(path):
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _find_way_up(run: Path) -> str | None:
    """Return the way from a run's folder to the current one, if that lies above it."""
    way = os.path.relpath(Path.cwd(), run.absolute())
    return way if set(Path(way).parts) == {".."} else None


def _list_overrides(config: Mapping[str, Any], prepared: Prepared, threads: int) -> dict[str, Any]:
    """Return dotted options that pin what the config left open, and name paths from the current folder."""
    plan, data, model = prepared.plan, config["data"], config["model"]
    found: dict[str, Any] = {
        "speed.plan": "plain" if plan.plain else "auto",
        "speed.compute_dtype": plan.compute_dtype,
        "speed.attention_kernel": plan.attention_kernel,
        "speed.tokens_per_batch": plan.tokens_per_batch,
        "speed.threads": threads,
        "speed.compile": plan.compile,
    }
    for name in ("data_dir", "train_file", "validation_file", "test_file"):
        given = data.get(name)
        if given:
            found[f"data.{name}"] = _shorten(given) if isinstance(given, str) else [_shorten(path) for path in given]
    found["data.revision"] = next(
        (source["revision"] for source in prepared.data.sources if "revision" in source), None
    )
    if prepared.checkpoint.source == "Hub":
        found["model.revision"] = prepared.checkpoint.revision
    elif prepared.checkpoint.source == "local folder":
        found["model.checkpoint"] = _shorten(model["checkpoint"])
    if model.get("checkpoint", "") is None:
        found["model.checkpoint"] = prepared.checkpoint.name
    return {name: value for name, value in found.items() if value is not None}


def _list_files(lock: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the records of data files that are not shipped with the package."""
    return [file for source in lock["data"] if "dataset" not in source for file in source.get("files", ())]


def _find_files(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return {file.relative_to(folder).as_posix(): file for file in sorted(found)}


def _hash_files(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    return {name: compute_sha256([file]) for name, file in _find_files(folder, patterns).items()}


def _compare_hash(file: Path, expected: str) -> list[str]:
    if not file.is_file():
        return [f"{file}: not there, expected SHA-256 {_cut(expected)}"]
    found = compute_sha256([file])
    return [] if found == expected else [f"{file}: SHA-256 expected {_cut(expected)}, found {_cut(found)}"]


def _cut(digest: str) -> str:
    return f"{digest[:12]}..." if len(digest) > 12 else digest


def _show(value: Any) -> Any:
    return "none" if value is None else _cut(value) if isinstance(value, str) and len(value) in (40, 64) else value


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
