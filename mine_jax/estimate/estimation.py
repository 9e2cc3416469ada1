"""`lower_bound`: prepare and split the samples, choose a start, fit, evaluate, report."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mine_jax import devices
from mine_jax.estimate.gaussian_start import choose_start
from mine_jax.estimate.preparation import prepare, shared_axes
from mine_jax.estimate.result import Estimate, make_estimate
from mine_jax.estimate.splitting import (
    Grouping,
    Splits,
    group_rows,
    sizes,
    split,
    unused_warning,
)
from mine_jax.estimate.variables import Variable, read_variables
from mine_jax.mine import FitInfo, MineConfig, MineState, Samples, is_labels, stack
from mine_jax.mine.evaluation import evaluate_rows, evaluate_values, normalizes
from mine_jax.mine.fitting import fit_stack
from mine_jax.mine.stack import Array, Data
from mine_jax.mine.training import check_key, check_same_shapes, expected_state, init_stack

MAX_CONCATENATED_COLUMNS = 2  # up to which the concatenated network is affordable, and sharper
MAX_PADDING = 16  # factor by which samples may be padded to share the program of wider ones

OnProgress = Callable[[int, int, str], None]


class Pair(NamedTuple):
    """Paired samples of two variables.

    Attributes:
      x: prepared samples, not labels.
      z: prepared samples, or labels.
      seed: seed of the first weights; it distinguishes several fits of the same samples.
    """

    x: Samples
    z: Samples
    seed: int = 0


class Group(NamedTuple):
    """Pairs whose networks have one shape, up to padding, and are fitted as one stack.

    Attributes:
      names: of the pairs.
      pairs: their samples.
      config: the configuration with the network chosen.
    """

    names: tuple[str, ...]
    pairs: tuple[Pair, ...]
    config: MineConfig


def lower_bound(
    x: Any,
    z: Any,
    *,
    key: Array | None = None,
    config: MineConfig | None = None,
    init: Estimate | MineState | Mapping[str, Any] | None = None,
    discrete: Any = "auto",
    groups: Any = None,
    blocks: int | None = None,
) -> Estimate | dict[str, Estimate]:
    """Estimate I_Θ(X; Z), a lower bound on the mutual information of paired samples, in nats.

    MINE (Belghazi et al. 2018): statistics networks ascend a bound on training samples, validation
    samples choose the state, and test samples give its value. By default the samples are split into
    five parts, and each part is for testing once, on a network that was trained without it.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(1000, 1))
    >>> estimate = lower_bound(x, np.sign(x[:, 0]).astype(int))
    >>> abs(estimate.nats - np.log(2)) < 0.05
    True

    Args:
      x: (n, …), an array, list, data frame, tensor or sparse matrix. Text, categories, booleans,
        one-hot columns, and one column of numbers that repeat often, are labels; (n, h, w) and
        (n, h, w, c) with at least 8 × 8 pixels and at most 4 channels are images; all else are
        columns of numbers. See `variables.read_variable`, and `prepare` for what follows.
      z: (n, …) likewise, or a mapping of names to such arrays: then all networks are fitted at
        once, on the same samples in the same pairs.
      key: a PRNG key; it fixes the split, the networks and the batches. Default: key(0).
      config: how networks are built, trained, stopped and evaluated. Default: `MineConfig()`.
      init: the `Estimate`, or its `state`, of an earlier call of the same widths and configuration
        to warm-start from; for a mapping, a mapping of them of the same names. The test samples are
        unseen only if samples and key are unchanged.
      discrete: "auto"; True if each different row is a label, False if all values are numbers; or
        a pair of these for x and for z, and in place of that for z a mapping of names to them.
      groups: (n,), hashable objects, equal for rows that are not independent, such as those of one
        patient. They are on one side of every split, and the standard error counts groups. Copies
        of rows are kept together without being asked for.
      blocks: rows are a series in order: cut it into so many blocks, and keep them like groups. A
        tenth of a block on either side of a boundary between two uses is dropped. Blocks should be
        much longer than what rows remember, and at least 10.

    Returns:
      An `Estimate`; for a mapping, a dict of them with the same names.

    Raises:
      TypeError: if `key` is no PRNG key, `config` no `MineConfig`, or x a mapping.
      ValueError: if numbers of samples differ or are too small, values are missing or not finite,
        there are too many labels, x or z cannot be read otherwise, `init` does not fit, or groups
        or blocks are too few.
    """
    key = jax.random.key(0) if key is None else check_key(key, "lower_bound(key=…)")
    config = MineConfig() if config is None else config
    if not isinstance(config, MineConfig):
        raise TypeError(f"config must be a MineConfig, got {config!r}")
    if isinstance(x, Mapping):
        raise TypeError("x must be one array; only z may be a mapping of names to arrays")
    named = dict(z) if isinstance(z, Mapping) else {"z": z}
    if not named:
        raise ValueError("z is an empty mapping; give at least one array")
    if wrong := [name for name in named if not isinstance(name, str)]:
        raise ValueError(f"names of arrays must be strings, got {wrong}")
    states = None
    if init is not None:
        inits = init if isinstance(z, Mapping) else {"z": init}
        if not isinstance(inits, Mapping) or set(inits) != set(named):
            got = sorted(inits) if isinstance(inits, Mapping) else type(inits).__name__
            raise ValueError(f"init must have the names of z, {sorted(named)}, got {got}")
        states = {name: _state_of(earlier) for name, earlier in dict(inits).items()}
    x_variable, z_variables = read_variables(x, named, discrete)
    grouping, warnings = group_rows(x_variable, z_variables, config, groups, blocks)
    pairs = prepare_pairs(x_variable, z_variables, config)
    estimates = lower_bounds(pairs, key=key, config=config, init=states, grouping=grouping)
    for name, estimate in estimates.items():
        all_warnings = estimate.warnings + warnings[name]
        estimates[name] = dataclasses.replace(estimate, warnings=all_warnings)
    return estimates if isinstance(z, Mapping) else estimates["z"]


def prepare_pairs(x: Any, z: Mapping[str, Any], config: MineConfig) -> dict[str, Pair]:
    """Prepare the samples of `lower_bound`, or `Variable`s of them; labels come on the side of z.

    If one side is labels, the other side's columns are passed both as normal scores and
    standardized: ranks would hide the two clusters of a softmax output.
    """
    custom = isinstance(config.network, nn.Module)
    keep_shape = custom or config.network == "convolutional"
    x_side, z_sides = read_variables(x, z)
    x_values = _samples_of(x_side, keep_shape)
    prepared: dict[tuple, Array] = {}  # x, which several networks may share

    def prepare_x(scale: str, axes: Any, partner: str) -> Array:
        place = scale, None if axes is None else partner
        if place not in prepared:
            prepared[place] = prepare(x_values, "x", scale, keep_shape=keep_shape, axes=axes)
        return prepared[place]

    pairs = {}
    for name, z_side in z_sides.items():
        values = _samples_of(z_side, keep_shape)
        scale, axes = "auto", None
        labels = [side.kind == "labels" for side in (x_side, z_side)]
        if config.preparation == "standardized":
            scale = "standardized"
        elif any(labels) and not all(labels):
            scale = "auto" if custom else "both"
        elif not keep_shape:
            axes = shared_axes(x_values, values, ("x", name))
        left = prepare_x(scale, axes, name)
        right = prepare(values, name, scale, keep_shape=keep_shape, axes=axes)
        if is_labels(left) and not is_labels(right):
            left, right = right, left
        if is_labels(left):
            left = left.astype(jnp.float32)
        pairs[name] = Pair(Samples(left), Samples(right))
    return pairs


def lower_bounds(
    pairs: Mapping[str, Pair],
    *,
    key: Array,
    config: MineConfig,
    init: Mapping[str, MineState] | None = None,
    round_number: int = 0,
    on_progress: OnProgress | None = None,
    grouping: Grouping | None = None,
) -> dict[str, Estimate]:
    """Estimate many pairs of prepared samples, networks of a kind at once.

    Args:
      pairs: names to pairs, all with the same n.
      key: a PRNG key. The same key and n give the same split.
      config: the configuration.
      init: states to warm-start from, `Estimate.state` of an earlier call by the same names. With
        another key they have seen samples that test here.
      round_number: rounds of the same key have different batches (and first weights).
      on_progress: called after each check with the number of steps, their maximum, and the values
        of the networks on the validation samples as text.
      grouping: rows that stay together, see `split`.

    Returns:
      The estimates, by the same names.

    Raises:
      ValueError: if the samples are too few, or `init` does not fit.
    """
    n = _num_samples(pairs, config)
    if init is not None:
        _check_init(init, pairs, config)
    split_key, round_key = jax.random.split(key)
    rows = split(split_key, n, config, grouping)
    test_groups = None if grouping is None else grouping.codes[rows.test]
    init_key, fit_key = jax.random.split(jax.random.fold_in(round_key, round_number))
    fit_keys = jax.random.split(fit_key, len(rows.train))
    groups = group_pairs(pairs, config)
    estimates: dict[str, Estimate] = {}
    for number, group in enumerate(groups):

        def on_check(
            steps: int, max_steps: int, info: FitInfo, number: int = number, group: Group = group
        ) -> None:
            if on_progress is not None:
                values = info.validation_nats[-1].reshape(len(group.names), -1).mean(axis=1)
                text = " ".join(
                    f"{name} {nats:.2f}" for name, nats in zip(group.names, values, strict=True)
                )
                on_progress(number * max_steps + steps, len(groups) * max_steps, text)

        with devices.for_networks(len(group.names) * len(fit_keys)):
            estimates |= _fit_group(group, rows, init_key, fit_keys, init, on_check, test_groups)
    if grouping is not None:
        unused = unused_warning(rows, n)
        for name, each in estimates.items():
            estimates[name] = dataclasses.replace(each, warnings=each.warnings + unused)
    return {name: estimates[name] for name in pairs}


def _fit_group(
    group: Group,
    rows: Splits,
    init_key: Array,
    fit_keys: Array,
    init: Mapping[str, MineState] | None,
    on_check: Callable[[int, int, FitInfo], None],
    test_groups: np.ndarray | None = None,
) -> dict[str, Estimate]:
    """Start, fit and evaluate the networks of a group; those of a pair are one per fold."""
    config, folds = group.config, len(rows.train)
    data = devices.replicate(_stack_group(group, folds))
    init_key, fit_keys = devices.replicate((init_key, fit_keys))
    state = _init_group(group, data, init_key, folds)
    shapes = _shapes(dict(zip(group.names, group.pairs, strict=True)), config)
    fold = np.tile(np.arange(folds, dtype=np.int32), len(group.names))
    num_test = rows.test.shape[1]
    earlier = None
    if init is not None:
        padded = jax.eval_shape(lambda: stack.select(state, slice(0, folds)))
        earlier = stack.concatenate([stack.resize(init[name], padded) for name in group.names])
    noise_alone = stack.is_noise_alone([(pair.x, pair.z) for pair in group.pairs])
    state = choose_start(
        *(state, earlier, data, rows.train, rows.validation, fold, num_test, config), noise_alone
    )
    state, info = fit_stack(
        fit_keys, state, data, rows.train, rows.validation, fold, num_test, config, on_check
    )
    normalize = normalizes(data, config)
    over = jnp.asarray(rows.train)[fold] if normalize else None
    test, validation = (
        jax.tree.map(np.asarray, evaluate_rows(state, data, jnp.asarray(part)[fold], config, over))
        for part in (rows.test, rows.validation)
    )
    train_rows = jnp.asarray(rows.train[:, :num_test])[fold]
    every = np.ones(len(fold), bool)
    train = jax.tree.map(np.asarray, evaluate_values(state, every, data, train_rows, config))
    if normalize:  # training samples cannot normalize their own scores; InfoNCE does so by itself
        train = train[1], train[1]
    estimates = {}
    for i, name in enumerate(group.names):
        networks = slice(i * folds, (i + 1) * folds)
        estimates[name] = make_estimate(
            stack.select(test, networks),
            stack.select(validation, networks),
            stack.select(train, networks),
            FitInfo(info.steps_at, *(values[..., networks] for values in info[1:])),
            stack.resize(stack.select(state, networks), shapes[name]),
            config,
            test_groups,
        )
    return estimates


def _stack_group(group: Group, folds: int) -> Data:
    return stack.stack_samples([(pair.x, pair.z) for pair in group.pairs], repeats=folds)


def _init_group(group: Group, data: Data, key: Array, folds: int) -> MineState:
    """Return the untrained networks of a group with its stacked samples."""
    seeds = jnp.array([pair.seed for pair in group.pairs])
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.fold_in(key, seed), folds))(
        seeds
    ).reshape(-1)
    return init_stack(keys, data, group.config)


def init_states(pairs: Mapping[str, Pair], config: MineConfig, key: Array) -> dict[str, MineState]:
    """Return untrained networks of every pair, folds in front, as `Estimate.state` has them.

    Args:
      pairs: names to pairs; shapes and types of the samples are enough under `jax.eval_shape`.
      config: the configuration.
      key: a PRNG key.
    """
    folds = config.folds if config.cross_fit else 1
    states = {}
    for name, pair in pairs.items():
        (group,) = group_pairs({name: pair}, config)
        states[name] = _init_group(group, _stack_group(group, folds), key, folds)
    return states


def _shapes(pairs: Mapping[str, Pair], config: MineConfig) -> dict[str, MineState]:
    """Return the shapes of each pair's networks, folds in front, without the padding of a group."""
    folds = config.folds if config.cross_fit else 1
    shapes = {}
    for name, pair in pairs.items():
        (group,) = group_pairs({name: pair}, config)
        sides = tuple(
            (
                (1, *side.measured.shape),
                side.measured.dtype,
                (stack.num_columns(side.measured),),
                (0,) * folds,
            )
            for side in (pair.x, pair.z)
        )
        shapes[name] = expected_state(sides, group.config)
    return shapes


