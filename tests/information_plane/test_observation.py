"""Layers of both planes: measurement noise, principal axes, references, preparation."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax.information_plane import (
    POSTER_CONFIG,
    PlaneConfig,
    alignment_target,
    brackets,
    comparisons,
    exact,
    observation,
    observe,
    prepare_variables,
    read_layers,
    split_rows,
)
from mine_jax.information_plane.targets import read_target

pytestmark = pytest.mark.usefixtures("compile_fast")

KEY = jax.random.key(0)
LEVEL = 0.5
NOISY = PlaneConfig(noise_std=LEVEL)
POSTER = PlaneConfig(noise_std=LEVEL, mine=POSTER_CONFIG)
STANDARDIZED = replace(POSTER, noisy_x_mine=POSTER_CONFIG, noisy_y_mine=POSTER_CONFIG)
PLAIN = PlaneConfig(noise_std=0)


def read(values, config, key=0, align_to=None, layers=("layer",), widths=None):
    labels, rows = np.arange(len(values)) % 2, split_rows(config, len(values))
    config, key = replace(config, layers=layers), jax.random.key(key)
    activations = dict.fromkeys(layers, values)
    return read_layers(key, activations, labels, config, rows, align_to, widths)


def random_layer(n=300, units=6, seed=4):
    rng = np.random.default_rng(seed)
    scales = np.linspace(0.5, 3.0, units)
    return (5 + scales * rng.normal(size=(n, units))).astype(np.float32), rng.integers(0, 3, n)


def observed(values, labels=None, config=NOISY, **options):
    return observe(KEY, values, labels, config, split_rows(config, len(values)), **options)


@pytest.mark.parametrize(
    ("noise", "scale"),
    [
        ("layer", lambda train: math.sqrt(train.var(axis=0).sum())),
        ("unit", lambda train: math.sqrt(train.var(axis=0).mean())),
        ("absolute", lambda train: 1.0),
    ],
)
def test_observe_noise_is_relative_to_training_rows(noise, scale):
    values, labels = random_layer()
    config = replace(NOISY, noise=noise)
    rows = split_rows(config, 300)
    sigma = LEVEL * scale(values[rows.train[0]])
    values[np.concatenate([rows.test[0], rows.validation[0]])] *= 3
    got = observed(values.reshape(300, 2, 3), labels, config)
    assert got.noise_std == pytest.approx(sigma, rel=1e-3)
    # Of six columns the networks see all, with white noise of the stated size.
    assert got.for_x.width == got.for_y.width == 6
    assert got.for_x.lost_nats == pytest.approx(0, abs=1e-6)
    (noisy, quiet, noise_std), unit = got.for_x.observed, sigma / got.for_x.observed.noise_std
    added = np.asarray(noisy) - np.asarray(quiet)
    np.testing.assert_allclose(added.std(axis=0), noise_std, rtol=0.2)
    assert np.abs(np.corrcoef(added.T) - np.eye(6)).max() < 0.25
    # Without noise T is the layer, in units in which T has a mean square of 1.
    np.testing.assert_array_equal(quiet, got.for_x.layer)
    np.testing.assert_allclose(np.mean(np.square(noisy)), 1, rtol=1e-4)
    centered = np.asarray(quiet) * unit
    np.testing.assert_allclose(centered, values - values.mean(axis=0), atol=2e-3)
    # The references are those of the test samples that the networks see.
    at = rows.test[0]
    again = brackets.bracket(centered, added[at] * unit, sigma, labels, at)
    for side, expected in zip(got.bracket, again, strict=True):
        np.testing.assert_allclose(side.influence, expected.influence, atol=0.02)


def test_observe_references_agree_with_exact_values_of_a_whole_population():
    values, labels = random_layer(1000)
    got = observed(values, labels).bracket
    reference = exact.noisy_layer(KEY, values, observed(values).noise_std, labels, draws=20)
    assert got.x_low.nats == pytest.approx(reference.x_nats, abs=3 * got.x_low.stderr)
    assert got.y_high.nats == pytest.approx(reference.y_nats, abs=3 * got.y_high.stderr)
    assert got.x_low.stderr < 0.1 * got.x_low.nats


def test_observe_layer_noise_does_not_depend_on_copied_or_dead_units():
    values, labels = random_layer(600, 10)
    copied = np.tile(values, 10)
    dead = np.concatenate([values, np.full((600, 90), 7.0, np.float32)], axis=1)
    for noise, same in (("layer", True), ("unit", False)):
        once, *others = (
            observed(layer, labels, replace(NOISY, noise=noise)).bracket
            for layer in (values, copied, dead)
        )
        for other in others:
            for side, plain in zip(other, once, strict=True):
                error = math.hypot(side.stderr, plain.stderr)
                assert (abs(side.nats - plain.nats) < 3 * error) is same


ROUNDING = np.float32(1000) + np.float32(1e-4) * (np.arange(1200) % 7 < 3)


@pytest.mark.parametrize(
    "values", [np.full(1200, 2.0), np.full(1200, 0.1), ROUNDING], ids=["2", "0.1", "rounding"]
)
def test_observe_constant_layer_has_no_noise_and_tells_nothing(values):
    got = observed(values.reshape(300, 4), np.arange(300) % 2)
    assert got.noise_std == got.for_x.lost_nats == got.gaussian_bound_nats == 0
    for side in got.bracket:
        assert (side.nats, side.stderr) == (0, 0)
        assert side.influence.shape == (60,)
    assert observed(values.reshape(300, 4)).bracket.y_low is None
    assert np.isfinite(got.for_x.observed.measured).all()


def test_observe_value_that_is_not_finite_is_named_with_layer_and_row():
    values, labels = random_layer()
    values[3, 1] = np.nan
    with pytest.raises(ValueError, match="conv7 has a value that is not finite in row 3"):
        observed(values, labels, name="conv7")


def test_observe_gaussian_bound_of_a_narrow_layer_is_that_of_its_covariance():
    values, _ = random_layer()
    values[:, 1] = values[:, 0] + 0.1 * values[:, 1]  # by unit variances it would be higher
    got = observed(values)
    covariance = np.cov(values.T, bias=True) / got.noise_std**2
    _, log_determinant = np.linalg.slogdet(np.eye(6) + covariance)
    assert got.gaussian_bound_nats == pytest.approx(log_determinant / 2, rel=1e-4)
    assert got.gaussian_bound_nats == observed(values, config=STANDARDIZED).gaussian_bound_nats


def wide_layer(spectrum, seed=0):
    """A layer whose directions of these standard deviations are in random position."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(len(spectrum), len(spectrum))))
    return np.float32(rng.normal(size=(600, len(spectrum))) * spectrum @ rotation)


