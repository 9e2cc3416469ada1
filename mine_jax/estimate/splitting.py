"""Training, validation and test rows, at random or so that rows that belong together stay so."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mine_jax.compilation import jit
from mine_jax.estimate.dependence import find_copies, neighbors_are_alike
from mine_jax.estimate.variables import Variable, is_missing
from mine_jax.mine import MineConfig
from mine_jax.mine.padding import next_power_of_two, pad_rows
from mine_jax.mine.stack import Array
from mine_jax.value_checks import is_integer

MAX_COPIES = 0.01  # of the rows; more are reported
MAX_UNUSED = 0.5  # of the rows; more are reported
# Of a block's length: what is dropped on either side of a boundary between two different uses.
GAP = 0.1
MIN_BLOCK = 10  # rows
TRAIN, VALIDATION, TEST, UNUSED = range(4)
MAX_ROUNDS = 3  # of sorting, for a permutation of less than 2³² rows
SERIES_WARNING = (
    "Neighboring rows are alike, in x and in z: if they are a series, the value is too high and "
    "its standard error too small without blocks=20 or groups=; if independent rows are only "
    "sorted, nothing is wrong, and in a random order this warning is gone."
)


class Splits(NamedTuple):
    """Rows of the samples by their use, disjoint within each fold; in random order.

    Attributes:
      train: (folds, m).
      validation: (folds, s).
      test: (folds, r); with `cross_fit` no row is a test row in more than one fold.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Grouping(NamedTuple):
    """Rows that have the same use in each fold.

    Attributes:
      codes: number of each row's group, from 0, (n,).
      boundaries: first row of each block of a series but the first one, ascending; else empty.
      gap: rows that are dropped on either side of a boundary whose sides have different uses.
    """

    codes: np.ndarray
    boundaries: np.ndarray
    gap: int


def split(key: Array, n: int, config: MineConfig, grouping: Grouping | None = None) -> Splits:
    """Split rows into training, validation and test samples.

    A random order of the rows is cut into `folds` parts. In fold f part f is for testing, the rows
    after it for validation, the rest (with the n mod folds rows that are in no part) for training.
    Without `cross_fit` there is fold 0 only.

    Groups are dealt out instead, large ones first and else in random order, each to the part that
    lacks most rows: to `folds` parts for testing, and in each fold the others to validation and
    training. Parts are cut to the smallest one of any fold; rows that are left over have no use in
    that fold.

    Args:
      key: a PRNG key.
      n: number of samples.
      config: `folds`, `cross_fit` and `validation_fraction`.
      grouping: rows that stay together; None for none.

    Raises:
      ValueError: if groups are too few or too unequal for at least 2 rows of each use.
    """
    order = _permutation(key, n)
    part, validation = sizes(n, config)
    if grouping is not None:
        return _split_groups(order, part, validation, config, grouping)
    rolled = [np.roll(order, -f * part) for f in range(config.folds if config.cross_fit else 1)]
    folds = np.stack(rolled).astype(np.int32)
    return Splits(
        train=folds[:, part + validation :],
        validation=folds[:, part : part + validation],
        test=folds[:, :part],
    )


def split_key(key: Array) -> Array:
    """Return the key of the split: the first of two that a key is split into."""
    return _two_keys(key)[0]


def _permutation(key: Array, n: int) -> np.ndarray:
    """Return `jax.random.permutation(key, n)` without compiling it for each n.

    So it is with JAX's default generator, whose first numbers do not depend on how many are drawn.
    """
    order = np.arange(n, dtype=np.int32)
    rounds = math.ceil(3 * math.log(n) / math.log(2**32 - 1))
    bits = np.asarray(_random_bits(key, next_power_of_two(n)))
    for each in bits[:rounds, :n]:
        order = order[np.argsort(each, kind="stable")]
    return order


@jit(fast_compile=True)
def _two_keys(key: Array) -> Array:
    return jax.random.split(key)


@jit(static_argnames=("number",), fast_compile=True)
def _random_bits(key: Array, number: int) -> Array:
    """Return the numbers that `jax.random.permutation` sorts by, (rounds, number)."""

    def draw(key: Array, _: None) -> tuple[Array, Array]:
        key, of_round = jax.random.split(key)
        return key, jax.random.bits(of_round, (number,), np.uint32)

    return jax.lax.scan(draw, key, None, MAX_ROUNDS)[1]


def sizes(n: int, config: MineConfig) -> tuple[int, int]:
    """Return the numbers of test and of validation samples of a fold."""
    return n // config.folds, round(n * config.validation_fraction)


