"""The information plane of a model in training: train k epochs, probe, fit, record.

This is where the classifier and MINE meet. The model and the data are the caller's.

Without noise the layers are functions of one another, and so are their statistics networks: one of
a later layer, behind the model's own layers in between, is one of an earlier layer. A layer takes
over a later one's value unless its own network is better (`measure`). The data-processing
inequality is then a theorem for the true values, but I(X;L) is infinite, or ln N for N images.

With measurement noise, T = L + σε for each layer by itself, I(X;T) and I(Y;T) are finite and known
over the probed inputs (`observe`). The noise of a layer is not passed on to the next one, so a
later T is no function of an earlier T: the inequality is no theorem, and no value is taken over.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from tqdm import tqdm

from mine_jax import classifier, devices, estimator, lenet, mine
from mine_jax.information_plane import exact, records
from mine_jax.classifier import ClassifierConfig, ClassifierState
from mine_jax.estimator import Estimate
from mine_jax.mine import Array, MineConfig, MineState

Row = dict[str, Any]
Noise = Literal["relative", "absolute"]

# Eight networks at once, and rounds that follow one another: one split for all of them, and no
# waiting for gains far below the standard errors.
ROUND = MineConfig(cross_fit=False, min_gain=2e-3, max_steps=3000)

# Fresh noise in each batch has to be averaged out, and is hard to over-fit.
ROUND_WITH_NOISE = replace(ROUND, batch_size=512, patience=8, weight_decay=0.05)

_LEAST = {"epochs": 0, "probe_every": 1, "probe_size": 20, "seed": 0, "num_seeds": 1}

# Inputs that a reference is averaged over: its cost grows with the units, and a layer with many
# is far from zero nats, where fewer inputs do.
_REFERENCE_ROWS, _REFERENCE_ROWS_WIDE, _WIDE = 8000, 2000, 256


@dataclass(frozen=True)
class PlaneConfig:
    """What a run trains, probes and fits. Hashable.

    Attributes:
      epochs: epochs of training in all.
      probe_every: epochs between probes; epoch 0 is probed too.
      layers: names of the model's probes in the order of depth, each a function of the one before
        (nothing may reach a later layer around an earlier one, as a skip connection does).
      probe_size: training images that are probed, chosen at random once; all if there are fewer.
      warm_start: a round's statistics networks start from those of the round before.
      seed: of everything that is random.
      num_seeds: networks that are trained side by side, by the seeds `seed`, `seed` + 1, …, each
        with statistics networks of its own. The probed images and their split are those of `seed`
        for all, so that they differ by their networks alone.
      noise_std: how much Gaussian noise the layers are observed with; 0 for none.
      noise: what `noise_std` is a multiple of. "relative": of the root of the mean variance of a
        layer's units over the probed inputs at that epoch, so that σ follows the layer's scale.
        "absolute": of 1, so that σ is the same number for all layers and epochs, in the units of
        the activations.
      classifier: how the model is trained.
      mine: how the statistics networks are; None for `ROUND`, or `ROUND_WITH_NOISE` if there is.
    """

    epochs: int = 40
    probe_every: int = 4
    layers: tuple[str, ...] = lenet.DEFAULT_PROBES
    probe_size: int = 20_000
    warm_start: bool = True
    seed: int = 0
    num_seeds: int = 1
    noise_std: float = 0.0
    noise: Noise = "relative"
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    mine: MineConfig | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least {least}, got {getattr(self, name)}"
            for name, least in _LEAST.items()
            if getattr(self, name) < least
        ]
        if self.seed + self.num_seeds > 1 << 32:  # JAX would take it for a smaller one
            problems.append(
                f"seed + num_seeds must be at most 2^32, got {self.seed} + {self.num_seeds}"
            )
        if not self.layers or len(set(self.layers)) != len(self.layers):
            problems.append(f"layers must be different names, at least one, got {self.layers}")
        if not 0 <= self.noise_std < math.inf:
            problems.append(f"noise_std must be at least 0 and finite, got {self.noise_std}")
        if self.noise not in get_args(Noise):
            problems.append(f"noise must be one of {get_args(Noise)}, got {self.noise!r}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def round(self) -> MineConfig:
        """How the statistics networks are: `mine`, or what is usual."""
        return self.mine or (ROUND_WITH_NOISE if self.noise_std else ROUND)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the networks."""
        return tuple(range(self.seed, self.seed + self.num_seeds))

    def probe_epochs(self) -> tuple[int, ...]:
        """The epochs after which the layers are probed."""
        return tuple(range(0, self.epochs + 1, self.probe_every))


