"""Warm starts beside cold starts: the plan, the start of networks, the tables, a small run."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from conftest import load_experiment, set_flags

from mine_jax import MineConfig, MineState
from mine_jax.information_plane.durable_files import decode_rows

script = load_experiment("warm_start")
fits = load_experiment("warm_start_fits")
report = load_experiment("warm_start_report")


def make_row(start="kept", curve=(1.0, 2.0, 3.0), epoch=4, source=0, **values):
    row = {"start": start, "epoch": epoch, "source": None if start == "cold" else source}
    row |= {"layer": "relu3", "variable": "y", "network": 0, "seed": 0}
    row |= {"nats": curve[-1], "reference_nats": 3.0, "over_cold_nats": 0.0}
    row |= {"stderr": 0.01, "reference_stderr": 0.01, "over_cold_stderr": 0.02}
    row |= {"steps": 10 * (len(curve) - 1), "curve_steps": 10, "curve": list(curve)}
    return row | {"seconds_a_step": 0.01} | values


def make_plan(**values):
    with set_flags(script, **values):
        return script.make_plan(script.flag_values())


def test_plan_fits_lists_sources_and_cold_starts_before_warm_starts():
    planned = fits.plan_fits([4, 16], [1, 4, 16], [0, 4, 8], ["kept", "shrunk"])
    assert len(set(planned)) == len(planned)
    by_start = {name: {fit[1:] for fit in planned if fit.start == name} for name in report.STARTS}
    assert by_start["kept"] == {(4, 3), (4, 0), (16, 15), (16, 12), (16, 0)}
    assert by_start["shrunk"] == {(4, 0), (16, 12)}
    plan = dataclasses.replace(make_plan(), fits=planned)
    chain = [fit for fit in planned if fit.start == "chain"]
    assert [plan.origin(fit) for fit in chain] == [fits.Fit("cold", 0, None), chain[0]]
    for i, fit in enumerate(planned):
        assert fits.Fit("cold", fit.epoch, None) in planned[: i + 1]
        assert fit.source is None or plan.origin(fit) in planned[:i]


def test_needed_adds_sources_and_cold_starts():
    plan = make_plan(chain=["0", "4", "8"], targets=["8"], distances=["1"], starts=["kept"])
    last = fits.Fit("chain", 8, 4)
    needed = plan.needed([last])
    cold = [fits.Fit("cold", epoch, None) for epoch in (0, 4, 8)]
    assert needed == (cold[0], cold[1], fits.Fit("chain", 4, 0), cold[2], last)


def test_make_plan_published_changes_no_other_field():
    mine = make_plan(network="published", hidden=32, max_steps=50, check_every=10).mine["x"]
    assert (mine.hidden, mine.max_steps, mine.check_every) == (32, 50, 10)
    given = ("hidden", "max_steps", "check_every", "batch_size", "patience")
    published = MineConfig.published()
    assert published == dataclasses.replace(
        mine, **{name: getattr(published, name) for name in given}
    )


def test_flag_values_quick_leaves_given_flags():
    with set_flags(script, quick=True, max_steps=20):
        values = script.flag_values()
        assert script.FLAGS.hidden is None
    assert values["max_steps"] == 20
    assert values["hidden"] == script.QUICK["hidden"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"targets": ["x"]}, "--targets must be integers of at least 1, got 'x'"),
        ({"distances": ["0"]}, "--distances must be integers of at least 1"),
        ({"starts": ["kept", "warm"]}, "--starts has warm; choose from kept"),
        ({"starts": ["kept", "kept"]}, "--starts must be different names"),
        ({"layers": ["softmax", "conv1"]}, "--layers must be in the order of depth"),
        ({"noise": -1.0}, "--noise must be at least 0"),
        ({"chain": ["4"]}, "--chain must have at least two epochs"),
        ({"hidden": 0}, "--hidden must be at least 1"),
        ({"starts": ["unrelated"], "layers": ["conv1"]}, "needs at least two --layers"),
        ({"targets": ["4"], "distances": ["5"]}, "--distances must not all exceed --targets=4"),
    ],
)
def test_make_plan_wrong_flags_are_named(values, message):
    with pytest.raises(ValueError, match="--networks must be at least 1") as error:
        make_plan(networks=0, **values)
    assert message in str(error.value)


def make_state(value):
    def full(extra=0.0):
        return np.full(2, value + extra, np.float32)

    params = {"x_encoder": full(), "head": full(0.25)}
    average = {"x_encoder": full(0.5), "head": full(0.75)}
    others = dict.fromkeys(("opt_state", "gaussian", "log_partition", "steps"), full())
    return MineState(params, average, **others)


STATES = make_state(1.0), make_state(20.0), make_state(300.0)


def assert_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_warm_state_is_the_earlier_state_and_reset_keeps_weights_alone():
    state, fresh, _ = STATES
    assert fits.warm_state("kept", *STATES) is fits.warm_state("chain", *STATES) is state
    reset = fits.warm_state("reset", *STATES)
    assert_equal(reset, state._replace(opt_state=fresh.opt_state, steps=fresh.steps))


def test_warm_state_shrunk_mixes_trained_and_fresh_weights():
    state, fresh, _ = STATES
    shrunk = fits.warm_state("shrunk", *STATES)
    head = fits.SHRINK * state.average["head"] + fits.PERTURB * fresh.params["head"]
    np.testing.assert_allclose(shrunk.params["head"], head, rtol=1e-6)
    assert shrunk.average is shrunk.params
    assert_equal(shrunk.opt_state, fresh.opt_state)
    # Half of a closed form would mean nothing.
    assert_equal(shrunk.gaussian, state.gaussian)


def test_warm_state_unrelated_takes_the_head_of_another_layer():
    _, fresh, other = STATES
    unrelated = fits.warm_state("unrelated", *STATES)
    assert_equal(unrelated.params["head"], other.average["head"])
    assert_equal(unrelated.params["x_encoder"], fresh.params["x_encoder"])
    assert_equal(unrelated.opt_state, fresh.opt_state)


def test_steps_to_finds_the_first_check_in_the_band():
    rising = make_row(curve=(0.0, 1.0, 2.9, 3.0))
    assert report.steps_to(rising, 2.8) == 20
    # The value before training cannot be told from the first check.
    assert report.steps_to(rising, -1.0) == 10
    assert report.steps_to(rising, 3.5) is None
    assert report.steps_to(make_row(curve=(4.0, 3.1)), 2.9, 3.2) == 10
    assert report.steps_to(make_row(curve=(math.nan, None, 3.0)), 2.9) == 20


def test_compare_sets_warm_starts_beside_the_cold_start_of_the_same_place():
    cold = make_row("cold", curve=(0.0, 1.0, 2.0, 2.9, 3.0))
    source = make_row("cold", epoch=0, reference_nats=3.5)
    warm = make_row(curve=(2.95, 2.96), over_cold_nats=-0.04)
    never = make_row("reset", curve=(0.0, 0.5), over_cold_nats=-2.5)
    first, second = report.compare([source, cold, warm, never])
    assert first.to_cold == (10, 30)
    assert first.to_reference == (10, 30)
    assert first.decreases is True
    assert report.speed_ups([first]) == [3.0]
    # A value that was never reached counts as reached after the steps of the longer fit.
    assert second.to_cold == (None, 30)
    assert report.speed_ups([second]) == [0.75]
    assert report.difference([first]) == pytest.approx((-0.04, 0.02))


def test_difference_error_is_at_least_the_spread_between_networks():
    rows = [make_row("cold", network=k) for k in range(3)]
    rows += [make_row(network=k, over_cold_nats=v) for k, v in enumerate((-0.3, 0.0, 0.3))]
    mean, stderr = report.difference(report.compare(rows))
    assert mean == pytest.approx(0.0, abs=1e-12)
    assert stderr == pytest.approx(0.3 / math.sqrt(3))


def test_report_has_a_line_for_each_pair_start_and_distance():
    curves = {"cold": (0.0, 1.0, 2.4), "chain": (1.0, 2.0, 2.5), "kept": (1.0, 2.0, 2.5)}
    rows = [
        make_row(start, curves[start], epoch=epoch, source=epoch - 4, seed=seed)
        for start in curves
        for epoch in (0, 4, 8)
        for seed in (0, 1)
        if epoch or start == "cold"
    ]
    rows += [make_row(epoch=8, source=4, seed=2), make_row("cold", epoch=8, seed=2)]
    rows.append(make_row("cold", epoch=4, seed=2, reference_nats=3.5))
    text = report.report(rows)
    assert "| I(Y;relu3) | 4 |" in text
    assert "| warm start: weights and moments | 5 |" in text
    assert "| 4 epochs | 5 |" in text
    assert "| warm start: weights and moments | 1 | +0.000 ± 0.020 |" in text


@pytest.mark.usefixtures("compile_fast")
@pytest.mark.filterwarnings("ignore:.*ends in half a line")
def test_experiment_resumed_fits_the_missing_rows_again(tmp_path, capsys):
    values = {"probe_size": 200, "max_steps": 20, "hidden": 8, "progress": False}
    values |= {"quick": True, "layers": ["softmax"], "starts": ["kept"], "platform": "cpu"}
    with set_flags(script, out_dir=str(tmp_path), **values) as flags:
        script.experiment()
        names = {path.name for path in tmp_path.iterdir()}
        assert {"config.json", "warm_start.md", "curves_y_softmax.png"} <= names
        records = tmp_path / "records.jsonl"
        lines = records.read_text().splitlines(keepends=True)
        places = len(lines) // 4
        # The last fit lacks a row, and another one was cut off.
        records.write_text("".join(lines[:-2]) + lines[-2][:50])
        flags.resume = True
        script.experiment()
    assert "4 times 2 fits, 1 times missing" in capsys.readouterr().out

    def without_times(lines):
        rows = decode_rows("".join(lines)).rows
        return [{k: row[k] for k in row if not k.startswith("seconds")} for row in rows]

    again = records.read_text().splitlines(keepends=True)[-places:]
    assert len(without_times(again)) == places
    assert without_times(again) == without_times(lines[-places:])
