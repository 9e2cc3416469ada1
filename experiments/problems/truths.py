"""Mutual information in closed form, by quadrature, and by Monte Carlo over known densities."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
from numpy.random import Generator
from scipy import special

from .problem import Array, Map, Truth

MONTE_CARLO_DRAWS, BLOCK_DRAWS = 2_000_000, 50_000


def exact(nats: float) -> Callable[[], Truth]:
    """Return a function that returns this truth, without an error."""
    return lambda: (float(nats), 0.0)


def monte_carlo(pointwise: Callable[[Generator, int], Array]) -> Truth:
    """Average the result of `pointwise`, (n,), over many draws; return mean and standard error."""
    rng = np.random.default_rng(0)
    parts = np.concatenate(
        [pointwise(rng, BLOCK_DRAWS) for _ in range(MONTE_CARLO_DRAWS // BLOCK_DRAWS)]
    )
    return float(parts.mean()), float(parts.std() / math.sqrt(len(parts)))


def class_truth(means: Array) -> Callable[[], Truth]:
    """Return the function that computes the mutual information of a class and normal features.

    It is ln(classes) minus the mean of −ln p(class | features).

    Args:
      means: (classes, d), the means of equally likely classes; around them the features are
        independent and have unit variance.
    """
    gram = means @ means.T
    root = np.linalg.cholesky(gram)

    def pointwise(rng: Generator, n: int) -> Array:
        labels = rng.integers(0, len(means), n)
        # The products of the features with the means are sufficient, and normal too.
        products = gram[labels] + rng.standard_normal((n, len(means))) @ root.T
        logits = products - 0.5 * np.diag(gram)
        label_logits = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return math.log(len(means)) + label_logits - special.logsumexp(logits, axis=1)

    return cache(partial(monte_carlo, pointwise))


def channel_nats(classes: int, beta: float) -> float:
    """Compute the mutual information of labels and the same with a fraction `beta` replaced."""
    return float(
        math.log(classes) - special.entr([beta, 1 - beta]).sum() - beta * math.log(classes - 1)
    )


def student_t_nats(nu: float, d: int) -> float:
    """Compute the mutual information of Student-t pairs, d columns each, with identity dispersion.

    It is that of the divisor which both sides share, and adds to that of correlated columns
    (Arellano-Valle et al. 2013, doi:10.1111/j.1467-9469.2011.00774.x, equation 7).

    Args:
      nu: degrees of freedom.
      d: number of columns of both sides.
    """

    def entropy(columns: int) -> float:
        half, whole = nu / 2, (nu + columns) / 2
        return float(
            special.gammaln(half)
            - special.gammaln(whole)
            + columns / 2 * math.log(nu * math.pi)
            + whole * (special.digamma(whole) - special.digamma(half))
        )

    return 2 * entropy(d) - entropy(2 * d)


def uniform_noise_nats(epsilon: float) -> float:
    """Compute the mutual information of a uniform column and itself with noise on (−ε, ε)."""
    return epsilon - math.log(2 * epsilon) if epsilon <= 0.5 else 1 / (4 * epsilon)


def function_truth(mean: Map, scale: Map, points: int = 2001) -> Truth:
    """Compute the truth of `function` by quadrature."""
    x = np.linspace(-8, 8, points)
    weights = normal_density(x, 0, 1) * (x[1] - x[0])
    means, scales = mean(x), scale(x)
    z = np.linspace((means - 8 * scales).min(), (means + 8 * scales).max(), 2 * points)
    density = apply_in_blocks(lambda at: normal_density(at[:, None], means, scales) @ weights, z)
    noise_entropy = 0.5 * math.log(2 * math.pi * math.e) + np.log(scales) @ weights
    return grid_entropy(density, z) - float(noise_entropy), 0.0


def cross_truth(scale: float, points: int = 2001) -> Truth:
    """Compute the truth of a standard normal x and ±x + scale · noise by quadrature."""
    x = np.linspace(-8, 8, points)
    z = np.linspace(-8 - 8 * scale, 8 + 8 * scale, points)

    def given(at: Array) -> Array:
        density = 0.5 * (
            normal_density(z, at[:, None], scale) + normal_density(z, -at[:, None], scale)
        )
        return special.entr(density).sum(axis=1) * (z[1] - z[0])

    noise_entropy = apply_in_blocks(given, x) @ normal_density(x, 0, 1) * (x[1] - x[0])
    z_entropy = 0.5 * math.log(2 * math.pi * math.e * (1 + scale**2))
    return float(z_entropy - noise_entropy), 0.0


def product_truth(scale: float, points: int = 4001) -> Truth:
    """Compute the truth of two standard normal columns and their product + scale · noise.

    Given the first column, the noisy product is normal; that gives its density by quadrature.
    """
    x, z = np.linspace(-8, 8, points), np.linspace(-40, 40, 4 * points)
    weights = normal_density(x, 0, 1) * (x[1] - x[0])
    scales = np.sqrt(x**2 + scale**2)
    density = apply_in_blocks(lambda at: normal_density(at[:, None], 0, scales) @ weights, z)
    noise_entropy = 0.5 * math.log(2 * math.pi * math.e * scale**2)
    return grid_entropy(density, z) - noise_entropy, 0.0


def poisson_truth(mean: float, scale: float, points: int = 2001) -> Truth:
    """Compute the truth of a standard normal z and counts of rate exp(mean + scale · z)."""
    z = np.linspace(-7, 7, points)
    weights = normal_density(z, 0, 1) * (z[1] - z[0])
    log_rates = mean + scale * z
    highest = math.exp(log_rates[-1])
    counts = np.arange(highest + 10 * math.sqrt(highest))

    def given(at: Array) -> Array:
        """Compute the probability of each of these counts, (counts, points)."""
        at = at[:, None]
        return np.exp(at * log_rates - np.exp(log_rates) - special.gammaln(at + 1))

    counts_given = apply_in_blocks(given, counts)
    entropy = special.entr(counts_given @ weights).sum()
    return float(entropy - special.entr(counts_given).sum(axis=0) @ weights), 0.0


def circle_truth(scale: float, points: int = 4001) -> Truth:
    """Compute the truth of the coordinates of a noisy unit circle by quadrature."""
    edge = 1 + 10 * scale
    radius, x = np.linspace(0, edge, points), np.linspace(-edge, edge, points)
    # The mean of a normal density around the points of the circle (Rice).
    density = np.exp(-((radius - 1) ** 2) / (2 * scale**2)) * special.i0e(radius / scale**2)
    density /= 2 * math.pi * scale**2
    joint = np.sum(special.entr(density) * 2 * math.pi * radius) * (radius[1] - radius[0])
    angle = np.linspace(0, 2 * math.pi, 1000, endpoint=False)
    marginal = apply_in_blocks(
        lambda at: normal_density(at[:, None], np.cos(angle), scale).mean(axis=1), x
    )
    return 2 * grid_entropy(marginal, x) - float(joint), 0.0


def grid_entropy(density: Array, grid: Array) -> float:
    """Compute the entropy of a density on an even grid that covers it, both (points,)."""
    return float(special.entr(density).sum() * (grid[1] - grid[0]))


def normal_density(x: Array, mean: Array | float, scale: Array | float) -> Array:
    """Compute the density of a normal distribution at x."""
    return np.exp(-0.5 * ((x - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


def apply_in_blocks(function: Map, at: Array, size: int = 500) -> Array:
    """Apply a function to a vector block by block, to bound its memory."""
    blocks: Sequence[Array] = [function(at[i : i + size]) for i in range(0, len(at), size)]
    return np.concatenate(blocks)