class Observed(NamedTuple):
    """A layer that is observed with measurement noise, T = L + σε.

    Attributes:
      clean: L, prepared, (n, units).
      noisy: T, one draw of it, prepared, (n, units).
      quiet: T without its noise, in the units of `noisy`, (n, units).
      level: the noise's standard deviation in those units.
      noise_std: σ, in the units of the activations.
      reference: I(X; T) and I(Y; T) in nats where X is one of these n inputs. A statistics network
        is judged on inputs that it has not seen and cannot know their places: where the noise is
        small beside the distance of inputs, the reference for Y is above what can be learnt.
    """

    clean: Array
    noisy: Array
    quiet: Array
    level: float
    noise_std: float
    reference: exact.NoisyLayer


class Result(NamedTuple):
    """What a run yields.

    Attributes:
      records: a row for each probe, layer and variable, as in `records.jsonl`.
      training: a row for each epoch (and seed), as in `training.jsonl`.
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
    images, labels = devices.everywhere(train)
    keys = [_keys(seed) for seed in config.seeds]
    states = [
        classifier.init(own["init"], model, config.classifier, images.shape[1:]) for own in keys
    ]
    rows = probe_rows(config, len(images))
    probed = np.asarray(train[0])[rows]
    probed_labels = np.asarray(train[1])[rows]
    variables = {"y": estimator.prepare(probed_labels, "labels")}
    if not config.noise_std:
        variables = {"x": estimator.prepare(probed, "images")} | variables
    towards = turned_to(probed, config)
    networks: Mapping[str, MineState] | None = None
    all_records: list[Row] = []
    training: list[Row] = []
    start = None
    if folder is not None:
        start = folder.last_epoch()
        kept = -1 if start is None else start
        all_records = folder.keep_until(records.RECORDS, kept)
        training = folder.keep_until(records.TRAINING, kept)
    if folder is not None and start is not None:
        like = _abstract(model, states, variables, probed, config)
        restored = folder.restore(start, like)
        states, networks = restored["classifier"], restored["networks"]
        say(f"resumed after epoch {start}")

    for epoch in range(0 if start is None else start + 1, config.epochs + 1):
        trained, states = _train(
            states,
            [own["train"] for own in keys],
            model,
            (images, labels),
            test,
            epoch,
            config,
            seconds,
            progress,
        )
        training.extend(trained)
        if folder is not None:
            folder.append(records.TRAINING, trained)
        if epoch not in config.probe_epochs():
            continue
        layers: dict[int, dict[str, Array | Observed]] = {}
        with _timed(seconds, "probing"):
            for seed, own, state in zip(config.seeds, keys, states, strict=True):
                key = jax.random.fold_in(own["noise"], epoch)
                layers[seed] = read_layers(
                    key, state, model, probed, probed_labels, config, towards
                )
        with _timed(seconds, "fitting"):
            new, networks = measure_all(
                variables,
                layers,
                epoch=epoch,
                config=config,
                key=keys[0]["mine"],
                state=networks if config.warm_start else None,
                progress=progress,
            )
        del layers  # up to a gigabyte that the next probe needs
        all_records.extend(new)
        with _timed(seconds, "saving"):
            if folder is not None:
                folder.append(records.RECORDS, new)
                folder.save(epoch, {"classifier": states, "networks": networks})
        say(_summary(trained, new))
    return Result(all_records, training, seconds)


def read_layers(
    key: Array,
    state: ClassifierState,
    model: nn.Module,
    images: ArrayLike,
    labels: ArrayLike,
    config: PlaneConfig,
    towards: ArrayLike | None = None,
) -> dict[str, Array | Observed]:
    """The layers of a network as statistics networks take them.

    Args:
      key: a PRNG key, for the noise.
      state: the trained network.
      model: the classifier.
      images: (n, …), those that are probed.
      labels: (n,), their classes.
      config: `layers`, and the noise.
      towards: what principal components are turned to (`turned_to`).

    Returns:
      By the name of the layer: (n, features), as `estimator.prepare` leaves it; with noise what
      `observe` returns.

    Raises:
      ValueError: if a value is not finite.
    """
    activations = classifier.probe(state.params, model, images, config.layers)
    layers = {}
    for i, name in enumerate(config.layers):
        layer = activations.pop(name)
        if config.noise_std:
            own = jax.random.fold_in(key, i)
            layers[name] = observe(own, layer, labels, config, name, towards)
        else:
            layers[name] = estimator.prepare(layer, name, towards=towards)
    return layers


def turned_to(images: ArrayLike, config: PlaneConfig) -> Array | None:
    """What the principal components of wide layers are turned to, so that networks can be carried.

    That is the images' own components, which stay as they are while the layers change.

    Args:
      images: (n, …), those that are probed.
      config: whether there is noise, with which more components are kept.

    Returns:
      (n, components), or None if the images have fewer columns.
    """
    count = estimator.WIDE if config.noise_std else estimator.COMPONENTS
    return estimator.components(images, count, "images")


def _keys(seed: int) -> dict[str, Array]:
    names = ("init", "train", "rows", "mine", "noise")
    return dict(zip(names, jax.random.split(jax.random.key(seed), len(names)), strict=True))


def probe_rows(config: PlaneConfig, n: int) -> np.ndarray:
    """The rows of n training images that are probed: a random choice, fixed by the seed."""
    order = np.random.Generator(np.random.PCG64(config.seed)).permutation(n)
    return order[: config.probe_size]


def observe(
    key: Array,
    activations: ArrayLike,
    labels: ArrayLike | None,
    config: PlaneConfig,
    name: str = "layer",
    towards: ArrayLike | None = None,
) -> Observed:
    """Add measurement noise to a layer, and compute what that leaves to know.

    Args:
      key: a PRNG key, another one for each layer and epoch.
      activations: (n, …), as the model gives them.
      labels: (n,), the classes; None for I(X; T) alone.
      config: `noise_std` (above 0) and `noise`.
      name: what to call the layer in an error.
      towards: (n, k), what principal components are turned to (`turned_to`).

    Returns:
      The layer with and without noise, and the exact values.

    Raises:
      ValueError: if a value is not finite, or the noise is too small beside the activations for
        the exact values (see `exact.noisy_layer`).
    """
    flat = np.asarray(activations, np.float32)
    flat = flat.reshape(len(flat), -1)
    clean = estimator.prepare(flat, name, scale="common")
    noise_std = _noise_std(flat, config)
    noise_key, reference_key = jax.random.split(key)
    rows = _REFERENCE_ROWS_WIDE if flat.shape[1] > _WIDE else _REFERENCE_ROWS
    reference = exact.noisy_layer(reference_key, flat, noise_std, labels, rows=rows)
    noise = noise_std * np.asarray(jax.random.normal(noise_key, flat.shape))
    mean = flat.mean(axis=0, dtype=np.float64) + noise.mean(axis=0, dtype=np.float64)
    quiet = flat - mean.astype(np.float32)
    unit = math.sqrt(np.mean(np.square(quiet + noise), dtype=np.float64))
    quiet, noise = quiet / unit, noise / unit
    if clean.shape[1] > estimator.WIDE:
        # All on the clean layer's axes: the noise stays the same in all directions.
        axes = estimator.principal_axes(clean, estimator.WIDE)
        if towards is not None:
            axes = axes @ estimator.turn(clean @ axes, towards)
        clean, quiet, noise = (values @ axes for values in (clean, quiet, noise))
    quiet, noise = jax.numpy.asarray(quiet), jax.numpy.asarray(noise)
    return Observed(clean, quiet + noise, quiet, noise_std / unit, noise_std, reference)


def measure(
    variables: Mapping[str, Array],
    layers: Mapping[str, Array | Observed],
    *,
    epoch: int,
    config: PlaneConfig,
    key: Array,
    state: Mapping[str, MineState] | None = None,
    progress: bool = False,
) -> tuple[list[Row], dict[str, MineState]]:
    """One round: fit the networks of all (variable, layer) pairs at once and judge them.

    Without noise a value may be that of a later layer's network. Let T(v, l) be a network of the
    later layer l = f(l'): T(v, f(l')) is a network of the earlier layer l', with the same scores on
    the same samples, hence with the same bound, valid for I(V; L') too. So for each variable, from
    the deepest layer to the first, a layer takes over the value that the next deeper one has
    (which may itself be taken over) unless its own network is better on the stopping samples by
    more than one standard error of its own value there. Reporting samples have no part in that
    choice, so the value is not one picked for being high.

    With noise X is represented by the layer without it, as T depends on X through L alone:
    I(X; T) = I(L; T). Nothing is taken over.

    Args:
      variables: `x` and `y`, prepared by `estimator.prepare`, (n, features); `x` is not needed,
        nor used, with observed layers.
      layers: names to activations, prepared likewise, in the order of depth, each a function of
        the one before; or all of them as `observe` returns them.
      epoch: for the rows, and for fresh batches in each round.
      config: the configuration.
      key: a PRNG key, the same in all rounds, so that the split of the samples is too.
      state: networks to start from, as an earlier round returned them; None for fresh ones.
      progress: show a bar.

    Returns:
      A row for each layer and variable, and the states of the networks. In a row, `network` is the
      layer whose network the value (with its errors, ceiling and warnings) is of, `own_nats` the
      value of the layer's own, and `steps` are those of the layer's own.

    Raises:
      ValueError: if only some of the layers are observed with noise, or the samples are too few.
    """
    of_seeds = {config.seed: layers}
    return measure_all(
        variables,
        of_seeds,
        epoch=epoch,
        config=config,
        key=key,
        state=state,
        progress=progress,
    )


def measure_all(
    variables: Mapping[str, Array],
    layers: Mapping[int, Mapping[str, Array | Observed]],
    *,
    epoch: int,
    config: PlaneConfig,
    key: Array,
    state: Mapping[str, MineState] | None = None,
    progress: bool = False,
) -> tuple[list[Row], dict[str, MineState]]:
    """`measure` for several networks at once, on the same inputs.

    Args:
      variables: as for `measure`.
      layers: for each seed the layers of its network, as for `measure`.
      epoch: likewise.
      config: likewise.
      key: likewise.
      state: likewise; with the same seeds.
      progress: likewise.

    Returns:
      The rows, one seed after another, and the states of all networks.

    Raises:
      ValueError: as `measure`.
    """
    started = time.perf_counter()
    names = {(seed, name): _named(name, seed, layers) for seed in layers for name in layers[seed]}
    inputs = inputs_of(variables, {names[seed, name]: layers[seed][name] for seed, name in names})
    with tqdm(
        total=config.round.max_steps,
        desc=f"probe at epoch {epoch}",
        unit="step",
        leave=False,
        disable=not progress,
    ) as bar:

        def on_progress(done: int, total: int, text: str) -> None:
            bar.total = total
            bar.update(done - bar.n)
            bar.set_postfix_str(text)

        estimates, new_state = estimator.lower_bounds(
            inputs.x,
            inputs.z,
            key=key,
            config=config.round,
            state=state,
            round_number=epoch,
            on_progress=on_progress,
            pairs=tuple(inputs.pairs.values()),
            noise=inputs.noise,
        )
    seconds = time.perf_counter() - started
    rows = []
    for seed, of_seed in layers.items():
        for variable in dict.fromkeys(variable for variable, _ in inputs.pairs):
            own = {name: estimates[inputs.pairs[variable, names[seed, name]]] for name in of_seed}
            chosen = {name: (name, own[name]) for name in own} if inputs.noise else _chain(own)
            earlier: Estimate | None = None
            for name, layer in of_seed.items():
                rows.append(
                    {"seed": seed, "epoch": epoch, "layer": name, "variable": variable}
                    | _value(*chosen[name], name, own[name])
                    | _reference(layer, variable)
                    | {"warm_start": state is not None, "seconds": seconds}
                    | _drop(earlier, chosen[name][1])
                )
                earlier = chosen[name][1]
    return rows, new_state


def _named(name: str, seed: int, seeds: Iterable[int]) -> str:
    """A layer's name among those of all seeds."""
    return name if len(list(seeds)) == 1 else f"{name} of seed {seed}"


class Inputs(NamedTuple):
    """What the networks of a round are fitted to.

    Attributes:
      x: names to prepared samples, (n, features); with noise (2n, features), see
        `estimator.lower_bounds`.
      z: likewise, by layer.
      pairs: the names in `x` and `z` of each (variable, layer).
      noise: its standard deviations by name in x and in z; None without noise.
    """

    x: dict[str, Any]
    z: dict[str, Any]
    pairs: dict[tuple[str, str], tuple[str, str]]
    noise: mine.NoiseLevels | None = None


def inputs_of(variables: Mapping[str, Any], layers: Mapping[str, Any]) -> Inputs:
    """The samples and pairs for the networks of every variable with every layer.

    Args:
      variables: as for `measure`.
      layers: likewise.

    Returns:
      What `estimator.lower_bounds` takes.

    Raises:
      ValueError: if only some of the layers are observed with noise.
    """
    observed = [isinstance(layer, Observed) for layer in layers.values()]
    if not any(observed):
        pairs = {(variable, name): (variable, name) for variable in variables for name in layers}
        return Inputs(dict(variables), dict(layers), pairs)
    if not all(observed):
        raise ValueError("layers must all be observed with noise, or none of them")

    def blocks(first: Array, second: Array) -> Array:
        return jax.numpy.concatenate([first, second])

    others = {name: blocks(value, value) for name, value in variables.items() if name != "x"}
    noisy = {name: blocks(layer.noisy, layer.quiet) for name, layer in layers.items()}
    clean = {f"x:{name}": blocks(layer.clean, layer.clean) for name, layer in layers.items()}
    # The noisy side first: the InfoNCE form compares, for each of its samples, all of the other
    # side, and then the density of T, which is hard to learn, cancels.
    first = {f"T:{name}": value for name, value in noisy.items()}
    pairs = {("x", name): (f"T:{name}", f"x:{name}") for name in layers}
    pairs |= {(variable, name): (variable, name) for variable in others for name in layers}
    levels = {name: layer.level for name, layer in layers.items()}
    noise = {f"T:{name}": level for name, level in levels.items()}, levels
    return Inputs(first | others, noisy | clean, pairs, noise)


def _chain(own: Mapping[str, Estimate]) -> dict[str, tuple[str, Estimate]]:
    """For each layer the layer whose network it reports, and that one's estimate.

    Args:
      own: estimates of one variable by each layer's own network, in the order of depth.
    """
    chosen: dict[str, tuple[str, Estimate]] = {}
    best: tuple[str, Estimate] | None = None
    for name, estimate in reversed(own.items()):
        if best is None or _better(estimate, best[1]):
            best = name, estimate
        chosen[name] = best
    return chosen


def _better(own: Estimate, later: Estimate) -> bool:
    """Whether a layer keeps its own network: decided by the stopping samples alone."""
    if not math.isfinite(later.stop_nats):
        return True
    return bool(own.stop_nats - later.stop_nats > own.stop_stderr)


def _value(network: str, chosen: Estimate, layer: str, own: Estimate) -> Row:
    """The columns of a row that come from the fits."""
    warnings = list(chosen.warnings)
    if network != layer and not own.converged:
        warnings += [f"Its own network, which is not used: {text}" for text in own.warnings]
    return {
        "mi_nats": _number(chosen.nats),
        "stderr": _number(chosen.stderr),
        "train_nats": _number(chosen.train_nats),
        "ceiling_nats": chosen.ceiling_nats,
        "network": network,
        "own_nats": _number(own.nats),
        "steps": own.steps,
        # The layer's own network might still have become the better one.
        "converged": chosen.converged and own.converged,
        "warnings": warnings,
    }


def _reference(layer: Array | Observed, variable: str) -> Row:
    """The columns of a row that come from the noise."""
    nats = stderr = None
    noise_std = 0.0
    if isinstance(layer, Observed):
        noise_std = layer.noise_std
        if variable == "x":
            nats, stderr = layer.reference.x_nats, layer.reference.x_stderr
        elif variable == "y":
            nats, stderr = layer.reference.y_nats, layer.reference.y_stderr
    return {"reference_nats": nats, "reference_stderr": stderr, "noise_std": noise_std}


def _noise_std(flat: np.ndarray, config: PlaneConfig) -> float:
    """σ of a layer with these activations, (n, units)."""
    if config.noise == "absolute":
        return config.noise_std
    apart = flat - flat.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = math.sqrt(np.mean(np.square(apart, out=apart), dtype=np.float64))
    # Of a layer that is constant nothing can be known, whatever σ is; but it has to be positive.
    return config.noise_std * (scale or 1.0)


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] += time.perf_counter() - started


