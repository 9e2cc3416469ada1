"""The 40 tasks of Czyż et al. 2023: truths to two decimals, and by other computations."""

import re

import numpy as np
import pytest
from problem_checks import (
    ALL,
    agrees,
    gaussian_nats,
    normal_scores,
    problems,
    rotate_back,
    student_t_pointwise,
)
from scipy import special

BMI = {problem.name.removeprefix("bmi "): problem for problem in ALL if problem.benchmark == "bmi"}
PAIR, TWO_PAIRS = 0.41, 1.02
# To two decimals, as tables of results on these tasks print them.
TRUTHS = {
    "Bivariate normal 1 x 1": PAIR,
    "Normal CDF @ Bivariate normal 1 x 1": PAIR,
    "Uniform 1 x 1 (additive noise=0.1)": 1.71,
    "Uniform 1 x 1 (additive noise=0.75)": 0.33,
    "Bimodal 1 x 1": PAIR,
    "Wiggly @ Bivariate normal 1 x 1": PAIR,
    "Half-cube @ Bivariate normal 1 x 1": PAIR,
    "Swiss roll 2 x 1": PAIR,
    "Multinormal 2 x 2 (dense)": 0.29,
    "Multinormal 3 x 3 (dense)": 0.41,
    "Multinormal 5 x 5 (dense)": 0.59,
    "Multinormal 25 x 25 (dense)": 1.29,
    "Multinormal 50 x 50 (dense)": 1.62,
    **{f"Multinormal {d} x {d} (2-pair)": TWO_PAIRS for d in (2, 3, 5, 25)},
    **{
        f"{kind} @ Multinormal {d} x {d} (2-pair)": TWO_PAIRS
        for kind in ("Normal CDF", "Half-cube", "Spiral", "Spiral @ Normal CDF")
        for d in (3, 5, 25)
    },
    "Student-t 1 x 1 (dof=1)": 0.22,
    "Student-t 2 x 2 (dof=1)": 0.43,
    "Student-t 2 x 2 (dof=2)": 0.19,
    "Student-t 3 x 3 (dof=2)": 0.29,
    "Student-t 3 x 3 (dof=3)": 0.18,
    "Student-t 5 x 5 (dof=2)": 0.45,
    "Student-t 5 x 5 (dof=3)": 0.30,
    "Asinh @ Student-t 1 x 1 (dof=1)": 0.22,
    "Asinh @ Student-t 2 x 2 (dof=1)": 0.43,
    "Asinh @ Student-t 3 x 3 (dof=2)": 0.29,
    "Asinh @ Student-t 5 x 5 (dof=2)": 0.45,
}


def test_all_40_tasks_have_their_truths_and_shapes():
    assert len(TRUTHS) == 40
    assert {name: round(problem.truth_nats, 2) for name, problem in BMI.items()} == TRUTHS
    for name, problem in BMI.items():
        shapes = [side.shape for side in problems.draw(problem, 7, seed=0)]
        widths = re.search(r"(\d+) x (\d+)", name).groups()
        assert shapes == [(7, int(width)) for width in widths], name


@pytest.mark.parametrize(
    "name", [name for name in BMI if "@" not in name and "normal" in name.lower()]
)
def test_truths_of_gaussian_columns(name):
    x, z = problems.draw(BMI[name], 40_000, seed=0)
    assert gaussian_nats(x, z) == pytest.approx(BMI[name].truth_nats, abs=0.03)
    correlation = np.corrcoef(x, z, rowvar=False) - np.eye(2 * x.shape[1])
    if "dense" in name:  # two columns of one side are correlated like those of both
        outside = correlation[~np.eye(len(correlation), dtype=bool)]
        assert np.abs(outside - 0.5).max() < 0.03
    if "2-pair" in name:
        assert np.sort(np.abs(correlation), axis=None)[-4:] == pytest.approx([0.8] * 4, abs=0.01)


@pytest.mark.parametrize(
    "name", [name for name in BMI if re.search("CDF|Wiggly|Half-cube|Bimodal", name)]
)
def test_truths_of_increasing_maps_and_spirals_of_them(name):
    x, z = problems.draw(BMI[name], 40_000, seed=0)
    if "Spiral" in name:
        x, z = rotate_back(x, 0, 1), rotate_back(z, 1, 2)
    nats = gaussian_nats(normal_scores(x), normal_scores(z))
    assert nats == pytest.approx(BMI[name].truth_nats, abs=0.02)
    if "CDF" in name:
        assert 0 < x.min() < x.max() < 1


@pytest.mark.parametrize("d", [3, 5, 25])
def test_truths_of_spirals(d):
    x, z = problems.draw(BMI[f"Spiral @ Multinormal {d} x {d} (2-pair)"], 40_000, seed=0)
    nats = gaussian_nats(rotate_back(x, 0, 1), rotate_back(z, 1, 2))
    assert nats == pytest.approx(2 * 0.5 * np.log(1 / 0.36), abs=0.02)


def test_bimodal_marginals():
    x, z = problems.draw(BMI["Bimodal 1 x 1"], 40_000, seed=0)
    assert [x.mean(), z.mean()] == pytest.approx([0.7 * 5, 0.5 * (3 - 1)], abs=0.05)
    assert np.mean(x < 2.5) == pytest.approx(
        0.3 * special.ndtr(2.5) + 0.7 * special.ndtr(-2.5), abs=0.01
    )


@pytest.mark.parametrize("name", [name for name in BMI if "Student" in name])
def test_truths_of_student_t_columns(name):
    x, z = problems.draw(BMI[name], 100_000, seed=0)
    if "Asinh" in name:
        x, z = np.sinh(x), np.sinh(z)
    assert agrees(student_t_pointwise(x, z, int(name[-2])), BMI[name])
