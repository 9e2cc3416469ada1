"""`Variable`: what people bring, read as labels, columns of numbers, or images.

Arrays, lists, data frames, tensors and sparse matrices are recognized by what they can do, so that
none of their libraries is imported.
"""

import datetime
import hashlib
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mine_jax.estimate.arrays import MAX_EXACT, to_array
from mine_jax.estimate.image_moments import image_shape
from mine_jax.estimate.preparation import MAX_LABELS, as_labels, check_not_empty

MAX_ONCE = 0.9  # of the rows may hold labels that occur once
MIN_COUNT = 10  # rows from which a class can be learned
MIN_SHARE = 0.9  # of the rows, in values that are that frequent
MAX_UNORDERED = 10  # different values up to which an order tells nothing more
MAX_FRACTIONS = 20  # different values up to which numbers with fractions are labels
MAX_CATEGORIES = 100  # of the text in several columns, which become columns of zeros and ones
MAX_NAMED = 3  # columns that an error message names
BLOCK_ELEMENTS = 1 << 20  # numbers in a block of rows whose digests are computed
# What is wrong with a value, and what to do.
MISSING = "missing", "drop these rows of x and z, or fill them in"
INFINITE = "infinite", "drop these rows of x and z, or limit them"

Discrete = bool | str  # True, False or "auto"


class Variable(NamedTuple):
    """Samples of one variable.

    Attributes:
      values: for labels their codes 0, 1, …, (n,), int32; for columns (n, d), for images (n, h, w)
        or (n, h, w, c), float32 or float64 and finite.
      kind: "labels", "columns" or "images".
      shape: of the samples as they were given; for columns another shape of the same numbers.
      numbers: for labels that are more than `MAX_UNORDERED` numbers, and were not told to be
        labels, their values as a column, (n, 1), since their order may tell something; else None.
    """

    values: np.ndarray
    kind: str
    shape: tuple[int, ...]
    numbers: np.ndarray | None = None


class _Field(NamedTuple):
    """One column: its name, numbers, booleans or codes of text, and which rows lack a value."""

    name: Any
    values: np.ndarray
    is_text: bool
    missing: np.ndarray


def read_variables(
    x: Any, z: Mapping[str, Any], discrete: Any = "auto"
) -> tuple[Variable, dict[str, Variable]]:
    """Read the samples of `lower_bound`.

    Args:
      x: samples of one variable, see `read_variable`.
      z: names to samples.
      discrete: one value of `read_variable` for all, or a pair of those for x and for z; the one
        for z may be a mapping of names, where "auto" holds for the names that are absent.

    Returns:
      x, and z by name.

    Raises:
      ValueError: if the numbers of samples differ, `discrete` is none of these, a variable cannot
        be read, or nearly all of its labels occur once.
    """
    for_x, for_z = _discrete_sides(discrete, list(z))
    x_read = read_variable(x, "x", for_x)
    z_read = {name: read_variable(values, name, for_z[name]) for name, values in z.items()}
    sides = [("x", x_read), *((name if name != "x" else "x of z", z_read[name]) for name in z_read)]
    for name, side in sides:
        check_not_empty(side.values, name)
    lengths = {name: len(side.values) for name, side in sides}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"x and z must have the same number of samples, in pairs, got {lengths}")
    for name, side in sides:
        refuse_identifiers(side, name)
    return x_read, z_read


def read_variable(values: Any, name: str = "x", discrete: Discrete = "auto") -> Variable:
    """Read samples of one variable and decide what they are.

    With `discrete="auto"`

    * text, bytes, booleans and categories in one column, and one-hot columns, are labels;
    * numbers in one column are labels as `is_discrete` says, else a column;
    * (n, h, w) and (n, h, w, c) with at least 8 x 8 pixels and at most 4 channels are images;
    * all else are columns. Among several columns numbers come first, then booleans as zeros and
      ones, then text and categories with such a column for each category (one for two categories).

    Args:
      values: (n, …): anything that NumPy reads, a data frame or one of its columns (pandas,
        polars), a tensor on the CPU (torch, tensorflow), a sparse matrix (scipy). A `Variable` is
        returned as it is.
      name: name of the variable in error messages.
      discrete: "auto"; True, each different row is a label; False, all are numbers.

    Returns:
      The samples and their kind. Samples without axes, rows or columns are returned as they are.

    Raises:
      ValueError: if values are missing or infinite, complex, dates, of no or of several types,
        ragged, not on the CPU, too many for a dense matrix; if there are more than `MAX_LABELS`
        labels or `MAX_CATEGORIES` categories; if text is to be numbers.
    """
    if isinstance(values, Variable):
        return values
    if not isinstance(discrete, bool | np.bool_) and discrete != "auto":
        raise ValueError(f'discrete must be "auto", True or False, got {discrete!r}')
    discrete = "auto" if isinstance(discrete, str) else bool(discrete)
    fields = _frame_fields(values, name)
    if fields is None:
        array = to_array(values, name)
        if array.ndim == 0 or array.size == 0:
            return Variable(array, "columns", array.shape)
        if array.dtype.kind not in "OSUT":
            return _decide(array, name, discrete)
        columns = array.reshape(len(array), -1).T
        labels = range(len(columns)) if len(columns) > 1 else [None]
        fields = [
            _read_field(column, label, name) for label, column in zip(labels, columns, strict=True)
        ]
    return _decide_fields(fields, name, discrete)


