"""Known mutual information: against quadrature, definitions in float64, limits and invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import gaussian
from hypothesis import given
from hypothesis import strategies as st

from mine_jax.information_plane import exact

KEY = jax.random.key(0)


def rng(seed):
    return np.random.default_rng(seed)


# ---- Gaussian pairs ------------------------------------------------------------------------------


@given(nats=st.floats(0.0, 12.0), dims=st.integers(1, 50))
def test_correlation_gives_the_mutual_information(nats, dims):
    rho = exact.correlation(nats, dims)
    assert gaussian([rho] * dims) == pytest.approx(nats, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("nats", "dims", "message"),
    [
        (-0.1, 2, r"nats .* got -0\.1"),
        (np.inf, 2, r"nats .* got inf"),
        (1.0, 0, r"dims .* got 0"),
        (40.0, 2, r"40\.0 nats in 2 pairs"),
    ],
)
def test_correlation_of_invalid_arguments_raises(nats, dims, message):
    with pytest.raises(ValueError, match=message):
        exact.correlation(nats, dims)


# ---- Layers observed with noise ------------------------------------------------------------------


def density(t, points, std):
    bumps = np.exp(-0.5 * np.square((t[:, None] - points[None, :]) / std))
    return bumps.mean(axis=1) / (std * np.sqrt(2 * np.pi))


def differential_entropy(points, std):
    """Of a one-dimensional mixture; the trapezoid rule is exact to rounding for such functions."""
    t = np.linspace(points.min() - 12 * std, points.max() + 12 * std, 40_001)
    p = np.maximum(density(t, points, std), 1e-300)
    return np.trapezoid(-p * np.log(p), t)


def quadrature(points, std, labels):
    """I(X; T) and I(Y; T) of a one-dimensional layer, as differences of entropies."""
    points, labels = np.asarray(points, float), np.asarray(labels)
    whole = differential_entropy(points, std)
    classes, counts = np.unique(labels, return_counts=True)
    within = [differential_entropy(points[labels == c], std) for c in classes]
    noise = 0.5 * np.log(2 * np.pi * np.e * std**2)
    return whole - noise, whole - counts @ within / len(points)


def naive(points, std, labels, draws, seed=0):
    """The definitions in float64, with all distances taken; values and their standard errors."""
    n, d = points.shape
    values = []
    for noise in std * rng(seed).standard_normal((draws, n, d)):
        observed = points + noise
        squares = np.square(observed[:, None, :] - points[None, :, :]).sum(-1) / (2 * std**2)
        kernel = np.exp(np.diag(squares)[:, None] - squares)
        same = labels[:, None] == labels[None, :]
        of_class = (kernel * same).sum(1) / same.sum(1)
        values.append([-np.log(kernel.mean(1)), np.log(of_class / kernel.mean(1))])
    values = np.moveaxis(np.array(values), 1, 0)
    stderr = np.sqrt(values.var(axis=1, ddof=1).mean(axis=1) / (draws * n))
    return values.mean(axis=(1, 2)), stderr


def layer(seed=0, n=60, d=5, classes=3):
    """Activations in clusters of unequal size, and their labels, in random order."""
    source = rng(seed)
    labels = source.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    centers = 2 * source.standard_normal((classes, d))
    return (centers[labels] + source.standard_normal((n, d))).astype(np.float32), labels


def assert_close(result, expected, expected_stderr=(0.0, 0.0), sigmas=4.0, atol=1e-6):
    """Both values within so many standard errors, their own and those of the expected ones."""
    for value, stderr, truth, of_truth in zip(
        (result.x_nats, result.y_nats),
        (result.x_stderr, result.y_stderr),
        expected,
        expected_stderr,
        strict=True,
    ):
        assert abs(value - truth) <= sigmas * np.hypot(stderr, of_truth) + atol


def values_of(result):
    return np.array([result.x_nats, result.y_nats])


def errors_of(result):
    return np.array([result.x_stderr, result.y_stderr])


@pytest.mark.parametrize("distance", [0.5, 2.0, 5.0])
def test_noisy_layer_of_two_inputs_equals_quadrature(distance):
    points = [0.0, distance]
    result = exact.noisy_layer(KEY, points, 1.0, [0, 1], draws=20_000)
    truth = quadrature(points, 1.0, [0, 1])
    assert truth[0] == pytest.approx(truth[1], abs=1e-9)
    # Enough draws to tell these values from their neighbors.
    assert result.x_stderr < 0.005
    assert_close(result, truth)


@pytest.mark.parametrize("std", [0.3, 1.0, 3.0])
def test_noisy_layer_of_one_unit_equals_quadrature(std):
    points = np.array([0.0, 0.2, 1.5, 1.5, 4.0, -3.0, 2.0])
    labels = np.array(["b", "a", "b", "b", "a", "c", "a"])
    result = exact.noisy_layer(KEY, points, std, labels, draws=5000)
    assert max(errors_of(result)) < 0.01
    assert_close(result, quadrature(points, std, labels))


@pytest.mark.parametrize("std", [0.5, 1.5, 5.0])
def test_noisy_layer_equals_its_definition(std):
    activations, labels = layer()
    values, stderr = naive(np.float64(activations), std, labels, draws=300)
    result = exact.noisy_layer(KEY, activations.reshape(60, 5, 1), std, labels, draws=300)
    assert max(errors_of(result)) < 0.01
    assert_close(result, values, stderr)
    # With little noise the label is lost in rare draws alone, whose spread is known to 15 %.
    np.testing.assert_allclose(errors_of(result), stderr, rtol=0.3)


def test_noisy_layer_between_little_and_much_noise_goes_from_entropy_to_zero():
    activations, labels = layer()
    clear = exact.noisy_layer(KEY, activations, 1e-4, labels, draws=2)
    np.testing.assert_allclose(values_of(clear), [np.log(60), exact.entropy(labels)], rtol=1e-12)
    assert max(errors_of(clear)) < 1e-12
    blurred = exact.noisy_layer(KEY, activations, 1e5, labels)
    # The information falls with the signal-to-noise ratio, here about 1e-9.
    assert max(errors_of(blurred)) < 1e-4
    assert_close(blurred, (0, 0))


def test_noisy_layer_without_labels_returns_x_alone():
    activations, labels = layer()
    alone = exact.noisy_layer(KEY, activations, 1.0, draws=2)
    both = exact.noisy_layer(KEY, activations, 1.0, labels, draws=2)
    assert (alone.y_nats, alone.y_stderr) == (None, None)
    np.testing.assert_allclose(alone.x_nats, both.x_nats, rtol=1e-6)
    assert alone.rows == both.rows == 60


@given(st.integers(1, 70), st.integers(0, 10**6))
def test_noisy_layer_does_not_depend_on_the_block(block, seed):
    activations, labels = layer()
    key = jax.random.key(seed)
    # Three sizes in all, so that compilations stay few: one input, one that leaves a rest, all.
    block = {0: 1, 1: 23, 2: 70}[block % 3]
    blocked = exact.noisy_layer(key, activations, 1.5, labels, draws=2, block=block)
    whole = exact.noisy_layer(key, activations, 1.5, labels, draws=2)
    np.testing.assert_allclose(values_of(blocked), values_of(whole), rtol=1e-5)
    np.testing.assert_allclose(errors_of(blocked), errors_of(whole), rtol=1e-4)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_noisy_layer_is_invariant_to_shift_and_scale(move, unit):
    activations, labels = layer()
    activations = activations.astype(np.float64)
    plain = exact.noisy_layer(KEY, activations, 1.5, labels)
    moved = exact.noisy_layer(KEY, unit * (activations + move), unit * 1.5, labels)
    # The same noise, so that only float32's rounding is left.
    np.testing.assert_allclose(values_of(moved), values_of(plain), rtol=1e-4)


def test_noisy_layer_with_a_large_offset_keeps_its_digits():
    activations, labels = layer()
    # In float32, an offset of 4096 leaves steps of 5e-4: the same are given to both.
    moved = activations + np.float32(4096)
    near = exact.noisy_layer(KEY, moved - np.float32(4096), 0.5, labels)
    far = exact.noisy_layer(KEY, moved, 0.5, labels)
    np.testing.assert_allclose(values_of(far), values_of(near), rtol=1e-5)


def test_noisy_layer_is_invariant_to_rotation():
    activations, labels = layer()
    rotation = np.linalg.qr(rng(1).standard_normal((5, 5)))[0]
    plain, rotated = (
        exact.noisy_layer(jax.random.key(i), version, 1.5, labels, draws=200)
        for i, version in enumerate((activations, activations @ rotation))
    )
    assert_close(rotated, values_of(plain), errors_of(plain))


def test_noisy_layer_is_invariant_to_class_names():
    activations, labels = layer()
    plain = exact.noisy_layer(KEY, activations, 1.5, labels)
    renamed = exact.noisy_layer(KEY, activations, 1.5, np.array([30.5, -2.0, 7.0])[labels])
    assert renamed == plain
    order = rng(0).permutation(60)
    shuffled = exact.noisy_layer(KEY, activations[order], 1.5, labels[order])
    # Other inputs get other noise; with one draw the errors are upper limits.
    assert_close(shuffled, values_of(plain), errors_of(plain))


def test_noisy_layer_of_one_class_and_of_singletons():
    activations, _ = layer()
    one = exact.noisy_layer(KEY, activations, 1.0, np.zeros(60))
    assert (one.y_nats, one.y_stderr) == pytest.approx((0, 0), abs=1e-6)
    each = exact.noisy_layer(KEY, activations, 1.0, np.arange(60))
    np.testing.assert_allclose(each.y_nats, each.x_nats, rtol=1e-6)


def test_noisy_layer_obeys_the_chain_rule():
    # I(X; T) = I(Y; T) + I(X; T | Y), and the last is a layer of one class's inputs each.
    activations, _ = layer()
    labels = rng(0).permutation(np.repeat([0, 1], [20, 40]))
    activations[:, 0] += 2 * labels
    whole = exact.noisy_layer(KEY, activations, 1.0, labels, draws=200)
    within = [
        exact.noisy_layer(jax.random.key(1 + c), activations[labels == c], 1.0, draws=200)
        for c in (0, 1)
    ]
    weights = np.bincount(labels) / 60
    rest = weights @ [part.x_nats for part in within]
    stderr = np.linalg.norm([*errors_of(whole), *(weights * [part.x_stderr for part in within])])
    assert stderr < 0.02
    assert abs(whole.x_nats - whole.y_nats - rest) < 4 * stderr
    assert rest > 0.5


def test_noisy_layer_of_distant_classes_is_finite():
    # The rest of each input's class is 1e6 noises away, the other class next to it.
    activations = np.array([[0.0], [1.0], [1e6], [1e6 + 1.0]])
    result = exact.noisy_layer(KEY, activations, 1.0, [0, 1, 1, 0], draws=4000)
    pair = quadrature([0.0, 1.0], 1.0, [0, 1])[0]
    assert max(errors_of(result)) < 0.02
    assert_close(result, (np.log(2) + pair, pair))


def test_noisy_layer_resolves_neighbors_far_from_the_mean():
    # 100 pairs, 3e4 noises from one another and 1 within: float32 alone would see the products
    # of 1e10 in steps of a thousand.
    far = 1e4 * rng(0).standard_normal((100, 8))
    near = far.copy()
    near[:, 0] += 1.0
    activations = np.concatenate([far, near])
    result = exact.noisy_layer(KEY, activations, 1.0, np.repeat([0, 1], 100), draws=40)
    pair = quadrature([0.0, 1.0], 1.0, [0, 1])[0]
    assert max(errors_of(result)) < 0.01
    assert_close(result, (np.log(100) + pair, pair))
    assert result.x_nats == pytest.approx(np.log(100) + pair, abs=0.05)


def test_noisy_layer_agrees_between_precisions(monkeypatch):
    # Points at the largest distance that float32 is trusted with, and near neighbors there.
    far = rng(0).standard_normal((50, 300))
    far *= np.sqrt(0.95 * exact.MAX_FLOAT32_SQUARE) / np.linalg.norm(far, axis=1, keepdims=True)
    activations = np.concatenate([far, far + 0.1 * rng(1).standard_normal((50, 300))])
    labels = np.arange(100) % 3
    narrow = exact.noisy_layer(KEY, activations, 1.0, labels, draws=3)
    monkeypatch.setattr(exact, "MAX_FLOAT32_SQUARE", 0.0)
    wide = exact.noisy_layer(KEY, activations, 1.0, labels, draws=3)
    assert 0.1 < wide.y_nats < wide.x_nats < np.log(100) - 0.1
    # The same noise: rounding is all the difference, and there is some.
    assert 0 < np.abs(values_of(narrow) - values_of(wide)).max() < 2e-3


def test_noisy_layer_restores_the_precision_setting():
    exact.noisy_layer(KEY, 1e5 * layer()[0], 1.0, draws=2)
    assert jnp.zeros(1).dtype == jnp.float32


@functools.cache
def repeated(draws, rows):
    activations, labels = layer()
    # Two inputs far from the clusters: a spread between inputs beside that of the noise.
    activations[:2] *= 10
    results = [
        exact.noisy_layer(jax.random.key(i), activations, 2.0, labels, draws=draws, rows=rows)
        for i in range(200)
    ]
    return np.array([values_of(r) for r in results]), np.array([errors_of(r) for r in results])


@pytest.mark.parametrize("rows", [None, 30])
def test_noisy_layer_stderr_with_two_draws_is_the_spread_over_keys(rows):
    values, errors = repeated(2, rows)
    # The spread over 200 keys is itself known to 1/√400 = 5 %.
    ratio = np.sqrt(np.square(errors).mean(axis=0)) / values.std(axis=0, ddof=1)
    np.testing.assert_allclose(ratio, 1, atol=0.2)


def test_noisy_layer_stderr_leaves_out_the_spread_between_inputs():
    # On a circle all inputs are alike, so that a choice of rows adds nothing to the error.
    angles = 2 * np.pi * np.arange(60) / 60
    circle = 4 * np.stack([np.cos(angles), np.sin(angles), *np.zeros((3, 60))], axis=1)
    results = [
        exact.noisy_layer(jax.random.key(i), circle, 1.0, draws=2, rows=30) for i in range(400)
    ]
    spread = np.std([r.x_nats for r in results], ddof=1)
    # Known to 1/√800 = 4 %, and 3 % too large for a spread that is never taken to be negative;
    # the noise counted twice would make it 22 %.
    ratio = np.sqrt(np.mean([r.x_stderr**2 for r in results])) / spread
    assert ratio == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("rows", [None, 30])
def test_noisy_layer_stderr_with_one_draw_is_an_upper_limit(rows):
    values, errors = repeated(1, rows)
    ratio = np.sqrt(np.square(errors).mean(axis=0)) / values.std(axis=0, ddof=1)
    assert np.all(ratio > 0.85)
    assert np.all(ratio < 2)


def test_noisy_layer_of_some_rows_averages_to_all():
    some, _ = repeated(2, 30)
    activations, labels = layer()
    activations[:2] *= 10
    truth = exact.noisy_layer(KEY, activations, 2.0, labels, draws=500)
    stderr = np.hypot(some.std(axis=0, ddof=1) / np.sqrt(len(some)), errors_of(truth))
    assert np.all(np.abs(some.mean(axis=0) - values_of(truth)) < 4 * stderr)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": np.zeros((1, 3))}, r"N >= 2, got shape \(1, 3\)"),
        ({"activations": np.float32(3)}, r"N >= 2, got shape \(\)"),
        ({"activations": np.zeros((4, 2), complex)}, r"real numbers, got complex128"),
        ({"activations": np.array(["a"] * 4)}, r"real numbers, got <U1"),
        ({"activations": np.array([0.0, 1.0, np.nan, 2.0])}, r"finite, got nan"),
        ({"activations": np.array([0.0, 1.0, 2.0, -np.inf]), "block": 2}, r"finite, got -inf"),
        ({"activations": np.array([0.0, 1.0, 1e200, 2.0])}, r"squares must be finite, got 1e\+200"),
        ({"noise_std": 0.0}, r"noise_std must be positive and finite, got 0\.0"),
        ({"noise_std": -1.0}, r"got -1\.0"),
        ({"noise_std": np.nan}, r"got nan"),
        ({"noise_std": 1e-9}, r"noise_std 1e-09 is lost in rounding .* 1\.03.* at least 1\.4"),
        ({"labels": np.zeros(3)}, r"labels must be \(4,\), .* got shape \(3,\)"),
        ({"labels": np.zeros((4, 2))}, r"got shape \(4, 2\)"),
        ({"draws": 0}, r"draws must be at least 1, got 0"),
        ({"block": 0}, r"block must be at least 1, got 0"),
        ({"rows": 1}, r"rows must be at least 2, got 1"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_noisy_layer_of_invalid_arguments_raises(change, message):
    arguments = {"activations": np.array([[0.0, 1], [1, 0], [1, 1], [2, 1]]), "noise_std": 1.0}
    with pytest.raises(ValueError, match=message):
        exact.noisy_layer(KEY, **(arguments | change))


# ---- Labels --------------------------------------------------------------------------------------


def test_entropy_of_any_labels():
    expected = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    for labels in ([0, 0, 7, -3], ["b", "b", "a", "c"], jnp.array([1, 1, 2, 3])):
        np.testing.assert_allclose(exact.entropy(labels), expected, rtol=1e-14)
    assert exact.entropy(np.ones(5)) == 0
