"""Rows that end in padding give what the rows alone give."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from mine_jax import mine
from mine_jax.mine import blocks, checks, chunks, evaluation, padding, training
from mine_jax.mine.stack import Data

from .common import BILINEAR, CONFIG, KEY, equal_widths, labels, network, randomize, samples

pytestmark = pytest.mark.usefixtures("compile_fast")

R, M, PADDED = 41, 60, 77  # rows to evaluate, rows to normalize over, and either with padding
CONCATENATED = replace(CONFIG, network="concatenated")
CASES = {
    "separable": CONFIG,
    "vmap": replace(CONFIG, mapper="vmap"),
    "concatenated": CONCATENATED,
    "custom": BILINEAR,
    "nwj": replace(CONFIG, bound="nwj"),
    "labels": CONFIG,
    "labels nwj": replace(CONFIG, bound="nwj"),
    "labels shuffled": replace(CONFIG, label_marginal="shuffled"),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, of which the last ones have nothing but padding."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", {True: 16, False: 8})
    monkeypatch.setattr(blocks, "BLOCK_COLUMNS", {"cpu": 16, "other": 16})


def stacks(case):
    """A state, and samples without and with rows of zeros behind them."""
    config = CASES[case]
    x, z = equal_widths(120)
    z = {"a": labels()[:120], "b": labels()[60:180]} if case.startswith("labels") else z
    state = randomize(mine.init(KEY, x, z, config))

    alone = checks.check_data(x, z)
    sides = (
        side._replace(measured=np.pad(side.measured, ((0, 0), (0, 30), (0, 0)))) for side in alone
    )
    return config, state, alone, Data(*sides)


def rows_of(number, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(120)[:number] for _ in range(2)]).astype(np.int32)


def assert_close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("case", "over"),
    [(case, None) for case in CASES]
    + [(case, M) for case in ("separable", "vmap", "concatenated", "custom")],
)
def test_evaluate_rows_with_padding_equals_rows_alone(case, over):
    config, state, alone, with_padding = stacks(case)
    rows, train = rows_of(R), None if over is None else rows_of(over, 1)
    expected = evaluation.evaluate_rows(state, alone, rows, config, train)
    padded_train = None if train is None else padding.pad_rows(train, PADDED)
    got = evaluation.evaluate_rows(
        state, with_padding, padding.pad_rows(rows, PADDED), config, padded_train
    )
    for form, wanted in zip(got, expected, strict=True):
        assert np.all(np.isfinite(wanted.influence))
        assert np.ptp(wanted.influence) > 0.1
        assert form.influence.shape == (2, PADDED)
        assert_close(form.nats, wanted.nats)
        assert_close(form.stderr, wanted.stderr)
        assert_close(form.influence[:, :R], wanted.influence)
    active = np.array([False, True])
    values = evaluation.evaluate_values(
        state, active, with_padding, padding.pad_rows(rows, PADDED), config, None, padded_train
    )
    for value, wanted in zip(values, expected, strict=True):
        assert value[0] == 0
        assert_close(value[1], wanted.nats[1])


@pytest.mark.parametrize("number", [R, 5])
def test_evaluate_values_of_shuffles_with_padding_equals_rows_alone(number):
    """Also where there are fewer rows than shuffles."""
    config, state, alone, with_padding = stacks("concatenated")
    rows, active = rows_of(number), np.ones(2, bool)
    expected = evaluation.evaluate_values(state, active, alone, rows, config, 8)
    padded = padding.pad_rows(rows, PADDED)
    got = evaluation.evaluate_values(state, active, with_padding, padded, config, 8)
    for value, wanted in zip(got, expected, strict=True):
        assert_close(value, wanted)


@pytest.mark.parametrize("normalize", [False, True])
def test_validation_nats_with_padding_equals_rows_alone(normalize):
    config, state, alone, with_padding = stacks("separable")
    config = replace(config, normalize=normalize)
    active = np.ones(2, bool)
    parts = rows_of(R), rows_of(M, 1)
    wanted = evaluation.validation_nats(state, active, alone, *parts, 100, config)
    padded = (padding.pad_rows(part, PADDED) for part in parts)
    got = evaluation.validation_nats(state, active, with_padding, *padded, 100, config)
    assert_close(got, wanted)


def test_class_weights_leave_padding_out():
    config, _, alone, with_padding = stacks("labels")
    for i in range(2):
        got, wanted = (training.class_weights(data, i, config) for data in (with_padding, alone))
        assert_close(got, wanted)
        assert_close(wanted, network(alone.z.measured, i).mean(0))


def test_draw_batches_leave_padding_out():
    rows = rows_of(M)
    config = replace(CONFIG, batch_size=20, check_every=6)
    keys = jax.random.split(KEY)
    batches = chunks.draw_batches(keys, 0, padding.pad_rows(rows, PADDED), config)
    assert batches.shape == (2, 6, 20)
    for fold in range(2):
        for drawn in np.split(batches[fold], 2):  # two passes
            np.testing.assert_array_equal(np.sort(drawn.ravel()), np.sort(rows[fold]))
    np.testing.assert_array_equal(batches, chunks.draw_batches(keys, 0, rows, config))
    assert not np.array_equal(batches, chunks.draw_batches(keys, 1, rows, config))


def test_first_rows_are_no_padding():
    rows = padding.pad_rows(np.arange(6).reshape(2, 3), 5)
    np.testing.assert_array_equal(rows, [[0, 1, 2, -1, -1], [3, 4, 5, -1, -1]])
    assert padding.num_rows(rows) == 3
    np.testing.assert_array_equal(padding.first_rows(rows, 2, 3), [[0, 1, -1], [3, 4, -1]])
    np.testing.assert_array_equal(padding.first_rows(rows, 4, 4)[0], [0, 1, 2, -1])
    np.testing.assert_array_equal(padding.pad_rows(rows, 2), rows)


@pytest.mark.parametrize(("number", "power"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048)])
def test_next_power_of_two(number, power):
    assert padding.next_power_of_two(number) == power


def test_evaluate_in_blocks_of_any_size_is_the_same(monkeypatch):
    x, z = samples()[0][:50], samples()[1]["narrow"][:50]
    state = randomize(mine.init(KEY, x, z, CONFIG))
    many = mine.evaluate(KEY, state, x, z, CONFIG)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", {True: 500, False: 8})
    monkeypatch.setattr(blocks, "BLOCK_COLUMNS", {"cpu": 500, "other": 500})
    # Another configuration, so that it is compiled anew.
    one = mine.evaluate(KEY, state, x, z, replace(CONFIG, learning_rate=0.0321))
    for got, wanted in zip(one, many, strict=True):
        assert_close(got, wanted)
