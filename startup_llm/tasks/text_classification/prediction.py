"""How labelled texts are answered: a label with its probability, several of them, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.evaluation.decisions import Decision, answer_labels
from startup_llm.evaluation.decisions import compute_probabilities as compute_calibrated_probabilities
from startup_llm.evaluation.label_thresholds import read_label_thresholds
from startup_llm.evaluation.probabilities import compute_logistic, compute_softmax
from startup_llm.tasks.explanation import EXAMPLE, explain_label
from startup_llm.tasks.prediction import Predictor, add_scope, build_example, name_scores, split_scope

if TYPE_CHECKING:
    from datasets import Dataset


class TextLabelPredictor(Predictor):
    """Answers a text or a pair of texts."""

    columns = ("text", "text_pair")
    exported = True
    explained = EXAMPLE

    def answer(
        self, outputs: Sequence[np.ndarray], encoded: Dataset, rows: Dataset, processor: Any, config: Any
    ) -> list[dict[str, Any]]:
        """Return label and score as the pipeline does; for several labels those that it has; for a number the value.

        A row has the labels above the thresholds in the model's config, or else above 0.5.

        Of one label's, the decision in the model's config calibrates the score and adds what it asks for; a number's
        adds low and high, the ends of its interval.
        """
        return self.answer_outputs(outputs, config)

    def score_labels(self, outputs: Sequence[np.ndarray], config: Any) -> list[dict[str, float]] | None:
        """Return the probability of every label; None for a number."""
        if config.problem_type == "regression":
            return None
        outputs = split_scope(outputs, config)[0]
        if decision := Decision.read(config):
            return [
                name_scores(row, config) for row in compute_calibrated_probabilities(outputs, decision.temperature)
            ]
        return [name_scores(_score_row(output, config), config) for output in outputs]

    def explain(
        self, model: Any, processor: Any, rows: Dataset, answers: Sequence[dict[str, Any]], plan: Any
    ) -> list[dict[str, Any]]:
        """Explain each label's logit, of several labels the likeliest one's, of a number the number."""
        places = {name: place for place, name in model.config.id2label.items()}
        explained = []
        for row, answer in zip(rows, answers, strict=True):
            texts = {name: row[name] for name in self.columns if name in row}
            scores = answer.get("scores")
            label = answer.get("label", max(scores, key=scores.get) if scores else None)
            if label is not None and label not in places:  # such as that of texts that fit no class
                explained.append({**answer, **dict.fromkeys(EXAMPLE), "explanation": []})
                continue
            place = 0 if label is None else places[label]
            explained.append({**answer, **explain_label(model, processor, texts, place, plan).describe()})
        return explained

    def example(self, config: Any) -> dict[str, Any]:
        """Return an answer in which every label is true."""
        return self.answer_outputs([build_example(config)], config)[0]

    def answer_outputs(self, outputs: Sequence[np.ndarray], config: Any) -> list[dict[str, Any]]:
        """Return the answers to logits, shape (labels,) each."""
        logits, flags = split_scope(outputs, config)
        decision = Decision.read(config)
        if config.problem_type == "regression":
            return [_answer_number(float(output[0]), decision or Decision()) for output in logits]
        if decision:
            return add_scope(answer_labels(logits, config.id2label, decision), flags)
        thresholds = read_label_thresholds(config)
        answers = [_answer_row(output, config, 0.5 if thresholds is None else thresholds) for output in logits]
        return add_scope(answers, flags)


def compute_probabilities(logits: np.ndarray, problem_type: str | None) -> np.ndarray:
    """Return softmax for one label, the logistic function for several; a number has none and stays.

    Args:
        logits: Shape (rows, labels).
        problem_type: As `PretrainedConfig.problem_type`.
    """
    if problem_type == "regression":
        return logits
    return compute_logistic(logits) if problem_type == "multi_label_classification" else compute_softmax(logits)


def _score_row(output: np.ndarray, config: Any) -> np.ndarray:
    one_logit = config.problem_type is None and len(output) == 1  # softmax would always say 1
    kind = "multi_label_classification" if one_logit else config.problem_type
    return compute_probabilities(output[None], kind)[0]


def _answer_number(value: float, decision: Decision) -> dict[str, float]:
    width = decision.half_width
    return {"score": value, **({} if width is None else {"low": value - width, "high": value + width})}


def _answer_row(output: np.ndarray, config: Any, thresholds: np.ndarray | float) -> dict[str, Any]:
    scores = _score_row(output, config)
    if config.problem_type == "multi_label_classification":
        names = [config.id2label[i] for i in np.flatnonzero(scores > thresholds)]
        return {"labels": names, "scores": name_scores(scores, config)}
    best = int(scores.argmax())
    return {"label": config.id2label[best], "score": float(scores[best])}
