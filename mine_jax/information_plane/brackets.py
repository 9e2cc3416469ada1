"""Two-sided references of the mutual information of a layer with Gaussian noise, T = L(X) + σε.

The density p(t|x) = N(l(x), σ²I) is known, that of T is a mixture over all images. The N images are
a sample of all images, and mixtures over them bound the mutual information from both sides.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mine_jax.information_plane import exact

# `jax.jit` here, not the library's, whose options and devices are those of small networks: large
# products take a third of the time.
BLOCK_ROWS = 256  # reporting images whose distances to all images are held at once


class Side(NamedTuple):
    """One side of a bracket.

    Attributes:
      nats: the value.
      stderr: its standard error over the reporting images, in nats.
      influence: contribution of each reporting image, (r,); `nats` is their mean.
    """

    nats: float
    stderr: float
    influence: np.ndarray


class Bracket(NamedTuple):
    """Two-sided references of I(X;T) and I(Y;T), see `bracket`; None for a side without a value."""

    x_low: Side
    x_high: Side
    y_low: Side | None
    y_high: Side | None


def bracket(
    layer: np.ndarray,
    noise: np.ndarray,
    noise_std: float,
    labels: np.ndarray | None,
    rows: np.ndarray,
    name: str = "the layer",
) -> Bracket:
    """Compute two-sided references of I(X;T) and I(Y;T), in nats.

    For a reporting image i with t = l_i + σε, w_j = p(t|x_j), and N images in all:

    | side | value, averaged over the reporting images |
    |---|---|
    | I(X;T), low | ln w_i − ln (1/N) Σ_j w_j: InfoNCE with the exact conditional |
    | I(X;T), high | ln w_i − ln (1/(N−1)) Σ_{j≠i} w_j: leave-one-out |
    | I(Y;T), low | H(Y) + ln (Σ_{j≠i, y_j=y_i} w_j / Σ_{j≠i} w_j): has not seen the image |
    | I(Y;T), high | H(Y) + ln (Σ_{y_j=y_i} w_j / Σ_j w_j): has seen the image |

    The sides of X are those of Poole et al. 2019, "On variational bounds of mutual information",
    sections 2.1 (leave-one-out) and 2.3 (InfoNCE); H(Y) is that of the N labels on both sides.

    Each side holds on average over samples of images, with H(Y) taken as that of the N labels; the
    H(Y) of all images is higher by about (classes − 1)/2N on average. For I(Y;T):

    * Low. Without image i the mixture is a classifier q(y|t) that is independent of (x_i, y_i), and
      E ln q(y|t) ≤ E ln p(y|t) = −H(Y|T) by Gibbs' inequality.
    * High. Let p̂(y, t) = (1/N) Σ_j 1[y_j = y] p(t|x_j), the joint distribution of the N images.
      Averaged over the images i and over t given x_i, ln p̂(y_i|t) is −H_p̂(Y|T). The conditional
      entropy is concave in the joint distribution, and E p̂ = p, so E H_p̂(Y|T) ≤ H_p(Y|T): H(Y) less
      it is too high on average. The reporting images are a random choice of the N.

    The low side of X is at most ln N, its high side has no limit.
    Self-included values (X low, Y high) are exact for the N images as the whole population.
    Standard errors are over the reporting images; that all share one mixture is not in them.

    Args:
      layer: l of each image, (N, d), centered, float32.
      noise: σε of each reporting image, (r, d), float32.
      noise_std: σ, positive.
      labels: classes, (N,), integers; None for I(X;T) alone.
      rows: the reporting images, (r,).
      name: name of the layer in error messages.

    Returns:
      The sides. Those of Y are None without labels, y_low also where a class has one image.

    Raises:
      ValueError: if a value is not finite, or the layer is so large beside its noise that distances
        are lost in rounding.
    """
    squares = np.einsum("nd,nd->n", layer, layer, dtype=np.float64)
    if not np.isfinite(squares).all():
        row = int(np.flatnonzero(~np.isfinite(squares))[0])
        raise ValueError(f"{name} has a value that is not finite in row {row}")
    largest = math.sqrt(squares.max()) / noise_std
    if largest > math.sqrt(exact.MAX_FLOAT64_SQUARE):
        raise ValueError(
            f"noise of σ = {noise_std:g} is lost in rounding beside {name}, whose activations are "
            f"up to {largest:.3g} σ from their mean; use more noise"
        )
    dtype = np.float64 if largest > math.sqrt(exact.MAX_FLOAT32_SQUARE) else np.float32
    n = len(layer)
    entropy, alone = 0.0, False
    codes: np.ndarray = np.zeros(n, np.int32)
    if labels is not None:
        _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        entropy = exact.entropy(labels)
        alone = bool(counts.min() == 1)
    scale = 1 / noise_std**2
    others, of_class = np.empty((2, len(rows)))
    size = min(BLOCK_ROWS, len(rows))
    with jax.enable_x64(dtype == np.float64):
        # Without a copy of a wide layer, which takes hundreds of megabytes.
        points: Any = jax.device_put(layer.astype(dtype, copy=False))
        by_image: Any = jnp.asarray(squares / 2, dtype), jnp.asarray(codes, jnp.int32)
        for start in range(0, len(rows), size):
            first = min(start, len(rows) - size)  # the last block repeats rows: one shape
            at = slice(first, first + size)
            block: Any = rows[at]
            products = _products(_add(points, noise[at], block), points)
            others[at], of_class[at] = _leave_one_out(products, *by_image, block, scale)
    # The own image's weight is the unit of all others.
    own_and_others = np.logaddexp(0, others)
    x_low = side(math.log(n) - own_and_others)
    x_high = side(math.log(n - 1) - others)
    if labels is None:
        return Bracket(x_low, x_high, None, None)
    y_high = side(entropy + np.logaddexp(0, of_class) - own_and_others)
    y_low = None if alone else side(entropy + of_class - others)
    return Bracket(x_low, x_high, y_low, y_high)


@jax.jit
def _add(layer: jax.Array, noise: jax.Array, rows: jax.Array) -> jax.Array:
    return layer[rows] + noise


@jax.jit
def _products(observed: jax.Array, layer: jax.Array) -> jax.Array:
    return jnp.matmul(observed, layer.T, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _leave_one_out(
    products: jax.Array,
    half_squares: jax.Array,
    codes: jax.Array,
    rows: jax.Array,
    scale: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return ln Σ_{j≠i} w_j/w_i over all images and over those of i's class, (block,) each."""
    # −|t − l_j|²/2 without |t|²/2, which cancels.
    logs = products - half_squares[None]
    own = jnp.take_along_axis(logs, rows[:, None], axis=1)
    itself = jnp.arange(products.shape[1])[None] == rows[:, None]
    logs = jnp.where(itself, -jnp.inf, (logs - own) * scale)
    same = jnp.where(codes[rows][:, None] == codes[None], logs, -jnp.inf)
    return jax.nn.logsumexp(logs, axis=1), jax.nn.logsumexp(same, axis=1)


