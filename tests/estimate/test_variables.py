"""Tests of `read_variable`: labels or numbers, frames, tensors, images, and its refusals."""

import datetime
import decimal
from types import SimpleNamespace

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from scipy import sparse

from mine_jax.estimate.preparation import MAX_LABELS, prepare
from mine_jax.estimate.variables import (
    MAX_CATEGORIES,
    MAX_FRACTIONS,
    Variable,
    is_discrete,
    is_missing,
    read_variable,
    read_variables,
    row_codes,
)

N = 2000
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=N)
DIGITS = RNG.integers(0, 10, N)
LETTERS = np.array(list("abc"))[DIGITS % 3]


def kind_of(values, **options):
    return read_variable(values, **options).kind


def relu(threshold):
    return np.maximum(NORMAL - threshold, 0)


# --- Labels or numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "discrete"),
    [
        (DIGITS, True),
        (DIGITS - 1e6, True),
        (DIGITS / 10, True),
        (RNG.integers(0, 30, 500), True),
        (RNG.integers(0, 100, N), True),
        (RNG.poisson(5, N), True),
        (NORMAL > 1.5, True),
        (RNG.integers(0, 900, N), False),
        (np.arange(N), False),
        (np.arange(15), False),
        (RNG.integers(0, MAX_LABELS + 100, 50 * MAX_LABELS), False),
        (NORMAL, False),
        (NORMAL.round(1), False),  # a measurement, though its values are frequent
        (RNG.integers(0, 2 * MAX_FRACTIONS, N) / 2, False),
        (relu(0), False),
        (relu(1.75), False),  # zeros alone are 96 % of the rows
        (np.where(NORMAL > 1.75, np.arange(N), 0), False),
        (np.ones(N), False),
        (np.zeros(N, int), False),
    ],
)
def test_one_column_is_labels_if_each_value_comes_often(column, discrete):
    assert is_discrete(np.asarray(column, float)) == discrete
    for values in (column, np.asarray(column, np.float64), column[:, None], column.tolist()):
        variable = read_variable(values)
        if not discrete:
            assert (variable.kind, variable.values.shape) == ("columns", (len(column), 1))
            assert variable.values.dtype.kind != "i"  # which `prepare` would take for codes
            np.testing.assert_array_equal(variable.values[:, 0], column)
            assert prepare(variable.values).shape == (len(column), 1)
            continue
        assert variable.kind == "labels"
        classes, codes = np.unique(column, return_inverse=True)
        np.testing.assert_array_equal(variable.values, codes)
        assert prepare(variable.values).shape == (len(column), len(classes))


@pytest.mark.parametrize(
    "values",
    [
        LETTERS,
        LETTERS.tolist(),
        LETTERS.astype(bytes),
        LETTERS.astype(object),
        LETTERS[:, None],
        NORMAL > 2.9,
        (NORMAL > 0).astype(object),
        np.eye(3)[DIGITS % 3],
        np.eye(3, dtype=bool)[DIGITS % 3],
        ["a"] * N,
    ],
)
def test_text_booleans_and_one_hot_columns_are_labels(values):
    assert kind_of(values) == "labels"


def test_several_integer_columns_are_numbers():
    table = RNG.integers(0, 3, (N, 3))
    variable = read_variable(table)
    assert (variable.kind, variable.values.dtype) == ("columns", np.float64)
    np.testing.assert_array_equal(variable.values, table)


def test_discrete_overrules():
    table = RNG.integers(0, 3, (N, 2))
    rows = read_variable(table, discrete=True)
    assert (rows.kind, rows.values.max()) == ("labels", 8)
    np.testing.assert_array_equal(
        rows.values[:, None] == rows.values, (table[:, None] == table).all(axis=2)
    )
    for values in (DIGITS, NORMAL > 0, np.eye(3)[DIGITS % 3]):
        numbers = read_variable(values, discrete=False)
        assert numbers.kind == "columns"
        np.testing.assert_array_equal(numbers.values, values.reshape(N, -1))
    with pytest.raises(ValueError, match=r"x holds text or categories.*leave out discrete=False"):
        read_variable(LETTERS, discrete=False)
    with pytest.raises(ValueError, match=r"x has 2,000 different values.*1,000 labels: merge"):
        read_variable(NORMAL, discrete=True)
    with pytest.raises(ValueError, match="more than 1,000 labels"):
        read_variable([f"row {i}" for i in range(N)])


