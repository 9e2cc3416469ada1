"""The seven low-dimensional families of the package mutinfo, https://github.com/VanessB/mutinfo.

They are those of its tables of mean absolute errors for 10,000 samples: 1 to 3 columns on each
side, here up to 6 nats. As there, the nats of normal, uniform, Student-t, log-gamma and smoothed
uniform columns are divided among the columns at random, anew for each set of samples, and columns
of the first three are rotated at random. At 0 nats, where some variables are constants there, they
are independent here.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
from numpy.random import Generator
from scipy import optimize, special, stats

from .problem import Array, Problem, Samples
from .samplers import map_sides
from .truths import exact, student_t_nats

TRUTHS = (0, 1, 2, 4, 6)
DIMENSIONS = (1, 2, 3)
DEGREES_OF_FREEDOM = (1, 2)
MIN_NATS = 1e-6  # of a pair of columns that is not independent

Family = Callable[[Generator, int, int, float], Samples]  # generator, n, d, nats


def mutinfo() -> list[Problem]:
    """Return the problems of the seven families; all are held out."""
    families: list[tuple[str, Family, tuple[int, ...]]] = [
        ("correlated normal", _normal, TRUTHS),
        ("correlated uniform", _uniform, TRUTHS),
        *(
            # Student-t columns share the divisor of a row: they are never independent.
            (f"correlated student nu={nu}", partial(_student_t, nu=nu), TRUTHS[1:])
            for nu in DEGREES_OF_FREEDOM
        ),
        ("log-gamma-exponential", _log_gamma, TRUTHS),
        ("smoothed uniform", _smoothed_uniform, TRUTHS),
        ("uniformly quantized", _quantized, TRUTHS),
        ("smoothed discrete uniform", _smoothed_labels, TRUTHS),
    ]
    return [
        Problem(
            f"mutinfo {name} d={d} I={nats}",
            f"mutinfo {name.partition(' nu')[0]}",
            exact(nats),
            partial(family, d=d, nats=nats),
            held_out=True,
            benchmark="mutinfo",
        )
        for name, family, truths in families
        for d in DIMENSIONS
        for nats in truths
    ]


# --- Gaussian columns -----------------------------------------------------------------------------


def _normal(rng: Generator, n: int, d: int, nats: float) -> Samples:
    """Draw standard normal columns, (n, d) each, that are correlated to those of the other side."""
    x, z = rng.standard_normal((2, n, d))
    parts = _divide(rng, nats, d)
    z = np.sqrt(-np.expm1(-2 * parts)) * x + np.exp(-parts) * z
    if d == 1:
        return x, z
    rotate_x, rotate_z = stats.ortho_group.rvs(d, size=2, random_state=rng)
    return x @ rotate_x, z @ rotate_z


def _uniform(rng: Generator, n: int, d: int, nats: float) -> Samples:
    return map_sides(partial(_normal, d=d, nats=nats), special.ndtr, special.ndtr)(rng, n)


def _student_t(rng: Generator, n: int, d: int, nats: float, nu: int) -> Samples:
    """Divide the rows of normal columns by a random number, with which they have `nats`."""
    x, z = _normal(rng, n, d, nats - student_t_nats(nu, d))
    divisor = np.sqrt(rng.chisquare(nu, (n, 1)) / nu)
    return x / divisor, z / divisor


# --- Other continuous columns ---------------------------------------------------------------------


def _log_gamma(rng: Generator, n: int, d: int, nats: float) -> Samples:
    """Draw logarithms of a gamma variable G, and of an exponential one divided by G, (n, d) each.

    Darbellay and Vajda 2000, doi:10.1109/18.825848. The first is centered.
    """
    x = rng.standard_normal((n, d))  # the limit where there is no dependence, but for the scale
    z = np.log(rng.exponential(size=(n, d)))
    for column, part in enumerate(_divide(rng, nats, d)):
        if part < MIN_NATS:
            continue
        shape = gamma_shape(part)
        # G(a) is distributed as G(a + 1) times U to the power of 1/a, which cannot underflow here.
        log_gamma = np.log(rng.gamma(shape + 1, size=n)) - rng.exponential(size=n) / shape
        x[:, column] = log_gamma - special.digamma(shape)
        z[:, column] -= x[:, column]
    return x, z


@cache
def gamma_shape(nats: float) -> float:
    """Solve ψ(a + 1) − ln a = nats for the shape a of a gamma variable."""

    def excess(log_shape: float) -> float:
        return special.digamma(1 + math.exp(log_shape)) - log_shape - nats

    return math.exp(optimize.brentq(excess, -10, 20))


def _smoothed_uniform(rng: Generator, n: int, d: int, nats: float) -> Samples:
    """Draw uniform columns, and the same with uniform noise, (n, d) each."""
    x, noise = rng.uniform(size=(2, n, d))
    signal = uniform_signal(_divide(rng, nats, d))
    return x, np.minimum(signal, 1) * x + noise / np.maximum(signal, 1)


def uniform_signal(nats: Array) -> Array:
    """Compute the width of a uniform variable that has this mutual information with its sum.

    Args:
      nats: of the variable and its sum with uniform noise of width 1; any shape.
    """
    # w/2 up to a width w of 1, then ln w + 1/(2 w).
    wide = -0.5 / np.real(special.lambertw(-0.5 * np.exp(-np.maximum(nats, 0.5))))
    return np.where(nats < 0.5, 2 * nats, wide)


# --- Labels ---------------------------------------------------------------------------------------


def _quantized(rng: Generator, n: int, d: int, nats: float) -> Samples:
    """Draw normal columns, and the number of the interval that each value is in, (n, d) each."""
    x = rng.standard_normal((n, d))
    if nats == 0:
        return x, rng.integers(0, 2, (n, d))
    cuts = np.cumsum(label_probabilities(nats / d))[:-1]
    return x, np.searchsorted(cuts, special.ndtr(x))


@cache
def label_probabilities(nats: float) -> Array:
    """Return probabilities with this entropy, (labels,): as few labels as can be, one less likely.

    Raises:
      ValueError: if the entropy is not positive.
    """
    labels = math.ceil(math.exp(nats))

    def excess(last: float) -> float:
        return special.entr([last, 1 - last]).sum() + (1 - last) * math.log(labels - 1) - nats

    last = optimize.brentq(excess, 0, 1 / labels)
    return np.append(np.full(labels - 1, (1 - last) / (labels - 1)), last)


def _smoothed_labels(rng: Generator, n: int, d: int, nats: float) -> Samples:
    """Draw labels, and the same with uniform noise, scaled to (0, 1), (n, d) each."""
    if nats == 0:
        return rng.integers(0, 2, (n, d)).astype(float), rng.uniform(size=(n, d))
    labels, width = label_noise(nats / d)
    x = rng.integers(0, labels, (n, d))
    z = x + width * rng.uniform(size=(n, d))
    return x / (labels - 1), z / (labels - 1 + width)


@cache
def label_noise(nats: float) -> tuple[int, float]:
    """Return a number of labels and a width of uniform noise that give this mutual information.

    Args:
      nats: of equally likely integers and their sum with the noise; positive.
    """
    labels = math.ceil(math.exp(nats))

    def excess(width: float) -> float:
        return smoothed_label_nats(labels, width) - nats

    # Of more noise the nats are inversely proportional to the width.
    return labels, optimize.brentq(excess, 1, 2 * labels * max(1, math.log(labels) / nats))


def smoothed_label_nats(labels: int, width: float) -> float:
    """Compute the mutual information of integers and their sum with uniform noise.

    It is ln(labels) less the mean of the logarithm of how many integers the sum may come from.

    Args:
      labels: number of integers, equally likely and next to one another.
      width: of the noise, at least 1.
    """
    whole = math.floor(width)
    part = width - whole
    cell = np.arange(labels + whole)  # the sum is from `cell` to `cell` + 1
    upper = np.minimum(cell, labels - 1)
    begin, end = (
        np.maximum(upper - np.maximum(cell - whole + later, 0) + 1, 0) for later in (0, 1)
    )
    total = part * special.xlogy(begin, begin) + (1 - part) * special.xlogy(end, end)
    return math.log(labels) - float(total.sum()) / (labels * width)


def _divide(rng: Generator, nats: float, d: int) -> Array:
    """Divide nats among d columns, uniformly over all ways to do so."""
    return nats * rng.dirichlet(np.ones(d))
