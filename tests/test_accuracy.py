"""The accuracy experiment: rows, tables and the figure; and what it refuses."""

import csv
import math
from functools import partial

import numpy as np
import pytest
from conftest import run_experiment
from matplotlib.text import Text

from mine_jax.information_plane import plotting

COLUMNS = (
    *("problem", "family", "held_out", "n", "seed", "truth_nats", "truth_stderr", "nats"),
    *("stderr", "train_nats", "ceiling_nats", "error", "steps", "seconds", "converged"),
    "warnings",
)

run = partial(run_experiment, "accuracy")


def made_row(problem="gaussian d=1 I=2", error=-0.1, **values):
    row = {
        "problem": problem,
        "family": problem.split()[0],
        "held_out": False,
        "n": 300,
        "seed": 0,
        "truth_nats": 2.0,
        "truth_stderr": 0.0,
        "stderr": 0.02,
        "train_nats": 2.1,
        "ceiling_nats": math.log(300),
        "steps": 100,
        "seconds": 1.5,
        "converged": True,
        "warnings": "",
    }
    row |= values
    return {
        name: {**row, "error": error, "nats": row["truth_nats"] + error}[name] for name in COLUMNS
    }


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_small_run_and_its_resumption(tmp_path):
    folder = tmp_path / "run"
    # Two full names, each for its problem alone, though one is in the other.
    arguments = ("--problems=gaussian d=1 I=1,gaussian d=1 I=10", "--n=300", "--seeds=1")
    there = made_row(
        "gaussian d=1 I=10", truth_nats=10.0, error=-5.5, warnings='so, "so" | ceiling'
    )
    write(folder / "accuracy.csv", [there])
    with open(folder / "accuracy.csv", "a") as file:
        file.write("gaussian d=1 I=1,gaussian,False,300,0,1.0")  # cut off by a crash
    done = run(folder, *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert "2 estimates, 1 of them to make" in done.stdout
    assert {path.name for path in folder.iterdir()} == {
        "accuracy.csv",
        "accuracy.md",
        "accuracy.png",
    }
    kept, row = read(folder / "accuracy.csv")
    assert tuple(kept) == COLUMNS
    assert kept == {name: str(value) for name, value in there.items()}
    assert (row["problem"], row["n"], row["seed"]) == ("gaussian d=1 I=1", "300", "0")
    assert (row["family"], row["held_out"], row["truth_nats"]) == ("gaussian", "False", "1.0")
    assert float(row["error"]) == pytest.approx(float(row["nats"]) - 1)
    assert abs(float(row["error"])) < 0.5
    assert 0 < float(row["stderr"]) < 0.3
    assert float(row["seconds"]) > 0
    assert int(row["steps"]) > 0
    table = (folder / "accuracy.md").read_text()
    assert table.strip() in done.stdout
    assert "| gaussian d=1 I=1 | tuned | 1.0000 |" in table
    assert "above 0.9 of the ceiling, not in the mean errors: 1 estimates, 1 of them" in table
    again = run(folder, *arguments)
    assert again.returncode == 1
    assert "already holds rows: keep them by --resume" in again.stderr
    assert "Traceback" not in again.stderr


def test_the_summary(tmp_path):
    folder = tmp_path / "run"
    rows = [
        made_row(error=-0.1, seed=0),
        made_row(error=0.3, seed=1, seconds=7.25, converged=False),
        made_row("gaussian d=3 I=2", error=-0.03, seed=0, held_out=True),
        made_row("gaussian d=3 I=2", error=0.03, seed=1, held_out=True),
        made_row("gaussian d=1 I=8", error=-3.0, truth_nats=8.0, seed=0),
        made_row("gaussian d=1 I=8", error=-3.2, truth_nats=8.0, seed=1, warnings="The ceiling."),
        made_row("gaussian d=5 I=2", error=math.nan, seed=0),
        made_row("gaussian d=5 I=2", error=-0.05, seed=1),
    ]
    write(folder / "accuracy.csv", rows)
    names = ",".join({row["problem"]: None for row in rows})
    done = run(folder, f"--problems={names}", "--n=300", "--seeds=2", "--resume")
    assert done.returncode == 0, done.stderr
    for line in (
        "8 estimates, 0 of them to make",
        "mean |error|, tuned: 0.1500 nats (3 estimates)",
        "mean |error|, held out: 0.0300 nats (2 estimates)",
        "mean |error|, all: 0.1020 nats (5 estimates)",
        "worst overshoot beyond 3 standard errors: 0.2400 nats, gaussian d=1 I=2, seed 1",
        "2 estimates, 1 of them flagged",
        "slowest call: 7.2 s, gaussian d=1 I=2",
        "1 not converged, 1 not finite",
        "above the estimate: 85.7% (within 3 standard errors: 42.9%)",
        "above the truth, not converged",
    ):
        assert line in done.stdout
    assert (folder / "accuracy.png").stat().st_size > 10_000
    assert read(folder / "accuracy.csv") == [{k: str(v) for k, v in row.items()} for row in rows]


def test_the_curve(tmp_path):
    rows = [
        made_row("blob I=2", error=-1 / n, n=n, seed=seed, seconds=n / 100)
        for n in (300, 1200)
        for seed in (0, 1)
    ]
    write(tmp_path / "curve.csv", rows)
    done = run(
        *(tmp_path, "--curve", "--resume", "--sizes=1200,300", "--seeds=2"), "--problems=blob I=2"
    )
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "curve.md").read_text()
    assert table.strip() in done.stdout
    assert "| problem | n = 300 | n = 1,200 |" in table
    assert "| blob I=2 | -0.0033 | -0.0008 |" in table
    assert "| blob I=2 | 3.0 | 12.0 |" in table
    assert {path.name for path in tmp_path.iterdir()} == {"curve.csv", "curve.md"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--problems=gaussian,nonsense",), "no problem has 'nonsense' in its name"),
        (("--problems=swiss roll", "--half=tuned"), "--half=tuned leaves none of the 1 problems"),
        (("--n=0",), "--n must be at least 1, got 0"),
        (("--seeds=0",), "--seeds must be at least 1, got 0"),
        (("--curve", "--sizes=500,few"), "--sizes must be whole numbers above 0, got 500,few"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, arguments, message):
    done = run(tmp_path / "run", *arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: {done.stderr.strip().removeprefix('error: ')}"]
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_files_that_do_not_fit(tmp_path):
    (tmp_path / "accuracy.csv").write_text("a,b\n1,2\n")
    done = run(tmp_path, "--resume")
    assert done.returncode == 1
    assert "has other columns" in done.stderr
    write(tmp_path / "accuracy.csv", [made_row(n="many")])
    done = run(tmp_path, "--resume")
    assert done.returncode == 1
    assert "has a row that cannot be read" in done.stderr
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file", "--problems=gaussian d=1 I=1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


# --- The figure ---------------------------------------------------------------------------------


def figure_rows(count=3):
    return [
        made_row(f"problem ${i}$", family=f"family {i % 4}", held_out=i % 2 == 0, seed=seed)
        for i in range(count)
        for seed in (0, 1, 2)
    ]


def texts(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]


def test_the_figure_shows_problems_families_and_ceiling():
    rows = [*figure_rows(), made_row("far", truth_nats=9.0, error=-4.0, family="family 1")]
    figure = plotting._accuracy_figure(rows)
    found = texts(figure)
    assert {"problem $0$", "problem $1$", "far", "family 0", "family 1", "family 2"} <= set(found)
    assert f"ceiling {math.log(300):.2f}" in found
    assert "grey: truth above nine tenths of the ceiling" in " ".join(" ".join(found).split())
    top = figure.subfigs[0].axes[0]
    at = sorted(tuple(bar.lines[0].get_xydata()[0]) for bar in top.containers)
    assert at == [(2.0, pytest.approx(1.9))] * 3 + [(9.0, pytest.approx(5.0))]


def test_the_figure_of_many_problems_has_two_columns(tmp_path):
    figure = plotting._accuracy_figure(figure_rows(70))
    assert [len(part.axes) for part in figure.subfigs] == [1, 2]
    plotting.accuracy(figure_rows(2), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_values_that_are_not_finite_are_left_out():
    rows = [made_row(error=math.nan), made_row(error=-0.1, seed=1), made_row("b", error=math.inf)]
    figure = plotting._accuracy_figure(rows)
    assert "Not finite, so not drawn: 2 of 3 values" in " ".join(" ".join(texts(figure)).split())
    assert np.isfinite(figure.subfigs[0].axes[0].get_ylim()).all()


def test_rows_that_cannot_be_drawn():
    with pytest.raises(ValueError, match="rows is empty"):
        plotting.accuracy([], "nowhere.png")
    with pytest.raises(ValueError, match=r"rows\[0\] lacks family, nats"):
        plotting.accuracy(
            [{k: v for k, v in made_row().items() if k not in ("family", "nats")}], "nowhere.png"
        )
