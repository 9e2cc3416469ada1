"""`Plane`: what is kept by files, what is shown, and what is refused."""

import math
import sys

import numpy as np
import pytest
from made_records import DESCRIPTION, EPOCHS, LAYERS, make_records

import mine_jax
from mine_jax.information_plane.planes import Plane
from mine_jax.information_plane.records import RunFolder, RunFolderError

TRAINING = ({"epoch": 0, "test_accuracy": None}, {"epoch": 4, "test_accuracy": 0.5})


def make_plane(**values):
    return Plane(tuple(make_records(**values)), DESCRIPTION, TRAINING)


def test_a_plane_is_the_same_after_save_and_load(tmp_path):
    plane = make_plane(warnings=("a", "b"), note="σ", reference_low_nats=1 / 3)
    assert Plane.load(plane.save(tmp_path / "new")) == plane
    assert mine_jax.load(str(tmp_path / "new")) == plane
    other = make_plane(epochs=(0,))
    assert mine_jax.load(other.save(tmp_path / "new")) == other  # its own folder is replaced
    without = Plane(plane.records, DESCRIPTION)
    assert mine_jax.load(without.save(tmp_path / "without")).training == ()


@pytest.mark.parametrize("missing", [math.nan, -math.inf, np.float32("nan"), np.inf])
def test_what_is_no_finite_number_is_none(missing, tmp_path):
    plane = make_plane(mi_nats=missing)
    assert {row["mi_nats"] for row in plane.records} == {None}
    assert Plane.load(plane.save(tmp_path)) == plane


def test_numpy_scalars_are_plain_numbers(tmp_path):
    values = {"stderr": np.float32(0.25), "steps": np.int64(3), "converged": np.bool_(True)}
    row = make_plane(**values).records[0]
    assert [row[name] for name in values] == [0.25, 3, True]
    assert [type(row[name]) for name in values] == [float, int, bool]
    with pytest.raises(TypeError, match="not JSON serializable"):
        make_plane(stderr=np.zeros(2))


@pytest.mark.parametrize("name", ["config.json", "records.jsonl", "training.jsonl"])
def test_save_refuses_the_folder_of_a_run(name, tmp_path):
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(RunFolderError, match="already holds a run; choose another"):
        make_plane().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "{}\n"


def test_save_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(RunFolderError, match="cannot write into"):
        make_plane().save(tmp_path / "file")


def test_load_says_why_it_does_not(tmp_path):
    folder = RunFolder(make_plane().save(tmp_path))
    rows = [dict(row) for row in make_plane().records]
    del rows[3]["plane"]
    folder.replace_rows("records.jsonl", rows)
    with pytest.raises(RunFolderError, match=r"earlier version: records.jsonl\[3\] lacks plane"):
        mine_jax.load(tmp_path)
    make_plane().save(tmp_path)
    folder.write("config.json", {name: DESCRIPTION[name] for name in ("dataset", "notice")})
    with pytest.raises(RunFolderError, match=r"earlier version: config.json lacks probe_size"):
        mine_jax.load(tmp_path)
    (tmp_path / "config.json").write_text('{"dataset": ')
    with pytest.raises(RunFolderError, match=r"config.json is damaged"):
        mine_jax.load(tmp_path)
    (tmp_path / "records.jsonl").write_text('{"seed": 0}\n{"seed"\n{}\n')
    with pytest.raises(RunFolderError, match=r"damaged in line 2"):
        mine_jax.load(tmp_path)
    with pytest.raises(RunFolderError, match="has no records to show"):
        mine_jax.load(tmp_path / "nowhere")


def test_a_last_row_that_was_cut_off_is_left_out(tmp_path):
    plane = make_plane()
    plane.save(tmp_path)
    with open(tmp_path / "records.jsonl", "a") as file:
        file.write('{"seed": 7, "epo')
    assert mine_jax.load(tmp_path) == plane


def test_to_pandas_has_a_row_for_each_record():
    pandas = pytest.importorskip("pandas")
    plane = make_plane()
    frame = plane.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["mi_nats"].tolist() == [row["mi_nats"] for row in plane.records]
    assert set(frame) == set(plane.records[0])


def test_without_pandas_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        make_plane().to_pandas()


def test_repr_of_layers_that_were_not_measured_or_have_a_name_of_two_lines():
    rows = [row for row in make_records(epochs=(4,)) if row["layer"] == "conv1"][:2]
    for row in rows:
        row |= {"layer": "conv\n1", "mi_nats": None, "network": None, "converged": False}
        row["warnings"] = ["conv1 has values that are not finite."]
    heading, _, line = repr(Plane(tuple(rows), DESCRIPTION)).splitlines()
    assert heading.startswith("Information plane: 1 epoch, 1 layer; nats")
    assert "flagged" not in heading
    assert line == "observed  4      conv 1  not measured  not measured"


def test_repr_is_a_table_of_values_with_errors_brackets_and_flags():
    rows = make_records(epochs=(4,), planes=("observed",))
    rows[0] |= {"mi_nats": 1.234, "reference_low_nats": 1.1, "reference_high_nats": 1.3}
    rows[1] |= {"mi_nats": None, "converged": False}
    rows[2] |= {"stderr": None, "reference_low_nats": None}
    heading, columns, *lines = repr(Plane(tuple(rows), DESCRIPTION)).splitlines()
    assert heading.startswith("Information plane: 1 epoch, 4 layers; nats ± standard error")
    assert heading.endswith("* marks 1 flagged value")
    assert columns.split() == ["plane", "epoch", "layer", "I(X;·)", "I(Y;·)"]
    assert [line.split()[:3] for line in lines] == [["observed", "4", name] for name in LAYERS]
    assert "1.23 ± 0.01 (1.10 to 1.30)" in lines[0]
    assert " –* " in lines[1]
    assert lines[2].split()[4] != "±"
    many = repr(make_plane(epochs=range(30), seeds=(1, 2)))
    assert len(many.splitlines()) == 42
    assert "2 seeds" in many
    assert "more …" in many


def test_notebooks_show_figure_and_table_and_escape_names():
    name = "<script>alert('$x$')</script>"
    rows = [
        row | {"layer": name if row["layer"] == LAYERS[0] else row["layer"]}
        for row in make_records(planes=("observed",))
    ]
    page = Plane(tuple(rows), DESCRIPTION)._repr_html_()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == len(EPOCHS)
    assert 'src="data:image/png;base64,' in page
    assert "<img" not in Plane((), DESCRIPTION)._repr_html_()


def test_figures_of_a_plane():
    plane = make_plane()
    assert len(plane.figure().axes) == 2
    assert len(plane.figure(over_epochs=True).axes) == 5
    with pytest.raises(ValueError, match="records is empty"):
        Plane((), DESCRIPTION).figure()


def test_layers_without_any_value_and_targets_without_entropy_are_drawn():
    rows = [
        row | {"mi_nats": None, "stderr": None} if row["layer"] == LAYERS[1] else row
        for row in make_records()
    ]
    plane = Plane(tuple(rows), DESCRIPTION | {"class_entropy_nats": None, "dataset": ""})
    for over_epochs in (False, True):
        plane.figure(over_epochs).draw_without_rendering()
    nothing = Plane(tuple(make_records(mi_nats=None)), DESCRIPTION)
    nothing.figure().draw_without_rendering()
    assert "–" in repr(nothing)
