"""`Estimate`: a lower bound on a mutual information, its standard error, ceiling and warnings."""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import numpy as np

from mine_jax.mine import CEILING_MARGIN, FitInfo, HeldOut, MineConfig, MineState
from mine_jax.mine.bounds import Array
from mine_jax.mine.evaluation import uses_infonce

MIN_VALIDATION_SAMPLES = 20  # below, the choice that they make is chance
# Influence of one test sample on the value from which on it is reported: nats, and standard errors.
# A pair that decides alone makes up 0.58 of them for either sample (with the second order).
MAX_INFLUENCE_NATS, MAX_INFLUENCE_STDERR = 0.1, 0.45
MIN_GROUPS = 10  # of test rows; the spread of fewer is a rough measure
WIDE_NATS, WIDE_SHARE = 0.1, 0.1  # a standard error is wide beyond both, the share of the value
# Warnings name the number of samples for this standard error, and for a ceiling that is far enough
# above a value of so much more than the one that is limited.
NARROW_NATS, HIGHER_NATS = 0.05, 0.5
ZERO_NATS = 1e-3  # below, a value and the influences of its samples are those of T = 0


class History(NamedTuple):
    """How a fit went; checks on the first axis of each entry, folds on the second.

    Attributes:
      steps: number of steps at each check, (checks,).
      batch_nats: mean objective of the training batches since the last check, in nats.
      validation_nats: bound on the validation samples, in nats.
    """

    steps: np.ndarray
    batch_nats: np.ndarray
    validation_nats: np.ndarray


@flax.struct.dataclass
class Estimate:
    """A lower bound on a mutual information, and how far it can be trusted.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(1000, 1))
    >>> quick = MineConfig(network="separable", cross_fit=False)
    >>> estimate = lower_bound(x, x > 0, config=quick)
    >>> print(f"{estimate.nats:.1f} ± {estimate.stderr:.1f} nats")
    0.7 ± 0.0 nats
    >>> estimate.warnings
    ()

    | warning | cause | remedy |
    |---|---|---|
    | The value is … | scores on the test samples are not finite | lower learning rate, own module |
    | A network diverged | a validation value was not finite | lower learning rate |
    | Not converged | `max_steps` came before the end of improvement | more steps |
    | Only … validation samples | fewer than `MIN_VALIDATION_SAMPLES` | more samples |
    | The networks are not told from T = 0 | independence, or too few samples | more samples |
    | Near the ceiling | the value is less than a nat below `ceiling_nats` | more samples |
    | The standard error … | it is above 0.1 nats and a tenth of the value | more samples |
    | One test sample lowers … | a single pair decides the value | more samples |
    | Over-fitted | the value on training samples is far higher | more samples |
    | Only … groups | groups or blocks of test samples are few | more of them |
    | Groups of unequal size | parts of one size leave out most rows | smaller groups, other folds |
    | … rows are copies | rows agree in x and z, which is no chance | remove them |
    | Neighboring rows are alike | a series, or sorted rows | `blocks`, `groups`, or shuffle rows |
    | … is reduced to components | the encoder loses over a tenth of the variance | fewer columns |
    | The columns seem to be pixels | images without their shape | reshape to (n, h, w, c) |

    Attributes:
      nats: the bound on test samples, which neither the training nor the choices of the network
        used; with several folds the mean over them. Never above `ceiling_nats`. A fold counts 0
        where the validation samples do not tell its network from T = 0.
      stderr: its standard error, in nats: the spread of samples, or of groups of them, not what the
        network missed. Folds that count 0 add none.
      validation_nats: the value on the validation samples, which chose the state.
      validation_stderr: its standard error.
      train_nats: the value on as many training samples (over `validation_shuffles` for networks
        that are not separable); far above `nats` it means over-fitting.
        In the InfoNCE form where scores are normalized over training samples.
      ceiling_nats: ln of the number of test samples of a fold, the largest value that they can
        support (McAllester and Stratos 2020).
      steps: number of steps until training ended (of the slowest fold).
      converged: training ended because the validation samples showed no improvement.
      history: values at each check.
      state: the networks, folds on the first axis, to warm-start from (`init=`); by encoder where
        folds chose different ones. As trained, where T = 0 gave the value, too.
      warnings: sentences on why not to trust the value.
      influence: influence of each test sample on the value, (folds, r), see `bounds.HeldOut`.
      form: "donsker_varadhan", "infonce" or "nwj": the bound whose value this is, chosen on the
        validation samples ("mixed" if folds differ).
      encoders: what prepared the samples of each fold, chosen on its validation samples.
    """

    nats: float
    stderr: float
    validation_nats: float
    validation_stderr: float
    train_nats: float
    ceiling_nats: float
    steps: int
    converged: bool
    history: History
    state: MineState | Mapping[str, MineState]
    warnings: tuple[str, ...] = flax.struct.field(pytree_node=False)
    influence: np.ndarray
    form: str = flax.struct.field(pytree_node=False, default="donsker_varadhan")
    encoders: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())

    def __float__(self) -> float:
        """Return the value in nats."""
        return float(self.nats)


