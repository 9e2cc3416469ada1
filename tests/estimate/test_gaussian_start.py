"""Tests of the closed-form starts against analytic density ratios, and of the choice of a start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from mine_jax.estimate import gaussian_start
from mine_jax.mine import MineConfig, Samples, gaussian, stack
from mine_jax.mine.evaluation import evaluate_rows
from mine_jax.mine.training import init_stack

CONFIG = MineConfig(network="separable", hidden=8, features=4, depth=1)
NUM_SAMPLES = 20_000
TRAIN, VALIDATION = np.split(np.arange(NUM_SAMPLES, dtype=np.int32)[None], [15_000], axis=1)
NUM_PAIRS = 500  # on which density ratios are compared


def float32(values):
    return np.asarray(values, np.float32)


def network(part, number):
    return jax.tree.map(lambda leaf: leaf[number], part)


def gaussian_scores(part, x, z):
    """T of every x with every z by the Gaussian part of one network, (n, m)."""
    u = gaussian.project(x, part.x_mean, part.x_projections, clip=False)
    v = gaussian.project(z, part.z_mean, part.z_projections, clip=False)
    return np.asarray(gaussian.score(part, u[:, None], v[None]))


def log_density_ratio(covariance, x, z):
    """The log density ratio of every x with every z up to a constant, (n, m)."""
    d = x.shape[1]
    precision = np.linalg.inv(covariance)
    on_x = precision[:d, :d] - np.linalg.inv(covariance[:d, :d])
    on_z = precision[d:, d:] - np.linalg.inv(covariance[d:, d:])
    squares = np.sum((x @ on_x) * x, 1)[:, None] + np.sum((z @ on_z) * z, 1)[None]
    return -squares / 2 - x @ precision[:d, d:] @ z.T


def assert_equal_up_to_constant(scores, expected, tolerance):
    """Compare scores; the tolerance is a fraction of the spread of the expected ones."""
    difference = scores - expected
    assert np.std(difference) < tolerance * np.std(expected)


def canonical(pairs, width):
    data = stack.stack_samples(pairs)
    fold = np.zeros(len(pairs), np.int32)
    form = gaussian_start.canonical_form(data, TRAIN, VALIDATION, fold, 1e-6, width, CONFIG)
    return gaussian_start.temper_correlations(form, 1.0, gaussian_start.ALL_PAIRS)


# --- Canonical pairs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def correlated():
    """Joint Gaussian x (2 columns) and z (3 columns) of a random covariance."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(5, 5)) + np.eye(5)
    joint = float32(rng.normal(size=(NUM_SAMPLES, 5)) @ mixing.T) + np.float32(3)
    return joint[:, :2], joint[:, 2:], mixing @ mixing.T


@pytest.fixture(scope="module")
def canonical_parts(correlated):
    """Gaussian parts of a pair, the pair with noise on z, and a wider pair that pads both."""
    x, z, _ = correlated
    rng = np.random.default_rng(1)
    noisy = Samples(float32(z + 1.5 * rng.normal(size=z.shape)), z, 1.5)
    wide = float32(rng.normal(size=(NUM_SAMPLES, 4)))
    pairs = [(Samples(x), Samples(z)), (Samples(x), noisy), (Samples(wide), Samples(wide**2))]
    return canonical(pairs, width=4)


@pytest.mark.parametrize(("number", "noise_std"), [(0, 0.0), (1, 1.5)])
def test_canonical_form_gaussian_pair_is_log_density_ratio(
    correlated, canonical_parts, number, noise_std
):
    x, z, covariance = correlated
    x, z = x[-NUM_PAIRS:], z[:NUM_PAIRS]
    covariance = covariance + noise_std**2 * np.diag([0, 0, 1, 1, 1])
    scores = gaussian_scores(network(canonical_parts, number), *(_pad(side, 4) for side in (x, z)))
    assert_equal_up_to_constant(scores, log_density_ratio(covariance, x - 3, z - 3), 0.06)


