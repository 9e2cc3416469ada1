"""Images of real digits that share their class, and digits beside their label.

The images are those of MNIST where its folder is given, else the 5,000 of `mnist_5k`. Nothing is
read before samples are drawn.
"""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
from numpy.random import Generator

from .problem import Array, Problem, Samples
from .samplers import flipped
from .truths import channel_nats, exact

TEN = tuple(range(10))


@cache
def load_digits(data_dir: str | None) -> tuple[Array, np.ndarray]:
    """Read all digits, of training and test together.

    Args:
      data_dir: folder with the four files of MNIST; None for `mnist_5k`.

    Returns:
      Images, (m, 28, 28) float32 in [0, 1], and labels, (m,).

    Raises:
      ValueError, FileNotFoundError, DatasetUnavailable: as `datasets.load`.
    """
    from mine_jax.lenet import datasets

    data = datasets.load("mnist" if data_dir else "mnist_5k", data_dir)
    images = np.concatenate([data.train_images, data.test_images])[..., 0]
    return images, np.concatenate([data.train_labels, data.test_labels])


def digits() -> list[Problem]:
    """Pairs of digits and digits beside labels; a truth is that of the classes, an upper bound."""
    pairs = (("", TEN, 0.0), (" beta=0.3", TEN, 0.3), (" classes=3", (3, 5, 8), 0.0))
    table = [
        *(
            (f"digit pairs{text}", len(classes), beta, partial(_pairs, classes=classes, beta=beta))
            for text, classes, beta in pairs
        ),
        *(
            ("digits and labels" + f" beta={beta}" * bool(beta), 10, beta, partial(_labels, beta))
            for beta in (0.0, 0.3, 0.5)
        ),
    ]
    return [
        Problem(
            f"wild {name}",
            "wild digits",
            exact(channel_nats(classes, beta)),
            sampler,
            held_out=True,
            benchmark="wild",
            truth_is_upper=True,
            reads_digits=True,
        )
        for name, classes, beta, sampler in table
    ]


def _pairs(
    rng: Generator, n: int, data_dir: str | None, classes: Sequence[int], beta: float
) -> Samples:
    """Draw images whose classes are labels and flipped labels, (n, 28, 28) each.

    No image is used twice, so that there are at most half as many samples as images of the classes.
    """
    images, labels = load_digits(data_dir)
    rows = rng.permutation(np.flatnonzero(np.isin(labels, classes)))
    x_rows, others = np.array_split(rows, 2)
    wanted = flipped(rng, np.searchsorted(classes, labels[x_rows]), len(classes), beta)
    z_rows = np.full(len(x_rows), -1)
    for index, label in enumerate(classes):
        partners = others[labels[others] == label]
        places = np.flatnonzero(wanted == index)[: len(partners)]
        z_rows[places] = partners[: len(places)]
    paired = np.flatnonzero(z_rows >= 0)[:n]
    return images[x_rows[paired]], images[z_rows[paired]]


def _labels(beta: float, rng: Generator, n: int, data_dir: str | None) -> Samples:
    """Draw images, (n, 28, 28), and their labels, (n,), flipped with probability `beta`."""
    images, labels = load_digits(data_dir)
    rows = rng.permutation(len(labels))[:n]
    return images[rows], flipped(rng, labels[rows], 10, beta)
