"""lower_bound(x, z): prepare and split the samples, start, fit, stop, report."""

import dataclasses
import itertools
import math
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import special, stats

from mine_jax import bounds, devices, mine
from mine_jax.compilation import jit
from mine_jax.mine import Array, FitInfo, MineConfig, MineState

MOST_LABELS = 1000  # a one-hot column for each distinct label has to stay affordable
WIDE = 128  # columns beyond which only principal components (and images' moments) are kept
COMPONENTS = 20  # so many components
NARROW = 2  # columns up to which the flat network is affordable and has sharper edges
SCALES = ("auto", "ranks", "columns", "both", "common")
_LINEAR_WITHIN = 4.0  # standard deviations up to which a column stays linear
_COLUMNS_AT_ONCE = 512
_AT_ONCE = 1 << 18  # numbers of a block of rows
_FOR_MEDIAN = 1000  # rows that the median of each of many columns is taken of
_FARTHEST = 10.0  # distance from the middle beside the median one, of rows of many columns
# What one reporting sample may take off a value before it is told of: nats, and standard errors. A
# pair that decides alone makes up 0.58 of them for either sample (with the second order).
_HEAVY, _SHARE_OF_STDERR = 0.1, 0.45
_FEW = 20  # stopping samples below which what they choose is chance
_TEMPERATURES = (1.0, 0.8, 0.6, 0.4)
_RIDGES = (0.001, 0.02, 0.3)
_SHRINKING = (0.02, 0.3)  # of discriminants
_FLOORS = (0.0, 2.5)  # standard errors below which a class's mean in a column is chance
_LEADING = (1, 2, 3, 4, 6, 8, 12)  # numbers of canonical pairs
_CLEARLY = 0.5  # over the root of the number of stopping samples, in nats
_LONG = 0.05  # ellipticity from which on a shape has a direction
_LEAST_SPREAD = 1e-3  # of a direction beside the mean column: below is what training hardly saw
# What parts of fits needed before, so that those that follow need not wait for one another.
_COMPILED: set[tuple] = set()
# Of those together. Linux lets a process have 65,530 pieces of memory, and the code of some fifty
# of them filled that, upon which LLVM crashes.
_MOST_COMPILED = 32
_LEAST_GAP = 1e-8  # of 1 − ρ²: what float32 samples can tell


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
      nats: the bound on samples that neither the training nor the stopping of its network
        saw; with folds the mean over them. Never above `ceiling_nats`.
      stderr: its standard error, in nats: the spread of samples, not what the network missed.
      stop_nats: the value on the stopping samples, which chose the state.
      stop_stderr: its standard error.
      train_nats: the same on as many training samples; far above `nats` means over-fitting.
      ceiling_nats: ln of the number of samples that report together, the largest value that
        they can support.
      steps: steps until the fit ended (of the slowest fold).
      converged: whether it ended because the stopping samples showed no more gain.
      history: the fit at each check.
      state: the networks, to start another fit from (`init=`).
      warnings: plain sentences on why not to trust the value.
      influence: each reporting sample's share in the value, (folds, r), see `bounds.HeldOut`.
      form: "donsker_varadhan", "infonce" or "nwj": the bound whose value this is, chosen on the
        stopping samples ("mixed" if folds differ).
    """

    nats: float
    stderr: float
    stop_nats: float
    stop_stderr: float
    train_nats: float
    ceiling_nats: float
    steps: int
    converged: bool
    history: History
    state: MineState
    warnings: tuple[str, ...] = flax.struct.field(pytree_node=False)
    influence: np.ndarray
    form: str = flax.struct.field(pytree_node=False, default="donsker_varadhan")

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

    MINE (Belghazi et al. 2018): statistics networks climb a bound on training samples, stopping
    samples choose the state, and that state is judged on reporting samples. By default the samples
    are split into five parts and each part reports once, on a network that was trained without it,
    so that all samples report.

    Args:
      x: (n, …). One-dimensional floats are a column; integers of one column, and one-hot
        columns, are labels; (n, h, w, c) with at least 4 × 4 pixels are images. See `prepare`.
      z: (n, …) likewise, or a mapping of names to such arrays: then all networks are fitted at
        once, on the same samples in the same pairings.
      key: a PRNG key; it fixes the split, the networks and the batches. Default: key(0).
      config: how networks are built, trained, stopped and judged. Default: `MineConfig()`.
      init: an earlier `Estimate.state` of the same widths and configuration to start from (the
        `Estimate` itself does too); for a mapping, a mapping of them of the same names. It has not
        seen the samples that report here only if samples and key are the same as there.

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
    if wrong := [name for name in named if not isinstance(name, str)]:
        raise ValueError(f"names of arrays must be strings, got {wrong}")
    x, named = _labels(x), {name: _labels(value) for name, value in named.items()}
    shaped = config.network == "convolutional" or isinstance(config.network, nn.Module)
    prepared_x, prepared_z, columns = {}, {}, {}
    for name, value in named.items():
        axes = None if shaped else shared_axes(x, value, ("x", name))
        columns[name] = "x" if axes is None else f"x for {name}"
        if columns[name] not in prepared_x:
            prepared_x[columns[name]] = prepare(x, "x", keep_shape=shaped, axes=axes)
        prepared_z[name] = prepare(value, name, keep_shape=shaped, axes=axes)
    beside_labels = "auto" if isinstance(config.network, nn.Module) else "both"
    # Beside labels, ranks and plain columns: a softmax's two clusters say more as they are.
    for name, value in named.items():
        x_is_labels = mine.is_labels(prepared_x[columns[name]])
        if x_is_labels and not mine.is_labels(prepared_z[name]):
            prepared_z[name] = prepare(value, name, beside_labels, keep_shape=shaped)
        elif mine.is_labels(prepared_z[name]) and not x_is_labels:
            columns[name] = "x beside labels"
    if "x beside labels" in columns.values():
        prepared_x["x beside labels"] = prepare(x, "x", beside_labels, keep_shape=shaped)
    pairs = tuple((columns[name], name) for name in sorted(named))
    prepared_x = {name: value for name, value in prepared_x.items() if name in columns.values()}
    _check_samples(prepared_x, prepared_z, config)
    state = None
    if init is not None:
        inits = init if isinstance(z, Mapping) else {"z": init}
        if not isinstance(inits, Mapping) or set(inits) != set(named):
            got = sorted(inits) if isinstance(inits, Mapping) else type(inits).__name__
            raise ValueError(f"init must have the names of z, {sorted(named)}, got {got}")
        state = {
            group.name: mine.join([_state_of(inits[b]) for _, b in group.asked], folds=True)
            for group in groups(prepared_x, prepared_z, pairs, config)
        }
    estimates, _ = lower_bounds(
        prepared_x, prepared_z, key=key, config=config, state=state, pairs=pairs
    )
    by_name = {name: estimates[columns[name], name] for name in named}
    return by_name if isinstance(z, Mapping) else by_name["z"]


class Group(NamedTuple):
    """Networks that are fitted as one stack.

    Attributes:
      name: what its state is called.
      asked: the (x name, z name) that were asked for.
      pairs: the same, labels in the second place; names are those of the stack's own arrays.
      swapped: which of them are exchanged.
      config: the configuration with the network chosen.
    """

    name: str
    asked: mine.Pairs
    pairs: mine.Pairs
    swapped: tuple[bool, ...]
    config: MineConfig


def choose_network(x: Array, z: Array) -> str:
    """The statistics network that `network="auto"` means for samples as `prepare` gives them.

    "flat" where both sides are numbers of at most `NARROW` columns: it has sharper edges, and one
    pass for every pair is affordable there; "separable" otherwise.
    """
    small = max(x.shape[1], z.shape[1]) <= NARROW and not (mine.is_labels(x) or mine.is_labels(z))
    return "flat" if small else "separable"


def groups(
    x: Mapping[str, Array], z: Mapping[str, Array], pairs: mine.Pairs, config: MineConfig
) -> list[Group]:
    """The stacks for these pairs: by network, and by the number of labels.

    Args:
      x: names to prepared samples.
      z: likewise.
      pairs: the (x name, z name) that are asked for.
      config: the configuration.

    Returns:
      The groups, each with the sides of a pair exchanged where only x has labels.
    """
    found: dict[tuple, list] = {}
    for a, b in pairs:
        swap = mine.is_labels(x[a]) and not mine.is_labels(z[b])
        left, right = (z[b], x[a]) if swap else (x[a], z[b])
        network = config.network
        if network == "auto":
            network = choose_network(left, right)
        classes = right.shape[1] if mine.is_labels(right) else 0
        # The user's own network may have other shapes for each pair: no stack of several.
        own = f"{a}, {b}" if isinstance(network, nn.Module) else network
        # A name of one side may be one of the other's, too.
        pair = (f"z: {b}", f"x: {a}") if swap else (f"x: {a}", f"z: {b}")
        found.setdefault((own, classes), []).append(((a, b), pair, swap, network))
    return [
        Group(
            f"{own}, {classes} labels" if classes else own,
            tuple(asked for asked, *_ in members),
            tuple(pair for _, pair, *_ in members),
            tuple(swap for *_, swap, _ in members),
            dataclasses.replace(config, network=members[0][3]),
        )
        for (own, classes), members in found.items()
    ]


def lower_bounds(
    x: Mapping[str, Array],
    z: Mapping[str, Array],
    *,
    key: Array,
    config: MineConfig,
    state: Mapping[str, MineState] | None = None,
    round_number: int = 0,
    on_progress: Callable[[int, int, str], None] | None = None,
    pairs: mine.Pairs | None = None,
    noise: mine.NoiseLevels | None = None,
) -> tuple[dict[tuple[str, str], Estimate], dict[str, MineState]]:
    """`lower_bound` for many pairs of arrays, all networks of a kind at once.

    Args:
      x: names to samples as `prepare` returns them.
      z: likewise.
      key: a PRNG key. The same key and n give the same split.
      config: the configuration.
      state: what an earlier call with the same widths returned, to start from. With another key
        it has seen samples that report here.
      round_number: gives rounds of the same key batches (and first weights) of their own.
      on_progress: called with the steps done, the most that there can be, and the values of the
        network that was checked last, after each check of a network; one call at a time, but from
        several threads.
      pairs: the (x name, z name) to fit; default: all combinations.
      noise: standard deviations of measurement noise, by name in x and by name in z. Then every
        array holds two blocks of n samples of the same things in the same order: the first as
        they were measured, the second without that noise. Stopping and reporting samples are of
        the first block, networks train on the second with noise that is fresh in each batch.

    Returns:
      The estimates by (x name, z name), and the states of all stacks.

    Raises:
      ValueError: if the samples are too few, `state` does not fit, or `noise` names no array.
    """
    _check_samples(x, z, config, blocks=1 if noise is None else 2)
    for side, levels in zip((x, z), noise or (), strict=False):
        if unknown := sorted(set(levels) - set(side)):
            raise ValueError(f"noise has levels for {unknown}, but samples are of {sorted(side)}")
    x, z = devices.everywhere((dict(x), dict(z)))
    pairs = pairs or mine.pairs_of(x, z)
    stacks = groups(x, z, pairs, config)
    if state is not None:
        if set(state) != {group.name for group in stacks}:
            raise ValueError(
                f"the state to start from has networks {sorted(state)}, but these samples need "
                f"{sorted(group.name for group in stacks)}; fit afresh"
            )
        wanted = fresh.jitted.eval_shape(key, x, z, config, pairs)
        for name in wanted:
            _check_state(state[name], wanted[name])
    split_key, round_key = jax.random.split(key)
    n = next(iter(x.values())).shape[0] // (1 if noise is None else 2)
    rows = split(split_key, n, config)
    init_key, fit_key = jax.random.split(jax.random.fold_in(round_key, round_number))
    first = fresh(init_key, x, z, config, pairs)
    fit_keys = jax.random.split(fit_key, len(rows.train))
    on_cpu = jax.default_backend() == "cpu" and devices.mesh() is None
    parts = [part for group in stacks for part in _parts(group, len(rows.train), on_cpu)]
    most = -(-config.max_steps // config.check_every) * config.check_every
    steps, lock = [0] * len(parts), threading.Lock()

    texts = [""]

    def tell(i: int, done: int, text: str | None = None) -> None:
        with lock:
            steps[i] = done
            texts[0] = text or texts[0]
            if on_progress is not None:
                on_progress(sum(steps), most * len(steps), texts[0])

    def one(i: int) -> tuple:
        """Start, fit and judge the networks of a part."""
        part = parts[i]

        def on_check(done: int, total: int, info: FitInfo) -> None:
            values = zip(part.group.asked, info.stop_nats[-1][0], strict=True)
            tell(i, done, " ".join(f"{a}–{b} {value:.2f}" for (a, b), value in values))

        cut, before = (
            jax.tree.map(lambda leaf: np.asarray(leaf)[part.folds], tree)
            for tree in (first[part.stack], None if state is None else state[part.stack])
        )
        if part.network is not None:
            cut = mine.select(cut, part.network, folds=True)
            before = None if before is None else mine.select(before, part.network, folds=True)
        left, right = _sides(x, z, part.group)
        levels = None if noise is None else _levels(noise, part.group)
        here = Splits(*(each[part.folds] for each in rows))
        fitted_on = here._replace(train=here.train + (0 if levels is None else n))
        start = _start(cut, before, left, right, fitted_on, levels or ({}, {}), part.group)
        args = (left, right, fitted_on.train, here.stop)
        args += (part.group.config, on_check, part.group.pairs, levels, here.report.shape[1])
        fitted, info = mine.fit(start, fit_keys[part.folds], *args)
        tell(i, most)  # what is left of its steps will not be needed
        judge = partial(mine.evaluate_rows, fitted, left, right)
        what = part.group.pairs, part.group.config
        judged = [jax.tree.map(np.asarray, judge(r, *what)) for r in (here.report, here.stop)]
        trained_on = here.train[:, : here.report.shape[1]]
        train = mine.values(fitted, left, right, trained_on, *what)
        return fitted, info, *judged, tuple(map(np.asarray, train))

    def code(part: _Part) -> tuple:
        """What decides about the compiled code that a part needs."""
        arrays = jax.tree.map(lambda a: (a.shape, a.dtype), _sides(x, z, part.group))
        levels = None if noise is None else jax.tree.structure(_levels(noise, part.group))
        return part.group[2:], str(arrays), levels, n, state is None

    done = (
        _in_threads(one, [code(part) for part in parts]) if on_cpu else map(one, range(len(parts)))
    )
    done = list(zip(parts, done, strict=True))
    estimates, states = {}, {}
    for group in stacks:
        made = [(part, result) for part, result in done if part.stack == group.name]
        networks = dict.fromkeys(part.network for part, _ in made)
        fitted = []
        for network in networks:
            of_network = [result for part, result in made if part.network == network]
            state_of, info, *judged = _join_folds(of_network)
            fitted.append(state_of)
            asked = group.asked if network is None else (group.asked[network],)
            for i, pair in enumerate(asked):
                forms = jax.tree.map(lambda leaf, i=i: leaf[:, i], judged)
                own = mine.select(state_of, i, folds=True)
                estimates[pair] = _estimate(*forms, _of_network(info, i), own, group.config)
        states[group.name] = fitted[0] if len(fitted) == 1 else mine.join(fitted, folds=True)
    return estimates, states


class _Part(NamedTuple):
    """Networks that are fitted for themselves.

    Attributes:
      stack: the name of the stack that they are of.
      group: these networks alone; one network's arrays are called "x" and "z".
      folds: which folds of the samples.
      network: the position in the stack; None for all of them.
    """

    stack: str
    group: Group
    folds: slice
    network: int | None


def _parts(group: Group, folds: int, on_cpu: bool) -> list[_Part]:
    """On a CPU every network and fold for itself, elsewhere the stack as it is.

    Batched matrix products keep only one core of a CPU busy, where networks in threads of their
    own keep all, and one that is done costs nothing.
    """
    if not on_cpu:
        return [_Part(group.name, group, slice(None), None)]
    alone = [
        Group(group.name, (pair,), (("x", "z"),), (swapped,), group.config)
        for pair, swapped in zip(group.asked, group.swapped, strict=True)
    ]
    return [
        _Part(group.name, one, slice(f, f + 1), i)
        for i, one in enumerate(alone)
        for f in range(folds)
    ]


def _in_threads(one: Callable[[int], tuple], codes: list[tuple]) -> list[tuple]:
    """one(0), one(1), …, in as many threads as there are cores.

    Of those that need the same compiled code the first goes before the others, so that nothing is
    compiled twice.

    Args:
      one: what to call.
      codes: what decides about the compiled code of each.
    """
    kinds = list(dict.fromkeys(codes))
    results = {}
    for start in range(0, len(kinds), _MOST_COMPILED):
        some = kinds[start : start + _MOST_COMPILED]
        if len(_COMPILED | set(some)) > _MOST_COMPILED:
            jax.clear_caches()  # what is needed again, by whomever, is compiled or read again
            _COMPILED.clear()
        first = [codes.index(needs) for needs in some if needs not in _COMPILED]
        rest = [i for i, needs in enumerate(codes) if needs in some and i not in first]
        with ThreadPoolExecutor(_cores()) as pool:
            for batch in (first, rest):
                results |= zip(batch, pool.map(one, batch), strict=True)
                _COMPILED.update(codes[i] for i in batch)
    return [results[i] for i in range(len(codes))]


@jit(static_argnames=("config", "pairs"), seldom=True)
def fresh(
    key: Array,
    x: Mapping[str, Array],
    z: Mapping[str, Array],
    config: MineConfig,
    pairs: mine.Pairs | None = None,
) -> dict[str, MineState]:
    """Untrained networks for `lower_bounds`: `mine.init` for each fold of each stack.

    Args:
      key: a PRNG key.
      x: names to samples; only the widths matter.
      z: likewise.
      config: the configuration.
      pairs: the (x name, z name) to fit; default: all combinations.

    Returns:
      The states of all stacks, each with a leading axis of folds.
    """
    keys = jax.random.split(key, config.folds if config.cross_fit else 1)
    made = {}
    for group in groups(x, z, pairs or mine.pairs_of(x, z), config):
        left, right = _sides(x, z, group)
        init = partial(mine.init, x=left, z=right, config=group.config, pairs=group.pairs)
        made[group.name] = jax.vmap(lambda key, init=init: init(key))(keys)
    return made


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _join_folds(parts: list[tuple]) -> tuple:
    """The states, reports and values of cuts of the folds as those of all."""
    states, infos, *judged = zip(*parts, strict=True)
    checks = max((info.steps_at for info in infos), key=len)

    def to_the_end(values: np.ndarray) -> np.ndarray:
        """A fold that ended keeps its last value."""
        missing = len(checks) - len(values)
        return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])

    curves = [
        np.concatenate([to_the_end(getattr(info, name)) for info in infos], axis=1)
        for name in ("batch_nats", "stop_nats")
    ]
    ends = [np.concatenate([getattr(info, name) for info in infos]) for name in FitInfo._fields[3:]]
    state = jax.tree.map(lambda *leaves: np.concatenate(leaves), *states)
    values = [jax.tree.map(lambda *leaves: np.concatenate(leaves), *each) for each in judged]
    return state, FitInfo(checks, *curves, *ends), *values


def _sides(
    x: Mapping[str, Array], z: Mapping[str, Array], group: Group
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The arrays of a group's pairs by side, exchanged where the group has them exchanged."""
    left, right = {}, {}
    for (a, b), pair, swap in zip(group.asked, group.pairs, group.swapped, strict=True):
        left[pair[0]], right[pair[1]] = (z[b], x[a]) if swap else (x[a], z[b])
        if mine.is_labels(left[pair[0]]):  # beside labels, those of the other side are features
            left[pair[0]] = left[pair[0]].astype(jnp.float32)
    return left, right


