"""lower_bound against known truths, and what its estimates promise."""

import math

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

import mine_jax
from mine_jax import estimator, mine

# One small network and one shape of samples for nearly all tests, so that they share what is
# compiled. Its errors were measured over 20 seeds and every d and rho below: the mean over the
# truth by at most 1.9 standard errors, below it by at most 0.11 nats.
CONFIG = mine.MineConfig(
    hidden=24, products=8, batch_size=128, pairings=4, learning_rate=1e-2, max_steps=300, folds=3
)
N = 1500


def gaussian_pair(seed, d, rho, n=N):
    """Samples with I = −d/2 ln(1 − ρ²) nats."""
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * noise, -d / 2 * math.log(1 - rho**2)


def small(x, z, seed=0, **options):
    return mine_jax.lower_bound(x, z, key=jax.random.key(seed), config=CONFIG, **options)


few = settings(max_examples=4)
seeds = st.integers(0, 2**16)
widths = st.sampled_from([1, 3])


@few
@given(seeds, widths)
def test_independent_samples_give_nothing(seed, d):
    x, z, _ = gaussian_pair(seed, d, 0.0)
    estimate = small(x, z, seed)
    # Whatever a network believes to see costs it on the reporting samples.
    assert abs(estimate.nats) <= 3 * estimate.stderr + 0.01


@few
@given(seeds, widths, st.floats(-0.95, 0.95))
def test_correlated_samples_stay_below_the_truth_and_near_it(seed, d, rho):
    x, z, truth = gaussian_pair(seed, d, rho)
    estimate = small(x, z, seed)
    assert estimate.nats <= truth + 3 * estimate.stderr + 0.005
    assert estimate.nats >= truth - 3 * estimate.stderr - 0.02 - 0.1 * truth


@few
@given(seeds, widths, st.sampled_from([-1, 1]))
def test_more_correlation_is_more_information(seed, d, sign):
    values = [small(*gaussian_pair(seed, d, sign * rho)[:2], seed).nats for rho in (0.2, 0.6, 0.9)]
    assert values == sorted(values)


@few
@given(seeds, widths, st.floats(0.3, 0.9))
def test_x_and_z_can_be_swapped(seed, d, rho):
    x, z, _ = gaussian_pair(seed, d, rho)
    one, other = small(x, z, seed), small(z, x, seed)
    # The same samples report: what is left is what two networks missed.
    assert abs(one.nats - other.nats) <= 2 * one.stderr + 0.02


@few
@given(seeds, widths, st.floats(-0.9, 0.9), st.floats(0.01, 1e3), st.floats(-50, 50))
def test_shift_and_scale_do_not_matter(seed, d, rho, scale, shift):
    x, z, _ = gaussian_pair(seed, d, rho)
    plain, moved = small(x, z, seed), small(scale * x - shift, shift + z / scale, seed)
    # Equal up to what training makes of differences in the last bits.
    assert moved.nats == pytest.approx(plain.nats, abs=plain.stderr + 0.005)
    flipped = small(-x, z, seed)
    assert flipped.nats == pytest.approx(plain.nats, abs=2 * plain.stderr + 0.02)


@pytest.mark.parametrize(("d", "rho", "margin"), [(10, 0.0, 0.03), (1, 0.9, 0.03)])
def test_the_default_on_ten_thousand_samples(d, rho, margin):
    x, z, truth = gaussian_pair(1, d, rho, 10_000)
    estimate = mine_jax.lower_bound(x, z)
    # Measured over five seeds: at most 0.001 and 0.009 from the truth, stderr 0.0002 and 0.0096.
    assert abs(estimate.nats - truth) <= margin
    assert estimate.converged
    assert estimate.ceiling_nats == pytest.approx(math.log(2000))


