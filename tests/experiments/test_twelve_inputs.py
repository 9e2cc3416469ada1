"""The task of twelve inputs against what is known of it, and its program on few steps."""

import math

import numpy as np
import pytest
from conftest import load_experiment, set_flags

import mine_jax

script = load_experiment("twelve_inputs")
TINY = {"epochs": ["2"], "max_steps": 20, "compilation_cache": ""}


def test_task_has_the_information_of_the_paper():
    task = script.twelve_inputs()
    assert len(np.unique(task.inputs, axis=0)) == 4096
    assert script.information(task.probability) / math.log(2) == pytest.approx(0.99, abs=1e-6)
    assert task.probability.mean() == pytest.approx(0.5, abs=0.02)


def test_labels_are_those_of_the_published_data():
    # Counts of label 1 in the data file of Shwartz-Ziv and Tishby, by number of ones.
    published = [0, 0, 0, 0, 0, 60, 532, 732, 495, 220, 66, 12, 1]
    task = script.twelve_inputs()
    ones = (task.inputs > 0).sum(axis=1)
    labels = task.score > script.THRESHOLD
    assert [int(labels[ones == k].sum()) for k in range(13)] == published


def test_score_is_the_same_for_all_rotations():
    # A third of a turn about (1, 1, 1) permutes the coordinates, hence the blocks of four corners.
    task = script.twelve_inputs()
    turned = np.roll(task.inputs, 4, axis=1)
    place = ((turned > 0) << np.arange(12)).sum(axis=1)
    assert not np.array_equal(place, np.arange(4096))
    np.testing.assert_allclose(task.score[place], task.score, atol=1e-9)


def test_information_of_known_distributions():
    assert script.information(np.array([0.0, 1.0])) == pytest.approx(math.log(2))
    assert script.information(np.array([0.3, 0.3])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("epochs", [["2", "1"], ["one"], ["-1"]])
def test_wrong_epochs_are_refused(tmp_path, epochs):
    folder = tmp_path / "run"
    with (
        set_flags(script, out_dir=str(folder), **TINY | {"epochs": epochs}),
        pytest.raises(SystemExit, match="--epochs must be"),
    ):
        script.experiment()
    assert not folder.exists()


def test_program_writes_plane_table_and_figure(tmp_path, compile_fast):
    folder = tmp_path / "run"
    with set_flags(script, out_dir=str(folder), **TINY):
        script.experiment()
        with pytest.raises(SystemExit, match="already holds a run"):
            script.experiment()
    plane = mine_jax.load(folder)
    assert len(plane.records) == 6 * 2
    assert [row["epoch"] for row in plane.training] == [2]
    for row in plane.records:
        assert row["reference_low_nats"] is None
        if row["variable"] == "x":
            assert 0 < row["reference_nats"] < 1 / (2 * row["noise_level"] ** 2)
            # Bins over all patterns, most of which have a cell of their own in the first layer.
            assert row["layer"] != "tanh1" or row["bins_nats"] == pytest.approx(
                math.log(4096), abs=0.01
            )
        else:
            assert row["reference_nats"] <= plane.description["class_entropy_nats"]
    assert (folder / "twelve_inputs.png").exists()
    text = (folder / "twelve_inputs.md").read_text()
    assert "0.6862 nats (0.990 bits)" in text
    assert "| 2 | softmax |" in text