def _levels(noise: mine.NoiseLevels, group: Group) -> mine.NoiseLevels:
    """The noise of a group's arrays, under the names that `_sides` gives them."""
    on_x, on_z = noise
    left, right = {}, {}
    for (a, b), pair, swap in zip(group.asked, group.pairs, group.swapped, strict=True):
        sides = (on_z.get(b), on_x.get(a)) if swap else (on_x.get(a), on_z.get(b))
        for levels, name, level in zip((left, right), pair, sides, strict=True):
            if level is not None:
                levels[name] = jnp.asarray(level, jnp.float32)
    return left, right


def _start(
    fresh: MineState,
    earlier: MineState | None,
    x: dict[str, Array],
    z: dict[str, Array],
    rows: Splits,
    noise: mine.NoiseLevels,
    group: Group,
) -> MineState:
    """Where a fit starts: the best of several states on the stopping samples.

    * fresh networks, whose T is 0;
    * the Gaussian part in closed form from the training samples, with several ridges, each
      shrunk by several temperatures, and of its first canonical pairs alone (for labels instead
      from either half of the columns, and without what may be chance in a class's mean; for sides
      of equal width also with their columns paired);
    * for a warm start the earlier networks as they are, and with the Gaussian part renewed; then
      the closed forms alone come at one temperature (but for labels).
    """
    candidates = [fresh]
    warm = [] if earlier is None else [earlier]
    width = mine.canonical_of(fresh.params)
    if group.config.gaussian_start and width:
        labels = mine.is_labels(z[group.pairs[0][1]])
        # Beside labels the columns may be there twice (`prepare`, "both"): each half alone, too.
        halves = (None, 0, 1) if labels else (None,)
        ridges, floors = (_SHRINKING, _FLOORS) if labels else (_RIDGES, (0.0,))
        # Beside earlier networks fewer of what takes all pairs to judge, and hardly ever is better.
        temperatures = _TEMPERATURES if labels or earlier is None else _TEMPERATURES[:1]
        for ridge, half, floor in itertools.product(ridges, halves, floors):
            shrinking = ridge, floor
            parts = _gaussian_parts(x, z, rows, noise, shrinking, half, group, width)
            candidates += [_with_gaussian(fresh, parts, t) for t in temperatures]
            if not labels:
                leading = [count for count in _LEADING if count < width]
                few = itertools.product(leading, temperatures[:2])
                candidates += [_with_gaussian(fresh, parts, t, count) for count, t in few]
            warm += [_with_gaussian(earlier, parts, 1.0)] if earlier is not None else []
        if not labels and any(_can_pair(x[a], z[b], width) for a, b in group.pairs):
            parts = _gaussian_parts(x, z, rows, noise, None, None, group, width)
            candidates += [_with_gaussian(fresh, parts, t) for t in temperatures]
            warm += [_with_gaussian(earlier, parts, 1.0)] if earlier is not None else []
    return _best(candidates + warm, x, z, rows, group.pairs, group.config)


