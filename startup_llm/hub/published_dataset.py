"""What of a data set is published: Parquet files by split, its card, Croissant metadata and the audit before it."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.audit.audit import KINDS, audit_before_publishing, read_whole_rows
from startup_llm.audit.personal_data import PERSONAL_KINDS
from startup_llm.config import AuditConfig, LabelledData, LabelledTextData, PushConfig, convert_section
from startup_llm.data.sources import LoadedData, load_splits
from startup_llm.errors import UserError
from startup_llm.hub.card_merge import drop_generated
from startup_llm.hub.croissant import build_croissant
from startup_llm.hub.model_card import describe_terms, hide_path, load_card_template
from startup_llm.hub.published_content import PERSONAL_DATA, Allowances
from startup_llm.hub.published_folder import PublishedFile, PublishedFolder, complete_folder, describe, hide_paths
from startup_llm.tasks import load_task

if TYPE_CHECKING:
    import datasets
    from huggingface_hub import DatasetCard

AUDIT = "audit.json"
CROISSANT = "croissant.json"
NOT_SEARCHED = "not-searched"
"""Kind of a finding: images and sounds, into which no search for people or copies looks."""
STOPPING = (
    "personal-data",
    "duplicates-across-splits",
    "near-duplicates-across-splits",
    "groups-across-splits",
    NOT_SEARCHED,
)
"""Findings that stop a publication until they are allowed by name."""
SIZES = (
    (1e3, "n<1K"),
    (1e4, "1K<n<10K"),
    (1e5, "10K<n<100K"),
    (1e6, "100K<n<1M"),
    (1e7, "1M<n<10M"),
    (1e8, "10M<n<100M"),
    (1e9, "100M<n<1B"),
)
"""The Hub's size categories: below how many rows each ends."""
_LANGUAGE_SHARE = 0.9
_NO_LICENSE = "No licence is declared, so nobody may use the rows; choose one with --license, or write it into a card."


def build_published_dataset(config: PushConfig, cards: Path, allowed: Allowances) -> PublishedFolder:
    """Read, audit and describe a data set.

    Args:
        config: What and how.
        cards: Folder of the cards of named data sets.
        allowed: Findings that may be published all the same.

    Raises:
        UserError: If a library of the extra `publish` is missing, the rows cannot be read, or the audit finds in them
            what is not allowed.
    """
    if importlib.util.find_spec("mlcroissant") is None:
        raise UserError(
            "Croissant metadata of a data set is written by mlcroissant; pip install 'startup-llm[publish]'"
        )
    from datasets import disable_progress_bars

    disable_progress_bars()
    card = _find_card(config, cards)
    loaded = _load(config)
    audit = _audit(loaded, config)
    _stop(audit["findings"], list(loaded.splits), allowed)
    files = {split: (_name_file(split), describe(_write_parquet(rows))) for split, rows in loaded.splits.items()}
    name = _name_dataset(config, card)
    metadata = _build_metadata(config, card, loaded.splits, files, audit)
    text = _render(config, card, loaded.splits, files, audit, metadata, allowed)
    croissant = build_croissant(
        name,
        _find_description(text),
        f"https://huggingface.co/datasets/{config.repo}",
        metadata.get("license"),
        metadata.get("language") or [],
        loaded.splits,
        files,
    )
    published = dict(files.values())
    published[CROISSANT] = describe((json.dumps(croissant, indent=1, ensure_ascii=False) + "\n").encode())
    license_id = metadata.get("license")
    notes = describe_terms("data set", license_id) if license_id else [_NO_LICENSE]
    return complete_folder(f"the data set {name}", published, text, AUDIT, audit, notes)


def _find_card(config: PushConfig, cards: Path) -> DatasetCard | None:
    """Load the card that a person wrote: the named file, or that of a named data set."""
    from huggingface_hub import DatasetCard

    name = config.data.named_dataset
    path = Path(config.card) if config.card else cards / f"{(name or '').rsplit('/', 1)[-1]}.md"
    if not path.is_file():
        if config.card:
            raise UserError(f"card: no such file: {path}")
        return None
    try:
        return DatasetCard.load(path)
    except (ValueError, OSError) as error:
        raise UserError(f"card: {path} cannot be read: {' '.join(str(error).split())}") from None


