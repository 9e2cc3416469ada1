"""Computation on several devices, in one of two ways.

* Within `use` a mesh shards the samples of a batch. Everything else is replicated, so a program
  only marks the arrays whose first axis is samples (`shard_batch`); the compiler does the rest.
* Elsewhere a CPU's devices, where there are several, share the networks of a stack and the batches
  of a classifier (`networks_mesh`).

Results agree with those of one device up to the order of summation.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SAMPLES_AXIS = "samples"
NETWORKS_AXIS = "networks"
ALIGNMENT = 64  # bytes: the devices of a CPU use NumPy arrays aligned so as they are


@contextmanager
def use(number: int | None) -> Iterator[None]:
    """Use a mesh of several devices, those of other processes included, inside the context.

    Args:
      number: number of devices; None for all. With one device there is no mesh.

    Raises:
      ValueError: if there are fewer devices, or if some processes would have none of them.
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
    mesh = Mesh(np.array(devices[:number]), (SAMPLES_AXIS,), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        yield


def mesh() -> Mesh | None:
    """Return the mesh of `use`; None without one."""
    current = jax.sharding.get_mesh()
    return current if SAMPLES_AXIS in current.axis_names else None


def networks_mesh() -> Mesh | None:
    """Return a mesh of a CPU's devices that networks, or parts of a batch, can be shared among.

    None outside a CPU, with one device (as by default), within `use`, or where the caller has
    chosen a device.
    """
    local = jax.local_devices()
    sharded = bool(jax.sharding.get_abstract_mesh().axis_names)
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    if local[0].platform != "cpu" or len(local) == 1 or sharded or chosen is not None:
        return None
    return Mesh(np.array(local), (NETWORKS_AXIS,))


@contextmanager
def for_networks(number: int) -> Iterator[None]:
    """Leave a CPU's other devices out if there is a single network.

    One device alone uses all cores; a device without a network would still occupy one.
    """
    networks = networks_mesh()
    if networks is None or number > 1:
        yield
        return
    with jax.default_device(networks.devices.flat[0]):
        yield


def commit_to_networks_mesh(tree: Any, every: bool = False) -> Any:
    """Replicate arrays of a pytree on `networks_mesh`.

    Args:
      tree: the pytree.
      every: all of its arrays, for a program that shares work among the devices; it would be
        compiled for each combination of places. Else those that are committed to some of the
        devices, which would clash.
    """
    networks = networks_mesh()
    if networks is None:
        return tree
    replicated = NamedSharding(networks, PartitionSpec())

    def put(leaf: Any) -> Any:
        committed = isinstance(leaf, jax.Array) and leaf.committed
        if not committed and not (every and isinstance(leaf, jax.Array | np.ndarray)):
            return leaf
        if committed and leaf.sharding.is_equivalent_to(replicated, leaf.ndim):
            return leaf
        return jax.device_put(leaf, replicated)

    return jax.tree.map(put, tree)


def leave_networks_mesh(tree: Any) -> Any:
    """Return arrays that are on `networks_mesh` as arrays that fit any device."""
    if networks_mesh() is None:
        return tree
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), tree)


def replicate(tree: Any) -> Any:
    """Put the arrays of a pytree on all devices of the mesh, or of `networks_mesh`.

    Without either they go to the device that is chosen by `jax.default_device`, as in
    `for_networks`; arrays stay where they are if there is none.
    """
    current = mesh() or networks_mesh()
    if current is None:
        chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
        if isinstance(chosen, str):  # the name of a platform
            chosen = jax.local_devices(backend=chosen)[0]
        return jax.tree.map(lambda leaf: jax.device_put(leaf, chosen), tree)
    sharding = NamedSharding(current, PartitionSpec())
    done: dict[int, tuple] = {}  # an array that is in the pytree twice is put there once

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        if id(leaf) not in done:
            # With the array itself: the id of one that is gone may be given again.
            done[id(leaf)] = leaf, jax.device_put(aligned(np.asarray(leaf)), sharding)
        return done[id(leaf)][1]

    return jax.tree.map(put, tree)


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of any values that a CPU's devices can share with NumPy.

    `jax.device_put` makes no copy of it: it must not be changed after that.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def aligned(array: np.ndarray) -> np.ndarray:
    """Return the array, or a copy, so that a CPU's devices need none each."""
    if array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous:
        return array
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def shard_batch(tree: Any) -> Any:
    """Shard arrays by their first axis where the mesh divides its size; for use under `jit`."""
    current = jax.sharding.get_abstract_mesh()
    if SAMPLES_AXIS not in current.axis_names:
        return tree
    parts = current.shape[SAMPLES_AXIS]
    return jax.tree.map(
        lambda leaf: (
            jax.lax.with_sharding_constraint(leaf, PartitionSpec(SAMPLES_AXIS))
            if leaf.shape[0] % parts == 0
            else leaf
        ),
        tree,
    )
