"""MINE's step and fit: pairings, stacks, stopping, and what must not change or compile again."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from mine_jax import bounds, mine
from mine_jax.mine import MineConfig

# One configuration and one set of shapes for all fits: compiling is what takes the time.
CONFIG = MineConfig(
    hidden=8,
    products=4,
    batch_size=32,
    pairings=3,
    learning_rate=2e-2,
    average_decay=0.9,
    check_every=10,
    patience=2,
    max_steps=150,
    stop_pairings=8,
)
TRAIN, STOP, REST = np.arange(120), np.arange(120, 200), np.arange(200, 240)
NOISE, CLOSE = 0, 1  # positions of the networks in the stack


@functools.cache
def samples():
    """x, and z by name: noise of three columns and a column close to the first of x."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((240, 2)).astype(np.float32)
    noise = rng.standard_normal((240, 3)).astype(np.float32)
    close = x[:, :1] + 0.5 * rng.standard_normal((240, 1)).astype(np.float32)
    return x, {"close": close, "a_noise": noise}


def pairs():
    return mine.pairs_of(*samples())


@functools.cache
def fresh_stack():
    return mine.init(jax.random.key(0), *samples(), CONFIG)


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


def all_pairs(weights, x, z, config=CONFIG):
    """T of every x with every z by the network alone, for a stack of one."""
    params = {
        **jax.tree.map(lambda leaf: leaf[0], weights["trunk"]),
        "x_first": weights["x_first"][0],
        "z_first": weights["z_first"][0],
    }
    n = len(x)
    scores = config.network().apply({"params": params}, np.repeat(x, n, axis=0), np.tile(z, (n, 1)))
    return np.float64(scores).reshape(n, n)


def assert_trees_close(got, wanted, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), got, wanted)


def without_bias(stack):
    """Without the last bias: no bound depends on it, and Adam scales its rounding up."""
    trunk = stack["trunk"]
    return {**stack, "trunk": {**trunk, "last": trunk["last"]["kernel"]}}


def assert_trees_equal(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


# The configuration.


@pytest.mark.parametrize(
    "name",
    [
        "hidden",
        "depth",
        "batch_size",
        "pairings",
        "check_every",
        "patience",
        "max_steps",
        "folds",
        "report_pairings",
        "stop_pairings",
    ],
)
@pytest.mark.parametrize("value", [0, -3, 2.5, True])
def test_a_configuration_that_makes_no_sense_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be an integer .*got {value!r}"):
        MineConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("products", -1),
        ("rate_falls", -1),
        ("batch_size", 1),
        ("folds", 1),
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("min_gain", -1e-9),
        ("min_gain", float("nan")),
        ("partition_weight", 0.0),
        ("partition_weight", 1.5),
        ("average_decay", 1.0),
        ("average_decay", -0.1),
        ("stop_fraction", 0.0),
        ("stop_fraction", 0.8),
        ("pairings", 256),
    ],
)
def test_a_number_out_of_range_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must .*got {value!r}"):
        MineConfig(**{name: value})


def test_the_limits_themselves_are_allowed():
    MineConfig(products=0, rate_falls=0, min_gain=0.0, partition_weight=1.0, average_decay=0.0)
    MineConfig(batch_size=2, pairings=1, folds=2, stop_fraction=0.49)


def test_equal_configurations_are_one_key():
    assert MineConfig(hidden=8) == MineConfig(hidden=8) != MineConfig(hidden=9)
    assert hash(MineConfig(hidden=8)) == hash(MineConfig(hidden=8))
    assert len({MineConfig(), MineConfig(), replace(MineConfig(), depth=3)}) == 2
    with pytest.raises(AttributeError):
        MineConfig().hidden = 3


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
    batches = np.asarray(mine._batches(jax.random.key(0), n, config))
    size = min(n, batch_size)
    assert batches.shape == (7, size)
    per_pass = n // size
    for start in range(0, 7, per_pass):
        rows = batches[start : start + per_pass].ravel()
        assert len(set(rows.tolist())) == len(rows)
        assert 0 <= rows.min() <= rows.max() < n
    # Passes differ, also in which rows are left out and in which rows are neighbours.
    assert not np.array_equal(batches[0], batches[per_pass])


