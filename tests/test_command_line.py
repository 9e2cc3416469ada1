"""`python -m mine_jax`: what it prints and writes, and one line for what is wrong."""

import functools
import json
import sys
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
from information_plane.made_records import DESCRIPTION, EPOCHS, make_records

import mine_jax
from mine_jax.command_line import main
from mine_jax.information_plane.files import replacing
from mine_jax.information_plane.records import RunFolder
from mine_jax.mine import MineConfig

N = 400
QUICK = MineConfig(hidden=16, features=8, check_every=25, max_steps=50)
KINDS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "html": b"<!DOCTYPE"}


@pytest.fixture
def make_run(tmp_path):
    """Make a run folder; each call another one."""

    def make(name, seed=7, planes=("observed",), **description):
        records = make_records(seeds=(seed,), planes=planes)
        training = [{"seed": seed, "epoch": epoch, "test_accuracy": 0.9} for epoch in EPOCHS]
        plane = mine_jax.Plane(tuple(records), DESCRIPTION | description, tuple(training))
        return str(plane.save(tmp_path / name))

    return make


def error_of(capsys, *argv):
    """The single line on stderr, after a failure."""
    assert main(argv) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def record_calls(monkeypatch):
    """A list that gets the arguments of each `lower_bound`, which then stops."""
    calls = []

    def stop(x, z, **options):
        calls.append((x, z, options))
        raise ValueError("enough")

    monkeypatch.setattr("mine_jax.estimate.lower_bound", stop)
    return calls


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=N)
    return {"x one": x, "noise": rng.normal(size=N), "sign": np.where(x > 0, "plus", "minus")}


@pytest.fixture
def csv_file(tmp_path, samples):
    lines = [",".join(samples)]
    lines += [",".join(map(str, row)) for row in zip(*samples.values(), strict=True)]
    path = tmp_path / "people.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return str(path)


# --- plot -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_plot_writes_the_kind_that_the_end_of_the_name_says(kind, make_run, tmp_path, capsys):
    if kind == "html":
        pytest.importorskip("altair")
        pytest.importorskip("vl_convert")
    out = tmp_path / f"figure.{kind}"
    assert main(["plot", make_run("run"), "--out", str(out)]) == 0
    assert out.read_bytes().lstrip().lower().startswith(KINDS[kind].lower())
    assert capsys.readouterr().out == f"Written to {out}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "run"]


