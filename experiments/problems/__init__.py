"""Paired samples with known mutual information, to test estimators on.

That of Gaussian pairs has a closed form, and an invertible map of either side does not change it
(Czyż et al. 2023, "Beyond Normal", https://arxiv.org/abs/2306.11078). Other truths are in closed
form, by quadrature, or by Monte Carlo over known densities. All values are in nats.

Problems marked `held_out` must not be used to tune an estimator. They are half of our own, and all
of the other benchmarks: "bmi" of Czyż et al., "mutinfo" of a package, "wild" of what people bring.

  for problem in problems():
      x, z = draw(problem, n=10_000, seed=0)
      print(problem.name, problem.truth_nats)
"""

from .catalogue import draw, find, problems
from .digits import load_digits
from .problem import BENCHMARKS, Problem

__all__ = ["BENCHMARKS", "Problem", "draw", "find", "load_digits", "problems"]
