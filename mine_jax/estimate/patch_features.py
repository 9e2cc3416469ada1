"""Features of images that are learned without labels: a dictionary of patches, pooled."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

MAX_SIDE = 32  # pixels; larger images are averaged over blocks first
NUM_ATOMS = 64  # of the dictionary
NUM_TRAINING_PATCHES = 40_000
POOLS = 3  # regions along each axis whose mean activations are kept
WHITENING = 0.1  # of the mean variance of patches' principal axes, added to each
THRESHOLD = 0.5  # of a product with an atom, below which it counts as none
CONTRAST = 0.01  # of the mean variance of patches, added to each patch's before it divides
BLOCK_PATCHES = 1 << 18  # patches that are held at once


def patch_features(images: NDArray) -> NDArray:
    """Compute how much each region of an image looks like each atom of a dictionary of patches.

    Patches are normalized for brightness and contrast and whitened, their spherical k-means
    centers are the dictionary, and the positive part of the products with it is averaged over
    `POOLS` × `POOLS` regions. Coates and Ng 2012, "Learning feature representations with k-means".

    Args:
      images: (n, h, w, c), finite.

    Returns:
      (n, `POOLS`² `NUM_ATOMS`), float32; fewer for images of very few different patches.
    """
    from sklearn.cluster import MiniBatchKMeans  # takes a second to import

    images = _shrink(np.asarray(images, np.float32))
    side = int(np.clip(round(min(images.shape[1:3]) / 4.5), 2, 6))
    views = sliding_window_view(images, (side, side), axis=(1, 2))
    rng = np.random.default_rng(0)
    n, rows, columns = views.shape[:3]
    places = (rng.integers(0, size, NUM_TRAINING_PATCHES) for size in (n, rows, columns))
    sample = views[tuple(places)].reshape(NUM_TRAINING_PATCHES, -1)
    contrast = CONTRAST * sample.var(axis=1).mean() + 1e-8
    sample = _normalize(sample[sample.var(axis=1) > contrast], contrast)
    if len(sample) < NUM_ATOMS:
        return np.zeros((n, 1), np.float32)
    center = sample.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(sample.T))
    whiten = (axes / np.sqrt(variances + WHITENING * variances.mean())) @ axes.T
    white = (sample - center) @ whiten
    white /= np.linalg.norm(white, axis=1, keepdims=True) + 1e-8
    clusters = MiniBatchKMeans(NUM_ATOMS, random_state=0, n_init=1, batch_size=4096).fit(white)
    atoms = clusters.cluster_centers_
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True) + 1e-8
    weights = (whiten @ atoms.T).astype(np.float32)
    offset = (center @ whiten @ atoms.T).astype(np.float32)
    kernel = weights.reshape(-1, side, side, NUM_ATOMS).transpose(1, 2, 0, 3)
    size = max(1, BLOCK_PATCHES // (rows * columns))
    blocks = [_activate(images[i : i + size], kernel, offset, contrast) for i in range(0, n, size)]
    return np.concatenate([np.asarray(block) for block in blocks])


@jax.jit
def _activate(images: Array, kernel: Array, offset: Array, contrast: float) -> Array:
    """Return the pooled activations of images (b, h, w, c)."""

    def slide(values: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            values, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    ones = jnp.full((*kernel.shape[:3], 1), 1 / math.prod(kernel.shape[:3]))
    mean = slide(images, ones)
    variance = jnp.maximum(slide(images * images, ones) - mean * mean, 0)
    products = slide(images, kernel) - mean * kernel.sum(axis=(0, 1, 2), keepdims=True)
    products /= jnp.sqrt(variance + contrast)
    activations = jnp.maximum(products - offset[None, None, None] - THRESHOLD, 0)
    rows, columns = (_regions(size) for size in activations.shape[1:3])
    pooled = jnp.einsum("nrck,pr,qc->npqk", activations, rows, columns)
    return pooled.reshape(len(images), -1)


def _regions(size: int) -> NDArray:
    """Return weights that average `size` places over regions, (regions, size)."""
    regions = np.array_split(np.arange(size), min(POOLS, size))
    return np.stack([np.isin(np.arange(size), r) / len(r) for r in regions]).astype(np.float32)


def _normalize(patches: NDArray, contrast: float) -> NDArray:
    """Remove the mean and the contrast of each patch, (m, pixels)."""
    centered = patches - patches.mean(axis=1, keepdims=True)
    return centered / np.sqrt(centered.var(axis=1, keepdims=True) + contrast)


def _shrink(images: NDArray) -> NDArray:
    """Average images over blocks until no side is longer than `MAX_SIDE`."""
    n, height, width, channels = images.shape
    factor = -(-max(height, width) // MAX_SIDE)
    if factor == 1:
        return images
    rows, columns = max(1, height // factor), max(1, width // factor)
    cut = images[:, : rows * factor, : columns * factor]
    if min(height, width) < factor:
        return images
    return cut.reshape(n, rows, factor, columns, factor, channels).mean(axis=(2, 4))