def test_labels_of_any_kind_are_one_variable():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, N)
    z = 6.0 * np.eye(3)[labels] + rng.normal(size=(N, 3))
    values = [small(x, z).nats for x in (labels, labels[:, None].astype(np.uint8), 7 - 5 * labels)]
    # Well separated: z tells the label, ln 3 nats but for 0.1 % of overlap.
    np.testing.assert_allclose(values, math.log(3), atol=0.03)
    # As one number a label says nothing of its own; as floats it is taken at its word.
    assert estimator.prepare(labels).shape == (N, 3)
    assert estimator.prepare(labels.astype(float)).shape == (N, 1)
    assert estimator.prepare(labels == 1).shape == (N, 2)


def test_a_copy_reaches_towards_its_ceiling_and_is_flagged():
    x = np.random.default_rng(0).normal(size=(N, 3))
    estimate = small(x, x)
    assert estimate.nats <= estimate.ceiling_nats == math.log(N // 3)
    assert estimate.nats > 0.6 * estimate.ceiling_nats
    near = [warning for warning in estimate.warnings if "ceiling" in warning]
    assert bool(near) == (estimate.nats + 2 * estimate.stderr > 0.9 * estimate.ceiling_nats)


def test_what_was_memorised_is_not_reported():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 240, 20))
    config = mine.MineConfig(
        hidden=64, batch_size=64, max_steps=400, patience=1000, folds=3, learning_rate=1e-2
    )
    estimate = mine_jax.lower_bound(x, z, config=config)
    assert np.nanmax(estimate.history.batch_nats) > 2
    assert estimate.nats <= 3 * estimate.stderr + 0.05
    assert any("cap" in warning for warning in estimate.warnings)


def test_a_mapping_gives_each_name_its_estimate():
    x, z, truth = gaussian_pair(0, 1, 0.8)
    noise = np.random.default_rng(9).normal(size=(N, 1))
    estimates = small(x, {"wide": np.hstack([z, noise, noise]), "a": z[:, 0], "noise": noise})
    assert list(estimates) == ["wide", "a", "noise"]
    for name, value in {"wide": truth, "a": truth, "noise": 0.0}.items():
        assert estimates[name].nats == pytest.approx(value, abs=0.08)
    alone = small(x, z)
    assert estimates["a"].nats == pytest.approx(alone.nats, abs=2 * alone.stderr)
    again = small(x, {"wide": z}, init={"wide": estimates["a"].state})
    assert again["wide"].history.stop_nats[0].mean() > 0.9 * truth - 0.05