def group_pairs(pairs: Mapping[str, Pair], config: MineConfig) -> list[Group]:
    """Group pairs whose networks can share one program.

    Those are networks of one kind, with the same number of classes, or with numbers of columns that
    differ by less than a factor of `MAX_PADDING`: narrower samples are padded.
    """
    groups: dict[tuple, list[str]] = {}
    networks = {}
    for name, pair in pairs.items():
        x, z = pair.x.measured, pair.z.measured
        network = config.network if config.network != "auto" else choose_network(x, z)
        networks[name] = network
        if isinstance(network, nn.Module):
            kind: tuple = x.shape[1:], z.shape[1:], is_labels(z)
        else:
            classes = z.shape[1] if is_labels(z) else 0
            kind = network, classes, _width_class(x), 0 if classes else _width_class(z)
        groups.setdefault(kind, []).append(name)
    return [
        Group(
            tuple(names),
            tuple(pairs[name] for name in names),
            dataclasses.replace(config, network=networks[names[0]]),
        )
        for names in groups.values()
    ]


def _width_class(samples: Array) -> Any:
    if len(samples.shape) == 4:
        return samples.shape[1:]
    return math.ceil(math.log(2 * samples.shape[1], MAX_PADDING))


def choose_network(x: Array, z: Array) -> str:
    """Return the statistics network that `network="auto"` means for prepared samples.

    "concatenated" where both sides are numbers of at most `MAX_CONCATENATED_COLUMNS` columns: it
    represents sharper edges, and a pass for every pair is affordable there; else "separable".
    """
    narrow = max(stack.num_columns(x), stack.num_columns(z)) <= MAX_CONCATENATED_COLUMNS
    return "concatenated" if narrow and not is_labels(z) else "separable"


