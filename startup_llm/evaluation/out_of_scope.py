"""Inputs that fit none of a classifier's labels: scores that find them, and a threshold.

A score is high for what is in scope. All is fitted on training and validation rows and judged on test rows. Nothing
here knows a task: a row is its logits and what the output layer reads, its features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.errors import UserError
from startup_llm.models.unit_vectors import scale_to_norm_one

if TYPE_CHECKING:
    from startup_llm.config import EvaluationConfig

BANK_FILE = "out_of_scope.safetensors"
"""What a score needs, beside a saved model's weights."""
NEIGHBOURS = 3
MAX_BANK_ROWS = 20_000
"""Of more training rows so many are drawn at random."""
FOLDS = 5
_SCALE_ROWS = 2000
DEFAULT_SCORE = "nearest"
"""Score that is used where no rows out of scope are given to choose by."""
_REJECT = "reject-class"
_BOTH = "nearest+reject-class"

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FeatureRows:
    """What a classifier computes for rows.

    Attributes:
        logits: Shape (rows, classes).
        features: What the output layer reads, shape (rows, width).
        labels: Class ids, shape (rows,); None for rows out of scope.
        groups: Name of the file that each row comes from; empty for rows in scope.
    """

    logits: np.ndarray
    features: np.ndarray
    labels: np.ndarray | None = None
    groups: tuple[str, ...] = ()

    def select(self, places: np.ndarray) -> FeatureRows:
        """Return some of the rows."""
        labels = None if self.labels is None else self.labels[places]
        groups = tuple(np.asarray(self.groups)[places]) if self.groups else ()
        return FeatureRows(self.logits[places], self.features[places], labels, groups)


