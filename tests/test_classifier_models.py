"""Users' models: batch norm, dropout, tokens, one logit, and what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import classifier

CONFIG = classifier.ClassifierConfig(batch_size=32, learning_rate=0.05)
N, STEPS = 200, 6  # six batches of 32, and a rest


def inputs(columns=5):
    return np.random.default_rng(0).normal(1, 3, (N, columns)).astype(np.float32)


def train(model, images, labels, epochs=1, config=CONFIG, key=1):
    state = classifier.init(jax.random.key(0), model, config, images.shape[1:], images.dtype)
    for _ in range(epochs):
        state, info = classifier.train_epoch(
            state, jax.random.key(key), model, config, images, labels
        )
    return state, info


class Normed(nn.Module):
    """Batch normalization of the inputs themselves, so that its statistics are known."""

    @nn.compact
    def __call__(self, images, probes=(), train=True):
        """Compute the logits; `train` has the default of Flax's own examples."""
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.8, epsilon=1e-3)
        layers = {"normed": norm(images)}
        layers["logits"] = nn.Dense(2)(layers["normed"])
        return (layers["logits"], layers) if probes else layers["logits"]


def test_batch_norm_statistics_are_those_of_the_training_batches():
    images, labels = inputs(), np.arange(N) % 2
    state, _ = train(Normed(), images, labels)
    mean, var = np.zeros(5), np.ones(5)
    batches = classifier.draw_batches(jax.random.key(1), jnp.int32(0), N, 32)
    assert len(batches) == STEPS
    for rows in np.asarray(batches):
        mean = 0.8 * mean + 0.2 * images[rows].mean(axis=0)
        var = 0.8 * var + 0.2 * images[rows].var(axis=0)
    params = jax.device_get(state.params)
    stats = params["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(stats["var"], var, rtol=1e-4)
    assert not any("batch_stats" in str(path) for path, _ in jax.tree.leaves_with_path(state[1]))

    # Evaluation and probes use them, whatever the block.
    scaled = params["params"]["BatchNorm_0"]
    normed = (images - mean) / np.sqrt(var + 1e-3) * scaled["scale"] + scaled["bias"]
    probed = classifier.probe(state.params, Normed(), images, ("normed",), batch_size=60)
    np.testing.assert_allclose(probed["normed"], normed, atol=1e-4)
    dense = params["params"]["Dense_0"]
    correct = ((normed @ dense["kernel"] + dense["bias"]).argmax(axis=1) == labels).mean()
    accuracy = classifier.accuracy(state.params, Normed(), images, labels, batch_size=7)
    assert accuracy == pytest.approx(correct)


class Masked(nn.Module):
    """Logits beside a dropout mask of ones, which a collection keeps."""

    @nn.compact
    def __call__(self, images, train):
        """Compute the logits; `train` has no default."""
        kept = nn.Dropout(0.25, deterministic=not train)(jnp.ones((32, 50))) > 0
        last = self.variable("seen", "last", jnp.ones, (32, 50), bool)
        alike = self.variable("seen", "alike", lambda: jnp.zeros(()))
        if train:
            alike.value += (kept == last.value).mean()
            last.value = kept
        return nn.Dense(2)(images)


@pytest.mark.parametrize("stack", [False, True])
def test_dropout_draws_a_mask_for_each_step_epoch_and_key(stack):
    images, labels = inputs(), np.arange(N) % 2
    state, model = classifier.init(jax.random.key(0), Masked(), CONFIG, (5,)), Masked()
    keys = [jax.random.key(1), jax.random.key(2)]
    epochs = [[state, state]]
    for _ in range(2):
        results = classifier.train_epochs(
            epochs[-1], keys, model, CONFIG, images, labels, stack=stack
        )
        epochs.append([state for state, _ in results])
    masks = [state.params["seen"]["last"] for epoch in epochs[1:] for state in epoch]
    for i, mask in enumerate(masks):
        assert mask.mean() == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / mask.size))
        for other in masks[:i]:
            assert (mask == other).mean() < 0.7  # 0.625 of independent masks
    # 0.75 of the first mask is like the ones before it, and 0.625 of a later one like the last.
    alike = epochs[1][0].params["seen"]["alike"]
    assert alike == pytest.approx(0.75 + 0.625 * (STEPS - 1), abs=0.1)
    alone, _ = train(Masked(), images, labels, epochs=2)
    np.testing.assert_array_equal(alone.params["seen"]["last"], epochs[2][0].params["seen"]["last"])
    classifier.accuracy(alone.params, model, images, labels)  # draws nothing


