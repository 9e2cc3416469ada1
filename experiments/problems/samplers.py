"""Samplers and maps of samples that several families share."""

import math

import numpy as np
from numpy.random import Generator

from .problem import Array, Map, Sampler, Samples

FEATURES = 84  # columns of the features of labels, as in LeNet-5's last hidden layer
SPARSE_NATS = -math.log(1 - 0.8**2)  # two pairs of columns with a correlation of 0.8


def pairs(d: int, nats: float, correlated: int | None = None) -> Sampler:
    """Return a sampler of standard normal pairs, (n, d) each.

    Args:
      d: number of columns of both sides.
      nats: the mutual information, of which each correlated column has the same part.
      correlated: number of correlated columns, which are the first ones. Default: all.
    """

    def sample(rng: Generator, n: int) -> Samples:
        x, z = rng.standard_normal((2, n, d))
        column_nats = nats / (correlated or d)
        first = np.s_[:, :correlated]
        # exp(−I) is √(1 − ρ²), which is exact also where ρ is nearly one.
        z[first] = (
            math.sqrt(-math.expm1(-2 * column_nats)) * x[first] + math.exp(-column_nats) * z[first]
        )
        return x, z

    return sample


def sparse(d: int) -> Sampler:
    """Return a sampler of normal pairs, (n, d), two of whose columns have a correlation of 0.8."""
    return pairs(d, SPARSE_NATS, correlated=2)


def student_t_pairs(nu: int, d: int, nats: float = 0) -> Sampler:
    """Return a sampler of Gaussian pairs, (n, d) each, with each row divided by a random number.

    Args:
      nu: degrees of freedom.
      d: number of columns of both sides.
      nats: the mutual information of the Gaussian pairs.
    """

    def sample(rng: Generator, n: int) -> Samples:
        x, z = pairs(d, nats)(rng, n)
        divisor = np.sqrt(rng.chisquare(nu, (n, 1)) / nu)
        return x / divisor, z / divisor

    return sample


def uniform_noise(epsilon: float, d: int = 1) -> Sampler:
    """Return a sampler of d columns uniform on (0, 1), and them plus uniform noise on (−ε, ε)."""

    def sample(rng: Generator, n: int) -> Samples:
        x = rng.uniform(size=(n, d))
        return x, x + rng.uniform(-epsilon, epsilon, size=(n, d))

    return sample


def map_sides(sampler: Sampler, on_x: Map, on_z: Map) -> Sampler:
    """Return the sampler with a map of each side."""

    def sample(rng: Generator, n: int) -> Samples:
        x, z = sampler(rng, n)
        return on_x(x), on_z(z)

    return sample


def orthogonal(d: int, seed: int) -> Array:
    """Draw an orthogonal matrix, (d, d)."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def directions(count: int, d: int) -> Array:
    """Draw unit vectors, (count, d), the same ones at each call."""
    vectors = np.random.default_rng(count).standard_normal((count, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def flipped(rng: Generator, labels: np.ndarray, classes: int, beta: float) -> np.ndarray:
    """Replace each of the labels, (n,), with probability `beta` by another class."""
    other = (labels + rng.integers(1, classes, len(labels))) % classes
    return np.where(rng.uniform(size=len(labels)) < beta, other, labels)
