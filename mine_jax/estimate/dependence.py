"""Rows that are not independent of one another: copies, and neighbors in a series."""

import numpy as np

from mine_jax.estimate.variables import Variable, row_codes

MAX_COLUMNS = 8  # of a side that are looked at one by one; of more, halves or projections
ATOM_SHARE = 0.01  # of the rows; a value in more of them, such as 0 or -999, says nothing
MAX_REPEATS = 20  # rows up to which a value may be twice as frequent as the median one
MIN_SHARED = 5  # different values that are shared; fewer are chance, and without consequence
MIN_AGREEMENT = 0.9  # of the rows that share a value, those that share all others
# Equal pairs over pairs one step apart, for a value to be no rounded one. Rounding makes it 1/2.
MIN_EXCESS = 2.0
STEP_TOLERANCE = 1.05  # relative; beyond, two steps are not the same
SMALLEST_STEP = 1e-9  # of a value; smaller differences are those of rounding in the last digits
# A side shows that its neighbors are alike by a lag-one correlation of so much, and of so many
# standard errors; rows with the most frequent value are not counted.
MIN_CORRELATION, MIN_STANDARD_ERRORS, MIN_ROWS = 0.1, 5.0, 50


def find_copies(x: Variable, z: Variable) -> np.ndarray | None:
    """Number rows so that copies of one another have one number.

    Copies agree in x and z, which discrete data do by chance. They are copies if a *key* shows it:
    one column of a side that is not labels (of more than `MAX_COLUMNS`, every second column, as
    one), in which

    * they share a value that is no atom, that is one in more than `ATOM_SHARE` of all rows (of
      few rows, in more than twice as many as the median value, or in more than `MAX_REPEATS`);
    * at least `MIN_SHARED` such values are shared, and nearly all rows that share one agree in all
      else, too (`MIN_AGREEMENT`);
    * equal pairs are more than those one step apart (`MIN_EXCESS`): rounded values come both ways.

    Args:
      x: (n, …).
      z: (n, …).

    Returns:
      (n,), integers; None if there are no copies.
    """
    sides = sorted((x, z), key=lambda side: side.values.size)
    n = len(x.values)
    if all(side.kind == "labels" for side in sides):
        return None
    joint = row_codes(sides[0].values)
    tied = np.bincount(joint)[joint] > 1
    if not tied.any():
        return None
    # Digests of many columns take longest: of rows that agree in the other side only.
    other = np.zeros(n, np.int64)
    other[tied] = row_codes(sides[1].values[tied])
    joint = np.unique(joint * n + other, return_inverse=True)[1]
    num_equal = np.bincount(joint)[joint]
    if not (num_equal > 1).any():
        return None
    shown = np.zeros(n, bool)
    for side in sides:
        if side.kind == "labels":
            continue
        columns = side.values.reshape(n, -1)
        if columns.shape[1] > MAX_COLUMNS:
            for half in (columns[:, ::2], columns[:, 1::2]):
                shown |= _shown_by(row_codes(half), num_equal)
            continue
        for column in columns.T:
            values, codes, counts = np.unique(column, return_inverse=True, return_counts=True)
            atoms = _is_atom(counts)
            shares = _shown_by(codes, num_equal)
            pairs = counts[~atoms] * (counts[~atoms] - 1.0) / 2
            if pairs.sum() > MIN_EXCESS * _near_pairs(values[~atoms], counts[~atoms]):
                shown |= shares
    if not shown.any():
        return None
    alone = np.flatnonzero(~shown)
    joint[alone] = n + alone
    return np.unique(joint, return_inverse=True)[1]


def _is_atom(counts: np.ndarray) -> np.ndarray:
    return counts > max(ATOM_SHARE * counts.sum(), min(2 * np.median(counts), MAX_REPEATS))


def _shown_by(codes: np.ndarray, num_equal: np.ndarray) -> np.ndarray:
    """Return which rows are copies as a key shows it, (n,).

    Args:
      codes: of the key's values, (n,).
      num_equal: how many rows agree with a row in all values, (n,).
    """
    counts = np.bincount(codes)
    shared_values = (counts > 1) & ~_is_atom(counts)
    shared = shared_values[codes]
    agrees = num_equal == counts[codes]
    if shared_values.sum() < MIN_SHARED or np.mean(agrees[shared]) < MIN_AGREEMENT:
        return np.zeros(len(codes), bool)
    return shared & (num_equal > 1)


