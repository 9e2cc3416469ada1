"""Bounds of networks on samples: all pairs, shuffles, labels, and the form that is reported."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import mine
from mine_jax.mine import blocks, checks, evaluation

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
    monkeypatch.setitem(blocks.BLOCK_ROWS, True, 16)  # three blocks, the last one not full
    config = replace(CONFIG, mapper=mapper)
    x, z = equal_widths(41)
    state = randomize(mine.init(KEY, x, z, config))
    for form in ("donsker_varadhan", "infonce"):
        result = mine.evaluate(jax.random.key(3), state, x, z, config, form)
        for i, name in enumerate(("narrow", "wide")):
            matrix = all_scores(network(state.average, i), network(state.gaussian, i), x, z[name])
            assert_held_out(network(result, i), matrix, form, rtol=1e-3)


@pytest.mark.parametrize("mapper", ["vmap", "map"])
def test_evaluate_rows_of_active_networks_alone(mapper):
    config = replace(CONFIG, mapper=mapper)
    x, z = equal_widths(41)
    state, data = randomize(mine.init(KEY, x, z, config)), checks.check_data(x, z)
    rows = np.stack([np.arange(41)] * 2)
    active = np.array([False, True])
    every = evaluation.evaluate_rows(state, data, rows, config)
    some = evaluation.evaluate_rows(state, data, rows, config, None, active)
    for form, expected in zip(some, every, strict=True):
        for got, wanted in zip(form, expected, strict=True):
            np.testing.assert_allclose(got[1], wanted[1], rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(got[0], np.zeros_like(wanted[0]))


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


def test_evaluate_stack_of_labels_weighs_each_by_its_own_classes():
    x, y = (
        samples()[0],
        {"common": labels(), "rare": np.eye(3, dtype=np.uint8)[[0, 0, 1, 0, 2] * 48]},
    )
    state = randomize(mine.init(KEY, x, y, CONFIG))
    result = mine.evaluate(KEY, state, x, y, CONFIG)
    for i, of in enumerate(y.values()):
        scores = all_scores(network(state.average, i), network(state.gaussian, i), x, np.eye(3))
        each = (scores * of).sum(1) - np.log(np.exp(scores) @ of.mean(0))
        np.testing.assert_allclose(result.nats[i], each.mean(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["separable", "concatenated"])
def test_evaluate_rows_normalized_equals_definition(kind, monkeypatch):
    monkeypatch.setitem(blocks.BLOCK_ROWS, kind == "separable", 8)  # the last block is not full
    config = replace(CONFIG, network=kind)
    x, z = equal_widths(37)
    state = randomize(mine.init(KEY, x, z, config))
    data = checks.check_data(x, z)
    rows, train = (jnp.stack([part, part[::-1]]) for part in np.split(np.arange(37), [22]))
    forms = evaluation.evaluate_rows(state, data, rows, config, train)
    for i, name in enumerate(("narrow", "wide")):
        matrix = all_scores(
            network(state.average, i), network(state.gaussian, i), x, z[name], config
        )
        partition = np.log(np.exp(matrix[:, train[i]]).sum(axis=1, keepdims=True))
        matrix = (matrix - np.logaddexp(matrix, partition))[np.ix_(rows[i], rows[i])]
        assert matrix.max() < 0
        for form, values in zip(evaluation.FORMS, forms, strict=True):
            assert_held_out(network(values, i), matrix, form, rtol=1e-3)
    # What depends on x alone cancels; in the scores as they are it does not.
    part = state.gaussian
    shifted = state._replace(gaussian=part._replace(x_square=part.x_square + 0.2))
    again = evaluation.evaluate_rows(shifted, data, rows, config, train)
    for values, expected in zip(again, forms, strict=True):
        np.testing.assert_allclose(values.nats, expected.nats, atol=1e-4)
    plain, other = (
        evaluation.evaluate_rows(each, data, rows, config)[0].nats for each in (state, shifted)
    )
    assert np.abs(np.asarray(plain) - np.asarray(other)).max() > 0.05


def test_evaluate_unknown_form_raises():
    with pytest.raises(ValueError, match=r"form must be one of .*got 'club'"):
        mine.evaluate(KEY, None, *samples(), CONFIG, "club")


def test_evaluate_values_few_shuffles_equals_definition():
    config = replace(CONFIG, network="concatenated")
    x, z = samples()[0][:12], samples()[1]["narrow"][:12]
    state = randomize(mine.init(KEY, x, z, config))
    data, rows = checks.check_data(x, z), jnp.arange(12)[None]
    got = evaluation.evaluate_values(state, np.array([True]), data, rows, config, shuffles=3)
    matrix = all_scores(network(state.average), network(state.gaussian), x, z, config)
    i, joint = np.arange(12), np.diagonal(matrix)
    marginal = np.exp([matrix[i, (i + s) % 12] for s in np.asarray(evaluation.even_shifts(12, 3))])
    candidates = np.exp(joint) / 12 + marginal.mean(0) * 11 / 12
    expected = np.mean(joint) - np.log(marginal.mean()), np.mean(joint - np.log(candidates))
    np.testing.assert_allclose(np.ravel(got), expected, rtol=1e-4)


@pytest.mark.parametrize(("n", "number"), [(2, 5), (10, 1), (10, 4), (10, 64)])
def test_even_shifts_are_different_and_leave_no_sample_in_place(n, number):
    shifts = np.asarray(evaluation.even_shifts(n, number))
    used = shifts[shifts < n]
    assert len(used) == len(set(used.tolist())) == min(number, n - 1)
    assert set(used.tolist()) <= set(range(1, n))
    if number > 1:
        assert used.max() == n - 1


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
    calls = []
    monkeypatch.setattr(evaluation, "evaluate_values", lambda *call: calls.append(call) or forms)
    config, data = replace(CONFIG, form=form), checks.check_data(*samples())
    rows, train_rows = np.arange(20)[None], np.arange(20, 90)[None]
    for normalize in (False, True):
        config = replace(config, normalize=normalize)
        value = evaluation.validation_nats(None, None, data, rows, train_rows, 100, config)
        np.testing.assert_allclose(value, [expected])
    assert evaluation.uses_infonce(*forms, 100, config) == [infonce]
    # Normalized scores are so over as many training samples, all pairs of them.
    assert calls[0][-1] is None
    np.testing.assert_array_equal(calls[1][-1], train_rows[:, :20])
    assert calls[1][-2] is None


@pytest.mark.parametrize(
    ("changes", "of_pairs", "of_labels"),
    [
        ({}, max(np.log(50), np.log(400) - 1), np.inf),
        ({"form": "infonce"}, np.log(50), np.inf),
        ({"form": "donsker_varadhan"}, np.inf, np.inf),
        ({"bound": "nwj"}, np.inf, np.inf),
        ({"label_marginal": "shuffled", "form": "infonce"}, np.log(50), np.log(50)),
    ],
)
def test_largest_validation_nats_is_that_of_the_form(changes, of_pairs, of_labels):
    x = samples()[0]
    for z, largest in ((x, of_pairs), (labels(), of_labels)):
        data = checks.check_data(x, z)
        got = evaluation.largest_validation_nats(data, 50, 400, replace(CONFIG, **changes))
        assert got == pytest.approx(largest)