def _best(
    candidates: list[MineState],
    x: dict[str, Array],
    z: dict[str, Array],
    rows: Splits,
    pairs: mine.Pairs,
    config: MineConfig,
) -> MineState:
    """For every fold and network the candidate that is best on the stopping samples.

    The first one, T = 0, is left only for one that is better by `_CLEARLY` / √s.
    """
    best, best_values = candidates[0], None
    stop, reporting = jnp.asarray(rows.stop), rows.report.shape[1]
    for candidate in candidates:
        values = mine.judge(candidate, x, z, stop, reporting, pairs, config)
        values = np.where(np.isfinite(values), values, -np.inf)
        if best_values is None:
            # Of many candidates one seems better than nothing by chance: it has to be so clearly.
            best_values = values + _CLEARLY / np.sqrt(stop.shape[1])
        elif (values > best_values).any():
            best = mine.choose(values > best_values, candidate, best)
            best_values = np.maximum(values, best_values)
    return best


def _gaussian_parts(
    x: dict[str, Array],
    z: dict[str, Array],
    rows: Splits,
    noise: mine.NoiseLevels,
    shrinking: tuple[float, float] | None,
    half: int | None,
    group: Group,
    width: int,
) -> list[dict]:
    """Means, maps and strengths of every network of a group, with a leading axis of folds.

    They are for a Gaussian part of that `width`. With `half` only that half of the columns of x is
    used; `shrinking` is the ridge and, for labels, the floor of `_discriminant`; without it columns
    are paired.
    Training rows are without their noise: its variance is added to the columns' in closed form.
    """
    labels = mine.is_labels(z[group.pairs[0][1]])
    made = []
    for a, b in group.pairs:
        n = len(x[a])
        left = x[a].reshape(n, -1)
        if half is not None:
            middle = left.shape[1] // 2
            left = left * ((jnp.arange(left.shape[1]) >= middle) == half)[None, :]
        right = z[b].reshape(n, -1).astype(jnp.float32)
        if shrinking is None and _can_pair(left, right, width):
            fit = partial(_paired, left, right, width=width)
        elif shrinking is None:
            fit = partial(_unpaired, left, right, width=width)
        elif labels:
            ridge, floor = shrinking
            fit = partial(_discriminant, left, right, ridge=ridge, floor=floor, width=width)
        else:
            fit = partial(_canonical, left, right, ridge=shrinking[0], width=width)
        levels = jnp.array([noise[0].get(a, 0.0), noise[1].get(b, 0.0)])
        folds = [
            fit(jnp.asarray(train), jnp.asarray(stop), levels)
            for train, stop in zip(rows.train, rows.stop, strict=True)
        ]
        made.append(jax.tree.map(lambda *leaves: jnp.stack(leaves), *folds))
    return made