def is_discrete(column: np.ndarray) -> bool:
    """Tell whether the numbers of one column are labels: values that come often enough to learn.

    They are if at most `MAX_LABELS` different values occur, at most `MAX_FRACTIONS` if some have
    fractions, and if `MIN_SHARE` of the rows hold a value that occurs at least `MIN_COUNT` times.
    The most frequent value is left out of this share: a unit that is mostly zero is no label.

    Codes of classes lose nearly all as numbers (Gaussian pairs in 100 codes and 2,000 rows: 0.05
    of 0.51 nats; as labels 0.47), ordered numbers little as labels (0.47 for 0.50) unless values
    are rare (0.42 at ten rows a value). Values with fractions are seldom codes.

    Args:
      column: (n,), real and finite.
    """
    values, counts = np.unique(column, return_counts=True)
    most = MAX_LABELS if np.array_equal(values, np.round(values)) else MAX_FRACTIONS
    if not 2 <= len(values) <= most:
        return False
    others = np.delete(counts, counts.argmax())
    return bool(others[others >= MIN_COUNT].sum() >= MIN_SHARE * others.sum())


def row_codes(values: np.ndarray) -> np.ndarray:
    """Number the different rows of an array.

    Args:
      values: (n, …), real numbers, finite.

    Returns:
      (n,), integers from 0; equal where rows are equal. Several columns are compared by digests
      of 128 bits.
    """
    if math.prod(values.shape[1:]) == 1:
        return np.unique(values.ravel(), return_inverse=True)[1]
    columns = values.reshape(len(values), -1)
    size = max(1, BLOCK_ELEMENTS // columns.shape[1])
    seen: dict[bytes, int] = {}
    codes = np.empty(len(columns), np.int64)
    for start in range(0, len(columns), size):
        block = np.ascontiguousarray(columns[start : start + size])
        if block.dtype.kind == "f":
            block = block + 0.0  # -0.0 equals 0.0
        for i, row in enumerate(block, start):
            digest = hashlib.blake2b(row, digest_size=16).digest()
            codes[i] = seen.setdefault(digest, len(seen))
    return codes


def is_missing(value: Any) -> bool:
    """Tell whether a Python object stands for a missing value: None, NaN, NaT or pandas' NA."""
    if value is None or type(value).__name__ == "NAType":
        return True
    try:
        different = value != value
    except ArithmeticError:  # of decimal's signaling NaN
        return True
    return isinstance(different, bool | np.bool_) and bool(different)


def refuse_identifiers(side: Variable, name: str) -> None:
    """Raise ValueError for labels that occur once: their classes are in no two parts of a split.

    Args:
      side: a variable.
      name: its name in the error message.
    """
    if side.kind != "labels":
        return
    once = int(np.sum(np.bincount(side.values) == 1))
    if once > MAX_ONCE * len(side.values):
        raise ValueError(
            f"{once:,} of the {len(side.values):,} labels of {name} occur once, as identifiers do, "
            "and nothing can be learned of them: leave it out, or turn it into numbers "
            "(discrete=False)"
        )


# --- Decisions ------------------------------------------------------------------------------------


def _decide(array: np.ndarray, name: str, discrete: Discrete) -> Variable:
    """Decide what an array of numbers or booleans is, (n, …)."""
    shape = array.shape
    _check_type(array.dtype, name)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = _rounded(array, name)
    if array.dtype.kind not in "biu":
        _check_rows(_by_column(np.isnan, array), name, *MISSING)
        _check_rows(_by_column(np.isinf, array), name, *INFINITE)
    exact = array if array.dtype.kind in "iu" else _floats(array)
    if discrete is True:
        return _labels(row_codes(exact), name)
    if discrete == "auto":
        if math.prod(shape[1:]) == 1 and (array.dtype == bool or is_discrete(exact)):
            labels = _labels(array.ravel(), name)
            numbers = _floats(array).reshape(-1, 1)
            may_be_ordered = bool(np.max(labels.values) >= MAX_UNORDERED)
            return labels._replace(numbers=numbers) if may_be_ordered else labels
        classes = as_labels(array)
        if classes is not array:
            return _labels(classes, name)
    _check_digits(array, name)
    if image_shape(shape) is not None:
        return Variable(_floats(array), "images", shape)
    return Variable(_floats(array).reshape(len(array), -1), "columns", shape)


def _check_digits(array: np.ndarray, name: str) -> None:
    """Raise ValueError for integers that float64 does not tell apart."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8:
        return
    if max(abs(int(array.min())), abs(int(array.max()))) > MAX_EXACT:
        raise ValueError(
            f"{name} holds integers beyond 2^53, of which floats lose digits: subtract the "
            "smallest one, or give discrete=True if they are labels"
        )


def _decide_fields(fields: list[_Field], name: str, discrete: Discrete) -> Variable:
    """Decide what columns of any types are."""
    shape = len(fields[0].values), len(fields)
    if not shape[0]:
        return Variable(np.empty(shape), "columns", shape)
    _check_rows([(field.name, field.missing) for field in fields], name, *MISSING)
    texts = [field for field in fields if field.is_text]
    if texts and discrete is False:
        raise ValueError(
            f"{_place(texts[0].name, name)} holds text or categories, which are no numbers: leave "
            "out discrete=False"
        )
    if len(fields) == 1:
        values = fields[0].values
        return _labels(values, name) if texts else _decide(values, name, discrete)
    given = [field for field in fields if not field.is_text]
    _check_rows([(field.name, ~np.isfinite(field.values)) for field in given], name, *INFINITE)
    given.sort(key=lambda field: field.values.dtype == bool)
    columns = [_floats(field.values)[:, None] for field in given]
    columns += _one_hot_columns(texts, name)
    return _decide(np.concatenate(columns, axis=1), name, discrete)


def _one_hot_columns(texts: list[_Field], name: str) -> list[np.ndarray]:
    counts = [int(field.values.max()) + 1 for field in texts]
    if sum(counts) > MAX_CATEGORIES:
        widest = texts[int(np.argmax(counts))]
        raise ValueError(
            f"{name} has {sum(counts):,} categories, more than {MAX_CATEGORIES}, {max(counts):,} "
            f"of them in column {widest.name!r}: merge rare ones, or leave this column out"
        )
    blocks = [
        np.eye(count, dtype=np.float32)[field.values]
        for field, count in zip(texts, counts, strict=True)
    ]
    return [block[:, 1:] if block.shape[1] == 2 else block for block in blocks]


def _labels(values: np.ndarray, name: str) -> Variable:
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) > MAX_LABELS:
        raise ValueError(
            f"{name} has {len(classes):,} different values, more than {MAX_LABELS:,} labels: merge "
            "rare ones; numbers can stay numbers, with discrete=False"
        )
    return Variable(codes.astype(np.int32), "labels", (len(codes),))


def _rounded(array: np.ndarray, name: str) -> np.ndarray:
    """Return long doubles as float64; raise ValueError if different ones become equal."""
    with np.errstate(over="ignore"):
        floats = array.astype(np.float64)
    if len(np.unique(floats)) < len(np.unique(array)):
        raise ValueError(
            f"{name} holds {array.dtype} numbers that float64 does not tell apart: subtract their "
            "mean, or divide them"
        )
    return floats


def _floats(array: np.ndarray) -> np.ndarray:
    """Return numbers as float32 where it holds all of their type, else as float64."""
    single = np.result_type(array.dtype, np.float32) == np.float32
    return array.astype(np.float32 if single else np.float64, copy=False)


def _discrete_sides(discrete: Any, names: list[str]) -> tuple[Discrete, dict[str, Discrete]]:
    """Return `discrete` for x and for each z."""
    for_x, for_z = discrete, discrete
    if isinstance(discrete, tuple | list) and len(discrete) == 2:
        for_x, for_z = discrete
    elif not isinstance(discrete, bool | np.bool_ | str):
        raise ValueError(
            f'discrete must be "auto", True, False, or a pair of them for x and z, got {discrete!r}'
        )
    if not isinstance(for_z, Mapping):
        return for_x, dict.fromkeys(names, for_z)
    if unknown := [name for name in for_z if name not in names]:
        raise ValueError(f"discrete names {unknown}, but the names of z are {names}")
    return for_x, {name: for_z.get(name, "auto") for name in names}


# --- Reading --------------------------------------------------------------------------------------


def _frame_fields(values: Any, name: str) -> list[_Field] | None:
    """Return the columns of a data frame, or the only one of categories; None for all else."""
    if hasattr(getattr(values, "dtype", None), "categories"):
        return [_read_field(values, None, name)]
    if hasattr(values, "collect_schema") and not hasattr(values, "get_columns"):
        raise ValueError(f"{name} is a lazy frame: give {name}.collect()")
    if not (hasattr(values, "columns") and hasattr(values, "dtypes")) or not len(values.columns):
        return None
    if hasattr(values, "get_columns"):  # polars
        columns: list[tuple[Any, Any]] = [(each.name, each) for each in values.get_columns()]
    else:
        columns = list(values.items())
    if len(columns) == 1:
        return [_read_field(columns[0][1], None, name)]
    return [_read_field(column, label, name) for label, column in columns]


def _read_field(column: Any, label: Any, name: str) -> _Field:
    """Read one column of any type, (n,)."""
    where = _place(label, name)
    array = to_array(column, where)
    is_text = hasattr(getattr(column, "dtype", None), "categories")
    missing = np.zeros(len(array), bool)
    if array.dtype == object:
        missing = np.fromiter(map(is_missing, array), bool, len(array))
        if missing.any():
            return _Field(label, array, is_text, missing)
        array = array.astype(str) if is_text else _from_objects(array, where)
    _check_type(array.dtype, where)
    if array.dtype.kind == "f":
        missing = np.isnan(array)
    if is_text or array.dtype.kind in "SUT":
        return _Field(label, np.unique(array, return_inverse=True)[1], True, missing)
    return _Field(label, array, False, missing)


def _from_objects(values: np.ndarray, where: str) -> np.ndarray:
    """Return objects, (n,), as an array of text, booleans or numbers."""
    types = {type(value) for value in values}

    def all_are(kinds: Any) -> bool:
        return all(issubclass(each, kinds) for each in types)

    if all_are(str | bytes):
        return values.astype(str)
    if all_are(bool | np.bool_):
        return values.astype(bool)
    if all_are(datetime.date | datetime.time | datetime.timedelta):
        raise ValueError(_date_message(where, types.pop().__name__))
    if all_are(int | np.integer):
        try:
            return values.astype(np.int64)
        except OverflowError as error:
            raise ValueError(
                f"{where} holds integers beyond 64 bits: divide them, or give text for labels"
            ) from error
    if all_are(numbers.Number):
        complex_values = any(issubclass(each, complex | np.complexfloating) for each in types)
        return values.astype(np.complex128 if complex_values else np.float64)
    found = ", ".join(sorted(each.__name__ for each in types))
    raise ValueError(
        f"{where} holds objects of type {found}; a column must hold numbers alone or text alone"
    )


# --- Messages -------------------------------------------------------------------------------------


def _place(label: Any, name: str) -> str:
    return name if label is None else f"column {label!r} of {name}"


def _check_type(dtype: np.dtype, where: str) -> None:
    """Raise ValueError unless samples of this type are real numbers, booleans or text."""
    if dtype.kind in "mM":
        raise ValueError(_date_message(where, str(dtype)))
    if dtype.kind == "c":
        raise ValueError(
            f"{where} holds complex numbers: give the real and imaginary parts as columns"
        )
    real = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    if not real and dtype.kind not in "bSUT":
        raise ValueError(f"{where} must hold real numbers or labels, got dtype {dtype}")


def _date_message(where: str, what: str) -> str:
    return (
        f"{where} holds dates or times ({what}): turn them into numbers, such as seconds since "
        "the first one"
    )


def _by_column(test: Any, array: np.ndarray) -> list[tuple[Any, np.ndarray]]:
    """Return for which rows a test holds, by column where there are several."""
    flags = test(array)
    if array.ndim != 2 or array.shape[1] == 1:
        return [(None, flags.reshape(len(flags), -1).any(axis=1))]
    return [(i, flags[:, i]) for i in np.flatnonzero(flags.any(axis=0)).tolist()]


def _check_rows(
    columns: Iterable[tuple[Any, np.ndarray]], name: str, what: str, remedy: str
) -> None:
    """Raise ValueError that counts the rows with a flag and names the columns, if there are any."""
    flagged = [(label, flags) for label, flags in columns if flags.any()]
    if not flagged:
        return
    rows = np.any([flags for _, flags in flagged], axis=0)
    named = ", ".join(repr(label) for label, _ in flagged[:MAX_NAMED] if label is not None)
    more = ", …" if len(flagged) > MAX_NAMED else ""
    place = f" (column{'s' * (len(flagged) > 1)} {named}{more})" if named else ""
    raise ValueError(
        f"{name} has {what} values in {rows.sum():,} of {len(rows):,} rows{place}; {remedy}"
    )
