"""How good generated images are: distances between two sets of feature vectors."""

from __future__ import annotations

import numpy as np


def compute_frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return |m - m'|² + tr(C + C' - 2 (C C')^½) of two sets' means and covariances (Heusel et al. 2017, equation 6).

    The trace of (C C')^½ is the sum of the square roots of the eigenvalues of C^½ C' C^½, which is symmetric.

    Args:
        real: Features, shape (rows, width).
        generated: Features, shape (other rows, width).
    """
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    shift = real.mean(axis=0) - generated.mean(axis=0)
    covariance, other = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T  # C^½
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other @ root), 0, None)).sum()
    return float(max(shift @ shift + np.trace(covariance) + np.trace(other) - 2 * cross, 0.0))


def compute_precision_recall(real: np.ndarray, generated: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    """Return the shares of each set that lie in the other's manifold (Kynkäänniemi et al. 2019, equations 1 and 2).

    A set's manifold is the union of balls around its points, each as wide as the distance to the point's k-th nearest
    neighbour in the set. Precision: generated points inside the real manifold. Recall: real points inside the
    generated one.

    Args:
        real: Features, shape (rows, width).
        generated: Features, shape (other rows, width); as many rows as real make a fair comparison.
        neighbours: k; the paper takes 3.
    """
    return _share_inside(generated, real, neighbours), _share_inside(real, generated, neighbours)


def _share_inside(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> float:
    from scipy.spatial.distance import cdist

    own = cdist(manifold, manifold)  # (rows, rows), zeros on the diagonal
    radii = np.partition(own, neighbours, axis=1)[:, neighbours]  # the 0-th neighbour is the point itself
    return float((cdist(points, manifold) <= radii).any(axis=1).mean())
