"""Where a fit starts: the Gaussian part in closed form, the earlier networks, or T = 0.

The Gaussian part of a statistics network is the log density ratio of canonical pairs (Hotelling
1936), or of linear discriminant analysis for labels (Fisher 1936), from the training samples. This
is another estimator than MINE; training improves on it. Several candidates compete on the
validation samples.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mine_jax.compilation import jit
from mine_jax.mine import MineConfig, MineState, stack
from mine_jax.mine.evaluation import validation_nats
from mine_jax.mine.gaussian import GaussianPart
from mine_jax.mine.padding import num_rows
from mine_jax.mine.stack import Array, Data
from mine_jax.mine.training import sums_over_classes

RIDGES = (0.001, 0.02, 0.3)
LABEL_RIDGES = (0.02, 0.3)
TEMPERATURES = (1.0, 0.8, 0.6, 0.4)  # factors of the correlations, or of the discriminants
NUM_LEADING_PAIRS = (1, 2, 3, 4, 6, 8, 12)
MEAN_THRESHOLDS = (0.0, 2.5)  # standard errors below which a class's mean in a column is chance
# Of many candidates one seems better than T = 0 by chance: in nats, over √(validation samples).
MIN_START_GAIN = 0.5
# Standard deviation of a direction, beside the mean column, below which it counts as constant.
MIN_RELATIVE_SPREAD = 1e-3
MIN_GAP = 1e-8  # of 1 − ρ²: the resolution of float32 samples
ALL_PAIRS = 1 << 30


class Correlated(NamedTuple):
    """Canonical pairs: projections of unit variance and 1 − ρ² of each pair."""

    x_mean: Array
    x_projections: Array
    z_mean: Array
    z_projections: Array
    gap: Array


def choose_start(
    fresh: MineState,
    earlier: MineState | None,
    data: Data,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    fold: np.ndarray,
    num_test: int,
    config: MineConfig,
    noise_alone: bool = False,
) -> MineState:
    """Return for every network the candidate that is best on its validation samples.

    The candidates are
    * the untrained network, T = 0; another candidate must be better by `MIN_START_GAIN` / √s;
    * the Gaussian part with several ridges and temperatures, with all canonical pairs and with the
      leading ones only, as later pairs may be functions of the first ones; where both sides have
      the same number of columns also with their columns paired (for labels instead without class
      means that may be chance);
    * for a warm start the earlier networks, as they are and with a new Gaussian part.

    Args:
      fresh: untrained networks.
      earlier: networks of an earlier round; None for a cold start.
      data: samples of the stack.
      train_rows: (folds, m); they may end in padding, see `padding`.
      validation_rows: (folds, s); likewise.
      fold: the fold of each network, (networks,).
      num_test: number of test samples of a fold.
      config: the configuration.
      noise_alone: z is x without measurement noise; then columns that are paired are all that the
        closed form tries.
    """
    candidates = [fresh]
    if config.gaussian_start and fresh.gaussian is not None:
        labels = sums_over_classes(data, config)
        temperatures = TEMPERATURES if labels or earlier is None else TEMPERATURES[:1]
        renewed = []
        how = fresh, labels, temperatures, config, noise_alone
        for parts in _closed_forms(data, train_rows, validation_rows, fold, *how):
            candidates += [fresh._replace(gaussian=part) for part in parts]
            if earlier is not None:
                renewed.append(earlier._replace(gaussian=parts[0]))
        candidates += renewed
    if earlier is not None:
        candidates.insert(1, earlier)
    rows, over = validation_rows[fold], train_rows[fold]
    return _best(candidates, data, rows, over, num_test, config)


def _closed_forms(
    data: Data,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    fold: np.ndarray,
    fresh: MineState,
    labels: bool,
    temperatures: tuple[float, ...],
    config: MineConfig,
    noise_alone: bool,
) -> Iterator[list[GaussianPart]]:
    """Yield the Gaussian parts of each closed form; the first one is at temperature 1."""
    if labels:
        for ridge, threshold in itertools.product(LABEL_RIDGES, MEAN_THRESHOLDS):
            part = discriminant_form(data, train_rows, fold, ridge, threshold, config)
            yield [temper_discriminants(part, t) for t in temperatures]
        return
    assert fresh.gaussian is not None
    width = fresh.gaussian.cross.shape[-1]
    most = min(config.leading_pairs, width - 1)
    leading = [number for number in NUM_LEADING_PAIRS if number <= most]
    columns = [np.asarray(side.columns)[np.asarray(side.index)] for side in data]
    paired = (columns[0] == columns[1]) & (columns[0] <= width)
    for ridge in () if noise_alone and paired.all() else RIDGES:
        form = canonical_form(data, train_rows, validation_rows, fold, ridge, width, config)
        yield [temper_correlations(form, t, ALL_PAIRS) for t in temperatures] + [
            temper_correlations(form, t, number)
            for number, t in itertools.product(leading, temperatures[:2])
        ]
    if paired.any():
        form = paired_form(data, train_rows, fold, width, config)
        yield [temper_correlations(form, t, ALL_PAIRS) for t in temperatures]


def _best(
    candidates: list[MineState],
    data: Data,
    rows: np.ndarray,
    train_rows: np.ndarray,
    num_test: int,
    config: MineConfig,
) -> MineState:
    best, best_nats = candidates[0], np.empty(0)
    active = np.ones(len(rows), bool)
    for number, candidate in enumerate(candidates):
        nats = validation_nats(candidate, active, data, rows, train_rows, num_test, config)
        nats = np.where(np.isfinite(nats), nats, -np.inf)
        if number == 0:
            best_nats = nats + MIN_START_GAIN / np.sqrt(num_rows(rows))
            continue
        better = nats > best_nats
        if better.any():
            best = stack.choose(better, candidate, best)
            best_nats = np.maximum(nats, best_nats)
    return best


@jit(static_argnames=("width", "config"), fast_compile=True, shares_work=True)
def canonical_form(
    data: Data,
    train_rows: Array,
    validation_rows: Array,
    fold: Array,
    ridge: float,
    width: int,
    config: MineConfig,
) -> Correlated:
    """Compute the canonical pairs of the training samples, with a ridge.

    Their correlations are those on the validation samples, less what chance gives (1/n in the
    square), so that directions that were over-fitted get no weight. They are made to fall in the
    order of the training samples (`isotonic`): each of hundreds of small correlations by itself
    would cost 1/2n nats. Where samples have measurement
    noise, which is independent of the other side, cross-covariances are those of the samples
    without it, which have smaller errors; variances are those of the samples with it.

    Args:
      data: samples of the stack.
      train_rows: (folds, m).
      validation_rows: (folds, s).
      fold: the fold of each network, (networks,).
      ridge: as a fraction of the mean variance of the columns.
      width: number of canonical pairs.
      config: the configuration.

    Returns:
      The pairs of every network, networks in front.
    """

    def one(
        fold: Array,
        x_index: Array,
        z_index: Array,
        data: Data,
        train_rows: Array,
        validation_rows: Array,
        ridge: Array,
    ) -> Correlated:
        sides = [
            _side(data.x, x_index, train_rows[fold], validation_rows[fold]),
            _side(data.z, z_index, train_rows[fold], validation_rows[fold]),
        ]
        m, number = (num_rows(rows) for rows in (train_rows, validation_rows))
        roots = []
        for side in sides:
            covariance = side.train.T @ side.train / m
            level = jnp.trace(covariance) / side.columns + 1e-9
            covariance += (ridge + 1e-4) * level * jnp.eye(len(covariance))
            roots.append(jnp.linalg.inv(jnp.linalg.cholesky(covariance)))
        cross = roots[0] @ (sides[0].noiseless.T @ sides[1].noiseless / m) @ roots[1].T
        u, _, v = jnp.linalg.svd(cross, full_matrices=False)
        k = min(width, u.shape[1])
        projections, projected = [], []
        for side, root, directions in zip(sides, roots, (u, v.T), strict=True):
            directions = root.T @ directions[:, :k]
            squares = jnp.sum(jnp.square(directions), axis=0)
            spread = jnp.sqrt(jnp.sum(jnp.square(side.train @ directions), axis=0) / m)
            mean_variance = jnp.sum(jnp.square(side.train)) / m / side.columns
            least = MIN_RELATIVE_SPREAD * jnp.sqrt(squares * mean_variance) + 1e-6
            directions = directions / jnp.where(spread > least, spread, jnp.inf)[None]
            values = _centered(side.validation @ directions, validation_rows[fold])[0]
            projected.append(values * _inverse_spread(values, number)[None])
            projections.append(jnp.pad(directions, ((0, 0), (0, width - k))))
        a, b = projected
        # A constant column has no correlation, and its place is after all others.
        varies = jnp.any(a != 0, axis=0) & jnp.any(b != 0, axis=0)
        differences = jnp.sum((a - b) ** 2, axis=0) / number
        one_minus_rho = isotonic(jnp.where(varies, differences / 2, 2.0))
        gap = _gap(one_minus_rho, a, b, number)
        gap = jnp.pad(gap, (0, width - k), constant_values=1.0)
        return Correlated(sides[0].mean, projections[0], sides[1].mean, projections[1], gap)

    mapper = stack.resolve_mapper(config.mapper)
    common = data, train_rows, validation_rows, jnp.asarray(ridge)
    return stack.map_networks(mapper, one, fold, data.x.index, data.z.index, common=common)


@jit(static_argnames=("width", "config"), fast_compile=True, shares_work=True)
def paired_form(
    data: Data, train_rows: Array, fold: Array, width: int, config: MineConfig
) -> Correlated:
    """Compute pairs where column k of x belongs to column k of z, as with z = x + noise.

    Both sides are rotated alike, by the eigenvectors of the symmetric part of their
    cross-covariance, which leaves one correlation per direction to fit instead of d² canonical
    weights: that many over-fit. Networks of different numbers of columns, or of more than `width`,
    get no correlation.

    Args:
      data: samples of the stack.
      train_rows: (folds, m).
      fold: the fold of each network, (networks,).
      width: number of canonical pairs.
      config: the configuration.

    Returns:
      The pairs of every network, networks in front.
    """

    def one(
        fold: Array, x_index: Array, z_index: Array, data: Data, train_rows: Array
    ) -> Correlated:
        rows, m = train_rows[fold], num_rows(train_rows)
        x = _side(data.x, x_index, rows, rows[:1])
        z = _side(data.z, z_index, rows, rows[:1])
        widths = x.train.shape[1], z.train.shape[1]
        cross = x.noiseless.T @ z.noiseless / m
        cross = jnp.pad(cross, [(0, max(widths) - size) for size in widths])
        values, axes = jnp.linalg.eigh((cross + cross.T) / 2)
        axes = axes[:, jnp.argsort(-jnp.abs(values))[:width]]  # those of padding come last
        on_axes = axes[: widths[0]], axes[: widths[1]]
        a, b = x.train @ on_axes[0], z.train @ on_axes[1]
        sign = jnp.where(jnp.sum(a * b, axis=0) < 0, -1.0, 1.0)
        on_x, on_z = _inverse_spread(a, m), _inverse_spread(b, m) * sign
        a, b = a * on_x[None], b * on_z[None]
        gap = _gap(jnp.sum((a - b) ** 2, axis=0) / m / 2, a, b, m)
        gap = jnp.where((x.columns == z.columns) & (x.columns <= width), gap, 1.0)
        padding = 0, width - len(gap)
        projections = [
            jnp.pad(side * scale[None], ((0, 0), padding))
            for side, scale in zip(on_axes, (on_x, on_z), strict=True)
        ]
        gap = jnp.pad(gap, padding, constant_values=1.0)
        return Correlated(x.mean, projections[0], z.mean, projections[1], gap)

    mapper = stack.resolve_mapper(config.mapper)
    common = data, train_rows
    return stack.map_networks(mapper, one, fold, data.x.index, data.z.index, common=common)


class _Columns(NamedTuple):
    train: Array
    noiseless: Array  # training samples without measurement noise
    validation: Array
    mean: Array
    columns: Array


def _side(side: stack.Side, index: Array, train_rows: Array, validation_rows: Array) -> _Columns:
    """Return centered training and validation samples of one array as columns; padding is 0."""
    train, validation = (
        stack.take_rows(side.measured, index, rows).reshape(len(rows), -1)
        for rows in (train_rows, validation_rows)
    )
    (train, mean), noiseless = _centered(train, train_rows), None
    if side.noiseless is not None:
        noiseless = stack.take_rows(side.noiseless, index, train_rows).reshape(train.shape)
        noiseless, _ = _centered(noiseless, train_rows)
    return _Columns(
        train,
        train if noiseless is None else noiseless,
        validation - mean[None],
        mean,
        side.columns[index],
    )


def _centered(values: Array, rows: Array) -> tuple[Array, Array]:
    """Return values (r, k) of rows less their mean, with zeros for padding, and the mean, (k,)."""
    real = (rows >= 0)[:, None]
    mean = jnp.mean(values, axis=0, where=real)
    return jnp.where(real, values - mean[None], 0), mean


def isotonic(values: Array) -> Array:
    """Return the least-squares fit of values, (k,), by a sequence that never falls.

    max over a ≤ i of min over b ≥ i of the mean of values a … b (Robertson, Wright and Dykstra
    1988, theorem 1.4.4).
    """
    k = len(values)
    sums = jnp.cumsum(jnp.pad(values, (1, 0)))
    first, last = jnp.arange(k)[:, None], jnp.arange(k)[None]
    means = (sums[1:][None] - sums[:-1][:, None]) / jnp.maximum(last - first + 1, 1)
    means = jnp.where(first <= last, means, jnp.inf)
    # For each first, the least mean over last ≥ i.
    least = jax.lax.cummin(means, axis=1, reverse=True)
    return jnp.max(jnp.where(first <= last, least, -jnp.inf), axis=0)


def _inverse_spread(values: Array, n: Array) -> Array:
    """Return one over each centered column's root mean square over n; 0 for constant ones."""
    squares = jnp.sum(values * values, axis=0) / n
    least = MIN_RELATIVE_SPREAD * jnp.sqrt(jnp.mean(squares)) + 1e-6
    spread = jnp.sqrt(squares)
    return jnp.where(spread > least, 1 / jnp.maximum(spread, 1e-6), 0)


