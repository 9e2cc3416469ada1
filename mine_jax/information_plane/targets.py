"""`Target`: Y, as labels of any type or as numbers."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from mine_jax.estimate.variables import (
    Discrete,
    is_discrete,
    read_variable,
    refuse_identifiers,
    row_codes,
)
from mine_jax.information_plane import exact


class Target(NamedTuple):
    """Y of all samples.

    Attributes:
      values: codes 0, 1, … of labels, (n,), int32; for numbers (n, d), float32 or float64.
      entropy_nats: H(Y) of labels; None for numbers.
      sha256: hash of `values`, which tells whether samples are the same in the same order.
    """

    values: np.ndarray
    entropy_nats: float | None
    sha256: str

    @property
    def labels(self) -> np.ndarray | None:
        """The codes; None for numbers."""
        return None if self.entropy_nats is None else self.values


def read_target(values: Any, discrete: Discrete = "auto") -> Target:
    """Read Y: integers, text, booleans, one-hot columns, several labels, or numbers.

    One column is read as by `lower_bound` (`variables.read_variable`). Several columns are labels,
    one for each different row, if these rows come often enough to learn (`is_discrete`): digits in
    two colors have twenty. All else are numbers.

    Args:
      values: (n,) or (n, d); anything that `lower_bound` reads.
      discrete: "auto"; True, each different row is a label; False, all are numbers.

    Raises:
      ValueError: if values are missing or not finite, or cannot be read otherwise, if nearly all
        labels occur once, or if there is one value only.
    """
    variable = read_variable(values, "labels", discrete)
    refuse_identifiers(variable, "labels")
    kind, read = variable.kind, variable.values
    if read.ndim == 0 or read.size == 0:
        raise ValueError(f"labels has no samples: shape {read.shape}")
    if kind != "labels":
        read = read.reshape(len(read), -1)
        codes = row_codes(read) if discrete == "auto" and read.shape[1] > 1 else None
        if codes is not None and is_discrete(codes):
            kind, read = "labels", codes.astype(np.int32)
    if (read == read[:1]).all():
        raise ValueError("labels has one value only: I(Y; ·) is 0, whatever the layers")
    digest = hashlib.sha256(np.ascontiguousarray(read).tobytes()).hexdigest()
    return Target(read, exact.entropy(read) if kind == "labels" else None, digest)
