"""Small estimators of mutual information to compare with: nearest neighbors and correlations.

They return one number in nats, without an error, and nan where they do not apply.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.special import digamma

Array = NDArray[np.floating]

NEIGHBORS = 3  # k of `ksg`
MAX_COLUMNS = 50  # of a side: with more, nearest neighbors say little and take minutes
TIES = 1e-10  # standard deviation of the noise that separates equal rows
RANK = 1e-6  # singular values below this fraction of the largest are taken for zero


def ksg(x: np.ndarray, z: np.ndarray) -> float:
    """Estimate mutual information from nearest neighbors.

    Kraskov, Stögbauer and Grassberger 2004, https://arxiv.org/abs/cond-mat/0305641, algorithm 1,
    equation 8, on standardized columns with a noise that separates ties.

    Args:
      x: (n, columns), numbers.
      z: (n, columns), numbers.

    Returns:
      The estimate, in nats; nan for labels, (n,), images and more than `MAX_COLUMNS` columns.
    """
    if any(side.ndim != 2 or side.shape[1] > MAX_COLUMNS for side in (x, z)):
        return math.nan
    rng = np.random.default_rng(0)
    x, z = (_standardized(side) + TIES * rng.standard_normal(side.shape) for side in (x, z))
    joint = np.concatenate([x, z], axis=1)
    distances = KDTree(joint).query(joint, NEIGHBORS + 1, p=np.inf)[0][:, -1]
    within = np.nextafter(distances, 0)  # neighbors that are strictly nearer are counted

    def mean_digamma(side: Array) -> float:
        counts = KDTree(side).query_ball_point(side, within, p=np.inf, return_length=True)
        return float(digamma(counts).mean())  # each point counts itself, as the formula's n + 1

    return float(digamma(NEIGHBORS) + digamma(len(x))) - mean_digamma(x) - mean_digamma(z)


def cca(x: np.ndarray, z: np.ndarray) -> float:
    """Estimate mutual information from canonical correlations, as if all were Gaussian.

    −½ Σ ln(1 − ρ²) over the sample's canonical correlations ρ (Czyż et al. 2023,
    https://arxiv.org/abs/2306.11078). It grows with the number of columns: by about
    d²/2n for d columns on each side.

    Args:
      x: (n, …), numbers; or labels, (n,).
      z: likewise.

    Returns:
      The estimate, in nats; nan unless there are more samples than columns of both sides.
    """
    x, z = (_columns(side) for side in (x, z))
    if len(x) <= x.shape[1] + z.shape[1]:
        return math.nan
    correlations = np.linalg.svd(_basis(x).T @ _basis(z), compute_uv=False)
    with np.errstate(divide="ignore"):
        return float(-0.5 * np.log1p(-(np.minimum(correlations, 1) ** 2)).sum())


ESTIMATORS = {"ksg": ksg, "cca": cca}


def _columns(values: np.ndarray) -> np.ndarray:
    """Return numbers as (n, columns), and labels, (n,), as (n, classes)."""
    if values.ndim > 1:
        return values.reshape(len(values), -1)
    return np.unique(values)[None] == values[:, None]


def _standardized(values: np.ndarray) -> Array:
    centered = values - values.mean(axis=0)
    return centered / np.maximum(centered.std(axis=0), np.finfo(float).tiny)


def _basis(values: np.ndarray) -> Array:
    """Return an orthonormal basis of the standardized columns, (n, rank)."""
    left, sizes, _ = np.linalg.svd(_standardized(values.astype(float)), full_matrices=False)
    return left[:, sizes > RANK * sizes[0]]
