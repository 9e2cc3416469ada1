"""`fit`: networks of a stack beside the same networks alone, patience, best and last states."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from mine_jax import mine
from mine_jax.mine import MineConfig, MineState, checks, chunks, fitting, stack

from .common import (
    BILINEAR,
    CONFIG,
    KEY,
    assert_trees_equal,
    close,
    equal_widths,
    labels,
    network,
    samples,
)

pytestmark = pytest.mark.usefixtures("compile_fast")

TRAIN, VALIDATION, TEST = np.arange(120), np.arange(120, 200), np.arange(200, 240)
SMALL = replace(BILINEAR, bound="mine", partition_weight=0.3, reported_state="last")
MAPPERS = pytest.mark.parametrize("mapper", ["vmap", "map"])


def fit(state, x, z, config=SMALL, key=1, **options):
    return mine.fit(jax.random.key(key), state, x, z, TRAIN, VALIDATION, config, **options)


@functools.cache
def start():
    """A stack whose first network has trained for 60 steps, and whose second one is fresh."""
    x, z = equal_widths(240)
    fresh = mine.init(KEY, x, z, SMALL)
    warm = stack.select(fresh, slice(0, 1))
    for _ in range(2):
        warm, _ = fit(warm, x, z["narrow"])
    return stack.concatenate([warm, stack.select(fresh, slice(1, 2))])


@functools.cache
def fitted(mapper="map"):
    return fit(start(), *equal_widths(240), replace(SMALL, mapper=mapper))


@functools.cache
def fitted_alone(i, name):
    x, z = equal_widths(240)
    return fit(stack.select(start(), slice(i, i + 1)), x, z[name])


# A stack beside its networks alone.


@MAPPERS
def test_fit_warm_and_fresh_networks_equal_separate_fits(mapper):
    state, info = fitted(mapper)
    for i, name in enumerate(("narrow", "wide")):
        alone, separate = fitted_alone(i, name)
        got, expected = network(state, i), network(alone)
        assert got.steps == got.opt_state[0].count == (90, 30)[i]
        close(info.validation_nats[:, i], separate.validation_nats)
        close(info.batch_nats[:, i], separate.batch_nats)
        close(got.log_partition, expected.log_partition)
        jax.tree.map(functools.partial(close, rtol=1e-3), got.params, expected.params)


def test_fit_padded_network_equals_separate_fit():
    x, z = samples()
    both = mine.init(KEY, x, z, CONFIG)
    shapes = jax.eval_shape(lambda: mine.init(KEY, x, z["narrow"], CONFIG))
    alone = stack.resize(stack.select(both, slice(0, 1)), shapes)
    alone = alone._replace(gaussian=jax.tree.map(lambda leaf: leaf + 0.3, alone.gaussian))
    padded = stack.resize(alone, stack.select(both, slice(0, 1)))
    both = stack.concatenate([padded, stack.select(both, slice(1, 2))])
    state, info = fit(both, x, z, replace(CONFIG, mapper="vmap"))
    _, separate = fit(alone, x, z["narrow"], CONFIG)
    close(info.validation_nats[:, 0], separate.validation_nats)
    close(info.batch_nats[:, 0], separate.batch_nats)
    for tree in (state.params, state.average):
        encoder = network(tree)["z_encoder"]
        for name in ("columns", "squares"):
            np.testing.assert_array_equal(encoder[name][3:], 0)
    # The first network learnt something, and the second one found nothing.
    assert info.validation_nats[:, 0].max() > 0.3
    assert info.validation_nats[:, 1].max() < 0.2


@MAPPERS
def test_train_chunk_inactive_network_stays_as_it_is(mapper):
    before = start()
    data = checks.check_data(*equal_widths(240))
    batches = chunks.draw_batches(KEY[None], 0, TRAIN[None], SMALL)
    rate, fold = np.full(2, 1e-2, np.float32), np.zeros(2, np.int32)
    config = replace(SMALL, mapper=mapper)
    results = [
        chunks.train_chunk(
            before, np.array(active), rate, KEY[None], 0, batches, fold, data, config
        )
        for active in ([True, True], [True, False])
    ]
    (both, both_nats), (first, first_nats) = results
    assert_trees_equal(network(first, 1), network(before, 1))
    assert_trees_equal(network(first, 0), network(both, 0))
    assert first_nats[0] == both_nats[0]
    assert first_nats[1] == 0


def fit_in_parts(*ends, active=None):
    """A fit that pauses at these numbers of steps."""
    data, fold = checks.check_data(*equal_widths(240)), np.zeros(2, np.int32)
    task = fitting.Task(data, TRAIN[None], VALIDATION[None], fold, len(TEST), SMALL)
    progress = fitting.start_fit(start(), task)
    for end in ends:
        progress = fitting.continue_fit(jax.random.key(1)[None], progress, task, end, active)
    return progress


def test_continue_fit_in_parts_is_one_fit():
    whole, parts = fit_in_parts(None), fit_in_parts(10, 10, 20, None)
    assert_trees_equal(parts, whole)
    state, info = fitted()
    assert_trees_equal(fitting.chosen_state(parts, SMALL), state)
    assert_trees_equal(fitting.fit_info(parts, SMALL), info)
    np.testing.assert_array_equal(info.steps_at, [0, 10, 20, 30])
    # No part exceeds the limit.
    np.testing.assert_array_equal(fit_in_parts(1000).steps, [30, 30])


def test_continue_fit_of_active_networks_leaves_the_others():
    both, some = fit_in_parts(None), fit_in_parts(None, active=np.array([False, True]))
    before = fit_in_parts()
    for field in ("state", "best", "best_nats", "best_step", "steps", "waited", "drops", "done"):
        got, old, new = (getattr(each, field) for each in (some, before, both))
        assert_trees_equal(network(got, 0), network(old, 0))
        assert_trees_equal(network(got, 1), network(new, 1))
    nats = np.stack(some.validation_nats)
    np.testing.assert_array_equal(nats[:, 1], np.stack(both.validation_nats)[:, 1])
    np.testing.assert_array_equal(nats[:, 0], nats[0, 0])
    assert np.isnan(np.stack(some.batch_nats)[:, 0]).all()


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
    state, info = fitted()
    reports = []
    again, same = fit(start(), *equal_widths(240), on_check=lambda *report: reports.append(report))
    assert_trees_equal((again, same), (state, info))
    _, other = fit(start(), *equal_widths(240), key=2)
    assert np.all(other.batch_nats[1] != info.batch_nats[1])
    assert [report[:2] for report in reports] == [(10, 30), (20, 30), (30, 30)]
    for i, (_, _, report) in enumerate(reports):
        np.testing.assert_array_equal(report.validation_nats, info.validation_nats[: i + 2])


def test_fit_uses_only_its_rows():
    state, info = fitted()
    x, z = equal_widths(240)
    changed = {name: value.copy() for name, value in z.items()}
    for value in changed.values():
        value[TEST] = 1e6
    assert_trees_equal(fit(start(), x, changed), (state, info))
    changed["wide"][VALIDATION[3]] = 7.0
    _, validated = fit(start(), x, changed)
    np.testing.assert_array_equal(validated.batch_nats, info.batch_nats)
    assert np.all((validated.validation_nats[1] != info.validation_nats[1]) == [False, True])
    changed["wide"][TRAIN[3]] = 7.0
    _, trained = fit(start(), x, changed)
    assert np.all((trained.batch_nats[1] != info.batch_nats[1]) == [False, True])


@MAPPERS
@pytest.mark.parametrize("bad", [np.inf, 1e30])
def test_fit_diverged_network_returns_to_best_and_leaves_others_alone(mapper, bad):
    x, z = equal_widths(240)
    broken = z | {"narrow": z["narrow"].copy()}
    broken["narrow"][TRAIN[5]] = bad
    after, info = fit(start(), x, broken, replace(SMALL, mapper=mapper))
    np.testing.assert_array_equal(info.finite, [False, True])
    # Not finite once: a learning-rate drop. Not finite twice: the end.
    np.testing.assert_array_equal(info.steps, [20, 30])
    assert_trees_equal(network(after, 0), network(start(), 0))
    assert_trees_equal(network(after, 1), network(fitted(mapper)[0], 1))


def test_fit_huge_learning_rate_ends_with_finite_state():
    state, info = fit(start(), *equal_widths(240), replace(SMALL, learning_rate=1e30))
    assert not info.finite.any()
    for leaf in jax.tree.leaves((state.params, state.average)):
        assert np.all(np.isfinite(leaf))


def test_fit_labels_learns_and_stays_below_their_entropy():
    x, y = samples()[0], labels()
    config = replace(SMALL, bound="infonce")
    _, info = fit(mine.init(KEY, x, y, config), x, y, config)
    fractions = y.mean(0)
    entropy = -(fractions * np.log(fractions)).sum()
    assert info.validation_nats[0] + 0.2 < info.validation_nats[-1] < entropy
    assert info.steps.shape == info.finite.shape == ()


@pytest.mark.parametrize(
    ("train", "validation"), [(TRAIN[:1], TRAIN), (TRAIN, TRAIN[:1]), (np.ones((2, 3), int), TRAIN)]
)
def test_fit_bad_rows_are_named_by_shape(train, validation):
    with pytest.raises(ValueError, match="train_rows and validation_rows must be") as error:
        mine.fit(KEY, start(), *equal_widths(240), train, validation, SMALL)
    assert f"{train.shape} and {validation.shape}" in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([239, 240]), "validation_rows must be in 0 … 239.*from 239 to 240"),
        (np.array([-1, 239]), "validation_rows must be in 0 … 239.*from -1 to 239"),
        (np.array([5.5, 6.5]), "validation_rows must be row numbers, got float64.*flatnonzero"),
        (TRAIN[:2], "other rows than train_rows, which 2 of them are not"),
    ],
)
def test_fit_bad_row_numbers_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        mine.fit(KEY, start(), *equal_widths(240), TRAIN, rows, SMALL)


# Decisions, on given validation values: no network is trained.


@pytest.fixture
def scripted(monkeypatch):
    """A fit with given validation values; its state counts steps. Returns its rates, too."""

    def run(*values, **changes):
        config = replace(CONFIG, patience=2, min_improvement=0.01, **{"max_steps": 900} | changes)
        script, rates = iter(values), []

        def train_chunk(state, active, rate, *_):
            rates.append(np.where(active, rate / config.learning_rate, 0))
            return state._replace(steps=np.full(2, 10 * len(rates))), np.zeros(2)

        def validation_nats(*_):
            return np.array(np.broadcast_to(next(script), 2), np.float32)

        monkeypatch.setattr(chunks, "draw_batches", lambda *_: None)
        monkeypatch.setattr(chunks, "train_chunk", train_chunk)
        monkeypatch.setattr(fitting, "validation_nats", validation_nats)
        start = MineState({}, {}, (), None, np.zeros(2), np.zeros(2, int))
        data = checks.check_data(*equal_widths(240))
        task = fitting.Task(
            data, TRAIN[None], VALIDATION[None], np.zeros(2, int), num_test=40, config=config
        )
        progress = fitting.continue_fit(KEY[None], fitting.start_fit(start, task), task)
        state, info = fitting.chosen_state(progress, config), fitting.fit_info(progress, config)
        return state.steps, info, np.array(rates)

    return run


DROP = 1 / fitting.LR_DROP
DECISIONS = {
    # 0.505 is better than 0.5 but no improvement; then 0.4: a drop. 0.3, 0.2: the end.
    "drop, then end": ([0, 0.5, 0.505, 0.4, 0.3, 0.2], [1, 1, 1, DROP, DROP], 20, True),
    "patience restarts": ([0, 0.1, 0.05, 0.2, 0.15, 0.3, 0.2], [1, 1, 1, 1, 1, 1], 50, False),
    "start is best": ([0.5, 0.4, 0.3], [1, 1], 0, True),
    "start is best, then not finite": ([0.5, np.nan, 0.3, 0.4], [1, DROP, DROP], 0, True),
    "not finite": ([0, 0.2, np.nan, 0.3, -np.inf], [1, 1, DROP, DROP], 30, True),
    "start is not finite": ([np.nan, -1, -0.5], [1, 1], 20, False),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_fit_decisions_of_one_network_are_its_own(scripted, case):
    values, rates, best_step, converged = DECISIONS[case]
    rising, last = np.arange(len(values)) / 10, 10 * (len(values) - 1)
    # The limit is rounded up to whole checks.
    steps, info, got = scripted(*zip(values, rising, strict=True), max_steps=last - 9)
    np.testing.assert_allclose(got, np.stack([rates, np.ones(len(rates))], 1), rtol=1e-6)
    np.testing.assert_array_equal(info.steps_at, np.arange(0, last + 1, 10))
    np.testing.assert_array_equal(info.steps, last)
    np.testing.assert_array_equal(info.best_step, [best_step, last])
    np.testing.assert_array_equal(steps, [best_step, last])
    np.testing.assert_array_equal(info.converged, [converged, False])
    np.testing.assert_array_equal(info.finite, [np.isfinite(values).all(), True])


def test_fit_ends_with_its_last_network(scripted):
    falling, rising = [0.5, 0.4, 0.3, 9, 9, 9, 9], [0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2]
    steps, info, rates = scripted(*zip(falling, rising, strict=True))
    np.testing.assert_array_equal(info.steps, [20, 60])
    np.testing.assert_array_equal(steps, [0, 20])
    np.testing.assert_array_equal(rates[2:, 0], 0)
    np.testing.assert_allclose(info.validation_nats[2:, 0], 0.3)


LARGEST = np.log(len(VALIDATION))


def test_fit_ends_where_no_gain_could_count(scripted):
    # The first one is within `min_improvement` of the largest value, the second one is not.
    values = [(0, 0), (LARGEST - 0.009, LARGEST - 0.1), (9, LARGEST - 0.02), (9, LARGEST - 0.011)]
    steps, info, _ = scripted(*values, max_steps=30)
    np.testing.assert_array_equal(info.steps, [10, 30])
    np.testing.assert_array_equal(steps, [10, 30])
    np.testing.assert_array_equal(info.converged, [True, False])


def test_fit_of_equal_sides_ends_at_its_first_check():
    x = samples()[0].copy()
    x[:, 0] = np.random.default_rng(0).permutation(240) / 100  # no two samples alike
    state = mine.init(KEY, x, x, CONFIG)
    eye = np.eye(3, dtype=np.float32)[None, :, :1]
    strong = state.gaussian._replace(
        x_projections=eye, z_projections=eye, cross=np.full((1, 1), 1e8)
    )
    _, info = fit(state._replace(gaussian=strong), x, x, CONFIG)
    np.testing.assert_allclose(info.validation_nats, LARGEST, atol=1e-4)
    assert (info.steps, info.converged) == (10, True)
    np.testing.assert_array_equal(info.steps_at, [0, 10])


def test_fit_published_reports_last_state_even_if_an_earlier_one_was_better(scripted):
    published = MineConfig.published()
    changes = {"reported_state": published.reported_state, "lr_drops": published.lr_drops}
    steps, info, rates = scripted(0.0, 0.5, 0.4, 0.3, 0.9, **changes)
    np.testing.assert_allclose(rates, np.ones((3, 2)), rtol=1e-6)
    np.testing.assert_array_equal(steps, [30, 30])
    np.testing.assert_array_equal(info.best_step, [10, 10])
    assert info.converged.all()
