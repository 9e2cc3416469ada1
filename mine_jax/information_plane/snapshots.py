"""`measure_layers`: the layers of one snapshot of any network, from arrays alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mine_jax import estimate
from mine_jax.estimate import Splits
from mine_jax.estimate.splitting import split_key
from mine_jax.information_plane.activations import (
    Channels,
    check_channels,
    check_epoch,
    read_activations,
    read_layer,
    warn_of_memory,
)
from mine_jax.information_plane.config import Plane, PlaneConfig, check_split
from mine_jax.information_plane.measurement import Row, Value, measure
from mine_jax.information_plane.observation import (
    alignment_target,
    prepare_variables,
    read_layers,
)
from mine_jax.information_plane.targets import Target, read_target
from mine_jax.mine import MineState
from mine_jax.mine.checks import check_key
from mine_jax.value_checks import is_real

SEED = 0  # of the rows: these networks are the caller's, and there is one


class LayerValue(NamedTuple):
    """The value of one layer, in nats.

    Attributes:
      nats: lower bound on the mutual information, on test samples; None if it is not finite.
      stderr: standard error over samples.
      low_nats: lower side of the bracket of the true value; None where none is known.
      high_nats: upper side likewise.
      reference_nats: the true value, where the samples are all there are
        (`PlaneConfig.population`) and the layer is observed; else None.
      ceiling_nats: largest value that the test samples can support.
      converged: whether more steps gave no more.
      warnings: reasons not to trust the value, in sentences.
    """

    nats: float | None
    stderr: float | None
    low_nats: float | None
    high_nats: float | None
    reference_nats: float | None
    ceiling_nats: float | None
    converged: bool
    warnings: tuple[str, ...]


class RoundState(NamedTuple):
    """What a snapshot hands on to the next one (warm start).

    Attributes:
      networks: the statistics networks by name.
      values: the reported values by name.
      widths: number of axes that layers are observed on.
      align_to: what wide layers are aligned to, (n, components); None if none is wide.
      layers: names of the layers, and their shapes.
      target_sha256: hash of Y.
    """

    networks: dict[str, MineState]
    values: dict[str, Value]
    widths: dict[str, int]
    align_to: np.ndarray | None
    layers: dict[str, tuple[int, ...]]
    target_sha256: str


class Measured(NamedTuple):
    """The values of one snapshot.

    Attributes:
      x: I(X; ·) of each layer: of observed layers, or with `noise=0` of layers as they are.
      y: I(Y; ·) likewise.
      records: rows of both planes, as in `records.jsonl`.
      state: what the next call takes as `init`.
    """

    x: dict[str, LayerValue]
    y: dict[str, LayerValue]
    records: tuple[Row, ...]
    state: RoundState


class ProbedSamples(NamedTuple):
    """What all snapshots of a network share.

    Attributes:
      target: Y.
      inputs: X, (n, …); None if only observed layers are measured.
      config: the configuration; `layers` are those of the snapshots.
      rows: the split.
      variables: X and Y as statistics networks take them.
      channels: see `measure_layers`.
      keys: PRNG keys of the noise ("noise") and of the statistics networks ("mine").
    """

    target: Target
    inputs: np.ndarray | None
    config: PlaneConfig
    rows: Splits
    variables: dict[str, jax.Array]
    channels: Channels | None
    keys: dict[str, jax.Array]


def measure_layers(
    activations: Any,
    labels: Any,
    inputs: Any = None,
    *,
    noise: Any = None,
    config: PlaneConfig | None = None,
    key: Any = None,
    init: RoundState | None = None,
    epoch: int = 0,
    channels: Channels | None = None,
    discrete: Any = "auto",
    progress: bool = False,
) -> Measured:
    """Estimate I(X; ·) and I(Y; ·) of the layers of a network, from their activations.

    Layers are observed with Gaussian noise, T = L + σε, so that the values are finite, and known up
    to a bracket where Y is labels (`observation.observe`, `brackets.bracket`). I(X;T) needs no
    inputs: it is I(L;T). With `inputs` the layers are measured as they are, too; these values are
    lower bounds that statistics networks reached, as the true I(X;L) is infinite.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 500)
    >>> hidden = np.tanh(rng.normal(size=(500, 3)) + 3 * labels[:, None])
    >>> measured = measure_layers({"hidden": hidden}, labels)
    >>> 0.5 < measured.y["hidden"].nats < 0.7  # H(Y) = ln 2
    True

    Args:
      activations: names to arrays (n, …) in the order of depth, or an iterable of such mappings,
        those of successive batches. NumPy, JAX, tensors on the CPU; dropout and batch normalization
        must be switched to evaluation. `jax.jit` sorts the keys of a returned dict: restore the
        order of depth, on which values of layers as they are depend.
      labels: Y, (n,) or (n, d): classes as integers, text or one-hot columns, several labels, or
        numbers (`targets.read_target`).
      inputs: X, (n, …); needed with `noise=0`, else only for the layers as they are.
      noise: c of σ = c·√(trace of the layer's covariance), or "auto" for what the test samples can
        resolve; 0 for layers as they are alone. Default: `config.noise_std`.
      config: configuration. Its fields on training and on the choice of layers have no effect, and
        neither has `deterministic`.
      key: a PRNG key, the same for all snapshots of a network. Default: key(0).
      init: `Measured.state` of the snapshot before, to start from its networks (warm start).
      epoch: epoch of the snapshot, from 0: a different number gives other noise.
      channels: where the channels of images are, "first" or "last": layers and inputs of four axes
        are then taken as images in the plane of layers as they are. None: all are columns.
      discrete: whether Y is labels, see `lower_bound`.
      progress: show progress bars.

    Returns:
      Values, records and the state for the next call.

    Raises:
      TypeError: if `key` is no PRNG key, `config` no `PlaneConfig`, or `epoch` no integer.
      ValueError: if `epoch` is negative, arrays do not fit one another or cannot be read, `inputs`
        are missing, there are too few samples, or `init` is of other samples or layers.
    """
    epoch = check_epoch(epoch)
    target = read_target(labels, discrete)
    layers = read_activations(activations, len(target.values), channels)
    samples = read_samples(
        tuple(layers), target, inputs, noise=noise, config=config, key=key, channels=channels
    )
    return measure_snapshot(samples, layers, epoch, init, progress)


def read_samples(
    names: tuple[str, ...],
    target: Target,
    inputs: Any,
    *,
    noise: Any,
    config: PlaneConfig | None,
    key: Any,
    channels: Channels | None,
) -> ProbedSamples:
    """Read what all snapshots of a network share; see `measure_layers`.

    Args:
      names: names of the layers in the order of depth.
      target: Y.
      inputs: X, (n, …) or None.
      noise: as for `measure_layers`.
      config: likewise.
      key: likewise.
      channels: likewise.

    Raises:
      TypeError: as `measure_layers`.
      ValueError: likewise.
    """
    check_channels(channels)
    config = layer_config(config, names, noise, inputs is not None)
    n = len(target.values)
    array = None
    if inputs is not None:
        array = read_layer(inputs, "inputs", n, channels)
    key = jax.random.key(0) if key is None else check_key(key, "measure_layers(key=…)")
    keys = dict(zip(("noise", "mine"), jax.random.split(key), strict=True))
    rows = estimate.split(split_key(keys["mine"]), n, config.mine)
    check_split(rows, config, "give more samples")
    config.noise_level(rows.test.shape[1])  # "auto" needs enough of them
    variables = prepare_variables(array, target, config, rows)
    return ProbedSamples(target, array, config, rows, variables, channels, keys)


def layer_config(
    config: PlaneConfig | None, names: tuple[str, ...], noise: Any, with_inputs: bool
) -> PlaneConfig:
    """Return the configuration that measures these layers.

    Args:
      config: fields that are kept; None for the defaults.
      names: names of the layers.
      noise: `noise_std`, or None to keep that of `config`.
      with_inputs: whether X is known, and layers can be measured as they are.

    Raises:
      TypeError: if `config` is no `PlaneConfig`.
      ValueError: if the noise is no number, or 0 without inputs.
    """
    config = PlaneConfig() if config is None else config
    if not isinstance(config, PlaneConfig):
        raise TypeError(f"config must be a PlaneConfig, got {config!r}")
    noise = config.noise_std if noise is None else noise
    if is_real(noise) and noise == 0 and not with_inputs:
        raise ValueError("noise=0 measures layers as they are, which needs inputs, the network's X")
    return dataclasses.replace(config, layers=names, noise_std=noise, deterministic=with_inputs)


def measure_snapshot(
    samples: ProbedSamples,
    layers: dict[str, np.ndarray],
    epoch: int,
    state: RoundState | None = None,
    progress: bool = False,
) -> Measured:
    """Measure the layers of a snapshot; see `measure_layers`.

    Args:
      samples: what all snapshots share.
      layers: activations by name, (n, …).
      epoch: epoch of the snapshot.
      state: of the snapshot before; None for a cold start.
      progress: show progress bars.

    Raises:
      ValueError: if `state` is of other samples or layers.
    """
    config, target = samples.config, samples.target
    shapes = {name: values.shape for name, values in layers.items()}
    if state is None:
        # Without inputs the first layer of the first snapshot stands for them.
        first = samples.inputs if samples.inputs is not None else next(iter(layers.values()))
        finite = np.nan_to_num(first, posinf=0.0, neginf=0.0)
        state = RoundState({}, {}, {}, alignment_target(finite, config), shapes, target.sha256)
    _check_state(state, shapes, target)
    warn_of_memory(layers, len(config.planes))
    read = read_layers(
        jax.random.fold_in(samples.keys["noise"], epoch),
        dict(layers),
        target.labels,
        config,
        samples.rows,
        state.align_to,
        state.widths,
        epoch,
    )
    widths = {name: layer.for_x.width for name, layer in read.observed.items()} | state.widths
    found = measure(
        samples.variables,
        {SEED: read},
        epoch=epoch,
        config=config,
        key=samples.keys["mine"],
        init=state.networks if config.warm_start else None,
        before=state.values,
        progress=progress,
    )
    handed_on = state._replace(
        networks=state.networks | found.states, values=state.values | found.values, widths=widths
    )
    plane = config.planes[0]
    return Measured(
        x=_values(found.rows, plane, "x", config.population),
        y=_values(found.rows, plane, "y", config.population),
        records=tuple(found.rows),
        state=handed_on,
    )


def _check_state(state: RoundState, shapes: Mapping[str, tuple], target: Target) -> None:
    if not isinstance(state, RoundState):
        raise ValueError(
            f"init must be the `state` of an earlier snapshot's values, got {type(state).__name__}"
        )
    if state.target_sha256 != target.sha256:
        raise ValueError(
            "labels differ from those of the snapshot before: all snapshots must be of the same "
            "samples in the same order"
        )
    if list(state.layers) != list(shapes):
        raise ValueError(
            f"layers are {list(shapes)}, but those of the snapshot before were "
            f"{list(state.layers)}: all epochs need the same names in the same order"
        )
    for name, shape in shapes.items():
        if shape[1:] != state.layers[name][1:]:
            raise ValueError(
                f"activations of {name} have shape {shape}, but {state.layers[name]} in the "
                "snapshot before"
            )


def _values(
    rows: list[Row], plane: Plane, variable: str, population: bool
) -> dict[str, LayerValue]:
    return {
        row["layer"]: LayerValue(
            row["mi_nats"],
            row["stderr"],
            row["reference_low_nats"],
            row["reference_high_nats"],
            row["reference_nats"] if population else None,
            row["ceiling_nats"],
            row["converged"],
            tuple(row["warnings"]),
        )
        for row in rows
        if row["plane"] == plane and row["variable"] == variable
    }
