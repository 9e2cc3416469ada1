"""lower_bound against known truths, and what its estimates promise."""

import functools
import math
from dataclasses import replace

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import mine_jax
from mine_jax import bounds, estimator, mine
from mine_jax.information_plane import exact

pytestmark = pytest.mark.usefixtures("compile_fast")

# Small networks and few shapes of samples, so that tests share what is compiled. The stopping part
# is as large as the reporting one for the same reason.
CONFIG = mine.MineConfig(
    hidden=16,
    features=8,
    batch_size=128,
    learning_rate=1e-2,
    check_every=25,
    patience=2,
    max_steps=300,
    stop_fraction=0.2,
)
N, D = 1000, 5
KEY = jax.random.key(0)


def gaussian_pair(seed=0, d=D, rho=0.6, n=N):
    """Samples with I = −d/2 ln(1 − ρ²) nats."""
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * noise, -d / 2 * math.log(1 - rho**2)


def small(x, z, *, key=KEY, init=None, **changes):
    return mine_jax.lower_bound(x, z, key=key, config=replace(CONFIG, **changes), init=init)


@functools.cache
def usual():
    """The estimate of `gaussian_pair()`."""
    x, z, _ = gaussian_pair()
    return small(x, z)


# Numbers.


def test_five_gaussian_columns_and_their_cubes():
    x, z, truth = gaussian_pair()
    estimate = usual()
    assert abs(estimate.nats - truth) <= 0.1 + 3 * estimate.stderr
    assert estimate.nats <= truth + 0.05 + 2 * estimate.stderr
    # Ranks are all that counts: a strictly monotone map of a column changes nothing at all.
    assert small(x, z**3).nats == estimate.nats
    assert small(x, np.exp(z) + 5).nats == estimate.nats


def test_scale_and_shift_do_not_matter():
    x, z, _ = gaussian_pair()
    assert small(1e6 * x - 3e5, z * 1e-6).nats == usual().nats
    assert small(x * np.logspace(-100, 100, D), z).nats == usual().nats


def test_one_row_far_out_changes_little():
    x, z, _ = gaussian_pair()
    x[17] = 1e6
    assert small(x, z).nats == pytest.approx(usual().nats, abs=0.1)


def test_one_column_close_to_another():
    x, z, truth = gaussian_pair(1, d=1, rho=0.9, n=2000)
    estimate = small(x, z)
    assert estimate.nats == pytest.approx(truth, abs=0.06)
    assert estimate.stderr < 0.05


@functools.cache
def mapped():
    """A column, and estimates for noise and for a close column beside it."""
    x, z, _ = gaussian_pair(2, d=1, rho=0.8, n=500)
    noise = np.random.default_rng(9).normal(size=500)
    named = {"noise": noise, "close": z}
    return x, named, small(x, named)


def test_a_mapping_gives_each_name_its_estimate():
    _, _, estimates = mapped()
    assert list(estimates) == ["noise", "close"]
    assert abs(estimates["noise"].nats) <= 0.06
    assert estimates["close"].nats == pytest.approx(-0.5 * math.log(0.36), abs=0.15)


def test_narrow_numbers_take_the_flat_network():
    x, named, estimates = mapped()
    flat = small(x, named, network="flat")
    assert {name: value.nats for name, value in flat.items()} == {
        name: value.nats for name, value in estimates.items()
    }


