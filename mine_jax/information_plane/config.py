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

Noise = Literal["relative", "absolute"]

# Rounds that follow one another share one split, and need no gains far below the standard errors.
ROUND_CONFIG = MineConfig(cross_fit=False, min_improvement=2e-3, max_steps=3000)
# Noise that is redrawn in each batch has to be averaged out, and is hard to over-fit.
NOISY_ROUND_CONFIG = replace(ROUND_CONFIG, batch_size=512, patience=8, weight_decay=0.05)
POSTER_CONFIG = MineConfig.published(max_steps=ROUND_CONFIG.max_steps)
MIN_SPLIT_SAMPLES = 2  # of each kind: a standard error needs two
MINIMA = {"epochs": 0, "probe_every": 1, "probe_size": 20, "seed": 0, "num_seeds": 1}


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
      noise_std: standard deviation of the Gaussian noise that layers are observed with; 0 for none.
      noise: unit of `noise_std`. "relative": the root mean variance of the layer's units over the
        probed images at that epoch. "absolute": 1, in the units of the activations.
      share_networks: without noise, let a layer take the value of a later layer's network where
        its own is not better on the validation samples (`measurement.choose_networks`).
      classifier: configuration of the classifier's training.
      mine: configuration of the statistics networks; None for `ROUND_CONFIG`, or
        `NOISY_ROUND_CONFIG` with noise.

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
    noise_std: float = 0.0
    noise: Noise = "relative"
    share_networks: bool = True
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    mine: MineConfig | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least {minimum}, got {getattr(self, name)}"
            for name, minimum in MINIMA.items()
            if getattr(self, name) < minimum
        ]
        if self.seed + self.num_seeds > 1 << 32:  # JAX would truncate larger seeds
            problems.append(
                f"seed + num_seeds must be at most 2^32, got {self.seed} + {self.num_seeds}"
            )
        if not self.layers or len(set(self.layers)) != len(self.layers):
            problems.append(f"layers must be one or more different names, got {self.layers}")
        if not 0 <= self.noise_std < math.inf:
            problems.append(f"noise_std must be at least 0 and finite, got {self.noise_std}")
        if self.noise not in get_args(Noise):
            problems.append(f"noise must be one of {get_args(Noise)}, got {self.noise!r}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def mine_config(self) -> MineConfig:
        """Configuration of the statistics networks: `mine`, or the default of a round."""
        return self.mine or (NOISY_ROUND_CONFIG if self.noise_std else ROUND_CONFIG)

    @property
    def standardized(self) -> bool:
        """Whether images and layers are prepared as standardized columns."""
        return self.mine_config.preparation == "standardized"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the classifiers."""
        return tuple(range(self.seed, self.seed + self.num_seeds))

    def probe_epochs(self) -> tuple[int, ...]:
        """Epochs after which the layers are probed."""
        return tuple(range(0, self.epochs + 1, self.probe_every))


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
      JSON values: all fields but `epochs`, `mine` with the library's defaults, and hashes of the
      probed rows and of their split.

    Raises:
      ValueError: if there are too few images for a batch of the classifier or for the split.
    """
    if n < config.classifier.batch_size:
        raise ValueError(
            f"batch_size = {config.classifier.batch_size} is more than the {n} training images"
        )
    rows = probe_rows(config, n)
    split_key, _ = jax.random.split(seed_keys(config.seed)["mine"])
    splits = estimate.split(split_key, len(rows), config.mine_config)
    if min(part.shape[1] for part in splits) < MIN_SPLIT_SAMPLES:
        raise ValueError(
            f"{len(rows)} probed images are too few for training, validation and test samples with "
            f"folds = {config.mine_config.folds} and validation_fraction = "
            f"{config.mine_config.validation_fraction}; increase probe_size"
        )
    values = _json(replace(config, mine=config.mine_config))
    del values["epochs"]
    return values | {
        "probe_rows_sha256": _sha256(rows),
        "split_sha256": _sha256(*splits),
    }


def _json(value: Any) -> Any:
    if isinstance(value, nn.Module):  # a dataclass, too, but one with a parent
        return repr(value)
    if dataclasses.is_dataclass(value):
        return {item.name: _json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<i4").tobytes())
    return digest.hexdigest()
