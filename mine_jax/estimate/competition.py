"""`lower_bounds`: networks for each pair and fold; encoders compete on the validation samples."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mine_jax import devices
from mine_jax.compilation import jit, on_host
from mine_jax.estimate.gaussian_start import choose_start
from mine_jax.estimate.pairs import (
    Group,
    Pair,
    expected_states,
    group_pairs,
    init_group,
    is_noise_alone,
    stack_group,
)
from mine_jax.estimate.result import Estimate, make_estimate
from mine_jax.estimate.splitting import (
    Grouping,
    Splits,
    pad_splits,
    sizes,
    split,
    split_key,
    unused_warning,
)
from mine_jax.mine import FitInfo, HeldOut, MineConfig, MineState, stack
from mine_jax.mine.evaluation import evaluate_rows, evaluate_values, normalizes, num_shuffles
from mine_jax.mine.fitting import Progress, Task, chosen_state, continue_fit, fit_info, start_fit
from mine_jax.mine.padding import next_power_of_two, pad_rows
from mine_jax.mine.stack import Array
from mine_jax.mine.training import check_same_shapes
from mine_jax.progress import OnProgress

TRIALS = (200, 500)  # steps after which half of a pair's encoders go on, and then one

States = MineState | Mapping[str, MineState]


class Training(NamedTuple):
    """The networks of a group, those of a pair one after another, one for each fold.

    Attributes:
      group: the group.
      task: its samples and the split.
      progress: its fit so far.
      active: networks that still compete, (networks,).
    """

    group: Group
    task: Task
    progress: Progress
    active: np.ndarray

    @property
    def folds(self) -> int:
        """Number of folds."""
        return len(self.task.fold) // len(self.group.names)

    @property
    def state(self) -> MineState:
        """The networks to report."""
        return chosen_state(self.progress, self.group.config)


class HeldOutParts(NamedTuple):
    """Values of networks on test, validation and training samples, in both forms."""

    test: Any
    validation: Any
    train: Any


@on_host
def lower_bounds(
    pairs: Mapping[str, Pair | Sequence[Pair]],
    *,
    key: Array,
    config: MineConfig,
    init: Mapping[str, States] | None = None,
    encoders: Mapping[str, Sequence[str]] | None = None,
    round_number: int = 0,
    on_progress: OnProgress | None = None,
    grouping: Grouping | None = None,
    padded: bool = False,
) -> dict[str, Estimate]:
    """Estimate many pairs of prepared samples, networks of a kind at once.

    Where a name has several pairs, their encoders compete, fold by fold: after `TRIALS` of a few
    steps the better half on the fold's validation samples goes on (successive halving, Jamieson and
    Talwalkar 2016), until one is left. Test samples, and other names, have no part in it.

    Args:
      pairs: names to pairs, all with the same n; or to several pairs of the same samples.
      key: a PRNG key. The same key and n give the same split.
      config: the configuration.
      init: states to warm-start from, `Estimate.state` of an earlier call by the same names. With
        another key they have seen samples that test here.
      encoders: names to the encoder of each fold, where there are several pairs and no competition
        is wanted, such as `Estimate.encoders` of an earlier call.
      round_number: rounds of the same key have different batches (and first weights).
      on_progress: called after each check with the number of steps, their maximum, and the values
        of the networks on the validation samples as text.
      grouping: rows that stay together, see `split`.
      padded: pad samples and rows to those of the next power of two, so that no program is compiled
        for each n; it takes up to twice the memory, and changes results up to rounding.

    Returns:
      The estimates, by the same names.

    Raises:
      ValueError: if the samples are too few, or `init` does not fit.
      RuntimeError: as `lower_bound`.
    """
    chosen = {} if encoders is None else encoders
    # Names without a competition are fitted apart: it would prolong theirs.
    by_trials: dict[bool, dict[tuple[str, str], Pair]] = {}
    for name, each in pairs.items():
        of_name = [each] if isinstance(each, Pair) else each
        compete = len(of_name) > 1 and name not in chosen
        by_trials.setdefault(compete, {}).update({(name, pair.encoder): pair for pair in of_name})
    entries = {entry: pair for alike in by_trials.values() for entry, pair in alike.items()}
    n = num_samples(entries, config)
    rows = split(split_key(key), n, config, grouping)
    num_rows = next_power_of_two(n) if padded else None
    earlier = None if init is None else _earlier_states(init, entries, config)
    keys = round_keys(key, round_number, len(rows.train))
    winners = [
        training
        for alike in by_trials.values()
        for training in train_groups(
            group_pairs(alike, config, num_rows), rows, keys, earlier, chosen, on_progress
        )
    ]
    codes = None if grouping is None else grouping.codes
    estimates = report(winners, list(pairs), rows, config, codes)
    if grouping is not None:
        unused = unused_warning(rows, n)
        for name, estimate in estimates.items():
            estimates[name] = dataclasses.replace(estimate, warnings=estimate.warnings + unused)
    return estimates


def train_groups(
    groups: Sequence[Group],
    rows: Splits,
    keys: tuple[Array, Array],
    earlier: Mapping[Any, MineState] | None,
    chosen: Mapping[str, Sequence[str]],
    on_progress: OnProgress | None,
) -> list[Training]:
    """Fit the networks of all groups; in each fold those of one encoder for each name stay active.

    Args:
      groups: pairs under (name, encoder).
      rows: the split.
      keys: for the first weights, (), and for the batches, (folds,).
      earlier: states to start from, by (name, encoder); None to start cold.
      chosen: names to the encoder of each fold, where it is known.
      on_progress: see `lower_bounds`.
    """
    trainings = []
    for group in groups:
        active = [
            name not in chosen or chosen[name][fold] == encoder
            for name, encoder in group.names
            for fold in range(len(rows.train))
        ]
        trainings.append(_start(group, rows, keys, earlier, np.array(active)))
    for until in TRIALS:
        if any(len(others) > 1 for others in competitors(trainings).values()):
            trainings = [_fit(each, keys[1], until, on_progress) for each in trainings]
            trainings = _halve(trainings, last=until == TRIALS[-1])
    return [_fit(each, keys[1], None, on_progress) for each in trainings]


@jit(static_argnames=("folds",), fast_compile=True)
def round_keys(key: Array, round_number: int, folds: int) -> tuple[Array, Array]:
    """Return the key of the first weights and the keys of the folds' batches."""
    init_key, fit_key = jax.random.split(jax.random.fold_in(jax.random.split(key)[1], round_number))
    return init_key, jax.random.split(fit_key, folds)


