"""Speed and memory, beside the machine's rate of matrix products.

  python experiments/benchmark.py
  python experiments/benchmark.py --parts=lenet,round --against="python other.py --threads=2"
  python experiments/benchmark.py --parts=growth

Repeatable parts are measured --repeats times: medians and ranges. --against runs another program
in turn with these measurements and compares the figures that it prints in the same unit (GFLOP/s,
steps/s, rounds/s). Tables (benchmark.md, also printed) and all figures (benchmark.json) go to
--out_dir; for growth also growth.png.
"""

import json
import math
import os
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
from absl import flags
from common import markdown_table

PARTS = ("product", "lenet", "round", "probe", "lower_bound", "start", "growth")
UNITS = ("GFLOP/s", "steps/s", "rounds/s")
PRODUCT = 2048  # rows and columns of the square matrices
# Multiply-adds for an image in LeNet-5, forwards and backwards: each layer's product, that for its
# weights' gradient and, but for the first, that for its input's.
LENET = 2 * 28 * 28 * 25 * 6 + 3 * (10 * 10 * 150 * 16 + 400 * 120 + 120 * 84 + 84 * 10)

FLAGS = flags.FLAGS
flags.DEFINE_list("parts", list(PARTS[:-1]), f"What to measure: {', '.join(PARTS)}.")
flags.DEFINE_integer("repeats", 5, "Times that each measurement is made, after one to warm up.")
flags.DEFINE_integer("steps", 20, "Steps, or rounds, of one measurement.")
flags.DEFINE_string("against", None, "Command of another benchmark, to run in turn with this one.")
flags.DEFINE_list("layer_dims", ["4704", "1600", "120", "10"], "Layers of a round.")
flags.DEFINE_integer("lenet_batch", 128, "Images of a step of LeNet-5.")
flags.DEFINE_integer("mine_batch", 512, "Samples of a round.")
flags.DEFINE_integer("hidden", 256, "Hidden units of a round's networks.")
flags.DEFINE_enum(
    "dataset", "mnist_5k", ("mnist_5k", "mnist", "fashion_mnist", "kmnist"), "Of a probe."
)
flags.DEFINE_string("data_dir", None, "Folder with its IDX files.")
flags.DEFINE_string("out_dir", "runs/benchmark", "Folder for the results.")
flags.adopt_module_key_flags(common)


class Measured(NamedTuple):
    """One figure.

    Attributes:
      name: what it is of.
      values: as often as it was measured.
      unit: of the values.
      gflop: billions of additions and multiplications that one of `unit` needs, for those that
        are a second's; None where that says nothing.
    """

    name: str
    values: list[float]
    unit: str
    gflop: float | None = None

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)


class Rate(NamedTuple):
    """Something to measure again and again: `call` does `count` of `unit`."""

    name: str
    call: Callable[[], Any]
    count: int
    unit: str
    gflop: float | None

    def measure(self) -> float:
        """How many a second."""
        import jax

        start = time.perf_counter()
        jax.block_until_ready(self.call())
        return self.count / (time.perf_counter() - start)


def product() -> Rate:
    """The machine's rate: a square matrix product."""
    import jax

    one = jax.random.normal(jax.random.key(0), (PRODUCT, PRODUCT))
    call = jax.jit(lambda a: a @ a)
    gflop = 2 * PRODUCT**3 / 1e9
    return Rate("matrix product", lambda: call(one), 1, "GFLOP/s", gflop)