def test_what_is_near_the_ceiling_is_flagged():
    x, z, truth = gaussian_pair(3, rho=math.sqrt(1 - math.exp(-16 / D)))
    assert truth == pytest.approx(8)
    estimate = small(x, z)
    assert estimate.ceiling_nats == math.log(N // CONFIG.folds)
    assert 0.5 * estimate.ceiling_nats < estimate.nats <= estimate.ceiling_nats
    assert any("ceiling" in warning for warning in estimate.warnings)
    assert not any("ceiling" in warning for warning in usual().warnings)


@functools.cache
def short(bound):
    """The estimate of `gaussian_pair()` with another bound and few steps."""
    x, z, _ = gaussian_pair()
    return small(x, z, bound=bound, max_steps=50)


@pytest.mark.parametrize("bound", [name for name in bounds.BOUNDS if name != "infonce"])
def test_every_bound_stays_below_the_truth_and_learns(bound):
    _, _, truth = gaussian_pair()
    estimate = short(bound)
    # NWJ's start lacks a constant, which takes it more than these steps to learn.
    least = 0.3 if bound == "nwj" else 0.7
    assert least * truth < estimate.nats <= truth + 0.05 + 3 * estimate.stderr
    assert (estimate.form == "nwj") == (bound == "nwj")


# Labels.


@functools.cache
def labelled():
    """Labels, features beside them, and their information."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, N)
    means = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    truth, _ = exact.label_gaussian_features(KEY, means)
    return labels, means[labels] + rng.normal(size=(N, 2)), truth


@functools.cache
def of_labels():
    labels, features, _ = labelled()
    return small(features, labels)


def test_labels_beside_features_are_close_to_the_truth():
    _, _, truth = labelled()
    estimate = of_labels()
    assert abs(estimate.nats - truth) <= 0.03 + 2 * estimate.stderr


@pytest.mark.parametrize(
    "encode",
    [
        lambda labels: np.eye(3)[labels],
        lambda labels: np.eye(3, dtype=bool)[labels],
        lambda labels: 5 * labels[:, None].astype(np.int8) - 7,
        lambda labels: labels.astype(np.uint8).tolist(),
    ],
    ids=["one-hot", "bools", "other integers", "a list"],
)
def test_labels_of_any_kind_are_one_variable(encode):
    labels, features, _ = labelled()
    assert small(features, encode(labels)).nats == of_labels().nats


@functools.cache
def beside_labels():
    """Labels as x, with features and with labels that are its own in one of two cases."""
    labels, features, _ = labelled()
    other = (labels + np.random.default_rng(5).integers(0, 2, N)) % 3
    return small(labels, {"features": features, "other": other}), other


def test_labels_may_stand_on_either_side():
    estimates, _ = beside_labels()
    assert estimates["features"].nats == pytest.approx(of_labels().nats, abs=0.02)


def test_labels_beside_labels_are_close_to_the_truth():
    estimates, other = beside_labels()
    assert exact.discrete((np.ones((3, 3)) - np.eye(3)) / 6) == pytest.approx(math.log(1.5))
    # The table of these samples says a bit more than that of all.
    table = np.histogram2d(labelled()[0], other, bins=3)[0] / N
    estimate = estimates["other"]
    assert estimate.nats <= exact.discrete(table) + 1e-3
    assert abs(estimate.nats - math.log(1.5)) <= 0.03 + 2 * estimate.stderr


def test_labels_never_pass_their_entropy():
    estimate = of_labels()
    assert estimate.nats < math.log(3)
    assert estimate.stop_nats < math.log(3)


# Other shapes, other networks.


@functools.cache
def images():
    """Images with a signal along one pattern, the signal, and their information."""
    rng = np.random.default_rng(6)
    signal = rng.normal(size=(500, 1))
    pattern = rng.normal(size=64)
    pattern *= math.sqrt(8) / np.linalg.norm(pattern)
    pixels = signal * pattern + rng.normal(size=(500, 64))
    return pixels.reshape(500, 8, 8, 1), signal, 0.5 * math.log(9)


@pytest.mark.parametrize("network", ["auto", "convolutional"])
def test_images_are_taken_as_they_come(network):
    x, z, truth = images()
    estimate = small(x, z, network=network)
    assert 0.5 * truth < estimate.nats <= truth + 0.05 + 3 * estimate.stderr
    first = estimate.state.params["x_first"][0]
    assert ("conv1" in first) == (network == "convolutional")


class Squared(nn.Module):
    """A network of the user's, which is right but for three numbers."""

    @nn.compact
    def __call__(self, x, z):
        """T(x_i, z_i), (n,)."""
        assert x.ndim == z.ndim == 2
        weights = self.param("weights", nn.initializers.zeros, (3,))
        return (
            weights[0] * x[:, 0] * z[:, 0] - weights[1] * x[:, 0] ** 2 - weights[2] * z[:, 0] ** 2
        )


def test_a_network_of_the_users():
    x, named, _ = mapped()
    truth = -0.5 * math.log(0.36)
    estimate = small(x, named["close"], network=Squared(), weight_decay=0.0, learning_rate=0.05)
    assert 0.5 * truth < estimate.nats <= truth + 0.05 + 3 * estimate.stderr
    again = small(
        x, named["close"], network=Squared(), weight_decay=0.0, learning_rate=0.05, init=estimate
    )
    assert again.stop_nats >= estimate.stop_nats - 1e-4


@pytest.mark.parametrize(
    ("x", "z", "network"),
    [
        (np.zeros((9, 1)), np.zeros((9, 2)), "flat"),
        (np.zeros((9, 1)), np.zeros((9, 3)), "separable"),
        (np.zeros((9, 3)), np.zeros((9, 1)), "separable"),
        (np.zeros((9, 1)), np.arange(9) % 2, "separable"),
        (np.arange(9) % 2, np.zeros((9, 1)), "separable"),
        (np.arange(9) % 2, np.arange(9) % 2, "separable"),
    ],
)
def test_the_network_follows_the_shapes(x, z, network):
    x, z = estimator.prepare(x), estimator.prepare(z)
    assert estimator.choose_network(x, z) == network
    (group,) = estimator.groups({"a": x}, {"b": z}, (("a", "b"),), CONFIG)
    assert group.config.network == network
    assert group.asked == (("a", "b"),)
    swapped = mine.is_labels(x) and not mine.is_labels(z)
    assert group.swapped == (swapped,)
    pair = ("x: a", "z: b")
    assert group.pairs == (pair[::-1] if swapped else pair,)


# What an estimate is.


def test_an_estimate_is_an_immutable_pytree():
    estimate = usual()
    assert float(estimate) == estimate.nats
    assert isinstance(estimate.nats, float)
    with pytest.raises(AttributeError):
        estimate.nats = 1.0
    leaves, tree = jax.tree.flatten(estimate)
    again = jax.tree.unflatten(tree, leaves)
    assert (again.nats, again.warnings, again.form) == (
        estimate.nats,
        estimate.warnings,
        estimate.form,
    )
    assert estimate.influence.shape == (CONFIG.folds, N // CONFIG.folds)
    assert estimate.form in (*mine.REPORTED, "mixed")
    checks = len(estimate.history.steps)
    assert estimate.history.stop_nats.shape == (checks, CONFIG.folds)
    assert estimate.steps == estimate.history.steps[-1] <= CONFIG.max_steps


def test_the_influences_spread_is_the_standard_error():
    influence = usual().influence
    size = influence.shape[1]
    first_order = math.sqrt(np.sum(influence.var(axis=1, ddof=1)) / size) / len(influence)
    assert first_order <= usual().stderr * (1 + 1e-4)
    assert usual().stderr <= 1.5 * first_order


def test_other_samples_of_the_same_shapes_compile_nothing_new(compilations):
    x, z, _ = gaussian_pair(8, rho=0.3)
    small(x, z, init=small(x, z))
    with compilations() as seen:
        other = small(x, z, key=jax.random.key(8))
        small(x, z, key=jax.random.key(8), init=other)
    assert seen == []


def test_the_same_key_gives_the_same_estimate_and_another_key_another():
    x, z, _ = gaussian_pair()
    again = small(x, z)
    assert again.nats == usual().nats
    np.testing.assert_array_equal(again.influence, usual().influence)
    other = small(x, z, key=jax.random.key(1))
    assert other.nats != usual().nats
    assert other.nats == pytest.approx(usual().nats, abs=0.1)


def test_a_warm_start_begins_where_the_fit_before_had_ended():
    x, z, _ = gaussian_pair()
    for init in (usual(), usual().state):
        second = small(x, z, init=init)
        best = np.nanmax(usual().history.stop_nats, axis=0)
        assert np.all(second.history.stop_nats[0] >= best - 1e-4)
        assert second.steps <= usual().steps
        assert second.stop_nats >= usual().stop_nats - 1e-4


def test_a_warm_start_of_a_mapping_is_a_mapping():
    x, named, estimates = mapped()
    again = small(x, named, init=estimates)
    for name in named:
        assert again[name].stop_nats >= estimates[name].stop_nats - 1e-4
    with pytest.raises(ValueError, match=r"init must have the names of z, \['close', 'noise'\]"):
        small(x, named, init={"close": estimates["close"]})
    with pytest.raises(ValueError, match=r"init must have the names of z.*got Estimate"):
        small(x, named, init=estimates["close"])


def test_a_state_that_does_not_fit_is_refused():
    x, z, _ = gaussian_pair(d=3)
    with pytest.raises(ValueError, match="other shapes than networks for these samples"):
        small(x, z, init=usual())
    x, z, _ = gaussian_pair()
    for changes in ({"hidden": 17}, {"folds": 4}, {"depth": 3}):
        with pytest.raises(ValueError, match="other shapes than networks for these samples"):
            small(x, z, init=usual(), **changes)


def test_a_network_that_diverges_is_set_back_and_reported(monkeypatch):
    x, z, _ = gaussian_pair()
    plain = mine.train_chunk

    def broken(state, *args):
        state, nats = plain(state, *args)
        return state._replace(average=jax.tree.map(lambda leaf: leaf * np.nan, state.average)), nats

    monkeypatch.setattr(mine, "train_chunk", broken)
    estimate = small(x, z)
    # What is left is the start in closed form, which is right for a Gaussian pair.
    assert estimate.nats == pytest.approx(usual().nats, abs=0.2)
    assert estimate.steps == 2 * CONFIG.check_every
    assert not estimate.converged
    assert any("diverged" in warning for warning in estimate.warnings)


def test_the_cap_is_reported():
    estimate = short("nwj")
    assert estimate.steps == 50
    assert not estimate.converged
    assert any("cap of 50 steps" in warning for warning in estimate.warnings)


# Splits.


@given(
    n=st.sampled_from([20, 97, 300]),
    folds=st.integers(2, 6),
    stop_fraction=st.floats(0.1, 0.4),
    cross_fit=st.booleans(),
    seed=st.integers(0, 99),
)
def test_splits_are_disjoint_and_each_row_reports_at_most_once(
    n, folds, stop_fraction, cross_fit, seed
):
    config = mine.MineConfig(folds=folds, stop_fraction=stop_fraction, cross_fit=cross_fit)
    rows = estimator.split(jax.random.key(seed), n, config)
    count = folds if cross_fit else 1
    for fold in zip(*rows, strict=True):
        assert sorted(np.concatenate(fold)) == list(range(n))
    assert rows.report.shape == (count, n // folds)
    assert rows.stop.shape == (count, round(n * stop_fraction))
    assert len(np.unique(rows.report)) == count * (n // folds)
    again = estimator.split(jax.random.key(seed), n, config)
    np.testing.assert_array_equal(rows.train, again.train)


def test_parts_are_in_random_order():
    rows = estimator.split(KEY, 100, mine.MineConfig())
    # A sorted file would put one class into each part.
    assert list(rows.report[0]) != sorted(rows.report[0])
    other = estimator.split(jax.random.key(1), 100, mine.MineConfig())
    assert not np.array_equal(rows.report, other.report)


# Samples as networks take them.


def test_columns_become_normal_by_their_ranks():
    rng = np.random.default_rng(0)
    values = rng.standard_cauchy(size=(1000, 3))
    values[:, 1] = 7.0
    values[:, 2] = np.round(values[:, 2])
    prepared = np.asarray(estimator.prepare(values))
    assert prepared.dtype == np.float32
    assert np.all(prepared[:, 1] == 0)
    np.testing.assert_allclose(prepared.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(prepared.std(0), [1, 0, 1], atol=1e-4)
    order = np.argsort(values[:, 0])
    assert np.all(np.diff(prepared[order, 0]) > 0)
    assert np.abs(prepared).max() < 4
    # Ties stay ties, and nothing else becomes one.
    _, groups = np.unique(values[:, 2], return_inverse=True)
    assert len(np.unique(prepared[:, 2])) == groups.max() + 1
    for group in range(groups.max() + 1):
        assert np.ptp(prepared[groups == group, 2]) == 0


@given(seed=st.integers(0, 999), columns=st.sampled_from([1, 7, estimator.WIDE]))
def test_monotone_maps_of_columns_change_nothing(seed, columns):
    values = np.random.default_rng(seed).normal(size=(50, columns))
    prepared = estimator.prepare(values)
    for moved in (values**3, np.exp(values), 1e6 * values + 1e7, np.arctan(values)):
        np.testing.assert_array_equal(estimator.prepare(moved), prepared)
    np.testing.assert_allclose(estimator.prepare(-values), -prepared, atol=1e-6)


def test_rows_keep_their_places():
    values = np.random.default_rng(0).normal(size=(60, 4))
    order = np.random.default_rng(1).permutation(60)
    prepared = np.asarray(estimator.prepare(values))
    np.testing.assert_allclose(estimator.prepare(values[order]), prepared[order], atol=1e-6)


@pytest.mark.parametrize("shape", [(200, 160), (200, 5, 3, 12), (200, 2, 80)])
def test_what_is_wide_becomes_principal_components(shape):
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape)
    flat = values.reshape(200, -1)
    # Components of clearly different strength: others are any mixture of one another.
    flat[:, :24] += rng.normal(size=(200, 24)) * 20 * 0.9 ** np.arange(24)
    flat[:, 0] *= 3
    prepared = np.asarray(estimator.prepare(values))
    assert prepared.shape == (200, estimator.COMPONENTS)
    assert abs(np.corrcoef(prepared[:, 0], flat[:, 0])[0, 1]) > 0.99
    variances = prepared.var(0)
    assert np.all(np.diff(variances) <= 1e-6)
    np.testing.assert_allclose(np.mean(prepared**2), 1, rtol=1e-3)
    # One number for all columns: their geometry stays.
    moved = np.asarray(estimator.prepare(1e6 * values + 3))
    np.testing.assert_allclose(np.abs(moved), np.abs(prepared), atol=1e-2)


def shapes(n=400, seed=0):
    """Images of one ellipse each, bright on dark, and what is known of it."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(6, 14, (n, 2))
    along, across, angle = rng.uniform(2, 3, n), rng.uniform(1, 1.5, n), rng.uniform(0, np.pi, n)
    down, right = np.mgrid[:20, :20]
    off_row, off_column = (
        grid[None] - place[:, None, None]
        for grid, place in zip((down, right), centre.T, strict=True)
    )
    cos, sin = (f(angle)[:, None, None] for f in (np.cos, np.sin))
    far = (cos * off_row + sin * off_column) / along[:, None, None]
    near = (cos * off_column - sin * off_row) / across[:, None, None]
    return np.exp(-(far**2 + near**2) / 2)[..., None], centre, along, across, angle


def test_the_moments_of_an_image_are_those_of_its_shape():
    images, centre, along, across, angle = shapes()
    found = estimator.moments(images)
    np.testing.assert_allclose(found[:, 2:4], centre, atol=0.1)
    # The square of a Gaussian bump has half its variance.
    spread = (along**2 + across**2) / 2
    np.testing.assert_allclose(found[:, 4] + found[:, 5], spread, rtol=0.05)
    long = (along**2 - across**2) / (along**2 + across**2)
    np.testing.assert_allclose(found[:, 6], long * np.cos(2 * angle), atol=0.03)
    np.testing.assert_allclose(found[:, 7], long * np.sin(2 * angle), atol=0.03)
    # From either axis; a shape that is as wide as long has none.
    is_long = np.abs(long) > 0.1
    for column, start in ((8, 0.0), (9, np.pi / 2)):
        apart = (found[:, column] - angle + start + np.pi / 2) % np.pi - np.pi / 2
        np.testing.assert_allclose(apart[is_long], 0, atol=0.1)
        assert (np.abs(found[:, column]) <= np.pi / 2).all()
    light = np.log(np.pi * along * across)
    np.testing.assert_allclose(found[:, 1], light, atol=0.05)
    np.testing.assert_allclose(found[:, 0], 2 * np.pi * along * across / 400, rtol=0.05)
    # Dark on bright, in other units, in two channels: the shape is the same.
    other = np.concatenate([5 - 3 * images, 3 * images], axis=-1)
    np.testing.assert_allclose(estimator.moments(other)[:, 2:], found[:, 2:], atol=1e-6)
    far = estimator.moments(np.concatenate([images[:5] * 1e307, 0 * images[:5]]))
    np.testing.assert_allclose(far[:5, 2:], found[:5, 2:], atol=1e-6)
    # Nothing to be seen: in the middle, and darker than all others.
    np.testing.assert_allclose(far[5:, 2:4], 9.5)
    assert far[5:, 1].max() < far[:5, 1].min()


def test_what_is_the_same_in_all_images_says_nothing():
    """A shape of one size that moves by whole pixels: only its place differs."""
    down, right = np.mgrid[:28, :28]
    rng = np.random.default_rng(0)
    at = rng.integers(8, 20, (300, 2))
    off = (down - at[:, 0, None, None]) ** 2 + (right - at[:, 1, None, None]) ** 2
    for dtype in (np.float32, np.float64):
        images = np.exp(-off / 3.4).astype(dtype)[..., None]
        prepared = np.asarray(estimator.prepare(images))
        varies = prepared[:, :10].std(axis=0) > 1e-3
        np.testing.assert_array_equal(varies, [False, False, True, True, *[False] * 6])


def test_images_are_their_moments_and_principal_components():
    images, centre, *_ = shapes()
    prepared = np.asarray(estimator.prepare(images))
    assert prepared.shape == (400, 10 + estimator.COMPONENTS)
    ranks = [np.argsort(column) for column in (prepared[:, 2], centre[:, 0])]
    assert np.mean(np.abs(np.argsort(ranks[0]) - np.argsort(ranks[1]))) < 3
    np.testing.assert_allclose(prepared[:, :6].std(0), 1, rtol=1e-3)
    # 400 columns may be the pixels of 20 by 20, which they are here.
    flat = np.asarray(estimator.prepare(images.reshape(400, -1)))
    np.testing.assert_array_equal(flat, prepared)


def test_noise_that_is_fresh_in_each_batch_is_that_of_the_channel():
    """Rows that train have no noise; the truth, with noise of the variance of x, is ln 2 / 2."""
    n = 2000
    x = np.random.default_rng(0).normal(size=(n, 1)).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(n, 1)).astype(np.float32)
    config = mine.MineConfig(cross_fit=False, hidden=16, max_steps=300, batch_size=128)
    x_blocks, z_blocks = (
        jnp.asarray(np.tile(x, (2, 1))),
        jnp.asarray(np.concatenate([x + noise, x])),
    )
    found, _ = estimator.lower_bounds(
        {"x": x_blocks},
        {"z": z_blocks},
        key=jax.random.key(0),
        config=config,
        noise=({}, {"z": 1.0}),
    )
    value = found["x", "z"]
    assert value.nats == pytest.approx(math.log(2) / 2, abs=0.02 + 3 * value.stderr)
    # Batches have the channel's noise, not that of x beside itself.
    assert np.nanmax(value.history.batch_nats) < 0.6
    ask = functools.partial(
        estimator.lower_bounds, {"x": x_blocks}, key=jax.random.key(0), config=config
    )
    with pytest.raises(ValueError, match=r"noise has levels for \['Z'\]"):
        ask({"z": z_blocks}, noise=({}, {"Z": 1.0}))


def in_many_columns(seed=0, n=N, columns=300, rank=6, strength=0.5):
    """Few dimensions in many columns, x, and z = x + noise; I = rank/2 ln(1 + strength) nats."""
    rng = np.random.default_rng(seed)
    places = np.linalg.qr(rng.normal(size=(columns, rank)))[0].T
    x = math.sqrt(strength) * rng.normal(size=(n, rank)) @ places
    return x, x + rng.normal(size=x.shape), rank / 2 * math.log(1 + strength)


def test_a_mapping_of_the_same_columns_and_others():
    x, z, _ = in_many_columns(n=300)
    named = {"noisy": z, "first": x[:, :1]}
    both = small(x, named, max_steps=25, cross_fit=False)
    widths = {
        name: len(found.state.params["x_first"][0]["maps"][0]) for name, found in both.items()
    }
    again = small(x, named, init=both, max_steps=25, cross_fit=False)
    assert set(again) == {"noisy", "first"}
    assert widths == {"noisy": 2 * estimator.COMPONENTS, "first": estimator.COMPONENTS}


@pytest.mark.parametrize("noisy_first", [False, True])
def test_noise_in_many_columns_does_not_hide_what_both_sides_share(noisy_first):
    x, z, truth = in_many_columns()
    own = estimator.principal_axes(jnp.asarray(z - z.mean(0)), estimator.COMPONENTS)
    # The noisy side's own components hold little of the signal.
    assert np.var(x @ own, axis=0).sum() < 0.6 * np.var(x, axis=0).sum()
    given = (z, x) if noisy_first else (x, z)
    estimate = small(*given, cross_fit=False)
    assert 0.6 * truth < estimate.nats  # 0.93 to 1.09 of 1.22 over seeds; 0.26 to 0.34 by its own
    assert estimate.nats < truth + 3 * estimate.stderr


def test_only_the_same_columns_share_axes():
    x, z, _ = in_many_columns(n=100)
    assert estimator.shared_axes(x, z).shape == (300, 2 * estimator.COMPONENTS)
    own = estimator.principal_axes(estimator.prepare(x, scale="common"), estimator.COMPONENTS)
    np.testing.assert_allclose(
        np.abs(np.sum(own[:, :6] * estimator.shared_axes(x, z)[:, :6], axis=0)), 1, atol=1e-3
    )
    assert estimator.shared_axes(x, z[:, :299]) is None  # another number of columns
    assert estimator.shared_axes(x[:, :128], z[:, :128]) is None  # all columns are taken
    assert estimator.shared_axes(x, z[:99]) is None
    with pytest.raises(
        ValueError, match=r"axes of 300 columns do not fit layer of shape \(100, 6\)"
    ):
        estimator.prepare(x[:, :6], "layer", axes=estimator.shared_axes(x, z))
    flat, shaped = estimator.shared_axes(x, z), estimator.shared_axes(x, z.reshape(100, 20, 15, 1))
    np.testing.assert_array_equal(flat, shaped)
    with pytest.raises(ValueError, match="layer has a value that is not finite in row 3"):
        estimator.shared_axes(x, np.where(np.arange(100)[:, None] == 3, np.nan, z), ("x", "layer"))


def test_names_of_arrays_do_not_meet_those_of_the_other_side():
    rng = np.random.default_rng(0)
    labels, others = rng.integers(0, 3, (2, 300))
    numbers = rng.normal(size=(300, 2)) + 5 * labels[:, None]
    config = mine.MineConfig(cross_fit=False, hidden=8, max_steps=50)
    # The labels of x are exchanged with the numbers, and are an array called x on that side.
    found = mine_jax.lower_bound(labels, {"x: x": others, "numbers": numbers}, config=config)
    assert abs(found["x: x"].nats) < 0.1
    assert found["numbers"].nats > 0.9
    with pytest.raises(ValueError, match=r"names of arrays must be strings, got \[0\]"):
        mine_jax.lower_bound(labels, {0: others}, config=config)


def test_the_same_thing_twice_is_at_the_ceiling_and_says_so():
    """The Donsker–Varadhan form of so much hangs on single pairs and fell as low as −0.4."""
    x = np.random.default_rng(3).normal(size=(200, 3))
    found = mine_jax.lower_bound(x, x, config=mine.MineConfig(cross_fit=False, max_steps=50))
    assert found.nats > found.ceiling_nats - 0.1
    assert found.form == "infonce"
    assert any("Near the ceiling" in text for text in found.warnings)


def test_what_is_at_the_ceiling_from_the_start_is_not_taken_for_nothing():
    x = np.random.default_rng(0).normal(size=(200, 150))
    found = mine_jax.lower_bound(x, x, config=mine.MineConfig(cross_fit=False, max_steps=50))
    assert found.nats == pytest.approx(found.ceiling_nats, abs=1e-3)
    assert not any("No network gained" in text for text in found.warnings)


def test_what_is_above_the_ceiling_is_flagged_whatever_the_form():
    """InfoNCE may stay over a nat below the ceiling where the truth is above it."""
    rho = exact.correlation(7.0, 20)
    x, noise = np.random.default_rng(0).normal(size=(2, 4000, 20))
    z = rho * x + math.sqrt(1 - rho**2) * noise
    found = mine_jax.lower_bound(x, z, config=mine.MineConfig(cross_fit=False, max_steps=50))
    assert found.nats + 2 * found.stderr < found.ceiling_nats - 1 < 6
    assert any("Near the ceiling" in text for text in found.warnings)


def test_what_says_nothing_says_that_nothing_was_gained():
    rng = np.random.default_rng(0)
    config = mine.MineConfig(cross_fit=False, max_steps=50)
    for x in (np.ones((300, 3)), np.ones((300, 784))):
        found = mine_jax.lower_bound(x, rng.normal(size=(300, 3)), config=config)
        assert abs(found.nats) < 1e-5
        assert found.stderr < 1e-3
        assert len(found.warnings) == 1
        assert "No network gained" in found.warnings[0]


def test_few_stopping_samples_are_told_of():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 60, 2))
    found = mine_jax.lower_bound(x, z, config=mine.MineConfig(cross_fit=False, max_steps=50))
    assert any("Only 6 stopping samples" in text for text in found.warnings)


def test_a_pair_that_takes_much_off_is_told_of():
    """Its score is high, and it is one of 640,000 pairs of 800 samples."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=800)
    z = 0.9 * x + math.sqrt(1 - 0.9**2) * rng.normal(size=800)
    scores = (0.9 * np.outer(x, z) - 0.405 * np.add.outer(x**2, z**2)) / (1 - 0.9**2)

    def taken_off(scores):
        n = len(scores)
        others = np.where(np.eye(n, dtype=bool), -np.inf, scores)
        full = np.logaddexp.reduce(scores, axis=1)
        sums = bounds.Sums(
            joint=jnp.asarray(np.diag(scores)),
            rows=jnp.asarray(np.logaddexp.reduce(others, axis=1)),
            columns=jnp.asarray(np.logaddexp.reduce(others, axis=0)),
            squares=jnp.asarray(np.logaddexp.reduce(2 * others, axis=None)),
            as_negative=jnp.asarray(np.exp(others - full[:, None]).sum(axis=0)),
            others=jnp.asarray(n - 1.0),
        )
        found = bounds.held_out(sums, "donsker_varadhan")
        return estimator._taken_off(np.asarray(found.influence)[None], float(found.stderr))

    assert taken_off(scores) == 0
    few = 3 * rng.normal(size=(1, 40))  # of few samples any takes a tenth of a nat off
    assert few.min() / few.size < -0.1
    assert estimator._taken_off(few, few.std() / math.sqrt(40)) == 0
    scores[3, 5] = math.log(0.5 * 800 * 799)  # about half of the mean over all pairs
    found = taken_off(scores)
    assert 0.3 < found < 0.6
    # A constant changes nothing.
    assert taken_off(scores + 100) == pytest.approx(found, rel=1e-3)


def test_one_wrong_row_among_many_columns_does_not_hide_the_others():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 144)) * np.where(np.arange(144) < 4, 5, 0.1)
    z = x[:, :4] + 5 * rng.normal(size=(2000, 4))
    config = mine.MineConfig(cross_fit=False, max_steps=100)
    clean = mine_jax.lower_bound(x, z, config=config)
    assert clean.nats == pytest.approx(2 * math.log(2), abs=0.1 + 3 * clean.stderr)
    for far in (1e6, 1e200):
        x[7, 3] = far
        wrong = mine_jax.lower_bound(x, z, config=config)
        assert wrong.nats == pytest.approx(clean.nats, abs=0.1)


@pytest.mark.parametrize("far", [1e6, 1e38])
def test_a_row_is_drawn_in_however_far_it_is(far):
    rows = np.random.default_rng(0).normal(size=(40, 200)).astype(np.float32)
    usual = np.linalg.norm(rows, axis=1)
    wrong = rows.copy()
    wrong[3] = far
    drawn = estimator._drawn_in(wrong, "x")
    # Ten times as far as the others, which stay as they are.
    np.testing.assert_array_equal(np.delete(drawn, 3, axis=0), np.delete(rows, 3, axis=0))
    assert np.linalg.norm(drawn[3]) == pytest.approx(10 * np.median(usual), rel=0.1)
    # Images of nothing are most of these, and no reason to draw in the others.
    empty = np.zeros((40, 200), np.float32)
    empty[:10] = rows[:10]
    assert estimator._drawn_in(empty, "x") is empty


def test_noise_needs_two_blocks():
    odd = jnp.zeros((101, 2))
    with pytest.raises(ValueError, match="two blocks of samples, got 101 rows"):
        estimator.lower_bounds(
            {"x": odd},
            {"z": odd},
            key=jax.random.key(0),
            config=mine.MineConfig(),
            noise=({"x": 1.0}, {}),
        )


def test_a_sample_far_out_where_training_saw_nothing_does_not_outweigh_all_others():
    n = 1000
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4))
    z = x + rng.normal(size=(n, 4))
    x[:, 3] *= 1e-2
    z[:, 3] *= 1e-2
    config = mine.MineConfig(cross_fit=False, hidden=16, max_steps=50, batch_size=128)
    key = jax.random.key(0)
    row = estimator.split(jax.random.split(key)[0], n, config).report[0, 0]
    x[row, 3] = z[row, 3] = 30.0
    arrays = [jnp.asarray(side, jnp.float32) for side in (x, z)]
    found, _ = estimator.lower_bounds({"x": arrays[0]}, {"z": arrays[1]}, key=key, config=config)
    value = found["x", "z"]
    assert value.nats == pytest.approx(2 * math.log(2), abs=0.05 + 3 * value.stderr)
    assert value.stderr < 0.2


