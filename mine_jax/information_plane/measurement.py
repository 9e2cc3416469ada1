"""One round: fit the statistics networks of all (variable, layer) pairs, and record the values.

Without noise a layer may take the value of a later layer's network (`choose_networks`). With
measurement noise each layer is observed separately: a later T is no function of an earlier T, and
each layer keeps the value of its own network.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mine_jax import estimate
from mine_jax.estimate import Estimate, Pair
from mine_jax.information_plane.config import PlaneConfig
from mine_jax.information_plane.observation import Observed
from mine_jax.mine import MineState, Samples, is_labels

Row = dict[str, Any]
Layers = Mapping[str, jax.Array | Observed]


def pair_names(
    variables: Mapping[str, jax.Array], layers: Mapping[int, Layers]
) -> dict[tuple[int, str], dict[str, str]]:
    """Name the pairs of a round.

    Args:
      variables: as for `measure`.
      layers: as for `measure`.

    Returns:
      For each (seed, variable) the pairs' names by layer. The seed is part of a name if there are
      several.

    Raises:
      ValueError: if only some of the layers are observed with noise.
    """
    noisy = {isinstance(layer, Observed) for of in layers.values() for layer in of.values()}
    if len(noisy) > 1:
        raise ValueError("layers must all be observed with noise, or none of them")
    # The layers without noise represent X.
    names = dict.fromkeys(("x", *variables)) if True in noisy else variables
    suffixes = {seed: f" of seed {seed}" if len(layers) > 1 else "" for seed in layers}
    return {
        (seed, variable): {layer: f"{variable};{layer}{suffixes[seed]}" for layer in by_name}
        for seed, by_name in layers.items()
        for variable in names
    }


def pairs_of(variables: Mapping[str, jax.Array], layers: Mapping[int, Layers]) -> dict[str, Pair]:
    """Pair every variable with every layer.

    With noise, X is represented by the layer without it: I(X;T) = I(L;T), as T depends on X through
    L alone. T is then the first side of the pair: the InfoNCE form compares, for each of its
    samples, all samples of the second side, so that the density of T, hard to learn, cancels.

    Args:
      variables: as for `measure`.
      layers: as for `measure`.

    Returns:
      The pairs by name, with labels in z.

    Raises:
      ValueError: if only some of the layers are observed with noise.
    """
    pairs = {}
    for (seed, variable), names in pair_names(variables, layers).items():
        for layer_name, name in names.items():
            layer = layers[seed][layer_name]
            if isinstance(layer, Observed):
                x = Samples(layer.observed, layer.observed_without_noise, layer.scaled_noise_std)
                z = Samples(layer.layer if variable == "x" else variables[variable])
            else:
                x, z = Samples(variables[variable]), Samples(layer)
                if is_labels(x.measured):
                    x, z = z, x
            pairs[name] = Pair(x, z, seed)
    return pairs


def measure(
    variables: Mapping[str, jax.Array],
    layers: Mapping[int, Layers],
    *,
    epoch: int,
    config: PlaneConfig,
    key: jax.Array,
    init: Mapping[str, MineState] | None = None,
    progress: bool = False,
) -> tuple[list[Row], dict[str, MineState]]:
    """Fit and evaluate the statistics networks of one round.

    Args:
      variables: "x" and "y", (n, features), as `prepare_variables` returns them. "x" is not used
        with noise.
      layers: by the classifier's seed, its layers in order of depth, as `read_layers` returns them,
        on the same inputs.
      epoch: epoch of the rows; it also gives each round its own batches.
      config: the configuration.
      key: a PRNG key, the same in all rounds, so that the split of the samples is the same.
      init: states that an earlier round returned (warm start); None for a cold start.
      progress: show a progress bar.

    Returns:
      A row of `records.jsonl` for each seed, variable and layer, in nats, and the states of the
      networks by name of their pair. `network` names the layer whose network gives the row's value,
      errors and warnings; `own_nats` and `steps` belong to the layer's own network.

    Raises:
      ValueError: if only some of the layers are observed with noise, the samples are too few, or
        `init` does not fit.
    """
    started = time.perf_counter()
    pairs = pairs_of(variables, layers)
    with progress_bar(f"probe at epoch {epoch}", progress) as update:
        estimates = estimate.lower_bounds(
            pairs,
            key=key,
            config=config.mine_config,
            init=init,
            round_number=epoch,
            on_progress=update,
        )
    seconds = time.perf_counter() - started
    rows = []
    for (seed, variable), names in pair_names(variables, layers).items():
        own = {layer: estimates[name] for layer, name in names.items()}
        noisy = any(isinstance(layer, Observed) for layer in layers[seed].values())
        share = config.share_networks and not noisy
        networks = choose_networks(own) if share else {layer: layer for layer in own}
        previous: str | None = None
        for layer in own:
            rows.append(
                {"seed": seed, "epoch": epoch, "layer": layer, "variable": variable}
                | _value_columns(layer, networks[layer], own)
                | _noise_columns(layers[seed][layer], variable)
                | {"warm_start": init is not None, "seconds": seconds}
                | _drop_columns(previous, layer, networks, own)
            )
            previous = layer
    return rows, {name: estimates[name].state for name in pairs}


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


def _noise_columns(layer: jax.Array | Observed, variable: str) -> Row:
    nats = stderr = None
    noise_std = 0.0
    if isinstance(layer, Observed):
        noise_std = layer.noise_std
        if variable == "x":
            nats, stderr = layer.reference.x_nats, layer.reference.x_stderr
        elif variable == "y":
            nats, stderr = layer.reference.y_nats, layer.reference.y_stderr
    return {"reference_nats": nats, "reference_stderr": stderr, "noise_std": noise_std}


def _drop_columns(
    previous: str | None, layer: str, networks: Mapping[str, str], own: Mapping[str, Estimate]
) -> Row:
    """Return how far the value, and that of the layer's own network, fall from the layer before."""
    names = ("drop_nats", "drop_stderr", "own_drop_nats", "own_drop_stderr")
    if previous is None:
        return dict.fromkeys(names)
    drop = paired_drop(own[networks[previous]], own[networks[layer]])
    return dict(zip(names, (*drop, *paired_drop(own[previous], own[layer])), strict=True))


def paired_drop(earlier: Estimate, later: Estimate) -> tuple[float | None, float | None]:
    """Return the difference of two estimates on the same test samples, and its standard error.

    The standard error is that of the samples' differences in influence, so that what moves both
    values alike does not count.

    Args:
      earlier: the estimate to subtract from.
      later: the estimate to subtract.

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


@contextmanager
def progress_bar(description: str, show: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar; yield the function that updates it (steps done, maximum, text)."""
    with tqdm(desc=description, unit="step", leave=False, disable=not show) as bar:

        def update(done: int, maximum: int, text: str) -> None:
            bar.total = maximum
            bar.set_postfix_str(text, refresh=False)
            bar.update(done - bar.n)

        yield update
