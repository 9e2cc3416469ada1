"""MINE: statistics networks that climb the Donsker–Varadhan bound, one or a stack of them.

A stack has a network for each pair of a name in `x` and a name in `z`. The first layers are as
wide as their own input and are multiplied one by one; everything behind them has the same shape
in all networks, is kept stacked and runs under `vmap`. All networks see the same samples in the
same pairings (common random numbers), so that their values can be compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mine_jax import bounds
from mine_jax.statistics_network import StatisticsNetwork

Array = jax.Array
Arrays = Array | Mapping[str, Array]
Pairs = tuple[tuple[str, str], ...]

_SINGLE = "_"  # the name of an array that came without one
_FIRST = ("x_first", "z_first")

_LEAST = {
    "hidden": 1,
    "depth": 1,
    "products": 0,
    "batch_size": 2,
    "pairings": 1,
    "check_every": 1,
    "patience": 1,
    "rate_falls": 0,
    "max_steps": 1,
    "folds": 2,
    "report_pairings": 1,
    "stop_pairings": 1,
}
_RANGES = {
    "learning_rate": (lambda value: 0 < value < np.inf, "positive"),
    "min_gain": (lambda value: 0 <= value < np.inf, "at least 0"),
    "partition_weight": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "average_decay": (lambda value: 0 <= value < 1, "in [0, 1)"),
}


@dataclass(frozen=True)
class MineConfig:
    """How statistics networks are built, trained, stopped and judged. Hashable.

    Attributes:
      hidden: width of the statistics network's hidden layers.
      depth: number of its hidden layers.
      products: number of its product features (see `StatisticsNetwork`).
      batch_size: samples a step; all training samples if there are fewer.
      pairings: permutations without fixed points a step, each giving batch_size marginal pairs.
      joint_in_marginal: count a batch's joint pairs among its marginal ones, as they are in the
        product of its empirical marginals (see `bounds.log_partition`). False is MINE as
        published, which memorises wide inputs.
      learning_rate: Adam's rate at the start.
      bias_corrected: use MINE's corrected gradient (Belghazi et al. 2018, eq. 12).
      partition_weight: share of a new batch in the moving average of that gradient's partition
        function.
      average_decay: decay, per step, of the running average of the weights. Values are those of
        the averaged network, whose scores do not jump from step to step.
      check_every: steps between two checks on the stopping samples.
      patience: checks without a gain after which the rate falls, or the fit ends.
      min_gain: what counts as a gain on the stopping samples, in nats.
      rate_falls: how often the rate falls, to a third each time, before the fit ends.
      max_steps: cap on the steps, rounded up to whole checks.
      folds: number of equal parts of the samples, one of which reports.
      cross_fit: every part reports in its turn, on networks that were trained without it.
      stop_fraction: share of the samples that decides when to stop.
      report_pairings: shifts over which the marginal pairs of a reported value are averaged.
      stop_pairings: likewise for the checks on the stopping samples.
    """

    hidden: int = 64
    depth: int = 2
    products: int = 32
    batch_size: int = 256
    pairings: int = 8
    joint_in_marginal: bool = True
    learning_rate: float = 3e-3
    bias_corrected: bool = False
    partition_weight: float = 0.01
    average_decay: float = 0.99
    check_every: int = 50
    patience: int = 4
    min_gain: float = 1e-3
    rate_falls: int = 1
    max_steps: int = 3000
    folds: int = 5
    cross_fit: bool = True
    stop_fraction: float = 0.1
    stop_pairings: int = 16
    report_pairings: int = 64

    def __post_init__(self) -> None:
        problems = []
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                problems.append(f"{name} must be an integer of at least {least}, got {value!r}")
        for name, (holds, wanted) in _RANGES.items():
            if not holds(getattr(self, name)):
                problems.append(f"{name} must be {wanted}, got {getattr(self, name)!r}")
        if not problems and not 0 < self.stop_fraction < 1 - 1 / self.folds:
            problems.append(
                f"stop_fraction must be in (0, 1 - 1/folds) = (0, {1 - 1 / self.folds:.3g}), got "
                f"{self.stop_fraction!r}: training needs samples too"
            )
        if not problems and self.pairings >= self.batch_size:
            problems.append(
                f"pairings must be below batch_size = {self.batch_size}, got {self.pairings}: "
                "a batch has no more shifts without fixed points"
            )
        if problems:
            raise ValueError("; ".join(problems))

    def network(self) -> StatisticsNetwork:
        """The statistics network that this configuration describes."""
        return StatisticsNetwork(self.hidden, self.depth, self.products)


class MineState(NamedTuple):
    """What training carries from step to step, and a warm start from round to round.

    Attributes:
      params: the networks' weights: `x_first` and `z_first`, a tuple with an entry for each
        network, and `trunk`, stacked over the networks.
      average: the running average of `params`, which is what is judged.
      opt_state: Adam's moments.
      log_partition: log of the moving average of mean exp T, a value for each network.
      steps: the number of steps so far, ().
    """

    params: Any
    average: Any
    opt_state: optax.OptState
    log_partition: Array
    steps: Array


class MineInfo(NamedTuple):
    """What a step reports; for a stack every entry has the networks on its axis.

    Attributes:
      bound: the batch's Donsker–Varadhan bound before the step, in nats.
      gradient_norm: norm of its gradient.
    """

    bound: Array
    gradient_norm: Array


class FitInfo(NamedTuple):
    """What a fit reports, as NumPy arrays.

    Axes: checks (the first one is before any step), then folds if the rows came with folds, then
    networks for a stack.

    Attributes:
      steps_at: number of steps at each check, (checks,).
      batch_nats: mean bound of the batches since the last check (nan at the first).
      stop_nats: bound on the stopping samples.
      chosen_step: the step at which the chosen state was reached, without the checks' axis.
      steps: the steps until the fit of each network had ended, without the checks' axis.
      converged: the stopping samples showed no more gain before `max_steps`, likewise.
      finite: no bound on the stopping samples was nan or infinite, likewise.
    """

    steps_at: np.ndarray
    batch_nats: np.ndarray
    stop_nats: np.ndarray
    chosen_step: np.ndarray
    steps: np.ndarray
    converged: np.ndarray
    finite: np.ndarray


def pairs_of(x: Arrays, z: Arrays) -> Pairs:
    """The (x name, z name) of each network of a stack, in the order of the networks.

    That is the sorted order of the names, whatever the mappings' own: `jit` sorts them too.
    """
    return tuple((a, b) for a in sorted(_named(x)) for b in sorted(_named(z)))


def init(key: Array, x: Arrays, z: Arrays, config: MineConfig) -> MineState:
    """Fresh networks for samples like these; only the widths of `x` and `z` matter.

    Args:
      key: a PRNG key.
      x: (n, features), or a mapping of names to such arrays.
      z: likewise. The stack has a network for each name in `x` with each name in `z`.
      config: the configuration.

    Returns:
      The state of the stack (of one network for arrays).

    Raises:
      ValueError: if an array is not of shape (n, features).
    """
    x, z = _named(x), _named(z)
    _check_shapes(x, z)
    network = config.network()

    def one(key: Array, a: str, b: str) -> dict:
        return network.init(key, jnp.zeros(x[a].shape[1:]), jnp.zeros(z[b].shape[1:]))["params"]

    pairs = pairs_of(x, z)
    params = [
        one(k, *pair) for k, pair in zip(jax.random.split(key, len(pairs)), pairs, strict=True)
    ]
    stack = _stack(params)
    return MineState(
        params=stack,
        average=stack,
        opt_state=_adam().init(stack),
        log_partition=jnp.zeros(len(pairs), jnp.float32),
        steps=jnp.zeros((), jnp.int32),
    )


def step(
    state: MineState, key: Array, x: Arrays, z: Arrays, config: MineConfig
) -> tuple[MineState, MineInfo]:
    """One ascent of the bound on one batch.

    Args:
      state: from `init` or an earlier step.
      key: a PRNG key, for the permutations without fixed points that give the marginal pairs.
      x: the batch, (b, features), or a mapping of names to such arrays.
      z: its partners, likewise.
      config: the configuration (static under `jit`).

    Returns:
      The next state, and the bound on this batch.

    Raises:
      ValueError: if the shapes do not fit one another or the state.
    """
    named_x, named_z = _named(x), _named(z)
    _check_shapes(named_x, named_z)
    _check_state(state, named_x, named_z)
    order = jax.random.permutation(key, _rows(named_x))
    shuffled_x = {name: value[order] for name, value in named_x.items()}
    shuffled_z = {name: value[order] for name, value in named_z.items()}
    pairs = pairs_of(x, z)
    rate = jnp.full(len(pairs), config.learning_rate)
    state, info = _update(state, shuffled_x, shuffled_z, rate, pairs, config)
    return state, info if _is_stack(x, z) else jax.tree.map(lambda leaf: leaf[0], info)


def evaluate(
    state: MineState, key: Array, x: Arrays, z: Arrays, config: MineConfig
) -> bounds.HeldOut:
    """The bound of the averaged networks on samples that they should not have seen.

    Args:
      state: the stack's state.
      key: a PRNG key, for the order in which samples are paired.
      x: (n, features), or a mapping of names to such arrays.
      z: likewise.
      config: the configuration.

    Returns:
      Value and standard error in nats, () each, or (networks,) for a stack; see
      `bounds.held_out`.

    Raises:
      ValueError: if the shapes do not fit, or n < 2.
    """
    named_x, named_z = _named(x), _named(z)
    _check_shapes(named_x, named_z)
    _check_state(state, named_x, named_z)
    rows = jax.random.permutation(key, _rows(named_x))
    value = _evaluate_rows(
        state, named_x, named_z, rows, config.report_pairings, pairs_of(x, z), config
    )
    return value if _is_stack(x, z) else jax.tree.map(lambda leaf: leaf[0], value)


def fit(
    state: MineState,
    key: Array,
    x: Arrays,
    z: Arrays,
    train_rows: Array,
    stop_rows: Array,
    config: MineConfig,
    on_progress: Callable[[int, int, FitInfo], None] | None = None,
) -> tuple[MineState, FitInfo]:
    """Train until the stopping samples show no more gain; return the state that they chose.

    Every `check_every` steps the bound of the averaged weights is taken on the stopping samples.
    A network that has not gained for `patience` checks goes back to its best state and goes on
    at a third of the rate; after `rate_falls` of those it has converged and stays as it is.
    Networks decide each for themselves; the fit ends with the last of them.

    Args:
      state: from `init`, or from an earlier fit (a warm start). With folds, all its leaves have a
        leading axis of folds.
      key: a PRNG key.
      x: all samples, (n, features), or a mapping of names to such arrays.
      z: likewise.
      train_rows: rows to train on, (m,), or (folds, m) to train a set of networks for each fold.
      stop_rows: rows that decide when to stop, (s,) or (folds, s), in random order.
      config: the configuration.
      on_progress: called after each check with the steps done, `max_steps` and the report so far.

    Returns:
      The chosen state of each network, and the report.

    Raises:
      ValueError: if shapes do not fit, or there are fewer than 2 rows of either kind.
    """
    pairs, stacked = pairs_of(x, z), _is_stack(x, z)
    x, z = _named(x), _named(z)
    _check_shapes(x, z)
    _check_state(state, x, z)
    folded = np.ndim(train_rows) == 2
    if (
        np.ndim(stop_rows) != np.ndim(train_rows)
        or min(np.shape(train_rows)[-1], np.shape(stop_rows)[-1]) < 2
    ):
        raise ValueError(
            "train_rows and stop_rows must be (m,) and (s,), or (folds, m) and (folds, s), with "
            f"at least 2 rows each; got {np.shape(train_rows)} and {np.shape(stop_rows)}"
        )
    if not folded:
        state = jax.tree.map(lambda leaf: leaf[None], state)
        train_rows, stop_rows = train_rows[None], stop_rows[None]
    rows = jnp.asarray(train_rows), jnp.asarray(stop_rows)
    shape = (rows[0].shape[0], len(pairs))

    progress = _start(state, x, z, rows[1], pairs, config)
    batch, stop = [np.full(shape, np.nan, np.float32)], [np.asarray(progress.best_nats)]
    chunks = -(-config.max_steps // config.check_every)

    def report() -> FitInfo:
        def shaped(values: Any) -> np.ndarray:
            values = np.asarray(values)
            values = values if stacked else values[..., 0]
            return values if folded else np.moveaxis(values, -2 if stacked else -1, 0)[0]

        return FitInfo(
            steps_at=np.arange(len(stop)) * config.check_every,
            batch_nats=shaped(batch),
            stop_nats=shaped(stop),
            chosen_step=shaped(progress.best_step),
            steps=shaped(progress.steps),
            converged=shaped(progress.done),
            finite=shaped(np.isfinite(stop).all(0)),
        )

    for chunk in range(chunks):
        progress, batch_nats, stop_nats = _chunk(
            progress, jax.random.fold_in(key, chunk), x, z, *rows, pairs=pairs, config=config
        )
        batch.append(np.asarray(batch_nats))
        stop.append(np.asarray(stop_nats))
        if on_progress is not None:
            on_progress((chunk + 1) * config.check_every, chunks * config.check_every, report())
        if bool(progress.done.all()):
            break
    best = progress.best if folded else jax.tree.map(lambda leaf: leaf[0], progress.best)
    return best, report()


@partial(jax.jit, static_argnames="config")
def evaluate_rows(
    state: MineState,
    x: Mapping[str, Array],
    z: Mapping[str, Array],
    rows: Array,
    config: MineConfig,
) -> bounds.HeldOut:
    """`evaluate` for a stack with folds, each on rows of its own that are in random order.

    Args:
      state: the stack's state with a leading axis of folds.
      x: all samples, a mapping of names to (n, features).
      z: likewise.
      rows: (folds, r).
      config: the configuration.

    Returns:
      Value and standard error, (folds, networks), and influence, (folds, networks, r).
    """
    pairs = pairs_of(x, z)
    return jax.vmap(lambda s, r: _evaluate_rows(s, x, z, r, config.report_pairings, pairs, config))(
        state, rows
    )


def select(state: MineState, network: int, *, folds: bool = False) -> MineState:
    """One network of a stack, as a stack of one.

    Args:
      state: the stack's state.
      network: its position in `pairs_of(x, z)`.
      folds: whether the leaves have a leading axis of folds.

    Returns:
      The state of that network, with the folds that the stack had.
    """
    axis = int(folds)

    def take(leaf: Array) -> Array:
        return jnp.take(leaf, jnp.array([network]), axis=axis)

    def one(stack: dict) -> dict:
        firsts = {side: (stack[side][network],) for side in _FIRST}
        return {**firsts, "trunk": jax.tree.map(take, stack["trunk"])}

    return MineState(
        params=one(state.params),
        average=one(state.average),
        opt_state=_map_stacks(one, lambda leaf: leaf, state.opt_state),
        log_partition=take(state.log_partition),
        steps=state.steps,
    )


def join(states: Sequence[MineState], *, folds: bool = False) -> MineState:
    """The inverse of `select`: stacks of one as one stack, in this order.

    The step counts become those of the network that has made the most steps.

    Args:
      states: states of stacks of one network.
      folds: whether the leaves have a leading axis of folds.

    Returns:
      The state of the stack.

    Raises:
      ValueError: if their networks differ in more than the widths of x and z.
    """
    axis = int(folds)
    shapes = [jax.tree.map(np.shape, state.params["trunk"]) for state in states]
    if any(other != shapes[0] for other in shapes):
        raise ValueError(f"states to join must be of one configuration, got trunks of {shapes}")

    def concatenated(*leaves: Array) -> Array:
        return jnp.concatenate(leaves, axis=axis)

    def all_of(*stacks: dict) -> dict:
        firsts = {side: sum((stack[side] for stack in stacks), ()) for side in _FIRST}
        trunks = [stack["trunk"] for stack in stacks]
        return {**firsts, "trunk": jax.tree.map(concatenated, *trunks)}

    def largest(*leaves: Array) -> Array:
        return reduce(jnp.maximum, leaves)

    first, *rest = states
    return MineState(
        params=all_of(*(state.params for state in states)),
        average=all_of(*(state.average for state in states)),
        opt_state=_map_stacks(
            all_of, largest, first.opt_state, *(state.opt_state for state in rest)
        ),
        log_partition=concatenated(*(state.log_partition for state in states)),
        steps=largest(*(state.steps for state in states)),
    )


class _Progress(NamedTuple):
    """A fit between two checks; leaves have the axes (folds, networks) in front."""

    state: MineState
    best: MineState
    best_nats: Array
    best_step: Array
    waited: Array
    falls: Array
    done: Array
    steps: Array


@partial(jax.jit, static_argnames=("pairs", "config"))
def _start(
    state: MineState, x: dict, z: dict, stop_rows: Array, pairs: Pairs, config: MineConfig
) -> _Progress:
    """The state before the first step, judged on the stopping samples."""
    judge = partial(
        _evaluate_rows, x=x, z=z, pairings=config.stop_pairings, pairs=pairs, config=config
    )
    nats = jax.vmap(lambda s, rows: judge(s, rows=rows).nats)(state, stop_rows)
    zeros = jnp.zeros(nats.shape, jnp.int32)
    return _Progress(
        state=state,
        best=state,
        best_nats=jnp.where(jnp.isfinite(nats), nats, -jnp.inf),
        best_step=zeros,
        waited=zeros,
        falls=zeros,
        done=jnp.zeros(nats.shape, bool),
        steps=zeros,
    )


@partial(jax.jit, static_argnames=("pairs", "config"))
def _chunk(
    progress: _Progress,
    key: Array,
    x: dict,
    z: dict,
    train_rows: Array,
    stop_rows: Array,
    pairs: Pairs,
    config: MineConfig,
) -> tuple[_Progress, Array, Array]:
    """`check_every` steps of all folds and networks, and a check on the stopping samples."""

    def one_fold(progress: _Progress, key: Array, train: Array, stop: Array) -> tuple:
        rate = config.learning_rate * 3.0 ** -progress.falls.astype(jnp.float32)
        rate = jnp.where(progress.done, 0.0, rate)

        def body(state: MineState, rows: Array) -> tuple[MineState, Array]:
            batch_x = {name: value[rows] for name, value in x.items()}
            batch_z = {name: value[rows] for name, value in z.items()}
            state, info = _update(state, batch_x, batch_z, rate, pairs, config)
            return state, info.bound

        batches = train[_batches(key, train.shape[0], config)]
        state, batch_nats = jax.lax.scan(body, progress.state, batches)
        nats = _evaluate_rows(state, x, z, stop, config.stop_pairings, pairs, config).nats
        # The running average of a network that has ended still moves; its value does not.
        nats = jnp.where(progress.done, progress.best_nats, nats)
        return _decide(progress, state, nats, config), jnp.mean(batch_nats, 0), nats

    keys = jax.random.split(key, train_rows.shape[0])
    return jax.vmap(one_fold)(progress, keys, train_rows, stop_rows)


def _decide(progress: _Progress, state: MineState, nats: Array, config: MineConfig) -> _Progress:
    """After a check of one fold: keep the best state, wait, lower the rate or end."""
    running = ~progress.done
    steps = progress.steps + jnp.where(running, config.check_every, 0)
    better = running & (nats > progress.best_nats)
    gained = running & (nats > progress.best_nats + config.min_gain)
    waited = jnp.where(gained, 0, progress.waited + 1)
    # A bound that is no longer finite never recovers by itself: do not wait.
    tired = running & ((waited >= config.patience) | ~jnp.isfinite(nats))
    best = _where(better, state, progress.best)
    return _Progress(
        state=_where(tired, best, state),
        best=best,
        best_nats=jnp.where(better, nats, progress.best_nats),
        best_step=jnp.where(better, steps, progress.best_step),
        waited=jnp.where(tired, 0, waited),
        falls=progress.falls + (tired & (progress.falls < config.rate_falls)),
        done=progress.done | (tired & (progress.falls >= config.rate_falls)),
        steps=steps,
    )


def _batches(key: Array, n: int, config: MineConfig) -> Array:
    """Positions of `check_every` batches, (check_every, b): passes over all n in random order."""
    size = min(config.batch_size, n)
    a_pass = n // size
    passes = -(-config.check_every // a_pass)
    orders = jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key, passes))
    return orders[:, : a_pass * size].reshape(-1, size)[: config.check_every]


def _update(
    state: MineState, x: dict, z: dict, rate: Array, pairs: Pairs, config: MineConfig
) -> tuple[MineState, MineInfo]:
    """One step of a stack on a batch in random order; `rate` is (networks,)."""
    shifts = tuple(range(1, min(config.pairings, _rows(x) - 1) + 1))

    def loss(params: dict) -> tuple[Array, tuple[Array, Array]]:
        joint, pairings = _scores(params, x, z, shifts, pairs, config)
        partition = bounds.log_partition if config.joint_in_marginal else _plain_partition
        batch = jax.vmap(partition)(joint, pairings)
        bound = jnp.mean(joint, axis=1) - batch
        average = jax.vmap(
            partial(
                bounds.update_log_partition,
                weight=config.partition_weight,
                first=state.steps == 0,
            )
        )(state.log_partition, batch)
        objective = bound
        if config.bias_corrected:
            objective = jax.vmap(bounds.bias_corrected)(joint, batch, average)
        return -jnp.sum(objective), (bound, average)

    gradient, (bound, log_partition) = jax.grad(loss, has_aux=True)(state.params)
    norm = jnp.sqrt(_square_norms(gradient))
    direction, opt_state = _adam().update(gradient, state.opt_state)
    params = _map_networks(
        lambda rate, old, change: old - rate * change, rate, state.params, direction
    )
    average = jax.tree.map(
        lambda old, new: new + config.average_decay * (old - new), state.average, params
    )
    state = MineState(params, average, opt_state, log_partition, state.steps + 1)
    return state, MineInfo(bound, norm)


def _plain_partition(t_joint: Array, t_pairings: Array) -> Array:
    del t_joint
    return bounds.log_mean_exp(t_pairings)


def _scores(
    params: dict, x: dict, z: dict, shifts: tuple[int, ...], pairs: Pairs, config: MineConfig
) -> tuple[Array, Array]:
    """T on the joint, (networks, b), and on shifted partners, (networks, shifts, b)."""
    network = config.network()
    x_codes, z_codes = _encode(params, x, z, pairs, config)

    def paired(trunk: dict, x_code: Array, z_code: Array) -> Array:
        return network.apply({"params": trunk}, x_code, z_code, method="score")

    # One matrix product a pairing: on a CPU faster than one over a stacked copy of all pairings.
    scores = [
        jax.vmap(paired)(params["trunk"], x_codes, jnp.roll(z_codes, -shift, axis=1))
        for shift in (0, *shifts)
    ]
    return scores[0], jnp.stack(scores[1:], axis=1)


def _encode(
    params: dict, x: dict, z: dict, pairs: Pairs, config: MineConfig
) -> tuple[Array, Array]:
    """The first layers of every network on its own inputs, (networks, b, width) each."""

    def encode(side: str, inputs: list[Array]) -> Array:
        method = f"encode_{side}"
        return jnp.stack(
            [
                config.network().apply({"params": {f"{side}_first": first}}, value, method=method)
                for first, value in zip(params[f"{side}_first"], inputs, strict=True)
            ]
        )

    return encode("x", [x[a] for a, _ in pairs]), encode("z", [z[b] for _, b in pairs])


@partial(jax.jit, static_argnames=("pairings", "pairs", "config"))
def _evaluate_rows(
    state: MineState,
    x: dict,
    z: dict,
    rows: Array,
    pairings: int,
    pairs: Pairs,
    config: MineConfig,
) -> bounds.HeldOut:
    """`bounds.held_out` of the averaged networks on these rows, which are in random order."""
    n = rows.shape[0]
    shifts = jnp.asarray(_spread(n, pairings))
    x = {name: value[rows] for name, value in x.items()}
    z = {name: value[rows] for name, value in z.items()}
    x_codes, z_codes = _encode(state.average, x, z, pairs, config)

    def shifted(shift: Array) -> Array:
        partners = jnp.roll(z_codes, -shift, axis=1)
        return jax.vmap(
            lambda trunk, a, b: config.network().apply({"params": trunk}, a, b, method="score")
        )(state.average["trunk"], x_codes, partners)

    # One pairing at a time: all at once would need pairings × networks × n × hidden numbers.
    scores = jax.lax.map(shifted, jnp.concatenate([jnp.zeros(1, shifts.dtype), shifts]))
    return jax.vmap(bounds.held_out, in_axes=(0, 1, None))(scores[0], scores[1:], shifts)


def _spread(n: int, pairings: int) -> np.ndarray:
    """At most `pairings` different shifts, spread evenly over 1 … n − 1."""
    return np.unique(np.linspace(1, n - 1, min(pairings, n - 1)).round().astype(np.int32))


def _adam() -> optax.GradientTransformation:
    """Adam without its rate, which each network has for itself."""
    return optax.scale_by_adam()


def _stack(params: list[dict]) -> dict:
    """Networks' parameters as one pytree: ragged first layers, stacked trunk."""
    trunks = [{name: value for name, value in p.items() if name not in _FIRST} for p in params]
    firsts = {side: tuple(p[side] for p in params) for side in _FIRST}
    return {**firsts, "trunk": jax.tree.map(lambda *leaves: jnp.stack(leaves), *trunks)}