def test_images_keep_their_shape_if_they_are_told_to():
    images = np.random.default_rng(0).normal(3.0, 5.0, size=(50, 5, 4, 2))
    kept = np.asarray(estimator.prepare(images, keep_shape=True))
    assert kept.shape == images.shape
    np.testing.assert_allclose(kept.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.mean(kept**2), 1, rtol=1e-4)
    small_ones = estimator.prepare(images[:, :3], keep_shape=True)
    assert small_ones.shape == (50, 3 * 4 * 2)


def test_a_common_scale_keeps_the_geometry():
    values = np.random.default_rng(0).normal(size=(100, 3)) * [1.0, 10.0, 1e200]
    prepared = np.asarray(estimator.prepare(values[:, :2], scale="common"))
    ratio = prepared.std(0)[1] / prepared.std(0)[0]
    assert ratio == pytest.approx(values[:, 1].std() / values[:, 0].std(), rel=1e-4)
    np.testing.assert_allclose(np.mean(prepared**2), 1, rtol=1e-4)
    assert np.isfinite(np.asarray(estimator.prepare(values, scale="common"))).all()


def test_a_scale_for_each_column_is_linear_within_four_deviations():
    rng = np.random.default_rng(0)
    values = rng.normal(5.0, 3.0, size=(1000, 2))
    values[3, 0], values[4, 0] = 300.0, 400.0
    prepared = np.asarray(estimator.prepare(values, scale="columns"))
    inside = (values[:, 1] - values[:, 1].mean()) / values[:, 1].std()
    np.testing.assert_allclose(prepared[:, 1], inside, atol=1e-5)
    assert np.all(np.argsort(prepared[:, 0]) == np.argsort(values[:, 0]))
    assert prepared.max() < 10
    assert np.isfinite(np.asarray(estimator.prepare(values * 1e200, scale="columns"))).all()
    both = np.asarray(estimator.prepare(values, scale="both"))
    np.testing.assert_array_equal(both[:, :2], estimator.prepare(values))
    np.testing.assert_array_equal(both[:, 2:], prepared)


