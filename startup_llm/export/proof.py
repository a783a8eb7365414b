"""What an export is worth: it is measured on the run's test rows, beside the run itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.errors import UserError
from startup_llm.evaluation.decisions import ClassifiedRows, Decision, measure_reliability
from startup_llm.evaluation.label_thresholds import apply_stored
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.evaluation.statistics import (
    compare_models,
    compute_interval,
    describe_comparison,
    judge_comparison,
)
from startup_llm.export.timing import EXPORT_START, RUN_START, time_answers, time_first_answer
from startup_llm.tasks.options import build_section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from startup_llm.config import EvaluationConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.runs.prediction import ExportedModel
    from startup_llm.tasks.base import Task

RUN = "run"
"""What the run's own model is called beside its export."""


@dataclass(frozen=True)
class Source:
    """A finished run and its rows.

    Attributes:
        run: Its folder.
        folder: Its model's.
        task: Its task.
        results: Its results.
        data: Its rows, cleaned as the run does.
    """

    run: Path
    folder: Path
    task: Task
    results: Mapping[str, Any]
    data: TaskData


def load_rows(run: Path, task: Task, results: Mapping[str, Any]) -> TaskData:
    """Read a run's rows again.

    Raises:
        UserError: If they are not there, or the test rows are not those that the run was tested on.
    """
    data = task.load_data(build_section(task.tag, "data", (results.get("config") or {}).get("data") or {}))
    sha256, expected = compute_rows_sha256(data.splits["test"]), (results.get("test") or {}).get("sha256")
    if sha256 != expected:
        raise UserError(
            f"the test rows are not those that {run} was tested on (SHA-256 {sha256[:12]}..., expected "
            f"{str(expected)[:12]}...); put the run's files back in their place"
        )
    return data


def compute_run_outputs(source: Source, model: Any, processor: Any) -> list[np.ndarray]:
    """Return the outputs of the run's own model for the test rows, in float32."""
    from startup_llm.training.inference import predict_outputs
    from startup_llm.training.speed import plan_speed

    encoded, _ = source.task.encode_split("test", source.data, processor)
    plan = plan_speed().exact()
    return predict_outputs(source.task, model.to(plan.device), encoded, processor, plan)


def list_texts(rows: Any) -> tuple[list[str], list[str] | None]:
    """Return the texts of rows, and the second ones where there are any."""
    return list(rows["text"]), list(rows["text_pair"]) if "text_pair" in rows.column_names else None


def prove(
    source: Source, export: ExportedModel, name: str, outputs: Sequence[np.ndarray], evaluation: EvaluationConfig
) -> tuple[dict[str, Any], Any]:
    """Measure an export beside its run.

    Args:
        source: The run.
        export: What was made of it, loaded from where it lies.
        name: Of the export, such as onnx-int8.
        outputs: Of the run's own model for the test rows.
        evaluation: How intervals are made.

    Returns:
        What `export.json` says, and the export's predictions.
    """
    task, data, test = source.task, source.data, source.data.splits["test"]
    own = export.model.compute(*list_texts(test))
    given = {RUN: outputs, name: own}
    decided = {key: apply_stored(values, export.model.config) for key, values in given.items()}
    predictions = {key: task.read_predictions(values, None, test, data) for key, values in decided.items()}
    references, metrics = task.references(test), rank_metrics(task.metrics(data), source.results.get("decides"))
    folders = {RUN: source.folder, name: export.checkpoint.path}
    starts = {RUN: RUN_START, name: EXPORT_START}
    models: dict[str, dict[str, Any]] = {}
    for key, values in given.items():
        models[key] = {
            "metrics": {
                metric.name: asdict(compute_interval(metric, references, predictions[key], evaluation))
                for metric in metrics
            },
            "calibration_error": _measure_calibration(task, data, values, export, evaluation),
            "bytes": measure_weights(folders[key]),
            **time_first_answer(starts[key], task=task.tag, folder=str(folders[key])),
        }
    for key, figures in _time(source, export, name).items():
        models[key] |= figures
    pair = (name, predictions[name]), ("the run", predictions[RUN])
    comparisons = [asdict(compare_models(metric, references, *pair, evaluation)) for metric in metrics]
    how: dict[str, Any] = {"lower_is_better": metrics[0].lower_is_better, "level": evaluation.confidence_level}
    proof = {
        "format": name,
        "run": source.run.name,
        "run_model_sha256": source.results.get("model_sha256"),
        "model_sha256": export.checkpoint.weights_sha256,
        "test": {"rows": len(test), "sha256": compute_rows_sha256(test)},
        "decides": metrics[0].name,
        "models": models,
        "comparisons": comparisons,
        "outcome": judge_comparison(comparisons[0], **how),
        "sentence": describe_comparison(comparisons[0], **how).replace("does not beat", "is not shown to differ from"),
        "same_answers": _measure_agreement(predictions[RUN], predictions[name]),
        "largest_difference": float(np.abs(np.asarray(own) - np.asarray(outputs)).max()),
    }
    return proof, predictions[name]


def _measure_agreement(ours: Any, theirs: Any) -> float | None:
    """Return the share of rows with the same label or labels; None for numbers, which are never quite the same."""
    same = np.asarray(ours) == np.asarray(theirs)
    return None if np.asarray(ours).dtype.kind == "f" else float(same.reshape(len(same), -1).all(axis=1).mean())


def _measure_calibration(
    task: Task, data: TaskData, outputs: Sequence[np.ndarray], export: ExportedModel, evaluation: EvaluationConfig
) -> dict[str, Any] | None:
    """Return the expected calibration error at the stored temperature; None for rows that have not one label each."""
    if not task.has_one_label(data):
        return None
    rows = ClassifiedRows(np.asarray(outputs), np.asarray(task.references(data.splits["test"])))
    temperature = (Decision.read(export.model.config) or Decision()).temperature
    return measure_reliability(*rows.compute_confidence(temperature), evaluation)


def measure_weights(folder: Path) -> int:
    """Return the bytes of a model's weights."""
    return sum(
        file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".onnx", ".gguf", ".pt2")
    )


def _time(source: Source, export: ExportedModel, name: str) -> dict[str, dict[str, Any]]:
    """Time the run by transformers' pipeline, and the export by what serves it."""
    from transformers import pipeline

    texts, pairs = list_texts(source.data.splits["test"])
    rows: list[Any] = texts
    if pairs is not None:
        rows = [{"text": text, "text_pair": pair} for text, pair in zip(texts, pairs, strict=True)]
    classify = pipeline(source.task.tag, model=str(source.folder), dtype="float32", device="cpu")

    def answer_by_pipeline(asked: Sequence[Any], size: int) -> object:
        return classify(list(asked), batch_size=size, truncation=True)

    def answer_by_export(asked: Sequence[Any], size: int) -> object:
        for start in range(0, len(asked), size):
            part = list(asked[start : start + size])
            if pairs is None:
                export.answer({"text": part})
            else:
                export.answer({key: [row[key] for row in part] for key in ("text", "text_pair")})
        return None

    return time_answers({RUN: answer_by_pipeline, name: answer_by_export}, rows)