def off_diagonal(matrix):
    return matrix[~np.eye(len(matrix), dtype=bool)]


@pytest.mark.parametrize("joint_in_marginal", [True, False])
def test_a_step_with_all_shifts_takes_the_bound_over_all_pairs(joint_in_marginal):
    config = replace(CONFIG, pairings=7, joint_in_marginal=joint_in_marginal)
    x, z = samples()[0][:8], samples()[1]["a_noise"][:8]
    state = any_weights(mine.init(jax.random.key(0), x, z, config))
    matrix = all_pairs(state.params, x, z)
    marginal = matrix if joint_in_marginal else off_diagonal(matrix)
    _, info = jitted_step(state, jax.random.key(5), x, z, config)
    assert info.bound.shape == info.gradient_norm.shape == ()
    np.testing.assert_allclose(
        info.bound, np.diag(matrix).mean() - np.log(np.exp(marginal).mean()), rtol=1e-4
    )


jitted_step = jax.jit(mine.step, static_argnames="config")


@pytest.mark.parametrize("key", [0, 1])
def test_no_pairing_of_a_step_has_a_fixed_point(key):
    # T is 5 for a sample with itself and 0 for any other: one fixed point would lower the bound.
    n = 6
    config = replace(CONFIG, hidden=1, products=n, pairings=2, joint_in_marginal=False)
    x = np.eye(n, dtype=np.float32)
    state = mine.init(jax.random.key(0), x, x, config)
    kernel = np.sqrt(n) * np.eye(n, 1 + n, 1, dtype=np.float32)
    trunk = state.params["trunk"]
    product = {**trunk["product"], "cross": jnp.full((1, n), 5.0)}
    params = {
        "x_first": ({"kernel": kernel, "bias": jnp.zeros(1 + n)},),
        "z_first": ({"kernel": kernel},),
        "trunk": {**trunk, "product": product},
    }
    _, info = jitted_step(state._replace(params=params), jax.random.key(key), x, x, config)
    np.testing.assert_allclose(info.bound, 5, rtol=1e-5)


def test_evaluate_with_all_shifts_is_the_bound_of_the_average_over_all_pairs():
    config = replace(CONFIG, report_pairings=100)
    x, z = samples()[0][:9], samples()[1]["a_noise"][:9]
    state = any_weights(mine.init(jax.random.key(0), x, z, config))
    matrix = all_pairs(state.average, x, z)
    value = mine.evaluate(state, jax.random.key(3), x, z, config)
    assert value.nats.shape == value.stderr.shape == ()
    np.testing.assert_allclose(
        value.nats, np.diag(matrix).mean() - np.log(np.exp(matrix).mean()), rtol=1e-4
    )
    other = mine.evaluate(state, jax.random.key(4), x, z, config)
    np.testing.assert_allclose(other.nats, value.nats, rtol=1e-4)
    np.testing.assert_allclose(other.stderr, value.stderr, rtol=1e-4)


# One step.


def dots_with(jaxpr, width):
    """Numbers of matrix products in all, and of those with an operand of this many columns."""
    total = wide = 0
    for equation in jaxpr.eqns:
        for sub in jaxprs_in_params(equation.params):
            inner = dots_with(sub, width)
            total, wide = total + inner[0], wide + inner[1]
        if equation.primitive.name == "dot_general":
            total += 1
            wide += any(width in variable.aval.shape for variable in equation.invars)
    return total, wide


