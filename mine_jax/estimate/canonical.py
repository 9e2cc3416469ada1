"""Canonical directions of both sides, learned from the training samples of each fold."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mine_jax.estimate.preparation import normal_scores

MAX_DIRECTIONS = 20
RIDGES = (1e-5, 1e-2, 0.1)  # as fractions of the mean variance of the columns
SIGNIFICANT = 2.5  # standard errors of a correlation from which on a direction is kept


def canonical_columns(
    x: NDArray, z: NDArray, train_rows: NDArray, validation_rows: NDArray
) -> Iterator[tuple[NDArray, NDArray]]:
    """Project both sides to the directions that are correlated, and add the size of each row.

    Principal components drop what both sides share in directions of small variance; canonical
    pairs (Hotelling 1936, "Relations between two sets of variates") keep it. The ridge is the one
    whose pairs tell most about the validation samples, and pairs that are no longer correlated
    there become zero. The mean square of a row's columns is what scales of many columns share.

    Args:
      x: (n, d_x) columns of comparable scale.
      z: (n, d_z) likewise; or labels, one-hot, of which the directions of x alone matter.
      train_rows: (folds, m).
      validation_rows: (folds, s).

    Yields:
      For each fold x and z as normal scores, (n, k + 1) each with k = `MAX_DIRECTIONS`, or fewer if
      a side has fewer columns.
    """
    sides = [np.asarray(side, np.float32) for side in (x, z)]
    sizes = [normal_scores(_mean_squares(side)) for side in sides]
    count = min(MAX_DIRECTIONS, *(side.shape[1] for side in sides))
    for train, validation in zip(train_rows, validation_rows, strict=True):
        centered = [side - side[train].mean(axis=0) for side in sides]
        trained = [side[train] for side in centered]
        axes = [_principal_axes(side) for side in trained]
        cross = trained[0].T @ trained[1] / len(train)
        tried = []
        for ridge in RIDGES:
            white = [_whitening(*of_side, ridge) for of_side in axes]
            left, _, right = np.linalg.svd(white[0].T @ cross @ white[1], full_matrices=False)
            directions = white[0] @ left[:, :count], white[1] @ right[:count].T
            projected = [
                s @ d.astype(np.float32) for s, d in zip(centered, directions, strict=True)
            ]
            correlations = _correlations(*(side[validation] for side in projected))
            keep = correlations > SIGNIFICANT / np.sqrt(len(validation))
            nats = -0.5 * np.log1p(-(correlations[keep] ** 2)).sum()
            tried.append((nats, [side * keep for side in projected]))
        _, best = max(tried, key=lambda each: each[0])
        x_columns, z_columns = (
            np.concatenate([normal_scores(side), size], axis=1)
            for side, size in zip(best, sizes, strict=True)
        )
        yield x_columns, z_columns


def _mean_squares(columns: NDArray) -> NDArray:
    """Return the mean square of each row's columns, each in its standard deviations, (n, 1)."""
    deviation = columns.std(axis=0)
    standardized = (columns - columns.mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)
    return np.mean(np.square(standardized), axis=1, keepdims=True)


def _principal_axes(columns: NDArray) -> tuple[NDArray, NDArray]:
    """Return the variances along the principal axes of centered columns, and the axes, float64."""
    covariance = (columns.T @ columns / len(columns)).astype(np.float64)
    variances, axes = np.linalg.eigh(covariance)
    return np.maximum(variances, 0), axes  # below 0 by rounding


def _whitening(variances: NDArray, axes: NDArray, ridge: float) -> NDArray:
    """Return W with Wᵀ C W = 1 for the covariance C with a ridge."""
    return axes / np.sqrt(variances + ridge * variances.mean() + 1e-12)


def _correlations(a: NDArray, b: NDArray) -> NDArray:
    """Return the correlations of paired columns, below 1, and 0 for negative ones."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    spread = np.sqrt(np.sum(a * a, axis=0) * np.sum(b * b, axis=0))
    rho = np.sum(a * b, axis=0) / np.where(spread > 0, spread, np.inf)
    return np.clip(rho, 0, 0.9999)
