"""Configuration of the statistics networks: network, objective, training, samples."""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import numpy as np

from mine_jax.mine.bounds import BOUNDS
from mine_jax.mine.statistics_network import KINDS, CustomNetwork, StatisticsNetwork

NETWORKS = ("auto", "convolutional", *KINDS)
FORMS = ("auto", "donsker_varadhan", "infonce")
PREPARATIONS = ("auto", "standardized")
LABEL_MARGINALS = ("exact", "shuffled")
REPORTED_STATES = ("best", "last")
MAPPERS = ("auto", "vmap", "map")
# A concatenated network makes a pass for every pair of samples, a separable one for every sample.
DEFAULT_HIDDEN = {"separable": 128, "concatenated": 64}
DEFAULT_DEPTH = {"separable": 2, "concatenated": 3}  # sharp edges want one layer more

_CHOICES = {
    "bound": BOUNDS,
    "form": FORMS,
    "preparation": PREPARATIONS,
    "label_marginal": LABEL_MARGINALS,
    "reported_state": REPORTED_STATES,
    "mapper": MAPPERS,
}
_MINIMA = {
    "features": 1,
    "canonical_pairs": 0,
    "leading_pairs": 0,
    "batch_size": 2,
    "shuffles": 1,
    "check_every": 1,
    "patience": 1,
    "lr_drops": 0,
    "max_steps": 1,
    "folds": 2,
    "validation_shuffles": 1,
}
_RANGES = {
    "validation_fraction": (lambda value: 0 < value < 1, "in (0, 1)"),
    "learning_rate": (lambda value: 0 < value < math.inf, "positive"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "at least 0"),
    "min_improvement": (lambda value: 0 <= value < math.inf, "at least 0"),
    "partition_weight": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "ema_decay": (lambda value: 0 <= value < 1, "in [0, 1)"),
}


