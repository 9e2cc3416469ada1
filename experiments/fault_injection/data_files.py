"""Damaged IDX files, and mistakes of our own while data are loaded: an error, never less data."""

import gzip
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from fault_injection.table import Table
from mine_jax.lenet import datasets
from mine_jax.lenet.datasets import FILES, FULL_NAMES

TRAIN, LABELS, TEST, TEST_LABELS = FILES
LENGTHS = (20, 20, 10, 10)
SHOWN = 110  # characters of a message
SUM = "each damage of a file's content, told by its sum"


class Damage(NamedTuple):
    """One damage.

    Attributes:
      name: of the row.
      apply: makes it in a folder with the four files.
      published: the damaged files are the published ones, so that no sum tells.
    """

    name: str
    apply: Callable[[Path], Any]
    published: bool = False


class Mistake(Exception):
    """A mistake of our own, as a bug would raise it."""


def measure(folder: Path, times: int | None) -> Table:
    """Load a tiny data set after each damage, by its name and as "auto".

    Args:
      folder: where its files are made.
      times: not used: a damage is the same each time.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for name, came in [*_damaged(folder), *_mistaken(folder)]:
        found.setdefault(name, []).extend(came)
    rows, failures = [], []
    for name, came in found.items():
        wrong = [text for kind, text in came if kind != "error"]
        rows.append((name, str(len(came)), came[0][1], str(len(wrong))))
        failures += [f"{name}: {text}" for text in wrong]
    note = (
        "A data set of 20 and 10 images, made on the spot, is loaded by its name and as auto from "
        "an explicit folder. The first row are all damages of a file's content, told by the "
        "published SHA-256; in the rows of single ones the damaged files are the published ones, "
        "so that decoding has to tell. Only an error may come back, and never mnist_5k."
    )
    columns = ("fault", "times", "came back", "lost")
    title = "Damaged image files, and mistakes while they are loaded"
    return Table(title, columns, tuple(rows), note, tuple(failures))


def _damaged(folder: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for damage in DAMAGES:
        _write_all(folder)
        with ExitStack() as stack:
            if damage.published:
                damage.apply(folder / "mnist")
            _publish(stack, folder)
            if not damage.published:
                damage.apply(folder / "mnist")
            came = [_load(each, folder / "mnist") for each in ("mnist", "auto")]
        told_by_sum = damage.apply in dict(_CONTENT).values() and not damage.published
        yield (SUM if told_by_sum else damage.name), came


def _mistaken(folder: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for place in ("published_files", "_sha256", "read_idx", "_to_images"):
        _write_all(folder)
        with ExitStack() as stack:
            _publish(stack, folder)
            _fail(stack, f"mine_jax.lenet.datasets.{place}")
            yield f"mistake in {place}", [_load("auto", folder / "mnist")]
    empty = folder / "empty"
    for place in ("requests.head", "tensorflow_datasets.download.DownloadManager"):
        empty.mkdir(exist_ok=True)
        with ExitStack() as stack:
            _publish(stack, folder)
            if place != "requests.head":
                stack.enter_context(mock.patch.object(datasets, "host_answers", return_value=True))
            _fail(stack, place)
            yield f"mistake in {place.split('.')[-1]}", [_load("auto", empty)]


def _fail(stack: ExitStack, place: str) -> None:
    stack.enter_context(mock.patch(place, side_effect=Mistake("a mistake of our own")))


def _load(name: str, folder: Path) -> tuple[str, str]:
    """Return "error" and its message, or something else and what came back."""
    try:
        data = datasets.load(name, folder)
    except (ValueError, FileNotFoundError, Mistake) as error:
        text = f"{type(error).__name__}: {error}".replace(f"{folder.parent}/", "")
        return "error", text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
    except Exception as error:
        return "unclear", f"{type(error).__name__}: {error}"
    return "data", f"{data.name} came back for {name}"


def _publish(stack: ExitStack, folder: Path) -> None:
    """Let the files that are there now be the published ones; no host answers."""
    from tensorflow_datasets.core.download.checksums import compute_url_info

    infos = {
        name: {
            f"http://host.invalid/{name}/{file}": compute_url_info(folder / name / file)
            for file in FILES
        }
        for name in FULL_NAMES
    }
    patch = mock.patch.object(datasets, "published_files", infos.__getitem__)
    stack.enter_context(patch)
    environment = {"TFDS_DATA_DIR": str(folder / "none")}
    stack.enter_context(mock.patch.dict("os.environ", environment))


def _write_all(folder: Path) -> None:
    """Write the files of all three data sets, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    for name in FULL_NAMES:
        (folder / name).mkdir(parents=True)
        for file, n in zip(FILES, LENGTHS, strict=True):
            high, shape = (256, (n, 28, 28)) if "images" in file else (10, (n,))
            _write_idx(folder / name / file, rng.integers(0, high, shape, np.uint8))


