"""MINE's step and fit: batches, stacks, labels, stopping, and what must not compile again."""

import functools
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import bounds, mine
from mine_jax.mine import MineConfig

pytestmark = pytest.mark.usefixtures("compile_fast")

# One configuration and one set of shapes for all fits: compiling is what takes the time.
CONFIG = MineConfig(
    network="separable",
    hidden=8,
    features=4,
    canonical=1,  # so that a network alone has the shapes that it has in a stack
    batch_size=32,
    pairings=3,
    learning_rate=1e-2,
    average_decay=0.9,
    check_every=10,
    patience=2,
    max_steps=120,
    folds=3,
    stop_pairings=8,
)
TRAIN, STOP, REST = np.arange(120), np.arange(120, 200), np.arange(200, 240)
NOISE, CLOSE = 0, 1  # positions of the networks in the stack
KEY = jax.random.key(0)


@functools.cache
def samples():
    """x, and z by name: noise of three columns and a column close to the first of x."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((240, 2)).astype(np.float32)
    noise = rng.standard_normal((240, 3)).astype(np.float32)
    close = x[:, :1] + 0.5 * rng.standard_normal((240, 1)).astype(np.float32)
    return x, {"close": close, "a_noise": noise}


@functools.cache
def labels():
    """Labels of three classes with unequal shares that x tells of, one-hot."""
    x, _ = samples()
    return np.eye(3, dtype=np.uint8)[np.digitize(x[:, 0], [-0.8, 0.2])]


@functools.cache
def fresh_stack():
    return mine.init(KEY, *samples(), CONFIG)


def fit(state, x, z, key=1, on_progress=None):
    return mine.fit(state, jax.random.key(key), x, z, TRAIN, STOP, CONFIG, on_progress)


@functools.cache
def fitted_stack():
    return fit(fresh_stack(), *samples())


def any_weights(state, seed=0):
    """The state with weights off zero, drawn afresh, and with an average of its own."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return jnp.asarray(0.5 * rng.standard_normal(leaf.shape), leaf.dtype)

    return state._replace(
        params=jax.tree.map(draw, state.params), average=jax.tree.map(draw, state.average)
    )


def scores_of(weights, x, z, config=CONFIG):
    """T of every x with every row of z by the network alone, for a stack of one."""
    params = {
        **jax.tree.map(lambda leaf: leaf[0], weights["trunk"]),
        "x_first": weights["x_first"][0],
        "z_first": weights["z_first"][0],
    }
    n, m = len(x), len(z)
    width = params["gaussian"]["cross"].shape[0]
    pairs = np.repeat(x, m, axis=0), np.tile(np.float32(z), (n, 1))
    return np.float64(config.module(width).apply({"params": params}, *pairs)).reshape(n, m)


def assert_trees_close(got, wanted, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), got, wanted)


def assert_trees_equal(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


jitted_step = jax.jit(mine.step, static_argnames="config")


# The configuration.


@pytest.mark.parametrize("name", [*mine._LEAST])
@pytest.mark.parametrize("value", [-3, 2.5, True, None])
def test_a_configuration_that_makes_no_sense_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be an integer .*got {value!r}"):
        MineConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", 0),
        ("canonical", -1),
        ("batch_size", 1),
        ("folds", 1),
        ("rate_falls", -1),
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("weight_decay", -0.1),
        ("min_gain", -1e-9),
        ("min_gain", float("nan")),
        ("partition_weight", 0.0),
        ("partition_weight", 1.5),
        ("average_decay", 1.0),
        ("average_decay", -0.1),
        ("stop_fraction", 0.0),
        ("stop_fraction", 0.8),
        ("pairings", 256),
        ("bound", "club"),
        ("network", "deep"),
        ("network", 3),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must .*got {value!r}"):
        MineConfig(**{name: value})


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError, match=r"hidden must .*got 0; .*bound must .*got 'x'"):
        MineConfig(hidden=0, bound="x")


def test_the_limits_themselves_are_allowed():
    MineConfig(rate_falls=0, min_gain=0.0, partition_weight=1.0, average_decay=0.0, weight_decay=0)
    MineConfig(batch_size=2, pairings=1, folds=2, stop_fraction=0.49)
    for network in mine.NETWORKS:
        MineConfig(network=network)
    for bound in bounds.BOUNDS:
        MineConfig(bound=bound)