@jit(static_argnames=("width",), seldom=True)
def _canonical(
    x: Array, z: Array, train: Array, stop: Array, levels: Array, *, ridge: float, width: int
) -> dict[str, Array]:
    """The log density ratio of a Gaussian pair with the training samples' covariances.

    Canonical directions (Hotelling 1936) of the training samples, with a ridge; their
    correlations are those of the stopping samples, less what chance gives (1/n in the square), so
    that directions that were over-fitted get no weight. For unit-variance u, v with correlation ρ
    the log density ratio is (ρuv − ρ²(u² + v²)/2)/(1 − ρ²) and a constant, written with (u − v)².

    Returns:
      x_mean, z_mean, x_maps (d_x, width), z_maps (d_z, width) and gap = 1 − ρ² (width,).
    """
    m = train.shape[0]
    x_mean, z_mean = x[train].mean(0), z[train].mean(0)
    left, right = x[train] - x_mean[None], z[train] - z_mean[None]

    def root(values: Array, noise: Array) -> Array:
        covariance = values.T @ values / m
        level = jnp.trace(covariance) / covariance.shape[0] + 1e-9
        covariance += ((ridge + 1e-4) * level + noise**2) * jnp.eye(covariance.shape[0])
        return jnp.linalg.inv(jnp.linalg.cholesky(covariance))

    x_root, z_root = root(left, levels[0]), root(right, levels[1])
    u, _, v = jnp.linalg.svd(x_root @ (left.T @ right / m) @ z_root.T, full_matrices=False)
    k = min(width, u.shape[1])
    maps = []
    both = (left, x_root.T @ u[:, :k]), (right, z_root.T @ v[:k].T)
    for (side, directions), noise in zip(both, levels, strict=True):
        squares = jnp.sum(jnp.square(directions), axis=0)
        spread = jnp.sqrt(jnp.var(side @ directions, axis=0) + noise**2 * squares)
        least = _LEAST_SPREAD * jnp.sqrt(squares * jnp.mean(jnp.square(side))) + 1e-6
        maps.append(directions / jnp.where(spread > least, spread, jnp.inf)[None])
    a, b = (x[stop] - x_mean[None]) @ maps[0], (z[stop] - z_mean[None]) @ maps[1]
    a, b = a - a.mean(0)[None], b - b.mean(0)[None]
    a, b = _unit(a), _unit(b)
    gap = jnp.where(jnp.mean(a * b, 0) > 0, _gap(a, b, stop.shape[0]), 1.0)
    padding = ((0, 0), (0, width - k))
    return {
        "x_mean": x_mean,
        "z_mean": z_mean,
        "x_maps": jnp.pad(maps[0], padding),
        "z_maps": jnp.pad(maps[1], padding),
        "gap": jnp.pad(gap, (0, width - k), constant_values=1.0),
    }


def _inverse_spread(values: Array, noise: ArrayLike = 0.0) -> Array:
    """One over each centred column's root mean square with this noise; 0 for constant ones."""
    squares = jnp.mean(values * values, axis=0)
    spread = jnp.sqrt(squares + jnp.square(noise))
    least = _LEAST_SPREAD * jnp.sqrt(jnp.mean(squares)) + 1e-6
    return jnp.where(spread > least, 1 / jnp.maximum(spread, 1e-6), 0)


