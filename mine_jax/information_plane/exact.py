"""Mutual information that is known, in nats: what estimates can be judged by.

Closed forms (Gaussian pairs, probability tables, entropies) and values that are exact up to a Monte
Carlo average over noise whose error comes with them (layers observed with Gaussian noise over a
finite set, labels with Gaussian features).
"""

import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# Squared distances come from products that cancel, so that the rounding of a log density is about
# a unit in the last place of the largest squared norm (in units of the noise): below this, 0.02
# nats in float32 for a single one, far less in an average over many. Above it, float64.
_FLOAT32_LIMIT = 1e5
_FLOAT64_LIMIT = _FLOAT32_LIMIT * 2.0**29


class NoisyLayer(NamedTuple):
    """What a layer that is observed with noise tells of its input and of the label.

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


def gaussian(correlations: ArrayLike) -> float:
    """I(X; Z) = −½ Σ ln(1 − ρ²) of a jointly Gaussian pair.

    Cover and Thomas 2006, example 8.5.1, for each canonical pair.

    Args:
      correlations: the canonical correlations ρ of X and Z, any shape, each in (−1, 1). For
        independent coordinate pairs (X_k, Z_k) these are their correlations.

    Returns:
      The value in nats.

    Raises:
      ValueError: if a correlation is not in (−1, 1).
    """
    rho = np.asarray(correlations, np.float64)
    wrong = rho[~(np.abs(rho) < 1)]
    if wrong.size:
        raise ValueError(f"correlations must be between -1 and 1, both excluded, got {wrong[0]}")
    return float(-0.5 * np.sum(np.log1p(-rho) + np.log1p(rho)))


def gaussian_covariance(covariance: ArrayLike, x_size: int) -> float:
    """I(X; Z) = ½ ln(|Σ_x| |Σ_z| / |Σ|) of a jointly Gaussian pair (X, Z).

    The sum of the entropies of X and Z, less that of both: Cover and Thomas 2006, theorem 8.4.1.

    Args:
      covariance: Σ, (d_x + d_z, d_x + d_z), the coordinates of X first.
      x_size: d_x.

    Returns:
      The value in nats.

    Raises:
      ValueError: if `covariance` is not a symmetric, positive definite matrix, or leaves one of the
        two variables without a coordinate.
    """
    matrix = np.asarray(covariance, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"covariance must be a square matrix, got shape {matrix.shape}")
    size = matrix.shape[0]
    if not 1 <= operator.index(x_size) < size:
        raise ValueError(
            f"x_size must be between 1 and {size - 1} for a covariance of shape {matrix.shape}, "
            f"got {x_size}"
        )
    variances = np.diag(matrix)
    if not np.all(np.isfinite(matrix)) or not np.all(variances > 0):
        raise ValueError(
            f"covariance must be positive definite, got finite entries: "
            f"{bool(np.all(np.isfinite(matrix)))}, smallest variance {variances.min()}"
        )
    # Units do not change the information, but they decide what is numerically singular.
    deviations = np.sqrt(variances)
    matrix = matrix / deviations[:, None] / deviations[None, :]
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > 1e-6:
        raise ValueError(f"covariance must be symmetric, got correlations {asymmetry} apart")
    smallest = np.linalg.eigvalsh(matrix)[0]
    if smallest <= size * np.finfo(np.float64).eps:
        raise ValueError(
            "covariance must be positive definite, got a correlation matrix with smallest "
            f"eigenvalue {smallest}"
        )
    blocks = matrix[:x_size, :x_size], matrix[x_size:, x_size:], matrix
    of_x, of_z, of_both = (np.linalg.slogdet(block).logabsdet for block in blocks)
    return max(0.0, float(0.5 * (of_x + of_z - of_both)))


def correlation(nats: float, dims: int) -> float:
    """The correlation of `dims` equal, independent Gaussian coordinate pairs with I = `nats`.

    The inverse of `gaussian`: ρ = √(1 − exp(−2 I/d)).

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
    """I(X; T) and I(Y; T) of a layer observed with noise, T = L(X) + σε, over a finite set.

    X is one of N equally likely inputs, ε standard Gaussian, so that T is a mixture of N Gaussians
    at the activations l_i and
      I(X; T) = ln N − E ln Σ_j exp((|T − l_i|² − |T − l_j|²)/2σ²),
      I(Y; T) = E[ln p(T | y) − ln p(T)], both mixtures of Gaussians too, over the inputs of class y
      and over all (the true input is in both).
    After Saxe et al. 2018, "On the information bottleneck theory of deep learning", and Goldfeld et
    al. 2019, "Estimating information flow in deep neural networks". The sums are exact; the
    expectation is an average over inputs and fresh noise.

    The standard errors: with two or more draws an input, they know that all inputs (or `rows` of N,
    without replacement) are in the average, and leave out the spread between inputs accordingly.
    With one draw that spread cannot be told from the noise's and is counted in: they are then upper
    limits.

    Takes N² d multiplications for each draw, N·block numbers of memory beside the data, and works
    in float64 where distances are so large beside the noise that float32 would blur near ones.

    Args:
      key: a PRNG key. The same key gives the same noise whatever the block.
      activations: l_i of each input, (N, …), real; flattened to (N, d).
      noise_std: σ, in the units of the activations, the same for all of them.
      labels: the class of each input, (N,), anything that can be sorted; None for I(X; T) alone.
      draws: times that each input is used, with fresh noise.
      block: pairs of an input and a draw at a time.
      rows: inputs that the average goes over, a random choice; None, or N or more, for all. The
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
    for name, count, least in (("draws", draws, 1), ("block", block, 1), ("rows", rows, 2)):
        if count is not None and operator.index(count) < least:
            raise ValueError(f"{name} must be at least {least}, got {count}")
    codes, class_sizes = np.zeros(n, np.int32), np.array([n])
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
        chosen = np.sort(np.asarray(jax.random.permutation(choice_key, n))[:used])
    # Inputs with their draws, one after another, in blocks of one shape, hence one compilation;
    # what fills up the last one is dropped.
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


def label_gaussian_features(
    key: jax.Array,
    means: ArrayLike,
    priors: ArrayLike | None = None,
    *,
    std: float = 1.0,
    draws: int = 200_000,
) -> tuple[float, float]:
    """I(X; Y) of a label Y and Gaussian features X | y ~ N(μ_y, s² 1).

    It is the mean over X of the divergence of the exact posterior p(y | X) from the prior. Only
    the projection of X on the span of the differences of the means tells of Y, so that the noise
    has at most K − 1 dimensions, whatever d is. The average goes over each class's features in
    turn, as many as the class's share of the draws, two at least.

    Args:
      key: a PRNG key.
      means: μ_y of each class, (K, d) or (K,).
      priors: p(y), (K,); None for equal ones.
      std: s, in the units of the means.
      draws: features that the average goes over, all classes together.

    Returns:
      The value and its standard error, in nats.

    Raises:
      ValueError: if the means are not finite numbers of at least one class, the priors are not
        probabilities of its K classes that add up to 1, s is not positive, or there are less than
        two draws.
    """
    centres = np.asarray(means, np.float64)
    if centres.ndim == 1:
        centres = centres[:, None]
    if centres.ndim != 2 or centres.shape[0] < 1:
        raise ValueError(f"means must be (K, d) or (K,) with K >= 1, got shape {np.shape(means)}")
    if not np.all(np.isfinite(centres)):
        raise ValueError(f"means must be finite, got {centres[~np.isfinite(centres)][0]}")
    if not (math.isfinite(std) and std > 0):
        raise ValueError(f"std must be positive and finite, got {std}")
    if operator.index(draws) < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    count = centres.shape[0]
    shares = np.full(count, 1 / count) if priors is None else np.asarray(priors, np.float64)
    if shares.shape != (count,):
        raise ValueError(f"priors must be ({count},), one for each mean, got {shares.shape}")
    shares = _probabilities(shares, "priors")
    centres, shares = centres[shares > 0], shares[shares > 0]

    centred = (centres - centres.mean(axis=0)) / std
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    spanned = lengths > max(centred.shape) * np.finfo(np.float64).eps * lengths.max(initial=0)
    coordinates = (left * lengths)[:, spanned]

    counts = np.maximum(2, np.round(draws * shares).astype(int))
    noise = np.asarray(
        jax.random.normal(key, (counts.sum(), coordinates.shape[1]), jnp.float32), np.float64
    )
    nats = variance = 0.0
    parts = np.split(noise, np.cumsum(counts)[:-1])
    for centre, share, part in zip(coordinates, shares, parts, strict=True):
        # ln p(x | k) − ln p(x | y), in which |x − μ_y|² cancels.
        apart = coordinates - centre
        log_ratios = part @ apart.T - 0.5 * np.square(apart).sum(axis=1)
        log_joint = log_ratios + np.log(shares)
        top = log_joint.max(axis=1, keepdims=True)
        log_evidence = top + np.log(np.exp(log_joint - top).sum(axis=1, keepdims=True))
        posterior = np.exp(log_joint - log_evidence)
        divergence = np.sum(posterior * (log_ratios - log_evidence), axis=1)
        nats += share * divergence.mean()
        variance += share**2 * divergence.var(ddof=1) / len(part)
    return float(nats), math.sqrt(variance)


def entropy(labels: ArrayLike) -> float:
    """H(Y) of the empirical distribution of labels, (n,), in nats."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    shares = counts / counts.sum()
    return float(-np.sum(shares * np.log(shares)))


