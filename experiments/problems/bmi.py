"""The 40 tasks of the benchmark of Czyż et al. 2023.

"Beyond Normal: On the Evaluation of Mutual Information Estimators", https://arxiv.org/abs/2306.11078.
Estimators there have 10,000 samples. Names are those of their package,
https://github.com/cbg-ethz/bmi, with "bmi" before them.
"""

import math
from functools import partial

import numpy as np
from numpy.random import Generator
from scipy import special

from .maps import half_cube, identity, spiral, swiss_roll, to_two_modes, wiggly_x
from .problem import Array, Map, Problem, Sampler, Samples
from .samplers import SPARSE_NATS, map_sides, pairs, sparse, student_t_pairs, uniform_noise
from .truths import exact, student_t_nats, uniform_noise_nats

RHO = 0.75  # correlation of the pair of columns
PAIR_NATS = -0.5 * math.log(1 - RHO**2)

Row = tuple[str, float, Sampler]


def bmi() -> list[Problem]:
    """Return the 40 tasks; all are held out."""
    groups = {
        "bmi 1 x 1": _one_dimensional(),
        "bmi multinormal": _multinormal(),
        "bmi student-t": _student_t(),
        "bmi transformed": _transformed(),
    }
    return [
        Problem(f"bmi {name}", family, exact(nats), sampler, True, benchmark="bmi")
        for family, rows in groups.items()
        for name, nats, sampler in rows
    ]


def _one_dimensional() -> list[Row]:
    """A column on each side, and one rolled up in the plane."""

    def wiggly_z(z: Array) -> Array:  # the slope is at least 0.53
        waves = -0.4 * np.sin(0.4 * z) + 0.17 * np.sin(1.3 * z + 3.5)
        return z + waves + 0.02 * np.sin(4.3 * z - 2.5)

    modes_x = to_two_modes(0.3, (0, 1), (5, 1), ends=(-8, 13))
    modes_z = to_two_modes(0.5, (-1, 1), (3, 1), ends=(-9, 11))
    mapped: list[tuple[str, Map, Map]] = [
        ("Bivariate normal 1 x 1", identity, identity),
        ("Normal CDF @ Bivariate normal 1 x 1", special.ndtr, special.ndtr),
        ("Bimodal 1 x 1", modes_x, modes_z),
        ("Wiggly @ Bivariate normal 1 x 1", wiggly_x, wiggly_z),
        ("Half-cube @ Bivariate normal 1 x 1", half_cube, half_cube),
        ("Swiss roll 2 x 1", swiss_roll, special.ndtr),
    ]
    return [
        *(
            (name, PAIR_NATS, map_sides(pairs(1, PAIR_NATS), on_x, on_z))
            for name, on_x, on_z in mapped
        ),
        *(
            (f"Uniform 1 x 1 (additive noise={e})", uniform_noise_nats(e), uniform_noise(e))
            for e in (0.1, 0.75)
        ),
        _student_t_row(1, 1),
        _asinh_row(1, 1),
    ]


def _multinormal() -> list[Row]:
    """Gaussian columns of which all are correlated, or two of each side."""
    dense: list[Row] = [
        (f"Multinormal {d} x {d} (dense)", _dense_nats(d), partial(_dense, d))
        for d in (2, 3, 5, 25, 50)
    ]
    two_pairs: list[Row] = [(_two_pairs_name(d), SPARSE_NATS, sparse(d)) for d in (2, 3, 5, 25)]
    return dense + two_pairs


def _student_t() -> list[Row]:
    """Student-t columns that share nothing but the divisor of each row."""
    return [_student_t_row(nu, d) for nu, d in ((1, 2), (2, 2), (2, 3), (3, 3), (2, 5), (3, 5))]


def _transformed() -> list[Row]:
    """Maps of two correlated pairs of columns and of Student-t columns."""

    def spirals(sampler: Sampler) -> Sampler:
        return map_sides(sampler, partial(spiral, i=0, j=1), partial(spiral, i=1, j=2))

    rows: list[Row] = []
    for d in (3, 5, 25):
        name, uniform = _two_pairs_name(d), map_sides(sparse(d), special.ndtr, special.ndtr)
        rows += [
            (f"Normal CDF @ {name}", SPARSE_NATS, uniform),
            (f"Half-cube @ {name}", SPARSE_NATS, map_sides(sparse(d), half_cube, half_cube)),
            (f"Spiral @ {name}", SPARSE_NATS, spirals(sparse(d))),
            (f"Spiral @ Normal CDF @ {name}", SPARSE_NATS, spirals(uniform)),
        ]
    return rows + [_asinh_row(nu, d) for nu, d in ((1, 2), (2, 3), (2, 5))]


def _two_pairs_name(d: int) -> str:
    return f"Multinormal {d} x {d} (2-pair)"


def _dense(d: int, rng: Generator, n: int) -> Samples:
    """Draw columns, (n, d) each, any two of which have a correlation of 0.5."""
    own, shared = rng.standard_normal((n, 2 * d)), rng.standard_normal((n, 1))
    x, z = np.split((own + shared) / math.sqrt(2), 2, axis=1)
    return x, z


def _dense_nats(d: int) -> float:
    """Compute the mutual information of `_dense`: its one canonical correlation is d / (d + 1)."""
    return -0.5 * math.log(1 - (d / (d + 1)) ** 2)


def _student_t_row(nu: int, d: int) -> Row:
    return f"Student-t {d} x {d} (dof={nu})", student_t_nats(nu, d), student_t_pairs(nu, d)


def _asinh_row(nu: int, d: int) -> Row:
    name, nats, sampler = _student_t_row(nu, d)
    return f"Asinh @ {name}", nats, map_sides(sampler, np.arcsinh, np.arcsinh)