def test_read_variables_has_one_rule_for_each_side():
    named = {"a": DIGITS, "b": DIGITS}

    def kinds(discrete):
        x, z = read_variables(DIGITS, named, discrete)
        return x.kind, z["a"].kind, z["b"].kind

    assert kinds("auto") == ("labels",) * 3
    assert kinds(False) == ("columns",) * 3
    assert kinds((False, "auto")) == ("columns", "labels", "labels")
    assert kinds((True, {"b": False})) == ("labels", "labels", "columns")
    for discrete, message in [
        ("yes", "discrete must be \"auto\", True or False, got 'yes'"),
        ((True, False, True), "or a pair of them"),
        ({"a": True}, "or a pair of them"),
        (("auto", {"c": True}), r"discrete names \['c'\], but the names of z are \['a', 'b'\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            kinds(discrete)
    with pytest.raises(ValueError, match=r"same number of samples.*'x': 2000, 'short': 9"):
        read_variables(DIGITS, {"short": DIGITS[:9]})


def test_variable_is_returned_as_it_is():
    variable = Variable(NORMAL[:, None], "columns", (N,))
    assert read_variable(variable) is variable


# --- Images and numbers of any type ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((9, 8, 8), "images"),
        ((9, 28, 28, 1), "images"),
        ((9, 8, 9, 4), "images"),
        ((9, 14, 14, 6), "columns"),  # a layer
        ((9, 7, 8), "columns"),
        ((9, 20, 3), "columns"),
        ((9, 64), "columns"),
        ((9, 2, 3, 4, 5), "columns"),
    ],
)
def test_images_have_pixels_and_few_channels(shape, kind):
    samples = np.random.default_rng(0).normal(size=shape)
    variable = read_variable(samples)
    assert (variable.kind, variable.shape) == (kind, shape)
    np.testing.assert_array_equal(variable.values.reshape(shape), samples)
    assert kind == "images" or variable.values.ndim == 2


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        *((dtype, np.float32) for dtype in (bool, np.uint8, np.int16, np.float16, jnp.bfloat16)),
        *((dtype, np.float64) for dtype in (np.int32, np.uint64, np.float64, np.longdouble)),
        (object, np.float64),
    ],
)
def test_numbers_of_any_type_are_floats_that_hold_them(dtype, expected):
    table = RNG.integers(0, 2, (50, 3)).astype(dtype)
    variable = read_variable(table)
    assert (variable.kind, variable.values.dtype) == ("columns", expected)
    np.testing.assert_array_equal(variable.values, np.asarray(table, float))


def test_objects_that_are_numbers_are_numbers():
    values = [decimal.Decimal(i) / 7 for i in range(50)]
    np.testing.assert_allclose(read_variable(values).values[:, 0], np.arange(50) / 7)
    assert kind_of(np.array([1, 2.5] * 100, dtype=object)) == "labels"


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.coo_array])
def test_sparse_matrices_are_columns_if_they_fit(make):
    dense = np.random.default_rng(0).poisson(0.1, (50, 20))
    np.testing.assert_array_equal(read_variable(make(dense)).values, dense)
    with pytest.raises(ValueError, match=r"sparse matrix with 1,000,000,000 elements.*reduce"):
        read_variable(make((10**6, 1000)))


class FakeTensor:
    """What is needed of a tensor of torch."""

    is_sparse = False

    def __init__(self, values, device="cpu", requires_grad=True):
        self.values, self.dtype, self.requires_grad = values, values.dtype, requires_grad
        self.device = SimpleNamespace(type=device)

    def detach(self):
        """Return the same without a gradient."""
        return FakeTensor(self.values, self.device.type, requires_grad=False)

    def cpu(self):
        """Tell tensors from other objects."""
        raise AssertionError("nobody asked for a copy")

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise RuntimeError("requires grad")
        return self.values


class FakeCapsule:
    """An array that only knows DLPack."""

    def __init__(self, values, device):
        self.values, self.device = values, device

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device, 0


def test_tensors_are_read_on_the_cpu_only():
    for tensor in (FakeTensor(NORMAL), FakeCapsule(NORMAL, 1), jnp.asarray(NORMAL)):
        np.testing.assert_allclose(read_variable(tensor).values[:, 0], NORMAL, rtol=1e-6)
    with pytest.raises(ValueError, match=r"layer is a tensor on the device .*layer\.cpu\(\)"):
        read_variable(FakeTensor(NORMAL, "cuda"), "layer")
    with pytest.raises(ValueError, match="x is not in the CPU's memory: copy it to a NumPy array"):
        read_variable(FakeCapsule(NORMAL, 2))
    with pytest.raises(ValueError, match=r"x cannot be read as an array.*requires grad"):
        read_variable([FakeTensor(NORMAL)])


# --- Data frames ----------------------------------------------------------------------------------


