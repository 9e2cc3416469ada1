"""Algorithm 1 of MINE: one step of gradient ascent on a bound of the mutual information.

The functions of one network come first; `init` and `step` apply them to a stack.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mine_jax.compilation import jit
from mine_jax.mine import bounds, gaussian, stack
from mine_jax.mine.checks import Arrays, check_data, check_key
from mine_jax.mine.config import MineConfig
from mine_jax.mine.gaussian import GaussianPart
from mine_jax.mine.stack import Array, Data, Side


class MineState(NamedTuple):
    """State of training; a warm start hands it to the next round.

    Every leaf has the networks of the stack on its first axis.

    >>> import jax
    >>> x, z = jax.random.normal(jax.random.key(0), (2, 100, 1))
    >>> state = init(jax.random.key(1), x, z, MineConfig(hidden=8))
    >>> state.steps
    Array([0], dtype=int32)

    Attributes:
      params: weights that are trained: `x_encoder`, `z_encoder` and `head`.
      average: moving average of `params`; it is evaluated.
      opt_state: Adam's moments, and its count of steps.
      gaussian: the Gaussian part, which is not trained; None if there is none.
      log_partition: log of the moving average of mean exp T, for `bound="mine"`.
      steps: number of steps so far.
    """

    params: Any
    average: Any
    opt_state: optax.OptState
    gaussian: GaussianPart | None
    log_partition: Array
    steps: Array


class MineInfo(NamedTuple):
    """Report of a step.

    >>> import jax
    >>> config, key = MineConfig(hidden=8), jax.random.key(0)
    >>> x, z = jax.random.normal(key, (2, 100, 1))
    >>> state, info = step(key, init(key, x, z, config), x, z, config)
    >>> info.bound.shape, info.gradient_norm.shape
    ((), ())

    Attributes:
      bound: the bound on the batch before the step, in nats: the objective, or Donsker–Varadhan's
        with `bound="mine"`.
      gradient_norm: norm of its gradient.
    """

    bound: Array
    gradient_norm: Array


class Batch(NamedTuple):
    """Paired samples of one network, in random order.

    Attributes:
      x: (n, …), float.
      z: (n, …), float; labels one-hot.
      x_columns: number of columns of x that are data, ().
      z_columns: likewise of z.
      class_weights: probabilities of labels whose marginal is summed exactly, (classes,); None
        for other z.
    """

    x: Array
    z: Array
    x_columns: Array
    z_columns: Array
    class_weights: Array | None


# --- One network ----------------------------------------------------------------------------------


def ascend(
    state: MineState, batch: Batch, rate: Array, config: MineConfig
) -> tuple[MineState, MineInfo]:
    """Take one step of one network (algorithm 1, the body of the loop).

    Args:
      state: of one network.
      batch: its batch.
      rate: learning rate, ().
      config: the configuration.

    Returns:
      The next state, and the objective before the step.
    """

    def negative_objective(params: Any) -> tuple[Array, tuple[Array, Array]]:
        scores = score_batch(params, state.gaussian, batch, config)
        average = state.log_partition
        if config.bound != "mine":
            value = bounds.objective(config.bound, scores, average)
            return -value, (value, average)
        average = bounds.update_log_partition(
            average,
            bounds.log_mean_exp(scores.rows, scores.weights),
            weight=config.partition_weight,
            first=state.steps == 0,
        )
        # Of the corrected objective only the gradient has a meaning.
        value = bounds.donsker_varadhan(scores.joint, scores.rows, scores.weights)
        return -bounds.objective(config.bound, scores, average), (value, average)

    gradient, (value, log_partition) = jax.grad(negative_objective, has_aux=True)(state.params)
    updates, opt_state = optimizer(config).update(gradient, state.opt_state, state.params)
    params = jax.tree.map(lambda old, change: old - rate * change, state.params, updates)
    average = jax.tree.map(
        lambda old, new: new + config.ema_decay * (old - new), state.average, params
    )
    next_state = MineState(
        params, average, opt_state, state.gaussian, log_partition, state.steps + 1
    )
    return next_state, MineInfo(value, optax.tree.norm(gradient))


def score_batch(
    params: Any, part: GaussianPart | None, batch: Batch, config: MineConfig
) -> bounds.Scores:
    """Score the joint and the marginal pairs of a batch.

    The marginal pairs of labels are all classes, those of a separable network all pairs of the
    batch; other networks pair x_i with z of the batch shifted by 1, …, `shuffles` places, which is
    a shuffle without fixed points as the batch is in random order.
    """
    n = batch.x.shape[0]
    apply = network(params, part, batch.class_weights is not None, config)
    x_code = apply(batch.x, batch.x_columns, method="encode_x")
    if batch.class_weights is not None:
        classes = apply(jnp.eye(batch.z.shape[1]), batch.z_columns, method="encode_z")
        rows = apply(x_code, classes, method="pairs")
        return bounds.Scores(jnp.sum(rows * batch.z, axis=1), rows, None, batch.class_weights)
    z_code = apply(batch.z, batch.z_columns, method="encode_z")
    if config.separable:
        pairs = apply(x_code, z_code, method="pairs")
        diagonal = jnp.eye(n, dtype=bool)
        # The gradient of `jnp.diagonal` would be scattered, entry by entry.
        joint = jnp.sum(jnp.where(diagonal, pairs, 0), axis=1)
        return bounds.Scores(joint, pairs, pairs.T, 1.0 - diagonal)
    shifts = range(min(config.shuffles, n - 1) + 1)
    shifted = [apply(x_code, roll(z_code, -shift), method="score") for shift in shifts]
    columns = [jnp.roll(scores, shift) for shift, scores in zip(shifts, shifted, strict=True)]
    weights = jnp.array([0.0] + [1.0] * (len(shifted) - 1))[None]
    return bounds.Scores(shifted[0], jnp.stack(shifted, 1), jnp.stack(columns, 1), weights)


def network(
    params: Any, part: GaussianPart | None, over_classes: bool, config: MineConfig
) -> Callable[..., Any]:
    """Return a function that applies a method of one network, by its name."""
    # Discriminants of labels are in nats and have no unit variance.
    module = config.module(clip=not over_classes)

    def apply(*arguments: Any, method: str) -> Any:
        return module.apply({"params": params}, *arguments, part, method=method)

    return apply


def roll(codes: Any, shift: int | Array) -> Any:
    """Shift the samples of a code by so many places."""
    return jax.tree.map(lambda leaf: jnp.roll(leaf, shift, axis=0), codes)


def optimizer(config: MineConfig) -> optax.GradientTransformation:
    """Return Adam with decoupled weight decay, without its learning rate."""
    return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(config.weight_decay))


def init_network(
    key: Array, x: Side, z: Side, num_pairs: int, config: MineConfig, x_index: Array, z_index: Array
) -> MineState:
    """Initialize one network.

    Args:
      key: a PRNG key.
      x: the x side of its stack; only the widths matter.
      z: likewise.
      num_pairs: number of canonical pairs of its Gaussian part.
      config: the configuration.
      x_index: which array of `x`, ().
      z_index: likewise of `z`.
    """
    module = config.module()
    part = None
    if num_pairs:
        x_width, z_width = (stack.num_columns(side.measured[0]) for side in (x, z))
        part = gaussian.zero(x_width, z_width, num_pairs)

    def both(module: Any) -> Array:
        codes = [
            encode(jnp.zeros((1, *side.measured.shape[2:])), stack.columns_of(side, index), part)
            for encode, side, index in (
                (module.encode_x, x, x_index),
                (module.encode_z, z, z_index),
            )
        ]
        return module.score(*codes, part)

    params = module.init(jnp.asarray(key), method=both).get("params", {})
    return MineState(
        params=params,
        average=params,
        opt_state=optimizer(config).init(params),
        gaussian=part,
        log_partition=jnp.zeros(()),
        steps=jnp.zeros((), jnp.int32),
    )


# --- A stack of networks --------------------------------------------------------------------------


def init_stack(keys: Array, data: Data, config: MineConfig) -> MineState:
    """Initialize the networks of a stack with a key each, (networks,).

    Raises:
      ValueError: if sides of different shapes are to share layers.
    """
    if config.shared is True:
        _check_alike(data)
    return _init_networks(keys, data, num_canonical_pairs(data, config), config)


def _check_alike(data: Data) -> None:
    """Raise ValueError unless both sides of each network have one shape."""
    got: list[Any] = [side.measured.shape[2:] for side in data]
    if got[0] == got[1]:  # up to padding
        columns = [np.asarray(side.columns)[np.asarray(side.index)] for side in data]
        differs = columns[0] != columns[1]
        if not differs.any():
            return
        got = [f"{each[differs][0]} columns" for each in columns]
    raise ValueError(
        f"shared=True needs x and z of one shape once they are prepared, got {got[0]} and "
        f'{got[1]}; set shared="auto" or False'
    )


@jit(static_argnames=("num_pairs", "config"), fast_compile=True)
def _init_networks(keys: Array, data: Data, num_pairs: int, config: MineConfig) -> MineState:
    def one(key: Array, x_index: Array, z_index: Array) -> MineState:
        return init_network(key, data.x, data.z, num_pairs, config, x_index, z_index)

    return jax.vmap(one)(keys, jnp.asarray(data.x.index), jnp.asarray(data.z.index))


def num_canonical_pairs(data: Data, config: MineConfig) -> int:
    """Return the width of a stack's Gaussian part: what its widest pair can use."""
    if not config.canonical_pairs or isinstance(config.network, nn.Module):
        return 0
    if sums_over_classes(data, config):
        return int(np.max(data.z.columns))
    widths = np.minimum(data.x.columns[data.x.index], data.z.columns[data.z.index])
    return int(min(config.canonical_pairs, widths.max()))


