"""The main job through its entry function, on a small data set."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from typing import get_args

import pytest
from absl import flags
from absl.testing import flagsaver
from conftest import EXPERIMENTS
from jax.experimental import multihost_utils

from mine_jax import mine
from mine_jax.information_plane import PlaneConfig, config
from mine_jax.information_plane.durable_files import decode_rows
from mine_jax.lenet import DEFAULT_PROBES, datasets

FILES = {
    *(".lock", ".config.json.copy", "config.json"),
    *("training.jsonl", "records.jsonl", "findings.json", "checkpoints"),
    *("information_plane.png", "mi_over_epochs.png"),
    *("information_plane.pdf", "mi_over_epochs.pdf"),
}
if all(importlib.util.find_spec(name) for name in ("altair", "vl_convert")):
    FILES |= {"information_plane.html"}
RECORD = {
    **{"seed": int, "epoch": int, "layer": str, "variable": str, "network": str, "steps": int},
    **{"mi_nats": float, "stderr": float, "train_nats": float, "ceiling_nats": float},
    **{"own_nats": float, "noise_std": float, "noise_level": float, "seconds": float},
    **{"warnings": list, "converged": bool, "warm_start": bool, "plane": str},
}
OBSERVED = {
    *("reference_nats", "reference_stderr", "reference_low_nats", "reference_low_stderr"),
    *("reference_high_nats", "reference_high_stderr", "low_difference_nats"),
    *("low_difference_stderr", "high_difference_nats", "high_difference_stderr"),
    *("num_images", "num_axes", "lost_nats"),
}
NULLABLE = {
    *("drop_nats", "drop_stderr", "own_drop_nats", "own_drop_stderr", "gaussian_bound_nats"),
    *("change_nats", "change_stderr"),
}
TINY = (
    *("--dataset=mnist_5k", "--layers=relu3,softmax", "--probe_every=1", "--probe_size=400"),
    *("--learning_rate=0.05", "--hidden=16", "--mine_batch_size=64", "--max_steps=50"),
    *("--epochs=0", "--compilation_cache="),
)


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)  # as for a script that is run
        import info_plane

        yield info_plane


@pytest.fixture
def parsed(script, tmp_path):
    """Parse flags of the main job, with --out_dir in a temporary folder."""

    def parse(*arguments):
        flags.FLAGS(["info_plane", f"--out_dir={tmp_path / 'run'}", *TINY, *arguments])

    with flagsaver.flagsaver():
        yield parse


@pytest.fixture
def job(script, parsed, tmp_path):
    """Run the main job; return its folder."""

    def run(*arguments):
        parsed(*arguments)
        script.experiment()
        return tmp_path / "run"

    return run


def rows_of(folder, name="records.jsonl"):
    return decode_rows((folder / name).read_text()).rows


def test_experiment_writes_the_documented_files_and_resumes(job, capsys, compile_fast):
    folder = job()
    assert {path.name for path in folder.iterdir()} == FILES
    description = json.loads((folder / "config.json").read_text())
    settings, mine_settings = description["settings"], description["mine"]
    noisy_settings = description["noisy_x_mine"]
    assert description["dataset"] == settings["dataset_used"] == "mnist_5k"
    assert settings["hidden"] == mine_settings["hidden"] == 16
    # What no flag sets is the library's.
    assert settings["patience"] is None
    assert mine_settings["patience"] == config.ROUND_CONFIG.patience
    assert (noisy_settings["patience"], noisy_settings["hidden"]) == (1, 16)
    assert description["resolved"]["split_sha256"]
    assert (description["noise_std"], description["probe_size"]) == ("auto", 400)
    level = 1 / math.sqrt(2 * (math.log(80) - 1))
    assert description["noise_level"] == pytest.approx(level)
    assert {"jax", "flax", "python"} <= set(description["versions"])
    printed = capsys.readouterr().out
    assert "nothing to resume" not in printed

    # Another run in the folder is an error, before anything is computed.
    with pytest.raises(SystemExit, match=r"already holds a run .*--resume"):
        job()
    with pytest.raises(SystemExit, match="hidden was 16 and is 8 now"):
        job("--resume", "--hidden=8")

    assert job("--resume", "--epochs=1") == folder
    printed = capsys.readouterr().out
    assert "resumed after epoch 0" in printed
    assert "Final test accuracy" in printed
    sentences = json.loads((folder / "findings.json").read_text())["sentences"]
    assert sentences
    assert all(sentence in printed for sentence in sentences)

    training = rows_of(folder, "training.jsonl")
    assert [row["epoch"] for row in training] == [0, 1]
    assert set(training[0]) == {"epoch", "train_loss", "test_accuracy", "seconds"}
    records = rows_of(folder)
    places = [(row["epoch"], row["plane"], row["variable"], row["layer"]) for row in records]
    assert places == [
        (epoch, plane, variable, layer)
        for epoch in (0, 1)
        for plane in ("observed", "deterministic")
        for variable in "xy"
        for layer in ("relu3", "softmax")
    ]
    for row in records:
        assert set(row) == set(RECORD) | OBSERVED | NULLABLE
        observed = row["plane"] == "observed"
        assert all((row[name] is not None) == observed for name in OBSERVED)
        assert row["noise_level"] == (pytest.approx(level) if observed else 0)
        assert (row["change_nats"] is None) == (row["epoch"] == 0)
        if observed:
            assert row["network"] == row["layer"]
            assert row["reference_low_nats"] <= row["reference_high_nats"]
            assert row["high_difference_nats"] < 0.05 + 3 * row["high_difference_stderr"]
        for name, kind in RECORD.items():
            assert isinstance(row[name], kind), name
        assert row["ceiling_nats"] == pytest.approx(math.log(80))
        assert row["warm_start"] is (row["epoch"] > 0)
        assert row["mi_nats"] <= row["ceiling_nats"]
        assert row["network"] in ("softmax", row["layer"])
        if row["network"] == row["layer"]:
            assert row["mi_nats"] == row["own_nats"]
    labels = [row for row in records if row["variable"] == "y" and row["epoch"] == 1][-2:]
    assert 0.5 < labels[0]["mi_nats"] <= description["class_entropy_nats"] + 2 * labels[0]["stderr"]


def test_experiment_observed_alone_with_values_of_the_literature(
    job, capsys, compile_fast, monkeypatch
):
    monkeypatch.setitem(sys.modules, "altair", None)  # as where it is not installed
    flags = ("--noise_std=0.1", "--noise=absolute", "--layers=relu3", "--nodeterministic")
    folder = job(*flags, "--also=bins,kde")
    records = rows_of(folder)
    assert [(row["variable"], row["layer"]) for row in records] == [("x", "relu3"), ("y", "relu3")]
    for row in records:
        assert (row["noise_std"], row["noise_level"], row["num_images"]) == (0.1, None, 400)
        most = math.log(80) if row["variable"] == "x" else 2.31
        assert 0 < row["bins_nats"] <= most + 1e-6
        assert 0 < row["kde_nats"] <= most + 1e-6
    printed = capsys.readouterr().out
    assert "observed: I(X;T) relu3" in printed
    assert "pip install 'mine_jax[html]'" in printed
    assert not (folder / "information_plane.html").exists()


def test_experiment_that_diverges_draws_what_exists_and_exits_with_an_error(
    job, tmp_path, capsys, compile_fast
):
    with pytest.raises(SystemExit, match=r"^error: stopped in epoch 1 of 3: .* not finite"):
        job("--epochs=3", "--learning_rate=1e30", "--nodeterministic", "--layers=relu3")
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == [0, 0]
    training = rows_of(tmp_path / "run", "training.jsonl")
    assert [(row["epoch"], row["train_loss"]) for row in training] == [(0, None), (1, None)]
    assert "Written to" in capsys.readouterr().out


def test_experiment_poster_preset_reports_own_networks_and_publishes(
    job, script, monkeypatch, tmp_path, compile_fast
):
    (tmp_path / "figures").mkdir()
    monkeypatch.setattr(script.common, "HERE", tmp_path)
    folder = job("--preset=poster", "--publish")
    page = (tmp_path / "results" / "information_plane_poster_deterministic_mnist_5k.md").read_text()
    assert json.loads((folder / "findings.json").read_text())["sentences"][0] in page
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    suffix = "_poster_deterministic_mnist_5k.png"
    assert names == {f"information_plane{suffix}", f"mi_over_epochs{suffix}"}
    description = json.loads((folder / "config.json").read_text())
    assert description["mine"]["network"] == "concatenated"
    assert description["mine"]["preparation"] == "standardized"
    assert all(row["network"] == row["layer"] for row in rows_of(folder))


def test_plane_config_follows_the_preset_and_the_flags(script, parsed):
    parsed("--preset=poster")
    poster, changes = script.plane_config(), {"hidden": 16, "batch_size": 64, "max_steps": 50}
    published = replace(config.POSTER_CONFIG, **changes)
    assert (poster.noise_std, poster.planes) == (0, ("deterministic",))
    assert poster.mine == poster.noisy_x_mine == poster.noisy_y_mine == published
    parsed("--noise_std=auto")
    assert script.plane_config() == replace(poster, noise_std="auto")
    parsed("--preset=default", "--bound=nwj")
    assert not script.plane_config().noisy_x_mine.normalize
    parsed("--preset=default", "--bound=mine", "--patience=7", "--noise_std=0.5")
    parsed("--nowarm_start", "--seed=5", "--nodeterministic")
    plane = script.plane_config()
    changes |= {"bound": "mine", "patience": 7}
    assert plane.mine == replace(config.ROUND_CONFIG, **changes)
    assert plane.noisy_x_mine == replace(config.NOISY_X_CONFIG, **changes)
    assert plane.noisy_y_mine == replace(config.NOISY_Y_CONFIG, **changes)
    assert (plane.warm_start, plane.seed, plane.layers) == (False, 5, ("relu3", "softmax"))
    assert (poster.share_networks, plane.share_networks) == (False, True)
    assert (plane.noise_std, plane.planes) == (0.5, ("observed",))


def test_plane_config_names_every_wrong_flag(script, parsed):
    parsed(
        *("--layers=relu3,foo", "--learning_rate=-1", "--hidden=0", "--epochs=-1"),
        "--noise_std=-0.5",
    )
    with pytest.raises(ValueError, match="layers") as error:
        script.plane_config()
    for part in ("foo", "conv1", "-1.0", "hidden", "epochs", "got 0", "noise_std", "-0.5"):
        assert part in str(error.value)
    for arguments, part in (
        (("--noise=relative", "--noise_std=1"), 'called "unit"'),
        (("--noise=unit", "--noise_std=auto"), "give a number"),
        (("--noise=layer", "--noise_std=much"), "'much'"),
        (("--noise_std=0", "--nodeterministic"), "no plane"),
        (("--deterministic", "--noise_std=auto", "--also=knn"), "knn"),
    ):
        parsed("--layers=relu3", "--learning_rate=1", "--hidden=8", "--epochs=0", *arguments)
        with pytest.raises(ValueError, match=part):
            script.plane_config()
    parsed("--also=")
    parsed("--layers=softmax,conv1")
    with pytest.raises(ValueError, match="order of depth"):
        script.plane_config()


@pytest.mark.parametrize(
    ("flag", "message"), [("--layers=foo", "--layers has foo"), ("--batch_size=6000", "batch_size")]
)
def test_experiment_with_a_wrong_flag_exits_before_the_folder_is_made(job, tmp_path, flag, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        job(flag)
    assert not (tmp_path / "run").exists()


def test_flags_offer_what_the_library_has(script):
    assert script.BOUNDS == mine.BOUNDS
    assert get_args(config.Noise) == script.NOISES
    assert script.DATASETS == datasets.NAMES
    assert tuple(flags.FLAGS["layers"].default) == DEFAULT_PROBES == PlaneConfig().layers
    for name in ("epochs", "probe_every", "probe_size", "warm_start", "seed", "num_seeds"):
        assert flags.FLAGS[name].default == getattr(PlaneConfig(), name)
    assert flags.FLAGS["learning_rate"].default == PlaneConfig().classifier.learning_rate
    assert flags.FLAGS["batch_size"].default == PlaneConfig().classifier.batch_size


@pytest.mark.parametrize("process_id", [0, 1])
def test_first_process_first_stops_all_processes_if_the_first_fails(
    script, parsed, monkeypatch, process_id
):
    parsed("--coordinator=host:1234", "--num_processes=2", f"--process_id={process_id}")
    sent, calls = [], []

    def broadcast(value):
        sent.append(value)
        return 1  # process 0 failed

    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)

    def function():
        calls.append(process_id)
        raise OSError("no such folder")

    with pytest.raises((OSError, ValueError), match=r"no such folder|process 0 could not start"):
        script.first_process_first(function)
    assert (calls, sent) == (([0], [1]) if process_id == 0 else ([], [0]))
