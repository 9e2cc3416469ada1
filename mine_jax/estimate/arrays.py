"""`to_array`: what people bring as a NumPy array, with all that it holds."""

import math
from typing import Any

import numpy as np

MAX_SPARSE = 1 << 28  # elements of a sparse matrix that still fit as a dense one
MAX_EXACT = 1 << 53  # up to which float64 tells integers apart
CPU_DEVICES = (1, 3)  # of DLPack: memory of the CPU, pinned or not


def to_array(values: Any, name: str) -> np.ndarray:
    """Return samples as an array of numbers, booleans, text, dates or objects.

    Args:
      values: as for `variables.read_variable`, except frames.
      name: name of the variable in error messages.

    Raises:
      ValueError: if they are not on the CPU, too many for a dense matrix, or no array.
    """
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        size = math.prod(values.shape)
        if size > MAX_SPARSE:
            raise ValueError(
                f"{name} is a sparse matrix with {size:,} elements, more than the {MAX_SPARSE:,} "
                "that fit as a dense one: reduce its columns, for example by a truncated singular "
                "value decomposition"
            )
        values = values.toarray()
    elif hasattr(values, "detach") and hasattr(values, "cpu"):
        values = _detached(values, name)
    elif hasattr(values, "__dlpack__") and not hasattr(values, "__array__"):
        if values.__dlpack_device__()[0] not in CPU_DEVICES:
            raise ValueError(f"{name} is not in the CPU's memory: copy it to a NumPy array")
        values = np.from_dlpack(values)
    elif isinstance(values, list | tuple) and any(
        isinstance(value, np.ma.MaskedArray) for value in values
    ):
        return to_array(np.ma.array(values), name)
    elif isinstance(values, np.ma.MaskedArray):
        masked = values.mask
        values = values.data
        if np.any(masked):
            values = values.astype(object)
            values[masked] = None
    try:
        array = np.asarray(values)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be read as an array, whose samples all have the same shape: {error}"
        ) from error
    if isinstance(values, list | tuple) and array.size and _may_be_changed(array):
        # NumPy turns NaN beside text into the text "nan", and large integers into floats.
        objects = np.asarray(values, object)
        if array.dtype.kind in "US":
            changed = not all(isinstance(value, str | bytes) for value in objects.ravel())
        else:
            changed = any(isinstance(value, int | np.integer) for value in objects.ravel())
        array = objects if changed else array
    if array.dtype == object and array.ndim == 0:
        raise ValueError(f"{name} cannot be read as an array: it is a {type(values).__name__}")
    return array


def _may_be_changed(array: np.ndarray) -> bool:
    """Tell whether NumPy may have read other values than a list has."""
    return array.dtype.kind in "US" or (
        array.dtype == np.float64 and bool((np.abs(array) >= MAX_EXACT).any())
    )


def _detached(tensor: Any, name: str) -> Any:
    """Return a tensor of torch as one that NumPy reads."""
    if tensor.device.type != "cpu":
        raise ValueError(
            f"{name} is a tensor on the device {tensor.device}: bring it to the CPU, {name}.cpu()"
        )
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    return tensor.float() if "bfloat16" in str(tensor.dtype) else tensor
