"""MINE on one page: a perceptron T(x, z), a shuffle, the Donsker–Varadhan bound, gradient ascent.

  python experiments/poster.py

Algorithm 1 of Belghazi et al. 2018 (https://arxiv.org/abs/1801.04062) on a correlated Gaussian
pair, whose mutual information is known. `mine_jax.MineConfig.published()` configures the library
to do the same; tests/experiments/test_poster.py compares their gradients.
"""

import math
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from mine_jax import donsker_varadhan

DIMENSIONS, CORRELATION = 2, 0.8
TRAINING_SAMPLES, TEST_SAMPLES = 20_000, 10_000
HIDDEN, DEPTH = 128, 2
BATCH_SIZE, STEPS, REPORT_EVERY, LEARNING_RATE = 256, 2000, 250, 1e-3


class StatisticsNetwork(nn.Module):
    """T(x, z): a perceptron on the concatenation of x and z; (n, d) and (n, e) to (n,)."""

    @nn.compact
    def __call__(self, x: Array, z: Array) -> Array:
        """Compute the scores of n pairs."""
        layer = jnp.concatenate([x, z], axis=1)
        for _ in range(DEPTH):
            layer = nn.relu(nn.Dense(HIDDEN)(layer))
        return nn.Dense(1)(layer)[:, 0]


def objective(params: Any, x: Array, z: Array, order: Array) -> Array:
    """Compute the Donsker–Varadhan bound (eq. 5) in nats on a batch.

    Args:
      params: of `StatisticsNetwork`.
      x: (n, d).
      z: (n, e); pairs (x_i, z_i) are joint pairs.
      order: a permutation of the n rows; (x_i, z_order[i]) are marginal pairs.
    """
    scores = StatisticsNetwork().apply
    return donsker_varadhan(scores(params, x, z), scores(params, x, z[order]))


def gaussian_pair(key: Array, n: int) -> tuple[Array, Array]:
    """Draw x and z, (n, DIMENSIONS) each, whose columns are correlated one by one."""
    x, noise = jax.random.normal(key, (2, n, DIMENSIONS))
    return x, CORRELATION * x + math.sqrt(1 - CORRELATION**2) * noise


def main() -> None:
    """Train, and print the value on batches and on test samples beside the truth."""
    keys = jax.random.split(jax.random.key(0), 5)
    x, z = gaussian_pair(keys[0], TRAINING_SAMPLES)
    x_test, z_test = gaussian_pair(keys[1], TEST_SAMPLES)
    test_order = jax.random.permutation(keys[2], TEST_SAMPLES)
    optimizer = optax.adam(LEARNING_RATE)
    params = StatisticsNetwork().init(keys[3], x, z)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(
        params: Any, opt_state: optax.OptState, key: Array
    ) -> tuple[Any, optax.OptState, Array]:
        batch_key, shuffle_key = jax.random.split(key)
        batch = jax.random.randint(batch_key, (BATCH_SIZE,), 0, TRAINING_SAMPLES)
        order = jax.random.permutation(shuffle_key, BATCH_SIZE)
        nats, gradient = jax.value_and_grad(objective)(params, x[batch], z[batch], order)
        ascent = jax.tree.map(jnp.negative, gradient)  # Adam descends
        updates, opt_state = optimizer.update(ascent, opt_state)
        return optax.apply_updates(params, updates), opt_state, nats

    truth = -DIMENSIONS / 2 * math.log(1 - CORRELATION**2)
    for i in range(STEPS):
        params, opt_state, nats = step(params, opt_state, jax.random.fold_in(keys[4], i))
        if (i + 1) % REPORT_EVERY == 0:
            test = objective(params, x_test, z_test, test_order)
            print(f"step {i + 1}: batch {nats:.3f}, test {test:.3f}, truth {truth:.3f} nats")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"error: this program takes no arguments, got {' '.join(sys.argv[1:])}")
    main()
