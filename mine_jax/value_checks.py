"""What the value of an argument or of a configuration's field is: a number, a choice, a flag."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

LARGEST = (1 << 31) - 1  # JAX counts with 32 bits
LARGEST_FLOAT = float(np.finfo(np.float32).max)


def is_integer(value: Any) -> bool:
    """Tell whether a value is an integer; truth values are none.

    Args:
      value: any object.
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Tell whether a value is a real number, which may be NaN; truth values are none.

    Args:
      value: any object.
    """
    return is_integer(value) or isinstance(value, float | np.floating)


def is_choice(value: Any, choices: Iterable[str]) -> bool:
    """Tell whether a value is one of several texts; arrays, which have no truth value, are none.

    Args:
      value: any object.
      choices: the texts.
    """
    return isinstance(value, str) and value in tuple(choices)


def integer_problems(values: Any, limits: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return a sentence for each attribute that is no integer within its limits.

    Args:
      values: the object.
      limits: names of attributes to the least and the largest value.
    """
    problems = []
    for name, (least, most) in limits.items():
        value = getattr(values, name)
        if not is_integer(value) or not least <= value <= most:
            above = is_integer(value) and value > most
            wanted = f"at most {most:,}" if above else f"at least {least}"
            problems.append(f"{name} must be an integer of {wanted}, got {value!r}")
    return problems


def flag_problems(values: Any, names: Iterable[str]) -> list[str]:
    """Return a sentence for each attribute that is neither True nor False.

    Args:
      values: the object.
      names: of the attributes.
    """
    return [
        f"{name} must be True or False, got {getattr(values, name)!r}"
        for name in names
        if not isinstance(getattr(values, name), bool)
    ]


def is_in_float32(value: Any) -> bool:
    """Tell whether a value is a real number that float32 can hold.

    Args:
      value: any object.
    """
    return is_real(value) and bool(abs(value) <= LARGEST_FLOAT)  # False for NaN
