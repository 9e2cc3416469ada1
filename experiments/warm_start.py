"""Warm starts of statistics networks against cold starts.

  python experiments/warm_start.py --data_dir=FOLDER
  python experiments/warm_start.py --network=default --noise=0
  python experiments/warm_start.py --quick

Trains LeNet-5 from several seeds, observes its layers with Gaussian noise, so that I(X;T) and
I(Y;T) are known, and fits statistics networks to each (layer, variable): from a cold start, and
from the networks of an earlier epoch in several ways. All fits of an epoch have the same samples,
split and batches. Networks are evaluated on the validation samples at every check, and in the end
on the test samples. Where the earlier networks are no better than fresh ones on the validation
samples, a warm start becomes a cold one (`mine_jax.lower_bound`).

MINE as published gets the same samples as the library's networks: of wide layers principal
components, all columns centered and in one unit. Its last weights give the value.

Rows go to records.jsonl in --out_dir as soon as they are known; tables (warm_start.md, also
printed) and a figure for each layer and variable (curves_y_relu3.png and so on) follow. A resumed
run fits again what the missing fits start from.
"""

import dataclasses
import itertools
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

import common
import flax.linen as nn
import jax
import numpy as np
import plots
import warm_start_report
from absl import flags
from tqdm import tqdm
from warm_start_fits import Fit, Place, Plan, fit_all, make_rows, observe, plan_fits, train
from warm_start_report import CHAIN, COLD, STARTS, Row

from mine_jax import MineConfig
from mine_jax.estimate import Estimate
from mine_jax.information_plane import PlaneConfig, resolved
from mine_jax.information_plane.records import RECORDS, RunFolder
from mine_jax.lenet import PROBE_POINTS, LeNet5
from mine_jax.lenet.datasets import Dataset, load

PATIENCE_STEPS = 200  # steps without improvement, as the main job without noise has it
TRAINED = 0  # number of the checkpoint of the trained networks
RESUMABLE = ("platform", "compilation_cache", "num_devices", "data_dir", "dataset")
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

FLAGS = flags.FLAGS
flags.DEFINE_integer("networks", 3, "LeNet-5s to train, by the seeds --seed, --seed + 1, …")
flags.DEFINE_integer("statistics_seeds", 2, "Statistics networks for each layer and variable.")
flags.DEFINE_list(
    "layers", ["conv1", "conv2", "relu3", "softmax"], "Layers to observe, in the order of depth."
)
flags.DEFINE_list("targets", ["16"], "Epochs at which warm and cold starts are compared.")
flags.DEFINE_list(
    "distances", ["1", "4", "16"], "Epochs between the source of a warm start and its target."
)
flags.DEFINE_list(
    "starts",
    list(STARTS),
    "Kinds of warm start. The first is measured at all distances, the others at the middle one.",
)
flags.DEFINE_list(
    "chain",
    ["0", "4", "8", "12", "16"],
    "Epochs at which networks start from those of the epoch before, as in the main job.",
)
flags.DEFINE_float(
    "noise",
    0.27,
    "Standard deviation of the noise in each direction, as a multiple of the root of a layer's "
    "total variance; 0 for none, and no reference values.",
)
flags.DEFINE_enum(
    "network",
    "published",
    ["default", "published"],
    "published: MINE as published (a perceptron on the concatenated samples, Donsker–Varadhan on "
    "one shuffle of the batch). default: the library's statistics networks.",
)
flags.DEFINE_bool(
    "align", True, "Align a wide layer's principal components to the images', as the main job does."
)
flags.DEFINE_integer("hidden", None, "Width of the statistics networks. Default: the library's.")
flags.DEFINE_integer("max_steps", 1000, "Limit on the steps of a fit.")
flags.DEFINE_integer("check_every", 25, "Steps between two evaluations on the validation samples.")
flags.DEFINE_integer("probe_size", 4000, "Training images to probe.")
flags.DEFINE_integer("seed", 0, "Seed of everything random.")
flags.DEFINE_string("dataset", "auto", "Data set, as for info_plane.py.")
flags.DEFINE_string("data_dir", None, "Folder with the four IDX files of the data set.")
flags.DEFINE_string("out_dir", "runs/warm_start", "Folder for records, tables and figures.")
flags.DEFINE_bool("resume", False, "Resume the run in --out_dir.")
flags.DEFINE_bool("quick", False, "Run a small version as a smoke test.")
flags.DEFINE_bool("progress", None, "Show progress bars. Default: in a terminal.")
flags.adopt_module_key_flags(common)


