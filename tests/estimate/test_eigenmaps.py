"""Tests of eigenmaps: manifolds of known coordinates, clusters, equal rows and few rows."""

import numpy as np
import pytest
from scipy import stats
from scipy.sparse.linalg import ArpackNoConvergence

from mine_jax.estimate import eigenmaps as module
from mine_jax.estimate.eigenmaps import MAX_DENSE, NUM_EIGENMAPS, eigenmaps

N = 1000


def residual(coordinates, targets):
    """The share of the targets' variance that is not linear in the coordinates."""
    known = np.c_[coordinates, np.ones(len(coordinates))]
    left = targets - known @ np.linalg.lstsq(known, targets, rcond=None)[0]
    return left.var(axis=0).max() / targets.var(axis=0).min()


@pytest.mark.parametrize("n", [300, N])
def test_eigenmaps_first_coordinate_is_monotone_along_curves(n):
    """A segment, and a spiral sheet whose neighboring turns are close in space."""
    rng = np.random.default_rng(n)
    length, width = rng.uniform(size=(2, n))
    angle = 1.5 * np.pi * (1 + 2 * length)
    segment = np.c_[length, 2 * length]
    roll = np.c_[angle * np.cos(angle), 5 * width, angle * np.sin(angle)]
    for columns in (segment, roll):
        first = eigenmaps(columns.astype(np.float32))[:, 0]
        assert abs(stats.spearmanr(first, length)[0]) > 0.995


def test_eigenmaps_first_two_coordinates_span_a_circle_in_many_columns():
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * (rng.permutation(N) + rng.uniform(size=N)) / N
    circle = np.c_[np.cos(angle), np.sin(angle)]
    columns = circle @ rng.normal(size=(2, 30)) + 0.02 * rng.normal(size=(N, 30))
    coordinates = eigenmaps(columns)
    assert residual(coordinates[:, :2], circle) < 0.02
    assert residual(coordinates[:, 2:], circle) > 0.8


@pytest.mark.parametrize("n", [400, N])
def test_eigenmaps_of_clusters_are_points(n):
    """Also far apart, where no neighbor is in another cluster."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, n)
    for distance in (8.0, 1e4):
        columns = distance * np.eye(4)[labels] + rng.normal(size=(n, 4))
        coordinates = eigenmaps(columns)[:, :3]
        means = np.stack([coordinates[labels == i].mean(axis=0) for i in range(4)])
        assert np.abs(coordinates - means[labels]).max() < 0.2
        apart = np.linalg.norm(means[:, None] - means[None], axis=2)[np.triu_indices(4, 1)]
        assert apart.min() > 1.5


def test_eigenmaps_are_standardized_and_slowest_first():
    rng = np.random.default_rng(2)
    columns = rng.uniform(size=(N, 2)) * [10.0, 1.0]
    coordinates = eigenmaps(columns)
    assert coordinates.shape == (N, NUM_EIGENMAPS)
    assert coordinates.dtype == np.float32
    np.testing.assert_allclose(coordinates.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(coordinates.std(axis=0), 1, atol=1e-4)
    # Of a long strip the first coordinates are cos(π k length): k changes of sign.
    in_order = coordinates[np.argsort(columns[:, 0])]
    for k in range(3):
        smooth = np.convolve(in_order[:, k], np.full(50, 1 / 50), mode="valid")
        assert np.count_nonzero(np.diff(np.sign(smooth))) == k + 1


@pytest.mark.parametrize("n", [300, N])
def test_eigenmaps_are_a_function_of_the_rows_alone(n):
    """Not of their order, their scale, or what rounding does to them."""
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(n, 3)).astype(np.float32)
    coordinates = eigenmaps(columns)
    np.testing.assert_array_equal(eigenmaps(columns.copy()), coordinates)
    order = rng.permutation(n)
    assert residual(eigenmaps(columns[order]), coordinates[order]) < 1e-3
    for other in (1e-3 * columns, columns.astype(np.float64), columns + 7):
        assert residual(eigenmaps(other)[:, :3], coordinates[:, :3]) < 0.01


def test_eigenmaps_of_equal_rows_are_equal():
    """Sorted samples would tell their places if equal rows were neighbors in their order."""
    rng = np.random.default_rng(4)
    different = rng.normal(size=(40, 3)).astype(np.float32)
    which = np.sort(rng.integers(0, 40, N))
    coordinates = eigenmaps(different[which])
    assert coordinates.shape == (N, NUM_EIGENMAPS)
    for i in range(40):
        assert np.ptp(coordinates[which == i], axis=0).max() == 0
    rounding = 1 + 1e-7 * rng.integers(-1, 2, size=(N, 1))  # as of sums in another order
    coordinates = eigenmaps((different[which] * rounding).astype(np.float32))
    spread = [coordinates[which == i].std(axis=0).max() for i in range(40)]
    assert max(spread) < 0.2
    two = eigenmaps(np.repeat([[0.0, 1.0], [2.0, 3.0]], N // 2, axis=0))
    np.testing.assert_allclose(np.abs(two), np.ones((N, 1)), atol=1e-5)
    assert two[0, 0] * two[-1, 0] < 0
    np.testing.assert_array_equal(eigenmaps(np.full((N, 3), 0.1, np.float32)), np.zeros((N, 1)))


@pytest.mark.parametrize(
    ("n", "count", "width"), [(1, 20, 1), (2, 20, 1), (5, 20, 4), (22, 20, 20)]
)
def test_eigenmaps_of_few_rows(n, count, width):
    rng = np.random.default_rng(5)
    coordinates = eigenmaps(rng.normal(size=(n, 3)), 20)
    assert coordinates.shape == (n, width)
    assert np.isfinite(coordinates).all()


@pytest.mark.filterwarnings("error")
def test_eigenmaps_of_outliers_and_heaps_are_finite():
    """Rows far from all others, whose neighbors have far nearer ones."""
    rng = np.random.default_rng(6)
    for columns in (
        rng.standard_cauchy(size=(N, 5)),
        np.r_[np.zeros((N, 2)), [[1e6, 0], [0, -1e6]]],
        np.r_[1e-4 * rng.normal(size=(N, 2)), 1e3 * rng.normal(size=(5, 2))],
        rng.integers(0, 2, size=(N, 10)),
    ):
        assert np.isfinite(eigenmaps(columns.astype(np.float32))).all()


def test_eigenmaps_that_do_not_converge_are_fewer(monkeypatch):
    rng = np.random.default_rng(7)
    columns = rng.normal(size=(MAX_DENSE + 100, 3))
    full = eigenmaps(columns)
    eigsh = module.eigsh

    def stop(operator, count, **options):
        values, vectors = eigsh(operator, count, **options)
        last = slice(count - found, None)  # the largest eigenvalue is the last one
        raise ArpackNoConvergence("no convergence", values[last], vectors[:, last])

    monkeypatch.setattr(module, "eigsh", stop)
    for found in (3, 0):
        coordinates = eigenmaps(columns)
        expected = full[:, :found] if found else np.zeros((len(columns), 1))
        np.testing.assert_allclose(coordinates, expected, atol=1e-3)
