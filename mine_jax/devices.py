"""Several devices: a mesh over which the samples of a batch are spread.

Everything else is on all devices alike, so that a program says no more than which arrays have
samples in front (`spread`); the compiler does the rest. Results are those of one device up to the
order of sums. Without a mesh nothing here does anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_SAMPLES = "samples"


@contextmanager
def use(number: int | None) -> Iterator[None]:
    """Spread what is computed inside over devices, those of other processes included.

    Args:
      number: of devices; None for all there are. With one there is no mesh.

    Raises:
      ValueError: if there are not as many, or some processes would have none of them.
    """
    devices = jax.devices()
    number = len(devices) if number is None else number
    if not 1 <= number <= len(devices):
        raise ValueError(f"num_devices must be in 1 … {len(devices)}, got {number}")
    if jax.process_count() > 1 and number != len(devices):
        raise ValueError(
            f"{jax.process_count()} processes must use all of their {len(devices)} devices, got "
            f"num_devices = {number}"
        )
    if number == 1:
        yield
        return
    mesh = Mesh(np.array(devices[:number]), (_SAMPLES,), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        yield


def mesh() -> Mesh | None:
    """The mesh that `use` has made; None without one."""
    current = jax.sharding.get_mesh()
    return current if _SAMPLES in current.axis_names else None


def everywhere(tree: Any) -> Any:
    """The arrays of a pytree on all devices of the mesh."""
    current = mesh()
    if current is None:
        return jax.tree.map(jax.device_put, tree)
    sharding = NamedSharding(current, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        return jax.device_put(np.asarray(leaf), sharding)

    return jax.tree.map(put, tree)


def spread(tree: Any) -> Any:
    """Under `jit`: arrays with samples in front, spread where the mesh divides their number."""
    current = jax.sharding.get_abstract_mesh()
    if _SAMPLES not in current.axis_names:
        return tree
    parts = current.shape[_SAMPLES]
    return jax.tree.map(
        lambda leaf: (
            jax.lax.with_sharding_constraint(leaf, PartitionSpec(_SAMPLES))
            if leaf.shape[0] % parts == 0
            else leaf
        ),
        tree,
    )
