"""Tests of patch features: direct computation, invariances, textures, and all sizes of images."""

import numpy as np
import pytest

from mine_jax.estimate import patch_features as module
from mine_jax.estimate.patch_features import MAX_SIDE, NUM_ATOMS, POOLS, THRESHOLD, patch_features

WIDTH = POOLS * POOLS * NUM_ATOMS


def blobs(seed, n, height, width, channels=1):
    """Images of three Gaussian blobs each, at random places and of random colors."""
    rng = np.random.default_rng(seed)
    rows, columns = np.arange(height)[None, :, None], np.arange(width)[None, None]
    images = np.zeros((n, height, width, channels))
    for _ in range(3):
        row, column = (rng.uniform(2, size - 3, (n, 1, 1)) for size in (height, width))
        shape = np.exp(-((rows - row) ** 2 + (columns - column) ** 2))
        images += shape[..., None] * rng.uniform(0.5, 1, (n, 1, 1, channels))
    return images


def stripes(seed, n, size):
    """Stripes along the rows or the columns, of any phase; and which."""
    rng = np.random.default_rng(seed)
    along_rows = rng.integers(0, 2, n).astype(bool)
    waves = np.sin(0.5 * np.pi * np.arange(size) + rng.uniform(0, 2 * np.pi, (n, 1)))
    images = np.where(along_rows[:, None, None], waves[:, :, None], waves[:, None])
    return images[..., None], along_rows


@pytest.mark.parametrize("shape", [(12, 12, 1), (10, 17, 3)])
def test_patch_features_equal_direct_computation(shape):
    images = blobs(0, 200, *shape)
    features = patch_features(images).reshape(200, POOLS, POOLS, NUM_ATOMS)
    images = module._standardize(images).astype(np.float64)
    kernel, offset, contrast = module._learn(images.astype(np.float32))
    side, places = len(kernel), [size - len(kernel) + 1 for size in shape[:2]]
    regions = [np.array_split(np.arange(number), POOLS) for number in places]
    for p, q in ((0, 0), (1, 2), (2, 1)):
        each = []
        for row in regions[0][p]:
            for column in regions[1][q]:
                patch = images[3, row : row + side, column : column + side]
                products = np.einsum("hwc,hwca->a", patch - patch.mean(), kernel)
                products = products / np.sqrt(patch.var() + contrast) - offset
                each.append(np.maximum(products - THRESHOLD, 0))
        np.testing.assert_allclose(features[3, p, q], np.mean(each, axis=0), atol=1e-4)


def test_patch_features_dictionary_has_the_axes_of_its_patches():
    """One channel varies, along the columns: the atoms vary as it does."""
    images = np.zeros((200, 12, 12, 3), np.float32)
    images[..., 0] = np.random.default_rng(0).normal(size=(200, 1, 12))
    kernel = module._learn(images).kernel
    scale = np.abs(kernel).max()
    assert np.ptp(kernel, axis=0).max() < 1e-3 * scale
    assert np.ptp(kernel[:, :, 1:], axis=(0, 1, 2)).max() < 1e-3 * scale
    assert np.median(np.ptp(kernel[0, :, 0], axis=0)) > 0.1 * scale


@pytest.mark.parametrize("channels", [1, 3])
def test_patch_features_do_not_depend_on_brightness_and_little_on_contrast(channels):
    images = blobs(1, 300, 16, 16, channels)
    dictionary = module._learn(module._standardize(images))

    def features(values):
        return np.asarray(module._activate(module._standardize(values), *dictionary))

    expected = features(images)
    got = patch_features(images)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)  # other sizes of blocks
    np.testing.assert_array_equal(got, patch_features(images * 2.0**500))
    rng = np.random.default_rng(0)
    brightness = rng.uniform(-1, 1, (300, 1, 1, 1))
    for other in (images + brightness, 1e6 * images, images.astype(np.float32) + 100):
        np.testing.assert_allclose(features(other), expected, atol=2e-3)
    contrast = rng.uniform(1, 3, (300, 1, 1, 1))
    change = np.linalg.norm(features(contrast * images) - expected, axis=1)
    assert np.median(change) < 0.1 * np.median(np.linalg.norm(expected, axis=1))


def test_patch_features_change_little_by_a_shift():
    """By a pixel, compared with the pixels, and with other images."""
    images = blobs(2, 400, 16, 16)
    both = np.concatenate([images, np.roll(images, 1, axis=2)])
    of_pixels, of_features = (
        np.linalg.norm(values[:400] - values[400:], axis=1).mean()
        / np.linalg.norm(values[:200] - values[200:400], axis=1).mean()
        for values in (both.reshape(800, -1), patch_features(both))
    )
    assert of_features < 0.7 * of_pixels


def test_patch_features_tell_textures_apart():
    """The mean image of either texture is gray."""
    images, along_rows = stripes(3, 300, 12)
    accuracies = []
    for values in (images.reshape(300, -1), patch_features(images)):
        means = [values[:200][along_rows[:200] == which].mean(axis=0) for which in (0, 1)]
        distances = [np.linalg.norm(values[200:] - mean, axis=1) for mean in means]
        accuracies.append(np.mean((distances[1] < distances[0]) == along_rows[200:]))
    assert accuracies[0] < 0.8
    assert accuracies[1] == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("shape", "width"),
    [
        ((8, 8, 1), WIDTH),
        ((8, 8, 4), WIDTH),
        ((100, 70, 3), WIDTH),
        ((8, 300, 1), WIDTH),
        ((33, 33, 1), WIDTH),
        ((4, 3, 1), POOLS * 2 * NUM_ATOMS),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_patch_features_of_all_sizes(shape, width, dtype):
    images = (255 * np.random.default_rng(4).uniform(size=(30, *shape))).astype(dtype)
    features = patch_features(images)
    assert features.shape == (30, width)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert features.std(axis=0).min() > 0
    np.testing.assert_array_equal(patch_features(images), features)


def test_patch_features_of_large_images_are_those_of_means_over_blocks():
    images = blobs(5, 40, 70, 40)
    means = images[:, :69].reshape(40, 23, 3, 20, 2, 1).mean(axis=(2, 4))
    assert max(means.shape[1:3]) <= MAX_SIDE
    np.testing.assert_allclose(patch_features(images), patch_features(means), atol=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("offset", [0.0, 0.1, 1e3])
def test_patch_features_of_blank_images_are_zero(offset):
    """Also with a brightness of their own, and with few pixels in one image only."""
    images = np.full((300, 12, 12, 1), offset, np.float32)
    brightness = np.random.default_rng(6).uniform(size=(300, 1, 1, 1)).astype(np.float32)
    spot = images.copy()
    spot[7, 5, 5] += 1
    for each in (images, images + brightness, spot):
        np.testing.assert_array_equal(patch_features(each), np.zeros((300, 1), np.float32))


@pytest.mark.filterwarnings("error")
def test_patch_features_of_few_different_images_are_equal_where_images_are():
    which = np.random.default_rng(7).integers(0, 3, 300)
    features = patch_features(blobs(8, 3, 12, 12)[which])
    for i in range(3):
        np.testing.assert_allclose(np.ptp(features[which == i], axis=0), 0, atol=1e-5)
    means = [features[which == i].mean(axis=0) for i in range(3)]
    assert np.linalg.norm(means[0] - means[1]) > 0.1
