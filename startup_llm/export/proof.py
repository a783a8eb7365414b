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
from startup_llm.tasks.options import build_section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from startup_llm.config import EvaluationConfig
    from startup_llm.data.task_data import TaskData
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
        processor: What encodes them.
        weights_sha256: Of its model.
    """

    run: Path
    folder: Path
    task: Task
    results: Mapping[str, Any]
    data: TaskData
    processor: Any
    weights_sha256: str


@dataclass(frozen=True)
class MeasuredModel:
    """A form of the run's model, and what it says of the test rows.

    Attributes:
        name: `RUN`, or the export's.
        folder: Of its weights.
        weights_sha256: Of them.
        config: The model's: labels, decision and thresholds.
        outputs: For each row that `Task.encode_split` makes of the test split.
        encoded: Those rows.
    """

    name: str
    folder: Path
    weights_sha256: str
    config: Any
    outputs: Sequence[np.ndarray]
    encoded: Any


def load_rows(run: Path, task: Task, results: Mapping[str, Any], processor: Any) -> TaskData:
    """Read a run's rows again.

    Raises:
        UserError: If they are not there, or the test rows are not those that the run was tested on.
    """
    config = results.get("config") or {}
    sections = [build_section(task.tag, name, config.get(name) or {}) for name in ("data", "evaluation")]
    data = task.fit_data(task.load_data(*sections), processor)
    sha256, expected = compute_rows_sha256(data.splits["test"]), (results.get("test") or {}).get("sha256")
    if sha256 != expected:
        raise UserError(
            f"the test rows are not those that {run} was tested on (SHA-256 {sha256[:12]}..., expected "
            f"{str(expected)[:12]}...); put the run's files back in their place"
        )
    return data


def measure_by_torch(
    source: Source, model: Any, processor: Any, name: str, folder: Path, weights_sha256: str
) -> MeasuredModel:
    """Compute the outputs of a model of transformers for the test rows, in float32."""
    from startup_llm.training.inference import predict_outputs
    from startup_llm.training.speed import plan_speed

    encoded, _ = source.task.encode_split("test", source.data, processor)
    plan = plan_speed().exact()
    outputs = predict_outputs(source.task, model.to(plan.device), encoded, processor, plan)
    return MeasuredModel(name, folder, weights_sha256, model.config, outputs, encoded)


def prove(
    source: Source, own: MeasuredModel, export: MeasuredModel, evaluation: EvaluationConfig
) -> tuple[dict[str, Any], Any]:
    """Measure an export beside its run.

    Args:
        source: The run.
        own: Its model.
        export: What was made of it, loaded from where it lies.
        evaluation: How intervals are made.

    Returns:
        What `export.json` says but for times, and the export's predictions.
    """
    task, data, test = source.task, source.data, source.data.splits["test"]
    predictions = {}
    for model in (own, export):
        decided = apply_stored(model.outputs, model.config)
        predictions[model.name] = task.read_predictions(decided, model.encoded, test, data)
    references, metrics = task.references(test), rank_metrics(task.metrics(data), source.results.get("decides"))
    models: dict[str, dict[str, Any]] = {
        model.name: {
            "metrics": {
                metric.name: asdict(compute_interval(metric, references, predictions[model.name], evaluation))
                for metric in metrics
            },
            "calibration_error": _measure_calibration(task, data, model, evaluation),
            "bytes": measure_weights(model.folder),
        }
        for model in (own, export)
    }
    pair = (export.name, predictions[export.name]), ("the run", predictions[RUN])
    comparisons = [asdict(compare_models(metric, references, *pair, evaluation)) for metric in metrics]
    how: dict[str, Any] = {"lower_is_better": metrics[0].lower_is_better, "level": evaluation.confidence_level}
    proof = {
        "format": export.name,
        "run": source.run.name,
        "run_model_sha256": own.weights_sha256,
        "model_sha256": export.weights_sha256,
        "test": {"rows": len(test), "sha256": compute_rows_sha256(test)},
        "decides": metrics[0].name,
        "models": models,
        "comparisons": comparisons,
        "outcome": judge_comparison(comparisons[0], **how),
        "sentence": describe_comparison(comparisons[0], **how).replace("does not beat", "is not shown to differ from"),
        "same_answers": _measure_agreement(predictions[RUN], predictions[export.name], ranks=task.predictor.embeds),
        "largest_difference": _measure_difference(own.outputs, export.outputs),
    }
    return proof, predictions[export.name]


def _measure_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Return the largest difference between two models' numbers; texts that they wrote have none."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(ours, theirs, strict=True)]
    return max((float(np.abs(a - b).max()) for a, b in pairs if a.dtype.kind == "f" and a.size), default=0.0)


def _measure_agreement(ours: Any, theirs: Any, *, ranks: bool) -> float | None:
    """Return the share of rows with the same label, labels or first find; None for numbers, which are never the same.

    Args:
        ours: The run's predictions.
        theirs: The export's.
        ranks: Whether a prediction that is no number is a ranking.
    """
    if np.asarray(ours[0]).dtype.kind in "fO":
        return None
    if ranks:
        ours, theirs = ([ranking[:1] for ranking in model] for model in (ours, theirs))
    return float(np.mean([np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)]))


def _measure_calibration(
    task: Task, data: TaskData, model: MeasuredModel, evaluation: EvaluationConfig
) -> dict[str, Any] | None:
    """Return the expected calibration error at the stored temperature; None for rows that have not one label each."""
    if not task.has_one_label(data):
        return None
    rows = ClassifiedRows(np.asarray(model.outputs), np.asarray(task.references(data.splits["test"])))
    temperature = (Decision.read(model.config) or Decision()).temperature
    return measure_reliability(*rows.compute_confidence(temperature), evaluation)


def measure_weights(folder: Path) -> int:
    """Return the bytes of a model's weights."""
    return sum(
        file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".onnx", ".gguf", ".pt2")
    )
