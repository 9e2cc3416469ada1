"""Independent samples."""

from functools import partial

from numpy.random import Generator

from .problem import Map, Problem, Sampler, Samples
from .samplers import FEATURES
from .shapes import blobs, rectangles
from .truths import exact


def independent() -> list[Problem]:
    """Independent samples: an estimator should return zero."""

    def normals(rng: Generator, n: int, d: int) -> Samples:
        return rng.standard_normal((n, d)), rng.standard_normal((n, d))

    def images(rng: Generator, n: int, width: int, shape: Map) -> Samples:
        x, z = (shape(rng.standard_normal((n, width))).reshape(n, -1) for _ in range(2))
        return x, z

    def cauchy(rng: Generator, n: int) -> Samples:
        return rng.standard_cauchy((n, 2)), rng.standard_cauchy((n, 2))

    def labels(rng: Generator, n: int) -> Samples:
        return rng.standard_normal((n, FEATURES)), rng.integers(0, 10, n)

    table: list[tuple[str, Sampler, bool, int | None]] = [
        ("independent d=1", partial(normals, d=1), False, None),
        ("independent d=10", partial(normals, d=10), False, None),
        ("independent d=10 n=500", partial(normals, d=10), False, 500),
        ("independent blobs", partial(images, width=3, shape=blobs), False, None),
        ("independent d=10 n=1000", partial(normals, d=10), True, 1000),
        ("independent cauchy d=2", cauchy, True, None),
        ("independent rectangles", partial(images, width=4, shape=rectangles), True, None),
        ("independent labels classes=10", labels, True, None),
    ]
    return [
        Problem(name, "independent", exact(0), sampler, held_out, n)
        for name, sampler, held_out, n in table
    ]
