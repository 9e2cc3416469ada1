"""Files with checksums: what was damaged is told, what is whole is read."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mine_jax.information_plane import durable_files
from mine_jax.information_plane.durable_files import (
    decode_json,
    decode_rows,
    encode_json,
    encode_row,
    text_of,
)

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)
)
NAMES = st.text(max_size=5).filter(lambda name: name != "crc32")
ROWS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=3)


@given(st.lists(ROWS, max_size=4))
def test_rows_come_back_as_they_were(rows):
    found = decode_rows(text_of(rows))
    assert (found.rows, found.damage) == (rows, {})


@given(ROWS)
def test_json_comes_back_as_it_was(content):
    assert decode_json(encode_json(content)) == content


@given(st.data())
def test_a_changed_byte_is_told_with_its_line(data):
    rows = [{"epoch": epoch, "mi_nats": 0.1 * epoch, "layer": "é"} for epoch in range(4)]
    lines = [encode_row(row).encode() for row in rows]
    number = data.draw(st.integers(0, 3))
    place = data.draw(st.integers(0, len(lines[number]) - 2))
    byte = data.draw(st.integers(1, 255))
    broken = bytearray(lines[number])
    broken[place] ^= byte
    content = b"".join([*lines[:number], bytes(broken), *lines[number + 1 :]])
    found = decode_rows(content.decode(errors="replace"))
    assert number + 1 in found.damage
    assert all(row in rows for row in found.rows)
    if b"\n" not in broken[:-1] and b"\r" not in broken:
        assert found.rows == rows[:number] + rows[number + 1 :]


@pytest.mark.parametrize("old", ["11", "0.25", "name", "mnist"])
def test_json_that_was_changed_is_refused(old):
    text = encode_json({"seed": 11, "noise": 0.25, "name": "mnist"})
    with pytest.raises(ValueError, match=r"checksum differs.*remove its entry crc32"):
        decode_json(text.replace(old, old[:-1] + "2"))


def test_files_without_checksums_are_read_and_mixed_ones_are_not():
    plain = '{"epoch": 0}\n{"epoch": 4}\n'
    assert decode_rows(plain).rows == [{"epoch": 0}, {"epoch": 4}]
    mixed = decode_rows(plain + encode_row({"epoch": 8}))
    assert mixed.rows == [{"epoch": 8}]
    assert set(mixed.damage) == {1, 2}
    assert decode_json('{"seed": 1}') == {"seed": 1}


def test_append_on_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    durable_files.append(path, "first\n")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable_files.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        durable_files.append(path, "second\n")
    assert path.read_text() == "first\n"
    with pytest.raises(OSError, match="No space"):
        durable_files.replace(path, b"second\n")
    assert path.read_text() == "first\n"
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]


def test_numbers_that_are_not_finite_are_refused():
    for encode in (encode_row, encode_json):
        with pytest.raises(ValueError, match="JSON"):
            encode({"v": float("nan")})


def test_a_row_ends_in_the_crc_32_of_its_text():
    text = '{"v": 1.5}'
    assert json.loads(encode_row({"v": 1.5}))["crc32"] == f"{zlib.crc32(text.encode()):08x}"