def test_equal_configurations_are_one_key():
    assert MineConfig(hidden=8) == MineConfig(hidden=8) != MineConfig(hidden=9)
    assert hash(MineConfig(hidden=8)) == hash(MineConfig(hidden=8))
    assert len({MineConfig(), MineConfig(), replace(MineConfig(), depth=3)}) == 2
    with pytest.raises(AttributeError):
        MineConfig().hidden = 3


def test_networks_are_separable_but_for_the_flat_one_and_the_users():
    assert [MineConfig(network=kind).separable for kind in ("separable", "flat", "auto")] == [
        True,
        False,
        True,
    ]
    assert not MineConfig(network=nn.Dense(1)).separable


# Pairs and batches.


@pytest.mark.parametrize("n", [2, 3, 10, 500])
@pytest.mark.parametrize("pairings", [1, 2, 8, 64, 1000])
def test_shifts_are_different_and_leave_no_sample_with_itself(n, pairings):
    shifts = mine._spread(n, pairings)
    assert len(shifts) == len(set(shifts.tolist())) == min(pairings, n - 1)
    assert shifts.min() >= 1
    assert shifts.max() <= n - 1
    if len(shifts) > 1:
        assert (shifts[0], shifts[-1]) == (1, n - 1)
        assert np.ptp(np.diff(shifts)) <= 1


@pytest.mark.parametrize(("n", "batch_size"), [(100, 32), (96, 32), (20, 32), (33, 32)])
def test_a_pass_of_batches_has_every_row_at_most_once(n, batch_size):
    config = replace(CONFIG, batch_size=batch_size, check_every=7)
    given = 1000 + np.arange(n)
    batches = mine._batches(np.random.default_rng(0), given, config)
    size = min(n, batch_size)
    assert batches.shape == (7, size)
    per_pass = n // size
    for start in range(0, 7, per_pass):
        rows = batches[start : start + per_pass].ravel()
        assert len(set(rows.tolist())) == len(rows)
        assert set(rows.tolist()) <= set(given.tolist())
    # Passes differ, also in which rows are left out and in which rows are neighbours.
    assert not np.array_equal(batches[0], batches[per_pass])


def log_sum_exp(values, axis=None):
    return np.log(np.exp(values).sum(axis))


def off_diagonal(matrix):
    return matrix[~np.eye(len(matrix), dtype=bool)]


def donsker_varadhan(matrix):
    others = off_diagonal(matrix)
    return np.diag(matrix).mean() - np.log(np.exp(others).mean())


def infonce(matrix, axis):
    return (np.diag(matrix) - log_sum_exp(matrix, axis)).mean() + np.log(len(matrix))


@pytest.mark.parametrize(
    ("network", "bound"), [("separable", "donsker_varadhan"), ("flat", "infonce")]
)
def test_a_step_takes_the_bound_over_all_pairs_of_the_batch(network, bound):
    config = replace(CONFIG, network=network, bound=bound, pairings=7)
    x, z = samples()[0][:8], samples()[1]["a_noise"][:8]
    state = any_weights(mine.init(KEY, x, z, config))
    matrix = scores_of(state.params, x, z, config)
    wanted = {
        "infonce": (infonce(matrix, 0) + infonce(matrix, 1)) / 2,
        "donsker_varadhan": donsker_varadhan(matrix),
    }
    _, info = jitted_step(state, jax.random.key(5), x, z, config)
    assert info.bound.shape == info.gradient_norm.shape == ()
    np.testing.assert_allclose(info.bound, wanted[bound], rtol=1e-4)


@pytest.mark.parametrize("network", ["separable", "flat"])
def test_evaluate_is_the_bound_of_the_average_over_all_pairs(network):
    config = replace(CONFIG, network=network)
    x, z = samples()[0][:9], samples()[1]["a_noise"][:9]
    state = any_weights(mine.init(KEY, x, z, config))
    matrix = scores_of(state.average, x, z, config)
    for form, wanted in {
        "donsker_varadhan": donsker_varadhan(matrix),
        "infonce": infonce(matrix, 1),
    }.items():
        value = mine.evaluate(state, jax.random.key(3), x, z, config, form)
        assert value.nats.shape == value.stderr.shape == ()
        np.testing.assert_allclose(value.nats, wanted, rtol=1e-4)
        other = mine.evaluate(state, jax.random.key(4), x, z, config, form)
        np.testing.assert_allclose(other.nats, value.nats, rtol=1e-4)
        np.testing.assert_allclose(other.stderr, value.stderr, rtol=1e-4)


