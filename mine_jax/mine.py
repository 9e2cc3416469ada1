"""MINE: statistics networks that climb a bound on the mutual information, one or a stack of them.

A stack has a network for each pair of a name in `x` and a name in `z`. The first layers are as
wide as their own input and are multiplied one by one; everything behind them has the same shape
in all networks, is kept stacked and runs under `vmap`. All networks see the same samples in the
same pairings (common random numbers), so that their values can be compared.

Labels are arrays of dtype uint8, (n, classes), one-hot, on the side of z, for all networks of a
stack or for none; their marginal is summed exactly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from mine_jax import bounds, devices
from mine_jax.compilation import jit
from mine_jax.statistics_network import KINDS, StatisticsNetwork, Wrapped

Array = jax.Array
Arrays = Array | Mapping[str, Array]
Pairs = tuple[tuple[str, str], ...]
Inputs = tuple[Array, ...]
NoiseLevels = tuple[Mapping[str, ArrayLike], Mapping[str, ArrayLike]]

NETWORKS = ("auto", "convolutional", *KINDS)
REPORTED = ("donsker_varadhan", "infonce")  # forms of a held-out value, see `bounds.held_out`

_SINGLE = "_"  # the name of an array that came without one
_FIRST = ("x_first", "z_first")
_FROZEN = ("maps", "mean", "gaussian")  # set in closed form, not trained
CEILING_MARGIN = 1.0  # nats below ln n from which single pairs decide about the value
_LIMIT = 8.0  # standard deviations at which canonical projections are cut off
_BLOCK = 256  # rows whose scores with all others are held at once

_LEAST = {
    "hidden": 1,
    "depth": 1,
    "features": 1,
    "canonical": 0,
    "batch_size": 2,
    "pairings": 1,
    "check_every": 1,
    "patience": 1,
    "rate_falls": 0,
    "max_steps": 1,
    "folds": 2,
    "stop_pairings": 1,
}
_RANGES = {
    "learning_rate": (lambda value: 0 < value < np.inf, "positive"),
    "weight_decay": (lambda value: 0 <= value < np.inf, "at least 0"),
    "min_gain": (lambda value: 0 <= value < np.inf, "at least 0"),
    "partition_weight": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "average_decay": (lambda value: 0 <= value < 1, "in [0, 1)"),
}


@dataclass(frozen=True)
class MineConfig:
    """How statistics networks are built, trained, stopped and judged. Hashable.

    Attributes:
      network: "separable", "flat" or "convolutional"; "auto" to choose by the shapes of the data
        (`estimator.choose_network`); or a Flax module of your own, `module(x, z) -> (n,)`.
      bound: what is ascended, one of `bounds.BOUNDS`.
      hidden: width of the hidden layers. The flat network, which has to make a pass for every
        pair, has half of it.
      depth: number of hidden layers.
      features: length of a separable network's feature vectors.
      canonical: most projections of the Gaussian part; 0 for none.
      squares: give the first layers the squares of the columns, too.
      gaussian_start: set the Gaussian part in closed form from the training samples.
      batch_size: samples a step; all training samples if there are fewer.
      pairings: marginal pairs a sample and step, for networks that are not separable; a separable
        one takes all pairs of the batch.
      learning_rate: Adam's rate at the start.
      weight_decay: of the weights, for each step and unit of the rate.
      partition_weight: share of a new batch in the moving average of the partition function, for
        `bound="mine"`.
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
      stop_pairings: marginal pairs for each stopping sample, for networks that are not separable.
    """

    network: str | nn.Module = "auto"
    bound: str = "infonce"
    hidden: int = 128
    depth: int = 2
    features: int = 32
    canonical: int = 128
    squares: bool = True
    gaussian_start: bool = True
    batch_size: int = 256
    pairings: int = 4
    learning_rate: float = 4e-3
    weight_decay: float = 0.5
    partition_weight: float = 0.01
    average_decay: float = 0.99
    check_every: int = 50
    patience: int = 4
    min_gain: float = 1e-3
    rate_falls: int = 1
    max_steps: int = 2000
    folds: int = 5
    cross_fit: bool = True
    stop_fraction: float = 0.1
    stop_pairings: int = 64

    def __post_init__(self) -> None:
        problems = []
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                problems.append(f"{name} must be an integer of at least {least}, got {value!r}")
        for name, (holds, wanted) in _RANGES.items():
            if not holds(getattr(self, name)):
                problems.append(f"{name} must be {wanted}, got {getattr(self, name)!r}")
        if self.bound not in bounds.BOUNDS:
            problems.append(f"bound must be one of {bounds.BOUNDS}, got {self.bound!r}")
        if not isinstance(self.network, nn.Module) and self.network not in NETWORKS:
            problems.append(
                f"network must be one of {NETWORKS} or a Flax module, got {self.network!r}"
            )
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

    @property
    def separable(self) -> bool:
        """Whether all pairs of a batch cost one matrix product."""
        return not isinstance(self.network, nn.Module) and self.network != "flat"

    def module(self, canonical: int, limit: float = np.inf) -> nn.Module:
        """The statistics network that this configuration describes.

        Args:
          canonical: the number of projections of its Gaussian part.
          limit: what they are cut off at.
        """
        if isinstance(self.network, nn.Module):
            return Wrapped(self.network)
        kind = "separable" if self.separable else "flat"
        hidden = self.hidden if self.separable else max(1, self.hidden // 2)
        return StatisticsNetwork(
            kind, hidden, self.depth, self.features, canonical, limit, self.squares
        )


class MineState(NamedTuple):
    """What training carries from step to step, and a warm start from round to round.

    Attributes:
      params: the networks' weights: `x_first` and `z_first`, a tuple with an entry for each
        network, and `trunk`, stacked over the networks.
      average: the running average of `params`, which is what is judged.
      opt_state: Adam's moments.
      log_partition: log of the moving average of mean exp T, a value for each network; kept up to
        date for `bound="mine"` only.
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
      bound: the batch's value of what is ascended, before the step, in nats.
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
      stop_nats: bound on the stopping samples (see `fit`).
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


