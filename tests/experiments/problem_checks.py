"""The problems with known truths, and what their tests share."""

import math
import sys

import numpy as np
from conftest import EXPERIMENTS
from scipy import special, stats

sys.path.insert(0, str(EXPERIMENTS))
try:
    import problems
    from problems import truths
finally:
    sys.path.remove(str(EXPERIMENTS))

truths.MONTE_CARLO_DRAWS = 200_000  # as many as the tests' errors allow
ALL = problems.problems()


def family(name):
    return [problem for problem in ALL if problem.family == name]


def gaussian_nats(x, z):
    """Estimate the mutual information of Gaussian samples by determinants of correlations."""
    d = x.shape[1]
    correlation = np.corrcoef(np.concatenate([x, z], axis=1), rowvar=False)
    parts = (correlation[:d, :d], correlation[d:, d:], correlation)
    x_part, z_part, joint = (np.linalg.slogdet(np.atleast_2d(part))[1] for part in parts)
    return 0.5 * (x_part + z_part - joint) - d**2 / 2 / len(x)  # without bias


def normal_scores(x):
    """Map each column to normal scores, which inverts any increasing map of normal columns."""
    return special.ndtri((stats.rankdata(x, axis=0) - 0.5) / len(x))


def agrees(pointwise, problem):
    """Tell whether the mean of ln p(x, z) / (p(x) p(z)), (n,), is the truth within its error."""
    error = math.hypot(pointwise.std() / math.sqrt(len(pointwise)), problem.truth_stderr)
    return abs(pointwise.mean() - problem.truth_nats) < 4 * error and error < 0.02


def table_nats(joint):
    return special.rel_entr(joint, joint.sum(0) * joint.sum(1, keepdims=True)).sum()
