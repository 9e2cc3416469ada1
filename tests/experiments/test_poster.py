"""The poster's script against the library's step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from conftest import load_experiment

from mine_jax import MineConfig, mine

poster = load_experiment("poster")


def library_params(params):
    """The parameters of the poster's network as the library's network has them."""
    first, *others = params["params"].values()
    columns, bias = first["kernel"], first["bias"]
    encoders = {
        "x_encoder": {"columns": columns[: poster.DIMENSIONS], "bias": bias},
        "z_encoder": {"columns": columns[poster.DIMENSIONS :], "bias": jnp.zeros_like(bias)},
    }
    head = {f"Dense_{i}": layer for i, layer in enumerate(others)}
    return jax.tree.map(lambda leaf: leaf[None], encoders | {"head": head})  # axis of networks


def test_objective_first_gradient_equals_that_of_mine_step():
    n, step_key = 128, jax.random.key(2)
    x, z = poster.gaussian_pair(jax.random.key(0), n)
    params = poster.StatisticsNetwork().init(jax.random.key(1), x, z)
    config = MineConfig.published(hidden=poster.HIDDEN, depth=poster.DEPTH, batch_size=n)
    state = mine.init(step_key, x, z, config)._replace(params=library_params(params))
    after, info = mine.step(step_key, state, x, z, config)

    # `step` puts the batch into random order and pairs every x with the next z.
    order = np.asarray(jax.random.permutation(step_key, n))
    shuffle = np.empty(n, int)
    shuffle[order] = np.roll(order, -1)
    nats, gradient = jax.value_and_grad(poster.objective)(params, x, z, shuffle)

    np.testing.assert_allclose(info.bound, nats, rtol=1e-5)
    # Adam's first moment after one step is 1 − b1 = 0.1 of the gradient that it descends.
    descended = jax.tree.map(lambda moment: -moment / 0.1, after.opt_state[0].mu)
    expected = library_params(gradient)
    expected["z_encoder"]["bias"] = expected["x_encoder"]["bias"]
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 0.01
    assert_close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(assert_close, descended, expected)


def test_gaussian_pair_has_the_correlation_of_the_truth():
    x, z = poster.gaussian_pair(jax.random.key(0), 20_000)
    correlations = np.corrcoef(x, z, rowvar=False)[: poster.DIMENSIONS, poster.DIMENSIONS :]
    np.testing.assert_allclose(correlations, poster.CORRELATION * np.eye(2), atol=0.03)
