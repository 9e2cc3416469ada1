"""The accuracy experiment: its jobs, its rows, its tables, and resumption."""

import json
import math
import sys
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import load_experiment, set_flags

import mine_jax
from mine_jax import Estimate, MineConfig
from mine_jax.information_plane.durable_files import decode_rows

script = load_experiment("accuracy")
tables = load_experiment("accuracy_report")
TWO_PROBLEMS = "--problems=gaussian d=1 I=1,gaussian d=1 I=10"


def make_row(problem="gaussian d=1 I=2", error=-0.1, **values):
    truth = values.get("truth_nats", 2.0)
    row = {"problem": problem, "family": problem.split()[0], "benchmark": "own"}
    row |= {"held_out": False, "n": 300, "seed": 0}
    row |= {"estimator": "default", "truth_nats": truth, "truth_stderr": 0.0, "nats": truth + error}
    row |= {"truth_is_upper": False, "samples": values.get("n", 300)}
    row |= {"stderr": 0.02, "train_nats": 2.1, "ceiling_nats": math.log(300), "error": error}
    return row | {"steps": 100, "seconds": 1.5, "converged": True, "warnings": []} | values


def test_select_problems_takes_full_names_alone_and_parts_anywhere():
    def names(*parts, half="both", benchmark="own"):
        return [problem.name for problem in script.select_problems(parts, half, benchmark)]

    assert names("gaussian d=1 I=1") == ["gaussian d=1 I=1"]  # not d=1 I=10
    assert "gaussian d=1 I=10" in names("gaussian d=1 I=1", "d=1 I=10")
    assert names("swiss roll", half="held_out") == ["swiss roll rho=0.75"]
    everything = names()
    assert len(everything) == len(names(half="tuned")) + len(names(half="held_out"))
    assert names("blob I=", "gaussian d=5 I=2")[0] == "gaussian d=5 I=2"  # order of the catalogue
    bmi = names(benchmark="bmi")
    assert len(bmi) == 40
    assert not set(bmi) & set(everything)
    assert set(bmi) | set(everything) <= set(names(benchmark="all"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--problems=gaussian,nonsense"], "no problem has 'nonsense' in its name"),
        (["--problems=blob", "--benchmark=bmi"], "has 'blob' in its name in --benchmark=bmi"),
        (["--problems=swiss roll", "--half=tuned"], "--half=tuned leaves none of the 1 problems"),
        (["--n=0"], "--n must be at least 100, got 0"),
        (["--estimator=default,oracle"], "--estimator has oracle; choose from "),
        (["--estimator="], "--estimator is empty; choose from default, "),
        (["--benchmark=wild", "--data_dir=nowhere"], "data_dir='nowhere' is not a folder"),
        (["--seeds=0"], "--seeds must be at least 1, got 0"),
        (["--curve", "--sizes=500,few"], "--sizes must be integers of at least 100, got 500,few"),
        (["--curve", "--sizes=99"], "--sizes must be integers of at least 100, got 99"),
    ],
)
def test_experiment_wrong_flag_ends_before_the_folder_is_made(arguments, message, tmp_path):
    folder = tmp_path / "run"
    with (
        set_flags(script, f"--out_dir={folder}", *arguments),
        pytest.raises(SystemExit, match=f"^error: .*{message}"),
    ):
        script.experiment()
    assert not folder.exists()


def test_plan_jobs_has_a_job_for_each_problem_seed_and_estimator():
    both = "--estimator=default,published,default"
    with set_flags(script, "--problems=independent d=10", "--seeds=2", both):
        jobs = script.plan_jobs()
    assert len({job.key for job in jobs}) == len(jobs) == 2 * 2
    with set_flags(script, "--problems=independent d=10 n", "--seeds=1"):
        # A problem may fix its number of samples.
        assert [job.n for job in script.plan_jobs()] == [500, 1000]
    with set_flags(script, "--curve", "--sizes=200,100,200", "--seeds=1"):
        jobs = script.plan_jobs()
    names = [job.problem.name for job in jobs]
    assert names == [name for name in script.CURVE_PROBLEMS for _ in range(2)]
    assert [job.n for job in jobs] == [100, 200] * 4


