"""The experiment through its real entry point, on a tiny mock data set."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from mine_jax import datasets, estimator, information_plane, mine, records

SCRIPT = Path(__file__).parent.parent / "experiments" / "info_plane.py"
FILES = {
    "config.json",
    "training.jsonl",
    "records.jsonl",
    "findings.json",
    "information_plane.png",
    "mi_over_epochs.png",
    "checkpoints",
}
RECORD = {
    "seed": int,
    "epoch": int,
    "layer": str,
    "variable": str,
    "mi_nats": float,
    "stderr": float,
    "train_nats": float,
    "ceiling_nats": float,
    "reference_nats": type(None),
    "steps": int,
    "converged": bool,
    "warm_start": bool,
    "seconds": float,
    "warnings": list,
}
TINY = (
    "--layers=relu3,softmax",
    "--probe_every=1",
    "--probe_size=400",
    "--batch_size=100",
    "--learning_rate=0.05",
    "--hidden=16",
    "--mine_batch_size=64",
    "--max_steps=150",
)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("info_plane", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["info_plane"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def mock_mnist(monkeypatch):
    """Images with a bright square whose place tells the label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 700).astype(np.int32)
    images = rng.uniform(0, 0.3, (700, 28, 28, 1)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 2 : 2 * label + 8, 8:20] += 0.7
    data = datasets.Dataset(
        "mock", images[:500], labels[:500], images[500:], labels[500:], 10, "MOCK DATA"
    )
    monkeypatch.setattr(datasets, "load", lambda name, data_dir: data)


@pytest.fixture
def run(script, tmp_path):
    def run(folder, *arguments):
        with flagsaver.flagsaver():
            flags.FLAGS(["info_plane", f"--out_dir={tmp_path / folder}", *TINY, *arguments])
            script.main(["info_plane"])
        return tmp_path / folder

    return run


