"""From scores to decisions: calibrated confidence, what to hand over to a person, and sets of labels.

All is chosen on validation rows and judged on test rows. Nothing here knows a task: a classifier is its logits, a
model that answers by spans the probabilities of its answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from startup_llm.errors import UserError
from startup_llm.evaluation.probabilities import compute_softmax
from startup_llm.evaluation.results import compute_calibration
from startup_llm.evaluation.statistics import bootstrap_groups, bootstrap_rows

if TYPE_CHECKING:
    from startup_llm.config import EvaluationConfig, HandoverDecision

ANSWERING_KEYS = ("decision", "label_thresholds", "out_of_scope")
"""Keys of a saved model's config.json by which its answers are read."""
MIN_VALIDATION_ROWS = 50
"""With fewer answers to validation rows neither a temperature nor a threshold is chosen."""
MIN_ANSWERED_ROWS = 20
"""Answers to validation rows above a threshold that its accuracy is judged by, at least."""

Counted = Literal["rows", "entities"]
"""What an answer is: that to a row, or an entity that was found in one."""

_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
_TEMPERATURES = (0.02, 50.0)
_FOLDS = 5
_LEAST_PROBABILITY = 1e-12


class ScoredAnswers(Protocol):
    """Answers with a confidence that a temperature changes, and whether each is right."""

    @property
    def counted(self) -> Counted:
        """What an answer is."""

    @property
    def rows(self) -> np.ndarray:
        """The row that each answer belongs to, shape (answers,)."""

    def compute_confidence(self, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each answer, and whether it is right; shape (answers,) each."""

    def compute_losses(self, temperature: float = 1.0) -> np.ndarray:
        """Return the log-loss by which a temperature is fitted, shape (answers,)."""


@dataclass(frozen=True)
class SpanAnswers:
    """Spans that a model answers with; a temperature is fitted to whether they are right, as to two classes.

    Attributes:
        compute: From a temperature to the probability of each answer, shape (answers,).
        right: Whether it is right, shape (answers,).
        rows: The row that each belongs to, shape (answers,).
        counted: What an answer is.
    """

    compute: Callable[[float], np.ndarray]
    right: np.ndarray
    rows: np.ndarray
    counted: Counted = "rows"

    def compute_confidence(self, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each answer, and whether it is right; shape (answers,) each."""
        return self.compute(temperature), self.right

    def compute_losses(self, temperature: float = 1.0) -> np.ndarray:
        """Return the negative logarithm of the probability of being right, or of being wrong where an answer is."""
        confidence = np.clip(self.compute(temperature), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        return -np.log(np.where(self.right, confidence, 1 - confidence))


@dataclass(frozen=True)
class ClassifiedRows:
    """A classifier's outputs for rows with one label each.

    Attributes:
        logits: Shape (rows, classes).
        labels: Class ids, shape (rows,).
    """

    logits: np.ndarray
    labels: np.ndarray

    @property
    def counted(self) -> Counted:
        """What an answer is."""
        return "rows"

    @property
    def rows(self) -> np.ndarray:
        """The places of the rows, shape (rows,)."""
        return np.arange(len(self.labels))

    def compute_confidence(self, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each row's answer, and whether the answer is right; shape (rows,) each."""
        probabilities = compute_probabilities(self.logits, temperature)
        return probabilities.max(axis=1), self.logits.argmax(axis=1) == self.labels

    def compute_losses(self, temperature: float = 1.0) -> np.ndarray:
        """Return the negative log-likelihood of each row's label, shape (rows,)."""
        from scipy.special import log_softmax

        logits = np.asarray(self.logits, dtype=np.float64)
        return -log_softmax(logits / temperature, axis=1)[np.arange(len(logits)), self.labels]


@dataclass(frozen=True)
class Decision:
    """What a saved model's answers are read by; the key `decision` of its config.json.

    Attributes:
        temperature: Logits are divided by it.
        threshold: Answers with a smaller probability need a person; None where no threshold was asked for or helps.
        set_threshold: Every label with at least this probability is a possible one; None where no sets were asked for.
        half_width: A number lies within this distance of its prediction; None where no intervals were asked for.
    """

    temperature: float = 1.0
    threshold: float | None = None
    set_threshold: float | None = None
    half_width: float | None = None

    def judge(self, score: float) -> dict[str, bool]:
        """Return whether an answer of a score needs a person; nothing without a threshold."""
        return {} if self.threshold is None else {"needs_human": bool(score < self.threshold)}

    @classmethod
    def read(cls, config: Any) -> Decision | None:
        """Read the decision in a saved model's config; None where it holds none.

        Raises:
            UserError: If what it holds is no decision.
        """
        stored = getattr(config, "decision", None)
        if stored is None:
            return None
        names = cls.__dataclass_fields__.keys()
        if not isinstance(stored, Mapping) or not stored.keys() <= names or not _are_numbers(stored.values()):
            raise UserError(f"decision in the model's config.json: expected numbers named {', '.join(names)}, "
                            f"got {stored!r:.80}")  # fmt: skip
        decision = cls(**stored)
        if decision.temperature is None or decision.temperature <= 0:
            raise UserError(f"decision.temperature in the model's config.json: expected a number above 0, "
                            f"got {decision.temperature!r}")  # fmt: skip
        return decision


def _are_numbers(values: Any) -> bool:
    return all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value))
        for value in values
    )


