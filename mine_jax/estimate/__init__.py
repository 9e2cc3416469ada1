"""`lower_bound`: the mutual information of two arrays; `independence_test`: is there any?"""

from mine_jax.estimate.competition import lower_bounds
from mine_jax.estimate.estimation import lower_bound
from mine_jax.estimate.independence import IndependenceTest, independence_test
from mine_jax.estimate.pairs import Pair, choose_network, group_pairs, init_states
from mine_jax.estimate.preparation import prepare
from mine_jax.estimate.result import Estimate, History
from mine_jax.estimate.splitting import Splits, split

__all__ = [
    "Estimate",
    "History",
    "IndependenceTest",
    "Pair",
    "Splits",
    "choose_network",
    "group_pairs",
    "independence_test",
    "init_states",
    "lower_bound",
    "lower_bounds",
    "prepare",
    "split",
]
