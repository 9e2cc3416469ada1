"""Images of shapes that their latents determine."""

import numpy as np
from scipy import special

from .problem import Array

SIDE = 28  # pixels of an image's side


def blobs(latents: Array) -> Array:
    """Draw images of a Gaussian bump.

    Args:
      latents: (n, 3), standard normal: of the center's row and column, which are uniform from 8
        to 20 pixels, and of the standard deviation, uniform from 1.5 to 4.

    Returns:
      (n, 28, 28) from 0 to 1, float32.
    """
    center, width = place(latents[:, :2], 8, 20), place(latents[:, 2], 1.5, 4)
    off = np.arange(SIDE) - center[..., None]
    return outer(np.exp(-(off**2) / (2 * width[:, None, None] ** 2)))


def rectangles(latents: Array) -> Array:
    """Draw images of a filled rectangle; the value of a pixel is its covered fraction.

    Args:
      latents: (n, 4), standard normal: of the center's row and column, uniform from 8 to 20
        pixels, and of half the height and half the width, uniform from 2 to 7.

    Returns:
      (n, 28, 28) from 0 to 1, float32. Pixel i covers i to i + 1.
    """
    return outer(cover(place(latents[:, :2], 8, 20), place(latents[:, 2:], 2, 7)))


def bars(latents: Array) -> Array:
    """Draw images of a vertical bar from edge to edge.

    Args:
      latents: (n, 2), standard normal: of the center's column, uniform from 8 to 20 pixels, and of
        half the width, uniform from 2 to 7.

    Returns:
      (n, 28, 28) from 0 to 1, float32.
    """
    profile = cover(place(latents[:, 0], 8, 20), place(latents[:, 1], 2, 7))
    return outer(np.stack([np.ones_like(profile), profile], axis=1))


def shapes_of_kinds(latents: Array, kinds: np.ndarray) -> Array:
    """Draw images of four kinds of shapes: rectangle, frame, plus, blob.

    Args:
      latents: (n, 4), as for `rectangles`; blobs use the first three, as `blobs`.
      kinds: (n,) integers from 0 to 3.

    Returns:
      (n, 28, 28) from 0 to 1, float32.
    """
    center, half = place(latents[:, :2], 8, 20), place(latents[:, 2:], 2, 7)
    full, thin = cover(center, half), cover(center, np.ones_like(half))
    rectangle = outer(full)
    vertical, horizontal = (full[:, 0], thin[:, 1]), (thin[:, 0], full[:, 1])
    plus = np.maximum(*(outer(np.stack(bar, 1)) for bar in (vertical, horizontal)))
    frame = rectangle - outer(cover(center, half - 1))
    return np.choose(kinds[:, None, None], (rectangle, frame, plus, blobs(latents[:, :3])))


def place(latents: Array, low: float, high: float) -> Array:
    """Map standard normal latents to uniform numbers from `low` to `high`."""
    return low + (high - low) * special.ndtr(latents)


def cover(center: Array, half: Array) -> Array:
    """Compute the fraction of each pixel within center ± half, (…, 28) for (…) each."""
    low, high = (center - half)[..., None], (center + half)[..., None]
    pixel = np.arange(SIDE)
    return np.clip(np.minimum(pixel + 1, high) - np.maximum(pixel, low), 0, 1)


def outer(profiles: Array) -> Array:
    """Multiply profiles over rows and columns, (n, 2, 28), to images, (n, 28, 28), float32."""
    profiles = profiles.astype(np.float32)
    return profiles[:, 0, :, None] * profiles[:, 1, None, :]