def sums_over_classes(data: Data, config: MineConfig) -> bool:
    """Tell whether z is labels whose marginal is summed exactly."""
    return stack.is_labels(data.z.measured) and config.label_marginal == "exact"


def class_weights(data: Data, z_index: Array, config: MineConfig) -> Array | None:
    """Return the fractions of the classes in all samples, (classes,); None for other z."""
    if not sums_over_classes(data, config):
        return None
    # Rows of zeros, which are padding, are of no class.
    counts = jnp.sum(data.z.measured[z_index], axis=0, dtype=jnp.float32)
    return counts / jnp.sum(counts)


def init(key: Array, x: Arrays, z: Arrays, config: MineConfig) -> MineState:
    """Initialize a statistics network for each pair of an array in x and an array in z.

    >>> import jax
    >>> x, z = jax.random.normal(jax.random.key(0), (2, 100, 1))
    >>> state = init(jax.random.key(1), x, z, MineConfig(hidden=8))
    >>> state.params["x_encoder"]["columns"].shape  # (networks, columns of x, hidden)
    (1, 1, 8)

    Args:
      key: a PRNG key.
      x: prepared samples, (n, features) or (n, h, w, c), or a mapping of names to such arrays; only
        the shapes matter.
      z: likewise; or labels, one-hot and uint8.
      config: the configuration.

    Returns:
      The state of the stack, in the order of `stack.pairs_of` (one network for two arrays).

    Raises:
      TypeError: if `key` is no PRNG key, or another argument of another kind.
      ValueError: if an array has another shape.
    """
    key, data = check_key(key, "init"), check_data(x, z)
    if not isinstance(config, MineConfig):
        raise TypeError(f"config must be a MineConfig, got {config!r}")
    return init_stack(jax.random.split(key, len(data.x.index)), data, config)


