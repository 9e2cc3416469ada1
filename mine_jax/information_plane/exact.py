"""Exact mutual information, in nats, to compare estimates with.

Closed forms, and values of layers observed with Gaussian noise over a finite set of inputs, which
are exact up to a Monte Carlo average over noise with a known standard error.
"""

import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# Squared distances are differences of large products, so that a log density is rounded to about a
# unit in the last place of the largest squared norm (in units of the noise). At this norm that is
# 0.02 nats in float32 for a single density, far less in an average over many; above, use float64.
MAX_FLOAT32_SQUARE = 1e5
MAX_FLOAT64_SQUARE = MAX_FLOAT32_SQUARE * 2.0**29


class NoisyLayer(NamedTuple):
    """Mutual information of a noisy layer with its input and with the label.

    Attributes:
      x_nats: I(X; T), in nats.
      x_stderr: its standard error, in nats.
      y_nats: I(Y; T), in nats; None without labels.
      y_stderr: its standard error, in nats; None without labels.
      rows: number of inputs that the average went over.
    """

    x_nats: float
    x_stderr: float
    y_nats: float | None
    y_stderr: float | None
    rows: int


def correlation(nats: float, dims: int) -> float:
    """Return the correlation of `dims` equal, independent Gaussian pairs with I = `nats`.

    From I = −(d/2) ln(1 − ρ²) (Cover and Thomas 2006, example 8.5.1): ρ = √(1 − exp(−2 I/d)).

    Args:
      nats: I(X; Z) of all pairs together, at least 0.
      dims: d, the number of pairs.

    Returns:
      ρ in [0, 1).

    Raises:
      ValueError: if `nats` is negative or not finite, `dims` is less than 1, or there are so many
        nats a pair (18.4) that ρ is 1 in float64.
    """
    if not (math.isfinite(nats) and nats >= 0):
        raise ValueError(f"nats must be at least 0 and finite, got {nats}")
    if operator.index(dims) < 1:
        raise ValueError(f"dims must be at least 1, got {dims}")
    rho = math.sqrt(-math.expm1(-2 * nats / dims))
    if rho == 1:
        raise ValueError(
            f"{nats} nats in {dims} pairs need a correlation that float64 cannot tell from 1"
        )
    return rho


def noisy_layer(
    key: jax.Array,
    activations: ArrayLike,
    noise_std: float,
    labels: ArrayLike | None = None,
    *,
    draws: int = 1,
    block: int = 1024,
    rows: int | None = None,
) -> NoisyLayer:
    """Compute I(X; T) and I(Y; T) of a noisy layer T = L(X) + σε over a finite set of inputs.

    X is one of N equally likely inputs and ε is standard Gaussian, so that T is a mixture of N
    Gaussians at the activations l_i, and
      I(X; T) = ln N − E ln Σ_j exp((|T − l_i|² − |T − l_j|²)/2σ²),
      I(Y; T) = E[ln p(T | y) − ln p(T)], where p(T | y) is the mixture over the inputs of class y
      and p(T) that over all inputs; both include the true input.
    After Saxe et al. 2018, "On the information bottleneck theory of deep learning", and Goldfeld et
    al. 2019, "Estimating information flow in deep neural networks". The sums are exact; the
    expectation is an average over inputs and fresh noise.

    With two or more draws an input, the standard errors leave out the spread between inputs as far
    as all inputs are in the average (or `rows` of N, without replacement). With one draw that
    spread cannot be separated from the noise, and the standard errors are upper limits.

    The cost is N² d multiplications a draw and N·block numbers of memory beside the data. Where
    distances are so large beside the noise that float32 could not resolve near neighbors, float64
    is used.

    Args:
      key: a PRNG key. The same key gives the same noise for every `block`.
      activations: l_i of each input, (N, …), real; flattened to (N, d).
      noise_std: σ, in the units of the activations, the same for all of them.
      labels: the class of each input, (N,), of a type that can be sorted; None for I(X; T) alone.
      draws: number of times that each input is used, with fresh noise.
      block: number of (input, draw) pairs that are computed at a time.
      rows: number of inputs in the average, a random choice; None, or N or more, for all. The
        mixtures are always over all N.

    Returns:
      Values and standard errors.

    Raises:
      ValueError: if the activations are not finite real numbers of at least two inputs, the labels
        do not fit them, σ is not positive, or so small that distances in units of it are lost in
        rounding, or a count is too small.
      TypeError: if a count is not an integer.
    """
    flat = np.asarray(activations)
    if flat.ndim < 1 or flat.shape[0] < 2:
        raise ValueError(f"activations must be (N, ...) with N >= 2, got shape {flat.shape}")
    if not (np.isrealobj(flat) and jnp.issubdtype(flat.dtype, np.number)):
        raise ValueError(f"activations must be real numbers, got {flat.dtype}")
    n = flat.shape[0]
    flat = flat.reshape(n, math.prod(flat.shape[1:]))
    if not (math.isfinite(noise_std) and noise_std > 0):
        raise ValueError(f"noise_std must be positive and finite, got {noise_std}")
    for name, count, minimum in (("draws", draws, 1), ("block", block, 1), ("rows", rows, 2)):
        if count is not None and operator.index(count) < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {count}")
    codes: np.ndarray = np.zeros(n, np.int32)
    class_sizes: np.ndarray = np.array([n])
    if labels is not None:
        classes = np.asarray(labels)
        if classes.shape != (n,):
            raise ValueError(
                f"labels must be ({n},), one for each input, got shape {classes.shape}"
            )
        _, codes, class_sizes = np.unique(classes, return_inverse=True, return_counts=True)

    points = _in_noise_units(flat, float(noise_std), block)
    half_squares = np.einsum("nd,nd->n", points, points, dtype=np.float64) / 2
    choice_key, noise_key = jax.random.split(key)
    used = n if rows is None else min(rows, n)
    chosen = np.arange(n)
    if used < n:
        chosen = np.sort(np.asarray(jax.random.permutation(choice_key, n), np.int64)[:used])
    # All (input, draw) pairs in blocks of one shape, hence one compilation; the padding of the last
    # block is dropped.
    total = used * draws
    block = min(block, total)
    streams = (np.arange(draws)[:, None] * n + chosen).ravel().astype(np.uint32)
    streams = np.pad(streams, (0, -total % block), mode="edge")

    sums = np.empty((streams.size, 2))
    with jax.enable_x64(points.dtype == np.float64):
        on_device = (
            jnp.asarray(points),
            jnp.asarray(half_squares, points.dtype),
            jnp.asarray(codes, jnp.int32),
        )
        for start in range(0, len(sums), block):
            at = slice(start, start + block)
            sums[at] = _mixture_sums(noise_key, *on_device, streams[at])
    over_all, over_class = sums[:total].reshape(draws, used, 2).transpose(2, 0, 1)
    log_density = np.log(over_all / n)
    x_nats, x_stderr = _mean_over_inputs(-log_density, n)
    if labels is None:
        return NoisyLayer(x_nats, x_stderr, None, None, used)
    log_class_density = np.log(over_class / class_sizes[codes[chosen]])
    y_nats, y_stderr = _mean_over_inputs(log_class_density - log_density, n)
    return NoisyLayer(x_nats, x_stderr, y_nats, y_stderr, used)


