"""Speed and memory, beside the machine's rate of matrix products.

  python experiments/benchmark.py
  python experiments/benchmark.py --parts=lenet,round --against="python other.py --threads=2"
  python experiments/benchmark.py --parts=growth

Every part is measured --repeats times, for medians and ranges. --against runs another program in
turn with the rates and compares the figures that it prints in the same unit (GFLOP/s, steps/s,
rounds/s). Tables (benchmark.md, also printed) and all figures (benchmark.json) go to --out_dir; for
growth also growth.png.
"""

import json
import math
import os
import re
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import benchmark_growth
import common
from absl import flags
from benchmark_growth import chunk_call, seconds_of
from common import markdown_table

if TYPE_CHECKING:  # imported where needed, so that --help answers at once
    from mine_jax.lenet.datasets import Dataset

PARTS = ("product", "lenet", "round", "probe", "lower_bound", "start", "growth")
RATES = PARTS[:3]
UNITS = ("GFLOP/s", "steps/s", "rounds/s")
DATASETS = ("mnist_5k", "mnist", "fashion_mnist", "kmnist")
NUM_SAMPLES = 10_000  # of a round and of `lower_bound`
NUM_IMAGES = 60_000  # of LeNet-5's training
MATRIX_SIZE = 2048
# Multiply-adds for an image in LeNet-5, forwards and backwards: each layer's product, that for its
# weights' gradient and, but for the first, that for its input's.
LENET_PRODUCTS = 2 * 28 * 28 * 25 * 6 + 3 * (10 * 10 * 150 * 16 + 400 * 120 + 120 * 84 + 84 * 10)
SHORT_JOB = ("--epochs=1", "--probe_every=1", "--dataset=mnist_5k", "--max_steps=100")

FLAGS = flags.FLAGS
flags.DEFINE_list("parts", list(PARTS[:-1]), f"Parts to measure: {', '.join(PARTS)}.")
flags.DEFINE_integer("repeats", 5, "Number of measurements of each part, after one to warm up.")
flags.DEFINE_integer("steps", 20, "Steps, or rounds, of one measurement.")
flags.DEFINE_string("against", None, "Command of another benchmark, to run in turn with this one.")
flags.DEFINE_list("layer_dims", ["4704", "1600", "120", "10"], "Widths of the layers of a round.")
flags.DEFINE_integer("lenet_batch", 128, "Batch size of LeNet-5.")
flags.DEFINE_integer("mine_batch", 512, "Batch size of a round.")
flags.DEFINE_integer("hidden", 256, "Width of a round's networks.")
flags.DEFINE_enum("dataset", "mnist_5k", DATASETS, "Data set of a probe.")
flags.DEFINE_string("data_dir", None, "Folder with the four IDX files of the data set.")
flags.DEFINE_string("out_dir", "runs/benchmark", "Folder for the results.")
flags.adopt_module_key_flags(common)


class Figure(NamedTuple):
    """A measured quantity.

    Attributes:
      name: what was measured.
      values: the measurements.
      unit: their unit.
      gflop: for a rate, 1e9 additions and multiplications of one step; None where unknown.
    """

    name: str
    values: list[float]
    unit: str
    gflop: float | None = None

    @property
    def median(self) -> float:
        """Median of the measurements."""
        return statistics.median(self.values)


class Rate(NamedTuple):
    """A repeatable measurement: `call` takes `steps` steps of `gflop` 1e9 operations each."""

    name: str
    call: Callable[[], Any]
    steps: int
    unit: str
    gflop: float

    def measure(self) -> float:
        """Measure the number of units in a second."""
        per_second = self.steps / seconds_of(self.call)
        return per_second * self.gflop if self.unit == "GFLOP/s" else per_second


# --- Rates ----------------------------------------------------------------------------------------


def matrix_product() -> Rate:
    """Return the machine's rate: a square matrix product."""
    import jax

    matrix = jax.random.normal(jax.random.key(0), (MATRIX_SIZE, MATRIX_SIZE))
    call = partial(jax.jit(lambda a: a @ a), matrix)
    return Rate("matrix product", call, 1, "GFLOP/s", 2 * MATRIX_SIZE**3 / 1e9)


