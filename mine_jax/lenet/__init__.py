"""LeNet-5, its probe points and the data sets for it."""

from mine_jax.lenet.lenet5 import DEFAULT_PROBES, PROBE_POINTS, LeNet5

__all__ = ["DEFAULT_PROBES", "PROBE_POINTS", "LeNet5"]