class Tokens(nn.Module):
    """Logits of the mean embedding; `nn.Embed` refuses numbers that are not integers."""

    @nn.compact
    def __call__(self, tokens, probes=()):
        """Compute the logits, and the embeddings."""
        embedded = nn.Embed(4, 8)(tokens)
        logits = nn.Dense(2)(embedded.mean(axis=1))
        return (logits, {"embedded": embedded}) if probes else logits


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_tokens_stay_integers(dtype):
    labels = np.arange(N) % 2
    noise = np.random.default_rng(0).integers(0, 2, (N, 6))
    tokens = (2 * labels[:, None] + noise).astype(dtype)  # 0 and 1, or 2 and 3
    state, _ = train(Tokens(), tokens, labels, epochs=20)
    assert classifier.accuracy(state.params, Tokens(), tokens, labels) == 1
    probed = classifier.probe(state.params, Tokens(), tokens, ("embedded",))["embedded"]
    table = state.params["params"]["Embed_0"]["embedding"]
    np.testing.assert_array_equal(probed, np.asarray(table)[tokens])


class Line(nn.Module):
    """One logit of one number, as a column or without its axis."""

    axis: bool

    @nn.compact
    def __call__(self, images):
        """Compute the logit."""
        logit = nn.Dense(1)(images)
        return logit if self.axis else logit[:, 0]


@pytest.mark.parametrize("axis", [True, False])
def test_one_logit_is_trained_by_the_sigmoid_cross_entropy(axis):
    images = inputs(1)
    labels = (images[:, 0] > 1.5).astype(int)  # fewer than half
    frozen = classifier.ClassifierConfig(batch_size=N, learning_rate=1e-12)
    state, info = train(Line(axis), images, labels, config=frozen)
    dense = state.params["params"]["Dense_0"]
    logits = (images @ dense["kernel"])[:, 0]
    p = 1 / (1 + np.exp(-logits))
    loss = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    assert info.train_loss == pytest.approx(loss, rel=1e-4)
    accuracy = classifier.accuracy(state.params, Line(axis), images, labels)
    assert accuracy == pytest.approx(np.mean((logits > 0) == labels))
    state, _ = train(Line(axis), images, labels, epochs=60)
    assert classifier.accuracy(state.params, Line(axis), images, labels) > 0.95


class Shifted(nn.Module):
    """Logits of inputs shifted by a constant that is a variable, but no parameter."""

    @nn.compact
    def __call__(self, images):
        """Compute the logits."""
        shift = self.variable("constants", "shift", lambda: jnp.full(5, 2.0))
        return nn.Dense(2)(images + shift.value[None])


def test_other_collections_of_a_model_without_train_stay_as_they_are():
    state, _ = train(Shifted(), inputs(), np.arange(N) % 2)
    np.testing.assert_array_equal(state.params["constants"]["shift"], 2.0)


class Logits(nn.Module):
    """As many logits as asked for."""

    number: int

    @nn.compact
    def __call__(self, images):
        """Compute the logits."""
        return nn.Dense(self.number)(images)


