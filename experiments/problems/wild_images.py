"""Images of shapes as people bring them: (n, 28, 28), and with their pixels in another order."""

from functools import partial

import numpy as np

from .maps import identity
from .problem import Array, Map, Problem
from .samplers import map_sides, pairs
from .shapes import SIDE, bars, blobs, rectangles
from .truths import exact


def shapes() -> list[Problem]:
    """Images of shapes, a truth of which is that of the Gaussian pairs of their latents."""
    table: list[tuple[str, Map, int, Map, float]] = [
        ("rectangles", rectangles, 4, identity, 4),
        ("rectangles", rectangles, 4, identity, 3),
        ("blobs", blobs, 3, identity, 4),
        ("shuffled rectangles", rectangles, 4, _shuffle, 2),
        ("shuffled blobs", blobs, 3, partial(_shuffle, flat=True), 1),
        ("shuffled bars", bars, 2, _shuffle, 4),
    ]
    problems = []
    for name, draw, width, order, nats in table:

        def image(latents: Array, draw: Map = draw, order: Map = order) -> Array:
            return order(draw(latents))

        problems.append(
            Problem(
                f"wild {name} I={nats}",
                "wild images",
                exact(nats),
                map_sides(pairs(width, nats), image, image),
                held_out=True,
                benchmark="wild",
            )
        )
    return problems


def _shuffle(images: Array, flat: bool = False) -> Array:
    """Put the pixels of images, (n, 28, 28), in one fixed random order; flat: as (n, 784)."""
    order = np.random.default_rng(0).permutation(SIDE * SIDE)
    pixels = images.reshape(len(images), -1)[:, order]
    return pixels if flat else pixels.reshape(images.shape)
