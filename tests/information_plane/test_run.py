"""The run: training, probes, rounds of both planes, checkpoints."""

import contextlib
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
from mine_jax.information_plane import PlaneConfig, Round, observation
from mine_jax.information_plane.records import (
    RECORDS,
    TRAINING,
    RunFolder,
    RunFolderError,
    RunFolderWarning,
)
from mine_jax.mine import MineConfig

run_module = importlib.import_module("mine_jax.information_plane.run")  # `run` is the function
# As many validation as test samples, one kind of network, few columns: few programs to compile.
MINE = MineConfig(
    network="separable",
    hidden=8,
    depth=1,
    features=4,
    canonical_pairs=0,
    squares=False,
    gaussian_start=False,
    batch_size=64,
    learning_rate=1e-2,
    check_every=10,
    max_steps=100,
    validation_fraction=0.2,
    cross_fit=False,
)
TINY = PlaneConfig(
    epochs=2,
    probe_every=1,
    layers=("hidden", "logits"),
    probe_size=300,
    num_seeds=2,
    classifier=ClassifierConfig(batch_size=60, learning_rate=0.05),
    mine=MINE,
    noisy_x_mine=replace(MINE, normalize=True, form="donsker_varadhan"),
    noisy_y_mine=MINE,
)
OBSERVED = replace(TINY, deterministic=False)
WITHOUT_NOISE = replace(TINY, noise_std=0)
PUBLISHED = MineConfig.published(hidden=8, depth=1, check_every=10, max_steps=20)
POSTER = replace(
    OBSERVED, num_seeds=1, mine=PUBLISHED, noisy_x_mine=PUBLISHED, noisy_y_mine=PUBLISHED
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


class Modern(nn.Module):
    """Tokens, batch normalization, dropout and one logit."""

    @nn.compact
    def __call__(self, tokens, probes=(), train=False):
        """Return the logit, and layers on request."""
        embedded = nn.Embed(6, 4)(tokens).reshape(len(tokens), -1)
        hidden = nn.BatchNorm(use_running_average=not train, momentum=0.8)(nn.Dense(8)(embedded))
        logits = nn.Dense(1)(nn.Dropout(0.2, deterministic=not train)(nn.tanh(hidden)))
        layers = {"hidden": hidden, "logits": logits}
        return (logits, {name: layers[name] for name in probes}) if probes else logits


@pytest.fixture(scope="module")
def data():
    """Two classes that hardly overlap."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300).astype(np.int32)
    return (rng.normal(size=(300, 5)) + 4 * labels[:, None]).astype(np.float32), labels


@pytest.fixture(autouse=True, scope="module")
def few_axes():
    """The hidden layer is wide enough for a choice of axes, which the first probe makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observation, "WIDTHS", (2, 4, 8))
        patch.setattr(observation, "MAX_LOST_NATS", 0.5)
        for module in (observation, run_module):
            patch.setattr(module, "Y_WIDTH", 2)
        yield