def frame(**changes):
    pandas = pytest.importorskip("pandas")
    columns = {
        "city": LETTERS,
        "age": NORMAL,
        "member": NORMAL > 0,
        "size": pandas.Categorical(DIGITS % 2),
        "visits": DIGITS,
    }
    return pandas.DataFrame(columns | changes)


def test_frame_of_mixed_columns_is_numbers_then_booleans_then_categories():
    variable = read_variable(frame())
    assert (variable.kind, variable.shape) == ("columns", (N, 7))
    expected = [NORMAL, DIGITS, NORMAL > 0, *(each == LETTERS for each in "abc"), DIGITS % 2]
    np.testing.assert_array_equal(variable.values, np.stack(expected, axis=1))
    # The same cells as an array of objects; its categories are integers.
    again = read_variable(frame().to_numpy())
    columns = [0, 6, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(again.values, variable.values[:, columns])
    prepared = np.asarray(prepare(variable.values))
    np.testing.assert_allclose(prepared.std(axis=0), 1, rtol=1e-5)
    for column, flags in zip(prepared[:, 3:6].T, expected[3:6], strict=True):
        assert len(np.unique(column)) == 2
        assert column[flags].min() > column[~flags].max()


def test_frame_of_one_column_and_series_are_like_arrays():
    pandas = pytest.importorskip("pandas")
    table = frame()
    for name, kind in [("city", "labels"), ("size", "labels"), ("visits", "labels"),
                       ("member", "labels"), ("age", "columns")]:  # fmt: skip
        for values in (table[name], table[[name]], table[name].array):
            assert kind_of(values) == kind
    assert kind_of(pandas.cut(table["age"], 4)) == "labels"
    assert kind_of(pandas.get_dummies(table["city"])) == "labels"
    assert kind_of(table[["age"]]) == kind_of(table[["age", "visits"]]) == "columns"
    for dtype, kind in (("Int64", "labels"), ("Float64", "columns"), ("boolean", "labels")):
        column = table["member" if dtype == "boolean" else "visits"].astype(dtype)
        column = column + NORMAL if dtype == "Float64" else column
        assert kind_of(column) == kind
    assert read_variable(table[:0]).values.shape == (0, 5)


def test_frame_with_many_categories_is_refused():
    ids = [f"id {i % 98}" for i in range(N)]
    message = f"x has 101 categories, more than {MAX_CATEGORIES}, 98 of them in column 'id': merge"
    with pytest.raises(ValueError, match=message):
        read_variable(frame(id=ids).drop(columns="size"))
    with pytest.raises(ValueError, match=r"column 'city' of x holds text.*discrete=False"):
        read_variable(frame(), discrete=False)


def test_frame_with_missing_values_counts_rows_and_names_columns():
    pandas = pytest.importorskip("pandas")
    table = frame()
    table.loc[3:19, "age"] = np.nan
    table.loc[5:30, "city"] = None
    message = r"x has missing values in 28 of 2,000 rows \(columns 'city', 'age'\); drop these rows"
    with pytest.raises(ValueError, match=message):
        read_variable(table)
    twice = pandas.concat([table[["age"]], frame()[["age"]]], axis=1)  # columns of one name
    with pytest.raises(ValueError, match=r"17 of 2,000 rows \(column 'age'\)"):
        read_variable(twice)
    for column in (table["city"], table["city"].astype("category"), table["age"].astype("Float64"),
                   table["visits"].astype("Int64").mask(DIGITS == 3)):  # fmt: skip
        with pytest.raises(ValueError, match=r"x has missing values in \d+ of 2,000 rows; drop"):
            read_variable(column)
    with pytest.raises(ValueError, match=r"infinite values in 7 of 2,000 rows \(column 'age'\)"):
        read_variable(frame(age=np.where(np.arange(N) < 7, np.inf, NORMAL)))
    with pytest.raises(ValueError, match="column 'day' of x holds dates or times"):
        read_variable(frame(day=pandas.date_range("2020", periods=N)))


# --- Refusals -------------------------------------------------------------------------------------


def with_value(value, *shape):
    values = np.random.default_rng(0).normal(size=shape)
    values[:17] = value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (with_value(np.nan, N), "x has missing values in 17 of 2,000 rows; drop these rows of x"),
        (with_value(np.nan, N, 9), r"17 of 2,000 rows \(columns 0, 1, 2, …\)"),
        (with_value([1, np.nan, 1], N, 3), r"17 of 2,000 rows \(column 1\)"),
        (with_value(np.nan, N, 9, 9), "x has missing values in 17 of 2,000 rows; "),
        (with_value(-np.inf, N), "x has infinite values in 17 of 2,000 rows; .*limit them"),
        ([1.0, None, 2.0], "x has missing values in 1 of 3 rows"),
        (np.ma.masked_equal(DIGITS, 3), "x has missing values in"),
        (np.ones(9, complex), "x holds complex numbers: give the real and imaginary parts"),
        ([1j, decimal.Decimal(1)], "x holds complex numbers"),
        (np.arange(9).astype("datetime64[s]"), "x holds dates or times .*seconds since"),
        ([datetime.date(2020, 1, 1)] * 9, "x holds dates or times .date.*seconds since"),
        ([[1.0], [1.0, 2.0]], "x cannot be read as an array, whose samples all have the same"),
        (np.array([[1.0], [1.0, 2.0]], dtype=object), "x holds objects of type list"),
        (np.array([1.0, "n/a"], dtype=object), "x holds objects of type float, str; a column"),
        (np.zeros(9, [("a", float)]), "x must hold real numbers or labels, got dtype"),
        ({1.0, 2.0}, "x cannot be read as an array: it is a set"),
    ],
)
def test_read_variable_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        read_variable(values)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (9, 0)])
def test_samples_without_rows_or_columns_are_left_to_later_checks(shape):
    assert read_variable(np.ones(shape)).values.shape == shape


