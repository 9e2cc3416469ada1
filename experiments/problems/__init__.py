"""Paired samples with known mutual information, to test estimators on.

That of Gaussian pairs has a closed form, and an invertible map of either side does not change it
(Czyż et al. 2023, "Beyond Normal", https://arxiv.org/abs/2306.11078). Other truths are in closed
form, by quadrature, or by Monte Carlo over known densities. All values are in nats.

Half of the problems are marked `held_out`: an estimator must not be tuned on them.

  for problem in problems():
      x, z = draw(problem, n=10_000, seed=0)
      print(problem.name, problem.truth_nats)
"""

from .catalogue import draw, find, problems
from .problem import Problem

__all__ = ["Problem", "draw", "find", "problems"]