@pytest.mark.parametrize("shape", ["canonical", "paired"])
def test_forms_with_measurement_noise_start_close_to_the_truth(shape):
    """With z = l and x = l + σε: the start alone, normalized over the training samples."""
    dims, noise_std, n = 40, 1.0, 2400
    rows = np.split(np.arange(n, dtype=np.int32)[None], [1600, 1800], axis=1)
    spread, pairs = np.geomspace(1.0, 0.1, dims), []
    for seed in range(3):
        layer, noise = np.random.default_rng(seed).normal(size=(2, n, dims))
        layer = float32(layer * spread)
        # The variance of x is measured: a stated noise that is not that of the samples is not used.
        noisy = Samples(float32(layer + noise_std * noise), layer, 100.0)
        pairs.append((noisy, Samples(layer)))
    data, fold = stack.stack_samples(pairs), np.zeros(3, np.int32)
    config = MineConfig(network="separable", hidden=4, depth=1, canonical_pairs=dims)
    if shape == "canonical":
        form = gaussian_start.canonical_form(data, *rows[:2], fold, 1e-3, dims, config)
    else:
        form = gaussian_start.paired_form(data, rows[0], fold, dims, config)
    part = gaussian_start.temper_correlations(form, 1.0, gaussian_start.ALL_PAIRS)
    fresh = init_stack(jax.random.split(jax.random.key(0), 3), data, config)
    train, _, test = (jnp.asarray(part)[fold] for part in rows)
    _, value = evaluate_rows(fresh._replace(gaussian=part), data, test, config, train)
    truth = np.log1p((spread / noise_std) ** 2).sum() / 2
    assert truth < np.log(600) - 0.2
    assert np.all(value.nats < truth + 3 * value.stderr)
    # With the errors of noisy cross-covariances canonical pairs would lose 0.7 nats.
    assert value.nats.mean() > truth - {"canonical": 0.5, "paired": 0.3}[shape]


def test_canonical_form_padding_changes_nothing(correlated, canonical_parts):
    x, z, _ = correlated
    alone = network(canonical([(Samples(x), Samples(z))], width=2), 0)
    padded = network(canonical_parts, 0)
    for name in ("x_projections", "z_projections"):
        assert not np.any(getattr(padded, name)[len(getattr(alone, name)) :])
    assert not np.any(padded.cross[2:])
    rows = slice(0, NUM_PAIRS)
    np.testing.assert_allclose(
        gaussian_scores(padded, _pad(x[rows], 4), _pad(z[rows], 4)),
        gaussian_scores(alone, x[rows], z[rows]),
        atol=0.01,
    )


def _pad(values, width):
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))


def test_paired_form_shifted_and_reflected_noise_is_log_density_ratio():
    rng = np.random.default_rng(0)
    mixing, noise_std = rng.normal(size=(3, 3)), 0.5
    x = float32(rng.normal(size=(NUM_SAMPLES, 3)) @ mixing.T)
    noise = float32(noise_std * rng.normal(size=x.shape))
    plain, reflected = Samples(x + noise), Samples(noise - x, -x, noise_std)
    data = stack.stack_samples(
        [(Samples(x), plain), (Samples(x), reflected), (Samples(x), Samples(np.tile(x, 2)))]
    )
    form = gaussian_start.paired_form(data, TRAIN, np.zeros(3, np.int32), 4, CONFIG)
    parts = gaussian_start.temper_correlations(form, 1.0, gaussian_start.ALL_PAIRS)
    covariance = mixing @ mixing.T
    for number, (sign, z) in enumerate([(1, x + noise), (-1, noise - x)]):
        cross = sign * covariance
        joint = np.block([[covariance, cross], [cross, covariance + noise_std**2 * np.eye(3)]])
        rows = slice(0, NUM_PAIRS)
        scores = gaussian_scores(network(parts, number), x[rows], _pad(z[rows], 6))
        assert_equal_up_to_constant(scores, log_density_ratio(joint, x[rows], z[rows]), 0.05)
    assert not np.any(parts.cross[2])  # columns of sides of different widths do not belong together