def _near_pairs(values: np.ndarray, counts: np.ndarray) -> float:
    """Count pairs of rows whose values are one step apart.

    The step is the smallest difference of neighbors with one sign and binary exponent, so that
    digits, significant digits and floats of few bits all have their own. The pair that defines a
    step is not counted: values that are not rounded have no other of that step.

    Args:
      values: the different values, ascending.
      counts: their rows.
    """
    if len(values) < 3:
        return 0.0
    scale = np.sign(values) * (np.frexp(values)[1] + 2000)
    gaps, pairs = np.diff(values), counts[1:] * counts[:-1].astype(float)
    usable = (scale[1:] == scale[:-1]) & (gaps > SMALLEST_STEP * np.abs(values[1:]))
    gaps, pairs, scale = gaps[usable], pairs[usable], scale[1:][usable]
    if not len(gaps):
        return 0.0
    starts = np.flatnonzero(np.diff(scale, prepend=np.nan) != 0)
    steps = np.repeat(np.minimum.reduceat(gaps, starts), np.diff(starts, append=len(gaps)))
    near = gaps <= STEP_TOLERANCE * steps
    numbers = np.add.reduceat(near, starts, dtype=float)
    totals = np.add.reduceat(pairs * near, starts)
    return float(np.sum(totals * (1 - 1 / numbers)))


def neighbors_are_alike(side: Variable, rows: np.ndarray) -> bool:
    """Tell whether neighboring rows of one side are more alike than those of a shuffled one.

    The lag-one rank correlation of a column (Wald and Wolfowitz 1943), or for labels the number of
    runs (Barton and David 1957), is beyond `MIN_STANDARD_ERRORS` of its distribution over all
    orders, and beyond `MIN_CORRELATION`. Of more than `MAX_COLUMNS` columns four random
    projections are taken. For independent rows this holds in fewer than one of 10,000 data sets.

    Args:
      side: (n, …).
      rows: those to look at, ascending.
    """
    values = side.values[rows]
    if side.kind == "labels":
        return _labels_are_alike(values)
    columns = values.reshape(len(values), -1)
    if columns.shape[1] > MAX_COLUMNS:
        largest = max(columns.max(), -columns.min())  # squares of 1e200 overflow
        columns = columns / (largest if largest > 0 else 1)
        deviation = columns.std(axis=0)
        weights = np.random.default_rng(0).normal(size=(columns.shape[1], 4))
        weights /= np.where(deviation > 0, deviation, np.inf)[:, None]
        columns = columns @ weights.astype(columns.dtype)
    return any(_column_is_alike(column) for column in columns.T)


def _column_is_alike(column: np.ndarray) -> bool:
    n = len(column)
    if n - np.unique(column, return_counts=True)[1].max(initial=0) < MIN_ROWS:
        return False
    from scipy.stats import rankdata  # takes a second to import

    ranks = rankdata(column).astype(np.float64)  # float32 of float32 since SciPy 1.18
    ranks -= ranks.mean()
    correlation = (ranks[1:] @ ranks[:-1]) / (ranks @ ranks) + 1 / n
    return correlation > max(MIN_CORRELATION, MIN_STANDARD_ERRORS / np.sqrt(n))


def _labels_are_alike(codes: np.ndarray) -> bool:
    n, counts = float(len(codes)), np.bincount(codes).astype(float)
    if n - counts.max(initial=0) < MIN_ROWS:
        return False
    squares, cubes = np.sum(counts**2), np.sum(counts**3)
    mean = n + 1 - squares / n
    variance = (squares * (squares + n * (n + 1)) - 2 * n * cubes - n**3) / (n**2 * (n - 1))
    fewer = mean - 1 - np.count_nonzero(np.diff(codes))
    return fewer > max(MIN_CORRELATION * mean, MIN_STANDARD_ERRORS * np.sqrt(variance))