def test_the_first_layer_is_computed_once_however_many_pairings():
    x, z = np.ones((32, 13), np.float32), np.ones((32, 17), np.float32)
    state = mine.init(jax.random.key(0), x, z, CONFIG)
    totals = []
    for pairings in (1, 6):
        config = replace(CONFIG, pairings=pairings)
        step = functools.partial(mine.step, config=config)
        jaxpr = jax.make_jaxpr(step)(state, jax.random.key(0), x, z).jaxpr
        for width in (13, 17):
            total, wide = dots_with(jaxpr, width)
            # Forward, and backward to the kernel.
            assert wide == 2, (pairings, width)
        totals.append(total)
    assert totals[0] < totals[1]


def batch():
    x, z = samples()
    return x[:64], {name: value[:64] for name, value in z.items()}


@functools.cache
def two_steps(**changes):
    config = replace(CONFIG, **changes)
    state, infos = any_weights(fresh_stack()), []
    states = [state]
    for i in range(2):
        state, info = jitted_step(state, jax.random.key(i), *batch(), config)
        states.append(state)
        infos.append(info)
    return states, infos


def test_step_one_with_the_corrected_gradient_is_step_one_with_the_plain_one():
    plain, plain_infos = two_steps()
    corrected, corrected_infos = two_steps(bias_corrected=True, partition_weight=0.3)
    assert_trees_close(corrected_infos[0], plain_infos[0], rtol=1e-4)
    assert_trees_close(
        without_bias(corrected[1].params), without_bias(plain[1].params), rtol=1e-3, atol=1e-4
    )
    # From the second step on the average is another.
    ratio = corrected_infos[1].gradient_norm / plain_infos[1].gradient_norm
    assert np.all(np.abs(ratio - 1) > 1e-3)


@jax.jit
def bounds_of(params, order):
    """The stack's bounds, and log partitions, of the batch in this order."""
    x, z = batch()
    x, z = {"_": jnp.asarray(x)[order]}, {name: jnp.asarray(v)[order] for name, v in z.items()}
    joint, pairings = mine._scores(params, x, z, (1, 2, 3), pairs(), CONFIG)
    partitions = jax.vmap(bounds.log_partition)(joint, pairings)
    return joint.mean(1) - partitions, partitions


def order_of(key):
    return jax.random.permutation(jax.random.key(key), 64)


def test_the_partition_average_starts_from_the_first_batch_and_then_moves():
    states, infos = two_steps(bias_corrected=True, partition_weight=0.3)
    average = None
    for i, info in enumerate(infos):
        value, batch_partition = bounds_of(states[i].params, order_of(i))
        np.testing.assert_allclose(info.bound, value, rtol=1e-4, atol=1e-5)
        if i == 0:
            average = batch_partition
        else:
            average = np.log(0.7 * np.exp(average) + 0.3 * np.exp(batch_partition))
        np.testing.assert_allclose(states[i + 1].log_partition, average, rtol=1e-4, atol=1e-5)
    assert np.all(np.abs(average - batch_partition) > 1e-3)


def test_a_step_is_adam_upwards_and_the_average_follows():
    states, infos = two_steps()
    before, after = states[:2]
    gradient = jax.grad(lambda params: bounds_of(params, order_of(0))[0].sum())(before.params)
    adam = optax.adam(CONFIG.learning_rate)
    down = jax.tree.map(jnp.negative, gradient)
    updates, _ = adam.update(down, adam.init(before.params))
    expected = optax.apply_updates(before.params, updates)
    assert_trees_close(without_bias(after.params), without_bias(expected), rtol=1e-3, atol=1e-4)
    assert np.all(bounds_of(after.params, order_of(0))[0] > infos[0].bound)
    assert_trees_close(
        after.average,
        jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, before.average, after.params),
        rtol=1e-5,
        atol=1e-6,
    )
    for i in range(2):
        own = mine.select(before._replace(params=gradient), i).params
        np.testing.assert_allclose(infos[0].gradient_norm[i], optax.global_norm(own), rtol=1e-4)
    assert int(after.steps) == 1


