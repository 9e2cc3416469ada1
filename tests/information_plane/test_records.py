"""The run folder: claims, rows, checkpoints."""

import json
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax.classifier import ClassifierState
from mine_jax.information_plane import records

DESCRIPTION = {
    "settings": {"seed": 1, "layers": ["a", "b"], "epochs": 2},
    "resolved": {"mine": {"hidden": 128}, "rows": "abc"},
    "versions": {"jax": "1"},
    "devices": ["cpu:0"],
}


def changed(part, **values):
    return DESCRIPTION | {part: DESCRIPTION[part] | values}


@pytest.fixture
def folder(tmp_path):
    folder = records.RunFolder(tmp_path / "a" / "run")
    assert folder.open(DESCRIPTION, resume=False) is False
    return folder


def test_open_new_folder_writes_the_description(folder):
    content = json.loads((folder.path / "config.json").read_text())
    assert content.pop("crc32")
    assert content == folder.description() == DESCRIPTION


def test_open_with_resume_and_no_run_starts_one(tmp_path):
    assert records.RunFolder(tmp_path / "run").open(DESCRIPTION, resume=True) is False


def test_open_without_resume_refuses_a_run(folder):
    with pytest.raises(records.RunFolderError, match=r"already holds a run.*--resume.*another"):
        folder.open(DESCRIPTION, resume=False)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (changed("settings", seed=2), "seed was 1 and is 2 now"),
        (changed("resolved", mine={"hidden": 64}), "mine.hidden was 128 and is 64 now"),
        (changed("resolved", rows="abd"), "resolved.rows was 'abc' and is 'abd' now"),
        (changed("versions", jax="2"), "versions.jax was '1' and is '2' now"),
        (changed("settings", new=3), "new was None and is 3 now"),
    ],
)
def test_open_with_resume_names_every_difference(folder, description, message):
    with pytest.raises(records.RunFolderError, match=message):
        folder.open(description, resume=True, may_differ=["epochs"])


def test_open_with_resume_keeps_the_first_description(folder):
    longer = changed("settings", epochs=3) | {"versions": {"jax": "2"}}
    assert folder.open(longer, resume=True, may_differ=["epochs", "versions"]) is True
    assert folder.description() == DESCRIPTION
    resume = {"versions": {"jax": "2"}, "devices": ["cpu:0"], "settings": {"epochs": 3}}
    assert folder.read("resumes.jsonl") == [resume]


def test_open_with_resume_refuses_runs_without_resolved_configuration(folder):
    (folder.path / "config.json").write_text(json.dumps({"settings": DESCRIPTION["settings"]}))
    with pytest.raises(records.RunFolderError, match=r"older version.*resolved"):
        folder.open(DESCRIPTION, resume=True)


HOLD = """
import sys
from mine_jax.information_plane.records import RunFolder
folder = RunFolder(sys.argv[1])
folder.open({"settings": {"seed": 1}}, resume=True)
print("open", flush=True)
input()
"""


def test_open_refuses_a_folder_that_another_process_writes_into(tmp_path):
    description = {"settings": {"seed": 1}}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], **pipes) as other:
        assert other.stdout.readline() == "open\n"
        for _ in range(2):  # a refusal takes nothing from the other one
            with pytest.raises(records.RunFolderError, match="another process is writing"):
                records.RunFolder(tmp_path / "run").open(description, resume=True)
        with pytest.raises(records.RunFolderError, match="another process is writing"):
            records.RunFolder(tmp_path / "run").claim({})
        other.kill()
    first = records.RunFolder(tmp_path / "run")
    assert first.open(description, resume=True)
    assert records.RunFolder(tmp_path / "run").open(description, resume=True)  # of this process


