"""Mixtures of correlated Gaussians."""

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy import special

from .problem import Array, Samples


class Mixture(NamedTuple):
    """A mixture of correlated Gaussians over (x, z), d columns each.

    Attributes:
      means: (clusters, 2 d).
      roots: (clusters, 2 d, 2 d), Cholesky factors of the covariances.
    """

    means: Array
    roots: Array

    @classmethod
    def random(cls, clusters: int, d: int, seed: int) -> "Mixture":
        """Draw equally likely clusters with random means and covariances."""
        rng = np.random.default_rng(seed)
        spread = rng.standard_normal((clusters, 2 * d, 2 * d))
        covariances = 0.5 / d * spread @ spread.swapaxes(1, 2) + 0.2 * np.eye(2 * d)
        return cls(2 * rng.standard_normal((clusters, 2 * d)), np.linalg.cholesky(covariances))

    def sample(self, rng: Generator, n: int) -> Samples:
        """Draw x and z, (n, d) each."""
        rows = rng.integers(0, len(self.means), n)
        noise = rng.standard_normal((n, self.means.shape[1]))
        joint = self.means[rows] + np.einsum("nij,nj->ni", self.roots[rows], noise)
        x, z = np.split(joint, 2, axis=1)
        return x, z

    def pointwise(self, rng: Generator, n: int) -> Array:
        """Draw n samples and return ln p(x, z) − ln p(x) − ln p(z), (n,)."""
        x, z = self.sample(rng, n)
        d = x.shape[1]
        joint = self._log_density(np.concatenate([x, z], axis=1), np.s_[:])
        return joint - self._log_density(x, np.s_[:d]) - self._log_density(z, np.s_[d:])

    def _log_density(self, values: Array, columns: slice) -> Array:
        """Compute the log density of these columns, (n,)."""
        log_densities = []
        for mean, root in zip(self.means[:, columns], self.roots[:, columns], strict=True):
            factor = np.linalg.cholesky(root @ root.T)
            white = np.linalg.solve(factor, (values - mean).T)
            log_densities.append(-0.5 * np.sum(white**2, axis=0) - np.log(np.diag(factor)).sum())
        constant = 0.5 * values.shape[1] * math.log(2 * math.pi) + math.log(len(log_densities))
        return special.logsumexp(log_densities, axis=0) - constant