def _unit(values: Array) -> Array:
    return values * _inverse_spread(values)[None, :]


def _gap(a: Array, b: Array, n: int) -> Array:
    """1 − ρ² of unit columns with ρ >= 0, without what chance gives: 1/n in the square.

    From their difference, since ρ itself has no digits left near 1.
    """
    return _gap_of(jnp.mean((a - b) ** 2, axis=0) / 2, a, b, n)


def _gap_of(below_one: Array, a: Array, b: Array, n: int) -> Array:
    """1 − ρ² from 1 − ρ."""
    gap = below_one * (2 - below_one) / (1 - 1 / n)
    # A constant column's difference from anything says nothing.
    varies = jnp.any(a != 0, axis=0) & jnp.any(b != 0, axis=0)
    return jnp.where(varies & (below_one < 1), jnp.clip(gap, _LEAST_GAP, 1.0), 1.0)


def _can_pair(x: Array, z: Array, width: int) -> bool:
    """Whether the sides have equally many columns, few enough for so many projections."""
    return math.prod(x.shape[1:]) == math.prod(z.shape[1:]) <= width


@jit(static_argnames=("width",), seldom=True)
def _paired(
    x: Array, z: Array, train: Array, stop: Array, levels: Array, *, width: int
) -> dict[str, Array]:
    """`_canonical` where column k of x belongs to column k of z, as with z = x + noise.

    Both sides are turned alike, by the eigenvectors of the symmetric part of their
    cross-covariance, which leaves a correlation for each direction as all that is fitted: far less
    than d² canonical weights.
    """
    del stop
    m, d = train.shape[0], x.shape[1]
    x_mean, z_mean = x[train].mean(0), z[train].mean(0)
    left, right = x[train] - x_mean[None, :], z[train] - z_mean[None, :]
    cross = left.T @ right / m
    _, axes = jnp.linalg.eigh((cross + cross.T) / 2)
    a, b = left @ axes, right @ axes
    sign = jnp.where(jnp.mean(a * b, axis=0) < 0, -1.0, 1.0)
    on_x, on_z = _inverse_spread(a, levels[0]), _inverse_spread(b, levels[1]) * sign
    a, b = a * on_x[None, :], b * on_z[None, :]
    noise = (levels[0] * on_x) ** 2 + (levels[1] * on_z) ** 2
    gap = _gap_of((jnp.mean((a - b) ** 2, axis=0) + noise) / 2, a, b, m)
    maps = [axes * on_x[None, :], axes * on_z[None, :]]
    padding = ((0, 0), (0, width - d))
    return {
        "x_mean": x_mean,
        "z_mean": z_mean,
        "x_maps": jnp.pad(maps[0], padding),
        "z_maps": jnp.pad(maps[1], padding),
        "gap": jnp.pad(gap, (0, width - d), constant_values=1.0),
    }


def _unpaired(
    x: Array, z: Array, train: Array, stop: Array, levels: Array, *, width: int
) -> dict[str, Array]:
    """`_paired` for sides that cannot be: no dependence."""
    del train, stop, levels
    d_x, d_z = x.shape[1], z.shape[1]
    return {
        "x_mean": jnp.zeros(d_x),
        "z_mean": jnp.zeros(d_z),
        "x_maps": jnp.zeros((d_x, width)),
        "z_maps": jnp.zeros((d_z, width)),
        "gap": jnp.ones(width),
    }


@jit(static_argnames=("width",), seldom=True)
def _discriminant(
    x: Array,
    z: Array,
    train: Array,
    stop: Array,
    levels: Array,
    *,
    ridge: float,
    floor: float,
    width: int,
) -> dict[str, Array]:
    """Linear discriminant analysis (Fisher 1936): the log density ratio of Gaussian classes.

    The covariance within classes is shrunk towards its diagonal, by as much as there are columns
    for the samples and the ridge asks for. A class's mean in a column counts if it is `floor`
    standard errors from that of all (after Tibshirani et al. 2002, "Diagnosis of multiple cancer
    types by shrunken centroids"): of many columns that tell nothing each one costs a little.

    Returns:
      x_mean, z_mean, x_maps (d_x, classes), z_maps (classes, classes) and bias (classes,).
    """
    del stop
    x_mean = x[train].mean(0)
    left, right = x[train] - x_mean[None], z[train]
    counts = right.sum(0)
    means = right.T @ left / jnp.maximum(counts, 1)[:, None]
    within = left - right @ means
    covariance = within.T @ within / train.shape[0]
    share = 1 / jnp.maximum(counts, 1) - 1 / train.shape[0]
    errors = jnp.sqrt(jnp.diag(covariance)[None, :] * jnp.maximum(share, 0)[:, None])
    means = jnp.where(jnp.abs(means) >= floor * errors, means, 0)
    covariance += levels[0] ** 2 * jnp.eye(x.shape[1])
    diagonal = jnp.diag(jnp.diag(covariance))
    share = jnp.minimum(1.0, 2 * x.shape[1] / train.shape[0] + 3 * ridge)
    level = jnp.trace(covariance) / x.shape[1]
    shrunk = (
        (1 - share) * covariance + share * diagonal + (1e-4 * level + 1e-6) * jnp.eye(x.shape[1])
    )
    maps = jnp.linalg.solve(shrunk, means.T)
    return {
        "x_mean": x_mean,
        "z_mean": jnp.zeros(width),
        "x_maps": maps,
        "z_maps": jnp.eye(width),
        "bias": -0.5 * jnp.sum(means.T * maps, axis=0),
    }


@jit(seldom=True)
def _with_gaussian(
    state: MineState, parts: list[dict], temperature: float, leading: int = 1 << 30
) -> MineState:
    """The state with its Gaussian part set; folds in front.

    Args:
      state: the state.
      parts: as `_gaussian_parts` returns them.
      temperature: what correlations, or discriminants, are multiplied by.
      leading: how many canonical pairs count; later ones may be functions of the first ones.
    """

    def stacked(name: str) -> Array:
        return jnp.stack([part[name] for part in parts], axis=1)

    if "bias" in parts[0]:
        bias = temperature * stacked("bias")
        ones = jnp.ones_like(bias)
        half = temperature * ones / 2
        gaussian = {"cross": temperature * ones, "u_square": -half, "v_square": -half - bias}
    else:
        gap = stacked("gap")
        gap = jnp.where((jnp.arange(gap.shape[-1]) < leading)[None, None], gap, 1.0)
        # At 1 as it is: the difference from 1 has no digits left for correlations near 1.
        gap = jnp.where(temperature < 1, 1 - temperature**2 * (1 - gap), gap)
        rho = jnp.sqrt(1 - gap)
        rest = -rho / (1 + rho) / 2
        gaussian = {"cross": rho / gap, "u_square": rest, "v_square": rest}

    def renewed(params: dict) -> dict:
        own = {
            side: tuple(
                {**first, "mean": part[f"{side[0]}_mean"], "maps": part[f"{side[0]}_maps"]}
                for first, part in zip(params[side], parts, strict=True)
            )
            for side in ("x_first", "z_first")
        }
        return {**params, **own, "trunk": {**params["trunk"], "gaussian": gaussian}}

    return state._replace(params=renewed(state.params), average=renewed(state.average))


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


