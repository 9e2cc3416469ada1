"""Samples of any kind, type, shape and layout: the right value, or an exception that says why.

More examples: pytest tests/estimate/test_fuzz.py --hypothesis-profile=long
"""

import decimal
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

from mine_jax import independence_test, lower_bound
from mine_jax.estimate import estimation
from mine_jax.estimate.image_moments import moments
from mine_jax.estimate.variables import MAX_LABELS, read_variable
from mine_jax.information_plane.activations import (
    read_activations,
    read_layer,
    reason_not_measured,
)
from mine_jax.mine import MineConfig
from mine_jax.mine.config import ENCODERS

pytestmark = pytest.mark.usefixtures("compile_fast")

LONG = hypothesis.settings.default.max_examples > 1_000  # the profile "long"
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

N, KEY = 60, jax.random.key(0)
NORMAL = np.random.default_rng(0).normal(size=N)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.longdouble(1) + NORMAL.astype(np.longdouble) * np.longdouble("1e-18"), "tell apart"),
        (NORMAL.astype(np.longdouble) * np.longdouble("1e1000"), "tell apart: .* divide them"),
        ([decimal.Decimal("snan"), *range(N - 1)], "x has missing values in 1 of 60 rows"),
        (
            [np.ma.masked_greater(row, 2) for row in np.eye(N, 3) * 3],
            "x has missing values in 3 of",
        ),
        ([2**63 + i for i in range(N - 1)] + [-1], "x holds integers beyond 64 bits"),
        ("abc", r"x must be \(n, …\) with samples and columns, got shape \(\)"),
        (NORMAL[:9], r"same number of samples, in pairs, got {'x': 9, 'z': 60}"),
    ],
)
def test_lower_bound_refuses_what_it_would_change(compilations, x, message):
    with compilations() as compiled, pytest.raises(ValueError, match=message):
        lower_bound(x, NORMAL, key=KEY, config=QUICK)
    assert compiled == []


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("seed", "such as jax.random.key.* got str 'seed'"),
        (np.zeros(2, np.int32), r"got ndarray of int32, shape \(2,\)"),
        (jax.random.split(jax.random.PRNGKey(0)), r"of uint32, shape \(2, 2\)"),
        (
            jax.random.split(jax.random.key(0)),
            r"single PRNG key, got keys of shape \(2,\)",
        ),
    ],
)
def test_lower_bound_refuses_what_is_no_key(key, message):
    with pytest.raises(TypeError, match=message):
        lower_bound(NORMAL, NORMAL, key=key, config=QUICK)


def test_lower_bound_takes_keys_of_both_kinds_and_refuses_what_cannot_be_called():
    x, z = whole_samples("numbers", 0, True)
    typed, legacy = (
        lower_bound(x, z, key=key, config=QUICK).nats
        for key in (jax.random.key(3), jax.random.PRNGKey(3))
    )
    assert typed == legacy
    with pytest.raises(TypeError, match="on_progress must be a function of three arguments, got 3"):
        lower_bound(x, z, config=QUICK, on_progress=3)
    with pytest.raises(TypeError, match="verbose must be True or False, got 'loudly'"):
        lower_bound(x, z, config=QUICK, verbose="loudly")


def test_series_of_few_rows_asks_for_more_and_tests_speak_of_no_folds():
    with pytest.raises(ValueError, match=r"60 rows are too few for blocks=7.*at least 70 rows"):
        lower_bound(NORMAL, NORMAL[::-1], blocks=7)
    for options, message in [
        ({"blocks": 3}, "blocks must be an integer from 4 .one for each of 2 test parts"),
        ({"groups": np.arange(N) % 3}, "at least 4 are needed, one for each of 2 test parts"),
        ({"groups": np.minimum(np.arange(N)[::-1], 3)}, "use more groups, or smaller ones"),
        ({"permutations": 10**30}, "at most 1,000,000, got 1000000000"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            independence_test(NORMAL, NORMAL[::-1], **options)
        assert "fold" not in str(error.value)
    with pytest.raises(ValueError, match=r"5 samples are too few.*give more") as error:
        independence_test(NORMAL[:5], NORMAL[:5])
    assert "fold" not in str(error.value)


@pytest.mark.parametrize(("outlying", "other"), [(1e6, 1.0), (1.0, 1e6), (1e200, 1e-200)])
def test_lower_bound_of_other_units_is_the_same(outlying, other):
    x, z = whole_samples("numbers", 3, True)
    expected = lower_bound(x, z, config=QUICK).nats
    assert lower_bound(x * outlying, z * other, config=QUICK).nats == expected
    assert lower_bound(x + 2.0**20, z, config=QUICK).nats == expected


def test_images_of_the_largest_floats_have_finite_moments():
    largest = np.finfo(np.float64).max
    images = np.random.default_rng(0).uniform(0.5, 1, (N, 8, 8))
    np.testing.assert_allclose(moments(images[..., None] * largest)[:, 2:],
                               moments(images[..., None])[:, 2:], atol=2e-6)  # fmt: skip


def test_layers_with_masked_rows_or_lost_variance_are_not_measured_as_others():
    layer = np.random.default_rng(0).normal(size=(N, 3))
    for masked in (np.ma.masked_greater(layer, 2), list(np.ma.masked_greater(layer, 2))):
        with pytest.raises(ValueError, match=r"activations of a must be .* none of them .*masked"):
            read_activations({"a": masked}, N)
    for what in ("complex128", "<U1"):
        with pytest.raises(ValueError, match=f"inputs must be real numbers, got dtype {what}"):
            read_layer(np.zeros((N, 3), what), "inputs", N)
    assert reason_not_measured(layer + 1e3, "a", 0) is None
    assert reason_not_measured(np.full((N, 3), 0.1), "a", 0) is None
    assert reason_not_measured(np.float32(layer + 1e6), "a", 0) is None
    assert "Subtract the mean" in reason_not_measured(layer + 1e6, "a", 0)
    assert "Subtract the mean" in reason_not_measured(layer + 1e9, "a", 0)