def test_observe_wide_layer_keeps_as_many_axes_as_the_lost_bound_asks_for(monkeypatch):
    monkeypatch.setattr(observation, "WIDTHS", (8, 64, 128, 256))
    monkeypatch.setattr(observation, "Y_WIDTH", 8)
    spectrum = np.repeat([10.0, 0.5, 0.12, 0.03], [8, 56, 64, 272])
    values = wide_layer(spectrum)
    sigma = observed(values).noise_std

    def lost(width):
        left_out = np.square(spectrum[width:]).mean()
        return (400 - width) / 2 * math.log1p(left_out / sigma**2)

    for limit, width in ((0.05, 8), (0.01, 64), (1e-3, 128), (1e-4, 256)):
        monkeypatch.setattr(observation, "MAX_LOST_NATS", limit)
        got = observed(values)
        assert (got.for_x.width, got.for_y.width) == (width, 8)
        assert got.for_y.lost_nats == pytest.approx(lost(8), rel=0.1)
        if width < 256:
            assert got.for_x.lost_nats == pytest.approx(lost(width), rel=0.1)
        for view in got[:2]:
            assert view.observed.measured.shape == view.layer.shape == (600, view.width)
    # A given number is kept, whatever it leaves out.
    for width in (8, 64, 128):
        view = observed(values, width=width).for_x
        assert view.width == width
        assert view.lost_nats == pytest.approx(lost(width), rel=0.1)
    # The bound knows the layer's largest variances; all of them would make it smallest.
    variances = np.linalg.eigvalsh(np.cov(values.T, bias=True))
    exactly = np.sum(np.log1p(np.maximum(variances, 0) / sigma**2)) / 2
    assert exactly - 1e-4 < got.gaussian_bound_nats < exactly + 1e-3


