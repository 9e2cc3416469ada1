"""The information plane of a model in training: train k epochs, probe, fit, record.

This is where the classifier and MINE meet. The model and the data are the caller's.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from tqdm import tqdm

from mine_jax import classifier, estimator, lenet, mine, records
from mine_jax.classifier import ClassifierConfig, ClassifierState
from mine_jax.mine import Array, MineConfig, MineState

Row = dict[str, Any]

# Eight networks at once, some on thousands of units, and rounds that follow one another: one
# split for all of them, half the pairings at a higher rate, and no waiting for gains far below
# the standard errors.
ROUND = MineConfig(cross_fit=False, pairings=4, learning_rate=1e-2, min_gain=5e-3, max_steps=4000)


@dataclass(frozen=True)
class PlaneConfig:
    """What a run trains, probes and fits. Hashable.

    Attributes:
      epochs: epochs of training in all.
      probe_every: epochs between probes; epoch 0 is probed too.
      layers: names of the model's probes in the order of depth.
      probe_size: training images that are probed, chosen at random once; all if there are fewer.
      warm_start: a round's statistics networks start from those of the round before.
      seed: of everything that is random.
      classifier: how the model is trained.
      mine: how the statistics networks are.
    """

    epochs: int = 40
    probe_every: int = 4
    layers: tuple[str, ...] = lenet.DEFAULT_PROBES
    probe_size: int = 20_000
    warm_start: bool = True
    seed: int = 0
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    mine: MineConfig = ROUND

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least {least}, got {getattr(self, name)}"
            for name, least in (("epochs", 0), ("probe_every", 1), ("probe_size", 20), ("seed", 0))
            if getattr(self, name) < least
        ]
        if not self.layers or len(set(self.layers)) != len(self.layers):
            problems.append(f"layers must be different names, at least one, got {self.layers}")
        if problems:
            raise ValueError("; ".join(problems))

    def probe_epochs(self) -> tuple[int, ...]:
        """The epochs after which the layers are probed."""
        return tuple(range(0, self.epochs + 1, self.probe_every))


class Result(NamedTuple):
    """What a run yields.

    Attributes:
      records: a row for each probe, layer and variable, as in `records.jsonl`.
      training: a row for each epoch, as in `training.jsonl`.
      seconds: what each part took in this process: training, probing, fitting, saving.
    """

    records: list[Row]
    training: list[Row]
    seconds: dict[str, float]


def run(
    model: nn.Module,
    train: tuple[ArrayLike, ArrayLike],
    test: tuple[ArrayLike, ArrayLike],
    config: PlaneConfig,
    *,
    folder: records.RunFolder | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Result:
    """Train a classifier and draw its layers' path through the information plane.

    Args:
      model: a Flax module with `apply(params, images)` giving logits (n, classes), and
        `apply(params, images, probes=names)` giving logits and a mapping of names to activations.
      train: images (n, …), float, and labels (n,), integers.
      test: likewise; for the accuracy only.
      config: the configuration.
      folder: where rows and checkpoints go; what is there already is gone on with.
      progress: show bars.
      say: called with a line of text after each probe.

    Returns:
      All rows, those of the rounds before a resume included.

    Raises:
      ValueError: if the data do not fit the model or are too few for the configuration.
    """
    seconds = dict.fromkeys(("training", "probing", "fitting", "saving"), 0.0)
    images, labels = (jax.numpy.asarray(part) for part in train)
    keys = dict(
        zip(
            ("init", "train", "rows", "mine"),
            jax.random.split(jax.random.key(config.seed), 4),
            strict=True,
        )
    )
    state = classifier.init(keys["init"], model, config.classifier, images.shape[1:])
    rows = probe_rows(config, len(images))
    probed = images[rows]
    variables = {
        "x": estimator.prepare(probed, "images"),
        "y": estimator.prepare(np.asarray(labels)[rows], "labels"),
    }
    networks: MineState | None = None
    all_records: list[Row] = []
    training: list[Row] = []
    start = None
    if folder is not None:
        start = folder.last_epoch()
        kept = -1 if start is None else start
        all_records = folder.keep_until(records.RECORDS, kept)
        training = folder.keep_until(records.TRAINING, kept)
    if folder is not None and start is not None:
        like = _abstract(model, state, variables, probed, config)
        restored = folder.restore(start, like)
        state, networks = restored["classifier"], restored["networks"]
        say(f"resumed after epoch {start}")

    for epoch in range(0 if start is None else start + 1, config.epochs + 1):
        row, state = _train(
            state, keys["train"], model, (images, labels), test, epoch, config, seconds, progress
        )
        training.append(row)
        if folder is not None:
            folder.append(records.TRAINING, [row])
        if epoch not in config.probe_epochs():
            continue
        with _timed(seconds, "probing"):
            activations = classifier.probe(state.params, model, probed, config.layers)
            layers = {
                name: estimator.prepare(activations.pop(name), name) for name in config.layers
            }
        with _timed(seconds, "fitting"):
            new, networks = measure(
                variables,
                layers,
                epoch=epoch,
                config=config,
                key=keys["mine"],
                state=networks if config.warm_start else None,
                progress=progress,
            )
        del layers  # hundreds of megabytes that the next probe needs
        all_records.extend(new)
        with _timed(seconds, "saving"):
            if folder is not None:
                folder.append(records.RECORDS, new)
                folder.save(epoch, {"classifier": state, "networks": networks})
        say(_summary(row, new))
    return Result(all_records, training, seconds)


def probe_rows(config: PlaneConfig, n: int) -> np.ndarray:
    """The rows of n training images that are probed: a random choice, fixed by the seed."""
    order = np.random.Generator(np.random.PCG64(config.seed)).permutation(n)
    return order[: config.probe_size]


def entropy(labels: ArrayLike) -> float:
    """H(Y) of the empirical distribution of labels, (n,), in nats."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    shares = counts / counts.sum()
    return float(-np.sum(shares * np.log(shares)))


