"""Convolution with ReLU and 2 x 2 max pooling, in a form that is fast on CPUs and in XLA's."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

FORMS = ("patches", "native")


class Conv(nn.Module):
    """A convolution of stride one with bias, and ReLU and 2 x 2 max pooling of its output.

    The parameters are those of `flax.linen.Conv`.

    Attributes:
      features: number of output channels.
      kernel_size: height and width of the kernel, odd.
      padding: number of zeros added on each of the four sides.
      form: "native" for XLA's convolution, "patches" for one matrix product, whose internal layout
        is (h, w, c, n). Both compute the same values up to rounding.
    """

    features: int
    kernel_size: int = 5
    padding: int = 0
    form: str = "native"

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Convolve images (n, h, w, c) of even height and width.

        Returns:
          The convolution (n, h', w', features) and its pooled positive part, of half the height and
          width. `jit` removes an output that is not used. Tied maxima share the gradient equally.
        """
        shape = (self.kernel_size, self.kernel_size, images.shape[3], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        pad, none = (self.padding, self.padding), (0, 0)
        if self.form == "native":
            return _native(jnp.pad(images, (none, pad, pad, none)), kernel, bias)
        # Between two layers these transpositions cancel under `jit`.
        images = jnp.pad(jnp.moveaxis(images, 0, -1), (pad, pad, none, none))
        conv, pooled = _by_patches(images, kernel, bias)
        return jnp.moveaxis(conv, -1, 0), jnp.moveaxis(pooled, -1, 0)


def _native(images: jax.Array, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Convolve (n, h, w, c) with (k, k, c, o) without padding, by XLA's convolution."""
    layout = ("NHWC", "HWIO", "NHWC")
    conv = lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=layout)
    conv += bias.reshape(1, 1, 1, -1)
    n, height, width, features = conv.shape
    windows = conv.reshape(n, height // 2, 2, width // 2, 2, features).transpose(2, 4, 0, 1, 3, 5)
    return conv, nn.relu(largest(windows.reshape(4, n, height // 2, width // 2, features)))


def _by_patches(
    images: jax.Array, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Convolve (h, w, c, n) with (k, k, c, o) without padding, by one matrix product.

    In units of 2 x 2 pixels a k x k convolution followed by pooling is one of half the size,
    rounded up, from 4c to 4o channels: the product has rows for each member of the pooling windows,
    and the maxima are taken of whole rows. The images are the innermost axis, so that every copy
    and every maximum runs over contiguous numbers.
    """
    height, width, channels, n = images.shape
    k, features = kernel.shape[0], kernel.shape[-1]
    half = (k + 1) // 2
    rows, columns = height // 2 - half + 1, width // 2 - half + 1
    units = images.reshape(height // 2, 2, width // 2, 2, channels, n).transpose(1, 3, 4, 0, 2, 5)
    units = units.reshape(4 * channels, height // 2, width // 2 * n)
    windows = [(i, j * n) for i in range(half) for j in range(half)]
    parts = [units[:, i : i + rows, j : j + columns * n] for i, j in windows]
    patches = jnp.concatenate(parts).reshape(half * half * 4 * channels, -1)
    members = []
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        shifted = jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)))
        shifted = shifted.reshape(half, 2, half, 2, channels, features)
        members.append(shifted.transpose(5, 0, 2, 1, 3, 4).reshape(features, -1))
    product = (jnp.concatenate(members) @ patches).reshape(4, features, -1)
    pooled = nn.relu(largest(product) + bias[:, None])
    conv = (product + bias[None, :, None]).reshape(2, 2, features, rows, columns, n)
    conv = conv.transpose(3, 0, 4, 1, 2, 5).reshape(2 * rows, 2 * columns, features, n)
    return conv, pooled.reshape(features, rows, columns, n).transpose(1, 2, 0, 3)


@jax.custom_vjp
def largest(members: jax.Array) -> jax.Array:
    """Compute the maxima of (4, …) over the first axis; tied maxima share the gradient equally.

    The same as `jnp.max`, in a form that compiles to operations on whole rows.
    """
    first, second, third, fourth = members
    return jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, fourth))


def _largest_forward(members: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    maxima = largest(members)
    return maxima, (members, maxima)


def _largest_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    members, maxima = saved
    ties = (members == maxima[None]).astype(gradient.dtype)
    first, second, third, fourth = ties  # a sum over the axis does not fuse, and takes longer
    return (ties * (gradient / (first + second + third + fourth))[None],)


largest.defvjp(_largest_forward, _largest_backward)