def test_observe_axes_see_the_noise_of_the_references():
    values = wide_layer(np.repeat([10.0, 0.12], [130, 270]))
    rows = split_rows(NOISY, 600)
    align_to = np.random.default_rng(1).normal(size=(600, 256))
    got = observed(values, np.arange(600) % 2, align_to=align_to, width=256)
    for view in (got.for_x, got.for_y):
        noisy, quiet, noise_std = view.observed
        added = np.asarray(noisy) - np.asarray(quiet)
        # The same in all directions, for the test rows as for the others.
        at = rows.test[0]
        for part in (added[at], np.delete(added, at, axis=0)):
            np.testing.assert_allclose(part.std(), noise_std, rtol=0.02)
            spectrum = np.linalg.eigvalsh(np.cov(part.T))
            assert (
                spectrum.max() < noise_std**2 * (1 + math.sqrt(view.width / len(part))) ** 2 * 1.2
            )
    # Without the little that the axes leave out, the references are those of what networks see.
    unit = got.noise_std / got.for_x.observed.noise_std
    noisy, quiet = (np.asarray(side) * unit for side in got.for_x.observed[:2])
    again = brackets.bracket(quiet, (noisy - quiet)[at], got.noise_std, None, at)
    correlation = np.corrcoef(again.x_high.influence, got.bracket.x_high.influence)[0, 1]
    assert correlation > 0.99


def test_observe_aligned_does_not_depend_on_a_rotation_of_the_units():
    rng = np.random.default_rng(0)
    spectrum = np.concatenate([np.linspace(3, 1, 128), np.full(22, 1e-3)])
    values = (rng.normal(size=(300, 150)) * spectrum).astype(np.float32)
    rotation, _ = np.linalg.qr(rng.normal(size=(150, 150)))
    target = rng.normal(size=(300, 128))
    rotated = (values @ rotation).astype(np.float32)

    def layers(align_to):
        views = (observed(v, align_to=align_to, width=128).for_x for v in (values, rotated))
        return [np.asarray(view.layer) for view in views]

    first, second = layers(target)
    np.testing.assert_allclose(first, second, atol=0.02)
    first, second = layers(None)
    assert np.abs(first - second).max() > 1


def test_observe_values_of_the_literature_are_those_of_the_test_samples():
    values, labels = random_layer()
    values += 30 * np.arange(6, dtype=np.float32)  # bins of one width for units of different means
    config = replace(NOISY, also=("kde", "bins"))
    got, at = observed(values, labels, config), split_rows(config, 300).test[0]
    assert list(got.compared) == ["kde", "bins"]
    assert got.compared["bins"] == pytest.approx(comparisons.bins(values[at], labels[at]))
    kde = comparisons.pairwise_distances(values[at], labels[at], got.noise_std)
    assert got.compared["kde"] == pytest.approx(kde, rel=1e-3)
    assert observed(values, labels).compared == {}


