"""Carried networks beside cold ones: the plan, what is carried, the tables; a small run."""

import json
import math
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import load_experiment, run_experiment

from mine_jax import MineConfig, mine
from mine_jax.information_plane import plotting

WARM_START = load_experiment("warm_start")


@pytest.fixture
def script():
    return WARM_START


def row(carry="kept", curve=(1.0, 2.0, 3.0), epoch=4, source=0, **values):
    return {
        "carry": carry,
        "epoch": epoch,
        "source": None if carry == "cold" else source,
        "layer": "relu3",
        "variable": "y",
        "network": 0,
        "seed": 0,
        "nats": curve[-1],
        "stderr": 0.01,
        "stop_nats": max(value for value in curve if value is not None),
        "reference_nats": 3.0,
        "reference_stderr": 0.01,
        "over_cold_nats": 0.0,
        "over_cold_stderr": 0.02,
        "steps": 10 * (len(curve) - 1),
        "converged": True,
        "curve_steps": 10,
        "curve": list(curve),
        "seconds_a_step": 0.01,
        "seconds": 1.0,
    } | values


def test_a_fit_comes_after_what_it_starts_from(script):
    fits = script.fits_of([4, 16], [1, 4, 16], [0, 4, 8], ["kept", "shrunk"])
    assert len(set(fits)) == len(fits)
    pairs = {(fit.epoch, fit.source) for fit in fits if fit.carry == "kept"}
    assert pairs == {(4, 3), (4, 0), (16, 15), (16, 12), (16, 0)}
    others = {(fit.epoch, fit.source) for fit in fits if fit.carry == "shrunk"}
    assert others == {(4, 0), (16, 12)}
    chain = [fit for fit in fits if fit.carry == script.CHAIN]
    assert [(fit.epoch, fit.source) for fit in chain] == [(4, 0), (8, 4)]
    for fit in fits:
        # Beside it there is a cold fit, and what it starts from is there already.
        assert script.Fit(script.COLD, fit.epoch, None) in fits[: fits.index(fit) + 1]
        if fit.source is not None:
            assert fits.index(script.origin(fit, fits)) < fits.index(fit)
    assert script.origin(chain[1], fits) == chain[0]
    assert script.origin(chain[0], fits) == script.Fit(script.COLD, 0, None)
    kept = script.Fit("kept", 16, 4)
    assert script.origin(kept, fits) == script.Fit(script.COLD, 4, None)


@pytest.fixture(scope="module")
def states():
    config = MineConfig(hidden=8, features=4, canonical=3)
    z = {"a": np.zeros((4, 5), np.float32), "b": np.zeros((4, 7), np.float32)}
    x = np.zeros((4, 6), np.float32)

    def state(key):
        made = jax.tree.map(lambda leaf: leaf[None], mine.init(key, x, z, config))
        # As after training: nothing is at its first value.
        keys = iter(jax.random.split(key, 200))
        noise = lambda leaf: leaf + jax.random.normal(next(keys), leaf.shape)  # noqa: E731
        return made._replace(
            average=jax.tree.map(noise, made.average),
            opt_state=jax.tree.map(lambda leaf: leaf + 1, made.opt_state),
        )

    return state(jax.random.key(0)), jax.tree.map(
        lambda leaf: leaf[None], mine.init(jax.random.key(1), x, z, config)
    )


def equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_what_is_carried(script, states):
    old, new = states
    for carry in ("kept", script.CHAIN):
        assert script.carried(carry, old, new, [1, 0]) is old
    reset = script.carried("reset", old, new, [1, 0])
    assert equal(reset.average, old.average)
    assert equal(reset.params, old.params)
    assert equal(reset.opt_state, new.opt_state)

    shrunk = script.carried("shrunk", old, new, [1, 0])
    assert shrunk.params is shrunk.average
    assert equal(shrunk.opt_state, new.opt_state)
    kernel = old.average["trunk"]["x_layers_0"]["kernel"]
    fresh = new.params["trunk"]["x_layers_0"]["kernel"]
    mixed = script.SHRINK * kernel + script.PERTURB * fresh
    np.testing.assert_allclose(shrunk.params["trunk"]["x_layers_0"]["kernel"], mixed, rtol=1e-6)
    # What was set in closed form would mean nothing by half.
    assert equal(shrunk.params["trunk"]["gaussian"], old.average["trunk"]["gaussian"])
    for side in ("x_first", "z_first"):
        for place in (0, 1):
            assert equal(shrunk.params[side][place]["maps"], old.average[side][place]["maps"])

    other = script.carried("unrelated", old, new, [1, 0])
    assert equal(other.params["x_first"], new.params["x_first"])
    got = other.params["trunk"]["x_layers_0"]["kernel"]
    np.testing.assert_array_equal(got, kernel[:, ::-1])


def test_unrelated_is_another_layer_of_the_same_network_and_seed(script):
    places = {
        (v, f"{layer}{k}{s}"): (layer, v, k, s)
        for v in "xy"
        for k in (0, 1)
        for s in (0, 1)
        for layer in ("a", "b", "c")
    }
    group = SimpleNamespace(asked=[pair for pair in places if pair[0] == "y"])
    others = script.others_of(group, SimpleNamespace(places=places), ("a", "b", "c"))
    following = {"a": "b", "b": "c", "c": "a"}
    for pair, place in zip(group.asked, others, strict=True):
        layer, *rest = places[pair]
        assert places[group.asked[place]] == (following[layer], *rest)


