"""Tests of `lower_bound` against closed forms, and of what its estimates and errors promise."""

import dataclasses
import functools
import math
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from mine_jax import evaluate, lower_bound
from mine_jax.estimate import (
    Pair,
    choose_network,
    group_pairs,
    init_states,
    lower_bounds,
    prepare,
    split,
)
from mine_jax.estimate.estimation import prepare_pairs
from mine_jax.mine import MineConfig, Samples

# One configuration and few shapes, so that tests share what is compiled. As many validation as test
# samples for the same reason.
CONFIG = MineConfig(
    hidden=16,
    features=8,
    batch_size=128,
    learning_rate=1e-2,
    check_every=25,
    patience=2,
    max_steps=200,
    validation_fraction=0.2,
)
SEPARABLE = dataclasses.replace(CONFIG, network="separable")  # without competition of encoders
KEY = jax.random.key(0)
N = 1000
RHO = 0.6


def gaussian_nats(columns, rho=RHO):
    return -columns / 2 * math.log(1 - rho**2)


def correlated(rng, x, columns):
    """Columns that have correlation `RHO` with the first ones of x."""
    return RHO * x[:, :columns] + math.sqrt(1 - RHO**2) * rng.normal(size=(len(x), columns))


@functools.cache
def samples():
    """Five columns x, and z by name; the names are not sorted."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 5))
    return x, {"wide": correlated(rng, x, 5), "narrow": correlated(rng, x, 3)}


@functools.cache
def labeled():
    """Features of three Gaussian classes, the labels, and their mutual information."""
    rng = np.random.default_rng(4)
    means = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    labels = rng.integers(0, 3, 200_000)
    features = means[labels] + rng.normal(size=(len(labels), 2))
    logs = -np.sum((features[:, None] - means[None]) ** 2, axis=2) / 2
    joint = logs[np.arange(len(labels)), labels]
    nats = np.mean(joint - np.log(np.mean(np.exp(logs), axis=1)))
    return features[:N], labels[:N], nats


@functools.cache
def alone():
    x, named = samples()
    return lower_bound(x, named["narrow"], config=CONFIG)


@functools.cache
def warm_alone():
    x, named = samples()
    return lower_bound(x, named["narrow"], config=CONFIG, init=alone())


@functools.cache
def grouped():
    x, named = samples()
    return lower_bound(x, named, config=CONFIG)


@functools.cache
def of_labels():
    features, labels, _ = labeled()
    return lower_bound(features, labels, config=CONFIG)


def assert_estimates(estimate, nats):
    """The bound misses at most what sampling explains, and is not above the truth."""
    assert abs(estimate.nats - nats) <= 4 * estimate.stderr + 0.03
    assert estimate.nats <= nats + 3 * estimate.stderr + 0.05
    assert 0 < estimate.stderr < 0.06


def assert_same(estimate, other):
    assert estimate.nats == pytest.approx(other.nats, abs=1e-3)
    # The constant of T means nothing.
    influence, expected = (
        each.influence - each.influence.mean(axis=1, keepdims=True) for each in (estimate, other)
    )
    np.testing.assert_allclose(influence, expected, atol=5e-3)


def shapes(tree):
    return jax.tree.map(np.shape, tree)


def states_of(estimate):
    """The networks by encoder."""
    state = estimate.state
    return state if isinstance(state, dict) else {estimate.encoders[0]: state}


# --- Values ---------------------------------------------------------------------------------------


def test_lower_bound_gaussian_columns_is_near_closed_form():
    assert_estimates(alone(), gaussian_nats(3))
    assert_estimates(grouped()["wide"], gaussian_nats(5))


def test_lower_bound_labels_is_near_truth():
    *_, nats = labeled()
    assert_estimates(of_labels(), nats)


def test_lower_bounds_one_column_is_near_closed_forms():
    """Channels of one column, with noise drawn afresh in each batch for one of them."""
    rng = np.random.default_rng(2)
    x, noise, independent = rng.normal(size=(3, N, 1))
    close = correlated(rng, x, 1)
    named = {"same": x, "close": close, "copy": close, "independent": independent}
    pairs = prepare_pairs(x, named, CONFIG)
    quiet = pairs["same"].x.measured
    noisy = Samples(quiet + np.asarray(noise, np.float32), quiet, 1.0)
    calls = []
    estimates = lower_bounds(
        pairs | {"noisy": Pair(Samples(quiet), noisy)},
        key=KEY,
        config=CONFIG,
        on_progress=lambda *values: calls.append(values),
    )
    assert_estimates(estimates["close"], gaussian_nats(1))
    assert_estimates(estimates["noisy"], math.log(2) / 2)
    # Batches have the noise of the channel; without it x would tell all about itself.
    assert np.nanmax(estimates["noisy"].history.batch_nats) < 0.7
    assert abs(estimates["independent"].nats) <= 3 * estimates["independent"].stderr + 0.01
    same = estimates["same"]
    assert same.ceiling_nats - 0.2 < same.nats <= same.ceiling_nats == math.log(N // CONFIG.folds)
    assert any("Near the ceiling" in text for text in same.warnings)
    # Networks of a call have the same rows and first weights.
    np.testing.assert_array_equal(estimates["copy"].influence, estimates["close"].influence)
    steps, max_steps, texts = zip(*calls, strict=True)
    assert steps == tuple(CONFIG.check_every * np.arange(1, len(steps) + 1))
    assert set(max_steps) == {CONFIG.max_steps}
    assert all(f"{name} " in texts[0] for name in estimates)


def test_lower_bound_published_reports_last_state_by_its_definition():
    rng = np.random.default_rng(3)
    x = rng.normal(2.0, 5.0, size=(400, 1))
    z = correlated(rng, (x - 2) / 5, 1)
    config = MineConfig.published(
        hidden=16, batch_size=64, learning_rate=1e-2, check_every=10, patience=3, max_steps=200
    )
    estimate = lower_bound(x, z, config=config)
    assert estimate.form == "donsker_varadhan"
    assert abs(estimate.nats - gaussian_nats(1)) <= 4 * estimate.stderr + 0.05
    history = estimate.history.validation_nats[:, 0]
    assert estimate.converged
    assert np.argmax(history) == len(history) - 1 - config.patience
    assert estimate.validation_nats == pytest.approx(history[-1], abs=0.1)
    assert np.all(estimate.state.steps == estimate.steps)
    rows = split(jax.random.split(KEY)[0], len(x), config)
    columns = [np.float32((side - side.mean(0)) / side.std(0)) for side in (x, z)]
    # The value on training samples takes shuffles, that on test samples all pairs.
    parts = (rows.test, estimate.nats, 1e-3), (rows.train[:, :80], estimate.train_nats, 0.02)
    for part, nats, margin in parts:
        value = evaluate(KEY, estimate.state, *({"": side[part[0]]} for side in columns), config)
        assert float(value.nats[0]) == pytest.approx(nats, abs=margin)


# --- Estimates ------------------------------------------------------------------------------------


def test_lower_bound_estimate_describes_its_fit():
    estimate = alone()
    folds = CONFIG.folds
    assert estimate.influence.shape == (folds, N // folds)
    steps = estimate.history.steps
    np.testing.assert_array_equal(steps, CONFIG.check_every * np.arange(len(steps)))
    assert estimate.history.validation_nats.shape == (len(steps), folds)
    assert estimate.steps == steps[-1]
    best = np.nanmax(estimate.history.validation_nats, axis=0)
    assert estimate.validation_nats == pytest.approx(best.mean(), abs=1e-3)
    spread = estimate.influence.var(axis=1, ddof=1) / estimate.influence.shape[1]
    assert 1 <= estimate.stderr / (math.sqrt(spread.sum()) / folds) < 1.5


def test_lower_bound_mapping_equals_each_array():
    assert list(grouped()) == ["wide", "narrow"]
    assert_same(grouped()["narrow"], alone())


def test_lower_bound_warm_start_in_group_equals_warm_start_alone():
    x, named = samples()
    earlier = grouped()
    warm = lower_bound(x, named, config=CONFIG, init=earlier)
    assert_same(warm["narrow"], warm_alone())
    for name, estimate in warm.items():
        best = np.nanmax(earlier[name].history.validation_nats, axis=0)
        assert np.all(estimate.history.validation_nats[0] >= best - 1e-4)
        # Without the padding of the group.
        pairs = prepare_pairs(x, {name: named[name]}, CONFIG)
        expected = shapes(init_states(pairs, CONFIG, KEY)[name])
        by_encoder = states_of(estimate)
        assert set(by_encoder) == set(estimate.encoders)
        for encoder, state in by_encoder.items():
            assert shapes(state) == expected
            assert np.all(state.steps >= states_of(earlier[name])[encoder].steps)


def test_lower_bounds_other_round_has_other_batches_and_same_split():
    x, named = samples()
    pairs = prepare_pairs(x, {"z": named["narrow"]}, SEPARABLE)
    first, other = (
        lower_bounds(pairs, key=KEY, config=SEPARABLE, round_number=number)["z"]
        for number in (0, 1)
    )
    assert not np.allclose(other.history.batch_nats[1], first.history.batch_nats[1], atol=1e-3)
    start, expected = (each.history.validation_nats[0] for each in (other, first))
    np.testing.assert_allclose(start, expected, atol=1e-4)


def test_lower_bound_of_known_shapes_compiles_nothing_and_clears_nothing(compilations):
    x, named = samples()
    constant, config = np.ones_like(x), dataclasses.replace(CONFIG, x_encoder="ranks")
    earlier = lower_bound(x, named["narrow"], config=config)
    function = jax.jit(lambda values: values + 1)
    with compilations() as seen:
        function(np.ones(3))
    assert seen
    with compilations() as seen:
        estimate = lower_bound(
            constant, named["narrow"], key=jax.random.key(1), config=config, init=earlier
        )
        function(np.ones(3))
    assert seen == []
    # A constant tells nothing; the earlier networks would be worse than T = 0.
    assert abs(estimate.nats) < 1e-5
    assert len(estimate.warnings) == 1
    assert "do not tell the networks" in estimate.warnings[0]


def test_lower_bound_reports_progress_and_shows_it(capsys):
    features, labels, _ = labeled()
    calls = []
    estimate = lower_bound(
        features,
        labels,
        config=CONFIG,
        verbose=True,
        on_progress=lambda *values: calls.append(values),
    )
    assert "lower_bound: " in capsys.readouterr().err
    assert estimate.nats == of_labels().nats
    assert calls[0] == (0, CONFIG.max_steps, "closed-form starts")
    steps = [done for done, *_ in calls[1:]]
    assert max(steps) == estimate.steps
    assert all(done % CONFIG.check_every == 0 for done in steps)
    assert all(maximum == CONFIG.max_steps and "z" in text for _, maximum, text in calls[1:])


# --- Contexts -------------------------------------------------------------------------------------


def test_lower_bound_in_two_threads_equals_one_after_another():
    x, named = samples()
    features, labels, _ = labeled()
    one_hot = np.eye(3)[labels]
    expected = alone(), of_labels()
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(lower_bound, x, named["narrow"], config=CONFIG),
            # Labels on the other side are the same two variables.
            pool.submit(lower_bound, one_hot, features, config=CONFIG),
        ]
        for call, estimate in zip(calls, expected, strict=True):
            assert call.result().nats == estimate.nats


# --- Preparation, splits and groups ---------------------------------------------------------------


def test_prepare_pairs_labels_of_any_kind_come_as_z_beside_both_scales():
    features, labels, _ = labeled()
    (expected,) = prepare_pairs(features, {"z": labels}, CONFIG).values()
    assert expected.x.measured.shape == (N, 4)
    kinds = (
        np.eye(3, dtype=bool)[labels],
        (5 * labels - 7)[:, None].astype(np.int8),
        labels.tolist(),
    )
    for kind in kinds:
        (pair,) = prepare_pairs(kind, {"z": features}, CONFIG).values()
        jax.tree.map(np.testing.assert_array_equal, pair, expected)
    (pair,) = prepare_pairs(labels, {"z": labels}, CONFIG).values()
    assert (pair.x.measured.dtype, pair.z.measured.dtype) == (np.float32, np.uint8)


def test_prepare_pairs_same_many_columns_share_axes():
    rng = np.random.default_rng(6)
    x, named = rng.normal(size=(100, 200)), {"few": rng.normal(size=(100, 2))}
    named |= {name: x + rng.normal(size=x.shape) for name in ("one", "other")}
    pairs = prepare_pairs(x, named, CONFIG)
    widths = {name: [side.measured.shape[1] for side in pair[:2]] for name, pair in pairs.items()}
    assert widths == {"few": [20, 2], "one": [40, 40], "other": [40, 40]}
    # Axes of x depend on its partner.
    assert not np.allclose(pairs["one"].x.measured, pairs["other"].x.measured)


def test_prepare_pairs_convolutional_keeps_images():
    images = np.random.default_rng(7).normal(size=(50, 8, 8, 1))
    config = MineConfig(network="convolutional")
    pairs = prepare_pairs(images, {"z": images[:, :, :, 0]}, config)
    assert [side.measured.shape for side in pairs["z"][:2]] == [images.shape] * 2
    state = jax.eval_shape(lambda: init_states(pairs, config, KEY))["z"]
    assert "conv1" in state.params["x_encoder"]


@given(
    n=st.sampled_from([40, 97]),
    folds=st.integers(2, 6),
    validation_fraction=st.floats(0.1, 0.4),
    cross_fit=st.booleans(),
    seed=st.integers(0, 99),
)
def test_split_rows_are_disjoint_and_test_at_most_once(
    n, folds, validation_fraction, cross_fit, seed
):
    config = MineConfig(folds=folds, validation_fraction=validation_fraction, cross_fit=cross_fit)
    rows = split(jax.random.key(seed), n, config)
    number = folds if cross_fit else 1
    for fold in zip(*rows, strict=True):
        assert sorted(np.concatenate(fold)) == list(range(n))
    assert rows.test.shape == (number, n // folds)
    assert rows.validation.shape == (number, round(n * validation_fraction))
    assert len(np.unique(rows.test)) == rows.test.size
    # A sorted file would put one class into each part.
    assert list(rows.test[0]) != sorted(rows.test[0])
    other = split(jax.random.key(seed + 1), n, config)
    assert not np.array_equal(rows.test, other.test)


@pytest.mark.parametrize(
    ("x", "z", "network"),
    [
        (np.zeros((9, 1)), np.zeros((9, 2)), "concatenated"),
        (np.zeros((9, 1)), np.zeros((9, 3)), "separable"),
        (np.zeros((9, 3)), np.zeros((9, 1)), "separable"),
        (np.zeros((9, 1)), np.arange(9) % 2, "separable"),
    ],
)
def test_choose_network_follows_shapes(x, z, network):
    assert choose_network(prepare(x), prepare(z)) == network


def test_group_pairs_joins_networks_of_similar_widths_and_equal_classes():
    columns = {width: Samples(np.zeros((9, width), np.float32)) for width in (1, 2, 3, 8, 100)}
    pairs = {str(width): Pair(columns[3], side) for width, side in columns.items()}
    pairs |= {f"1-{width}": Pair(columns[1], columns[width]) for width in (1, 2)}
    for classes in (2, 3):
        labels = Samples(np.eye(classes, dtype=np.uint8)[np.arange(9) % classes])
        pairs |= {f"{classes} classes {width}": Pair(columns[width], labels) for width in (1, 8)}
    groups = group_pairs(pairs, CONFIG)
    assert [(group.names, group.config.network) for group in groups] == [
        (("1", "2", "3", "8"), "separable"),
        (("100",), "separable"),
        (("1-1", "1-2"), "concatenated"),
        (("2 classes 1", "2 classes 8"), "separable"),
        (("3 classes 1", "3 classes 8"), "separable"),
    ]


def test_init_states_seed_of_pair_changes_first_weights():
    x, named = samples()
    (pair,) = prepare_pairs(x, {"z": named["narrow"]}, CONFIG).values()
    pairs = {"a": pair, "b": pair, "other": pair._replace(seed=1)}
    weights = {
        name: state.params["x_encoder"]["columns"]
        for name, state in init_states(pairs, CONFIG, KEY).items()
    }
    np.testing.assert_array_equal(weights["a"], weights["b"])
    assert not np.allclose(weights["a"], weights["other"])
    assert not np.allclose(weights["a"][0], weights["a"][1])  # folds


# --- Errors ---------------------------------------------------------------------------------------

BAD = np.ones(N)
BAD[17] = np.nan


@pytest.mark.parametrize(
    ("x", "z", "message"),
    [
        (BAD, np.ones(N), "x has missing values in 1 of 1,000 rows; drop"),
        (np.arange(N) % 2, {"layer": BAD}, "layer has missing values in 1 of 1,000 rows; drop"),
        (np.ones(N), np.ones(N - 1), "same number of samples.*1000.*999"),
        (np.ones(N), np.float32(1), r"z must be \(n, …\) with samples and columns, got shape \(\)"),
        (np.float32(1), 2.0, r"x must be \(n, …\) with samples and columns, got shape \(\)"),
        (np.ones((N, 0)), np.ones(N), r"x must be \(n, …\) with samples and columns"),
        ([], [], r"x must be \(n, …\) with samples and columns, got shape \(0,\)"),
        (np.ones(1), np.ones(1), "1 samples are too few"),
        (np.ones(4), np.ones(4), "4 samples are too few: 0 of them would test.*give more"),
        (np.ones(N), {}, "empty mapping"),
        (np.ones(N), {0: np.ones(N)}, r"names of arrays must be strings, got \[0\]"),
    ],
)
def test_lower_bound_bad_samples_are_named(x, z, message):
    with pytest.raises(ValueError, match=message):
        lower_bound(x, z, config=CONFIG)


def test_lower_bound_init_that_does_not_fit_is_named():
    x, named = samples()
    state = lower_bound(x, named["narrow"], config=SEPARABLE).state
    for z, init, message in [
        (named["narrow"], 3, "init must be an Estimate or its state, got int"),
        (named, {"a": state}, r"init must have the names of z, \['narrow', 'wide'\], got \['a'\]"),
        (named, state, "init must have the names of z.*got MineState"),
        (named["wide"], state, r"z_encoder.*is \(5, 3, 16\), expected \(5, 5, 16\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            lower_bound(x, z, config=CONFIG, init=init)
    pairs = prepare_pairs(x, named, CONFIG)
    with pytest.raises(ValueError, match=r"init has states of \['wide'\], but the pairs are"):
        lower_bounds(pairs, key=KEY, config=CONFIG, init={"wide": state})
    short = Pair(*(Samples(side.measured[:9]) for side in pairs["wide"][:2]))
    with pytest.raises(ValueError, match=r"all samples must have the same n, got \[9, 1000\]"):
        lower_bounds(pairs | {"short": short}, key=KEY, config=CONFIG)


@pytest.mark.parametrize("key", [0, np.zeros(3), jax.random.split(jax.random.key(0))])
def test_lower_bound_key_that_is_none_raises(key):
    with pytest.raises(TypeError, match=r"lower_bound\(key=…\) takes a (single )?PRNG key"):
        lower_bound(np.ones(N), np.ones(N), key=key)
