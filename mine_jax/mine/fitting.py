"""Training until the validation samples show no improvement: patience, best state, rate drops."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mine_jax.mine import chunks, stack, training
from mine_jax.mine.config import MineConfig
from mine_jax.mine.evaluation import largest_validation_nats, validation_nats
from mine_jax.mine.stack import Array, Data
from mine_jax.mine.training import Arrays, MineState

LR_DROP = 3.0  # factor of a learning-rate drop


class FitInfo(NamedTuple):
    """Report of a fit, as NumPy arrays; checks on the first axis, then networks for a stack.

    Attributes:
      steps_at: number of steps at each check, (checks,); the first check is before any step.
      batch_nats: mean objective of the batches since the last check, nan at the first.
      validation_nats: bound on the validation samples (see `fit`).
      best_step: number of steps at the best state, without the axis of checks.
      steps: number of steps until training ended, likewise.
      converged: training ended because the validation samples showed no improvement, or could
        show none, likewise.
      finite: no bound on the validation samples was nan or infinite, likewise.
    """

    steps_at: np.ndarray
    batch_nats: np.ndarray
    validation_nats: np.ndarray
    best_step: np.ndarray
    steps: np.ndarray
    converged: np.ndarray
    finite: np.ndarray


OnCheck = Callable[[int, int, FitInfo], None]


def fit(
    key: Array,
    state: MineState,
    x: Arrays,
    z: Arrays,
    train_rows: Array,
    validation_rows: Array,
    config: MineConfig,
    on_check: OnCheck | None = None,
) -> tuple[MineState, FitInfo]:
    """Train until the validation samples show no improvement; return the state they chose.

    Every `check_every` steps the averaged weights are evaluated on the validation samples: by the
    larger one of the Donsker–Varadhan and the InfoNCE form, the former up to a nat below the log of
    the number of test samples. After `patience` checks without improvement a network returns to its
    best state and continues at a third of the learning rate; after `lr_drops` of those it has
    converged, as it has where the value is the largest that the validation samples can give. Each
    network decides for itself; the fit ends with the last one. With
    `reported_state="last"` it neither returns to the best state nor reports it.

    Args:
      key: a PRNG key.
      state: from `init`, or from an earlier fit (a warm start).
      x: all samples, (n, features) or (n, h, w, c), or a mapping of names to such arrays.
      z: likewise; or labels, one-hot and uint8.
      train_rows: rows to train on, (m,).
      validation_rows: rows for validation, (s,), in random order.
      config: the configuration.
      on_check: called after each check with the number of steps, `max_steps` and the report so far.

    Returns:
      The chosen state of each network, and the report.

    Raises:
      TypeError: if `key` is no PRNG key.
      ValueError: if shapes do not fit, rows are out of range, or there are fewer than 2 of either
        kind.
    """
    key, data = training.check_key(key, "fit"), training.check_data(x, z)
    training.check_state(state, data, config)
    shapes = np.shape(train_rows), np.shape(validation_rows)
    if any(len(shape) != 1 or shape[0] < 2 for shape in shapes):
        raise ValueError(
            "train_rows and validation_rows must be (m,) and (s,) with at least 2 rows each; got "
            f"{shapes[0]} and {shapes[1]}"
        )
    n = data.x.measured.shape[1]
    if both := np.intersect1d(train_rows, validation_rows).size:
        raise ValueError(
            f"validation_rows must be other rows than train_rows, which {both} of them are not"
        )
    for name, rows in (("train_rows", train_rows), ("validation_rows", validation_rows)):
        if not np.issubdtype(np.asarray(rows).dtype, np.integer):
            raise ValueError(
                f"{name} must be row numbers, got {np.asarray(rows).dtype}; of a mask take "
                "np.flatnonzero(mask)"
            )
        low, high = np.min(rows), np.max(rows)
        if low < 0 or high >= n:
            raise ValueError(f"{name} must be in 0 … {n - 1}, got rows from {low} to {high}")
    networks = len(data.x.index)
    num_test = max(2, n - shapes[0][0] - shapes[1][0])
    best, info = fit_stack(
        key[None],
        state,
        data,
        np.asarray(train_rows)[None],
        np.asarray(validation_rows)[None],
        np.zeros(networks, np.int32),
        num_test,
        config,
        on_check,
    )
    if not (isinstance(x, Mapping) or isinstance(z, Mapping)):
        info = FitInfo(info.steps_at, *(values[..., 0] for values in info[1:]))
    return best, info


def fit_stack(
    keys: Array,
    state: MineState,
    data: Data,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    fold: np.ndarray,
    num_test: int,
    config: MineConfig,
    on_check: OnCheck | None = None,
    *,
    active: np.ndarray | None = None,
    first_step: int = 0,
    max_steps: int | None = None,
) -> tuple[MineState, FitInfo]:
    """Run `fit` on the networks of a stack, each on the rows of its fold.

    Args:
      keys: PRNG keys, (folds,).
      state: of the stack.
      data: its samples.
      train_rows: (folds, m).
      validation_rows: (folds, s), in random order.
      fold: the fold of each network, (networks,).
      num_test: number of samples that will test together.
      config: the configuration.
      on_check: as for `fit`; arrays of the report have the networks on their last axis.
      active: networks to train, (networks,); None for all. Values of the others are nan.
      first_step: number of steps of an earlier call, whose batches are not drawn again.
      max_steps: limit on the number of steps; None for that of the configuration.

    Returns:
      The chosen state of each network, and the report.
    """
    rows, over = (jnp.asarray(part)[fold] for part in (validation_rows, train_rows))
    networks = len(fold)
    done = np.zeros(networks, bool) if active is None else ~active
    nats = validation_nats(state, ~done, data, rows, over, num_test, config)
    batch_history, history = [np.full(networks, np.nan, np.float32)], [nats]
    best, best_nats = state, np.where(np.isfinite(nats), nats, -np.inf)
    best_step, waited, drops, steps = (np.zeros(networks, np.int32) for _ in range(4))
    limit = config.max_steps if max_steps is None else max_steps
    num_chunks = -(-limit // config.check_every)
    first_chunk = first_step // config.check_every
    # From here on no gain could count.
    enough = largest_validation_nats(data, rows.shape[1], num_test, config) - config.min_improvement

    def report() -> FitInfo:
        return FitInfo(
            steps_at=np.arange(len(history)) * config.check_every,
            batch_nats=np.stack(batch_history),
            validation_nats=np.stack(history),
            best_step=best_step,
            steps=steps,
            converged=done,
            finite=np.isfinite(np.stack(history)).all(axis=0),
        )

    for number in range(num_chunks):
        batch_keys, noise_keys = chunk_keys(keys, first_chunk + number)
        rate = (config.learning_rate / LR_DROP**drops).astype(np.float32)
        batches = chunks.draw_batches(batch_keys, train_rows, config)
        state, batch_nats = chunks.train_chunk(
            state, ~done, rate, noise_keys, batches, fold, data, config
        )
        steps = steps + np.where(done, 0, config.check_every).astype(np.int32)
        nats = validation_nats(state, ~done, data, rows, over, num_test, config)
        nats = np.where(done, history[-1], nats)
        better = ~done & (nats > best_nats)
        improved = ~done & (nats > best_nats + config.min_improvement)
        if better.any():
            best = stack.choose(better, state, best)
        best_nats = np.where(better, nats, best_nats)
        best_step = np.where(better, steps, best_step)
        waited = np.where(improved, 0, waited + 1)
        # A bound that is no longer finite does not recover: there is no use in waiting.
        impatient = ~done & ((waited >= config.patience) | ~np.isfinite(nats))
        last = config.reported_state == "last"
        back = impatient & (~np.isfinite(nats) if last else True)
        if back.any():
            state = stack.choose(back, best, state)
        waited = np.where(impatient, 0, waited)
        done = done | (impatient & (drops >= config.lr_drops)) | (nats >= enough)
        drops = drops + (impatient & ~done)
        batch_history.append(np.asarray(batch_nats))
        history.append(nats)
        if on_check is not None:
            on_check((number + 1) * config.check_every, num_chunks * config.check_every, report())
        if done.all():
            break
    return (state if config.reported_state == "last" else best), report()


def chunk_keys(keys: Array, number: int) -> tuple[Array, Array]:
    """Return the keys (folds,) of a chunk's batches and of its noise."""
    folded = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
    both = jax.vmap(jax.random.split)(folded)
    return both[:, 0], both[:, 1]
