"""The statistics network T(x, z) as a Flax module.

A network has an encoder for each side, which is as wide as its data and runs once for each sample,
and a head, which combines the codes of both sides and has the same shape for all data:

  x_code = encode_x(x); z_code = encode_z(z); T(x_i, z_i) = score(x_code, z_code)

`pairs` gives the scores of every x with every z. T is a neural part, which starts at zero, plus a
Gaussian part in closed form (`gaussian`), which may be absent.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mine_jax.mine import gaussian
from mine_jax.mine.bounds import Array
from mine_jax.mine.gaussian import GaussianPart

KINDS = ("separable", "concatenated")
SQUARES_SCALE = 0.7  # √2 would give squares of unit variance the spread of the columns themselves


class Encoder(nn.Module):
    """The first layer of one side: (n, features) or (n, h, w, c) to (n, hidden).

    Vectors may come with their squares, so that a dependence of scales is as easy to see as one of
    values. They may be padded with columns of zeros, which change nothing. Images go through two
    convolutions whose stride is their kernel size, which are matrix products on every backend.

    Attributes:
      hidden: number of units.
      squares: whether vectors come with their squares.
      module: the caller's encoder, before this layer; None for none.
    """

    hidden: int
    squares: bool = True
    module: nn.Module | None = None

    @nn.compact
    def __call__(self, values: Array, columns: Array | int | None = None) -> Array:
        """Encode samples; of a vector's columns only the first `columns` are data."""
        n = values.shape[0]
        if self.module is not None:
            values, columns = self.module(values), None
            if values.ndim != 2 or values.shape[0] != n:
                raise ValueError(
                    f"{type(self.module).__name__} must return (n, k) for n = {n} samples, got "
                    f"{values.shape}"
                )
        if values.ndim == 4:
            maps = nn.silu(nn.Dense(16, name="conv1")(patches(values, 4)))
            maps = nn.silu(nn.Dense(32, name="conv2")(patches(maps, 2)))
            return nn.Dense(self.hidden, name="dense")(maps.reshape(n, -1))
        width = values.shape[1]
        number = jnp.asarray(width if columns is None else columns, jnp.int32)
        fan_in = number * (2 if self.squares else 1)
        shape = width, self.hidden
        code = values @ self.param("columns", _padded_kernel, shape, number, fan_in)
        if self.squares:
            data = jnp.arange(width) < number
            squares = SQUARES_SCALE * (values * values - 1) * data[None]
            code += squares @ self.param("squares", _padded_kernel, shape, number, fan_in)
        return code + self.param("bias", nn.initializers.zeros, (self.hidden,))[None]


class SeparableHead(nn.Module):
    """f(x)·g(z) + a(x) + b(z), with a multilayer perceptron for each side.

    All pairs of a batch cost one matrix product. The log density ratio of a Gaussian pair behind a
    map of each side has exactly this form.
    """

    hidden: int
    depth: int
    features: int
    shared: bool = False

    def setup(self) -> None:
        """Name the layers; Flax calls it."""
        self.x_layers = [nn.Dense(self.hidden) for _ in range(self.depth - 1)]
        self.z_layers = (
            self.x_layers if self.shared else [nn.Dense(self.hidden) for _ in range(self.depth - 1)]
        )
        # f, a and b start at zero, so that T is the Gaussian part; with g at zero as well no
        # gradient would reach either.
        self.x_last = nn.Dense(self.features + 1, kernel_init=nn.initializers.zeros)
        self.z_last = nn.Dense(self.features + 1, kernel_init=_zero_last)

    def x_features(self, code: Array) -> tuple[Array, Array]:
        """Map x's code (n, hidden) to f (n, features) and a (n,)."""
        last = self.x_last(_perceptron(code, self.x_layers))
        return last[:, :-1], last[:, -1]

    def z_features(self, code: Array) -> tuple[Array, Array]:
        """Map z's code (n, hidden) to g (n, features) and b (n,)."""
        last = self.z_last(_perceptron(code, self.z_layers))
        return last[:, :-1], last[:, -1]

    def __call__(self, x_code: Array, z_code: Array) -> tuple:
        """Return both sides' features."""
        return self.x_features(x_code), self.z_features(z_code)


