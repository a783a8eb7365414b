"""The audit as files: audit.json with every row, audit.html and audit.md to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.audit.audit import KINDS, Audit
from startup_llm.pages import load_page
from startup_llm.written_files import check_output_folder, write_output_folder

if TYPE_CHECKING:
    from startup_llm.config import AuditConfig

NAMES = ("audit.json", "audit.md", "audit.html")


def check_output(folder: str | Path, config: AuditConfig | None = None, *, overwrite: bool) -> Path:
    """Return the folder for an audit.

    Args:
        folder: Its name.
        config: The audit's options; none of them may name a file that is written.
        overwrite: Replace an earlier audit.

    Raises:
        UserError: if it is a file, is that of a run, or holds files that are not to be replaced.
    """
    return check_output_folder(str(folder), NAMES, config, kind="audit", overwrite=overwrite)


def write_audit(audit: Audit, folder: Path) -> None:
    """Write the files, each whole or not at all, and list them in the folder's marker.

    Args:
        audit: What was found.
        folder: Where to write.

    Raises:
        UserError: if the folder cannot be written.
    """
    content = audit.to_json()
    texts = (json.dumps(content, ensure_ascii=False) + "\n", render_markdown(content), build_page(content))
    write_output_folder(folder, dict(zip(NAMES, texts, strict=True)), kind="audit")


def render_markdown(content: dict[str, Any]) -> str:
    """Return the audit as a page: a table of the findings, then each with examples.

    Args:
        content: What `Audit.to_json` returns.
    """
    return "\n".join(_render(content)) + "\n"


def build_page(content: dict[str, Any]) -> str:
    """Return the audit as a page of HTML that needs no other file.

    Args:
        content: What `Audit.to_json` returns.
    """
    found = {finding["kind"] for finding in content["findings"]}
    filters = {"place": _name_place, "rest": _list_rest, "join": lambda values: _join(values, escape=False)}
    template = load_page("startup_llm.audit", "audit.html.jinja", filters)
    return template.render(
        **content,
        total=sum(content["statistics"]["rows"].values()),
        absent=[kind for kind in KINDS if kind not in found],
    )


def summarize(content: dict[str, Any] | None) -> list[str]:
    """Return a line per finding: severity, kind, rows, meaning. None stands for rows without texts."""
    if content is None:
        return ["the rows are no texts, and it inspects texts alone"]
    lines = [f"{f['severity']:8} {f['kind']:30} {f['count']:>9,}  {f['meaning']}" for f in content["findings"]]
    lines = lines or ["nothing was found"]
    if "level" in content:  # a run's: the recipe of the audit prints its notes itself
        lines += [f"languages: {described}"] if (described := describe_languages(content.get("languages"))) else []
        lines += content["notes"]
    if "after_fix" in content:
        lines += ["after --fix:", *_describe_rest(content["after_fix"])]
    return lines


def describe_languages(languages: dict[str, Any] | None) -> str:
    """Say in which languages how many texts are; nothing where none can be told.

    Args:
        languages: texts_by_language and texts, as a run's audit has them.
    """
    counts = (languages or {}).get("texts_by_language") or {}
    if not languages or not counts:
        return ""
    total = sum(counts.values())
    shown = [f"{language} {count / total:.0%}" for language, count in counts.items() if count >= 0.005 * total]
    return f"{', '.join(shown)} ({total:,} of {languages['texts']:,} texts inspected could be told)"


def _describe_rest(left: list[dict[str, Any]]) -> list[str]:
    """Return a line per finding of the cleaned copies."""
    if not left:
        return ["the same audit of the cleaned copies finds nothing"]
    return [f"{f['severity']:8} {f['kind']:30} {f['count']:>9,}  left: {f['why']}" for f in left]


def _render(content: dict[str, Any]) -> Iterator[str]:
    statistics, findings = content["statistics"], content["findings"]
    total = sum(statistics["rows"].values())
    yield "# Audit of the rows"
    yield ""
    yield ", ".join(f"{count:,} {split}" for split, count in statistics["rows"].items()) + " rows."
    yield from content["notes"]
    yield ""
    yield "| severity | finding | rows | share | what | what to do |"
    yield "|---|---|---:|---:|---|---|"
    for finding in findings:
        share = f"{finding['count'] / total:.2%}"
        cells = [finding["severity"], finding["kind"], f"{finding['count']:,}", share]
        yield f"| {' | '.join([*cells, finding['meaning'], finding['advice']])} |"
    kinds = {finding["kind"] for finding in findings}
    if "after_fix" in content:
        yield ""
        yield "After `--fix`, the same audit of the cleaned copies finds:"
        yield ""
        yield "| severity | finding | rows | left because |"
        yield "|---|---|---:|---|"
        for left in content["after_fix"]:
            yield f"| {left['severity']} | {left['kind']} | {left['count']:,} | {_escape(left['why'])} |"
        if not content["after_fix"]:
            yield "| - | nothing | 0 | |"
    yield ""
    yield f"No findings of: {', '.join(kind for kind in KINDS if kind not in kinds) or 'none of the kinds'}."
    yield ""
    yield "| length | " + " | ".join(statistics["lengths"]["words"]) + " |"
    yield "|---|" + "---:|" * len(statistics["lengths"]["words"])
    for unit, values in statistics["lengths"].items():
        yield f"| {unit} | " + " | ".join(f"{value:,}" for value in values.values()) + " |"
    if languages := statistics["texts_by_language"]:
        yield ""
        yield "Languages, where they can be told: " + ", ".join(f"{k} {v:,}" for k, v in languages.items()) + "."
    yield ""
    yield "Texts are shown with personal data masked, as far as it was found; audit.json names every row."
    for finding in findings:
        yield ""
        yield f"## {finding['kind']}"
        yield ""
        yield f"{finding['count']:,} {finding['meaning']}: {_join(finding['count_by_split'])}."
        yield f"What to do: {finding['advice']}."
        if finding["details"]:
            yield ""
            yield f"Details: {_join(finding['details'])}."
        yield ""
        for example in finding["examples"]:
            yield f"- {_show(example)}"


def _show(example: dict[str, Any]) -> str:
    rest, against = _list_rest(example), example.get("against")
    line = f"{_name_place(example)}: {_quote(example['text'])} [{_escape(example['label'])}]"
    if rest:
        line += f" ({_join(rest)})"
    return line if against is None else f"{line} against {_show(against)}"


def _name_place(example: dict[str, Any]) -> str:
    place = f"{example['split']} row {example['row']}"
    return f"{place} ({example['file']} row {example['file_row']})" if "file" in example else place


def _list_rest(example: dict[str, Any]) -> dict[str, Any]:
    shown = ("split", "row", "file", "file_row", "text", "label", "against")
    return {name: value for name, value in example.items() if name not in shown}


def _join(values: dict[str, Any], *, escape: bool = True) -> str:
    parts = []
    for name, value in values.items():
        if isinstance(value, dict):
            value = "{" + _join(value, escape=False) + "}"
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        parts.append(f"{name.replace('_', ' ')} {value}")
    joined = "; ".join(parts)
    return _escape(joined) if escape else joined


def _quote(text: str) -> str:
    return "`" + text.replace("`", "'").replace("|", "¦") + "`" if text else "(empty)"


def _escape(text: str) -> str:
    return text.replace("|", "¦").replace("<", "&lt;").replace("\n", " ")
