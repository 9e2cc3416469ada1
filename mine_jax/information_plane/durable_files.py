"""Files that are whole or absent, with checksums in them that tell of damage.

A row of a JSON-lines file ends in the CRC-32 of the text before it, and so does a JSON file.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

Row = Mapping[str, Any]

CHECKSUM = "crc32"
_ROW_END = re.compile(rf', "{CHECKSUM}": "([0-9a-f]{{8}})"\}}$')


class Lines(NamedTuple):
    """What a JSON-lines file holds.

    Attributes:
      rows: of the lines that are whole, without their checksums.
      texts: these lines.
      damage: numbers of the other lines, from 1, and what is wrong with them.
      cut: whether the last line lacks its end; it is neither a row nor damage.
    """

    rows: list[dict[str, Any]]
    texts: list[str]
    damage: dict[int, str]
    cut: bool


def encode_row(row: Row) -> str:
    """Return a row as a line of JSON that ends in its checksum.

    Args:
      row: a mapping that JSON can hold, not empty.

    Raises:
      ValueError: if a number in it is not finite.
    """
    text = json.dumps(row, allow_nan=False)
    return f'{text[:-1]}, "{CHECKSUM}": "{_checksum(text)}"}}\n'


def decode_rows(text: str) -> Lines:
    """Read lines of `encode_row`.

    The last line may lack its end: it was being written. Lines without a checksum
    count as whole in a file without any, as earlier versions wrote them.

    Args:
      text: content of the file.
    """
    lines = text[: text.rfind("\n") + 1].splitlines()
    expected = any(_ROW_END.search(line) for line in lines)
    found = Lines([], [], {}, cut=bool(text) and not text.endswith("\n"))
    for number, line in enumerate(lines, 1):
        end = _ROW_END.search(line)
        body = line if end is None else line[: end.start()] + "}"
        try:
            row = json.loads(body)
        except ValueError as error:
            found.damage[number] = getattr(error, "msg", str(error))
            continue
        if not isinstance(row, dict) or (end is None and expected):
            found.damage[number] = "no row with a checksum"
        elif end is not None and end[1] != _checksum(body):
            found.damage[number] = "checksum differs"
        else:
            found.rows.append(row)
            found.texts.append(line)
    return found


def encode_json(content: Row) -> str:
    """Return the text of a JSON file that ends in its checksum.

    Args:
      content: any mapping that JSON can hold.

    Raises:
      ValueError: if a number in it is not finite.
    """
    checksum = _checksum(json.dumps(content, indent=2, allow_nan=False))
    return json.dumps({**content, CHECKSUM: checksum}, indent=2, allow_nan=False) + "\n"


def decode_json(text: str) -> dict[str, Any]:
    """Read what `encode_json` wrote; a file without a checksum is taken as it is.

    Args:
      text: content of the file.

    Raises:
      ValueError: if it is no JSON object, or was changed.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    checksum = content.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(json.dumps(content, indent=2)):
        raise ValueError(f"checksum differs; if you edited it, remove its entry {CHECKSUM}")
    return content


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written as a whole.

    It is on disk when the context ends; if that fails, the former file still is.

    Args:
      path: the file.

    Raises:
      OSError: if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Write a file as a whole, see `replacing`.

    Args:
      path: the file.
      content: what it is to hold.

    Raises:
      OSError: if it cannot be written.
    """
    with replacing(path) as file:
        file.write(content)


def append(path: Path, text: str) -> None:
    """Add text to a file; it is on disk when this returns, or none of it is.

    Args:
      path: the file; it is made if it is not there.
      text: what to add.

    Raises:
      OSError: if it cannot be written.
    """
    is_new = not path.exists()
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        # A line that was cut off must not take the next one with it.
        start = b"\n" if size and not _ends_in_newline(path) else b""
        content = memoryview(start + text.encode())
        try:
            while content:  # of a disk that is nearly full, only a part fits
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise
    if is_new:
        _sync_folder(path.parent)


def text_of(rows: Sequence[Row]) -> str:
    """Return the content of a JSON-lines file.

    Args:
      rows: its rows.
    """
    return "".join(map(encode_row, rows))


def _ends_in_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _sync_folder(path: Path) -> None:
    # A new name is on disk only when its folder is. Windows cannot open folders.
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
