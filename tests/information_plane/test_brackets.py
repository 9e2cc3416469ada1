"""Two-sided references: definitions in NumPy, closed forms, and the order of the sides."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.special import logsumexp

from mine_jax.information_plane import brackets

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(100)  # of expectations over N(0, 1)


def expectation(function):
    return float(function(NODES) @ WEIGHTS / WEIGHTS.sum())


def bracket(layer, sigma, labels=None, draws=1, seed=0):
    """The bracket of a layer over all images, `draws` draws of the noise of each."""
    rows = np.tile(np.arange(len(layer)), draws)
    noise = sigma * np.random.default_rng([seed, 1]).normal(size=(len(rows), layer.shape[1]))
    centered = np.float32(layer - layer.mean(axis=0))
    return brackets.bracket(centered, np.float32(noise), sigma, labels, rows)


def influences(layer, noise, sigma, labels, rows):
    """The definitions, image by image in float64: low and high of X, low and high of Y."""
    n, sides = len(layer), []
    fractions = np.unique(labels, return_counts=True)[1] / n
    entropy = -np.sum(fractions * np.log(fractions))
    for i, added in zip(rows, noise, strict=True):
        logs = -np.sum((layer[i] + added - layer.astype(float)) ** 2, axis=1) / (2 * sigma**2)
        same, others = labels == labels[i], np.arange(n) != i
        each = [
            logs[i] - (logsumexp(logs) - math.log(n)),
            logs[i] - (logsumexp(logs[others]) - math.log(n - 1)),
            entropy + logsumexp(logs[others], b=same[others]) - logsumexp(logs[others]),
            entropy + logsumexp(logs, b=same) - logsumexp(logs),
        ]
        sides.append(each)
    return np.transpose(sides)


def test_bracket_equals_definitions_of_few_images(monkeypatch):
    monkeypatch.setattr(brackets, "BLOCK_ROWS", 3)  # the second block repeats rows of the first
    rng = np.random.default_rng(0)
    layer, rows = rng.normal(size=(7, 2)).astype(np.float32), np.array([4, 0, 6, 2])
    noise = 0.5 * rng.normal(size=(4, 2)).astype(np.float32)
    labels = np.array([9, 4, 9, 4, 4, 4, 9])
    got = brackets.bracket(layer, noise, 0.5, labels, rows)
    for side, expected in zip(got, influences(layer, noise, 0.5, labels, rows), strict=True):
        np.testing.assert_allclose(side.influence, expected, atol=1e-5)
        assert side.nats == pytest.approx(expected.mean(), abs=1e-5)
        assert side.stderr == pytest.approx(expected.std(ddof=1) / 2, rel=1e-4)
    alone = brackets.bracket(layer, noise, 0.5, None, rows)
    assert (alone.x_low.nats, alone.x_high.nats) == (got.x_low.nats, got.x_high.nats)
    assert alone.y_low is alone.y_high is None
    # A class of one image: no other image shows what it looks like, though it is not a row.
    labels[1] = 5
    got = brackets.bracket(layer, noise, 0.5, labels, rows)
    assert got.y_low is None
    expected = influences(layer, noise, 0.5, labels, rows)[3]
    np.testing.assert_allclose(got.y_high.influence, expected, atol=1e-5)


def test_bracket_two_images_are_a_binary_channel():
    # Images at ±a: ln w_1/w_2 is the log ratio of N(±a, σ²), with mean 2a²/σ² = 2 and variance 4.
    got = bracket(np.array([[1.0], [-1.0]]), 1.0, np.array([0, 1]), draws=20_000)
    low = math.log(2) - expectation(lambda e: np.logaddexp(0, -2 - 2 * e))
    for side, exact in ((got.x_low, low), (got.x_high, 2.0), (got.y_high, low)):
        assert side.stderr < 0.02
        assert abs(side.nats - exact) < 4 * side.stderr


@pytest.mark.parametrize(
    ("dims", "sigma", "apart"), [(1, 0.3, False), (6, 0.5, True), (20, 1.0, True)]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bracket_encloses_the_value_of_gaussian_layers(dims, sigma, apart, seed):
    layer = np.random.default_rng(seed).normal(size=(2000, dims))
    truth = dims / 2 * math.log1p(1 / sigma**2)
    low, high, *_ = bracket(layer, sigma, seed=seed)
    assert low.nats < truth + 3 * low.stderr
    assert high.nats > truth - 3 * high.stderr
    if apart:  # so that the wrong side would be on the wrong side
        assert low.nats + 2 * low.stderr < truth < high.nats - 2 * high.stderr
    else:
        assert high.nats - low.nats < 0.02


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bracket_encloses_the_value_of_gaussian_classes(seed):
    # Classes at ±1 in the first of eight columns, whose others tell nothing.
    rng, sigma = np.random.default_rng(seed), 0.5
    labels = np.arange(1000) % 2
    layer = rng.normal(size=(1000, 8))
    layer[:, 0] += 2 * labels - 1
    spread = math.sqrt(1 + sigma**2)
    truth = math.log(2) - expectation(lambda e: np.logaddexp(0, -2 * (1 + spread * e) / spread**2))
    got = bracket(layer, sigma, labels, seed=seed)
    assert got.y_low.nats + 2 * got.y_low.stderr < truth < got.y_high.nats - 2 * got.y_high.stderr
    # Classes far apart beside the spread within them: both sides find the whole label.
    layer[:, 0] += 30 * (2 * labels - 1)
    for side in bracket(layer, sigma, labels)[2:]:
        assert side.nats == pytest.approx(math.log(2), abs=1e-4)


def test_bracket_images_far_apart_are_all_told_apart():
    got = bracket(100 * np.eye(3), 1.0, draws=4)
    assert got.x_low.nats == pytest.approx(math.log(3), abs=1e-5)
    # The mean divergence of one image from another: d²/2σ², the high side has no limit.
    assert got.x_high.nats == pytest.approx(100**2, rel=0.1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "not finite in row 5"),
        (np.inf, "not finite in row 5"),
        (1e8, r"σ = 0\.5 is lost"),
    ],
)
def test_bracket_value_that_it_cannot_take_is_named(value, message):
    layer = np.zeros((9, 2), np.float32)
    layer[5, 1] = value
    with pytest.raises(ValueError, match=f"{message}|conv7 has") as error:
        brackets.bracket(layer, layer[:2], 0.5, None, np.arange(2), "conv7")
    assert "conv7" in str(error.value)


def test_bracket_nearly_dead_layer_far_from_zero_keeps_its_digits():
    """Units that only two images use: their squares, in units of the noise, exceed float32."""
    rng = np.random.default_rng(0)
    layer = np.zeros((50, 2), np.float32)
    layer[:2] = 4000, 4001
    layer[1, 1] += 1
    labels, rows = np.arange(50) % 2, np.arange(50)
    noise = rng.normal(size=(50, 2)).astype(np.float32)
    got = brackets.bracket(layer, noise, 1.0, labels, rows)
    # Seen from image 0, image 1 is one unit away and the other 48 are out of sight.
    weight = math.exp(noise[0, 1] - 0.5)
    assert got.x_low.influence[0] == pytest.approx(math.log(50 / (1 + weight)), abs=1e-4)
    assert got.x_low.influence[5] == pytest.approx(math.log(50 / 48), abs=1e-4)


@hypothesis.given(
    st.lists(st.floats(-3, 3, width=16), min_size=12, max_size=12),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
    st.sampled_from([0.1, 0.5, 2.0]),
)
def test_bracket_sides_are_in_order(values, labels, sigma):
    labels = np.array(labels)
    got = bracket(np.reshape(values, (6, 2)), sigma, labels, draws=200)
    assert got.x_low.nats + 3 * got.x_low.stderr > -1e-5
    assert got.x_low.influence.max() < math.log(6) + 1e-5
    # Of X on average over the noise, of Y for each draw.
    difference = got.x_high.influence - got.x_low.influence
    assert difference.mean() > -4 * difference.std() / math.sqrt(difference.size) - 1e-5
    if got.y_low is not None:
        assert np.all(got.y_high.influence - got.y_low.influence > -1e-5)
        fractions = np.unique(labels, return_counts=True)[1] / 6
        assert got.y_high.influence.max() < -np.sum(fractions * np.log(fractions)) + 1e-5


def test_gaussian_bound_is_exact_for_gaussian_layers_and_rises_where_less_is_known():
    variances, noise = np.array([4.0, 2.0, 0.5, 0.5, 0.1]), 0.3
    covariance = np.diag(variances)
    exact = np.linalg.slogdet(np.eye(5) + covariance / noise)[1] / 2
    bounds = [
        brackets.gaussian_bound(variances[:kept], noise, variances[kept:].sum(), 5 - kept)
        for kept in range(5, -1, -1)
    ]
    assert bounds[0] == pytest.approx(exact)
    # One axis that is left out is known by its variance.
    assert bounds[1] == pytest.approx(exact)
    assert np.all(np.diff(bounds[1:]) > 0)
    equal = brackets.gaussian_bound(np.full(2, 0.5), noise, 1.5, 3)
    assert equal == pytest.approx(5 / 2 * math.log1p(0.5 / noise))
    # Variances that rounding made negative tell nothing.
    assert brackets.gaussian_bound(np.array([-1e-9]), noise, -1e-9, 1) == 0
    # Two images are no Gaussian: at most ln 2, whatever their variance.
    two = bracket(np.array([[3.0], [-3.0]]), 1.0, draws=100)
    assert two.x_low.nats < brackets.gaussian_bound(np.array([9.0]), 1.0, 0.0, 0)