def pad_splits(rows: Splits, num_samples: int | None, config: MineConfig) -> Splits:
    """Pad rows (see `mine.padding`) so that programs serve more than one number of them.

    Test and validation rows get one width. With `num_samples` all widths are those that so many
    samples have in a random split; a power of two where groups are larger than that.
    """
    held_out, train = max(rows.test.shape[1], rows.validation.shape[1]), rows.train.shape[1]
    if num_samples is not None:
        test, validation = sizes(num_samples, config)
        # Rounding may give fewer samples one more row.
        usual = max(test, validation), num_samples - test - validation + 1
        held_out, train = (
            most if number <= most else next_power_of_two(number)
            for number, most in zip((held_out, train), usual, strict=True)
        )
    return Splits(
        pad_rows(rows.train, train),
        pad_rows(rows.validation, held_out),
        pad_rows(rows.test, held_out),
    )


def group_rows(
    x: Variable,
    z: Mapping[str, Variable],
    config: MineConfig,
    groups: Any = None,
    blocks: int | None = None,
) -> tuple[Grouping | None, dict[str, tuple[str, ...]]]:
    """Find the rows that must stay together, and reasons not to trust a random split.

    Copies of a row (`find_copies`) stay together, with the groups or blocks that they are in. With
    several z these are the copies of any of them, as all have one split.

    Args:
      x: (n, …).
      z: names to samples, (n, …).
      config: `folds`.
      groups: hashable objects, equal for rows that belong together, (n,).
      blocks: number of blocks of equal length that a series is cut into.

    Returns:
      The grouping, None if no rows belong together; and sentences of warning for each name.

    Raises:
      ValueError: if both are given, `groups` has another length, missing values or too few
        different ones, or `blocks` is not an integer that makes enough blocks of `MIN_BLOCK` rows.
    """
    warnings: dict[str, tuple[str, ...]] = dict.fromkeys(z, ())
    n = len(x.values)
    if groups is not None and blocks is not None:
        raise ValueError("give groups or blocks, not both: a block is a group of rows")
    boundaries, gap = np.empty(0, np.int64), 0
    given = np.arange(n) if groups is None else _codes_of(groups, n)
    if blocks is not None:
        boundaries = _cut(blocks, n, config)
        given = np.searchsorted(boundaries, np.arange(n), side="right")
        gap = max(1, round(GAP * n / blocks))
    codes = given
    for name, side in z.items():
        copies = find_copies(x, side)
        if copies is None:
            continue
        codes = _join(codes, copies)
        crossing = _num_crossing(given, copies)
        if crossing > MAX_COPIES * n:
            warnings[name] = (
                f"{crossing:,} of {n:,} rows are copies of one another; they were kept on one side "
                "of the split and count as one: remove them unless they are observations of their "
                "own.",
            )
    if groups is None and blocks is None:
        first = np.sort(np.unique(codes, return_index=True)[1])
        for name, side in z.items():
            sides = sorted((x, side), key=lambda each: each.values.size)  # mostly one is enough
            if all(neighbors_are_alike(each, first) for each in sides):
                warnings[name] += (SERIES_WARNING,)
    num_groups = int(codes.max()) + 1
    if num_groups == n and blocks is None:
        return None, warnings
    if num_groups < config.folds + 2:
        what = "blocks" if blocks is not None else "groups" if groups is not None else "rows"
        raise ValueError(
            f"{num_groups} {what} are too few, with copies of rows joined: at least "
            f"{config.folds + 2} are needed, one for each of {config.folds} test parts, one for "
            "training and one for validation"
        )
    return Grouping(codes, boundaries, gap), warnings


def unused_warning(rows: Splits, n: int) -> tuple[str, ...]:
    """Return a sentence of warning if parts of equal size leave out most of n rows."""
    used = sum(part.shape[1] for part in rows)
    if used >= (1 - MAX_UNUSED) * n:
        return ()
    return (
        f"Groups of unequal size leave {n - used:,} of {n:,} rows of each fold unused: make the "
        "large ones smaller, or choose other folds.",
    )


