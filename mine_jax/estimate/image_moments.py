"""Moments of images up to the second order: where their contrast is and how it is spread."""

import math

import numpy as np
from jax.typing import ArrayLike

NUM_MOMENTS = 10
ELLIPTICITY = (6, 7)  # the two moments that have a natural scale, from -1 to 1
MIN_IMAGE_SIDE = 8  # pixels; smaller arrays have no shapes to describe
MAX_CHANNELS = 4  # gray or RGB, with or without alpha; more are the channels of a layer
MIN_TOLD_SIDE = 4  # pixels of images that the caller calls so
MIN_ELLIPTICITY = 0.05  # shapes below have no direction
MIN_WEIGHT = 1e-20  # total weight below which an image has no contrast
SAMPLE_ROWS = 500  # that tell whether columns are pixels
# Median correlation of a pixel with the one below, and how much less that with one in between is.
MIN_LIKENESS, MIN_DIFFERENCE = 0.3, 0.2
BLOCK_ELEMENTS = 1 << 16  # numbers in a block of images: bounds the memory in float64


def image_shape(shape: tuple[int, ...], told: bool = False) -> tuple[int, int, int, int] | None:
    """Return (n, h, w, c) for the shape of images, or None for any other shape.

    Images are (n, h, w, c) or (n, h, w) with at least 8 x 8 pixels and at most 4 channels. Vectors
    are not, whatever their number of columns: a hidden layer of 256 units is not a picture of
    16 x 16 pixels.

    Args:
      shape: the shape of an array of n samples.
      told: the caller says that samples of such a shape are images, by a network that takes them:
        4 x 4 pixels and any number of channels do.
    """
    smallest = MIN_TOLD_SIDE if told else MIN_IMAGE_SIDE
    if len(shape) not in (3, 4) or min(shape[1:3]) < smallest:
        return None
    n, height, width, channels = (*shape, 1)[:4]
    return (n, height, width, channels) if told or channels <= MAX_CHANNELS else None


def flattened_shape(columns: np.ndarray) -> tuple[int, ...] | None:
    """Return (h, h) or (h, h, 3) if columns seem to be the pixels of square images, else None.

    A pixel is more like the one below it, h columns on, than like the one halfway there; columns
    of a smooth curve are not, nor are features in any order. Colors have channels last: with
    channels first the pixel below is closer than a row of three channels.

    Args:
      columns: (n, d), finite.
    """
    for channels in (1, 3):
        side = math.isqrt(columns.shape[1] // channels)
        if side < MIN_IMAGE_SIDE or side * side * channels != columns.shape[1]:
            continue
        some = columns[:: max(1, len(columns) // SAMPLE_ROWS)].astype(np.float64)
        some -= some.mean(axis=0)
        norms = np.sqrt(np.square(some).sum(axis=0))
        step = side * channels
        below, between = (_likeness(some, norms, lag) for lag in (step, step // 2))
        if channels > 1:
            between = max(between, _likeness(some, norms, side))
        if below > max(MIN_LIKENESS, between + MIN_DIFFERENCE):
            return (side, side, channels)[: 2 if channels == 1 else 3]
    return None


def _likeness(columns: np.ndarray, norms: np.ndarray, lag: int) -> float:
    """Return the median correlation of columns with those `lag` columns on; 0 if constant."""
    products = np.einsum("nd,nd->d", columns[:, :-lag], columns[:, lag:])
    scales = norms[:-lag] * norms[lag:]
    vary = scales > 0
    return float(np.median(products[vary] / scales[vary])) if vary.any() else 0.0


def moments(images: ArrayLike) -> np.ndarray:
    """Compute moments of images, weighting each pixel by its contrast.

    The weight of a pixel is the square of its difference from the median of its image, summed over
    the channels. A flat background and weak noise therefore count little, and a dark shape on a
    bright background has the moments of a bright shape on a dark one. See Hu 1962, "Visual pattern
    recognition by moment invariants".

    Args:
      images: (n, h, w, c), finite.

    Returns:
      (n, 10), rounded to 6 decimals so that ranks of a constant moment are not those of rounding
      errors. The columns are

      * 0: mean value, of images divided by the largest absolute value of all images;
      * 1: logarithm of the total weight of the same images;
      * 2, 3: row and column of the center of the weights, in pixels; the middle of an image
        without contrast;
      * 4, 5: variance of the weights along the rows' and the columns' axis, in pixels squared;
      * 6, 7: ellipticity along the axes and along the diagonals, each from -1 to 1;
      * 8, 9: direction of the long axis in radians, from -pi/2 to pi/2, measured from the rows'
        and from the columns' axis because an angle jumps at its ends; 0 for round shapes.
    """
    images = np.asarray(images)
    largest = max(float(np.max(images)), -float(np.min(images)))
    scale = largest if largest > 0 else 1.0  # squares of values such as 1e200 overflow
    size = max(1, BLOCK_ELEMENTS // images[0].size)
    blocks = [images[start : start + size] for start in range(0, len(images), size)]
    return np.concatenate([_block_moments(block, scale) for block in blocks]).round(6)


def _block_moments(images: np.ndarray, scale: float) -> np.ndarray:
    """Compute `moments` of a block of images divided by `scale`, not rounded."""
    n, height, width, channels = images.shape
    pixels = np.moveaxis(images, -1, 1).reshape(n, channels, height * width)
    pixels = np.divide(pixels, scale, dtype=np.float64)  # first: sums of the largest ones overflow
    contrast = pixels - np.median(pixels, axis=2, keepdims=True)
    weights = np.einsum("ncp,ncp->np", contrast, contrast).reshape(n, height, width)
    total = weights.sum(axis=(1, 2))
    flat = total <= MIN_WEIGHT
    weights[flat] = 0
    weights[flat, (height - 1) // 2 : height // 2 + 1, (width - 1) // 2 : width // 2 + 1] = 1
    weights /= weights.sum(axis=(1, 2), keepdims=True)

    rows, columns = np.arange(height), np.arange(width)
    row_weights, column_weights = weights.sum(axis=2), weights.sum(axis=1)
    row, column = row_weights @ rows, column_weights @ columns
    row_offsets, column_offsets = rows - row[:, None], columns - column[:, None]
    row_variance = np.einsum("nh,nh->n", row_weights, row_offsets**2)
    column_variance = np.einsum("nw,nw->n", column_weights, column_offsets**2)
    covariance = np.einsum("nhw,nh,nw->n", weights, row_offsets, column_offsets, optimize=True)
    variance = row_variance + column_variance
    variance = np.where(variance > 0, variance, 1)
    axial = (row_variance - column_variance) / variance
    diagonal = 2 * covariance / variance
    elongated = np.hypot(axial, diagonal) > MIN_ELLIPTICITY
    return np.stack(
        [
            pixels.mean(axis=(1, 2)),
            np.log(np.maximum(total, MIN_WEIGHT)),
            *(row, column, row_variance, column_variance, axial, diagonal),
            np.arctan2(diagonal, axial) / 2 * elongated,
            np.arctan2(-diagonal, -axial) / 2 * elongated,
        ],
        axis=1,
    )
