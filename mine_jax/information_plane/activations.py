"""Activations from any framework, as arrays of the layers of one snapshot."""

import math
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np

from mine_jax.estimate.arrays import to_array
from mine_jax.value_checks import is_choice

Channels = Literal["first", "last"]
CHANNELS = (None, *get_args(Channels))
ACTIVATIONS_WANTED = (
    'activations must be a mapping of names to arrays, such as {"hidden": array}, or an iterable '
    "of such mappings for batches"
)
MUCH_MEMORY = 1 << 30  # bytes from which the memory of a snapshot is worth a warning
COPIES = 3  # of a layer's activations that are held at once while it is measured
LARGEST, SMALLEST = 1e14, 1e-14  # magnitudes whose squares, and sums of these, float32 can hold
MIN_RELATIVE_VARIANCE = 1e-10  # beside the mean square: below, float32 holds rounding alone
MIN_RELATIVE_VARIANCE_64 = 1e-26  # likewise float64


def read_activations(
    activations: Any, n: int, channels: Channels | None = None
) -> dict[str, np.ndarray]:
    """Read the activations of all layers of one snapshot.

    Args:
      activations: names to arrays (n, …) in the order of depth; or an iterable of such mappings,
        those of successive batches.
      n: number of samples.
      channels: None to take all layers as columns; "first" or "last" to take layers of four axes
        as images, (n, c, h, w) or (n, h, w, c).

    Returns:
      By name, (n, features), or (n, h, w, c) where `channels` asks for it; real numbers, which may
      not be finite.

    Raises:
      ValueError: if there are no layers, names are no strings, empty, or differ between batches,
        numbers of samples are not n, or an array has no columns, no numbers, or is not on the CPU.
    """
    check_channels(channels)
    return {
        name: read_layer(values, f"activations of {name}", n, channels)
        for name, values in _concatenated(activations).items()
    }


def read_layer(values: Any, name: str, n: int, channels: Channels | None = None) -> np.ndarray:
    """Read one layer, or what is given to the network.

    Args:
      values: (n, …).
      name: what it is, for messages.
      n: number of samples.
      channels: see `read_activations`.

    Returns:
      (n, features) or (n, h, w, c), as `read_activations`.

    Raises:
      ValueError: likewise.
    """
    array = to_array(values, name)
    if array.dtype == object:
        raise ValueError(
            f"{name} must be an array of real numbers, none of them missing or masked, got "
            "dtype object"
        )
    real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    if not (real or array.dtype == bool):
        raise ValueError(f"{name} must be real numbers, got dtype {array.dtype}")
    if array.ndim == 0 or len(array) != n:
        raise ValueError(
            f"{name} must have a row for each of the {n:,} labels, in their order, got shape "
            f"{array.shape}"
        )
    if math.prod(array.shape[1:]) == 0:
        raise ValueError(f"{name} must have columns, got shape {array.shape}")
    if array.ndim != 4 or channels is None:
        return array.reshape(n, -1)
    return np.moveaxis(array, 1, -1) if channels == "first" else array


def check_channels(channels: Any) -> None:
    """Raise ValueError unless `channels` is "first", "last" or None."""
    if channels is not None and not is_choice(channels, get_args(Channels)):
        raise ValueError(f"channels must be one of {CHANNELS}, got {channels!r}")


def check_epoch(epoch: Any) -> int:
    """Return the number of an epoch.

    Raises:
      TypeError: if it is no integer.
      ValueError: if it is not in 0 … 2³² − 1.
    """
    try:
        number = operator.index(epoch)
    except TypeError:
        raise TypeError(f"epoch must be an integer, got {epoch!r}") from None
    if isinstance(epoch, bool):
        raise TypeError(f"epoch must be an integer, got {epoch!r}")
    if not 0 <= number < 2**32:
        raise ValueError(f"epoch must be at least 0 and below 2**32, got {number}")
    return number


def warn_of_memory(layers: Mapping[str, np.ndarray], planes: int) -> None:
    """Say how much memory a snapshot takes, where that is much.

    Args:
      layers: activations by name.
      planes: number of planes that are measured.
    """
    sizes = {name: 4 * values.size for name, values in layers.items()}
    total = sum(sizes.values()) * planes + COPIES * max(sizes.values())
    if total > MUCH_MEMORY:
        name = max(sizes, key=lambda name: sizes[name])
        warnings.warn(
            f"measuring these layers takes about {total / 1e9:.1f} GB, as {name} alone has "
            f"{layers[name].size:,} activations: give fewer samples or layers if that is too much",
            stacklevel=3,
        )


