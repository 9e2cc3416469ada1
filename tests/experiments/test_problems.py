"""Problems with known truths: the catalogue, and samples of each problem."""

import math

import numpy as np
import pytest
from problem_checks import ALL, OWN, family, problems
from problems import functions
from scipy import stats


def test_find_returns_each_problem_and_every_family_has_both_halves():
    assert all(problems.find(problem.name) is problem for problem in ALL)  # names are unique
    with pytest.raises(ValueError, match="no problem 'nonsense'"):
        problems.find("nonsense")
    assert not any("," in problem.name for problem in ALL)
    for name in {problem.family for problem in OWN}:
        assert {problem.held_out for problem in family(name)} == {True, False}, name
    assert all(problem.held_out for problem in ALL if problem.benchmark != "own")
    assert {problem.benchmark for problem in ALL} == set(problems.BENCHMARKS)


def test_problems_lists_without_monte_carlo(monkeypatch):
    monkeypatch.setattr(functions, "monte_carlo", lambda pointwise: 1 / 0)
    mixture = next(p for p in problems.problems.__wrapped__() if "mixture" in p.name)
    with pytest.raises(ZeroDivisionError):
        mixture.truth()


def test_draw_returns_paired_finite_samples_that_depend_on_the_seed_alone():
    for problem in ALL:
        x, z = problems.draw(problem, 10, seed=0)
        assert (x != problems.draw(problem, 10, seed=1)[0]).any(), problem.name
        for side, again in zip((x, z), problems.draw(problem, 10, seed=0), strict=True):
            assert (side == again).all(), problem.name
            assert len(side) == 10, problem.name
            assert side.dtype.kind in "if", problem.name
            assert np.isfinite(side).all(), problem.name


def test_independent_samples_are_uncorrelated():
    for problem in family("independent"):
        assert problem.truth() == (0, 0)
        x, z = problems.draw(problem, 4000, seed=0)
        ranks = [stats.rankdata(side.reshape(len(side), -1), axis=0) for side in (x, z)]
        ranks = [side[:, side.std(axis=0) > 0][:, :50] for side in ranks]
        width = ranks[0].shape[1]
        across = np.corrcoef(*ranks, rowvar=False)[:width, width:]
        assert np.abs(across).max() < 6 / math.sqrt(len(x)), problem.name
