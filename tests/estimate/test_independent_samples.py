"""Independent samples of all kinds: no encoder finds a dependence, however many compete."""

import numpy as np
import pytest

from mine_jax import lower_bound
from mine_jax.mine import MineConfig

N = 500
CONFIG = MineConfig(hidden=16, features=8, check_every=25, patience=2, max_steps=200)

pytestmark = pytest.mark.usefixtures("compile_fast")


def columns(rng):
    return rng.normal(size=(N, 5))


def many_columns(rng):
    return rng.normal(size=(N, 30)) @ rng.normal(size=(30, 200)) + rng.normal(size=(N, 200))


def images(rng):
    """Blobs at random places, of random widths."""
    places = np.arange(12)[None]
    row, column = (rng.uniform(2, 9, (N, 1)) for _ in range(2))
    width = rng.uniform(1, 2, (N, 1))
    shapes = [np.exp(-(((places - each) / width) ** 2)) for each in (row, column)]
    return shapes[0][:, :, None] * shapes[1][:, None] + 0.05 * rng.normal(size=(N, 12, 12))


def labels(rng):
    return rng.integers(0, 4, N)


def sorted_labels(rng):
    """The order of the samples tells about them; nothing of it may reach the other side."""
    return np.sort(labels(rng))


def few_images(rng):
    return images(rng)[np.random.default_rng(0).integers(0, 10, N)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("x", "z"),
    [
        (columns, columns),
        (columns, many_columns),
        (many_columns, labels),
        (images, images),
        (few_images, sorted_labels),
    ],
)
def test_lower_bound_of_independent_samples_is_zero(x, z):
    rng = np.random.default_rng(1)
    estimate = lower_bound(x(rng), z(rng), config=CONFIG)
    assert len(estimate.encoders) == CONFIG.folds
    assert abs(estimate.nats) <= 0.03 + 3 * estimate.stderr