def _train(
    states: list[ClassifierState],
    keys: list[Array],
    model: nn.Module,
    train: tuple[Array, Array],
    test: tuple[ArrayLike, ArrayLike],
    epoch: int,
    config: PlaneConfig,
    seconds: dict[str, float],
    progress: bool,
) -> tuple[list[Row], list[ClassifierState]]:
    """One epoch (none for epoch 0) of all networks, and its rows of `training.jsonl`."""
    started = time.perf_counter()
    losses: list[float | None] = [None] * len(states)
    if epoch > 0:
        with tqdm(
            desc=f"epoch {epoch}/{config.epochs}", unit="step", leave=False, disable=not progress
        ) as bar:

            def on_progress(done: int, total: int, loss: float) -> None:
                bar.total = total
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                bar.update(done - bar.n)

            trained = classifier.train_epochs(
                states, keys, model, config.classifier, *train, on_progress
            )
        states = [state for state, _ in trained]
        losses = [_number(info.train_loss) for _, info in trained]
    accuracies = [classifier.accuracy(state.params, model, *test) for state in states]
    took = time.perf_counter() - started
    seconds["training"] += took
    rows = [
        ({"seed": seed} if config.num_seeds > 1 else {})
        | {"epoch": epoch, "train_loss": loss, "test_accuracy": accuracy, "seconds": took}
        for seed, loss, accuracy in zip(config.seeds, losses, accuracies, strict=True)
    ]
    return rows, states