def test_a_stack_is_in_the_order_of_sorted_names():
    x, z = samples()
    assert mine.pairs_of({"q": x, "p": x}, z) == (
        ("p", "a_noise"),
        ("p", "close"),
        ("q", "a_noise"),
        ("q", "close"),
    )
    widths = [first["kernel"].shape[0] for first in fresh_stack().params["z_first"]]
    assert widths == [3, 1]


def test_networks_of_a_stack_start_from_weights_of_their_own():
    x = samples()[0]
    state = mine.init(jax.random.key(0), x, {"a": x, "b": x}, CONFIG)
    first, second = (mine.select(state, i).params["z_first"][0]["kernel"] for i in range(2))
    assert np.abs(first - second).max() > 0.1
    again = mine.init(jax.random.key(0), x, {"a": x, "b": x}, CONFIG)
    assert_trees_equal(again, state)


# A fit.


def test_a_stacked_fit_is_the_separate_fits():
    x, z = samples()
    state, info = fitted_stack()
    assert info.stop_nats.shape == info.batch_nats.shape == (len(info.steps_at), 2)
    assert info.chosen_step.shape == info.steps.shape == info.finite.shape == (2,)
    assert info.steps[NOISE] < info.steps[CLOSE]  # or freezing would go untested
    for i, (_, name) in enumerate(mine.pairs_of(x, z)):
        alone, own = fit(mine.select(fresh_stack(), i), x, z[name])
        checks = len(own.steps_at)
        np.testing.assert_allclose(info.stop_nats[:checks, i], own.stop_nats, atol=2e-4)
        np.testing.assert_allclose(info.batch_nats[1:checks, i], own.batch_nats[1:], atol=2e-4)
        assert (info.chosen_step[i], info.steps[i]) == (own.chosen_step, own.steps)
        assert bool(info.converged[i]) == bool(own.converged)
        chosen = mine.select(state, i)
        # Adam divides small gradients by their size: rounding shows in the third digit.
        for got, own in ((chosen.params, alone.params), (chosen.average, alone.average)):
            assert_trees_close(without_bias(got), without_bias(own), rtol=1e-2, atol=2e-3)


def test_a_network_that_has_ended_no_longer_changes():
    _, info = fitted_stack()
    ended = int(info.steps[NOISE]) // CONFIG.check_every
    assert bool(info.converged[NOISE])
    after = info.stop_nats[ended + 1 :, NOISE]
    assert len(after) > 0
    np.testing.assert_array_equal(after, info.stop_nats[:, NOISE].max())


def test_the_chosen_state_is_the_best_on_the_stopping_samples():
    x, z = samples()
    state, info = fitted_stack()
    again = mine._start(state_with_folds(state), {"_": x}, z, STOP[None], pairs(), CONFIG)
    np.testing.assert_allclose(again.best_nats[0], info.stop_nats.max(0), atol=1e-6)
    best_checks = info.stop_nats.argmax(0)
    np.testing.assert_array_equal(info.chosen_step, info.steps_at[best_checks])
    # The networks learnt something: I of this pair is 0.5 log 5 = 0.80.
    assert info.stop_nats[:, CLOSE].max() > 0.4
    unseen = mine.evaluate(
        state, jax.random.key(0), x[REST], {k: v[REST] for k, v in z.items()}, CONFIG
    )
    assert unseen.nats[CLOSE] > 0.3
    # The first value is that of T = 0.
    np.testing.assert_allclose(info.stop_nats[0], 0, atol=1e-6)
    assert np.isnan(info.batch_nats[0]).all()


def state_with_folds(state):
    return jax.tree.map(lambda leaf: leaf[None], state)


def progress_of(state):
    x, z = samples()
    return mine._start(state_with_folds(state), {"_": x}, z, STOP[None], pairs(), CONFIG)


def a_chunk(progress):
    x, z = samples()
    return mine._chunk(
        progress,
        jax.random.key(0),
        {"_": x},
        z,
        jnp.asarray(TRAIN[None]),
        jnp.asarray(STOP[None]),
        pairs=pairs(),
        config=CONFIG,
    )


