"""`fit`: networks of a stack beside the same networks alone, patience, best and last states."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from mine_jax import mine
from mine_jax.mine import MineConfig, MineState, fitting, stack, training

from .common import (
    CONFIG,
    KEY,
    Bilinear,
    assert_trees_equal,
    equal_widths,
    labels,
    network,
    samples,
)

pytestmark = pytest.mark.usefixtures("compile_fast")

TRAIN, VALIDATION, TEST = np.arange(120), np.arange(120, 200), np.arange(200, 240)
SMALL = replace(
    CONFIG, network=Bilinear(), bound="mine", partition_weight=0.3, reported_state="last"
)
MAPPERS = pytest.mark.parametrize("mapper", ["vmap", "map"])


def fit(state, x, z, config=SMALL, key=1, **options):
    return mine.fit(jax.random.key(key), state, x, z, TRAIN, VALIDATION, config, **options)


@functools.cache
def small_stack(mapper="map"):
    """A state whose first network has trained for 60 steps, and the fit that it starts."""
    x, z = equal_widths(240)
    config = replace(SMALL, mapper=mapper)
    fresh = mine.init(KEY, x, z, config)
    warm, _ = fit(stack.select(fresh, slice(0, 1)), x, z["narrow"])
    warm, _ = fit(warm, x, z["narrow"])
    start = stack.concatenate([warm, stack.select(fresh, slice(1, 2))])
    return start, *fit(start, x, z, config)


# A stack beside its networks alone.


@MAPPERS
def test_fit_warm_and_fresh_networks_equal_separate_fits(mapper):
    x, z = equal_widths(240)
    start, state, info = small_stack(mapper)
    for i, name in enumerate(("narrow", "wide")):
        alone, separate = fit(stack.select(start, slice(i, i + 1)), x, z[name])
        got = network(state, i)
        np.testing.assert_array_equal(got.steps, [90, 30][i])
        np.testing.assert_array_equal(got.opt_state[0].count, [90, 30][i])
        np.testing.assert_allclose(got.log_partition, alone.log_partition[0], atol=1e-4)
        np.testing.assert_allclose(info.validation_nats[:, i], separate.validation_nats, atol=1e-4)
        np.testing.assert_allclose(info.batch_nats[:, i], separate.batch_nats, atol=1e-4)
        for leaf, other in zip(*map(jax.tree.leaves, (got.params, alone.params)), strict=True):
            np.testing.assert_allclose(leaf, other[0], rtol=1e-3, atol=1e-4)


@MAPPERS
def test_fit_padded_network_equals_separate_fit(mapper):
    x, z = samples()
    config = replace(CONFIG, mapper=mapper)
    alone = mine.init(KEY, x, z["narrow"], CONFIG)
    part = jax.tree.map(lambda leaf: leaf + 0.3, alone.gaussian)
    alone = alone._replace(gaussian=part)
    both = mine.init(KEY, x, z, config)
    narrow = stack.resize(alone, stack.select(both, slice(0, 1)))
    start = stack.concatenate([narrow, stack.select(both, slice(1, 2))])
    state, info = fit(start, x, z, config)
    _, separate = fit(alone, x, z["narrow"], CONFIG)
    np.testing.assert_allclose(info.validation_nats[:, 0], separate.validation_nats, atol=1e-4)
    np.testing.assert_allclose(info.batch_nats[:, 0], separate.batch_nats, atol=1e-4)
    for tree in (state.params, state.average):
        encoder = network(tree)["z_encoder"]
        for name in ("columns", "squares"):
            np.testing.assert_array_equal(encoder[name][3:], 0)
    # The first network learnt something, and the second one found nothing.
    assert info.validation_nats[:, 0].max() > 0.5
    assert info.validation_nats[:, 1].max() < 0.2


@MAPPERS
def test_train_chunk_inactive_network_stays_as_it_is(mapper):
    start, *_ = small_stack(mapper)
    data = training.check_data(*equal_widths(240))
    batches = training.draw_batches(KEY[None], TRAIN[None], SMALL)
    rate, fold = np.full(2, 1e-2, np.float32), np.zeros(2, np.int32)
    config = replace(SMALL, mapper=mapper)
    chunks = [
        training.train_chunk(start, np.array(active), rate, KEY[None], batches, fold, data, config)
        for active in ([True, True], [True, False])
    ]
    (both, both_nats), (first, first_nats) = chunks
    assert_trees_equal(network(first, 1), network(start, 1))
    assert_trees_equal(network(first, 0), network(both, 0))
    assert first_nats[0] == both_nats[0]
    assert np.isnan(first_nats[1])


# A fit.


def test_fit_second_time_compiles_nothing(compilations):
    x, z = equal_widths(240)
    config = replace(SMALL, max_steps=20, min_improvement=0.5)  # unlike any other test
    state = mine.init(KEY, x, z, config)
    with compilations() as first:
        state, _ = fit(state, x, z, config)
    with compilations() as second:
        fit(state, x + 1, z, config, key=2)
    assert first
    assert not second


def test_fit_equal_keys_give_equal_fits():
    start, state, info = small_stack()
    reports = []
    again, same = fit(start, *equal_widths(240), on_check=lambda *report: reports.append(report))
    assert_trees_equal((again, same), (state, info))
    _, other = fit(start, *equal_widths(240), key=2)
    assert np.all(other.batch_nats[1] != info.batch_nats[1])
    assert [report[:2] for report in reports] == [(10, 30), (20, 30), (30, 30)]
    for i, (_, _, report) in enumerate(reports):
        np.testing.assert_array_equal(report.validation_nats, info.validation_nats[: i + 2])


def test_fit_uses_only_its_rows():
    start, state, info = small_stack()
    x, z = equal_widths(240)
    changed = {name: value.copy() for name, value in z.items()}
    for value in changed.values():
        value[TEST] = 1e6
    assert_trees_equal(fit(start, x, changed), (state, info))
    changed["wide"][VALIDATION[3]] = 7.0
    _, validated = fit(start, x, changed)
    np.testing.assert_array_equal(validated.batch_nats, info.batch_nats)
    assert np.all((validated.validation_nats[1] != info.validation_nats[1]) == [False, True])
    changed["wide"][TRAIN[3]] = 7.0
    _, trained = fit(start, x, changed)
    assert np.all((trained.batch_nats[1] != info.batch_nats[1]) == [False, True])


def test_fit_diverged_network_returns_to_best_and_leaves_others_alone():
    start, state, _ = small_stack()
    x, z = equal_widths(240)
    broken = z | {"narrow": z["narrow"].copy()}
    broken["narrow"][TRAIN[5]] = np.inf
    after, info = fit(start, x, broken)
    np.testing.assert_array_equal(info.finite, [False, True])
    # Not finite once: a learning-rate drop. Not finite twice: the end.
    np.testing.assert_array_equal(info.steps, [20, 30])
    assert_trees_equal(network(after, 0), network(start, 0))
    assert_trees_equal(network(after, 1), network(state, 1))


@pytest.mark.parametrize("reported_state", ["best", "last"])
def test_fit_huge_learning_rate_ends_with_finite_state(reported_state):
    config = replace(SMALL, learning_rate=1e30, reported_state=reported_state)
    x, z = equal_widths(240)
    state, info = fit(mine.init(KEY, x, z["narrow"], config), x, z["narrow"], config)
    assert not info.finite
    for leaf in jax.tree.leaves((state.params, state.average)):
        assert np.all(np.isfinite(leaf))


def test_fit_labels_learns_less_than_their_entropy():
    x, y = samples()[0], labels()
    _, info = fit(mine.init(KEY, x, y, CONFIG), x, y, CONFIG)
    fractions = y.mean(0)
    entropy = -(fractions * np.log(fractions)).sum()
    assert 0.2 < info.validation_nats.max() < entropy
    assert info.steps.shape == info.finite.shape == ()


@pytest.mark.parametrize(
    ("train", "validation"), [(TRAIN[:1], TRAIN), (TRAIN, TRAIN[:1]), (np.ones((2, 3), int), TRAIN)]
)
def test_fit_bad_rows_are_named_by_shape(train, validation):
    with pytest.raises(ValueError, match="train_rows and validation_rows must be") as error:
        mine.fit(KEY, small_stack()[0], *equal_widths(240), train, validation, SMALL)
    assert f"{train.shape} and {validation.shape}" in str(error.value)


# Decisions, on given validation values: no network is trained.


@pytest.fixture
def scripted(monkeypatch):
    """A fit with given validation values; its state counts steps. Returns its rates, too."""

    def run(*values, **changes):
        config = replace(CONFIG, **{"patience": 2, "min_improvement": 0.01} | changes)
        script, rates = iter(values), []

        def train_chunk(state, active, rate, keys, batches, *_):
            assert batches.shape == (1, config.check_every, 32)
            rates.append(np.where(active, rate / config.learning_rate, 0))
            return state._replace(steps=state.steps + 10), np.zeros(2)

        def validation_nats(*_):
            return np.array(np.broadcast_to(next(script), 2), np.float32)

        monkeypatch.setattr(training, "train_chunk", train_chunk)
        monkeypatch.setattr(fitting, "validation_nats", validation_nats)
        start = MineState({}, {}, (), None, np.zeros(2), np.zeros(2, int))
        rows, fold = (TRAIN[None], VALIDATION[None]), np.zeros(2, int)
        state, info = fitting.fit_stack(KEY[None], start, None, *rows, fold, 40, config)
        return state.steps, info, np.array(rates)

    return run


def test_fit_without_improvement_drops_rate_and_then_ends(scripted):
    first = [0.0, 0.5, 0.505, 0.4, 0.3, 0.2, 0.1]
    second = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    steps, info, rates = scripted(*zip(first, second, strict=True), max_steps=60)
    # 0.505 is better than 0.5 but no improvement; then 0.4: a drop. 0.3, 0.2: the end.
    np.testing.assert_allclose(rates[:, 0], [1, 1, 1, 1 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(rates[:, 1], 1, rtol=1e-6)
    np.testing.assert_array_equal(info.steps, [50, 60])
    np.testing.assert_array_equal(info.best_step, [20, 60])
    np.testing.assert_array_equal(info.converged, [True, False])
    np.testing.assert_array_equal(info.steps_at, np.arange(0, 70, 10))
    np.testing.assert_allclose(info.validation_nats[:, 0], [*first[:-1], 0.2])
    np.testing.assert_array_equal(steps, [20, 60])


def test_fit_last_state_is_reported_even_if_an_earlier_one_was_better(scripted):
    published = MineConfig.published()
    changes = {"reported_state": published.reported_state, "lr_drops": published.lr_drops}
    steps, info, rates = scripted(0.0, 0.5, 0.4, 0.3, 0.9, max_steps=60, **changes)
    np.testing.assert_allclose(rates, np.ones((3, 2)), rtol=1e-6)
    np.testing.assert_array_equal(steps, [30, 30])
    np.testing.assert_array_equal(info.best_step, [10, 10])
    assert info.converged.all()


def test_fit_improvement_restarts_patience(scripted):
    _, info, rates = scripted(0.0, 0.1, 0.05, 0.2, 0.15, 0.3, 0.2, max_steps=60)
    np.testing.assert_allclose(rates, 1, rtol=1e-6)
    np.testing.assert_array_equal(info.best_step, [50, 50])
    assert not info.converged.any()


def test_fit_without_any_improvement_returns_first_state(scripted):
    steps, info, rates = scripted(0.5, 0.4, 0.3, 0.2, 0.1, 9.0, max_steps=1000)
    assert len(rates) == 4
    np.testing.assert_array_equal(info.steps, [40, 40])
    np.testing.assert_array_equal(steps, [0, 0])
    assert info.converged.all()


def test_fit_max_steps_is_rounded_up_to_whole_checks(scripted):
    _, info, _ = scripted(*[0.1 * i for i in range(10)], max_steps=41)
    np.testing.assert_array_equal(info.steps, [50, 50])
    assert not info.converged.any()


@pytest.mark.parametrize("broken", [np.nan, -np.inf])
def test_fit_values_not_finite_drop_rate_at_once(scripted, broken):
    values = [(0.0, 0.0), (0.2, 0.1), (broken, 0.2), (0.3, 0.3), (broken, 0.4), (0.9, 0.5)]
    _, info, rates = scripted(*values, max_steps=50)
    np.testing.assert_allclose(rates[:, 0], [1, 1, 1 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_array_equal(info.finite, [False, True])
    np.testing.assert_array_equal(info.best_step, [30, 50])


def test_fit_start_not_finite_is_replaced_by_first_finite_state(scripted):
    _, info, _ = scripted((np.nan, 0.0), (-1.0, 0.0), (-0.5, 0.1), max_steps=20)
    np.testing.assert_array_equal(info.best_step, [20, 20])
    np.testing.assert_array_equal(info.finite, [False, True])
