"""What of a finished run is published: weights, configuration, numbers and card, without local paths and texts."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from startup_llm.errors import UserError
from startup_llm.evaluation.report import Results, build_report
from startup_llm.hub.card_merge import build_readme, read_metadata
from startup_llm.hub.model_card import (
    ADAPTER_FOLDER,
    Publication,
    build_model_card,
    choose_license,
    hide_path,
    hide_paths_in_command,
)
from startup_llm.run_folder import RUN_LOCK, read_run_lock

CARD = "README.md"
RESULTS = "results.json"
MODEL_FOLDER = "model"
RECORD = "published"
"""Key of the published results.json under which a publication keeps what the next one has to know."""

_WEIGHTS = (".safetensors", ".onnx", ".gguf")
_MODEL_FILES = (*(f"*{end}" for end in _WEIGHTS), *(f"*.{end}" for end in ("json", "txt", "model", "jinja")))
_MODEL_FILES += ("*/config.json", "encoder/*")
"""GAN-BERT's encoder is a checkpoint of its own, in a folder."""
_DATA_KEYS = ("labels", "per_class", "confusions", "confusion_matrix", "mistakes")
_PATH_KEY = re.compile(r"(path|file|dir)$")
_MAX_CONFIG_BYTES = 1 << 16
_PUBLIC_SOURCES = ("Hub", "packaged")
"""Where a checkpoint comes from whose vocabulary everybody can read already."""


@dataclass(frozen=True)
class PublishedFile:
    """A file to publish.

    Attributes:
        content: Its bytes, or the local file that holds them.
        size: In bytes.
        sha256: Hex digest, by which the Hub knows a large file.
        git_oid: Git's blob id, by which the Hub knows a small one.
    """

    content: Path | bytes
    size: int
    sha256: str
    git_oid: str


@dataclass(frozen=True)
class PublishedFolder:
    """A run or a data set as it is published in a repository that is new.

    Attributes:
        name: What is published.
        files: Path in the repository to file; the card is among them.
        card: The generated card without marks, to merge into one that is published already.
        record: Path of the JSON file that holds, under `RECORD`, what the next publication has to know.
        notes: What a person should know before publishing.
        has_own_vocabulary: Whether a tokenizer's vocabulary may come from this person's texts.
    """

    name: str
    files: Mapping[str, PublishedFile]
    card: str
    record: str
    notes: list[str]
    has_own_vocabulary: bool = True


def build_published_folder(
    run: Path, results: Results, publication: Publication, *, with_report: bool
) -> PublishedFolder:
    """Choose and clean a run's files.

    Args:
        run: A finished run's folder.
        results: Its results.
        publication: Where and how it is published.
        with_report: Whether to publish `report.html` and the example texts in the results: rows of the data.

    Raises:
        UserError: If the run lacks what is to be published.
    """
    files: dict[str, PublishedFile] = {}
    if publication.what in ("merged", "both"):
        files |= collect_model(run / MODEL_FOLDER, "")
    if publication.what in ("adapter", "both"):
        files |= collect_model(run / ADAPTER_FOLDER, "" if publication.what == "adapter" else f"{ADAPTER_FOLDER}/")
    if (run / "config.yaml").is_file():
        files["config.yaml"] = describe(_clean_yaml((run / "config.yaml").read_text(encoding="utf-8")))
        if (run / RUN_LOCK).is_file():
            files[RUN_LOCK] = describe(_clean_lock(read_run_lock(run), files["config.yaml"].sha256))
    if with_report:
        files["report.html"] = describe(build_report(clean_results(results, with_texts=True)).encode())
    card = build_model_card(results, publication)
    published = clean_results(results, with_texts=with_report)
    notes = list(choose_license(results, publication.license)[1])
    if publication.what == "adapter" and "local" in ((results.get("checkpoint") or {}).get("source") or ""):
        notes.append("The base checkpoint is a local folder: others cannot load this adapter without it.")
    name = f"the run {hide_path(results.get('run_name') or run.name)}"
    folder = complete_folder(name, files, card, RESULTS, published | {"what": publication.what}, notes)
    return mark_vocabulary(folder, results)