def test_summary_counts_reachable_truths_alone():
    rows = [
        make_row(error=-0.1),
        make_row(error=0.3, seed=1, converged=False),
        make_row("gaussian d=3 I=2", error=-0.03, held_out=True),
        make_row("gaussian d=3 I=2", error=0.03, seed=1, held_out=True),
        make_row("gaussian d=1 I=8", error=-3.0, truth_nats=8.0),
        make_row("gaussian d=1 I=8", error=-3.2, truth_nats=8.0, seed=1, warnings=["ceiling"]),
        make_row("gaussian d=5 I=2", error=math.nan),
        make_row("gaussian d=5 I=2", error=-0.05, seed=1),
    ]
    assert tables.summary(rows).splitlines() == [
        "- 8 estimates of 4 problems; 1 not converged, 1 not finite",
        "- mean abs error, all: 0.1020 nats (5 estimates)",
        "- mean abs error, tuned: 0.1500 nats (3 estimates)",
        "- mean abs error, held out: 0.0300 nats (2 estimates)",
        "- not above the truth by more than 3 standard errors: 85.7%; "
        "within 3 standard errors: 42.9%",
        "- largest overshoot beyond 3 standard errors: 0.2400 nats, gaussian d=1 I=2, seed 1",
        "- truth above 0.9 of the ceiling, left out of the mean errors: 2 estimates, "
        "1 of them with a warning",
    ]
    line = "| all | 5 | 0.1020 | +0.0300 | 0.0200 | 80% | 1.5 | 1.5 |"
    assert tables.by_family(rows).splitlines()[-1] == line
    bounded = make_row("digit pairs", error=0.5, truth_is_upper=True)
    text = tables.summary([*rows, bounded])
    assert "- mean abs error, all: 0.1020 nats (5 estimates)" in text
    assert "within 3 standard errors: 42.9%" in text
    assert "largest overshoot beyond 3 standard errors: 0.4400 nats, digit pairs" in text
    assert text.endswith("known to be at most a number, left out too: 1 estimates")
    nothing = [make_row(error=math.nan)]
    assert "1 not finite" in tables.summary(nothing)
    assert tables.by_family(nothing).splitlines()[-1].startswith("| all | 0 | – | – | – | – |")


def test_by_problem_shows_means_ranges_and_remarks():
    rows = [
        make_row("noise of |x|", error=-0.2),
        make_row("noise of |x|", error=0.1, seed=1, seconds=2.5),
        make_row("far", error=-4.0, truth_nats=9.0, held_out=True, warnings=["ceiling"]),
    ]
    assert tables.by_problem(rows).splitlines()[2:] == [
        "| noise of \\|x\\| | tuned | 2.0000 | 1.9500 | 1.8000 … 2.1000 | 0.0200 | −0.0500 | 2.0 "
        "| above the truth |",
        "| far | held out | 9.0000 | 5.0000 | 5.0000 … 5.0000 | 0.0200 | −4.0000 | 1.5 "
        "| near the ceiling, warnings |",
    ]


def make_reference_row(problem, error, **values):
    unknown = dict.fromkeys(("stderr", "train_nats", "ceiling_nats"), math.nan)
    return make_row(problem, error, estimator="ksg", steps=0, **unknown, **values)


def test_estimates_without_an_error_are_neither_above_the_truth_nor_not():
    rows = [make_reference_row("gaussian", 0.5), make_reference_row("blob", math.nan)]
    lines = tables.summary(rows).splitlines()
    assert lines[0] == "- 2 estimates of 2 problems; 0 not converged, 1 not finite"
    assert lines[1] == "- mean abs error, all: 0.5000 nats (1 estimates)"
    assert not any("standard errors" in line for line in lines)
    line = "| all | 1 | 0.5000 | +0.5000 | – | – | 1.5 | 1.5 |"
    assert tables.by_family(rows).splitlines()[-1] == line
    assert tables.not_above([*rows, make_row(error=0.5), make_row(error=0.01)]) == 0.5


def test_by_problem_marks_upper_bounds_and_missing_samples():
    row = make_row("digits", error=-0.2, truth_is_upper=True) | {"samples": 120}
    line = tables.by_problem([row]).splitlines()[-1]
    assert "| ≤ 2.0000 | 1.8000 |" in line
    assert line.endswith("| 120 samples |")


