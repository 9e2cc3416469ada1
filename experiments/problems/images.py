"""Images of shapes on one side or on both."""

from functools import partial

from numpy.random import Generator

from .maps import identity
from .problem import Array, Map, Problem, Sampler, Samples
from .samplers import flipped, map_sides, pairs
from .shapes import blobs, rectangles, shapes_of_kinds
from .truths import channel_nats, exact


def images() -> list[Problem]:
    """Images of shapes whose places and sizes are Gaussian pairs, and the kinds of shapes.

    The latents can be computed from the image, so that the mutual information of two images is that
    of their latents. Images come as 784 columns, or as (28, 28, 1) where the name says so.
    """

    def columns(images: Array) -> Array:
        return images.reshape(len(images), -1)

    def channel(images: Array) -> Array:
        return images[..., None]

    def pair(nats: float, width: int, shape: Map, form: Map) -> Sampler:
        return map_sides(pairs(width, nats), *[lambda latents: form(shape(latents))] * 2)

    def kinds(rng: Generator, n: int, beta: float) -> Samples:
        labels = rng.integers(0, 4, n)
        images = shapes_of_kinds(rng.standard_normal((n, 4)), labels)
        return columns(images), flipped(rng, labels, 4, beta)

    members = []
    for name, width, shape, held_out in (
        ("blob", 3, blobs, False),
        ("rectangle", 4, rectangles, True),
    ):
        for nats in (1, 2, 4):
            sampler = pair(nats, width, shape, columns)
            members.append(Problem(f"{name} I={nats}", "images", exact(nats), sampler, held_out))
            sampler = pair(nats, width, shape, channel)
            full = f"{name} 28x28x1 I={nats}"
            members.append(Problem(full, "images", exact(nats), sampler, held_out))
    mixed = map_sides(pairs(3, 2), identity, lambda latents: columns(blobs(latents)))
    members.append(Problem("latents-blob I=2", "images", exact(2), mixed, True))
    mixed = map_sides(pairs(4, 2), identity, lambda latents: channel(rectangles(latents)))
    members.append(Problem("latents-rectangle 28x28x1 I=2", "images", exact(2), mixed, True))
    for beta, held_out in ((0.0, False), (0.2, True)):
        members.append(
            Problem(
                "shape-kind" + f" beta={beta}" * bool(beta),
                "images",
                exact(channel_nats(4, beta)),
                partial(kinds, beta=beta),
                held_out,
            )
        )
    return members