def test_all_shifts_say_the_same_as_all_pairs():
    config = replace(CONFIG, network="flat")
    x, z = {"_": samples()[0][:9]}, {"_": samples()[1]["a_noise"][:9]}
    pairs = mine.pairs_of(x, z)
    state = any_weights(mine.init(KEY, x, z, config))
    state, rows = jax.tree.map(lambda leaf: leaf[None], (state, jnp.arange(9)))
    every, shifted = (
        mine.evaluate_rows(state, x, z, rows, pairs, config, pairings) for pairings in (None, 8)
    )
    assert_trees_close(shifted, every, rtol=1e-4, atol=1e-4)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"form must be one of .*got 'club'"):
        mine.evaluate(fresh_stack(), KEY, *samples(), CONFIG, "club")


# Labels.


def test_the_classes_weights_are_their_shares():
    counts = labels().sum(0)
    assert counts.min() < counts.max()
    weights = mine._class_weights({"y": labels()}, (("_", "y"),))
    np.testing.assert_allclose(weights, np.log(counts / 240)[None], rtol=1e-6)
    assert mine._class_weights(samples()[1], (("_", "close"),)) is None


def test_the_marginal_of_labels_is_summed_exactly():
    x, y = samples()[0], labels()
    state = any_weights(mine.init(KEY, x, y, CONFIG))
    shares = y.mean(0)

    def exact(weights):
        scores = scores_of(weights, x, np.eye(3))
        joint = (scores * y).sum(1)
        return (joint - np.log(np.exp(scores) @ shares)).mean()

    _, info = jitted_step(state, KEY, x, y, CONFIG)
    np.testing.assert_allclose(info.bound, exact(state.params), rtol=1e-4)
    for form in mine.REPORTED:
        value = mine.evaluate(state, KEY, x, y, CONFIG, form)
        np.testing.assert_allclose(value.nats, exact(state.average), rtol=1e-4)


def test_networks_of_labels_learn_and_stay_below_their_entropy():
    x, y = samples()[0], labels()
    state, info = fit(mine.init(KEY, x, y, CONFIG), x, y)
    shares = y.mean(0)
    entropy = -(shares * np.log(shares)).sum()
    value = mine.evaluate(state, KEY, x[REST], y[REST], CONFIG)
    assert 0.2 < info.stop_nats.max() < entropy
    assert 0.2 < value.nats < entropy + 3 * value.stderr


def test_labels_belong_into_z_and_not_beside_numbers():
    x, z = samples()
    with pytest.raises(ValueError, match=r"labels .* belong into z"):
        mine.init(KEY, labels(), z, CONFIG)
    with pytest.raises(ValueError, match="only labels or only numbers"):
        mine.init(KEY, x, {"a": labels(), "b": x}, CONFIG)


# One step.


def batch():
    x, z = samples()
    return x[:64], {name: value[:64] for name, value in z.items()}


@functools.cache
def two_steps(bound):
    config = replace(
        CONFIG, bound=bound, partition_weight=0.3, learning_rate=1e-3, weight_decay=0.1
    )
    state, infos = any_weights(fresh_stack()), []
    states = [state]
    for i in range(2):
        state, info = jitted_step(state, jax.random.key(i), *batch(), config)
        states.append(state)
        infos.append(info)
    return states, infos


def test_a_step_ascends_the_bound():
    _, infos = two_steps("donsker_varadhan")
    assert infos[0].bound.shape == infos[0].gradient_norm.shape == (2,)
    assert np.all(infos[1].bound > infos[0].bound)
    assert np.all(infos[0].gradient_norm > 0)


def test_the_average_follows_and_the_closed_form_stays():
    before, after = two_steps("donsker_varadhan")[0][:2]
    assert_trees_close(
        after.average,
        jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, before.average, after.params),
        rtol=1e-5,
        atol=1e-6,
    )
    assert (int(before.steps), int(after.steps)) == (0, 1)
    # The Gaussian part is set, not trained, and does not decay.
    assert_trees_equal(after.params["trunk"]["gaussian"], before.params["trunk"]["gaussian"])
    for side in ("x_first", "z_first"):
        for new, old in zip(after.params[side], before.params[side], strict=True):
            assert_trees_equal((new["mean"], new["maps"]), (old["mean"], old["maps"]))
            assert np.abs(new["dense"]["kernel"] - old["dense"]["kernel"]).max() > 1e-4