@pytest.fixture(scope="module")
def tokens():
    """Two classes of rows of four tokens out of six that hardly overlap."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300).astype(np.int32)
    return rng.integers(0, 4, (300, 4)) + 2 * labels[:, None], labels


def run(data, config, model=None, **options):
    return information_plane.run(model or Perceptron(), data, data, config, **options)


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_run_measures_both_planes_of_any_model(data, compile_fast, compilations, monkeypatch):
    lines, last = [], contextlib.ExitStack()

    def report(line):
        lines.append(line)
        monkeypatch.setattr(observation, "MAX_LOST_NATS", -1.0)  # asks for all axes from now on
        if len(lines) == TINY.epochs:
            programs.append(last.enter_context(compilations()))

    programs = []
    result = run(data, TINY, report=report)
    last.close()
    # Widths are fixed by the first probe: later ones run the same programs.
    assert programs == [[]]
    rows = {
        tuple(row[name] for name in ("epoch", "plane", "variable", "seed", "layer")): row
        for row in result.records
    }
    assert len(rows) == len(result.records)
    assert set(rows) == {
        (epoch, plane, variable, seed, layer)
        for epoch in (0, 1, 2)
        for plane in ("observed", "deterministic")
        for variable in ("x", "y")
        for seed in (0, 1)
        for layer in TINY.layers
    }
    for (epoch, plane, variable, seed, layer), row in rows.items():
        assert row["warm_start"] is (epoch > 0)
        assert (row["change_nats"] is None) == (epoch == 0)
        if epoch > 0:
            before = rows[epoch - 1, plane, variable, seed, layer]
            change = row["mi_nats"] - before["mi_nats"]
            assert row["change_nats"] == pytest.approx(change, abs=1e-6)
            assert row["num_axes"] == before["num_axes"]
        if row["num_axes"] is not None:
            assert row["num_axes"] == (4 if (variable, layer) == ("x", "hidden") else 2)
        assert row["mi_nats"] < row["ceiling_nats"] == pytest.approx(math.log(60))
        if plane == "observed":
            assert row["noise_level"] == TINY.noise_level(60)
            assert row["high_difference_nats"] < 4 * row["high_difference_stderr"] + 0.01
    # Two classes that hardly overlap: the networks find nearly all of the label.
    for seed in (0, 1):
        assert rows[2, "deterministic", "y", seed, "hidden"]["mi_nats"] > 0.9 * math.log(2)
        row = rows[2, "observed", "y", seed, "hidden"]
        assert row["mi_nats"] > 0.8 * row["reference_low_nats"] > 0.2
    assert [(row["epoch"], row["seed"]) for row in result.training] == [
        (epoch, seed) for epoch in (0, 1, 2) for seed in (0, 1)
    ]
    assert result.training[0]["train_loss"] is None
    assert "epoch   1" in lines[1]
    for plane, symbol in (("observed", "I(Y;T)"), ("deterministic", "I(Y;L)")):
        mean = np.mean([rows[1, plane, "y", seed, "hidden"]["mi_nats"] for seed in (0, 1)])
        assert f"{symbol} hidden {mean:.2f}" in lines[1]
    assert min(result.seconds[part] for part in ("training", "probing", "fitting")) > 0


def test_run_place_does_not_depend_on_layers_and_seeds_beside_it(data, compile_fast):
    both = replace(OBSERVED, epochs=0)
    alone = run(data, replace(both, layers=("logits",), num_seeds=1)).records
    beside = run(data, both).records
    beside = [row for row in beside if (row["layer"], row["seed"]) == ("logits", 0)]
    for row, other in zip(alone, beside, strict=True):
        for column in ("variable", "noise_std", "reference_low_nats", "reference_high_nats"):
            assert row[column] == other[column]  # of the same rows, and of the same noise
        # Other programs round otherwise: the fits drift apart, by far less than a standard error.
        assert row["mi_nats"] == pytest.approx(other["mi_nats"], abs=row["stderr"] / 10)


class Crashing(RunFolder):
    """The worst moment: the rows of epoch 1 are written, its checkpoint is not."""

    def save(self, epoch, state):
        """Save all other epochs."""
        if epoch == 1:
            raise KeyboardInterrupt
        super().save(epoch, state)


@pytest.mark.parametrize(
    "config", [TINY, WITHOUT_NOISE, POSTER], ids=["both", "deterministic", "poster"]
)
def test_run_resumed_gives_the_rows_of_an_uninterrupted_run(
    data, tmp_path, compile_fast, monkeypatch, config
):
    whole = run(data, config)
    assert len(whole.records) == 3 * 4 * config.num_seeds * len(config.planes)
    assert tuple(dict.fromkeys(row["plane"] for row in whole.records)) == config.planes
    folder = Crashing(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(data, config, folder=folder)
    assert folder.read(RECORDS)[-1]["epoch"] == 1
    lines = []
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"resolved\.seed was 0 and is 1 now"):
        run(data, replace(config, seed=1), folder=folder)
    monkeypatch.setattr(observation, "MAX_LOST_NATS", -1.0)  # asks for all axes
    with pytest.warns(RunFolderWarning, match="epoch 1 has records and no checkpoint"):
        resumed = run(data, config, folder=folder, report=lines.append)
    assert lines[0] == "resumed after epoch 0"
    for rows in (resumed.records, folder.read(RECORDS)):
        for row, expected in zip(without_times(rows), without_times(whole.records), strict=True):
            assert row == expected
    for rows in (resumed.training, folder.read(TRAINING)):
        assert without_times(rows) == without_times(whole.training)


@pytest.mark.parametrize(
    ("shift", "range_"), [(1, "1 to 2: subtract 1"), (-1, "-1 and 0: give 0 and 1")]
)
def test_run_labels_beyond_the_logits_raise_before_work(data, shift, range_):
    images, labels = data
    with pytest.raises(ValueError, match=f"labels must be in 0 … 1.* got {range_}"):
        run((images, labels + shift), replace(TINY, epochs=0))


@pytest.mark.parametrize(
    "convert", [lambda labels: labels.astype(float), lambda labels: np.array(["a", "b"])[labels]]
)
def test_run_data_or_models_that_do_not_fit_leave_no_folder(data, tmp_path, convert):
    images, labels = data
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=r"labels are (float64|<U1) .* np\.unique.*Recorder"):
        run((images, convert(labels)), TINY, folder=folder)
    with pytest.raises(ValueError, match=r"Perceptron called .* KeyError: 'relu';\n"):
        run(data, replace(TINY, layers=("relu",)), folder=folder)
    assert not folder.path.exists()


def test_run_of_tokens_batch_norm_dropout_and_one_logit_learns_and_resumes(
    tokens, tmp_path, compile_fast
):
    learning = replace(
        TINY, num_seeds=1, classifier=ClassifierConfig(batch_size=30, learning_rate=0.1)
    )
    whole = run(tokens, learning, Modern())
    assert whole.stopped is None
    assert whole.training[-1]["test_accuracy"] > 0.9
    last = {(row["plane"], row["layer"]): row for row in whole.records if row["variable"] == "y"}
    assert 0.5 < last["deterministic", "hidden"]["mi_nats"] < 0.72
    folder = Crashing(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(tokens, learning, Modern(), folder=folder)
    with pytest.warns(RunFolderWarning, match="epoch 1 has records and no checkpoint"):
        resumed = run(tokens, learning, Modern(), folder=RunFolder(tmp_path / "run"))
    assert without_times(resumed.training) == without_times(whole.training)
    assert without_times(resumed.records) == without_times(whole.records)


class Diverging(nn.Module):
    """A perceptron whose logits are not finite once it has learned."""

    @nn.compact
    def __call__(self, images, probes=()):
        """Return logits, and layers on request."""
        logits, layers = Perceptron()(images, probes=("hidden", "logits"))
        moved = self.param("moved", nn.initializers.zeros_init(), (1, 2))
        logits = logits + moved + jnp.where(moved == 0, 0, jnp.nan)
        return (logits, {name: layers[name] for name in probes}) if probes else logits


def test_run_with_a_loss_that_is_not_finite_stops_with_what_was_computed(
    data, tmp_path, compile_fast
):
    folder, lines = RunFolder(tmp_path / "run"), []
    result = run(data, TINY, Diverging(), folder=folder, report=lines.append)
    assert result.stopped == lines[-1]
    assert "stopped in epoch 1 of 2: the training loss of seed 0, 1 is not finite" in lines[-1]
    assert "Lower learning_rate, 0.05 now" in lines[-1]
    assert {row["epoch"] for row in result.records} == {0}
    losses = [(row["epoch"], row["seed"], row["train_loss"]) for row in result.training]
    assert losses == [(0, 0, None), (0, 1, None), (1, 0, None), (1, 1, None)]
    assert folder.read(TRAINING) == result.training
    assert folder.read(RECORDS) == result.records
    assert folder.last_epoch() == 0


@pytest.fixture
def rounds(monkeypatch):
    """The arguments of every round of a run, which are not fitted."""
    calls = []

    def measure(variables, layers, **arguments):
        calls.append(arguments | {"variables": variables, "layers": layers})
        epoch = arguments["epoch"]
        return Round([], {"network": f"states of {epoch}"}, {"value": f"values of {epoch}"})

    monkeypatch.setattr(run_module, "measure", measure)
    monkeypatch.setattr(run_module, "summary", lambda *_: "")
    return calls


@pytest.mark.parametrize("warm_start", [True, False])
def test_run_warm_start_hands_on_the_states_of_the_last_round(data, rounds, warm_start):
    run(data, replace(TINY, warm_start=warm_start))
    states = [{"network": f"states of {epoch}"} for epoch in (0, 1)]
    assert [each["init"] for each in rounds] == [None, *(states if warm_start else (None, None))]
    values = [{"value": f"values of {epoch}"} for epoch in (0, 1)]
    assert [each["before"] for each in rounds] == [None, *values]
    keys = {tuple(jax.random.key_data(each["key"]).tolist()) for each in rounds}
    assert len(keys) == 1  # one split for all rounds


def test_run_several_seeds_are_classifiers_of_their_own(data, rounds):
    both = run(data, replace(TINY, epochs=1, seed=3)).training
    alone = run(data, replace(TINY, epochs=1, seed=4, num_seeds=1)).training
    assert [(row["epoch"], row["seed"]) for row in both] == [(0, 3), (0, 4), (1, 3), (1, 4)]
    # Each is that of a run with its seed, whatever it is trained beside.
    for row, other in zip((row for row in both if row["seed"] == 4), alone, strict=True):
        assert row["test_accuracy"] == other["test_accuracy"]
        assert row["train_loss"] == other["train_loss"]
    # Each one's layers, at each epoch.
    layers = [each["layers"][seed] for each in rounds[:2] for seed in (3, 4)]
    for seen in (
        [each.deterministic["hidden"] for each in layers],
        [each.observed["hidden"].for_x.layer for each in layers],
    ):
        assert len({float(jnp.sum(jnp.abs(layer))) for layer in seen}) == 4


def test_run_noise_differs_by_layer_and_epoch_and_is_repeatable(data, rounds):
    """The same classifier at two epochs, and the same layer under two names."""
    frozen = ClassifierConfig(batch_size=60, learning_rate=1e-12)
    config = replace(OBSERVED, epochs=1, num_seeds=1, layers=("logits", "again"), classifier=frozen)
    for _ in range(2):
        run(data, config)
    assert [set(each["variables"]) for each in rounds] == [{"y"}] * 4
    draws = [
        np.asarray(layer.for_x.observed.measured)
        for each in rounds
        for layer in each["layers"][0].observed.values()
    ]
    for i, j in ((0, 1), (0, 2), (1, 3)):
        assert np.abs(draws[i] - draws[j]).max() > 0.1
    for first, again in zip(draws[:4], draws[4:], strict=True):
        np.testing.assert_array_equal(first, again)


def test_summary_has_means_over_seeds_and_references():
    training = [{"epoch": 4, "test_accuracy": accuracy} for accuracy in (0.5, 0.7)]
    rows = [
        {
            **{"plane": "observed", "variable": "x", "layer": "conv1", "mi_nats": nats},
            **{"reference_low_nats": low, "reference_high_nats": 3.0},
            **{"steps": steps, "seconds": 12.0},
        }
        for nats, low, steps in ((1.0, 1.5, 50), (2.0, 2.5, 100))
    ]
    nothing = dict.fromkeys(("mi_nats", "reference_low_nats", "reference_high_nats"))
    rows.append(rows[0] | nothing | {"plane": "deterministic"})
    assert run_module.summary(training, rows).splitlines() == [
        "epoch   4: test accuracy 60.00%; at most 100 steps, 12 s",
        "  observed: I(X;T) conv1 1.50 in 2.00 to 3.00 | I(Y;T) ",
        "  deterministic: I(X;L) conv1 nan | I(Y;L) ",
    ]
