"""Maps of one side's columns that several families share; all are invertible."""

import math

import numpy as np
from scipy import special

from .problem import Array, Map


def identity(x: Array) -> Array:
    """Return x, (n, …)."""
    return x


def half_cube(x: Array) -> Array:
    """Raise the size of each number to the power of 3/2."""
    return np.sign(x) * np.abs(x) ** 1.5


def wiggly_x(x: Array) -> Array:
    """Add waves to each column; the slope is at least 0.16 (Czyż et al. 2023)."""
    return x + 0.4 * np.sin(x) + 0.2 * np.sin(1.7 * x + 1) + 0.03 * np.sin(3.3 * x - 2.5)


def spiral(x: Array, i: int, j: int) -> Array:
    """Rotate the plane of columns i and j by the row's mean square (Czyż et al. 2023)."""
    angle = np.sum(x * x, axis=1) / x.shape[1]
    x, (a, b) = x.copy(), (x[:, i], x[:, j])
    x[:, i], x[:, j] = (
        np.cos(angle) * a - np.sin(angle) * b,
        np.sin(angle) * a + np.cos(angle) * b,
    )
    return x


def swiss_roll(x: Array) -> Array:
    """Roll a standard normal column, (n, 1), up in the plane, (n, 2) (Czyż et al. 2023)."""
    t = 1.5 * math.pi * (1 + 2 * special.ndtr(x))
    return t / 21 * np.concatenate([np.cos(t), np.sin(t)], axis=1)


def to_two_modes(
    weight: float,
    first: tuple[float, float],
    second: tuple[float, float],
    ends: tuple[float, float],
) -> Map:
    """Return an increasing map of standard normal columns to a mixture of two normals.

    Args:
      weight: of the first normal.
      first: mean and standard deviation of the first normal.
      second: those of the second one.
      ends: smallest and largest value.
    """
    grid = np.linspace(*ends, 20_001)
    parts = [special.ndtr((grid - mean) / scale) for mean, scale in (first, second)]
    cdf = weight * parts[0] + (1 - weight) * parts[1]
    # Piecewise linear and increasing: the mutual information does not change.
    return lambda x: np.interp(special.ndtr(x), cdf, grid)
