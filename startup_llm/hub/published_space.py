"""A Space of a run: a page of Gradio that asks the run's model, which lies in the Space itself."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from startup_llm.data.text_reading import TextReading
from startup_llm.errors import UserError
from startup_llm.evaluation.report import Results
from startup_llm.hub import space_app
from startup_llm.hub.model_card import choose_license, escape_markdown, hide_path
from startup_llm.hub.published_folder import PublishedFolder, collect_model, complete_folder, describe, mark_vocabulary
from startup_llm.run_folder import find_model
from startup_llm.tasks import TASKS, load_task

GRADIO = "6.31.0"
"""Version that the page is written for, which the Hub installs by the card."""
SETTINGS = "space.json"
_PACKAGES = ("numpy", "safetensors", "tokenizers", "torch", "transformers")
_SHOWN_EXAMPLES = 3


def build_published_space(
    run: Path, results: Results, license_name: str | None, *, with_report: bool
) -> PublishedFolder:
    """Choose and write the files of a Space.

    Args:
        run: A finished run's folder.
        results: Its results.
        license_name: Licence that a person chose.
        with_report: Whether to show texts of the data as examples.

    Raises:
        UserError: If transformers' pipeline alone does not answer as the run does.
    """
    model, _ = find_model(run)
    _check_run(run, results, model)
    task = load_task(results["task"])
    name = hide_path(results.get("run_name") or run.name)
    sentences = list(results.get("headline") or results.get("sentences") or ())[:2]
    texts = [mistake["text"] for mistake in results.get("mistakes") or () if isinstance(mistake.get("text"), str)]
    settings = {
        "task": task.tag,
        "title": name,
        "description": " ".join(map(escape_markdown, sentences)),
        "examples": texts[:_SHOWN_EXAMPLES] if with_report else [],
        "pipeline_arguments": dict(task.saved_model.pipeline_arguments),
        "model_sha256": results.get("model_sha256"),
    }
    chosen, notes = choose_license(results, license_name)
    versions = {package: importlib.metadata.version(package).partition("+")[0] for package in _PACKAGES}
    files = collect_model(model, "model/")
    files["app.py"] = describe(Path(space_app.__file__).read_bytes())
    files["requirements.txt"] = describe("".join(f"{key}=={value}\n" for key, value in versions.items()).encode())
    notes = [*notes, f"The page is written for Gradio {GRADIO}, which the Hub installs; it was not started here."]
    card = _build_card(name, sentences, task.tag, chosen)
    folder = complete_folder(f"the run {name}", files, card, SETTINGS, settings, notes)
    return mark_vocabulary(folder, results)


def _check_run(run: Path, results: Results, model: Path) -> None:
    known = [tag for tag in TASKS if load_task(tag).saved_model.shown_in_space]
    reading, columns = TextReading.of_results(results), results.get("columns") or ()
    for is_other, what in (
        (results["task"] not in known, f"is for {results['task']}; a Space is made of runs for {', '.join(known)}"),
        (bool(results.get("export")), "is an export, which no pipeline loads; name the run that it was made from"),
        (not any(model.glob("*.safetensors")), "has no model in safetensors; make the run again"),
        ("text_pair" in columns or bool(reading.columns), "reads several columns, and the page of a Space one text"),
        (bool(reading.kinds), f"removes {', '.join(reading.kinds)} from its texts, which a pipeline alone does not"),
    ):
        if is_other:
            raise UserError(f"--space: run {run} {what}")
    if load_task(results["task"]).saved_model.has_own_format(str(model)):
        raise UserError(f"--space: run {run} is a reference model of this package, which no pipeline loads")


def _build_card(name: str, sentences: list[str], tag: str, license_name: str | None) -> str:
    import yaml

    front: dict[str, Any] = {
        "title": name,
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": GRADIO,
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "pinned": False,
        "tags": ["startup-llm", tag],
        **({"license": license_name} if license_name else {}),
    }
    lines = "".join(f"- {escape_markdown(sentence)}\n" for sentence in sentences)
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {escape_markdown(name)}\n\n"
        f"A page that asks a model for {tag}, which lies in `model/`.\n\n{lines}"
    )