def test_open_refuses_a_file_and_a_folder_without_configuration(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(records.RunFolderError, match="is a file"):
        records.RunFolder(tmp_path / "file").open({"settings": {}}, resume=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "records.jsonl").write_text("")
    with pytest.raises(records.RunFolderError, match=r"has no config\.json"):
        records.RunFolder(tmp_path / "run").open(DESCRIPTION, resume=True)


def test_read_and_resume_rows_drop_a_line_that_was_cut_off(folder):
    folder.append("records.jsonl", [{"epoch": 0, "v": 0.1}, {"epoch": 4, "v": None}])
    folder.append("records.jsonl", [{"epoch": 4, "v": 1}])
    with open(folder.path / "records.jsonl", "a") as file:
        file.write('{"epoch": 8, "v"')
    assert [row["epoch"] for row in folder.read("records.jsonl")] == [0, 4, 4]
    with pytest.warns(records.RunFolderWarning, match="ends in half a line"):
        rows = folder.resume_rows("records.jsonl", lambda row: row["epoch"])
    assert rows[4]["v"] == 1
    assert (folder.path / "records.jsonl").read_text().count("\n") == 3
    folder.append("training.jsonl", [{"epoch": 0}, {"epoch": 1}])
    assert folder.keep_until("training.jsonl", 0) == [{"epoch": 0}]  # without a warning
    missing = "epoch 4 has records and no checkpoint, .* computed again"
    with pytest.warns(records.RunFolderWarning, match=missing):
        assert folder.keep_until("records.jsonl", 0) == [{"epoch": 0, "v": 0.1}]
    assert (folder.path / "records.jsonl").read_text().count("\n") == 1


def test_folder_that_is_no_path_raises():
    with pytest.raises(TypeError, match="folder must be a path, got 3"):
        records.RunFolder(3)


def test_read_names_a_damaged_line(folder):
    (folder.path / "records.jsonl").write_text('{"epoch": 0}\n{"epoch\n{"epoch": 4}\n')
    with pytest.raises(records.RunFolderError, match=r"records\.jsonl is damaged in line 2"):
        folder.read("records.jsonl")


@pytest.fixture
def run(folder):
    """A folder with two checkpoints, and rows of an unfinished round."""
    for epoch in (0, 4):
        folder.append("training.jsonl", [{"epoch": epoch, "loss": 0.5}])
        folder.append("records.jsonl", [{"epoch": epoch, "v": epoch + each} for each in (0.1, 0.2)])
        folder.save(epoch, {"w": jnp.arange(3.0) + epoch})
    folder.append("records.jsonl", [{"epoch": 8, "v": 8.1}])
    return folder


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut, lambda path: path.unlink()])
@pytest.mark.parametrize("name", ["config.json", "training.jsonl", "records.jsonl"])
def test_resume_restores_a_damaged_file_and_names_it(run, name, damage):
    before = (run.path / name).read_bytes()
    damage(run.path / name)
    with pytest.warns(records.RunFolderWarning, match=rf"{name} (is|was) .*restored from "):
        assert run.open(DESCRIPTION, resume=True)
    assert run.last_epoch() == 4
    kept = (run.path / name).read_bytes()
    assert before.startswith(kept)
    assert [row["v"] for row in run.read("records.jsonl")][:4] == [0.1, 0.2, 4.1, 4.2]


@pytest.mark.parametrize("damage", [flip, cut, lambda path: path.unlink()])
def test_resume_goes_on_from_the_checkpoint_before_a_damaged_one(run, damage):
    paths = [path for path in (run.path / "checkpoints" / "4").rglob("*") if path.is_file()]
    for path in paths:
        whole = path.read_bytes()
        if not whole:
            continue
        damage(path)
        found = run._checkpoints.damage(4)
        assert found is not None, path
        with pytest.raises(records.RunFolderError, match=r"checkpoint 4 in .* is missing, damaged"):
            run.restore(4, {"w": jnp.zeros(3)})
        path.write_bytes(whole)
    assert run._checkpoints.damage(4) is None
    assert len(paths) > 8
    (run.path / "checkpoints" / "4" / ".DS_Store").touch()  # no damage
    damage(paths[0])
    before = sorted(run.path.rglob("*"))
    with pytest.raises(records.RunFolderError, match="holds another run"):
        run.claim({"mine": "other"})
    assert sorted(run.path.rglob("*")) == before  # a refusal takes nothing
    with pytest.warns(records.RunFolderWarning, match="checkpoint 4 is damaged .*: removed"):
        run.claim(DESCRIPTION["resolved"])
    assert run.epochs() == [0]
    np.testing.assert_array_equal(run.restore(0, {"w": jnp.zeros(3)})["w"], [0.0, 1.0, 2.0])


