"""LeNet-5, the points at which its activations can be read, and the data sets it learns."""

from mine_jax.lenet.lenet5 import DEFAULT_PROBES, PROBE_POINTS, LeNet5

__all__ = ["DEFAULT_PROBES", "PROBE_POINTS", "LeNet5"]
