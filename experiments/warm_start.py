"""Statistics networks carried over from probe to probe, against fresh ones.

  python experiments/warm_start.py --data_dir=FOLDER
  python experiments/warm_start.py --network=default --noise=0
  python experiments/warm_start.py --quick

Trains LeNet-5 from several seeds, observes its layers with a noise beside which I(X;T) and I(Y;T)
are known, and fits statistics networks to each (layer, variable): cold, and carried over from an
earlier epoch in several ways (`CARRIES`). All fits of an epoch have the same samples, split and
batches. Rows go to records.jsonl in --out_dir as soon as they are known; tables (warm_start.md,
also printed) and a figure for each layer and variable (curves_y_relu3.png and so on) follow.
"""

import dataclasses
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import platforms
from absl import app, flags, logging
from tables import table
from tqdm import tqdm

COLD, CHAIN = "cold", "chain"
# What a fit starts from; all but the last are the earlier networks of the same pair.
CARRIES = {
    "kept": "weights and the optimiser's moments",
    "reset": "weights, moments at zero",
    "shrunk": "half the weights and a tenth of fresh ones, moments at zero",
    "unrelated": "the inner layers of another layer's networks, moments at zero",
}
SHRINK, PERTURB = 0.5, 0.1  # after Ash and Adams 2020, "On warm-starting neural network training"
SHARE = 0.95  # of the cold fit's value, and of the exact one
LAYERS = ("conv1", "conv2", "relu3", "softmax")
NETWORKS = ("default", "published")
MAY_DIFFER = ("platform", "compilation_cache", "num_devices", "data_dir", "dataset", "progress")
QUICK: Mapping[str, Any] = {
    "networks": 1,
    "statistics_seeds": 1,
    "layers": ["logits", "softmax"],  # of one shape: nearly all the time is compilation
    "targets": ["1"],
    "distances": ["1"],
    "chain": ["0", "1"],
    "probe_size": 500,
    "max_steps": 100,
    "hidden": 16,
    "dataset": "mnist_5k",
}

Row = dict[str, Any]

FLAGS = flags.FLAGS
flags.DEFINE_integer("networks", 3, "LeNet-5s to train, by the seeds --seed, --seed + 1, …")
flags.DEFINE_integer("statistics_seeds", 2, "Statistics networks for each layer and variable.")
flags.DEFINE_list("layers", list(LAYERS), "Layers to observe, in the order of depth.")
flags.DEFINE_list("targets", ["16"], "Epochs at which carried and cold fits are compared.")
flags.DEFINE_list("distances", ["1", "4", "16"], "Epochs from where networks are carried to there.")
flags.DEFINE_list(
    "carries",
    list(CARRIES),
    "How networks are carried over: the first one over all distances, the others over the middle "
    "one of them.",
)
flags.DEFINE_list(
    "chain",
    ["0", "4", "8", "12", "16"],
    "Epochs through which networks are handed on from one to the next, as the main job does.",
)
flags.DEFINE_float(
    "noise",
    0.27,
    "Standard deviation of the noise in each direction, as a multiple of the root of a layer's "
    "whole variance; 0 for none, and no exact values.",
)
flags.DEFINE_enum(
    "network",
    "published",
    NETWORKS,
    "published: MINE as published (flat networks, Donsker–Varadhan on one shuffle of the batch), "
    "on samples prepared as usual. default: the library's statistics networks.",
)
flags.DEFINE_bool(
    "turn", True, "Turn a wide layer's principal components to the images', as the main job does."
)
flags.DEFINE_integer("hidden", None, "Width of the statistics networks. Default: the library's.")
flags.DEFINE_integer("max_steps", 1000, "Cap on the steps of a fit.")
flags.DEFINE_integer("check_every", 25, "Steps between two values on the stopping samples.")
flags.DEFINE_integer("probe_size", 4000, "Training images that are probed.")
flags.DEFINE_integer("seed", 0, "Seed of everything that is random.")
flags.DEFINE_string("dataset", "auto", "Data set, as for info_plane.py.")
flags.DEFINE_string("data_dir", None, "Folder with the four IDX files of the data set.")
flags.DEFINE_string("out_dir", "runs/warm_start", "Folder for records, tables and figures.")
flags.DEFINE_bool("resume", False, "Go on with the run in --out_dir.")
flags.DEFINE_bool("quick", False, "A small form, only to see that everything runs.")
flags.DEFINE_bool("progress", None, "Show progress bars. Default: in a terminal.")
flags.adopt_module_key_flags(platforms)


