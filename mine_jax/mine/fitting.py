"""Training until the validation samples show no improvement: patience, best state, rate drops."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mine_jax.compilation import on_host
from mine_jax.mine import checks, chunks, padding, stack, training
from mine_jax.mine.checks import Arrays
from mine_jax.mine.config import MineConfig
from mine_jax.mine.evaluation import largest_validation_nats, validation_nats
from mine_jax.mine.stack import Array, Data
from mine_jax.mine.training import MineState

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
      finite: no state, and no bound on the validation samples, was nan or infinite, likewise.
    """

    steps_at: np.ndarray
    batch_nats: np.ndarray
    validation_nats: np.ndarray
    best_step: np.ndarray
    steps: np.ndarray
    converged: np.ndarray
    finite: np.ndarray


OnCheck = Callable[[int, int, FitInfo], None]


@on_host
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
    best state and continues at a third of the learning rate; after `lr_drops` of those, or where
    its start is still the best, it has converged, as it has where the value is the largest that the
    validation samples can give. Each network decides for itself; the fit ends with the last one.
    With `reported_state="last"` it neither returns to the best state nor reports it.

    >>> import jax
    >>> config, key = MineConfig(hidden=8, max_steps=100), jax.random.key(0)
    >>> x, rows = jax.random.normal(key, (100, 1)), jax.numpy.arange(100)
    >>> state = init(key, x, x, config)
    >>> state, info = fit(key, state, x, x, rows[:60], rows[60:80], config)
    >>> bool(info.validation_nats[-1] > info.validation_nats[0])
    True

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
      RuntimeError: inside `jax.jit`, `vmap` or `grad`, or in a process that was forked after the
        first use of JAX.
      ValueError: if shapes do not fit, rows are out of range, or there are fewer than 2 of either
        kind.
    """
    key, data = checks.check_key(key, "fit"), checks.check_data(x, z)
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
    task = Task(
        data,
        np.asarray(train_rows)[None],
        np.asarray(validation_rows)[None],
        np.zeros(networks, np.int32),
        num_test,
        config,
    )
    progress = continue_fit(key[None], start_fit(state, task), task, on_check=on_check)
    best, info = chosen_state(progress, config), fit_info(progress, config)
    if not (isinstance(x, Mapping) or isinstance(z, Mapping)):
        info = FitInfo(info.steps_at, *(values[..., 0] for values in info[1:]))
    return best, info


class Progress(NamedTuple):
    """A fit of a stack that can go on, networks on the last axis of each array.

    Attributes:
      state: the networks in training.
      best: the best state of each on its validation samples.
      best_nats: its value.
      best_step: its number of steps.
      steps: number of steps so far.
      waited: checks since the last improvement or learning-rate drop.
      drops: number of learning-rate drops.
      done: networks that have converged.
      batch_nats: as in `FitInfo`, check by check.
      validation_nats: likewise.
    """

    state: MineState
    best: MineState
    best_nats: np.ndarray
    best_step: np.ndarray
    steps: np.ndarray
    waited: np.ndarray
    drops: np.ndarray
    done: np.ndarray
    batch_nats: tuple[np.ndarray, ...]
    validation_nats: tuple[np.ndarray, ...]


class Task(NamedTuple):
    """What the networks of a stack are fitted to.

    Attributes:
      data: samples of the stack.
      train_rows: (folds, m); they may end in padding, see `padding`.
      validation_rows: (folds, s), in random order; likewise.
      fold: the fold of each network, (networks,).
      num_test: number of samples that will test together.
      config: the configuration.
    """

    data: Data
    train_rows: np.ndarray
    validation_rows: np.ndarray
    fold: np.ndarray
    num_test: int
    config: MineConfig

    def validation_nats(self, state: MineState, active: np.ndarray) -> np.ndarray:
        """Evaluate the active networks on their validation samples."""
        rows, over = self.validation_rows[self.fold], self.train_rows[self.fold]
        return validation_nats(state, active, self.data, rows, over, self.num_test, self.config)


def start_fit(state: MineState, task: Task) -> Progress:
    """Evaluate where networks start, before the first step."""
    networks = len(task.fold)
    nats = task.validation_nats(state, np.ones(networks, bool))
    zeros = np.zeros(networks, np.int32)
    return Progress(
        state=state,
        best=state,
        best_nats=np.where(np.isfinite(nats), nats, -np.inf),
        best_step=zeros,
        steps=zeros,
        waited=zeros,
        drops=zeros,
        done=np.zeros(networks, bool),
        batch_nats=(np.full(networks, np.nan, np.float32),),
        validation_nats=(nats,),
    )


def continue_fit(
    keys: Array,
    progress: Progress,
    task: Task,
    until: int | None = None,
    active: np.ndarray | None = None,
    on_check: OnCheck | None = None,
) -> Progress:
    """Train networks until they have converged; a fit in parts is that of one piece.

    Args:
      keys: PRNG keys, (folds,).
      progress: from `start_fit`, or an earlier part.
      task: samples and configuration.
      until: number of steps to stop at; None for `max_steps`, which no part exceeds.
      active: networks to train, (networks,); None for all.
      on_check: as for `fit`; arrays of the report have the networks on their last axis.
    """
    config = task.config
    every = config.check_every
    limit = -(-config.max_steps // every)
    last_chunk = limit if until is None else min(limit, -(-until // every))
    paused = np.zeros(len(task.fold), bool) if active is None else ~active
    # From here on no gain could count.
    num_validation = int(padding.num_rows(task.validation_rows))
    enough = largest_validation_nats(task.data, num_validation, task.num_test, config)
    for number in range(len(progress.validation_nats) - 1, last_chunk):
        if (progress.done | paused).all():
            break
        progress = _one_chunk(keys, number, progress, paused, task, enough - config.min_improvement)
        if on_check is not None:
            on_check((number + 1) * every, limit * every, fit_info(progress, config))
    return progress


def _one_chunk(
    keys: Array, number: int, progress: Progress, paused: np.ndarray, task: Task, enough: float
) -> Progress:
    """Train the networks that are neither done nor paused, and check them."""
    config, data = task.config, task.data
    idle = progress.done | paused
    state, best = progress.state, progress.best
    rate = (config.learning_rate / LR_DROP**progress.drops).astype(np.float32)
    batches = chunks.draw_batches(keys, number, task.train_rows, config)
    state, batch_nats = chunks.train_chunk(
        state, ~idle, rate, keys, number, batches, task.fold, data, config
    )
    steps = progress.steps + np.where(idle, 0, config.check_every).astype(np.int32)
    nats = np.where(idle, progress.validation_nats[-1], task.validation_nats(state, ~idle))
    batch_nats = np.where(idle, np.nan, batch_nats)
    nats = np.where(idle | np.isfinite(batch_nats), nats, np.nan)
    better = ~idle & (nats > progress.best_nats)
    improved = ~idle & (nats > progress.best_nats + config.min_improvement)
    if better.any():
        best = stack.choose(better, state, best)
    waited = np.where(improved, 0, progress.waited + ~idle)
    # A bound that is no longer finite does not recover: there is no use in waiting.
    impatient = ~idle & ((waited >= config.patience) | ~np.isfinite(nats))
    last = config.reported_state == "last"
    back = impatient & (~np.isfinite(nats) if last else True)
    if back.any():
        state = stack.choose(back, best, state)
    best_step = np.where(better, steps, progress.best_step)
    # What does not improve on its start at one rate rarely does at a lower one, if it is finite.
    last_rate = (progress.drops >= config.lr_drops) | ((best_step == 0) & np.isfinite(nats))
    ended = (impatient & last_rate) | (~idle & (nats >= enough))
    done = progress.done | ended
    return Progress(
        state=state,
        best=best,
        best_nats=np.where(better, nats, progress.best_nats),
        best_step=best_step,
        steps=steps,
        waited=np.where(impatient, 0, waited),
        drops=progress.drops + (impatient & ~done),
        done=done,
        batch_nats=(*progress.batch_nats, batch_nats),
        validation_nats=(*progress.validation_nats, nats),
    )


def fit_info(progress: Progress, config: MineConfig) -> FitInfo:
    """Return the report of a fit."""
    validation_nats = np.stack(progress.validation_nats)
    return FitInfo(
        steps_at=np.arange(len(validation_nats)) * config.check_every,
        batch_nats=np.stack(progress.batch_nats),
        validation_nats=validation_nats,
        best_step=progress.best_step,
        steps=progress.steps,
        converged=progress.done,
        finite=np.isfinite(validation_nats).all(axis=0),
    )


def chosen_state(progress: Progress, config: MineConfig) -> MineState:
    """Return the state of each network that is reported."""
    return progress.state if config.reported_state == "last" else progress.best