def _abstract(
    model: nn.Module,
    states: list[ClassifierState],
    variables: Mapping[str, Array],
    probed: Array,
    config: PlaneConfig,
) -> dict[str, Any]:
    """Shapes and types of a checkpoint."""
    _, probes = jax.eval_shape(
        lambda params, images: model.apply(params, images, probes=config.layers),
        states[0].params,
        probed,
    )

    def prepared(name: str) -> Any:
        # `prepare` decides how wide it makes a layer, whatever the values in it are.
        nothing = np.broadcast_to(np.float32(0), probes[name].shape)
        if not config.noise_std:
            return jax.eval_shape(lambda: estimator.prepare(nothing, name))
        width = min(math.prod(nothing.shape[1:]), estimator.WIDE)  # as `observe` leaves it
        zeros = np.broadcast_to(np.float32(0), (len(nothing), width))
        reference = exact.NoisyLayer(math.nan, math.nan, None, None, 0)
        return Observed(zeros, zeros, zeros, 1.0, config.noise_std, reference)

    layers = {
        _named(name, seed, config.seeds): prepared(name)
        for seed in config.seeds
        for name in config.layers
    }

    def networks(key: Array) -> dict[str, MineState]:
        inputs = inputs_of(variables, layers)
        pairs = tuple(inputs.pairs.values())
        return estimator.fresh(key, inputs.x, inputs.z, config.round, pairs)

    networks = jax.eval_shape(networks, jax.random.key(0))
    return {"classifier": jax.eval_shape(lambda: states), "networks": networks}


