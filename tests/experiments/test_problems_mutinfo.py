"""The families of mutinfo: each truth against another computation."""

import math

import numpy as np
import pytest
from problem_checks import agrees, gaussian_nats, problems, table_nats
from problems import mutinfo
from problems.truths import student_t_nats
from scipy import special, stats

NAMES = [problem.name for problem in problems.problems() if problem.benchmark == "mutinfo"]


def of_family(name, **words):
    parts = [f"{key}={value}" for key, value in words.items()]
    return [full for full in NAMES if name in full and set(parts) <= set(full.split())]


def value(name, key):
    return float(next(word for word in name.split() if word.startswith(key + "=")).split("=")[1])


def samples_of(name, n=20_000, seed=0):
    problem = problems.find(name)
    assert problem.truth_nats == value(name, "I")
    x, z = problems.draw(problem, n, seed)
    assert x.shape == z.shape == (n, value(name, "d"))
    return problem, x, z


def test_seven_families_of_one_to_three_columns_up_to_six_nats():
    assert len(NAMES) == 6 * 3 * 5 + 2 * 3 * 4
    assert len({problems.find(name).family for name in NAMES}) == 7
    assert {value(name, "I") for name in NAMES} == {0, 1, 2, 4, 6}
    assert not of_family("student", I=0)


@pytest.mark.parametrize("name", of_family("correlated normal") + of_family("correlated uniform"))
def test_normal_and_uniform_truths(name):
    problem, x, z = samples_of(name)
    if "uniform" in name:
        x, z = special.ndtri(x), special.ndtri(z)
    assert gaussian_nats(x, z) == pytest.approx(problem.truth_nats, abs=0.05)
    assert np.abs(np.corrcoef(x, rowvar=False) - np.eye(x.shape[1])).max() < 0.04 or x.shape[1] == 1


def test_nats_are_divided_anew_for_each_set_of_samples():
    larger = []
    for seed in range(60):
        _, x, z = samples_of("mutinfo correlated normal d=2 I=2", 2000, seed)
        axes = [np.linalg.qr(side - side.mean(axis=0))[0] for side in (x, z)]
        canonical = np.linalg.svd(axes[0].T @ axes[1])[1]
        larger.append(-0.5 * np.log1p(-(canonical[0] ** 2)))
    # The larger part of a uniform division is uniform from one half of the nats to all of them.
    assert stats.kstest(larger, stats.uniform(1, 1).cdf).pvalue > 0.01


def tyler_shape(values, steps=40):
    """Estimate the dispersion of elliptical samples up to a factor (Tyler 1987)."""
    shape = np.eye(values.shape[1])
    for _ in range(steps):
        weights = 1 / np.einsum("ni,ij,nj->n", values, np.linalg.inv(shape), values)
        shape = (values * weights[:, None]).T @ values / weights.sum()
    return shape


@pytest.mark.parametrize("name", of_family("correlated student"))
def test_student_t_truths(name):
    problem, x, z = samples_of(name)
    d, nu = x.shape[1], value(name, "nu")
    shape = tyler_shape(np.concatenate([x, z], axis=1))
    x_part, z_part, joint = (
        np.linalg.slogdet(part)[1] for part in (shape[:d, :d], shape[d:, d:], shape)
    )
    nats = 0.5 * (x_part + z_part - joint) + student_t_nats(nu, d)
    assert nats == pytest.approx(problem.truth_nats, abs=0.06)
    tail = stats.t(nu).sf(3)
    assert np.mean(x[:, 0] > 3) == pytest.approx(tail, abs=4 * math.sqrt(tail / len(x)))


@pytest.mark.parametrize("name", of_family("log-gamma", d=1))
def test_log_gamma_truths(name):
    problem, x, z = samples_of(name, 40_000)
    if not problem.truth_nats:
        assert abs(np.corrcoef(x[:, 0], z[:, 0])[0, 1]) < 0.02
        return
    shape = mutinfo.gamma_shape(problem.truth_nats)
    x, z = x[:, 0], z[:, 0]
    assert stats.kstest(x + special.digamma(shape), stats.loggamma(shape).cdf).pvalue > 1e-3
    # Given x, e^(x + z) is exponential; an exponential over a gamma variable is a Lomax variable.
    given = x + z - np.exp(x + z)
    ratio = z - special.digamma(shape)
    marginal = math.log(shape) + ratio - (shape + 1) * np.logaddexp(0, ratio)
    assert agrees(given - marginal, problem)


@pytest.mark.parametrize("name", of_family("smoothed uniform", d=1))
def test_smoothed_uniform_truths(name):
    problem, x, z = samples_of(name)
    signal = float(mutinfo.uniform_signal(problem.truth_nats))
    noise = (z - min(signal, 1) * x) * max(signal, 1)
    assert stats.kstest(noise[:, 0], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(x[:, 0], noise[:, 0])[0, 1]) < 0.03
    # The sum of uniform variables has a trapezoid for a density: ln of its width, and the sides.
    wide, narrow = max(signal, 1), min(signal, 1)
    entropy = math.log(wide) + narrow / (2 * wide)
    assert entropy == pytest.approx(problem.truth_nats)


@pytest.mark.parametrize("name", of_family("quantized"))
def test_quantized_truths(name):
    problem, x, z = samples_of(name)
    assert z.dtype.kind == "i"
    if not problem.truth_nats:
        table = np.histogram2d(x[:, 0] > 0, z[:, 0], bins=2)[0] / len(x)
        assert table_nats(table) < 1e-3
        return
    total = 0
    for column in range(x.shape[1]):
        order = np.argsort(x[:, column])
        assert (np.diff(z[order, column]) >= 0).all()  # a label is an interval
        shares = np.bincount(z[:, column]) / len(z)
        total += special.entr(shares).sum() + (np.count_nonzero(shares) - 1) / 2 / len(z)
    assert total == pytest.approx(problem.truth_nats, abs=0.02)


@pytest.mark.parametrize("name", of_family("smoothed discrete"))
def test_smoothed_label_truths(name):
    problem, x, z = samples_of(name)
    if not problem.truth_nats:
        assert abs(np.corrcoef(x[:, 0], z[:, 0])[0, 1]) < 0.03
        return
    labels, width = mutinfo.label_noise(problem.truth_nats / x.shape[1])
    x, z = np.rint(x * (labels - 1)), z * (labels - 1 + width)
    assert 0 < (z - x).min() < (z - x).max() < width
    # Each integer within the noise's width below the sum is equally likely to be the label.
    candidates = np.minimum(np.floor(z), labels - 1) - np.maximum(np.ceil(z - width), 0) + 1
    assert agrees((math.log(labels) - np.log(candidates)).sum(axis=1), problem)
