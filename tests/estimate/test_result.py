"""Tests of `make_estimate` on constructed values: forms, ceiling, errors, warnings."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

from mine_jax.estimate.result import (
    MAX_INFLUENCE_NATS,
    MAX_INFLUENCE_STDERR,
    MIN_GROUPS,
    grouped_stderr,
    make_estimate,
    max_drop,
)
from mine_jax.mine import FitInfo, HeldOut, MineConfig

NUM_TEST = 100
CEILING = math.log(NUM_TEST)
# A sample that lowers the value of two folds by more than the limit in nats and in errors.
ONE_SAMPLE = np.zeros((2, NUM_TEST))
ONE_SAMPLE[1, 3] = -40.0


def held_out(nats, stderr=0.05, influence=None, size=NUM_TEST):
    """Values of two folds; influences are spread a little."""
    nats = np.broadcast_to(np.asarray(nats, float), 2)
    if influence is None:
        influence = np.random.default_rng(0).normal(0, 0.1, (2, size))
    return HeldOut(nats, np.broadcast_to(stderr, 2), np.asarray(influence))


def make(
    *,
    nats=1.0,
    infonce=0.9,
    validation=1.0,
    validation_infonce=0.9,
    train=1.0,
    stderr=0.05,
    influence=None,
    num_validation=50,
    validation_influence=None,
    converged=(True, True),
    finite=(True, True),
    best_step=(50, 100),
    groups=None,
    validation_groups=None,
    **config,
):
    """Make an estimate of two folds."""
    info = FitInfo(
        steps_at=np.array([0, 50, 100]),
        batch_nats=np.zeros((3, 2)),
        validation_nats=np.ones((3, 2)),
        best_step=np.array(best_step),
        steps=np.array([100, 50]),
        converged=np.array(converged),
        finite=np.array(finite),
    )
    return make_estimate(
        (held_out(nats, stderr, influence), held_out(infonce, 2 * np.asarray(stderr), influence)),
        (
            held_out(validation, influence=validation_influence, size=num_validation),
            held_out(validation_infonce, size=num_validation),
        ),
        (np.broadcast_to(train, 2), np.full(2, 0.7)),
        info,
        "state",
        MineConfig(**config),
        groups,
        validation_groups,
    )


def test_make_estimate_averages_folds_and_has_no_warning():
    estimate = make(nats=[1.0, 1.4], stderr=[0.03, 0.04], train=[1.2, 1.4])
    assert float(estimate) == estimate.nats == pytest.approx(1.2)
    assert estimate.stderr == pytest.approx(math.hypot(0.03, 0.04) / 2)
    assert estimate.validation_nats == pytest.approx(1.0)
    assert estimate.validation_stderr == pytest.approx(0.05 / math.sqrt(2))
    assert estimate.train_nats == pytest.approx(1.3)
    assert estimate.ceiling_nats == CEILING
    assert (estimate.steps, estimate.converged, estimate.form) == (100, True, "donsker_varadhan")
    assert estimate.warnings == ()


def test_make_estimate_form_follows_validation_of_each_fold():
    mixed = make(nats=[1.0, 2.0], infonce=[0.5, 0.8], validation_infonce=[0.9, 1.1], train=1.1)
    assert mixed.form == "mixed"
    assert mixed.nats == pytest.approx((1.0 + 0.8) / 2)
    assert mixed.train_nats == pytest.approx((1.1 + 0.7) / 2)
    assert mixed.stderr == pytest.approx(math.hypot(0.05, 0.1) / 2)
    # Near the ceiling Donsker–Varadhan is not trusted.
    near = make(validation=CEILING - 0.9)
    assert (near.form, near.nats) == ("infonce", pytest.approx(0.9))
    assert make(validation_infonce=1.1).form == "infonce"
    assert make(form="infonce").nats == pytest.approx(0.9)
    assert make(validation_infonce=1.1, form="donsker_varadhan").nats == pytest.approx(1.0)
    assert make(bound="nwj").form == "nwj"


def test_make_estimate_reports_zero_for_folds_that_validation_does_not_tell_from_zero():
    doubtful = {"validation": [0.04, 0.06], "validation_infonce": 0.0}  # errors of 0.05
    estimate = make(nats=[-0.3, 0.2], stderr=[0.2, 0.04], train=[0.8, 0.4], **doubtful)
    assert estimate.nats == pytest.approx(0.1)
    assert estimate.stderr == pytest.approx(0.02)
    assert estimate.validation_nats == pytest.approx(0.03)
    assert estimate.validation_stderr == pytest.approx(0.025)
    assert estimate.train_nats == pytest.approx(0.2)
    assert not estimate.influence[0].any()
    assert estimate.influence[1].all()
    grouped = make(nats=[-0.3, 0.2], groups=np.arange(200).reshape(2, 100) // 5, **doubtful)
    assert grouped.nats == pytest.approx(0.1)
    assert grouped.stderr < 0.2  # the spread of the folds' values, 0 and 0.2
    # The error of samples in groups of ten alike is larger.
    alike = np.random.default_rng(1).normal(0, 0.3, (2, 5)).repeat(10, axis=1)
    codes = np.arange(100).reshape(2, 50) // 10
    near = {"validation": 0.055, "validation_infonce": 0.0, "validation_influence": alike}
    assert make(**near).nats == pytest.approx(1.0)
    assert make(**near, validation_groups=codes).nats == 0
    one_group = make(validation_groups=np.zeros((2, 50), int))
    assert one_group.nats == pytest.approx(1.0)
    # A state that was not chosen is not replaced; nor one without a value.
    last = make(nats=[-0.3, 0.2], reported_state="last", **doubtful)
    assert last.nats == pytest.approx(-0.05)
    nothing = {"infonce": np.nan, "validation": np.nan, "validation_infonce": np.nan}
    assert math.isnan(make(nats=np.nan, **nothing).nats)


def test_make_estimate_value_above_ceiling_is_capped():
    estimate = make(nats=CEILING + 1, train=CEILING)
    assert estimate.nats == estimate.ceiling_nats


AT_CEILING = "Near the ceiling of 4.61 nats, .* 100 test samples"


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({"nats": [np.nan, 1.0]}, ["The value is nan"]),
        ({"finite": (True, False)}, ["A network diverged"]),
        ({"finite": (True, False), "converged": (True, False)}, ["A network diverged"]),
        ({"converged": (True, False), "max_steps": 77}, ["Not converged.*limit of 77 steps"]),
        ({"num_validation": 19}, ["Only 19 validation samples"]),
        ({"num_validation": 20}, []),
        (
            {"nats": 0.0, "train": 0.0, "influence": np.zeros((2, 100))},
            ["do not tell the networks from T = 0"],
        ),
        (
            {"nats": 0.0, "train": 0, "influence": np.ones((2, 100)), "converged": (False, False)},
            ["Not converged", "do not tell the networks from T = 0"],
        ),
        (
            {"nats": 0.3, "train": 0.3, "validation": 0.04, "validation_infonce": 0.0}
            | {"best_step": (0, 0), "converged": (False, False)},
            ["do not tell the networks from T = 0"],
        ),
        ({"nats": 0.0, "train": 0.0}, []),  # the influences tell that T is not constant
        ({"nats": CEILING, "train": 4, "influence": np.zeros((2, 100))}, [AT_CEILING]),
        ({"nats": CEILING - 1.05, "train": 3}, [AT_CEILING]),  # less than 2 standard errors below
        ({"nats": CEILING - 1.1, "train": 3}, []),
        ({"validation": [CEILING - 0.9, 1.0]}, [AT_CEILING]),
        ({"validation": [CEILING - 1.1, 1.0]}, []),
        ({"validation": CEILING - 0.9, "form": "donsker_varadhan"}, []),
        ({"influence": ONE_SAMPLE}, ["One test sample lowers the estimate by at least 0.20 nats"]),
        ({"stderr": 0.16}, ["standard error of 0.11 nats is wide; about 2,600 samples"]),
        ({"stderr": 0.15, "nats": 1.1, "train": 1.1}, []),  # not beside the value
        ({"stderr": 0.13, "nats": 0.1, "train": 0.1}, []),  # not in nats
        ({"stderr": np.inf}, [AT_CEILING]),
        ({"train": 1.32}, ["Over-fitted: 1.32 nats on training samples"]),
        ({"train": 1.29}, []),
        ({"nats": 0.1, "train": 0.22}, []),
        ({"nats": 0.1, "train": 0.32}, ["Over-fitted"]),
    ],
)
def test_make_estimate_warns_under_its_conditions_only(changes, warnings):
    found = make(**changes).warnings
    assert len(found) == len(warnings), found
    for text, expected in zip(found, warnings, strict=True):
        assert re.search(expected, text), text


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        # At the ceiling a nat and a half more is needed, for the default of five folds.
        ({"nats": CEILING + 1, "train": 5}, "2,200"),  # 500 e^1.5 = 2,241
        ({"nats": CEILING, "train": 5, "folds": 50}, "22,000"),
        ({"nats": CEILING - 0.5, "train": 4}, "1,400"),  # 500 e
        # The other form says that the value is beyond, whatever it is itself.
        ({"validation": CEILING - 0.9}, "820"),  # 500 e^0.5 = 824
        ({"validation": np.nan, "infonce": np.nan}, "2,200"),
        ({"validation": np.inf, "infonce": np.inf}, "2,200"),
    ],
)
def test_make_estimate_near_ceiling_tells_how_many_samples_to_use(changes, number):
    (text,) = [text for text in make(**changes).warnings if text.startswith("Near the ceiling")]
    assert text.endswith(f"use more samples, at least about {number}.")


def test_max_drop_limits_are_nats_and_standard_errors():
    influence = ONE_SAMPLE + 100  # the constant of T shifts all alike
    drop = (40 - 40 / NUM_TEST) / influence.size
    assert max_drop(influence, stderr=0.0) == pytest.approx(drop)
    assert max_drop(influence, stderr=0.99 * drop / MAX_INFLUENCE_STDERR) == pytest.approx(drop)
    assert max_drop(influence, stderr=1.01 * drop / MAX_INFLUENCE_STDERR) == 0
    assert max_drop(-ONE_SAMPLE, stderr=0.0) == 0  # it raises the value
    for factor, expected in ((1.01, MAX_INFLUENCE_NATS), (0.99, 0)):
        scale = factor * MAX_INFLUENCE_NATS / drop
        assert max_drop(scale * ONE_SAMPLE, stderr=0.0) == pytest.approx(expected, rel=0.02)


# --- Groups ---------------------------------------------------------------------------------------


def test_make_estimate_with_groups_has_their_standard_error():
    influence = np.random.default_rng(0).normal(0, 0.1, (2, NUM_TEST))
    stderr = 0.1 / math.sqrt(NUM_TEST)
    alone = np.arange(2 * NUM_TEST).reshape(2, NUM_TEST)
    plain, grouped, tenfold = (
        make(nats=[1.0, 1.01], influence=each, stderr=stderr, groups=groups)
        for each, groups in (
            (influence, None),
            (influence, alone),
            (np.repeat(influence[:, :10], 10, axis=1), alone // 10),
        )
    )
    assert grouped.stderr == pytest.approx(plain.stderr, rel=0.2)
    assert tenfold.stderr == pytest.approx(math.sqrt(10) * plain.stderr, rel=0.4)
    assert tenfold.nats == grouped.nats == plain.nats
    assert tenfold.warnings == grouped.warnings == ()


@pytest.mark.parametrize("number", [1, MIN_GROUPS - 1, MIN_GROUPS])
def test_make_estimate_warns_of_few_groups(number):
    estimate = make(groups=np.arange(2 * NUM_TEST).reshape(2, NUM_TEST) * number // (2 * NUM_TEST))
    found = [text for text in estimate.warnings if f"Only {number} groups or blocks" in text]
    assert len(found) == (number < MIN_GROUPS)
    assert math.isnan(estimate.stderr) == (number == 1)


def test_grouped_stderr_of_single_samples_is_the_plain_one():
    influence = np.random.default_rng(0).normal(size=(1, 50)) + 7
    plain = influence.std(ddof=1) / math.sqrt(50)
    groups = np.arange(50)[None]
    for extra in (0.0, 0.2):  # what the pairs of samples add, to second order
        value = HeldOut(np.ones(1), np.hypot(plain, extra)[None], influence)
        assert grouped_stderr(value, groups) == pytest.approx(math.hypot(plain, extra))


@pytest.mark.parametrize("sizes", [[10] * 40, [1] * 60 + [4] * 30 + [20] * 11])
@pytest.mark.parametrize("constant", [0.0, 5.0])  # of T, another in each fold
def test_grouped_stderr_is_the_spread_over_data_sets(sizes, constant):
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    codes = np.stack([codes, codes + len(sizes)])  # two folds
    means, errors, plain = [], [], []
    for _ in range(1000):
        influence = rng.normal(size=2 * len(sizes))[codes] + 0.5 * rng.normal(size=codes.shape)
        nats = influence.mean(axis=1)
        stderr = influence.std(axis=1, ddof=1) / math.sqrt(codes.shape[1])
        shifted = influence + constant * rng.normal(size=(2, 1))
        means.append(nats.mean())
        errors.append(grouped_stderr(HeldOut(nats, stderr, shifted), codes))
        plain.append(math.hypot(*stderr) / 2)
    spread = np.std(means)
    # The spread of 1,000 means is known to 2 %; few groups give a little less.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.08)
    assert np.mean(plain) < 0.5 * spread


def test_grouped_stderr_of_folds_with_one_group_is_the_spread_of_their_values():
    nats = np.random.default_rng(0).normal(size=5)
    value = HeldOut(nats, np.zeros(5), np.random.default_rng(1).normal(size=(5, 30)))
    groups = np.repeat(np.arange(5)[:, None], 30, axis=1)
    assert grouped_stderr(value, groups) == pytest.approx(nats.std(ddof=1) / math.sqrt(5))


def test_estimate_is_frozen_pytree():
    estimate = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.nats = 1.0
    leaves, tree = jax.tree.flatten(estimate)
    again = jax.tree.unflatten(
        tree, [2 * leaf if isinstance(leaf, float) else leaf for leaf in leaves]
    )
    assert again.nats == 2 * estimate.nats
    assert (again.warnings, again.form) == (estimate.warnings, estimate.form)
