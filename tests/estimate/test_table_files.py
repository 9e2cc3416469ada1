"""Files of samples: which columns are numbers, text or missing."""

import io
import zipfile

import numpy as np
import pytest

from mine_jax.estimate.table_files import TableError, read_table, select


def read(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_table(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_first_row_of_names_and_columns_of_their_types(tmp_path, delimiter):
    rows = [["n", "value", "name"], ["1", "0.5", "a"], ["2", "1e3", "007"]]
    table = read(tmp_path, "\n".join(delimiter.join(row) for row in rows))
    assert list(table) == ["n", "value", "name"]
    assert [values.dtype.kind for values in table.values()] == ["i", "f", "O"]
    assert [values.tolist() for values in table.values()] == [[1, 2], [0.5, 1000.0], ["a", "007"]]


def test_without_names_columns_have_numbers_and_no_row_is_lost(tmp_path):
    table = read(tmp_path, "1,2\n\n3,4\n")
    assert {name: values.tolist() for name, values in table.items()} == {"0": [1, 3], "1": [2, 4]}


def test_quoted_cells_byte_order_marks_and_python_numbers(tmp_path):
    table = read(tmp_path, '\ufeff"a, b",c\n"x, y",1_0\n z ,2\n')
    assert {name: values.tolist() for name, values in table.items()} == {
        "a, b": ["x, y", "z"],
        "c": ["1_0", "2"],
    }


def test_missing_cells_are_nan_among_numbers_and_none_among_text(tmp_path):
    table = read(tmp_path, "a,b\n1,u\n,NA\n")
    np.testing.assert_array_equal(table["a"], [1.0, np.nan])
    assert table["b"].tolist() == ["u", None]
    for name in "ab":
        with pytest.raises(TableError, match=rf"'{name}' has missing values in 1 of 2 rows, first"):
            select(table, [name], "table.csv")


def test_names_come_before_numbers_and_ranges(tmp_path):
    table = read(tmp_path, "x,2,0-1,y\n1,2,3,4\n5,6,7,8\n")
    for names, expected in (
        (["2"], [2, 6]),
        (["0-1"], [3, 7]),
        (["3"], [4, 8]),
        (["0-2"], [[1, 2, 3], [5, 6, 7]]),
        (["y", "x"], [[4, 1], [8, 5]]),
    ):
        assert select(table, names, "table.csv").tolist() == expected
    for names in (["4"], ["2-1"], ["1-4"], [""]):
        with pytest.raises(TableError, match="has no column"):
            select(table, names, "table.csv")


def test_arrays_of_a_structured_file_and_of_any_shape(tmp_path):
    np.save(tmp_path / "people.npy", np.array([(1, 0.5), (2, 1.5)], [("age", int), ("b", float)]))
    assert read_table(tmp_path / "people.npy")["b"].tolist() == [0.5, 1.5]
    images = np.zeros((3, 8, 8))
    np.savez(tmp_path / "images.npz", images=images, z=np.arange(3))
    table = read_table(tmp_path / "images.npz")
    assert select(table, ["images"], "images.npz").shape == images.shape
    assert select(table, ["images", "z"], "images.npz").shape == (3, 65)


def test_empty_arrays_beside_others_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros((0, 3)), b=np.zeros((3, 0)), c=np.zeros(3))
    table = read_table(tmp_path / "a.npz")
    for name, shape in (("a", r"\(0, 3\)"), ("b", r"\(3, 0\)")):
        with pytest.raises(TableError, match=f"'{name}' has no values, shape {shape}"):
            select(table, [name], "a.npz")


def test_decimals_with_a_comma_are_refused_and_text_with_one_is_not(tmp_path):
    with pytest.raises(TableError, match=r"'b' has numbers with a comma, such as -1,5: .* point"):
        read(tmp_path, "a;b\n1;-1,5\n2;NA\n3;20,25\n")
    table = read(tmp_path, "a;b\n1;1,5\n2;see 2,5\n")
    assert table["b"].tolist() == ["1,5", "see 2,5"]


def header_of(shape):
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def archive_with(at, value):
    """An archive with one bit set in the entry of its array, in both places that have it."""
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(300.0))
    content = bytearray(file.getvalue())
    content[at] |= value
    content[content.find(b"PK\x01\x02") + at + 2] |= value
    return bytes(content)


def damaged_deflate():
    content = bytearray(archive_with(6, 0))
    content[100:140] = bytes(40)
    return bytes(content)


def archive_too_large():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", header_of((10**13,)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("deflate.npz", damaged_deflate(), "decompressing"),
        ("encrypted.npz", archive_with(6, 1), "encrypted"),
        ("method.npz", archive_with(8, 0x40), "compression"),
        ("large.npz", archive_too_large(), "Unable to allocate"),
        ("large.npy", header_of((10**13, 2)), "Unable to allocate"),
        ("header.npy", header_of((3,)).replace(b"(3,)", b"(3( "), "multi-line|header"),
    ],
)
def test_damaged_arrays_are_named(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TableError, match=f"{name} cannot be read: .*(?s:{reason})"):
        read_table(path)