def change(progress):
    """How far a chunk moves the trunk of each network."""
    after, _, _ = a_chunk(progress)
    before = progress.state.params["trunk"]
    squares = jax.tree.map(
        lambda a, b: jnp.sum(jnp.square(a - b), axis=tuple(range(2, a.ndim)))[0],
        after.state.params["trunk"],
        before,
    )
    return np.sqrt(sum(jax.tree.leaves(squares)))


def test_a_fall_takes_the_rate_to_a_third_and_the_end_to_zero():
    progress = progress_of(any_weights(fresh_stack()))
    full = change(progress)
    third = change(progress._replace(falls=jnp.array([[1, 0]], jnp.int32)))
    # Ten steps do not move exactly in proportion to their rate.
    assert 0.25 < third[NOISE] / full[NOISE] < 0.42
    np.testing.assert_allclose(third[CLOSE], full[CLOSE], rtol=1e-5)
    ended = change(progress._replace(done=jnp.array([[False, True]])))
    assert ended[CLOSE] == 0
    np.testing.assert_allclose(ended[NOISE], full[NOISE], rtol=1e-5)


@pytest.mark.parametrize(
    ("waited", "falls", "nats", "expected"),
    [
        # (best, waited, falls, done, set back)
        (1, 0, 0.60, (0.60, 0, 0, False, False)),
        (0, 0, 0.5005, (0.5005, 1, 0, False, False)),  # better, but by less than min_gain
        (0, 0, 0.4, (0.5, 1, 0, False, False)),
        (1, 0, 0.4, (0.5, 0, 1, False, True)),
        (1, 1, 0.4, (0.5, 0, 1, True, True)),
        (0, 0, np.nan, (0.5, 0, 1, False, True)),
        (0, 1, -np.inf, (0.5, 0, 1, True, True)),
    ],
)
def test_decisions_after_a_check(waited, falls, nats, expected):
    old, new = fresh_stack(), any_weights(fresh_stack())
    ints = functools.partial(jnp.asarray, dtype=jnp.int32)
    progress = mine._Progress(
        state=old,
        best=old,
        best_nats=jnp.array([0.5, 0.5]),
        best_step=ints([20, 20]),
        waited=ints([waited, 0]),
        falls=ints([falls, 0]),
        done=jnp.array([False, True]),
        steps=ints([30, 20]),
    )
    after = mine._decide(progress, new, jnp.array([nats, 9.0]), CONFIG)
    best, waits, fallen, done, set_back = expected
    np.testing.assert_allclose(after.best_nats, [best, 0.5])
    assert (int(after.waited[0]), int(after.falls[0]), bool(after.done[0])) == (waits, fallen, done)
    np.testing.assert_array_equal(after.best_step, [40 if best > 0.5 else 20, 20])
    np.testing.assert_array_equal(after.steps, [40, 20])
    kept, other = mine.select(after.state, 0), mine.select(old if set_back else new, 0)
    assert_trees_equal((kept.params, kept.average), (other.params, other.average))
    # A network that has ended keeps its best, whatever came since.
    assert_trees_equal(mine.select(after.best, 1).average, mine.select(old, 1).average)
    assert bool(after.done[1])
    assert int(after.falls[1]) == 0