class Fit(NamedTuple):
    """Fits of all networks of an epoch: how they start, the epoch, and where they come from."""

    carry: str
    epoch: int
    source: int | None


class Plan(NamedTuple):
    """What the flags ask for.

    Attributes:
      fits: in order; what a fit starts from comes before it.
      epochs: those whose layers are needed.
      plane: the library's configuration of training and observing.
      mine: that of the statistics networks.
      layers: names in the order of depth.
    """

    fits: tuple[Fit, ...]
    epochs: tuple[int, ...]
    plane: Any
    mine: Any
    layers: tuple[str, ...]


def fits_of(
    targets: Iterable[int], distances: Iterable[int], chain: Sequence[int], carries: Sequence[str]
) -> tuple[Fit, ...]:
    """All fits, by epoch; at an epoch the cold ones first.

    The first way of carrying goes over all distances, the others over the middle one.

    Args:
      targets: epochs at which carried and cold fits are compared.
      distances: epochs from a source to a target; those that reach before epoch 0 are left out.
      chain: epochs through which networks are handed on, ascending.
      carries: names out of `CARRIES`.
    """
    distances = sorted(distances)
    middle = distances[(len(distances) - 1) // 2]
    ways = [
        (carry, t, t - d)
        for t in targets
        for d in distances
        for carry in (carries if d == middle else carries[:1])
        if t >= d
    ]
    epochs = sorted({*chain, *(epoch for _, *pair in ways for epoch in pair)})
    links = list(itertools.pairwise(chain))
    found = []
    for epoch in epochs:
        found.append(Fit(COLD, epoch, None))
        found += [Fit(CHAIN, later, earlier) for earlier, later in links if later == epoch]
        found += [Fit(*way) for way in ways if way[1] == epoch]
    return tuple(found)


def plan() -> Plan:
    """What the flags ask for; raises ValueError that names every flag that is wrong."""
    from mine_jax.information_plane import ROUND, ROUND_WITH_NOISE, PlaneConfig
    from mine_jax.lenet import PROBE_POINTS
    from mine_jax.mine import AS_PUBLISHED

    if FLAGS.quick:
        for name, value in QUICK.items():
            if FLAGS[name].using_default_value:
                FLAGS[name].value = value
    problems = []

    def numbers(name: str, least: int) -> list[int]:
        given = FLAGS[name].value
        try:
            found = sorted({int(text) for text in given})
        except ValueError:
            found = []
        if not found or found[0] < least:
            problems.append(f"--{name} must be whole numbers of at least {least}, got {given}")
        return found

    targets, distances = numbers("targets", 1), numbers("distances", 1)
    chain = numbers("chain", 0)
    for name in ("networks", "statistics_seeds", "max_steps", "check_every"):
        if FLAGS[name].value < 1:
            problems.append(f"--{name} must be at least 1, got {FLAGS[name].value}")
    if len(chain) < 2:
        problems.append(f"--chain must be at least two epochs, got {FLAGS.chain}")
    if FLAGS["carries"].using_default_value and len(FLAGS.layers) < 2:
        FLAGS["carries"].value = [name for name in CARRIES if name != "unrelated"]
    for name in ("carries", "layers"):
        if len(set(FLAGS[name].value)) != len(FLAGS[name].value) or not FLAGS[name].value:
            problems.append(f"--{name} must be different names, got {FLAGS[name].value}")
    if targets and distances and max(targets) < min(distances):
        problems.append(
            f"no distance reaches from an epoch to --targets={','.join(FLAGS.targets)}, "
            f"got --distances={','.join(FLAGS.distances)}"
        )
    if "unrelated" in FLAGS.carries and len(FLAGS.layers) < 2:
        problems.append("--carries=unrelated needs at least two --layers")
    if not 0 <= FLAGS.noise < math.inf:
        problems.append(f"--noise must be at least 0 and finite, got {FLAGS.noise}")
    if unknown := [name for name in FLAGS.carries if name not in CARRIES]:
        problems.append(f"--carries has {', '.join(unknown)}; there are {', '.join(CARRIES)}")
    if unknown := [name for name in FLAGS.layers if name not in PROBE_POINTS]:
        problems.append(f"--layers has {', '.join(unknown)}; there are {', '.join(PROBE_POINTS)}")
    elif sorted(FLAGS.layers, key=PROBE_POINTS.index) != FLAGS.layers or not FLAGS.layers:
        problems.append(f"--layers must be in the order of depth: {', '.join(PROBE_POINTS)}")
    if problems:
        raise ValueError("; ".join(problems))
    fits = fits_of(targets, distances, chain, FLAGS.carries)
    epochs = tuple(sorted({fit.epoch for fit in fits}))
    layers = tuple(FLAGS.layers)
    plane = PlaneConfig(
        epochs=epochs[-1],
        layers=layers,
        probe_size=FLAGS.probe_size,
        seed=FLAGS.seed,
        num_seeds=FLAGS.networks,
        noise_std=FLAGS.noise,
    )
    usual = ROUND_WITH_NOISE if FLAGS.noise else ROUND
    patience = max(1, 200 // FLAGS.check_every)  # as the main job without noise
    config = dataclasses.replace(
        usual,
        batch_size=256,
        check_every=FLAGS.check_every,
        patience=patience,
        max_steps=FLAGS.max_steps,
        **({} if FLAGS.hidden is None else {"hidden": FLAGS.hidden}),
    )
    if FLAGS.network == "published":
        config = dataclasses.replace(
            config,
            **AS_PUBLISHED,
            network="flat",
            learning_rate=1e-3,
            weight_decay=0.0,
        )
    return Plan(fits, epochs, plane, config, layers)


# --- Fits ---------------------------------------------------------------------------------------


class Stack(NamedTuple):
    """All networks of an epoch.

    Attributes:
      inputs: what they are fitted to.
      places: (layer, variable, network, statistics seed) by the pair of names in `inputs`.
      references: (nats, standard error) by layer, variable and network; None where not known.
    """

    inputs: Any
    places: dict[tuple[str, str], tuple[str, str, int, int]]
    references: dict[tuple[str, str, int], tuple[float | None, float | None]]


def observe(plan: Plan, params: Sequence[Any], model: Any, data: Any, epoch: int) -> Stack:
    """The layers of all networks at an epoch, and what can be known of them.

    Args:
      plan: the plan.
      params: each network's variables at that epoch.
      model: the classifier.
      data: the data set.
      epoch: the epoch.
    """
    import jax
    import numpy as np

    from mine_jax import classifier, estimator, information_plane

    rows = information_plane.probe_rows(plan.plane, len(data.train_images))
    images, labels = np.asarray(data.train_images)[rows], np.asarray(data.train_labels)[rows]
    variables = {"y": estimator.prepare(labels, "labels")}
    if not plan.plane.noise_std:
        variables = {"x": estimator.prepare(images, "images")} | variables
    towards = information_plane.turned_to(images, plan.plane) if FLAGS.turn else None
    layers, names, references = {}, {}, {}
    for k, own in enumerate(params):
        activations = classifier.probe(own, model, images, plan.layers)
        for i, layer in enumerate(plan.layers):
            values = activations.pop(layer)
            known = dict.fromkeys("xy", (None, None))
            if plan.plane.noise_std:
                units = math.prod(values.shape[1:])
                level = plan.plane.noise_std * math.sqrt(units)
                key = jax.random.key(plan.plane.seed + k)
                for number in (epoch, i):
                    key = jax.random.fold_in(key, number)
                config = dataclasses.replace(plan.plane, noise_std=level)
                made = information_plane.observe(key, values, labels, config, layer, towards)
                exact = made.reference
                known = {
                    "x": (exact.x_nats, exact.x_stderr),
                    "y": (exact.y_nats, exact.y_stderr),
                }
            else:
                made = estimator.prepare(values, layer, towards=towards)
            references |= {(layer, v, k): known[v] for v in "xy"}
            for s in range(FLAGS.statistics_seeds):
                name = f"{layer} of network {k}, {s}"
                layers[name], names[name] = made, (layer, k, s)
    inputs = information_plane.inputs_of(variables, layers)
    places = {
        pair: (names[name][0], variable, *names[name][1:])
        for (variable, name), pair in inputs.pairs.items()
    }
    return Stack(inputs, places, references)


def carried(carry: str, old: Any, new: Any, others: Sequence[int]) -> Any:
    """What networks start from.

    Args:
      carry: a name out of `CARRIES`, or "chain", which is "kept".
      old: the stack's earlier `MineState`, with folds in front.
      new: a fresh one.
      others: for each network of the stack the place of one of another layer.
    """
    import jax
    import numpy as np

    if carry in ("kept", CHAIN):
        return old
    if carry == "reset":
        return old._replace(opt_state=new.opt_state)
    if carry == "shrunk":

        def mixed(path: tuple, before: Any, fresh: Any) -> np.ndarray:
            before = np.asarray(before)
            closed_form = {"maps", "mean", "gaussian"} & {getattr(p, "key", None) for p in path}
            return before if closed_form else SHRINK * before + PERTURB * np.asarray(fresh)

        params = jax.tree_util.tree_map_with_path(mixed, old.average, new.params)
    else:
        inner = jax.tree.map(lambda leaf: np.asarray(leaf)[:, others], old.average["trunk"])
        params = {**new.params, "trunk": inner}
    return new._replace(params=params, average=params)


def others_of(group: Any, stack: Stack, layers: Sequence[str]) -> list[int]:
    """For each network of a group the place of the next layer's, of the same network and seed."""
    places = [stack.places[pair] for pair in group.asked]
    following = dict(zip(layers, [*layers[1:], layers[0]], strict=True))
    return [places.index((following[layer], *rest)) for layer, *rest in places]


def fit_all(
    fit: Fit, stack: Stack, plan: Plan, source: Any, on_progress: Callable[..., None] | None
) -> tuple[dict, dict, float]:
    """Fit all networks of an epoch.

    Args:
      fit: how they start.
      stack: what they are fitted to.
      plan: the plan.
      source: states to start from, by group; None for a cold fit.
      on_progress: as for `estimator.lower_bounds`.

    Returns:
      The estimates by pair, the states by group, and the seconds that it took.
    """
    import jax

    from mine_jax import estimator

    inputs, state = stack.inputs, None
    key = jax.random.key(plan.plane.seed)
    pairs = tuple(inputs.pairs.values())
    if source is not None:
        # Keys and batches are those of the cold fit; fresh weights to mix in are others.
        fresh_key = jax.random.fold_in(key, 1 + fit.epoch)
        fresh = estimator.fresh(fresh_key, inputs.x, inputs.z, plan.mine, pairs)
        state = {
            group.name: carried(
                fit.carry,
                source[group.name],
                fresh[group.name],
                others_of(group, stack, plan.layers),
            )
            for group in estimator.groups(inputs.x, inputs.z, pairs, plan.mine)
        }
    start = time.perf_counter()
    estimates, states = estimator.lower_bounds(
        inputs.x,
        inputs.z,
        key=key,
        config=plan.mine,
        state=state,
        round_number=fit.epoch,
        on_progress=on_progress,
        pairs=pairs,
        noise=inputs.noise,
    )
    return estimates, states, time.perf_counter() - start


def rows_of(
    fit: Fit, stack: Stack, estimates: Mapping, cold: Mapping[Any, Any], seconds: float
) -> list[Row]:
    """The rows of a fit, in the order of the stack.

    Args:
      fit: how the networks started.
      stack: what they were fitted to.
      estimates: by pair.
      cold: the cold fit's values and each sample's share in them, by pair.
      seconds: that all of them took.
    """
    import numpy as np

    total = sum(estimate.steps for estimate in estimates.values())
    rows = []
    for pair, (layer, variable, network, seed) in stack.places.items():
        estimate = estimates[pair]
        nats, influence = cold[pair]
        apart = np.ravel(estimate.influence) - np.ravel(influence)
        reference, reference_stderr = stack.references[layer, variable, network]
        rows.append(
            {
                "carry": fit.carry,
                "epoch": fit.epoch,
                "source": fit.source,
                "layer": layer,
                "variable": variable,
                "network": network,
                "seed": seed,
                "nats": _number(estimate.nats),
                "stderr": _number(estimate.stderr),
                "stop_nats": _number(estimate.stop_nats),
                "train_nats": _number(estimate.train_nats),
                "ceiling_nats": estimate.ceiling_nats,
                "reference_nats": reference,
                "reference_stderr": reference_stderr,
                "over_cold_nats": _number(estimate.nats - nats),
                "over_cold_stderr": _number(apart.std(ddof=1) / math.sqrt(apart.size)),
                "steps": estimate.steps,
                "converged": estimate.converged,
                "curve_steps": int(estimate.history.steps[-1])
                // max(1, len(estimate.history.steps) - 1),
                "curve": [_number(round(float(v), 4)) for v in estimate.history.stop_nats[:, 0]],
                "seconds_a_step": seconds / max(1, total),
                "seconds": seconds,
            }
        )
    return rows


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def train(plan: Plan, model: Any, data: Any, progress: bool) -> list[list[Any]]:
    """Train all networks: for each of `plan.epochs` each one's variables."""
    import jax

    from mine_jax import classifier, devices

    images, labels = devices.everywhere((data.train_images, data.train_labels))
    # The same networks as those of the main job with these seeds.
    keys = [jax.random.split(jax.random.key(seed), 5) for seed in plan.plane.seeds]
    config = plan.plane.classifier
    states = [classifier.init(own[0], model, config, images.shape[1:]) for own in keys]
    kept = [[state.params for state in states]] if 0 in plan.epochs else []
    bar = tqdm(range(1, plan.epochs[-1] + 1), "training", unit="epoch", disable=not progress)
    for epoch in bar:
        trained = classifier.train_epochs(
            states, [own[1] for own in keys], model, config, images, labels
        )
        states = [state for state, _ in trained]
        if epoch in plan.epochs:
            kept.append([state.params for state in states])
    return kept


# --- Tables -------------------------------------------------------------------------------------


class Compared(NamedTuple):
    """A carried fit beside the cold one of the same pair; steps are None where never reached.

    Attributes:
      row: the carried fit's row.
      cold: the cold one's.
      to_cold: steps of either to `SHARE` of the highest value of the cold fit's curve.
      to_exact: steps of either to within 1 − `SHARE` of the exact value there.
      falls: whether the exact value is lower than at the source; None if not known.
    """

    row: Row
    cold: Row
    to_cold: tuple[int | None, int | None]
    to_exact: tuple[int | None, int | None]
    falls: bool | None


def reached(row: Row, low: float, high: float = math.inf) -> int | None:
    """Steps to the first check with a value from `low` to `high`; None if there is none.

    What is there at the start counts as the first check: finer cannot be told.
    """
    for i, value in enumerate(row["curve"]):
        if value is not None and low <= value <= high:
            return max(1, i) * row["curve_steps"]
    return None


def compare(rows: Sequence[Row]) -> list[Compared]:
    """Every carried fit beside its cold one."""
    cold = {_place(row): row for row in rows if row["carry"] == COLD}
    found = []
    for row in rows:
        if row["carry"] == COLD:
            continue
        other = cold[_place(row)]
        ways = (row, other)
        known = [value for value in other["curve"] if value is not None]
        least = SHARE * max(known, default=math.inf)
        to_exact: tuple[int | None, int | None] = (None, None)
        falls = None
        if (exact := row["reference_nats"]) is not None:
            to_exact = tuple(reached(way, SHARE * exact, (2 - SHARE) * exact) for way in ways)
            before = cold.get(_place({**row, "epoch": row["source"]}))
            falls = before is not None and exact < before["reference_nats"]
        to_cold = tuple(reached(way, least) for way in ways)
        found.append(Compared(row, other, to_cold, to_exact, falls))
    return found


def _place(row: Row) -> tuple:
    return tuple(row[name] for name in ("epoch", "layer", "variable", "network", "seed"))


def speed_ups(pairs: Sequence[Compared], what: str = "to_cold") -> list[float]:
    """Cold steps over carried steps; a value that was never reached counts as after all steps.

    That is all steps of the fit that took more. Both sides are rounded up to whole checks.
    """
    found = []
    for pair in pairs:
        warm, cold = getattr(pair, what)
        if warm is None and cold is None:
            continue
        most = max(pair.row["steps"], pair.cold["steps"])
        steps = warm or most, cold or most
        found.append(max(1, steps[1]) / max(1, steps[0]))
    return found


def difference(pairs: Sequence[Compared]) -> tuple[float, float]:
    """Mean of carried − cold on the reporting samples, nats, and its standard error.

    The error is the larger of what the spread between trained networks says and of the mean of the
    fits' own: all fits report on the same images.
    """
    known = [pair.row for pair in pairs if pair.row["over_cold_nats"] is not None]
    if not known:
        return math.nan, math.nan
    by_network: dict[int, list[float]] = {}
    for row in known:
        by_network.setdefault(row["network"], []).append(row["over_cold_nats"])
    means = [statistics.fmean(values) for values in by_network.values()]
    between = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0
    own = statistics.fmean(row["over_cold_stderr"] for row in known)
    return statistics.fmean(row["over_cold_nats"] for row in known), max(between, own)


def _line(name: str, pairs: Sequence[Compared]) -> list[str]:
    def steps(side: int, what: str) -> str:
        known = [getattr(pair, what)[side] for pair in pairs]
        found = [value for value in known if value is not None]
        unknown = what == "to_exact" and all(p.row["reference_nats"] is None for p in pairs)
        missing = 0 if unknown else len(known) - len(found)
        text = f"{statistics.median(found):.0f}" if found else "–"
        return text + (f" ({missing} never)" if missing else "")

    def ratio(values: Sequence[float]) -> str:
        if not values:
            return "–"
        return f"{statistics.median(values):.1f} ({min(values):.2g} … {max(values):.2g})"

    mean, stderr = difference(pairs)
    ends = [pair.cold["steps"] / pair.row["steps"] for pair in pairs if pair.row["steps"]]
    seconds = [
        statistics.median(
            [(p.to_cold[side] or way["steps"]) * way["seconds_a_step"] for p, way in own]
        )
        for side, own in enumerate(([(p, p.row) for p in pairs], [(p, p.cold) for p in pairs]))
    ]
    return [
        name,
        str(len(pairs)),
        steps(1, "to_cold"),
        steps(0, "to_cold"),
        ratio(speed_ups(pairs)),
        f"{seconds[1]:.2f} → {seconds[0]:.2f}",
        steps(1, "to_exact"),
        steps(0, "to_exact"),
        ratio(ends),
        f"{mean:+.3f} ± {stderr:.3f}",
    ]


HEAD = (
    *("", "fits", "cold: steps to 95 %", "carried", "speed-up, median (range)"),
    *("s to 95 %", "cold: steps to exact ± 5 %", "carried", "speed-up to the end"),
    "carried − cold, nats",
)


def report(rows: Sequence[Row]) -> str:
    """The tables of a run, in Markdown."""
    pairs = compare(rows)
    parts = ["# Carried statistics networks beside cold ones"]

    def section(title: str, lines: Mapping[str, Sequence[Compared]]) -> None:
        if not lines:
            return
        parts.append(f"## {title}")
        parts.append(table(HEAD, [_line(name, own) for name, own in lines.items() if own]))

    def by(key: Callable[[Compared], str | None], some: Iterable[Compared]) -> dict[str, list]:
        found: dict[str, list[Compared]] = {}
        for pair in some:
            if (name := key(pair)) is not None:
                found.setdefault(name, []).append(pair)
        return found

    def layer(pair: Compared) -> str:
        return f"I({pair.row['variable'].upper()};{pair.row['layer']})"

    def ways(pair: Compared) -> str:
        return pair.row["carry"]

    def distance(pair: Compared) -> str:
        return f"{pair.row['epoch'] - pair.row['source']} epochs"

    section("Handed on from probe to probe", by(layer, [p for p in pairs if ways(p) == CHAIN]))
    section("By what is carried", by(ways, [p for p in pairs if ways(p) != CHAIN]))
    section(
        "By distance, all that is carried kept",
        by(distance, [p for p in pairs if ways(p) == "kept"]),
    )
    lines = []
    for name, own in by(ways, [p for p in pairs if p.falls]).items():
        mean, stderr = difference(own)
        against = [
            statistics.fmean(r["nats"] - r["reference_nats"] for r in side if r["nats"] is not None)
            for side in ([p.row for p in own], [p.cold for p in own])
        ]
        above = sum(
            p.row["nats"] - p.row["reference_nats"]
            > 2 * math.hypot(p.row["stderr"], p.row["reference_stderr"])
            for p in own
            if p.row["nats"] is not None
        )
        lines.append(
            [
                name,
                str(len(own)),
                f"{mean:+.3f} ± {stderr:.3f}",
                f"{against[0]:+.3f}",
                f"{against[1]:+.3f}",
                str(above),
            ]
        )
    if lines:
        parts.append("## Where the exact value falls on the way")
        head = (
            "",
            "fits",
            "carried − cold",
            "carried − exact",
            "cold − exact",
            "above exact by 2 SE",
        )
        parts.append(table(head, lines))
    return "\n\n".join(parts)


# --- The run ------------------------------------------------------------------------------------


def main(argv: list[str]) -> None:
    """Run the experiment; an error that the user can mend is a line of text and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(f"no positional arguments are known, got {' '.join(argv[1:])}")
    from mine_jax.information_plane.records import RunFolderError
    from mine_jax.lenet.datasets import DatasetUnavailable

    logging.set_verbosity(logging.WARNING)
    try:
        experiment()
    except (ValueError, OSError, DatasetUnavailable, RunFolderError) as error:
        sys.exit(f"error: {error}")


def experiment() -> None:
    """Validate, train, fit what is missing, print, draw."""
    what = plan()
    devices = platforms.select()
    from mine_jax import lenet
    from mine_jax.information_plane import plotting, records
    from mine_jax.lenet import datasets

    folder = records.RunFolder(FLAGS.out_dir, keep=None)
    folder.check(resume=FLAGS.resume)
    data = datasets.load(FLAGS.dataset, FLAGS.data_dir)
    if data.notice:
        print(f"\n*** {data.notice} ***\n{data.reason}\n")
    modules = sys.modules[__name__], platforms
    own = [flag for module in modules for flag in FLAGS.get_flags_for_module(module)]
    ignored = ("resume", "out_dir", "progress")
    settings = {flag.name: flag.value for flag in own if flag.name not in ignored}
    description = {"settings": settings | {"dataset_used": data.name}, "devices": devices}
    folder.open(description, resume=FLAGS.resume, may_differ=MAY_DIFFER)
    progress = sys.stderr.isatty() if FLAGS.progress is None else FLAGS.progress
    with platforms.spread():
        rows = _run(what, lenet.LeNet5(num_classes=data.num_classes), data, folder, progress)
    text = report(rows)
    print(f"\n{text}\n")
    (folder.path / "warm_start.md").write_text(text + "\n")
    for variable in "xy":
        for layer in what.layers:
            path = folder.path / f"curves_{variable}_{layer}.png"
            plotting.warm_start(rows, path, layer=layer, variable=variable)
    print(f"Written to {os.path.relpath(folder.path)}")


def _run(plan: Plan, model: Any, data: Any, folder: Any, progress: bool) -> list[Row]:
    """Train and fit what is missing; all rows.

    Checkpoint 0 holds the trained networks, checkpoint 1 + i the statistics networks of fit i, if
    others start from them.
    """
    import jax
    import numpy as np

    from mine_jax import estimator
    from mine_jax.information_plane import records

    expected = FLAGS.networks * FLAGS.statistics_seeds * len(plan.layers) * 2
    saved = set(folder.epochs())
    by_fit: dict[Fit, dict[tuple, Row]] = {}
    for row in folder.read(records.RECORDS):
        by_fit.setdefault(Fit(row["carry"], row["epoch"], row["source"]), {})[_place(row)] = row
    found: dict[Fit, list[Row]] = {}
    for fit in plan.fits:
        whole = len(by_fit.get(fit, ())) == expected
        if whole and (fit.carry not in (COLD, CHAIN) or 1 + plan.fits.index(fit) in saved):
            found[fit] = list(by_fit[fit].values())
    folder.rewrite(records.RECORDS, [row for rows in found.values() for row in rows])
    missing = [fit for fit in plan.fits if fit not in found]
    print(
        f"{len(plan.fits)} times {expected} fits, {len(missing)} times to do; networks at epochs "
        f"{', '.join(map(str, plan.epochs))}"
    )
    if 0 in saved:
        image = jax.ShapeDtypeStruct((1, 28, 28, 1), np.float32)
        one = jax.eval_shape(model.init, jax.random.key(0), image)
        params = folder.restore(0, [[one] * FLAGS.networks] * len(plan.epochs))
    else:
        params = train(plan, model, data, progress)
        folder.save(0, params)

    stack: tuple[int, Stack] | None = None  # of one epoch at a time
    cache: dict[Fit, tuple[dict, Any, Any]] = {}

    def kept(fit: Fit, inputs: Any) -> tuple[dict, Any, Any]:
        """States, values and each sample's share in them, of a fit that was made before."""
        if fit not in cache:
            pairs = tuple(inputs.pairs.values())  # the same shapes at all epochs
            states = jax.eval_shape(
                lambda key: estimator.fresh(key, inputs.x, inputs.z, plan.mine, pairs),
                jax.random.key(0),
            )
            size = min(plan.plane.probe_size, len(data.train_images)) // plan.mine.folds
            nats, influence = (
                jax.ShapeDtypeStruct(shape, np.float64) for shape in ((expected,), (expected, size))
            )
            like = {"states": states, "nats": nats, "influence": influence}
            made = folder.restore(1 + plan.fits.index(fit), like)
            cache[fit] = made["states"], made["nats"], made["influence"]
        return cache[fit]

    with tqdm(missing, "fits", disable=not progress) as bar:
        for fit in bar:
            if stack is None or stack[0] != fit.epoch:
                own = params[plan.epochs.index(fit.epoch)]
                stack = fit.epoch, observe(plan, own, model, data, fit.epoch)
            here = stack[1]

            def on_progress(done: int, total: int, text: str, fit: Fit = fit) -> None:
                bar.set_postfix_str(f"{fit.carry} at epoch {fit.epoch}: {text}", refresh=False)

            source = None if fit.source is None else kept(origin(fit, plan.fits), here.inputs)[0]
            estimates, states, seconds = fit_all(fit, here, plan, source, on_progress)
            order = list(here.places)
            if fit.carry in (COLD, CHAIN):
                nats = np.array([estimates[pair].nats for pair in order], np.float64)
                influence = np.stack([np.ravel(estimates[pair].influence) for pair in order])
                cache[fit] = states, nats, influence.astype(np.float64)
                if (number := 1 + plan.fits.index(fit)) not in saved:
                    folder.save(
                        number, dict(zip(("states", "nats", "influence"), cache[fit], strict=True))
                    )
            _, *cold = kept(Fit(COLD, fit.epoch, None), here.inputs)
            beside = dict(zip(order, zip(*cold, strict=True), strict=True))
            found[fit] = rows_of(fit, here, estimates, beside, seconds)
            folder.append(records.RECORDS, found[fit])
    return [row for fit in plan.fits for row in found[fit]]


def origin(fit: Fit, fits: Sequence[Fit]) -> Fit:
    """The fit that another one starts from: of a chain its last link, a cold one before any."""
    links = [other for other in fits if (other.carry, other.epoch) == (CHAIN, fit.source)]
    if fit.carry == CHAIN and links:
        return links[0]
    return Fit(COLD, fit.source, None)


if __name__ == "__main__":
    app.run(main)