def flag_values() -> dict[str, Any]:
    """Return the settings by name; with --quick, small values for those that are not given."""
    values = common.settings_of(__name__)
    given = {name for name in values if not FLAGS[name].using_default_value}
    if values["quick"]:
        values |= {name: value for name, value in QUICK.items() if name not in given}
    if "starts" not in given and len(values["layers"]) < 2:
        values["starts"] = [name for name in STARTS if name != "unrelated"]
    return values


def make_plan(values: Mapping[str, Any]) -> Plan:
    """Make the plan for flags of these values; raise ValueError that names every wrong flag."""
    problems = []

    def integers(name: str, minimum: int) -> list[int]:
        try:
            numbers = sorted({int(text) for text in values[name]})
        except ValueError:
            numbers = []
        if not numbers or numbers[0] < minimum:
            problems.append(
                f"--{name} must be integers of at least {minimum}, got {','.join(values[name])!r}"
            )
        return numbers

    targets, distances = integers("targets", 1), integers("distances", 1)
    chain = integers("chain", 0)
    for name in ("networks", "statistics_seeds", "max_steps", "check_every"):
        if values[name] < 1:
            problems.append(f"--{name} must be at least 1, got {values[name]}")
    if values["hidden"] is not None and values["hidden"] < 1:
        problems.append(f"--hidden must be at least 1, got {values['hidden']}")
    if len(chain) == 1:
        problems.append(f"--chain must have at least two epochs, got {chain[0]}")
    if targets and distances and max(targets) < min(distances):
        problems.append(
            f"--distances must not all exceed --targets={max(targets)}, got {min(distances)}"
        )
    for name, known in (("starts", tuple(STARTS)), ("layers", PROBE_POINTS)):
        problems += common.unknown_names(name, values[name], known)
        if len(set(values[name])) != len(values[name]) or not values[name]:
            problems.append(f"--{name} must be different names, got {','.join(values[name])!r}")
    if sorted(values["layers"], key=[*PROBE_POINTS, *values["layers"]].index) != values["layers"]:
        problems.append(f"--layers must be in the order of depth: {', '.join(PROBE_POINTS)}")
    if "unrelated" in values["starts"] and len(values["layers"]) < 2:
        problems.append("--starts=unrelated needs at least two --layers")
    if not 0 <= values["noise"] < math.inf:
        problems.append(f"--noise must be at least 0 and finite, got {values['noise']}")
    if problems:
        raise ValueError("; ".join(problems))
    fits = plan_fits(targets, distances, chain, values["starts"])
    plane = PlaneConfig(
        epochs=max(fit.epoch for fit in fits),
        layers=tuple(values["layers"]),
        probe_size=values["probe_size"],
        seed=values["seed"],
        num_seeds=values["networks"],
        noise_std=values["noise"],
        deterministic=not values["noise"],
    )
    settings = {name: values[name] for name in ("max_steps", "check_every", "hidden")}
    settings |= {"batch_size": 256, "patience": max(1, PATIENCE_STEPS // values["check_every"])}
    if values["hidden"] is None:
        del settings["hidden"]
    mine = {}
    for variable in "xy":
        if values["network"] == "published":
            mine[variable] = MineConfig.published(**settings)
        else:
            base = plane.mine_config(plane.planes[0], variable)
            mine[variable] = dataclasses.replace(base, **settings)
    places = itertools.product(
        plane.layers, "xy", range(plane.num_seeds), range(values["statistics_seeds"])
    )
    return Plan(
        fits, tuple(Place(*p) for p in places), plane, mine, values["align"], values["dataset"]
    )


def trained_networks(
    plan: Plan, model: nn.Module, data: Dataset, folder: RunFolder, progress: bool
) -> list[list[Any]]:
    """Return what `train` does, from the folder if it is there."""
    if folder.last_epoch() is None:
        params = train(plan, model, data, progress)
        folder.save(TRAINED, params)
        return params
    image = jax.ShapeDtypeStruct((1, *data.train_images.shape[1:]), np.float32)
    like = jax.eval_shape(model.init, jax.random.key(0), image)
    return folder.restore(TRAINED, [[like] * plan.plane.num_seeds] * len(plan.epochs))


def run(
    plan: Plan, model: nn.Module, data: Dataset, folder: RunFolder, progress: bool
) -> list[Row]:
    """Train and fit what the folder lacks, and return all rows."""

    def row_key(row: Row) -> tuple:
        return tuple(row[name] for name in (*Fit._fields, *Place._fields))

    rows = folder.resume_rows(RECORDS, row_key)
    wanted = {fit: [(*fit, *place) for place in plan.places] for fit in plan.fits}
    missing = [fit for fit, keys in wanted.items() if not rows.keys() >= set(keys)]
    print(
        f"{len(plan.fits)} times {len(plan.places)} fits, {len(missing)} times missing; networks "
        f"at epochs {', '.join(map(str, plan.epochs))}"
    )
    params = trained_networks(plan, model, data, folder, progress)
    results: dict[Fit, dict[str, Estimate]] = {}
    needed = plan.needed(missing)
    with tqdm(total=len(needed), desc="fits", disable=not progress) as bar:
        for epoch, fits in itertools.groupby(needed, key=lambda fit: fit.epoch):
            stack = observe(plan, params[plan.epochs.index(epoch)], model, data, epoch)
            for fit in fits:
                bar.set_postfix_str(f"{fit.start} at epoch {epoch}")
                source = None if fit.source is None else results[plan.origin(fit)]
                estimates, seconds = fit_all(fit, stack, plan, source)
                if fit.start in (COLD, CHAIN):
                    results[fit] = estimates
                if fit in missing:
                    cold = results[Fit(COLD, epoch, None)]
                    new = make_rows(fit, plan, stack, estimates, cold, seconds)
                    folder.append(RECORDS, new)
                    rows |= {row_key(row): row for row in new}
                bar.update()
    return [rows[key] for keys in wanted.values() for key in keys]


def experiment() -> None:
    """Validate, train, fit what is missing, print, draw."""
    with common.user_errors():
        values = flag_values()
        plan = make_plan(values)
        common.select_devices()
        folder = RunFolder(FLAGS.out_dir)
        folder.check(resume=FLAGS.resume)
        data = load(plan.dataset, FLAGS.data_dir)
        description = {
            "settings": values,
            "resolved": {"dataset": data.name}
            | {f"{name}_mine": dataclasses.asdict(mine) for name, mine in plan.mine.items()}
            | {"plane": resolved(plan.plane, len(data.train_images))},
            "versions": common.versions(),
        }
        folder.open(description, resume=FLAGS.resume, may_differ=RESUMABLE)
    if data.notice:
        print(f"\n*** {data.notice} ***\n{data.reason}\n")
    progress = sys.stderr.isatty() if FLAGS.progress is None else FLAGS.progress
    with common.device_mesh():
        rows = run(plan, LeNet5(num_classes=data.num_classes), data, folder, progress)
    text = warm_start_report.report(rows)
    print(f"\n{text}\n")
    (folder.path / "warm_start.md").write_text(f"# {warm_start_report.TITLE}\n\n{text}\n")
    figures = []
    for variable in "xy":
        for layer in plan.plane.layers:
            figures.append(folder.path / f"curves_{variable}_{layer}.png")
            plots.warm_start(rows, figures[-1], layer=layer, variable=variable)
    if FLAGS.publish:
        common.write_page("warm_start", warm_start_report.TITLE, text, figures)
    print(f"Written to {os.path.relpath(folder.path)}")


if __name__ == "__main__":
    common.run(experiment)