def step(
    key: Array, state: MineState, x: Arrays, z: Arrays, config: MineConfig
) -> tuple[MineState, MineInfo]:
    """Take one step of gradient ascent on one batch (algorithm 1).

    >>> import jax
    >>> config, key = MineConfig(hidden=8), jax.random.key(0)
    >>> x = jax.random.normal(key, (100, 1))
    >>> state = init(key, x, x, config)
    >>> bounds = []
    >>> for number in range(50):
    ...     state, info = step(jax.random.fold_in(key, number), state, x, x, config)
    ...     bounds.append(float(info.bound))
    >>> bounds[-1] > bounds[0]
    True

    Args:
      key: a PRNG key, for the order in which samples are paired.
      state: from `init` or an earlier step.
      x: the batch, (b, features) or (b, h, w, c), or a mapping of names to such arrays.
      z: its partners, likewise; the samples of all arrays are paired alike.
      config: the configuration (static under `jit`).

    Returns:
      The next state, and the objective on this batch: scalars for two arrays, (networks,) for a
      stack.

    Raises:
      TypeError: if `key` is no PRNG key, or another argument of another kind.
      ValueError: if the shapes do not fit one another or the state.
    """
    key, data = check_key(key, "step"), check_data(x, z, values=False)
    check_state(state, data, config)
    state, info = _step_stack(key, state, data, config)
    return state, squeeze(info, x, z)


