"""Known mutual information: against quadrature, definitions in float64, limits and invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mine_jax.information_plane import exact

KEY = jax.random.key(0)
examples = settings(deadline=None, max_examples=25)
rhos = st.floats(-0.99, 0.99)


def rng(seed):
    return np.random.default_rng(seed)


# ---- Gaussian pairs ------------------------------------------------------------------------------


def test_gaussian_is_its_formula():
    np.testing.assert_allclose(exact.gaussian(0.8), -0.5 * np.log(0.36), rtol=1e-14)
    np.testing.assert_allclose(
        exact.gaussian([0.8, -0.6, 0.0]), -0.5 * (np.log(0.36) + np.log(0.64)), rtol=1e-14
    )
    assert isinstance(exact.gaussian([0.5]), float)


def test_gaussian_keeps_its_digits_at_both_ends():
    # −½ ln(1 − ρ²) is ρ²/2 for small ρ, and −½ ln 2δ for ρ = 1 − δ.
    np.testing.assert_allclose(exact.gaussian(1e-9), 5e-19, rtol=1e-6)
    np.testing.assert_allclose(exact.gaussian(1 - 2.0**-50), 0.5 * 49 * np.log(2), rtol=1e-12)


@pytest.mark.parametrize("wrong", [1.0, -1.5, np.nan])
def test_gaussian_names_a_correlation_that_is_none(wrong):
    with pytest.raises(ValueError, match=rf"both excluded, got {wrong}"):
        exact.gaussian([0.1, wrong])


def pairs_covariance(correlations, x_size, z_size):
    """Identity blocks with the correlations on the diagonal of the cross-covariance."""
    covariance = np.eye(x_size + z_size)
    for k, rho in enumerate(correlations):
        covariance[k, x_size + k] = covariance[x_size + k, k] = rho
    return covariance


@examples
@given(st.lists(rhos, min_size=2, max_size=2), st.integers(0, 10**6))
def test_gaussian_covariance_sees_through_a_change_of_coordinates(correlations, seed):
    mix = np.zeros((5, 5))
    mix[:2, :2] = rng(seed).standard_normal((2, 2)) + 3 * np.eye(2)
    mix[2:, 2:] = 1e4 * (rng(seed + 1).standard_normal((3, 3)) + 4 * np.eye(3))
    covariance = mix @ pairs_covariance(correlations, 2, 3) @ mix.T
    np.testing.assert_allclose(
        exact.gaussian_covariance(covariance, 2), exact.gaussian(correlations), atol=1e-8
    )


def test_gaussian_covariance_of_a_sum_of_two():
    # Z = X1 + X2 + noise of variance 1: the channel of signal-to-noise ratio 2, ½ ln 3.
    covariance = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 3]])
    np.testing.assert_allclose(exact.gaussian_covariance(covariance, 2), 0.5 * np.log(3))
    # One of the summands alone: ρ² = 1/3.
    alone = covariance[np.ix_([0, 2], [0, 2])]
    np.testing.assert_allclose(exact.gaussian_covariance(alone, 1), exact.gaussian(3**-0.5))


def test_gaussian_covariance_of_independent_variables_is_zero_and_not_below():
    assert exact.gaussian_covariance(np.diag([1.0, 2.0, 3.0]), 1) == 0
    mix = np.zeros((4, 4))
    mix[:2, :2], mix[2:, 2:] = rng(0).standard_normal((2, 2, 2))
    assert 0 <= exact.gaussian_covariance(mix @ mix.T, 2) < 1e-12


@pytest.mark.parametrize(
    ("covariance", "x_size", "message"),
    [
        (np.ones((2, 3)), 1, r"square matrix, got shape \(2, 3\)"),
        (np.eye(3), 0, r"between 1 and 2 .* got 0"),
        (np.eye(3), 3, r"between 1 and 2 .* got 3"),
        ([[1.0, 0.5], [0.4, 1.0]], 1, r"symmetric, got correlations 0\.09"),
        ([[1.0, 2.0], [2.0, 1.0]], 1, r"smallest eigenvalue -1\.0"),
        ([[1.0, 1.0], [1.0, 1.0]], 1, r"positive definite"),
        # Positive determinant, yet two negative eigenvalues.
        (np.diag([-1.0, -1.0]), 1, r"smallest variance -1\.0"),
        ([[1.0, np.nan], [np.nan, 1.0]], 1, r"finite entries: False"),
    ],
)
def test_gaussian_covariance_says_what_is_wrong(covariance, x_size, message):
    with pytest.raises(ValueError, match=message):
        exact.gaussian_covariance(covariance, x_size)


@examples
@given(st.floats(0, 15), st.integers(1, 50))
def test_correlation_inverts_gaussian(nats_a_pair, dims):
    rho = exact.correlation(nats_a_pair * dims, dims)
    assert 0 <= rho < 1
    # Next to 1, ρ has steps of 1e-16, and 1 − ρ is exp(−2 I)/2.
    tolerance = 1e-12 + 2e-16 * np.exp(2 * nats_a_pair)
    np.testing.assert_allclose(
        exact.gaussian(np.full(dims, rho)), nats_a_pair * dims, rtol=1e-12, atol=dims * tolerance
    )


@pytest.mark.parametrize(
    ("nats", "dims", "message"),
    [
        (-0.1, 2, r"nats .* got -0\.1"),
        (np.inf, 2, r"nats .* got inf"),
        (1.0, 0, r"dims .* got 0"),
        (40.0, 2, r"40\.0 nats in 2 pairs"),
    ],
)
def test_correlation_says_what_is_wrong(nats, dims, message):
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
    """Activations in unequal heaps, and labels of unequal classes, in no order."""
    source = rng(seed)
    labels = source.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    centres = 2 * source.standard_normal((classes, d))
    return (centres[labels] + source.standard_normal((n, d))).astype(np.float32), labels


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
def test_two_inputs_are_the_binary_channel_of_quadrature(distance):
    points = [0.0, distance]
    result = exact.noisy_layer(KEY, points, 1.0, [0, 1], draws=20_000)
    truth = quadrature(points, 1.0, [0, 1])
    assert truth[0] == pytest.approx(truth[1], abs=1e-9)
    # Enough draws to tell these values from their neighbours.
    assert result.x_stderr < 0.005
    assert_close(result, truth)


@pytest.mark.parametrize("std", [0.3, 1.0, 3.0])
def test_one_dimensional_layers_are_as_quadrature_has_them(std):
    points = np.array([0.0, 0.2, 1.5, 1.5, 4.0, -3.0, 2.0])
    labels = np.array(["b", "a", "b", "b", "a", "c", "a"])
    result = exact.noisy_layer(KEY, points, std, labels, draws=5000)
    assert max(errors_of(result)) < 0.01
    assert_close(result, quadrature(points, std, labels))


@pytest.mark.parametrize("std", [0.5, 1.5, 5.0])
def test_noisy_layer_is_its_definition(std):
    activations, labels = layer()
    values, stderr = naive(np.float64(activations), std, labels, draws=300)
    result = exact.noisy_layer(KEY, activations.reshape(60, 5, 1), std, labels, draws=300)
    assert max(errors_of(result)) < 0.01
    assert_close(result, values, stderr)
    # With little noise the label is lost in rare draws alone, whose spread is known to 15 %.
    np.testing.assert_allclose(errors_of(result), stderr, rtol=0.3)


def test_little_noise_leaves_the_entropies_and_much_noise_nothing():
    activations, labels = layer()
    clear = exact.noisy_layer(KEY, activations, 1e-4, labels, draws=2)
    np.testing.assert_allclose(values_of(clear), [np.log(60), exact.entropy(labels)], rtol=1e-12)
    assert max(errors_of(clear)) < 1e-12
    blurred = exact.noisy_layer(KEY, activations, 1e5, labels)
    # The information falls with the signal-to-noise ratio, here about 1e-9.
    assert max(errors_of(blurred)) < 1e-4
    assert_close(blurred, (0, 0))


def test_a_layer_that_is_constant_tells_nothing():
    result = exact.noisy_layer(KEY, np.full((60, 5), 7.0), 0.1, np.arange(60) % 2)
    assert result == (0.0, 0.0, 0.0, 0.0, 60)


def test_without_labels_only_the_input_side_comes_back():
    activations, labels = layer()
    alone = exact.noisy_layer(KEY, activations, 1.0, draws=2)
    both = exact.noisy_layer(KEY, activations, 1.0, labels, draws=2)
    assert (alone.y_nats, alone.y_stderr) == (None, None)
    np.testing.assert_allclose(alone.x_nats, both.x_nats, rtol=1e-6)
    assert alone.rows == both.rows == 60


@examples
@given(st.integers(1, 70), st.integers(0, 10**6))
def test_the_block_does_not_matter(block, seed):
    activations, labels = layer()
    key = jax.random.key(seed)
    # Three sizes in all, so that compilations stay few: one input, one that leaves a rest, all.
    block = {0: 1, 1: 23, 2: 70}[block % 3]
    blocked = exact.noisy_layer(key, activations, 1.5, labels, draws=2, block=block)
    whole = exact.noisy_layer(key, activations, 1.5, labels, draws=2)
    np.testing.assert_allclose(values_of(blocked), values_of(whole), rtol=1e-5)
    np.testing.assert_allclose(errors_of(blocked), errors_of(whole), rtol=1e-4)


def test_fresh_keys_and_fresh_draws_give_fresh_noise():
    activations, labels = layer()
    one, other, two = (
        exact.noisy_layer(key, activations, 1.5, labels, draws=draws).x_nats
        for key, draws in ((KEY, 1), (jax.random.key(1), 1), (KEY, 2))
    )
    assert len({one, other, two}) == 3
    assert exact.noisy_layer(KEY, activations, 1.5, labels).x_nats == one


@examples
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_moving_the_layer_or_changing_its_unit_changes_nothing(move, unit):
    activations, labels = layer()
    activations = activations.astype(np.float64)
    plain = exact.noisy_layer(KEY, activations, 1.5, labels)
    moved = exact.noisy_layer(KEY, unit * (activations + move), unit * 1.5, labels)
    # The same noise, so that only float32's rounding is left.
    np.testing.assert_allclose(values_of(moved), values_of(plain), rtol=1e-4)


def test_a_large_common_offset_costs_no_digits():
    activations, labels = layer()
    # In float32, an offset of 4096 leaves steps of 5e-4: the same are given to both.
    moved = activations + np.float32(4096)
    near = exact.noisy_layer(KEY, moved - np.float32(4096), 0.5, labels)
    far = exact.noisy_layer(KEY, moved, 0.5, labels)
    np.testing.assert_allclose(values_of(far), values_of(near), rtol=1e-5)


def test_rotating_the_layer_changes_nothing():
    activations, labels = layer()
    rotation = np.linalg.qr(rng(1).standard_normal((5, 5)))[0]
    plain, turned = (
        exact.noisy_layer(jax.random.key(i), version, 1.5, labels, draws=200)
        for i, version in enumerate((activations, activations @ rotation))
    )
    assert_close(turned, values_of(plain), errors_of(plain))


def test_coordinates_that_are_the_same_for_all_inputs_do_not_matter():
    activations, labels = layer()
    wide = np.concatenate([activations, np.full((60, 40), 3.0, np.float32)], axis=1)
    plain, widened = (
        exact.noisy_layer(jax.random.key(i), version, 1.5, labels, draws=200)
        for i, version in enumerate((activations, wide))
    )
    assert_close(widened, values_of(plain), errors_of(plain))


def test_repeating_all_inputs_changes_nothing():
    activations, labels = layer()
    plain = exact.noisy_layer(KEY, activations, 1.0, labels, draws=200)
    tripled = exact.noisy_layer(
        jax.random.key(1), np.tile(activations, (3, 1)), 1.0, np.tile(labels, 3), draws=70
    )
    assert tripled.rows == 180
    assert_close(tripled, values_of(plain), errors_of(plain))


def test_names_and_order_of_the_classes_do_not_matter():
    activations, labels = layer()
    plain = exact.noisy_layer(KEY, activations, 1.5, labels)
    renamed = exact.noisy_layer(KEY, activations, 1.5, np.array([30.5, -2.0, 7.0])[labels])
    assert renamed == plain
    order = rng(0).permutation(60)
    shuffled = exact.noisy_layer(KEY, activations[order], 1.5, labels[order])
    # Other inputs get other noise; with one draw the errors are upper limits.
    assert_close(shuffled, values_of(plain), errors_of(plain))


def test_one_class_tells_nothing_and_a_class_for_each_input_everything():
    activations, _ = layer()
    one = exact.noisy_layer(KEY, activations, 1.0, np.zeros(60))
    assert (one.y_nats, one.y_stderr) == pytest.approx((0, 0), abs=1e-6)
    each = exact.noisy_layer(KEY, activations, 1.0, np.arange(60))
    np.testing.assert_allclose(each.y_nats, each.x_nats, rtol=1e-6)


def test_the_input_tells_what_the_label_does_and_the_rest_within_the_classes():
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


@examples
@given(st.floats(0.05, 20.0), st.integers(0, 100))
def test_the_data_processing_inequality_and_the_entropies_hold(std, seed):
    activations, labels = layer(seed)
    result = exact.noisy_layer(KEY, activations, std, labels, draws=20)
    margin = 4 * max(errors_of(result)) + 1e-6
    assert -margin < result.y_nats < result.x_nats + margin
    # Ratios sum to 1 at least, whatever the noise was: no margin but rounding.
    assert result.x_nats <= np.log(60) + 1e-6
    assert result.y_nats < exact.entropy(labels) + margin


def test_a_class_far_from_its_input_leaves_finite_values():
    # The rest of each input's class is 1e6 noises away, the other class next to it.
    activations = np.array([[0.0], [1.0], [1e6], [1e6 + 1.0]])
    result = exact.noisy_layer(KEY, activations, 1.0, [0, 1, 1, 0], draws=4000)
    pair = quadrature([0.0, 1.0], 1.0, [0, 1])[0]
    assert max(errors_of(result)) < 0.02
    assert_close(result, (np.log(2) + pair, pair))


def test_near_neighbours_far_from_the_mean_are_told_apart():
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


def test_float32_and_float64_agree_at_the_border_between_them(monkeypatch):
    # Points at the largest distance that float32 is trusted with, and near neighbours there.
    far = rng(0).standard_normal((50, 300))
    far *= np.sqrt(0.95 * exact._FLOAT32_LIMIT) / np.linalg.norm(far, axis=1, keepdims=True)
    activations = np.concatenate([far, far + 0.1 * rng(1).standard_normal((50, 300))])
    labels = np.arange(100) % 3
    narrow = exact.noisy_layer(KEY, activations, 1.0, labels, draws=3)
    monkeypatch.setattr(exact, "_FLOAT32_LIMIT", 0.0)
    wide = exact.noisy_layer(KEY, activations, 1.0, labels, draws=3)
    assert 0.1 < wide.y_nats < wide.x_nats < np.log(100) - 0.1
    # The same noise: rounding is all the difference, and there is some.
    assert 0 < np.abs(values_of(narrow) - values_of(wide)).max() < 2e-3


def test_float64_is_left_as_it_was_found():
    exact.noisy_layer(KEY, 1e5 * layer()[0], 1.0, draws=2)
    assert jnp.zeros(1).dtype == jnp.float32


@functools.cache
def repeated(draws, rows):
    activations, labels = layer()
    # Two inputs apart from the heaps: a spread between inputs beside that of the noise.
    activations[:2] *= 10
    results = [
        exact.noisy_layer(jax.random.key(i), activations, 2.0, labels, draws=draws, rows=rows)
        for i in range(200)
    ]
    return np.array([values_of(r) for r in results]), np.array([errors_of(r) for r in results])


@pytest.mark.parametrize("rows", [None, 30])
def test_with_two_draws_the_standard_errors_are_the_spread_over_keys(rows):
    values, errors = repeated(2, rows)
    # The spread over 200 keys is itself known to 1/√400 = 5 %.
    ratio = np.sqrt(np.square(errors).mean(axis=0)) / values.std(axis=0, ddof=1)
    np.testing.assert_allclose(ratio, 1, atol=0.2)


def test_the_noise_is_not_counted_as_a_spread_between_inputs():
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
def test_with_one_draw_the_standard_errors_are_upper_limits(rows):
    values, errors = repeated(1, rows)
    ratio = np.sqrt(np.square(errors).mean(axis=0)) / values.std(axis=0, ddof=1)
    assert np.all(ratio > 0.85)
    assert np.all(ratio < 2)


def test_a_choice_of_rows_averages_to_all_of_them():
    some, _ = repeated(2, 30)
    activations, labels = layer()
    activations[:2] *= 10
    truth = exact.noisy_layer(KEY, activations, 2.0, labels, draws=500)
    stderr = np.hypot(some.std(axis=0, ddof=1) / np.sqrt(len(some)), errors_of(truth))
    assert np.all(np.abs(some.mean(axis=0) - values_of(truth)) < 4 * stderr)


def test_rows_say_how_many_inputs_were_used():
    activations, labels = layer()
    results = {
        rows: exact.noisy_layer(KEY, activations, 1.0, labels, rows=rows)
        for rows in (None, 7, 60, 1000)
    }
    assert [r.rows for r in results.values()] == [60, 7, 60, 60]
    assert results[None] == results[60] == results[1000] != results[7]


def test_integers_and_jax_arrays_are_activations_too():
    counts = rng(0).integers(0, 5, (60, 5))
    plain = exact.noisy_layer(KEY, counts.astype(np.float32), 1.0, counts[:, 0])
    assert exact.noisy_layer(KEY, counts, 1.0, counts[:, 0]) == plain
    on_device = jnp.asarray(counts, jnp.bfloat16)
    assert exact.noisy_layer(KEY, on_device, 1.0, jnp.asarray(counts[:, 0])) == plain


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
def test_noisy_layer_says_what_is_wrong(change, message):
    arguments = {"activations": np.array([[0.0, 1], [1, 0], [1, 1], [2, 1]]), "noise_std": 1.0}
    with pytest.raises(ValueError, match=message):
        exact.noisy_layer(KEY, **(arguments | change))


def test_counts_must_be_integers():
    with pytest.raises(TypeError):
        exact.noisy_layer(KEY, np.eye(3), 1.0, draws=1.5)


# ---- Labels with Gaussian features ---------------------------------------------------------------


def two_classes(distance, std, prior):
    """I(X; Y) of two classes by quadrature."""
    t = np.linspace(-12 * std, distance + 12 * std, 40_001)
    parts = [
        share * density(t, np.array([mean]), std)
        for share, mean in ((prior, 0.0), (1 - prior, distance))
    ]
    whole = parts[0] + parts[1]
    return sum(
        np.trapezoid(p * np.log(np.maximum(p, 1e-300) / np.maximum(share * whole, 1e-300)), t)
        for p, share in zip(parts, (prior, 1 - prior), strict=True)
    )


@pytest.mark.parametrize(
    ("distance", "std", "prior"), [(1.0, 1.0, 0.5), (3.0, 0.7, 0.2), (0.2, 1.0, 0.9)]
)
def test_two_classes_are_as_quadrature_has_them(distance, std, prior):
    nats, stderr = exact.label_gaussian_features(
        KEY, [0.0, distance], [prior, 1 - prior], std=std, draws=50_000
    )
    assert 0 < stderr < 0.003
    assert abs(nats - two_classes(distance, std, prior)) < 4 * stderr


def test_label_gaussian_features_agree_with_a_layer_of_those_means():
    # K inputs, a class each, in proportion to their priors: X; T of the one is Y; X of the other.
    means = rng(0).standard_normal((4, 30))
    nats, stderr = exact.label_gaussian_features(
        KEY, means, [0.1, 0.2, 0.3, 0.4], std=3.0, draws=50_000
    )
    inputs = np.repeat(np.arange(4), [1, 2, 3, 4])
    as_layer = exact.noisy_layer(KEY, means[inputs], 3.0, inputs, draws=3000)
    assert stderr < 0.005
    assert as_layer.y_stderr < 0.01
    assert abs(nats - as_layer.y_nats) < 4 * np.hypot(stderr, as_layer.y_stderr)


@examples
@given(st.integers(1, 40), st.floats(-100, 100), st.integers(0, 1000))
def test_only_the_differences_of_the_means_matter(extra, move, seed):
    # Three means in a plane; more coordinates, a rotation and a shift.
    plane = np.array([[0.0, 0.0], [2.0, 0.0], [0.5, 1.5]])
    basis = np.linalg.qr(rng(seed).standard_normal((2 + extra, 2)))[0]
    nats, stderr = exact.label_gaussian_features(KEY, plane, draws=3000)
    moved, moved_stderr = exact.label_gaussian_features(
        jax.random.key(1), plane @ basis.T + move, draws=3000
    )
    assert abs(nats - moved) < 4.5 * np.hypot(stderr, moved_stderr)


def test_classes_far_apart_are_known_and_equal_ones_unknown():
    priors = np.array([0.5, 0.0, 0.3, 0.2])
    far = 1e5 * rng(0).standard_normal((4, 6))
    nats, stderr = exact.label_gaussian_features(KEY, far, priors, draws=100)
    entropy = -np.sum(priors[priors > 0] * np.log(priors[priors > 0]))
    np.testing.assert_allclose(nats, entropy, rtol=1e-12)
    assert stderr < 1e-12
    same = exact.label_gaussian_features(KEY, np.full((3, 4), 0.1), draws=100)
    assert same == pytest.approx((0, 0), abs=1e-12)
    assert exact.label_gaussian_features(KEY, [[1.0, 2.0]], draws=100) == pytest.approx((0, 0))


def test_a_rare_class_has_an_error_too():
    nats, stderr = exact.label_gaussian_features(KEY, [0.0, 50.0], [1 - 1e-5, 1e-5], draws=1000)
    # Known for sure: the entropy of the label.
    assert nats == pytest.approx(1e-5 * (1 - np.log(1e-5)), rel=1e-4)
    assert stderr < 1e-9


@pytest.mark.filterwarnings("error")
def test_a_class_without_a_share_does_not_count():
    with_it = exact.label_gaussian_features(KEY, [0.0, 1.0, 9.0], [0.4, 0.6, 0.0], draws=1000)
    without = exact.label_gaussian_features(KEY, [0.0, 1.0], [0.4, 0.6], draws=1000)
    assert with_it == pytest.approx(without, rel=1e-6)


def test_the_standard_error_of_label_gaussian_features_is_the_spread_over_keys():
    means = rng(0).standard_normal((5, 3))
    results = np.array(
        [exact.label_gaussian_features(jax.random.key(i), means, draws=500) for i in range(200)]
    )
    # The spread over 200 keys is itself known to 1/√400 = 5 %.
    assert results[:, 1].mean() / results[:, 0].std(ddof=1) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": np.zeros((2, 2, 2))}, r"means must be .* got shape \(2, 2, 2\)"),
        ({"means": np.zeros((0, 2))}, r"got shape \(0, 2\)"),
        ({"means": [0.0, np.inf]}, r"means must be finite, got inf"),
        ({"std": 0.0}, r"std must be positive and finite, got 0\.0"),
        ({"draws": 1}, r"draws must be at least 2, got 1"),
        ({"priors": [1.0]}, r"priors must be \(2,\), .* got \(1,\)"),
        ({"priors": [1.5, -0.5]}, r"priors must be probabilities, got -0\.5"),
        ({"priors": [0.5, np.nan]}, r"priors must be probabilities, got nan"),
        ({"priors": [0.5, 0.6]}, r"priors must add up to 1, got 1\.1"),
    ],
)
def test_label_gaussian_features_say_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        exact.label_gaussian_features(KEY, **({"means": [0.0, 1.0]} | change))


# ---- Tables and labels ---------------------------------------------------------------------------


def test_discrete_of_a_small_table_by_hand():
    # In eighths: I = Σ p ln p/(p_x p_z) = 3/4 ln 3/2 − 1/4 ln 2.
    expected = 0.75 * np.log(1.5) - 0.25 * np.log(2)
    np.testing.assert_allclose(exact.discrete(np.array([[3, 1], [1, 3]]) / 8), expected)


tables = st.lists(st.floats(0, 1), min_size=12, max_size=12).filter(lambda cells: sum(cells) > 0.1)


@examples
@given(tables)
def test_discrete_is_symmetric_and_between_zero_and_the_entropies(cells):
    joint = np.reshape(cells, (3, 4)) / np.sum(cells)
    nats = exact.discrete(joint)
    np.testing.assert_allclose(nats, exact.discrete(joint.T), atol=1e-12)
    entropies = [-sum(p * np.log(p) for p in joint.sum(axis) if p > 0) for axis in (0, 1)]
    assert 0 <= nats <= min(entropies) + 1e-12
    # I = H(X) + H(Z) − H(X, Z).
    both = -sum(p * np.log(p) for p in joint.ravel() if p > 0)
    np.testing.assert_allclose(nats, sum(entropies) - both, atol=1e-12)


@examples
@given(st.lists(st.integers(1, 100), min_size=1, max_size=6))
def test_independent_values_share_nothing_and_equal_ones_their_entropy(counts):
    shares = np.array(counts) / np.sum(counts)
    assert 0 <= exact.discrete(np.outer(shares, [0.3, 0.7])) < 1e-12
    labels = np.repeat(np.arange(len(counts)), counts)
    np.testing.assert_allclose(exact.discrete(np.diag(shares)), exact.entropy(labels), atol=1e-12)


def test_discrete_takes_tables_in_float32_and_tiny_cells():
    table = np.full((10, 10), 0.01, np.float32)
    assert exact.discrete(table) < 1e-12
    # The product of these marginals is less than the smallest float64.
    assert exact.discrete([[1.0, 0.0], [0.0, 1e-200]]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("joint", "message"),
    [
        ([0.5, 0.5], r"two dimensions, got shape \(2,\)"),
        ([[0.5, -0.1], [0.3, 0.3]], r"joint must be probabilities, got -0\.1"),
        ([[3, 1], [1, 3]], r"joint must add up to 1, got 8"),
        (np.zeros((2, 0)), r"joint must add up to 1, got 0"),
    ],
)
def test_discrete_says_what_is_wrong(joint, message):
    with pytest.raises(ValueError, match=message):
        exact.discrete(joint)


def test_entropy_counts_whatever_the_labels_are_called():
    expected = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    for labels in ([0, 0, 7, -3], ["b", "b", "a", "c"], jnp.array([1, 1, 2, 3])):
        np.testing.assert_allclose(exact.entropy(labels), expected, rtol=1e-14)
    assert exact.entropy(np.ones(5)) == 0
