"""Samples of architectures.py, whose mutual information is known.

Synthetic data are Gaussian latents behind injective maps. Layers of LeNet-5 are paired with
themselves plus Gaussian noise.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray
from problems import shapes
from scipy import special

from mine_jax import classifier, information_plane
from mine_jax.estimate import Pair
from mine_jax.information_plane import PlaneConfig, exact, probe_rows
from mine_jax.information_plane.records import RunFolder
from mine_jax.lenet import LeNet5
from mine_jax.lenet.datasets import Dataset
from mine_jax.mine import Samples

NUM_LATENTS = 4
WIDE_COLUMNS = 784
SIDE = 28  # pixels of an image's side
FORMS = ("as is", "flattened", "shuffled")
OBSERVED = "observed"  # a layer as the main job observes it
REFERENCE_ROWS = 2000  # inputs that a reference is averaged over
SEARCH_ROWS, SEARCH_STEPS = 200, 9  # of the search for the noise
MIN_NOISE, MAX_NOISE = 0.3, 100.0  # in multiples of the root mean variance of a layer's units

Array = NDArray[np.floating]


class Sample(NamedTuple):
    """Paired samples of known mutual information.

    Attributes:
      dims: 1 for vectors, 2 for images and feature maps.
      pair: (n, features) or (n, h, w, c) on both sides.
      truth_nats: the mutual information.
      truth_stderr: its standard error.
      prepared: whether the pair is prepared for statistics networks.
    """

    dims: int
    pair: Pair
    truth_nats: float
    truth_stderr: float
    prepared: bool = False


class Layer(NamedTuple):
    """A layer, and the noise that leaves a known part of its information.

    Attributes:
      values: (n, h, w, c) or (n, units).
      noise_std: σ, in the units of the values.
      nats: I(X; X + noise) for X one of these n values.
      stderr: its standard error.
    """

    values: Array
    noise_std: float
    nats: float
    stderr: float


def draw_bars(latents: Array) -> Array:
    """Draw images of a line segment two pixels thick, which fades over one pixel at its border.

    Args:
      latents: (n, 4), standard normal: of the center's row and column, uniform from 8 to 20
        pixels, of the angle, uniform from 0 to 0.8 π (below π, so that no two are alike), and of
        half the length, uniform from 4 to 7 pixels.

    Returns:
      (n, 28, 28) from 0 to 1, float32. The angle goes from along a row towards later rows; pixel
      i has its middle at i + 0.5.
    """
    uniform = special.ndtr(latents)[:, :, None, None]
    row, column = 8 + 12 * uniform[:, 0], 8 + 12 * uniform[:, 1]
    angle, half_length = 0.8 * math.pi * uniform[:, 2], 4 + 3 * uniform[:, 3]
    middle = np.arange(SIDE) + 0.5
    down, right = middle[None, :, None] - row, middle[None, None, :] - column
    along = right * np.cos(angle) + down * np.sin(angle)
    across = down * np.cos(angle) - right * np.sin(angle)
    past_end = np.maximum(np.abs(along) - half_length, 0)
    return np.clip(1.5 - np.hypot(past_end, across), 0, 1).astype(np.float32)


SHAPES: Mapping[str, Callable[[Array], Array]] = {
    "rectangle": shapes.rectangles,
    "bar": draw_bars,
}


def wide_map() -> Array:
    """Return orthonormal rows, (NUM_LATENTS, WIDE_COLUMNS), always the same."""
    draws = np.random.default_rng(WIDE_COLUMNS).standard_normal((WIDE_COLUMNS, NUM_LATENTS))
    return np.linalg.qr(draws)[0].T


def present(values: Array, form: str) -> Array:
    """Return images or feature maps (n, h, w, c) in one of `FORMS`, with the same numbers in all.

    Args:
      values: (n, h, w, c).
      form: "as is"; "flattened", (n, h·w·c); or "shuffled", (n, h, w, c) with the places in another
        order, the same for all images, and the channels of a place together.

    Raises:
      ValueError: if the form is unknown.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    if form == "as is":
        return values
    n, height, width, channels = values.shape
    if form == "flattened":
        return values.reshape(n, -1)
    order = np.random.default_rng(height * width).permutation(height * width)
    return values.reshape(n, -1, channels)[:, order].reshape(values.shape)


def in_forms(name: str, x: Array, z: Array, nats: float, stderr: float) -> dict[str, Sample]:
    """Return feature maps (n, h, w, c) in all `FORMS`, and vectors (n, features) as they are."""
    if x.ndim == 2:
        return {name: Sample(1, Pair(Samples(x), Samples(z)), nats, stderr)}
    samples = {}
    for form in FORMS:
        pair = Pair(Samples(present(x, form)), Samples(present(z, form)))
        samples[f"{name} {form}"] = Sample(1 if form == "flattened" else 2, pair, nats, stderr)
    return samples


def latent_pairs(n: int, nats: float, seed: int) -> tuple[Array, Array]:
    """Draw standard normal x and z, (n, NUM_LATENTS) each, that share `nats` evenly by column."""
    rho = exact.correlation(nats, NUM_LATENTS)
    generator = np.random.default_rng([name_number("latents"), seed])
    x, noise = generator.standard_normal((2, n, NUM_LATENTS))
    return x, rho * x + math.exp(-nats / NUM_LATENTS) * noise