def discrete(joint: ArrayLike) -> float:
    """I(X; Z) = Σ p(x, z) ln(p(x, z)/p(x)p(z)) of a joint probability table.

    Cover and Thomas 2006, equation 2.28.

    Args:
      joint: p(x, z), (values of X, values of Z), not negative, with sum 1.

    Returns:
      The value in nats.

    Raises:
      ValueError: if `joint` is not a table of probabilities with sum 1.
    """
    table = np.asarray(joint, np.float64)
    if table.ndim != 2:
        raise ValueError(f"joint must have two dimensions, got shape {table.shape}")
    table = _probabilities(table, "joint")
    xs, zs = np.nonzero(table)
    shares = table[xs, zs]
    of_x, of_z = table.sum(axis=1)[xs], table.sum(axis=0)[zs]
    return max(0.0, float(np.sum(shares * (np.log(shares) - np.log(of_x) - np.log(of_z)))))


@jax.jit
def _mixture_sums(
    key: jax.Array,
    points: jax.Array,
    half_squares: jax.Array,
    codes: jax.Array,
    streams: jax.Array,
) -> jax.Array:
    """Σ_j p(t | l_j)/p(t | l_i) over all j and over those of i's class, t = l_i + noise.

    Nothing overflows or vanishes, though no maximum is taken out: the term of i itself is 1, and
    as each ratio has mean 1, a sum above N e^c has probability below e^−c.

    Args:
      key: a PRNG key.
      points: activations in units of the noise, (N, d).
      half_squares: half their squared norms, (N,).
      codes: classes, (N,).
      streams: numbers of the noise vectors, (block,), unsigned; that of draw k of input i is
        kN + i.

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
    own = jnp.where(codes[rows][:, None] == codes[None], ratios, 0)
    return jnp.stack([ratios.sum(axis=1), own.sum(axis=1)], axis=1)


def _in_noise_units(flat: np.ndarray, noise_std: float, block: int) -> np.ndarray:
    """Activations (N, d) around their mean in units of the noise, in the precision they need."""
    parts = [slice(start, start + block) for start in range(0, len(flat), block)]
    with np.errstate(invalid="ignore", over="ignore"):
        mean = flat.mean(axis=0, dtype=np.float64)
        largest = np.max([np.square(flat[part] - mean).sum(axis=1).max() for part in parts])
    if not math.isfinite(largest):
        wrong = flat[~np.isfinite(flat)]
        got = wrong[0] if wrong.size else np.abs(flat).max()
        raise ValueError(f"activations and their squares must be finite, got {got}")
    reach = math.sqrt(largest)
    if reach / noise_std > math.sqrt(_FLOAT64_LIMIT):
        raise ValueError(
            f"noise_std {noise_std} is lost in rounding beside activations that are {reach} from "
            f"their mean; use at least {reach / math.sqrt(_FLOAT64_LIMIT)}"
        )
    wide = reach / noise_std > math.sqrt(_FLOAT32_LIMIT)
    points = np.empty(flat.shape, np.float64 if wide else np.float32)
    for part in parts:
        points[part] = (flat[part] - mean) / noise_std
    return points


def _mean_over_inputs(values: np.ndarray, n: int) -> tuple[float, float]:
    """The mean of values (draws, m) of m of n inputs, and its standard error."""
    draws, m = values.shape
    of_noise = values.var(axis=0, ddof=1).mean() / draws if draws > 1 else 0.0
    of_inputs = max(0.0, values.mean(axis=0).var(ddof=1) - of_noise)
    left_out = 1 - m / n if draws > 1 else 1.0
    return float(values.mean()), math.sqrt((of_inputs * left_out + of_noise) / m)


def _probabilities(shares: np.ndarray, name: str) -> np.ndarray:
    """The shares, with sum 1 to the last place.

    Raises:
      ValueError: if one is negative or not finite, or their sum is not 1 within 1e-6.
    """
    wrong = shares[~(np.isfinite(shares) & (shares >= 0))]
    if wrong.size:
        raise ValueError(f"{name} must be probabilities, got {wrong[0]}")
    total = shares.sum()
    if not abs(total - 1) <= 1e-6:
        raise ValueError(f"{name} must add up to 1, got {total}")
    return shares / total
