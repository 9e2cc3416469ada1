"""Encoders and statistics networks that the caller brings."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import lower_bound
from mine_jax.estimate import Pair, lower_bounds
from mine_jax.mine import MineConfig, Samples

CONFIG = MineConfig(
    network="separable",
    hidden=16,
    features=8,
    depth=1,
    canonical_pairs=0,
    batch_size=128,
    learning_rate=1e-2,
    check_every=25,
    patience=2,
    max_steps=200,
    validation_fraction=0.2,
    cross_fit=False,
)
KEY = jax.random.key(0)
N, RHO = 1000, 0.6


class Absolute(nn.Module):
    """The absolute values of columns up to a limit, not a number beyond."""

    @nn.compact
    def __call__(self, values):
        """From (n, columns) to (n, columns)."""
        sizes = jnp.abs(values)
        return jnp.where(jnp.any(sizes > 3, axis=1, keepdims=True), jnp.nan, sizes)


def test_lower_bound_encoder_of_the_caller_is_used_and_one_that_is_not_finite_is_named():
    rng = np.random.default_rng(3)
    x, noise = np.float32(rng.normal(size=(2, N, 2)))
    sizes = np.abs(x) + noise / 4
    outlier = sizes.copy()
    outlier[::7] = 30
    pairs = {
        name: Pair(Samples(jnp.asarray(values)), Samples(jnp.asarray(x.clip(-2.9, 2.9))))
        for name, values in (("good", sizes.clip(0, 2.9)), ("bad", outlier))
    }
    config = dataclasses.replace(CONFIG, x_encoder=Absolute())
    found = lower_bounds(pairs, key=KEY, config=config)
    assert found["good"].nats > 0.5
    assert not any("finite" in warning for warning in found["good"].warnings)
    assert math.isnan(found["bad"].nats)
    assert "check that x_encoder, Absolute, returns finite values" in found["bad"].warnings[0]


class Quadratic(nn.Module):
    """A network of the caller that notes the contexts of its traces."""

    level: float = 0.0

    @nn.compact
    def __call__(self, x, z):
        """Compute T(x_i, z_i), (n,)."""
        CONTEXTS.append((jax.config.jax_default_matmul_precision, jax.config.jax_default_device))
        a, b, c = self.param("weights", nn.initializers.zeros, (3,))
        x, z = x[:, 0], z[:, 0]
        return a * x * z - b * x**2 - c * z**2 + jnp.log(1.0 - self.level)


CONTEXTS = []


def test_lower_bound_custom_network_learns_in_contexts_of_the_caller():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(1000, 1))
    z = RHO * x + math.sqrt(1 - RHO**2) * rng.normal(size=x.shape)
    config = MineConfig(
        network=Quadratic(),
        cross_fit=False,
        weight_decay=0.0,
        learning_rate=0.05,
        ema_decay=0.9,
        batch_size=64,
        max_steps=100,
    )
    device = jax.devices("cpu")[0]
    with jax.default_matmul_precision("highest"), jax.default_device(device):
        estimate = lower_bound(x, z, config=config)
    assert set(CONTEXTS) == {("highest", device)}
    assert abs(estimate.nats - -math.log(1 - RHO**2) / 2) <= 4 * estimate.stderr + 0.05
    broken = MineConfig(network=Quadratic(2.0), cross_fit=False)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        lower_bound(x, z, config=broken)