def _split_groups(
    order: np.ndarray, part: int, validation: int, config: MineConfig, grouping: Grouping
) -> Splits:
    n, codes = len(order), grouping.codes
    group_sizes = np.bincount(codes)
    first = np.unique(codes[order], return_index=True)[1]
    place = np.argsort(np.argsort(first))  # of each group, as their first rows come in random order
    test_part = _deal(group_sizes, place, [part] * config.folds)
    uses = []
    for f in range(config.folds if config.cross_fit else 1):
        others = np.flatnonzero(test_part != f)
        num_test = n - group_sizes[others].sum()
        dealt = _deal(
            group_sizes[others],
            (place[others] - f * len(place) // config.folds) % len(place),
            [n - num_test - validation, validation],
        )
        group_use = np.full(len(group_sizes), TEST)
        group_use[others] = dealt
        use = group_use[codes]
        for boundary in grouping.boundaries:
            if use[boundary - 1] != use[boundary]:
                use[boundary - grouping.gap : boundary + grouping.gap] = UNUSED
        uses.append(use[order])
    parts = []
    for which in (TRAIN, VALIDATION, TEST):
        rows = [order[use == which] for use in uses]
        length = min(map(len, rows))
        if length < 2:
            raise ValueError(
                f"groups are too few or too unequal: of {n} rows in {config.folds} test parts, "
                f"one part leaves {length} for {('training', 'validation', 'testing')[which]}; use "
                "more groups, or smaller ones"
            )
        parts.append(np.stack([each[:length] for each in rows]).astype(np.int32))
    return Splits(*parts)


def _deal(group_sizes: np.ndarray, place: np.ndarray, targets: list[int]) -> np.ndarray:
    """Give each group the number of a part.

    Groups of several rows come first, by powers of two, each to the part that lacks most rows;
    single rows fill what is left. No part stays empty if there are enough groups.

    Args:
      group_sizes: numbers of rows, (groups,).
      place: which of groups of about one size come first, (groups,).
      targets: numbers of rows of the parts.
    """
    order = np.lexsort((place, -np.frexp(group_sizes)[1]))
    parts = np.zeros(len(order), np.int64)
    lacking, empty = [float(target) for target in targets], set(range(len(targets)))
    num_several = np.count_nonzero(group_sizes > 1)
    # Few single rows are dealt out like larger groups.
    one_by_one = max(num_several, min(len(order), len(targets)))
    for i, group in enumerate(order[:one_by_one]):
        choices = empty if len(order) - i <= len(empty) else range(len(targets))
        chosen = max(choices, key=lambda part: lacking[part])
        parts[group] = chosen
        lacking[chosen] -= group_sizes[group]
        empty.discard(chosen)
    singles = order[one_by_one:]
    room = np.maximum(lacking, 0) if max(lacking) > 0 else np.ones(len(targets))
    ends = np.round(np.cumsum(room) / room.sum() * len(singles)).astype(int)
    parts[singles] = np.repeat(np.arange(len(targets)), np.diff(ends, prepend=0))
    return parts


def _codes_of(groups: Any, n: int) -> np.ndarray:
    """Number the groups of the caller, (n,)."""
    if getattr(groups, "ndim", 1) == 2 and groups.shape[1] == 1 and hasattr(groups, "ravel"):
        groups = groups.ravel()
    values = groups.tolist() if hasattr(groups, "tolist") else groups
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"groups must be a list with an entry for each row, got {groups!r}")
    values = list(values)
    if len(values) != n:
        raise ValueError(f"groups must have an entry for each of the {n} rows, got {len(values)}")
    if missing := sum(map(is_missing, values)):
        raise ValueError(
            f"groups has missing values in {missing:,} of {n:,} rows; give rows that belong to no "
            "other a group of their own"
        )
    numbers: dict[Any, int] = {}
    try:
        return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)
    except TypeError as error:
        raise ValueError(f"groups must be hashable, one for each row: {error}") from error


def _cut(blocks: int, n: int, config: MineConfig) -> np.ndarray:
    """Return the first row of each block but the first one."""
    least, most = config.folds + 2, n // MIN_BLOCK
    parts = f"one for each of {config.folds} test parts, one for training and one for validation"
    if most < least:
        raise ValueError(
            f"{n} rows are too few for blocks={blocks!r}: at least {least} blocks are needed, "
            f"{parts}, of {MIN_BLOCK} rows each; give at least {least * MIN_BLOCK} rows"
        )
    if not is_integer(blocks) or not least <= blocks <= most:
        raise ValueError(
            f"blocks must be an integer from {least} ({parts}) to {most} (of {MIN_BLOCK} rows "
            f"each), got {blocks!r}"
        )
    return np.arange(1, blocks) * n // blocks


def _join(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Number the smallest groups that hold those of both kinds."""
    from scipy import sparse

    offset = codes.max() + 1
    size = offset + others.max() + 1
    edges = sparse.coo_array((np.ones(len(codes)), (codes, offset + others)), shape=(size, size))
    joined = sparse.csgraph.connected_components(edges, directed=False)[1]
    return np.unique(joined[codes], return_inverse=True)[1]


def _num_crossing(codes: np.ndarray, copies: np.ndarray) -> int:
    """Count rows whose copies are in more than one group."""
    n = len(codes)
    places = np.bincount(np.unique(copies * n + codes) // n)
    return int(np.count_nonzero(places[copies] > 1))