def _samples_of(side: Variable, keep_shape: bool) -> np.ndarray:
    return side.values.reshape(side.shape) if keep_shape else side.values


def _state_of(init: Any) -> MineState:
    state = init.state if isinstance(init, Estimate) else init
    if not isinstance(state, MineState):
        raise ValueError(f"init must be an Estimate or its state, got {type(state).__name__}")
    return state


def _check_init(
    init: Mapping[str, MineState], pairs: Mapping[str, Pair], config: MineConfig
) -> None:
    if set(init) != set(pairs):
        raise ValueError(
            f"init has states of {sorted(init)}, but the pairs are {sorted(pairs)}; start cold, or "
            "give a state of each"
        )
    wanted = _shapes(pairs, config)
    for name, state in init.items():
        check_same_shapes(state, wanted[name])


def _num_samples(pairs: Mapping[str, Pair], config: MineConfig) -> int:
    """Return n; raise ValueError if it is not one, or too small."""
    sides: Sequence[Samples] = [side for pair in pairs.values() for side in (pair.x, pair.z)]
    lengths = {len(side.measured) for side in sides}
    if len(lengths) != 1:
        raise ValueError(f"all samples must have the same n, got {sorted(lengths)}")
    (n,) = lengths
    test, validation = sizes(n, config)
    if min(test, validation, n - test - validation) < 2:
        raise ValueError(
            f"{n} samples are too few: training, validation and test need at least 2 each with "
            f"folds = {config.folds} and validation_fraction = {config.validation_fraction}"
        )
    return n
