"""The last step of a run: numbers, report and card into its folder, and its final name."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from startup_llm.data.task_data import compute_rows_sha256
from startup_llm.evaluation.advice import advise, build_headline
from startup_llm.evaluation.llm_costs import PROMPTED, TunedCosts, describe_costs
from startup_llm.evaluation.metrics import rank_metrics
from startup_llm.evaluation.prediction_costs import describe_prediction_costs
from startup_llm.evaluation.report import build_report
from startup_llm.evaluation.results import SCHEMA_VERSION, score_models
from startup_llm.hub.dataset_card import describe_dataset
from startup_llm.hub.model_card import Publication, build_model_card
from startup_llm.run_folder import RESULTS, RUN_LOCK
from startup_llm.runs.answering import compute_answering, judge_answering
from startup_llm.runs.decision import check_decision
from startup_llm.runs.drift import compute_reference, write_reference
from startup_llm.runs.explanations import check_explanation, explain_mistakes
from startup_llm.runs.lock import build_run_lock
from startup_llm.runs.masking import mask_examples
from startup_llm.training.finetuning import check_against_training
from startup_llm.training.pretraining import RANDOM_WEIGHTS
from startup_llm.training.reload_gate import check_reload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from datasets import Dataset

    from startup_llm.config import FinetuneConfig, PretrainConfig
    from startup_llm.data.task_data import TaskData
    from startup_llm.evaluation.llm_costs import PromptedAnswers
    from startup_llm.evaluation.metrics import Values
    from startup_llm.session import Session
    from startup_llm.tasks.base import Task
    from startup_llm.training.finetuning import Prepared, Trained
    from startup_llm.training.preflight import Estimate


MOST_TIMED_ROWS = 32
TIMED_SECONDS = 1.0
"""About how long single rows are timed."""


def check_finish(config: FinetuneConfig | PretrainConfig, task: Task, data: TaskData) -> None:
    """Refuse what a run could not do at its end, before it starts.

    Raises:
        UserError: If an option asks for a metric, a hand-over or explanations that the rows do not allow.
    """
    check_decision(config, task, data)
    check_explanation(config.evaluation, task, data)


def finish_run(
    session: Session,
    prepared: Prepared,
    trained: Trained,
    model: Any,
    predictions: dict[str, Values],
    *,
    audit: Mapping[str, Any] | None = None,
    estimate: Estimate | None = None,
    untuned_gallery: Sequence[Mapping[str, Any]] = (),
    prompted: PromptedAnswers | None = None,
) -> dict[str, Any] | None:
    """Predict the test rows, score every model on them, pass the reload gate, and write what a finished run holds.

    Every process predicts; the main one does the rest.

    Args:
        session: The run, models already in its folder.
        prepared: Data, checkpoint and model.
        trained: What training left.
        model: The model as it was saved.
        predictions: Test predictions of the baselines, by name; the trained model's are added.
        audit: What was found in the rows before training, from `audit_task_data`.
        estimate: What the run was expected to take.
        untuned_gallery: Items of the gallery that the checkpoint gave before it was tuned.
        prompted: What a large language model answered to the test rows.

    Returns:
        What `results.json` holds; None in the other processes.

    Raises:
        ReloadError: If what was saved does not give the model's outputs.
    """
    config, run, stage = session.config, session.run, session.stage
    task, data, test = prepared.task, prepared.data, prepared.data.splits["test"]
    candidate = "linear-probe" if config.method == "probe" else config.method
    with stage("evaluate"):
        metrics = rank_metrics(task.metrics(data), config.evaluation.decides)
        outputs, rows_per_second = _predict_test(session, prepared, trained, model)
        latencies = _time_single_rows(prepared, model)
        answering = compute_answering(prepared, model, config, metrics)
        decided = answering.read(outputs)
        predictions[candidate] = task.read_predictions(decided, prepared.encoded["test"], test, data)
        reference = compute_reference(prepared, model)
        explained = explain_mistakes(prepared, model, outputs, predictions[candidate], config.evaluation)
        sample, exact = _score_sample(prepared, model)
    if not run.is_writer:
        return None
    if prompted is not None:
        predictions[PROMPTED] = prompted.predictions
    with stage("statistics"):
        scores = score_models(metrics, task.references(test), predictions, candidate, config.evaluation)
        errors = {**task.describe_errors(test, outputs, predictions[candidate], data), **explained}
        errors |= _build_gallery(prepared, model, errors.pop("gallery", []), untuned_gallery, trained.samples)
        if prompted is not None:
            errors["prompted_llm"] = _describe_prompted(session, prompted, latencies, candidate, rows_per_second)
        task.predictor.write_files(run.path, data, outputs, prepared.processor)
        judged = judge_answering(answering, prepared, outputs, config, run.model)
        write_reference(run, prepared, model, reference, judged.get("decision"))
    with stage("reload gate"):
        base, arguments = prepared.checkpoint.path, prepared.task_model.load_arguments
        gate = check_reload(run, task=task.tag, rows=sample, outputs=exact, base=base, load_arguments=arguments)
    results = {
        **_describe_rows(session, prepared),
        **scores,
        **judged,
        **errors,
        **_describe_training(session, prepared, trained),
        "audit": audit,
        "reload_gate": dict(gate),
        "load": _describe_loading(session, prepared),
        "lock": RUN_LOCK,
        "estimate": estimate.as_dict() if estimate else None,
        "throughput": {**trained.throughput, "predict_examples_per_second": rows_per_second},
        "prediction_costs": _describe_predictions(session, latencies, rows_per_second),
        **session.describe(),
    }
    results |= {"headline": build_headline(results), "advice": advise(results)}
    return write_run(session, results, {"row": test["row"], **predictions}, prepared)


def _predict_test(
    session: Session, prepared: Prepared, trained: Trained, model: Any
) -> tuple[Sequence[np.ndarray], float]:
    """Return the saved model's outputs for the test rows, and how many rows a second took."""
    encoded = prepared.encoded["test"]
    first = min(256, len(prepared.data.splits["test"]), len(encoded))  # without what stands behind the rows
    check_against_training(trained, model, prepared, encoded.select(range(first)))
    start = session.clock.total
    outputs = prepared.predict(model, encoded)
    return outputs, len(prepared.data.splits["test"]) / (session.clock.total - start)