def prepare(
    values: ArrayLike,
    name: str = "x",
    scale: str = "auto",
    *,
    keep_shape: bool = False,
    towards: ArrayLike | None = None,
    axes: ArrayLike | None = None,
) -> Array:
    """Samples as a statistics network takes them.

    * Integers (or booleans) of one column become labels.
    * Up to `WIDE` columns: each column's ranks are mapped to a normal distribution, ties to their
      mean rank. The map is strictly increasing, so that the mutual information stays as it is,
      and neither heavy tails nor single rows can dominate. A constant column becomes zero.
    * More columns, or images: centred and divided by one number, so that the geometry between
      columns stays; rows ten times as far from the median as most are drawn in. Of these the first
      `COMPONENTS` principal components. Before them come an image's moments (`moments`; all but the
      ellipticity as normal scores): where its light is and how it is spread, which a network would
      have to find in the pixels. Vectors with a square number of columns are taken for the pixels
      of square images; if they are none, that only adds columns that say little. All this can only
      lower the mutual information: what comes out is still a lower bound.

    All statistics are those of all samples: they describe one side for itself and carry nothing
    of how the two are paired.

    Args:
      values: (n, …).
      name: what to call it in an error.
      scale: "ranks", "columns" (each to unit variance, compressed by a strictly increasing
        logarithm beyond four standard deviations), "both" (the ranks' columns and then these) or
        "common" (one number for all columns) instead of what "auto" chooses. Principal components
        are taken with "auto" and "both".
      keep_shape: leave (n, h, w, c) as it is and take no principal components.
      towards: (n, k), what principal components are turned to, see `turn`.
      axes: (columns, k), what takes the place of the samples' own principal axes (`shared_axes`).
        Only for samples of which principal components are taken.

    Returns:
      (n, features) or (n, h, w, c), float32; labels one-hot, (n, classes), uint8.

    Raises:
      ValueError: if there is no sample or no column, a value is not finite or not a number, there
        are more than `MOST_LABELS` different labels, or `axes` do not fit.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {SCALES}, got {scale!r}")
    values = np.asarray(values)
    _check_numbers(values, name)
    columns = values.reshape(values.shape[0], -1)
    if axes is not None and (keep_shape or not _is_wide(values) or len(axes) != columns.shape[1]):
        raise ValueError(
            f"axes of {len(axes)} columns do not fit {name} of shape {values.shape}: they are for "
            f"images and for samples of more than {WIDE} columns, whose principal components are "
            "taken"
        )
    if values.dtype.kind in "biu" and columns.shape[1] == 1:
        return _one_hot(columns[:, 0], name)
    columns = _columns(values)
    image = values.ndim == 4 and min(values.shape[1:3]) >= 4
    if _is_wide(values) and scale in ("auto", "both"):
        columns = _drawn_in(columns, name)
        if keep_shape:
            prepared = _common(columns, name)
            return jax.device_put(prepared.reshape(values.shape) if image else prepared)
        # No name for what is hundreds of megabytes and needed once; `jnp.asarray` would copy it.
        components = _principal_components(jax.device_put(_common(columns, name)), axes)
        if towards is not None:
            components = components @ turn(components, towards)
        images = _as_images(columns.reshape(values.shape))
        if images is None:
            return components
        described = moments(images)
        ranked = [*range(6), 8, 9]  # an ellipticity has a scale
        described[:, ranked] = _normal_scores(described[:, ranked], name)
        return jnp.concatenate([jnp.asarray(described, jnp.float32), components], axis=1)
    if scale == "common":
        return jax.device_put(_common(columns, name))
    transforms = {"columns": [_standardised], "both": [_normal_scores, _standardised]}
    made = []
    for transform in transforms.get(scale, [_normal_scores]):
        prepared = np.empty(columns.shape, np.float32)
        for start in range(0, columns.shape[1], _COLUMNS_AT_ONCE):
            block = np.s_[:, start : start + _COLUMNS_AT_ONCE]
            prepared[block] = transform(columns[block], name)
        made.append(prepared)
    return jax.device_put(np.concatenate(made, axis=1))


def _is_wide(values: np.ndarray) -> bool:
    """Whether only principal components of the samples (and images' moments) are kept."""
    image = values.ndim == 4 and min(values.shape[1:3]) >= 4
    return math.prod(values.shape[1:]) > WIDE or image


def shared_axes(x: ArrayLike, z: ArrayLike, names: tuple[str, str] = ("x", "z")) -> Array | None:
    """The axes for samples with as many columns on both sides, as with z = x + noise.

    Where noise in hundreds of columns is strong, the principal components of a noisy side are
    those of the noise; those of the other side, taken of both, say what is shared. Images of
    other things, or columns that have only their number in common, lose little by it, as their
    own components stay.

    Args:
      x: (n, …).
      z: (n, …).
      names: what to call them in an error.

    Returns:
      The first `COMPONENTS` principal axes of x and then those of z, (columns, 2 k); None where
      their numbers differ, or `prepare` takes all columns. They are made of each side for itself.

    Raises:
      ValueError: if a value is not finite or not a number.
    """
    sides = np.asarray(x), np.asarray(z)
    sizes = [(len(side), math.prod(side.shape[1:])) for side in sides if side.ndim]
    if len(set(sizes)) != 1 or not all(map(_is_wide, sides)):
        return None
    found = []
    for values, name in zip(sides, names, strict=True):
        _check_numbers(values, name)
        columns = _drawn_in(_columns(values), name)
        found.append(principal_axes(jax.device_put(_common(columns, name)), COMPONENTS))
    return jnp.concatenate(found, axis=1)


def _check_numbers(values: np.ndarray, name: str) -> None:
    if values.ndim == 0 or values.size == 0:
        raise ValueError(f"{name} must be (n, …) with samples and columns, got {values.shape}")
    if values.dtype.kind not in "biuf" and not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"{name} must hold real numbers, or labels as integers, got dtype {values.dtype}"
        )


def _columns(values: np.ndarray) -> np.ndarray:
    """Samples as columns of floating point numbers."""
    columns = values.reshape(values.shape[0], -1)
    return columns if columns.dtype == np.float32 else columns.astype(np.float64)


