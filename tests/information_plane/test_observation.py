"""Prepared layers, with and without measurement noise."""

import math
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax.classifier import ClassifierState
from mine_jax.information_plane import (
    POSTER_CONFIG,
    PlaneConfig,
    alignment_target,
    exact,
    observation,
    observe,
    prepare_variables,
    read_layers,
)

NOISY = PlaneConfig(noise_std=0.5)
POSTER = PlaneConfig(mine=POSTER_CONFIG)


class Identity(nn.Module):
    """A model whose only layer, under any name, is its input."""

    def __call__(self, images, probes=()):
        """Return the input as logits and as every probe."""
        return images, {name: images for name in probes}


def read(values, config, key=0, align_to=None, layers=("layer",)):
    state = ClassifierState({}, None, jnp.zeros((), jnp.int32))
    labels = np.arange(len(values)) % 2
    config = replace(config, layers=layers)
    return read_layers(jax.random.key(key), state, Identity(), values, labels, config, align_to)


def random_layer(n=300, units=6, seed=4):
    rng = np.random.default_rng(seed)
    scales = np.linspace(0.5, 3.0, units)
    return (5 + scales * rng.normal(size=(n, units))).astype(np.float32), rng.integers(0, 3, n)


@pytest.mark.parametrize(("noise", "noise_std"), [("relative", 0.5), ("absolute", 0.25)])
def test_observe_adds_noise_of_the_stated_size_and_keeps_the_layer(noise, noise_std):
    values, labels = random_layer()
    config = PlaneConfig(noise_std=noise_std, noise=noise)
    sigma = noise_std * (math.sqrt(values.var(axis=0).mean()) if noise == "relative" else 1)
    observed = observe(jax.random.key(0), values.reshape(300, 2, 3), labels, config)
    assert observed.noise_std == pytest.approx(sigma, rel=1e-5)
    reference = exact.noisy_layer(jax.random.key(9), values, sigma, labels, draws=20)
    tolerance = 4 * observed.reference.x_stderr
    assert observed.reference.x_nats == pytest.approx(reference.x_nats, abs=tolerance)
    assert observed.reference.y_nats == pytest.approx(reference.y_nats, abs=tolerance)
    # One number divides all units of the layer, so that equal noise stays equal.
    layer, noisy = np.asarray(observed.layer), np.asarray(observed.observed)
    scale = values.std(axis=0) / layer.std(axis=0)
    np.testing.assert_allclose(scale, scale[0], rtol=1e-4)
    np.testing.assert_allclose(noisy.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.mean(noisy**2), 1, rtol=1e-4)
    # The difference is white noise of `scaled_noise_std`.
    added = noisy - np.asarray(observed.observed_without_noise)
    np.testing.assert_allclose(added.std(axis=0), observed.scaled_noise_std, rtol=0.2)
    assert np.abs(np.corrcoef(added.T) - np.eye(6)).max() < 0.25
    # Without noise T is the layer, in units in which σ is `scaled_noise_std`.
    in_units = np.asarray(observed.observed_without_noise) * sigma / observed.scaled_noise_std
    centered = values - values.mean(axis=0)
    np.testing.assert_allclose(in_units - in_units.mean(axis=0), centered, atol=1e-4)


def test_observe_constant_layer_has_a_reference_of_zero():
    constant = np.full((50, 4), 2.0)
    observed = observe(jax.random.key(0), constant, np.arange(50) % 2, NOISY)
    assert observed.noise_std == 0.5
    np.testing.assert_allclose(observed.reference[:4], 0, atol=1e-6)


def test_observe_not_finite_raises_with_the_layers_name():
    values, labels = random_layer()
    values[3, 1] = np.nan
    with pytest.raises(ValueError, match="conv7 has a value that is not finite"):
        observe(jax.random.key(0), values, labels, NOISY, "conv7")


def test_observe_wide_layer_has_a_reference_of_fewer_rows(monkeypatch):
    monkeypatch.setattr(observation, "MAX_REFERENCE_ROWS", 40)
    monkeypatch.setattr(observation, "MAX_REFERENCE_ROWS_WIDE", 20)
    for units, rows in ((256, 40), (257, 20)):
        values, labels = random_layer(60, units)
        assert observe(jax.random.key(0), values, labels, NOISY).reference.rows == rows


def test_observe_aligned_does_not_depend_on_a_rotation_of_the_units():
    rng = np.random.default_rng(0)
    spectrum = np.concatenate([np.linspace(3, 1, 128), np.full(22, 1e-3)])
    values = (rng.normal(size=(300, 150)) * spectrum).astype(np.float32)
    rotation, _ = np.linalg.qr(rng.normal(size=(150, 150)))
    target = rng.normal(size=(300, 128))
    rotated = (values @ rotation).astype(np.float32)
    key, labels = jax.random.key(0), np.arange(300) % 2

    def layers(align_to):
        observed = (observe(key, v, labels, NOISY, align_to=align_to) for v in (values, rotated))
        return [np.asarray(each.layer) for each in observed]

    first, second = layers(target)
    np.testing.assert_allclose(first, second, atol=0.02)
    first, second = layers(None)
    assert np.abs(first - second).max() > 1


def test_read_layers_draws_noise_by_key_and_layer():
    values, _ = random_layer()
    first, again, other = (read(values, NOISY, key, layers=("a", "b")) for key in (0, 0, 1))
    np.testing.assert_array_equal(first["a"].observed, again["a"].observed)
    for one, two in ((first["a"], first["b"]), (first["a"], other["a"])):
        assert np.abs(np.asarray(one.observed) - np.asarray(two.observed)).max() > 0.1


def test_read_layers_standardized_are_columns_of_unit_variance():
    values = random_layer(100, 150)[0].reshape(100, 10, 15)
    values[0] += 1000  # an outlier stays in place: nothing is compressed
    layer = np.asarray(read(values, POSTER)["layer"])
    expected = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(layer, expected.reshape(100, 150), atol=1e-4)
    assert np.abs(layer).max() > 9


@pytest.mark.parametrize(
    "config", [PlaneConfig(), NOISY, POSTER], ids=["default", "noisy", "poster"]
)
@pytest.mark.parametrize("shape", [(200, 5), (200, 150), (30, 150), (40, 6, 6, 5), (40, 2, 2, 3)])
def test_prepared_shape_is_that_of_read_layers(config, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    layer = read(values, config)["layer"]
    arrays = layer[:3] if config.noise_std else [layer]
    assert {array.shape for array in arrays} == {observation.prepared_shape(shape, config)}


def test_prepare_variables_are_images_and_one_hot_labels():
    values, labels = random_layer()
    variables = prepare_variables(values, labels, PlaneConfig())
    assert list(variables) == ["x", "y"]
    assert variables["x"].shape == (300, 6)
    assert variables["y"].dtype == jnp.uint8
    np.testing.assert_array_equal(variables["y"].argmax(axis=1), labels)
    # With noise the layers without it represent X.
    assert list(prepare_variables(values, labels, NOISY)) == ["y"]
    standardized = prepare_variables(values.reshape(300, 2, 3), labels, POSTER)["x"]
    np.testing.assert_allclose(standardized.std(axis=0), 1, rtol=0.02)


def test_alignment_target_is_none_where_no_components_are_taken():
    images = random_layer(200, 150)[0]
    assert alignment_target(images, PlaneConfig()).shape == (200, 20)
    assert alignment_target(images, NOISY).shape == (200, 128)
    assert alignment_target(images, POSTER) is None
    assert alignment_target(images[:, :15], PlaneConfig()) is None
