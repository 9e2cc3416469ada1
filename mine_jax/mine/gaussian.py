"""The Gaussian part of a statistics network: a quadratic form in pairs of linear projections.

−Σ_k (c_k (u_k − v_k)²/2 + a_k u_k² + b_k v_k²) with projections u of x and v of z is, up to a
constant, the log density ratio of a jointly Gaussian pair, and of Gaussian classes. It is set in
closed form (`estimate.gaussian_start`) or zero, and never trained.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from mine_jax.mine.bounds import Array

MAX_DEVIATIONS = 8.0  # a sample further out than any training sample would outweigh all others


class GaussianPart(NamedTuple):
    """Projections and strengths for k canonical pairs; zeros add nothing to T.

    Attributes:
      x_mean: subtracted from x, (d_x,).
      x_projections: (d_x, k).
      z_mean: subtracted from z, (d_z,).
      z_projections: (d_z, k).
      cross: c, (k,).
      x_square: a, (k,).
      z_square: b, (k,).
    """

    x_mean: Array
    x_projections: Array
    z_mean: Array
    z_projections: Array
    cross: Array
    x_square: Array
    z_square: Array


def zero(x_columns: int, z_columns: int, pairs: int) -> GaussianPart:
    """Return a Gaussian part that adds nothing, for so many columns and canonical pairs."""
    return GaussianPart(
        jnp.zeros(x_columns),
        jnp.zeros((x_columns, pairs)),
        jnp.zeros(z_columns),
        jnp.zeros((z_columns, pairs)),
        *(jnp.zeros(pairs) for _ in range(3)),
    )


def project(values: Array, mean: Array, projections: Array, clip: bool) -> Array:
    """Project samples (n, …) to (n, k).

    Args:
      values: the samples; all but the first axis are flattened to d columns.
      mean: (d,).
      projections: (d, k), of unit variance on training samples.
      clip: limit projections to ±`MAX_DEVIATIONS`.
    """
    projected = (values.reshape(values.shape[0], -1) - mean[None]) @ projections
    limit = MAX_DEVIATIONS if clip else math.inf
    return jnp.clip(projected, -limit, limit)


def score(part: GaussianPart, u: Array, v: Array) -> Array:
    """Compute the Gaussian part for projections that broadcast: (…, k) and (…, k) to (…).

    The difference is squared as such: for correlations near 1 the terms of its expansion cancel,
    and float32 has no digits left.
    """
    difference = u - v
    squares = (difference * difference) @ (part.cross / 2)
    return -squares - (u * u) @ part.x_square - (v * v) @ part.z_square


def x_features(part: GaussianPart, u: Array) -> tuple[Array, Array]:
    """Return f (n, k) and a (n,) of the expansion f·g + a + b."""
    return u * jnp.broadcast_to(part.cross, u.shape), -(u * u) @ (part.x_square + part.cross / 2)


def z_features(part: GaussianPart, v: Array) -> tuple[Array, Array]:
    """Return g (m, k) and b (m,) of the expansion f·g + a + b."""
    return v, -(v * v) @ (part.z_square + part.cross / 2)