def compilations():
    """A list that grows with each compilation from now on."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seen


def test_a_second_fit_of_the_same_shapes_compiles_nothing():
    x, z = samples()
    state, _ = fitted_stack()
    fit(state, x, z)
    sizes = mine._chunk._cache_size(), mine._start._cache_size()
    seen = compilations()
    fit(state, x + 1, z, key=2)
    assert (mine._chunk._cache_size(), mine._start._cache_size()) == sizes
    assert seen == []
    jax.jit(lambda value: value * 3 + len(seen))(1.0)
    assert len(seen) == 1  # the listener does listen


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


def test_a_fit_starts_where_the_earlier_one_ended():
    _, info = fitted_stack()
    state, again = fit(fitted_stack()[0], *samples(), key=7)
    np.testing.assert_allclose(again.stop_nats[0], info.stop_nats.max(0), atol=1e-6)
    assert np.all(again.stop_nats.max(0) >= again.stop_nats[0])
    assert int(state.steps) >= int(fitted_stack()[0].steps)


def test_progress_is_told_after_each_check():
    calls = []
    _, info = fit(fresh_stack(), *samples(), on_progress=lambda *args: calls.append(args))
    assert [done for done, _, _ in calls] == info.steps_at[1:].tolist()
    assert {total for _, total, _ in calls} == {CONFIG.max_steps}
    assert [len(report.stop_nats) for _, _, report in calls] == list(range(2, len(calls) + 2))
    assert_trees_equal(calls[-1][2], info)


# Stacks apart and together.


@pytest.mark.parametrize("folds", [False, True])
def test_joining_what_was_selected_gives_the_stack_back(folds):
    state = fitted_stack()[0]
    if folds:
        other = any_weights(state)
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), state, other, state)
    parts = [mine.select(state, i, folds=folds) for i in range(2)]
    assert parts[1].params["z_first"][0]["kernel"].shape[-2] == 1
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
    states = [mine.init(jax.random.key(0), x, x, replace(CONFIG, hidden=h)) for h in (8, 9)]
    with pytest.raises(ValueError, match="must be of one configuration"):
        mine.join(states)


# Errors.


@pytest.mark.parametrize(
    ("x", "z"),
    [((8, 2), (7, 2)), ((8,), (8, 2)), ((8, 2), (8,)), ((8, 2, 1), (8, 2)), ((1, 2), (1, 2))],
)
@pytest.mark.parametrize("name", ["init", "step", "evaluate", "fit"])
def test_samples_that_do_not_fit_one_another_are_named_by_shape(name, x, z):
    key, rows = jax.random.key(0), np.arange(4)
    x, z = np.zeros(x, np.float32), np.zeros(z, np.float32)
    calls = {
        "init": lambda: mine.init(key, x, z, CONFIG),
        "step": lambda: mine.step(None, key, x, z, CONFIG),
        "evaluate": lambda: mine.evaluate(None, key, x, z, CONFIG),
        "fit": lambda: mine.fit(None, key, x, z, rows, rows, CONFIG),
    }
    with pytest.raises(ValueError, match="same n >= 2") as error:
        calls[name]()
    assert str([x.shape, z.shape]) in str(error.value)


@pytest.mark.parametrize("name", ["step", "evaluate", "fit"])
def test_samples_that_do_not_fit_the_state_are_named_by_columns(name):
    key, rows = jax.random.key(0), np.arange(4)
    x, z = np.zeros((8, 5), np.float32), samples()[1]["close"][:8]
    state = mine.select(fresh_stack(), CLOSE)
    calls = {
        "step": lambda: mine.step(state, key, x, z, CONFIG),
        "evaluate": lambda: mine.evaluate(state, key, x, z, CONFIG),
        "fit": lambda: mine.fit(state, key, x, z, rows, rows, CONFIG),
    }
    with pytest.raises(ValueError, match=r"take \(2,\) columns of x .* have \(5,\)"):
        calls[name]()


@pytest.mark.parametrize(
    ("train", "stop"),
    [(np.arange(1), np.arange(4)), (np.arange(4), np.arange(1)), (np.ones((2, 3), int), TRAIN)],
)
def test_rows_that_do_not_fit_are_named_by_shape(train, stop):
    with pytest.raises(ValueError, match="train_rows and stop_rows must be") as error:
        mine.fit(fresh_stack(), jax.random.key(0), *samples(), train, stop, CONFIG)
    assert f"{train.shape} and {stop.shape}" in str(error.value)
