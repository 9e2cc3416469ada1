"""From scores to nats: the Donsker–Varadhan bound, MINE's gradient of it and its held-out value.

The functions take scores T(x, z) as arrays and know nothing of the network that made them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp


class HeldOut(NamedTuple):
    """A bound on samples that the network has not seen.

    Attributes:
      nats: the value of the bound, ().
      stderr: its standard error, (), in nats.
      influence: what each sample adds to the value, to first order, (n,). The standard error is
        their standard deviation over √n; that of a difference of two bounds on the same samples
        is the same of the difference of their influences.
    """

    nats: jax.Array
    stderr: jax.Array
    influence: jax.Array


def log_mean_exp(values: jax.Array) -> jax.Array:
    """Log((1/m) Σ exp(v)) over all entries, without overflow.

    Args:
      values: scores of any shape with at least one entry.

    Returns:
      A scalar of the same floating type.

    Raises:
      ValueError: if `values` has no entry.
    """
    values = jnp.asarray(values)
    if values.size == 0:
        raise ValueError(f"log_mean_exp needs at least one score, got shape {values.shape}")
    return logsumexp(values) - jnp.log(values.size)


def donsker_varadhan(t_joint: jax.Array, t_marginal: jax.Array) -> jax.Array:
    """The Donsker–Varadhan bound: mean T over the joint − log mean exp T over the marginals.

    Its supremum over all T is the mutual information (Donsker and Varadhan 1983; Belghazi et al.
    2018, eq. 5). Differentiable; works under `jit` and `vmap`.

    Args:
      t_joint: T(x_i, z_i) on paired samples, any shape.
      t_marginal: T(x_i, z̄_j) on samples of the product of the marginals, any shape.

    Returns:
      The value in nats, a scalar.

    Raises:
      ValueError: if either array is empty.
    """
    t_joint = jnp.asarray(t_joint)
    if t_joint.size == 0:
        raise ValueError(f"donsker_varadhan needs at least one joint score, got {t_joint.shape}")
    return jnp.mean(t_joint) - log_mean_exp(t_marginal)


def log_partition(t_joint: jax.Array, t_pairings: jax.Array) -> jax.Array:
    """The log of mean exp T over the product of the empirical marginals of n samples.

    All n² pairs belong to that product, the n joint ones included. Those enter exactly, with
    their weight of 1/n² each; the mean over the others is taken over the given pairings.

    With the joint pairs in, mean T over the joint − this is at most ln n, however large a single
    score is; and it bounds the mutual information from below in expectation: by Jensen it is
    below the mean over rows of T(x_i, z_i) − log mean_j exp T(x_i, z_j), which is InfoNCE with n
    samples (van den Oord et al. 2018, eq. 4). Without them nothing caps a network that memorises.

    Args:
      t_joint: T(x_i, z_i), (n,).
      t_pairings: T(x_i, z_j) over permutations without fixed points, (k, n).

    Returns:
      A scalar, in nats.
    """
    n = t_joint.shape[0]
    return jnp.logaddexp(
        log_mean_exp(t_pairings) + jnp.log1p(-1.0 / n), log_mean_exp(t_joint) - jnp.log(n)
    )


def bias_corrected(
    t_joint: jax.Array, batch_log_partition: jax.Array, average_log_partition: jax.Array
) -> jax.Array:
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


def update_log_partition(
    average: jax.Array, batch: jax.Array, weight: float, first: jax.Array
) -> jax.Array:
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


def held_out(t_joint: jax.Array, t_pairings: jax.Array, shifts: jax.Array) -> HeldOut:
    """The Donsker–Varadhan bound over the product of the empirical marginals of n samples.

    The marginal term is `log_partition`, so that the value is at most ln n and a lower bound of
    the mutual information in expectation.

    The standard error is that of the first-order projection of this two-sample statistic:
    ψ_i = T(x_i, z_i) − (mean of exp T over row i + over column i)/(mean over all).

    Args:
      t_joint: T(x_i, z_i), (n,).
      t_pairings: T(x_i, z_(i + shift) mod n), (k, n).
      shifts: the k different shifts, (k,), integers in 1 … n − 1.

    Returns:
      The value, its standard error and its samples' influence, in nats.

    Raises:
      ValueError: if there are fewer than 2 samples, or the shapes do not fit.
    """
    n = t_joint.shape[0]
    if n < 2 or t_pairings.shape[1:] != (n,) or t_pairings.shape[0] != shifts.shape[0]:
        raise ValueError(
            "held_out needs t_joint (n,) with n >= 2, t_pairings (k, n) and shifts (k,); got "
            f"{t_joint.shape}, {t_pairings.shape} and {shifts.shape}"
        )
    partition = log_partition(t_joint, t_pairings)
    own = jnp.exp(t_joint - partition) / n
    ratios = jnp.exp(t_pairings - partition)
    partners = (jnp.arange(n)[None, :] - shifts[:, None]) % n
    others = jnp.mean(ratios + jnp.take_along_axis(ratios, partners, axis=1), axis=0)
    influence = t_joint - 2 * own - (1 - 1 / n) * others
    return HeldOut(
        nats=jnp.mean(t_joint) - partition,
        stderr=jnp.std(influence, ddof=1) / jnp.sqrt(n),
        influence=influence,
    )
