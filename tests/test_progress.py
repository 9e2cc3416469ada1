"""Tests of progress bars and of what reports to them."""

import jax
import numpy as np

from mine_jax.estimate import split
from mine_jax.estimate.candidates import candidates
from mine_jax.estimate.variables import read_variable
from mine_jax.mine import MineConfig
from mine_jax.progress import progress_bar


def test_progress_bar_shows_stages_and_steps_and_passes_them_on(capsys):
    calls = []
    with progress_bar("name", True, lambda *values: calls.append(values)) as report:
        report(0, 100, "preparing")
        shown = capsys.readouterr().err
        report(50, 100, "z 0.10")
        report(100, 400, "z 0.20")  # the maximum may grow
    assert "name" in shown
    assert "preparing" in shown
    assert calls == [(0, 100, "preparing"), (50, 100, "z 0.10"), (100, 400, "z 0.20")]


def test_progress_bar_that_is_not_shown_is_silent(capsys):
    calls = []
    with progress_bar("name", False, lambda *values: calls.append(values)) as report:
        report(0, 100, "preparing")
        report(50, 100, "z 0.10")
    with progress_bar("name", False) as report:
        report(50, 100, "z 0.10")
    assert capsys.readouterr() == ("", "")
    assert len(calls) == 2


def test_candidates_tell_what_they_prepare():
    rng = np.random.default_rng(0)
    rows = split(jax.random.key(0), 60, MineConfig())
    many = read_variable(rng.normal(size=(60, 200)))
    images = read_variable(rng.normal(size=(60, 8, 8)))
    stages = []
    candidates(many, images, rows, ("x", "z"), MineConfig(), stages.append)
    assert stages == ["eigenmaps of x", "patch features of z", "eigenmaps of z"]
    stages.clear()
    candidates(many, many, rows, ("x", "z"), MineConfig(), stages.append)
    assert stages == ["eigenmaps of x and z", "canonical directions of x and z"]