# Of `MineConfig`: what makes a "flat" network MINE as published (Belghazi et al. 2018), but for its
# sizes, rate and weight decay.
AS_PUBLISHED: Mapping[str, Any] = MappingProxyType(
    {
        "bound": "donsker_varadhan",
        "canonical": 0,
        "squares": False,
        "gaussian_start": False,
        "pairings": 1,
        "average_decay": 0.0,
    }
)


def pairs_of(x: Arrays, z: Arrays) -> Pairs:
    """The (x name, z name) of each network of a stack, in the order of the networks.

    That is the sorted order of the names, whatever the mappings' own: `jit` sorts them too.
    """
    return tuple((a, b) for a in sorted(_named(x)) for b in sorted(_named(z)))


def init(
    key: Array, x: Arrays, z: Arrays, config: MineConfig, pairs: Pairs | None = None
) -> MineState:
    """Fresh networks for samples like these; only the widths of `x` and `z` matter.

    Args:
      key: a PRNG key.
      x: (n, features) or (n, h, w, c), or a mapping of names to such arrays.
      z: likewise. The stack has a network for each name in `x` with each name in `z`.
      config: the configuration.
      pairs: the (x name, z name) of the networks instead of all combinations.

    Returns:
      The state of the stack (of one network for arrays).

    Raises:
      ValueError: if an array has another shape.
    """
    pairs = pairs or pairs_of(x, z)
    x, z = _named(x), _named(z)
    _check_shapes(x, z, pairs)
    module = _module(canonical_width(x, z, pairs, config), z, pairs, config)

    keys = jax.random.split(key, len(pairs))

    def drawn(keys: Array, method: str, *samples: Array) -> tuple[Any, dict]:
        """Outputs and parameters of networks of one shape, stacked: one draw to compile."""
        make = partial(module.init_with_output, method=method)
        outputs, variables = jax.vmap(lambda key: make(key, *samples))(keys)
        return outputs, variables.get("params", {})

    def first(side: str, inputs: list[Array]) -> tuple[Array, tuple]:
        codes, made = None, [{}] * len(inputs)
        for shape in dict.fromkeys(value.shape[1:] for value in inputs):
            same = [i for i, value in enumerate(inputs) if value.shape[1:] == shape]
            sample = jnp.zeros((1, *shape), jnp.float32)
            codes, params = drawn(keys[np.array(same)], f"encode_{side}", sample)
            for place, i in enumerate(same):
                own = params.get(f"{side}_first", {})
                made[i] = jax.tree.map(lambda leaf, place=place: leaf[place], own)
        return codes[0], tuple(made)

    x_code, x_first = first("x", [x[a] for a, _ in pairs])
    z_code, z_first = first("z", [z[b] for _, b in pairs])
    _, trunk = drawn(keys, "score", x_code, z_code)
    stack = {"x_first": x_first, "z_first": z_first, "trunk": trunk}
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
      key: a PRNG key, for the order in which samples are paired.
      x: the batch, (b, features), or a mapping of names to such arrays.
      z: its partners, likewise.
      config: the configuration (static under `jit`).

    Returns:
      The next state, and the bound on this batch.

    Raises:
      ValueError: if the shapes do not fit one another or the state.
    """
    named_x, named_z = _named(x), _named(z)
    pairs = pairs_of(x, z)
    _check_shapes(named_x, named_z, pairs)
    _check_state(state, named_x, named_z, pairs)
    order = jax.random.permutation(key, _rows(named_x))
    shuffled_x = {name: value[order] for name, value in named_x.items()}
    shuffled_z = {name: value[order] for name, value in named_z.items()}
    rate = jnp.full(len(pairs), config.learning_rate)
    weights = _class_weights(named_z, pairs)
    state, info = _update(state, shuffled_x, shuffled_z, weights, rate, pairs, config)
    return state, info if _is_stack(x, z) else jax.tree.map(lambda leaf: leaf[0], info)


def evaluate(
    state: MineState,
    key: Array,
    x: Arrays,
    z: Arrays,
    config: MineConfig,
    form: str = "donsker_varadhan",
) -> bounds.HeldOut:
    """The bound of the averaged networks on samples that they should not have seen.

    Args:
      state: the stack's state.
      key: a PRNG key, for the order in which samples are paired.
      x: (n, features), or a mapping of names to such arrays.
      z: likewise.
      config: the configuration.
      form: "donsker_varadhan" or "infonce", see `bounds.held_out`; with `bound="nwj"` the value
        is NWJ's whatever this says.

    Returns:
      Value and standard error in nats, () each, or (networks,) for a stack.

    Raises:
      ValueError: if the shapes do not fit, n < 2, or the form is unknown.
    """
    if form not in REPORTED:
        raise ValueError(f"form must be one of {REPORTED}, got {form!r}")
    named_x, named_z = _named(x), _named(z)
    pairs = pairs_of(x, z)
    _check_shapes(named_x, named_z, pairs)
    _check_state(state, named_x, named_z, pairs)
    rows = jax.random.permutation(key, _rows(named_x))
    values = _evaluate_rows(state, named_x, named_z, rows, None, pairs, config)
    value = values[REPORTED.index(form)]
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
    pairs: Pairs | None = None,
    noise: NoiseLevels | None = None,
    reporting: int | None = None,
) -> tuple[MineState, FitInfo]:
    """Train until the stopping samples show no more gain; return the state that they chose.

    Every `check_every` steps the averaged weights are judged on the stopping samples: by the
    larger of its Donsker–Varadhan and its InfoNCE form, the former at most a nat below ln of the
    number of reporting samples, where it comes to hang on single pairs.
    A network that has not gained for `patience` checks goes back to its best state and goes on
    at a third of the rate; after `rate_falls` of those it has converged and stays as it is.
    Networks decide each for themselves; the fit ends with the last of them.

    Args:
      state: from `init`, or from an earlier fit (a warm start). With folds, all its leaves have a
        leading axis of folds.
      key: a PRNG key; with folds, (folds,) keys do too.
      x: all samples, (n, features), or a mapping of names to such arrays.
      z: likewise.
      train_rows: rows to train on, (m,), or (folds, m) to train a set of networks for each fold.
      stop_rows: rows that decide when to stop, (s,) or (folds, s), in random order.
      config: the configuration.
      on_progress: called after each check with the steps done, `max_steps` and the report so far.
      pairs: the (x name, z name) of the networks; default: all combinations.
      noise: standard deviations of Gaussian noise that is added afresh to each training batch, by
        name in x and by name in z; then `train_rows` are rows without that noise.
      reporting: how many samples will report together; the Donsker–Varadhan form is trusted up to
        a nat below the logarithm of that. Default: those that neither train nor stop, of all in
        equal folds.

    Returns:
      The chosen state of each network, and the report.

    Raises:
      ValueError: if shapes do not fit, or there are fewer than 2 rows of either kind.
    """
    pairs, stacked = pairs or pairs_of(x, z), _is_stack(x, z)
    x, z = _named(x), _named(z)
    _check_shapes(x, z, pairs)
    _check_state(state, x, z, pairs)
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
    keys = key if jnp.ndim(key) else jax.random.split(key, len(train_rows)) if folded else key[None]
    rows = np.asarray(train_rows), np.asarray(stop_rows)
    best, info = _fit(
        state, keys, *rows, x, z, config, on_progress, pairs, noise or ({}, {}), reporting
    )

    def shaped(values: np.ndarray) -> np.ndarray:
        values = values if stacked else values[..., 0]
        return values if folded else np.moveaxis(values, -2 if stacked else -1, 0)[0]

    info = FitInfo(info.steps_at, *(shaped(values) for values in info[1:]))
    return best if folded else jax.tree.map(lambda leaf: leaf[0], best), info


def _fit(
    state: MineState,
    keys: Array,
    train_rows: np.ndarray,
    stop_rows: np.ndarray,
    x: Mapping[str, Array],
    z: Mapping[str, Array],
    config: MineConfig,
    on_progress: Callable[[int, int, FitInfo], None] | None,
    pairs: Pairs,
    noise: NoiseLevels,
    reporting: int | None,
) -> tuple[MineState, FitInfo]:
    """The loop of `fit`: folds in front of all that has folds."""
    shape = (len(keys), len(pairs))
    reporting = reporting or (train_rows.shape[1] + stop_rows.shape[1]) // (config.folds - 1)
    generators = [np.random.default_rng(np.asarray(jax.random.key_data(key))) for key in keys]
    stop_rows = jnp.asarray(stop_rows)
    nats = np.asarray(judge(state, x, z, stop_rows, reporting, pairs, config))
    best, batch, stop = state, [np.full(shape, np.nan, np.float32)], [nats]
    best_nats = np.where(np.isfinite(nats), nats, -np.inf)
    best_step, waited, falls, steps = (np.zeros(shape, np.int32) for _ in range(4))
    done = np.zeros(shape, bool)
    chunks = -(-config.max_steps // config.check_every)

    def report() -> FitInfo:
        return FitInfo(
            steps_at=np.arange(len(stop)) * config.check_every,
            batch_nats=np.stack(batch),
            stop_nats=np.stack(stop),
            chosen_step=best_step,
            steps=steps,
            converged=done,
            finite=np.isfinite(stop).all(0),
        )

    for chunk in range(chunks):
        rate = np.where(done, 0, config.learning_rate / 3.0**falls).astype(np.float32)
        batches = np.stack(
            [_batches(*fold, config) for fold in zip(generators, train_rows, strict=True)]
        )
        noise_keys = jax.vmap(lambda key, chunk=chunk: jax.random.fold_in(key, chunk))(keys)
        state, batch_nats = train_chunk(
            state, rate, batches, noise_keys, noise, x, z, pairs, config
        )
        nats = np.asarray(judge(state, x, z, stop_rows, reporting, pairs, config))
        # The running average of a network that has ended still moves; its value does not.
        nats = np.where(done, best_nats, nats)
        steps = steps + np.where(done, 0, config.check_every).astype(np.int32)
        better = ~done & (nats > best_nats)
        gained = ~done & (nats > best_nats + config.min_gain)
        waited = np.where(gained, 0, waited + 1)
        # A bound that is no longer finite never recovers by itself: do not wait.
        tired = ~done & ((waited >= config.patience) | ~np.isfinite(nats))
        if better.any():
            best = choose(better, state, best)
        if tired.any():
            state = choose(tired, best, state)
        best_nats = np.where(better, nats, best_nats)
        best_step = np.where(better, steps, best_step)
        waited = np.where(tired, 0, waited)
        done = done | (tired & (falls >= config.rate_falls))
        falls = falls + (tired & (falls < config.rate_falls))
        batch.append(np.asarray(batch_nats))
        stop.append(nats)
        if on_progress is not None:
            on_progress((chunk + 1) * config.check_every, chunks * config.check_every, report())
        if done.all():
            break
    return best, report()


@jit(static_argnames=("pairings", "pairs", "config"))
def evaluate_rows(
    state: MineState,
    x: Mapping[str, Array],
    z: Mapping[str, Array],
    rows: Array,
    pairs: Pairs,
    config: MineConfig,
    pairings: int | None = None,
) -> tuple[bounds.HeldOut, bounds.HeldOut]:
    """`evaluate` for a stack with folds, each on rows of its own that are in random order.

    Args:
      state: the stack's state with a leading axis of folds.
      x: all samples, a mapping of names to (n, features).
      z: likewise.
      rows: (folds, r).
      pairs: the (x name, z name) of the networks.
      config: the configuration.
      pairings: how many others each sample is paired with; default: all.

    Returns:
      In the two forms of `REPORTED`: value and standard error, (folds, networks), and influence,
      (folds, networks, r).
    """
    # One fold at a time: a block of scores for each would need their memory all at once.
    return jax.lax.map(
        lambda fold: _evaluate_rows(fold[0], x, z, fold[1], pairings, pairs, config), (state, rows)
    )


@jit(static_argnames=("pairings", "pairs", "config"))
def values(
    state: MineState,
    x: Mapping[str, Array],
    z: Mapping[str, Array],
    rows: Array,
    pairs: Pairs,
    config: MineConfig,
    pairings: int | None = None,
) -> tuple[Array, Array]:
    """`evaluate_rows` without errors, which takes a third of its time; arguments are the same.

    Returns:
      The values, (folds, networks), in the two forms of `REPORTED`.
    """

    def one(fold: tuple[MineState, Array]) -> tuple[Array, Array]:
        state, rows = fold
        forms = _held_out(state, x, z, rows, pairings, pairs, config, errors=False)
        return tuple(form.nats for form in forms)

    return jax.lax.map(one, (state, rows))


def judge(
    state: MineState,
    x: dict,
    z: dict,
    rows: Array,
    reporting: int,
    pairs: Pairs,
    config: MineConfig,
) -> Array:
    """The stopping criterion (see `fit`) on rows (folds, s): (folds, networks)."""
    pairings = None if config.separable else config.stop_pairings
    forms = values(state, x, z, rows, pairs, config, pairings)
    donsker_varadhan, infonce = map(np.asarray, forms)
    # What is not trusted counts as the most that is: states just below would be favoured otherwise.
    most = np.log(reporting) - CEILING_MARGIN
    counted = np.where(np.isfinite(donsker_varadhan), np.minimum(donsker_varadhan, most), -np.inf)
    return np.where(np.isfinite(infonce), np.maximum(counted, infonce), infonce)


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

    def take(leaf: Array) -> np.ndarray:  # by NumPy: nothing to compile for every shape
        return np.take(np.asarray(leaf), [network], axis=axis)

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

    def concatenated(*leaves: Array) -> np.ndarray:
        return np.concatenate([np.asarray(leaf) for leaf in leaves], axis=axis)

    def all_of(*stacks: dict) -> dict:
        firsts = {side: sum((stack[side] for stack in stacks), ()) for side in _FIRST}
        trunks = [stack["trunk"] for stack in stacks]
        return {**firsts, "trunk": jax.tree.map(concatenated, *trunks)}

    def largest(*leaves: Array) -> np.ndarray:
        return np.max([np.asarray(leaf) for leaf in leaves], axis=0)

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


@jit(static_argnames=("pairs", "config"))
def train_chunk(
    state: MineState,
    rate: Array,
    batches: Array,
    keys: Array,
    noise: NoiseLevels,
    x: dict,
    z: dict,
    pairs: Pairs,
    config: MineConfig,
) -> tuple[MineState, Array]:
    """A step for each of `batches` (folds, steps, b) at the rates (folds, networks)."""
    weights = _class_weights(z, pairs)

    def one_fold(
        state: MineState, rate: Array, batches: Array, key: Array
    ) -> tuple[MineState, Array]:
        def body(state: MineState, rows: Array) -> tuple[MineState, Array]:
            x_key, z_key = jax.random.split(jax.random.fold_in(key, state.steps))
            rows = devices.spread(rows)
            batch_x = _noisy(x_key, {name: value[rows] for name, value in x.items()}, noise[0])
            batch_z = _noisy(z_key, {name: value[rows] for name, value in z.items()}, noise[1])
            batch_x, batch_z = devices.spread((batch_x, batch_z))
            state, info = _update(state, batch_x, batch_z, weights, rate, pairs, config)
            return state, info.bound

        state, batch_nats = jax.lax.scan(body, state, batches)
        return state, jnp.mean(batch_nats, 0)

    return jax.vmap(one_fold)(state, rate, batches, keys)


def _noisy(key: Array, batch: dict[str, Array], levels: Mapping[str, ArrayLike]) -> dict:
    """The batch with noise of these standard deviations.

    One key for all arrays: a network's noise is the same whatever it shares a stack with.
    """
    return {
        name: value + levels[name] * jax.random.normal(key, value.shape)
        if name in levels
        else value
        for name, value in batch.items()
    }


def choose(chosen: ArrayLike, new: MineState, old: MineState) -> MineState:
    """The new state of the chosen networks, (folds, networks), the old one of the others.

    By NumPy: the states are small, and nothing has to be compiled for every shape.
    """
    chosen = np.asarray(chosen)

    def either(networks: np.ndarray, new: ArrayLike, old: ArrayLike) -> np.ndarray:
        new, old = np.asarray(new), np.asarray(old)
        return np.where(networks.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    def stacks(new: dict, old: dict) -> dict:
        firsts = {
            side: tuple(
                jax.tree.map(partial(either, chosen[:, i]), *trees)
                for i, trees in enumerate(zip(new[side], old[side], strict=True))
            )
            for side in _FIRST
        }

        def trunk(new: ArrayLike, old: ArrayLike) -> np.ndarray:
            new, old = np.asarray(new), np.asarray(old)
            return np.where(chosen.reshape(*chosen.shape, *[1] * (new.ndim - 2)), new, old)

        return {**firsts, "trunk": jax.tree.map(trunk, new["trunk"], old["trunk"])}

    def largest(new: ArrayLike, old: ArrayLike) -> np.ndarray:
        return np.maximum(np.asarray(new), np.asarray(old))

    return MineState(
        params=stacks(new.params, old.params),
        average=stacks(new.average, old.average),
        opt_state=_map_stacks(stacks, largest, new.opt_state, old.opt_state),
        log_partition=np.where(chosen, new.log_partition, old.log_partition),
        steps=largest(new.steps, old.steps),
    )


def _batches(generator: np.random.Generator, rows: np.ndarray, config: MineConfig) -> np.ndarray:
    """Rows of `check_every` batches, (check_every, b): passes over all rows in random order."""
    n = len(rows)
    size = min(config.batch_size, n)
    a_pass = n // size
    passes = -(-config.check_every // a_pass)
    orders = [generator.permutation(n)[: a_pass * size] for _ in range(passes)]
    return rows[np.concatenate(orders).reshape(-1, size)[: config.check_every]]


def _update(
    state: MineState,
    x: dict,
    z: dict,
    weights: tuple | None,
    rate: Array,
    pairs: Pairs,
    config: MineConfig,
) -> tuple[MineState, MineInfo]:
    """One step of a stack on a batch in random order; `rate` is (networks,)."""

    def loss(params: dict) -> tuple[Array, tuple[Array, Array]]:
        scores = _scores(params, x, z, weights, pairs, config)
        axes = bounds.Scores(0, 0, 0, None, None if weights is None else 0)

        def one(scores: bounds.Scores, average: Array) -> tuple[Array, Array]:
            if config.bound == "mine":  # the only one that needs it
                average = bounds.update_log_partition(
                    average,
                    bounds.log_partition(scores),
                    weight=config.partition_weight,
                    first=state.steps == 0,
                )
            return bounds.objective(config.bound, scores, average), average

        values, average = jax.vmap(one, in_axes=(axes, 0))(scores, state.log_partition)
        return -jnp.sum(values), (values, average)

    gradient, (values, log_partition) = jax.grad(loss, has_aux=True)(state.params)
    norm = jnp.sqrt(_square_norms(gradient))
    direction, opt_state = _adam().update(gradient, state.opt_state)
    direction = jax.tree_util.tree_map_with_path(
        lambda path, change, old: change + (0 if _frozen(path) else config.weight_decay) * old,
        direction,
        state.params,
    )
    params = _map_networks(
        lambda rate, old, change: old - rate * change, rate, state.params, direction
    )
    average = jax.tree.map(
        lambda old, new: new + config.average_decay * (old - new), state.average, params
    )
    state = MineState(params, average, opt_state, log_partition, state.steps + 1)
    return state, MineInfo(values, norm)


def _frozen(path: tuple) -> bool:
    return any(getattr(entry, "key", None) in _FROZEN for entry in path)


def _scores(
    params: dict, x: dict, z: dict, weights: Array | None, pairs: Pairs, config: MineConfig
) -> bounds.Scores:
    """The batch's scores with the networks on the first axis; `weights` are of the classes."""
    module = _module(canonical_of(params), z, pairs, config)
    x_codes, z_codes = _encode(params, x, z, module, pairs)
    n = _rows(x)
    if weights is not None:
        classes = _encode_classes(params, z, module, pairs)
        rows = _apply(module, params, "pairs", x_codes, classes)
        joint = jnp.sum(rows * jnp.stack([z[b] for _, b in pairs]), axis=-1)
        return bounds.Scores(joint, rows, rows, float(rows.shape[-1]), weights)
    if config.separable:
        scores = _apply(module, params, "pairs", x_codes, z_codes)
        own = jnp.eye(n, dtype=bool)[None]
        others = jnp.where(own, -jnp.inf, scores)
        # The gradient of `jnp.diagonal` would be scattered, entry by entry.
        joint = jnp.sum(jnp.where(own, scores, 0), axis=2)
        return bounds.Scores(joint, others, others.transpose(0, 2, 1), float(n - 1))
    shifts = range(min(config.pairings, n - 1) + 1)
    joint, *others = (
        _apply(module, params, "score", x_codes, _rolled(z_codes, -shift)) for shift in shifts
    )
    columns = [jnp.roll(row, shift, axis=1) for shift, row in enumerate(others, 1)]
    return bounds.Scores(joint, jnp.stack(others, -1), jnp.stack(columns, -1), float(len(others)))