def test_step_one_with_the_corrected_gradient_is_step_one_with_the_plain_one():
    plain, plain_infos = two_steps("donsker_varadhan")
    corrected, corrected_infos = two_steps("mine")
    np.testing.assert_allclose(
        corrected_infos[0].gradient_norm, plain_infos[0].gradient_norm, rtol=1e-4
    )
    kernels = [states[1].params["trunk"]["x_layers_0"]["kernel"] for states in (plain, corrected)]
    np.testing.assert_allclose(*kernels, rtol=1e-3, atol=1e-5)
    # From the second step on the average is another.
    ratio = corrected_infos[1].gradient_norm / plain_infos[1].gradient_norm
    assert np.all(np.abs(ratio - 1) > 1e-4)


def test_the_partition_average_starts_from_the_first_batch_and_then_moves():
    states, _ = two_steps("mine")
    x, z = batch()
    for i, name in enumerate(["a_noise", "close"]):
        first, second = (
            np.log(np.exp(off_diagonal(scores_of(mine.select(s, i).params, x, z[name]))).mean())
            for s in states[:2]
        )
        np.testing.assert_allclose(states[1].log_partition[i], first, rtol=1e-3, atol=1e-4)
        moved = np.log(0.7 * np.exp(first) + 0.3 * np.exp(second))
        np.testing.assert_allclose(states[2].log_partition[i], moved, rtol=1e-3, atol=1e-4)


# Stacks.


def test_a_stack_is_in_the_order_of_sorted_names():
    x, z = samples()
    assert mine.pairs_of({"q": x, "p": x}, z) == (
        ("p", "a_noise"),
        ("p", "close"),
        ("q", "a_noise"),
        ("q", "close"),
    )
    widths = [first["mean"].shape[0] for first in fresh_stack().params["z_first"]]
    assert widths == [3, 1]


def test_networks_of_a_stack_start_from_weights_of_their_own():
    x = samples()[0]
    state = mine.init(KEY, x, {"a": x, "b": x}, CONFIG)
    first, second = (
        mine.select(state, i).params["z_first"][0]["dense"]["kernel"] for i in range(2)
    )
    assert np.abs(first - second).max() > 0.1
    assert_trees_equal(mine.init(KEY, x, {"a": x, "b": x}, CONFIG), state)


def test_a_stacked_fit_is_the_separate_fit():
    i = CLOSE
    x, z = samples()
    state, info = fitted_stack()
    assert info.stop_nats.shape == info.batch_nats.shape == (len(info.steps_at), 2)
    assert info.chosen_step.shape == info.steps.shape == info.finite.shape == (2,)
    alone, own = fit(mine.select(fresh_stack(), i), x, z["close"])
    checks = min(len(own.steps_at), 4)
    np.testing.assert_allclose(info.stop_nats[:checks, i], own.stop_nats[:checks], atol=1e-3)
    np.testing.assert_allclose(info.batch_nats[1:checks, i], own.batch_nats[1:checks], atol=1e-3)
    assert own.steps.shape == own.converged.shape == ()
    # Adam divides small gradients by their size: what rounding makes of the weights counts less
    # than what it makes of their values.
    values = [
        mine.evaluate(part, KEY, x[REST], z["close"][REST], CONFIG).nats
        for part in (mine.select(state, i), alone)
    ]
    np.testing.assert_allclose(*values, atol=0.02)


def test_folds_are_fits_of_their_own():
    x, z = samples()
    keys = jnp.stack([jax.random.key(1), jax.random.key(2)])
    state = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), fresh_stack())
    train, stop = np.stack([TRAIN, TRAIN + 80]), np.stack([STOP, STOP - 120])
    fitted, info = mine.fit(state, keys, x, z, train, stop, CONFIG)
    assert info.stop_nats.shape == (len(info.steps_at), 2, 2)
    assert info.steps.shape == (2, 2)
    first = fitted_stack()[1]
    checks = min(len(first.steps_at), len(info.steps_at), 4)
    np.testing.assert_allclose(info.stop_nats[:checks, 0], first.stop_nats[:checks], atol=1e-3)
    assert fitted.log_partition.shape == (2, 2)


