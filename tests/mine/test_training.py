"""Algorithm 1: initialization, batches, the pairs of a step, and its update."""

import functools
import itertools
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import mine
from mine_jax.mine import MineConfig, Samples, checks, chunks, stack, training

from .common import (
    BILINEAR,
    CONFIG,
    KEY,
    all_scores,
    assert_trees_equal,
    close,
    equal_widths,
    labels,
    naive_donsker_varadhan,
    network,
    normal,
    off_diagonal,
    randomize,
    samples,
)

pytestmark = pytest.mark.usefixtures("compile_fast")
jitted_step = jax.jit(mine.step, static_argnames="config")


def test_init_padded_network_has_weights_of_its_true_width():
    x, z = samples()
    config = replace(CONFIG, hidden=400)
    stacked, alone = mine.init(KEY, x, z, config), mine.init(KEY, x, z["narrow"], config)
    encoder = network(stacked.params)["z_encoder"]
    for name in ("columns", "squares"):
        # A fan-in of three columns and their squares, not of seven.
        assert abs(np.std(encoder[name][:3]) * np.sqrt(6) - 1) < 0.1
        np.testing.assert_array_equal(encoder[name][3:], 0)
    # The same up to rounding: programs of other widths may fuse a product and a sum.
    resized = stack.resize(network(stacked), network(alone))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), resized, network(alone))
    scores = all_scores(network(alone.params), None, x, z["narrow"], config)
    np.testing.assert_array_equal(scores, 0)
    first, second = (network(stacked.params, i)["x_encoder"]["columns"] for i in range(2))
    assert np.abs(first - second).max() > 0.1


def test_init_encoders_of_the_caller_have_weights_of_their_own_on_each_side():
    x, z = samples()
    one = nn.Dense(4)
    config = replace(CONFIG, x_encoder=one, z_encoder=one)
    params = jax.eval_shape(lambda: mine.init(KEY, x, z["wide"], config)).params
    kernels = [params[name]["kernel"].shape for name in ("x_module", "z_module")]
    assert kernels == [(1, 3, 4), (1, 7, 4)]
    # The first layer sees what the encoder returns.
    assert params["z_encoder"]["columns"].shape == (1, 4, CONFIG.hidden)


# The pairs of a batch.


@pytest.mark.parametrize("kind", ["separable", "concatenated", "labels"])
def test_score_batch_equals_network_on_its_pairs(kind):
    config = replace(CONFIG, network="concatenated" if kind == "concatenated" else "separable")
    x, z = samples()[0][:6], (labels() if kind == "labels" else samples()[1]["narrow"])[:6]
    x = 10 * x if kind == "labels" else x  # so far out that projections would be clipped
    state = network(randomize(mine.init(KEY, x, z, config)))
    fractions = jnp.array([0.5, 0.3, 0.2]) if kind == "labels" else None
    batch = training.Batch(x, np.float32(z), 3, 3, fractions)
    score = jax.jit(training.score_batch, static_argnames="config")
    scores = score(state.params, state.gaussian, batch, config=config)
    candidates = np.eye(3, dtype=np.float32) if kind == "labels" else z
    matrix = all_scores(state.params, state.gaussian, x, candidates, config)
    i, shifts = np.arange(6)[:, None], np.arange(1 + config.shuffles)
    if kind == "labels":
        joint, *expected = (matrix * z).sum(1), matrix, np.zeros(0), fractions
        scores = scores._replace(columns=np.zeros(0) if scores.columns is None else 1)
    else:
        joint, *expected = np.diagonal(matrix), matrix, matrix.T, 1 - np.eye(6)
    if kind == "concatenated":
        expected = matrix[i, (i + shifts) % 6], matrix[(i - shifts) % 6, i], [[0, 1, 1, 1]]
    for got, value in zip(scores, (joint, *expected), strict=True):
        close(got, value)


# A step.


