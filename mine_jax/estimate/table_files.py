"""Samples from files: columns of a CSV file, arrays of an NPZ or NPY file."""

import csv
import difflib
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MISSING = {"", "na", "n/a", "nan", "null", "none"}  # cells without a value, in small letters
DELIMITERS = ",;\t"
MAX_LISTED = 8  # names that an error message lists
# What NumPy, zipfile and csv raise for damaged files. RuntimeError: encrypted, or packed in a way
# that is not known; MemoryError: a header that promises too much; TokenError: one cut off.
DAMAGED = (
    *(OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError),
    *(csv.Error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


class TableError(ValueError):
    """A file cannot be read, or has no such columns; the message names the remedy."""


def read_table(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a file of samples.

    Of a CSV file the first row are names unless all of its cells are numbers; it may be separated
    by commas, semicolons or tabs. A column is integers or floats if all of its cells are, else
    text. Columns without names are numbered from 0.

    Args:
      path: .csv, .npz or .npy file.

    Returns:
      Name to array, (n, …) each. Cells of text are objects, and None where they are missing;
      missing numbers are NaN.

    Raises:
      TableError: if the file is missing, empty, damaged, or of another kind.
    """
    readers: dict[str, Callable[[Path], dict[str, np.ndarray]]]
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".npz": _read_npz, ".npy": _read_npy}
    path = Path(path)
    if path.suffix.lower() not in readers:
        raise TableError(f"{path} must end in .csv, .npz or .npy")
    if not path.is_file():
        if path.exists():
            raise TableError(f"{path} is no file")
        raise TableError(f"{path} does not exist{_similar_file(path)}")
    try:
        table = readers[path.suffix.lower()](path)
    except TableError:
        raise
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is no text in UTF-8: save it as UTF-8") from error
    except DAMAGED as error:
        raise TableError(f"{path} cannot be read: {error}") from error
    if not any(values.size for values in table.values()):
        raise TableError(f"{path} has no samples")
    return table


def select(table: Mapping[str, np.ndarray], names: Sequence[str], path: str | os.PathLike) -> Any:
    """Return the samples of one variable.

    Args:
      table: as `read_table` returns it.
      names: names of columns, their numbers from 0, or ranges of numbers such as 0-9.
      path: the file, for error messages.

    Returns:
      The array of a single name as it is; else all columns side by side, (n, d), as objects if
      some are text.

    Raises:
      TableError: if a name is unknown, an array is empty, a value is missing, or arrays have
        different lengths.
    """
    wanted = [each for name in names for each in _columns(table, name, path)]
    for name in wanted:
        if not table[name].size:
            raise TableError(f"{path}: {name!r} has no values, shape {table[name].shape}")
        _check_missing(table[name], name, path)
    if len(wanted) == 1:
        return table[wanted[0]]
    lengths = {name: len(table[name]) for name in wanted}
    if len(set(lengths.values())) > 1:
        raise TableError(f"{path}: numbers of samples differ: {lengths}")
    arrays = [table[name].reshape(lengths[name], -1) for name in wanted]
    if any(array.dtype == object for array in arrays):
        arrays = [array.astype(object) for array in arrays]
    return np.concatenate(arrays, axis=1)


def _columns(table: Mapping[str, np.ndarray], name: str, path: str | os.PathLike) -> list[str]:
    """Return the names that a name, a number or a range of numbers stands for."""
    names = list(table)
    if name in table:
        return [name]
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", name):
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= last < len(names):
            return names[first : last + 1]
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(names[:MAX_LISTED]) + ", …" * (len(names) > MAX_LISTED)
    raise TableError(
        f"{path} has no column {name!r}: {hint}It has {len(names)}, which may be given by name or "
        f"by number from 0: {listed}"
    )


def _check_missing(values: np.ndarray, name: str, path: str | os.PathLike) -> None:
    missing = np.zeros(values.shape, bool)
    if values.dtype.kind == "f":
        missing = np.isnan(values)
    elif values.dtype == object:
        missing = np.array([value is None for value in values.flat]).reshape(values.shape)
    rows = np.flatnonzero(missing.reshape(len(values), -1).any(1))
    if len(rows):
        raise TableError(
            f"{path}: column {name!r} has missing values in {len(rows)} of {len(values)} rows, "
            f"first in row {rows[0]} (counted from 0): remove these rows, or fill them in"
        )


def _similar_file(path: Path) -> str:
    others = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, others, 1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        if isinstance(file, np.ndarray):
            raise TableError(f"{path} holds a single array: rename it to end in .npy")
        return {name: np.atleast_1d(file[name]) for name in file.files}


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    array = np.atleast_1d(np.load(path, allow_pickle=False))
    if array.dtype.names:
        return {name: array[name] for name in array.dtype.names}
    if array.ndim == 1:
        return {"0": array}
    return {str(i): array[:, i] for i in range(array.shape[1])}


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        delimiter = max(DELIMITERS, key=first.count)
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        rows = [(reader.line_num, row) for row in reader if row]
    if not rows:
        raise TableError(f"{path} is empty")
    cells = [cell.strip() for cell in rows[0][1]]
    if all(_number(cell) is not None for cell in cells):
        names = [str(i) for i in range(len(cells))]
    else:
        names, rows = cells, rows[1:]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(f"{path}: several columns are named {twice[0]!r}: rename them")
    for line, row in rows:
        if len(row) != len(names):
            raise TableError(f"{path}: line {line} has {len(row)} cells, not {len(names)}")
    columns = dict(zip(names, zip(*(row for _, row in rows), strict=True), strict=False))
    for name, column in columns.items():
        values = [cell.strip() for cell in column if cell.strip().lower() not in MISSING]
        if values and all(re.fullmatch(r"-?\d+,\d+", value) for value in values):
            raise TableError(
                f"{path}: column {name!r} has numbers with a comma, such as {values[0]}: write "
                "decimals with a point"
            )
    return {name: _column(column) for name, column in columns.items()}


def _column(cells: Sequence[str]) -> np.ndarray:
    """Return integers or floats if all cells are, else text."""
    cells = [cell.strip() for cell in cells]
    missing = [cell.lower() in MISSING for cell in cells]
    numbers = [None if gone else _number(cell) for cell, gone in zip(cells, missing, strict=True)]
    if any(n is None and not gone for n, gone in zip(numbers, missing, strict=True)):
        texts = [None if gone else cell for cell, gone in zip(cells, missing, strict=True)]
        return np.array(texts, object)
    if all(isinstance(number, int) for number in numbers):
        try:
            return np.array(numbers, np.int64)
        except OverflowError:
            pass
    return np.array([np.nan if number is None else number for number in numbers], float)


def _number(cell: str) -> int | float | None:
    """Return the number that a cell holds, None if it is none."""
    if "_" in cell:  # Python's own, as in 1_000
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return None
