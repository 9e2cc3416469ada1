"""Truths of Gaussian and Student-t pairs and of their maps, against another computation."""

import math

import numpy as np
import pytest
from problem_checks import (
    OWN,
    agrees,
    family,
    gaussian_nats,
    normal_scores,
    problems,
    rotate_back,
    student_t_pointwise,
)
from scipy import special


def test_sparse_dependence_is_in_two_columns_and_dense_in_all():
    x, z = problems.draw(problems.find("sparse gaussian d=25"), 50_000, seed=0)
    across = np.corrcoef(x, z, rowvar=False)[:25, 25:]
    assert np.diag(across)[:2] == pytest.approx([0.8, 0.8], abs=0.01)
    assert np.abs(across - np.diag([0.8, 0.8, *[0] * 23])).max() < 0.03
    x, z = problems.draw(problems.find("dense sparse gaussian d=25"), 50_000, seed=0)
    across = np.corrcoef(x, z, rowvar=False)[:25, 25:]
    assert np.linalg.svd(across)[1][:3] == pytest.approx([0.8, 0.8, 0], abs=0.05)
    assert np.abs(across).max() < 0.5


def test_truths_of_gaussian_and_rotated_pairs_and_of_increasing_maps():
    plain = [p for p in family("gaussian") + family("rotated") if "d=50" not in p.name]
    mapped = [p for p in OWN if p.family in ("monotone", "scale") or "wiggly" in p.name]
    mapped += [p for p in family("multimodal") if "bimodal" in p.name]
    for problem in plain + mapped:
        samples = problems.draw(problem, 30_000 if problem in plain else 10_000, seed=0)
        nats = gaussian_nats(*(samples if problem in plain else map(normal_scores, samples)))
        assert nats == pytest.approx(problem.truth_nats, abs=0.05), problem.name


def test_draw_has_the_marginals_of_the_names():
    _, z = problems.draw(problems.find("bimodal d=1 rho=0.75"), 20_000, seed=0)
    assert np.mean(z < 0) == pytest.approx(0.3, abs=0.02)
    assert np.mean(np.abs(z) < 0.3) < 0.03
    x, _ = problems.draw(problems.find("one row at 1e6 d=5 I=2"), 1000, seed=0)
    assert (x == 1e6).all(axis=1).sum() == 1
    _, z = problems.draw(problems.find("z^3 d=5 I=2"), 20_000, seed=0)
    assert np.mean(z**2) == pytest.approx(15, rel=0.1)  # E g⁶


@pytest.mark.parametrize("d", [3, 5, 25])
def test_spiral_truth(d):
    x, z = problems.draw(problems.find(f"spiral sparse d={d}"), 50_000, seed=0)
    assert gaussian_nats(x, z) < 0.9  # correlations miss a part of it
    nats = gaussian_nats(rotate_back(x, 0, 1), rotate_back(z, 1, 2))
    assert nats == pytest.approx(-math.log(1 - 0.8**2), abs=0.02)


def test_swiss_roll_and_banana_truths():
    x, z = problems.draw(problems.find("swiss roll rho=0.75"), 50_000, seed=0)
    radius = np.linalg.norm(x, axis=1, keepdims=True)
    unrolled = (radius * 21 / (1.5 * math.pi) - 1) / 2
    assert 0 < unrolled.min() < unrolled.max() < 1
    value = gaussian_nats(special.ndtri(unrolled), special.ndtri(z))
    assert value == pytest.approx(-0.5 * math.log(1 - 0.75**2), abs=0.02)
    x, z = problems.draw(problems.find("banana d=2 I=2"), 50_000, seed=0)
    x, z = (np.stack([v[:, 0], v[:, 1] - v[:, 0] ** 2], axis=1) for v in (x, z))
    assert gaussian_nats(x, z[:, ::-1]) == pytest.approx(2, abs=0.03)


@pytest.mark.parametrize("problem", family("student-t"), ids=lambda problem: problem.name)
def test_student_t_truth(problem):
    words = dict(word.split("=") for word in problem.name.split() if "=" in word)
    nu, d, nats = int(words["nu"]), int(words["d"]), float(words.get("I_gauss", 0))
    rho = math.sqrt(1 - math.exp(-2 * nats / d))
    x, z = problems.draw(problem, 100_000, seed=0)
    assert agrees(student_t_pointwise(x, z, nu, rho), problem)