def test_choose_start_is_that_of_the_network_alone_beside_wider_ones():
    # Canonical pairs of 40 columns over-fit: paired columns win.
    x, noise, other = float32(np.random.default_rng(0).normal(size=(3, 600, 40)))
    a, b = Samples(x + 2 * noise), Samples(np.concatenate([other, x[:, :1]], axis=1))
    rows = np.split(np.arange(600, dtype=np.int32)[None], [400], axis=1)
    config = MineConfig(network="separable", hidden=4)
    parts = []
    for pairs in ([(Samples(x), a)], [(Samples(x), a), (Samples(x), b)]):
        data, fold = stack.stack_samples(pairs), np.zeros(len(pairs), np.int32)
        fresh = init_stack(jax.random.split(jax.random.key(0), len(pairs)), data, config)
        start = gaussian_start.choose_start(fresh, None, data, *rows, fold, 100, config)
        parts.append(network(start.gaussian, 0))
    cross = [np.sort(part.cross)[-40:] for part in parts]
    np.testing.assert_allclose(cross[0], cross[1], rtol=1e-3)
    paired = gaussian_start.paired_form(data, rows[0], fold, 41, config)
    best = gaussian_start.temper_correlations(paired, 1.0, gaussian_start.ALL_PAIRS).cross[0]
    assert np.isclose(cross[0].max() / best.max(), gaussian_start.TEMPERATURES, rtol=0.3).any()


def test_temper_correlations_is_density_ratio_of_smaller_correlations():
    rho = np.array([0.9, 0.5, 0.2])
    eye, zero = jnp.eye(3)[None], jnp.zeros((1, 3))
    form = gaussian_start.Correlated(zero, eye, zero, eye, float32(1 - rho**2)[None])
    x, z = float32(np.random.default_rng(0).normal(size=(2, 50, 3)))
    for temperature, leading in ((1.0, 3), (0.6, 3), (0.6, 1)):
        part = network(gaussian_start.temper_correlations(form, temperature, leading), 0)
        r = np.diag(rho * temperature * (np.arange(3) < leading))
        expected = log_density_ratio(np.block([[np.eye(3), r], [r, np.eye(3)]]), x, z)
        np.testing.assert_allclose(gaussian_scores(part, x, z), expected, atol=1e-4)


def test_temper_correlations_near_one_keeps_digits():
    ones = jnp.ones((1, 1, 1))
    form = gaussian_start.Correlated(ones[0], ones, ones[0], ones, jnp.full((1, 1), 1e-8))
    part = gaussian_start.temper_correlations(form, 1.0, gaussian_start.ALL_PAIRS)
    assert float(part.cross[0, 0]) == pytest.approx(1e8, rel=1e-5)