def mark_vocabulary(folder: PublishedFolder, results: Results) -> PublishedFolder:
    """Return a folder that says whether its tokenizer's vocabulary may come from this person's texts."""
    source = (results.get("checkpoint") or {}).get("source") or ""
    return replace(folder, has_own_vocabulary=not source.startswith(_PUBLIC_SOURCES))


def complete_folder(
    name: str, files: Mapping[str, PublishedFile], card: str, record: str, content: Mapping[str, Any], notes: list[str]
) -> PublishedFolder:
    """Add the card and the record to the files.

    Args:
        name: What is published.
        files: All others.
        card: The generated card.
        record: Path of the file that holds the record.
        content: What else that file holds, plain data.
        notes: What a person should know before publishing.
    """
    known = {path: {"sha256": file.sha256, "git_oid": file.git_oid} for path, file in files.items()}
    published = {**content, RECORD: {"card_metadata": read_metadata(card), "files": known}}
    text = json.dumps(published, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    completed = {**files, CARD: describe(build_readme(card).encode()), record: describe(text.encode())}
    return PublishedFolder(name, dict(sorted(completed.items())), card, record, notes)


def clean_results(results: Results, *, with_texts: bool) -> dict[str, Any]:
    """Copy a run's results without absolute local paths and tokens and, unless wanted, without texts of the data."""
    cleaned = {
        name: copy.deepcopy(value) if name in _DATA_KEYS else hide_paths(value) for name, value in results.items()
    }
    if cleaned.get("command"):
        cleaned["command"] = hide_paths_in_command(results["command"])
    if not with_texts:
        for name in ("mistakes", "gallery"):
            cleaned.pop(name, None)
        for confusion in cleaned.get("confusions") or ():
            confusion.pop("examples", None)
    return cleaned


def describe(content: Path | bytes) -> PublishedFile:
    """Hash a file's content in one pass."""
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    if isinstance(content, bytes):
        sha256.update(content)
        git.update(content)
    else:
        with content.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha256.update(block)
                git.update(block)
    return PublishedFile(content, size, sha256.hexdigest(), git.hexdigest())


def collect_model(folder: Path, prefix: str) -> dict[str, PublishedFile]:
    """Return the files of a model or an adapter by their paths in the repository, without local paths.

    Args:
        folder: Theirs.
        prefix: Of the paths.

    Raises:
        UserError: If there are no weights.
    """
    files = [file for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.name[0] != "."]
    files_by_name = {file.relative_to(folder).as_posix(): file for file in files}
    if not any(name.endswith(_WEIGHTS) for name in files_by_name):
        has = "merged" if folder.name == ADAPTER_FOLDER else "adapter"
        raise UserError(f"no weights in {folder}: this run has no {folder.name} to publish; try --what {has}")
    return {f"{prefix}{name}": describe(_clean_config(file)) for name, file in files_by_name.items()}


def _clean_config(file: Path) -> Path | bytes:
    """Return a file as it is, or a small JSON file's bytes without the local paths that some libraries note in it."""
    if file.suffix != ".json" or file.stat().st_size > _MAX_CONFIG_BYTES:
        return file
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        return file
    cleaned = {
        key: hide_path(value) if isinstance(value, str) and _PATH_KEY.search(key) else value
        for key, value in content.items()
    }
    return file if cleaned == content else (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()


def _clean_yaml(text: str) -> bytes:
    import yaml

    return yaml.safe_dump(hide_paths(yaml.safe_load(text)), sort_keys=False, allow_unicode=True).encode()


def _clean_lock(lock: Mapping[str, Any], config_sha256: str) -> bytes:
    """Return a run's lock for the published config: relative paths start from where it will be made again."""
    cleaned = hide_paths(lock) | {"config_sha256": config_sha256, "working_folder": None}
    return (json.dumps(cleaned, indent=1, ensure_ascii=False) + "\n").encode()


def hide_paths(value: Any) -> Any:
    """Cut the absolute local paths in plain data to their last part."""
    if isinstance(value, str):
        return hide_path(value)
    if isinstance(value, Mapping):
        return {key: hide_paths(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [hide_paths(part) for part in value]
    return value
