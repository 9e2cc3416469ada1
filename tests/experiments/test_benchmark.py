"""The benchmark: rates, other programs, growth, tables, and what it refuses."""

import json
import sys
from types import SimpleNamespace

import jax
import pytest
from conftest import load_experiment, set_flags

script = load_experiment("benchmark")
SMALL = ("--steps=2", "--lenet_batch=8", "--mine_batch=16", "--hidden=8", "--layer_dims=12,5")


def python(program):
    return f'{sys.executable} -c "{program}"'


def test_experiment_measures_in_turn_with_another_program(tmp_path, monkeypatch, capsys):
    order = []

    def rate(unit):
        return script.Rate(unit, lambda: order.append(unit), 2, unit, 3.0)

    def read_figures(command):
        order.append(command)
        return {"steps/s": 0.5}

    monkeypatch.setattr(script, "read_figures", read_figures)
    monkeypatch.setattr(script, "matrix_product", lambda: rate("GFLOP/s"))
    monkeypatch.setattr(script, "lenet_steps", lambda: rate("steps/s"))
    arguments = [f"--out_dir={tmp_path}", "--parts=lenet,product", "--repeats=2"]
    with set_flags(script, *arguments, f"--against={sys.executable}"):
        script.experiment()
    rates = ["GFLOP/s", "steps/s"]
    assert order == [*rates, *rates, sys.executable, *rates, sys.executable]
    content = json.loads((tmp_path / "benchmark.json").read_text())
    figures = {figure["unit"]: figure for figure in content["figures"]}
    assert list(figures) == ["GFLOP/s", "steps/s", "GiB"]
    assert [len(figure["values"]) for figure in figures.values()] == [2, 2, 1]
    assert content["against"] == {
        "command": sys.executable,
        "figures": {"steps/s": [0.5, 0.5]},
    }
    text = (tmp_path / "benchmark.md").read_text()
    assert text in capsys.readouterr().out
    assert f"| 0.5 | {figures['steps/s']['median'] / 0.5:.2f} |" in text


def test_rates_call_the_programs_of_the_library(monkeypatch):
    monkeypatch.setattr(script, "NUM_SAMPLES", 100)
    monkeypatch.setattr(script, "NUM_IMAGES", 100)
    with set_flags(script, *SMALL):
        lenet, rounds = script.lenet_steps(), script.mine_rounds()
    assert (lenet.steps, rounds.steps) == (2, 2)
    *_, loss = jax.eval_shape(lenet.call)  # traced, which takes less time than to compile
    assert loss.shape == ()
    networks = [nats.shape for _, nats in jax.eval_shape(rounds.call)]
    assert sum(count for (count,) in networks) == 4
    assert rounds.name == "MINE as published, 4 networks, batches of 16"


def test_round_gflop_counts_the_first_layer_once_for_joint_and_marginal_pairs():
    inputs = 4 * (784 + 10) + 2 * (4704 + 1600 + 120 + 10)
    expected = 2 * 512 * (2 * inputs * 256 + 8 * 6 * (256 * 256 + 256)) / 1e9
    with set_flags(script, "--mine_batch=512", "--hidden=256"):
        assert script.round_gflop(8, inputs) == pytest.approx(expected)


def test_rate_is_counts_or_operations_per_second(monkeypatch):
    monkeypatch.setattr(script, "seconds_of", lambda call: call())
    assert script.Rate("steps", lambda: 0.5, 20, "steps/s", 3.0).measure() == 40
    assert script.Rate("product", lambda: 0.5, 1, "GFLOP/s", 3.0).measure() == 6


def test_figure_table_shows_fractions_of_the_product_and_ratios():
    figures = [
        script.Figure("product", [90.0, 100.0, 120.0], "GFLOP/s", 17.0),
        script.Figure("round", [4.0, 6.0, 5.0], "rounds/s", 12.0),
        script.Figure("import", [0.25], "s"),
    ]
    assert script.figure_table(figures, {"rounds/s": [2.0, 4.0]}).splitlines()[2:] == [
        "| product | 100 GFLOP/s | 90 … 120 |  |  |  |",
        "| round | 5 rounds/s | 4 … 6 | 60% | 3 | 1.67 |",
        "| import | 0.25 s | 0.25 … 0.25 |  |  |  |",
    ]