def _module(canonical: int, z: dict, pairs: Pairs, config: MineConfig) -> nn.Module:
    # Discriminants are in nats and have no unit variance.
    labels = any(is_labels(z[b]) for _, b in pairs)
    return config.module(canonical, np.inf if labels else _LIMIT)


def canonical_of(params: dict) -> int:
    """Projections of these networks' Gaussian part, which one of a stack shares with the others."""
    first = params["x_first"][0]
    return first["maps"].shape[-1] if first else 0


def canonical_width(x: dict, z: dict, pairs: Pairs, config: MineConfig) -> int:
    """Projections of a stack's Gaussian part: as many as its pairs can use; classes for labels."""
    if not config.canonical:
        return 0

    def width(side: Array) -> int:
        return int(np.prod(side.shape[1:]))

    if any(is_labels(z[b]) for _, b in pairs):
        return max(width(z[b]) for _, b in pairs)
    return min(config.canonical, max(min(width(x[a]), width(z[b])) for a, b in pairs))


def _apply(module: nn.Module, params: dict, method: str, x_codes: Any, z_codes: Any) -> Any:
    """A method of the trunk for every network of the stack."""
    return jax.vmap(lambda trunk, a, b: module.apply({"params": trunk}, a, b, method=method))(
        params["trunk"], x_codes, z_codes
    )


