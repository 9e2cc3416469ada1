"""The classifier: an epoch against plain SGD, blocks against the whole, one compilation."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mine_jax import classifier
from mine_jax.lenet import LeNet5

SHAPE = (4, 4, 1)


class Small(nn.Module):
    """A two-layer classifier with two probe points."""

    width: int = 8

    @nn.compact
    def __call__(self, images, probes=()):
        """Gives the logits, and the probes where asked."""
        hidden = nn.relu(nn.Dense(self.width)(images.reshape(images.shape[0], -1)))
        logits = nn.Dense(3)(hidden)
        seen = {"image": images, "hidden": hidden, "logits": logits}
        return (logits, {name: seen[name] for name in probes}) if probes else logits


@functools.cache
def problem(n=250):
    """Three classes around three well separated random images."""
    key_means, key_labels, key_noise = jax.random.split(jax.random.key(0), 3)
    labels = jax.random.randint(key_labels, (n,), 0, 3)
    means = 2 * jax.random.normal(key_means, (3, *SHAPE))
    return means[labels] + 0.3 * jax.random.normal(key_noise, (n, *SHAPE)), labels


def train(epochs, key=1, config=None, model=None):
    """Trains on the problem; returns the state and the losses."""
    config = config or classifier.ClassifierConfig(batch_size=32, learning_rate=0.03)
    model = model or Small()
    state, losses = classifier.init(jax.random.key(7), model, config, SHAPE), []
    for _ in range(epochs):
        state, info = classifier.train_epoch(state, jax.random.key(key), model, config, *problem())
        losses.append(info.train_loss)
    return state, losses


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", 1.0),
        ("momentum", -0.1),
    ],
)
def test_a_bad_setting_is_refused_by_name_and_value(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        classifier.ClassifierConfig(**{field: value})


def test_equal_settings_are_one_static_argument():
    assert hash(classifier.ClassifierConfig()) == hash(classifier.ClassifierConfig())


def test_a_separable_problem_is_learned():
    state, losses = train(6)
    assert losses[-1] < 0.1 < losses[0]
    assert classifier.accuracy(state.params, Small(), *problem()) > 0.98
    assert state.epoch == 6
    assert state.epoch.dtype == jnp.int32


def test_lenet_learns_too():
    model, config = LeNet5(), classifier.ClassifierConfig(batch_size=8, learning_rate=0.01)
    labels = jnp.arange(16) % 2
    images = jnp.zeros((16, 28, 28, 1)).at[::2, :14].set(1.0).at[1::2, 14:].set(1.0)
    state = classifier.init(jax.random.key(0), model, config, (28, 28, 1))
    for _ in range(10):
        state, _ = classifier.train_epoch(state, jax.random.key(1), model, config, images, labels)
    assert classifier.accuracy(state.params, model, images, labels) == 1.0


def test_an_epoch_is_sgd_with_momentum_over_its_batches():
    config = classifier.ClassifierConfig(batch_size=32, learning_rate=0.05, momentum=0.7)
    model, (images, labels), key = Small(), problem(), jax.random.key(3)
    start = classifier.init(jax.random.key(7), model, config, SHAPE)
    state, info = classifier.train_epoch(start, key, model, config, images, labels)

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(params, rows):
        log_p = jax.nn.log_softmax(model.apply(params, images[rows]))
        return -jnp.take_along_axis(log_p, labels[rows][:, None], 1).mean()

    params, losses = start.params, []
    velocity = jax.tree.map(jnp.zeros_like, params)
    for rows in classifier._draw_batches(key, start.epoch, 250, 32):
        loss, gradient = loss_and_gradient(params, rows)
        velocity = jax.tree.map(lambda v, g: 0.7 * v + g, velocity, gradient)
        params = jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity)
        losses.append(float(loss))
    assert_trees_close(state.params, params, atol=1e-5)
    assert info.train_loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_an_epoch_uses_each_sample_at_most_once_and_drops_others_each_time():
    first, second = (
        np.asarray(classifier._draw_batches(jax.random.key(0), jnp.int32(e), 250, 32))
        for e in (0, 1)
    )
    for batches in (first, second):
        assert batches.shape == (7, 32)
        assert len(np.unique(batches)) == 7 * 32
        assert 0 <= batches.min() <= batches.max() < 250
    assert set(first.ravel()) != set(second.ravel())
    assert (first != np.sort(first.ravel()).reshape(7, 32)).any()


def test_the_key_decides_the_order_and_nothing_else_does():
    a, b, c = train(2, key=1), train(2, key=1), train(2, key=2)
    assert a[1] == b[1]
    jax.tree.map(np.testing.assert_array_equal, a[0], b[0])
    assert a[1] != c[1]


def test_the_start_depends_on_its_key():
    config = classifier.ClassifierConfig()
    a, b = (classifier.init(jax.random.key(i), Small(), config, SHAPE) for i in (0, 1))
    assert (
        a.params["params"]["Dense_0"]["kernel"] != b.params["params"]["Dense_0"]["kernel"]
    ).all()
    assert a.epoch == 0


def test_progress_is_reported_between_chunks(monkeypatch):
    config = classifier.ClassifierConfig(batch_size=2, learning_rate=0.01)
    state = classifier.init(jax.random.key(7), Small(), config, SHAPE)
    arguments = (state, jax.random.key(1), Small(), config, *problem())
    calls = []
    end, info = classifier.train_epoch(*arguments, on_progress=lambda *a: calls.append(a))
    assert [call[:2] for call in calls] == [(100, 125), (125, 125)]
    mean = (100 * calls[0][2] + 25 * calls[1][2]) / 125
    assert info.train_loss == pytest.approx(mean, rel=1e-5)
    assert calls[1][2] < calls[0][2]

    monkeypatch.setattr(classifier, "_STEPS_BETWEEN_REPORTS", 7)
    silent, _ = classifier.train_epoch(*arguments)
    jax.tree.map(np.testing.assert_array_equal, silent, end)


@pytest.mark.parametrize("stacked", [False, True])
def test_several_train_together_as_each_does_alone(monkeypatch, stacked):
    monkeypatch.setattr(classifier, "_pays_to_stack", lambda: stacked)
    monkeypatch.setattr(classifier, "_STEPS_BETWEEN_REPORTS", 50)
    config = classifier.ClassifierConfig(batch_size=2, learning_rate=0.01)
    keys = list(jax.random.split(jax.random.key(3), 3))
    states = [classifier.init(key, Small(), config, SHAPE) for key in keys]
    calls = []
    together = classifier.train_epochs(
        states, keys, Small(), config, *problem(), lambda *call: calls.append(call)
    )
    assert len(together) == 3
    for state, key, (end, info) in zip(states, keys, together, strict=True):
        alone, told = classifier.train_epoch(state, key, Small(), config, *problem())
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), end, alone)
        assert info.train_loss == pytest.approx(told.train_loss, rel=1e-5)
    assert len({info.train_loss for _, info in together}) == 3
    assert calls[-1][:2] == (375, 375)
    assert [done for done, *_ in calls] == sorted(done for done, *_ in calls)


def test_nothing_compiles_twice():
    # A width of its own, so that no other test has compiled this model before.
    model, config = Small(width=5), classifier.ClassifierConfig(batch_size=2)
    functions = (classifier.train_steps, classifier._draw_batches, classifier._predict)
    images, labels = problem()

    def sizes():
        return np.array([f.cache_size() for f in functions])

    state = classifier.init(jax.random.key(0), model, config, SHAPE)
    before, after = sizes(), []
    for epoch in range(3):
        state, _ = classifier.train_epoch(
            state, jax.random.key(epoch), model, config, images, labels
        )
        classifier.accuracy(state.params, model, images, labels, batch_size=60)
        after.append(sizes())
    assert ((after[0] - before)[[0, 2]] == 1).all()
    np.testing.assert_array_equal(after[1], after[0])
    np.testing.assert_array_equal(after[2], after[0])


def test_a_diverging_loss_is_reported_as_nan():
    config = classifier.ClassifierConfig(batch_size=32, learning_rate=1e30)
    _, losses = train(1, config=config)
    assert np.isnan(losses[0])


def test_fewer_samples_than_a_batch_are_refused():
    config = classifier.ClassifierConfig(batch_size=251)
    with pytest.raises(ValueError, match="250 samples do not fill one batch of 251"):
        train(1, config=config)


@pytest.mark.parametrize("bad", [lambda y: y[:-1], lambda y: y[:, None], lambda y: y * 1.0])
def test_labels_that_do_not_fit_are_refused(bad):
    images, labels = problem()
    state, _ = train(0)
    config = classifier.ClassifierConfig()
    with pytest.raises(ValueError, match="give integers of shape"):
        classifier.accuracy(state.params, Small(), images, bad(labels))
    with pytest.raises(ValueError, match="give integers of shape"):
        classifier.train_epoch(state, jax.random.key(0), Small(), config, images, bad(labels))


@pytest.mark.parametrize("batch_size", [1, 60, 249, 250, 1000])
def test_accuracy_in_blocks_is_the_accuracy(batch_size):
    images, labels = problem()
    state, _ = train(0)
    expected = float((Small().apply(state.params, images).argmax(-1) == labels).mean())
    assert 0.05 < expected < 0.95
    got = classifier.accuracy(state.params, Small(), images, labels, batch_size=batch_size)
    assert got == pytest.approx(expected)


@pytest.mark.parametrize("batch_size", [60, 250, 1000])
def test_probe_gives_what_the_model_gives_in_the_asked_order(batch_size):
    images, _ = problem()
    state, _ = train(0)
    names = ("logits", "hidden", "image")
    got = classifier.probe(state.params, Small(), images, names, batch_size=batch_size)
    assert tuple(got) == names
    _, expected = Small().apply(state.params, images, probes=names)
    assert_trees_close(got, expected, atol=1e-5)


def test_blocks_have_one_size_and_no_more_rows_than_asked():
    sizes = []

    def double(block):
        sizes.append(block.shape[0])
        return 2 * block

    images, _ = problem()
    doubled = classifier._in_blocks(double, images, 60)
    np.testing.assert_array_equal(doubled, 2 * images)
    assert sizes == [60] * 5


def test_blocks_that_cannot_be_are_refused():
    images, labels = problem()
    state, _ = train(0)
    with pytest.raises(ValueError, match="250 images in blocks of 0"):
        classifier.accuracy(state.params, Small(), images, labels, batch_size=0)
    with pytest.raises(ValueError, match="0 images in blocks"):
        classifier.probe(state.params, Small(), images[:0], ("hidden",))
    with pytest.raises(ValueError, match="names is empty"):
        classifier.probe(state.params, Small(), images, ())
