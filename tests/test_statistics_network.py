"""The statistics network: its two halves, its start, and what it can express."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax.statistics_network import Products, StatisticsNetwork

CONFIGURATIONS = [(8, 2, 4), (8, 1, 0), (5, 3, 2)]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def network_and_weights(hidden=8, depth=2, products=4):
    """A network with all weights off zero, so that every part of it is seen."""
    network = StatisticsNetwork(hidden, depth, products)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 3)), jnp.zeros((1, 2)))
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32)  # noqa: E731
    return network, jax.tree.map(draw, shapes)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_call_is_the_score_of_the_codes(configuration):
    network, weights = network_and_weights(*configuration)
    x, z = normal(1, 6, 3), normal(2, 6, 2)
    x_code = network.apply(weights, x, method="encode_x")
    z_code = network.apply(weights, z, method="encode_z")
    assert x_code.shape == z_code.shape == (6, configuration[0] + configuration[2])
    scores = network.apply(weights, x, z)
    assert scores.shape == (6,)
    np.testing.assert_array_equal(scores, network.apply(weights, x_code, z_code, method="score"))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_scores_are_those_of_the_formula(configuration):
    hidden, depth, products = configuration
    network, weights = network_and_weights(*configuration)
    p = jax.tree.map(np.float64, weights["params"])
    x, z = normal(1, 6, 3), normal(2, 6, 2)
    # The inputs are divided by the root of their number.
    x_code = x / np.sqrt(3) @ p["x_first"]["kernel"] + p["x_first"]["bias"]
    z_code = z / np.sqrt(2) @ p["z_first"]["kernel"]
    activation = np.maximum((x_code + z_code)[:, :hidden], 0)
    for i in range(depth - 1):
        layer = p[f"layers_{i}"]
        activation = np.maximum(activation @ layer["kernel"] + layer["bias"], 0)
    expected = (activation @ p["last"]["kernel"] + p["last"]["bias"])[:, 0]
    if products:
        u, v, w = x_code[:, hidden:], z_code[:, hidden:], p["product"]
        expected += u * v @ w["cross"] - u**2 @ w["u_square"] - v**2 @ w["v_square"]
    np.testing.assert_allclose(network.apply(weights, x, z), expected, rtol=1e-4, atol=1e-4)


def test_codes_broadcast_against_one_another():
    network, weights = network_and_weights()
    x_code = network.apply(weights, normal(1, 4, 3), method="encode_x")
    z_code = network.apply(weights, normal(2, 5, 2), method="encode_z")
    score = functools.partial(network.apply, weights, method="score")
    matrix = score(x_code[:, None], z_code[None])
    assert matrix.shape == (4, 5)
    for i, j in [(0, 0), (3, 1), (2, 4)]:
        np.testing.assert_allclose(matrix[i, j], score(x_code[i], z_code[j]), rtol=1e-4)


def test_a_single_sample_has_a_scalar_score():
    network, weights = network_and_weights()
    x, z = normal(1, 3), normal(2, 2)
    np.testing.assert_allclose(
        network.apply(weights, x, z), network.apply(weights, x[None], z[None])[0], rtol=1e-5
    )


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_scores_start_at_zero_and_can_move(configuration):
    network = StatisticsNetwork(*configuration)
    x, z = 100 * normal(1, 6, 3), 100 * normal(2, 6, 2)
    weights = network.init(jax.random.key(3), x, z)
    np.testing.assert_array_equal(network.apply(weights, x, z), 0)
    gradient = jax.grad(lambda w: network.apply(w, x, z).sum())(weights)["params"]
    assert np.any(gradient["last"]["kernel"] != 0)
    if configuration[2]:
        assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(gradient["product"]))


def test_codes_start_at_the_same_size_whatever_the_number_of_columns():
    network = StatisticsNetwork(hidden=512, products=512)
    for columns in (1, 784):
        x = normal(1, 8, columns) if columns > 1 else np.ones((8, 1), np.float32)
        weights = network.init(jax.random.key(0), x, x)
        for method in ("encode_x", "encode_z"):
            # The mean square of 8 × 1024 normal values that share 8 or fewer inputs.
            size = np.mean(np.square(network.apply(weights, x, method=method)))
            assert 0.8 < size < 1.2, (columns, method)


def test_the_width_of_a_network_is_what_its_attributes_say():
    shapes = jax.eval_shape(
        StatisticsNetwork(hidden=7, depth=3, products=2).init,
        jax.random.key(0),
        jnp.zeros((1, 5)),
        jnp.zeros((1, 4)),
    )
    assert jax.tree.map(lambda leaf: leaf.shape, shapes["params"]) == {
        "x_first": {"kernel": (5, 9), "bias": (9,)},
        "z_first": {"kernel": (4, 9)},
        "layers_0": {"kernel": (7, 7), "bias": (7,)},
        "layers_1": {"kernel": (7, 7), "bias": (7,)},
        "last": {"kernel": (7, 1), "bias": (1,)},
        "product": {"cross": (2,), "u_square": (2,), "v_square": (2,)},
    }


@pytest.mark.parametrize("products", [0, 3])
def test_without_products_there_are_no_weights_for_them(products):
    network = StatisticsNetwork(hidden=4, products=products)
    weights = network.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    assert ("product" in weights["params"]) == bool(products)


def test_products_are_bilinear_less_squares():
    weights = {"params": {"cross": [1.0, 2.0], "u_square": [3.0, 0.5], "v_square": [0.0, 1.0]}}
    weights = jax.tree.map(jnp.asarray, weights, is_leaf=lambda node: isinstance(node, list))
    value = Products().apply(weights, jnp.array([2.0, -1.0]), jnp.array([5.0, 4.0]))
    # 1·2·5 + 2·(−1)·4 − 3·4 − 0.5·1 − 0·25 − 1·16
    np.testing.assert_allclose(value, 10 - 8 - 12 - 0.5 - 0 - 16)


def test_the_log_density_ratio_of_a_gaussian_pair_is_within_reach():
    # ρ/(1 − ρ²)·xz − ρ²/(2(1 − ρ²))·(x² + z²) + constant, with unit features u = x and v = z.
    rho = 0.9
    network = StatisticsNetwork(hidden=2, depth=1, products=1)
    weights = network.init(jax.random.key(0), jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    square = jnp.array([rho**2 / (2 * (1 - rho**2))])
    information = -0.5 * np.log(1 - rho**2)
    weights = {
        "params": {
            **weights["params"],
            "x_first": {"kernel": jnp.array([[0.0, 0.0, 1.0]]), "bias": jnp.zeros(3)},
            "z_first": {"kernel": jnp.array([[0.0, 0.0, 1.0]])},
            "last": {"kernel": jnp.zeros((2, 1)), "bias": jnp.array([information])},
            "product": {
                "cross": jnp.array([rho / (1 - rho**2)]),
                "u_square": square,
                "v_square": square,
            },
        }
    }
    x, z = normal(0, 9, 1), normal(1, 9, 1)
    conditional = -((z - rho * x) ** 2) / (2 * (1 - rho**2)) - np.log(1 - rho**2) / 2
    np.testing.assert_allclose(
        network.apply(weights, x, z), (conditional + z**2 / 2)[:, 0], rtol=1e-4, atol=1e-4
    )