@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_step_published_ascends_donsker_varadhan_of_one_shuffle(kind):
    config = MineConfig.published(hidden=8, batch_size=32)
    x, z = samples()[0][:32], (labels() if kind == "labels" else samples()[1]["narrow"])[:32]
    fresh, key = mine.init(KEY, x, z, config), jax.random.key(5)
    np.testing.assert_array_equal(all_scores(network(fresh.params), None, x, z, config), 0)
    state = randomize(fresh)
    after, info = jitted_step(key, state, x, z, config)
    order = jax.random.permutation(key, 32)
    matrix = all_scores(network(state.params), None, x, z, config)
    pairs = np.diagonal(matrix), matrix[order, np.roll(order, -1)]
    close(info.bound, naive_donsker_varadhan(*pairs))
    close(info.bound, mine.donsker_varadhan(*pairs))
    # Adam's first step has at most the size of the learning rate; decay would add to it.
    for new, old in zip(*map(jax.tree.leaves, (after.params, state.params)), strict=True):
        assert np.abs(new - old).max() <= config.learning_rate * (1 + 1e-2)
    assert_trees_equal(after.average, after.params)


@functools.cache
def two_steps(bound, mapper="map"):
    """Two steps of a stack whose first network has trained before."""
    changes = {"partition_weight": 0.3, "learning_rate": 1e-3, "mapper": mapper}
    config = replace(BILINEAR, bound=bound, shuffles=7, **changes)  # all others of 8 samples
    x, z = equal_widths(8)
    state = randomize(mine.init(KEY, x, z, config))
    state = state._replace(steps=jnp.array([50, 0]), log_partition=jnp.array([2.0, 5.0]))
    first, first_info = jitted_step(jax.random.key(0), state, x, z, config)
    second, second_info = jitted_step(jax.random.key(1), first, x, z, config)
    return (state, first, second), (first_info, second_info)


def test_step_raises_objective_and_moves_average():
    (before, after, _), infos = two_steps("donsker_varadhan")
    assert infos[0].bound.shape == infos[0].gradient_norm.shape == (2,)
    assert np.all(infos[1].bound > infos[0].bound)
    moved = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, before.average, after.params)
    jax.tree.map(functools.partial(close, atol=1e-6), after.average, moved)
    np.testing.assert_array_equal(after.steps, [51, 1])


@pytest.mark.parametrize("mapper", ["vmap", "map"])
def test_step_corrected_partition_average_is_that_of_each_network(mapper):
    states, infos = two_steps("mine", mapper)
    x, z = equal_widths(8)
    average = [np.exp(2.0), None]
    for before, after in itertools.pairwise(states):
        for i, name in enumerate(("narrow", "wide")):
            each = network(before, i)
            matrix = all_scores(each.params, None, x, z[name], BILINEAR)
            mean_exp = np.mean(np.exp(off_diagonal(matrix)))
            average[i] = mean_exp if average[i] is None else 0.7 * average[i] + 0.3 * mean_exp
        np.testing.assert_allclose(after.log_partition, np.log(average), rtol=1e-3, atol=1e-3)
    # Only a first step has the plain gradient; the reported bound is the plain one.
    plain = two_steps("donsker_varadhan")[1][0]
    ratio = infos[0].gradient_norm / plain.gradient_norm
    assert abs(ratio[1] - 1) < 1e-4 < abs(ratio[0] - 1)
    np.testing.assert_allclose(infos[0].bound, plain.bound, rtol=1e-4)


class Constant(nn.Module):
    """Scores without a gradient, and weights of any name."""

    @nn.compact
    def __call__(self, x, z):
        """From (n, …) and (n, …) to (n,)."""
        for name in ("mean", "maps", "kernel"):
            self.param(name, nn.initializers.ones, (3, 2))
        return jnp.zeros(len(x))


def test_step_decays_weights_of_any_name():
    config = MineConfig(network=Constant(), batch_size=32, learning_rate=0.1, weight_decay=0.5)
    x, z = equal_widths(32)
    state, _ = jitted_step(KEY, mine.init(KEY, x, z["wide"], config), x, z["wide"], config)
    assert set(state.params["module"]) == {"mean", "maps", "kernel"}
    for weights in jax.tree.leaves(state.params):
        np.testing.assert_allclose(weights, 1 - 0.1 * 0.5, rtol=1e-6)