def _start(
    group: Group,
    rows: Splits,
    keys: tuple[Array, Array],
    earlier: Mapping[Any, MineState] | None,
    active: np.ndarray,
) -> Training:
    """Choose where the networks of a group start."""
    folds = len(rows.train)
    fold = np.tile(np.arange(folds, dtype=np.int32), len(group.names))
    with devices.for_networks(len(fold)):
        data = devices.replicate(stack_group(group, folds))
        state = init_group(group, data, devices.replicate(keys[0]), folds)
        before = None
        if earlier is not None:
            padded = jax.eval_shape(lambda: stack.select(state, slice(0, folds)))
            before = stack.concatenate(
                [stack.resize(earlier[name], padded) for name in group.names]
            )
        num_test = rows.test.shape[1]
        rows = pad_splits(rows, group.num_rows, group.config)
        state = choose_start(
            *(state, before, data, rows.train, rows.validation, fold, num_test, group.config),
            is_noise_alone(group),
        )
        task = Task(data, rows.train, rows.validation, fold, num_test, group.config)
        return Training(group, task, start_fit(state, task), active)


def _fit(
    training: Training, fit_keys: Array, until: int | None, on_progress: OnProgress | None
) -> Training:
    """Train the active networks to so many steps, or to the end."""
    group = training.group
    if not training.active.any():
        return training

    def on_check(steps: int, limit: int, info: FitInfo) -> None:
        if on_progress is not None:
            nats = np.where(training.active, info.validation_nats[-1], np.nan)
            values = nats.reshape(len(group.names), -1)
            text = " ".join(
                f"{_label(name)} {np.nanmean(each):.2f}"
                for name, each in zip(group.names, values, strict=True)
                if np.isfinite(each).any()
            )
            on_progress(steps, limit, text)

    with devices.for_networks(len(training.task.fold)):
        progress = continue_fit(
            devices.replicate(fit_keys),
            training.progress,
            training.task,
            until,
            training.active,
            on_check,
        )
    return training._replace(progress=progress)


