"""Gaussian pairs under invertible maps of either side, which keep the mutual information."""

import math
from functools import partial

import numpy as np
from scipy import special

from .maps import half_cube, identity, spiral, swiss_roll, wiggly_x
from .problem import Array, Map, Problem
from .samplers import SPARSE_NATS, map_sides, pairs, sparse
from .truths import exact


def monotone() -> list[Problem]:
    """Gaussian pairs with an increasing map of each column."""

    def cube(x: Array) -> Array:
        return x**3

    def two_sided_exp(x: Array) -> Array:
        return np.sign(x) * np.expm1(5 * np.abs(x))

    table: list[tuple[str, int, float, Map, Map, bool]] = [
        *(
            (f"z^3 d={d} I={nats}", d, nats, identity, cube, d != 5)
            for d in (1, 5, 20)
            for nats in (1, 2, 4)
        ),
        ("x^3 z^3 d=1 I=2", 1, 2, cube, cube, True),
        ("two-sided exp z d=5 I=2", 5, 2, identity, two_sided_exp, False),
        ("two-sided exp x z d=3 I=2", 3, 2, two_sided_exp, two_sided_exp, True),
        ("asinh x z d=5 I=2", 5, 2, np.arcsinh, np.arcsinh, False),
        ("normal cdf x z d=5 I=2", 5, 2, special.ndtr, special.ndtr, False),
        ("exp x z d=5 I=2", 5, 2, np.exp, np.exp, True),
    ]
    members = [
        Problem(name, "monotone", exact(nats), map_sides(pairs(d, nats), on_x, on_z), held_out)
        for name, d, nats, on_x, on_z, held_out in table
    ]
    sampler = map_sides(sparse(25), half_cube, half_cube)
    members.append(Problem("half-cube sparse d=25", "monotone", exact(SPARSE_NATS), sampler, True))
    return members


def scale() -> list[Problem]:
    """Gaussian pairs in large units, with a large offset, and with an outlying row."""

    def one_outlying_row(x: Array) -> Array:
        x = x.copy()
        x[len(x) // 2] = 1e6
        return x

    table: list[tuple[str, Map, bool]] = [
        ("x times 1e6 d=5 I=2", lambda x: 1e6 * x, False),
        ("one row at 1e6 d=5 I=2", one_outlying_row, False),
        ("x plus 1e6 d=5 I=2", lambda x: 1e6 + x, True),
    ]
    return [
        Problem(name, "scale", exact(2), map_sides(pairs(5, 2), on_x, identity), held_out)
        for name, on_x, held_out in table
    ]


def curved() -> list[Problem]:
    """Gaussian pairs under invertible curved maps (Czyż et al. 2023, and similar ones)."""

    def wiggly_z(z: Array) -> Array:  # the slope is at least 0.53
        return z - 0.4 * np.sin(0.4 * z) + 0.17 * np.sin(1.3 * z) + 0.02 * np.sin(4.3 * z)

    def banana(x: Array) -> Array:
        return np.stack([x[:, 0], x[:, 1] + x[:, 0] ** 2], axis=1)

    rho = 0.75
    nats = -0.5 * math.log(1 - rho**2)
    members = [
        Problem(
            f"spiral sparse d={d}",
            "curved",
            exact(SPARSE_NATS),
            map_sides(sparse(d), partial(spiral, i=0, j=1), partial(spiral, i=1, j=2)),
            False,
        )
        for d in (3, 5, 25)
    ]
    table: list[tuple[str, int, float, Map, Map, bool]] = [
        ("wiggly d=1 rho=0.75", 1, nats, wiggly_x, wiggly_z, False),
        ("wiggly d=5 I=2", 5, 2, wiggly_x, wiggly_z, True),
        ("swiss roll rho=0.75", 1, nats, swiss_roll, special.ndtr, True),
        ("banana d=2 I=2", 2, 2, banana, lambda z: banana(z[:, ::-1]), True),
    ]
    return members + [
        Problem(name, "curved", exact(truth), map_sides(pairs(d, truth), on_x, on_z), held_out)
        for name, d, truth, on_x, on_z, held_out in table
    ]
