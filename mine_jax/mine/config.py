"""Configuration of the statistics networks: network, objective, training, samples."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from mine_jax.mine.bounds import BOUNDS
from mine_jax.mine.statistics_network import KINDS, CustomNetwork, StatisticsNetwork
from mine_jax.value_checks import (
    LARGEST,
    flag_problems,
    integer_problems,
    is_choice,
    is_in_float32,
)

NETWORKS = ("auto", "convolutional", *KINDS)
FORMS = ("auto", "donsker_varadhan", "infonce")
PREPARATIONS = ("auto", "standardized")
LABEL_MARGINALS = ("exact", "shuffled")
REPORTED_STATES = ("best", "last")
MAPPERS = ("auto", "vmap", "map")
# Names of what `estimate.candidates` prepares samples with, and what is trained with the network.
ENCODERS = (
    *("auto", "convolutional", "moments", "components", "patches", "eigenmaps"),
    *("ranks", "standardized", "both", "canonical", "numbers", "labels"),
)
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
_WIDEST, _DEEPEST = 1 << 16, 100  # beyond, a network takes all memory, or compiles for hours
_LIMITS = {
    "features": (1, _WIDEST),
    "canonical_pairs": (0, LARGEST),
    "leading_pairs": (0, LARGEST),
    "batch_size": (2, LARGEST),
    "shuffles": (1, _WIDEST),
    "check_every": (1, 100_000),  # steps that nothing can end
    "patience": (1, LARGEST),
    "lr_drops": (0, LARGEST),
    "max_steps": (1, LARGEST),
    "folds": (2, LARGEST),
    "validation_shuffles": (1, _WIDEST),
}
_OPTIONAL = {"hidden": (1, _WIDEST), "depth": (1, _DEEPEST)}
_RANGES = {
    "validation_fraction": (lambda value: 0 < value < 1, "in (0, 1)"),
    "learning_rate": (lambda value: value > 0, "positive"),
    "weight_decay": (lambda value: value >= 0, "at least 0"),
    "min_improvement": (lambda value: value >= 0, "at least 0"),
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
        given = {name: of for name, of in _OPTIONAL.items() if getattr(self, name) is not None}
        problems = integer_problems(self, given | _LIMITS)
        for name, (holds, wanted) in _RANGES.items():
            value = getattr(self, name)
            if not is_in_float32(value) or not holds(value):
                problems.append(f"{name} must be {wanted} and fit into float32, got {value!r}")
        for name, choices in _CHOICES.items():
            if not is_choice(getattr(self, name), choices):
                problems.append(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if not isinstance(self.network, nn.Module) and not is_choice(self.network, NETWORKS):
            problems.append(
                f"network must be one of {NETWORKS} or a Flax module, got {self.network!r}"
            )
        for name in ("x_encoder", "z_encoder"):
            encoder = getattr(self, name)
            if not isinstance(encoder, nn.Module) and not is_choice(encoder, ENCODERS):
                problems.append(
                    f"{name} must be one of {ENCODERS} or a Flax module, got {encoder!r}"
                )
        if not isinstance(self.shared, bool) and not is_choice(self.shared, ("auto",)):
            problems.append(f'shared must be True, False or "auto", got {self.shared!r}')
        if self.shared is True and not self.separable:
            problems.append(f"shared needs a separable network, got network={self.network!r}")
        named = [
            name
            for name in ("x_encoder", "z_encoder")
            if not is_choice(getattr(self, name), ["auto"])
        ]
        if not problems and named and self.network not in ("auto", "separable"):
            problems.append(f"{named[0]} needs a separable network, got network={self.network!r}")
        if not problems and named and self.preparation != "auto":
            problems.append(f'{named[0]} needs preparation="auto", got {self.preparation!r}')
        trained = [each for each in named if isinstance(getattr(self, each), nn.Module)]
        if not problems and trained and self.shared is True and self.x_encoder != self.z_encoder:
            problems.append(
                f"shared=True is one encoder for both sides: with {trained[0]}, a Flax module, "
                "x_encoder and z_encoder must be equal"
            )
        problems += flag_problems(self, ("normalize", "squares", "gaussian_start", "cross_fit"))
        if not problems and self.normalize and self.bound == "nwj":
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
        # Copies: one module given for both sides has weights of its own on each.
        modules = (
            encoder.clone() if isinstance(encoder, nn.Module) else None
            for encoder in (self.x_encoder, self.z_encoder)
        )
        sizes = hidden, depth, self.features
        return StatisticsNetwork(kind, *sizes, self.squares, clip, shared, *modules)