def _rolled(codes: Array, shift: int | Array) -> Array:
    return jnp.roll(codes, shift, axis=1)


def _encode(params: dict, x: dict, z: dict, module: nn.Module, pairs: Pairs) -> tuple[Array, Array]:
    """The first layers of every network on its own inputs, (networks, n, width) each."""
    return (
        _encode_side("x", params, [x[a] for a, _ in pairs], module),
        _encode_side("z", params, [z[b] for _, b in pairs], module),
    )


def _encode_classes(params: dict, z: dict, module: nn.Module, pairs: Pairs) -> Array:
    """The first layers of z on each of its values once, (networks, classes, width)."""
    values = [jnp.eye(z[b].shape[1]) for _, b in pairs]
    return _encode_side("z", params, values, module)


def _encode_side(side: str, params: dict, inputs: list[Array], module: nn.Module) -> Array:
    return jnp.stack(
        [
            module.apply(
                {"params": {f"{side}_first": first}},
                value.astype(jnp.float32),
                method=f"encode_{side}",
            )
            for first, value in zip(params[f"{side}_first"], inputs, strict=True)
        ]
    )


def _class_weights(z: dict, pairs: Pairs) -> Array | None:
    """The logs of the classes' shares in all samples, (networks, classes); None for numbers."""
    if not any(is_labels(z[b]) for _, b in pairs):
        return None
    shares = jnp.stack([jnp.mean(z[b], axis=0, dtype=jnp.float32) for _, b in pairs])
    return jnp.log(shares)