class ConcatenatedHead(nn.Module):
    """A multilayer perceptron on the sum of both codes.

    The first layer of the concatenation (x, z) is the sum of a layer of x and a layer of z
    (Belghazi et al. 2018). It represents sharp edges in x − z, and costs a pass for every pair.
    """

    hidden: int
    depth: int

    @nn.compact
    def __call__(self, code: Array) -> Array:
        """Map the sum of the codes (…, hidden) to scores (…)."""
        for _ in range(self.depth - 1):
            code = nn.Dense(self.hidden)(nn.relu(code))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(nn.relu(code))[..., 0]


class StatisticsNetwork(nn.Module):
    """T(x, z): a neural part, which starts at zero, plus a Gaussian part in closed form.

    >>> import jax
    >>> x, z = jax.numpy.ones((5, 2)), jax.numpy.ones((5, 1))
    >>> init = jax.jit(StatisticsNetwork().init_with_output)
    >>> scores, weights = init(jax.random.key(0), x, z)
    >>> scores.shape
    (5,)

    Attributes:
      kind: one of `KINDS`: "separable" (`SeparableHead`) or "concatenated" (`ConcatenatedHead`).
      hidden: width of the hidden layers.
      depth: number of hidden layers, the encoder included.
      features: length of f and g ("separable").
      squares: whether the encoders see the squares of the columns.
      clip: limit the projections of the Gaussian part.
      shared: both sides share all layers but the last ("separable").
      x_module: the caller's encoder of x, before the first layer; None for none.
      z_module: likewise of z.
    """

    kind: str = "separable"
    hidden: int = 128
    depth: int = 2
    features: int = 32
    squares: bool = True
    clip: bool = True
    shared: bool = False
    x_module: nn.Module | None = None
    z_module: nn.Module | None = None

    def setup(self) -> None:
        """Name the encoders and the head; Flax calls it."""
        self.x_encoder = Encoder(self.hidden, self.squares, self.x_module)
        self.z_encoder = (
            self.x_encoder if self.shared else Encoder(self.hidden, self.squares, self.z_module)
        )
        self.head: Any
        if self.kind == "separable":
            self.head = SeparableHead(self.hidden, self.depth, self.features, self.shared)
        else:
            self.head = ConcatenatedHead(self.hidden, self.depth)

    def encode_x(
        self, x: Array, columns: Array | None = None, part: GaussianPart | None = None
    ) -> tuple:
        """Encode x (n, …): f and a if separable, else the encoder's code and the projections."""
        code = self.x_encoder(x, columns)
        u = (
            None
            if part is None
            else gaussian.project(x, part.x_mean, part.x_projections, self.clip)
        )
        if self.kind != "separable":
            return code, u
        features = self.head.x_features(code)
        if part is None or u is None:
            return features
        return _join(features, gaussian.x_features(part, u))

    def encode_z(
        self, z: Array, columns: Array | None = None, part: GaussianPart | None = None
    ) -> tuple:
        """Encode z (n, …): g and b if separable, else the encoder's code and the projections."""
        code = self.z_encoder(z, columns)
        v = (
            None
            if part is None
            else gaussian.project(z, part.z_mean, part.z_projections, self.clip)
        )
        if self.kind != "separable":
            return code, v
        features = self.head.z_features(code)
        if part is None or v is None:
            return features
        return _join(features, gaussian.z_features(part, v))

    def score(self, x_code: tuple, z_code: tuple, part: GaussianPart | None = None) -> Array:
        """Compute T of codes that broadcast against one another, (…)."""
        if self.kind == "separable":
            (f, a), (g, b) = x_code, z_code
            return jnp.sum(f * g, axis=-1) + a + b
        (x_code, u), (z_code, v) = x_code, z_code
        scores = self.head(x_code + z_code)
        return scores if part is None else scores + gaussian.score(part, u, v)

    def pairs(self, x_code: tuple, z_code: tuple, part: GaussianPart | None = None) -> Array:
        """Compute T of every x with every z: codes of n and of m samples to (n, m)."""
        if self.kind == "separable":
            (f, a), (g, b) = x_code, z_code
            return f @ g.T + a[:, None] + b[None, :]
        rows = jax.tree.map(lambda leaf: leaf[:, None], x_code)
        columns = jax.tree.map(lambda leaf: leaf[None, :], z_code)
        return self.score(rows, columns, part)

    def __call__(self, x: Array, z: Array) -> Array:
        """Compute the neural part of T(x_i, z_i): (n, features) or (n, h, w, c) to (n,)."""
        return self.score(self.encode_x(x), self.encode_z(z))


