"""Configuration of a run: validation, defaults, and the choices that the seed fixes."""

import json
import math
from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np
import pytest

from mine_jax.classifier import ClassifierConfig
from mine_jax.information_plane import (
    NOISY_ROUND_CONFIG,
    POSTER_CONFIG,
    ROUND_CONFIG,
    PlaneConfig,
    probe_rows,
    resolved,
    seed_keys,
)
from mine_jax.mine import MineConfig

SMALL = PlaneConfig(probe_size=200, classifier=ClassifierConfig(batch_size=50))


def test_plane_config_out_of_range_names_every_value():
    with pytest.raises(ValueError, match="epochs") as error:
        PlaneConfig(epochs=-1, probe_every=0, layers=("a", "a"), probe_size=3, noise="both")
    for part in ("epochs", "-1", "probe_every", "layers", "'a', 'a'", "probe_size", "20", "'both'"):
        assert part in str(error.value)


@pytest.mark.parametrize("noise_std", [-1.0, math.nan, math.inf])
def test_plane_config_noise_std_not_finite_or_negative_raises(noise_std):
    with pytest.raises(ValueError, match="noise_std must be at least 0 and finite"):
        PlaneConfig(noise_std=noise_std)


def test_plane_config_seed_beyond_32_bits_raises():
    assert PlaneConfig(seed=(1 << 32) - 2, num_seeds=2).seeds[-1] == (1 << 32) - 1
    with pytest.raises(ValueError, match=r"at most 2\^32"):
        PlaneConfig(seed=(1 << 32) - 1, num_seeds=2)


def test_mine_config_default_depends_on_noise_and_explicit_one_wins():
    assert PlaneConfig().mine_config == ROUND_CONFIG
    assert PlaneConfig(noise_std=1).mine_config == NOISY_ROUND_CONFIG
    assert PlaneConfig(noise_std=1, mine=POSTER_CONFIG).mine_config == POSTER_CONFIG
    assert PlaneConfig(mine=POSTER_CONFIG).standardized
    assert not PlaneConfig().standardized


def test_probe_epochs_include_epoch_0():
    assert PlaneConfig(epochs=9, probe_every=4).probe_epochs() == (0, 4, 8)


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
    assert choices == resolved(replace(SMALL, mine=ROUND_CONFIG), 300)


def test_resolved_with_a_flax_module_is_json():
    config = replace(SMALL, mine=MineConfig(network=nn.Dense(3)))
    assert "Dense" in json.loads(json.dumps(resolved(config, 300)))["mine"]["network"]


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"epochs": 3}, set()),
        ({"seed": 5}, {"seed", "probe_rows_sha256", "split_sha256"}),
        ({"probe_size": 150}, {"probe_size", "probe_rows_sha256", "split_sha256"}),
        ({"mine": replace(ROUND_CONFIG, folds=4)}, {"mine", "split_sha256"}),
        ({"mine": replace(ROUND_CONFIG, patience=9)}, {"mine"}),
        ({"share_networks": False}, {"share_networks"}),
    ],
)
def test_resolved_changes_with_what_changes_the_numbers(change, changed):
    before, after = resolved(SMALL, 300), resolved(replace(SMALL, **change), 300)
    assert {name for name in before if before[name] != after[name]} == changed


def test_resolved_with_too_few_images_raises():
    with pytest.raises(ValueError, match="batch_size = 50 is more than the 49 training images"):
        resolved(SMALL, 49)
    with pytest.raises(ValueError, match=r"20 probed images are too few.*increase probe_size"):
        resolved(replace(SMALL, probe_size=20, mine=replace(ROUND_CONFIG, folds=11)), 300)