def make_estimate(
    test: tuple[HeldOut, HeldOut],
    validation: tuple[HeldOut, HeldOut],
    train: tuple[np.ndarray, np.ndarray],
    info: FitInfo,
    state: MineState | Mapping[str, MineState],
    config: MineConfig,
    groups: np.ndarray | None = None,
    validation_groups: np.ndarray | None = None,
) -> Estimate:
    """Build the estimate of one pair of variables from the networks of its folds.

    A fold whose value on the validation samples is no more than a standard error reports T = 0,
    whose value is 0: of many states and encoders one always seems better than nothing (the rule of
    one standard error, Breiman et al. 1984, section 3.4.3). With `reported_state="last"` no state
    is chosen, and none is replaced.

    Args:
      test: values on test samples in both forms, folds in front.
      validation: likewise on validation samples.
      train: values alone on training samples, (folds,), in both forms.
      info: the report of the fit, folds on the last axis.
      state: the networks, folds on the first axis.
      config: the configuration.
      groups: group of each test sample, (folds, r), integers; None if samples are independent.
      validation_groups: likewise of each validation sample, (folds, s).
    """
    num_test, num_validation = (forms[0].influence.shape[-1] for forms in (test, validation))
    infonce = uses_infonce(validation[0].nats, validation[1].nats, num_test, config)

    def in_form(first: Array, second: Array) -> np.ndarray:
        return np.where(infonce.reshape(-1, *[1] * (first.ndim - 1)), second, first)

    def mean_over_folds(held_out: HeldOut) -> tuple[float, float]:
        stderr = float(np.sqrt(np.sum(held_out.stderr**2)) / len(held_out.stderr))
        return float(held_out.nats.mean()), stderr

    test_values, validation_values = (
        HeldOut(*map(in_form, *forms)) for forms in (test, validation)
    )
    if validation_groups is not None:
        of_folds = [
            grouped_stderr(HeldOut(*(leaf[[fold]] for leaf in validation_values)), codes[None])
            for fold, codes in enumerate(validation_groups)
        ]
        # A single group has no spread.
        stderrs = np.fmax(of_folds, validation_values.stderr)
        validation_values = validation_values._replace(stderr=stderrs)
    train_values = in_form(*train)
    if config.reported_state == "best":
        learned = ~(validation_values.nats <= validation_values.stderr)  # True for nan
        test_values, validation_values = (
            HeldOut(*(np.where(learned.reshape(-1, *[1] * (a.ndim - 1)), a, 0) for a in values))
            for values in (test_values, validation_values)
        )
        train_values = np.where(learned, train_values, 0)
    raw, stderr = mean_over_folds(test_values)
    if groups is not None:
        stderr = grouped_stderr(test_values, groups)
    validation_nats, validation_stderr = mean_over_folds(validation_values)
    ceiling = math.log(num_test)
    # InfoNCE stays below where the other form, which is not trusted there, says more.
    beyond = np.mean(~(validation[0].nats <= ceiling - CEILING_MARGIN)) >= 0.5
    forms = {"infonce" if fold else "donsker_varadhan" for fold in infonce}
    estimate = Estimate(
        nats=min(raw, ceiling) if math.isfinite(raw) else raw,
        stderr=stderr,
        validation_nats=validation_nats,
        validation_stderr=validation_stderr,
        train_nats=float(train_values.mean()),
        ceiling_nats=ceiling,
        steps=int(info.steps.max()),
        converged=bool(info.converged.all() and info.finite.all()),
        history=History(info.steps_at, info.batch_nats, info.validation_nats),
        state=state,
        warnings=(),
        influence=np.asarray(test_values.influence),
        form="nwj" if config.bound == "nwj" else forms.pop() if len(forms) == 1 else "mixed",
    )
    near_ceiling = bool(beyond and config.form == "auto") or (
        raw + 2 * min(stderr, CEILING_MARGIN) > ceiling - CEILING_MARGIN or stderr == math.inf
    )
    finite, moved = bool(info.finite.all()), bool(np.any(info.best_step > 0))
    warnings = _warnings(
        *(estimate, raw, near_ceiling, finite, moved, num_test, num_validation, config)
    )
    if groups is not None and (num_groups := len(np.unique(groups))) < MIN_GROUPS:
        warnings.append(
            f"Only {num_groups} groups or blocks of test samples, whose spread is the standard "
            "error; use more."
        )
    return dataclasses.replace(estimate, warnings=tuple(warnings))


