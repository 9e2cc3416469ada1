"""The information plane of a model in training: train k epochs, probe, fit, record.

Model and data are the caller's. Without noise I(X;L) is infinite, or ln N for N images, and the
values say what statistics networks can learn; with measurement noise it is finite and exact values
stand beside the estimates (`observation`).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mine_jax import classifier, devices, estimate
from mine_jax.classifier import Array, ClassifierState
from mine_jax.estimate import Pair
from mine_jax.information_plane import exact, records
from mine_jax.information_plane.config import PlaneConfig, probe_rows, resolved, seed_keys
from mine_jax.information_plane.measurement import (
    Row,
    finite_or_none,
    measure,
    pairs_of,
    progress_bar,
)
from mine_jax.information_plane.observation import (
    Observed,
    alignment_target,
    prepare_variables,
    prepared_shape,
    read_layers,
)
from mine_jax.mine import MineState, Samples

PARTS: tuple[str, ...] = ("training", "probing", "fitting", "saving")


class Result(NamedTuple):
    """Result of a run.

    Attributes:
      records: a row for each probe, seed, variable and layer, as in `records.jsonl`.
      training: a row for each epoch and seed, as in `training.jsonl`.
      seconds: wall-clock seconds of each of `PARTS` in this process.
    """

    records: list[Row]
    training: list[Row]
    seconds: dict[str, float]


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
      model: a Flax module; `apply(params, images)` returns logits (n, classes), and
        `apply(params, images, probes=names)` logits and a mapping of names to activations.
      train: images (n, …), float, and labels (n,), integers.
      test: likewise, for the accuracy.
      config: the configuration.
      folder: folder for rows and checkpoints; the run resumes from its last checkpoint. A new one
        is opened.
      progress: show progress bars.
      report: called with a line of text after each probe.

    Returns:
      All rows, those before a resume included.

    Raises:
      ValueError: if the data do not fit the model or are too few for the configuration.
      RunFolderError: if the folder holds another run, or a checkpoint cannot be read.
    """
    seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    train, test = ((np.asarray(images), np.asarray(labels)) for images, labels in (train, test))
    choices = resolved(config, len(train[0]))  # checks that the images are enough
    if folder is not None:
        folder.claim(choices)
    images, labels = devices.replicate(train)
    keys = {seed: seed_keys(seed) for seed in config.seeds}
    states = [
        classifier.init(keys[seed]["init"], model, config.classifier, images.shape[1:])
        for seed in config.seeds
    ]
    for part in (train, test):
        classifier.check_labels(states[0].params, model, *part)
    rows = probe_rows(config, len(images))
    probed_images, probed_labels = (np.asarray(values)[rows] for values in train)
    variables = prepare_variables(probed_images, probed_labels, config)
    align_to = alignment_target(probed_images, config)
    networks: Mapping[str, MineState] | None = None
    all_records: list[Row] = []
    training: list[Row] = []
    last_epoch = None
    if folder is not None:
        last_epoch = folder.last_epoch()
        keep = -1 if last_epoch is None else last_epoch
        all_records = folder.keep_until(records.RECORDS, keep)
        training = folder.keep_until(records.TRAINING, keep)
    if folder is not None and last_epoch is not None:
        names, template = _checkpoint_template(model, states, variables, probed_images, config)
        checkpoint = folder.restore(last_epoch, template)
        states = checkpoint["classifier"]
        networks = dict(zip(names, checkpoint["networks"], strict=True))
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
        if epoch not in config.probe_epochs():
            continue
        with _timed(seconds, "probing"):
            layers = {
                seed: read_layers(
                    jax.random.fold_in(keys[seed]["noise"], epoch),
                    state,
                    model,
                    probed_images,
                    probed_labels,
                    config,
                    align_to,
                )
                for seed, state in zip(config.seeds, states, strict=True)
            }
        with _timed(seconds, "fitting"):
            probe_records, networks = measure(
                variables,
                layers,
                epoch=epoch,
                config=config,
                key=keys[config.seed]["mine"],
                init=networks if config.warm_start else None,
                progress=progress,
            )
        del layers  # up to a gigabyte that the next probe needs
        all_records += probe_records
        with _timed(seconds, "saving"):
            if folder is not None:
                folder.append(records.RECORDS, probe_records)
                state = {"classifier": states, "networks": list(networks.values())}
                folder.save(epoch, state)
        report(summary(epoch_rows, probe_records))
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


def _checkpoint_template(
    model: nn.Module,
    states: list[ClassifierState],
    variables: Mapping[str, jax.Array],
    images: np.ndarray,
    config: PlaneConfig,
) -> tuple[list[str], dict[str, Any]]:
    """Return the names of a checkpoint's networks, and its shapes and types."""
    _, probes = jax.eval_shape(partial(model.apply, probes=config.layers), states[0].params, images)

    def layer(name: str) -> Any:
        array: Any = jax.ShapeDtypeStruct(prepared_shape(probes[name].shape, config), jnp.float32)
        if not config.noise_std:
            return array
        reference = exact.NoisyLayer(0.0, 0.0, None, None, 0)
        return Observed(array, array, array, 1.0, config.noise_std, reference)

    by_name = {name: layer(name) for name in config.layers}
    pairs = pairs_of(variables, dict.fromkeys(config.seeds, by_name))

    def init_states(key: jax.Array, arrays: Any) -> dict[str, MineState]:
        named = {
            name: Pair(Samples(x), Samples(z), pairs[name].seed) for name, (x, z) in arrays.items()
        }
        return estimate.init_states(named, config.mine_config, key)

    arrays = {name: (pair.x.measured, pair.z.measured) for name, pair in pairs.items()}
    networks = jax.eval_shape(init_states, jax.random.key(0), arrays)
    return list(pairs), {
        "classifier": jax.eval_shape(lambda: states),
        "networks": [networks[name] for name in pairs],
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
    text = f"epoch {training[0]['epoch']:3d}: test accuracy {accuracy:.2%}"
    for variable in dict.fromkeys(row["variable"] for row in rows):
        values = []
        for layer in dict.fromkeys(row["layer"] for row in rows):
            same = [row for row in rows if (row["variable"], row["layer"]) == (variable, layer)]
            values.append(f"{layer} {mean(row['mi_nats'] for row in same):.2f}")
            if same[0]["reference_nats"] is not None:
                values[-1] += f" of {mean(row['reference_nats'] for row in same):.2f}"
        symbol = "T" if rows[0]["noise_std"] else "L"
        text += f" | I({variable.upper()};{symbol}) {', '.join(values)}"
    steps = max(row["steps"] for row in rows)
    return f"{text} | {steps} steps, {rows[0]['seconds']:.0f} s"
