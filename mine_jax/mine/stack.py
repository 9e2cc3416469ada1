"""A stack of statistics networks: its samples, its parameters, and the way one program runs it.

Every array of a stack has its networks on the first axis. Samples of different widths are padded
with columns of zeros; arrays that several networks share are held once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from mine_jax import devices
from mine_jax.compilation import jit
from mine_jax.mine.bounds import Array


class Samples(NamedTuple):
    """Prepared samples of one variable.

    Attributes:
      measured: (n, features) or (n, h, w, c); labels one-hot, (n, classes), uint8.
      noiseless: the same without measurement noise; None without noise. Networks train on it with
        noise that is drawn afresh in each batch.
      noise_std: standard deviation of that noise.
    """

    measured: Any
    noiseless: Any = None
    noise_std: float = 0.0


class Side(NamedTuple):
    """The samples of x, or of z, of all networks of a stack.

    Attributes:
      measured: different arrays of samples, (arrays, n, …), padded to the same width.
      noiseless: likewise; None without noise.
      noise_std: (arrays,); None without noise.
      columns: number of columns that are data, (arrays,).
      index: the array of each network, (networks,).
    """

    measured: Array
    noiseless: Array | None
    noise_std: Array | None
    columns: Array
    index: Array  # type: ignore[assignment]  # hides a tuple's method


class Data(NamedTuple):
    """The paired samples of a stack of networks."""

    x: Side
    z: Side


def is_labels(samples: Array) -> bool:
    """Tell whether prepared samples are labels: one-hot, uint8."""
    return samples.dtype == jnp.uint8


def num_columns(samples: Array) -> int:
    """Return the number of columns of samples (n, …)."""
    return math.prod(samples.shape[1:])


def stack_samples(pairs: Sequence[tuple[Samples, Samples]], repeats: int = 1) -> Data:
    """Stack the samples of several networks.

    Args:
      pairs: (x, z) of each network; vectors of any widths, or images of one shape.
      repeats: networks for each pair (folds), one after another.

    Returns:
      The data of len(pairs) · repeats networks.
    """
    z = _stack_side([z for _, z in pairs], repeats)
    shared = z.measured if is_noise_alone(pairs) else None
    return Data(_stack_side([x for x, _ in pairs], repeats, shared), z)


def is_noise_alone(pairs: Sequence[tuple[Samples, Samples]]) -> bool:
    """Tell whether z is x without measurement noise, a different array for each of the pairs."""
    arrays = {id(z.measured) for x, z in pairs if x.noiseless is z.measured}
    return len(arrays) == len(pairs)


def _stack_side(samples: Sequence[Samples], repeats: int, noiseless: Array | None = None) -> Side:
    """Stack the samples of one side; `noiseless` is the stack without noise, if it is known."""
    keys = [(id(each.measured), id(each.noiseless), each.noise_std) for each in samples]
    different = list(dict(zip(keys, samples, strict=True)).values())
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    noisy = any(each.noiseless is not None for each in samples)
    quiet = [
        each.measured if each.noiseless is None else each.noiseless
        for each in (different if noisy else ())
    ]
    deviations = np.array([each.noise_std for each in different], np.float32)
    return Side(
        measured=_pad_and_stack([each.measured for each in different]),
        noiseless=noiseless if noiseless is not None or not noisy else _pad_and_stack(quiet),
        noise_std=deviations if noisy else None,
        columns=np.array([num_columns(each.measured) for each in different], np.int32),
        index=np.repeat(np.array([place[key] for key in keys], np.int32), repeats),
    )


@jit(fast_compile=True)
def _pad_and_stack(arrays: Sequence[Any]) -> Array:
    if len({array.shape for array in arrays}) == 1:
        return jnp.stack(arrays)
    width = max(array.shape[1] for array in arrays)
    return jnp.stack([jnp.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays])


def take_rows(arrays: Array, index: Array, rows: Array) -> Array:
    """Return rows of one array of a side, as float32."""
    return devices.shard_batch(arrays[index, devices.shard_batch(rows)]).astype(jnp.float32)


def columns_of(side: Side, index: Array) -> Array:
    """Return the number of columns of one array of a side that are data, ()."""
    return jnp.asarray(side.columns)[index]  # a NumPy array under an outer trace


def map_networks(
    mapper: str,
    function: Callable,
    *arguments: Any,
    common: tuple = (),
    active: Any = None,
    otherwise: Any = None,
) -> Any:
    """Apply a function to each network of a stack, in one program.

    "map" shares the networks among a CPU's devices, where there are several.

    Args:
      mapper: "vmap" or "map" (see `resolve_mapper`).
      function: takes one network's slice of each argument, then `common`. It must not close over
        arrays, whose places would not fit those of its arguments.
      *arguments: pytrees whose leaves have the networks on the first axis.
      common: pytrees that all networks share.
      active: (networks,), those to apply it to; None for all. "map" skips the others.
      otherwise: the results of the other networks, with the shapes of `function`'s.

    Returns:
      The results, with the networks on the first axis.
    """
    if mapper == "vmap":
        new = jax.vmap(lambda *each: function(*each, *common))(*arguments)
        return new if active is None else choose(active, new, otherwise)
    mesh = devices.networks_mesh()
    if mesh is None and active is None:
        return lax.map(lambda each: function(*each, *common), arguments)
    number = jax.tree.leaves(arguments)[0].shape[0]
    if active is None:
        active = jnp.ones(number, bool)
        otherwise = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(jax.vmap(lambda *each: function(*each, *common)), *arguments),
        )

    def every(stacked: tuple, common: tuple) -> Any:
        def one(each: tuple) -> Any:
            active, otherwise, arguments = each
            return lax.cond(active, lambda: function(*arguments, *common), lambda: otherwise)

        return lax.map(one, stacked)

    stacked = jnp.asarray(active), otherwise, arguments
    if mesh is None:
        return every(stacked, common)
    # As many places on each device, and as many of the active networks, the others behind them.
    per_device = -(-number // mesh.size)
    ranks = jnp.arange(per_device * mesh.size).reshape(per_device, mesh.size).T.reshape(-1)
    order = jnp.argsort(~jnp.asarray(active), stable=True)
    place = order[jnp.minimum(ranks, number - 1)]
    padded = jax.tree.map(lambda leaf: jnp.asarray(leaf)[place], stacked)
    padded = (padded[0] & (ranks < number), *padded[1:])
    axis = PartitionSpec(mesh.axis_names[0])
    shared = jax.shard_map(
        every, mesh=mesh, in_specs=(axis, PartitionSpec()), out_specs=axis, check_vma=False
    )
    place_of = jnp.argsort(ranks)[jnp.argsort(order)]
    return jax.tree.map(lambda leaf: leaf[place_of], shared(padded, common))


def resolve_mapper(mapper: str) -> str:
    """Return "vmap" or "map" for a `MineConfig.mapper`.

    A CPU's core is kept busy by the products of one network, and a network that has ended costs
    nothing there; an accelerator wants all networks at once.
    """
    if mapper != "auto":
        return mapper
    sharded = bool(jax.sharding.get_abstract_mesh().axis_names)
    return "map" if jax.default_backend() == "cpu" and not sharded else "vmap"


def choose(chosen: Any, new: Any, old: Any) -> Any:
    """Take the chosen networks, (networks,), from one pytree and the others from another."""

    def either(new: Array, old: Array) -> Array:
        where = np if isinstance(chosen, np.ndarray) else jnp
        return where.where(chosen.reshape(-1, *[1] * (np.ndim(new) - 1)), new, old)

    return jax.tree.map(either, new, old)


def select(tree: Any, networks: slice) -> Any:
    """Take consecutive networks of a stack."""
    return jax.tree.map(lambda leaf: leaf[networks], tree)


def concatenate(trees: Sequence[Any]) -> Any:
    """Join stacks of networks of the same shapes into one."""
    return jax.tree.map(lambda *leaves: np.concatenate(list(map(np.asarray, leaves))), *trees)


def resize(tree: Any, like: Any) -> Any:
    """Pad with zeros, or strip the padding of, every leaf to the shape of its counterpart.

    A network's weights for padding are zero, so that neither changes what it computes.
    """

    def fit(leaf: Any, like: Any) -> np.ndarray:
        leaf, shape = np.asarray(leaf), np.shape(like)
        if leaf.shape == shape:
            return leaf
        leaf = leaf[tuple(slice(0, size) for size in shape)]
        padding = [(0, size - old) for size, old in zip(shape, leaf.shape, strict=True)]
        return np.pad(leaf, padding)

    return jax.tree.map(fit, tree, like)


def named(arrays: Array | Mapping[str, Array]) -> dict[str, Array]:
    """Return a mapping of names to arrays; a single array is called ""."""
    return dict(arrays) if isinstance(arrays, Mapping) else {"": arrays}


def pairs_of(x: Any, z: Any) -> tuple[tuple[str, str], ...]:
    """Return the (x name, z name) of the networks of a stack in their order, which is sorted."""
    return tuple((a, b) for a in sorted(named(x)) for b in sorted(named(z)))
