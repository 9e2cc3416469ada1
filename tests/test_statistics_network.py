"""The statistics network: its two halves, its start, its Gaussian part and its first layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mine_jax import statistics_network
from mine_jax.statistics_network import (
    KINDS,
    First,
    GaussianPart,
    StatisticsNetwork,
    Wrapped,
)

SIZES = {"hidden": 8, "depth": 2, "features": 4, "canonical": 3}
SHAPES = [((3,), (2,)), ((28, 28, 1), (1,)), ((5, 3, 2), (7, 1, 4))]
FROZEN = ("mean", "maps", "gaussian")


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def network_and_weights(kind, x_shape=(3,), z_shape=(2,), depth=2, canonical=3):
    """A network with all weights off zero, so that every part of it is seen."""
    network = StatisticsNetwork(kind, **{**SIZES, "depth": depth, "canonical": canonical})
    return network, drawn(network, jnp.zeros((1, *x_shape)), jnp.zeros((1, *z_shape)))


def drawn(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)

    def draw(leaf):
        # Columns of a matrix of about unit length, so that scores are of order one.
        return (rng.standard_normal(leaf.shape) / np.sqrt(leaf.shape[0])).astype(np.float32)

    return jax.tree.map(draw, shapes)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def apply(network, weights, *inputs, method=None):
    return network.apply(weights, *inputs, method=method)


def codes(network, weights, x, z):
    x_code = apply(network, weights, x, method="encode_x")
    return x_code, apply(network, weights, z, method="encode_z")


def frozen(path):
    return any(entry.key in FROZEN for entry in path)


# Shapes, and that the cut in two halves changes nothing.


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_call_is_the_score_of_the_codes(kind, shapes):
    network, weights = network_and_weights(kind, *shapes)
    x, z = normal(1, 6, *shapes[0]), normal(2, 6, *shapes[1])
    x_code, z_code = codes(network, weights, x, z)
    assert x_code.shape == z_code.shape == (6, SIZES["hidden"] + SIZES["canonical"])
    scores = apply(network, weights, x, z)
    assert scores.shape == (6,)
    assert np.std(scores) > 1e-3
    np.testing.assert_allclose(
        scores, apply(network, weights, x_code, z_code, method="score"), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_the_scores_of_every_x_with_every_z(kind, shapes):
    network, weights = network_and_weights(kind, *shapes)
    x, z = normal(1, 6, *shapes[0]), normal(2, 6, *shapes[1])
    x_code, z_code = codes(network, weights, x, z)
    x, x_code = x[:4], x_code[:4]
    matrix = apply(network, weights, x_code, z_code, method="pairs")
    assert matrix.shape == (4, 6)
    broadcast = apply(network, weights, x_code[:, None], z_code[None], method="score")
    np.testing.assert_allclose(matrix, broadcast, rtol=1e-4, atol=1e-5)
    own = apply(network, weights, normal(1, 6, *shapes[0]), z)
    np.testing.assert_allclose(np.diagonal(matrix), own[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_scored_alone(kind):
    network, weights = network_and_weights(kind)
    x, z = normal(1, 6, 3), normal(2, 6, 2)
    every = apply(network, weights, x, z)
    for i in (0, 5):
        alone = apply(network, weights, x[i : i + 1], z[i : i + 1])
        np.testing.assert_allclose(alone, every[i : i + 1], rtol=1e-5, atol=1e-6)


@given(st.integers(0, 2**31), st.sampled_from(KINDS))
def test_features_and_own_terms_make_up_the_score(seed, kind):
    network, weights = network_and_weights(kind)
    x_code, z_code = normal(seed, 5, 11), normal(seed + 1, 5, 11)
    scores = apply(network, weights, x_code, z_code, method="score")
    matrix = apply(network, weights, x_code, z_code, method="pairs")
    np.testing.assert_allclose(np.diagonal(matrix), scores, rtol=1e-4, atol=1e-5)
    if kind == "separable":
        (f, a), (g, b) = apply(network, weights, x_code, z_code, method="features_of")
        assert f.shape == g.shape == (5, SIZES["features"] + SIZES["canonical"])
        np.testing.assert_allclose(scores, (f * g).sum(-1) + a + b, rtol=1e-5, atol=1e-6)


# The formula, written out.


def silu(values):
    return values / (1 + np.exp(-values))


def relu(values):
    return np.maximum(values, 0)


def dense(layer, values):
    return values @ layer["kernel"] + layer["bias"]


def vector_code(first, values):
    values = np.float64(values)
    code = dense(first["dense"], np.concatenate([values, 0.7 * (values**2 - 1)], axis=-1))
    return code, (values - first["mean"]) @ first["maps"]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_formula(kind, depth):
    network, weights = network_and_weights(kind, depth=depth)
    p = jax.tree.map(np.float64, weights["params"])
    x, z = normal(1, 6, 3), normal(2, 6, 2)
    (x_code, u), (z_code, v) = vector_code(p["x_first"], x), vector_code(p["z_first"], z)
    w = p["gaussian"]
    expected = -((u - v) ** 2) @ w["cross"] / 2 - u**2 @ w["u_square"] - v**2 @ w["v_square"]
    if kind == "flat":
        code = x_code + z_code
        for i in range(depth - 1):
            code = dense(p[f"layers_{i}"], relu(code))
        expected += dense(p["last"], relu(code))[:, 0]
    else:
        parts = []
        for side, code in (("x", x_code), ("z", z_code)):
            for i in range(depth - 1):
                code = dense(p[f"{side}_layers_{i}"], silu(code))
            parts.append(dense(p[f"{side}_last"], np.tanh(code)))
        f, g = parts
        expected += (f[:, :-1] * g[:, :-1]).sum(-1) + f[:, -1] + g[:, -1]
    np.testing.assert_allclose(apply(network, weights, x, z), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_width_of_a_network_is_what_its_attributes_say(kind):
    network = StatisticsNetwork(kind, hidden=7, depth=3, features=5, canonical=2)
    inputs = jnp.zeros((1, 5)), jnp.zeros((1, 6, 9, 2))
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    inner = {"kernel": (7, 7), "bias": (7,)}
    expected = {
        "x_first": {
            "dense": {"kernel": (10, 7), "bias": (7,)},
            "mean": (5,),
            "maps": (5, 2),
        },
        # 6 × 9 pixels are 2 × 3 tiles, and those 1 × 2 tiles of 32 channels.
        "z_first": {
            "conv1": {"kernel": (32, 16), "bias": (16,)},
            "conv2": {"kernel": (64, 32), "bias": (32,)},
            "dense": {"kernel": (64, 7), "bias": (7,)},
            "mean": (108,),
            "maps": (108, 2),
        },
        "gaussian": {"cross": (2,), "u_square": (2,), "v_square": (2,)},
    }
    if kind == "flat":
        last = {"kernel": (7, 1), "bias": (1,)}
        expected |= {"layers_0": inner, "layers_1": inner, "last": last}
    else:
        for side in "xz":
            last = {"kernel": (7, 6), "bias": (6,)}
            expected |= {f"{side}_layers_{i}": inner for i in range(2)} | {f"{side}_last": last}
    assert jax.tree.map(lambda leaf: leaf.shape, shapes["params"]) == expected


# The start.


@pytest.mark.parametrize("kind", KINDS)
def test_scores_start_at_zero_and_can_move(kind):
    network = StatisticsNetwork(kind, **SIZES)
    x, z = 100 * normal(1, 6, 9, 5, 1), 100 * normal(2, 6, 2)
    weights = jax.jit(network.init)(jax.random.key(3), x, z)
    np.testing.assert_array_equal(apply(network, weights, x, z), 0)
    slope = jax.grad(lambda w: (normal(3, 6) * apply(network, w, x, z)).sum())
    gradient = jax.jit(slope)(weights)["params"]
    last = gradient["last" if kind == "flat" else "x_last"]
    assert np.any(last["kernel"] != 0)
    if kind == "separable":
        # One side moves the features of the other: not both may be still.
        features = last["kernel"][:, :-1]
        assert np.all(np.any(features != 0, axis=0))


# The Gaussian part.


@pytest.mark.parametrize("kind", KINDS)
def test_the_gaussian_part_is_not_trained(kind):
    network, weights = network_and_weights(kind, (9, 5, 1), (2,))
    x, z = normal(1, 6, 9, 5, 1), normal(2, 6, 2)

    def value(weights):
        x_code, z_code = codes(network, weights, x, z)
        pairs = apply(network, weights, x_code, z_code, method="pairs")
        scores = apply(network, weights, x, z)
        return jnp.sum(normal(3, 6, 6) * pairs) + jnp.sum(normal(4, 6) * scores)

    gradient = jax.jit(jax.grad(value))(weights)["params"]
    still = {jax.tree_util.keystr(path): np.all(leaf == 0) for path, leaf in leaves(gradient)}
    assert still == {jax.tree_util.keystr(path): frozen(path) for path, _ in leaves(gradient)}


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gaussian_part_counts_in_the_score(kind):
    network, weights = network_and_weights(kind)
    x, z = normal(1, 6, 3), normal(2, 6, 2)
    plain = apply(network, weights, x, z)
    for name in ("cross", "u_square", "v_square"):
        part = {**weights["params"]["gaussian"], name: np.zeros(3, np.float32)}
        without = {"params": {**weights["params"], "gaussian": part}}
        assert np.abs(apply(network, without, x, z) - plain).max() > 1e-3, name


def test_the_gaussian_part_is_of_squares_and_its_terms_are_their_expansion():
    weights = {"params": {"cross": [1.0, 2.0], "u_square": [3.0, 0.5], "v_square": [0.0, 1.0]}}
    weights = jax.tree.map(jnp.asarray, weights, is_leaf=lambda node: isinstance(node, list))
    u, v = jnp.array([[2.0, -1.0]]), jnp.array([[5.0, 4.0]])
    part = GaussianPart(2)
    # 1·(2 − 5)²/2 + 2·(−1 − 4)²/2 + 3·4 + 0.5·1 + 0·25 + 1·16
    score = apply(part, weights, u, v, method="score")
    np.testing.assert_allclose(score, [-(4.5 + 25 + 12 + 0.5 + 0 + 16)])
    cross, of_u, of_v = apply(part, weights, u, v, method="terms")
    np.testing.assert_allclose(cross, [[2, -2]])
    np.testing.assert_allclose(of_u, [1 / 2 * 4 + 2 / 2 * 1 + 12.5])
    np.testing.assert_allclose(of_v, [1 / 2 * 25 + 2 / 2 * 16 + 16])
    np.testing.assert_allclose(jnp.sum(cross * v, -1) - of_u - of_v, score)


def test_near_correlation_one_the_score_keeps_its_digits():
    # A difference of 1e-3, squared: the terms of its expansion are a million times that.
    weights = {"cross": [5e6], "u_square": [-0.25], "v_square": [-0.25]}
    weights = {"params": {name: jnp.asarray(value) for name, value in weights.items()}}
    u = np.array([[1.0], [2.0], [-3.0]], np.float32)
    v = u + np.float32(1e-3)
    wide_u, wide_v = np.float64(u)[:, 0], np.float64(v)[:, 0]
    expected = -5e6 * (wide_u - wide_v) ** 2 / 2 + (wide_u**2 + wide_v**2) / 4
    score = apply(GaussianPart(1), weights, u, v, method="score")
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def log_density(values, covariance):
    inverse = np.linalg.inv(covariance)
    return -0.5 * np.einsum("ni,ij,nj->n", values, inverse, values)


@settings(max_examples=10)
@given(
    kind=st.sampled_from(KINDS),
    rho=st.lists(st.floats(0.0, 0.95), min_size=2, max_size=2),
    seed=st.integers(0, 1000),
)
def test_in_closed_form_it_is_the_log_density_ratio_of_a_gaussian_pair(kind, rho, seed):
    # x = m + A u and z = B v, with corr(u_k, v_k) = ρ_k and everything else independent. The log
    # densities are less their constants, which T has not either.
    rng = np.random.default_rng(seed)
    rho = np.array(rho)
    mix_x, mix_z = (np.eye(2) + 0.3 * rng.uniform(-1, 1, (2, 2)) for _ in range(2))
    mean = rng.standard_normal(2)
    u, noise = rng.standard_normal((2, 20, 2))
    v = rho * u + np.sqrt(1 - rho**2) * noise
    x, z = mean + u @ mix_x.T, v @ mix_z.T

    cross = mix_x @ np.diag(rho) @ mix_z.T
    covariance = np.block([[mix_x @ mix_x.T, cross], [cross.T, mix_z @ mix_z.T]])
    expected = log_density(np.concatenate([x - mean, z], axis=1), covariance)
    expected -= log_density(x - mean, covariance[:2, :2]) + log_density(z, covariance[2:, 2:])

    network, weights = network_and_weights(kind, (2,), (2,), canonical=2)
    params = dict(weights["params"])
    for name in ("last",) if kind == "flat" else ("x_last", "z_last"):
        params[name] = jax.tree.map(np.zeros_like, params[name])
    # (ρuv − ρ²(u² + v²)/2)/(1 − ρ²) with the product written as a square of the difference.
    square = -rho / (2 * (1 + rho))
    gaussian = {"cross": rho / (1 - rho**2), "u_square": square, "v_square": square}
    firsts = {
        "x_first": {"mean": mean, "maps": np.linalg.inv(mix_x).T},
        "z_first": {"mean": np.zeros(2), "maps": np.linalg.inv(mix_z).T},
    }
    own = {side: {**params[side], **parts} for side, parts in firsts.items()}
    weights = {"params": jax.tree.map(jnp.float32, {**params, **own, "gaussian": gaussian})}
    scores = apply(network, weights, jnp.float32(x), jnp.float32(z))
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=2e-3)


# First layers.


def test_tiles_are_cut_from_images_and_padded_with_zeros():
    images = np.arange(1, 2 * 5 * 6 * 3 + 1, dtype=np.float32).reshape(2, 5, 6, 3)
    tiles = statistics_network._patches(jnp.asarray(images), 4)
    assert tiles.shape == (2, 2, 2, 4 * 4 * 3)
    np.testing.assert_array_equal(tiles[:, 0, 0], images[:, :4, :4].reshape(2, -1))
    corner = np.zeros((2, 4, 4, 3), np.float32)
    corner[:, :1, :2] = images[:, 4:, 4:]
    np.testing.assert_array_equal(tiles[:, 1, 1], corner.reshape(2, -1))


FIRST = First(hidden=6, canonical=2)
observed = jax.jit(functools.partial(FIRST.apply, capture_intermediates=True))


def first_and_layers(values, weights=None):
    """The code of a first layer, what its layers gave, and its weights."""
    if weights is None:
        weights = drawn(FIRST, values)
    code, state = observed(weights, values)
    made = state["intermediates"]
    return code, {name: made[name]["__call__"][0] for name in made if name != "__call__"}, weights


def test_images_have_convolutions_and_vectors_have_none():
    for shape, expected in [((8, 8, 1), {"conv1", "conv2", "dense"}), ((64,), {"dense"})]:
        code, layers, _ = first_and_layers(normal(0, 3, *shape))
        assert code.shape == (3, 8)
        assert set(layers) == expected


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 11, 3)])
def test_the_first_layer_of_images_is_two_strided_convolutions(shape):
    images = normal(0, 3, *shape)
    code, layers, weights = first_and_layers(images)
    values = jnp.asarray(images)
    for name, size, channels in (("conv1", 4, 16), ("conv2", 2, 32)):
        layer = weights["params"][name]
        kernel = layer["kernel"].reshape(size, size, values.shape[-1], channels)
        padding = [(0, -side % size) for side in values.shape[1:3]]
        values = jax.lax.conv_general_dilated(
            values, kernel, (size, size), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        values += layer["bias"].reshape(1, 1, 1, -1)
        np.testing.assert_allclose(layers[name], values, rtol=1e-4, atol=1e-5)
        values = nn.silu(values)
    layer = weights["params"]["dense"]
    hidden = values.reshape(3, -1) @ layer["kernel"] + layer["bias"][None]
    np.testing.assert_allclose(code[:, :6], hidden, rtol=1e-4, atol=1e-5)


def test_tiles_share_their_weights():
    # A shift by a tile permutes what the first convolution gives, one by two tiles the second.
    images = normal(0, 3, 16, 24, 2)
    _, plain, weights = first_and_layers(images)
    for axis in (1, 2):
        _, shifted, _ = first_and_layers(np.roll(images, 4, axis), weights)
        np.testing.assert_allclose(shifted["conv1"], np.roll(plain["conv1"], 1, axis), rtol=1e-5)
        assert np.abs(shifted["conv2"] - np.roll(plain["conv2"], 1, axis)).max() > 0.01
        _, shifted, _ = first_and_layers(np.roll(images, 8, axis), weights)
        np.testing.assert_allclose(shifted["conv2"], np.roll(plain["conv2"], 1, axis), rtol=1e-4)


def test_projections_are_of_the_pixels_less_their_mean():
    images = normal(0, 3, 5, 7, 2)
    _, _, weights = first_and_layers(images)
    mean, maps = normal(1, 70), normal(2, 70, 2)
    weights = {"params": {**weights["params"], "mean": mean, "maps": maps}}
    code, _, _ = first_and_layers(images, weights)
    expected = (images.reshape(3, -1) - mean) @ maps
    np.testing.assert_allclose(code[:, 6:], expected, rtol=1e-4, atol=1e-4)


# Stacks of networks.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["score", "pairs"])
def test_stacked_trunks_run_under_vmap(kind, method):
    network, weights = network_and_weights(kind)
    trunk = {k: v for k, v in weights["params"].items() if not k.endswith("_first")}
    trunks = [jax.tree.map(lambda leaf, i=i: leaf * (1 + i), trunk) for i in range(3)]
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *trunks)
    x_codes, z_codes = jnp.asarray(normal(1, 3, 5, 11)), jnp.asarray(normal(2, 3, 5, 11))
    one = functools.partial(apply, network, method=method)
    scores = jax.vmap(lambda t, a, b: one({"params": t}, a, b))(stacked, x_codes, z_codes)
    assert scores.shape == ((3, 5) if method == "score" else (3, 5, 5))
    for i, trunk in enumerate(trunks):
        single = one({"params": trunk}, x_codes[i], z_codes[i])
        np.testing.assert_allclose(scores[i], single, rtol=1e-4, atol=1e-4)


# A module of the user's.


class Bilinear(nn.Module):
    """T = x·Wz over whatever axes the samples have, plus a term that tells x from z."""

    @nn.compact
    def __call__(self, x, z):
        """From (n, …) and (n, …) to (n,)."""
        x, z = x.reshape(len(x), -1), z.reshape(len(z), -1)
        return jnp.sum(nn.Dense(z.shape[-1])(x) * z, axis=-1) + x[:, 0] ** 2


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((5, 7, 3), (2,)), ((4,), (3, 3, 1))])
def test_a_wrapped_module_scores_as_it_does_alone(shapes):
    network = Wrapped(Bilinear())
    x, z = jnp.asarray(normal(1, 4, *shapes[0])), jnp.asarray(normal(2, 5, *shapes[1]))
    weights = drawn(network, x[:1], z[:1])
    alone = {"params": weights["params"]["module"]}
    scores = apply(network, weights, x, z[:4])
    np.testing.assert_allclose(scores, apply(Bilinear(), alone, x, z[:4]), rtol=1e-5, atol=1e-6)

    x_code, z_code = codes(network, weights, x, z)
    np.testing.assert_array_equal(x_code, x)
    np.testing.assert_array_equal(z_code, z)
    np.testing.assert_array_equal(
        apply(network, weights, x_code, z_code[:4], method="score"), scores
    )
    matrix = apply(network, weights, x_code, z_code, method="pairs")
    assert matrix.shape == (4, 5)
    for i in range(4):
        row = apply(Bilinear(), alone, jnp.stack([x[i]] * 5), z)
        np.testing.assert_allclose(matrix[i], row, rtol=1e-4, atol=1e-5)
