"""Labels that look wrong, contradict each other, or are one label in several spellings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

FOLDS = 5
FEWEST_ROWS_PER_LABEL = FOLDS
FEWEST_ROWS = 50
"""Of fewer texts nothing can be learned about their labels."""
_MOST_TRAINING_TEXTS = 50_000
_MOST_PROBABILITIES = 80_000_000
_MOST_WORDS = 50_000
_MOST_CALIBRATION_ROWS = 5_000
_TEMPERATURES = (0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.8, 1.0)
_SHRINKAGE = 0.3
"""Share of a multiple of the identity in the covariance of the features within a label."""
_NEIGHBOURS = 4
"""Rows on each side that have a say where they have the same label."""
_MOST_SAY = 3.0
"""Largest log-odds that one neighbour adds."""
_LEAST_ODDS_SORTED = 1.0
"""Log-odds of another label from which a label is suspect where the rows stand sorted by label."""
_LEAST_ODDS_OF_WORDS, _LEAST_ODDS_OF_FEATURES = 3.0, 6.0
"""The same where they do not, so that no neighbour has a say; features are surer than they are right."""
_MOST_SUSPECT = 0.3
"""Where a larger share of the labels seems wrong, the texts do not tell the labels apart, and none is named."""
_FEWEST_IN_BLOCK, _FEWEST_SWAPPED = 5, 5

EncodeTexts = Callable[[Sequence[str]], np.ndarray]
"""From texts to the features of an encoder, shape (texts, width)."""


@dataclass(frozen=True)
class LabelBlock:
    """Suspect rows that follow on each other, with the same label and the same probable one.

    Attributes:
        positions: The rows, ascending.
        label: Their label.
        probable_label: What they read like.
    """

    positions: np.ndarray
    label: str
    probable_label: str


@dataclass(frozen=True)
class SwappedLabels:
    """Two labels many of whose rows read like the other one.

    Attributes:
        labels: The two.
        rows: How many rows of each read like the other.
    """

    labels: tuple[str, str]
    rows: tuple[int, int]


@dataclass(frozen=True)
class SuspectLabels:
    """Labels that look wrong.

    Attributes:
        positions: Positions of the texts, the most suspect first.
        probable_labels: What is probable instead.
        probabilities: Of the given label, before the neighbours had their say.
        judged: Positions of the texts that were judged, ascending.
        is_unclear: Whether so many labels seem wrong that the texts cannot tell them apart; none is named then.
        blocks: Suspect rows that follow on each other.
        swapped: Pairs of labels that are mixed up both ways.
    """

    positions: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    probable_labels: list[str] = field(default_factory=list)
    probabilities: np.ndarray = field(default_factory=lambda: np.empty(0))
    judged: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    blocks: list[LabelBlock] = field(default_factory=list)
    swapped: list[SwappedLabels] = field(default_factory=list)
    is_unclear: bool = False


def find_spellings(counts: Counter[str]) -> dict[str, str]:
    """Map each label to the most frequent one that differs from it only by case or surrounding spaces.

    Args:
        counts: Rows of each label.

    Returns:
        Only the labels that are mapped to another.
    """
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(name.strip().casefold(), []).append(name)
    best = {key: max(names, key=lambda name: (counts[name], name == name.strip())) for key, names in groups.items()}
    return {name: best[key] for key, names in groups.items() for name in names if name != best[key]}


def find_suspect_labels(
    texts: Sequence[str],
    labels: Sequence[str],
    groups: np.ndarray,
    seed: int = 0,
    *,
    parts: np.ndarray | None = None,
    encode: EncodeTexts | None = None,
) -> SuspectLabels:
    """Find labels that look wrong by cross-validated probabilities (Northcutt et al. 2021, arXiv:1911.00068).

    They come from a model that was not trained on the text it judges, nor on one of the same group: linear
    discriminant analysis on an encoder's features where there is one, else logistic regression over TF-IDF of words
    and word pairs, both with a temperature that makes them likeliest. Labels are wrong in blocks more often than one
    by one (a column slips, a range is filled down), so neighbours with the same label have their say: the log-odds of
    another label are summed over the rows of the same label up to four places away, each within -3 and 3. A label is
    suspect where another one is likelier by then: by 1 in log-odds where most rows stand between two of their own
    label, which makes the sum reliable, else by 3 with words and 6 with features.

    Args:
        texts: Texts with a label, in the order of their file.
        labels: One label per text.
        groups: Texts of one group are judged together, shape (rows,); near-equal texts, say.
        seed: Seed of the folds and draws.
        parts: Which split or file each text is of, shape (rows,): texts of two are no neighbours; default one.
        encode: Computes the features.

    Returns:
        The suspects. Labels of fewer than 5 texts are not judged, and no more texts than keep the probabilities in
        320 MB.
    """
    generator = np.random.default_rng(seed)
    names, codes, sizes = np.unique(np.asarray(labels, dtype=str), return_inverse=True, return_counts=True)
    judged = np.flatnonzero(sizes[codes] >= FEWEST_ROWS_PER_LABEL)
    most_texts = _MOST_PROBABILITIES // max(len(names), 1)
    if len(judged) > most_texts:
        judged = np.sort(generator.choice(judged, most_texts, replace=False))
    kept, codes = np.unique(codes[judged], return_inverse=True)
    names = names[kept]
    if len(names) < 2 or len(judged) < FEWEST_ROWS:
        return SuspectLabels()
    members = np.unique(np.asarray(groups)[judged], return_inverse=True)[1]
    folds = generator.permutation(members.max() + 1)[members] % FOLDS
    used = [texts[position] for position in judged.tolist()]
    if encode is not None:
        scores = _score_by_features(encode(used), codes, folds)
    else:
        scores = _score_by_words(used, codes, folds, generator, seed)
    if scores is None:
        return SuspectLabels()
    own = calibrate(scores, codes, generator)
    place = np.zeros(len(judged), np.int64) if parts is None else np.unique(parts, return_inverse=True)[1][judged]
    runs = _number_runs(codes, place)
    odds, probable = _compute_odds(add_neighbours(own, codes, runs), codes)
    least = _LEAST_ODDS_OF_WORDS if encode is None else _LEAST_ODDS_OF_FEATURES
    suspect = np.flatnonzero(odds >= (_LEAST_ODDS_SORTED if is_sorted(runs) else least))
    if len(suspect) > _MOST_SUSPECT * len(judged):
        return SuspectLabels(judged=judged, is_unclear=True)
    suspect = suspect[np.argsort(-odds[suspect], kind="stable")]
    given = names[codes]
    return SuspectLabels(
        judged[suspect],
        names[probable[suspect]].tolist(),
        np.exp(own[suspect, codes[suspect]]),
        judged,
        _find_blocks(np.sort(suspect), judged, given, names[probable], place),
        _find_swapped(given[suspect], names[probable[suspect]]),
    )


def _score_by_features(features: np.ndarray, codes: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the discriminant of each label for texts that it was not fitted on, shape (texts, labels), float32."""
    features = features.astype(np.float32) / max(
        float(np.sqrt((features.astype(np.float64) ** 2).sum(1).mean())), 1e-9
    )
    count, width = int(codes.max()) + 1, features.shape[1]
    scores = np.full((len(codes), count), -np.inf, np.float32)
    for fold in range(FOLDS):
        train, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        sizes = np.bincount(codes[train], minlength=count)
        order = train[np.argsort(codes[train], kind="stable")]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        known = np.flatnonzero(sizes)
        if not len(held_out) or len(known) < 2:
            continue
        means = np.zeros((count, width), np.float32)
        means[known] = np.add.reduceat(features[order], starts[known], axis=0) / sizes[known, None]
        rest = features[train] - means[codes[train]]
        covariance = rest.T @ rest / len(train)
        spherical = np.trace(covariance) / width * np.eye(width, dtype=np.float32)
        weights = np.linalg.solve((1 - _SHRINKAGE) * covariance + _SHRINKAGE * spherical, means[known].T)
        offsets = 0.5 * (means[known].T * weights).sum(axis=0)
        scores[np.ix_(held_out, known)] = features[held_out] @ weights - offsets
    return scores