def _labels(values: ArrayLike) -> np.ndarray:
    """Samples as they are, but one-hot columns as labels, (n,)."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] < 2 or values.dtype.kind not in "biuf":
        return values
    for rows in (values[:1000], values):  # most data are not one-hot, which a few rows tell
        if not (np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1)):
            return values
    return np.argmax(values, axis=1)


def _normal_scores(block: np.ndarray, name: str) -> np.ndarray:
    _check_finite(block, name)
    scores = special.ndtri((stats.rankdata(block, axis=0) - 0.5) / len(block))
    scores -= scores.mean(axis=0)
    deviation = scores.std(axis=0)
    return scores / np.where(deviation > 1e-12, deviation, np.inf)


def _drawn_in(columns: np.ndarray, name: str) -> np.ndarray:
    """Rows that are far from all others at a distance at which they do not outweigh them."""
    scale = _largest(columns, name)
    # The median of some: far rows, however far, move it little.
    some = columns[:: max(1, len(columns) // _FOR_MEDIAN)].astype(np.float64)
    centre = np.median(some / scale, axis=0)

    def distances(rows: np.ndarray) -> np.ndarray:
        apart = np.abs(rows / np.float64(scale) - centre)
        # Squares of what one row of 1e200 leaves of the others would vanish.
        largest = np.maximum(apart.max(axis=1), np.finfo(np.float64).tiny)
        apart /= largest[:, None]
        return largest * np.sqrt(np.einsum("nd,nd->n", apart, apart))

    far = np.concatenate(_by_rows(distances, columns))
    # Most rows may be equal, as images of nothing are.
    most = _FARTHEST * np.median(far[far > 0]) if far.any() else 0.0
    beyond = far > most
    if not beyond.any():
        return columns
    columns = columns.copy()
    inward = (most / far[beyond])[:, None] * (columns[beyond] / np.float64(scale) - centre) + centre
    columns[beyond] = inward * scale
    return columns


def _common(columns: np.ndarray, name: str) -> np.ndarray:
    scale = _largest(columns, name)  # squares of values such as 1e200 overflow
    centre = _mean(columns, scale)
    prepared = _aligned(columns.shape)

    def centred(rows: np.ndarray, out: np.ndarray) -> float:
        apart = rows / scale - centre
        out[:] = apart
        return float(np.einsum("nd,nd->n", apart, apart).sum(dtype=np.float64))

    spread = math.sqrt(sum(_by_rows(centred, columns, prepared)) / columns.size)
    _by_rows(lambda rows: np.divide(rows, spread if spread > 0 else 1, out=rows), prepared)
    return prepared


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty float32 array in memory that JAX takes over on a CPU instead of copying it."""
    memory = np.empty(4 * math.prod(shape) + 63, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape)


def _largest(columns: np.ndarray, name: str) -> float:
    """The largest absolute value, 1 if all are 0; raises if one is not finite."""
    ends = _by_rows(lambda rows: (np.max(rows), np.min(rows)), columns)
    largest = float(np.max(np.abs(ends)))
    if not math.isfinite(largest):
        _check_finite(columns, name)
    return largest if largest > 0 else 1.0


def _mean(columns: np.ndarray, scale: float) -> np.ndarray:
    """The mean of the rows over `scale`, in their own precision; blocks are summed in float64."""
    sums = _by_rows(lambda rows: np.sum(rows / scale, axis=0), columns)
    return (np.sum(sums, axis=0, dtype=np.float64) / len(columns)).astype(columns.dtype)


