"""`lower_bound`: prepare and split the samples, choose a start, fit, evaluate, report."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mine_jax.compilation import on_host
from mine_jax.estimate.candidates import candidates
from mine_jax.estimate.competition import check_size, lower_bounds
from mine_jax.estimate.pairs import Pair, expected_states
from mine_jax.estimate.preparation import on_device, prepare, shared_axes
from mine_jax.estimate.result import Estimate
from mine_jax.estimate.splitting import Grouping, group_rows, split, split_key
from mine_jax.estimate.variables import Variable, read_variables
from mine_jax.mine import MineConfig, MineState, Samples, is_labels
from mine_jax.mine.checks import check_key
from mine_jax.mine.stack import Array
from mine_jax.mine.training import check_same_shapes
from mine_jax.progress import OnProgress, progress_bar


@on_host
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
    verbose: bool = False,
    on_progress: OnProgress | None = None,
) -> Estimate | dict[str, Estimate]:
    """Estimate I_Θ(X; Z), a lower bound on the mutual information of paired samples, in nats.

    MINE (Belghazi et al. 2018): statistics networks ascend a bound on training samples, validation
    samples choose the state, and test samples give its value. By default the samples are split into
    five parts, and each part is for testing once, on a network that was trained without it. Samples
    are padded to a power of two in memory, so that other numbers of them compile nothing.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(1000, 1))
    >>> quick = MineConfig(network="separable", cross_fit=False)
    >>> estimate = lower_bound(x, x > 0, config=quick)
    >>> round(estimate.nats, 1)  # ln 2 is 0.693
    0.7

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
      verbose: show a progress bar.
      on_progress: called with the number of steps, their maximum, and a text: first what is being
        prepared, then after each check the values of the networks on the validation samples.

    Returns:
      An `Estimate`; for a mapping, a dict of them with the same names.

    Raises:
      TypeError: if `key` is no PRNG key, `config` no `MineConfig`, `verbose` no bool,
        `on_progress` no function, or x a mapping.
      ValueError: if numbers of samples differ or are too small, values are missing or not finite,
        there are too many labels, x or z cannot be read otherwise, `init` does not fit, or groups
        or blocks are too few.
      RuntimeError: inside `jax.jit`, `vmap` or `grad`, or in a process that was forked after the
        first use of JAX.
    """
    key = jax.random.key(0) if key is None else check_key(key, "lower_bound(key=…)")
    config = MineConfig() if config is None else config
    if not isinstance(config, MineConfig):
        raise TypeError(f"config must be a MineConfig, got {config!r}")
    if not isinstance(verbose, bool | np.bool_):
        raise TypeError(f"verbose must be True or False, got {verbose!r}")
    if isinstance(x, Mapping):
        raise TypeError("x must be one array; only z may be a mapping of names to arrays")
    named = dict(z) if isinstance(z, Mapping) else {"z": z}
    if not named:
        raise ValueError("z is an empty mapping; give at least one array")
    if wrong := [name for name in named if not isinstance(name, str)]:
        raise ValueError(f"names of arrays must be strings, got {wrong}")
    inits: Any = None
    if init is not None:
        inits = init if isinstance(z, Mapping) else {"z": init}
        if not isinstance(inits, Mapping) or set(inits) != set(named):
            got = sorted(inits) if isinstance(inits, Mapping) else type(inits).__name__
            raise ValueError(f"init must have the names of z, {sorted(named)}, got {got}")
    x_variable, z_variables = read_variables(x, named, discrete)
    grouping, warnings = group_rows(x_variable, z_variables, config, groups, blocks)
    if on_progress is not None and not callable(on_progress):
        raise TypeError(f"on_progress must be a function of three arguments, got {on_progress!r}")
    with progress_bar("lower_bound", verbose, on_progress) as report:
        pairs = candidate_pairs(
            *(x_variable, z_variables, config, key, grouping),
            on_stage=lambda text: report(0, config.max_steps, text),
            every=inits is not None,
        )
        states: dict[str, Any] | None = None
        encoders: dict[str, tuple[str, ...]] = {}
        if inits is not None:
            states = {name: _state_of(earlier) for name, earlier in inits.items()}
            for name, earlier in inits.items():
                pairs[name] = _fitting_pairs(earlier, pairs[name], config)
                if isinstance(earlier, Estimate) and len(pairs[name]) > 1:
                    encoders[name] = earlier.encoders
        report(0, config.max_steps, "closed-form starts")
        estimates = lower_bounds(
            pairs,
            key=key,
            config=config,
            init=states,
            encoders=encoders,
            grouping=grouping,
            on_progress=report,
            padded=True,
        )
    for name, estimate in estimates.items():
        all_warnings = estimate.warnings + warnings[name]
        estimates[name] = dataclasses.replace(estimate, warnings=all_warnings)
    return estimates if isinstance(z, Mapping) else estimates["z"]


def candidate_pairs(
    x: Variable,
    z: Mapping[str, Variable],
    config: MineConfig,
    key: Array,
    grouping: Grouping | None,
    on_stage: Callable[[str], None] = lambda text: None,
    every: bool = False,
) -> dict[str, list[Pair]]:
    """Return the pairs whose encoders compete for each name; a single one where it was chosen."""
    named = (config.x_encoder, config.z_encoder) != ("auto", "auto")
    if config.preparation != "auto" or (config.network != "auto" and not named):
        return {name: [pair] for name, pair in prepare_pairs(x, z, config).items()}
    rows = split(split_key(key), check_size(len(x.values), config), config, grouping)
    return {
        name: candidates(x, side, rows, ("x", name), config, on_stage, every)
        for name, side in z.items()
    }


def _fitting_pairs(earlier: Any, pairs: list[Pair], config: MineConfig) -> list[Pair]:
    """Return the pairs that continue an earlier estimate: of its encoders, or of its shapes.

    A state alone, or one whose encoder was given, does not tell how its samples were prepared: the
    pairs whose networks have its shapes compete.
    """
    state = _state_of(earlier)
    used = earlier.encoders if isinstance(earlier, Estimate) else ()
    of_encoders = [pair for pair in pairs if pair.encoder in used]
    if used and {pair.encoder for pair in of_encoders} == set(used):
        return of_encoders
    if not isinstance(state, MineState):
        raise ValueError(
            f"init has states of the encoders {sorted(state)}, of which each fold uses one; give "
            "the Estimate in place of its state, or start cold"
        )
    fitting = []
    for pair in pairs:
        try:
            check_same_shapes(state, expected_states({"": pair}, config)[""])
        except ValueError:
            continue
        fitting.append(pair)
    return fitting or pairs[:1]  # whose shapes the message of the check will name


def _state_of(init: Any) -> MineState | Mapping[str, MineState]:
    state = init.state if isinstance(init, Estimate) else init
    if not isinstance(state, MineState | Mapping):
        raise ValueError(f"init must be an Estimate or its state, got {type(state).__name__}")
    return state


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
            left = on_device(np.asarray(left, np.float32))
        pairs[name] = Pair(Samples(left), Samples(right))
    return pairs


def _samples_of(side: Variable, keep_shape: bool) -> np.ndarray:
    return side.values.reshape(side.shape) if keep_shape else side.values
