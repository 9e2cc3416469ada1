"""The information plane of a model in training: train k epochs, probe, fit, record.

Model and data are the caller's. Without noise I(X;L) is infinite, or ln N for N images, and the
values say what statistics networks can learn; with measurement noise it is finite and two-sided
references stand beside the estimates (`observation`).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mine_jax import class_labels, classifier, devices, estimate, flax_model
from mine_jax.classifier import Array, ClassifierState
from mine_jax.estimate import Pair, Splits
from mine_jax.information_plane import records
from mine_jax.information_plane.config import (
    PlaneConfig,
    probe_rows,
    resolved,
    seed_keys,
    split_rows,
)
from mine_jax.information_plane.measurement import (
    Place,
    Row,
    Value,
    finite_or_none,
    measure,
    pairs_of,
)
from mine_jax.information_plane.observation import (
    Y_WIDTH,
    Layers,
    Observed,
    View,
    alignment_target,
    deterministic_shape,
    observed_shape,
    prepare_variables,
    read_layers,
)
from mine_jax.information_plane.targets import read_target
from mine_jax.mine import MineState, Samples
from mine_jax.progress import progress_bar

PARTS: tuple[str, ...] = ("training", "probing", "fitting", "saving")


class Result(NamedTuple):
    """Result of a run.

    Attributes:
      records: a row for each probe, plane, seed, variable and layer, as in `records.jsonl`.
      training: a row for each epoch and seed, as in `training.jsonl`.
      seconds: wall-clock seconds of each of `PARTS` in this process.
      stopped: a sentence on why the run ended before its last epoch; None if it did not.
    """

    records: list[Row]
    training: list[Row]
    seconds: dict[str, float]
    stopped: str | None = None


def run(
    model: nn.Module,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    config: PlaneConfig,
    *,
    folder: records.RunFolder | None = None,
    progress: bool = False,
    report: Callable[[str], None] = lambda text: None,
) -> Result:
    """Train a classifier and measure its layers' path through the information plane.

    Args:
      model: a Flax module, `__call__(self, images, probes=(), train=False)`: it returns logits
        (n, classes), or one logit for two classes, and with probes the logits and a mapping of
        these names to activations. `train` may be left out; it is True in training steps, where
        collections such as "batch_stats" change and the random stream "dropout" is there.
      train: images (n, …), of the type the model takes, and labels (n,), 0 … classes − 1.
      test: likewise, for the accuracy.
      config: the configuration.
      folder: folder for rows and checkpoints; the run resumes from its last checkpoint. A new one
        is opened.
      progress: show progress bars.
      report: called with a line of text after each probe.

    Returns:
      All rows, those before a resume included. A run whose loss is not finite stops after that
      epoch, with all rows up to it.

    Raises:
      ValueError: if the data do not fit the model or are too few for the configuration.
      RunFolderError: if the folder holds another run, or a checkpoint cannot be read.

    Warns:
      RunFolderWarning: if something in the folder was damaged or not finished.
    """
    seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    train, test = ((np.asarray(images), np.asarray(labels)) for images, labels in (train, test))
    for part in (train, test):
        class_labels.check_integers(*part)
    choices = resolved(config, len(train[0]))  # checks that the images are enough
    images, labels = devices.replicate(train)
    keys = {seed: seed_keys(seed) for seed in config.seeds}
    states = [
        classifier.init(
            keys[seed]["init"], model, config.classifier, images.shape[1:], images.dtype
        )
        for seed in config.seeds
    ]
    for part in (train, test):
        classifier.check(states[0].params, model, *part, config.layers)
    if folder is not None:
        folder.claim(choices)
    rows = probe_rows(config, len(images))
    probed_images, probed_labels = (np.asarray(values)[rows] for values in train)
    split = split_rows(config, len(rows))
    target = read_target(probed_labels, discrete=True)
    variables = prepare_variables(probed_images, target, config, split)
    align_to = alignment_target(probed_images, config)
    networks: dict[str, MineState] | None = None
    before: dict[str, Value] | None = None
    widths: dict[str, int] | None = None
    all_records: list[Row] = []
    training: list[Row] = []
    last_epoch = None
    if folder is not None:
        last_epoch = folder.last_epoch()
        keep = -1 if last_epoch is None else last_epoch
        all_records = folder.keep_until(records.RECORDS, keep)
        training = folder.keep_until(records.TRAINING, keep)
    if folder is not None and last_epoch is not None:
        widths = _widths(all_records)
        names, template = _checkpoint_template(
            model, states, variables, probed_images, config, split, all_records
        )
        checkpoint = folder.restore(last_epoch, template)
        states = checkpoint["classifier"]
        networks = dict(zip(names, checkpoint["networks"], strict=True))
        influences = dict(zip(names, checkpoint["influences"], strict=True))
        before = _values(all_records, influences)
        report(f"resumed after epoch {last_epoch}")

    for epoch in range(0 if last_epoch is None else last_epoch + 1, config.epochs + 1):
        with _timed(seconds, "training"):
            train_keys = [keys[seed]["train"] for seed in config.seeds]
            states, epoch_rows = _train_epoch(
                states, train_keys, model, (images, labels), test, epoch, config, progress
            )
        training += epoch_rows
        if folder is not None:
            folder.append(records.TRAINING, epoch_rows)
        stopped = _diverged(epoch_rows, config) if epoch > 0 else None
        if stopped is not None:
            report(stopped)
            return Result(all_records, training, seconds, stopped)
        if epoch not in config.probe_epochs():
            continue
        with _timed(seconds, "probing"):
            layers = {}
            for seed, state in zip(config.seeds, states, strict=True):
                layers[seed] = read_layers(
                    jax.random.fold_in(keys[seed]["noise"], epoch),
                    classifier.probe(state.params, model, probed_images, config.layers),
                    target.labels,
                    config,
                    split,
                    align_to,
                    widths,
                    epoch,
                )
                # The first network's layers set the widths of all networks and epochs.
                found = {name: of.for_x.width for name, of in layers[seed].observed.items()}
                widths = found | (widths or {})
        with _timed(seconds, "fitting"):
            measured = measure(
                variables,
                layers,
                epoch=epoch,
                config=config,
                key=keys[config.seed]["mine"],
                init=networks if config.warm_start else None,
                before=before,
                progress=progress,
            )
        del layers  # up to a gigabyte that the next probe needs
        # A layer that could not be measured keeps its last networks.
        networks = dict(sorted(((networks or {}) | measured.states).items()))
        before = (before or {}) | measured.values
        all_records += measured.rows
        with _timed(seconds, "saving"):
            if folder is not None:
                folder.append(records.RECORDS, measured.rows)
                checkpoint = {
                    "classifier": states,
                    "networks": list(networks.values()),
                    "influences": [np.asarray(before[name].influence) for name in networks],
                }
                folder.save(epoch, checkpoint)
        report(summary(epoch_rows, measured.rows))
    return Result(all_records, training, seconds)


def _train_epoch(
    states: list[ClassifierState],
    keys: list[jax.Array],
    model: nn.Module,
    train: tuple[jax.Array, jax.Array],
    test: tuple[Array, Array],
    epoch: int,
    config: PlaneConfig,
    progress: bool,
) -> tuple[list[ClassifierState], list[Row]]:
    """Train one epoch (none for epoch 0); return the states and rows of `training.jsonl`."""
    started = time.perf_counter()
    losses: list[float | None] = [None] * len(states)
    if epoch > 0:
        with progress_bar(f"epoch {epoch}/{config.epochs}", progress) as update:
            results = classifier.train_epochs(
                states,
                keys,
                model,
                config.classifier,
                *train,
                lambda done, maximum, loss: update(done, maximum, f"loss {loss:.3f}"),
            )
        states = [state for state, _ in results]
        losses = [finite_or_none(info.train_loss) for _, info in results]
    accuracies = [classifier.accuracy(state.params, model, *test) for state in states]
    seconds = time.perf_counter() - started
    rows = [
        ({"seed": seed} if config.num_seeds > 1 else {})
        | {"epoch": epoch, "train_loss": loss, "test_accuracy": accuracy, "seconds": seconds}
        for seed, loss, accuracy in zip(config.seeds, losses, accuracies, strict=True)
    ]
    return states, rows


def _diverged(rows: Sequence[Row], config: PlaneConfig) -> str | None:
    """Tell whose loss is not finite in an epoch's rows of `training.jsonl`; None if none is."""
    seeds = [
        str(seed) for seed, row in zip(config.seeds, rows, strict=True) if row["train_loss"] is None
    ]
    if not seeds:
        return None
    return (
        f"stopped in epoch {rows[0]['epoch']} of {config.epochs}: the training loss of seed "
        f"{', '.join(seeds)} is not finite. Lower learning_rate, {config.classifier.learning_rate} "
        "now, and check that the images are finite and of moderate size"
    )