def lenet_steps() -> Rate:
    """Return steps of LeNet-5's training in the library's program."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mine_jax import LeNet5, classifier, devices

    config, model = classifier.ClassifierConfig(FLAGS.lenet_batch), LeNet5()
    images = jax.random.uniform(jax.random.key(0), (NUM_IMAGES, 28, 28, 1))
    labels = jax.random.randint(jax.random.key(1), (NUM_IMAGES,), 0, 10)
    state = classifier.init(jax.random.key(2), model, config, images.shape[1:])
    shape = FLAGS.steps, FLAGS.lenet_batch
    batches = jnp.asarray(np.random.default_rng(0).integers(0, NUM_IMAGES, shape))
    arguments = state.params, state.opt_state, batches, 0, FLAGS.steps
    data = devices.replicate((images, labels))
    call = partial(classifier.train_steps, *arguments, *data, model=model, config=config)
    gflop = 2 * LENET_PRODUCTS * FLAGS.lenet_batch / 1e9
    return Rate(f"LeNet-5, batches of {FLAGS.lenet_batch}", call, FLAGS.steps, "steps/s", gflop)


def mine_rounds() -> Rate:
    """Return rounds of MINE as published: a step of the network of every (variable, layer)."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mine_jax import MineConfig, estimate, mine

    config = MineConfig.published(hidden=FLAGS.hidden, batch_size=FLAGS.mine_batch)
    generator = np.random.default_rng(0)

    def samples(width: int) -> mine.Samples:
        return mine.Samples(jnp.asarray(generator.random((NUM_SAMPLES, width), np.float32)))

    images, classes = samples(784), generator.integers(0, 10, NUM_SAMPLES)
    labels = mine.Samples(jnp.eye(10, dtype=jnp.uint8)[classes])
    pairs = {}
    for i, width in enumerate(map(int, FLAGS.layer_dims)):
        layer = samples(width)
        pairs[f"x;{i}"] = estimate.Pair(images, layer)
        pairs[f"y;{i}"] = estimate.Pair(layer, labels)
    chunks = []
    for group in estimate.group_pairs(pairs, config):
        data = mine.stack.stack_samples([(pair.x, pair.z) for pair in group.pairs])
        chunks.append(chunk_call(data, group.config, FLAGS.steps))
    widths = sum(side.measured.shape[1] for pair in pairs.values() for side in (pair.x, pair.z))
    return Rate(
        f"MINE as published, {len(pairs)} networks, batches of {FLAGS.mine_batch}",
        # One stack after another, as in a run: programs that overlap take cores from one another.
        lambda: [jax.block_until_ready(chunk()) for chunk in chunks],
        FLAGS.steps,
        "rounds/s",
        round_gflop(len(pairs), widths),
    )


def round_gflop(networks: int, inputs: int) -> float:
    """Return the operations of a round in 1e9, for networks with so many inputs in total.

    The first layer's product and its weights' gradient are counted once for joint and marginal
    pairs, the three products of each later layer for both.
    """
    first = 2 * inputs * FLAGS.hidden
    later = networks * 2 * 3 * (FLAGS.hidden**2 + FLAGS.hidden)
    return 2 * (first + later) * FLAGS.mine_batch / 1e9


def measure_rates(parts: Sequence[str]) -> tuple[list[Figure], dict[str, list[float]]]:
    """Measure rates, and in turn with them the figures of --against, by unit."""
    makers = dict(zip(RATES, (matrix_product, lenet_steps, mine_rounds), strict=True))
    rates = [makers[part]() for part in RATES if part in parts]
    for rate in rates:
        rate.measure()  # compiles
    values: list[list[float]] = [[] for _ in rates]
    other: dict[str, list[float]] = {}
    for _ in range(FLAGS.repeats):
        for rate, measurements in zip(rates, values, strict=True):
            measurements.append(rate.measure())
        if FLAGS.against:
            with common.user_errors():
                printed = read_figures(FLAGS.against)
            for unit, value in printed.items():
                other.setdefault(unit, []).append(value)
    figures = [
        Figure(rate.name, measurements, rate.unit, rate.gflop)
        for rate, measurements in zip(rates, values, strict=True)
    ]
    return figures, other