@dataclass(frozen=True)
class MineConfig:
    """How statistics networks are built, trained, stopped and evaluated. Hashable.

    >>> config = MineConfig(hidden=64, max_steps=500)
    >>> config.batch_size
    256
    >>> MineConfig(folds=1)
    Traceback (most recent call last):
    ValueError: folds must be an integer of at least 2, got 1

    Attributes:
      network: "separable", "concatenated" or "convolutional"; "auto" to choose by the shapes of the
        data (`estimate.choose_network`); or a Flax module, `module(x, z) -> (n,)`. Encoders compete
        in `lower_bound` with "auto" only; else `estimate.prepare` prepares the samples.
      bound: the training objective, one of `bounds.BOUNDS`.
      form: the form of the bound on test samples, "donsker_varadhan" or "infonce"; "auto" lets the
        validation samples choose.
      normalize: normalize the scores of each x over the training samples of z before they are
        evaluated: T(x, z) − ln(exp T(x, z) + Σ exp T(x, z_train)), a function of training samples
        alone, so that the bound stays one. Worth it where the value is close to the ceiling and
        training samples are many. It concerns values on validation and test samples of
        `lower_bound`; `mine.evaluate` has no training samples. Not for labels, whose marginal is
        summed exactly, and not for `bound="nwj"`, where the scale of T has a meaning.
      x_encoder: what gives the network the samples of x in `lower_bound`: "auto", the validation
        samples choose; the name of one that competes (`estimate.candidates`); "convolutional" for
        images, two convolutions that are trained with the network; or a Flax module, values (n, …)
        to (n, k), likewise trained. It gets images as (n, h, w, c).
      z_encoder: likewise for z. A name holds for both sides, unless one is labels.
      preparation: "auto" (`estimate.prepare`), or "standardized": columns of zero mean and unit
        variance. It concerns `lower_bound`.
      hidden: width of the hidden layers; None for `DEFAULT_HIDDEN` of the network.
      depth: number of hidden layers; None for `DEFAULT_DEPTH` of the network.
      features: length of a separable network's feature vectors.
      shared: both sides of a separable network share all layers but the last. Worth it where x and
        z are of one kind, such as two images: more samples for each weight. They must have the
        same shape. "auto" lets the validation samples of `lower_bound` choose.
      canonical_pairs: maximum number of canonical pairs of the Gaussian part; 0 for none.
      leading_pairs: largest number of leading canonical pairs that compete, alone, with all of them
        for the start; 0 for none.
      squares: give the encoders the squares of the columns, too.
      gaussian_start: set the Gaussian part in closed form from the training samples.
      batch_size: samples in a step; all training samples if there are fewer.
      shuffles: marginal pairs for each sample and step, for networks that are not separable; a
        separable one takes all pairs of the batch.
      label_marginal: "exact" sums over the classes of labels; "shuffled" pairs with the labels of
        other samples, as with any z.
      learning_rate: of Adam, at the start.
      weight_decay: per step and unit of the learning rate (decoupled).
      partition_weight: weight of a new batch in the moving average of the partition function, for
        `bound="mine"`.
      ema_decay: decay per step of the moving average of the weights. The averaged weights are
        evaluated, because their scores vary less between steps. 0 evaluates the weights themselves.
      check_every: steps between two evaluations on the validation samples.
      patience: checks without improvement before a learning-rate drop, or the end.
      min_improvement: smallest gain on the validation samples that counts, in nats.
      lr_drops: learning-rate drops, to a third each, before training ends; none for a network that
        did not improve on its start.
      max_steps: limit on the number of steps, rounded up to whole checks.
      reported_state: "best" on the validation samples, or "last".
      folds: number of equal parts of the samples, one of which is for testing.
      cross_fit: use each part for testing once, on networks that were trained without it.
      validation_fraction: fraction of the samples for validation.
      validation_shuffles: marginal pairs for each validation sample, for networks that are not
        separable.
      mapper: how one program runs a stack of networks: "vmap" all at once, "map" one after another,
        which skips those that have ended; "auto" for "map" on a CPU, whose devices share the
        networks, and "vmap" on accelerators and within `devices.use`.

    Raises:
      ValueError: naming every value that is out of its range.
    """

    network: str | nn.Module = "auto"
    bound: str = "infonce"
    form: str = "auto"
    normalize: bool = False
    x_encoder: str | nn.Module = "auto"
    z_encoder: str | nn.Module = "auto"
    preparation: str = "auto"
    hidden: int | None = None
    depth: int | None = None
    features: int = 32
    shared: bool | str = "auto"
    canonical_pairs: int = 128
    leading_pairs: int = 12
    squares: bool = True
    gaussian_start: bool = True
    batch_size: int = 256
    shuffles: int = 4
    label_marginal: str = "exact"
    learning_rate: float = 4e-3
    weight_decay: float = 0.5
    partition_weight: float = 0.01
    ema_decay: float = 0.99
    check_every: int = 50
    patience: int = 4
    min_improvement: float = 1e-3
    lr_drops: int = 1
    max_steps: int = 2000
    reported_state: str = "best"
    folds: int = 5
    cross_fit: bool = True
    validation_fraction: float = 0.1
    validation_shuffles: int = 64
    mapper: str = "auto"

    def __post_init__(self) -> None:
        problems = []
        optional = [name for name in ("hidden", "depth") if getattr(self, name) is not None]
        minima = _MINIMA | dict.fromkeys(optional, 1)
        for name, minimum in minima.items():
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not whole or value < minimum:
                problems.append(f"{name} must be an integer of at least {minimum}, got {value!r}")
        for name, (holds, wanted) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int | float | np.number) or not holds(value):
                problems.append(f"{name} must be {wanted}, got {getattr(self, name)!r}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                problems.append(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if not isinstance(self.network, nn.Module) and self.network not in NETWORKS:
            problems.append(
                f"network must be one of {NETWORKS} or a Flax module, got {self.network!r}"
            )
        for name in ("x_encoder", "z_encoder"):
            if not isinstance(getattr(self, name), str | nn.Module):
                problems.append(
                    f"{name} must be a name or a Flax module, got {getattr(self, name)!r}"
                )
        if not (isinstance(self.shared, bool) or self.shared == "auto"):
            problems.append(f'shared must be True, False or "auto", got {self.shared!r}')
        if self.shared is True and not self.separable:
            problems.append(f"shared needs a separable network, got network={self.network!r}")
        named = [name for name in ("x_encoder", "z_encoder") if getattr(self, name) != "auto"]
        if named and self.network not in ("auto", "separable"):
            problems.append(f"{named[0]} needs a separable network, got network={self.network!r}")
        for name in ("normalize", "squares", "gaussian_start", "cross_fit"):
            if not isinstance(getattr(self, name), bool):
                problems.append(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.normalize is True and self.bound == "nwj":
            problems.append('normalize must be False with bound="nwj", got True')
        if not problems and not 0 < self.validation_fraction < 1 - 1 / self.folds:
            problems.append(
                f"validation_fraction must be in (0, 1 - 1/folds) = (0, {1 - 1 / self.folds:.3g}), "
                f"got {self.validation_fraction!r}: training needs samples too"
            )
        if not problems and self.shuffles >= self.batch_size:
            problems.append(
                f"shuffles must be below batch_size = {self.batch_size}, got {self.shuffles}: "
                "a batch has no more shifts without fixed points"
            )
        if problems:
            raise ValueError("; ".join(problems))

    @classmethod
    def published(cls, *, corrected_gradient: bool = False, **overrides: Any) -> "MineConfig":
        """Return the configuration of MINE as published (Belghazi et al. 2018, algorithm 1).

        A perceptron on the concatenation of the standardized samples ascends the Donsker–Varadhan
        bound on one shuffle of the batch (labels too) by Adam, without weight decay, moving average
        of the weights or closed-form start. Training ends when the validation samples show no
        improvement; the last weights give the value on the test samples. The mini-batch value that
        the paper plots is in `Estimate.history`, the value on training samples in `train_nats`.

        Args:
          corrected_gradient: use the gradient corrected by a moving average (eq. 12).
          **overrides: other fields, such as `hidden`, `batch_size`, `max_steps`.

        Raises:
          ValueError: as the class.
        """
        if corrected_gradient and "bound" in overrides:
            raise ValueError(
                f'corrected_gradient means bound="mine"; got bound={overrides["bound"]!r}, too'
            )
        fields: dict[str, Any] = {
            "network": "concatenated",
            "bound": "mine" if corrected_gradient else "donsker_varadhan",
            "form": "donsker_varadhan",
            "preparation": "standardized",
            "hidden": 128,
            "depth": 2,
            "canonical_pairs": 0,
            "squares": False,
            "gaussian_start": False,
            "shuffles": 1,
            "label_marginal": "shuffled",
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "ema_decay": 0.0,
            "lr_drops": 0,
            "reported_state": "last",
            "cross_fit": False,
        }
        return cls(**fields | overrides)

    @property
    def separable(self) -> bool:
        """Whether all pairs of a batch cost one matrix product."""
        return not isinstance(self.network, nn.Module) and self.network != "concatenated"

    def module(self, clip: bool = True) -> nn.Module:
        """Return the statistics network of this configuration.

        Args:
          clip: limit the projections of the Gaussian part.
        """
        if isinstance(self.network, nn.Module):
            return CustomNetwork(self.network)
        kind = "separable" if self.separable else "concatenated"
        hidden = self.hidden or DEFAULT_HIDDEN[kind]
        depth = self.depth or DEFAULT_DEPTH[kind]
        shared = self.shared is True
        return StatisticsNetwork(kind, hidden, depth, self.features, self.squares, clip, shared)