def test_by_benchmark_compares_estimators_where_all_apply():
    far = {"truth_nats": 9.0}
    rows = [
        make_row("a", -0.1),
        make_row("a", 0.3, seed=1),
        make_reference_row("a", 0.1),
        make_row("b", -0.4),
        make_reference_row("b", math.nan),
        make_row("far", -4.0, **far),  # near the ceiling of one: left out for both
        make_reference_row("far", -0.1, **far),
        make_row("digits", -0.3, truth_is_upper=True),
        make_reference_row("digits", -0.1, truth_is_upper=True),
        *(make_row(f"bmi {i}", i / 10, benchmark="bmi") for i in range(7)),
    ]
    own, bmi = tables.by_benchmark(rows).split("\n\n### ")
    assert own.splitlines()[0] == "### Benchmark own: 2 problems, 1 common"
    source = tables.SOURCES
    assert own.splitlines()[4:] == [
        f"| default | 2 | 0.3000 | 0.2000 | 1 | b 0.40; a 0.20 | {source['default']} |",
        f"| ksg | 1 | 0.1000 | 0.1000 | 1 | a 0.10 | {source['ksg']} |",
    ]
    names = "bmi 6 0.60; bmi 5 0.50; bmi 4 0.40; bmi 3 0.30; bmi 2 0.20"
    assert bmi.splitlines()[0] == "Benchmark bmi: 7 problems, 7 common"
    assert f"| default | 7 | 0.3000 | 0.3000 | 7 | {names} |" in bmi
    assert set(tables.SOURCES) == set(tables.TITLES) == set(script.ESTIMATORS)
    assert tables.by_benchmark(rows) in tables.report(rows, curve=False)


def test_comparison_sets_estimators_side_by_side():
    rows = [
        make_row(error=-0.1),
        make_row(error=-0.5, estimator="published"),
        make_row("blob", error=0.1),
        make_row("blob", error=math.nan, estimator="published"),
    ]
    assert tables.comparison(rows, "family").splitlines() == [
        "| family | default: mean abs error | default: mean error "
        "| published: mean abs error | published: mean error |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| gaussian | 0.1000 | −0.1000 | 0.5000 | −0.5000 |",
        "| blob | 0.1000 | +0.1000 | – | – |",
        "| all | 0.1000 | +0.0000 | 0.5000 | −0.5000 |",
    ]
    text = tables.report(rows, curve=False)
    assert tables.comparison(rows, "problem") in text
    assert text.count("### By problem") == 2


