"""Columns as people bring them: embeddings, layers, products, integers, copies, series, edges."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy import signal

from .maps import identity, spiral
from .problem import Array, Problem, Sampler, Samples, Truth
from .samplers import SPARSE_NATS, directions, map_sides, orthogonal, pairs, sparse, uniform_noise
from .truths import exact, poisson_truth, product_truth, uniform_noise_nats

BIAS = 0.5  # of units: enough of them are active to determine their inputs
PRODUCT_NOISE = 0.3
INTEGER_SCALE = 270  # about 900 different values in 2,000 rows
INTEGER_NATS = 1.064
LOG_RATE = (2.0, 0.8)  # mean and standard deviation of the logarithm of a Poisson rate
COPIES = 10  # of each row
PERIODS = (24.0, 24.84)  # hours of the sun's and the moon's day: they drift apart


class _Row(NamedTuple):
    name: str
    truth: Callable[[], Truth]
    sample: Sampler
    n: int | None = None


def columns() -> list[Problem]:
    """Return problems of columns and labels, three of each kind."""
    families = {
        "embeddings": _embeddings(),
        "relu layer": _relu_layers(),
        "product": _products(),
        "integers": _integers(),
        "copied rows": _copied_rows(),
        "series": _series(),
        "sharp edges": _sharp_edges(),
        "spiral": _spirals(),
    }
    return [
        Problem(f"wild {row.name}", f"wild {family}", *row[1:3], True, row.n, benchmark="wild")
        for family, rows in families.items()
        for row in rows
    ]


def _embeddings() -> list[_Row]:
    """Hundreds of correlated columns; what they share has little of their variance.

    In turned axes, column k has the variance 1/k, but four columns that are Gaussian pairs, which
    have that of the middle one.
    """

    def embed(x: Array, seed: int) -> Array:
        d = x.shape[1]
        variances = 1 / np.concatenate([np.full(4, d / 2), np.arange(1, d - 3)])
        return x * np.sqrt(variances) @ orthogonal(d, seed)

    return [
        _Row(
            f"embeddings d={d} I={nats}",
            exact(nats),
            map_sides(pairs(d, nats, correlated=4), partial(embed, seed=1), partial(embed, seed=2)),
        )
        for d, nats in ((384, 2), (256, 1), (768, 4))
    ]


def _relu_layers() -> list[_Row]:
    """Gaussian columns, and the units of a random layer of columns that are correlated to them."""

    def layer(x: Array, units: int) -> Array:
        return np.maximum(x @ directions(units, x.shape[1]).T + BIAS, 0)

    return [
        _Row(
            f"relu layer units={units} d={d} I=2",
            exact(2),
            map_sides(pairs(d, 2), identity, partial(layer, units=units)),
        )
        for units, d in ((128, 5), (64, 3), (120, 10))
    ]


def _products() -> list[_Row]:
    """Standard normal columns, and the product of the first two, of which neither says anything."""

    def sign(rng: Generator, n: int, d: int) -> Samples:
        x = rng.standard_normal((n, d))
        return x, (x[:, 0] * x[:, 1] > 0).astype(int)

    def noisy(rng: Generator, n: int) -> Samples:
        x, noise = rng.standard_normal((n, 2)), rng.standard_normal((n, 1))
        return x, x[:, :1] * x[:, 1:] + PRODUCT_NOISE * noise

    return [
        _Row("sign of a product d=2", exact(math.log(2)), partial(sign, d=2)),
        _Row("sign of a product d=5", exact(math.log(2)), partial(sign, d=5)),
        _Row(
            f"product with noise {PRODUCT_NOISE}",
            cache(partial(product_truth, PRODUCT_NOISE)),
            noisy,
        ),
    ]


def _integers() -> list[_Row]:
    """Integers of hundreds of values, which are numbers, not classes."""

    def rounded(x: Array) -> np.ndarray:
        return np.rint(INTEGER_SCALE * x).astype(int)

    def counts(rng: Generator, n: int) -> Samples:
        z = rng.standard_normal((n, 1))
        mean, scale = LOG_RATE
        return rng.poisson(np.exp(mean + scale * z)), z

    gaussian = pairs(1, INTEGER_NATS)
    # Rounding is noise of 1/12: it takes less than 1e-5 nats.
    truth = exact(INTEGER_NATS)
    return [
        _Row("integers x", truth, map_sides(gaussian, rounded, identity), 2000),
        _Row("integers x z", truth, map_sides(gaussian, rounded, rounded), 2000),
        _Row("counts x", cache(partial(poisson_truth, *LOG_RATE)), counts, 2000),
    ]


def _copied_rows() -> list[_Row]:
    """Gaussian pairs of which each is ten times in the data, in random order."""

    def sample(rng: Generator, n: int, d: int) -> Samples:
        different = math.ceil(n / COPIES)
        x, z = pairs(d, 0.5)(rng, different)
        rows = rng.permutation(np.repeat(np.arange(different), COPIES))[:n]
        return x[rows], z[rows]

    return [_Row(f"copied rows d={d} I=0.5", exact(0.5), partial(sample, d=d)) for d in (1, 2, 3)]


def _series() -> list[_Row]:
    """Two independent series, the rows of which are not independent of one another."""

    def autoregression(rng: Generator, n: int, d: int, phi: float) -> Array:
        shocks = rng.standard_normal((n, d))
        shocks[0] /= math.sqrt(1 - phi**2)  # stationary from the start
        return signal.lfilter([1], [1, -phi], shocks, axis=0)

    def independent(rng: Generator, n: int, d: int, phi: float) -> Samples:
        return autoregression(rng, n, d, phi), autoregression(rng, n, d, phi)

    def seasonal(rng: Generator, n: int) -> Samples:
        phases = np.arange(n)[:, None] / PERIODS + rng.uniform(size=2)
        waves = 3 * np.sin(2 * math.pi * phases)
        x, z = np.split(waves + autoregression(rng, n, 2, 0.9), 2, axis=1)
        return x, z

    return [
        _Row("series AR 0.99 d=1", exact(0), partial(independent, d=1, phi=0.99)),
        _Row("series AR 0.99 d=3", exact(0), partial(independent, d=3, phi=0.99)),
        _Row("series seasonal and AR 0.9", exact(0), seasonal),
    ]


def _sharp_edges() -> list[_Row]:
    """Uniform columns, and the same with a little uniform noise: densities with edges."""
    return [
        _Row(
            f"sharp edges d={d} eps={epsilon}",
            exact(d * uniform_noise_nats(epsilon)),
            uniform_noise(epsilon, d),
        )
        for epsilon, d in ((0.02, 1), (0.05, 1), (0.05, 2))
    ]


def _spirals() -> list[_Row]:
    """Two correlated pairs of columns, turned by the mean square of all columns."""
    return [
        _Row(
            f"spiral d={d}",
            exact(SPARSE_NATS),
            map_sides(sparse(d), partial(spiral, i=0, j=1), partial(spiral, i=1, j=2)),
        )
        for d in (25, 10, 40)
    ]