def lenet() -> Rate:
    """Steps of LeNet-5's training as the library makes them."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mine_jax import LeNet5, classifier, devices

    config, model = classifier.ClassifierConfig(FLAGS.lenet_batch), LeNet5()
    images = jax.random.uniform(jax.random.key(0), (60_000, 28, 28, 1))
    labels = jax.random.randint(jax.random.key(1), (60_000,), 0, 10)
    state = classifier.init(jax.random.key(2), model, config, images.shape[1:])
    shape = FLAGS.steps, FLAGS.lenet_batch
    batches = jnp.asarray(np.random.default_rng(0).integers(0, len(images), shape))
    data = batches, 0, FLAGS.steps, *devices.replicate((images, labels))

    def call() -> Any:
        return classifier.train_steps(
            state.params, state.opt_state, *data, model=model, config=config
        )

    gflop = 2 * LENET * FLAGS.lenet_batch / 1e9
    return Rate(f"LeNet-5, batches of {FLAGS.lenet_batch}", call, FLAGS.steps, "steps/s", gflop)


def mine_round() -> Rate:
    """MINE as published: a step of the network of every (variable, layer)."""
    import jax.numpy as jnp
    import numpy as np

    from mine_jax import MineConfig, devices, estimate, mine

    config = MineConfig.published(hidden=FLAGS.hidden, batch_size=FLAGS.mine_batch)
    generator, n = np.random.default_rng(0), 10_000
    images = mine.Samples(jnp.asarray(generator.random((n, 784), np.float32)))
    labels = mine.Samples(jnp.eye(10, dtype=jnp.uint8)[generator.integers(0, 10, n)])
    pairs = {}
    for width in FLAGS.layer_dims:
        layer = mine.Samples(jnp.asarray(generator.random((n, int(width)), np.float32)))
        pairs[f"x;{width}"] = estimate.Pair(images, layer)
        pairs[f"y;{width}"] = estimate.Pair(layer, labels)
    chunks = []
    for group in estimate.group_pairs(pairs, config):
        data = mine.stack.stack_samples([(pair.x, pair.z) for pair in group.pairs])
        chunks.append(chunk_call(devices.replicate(data), group.config, FLAGS.steps))

    def call() -> Any:
        return [chunk() for chunk in chunks]

    inputs = sum(side.measured.shape[1] for pair in pairs.values() for side in (pair.x, pair.z))
    name = f"MINE as published, {len(pairs)} networks, batches of {FLAGS.mine_batch}"
    return Rate(name, call, FLAGS.steps, "rounds/s", round_gflop(len(pairs), inputs))


def chunk_call(data: Any, config: Any, steps: int) -> Callable[[], Any]:
    """Return a call that takes so many steps of every network of a stack."""
    import jax
    import numpy as np

    from mine_jax.mine import training

    networks = len(data.x.index)
    state = training.init_stack(jax.random.split(jax.random.key(0), networks), data, config)
    generator = np.random.default_rng(0)
    shape = 1, steps, config.batch_size
    rows = generator.integers(0, data.x.measured.shape[1], shape).astype(np.int32)
    arguments = (
        state,
        np.ones(networks, bool),
        np.full(networks, config.learning_rate, np.float32),
        jax.random.split(jax.random.key(1), 1),
        rows,
        np.zeros(networks, np.int32),
        data,
        config,
    )
    return lambda: training.train_chunk(*arguments)


def round_gflop(networks: int, inputs: int) -> float:
    """Billions of operations that a round needs, for networks with so many inputs in all.

    The first layer's product and its weights' gradient are counted once for joint and marginal
    pairs, the three products of each later layer for both.
    """
    first = 2 * inputs * FLAGS.hidden
    later = networks * 2 * 3 * (FLAGS.hidden**2 + FLAGS.hidden)
    return 2 * (first + later) * FLAGS.mine_batch / 1e9


def rates(parts: Sequence[str]) -> tuple[list[Measured], dict[str, list[float]]]:
    """Figures a second, and those of --against by unit, measured in turn."""
    makers = {"product": product, "lenet": lenet, "round": mine_round}
    wanted = [makers[part]() for part in makers if part in parts]
    for rate in wanted:
        rate.measure()  # compiles
    values: dict[str, list[float]] = {rate.name: [] for rate in wanted}
    others: dict[str, list[float]] = {}
    for _ in range(FLAGS.repeats):
        for rate in wanted:
            scale = rate.gflop if rate.unit == "GFLOP/s" else 1
            values[rate.name].append(rate.measure() * scale)
        if FLAGS.against:
            for unit, value in printed(FLAGS.against).items():
                others.setdefault(unit, []).append(value)
    return [
        Measured(rate.name, values[rate.name], rate.unit, rate.gflop) for rate in wanted
    ], others


def printed(command: str) -> dict[str, float]:
    """What a command prints in one of `UNITS`; the first of each."""
    ran = subprocess.run(shlex.split(command), capture_output=True, text=True)
    if ran.returncode:
        raise ValueError(f"--against={command} failed: {ran.stderr.strip()[-500:]}")
    found: dict[str, float] = {}
    number = r"(?<![\w.,])(\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?)"
    for value, unit in re.findall(
        number + r"\s*(" + "|".join(map(re.escape, UNITS)) + ")", ran.stdout
    ):
        found.setdefault(unit, float(value.replace(",", "")))
    if not found:
        raise ValueError(f"--against={command} printed no figure in {', '.join(UNITS)}")
    return found


def probe() -> list[Measured]:
    """A probe of LeNet-5 with all its fits, compilation apart: cold, and warm an epoch later."""
    from mine_jax import LeNet5, information_plane
    from mine_jax.lenet import datasets

    data = datasets.load(FLAGS.dataset, FLAGS.data_dir)
    config = information_plane.PlaneConfig(epochs=1, probe_every=1)
    model = LeNet5(num_classes=data.num_classes)
    cold, warm = [], []
    for repeat in range(FLAGS.repeats + 1):
        result = information_plane.run(
            model,
            (data.train_images, data.train_labels),
            (data.test_images, data.test_labels),
            config,
        )
        seconds = {row["epoch"]: row["seconds"] for row in result.records}
        if repeat:
            cold.append(seconds[0])
            warm.append(seconds[1])
    n = min(config.probe_size, len(data.train_images))
    return [
        Measured(f"probe of {n:,} images, cold", cold, "s"),
        Measured(f"probe of {n:,} images, warm", warm, "s"),
    ]


def one_bound() -> list[Measured]:
    """lower_bound on a Gaussian pair: the first call in a process, and later ones."""
    import jax
    import numpy as np

    import mine_jax

    generator, n, d = np.random.default_rng(0), 10_000, 20
    x = generator.normal(size=(n, d))
    z = 0.5 * x + math.sqrt(0.75) * generator.normal(size=(n, d))
    clock = common.CompilationClock().start()
    seconds = []
    for repeat in range(FLAGS.repeats + 1):
        start = time.perf_counter()
        mine_jax.lower_bound(x, z, key=jax.random.key(repeat))
        seconds.append(time.perf_counter() - start)
    name = f"lower_bound, n = {n:,}, d = {d}"
    return [
        Measured(f"{name}, first call", seconds[:1], "s"),
        Measured(f"{name}, compilation in it", [clock.seconds], "s"),
        Measured(f"{name}, later calls", seconds[1:], "s"),
    ]


def starts() -> list[Measured]:
    """Processes of their own: import, --help, and a short main job with and without kept code."""
    here = Path(__file__).parent
    quick = [
        "--epochs=1",
        "--probe_every=1",
        "--dataset=mnist_5k",
        "--max_steps=100",
        "--noprogress",
    ]
    script = [sys.executable, str(here / "info_plane.py")]
    folder = Path(FLAGS.out_dir) / "starts"

    def seconds(command: list[str]) -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    def job(repeat: int, kind: str) -> list[str]:
        name = f"{os.getpid()}-{repeat}"
        return [
            *(*script, *quick, f"--platform={FLAGS.platform}", f"--out_dir={folder / name}-{kind}"),
            f"--compilation_cache={folder / name}-code",
        ]

    repeats = range(FLAGS.repeats)
    return [
        Measured(
            "import mine_jax",
            [seconds([sys.executable, "-c", "import mine_jax"]) for _ in repeats],
            "s",
        ),
        Measured("info_plane.py --help", [help_seconds(script) for _ in repeats], "s"),
        *(
            Measured(f"short main job, {kind}", [seconds(job(i, kind)) for i in repeats], "s")
            for kind in ("first", "with compilation cache")
        ),
    ]


def help_seconds(script: list[str]) -> float:
    """Seconds until --help has answered; absl exits with 1 then."""
    start = time.perf_counter()
    subprocess.run([*script, "--help"], capture_output=True)
    return time.perf_counter() - start


# --- Growth -------------------------------------------------------------------------------------

GROWTH = {
    "samples n": (500, 1000, 2000, 4000, 8000),
    "columns of z": (8, 32, 128, 512, 2048),
    "layers": (1, 2, 4, 8),
    "batch": (64, 128, 256, 512, 1024),
    "hidden": (32, 64, 128, 256, 512),
}


def growth() -> list[dict[str, Any]]:
    """Measure a step, and the evaluation of n samples, as one size grows at a time.

    Networks are the library's default ones, without preparation, which keeps wide layers narrow.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mine_jax import MineConfig, mine
    from mine_jax.mine import evaluation, training

    usual = {"samples n": 4000, "columns of z": 32, "layers": 1, "batch": 256, "hidden": 128}
    rows = []
    for name, sizes in GROWTH.items():
        for size in sizes:
            at = usual | {name: size}
            config = MineConfig(
                network="separable", hidden=at["hidden"], batch_size=at["batch"], canonical_pairs=32
            )
            generator, n = np.random.default_rng(0), at["samples n"]

            def samples(width: int, n: int = n, generator: Any = generator) -> mine.Samples:
                values = generator.normal(size=(n, width)).astype(np.float32)
                return mine.Samples(jnp.asarray(values))

            x = samples(32)
            pairs = [(x, samples(at["columns of z"])) for _ in range(at["layers"])]
            data = mine.stack.stack_samples(pairs)
            keys = jax.random.split(jax.random.key(0), len(pairs))
            state = training.init_stack(keys, data, config)
            every = jnp.tile(jnp.arange(n, dtype=jnp.int32)[None], (len(pairs), 1))
            step = chunk_call(data, config, FLAGS.steps)
            calls = {"step": (step, FLAGS.steps)}
            if name != "batch":  # an evaluation has none
                evaluate = partial(evaluation.evaluate_rows, state, data, every, config)
                calls["evaluation"] = evaluate, 1
            for part, (call, count) in calls.items():
                jax.block_until_ready(call())
                milliseconds = []
                for _ in range(FLAGS.repeats):
                    start = time.perf_counter()
                    jax.block_until_ready(call())
                    milliseconds.append(1e3 * (time.perf_counter() - start) / count)
                rows.append(
                    {
                        "what": part,
                        "size": name,
                        "value": size,
                        "milliseconds": statistics.median(milliseconds),
                        "fastest": min(milliseconds),
                        "slowest": max(milliseconds),
                    }
                )
    return rows