def _drop(earlier: Estimate | None, later: Estimate) -> Row:
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


def _summary(training: Sequence[Row], rows: Sequence[Row]) -> str:
    """A line of text on a probe; of several seeds their means."""

    def mean(values: Iterable[float | None]) -> float:
        known = [math.nan if value is None else value for value in values]
        return sum(known) / len(known)

    accuracy = mean(row["test_accuracy"] for row in training)
    text = f"epoch {training[0]['epoch']:3d}: test accuracy {accuracy:.2%}"
    for variable in dict.fromkeys(row["variable"] for row in rows):
        own = [row for row in rows if row["variable"] == variable]
        values = []
        for layer in dict.fromkeys(row["layer"] for row in own):
            of_layer = [row for row in own if row["layer"] == layer]
            values.append(f"{layer} {mean(row['mi_nats'] for row in of_layer):.2f}")
            if of_layer[0]["reference_nats"] is not None:
                values[-1] += f" of {mean(row['reference_nats'] for row in of_layer):.2f}"
        symbol = "T" if own[0]["noise_std"] else "L"
        text += f" | I({variable.upper()};{symbol}) {', '.join(values)}"
    steps = max(row["steps"] for row in rows)
    return f"{text} | {steps} steps, {rows[0]['seconds']:.0f} s"