def _score_sample(prepared: Prepared, model: Any) -> tuple[Dataset, Sequence[np.ndarray]]:
    """Return test rows for the reload gate, and the model's outputs for them in exact numbers."""
    test, saved = prepared.data.splits["test"], prepared.task.saved_model
    sample = test.shuffle(seed=0).select(range(min(saved.compared_rows, len(test))))
    return sample, prepared.score(model, saved.encode_sample(sample, prepared.processor), prepared.plan.exact())


def _describe_prompted(
    session: Session,
    prompted: PromptedAnswers,
    latencies: Sequence[float],
    candidate: str,
    rows_per_second: float,
) -> dict[str, Any]:
    """Return what the prompted language model cost beside the tuned one."""
    tuned = TunedCosts(
        name=candidate,
        seconds=session.clock.total - prompted.seconds,
        rows_per_second=rows_per_second,
        latency_seconds=latencies,
        dollars_per_hour=session.config.preflight.dollars_per_hour,
    )
    return describe_costs(prompted, tuned)


def write_run(
    session: Session,
    results: Mapping[str, Any],
    predictions: Mapping[str, Values],
    prepared: Prepared | None = None,
) -> dict[str, Any]:
    """Write config, predictions, report, card and numbers into a run's folder, and give it its final name.

    Personal data in the results' example texts is masked, unless the config asks for it.

    Args:
        session: The run.
        results: What `results.json` will hold.
        predictions: Columns of `predictions.jsonl`, of one length.
        prepared: What the run's lock is made from; None for a run that cannot be reproduced from a lock.

    Returns:
        The results as they read back.
    """
    run, results = session.run, json.loads(json.dumps(results, default=str))
    if not session.config.evaluation.show_personal_data:
        results = mask_examples(results)
    run.write_text("config.yaml", session.config_text)
    columns = [values.tolist() if hasattr(values, "tolist") else values for values in predictions.values()]
    lines = [json.dumps(dict(zip(predictions, values, strict=True))) for values in zip(*columns, strict=True)]
    run.write_text("predictions.jsonl", "\n".join(lines) + "\n")
    run.write_text("report.html", build_report(results))
    run.write_text("README.md", build_model_card(results))
    if run.adapter.is_dir():  # in the place of PEFT's template, which has a local path
        run.write_text(f"{run.adapter.name}/README.md", build_model_card(results, Publication(what="adapter")))
    if prepared is not None:
        lock = build_run_lock(run, session.config_text, session.train_section, prepared, results)
        run.write_json(RUN_LOCK, lock)
    run.write_json(RESULTS, results)
    run.finish()
    return results