def _score_by_words(
    texts: Sequence[str], codes: np.ndarray, folds: np.ndarray, generator: np.random.Generator, seed: int
) -> np.ndarray | None:
    """Return the log-probability of each label by words; None where no word stands in two texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=_MOST_WORDS, dtype=np.float32,
        token_pattern=r"(?u)\b\w+\b",
    )  # fmt: skip
    try:
        features = vectorizer.fit_transform(texts)
    except ValueError:  # no word stands in two texts
        return None
    probabilities = np.zeros((len(codes), int(codes.max()) + 1), np.float32)
    for fold in range(FOLDS):
        train, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(train) > _MOST_TRAINING_TEXTS:
            train = generator.choice(train, _MOST_TRAINING_TEXTS, replace=False)
        if not len(held_out) or len(np.unique(codes[train])) < 2:
            continue
        model = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=8, tol=None, random_state=seed)
        model.fit(features[train], codes[train])
        probabilities[np.ix_(held_out, model.classes_)] = model.predict_proba(features[held_out])
    return np.log(probabilities + 1e-4)


def calibrate(scores: np.ndarray, codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return log-probabilities at the temperature that makes the given labels likeliest, wrong ones apart.

    Args:
        scores: Of each label, shape (texts, labels); -inf for a label that was not learnt.
        codes: The given labels, shape (texts,).
        generator: Draws the texts by which the temperature is chosen, where there are many.
    """
    drawn = np.arange(len(codes))
    if len(drawn) > _MOST_CALIBRATION_ROWS:
        drawn = generator.choice(drawn, _MOST_CALIBRATION_ROWS, replace=False)
    lowest = -5.0  # what is less likely is taken for a wrong label, which is not to make all others unsure
    fits = [
        np.maximum(_log_softmax(scores[drawn] * temperature)[np.arange(len(drawn)), codes[drawn]], lowest).mean()
        for temperature in _TEMPERATURES
    ]
    return _log_softmax(scores * _TEMPERATURES[int(np.argmax(fits))])


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    highest = scores.max(axis=1, keepdims=True)
    shifted = np.maximum(scores - np.where(np.isfinite(highest), highest, 0), -50.0)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _number_runs(codes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Number the runs of rows of one label that follow on each other in one part."""
    changes = (codes[1:] != codes[:-1]) | (parts[1:] != parts[:-1])
    return np.concatenate([[0], np.cumsum(changes)])


def is_sorted(runs: np.ndarray) -> bool:
    """Whether most rows stand between two of their own label.

    Args:
        runs: Number of each row's run, shape (rows,).
    """
    return bool(((runs[2:] == runs[1:-1]) & (runs[1:-1] == runs[:-2])).mean() > 0.5) if len(runs) > 2 else False


def add_neighbours(log_probabilities: np.ndarray, codes: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Add to each row's log-odds those of the rows of its run that are near it.

    Args:
        log_probabilities: Of each label, shape (rows, labels).
        codes: The given labels, shape (rows,).
        runs: Number of each row's run of one label, shape (rows,), ascending.

    Returns:
        Shape (rows, labels).
    """
    result = log_probabilities.astype(np.float32, copy=True)
    starts = np.flatnonzero(np.concatenate([[True], runs[1:] != runs[:-1]]))
    for start, end in zip(starts, [*starts[1:], len(runs)], strict=True):
        size = end - start
        if size < 2:
            continue
        own = log_probabilities[start:end]
        odds = np.clip(own - own[:, codes[start], None], -_MOST_SAY, _MOST_SAY)
        sums = np.concatenate([np.zeros((1, odds.shape[1])), np.cumsum(odds, axis=0, dtype=np.float64)])
        place = np.arange(size)
        low, high = np.maximum(place - _NEIGHBOURS, 0), np.minimum(place + _NEIGHBOURS + 1, size)
        result[start:end] += sums[high] - sums[low] - odds
    return result


def _compute_odds(log_probabilities: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much the likeliest other label is likelier than the given one, in logarithms, and which it is."""
    rows = np.arange(len(codes))
    others = log_probabilities.copy()
    others[rows, codes] = -np.inf
    probable = others.argmax(axis=1)
    return others[rows, probable] - log_probabilities[rows, codes], probable


def _find_blocks(
    suspect: np.ndarray, judged: np.ndarray, given: np.ndarray, probable: np.ndarray, parts: np.ndarray
) -> list[LabelBlock]:
    """Find suspect rows that follow on each other with one label and one probable label, the longest first."""
    if not len(suspect):
        return []
    after, before = suspect[1:], suspect[:-1]
    breaks = (judged[after] != judged[before] + 1) | (parts[after] != parts[before])
    breaks |= (given[after] != given[before]) | (probable[after] != probable[before])
    pieces = np.split(suspect, np.flatnonzero(breaks) + 1)
    blocks = [
        LabelBlock(judged[piece], str(given[piece[0]]), str(probable[piece[0]]))
        for piece in pieces
        if len(piece) >= _FEWEST_IN_BLOCK
    ]
    return sorted(blocks, key=lambda block: -len(block.positions))


def _find_swapped(given: np.ndarray, probable: np.ndarray) -> list[SwappedLabels]:
    """Find pairs of labels of which several rows each read like the other."""
    counts = Counter(zip(given.tolist(), probable.tolist(), strict=True))
    pairs = [
        SwappedLabels((first, second), (count, counts[second, first]))
        for (first, second), count in counts.items()
        if first < second and min(count, counts[second, first]) >= _FEWEST_SWAPPED
    ]
    return sorted(pairs, key=lambda pair: -sum(pair.rows))
