"""Samples of any kind, type, shape and layout: the right value, or an exception that says why.

More examples: pytest tests/estimate/test_fuzz.py --hypothesis-profile=long
"""

import functools
import math
import re
import warnings
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from mine_jax import lower_bound
from mine_jax.estimate import estimation
from mine_jax.estimate.variables import MAX_LABELS, read_variable
from mine_jax.mine import MineConfig
from mine_jax.mine.config import ENCODERS

pytestmark = pytest.mark.usefixtures("compile_fast")

LONG = hypothesis.settings.get_current_profile_name() == "long"
CONFIG = MineConfig(
    hidden=4, depth=1, features=4, batch_size=32, check_every=10, max_steps=20, cross_fit=False
)
QUICK = MineConfig(**{**vars(CONFIG), "network": "separable"})  # without competition of encoders
NUMBERS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "longdouble", "float8_e4m3fn", "int4"),
)
OTHERS = ("complex64", "object", "text", "bytes", "dates", "decimals", "fields")
FILLS = (
    *("normal", "normal", "shifted", "scaled", "huge", "tiny", "tails", "outlier", "classes"),
    *("constant", "zeros", "limits", "rows", "identifiers"),
)
SPOILS = ("", "", "", "", "nan", "inf", "none", "all nan")
LAYOUTS = (
    *("plain", "fortran", "strided", "reversed", "read-only", "swapped", "broadcast", "list"),
    *("masked", "mask", "jax", "objects", "list of rows", "memoryview"),
)
SHAPES = ((), (1,), (2,), (3,), (0,), (150,), (8, 8), (8, 8, 2), (2, 3))
LENGTHS = (0, 1, 2, 7, 19, 20, 40, 41, 64, 65)
CAUSE = re.compile(r"missing|infinite|complex|dates|shape|samples|dtype|type|labels|different|"
                   r"integers|categories|cannot be read|object|groups|rows|tell apart")  # fmt: skip


def dtype_of(name):
    return np.dtype(getattr(jnp, name, None) or name)


