"""The statistics network T(x, z) as a Flax module."""

import flax.linen as nn
import jax


class Products(nn.Module):
    """Σ α·uv − β·u² − γ·v² over the last axis, with weights that start at zero."""

    @nn.compact
    def __call__(self, u: jax.Array, v: jax.Array) -> jax.Array:
        """From (…, features) each, broadcast against one another, to (…)."""
        shape = (u.shape[-1],)
        cross = self.param("cross", nn.initializers.zeros, shape)
        u_square = self.param("u_square", nn.initializers.zeros, shape)
        v_square = self.param("v_square", nn.initializers.zeros, shape)
        return (u * v) @ cross - (u * u) @ u_square - (v * v) @ v_square


class StatisticsNetwork(nn.Module):
    """T(x, z): a multilayer perceptron of both arguments, plus products of linear features.

    The first layer is linear in (x, z), so that it splits into a part for x and a part for z. Each
    is computed once for a sample (`encode_x`, `encode_z`) and then combined (`score`) with its
    own partner for the joint and with others for the marginals. Inputs are divided by the root of
    their number and meet weights of unit variance, so that one learning rate serves a label as
    well as a layer of thousands of units (Jacot et al. 2018, section 3).

    A multilayer perceptron of the sum learns functions of x − z readily and functions of x·z
    poorly; the products α·uv − β·u² − γ·v² of linear features u(x), v(z) cover the second kind
    (the log density ratio of a Gaussian pair is exactly of this form). All weights of the last
    layer start at zero, so that T = 0 and the bound is 0 before training.

    Attributes:
      hidden: width of the perceptron's hidden layers.
      depth: number of its hidden layers, the shared first one included.
      products: number of product features; 0 leaves them out.
    """

    hidden: int = 64
    depth: int = 2
    products: int = 32

    def setup(self) -> None:
        """Name the layers; Flax calls it."""
        width = self.hidden + self.products
        self.x_first = nn.Dense(width, kernel_init=nn.initializers.normal(1.0))
        self.z_first = nn.Dense(width, kernel_init=nn.initializers.normal(1.0), use_bias=False)
        self.layers = [nn.Dense(self.hidden) for _ in range(self.depth - 1)]
        self.last = nn.Dense(1, kernel_init=nn.initializers.zeros)
        self.product = Products()

    def encode_x(self, x: jax.Array) -> jax.Array:
        """The part of the first layer that depends on x: (…, features) to (…, width)."""
        return self.x_first(x / x.shape[-1] ** 0.5)

    def encode_z(self, z: jax.Array) -> jax.Array:
        """The part of the first layer that depends on z: (…, features) to (…, width)."""
        return self.z_first(z / z.shape[-1] ** 0.5)

    def score(self, x_code: jax.Array, z_code: jax.Array) -> jax.Array:
        """T of encoded samples that broadcast against one another: (…, width) to (…)."""
        activation = nn.relu(x_code[..., : self.hidden] + z_code[..., : self.hidden])
        for layer in self.layers:
            activation = nn.relu(layer(activation))
        scores = self.last(activation)[..., 0]
        if self.products:
            scores += self.product(x_code[..., self.hidden :], z_code[..., self.hidden :])
        return scores

    def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """T(x_i, z_i) in nats for samples of shape (…, features): (…)."""
        return self.score(self.encode_x(x), self.encode_z(z))