def test_is_missing_knows_what_stands_for_nothing():
    missing = [None, np.nan, np.float32("nan"), np.datetime64("nat", "s")]
    assert all(map(is_missing, missing))
    present = ["", "nan", 0, False, np.False_, 0.0, (), np.inf, [np.nan], np.zeros(2)]
    assert not any(map(is_missing, present))
    pandas = pytest.importorskip("pandas")
    assert is_missing(pandas.NA)
    assert is_missing(pandas.NaT)


# --- Rows -----------------------------------------------------------------------------------------


@given(
    rows=st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.0, 1e-300]), min_size=3, max_size=3),
                  min_size=1, max_size=12),
    columns=st.sampled_from([1, 3]),
)  # fmt: skip
def test_row_codes_are_equal_where_rows_are(rows, columns):
    values = np.array(rows)[:, :columns]
    codes = row_codes(values)
    equal = (values[:, None] == values[None]).all(axis=2)
    np.testing.assert_array_equal(codes[:, None] == codes[None], equal)
    assert set(codes) == set(range(codes.max() + 1))


def test_read_variables_refuses_labels_that_occur_once():
    identifiers = [f"user {i}" for i in range(100)]
    numbers = np.arange(100.0)
    with pytest.raises(ValueError, match="100 of the 100 labels of z occur once, as identifiers"):
        read_variables(numbers, {"z": identifiers})
    with pytest.raises(ValueError, match="labels of x occur once"):
        read_variables(numbers, {"z": numbers}, discrete=(True, False))
    _, sides = read_variables(numbers, {"z": identifiers[:85] + ["user 0"] * 15})
    assert sides["z"].kind == "labels"


def test_read_variable_tells_large_integers_apart():
    codes = np.random.default_rng(0).integers(0, 5, 200)
    for large in (2**60 + codes, (2**60 + codes).astype(object), 2**63 + codes.astype(np.uint64)):
        for discrete in ("auto", True):
            labels = read_variable(large, discrete=discrete)
            assert labels.kind == "labels"
            np.testing.assert_array_equal(labels.values, codes)
        with pytest.raises(ValueError, match=r"integers beyond 2\^53.*subtract the smallest"):
            read_variable(large, discrete=False)
    with pytest.raises(ValueError, match="integers beyond 64 bits"):
        read_variable([10**400, *range(50)])


def test_read_variable_of_lists_with_missing_text_counts_it():
    with pytest.raises(ValueError, match="missing values in 20 of 60 rows"):
        read_variable(["a", "b", float("nan")] * 20)
    with pytest.raises(ValueError, match="objects of type float, str"):
        read_variable(["a", 1.5] * 20)


def test_read_variables_takes_truth_values_of_numpy_and_no_others():
    tenths = np.arange(200) % 50 / 10
    x, sides = read_variables(tenths, {"x": tenths}, discrete=(np.True_, np.False_))
    assert (x.kind, sides["x"].kind) == ("labels", "columns")
    for wrong in ((1, 0), 1, ("auto", {"x": 1})):
        with pytest.raises(ValueError, match="discrete must be"):
            read_variables(tenths, {"x": tenths}, discrete=wrong)
    with pytest.raises(ValueError, match="'x': 200, 'x of z': 150"):
        read_variables(tenths, {"x": tenths[:150]})
