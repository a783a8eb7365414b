"""From a finished run to the folder of its export, which is published like a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.config import ExportConfig, ModelConfig
from startup_llm.errors import UserError, nearest
from startup_llm.evaluation.report import build_report
from startup_llm.export.formats import FORMATS, NOT_WRITTEN, Format
from startup_llm.export.proof import RUN, Source, load_rows, measure_by_torch, prove
from startup_llm.hub.model_card import build_model_card
from startup_llm.plain_data import read_json_object
from startup_llm.run_folder import RESULTS, RUN_LOCK, find_model, require_results
from startup_llm.runs.llama_cpp import holds_gguf
from startup_llm.runs.onnx_model import holds_onnx
from startup_llm.tasks import TASKS, load_task

if TYPE_CHECKING:
    from startup_llm.session import Session

EXPORT = "export.json"


def check_config(config: ExportConfig) -> tuple[ExportConfig, Path, dict[str, Any]]:
    """Return the config with the quantization chosen, the folder of the run's model, and its results.

    Raises:
        UserError: If the format or its quantization is unknown, the packages for it are missing, or the run has no
            model to export.
    """
    if why := NOT_WRITTEN.get(config.format):
        raise UserError(f"format {config.format!r} is not written: {why}; choose one of {', '.join(FORMATS)}")
    if config.format not in FORMATS:
        hint = nearest(config.format, FORMATS)
        raise UserError(f"unknown format {config.format!r}{hint or ';'} choose one of {', '.join(FORMATS)}")
    format = FORMATS[config.format]
    if config.quantization is None:
        default: Any = next(iter(format.quantizations), None)
        config = replace(config, quantization=default)
    elif config.quantization not in format.quantizations:
        known = ", ".join(format.quantizations) or "no choice: leave the option out"
        raise UserError(f"--quantization {config.quantization}: format {config.format} has {known}")
    folder, results = find_model(config.run)
    require_results(results, config.run, ("task", "method", "decides", "models", "test"))
    tag = results["task"]
    if not format.writes(load_task(tag)):
        expected = [other for other in TASKS if format.writes(load_task(other))]
        raise UserError(
            f"run {config.run} is for {tag}, which has no export to {config.format}; "
            f"expected a run for {', '.join(expected)}"
        )
    if holds_onnx(folder) or holds_gguf(folder):
        raise UserError(f"run {config.run} is an export already; name the run that it was made from")
    format.require_packages()
    return config, folder, results


def load_source(config: ExportConfig, folder: Path, results: Mapping[str, Any]) -> Source:
    """Read the rows of a run.

    Args:
        config: Names the run.
        folder: Its model's.
        results: Its results.

    Raises:
        UserError: If it cannot be exported, or its test rows are not there.
    """
    from startup_llm.models.checkpoints import load_checkpoint
    from startup_llm.training.trained_model import load_trained_processor

    run, task = Path(config.run), load_task(results["task"])
    if task.saved_model.has_own_format(str(folder)):
        raise UserError(f"run {config.run} is a reference model of this package, which has no export; fine-tune one")
    checkpoint = load_checkpoint(ModelConfig(checkpoint=str(folder)))
    processor = load_trained_processor(task, checkpoint)
    data = load_rows(run, task, results, processor)
    source = Source(run, folder, task, results, data, processor, checkpoint.weights_sha256)
    FORMATS[config.format].check_model(source)
    return source


def export_run(session: Session[ExportConfig], source: Source) -> dict[str, Any]:
    """Write a run's model in another form, and prove it.

    Args:
        session: The export, its config from `check_config`; its folder gets all but `results.json`.
        source: The run.

    Returns:
        What `export.json` says.

    Raises:
        UserError: If the model cannot be exported.
    """
    config, run, task, format = session.config, session.run, source.task, FORMATS[session.config.format]
    name = format.choose_name(config.format, config.quantization)
    with session.stage("model"):
        model = task.saved_model.load_whole(str(source.folder), str(source.run))
        own = measure_by_torch(source, model, source.processor, RUN, source.folder, source.weights_sha256)
    with session.stage("export"):
        run.model.mkdir(exist_ok=True)
        format.write(source, model, source.processor, run.model, config)
    del model
    with session.stage("proof"):
        exported = format.measure(source, run.model, name, own)
        proof, predictions = prove(source, own, exported, config.evaluation)
        for key, figures in format.time(source, run.model, name).items():
            proof["models"][key] |= figures
    proof |= {
        "quantization": config.quantization,
        "sentences": [*describe_proof(proof, format), *_describe_scope(source.folder)],
        "table": build_table(proof),
        "note": format.describe_timing(),
        **session.describe_process(),
    }
    task.predictor.write_files(run.path, source.data, exported.outputs, source.processor)
    _write_files(session, source, proof, predictions)
    return proof


def _describe_scope(source: Path) -> list[str]:
    """Say where a run tells inputs out of scope, which reads features that an export does not give."""
    if read_json_object(source / "config.json").get("out_of_scope") is None:
        return []
    return ["the export does not tell inputs out of scope, as the run does: it gives no features"]


def _write_files(session: Session[ExportConfig], source: Source, proof: Mapping[str, Any], predictions: Any) -> None:
    run, results = session.run, {**source.results, "export": dict(proof)}
    format = FORMATS[session.config.format]
    results["load"] = {
        **(results.get("load") or {}),
        "python": format.write_load_code(source.task),
        "library": format.library,
    }
    run.write_json(EXPORT, proof)
    if (source.run / "config.yaml").is_file():
        run.write_text("config.yaml", (source.run / "config.yaml").read_text(encoding="utf-8"))
    if (source.run / RUN_LOCK).is_file():
        run.write_text(RUN_LOCK, (source.run / RUN_LOCK).read_text(encoding="utf-8"))
    rows = source.data.splits["test"]["row"]
    values = predictions.tolist() if hasattr(predictions, "tolist") else predictions
    lines = [json.dumps({"row": row, results["method"]: value}) for row, value in zip(rows, values, strict=True)]
    run.write_text("predictions.jsonl", "\n".join(lines) + "\n")
    run.write_text("report.html", build_report(results))
    run.write_text("README.md", build_model_card(results))
    run.write_json(RESULTS, results)


_ROWS: Mapping[str, tuple[str, str]] = {
    "import, seconds": ("import_seconds", "{:.2f}"),
    "loading, seconds": ("load_seconds", "{:.2f}"),
    "import to first answer, seconds": ("first_answer_seconds", "{:.2f}"),
    "one row, median": ("latency_ms_p50", "{:.1f} ms"),
    "one row, 95th percentile": ("latency_ms_p95", "{:.1f} ms"),
    "tokens a second": ("tokens_per_second", "{:,.1f}"),
}
"""Rows of the table -> the figure, and how it is written."""


def build_table(proof: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `header` and the `rows` of the table: what is measured, of the run and of the export."""
    models = proof["models"]
    metric = proof["decides"]

    def share(model: Mapping[str, Any]) -> str:
        score = model["metrics"][metric]
        return f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})"

    lines: dict[str, list[str]] = {metric: [share(model) for model in models.values()]}
    if any(model["calibration_error"] for model in models.values()):
        lines["calibration error"] = [f"{model['calibration_error']['value']:.4f}" for model in models.values()]
    lines["weights"] = [f"{model['bytes'] / 1e6:,.1f} MB" for model in models.values()]
    for what, (key, how) in _ROWS.items():
        if key in models[RUN]:
            lines[what] = [how.format(model[key]) for model in models.values()]
    for size in models[RUN].get("rows_per_second", ()):
        values = [model["rows_per_second"][size] for model in models.values()]
        lines[f"rows a second, {size} at once"] = [f"{value:,.0f}" for value in values]
    names = [f"run, by {models[RUN]['computed_by']}" if name == RUN else name for name in models]
    return {"header": ["", *names], "rows": [[what, *values] for what, values in lines.items()]}


def describe_proof(proof: Mapping[str, Any], format: Format) -> list[str]:
    """Return in sentences what an export has lost and won."""
    models, name, same = proof["models"], proof["format"], proof["same_answers"]
    alike = [] if same is None else [f"both answer {100 * same:.1f} % of {proof['test']['rows']:,} test rows alike"]
    size = models[name]["bytes"] / models[RUN]["bytes"]
    speed = format.describe_speed(models, name)
    return [proof["sentence"], *alike, f"{name} has {100 * size:.0f} % of the run's size, and {speed}"]