def _label(name: tuple[str, str]) -> str:
    return name[0] if name[1] == "given" else " ".join(name)


def competitors(trainings: Sequence[Training]) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """Return for each (name, fold) the places (training, network) that are active."""
    places: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for number, training in enumerate(trainings):
        for network in np.flatnonzero(training.active):
            name, _ = training.group.names[network // training.folds]
            key = name, int(training.task.fold[network])
            places.setdefault(key, []).append((number, int(network)))
    return places


def _halve(trainings: Sequence[Training], last: bool) -> list[Training]:
    """Leave the better half of each name's networks of a fold active; with `last` the best one.

    The first trial is too short to tell the last two apart.
    """
    best = [each.progress.best_nats for each in trainings]
    active = [np.zeros_like(each.active) for each in trainings]
    for places in competitors(trainings).values():
        ranked = sorted(places, key=lambda place: -best[place[0]][place[1]])
        for number, network in ranked[: 1 if last else max(2, -(-len(ranked) // 2))]:
            active[number][network] = True
    return [each._replace(active=mask) for each, mask in zip(trainings, active, strict=True)]


def report(
    trainings: Sequence[Training],
    names: Sequence[str],
    rows: Splits,
    config: MineConfig,
    groups: np.ndarray | None,
) -> dict[str, Estimate]:
    """Evaluate the networks that are active, and report on each name.

    Args:
      trainings: with one active network for each name and fold.
      names: the names, in the order of the result.
      rows: the split.
      config: the configuration.
      groups: group of each sample, (n,); None if samples are independent.
    """
    parts = [_evaluate(each, rows) if each.active.any() else None for each in trainings]
    infos = [fit_info(each.progress, each.group.config) for each in trainings]
    places = competitors(trainings)
    estimates = {}
    for name in names:
        of_folds = [places[name, fold][0] for fold in range(len(rows.train))]

        def joined(values: Callable[[int], Any], of_folds: list = of_folds) -> Any:
            each = [
                jax.tree.map(lambda leaf, i=network: leaf[i], values(number))
                for number, network in of_folds
            ]
            return jax.tree.map(lambda *leaves: np.stack(leaves), *each)

        held_out = joined(lambda number: parts[number])
        encoders = tuple(
            trainings[number].group.names[network // trainings[number].folds][1]
            for number, network in of_folds
        )
        estimate = make_estimate(
            held_out.test,
            held_out.validation,
            held_out.train,
            _info_of([(infos[number], network) for number, network in of_folds]),
            _state_of(trainings, of_folds, config),
            config,
            *((None, None) if groups is None else (groups[rows.test], groups[rows.validation])),
        )
        lost = dict.fromkeys(
            sentence
            for number, network in of_folds
            for sentence in trainings[number]
            .group.pairs[network // trainings[number].folds]
            .warnings
        )
        estimates[name] = dataclasses.replace(
            estimate,
            encoders=encoders,
            warnings=estimate.warnings + tuple(lost),
        )
    return estimates


def _evaluate(training: Training, rows: Splits) -> HeldOutParts:
    """Evaluate the active networks on the three kinds of samples."""
    state, active, task = training.state, training.active, training.task
    data, fold, config = task.data, task.fold, task.config
    width = task.validation_rows.shape[1]
    normalize = normalizes(data, config)
    over = task.train_rows[fold] if normalize else None

    def held_out(part: np.ndarray, over: np.ndarray | None) -> tuple[HeldOut, HeldOut]:
        values = evaluate_rows(state, data, pad_rows(part, width)[fold], config, over, active)
        first, second = (HeldOut(*map(np.asarray, form)) for form in values)
        return _cut(first, part.shape[1]), _cut(second, part.shape[1])

    train_rows = rows.train[:, : rows.test.shape[1]]
    with devices.for_networks(len(fold)):
        test, validation = held_out(rows.test, over), held_out(rows.validation, over)
        # As validation samples are in training, by a program that is compiled already (unless
        # scores are normalized).
        places, shuffles = pad_rows(train_rows, width)[fold], num_shuffles(data, config)
        values = evaluate_values(state, active, data, places, config, shuffles, None)
        train = np.asarray(values[0]), np.asarray(values[1])
    if normalize:  # training samples cannot normalize their own scores; InfoNCE does so by itself
        train = train[1], train[1]
    return HeldOutParts(test, validation, train)


def _cut(value: HeldOut, number: int) -> HeldOut:
    """Leave out the influences of padding."""
    return value._replace(influence=value.influence[:, :number])


def _info_of(infos: Sequence[tuple[FitInfo, int]]) -> FitInfo:
    """Join the reports of single networks, up to the last step of any of them."""
    longest = max((info for info, _ in infos), key=lambda info: len(info.steps_at))
    steps = max(int(info.steps[network]) for info, network in infos)
    steps_at = longest.steps_at[longest.steps_at <= steps]

    def history(field: str) -> np.ndarray:
        columns = [getattr(info, field)[: len(steps_at), network] for info, network in infos]
        missing = [len(steps_at) - len(column) for column in columns]
        return np.stack(
            [np.pad(c, (0, m), mode="edge") for c, m in zip(columns, missing, strict=True)], axis=1
        )

    return FitInfo(
        steps_at,
        history("batch_nats"),
        history("validation_nats"),
        *(
            np.array([getattr(info, field)[network] for info, network in infos])
            for field in ("best_step", "steps", "converged", "finite")
        ),
    )


def _state_of(
    trainings: Sequence[Training], of_folds: Sequence[tuple[int, int]], config: MineConfig
) -> MineState | dict[str, MineState]:
    """Return the networks of a name; by encoder where folds chose different ones."""
    states = {}
    for number, network in of_folds:
        training = trainings[number]
        place = network // training.folds
        name, pair = training.group.names[place], training.group.pairs[place]
        if name[1] not in states:
            networks = slice(place * training.folds, (place + 1) * training.folds)
            like = expected_states({name: pair}, config)[name]
            states[name[1]] = stack.resize(stack.select(training.state, networks), like)
    return next(iter(states.values())) if len(states) == 1 else states


def _earlier_states(
    init: Mapping[str, States], entries: Mapping[tuple[str, str], Pair], config: MineConfig
) -> dict[tuple[str, str], MineState]:
    """Return the state of each entry; raise ValueError if names or shapes differ."""
    names = {name for name, _ in entries}
    if set(init) != names:
        raise ValueError(
            f"init has states of {sorted(init)}, but the pairs are {sorted(names)}; start cold, or "
            "give a state of each"
        )
    wanted = expected_states(entries, config)
    found = {}
    for (name, encoder), like in wanted.items():
        state = init[name]
        if isinstance(state, Mapping):
            if encoder not in state:
                raise ValueError(
                    f"init has states of {sorted(state)} for {name}, but none of {encoder!r}; "
                    "start cold"
                )
            state = state[encoder]
        check_same_shapes(state, like)
        found[name, encoder] = state
    return found


def check_size(n: int, config: MineConfig) -> int:
    """Return n; raise ValueError if so many samples are too few."""
    test, validation = sizes(n, config)
    train = n - test - validation
    if min(test, validation, train) < 2:
        raise ValueError(
            f"{n} samples are too few: {test} of them would test (1 of {config.folds} parts), "
            f"{validation} validate (validation_fraction = {config.validation_fraction}) and "
            f"{train} train, and each needs at least 2; give more samples"
        )
    return n


def num_samples(pairs: Mapping[Any, Pair], config: MineConfig) -> int:
    """Return n; raise ValueError if it is not one, or too small."""
    lengths = {len(side.measured) for pair in pairs.values() for side in pair.of_fold(0)}
    if len(lengths) != 1:
        raise ValueError(f"all samples must have the same n, got {sorted(lengths)}")
    return check_size(lengths.pop(), config)