def side(influence: np.ndarray) -> Side:
    """Return the mean of contributions, (r,), in nats, with its standard error."""
    stderr = float(influence.std(ddof=1)) / math.sqrt(len(influence))
    return Side(float(influence.mean()), stderr, influence)


def gaussian_bound(
    variances: np.ndarray, noise_variance: float, left_out: float, rest: int
) -> float:
    """Bound I(X;T) from above: ½ Σ ln(1 + λ_k/σ²), the value of a Gaussian of these variances.

    A Gaussian has the largest entropy of all distributions with a covariance (Cover and Thomas
    2006, theorem 8.6.5), and the variances on any orthogonal axes give no less than the
    eigenvalues (Hadamard's inequality). Of the directions that are left out only the sum of
    variances is known; by concavity equal variances give the largest value.

    Args:
      variances: λ_k of the layer without noise on orthogonal axes, (k,).
      noise_variance: σ², positive.
      left_out: sum of the variances on all other axes.
      rest: number of these other axes.

    Returns:
      The bound in nats.
    """
    kept = 0.5 * float(np.sum(np.log1p(np.maximum(variances, 0) / noise_variance)))
    if rest == 0:
        return kept
    return kept + rest / 2 * math.log1p(max(left_out, 0.0) / rest / noise_variance)