def name_number(name: str) -> int:
    """Return a number for a name, always the same."""
    return zlib.crc32(name.encode())


def draw_synthetic(n: int, nats: float, seed: int, shapes: Sequence[str]) -> dict[str, Sample]:
    """Draw latents, and return them in all forms; every map is injective, so all share `nats`."""
    x, z = latent_pairs(n, nats, seed)
    samples = in_forms("vector", x, z, nats, 0.0)
    samples |= in_forms("wide vector", x @ wide_map(), z @ wide_map(), nats, 0.0)
    for shape in shapes:
        draw = SHAPES[shape]
        samples |= in_forms(shape, draw(x)[..., None], draw(z)[..., None], nats, 0.0)
    return samples


def draw_noisy(layer: Layer, name: str, seed: int) -> dict[str, Sample]:
    """Pair a layer with itself plus noise, the same noise in all forms."""
    generator = np.random.default_rng([name_number(name), seed])
    noise = generator.standard_normal(layer.values.shape, np.float32)
    noisy = layer.values + noise * np.float32(layer.noise_std)
    return in_forms(name, layer.values, noisy, layer.nats, layer.stderr)


def draw_observed(layer: Layer, name: str, seed: int) -> dict[str, Sample]:
    """Observe a layer as the main job does: on its principal axes, with new noise in each batch."""
    config = PlaneConfig(noise_std=layer.noise_std, noise="absolute")
    key = jax.random.fold_in(jax.random.key(name_number(name) % 2**31), seed)
    split = information_plane.split_rows(config, len(layer.values))
    observed = information_plane.observe(key, layer.values, None, config, split, name)
    layers = information_plane.Layers({name: observed}, {}, {})
    (pair,) = information_plane.pairs_of({}, {0: layers}).values()
    dims = 2 if layer.values.ndim == 4 else 1
    return {f"{name} {OBSERVED}": Sample(dims, pair, layer.nats, layer.stderr, prepared=True)}


class OutOfReach(ValueError):
    """No noise leaves the wanted mutual information."""


def solve_noise_std(nats_of: Callable[[float], float], nats: float, scale: float) -> float:
    """Find the σ that leaves about `nats`, by bisection of its logarithm.

    Args:
      nats_of: mutual information by σ; it decreases.
      nats: the wanted value.
      scale: unit of `MIN_NOISE` and `MAX_NOISE`, between which σ is searched.

    Raises:
      OutOfReach: if no σ in that range leaves as much.
    """
    low, high = math.log(MIN_NOISE * scale), math.log(MAX_NOISE * scale)
    most, least = nats_of(math.exp(low)), nats_of(math.exp(high))
    if not least < nats < most:
        raise OutOfReach(
            f"--layer_nats={nats:g} is out of reach: the noise leaves from {least:.3g} to "
            f"{most:.3g} nats"
        )
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if nats_of(math.exp(middle)) > nats else (low, middle)
    return math.exp((low + high) / 2)


def add_noise(values: Array, nats: float, key: jax.Array) -> Layer:
    """Find the noise that leaves about `nats` of a layer, (n, h, w, c) or (n, units)."""
    flat = np.asarray(values, np.float32).reshape(len(values), -1)
    scale = math.sqrt(np.mean(flat.var(axis=0, dtype=np.float64))) or 1.0

    def nats_of(noise_std: float) -> float:
        return exact.noisy_layer(key, flat, noise_std, rows=SEARCH_ROWS, block=SEARCH_ROWS).x_nats

    noise_std = solve_noise_std(nats_of, nats, scale)
    reference = exact.noisy_layer(key, flat, noise_std, rows=REFERENCE_ROWS)
    return Layer(np.asarray(values), noise_std, reference.x_nats, reference.x_stderr)


def trained_layers(
    data: Dataset, folder: RunFolder, epochs: int, n: int, nats: float, names: Sequence[str]
) -> dict[str, Layer]:
    """Train LeNet-5, or restore it from the folder, and add noise to its layers.

    Args:
      data: the data set.
      folder: keeps the trained network.
      epochs: epochs of training.
      n: number of training images that are probed, a random choice, always the same; all if there
        are fewer.
      nats: as for `add_noise`.
      names: probes of LeNet-5.
    """
    model, config = LeNet5(num_classes=data.num_classes), classifier.ClassifierConfig()
    init_key, train_key, noise_key = jax.random.split(jax.random.key(0), 3)
    state = classifier.init(init_key, model, config, data.train_images.shape[1:])
    if (last := folder.last_epoch()) is not None:
        state = folder.restore(last, jax.eval_shape(lambda: state))
    for _ in range(int(state.epoch), epochs):
        state, _ = classifier.train_epoch(
            state, train_key, model, config, data.train_images, data.train_labels
        )
    if last is None:
        folder.save(epochs, state)
    rows = probe_rows(PlaneConfig(probe_size=max(n, 20)), len(data.train_images))[:n]
    activations = classifier.probe(state.params, model, data.train_images[rows], tuple(names))
    keys = jax.random.split(noise_key, len(names))
    return {
        name: add_noise(np.asarray(activations[name]), nats, key)
        for name, key in zip(names, keys, strict=True)
    }
