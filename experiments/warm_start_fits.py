"""Fits of warm_start.py: the plan, the samples of an epoch, the start of networks, their rows."""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from tqdm import tqdm
from warm_start_report import CHAIN, COLD, Row

from mine_jax import MineConfig, MineState, classifier, devices, estimate, information_plane
from mine_jax.estimate import Estimate, Pair
from mine_jax.information_plane import Layers, PlaneConfig
from mine_jax.information_plane.measurement import finite_or_none, paired_drop
from mine_jax.lenet.datasets import Dataset

WIDTH = 128  # principal axes that a wide layer is observed on at every epoch
SHRINK, PERTURB = 0.5, 0.1  # after Ash and Adams 2020, "On warm-starting neural network training"


class Fit(NamedTuple):
    """Fits of all pairs at an epoch.

    Attributes:
      start: "cold", "chain" or a name out of `STARTS`.
      epoch: the epoch of the layers.
      source: the epoch of the networks that a warm start takes; None for a cold one.
    """

    start: str
    epoch: int
    source: int | None


class Place(NamedTuple):
    """A pair at an epoch: layer, "x" or "y", LeNet-5, and the seed of the statistics network."""

    layer: str
    variable: str
    network: int
    seed: int

    def __str__(self) -> str:
        """Return the name of the pair."""
        return f"{self.variable} with {self.layer} of network {self.network}, {self.seed}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work that the flags describe.

    Attributes:
      fits: in order; the source of a warm start comes before it.
      places: the pairs of each fit.
      plane: configuration of training and observing.
      mine: configurations of the statistics networks of "x" and "y".
      align: whether principal components are aligned to the images'.
      dataset: name of the data set.
    """

    fits: tuple[Fit, ...]
    places: tuple[Place, ...]
    plane: PlaneConfig
    mine: Mapping[str, MineConfig]
    align: bool
    dataset: str

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs whose layers are needed, ascending."""
        return tuple(sorted({fit.epoch for fit in self.fits}))

    def origin(self, fit: Fit) -> Fit:
        """Return the source of a warm start: of a chain its last link, or a cold fit."""
        starts = (COLD, CHAIN) if fit.start == CHAIN else (COLD,)
        return [f for f in self.fits if f.epoch == fit.source and f.start in starts][-1]

    def needed(self, missing: Iterable[Fit]) -> tuple[Fit, ...]:
        """Return the missing fits and those that they start from or are compared with."""
        needed = set(missing)
        for fit in reversed(self.fits):
            if fit in needed and fit.source is not None:
                needed |= {self.origin(fit), Fit(COLD, fit.epoch, None)}
        return tuple(fit for fit in self.fits if fit in needed)


