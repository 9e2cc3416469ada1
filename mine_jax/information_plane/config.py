"""Configuration of a run, and the choices that its seed fixes."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import jax
import numpy as np
from flax import linen as nn

from mine_jax import estimate
from mine_jax.classifier import ClassifierConfig
from mine_jax.mine import MineConfig
from mine_jax.value_checks import LARGEST, flag_problems, integer_problems, is_choice, is_real

Noise = Literal["layer", "unit", "absolute"]
Plane = Literal["observed", "deterministic"]
PLANES: tuple[Plane, ...] = get_args(Plane)
COMPARISONS = ("bins", "kde")

# Rounds that follow one another share one split, and need no gains far below the standard errors.
ROUND_CONFIG = MineConfig(cross_fit=False, min_improvement=2e-3, max_steps=3000)
# I(X;T) is large: the closed-form start takes every canonical pair, and scores are normalized over
# the training samples, so that the few test samples do not limit the value. Normalized scores are
# bounded: the Donsker–Varadhan form of them is reliable up to the ceiling.
NOISY_X_CONFIG = replace(
    ROUND_CONFIG,
    batch_size=512,
    patience=1,
    lr_drops=0,
    canonical_pairs=1024,
    leading_pairs=0,
    squares=False,
    form="donsker_varadhan",
    normalize=True,
)
# Noise that is redrawn in each batch has to be averaged out, and is hard to over-fit.
NOISY_Y_CONFIG = replace(
    ROUND_CONFIG,
    batch_size=1024,
    learning_rate=2e-3,
    patience=12,
    max_steps=4000,
    ema_decay=0.998,
    weight_decay=0.05,
    squares=False,
    gaussian_start=False,
)
POSTER_CONFIG = MineConfig.published(max_steps=ROUND_CONFIG.max_steps)
MIN_SPLIT_SAMPLES = 2  # of each kind: a standard error needs two
MIN_AUTO_SAMPLES = 8  # ln 8 = 2.08: below, a layer could hold hardly more than a nat
LIMITS = {
    "epochs": (0, LARGEST),
    "probe_every": (1, LARGEST),
    "probe_size": (20, LARGEST),
    "seed": (0, 2**32 - 1),  # JAX would truncate larger seeds
    "num_seeds": (1, LARGEST),
}
FLAGS = ("warm_start", "deterministic", "population", "share_networks")
LARGEST_NOISE = 1e14  # times a layer of unit variance; its square fits into float32
NETWORKS = ("mine", "noisy_x_mine", "noisy_y_mine")
SHARED_BY_NETWORKS = ("folds", "validation_fraction")  # fields that fix the split


@dataclass(frozen=True)
class PlaneConfig:
    """Configuration of a run: training, probes and statistics networks. Hashable.

    Attributes:
      epochs: total number of training epochs.
      probe_every: epochs between probes; epoch 0, before training, is probed too.
      layers: names of the model's probes in order of depth. Each layer must be a function of the
        one before, without skip connections around it.
      probe_size: number of training images that are probed, a random choice; all of them if there
        are fewer.
      warm_start: start the statistics networks of a round from those of the previous round.
      seed: seed of all random choices.
      num_seeds: number of classifiers, trained from the seeds `seed`, `seed` + 1, …, each with its
        statistics networks. All share the probed images and the split that `seed` fixes.
      noise: unit of `noise_std`. "layer": the root of the trace of the layer's covariance. "unit":
        the root mean variance of its units. "absolute": 1, in the units of the activations.
        Variances are those of the training samples of the statistics networks at that epoch.
      noise_std: standard deviation of the Gaussian noise of the observed layers; 0 leaves out their
        plane. "auto", for "layer" only: 1/√(2(ln n − 1)) for n test samples, so that no layer can
        hold more than ln n − 1 nats, a nat below the ceiling (`noise_level`).
      deterministic: measure the layers without noise, too.
      population: the probed images are all there are, equally likely: references are exact values
        over all of them, rather than brackets.
      also: values known from the literature beside those of observed layers, out of `COMPARISONS`
        (`comparisons`).
      share_networks: without noise, let a layer take the value of a later layer's network where
        its own is not better on the validation samples (`measurement.choose_networks`).
      classifier: configuration of the classifier's training.
      mine: configuration of the statistics networks without noise.
      noisy_x_mine: of those of I(X;T) for observed layers.
      noisy_y_mine: of those of I(Y;T).

    Raises:
      ValueError: naming every value that is out of its range.
    """

    epochs: int = 40
    probe_every: int = 4
    layers: tuple[str, ...] = ("conv1", "conv2", "relu3", "softmax")
    probe_size: int = 20_000
    warm_start: bool = True
    seed: int = 0
    num_seeds: int = 1
    noise: Noise = "layer"
    noise_std: float | Literal["auto"] = "auto"
    deterministic: bool = True
    population: bool = False
    also: tuple[str, ...] = ()
    share_networks: bool = True
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    mine: MineConfig = ROUND_CONFIG
    noisy_x_mine: MineConfig = NOISY_X_CONFIG
    noisy_y_mine: MineConfig = NOISY_Y_CONFIG

    def __post_init__(self) -> None:
        for name in ("layers", "also"):
            if isinstance(getattr(self, name), list):  # which could not be hashed
                object.__setattr__(self, name, tuple(getattr(self, name)))
        problems = integer_problems(self, LIMITS) + flag_problems(self, FLAGS)
        if not problems and self.seed + self.num_seeds > 1 << 32:
            problems.append(
                f"seed + num_seeds must be at most 2^32, got {self.seed} + {self.num_seeds}"
            )
        if not _are_names(self.layers) or not self.layers:
            problems.append(
                f"layers must be a tuple of one or more different names, got {self.layers!r}"
            )
        if not _are_names(self.also) or not set(self.also) <= set(COMPARISONS):
            problems.append(
                f"also must be a tuple of names out of {COMPARISONS}, got {self.also!r}"
            )
        for name, kind in {
            "classifier": ClassifierConfig,
            **dict.fromkeys(NETWORKS, MineConfig),
        }.items():
            if not isinstance(getattr(self, name), kind):
                problems.append(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        problems += self._noise_problems()
        if not problems:
            problems += self._combination_problems()
        if problems:
            raise ValueError("; ".join(problems))

    def _combination_problems(self) -> list[str]:
        problems = []
        if not (self.noise_std or self.deterministic):
            problems.append("noise_std = 0 without deterministic leaves no plane to measure")
        if self.also and not self.noise_std:
            problems.append("also needs observed layers: set noise_std above 0")
        configs = [getattr(self, name) for name in NETWORKS]
        if any(config.cross_fit for config in configs):
            problems.append("statistics networks of a run share one split: set cross_fit=False")
        for name in SHARED_BY_NETWORKS:
            if len(values := {getattr(config, name) for config in configs}) > 1:
                problems.append(f"all statistics networks must have one {name}, got {values}")
        if len({config.preparation for config in configs[1:]}) > 1:
            problems.append("noisy_x_mine and noisy_y_mine must have the same preparation")
        return problems

    def _noise_problems(self) -> list[str]:
        if is_choice(self.noise, ["relative"]):
            return ['noise="relative" is called "unit" now']
        if not is_choice(self.noise, get_args(Noise)):
            return [f"noise must be one of {get_args(Noise)}, got {self.noise!r}"]
        if isinstance(self.noise_std, str) and self.noise_std == "auto":
            if self.noise == "layer":
                return []
            return [f'noise_std="auto" goes with noise="layer"; give a number for {self.noise!r}']
        if not is_real(self.noise_std) or not 0 <= self.noise_std <= LARGEST_NOISE:
            return [
                'noise_std must be "auto" or a finite number of at least 0 and at most '
                f"{LARGEST_NOISE:.0e}, one for all layers, got {self.noise_std!r}"
            ]
        return []

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes that are measured, out of `PLANES`."""
        measured = {"observed": self.noise_std != 0, "deterministic": self.deterministic}
        return tuple(plane for plane in PLANES if measured[plane])

    def mine_config(self, plane: Plane, variable: str) -> MineConfig:
        """Configuration of the statistics networks of a plane and a variable, "x" or "y"."""
        if plane == "deterministic":
            return self.mine
        return self.noisy_x_mine if variable == "x" else self.noisy_y_mine

    def noise_level(self, num_test: int) -> float:
        """Return `noise_std` as a number.

        With noise relative to the layer, a Gaussian has the most entropy for its covariance, so
        that I(X;T) < 1/(2c²) nats for a layer of any width; "auto" sets this to ln n − 1.

        Args:
          num_test: n, the number of test samples of the statistics networks.

        Raises:
          ValueError: if "auto" is given fewer than 8 test samples.
        """
        if self.noise_std != "auto":
            return float(self.noise_std)
        if num_test < MIN_AUTO_SAMPLES:
            raise ValueError(
                f'noise_std="auto" needs at least {MIN_AUTO_SAMPLES} test samples, got {num_test}; '
                "increase probe_size, or give a number"
            )
        return 1 / math.sqrt(2 * (math.log(num_test) - 1))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the classifiers."""
        return tuple(range(self.seed, self.seed + self.num_seeds))

    def probe_epochs(self) -> tuple[int, ...]:
        """Epochs after which the layers are probed."""
        return tuple(range(0, self.epochs + 1, self.probe_every))


def _are_names(values: Any) -> bool:
    """Tell whether a value is a tuple of different texts."""
    return (
        isinstance(values, tuple)
        and all(isinstance(name, str) for name in values)
        and len(set(values)) == len(values)
    )


def seed_keys(seed: int) -> dict[str, jax.Array]:
    """Derive the PRNG keys of a classifier and its statistics networks from a seed.

    Args:
      seed: one of `PlaneConfig.seeds`.

    Returns:
      Keys for the classifier's weights ("init") and batches ("train"), for the noise of layers
      ("noise"), and for the statistics networks and their split ("mine").
    """
    names = ("init", "train", "noise", "mine")
    return dict(zip(names, jax.random.split(jax.random.key(seed), len(names)), strict=True))


def probe_rows(config: PlaneConfig, n: int) -> np.ndarray:
    """Choose the training images to probe.

    The choice rests on PCG64's raw output, which NumPy keeps stable; it does not promise that for
    `Generator.permutation`.

    Args:
      config: `seed` and `probe_size`.
      n: number of training images.

    Returns:
      Rows in random order, (min(probe_size, n),), int32.
    """
    raw = np.random.PCG64(config.seed).random_raw(n)
    return np.argsort(raw, kind="stable")[: config.probe_size].astype(np.int32)


def resolved(config: PlaneConfig, n: int) -> dict[str, Any]:
    """Describe everything that determines the numbers of a run, except how long it is.

    Args:
      config: the configuration.
      n: number of training images.

    Returns:
      JSON values: all fields but `epochs`, the noise as a number (`noise_level`), and hashes of the
      probed rows and of their split.

    Raises:
      ValueError: if there are too few images for a batch of the classifier or for the split.
    """
    if n < config.classifier.batch_size:
        raise ValueError(
            f"batch_size = {config.classifier.batch_size} is more than the {n} training images"
        )
    rows = probe_rows(config, n)
    splits = check_split(split_rows(config, len(rows)), config, "increase probe_size")
    values = values_of(config)
    del values["epochs"]
    level = config.noise_level(splits.test.shape[1]) if "observed" in config.planes else None
    return values | {
        "noise_level": level,
        "probe_rows_sha256": _sha256(rows),
        "split_sha256": _sha256(*splits),
    }


def check_split(splits: estimate.Splits, config: PlaneConfig, remedy: str) -> estimate.Splits:
    """Return the split.

    Args:
      splits: training, validation and test rows.
      config: its configuration.
      remedy: what the error message asks for.

    Raises:
      ValueError: if one of the three has too few samples for a standard error.
    """
    if min(part.shape[1] for part in splits) < MIN_SPLIT_SAMPLES:
        n = sum(part.shape[1] for part in splits)
        raise ValueError(
            f"{n} samples are too few for training, validation and test samples with folds = "
            f"{config.mine.folds} and validation_fraction = {config.mine.validation_fraction}; "
            f"{remedy}"
        )
    return splits


def split_rows(config: PlaneConfig, n: int) -> estimate.Splits:
    """Return the split that all statistics networks of a run share.

    Args:
      config: `seed`, and the split of `mine`.
      n: number of probed images.

    Returns:
      Training, validation and test rows out of 0 … n − 1, with one fold in front.
    """
    split_key, _ = jax.random.split(seed_keys(config.seed)["mine"])
    return estimate.split(split_key, n, config.mine)


def values_of(value: Any) -> Any:
    """Return a configuration as JSON values, modules as their description.

    Args:
      value: a configuration, or a value of one.
    """
    if isinstance(value, nn.Module):  # a dataclass, too, but one with a parent
        return repr(value)
    if dataclasses.is_dataclass(value):
        return {
            item.name: values_of(getattr(value, item.name)) for item in dataclasses.fields(value)
        }
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<i4").tobytes())
    return digest.hexdigest()