def _time_single_rows(prepared: Prepared, model: Any) -> list[float]:
    """Return the seconds that the model takes for a test row that comes alone, for the first few.

    Every process takes part, as in any prediction. The first row warms the model up and decides how many are timed.
    """
    from accelerate.utils import broadcast_object_list

    encoded, seconds = prepared.encoded["test"], []

    def time_row(place: int) -> float:
        start = time.perf_counter()
        prepared.predict(model, encoded.select([place]))
        return time.perf_counter() - start

    rows = max(1, int(TIMED_SECONDS / max(time_row(0), 1e-6)))
    rows = broadcast_object_list([min(len(encoded), MOST_TIMED_ROWS, rows)])[0]
    seconds.extend(time_row(place) for place in range(rows))
    return seconds


def _describe_predictions(session: Session, latencies: Sequence[float], rows_per_second: float) -> dict[str, Any]:
    """Return what `results.json` says of the time and the price of predictions."""
    preflight = getattr(session.config, "preflight", None)
    model_bytes = sum(file.stat().st_size for file in session.run.model.rglob("*.safetensors"))
    return describe_prediction_costs(
        latencies, rows_per_second, model_bytes, preflight.dollars_per_hour if preflight else None
    )


def _describe_rows(session: Session, prepared: Prepared) -> dict[str, Any]:
    """Return what `results.json` says of the task, its rows, and how they were read and computed."""
    task, data, test = prepared.task, prepared.data, prepared.data.splits["test"]
    limit = getattr(prepared.processor, "model_max_length", None) if task.cuts_long_rows else None
    return {
        "schema_version": SCHEMA_VERSION,
        "task": task.tag,
        "problem_type": data.problem_type,
        "method": session.config.method,
        "test": {"rows": len(test), "sha256": compute_rows_sha256(test)},
        "rows": {name: len(rows) for name, rows in data.splits.items()},
        "columns": test.column_names,
        "labels": list(data.label_names),
        "data": describe_dataset(session.config.data, data, session.data_cards),
        "truncation": {
            "max_length_tokens": limit,
            **{name: asdict(cut) for name, cut in prepared.truncation.items()},
        },
        "processor": dict(prepared.task_model.processor_details),
        "plan": prepared.plan.as_dict(),
    }


def _describe_training(session: Session, prepared: Prepared, trained: Trained) -> dict[str, Any]:
    """Return what `results.json` says of the checkpoint and of its training."""
    return {
        "history": trained.history,
        "checkpoint": prepared.describe_checkpoint(trained.trainable_parameters),
        "seed": session.train_section["seed"],
    }


def _describe_loading(session: Session, prepared: Prepared) -> dict[str, Any]:
    """Return what `results.json` says of how others load the model."""
    task, config = prepared.task, session.config
    load_code = None
    if prepared.checkpoint is RANDOM_WEIGHTS:
        load_code = task.reference_models.find_load_code(config.model.name)
    saved = task.saved_model
    return {
        "adapter_model_kwargs": dict(prepared.task_model.load_arguments),
        "auto_class": None if load_code else saved.find_auto_class(str(session.run.model)),
        "auto_processor": saved.auto_processor,
        "pipeline_arguments": dict(saved.pipeline_arguments),
        "python": load_code or saved.load_code,
        "library": "startup-llm" if load_code else saved.library,
    }


def _build_gallery(
    prepared: Prepared,
    model: Any,
    examples: Sequence[Mapping[str, Any]],
    untuned: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the gallery's section of `results.json`, if there is anything in it.

    Args:
        prepared: The task, its rows and what encodes them.
        model: The trained model, which may write samples of its own.
        examples: Items that the error analysis chose.
        untuned: Items that the checkpoint gave before it was tuned, put beside those of the same rows.
        samples: Items that were written during training.
    """
    written = prepared.task.write_samples(model, prepared.processor, prepared.data.splits["test"])
    gallery = [*_add_untuned([*examples, *written], untuned), *samples]
    return {"gallery": gallery} if gallery else {}


def _add_untuned(
    gallery: Sequence[Mapping[str, Any]], untuned: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Put what the checkpoint wrote before it was tuned beside what the tuned model writes for the same row."""
    before = {json.dumps(_name_item(item)): item["pairs"][-1][1] for item in untuned if _is_written(item)}
    return [
        {**item, "pairs": [*item["pairs"][:-1], ["untuned", before[key]], item["pairs"][-1]]}
        if _is_written(item) and (key := json.dumps(_name_item(item))) in before
        else item
        for item in gallery
    ]


def _is_written(item: Mapping[str, Any]) -> bool:
    return bool(item.get("pairs")) and item["pairs"][-1][0] == "written"


def _name_item(item: Mapping[str, Any]) -> list[Any]:
    return [item["title"], item["pairs"][:-1]]
