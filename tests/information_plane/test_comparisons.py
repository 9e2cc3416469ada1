"""Values as in the literature: against closed forms and definitions."""

import math

import numpy as np
import pytest

from mine_jax.information_plane import comparisons

FUNCTIONS = {
    "bins": comparisons.bins,
    "pairwise_distances": lambda *pair: comparisons.pairwise_distances(*pair, 0.5),
}


def test_bins_are_equal_between_the_smallest_and_the_largest_activation_of_the_layer():
    # Of 4 bins in [0, 8]: (0, 3), (0, 3), (1, 3), (1, 0) in two units.
    activations = np.array([[0.0, 8.0], [1.9, 6.1], [2.1, 7.0], [3.9, 0.5]])
    x_nats, y_nats = comparisons.bins(activations, [0, 0, 0, 1], num_bins=4)
    assert x_nats == pytest.approx(1.5 * math.log(2))  # cells with 2, 1 and 1 inputs
    of_class_0 = math.log(3) - 2 / 3 * math.log(2)
    assert y_nats == pytest.approx(1.5 * math.log(2) - 3 / 4 * of_class_0)


@pytest.mark.parametrize("num_bins", [30, 1000])
def test_bins_of_known_cells(num_bins):
    labels = np.repeat(["a", "b", "c"], [10, 20, 30])
    h_y = -sum(p * math.log(p) for p in (1 / 6, 1 / 3, 1 / 2))
    by_class = np.zeros((60, 2, 3), np.float32)
    by_class[:, 1, 2] = np.repeat([0.0, 0.5, 1.0], [10, 20, 30])
    different = np.linspace(-1, 1, num_bins, dtype=np.float32)[:, None]
    for activations, classes, expected in (
        (np.full((60, 5), 7.0), labels, (0, 0)),
        (by_class, labels, (h_y, h_y)),  # the labels determine the cell, and the cell the label
        (different, np.arange(num_bins) % 2, (math.log(num_bins), math.log(2))),
    ):
        assert comparisons.bins(activations, classes, num_bins) == pytest.approx(expected)


def test_pairwise_distances_of_two_points():
    # |l_0 − l_1|² = 0.6² + 0.8², far from 0: the squares must not cancel.
    activations = np.array([[100.0, 200.0], [100.6, 200.8]], np.float32)
    expected = -math.log((1 + math.exp(-1 / (2 * 0.7**2))) / 2)
    x_nats, y_nats = comparisons.pairwise_distances(activations, [3, 9], 0.7)
    assert (x_nats, y_nats) == pytest.approx((expected, expected), rel=1e-4)
    x_nats, y_nats = comparisons.pairwise_distances(activations, [3, 3], 0.7)
    assert (x_nats, y_nats) == pytest.approx((expected, 0), rel=1e-4)


@pytest.mark.parametrize(("n", "std"), [(50, 0.8), (50, 1e-4), (1100, 1.5)])
def test_pairwise_distances_equal_their_definition(n, std):
    # In float32 and in float64 (norms of 10⁴ times the noise); in one block and in two.
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(n, 3)) + 5
    activations[1] = activations[0] + 1e-4  # near neighbors
    labels = rng.integers(0, 4, n)

    def entropy(points):
        squares = np.square(points[:, None] - points[None]).sum(axis=2)
        return -np.mean(np.log(np.mean(np.exp(-squares / (2 * std**2)), axis=1)))

    x_nats = entropy(activations)
    within = sum(np.mean(labels == k) * entropy(activations[labels == k]) for k in range(4))
    measured = comparisons.pairwise_distances(activations.reshape(n, 3, 1), labels, std)
    assert measured == pytest.approx((x_nats, x_nats - within), rel=1e-5)


def test_pairwise_distances_of_equal_and_of_far_points():
    equal, far = np.full((40, 3), 0.1), np.random.default_rng(0).normal(scale=3, size=(40, 50))
    labels = np.arange(40) % 4
    assert comparisons.pairwise_distances(equal, labels, 0.1) == (0, 0)
    expected = math.log(40), math.log(4)
    for std in (0.1, 1e-5):  # in float32 and in float64
        measured = comparisons.pairwise_distances(far, labels, std)
        assert measured == pytest.approx(expected, abs=1e-9)  # a point is at distance 0 from itself


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("activations", "labels", "message"),
    [
        ([[0.0], [np.nan]], [0, 1], "activations must be finite, got nan"),
        ([[1j], [2j]], [0, 1], "real numbers, got complex128"),
        (np.zeros((1, 3)), [0], r"n >= 2 and units, got shape \(1, 3\)"),
        (np.zeros((2, 0)), [0, 1], r"got shape \(2, 0\)"),
        (np.zeros((2, 3)), [0, 1, 2], r"labels must be \(2,\).* got shape \(3,\)"),
        (np.zeros((2, 3)), [0.0, np.inf], "labels must be finite, got inf"),
    ],
)
def test_comparisons_of_invalid_data_raise(name, activations, labels, message):
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name](activations, labels)


def test_comparisons_of_invalid_settings_raise():
    data = np.array([[0.0], [1.0]]), [0, 1]
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        comparisons.bins(*data, num_bins=0)
    for std in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"noise_std .* got {std}"):
            comparisons.pairwise_distances(*data, std)
    with pytest.raises(ValueError, match=r"noise_std 2e-08 is lost .* are 25000000\.0 times"):
        comparisons.pairwise_distances(*data, 2e-8)
