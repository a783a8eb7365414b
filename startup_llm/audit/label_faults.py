"""Labels that look wrong, contradict each other, or are one label in several spellings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

FOLDS = 5
FEWEST_ROWS_PER_LABEL = FOLDS
FEWEST_ROWS = 50
"""Of fewer texts nothing can be learned about their labels."""
_MOST_TRAINING_TEXTS = 50_000
_MOST_PROBABILITIES = 80_000_000
_MOST_WORDS = 50_000


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
    texts: Sequence[str], labels: Sequence[str], groups: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Find labels that look wrong by confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068).

    The probabilities come from logistic regression over TF-IDF of words and word pairs that was not trained on the
    text it judges, nor on one of the same group. The confident joint says how many labels are wrong: those where
    another label's probability is above what is usual for texts of that label; the labels of the lowest probability
    are taken for them (cleanlab's filter low_self_confidence).

    Args:
        texts: Texts with a label.
        labels: One label per text.
        groups: Texts of one group are judged together, shape (rows,); near-equal texts, say.
        seed: Seed of the folds and draws.

    Returns:
        Positions of the suspect labels, the most suspect first; what is probable instead; the probability of the
        given label, both in that order; and the positions that were judged, ascending. Labels of fewer than 5 texts
        are not judged, and no more texts than keep the probabilities in 320 MB.
    """
    from cleanlab.filter import find_label_issues
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    generator = np.random.default_rng(seed)
    names, codes, sizes = np.unique(np.asarray(labels, dtype=str), return_inverse=True, return_counts=True)
    judged = np.flatnonzero(sizes[codes] >= FEWEST_ROWS_PER_LABEL)
    most_texts = _MOST_PROBABILITIES // max(len(names), 1)
    if len(judged) > most_texts:
        judged = np.sort(generator.choice(judged, most_texts, replace=False))
    kept, codes = np.unique(codes[judged], return_inverse=True)
    names = names[kept]
    if len(names) < 2 or len(judged) < FEWEST_ROWS:
        return np.empty(0, np.int64), [], np.empty(0), np.empty(0, np.int64)
    members = np.unique(np.asarray(groups)[judged], return_inverse=True)[1]
    folds = generator.permutation(members.max() + 1)[members] % FOLDS
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=_MOST_WORDS, dtype=np.float32,
        token_pattern=r"(?u)\b\w+\b",
    )  # fmt: skip
    try:
        features = vectorizer.fit_transform([texts[position] for position in judged.tolist()])
    except ValueError:  # no word stands in two texts
        return np.empty(0, np.int64), [], np.empty(0), np.empty(0, np.int64)
    probabilities = np.zeros((len(judged), len(names)), np.float32)
    for fold in range(FOLDS):
        train, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(train) > _MOST_TRAINING_TEXTS:
            train = generator.choice(train, _MOST_TRAINING_TEXTS, replace=False)
        if not len(held_out) or len(np.unique(codes[train])) < 2:
            continue
        model = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=8, tol=None, random_state=seed)
        model.fit(features[train], codes[train])
        probabilities[np.ix_(held_out, model.classes_)] = model.predict_proba(features[held_out])
    is_suspect = find_label_issues(codes, probabilities, filter_by="low_self_confidence", n_jobs=1)
    stated = probabilities[np.arange(len(codes)), codes]
    suspect = np.flatnonzero(is_suspect & (probabilities.argmax(axis=1) != codes))
    suspect = suspect[np.argsort(stated[suspect], kind="stable")]
    probable = names[probabilities[suspect].argmax(axis=1)].tolist()
    return judged[suspect], probable, stated[suspect], judged
