"""`lower_bound`: the mutual information of two arrays, estimated with a standard error."""

from mine_jax.estimate.competition import lower_bounds
from mine_jax.estimate.estimation import lower_bound
from mine_jax.estimate.pairs import Pair, choose_network, group_pairs, init_states
from mine_jax.estimate.preparation import prepare
from mine_jax.estimate.result import Estimate, History
from mine_jax.estimate.splitting import Splits, split

__all__ = [
    "Estimate",
    "History",
    "Pair",
    "Splits",
    "choose_network",
    "group_pairs",
    "init_states",
    "lower_bound",
    "lower_bounds",
    "prepare",
    "split",
]
