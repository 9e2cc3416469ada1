"""Mutual information of samples, and information planes of networks, by MINE in JAX.

`lower_bound(x, z)` is the shortest way in, `independence_test(x, z)` tells whether there is any;
`information_plane.run` draws the plane of any model.
"""

from mine_jax.estimate import Estimate, IndependenceTest, independence_test, lower_bound
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
    "StatisticsNetwork",
    "donsker_varadhan",
    "evaluate",
    "fit",
    "independence_test",
    "init",
    "lower_bound",
    "step",
]
