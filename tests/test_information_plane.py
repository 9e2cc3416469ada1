"""The experiment through its real entry point, on a tiny mock data set."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from mine_jax import bounds, estimator, information_plane, mine
from mine_jax.lenet import datasets
from mine_jax.information_plane import exact, records

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
    "reference_stderr": type(None),
    "noise_std": float,
    "network": str,
    "own_nats": float,
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
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # as for a script that is run
        import info_plane

        yield info_plane


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
    # What no flag says is the library's.
    assert config["settings"]["patience"] == information_plane.ROUND.patience
    assert config["mine"]["learning_rate"] == information_plane.ROUND.learning_rate
    assert (config["noise_std"], config["noise"]) == (0.0, "relative")
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
        assert row["noise_std"] == 0
        assert row["network"] in ("softmax", row["layer"])
        if row["network"] == row["layer"]:
            assert row["mi_nats"] == row["own_nats"]
        else:
            assert row["drop_nats"] is None
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


def test_a_run_with_noise_has_exact_values_beside_the_estimates(run, capsys):
    noise = ("--noise_std=0.1", "--noise=absolute", "--layers=relu3")
    folder = run("noisy", "--epochs=1", *noise)
    assert {path.name for path in folder.iterdir()} == FILES
    config = json.loads((folder / "config.json").read_text())
    assert (config["noise_std"], config["noise"]) == (0.1, "absolute")
    found = rows(folder)
    keys = [(row["epoch"], row["variable"], row["layer"]) for row in found]
    assert keys == [(e, v, "relu3") for e in (0, 1) for v in "xy"]
    for row in found:
        assert row["noise_std"] == 0.1
        assert row["network"] == row["layer"]
        assert row["reference_stderr"] < 0.1
        margin = 0.05 + 3 * math.hypot(row["stderr"], row["reference_stderr"])
        assert row["mi_nats"] < row["reference_nats"] + margin
        assert 0 <= row["reference_nats"] < (math.log(400) if row["variable"] == "x" else 2.31)
    # Four hundred images are told apart by the wide layer, and their labels with them.
    assert found[0]["reference_nats"] > 3
    printed = capsys.readouterr().out
    assert "is not a theorem for the noisy layers" in printed
    assert "have an exact value beside them" in printed
    assert "deterministic" not in printed
    # The noise of an epoch is the same in a run that was interrupted.
    run("resumed", "--epochs=0", *noise)
    resumed = run("resumed", "--epochs=1", "--resume", *noise)
    assert without_times(resumed) == without_times(folder)


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


def test_several_seeds_are_networks_of_their_own(run, monkeypatch):
    read, read_layers = [], information_plane.read_layers

    def noted(key, state, *rest):
        read.append(tuple(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(state.params)))
        return read_layers(key, state, *rest)

    monkeypatch.setattr(information_plane, "read_layers", noted)
    folder = run("several", "--epochs=1", "--seed=3", "--num_seeds=2")
    assert len(read) == len(set(read)) == 4  # each network's own layers, at both epochs
    training, found = rows(folder, "training.jsonl"), rows(folder)
    assert [(row["epoch"], row["seed"]) for row in training] == [(0, 3), (0, 4), (1, 3), (1, 4)]
    keys = [(row["epoch"], row["seed"], row["variable"], row["layer"]) for row in found]
    names = ("relu3", "softmax")
    assert keys == [(e, s, v, n) for e in (0, 1) for s in (3, 4) for v in "xy" for n in names]
    assert len({row["mi_nats"] for row in found if row["variable"] == "x"}) > 4
    # Each is the network of a run of its own, whatever it is trained beside.
    alone = rows(run("alone", "--epochs=1", "--probe_every=2", "--seed=4"), "training.jsonl")
    for row, other in zip([r for r in training if r["seed"] == 4], alone, strict=True):
        assert row["test_accuracy"] == other["test_accuracy"]
        assert row["train_loss"] == other["train_loss"]
    assert {path.name for path in folder.iterdir()} == FILES
    findings = json.loads((folder / "findings.json").read_text())
    assert {test["seed"] for test in findings["inequality"]} == {3, 4}

    # Interrupted after the first probe and resumed: the same records.
    again = run("resumed", "--epochs=0", "--seed=3", "--num_seeds=2")
    run("resumed", "--epochs=1", "--seed=3", "--num_seeds=2", "--resume")
    assert without_times(again) == without_times(folder)


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
        run(
            "bad",
            *("--layers=relu3,foo", "--learning_rate=-1", "--hidden=0", "--epochs=-1"),
            "--noise_std=-0.5",
        )
    for part in ("foo", "conv1", "-1.0", "hidden", "epochs", "got 0", "noise_std", "-0.5"):
        assert part in str(error.value)
    with pytest.raises(SystemExit, match="order of depth"):
        run("bad", "--layers=softmax,conv1")
    assert not (tmp_path / "bad").exists()


def test_the_flags_offer_what_the_library_has(script):
    assert script.BOUNDS == bounds.BOUNDS
    for noise in script.NOISES:
        assert information_plane.PlaneConfig(noise=noise).noise == noise
    assert information_plane.PlaneConfig().round == information_plane.ROUND
    assert information_plane.PlaneConfig(noise_std=1).round == information_plane.ROUND_WITH_NOISE
    with pytest.raises(ValueError, match=r"noise must be one of .*got 'both'"):
        information_plane.PlaneConfig(noise="both")
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="noise_std must be at least 0 and finite"):
            information_plane.PlaneConfig(noise_std=bad)


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
    # Observed ones, as their own networks are judged whatever the other's value is.
    nothing = exact.NoisyLayer(0, 0, 0, 0, 0)
    noisy = {"a": estimator.prepare(z), "b": estimator.prepare(2 * z + 1e-3 * x)}
    quiet = jnp.asarray(x / math.sqrt(2), jnp.float32)
    layers = {
        name: information_plane.Observed(
            estimator.prepare(x), value, quiet, 1 / math.sqrt(2), 1.0, nothing
        )
        for name, value in noisy.items()
    }
    config = information_plane.PlaneConfig(
        layers=("a", "b"),
        mine=mine.MineConfig(hidden=16, max_steps=300, batch_size=128, cross_fit=False),
    )
    found, _ = information_plane.measure({}, layers, epoch=0, config=config, key=jax.random.key(0))
    assert found[0]["drop_nats"] is None
    # Nearly the same layer twice: the samples' luck is in both, the difference has little of it.
    assert found[1]["drop_stderr"] < 0.5 * found[1]["stderr"]
    assert abs(found[1]["drop_nats"]) < 4 * found[1]["drop_stderr"] + 0.02


def test_probe_rows_are_a_random_choice_that_the_seed_fixes():
    config = information_plane.PlaneConfig(probe_size=50, seed=3)
    chosen = information_plane.probe_rows(config, 100)
    assert len(set(chosen.tolist())) == 50
    assert chosen.max() > 60  # not the first rows
    np.testing.assert_array_equal(chosen, information_plane.probe_rows(config, 100))


def estimate(nats=1.0, stop_nats=1.0, stop_stderr=0.1, *, influence=0.0, **changes):
    values = {
        "nats": nats,
        "stderr": 0.02,
        "train_nats": nats + 0.1,
        "ceiling_nats": 5.0,
        "steps": 100,
        "converged": True,
        "warnings": (f"about {nats}",),
        "influence": np.linspace(0, influence, 12)[None],
        "stop_nats": stop_nats,
        "stop_stderr": stop_stderr,
    }
    return SimpleNamespace(**(values | changes))


@pytest.fixture
def measured(monkeypatch):
    """`measure` with estimates that the test makes up: rows by (variable, layer), and the call."""
    call = {}

    def measured(estimates, layers=("a", "b", "c"), variables=("x", "y"), config=None):
        def lower_bounds(x, z, **arguments):
            call.update(arguments, x=x, z=z)
            arguments["on_progress"](1, 2, "some text")
            return estimates, "the state"

        monkeypatch.setattr(estimator, "lower_bounds", lower_bounds)
        if not isinstance(layers, dict):
            layers = {name: jnp.zeros((12, 2)) for name in layers}
        found, state = information_plane.measure(
            {variable: jnp.zeros((12, 1)) for variable in variables},
            layers,
            epoch=4,
            config=config or information_plane.PlaneConfig(),
            key=jax.random.key(0),
        )
        assert state == "the state"
        return {(row["variable"], row["layer"]): row for row in found}, call

    return measured


def networks(rows, variable="x"):
    return "".join(row["network"] for (v, _), row in rows.items() if v == variable)


def test_a_later_network_serves_the_earlier_layers(measured):
    estimates = {
        # By the stopping samples: b is clearly better than c, a is not clearly better than b.
        ("x", "a"): estimate(3.0, 2.05, steps=300, influence=1.0),
        ("x", "b"): estimate(2.0, 2.0, influence=2.0),
        ("x", "c"): estimate(1.0, 1.0, influence=0.5),
        # The deepest network is the best one.
        ("y", "a"): estimate(0.7, 0.7),
        ("y", "b"): estimate(0.8, 0.8),
        ("y", "c"): estimate(0.9, 0.9),
    }
    found, call = measured(estimates)
    assert call["pairs"] == tuple((v, n) for v in "xy" for n in "abc")
    assert list(found) == list(call["pairs"])
    assert networks(found) == "bbc"
    assert networks(found, "y") == "ccc"
    first = found["x", "a"]
    assert (first["mi_nats"], first["own_nats"], first["train_nats"]) == (2.0, 3.0, 2.1)
    assert first["warnings"] == ["about 2.0"]
    assert first["steps"] == 300  # of the fit that the layer itself had
    # From the networks that are reported: the same one, then two different ones.
    assert (found["x", "b"]["drop_nats"], found["x", "b"]["drop_stderr"]) == (0.0, 0.0)
    assert found["x", "c"]["drop_nats"] == 1.0
    spread = np.linspace(0, 2.0 - 0.5, 12).std(ddof=1) / math.sqrt(12)
    assert found["x", "c"]["drop_stderr"] == pytest.approx(spread)
    assert all(row["reference_nats"] is None for row in found.values())


@pytest.mark.parametrize(
    ("own", "stderr", "network"),
    [(1.11, 0.1, "a"), (1.09, 0.1, "b"), (1.09, 0.05, "a"), (0.9, 0.1, "b"), (math.nan, 0.1, "b")],
)
def test_reporting_samples_have_no_part_in_the_choice(measured, own, stderr, network):
    for reported in (-100.0, 0.0, 100.0, math.nan):
        for other in (-100.0, 100.0):
            estimates = {
                ("x", "a"): estimate(reported, own, stderr),
                ("x", "b"): estimate(other, 1.0, 10.0),
            }
            found, _ = measured(estimates, layers=("a", "b"), variables=("x",))
            assert networks(found) == network + "b"


def test_a_network_that_diverged_is_not_taken_over(measured):
    estimates = {("x", "a"): estimate(0.5, 0.5), ("x", "b"): estimate(math.nan, math.nan)}
    found, _ = measured(estimates, layers=("a", "b"), variables=("x",))
    assert networks(found) == "ab"
    assert (found["x", "a"]["mi_nats"], found["x", "b"]["mi_nats"]) == (0.5, None)


def test_a_fit_that_was_cut_off_is_told_of_even_where_it_is_not_used(measured):
    estimates = {
        ("x", "a"): estimate(0.5, 0.5, converged=False, warnings=("Still gaining.",)),
        ("x", "b"): estimate(1.0, 1.0, warnings=()),
    }
    found, _ = measured(estimates, layers=("a", "b"), variables=("x",))
    assert found["x", "a"]["converged"] is False
    assert found["x", "a"]["warnings"] == ["Its own network, which is not used: Still gaining."]
    assert found["x", "b"]["converged"] is True


def layer_of(n=300, units=6, seed=4):
    rng = np.random.default_rng(seed)
    scales = np.linspace(0.5, 3.0, units)
    return (5 + scales * rng.normal(size=(n, units))).astype(np.float32), rng.integers(0, 3, n)


@pytest.mark.parametrize(("noise", "noise_std"), [("relative", 0.5), ("absolute", 0.25)])
def test_the_noise_of_a_layer(noise, noise_std):
    values, labels = layer_of()
    config = information_plane.PlaneConfig(noise_std=noise_std, noise=noise)
    wanted = noise_std * (math.sqrt(values.var(axis=0).mean()) if noise == "relative" else 1)
    shaped = values.reshape(300, 2, 3)
    observed = information_plane.observe(jax.random.key(0), shaped, labels, config)
    assert observed.noise_std == pytest.approx(wanted, rel=1e-5)
    assert len(observed.clean) == len(observed.noisy) == len(observed.quiet) == 300
    reference = exact.noisy_layer(jax.random.key(9), values, wanted, labels, draws=20)
    for got, truth in zip(observed.reference[:4:2], reference[:4:2], strict=True):
        assert got == pytest.approx(truth, abs=4 * observed.reference.x_stderr)
    clean = np.asarray(observed.clean)
    # One number divides all units, so that equal noise stays equal.
    scale = values.std(axis=0) / clean.std(axis=0)
    np.testing.assert_allclose(scale, scale[0], rtol=1e-4)
    # The least squares of T on L, unit by unit, leave the noise.
    noisy = np.asarray(observed.noisy)
    np.testing.assert_allclose(noisy.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.mean(noisy**2), 1, rtol=1e-4)
    alone = noisy - np.asarray(observed.quiet)
    np.testing.assert_allclose(alone.std(axis=0), observed.level, rtol=0.2)
    # Without its noise T is the layer, in units in which the noise is `level`.
    quiet = np.asarray(observed.quiet) * observed.noise_std / observed.level
    np.testing.assert_allclose(quiet.std(axis=0), values.std(axis=0), rtol=1e-4)
    slope = (clean * noisy).mean(axis=0) / (clean * clean).mean(axis=0)
    left = (noisy - slope * clean).std(axis=0) / slope * scale
    np.testing.assert_allclose(left, wanted, rtol=0.2)
    residuals = (noisy - slope * clean) / (noisy - slope * clean).std(axis=0)
    assert np.abs(residuals.T @ residuals / len(noisy) - np.eye(6)).max() < 0.25
    other = information_plane.observe(jax.random.key(1), values, labels, config)
    assert np.abs(np.asarray(other.noisy) - noisy).max() > 0.1 * noisy.std()


def test_a_layer_that_says_nothing_has_a_reference_of_zero():
    config = information_plane.PlaneConfig(noise_std=0.5)
    constant = np.full((50, 4), 2.0)
    observed = information_plane.observe(jax.random.key(0), constant, np.arange(50) % 2, config)
    assert observed.noise_std == 0.5
    np.testing.assert_allclose(observed.reference[:4], 0, atol=1e-6)
    bad = constant.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="conv7 has a value that is not finite"):
        information_plane.observe(jax.random.key(0), bad, np.arange(50) % 2, config, "conv7")


def test_wide_layers_have_references_from_fewer_inputs(monkeypatch):
    monkeypatch.setattr(information_plane, "_REFERENCE_ROWS", 40)
    monkeypatch.setattr(information_plane, "_REFERENCE_ROWS_WIDE", 20)
    config = information_plane.PlaneConfig(noise_std=1.0)
    for units, rows_used in ((256, 40), (257, 20)):
        values, labels = layer_of(60, units)
        observed = information_plane.observe(jax.random.key(0), values, labels, config)
        assert observed.reference.rows == rows_used


def test_noisy_layers_are_judged_against_their_clean_selves_and_keep_their_networks(measured):
    def observed(value):
        clean, noisy = jnp.full((12, 3), value), jnp.full((12, 3), value + 0.5)
        reference = exact.NoisyLayer(2.0 + value, 0.02, 1.0 + value, 0.01, 12)
        return information_plane.Observed(clean, noisy, clean - 1, 0.5, 0.25, reference)

    estimates = {
        ("T:a", "x:a"): estimate(1.0, 1.0),
        ("T:b", "x:b"): estimate(3.0, 3.0),
        ("y", "a"): estimate(0.5, 0.5),
        ("y", "b"): estimate(0.9, 0.9),
    }
    layers = {"a": observed(0.0), "b": observed(0.25)}
    found, call = measured(estimates, layers=layers)  # the images are there, and are not used
    assert set(call["pairs"]) == set(estimates)
    assert set(call["x"]) == {"T:a", "T:b", "y"}
    # As measured, and then without the noise, which comes afresh in each batch.
    for side, name in (("x", "T:b"), ("z", "b")):
        np.testing.assert_array_equal(call[side][name][:12], layers["b"].noisy)
        np.testing.assert_array_equal(call[side][name][12:], layers["b"].quiet)
    np.testing.assert_array_equal(call["z"]["x:b"], jnp.tile(layers["b"].clean, (2, 1)))
    assert call["noise"] == ({"T:a": 0.5, "T:b": 0.5}, {"a": 0.5, "b": 0.5})
    assert list(found) == [("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")]
    assert networks(found) == networks(found, "y") == "ab"
    wanted = {("x", "a"): (2.0, 0.02), ("x", "b"): (2.25, 0.02)}
    wanted |= {("y", "a"): (1.0, 0.01), ("y", "b"): (1.25, 0.01)}
    for place, row in found.items():
        assert (row["reference_nats"], row["reference_stderr"]) == wanted[place]
        assert row["noise_std"] == 0.25
        assert row["mi_nats"] == row["own_nats"]
    with pytest.raises(ValueError, match="all be observed with noise, or none"):
        measured(estimates, layers={"a": layers["a"], "b": jnp.zeros((12, 3))})


def test_each_layer_and_epoch_has_noise_of_its_own(monkeypatch):
    """The same model at two epochs, and the same layer under two names."""

    class Twice(nn.Module):
        @nn.compact
        def __call__(self, images, probes=()):
            logits = nn.Dense(2)(images)
            return (logits, {name: logits for name in probes}) if probes else logits

    seen = []

    def measure(variables, layers, **_):
        seen.append((variables, layers[config.seed]))
        return [], None

    monkeypatch.setattr(information_plane, "measure_all", measure)
    monkeypatch.setattr(information_plane, "_summary", lambda *_: "")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, 3)).astype(np.float32)
    labels = rng.integers(0, 2, 60).astype(np.int32)
    config = information_plane.PlaneConfig(
        epochs=1,
        probe_every=1,
        layers=("a", "b"),
        probe_size=60,
        noise_std=0.5,
        classifier=information_plane.ClassifierConfig(batch_size=60, learning_rate=1e-12),
    )
    for _ in range(2):
        information_plane.run(Twice(), (images, labels), (images, labels), config)
    assert [set(v) for v, _ in seen] == [{"y"}] * 4
    draws = [np.asarray(layers[name].noisy) for _, layers in seen for name in "ab"]
    for i, j in ((0, 1), (0, 2), (1, 3)):
        assert np.abs(draws[i] - draws[j]).max() > 0.1
    for first, again in zip(draws[:4], draws[4:], strict=True):
        np.testing.assert_array_equal(first, again)