def _map_stacks(on_stack: Callable, on_leaf: Callable, *trees: Any) -> Any:
    """Apply one function to the parameter stacks within the trees, another to other leaves."""

    def is_stack(node: Any) -> bool:
        return isinstance(node, dict) and "trunk" in node

    def either(*nodes: Any) -> Any:
        return on_stack(*nodes) if is_stack(nodes[0]) else on_leaf(*nodes)

    return jax.tree.map(either, *trees, is_leaf=is_stack)


def _map_networks(function: Callable, values: Array, *stacks: dict) -> dict:
    """function(value of its network, *leaves) for all weights; `values` is (networks,)."""

    def on_first(side: str) -> tuple:
        networks = enumerate(zip(*(stack[side] for stack in stacks), strict=True))
        return tuple(jax.tree.map(partial(function, values[i]), *trees) for i, trees in networks)

    def on_trunk(*leaves: Array) -> Array:
        return function(values.reshape(-1, *[1] * (leaves[0].ndim - 1)), *leaves)

    trunks = [stack["trunk"] for stack in stacks]
    return {**{side: on_first(side) for side in _FIRST}, "trunk": jax.tree.map(on_trunk, *trunks)}


def _square_norms(stack: dict) -> Array:
    """Each network's squared norm, (networks,)."""
    firsts = [
        sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(trees))
        for trees in zip(*(stack[side] for side in _FIRST), strict=True)
    ]
    trunk = [
        jnp.sum(jnp.square(leaf), axis=tuple(range(1, leaf.ndim)))
        for leaf in jax.tree.leaves(stack["trunk"])
    ]
    return jnp.stack(firsts) + sum(trunk)