@pytest.mark.parametrize("folds", [False, True])
def test_joining_what_was_selected_gives_the_stack_back(folds):
    state = fitted_stack()[0]
    if folds:
        other = any_weights(state)
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), state, other, state)
    parts = [mine.select(state, i, folds=folds) for i in range(2)]
    assert parts[1].params["z_first"][0]["mean"].shape[-1] == 1
    assert_trees_equal(mine.join(parts, folds=folds), state)
    turned = mine.join(parts[::-1], folds=folds)
    assert_trees_equal(mine.select(turned, 0, folds=folds), parts[1])


def test_joined_networks_count_the_steps_of_the_longest():
    old, new = fitted_stack()[0], fresh_stack()
    state = mine.join([mine.select(new, 0), mine.select(old, 1)])
    assert int(state.steps) == int(old.steps) > 0
    assert int(state.opt_state.count) == int(old.opt_state.count)


def test_networks_of_two_configurations_do_not_join():
    x = samples()[0]
    states = [mine.init(KEY, x, x, replace(CONFIG, hidden=h)) for h in (8, 9)]
    with pytest.raises(ValueError, match="must be of one configuration"):
        mine.join(states)


# A fit.


def test_the_chosen_state_is_the_best_on_the_stopping_samples():
    x, z = samples()
    state, info = fitted_stack()
    np.testing.assert_array_equal(info.chosen_step, info.steps_at[info.stop_nats.argmax(0)])
    # The networks learnt something: I of this pair is 0.5 log 5 = 0.80.
    assert info.stop_nats[:, CLOSE].max() > 0.4
    unseen = mine.evaluate(state, KEY, x[REST], {k: v[REST] for k, v in z.items()}, CONFIG)
    assert unseen.nats.shape == (2,)
    assert unseen.nats[CLOSE] > 0.3
    assert abs(unseen.nats[NOISE]) < 0.2
    # The first value is that of T = 0, but for the small term of z alone.
    np.testing.assert_allclose(info.stop_nats[0], 0, atol=0.01)
    assert np.isnan(info.batch_nats[0]).all()
    # A warm start begins where the earlier fit had its best.
    _, again = fit(state, x, z, key=7)
    np.testing.assert_allclose(again.stop_nats[0], info.stop_nats.max(0), atol=1e-5)
    assert np.all(again.stop_nats.max(0) >= again.stop_nats[0])


def test_a_second_fit_of_the_same_shapes_compiles_nothing(compilations):
    x, z = samples()
    state, _ = fitted_stack()
    fit(state, x, z)
    with compilations() as seen:
        fit(state, x + 1, z, key=2)
    assert seen == []
    with compilations() as seen:  # that it would be seen
        jax.jit(lambda value: value * 3)(1.0)
    assert seen


def test_equal_keys_give_equal_fits_and_other_keys_other_ones():
    state, info = fitted_stack()
    again, same = fit(fresh_stack(), *samples())
    assert_trees_equal(again, state)
    assert_trees_equal(same, info)
    _, other = fit(fresh_stack(), *samples(), key=2)
    assert not np.array_equal(other.batch_nats[1], info.batch_nats[1])


def test_only_the_given_rows_train_and_stop():
    x, z = samples()
    changed = {name: value.copy() for name, value in z.items()}
    for value in changed.values():
        value[REST] = 1e6
    state, info = fit(fresh_stack(), x, changed)
    assert_trees_equal((state, info), fitted_stack())
    changed["close"][STOP[3]] = 7.0
    _, stopped = fit(fresh_stack(), x, changed)
    np.testing.assert_array_equal(stopped.batch_nats[1], fitted_stack()[1].batch_nats[1])
    assert np.all((stopped.stop_nats[1] != info.stop_nats[1]) == [False, True])
    changed["close"][TRAIN[3]] = 7.0
    _, trained = fit(fresh_stack(), x, changed)
    assert np.all((trained.batch_nats[1] != info.batch_nats[1]) == [False, True])