def _load(config: PushConfig) -> LoadedData:
    """Load the rows as they are; images and sounds as their task reads them, the files' bytes within the rows."""
    import datasets
    from datasets.table import embed_table_storage

    task = load_task(config.task)
    if not task.predictor.reads_files:
        return load_splits(config.data)
    data = task.load_data(replace(config.data, validation_fraction=0))
    splits = {}
    for split, rows in data.splits.items():
        rows = rows.remove_columns([name for name in ("row", "digest") if name in rows.column_names])
        if data.problem_type == "single_label_classification":
            rows = rows.cast_column("label", datasets.ClassLabel(names=list(data.label_names)))
        embedded = rows.with_format("arrow").map(
            embed_table_storage, batched=True, batch_size=100, keep_in_memory=True
        )
        splits[split] = embedded.with_format(None)
    return LoadedData(datasets.DatasetDict(splits), data.notes, data.sources)


def _audit(loaded: LoadedData, config: PushConfig) -> dict[str, Any]:
    """Look for faults in all text, and say what no search looks into."""
    import datasets

    content: dict[str, Any] = {
        "statistics": {"rows": {split: len(rows) for split, rows in loaded.splits.items()}},
        "notes": [*loaded.notes],
        "findings": [],
    }
    if any(read_whole_rows(loaded)):
        content = audit_before_publishing(
            loaded,
            AuditConfig(data=convert_section(config.data, LabelledTextData), names=config.names),
            labelled=isinstance(config.data, LabelledData),
        ).to_json()
    unsearched = [
        name
        for name, kind in loaded.splits["train"].features.items()
        if isinstance(kind, (datasets.Image, datasets.Audio))
    ]
    if unsearched:
        content["findings"].append(
            {
                "kind": NOT_SEARCHED,
                "severity": "warning",
                "meaning": f"rows with a file ({', '.join(unsearched)}) that no search for people looks into",
                "advice": "inspect them",
                "count": sum(content["statistics"]["rows"].values()),
                "examples": [],
            }
        )
    return hide_paths(content)


def _stop(findings: Sequence[Mapping[str, Any]], splits: Sequence[str], allowed: Allowances) -> None:
    """Refuse to publish what was found and not allowed."""
    stopping = [
        finding for finding in findings if finding["kind"] in STOPPING and not _is_allowed(finding, splits, allowed)
    ]
    if not stopping:
        return
    sentences = []
    for finding in stopping:
        example = next(iter(finding["examples"]), None)
        shown = f", such as {example['split']} row {example['row']}: {example['text']}" if example else ""
        sentences.append(f"{finding['kind']}: {finding['count']:,}{shown}")
    kinds = ",".join(dict.fromkeys([*allowed.words, *(finding["kind"] for finding in stopping)]))
    raise UserError(
        f"the audit stops this publication ({'; '.join(sentences)}); fix the rows (recipes/audit.py tells more), or "
        f"publish them all the same with --allow_findings {kinds}"
    )


def _is_allowed(finding: Mapping[str, Any], splits: Sequence[str], allowed: Allowances) -> bool:
    """Whether a finding may be published in the file of every split, by its kind or by all that it consists of."""
    kinds = {PERSONAL_DATA: [kind for kind in PERSONAL_KINDS if kind in finding.get("details", {})]}
    parts = kinds.get(finding["kind"]) or [finding["kind"]]
    return all(allowed.cover(part, _name_file(split)) for part in parts for split in splits)


def _name_file(split: str) -> str:
    return f"data/{split}-00000-of-00001.parquet"


def _write_parquet(rows: datasets.Dataset) -> bytes:
    buffer = io.BytesIO()
    rows.to_parquet(buffer)
    return buffer.getvalue()


def _name_dataset(config: PushConfig, card: DatasetCard | None) -> str:
    name = card.data.to_dict().get("pretty_name") if card else None
    return hide_path(name or config.repo.rsplit("/", 1)[-1])


