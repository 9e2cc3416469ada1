"""Gaussian pairs, plain and rotated, and pairs of Student-t columns."""

from .problem import Problem, Sampler
from .samplers import SPARSE_NATS, map_sides, orthogonal, pairs, sparse, student_t_pairs
from .truths import exact, student_t_nats


def gaussian() -> list[Problem]:
    """Pairs of d columns, each pair with the same correlation."""
    tuned = [(d, nats) for d in (1, 5, 20) for nats in (1, 2, 4, 6, 8, 10)]
    held_out = [(3, 2), (3, 8), (10, 1), (10, 4), (50, 2), (50, 6)]
    return [
        Problem(
            f"gaussian d={d} I={nats}",
            "gaussian",
            exact(nats),
            pairs(d, nats),
            (d, nats) not in tuned,
        )
        for d, nats in tuned + held_out
    ]


def rotated() -> list[Problem]:
    """Gaussian pairs whose dependence is in few columns, or spread over all by rotations."""

    def dense(sampler: Sampler, d: int) -> Sampler:
        rotate_x, rotate_z = orthogonal(d, 1), orthogonal(d, 2)
        return map_sides(sampler, lambda x: x @ rotate_x, lambda z: z @ rotate_z)

    members = [
        Problem(
            f"dense gaussian d={d} I={nats}",
            "rotated",
            exact(nats),
            dense(pairs(d, nats), d),
            held_out,
        )
        for d, nats, held_out in ((5, 2, False), (20, 4, False), (10, 4, True), (50, 2, True))
    ]
    truth = exact(SPARSE_NATS)
    return [
        *members,
        Problem("sparse gaussian d=25", "rotated", truth, sparse(25), False),
        Problem("dense sparse gaussian d=25", "rotated", truth, dense(sparse(25), 25), True),
    ]


def student_t() -> list[Problem]:
    """Multivariate Student-t: Gaussian pairs, each row divided by a random number.

    The truth is that of the Gaussian pair, plus that of the divisor which both sides share.
    """
    table = [
        (2, 5, 0, False),
        (2, 2, 1, False),
        (2, 1, 0, True),
        (2, 2, 0, True),
        (3, 2, 0, True),
        (3, 5, 1, True),
    ]
    members = []
    for nu, d, nats, held_out in table:
        name = f"student-t nu={nu} d={d}" + (f" correlated I_gauss={nats}" if nats else "")
        truth = exact(nats + student_t_nats(nu, d))
        members.append(Problem(name, "student-t", truth, student_t_pairs(nu, d, nats), held_out))
    return members