def test_integers_of_one_column_are_labels():
    labels = np.array([3, 3, -1, 8, 8, 3])
    wanted = np.eye(3)[[1, 1, 0, 2, 2, 1]]
    for values in (labels, labels[:, None], labels.astype(np.int8)):
        prepared = estimator.prepare(values)
        assert prepared.dtype == jnp.uint8
        np.testing.assert_array_equal(prepared, wanted)
    assert estimator.prepare(labels > 0).shape == (6, 2)
    # As floats they are taken at their word, and so are integers of several columns.
    for values in (labels.astype(float), np.stack([labels, labels], 1)):
        assert estimator.prepare(values).dtype == jnp.float32


bad = np.ones(N)
bad[17] = np.nan
wide_and_bad = np.ones((N, 200))
wide_and_bad[17, 3] = np.inf


@pytest.mark.parametrize(
    ("x", "z", "options", "message"),
    [
        (bad, np.ones(N), {}, "x has a value that is not finite in row 17"),
        (wide_and_bad, np.ones(N), {}, "x has a value that is not finite in row 17"),
        (np.ones(N), {"layer": bad}, {}, "layer has a value that is not finite in row 17"),
        (np.arange(N) % 2, {"layer": bad}, {}, "layer has a value that is not finite in row 17"),
        (np.ones(N), np.ones(N - 1), {}, "same number of samples.*1000.*999"),
        (np.ones(4), np.ones(4), {}, "4 samples are too few"),
        (np.ones((N, 0)), np.ones(N), {}, r"x must be \(n, …\).*\(1000, 0\)"),
        (np.float32(1), np.ones(N), {}, r"x must be \(n, …\)"),
        (np.array(["a"] * N), np.ones(N), {}, "x must hold real numbers, or labels as integers"),
        (np.ones(N, complex), np.ones(N), {}, "x must .*complex128"),
        (np.ones(N), np.ones((N, 2), complex), {}, "z must .*complex128"),
        (np.arange(2 * N), np.ones(2 * N), {}, "x has 2000 different integers, more than 1000"),
        (np.ones(N), {}, {}, "empty mapping"),
        (np.ones(N), np.ones(N), {"init": 3}, "init must be an Estimate or its state, got int"),
        (np.ones(N), {"a": np.ones(N)}, {"init": {"b": 3}}, r"init must have the names.*\['a'\]"),
    ],
)
def test_bad_input_is_named(x, z, options, message):
    with pytest.raises(ValueError, match=message):
        small(x, z, **options)


