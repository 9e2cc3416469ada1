"""`measure_layers`, `plane` and `Recorder`: values, targets, layers, messages, what survives."""

import math
import re
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import jax
import numpy as np
import pytest

import mine_jax
from mine_jax.information_plane import PlaneConfig, RoundState
from mine_jax.information_plane.activations import read_activations
from mine_jax.information_plane.records import RunFolder, RunFolderError, RunFolderWarning
from mine_jax.information_plane.snapshots import read_samples
from mine_jax.information_plane.targets import read_target
from mine_jax.mine import MineConfig

pytestmark = pytest.mark.usefixtures("compile_fast")

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
    cross_fit=False,
)
CONFIG = PlaneConfig(
    mine=MINE,
    noisy_x_mine=replace(MINE, normalize=True, form="donsker_varadhan"),
    noisy_y_mine=MINE,
)
N = 300


def labels_of(seed=0):
    return np.random.default_rng(seed).integers(0, 2, N)


def layers_of(epoch=1, seed=0):
    hidden = np.random.default_rng([seed, epoch]).normal(size=(N, 3))
    hidden += 3 * epoch * labels_of()[:, None]
    return {"hidden": hidden, "out": hidden[:, :1].copy()}


def recorder(labels=None, **options):
    labels = labels_of() if labels is None else labels
    return mine_jax.Recorder(labels, config=CONFIG, **options)


def without_times(rows):
    return [{name: row[name] for name in row if name != "seconds"} for row in rows]


def test_values_have_brackets_and_warm_starts_go_on():
    first = mine_jax.measure_layers(layers_of(), labels_of(), config=CONFIG)
    assert set(first.x) == set(first.y) == {"hidden", "out"}
    for value in first.y.values():
        assert 0.3 < value.nats < math.log(2) + 3 * value.stderr
        assert value.low_nats < value.high_nats
    assert {row["plane"] for row in first.records} == {"observed"}
    second = mine_jax.measure_layers(
        layers_of(2), labels_of(), config=CONFIG, epoch=2, init=first.state
    )
    assert all(row["warm_start"] for row in second.records)
    assert all(row["change_nats"] is not None for row in second.records)


def test_noise_zero_needs_inputs_and_measures_layers_as_they_are():
    with pytest.raises(ValueError, match="needs inputs"):
        mine_jax.measure_layers(layers_of(), labels_of(), noise=0, config=CONFIG)
    inputs = layers_of()["hidden"]
    found = mine_jax.measure_layers(layers_of(), labels_of(), inputs, noise=0, config=CONFIG)
    assert {row["plane"] for row in found.records} == {"deterministic"}
    assert found.x["hidden"].low_nats is None


def test_bad_layer_names_itself_and_the_others_go_on():
    layers = layers_of()
    layers["hidden"][:7] = np.nan
    rows = mine_jax.measure_layers(layers, labels_of(), config=CONFIG, epoch=3).records
    assert len({frozenset(row) for row in rows}) == 1  # the same columns
    by_layer = {name: [row for row in rows if row["layer"] == name] for name in layers}
    for row in by_layer["hidden"]:
        assert row["mi_nats"] is None
        assert "hidden has values that are not finite in 7 of 300 rows at epoch 3" in str(
            row["warnings"]
        )
    assert all(row["mi_nats"] is not None for row in by_layer["out"])


def test_references_of_a_whole_population_are_exact():
    config = replace(CONFIG, population=True)
    measured = mine_jax.measure_layers(layers_of(), labels_of(), config=config)
    of_sample = mine_jax.measure_layers(layers_of(), labels_of(), config=CONFIG)
    scalars = mine_jax.Recorder(labels_of(), config=config, when="now").add(0, layers_of())
    rows = measured.records
    for row, other in zip(rows, of_sample.records, strict=True):
        name, exact = row["layer"], row["reference_nats"]
        assert {"x": measured.x, "y": measured.y}[row["variable"]][name].reference_nats == exact
        assert of_sample.x[name].reference_nats is None
        assert scalars[f"I({row['variable'].upper()};{name})/exact"] == exact
        assert row["reference_nats"] > 0
        assert row["reference_low_nats"] is None
        # An average over all 300 rows rather than the 60 for testing: 2.2 times as exact. Of Y few
        # rows between the classes decide, of which 60 have too few to tell their spread.
        if row["variable"] == "x":
            assert row["reference_stderr"] < 0.7 * other["reference_stderr"]
    assert all(row["reference_nats"] <= math.log(2) for row in rows if row["variable"] == "y")