def _by_rows(function: Callable, *arrays: np.ndarray) -> list:
    """function(block of rows of each array), of blocks that fit in the cache, on all cores."""
    n = len(arrays[0])
    size = max(1, _AT_ONCE // max(1, math.prod(arrays[0].shape[1:])))
    cuts = [slice(start, start + size) for start in range(0, n, size)]
    with ThreadPoolExecutor(_cores()) as pool:
        return list(pool.map(lambda cut: function(*(array[cut] for array in arrays)), cuts))


@jit(static_argnames=("count",), seldom=True)
def principal_axes(columns: Array, count: int) -> Array:
    """The first principal axes of centred samples, by a randomised range finder.

    Halko, Martinsson and Tropp 2011, with a fixed key and two power iterations.

    Args:
      columns: (n, d), centred.
      count: how many.

    Returns:
      Orthonormal axes, (d, min(count, n, d)).
    """
    count = min(count, *columns.shape)
    probes = min(count + 12, *columns.shape)
    basis = jax.random.normal(jax.random.key(0), (columns.shape[1], probes))
    for _ in range(3):
        basis, _ = jnp.linalg.qr(columns.T @ (columns @ basis))
    inside = columns @ basis
    _, axes = jnp.linalg.eigh(inside.T @ inside)
    return basis @ axes[:, ::-1][:, :count]


def components(values: ArrayLike, count: int, name: str = "x") -> Array | None:
    """The first principal components of (n, …), (n, count); None if there are not as many."""
    columns = prepare(np.asarray(values).reshape(len(values), -1), name, scale="common")
    if min(columns.shape) < count:
        return None
    return columns @ principal_axes(columns, count)


def turn(columns: ArrayLike, towards: ArrayLike) -> Array:
    """The rotation that brings columns closest to others of the same samples.

    Orthogonal Procrustes (Schönemann 1966). Principal components of a layer at another time may
    have other signs and another order, and a statistics network of the earlier ones would then
    know nothing of the later; turned towards something fixed, they stay alike. What they tell
    stays as it is.

    Args:
      columns: (n, k).
      towards: (n, k); with another number of columns there is no turning.

    Returns:
      An orthogonal matrix, (k, k), to multiply the columns by from the right.
    """
    columns, towards = jnp.asarray(columns), jnp.asarray(towards)
    if columns.shape != towards.shape:
        return jnp.eye(columns.shape[1], dtype=columns.dtype)
    return _turn(columns, towards)


@jit(seldom=True)
def _turn(columns: Array, towards: Array) -> Array:
    u, _, v = jnp.linalg.svd(columns.T @ towards, full_matrices=False)
    return u @ v


@jit(seldom=True)
def _principal_components(columns: Array, axes: Array | None = None) -> Array:
    """The first `COMPONENTS`, or those along other axes, divided by one number.

    A component keeps its share of the variance, so that what varies little counts little.
    """
    components = columns @ (principal_axes(columns, COMPONENTS) if axes is None else axes)
    return components / jnp.sqrt(jnp.mean(jnp.square(components)) + 1e-30)


def _as_images(values: np.ndarray) -> np.ndarray | None:
    """Samples as (n, h, w, c) if they are, or if vectors may be, images."""
    if values.ndim == 4 and min(values.shape[1:3]) >= 4:
        return values
    if values.ndim == 3 and min(values.shape[1:]) >= 4:
        return values[..., None]
    side = math.isqrt(values.shape[1])
    if values.ndim == 2 and side * side == values.shape[1]:
        return values.reshape(-1, side, side, 1)
    return None


def moments(images: ArrayLike) -> np.ndarray:
    """Where the light of an image is and how it is spread (moments up to the second order).

    Hu 1962, "Visual pattern recognition by moment invariants".
    A pixel's weight is the square of its difference from its image's median, summed over the
    channels, so that a flat background and weak noise count little, and dark on bright is the same
    as bright on dark.

    Args:
      images: (n, h, w, c), finite.

    Returns:
      (n, 10): mean value and log of the sum of the weights (both of images divided by the largest
      absolute value of all), row and column of the weights' centre, variances of row and column,
      the two components of the ellipticity, which tell the direction of a long shape, and that
      direction in radians from −π/2 to π/2, once from the row axis and once from the column axis,
      as it jumps at the ends; 0 for shapes that are not long. Rounded to what is clear of rounding
      errors. Of an image without contrast the sum of the weights is the smallest of all, and its
      centre is the middle.
    """
    images = np.asarray(images)
    largest = max(np.max(images), -np.min(images))
    scale = float(largest) if largest > 0 else 1.0  # squares of values such as 1e200 overflow
    found = np.concatenate(_by_rows(partial(_moments, scale=scale), images))
    found[:, 1] = np.log(np.maximum(found[:, 1], 1e-20))
    along, across = found[:, 6], found[:, 7]
    long = np.hypot(along, across) > _LONG
    directions = [np.arctan2(sign * across, sign * along) / 2 for sign in (1, -1)]
    found = np.concatenate([found, np.stack(directions, axis=1) * long[:, None]], axis=1)
    # Ranks would make a column of the last digits of what is constant.
    return found.round(6)


def _moments(images: np.ndarray, scale: float) -> np.ndarray:
    """`moments` of some images, divided by `scale`; the sum of the weights as it is."""
    n, height, width, channels = images.shape
    pixels = np.moveaxis(images, -1, 1).reshape(n, channels, height * width)
    pixels = np.divide(pixels, scale, dtype=np.float64)
    apart = pixels - np.median(pixels, axis=2, keepdims=True)
    weights = np.einsum("ncp,ncp->np", apart, apart).reshape(n, height, width)
    total = weights.sum(axis=(1, 2))
    flat = total <= 1e-20
    weights[flat] = 0
    # The middle pixels of an image without contrast.
    weights[flat, (height - 1) // 2 : height // 2 + 1, (width - 1) // 2 : width // 2 + 1] = 1
    share = weights / weights.sum(axis=(1, 2), keepdims=True)
    rows, columns = np.arange(height), np.arange(width)
    on_rows, on_columns = share.sum(axis=2), share.sum(axis=1)
    row, column = on_rows @ rows, on_columns @ columns
    off_rows, off_columns = rows - row[:, None], columns - column[:, None]
    row_variance = np.einsum("nh,nh->n", on_rows, off_rows**2)
    column_variance = np.einsum("nw,nw->n", on_columns, off_columns**2)
    covariance = np.einsum("nhw,nh,nw->n", share, off_rows, off_columns, optimize=True)
    spread = row_variance + column_variance
    spread = np.where(spread > 0, spread, 1)
    found = [
        pixels.mean(axis=(1, 2)),
        total,
        row,
        column,
        row_variance,
        column_variance,
        (row_variance - column_variance) / spread,
        2 * covariance / spread,
    ]
    return np.stack(found, axis=1)


def _check_finite(block: np.ndarray, name: str) -> None:
    if not np.isfinite(block).all():
        row = int(np.argwhere(~np.isfinite(block))[0, 0])
        raise ValueError(
            f"{name} has a value that is not finite in row {row}; remove or rescale it"
        )


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
    return jax.nn.one_hot(positions, len(classes), dtype=jnp.uint8)


def _estimate(
    report: tuple[bounds.HeldOut, ...],
    stop: tuple[bounds.HeldOut, ...],
    train: tuple[np.ndarray, ...],
    info: FitInfo,
    state: MineState,
    config: MineConfig,
) -> Estimate:
    """One network's estimate; each value comes in both forms, with the folds in front.

    Of `train` there are values alone.
    """
    value = mine.better_form(stop[0].nats, stop[1].nats, report[0].influence.shape[-1])
    robust = np.asarray(value != stop[0].nats)  # for each fold

    def chosen(forms: tuple[bounds.HeldOut, ...]) -> bounds.HeldOut:
        return bounds.HeldOut(
            *(
                np.where(robust.reshape(-1, *[1] * (first.ndim - 1)), second, first)
                for first, second in zip(*forms, strict=True)
            )
        )

    def mean(forms: tuple[bounds.HeldOut, ...]) -> tuple[float, float]:
        held_out = chosen(forms)
        stderr = float(np.sqrt(np.sum(held_out.stderr**2)) / len(held_out.stderr))
        return float(held_out.nats.mean()), stderr

    reported = chosen(report)
    size, stopping = (forms[0].influence.shape[1] for forms in (report, stop))
    ceiling = math.log(size)
    (raw, stderr), (stop_nats, stop_stderr) = map(mean, (report, stop))
    train_nats = float(np.where(robust, train[1], train[0]).mean())
    nats = min(raw, ceiling) if math.isfinite(raw) else raw
    converged = bool(info.converged.all() and info.finite.all())
    warnings = []
    if not math.isfinite(nats):
        warnings.append(f"The value is {nats}: a network's scores on the reporting samples are.")
    if not info.finite.all():
        warnings.append("A network diverged and was set back; lower the learning rate.")
    # At the ceiling all samples have the same share, too.
    nothing = abs(raw) < 1e-6 and np.all(np.ptp(reported.influence, axis=-1) < 1e-6)
    if info.finite.all() and not converged and not nothing:
        warnings.append(
            f"Stopped at the cap of {config.max_steps} steps, not by the stopping samples; the "
            "value may grow."
        )
    if stopping < _FEW:
        warnings.append(f"Only {stopping} stopping samples chose the state: collect more.")
    if nothing:
        warnings.append(
            "No network gained on the stopping samples: independent, still on the first plateau, "
            "or not learnt from so few."
        )
    most = ceiling - mine.CEILING_MARGIN
    # InfoNCE stays below where the other form, which is not trusted there, tells of more.
    beyond = np.mean(~(stop[0].nats <= most)) >= 0.5
    if raw + 2 * stderr > most or beyond:
        warnings.append(
            f"Near the ceiling of {ceiling:.2f} nats that {size} reporting samples can support; "
            "the truth may be far above."
        )
    if taken_off := _taken_off(reported.influence, stderr):
        warnings.append(
            f"A single reporting sample takes {taken_off:.2f} nats or more off the value, which is "
            "low by chance; more samples would help."
        )
    if train_nats - nats > max(0.1, 0.2 * nats) + 3 * stderr:
        warnings.append(
            f"Over-fitted: {train_nats:.2f} nats on training samples; more samples would help."
        )
    forms = {"infonce" if is_robust else "donsker_varadhan" for is_robust in robust}
    form = "nwj" if config.bound == "nwj" else forms.pop() if len(forms) == 1 else "mixed"
    return Estimate(
        nats=nats,
        stderr=stderr,
        stop_nats=stop_nats,
        stop_stderr=stop_stderr,
        train_nats=train_nats,
        ceiling_nats=ceiling,
        steps=int(info.steps.max()),
        converged=converged,
        history=History(info.steps_at, info.batch_nats, info.stop_nats),
        state=state,
        warnings=tuple(warnings),
        influence=np.asarray(reported.influence),
        form=form,
    )


def _taken_off(influence: np.ndarray, stderr: float) -> float:
    """Nats that one reporting sample takes off the value; 0 if that is no more than usual."""
    # The constant of T moves all of them alike.
    heaviest = -float((influence - influence.mean(axis=-1, keepdims=True)).min()) / influence.size
    return heaviest if heaviest > max(_HEAVY, _SHARE_OF_STDERR * stderr) else 0.0


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


def _check_samples(
    x: Mapping[str, Array], z: Mapping[str, Array], config: MineConfig, blocks: int = 1
) -> None:
    in_x, in_z = ({name: len(value) for name, value in side.items()} for side in (x, z))
    if len({*in_x.values(), *in_z.values()}) != 1:
        raise ValueError(
            f"all arrays must have the same number of samples, got x {in_x} and z {in_z}"
        )
    rows = next(iter(in_x.values()))
    if rows % blocks:
        raise ValueError(f"with noise the arrays hold two blocks of samples, got {rows} rows")
    n = rows // blocks
    part, stop = n // config.folds, round(n * config.stop_fraction)
    if min(part, stop, n - part - stop) < 2:
        raise ValueError(
            f"{n} samples are too few: training, stopping and reporting need at least 2 each with "
            f"folds = {config.folds} and stop_fraction = {config.stop_fraction}"
        )
