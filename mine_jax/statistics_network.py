"""The statistics network T(x, z) as a Flax module.

Every network is cut the same way: a first layer for each side that is as wide as its data
(`encode_x`, `encode_z`), and a trunk that has the same shape for all data and combines the codes
(`score`, `pairs`). The first layers are computed once for a sample; the trunks of many networks can
be stacked and run under `vmap`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

KINDS = ("separable", "flat")


class First(nn.Module):
    """One side's first layer: `hidden` units of its own, then `canonical` linear projections.

    Vectors may come with their squares, so that a dependence of scales is as easy to see as one of
    values. Images (h, w, c) go through two convolutions whose stride is their kernel size, which
    are matrix products on every backend. The projections are set in closed form
    (`MineConfig.canonical`) and not trained.

    Attributes:
      hidden: number of units.
      canonical: number of projections.
      limit: what the projections are cut off at. They are of unit variance on training samples, and
        a single sample far out in a direction that hardly varied there would outweigh all others.
      squares: whether vectors come with their squares.
    """

    hidden: int
    canonical: int
    limit: float = math.inf
    squares: bool = True

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """From (n, features) or (n, h, w, c) to (n, hidden + canonical)."""
        n = values.shape[0]
        flat = values.reshape(n, -1)
        if values.ndim == 4:
            code = nn.silu(nn.Dense(16, name="conv1")(_patches(values, 4)))
            code = nn.silu(nn.Dense(32, name="conv2")(_patches(code, 2)))
            code = code.reshape(n, -1)
        else:
            code = flat
            if self.squares:
                code = jnp.concatenate([flat, 0.7 * (flat * flat - 1)], axis=-1)
        code = nn.Dense(self.hidden, name="dense")(code)
        zeros = nn.initializers.zeros
        mean = self.param("mean", zeros, (flat.shape[-1],))
        maps = self.param("maps", zeros, (flat.shape[-1], self.canonical))
        mean, maps = jax.lax.stop_gradient((mean, maps))
        projections = jnp.clip((flat - mean[None]) @ maps, -self.limit, self.limit)
        return jnp.concatenate([code, projections], axis=-1)


class GaussianPart(nn.Module):
    """−Σ (α(u − v)²/2 + β·u² + γ·v²) of canonical projections: a Gaussian pair's log density ratio.

    Zero at first, set in closed form, and not trained. `score` squares the difference as such: for
    correlations near 1 the terms of its expansion cancel, and float32 has no digits left.
    """

    canonical: int

    def setup(self) -> None:
        """Name the weights; Flax calls it."""
        shape = (self.canonical,)
        self.cross = self.param("cross", nn.initializers.zeros, shape)
        self.u_square = self.param("u_square", nn.initializers.zeros, shape)
        self.v_square = self.param("v_square", nn.initializers.zeros, shape)

    def score(self, u: jax.Array, v: jax.Array) -> jax.Array:
        """Its value for projections that broadcast against one another, (…, canonical)."""
        cross, u_square, v_square = self._weights()
        difference = u - v
        squares = (difference * difference) @ (cross / 2)
        return -squares - (u * u) @ u_square - (v * v) @ v_square

    def terms(self, u: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Expanded to α·u for a product with v, less one term of each side.

        Returns:
          α·u, (…, canonical), and the terms of u and of v, (…) each.
        """
        cross, u_square, v_square = self._weights()
        weighted = u * jnp.broadcast_to(cross, u.shape)
        return weighted, (u * u) @ (u_square + cross / 2), (v * v) @ (v_square + cross / 2)

    def _weights(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        return jax.lax.stop_gradient((self.cross, self.u_square, self.v_square))


class StatisticsNetwork(nn.Module):
    """T(x, z): a Gaussian part in closed form plus a neural part, which starts at zero.

    The neural part is either
    * "separable": f(x)·g(z) + a(x) + b(z) with a multilayer perceptron for each side. All pairs of
      a batch cost one matrix product. Whatever is a Gaussian pair behind maps of each side for
      itself has a log density ratio of exactly this form.
    * "flat": a multilayer perceptron of the sum of both first layers, which are those of the
      concatenation (x, z) (Belghazi et al. 2018). It represents sharp edges in x − z, and costs a
      pass for every pair.

    Attributes:
      kind: one of `KINDS`.
      hidden: width of the hidden layers.
      depth: number of hidden layers, the first one included.
      features: length of f and g ("separable").
      canonical: number of projections of the Gaussian part.
      limit: what they are cut off at (see `First`).
      squares: whether vectors come with their squares.
    """

    kind: str = "separable"
    hidden: int = 128
    depth: int = 2
    features: int = 32
    canonical: int = 32
    limit: float = math.inf
    squares: bool = True

    def setup(self) -> None:
        """Name the layers; Flax calls it."""
        self.x_first = First(self.hidden, self.canonical, self.limit, self.squares)
        self.z_first = First(self.hidden, self.canonical, self.limit, self.squares)
        self.gaussian = GaussianPart(self.canonical)
        inner = range(self.depth - 1)
        if self.kind == "flat":
            self.layers = [nn.Dense(self.hidden) for _ in inner]
            self.last = nn.Dense(1, kernel_init=nn.initializers.zeros)
        else:
            self.x_layers = [nn.Dense(self.hidden) for _ in inner]
            self.z_layers = [nn.Dense(self.hidden) for _ in inner]
            # x's last layer starts at zero, and so does b(z), so that T is the Gaussian part; with
            # g at zero as well no gradient would reach either.
            self.x_last = nn.Dense(self.features + 1, kernel_init=nn.initializers.zeros)
            self.z_last = nn.Dense(self.features + 1, kernel_init=_zero_last)

    def encode_x(self, x: jax.Array) -> jax.Array:
        """The first layer of x: (n, …) to (n, hidden + canonical)."""
        return self.x_first(x)

    def encode_z(self, z: jax.Array) -> jax.Array:
        """The first layer of z: (n, …) to (n, hidden + canonical)."""
        return self.z_first(z)

    def score(self, x_code: jax.Array, z_code: jax.Array) -> jax.Array:
        """T of codes that broadcast against one another: (…, width) to (…)."""
        if self.kind == "separable":
            (f, a), (g, b) = self.features_of(x_code, z_code)
            return jnp.sum(f * g, axis=-1) + a + b
        gaussian = self.gaussian.score(x_code[..., self.hidden :], z_code[..., self.hidden :])
        return gaussian + self._joint_part(x_code[..., : self.hidden] + z_code[..., : self.hidden])

    def pairs(self, x_codes: jax.Array, z_codes: jax.Array) -> jax.Array:
        """T of every x with every z: (n, width) and (m, width) to (n, m)."""
        if self.kind == "separable":
            (f, a), (g, b) = self.features_of(x_codes, z_codes)
            return f @ g.T + a[:, None] + b[None, :]
        return self.score(x_codes[:, None, :], z_codes[None, :, :])

    def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """T(x_i, z_i) in nats for samples (n, features) or (n, h, w, c): (n,)."""
        return self.score(self.encode_x(x), self.encode_z(z))

    def features_of(self, x_code: jax.Array, z_code: jax.Array) -> tuple:
        """Each side's long feature vector and its own term; T is f·g + a + b."""
        u, v = x_code[..., self.hidden :], z_code[..., self.hidden :]
        cross, x_square, z_square = self.gaussian.terms(u, v)
        x_part = self.x_last(_perceptron(x_code[..., : self.hidden], self.x_layers))
        z_part = self.z_last(_perceptron(z_code[..., : self.hidden], self.z_layers))
        f = jnp.concatenate([x_part[..., :-1], cross], axis=-1)
        g = jnp.concatenate([z_part[..., :-1], v], axis=-1)
        return (f, x_part[..., -1] - x_square), (g, z_part[..., -1] - z_square)

    def _joint_part(self, code: jax.Array) -> jax.Array:
        for layer in self.layers:
            code = layer(nn.relu(code))
        return self.last(nn.relu(code))[..., 0]


class Wrapped(nn.Module):
    """A module of the user's, `module(x, z) -> (n,)`, in the form of a statistics network.

    Attributes:
      module: takes n samples of x and of z as they were prepared, and returns n scores.
    """

    module: Any

    def encode_x(self, x: jax.Array) -> jax.Array:
        """The samples themselves."""
        return x

    def encode_z(self, z: jax.Array) -> jax.Array:
        """The samples themselves."""
        return z

    def score(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """T(x_i, z_i): (n, …) and (n, …) to (n,)."""
        scores = self.module(x, z)
        if scores.shape != x.shape[:1]:
            raise ValueError(
                f"{type(self.module).__name__}(x, z) must return a score for each sample, "
                f"{x.shape[:1]}, got {scores.shape}"
            )
        return scores

    def pairs(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """T of every x with every z, (n, m)."""
        n, m = x.shape[0], z.shape[0]
        scores = self.score(jnp.repeat(x, m, axis=0), jnp.tile(z, (n, *[1] * (z.ndim - 1))))
        return scores.reshape(n, m)

    def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """T(x_i, z_i): (n,)."""
        return self.score(x, z)


def _zero_last(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """Small random weights, with a last column of zeros."""
    small = nn.initializers.variance_scaling(0.09, "fan_in", "normal")(key, shape, dtype)
    return small.at[:, -1].set(0)


def _perceptron(code: jax.Array, layers: list) -> jax.Array:
    # The last activation is bounded: unbounded features let single pairs run away.
    for i, layer in enumerate(layers):
        code = layer(nn.silu(code))
        if i + 1 == len(layers):
            return jnp.tanh(code)
    return jnp.tanh(code)


def _patches(images: jax.Array, size: int) -> jax.Array:
    """Tiles of size × size pixels, zero-padded: (n, h, w, c) to (n, h', w', size² c)."""
    n, height, width, channels = images.shape
    rows, columns = -(-height // size), -(-width // size)
    padding = ((0, 0), (0, rows * size - height), (0, columns * size - width), (0, 0))
    tiles = jnp.pad(images, padding).reshape(n, rows, size, columns, size, channels)
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, size * size * channels)