def test_steps_to_a_value(script):
    climbing = row(curve=(0.0, 1.0, 2.9, 3.0))
    assert script.reached(climbing, 2.8) == 20
    assert script.reached(climbing, 0.5) == 10
    # What is there at the start cannot be told from the first check.
    assert script.reached(climbing, -1.0) == 10
    assert script.reached(climbing, 3.5) is None
    assert script.reached(row(curve=(4.0, 3.1)), 2.9, 3.2) == 10
    assert script.reached(row(curve=(math.nan, None, 3.0)), 2.9) == 20


def test_carried_fits_are_set_against_the_cold_one_of_the_same_place(script):
    cold = row("cold", curve=(0.0, 1.0, 2.0, 2.9, 3.0))
    before = row("cold", epoch=0, reference_nats=3.5)
    warm = row(curve=(2.95, 2.96), over_cold_nats=-0.04)
    never = row("reset", curve=(0.0, 0.5), over_cold_nats=-2.5)
    first, second = script.compare([before, cold, warm, never])
    assert first.to_cold == (10, 30)
    assert first.to_exact == (10, 30)
    assert first.falls is True
    assert script.speed_ups([first]) == [3.0]
    # It never came so far: not sooner than after all steps that either made.
    assert second.to_cold == (None, 30)
    assert script.speed_ups([second]) == [0.75]
    assert script.difference([first]) == pytest.approx((-0.04, 0.02))


def test_the_error_of_a_difference_is_no_smaller_than_the_spread_of_networks(script):
    rows = [row("cold", network=k) for k in range(3)]
    rows += [row("cold", epoch=0, network=k) for k in range(3)]
    rows += [row(network=k, over_cold_nats=value) for k, value in enumerate((-0.3, 0.0, 0.3))]
    mean, stderr = script.difference(script.compare(rows))
    assert mean == pytest.approx(0.0, abs=1e-12)
    assert stderr == pytest.approx(0.3 / math.sqrt(3))


def test_the_tables_and_the_figure(script, tmp_path, monkeypatch):
    rows = [
        row(carry, epoch=epoch, source=epoch - 4, seed=s, curve=(1.0 + epoch / 10, 2.0, 2.5))
        for carry in ("chain", "kept")
        for epoch in (4, 8)
        for s in (0, 1)
    ]
    rows += [row("cold", epoch=e, seed=s, curve=(0.0, 1.0, 2.4)) for e in (0, 4, 8) for s in (0, 1)]
    text = script.report(rows)
    assert "| I(Y;relu3) | 4 |" in text
    assert "| kept | 4 |" in text
    assert "4 epochs" in text
    path = tmp_path / "curves.png"
    plotting.warm_start(rows, path, layer="relu3", variable="y")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no fit of"):
        plotting.warm_start(rows, path, layer="conv1", variable="y")
    drawn = []
    monkeypatch.setattr(plotting, "_save", lambda figure, path: drawn.append(figure))
    plotting.warm_start(rows, path, layer="relu3", variable="y")
    starts = [
        [line.get_ydata()[0] for line in ax.lines if len(line.get_ydata()) == 3]
        for ax in drawn[0].axes[:2]
    ]
    # The chain begins with a cold fit, at the epoch that it comes from.
    assert starts == [pytest.approx([0.0, 1.4, 1.8]), [0.0, 0.0, 0.0]]


run = partial(run_experiment, "warm_start")


def test_a_quick_run_and_its_resumption(script, tmp_path):
    folder = tmp_path / "run"
    done = run(folder, "--quick")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "records.jsonl", "warm_start.md", "curves_y_softmax.png"} <= names
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    # Of the last fits some are lost, twice, and half a line; what came before is not fitted again.
    some = lines[-4:-1]
    (folder / "records.jsonl").write_text("".join([*lines[:-1], *some]) + lines[-1][:50])
    again = run(folder, "--quick", "--resume")
    assert again.returncode == 0, again.stderr
    assert ", 1 times to do" in again.stdout
    made = (folder / "records.jsonl").read_text().splitlines()
    assert len(made) == len(lines)
    made = made[-4:]
    timed = ("seconds", "seconds_a_step")

    def without_times(line):
        values = json.loads(line)
        return {name: value for name, value in values.items() if name not in timed}

    assert list(map(without_times, made)) == list(map(without_times, lines[-4:]))


def test_wrong_flags_are_named_before_work_starts(tmp_path):
    wrong = {
        "--targets=x": "--targets must be whole numbers",
        "--distances=0": "--distances must be whole numbers of at least 1",
        "--carries=kept,warm,kept": "--carries has warm",
        "--layers=softmax,conv1": "--layers must be in the order of depth",
        "--noise=-1": "--noise must be at least 0",
        "--chain=4": "--chain must be at least two epochs",
    }
    done = run(tmp_path / "run", *wrong)
    assert done.returncode == 1
    for text in (*wrong.values(), "--carries must be different names"):
        assert text in done.stderr
    single = ("--carries=unrelated", "--layers=softmax", "--targets=4", "--distances=5")
    done = run(tmp_path / "run", *single)
    assert "--carries=unrelated needs at least two --layers" in done.stderr
    assert "no distance reaches from an epoch to --targets=4, got --distances=5" in done.stderr
    assert not (tmp_path / "run").exists()