def test_read_layers_draws_noise_by_key_and_layer():
    values, _ = random_layer()
    first, again, other = (read(values, NOISY, key, layers=("a", "b")) for key in (0, 0, 1))
    draws = [each.observed[name].for_x.observed.measured for each, name in
             ((first, "a"), (again, "a"), (first, "b"), (other, "a"))]  # fmt: skip
    np.testing.assert_array_equal(draws[0], draws[1])
    for draw in draws[2:]:
        assert np.abs(np.asarray(draws[0]) - np.asarray(draw)).max() > 0.1
    alone = read(values, NOISY, layers=("b",)).observed["b"].for_x.observed.measured
    np.testing.assert_array_equal(alone, draws[2])
    assert read(values, PLAIN).observed == {}
    assert read(values, replace(NOISY, deterministic=False)).deterministic == {}


def test_standardized_columns_have_unit_variance_on_the_training_rows():
    values = random_layer(100, 150)[0].reshape(100, 10, 15)
    values[split_rows(POSTER, 100).test[0]] *= 2
    layers = read(values, STANDARDIZED)
    train = split_rows(POSTER, 100).train[0]
    flat = values.reshape(100, 150)
    expected = (flat - flat[train].mean(axis=0)) / flat[train].std(axis=0)
    view = layers.observed["layer"].for_x
    for columns in (layers.deterministic["layer"], view.layer):
        np.testing.assert_allclose(columns, expected, atol=1e-3)
    assert np.abs(expected.mean(axis=0)).min() > 0.1  # of other rows they have not
    measured = np.asarray(view.observed.measured)
    np.testing.assert_allclose(measured[train].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(measured[train].std(axis=0), 1, rtol=1e-4)
    # As on the poster: noise is drawn once, and has no place in the training.
    assert view.observed.noiseless is None
    assert (view.width, view.lost_nats) == (150, 0)


@pytest.mark.parametrize("config", [NOISY, STANDARDIZED], ids=["default", "standardized"])
@pytest.mark.parametrize("shape", [(200, 5), (400, 150), (80, 6, 6, 5)])
def test_shapes_are_those_of_read_layers(config, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    layers = read(values, config, widths={"layer": 256})
    train = split_rows(config, len(values)).train.shape[1]
    seen = layers.observed["layer"]
    for view, width in ((seen.for_x, 256), (seen.for_y, observation.Y_WIDTH)):
        assert view.layer.shape == observation.observed_shape(shape, config, width, train)
        assert view.observed.measured.shape == view.layer.shape
    deterministic = observation.deterministic_shape(shape, config)
    assert layers.deterministic["layer"].shape == deterministic


def test_prepare_variables_are_images_and_one_hot_labels():
    values, labels = random_layer()
    rows = split_rows(NOISY, 300)
    target = read_target(labels)
    variables = prepare_variables(values, target, NOISY, rows)
    assert list(variables) == ["x", "y"]
    assert variables["x"].shape == (300, 6)
    assert variables["y"].dtype == jnp.uint8
    np.testing.assert_array_equal(variables["y"].argmax(axis=1), labels)
    # With noise the layers without it represent X.
    observed_only = replace(NOISY, deterministic=False)
    assert list(prepare_variables(values, target, observed_only, rows)) == ["y"]
    standardized = prepare_variables(values.reshape(300, 2, 3), target, POSTER, rows)["x"]
    np.testing.assert_allclose(np.asarray(standardized)[rows.train[0]].std(axis=0), 1, rtol=1e-4)


def test_alignment_target_has_the_components_that_layers_are_aligned_to():
    images = random_layer(300, 270)[0]
    assert alignment_target(images, NOISY).shape == (300, 256)
    assert alignment_target(images[:, :150], NOISY).shape == (300, 128)
    assert alignment_target(images, PLAIN).shape == (300, 20)
    assert alignment_target(images, replace(PLAIN, mine=POSTER_CONFIG)) is None
    assert alignment_target(images[:, :15], NOISY) is None
    assert alignment_target(images[:, :15], PLAIN) is None
    # Layers without noise have fewer components: images of few columns are enough for them.
    assert alignment_target(images[:, :100], replace(NOISY, deterministic=False)) is None
    assert alignment_target(images[:, :100], NOISY).shape == (300, 20)