def numbers_of(fill, shape, seed):
    """Floats of 64 bits; `fill` says how they are distributed."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=shape)
    if fill == "outlier" and normal.size:
        return np.append(normal.ravel()[1:], 1e200).reshape(shape)
    filled = {
        "shifted": normal + 1e6,
        "scaled": normal * 1e6,
        "huge": normal / 10 * 1e200,
        "tiny": normal * 1e-310,
        "tails": np.exp(5 * normal),
        "classes": rng.integers(0, 3, shape).astype(float),
        "constant": np.full(shape, 7.0),
        "zeros": np.zeros(shape),
        "limits": np.where(normal > 0, np.inf, -np.inf),  # of the type, once clipped
        "rows": np.arange(normal.size, dtype=float).reshape(shape),
        "identifiers": 1e15 + np.arange(normal.size, dtype=float).reshape(shape),
    }
    return filled.get(fill, normal)


def in_type(numbers, name):
    """The numbers in another type, limited to what it holds."""
    if name == "bool":
        return numbers > 0
    dtype = dtype_of(name)
    if dtype.kind in "iu" or name == "int4":
        low, high = (int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max))
        whole = [min(max(low, round(v)), high) if math.isfinite(v) else low if v < 0 else high
                 for v in np.multiply(numbers, 5).ravel().tolist()]  # fmt: skip
        return np.array(whole, object).astype(dtype).reshape(numbers.shape)
    if dtype.kind == "c":
        return np.clip(numbers, -1e30, 1e30).astype(dtype)
    largest = float(jnp.finfo(dtype).max) if name != "longdouble" else np.finfo(float).max
    return np.clip(numbers, -largest, largest).astype(dtype)


def in_kind(numbers, name):
    """The numbers as something else."""
    flat = numbers.ravel()
    if name == "fields":
        return np.zeros(numbers.shape, [("a", float)])
    if name == "dates":
        return np.zeros(numbers.shape, "datetime64[s]")
    import decimal

    make = {"object": float, "text": lambda v: f"{v:.1f}", "bytes": lambda v: b"%.1f" % v,
            "decimals": decimal.Decimal}[name]  # fmt: skip
    values = np.empty(len(flat), object)
    values[:] = [make(value) for value in flat.tolist()]
    kind = {"text": str, "bytes": bytes}.get(name, object)
    return values.astype(kind).reshape(numbers.shape)


def spoiled(array, spoil):
    """Some values are missing or not finite, where the type has such values."""
    if not spoil or not array.size:
        return array
    array = array.copy()
    value = {"inf": math.inf, "none": None}.get(spoil, math.nan)
    place = slice(None) if spoil == "all nan" else array.size // 2
    if array.dtype == object or (jnp.issubdtype(array.dtype, jnp.inexact) and value is not None):
        array.reshape(-1)[place] = value
    return array


def laid_out(array, layout):
    """The same values in another container or memory layout."""
    if layout == "swapped" and array.dtype.kind in "iufc":
        return array.astype(array.dtype.newbyteorder())
    if layout == "read-only":
        array.setflags(write=False)
    if layout == "jax" and array.dtype.kind in "biuf" and array.dtype.itemsize <= 4:
        return jnp.asarray(array)
    if layout == "mask":
        return np.ma.masked_array(array, mask=np.arange(array.size).reshape(array.shape) == 3)
    if layout == "memoryview" and array.dtype.kind in "iuf" and array.dtype.itemsize in (4, 8):
        return memoryview(np.ascontiguousarray(array))
    made = {
        "fortran": np.asfortranarray,
        "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
        "reversed": lambda a: a[::-1].copy()[::-1],
        "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
        "list": lambda a: a.tolist(),
        "list of rows": list,
        "masked": np.ma.array,
        "objects": lambda a: a.astype(object),
    }
    return made[layout](array) if layout in made and array.ndim else array


class Recipe(NamedTuple):
    """How samples are made."""

    type: str
    fill: str
    shape: tuple
    seed: int
    spoil: str
    layout: str


@st.composite
def recipes(draw):
    anything = draw(st.integers(0, 3)) == 0
    columns = draw(st.sampled_from(SHAPES))
    return Recipe(
        draw(st.sampled_from(NUMBERS + OTHERS if anything else NUMBERS)),
        draw(st.sampled_from(FILLS)),
        () if draw(st.integers(0, 60)) == 0 else (draw(st.sampled_from(LENGTHS)), *columns),
        draw(st.integers(0, 99)),
        draw(st.sampled_from(SPOILS)),
        draw(st.sampled_from(LAYOUTS)),
    )


def samples_of(recipe):
    numbers = numbers_of(recipe.fill, recipe.shape, recipe.seed)
    if recipe.type in OTHERS and recipe.type != "complex64":
        array = in_kind(np.nan_to_num(numbers, posinf=9, neginf=-9), recipe.type)
    else:
        array = in_type(numbers, recipe.type)
    return laid_out(spoiled(array, recipe.spoil), recipe.layout)


def plain(values):
    """What the samples are, element by element, as Python's numbers; None if they are not."""
    if isinstance(values, np.ma.MaskedArray):
        values = values.data if not np.any(values.mask) else values.astype(object).filled(np.nan)
    array = np.asarray(values)
    try:
        flat = [float(value) for value in array.ravel().tolist()]
    except (TypeError, ValueError, OverflowError):
        return None
    if array.dtype.kind in "SUTO" and any(isinstance(v, str | bytes) for v in array.ravel()):
        return None
    return np.array(flat).reshape(array.shape)


def equal_to_others(values):
    """Which rows are equal, as the place of the first row like each."""
    rows = [row.tobytes() for row in np.asarray(values) + 0.0]
    first = {}
    return [first.setdefault(row, i) for i, row in enumerate(rows)]


def assert_faithful(values):
    """What `read_variable` made holds the same numbers, or labels that are equal where they are."""
    variable, expected = read_variable(values), plain(values)
    if expected is None:
        assert variable.kind in ("labels", "columns")
        return
    assert np.isfinite(expected).all()
    if variable.kind == "labels":
        expected = expected.reshape(len(expected), -1)
        assert equal_to_others(variable.values[:, None]) == equal_to_others(expected)
    else:
        given = variable.values.astype(float).reshape(expected.shape)
        assert np.array_equal(given, expected)