def measure(
    variables: Mapping[str, Array],
    layers: Mapping[str, Array],
    *,
    epoch: int,
    config: PlaneConfig,
    key: Array,
    state: MineState | None = None,
    progress: bool = False,
) -> tuple[list[Row], MineState]:
    """One round: fit the networks of all (variable, layer) pairs at once and judge them.

    Args:
      variables: `x` and `y`, prepared by `estimator.prepare`, (n, features).
      layers: names to activations, prepared likewise, in the order of depth.
      epoch: for the rows, and for fresh batches in each round.
      config: the configuration.
      key: a PRNG key, the same in all rounds, so that the split of the samples is too.
      state: networks to start from; None for fresh ones.
      progress: show a bar.

    Returns:
      A row for each layer and variable, and the state of the networks.
    """
    started = time.perf_counter()
    with tqdm(
        total=config.mine.max_steps,
        desc=f"probe at epoch {epoch}",
        unit="step",
        leave=False,
        disable=not progress,
    ) as bar:

        def on_progress(done: int, total: int, info: mine.FitInfo) -> None:
            bar.total = total
            bar.update(done - bar.n)
            current = np.nanmax(info.stop_nats, axis=0)[0]
            by_pair = zip(mine.pairs_of(variables, layers), current, strict=True)
            values = {pair: value for pair, value in by_pair}
            bar.set_postfix_str(
                " ".join(
                    f"{v.upper()}:" + "/".join(f"{values[v, name]:.2f}" for name in layers)
                    for v in variables
                )
            )

        estimates, new_state = estimator.lower_bounds(
            variables,
            layers,
            key=key,
            config=config.mine,
            state=state,
            round_number=epoch,
            on_progress=on_progress,
        )
    seconds = time.perf_counter() - started
    rows = []
    for variable in variables:
        earlier: estimator.Estimate | None = None
        for name in layers:
            estimate = estimates[variable, name]
            rows.append(
                {
                    "seed": config.seed,
                    "epoch": epoch,
                    "layer": name,
                    "variable": variable,
                    "mi_nats": _number(estimate.nats),
                    "stderr": _number(estimate.stderr),
                    "train_nats": _number(estimate.train_nats),
                    "ceiling_nats": estimate.ceiling_nats,
                    "reference_nats": None,
                    "steps": estimate.steps,
                    "converged": estimate.converged,
                    "warm_start": state is not None,
                    "seconds": seconds,
                    "warnings": list(estimate.warnings),
                }
                | _drop(earlier, estimate)
            )
            earlier = estimate
    return rows, new_state


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] += time.perf_counter() - started