def test_an_unknown_scale_is_named():
    with pytest.raises(ValueError, match=r"scale must be one of .*got 'log'"):
        estimator.prepare(np.ones(5), scale="log")


def test_a_first_call_compiles_each_program_once(monkeypatch, compilations):
    """More folds are more networks of the same shapes: no more programs."""
    monkeypatch.setattr(estimator, "_COMPILED", set())  # nothing is dropped on the way
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 3)).astype(np.float32)
    z = x[:, :2] + rng.normal(size=(240, 2)).astype(np.float32)

    def programs(hidden: int, folds: int) -> int:
        # A width of its own, so that nothing has compiled it before.
        config = mine.MineConfig(
            hidden=hidden, folds=folds, batch_size=32, max_steps=50, canonical=0
        )
        with compilations() as seen:
            estimator.lower_bound(x, z, config=config)
        return len(seen)

    programs(6, 4), programs(6, 6)  # what does not depend on the width
    assert programs(7, 4) == programs(8, 6) > 0


def test_components_are_turned_to_what_stays_as_it_is():
    rng = np.random.default_rng(0)
    fixed = rng.normal(size=(300, 6)).astype(np.float32) * np.linspace(3, 1, 6, dtype=np.float32)
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    columns = (fixed @ rotation).astype(np.float32)
    found = np.asarray(estimator.turn(columns, fixed))
    np.testing.assert_allclose(found, rotation.T, atol=1e-4)
    # Also where they are only alike: orthogonal, and as near as any rotation comes.
    noisy = columns + rng.normal(size=columns.shape).astype(np.float32)
    near = np.asarray(estimator.turn(noisy, fixed))
    np.testing.assert_allclose(near @ near.T, np.eye(6), atol=1e-5)
    apart = np.linalg.norm(noisy @ near - fixed)
    for _ in range(20):
        other, _ = np.linalg.qr(near + 0.1 * rng.normal(size=(6, 6)))
        assert np.linalg.norm(noisy @ other - fixed) > apart
    np.testing.assert_array_equal(estimator.turn(columns, fixed[:, :4]), np.eye(6))


