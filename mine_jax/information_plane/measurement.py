"""One round: fit the statistics networks of all (plane, variable, layer), and record the values.

Without noise a layer may take the value of a later layer's network (`choose_networks`). With
measurement noise each layer is observed separately: a later T is no function of an earlier T, and
each layer keeps the value of its own network.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from mine_jax import estimate
from mine_jax.estimate import Estimate, Pair
from mine_jax.information_plane.brackets import Side
from mine_jax.information_plane.config import Plane, PlaneConfig
from mine_jax.information_plane.observation import (
    MAX_LOST_NATS,
    NO_VARIANCE,
    Layers,
    Observed,
    View,
)
from mine_jax.mine import MineState, Samples, is_labels
from mine_jax.progress import progress_bar

Row = dict[str, Any]


class Place(NamedTuple):
    """What an estimate is of."""

    plane: Plane
    variable: str
    layer: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its pair in messages and results, such as "x;conv1 observed of seed 0"."""
        return f"{self.variable};{self.layer} {self.plane} of seed {self.seed}"


class Value(NamedTuple):
    """A reported value: nats, and the influence of each test sample on it, (1, r)."""

    nats: float
    influence: np.ndarray


class Round(NamedTuple):
    """Result of a round.

    Attributes:
      rows: a row of `records.jsonl` for each place.
      states: the networks, by name of their place.
      values: the reported values, likewise.
    """

    rows: list[Row]
    states: dict[str, MineState]
    values: dict[str, Value]


def pairs_of(variables: Mapping[str, jax.Array], layers: Mapping[int, Layers]) -> dict[Place, Pair]:
    """Pair every variable with every layer.

    With noise, X is represented by the layer without it: I(X;T) = I(L;T), as T depends on X through
    L alone. T is then the first side of the pair: the InfoNCE form compares, for each of its
    samples, all samples of the second side, so that the density of T, hard to learn, cancels.

    Args:
      variables: as for `measure`.
      layers: as for `measure`.

    Returns:
      The pairs, observed ones first, with labels in z.
    """
    pairs = {}
    for seed, of_seed in layers.items():
        for name, layer in of_seed.observed.items():
            for variable, view in (("x", layer.for_x), ("y", layer.for_y)):
                if variable in ("x", *variables):
                    other = view.layer if variable == "x" else variables[variable]
                    pair = Pair(view.observed, Samples(other), seed)
                    pairs[Place("observed", variable, name, seed)] = pair
        for variable, values in variables.items():
            for name, prepared in of_seed.deterministic.items():
                x, z = Samples(values), Samples(prepared)
                if is_labels(values):
                    x, z = z, x
                pairs[Place("deterministic", variable, name, seed)] = Pair(x, z, seed)
    return pairs


