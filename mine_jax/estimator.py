"""lower_bound(x, z): split the samples, fit, stop, report."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mine_jax import bounds, mine
from mine_jax.mine import Array, FitInfo, MineConfig, MineState

MOST_LABELS = 1000  # a one-hot column for each distinct label has to stay affordable
_LINEAR_WITHIN = 4.0  # standard deviations up to which `prepare` leaves a column linear
_COLUMNS_AT_ONCE = 512


class Splits(NamedTuple):
    """Rows of the samples by their use, disjoint within each fold; in random order.

    Attributes:
      train: (folds, m).
      stop: (folds, s).
      report: (folds, r); with `cross_fit` each row of the samples reports in one fold at most.
    """

    train: np.ndarray
    stop: np.ndarray
    report: np.ndarray


class History(NamedTuple):
    """How a fit went; each entry has the checks on its first axis and the folds on its second.

    Attributes:
      steps: steps at each check, (checks,).
      batch_nats: mean bound of the training batches since the last check, in nats.
      stop_nats: bound on the stopping samples, in nats.
    """

    steps: np.ndarray
    batch_nats: np.ndarray
    stop_nats: np.ndarray


@flax.struct.dataclass
class Estimate:
    """A lower bound on a mutual information, and how far it can be trusted.

    Attributes:
      nats: the Donsker–Varadhan bound on samples that neither the training nor the stopping
        of its network saw; with folds the mean over them.
      stderr: its standard error, in nats: the spread of samples, not what the network missed.
      train_nats: the same on as many training samples; far above `nats` means over-fitting.
      ceiling_nats: ln of the number of samples that report together, the largest value that
        they can support.
      steps: steps until the fit ended (of the slowest fold).
      converged: whether it ended because the stopping samples showed no more gain.
      history: the fit at each check.
      state: the networks, to start another fit from (`init=`).
      warnings: plain sentences on why not to trust the value.
      influence: each reporting sample's share in the value, (folds, r), see `bounds.HeldOut`.
    """

    nats: float
    stderr: float
    train_nats: float
    ceiling_nats: float
    steps: int
    converged: bool
    history: History
    state: MineState
    warnings: tuple[str, ...] = flax.struct.field(pytree_node=False)
    influence: np.ndarray

    def __float__(self) -> float:
        """The value in nats."""
        return float(self.nats)


def lower_bound(
    x: ArrayLike,
    z: ArrayLike | Mapping[str, ArrayLike],
    *,
    key: Array | None = None,
    config: MineConfig | None = None,
    init: Estimate | MineState | Mapping[str, Any] | None = None,
) -> Estimate | dict[str, Estimate]:
    """I_Θ(X; Z): a lower bound on the mutual information of paired samples, in nats.

    MINE (Belghazi et al. 2018): statistics networks climb the Donsker–Varadhan bound on training
    samples, stopping samples choose the state, and that state is judged on reporting samples.
    By default the samples are split into five parts and each part reports once, on a network
    that was trained without it, so that all samples report.

    Args:
      x: (n, …). One-dimensional floats are a column, integers of one column are labels; further
        axes are flattened.
      z: (n, …) likewise, or a mapping of names to such arrays: then all networks are fitted at
        once, on the same samples in the same pairings.
      key: a PRNG key; it fixes the split, the networks and the batches. Default: key(0).
      config: how networks are built, trained, stopped and judged. Default: `MineConfig()`.
      init: an earlier `Estimate.state` of the same widths and configuration to start from (the
        `Estimate` itself does too); for a mapping, a mapping of them.

    Returns:
      An `Estimate`; for a mapping, a dict of them with the same names.

    Raises:
      ValueError: if numbers of samples differ or are too few, values are not finite, labels are
        too many, or `init` does not fit.
    """
    key = jax.random.key(0) if key is None else key
    config = MineConfig() if config is None else config
    named = dict(z) if isinstance(z, Mapping) else {"z": z}
    if not named:
        raise ValueError("z is an empty mapping; give at least one array")
    prepared_x = {"x": prepare(x, "x")}
    prepared_z = {name: prepare(value, name) for name, value in named.items()}
    _check_samples(prepared_x, prepared_z, config)
    state = None
    if init is not None:
        inits = init if isinstance(z, Mapping) else {"z": init}
        if not isinstance(inits, Mapping) or set(inits) != set(named):
            got = sorted(inits) if isinstance(inits, Mapping) else type(inits).__name__
            raise ValueError(f"init must have the names of z, {sorted(named)}, got {got}")
        state = mine.join([_state_of(inits[name]) for name in sorted(named)], folds=True)
    estimates, _ = lower_bounds(prepared_x, prepared_z, key=key, config=config, state=state)
    by_name = {name: estimates["x", name] for name in named}
    return by_name if isinstance(z, Mapping) else by_name["z"]


def lower_bounds(
    x: Mapping[str, Array],
    z: Mapping[str, Array],
    *,
    key: Array,
    config: MineConfig,
    state: MineState | None = None,
    round_number: int = 0,
    on_progress: Callable[[int, int, FitInfo], None] | None = None,
) -> tuple[dict[tuple[str, str], Estimate], MineState]:
    """`lower_bound` for every name in `x` with every name in `z`, all networks at once.

    Args:
      x: names to samples as `prepare` returns them, (n, features).
      z: likewise.
      key: a PRNG key. The same key and n give the same split.
      config: the configuration.
      state: the whole stack's state of an earlier call with the same widths, to start from.
        With another key it has seen samples that report here.
      round_number: gives rounds of the same key batches (and first weights) of their own.
      on_progress: see `mine.fit`.

    Returns:
      The estimates by (x name, z name), and the whole stack's state.

    Raises:
      ValueError: if the samples are too few or `state` does not fit.
    """
    _check_samples(x, z, config)
    split_key, round_key = jax.random.split(key)
    init_key, fit_key = jax.random.split(jax.random.fold_in(round_key, round_number))
    rows = split(split_key, next(iter(x.values())).shape[0], config)
    if state is None:
        state = fresh(init_key, x, z, config)
    else:
        _check_state(state, jax.eval_shape(lambda key: fresh(key, x, z, config), init_key))
    state, info = mine.fit(state, fit_key, x, z, rows.train, rows.stop, config, on_progress)
    report = mine.evaluate_rows(state, x, z, rows.report, config)
    train = mine.evaluate_rows(state, x, z, rows.train[:, : rows.report.shape[1]], config)
    estimates = {
        pair: _estimate(
            jax.tree.map(lambda leaf, i=i: np.asarray(leaf[:, i]), report),
            float(np.mean(train.nats[:, i])),
            _of_network(info, i),
            mine.select(state, i, folds=True),
            config,
        )
        for i, pair in enumerate(mine.pairs_of(x, z))
    }
    return estimates, state


@partial(jax.jit, static_argnames="config")
def fresh(
    key: Array, x: Mapping[str, Array], z: Mapping[str, Array], config: MineConfig
) -> MineState:
    """Untrained networks for `lower_bounds`: `mine.init` for each fold.

    Args:
      key: a PRNG key.
      x: names to samples, (n, features); only the widths matter.
      z: likewise.
      config: the configuration.

    Returns:
      The stack's state with a leading axis of folds.
    """
    keys = jax.random.split(key, config.folds if config.cross_fit else 1)
    return jax.vmap(lambda key: mine.init(key, x, z, config))(keys)


def split(key: Array, n: int, config: MineConfig) -> Splits:
    """Rows for training, stopping and reporting.

    A random order of the rows is cut into `folds` parts. In fold f part f reports, the rows
    after it stop, the rest (with the n mod folds rows that are in no part) train. Without
    `cross_fit` there is fold 0 only.

    Args:
      key: a PRNG key.
      n: the number of samples.
      config: `folds`, `cross_fit` and `stop_fraction`.

    Returns:
      The rows.
    """
    order = np.asarray(jax.random.permutation(key, n))
    part, stop = n // config.folds, round(n * config.stop_fraction)
    rolled = [np.roll(order, -f * part) for f in range(config.folds if config.cross_fit else 1)]
    folds = np.stack(rolled).astype(np.int32)
    return Splits(
        train=folds[:, part + stop :], stop=folds[:, part : part + stop], report=folds[:, :part]
    )


def prepare(values: ArrayLike, name: str = "x") -> Array:
    """Samples as a statistics network takes them; none of it changes the mutual information.

    Integers (or booleans) of one column become one-hot labels. Anything else is flattened to
    (n, features) and standardised by column; beyond four standard deviations a column is
    compressed by a strictly increasing logarithm, so that no single row dominates a batch. A
    constant column becomes zero. The statistics are those of all samples: they describe `x` and
    `z` each for itself and carry nothing of how the two are paired.

    Args:
      values: (n, …).
      name: what to call it in an error.

    Returns:
      (n, features), float32.

    Raises:
      ValueError: if there is no sample or no column, a value is not finite or not a number, or
        there are more than `MOST_LABELS` different labels.
    """
    values = np.asarray(values)
    if values.ndim == 0 or values.size == 0:
        raise ValueError(f"{name} must be (n, …) with samples and columns, got {values.shape}")
    if values.dtype.kind not in "biuf" and not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"{name} must hold real numbers or labels, got dtype {values.dtype}")
    columns = values.reshape(values.shape[0], -1)
    if values.dtype.kind in "biu" and columns.shape[1] == 1:
        return _one_hot(columns[:, 0], name)
    if columns.dtype != np.float32:
        columns = columns.astype(np.float64)
    prepared = np.empty(columns.shape, np.float32)
    for start in range(0, columns.shape[1], _COLUMNS_AT_ONCE):
        block = np.s_[:, start : start + _COLUMNS_AT_ONCE]
        prepared[block] = _standardised(columns[block], name)
    return jnp.asarray(prepared)


def _standardised(block: np.ndarray, name: str) -> np.ndarray:
    low, high = block.min(axis=0), block.max(axis=0)
    if not np.isfinite(high - low).all():
        row = int(np.argwhere(~np.isfinite(block))[0, 0]) if not np.isfinite(block).all() else None
        where = (
            "values too far apart" if row is None else f"a value that is not finite in row {row}"
        )
        raise ValueError(f"{name} has {where}; remove or rescale it")
    spread = high - low
    # Scaled to its range first: squares of values such as 1e200 would overflow.
    block = (block - low) / np.where(spread > 0, spread, 1)
    block -= block.mean(axis=0, dtype=np.float64).astype(block.dtype)
    deviation = np.sqrt(np.mean(block * block, axis=0, dtype=np.float64)).astype(block.dtype)
    block /= np.where(deviation > 0, deviation, 1)
    beyond = np.abs(block) > _LINEAR_WITHIN
    far = block[beyond]
    compressed = _LINEAR_WITHIN + np.log1p(np.abs(far) - _LINEAR_WITHIN)
    block[beyond] = np.sign(far) * compressed
    return block


def _one_hot(labels: np.ndarray, name: str) -> Array:
    classes, positions = np.unique(labels, return_inverse=True)
    if len(classes) > MOST_LABELS:
        raise ValueError(
            f"{name} has {len(classes)} different integers, more than {MOST_LABELS} labels; pass "
            "it as floats if they are numbers"
        )
    return jax.nn.one_hot(positions, len(classes), dtype=jnp.float32)


def _estimate(
    report: bounds.HeldOut, train_nats: float, info: FitInfo, state: MineState, config: MineConfig
) -> Estimate:
    """One network's estimate; `report` has the folds in front."""
    nats = float(report.nats.mean())
    stderr = float(np.sqrt(np.sum(report.stderr**2)) / len(report.stderr))
    ceiling = math.log(report.influence.shape[1])
    converged = bool(info.converged.all() and info.finite.all())
    warnings = []
    if not math.isfinite(nats):
        warnings.append(f"The value is {nats}: a network's scores on the reporting samples are.")
    if not info.finite.all():
        warnings.append("A network diverged and was set back; lower the learning rate.")
    elif not converged:
        warnings.append(
            f"Still gaining at the cap of {config.max_steps} steps; the value would grow."
        )
    if not (info.chosen_step > 0).any() and np.all(report.influence == 0):
        warnings.append(
            "No network gained on the stopping samples: independent, or not learnt from so few."
        )
    if nats + 2 * stderr > 0.9 * ceiling:
        warnings.append(
            f"Within a tenth of the ceiling of {ceiling:.2f} nats that {report.influence.shape[1]} "
            "reporting samples can support; the truth may be far above."
        )
    if train_nats - nats > max(0.1, 0.2 * nats) + 3 * stderr:
        warnings.append(
            f"Over-fitted: {train_nats:.2f} nats on training samples; more samples would help."
        )
    return Estimate(
        nats=nats,
        stderr=stderr,
        train_nats=train_nats,
        ceiling_nats=ceiling,
        steps=int(info.steps.max()),
        converged=converged,
        history=History(info.steps_at, info.batch_nats, info.stop_nats),
        state=state,
        warnings=tuple(warnings),
        influence=np.asarray(report.influence),
    )


