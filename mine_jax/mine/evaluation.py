"""The bound of trained networks on samples that they have not seen, over all pairs of samples."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp

from mine_jax.compilation import jit
from mine_jax.mine import blocks, bounds, checks, padding, stack, training
from mine_jax.mine.checks import Arrays
from mine_jax.mine.config import MineConfig
from mine_jax.mine.stack import Array, Data
from mine_jax.mine.training import Batch, MineState

FORMS = ("donsker_varadhan", "infonce")  # forms of a held-out value, see `bounds.held_out`
CEILING_MARGIN = 1.0  # nats below ln n from which on single pairs decide the value

Forms = tuple[bounds.HeldOut, bounds.HeldOut]


def evaluate(
    key: Array,
    state: MineState,
    x: Arrays,
    z: Arrays,
    config: MineConfig,
    form: str = "donsker_varadhan",
) -> bounds.HeldOut:
    """Evaluate networks on samples that they should not have seen, over all pairs of samples.

    >>> import jax
    >>> config, key = MineConfig(hidden=8), jax.random.key(0)
    >>> x, z = jax.random.normal(key, (2, 100, 1))
    >>> value = evaluate(key, init(key, x, z, config), x, z, config)
    >>> value.influence.shape  # of each sample on value.nats
    (100,)

    Args:
      key: a PRNG key, for the order of the samples, which matters up to rounding.
      state: of the stack.
      x: (n, features) or (n, h, w, c), or a mapping of names to such arrays.
      z: likewise; or labels, one-hot and uint8.
      config: the configuration.
      form: "donsker_varadhan" or "infonce", see `bounds.held_out`; with `bound="nwj"` the value
        is NWJ's whatever the form.

    Returns:
      Value, standard error and influences in nats; for a stack with the networks in front.

    Raises:
      TypeError: if `key` is no PRNG key.
      ValueError: if the shapes do not fit, n < 2, or the form is unknown.
    """
    key = checks.check_key(key, "evaluate")
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    data = checks.check_data(x, z)
    training.check_state(state, data, config)
    order = jax.random.permutation(key, data.x.measured.shape[1])
    rows = jnp.tile(order[None], (len(data.x.index), 1))
    value = evaluate_rows(state, data, rows, config)[FORMS.index(form)]
    influence = value.influence[:, jnp.argsort(order)]  # in the order of the samples
    return training.squeeze(value._replace(influence=influence), x, z)


@jit(static_argnames=("config",), shares_work=True)
def evaluate_rows(
    state: MineState,
    data: Data,
    rows: Array,
    config: MineConfig,
    train_rows: Array | None = None,
    active: Array | None = None,
) -> Forms:
    """Evaluate a stack over all pairs of each network's rows (networks, r), in both `FORMS`.

    Args:
      state: of the stack.
      data: its samples.
      rows: (networks, r); they may end in padding, see `padding`, as those of `train_rows` may.
      config: the configuration.
      train_rows: (networks, m), to normalize the scores over (`MineConfig.normalize`); None for
        the scores as they are.
      active: networks to evaluate, (networks,); None for all. The values of others are zeros.

    Returns:
      Values and standard errors, (networks,), and influences, (networks, r); those of padding mean
      nothing.
    """

    def one(
        state: MineState,
        rows: Array,
        train_rows: Array | None,
        x_index: Array,
        z_index: Array,
        data: Data,
        numbers: tuple[Array, Array | None],
    ) -> Forms:
        index = x_index, z_index
        over = rows, train_rows
        return _held_out(state, data, index, over, numbers, None, config, errors=True)

    otherwise = None
    if active is not None:
        nothing = jnp.zeros(rows.shape[0])
        held_out = bounds.HeldOut(nothing, nothing, jnp.zeros(rows.shape))
        otherwise = held_out, held_out
    return stack.map_networks(
        stack.resolve_mapper(config.mapper),
        one,
        *(state, rows, train_rows, data.x.index, data.z.index),
        common=(data, _numbers(rows, train_rows)),
        active=active,
        otherwise=otherwise,
    )


@jit(static_argnames=("config",))
def score_groups(
    state: MineState, data: Data, network: int, rows: Array, config: MineConfig
) -> Array:
    """Score every group of x with every group of z, by one network of a stack.

    Args:
      state: of the stack.
      data: its samples.
      network: which of its networks.
      rows: of the groups, all of one size, (groups, size); (groups, 1) for single samples.
      config: the configuration.

    Returns:
      (groups, groups): Σ_i T(x_gi, z_hi) of groups g and h, over their places i; scores as they
      are, without `MineConfig.normalize`.
    """
    params, part = jax.tree.map(lambda leaf: leaf[network], (state.average, state.gaussian))
    x_index, z_index = data.x.index[network], data.z.index[network]
    x_columns, z_columns = stack.columns_of(data.x, x_index), stack.columns_of(data.z, z_index)
    weights = training.class_weights(data, z_index, config)
    number = rows.shape[0]

    def score(place: Array) -> Array:
        x = stack.take_rows(data.x.measured, x_index, place)
        z = stack.take_rows(data.z.measured, z_index, place)
        apply = training.network(params, part, weights is not None, config)
        x_code = apply(x, x_columns, method="encode_x")
        z_code = apply(z, z_columns, method="encode_z")

        def block(positions: Array) -> Array:
            clipped = jnp.minimum(positions, number - 1)
            code = jax.tree.map(lambda leaf: leaf[clipped], x_code)
            return apply(code, z_code, method="pairs")

        size = min(number, blocks.BLOCK_ROWS[config.separable])
        places = jnp.arange(-(-number // size) * size).reshape(-1, size)
        scores = lax.map(block, places)
        return scores.reshape(-1, number)[:number]

    # One place after another, to save memory.
    return lax.fori_loop(
        0,
        rows.shape[1],
        lambda i, total: total + score(rows[:, i]),
        jnp.zeros((number, number)),
    )


@jit(static_argnames=("config", "shuffles"), shares_work=True)
def evaluate_values(
    state: MineState,
    active: Array,
    data: Data,
    rows: Array,
    config: MineConfig,
    shuffles: int | None = None,
    train_rows: Array | None = None,
) -> tuple[Array, Array]:
    """Evaluate a stack without standard errors, which takes a third of the time.

    Args:
      state: of the stack.
      active: networks to evaluate, (networks,); the value of the others is 0.
      data: samples of the stack.
      rows: (networks, r), in random order; they may end in padding, as for `evaluate_rows`.
      config: the configuration.
      shuffles: number of marginal pairs for each sample; None for all pairs.
      train_rows: as for `evaluate_rows`; without `shuffles`.

    Returns:
      The values in both `FORMS`, (networks,).
    """

    def one(
        state: MineState,
        rows: Array,
        train_rows: Array | None,
        x_index: Array,
        z_index: Array,
        data: Data,
        numbers: tuple[Array, Array | None],
    ) -> tuple[Array, Array]:
        index, over = (x_index, z_index), (rows, train_rows)
        forms = _held_out(state, data, index, over, numbers, shuffles, config, errors=False)
        return forms[0].nats, forms[1].nats

    nothing = jnp.zeros(len(active))
    return stack.map_networks(
        stack.resolve_mapper(config.mapper),
        one,
        *(state, rows, train_rows, data.x.index, data.z.index),
        common=(data, _numbers(rows, train_rows)),
        active=active,
        otherwise=(nothing, nothing),
    )


def normalizes(data: Data, config: MineConfig) -> bool:
    """Tell whether scores are normalized over training samples, and not over classes."""
    return config.normalize and not training.sums_over_classes(data, config)


def num_shuffles(data: Data, config: MineConfig) -> int | None:
    """Return the number of shuffles of values on validation samples; None for all pairs."""
    every = config.separable or training.sums_over_classes(data, config)
    return None if every else config.validation_shuffles


def validation_nats(
    state: MineState,
    active: np.ndarray,
    data: Data,
    rows: np.ndarray,
    train_rows: np.ndarray,
    num_test: int,
    config: MineConfig,
) -> np.ndarray:
    """Evaluate a stack on its validation rows (networks, s): the value that stops training.

    This is the larger of the two forms. The Donsker–Varadhan form is capped at one nat below the
    log of the number of test samples, above which it is not trusted; without the cap, states near
    that limit would be preferred. Where the reported scores are normalized over the training
    samples, so are these, over s of the training rows (networks, m): networks that know the
    training samples of z too well lose by it.
    """
    over = None
    if normalizes(data, config):
        over = padding.first_rows(train_rows, padding.num_rows(rows), rows.shape[1])
    shuffles = None if over is not None else num_shuffles(data, config)
    forms = evaluate_values(state, active, data, rows, config, shuffles, over)
    donsker_varadhan, infonce = map(np.asarray, forms)
    if config.form == "donsker_varadhan":
        return donsker_varadhan
    limit = np.log(num_test) - CEILING_MARGIN
    finite = np.isfinite(donsker_varadhan) & (config.form == "auto")
    trusted = np.where(finite, np.minimum(donsker_varadhan, limit), -np.inf)
    return np.where(np.isfinite(infonce), np.maximum(trusted, infonce), infonce)


def largest_validation_nats(
    data: Data, num_validation: int, num_test: int, config: MineConfig
) -> float:
    """Return the largest value that `validation_nats` can have: a fit that reached it can end."""
    if training.sums_over_classes(data, config) or config.bound == "nwj":
        return np.inf
    if config.form == "infonce":
        return float(np.log(num_validation))
    if config.form == "donsker_varadhan":
        return np.inf
    return float(max(np.log(num_validation), np.log(num_test) - CEILING_MARGIN))


def uses_infonce(
    donsker_varadhan: Array, infonce: Array, num_test: int, config: MineConfig
) -> np.ndarray:
    """Tell from the values on validation samples which ones are reported in the InfoNCE form."""
    if config.form != "auto":
        return np.full(np.shape(infonce), config.form == "infonce")
    value = np.asarray(donsker_varadhan)
    trusted = value <= np.log(num_test) - CEILING_MARGIN  # False for nan
    return ~(trusted & (value >= np.asarray(infonce)))


def _numbers(rows: Array, train_rows: Array | None) -> tuple[Array, Array | None]:
    """Return the numbers of rows that are no padding, the same for all networks."""
    return padding.num_rows(rows), None if train_rows is None else padding.num_rows(train_rows)


def _held_out(
    state: MineState,
    data: Data,
    index: tuple[Array, Array],
    rows: tuple[Array, Array | None],
    numbers: tuple[Array, Array | None],
    shuffles: int | None,
    config: MineConfig,
    errors: bool,
) -> Forms:
    """Evaluate one network; without `errors` only the values mean something.

    Args:
      state: of the network.
      data: samples of its stack.
      index: its arrays of x and of z.
      rows: (r,), and those to normalize over, (m,).
      numbers: how many of either are no padding.
      shuffles: as for `evaluate_values`.
      config: the configuration.
      errors: compute standard errors and influences.
    """
    number, width = numbers[0], len(rows[0])
    sizes = blocks.block_sizes(width, config.separable)
    places = blocks.fill_blocks(rows[0], sizes.columns)
    real = jnp.arange(len(places)) < number
    columns = stack.columns_of(data.x, index[0]), stack.columns_of(data.z, index[1])
    weights = training.class_weights(data, index[1], config)
    apply = training.network(state.average, state.gaussian, weights is not None, config)

    def cut(value: bounds.HeldOut) -> bounds.HeldOut:
        return value._replace(influence=value.influence[:width])

    if weights is not None:

        def score_classes(rows: Array) -> tuple[Array, Array]:
            x, z = (stack.take_rows(data[i].measured, index[i], rows) for i in range(2))
            batch = Batch(x, z, *columns, weights)
            scores = training.score_batch(state.average, state.gaussian, batch, config)
            return scores.joint, scores.rows

        scores, of_classes = blocks.map_blocks(score_classes, places, number, sizes.columns)
        log_weights = jnp.log(weights)
        value = bounds.held_out_discrete(scores, of_classes, log_weights, config.bound, real)
        return cut(value), cut(value)

    def encode(side: int, rows: Array) -> Any:
        values = stack.take_rows(data[side].measured, index[side], rows)
        return apply(values, columns[side], method=("encode_x", "encode_z")[side])

    x_code, z_code = (
        blocks.map_blocks(partial(encode, side), places, number, sizes.columns) for side in range(2)
    )
    joint = jnp.where(real, apply(x_code, z_code, method="score"), 0)

    def pairs(x_code: Any, z_code: Any, positions: Array) -> Array:
        return apply(x_code, z_code, method="pairs")

    every = blocks.Pairs(pairs, x_code, z_code, number, number, sizes, joint=False)
    if rows[1] is not None and numbers[1] is not None:
        size = blocks.block_sizes(len(rows[1]), config.separable).columns
        train_rows = blocks.fill_blocks(rows[1], size)
        train_code = blocks.map_blocks(partial(encode, 1), train_rows, numbers[1], size)
        over = blocks.Sizes(sizes.rows, size)
        log_partition = blocks.row_sums(
            blocks.Pairs(pairs, x_code, train_code, number, numbers[1], over, joint=True)
        )

        def normalized(x_code: Any, z_code: Any, positions: Array) -> Array:
            scores = pairs(x_code, z_code, positions)
            return _normalized(scores, log_partition[positions][:, None])

        every = every._replace(score=normalized)
        joint = jnp.where(real, _normalized(joint, log_partition), 0)
    if shuffles is not None:
        sums = _sums_of_shuffles(apply, every, joint, min(shuffles, width - 1))
    elif errors:
        sums = blocks.all_sums(every, joint)
    else:
        sums = _sums_of_rows(joint, blocks.row_sums(every), number - 1.0)
    forms = ("nwj", "nwj") if config.bound == "nwj" else FORMS
    first, second = (cut(bounds.held_out(sums, form, real)) for form in forms)
    return first, second


def _normalized(scores: Array, log_partition: Array) -> Array:
    """Return T − ln(exp T + partition): at most 0, so that no pair outweighs all others."""
    return scores - jnp.logaddexp(scores, log_partition)


def _sums_of_shuffles(
    apply: Callable[..., Any], pairs: blocks.Pairs, joint: Array, most: int
) -> bounds.Sums:
    """Sum over each sample's joint pair and at most `most` marginal ones."""
    number = pairs.x_number
    shifts = even_shifts(number, most)

    def block(positions: Array) -> Array:
        x_code = jax.tree.map(lambda leaf: leaf[positions], pairs.x_code)

        def shifted(shift: Array) -> Array:
            others = (positions + shift) % number
            z_code = jax.tree.map(lambda leaf: leaf[others], pairs.z_code)
            return apply(x_code, z_code, method="score")

        marginal = lax.map(shifted, shifts)  # one at a time, to save memory
        return logsumexp(jnp.where(shifts[:, None] < number, marginal, -jnp.inf), axis=0)

    positions = jnp.arange(len(joint))
    rows = blocks.map_blocks(block, positions, number, pairs.sizes.columns)
    return _sums_of_rows(joint, rows, jnp.minimum(number - 1.0, most))


def _sums_of_rows(joint: Array, rows: Array, others: Array) -> bounds.Sums:
    """Return sums that give the value of a bound, but not its influences."""
    nothing = jnp.zeros_like(joint)
    return bounds.Sums(joint, rows, nothing, nothing[0], nothing, others)


def even_shifts(n: Array | int, number: int) -> Array:
    """Return so many different shifts, spread evenly over 1 … n − 1; (number,).

    Where n − 1 < number, the first n − 1 are all that there are; the others are n or more, and do
    not count.
    """
    places = jnp.arange(number)
    gaps = max(number - 1, 1)
    whole, rest = (n - 2) // gaps, (n - 2) % gaps  # products of both would overflow
    spread = 1 + places * whole + (2 * places * rest + gaps) // (2 * gaps)
    return jnp.where(n - 1 > number, spread, 1 + places)