@jit(static_argnames=("config",), shares_work=True)
def _step_stack(
    key: Array, state: MineState, data: Data, config: MineConfig
) -> tuple[MineState, MineInfo]:
    order = jax.random.permutation(key, data.x.measured.shape[1])

    def one(
        state: MineState, x_index: Array, z_index: Array, data: Data, order: Array
    ) -> tuple[MineState, MineInfo]:
        batch = Batch(
            stack.take_rows(data.x.measured, x_index, order),
            stack.take_rows(data.z.measured, z_index, order),
            stack.columns_of(data.x, x_index),
            stack.columns_of(data.z, z_index),
            class_weights(data, z_index, config),
        )
        return ascend(state, batch, jnp.asarray(config.learning_rate), config)

    mapper = stack.resolve_mapper(config.mapper)
    index = data.x.index, data.z.index
    return stack.map_networks(mapper, one, state, *index, common=(data, order))


# --- Checks ---------------------------------------------------------------------------------------


def check_state(state: MineState, data: Data, config: MineConfig) -> None:
    """Raise ValueError unless the state is one of networks for these samples."""
    if not isinstance(state, MineState) or not isinstance(config, MineConfig):
        raise TypeError(
            "the arguments are key, state, x, z, …, config; got "
            f"{type(state).__name__} for the MineState and {type(config).__name__} for the "
            "MineConfig"
        )
    sides = tuple(
        (side.measured.shape, side.measured.dtype, tuple(side.columns), tuple(side.index))
        for side in data
    )
    check_same_shapes(state, expected_state(sides, config))


@lru_cache(maxsize=64)  # tracing takes longer than a step
def expected_state(sides: tuple[tuple, tuple], config: MineConfig) -> MineState:
    """Return the shapes of untrained networks.

    Args:
      sides: of x and of z the shape (arrays, n, …) and type of the samples, the numbers of columns
        that are data, and the array of each network, see `stack.Side`.
      config: the configuration.
    """
    measured: Any = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, *_ in sides]
    x, z = (
        Side(array, None, None, np.array(columns), np.array(index))
        for array, (_, _, columns, index) in zip(measured, sides, strict=True)
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), len(x.index)))

    def init_of(keys: Array, x_measured: Array, z_measured: Array) -> MineState:
        data = Data(x._replace(measured=x_measured), z._replace(measured=z_measured))
        return init_stack(keys, data, config)

    return jax.eval_shape(init_of, keys, x.measured, z.measured)


def check_same_shapes(state: MineState, wanted: MineState) -> None:
    """Raise ValueError unless a state has the shapes of another one."""
    got, expected = (
        {
            jax.tree_util.keystr(path): np.shape(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (state, wanted)
    )
    wrong = [
        f"{name} is {got.get(name)}, expected {expected.get(name)}"
        for name in dict.fromkeys([*expected, *got])
        if got.get(name) != expected.get(name)
    ]
    if wrong:
        raise ValueError(
            "the state has other shapes than networks for these samples and this configuration: "
            f"{'; '.join(wrong[:3])}. Initialize a new state, or use the same widths and "
            "configuration"
        )


def squeeze(tree: Any, x: Arrays, z: Arrays) -> Any:
    """Drop the axis of networks where x and z are two arrays."""
    if isinstance(x, Mapping) or isinstance(z, Mapping):
        return tree
    return jax.tree.map(lambda leaf: leaf[0], tree)
