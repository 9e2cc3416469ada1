"""Row numbers that may end in padding, so that one program serves different numbers of samples.

−1 stands for no row. It comes after all rows, equally often for all networks of a stack.
"""

from typing import Any

import numpy as np

from mine_jax.mine.bounds import Array

NO_ROW = -1


def pad_rows(rows: np.ndarray, width: int) -> np.ndarray:
    """Pad row numbers (networks, r) to (networks, width); more than that stay as they are."""
    missing = max(0, width - rows.shape[1])
    return np.pad(rows, ((0, 0), (0, missing)), constant_values=NO_ROW)


def first_rows(rows: np.ndarray, number: int, width: int) -> np.ndarray:
    """Return the first rows, at most so many, of each network: (networks, width)."""
    return pad_rows(rows[:, : min(number, num_rows(rows))], width)


def num_rows(rows: Array) -> Any:
    """Return how many of each network's row numbers (networks, r) are rows, ()."""
    return (rows[0] >= 0).sum()


def next_power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below a positive number."""
    return 1 << (int(number) - 1).bit_length()