def test_a_diverged_network_goes_back_to_its_best_and_leaves_the_others_alone():
    x, z = samples()
    start, _ = fitted_stack()
    healthy, healthy_info = fit(start, x, z, key=3)
    broken = {**z, "a_noise": z["a_noise"].copy()}
    broken["a_noise"][TRAIN[5]] = 1e25  # its square is infinite
    state, info = fit(start, x, broken, key=3)
    np.testing.assert_array_equal(info.finite, [False, True])
    # Not finite once: a third of the rate. Not finite twice: the end.
    assert int(info.steps[NOISE]) == 2 * CONFIG.check_every
    assert int(info.chosen_step[NOISE]) == 0
    assert_trees_equal(mine.select(state, NOISE).params, mine.select(start, NOISE).params)
    assert_trees_equal(mine.select(state, NOISE).average, mine.select(start, NOISE).average)
    assert_trees_equal(mine.select(state, CLOSE).average, mine.select(healthy, CLOSE).average)
    checks = min(len(info.steps_at), len(healthy_info.steps_at))
    np.testing.assert_array_equal(
        info.stop_nats[:checks, CLOSE], healthy_info.stop_nats[:checks, CLOSE]
    )


def test_progress_is_told_after_each_check():
    calls = []
    _, info = fit(fresh_stack(), *samples(), on_progress=lambda *args: calls.append(args))
    assert [done for done, _, _ in calls] == info.steps_at[1:].tolist()
    assert {total for _, total, _ in calls} == {CONFIG.max_steps}
    assert [len(report.stop_nats) for _, _, report in calls] == list(range(2, len(calls) + 2))
    np.testing.assert_array_equal(calls[-1][2].stop_nats.ravel(), info.stop_nats.ravel())


# When a fit stops, on values that are set: no network is trained.


@pytest.fixture
def told(monkeypatch):
    """A fit whose values on the stopping samples are given, and the rates that it went at."""

    def run(*values, **changes):
        config = replace(CONFIG, patience=2, rate_falls=1, min_gain=0.01, **changes)
        script = iter(values)
        rates = []

        def train_chunk(state, rate, batches, *_):
            rates.append((rate / config.learning_rate).tolist()[0])
            assert batches.shape == (1, config.check_every, 32)
            steps = state.steps + config.check_every
            partition = jnp.broadcast_to(steps[:, None].astype(jnp.float32), (1, 2))
            return state._replace(steps=steps, log_partition=partition), np.zeros((1, 2))

        monkeypatch.setattr(mine, "train_chunk", train_chunk)
        monkeypatch.setattr(mine, "judge", lambda *_: np.array([next(script)], np.float32))
        # log_partition tells at how many steps (of all chunks) a state was made.
        state, info = mine.fit(fresh_stack(), KEY, *samples(), TRAIN, STOP, config)
        return state, info, np.array(rates)

    return run


