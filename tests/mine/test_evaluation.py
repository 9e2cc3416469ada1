"""Bounds of networks on samples: all pairs, shuffles, labels, and the form that is reported."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import mine
from mine_jax.mine import evaluation, training

from .common import (
    CONFIG,
    KEY,
    all_scores,
    assert_held_out,
    equal_widths,
    labels,
    network,
    randomize,
    samples,
)

pytestmark = pytest.mark.usefixtures("compile_fast")


@pytest.mark.parametrize("mapper", ["vmap", "map"])
def test_evaluate_stack_equals_definition_over_all_pairs(mapper, monkeypatch):
    monkeypatch.setitem(evaluation.BLOCK_ROWS, True, 16)  # three blocks, the last one not full
    config = replace(CONFIG, mapper=mapper)
    x, z = equal_widths(41)
    state = randomize(mine.init(KEY, x, z, config))
    for form in ("donsker_varadhan", "infonce"):
        result = mine.evaluate(jax.random.key(3), state, x, z, config, form)
        for i, name in enumerate(("narrow", "wide")):
            matrix = all_scores(network(state.average, i), network(state.gaussian, i), x, z[name])
            assert_held_out(network(result, i), matrix, form, rtol=1e-3)


def test_evaluate_concatenated_nwj_equals_definition():
    config = replace(CONFIG, network="concatenated", bound="nwj")
    x, z = samples()[0][:20], samples()[1]["narrow"][:20]
    state = randomize(mine.init(KEY, x, z, config))
    result = mine.evaluate(KEY, state, x, z, config)
    matrix = all_scores(network(state.average), network(state.gaussian), x, z, config)
    assert_held_out(result, matrix, "nwj", rtol=1e-3)


def test_evaluate_labels_sums_over_classes():
    x, y = samples()[0], labels()
    state = randomize(mine.init(KEY, x, y, CONFIG))
    scores = all_scores(network(state.average), network(state.gaussian), x, np.eye(3))
    each = (scores * y).sum(1) - np.log(np.exp(scores) @ y.mean(0))
    result = mine.evaluate(KEY, state, x, y, CONFIG)
    np.testing.assert_allclose(result.nats, each.mean(), rtol=1e-4)
    np.testing.assert_allclose(result.stderr, each.std(ddof=1) / np.sqrt(240), rtol=1e-4)
    np.testing.assert_allclose(result.influence, each, rtol=1e-3, atol=1e-4)


def test_evaluate_unknown_form_raises():
    with pytest.raises(ValueError, match=r"form must be one of .*got 'club'"):
        mine.evaluate(KEY, None, *samples(), CONFIG, "club")


def test_evaluate_values_few_shuffles_equals_definition():
    config = replace(CONFIG, network="concatenated")
    x, z = samples()[0][:12], samples()[1]["narrow"][:12]
    state = randomize(mine.init(KEY, x, z, config))
    data, rows = training.check_data(x, z), jnp.arange(12)[None]
    got = evaluation.evaluate_values(state, np.array([True]), data, rows, config, shuffles=3)
    matrix = all_scores(network(state.average), network(state.gaussian), x, z, config)
    i, joint = np.arange(12), np.diagonal(matrix)
    marginal = np.exp([matrix[i, (i + s) % 12] for s in evaluation.even_shifts(12, 3)])
    candidates = np.exp(joint) / 12 + marginal.mean(0) * 11 / 12
    expected = np.mean(joint) - np.log(marginal.mean()), np.mean(joint - np.log(candidates))
    np.testing.assert_allclose(np.ravel(got), expected, rtol=1e-4)


@pytest.mark.parametrize(("n", "number"), [(2, 5), (10, 1), (10, 4), (10, 64)])
def test_even_shifts_are_different_and_leave_no_sample_in_place(n, number):
    shifts = evaluation.even_shifts(n, number)
    assert len(shifts) == len(set(shifts.tolist())) == min(number, n - 1)
    assert set(shifts.tolist()) <= set(range(1, n))


@pytest.mark.parametrize(
    ("form", "values", "expected", "infonce"),
    [
        ("auto", (1.0, 0.9), 1.0, False),
        ("auto", (0.8, 0.9), 0.9, True),
        ("auto", (5.0, 3.0), np.log(100) - 1, True),  # limited to the largest trusted value
        ("auto", (np.inf, 3.0), 3.0, True),
        ("auto", (np.nan, 3.0), 3.0, True),
        ("auto", (-np.inf, np.nan), np.nan, True),
        ("infonce", (1.0, 0.9), 0.9, True),
        ("donsker_varadhan", (5.0, 3.0), 5.0, False),
    ],
)
def test_validation_nats_is_larger_trusted_form(monkeypatch, form, values, expected, infonce):
    forms = tuple(np.array([value]) for value in values)
    monkeypatch.setattr(evaluation, "evaluate_values", lambda *_: forms)
    config, data = replace(CONFIG, form=form), training.check_data(*samples())
    value = evaluation.validation_nats(None, None, data, None, 100, config)
    np.testing.assert_allclose(value, [expected])
    assert evaluation.uses_infonce(*forms, 100, config) == [infonce]
