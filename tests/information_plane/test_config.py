"""Configuration of a run: validation, defaults, and the choices that the seed fixes."""

import json
import math
import re
from dataclasses import FrozenInstanceError, replace
from typing import get_args

import flax.linen as nn
import jax
import numpy as np
import pytest

from mine_jax import estimate
from mine_jax.classifier import ClassifierConfig
from mine_jax.estimate import Pair, competition
from mine_jax.information_plane import (
    NOISY_X_CONFIG,
    NOISY_Y_CONFIG,
    POSTER_CONFIG,
    ROUND_CONFIG,
    PlaneConfig,
    probe_rows,
    resolved,
    seed_keys,
    split_rows,
)
from mine_jax.information_plane.config import Noise
from mine_jax.mine import MineConfig, Samples

NETWORKS = ("mine", "noisy_x_mine", "noisy_y_mine")
ELEVEN_FOLDS = replace(ROUND_CONFIG, folds=11)
SMALL = PlaneConfig(probe_size=200, classifier=ClassifierConfig(batch_size=50))


def test_plane_config_out_of_range_names_every_value():
    with pytest.raises(ValueError, match="epochs") as error:
        PlaneConfig(epochs=-1, probe_every=0, layers=("a", "a"), probe_size=3, noise="both")
    for part in ("epochs", "-1", "probe_every", "layers", "'a', 'a'", "probe_size", "20", "'both'"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"noise_std": -1.0},
            'noise_std must be "auto" or a finite number .*got -1.0',
        ),
        ({"noise_std": math.nan}, "finite number .* got nan"),
        ({"noise_std": True}, "finite number .* got True"),
        ({"noise_std": "0.1"}, "finite number .* got '0.1'"),
        ({"noise": "unit"}, '"auto" goes with noise="layer"; give a number for \'unit\''),
        ({"noise": "absolute"}, 'goes with noise="layer"'),
        ({"noise": "relative", "noise_std": 0.5}, 'noise="relative" is called "unit" now'),
        ({"noise_std": 0, "deterministic": False}, "leaves no plane to measure"),
        ({"noise_std": 1e300}, r"at most 1e\+14.* got 1e\+300"),
        ({"noise_std": 1j}, "finite number .* got 1j"),
        ({"noise": np.array(["layer"])}, "noise must be one of"),
        *(
            ({name: value}, f"^{name} must be an integer .*got {re.escape(repr(value))}")
            for name in ("epochs", "probe_every", "probe_size", "seed", "num_seeds")
            for value in (-1, math.nan, math.inf, "9", None, True, 1e30, 10**30, [40])
        ),
        ({"warm_start": "no"}, "warm_start must be True or False, got 'no'"),
        ({"population": 1}, "population must be True or False, got 1"),
        ({"layers": "conv1"}, "layers must be a tuple .*got 'conv1'"),
        ({"layers": 3}, "layers must be a tuple .*got 3"),
        ({"layers": (3,)}, r"layers must be a tuple .*got \(3,\)"),
        ({"also": None}, "also must be a tuple .*got None"),
        ({"mine": "fast"}, "mine must be a MineConfig, got 'fast'"),
        ({"classifier": None}, "classifier must be a ClassifierConfig, got None"),
        ({"noise_std": 0, "also": ("bins",)}, "also needs observed layers"),
        (
            {"also": ("bins", "knn")},
            r"also must be a tuple of names out of .*'bins', 'kde'.*got .*'knn'",
        ),
        ({"noisy_y_mine": replace(NOISY_Y_CONFIG, cross_fit=True)}, "set cross_fit=False"),
        ({"mine": replace(ROUND_CONFIG, folds=4)}, "must have one folds, got {4, 5}"),
        (
            {"noisy_x_mine": replace(NOISY_X_CONFIG, validation_fraction=0.2)},
            "must have one validation_fraction",
        ),
        ({"noisy_x_mine": POSTER_CONFIG}, "must have the same preparation"),
    ],
)
def test_plane_config_values_that_do_not_fit_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        PlaneConfig(**changes)


def test_planes_are_those_with_something_to_measure():
    assert PlaneConfig().planes == ("observed", "deterministic")
    assert PlaneConfig(deterministic=False).planes == ("observed",)
    for noise in get_args(Noise):
        assert PlaneConfig(noise=noise, noise_std=0).planes == ("deterministic",)
        assert PlaneConfig(noise=noise, noise_std=0.5).planes == ("observed", "deterministic")


def test_noise_level_auto_leaves_a_nat_below_the_ceiling():
    for num_test, level in ((4000, 0.2618), (800, 0.2966)):
        auto = PlaneConfig().noise_level(num_test)
        assert auto == pytest.approx(level, abs=1e-4)
        # The Gaussian of the most entropy, with equal variances in infinitely many directions.
        assert 1 / (2 * auto**2) == pytest.approx(math.log(num_test) - 1)
    assert PlaneConfig(noise_std=0.5).noise_level(800) == 0.5
    with pytest.raises(ValueError, match="at least 8 test samples, got 7; increase probe_size"):
        PlaneConfig().noise_level(7)


def test_plane_config_seed_beyond_32_bits_raises():
    assert PlaneConfig(seed=(1 << 32) - 2, num_seeds=2).seeds[-1] == (1 << 32) - 1
    with pytest.raises(ValueError, match=r"at most 2\^32"):
        PlaneConfig(seed=(1 << 32) - 1, num_seeds=2)