def test_an_estimate_is_an_immutable_pytree():
    estimate = small(*gaussian_pair(0, 1, 0.8)[:2])
    assert float(estimate) == estimate.nats
    with pytest.raises(AttributeError):
        estimate.nats = 1.0
    doubled = jax.tree.map(lambda leaf: leaf, estimate)
    assert doubled.warnings == estimate.warnings
    influence = estimate.influence
    assert influence.shape == (3, N // 3)
    stderr = math.sqrt(np.sum(influence.var(axis=1, ddof=1) / (N // 3))) / 3
    assert estimate.stderr == pytest.approx(stderr, rel=1e-4)


def test_a_warm_start_begins_where_the_fit_before_had_ended():
    x, z, _ = gaussian_pair(0, 3, 0.8)
    first = small(x, z)
    second = small(x, z, init=first)
    np.testing.assert_allclose(
        second.history.stop_nats[0], np.nanmax(first.history.stop_nats, axis=0), rtol=1e-4
    )
    assert second.steps <= first.steps


def test_the_same_key_gives_the_same_estimate_and_compiles_nothing_new():
    x, z, _ = gaussian_pair(0, 3, 0.5)
    first = small(x, z)
    sizes = [f._cache_size() for f in (mine._chunk, mine._start, mine.evaluate_rows)]
    other = small(*gaussian_pair(1, 3, 0.7)[:2], seed=1)
    small(x, z, init=first)
    assert [f._cache_size() for f in (mine._chunk, mine._start, mine.evaluate_rows)] == sizes
    assert small(x, z).nats == first.nats
    assert other.nats != first.nats


@pytest.mark.parametrize("n", [100, 103])
def test_splits_are_disjoint_and_each_row_reports_at_most_once(n):
    config = mine.MineConfig(folds=5)
    rows = estimator.split(jax.random.key(0), n, config)
    for fold in zip(*rows, strict=True):
        together = np.concatenate(fold)
        assert sorted(together) == list(range(n))
    assert rows.report.shape == (5, n // 5)
    assert len(np.unique(rows.report)) == 5 * (n // 5)
    again = estimator.split(jax.random.key(0), n, config)
    np.testing.assert_array_equal(rows.train, again.train)
    one = estimator.split(jax.random.key(0), n, mine.MineConfig(folds=5, cross_fit=False))
    assert one.report.shape == (1, n // 5)
    # In random order: a sorted file would put one class into each part.
    assert list(rows.report[0]) != sorted(rows.report[0])


def test_preparing_standardises_flattens_and_keeps_order():
    rng = np.random.default_rng(0)
    images = rng.normal(5.0, 3.0, size=(500, 4, 4, 2))
    images[:, 0, 0, 0] = 7.0
    prepared = np.asarray(estimator.prepare(images))
    assert prepared.shape == (500, 32)
    assert prepared.dtype == np.float32
    assert np.all(prepared[:, 0] == 0)
    np.testing.assert_allclose(prepared[:, 1:].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(prepared[:, 1:].std(0), 1, atol=1e-2)
    assert estimator.prepare(np.arange(5.0)).shape == (5, 1)

    far = rng.normal(size=1000)
    far[3], far[4] = 30.0, 40.0
    compressed = np.asarray(estimator.prepare(far))[:, 0]
    assert np.all(np.argsort(compressed) == np.argsort(far))
    assert compressed.max() < 10


def test_offsets_and_huge_values_leave_something_to_see():
    x, z, truth = gaussian_pair(0, 1, 0.8)
    assert small(x + 1e9, z * 1e200).nats == pytest.approx(small(x, z).nats, abs=0.02)
    assert small(x, z).nats == pytest.approx(truth, abs=0.1)


bad = np.ones(N)
bad[17] = np.nan


@pytest.mark.parametrize(
    ("x", "z", "options", "message"),
    [
        (bad, np.ones(N), {}, "x has a value that is not finite in row 17"),
        (np.ones(N), {"layer": bad}, {}, "layer has a value that is not finite in row 17"),
        (np.ones(N), np.ones(N - 1), {}, "same number of samples.*1500.*1499|1499.*1500"),
        (np.ones(4), np.ones(4), {}, "4 samples are too few"),
        (np.ones((N, 0)), np.ones(N), {}, r"x must be \(n, …\).*\(1500, 0\)"),
        (np.float32(1), np.ones(N), {}, r"x must be \(n, …\)"),
        (np.array(["a"] * N), np.ones(N), {}, "x must hold real numbers or labels"),
        (np.ones(N, complex), np.ones(N), {}, "complex128"),
        (np.arange(N), np.ones(N), {}, "x has 1500 different integers, more than 1000 labels"),
        (np.ones(N), {}, {}, "empty mapping"),
        (np.ones(N), np.ones(N), {"init": 3}, "init must be an Estimate or its state, got int"),
        (np.ones(N), {"a": np.ones(N)}, {"init": {"b": 3}}, r"init must have the names.*\['a'\]"),
    ],
)
def test_bad_input_is_named(x, z, options, message):
    with pytest.raises(ValueError, match=message):
        small(x, z, **options)


def test_a_state_of_other_widths_is_refused():
    estimate = small(*gaussian_pair(0, 1, 0.8)[:2])
    x, z, _ = gaussian_pair(0, 3, 0.8)
    with pytest.raises(ValueError, match="other shapes than networks for these samples"):
        small(x, z, init=estimate.state)