def read_figures(command: str) -> dict[str, float]:
    """Run a command and return the first figure that it prints in each of `UNITS`.

    Raises:
      ValueError: if it fails, or prints no figure.
    """
    result = subprocess.run(shlex.split(command), capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        raise ValueError(f"--against={command} failed: {reason[-500:]}")
    pattern = r"(?<![\w.,])(\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*"
    figures: dict[str, float] = {}
    for value, unit in re.findall(f"{pattern}({'|'.join(UNITS)})", result.stdout):
        figures.setdefault(unit, float(value.replace(",", "")))
    if not figures:
        raise ValueError(f"--against={command} printed no figure in {', '.join(UNITS)}")
    return figures


# --- Times ----------------------------------------------------------------------------------------


def time_probes(data: "Dataset") -> list[Figure]:
    """Time a probe of LeNet-5 with all its fits, without compilation: cold, and warm-started."""
    from mine_jax import LeNet5, information_plane

    config = information_plane.PlaneConfig(epochs=1, probe_every=1)
    model = LeNet5(num_classes=data.num_classes)
    train, test = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for repeat in range(FLAGS.repeats + 1):
        records = information_plane.run(model, train, test, config).records
        for epoch, values in seconds.items():
            if repeat:  # the first one compiles
                values.append(next(row["seconds"] for row in records if row["epoch"] == epoch))
    name = f"probe of {min(config.probe_size, len(data.train_images)):,} images"
    return [
        Figure(f"{name}, {start} start", seconds[epoch], "s")
        for epoch, start in enumerate(("cold", "warm"))
    ]


def time_lower_bound() -> list[Figure]:
    """Time lower_bound on a Gaussian pair: the first call in a process, and later ones."""
    import jax
    import numpy as np

    import mine_jax

    x, noise = np.random.default_rng(0).normal(size=(2, NUM_SAMPLES, 20))
    z = 0.5 * x + math.sqrt(0.75) * noise
    clock = common.CompilationClock().start()
    seconds = []
    for repeat in range(FLAGS.repeats + 1):
        start = time.perf_counter()
        mine_jax.lower_bound(x, z, key=jax.random.key(repeat))
        seconds.append(time.perf_counter() - start)
    clock.stop()
    name = f"lower_bound, n = {NUM_SAMPLES:,}, d = {x.shape[1]}"
    return [
        Figure(f"{name}, first call", seconds[:1], "s"),
        Figure(f"{name}, compilation in it", [clock.seconds], "s"),
        Figure(f"{name}, later calls", seconds[1:], "s"),
    ]


def time_processes() -> list[Figure]:
    """Time processes: import, --help, short main jobs without and with a compilation cache."""
    program = [sys.executable, str(Path(__file__).with_name("info_plane.py"))]
    runs = Path(FLAGS.out_dir) / "starts"
    job = [*program, *SHORT_JOB, "--noprogress", f"--platform={FLAGS.platform}"]
    figures = {
        "import mine_jax": [],
        "info_plane.py --help": [],
        "short main job, first": [],
        "short main job, with compilation cache": [],
    }
    for repeat in range(FLAGS.repeats):
        folder = runs / f"{os.getpid()}-{repeat}"
        cached = [*job, f"--compilation_cache={folder}-compiled"]
        commands = (
            [sys.executable, "-c", "import mine_jax"],
            [*program, "--help"],
            [*cached, f"--out_dir={folder}-first"],
            [*cached, f"--out_dir={folder}-second"],
        )
        for command, values in zip(commands, figures.values(), strict=True):
            start = time.perf_counter()
            # absl exits with 1 after --help.
            subprocess.run(command, check="--help" not in command, capture_output=True)
            values.append(time.perf_counter() - start)
    return [Figure(name, values, "s") for name, values in figures.items()]


# --- The program ----------------------------------------------------------------------------------


def figure_table(figures: Sequence[Figure], other: dict[str, list[float]]) -> str:
    """Return the table of figures, beside those of --against, which are given by unit."""
    product = next((figure.median for figure in figures if figure.unit == "GFLOP/s"), None)
    lines = []
    for figure in figures:
        fraction = baseline = ratio = ""
        if figure.gflop and product and figure.unit != "GFLOP/s":
            fraction = f"{figure.median * figure.gflop / product:.0%}"
        if figure.unit in other:
            median = statistics.median(other[figure.unit])
            baseline, ratio = f"{median:.3g}", f"{figure.median / median:.2f}"
        range_of = f"{min(figure.values):.3g} … {max(figure.values):.3g}"
        value = f"{figure.median:.3g} {figure.unit}"
        lines.append([figure.name, value, range_of, fraction, baseline, ratio])
    head = ["", "median", "range", "fraction of the product's rate", "--against", "ratio"]
    return markdown_table(head, lines)


def check_flags() -> None:
    """Raise ValueError that names a wrong flag."""
    if unknown := common.unknown_names("parts", FLAGS.parts, PARTS):
        raise ValueError(*unknown)
    if not FLAGS.parts:
        raise ValueError(f"--parts is empty; choose from {', '.join(PARTS)}")
    for name in ("repeats", "steps", "lenet_batch", "mine_batch", "hidden"):
        if (value := getattr(FLAGS, name)) < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    widths = FLAGS.layer_dims
    if not widths or not all(width.isdecimal() and int(width) for width in widths):
        raise ValueError(f"--layer_dims must be numbers of units, got {','.join(widths)!r}")
    if FLAGS.against and not set(RATES) & set(FLAGS.parts):
        raise ValueError(f"--against is compared with {', '.join(RATES)}; name one in --parts")
    if FLAGS.against and not shutil.which(shlex.split(FLAGS.against)[0]):
        raise ValueError(f"--against={FLAGS.against}: there is no such program")


def experiment() -> None:
    """Validate, measure, print, write."""
    with common.user_errors():
        check_flags()
        if FLAGS["compilation_cache"].using_default_value:
            FLAGS.compilation_cache = ""  # a benchmark shows what a first run compiles
        devices = common.select_devices()
        data = None
        if "probe" in FLAGS.parts:
            from mine_jax.lenet import datasets

            data = datasets.load(FLAGS.dataset, FLAGS.data_dir)
        folder = Path(FLAGS.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
    print(f"{', '.join(devices)}; {os.cpu_count()} cores", flush=True)
    with common.device_mesh():
        # The first call in this process comes first.
        times = time_lower_bound() if "lower_bound" in FLAGS.parts else []
        figures, other = measure_rates(FLAGS.parts)
        figures += times + (time_probes(data) if data else [])
        growth = (
            benchmark_growth.measure(FLAGS.steps, FLAGS.repeats) if "growth" in FLAGS.parts else []
        )
    if "start" in FLAGS.parts:
        figures += time_processes()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    figures.append(Figure("peak memory of this process", [peak], "GiB"))
    text = figure_table(figures, other)
    images = []
    if growth:
        import plots

        images.append(folder / "growth.png")
        plots.growth(growth, images[0])
        text += f"\n\n{benchmark_growth.table(growth)}"
    content = {
        "devices": devices,
        "cores": os.cpu_count(),
        "figures": [figure._asdict() | {"median": figure.median} for figure in figures],
        "growth": growth,
        "against": {"command": FLAGS.against, "figures": other},
    }
    (folder / "benchmark.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "benchmark.md").write_text(text + "\n")
    if FLAGS.publish:
        common.write_page("benchmark", "Speed and memory", text, images)
    print(f"\n{text}\n\nWritten to {os.path.relpath(folder)}")


if __name__ == "__main__":
    common.run(experiment)