def rows(folder, name="records.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def without_times(folder):
    return [
        [{k: v for k, v in row.items() if k != "seconds"} for row in rows(folder, name)]
        for name in ("records.jsonl", "training.jsonl")
    ]


def test_the_run_folder_is_what_others_rely_on(run, capsys):
    folder = run("run", "--epochs=2")
    assert {path.name for path in folder.iterdir()} == FILES
    config = json.loads((folder / "config.json").read_text())
    assert config["dataset"] == "mock"
    assert config["settings"]["hidden"] == 16
    assert config["probe_size"] == 400
    assert {"jax", "flax", "python"} <= set(config["versions"])

    training = rows(folder, "training.jsonl")
    assert [row["epoch"] for row in training] == [0, 1, 2]
    assert set(training[0]) == {"epoch", "train_loss", "test_accuracy", "seconds"}
    assert training[0]["train_loss"] is None
    assert training[2]["train_loss"] < training[1]["train_loss"]

    found = rows(folder)
    keys = [(row["epoch"], row["variable"], row["layer"]) for row in found]
    assert keys == [(e, v, n) for e in (0, 1, 2) for v in "xy" for n in ("relu3", "softmax")]
    for row in found:
        for name, kind in RECORD.items():
            assert isinstance(row[name], kind), name
        assert row["ceiling_nats"] == pytest.approx(math.log(80))
        assert row["warm_start"] is (row["epoch"] > 0)
        assert row["mi_nats"] <= row["ceiling_nats"]
        if row["variable"] == "y":
            assert row["mi_nats"] <= config["class_entropy_nats"] + 2 * row["stderr"]
            assert row["mi_nats"] >= -2 * row["stderr"]
    # The square's place is plain to see: even an untrained layer tells most of the label.
    label_in_relu3 = next(r for r in found if r["variable"] == "y" and r["epoch"] == 2)
    assert label_in_relu3["mi_nats"] > 1.5

    printed = capsys.readouterr().out
    assert "MOCK DATA" in printed
    assert "data-processing inequality of I(Y;L)" in printed
    assert "Final test accuracy" in printed
    sentences = json.loads((folder / "findings.json").read_text())["sentences"]
    assert all(sentence in printed for sentence in sentences)


def test_resume_gives_the_records_of_an_uninterrupted_run(run, monkeypatch, capsys):
    whole = run("whole", "--epochs=2")
    save = records.RunFolder.save

    def crash(self, epoch, state):
        if epoch == 1:
            raise KeyboardInterrupt
        save(self, epoch, state)

    # The worst moment: the rows of epoch 1 are written, its checkpoint is not.
    monkeypatch.setattr(records.RunFolder, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        run("broken", "--epochs=2")
    monkeypatch.setattr(records.RunFolder, "save", save)
    broken = run("broken", "--epochs=2", "--resume")
    assert "resumed after epoch 0" in capsys.readouterr().out
    assert without_times(broken) == without_times(whole)

    # A finished run resumes to itself, and on to more epochs.
    assert without_times(run("broken", "--epochs=2", "--resume")) == without_times(whole)
    longer = run("broken", "--epochs=3", "--resume")
    assert without_times(longer)[0][:12] == without_times(whole)[0]
    assert rows(longer)[-1]["epoch"] == 3


def test_another_run_in_the_folder_is_an_error_that_says_what_to_do(run):
    run("run", "--epochs=0")
    with pytest.raises(SystemExit, match=r"already holds a run .*--resume.*--out_dir"):
        run("run", "--epochs=0")
    with pytest.raises(SystemExit, match="hidden is 16 there and 8 now"):
        run("run", "--epochs=0", "--resume", "--hidden=8")


def test_cold_start_fits_afresh(run):
    folder = run("cold", "--epochs=1", "--nowarm_start", "--learning_rate=1e-9")
    assert not any(row["warm_start"] for row in rows(folder))
    warm = run("warm", "--epochs=1", "--learning_rate=1e-9")
    # The model stands still: a warm round starts where the one before ended.
    for name, most in (("cold", 3.0), ("warm", 1.0)):
        first, second = (
            [r["steps"] for r in rows({"cold": folder, "warm": warm}[name]) if r["epoch"] == e]
            for e in (0, 1)
        )
        assert sum(second) <= most * sum(first)
    assert rows(folder)[:4] != rows(folder)[4:]


def test_every_wrong_flag_is_named_before_work_starts(run, tmp_path):
    with pytest.raises(SystemExit) as error:
        run("bad", "--layers=relu3,foo", "--learning_rate=-1", "--hidden=0", "--epochs=-1")
    for part in ("foo", "conv1", "-1.0", "hidden", "epochs", "got 0"):
        assert part in str(error.value)
    with pytest.raises(SystemExit, match="order of depth"):
        run("bad", "--layers=softmax,conv1")
    assert not (tmp_path / "bad").exists()


def script_output(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


def test_help_and_an_unavailable_platform_in_a_process_of_their_own(tmp_path):
    text = script_output("--help").stdout
    for name in ("--epochs", "--probe_every", "--[no]warm_start", "--platform", "--[no]resume"):
        assert name in text
    failed = script_output("--platform=tpu", f"--out_dir={tmp_path / 'run'}")
    assert failed.returncode == 1
    assert "--platform=tpu is not available" in failed.stderr
    assert "Traceback" not in failed.stderr


class Two(nn.Module):
    """A model that is not LeNet-5."""

    @nn.compact
    def __call__(self, images, probes=()):
        """Logits, and the hidden layer on request."""
        hidden = nn.tanh(nn.Dense(8)(images.reshape(len(images), -1)))
        logits = nn.Dense(2)(hidden)
        return (logits, {name: {"hidden": hidden}[name] for name in probes}) if probes else logits


def test_any_model_and_data():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300).astype(np.int32)
    images = (rng.normal(size=(300, 5)) + 4 * labels[:, None]).astype(np.float32)
    config = information_plane.PlaneConfig(
        epochs=1,
        probe_every=1,
        layers=("hidden",),
        probe_size=300,
        mine=mine.MineConfig(hidden=16, max_steps=300, batch_size=64, cross_fit=False),
    )
    result = information_plane.run(Two(), (images, labels), (images, labels), config)
    y = [row for row in result.records if row["variable"] == "y"]
    assert len(result.records) == 4
    # The classes hardly overlap: the label is known, ln 2 nats, from 60 reporting samples.
    assert y[-1]["mi_nats"] == pytest.approx(math.log(2), abs=0.1)


def test_the_error_of_a_drop_is_that_of_paired_samples():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(600, 1))
    z = x + rng.normal(size=(600, 1))
    layers = {"a": estimator.prepare(z), "b": estimator.prepare(2 * z + 1e-3 * x)}
    config = information_plane.PlaneConfig(
        layers=("a", "b"),
        mine=mine.MineConfig(hidden=16, max_steps=300, batch_size=128, cross_fit=False),
    )
    found, _ = information_plane.measure(
        {"x": estimator.prepare(x)}, layers, epoch=0, config=config, key=jax.random.key(0)
    )
    assert found[0]["drop_nats"] is None
    # Nearly the same layer twice: the samples' luck is in both, the difference has little of it.
    assert found[1]["drop_stderr"] < 0.5 * found[1]["stderr"]
    assert abs(found[1]["drop_nats"]) < 4 * found[1]["drop_stderr"] + 0.02


def test_entropy_and_probe_rows():
    assert information_plane.entropy(jnp.array([0, 1, 2, 3])) == pytest.approx(math.log(4))
    assert information_plane.entropy(np.zeros(5, int)) == 0
    config = information_plane.PlaneConfig(probe_size=50, seed=3)
    chosen = information_plane.probe_rows(config, 100)
    assert len(set(chosen.tolist())) == 50
    assert chosen.max() > 60  # not the first rows
    np.testing.assert_array_equal(chosen, information_plane.probe_rows(config, 100))