# --- Discriminants --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes():
    """Gaussian classes with one covariance, and labels with a class that does not occur."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=NUM_SAMPLES, p=[0.5, 0.3, 0.2])
    means = np.array([[0.0, 0.0], [2.0, 1.0], [-1.0, 2.0]])
    mixing = np.array([[1.0, 0.0], [0.8, 0.6]])
    x = float32(means[labels] + rng.normal(size=(NUM_SAMPLES, 2)) @ mixing.T)
    return x, np.eye(4, dtype=np.uint8)[labels], means, mixing @ mixing.T


def discriminants(x_sides, labels, ridge=0.0, threshold=0.0):
    data = stack.stack_samples([(x, Samples(labels)) for x in x_sides])
    fold = np.zeros(len(x_sides), np.int32)
    return gaussian_start.discriminant_form(data, TRAIN, fold, ridge, threshold, MineConfig())


def test_discriminant_form_gaussian_classes_is_log_density_ratio(classes):
    x, labels, means, covariance = classes
    noise_std = 0.8
    noise = noise_std * np.random.default_rng(1).normal(size=x.shape)
    parts = discriminants([Samples(x), Samples(float32(x + noise), x, noise_std)], labels)
    x, log_weights = x[:NUM_PAIRS], np.log([0.5, 0.3, 0.2])
    for number, within in enumerate([covariance, covariance + noise_std**2 * np.eye(2)]):
        scores = gaussian_scores(network(parts, number), x, np.eye(4, dtype=np.float32))
        assert np.all(np.isfinite(scores))
        offsets = x[:, None] - means[None]
        expected = -np.einsum("nci,ij,ncj->nc", offsets, np.linalg.inv(within), offsets) / 2
        # Only differences between classes matter.
        normalized, expected = (
            values - logsumexp(values + log_weights, axis=1)[:, None]
            for values in (scores[:, :3], expected)
        )
        assert np.std(normalized - expected) < 0.04 * np.std(expected)


def test_discriminant_form_threshold_drops_means_of_no_difference(classes):
    x, labels, *_ = classes
    noise = float32(np.random.default_rng(2).normal(size=(NUM_SAMPLES, 1)))
    sides = [Samples(np.concatenate([x, noise], axis=1))]
    plain, thresholded = (discriminants(sides, labels, 1.0, level) for level in (0.0, 5.0))
    # With so much shrinkage the covariance is diagonal, and columns do not mix.
    assert np.all(plain.x_projections[0, 2, :3])
    assert not np.any(thresholded.x_projections[0, 2])
    assert np.any(thresholded.x_projections[0, :2])


def test_temper_discriminants_scales_scores(classes):
    x, labels, *_ = classes
    part = network(discriminants([Samples(x)], labels), 0)
    tempered = gaussian_start.temper_discriminants(part, 0.4)
    points, eye = x[:50], np.eye(4, dtype=np.float32)
    expected = 0.4 * gaussian_scores(part, points, eye)
    np.testing.assert_allclose(gaussian_scores(tempered, points, eye), expected, atol=1e-4)


# --- Choice ---------------------------------------------------------------------------------------

NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 1000, 400, 400
RHO = 0.8
FAR_ROW = -10  # a test row
GAUSSIAN, SQUARES, *INDEPENDENT, STALE = range(8)


@pytest.fixture(scope="module")
def choice():
    """Arguments of `choose_start` for a stack, and its cold start.

    z of the first network has a Gaussian dependence on x; the second one one of squares besides;
    five have none; in the last the training samples have none, but validation and test samples
    that of the first.
    """
    rng = np.random.default_rng(0)
    n = NUM_TRAIN + NUM_VALIDATION + NUM_TEST
    x, noise, other = rng.normal(size=(3, n, 3))
    z = x * [RHO, 0, 0] + noise * [np.sqrt(1 - RHO**2), 1, 1]
    squares = z.copy()
    squares[:, 2] = rng.choice([-1, 1], n) * (x[:, 2] + 0.1 * noise[:, 2])
    stale = z.copy()
    stale[:NUM_TRAIN] = other[:NUM_TRAIN]
    independent = [rng.normal(size=(n, 3)) for _ in INDEPENDENT]
    # A direction of little variance in training, and a test sample far out in it.
    z[:, 1] = 0.01 * (x[:, 1] + noise[:, 1])
    x[FAR_ROW, 1] = z[FAR_ROW, 1] = 30.0
    left = Samples(float32(x))
    data = stack.stack_samples(
        [(left, Samples(float32(z))) for z in (z, squares, *independent, stale)]
    )
    networks = len(data.x.index)
    train, validation, test = np.split(
        np.arange(n, dtype=np.int32)[None], [NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION], axis=1
    )
    fresh = init_stack(jax.random.split(jax.random.key(0), networks), data, CONFIG)
    rest = data, train, validation, np.zeros(networks, np.int32), NUM_TEST, CONFIG
    return fresh, rest, test, gaussian_start.choose_start(fresh, None, *rest)


def test_choose_start_cold_is_gaussian_part_or_zero(choice):
    fresh, _, _, state = choice
    assert np.all(state.gaussian.cross[GAUSSIAN, 0])
    assert np.all(state.gaussian.cross[SQUARES, 0])
    for number in INDEPENDENT:
        assert not np.any(state.gaussian.cross[number])
    jax.tree.map(np.testing.assert_array_equal, state.params, fresh.params)


@pytest.mark.parametrize(("leading_pairs", "candidates"), [(12, 8), (1, 6), (0, 4)])
def test_leading_pairs_compete_as_far_as_asked_for(choice, monkeypatch, leading_pairs, candidates):
    fresh, (data, train, validation, fold, *_), *_ = choice
    monkeypatch.setattr(gaussian_start, "canonical_form", lambda *_: None)
    monkeypatch.setattr(gaussian_start, "paired_form", lambda *_: None)
    monkeypatch.setattr(gaussian_start, "temper_correlations", lambda _, *how: how)
    config = dataclasses.replace(CONFIG, leading_pairs=leading_pairs)
    temperatures = gaussian_start.TEMPERATURES
    rest = train, validation, fold, fresh, False, temperatures, config, False
    forms = list(gaussian_start._closed_forms(data, *rest))
    # Four temperatures of all three pairs, then two of the first pair and of the first two.
    assert [len(parts) for parts in forms] == [candidates] * 3 + [4]
    assert forms[0][:4] == [(t, gaussian_start.ALL_PAIRS) for t in temperatures]
    # Of z that is x without noise only the paired form is tried.
    (alone,) = gaussian_start._closed_forms(data, *rest[:-1], True)
    assert alone == forms[-1]


def test_choose_start_gaussian_pair_reaches_closed_form_in_spite_of_far_sample(choice):
    _, (data, *_), test, state = choice
    rows = jnp.asarray(np.repeat(test, len(data.x.index), axis=0))
    value, _ = evaluate_rows(state, data, rows, CONFIG)
    truth = -0.5 * np.log(1 - RHO**2) + 0.5 * np.log(2)
    stderr = float(value.stderr[GAUSSIAN])
    assert stderr < 0.2
    assert abs(float(value.nats[GAUSSIAN]) - truth) < 4 * stderr + 0.03


def test_choose_start_warm_keeps_earlier_networks_where_they_are_better(choice):
    fresh, rest, _, cold = choice

    def squares_of_last_column(params):
        """Make the neural part 4 tanh(…) tanh(…) of the squares of the last columns."""
        params = jax.tree.map(np.zeros_like, params)
        for side in ("x", "z"):
            params[f"{side}_encoder"]["squares"][:, 2, 0] = 1.0
            params["head"][f"{side}_last"]["kernel"][:, 0, 0] = 2.0
        return params

    parts = jax.tree.map(np.zeros_like, cold.gaussian)
    for leaf, earlier in zip(parts, cold.gaussian, strict=True):
        leaf[STALE] = earlier[SQUARES]
    neural = squares_of_last_column(fresh.params)
    neural = stack.choose(np.arange(8) == STALE, fresh.params, neural)
    earlier = fresh._replace(params=neural, average=neural, gaussian=parts)
    state = gaussian_start.choose_start(fresh, earlier, *rest)

    def assert_networks_equal(numbers, tree, expected):
        jax.tree.map(
            lambda *leaves: np.testing.assert_array_equal(
                *(np.asarray(leaf)[numbers] for leaf in leaves)
            ),
            tree,
            expected,
        )

    # The neural part of the earlier network and a new Gaussian part.
    assert_networks_equal([SQUARES], state.average, neural)
    assert np.all(state.gaussian.cross[SQUARES, 0])
    # The earlier network as it is.
    assert_networks_equal([STALE], state.gaussian, parts)
    # The earlier neural part is worse than none.
    assert_networks_equal([GAUSSIAN, *INDEPENDENT], state.average, fresh.average)
    assert_networks_equal(INDEPENDENT, state.gaussian, fresh.gaussian)


def test_isotonic_is_the_closest_sequence_that_never_falls():
    values = np.array([0.0, 3.0, 1.0, 2.0, 2.5, 9.0, 4.0])
    got = gaussian_start.isotonic(jnp.asarray(values))
    np.testing.assert_allclose(got, [0.0, 2.0, 2.0, 2.0, 2.5, 6.5, 6.5], rtol=1e-6)
    rising = np.sort(values)
    np.testing.assert_allclose(gaussian_start.isotonic(jnp.asarray(rising)), rising, rtol=1e-6)


def test_canonical_form_of_many_independent_columns_finds_hardly_any_correlation():
    """Of 100 chance correlations on 300 validation samples, half are positive: 0.1 to 0.2 nats."""
    x, z = np.random.default_rng(0).normal(size=(2, 1200, 100)).astype(np.float32)
    data = stack.stack_samples([(Samples(x), Samples(z))])
    train, validation = np.split(np.arange(1200, dtype=np.int32)[None], [900], axis=1)
    fold = np.zeros(1, np.int32)
    form = gaussian_start.canonical_form(data, train, validation, fold, 0.02, 100, CONFIG)
    assert -np.log(np.asarray(form.gap)).sum() / 2 < 0.03