def test_checkpoints_of_earlier_versions_have_no_checksums_and_count(run):
    for epoch in (0, 4):
        for name in ("SHA256SUMS", "training.jsonl", "records.jsonl"):
            (run.path / "checkpoints" / str(epoch) / name).unlink()
    assert run.open(DESCRIPTION, resume=True)
    assert run.epochs() == [0, 4]
    assert len(run.read("records.jsonl")) == 5


def test_a_line_that_was_cut_off_does_not_take_the_next_one_with_it(folder):
    folder.append("resumes.jsonl", [{"epoch": 0}])
    with open(folder.path / "resumes.jsonl", "a") as file:
        file.write('{"epoch": 1')
    folder.append("resumes.jsonl", [{"epoch": 2}])
    with pytest.warns(records.RunFolderWarning, match="damaged in line 2"):
        assert folder.read_whole("resumes.jsonl") == [{"epoch": 0}, {"epoch": 2}]


def test_resume_rows_drops_damaged_lines_and_names_them(folder):
    folder.append("rows.jsonl", [{"epoch": epoch} for epoch in range(3)])
    text = (folder.path / "rows.jsonl").read_text()
    (folder.path / "rows.jsonl").write_text(text.replace('"epoch": 1', '"epoch": 7'))
    with pytest.raises(records.RunFolderError, match=r"damaged in line 2 \(checksum differs\)"):
        folder.read("rows.jsonl")
    with pytest.warns(
        records.RunFolderWarning, match=r"damaged in line 2: these rows are left out"
    ):
        assert list(folder.resume_rows("rows.jsonl", lambda row: row["epoch"])) == [0, 2]
    assert len(folder.read("rows.jsonl")) == 2


def test_a_disk_without_room_for_a_checkpoint_is_named_before_it_is_written(run, monkeypatch):
    usage = shutil.disk_usage(run.path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    run.save(8, {"w": jnp.zeros(2**17)})
    with pytest.raises(records.RunFolderError, match=r"for a .* 1.5 MiB, and 1.0 MiB"):
        run.save(12, {"w": jnp.zeros(3 * 2**17)})
    assert run.epochs() == [4, 8]


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(folder):
    (folder.path / "rows.jsonl").mkdir()
    for write in (folder.append, folder.replace_rows):
        with pytest.raises(records.RunFolderError, match=r"cannot write into .*: .*; what was wri"):
            write("rows.jsonl", [{"epoch": 0}])


def test_append_refuses_what_json_cannot_hold(folder):
    with pytest.raises(ValueError, match="JSON"):
        folder.append("records.jsonl", [{"v": float("nan")}])


def test_restore_returns_the_saved_state_and_keeps_the_last_checkpoints(folder, tmp_path):
    assert folder.last_epoch() is None
    empty = jnp.zeros((2, 0))
    like = {"c": ClassifierState({"w": jnp.zeros(3)}, (empty,), jnp.int32(0))}
    for epoch in (0, 4, 8):
        weights = {"w": jnp.arange(3.0) + epoch}
        folder.save(epoch, {"c": ClassifierState(weights, (empty,), jnp.int32(epoch))})
    assert folder.last_epoch() == 8
    restored = folder.restore(8, like)
    assert isinstance(restored["c"], ClassifierState)
    np.testing.assert_array_equal(restored["c"].params["w"], [8.0, 9.0, 10.0])
    assert restored["c"].opt_state[0].shape == (2, 0)
    assert restored["c"].epoch == 8
    assert folder.epochs() == [4, 8]
    everything = records.RunFolder(tmp_path / "all", keep=None)
    for epoch in (0, 4, 8):
        everything.save(epoch, like)
    shutil.rmtree(tmp_path / "all" / "checkpoints" / "4")
    with pytest.raises(records.RunFolderError, match=r"checkpoint 4 in .* is missing, damaged"):
        everything.restore(4, like)
    everything.save(4, like)  # earlier than the last one
    assert everything.epochs() == [0, 4, 8]
