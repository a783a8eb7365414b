"""Inputs that fit no label: what a run's model computes for the rows by which they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from startup_llm.config import ClassDecision
from startup_llm.evaluation.decisions import MIN_VALIDATION_ROWS
from startup_llm.evaluation.out_of_scope import Detector, FeatureRows, ScopeRows, analyse_out_of_scope
from startup_llm.models.sequence_classifier import find_output_layer
from startup_llm.training.inference import extract_features

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.config import DecisionConfig, EvaluationConfig
    from startup_llm.training.finetuning import Prepared


def find_asked_score(decision: DecisionConfig, outside: object) -> str | None:
    """Return the score that is asked for; None where inputs out of scope are not told.

    Args:
        decision: The options.
        outside: Rows out of scope; None where there are none.
    """
    asked = decision.out_of_scope if isinstance(decision, ClassDecision) else None
    return asked or ("auto" if outside is not None else None)


def compute_scope_rows(prepared: Prepared, model: Any, decision: DecisionConfig) -> ScopeRows | None:
    """Return logits and features of all rows by which inputs out of scope are told; every process computes them.

    They are computed in float32, as predictions are.

    Args:
        prepared: The rows.
        model: As it was saved.
        decision: What is asked for.

    Returns:
        None where nothing is asked for, or validation rows are too few to choose by.
    """
    data, encoded = prepared.data, prepared.encoded
    outside = data.out_of_scope
    enough = "validation" in encoded and len(encoded["validation"]) >= MIN_VALIDATION_ROWS
    if find_asked_score(decision, outside) is None or not enough:
        return None
    output = find_output_layer(model)
    weight = output.weight.detach().float().cpu().numpy()
    bias = 0.0 if output.bias is None else output.bias.detach().float().cpu().numpy()

    def compute(rows: Dataset, labels: Any = None, groups: tuple[str, ...] = ()) -> FeatureRows:
        features = extract_features(prepared.task, model, rows, prepared.processor, prepared.plan.exact())
        return FeatureRows(features @ weight.T + bias, features, labels, groups)

    known = {name: compute(encoded[name], prepared.task.references(data.splits[name])) for name in encoded}
    others = {}
    for name, rows in (outside or {}).items():
        texts = rows.select_columns([column for column in ("text", "text_pair") if column in rows.column_names])
        others[name] = compute(prepared.task.encode(texts, prepared.processor)[0], groups=tuple(rows["group"]))
    return ScopeRows(known["train"], known["validation"], known["test"], others.get("validation"), others.get("test"))


def tell_out_of_scope(
    rows: ScopeRows | None, prepared: Prepared, decision: DecisionConfig, evaluation: EvaluationConfig
) -> tuple[dict[str, Any] | None, Detector | None]:
    """Return the key `out_of_scope` of `results.json`, and what tells the model's inputs; None where nothing does.

    Args:
        rows: From `compute_scope_rows`.
        prepared: The rows.
        decision: What is asked for.
        evaluation: How intervals are made.
    """
    asked = find_asked_score(decision, prepared.data.out_of_scope)
    if asked is None or not isinstance(decision, ClassDecision):
        return None, None
    if rows is None:
        count = len(prepared.encoded["validation"]) if "validation" in prepared.encoded else 0
        sentence = (
            f"inputs out of scope are not told: {count} validation rows to set a threshold by, expected at least "
            f"{MIN_VALIDATION_ROWS} (a larger data.validation_fraction, or data.validation_file)"
        )
        return {"score": None, "sentences": [sentence]}, None
    return analyse_out_of_scope(rows, asked, decision.rejected_share, evaluation)