def _gap(one_minus_rho: Array, a: Array, b: Array, n: Array) -> Array:
    """Return 1 − ρ² of columns of unit variance with ρ ≥ 0, without what chance gives.

    1 − ρ comes from the difference of the columns, since ρ itself has no digits left near 1.
    """
    gap = one_minus_rho * (2 - one_minus_rho) / (1 - 1 / n)
    # The difference of a constant column from anything has no meaning; two samples lie on a line.
    varies = jnp.any(a != 0, axis=0) & jnp.any(b != 0, axis=0) & (n > 2)
    return jnp.where(varies & (one_minus_rho < 1), jnp.clip(gap, MIN_GAP, 1.0), 1.0)


@jit(fast_compile=True)
@jit(fast_compile=True)
def temper_correlations(
    form: Correlated, temperature: float | Array, leading: int | Array
) -> GaussianPart:
    """Return the Gaussian part of canonical pairs.

    For unit-variance u, v with correlation ρ the log density ratio is
    (ρuv − ρ²(u² + v²)/2)/(1 − ρ²) and a constant, written with (u − v)².

    Args:
      form: the pairs, networks in front.
      temperature: what correlations are multiplied by.
      leading: number of pairs that count.
    """
    counts = jnp.arange(form.gap.shape[-1]) < leading
    gap = jnp.where(counts[None], form.gap, 1.0)
    # At 1 as it is: the difference from 1 has no digits left for correlations near 1.
    gap = jnp.where(temperature < 1, 1 - temperature**2 * (1 - gap), gap)
    rho = jnp.sqrt(1 - gap)
    square = -rho / (1 + rho) / 2
    return GaussianPart(*form[:4], cross=rho / gap, x_square=square, z_square=square)