def plan_fits(
    targets: Iterable[int], distances: Iterable[int], chain: Sequence[int], starts: Sequence[str]
) -> tuple[Fit, ...]:
    """List all fits by epoch, the cold ones of an epoch first.

    The first way of starting goes over all distances, the others over the middle one.

    Args:
      targets: epochs at which warm and cold starts are compared.
      distances: epochs from a source to a target; those that reach before epoch 0 are left out.
      chain: epochs at which networks start from those of the epoch before, ascending.
      starts: names out of `STARTS`.
    """
    distances = sorted(distances)
    middle = distances[(len(distances) - 1) // 2]
    warm = [Fit(CHAIN, later, earlier) for earlier, later in itertools.pairwise(chain)]
    warm += [
        Fit(start, target, target - distance)
        for target in targets
        for distance in distances
        for start in (starts if distance == middle else starts[:1])
        if target >= distance
    ]
    sources = {fit.source for fit in warm if fit.source is not None}
    epochs = sorted({fit.epoch for fit in warm} | sources)
    return tuple(
        fit
        for epoch in epochs
        for fit in (Fit(COLD, epoch, None), *(fit for fit in warm if fit.epoch == epoch))
    )


class Stack(NamedTuple):
    """All pairs of an epoch, by the names of the places.

    Attributes:
      pairs: their samples.
      references: (nats, standard error); None where unknown.
    """

    pairs: dict[str, Pair]
    references: dict[str, tuple[float | None, float | None]]


def observe(
    plan: Plan, params: Sequence[Any], model: nn.Module, data: Dataset, epoch: int
) -> Stack:
    """Observe the layers of all networks at an epoch.

    Args:
      plan: the plan.
      params: each network's variables at that epoch.
      model: the classifier.
      data: the data set.
      epoch: the epoch.
    """
    rows = information_plane.probe_rows(plan.plane, len(data.train_images))
    images, labels = np.asarray(data.train_images)[rows], np.asarray(data.train_labels)[rows]
    split = information_plane.split_rows(plan.plane, len(rows))
    target = information_plane.read_target(labels, discrete=True)
    variables = information_plane.prepare_variables(images, target, plan.plane, split)
    align_to = information_plane.alignment_target(images, plan.plane) if plan.align else None
    pairs: dict[str, Pair] = {}
    references: dict[str, tuple[float | None, float | None]] = {}
    for k, params_of_network in enumerate(params):
        activations = classifier.probe(params_of_network, model, images, plan.plane.layers)
        for i, layer in enumerate(plan.plane.layers):
            values, known = activations.pop(layer), {"x": (None, None), "y": (None, None)}
            layers = Layers({}, {}, {})
            if plan.plane.noise_std:
                key = jax.random.fold_in(jax.random.key(plan.plane.seed + k), epoch)
                key = jax.random.fold_in(key, i)
                observed = information_plane.observe(
                    key, values, labels, plan.plane, split, layer, align_to, WIDTH
                )
                layers.observed[layer] = observed
                # The values of the probed images as the whole population.
                exact: Any = {"x": observed.bracket.x_low, "y": observed.bracket.y_high}
                known = {name: (side.nats, side.stderr) for name, side in exact.items()}
            else:
                layers.deterministic[layer] = estimate.prepare(values, layer, align_to=align_to)
            of_layer = {
                (of.variable, of.layer): pair
                for of, pair in information_plane.pairs_of(variables, {k: layers}).items()
            }
            for place in plan.places:
                if (place.layer, place.network) == (layer, k):
                    pair = of_layer[place.variable, layer]
                    pairs[str(place)] = pair._replace(seed=place.seed)
                    references[str(place)] = known[place.variable]
    return Stack(pairs, references)


def warm_state(start: str, state: MineState, fresh: MineState, other: MineState) -> MineState:
    """Make the state that a warm start begins with.

    Args:
      start: a name out of `STARTS`, or "chain", which is "kept".
      state: the earlier networks' state.
      fresh: an untrained one.
      other: the earlier state of another layer.
    """
    if start in ("kept", CHAIN):
        return state
    if start == "reset":
        return state._replace(opt_state=fresh.opt_state, steps=fresh.steps)
    if start == "shrunk":
        params = jax.tree.map(
            lambda trained, untrained: SHRINK * trained + PERTURB * untrained,
            state.average,
            fresh.params,
        )
        return fresh._replace(params=params, average=params, gaussian=state.gaussian)
    params = {**fresh.params, "head": other.average["head"]}
    return fresh._replace(params=params, average=params)


def fit_all(
    fit: Fit, stack: Stack, plan: Plan, source: Mapping[str, Estimate] | None
) -> tuple[dict[str, Estimate], float]:
    """Fit all pairs of an epoch.

    Args:
      fit: their start.
      stack: the pairs.
      plan: the plan.
      source: estimates at the source of a warm start; None for a cold one.

    Returns:
      The estimates by name, and the seconds that they took.
    """
    key = jax.random.key(plan.plane.seed)
    init = None
    if source is not None:
        # Split and batches are those of the cold fit; fresh weights to mix in are not.
        fresh_key = jax.random.fold_in(key, 1 + fit.epoch)
        fresh = {}
        for variable, mine in plan.mine.items():
            fresh |= estimate.init_states(of_variable(stack, plan, variable), mine, fresh_key)
        layers = plan.plane.layers
        following = dict(zip(layers, [*layers[1:], layers[0]], strict=True))
        init = {}
        for place in plan.places:
            name, other = str(place), str(place._replace(layer=following[place.layer]))
            init[name] = warm_state(fit.start, source[name].state, fresh[name], source[other].state)
    begin = time.perf_counter()
    estimates: dict[str, Estimate] = {}
    for variable, mine in plan.mine.items():
        pairs = of_variable(stack, plan, variable)
        estimates |= estimate.lower_bounds(
            pairs,
            key=key,
            config=mine,
            init=init and {name: init[name] for name in pairs},
            round_number=fit.epoch,
        )
    return estimates, time.perf_counter() - begin


def of_variable(stack: Stack, plan: Plan, variable: str) -> dict[str, Pair]:
    """Return the pairs of "x" or "y"."""
    names = [str(place) for place in plan.places if place.variable == variable]
    return {name: stack.pairs[name] for name in names}


def make_rows(
    fit: Fit,
    plan: Plan,
    stack: Stack,
    estimates: Mapping[str, Estimate],
    cold: Mapping[str, Estimate],
    seconds: float,
) -> list[Row]:
    """Make the rows of a fit in the order of the places, with the differences to the cold fit."""
    total_steps = sum(int(result.steps) for result in estimates.values())
    rows = []
    for place in plan.places:
        result, baseline = estimates[str(place)], cold[str(place)]
        over_cold = paired_drop(result, baseline)
        reference_nats, reference_stderr = stack.references[str(place)]
        steps, curve = result.history.steps, result.history.validation_nats[:, 0]
        row = {
            **fit._asdict(),
            **place._asdict(),
            "nats": finite_or_none(result.nats),
            "stderr": finite_or_none(result.stderr),
            "validation_nats": finite_or_none(result.validation_nats),
            "train_nats": finite_or_none(result.train_nats),
            "ceiling_nats": float(result.ceiling_nats),
            "reference_nats": reference_nats,
            "reference_stderr": reference_stderr,
            "over_cold_nats": over_cold[0],
            "over_cold_stderr": over_cold[1],
            "steps": int(result.steps),
            "converged": bool(result.converged),
            "curve_steps": int(steps[-1]) // max(1, len(steps) - 1),
            "curve": [finite_or_none(round(float(value), 4)) for value in curve],
            "seconds_a_step": seconds / max(1, total_steps),
            "seconds": seconds,
        }
        rows.append(row)
    return rows


def train(plan: Plan, model: nn.Module, data: Dataset, progress: bool) -> list[list[Any]]:
    """Train all networks, and return each one's variables at each of the plan's epochs."""
    images, labels = devices.replicate((data.train_images, data.train_labels))
    # The same networks as those of the main job with these seeds.
    keys = [information_plane.seed_keys(seed) for seed in plan.plane.seeds]
    config = plan.plane.classifier
    states = [classifier.init(key["init"], model, config, images.shape[1:]) for key in keys]
    at_epochs = [[state.params for state in states]] if 0 in plan.epochs else []
    bar = tqdm(range(1, plan.epochs[-1] + 1), "training", unit="epoch", disable=not progress)
    for epoch in bar:
        trained = classifier.train_epochs(
            states, [key["train"] for key in keys], model, config, images, labels
        )
        states = [state for state, _ in trained]
        if epoch in plan.epochs:
            at_epochs.append([state.params for state in states])
    return at_epochs
