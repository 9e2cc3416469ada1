"""The run: training, probes, rounds, checkpoints."""

import importlib
import math
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import information_plane
from mine_jax.classifier import ClassifierConfig
from mine_jax.information_plane import PlaneConfig
from mine_jax.information_plane.records import RECORDS, TRAINING, RunFolder, RunFolderError
from mine_jax.mine import MineConfig

run_module = importlib.import_module("mine_jax.information_plane.run")  # `run` is the function
MINE = MineConfig(hidden=8, max_steps=20, check_every=10, batch_size=64, cross_fit=False)
TINY = PlaneConfig(
    epochs=1,
    probe_every=1,
    layers=("hidden", "logits"),
    probe_size=300,
    classifier=ClassifierConfig(batch_size=60, learning_rate=0.05),
    mine=MINE,
)


class Perceptron(nn.Module):
    """A model that is not LeNet-5; "logits" and "again" are the same layer."""

    @nn.compact
    def __call__(self, images, probes=()):
        """Return logits, and layers on request."""
        hidden = nn.tanh(nn.Dense(8)(images.reshape(len(images), -1)))
        logits = nn.Dense(2)(hidden)
        layers = {"hidden": hidden, "logits": logits, "again": logits}
        return (logits, {name: layers[name] for name in probes}) if probes else logits


@pytest.fixture(scope="module")
def data():
    """Two classes that hardly overlap."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300).astype(np.int32)
    return (rng.normal(size=(300, 5)) + 4 * labels[:, None]).astype(np.float32), labels


def run(data, config, **options):
    return information_plane.run(Perceptron(), data, data, config, **options)


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_run_any_model_finds_the_label_in_its_layers(data, compile_fast):
    config = replace(TINY, layers=("hidden",), mine=replace(MINE, hidden=16, max_steps=300))
    lines = []
    result = run(data, config, report=lines.append)
    y = [row["mi_nats"] for row in result.records if row["variable"] == "y"]
    assert len(result.records) == 4
    # ln 2 nats, from 60 test samples.
    assert y[-1] == pytest.approx(math.log(2), abs=0.1)
    assert [row["epoch"] for row in result.training] == [0, 1]
    assert result.training[0]["train_loss"] is None
    assert "epoch   1" in lines[1]
    assert f"I(Y;L) hidden {y[-1]:.2f}" in lines[1]
    assert min(result.seconds[part] for part in ("training", "probing", "fitting")) > 0


def test_run_resumed_gives_the_rows_of_an_uninterrupted_run(data, tmp_path, compile_fast):
    config = replace(TINY, epochs=2, layers=("hidden",), num_seeds=2, noise_std=0.5)

    class Crashing(RunFolder):
        """The worst moment: the rows of epoch 1 are written, its checkpoint is not."""

        def save(self, epoch, state):
            if epoch == 1:
                raise KeyboardInterrupt
            super().save(epoch, state)

    whole = run(data, config)
    assert [row["warm_start"] for row in whole.records] == [False] * 4 + [True] * 8
    folder = Crashing(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(data, config, folder=folder)
    assert folder.read(RECORDS)[-1]["epoch"] == 1
    lines = []
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"resolved\.seed was 0 and is 1 now"):
        run(data, replace(config, seed=1), folder=folder)
    resumed = run(data, config, folder=folder, report=lines.append)
    assert lines[0] == "resumed after epoch 0"
    for rows in (resumed.records, folder.read(RECORDS)):
        assert without_times(rows) == without_times(whole.records)
    for rows in (resumed.training, folder.read(TRAINING)):
        assert without_times(rows) == without_times(whole.training)


@pytest.mark.parametrize(("shift", "range_"), [(1, "1 to 2"), (-1, "-1 to 0")])
def test_run_labels_beyond_the_logits_raise_before_work(data, shift, range_):
    images, labels = data
    with pytest.raises(ValueError, match=f"labels must be in 0 … 1.* got {range_}"):
        run((images, labels + shift), replace(TINY, epochs=0))
    with pytest.raises(ValueError, match="labels are float64"):
        run((images, labels.astype(float)), replace(TINY, epochs=0))


@pytest.fixture
def rounds(monkeypatch):
    """The arguments of every round of a run, which are not fitted."""
    calls = []

    def measure(variables, layers, **arguments):
        calls.append(arguments | {"variables": variables, "layers": layers})
        return [], {"network": f"states of epoch {arguments['epoch']}"}

    monkeypatch.setattr(run_module, "measure", measure)
    monkeypatch.setattr(run_module, "summary", lambda *_: "")
    return calls


@pytest.mark.parametrize("warm_start", [True, False])
def test_run_warm_start_hands_on_the_states_of_the_last_round(data, rounds, warm_start):
    run(data, replace(TINY, epochs=2, warm_start=warm_start))
    states = [{"network": f"states of epoch {epoch}"} for epoch in (0, 1)]
    assert [each["init"] for each in rounds] == [None, *(states if warm_start else (None, None))]
    keys = {tuple(jax.random.key_data(each["key"]).tolist()) for each in rounds}
    assert len(keys) == 1  # one split for all rounds


def test_run_several_seeds_are_classifiers_of_their_own(data, rounds):
    both = run(data, replace(TINY, seed=3, num_seeds=2)).training
    alone = run(data, replace(TINY, seed=4)).training
    assert [(row["epoch"], row["seed"]) for row in both] == [(0, 3), (0, 4), (1, 3), (1, 4)]
    # Each is that of a run with its seed, whatever it is trained beside.
    for row, other in zip((row for row in both if row["seed"] == 4), alone, strict=True):
        assert row["test_accuracy"] == other["test_accuracy"]
        assert row["train_loss"] == other["train_loss"]
    # Each one's layers, at each epoch.
    layers = [each["layers"][seed]["hidden"] for each in rounds[:2] for seed in (3, 4)]
    assert len({float(jnp.sum(jnp.abs(layer))) for layer in layers}) == 4


def test_run_noise_differs_by_layer_and_epoch_and_is_repeatable(data, rounds):
    """The same classifier at two epochs, and the same layer under two names."""
    frozen = ClassifierConfig(batch_size=60, learning_rate=1e-12)
    config = replace(TINY, layers=("logits", "again"), noise_std=0.5, classifier=frozen)
    for _ in range(2):
        run(data, config)
    assert [set(each["variables"]) for each in rounds] == [{"y"}] * 4
    draws = [np.asarray(layer.observed) for each in rounds for layer in each["layers"][0].values()]
    for i, j in ((0, 1), (0, 2), (1, 3)):
        assert np.abs(draws[i] - draws[j]).max() > 0.1
    for first, again in zip(draws[:4], draws[4:], strict=True):
        np.testing.assert_array_equal(first, again)


def test_summary_has_means_over_seeds_and_references():
    training = [{"epoch": 4, "test_accuracy": accuracy} for accuracy in (0.5, 0.7)]
    rows = [
        {
            **{"variable": "x", "layer": "conv1", "mi_nats": nats, "reference_nats": 3.0},
            **{"noise_std": 0.5, "steps": steps, "seconds": 12.0},
        }
        for nats, steps in ((1.0, 50), (2.0, 100))
    ]
    text = "epoch   4: test accuracy 60.00% | I(X;T) conv1 1.50 of 3.00 | 100 steps, 12 s"
    assert run_module.summary(training, rows) == text
    without_value = [rows[0] | {"mi_nats": None, "reference_nats": None, "noise_std": 0.0}]
    assert "I(X;L) conv1 nan |" in run_module.summary(training, without_value)