def slopes(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """For each curve its ends, and the power of the size by which the larger half grows."""
    lines = []
    for what, size in dict.fromkeys((row["what"], row["size"]) for row in rows):
        own = [row for row in rows if (row["what"], row["size"]) == (what, size)]
        upper = own[len(own) // 2 :]

        def power(key: str, upper: list = upper) -> float:
            first, last = upper[0], upper[-1]
            return math.log(last[key] / first[key]) / math.log(last["value"] / first["value"])

        lines.append(
            [
                f"{what} against {size}",
                f"{own[0]['value']:,} … {own[-1]['value']:,}",
                f"{own[0]['milliseconds']:.2f} … {own[-1]['milliseconds']:.2f}",
                f"{power('milliseconds'):.2f}",
            ]
        )
    return lines


# --- Reports ------------------------------------------------------------------------------------


def figures(made: Sequence[Measured], others: dict[str, list[float]]) -> str:
    """The table of all figures; `others` are those of --against."""
    product = next((m.median for m in made if m.unit == "GFLOP/s"), None)
    lines = []
    for measured in made:
        share = ratio = ""
        if measured.gflop and product and measured.unit != "GFLOP/s":
            share = f"{measured.median * measured.gflop / product:.0%}"
        there = others.get(measured.unit)
        if there:
            ratio = f"{measured.median / statistics.median(there):.2f}"
        lines.append(
            [
                measured.name,
                f"{measured.median:.3g} {measured.unit}",
                f"{min(measured.values):.3g} … {max(measured.values):.3g}",
                share,
                "" if not there else f"{statistics.median(there):.3g}",
                ratio,
            ]
        )
    columns = ["", "median", "range", "share of the product's rate", "the other's", "ratio"]
    return markdown_table(columns, lines)


def check_flags() -> None:
    """Raise ValueError that names a wrong flag."""
    if unknown := [part for part in FLAGS.parts if part not in PARTS]:
        raise ValueError(f"--parts has {', '.join(unknown)}; there are {', '.join(PARTS)}")
    for name in ("repeats", "steps", "lenet_batch", "mine_batch", "hidden"):
        if FLAGS[name].value < 1:
            raise ValueError(f"--{name} must be at least 1, got {FLAGS[name].value}")
    if not all(width.isdigit() and int(width) for width in FLAGS.layer_dims):
        raise ValueError(f"--layer_dims must be numbers of units, got {','.join(FLAGS.layer_dims)}")
    if FLAGS.against and not {"product", "lenet", "round"} & set(FLAGS.parts):
        raise ValueError("--against is compared with product, lenet and round; name one in --parts")


def experiment() -> None:
    """Validate, measure, print, write."""
    with common.user_errors():
        check_flags()
        if FLAGS["compilation_cache"].using_default_value:
            FLAGS.compilation_cache = ""  # a benchmark shows what a first run compiles
        names = common.select_devices()
        folder = Path(FLAGS.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
    print(f"{', '.join(names)}; {os.cpu_count()} cores")
    with common.device_mesh():
        # Parts that measure a first call come first.
        bound = one_bound() if "lower_bound" in FLAGS.parts else []
        made, others = rates(FLAGS.parts)
        made += bound + (probe() if "probe" in FLAGS.parts else [])
    if "start" in FLAGS.parts:
        made += starts()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    made.append(Measured("peak memory of this process", [peak], "GiB"))
    text = figures(made, others)
    if "growth" in FLAGS.parts:
        import plots

        rows = growth()
        plots.growth(rows, folder / "growth.png")
        columns = ["", "sizes", "ms", "power"]
        text += "\n\n" + markdown_table(columns, slopes(rows))
    content = {
        "devices": names,
        "cores": os.cpu_count(),
        "figures": [measured._asdict() | {"median": measured.median} for measured in made],
        "against": {"command": FLAGS.against, "figures": others},
    }
    (folder / "benchmark.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "benchmark.md").write_text(text + "\n")
    if FLAGS.publish:
        common.write_page("benchmark", "Speed", text)
    print(f"\n{text}\n\nWritten to {os.path.relpath(folder)}")


if __name__ == "__main__":
    common.run(experiment)
