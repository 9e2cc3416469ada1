"""Truths of functions with noise and of several modes, against another computation."""

import itertools
import math

import numpy as np
import pytest
from problem_checks import agrees, family, problems
from problems.mixture import Mixture
from scipy import integrate, special, stats


@pytest.mark.parametrize("problem", family("additive noise"), ids=lambda problem: problem.name)
def test_additive_noise_truth(problem):
    epsilon = float(problem.name.split("=")[1])
    width = 2 * epsilon

    def density(z):
        return max(0.0, min(1.0, z + epsilon) - max(0.0, z - epsilon)) / width

    corners = [-epsilon, *sorted([epsilon, 1 - epsilon]), 1 + epsilon]
    entropy = sum(
        integrate.quad(lambda z: special.entr(density(z)), low, high)[0]
        for low, high in itertools.pairwise(corners)
    )
    assert problem.truth_nats == pytest.approx(entropy - math.log(width), abs=1e-6)
    x, z = problems.draw(problem, 10_000, seed=0)
    assert np.abs(z - x).max() == pytest.approx(epsilon, rel=0.01)
    assert x.mean() == pytest.approx(0.5, abs=0.02)


def average(log_density, z, nodes):
    """Compute the ln of the mean over nodes of a density, (n,), in blocks of z."""
    blocks = np.array_split(z, 20)
    parts = [special.logsumexp(log_density(block, nodes), axis=1) for block in blocks]
    return np.concatenate(parts) - math.log(len(nodes))


@pytest.mark.parametrize(
    ("name", "log_density"),
    [
        ("x^2 with noise 0.5", lambda z, x: stats.norm.logpdf(z, x**2, 0.5)),
        ("sin(4x) with noise 0.3", lambda z, x: stats.norm.logpdf(z, np.sin(4 * x), 0.3)),
        ("noise of scale |x|", lambda z, x: stats.norm.logpdf(z, 0, np.sqrt(0.1 + x**2))),
        (
            "cross with noise 0.3",
            lambda z, x: np.log(sum(stats.norm.pdf(z, sign * x, 0.3) / 2 for sign in (1, -1))),
        ),
    ],
)
def test_function_truth(name, log_density):
    problem = problems.find(name)
    x, z = problems.draw(problem, 20_000, seed=0)
    nodes = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    given = log_density(z, x)[:, 0]
    assert agrees(given - average(log_density, z, nodes), problem)


def test_circle_truth():
    problem = problems.find("circle with noise 0.1")
    x, z = problems.draw(problem, 20_000, seed=0)
    angles = 2 * math.pi * np.arange(400) / 400

    def around(at, nodes):
        return stats.norm.logpdf(at, nodes, 0.1)

    joint = average(
        lambda at, nodes: around(at[:, :1], np.cos(nodes)) + around(at[:, 1:], np.sin(nodes)),
        np.concatenate([x, z], axis=1),
        angles,
    )
    marginals = average(around, x, np.cos(angles)) + average(around, z, np.sin(angles))
    assert agrees(joint - marginals, problem)


@pytest.mark.parametrize(("clusters", "d"), [(4, 1), (3, 5)])
def test_mixture_truth(clusters, d):
    problem = problems.find(f"gaussian mixture clusters={clusters} d={d}")
    mixture = Mixture.random(clusters, d, seed=clusters)
    covariances = [root @ root.T for root in mixture.roots]

    def log_density(values, columns):
        each = [
            stats.multivariate_normal(mean[columns], covariance[columns, columns]).logpdf(values)
            for mean, covariance in zip(mixture.means, covariances, strict=True)
        ]
        return special.logsumexp(each, axis=0) - math.log(clusters)

    x, z = problems.draw(problem, 40_000, seed=0)
    joint = log_density(np.concatenate([x, z], axis=1), np.s_[:])
    pointwise = joint - log_density(x, np.s_[:d]) - log_density(z, np.s_[d:])
    assert agrees(pointwise, problem)
    assert 0 < problem.truth_stderr < 3e-3