@jit(static_argnames=("config",), fast_compile=True, shares_work=True)
def discriminant_form(
    data: Data,
    train_rows: Array,
    fold: Array,
    ridge: float,
    threshold: float,
    config: MineConfig,
) -> GaussianPart:
    """Compute the linear discriminants of classes (Fisher 1936): a log density ratio.

    The covariance within classes is shrunk towards its diagonal, the more the more columns there
    are for the samples, and the larger the ridge. A class's mean in a column counts if it is
    `threshold` standard errors from the mean of all classes (after Tibshirani et al. 2002,
    "Diagnosis of multiple cancer types by shrunken centroids"): each of many columns that tell
    nothing costs a little.

    Args:
      data: samples of the stack; z is labels.
      train_rows: (folds, m).
      fold: the fold of each network, (networks,).
      ridge: amount of shrinkage.
      threshold: in standard errors.
      config: the configuration.

    Returns:
      The Gaussian part of every network, networks in front.
    """

    def one(
        fold: Array,
        x_index: Array,
        z_index: Array,
        data: Data,
        train_rows: Array,
        ridge: Array,
        threshold: Array,
    ) -> GaussianPart:
        rows, m = train_rows[fold], num_rows(train_rows)
        side = _side(data.x, x_index, rows, rows[:1])
        labels = stack.take_rows(data.z.measured, z_index, rows) * (rows >= 0)[:, None]
        width, classes = side.train.shape[1], labels.shape[1]
        counts = labels.sum(axis=0)
        means = labels.T @ side.noiseless / jnp.maximum(counts, 1)[:, None]
        within = side.train - labels @ means
        covariance = within.T @ within / m
        variance_of_means = jnp.maximum(1 / jnp.maximum(counts, 1) - 1 / m, 0)
        errors = jnp.sqrt(jnp.diag(covariance)[None, :] * variance_of_means[:, None])
        means = jnp.where(jnp.abs(means) >= threshold * errors, means, 0)
        shrinkage = jnp.minimum(1.0, 2 * side.columns / m + 3 * ridge)
        level = jnp.trace(covariance) / side.columns
        shrunk = (1 - shrinkage) * covariance + shrinkage * jnp.diag(jnp.diag(covariance))
        shrunk += (1e-4 * level + 1e-6) * jnp.eye(width)
        projections = jnp.linalg.solve(shrunk, means.T)
        bias = -0.5 * jnp.sum(means.T * projections, axis=0)
        ones = jnp.ones(classes)
        return GaussianPart(
            x_mean=side.mean,
            x_projections=projections,
            z_mean=jnp.zeros(classes),
            z_projections=jnp.eye(classes),
            cross=ones,
            x_square=-ones / 2,
            z_square=-ones / 2 - bias,
        )

    mapper = stack.resolve_mapper(config.mapper)
    common = data, train_rows, jnp.asarray(ridge), jnp.asarray(threshold)
    return stack.map_networks(mapper, one, fold, data.x.index, data.z.index, common=common)


@jit(fast_compile=True)
def temper_discriminants(part: GaussianPart, temperature: float | Array) -> GaussianPart:
    """Multiply discriminants by a temperature."""
    return part._replace(
        cross=part.cross * temperature,
        x_square=part.x_square * temperature,
        z_square=part.z_square * temperature,
    )