def better_form(donsker_varadhan: ArrayLike, infonce: ArrayLike, reporting: int) -> np.ndarray:
    """The value on stopping samples in the form that they choose.

    Args:
      donsker_varadhan: the value in that form.
      infonce: the value in the other.
      reporting: the number of samples that report together.
    """
    donsker_varadhan, infonce = np.asarray(donsker_varadhan), np.asarray(infonce)
    most = np.log(reporting) - CEILING_MARGIN
    trusted = np.isfinite(donsker_varadhan) & (donsker_varadhan <= most)
    return np.where(trusted, np.maximum(donsker_varadhan, infonce), infonce)


@jit(static_argnames=("pairings", "pairs", "config"))
def _evaluate_rows(
    state: MineState,
    x: dict,
    z: dict,
    rows: Array,
    pairings: int | None,
    pairs: Pairs,
    config: MineConfig,
) -> tuple[bounds.HeldOut, bounds.HeldOut]:
    """The averaged networks on these rows, in random order, in the forms of `REPORTED`.

    All pairs of the rows are taken, or as many for each row as `pairings` says.
    """
    return _held_out(state, x, z, rows, pairings, pairs, config, errors=True)


def _held_out(
    state: MineState,
    x: dict,
    z: dict,
    rows: Array,
    pairings: int | None,
    pairs: Pairs,
    config: MineConfig,
    errors: bool,
) -> tuple[bounds.HeldOut, bounds.HeldOut]:
    """`_evaluate_rows`; without `errors` only the values mean something, which costs a third."""
    weights = _class_weights(z, pairs)
    rows = devices.spread(rows)
    x = {name: value[rows] for name, value in x.items()}
    z = {name: value[rows] for name, value in z.items()}
    x, z = devices.spread((x, z))
    params = state.average
    if weights is not None:
        scores = _scores(params, x, z, weights, pairs, config)
        judge = partial(bounds.held_out_discrete, bound=config.bound)
        value = jax.vmap(judge)(scores.joint, scores.rows, weights)
        return value, value
    module = _module(canonical_of(params), z, pairs, config)
    x_codes, z_codes = _encode(params, x, z, module, pairs)
    if pairings is not None:
        sums = _sums_of_shifts(params, x_codes, z_codes, module, pairings)
    else:
        sums = _sums_of_pairs(params, x_codes, z_codes, module, config.separable, errors)
    forms = ("nwj", "nwj") if config.bound == "nwj" else REPORTED
    axes = bounds.Sums(0, 0, 0, 0, 0, None)
    return tuple(
        jax.vmap(partial(bounds.held_out, bound=form), in_axes=(axes,))(sums) for form in forms
    )