def _write_idx(path: Path, array: np.ndarray, shape: tuple[int, ...] | None = None) -> None:
    """Write an array, whose header may promise another shape."""
    header = bytes((0, 0, 8, array.ndim)) + np.array(shape or array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


def _swap(folder: Path, one: str, other: str) -> None:
    contents = [(folder / name).read_bytes() for name in (other, one)]
    for name, content in zip((one, other), contents, strict=True):
        (folder / name).write_bytes(content)


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _labels(path: Path, *changes: int) -> None:
    _write_idx(path, np.array([*range(len(changes), 10), *changes], np.uint8))


_CONTENT: tuple[tuple[str, Callable[[Path], Any]], ...] = (
    ("file cut off", lambda folder: _cut(folder / TRAIN)),
    ("one byte changed", lambda folder: _flip(folder / TRAIN, 5000)),
    ("checksum of gzip changed", lambda folder: _flip(folder / TEST, -6)),
    ("empty file", lambda folder: (folder / LABELS).write_bytes(b"")),
    ("not gzip", lambda folder: (folder / TEST).write_bytes(b"<html>404</html>")),
    ("wrong magic", lambda folder: (folder / TEST).write_bytes(gzip.compress(b"\1\2\3\4" * 9))),
    ("header cut off", lambda folder: (folder / TEST).write_bytes(gzip.compress(b"\0\0\x08\3"))),
    (
        "header promises more",
        lambda folder: _write_idx(folder / TEST_LABELS, np.zeros(10, np.uint8), (2**32 - 1,)),
    ),
    (
        "header promises less",
        lambda folder: _write_idx(folder / TEST_LABELS, np.zeros(10, np.uint8), (9,)),
    ),
    (
        "images of 27 lines",
        lambda folder: _write_idx(folder / TEST, np.zeros((10, 27, 28), np.uint8)),
    ),
    ("a label too few", lambda folder: _write_idx(folder / TEST_LABELS, np.zeros(9, np.uint8))),
    ("label 10", lambda folder: _labels(folder / TEST_LABELS, 10)),
    ("images and labels swapped", lambda folder: _swap(folder, TRAIN, LABELS)),
    ("training and test labels swapped", lambda folder: _swap(folder, LABELS, TEST_LABELS)),
)
DAMAGES = (
    *(Damage(name, apply) for name, apply in _CONTENT),
    *(Damage(name, apply, published=True) for name, apply in _CONTENT),
    Damage("file missing", lambda folder: (folder / TEST).unlink()),
    Damage("folder in the place of a file", lambda folder: _to_folder(folder / TEST)),
    Damage("files of another data set", lambda folder: shutil.copytree(
        folder.parent / "kmnist", folder, dirs_exist_ok=True)),
    Damage("file unpacked", lambda folder: (folder / TEST).rename(
        folder / TEST.removesuffix(".gz"))),
)  # fmt: skip