def _train(
    state: ClassifierState,
    key: Array,
    model: nn.Module,
    train: tuple[Array, Array],
    test: tuple[ArrayLike, ArrayLike],
    epoch: int,
    config: PlaneConfig,
    seconds: dict[str, float],
    progress: bool,
) -> tuple[Row, ClassifierState]:
    """One epoch (none for epoch 0) and its row of `training.jsonl`."""
    started = time.perf_counter()
    loss = None
    if epoch > 0:
        with tqdm(
            desc=f"epoch {epoch}/{config.epochs}", unit="step", leave=False, disable=not progress
        ) as bar:

            def on_progress(done: int, total: int, loss: float) -> None:
                bar.total = total
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                bar.update(done - bar.n)

            state, info = classifier.train_epoch(
                state, key, model, config.classifier, *train, on_progress
            )
        loss = _number(info.train_loss)
    accuracy = classifier.accuracy(state.params, model, *test)
    took = time.perf_counter() - started
    seconds["training"] += took
    row = {"epoch": epoch, "train_loss": loss, "test_accuracy": accuracy, "seconds": took}
    return row, state


def _abstract(
    model: nn.Module,
    state: ClassifierState,
    variables: Mapping[str, Array],
    probed: Array,
    config: PlaneConfig,
) -> dict[str, Any]:
    """Shapes and types of a checkpoint."""
    _, probes = jax.eval_shape(
        lambda params, images: model.apply(params, images, probes=config.layers),
        state.params,
        probed,
    )
    layers = {
        name: jax.ShapeDtypeStruct((len(probed), math.prod(probe.shape[1:])), np.float32)
        for name, probe in probes.items()
    }
    networks = jax.eval_shape(
        lambda key: estimator.fresh(key, variables, layers, config.mine), jax.random.key(0)
    )
    return {"classifier": jax.eval_shape(lambda: state), "networks": networks}


def _drop(earlier: estimator.Estimate | None, later: estimator.Estimate) -> Row:
    """How far the value fell from the layer before, with the error of that difference."""
    if earlier is None:
        return {"drop_nats": None, "drop_stderr": None}
    influence = np.ravel(earlier.influence - later.influence)
    return {
        "drop_nats": _number(earlier.nats - later.nats),
        "drop_stderr": _number(influence.std(ddof=1) / math.sqrt(influence.size)),
    }


def _number(value: float) -> float | None:
    """What JSON can hold: null for nan and infinities."""
    return float(value) if math.isfinite(value) else None


def _summary(training: Row, rows: Sequence[Row]) -> str:
    text = f"epoch {training['epoch']:3d}: test accuracy {training['test_accuracy']:.2%}"
    for variable in dict.fromkeys(row["variable"] for row in rows):
        values = [
            f"{row['layer']} " + ("nan" if row["mi_nats"] is None else f"{row['mi_nats']:.2f}")
            for row in rows
            if row["variable"] == variable
        ]
        text += f" | I({variable.upper()};L) {', '.join(values)}"
    steps = max(row["steps"] for row in rows)
    return f"{text} | {steps} steps, {rows[0]['seconds']:.0f} s"
