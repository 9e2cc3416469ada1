"""The grid of architectures.py: networks, architectures, data, and the jobs they make."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from architectures_data import FORMS, OBSERVED, SHAPES

PARTS = ("synthetic", "layers")

Row = Mapping[str, Any]


class Network(NamedTuple):
    """A family of statistics networks.

    Attributes:
      name: its name in tables.
      kind: its name in `MineConfig.network`.
      published: whether it is trained as MINE as published, on samples without preparation.
    """

    name: str
    kind: str
    published: bool = False

    @property
    def convolves(self) -> bool:
        """Whether it takes images, and nothing else."""
        return self.kind == "convolutional"

    def takes(self, data: str) -> bool:
        """Return whether data of this name are for this family."""
        if data.endswith(OBSERVED):
            return not self.convolves and not self.published
        return not self.convolves or data.endswith(("as is", "shuffled"))


class Architecture(NamedTuple):
    """Width and number of the hidden layers, as `MineConfig` counts them."""

    hidden: int
    depth: int


class Job(NamedTuple):
    """Networks of one kind on data of one set: one call, and a row for each name in `data`.

    Attributes:
      part: one of `PARTS`.
      nats: the wanted mutual information.
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

    def row_key(self, data: str) -> tuple:
        """Return the key of the row of these data, as `row_key` does."""
        return data, self.nats, self.network.name, *self.architecture, self.seed


class Grid(NamedTuple):
    """The measurements of a run.

    Attributes:
      sizes: nats of the synthetic data.
      base: the architecture that everything is measured with.
      variants: further ones, for the synthetic data.
      layer_variants: further ones, for the layers.
      variant_seeds: number of seeds for the variants, and for sizes other than `middle`.
      variants_without: shapes and layers that those are not measured on.
      networks: the families.
      shapes: kinds of images.
      layers: probes of LeNet-5.
      max_steps: limit on a network's steps.
    """

    sizes: tuple[float, ...]
    base: Architecture
    variants: tuple[Architecture, ...]
    layer_variants: tuple[Architecture, ...]
    variant_seeds: int
    variants_without: tuple[str, ...]
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
    Network("concatenated", "concatenated"),
    Network("concatenated, as published", "concatenated", published=True),
    Network("convolutional", "convolutional"),
    Network("convolutional, trained as published", "convolutional", published=True),
)
FULL = Grid(
    sizes=(1, 2, 4),
    base=Architecture(128, 2),
    variants=(Architecture(64, 2), Architecture(256, 2), Architecture(128, 3)),
    layer_variants=(Architecture(64, 2), Architecture(128, 3)),
    variant_seeds=1,
    variants_without=("bar",),
    networks=NETWORKS,
    shapes=tuple(SHAPES),
    layers=("conv2", "relu3"),
    max_steps=600,
)
QUICK = Grid(
    sizes=(2,),
    base=Architecture(16, 2),
    variants=(Architecture(16, 1),),
    layer_variants=(),
    variant_seeds=1,
    variants_without=("wide", "rectangle", "conv"),
    # Nearly all the time of so small a run is compilation: none with a closed form.
    networks=(NETWORKS[2], NETWORKS[4]),
    shapes=("rectangle",),
    layers=("conv2",),
    max_steps=50,
)


def row_key(row: Row) -> tuple:
    """Return the key of a row."""
    return tuple(
        row[name] for name in ("data", "nats_wanted", "network", "hidden", "depth", "seed")
    )


def plan_jobs(grid: Grid, parts: Iterable[str], seeds: int, layer_nats: float) -> list[Job]:
    """List all jobs, those of the same samples and family one after another.

    Args:
      grid: the measurements.
      parts: out of `PARTS`.
      seeds: number of seeds.
      layer_nats: the wanted mutual information of the layers with noise.
    """
    synthetic = ["vector", "wide vector"]
    synthetic += [f"{shape} {form}" for shape in grid.shapes for form in FORMS]
    layers: list[str] = []
    for layer in grid.layers:
        layers += [f"{layer} {form}" for form in FORMS] if layer.startswith("conv") else [layer]
    layers += [f"{layer} {OBSERVED}" for layer in grid.layers]
    sets: list[tuple[str, float, Sequence[str], tuple[Architecture, ...]]] = []
    if "synthetic" in parts:
        # The size of the first table comes first.
        for size in sorted(grid.sizes, key=lambda size: size != grid.middle):
            variants = grid.variants if size == grid.middle else ()
            sets.append(("synthetic", size, synthetic, variants))
    if "layers" in parts:
        sets.append(("layers", layer_nats, layers, grid.layer_variants))
    jobs = []
    for part, nats, data, variants in sets:
        other_size = part == "synthetic" and nats != grid.middle
        for seed in range(min(seeds, grid.variant_seeds) if other_size else seeds):
            for network in grid.networks:
                names = tuple(name for name in data if network.takes(name))
                fewer = tuple(name for name in names if not name.startswith(grid.variants_without))
                base_names = fewer if other_size else names
                jobs.append(Job(part, nats, seed, network, grid.base, base_names))
                if seed < grid.variant_seeds:
                    jobs += [Job(part, nats, seed, network, other, fewer) for other in variants]
    return [job for job in jobs if job.data]
