"""The observed information plane of one LeNet-5 with noise of several sizes.

  python experiments/noise_sweep.py --levels=0.2,0.25,0.3

Trains LeNet-5 once. Every few epochs its layers are observed with noise of each level c (σ is c
times the root of the trace of a layer's covariance). What differs between levels may be the noise's
and not the network's. Writes records, a table and a figure into --out_dir.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import common
from absl import flags

if TYPE_CHECKING:  # imported where needed, so that --help answers at once
    from mine_jax.information_plane import PlaneConfig
    from mine_jax.information_plane.records import RunFolder
    from mine_jax.lenet.datasets import Dataset

Rows = Sequence[Mapping[str, Any]]

DATASETS = ("auto", "mnist", "mnist_5k", "fashion_mnist", "kmnist")
TITLE = "The observed plane with noise of several sizes"
CLEAR = 3.0  # standard errors of a difference, of values that are taken for independent

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.DEFINE_list("levels", ["0.2", "0.25", "0.3"], "Noise levels c.")
flags.DEFINE_integer("epochs", 12, "Number of training epochs.")
flags.DEFINE_integer(
    "probe_every",
    4,
    "Epochs between probes; epoch 0 is probed too, and the last one if --epochs is less.",
)
flags.DEFINE_enum("dataset", "auto", DATASETS, "Data set, as for info_plane.py.")
flags.DEFINE_string("data_dir", None, "Folder with the four IDX files of the data set.")
flags.DEFINE_string("out_dir", "runs/noise_sweep", "New folder for records, table and figure.")
flags.DEFINE_integer("seed", 0, "Seed of all random choices.")
flags.DEFINE_integer("probe_size", 20_000, "Number of training images to probe.")
flags.DEFINE_integer("max_steps", None, "Maximum number of steps of a round.")


def plane_configs() -> "dict[float, PlaneConfig]":
    """Return the configuration of each level; ValueError names every wrong flag."""
    from mine_jax.information_plane import PlaneConfig

    levels = []
    for text in FLAGS.levels:
        try:
            levels.append(float(text))
        except ValueError:
            raise ValueError(f"--levels must be numbers, got {text!r}") from None
    in_range = all(0 < level < math.inf for level in levels)
    if len(levels) < 2 or len(set(levels)) < len(levels) or not in_range:
        raise ValueError(
            f"--levels must be two or more different finite numbers above 0, got {levels}"
        )
    names = [field.name for field in dataclasses.fields(PlaneConfig) if field.name in FLAGS]
    values = {name: FLAGS[name].value for name in names} | {"deterministic": False}
    configs = {level: PlaneConfig(**values, noise_std=level) for level in levels}
    if FLAGS.max_steps is None:
        return configs
    networks = ("noisy_x_mine", "noisy_y_mine")
    return {
        level: dataclasses.replace(
            config,
            **{
                name: dataclasses.replace(getattr(config, name), max_steps=FLAGS.max_steps)
                for name in networks
            },
        )
        for level, config in configs.items()
    }


def sweep(
    configs: "Mapping[float, PlaneConfig]", data: "Dataset", folder: "RunFolder"
) -> list[dict[str, Any]]:
    """Train LeNet-5 and measure its layers at each level; rows are written as soon as known."""
    import jax
    import numpy as np

    from mine_jax import classifier, devices, information_plane, lenet
    from mine_jax.information_plane import records

    config = next(iter(configs.values()))
    model = lenet.LeNet5(num_classes=data.num_classes)
    keys = information_plane.seed_keys(FLAGS.seed)
    train = devices.replicate((data.train_images, data.train_labels))
    chosen = information_plane.probe_rows(config, len(data.train_images))
    images, labels = data.train_images[chosen], data.train_labels[chosen]
    split = information_plane.split_rows(config, len(chosen))
    target = information_plane.read_target(labels, discrete=True)
    variables = information_plane.prepare_variables(images, target, config, split)
    align_to = information_plane.alignment_target(images, config)
    state = classifier.init(keys["init"], model, config.classifier, data.train_images.shape[1:])
    init: dict[float, Any] = dict.fromkeys(configs)
    before: dict[float, Any] = dict.fromkeys(configs)
    widths: dict[float, Any] = dict.fromkeys(configs)
    rows: list[dict[str, Any]] = []
    for epoch in range(config.epochs + 1):
        if epoch:
            state, _ = classifier.train_epoch(
                state, keys["train"], model, config.classifier, *train
            )
        if epoch not in config.probe_epochs():
            continue
        for level, of_level in configs.items():
            layers = information_plane.read_layers(
                jax.random.fold_in(keys["noise"], epoch),
                classifier.probe(state.params, model, np.asarray(images), config.layers),
                target.labels,
                of_level,
                split,
                align_to,
                widths[level],
                epoch,
            )
            widths[level] = {name: layer.for_x.width for name, layer in layers.observed.items()}
            measured = information_plane.measure(
                variables,
                {FLAGS.seed: layers},
                epoch=epoch,
                config=of_level,
                key=keys["mine"],
                init=init[level],
                before=before[level],
            )
            init[level], before[level] = measured.states, measured.values
            folder.append(records.RECORDS, measured.rows)
            rows += measured.rows
        print(f"epoch {epoch} of {config.epochs}", flush=True)
    return rows


def order_of_layers(rows: Rows) -> str:
    """Describe the order of layers by value, with ≈ where 3 standard errors do not tell them apart.

    Args:
      rows: of one level, epoch and variable, in order of depth.
    """
    ordered = sorted(rows, key=lambda row: -value_of(row, "mi_nats"))
    text = ordered[0]["layer"]
    for larger, smaller in itertools.pairwise(ordered):
        text += f" {'>' if clear_sign(larger, smaller) > 0 else '≈'} {smaller['layer']}"
    return text


def clear_sign(row: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """Return the sign of a difference of two values; 0 if it is less than 3 standard errors."""
    difference = value_of(row, "mi_nats") - value_of(other, "mi_nats")
    stderr = math.hypot(value_of(row, "stderr"), value_of(other, "stderr"))
    return 0 if not abs(difference) > CLEAR * stderr else int(math.copysign(1, difference))


def value_of(row: Mapping[str, Any], name: str) -> float:
    """Return a number of a row, nan where it has none."""
    return math.nan if row[name] is None else row[name]


def report(rows: Rows, levels: Sequence[float]) -> str:
    """Return a table of values, the orders of layers, and what is alike at all levels."""
    epochs = sorted({row["epoch"] for row in rows})
    places = list(dict.fromkeys((row["variable"], row["layer"]) for row in rows))
    by_place = {(r["noise_level"], r["epoch"], r["variable"], r["layer"]): r for r in rows}
    names = {place: f"I({place[0].upper()};{place[1]})" for place in places}

    lines = []
    for epoch, level in itertools.product(epochs, levels):
        line = [str(epoch), f"{level:g}"]
        for place in places:
            row = by_place[level, epoch, *place]
            nats, low, high = (
                common.number(value_of(row, name), ".2f")
                for name in ("mi_nats", "reference_low_nats", "reference_high_nats")
            )
            line.append(f"{nats}{'*' * bool(row['warnings'])} ({low} to {high})")
        lines.append(line)
    table = common.markdown_table(["epoch", "c", *names.values()], lines)
    parts = ["Values in nats, and their brackets (* flagged with a warning):", table]

    lines, alike = [], 0
    for variable, epoch in itertools.product("xy", epochs):
        of_levels = [
            [by_place[level, epoch, *place] for place in places if place[0] == variable]
            for level in levels
        ]
        lines.append([f"I({variable.upper()};T)", str(epoch), *map(order_of_layers, of_levels)])
        # Layers are in one order where no two levels clearly disagree on a pair.
        pairs = itertools.combinations(range(len(of_levels[0])), 2)
        signs = [{clear_sign(rows[i], rows[j]) for rows in of_levels} for i, j in pairs]
        alike += not any({1, -1} <= found for found in signs)
    head = ["value", "epoch", *(f"c = {level:g}" for level in levels)]
    parts += [
        "Order of layers (≈: less than 3 standard errors apart):",
        common.markdown_table(head, lines),
        f"In {alike} of {len(lines)} rows no two levels put two layers in clearly opposite order.",
    ]

    lines = []
    for place, name in names.items():
        ends = [[by_place[level, e, *place] for e in (epochs[0], epochs[-1])] for level in levels]
        changes = [value_of(last, "mi_nats") - value_of(first, "mi_nats") for first, last in ends]
        signs = {clear_sign(last, first) for first, last in ends}
        alike_text = {1: "rises", -1: "falls", 0: "no clear change"}
        text = alike_text[signs.pop()] if len(signs) == 1 else "differs"
        lines.append([name, *(common.number(change, "+.2f") for change in changes), text])
    parts.append(f"Change from epoch {epochs[0]} to {epochs[-1]}, in nats:")
    head = ["value", *(f"c = {level:g}" for level in levels), "at all levels"]
    return "\n\n".join([*parts, common.markdown_table(head, lines)])


def experiment() -> None:
    """Validate, train and measure, print, draw."""
    with common.user_errors():
        configs = plane_configs()
        common.select_devices()
        from mine_jax.information_plane import exact, figures, probe_rows, records, resolved
        from mine_jax.lenet import datasets

        folder = records.RunFolder(FLAGS.out_dir)
        folder.check(resume=False)
        data = datasets.load(FLAGS.dataset, FLAGS.data_dir)
        config = next(iter(configs.values()))
        chosen = probe_rows(config, len(data.train_images))
        description = {
            "settings": common.settings_of(__name__),
            "resolved": {
                str(level): resolved(of, len(data.train_images)) for level, of in configs.items()
            },
            "versions": common.versions(),
            "dataset": data.name,
            "notice": data.notice,
            "probe_size": len(chosen),
            "report_size": len(chosen) // config.mine.folds,
            "class_entropy_nats": exact.entropy(data.train_labels[chosen]),
            "noise": config.noise,
            "noise_level": None,
            "deterministic": False,
            "num_classes": data.num_classes,
        }
        folder.open(description, resume=False)
    if data.notice:
        print(f"\n*** {data.notice} ***\n{data.reason}\n")
    with common.device_mesh():
        rows = sweep(configs, data, folder)
    text = report(rows, list(configs))
    print(f"\n{text}\n")
    (folder.path / "noise_sweep.md").write_text(f"# {TITLE}\n\n{text}\n")
    by_level = {level: [row for row in rows if row["noise_level"] == level] for level in configs}
    figure = folder.path / "noise_sweep.png"
    figures.noise_sweep(by_level, description, figure)
    if FLAGS.publish:
        common.write_page("noise_sweep", TITLE, text, [figure])
    print(f"Written to {os.path.relpath(folder.path)}")


if __name__ == "__main__":
    common.run(experiment)