def compute_probabilities(logits: np.ndarray | Sequence[np.ndarray], temperature: float = 1.0) -> np.ndarray:
    """Return softmax(logits / temperature), shape (rows, classes), in float64."""
    return compute_softmax(np.asarray(logits, dtype=np.float64) / temperature)


def fit_temperature(answers: ScoredAnswers, chosen: np.ndarray | slice = slice(None)) -> float:
    """Return the temperature that minimises the mean log-loss.

    One number that divides all logits, so that no answer changes (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 4.2, equation 9). It is searched on a logarithmic scale between 0.02 and 50.

    Args:
        answers: To validation rows.
        chosen: Which of them count.
    """
    from scipy.optimize import minimize_scalar

    def compute_loss(logarithm: float) -> float:
        return float(answers.compute_losses(math.exp(logarithm))[chosen].mean())

    bounds = tuple(map(math.log, _TEMPERATURES))
    return math.exp(minimize_scalar(compute_loss, bounds=bounds, method="bounded").x)


def judge_temperature(answers: ScoredAnswers, evaluation: EvaluationConfig) -> dict[str, float]:
    """Return how much a temperature changes the log-loss of rows that it was not fitted on.

    Each of five folds of the rows is scored with the temperature that the other four give: a temperature of few rows
    may make a calibrated model worse.

    Args:
        answers: To the validation rows.
        evaluation: Level, resamples and seed.

    Returns:
        The mean change, negative where it helps, with its bootstrap interval.
    """
    rows, places = np.unique(answers.rows, return_inverse=True)
    fold = (np.random.default_rng(evaluation.seed).permutation(len(rows)) % _FOLDS)[places]
    change = np.zeros(len(places))
    for number in np.unique(fold):
        temperature = fit_temperature(answers, fold != number)
        change[fold == number] = answers.compute_losses(temperature)[fold == number]
    change -= answers.compute_losses()
    low, high, _ = bootstrap_groups(lambda chosen: change[chosen].mean(), answers.rows, evaluation)
    return {"value": float(change.mean()), "low": low, "high": high}