def measure(
    variables: Mapping[str, jax.Array],
    layers: Mapping[int, Layers],
    *,
    epoch: int,
    config: PlaneConfig,
    key: jax.Array,
    init: Mapping[str, MineState] | None = None,
    before: Mapping[str, Value] | None = None,
    progress: bool = False,
) -> Round:
    """Fit and evaluate the statistics networks of one round.

    Args:
      variables: "x" and "y", (n, features), as `prepare_variables` returns them.
      layers: by the classifier's seed, as `read_layers` returns them, on the same inputs.
      epoch: epoch of the rows; it also gives each round its own batches.
      config: the configuration.
      key: a PRNG key, the same in all rounds, so that the split of the samples is the same.
      init: states that an earlier round returned (warm start), of all places or of some; None for
        a cold start.
      before: values of the previous round, to tell what changed.
      progress: show a progress bar.

    Returns:
      Rows, in nats, states and values. `network` names the layer whose network gives a row's value,
      errors and warnings; `own_nats` and `steps` belong to the layer's own network.

    Raises:
      ValueError: if the samples are too few, or `init` does not fit.
    """
    started = time.perf_counter()
    pairs = pairs_of(variables, layers)
    estimates: dict[Place, Estimate] = {}
    groups: dict[tuple[Plane, str, bool], list[Place]] = {}
    for place in pairs:
        # Without noise one configuration serves both variables.
        variable = "" if place.plane == "deterministic" else place.variable
        warm = init is not None and place.name in init
        groups.setdefault((place.plane, variable, warm), []).append(place)
    for (plane, variable, warm), places in groups.items():
        with progress_bar(f"probe at epoch {epoch}: {plane} {variable}".strip(), progress) as bar:
            found = estimate.lower_bounds(
                {place.name: pairs[place] for place in places},
                key=key,
                config=config.mine_config(plane, variable),
                init={place.name: init[place.name] for place in places} if init and warm else None,
                round_number=epoch,
                on_progress=bar,
            )
        for place in places:
            estimates[place] = found[place.name]
            if plane == "observed" and layers[place.seed].observed[place.layer].noise_std == 0:
                estimates[place] = _without_variance(estimates[place])
    seconds = time.perf_counter() - started
    # Given pairs have one encoder, and one state.
    states = {place.name: cast(MineState, estimates[place].state) for place in pairs}
    result = Round([], states, {})
    for plane, variable, seed in _chains(variables, layers, config):
        of_seed = layers[seed]
        measured = of_seed.observed if plane == "observed" else of_seed.deterministic
        names = [name for name in config.layers if name in {**measured, **of_seed.failures}]
        of_layer = {name: Place(plane, variable, name, seed) for name in names}
        own = {name: estimates[place] for name, place in of_layer.items() if place in estimates}
        share = config.share_networks and plane == "deterministic"
        networks = choose_networks(own) if share and own else {name: name for name in own}
        previous: str | None = None
        for layer, place in of_layer.items():
            warm = init is not None and place.name in init
            row: Row = {"seed": seed, "epoch": epoch, "layer": layer, "variable": variable}
            row |= {"plane": plane, "warm_start": warm, "seconds": seconds}
            if layer in of_seed.failures:
                result.rows.append(row | _failed_columns(of_seed.failures[layer], plane, config))
                continue
            observed = of_seed.observed[layer] if plane == "observed" else None
            value = Value(own[networks[layer]].nats, own[networks[layer]].influence)
            row |= _value_columns(layer, networks[layer], own)
            if observed is not None and variable == "x":
                row["warnings"] += lost_warning(observed.for_x)
            row |= _noise_columns(observed, variable, value, config)
            row |= _drop_columns(previous, layer, networks, own)
            earlier = None if before is None else before.get(place.name)
            change = (None, None) if earlier is None else paired_drop(value, earlier)
            row |= dict(zip(("change_nats", "change_stderr"), change, strict=True))
            result.rows.append(row)
            result.values[place.name] = value
            previous = layer
    return result


def _without_variance(found: Estimate) -> Estimate:
    """Return the estimate of a layer without variance, whose value is known to be 0."""
    return dataclasses.replace(
        found,
        nats=0.0,
        stderr=0.0,
        train_nats=0.0,
        converged=True,
        warnings=(NO_VARIANCE,),
        influence=np.zeros_like(found.influence),
    )


def _chains(
    variables: Mapping[str, jax.Array], layers: Mapping[int, Layers], config: PlaneConfig
) -> list[tuple[Plane, str, int]]:
    """Return the (plane, variable, seed) that are measured, each a chain of layers."""
    measured: dict[Plane, list[str]] = {
        "observed": list(dict.fromkeys(("x", *variables))),
        "deterministic": list(variables),
    }
    return [
        (plane, variable, seed)
        for seed in layers
        for plane in config.planes
        for variable in measured[plane]
    ]


def choose_networks(own: Mapping[str, Estimate]) -> dict[str, str]:
    """Choose, for each layer, the layer whose network gives its value.

    Without noise, a network T(v, l) of the later layer l = f(l') is a network T(v, f(l')) of the
    earlier layer l': the scores on the same samples are the same, hence the bound, which is valid
    for I(V;L') too. From the deepest layer to the first, a layer takes the value of the next one
    (which may itself come from a later one) unless its own network is better on the validation
    samples by more than one standard error of its own value there. Test samples have no part in
    that choice, so no value is selected for being high.

    Args:
      own: estimates of one variable by each layer's own network, in order of depth.

    Returns:
      Layer names by layer name.
    """
    networks: dict[str, str] = {}
    names = list(own)
    best = names[-1]
    for name in reversed(names):
        if _is_better(own[name], own[best]):
            best = name
        networks[name] = best
    return networks


def _is_better(own: Estimate, later: Estimate) -> bool:
    if not math.isfinite(later.validation_nats):
        return True
    return own.validation_nats - later.validation_nats > own.validation_stderr


def _value_columns(layer: str, network: str, own: Mapping[str, Estimate]) -> Row:
    value, of_layer = own[network], own[layer]
    warnings = list(value.warnings)
    if network != layer and not of_layer.converged:
        warnings += [f"The layer's own network, not used: {text}" for text in of_layer.warnings]
    return {
        "mi_nats": finite_or_none(value.nats),
        "stderr": finite_or_none(value.stderr),
        "train_nats": finite_or_none(value.train_nats),
        "ceiling_nats": value.ceiling_nats,
        "network": network,
        "own_nats": finite_or_none(of_layer.nats),
        "steps": of_layer.steps,
        # With more steps the layer's own network might have become the better one.
        "converged": value.converged and of_layer.converged,
        "warnings": warnings,
    }


