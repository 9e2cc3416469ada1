"""Tests of copies and of neighbors that are alike: what is found, and what is left alone."""

import numpy as np
import pytest
from scipy.signal import lfilter

from mine_jax.estimate.dependence import find_copies, neighbors_are_alike
from mine_jax.estimate.variables import read_variable

N = 2000
RNG = np.random.default_rng(0)
X = RNG.normal(size=N)
Z = 0.8 * X + 0.6 * RNG.normal(size=N)
CLASS = RNG.integers(0, 5, N)
COUNTS = RNG.poisson(3, (N, 3))
TENFOLD = np.repeat(np.arange(N // 10), 10)
SOME = np.r_[np.arange(N), np.arange(40)]  # 40 rows twice
ATOMS = np.where(RNG.random(N) < 0.3, RNG.choice([0, 1, -1, -999], N), X)


def significant(values, digits):
    return np.array([float(f"{value:.{digits}g}") for value in values])


def copies(x, z):
    return find_copies(read_variable(x, "x"), read_variable(z, "z"))


@pytest.mark.parametrize("rows", [TENFOLD, SOME, SOME[::-1], np.r_[np.arange(N), :5]])
@pytest.mark.parametrize(
    ("x", "z"),
    [
        (X, Z),
        (X, X > 0),
        (X > 0, X),
        (X.astype(np.float32), CLASS),
        (X.round(2), Z),
        (np.stack([CLASS, X], axis=1), X > 0),
        (RNG.normal(size=(N, 50)), CLASS),
        (RNG.normal(size=(N, 20)).round(1), CLASS),
        (RNG.integers(0, 256, (N, 8, 8)).astype(np.uint8), CLASS),
        (np.maximum(X, 0) - 0.0, Z),
    ],
)
def test_find_copies_are_the_rows_that_were_repeated(x, z, rows):
    found = copies(x[rows], z[rows])
    np.testing.assert_array_equal(found[:, None] == found, rows[:, None] == rows)


@pytest.mark.parametrize(
    ("x", "z"),
    [
        (CLASS, CLASS),
        (COUNTS, CLASS),
        (COUNTS, COUNTS.sum(axis=1) > 9),
        (COUNTS, COUNTS.sum(axis=1) / 7),
        (np.stack([COUNTS[:, 0], COUNTS[:, 0] ** 2], axis=1), COUNTS[:, 0] > 3),
        ((numbers := RNG.integers(0, 900, N)), numbers % 2),
        (numbers, 2.5 * numbers),
        (X.round(1), X > 0),
        (X.round(2), X > 0),
        (X.round(2), Z.round(2)),
        (X.round(3), 2 * X.round(3) + 1),
        (significant(X, 2), X > 0),
        (significant(np.exp(3 * X), 3), X > 0),
        (X.astype(np.float16), X > 0),
        (np.stack([X, Z], axis=1).round(1), X > 0),
        (RNG.normal([5, 3, 4, 1], [0.8, 0.4, 1.7, 0.7], (150, 4)).round(1), CLASS[:150]),
        (RNG.integers(1, 6, (N, 12)), CLASS > 2),
        (RNG.integers(0, 2, (N, 20)), X),
        (np.maximum(X, 0), X > 0),
        (np.maximum(RNG.normal(size=(N, 5)), 0), CLASS),
        (np.maximum(RNG.normal(size=(N, 5)) @ RNG.normal(size=(5, 40)) - 3, 0), CLASS),
        (ATOMS, ATOMS > 0),
        (ATOMS, np.where(RNG.random(N) < 0.5, 0, Z)),
        (np.where(RNG.random(200) < 0.08, 0, X[:200]), X[:200] > 0),
        (RNG.choice([0, 1, -999, 5, 7], (N, 6)), CLASS),
        (X[TENFOLD], Z),  # several z of one x
        (X[TENFOLD], (X[TENFOLD] > 0) ^ (RNG.random(N) < 0.1)),
        (X, Z),
        (np.ones((N, 3)), CLASS),
    ],
)
def test_find_copies_leaves_what_discrete_data_have_anyway(x, z):
    assert copies(x, z) is None


# --- Neighbors ------------------------------------------------------------------------------------


def series(rng, n, memory):
    """A stationary autoregressive series, (n,)."""
    return lfilter([1], [1, -memory], rng.normal(size=n + 100))[100:]


def alike(values):
    return neighbors_are_alike(read_variable(values), np.arange(len(values)))


def test_rows_that_share_an_atom_are_no_copies_though_others_are():
    """Rows of 0 and the same class are equal by chance; of other values they were repeated."""
    x, z = ATOMS[SOME], CLASS[SOME]
    found, at_atom = copies(x, z), np.isin(ATOMS, [0, 1, -1, -999])[SOME]
    same = found[:, None] == found
    np.testing.assert_array_equal(same[at_atom], np.eye(len(x), dtype=bool)[at_atom])
    rows = SOME[~at_atom]
    np.testing.assert_array_equal(same[~at_atom][:, ~at_atom], rows[:, None] == rows)


def test_neighbors_of_a_series_and_of_sorted_rows_are_alike():
    rng = np.random.default_rng(1)
    slow = series(rng, 500, 0.5)
    noise = rng.normal(size=(500, 300))
    wide = noise.copy()
    wide[:, :150] += 3 * series(rng, 500, 0.9)[:, None]
    for values in (
        slow,
        slow > 0,
        np.stack([noise[:, 0], slow], axis=1),
        np.exp(5 * slow),
        wide,
        wide[:, :256].reshape(500, 16, 16),
        np.sort(CLASS),
        np.sort(X),
        np.sort(np.maximum(X, 0)),
    ):
        assert alike(values)
        order = rng.permutation(len(values))
        assert not alike(values[order])
        # Only the given rows count.
        both = np.concatenate([values, values[order]])
        rows = len(values) + np.arange(len(values))
        assert not neighbors_are_alike(read_variable(both), rows)


def test_weak_or_rare_dependence_of_neighbors_is_no_alarm():
    rng = np.random.default_rng(2)
    assert not alike(series(rng, 100_000, 0.07))  # clear, but without consequence
    rare = np.zeros(1000, bool)
    rare[300:330] = True
    assert not alike(rare)
    assert not alike(np.ones((100, 2)))
    assert not alike(np.tile([0, 1], 500))


def test_neighbors_of_independent_rows_are_no_alarm():
    """0 in 2,500 data sets; 270,000 others gave none either."""
    rng = np.random.default_rng(3)
    for _ in range(250):
        normal = rng.normal(size=300)
        for values in (
            normal,
            rng.standard_cauchy(300),
            np.where(rng.random(300) < 0.8, 0, normal),
            rng.poisson(2, 300),
            np.maximum(rng.normal(size=(300, 4)), 0),
            np.cumsum(rng.normal(size=(300, 20)), axis=1),
        ):
            assert not alike(values)
        for labels in (rng.integers(0, 2, 300), rng.integers(0, 25, 300),
                       rng.random(300) < 0.2, np.minimum(rng.geometric(0.3, 300), 9)):  # fmt: skip
            assert not alike(labels)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e200, 1e-200, 0.0])
def test_neighbors_of_many_huge_or_tiny_columns_are_looked_at(scale):
    walk = np.cumsum(np.random.default_rng(0).normal(size=(300, 20)), axis=0)
    assert alike(scale * walk) == (scale > 0)
    assert not alike(scale * np.random.default_rng(1).permutation(walk))
