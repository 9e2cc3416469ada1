"""Layers of a network as statistics networks take them, with and without measurement noise.

With measurement noise, T = L + σε for each layer L separately, I(X;T) and I(Y;T) are finite, and
two-sided references of them are known (`brackets`).
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mine_jax import estimate
from mine_jax.estimate import Splits, preparation
from mine_jax.information_plane import brackets, comparisons
from mine_jax.information_plane.activations import MIN_RELATIVE_VARIANCE, reason_not_measured
from mine_jax.information_plane.brackets import Bracket
from mine_jax.information_plane.config import PlaneConfig
from mine_jax.information_plane.targets import Target
from mine_jax.mine import Samples

Array = jax.Array | np.ndarray

# Numbers of principal axes that a layer may be observed on: few, so that few programs are compiled.
WIDTHS = (128, 256, 512, 1024)
Y_WIDTH = 128  # of the networks of I(Y;T), which over-fit with more (BUILD_NOTES, decision 9)
AXES_ROWS = 5000  # training samples that give the axes: a quarter of the multiplications for 20,000
MAX_LOST_NATS = 0.05  # that the axes left out may hold
NO_VARIANCE = (
    "The layer has no variance beyond rounding: it tells nothing, and the value is 0. If it is "
    "small beside a large mean, subtract the mean of each unit."
)


class View(NamedTuple):
    """A layer on its first principal axes, or with all its columns.

    Attributes:
      observed: one draw of T, and what fresh draws are made of.
      layer: the same without noise, (n, width).
      lost_nats: bound on what I(X;T) loses by the axes that are left out.
    """

    observed: Samples
    layer: jax.Array
    lost_nats: float

    @property
    def width(self) -> int:
        """Number of axes or columns."""
        return self.layer.shape[1]


class Observed(NamedTuple):
    """A layer that is observed with measurement noise, T = L + σε.

    Attributes:
      for_x: what the networks of I(X;T) see.
      for_y: what those of I(Y;T) see.
      noise_std: σ, in the units of the activations; 0 for a layer of no variance.
      bracket: two-sided references, in nats.
      gaussian_bound_nats: upper bound of I(X;T) by the variances of the layer.
      compared: by the names of `PlaneConfig.also`, values of I(X) and I(Y), in nats.
    """

    for_x: View
    for_y: View
    noise_std: float
    bracket: Bracket
    gaussian_bound_nats: float
    compared: Mapping[str, tuple[float, float]]


class Layers(NamedTuple):
    """The layers of a network, by name in the order of depth, in each plane.

    Attributes:
      observed: with measurement noise; empty if that plane is not measured.
      deterministic: as they are, prepared, (n, features); empty likewise.
      failures: layers that cannot be measured, and a sentence why.
    """

    observed: dict[str, Observed]
    deterministic: dict[str, jax.Array]
    failures: dict[str, str]


def prepare_variables(
    inputs: ArrayLike | None, target: Target, config: PlaneConfig, rows: Splits
) -> dict[str, jax.Array]:
    """Prepare the variables X and Y of the information plane.

    Args:
      inputs: the probed inputs, (n, …); needed for the deterministic plane only.
      target: Y.
      config: planes and preparation.
      rows: the split.

    Returns:
      "x": the inputs, (n, features), absent without the deterministic plane, as the layer without
      noise represents X in the other; "y": labels, one-hot, (n, classes), or (n, features).
    """
    variables = {}
    if config.deterministic and inputs is not None:
        variables["x"] = _prepare(inputs, "inputs", config, rows)
    if target.labels is not None:
        return variables | {"y": estimate.prepare(target.labels, "labels")}
    return variables | {"y": _prepare(target.values, "labels", config, rows)}


def alignment_target(inputs: Array, config: PlaneConfig) -> np.ndarray | None:
    """Compute what the principal components of wide layers are aligned to.

    These are the inputs' principal components, which stay the same while the layers change, so
    that statistics networks of one epoch fit the layers of the next (warm start).

    Args:
      inputs: the probed inputs, (n, …), or what stands for them.
      config: planes and preparation.

    Returns:
      (n, components), the largest variance first; None if no layer needs them.
    """
    columns = math.prod(inputs.shape[1:])
    counts = []
    if config.deterministic and config.mine.preparation != "standardized":
        counts.append(preparation.NUM_COMPONENTS)
    if "observed" in config.planes and config.noisy_x_mine.preparation != "standardized":
        counts += WIDTHS
    count = max([count for count in counts if count <= min(columns, len(inputs))], default=0)
    return preparation.principal_components(inputs, count, "inputs") if count else None


def read_layers(
    key: jax.Array,
    activations: dict[str, np.ndarray],
    labels: np.ndarray | None,
    config: PlaneConfig,
    rows: Splits,
    align_to: np.ndarray | None = None,
    widths: Mapping[str, int] | None = None,
    epoch: int = 0,
) -> Layers:
    """Prepare the layers of one snapshot for statistics networks.

    Args:
      key: a PRNG key for the noise. A layer's own depends on it and on the layer's name, not on the
        layers beside it.
      activations: by name, (n, features), or (n, h, w, c) for images; emptied to save memory.
      labels: classes, (n,); None if Y is no labels.
      config: layers, planes, noise and preparation.
      rows: the split.
      align_to: target of the alignment (`alignment_target`).
      widths: by layer, the number of axes to observe it on; None, or a layer that is absent, to
        choose it.
      epoch: epoch of the snapshot, for messages.

    Returns:
      The layers. One with values that are not finite, or whose squares float32 cannot hold, is
      among `Layers.failures` instead.

    Raises:
      ValueError: if the noise is too small beside the activations (`brackets.bracket`).
    """
    layers = Layers({}, {}, {})
    for name in config.layers:
        values = activations.pop(name)  # wide layers take hundreds of megabytes
        if failure := reason_not_measured(values, name, epoch):
            layers.failures[name] = failure
            continue
        if config.deterministic:
            target = None if align_to is None else align_to[:, : preparation.NUM_COMPONENTS]
            layers.deterministic[name] = _prepare(values, name, config, rows, target)
        if "observed" in config.planes:
            width = None if widths is None else widths.get(name)
            number = np.uint32(zlib.crc32(name.encode(errors="backslashreplace")))
            layer_key = jax.random.fold_in(key, number)
            flat = np.array(values.reshape(len(values), -1), np.float32)
            layers.observed[name] = _observe(
                layer_key, flat, labels, config, rows, name, align_to, width
            )
    return layers


def observe(
    key: jax.Array,
    activations: ArrayLike,
    labels: ArrayLike | None,
    config: PlaneConfig,
    rows: Splits,
    name: str = "layer",
    align_to: ArrayLike | None = None,
    width: int | None = None,
) -> Observed:
    """Add measurement noise to a layer, and compute two-sided references of what remains.

    A layer of more than `WIDTHS[0]` columns is rotated to its principal axes, which leaves the
    noise as it is. As many are kept as leave out at most `MAX_LOST_NATS` of I(X;T), rounded up to
    one of `WIDTHS`.

    Args:
      key: a PRNG key, a different one for each layer and epoch.
      activations: activations of the layer, (n, …).
      labels: classes, (n,); None for I(X;T) alone.
      config: `noise`, `noise_std`, `also`, and whether columns are standardized.
      rows: the split; σ is relative to training rows, the references average over test rows.
      name: name of the layer in error messages.
      align_to: target of the alignment, (n, components) (`alignment_target`).
      width: number of axes to keep; None to choose it.

    Raises:
      ValueError: if an activation is not finite, or the noise is too small beside the activations
        for the references (`brackets.bracket`).
    """
    values = np.asarray(activations)
    layer = np.array(values.reshape(len(values), -1), np.float32)
    return _observe(key, layer, labels, config, rows, name, align_to, width)


def _observe(
    key: jax.Array,
    layer: np.ndarray,
    labels: ArrayLike | None,
    config: PlaneConfig,
    rows: Splits,
    name: str,
    align_to: ArrayLike | None,
    width: int | None,
) -> Observed:
    """Do what `observe` does, and center `layer`, (n, units), in place to save memory."""
    if not np.isfinite(layer).all():
        row = int(np.argwhere(~np.isfinite(layer))[0, 0])
        raise ValueError(f"{name} has a value that is not finite in row {row}")
    test = rows.test[0]
    # Values of the literature take the images that they are given as the whole population.
    shown = np.arange(len(layer)) if config.population else test
    known: Any = None if labels is None else np.asarray(labels)[shown]
    compared = {} if known is None else dict.fromkeys(config.also, (math.nan, math.nan))
    if "bins" in compared:  # of the activations as they are
        compared["bins"] = comparisons.bins(layer[shown], known)
    smallest = (
        MIN_RELATIVE_VARIANCE
        * float(np.einsum("nd,nd->", layer, layer, dtype=np.float64))
        / len(layer)
    )
    layer -= layer.mean(axis=0, dtype=np.float64).astype(np.float32)
    noise_std = _noise_std(layer, rows.train[0], config, len(test), smallest)
    constant = noise_std == 0
    if constant:
        layer[:] = 0
    sigma = noise_std or 1.0  # of a constant layer, which tells nothing whatever the noise
    test_key, other_key = jax.random.split(key)
    all_key = jax.random.fold_in(key, 2)
    test_noise = sigma * np.asarray(jax.random.normal(test_key, (len(test), layer.shape[1])))
    every = None if labels is None else np.asarray(labels)
    if constant:  # Its values are known.
        zero = brackets.side(np.zeros(len(shown)))
        of_y = None if every is None else zero
        references = Bracket(zero, zero, of_y, of_y)
    elif config.population:
        everyone: np.ndarray = np.arange(len(layer))
        all_noise = sigma * np.asarray(jax.random.normal(all_key, layer.shape))
        references = brackets.bracket(layer, all_noise, sigma, every, everyone, name)
    else:
        references = brackets.bracket(layer, test_noise, sigma, every, test, name)
    if "kde" in compared:
        compared["kde"] = comparisons.pairwise_distances(layer[shown], known, sigma)
    total = float(np.einsum("nd,nd->", layer, layer, dtype=np.float64)) / len(layer)
    columns = layer.shape[1]
    kept, axes = layer, None
    if columns > WIDTHS[0]:
        few = layer[rows.train[0][:AXES_ROWS]]
        axes = preparation.principal_axes(few, min(width or WIDTHS[-1], columns, len(few)))
        kept = layer @ axes
        variances: Any = np.mean(np.square(kept), axis=0, dtype=np.float64)
    else:
        variances = np.linalg.eigvalsh(layer.T @ layer / len(layer)).clip(0)
    left_out = total - float(variances.sum())
    bound = 0.0
    if not constant:
        bound = brackets.gaussian_bound(variances, sigma**2, left_out, columns - len(variances))
    if config.noisy_x_mine.preparation == "standardized":
        noise = sigma * np.array(jax.random.normal(other_key, layer.shape))
        noise[test] = test_noise
        noise += layer
        measured, quiet = (_standardize(side, rows.train[0]) for side in (noise, layer))
        view = View(Samples(measured), quiet, 0.0)
        return Observed(view, view, noise_std, references, bound, compared)

    def lost(count: int) -> float:
        left_out = total - float(variances[:count].sum())
        return brackets.gaussian_bound(variances[:0], sigma**2, left_out, columns - count)

    views: Any = []
    for fixed in (width, Y_WIDTH):
        count = fixed or next(
            (count for count in WIDTHS if lost(min(count, columns)) <= MAX_LOST_NATS), WIDTHS[-1]
        )
        count = min(count, kept.shape[1])
        values, turned = kept[:, :count], None if axes is None else axes[:, :count]
        if turned is not None and align_to is not None:
            most = min(count, np.shape(align_to)[1])
            target = np.asarray(align_to)[:, :most]
            rotation = np.eye(count, dtype=np.float32)
            rotation[:most, :most] = preparation.procrustes_rotation(values[:, :most], target)
            values, turned = values @ rotation, turned @ rotation
        noise = sigma * np.array(jax.random.normal(other_key, values.shape))
        noise[test] = test_noise if turned is None else test_noise @ turned
        noise += values
        # One number for all columns, so that the noise is the same in all directions.
        unit = math.sqrt(np.mean(np.square(noise), dtype=np.float64))
        quiet, measured = (jnp.asarray(side / np.float32(unit)) for side in (values, noise))
        observed = Samples(measured, quiet, sigma / unit)
        views.append(View(observed, quiet, 0.0 if constant else lost(count)))
    for_x, for_y = views
    return Observed(for_x, for_y, noise_std, references, bound, compared)


def observed_shape(
    shape: tuple[int, ...], config: PlaneConfig, width: int, train_rows: int
) -> tuple[int, int]:
    """Return the shape of a `View` of activations, (n, …), on at most so many axes."""
    n, columns = shape[0], math.prod(shape[1:])
    if columns <= WIDTHS[0] or config.noisy_x_mine.preparation == "standardized":
        return n, columns
    return n, min(width, columns, train_rows, AXES_ROWS)


def deterministic_shape(shape: tuple[int, ...], config: PlaneConfig) -> tuple[int, int]:
    """Return the shape of the prepared activations, (n, …), of the deterministic plane."""
    if config.mine.preparation == "standardized":
        return shape[0], math.prod(shape[1:])
    return preparation.prepared_shape(shape)


def _prepare(
    values: ArrayLike,
    name: str,
    config: PlaneConfig,
    rows: Splits,
    align_to: ArrayLike | None = None,
) -> jax.Array:
    if config.mine.preparation == "standardized":
        columns = np.asarray(values, np.float32).reshape(len(np.asarray(values)), -1)
        if not np.isfinite(columns).all():
            raise ValueError(f"{name} has a value that is not finite")
        return _standardize(columns, rows.train[0])
    return estimate.prepare(values, name, align_to=align_to)


def _standardize(columns: np.ndarray, train_rows: np.ndarray) -> jax.Array:
    """Scale columns to zero mean and unit variance on the training rows; constant ones to 0."""
    train = columns[train_rows]
    mean, deviation = (np.float32(f(train, axis=0, dtype=np.float64)) for f in (np.mean, np.std))
    return jnp.asarray((columns - mean) / np.where(deviation > 0, deviation, np.inf))


def _noise_std(
    layer: np.ndarray,
    train_rows: np.ndarray,
    config: PlaneConfig,
    num_test: int,
    smallest: float,
) -> float:
    """Return σ for a centered layer, (n, units).

    It is 0 where the trace of the covariance of the training rows is at most `smallest`, which is
    rounding beside the activations.
    """
    rows = np.zeros(len(layer))
    rows[train_rows] = 1 / len(train_rows)
    squares = np.einsum("nd,nd->n", layer, layer, dtype=np.float64)
    mean = rows.astype(np.float32) @ layer
    trace = float(rows @ squares) - float(mean.astype(np.float64) @ mean)
    if trace <= smallest:
        return 0.0
    level = config.noise_level(num_test)
    scale = {"layer": math.sqrt(trace), "unit": math.sqrt(trace / layer.shape[1]), "absolute": 1.0}
    return level * scale[config.noise]