def test_without_a_gain_the_rate_falls_and_then_the_fit_ends(told):
    first = [0.0, 0.5, 0.505, 0.4, 0.3, 0.2, 0.1]
    second = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    state, info, rates = told(*zip(first, second, strict=True), max_steps=60)
    # 0.505 is better than 0.5 but no gain; then 0.4: the rate falls. 0.3, 0.2: the end.
    np.testing.assert_allclose(rates[:, 0], [1, 1, 1, 1 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(rates[:, 1], 1, rtol=1e-6)
    np.testing.assert_array_equal(info.steps, [50, 60])
    np.testing.assert_array_equal(info.chosen_step, [20, 60])
    np.testing.assert_array_equal(info.converged, [True, False])
    assert info.finite.all()
    np.testing.assert_array_equal(info.steps_at, np.arange(0, 70, 10))
    # What has ended keeps its best value, whatever comes since.
    np.testing.assert_allclose(info.stop_nats[:, 0], [*first[:-1], 0.505])
    np.testing.assert_array_equal(state.log_partition, [20, 60])


def test_a_gain_makes_it_wait_anew(told):
    values = [0.0, 0.1, 0.05, 0.2, 0.15, 0.3, 0.2]
    _, info, rates = told(*zip(values, values, strict=True), max_steps=60)
    np.testing.assert_allclose(rates, 1, rtol=1e-6)
    np.testing.assert_array_equal(info.chosen_step, [50, 50])
    assert not info.converged.any()


def test_the_fit_ends_with_the_last_of_its_networks(told):
    values = [0.5, 0.4, 0.3, 0.2, 0.1, 9.0]
    state, info, rates = told(*zip(values, values, strict=True), max_steps=1000)
    assert len(rates) == 4
    np.testing.assert_array_equal(info.steps, [40, 40])
    np.testing.assert_array_equal(info.chosen_step, [0, 0])
    assert info.converged.all()
    assert_trees_equal(state.params, fresh_stack().params)


def test_the_cap_is_rounded_up_to_whole_checks(told):
    values = [0.1 * i for i in range(10)]
    _, info, rates = told(*zip(values, values, strict=True), max_steps=41)
    assert len(rates) == 5
    np.testing.assert_array_equal(info.steps, [50, 50])
    assert not info.converged.any()


@pytest.mark.parametrize("broken", [np.nan, -np.inf])
def test_what_is_not_finite_does_not_wait(told, broken):
    values = [(0.0, 0.0), (0.2, 0.1), (broken, 0.2), (0.3, 0.3), (broken, 0.4), (0.9, 0.5)]
    _, info, rates = told(*values, max_steps=50)
    np.testing.assert_allclose(rates[:, 0], [1, 1, 1 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_array_equal(info.finite, [False, True])
    np.testing.assert_array_equal(info.chosen_step, [30, 50])
    np.testing.assert_array_equal(info.converged, [True, False])


def test_a_start_that_is_not_finite_is_left_for_the_first_that_is(told):
    _, info, _ = told((np.nan, 0.0), (-1.0, 0.0), (-0.5, 0.1), max_steps=20)
    np.testing.assert_array_equal(info.chosen_step, [20, 20])
    np.testing.assert_array_equal(info.finite, [False, True])


@pytest.mark.parametrize(
    ("donsker_varadhan", "infonce", "wanted"),
    [
        (1.0, 0.9, 1.0),
        (0.8, 0.9, 0.9),
        (5.0, 3.0, 3.0),  # above ln 100
        (np.inf, 3.0, 3.0),
        (np.nan, 3.0, 3.0),
        (-np.inf, np.nan, np.nan),
    ],
)
def test_the_form_on_the_stopping_samples(donsker_varadhan, infonce, wanted):
    value = mine.better_form(np.array([donsker_varadhan]), np.array([infonce]), 100)
    np.testing.assert_array_equal(value, [wanted])


# Errors.


@pytest.mark.parametrize(
    ("x", "z"),
    [((8, 2), (7, 2)), ((8,), (8, 2)), ((8, 2), (8,)), ((8, 2, 1), (8, 2)), ((1, 2), (1, 2))],
)
@pytest.mark.parametrize("name", ["init", "step", "evaluate", "fit"])
def test_samples_that_do_not_fit_one_another_are_named_by_shape(name, x, z):
    rows = np.arange(4)
    x, z = np.zeros(x, np.float32), np.zeros(z, np.float32)
    calls = {
        "init": lambda: mine.init(KEY, x, z, CONFIG),
        "step": lambda: mine.step(None, KEY, x, z, CONFIG),
        "evaluate": lambda: mine.evaluate(None, KEY, x, z, CONFIG),
        "fit": lambda: mine.fit(None, KEY, x, z, rows, rows, CONFIG),
    }
    with pytest.raises(ValueError, match="same n >= 2") as error:
        calls[name]()
    assert str([x.shape, z.shape]) in str(error.value)


@pytest.mark.parametrize("name", ["step", "evaluate", "fit"])
def test_samples_that_do_not_fit_the_state_are_named_by_columns(name):
    rows = np.arange(4)
    x, z = np.zeros((8, 5), np.float32), samples()[1]["close"][:8]
    state = mine.select(fresh_stack(), CLOSE)
    calls = {
        "step": lambda: mine.step(state, KEY, x, z, CONFIG),
        "evaluate": lambda: mine.evaluate(state, KEY, x, z, CONFIG),
        "fit": lambda: mine.fit(state, KEY, x, z, rows, rows, CONFIG),
    }
    with pytest.raises(ValueError, match=r"take \(2,\) columns of x .* have \(5,\)"):
        calls[name]()


@pytest.mark.parametrize(
    ("train", "stop"),
    [(np.arange(1), np.arange(4)), (np.arange(4), np.arange(1)), (np.ones((2, 3), int), TRAIN)],
)
def test_rows_that_do_not_fit_are_named_by_shape(train, stop):
    with pytest.raises(ValueError, match="train_rows and stop_rows must be") as error:
        mine.fit(fresh_stack(), KEY, *samples(), train, stop, CONFIG)
    assert f"{train.shape} and {stop.shape}" in str(error.value)