def _of_network(info: FitInfo, i: int) -> FitInfo:
    return FitInfo(info.steps_at, *(values[..., i] for values in info[1:]))


def _state_of(init: Estimate | MineState) -> MineState:
    state = init.state if isinstance(init, Estimate) else init
    if not isinstance(state, MineState):
        raise ValueError(f"init must be an Estimate or its state, got {type(state).__name__}")
    return state


def _check_state(state: MineState, wanted: MineState) -> None:
    got, expected = (jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (state, wanted))
    if jax.tree.structure(got) != jax.tree.structure(expected) or got != expected:
        raise ValueError(
            "the state to start from has other shapes than networks for these samples and this "
            f"configuration: first layers {_firsts(state)} where {_firsts(wanted)} are needed "
            "(folds, features, width); fit afresh, or use the same widths and configuration"
        )


def _firsts(state: MineState) -> list:
    return [
        tuple(leaf.shape)
        for side in ("x_first", "z_first")
        for leaf in jax.tree.leaves(state.params[side])
        if len(leaf.shape) == 3
    ]


def _check_samples(x: Mapping[str, Array], z: Mapping[str, Array], config: MineConfig) -> None:
    in_x, in_z = ({name: len(value) for name, value in side.items()} for side in (x, z))
    if len({*in_x.values(), *in_z.values()}) != 1:
        raise ValueError(
            f"all arrays must have the same number of samples, got x {in_x} and z {in_z}"
        )
    n = next(iter(in_x.values()))
    part, stop = n // config.folds, round(n * config.stop_fraction)
    if min(part, stop, n - part - stop) < 2:
        raise ValueError(
            f"{n} samples are too few: training, stopping and reporting need at least 2 each with "
            f"folds = {config.folds} and stop_fraction = {config.stop_fraction}"
        )
