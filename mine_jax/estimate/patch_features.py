"""Features of images that are learned without labels: a dictionary of patches, pooled."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from mine_jax.mine.padding import next_power_of_two

MAX_SIDE = 32  # pixels; longer sides are averaged over blocks first
NUM_ATOMS = 64  # of the dictionary
NUM_TRAINING_PATCHES = 40_000
POOLS = 3  # regions along each axis whose mean activations are kept
WHITENING = 0.1  # of the mean variance of patches' principal axes, added to each
THRESHOLD = 0.5  # of a product with an atom, below which it counts as none
CONTRAST = 0.01  # of the mean variance of patches, added to each patch's before it divides
MIN_DEVIATION = 1e-5  # of pixels in units of the largest one, below which all images are blank
BLOCK_PATCHES = 1 << 18  # patches that are held at once


class _Dictionary(NamedTuple):
    """What activates the atoms: with p a patch without its mean, (p·kernel)/√(var p + contrast).

    Attributes:
      kernel: (side, side, c, `NUM_ATOMS`).
      offset: to subtract, (`NUM_ATOMS`,).
      contrast: a variance.
    """

    kernel: NDArray
    offset: NDArray
    contrast: float


def patch_features(images: NDArray) -> NDArray:
    """Compute how much each region of an image looks like each atom of a dictionary of patches.

    Patches are normalized for brightness and contrast and whitened, their spherical k-means
    centers are the dictionary, and the positive part of the products with it is averaged over
    `POOLS` × `POOLS` regions. Coates and Ng 2012, "Learning feature representations with k-means".

    A brightness that is added to an image, and a factor of all images, have no influence.

    Args:
      images: (n, h, w, c), finite.

    Returns:
      (n, `POOLS`² `NUM_ATOMS`), float32, regions in front; fewer regions for images that are too
      narrow, and one column of zeros for images without enough patches that are not blank.
    """
    images = _standardize(images)
    dictionary = _learn(images)
    if dictionary is None:
        return np.zeros((len(images), 1), np.float32)
    n = len(images)
    size = max(1, min(BLOCK_PATCHES // math.prod(images.shape[1:3]), next_power_of_two(n)))
    images = np.pad(images, ((0, -n % size), (0, 0), (0, 0), (0, 0)))  # one shape to compile for
    blocks = [_activate(images[start : start + size], *dictionary) for start in range(0, n, size)]
    return np.concatenate([np.asarray(block) for block in blocks])[:n]


def _standardize(images: NDArray) -> NDArray:
    """Shrink images, remove the brightness of each, and divide all by one number; float32."""
    largest = max(float(images.max()), -float(images.min()))  # squares of 1e200 overflow
    images = _shrink(np.divide(images, largest if largest > 0 else 1).astype(np.float32))
    images -= images.mean(axis=(1, 2, 3), keepdims=True)
    deviation = float(images.std())
    return images / deviation if deviation > MIN_DEVIATION else np.zeros_like(images)


def _learn(images: NDArray) -> _Dictionary | None:
    """Learn a dictionary; None without enough patches that are not blank."""
    side = int(np.clip(round(min(images.shape[1:3]) / 4.5), 2, 6))
    views = sliding_window_view(images, (side, side), axis=(1, 2))
    rng = np.random.default_rng(0)
    places = (rng.integers(0, size, NUM_TRAINING_PATCHES) for size in views.shape[:3])
    sample = views[tuple(places)].reshape(NUM_TRAINING_PATCHES, -1)
    contrast = CONTRAST * float(sample.var(axis=1).mean())
    sample = _normalize(sample[sample.var(axis=1) > contrast], contrast)
    if len(sample) < NUM_ATOMS:
        return None
    center = sample.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(sample.T))
    whiten = (axes / np.sqrt(variances + WHITENING * variances.mean() + 1e-8)) @ axes.T
    white = _to_unit_length((sample - center) @ whiten)
    clusters = MiniBatchKMeans(NUM_ATOMS, random_state=0, n_init=1, batch_size=4096).fit(white)
    atoms = _to_unit_length(clusters.cluster_centers_)
    weights = (whiten @ atoms.T).astype(np.float32)
    kernel = weights.reshape(-1, side, side, NUM_ATOMS).transpose(1, 2, 0, 3)
    return _Dictionary(kernel, (center @ weights).astype(np.float32), contrast)


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


def _to_unit_length(rows: NDArray) -> NDArray:
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-8)


def _normalize(patches: NDArray, contrast: float) -> NDArray:
    """Remove the mean and the contrast of each patch, (m, pixels)."""
    centered = patches - patches.mean(axis=1, keepdims=True)
    return centered / np.sqrt(centered.var(axis=1, keepdims=True) + contrast)


def _shrink(images: NDArray) -> NDArray:
    """Average images over blocks until no side is longer than `MAX_SIDE`."""
    n, height, width, channels = images.shape
    block = [-(-size // MAX_SIDE) for size in (height, width)]
    rows, columns = height // block[0], width // block[1]
    cut = images[:, : rows * block[0], : columns * block[1]]
    return cut.reshape(n, rows, block[0], columns, block[1], channels).mean(axis=(2, 4))
