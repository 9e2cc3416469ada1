"""LeNet-5 with ReLU units and max pooling, and its probe points.

After LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998, with the ReLU and max pooling that are now usual, and with the
second convolution connected to all maps of the first.
"""

from collections.abc import Sequence

import jax
from flax import linen as nn

from mine_jax.lenet.convolution import FORMS, Conv

PROBE_POINTS: tuple[str, ...] = (
    *("conv1", "relu1", "pool1", "conv2", "relu2", "pool2"),
    *("relu3", "relu4", "logits", "softmax"),
)
DEFAULT_PROBES: tuple[str, ...] = ("conv1", "conv2", "relu3", "softmax")


class LeNet5(nn.Module):
    """LeNet-5: two convolutions with max pooling, two hidden dense layers; 61,706 parameters.

    Probe points and the shape of a sample's activations: conv1 (bias included) and relu1
    28 x 28 x 6, pool1 14 x 14 x 6, conv2 and relu2 10 x 10 x 16, pool2 5 x 5 x 16, relu3 120,
    relu4 84, logits and softmax num_classes.

    >>> import jax
    >>> images = jax.numpy.zeros((2, 28, 28, 1))
    >>> weights = jax.eval_shape(LeNet5().init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(weights))
    61706

    Attributes:
      num_classes: number of logits.
      conv_form: implementation of the convolutions, see `Conv.form`; None to choose by backend:
        patches on a CPU, where XLA's convolution is several times slower inside compiled loops,
        native elsewhere.
    """

    num_classes: int = 10
    conv_form: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, probes: Sequence[str] = ()
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Compute the logits, and the activations of `probes`.

        Args:
          images: (n, 28, 28, 1), in [0, 1].
          probes: names from `PROBE_POINTS`.

        Returns:
          Logits (n, num_classes) if `probes` is empty; otherwise the logits and a dict of
          activations in the order of `probes` (`jax.jit` sorts the keys of a returned dict).

        Raises:
          ValueError: if a probe or the form is unknown, or `images` has another shape.
        """
        unknown = [name for name in probes if name not in PROBE_POINTS]
        if unknown:
            raise ValueError(f"unknown probes {unknown}; choose from {list(PROBE_POINTS)}")
        if images.ndim != 4 or images.shape[1:] != (28, 28, 1):
            raise ValueError(f"images have shape {images.shape}; LeNet5 takes (n, 28, 28, 1)")
        form = self.conv_form or ("patches" if jax.default_backend() == "cpu" else "native")
        if form not in FORMS:
            raise ValueError(f"conv_form is {form!r}; choose one of {FORMS}, or None")

        conv1, pool1 = Conv(6, padding=2, form=form, name="conv1")(images)
        conv2, pool2 = Conv(16, form=form, name="conv2")(pool1)
        relu3 = nn.relu(nn.Dense(120, name="dense1")(pool2.reshape(len(images), 400)))
        relu4 = nn.relu(nn.Dense(84, name="dense2")(relu3))
        logits = nn.Dense(self.num_classes, name="dense3")(relu4)
        if not probes:
            return logits
        first = (conv1, nn.relu(conv1), pool1, conv2, nn.relu(conv2), pool2)
        values = (*first, relu3, relu4, logits, nn.softmax(logits))
        activations = dict(zip(PROBE_POINTS, values, strict=True))
        return logits, {name: activations[name] for name in probes}
