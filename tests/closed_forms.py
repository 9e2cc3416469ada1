"""Mutual information in closed form, in nats, for tests."""

import numpy as np


def gaussian(correlations):
    """I(X; Z) of a jointly Gaussian pair with these canonical correlations."""
    return float(-np.log1p(-np.square(correlations)).sum() / 2)
