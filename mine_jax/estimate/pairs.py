"""`Pair`: prepared samples of two variables, and the statistics networks that they want."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from mine_jax.compilation import jit
from mine_jax.mine import MineConfig, MineState, Samples, is_labels, stack
from mine_jax.mine.stack import Array, Data
from mine_jax.mine.training import expected_state, init_stack

MAX_CONCATENATED_COLUMNS = 2  # up to which the concatenated network is affordable, and sharper
MAX_PADDING = 16  # factor by which samples may be padded to share the program of wider ones

Side = Samples | Sequence[Samples]


class Pair(NamedTuple):
    """Paired samples of two variables, as one of several encoders may give them.

    Attributes:
      x: prepared samples, not labels; or such samples for each fold, of one shape.
      z: prepared samples, or labels; likewise.
      seed: seed of the first weights; it distinguishes several fits of the same samples.
      encoder: name of what prepared them.
      overrides: fields of the configuration that these samples want, as (name, value).
      warnings: sentences on what they leave out, if that may matter.
    """

    x: Side
    z: Side
    seed: int = 0
    encoder: str = "given"
    overrides: tuple[tuple[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()

    def of_fold(self, fold: int) -> tuple[Samples, Samples]:
        """Return the samples of one fold."""
        x, z = (side if isinstance(side, Samples) else side[fold] for side in (self.x, self.z))
        return x, z


class Group(NamedTuple):
    """Pairs whose networks have one shape, up to padding, and are fitted as one stack.

    Attributes:
      names: of the pairs.
      pairs: their samples.
      config: the configuration with the network chosen.
      num_rows: rows that the samples are padded to; None for none.
    """

    names: tuple[Any, ...]
    pairs: tuple[Pair, ...]
    config: MineConfig
    num_rows: int | None = None


def group_pairs(
    pairs: Mapping[Any, Pair], config: MineConfig, num_rows: int | None = None
) -> list[Group]:
    """Group pairs whose networks can share one program.

    Those are networks of one kind, with the same number of classes, or with numbers of columns that
    differ by less than a factor of `MAX_PADDING`: narrower samples are padded.

    Args:
      pairs: names to pairs.
      config: the configuration.
      num_rows: rows that the samples of groups are padded to; None for none.
    """
    # Names of encoders chose the pairs; networks know modules alone.
    named = {
        side: "auto"
        for side in ("x_encoder", "z_encoder")
        if isinstance(getattr(config, side), str)
    }
    groups: dict[tuple, list[Any]] = {}
    configs = {}
    for name, pair in pairs.items():
        x, z = (side.measured for side in pair.of_fold(0))
        own = dataclasses.replace(config, **(named | dict(pair.overrides)))
        if own.network == "auto":
            chosen = "separable" if own.shared is True else choose_network(x, z)
            own = dataclasses.replace(own, network=chosen)
        configs[name] = own
        kind: tuple
        modules = own.network, own.x_encoder, own.z_encoder
        if any(isinstance(each, nn.Module) for each in modules):  # which see all columns as data
            kind = own, x.shape[1:], z.shape[1:], is_labels(z)
        else:
            classes = z.shape[1] if is_labels(z) else 0
            kind = own, classes, _width_class(x), 0 if classes else _width_class(z)
        groups.setdefault(kind, []).append(name)
    return [
        Group(tuple(names), tuple(pairs[name] for name in names), configs[names[0]], num_rows)
        for names in groups.values()
    ]


def _width_class(samples: Array) -> Any:
    if len(samples.shape) == 4:
        return samples.shape[1:]
    return math.ceil(math.log(2 * samples.shape[1], MAX_PADDING))


def choose_network(x: Array, z: Array) -> str:
    """Return the statistics network that `network="auto"` means for prepared samples.

    "concatenated" where both sides are numbers of at most `MAX_CONCATENATED_COLUMNS` columns: it
    represents sharper edges, and a pass for every pair is affordable there; else "separable".
    """
    narrow = max(stack.num_columns(x), stack.num_columns(z)) <= MAX_CONCATENATED_COLUMNS
    return "concatenated" if narrow and not is_labels(z) else "separable"


def stack_group(group: Group, folds: int) -> Data:
    """Return the samples of a group's networks: a network for each fold of each pair."""
    alike = all(isinstance(side, Samples) for pair in group.pairs for side in (pair.x, pair.z))
    pairs = [pair.of_fold(f) for pair in group.pairs for f in range(1 if alike else folds)]
    if group.num_rows is not None:
        pairs = _pad_samples(pairs, group.num_rows)
    return stack.stack_samples(pairs, repeats=folds if alike else 1)


def _pad_samples(
    pairs: Sequence[tuple[Samples, Samples]], num_rows: int
) -> list[tuple[Samples, Samples]]:
    """Append rows of zeros; arrays that are shared stay so."""
    padded: dict[int, np.ndarray | None] = {id(None): None}

    def pad(array: Any) -> np.ndarray | None:
        if id(array) not in padded:
            values = np.asarray(array)
            rows = (0, num_rows - len(values)), *[(0, 0)] * (values.ndim - 1)
            padded[id(array)] = np.pad(values, rows)  # by NumPy: nothing to compile for each n
        return padded[id(array)]

    def side(samples: Samples) -> Samples:
        return samples._replace(measured=pad(samples.measured), noiseless=pad(samples.noiseless))

    return [(side(x), side(z)) for x, z in pairs]


def init_group(group: Group, data: Data, key: Array, folds: int) -> MineState:
    """Return the untrained networks of a group with its stacked samples."""
    seeds = np.array([pair.seed for pair in group.pairs], np.uint32)
    return init_stack(_network_keys(key, seeds, folds), data, group.config)


@jit(static_argnames=("folds",), fast_compile=True)
def _network_keys(key: Array, seeds: Array, folds: int) -> Array:
    """Return a key for each fold of each seed, one seed after another."""
    of_seeds = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(seeds)
    return jax.vmap(lambda each: jax.random.split(each, folds))(of_seeds).reshape(-1)


def is_noise_alone(group: Group) -> bool:
    """Tell whether z of each pair is its x without measurement noise."""
    return stack.is_noise_alone([pair.of_fold(0) for pair in group.pairs])


def init_states(pairs: Mapping[str, Pair], config: MineConfig, key: Array) -> dict[str, MineState]:
    """Return untrained networks of every pair, folds in front, as `Estimate.state` has them.

    Args:
      pairs: names to pairs; shapes and types of the samples are enough under `jax.eval_shape`.
      config: the configuration.
      key: a PRNG key.
    """
    folds = config.folds if config.cross_fit else 1
    states = {}
    for name, pair in pairs.items():
        (group,) = group_pairs({name: pair}, config)
        states[name] = init_group(group, stack_group(group, folds), key, folds)
    return states


def expected_states(pairs: Mapping[Any, Pair], config: MineConfig) -> dict[Any, MineState]:
    """Return the shapes of each pair's networks, folds in front, without the padding of a group."""
    folds = config.folds if config.cross_fit else 1
    shapes = {}
    for name, pair in pairs.items():
        (group,) = group_pairs({name: pair}, config)
        x, z = pair.of_fold(0)
        sides = tuple(
            (
                (1, *side.measured.shape),
                side.measured.dtype,
                (stack.num_columns(side.measured),),
                (0,) * folds,
            )
            for side in (x, z)
        )
        shapes[name] = expected_state(sides, group.config)
    return shapes
