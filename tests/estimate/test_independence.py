"""Tests of `independence_test`: exact p-values, what it finds, groups, and errors."""

import functools
import math

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy import stats

from mine_jax import MineConfig, independence_test, init
from mine_jax.estimate import independence
from mine_jax.estimate.splitting import Grouping
from mine_jax.estimate.variables import read_variable
from mine_jax.mine.checks import check_data
from mine_jax.mine.evaluation import score_groups

# A network that learned little, and is never T = 0, so that all its p-values are below 1.
QUICK = MineConfig(
    network="separable",
    hidden=8,
    features=4,
    batch_size=64,
    learning_rate=1e-2,
    check_every=10,
    max_steps=20,
    canonical_pairs=0,
    reported_state="last",
)
# A network that learns within seconds.
CONFIG = MineConfig(
    network="separable",
    hidden=16,
    features=8,
    batch_size=128,
    learning_rate=1e-2,
    check_every=25,
    max_steps=200,
)
PERMUTATIONS = 199
NUM_DATA_SETS = 200
KEY = jax.random.key(0)

pytestmark = pytest.mark.usefixtures("compile_fast")


@functools.cache
def null_p_values():
    """All p-values of independent samples, (data sets, 4): of the test, then of its parts."""
    p_values = []
    for seed in range(NUM_DATA_SETS):
        x, z = np.random.default_rng(seed).normal(size=(2, 60))
        test = independence_test(
            x, z, key=jax.random.key(seed), config=QUICK, permutations=PERMUTATIONS
        )
        p_values.append([test.p_value, test.correlation_p_value, *test.network_p_values])
    return np.array(p_values)


@functools.cache
def of_square():
    """A dependence without correlation."""
    x, noise = np.random.default_rng(0).normal(size=(2, 200))
    return independence_test(x, x**2 + noise, config=CONFIG, permutations=PERMUTATIONS)


# --- Validity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [1, 2, 3], ids=["correlations", "first half", "second half"])
def test_independence_test_parts_are_uniform_for_independent_samples(part):
    assert stats.kstest(null_p_values()[:, part], "uniform").pvalue > 0.01


@pytest.mark.parametrize("level", [0.05, 0.1, 0.2, 0.5])
def test_independence_test_rejects_independent_samples_as_rarely_as_it_says(level):
    rejected = np.count_nonzero(null_p_values()[:, 0] <= level)
    assert stats.binomtest(rejected, NUM_DATA_SETS, level, "greater").pvalue > 0.01
    # Three parts share the level, which costs little of it.
    assert rejected > 0.4 * level * NUM_DATA_SETS


def test_independence_test_combines_its_parts_by_bonferroni():
    p_values = null_p_values()
    factors = np.array([2, 4, 4])
    expected = np.minimum(1, (factors * p_values[:, 1:]).min(axis=1))
    np.testing.assert_allclose(p_values[:, 0], expected)


# --- Power ----------------------------------------------------------------------------------------


def test_independence_test_finds_a_dependence_without_correlation():
    test = of_square()
    assert test.p_value == pytest.approx(4 / (1 + PERMUTATIONS))
    assert max(test.network_p_values) < 0.05 < test.correlation_p_value
    assert test.statistic > 0.1
    assert (test.permutations, test.encoders, test.warnings) == (PERMUTATIONS, ("given",) * 2, ())


def test_independence_test_is_the_same_for_the_same_key_alone():
    x, noise = np.random.default_rng(0).normal(size=(2, 200))
    same, other = (
        independence_test(
            x, x**2 + noise, key=jax.random.key(seed), config=CONFIG, permutations=PERMUTATIONS
        )
        for seed in (0, 1)
    )
    assert same == of_square()
    assert other.statistic != same.statistic


@pytest.mark.parametrize("rho", [0.0, 0.15, 0.25])
def test_correlation_p_value_of_one_column_is_that_of_its_correlation(rho):
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=(2, 200))
    x, z = (stats.zscore(side)[:, None] for side in (x, rho * x + noise))
    rows = [np.arange(200)[:, None]]
    found = independence._p_value(*independence._correlation_sums(x, z, rows, 999, rng))
    expected = stats.pearsonr(x[:, 0], z[:, 0]).pvalue
    error = math.sqrt(expected * (1 - expected) / 999)  # of the share of permutations
    assert found == pytest.approx(expected, abs=4 * error + 0.01)


def test_independence_test_of_a_constant_is_one():
    x = np.random.default_rng(2).normal(size=200)
    test = independence_test(x, np.ones(200), config=CONFIG, permutations=PERMUTATIONS)
    assert test[:4] == (1.0, 0.0, 1.0, (1.0, 1.0))


def test_independence_test_of_labels_finds_classes_of_one_mean():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 200)
    x = rng.normal(size=200) * (1 + 2 * labels)
    test = independence_test(x, labels, config=CONFIG, permutations=PERMUTATIONS)
    swapped = independence_test(labels, x, config=CONFIG, permutations=PERMUTATIONS)
    assert test.p_value == swapped.p_value == pytest.approx(4 / (1 + PERMUTATIONS))


# --- Parts ----------------------------------------------------------------------------------------


class Product(nn.Module):
    """T = 3 x z + x, written as a module of the caller."""

    @nn.compact
    def __call__(self, x, z):
        """Compute T(x_i, z_i), (n,)."""
        factor = self.param("factor", nn.initializers.constant(3.0), ())
        return factor * x[:, 0] * z[:, 0] + x[:, 0]


