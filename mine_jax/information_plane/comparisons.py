"""Values of the information plane as in the literature, in nats, to show beside the estimates.

Neither is an estimate of what MINE estimates: bins measure a discretized layer, and pairwise
distances an upper bound of a noisy one. Both treat the given inputs as the whole population.
"""

import math
import operator

import numpy as np
from jax.typing import ArrayLike

from mine_jax.information_plane import exact

_BLOCK = 1024  # inputs whose distances to all the others are in memory at a time


def bins(activations: ArrayLike, labels: ArrayLike, num_bins: int = 30) -> tuple[float, float]:
    """Compute I(X; bin(L)) and I(Y; bin(L)) of a layer whose activations are put into bins.

    The bins have equal widths between the smallest and the largest activation of the whole layer;
    bin(L) is the vector of the bins of all units. X is one of n equally likely inputs, and bin(L)
    is a function of it, so that I(X; bin(L)) = H(bin(L)), at most ln n, and
    I(Y; bin(L)) = H(bin(L)) − Σ_y p(y) H(bin(L) | y). After Shwartz-Ziv and Tishby 2017, "Opening
    the black box of deep neural networks via information", who used 30 bins. Where each input has a
    cell of its own, the values are ln n and H(Y), whatever the layer tells.

    Args:
      activations: of each input, (n, …), finite real numbers; flattened to (n, d).
      labels: the class of each input, (n,).
      num_bins: number of bins of a unit.

    Returns:
      I(X; bin(L)) and I(Y; bin(L)), in nats.

    Raises:
      ValueError: if the activations are not finite real numbers of at least one unit for each of at
        least two inputs, the labels do not fit them, or there is no bin.
      TypeError: if `num_bins` is not an integer.
    """
    flat, classes = _checked(activations, labels)
    if operator.index(num_bins) < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    low, high = float(flat.min()), float(flat.max())
    width = (high - low) or 1.0  # equal activations share the first bin
    code = np.min_scalar_type(num_bins - 1)
    numbers: dict[bytes, int] = {}
    cells = np.empty(len(flat), np.int64)
    for i, row in enumerate(flat):
        at = (row.astype(np.float64) - low) / width * num_bins
        # The largest activation belongs to the last bin.
        cell = np.minimum(at, num_bins - 1).astype(code).tobytes()
        cells[i] = numbers.setdefault(cell, len(numbers))
    total = exact.entropy(cells)
    within = sum(
        np.mean(classes == k) * exact.entropy(cells[classes == k]) for k in range(classes.max() + 1)
    )
    return total, max(0.0, float(total - within))


def pairwise_distances(
    activations: ArrayLike, labels: ArrayLike, noise_std: float
) -> tuple[float, float]:
    """Compute I(X; T) and I(Y; T) of T = L + σε from the pairwise distances of activations.

    X is one of n equally likely inputs with activations l_i, and ε is standard Gaussian. Then
      I(X; T) ≤ −(1/n) Σ_i ln (1/n) Σ_j exp(−|l_i − l_j|²/2σ²),
    and I(Y; T) is that minus the same within each class, weighted by p(y): a difference of two
    upper bounds, hence no bound. After Kolchinsky and Tracey 2017, "Estimating mixture entropy with
    pairwise distances" (Entropy 19:361, the bound by KL divergences), as used by Saxe et al. 2018,
    "On the information bottleneck theory of deep learning".

    The cost is n² d multiplications, in float32 where that resolves the distances.

    Args:
      activations: l_i of each input, (n, …), finite real numbers; flattened to (n, d).
      labels: the class of each input, (n,).
      noise_std: σ, in the units of the activations, the same for all of them.

    Returns:
      The values of I(X; T) and I(Y; T), in nats.

    Raises:
      ValueError: if the activations are not finite real numbers of at least one unit for each of at
        least two inputs, the labels do not fit them, or σ is not positive and finite, or so small
        that distances in units of it are lost in rounding.
    """
    flat, classes = _checked(activations, labels)
    if not (math.isfinite(noise_std) and noise_std > 0):
        raise ValueError(f"noise_std must be positive and finite, got {noise_std}")
    order = np.argsort(classes, kind="stable")  # so that each class is one range of columns
    codes = classes[order]
    starts = np.searchsorted(codes, np.arange(codes[-1] + 1))
    points = flat[order].astype(np.float64)
    points -= points.mean(axis=0)
    with np.errstate(over="ignore"):
        points /= noise_std
        squares = np.einsum("nd,nd->n", points, points)
    if not squares.max() <= exact.MAX_FLOAT64_SQUARE:
        raise ValueError(
            f"noise_std {noise_std} is lost in rounding beside activations that are "
            f"{math.sqrt(squares.max())} times as far from their mean"
        )
    if squares.max() <= exact.MAX_FLOAT32_SQUARE:
        points = points.astype(np.float32)
        squares = np.einsum("nd,nd->n", points, points)
    n = len(points)
    over_all, over_class = np.empty(n), np.empty(n)
    for start in range(0, n, _BLOCK):
        at = np.arange(start, min(start + _BLOCK, n))
        distances = squares[at, None] + squares - 2 * (points[at] @ points.T)
        np.maximum(distances, 0, out=distances)
        distances[at - start, at] = 0
        # No overflow: every term is at most 1, and that of i itself is 1.
        sums = np.add.reduceat(np.exp(-distances / 2), starts, axis=1, dtype=np.float64)
        over_all[at] = sums.sum(axis=1)
        over_class[at] = sums[at - start, codes[at]]
    x_nats = -np.log(over_all / n).mean()
    within = -np.log(over_class / np.bincount(codes)[codes]).mean()
    return float(x_nats), float(x_nats - within)


def _checked(activations: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return activations as (n, d) and labels as numbers from 0 without gaps, (n,)."""
    flat, classes = np.asarray(activations), np.asarray(labels)
    if flat.ndim < 1 or len(flat) < 2 or flat.size == 0:
        raise ValueError(
            f"activations must be (n, ...) with n >= 2 and units, got shape {flat.shape}"
        )
    if not np.can_cast(flat.dtype, np.float64, "same_kind"):
        raise ValueError(f"activations must be real numbers, got {flat.dtype}")
    finite = np.isfinite(flat)
    if not finite.all():
        raise ValueError(f"activations must be finite, got {flat[~finite][0]}")
    if classes.shape != flat.shape[:1]:
        raise ValueError(
            f"labels must be ({len(flat)},), one for each input, got shape {classes.shape}"
        )
    if classes.dtype.kind == "f" and not np.isfinite(classes).all():
        raise ValueError(f"labels must be finite, got {classes[~np.isfinite(classes)][0]}")
    return flat.reshape(len(flat), -1), np.unique(classes, return_inverse=True)[1]