def test_plot_over_epochs_is_another_figure_with_a_name_of_its_own(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run("run")
    assert main(["plot", run, "--over_epochs"]) == main(["plot", run]) == 0
    files = [tmp_path / f"{name}.png" for name in ("mi_over_epochs", "information_plane")]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_plot_merges_seeds_and_puts_other_runs_side_by_side(make_run, tmp_path, monkeypatch):
    drawn = []
    write = "mine_jax.command_line._write_figure"
    monkeypatch.setattr(write, lambda figure, path: drawn.append(figure))
    runs = make_run("one"), make_run("two", 8), make_run("three", 9, noise_level=0.5)
    for folders in (runs[:2], runs[1:], (runs[0], runs[0])):
        assert main(["plot", *folders]) == 0
        assert main(["plot", *folders, "--over_epochs"]) == 0
    titles = [[ax.get_title(loc="left").split("\n")[0] for ax in figure.axes] for figure in drawn]
    observed = "Observed with noise"
    assert titles[0] == [observed]
    assert titles[2] == ["two", "three"]
    assert titles[4] == [observed]  # the same folder twice is one run
    assert [[title for title in of if title] for of in titles[1::2]] == [
        [observed],
        ["two", "three"],
        [observed],
    ]


def test_plot_names_folders_of_the_same_name_by_their_paths(make_run, tmp_path, monkeypatch):
    drawn = []
    write = "mine_jax.command_line._write_figure"
    monkeypatch.setattr(write, lambda figure, path: drawn.append(figure))
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a/run", 7), ("b/run", 7)):
        make_run(name, seed)
    assert main(["plot", "a/run", "b/run"]) == 0
    assert [ax.get_title(loc="left").split("\n")[0] for ax in drawn[0].axes] == ["a/run", "b/run"]


def test_plot_says_what_is_wrong(make_run, tmp_path, capsys):
    run = make_run("run")
    assert f"did you mean {run}?" in error_of(capsys, "plot", run + "s")
    assert "has no records to show" in error_of(capsys, "plot", str(tmp_path))
    (tmp_path / "file").write_text("")
    assert "is a file, no run folder" in error_of(capsys, "plot", str(tmp_path / "file"))
    assert ".png, .pdf, .svg, .html" in error_of(capsys, "plot", run, "--out", "plane.jpg")
    assert "file, is a file" in error_of(capsys, "plot", run, "--out", f"{tmp_path}/file/plane.png")
    missing = str(tmp_path / "missing" / "plane.png")
    assert "does not exist; make it first" in error_of(capsys, "plot", run, "--out", missing)
    page = str(tmp_path / "plane.html")
    other = make_run("other", noise_level=0.5)
    assert "a page shows one run" in error_of(capsys, "plot", run, other, "--out", page)
    assert "slider" in error_of(capsys, "plot", run, "--over_epochs", "--out", page)


def test_plot_says_why_folders_that_are_old_or_damaged_are_not_drawn(make_run, tmp_path, capsys):
    old = RunFolder(make_run("old"))
    old.write("config.json", {"dataset": "mnist"})
    assert "is of an earlier version: config.json lacks" in error_of(capsys, "plot", str(old.path))
    (old.path / "config.json").write_text("{")
    assert "config.json is damaged" in error_of(capsys, "plot", str(old.path))


def test_plot_without_the_packages_of_the_page_says_how_to_get_them(make_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "altair", None)
    error = error_of(capsys, "plot", make_run("run"), "--out", "plane.html")
    assert "pip install" in error


# --- estimate -------------------------------------------------------------------------------------


def test_estimate_prints_the_value_of_lower_bound_and_the_p_value(
    csv_file, samples, monkeypatch, capsys
):
    for name in ("lower_bound", "independence_test"):
        quick = functools.partial(getattr(mine_jax, name), config=QUICK)
        monkeypatch.setattr(f"mine_jax.estimate.{name}", quick)
    argv = ["estimate", csv_file, "--x", "x one", "--z", "sign", "--seed", "3", "--test"]
    assert main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    sides = samples["x one"], samples["sign"].tolist()
    expected = mine_jax.lower_bound(*sides, key=jax.random.key(3), config=QUICK)
    for name in ("nats", "stderr", "ceiling_nats"):
        assert result[name] == pytest.approx(getattr(expected, name), rel=1e-5)
    assert result["samples"] == N
    assert result["warnings"] == list(expected.warnings)
    test = mine_jax.independence_test(*sides, key=jax.random.key(3), config=QUICK)
    assert result["p_value"] == pytest.approx(test.p_value)
    for name, found in (("lower_bound", expected), ("independence_test", test)):
        monkeypatch.setattr(f"mine_jax.estimate.{name}", lambda *_, found=found, **__: found)
    assert main(argv) == 0
    out = capsys.readouterr().out
    for text in (f"{expected.nats:.3f} nats", f"{test.p_value:.3g}", *expected.warnings):
        assert text in out
    assert main([*argv[:-1], "--json"]) == 0
    assert "p_value" not in json.loads(capsys.readouterr().out)


def test_estimate_passes_what_the_options_say(csv_file, monkeypatch, capsys):
    calls = record_calls(monkeypatch)
    start = ["estimate", csv_file, "--z", "2"]
    assert "enough" in error_of(capsys, *start, "--x", "0-1", "--blocks", "12", "--discrete", "z")
    x, z, options = calls[0]
    assert x.shape == (N, 2)
    assert x.dtype == float
    assert set(z) == {"plus", "minus"}
    assert (options["blocks"], options["groups"]) == (12, None)
    assert options["discrete"] == (False, True)
    error_of(capsys, *start, "--x", "x one,sign", "--groups", "sign")
    assert calls[1][0].dtype == object
    assert list(calls[1][2]["groups"]) == list(z)


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_estimate_reads_arrays(kind, tmp_path, monkeypatch, capsys):
    array = np.arange(30.0).reshape(10, 3)
    path = tmp_path / f"layers.{kind}"
    if kind == "npz":
        np.savez(path, first=array[:, :2], last=array[:, 2])
        names = "first", "last"
    else:
        np.save(path, array)
        names = "0,1", "2"
    calls = record_calls(monkeypatch)
    error_of(capsys, "estimate", str(path), "--x", names[0], "--z", names[1])
    np.testing.assert_array_equal(calls[0][0], array[:, :2])
    np.testing.assert_array_equal(calls[0][1], array[:, 2])


def test_estimate_says_what_is_wrong(csv_file, tmp_path, capsys):
    def error(path, x="0", z="1", *more):
        return error_of(capsys, "estimate", str(path), "--x", x, "--z", z, *more)

    assert "did you mean 'noise'?" in error(csv_file, "nois")
    assert "It has 3" in error(csv_file, "0-3")
    assert "no column 'patient'" in error(csv_file, "0", "1", "--groups", "patient")
    assert "--seed must be from 0" in error(csv_file, "0", "1", "--seed", str(2**70))
    assert f"did you mean {csv_file}?" in error(csv_file.replace("people", "peoples"))
    assert "must end in .csv, .npz or .npy" in error(tmp_path / "table.xlsx")
    for name, text, message in (
        ("empty.csv", "", "is empty"),
        ("header.csv", "a,b\n", "has no samples"),
        ("ragged.csv", "a,b\n1,2\n3\n", "line 3 has 1 cells, not 2"),
        ("twice.csv", "a,a\n1,2\n", "several columns are named 'a'"),
        ("missing.csv", "a,b\n1,2\nNA,3\n,4\n", "column 'a' has missing values in 2 of 3 rows"),
        ("text.csv", "a,b\nu,2\n,3\n", "column 'a' has missing values in 1 of 2 rows"),
        ("latin.csv", "größe,b\n1,2\n", "save it as UTF-8"),
        ("few.csv", "a,b\n1,2\n3,4\n", "samples"),
        ("damaged.npz", "PK\x03\x04 and nothing", "cannot be read"),
        ("damaged.npy", "\x93NUMPY", "cannot be read"),
    ):
        (tmp_path / name).write_text(text, encoding="latin-1")
        assert message in error(tmp_path / name)
    np.savez(tmp_path / "lengths.npz", a=np.arange(3.0), b=np.arange(4.0))
    assert "numbers of samples differ" in error(tmp_path / "lengths.npz", "a,b", "b")
    np.savez(tmp_path / "objects.npz", a=np.array([{}, {}]), b=np.arange(2.0))
    assert "cannot be read" in error(tmp_path / "objects.npz", "a", "b")


@pytest.mark.parametrize("argv", [[], ["plot"], ["estimate", "a.csv", "--x", "0"], ["draw"]])
def test_arguments_that_cannot_be_parsed_end_with_status_2(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_names_without_commas_are_told_how_to_be_separated(capsys):
    for argv, hinted in (
        (["a.csv", "--x", "0", "--z", "weight", "color"], True),
        (["a.csv", "--x", "0", "--z", "1", "--verbose"], False),
    ):
        with pytest.raises(SystemExit):
            main(["estimate", *argv])
        error = capsys.readouterr().err
        assert f"unrecognized arguments: {argv[-1]}" in error
        assert ("separated by commas" in error) is hinted


def test_file_that_cannot_be_written_is_named_without_the_partial_one(tmp_path):
    for target in (tmp_path / "missing" / "plane.png", tmp_path):
        with pytest.raises(OSError, match=f"'{target}'$"), replacing(target) as partial:
            partial.write_text("")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["plot", "run", "--over_epoch"], "--over_epoch (did you mean --over_epochs?)"),
        (["estimate", "a.csv", "--x", "0", "--z", "1", "--sed=1"], "(did you mean --seed?)"),
    ],
)
def test_option_that_is_nearly_right_is_named(argv, hint, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert hint in capsys.readouterr().err.splitlines()[-1]


def test_plot_of_a_folder_whose_name_no_text_can_hold(make_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run, other = make_run("run\x1b[31m"), make_run("b$x_{", noise_level=0.5)
    assert main(["plot", run, other, "--out", "plane\x1b[31m.svg"]) == 0
    assert capsys.readouterr().out == "Written to plane\\x1b[31m.svg\n"
    ElementTree.parse(tmp_path / "plane\x1b[31m.svg")


def test_help_has_examples_that_are_parsed(capsys):
    for command in ("plot", "estimate"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"python -m mine_jax {command} " in capsys.readouterr().out.split("examples:")[1]