def _widths(rows: Sequence[Row]) -> dict[str, int]:
    """Return the number of axes of each observed layer, which its first probe chose."""
    observed = [row for row in rows if row["plane"] == "observed" and row["variable"] == "x"]
    return {row["layer"]: row["num_axes"] for row in observed if row["num_axes"] is not None}


def _measured(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the last row of each place that was measured, by its name."""
    return {
        Place(row["plane"], row["variable"], row["layer"], row["seed"]).name: row
        for row in rows
        if row["network"] is not None
    }


def _values(rows: Sequence[Row], influences: Mapping[str, np.ndarray]) -> dict[str, Value]:
    """Return the last values of all places; nan where a row has none."""
    return {
        name: Value(math.nan if row["mi_nats"] is None else row["mi_nats"], influences[name])
        for name, row in _measured(rows).items()
    }


def _checkpoint_template(
    model: nn.Module,
    states: list[ClassifierState],
    variables: Mapping[str, jax.Array],
    images: np.ndarray,
    config: PlaneConfig,
    split: Splits,
    rows: Sequence[Row],
) -> tuple[list[str], dict[str, Any]]:
    """Return the names of a checkpoint's networks, and its shapes and types."""
    measured, widths = _measured(rows), _widths(rows)
    read = partial(flax_model.activations, model=model, names=config.layers)
    probes = jax.eval_shape(lambda params: read(params, inputs=images), states[0].params)
    layers = Layers({}, {}, {})
    for name in dict.fromkeys(row["layer"] for row in measured.values()):
        shape = probes[name].shape
        if config.deterministic:
            of_shape = deterministic_shape(shape, config)
            layers.deterministic[name] = jax.ShapeDtypeStruct(of_shape, jnp.float32)  # type: ignore[assignment]
        if "observed" in config.planes:
            views: Any = []
            for width in (widths[name], Y_WIDTH):
                view_shape = observed_shape(shape, config, width, split.train.shape[1])
                array: Any = jax.ShapeDtypeStruct(view_shape, jnp.float32)
                views.append(View(Samples(array, array, 1.0), array, 0.0))
            bracket: Any = None
            layers.observed[name] = Observed(views[0], views[1], 1.0, bracket, 0.0, {})
    pairs = pairs_of(variables, dict.fromkeys(config.seeds, layers))

    def init_states(key: jax.Array, arrays: Any) -> dict[str, MineState]:
        found: dict[str, MineState] = {}
        for place, (x, z) in arrays.items():
            if place.name not in measured:
                continue
            pair = {place.name: Pair(Samples(x), Samples(z), pairs[place].seed)}
            mine = config.mine_config(place.plane, place.variable)
            found |= estimate.init_states(pair, mine, key)
        return found

    arrays = {
        place: tuple(side.measured for side in pair.of_fold(0)) for place, pair in pairs.items()
    }
    networks = jax.eval_shape(init_states, jax.random.key(0), arrays)
    names = sorted(measured)
    influence = jax.ShapeDtypeStruct((1, split.test.shape[1]), np.float32)
    return names, {
        "classifier": jax.eval_shape(lambda: states),
        "networks": [networks[name] for name in names],
        "influences": [influence for _ in names],
    }


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] += time.perf_counter() - started