@dataclass(frozen=True)
class Detector:
    """A score with what it computes from, and the threshold below which an input is out of scope.

    Attributes:
        score: Key of `SCORES`.
        tensors: What was fitted, by name.
        threshold: Least score in scope; None while it is not chosen.
    """

    score: str
    tensors: Tensors = field(default_factory=dict)
    threshold: float | None = None

    def compute(self, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Return how well rows are in scope, shape (rows,).

        Args:
            logits: Shape (rows, classes).
            features: Shape (rows, width).
        """
        return SCORES[self.score].compute(self.tensors, np.asarray(logits, np.float64), np.asarray(features))

    def compute_rows(self, rows: FeatureRows) -> np.ndarray:
        """Return how well rows are in scope, shape (rows,)."""
        return self.compute(rows.logits, rows.features)

    @property
    def size_bytes(self) -> int:
        """Size of what it keeps beside the model's weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def describe(self) -> dict[str, Any]:
        """Return the key `out_of_scope` of a saved model's config.json."""
        return {"score": self.score, "threshold": self.threshold}

    def save(self, folder: Path) -> None:
        """Write what was fitted beside a model's weights, and take away what another run left there."""
        from safetensors.numpy import save_file

        (folder / BANK_FILE).unlink(missing_ok=True)
        if self.tensors:
            save_file(
                {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors.items()}, folder / BANK_FILE
            )


@dataclass(frozen=True)
class Score:
    """A way to tell what is in scope.

    Attributes:
        fit: From the training rows, and rows out of scope or None, to what is kept.
        compute: From what is kept, logits and features to scores, shape (rows,).
        source: The paper.
        needs_rows: Whether it is fitted on rows out of scope.
        names: Of what is kept.
    """

    fit: Callable[[FeatureRows, FeatureRows | None], Tensors]
    compute: Callable[[Tensors, np.ndarray, np.ndarray], np.ndarray]
    source: str
    needs_rows: bool = False
    names: tuple[str, ...] = ()


def _fit_nothing(train: FeatureRows, rows: FeatureRows | None) -> Tensors:
    return {}


def _compute_softmax(tensors: Tensors, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the largest softmax probability (Hendrycks & Gimpel 2017, arXiv 1610.02136, section 2)."""
    from scipy.special import softmax

    return softmax(logits, axis=1).max(axis=1)


def _compute_energy(tensors: Tensors, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the negative energy log sum exp(logits) (Liu et al. 2020, arXiv 2010.03759, equation 4, T = 1)."""
    from scipy.special import logsumexp

    return logsumexp(logits, axis=1)


def _fit_bank(train: FeatureRows, rows: FeatureRows | None) -> Tensors:
    """Keep the training rows' features at norm 1, in float16."""
    features = train.features
    if len(features) > MAX_BANK_ROWS:
        features = features[np.sort(np.random.default_rng(0).permutation(len(features))[:MAX_BANK_ROWS])]
    return {"bank": _normalize(features).astype(np.float16)}


def _compute_nearest(tensors: Tensors, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the mean cosine to the nearest training rows (Sun et al. 2022, arXiv 2204.06507, section 3).

    They take the distance to the k-th nearest normalised feature; the mean over the first k is less noisy for small k.
    """
    bank = tensors["bank"].astype(np.float32)
    parts = [features[start : start + 1024] for start in range(0, len(features), 1024)]
    return np.concatenate([_mean_largest(_normalize(part) @ bank.T) for part in parts])


def _mean_largest(cosines: np.ndarray) -> np.ndarray:
    """Return the mean of each row's largest values, as many as neighbours are counted."""
    count = min(NEIGHBOURS, cosines.shape[1])
    return np.partition(cosines, -count, axis=1)[:, -count:].mean(axis=1)


def _fit_mahalanobis(train: FeatureRows, rows: FeatureRows | None) -> Tensors:
    """Keep the classes' means and what whitens their common covariance, shrunk as Ledoit & Wolf (2004) do."""
    from sklearn.covariance import LedoitWolf

    if train.labels is None:
        raise ValueError("expected labels of the training rows")
    classes, places = np.unique(train.labels, return_inverse=True)
    features = train.features.astype(np.float64)
    means = np.stack([features[places == place].mean(axis=0) for place in range(len(classes))])
    covariance = LedoitWolf(assume_centered=True).fit(features - means[places]).covariance_
    values, vectors = np.linalg.eigh(covariance)
    whitening = vectors / np.sqrt(np.maximum(values, np.finfo(np.float64).eps * values.max()))
    return {"whitening": whitening.astype(np.float32), "means": (means @ whitening).astype(np.float32)}


def _compute_mahalanobis(tensors: Tensors, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return minus the squared Mahalanobis distance to the nearest class (Lee et al. 2018, arXiv 1807.03888)."""
    whitened = features.astype(np.float64) @ tensors["whitening"].astype(np.float64)
    means = tensors["means"].astype(np.float64)
    distances = (whitened**2).sum(axis=1)[:, None] - 2 * whitened @ means.T + (means**2).sum(axis=1)
    return -distances.min(axis=1)


def _fit_reject(train: FeatureRows, rows: FeatureRows | None) -> Tensors:
    """Fit a logistic regression of rows in scope against rows out of it, both sides with the same weight."""
    from sklearn.linear_model import LogisticRegression

    if rows is None:
        raise ValueError("expected rows out of scope")
    features = _normalize(np.concatenate([train.features, rows.features]))
    inside = np.repeat([1, 0], [len(train.features), len(rows.features)])
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000).fit(features, inside)
    return {"weight": model.coef_[0].astype(np.float32), "bias": model.intercept_.astype(np.float32)}


def _compute_reject(tensors: Tensors, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the logit against a class of rows out of scope (Larson et al. 2019, arXiv 1909.02027, oos-binary)."""
    return _normalize(features) @ tensors["weight"] + tensors["bias"][0]


def _fit_both(train: FeatureRows, rows: FeatureRows | None) -> Tensors:
    """Keep both, and mean and deviation of either score in scope, by which they are scaled.

    A training row's nearest one is itself, which is left out.
    """
    tensors = {**_fit_bank(train, rows), **_fit_reject(train, rows)}
    bank = tensors["bank"].astype(np.float32)
    drawn = np.random.default_rng(0).permutation(len(bank))[:_SCALE_ROWS]
    features = bank[drawn]
    cosines = features @ bank.T
    cosines[np.arange(len(drawn)), drawn] = -1
    scores = _mean_largest(cosines), _compute_reject(tensors, train.logits, features)
    scale = [[score.mean(), max(score.std(), 1e-12)] for score in scores]
    return {**tensors, "scale": np.array(scale, dtype=np.float32)}


def _compute_both(tensors: Tensors, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the mean of the scores nearest and reject-class, each at mean 0 and deviation 1 in scope."""
    scores = (_compute_nearest(tensors, logits, features), _compute_reject(tensors, logits, features))
    pairs = zip(scores, tensors["scale"], strict=True)
    return np.mean([(score - mean) / deviation for score, (mean, deviation) in pairs], axis=0)


def _normalize(features: np.ndarray) -> np.ndarray:
    return scale_to_norm_one(np.asarray(features, dtype=np.float32))


SCORES: Mapping[str, Score] = {
    "softmax": Score(_fit_nothing, _compute_softmax, "Hendrycks & Gimpel 2017"),
    "energy": Score(_fit_nothing, _compute_energy, "Liu et al. 2020"),
    DEFAULT_SCORE: Score(_fit_bank, _compute_nearest, "Sun et al. 2022", names=("bank",)),
    "mahalanobis": Score(_fit_mahalanobis, _compute_mahalanobis, "Lee et al. 2018", names=("whitening", "means")),
    _REJECT: Score(_fit_reject, _compute_reject, "Larson et al. 2019", needs_rows=True, names=("weight", "bias")),
    _BOTH: Score(
        _fit_both,
        _compute_both,
        f"{DEFAULT_SCORE} and {_REJECT}",
        needs_rows=True,
        names=("bank", "weight", "bias", "scale"),
    ),
}
"""Every score by name, the simplest first."""


def read_detector(config: Any, folder: Path) -> Detector | None:
    """Read what tells a saved model's inputs out of scope; None where it has no such thing.

    Args:
        config: The model's.
        folder: The model's.

    Raises:
        UserError: If what is stored is not whole.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    stored = getattr(config, "out_of_scope", None)
    if stored is None:
        return None
    where = "out_of_scope in the model's config.json"
    if not isinstance(stored, Mapping) or stored.keys() != {"score", "threshold"}:
        raise UserError(f"{where}: expected score and threshold, got {stored!r:.80}")
    score, threshold = stored["score"], stored["threshold"]
    if score not in SCORES:
        raise UserError(f"{where}: expected a score of {', '.join(SCORES)}, got {score!r:.80}")
    if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not math.isfinite(threshold):
        raise UserError(f"{where}: expected a number as threshold, got {threshold!r:.80}")
    names, file = SCORES[score].names, folder / BANK_FILE
    if not names:
        return Detector(score, {}, float(threshold))
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} cannot be read ({reason:.80}), but {where} needs it; copy it again") from None
    if missing := [name for name in names if name not in tensors]:
        raise UserError(f"{file} has no {missing[0]}, which the score {score} needs; copy it again")
    return Detector(score, {name: tensors[name] for name in names}, float(threshold))


# Fitting and judging -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScopeRows:
    """The rows by which scores are fitted, chosen and judged.

    Attributes:
        train: In scope, fitted on.
        validation: In scope, on which the threshold is chosen.
        test: In scope, judged on.
        outside: Out of scope, fitted and chosen on; None where there are none.
        outside_test: Out of scope, judged on; None where there are none.
    """

    train: FeatureRows
    validation: FeatureRows
    test: FeatureRows
    outside: FeatureRows | None = None
    outside_test: FeatureRows | None = None


def fit_detectors(rows: ScopeRows, names: list[str]) -> dict[str, tuple[Detector, np.ndarray | None]]:
    """Fit scores, and compute those of the rows out of scope by rows that they were not fitted on.

    Returns:
        By name the detector without threshold, and the scores of `rows.outside`, shape (rows,); None without them.
    """
    fitted = {}
    for name in names:
        score, outside = SCORES[name], rows.outside
        detector = Detector(name, score.fit(rows.train, outside))
        scores = None if outside is None else detector.compute_rows(outside)
        if outside is not None and scores is not None and score.needs_rows:
            fold = np.random.default_rng(0).permutation(len(scores)) % FOLDS
            for number in range(FOLDS):
                out = np.flatnonzero(fold == number)
                part = Detector(name, score.fit(rows.train, outside.select(np.flatnonzero(fold != number))))
                scores[out] = part.compute_rows(outside.select(out))
        fitted[name] = (detector, scores)
    return fitted


def measure_detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """Return how well a score separates rows out of scope.

    Args:
        inside: Scores of rows in scope, shape (rows,).
        outside: Scores of rows out of scope, shape (rows,).

    Returns:
        auroc; aupr, where rows out of scope are the positive ones; and fpr_at_95_recall, the share of rows out of
        scope that pass where 95 % of the rows in scope do (Hendrycks & Gimpel 2017; Liang et al. 2018).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, scores = np.repeat([0, 1], [len(inside), len(outside)]), -np.concatenate([inside, outside])
    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "aupr": float(average_precision_score(truth, scores)),
        "fpr_at_95_recall": float((outside >= np.quantile(inside, 0.05)).mean()),
    }


def analyse_out_of_scope(
    rows: ScopeRows, asked: str, rejected_share: float, evaluation: EvaluationConfig
) -> tuple[dict[str, Any], Detector]:
    """Compare scores, choose one and its threshold on validation rows, and judge it on test rows.

    Args:
        rows: In scope and out of it.
        asked: A score, or auto: the one with the largest mean AUROC over the files of rows out of scope, or without
            such rows the cosine to the nearest training rows.
        rejected_share: Share of the validation rows in scope that are taken for out of scope.
        evaluation: Level, resamples and seed of the intervals.

    Returns:
        The key `out_of_scope` of `results.json`, and the detector.
    """
    known = [name for name, score in SCORES.items() if rows.outside is not None or not score.needs_rows]
    fitted = fit_detectors(rows, known)
    table = []
    for name, (detector, outside) in fitted.items():
        entry: dict[str, Any] = {"score": name, "source": SCORES[name].source, "size_bytes": detector.size_bytes}
        if outside is not None and rows.outside is not None:
            validation = detector.compute_rows(rows.validation)
            groups = _split_groups(outside, rows.outside.groups)
            entry["validation"] = {key: measure_detection(validation, part)["auroc"] for key, part in groups.items()}
        if rows.outside_test is not None:
            test, found = detector.compute_rows(rows.test), detector.compute_rows(rows.outside_test)
            groups = _split_groups(found, rows.outside_test.groups)
            entry["test"] = {key: measure_detection(test, part) for key, part in groups.items()}
        table.append(entry)
    chosen = asked if asked != "auto" else _choose(table)
    threshold = float(np.quantile(fitted[chosen][0].compute_rows(rows.validation), rejected_share))
    detector = Detector(chosen, fitted[chosen][0].tensors, threshold)
    found = {
        "score": chosen,
        "asked": asked,
        "threshold": threshold,
        "rejected_share": rejected_share,
        "validation_rows": len(rows.validation.logits),
        "outside_rows": 0 if rows.outside is None else len(rows.outside.logits),
        "size_bytes": detector.size_bytes,
        "bank_rows": len(detector.tensors.get("bank", ())),
        "train_rows": len(rows.train.features),
        "scores": table,
        "judged": _judge(detector, rows, evaluation),
    }
    return {**found, "sentences": _describe(found)}, detector


def _choose(table: list[dict[str, Any]]) -> str:
    """Return the score with the largest mean AUROC on validation rows; the simplest of equal ones."""
    measured = {
        entry["score"]: np.mean(list(entry["validation"].values())) for entry in table if "validation" in entry
    }
    return max(measured, key=lambda name: measured[name]) if measured else DEFAULT_SCORE


def _split_groups(scores: np.ndarray, groups: tuple[str, ...]) -> dict[str, np.ndarray]:
    names = np.asarray(groups)
    return {str(name): scores[names == name] for name in dict.fromkeys(groups)}


def _judge(detector: Detector, rows: ScopeRows, evaluation: EvaluationConfig) -> dict[str, Any]:
    """Return what the threshold does to test rows: those in scope, and those out of it by file."""
    if rows.test.labels is None:
        raise ValueError("expected labels of the test rows")
    scores = detector.compute_rows(rows.test)
    right, kept = rows.test.logits.argmax(axis=1) == rows.test.labels, scores >= detector.threshold
    judged: dict[str, Any] = {
        "rejected": float((~kept).mean()),
        "accuracy": float(right.mean()),
        "accuracy_of_kept": float(right[kept].mean()) if kept.any() else None,
        "kept_and_right": float((right & kept).mean()),
        "groups": {},
    }
    if rows.outside_test is None:
        return judged
    for name, part in _split_groups(detector.compute_rows(rows.outside_test), rows.outside_test.groups).items():
        low, high = _bootstrap_auroc(scores, part, evaluation)
        judged["groups"][name] = {
            "rows": len(part),
            "rejected": float((part < detector.threshold).mean()),
            **measure_detection(scores, part),
            "auroc_low": low,
            "auroc_high": high,
        }
    return judged


def _bootstrap_auroc(inside: np.ndarray, outside: np.ndarray, evaluation: EvaluationConfig) -> tuple[float, float]:
    """Return the interval of the AUROC over resamples of the rows."""
    from startup_llm.evaluation.statistics import bootstrap_rows

    scores, truth = np.concatenate([inside, outside]), np.repeat([0, 1], [len(inside), len(outside)])
    low, high, _ = bootstrap_rows(lambda rows: _rank_auroc(scores[rows], truth[rows]), len(scores), evaluation)
    return low, high


def _rank_auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the AUROC by ranks (Mann & Whitney 1947), where low scores are those of rows out of scope."""
    from scipy.stats import rankdata

    outside = int(truth.sum())
    inside = len(truth) - outside
    if not outside or not inside:
        return 0.5
    ranks = rankdata(scores)[truth == 0].sum()
    return float((ranks - inside * (inside + 1) / 2) / (inside * outside))


def _describe(found: Mapping[str, Any]) -> list[str]:
    """Describe the score, its threshold and what it does, in sentences."""
    judged, rows = found["judged"], found["validation_rows"]
    how = (
        f"the best of {len(found['scores'])} scores by AUROC on {found['outside_rows']:,} rows out of scope"
        if found["asked"] == "auto" and found["outside_rows"]
        else "no rows out of scope (data.oos_file) were given to choose it by"
        if found["asked"] == "auto"
        else "as asked"
    )
    share = f"{100 * found['rejected_share']:g} %"
    sentences = [
        f"out of scope is what scores below {found['threshold']:.4g} by {found['score']} ({how}); the threshold "
        f"rejects {share} of the {rows:,} validation rows"
    ]
    lost = 100 * (judged["accuracy"] - judged["kept_and_right"])
    kept = judged["accuracy_of_kept"]
    of_kept = "none is kept" if kept is None else f"{100 * kept:.1f} % of those it keeps are right"
    sentences.append(
        f"of the test rows in scope it rejects {100 * judged['rejected']:.1f} %; {of_kept}, of all "
        f"{100 * judged['accuracy']:.1f} %; {lost:.1f} points of right answers are rejected"
    )
    for name, group in judged["groups"].items():
        sentences.append(
            f"{name}: it rejects {100 * group['rejected']:.1f} % of {group['rows']:,} rows out of scope, AUROC "
            f"{group['auroc']:.3f} ({group['auroc_low']:.3f} to {group['auroc_high']:.3f})"
        )
    if found["size_bytes"]:
        of_rows = f" for {found['bank_rows']:,} of {found['train_rows']:,} training rows" if found["bank_rows"] else ""
        sentences.append(f"{BANK_FILE} takes {found['size_bytes'] / 1e6:.1f} MB{of_rows}")
    return sentences
