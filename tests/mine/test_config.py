"""`MineConfig`: what it refuses, and the configuration of MINE as published."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest
from flax import linen as nn

from mine_jax.mine import BOUNDS, MineConfig, init
from mine_jax.mine.config import NETWORKS

from .common import KEY, samples

INTEGERS = [field.name for field in dataclasses.fields(MineConfig) if field.type is int]
BAD_VALUES = {
    **{name: (-1,) for name in INTEGERS},
    "hidden": (0, 2.5, True, 1 << 31, 10**30),
    "depth": (0, 10**9),
    "features": (0, 10**30),
    "batch_size": (1, "256", None),
    "max_steps": (0, -1, math.nan, math.inf, "100", True, 1e30, 10**30),
    "check_every": (0, 10**9),
    "folds": (1, 5.0, np.array([5])),
    "learning_rate": (0.0, math.nan, math.inf, "1e-3", True, 1e300, 10**400, 1j, np.complex64(1)),
    "squares": ("no",),
    "normalize": (1,),
    "weight_decay": (-0.1,),
    "min_improvement": (math.nan,),
    "partition_weight": (0.0, 1.5),
    "ema_decay": (1.0, -0.1),
    "validation_fraction": (0.0, 0.8),
    "shuffles": (256,),
    "bound": ("club", None, np.array(["mine"])),
    "x_encoder": ("nonsense", 3),
    "z_encoder": ("nonsense", np.array(["ranks"])),
    "form": ("nwj",),
    "network": ("deep", 3),
    "label_marginal": ("sampled",),
    "mapper": ("scan",),
    "shared": ("yes", 1, None),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values]
)
def test_config_bad_value_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must .*got {re.escape(repr(value))}"):
        MineConfig(**{name: value})


def test_config_several_bad_values_are_named_together():
    with pytest.raises(ValueError, match=r"hidden must .*got 0; .*bound must .*got 'x'"):
        MineConfig(hidden=0, bound="x")


def test_config_normalized_scores_do_not_go_with_a_bound_where_their_scale_has_a_meaning():
    with pytest.raises(ValueError, match=r'normalize must be False with bound="nwj", got True'):
        MineConfig(normalize=True, bound="nwj")
    assert all(MineConfig(normalize=True, bound=bound) for bound in BOUNDS if bound != "nwj")
    assert not MineConfig().normalize


@pytest.mark.parametrize("network", ["concatenated", nn.Dense(1)])
def test_config_shared_layers_need_a_separable_network(network):
    with pytest.raises(ValueError, match=r"shared needs a separable network, got network="):
        MineConfig(network=network, shared=True)
    assert MineConfig(network=network).shared == "auto"
    assert MineConfig(network="convolutional", shared=True).module().shared


def test_config_encoders_that_would_not_be_used_are_named():
    encoder = nn.Dense(2)
    for name in ("ranks", encoder):
        with pytest.raises(ValueError, match=r'z_encoder needs preparation="auto", got .standard'):
            MineConfig(z_encoder=name, preparation="standardized")
    with pytest.raises(ValueError, match="shared=True is one encoder for both sides"):
        MineConfig(z_encoder=encoder, shared=True)
    assert MineConfig(x_encoder=encoder, z_encoder=nn.Dense(2), shared=True).shared


def test_config_limits_and_choices_are_accepted():
    MineConfig(lr_drops=0, min_improvement=0.0, partition_weight=1.0, ema_decay=0.0, weight_decay=0)
    assert MineConfig(hidden=np.int64(8)).hidden == 8
    MineConfig(batch_size=2, shuffles=1, folds=2, validation_fraction=0.49, canonical_pairs=0)
    for values in ({"network": NETWORKS}, {"bound": BOUNDS}):
        for name, choices in values.items():
            assert [getattr(MineConfig(**{name: each}), name) for each in choices] == list(choices)


def test_separable_concatenated_and_custom_networks_are_not():
    kinds = ("separable", "convolutional", "auto", "concatenated", nn.Dense(1))
    separable = [MineConfig(network=kind).separable for kind in kinds]
    assert separable == [True, True, True, False, False]


def test_published_hidden_is_width_of_plain_perceptron():
    x, z = samples()
    config = MineConfig.published(hidden=24, depth=3)
    state = jax.eval_shape(lambda: init(KEY, x, z["wide"], config))
    inner = {"kernel": (24, 24), "bias": (24,)}
    assert jax.tree.map(lambda leaf: leaf.shape[1:], state.params) == {
        "x_encoder": {"columns": (3, 24), "bias": (24,)},
        "z_encoder": {"columns": (7, 24), "bias": (24,)},
        "head": {"Dense_0": inner, "Dense_1": inner, "Dense_2": {"kernel": (24, 1), "bias": (1,)}},
    }
    assert state.gaussian is None
