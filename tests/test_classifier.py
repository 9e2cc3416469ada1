"""Tests of the classifier: an epoch against plain SGD, blocks against the whole, compilations."""

import functools
import re

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
        """Compute the logits, and the activations of `probes`."""
        hidden = nn.relu(nn.Dense(self.width)(images.reshape(images.shape[0], -1)))
        logits = nn.Dense(3)(hidden)
        activations = {"image": images, "hidden": hidden, "logits": logits}
        return (logits, {name: activations[name] for name in probes}) if probes else logits


@functools.cache
def problem(n=250):
    """Three classes around three well separated random images."""
    key_means, key_labels, key_noise = jax.random.split(jax.random.key(0), 3)
    labels = jax.random.randint(key_labels, (n,), 0, 3)
    means = 2 * jax.random.normal(key_means, (3, *SHAPE))
    return means[labels] + 0.3 * jax.random.normal(key_noise, (n, *SHAPE)), labels


def train(epochs, key=1, config=None):
    """Train on the problem; return the state and the losses."""
    config = config or classifier.ClassifierConfig(batch_size=32, learning_rate=0.03)
    state, losses = classifier.init(jax.random.key(7), Small(), config, SHAPE), []
    for _ in range(epochs):
        state, info = classifier.train_epoch(
            state, jax.random.key(key), Small(), config, *problem()
        )
        losses.append(info.train_loss)
    return state, losses


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("batch_size", "128"),
        ("batch_size", 1e30),
        ("batch_size", True),
        ("learning_rate", None),
        ("learning_rate", 1e300),
        ("momentum", True),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", 1.0),
        ("momentum", -0.1),
    ],
)
def test_classifier_config_value_out_of_range_raises_with_name_and_value(field, value):
    with pytest.raises(ValueError, match=rf"{field} must .*got {re.escape(repr(value))}"):
        classifier.ClassifierConfig(**{field: value})


def test_train_epoch_trains_lenet5():
    model, config = LeNet5(), classifier.ClassifierConfig(batch_size=8, learning_rate=0.01)
    labels = jnp.arange(16) % 2
    images = jnp.zeros((16, 28, 28, 1)).at[::2, :14].set(1.0).at[1::2, 14:].set(1.0)
    state = classifier.init(jax.random.key(0), model, config, (28, 28, 1))
    for _ in range(10):
        state, _ = classifier.train_epoch(state, jax.random.key(1), model, config, images, labels)
    assert classifier.accuracy(state.params, model, images, labels) == 1.0
    assert state.epoch == 10


def test_train_epoch_equals_sgd_with_momentum_over_its_batches():
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
    for rows in classifier.draw_batches(key, start.epoch, 250, 32):
        loss, gradient = loss_and_gradient(params, rows)
        velocity = jax.tree.map(lambda v, g: 0.7 * v + g, velocity, gradient)
        params = jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity)
        losses.append(float(loss))
    assert_trees_close(state.params, params, atol=1e-5)
    assert info.train_loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_draw_batches_uses_each_sample_once_and_drops_others_in_each_epoch():
    first, second = (
        np.asarray(classifier.draw_batches(jax.random.key(0), jnp.int32(e), 250, 32))
        for e in (0, 1)
    )
    for batches in (first, second):
        assert batches.shape == (7, 32)
        assert len(np.unique(batches)) == 7 * 32
        assert 0 <= batches.min() <= batches.max() < 250
    assert set(first.ravel()) != set(second.ravel())
    assert (first != np.sort(first.ravel()).reshape(7, 32)).any()


def test_init_and_train_epoch_depend_on_their_keys_alone():
    config = classifier.ClassifierConfig()
    states = (classifier.init(jax.random.key(i), Small(), config, SHAPE) for i in (0, 1))
    first, second = (state.params["params"]["Dense_0"]["kernel"] for state in states)
    assert (first != second).all()
    a, b, c = train(2, key=1), train(2, key=1), train(2, key=2)
    assert a[1] == b[1]
    jax.tree.map(np.testing.assert_array_equal, a[0], b[0])
    assert a[1] != c[1]


