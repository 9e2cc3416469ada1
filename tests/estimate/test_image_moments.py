"""Moments of images against those of shapes that are known."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mine_jax.estimate.image_moments import flattened_shape, image_shape, moments

SIDE = 20


def ellipses(n=200, seed=0):
    """Images of one Gaussian ellipse each, (n, 20, 20, 1), and its parameters.

    The angle is that of the long axis from the rows' axis.
    """
    rng = np.random.default_rng(seed)
    center = rng.uniform(6, 14, (n, 2))
    long, short, angle = rng.uniform(2, 3, n), rng.uniform(1, 1.5, n), rng.uniform(0, np.pi, n)
    offsets = np.stack(np.mgrid[:SIDE, :SIDE], axis=-1) - center[:, None, None]
    cos, sin = (f(angle)[:, None, None] for f in (np.cos, np.sin))
    along = (cos * offsets[..., 0] + sin * offsets[..., 1]) / long[:, None, None]
    across = (cos * offsets[..., 1] - sin * offsets[..., 0]) / short[:, None, None]
    return np.exp(-(along**2 + across**2) / 2)[..., None], center, long, short, angle


def test_moments_of_ellipses_are_their_parameters():
    images, center, long, short, angle = ellipses()
    found = moments(images)
    np.testing.assert_allclose(found[:, 0], 2 * np.pi * long * short / SIDE**2, rtol=0.05)
    np.testing.assert_allclose(found[:, 1], np.log(np.pi * long * short), atol=0.05)
    np.testing.assert_allclose(found[:, 2:4], center, atol=0.1)
    # The square of a Gaussian has half its variance.
    np.testing.assert_allclose(found[:, 4] + found[:, 5], (long**2 + short**2) / 2, rtol=0.05)
    ellipticity = (long**2 - short**2) / (long**2 + short**2)
    np.testing.assert_allclose(found[:, 6], ellipticity * np.cos(2 * angle), atol=0.03)
    np.testing.assert_allclose(found[:, 7], ellipticity * np.sin(2 * angle), atol=0.03)
    for column, start in ((8, 0.0), (9, np.pi / 2)):
        error = (found[:, column] - angle + start + np.pi / 2) % np.pi - np.pi / 2
        np.testing.assert_allclose(error[ellipticity > 0.1], 0, atol=0.1)


@given(
    gain=st.sampled_from([-3.0, 0.5, 1e-200, -1e200]),
    offset=st.floats(-2, 2),
    channels=st.integers(1, 3),
)
def test_moments_do_not_depend_on_contrast_or_units(gain, offset, channels):
    images = ellipses(5)[0]
    moved = np.repeat(gain * (images + offset), channels, axis=-1)
    np.testing.assert_allclose(moments(moved)[:, 2:], moments(images)[:, 2:], atol=2e-6)


def test_moments_of_transposed_images_exchange_rows_and_columns():
    images = ellipses()[0]
    swapped = moments(np.swapaxes(images, 1, 2))
    expected = moments(images)[:, [0, 1, 3, 2, 5, 4, 6, 7, 9, 8]] * [*[1] * 6, -1, 1, -1, -1]
    np.testing.assert_allclose(swapped, expected, atol=2e-6)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7)])
def test_moments_of_empty_images_lie_in_the_middle(height, width):
    found = moments(np.zeros((3, height, width, 1)))
    np.testing.assert_allclose(found[:, 2:4], [[(height - 1) / 2, (width - 1) / 2]] * 3)
    np.testing.assert_array_equal(found[:, 6:], 0)


def test_moments_of_an_empty_image_beside_others_have_the_smallest_weight():
    images = ellipses(5)[0]
    images[2] = 0
    assert np.argmin(moments(images)[:, 1]) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_of_a_moved_shape_differ_in_the_place_only(dtype):
    rng = np.random.default_rng(0)
    squares = np.square(np.mgrid[:28, :28] - rng.integers(8, 20, (300, 2, 1, 1))).sum(axis=1)
    images = np.exp(-squares / 3.4).astype(dtype)[..., None]
    varies = np.ptp(moments(images), axis=0) > 0
    np.testing.assert_array_equal(varies, [False, False, True, True, *[False] * 6])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9, 8, 9, 2), (9, 8, 9, 2)),
        ((9, 28, 28), (9, 28, 28, 1)),
        ((9, 28, 28, 4), (9, 28, 28, 4)),
        ((9, 28, 28, 5), None),
        ((9, 7, 28, 2), None),
        ((9, 28, 7), None),
        ((9, 784), None),
        ((9,), None),
    ],
)
def test_image_shape_needs_two_axes_of_pixels(shape, expected):
    assert image_shape(shape) == expected


def test_image_shape_follows_callers_who_know():
    for shape in ((9, 4, 5, 6), (9, 28, 28, 64)):
        assert image_shape(shape) is None
        assert image_shape(shape, told=True) == shape
    assert image_shape((9, 3, 28), told=True) is None


def test_flattened_shape_finds_the_sides_of_pixels_alone():
    images = ellipses()[0]
    rng = np.random.default_rng(0)
    pixels = images.reshape(len(images), -1)
    assert flattened_shape(pixels) == (SIDE, SIDE)
    colors = images * rng.uniform(0.5, 1, (len(images), 1, 1, 3))
    assert flattened_shape(colors.reshape(len(images), -1)) == (SIDE, SIDE, 3)
    planar = np.moveaxis(colors, -1, 1).reshape(len(images), -1)
    smooth = np.cumsum(rng.normal(size=(200, 400)), axis=1)
    latent = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 400))
    others = [pixels[:, rng.permutation(400)], pixels[:, :399], pixels[:, :49], planar, smooth]
    others.append(latent)
    assert [flattened_shape(other) for other in (*others, np.ones((200, 400)))] == [None] * 7
