"""Algorithm 1 of MINE: one step of gradient ascent on a bound of the mutual information.

The functions of one network come first; `init` and `step` apply them to a stack.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mine_jax.compilation import jit
from mine_jax.mine import bounds, gaussian, stack
from mine_jax.mine.config import MineConfig
from mine_jax.mine.gaussian import GaussianPart
from mine_jax.mine.stack import Array, Data, Samples, Side

Arrays = Array | Mapping[str, Array]


class MineState(NamedTuple):
    """What training carries from step to step, and a warm start from round to round.

    Every leaf has the networks of the stack on its first axis.

    Attributes:
      params: weights that are trained: `x_encoder`, `z_encoder` and `head`.
      average: moving average of `params`, which is what is evaluated.
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
    """What a step reports.

    Attributes:
      bound: the objective on the batch before the step, in nats.
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

    def negative_objective(params: Any) -> tuple[Array, Array]:
        scores = score_batch(params, state.gaussian, batch, config)
        average = state.log_partition
        if config.bound == "mine":  # the only objective that needs it
            average = bounds.update_log_partition(
                average,
                bounds.log_mean_exp(scores.rows, scores.weights),
                weight=config.partition_weight,
                first=state.steps == 0,
            )
        return -bounds.objective(config.bound, scores, average), average

    (loss, log_partition), gradient = jax.value_and_grad(negative_objective, has_aux=True)(
        state.params
    )
    updates, opt_state = optimizer(config).update(gradient, state.opt_state, state.params)
    params = jax.tree.map(lambda old, change: old - rate * change, state.params, updates)
    average = jax.tree.map(
        lambda old, new: new + config.ema_decay * (old - new), state.average, params
    )
    next_state = MineState(
        params, average, opt_state, state.gaussian, log_partition, state.steps + 1
    )
    return next_state, MineInfo(-loss, optax.tree.norm(gradient))


def score_batch(
    params: Any, part: GaussianPart | None, batch: Batch, config: MineConfig
) -> bounds.Scores:
    """Score the joint and the marginal pairs of a batch.

    The marginal pairs of labels are all classes, those of a separable network all pairs of the
    batch; other networks pair x_i with z of the batch shifted by 1, …, `shuffles` places, which is
    a shuffle without fixed points as the batch is in random order.
    """
    n = batch.x.shape[0]
    apply, x_code = encode_x(params, part, batch.x, batch.x_columns, batch.class_weights, config)
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


def encode_x(
    params: Any,
    part: GaussianPart | None,
    x: Array,
    columns: Array,
    class_weights: Array | None,
    config: MineConfig,
) -> tuple[Any, Any]:
    """Return a function that applies a method of the network, and the code of x."""
    # Discriminants of labels are in nats and have no unit variance.
    module = config.module(clip=class_weights is None)

    def apply(*arguments: Any, method: str) -> Any:
        return module.apply({"params": params}, *arguments, part, method=method)

    return apply, apply(x, columns, method="encode_x")


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
    """Initialize the networks of a stack with a key each, (networks,)."""
    return _init_networks(keys, data, num_canonical_pairs(data, config), config)


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
    return jnp.mean(data.z.measured[z_index], axis=0, dtype=jnp.float32)


def init(key: Array, x: Arrays, z: Arrays, config: MineConfig) -> MineState:
    """Initialize a statistics network for each pair of an array in x and an array in z.

    Args:
      key: a PRNG key.
      x: prepared samples, (n, features) or (n, h, w, c), or a mapping of names to such arrays; only
        the shapes matter.
      z: likewise; or labels, one-hot and uint8.
      config: the configuration.

    Returns:
      The state of the stack, in the order of `stack.pairs_of` (one network for two arrays).

    Raises:
      TypeError: if `key` is no PRNG key.
      ValueError: if an array has another shape.
    """
    key, data = check_key(key, "init"), check_data(x, z)
    return init_stack(jax.random.split(key, len(data.x.index)), data, config)


def step(
    key: Array, state: MineState, x: Arrays, z: Arrays, config: MineConfig
) -> tuple[MineState, MineInfo]:
    """Take one step of gradient ascent on one batch (algorithm 1).

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
      TypeError: if `key` is no PRNG key.
      ValueError: if the shapes do not fit one another or the state.
    """
    key, data = check_key(key, "step"), check_data(x, z)
    check_state(state, data, config)
    state, info = _step_stack(key, state, data, config)
    return state, squeeze(info, x, z)


@jit(static_argnames=("config",))
def _step_stack(
    key: Array, state: MineState, data: Data, config: MineConfig
) -> tuple[MineState, MineInfo]:
    order = jax.random.permutation(key, data.x.measured.shape[1])
    rate = jnp.asarray(config.learning_rate)

    def one(state: MineState, x_index: Array, z_index: Array) -> tuple[MineState, MineInfo]:
        batch = Batch(
            stack.take_rows(data.x.measured, x_index, order),
            stack.take_rows(data.z.measured, z_index, order),
            stack.columns_of(data.x, x_index),
            stack.columns_of(data.z, z_index),
            class_weights(data, z_index, config),
        )
        return ascend(state, batch, rate, config)

    mapper = stack.resolve_mapper(config.mapper)
    return stack.map_networks(mapper, one, state, data.x.index, data.z.index)


@jit(static_argnames=("config",))
def train_chunk(
    state: MineState,
    active: Array,
    rate: Array,
    keys: Array,
    batches: Array,
    fold: Array,
    data: Data,
    config: MineConfig,
) -> tuple[MineState, Array]:
    """Take a step of every active network for each batch.

    Args:
      state: of the stack.
      active: networks to train, (networks,); the others stay as they are.
      rate: learning rates, (networks,).
      keys: keys for fresh noise, (folds,): the same for all networks of a fold.
      batches: rows, (folds, steps, b).
      fold: the fold of each network, (networks,).
      data: samples of the stack.
      config: the configuration.

    Returns:
      The states, and the mean objective over the batches, (networks,), nan where not active.
    """

    def one(
        state: MineState, rate: Array, fold: Array, x_index: Array, z_index: Array
    ) -> tuple[MineState, Array]:
        weights = class_weights(data, z_index, config)
        columns = stack.columns_of(data.x, x_index), stack.columns_of(data.z, z_index)

        def body(state: MineState, batch: tuple[Array, Array]) -> tuple[MineState, Array]:
            rows, number = batch
            x_key, z_key = jax.random.split(jax.random.fold_in(keys[fold], number))
            x = training_rows(x_key, data.x, x_index, rows)
            z = training_rows(z_key, data.z, z_index, rows)
            state, info = ascend(state, Batch(x, z, *columns, weights), rate, config)
            return state, info.bound

        numbers = jnp.arange(batches.shape[1])
        state, nats = jax.lax.scan(body, state, (batches[fold], numbers))
        return state, jnp.mean(nats)

    nothing = jnp.full(len(active), jnp.nan)
    return stack.map_networks(
        stack.resolve_mapper(config.mapper),
        one,
        *(state, rate, fold, data.x.index, data.z.index),
        active=active,
        otherwise=(state, nothing),
    )


def training_rows(key: Array, side: Side, index: Array, rows: Array) -> Array:
    """Return rows of one array, with fresh noise if there is any.

    A key for each column: the noise of a network does not depend on the others of its stack.
    """
    if side.noiseless is None or side.noise_std is None:
        return stack.take_rows(side.measured, index, rows)
    values = stack.take_rows(side.noiseless, index, rows)
    noise_std = jnp.asarray(side.noise_std)[index]

    def noise_of(column: Array) -> Array:
        deviation = jnp.where(column < stack.columns_of(side, index), noise_std, 0)
        return deviation * jax.random.normal(jax.random.fold_in(key, column), rows.shape)

    noise = jax.vmap(noise_of, out_axes=1)(jnp.arange(stack.num_columns(values)))
    return values + noise.reshape(values.shape)


@jit(static_argnames=("config",), fast_compile=True)
def draw_batches(keys: Array, train_rows: Array, config: MineConfig) -> Array:
    """Draw the batches of a chunk: passes over all training rows in random order.

    Args:
      keys: PRNG keys, (folds,).
      train_rows: (folds, m).
      config: `check_every` and `batch_size`.

    Returns:
      Rows, (folds, check_every, b).
    """
    size = min(config.batch_size, train_rows.shape[1])
    per_pass = train_rows.shape[1] // size
    passes = -(-config.check_every // per_pass)

    def one(key: Array, rows: Array) -> Array:
        def shuffled(key: Array) -> Array:
            return jax.random.permutation(key, rows)[: per_pass * size].reshape(per_pass, size)

        orders = jax.vmap(shuffled)(jax.random.split(key, passes))
        return orders.reshape(-1, size)[: config.check_every]

    return jax.vmap(one)(keys, train_rows)


# --- Checks ---------------------------------------------------------------------------------------


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
    raise TypeError(
        f"{function} takes a PRNG key first, such as jax.random.key(0); got {type(key).__name__}"
    )


def check_data(x: Arrays, z: Arrays) -> Data:
    """Return the stacked samples of all pairs of arrays.

    Raises:
      ValueError: if shapes do not fit one another.
    """
    left, right = stack.named(x), stack.named(z)
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


def check_state(state: MineState, data: Data, config: MineConfig) -> None:
    """Raise ValueError unless the state is one of networks for these samples."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), len(data.x.index)))
    wanted = jax.eval_shape(lambda keys: init_stack(keys, data, config), keys)
    check_same_shapes(state, wanted)


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
