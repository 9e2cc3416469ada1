"""Checks of keys and samples, before anything is traced."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mine_jax.mine import stack
from mine_jax.mine.stack import Array, Data, Samples

Arrays = Array | Mapping[str, Array]


def check_key(key: Any, function: str) -> Array:
    """Return a typed PRNG key; a legacy one is wrapped.

    Raises:
      TypeError: if it is none, as after the order of arguments before the key came first.
    """
    if isinstance(key, jax.Array | np.ndarray):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0:
            return key
        if key.dtype == np.uint32 and key.shape == jax.random.key_data(jax.random.key(0)).shape:
            return jax.random.wrap_key_data(jnp.asarray(key))
        if key.ndim and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            raise TypeError(
                f"{function} takes a single PRNG key, got keys of shape {key.shape}: give one of "
                "them, keys[0]"
            )
    value = f" of {key.dtype}, shape {key.shape}" if hasattr(key, "dtype") else f" {key!r:.60}"
    raise TypeError(
        f"{function} takes a PRNG key first, such as jax.random.key(0); got "
        f"{type(key).__name__}{value}"
    )


def check_data(x: Arrays, z: Arrays, values: bool = True) -> Data:
    """Return the stacked samples of all pairs of arrays.

    Args:
      x: as for `init`.
      z: likewise.
      values: check that labels are one-hot, too.

    Raises:
      ValueError: if shapes do not fit one another.
    """
    left, right = (
        {name: a if hasattr(a, "dtype") else np.asarray(a) for name, a in stack.named(side).items()}
        for side in (x, z)
    )
    arrays = [*left.values(), *right.values()]
    shapes = [np.shape(array) for array in arrays]
    rows = {shape[0] for shape in shapes if shape}
    if any(len(shape) not in (2, 4) for shape in shapes) or len(rows) != 1 or min(rows) < 2:
        raise ValueError(
            "x and z must be (n, features) or (n, h, w, c) with the same n >= 2 (lower_bound takes "
            f"other shapes and labels); got {shapes}"
        )
    labels = {stack.is_labels(array) for array in right.values()}
    if any(stack.is_labels(array) for array in left.values()) or len(labels) != 1:
        raise ValueError(
            "labels (one-hot, uint8) must be passed as z, and a stack cannot mix them with numbers;"
            f" got x {[str(array.dtype) for array in left.values()]} and "
            f"z {[str(array.dtype) for array in right.values()]}"
        )
    if len({stack.num_columns(array) for array in right.values()}) != 1 and labels == {True}:
        raise ValueError(f"labels of a stack must have the same number of classes, got {shapes}")
    for array in right.values() if labels == {True} else ():
        known = values and not isinstance(array, jax.core.Tracer)
        if np.ndim(array) != 2 or (known and not _is_one_hot(np.asarray(array))):
            raise ValueError(
                f"z is uint8, which means one-hot labels, but its rows are not, shape "
                f"{np.shape(array)}; cast numbers and images to float32"
            )
    for name, side in (("x", left), ("z", right)):
        kinds = {np.shape(each)[1:] if np.ndim(each) == 4 else "vectors" for each in side.values()}
        if len(kinds) > 1:
            raise ValueError(
                f"arrays of a stack must all be vectors, or images of one shape; got {name} "
                f"{[np.shape(each) for each in side.values()]}. Flatten them, or take each alone"
            )
    return stack.stack_samples(
        [(Samples(left[a]), Samples(right[b])) for a, b in stack.pairs_of(x, z)]
    )


def _is_one_hot(values: np.ndarray) -> bool:
    return bool(np.all(values <= 1) and np.all(values.sum(axis=1) == 1))
