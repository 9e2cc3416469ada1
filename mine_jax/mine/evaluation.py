"""The bound of trained networks on samples that they have not seen, over all pairs of samples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from mine_jax.compilation import jit
from mine_jax.mine import bounds, stack, training
from mine_jax.mine.config import MineConfig
from mine_jax.mine.stack import Array, Data
from mine_jax.mine.training import Arrays, Batch, MineState

FORMS = ("donsker_varadhan", "infonce")  # forms of a held-out value, see `bounds.held_out`
CEILING_MARGIN = 1.0  # nats below ln n from which on single pairs decide the value
BLOCK_ROWS = {True: 256, False: 8}  # rows whose scores are held at once, if separable and if not

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
    key = training.check_key(key, "evaluate")
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    data = training.check_data(x, z)
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
      rows: (networks, r).
      config: the configuration.
      train_rows: (networks, m), to normalize the scores over (`MineConfig.normalize`); None for
        the scores as they are.
      active: networks to evaluate, (networks,); None for all. The values of others are zeros.

    Returns:
      Values and standard errors, (networks,), and influences, (networks, r).
    """

    def one(
        state: MineState,
        rows: Array,
        train_rows: Array | None,
        x_index: Array,
        z_index: Array,
        data: Data,
    ) -> Forms:
        index = x_index, z_index
        return _held_out(state, data, index, rows, None, config, train_rows, errors=True)

    otherwise = None
    if active is not None:
        nothing = jnp.zeros(rows.shape[0])
        held_out = bounds.HeldOut(nothing, nothing, jnp.zeros(rows.shape))
        otherwise = held_out, held_out
    return stack.map_networks(
        stack.resolve_mapper(config.mapper),
        one,
        *(state, rows, train_rows, data.x.index, data.z.index),
        common=(data,),
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
        apply, x_code = training.encode_x(params, part, x, x_columns, weights, config)
        z_code = apply(z, z_columns, method="encode_z")

        def block(positions: Array) -> Array:
            clipped = jnp.minimum(positions, number - 1)
            code = jax.tree.map(lambda leaf: leaf[clipped], x_code)
            return apply(code, z_code, method="pairs")

        scores = jax.lax.map(block, _row_blocks(number, config.separable))
        return scores.reshape(-1, number)[:number]

    # One place after another, to save memory.
    return jax.lax.fori_loop(
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
      active: networks to evaluate, (networks,); the value of the others is nan.
      data: samples of the stack.
      rows: (networks, r), in random order.
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
    ) -> tuple[Array, Array]:
        index = x_index, z_index
        forms = _held_out(state, data, index, rows, shuffles, config, train_rows, errors=False)
        return forms[0].nats, forms[1].nats

    nothing = jnp.full(len(active), jnp.nan)
    return stack.map_networks(
        stack.resolve_mapper(config.mapper),
        one,
        *(state, rows, train_rows, data.x.index, data.z.index),
        common=(data,),
        active=active,
        otherwise=(nothing, nothing),
    )


def normalizes(data: Data, config: MineConfig) -> bool:
    """Tell whether scores are normalized over training samples, and not over classes."""
    return config.normalize and not training.sums_over_classes(data, config)


def validation_nats(
    state: MineState,
    active: np.ndarray,
    data: Data,
    rows: Array,
    train_rows: Array,
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
    over = train_rows[:, : rows.shape[1]] if normalizes(data, config) else None
    every = config.separable or training.sums_over_classes(data, config) or over is not None
    shuffles = None if every else config.validation_shuffles
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


def _held_out(
    state: MineState,
    data: Data,
    index: tuple[Array, ...],
    rows: Array,
    shuffles: int | None,
    config: MineConfig,
    train_rows: Array | None,
    errors: bool,
) -> Forms:
    """Evaluate one network; without `errors` only the values mean something."""
    batch = Batch(
        stack.take_rows(data.x.measured, index[0], rows),
        stack.take_rows(data.z.measured, index[1], rows),
        stack.columns_of(data.x, index[0]),
        stack.columns_of(data.z, index[1]),
        training.class_weights(data, index[1], config),
    )
    params, part = state.average, state.gaussian
    if batch.class_weights is not None:
        scores = training.score_batch(params, part, batch, config)
        weights = jnp.log(batch.class_weights)
        value = bounds.held_out_discrete(scores.joint, scores.rows, weights, config.bound)
        return value, value
    apply, x_code = training.encode_x(params, part, batch.x, batch.x_columns, None, config)
    z_code = apply(batch.z, batch.z_columns, method="encode_z")
    if shuffles is None:
        log_partition = None
        if train_rows is not None:
            z_train = stack.take_rows(data.z.measured, index[1], train_rows)
            train_code = apply(z_train, batch.z_columns, method="encode_z")
            log_partition = _log_partition(apply, x_code, train_code, len(rows), config.separable)
        sums = _sums_of_pairs(
            apply, x_code, z_code, len(rows), config.separable, errors, log_partition
        )
    else:
        sums = _sums_of_shuffles(apply, x_code, z_code, len(rows), shuffles)
    forms = ("nwj", "nwj") if config.bound == "nwj" else FORMS
    first, second = (bounds.held_out(sums, form) for form in forms)
    return first, second


def _sums_of_shuffles(apply: Any, x_code: Any, z_code: Any, n: int, shuffles: int) -> bounds.Sums:
    """Sum over each sample's joint pair and at most `shuffles` marginal ones."""
    shifts = jnp.asarray(even_shifts(n, shuffles))

    def shifted(shift: Array) -> Array:
        return apply(x_code, training.roll(z_code, -shift), method="score")

    joint = shifted(jnp.zeros((), shifts.dtype))
    marginal = jax.lax.map(shifted, shifts)  # one at a time, to save memory
    return _sums_of_rows(joint, logsumexp(marginal, axis=0), len(shifts))


def _sums_of_rows(joint: Array, rows: Array, others: int) -> bounds.Sums:
    """Return sums that give the value of a bound, but not its influences."""
    nothing = jnp.zeros_like(joint)
    return bounds.Sums(joint, rows, nothing, nothing[0], nothing, jnp.asarray(float(others)))


def _row_blocks(n: int, separable: bool) -> Array:
    """Return positions 0 … n − 1 and beyond, (blocks, rows of a block)."""
    size = min(n, BLOCK_ROWS[separable])
    blocks = -(-n // size)
    return jnp.arange(blocks * size).reshape(blocks, size)


def _log_partition(apply: Any, x_code: Any, train_code: Any, n: int, separable: bool) -> Array:
    """Compute ln Σ exp T(x_i, z) over the training samples of z, (n,), block by block of rows."""

    def block(rows: Array) -> Array:
        code = jax.tree.map(lambda leaf: leaf[jnp.minimum(rows, n - 1)], x_code)
        return logsumexp(apply(code, train_code, method="pairs"), axis=1)

    return jax.lax.map(block, _row_blocks(n, separable)).reshape(-1)[:n]


def _normalized(scores: Array, log_partition: Array | None) -> Array:
    """Return T − ln(exp T + partition): at most 0, so that no pair outweighs all others."""
    return scores if log_partition is None else scores - jnp.logaddexp(scores, log_partition)


def _sums_of_pairs(
    apply: Any,
    x_code: Any,
    z_code: Any,
    n: int,
    separable: bool,
    errors: bool,
    log_partition: Array | None = None,
) -> bounds.Sums:
    """Sum over all pairs, block by block of rows; without `errors` the sums of rows alone."""
    joint = _normalized(apply(x_code, z_code, method="score"), log_partition)
    positions = _row_blocks(n, separable)

    def block(rows: Array) -> tuple:
        clipped = jnp.minimum(rows, n - 1)
        code = jax.tree.map(lambda leaf: leaf[clipped], x_code)
        scores = apply(code, z_code, method="pairs")
        if log_partition is not None:
            scores = _normalized(scores, log_partition[clipped][:, None])
        counts = (rows[:, None] < n) & (rows[:, None] != jnp.arange(n)[None, :])
        scores = jnp.where(counts, scores, -jnp.inf)
        row_sums = logsumexp(scores, axis=1)
        if not errors:
            return (row_sums,)
        full = jnp.logaddexp(row_sums, joint[clipped])
        return (
            row_sums,
            logsumexp(scores, axis=0),
            logsumexp(2 * scores),
            jnp.sum(jnp.exp(scores - full[:, None]), axis=0),
        )

    row_sums, *others = jax.lax.map(block, positions)
    row_sums = row_sums.reshape(-1)[:n]
    if not errors:
        return _sums_of_rows(joint, row_sums, n - 1)
    columns, squares, as_negative = others
    return bounds.Sums(
        joint=joint,
        rows=row_sums,
        columns=logsumexp(columns, axis=0),
        squares=logsumexp(squares),
        as_negative=jnp.sum(as_negative, axis=0),
        others=jnp.asarray(float(n - 1)),
    )


def even_shifts(n: int, number: int) -> np.ndarray:
    """Return at most `number` different shifts, spread evenly over 1 … n − 1."""
    return np.unique(np.linspace(1, n - 1, min(number, n - 1)).round().astype(np.int32))
