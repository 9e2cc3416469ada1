"""The list of problems: all of them, one by name, and samples of one."""

import zlib
from functools import cache

import numpy as np

from . import bmi, functions, gaussian, images, independent, labels, transformed
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
    )


def find(name: str) -> Problem:
    """Return the problem with this full name; ValueError if there is none."""
    for problem in problems():
        if problem.name == name:
            return problem
    raise ValueError(f"there is no problem {name!r}")


def draw(problem: Problem, n: int, seed: int) -> Samples:
    """Draw samples of a problem, the same for the same name, n and seed.

    Args:
      problem: the problem.
      n: number of samples.
      seed: their seed.

    Returns:
      x and z, with the n samples on the first axis of both.
    """
    return problem.sample(np.random.default_rng([zlib.crc32(problem.name.encode()), seed]), n)