def summary(training: Sequence[Row], rows: Sequence[Row]) -> str:
    """Summarize a probe in a line of text, with means over the seeds.

    Args:
      training: the epoch's rows of `training.jsonl`.
      rows: the probe's rows of `records.jsonl`.
    """

    def mean(values: Iterable[float | None]) -> float:
        return float(np.mean([np.nan if value is None else value for value in values]))

    accuracy = mean(row["test_accuracy"] for row in training)
    lines = [f"epoch {training[0]['epoch']:3d}: test accuracy {accuracy:.2%}"]
    for plane in dict.fromkeys(row["plane"] for row in rows):
        parts = []
        for variable in ("x", "y"):
            places = [row for row in rows if (row["plane"], row["variable"]) == (plane, variable)]
            values = []
            for layer in dict.fromkeys(row["layer"] for row in places):
                same = [row for row in places if row["layer"] == layer]
                values.append(f"{layer} {mean(row['mi_nats'] for row in same):.2f}")
                low, high = (
                    mean(row[f"reference_{side}_nats"] for row in same) for side in ("low", "high")
                )
                if plane == "observed":
                    values[-1] += f" in {low:.2f} to {high:.2f}"
            symbol = "T" if plane == "observed" else "L"
            parts.append(f"I({variable.upper()};{symbol}) {', '.join(values)}")
        lines.append(f"  {plane}: {' | '.join(parts)}")
    steps = max(row["steps"] for row in rows)
    lines[0] += f"; at most {steps} steps, {rows[0]['seconds']:.0f} s"
    return "\n".join(lines)
