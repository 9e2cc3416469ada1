"""Layers of a classifier as statistics networks take them, with or without measurement noise.

With measurement noise, T = L + σε for each layer L separately, I(X;T) and I(Y;T) are finite, and
exact over the probed images up to Monte Carlo (`exact.noisy_layer`).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from mine_jax import classifier, estimate
from mine_jax.classifier import Array, ClassifierState
from mine_jax.estimate import preparation
from mine_jax.information_plane import exact
from mine_jax.information_plane.config import PlaneConfig

# The cost of a reference grows with the units. Fewer inputs suffice for layers of many units, whose
# values are far from zero nats.
MAX_REFERENCE_ROWS, MAX_REFERENCE_ROWS_WIDE, WIDE_LAYER = 8000, 2000, 256


class Observed(NamedTuple):
    """A layer that is observed with measurement noise, T = L + σε.

    Attributes:
      layer: L, prepared, (n, features).
      observed: one draw of T, prepared, (n, features).
      observed_without_noise: T without its noise, in the units of `observed`, (n, features).
      scaled_noise_std: standard deviation of the noise in the units of `observed`.
      noise_std: σ, in the units of the activations.
      reference: I(X;T) and I(Y;T) in nats, for X one of these n inputs. A statistics network is
        evaluated on inputs that it was not trained on: where the noise is small beside the
        distances of inputs, I(Y;T) is more than it can learn.
    """

    layer: jax.Array
    observed: jax.Array
    observed_without_noise: jax.Array
    scaled_noise_std: float
    noise_std: float
    reference: exact.NoisyLayer


def prepare_variables(images: Array, labels: Array, config: PlaneConfig) -> dict[str, jax.Array]:
    """Prepare the variables X and Y of the information plane.

    Args:
      images: the probed images, (n, …).
      labels: their classes, (n,), integers.
      config: noise and preparation.

    Returns:
      "x": the images, (n, features), absent with noise, where the layer without it represents X;
      "y": the labels, one-hot, (n, classes).
    """
    variables = {} if config.noise_std else {"x": _prepare(images, "images", config)}
    return variables | {"y": estimate.prepare(labels, "labels")}


def alignment_target(images: Array, config: PlaneConfig) -> Array | None:
    """Compute what the principal components of wide layers are aligned to.

    These are the images' principal components, which stay the same while the layers change, so
    that statistics networks of one epoch fit the layers of the next (warm start).

    Args:
      images: the probed images, (n, …).
      config: noise and preparation; with noise more components are kept.

    Returns:
      (n, components), or None if the images have fewer columns or no components are taken.
    """
    if config.noise_std:
        return preparation.principal_components(images, preparation.MAX_RANKED_COLUMNS, "images")
    if config.standardized:
        return None
    return preparation.principal_components(images, preparation.NUM_COMPONENTS, "images")


def read_layers(
    key: jax.Array,
    state: ClassifierState,
    model: nn.Module,
    images: Array,
    labels: Array,
    config: PlaneConfig,
    align_to: Array | None = None,
) -> dict[str, jax.Array | Observed]:
    """Probe a classifier and prepare its layers for statistics networks.

    Args:
      key: a PRNG key for the noise.
      state: the trained classifier.
      model: its Flax module.
      images: the probed images, (n, …).
      labels: their classes, (n,).
      config: layers, noise and preparation.
      align_to: target of the alignment (`alignment_target`).

    Returns:
      By layer name, in the order of `config.layers`: the prepared activations, (n, features); with
      noise the result of `observe`.

    Raises:
      ValueError: if an activation is not finite.
    """
    activations = classifier.probe(state.params, model, images, config.layers)
    layers: dict[str, jax.Array | Observed] = {}
    for i, name in enumerate(config.layers):
        values = activations.pop(name)  # wide layers take hundreds of megabytes
        if config.noise_std:
            layer_key = jax.random.fold_in(key, i)
            layers[name] = observe(layer_key, values, labels, config, name, align_to)
        else:
            layers[name] = _prepare(values, name, config, align_to)
    return layers


def prepared_shape(shape: tuple[int, ...], config: PlaneConfig) -> tuple[int, ...]:
    """Return the shape of the arrays that `read_layers` makes of activations.

    Args:
      shape: shape of the activations, (n, …).
      config: noise and preparation.
    """
    columns = math.prod(shape[1:])
    if config.noise_std:
        wide = columns > preparation.MAX_RANKED_COLUMNS
        return shape[0], min(preparation.MAX_RANKED_COLUMNS, shape[0]) if wide else columns
    return (shape[0], columns) if config.standardized else preparation.prepared_shape(shape)


def observe(
    key: jax.Array,
    activations: ArrayLike,
    labels: ArrayLike | None,
    config: PlaneConfig,
    name: str = "layer",
    align_to: ArrayLike | None = None,
) -> Observed:
    """Add measurement noise to a layer, and compute the exact mutual information that remains.

    Args:
      key: a PRNG key, a different one for each layer and epoch.
      activations: activations of the layer, (n, …).
      labels: classes, (n,); None for I(X;T) alone.
      config: `noise_std` (above 0) and `noise`.
      name: name of the layer in error messages.
      align_to: target of the alignment, (n, components) (`alignment_target`).

    Returns:
      The layer with and without noise, and the exact values in nats.

    Raises:
      ValueError: if an activation is not finite, or the noise is too small beside the activations
        for the exact values (`exact.noisy_layer`).
    """
    flat = np.asarray(activations, np.float32)
    flat = flat.reshape(len(flat), -1)
    layer = estimate.prepare(flat, name, scale="common")
    noise_std = _noise_std(flat, config)
    noise_key, reference_key = jax.random.split(key)
    rows = MAX_REFERENCE_ROWS_WIDE if flat.shape[1] > WIDE_LAYER else MAX_REFERENCE_ROWS
    reference = exact.noisy_layer(reference_key, flat, noise_std, labels, rows=rows)
    noise: Any = noise_std * np.asarray(jax.random.normal(noise_key, flat.shape))
    mean = flat.mean(axis=0, dtype=np.float64) + noise.mean(axis=0, dtype=np.float64)
    without_noise: Any = flat - mean.astype(np.float32)
    unit = math.sqrt(np.mean(np.square(without_noise + noise), dtype=np.float64))
    without_noise, noise = without_noise / unit, noise / unit
    if layer.shape[1] > preparation.MAX_RANKED_COLUMNS:
        # All on the layer's orthonormal axes: the noise stays the same in all directions.
        axes = preparation.principal_axes(layer, preparation.MAX_RANKED_COLUMNS)
        if align_to is not None:
            axes = axes @ preparation.procrustes_rotation(layer @ axes, align_to)
        layer, without_noise, noise = (values @ axes for values in (layer, without_noise, noise))
    layer, without_noise, noise = map(jnp.asarray, (layer, without_noise, noise))
    return Observed(
        layer, without_noise + noise, without_noise, noise_std / unit, noise_std, reference
    )


def _prepare(
    values: ArrayLike, name: str, config: PlaneConfig, align_to: ArrayLike | None = None
) -> jax.Array:
    if config.standardized:
        values = np.asarray(values)
        return estimate.prepare(values.reshape(len(values), -1), name, scale="standardized")
    return estimate.prepare(values, name, align_to=align_to)


def _noise_std(flat: np.ndarray, config: PlaneConfig) -> float:
    """Return σ for a layer with these activations, (n, units)."""
    if config.noise == "absolute":
        return config.noise_std
    centered = flat - flat.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = math.sqrt(np.mean(np.square(centered, out=centered), dtype=np.float64))
    # A constant layer has zero mutual information for any σ, but σ has to be positive.
    return config.noise_std * (scale or 1.0)