def warn_of_held_snapshots(snapshots: Iterable[Mapping[str, np.ndarray]]) -> bool:
    """Warn if the snapshots held in memory take much of it; return whether they do.

    Args:
      snapshots: activations by name, one after another.
    """
    total = sum(values.nbytes for layers in snapshots for values in layers.values())
    if total > MUCH_MEMORY:
        warnings.warn(
            f"the snapshots that this Recorder holds take {total / 1e9:.1f} GB of memory: give "
            "Recorder(folder=…) to keep them on disk if that is too much",
            stacklevel=3,
        )
    return total > MUCH_MEMORY


def reason_not_measured(values: np.ndarray, name: str, epoch: int) -> str | None:
    """Return a sentence for a layer whose values or their squares float32 cannot hold, else None.

    Args:
      values: activations, (n, …).
      name: name of the layer.
      epoch: epoch of the snapshot.
    """
    with np.errstate(over="ignore"):
        sizes = np.abs(values.reshape(len(values), -1).astype(np.float32))
    place = f"of {len(values):,} rows at epoch {epoch}: it is not measured."
    if rows := int(np.sum(~np.isfinite(sizes).all(axis=1))):
        return f"{name} has values that are not finite in {rows:,} {place}"
    if rows := int(np.sum((sizes > LARGEST).any(axis=1))):
        return f"{name} has values beyond ±{LARGEST:.0e} in {rows:,} {place} Scale it down."
    if 0 < sizes.max() < SMALLEST:
        return f"{name} has no value beyond ±{SMALLEST:.0e} in {len(values):,} {place} Scale it up."
    if values.dtype.itemsize > 4 and _is_lost_beside_mean(values):
        return (
            f"{name} varies too little beside its mean for float32 in {len(values):,} {place} "
            "Subtract the mean of each unit."
        )
    return None


def _is_lost_beside_mean(values: np.ndarray) -> bool:
    """Tell whether numbers of 64 bits vary by more than their rounding, but less than float32's."""
    columns = values.reshape(len(values), -1).astype(np.float64)
    square = np.mean(np.square(columns))
    variance = np.mean(np.square(columns - columns.mean(axis=0)))
    return bool(MIN_RELATIVE_VARIANCE_64 * square < variance <= MIN_RELATIVE_VARIANCE * square)


def _concatenated(activations: Any) -> dict[str, Any]:
    """Return the layers of a snapshot whose batches may come one after another."""
    if isinstance(activations, Mapping):
        layers = dict(activations)
    else:
        if isinstance(activations, str) or not isinstance(activations, Iterable):
            raise ValueError(f"{ACTIVATIONS_WANTED}; got {type(activations).__name__}")
        batches = list(activations)
        if wrong := [type(batch).__name__ for batch in batches if not isinstance(batch, Mapping)]:
            raise ValueError(
                f"{ACTIVATIONS_WANTED}; got {type(activations).__name__} of {wrong[0]}"
            )
        names = list(batches[0]) if batches else []
        if any(set(batch) != set(names) for batch in batches):
            raise ValueError("batches of activations must have the same layers")
        layers = {name: _joined([batch[name] for batch in batches], name) for name in names}
    if not layers:
        raise ValueError("activations is empty: give at least one layer")
    if wrong := [name for name in layers if not isinstance(name, str) or not name]:
        raise ValueError(f"names of layers must be strings that are not empty, got {wrong}")
    return layers


def _joined(batches: Sequence[Any], name: str) -> np.ndarray:
    """Return the batches of one layer as one array."""
    arrays = [to_array(batch, name) for batch in batches]
    shapes = dict.fromkeys(array.shape[1:] for array in arrays)
    if len(shapes) > 1 or any(array.ndim == 0 for array in arrays):
        listed = " and ".join(str(shape) for shape in dict.fromkeys(a.shape for a in arrays))
        raise ValueError(
            f"batches of {name} have shapes {listed}: they may differ in the number of samples only"
        )
    return np.concatenate(arrays)
