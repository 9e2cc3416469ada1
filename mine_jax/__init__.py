"""Information planes of neural networks with MINE, in JAX.

`lower_bound(x, z)` is the shortest way in; `information_plane.run` draws on any model.
"""

from mine_jax.bounds import donsker_varadhan
from mine_jax.estimator import Estimate, lower_bound
from mine_jax.lenet import LeNet5
from mine_jax.mine import MineConfig, MineInfo, MineState, evaluate, fit, init, step
from mine_jax.statistics_network import StatisticsNetwork

__all__ = [
    "Estimate",
    "LeNet5",
    "MineConfig",
    "MineInfo",
    "MineState",
    "StatisticsNetwork",
    "donsker_varadhan",
    "evaluate",
    "fit",
    "init",
    "lower_bound",
    "step",
]