def test_turned_layers_look_alike_whatever_their_signs_are():
    rng = np.random.default_rng(1)
    scales = np.concatenate([np.geomspace(5, 1, 20), np.full(180, 0.02)]).astype(np.float32)
    hidden = rng.normal(size=(400, 200)).astype(np.float32) * scales
    towards = estimator.components(hidden, estimator.COMPONENTS)
    assert estimator.components(hidden[:, :5], estimator.COMPONENTS) is None
    # The same layer in other units of its own: components in another order, with other signs.
    rotation, _ = np.linalg.qr(rng.normal(size=(200, 200)))
    layers = hidden, (hidden @ rotation).astype(np.float32)
    one, other = (np.asarray(estimator.prepare(layer, towards=towards)) for layer in layers)
    np.testing.assert_allclose(one, other, atol=0.02)
    plain = [np.asarray(estimator.prepare(layer)) for layer in layers]
    for turned, left in zip((one, other), plain, strict=True):
        np.testing.assert_allclose(turned @ turned.T, left @ left.T, atol=0.05)


def test_compiled_code_does_not_pile_up(monkeypatch):
    cleared = []
    monkeypatch.setattr(estimator, "_COMPILED", set())
    monkeypatch.setattr(estimator, "_MOST_COMPILED", 2)
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(len(estimator._COMPILED)))

    def call(*kinds):
        return estimator._in_threads(lambda i: (i, kinds[i]), [(kind,) for kind in kinds])

    assert call("a", "b", "a") == [(0, "a"), (1, "b"), (2, "a")]
    call("b")
    assert cleared == []
    call("c")
    assert cleared == [2]
    assert list(estimator._COMPILED) == [("c",)]
    # More at once than there is room for: in parts.
    assert call(*"abcde") == list(enumerate("abcde"))
    assert len(estimator._COMPILED) <= 2
    assert len(cleared) == 4
