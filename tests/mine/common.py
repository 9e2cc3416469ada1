"""What the tests of MINE share: small samples, and bounds and scores written out in float64."""

import functools
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mine_jax.mine import MineConfig

KEY = jax.random.key(0)
CONFIG = MineConfig(
    network="separable",
    hidden=8,
    depth=1,
    features=4,
    canonical_pairs=1,
    batch_size=32,
    shuffles=3,
    learning_rate=1e-2,
    ema_decay=0.9,
    check_every=10,
    patience=9,
    max_steps=30,
    validation_shuffles=8,
    mapper="map",
)


class Bilinear(nn.Module):
    """T = (x − mean)·Mz, without a constant and quickly compiled."""

    @nn.compact
    def __call__(self, x, z):
        """From (n, …) and (n, …) to (n,)."""
        x, z = x.reshape(len(x), -1), z.reshape(len(z), -1)
        mean = self.param("mean", nn.initializers.normal(0.3), x.shape[1:])
        maps = self.param("maps", nn.initializers.normal(0.3), (x.shape[1], z.shape[1]))
        return jnp.sum((x - mean[None]) @ maps * z, axis=1)


BILINEAR = replace(CONFIG, network=Bilinear())
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


def normal(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@functools.cache
def samples(n=240):
    """x, and z by name: three columns close to those of x, and seven of noise."""
    x = normal(0, n, 3)
    return x, {"narrow": x + normal(1, n, 3, scale=0.5), "wide": normal(2, n, 7)}


@functools.cache
def equal_widths(n):
    """The same with two columns each."""
    x, z = samples(n)
    return x, {name: values[:, :2] for name, values in z.items()}


@functools.cache
def labels():
    """One-hot labels of three classes with unequal fractions that depend on x."""
    return np.eye(3, dtype=np.uint8)[np.digitize(samples()[0][:, 0], [-0.8, 0.2])]


def randomize(state, seed=0, scale=0.4):
    """Draw all weights afresh, the moving average and the Gaussian part included."""
    rng = np.random.default_rng(seed)

    def draw(tree):
        return jax.tree.map(lambda leaf: jnp.float32(scale * rng.normal(size=leaf.shape)), tree)

    names = ("params", "average", "gaussian")
    return state._replace(**{name: draw(getattr(state, name)) for name in names})


def network(tree, i=0):
    """One network of a stack, without the axis of networks."""
    return jax.tree.map(lambda leaf: leaf[i], tree)


@functools.partial(jax.jit, static_argnames="config")
def joint_scores(params, x, z, config):
    return config.module().apply({"params": params}, x, z)


def all_scores(params, part, x, z, config=CONFIG):
    """T of every x with every row of z, (n, m): the network's call on explicit pairs."""
    n, m = len(x), len(z)
    left, right = np.repeat(x, m, axis=0), np.tile(np.float32(z), (n, 1))
    scores = np.float64(joint_scores(params, left, right, config))
    if part is not None:
        part = jax.tree.map(np.float64, part)
        u = (left - part.x_mean) @ part.x_projections
        v = (right - part.z_mean) @ part.z_projections
        scores -= (u - v) ** 2 @ part.cross / 2 + u**2 @ part.x_square + v**2 @ part.z_square
    return scores.reshape(n, m)


def naive_donsker_varadhan(t_joint, t_marginal):
    return np.mean(t_joint, dtype=np.float64) - np.log(np.mean(np.exp(np.float64(t_marginal))))


def off_diagonal(matrix):
    return np.float64(matrix)[~np.eye(len(matrix), dtype=bool)]


def naive_value(matrix, form, weights=None):
    """The bound from the scores of all pairs of samples with these weights."""
    matrix = np.float64(matrix)
    n = len(matrix)
    weights = np.full(n, 1 / n) if weights is None else weights / weights.sum()
    joint = weights @ np.diagonal(matrix)
    if form == "infonce":
        return joint - weights @ np.log(np.exp(matrix) @ weights)
    pairs = np.where(np.eye(n, dtype=bool), 0, np.outer(weights, weights))
    mean_exp = np.sum(pairs * np.exp(matrix)) / pairs.sum()
    return joint - (np.log(mean_exp) if form == "donsker_varadhan" else mean_exp / np.e)


def assert_held_out(result, matrix, form, rtol=1e-4):
    """Compare a held-out bound of all pairs with its definition and its derivatives."""
    n, step = len(matrix), 1e-5
    value = naive_value(matrix, form)
    # A sample's weight pulls the value from the mean of the influences towards its influence.
    influence = [
        np.subtract(*(naive_value(matrix, form, 1 + sign * row) for sign in (1, -1))) / (2 * step)
        for row in n * step * np.eye(n)
    ]
    variance, second_order = np.var(influence, ddof=1) / n, 0
    if form != "infonce":
        exps = np.exp(off_diagonal(matrix))
        level = 1 if form == "donsker_varadhan" else exps.mean() / np.e
        second_order = (level * exps.std() / exps.mean()) ** 2 / exps.size
    atol = 1e-6 * (1 + np.abs(influence).max() + np.abs(matrix).max())
    np.testing.assert_allclose(result.nats, value, rtol=rtol, atol=atol)
    centered = result.influence - np.mean(result.influence)
    np.testing.assert_allclose(centered, influence, rtol=rtol, atol=20 * atol)
    # float32 computes the second-order term as the difference of a mean square and 1.
    rounding = 1e-5 * (second_order + (form != "infonce") / n**2)
    stderr = np.sqrt(variance + second_order)
    np.testing.assert_allclose(result.stderr, stderr, rtol=rtol, atol=10 * atol + rounding**0.5)


def assert_trees_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)