@pytest.mark.parametrize(
    ("number", "labels", "message"),
    [
        (10, np.arange(N) % 10 + 1, "0 … 9, as the model has 10 logits; got 1 to 10: subtract 1"),
        (2, np.arange(N) % 2 * 2 - 1, "got -1 and 1: give 0 and 1"),
        (1, np.arange(N) % 2 * 2 - 1, "1 logit; got -1 and 1: give 0 and 1"),
        (1, np.arange(N) % 2 + 1, "1 logit; got 1 to 2: subtract 1"),
        (1, np.arange(N) % 3, "got 0 to 2, 3 different ones: give the model 3 logits"),
        (3, np.arange(N) % 3 * 10, r"got 0 to 20: give the codes np\.unique"),
        (2, np.arange(N) % 5, "got 0 to 4, 5 different ones: give the model 5 logits"),
        (2, np.arange(N) % 2 / 1, r"labels are float64 .* codes np\.unique.* mine_jax\.Recorder"),
        (2, np.array(["a", "b"])[np.arange(N) % 2], r"labels are <U1 .* codes np\.unique"),
        (2, np.array(["a", "b"], object)[np.arange(N) % 2], r"labels are object .* codes"),
        (2, np.eye(2, dtype=int)[np.arange(N) % 2], r"shape \(200, 2\).*argmax\(axis=1\)"),
    ],
)
def test_labels_that_are_not_the_models_classes_are_refused_before_a_step(number, labels, message):
    with pytest.raises(ValueError, match=message):
        train(Logits(number), inputs(), labels)


class Flawed(nn.Module):
    """A model with a flaw."""

    flaw: str

    @nn.compact
    def __call__(self, images, probes=(), train=False):
        """Compute what was not asked for."""
        logits = nn.Dense(2)(images)
        if self.flaw == "pair":
            return logits, {}
        if self.flaw == "axes":
            return logits[:, None]
        if self.flaw == "integers":
            return logits.astype(int)
        if self.flaw == "norm":
            return nn.BatchNorm(use_running_average=False)(logits)
        if self.flaw == "dropout":
            return nn.Dropout(0.5, deterministic=False)(logits)
        if self.flaw == "stream":
            return logits + jax.random.normal(self.make_rng("noise"), ()) * train
        if self.flaw == "growing":
            self.sow("losses", "norm", logits.sum())
        if self.flaw == "layout" and probes:
            return logits, {"hidden": logits.T}
        if self.flaw == "other" and probes:
            return logits, {"logits": logits}
        return logits


class Fields(nn.Module):
    """A model that is not hashable."""

    widths: np.ndarray

    @nn.compact
    def __call__(self, images):
        """Compute the logits."""
        return nn.Dense(2)(images)


class Named(nn.Module):
    """Dropout by another name."""

    @nn.compact
    def __call__(self, images, deterministic=True):
        """Compute the logits."""
        return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(2)(images))


def initialize_and_check(model, images, labels):
    state = classifier.init(jax.random.key(0), model, CONFIG, (3,))
    classifier.check(state.params, model, images, labels, ("hidden",))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Flawed("pair"), "returns a tuple for 7 inputs"),
        (Flawed("axes"), r"returns an array of shape \(7, 1, 2\)"),
        (Flawed("integers"), "returns an array of int32"),
        (Flawed("norm"), r"ModifyScopeVariableError.*\n.*use_running_average=not train"),
        (Flawed("dropout"), r"InvalidRngError.*\n.*deterministic=not train"),
        (Flawed("stream"), "InvalidRngError.*noise"),
        (Flawed("growing"), r"collection losses.*\n.*intermediates"),
        (Flawed("none"), r"no pair \(logits, mapping\) for probes=\('hidden',\)"),
        (Flawed("other"), "no activations of hidden, but of logits"),
        (Flawed("layout"), r"hidden have shape \(2, 7\) for 7 inputs;\n.*samples first"),
        (Logits(2), r"probes=\('hidden',\) fails with TypeError.*'probes'"),
        (nn.Sequential([nn.Dense(2)]), "Sequential has a field .* give tuples"),
        (nn.Embed(4, 2), "float32.*integer"),
        (Fields(np.ones(3)), "Fields has a field that is not hashable"),
        (Named(), r"argument deterministic, .*\nname it `train`"),
        (len, r"builtin_function.* give a flax\.linen\.Module"),
    ],
    ids=lambda value: value.flaw if isinstance(value, Flawed) else None,
)
def test_models_that_cannot_be_used_are_refused_in_two_lines(model, message):
    images, labels = inputs(3), np.arange(N) % 2
    with pytest.raises(ValueError, match=message) as raised:
        initialize_and_check(model, images, labels)
    assert len(str(raised.value).splitlines()) <= 2
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