def test_regression_targets_have_no_entropy_and_no_bracket():
    values = layers_of()["hidden"] @ np.ones(3)
    plane = mine_jax.plane({0: layers_of()}, values, config=CONFIG)
    assert plane.description["class_entropy_nats"] is None
    of_y = [row for row in plane.records if row["variable"] == "y"]
    assert all(row["reference_nats"] is None for row in of_y)
    plane.figure()


@pytest.mark.parametrize(
    ("labels", "entropy"),
    [
        (np.arange(40) % 4, math.log(4)),
        (np.array(["cat", "dog"] * 20), math.log(2)),
        (np.eye(4)[np.arange(40) % 4], math.log(4)),
        (np.stack([np.arange(40) % 2, np.arange(40) // 20], 1), math.log(4)),
        (np.arange(40) % 2 * 2 - 1, math.log(2)),
        (np.linspace(0, 1, 40), None),
    ],
    ids=["integers", "text", "one-hot", "several", "signs", "numbers"],
)
def test_read_target(labels, entropy):
    target = read_target(labels)
    assert target.entropy_nats == (entropy and pytest.approx(entropy))
    assert (target.labels is None) == (entropy is None)


def test_messages_name_the_value_and_the_remedy():
    rec = recorder()
    for activations, text in (
        ({}, "at least one layer"),
        ({"a": np.zeros((N, 0))}, r"must have columns, got shape \(300, 0\)"),
        ({"a": np.zeros((5, 2))}, r"a row for each of the 300 labels, .* got shape \(5, 2\)"),
        ({"a": np.zeros((N, 2), complex)}, "real numbers"),
        ([1, 2], r"mapping of names to arrays, such as \{.*; got list of int"),
        (np.zeros((N, 2)), r"mapping of names to arrays.*; got ndarray of ndarray"),
        ({"": np.zeros((N, 2))}, "strings that are not empty"),
        ([{"a": np.zeros((100, 3))}, {"a": np.zeros((200, 2))}], r"\(100, 3\) and \(200, 2\)"),
    ):
        with pytest.raises(ValueError, match=text):
            rec.add(0, activations)
    with pytest.raises(ValueError, match=r"at least 0 and below 2.*32, got -1"):
        rec.add(-1, layers_of())
    with pytest.raises(ValueError, match=r"at least 0 and below 2.*32, got -1"):
        mine_jax.measure_layers(layers_of(), labels_of(), config=CONFIG, epoch=-1)
    for epoch in (1.0, True):
        with pytest.raises(TypeError, match=f"epoch must be an integer, got {epoch}"):
            rec.add(epoch, layers_of())
    with pytest.raises(ValueError, match="channels must be one of"):
        recorder(channels="middle")
    for snapshots in (3, [layers_of()]):
        with pytest.raises(TypeError, match="mapping of epochs to activations, or pairs"):
            mine_jax.plane(snapshots, labels_of(), config=CONFIG)
    with pytest.raises(ValueError, match="one value only"):
        recorder(np.zeros(N, int))
    with pytest.raises(ValueError, match="labels at epoch 0 differ"):
        rec.add(0, layers_of(), labels=1 - labels_of())
    rec.add(0, layers_of())
    for layers in ({"hidden": layers_of()["hidden"]}, dict(reversed(layers_of().items()))):
        with pytest.raises(ValueError, match=r"layers are .*same names in the same order"):
            rec.add(1, layers)
    for noise in (np.array([0.1, 0.2]), np.zeros(1), [0.1]):
        with pytest.raises(ValueError, match=r'"auto" or a finite number .* one for all layers'):
            recorder(noise=noise)
    with pytest.raises(ValueError, match="init must be"):
        mine_jax.measure_layers(layers_of(), labels_of(), config=CONFIG, init={})


def test_batches_are_joined():
    hidden = layers_of()["hidden"]
    rec = recorder()
    rec.add(0, [{"hidden": hidden[:100]}, {"hidden": hidden[100:]}])
    whole = recorder()
    whole.add(0, {"hidden": hidden})
    assert without_times(rec.plane().records) == without_times(whole.plane().records)


@pytest.mark.parametrize(
    ("channels", "shape"), [(None, (5, 18)), ("last", (5, 2, 3, 3)), ("first", (5, 3, 3, 2))]
)
def test_layers_are_columns_unless_channels_are_told(channels, shape):
    values = np.arange(90.0).reshape(5, 2, 3, 3)
    layers = {"image": values, "flat": values[:, 0, 0, 0]}
    read = read_activations(layers, 5, channels)
    assert read["image"].shape == shape
    assert read["flat"].shape == (5, 1)
    expected = np.moveaxis(values, 1, -1) if channels == "first" else values
    np.testing.assert_array_equal(read["image"].ravel(), expected.ravel())


def test_recorder_in_memory_keeps_copies_and_starts_warm():
    layers, rec = layers_of(1), recorder()
    rec.add(0, layers_of(0))
    rec.add(1, layers)
    layers["hidden"][:] = 0  # as a framework may use its memory again
    now = mine_jax.plane({epoch: layers_of(epoch) for epoch in (0, 1)}, labels_of(), config=CONFIG)
    rows = rec.plane().records
    assert without_times(rows) == without_times(now.records)
    assert [row["warm_start"] for row in rows] == [row["epoch"] == 1 for row in rows]


def test_recorder_now_and_end_agree_and_the_folder_goes_on(tmp_path):
    now = recorder(when="now")
    scalars = [now.add(epoch, layers_of(epoch)) for epoch in (0, 1)]
    assert {"I(X;hidden)", "I(Y;out)/stderr", "I(Y;out)/low"} <= set(scalars[0])
    assert "I(X;hidden)/exact" not in scalars[0]
    rec = recorder(folder=tmp_path / "run")
    assert rec.add(0, layers_of(0)) == {}
    again = recorder(folder=tmp_path / "run")  # after a kill, say
    again.add(1, layers_of(1))
    plane = again.plane()
    np.testing.assert_allclose(
        [row["mi_nats"] for row in plane.records],
        [row["mi_nats"] for row in now.plane().records],
        atol=1e-4,
    )
    assert mine_jax.load(tmp_path / "run").records == plane.records
    assert recorder(folder=tmp_path / "run").plane().records == plane.records
    with pytest.raises(RunFolderError, match="labels_sha256"):
        recorder(1 - labels_of(), folder=tmp_path / "run")


def test_saved_planes_are_equal_and_keep_other_folders(tmp_path):
    plane = mine_jax.plane({0: layers_of()}, labels_of(), config=CONFIG)
    plane.save(tmp_path / "plane")
    assert mine_jax.load(plane.save(tmp_path / "plane")) == plane
    recorder(folder=tmp_path / "run").add(0, layers_of())
    with pytest.raises(RunFolderError, match="already holds a run"):
        plane.save(tmp_path / "run")
    with pytest.raises(RunFolderError, match="no records"):
        mine_jax.load(tmp_path / "run")


RECORDS_UNTIL_KILLED = """
import itertools, sys
import numpy as np
import mine_jax
recorder = mine_jax.Recorder(np.arange(300) % 2, folder=sys.argv[1])
for epoch in itertools.count(int(sys.argv[2])):
    recorder.add(epoch, {"a": np.random.default_rng(epoch).random((300, 50), np.float32)})
    print(epoch, flush=True)
"""


def test_recorder_killed_at_ten_random_moments_loses_nothing_that_add_returned(tmp_path):
    rng, returned = np.random.default_rng(0), []
    for delay in rng.uniform(0, 0.1, 10):  # seconds: tens of epochs
        start = str(len(returned))
        command = [sys.executable, "-c", RECORDS_UNTIL_KILLED, tmp_path / "run", start]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            first = process.stdout.readline()
            time.sleep(delay)
            process.kill()
            returned += map(int, (first + process.stdout.read()).split())
        assert returned == list(range(len(returned)))
        assert len(returned) > int(start)
        kept = mine_jax.Recorder(np.arange(300) % 2, folder=tmp_path / "run")
        for epoch in returned:
            layer = np.random.default_rng(epoch).random((300, 50), np.float32)
            np.testing.assert_array_equal(kept._load(epoch)["a"], layer)
        del kept  # with its lock on the folder


def test_state_of_other_samples_is_refused():
    state = RoundState({}, {}, {}, None, {"hidden": (N, 3), "out": (N, 1)}, "other")
    with pytest.raises(ValueError, match="same samples in the same order"):
        mine_jax.measure_layers(layers_of(), labels_of(), config=CONFIG, init=state)


def test_default_key_is_the_one_that_is_documented():
    def keys(key):
        target = read_target(labels_of())
        options = {"noise": None, "config": CONFIG, "channels": None}
        return read_samples(("a", "b"), target, None, key=key, **options).keys

    default, told = (
        {name: jax.random.key_data(each).tolist() for name, each in keys(key).items()}
        for key in (None, jax.random.key(0))
    )
    assert default == told


def test_much_memory_is_said_first(monkeypatch):
    monkeypatch.setattr("mine_jax.information_plane.activations.MUCH_MEMORY", 1000)
    with pytest.warns(UserWarning, match="hidden alone has 900 activations"):
        mine_jax.measure_layers(layers_of(), labels_of(), config=CONFIG)


def test_recorder_in_memory_drops_what_is_measured_and_warns_once_of_much(monkeypatch):
    monkeypatch.setattr("mine_jax.information_plane.activations.MUCH_MEMORY", 10_000)
    rec = recorder()
    rec.add(0, layers_of(0))  # 4,800 bytes
    rec.add(1, layers_of(1))
    with pytest.warns(UserWarning, match=r"Recorder\(folder=…\)"):
        rec.add(2, layers_of(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rec.add(3, layers_of(3))
    monkeypatch.undo()  # measuring would warn, too
    first = rec.plane()
    assert rec._memory == {}
    assert rec.plane() == first
    rec.add(1, layers_of(1, seed=5))  # back, and in place of another
    assert list(rec._memory) == [1]
    again = rec.plane()
    changed = {
        new["epoch"] for new, old in zip(again.records, first.records, strict=True) if new != old
    }
    assert changed == {1}


@pytest.mark.parametrize("when", ["end", "now"])
def test_add_names_a_layer_that_is_not_finite_at_once(when):
    layers = layers_of()
    layers["hidden"][:7] = np.nan
    text = "hidden has values that are not finite in 7 of 300 rows at epoch 3: it is not measured."
    rec = recorder(when=when)
    with pytest.warns(UserWarning, match=text) as caught:
        rec.add(3, layers)
    assert caught[0].filename == __file__
    assert {tuple(r["warnings"]) for r in rec.plane().records if r["layer"] == "hidden"} == {
        (text,)
    }


@pytest.mark.parametrize(
    ("scale", "text"),
    [(1e30, "has values beyond ±1e+14 in 300 of 300 rows"), (1e-30, "has no value beyond ±1e-14")],
)
def test_layer_whose_squares_float32_cannot_hold_names_itself_and_the_others_go_on(
    scale, text, tmp_path
):
    layers = layers_of()
    layers["hidden"] = (layers["hidden"] + 100) * scale
    rec = recorder(folder=tmp_path / "run")
    with pytest.warns(UserWarning, match=re.escape(f"hidden {text}")):
        rec.add(0, layers)
    rows = mine_jax.load(rec.plane().save(tmp_path / "plane")).records
    for row in rows:
        if row["layer"] == "hidden":
            assert row["mi_nats"] is None
            assert f"hidden {text}" in str(row["warnings"])
        else:
            assert row["mi_nats"] is not None


def test_epoch_whose_rows_are_not_all_there_is_measured_again(tmp_path):
    rec = recorder(folder=tmp_path / "run")
    for epoch in (0, 1):
        rec.add(epoch, layers_of(epoch))
    whole = rec.plane().records
    path = tmp_path / "run" / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]) + '{"epoch": 1, "la')
    with pytest.warns(RunFolderWarning, match="ends in half a line"):
        resumed = recorder(folder=tmp_path / "run")
    again = resumed.plane().records
    assert [row["epoch"] for row in again] == [row["epoch"] for row in whole]
    assert again[:4] == whole[:4]


def test_caption_without_a_name_speaks_of_samples():
    figure = mine_jax.plane({0: layers_of()}, labels_of(), config=CONFIG).figure()
    text = " ".join(" ".join(each.get_text().split()) for each in figure.texts)
    assert text.startswith("n = 300 samples, values from 60 of them")


def test_damaged_snapshot_is_named_and_the_other_epochs_are_measured(tmp_path):
    rec = recorder(folder=tmp_path / "run")
    for epoch in (0, 3, 4):
        rec.add(epoch, layers_of(epoch))
    expected = rec.plane().records
    (tmp_path / "run" / "records.jsonl").unlink()
    snapshots = tmp_path / "run" / "snapshots"
    (snapshots / "00000003.npz").write_bytes((snapshots / "00000003.npz").read_bytes()[:200])
    content = (snapshots / "00000004.npz").read_bytes()
    assert b"<f4" in content  # still an array, of other numbers
    (snapshots / "00000004.npz").write_bytes(content.replace(b"<f4", b"<f2"))
    again = recorder(folder=tmp_path / "run")
    with pytest.warns(RunFolderWarning) as warned:
        records = again.plane().records
    for epoch, warning in zip((3, 4), warned, strict=True):
        text = rf"{epoch}\.npz is damaged .*: epoch {epoch} is left out; add it again"
        assert re.search(text, str(warning.message))
    values = [row["mi_nats"] for row in expected if row["epoch"] == 0]
    assert [row["mi_nats"] for row in records] == values
    for epoch in (3, 4):
        again.add(epoch, layers_of(epoch))
    assert [row["epoch"] for row in again.plane().records] == [row["epoch"] for row in expected]


def test_folder_that_was_full_at_the_first_epoch_goes_on(tmp_path, monkeypatch):
    rec = recorder(folder=tmp_path / "run")

    def full(folder, name, content):
        raise RunFolderError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write", full)
        with pytest.raises(RunFolderError, match="no space"):
            rec.add(0, layers_of())
    for epoch in (0, 1):
        rec.add(epoch, layers_of(epoch))
    again = recorder(folder=tmp_path / "run").plane()
    assert {row["epoch"] for row in again.records} == {0, 1}


def test_damaged_row_is_named_and_its_epoch_measured_again(tmp_path):
    rec = recorder(folder=tmp_path / "run")
    for epoch in (0, 1):
        rec.add(epoch, layers_of(epoch))
    whole = rec.plane().records
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:-1], lines[-1].replace('"epoch": 1', '"epoch": 2')]))
    with pytest.warns(RunFolderWarning, match=rf"records.jsonl is damaged in line {len(lines)}"):
        again = recorder(folder=tmp_path / "run")
    assert [row["epoch"] for row in again.plane().records] == [row["epoch"] for row in whole]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    (tmp_path / "run" / "snapshots" / "00000001.npz").unlink()
    with pytest.warns(RunFolderWarning, match=r"epoch 1 in .* not written to its end: add it aga"):
        recorder(folder=tmp_path / "run")


def test_other_versions_of_packages_measure_what_was_recorded(tmp_path, monkeypatch):
    with monkeypatch.context() as other:
        other.setattr("importlib.metadata.version", lambda name: "0.0")
        recorder(folder=tmp_path / "run").add(0, layers_of())
    plane = recorder(folder=tmp_path / "run").plane()
    assert {row["epoch"] for row in plane.records} == {0}
    assert "0.0" not in plane.description["versions"].values()


@pytest.mark.parametrize("when", ["end", "now"])
def test_epoch_that_is_added_again_is_replaced(when, tmp_path):
    rec = recorder(folder=tmp_path / "run", when=when)
    for epoch in (0, 1):
        rec.add(epoch, layers_of(epoch))
    before = rec.plane().records
    rec.add(1, layers_of(1, seed=5))
    after = rec.plane().records
    assert len(after) == len(before)
    assert after[:4] == before[:4]
    assert all(
        new["mi_nats"] != old["mi_nats"] for new, old in zip(after[4:], before[4:], strict=True)
    )
    assert recorder(folder=tmp_path / "run", when=when).plane().records == after