def measure_reliability(
    confidence: np.ndarray, right: np.ndarray, evaluation: EvaluationConfig, rows: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the expected calibration error in ten bins with its bootstrap interval (Guo et al. 2017, equation 3).

    Args:
        confidence: Probability of each answer, shape (answers,).
        right: Whether it is right, shape (answers,).
        evaluation: Level, resamples and seed.
        rows: The row of each answer, shape (answers,); None where each has its own.
    """

    def compute_error(chosen: np.ndarray) -> float:
        return compute_calibration(confidence[chosen], right[chosen])["expected_calibration_error"]

    low, high, _ = bootstrap_groups(compute_error, np.arange(len(right)) if rows is None else rows, evaluation)
    return {"value": compute_error(np.arange(len(right))), "low": low, "high": high}


def choose_accuracy_threshold(confidence: np.ndarray, right: np.ndarray, target: float) -> float | None:
    """Return the smallest threshold above which the share of right answers is at least a target.

    Selective classification with a wanted risk (Geifman & El-Yaniv 2017, "Selective Classification for Deep Neural
    Networks"), by the empirical risk: how far it holds is what the test rows show.

    Returns:
        0 where every row can be answered, None where no threshold with `MIN_ANSWERED_ROWS` above it reaches it.
    """
    order = np.argsort(-confidence, kind="stable")
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero((accuracy >= target) & _list_cuts(confidence[order]))
    reached = reached[reached + 1 >= MIN_ANSWERED_ROWS]
    return _place_threshold(confidence[order], int(reached[-1]) + 1) if len(reached) else None


def choose_cost_threshold(
    confidence: np.ndarray, right: np.ndarray, cost_of_error: float, cost_of_handover: float
) -> float | None:
    """Return the threshold of least cost, the sum over wrong answers above it and rows below it.

    Chow 1970, "On optimum recognition error and reject tradeoff": with exact probabilities it is
    1 - cost_of_handover / cost_of_error; here the cost of the rows themselves is minimised.

    Returns:
        0 where nothing is handed over, None where handing over everything costs least.
    """
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    cost = cost_of_error * np.cumsum(~right[order]) + cost_of_handover * (len(order) - answered)
    cost = np.where(_list_cuts(confidence[order]), cost, np.inf)
    best = len(order) - 1 - int(cost[::-1].argmin())  # of equal costs the one that answers most
    return None if cost[best] >= cost_of_handover * len(order) else _place_threshold(confidence[order], best + 1)


def _list_cuts(descending: np.ndarray) -> np.ndarray:
    """Return whether a threshold can lie behind each place: not between equal values."""
    return np.append(descending[:-1] > descending[1:], True)


def _place_threshold(descending: np.ndarray, answered: int) -> float:
    """Return the middle between the last value that is answered and the first that is not; 0 where all are."""
    return 0.0 if answered == len(descending) else float(descending[answered - 1 : answered + 1].mean())


def measure_handover(
    confidence: np.ndarray,
    right: np.ndarray,
    threshold: float,
    evaluation: EvaluationConfig,
    costs: tuple[float, float] | None = None,
    rows: np.ndarray | None = None,
) -> dict[str, Any]:
    """Measure what is answered from a threshold on, with bootstrap intervals.

    Coverage and selective accuracy are those of El-Yaniv & Wiener 2010, "On the Foundations of Noise-free Selective
    Classification".

    Args:
        confidence: Probability of each answer, shape (answers,).
        right: Whether it is right, shape (answers,).
        threshold: Least confidence that is answered.
        evaluation: Level, resamples and seed.
        costs: Of an error and of an answer that is handed over.
        rows: The row of each answer, shape (answers,); None where each has its own.

    Returns:
        threshold, rows (answers above it), coverage and accuracy with intervals; with costs also the cost an answer,
        and how much more that is than answering everything.
    """
    answered = confidence >= threshold
    kinds = np.stack([answered & right, answered & ~right, ~answered & right, ~answered & ~right], axis=1)
    counts, draws = kinds.sum(axis=0, keepdims=True).astype(float), _draw_counts(kinds, rows, evaluation)
    measures = {
        "coverage": lambda c: (c[:, 0] + c[:, 1]) / c.sum(axis=1),
        "accuracy": lambda c: np.divide(
            c[:, 0], c[:, 0] + c[:, 1], out=np.full(len(c), np.nan), where=c[:, 0] + c[:, 1] > 0
        ),
    }
    if costs:
        error, handover = costs
        measures["cost"] = lambda c: (error * c[:, 1] + handover * (c[:, 2] + c[:, 3])) / c.sum(axis=1)
        measures["extra_cost"] = lambda c: (handover * c[:, 2] + (handover - error) * c[:, 3]) / c.sum(axis=1)
    measured = {name: _summarize(compute(counts)[0], compute(draws), evaluation) for name, compute in measures.items()}
    return {"threshold": threshold, "rows": int(answered.sum()), **measured}


def _draw_counts(kinds: np.ndarray, rows: np.ndarray | None, evaluation: EvaluationConfig) -> np.ndarray:
    """Return how many answers of each kind resamples of the rows have, shape (resamples, kinds).

    Rows with as many answers of each kind are alike, so that a resample is a multinomial draw of such patterns.

    Args:
        kinds: Of each answer, one-hot, shape (answers, kinds).
        rows: The row of each answer; None where each has its own.
        evaluation: Resamples and seed.
    """
    rng, single = np.random.default_rng(evaluation.seed), np.eye(kinds.shape[1], dtype=int)
    patterns, counts = single, kinds.sum(axis=0)
    if rows is not None:
        _, places = np.unique(rows, return_inverse=True)
        by_row = np.zeros((places.max() + 1, kinds.shape[1]), dtype=int)
        np.add.at(by_row, places, kinds.astype(int))
        several = by_row.sum(axis=1) > 1
        others, other_counts = np.unique(by_row[several], axis=0, return_counts=True)
        patterns = np.concatenate([single, others])
        counts = np.concatenate([by_row[~several].sum(axis=0), other_counts])
    return rng.multinomial(counts.sum(), counts / counts.sum(), size=evaluation.resamples) @ patterns


def _summarize(value: float, draws: np.ndarray, evaluation: EvaluationConfig) -> dict[str, float | None]:
    """Return a value with the percentile interval of its resamples; None where nothing was answered."""
    draws = draws[np.isfinite(draws)]
    if not len(draws) or not math.isfinite(value):
        return {"value": None, "low": None, "high": None}
    tail = (1 - evaluation.confidence_level) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return {"value": float(value), "low": float(low), "high": float(high)}


def choose_set_threshold(probabilities: np.ndarray, labels: np.ndarray, level: float) -> float | None:
    """Return the probability from which on labels belong to a row's set, so that sets hold the true one at a level.

    Split conformal prediction with the score 1 - p(label) (Sadinle, Lei & Wasserman 2019, "Least Ambiguous Set-Valued
    Classifiers with Bounded Error Levels"; Angelopoulos & Bates 2021, arXiv 2107.07511, section 1). The guarantee asks
    for rows that nothing else was chosen on; the validation rows chose the temperature and perhaps the checkpoint, so
    the coverage of the test rows is shown beside it.

    Returns:
        None where the rows are too few for the level.
    """
    scores = 1 - probabilities[np.arange(len(labels)), labels]
    rank = math.ceil((len(labels) + 1) * level)
    return None if rank > len(labels) else float(1 - np.sort(scores)[rank - 1])


def list_sets(probabilities: np.ndarray, set_threshold: float) -> np.ndarray:
    """Return which labels are in each row's set, shape (rows, classes); the likeliest always is."""
    inside = probabilities >= set_threshold
    inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return inside


def measure_sets(
    probabilities: np.ndarray, labels: np.ndarray, set_threshold: float, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Return how often a row's set holds its label, with interval, and how large the sets are."""
    inside = list_sets(probabilities, set_threshold)
    holds, sizes = inside[np.arange(len(labels)), labels], inside.sum(axis=1)
    low, high, _ = bootstrap_rows(lambda rows: holds[rows].mean(), len(labels), evaluation)
    return {
        "set_threshold": set_threshold,
        "coverage": {"value": float(holds.mean()), "low": low, "high": high},
        "mean_size": float(sizes.mean()),
        "one_label": float((sizes == 1).mean()),
        "largest": int(sizes.max()),
    }


def analyse_decisions(
    validation: ScoredAnswers | None, test: ScoredAnswers, asked: HandoverDecision, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Calibrate on validation rows, choose what was asked for there, and judge all on test rows.

    Args:
        validation: Answers to the validation rows; None where there are none.
        test: Answers to the test rows.
        asked: Target accuracy or costs; sets of labels too for a classifier.
        evaluation: Level, resamples and seed of the intervals.

    Returns:
        The key `decision` of `results.json`: counted, validation_rows (answers to them), temperature (1 where the
        fitted one is not shown to help), reliability before and after it, a risk-coverage table, what was asked for
        (`handover`, `sets`), `stored` for the saved model, and sentences on it.
    """
    rows = len(validation.rows) if validation else 0
    found: dict[str, Any] = {"counted": test.counted, "validation_rows": rows}
    reason = _find_too_few(found, validation, test)
    if validation is None or reason:
        return {**found, "stored": None, "sentences": [reason]}
    fitted, change = None, None
    if not validation.compute_confidence()[1].all():  # else the smallest temperature would be the best
        fitted, change = fit_temperature(validation), judge_temperature(validation, evaluation)
    temperature = fitted if fitted and change and change["high"] < 0 else 1.0
    chosen, judged = validation.compute_confidence(temperature), test.compute_confidence(temperature)
    found |= {
        "temperature": temperature,
        "fitted_temperature": fitted,
        "loss_change": change,
        "reliability": {
            "before": measure_reliability(*test.compute_confidence(), evaluation, test.rows),
            "after": measure_reliability(*judged, evaluation, test.rows),
            "bins": compute_calibration(*judged)["bins"],
        },
        "risk_coverage": [
            {"aim": coverage, **measure_handover(*judged, threshold, evaluation, rows=test.rows)}
            for coverage, threshold in _list_thresholds(chosen[0]).items()
        ],
    }
    stored: dict[str, float] = {}
    if asked.target_accuracy is not None or asked.cost_of_error is not None:
        found["handover"] = _choose_handover(chosen, judged, asked, evaluation, test.rows)
        if found["handover"]["threshold"] is not None:
            stored["threshold"] = found["handover"]["threshold"]
    level = getattr(asked, "sets", None)
    if level is not None and isinstance(validation, ClassifiedRows) and isinstance(test, ClassifiedRows):
        found["sets"] = _choose_sets(validation, test, temperature, level, evaluation)
        if found["sets"].get("set_threshold") is not None:
            stored["set_threshold"] = found["sets"]["set_threshold"]
    found["stored"] = {"temperature": temperature, **stored} if stored else None
    return {**found, "sentences": describe_decisions(found, evaluation.confidence_level)}


def _find_too_few(found: Mapping[str, Any], validation: ScoredAnswers | None, test: ScoredAnswers) -> str | None:
    """Return why nothing can be chosen or judged on these answers; None where it can."""
    chosen, judged = (0 if answers is None else len(np.unique(answers.rows)) for answers in (validation, test))
    if found["validation_rows"] < MIN_VALIDATION_ROWS:
        return (
            f"confidence was not calibrated and no hand-over chosen: {name_validation(found)}, of at least "
            f"{MIN_VALIDATION_ROWS} (a larger data.validation_fraction, or data.validation_file)"
        )
    if chosen < _FOLDS or judged < 2:
        return (
            f"no hand-over was chosen: {test.counted} are found in {chosen} validation rows, of at least {_FOLDS}, "
            f"and in {judged} test rows, of at least 2"
        )
    return None


def _list_thresholds(confidence: np.ndarray) -> dict[float, float]:
    """Return by the share of validation rows that are answered the thresholds that do it; equal ones once."""
    descending = -np.sort(-confidence)
    thresholds: dict[float, float] = {}
    for coverage in _COVERAGES:
        threshold = _place_threshold(descending, max(1, round(coverage * len(descending))))
        if threshold not in thresholds.values():
            thresholds[coverage] = threshold
    return thresholds


def _choose_handover(
    chosen: tuple[np.ndarray, np.ndarray],
    judged: tuple[np.ndarray, np.ndarray],
    asked: HandoverDecision,
    evaluation: EvaluationConfig,
    rows: np.ndarray,
) -> dict[str, Any]:
    costs = None
    if asked.target_accuracy is not None:
        threshold, aim = choose_accuracy_threshold(*chosen, asked.target_accuracy), asked.target_accuracy
        about: dict[str, Any] = {"target_accuracy": aim}
    else:
        costs = (float(asked.cost_of_error or 0), float(asked.cost_of_handover or 0))
        threshold = choose_cost_threshold(*chosen, *costs)
        about = {"cost_of_error": costs[0], "cost_of_handover": costs[1]}
    if threshold is None:
        return {**about, "threshold": None}
    return {**about, **measure_handover(*judged, threshold, evaluation, costs, rows)}


def _choose_sets(
    validation: ClassifiedRows, test: ClassifiedRows, temperature: float, level: float, evaluation: EvaluationConfig
) -> dict[str, Any]:
    set_threshold = choose_set_threshold(
        compute_probabilities(validation.logits, temperature), validation.labels, level
    )
    if set_threshold is None:
        return {"level": level, "set_threshold": None}
    probabilities = compute_probabilities(test.logits, temperature)
    return {"level": level, **measure_sets(probabilities, test.labels, set_threshold, evaluation)}


# In words --------------------------------------------------------------------------------------------------------


def describe_decisions(found: Mapping[str, Any], level: float) -> list[str]:
    """Describe what was found in sentences, what was asked for first.

    Args:
        found: From `analyse_decisions`.
        level: Of the intervals.
    """
    sentences = []
    if handover := found.get("handover"):
        sentences.append(_describe_handover(handover, found, level))
    elif row := find_example(found):
        coverage = describe_coverage(row, found["counted"])
        sentences.append(f"{coverage} (--decision.target_accuracy stores such a threshold)")
    if sets := found.get("sets"):
        sentences.append(_describe_sets(sets, found["validation_rows"]))
    if found["counted"] == "entities":
        sentences.append("what it does not find has no score: a threshold takes wrong entities out, and adds none")
    before, after = found["reliability"]["before"], found["reliability"]["after"]
    change = found["loss_change"]
    if change is None:
        sentences.append(
            f"scores are as the model gives them: of {name_validation(found)} none is wrong, by which a temperature "
            f"could be fitted; calibration error {100 * before['value']:.1f} points ({_points(before)})"
        )
        return sentences
    if change["high"] >= 0:
        sentences.append(
            f"scores are as the model gives them: the temperature {found['fitted_temperature']:.3g} that "
            f"{name_validation(found)} ask for is not shown to help (log-loss "
            f"{change['value']:+.4f}, {change['low']:+.4f} to {change['high']:+.4f}, by cross-fitting); calibration "
            f"error {100 * before['value']:.1f} points ({_points(before)})"
        )
        return sentences
    sentences.append(
        f"temperature {found['temperature']:.3g}, from {name_validation(found)}: calibration error "
        f"{100 * before['value']:.1f} points ({_points(before)}) before it, {100 * after['value']:.1f} "
        f"({_points(after)}) with it"
    )
    return sentences


def find_example(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the row of the table that answers about four fifths, if it hands anything over."""
    rows = [row for row in found.get("risk_coverage") or () if row["aim"] <= 0.8 and row["accuracy"]["value"]]
    return rows[0] if rows else None


def name_validation(found: Mapping[str, Any]) -> str:
    """Return what a threshold is chosen on, as `300 validation rows`."""
    entities = "entities found in the " if found["counted"] == "entities" else ""
    return f"{found['validation_rows']} {entities}validation rows"


def describe_coverage(measured: Mapping[str, Any], counted: Counted = "rows") -> str:
    """Describe a threshold as `answers 82.0 % of the test rows by itself with 97.1 % right; hands 18.0 % ...`."""
    coverage, accuracy = measured["coverage"], measured["accuracy"]
    verb, noun = ("gives", "entities that it finds") if counted == "entities" else ("answers", "test rows")
    if accuracy["value"] is None:
        return f"from a score of {measured['threshold']:.3f} on it {verb} none of the {noun}"
    return (
        f"from a score of {measured['threshold']:.3f} on it {verb} {_share(coverage)} of the {noun} by itself "
        f"with {_share(accuracy)} right; it hands {100 * (1 - coverage['value']):.1f} % to a person"
    )


def _describe_handover(handover: Mapping[str, Any], found: Mapping[str, Any], level: float) -> str:
    target, validation = handover.get("target_accuracy"), name_validation(found)
    if handover["threshold"] is None:
        if target is not None:
            return (
                f"no threshold helps: none with at least {MIN_ANSWERED_ROWS} of the {validation} above it "
                f"reaches {100 * target:g} % right; no hand-over is stored"
            )
        return (
            f"no threshold helps: on the {validation} handing everything to a person costs least; "
            "no hand-over is stored"
        )
    text = describe_coverage(handover, found["counted"])
    if handover["threshold"] == 0:
        reason = "nothing costs less" if target is None else f"the validation rows reach {100 * target:g} % as a whole"
        text = f"no threshold is needed, as {reason}: {text}"
    if target is not None:
        return f"{text}; {_judge_target(handover['accuracy'], target, level)}"
    extra, cost = handover["extra_cost"], handover["cost"]
    saved = "less" if extra["high"] < 0 else "more" if extra["low"] > 0 else None
    outcome = (
        f"{abs(extra['value']):.3g} {saved} than answering everything"
        if saved
        else "which is not shown to differ from answering everything"
    )
    return f"{text}; cost a row {cost['value']:.3g} ({cost['low']:.3g} to {cost['high']:.3g}), {outcome}"


def _judge_target(accuracy: Mapping[str, float | None], target: float, level: float) -> str:
    low, high = accuracy["low"], accuracy["high"]
    if low is None or high is None:
        return f"whether {100 * target:g} % holds cannot be said"
    if low >= target:
        return f"the wanted {100 * target:g} % holds"
    if high < target:
        return f"the wanted {100 * target:g} % is missed"
    return f"the wanted {100 * target:g} % lies within the {100 * level:g} % interval"


def _describe_sets(sets: Mapping[str, Any], rows: int) -> str:
    if sets["set_threshold"] is None:
        least = math.ceil(sets["level"] / (1 - sets["level"]))
        return f"no sets of labels: for {100 * sets['level']:g} % expected {least} validation rows, got {rows}"
    return (
        f"sets of labels for {100 * sets['level']:g} %: they hold the true one in {_share(sets['coverage'])} of the "
        f"test rows; {sets['mean_size']:.2f} labels on average, one alone in {100 * sets['one_label']:.1f} %"
    )


def _share(measured: Mapping[str, float]) -> str:
    return f"{100 * measured['value']:.1f} % ({_points(measured)})"


def _points(measured: Mapping[str, float]) -> str:
    return f"{100 * measured['low']:.1f} to {100 * measured['high']:.1f}"


def answer_labels(logits: Sequence[np.ndarray], names: Mapping[int, str], decision: Decision) -> list[dict[str, Any]]:
    """Return for each row its label, calibrated score, and what else the decision asks for.

    Args:
        logits: Shape (classes,) each.
        names: Of the classes, by id.
        decision: Adds `needs_human` where it has a threshold, `possible_labels` where it has one for sets.
    """
    probabilities = compute_probabilities(np.asarray(logits), decision.temperature)
    best, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    answers: list[dict[str, Any]] = [
        {"label": names[int(label)], "score": float(score)} for label, score in zip(best, scores, strict=True)
    ]
    for answer in answers:
        answer |= decision.judge(answer["score"])
    if decision.set_threshold is not None:
        inside = list_sets(probabilities, decision.set_threshold)
        for answer, row, chances in zip(answers, inside, probabilities, strict=True):
            answer["possible_labels"] = [names[int(i)] for i in np.argsort(-chances, kind="stable") if row[i]]
    return answers