def entropy(labels: ArrayLike) -> float:
    """Return H(Y) of the empirical distribution of labels, (n,), in nats."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    fractions = counts / counts.sum()
    return float(-np.sum(fractions * np.log(fractions)))


@jax.jit
def _mixture_sums(
    key: jax.Array,
    points: jax.Array,
    half_squares: jax.Array,
    codes: jax.Array,
    streams: jax.Array,
) -> jax.Array:
    """Compute Σ_j p(t | l_j)/p(t | l_i) over all j and over those of i's class, t = l_i + noise.

    No maximum has to be subtracted against overflow: the term of i itself is 1, and as each ratio
    has mean 1, a sum above N e^c has probability below e^−c.

    Args:
      key: a PRNG key.
      points: activations in units of the noise, (N, d).
      half_squares: half their squared norms, (N,).
      codes: classes, (N,).
      streams: numbers of the noise vectors, (block,), unsigned; kN + i for draw k of input i.

    Returns:
      The two sums for each i, (block, 2).
    """

    def noise_of(stream: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, stream), points.shape[1:], jnp.float32)

    rows = (streams % points.shape[0]).astype(jnp.int32)
    observed = points[rows] + jax.vmap(noise_of)(streams)
    # −|t − l_j|²/2 without |t|²/2, which cancels.
    logs = jnp.matmul(observed, points.T, precision=jax.lax.Precision.HIGHEST) - half_squares[None]
    ratios = jnp.exp(logs - jnp.take_along_axis(logs, rows[:, None], axis=1))
    of_class = jnp.where(codes[rows][:, None] == codes[None], ratios, 0)
    return jnp.stack([ratios.sum(axis=1), of_class.sum(axis=1)], axis=1)


def _in_noise_units(flat: np.ndarray, noise_std: float, block: int) -> np.ndarray:
    """Center activations (N, d) and divide by the noise, in the precision that they need."""
    parts = [slice(start, start + block) for start in range(0, len(flat), block)]
    with np.errstate(invalid="ignore", over="ignore"):
        mean = flat.mean(axis=0, dtype=np.float64)
        largest = np.max([np.square(flat[part] - mean).sum(axis=1).max() for part in parts])
    if not math.isfinite(largest):
        wrong = flat[~np.isfinite(flat)]
        got = wrong[0] if wrong.size else np.abs(flat).max()
        raise ValueError(f"activations and their squares must be finite, got {got}")
    reach = math.sqrt(largest)
    if reach / noise_std > math.sqrt(MAX_FLOAT64_SQUARE):
        raise ValueError(
            f"noise_std {noise_std} is lost in rounding beside activations that are {reach} from "
            f"their mean; use at least {reach / math.sqrt(MAX_FLOAT64_SQUARE)}"
        )
    wide = reach / noise_std > math.sqrt(MAX_FLOAT32_SQUARE)
    points = np.empty(flat.shape, np.float64 if wide else np.float32)
    for part in parts:
        points[part] = (flat[part] - mean) / noise_std
    return points


def _mean_over_inputs(values: np.ndarray, n: int) -> tuple[float, float]:
    """Return the mean of values (draws, m) of m of n inputs, and its standard error."""
    draws, m = values.shape
    of_noise = values.var(axis=0, ddof=1).mean() / draws if draws > 1 else 0.0
    of_inputs = max(0.0, values.mean(axis=0).var(ddof=1) - of_noise)
    left_out = 1 - m / n if draws > 1 else 1.0
    return float(values.mean()), math.sqrt((of_inputs * left_out + of_noise) / m)
