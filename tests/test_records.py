"""The run folder: claims, rows, checkpoints."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax.information_plane import records
from mine_jax.classifier import ClassifierState


def folder_with(tmp_path, **settings):
    folder = records.RunFolder(tmp_path / "run")
    folder.open({"settings": settings}, resume=False)
    return folder


def test_a_new_folder_is_made_with_its_configuration(tmp_path):
    folder = records.RunFolder(tmp_path / "a" / "b")
    assert folder.open({"settings": {"seed": 3}}, resume=False) is False
    assert json.loads((folder.path / "config.json").read_text()) == {"settings": {"seed": 3}}


def test_resuming_nothing_starts_a_run(tmp_path):
    assert records.RunFolder(tmp_path / "run").open({"settings": {}}, resume=True) is False


def test_another_run_is_not_overwritten(tmp_path):
    folder_with(tmp_path, seed=1)
    with pytest.raises(records.RunFolderError, match=r"already holds a run.*--resume.*--out_dir"):
        folder_with(tmp_path, seed=1)


def test_a_run_of_other_settings_is_not_resumed(tmp_path):
    folder = folder_with(tmp_path, seed=1, layers=("a", "b"), epochs=2)
    with pytest.raises(records.RunFolderError, match="seed is 1 there and 2 now"):
        folder.open({"settings": {"seed": 2, "layers": ("a", "b"), "epochs": 2}}, resume=True)
    changed = {"settings": {"seed": 1, "layers": ("a", "b"), "epochs": 3}}
    with pytest.raises(records.RunFolderError, match="epochs is 2 there and 3 now"):
        folder.open(changed, resume=True)
    assert folder.open(changed, resume=True, may_differ=["epochs"]) is True


def test_a_file_or_a_folder_without_configuration_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(records.RunFolderError, match="is a file"):
        records.RunFolder(tmp_path / "file").open({"settings": {}}, resume=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "records.jsonl").write_text("")
    with pytest.raises(records.RunFolderError, match=r"without config\.json"):
        records.RunFolder(tmp_path / "run").open({"settings": {}}, resume=True)


def test_rows_come_back_without_a_line_that_was_cut_off(tmp_path):
    folder = folder_with(tmp_path)
    folder.append("records.jsonl", [{"epoch": 0, "v": 0.1}, {"epoch": 4, "v": None}])
    folder.append("records.jsonl", [{"epoch": 8, "v": 1}])
    with open(folder.path / "records.jsonl", "a") as file:
        file.write('{"epoch": 8, "v"')
    assert [row["epoch"] for row in folder.read("records.jsonl")] == [0, 4, 8]
    assert [row["epoch"] for row in folder.keep_until("records.jsonl", 4)] == [0, 4]
    assert (folder.path / "records.jsonl").read_text().count("\n") == 2


def test_rows_that_json_cannot_hold_are_refused(tmp_path):
    folder = folder_with(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        folder.append("records.jsonl", [{"v": float("nan")}])


def test_checkpoints_return_what_was_saved_and_keep_the_last(tmp_path):
    folder = folder_with(tmp_path)
    assert folder.last_epoch() is None
    none = jnp.zeros((2, 0))  # as the closed form of a network that has none
    like = {"c": ClassifierState({"w": jnp.zeros(3)}, (jnp.zeros(2), none), jnp.int32(0))}
    for epoch in (0, 4, 8):
        state = {
            "c": ClassifierState(
                {"w": jnp.arange(3.0) + epoch}, (jnp.ones(2) * epoch, none), jnp.int32(epoch)
            )
        }
        folder.save(epoch, state)
    assert folder.last_epoch() == 8
    restored = folder.restore(8, like)
    assert isinstance(restored["c"], ClassifierState)
    np.testing.assert_array_equal(restored["c"].params["w"], [8.0, 9.0, 10.0])
    np.testing.assert_array_equal(restored["c"].opt_state[0], [8.0, 8.0])
    assert restored["c"].epoch == 8
    assert restored["c"].opt_state[1].shape == (2, 0)
    assert folder.epochs() == [4, 8]
    everything = records.RunFolder(tmp_path / "all", keep=None)
    for epoch in (0, 4, 8):
        everything.save(epoch, like)
    assert everything.epochs() == [0, 4, 8]
    shutil.rmtree(tmp_path / "all" / "checkpoints" / "4")
    with pytest.raises(records.RunFolderError, match=r"checkpoint 4 in .* is missing, damaged"):
        everything.restore(4, like)
    everything.save(4, like)  # earlier than the last one
    assert everything.epochs() == [0, 4, 8]
