"""What a finished run was made from, by hash, so that anyone can check it, reproduce it and compare the numbers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.evaluation.environment import describe_code, describe_determinism, describe_environment
from startup_llm.models.hashes import compute_sha256
from startup_llm.runs.lock_schema import DATA_FILES, SCHEMA_VERSION

if TYPE_CHECKING:
    from startup_llm.run_folder import RunFolder
    from startup_llm.training.finetuning import Prepared

CHECKPOINT_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py", "*/config.json")
"""Files of a checkpoint that make its numbers: weights, configuration, tokenizer, pooling, code."""
OUTPUT_FILES = ("model/*.safetensors", "adapter/*.safetensors", "predictions.jsonl")
"""Files that are the same bytes where a run is made again exactly."""


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
            for name, rows in (prepared.data.loaded or prepared.data.splits).items()
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
    overrides: dict[str, Any] = {
        "speed.plan": "plain" if plan.plain else "auto",
        "speed.compute_dtype": plan.compute_dtype,
        "speed.attention_kernel": plan.attention_kernel,
        "speed.tokens_per_batch": plan.tokens_per_batch,
        "speed.threads": threads,
        "speed.compile": plan.compile,
    }
    for name in DATA_FILES:
        named = data.get(name)
        if named:
            overrides[f"data.{name}"] = (
                _shorten(named) if isinstance(named, str) else [_shorten(path) for path in named]
            )
    overrides["data.revision"] = next(
        (source["revision"] for source in prepared.data.sources if "revision" in source), None
    )
    if prepared.checkpoint.source == "Hub":
        overrides["model.revision"] = prepared.checkpoint.revision
    elif prepared.checkpoint.source == "local folder":
        overrides["model.checkpoint"] = _shorten(model["checkpoint"])
    if model.get("checkpoint", "") is None:
        overrides["model.checkpoint"] = prepared.checkpoint.name
    return {name: value for name, value in overrides.items() if value is not None}


def find_files(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """Return the files below a folder that match one of the patterns, by their relative POSIX path."""
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return {file.relative_to(folder).as_posix(): file for file in sorted(files)}


def _hash_files(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    return {name: compute_sha256([file]) for name, file in find_files(folder, patterns).items()}
