"""What a problem is: paired samples with a known mutual information."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Samples = tuple[np.ndarray, np.ndarray]
Sampler = Callable[..., Samples]
Map = Callable[[Array], Array]
Truth = tuple[float, float]

BENCHMARKS = ("own", "bmi", "mutinfo", "wild")


class Problem(NamedTuple):
    """Paired samples with a known mutual information.

    Attributes:
      name: unique, without a comma.
      family: name of the kind of problem.
      truth: returns the mutual information and its standard error, in nats. Monte Carlo is run at
        the first call, always with the same draws.
      sample: maps (generator, n) to x and z, with the n samples on the first axis of both.
      held_out: whether it is excluded from all tuning.
      n: number of samples, where that is the point of the problem.
      benchmark: one of `BENCHMARKS`, the collection that the problem belongs to.
      truth_is_upper: whether the truth is only known to be at most `truth_nats`.
      reads_digits: whether `sample` has a third argument, the folder of MNIST or None, and may
        return fewer than n samples.
    """

    name: str
    family: str
    truth: Callable[[], Truth]
    sample: Sampler
    held_out: bool
    n: int | None = None
    benchmark: str = "own"
    truth_is_upper: bool = False
    reads_digits: bool = False

    @property
    def truth_nats(self) -> float:
        """Mutual information, in nats; an upper bound of it with `truth_is_upper`."""
        return self.truth()[0]

    @property
    def truth_stderr(self) -> float:
        """Standard error of `truth_nats`; zero unless that is from Monte Carlo."""
        return self.truth()[1]
