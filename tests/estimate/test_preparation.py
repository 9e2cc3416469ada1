"""Samples as statistics networks take them."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mine_jax.estimate import preparation
from mine_jax.estimate.preparation import MAX_LABELS, MAX_RANKED_COLUMNS, NUM_COMPONENTS, prepare
from mine_jax.mine import is_labels

# Columns of clearly different variance: other principal components are mixtures of one another.
DECAYING = np.concatenate([20 * 0.8 ** np.arange(24), np.full(176, 0.02)])


def decaying(n=200, d=200, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) * DECAYING[:d]


def similarities(samples):
    """Scalar products of all samples, which do not depend on signs or rotations."""
    return np.asarray(samples) @ np.asarray(samples).T


# Few columns.


def test_prepare_few_columns_gives_normal_scores():
    values = np.random.default_rng(0).standard_cauchy(size=(1000, 3))
    values[:, 1] = 7.0
    values[:, 2] = np.round(values[:, 2])
    prepared = np.asarray(prepare(values))
    assert prepared.dtype == np.float32
    np.testing.assert_array_equal(prepared[:, 1], 0)
    np.testing.assert_allclose(prepared.std(0), [1, 0, 1], atol=1e-4)
    quantiles = np.quantile(prepared[:, 0], [0.1587, 0.5, 0.8413])
    np.testing.assert_allclose(quantiles, [-1, 0, 1], atol=0.02)
    # Ties stay ties, and nothing else becomes one.
    pairs = np.unique(np.stack([values[:, 2], prepared[:, 2]]), axis=1)
    assert pairs.shape[1] == len(np.unique(values[:, 2])) == len(np.unique(prepared[:, 2]))


@given(
    values=hnp.arrays(
        np.float64,
        st.tuples(st.integers(2, 40), st.sampled_from([1, 7, MAX_RANKED_COLUMNS])),
        elements=st.integers(-50, 50),
    ),
    seed=st.integers(0, 999),
)
def test_prepare_few_columns_is_invariant_under_monotone_maps(values, seed):
    prepared = np.asarray(prepare(values))
    for monotone in (values**3, np.exp(values), 1e6 * values + 1e7, np.arctan(values)):
        np.testing.assert_array_equal(prepare(monotone), prepared)
    np.testing.assert_allclose(prepare(-values), -prepared, atol=1e-6)
    order = np.random.default_rng(seed).permutation(len(values))
    np.testing.assert_allclose(prepare(values[order]), prepared[order], atol=1e-6)


def test_prepare_columns_is_linear_within_four_deviations():
    values = np.random.default_rng(0).normal(5.0, 3.0, size=(1000, 3))
    values[3, 0], values[4, 0] = 300.0, 400.0
    values[:, 2] = 0.1
    prepared = np.asarray(prepare(values, scale="columns"))
    inside = (values[:, 1] - values[:, 1].mean()) / values[:, 1].std()
    linear = np.abs(inside) < 4
    np.testing.assert_allclose(prepared[linear, 1], inside[linear], atol=1e-5)
    np.testing.assert_array_equal(np.argsort(prepared[:, 0]), np.argsort(values[:, 0]))
    assert 4 < prepared[3, 0] < prepared[4, 0] < 10
    np.testing.assert_array_equal(prepared[:, 2], 0)
    huge = prepare(values * 1e200, scale="columns")
    np.testing.assert_allclose(huge, prepared, atol=1e-6)


def test_prepare_both_gives_normal_scores_and_scaled_columns():
    values = np.random.default_rng(0).normal(size=(100, 2))
    both = np.asarray(prepare(values, scale="both"))
    np.testing.assert_array_equal(both[:, :2], prepare(values))
    np.testing.assert_array_equal(both[:, 2:], prepare(values, scale="columns"))


def test_prepare_common_keeps_the_geometry():
    values = np.random.default_rng(0).normal(3.0, 1.0, size=(100, 3)) * [1, 10, 1e200]
    prepared = np.asarray(prepare(values[:, :2], scale="common"))
    centered = values[:, :2] - values[:, :2].mean(axis=0)
    np.testing.assert_allclose(prepared, centered / np.sqrt(np.mean(centered**2)), atol=1e-5)
    assert np.isfinite(np.asarray(prepare(values, scale="common"))).all()


# Many columns and images.


@pytest.mark.parametrize("shape", [(200, 200), (200, 2, 100), (200, 5, 2, 20), (200, 5, 5, 8)])
def test_prepare_many_columns_gives_principal_components(shape):
    values = decaying()
    prepared = np.asarray(prepare(values.reshape(shape)))
    centered = values - values.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
    expected = (left * sizes)[:, :NUM_COMPONENTS]
    expected /= np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(similarities(prepared), similarities(expected), atol=0.01)
    np.testing.assert_allclose(prepared.var(axis=0), expected.var(axis=0), atol=0.01)
    moved = prepare(1e6 * values + 3)
    np.testing.assert_allclose(similarities(moved), similarities(prepared), atol=0.01)


@pytest.mark.parametrize("width", [144, 256, 784, 1024])
def test_prepare_hidden_layer_with_a_square_number_of_units_is_no_image(width):
    layer = np.random.default_rng(0).normal(size=(40, width))
    assert prepare(layer).shape == (40, NUM_COMPONENTS)


def test_prepare_images_gives_moments_and_components():
    rows, columns = np.random.default_rng(0).integers(5, 15, (2, 200))
    images = np.zeros((200, 20, 20))
    for image, row, column in zip(images, rows, columns, strict=True):
        image[row - 1 : row + 2, column : column + 1] = 1
    prepared = np.asarray(prepare(images))
    components = prepare(images.reshape(200, -1))
    np.testing.assert_array_equal(prepared[:, 10:], components)
    np.testing.assert_allclose(prepared[:, 2:4], prepare(np.stack([rows, columns], 1)), atol=1e-5)
    # The shape is the same in all images, and an upright one.
    np.testing.assert_array_equal(prepared[:, [0, 1, 4, 5, 8, 9]], 0)
    np.testing.assert_array_equal(prepared[:, 6:8], [[1, 0]] * 200)
    np.testing.assert_array_equal(prepare(images[..., None]), prepared)


@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 30)),
        st.tuples(st.integers(1, 30), st.sampled_from([1, 128, 129, 144])),
        st.tuples(st.integers(1, 30), st.integers(7, 9), st.sampled_from([3, 8, 50])),
        st.tuples(st.integers(1, 30), st.integers(7, 9), st.integers(7, 9), st.integers(1, 6)),
    )
)
def test_prepared_shape_is_that_of_prepare(shape):
    values = np.random.default_rng(0).normal(size=shape)
    assert preparation.prepared_shape(shape) == prepare(values).shape


def test_prepare_keep_shape_centers_and_scales_images():
    images = np.random.default_rng(0).normal(3.0, 5.0, size=(50, 5, 4, 2))
    kept = np.asarray(prepare(images, keep_shape=True))
    assert kept.shape == images.shape
    np.testing.assert_allclose(kept.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.mean(kept**2), 1, rtol=1e-4)
    assert prepare(images[..., 0], keep_shape=True).shape == (50, 5, 4, 1)
    assert prepare(images[:, :3], keep_shape=True).shape == (50, 3 * 4 * 2)
    standardized = np.asarray(prepare(images, scale="standardized", keep_shape=True))
    assert standardized.shape == images.shape
    np.testing.assert_allclose(standardized.std(axis=0), 1, rtol=1e-3)


@pytest.mark.parametrize("shape", [(40, 200), (40, 8, 25)])
def test_prepare_many_equal_rows_gives_zero_components(shape):
    row = np.random.default_rng(0).normal(size=(1, *shape[1:]))
    prepared = np.asarray(prepare(np.repeat(row, shape[0], axis=0)))
    np.testing.assert_array_equal(prepared[:, -NUM_COMPONENTS:], 0)


# Clipping.


@pytest.mark.parametrize(
    ("dtype", "far"), [("float32", 1e6), ("float32", 1e38), ("float64", 1e200)]
)
def test_clip_outlying_rows_limits_the_distance(dtype, far):
    rows = np.random.default_rng(0).normal(size=(40, 200)).astype(dtype)
    outlying = rows.copy()
    outlying[3] = far
    clipped = preparation.clip_outlying_rows(outlying)
    np.testing.assert_array_equal(np.delete(clipped, 3, axis=0), np.delete(rows, 3, axis=0))
    typical = np.median(np.linalg.norm(rows, axis=1))
    assert np.linalg.norm(clipped[3]) == pytest.approx(10 * typical, rel=0.1)
    assert outlying[3, 0] == np.asarray(far, dtype)  # the samples themselves stay


def test_clip_outlying_rows_keeps_few_rows_beside_empty_ones():
    rows = np.zeros((40, 200), np.float32)
    rows[:10] = np.random.default_rng(0).normal(size=(10, 200))
    np.testing.assert_array_equal(preparation.clip_outlying_rows(rows), rows)


@pytest.mark.parametrize("far", [1e6, 1e200])
def test_prepare_outlying_row_does_not_hide_the_others(far):
    values = decaying()
    outlying = values.copy()
    outlying[7, 3] = far
    one, other = (np.delete(np.asarray(prepare(v)), 7, axis=0) for v in (values, outlying))
    canonical = np.linalg.svd(np.linalg.qr(one)[0].T @ np.linalg.qr(other)[0])[1]
    # Nearly the same subspace: the row adds one direction, and the last one drops out.
    assert canonical[-2] > 0.95


# Alignment and shared axes.


def test_principal_axes_are_the_right_singular_vectors():
    columns = decaying()
    axes = np.asarray(preparation.principal_axes(columns, 5))
    exact = np.linalg.svd(columns, full_matrices=False)[2][:5]
    np.testing.assert_allclose(np.abs(exact @ axes), np.eye(5), atol=1e-3)
    assert preparation.principal_axes(columns[:3], 5).shape == (200, 3)


def test_procrustes_rotation_recovers_a_rotation():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(300, 6)).astype(np.float32) * np.linspace(3, 1, 6, dtype=np.float32)
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    columns = (target @ rotation).astype(np.float32)
    found = preparation.procrustes_rotation(columns, target)
    np.testing.assert_allclose(found, rotation.T, atol=1e-4)
    np.testing.assert_array_equal(
        preparation.procrustes_rotation(columns, target[:, :4]), np.eye(6)
    )
    with pytest.raises(ValueError, match="each of the 300 samples, got 10"):
        preparation.procrustes_rotation(columns, target[:10])


def test_prepare_align_to_gives_equal_components_of_a_rotated_layer():
    layer = decaying(400)
    target = preparation.principal_components(layer, NUM_COMPONENTS)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(200, 200)))
    plain, one, other = (
        np.asarray(prepare(values, align_to=align_to))
        for values, align_to in ((layer, None), (layer, target), (layer @ rotation, target))
    )
    np.testing.assert_allclose(one, other, atol=0.02)
    assert np.abs(plain - prepare(layer @ rotation)).max() > 0.1
    np.testing.assert_allclose(similarities(one), similarities(plain), atol=1e-3)


def test_principal_components_of_too_few_columns_are_none():
    assert preparation.principal_components(np.ones((30, 5)), 6) is None
    assert preparation.principal_components(np.ones((5, 30)), 6) is None
    assert preparation.principal_components(np.ones((30, 2, 3)), 6).shape == (30, 6)


def test_shared_axes_are_those_of_both_sides():
    x, z = decaying(), decaying(seed=1)[:, ::-1]
    axes = preparation.shared_axes(x, z)
    assert axes.shape == (200, 2 * NUM_COMPONENTS)
    assert prepare(x, axes=axes).shape == axes.shape
    for values, part in zip((x, z), np.split(axes, 2, axis=1), strict=True):
        along = prepare(values, axes=part)
        np.testing.assert_allclose(similarities(along), similarities(prepare(values)), atol=0.01)


@pytest.mark.parametrize(
    ("x_shape", "z_shape", "shared"),
    [
        ((30, 200), (30, 2, 100), True),
        ((30, 5, 5), (30, 25), False),
        ((30, 200), (30, 201), False),
        ((30, 200), (29, 200), False),
        ((30, MAX_RANKED_COLUMNS), (30, MAX_RANKED_COLUMNS), False),
        ((30,), (30,), False),
    ],
)
def test_shared_axes_need_equal_numbers_of_many_columns(x_shape, z_shape, shared):
    x, z = (np.random.default_rng(0).normal(size=shape) for shape in (x_shape, z_shape))
    assert (preparation.shared_axes(x, z) is not None) == shared


# Labels and invalid input.


def test_prepare_integers_in_one_column_gives_labels():
    labels = np.array([3, 3, -1, 8, 8, 3])
    expected = np.eye(3)[[1, 1, 0, 2, 2, 1]]
    for values in (labels, labels[:, None], labels.astype(np.int8)):
        prepared = prepare(values)
        assert is_labels(prepared)
        np.testing.assert_array_equal(prepared, expected)
    assert prepare(labels > 0).shape == (6, 2)
    for values in (labels.astype(float), np.stack([labels, labels], 1)):
        assert not is_labels(prepare(values))
    assert prepare(np.arange(MAX_LABELS)).shape == (MAX_LABELS, MAX_LABELS)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_as_labels_inverts_one_hot_only(labels):
    for dtype in (np.uint8, np.float32, bool):
        one_hot = np.eye(5, dtype=dtype)[labels]
        np.testing.assert_array_equal(preparation.as_labels(one_hot), labels)
    two_hot = np.concatenate([one_hot, one_hot], axis=1)
    for values in (two_hot, 2 * np.eye(5)[labels], np.asarray(labels), np.ones((3, 1))):
        assert preparation.as_labels(values) is values


def with_value(value, *shape):
    values = np.ones(shape)
    values[17] = value
    return values


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (with_value(np.nan, 40), {}, "layer has a value that is not finite in row 17"),
        (with_value(np.inf, 40), {"scale": "columns"}, "not finite in row 17"),
        (with_value(-np.inf, 40, 200), {}, "layer has a value that is not finite in row 17"),
        (with_value(np.nan, 40, 3), {"scale": "common"}, "not finite in row 17"),
        (np.ones((40, 0)), {}, r"layer must be \(n, …\).*\(40, 0\)"),
        (np.float32(1), {}, r"layer must be \(n, …\)"),
        (np.array(["a"] * 40), {}, "layer must hold real numbers, or labels as integers"),
        (np.ones(40, complex), {}, "layer must .*complex128"),
        (np.arange(1001), {}, "layer has 1001 different integers, more than 1000"),
        (np.ones(5), {"scale": "log"}, "scale must be one of .*got 'log'"),
        (np.ones((9, 5)), {"axes": np.ones((5, 2))}, r"axes of 5 .*layer of shape \(9, 5\)"),
        (np.ones((9, 200)), {"axes": np.ones((5, 2))}, r"axes of 5 .*layer of shape \(9, 200\)"),
        (np.ones((9, 200)), {"align_to": np.ones((8, 9))}, "each of the 9 samples, got 8"),
    ],
)
def test_prepare_invalid_input_names_the_argument(values, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(values, "layer", **options)
