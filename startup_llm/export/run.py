"""From a finished run to the folder of its export, which is served and published like a run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.config import ExportConfig
from startup_llm.errors import UserError, nearest
from startup_llm.evaluation.report import build_report
from startup_llm.export import onnx_files, timing
from startup_llm.export.proof import RUN, Source, compute_run_outputs, list_texts, load_rows, prove
from startup_llm.hub.model_card import build_model_card
from startup_llm.plain_data import read_json_object
from startup_llm.run_folder import RESULTS, RUN_LOCK, find_model, require_results
from startup_llm.runs.onnx_model import OnnxModel, holds_onnx
from startup_llm.runs.prediction import load_exported_model
from startup_llm.tasks import load_task

if TYPE_CHECKING:
    from startup_llm.session import Session

EXPORT = "export.json"
FORMATS = {"onnx": "float32", "onnx-int8": "int8"}
"""Formats that are written -> the type of their weights."""
NOT_WRITTEN = {
    "openvino": "onnxruntime computes the same int8 weights without a second runtime",
    "static": "a table of word vectors is another model, not a form of this one: train one and compare the runs",
}
"""Formats that are asked for elsewhere, and why they are not written here."""
EXPORTED_TASKS = ("text-classification",)
_LOAD_CODE = """from huggingface_hub import snapshot_download
from startup_llm.runs.prediction import load_exported_run  # needs numpy, tokenizers and onnxruntime alone

model = load_exported_run(snapshot_download("REPOSITORY"))
answers = model.answer({"text": ["a text"]})"""


def check_config(config: ExportConfig) -> tuple[str, Path, dict[str, Any]]:
    """Return a run's task, the folder of its model and its results, before anything that takes time.

    Raises:
        UserError: If the format is unknown, the packages for it are missing, or the run has no model to export.
    """
    if why := NOT_WRITTEN.get(config.format):
        raise UserError(f"format {config.format!r} is not written: {why}; choose one of {', '.join(FORMATS)}")
    if config.format not in FORMATS:
        hint = nearest(config.format, FORMATS)
        raise UserError(f"unknown format {config.format!r}{hint or ';'} choose one of {', '.join(FORMATS)}")
    folder, results = find_model(config.run)
    require_results(results, config.run, ("task", "method", "decides", "models", "test"))
    tag = results["task"]
    if tag not in EXPORTED_TASKS:
        raise UserError(
            f"run {config.run} is for {tag}, which has no export to {config.format}; "
            f"expected a run for {', '.join(EXPORTED_TASKS)}"
        )
    if holds_onnx(folder):
        raise UserError(f"run {config.run} is an export already; name the run that it was made from")
    onnx_files.require_packages()
    return tag, folder, results


def load_source(config: ExportConfig, tag: str, folder: Path, results: Mapping[str, Any]) -> Source:
    """Read the rows of a run.

    Args:
        config: Names the run.
        tag: Its task.
        folder: Its model's.
        results: Its results.

    Raises:
        UserError: If it cannot be exported, or its test rows are not there.
    """
    task = load_task(tag)
    if task.saved_model.has_own_format(str(folder)):
        raise UserError(f"run {config.run} is a reference model of this package, which has no export; fine-tune one")
    return Source(Path(config.run), folder, task, results, load_rows(Path(config.run), task, results))


def export_run(session: Session[ExportConfig], source: Source) -> dict[str, Any]:
    """Write a run's model in another form, and prove it.

    Args:
        session: The export; its folder gets all but `results.json`.
        source: The run.

    Returns:
        What `export.json` says.

    Raises:
        UserError: If the model cannot be exported.
    """
    from startup_llm.config import ModelConfig
    from startup_llm.models.checkpoints import load_checkpoint
    from startup_llm.training.trained_model import load_trained_processor

    config, run, task = session.config, session.run, source.task
    with session.stage("model"):
        checkpoint = load_checkpoint(ModelConfig(checkpoint=str(source.folder)))
        processor = load_trained_processor(task, checkpoint)
        model = task.saved_model.load_whole(str(source.folder), str(source.run))
        outputs = compute_run_outputs(source, model, processor)
    with session.stage("export"):
        run.model.mkdir(exist_ok=True)
        onnx_files.write_onnx(model.to("cpu"), processor, run.model, FORMATS[config.format])
        _copy_decision(source.folder, run.model)
        if FORMATS[config.format] == "int8":
            onnx_files.quantize(run.model, config.quantization, _list_batches(source, run.model, config))
    del model
    with session.stage("proof"):
        exported = load_exported_model(task, run.model)
        proof, predictions = prove(source, exported, config.format, outputs, config.evaluation)
    proof |= {"quantization": config.quantization if FORMATS[config.format] == "int8" else None}
    proof |= {
        "sentences": [*describe_proof(proof), *_describe_scope(source.folder)],
        "table": build_table(proof),
        "note": describe_timing(),
    }
    proof |= {"run_model_sha256": checkpoint.weights_sha256, **session.describe_process()}
    _write_files(session, source, proof, predictions)
    return proof


def _copy_decision(source: Path, target: Path) -> None:
    """Keep how answers are read, and the labels, as the run's own config has them, but for inputs out of scope."""
    config = read_json_object(source / "config.json")
    config.pop("out_of_scope", None)
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _describe_scope(source: Path) -> list[str]:
    """Say where a run tells inputs out of scope, which reads features that an export does not give."""
    if read_json_object(source / "config.json").get("out_of_scope") is None:
        return []
    return ["the export does not tell inputs out of scope, as the run does: it gives no features"]