def test_mine_config_is_that_of_the_plane_and_the_variable():
    config = PlaneConfig(mine=POSTER_CONFIG)
    for variable, noisy in (("x", NOISY_X_CONFIG), ("y", NOISY_Y_CONFIG)):
        assert config.mine_config("observed", variable) == noisy
        assert config.mine_config("deterministic", variable) == POSTER_CONFIG
    assert NOISY_X_CONFIG.normalize
    assert not NOISY_Y_CONFIG.normalize


def test_probe_epochs_include_epoch_0():
    assert PlaneConfig(epochs=9, probe_every=4).probe_epochs() == (0, 4, 8)


@pytest.mark.parametrize(("epochs", "probed"), [(0, (0,)), (3, (0,)), (4, (0, 4))])
def test_probe_epochs_of_a_short_run_are_those_of_a_longer_one(epochs, probed):
    assert PlaneConfig(epochs=epochs, probe_every=4).probe_epochs() == probed


def test_seed_keys_differ_by_seed_and_purpose():
    keys = [key for seed in (0, 1) for key in seed_keys(seed).values()]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 8


def test_probe_rows_are_a_random_choice_fixed_by_the_seed():
    rows = probe_rows(PlaneConfig(probe_size=50, seed=3), 100)
    assert len(set(rows.tolist())) == 50
    assert rows.max() > 60  # not the first rows
    # These very rows: a resumed run must find the probed images of its first part.
    np.testing.assert_array_equal(rows[:6], probe_rows(PlaneConfig(seed=3), 100)[:6])
    small = probe_rows(PlaneConfig(probe_size=20, seed=3), 30)
    np.testing.assert_array_equal(small[:8], [20, 28, 0, 4, 9, 7, 1, 16])
    assert not np.array_equal(probe_rows(PlaneConfig(seed=4), 30)[:8], small[:8])


def test_resolved_survives_json_and_holds_library_defaults():
    choices = resolved(SMALL, 300)
    assert json.loads(json.dumps(choices, allow_nan=False)) == choices
    assert choices["mine"]["max_steps"] == ROUND_CONFIG.max_steps
    assert choices["noise_level"] == SMALL.noise_level(40)  # test samples out of 200 probed images
    assert resolved(replace(SMALL, noise_std=0.5, noise="unit"), 300)["noise_level"] == 0.5
    assert resolved(replace(SMALL, noise_std=0), 300)["noise_level"] is None
    assert choices == resolved(replace(SMALL, mine=ROUND_CONFIG), 300)


def test_resolved_with_a_flax_module_is_json():
    config = replace(SMALL, mine=MineConfig(network=nn.Dense(3), cross_fit=False))
    assert "Dense" in json.loads(json.dumps(resolved(config, 300)))["mine"]["network"]


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"epochs": 3}, set()),
        ({"seed": 5}, {"seed", "probe_rows_sha256", "split_sha256"}),
        (
            {"probe_size": 150},
            {"probe_size", "noise_level", "probe_rows_sha256", "split_sha256"},
        ),
        (
            {name: replace(getattr(SMALL, name), folds=4) for name in NETWORKS},
            {*NETWORKS, "noise_level", "split_sha256"},
        ),
        ({"mine": replace(ROUND_CONFIG, patience=9)}, {"mine"}),
        ({"share_networks": False}, {"share_networks"}),
        ({"noise_std": 0.5}, {"noise_std", "noise_level"}),
        ({"noise_std": 0}, {"noise_std", "noise_level"}),
    ],
)
def test_resolved_changes_with_what_changes_the_numbers(change, changed):
    before, after = resolved(SMALL, 300), resolved(replace(SMALL, **change), 300)
    assert {name for name in before if before[name] != after[name]} == changed


def test_resolved_with_too_few_images_raises():
    with pytest.raises(ValueError, match="batch_size = 50 is more than the 49 training images"):
        resolved(SMALL, 49)
    few = replace(SMALL, probe_size=20, noise_std=0, **dict.fromkeys(NETWORKS, ELEVEN_FOLDS))
    with pytest.raises(ValueError, match=r"20 samples are too few.*increase probe_size"):
        resolved(few, 300)


def test_split_rows_are_those_of_the_estimates(monkeypatch):
    """Noise and references rest on the rows that the networks are fitted to and tested on."""
    config, used = replace(SMALL, seed=3), []

    def train_groups(groups, rows, *_):
        used.append(rows)
        return []

    monkeypatch.setattr(competition, "train_groups", train_groups)
    monkeypatch.setattr(competition, "report", lambda *_: {})
    samples = Samples(np.zeros((200, 2), np.float32))
    for plane, variable in (("observed", "x"), ("observed", "y"), ("deterministic", "x")):
        estimate.lower_bounds(
            {"pair": Pair(samples, samples)},
            key=seed_keys(3)["mine"],
            config=config.mine_config(plane, variable),
            round_number=len(used),
        )
    expected = split_rows(config, 200)
    assert [part.shape for part in expected] == [(1, 140), (1, 20), (1, 40)]
    assert len(set(np.concatenate(expected, axis=1)[0].tolist())) == 200
    for rows in used:
        for part, wanted in zip(rows, expected, strict=True):
            np.testing.assert_array_equal(part, wanted)


def test_configurations_are_hashed_by_their_values_and_do_not_change():
    config = PlaneConfig(epochs=7)
    assert {config: "found"}[PlaneConfig(epochs=7)] == "found"
    with pytest.raises(FrozenInstanceError):
        config.epochs = 8