@pytest.mark.parametrize("size", [1, 3])
def test_score_groups_sums_scores_over_places(size):
    x, z = np.random.default_rng(4).normal(size=(2, 60, 1)).astype(np.float32)
    config = MineConfig(network=Product())
    data = check_data(x, z)
    state = init(KEY, x, z, config)
    rows = np.random.default_rng(5).permutation(60)[: 12 * size].reshape(12, size)
    expected = sum(
        3 * x[place] * z[place].T + x[place]
        for place in rows.T  # (groups, groups)
    )
    found = score_groups(state, data, 0, rows, config)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_p_value_counts_ties_against():
    assert independence._p_value(1.0, np.array([0.0, 1.0, 2.0, 0.5])) == 3 / 5
    assert independence._p_value(0.0, np.zeros(99)) == 1
    assert independence._p_value(5.0, np.arange(5.0)) == 1 / 6


def test_white_columns_are_uncorrelated_and_near_their_own():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(500, 3)) + 0.5 * rng.normal(size=(500, 1))
    white = independence._white_columns(read_variable(x), "x")
    covariance = white.T @ white / len(white)
    np.testing.assert_allclose(covariance, np.eye(3), atol=0.05)
    correlations = np.corrcoef(white.T, x.T)[:3, 3:]
    assert np.diag(correlations).min() > 0.95
    wide = independence._white_columns(read_variable(rng.normal(size=(500, 40))), "x")
    assert wide.shape == (500, independence.MAX_CORRELATED)


# --- Groups ---------------------------------------------------------------------------------------


def test_independence_test_of_groups_is_valid_where_rows_are_not_independent():
    """Nine tenths of the variance of either side is the group's."""
    codes = np.repeat(np.arange(15), 4)
    grouped, alone = [], []
    for seed in range(100):  # as many rows as above, so that nothing is compiled again
        rng = np.random.default_rng(seed)
        x, z = rng.normal(size=(2, 15))[:, codes] + 0.3 * rng.normal(size=(2, 60))
        for found, groups in ((grouped, codes), (alone, None)):
            test = independence_test(x, z, config=QUICK, groups=groups, permutations=PERMUTATIONS)
            found.append([test.correlation_p_value, *test.network_p_values])
    grouped, alone = np.array(grouped), np.array(alone)
    for part in range(3):
        assert stats.kstest(grouped[:, part], "uniform").pvalue > 0.01
    assert np.mean(alone[:, 0] < 0.05) > 0.15


def test_independence_test_of_blocks_finds_what_a_series_shares():
    x, noise = np.random.default_rng(7).normal(size=(2, 200))
    test = independence_test(x, x + noise, config=QUICK, blocks=20, permutations=PERMUTATIONS)
    assert test.correlation_p_value == 1 / (1 + PERMUTATIONS)
    assert max(test.network_p_values) < 0.05


def test_independence_test_of_a_series_warns_without_blocks():
    steps = np.random.default_rng(8).normal(size=(2, 200)).cumsum(axis=1)
    (warning,) = independence_test(*steps, config=QUICK, permutations=PERMUTATIONS).warnings
    assert "the p-value is too small without blocks=20" in warning


def test_exchangeable_groups_have_one_size_each_and_keep_their_order():
    codes = np.array([0, 1, 1, 2, 0, 3, 4, 4, 5])
    grouping = Grouping(codes, np.empty(0, int), 0)
    single, double = independence._exchangeable(np.arange(9)[::-1], grouping)
    np.testing.assert_array_equal(np.sort(single.ravel()), [3, 5, 8])
    assert sorted(map(sorted, double.tolist())) == [[0, 4], [1, 2], [6, 7]]
    alone = independence._exchangeable(np.array([3, 1, 2]), None)
    np.testing.assert_array_equal(alone, [[[3], [1], [2]]])


def test_exchangeable_blocks_are_cut_to_one_length_away_from_their_ends():
    boundaries = np.array([10, 21, 31])  # blocks of 10, 11, 10 and 9 rows
    codes = np.searchsorted(boundaries, np.arange(40), side="right")
    (rows,) = independence._exchangeable(np.arange(40), Grouping(codes, boundaries, 2))
    np.testing.assert_array_equal(rows, np.array([[0], [10], [21], [31]]) + np.arange(2, 7))


def test_check_orders_warns_if_most_rows_keep_their_place():
    sizes = np.array([1] * 20 + list(range(10, 20)))
    grouping = Grouping(np.repeat(np.arange(len(sizes)), sizes), np.empty(0, int), 0)
    half = independence._exchangeable(np.arange(sizes.sum()), grouping)
    (warning,) = independence._check_orders([half, half], 2 * sizes.sum())
    assert "290 of 330 rows keep their place" in warning
    assert independence._check_orders([half[:1], half], 600) == ()


# --- Errors ---------------------------------------------------------------------------------------

X = np.random.default_rng(10).normal(size=120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"permutations": 98}, "at least 99 and .*, got 98: the smallest p-value is 4 /"),
        ({"permutations": 200.0}, r"at least 99 and .*, got 200\.0"),
        ({"permutations": True}, "at least 99 and .*, got True"),
        ({"groups": np.arange(120) // 12}, "too few ways.*there are 5 of 12 rows"),
        ({"groups": np.repeat(np.arange(15), np.arange(1, 16))}, "too few ways"),
        ({"blocks": 8}, "too few ways"),
        ({"z": X[:-1]}, "same number of samples"),
    ],
)
def test_independence_test_bad_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        independence_test(**{"x": X, "z": X, "config": QUICK} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": 0}, r"independence_test\(key=…\) takes a PRNG key"),
        ({"config": {}}, "config must be a MineConfig"),
        ({"z": {"a": X}}, "test the arrays of a mapping one by one"),
        ({"x": {"a": X}}, "test the arrays of a mapping one by one"),
    ],
)
def test_independence_test_bad_types_are_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        independence_test(**{"x": X, "z": X} | arguments)