def test_curves_have_a_column_for_each_number_of_samples():
    rows = [
        make_row("blob I=2", error=-1 / n, n=n, seed=seed, seconds=n / 100)
        for n in (1200, 300)
        for seed in (0, 1)
    ]
    text = tables.curves(rows)
    assert "| problem | n = 300 | n = 1,200 |" in text
    assert "| blob I=2 | −0.0033 | −0.0008 |" in text
    assert "| blob I=2 | 3.0 | 12.0 |" in text


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the experiment into a folder; return the rows of its figure."""
    drawn = []
    plots = SimpleNamespace(accuracy=lambda rows, path: drawn.append((rows, path)))
    monkeypatch.setitem(sys.modules, "plots", plots)

    def run(*arguments):
        with set_flags(script, f"--out_dir={tmp_path}", "--n=300", "--seeds=1", *arguments):
            script.experiment()
        return drawn.pop()[0] if drawn else None

    return run


def read_rows(folder):
    return decode_rows((folder / script.ROWS).read_text()).rows


def test_experiment_measures_both_estimators_on_the_same_samples(
    run, tmp_path, monkeypatch, capsys
):
    calls = []

    def lower_bound(x, z, *, key, config):
        calls.append((x, z, config))
        values = {"nats": math.nan if len(calls) > 1 else 0.9, "stderr": np.float32(0.05)}
        values |= {"train_nats": 1.1, "ceiling_nats": math.log(60), "warnings": ("Over-fitted",)}
        values |= {"steps": np.int32(100), "converged": np.bool_(True)}
        return Estimate(**dict.fromkeys(field.name for field in fields(Estimate)) | values)

    monkeypatch.setattr(mine_jax, "lower_bound", lower_bound)
    drawn = run("--problems=gaussian d=1 I=1", "--estimator=default,published,ksg")
    (x, z, default), (other_x, other_z, published) = calls
    assert default == MineConfig()
    assert published == MineConfig.published(cross_fit=False)
    assert x.shape == (300, 1)
    np.testing.assert_array_equal(x, other_x)
    np.testing.assert_array_equal(z, other_z)
    rows = read_rows(tmp_path)
    assert drawn == rows[:1]
    wanted = make_row("gaussian d=1 I=1", -0.1, truth_nats=1.0, stderr=0.05, train_nats=1.1)
    wanted |= {"error": pytest.approx(-0.1), "stderr": pytest.approx(0.05)}
    wanted |= {"ceiling_nats": math.log(60), "warnings": ["Over-fitted"]}
    wanted["seconds"] = rows[0]["seconds"]
    assert rows[0] == wanted
    assert (rows[1]["estimator"], rows[1]["nats"], rows[1]["error"]) == ("published", None, None)
    assert rows[2]["estimator"] == "ksg"
    assert rows[2]["error"] == pytest.approx(rows[2]["nats"] - 1)
    assert rows[2]["error"] == pytest.approx(0, abs=0.3)
    assert rows[2]["stderr"] is rows[2]["ceiling_nats"] is None
    assert set(rows[2]) == set(rows[0])
    description = json.loads((tmp_path / "config.json").read_text())
    assert description["resolved"]["published"]["network"] == "concatenated"
    assert description["settings"]["n"] == 300
    page = (tmp_path / "accuracy.md").read_text()
    assert page.partition("\n\n")[2].strip() in capsys.readouterr().out


def test_experiment_draws_the_figure_of_the_first_bound_if_there_is_one(run, tmp_path):
    assert run("--problems=gaussian d=1 I=1", "--estimator=cca,ksg") is None
    page = (tmp_path / "accuracy.md").read_text()
    assert page.index("| cca |") < page.index("| ksg |") < page.index("## Canonical correlations")


def test_experiment_reads_digits_from_the_folder(run, tmp_path, monkeypatch):
    folders = []

    def draw(problem, n, seed, data_dir):
        folders.append(data_dir)
        return np.zeros((7, 28, 28)), np.arange(7) % 2

    monkeypatch.setattr(script.problems, "load_digits", folders.append)
    monkeypatch.setattr(script.problems, "draw", draw)
    name = "--problems=wild digits and labels beta=0.3"
    run("--benchmark=wild", name, "--estimator=ksg", f"--data_dir={tmp_path}")
    assert folders == [str(tmp_path)] * 2
    (row,) = read_rows(tmp_path)
    assert (row["benchmark"], row["truth_is_upper"]) == ("wild", True)
    assert (row["n"], row["samples"], row["nats"]) == (300, 7, None)


@pytest.mark.filterwarnings("ignore:.*ends in half a line")
def test_experiment_resumed_keeps_rows_and_measures_the_missing_ones(
    run, tmp_path, monkeypatch, capsys
):
    measured = []

    def measure(job, config):
        measured.append((job.key, config))
        return make_row(job.problem.name, estimator=job.estimator)

    monkeypatch.setattr(script, "measure", measure)
    run(TWO_PROBLEMS)
    assert [key[0] for key, _ in measured] == ["gaussian d=1 I=1", "gaussian d=1 I=10"]
    path = tmp_path / script.ROWS
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(first + second[:40])  # cut off by a crash
    measured.clear()
    run(TWO_PROBLEMS, "--resume")
    assert "2 estimates, 1 missing" in capsys.readouterr().out
    assert measured == [(("gaussian d=1 I=10", 300, 0, "default"), MineConfig())]
    # With the other estimator the rows of this one stay.
    run(TWO_PROBLEMS, "--resume", "--estimator=published")
    assert [row["estimator"] for row in read_rows(tmp_path)] == ["default"] * 2 + ["published"] * 2
    with pytest.raises(SystemExit, match=r"already holds a run .*--resume"):
        run(TWO_PROBLEMS)
    configs = {"default": MineConfig(hidden=8), "published": MineConfig.published()}
    monkeypatch.setattr(script, "configurations", lambda: configs)
    with pytest.raises(SystemExit, match=r"resolved\.default\.hidden was None and is 8 now"):
        run(TWO_PROBLEMS, "--resume")


def test_experiment_published_writes_the_results_page(run, tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(script, "measure", lambda job, config: make_row(job.problem.name, n=job.n))
    monkeypatch.setattr(script.common, "write_page", lambda *arguments: pages.append(arguments))
    run("--problems=blob I=2", "--curve", "--sizes=300", "--publish")
    ((name, _, text, figures),) = pages
    assert (name, figures) == ("curve", [])
    assert text in (tmp_path / "curve.md").read_text()


def test_measure_error_names_the_problem(monkeypatch):
    def lower_bound(*_, **__):
        raise ValueError("too few samples")

    monkeypatch.setattr(mine_jax, "lower_bound", lower_bound)
    job = script.Job(script.problems.find("blob I=2"), 10, 3)
    with pytest.raises(ValueError, match=r"^blob I=2, n = 10, seed 3: too few samples"):
        script.measure(job, MineConfig())
