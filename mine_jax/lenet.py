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
    """A convolution of stride one over images, with a bias; parameters as in `flax.linen.Conv`.

    Attributes:
        features: number of output channels.
        kernel_size: height and width of the kernel.
        padding: zeros added on each of the four sides.
        form: "native" for XLA's convolution, "patches" for a matrix product over patches, or None
            to choose by backend: patches on the CPU, where XLA's convolution runs several times
            slower inside compiled loops, native elsewhere. Both give the same numbers up to
            rounding.
    """

    features: int
    kernel_size: int = 5
    padding: int = 0
    form: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Convolves `images` (n, h, w, c) to (n, h', w', features).

        Raises:
            ValueError: if `form` is unknown.
        """
        form = self.form or ("patches" if jax.default_backend() == "cpu" else "native")
        if form not in _FORMS:
            raise ValueError(f"form is {form!r}; choose one of {_FORMS}, or None")
        shape = (self.kernel_size, self.kernel_size, images.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        pad = (self.padding, self.padding)
        padded = jnp.pad(images, ((0, 0), pad, pad, (0, 0)))
        convolve = _convolve_patches if form == "patches" else _convolve_native
        return convolve(padded, kernel) + bias.reshape(1, 1, 1, -1)


class LeNet5(nn.Module):
    """LeNet-5: two convolutions with max pooling, two hidden dense layers; 61,706 parameters.

    Attributes:
        num_classes: number of logits.
        conv_form: how the convolutions are computed; see `Conv.form`.
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
            ValueError: if a probe is unknown or `images` has another shape.
        """
        unknown = [name for name in probes if name not in PROBE_POINTS]
        if unknown:
            raise ValueError(f"unknown probes {unknown}; choose from {list(PROBE_POINTS)}")
        if images.ndim != 4 or images.shape[1:] != _IMAGE_SHAPE:
            raise ValueError(f"images have shape {images.shape}; LeNet5 takes (n, 28, 28, 1)")
        seen: dict[str, jax.Array] = {}
        seen["conv1"] = Conv(6, padding=2, form=self.conv_form, name="conv1")(images)
        seen["relu1"] = nn.relu(seen["conv1"])
        seen["pool1"] = _max_pool(seen["relu1"])
        seen["conv2"] = Conv(16, form=self.conv_form, name="conv2")(seen["pool1"])
        seen["relu2"] = nn.relu(seen["conv2"])
        seen["pool2"] = _max_pool(seen["relu2"])
        flat = seen["pool2"].reshape(images.shape[0], -1)
        seen["relu3"] = nn.relu(nn.Dense(120, name="dense1")(flat))
        seen["relu4"] = nn.relu(nn.Dense(84, name="dense2")(seen["relu3"]))
        seen["logits"] = nn.Dense(self.num_classes, name="dense3")(seen["relu4"])
        if not probes:
            return seen["logits"]
        seen["softmax"] = nn.softmax(seen["logits"])
        return seen["logits"], {name: seen[name] for name in probes}


def _convolve_native(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves (n, h, w, c) with (k, k, c, o) without padding."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=layout)


def _convolve_patches(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves (n, h, w, c) with (k, k, c, o) without padding, as one matrix product.

    A patch covers `block` neighbouring output columns rather than one. The kernel becomes a band
    matrix with some zeros; the patches, whose copying costs more than the product, shrink from
    k * k * c to k * (block + k - 1) * c / block numbers per output column.
    """
    k, _, channels, features = kernel.shape
    n, height, width, _ = images.shape
    rows, columns = height - k + 1, width - k + 1
    block = max(b for b in range(1, k + 1) if columns % b == 0)
    span = block + k - 1
    shifts = [((0, 0), (s, block - 1 - s), (0, 0), (0, 0)) for s in range(block)]
    band = jnp.stack([jnp.pad(kernel, shift) for shift in shifts], axis=3)  # (k, span, c, block, o)
    spans = jnp.stack([images[:, :, s : s + span] for s in range(0, columns, block)], axis=2)
    spans = spans.reshape(n, height, columns // block, span * channels)
    patches = jnp.concatenate([spans[:, i : i + rows] for i in range(k)], axis=-1)
    out = patches @ band.reshape(k * span * channels, block * features)
    return out.reshape(n, rows, columns, features)


def _max_pool(images: jax.Array) -> jax.Array:
    """Takes maxima over 2 by 2 windows of (n, h, w, c); tied maxima share the gradient equally."""
    n, height, width, channels = images.shape
    windows = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    return windows.max(axis=(2, 4))