def test_measure_growth_has_a_row_for_each_size(monkeypatch):
    growth = script.benchmark_growth
    usual = {"samples n": 20, "columns of z": 3, "layers": 1, "batch": 8, "hidden": 8}
    calls = []

    def seconds_of(call):
        calls.append(jax.eval_shape(call))
        return len(calls)

    monkeypatch.setattr(growth, "GROWING_SIZES", {"layers": (2,), "batch": (8,)})
    monkeypatch.setattr(growth, "USUAL_SIZES", usual)
    monkeypatch.setattr(growth, "seconds_of", seconds_of)
    rows = growth.measure(steps=2, repeats=1)
    assert [(row["what"], row["size"], row["value"]) for row in rows] == [
        *(("step", "layers", 2), ("evaluation", "layers", 2)),
        ("step", "batch", 8),
    ]
    # The second call counts, and a chunk has two steps.
    assert [row["milliseconds"] for row in rows[:2]] == [1e3 * 2 / 2, 1e3 * 4]
    assert [nats.shape for _, nats in calls[:2]] == [(2,), (2,)]


def test_growth_table_has_the_exponent_of_the_larger_half():
    rows = [
        {"what": "step", "size": "n", "value": value, "milliseconds": milliseconds}
        for value, milliseconds in ((1, 2.0), (10, 3.0), (100, 300.0))
    ]
    line = "| step against n | 1 … 100 | 2.00 … 300.00 | 2.00 |"
    assert script.benchmark_growth.table(rows).splitlines()[-1] == line


def test_time_processes_has_a_value_for_each_repeat(tmp_path, monkeypatch):
    commands = []

    def run(command, check, **_):
        commands.append(command)
        assert check == ("--help" not in command)

    monkeypatch.setattr(script.subprocess, "run", run)
    with set_flags(script, "--repeats=2", f"--out_dir={tmp_path}"):
        figures = script.time_processes()
    assert [len(figure.values) for figure in figures] == [2] * 4
    first, second = ({a for a in command if "=" in a} for command in commands[2:4])
    # The second job reads what the first one compiled, and has its own folder.
    assert {argument.partition("=")[0] for argument in first ^ second} == {"--out_dir"}


def test_time_lower_bound_counts_the_first_call_apart(monkeypatch):
    clock = SimpleNamespace(seconds=1.5, start=lambda: clock, stop=lambda: None)
    monkeypatch.setattr(script.common, "CompilationClock", lambda: clock)
    monkeypatch.setattr("mine_jax.lower_bound", lambda x, z, key: None)
    with set_flags(script, "--repeats=3"):
        figures = script.time_lower_bound()
    assert [len(figure.values) for figure in figures] == [1, 1, 3]
    assert figures[1].values == [1.5]


def test_read_figures_takes_the_first_figure_of_each_unit_and_names_useless_programs():
    text = "a 1.23e+03 GFLOP/s, 1,234.5 steps/s of 8, 9 steps/s and x7 rounds/s"
    found = script.read_figures(python(f"print({text!r})"))
    assert found == {"GFLOP/s": 1230.0, "steps/s": 1234.5}
    with pytest.raises(ValueError, match="failed: boom"):
        script.read_figures(python("raise SystemExit('boom')"))
    with pytest.raises(ValueError, match="printed no figure in GFLOP/s"):
        script.read_figures(python("print('12 s')"))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--parts=lenet,nothing", "--parts has nothing; choose from product, lenet, round"),
        ("--repeats=0", "--repeats must be at least 1, got 0"),
        ("--layer_dims=12,x", "--layer_dims must be numbers of units, got '12,x'"),
        ("--layer_dims=", "--layer_dims must be numbers of units, got ''"),
        ("--parts=", "--parts is empty; choose from product, lenet, round"),
        ("--against=no_such_program x", "--against=no_such_program x: there is no such program"),
        (["--parts=probe", "--against=", "--data_dir=nowhere"], "data_dir='nowhere' is not a"),
        ("--parts=start", "--against is compared with product, lenet, round"),
        ("--num_devices=99", "--num_devices=99, but there are"),
    ],
)
def test_experiment_wrong_flag_ends_before_the_folder_is_made(argument, message, tmp_path):
    folder = tmp_path / "run"
    arguments = [argument] if isinstance(argument, str) else argument
    with (
        set_flags(script, f"--out_dir={folder}", f"--against={sys.executable}", *arguments),
        pytest.raises(SystemExit, match=f"^error: {message}"),
    ):
        script.experiment()
    assert not folder.exists()
