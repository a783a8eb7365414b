"""Which rows to label next: those of which a model is unsure, unlike each other and unlike the labelled ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from startup_llm.audit.near_duplicates import find_near_duplicates, normalise_text
from startup_llm.models.unit_vectors import scale_to_norm_one

CANDIDATES_PER_ROW = 10
"""Unsure rows from which each suggestion is taken: beta of Zhdanov (2019)."""
DUPLICATE_SIMILARITY = 0.8
"""Jaccard similarity of 4-character pieces from which two texts are near-duplicates, as in an audit."""


@dataclass(frozen=True)
class NewTexts:
    """The texts of a pool that are worth a look.

    Attributes:
        positions: In the pool, ascending; of near-duplicates the first one.
        known: How many others are near-duplicates of a labelled text.
        repeated: How many others are near-duplicates of a text before them in the pool.
    """

    positions: np.ndarray
    known: int
    repeated: int


def find_new_texts(pool: Sequence[str], labelled: Sequence[str]) -> NewTexts:
    """Leave out near-duplicates, case, punctuation and white space aside.

    Args:
        pool: Texts without labels.
        labelled: Texts that have labels.
    """
    first: dict[str, int] = {}
    for place, text in enumerate([*labelled, *pool]):
        first.setdefault(normalise_text(text), place)
    places = np.array(list(first.values()), np.int64)
    pairs, _ = find_near_duplicates(list(first), DUPLICATE_SIMILARITY)
    partner = np.arange(len(labelled) + len(pool))  # of each text the first one that it repeats
    for place, text in enumerate([*labelled, *pool]):
        partner[place] = first[normalise_text(text)]
    for left, right in places[pairs]:
        partner[right] = min(partner[right], left)
    repeats = partner[len(labelled) :]
    repeats = partner[repeats]  # the near-duplicate of what a text repeats to the letter
    is_new = repeats == np.arange(len(labelled), len(partner))
    known = int((repeats[~is_new] < len(labelled)).sum())
    return NewTexts(np.flatnonzero(is_new), known, int((~is_new).sum()) - known)


def compute_uncertainty(probabilities: np.ndarray, *, several_labels: bool = False) -> np.ndarray:
    """Return how unsure a model is of each row, 0 to 1: 1 minus the margin between its two likeliest answers.

    For one label a row that is the distance of the two largest probabilities (Scheffer et al. 2001); for several
    labels that of the label nearest to one half from being true to being false.

    Args:
        probabilities: Shape (rows, labels).
        several_labels: Whether a row can have several labels, or none.
    """
    if several_labels:
        return 1 - np.abs(2 * probabilities - 1).min(axis=1)
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    largest = np.partition(probabilities, -2, axis=1)[:, -2:]
    return 1 - (largest[:, 1] - largest[:, 0])


def choose_rows(
    features: np.ndarray, uncertainty: np.ndarray, rows: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Choose rows to label, by uncertainty and diversity (Zhdanov 2019, "Diverse mini-batch active learning").

    The `CANDIDATES_PER_ROW` times as many most unsure rows are clustered by k-means on their directions, each row
    weighed by its uncertainty, and the row nearest to each centre is taken.

    Args:
        features: What the model's output layer reads, shape (pool, width).
        uncertainty: From `compute_uncertainty`, shape (pool,).
        rows: How many to choose.
        seed: Of k-means.

    Returns:
        Positions, the most unsure first, shape (rows,), and how many candidates each one stands for.
    """
    from sklearn.cluster import KMeans

    order = np.argsort(-uncertainty, kind="stable")
    candidates = order[: CANDIDATES_PER_ROW * rows]
    if len(candidates) <= rows:
        return candidates, np.ones(len(candidates), np.int64)
    directions = scale_to_norm_one(features[candidates])
    weights = np.maximum(uncertainty[candidates], 1e-6)
    clusters = KMeans(rows, n_init=1, random_state=seed).fit(directions, sample_weight=weights)
    distances = clusters.transform(directions)
    chosen, counts = [], []
    for cluster in np.unique(clusters.labels_):
        members = np.flatnonzero(clusters.labels_ == cluster)
        chosen.append(candidates[members[distances[members, cluster].argmin()]])
        counts.append(len(members))
    return _fill_up(np.array(chosen), np.array(counts), candidates, uncertainty, rows)


def _fill_up(
    chosen: np.ndarray, counts: np.ndarray, candidates: np.ndarray, uncertainty: np.ndarray, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add the most unsure candidates where equal features left fewer clusters than rows, and order by uncertainty."""
    others = candidates[~np.isin(candidates, chosen)][: rows - len(chosen)]
    chosen = np.concatenate([chosen, others])
    counts = np.concatenate([counts, np.ones(len(others), np.int64)])
    order = np.argsort(-uncertainty[chosen], kind="stable")
    return chosen[order], counts[order]
