"""LeNet-5 with ReLU units and max pooling, and the points at which its activations can be read.

After LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998, with the now usual ReLU and max pooling, and with the second
convolution connected to all maps of the first.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

PROBE_POINTS: tuple[str, ...] = (
    "conv1",
    "relu1",
    "pool1",
    "conv2",
    "relu2",
    "pool2",
    "relu3",
    "relu4",
    "logits",
    "softmax",
)
DEFAULT_PROBES: tuple[str, ...] = ("conv1", "conv2", "relu3", "softmax")

_IMAGE_SHAPE = (28, 28, 1)
_FORMS = ("patches", "native")


class Conv(nn.Module):
    """A convolution of stride one with a bias, and the maxima of its positive part over 2 by 2.

    Parameters are those of `flax.linen.Conv`.

    Attributes:
        features: number of output channels.
        kernel_size: height and width of the kernel, odd.
        padding: zeros added on each of the four sides.
        form: "native" for XLA's convolution of images (n, h, w, c), or "patches" for a matrix
            product over images (h, w, c, n). Both give the same numbers up to rounding.
    """

    features: int
    kernel_size: int = 5
    padding: int = 0
    form: str = "native"

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Convolves images of even height and width, in the layout of the form.

        Returns:
            The convolution, and relu and max pooling of it, of half its height and width. What is
            not used is not computed under `jit`. Tied maxima share the gradient equally.
        """
        native = self.form == "native"
        channels = images.shape[3 if native else 2]
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        pad, none = (self.padding, self.padding), (0, 0)
        padded = jnp.pad(images, (none, pad, pad, none) if native else (pad, pad, none, none))
        return (_native if native else _by_patches)(padded, kernel, bias)


class LeNet5(nn.Module):
    """LeNet-5: two convolutions with max pooling, two hidden dense layers; 61,706 parameters.

    Attributes:
        num_classes: number of logits.
        conv_form: how the convolutions are computed, see `Conv.form`; None to choose by backend:
            patches on the CPU, where XLA's convolution runs several times slower inside compiled
            loops, native elsewhere.
    """

    num_classes: int = 10
    conv_form: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, probes: Sequence[str] = ()
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Computes the logits and, where asked, the activations on the way.

        Args:
            images: (n, 28, 28, 1), in [0, 1].
            probes: names out of `PROBE_POINTS`.

        Returns:
            Logits (n, num_classes) where `probes` is empty; otherwise the logits and a dict of
            activations in the asked order (`jax.jit` sorts the keys of a dict it returns):
            conv1 and relu1 (n, 28, 28, 6), pool1 (n, 14, 14, 6), conv2 and relu2 (n, 10, 10, 16),
            pool2 (n, 5, 5, 16), relu3 (n, 120), relu4 (n, 84), logits and softmax
            (n, num_classes). conv1 and conv2 include the bias.

        Raises:
            ValueError: if a probe or the form is unknown, or `images` has another shape.
        """
        unknown = [name for name in probes if name not in PROBE_POINTS]
        if unknown:
            raise ValueError(f"unknown probes {unknown}; choose from {list(PROBE_POINTS)}")
        if images.ndim != 4 or images.shape[1:] != _IMAGE_SHAPE:
            raise ValueError(f"images have shape {images.shape}; LeNet5 takes (n, 28, 28, 1)")
        form = self.conv_form or ("patches" if jax.default_backend() == "cpu" else "native")
        if form not in _FORMS:
            raise ValueError(f"conv_form is {form!r}; choose one of {_FORMS}, or None")
        n = images.shape[0]
        seen: dict[str, jax.Array] = {}
        values = images if form == "native" else images.reshape(n, -1).T.reshape(28, 28, 1, n)
        for i, conv in (
            ("1", Conv(6, padding=2, form=form, name="conv1")),
            ("2", Conv(16, form=form, name="conv2")),
        ):
            convolved, values = conv(values)
            seen["conv" + i], seen["pool" + i] = (
                part if form == "native" else jnp.moveaxis(part, -1, 0)
                for part in (convolved, values)
            )
            seen["relu" + i] = nn.relu(seen["conv" + i])
        flat = seen["pool2"].reshape(n, -1)
        seen["relu3"] = nn.relu(nn.Dense(120, name="dense1")(flat))
        seen["relu4"] = nn.relu(nn.Dense(84, name="dense2")(seen["relu3"]))
        seen["logits"] = nn.Dense(self.num_classes, name="dense3")(seen["relu4"])
        if not probes:
            return seen["logits"]
        seen["softmax"] = nn.softmax(seen["logits"])
        return seen["logits"], {name: seen[name] for name in probes}


def _native(images: jax.Array, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`Conv` of (n, h, w, c) with (k, k, c, o) without padding, by XLA's convolution."""
    layout = ("NHWC", "HWIO", "NHWC")
    conv = lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=layout)
    conv += bias.reshape(1, 1, 1, -1)
    n, height, width, features = conv.shape
    windows = conv.reshape(n, height // 2, 2, width // 2, 2, features).transpose(2, 4, 0, 1, 3, 5)
    return conv, nn.relu(_largest(windows.reshape(4, n, height // 2, width // 2, features)))


def _by_patches(
    images: jax.Array, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`Conv` of (h, w, c, n) with (k, k, c, o) without padding, by one matrix product.

    In units of 2 by 2 pixels a k by k convolution with the pooling behind it is one of half the
    size, rounded up, from 4c to 4o channels: rows of the product for each member of the pooling
    windows, and maxima of whole rows. The images are the innermost axis, so that every copy and
    every maximum runs over contiguous numbers.
    """
    height, width, channels, n = images.shape
    k, features = kernel.shape[0], kernel.shape[-1]
    half = (k + 1) // 2
    rows, columns = height // 2 - half + 1, width // 2 - half + 1
    units = images.reshape(height // 2, 2, width // 2, 2, channels, n).transpose(1, 3, 4, 0, 2, 5)
    units = units.reshape(4 * channels, height // 2, width // 2 * n)
    windows = [(i, j * n) for i in range(half) for j in range(half)]
    patches = [units[:, i : i + rows, j : j + columns * n] for i, j in windows]
    patches = jnp.concatenate(patches).reshape(half * half * 4 * channels, -1)
    members = []
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        shifted = jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)))
        shifted = shifted.reshape(half, 2, half, 2, channels, features)
        members.append(shifted.transpose(5, 0, 2, 1, 3, 4).reshape(features, -1))
    product = (jnp.concatenate(members) @ patches).reshape(4, features, -1)
    pooled = nn.relu(_largest(product) + bias[:, None])
    conv = (product + bias[None, :, None]).reshape(2, 2, features, rows, columns, n)
    conv = conv.transpose(3, 0, 4, 1, 2, 5).reshape(2 * rows, 2 * columns, features, n)
    return conv, pooled.reshape(features, rows, columns, n).transpose(1, 2, 0, 3)


@jax.custom_vjp
def _largest(members: jax.Array) -> jax.Array:
    """Maxima of (4, …) over the first axis; tied ones share the gradient equally.

    As `jnp.max` does, in a form that compiles to whole rows.
    """
    first, second, third, fourth = members
    return jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, fourth))


def _largest_forward(members: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    largest = _largest(members)
    return largest, (members, largest)


def _largest_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    members, largest = saved
    share = (members == largest[None]).astype(gradient.dtype)
    first, second, third, fourth = share  # a sum over the axis does not fuse, and takes longer
    return (share * (gradient / (first + second + third + fourth))[None],)


_largest.defvjp(_largest_forward, _largest_backward)