def _where(chosen: Array, new: MineState, old: MineState) -> MineState:
    """The new state of the chosen networks, (networks,), the old one of the others."""
    choose = partial(_map_networks, jnp.where, chosen)
    return MineState(
        params=choose(new.params, old.params),
        average=choose(new.average, old.average),
        opt_state=_map_stacks(choose, jnp.maximum, new.opt_state, old.opt_state),
        log_partition=jnp.where(chosen, new.log_partition, old.log_partition),
        steps=jnp.maximum(new.steps, old.steps),
    )


def _named(arrays: Arrays) -> dict[str, Array]:
    return dict(arrays) if isinstance(arrays, Mapping) else {_SINGLE: arrays}


def _is_stack(x: Arrays, z: Arrays) -> bool:
    return isinstance(x, Mapping) or isinstance(z, Mapping)


def _rows(named: dict[str, Array]) -> int:
    return next(iter(named.values())).shape[0]


def _check_shapes(x: dict[str, Array], z: dict[str, Array]) -> None:
    shapes = [np.shape(value) for value in (*x.values(), *z.values())]
    rows = {shape[0] for shape in shapes if shape}
    if any(len(shape) != 2 for shape in shapes) or len(rows) != 1 or min(rows) < 2:
        raise ValueError(
            "x and z must be (n, features) with the same n >= 2 (lower_bound takes other shapes "
            f"and labels); got {shapes}"
        )


def _check_state(state: MineState, x: dict[str, Array], z: dict[str, Array]) -> None:
    got = [tuple(first["kernel"].shape[-2] for first in state.params[side]) for side in _FIRST]
    pairs = pairs_of(x, z)
    wanted = [tuple(x[a].shape[1] for a, _ in pairs), tuple(z[b].shape[1] for _, b in pairs)]
    if got != wanted:
        raise ValueError(
            f"the state's networks take {got[0]} columns of x and {got[1]} of z, but these samples "
            f"have {wanted[0]} and {wanted[1]}; init a state for samples like these"
        )
