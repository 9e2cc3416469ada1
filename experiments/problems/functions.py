"""Functions of x with noise, and distributions of several modes."""

import math
from functools import cache, partial

import numpy as np
from numpy.random import Generator

from .maps import to_two_modes
from .mixture import Mixture
from .problem import Map, Problem, Sampler, Samples
from .samplers import map_sides, pairs, uniform_noise
from .truths import (
    circle_truth,
    cross_truth,
    exact,
    function_truth,
    monte_carlo,
    uniform_noise_nats,
)


def additive_noise() -> list[Problem]:
    """Uniform on (0, 1), and the same plus uniform noise on (−ε, ε)."""
    return [
        Problem(
            f"additive noise eps={epsilon}",
            "additive noise",
            exact(uniform_noise_nats(epsilon)),
            uniform_noise(epsilon),
            held_out,
        )
        for epsilon, held_out in ((0.1, False), (0.75, True), (0.02, True))
    ]


def function() -> list[Problem]:
    """A standard normal column x, and z = mean(x) + scale(x) · noise."""

    def sample(rng: Generator, n: int, mean: Map, scale: Map) -> Samples:
        x, noise = rng.standard_normal((2, n, 1))
        return x, mean(x) + scale(x) * noise

    table: list[tuple[str, Map, Map, bool]] = [
        ("x^2 with noise 0.5", np.square, lambda x: np.full_like(x, 0.5), False),
        ("noise of scale |x|", np.zeros_like, lambda x: np.sqrt(0.1 + x * x), False),
        ("sin(4x) with noise 0.3", lambda x: np.sin(4 * x), lambda x: np.full_like(x, 0.3), True),
    ]
    return [
        Problem(
            name,
            "function",
            cache(partial(function_truth, mean, scale)),
            partial(sample, mean=mean, scale=scale),
            held_out,
        )
        for name, mean, scale, held_out in table
    ]


def multimodal() -> list[Problem]:
    """Clusters, branches and rings."""

    def circle(rng: Generator, n: int) -> Samples:
        angle = rng.uniform(0, 2 * math.pi, (n, 1))
        noise = 0.1 * rng.standard_normal((2, n, 1))
        return np.cos(angle) + noise[0], np.sin(angle) + noise[1]

    def cross(rng: Generator, n: int) -> Samples:
        x, noise = rng.standard_normal((2, n, 1))
        return x, np.where(rng.uniform(size=(n, 1)) < 0.5, x, -x) + 0.3 * noise

    bimodal = to_two_modes(0.3, (-2, 0.5), (2, 0.8), ends=(-7, 9))

    def copula(d: int, nats: float) -> Sampler:
        return map_sides(pairs(d, nats), bimodal, bimodal)

    nats = -0.5 * math.log(1 - 0.75**2)
    family = "multimodal"
    members = [
        Problem("circle with noise 0.1", family, cache(partial(circle_truth, 0.1)), circle, False),
        Problem("cross with noise 0.3", family, cache(partial(cross_truth, 0.3)), cross, True),
        Problem("bimodal d=1 rho=0.75", family, exact(nats), copula(1, nats), True),
        Problem("bimodal d=5 I=2", family, exact(2), copula(5, 2), True),
    ]
    for clusters, d in ((4, 1), (5, 2), (3, 5)):
        mixture = Mixture.random(clusters, d, seed=clusters)
        truth = cache(partial(monte_carlo, mixture.pointwise))
        name = f"gaussian mixture clusters={clusters} d={d}"
        members.append(Problem(name, family, truth, mixture.sample, True))
    return members
