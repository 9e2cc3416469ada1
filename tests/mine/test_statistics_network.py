"""The statistics network: its formula, its start, padding, images and modules of the caller."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax.mine.gaussian import GaussianPart
from mine_jax.mine.statistics_network import KINDS, CustomNetwork, Encoder, StatisticsNetwork

from .common import Bilinear, close, normal

pytestmark = pytest.mark.usefixtures("compile_fast")

PART = GaussianPart(
    *(normal(i, *shape) for i, shape in enumerate([(3,), (3, 2), (2,), (2, 2), *[(2,)] * 3]))
)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def apply(module, params, *inputs, method=None):
    return module.apply({"params": params}, *inputs, method=method)


def weights(module, *inputs):
    """Weights off zero, so that every part counts; columns of about unit length."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(0)

    def draw(leaf):
        return (rng.standard_normal(leaf.shape) / np.sqrt(leaf.shape[0])).astype(np.float32)

    return jax.tree.map(draw, shapes)


def dense(layer, values):
    return values @ layer["kernel"] + layer["bias"]


def silu(values):
    return values / (1 + np.exp(-values))


def naive_scores(kind, depth, params, x, z):
    """T of every x with every z by the formula, in float64."""
    x, z = np.float64(x)[:, None], np.float64(z)[None]
    params, part = jax.tree.map(np.float64, (params, PART))
    codes = [
        side @ encoder["columns"] + 0.7 * (side**2 - 1) @ encoder["squares"] + encoder["bias"]
        for side, encoder in ((x, params["x_encoder"]), (z, params["z_encoder"]))
    ]
    head = params["head"]
    if kind == "concatenated":
        code = codes[0] + codes[1]
        for i in range(depth):
            code = dense(head[f"Dense_{i}"], np.maximum(code, 0))
        scores = code[..., 0]
    else:
        features = []
        for side, code in zip("xz", codes, strict=True):
            for i in range(depth - 1):
                code = dense(head[f"{side}_layers_{i}"], silu(code))
            features.append(dense(head[f"{side}_last"], np.tanh(code)))
        f, g = features
        scores = (f[..., :-1] * g[..., :-1]).sum(-1) + f[..., -1] + g[..., -1]
    u = np.clip((x - part.x_mean) @ part.x_projections, -8, 8)
    v = np.clip((z - part.z_mean) @ part.z_projections, -8, 8)
    quadratic = (u - v) ** 2 @ part.cross / 2 + u**2 @ part.x_square + v**2 @ part.z_square
    return scores, scores - quadratic


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_formula(kind, depth):
    network = StatisticsNetwork(kind, hidden=8, depth=depth, features=4)
    x, z = 3 * normal(1, 6, 3), 3 * normal(2, 5, 2)
    params = weights(network, x[:1], z[:1])
    neural, full = naive_scores(kind, depth, params, x, z)
    close(apply(network, params, x[:5], z), np.diagonal(neural))
    for part, expected in ((None, neural), (PART, full)):
        x_code = apply(network, params, x, None, part, method="encode_x")
        z_code = apply(network, params, z, None, part, method="encode_z")
        close(apply(network, params, x_code, z_code, part, method="pairs"), expected)
        first = jax.tree.map(lambda leaf: leaf[:5], x_code)
        joint = apply(network, params, first, z_code, part, method="score")
        close(joint, np.diagonal(expected))


