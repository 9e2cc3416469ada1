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
OWN = [problem for problem in ALL if problem.benchmark == "own"]


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


def rotate_back(x, i, j):
    """Undo the rotation of the plane of columns i and j by the row's mean square."""
    angle = -np.sum(x * x, axis=1) / x.shape[1]
    plane = (x[:, i] + 1j * x[:, j]) * np.exp(1j * angle)
    x = x.copy()
    x[:, i], x[:, j] = plane.real, plane.imag
    return x


def student_t_pointwise(x, z, nu, rho=0.0):
    """Compute ln p(x, z) / (p(x) p(z)), (n,), of Student-t columns, each of x correlated to z's."""
    d = x.shape[1]
    marginal = stats.multivariate_t(shape=np.eye(d), df=nu)
    joint = stats.multivariate_t(shape=np.kron([[1, rho], [rho, 1]], np.eye(d)), df=nu)
    both = joint.logpdf(np.concatenate([x, z], axis=1))
    return both - marginal.logpdf(x) - marginal.logpdf(z)


def agrees(pointwise, problem):
    """Tell whether the mean of ln p(x, z) / (p(x) p(z)), (n,), is the truth within its error."""
    error = math.hypot(pointwise.std() / math.sqrt(len(pointwise)), problem.truth_stderr)
    return abs(pointwise.mean() - problem.truth_nats) < 4 * error and error < 0.02


def table_nats(joint):
    return special.rel_entr(joint, joint.sum(0) * joint.sum(1, keepdims=True)).sum()
