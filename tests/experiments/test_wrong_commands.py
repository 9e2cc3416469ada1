"""Wrong flags of the experiments: one line, status 1, and nothing left in any folder."""

import shutil

import pytest
from conftest import EXPERIMENTS, load_experiment, set_flags

PROBE = ("--dataset=mnist_5k", "--layers=softmax", "--compilation_cache=")
WRONG = [
    ("info_plane", ["--layers=conv3"], "--layers has conv3 (did you mean conv2?); choose from"),
    ("info_plane", ["--layers=../../softmax"], "--layers has ../../softmax"),
    (
        "info_plane",
        ["--mine_learning_rate=inf"],
        "learning_rate must be positive and fit into float32, got inf",
    ),
    ("info_plane", ["--noise_std=nan"], "got nan"),
    ("info_plane", ["--out_dir=file/run"], "cannot write into"),
    ("info_plane", ["--out_dir=file"], "is a file; choose another folder"),
    ("info_plane", ["--data_dir=none"], "data_dir='none' is not a folder"),
    ("info_plane", ["--dataset=auto", "--data_dir=idx"], "is not the file of mnist"),
    ("accuracy", ["--n=3"], "--n must be at least 100, got 3"),
    ("accuracy", ["--out_dir=file/run"], "cannot write into"),
    ("accuracy", ["--estimator=defualt"], "--estimator has defualt (did you mean default?)"),
    ("architectures", ["--parts=layer"], "--parts has layer (did you mean layers?)"),
    ("architectures", ["--parts="], "--parts is empty; choose from synthetic, layers"),
    ("architectures", ["--quick", "--out_dir=file/run"], "cannot write into"),
    ("noise_sweep", ["--levels=0.2,nan"], "--levels must be two or more different finite numbers"),
    ("noise_sweep", ["--out_dir=file/run"], "cannot write into"),
    ("twelve_inputs", ["--learning_rate=nan"], "--learning_rate must be positive and finite"),
    ("twelve_inputs", ["--max_steps=0"], "max_steps must be an integer of at least 1"),
    ("twelve_inputs", ["--seed=-1"], "--seed must be from 0 to 2**32 - 1, got -1"),
    ("twelve_inputs", ["--seed=4294967296"], "--seed must be from 0 to 2**32 - 1"),
    ("twelve_inputs", ["--out_dir=file/run"], "cannot write into"),
    ("warm_start", ["--seed=-1"], "seed must be an integer of at least 0"),
    ("warm_start", ["--quick", "--out_dir=file/run"], "cannot write into"),
    ("faults", ["--parts=flag"], "--parts has flag (did you mean flags?)"),
]
programs = {name: load_experiment(name) for name in dict.fromkeys(name for name, *_ in WRONG)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder that has a file and four files that are no IDX files."""
    from mine_jax.lenet.datasets import FILES

    (tmp_path / "file").write_text("")
    (tmp_path / "idx").mkdir()
    for name in FILES:
        (tmp_path / "idx" / name).write_bytes(b"<html>404</html>")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("program", "arguments", "message"), WRONG)
def test_wrong_flags_end_in_one_line_and_leave_nothing(folder, program, arguments, message):
    script = programs[program]
    known = {*script.FLAGS}
    common = [flag for flag in PROBE if flag[2:].partition("=")[0] in known]
    before = sorted(folder.rglob("*"))
    with set_flags(script, *common, *arguments), pytest.raises(SystemExit) as stopped:
        script.experiment()
    text = str(stopped.value.code)
    assert text.startswith("error: ")
    assert message in text
    assert "\n" not in text
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("value", ["", "  "])
def test_empty_folder_is_not_the_current_one(folder, value, monkeypatch):
    common, calls = programs["accuracy"].common, []
    monkeypatch.setattr(common.app, "run", lambda main: main(["accuracy"]))
    with (
        set_flags(programs["accuracy"], f"--out_dir={value}"),
        pytest.raises(SystemExit, match=r"^error: --out_dir is empty"),
    ):
        common.run(lambda: calls.append("experiment"))
    assert not calls


def test_part_of_damaged_data_files_finds_nothing_lost(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from fault_injection import data_files

    table = data_files.measure(tmp_path / "data", None)
    assert not table.failures
    assert "10" in dict((row[0], row[2]) for row in table.rows)["label 10"]
    shutil.rmtree(tmp_path / "data")
    monkeypatch.setattr(data_files.datasets, "_verify", lambda *_: None)
    monkeypatch.setattr(data_files.datasets, "NUM_CLASSES", 11)
    lost = data_files.measure(tmp_path / "data", None).failures
    assert any(text.startswith("label 10: ") for text in lost)