def _list_batches(source: Source, folder: Path, config: ExportConfig) -> list[dict[str, Any]]:
    """Return inputs of training rows, by which a static quantization sets its ranges."""
    if config.quantization != "static":
        return []
    train = source.data.splits["train"].shuffle(seed=0)
    texts, pairs = list_texts(train.select(range(min(config.calibration_rows, len(train)))))
    model = OnnxModel(folder)
    return [model.pad([encoding]) for encoding in model.tokenize(texts, pairs)]


def _write_files(session: Session[ExportConfig], source: Source, proof: Mapping[str, Any], predictions: Any) -> None:
    run, results = session.run, {**source.results, "export": dict(proof)}
    results["load"] = {**(results.get("load") or {}), "python": _LOAD_CODE, "library": "onnx"}
    run.write_json(EXPORT, proof)
    if (source.run / "config.yaml").is_file():
        run.write_text("config.yaml", (source.run / "config.yaml").read_text(encoding="utf-8"))
    if (source.run / RUN_LOCK).is_file():
        run.write_text(RUN_LOCK, (source.run / RUN_LOCK).read_text(encoding="utf-8"))
    rows = source.data.splits["test"]["row"]
    lines = [
        json.dumps({"row": row, source.results["method"]: value})
        for row, value in zip(rows, predictions.tolist(), strict=True)
    ]
    run.write_text("predictions.jsonl", "\n".join(lines) + "\n")
    run.write_text("report.html", build_report(results))
    run.write_text("README.md", build_model_card(results))
    run.write_json(RESULTS, results)


def build_table(proof: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `header` and the `rows` of the table: what is measured, of the run and of the export."""
    models = proof["models"]
    metric = proof["decides"]

    def share(model: Mapping[str, Any]) -> str:
        score = model["metrics"][metric]
        return f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})"

    lines: dict[str, list[str]] = {
        metric: [share(model) for model in models.values()],
        "calibration error": [
            f"{model['calibration_error']['value']:.4f}" if model["calibration_error"] else "–"
            for model in models.values()
        ],
        "weights": [f"{model['bytes'] / 1e6:,.1f} MB" for model in models.values()],
        "import, seconds": [f"{model['import_seconds']:.2f}" for model in models.values()],
        "loading, seconds": [f"{model['load_seconds']:.2f}" for model in models.values()],
        "import to first answer, seconds": [f"{model['first_answer_seconds']:.2f}" for model in models.values()],
        "one row, median": [f"{model['latency_ms_p50']:.1f} ms" for model in models.values()],
        "one row, 95th percentile": [f"{model['latency_ms_p95']:.1f} ms" for model in models.values()],
        **{
            f"rows a second, {size} at once": [f"{model['rows_per_second'][size]:,.0f}" for model in models.values()]
            for size in models[RUN]["rows_per_second"]
        },
    }
    names = ["run, by pipeline" if name == RUN else name for name in models]
    return {"header": ["", *names], "rows": [[what, *values] for what, values in lines.items()]}


def describe_proof(proof: Mapping[str, Any]) -> list[str]:
    """Return in sentences what an export has lost and won."""
    models, name = proof["models"], proof["format"]
    faster = models[name]["times_faster"]
    size, same = models[name]["bytes"] / models[RUN]["bytes"], proof["same_answers"]
    alike = [] if same is None else [f"both answer {100 * same:.1f} % of {proof['test']['rows']:,} test rows alike"]
    return [
        proof["sentence"],
        *alike,
        f"{name} has {100 * size:.0f} % of the run's size, and answers {faster['one_row']:.1f} times as many rows a "
        f"second as transformers' pipeline one by one, {faster['best_batch']:.1f} times as many at the best batch of "
        "either",
    ]


def describe_timing() -> str:
    """Return how the times were measured."""
    return (
        f"Timed in turns on {len(os.sched_getaffinity(0))} cores in one process, medians of {timing.ROUNDS} rounds: "
        f"the first {timing.ALONE_ROWS} test rows one by one, and {timing.TIMED_ROWS} rows so many at once, from text "
        f"to answer. Import, loading and first answer: medians of {timing.COLD_STARTS} new processes."
    )