@pytest.mark.parametrize(("depth", "shape"), [(1, (3,)), (3, (3,)), (2, (8, 8, 1))])
def test_shared_layers_are_those_of_equal_weights_on_both_sides(depth, shape):
    shared = StatisticsNetwork(hidden=8, depth=depth, features=4, shared=True)
    x, z = normal(1, 6, *shape), normal(2, 6, *shape)
    params = weights(shared, x[:1], z[:1])
    assert set(params) == {"x_encoder", "head"}
    inner = [f"x_layers_{i}" for i in range(depth - 1)]
    assert set(params["head"]) == {*inner, "x_last", "z_last"}
    both = {
        "x_encoder": params["x_encoder"],
        "z_encoder": params["x_encoder"],
        "head": params["head"]
        | {name.replace("x", "z", 1): params["head"][name] for name in inner},
    }
    apart = StatisticsNetwork(hidden=8, depth=depth, features=4)
    close(apply(shared, params, x, z), apply(apart, both, x, z))

    def total(params, module):
        return module.apply({"params": params}, x, z).sum()

    of_shared = jax.grad(total)(params, shared)
    of_both = jax.grad(total)(both, apart)
    sums = jax.tree.map(jnp.add, of_both["x_encoder"], of_both["z_encoder"])
    jax.tree.map(close, of_shared["x_encoder"], sums)
    for name in inner:
        of_sides = (of_both["head"][side] for side in (name, f"z{name[1:]}"))
        jax.tree.map(close, of_shared["head"][name], jax.tree.map(jnp.add, *of_sides))
    # Equal samples have equal codes up to the last layer.
    params["head"]["z_last"] = params["head"]["x_last"]
    codes = (apply(shared, params, x, method=f"encode_{side}") for side in "xz")
    jax.tree.map(np.testing.assert_array_equal, *codes)


@pytest.mark.parametrize("squares", [True, False])
def test_encoder_weights_have_the_spread_of_lecun_whatever_the_padding(squares):
    """Of truncated normals: mean 0, variance 1 / fan-in, none beyond two of their deviations."""
    columns, hidden = 10, 2000
    variables = Encoder(hidden, squares).init(jax.random.key(0), np.zeros((1, 12)), columns)
    kernels = [leaf for leaf in variables["params"].values() if leaf.ndim == 2]
    fan_in = columns * len(kernels)
    assert len(kernels) == 1 + squares
    for kernel in kernels:
        drawn = np.asarray(kernel[:columns]) * np.sqrt(fan_in)
        assert abs(drawn.mean()) < 4 / np.sqrt(drawn.size)
        assert abs(drawn.var() - 1) < 4 * np.sqrt(2 / drawn.size)
        assert np.abs(drawn).max() < 2 / 0.8796  # the deviation of what is left of a normal
        assert not kernel[columns:].any()


@pytest.mark.parametrize("squares", [True, False])
def test_encoder_padded_columns_change_nothing(squares):
    # Whatever the weights of the padding are.
    encoder = Encoder(8, squares)
    x = normal(0, 5, 3)
    params = weights(encoder, np.zeros((1, 7)))
    alone = {name: leaf[:3] if leaf.ndim == 2 else leaf for name, leaf in params.items()}
    padded = apply(encoder, params, np.pad(x, ((0, 0), (0, 4))), 3)
    close(padded, apply(encoder, alone, x))


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 11, 3)])
def test_encoder_images_equals_two_strided_convolutions(shape):
    encoder, images = Encoder(6), normal(0, 3, *shape)
    params = weights(encoder, images)
    values = jnp.asarray(images)
    for name, size, channels in (("conv1", 4, 16), ("conv2", 2, 32)):
        kernel = params[name]["kernel"].reshape(size, size, values.shape[-1], channels)
        padding = [(0, -side % size) for side in values.shape[1:3]]
        values = jax.lax.conv_general_dilated(
            values, kernel, (size, size), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        values = nn.silu(values + params[name]["bias"].reshape(1, 1, 1, -1))
    expected = dense(params["dense"], np.asarray(values).reshape(3, -1))
    close(apply(encoder, params, images), expected)


def test_custom_network_pairs_equal_module_on_every_pair():
    network = CustomNetwork(Bilinear())
    x, z = normal(1, 4, 5, 7, 3), normal(2, 5, 2)
    params = weights(network, x[:1], z[:1])
    assert set(params["module"]) == {"mean", "maps"}
    x_code = apply(network, params, x, method="encode_x")
    z_code = apply(network, params, z, method="encode_z")
    mean, maps = params["module"]["mean"], params["module"]["maps"]
    expected = (x.reshape(4, -1) - mean) @ maps @ z.T
    matrix = apply(network, params, x_code, z_code, method="pairs")
    close(matrix, expected)
    close(apply(network, params, x, z[:4]), np.diagonal(expected))


def test_custom_network_wrong_shape_of_scores_raises():
    network = CustomNetwork(lambda x, z: x + z)
    with pytest.raises(ValueError, match=r"\(x, z\) must return .*\(4,\), got \(4, 3\)"):
        network.apply({}, normal(1, 4, 3), normal(2, 4, 3))
