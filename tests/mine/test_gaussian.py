"""The Gaussian part: its formula, its expansion, and its meaning for Gaussian pairs."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mine_jax.mine import gaussian
from mine_jax.mine.gaussian import MAX_DEVIATIONS, GaussianPart

from .common import normal


def test_score_near_correlation_one_keeps_its_digits():
    # A difference of 1e-3, squared: the terms of its expansion are a million times that.
    coefficients = zip(("cross", "x_square", "z_square"), (5e6, -0.25, -0.25), strict=True)
    part = gaussian.zero(3, 2, 1)._replace(**{name: jnp.full(1, c) for name, c in coefficients})
    u = np.array([[1.0], [2.0], [-3.0]], np.float32)
    v = u + np.float32(1e-3)
    a, b = np.float64(u)[:, 0], np.float64(v)[:, 0]
    expected = -5e6 * (a - b) ** 2 / 2 + (a**2 + b**2) / 4
    np.testing.assert_allclose(gaussian.score(part, u, v), expected, rtol=1e-5)


@pytest.mark.parametrize("clip", [True, False])
def test_project_images_subtracts_mean_and_clips(clip):
    images, mean, projections = normal(0, 4, 5, 7, 2), normal(1, 70), normal(2, 70, 3)
    expected = (images.reshape(4, -1) - mean) @ projections
    assert np.abs(expected).max() > MAX_DEVIATIONS
    if clip:
        expected = np.clip(expected, -MAX_DEVIATIONS, MAX_DEVIATIONS)
    projected = gaussian.project(images, mean, projections, clip)
    np.testing.assert_allclose(projected, expected, rtol=1e-4, atol=1e-4)


def log_density(values, covariance):
    """Log density of a Gaussian of zero mean, without its constant."""
    return -0.5 * np.einsum("ni,ij,nj->n", values, np.linalg.inv(covariance), values)


@given(
    rho=st.lists(st.floats(0.0, 0.95), min_size=2, max_size=2).map(np.array),
    seed=st.integers(0, 1000),
)
def test_score_of_gaussian_pair_is_log_density_ratio(rho, seed):
    # x = m + A u and z = B v, with corr(u_k, v_k) = ρ_k and everything else independent.
    rng = np.random.default_rng(seed)
    mix_x, mix_z = (np.eye(2) + 0.3 * rng.uniform(-1, 1, (2, 2)) for _ in range(2))
    u, noise = rng.standard_normal((2, 20, 2))
    x, z = u @ mix_x.T, (rho * u + np.sqrt(1 - rho**2) * noise) @ mix_z.T
    cross = mix_x @ np.diag(rho) @ mix_z.T
    covariance = np.block([[mix_x @ mix_x.T, cross], [cross.T, mix_z @ mix_z.T]])
    expected = log_density(np.concatenate([x, z], axis=1), covariance)
    expected -= log_density(x, covariance[:2, :2]) + log_density(z, covariance[2:, 2:])

    # (ρuv − ρ²(u² + v²)/2)/(1 − ρ²) with the product written as a square of the difference.
    square = -rho / (2 * (1 + rho))
    mean, maps = rng.standard_normal(2), (np.linalg.inv(mix_x).T, np.linalg.inv(mix_z).T)
    part = GaussianPart(mean, maps[0], np.zeros(2), maps[1], rho / (1 - rho**2), square, square)
    part = GaussianPart(*(jnp.asarray(leaf, jnp.float32) for leaf in part))
    sides = ((mean + x, *part[:2]), (z, *part[2:4]))
    projections = (gaussian.project(jnp.float32(side[0]), *side[1:], True) for side in sides)
    np.testing.assert_allclose(gaussian.score(part, *projections), expected, rtol=1e-3, atol=2e-3)