@functools.cache
def warmed_up():
    """What draws the split is compiled, for all lengths."""
    for n in (2, 4, 8, 16, 32, 64, 128):
        estimation.split(estimation.split_key(jax.random.key(0)), n, CONFIG)


class Prepared(Exception):
    """Nothing was wrong: the pairs come to the networks."""


def stop(pairs, **_):
    raise Prepared(pairs)


@settings(
    max_examples=10_000 if LONG else 200,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@given(of_x=recipes(), of_z=recipes(), same=st.integers(0, 9), competes=st.booleans())
def test_samples_are_prepared_as_they_are_or_refused_with_a_reason(
    compilations, of_x, of_z, same, competes
):
    warmed_up()
    was_prepared = False
    x = samples_of(of_x)
    z = x if same == 0 else samples_of(of_z)
    if same > 2 and np.ndim(x) and np.ndim(z):  # mostly as many rows, else nothing but that is seen
        n = min(len(x), len(z))
        x, z = x[:n], z[:n]
    with pytest.MonkeyPatch.context() as patch, compilations() as compiled:
        patch.setattr(estimation, "lower_bounds", stop)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy's overflow, or values that it gives up
            try:
                lower_bound(x, z, config=CONFIG if competes else QUICK)
            except (TypeError, ValueError) as error:
                message = str(error)
                assert re.search(r"\b(x|z|samples|groups|rows)\b", message), message
                assert CAUSE.search(message), message
            except Prepared as prepared:
                was_prepared = True
                for pair in prepared.args[0]["z"]:
                    assert pair.encoder == "given" or re.split(",| / ", pair.encoder)[0] in ENCODERS
                    for side in pair.of_fold(0):
                        array = np.asarray(side.measured)
                        assert array.dtype in (np.float32, np.uint8)
                        assert array.shape[0] == len(x) == len(z)
                        assert array.shape[1] <= MAX_LABELS
                        assert np.isfinite(array).all()
                assert_faithful(x)
                assert_faithful(z)
    assert compiled == [] or (competes and was_prepared)  # of canonical directions


@functools.cache
def value_of_plain(kind, seed, dependent):
    return lower_bound(*whole_samples(kind, seed, dependent), config=QUICK)


def whole_samples(kind, seed, dependent):
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, 60) + rng.integers(0, 2, 60) * 0.5  # which every type of floats holds
    z = (x if dependent else rng.permutation(x)) * rng.integers(1, 3, 60)
    z = {"numbers": z, "labels": (z > 0).astype(float), "columns": np.stack([z, x[::-1]], 1)}[kind]
    return x + np.arange(60) / 4, z


@settings(max_examples=200 if LONG else 5)
@given(
    kind=st.sampled_from(["numbers", "labels", "columns"]),
    seed=st.integers(0, 9),
    dependent=st.booleans(),
    types=st.tuples(*[st.sampled_from(["float16", "float32", "float64", "longdouble"])] * 2),
    layouts=st.tuples(*[st.sampled_from([each for each in LAYOUTS if each not in ("mask",
                        "broadcast")])] * 2),
)  # fmt: skip
def test_lower_bound_does_not_depend_on_the_type_and_the_layout(
    kind, seed, dependent, types, layouts
):
    x, z = whole_samples(kind, seed, dependent)
    given_x, given_z = (
        laid_out(values.astype(dtype_of(name)), layout)
        for values, name, layout in zip((x, z), types, layouts, strict=True)
    )
    estimate, expected = (
        lower_bound(given_x, given_z, config=QUICK),
        value_of_plain(kind, seed, dependent),
    )
    assert estimate.nats == expected.nats
    assert estimate.stderr == expected.stderr
    assert math.isfinite(estimate.nats)
    assert math.isfinite(estimate.stderr)
    assert estimate.nats <= estimate.ceiling_nats


# --- Each of a list -------------------------------------------------------------------------------