def test_train_epoch_reports_progress_after_each_chunk(monkeypatch):
    config = classifier.ClassifierConfig(batch_size=2, learning_rate=0.01)
    state = classifier.init(jax.random.key(7), Small(), config, SHAPE)
    arguments = (state, jax.random.key(1), Small(), config, *problem())
    calls = []
    end, info = classifier.train_epoch(*arguments, on_progress=lambda *a: calls.append(a))
    assert [call[:2] for call in calls] == [(100, 125), (125, 125)]
    mean = (100 * calls[0][2] + 25 * calls[1][2]) / 125
    assert info.train_loss == pytest.approx(mean, rel=1e-5)
    assert calls[1][2] < calls[0][2]

    monkeypatch.setattr(classifier, "STEPS_BETWEEN_REPORTS", 7)
    silent, _ = classifier.train_epoch(*arguments)
    jax.tree.map(np.testing.assert_array_equal, silent, end)


@pytest.mark.parametrize("stack", [False, True])
def test_train_epochs_equals_train_epoch_of_each(monkeypatch, stack):
    monkeypatch.setattr(classifier, "STEPS_BETWEEN_REPORTS", 50)
    config = classifier.ClassifierConfig(batch_size=2, learning_rate=0.01)
    keys = list(jax.random.split(jax.random.key(3), 3))
    states = [classifier.init(key, Small(), config, SHAPE) for key in keys]
    calls = []
    together = classifier.train_epochs(
        states, keys, Small(), config, *problem(), lambda *call: calls.append(call), stack=stack
    )
    for state, key, (end, info) in zip(states, keys, together, strict=True):
        alone, expected = classifier.train_epoch(state, key, Small(), config, *problem())
        assert_trees_close(end, alone, rtol=1e-5, atol=1e-6)
        assert info.train_loss == pytest.approx(expected.train_loss, rel=1e-5)
    assert len({info.train_loss for _, info in together}) == 3
    assert calls[-1][:2] == (375, 375)
    assert len(calls) == (3 if stack else 9)
    assert [done for done, *_ in calls] == sorted(done for done, *_ in calls)


def test_train_epoch_and_accuracy_called_again_compile_nothing(compilations):
    # A width that no other test has compiled before.
    model, config = Small(width=5), classifier.ClassifierConfig(batch_size=2)
    state = classifier.init(jax.random.key(0), model, config, SHAPE)

    def epoch(state, key):
        state, _ = classifier.train_epoch(state, key, model, config, *problem())
        classifier.accuracy(state.params, model, *problem(), batch_size=60)
        return state

    with compilations() as programs:
        state = epoch(state, jax.random.key(0))
    assert len(programs) >= 2
    with compilations() as programs:
        epoch(state, jax.random.key(1))
    assert programs == []


def test_train_epoch_diverging_reports_nan():
    _, losses = train(1, config=classifier.ClassifierConfig(batch_size=32, learning_rate=1e30))
    assert np.isnan(losses[0])


@pytest.mark.parametrize("bad", [lambda y: y[:-1], lambda y: y[:, None], lambda y: y * 1.0])
def test_labels_that_do_not_fit_raise(bad):
    images, labels = problem()
    state, _ = train(0)
    config = classifier.ClassifierConfig()
    with pytest.raises(ValueError, match="give integers of shape"):
        classifier.accuracy(state.params, Small(), images, bad(labels))
    with pytest.raises(ValueError, match="give integers of shape"):
        classifier.train_epoch(state, jax.random.key(0), Small(), config, images, bad(labels))


@pytest.mark.parametrize("batch_size", [60, 1000])
def test_accuracy_and_probe_in_blocks_equal_those_of_all_images(batch_size):
    images, labels = problem()
    state, _ = train(0)
    names = ("logits", "hidden", "image")
    logits, expected = Small().apply(state.params, images, probes=names)
    probed = classifier.probe(state.params, Small(), images, names, batch_size=batch_size)
    assert tuple(probed) == names
    assert_trees_close(probed, expected, atol=1e-5)
    correct = float((logits.argmax(-1) == labels).mean())
    assert 0.05 < correct < 0.95
    accuracy = classifier.accuracy(state.params, Small(), images, labels, batch_size=batch_size)
    assert accuracy == pytest.approx(correct)


def test_too_few_samples_images_blocks_or_names_raise():
    images, labels = problem()
    state, _ = train(0)
    with pytest.raises(ValueError, match="250 samples do not fill one batch of 251"):
        train(1, config=classifier.ClassifierConfig(batch_size=251))
    with pytest.raises(ValueError, match="250 images in blocks of 0"):
        classifier.accuracy(state.params, Small(), images, labels, batch_size=0)
    with pytest.raises(ValueError, match="0 images in blocks"):
        classifier.probe(state.params, Small(), images[:0], ("hidden",))
    with pytest.raises(ValueError, match="names is empty"):
        classifier.probe(state.params, Small(), images, ())
