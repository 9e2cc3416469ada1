"""MINE, mutual information neural estimation (Belghazi et al. 2018), for a stack of networks.

Algorithm 1, as the poster has it, beside the functions that do it:

| algorithm | code |
|---|---|
| initialize θ | `init` (`training.init_network`) |
| draw b samples (x_i, z_i) of the joint | `chunks.draw_batches`, `chunks.train_chunk` |
| draw b samples z̄_i of the marginal | `training.score_batch`: a shuffle of the batch, or more |
| ν(θ) = (1/b) Σ T_θ(x_i, z_i) − log((1/b) Σ exp T_θ(x_i, z̄_i)) | `bounds.donsker_varadhan` |
| corrected gradient of ν (eq. 12) | `bounds.bias_corrected`, `bounds.update_log_partition` |
| θ ← θ + ∇ν(θ) | `step` (`training.ascend`) |
| until convergence | `fit` |
| value on held-out samples | `evaluate` (`bounds.held_out`) |

`MineConfig.published()` is that algorithm; the default configuration differs (`MineConfig`,
BUILD_NOTES.md). A stack has a network for each pair of an array in x and an array in z. All its
networks see the same samples in the same pairs, so that their values can be compared.
"""

from mine_jax.mine import stack
from mine_jax.mine.bounds import BOUNDS, HeldOut, donsker_varadhan
from mine_jax.mine.config import MineConfig
from mine_jax.mine.evaluation import CEILING_MARGIN, evaluate
from mine_jax.mine.fitting import FitInfo, fit
from mine_jax.mine.stack import Samples, is_labels
from mine_jax.mine.statistics_network import StatisticsNetwork
from mine_jax.mine.training import MineInfo, MineState, init, step

__all__ = [
    "BOUNDS",
    "CEILING_MARGIN",
    "FitInfo",
    "HeldOut",
    "MineConfig",
    "MineInfo",
    "MineState",
    "Samples",
    "StatisticsNetwork",
    "donsker_varadhan",
    "evaluate",
    "fit",
    "init",
    "is_labels",
    "stack",
    "step",
]
