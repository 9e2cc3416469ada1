"""Scores T(x, z) -> nats: training objectives, their gradients, and bounds on held-out samples.

The functions take scores as arrays and know nothing of the network that computed them.

| `bound=` | training objective | reported | ceiling |
|---|---|---|---|
| `infonce` | InfoNCE in both directions | Donsker–Varadhan or InfoNCE, see `held_out` | ln n |
| `donsker_varadhan` | the Donsker–Varadhan bound of the batch | likewise | ln n |
| `mine` | the same with MINE's corrected gradient | likewise | ln n |
| `nwj` | f-MINE | NWJ | ln n |
| `smile` | the Donsker–Varadhan bound with clipped scores | as `infonce` | ln n |

The objective decides how a network is trained; the reported value is a lower bound for each of
them. Only the InfoNCE form cannot exceed ln n; `estimate` caps the others there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

Array = jax.Array | np.ndarray

BOUNDS = ("infonce", "donsker_varadhan", "mine", "nwj", "smile")
SMILE_CLIP = 5.0  # τ of Song and Ermon 2020, one of the values that they report


class Scores(NamedTuple):
    """The scores of one network on a batch of n samples.

    Attributes:
      joint: T(x_i, z_i), (n,).
      rows: T of x_i with each of its m candidates z, the joint pair among them, (n, m).
      columns: T of z_i with each of its m candidates x, likewise; None where z is discrete and
        `rows` has one column for each of its values.
      weights: weights of `rows` in the mean over the marginals, that broadcast to (n, m) and sum
        to 1 in each row up to a constant: 0 for the joint pair, or the probabilities of a
        discrete z.
    """

    joint: Array
    rows: Array
    columns: Array | None
    weights: Array


class Sums(NamedTuple):
    """Sums over the scores of all pairs of n samples, for the held-out bounds.

    Attributes:
      joint: T(x_i, z_i), (n,).
      rows: log Σ_j≠i exp T(x_i, z_j), (n,).
      columns: log Σ_i≠j exp T(x_i, z_j), (n,).
      squares: log Σ_i≠j exp 2T(x_i, z_j), ().
      as_negative: Σ_i≠j exp T(x_i, z_j) / Σ_k exp T(x_i, z_k) for each j, (n,).
      others: how many j there are for each i; n − 1 where all pairs were taken.
    """

    joint: Array
    rows: Array
    columns: Array
    squares: Array
    as_negative: Array
    others: Array


class HeldOut(NamedTuple):
    """A bound on samples that the network has not seen.

    Attributes:
      nats: the value of the bound, ().
      stderr: its standard error, (), in nats.
      influence: first-order contribution of each sample to the value, (n,). The standard error is
        their standard deviation over √n, plus a second-order term of the marginal mean. For the
        difference of two bounds on the same samples, take the difference of the influences.
    """

    nats: Array
    stderr: Array
    influence: Array


def log_mean_exp(values: Array, weights: Array | None = None) -> Array:
    """Compute ln of the (weighted) mean of exp(v) over all entries, without overflow.

    Args:
      values: scores of any shape with at least one entry.
      weights: not negative, broadcast to the shape of `values`; None for equal weights.

    Returns:
      A scalar of the same floating type.

    Raises:
      ValueError: if `values` has no entry.
    """
    values = jnp.asarray(values)
    if values.size == 0:
        raise ValueError(f"log_mean_exp needs at least one score, got shape {values.shape}")
    if weights is None:
        return logsumexp(values) - jnp.log(values.size)
    weights = jnp.broadcast_to(weights, values.shape)
    return logsumexp(values, b=weights) - jnp.log(jnp.sum(weights))


def donsker_varadhan(t_joint: Array, t_marginal: Array, weights: Array | None = None) -> Array:
    """Compute the Donsker–Varadhan bound: mean T over the joint − ln mean exp T over the marginals.

    Its supremum over all T is the mutual information (Donsker and Varadhan 1983; Belghazi et al.
    2018, eq. 5). Differentiable; works under `jit` and `vmap`.

    A fair coin and its copy have the density ratio 2 where they agree, and 0 elsewhere:

    >>> import numpy as np
    >>> joint, marginal = np.log([2, 2]), np.log([2, 1e-9, 1e-9, 2])
    >>> round(float(donsker_varadhan(joint, marginal)), 4)  # ln 2
    0.6931

    Args:
      t_joint: T(x_i, z_i) on paired samples, any shape.
      t_marginal: T(x_i, z̄_j) on samples of the product of the marginals, any shape.
      weights: weights of the marginal scores, which broadcast to their shape; None for equal ones.

    Returns:
      The value in nats, a scalar.

    Raises:
      ValueError: if either array is empty.
    """
    t_joint = jnp.asarray(t_joint)
    if t_joint.size == 0:
        raise ValueError(f"donsker_varadhan needs at least one joint score, got {t_joint.shape}")
    return jnp.mean(t_joint) - log_mean_exp(t_marginal, weights)


def nwj(scores: Scores) -> Array:
    """Compute mean T over the joint − mean exp(T − 1) over the marginals, ().

    Nguyen, Wainwright and Jordan 2010; f-MINE (Belghazi et al. 2018, eq. 8). A lower bound without
    bias even on a batch; at its optimum T is 1 + the log density ratio. Its variance grows with the
    exponential of the mutual information.
    """
    return jnp.mean(scores.joint) - jnp.exp(log_mean_exp(scores.rows, scores.weights) - 1)


def infonce(scores: Scores) -> Array:
    """Compute the mean of T(x_i, z_i) − ln mean exp T over the candidates of x_i, ().

    van den Oord et al. 2018, eq. 4, averaged over both directions. At most ln m for m candidates,
    and biased down when the mutual information comes near; but its best T is the log density ratio
    (and a constant) for any m, and one large score moves only the term of its own sample, which is
    why it is the default. For a discrete z it is H(Z) − the cross-entropy of the classifier
    exp(T) p(z).
    """
    if scores.columns is None:
        return -jnp.mean(_cross_entropy_excess(scores.joint, scores.rows, jnp.log(scores.weights)))
    both = logsumexp(scores.rows, axis=1) + logsumexp(scores.columns, axis=1)
    return jnp.mean(scores.joint - both / 2) + jnp.log(scores.rows.shape[1])


def smile(scores: Scores) -> Array:
    """Compute the Donsker–Varadhan bound with marginal scores clipped to ±`SMILE_CLIP`, ().

    Song and Ermon 2020, eq. 17. Less variance, but not a lower bound: it can exceed the mutual
    information. It is an objective only.
    """
    clipped = jnp.clip(scores.rows, -SMILE_CLIP, SMILE_CLIP)
    return donsker_varadhan(scores.joint, clipped, scores.weights)


def objective(bound: str, scores: Scores, average_log_partition: Array) -> Array:
    """Compute the training objective, ().

    Args:
      bound: one of `BOUNDS`.
      scores: those of the batch.
      average_log_partition: moving average of the log partition function, for `mine`.

    Returns:
      The bound on this batch; for `mine` and `smile` only its gradient means something.

    Raises:
      ValueError: if the bound is unknown.
    """
    if bound == "infonce":
        return infonce(scores)
    if bound == "donsker_varadhan":
        return donsker_varadhan(scores.joint, scores.rows, scores.weights)
    if bound == "mine":
        partition = log_mean_exp(scores.rows, scores.weights)
        return bias_corrected(scores.joint, partition, average_log_partition)
    if bound == "nwj":
        return nwj(scores)
    if bound == "smile":
        return smile(scores)
    raise ValueError(f"bound must be one of {BOUNDS}, got {bound!r}")


def bias_corrected(
    t_joint: Array, batch_log_partition: Array, average_log_partition: Array
) -> Array:
    """A surrogate whose gradient is MINE's corrected one (Belghazi et al. 2018, eq. 12).

    The gradient of a mini-batch's log mean exp divides by the mini-batch's own partition
    function, which biases it; dividing by a moving average over many batches does not. Only the
    gradient of the result means something: its value is not a bound.

    Args:
      t_joint: T(x_i, z_i), any shape.
      batch_log_partition: log mean exp T of this batch's marginal pairs, ().
      average_log_partition: the moving average, (), see `update_log_partition`.

    Returns:
      A scalar. With both log partitions equal, its gradient is that of the bound itself.
    """
    average = jax.lax.stop_gradient(average_log_partition)
    return jnp.mean(t_joint) - jnp.exp(batch_log_partition - average)


def update_log_partition(average: Array, batch: Array, weight: float, first: Array) -> Array:
    """The moving average of mean exp T, kept in log space so that it cannot overflow.

    Args:
      average: log of the average so far, ().
      batch: log mean exp T of this batch's marginal pairs, ().
      weight: the share of the new batch, in (0, 1].
      first: whether this is the first batch, (); the average then starts from it, so that the
        first corrected gradient is the plain one.

    Returns:
      log of the new average, (); no gradient flows through it.
    """
    batch = jax.lax.stop_gradient(batch)
    old = jnp.log1p(-jnp.asarray(weight, batch.dtype)) + average
    return jnp.where(first, batch, jnp.logaddexp(old, jnp.log(weight) + batch))


def held_out(sums: Sums, bound: str = "donsker_varadhan", real: Array | None = None) -> HeldOut:
    """A bound on held-out samples, with its standard error.

    * `donsker_varadhan`: over all pairs of different samples. Hardly biased as long as the value
      lies well below ln n, since the mean over n(n − 1) pairs varies little; one large score among
      them can spoil it.
    * `infonce`: over all pairs, the joint ones included. Never above ln n, lower than the other for
      values near it, and no single score can spoil it.
    * `nwj`: over all pairs of different samples.

    All are lower bounds of the mutual information (the first up to its small bias). The influences
    are those of the von Mises expansion of these two-sample statistics.

    Args:
      sums: of the scores of the samples' pairs.
      bound: one of those three.
      real: samples that are no padding, (n,); None for all. Padding has no part in `sums` but its
        own entries, which are ignored.

    Returns:
      The value, its standard error and its samples' influence, in nats; that of padding means
      nothing.

    Raises:
      ValueError: if there are fewer than 2 samples, or the bound is unknown.
    """
    n = sums.joint.shape[0]
    if n < 2:
        raise ValueError(f"held_out needs at least 2 samples, got joint scores {sums.joint.shape}")
    n = n if real is None else jnp.sum(real)
    others = jnp.asarray(sums.others, sums.joint.dtype)
    if bound == "infonce":
        own = jnp.logaddexp(sums.rows - jnp.log(others) + jnp.log(n - 1.0), sums.joint)
        each = sums.joint - own + jnp.log(n)
        as_negative = sums.as_negative + jnp.exp(sums.joint - own)
        influence = each - as_negative
        return HeldOut(_mean(each, real), _stderr(influence, real), influence)
    rows = sums.rows if real is None else jnp.where(real, sums.rows, -jnp.inf)
    partition = logsumexp(rows) - jnp.log(n * others)
    ratios = (jnp.exp(sums.rows - partition) + jnp.exp(sums.columns - partition)) / others
    # A mean over pairs of which each sample's share is constant still varies: to second order by
    # the spread of the single pairs.
    squares = jnp.exp(sums.squares - 2 * partition - jnp.log(n * others))
    pairs = jnp.maximum(squares - 1, 0) / (n * others)
    if bound == "nwj":
        level = jnp.exp(partition - 1)
        influence = sums.joint - level * ratios
        stderr = _stderr(influence, real, pairs * level**2)
        return HeldOut(_mean(sums.joint, real) - level, stderr, influence)
    if bound != "donsker_varadhan":
        raise ValueError(f"bound must be donsker_varadhan, infonce or nwj, got {bound!r}")
    influence = sums.joint - ratios
    stderr = _stderr(influence, real, pairs)
    return HeldOut(_mean(sums.joint, real) - partition, stderr, influence)


def held_out_discrete(
    t_joint: Array,
    rows: Array,
    log_weights: Array,
    bound: str = "infonce",
    real: Array | None = None,
) -> HeldOut:
    """`held_out` for a discrete z, whose marginal is summed exactly.

    With T normalized for each x, which can only raise it, the Donsker–Varadhan bound is that of
    InfoNCE: H(Z) − the cross-entropy.

    Args:
      t_joint: T(x_i, z_i), (n,).
      rows: T(x_i, c) for every value c of z, (n, c).
      log_weights: the logs of the values' probabilities, (c,).
      bound: "nwj", or anything else for the normalized bound.
      real: as for `held_out`.

    Returns:
      The value, its standard error and its samples' influence, in nats.

    Raises:
      ValueError: if there are fewer than 2 samples.
    """
    if t_joint.shape[0] < 2:
        raise ValueError(
            f"held_out_discrete needs at least 2 samples, got joint scores {t_joint.shape}"
        )
    surplus = _cross_entropy_excess(t_joint, rows, log_weights)
    each = t_joint - jnp.exp(t_joint + surplus - 1) if bound == "nwj" else -surplus
    return HeldOut(_mean(each, real), _stderr(each, real), each)


def _cross_entropy_excess(t_joint: Array, rows: Array, log_weights: Array) -> Array:
    """Log Σ_c p_c exp(T(x_i, c) − T(x_i, z_i)), (n,): the difference first loses no digits."""
    return logsumexp(rows - t_joint[:, None] + log_weights[None], axis=1)


def _mean(values: Array, real: Array | None) -> Array:
    return jnp.mean(values, where=real)


def _stderr(influence: Array, real: Array | None, second_order: Array | float = 0.0) -> Array:
    n = influence.shape[0] if real is None else jnp.sum(real)
    return jnp.sqrt(jnp.var(influence, ddof=1, where=real) / n + second_order)