# Batches.


@pytest.mark.parametrize("n", [20, 33, 96])
def test_draw_batches_pass_has_every_row_at_most_once(n):
    config = replace(CONFIG, check_every=7)
    rows = 1000 + np.stack([np.arange(n), 2 * np.arange(n)])
    batches = chunks.draw_batches(jax.random.split(KEY), 0, rows, config)
    per_pass = max(1, n // 32)
    assert batches.shape == (2, 7, min(n, 32))
    for fold in range(2):
        for start in range(0, 7, per_pass):
            drawn = batches[fold, start : start + per_pass].ravel()
            assert len(set(drawn)) == len(drawn)
            assert set(drawn) <= set(rows[fold])
        assert not np.array_equal(batches[fold, 0], batches[fold, per_pass])


def test_training_rows_noise_is_on_data_columns_only():
    narrow, wide = np.zeros((5000, 3), np.float32), np.ones((5000, 7), np.float32)
    noisy, quiet = Samples(narrow + 9, narrow, 0.5), Samples(wide)
    alone = stack.stack_samples([(quiet, noisy)])
    both = stack.stack_samples([(quiet, noisy), (quiet, quiet)])
    rows = jnp.arange(5000)
    values = np.asarray(chunks.training_rows(KEY, both.z, 0, rows))
    np.testing.assert_allclose(values[:, :3].std(0), 0.5, rtol=0.05)
    assert np.abs(np.corrcoef(values[:, :3].T) - np.eye(3)).max() < 0.1
    np.testing.assert_array_equal(values[:, 3:], 0)
    # Neither the stack nor its padding changes a network's noise.
    np.testing.assert_array_equal(chunks.training_rows(KEY, alone.z, 0, rows), values[:, :3])
    np.testing.assert_array_equal(chunks.training_rows(KEY, both.z, 1, rows), wide)


def test_training_rows_of_images_have_noise_in_each_pixel():
    images = np.zeros((2000, 3, 2, 2), np.float32)
    side = stack.stack_samples([(Samples(images, images, 0.5), Samples(images))]).x
    noise = np.asarray(chunks.training_rows(KEY, side, 0, jnp.arange(2000)))
    assert noise.shape == images.shape
    assert np.abs(np.cov(noise.reshape(2000, 12).T) - 0.25 * np.eye(12)).max() < 0.05


def test_train_chunk_noise_differs_between_steps_and_sides():
    config = replace(BILINEAR, bound="donsker_varadhan")
    x, z = 0.1 * normal(0, 64, 2), np.zeros((64, 2), np.float32)
    data = stack.stack_samples([(Samples(x, x, 1.0), Samples(z, z, 1.0))])
    state = training.init_stack(KEY[None], data, config)
    params = {"module": {"mean": jnp.zeros((1, 2)), "maps": 0.5 * jnp.eye(2)[None]}}
    first_rows, second_rows = np.arange(32), np.arange(32, 64)

    def mean_nats(*batches):
        chunk = KEY[None], 0, np.stack(batches)[None], np.zeros(1, int), data, config
        active, rate = np.array([True]), np.zeros(1, np.float32)
        return chunks.train_chunk(state._replace(params=params), active, rate, *chunk)[1]

    # At a rate of zero only the noise can depend on the order; T is large where both sides' agrees.
    assert abs(mean_nats(first_rows, second_rows) - mean_nats(second_rows, first_rows)) > 1e-3
    assert mean_nats(first_rows, second_rows) < 0.2


@pytest.mark.parametrize("mapper", ["vmap", "map"])
def test_step_second_time_compiles_nothing(mapper, compilations):
    x, z = samples()
    config = replace(CONFIG, mapper=mapper, learning_rate=0.0123)  # unlike any other test
    state = mine.init(KEY, x, z, config)
    state, _ = mine.step(KEY, state, x, z, config)
    with compilations() as again:
        mine.step(KEY, state, x, z, config)
    assert not again


# Checks.


@pytest.mark.parametrize("name", ["init", "step", "evaluate", "fit"])
def test_public_functions_bad_arguments_raise(name):
    def call(key, state, x, z, config=CONFIG):
        rows = (np.arange(4), np.arange(4)) if name == "fit" else ()
        return getattr(mine, name)(key, *([state] * (name != "init")), x, z, *rows, config)

    x, z = samples()
    state = mine.MineState(*[np.zeros(2, np.uint32)] * 6)
    with pytest.raises(TypeError, match=rf"{name} takes a PRNG key first.*got MineState"):
        call(state, KEY, x, z)
    with pytest.raises(ValueError, match=r"same n >= 2.*\[\(240, 3\), \(8, 3\)\]"):
        call(KEY, None, x, z["narrow"][:8])
    with pytest.raises(TypeError, match="MineConfig"):
        call(KEY, state, x, z["wide"], "published")
    if name != "init":
        state = jax.eval_shape(lambda: mine.init(KEY, x, z["narrow"], CONFIG))
        widths = r"\['z_encoder'\]\['columns'\] is \(1, 3, 8\), expected \(1, 7, 8\)"
        with pytest.raises(ValueError, match=widths):
            call(KEY, state, x, z["wide"])


def test_init_shared_layers_need_sides_of_one_shape():
    config = replace(CONFIG, shared=True)
    x, named = samples()
    state = mine.init(KEY, x, named["narrow"], config)
    assert "z_encoder" not in state.params
    with pytest.raises(ValueError, match=r"one shape once they are prepared, got .*3.* and .*7"):
        mine.init(KEY, x, named["wide"], config)
    with pytest.raises(ValueError, match=r"got 3 columns and 7 columns; set shared="):
        mine.init(KEY, {"a": x, "b": named["wide"]}, {"c": x, "d": named["wide"]}, config)
    with pytest.raises(ValueError, match=r"got \(8, 4, 1\) and \(4, 8, 1\)"):
        mine.init(KEY, normal(0, 20, 8, 4, 1), normal(1, 20, 4, 8, 1), config)


def test_check_key_legacy_key_is_wrapped_and_others_raise():
    assert checks.check_key(jax.random.PRNGKey(3), "init") == jax.random.key(3)
    for wrong in (jax.random.split(KEY), jnp.zeros(2), 0, None):
        with pytest.raises(TypeError, match=r"takes a (PRNG key first|single PRNG key)"):
            checks.check_key(wrong, "init")


NUMBERS, CLASSES = np.zeros((8, 2), np.float32), np.eye(8, 3, -5, np.uint8)
CLASSES[:, 0] |= CLASSES.sum(axis=1) == 0
IMAGES = np.zeros((8, 3, 3, 1), np.float32)


@pytest.mark.parametrize(
    ("x", "z", "message"),
    [
        (np.zeros(8), NUMBERS, r"same n >= 2.*\[\(8,\), \(8, 2\)\]"),
        (NUMBERS, np.zeros((8, 2, 1)), r"\(8, 2, 1\)"),
        (np.zeros((1, 2)), np.zeros((1, 2)), r"\(1, 2\)"),
        (CLASSES, NUMBERS, r"must be passed as z.*x \['uint8'\] and z \['float32'\]"),
        (NUMBERS, {"a": CLASSES, "b": NUMBERS}, r"mix.*z \['uint8', 'float32'\]"),
        (NUMBERS, {"a": CLASSES, "b": CLASSES[:, :2]}, r"classes.*\(8, 3\), \(8, 2\)"),
        (NUMBERS, 7 * CLASSES, r"one-hot labels, but its rows are not.*cast numbers"),
        (NUMBERS, IMAGES.astype(np.uint8), r"one-hot labels.*\(8, 3, 3, 1\)"),
        ({"a": NUMBERS, "b": IMAGES}, NUMBERS, r"or images of one shape; got x \[\(8, 2\)"),
        (NUMBERS, {"a": IMAGES, "b": IMAGES[:, 1:]}, r"got z .*\(8, 2, 3, 1\)\]"),
    ],
)
def test_check_data_bad_samples_are_named(x, z, message):
    with pytest.raises(ValueError, match=message):
        checks.check_data(x, z)
