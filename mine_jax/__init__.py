"""Mutual information of samples, and information planes of networks, by MINE in JAX.

`lower_bound(x, z)` is the shortest way in, `independence_test(x, z)` tells whether there is any.
`Recorder` draws the information plane of a network of any framework, `information_plane.run` that
of a Flax model, which it trains.
"""

from mine_jax.estimate import Estimate, IndependenceTest, independence_test, lower_bound
from mine_jax.information_plane import Plane, Recorder, load, measure_layers, plane
from mine_jax.lenet import LeNet5
from mine_jax.mine import (
    MineConfig,
    MineInfo,
    MineState,
    StatisticsNetwork,
    donsker_varadhan,
    evaluate,
    fit,
    init,
    step,
)

__all__ = [
    "Estimate",
    "IndependenceTest",
    "LeNet5",
    "MineConfig",
    "MineInfo",
    "MineState",
    "Plane",
    "Recorder",
    "StatisticsNetwork",
    "donsker_varadhan",
    "evaluate",
    "fit",
    "independence_test",
    "init",
    "load",
    "lower_bound",
    "measure_layers",
    "plane",
    "step",
]
