"""`independence_test`: a p-value of independence, from permutations of samples."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from mine_jax.compilation import on_host
from mine_jax.estimate.competition import (
    Training,
    competitors,
    num_samples,
    round_keys,
    train_groups,
)
from mine_jax.estimate.estimation import candidate_pairs
from mine_jax.estimate.pairs import group_pairs
from mine_jax.estimate.preparation import prepare, principal_axes
from mine_jax.estimate.splitting import (
    SERIES_WARNING,
    Grouping,
    Splits,
    group_rows,
    split,
    split_key,
)
from mine_jax.estimate.variables import Variable, read_variables
from mine_jax.mine import MineConfig
from mine_jax.mine.checks import check_key
from mine_jax.mine.evaluation import score_groups
from mine_jax.mine.stack import Array
from mine_jax.value_checks import is_integer

# By Bonferroni: half of the level is the correlations', a quarter each network's.
CORRELATION_FACTOR, NETWORK_FACTOR = 2, 4
MIN_PERMUTATIONS = 99  # fewer cannot give a p-value of 0.05
MAX_PERMUTATIONS = 1_000_000  # minutes for the correlations of 1,000 rows
MIN_ORDERS = 1000  # of the groups of a half of the samples; fewer are refused
MAX_CHUNK = 512  # groups that change places with one another: their scores are held at once
MAX_CORRELATED = 32  # columns of a side; of more the first so many principal components
RIDGE = 0.01  # of the mean variance, added to that of each principal axis
BLOCK_PERMUTATIONS = 1000  # that are drawn at once
TIE = 1e-5  # of a standard deviation over permutations; sums that are closer are equal
SERIES = (
    "Neighboring rows are alike, in x and in z: if they are a series, the p-value is too small "
    "without blocks=20 or groups=; if independent rows are only sorted, nothing is wrong, and in a "
    "random order this warning is gone."
)


class IndependenceTest(NamedTuple):
    """A test of independence.

    >>> import numpy as np
    >>> x, noise = np.random.default_rng(0).normal(size=(2, 200))
    >>> test = independence_test(x, x * noise)
    >>> test.correlation_p_value > 0.05 > min(test.network_p_values)
    True

    Attributes:
      p_value: min(1, 2 `correlation_p_value`, 4 `network_p_values`): where x and z are independent
        it is at most α in at most a share α of data sets, for any α. The smallest possible value
        is 2 / (1 + permutations), by networks 4 / (1 + permutations).
      statistic: by how much the networks score pairs (x_i, z_i) of test samples higher than pairs
        (x_i, z_j) on average, in nats; 0 where nothing was learned.
      correlation_p_value: of correlations between columns of x and z.
      network_p_values: of the networks that were fitted on one half of the samples and tested on
        the other, either way; 1 where nothing was learned.
      permutations: their number.
      encoders: what prepared the samples of either network.
      warnings: sentences on why not to trust the p-value.
    """

    p_value: float
    statistic: float
    correlation_p_value: float
    network_p_values: tuple[float, float]
    permutations: int
    encoders: tuple[str, str]
    warnings: tuple[str, ...]


@on_host
def independence_test(
    x: Any,
    z: Any,
    *,
    key: Array | None = None,
    config: MineConfig | None = None,
    discrete: Any = "auto",
    groups: Any = None,
    blocks: int | None = None,
    permutations: int = 999,
) -> IndependenceTest:
    """Test whether X and Z are independent, by permutations of samples that no network has seen.

    Networks are fitted on one half of the samples, as by `lower_bound`, and score the other half.
    If X and Z are independent, any pairing of these samples is as likely as theirs, so that the
    rank of Σ_i T(x_i, z_i) among Σ_i T(x_i, z_π(i)) for random permutations π gives an exact
    p-value, (1 + #{at least as large}) / (1 + `permutations`), whatever the networks learned
    (Lehmann and Romano 2005, section 15.2; Phipson and Smyth 2010). Encoders may have seen these
    samples, but not their pairing. The denominators of a bound are the same for all π.

    Then the halves are swapped; and correlations of columns are tested on all samples, by Σ ρ⁴ of
    whitened normal scores, as learning from a half loses power where they are all that there is.
    The three p-values depend on one another: Bonferroni's correction holds for any dependence.

    >>> import numpy as np
    >>> x, noise = np.random.default_rng(0).normal(size=(2, 200))
    >>> independence_test(x, x * noise).p_value < 0.05  # without any correlation
    True

    Args:
      x: (n, …), as for `lower_bound`.
      z: (n, …) likewise.
      key: a PRNG key; it fixes the split, the networks and the permutations. Default: key(0).
      config: how networks are built, trained and stopped; `folds` is 2 whatever it says. Default:
        `MineConfig()`.
      discrete: as for `lower_bound`.
      groups: (n,), hashable objects, equal for rows that are not independent. Groups change places
        as wholes, each with others of its number of rows; their rows must be in the same order, if
        they have one. The p-value is exact if groups are independent. Copies of rows are a group.
      blocks: rows are a series in order: cut it into so many blocks, which change places like
        groups, less a tenth of a block at either end. The p-value is exact as far as blocks are
        independent.
      permutations: their number.

    Returns:
      The `IndependenceTest`.

    Raises:
      TypeError: if `key` is no PRNG key, `config` no `MineConfig`, or x or z a mapping.
      ValueError: as `lower_bound`; if `permutations` is no integer from `MIN_PERMUTATIONS` to
        `MAX_PERMUTATIONS`, or groups or blocks have too few orders.
      RuntimeError: as `lower_bound`.
    """
    key = jax.random.key(0) if key is None else check_key(key, "independence_test(key=…)")
    config = MineConfig() if config is None else config
    if not isinstance(config, MineConfig):
        raise TypeError(f"config must be a MineConfig, got {config!r}")
    if isinstance(x, Mapping) or isinstance(z, Mapping):
        raise TypeError("x and z must be one array each; test the arrays of a mapping one by one")
    limits = MIN_PERMUTATIONS, MAX_PERMUTATIONS
    if not is_integer(permutations) or not limits[0] <= permutations <= limits[1]:
        raise ValueError(
            f"permutations must be an integer of at least {limits[0]} and at most {limits[1]:,}, "
            f"got {permutations!r}: the smallest p-value is {NETWORK_FACTOR} / (1 + permutations)"
        )
    config = dataclasses.replace(config, folds=2, cross_fit=True)
    x_side, z_sides = read_variables(x, {"z": z}, discrete)
    grouping, warnings = group_rows(x_side, z_sides, config, groups, blocks)
    pairs = candidate_pairs(x_side, z_sides, config, key, grouping)["z"]
    entries = {("z", pair.encoder): pair for pair in pairs}
    n = num_samples(entries, config)
    permutation_key = jax.random.fold_in(key, 1)
    rows = split(split_key(key), n, config, grouping)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(permutation_key)))
    parts = _test_parts(rows, grouping)
    moving = [_exchangeable(part, grouping) for part in (*parts, np.arange(n))]
    warned = tuple(SERIES if each == SERIES_WARNING else each for each in warnings["z"])
    warned += _check_orders(moving, n)

    trainings = train_groups(
        group_pairs(entries, config), rows, round_keys(key, 0, len(rows.train)), None, {}, None
    )
    places = competitors(trainings)
    p_values, encoders, excess, count = [], [], 0.0, 0
    for fold in range(2):
        number, network = places["z", fold][0]
        training = trainings[number]
        observed, permuted = _score_sums(training, network, moving[fold], permutations, rng)
        p_values.append(_p_value(observed, permuted))
        encoders.append(training.group.names[network // training.folds][1])
        excess += observed
        count += sum(each.size for each in moving[fold])
    white = _white_columns(x_side, "x"), _white_columns(z_sides["z"], "z")
    correlation = _p_value(*_correlation_sums(*white, moving[2], permutations, rng))
    smallest = min(CORRELATION_FACTOR * correlation, *(NETWORK_FACTOR * p for p in p_values))
    return IndependenceTest(
        p_value=min(1.0, smallest),
        statistic=excess / count,
        correlation_p_value=correlation,
        network_p_values=(p_values[0], p_values[1]),
        permutations=int(permutations),
        encoders=(encoders[0], encoders[1]),
        warnings=warned,
    )


# --- What changes places --------------------------------------------------------------------------


def _test_parts(rows: Splits, grouping: Grouping | None) -> list[NDArray]:
    """Return the test rows of each fold; with groups all of theirs, which `split` may have cut."""
    if grouping is None:
        return list(rows.test)
    return [np.flatnonzero(np.isin(grouping.codes, grouping.codes[test])) for test in rows.test]


def _exchangeable(rows: NDArray, grouping: Grouping | None) -> list[NDArray]:
    """Return rows that may change places, (groups, size): one array for each size of groups.

    Blocks are cut to one length first, without what is near to their ends.
    """
    if grouping is None:
        return [rows[:, None]]  # in random order
    codes = grouping.codes
    if len(grouping.boundaries):
        starts = np.concatenate([[0], grouping.boundaries])
        shortest = np.diff(starts, append=len(codes)).min()
        place = rows - starts[np.searchsorted(starts, rows, side="right") - 1]
        rows = rows[(place >= grouping.gap) & (place < shortest - grouping.gap)]
    rows = rows[np.argsort(codes[rows], kind="stable")]
    sizes = np.unique(codes[rows], return_counts=True)[1]
    of_row = np.repeat(sizes, sizes)
    return [rows[of_row == size].reshape(-1, size) for size in np.unique(sizes)]


def _check_orders(moving: Sequence[Sequence[NDArray]], n: int) -> tuple[str, ...]:
    """Raise ValueError if groups have too few orders; warn if most rows keep their place."""
    for strata in moving:
        if sum(math.lgamma(len(rows) + 1) for rows in strata) < math.log(MIN_ORDERS):
            sizes = ", ".join(f"{len(rows)} of {rows.shape[1]}" for rows in strata[:5])
            raise ValueError(
                "groups or blocks can change places in too few ways: each with others of its "
                f"number of rows, and in a half of the samples there are {sizes} rows"
                f"{', …' if len(strata) > 5 else ''}; use more of them, or cut groups to one size"
            )
    fixed = sum(rows.size for strata in moving[:2] for rows in strata if len(rows) == 1)
    if fixed <= n / 2:
        return ()
    return (
        f"{fixed:,} of {n:,} rows keep their place, as no other group of their half has as many "
        "rows: the test is weak; cut groups to one size.",
    )


# --- Statistics and their permutations ------------------------------------------------------------


def _score_sums(
    training: Training, network: int, strata: Sequence[NDArray], permutations: int, rng: Any
) -> tuple[float, NDArray]:
    """Return Σ T(x_i, z_i), and (permutations,) such sums of permuted z, less their mean.

    Groups change places within chunks of at most `MAX_CHUNK`, so that memory grows like n.
    """
    observed, permuted = 0.0, np.zeros(permutations)
    for stratum in strata:
        for rows in np.array_split(stratum, -(-len(stratum) // MAX_CHUNK)):
            scores = score_groups(
                training.state, training.task.data, network, rows, training.group.config
            )
            scores = np.asarray(scores, np.float64)
            scores = scores - scores.mean(axis=0) - scores.mean(axis=1)[:, None] + scores.mean()
            observed += np.trace(scores)
            positions = np.arange(len(rows))
            for start in range(0, permutations, BLOCK_PERMUTATIONS):
                part = permuted[start : start + BLOCK_PERMUTATIONS]
                orders = rng.permuted(np.tile(positions, (len(part), 1)), axis=1)
                part += scores[positions, orders].sum(axis=1)
    return float(observed), permuted


def _correlation_sums(
    x: NDArray, z: NDArray, strata: Sequence[NDArray], permutations: int, rng: Any
) -> tuple[float, NDArray]:
    """Return Σ ρ⁴ over the columns of x and z, and (permutations,) such sums of permuted z.

    The fourth power lies between the sum of squares (Pillai's trace), which is best if many
    correlations are of one size, and the largest one, which is best if there is only one.

    Args:
      x: (n, d_x), white.
      z: (n, d_z), white.
      strata: rows that change places.
      permutations: their number.
      rng: where they come from.
    """
    # Without its mean over permutations, as groups of one size may differ from others.
    left = np.concatenate(
        [(x[rows] - x[rows].mean(axis=0)).reshape(-1, x.shape[1]) for rows in strata]
    )
    sums = np.empty(permutations + 1)
    for i in range(permutations + 1):
        orders = [rows if i == 0 else rng.permutation(rows) for rows in strata]
        correlations = left.T @ z[np.concatenate([rows.ravel() for rows in orders])] / len(left)
        sums[i] = np.sum(correlations**4)
    return float(sums[0]), sums[1:]


def _white_columns(side: Variable, name: str) -> NDArray:
    """Return columns that are uncorrelated with one another, each close to one of the samples'.

    The symmetric root of the inverse covariance changes columns least (Kessy, Lewin and Strimmer
    2018, "Optimal whitening and decorrelation"): what is in a single column stays there.

    Args:
      side: (n, …); normal scores of columns, one-hot columns of labels, principal components.
      name: its name, for messages.
    """
    columns = np.asarray(prepare(side.values, name), np.float32)
    columns = columns - columns.mean(axis=0)
    if columns.shape[1] > MAX_CORRELATED:
        columns = columns @ principal_axes(columns, MAX_CORRELATED)
    variances, axes = np.linalg.eigh(columns.T @ columns / len(columns))
    roots = np.sqrt(np.maximum(variances, 0) + RIDGE * np.abs(variances).mean() + 1e-12)
    return columns @ ((axes / roots) @ axes.T)


def _p_value(observed: float, permuted: NDArray) -> float:
    """Return the share of permutations, the observed one included, that are at least as large."""
    count = np.count_nonzero(permuted >= observed - TIE * permuted.std())
    return (1 + int(count)) / (1 + len(permuted))