class CustomNetwork(nn.Module):
    """A Flax module of the caller, `module(x, z) -> (n,)`, as a statistics network.

    Attributes:
      module: takes n prepared samples of x and of z, and returns n scores.
    """

    module: Any

    def encode_x(self, x: Array, columns: Array | None = None, part: None = None) -> Array:
        """Return the samples."""
        return x

    def encode_z(self, z: Array, columns: Array | None = None, part: None = None) -> Array:
        """Return the samples."""
        return z

    def score(self, x: Array, z: Array, part: None = None) -> Array:
        """Compute T(x_i, z_i): (n, …) and (n, …) to (n,)."""
        scores = self.module(x, z)
        if scores.shape != x.shape[:1]:
            raise ValueError(
                f"{type(self.module).__name__}(x, z) must return a score for each sample, "
                f"{x.shape[:1]}, got {scores.shape}"
            )
        return scores

    def pairs(self, x: Array, z: Array, part: None = None) -> Array:
        """Compute T of every x with every z, (n, m)."""
        n, m = x.shape[0], z.shape[0]
        scores = self.score(jnp.repeat(x, m, axis=0), jnp.tile(z, (n, *[1] * (z.ndim - 1))))
        return scores.reshape(n, m)

    def __call__(self, x: Array, z: Array) -> Array:
        """Compute T(x_i, z_i): (n,)."""
        return self.score(x, z)


def patches(images: Array, size: int) -> Array:
    """Cut images (n, h, w, c) into tiles of size² pixels, zero-padded: (n, h', w', size² c)."""
    n, height, width, channels = images.shape
    rows, columns = -(-height // size), -(-width // size)
    padding = ((0, 0), (0, rows * size - height), (0, columns * size - width), (0, 0))
    tiles = jnp.pad(images, padding).reshape(n, rows, size, columns, size, channels)
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, size * size * channels)


def _join(neural: tuple[Array, Array], closed_form: tuple[Array, Array]) -> tuple[Array, Array]:
    """Append the features of the Gaussian part to the neural ones; the offsets add up."""
    return jnp.concatenate([neural[0], closed_form[0]], axis=-1), neural[1] + closed_form[1]


def _padded_kernel(key: Array, shape: tuple[int, int], columns: Array, fan_in: Array) -> Array:
    """LeCun-normal weights at the true fan-in; zero for padding. Row i depends on i and the key."""
    rows = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(shape[0]))
    draws = jax.vmap(lambda key: jax.random.truncated_normal(key, -2, 2, shape[1:]))(rows)
    deviation = 1 / jnp.sqrt(fan_in.astype(jnp.float32)) / 0.87962566  # of the truncated normal
    return draws * deviation * (jnp.arange(shape[0]) < columns)[:, None]


def _zero_last(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Small random weights, with a last column of zeros."""
    small = nn.initializers.variance_scaling(0.09, "fan_in", "normal")(key, shape, dtype)
    return small.at[:, -1].set(0)


def _perceptron(code: Array, layers: list) -> Array:
    # The last activation is bounded: unbounded features let single pairs run away.
    for i, layer in enumerate(layers):
        code = layer(nn.silu(code))
        if i + 1 == len(layers):
            return jnp.tanh(code)
    return jnp.tanh(code)
