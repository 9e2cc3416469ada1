"""The list of problems: all of them, one by name, and samples of one."""

import zlib
from functools import cache

import numpy as np

from . import (
    bmi,
    digits,
    functions,
    gaussian,
    images,
    independent,
    labels,
    mutinfo,
    transformed,
    wild_columns,
    wild_images,
)
from .problem import Problem, Samples


@cache
def problems() -> tuple[Problem, ...]:
    """Return the problems of all benchmarks, family by family."""
    return (
        *gaussian.gaussian(),
        *gaussian.rotated(),
        *transformed.monotone(),
        *transformed.scale(),
        *gaussian.student_t(),
        *transformed.curved(),
        *functions.additive_noise(),
        *functions.function(),
        *functions.multimodal(),
        *labels.labels(),
        *labels.label_channel(),
        *images.images(),
        *independent.independent(),
        *bmi.bmi(),
        *mutinfo.mutinfo(),
        *digits.digits(),
        *wild_images.shapes(),
        *wild_columns.columns(),
    )


def find(name: str) -> Problem:
    """Return the problem with this full name; ValueError if there is none."""
    for problem in problems():
        if problem.name == name:
            return problem
    raise ValueError(f"there is no problem {name!r}")


def draw(problem: Problem, n: int, seed: int, data_dir: str | None = None) -> Samples:
    """Draw samples of a problem, the same for the same name, n and seed.

    Args:
      problem: the problem.
      n: number of samples.
      seed: their seed.
      data_dir: folder of MNIST, which the problems of digits read; None for a part of it.

    Returns:
      x and z, with the samples on the first axis of both: n, or of digits as many as there are.

    Raises:
      ValueError, FileNotFoundError, DatasetUnavailable: if the files of digits cannot be read.
    """
    rng = np.random.default_rng([zlib.crc32(problem.name.encode()), seed])
    return problem.sample(rng, n, data_dir) if problem.reads_digits else problem.sample(rng, n)