def _sums_of_shifts(
    params: dict, x_codes: Array, z_codes: Array, module: nn.Module, pairings: int
) -> bounds.Sums:
    """Of each sample with itself and with at most `pairings` others."""
    n = x_codes.shape[1]
    shifts = jnp.asarray(_spread(n, pairings))

    def shifted(shift: Array) -> Array:
        return _apply(module, params, "score", x_codes, _rolled(z_codes, -shift))

    joint = shifted(jnp.zeros((), shifts.dtype))
    others = jax.lax.map(shifted, shifts)  # one pairing at a time, for memory's sake

    def back(values: Array) -> Array:
        """From the x of each pair to its z."""
        return jax.vmap(lambda row, shift: jnp.roll(row, shift, axis=1))(values, shifts)

    rows = logsumexp(others, axis=0)
    full = jnp.logaddexp(rows + np.log((n - 1) / len(shifts)), joint)
    return bounds.Sums(
        joint=joint,
        rows=rows,
        columns=logsumexp(back(others), axis=0),
        squares=logsumexp(2 * others, axis=(0, 2)),
        as_negative=jnp.sum(jnp.exp(back(others - full[None])), axis=0) * (n - 1) / len(shifts),
        others=jnp.asarray(float(len(shifts))),
    )


def _sums_of_pairs(
    params: dict, x_codes: Array, z_codes: Array, module: nn.Module, separable: bool, errors: bool
) -> bounds.Sums:
    """Of each sample with itself and all others, block by block of rows.

    Without `errors` only what the values need: the sums of the rows.
    """
    n = x_codes.shape[1]
    size = min(n, _BLOCK if separable else 8)
    blocks = -(-n // size)
    if separable:
        (f, a), (g, b) = _apply(module, params, "features_of", x_codes, z_codes)
        left = jnp.concatenate([f, a[..., None], jnp.ones_like(a)[..., None]], axis=-1)
        right = jnp.concatenate([g, jnp.ones_like(b)[..., None], b[..., None]], axis=-1)
    else:
        left, right = x_codes, z_codes
    joint = _apply(module, params, "score", x_codes, z_codes)
    positions = jnp.arange(blocks * size).reshape(blocks, size)

    def block(rows: Array) -> tuple:
        there = left[:, jnp.minimum(rows, n - 1)]
        if separable:
            scores = jnp.einsum("kif,kjf->kij", there, right)
        else:
            scores = _apply(module, params, "pairs", there, right)
        counts = (rows[:, None] < n) & (rows[:, None] != jnp.arange(n)[None, :])
        scores = jnp.where(counts[None], scores, -jnp.inf)
        row_sums = logsumexp(scores, axis=2)
        if not errors:
            return (row_sums,)
        full = jnp.logaddexp(row_sums, joint[:, jnp.minimum(rows, n - 1)])
        return (
            row_sums,
            logsumexp(scores, axis=1),
            logsumexp(2 * scores, axis=(1, 2)),
            jnp.sum(jnp.exp(scores - full[..., None]), axis=1),
        )

    rows, *rest = jax.lax.map(block, positions)
    rows = rows.transpose(1, 0, 2).reshape(joint.shape[0], -1)[:, :n]
    others = jnp.asarray(float(n - 1))
    if not errors:
        nothing = jnp.zeros_like(joint)
        return bounds.Sums(joint, rows, nothing, nothing[:, 0], nothing, others)
    columns, squares, as_negative = rest
    return bounds.Sums(
        joint=joint,
        rows=rows,
        columns=logsumexp(columns, axis=0),
        squares=logsumexp(squares, axis=0),
        as_negative=jnp.sum(as_negative, axis=0),
        others=others,
    )


def _spread(n: int, pairings: int) -> np.ndarray:
    """At most `pairings` different shifts, spread evenly over 1 … n − 1."""
    return np.unique(np.linspace(1, n - 1, min(pairings, n - 1)).round().astype(np.int32))


def _adam() -> optax.GradientTransformation:
    """Adam without its rate, which each network has for itself."""
    return optax.scale_by_adam()


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


def _named(arrays: Arrays) -> dict[str, Array]:
    return dict(arrays) if isinstance(arrays, Mapping) else {_SINGLE: arrays}


def _is_stack(x: Arrays, z: Arrays) -> bool:
    return isinstance(x, Mapping) or isinstance(z, Mapping)


def _rows(named: dict[str, Array]) -> int:
    return next(iter(named.values())).shape[0]


def is_labels(samples: Array) -> bool:
    """Whether prepared samples are labels: one-hot, uint8."""
    return samples.dtype == jnp.uint8


def _check_shapes(x: dict[str, Array], z: dict[str, Array], pairs: Pairs) -> None:
    shapes = [np.shape(value) for value in (*x.values(), *z.values())]
    rows = {shape[0] for shape in shapes if shape}
    if any(len(shape) not in (2, 4) for shape in shapes) or len(rows) != 1 or min(rows) < 2:
        raise ValueError(
            "x and z must be (n, features) or (n, h, w, c) with the same n >= 2 (lower_bound takes "
            f"other shapes and labels); got {shapes}"
        )
    if any(is_labels(x[a]) for a, _ in pairs) or len({is_labels(z[b]) for _, b in pairs}) != 1:
        raise ValueError(
            "labels (uint8, one-hot) belong into z, and a stack takes only labels or only numbers "
            f"there; got x {[str(v.dtype) for v in x.values()]} and "
            f"z {[str(v.dtype) for v in z.values()]}"
        )


def _check_state(state: MineState, x: dict, z: dict, pairs: Pairs) -> None:
    if not any(state.params["x_first"]):
        return  # a module of the user's, which checks for itself
    got = [tuple(first["mean"].shape[-1] for first in state.params[side]) for side in _FIRST]
    wanted = [
        tuple(int(np.prod(side[name].shape[1:])) for name in names)
        for side, names in zip((x, z), zip(*pairs, strict=True), strict=True)
    ]
    if got != wanted:
        raise ValueError(
            f"the state's networks take {got[0]} columns of x and {got[1]} of z, but these samples "
            f"have {wanted[0]} and {wanted[1]}; init a state for samples like these"
        )