def _build_metadata(
    config: PushConfig,
    card: DatasetCard | None,
    splits: Mapping[str, datasets.Dataset],
    files: Mapping[str, tuple[str, PublishedFile]],
    audit: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the card's front matter: what a person wrote, and what the rows tell."""
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from datasets.splits import SplitDict, SplitInfo
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    written: dict[str, Any] = card.data.to_dict() if card else {"pretty_name": _name_dataset(config, None)}
    metadata = DatasetCardData(
        **{key: value for key, value in written.items() if key not in ("configs", "dataset_info")}
    )
    if config.license:
        metadata.license = config.license.lower()
    rows = sum(audit["statistics"]["rows"].values())
    metadata.size_categories = [next(name for limit, name in SIZES if rows < limit)]
    metadata.task_categories = metadata.task_categories or [config.task]
    metadata.language = metadata.language or _find_language(audit)
    MetadataConfigs(
        {"default": {"data_files": [{"split": split, "path": path} for split, (path, _) in files.items()]}}
    ).to_dataset_card_data(metadata)
    infos = [SplitInfo(split, num_bytes=part.data.nbytes, num_examples=len(part)) for split, part in splits.items()]
    info = DatasetInfo(
        features=splits["train"].features,
        splits=SplitDict({part.name: part for part in infos}),
        download_size=sum(file.size for _, file in files.values()),
        dataset_size=sum(part.num_bytes for part in infos),
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(metadata)
    return metadata.to_dict()


def _find_language(audit: Mapping[str, Any]) -> list[str] | None:
    """Return the language of nearly all texts, or None where there is none."""
    counts = audit["statistics"].get("texts_by_language") or {}
    language = max(counts, key=counts.get, default=None)
    return [language] if language and counts[language] >= _LANGUAGE_SHARE * sum(counts.values()) else None


def _render(
    config: PushConfig,
    card: DatasetCard | None,
    splits: Mapping[str, datasets.Dataset],
    files: Mapping[str, tuple[str, PublishedFile]],
    audit: Mapping[str, Any],
    metadata: Mapping[str, Any],
    allowed: Allowances,
) -> str:
    """Write the card: a person's words, where there are some, then the files and what the audit found."""
    import yaml

    kinds = {finding["kind"] for finding in audit["findings"]}
    rows = ", ".join(f"{len(part):,} {split}" for split, part in splits.items())
    body = load_card_template("dataset_card.md.jinja").render(
        body=drop_generated(card.text) if card else "",
        name=_name_dataset(config, card),
        sentence=f"{rows} rows for {config.task}.",
        repository=config.repo,
        splits=[
            {"name": split, "path": path, "rows": len(splits[split]), "sha256": file.sha256}
            for split, (path, file) in files.items()
        ],
        columns=[(name, _describe_type(kind)) for name, kind in splits["train"].features.items()],
        lengths=audit["statistics"].get("lengths"),
        labels=audit["statistics"].get("labels"),
        findings=audit["findings"],
        nothing_of=[kind for kind in KINDS if kind not in kinds] if "lengths" in audit["statistics"] else [],
        allowed=[word for word in allowed.words if word.partition("@")[0] in (*kinds, *PERSONAL_KINDS)],
        notes=audit["notes"],
        license=metadata.get("license"),
    )
    front = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + re.sub(r"\n{3,}", "\n\n", body)


def _describe_type(kind: Any) -> str:
    import datasets

    if isinstance(kind, (datasets.List, datasets.LargeList)):
        return f"list of {_describe_type(kind.feature)}"
    if isinstance(kind, datasets.ClassLabel):
        return f"one of {kind.num_classes} classes"
    if isinstance(kind, (datasets.Image, datasets.Audio)):
        return type(kind).__name__.lower()
    if isinstance(kind, dict):
        return "mapping of " + ", ".join(kind)
    return getattr(kind, "dtype", type(kind).__name__)


def _find_description(card: str) -> str:
    """Return the first paragraph of a card's text."""
    paragraphs = re.split(r"\n\s*\n", card.split("\n---\n", 1)[1])
    words = next(part for part in paragraphs if part.strip() and part.strip()[0] not in "#|<>")
    return " ".join(words.split())