def _noise_columns(
    observed: Observed | None, variable: str, value: Value, config: PlaneConfig
) -> Row:
    """Return the columns of the noise and of the references beside the value."""
    row: Row = {"noise_std": 0.0, "noise_level": 0.0}
    sides: dict[str, Side | None] = dict.fromkeys(("reference", "reference_low", "reference_high"))
    row |= dict.fromkeys(("num_images", "num_axes", "lost_nats", "gaussian_bound_nats"))
    if observed is not None:
        bracket, view = observed.bracket, observed.for_x if variable == "x" else observed.for_y
        low, high, both = bracket.y_low, bracket.y_high, bracket.y_high
        if variable == "x":
            low, high, both = bracket.x_low, bracket.x_high, bracket.x_low
            row["gaussian_bound_nats"] = finite_or_none(observed.gaussian_bound_nats)
        sides["reference"] = both
        if not config.population:
            sides |= {"reference_low": low, "reference_high": high}
        level = None if config.noise == "absolute" else config.noise_level(value.influence.size)
        row |= {"noise_std": observed.noise_std, "noise_level": level}
        row |= {"num_images": len(view.layer), "num_axes": view.width, "lost_nats": view.lost_nats}
        for name, both_values in observed.compared.items():
            row[f"{name}_nats"] = finite_or_none(both_values["xy".index(variable)])
    for name, side in sides.items():
        row |= {
            f"{name}_nats": side and finite_or_none(side.nats),
            f"{name}_stderr": side and finite_or_none(side.stderr),
        }
    for name in ("low", "high"):
        difference: tuple[float | None, float | None] = (None, None)
        if (side := sides[f"reference_{name}"]) is not None:
            difference = paired_drop(value, Value(side.nats, side.influence[None]))
        row[f"{name}_difference_nats"], row[f"{name}_difference_stderr"] = difference
    return row


def _failed_columns(failure: str, plane: Plane, config: PlaneConfig) -> Row:
    """Return the columns of a layer that could not be measured: the reason, and None."""
    sides = ("reference", "reference_low", "reference_high", "low_difference", "high_difference")
    differences = ("drop", "own_drop", "change")
    names = [
        *("mi_nats", "stderr", "train_nats", "ceiling_nats", "network", "own_nats"),
        *("noise_std", "noise_level", "num_images", "num_axes", "lost_nats"),
        "gaussian_bound_nats",
        *(f"{name}_{unit}" for name in (*sides, *differences) for unit in ("nats", "stderr")),
    ]
    names += [f"{name}_nats" for name in config.also] if plane == "observed" else []
    return dict.fromkeys(names) | {"steps": 0, "converged": False, "warnings": [failure]}


def lost_warning(view: View) -> list[str]:
    """Return a sentence where the axes that are left out may hold too much."""
    if view.lost_nats <= MAX_LOST_NATS:
        return []
    return [
        f"The {view.width} principal axes that the network sees may leave out up to "
        f"{view.lost_nats:.2f} nats of I(X;T)."
    ]


def _drop_columns(
    previous: str | None, layer: str, networks: Mapping[str, str], own: Mapping[str, Estimate]
) -> Row:
    """Return how far the value, and that of the layer's own network, fall from the layer before."""
    names = ("drop_nats", "drop_stderr", "own_drop_nats", "own_drop_stderr")
    if previous is None:
        return dict.fromkeys(names)
    drop = paired_drop(own[networks[previous]], own[networks[layer]])
    return dict(zip(names, (*drop, *paired_drop(own[previous], own[layer])), strict=True))


def paired_drop(
    earlier: Estimate | Value, later: Estimate | Value
) -> tuple[float | None, float | None]:
    """Return the difference of two values on the same test samples, and its standard error.

    The standard error is that of the samples' differences in influence, so that what moves both
    values alike does not count.

    Args:
      earlier: the value to subtract from.
      later: the value to subtract.

    Returns:
      Both in nats, None where not finite.
    """
    influence = np.asarray(earlier.influence - later.influence)
    influence = influence - influence.mean(axis=-1, keepdims=True)  # a constant of each fold's T
    stderr = influence.std(ddof=1) / math.sqrt(influence.size)
    return finite_or_none(earlier.nats - later.nats), finite_or_none(stderr)


def finite_or_none(value: float) -> float | None:
    """Return a float that JSON can hold: None for NaN and infinities."""
    return float(value) if math.isfinite(value) else None
