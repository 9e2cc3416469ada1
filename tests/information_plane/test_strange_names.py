"""Names that are code, paths or control characters: text everywhere, and never a path."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from made_records import DESCRIPTION, EPOCHS, LAYERS, make_records

from mine_jax import Plane, Recorder, load
from mine_jax.information_plane import PlaneConfig, figure_runs
from mine_jax.information_plane.planes import printable
from mine_jax.information_plane.records import RunFolderWarning

NAMES = (
    *("$x_{", "--><!--]]>", "</script><img src=x onerror=alert(1)>", "quotes \"'& &amp;"),
    *("nul\0", "\x1b[31mred", "\x85\x9b", "half \ud800", "\uffff", "a\u2028b"),
)


def make_plane(name):
    rows = [
        row | {"layer": name, "warnings": [name]} if row["layer"] == LAYERS[0] else row
        for row in make_records(planes=("observed",))
    ]
    return Plane(tuple(rows), DESCRIPTION | {"dataset": name, "notice": name})


@pytest.mark.parametrize("name", NAMES)
def test_svg_and_text_of_any_name_can_be_read(tmp_path, name):
    plane = make_plane(name)
    plane.figure().savefig(tmp_path / "plane.svg")
    root = ElementTree.parse(tmp_path / "plane.svg").getroot()
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "img", "foreignObject"}
    assert not {c for c in repr(plane) if c < " " or c in "\x85\x9b\ud800\uffff"} - {"\n"}


def test_runs_of_any_name_are_drawn_side_by_side(tmp_path):
    runs = {printable(name): make_plane(name) for name in NAMES[:2]}
    for draw in (figure_runs.side_by_side, figure_runs.side_by_side_over_epochs):
        draw(runs).savefig(tmp_path / "runs.svg")
        ElementTree.parse(tmp_path / "runs.svg")


def test_page_of_these_names_has_no_more_elements_than_others():
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    known = make_plane("conv1").html()
    page = make_plane(" ".join(NAMES)).html()
    page.encode()
    assert page.count("</script") == known.count("</script")
    assert "<img src=x" not in page
    assert page.count("\u2028") == known.count("\u2028")


def test_printable_keeps_names_apart_and_all_else_as_it_is():
    assert printable("conv1 größe 層\t\n") == "conv1 größe 層\t\n"
    assert printable("\x1b\ud800") == r"\x1b\ud800"
    assert len({printable(name) for name in ("a\x01", "a\x02", "a")}) == 3
    plane = make_plane("\x1b")
    assert plane.records[0]["layer"] == r"\x1b"
    assert Plane(plane.records, plane.description) == plane


def test_names_are_no_paths_in_the_folder_of_a_recorder(tmp_path):
    names = ["../../outside", "/outside", "a/b", "c\0d", "e\nf", "."]
    folder = tmp_path / "some" / "run"
    labels = np.arange(400) % 2
    recorder = Recorder(labels, folder=folder, config=PlaneConfig(), name="../../outside")
    for epoch in EPOCHS[:2]:
        recorder.add(epoch, {name: np.full((400, 2), epoch, np.float32) for name in names})
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    snapshots = {f"some/run/snapshots/{epoch:08d}.npz" for epoch in EPOCHS[:2]}
    written = {"config.json", ".config.json.copy", "records.jsonl", ".lock"}
    assert files == snapshots | {f"some/run/{name}" for name in written}
    assert list(json.loads((folder / "config.json").read_text())["layers"]) == names
    for epoch in ("../1", -1, 2**32, 1.5):
        with pytest.raises((TypeError, ValueError), match="epoch must be"):
            recorder.add(epoch, {name: np.zeros((400, 2)) for name in names})


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_snapshot_that_holds_code_is_refused_and_does_not_run(tmp_path):
    trap, folder = tmp_path / "sprung", tmp_path / "run"
    labels = np.arange(400) % 2
    Recorder(labels, folder=folder).add(0, {"out": np.zeros((400, 2))})
    (path,) = (folder / "snapshots").glob("*.npz")
    np.savez(path, **{"0": np.array([Trap(trap)] * 400, object)})
    recorder = Recorder(labels, folder=folder)
    with pytest.warns(RunFolderWarning, match="is damaged"), pytest.raises(ValueError, match="add"):
        recorder.plane()
    assert not trap.exists()
    with np.load(path, allow_pickle=True) as file:  # the trap works
        file["0"]
    assert trap.exists()


def test_planes_of_any_name_are_saved_and_loaded(tmp_path):
    for i, name in enumerate(NAMES):
        plane = make_plane(name)
        assert load(plane.save(tmp_path / str(i))) == plane