def _warnings(
    estimate: Estimate,
    raw: float,
    near_ceiling: bool,
    finite: bool,
    moved: bool,
    num_test: int,
    num_validation: int,
    config: MineConfig,
) -> list[str]:
    """Return a sentence for each reason not to trust the value."""
    nats, stderr, train_nats = estimate.nats, estimate.stderr, estimate.train_nats
    # At the ceiling all samples have the same influence, too.
    spread = np.ptp(estimate.influence, axis=-1)
    nothing = abs(raw) < ZERO_NATS and bool(np.all(spread < ZERO_NATS))
    modules = [
        f"{name}, {type(module).__name__}, returns finite values"
        for name in ("network", "x_encoder", "z_encoder")
        if isinstance(module := getattr(config, name), nn.Module)
    ]
    remedy = " and ".join(["lower the learning rate", *(f"check that {each}" for each in modules)])
    warnings = []
    if not math.isfinite(nats):
        warnings.append(
            f"The value is {nats}: scores on the test samples are not finite; {remedy}."
        )
    if not finite:
        warnings.append(f"A network diverged and an earlier state is reported; {remedy}.")
    if finite and not estimate.converged and (moved or not nothing):
        warnings.append(
            f"Not converged: training reached the limit of {config.max_steps} steps; the value may "
            "grow with a larger max_steps."
        )
    if num_validation < MIN_VALIDATION_SAMPLES:
        warnings.append(
            f"Only {num_validation} validation samples chose the state; use more samples."
        )
    if nothing:
        warnings.append(
            "The validation samples do not tell the networks from T = 0: X and Z may be "
            "independent, or more samples are needed to learn the dependence."
        )
    if near_ceiling:
        value = nats if math.isfinite(nats) else estimate.ceiling_nats
        value = max(value, estimate.ceiling_nats - CEILING_MARGIN) + HIGHER_NATS
        needed = config.folds * math.exp(value + CEILING_MARGIN)
        warnings.append(
            f"Near the ceiling of {estimate.ceiling_nats:.2f} nats, the largest value that "
            f"{num_test} test samples can support; the mutual information may be far higher: use "
            f"more samples, at least about {_about(needed)}."
        )
    if math.isfinite(stderr) and stderr > max(WIDE_NATS, WIDE_SHARE * abs(nats)):
        needed = config.folds * num_test * (stderr / NARROW_NATS) ** 2
        warnings.append(
            f"The standard error of {stderr:.2f} nats is wide; about {_about(needed)} samples "
            f"would make it {NARROW_NATS}."
        )
    if drop := max_drop(estimate.influence, stderr):
        warnings.append(
            f"One test sample lowers the estimate by at least {drop:.2f} nats, so the estimate is "
            "unreliable and likely too low; use more samples."
        )
    if train_nats - nats > max(0.1, 0.2 * nats) + 3 * stderr:
        warnings.append(
            f"Over-fitted: {train_nats:.2f} nats on training samples; use more samples."
        )
    return warnings


def _about(number: float) -> str:
    """Return a number with two significant digits."""
    return f"{int(float(f'{number:.1e}')):,}"


def grouped_stderr(test: HeldOut, groups: np.ndarray) -> float:
    """Compute the standard error of the mean over folds for samples that depend within groups.

    The influence of a group is the sum of its samples' influences (Liang and Zeger 1986, with the
    factor g / (g − 1) for g groups). That of the folds' own values is in it, so that folds of one
    group count, too. What `HeldOut.stderr` has beyond the influences is added as it is.

    Args:
      test: values, standard errors, and influences, folds in front.
      groups: group of each sample, (folds, r); no group is in two folds.

    Returns:
      Nats; NaN for a single group.
    """
    nats, stderr, influence = (np.asarray(each, np.float64) for each in test)
    folds, size = influence.shape
    # The constant of T shifts the influences of a fold alike.
    centered = influence - influence.mean(axis=1, keepdims=True) + (nats - nats.mean())[:, None]
    codes = np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(codes.ravel(), centered.ravel())
    if len(sums) < 2:
        return math.nan
    first = np.sum(sums**2) * len(sums) / (len(sums) - 1) / influence.size**2
    second = np.maximum(stderr**2 - influence.var(axis=1, ddof=1) / size, 0)
    return float(np.sqrt(first + np.sum(second) / folds**2))


def max_drop(influence: np.ndarray, stderr: float) -> float:
    """Return by how many nats one test sample lowers the value; 0 if by no more than usual.

    Args:
      influence: (folds, r).
      stderr: standard error of the value.
    """
    # The constant of T shifts all of them alike.
    centered = influence - influence.mean(axis=-1, keepdims=True)
    largest = -float(centered.min()) / influence.size
    return largest if largest > max(MAX_INFLUENCE_NATS, MAX_INFLUENCE_STDERR * stderr) else 0.0
