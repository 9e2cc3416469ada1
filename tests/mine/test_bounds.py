"""Bounds from scores: against their definitions, at their limits, and their standard errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mine_jax.mine import bounds

from .common import assert_held_out, naive_donsker_varadhan, naive_value, normal

FORMS = ("donsker_varadhan", "infonce", "nwj")
# One shape for all examples, so that each function is compiled once.
MATRICES = hnp.arrays(np.float32, (6, 6), elements=st.floats(-1e4, 1e4, width=32))
TABLES = st.lists(st.integers(0, 5), min_size=6, max_size=6).map(
    lambda cells: 1 + np.bincount(cells, minlength=6).reshape(3, 2)
)


@functools.cache
def jitted(name, *arguments, **options):
    return jax.jit(functools.partial(getattr(bounds, name), *arguments, **options))


def held_out(sums, form):
    return jitted("held_out", bound=form)(sums)


def all_pairs(matrix):
    matrix = jnp.asarray(matrix, jnp.float32)
    return bounds.Scores(jnp.diagonal(matrix), matrix, matrix.T, 1.0 - np.eye(len(matrix)))


def shifted_pairs(matrix, shifts):
    """Some candidates for each sample: z_(i + s) for x_i, the joint pair in front."""
    i, shifts = np.arange(len(matrix)), (0, *shifts)
    rows = np.float32(np.stack([matrix[i, (i + s) % len(i)] for s in shifts], 1))
    columns = np.float32(np.stack([matrix[(i - s) % len(i), i] for s in shifts], 1))
    return bounds.Scores(rows[:, 0], rows, columns, 1.0 - np.eye(1, len(shifts)))


def all_classes(rows, labels, fractions):
    rows, fractions = jnp.asarray(rows, jnp.float32), jnp.asarray(fractions, jnp.float32)
    return bounds.Scores(rows[np.arange(len(rows)), labels], rows, None, fractions)


def labelled(scale):
    """Scores of 12 samples with each of 4 classes, labels, and the fractions of the classes."""
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 3, 3])
    return normal(3, 12, 4, scale=scale), labels, np.bincount(labels) / 12


# Objectives.


@pytest.mark.parametrize("shapes", [((7,), (7,)), ((5, 3), (4,)), ((1,), (2, 3, 4))])
def test_donsker_varadhan_any_shapes_equals_naive_formula(shapes):
    t_joint, t_marginal = normal(0, *shapes[0]), normal(1, *shapes[1], scale=3.0)
    value = bounds.donsker_varadhan(t_joint, t_marginal)
    np.testing.assert_allclose(value, naive_donsker_varadhan(t_joint, t_marginal), rtol=1e-5)


def test_donsker_varadhan_huge_scores_has_exact_value_and_gradient():
    t_joint, t_marginal = normal(0, 5), jnp.array([1e4, -1e4, 1e4, 0.0])
    value = jax.value_and_grad(bounds.donsker_varadhan, argnums=(0, 1))
    nats, (on_joint, on_marginal) = value(t_joint, t_marginal)
    np.testing.assert_allclose(nats, np.mean(t_joint) - 1e4 + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(on_joint, 1 / 5, rtol=1e-6)
    np.testing.assert_allclose(on_marginal, [-0.5, 0, -0.5, 0], atol=1e-6)


def test_donsker_varadhan_without_scores_raises():
    with pytest.raises(ValueError, match=r"joint score, got \(0, 2\)"):
        bounds.donsker_varadhan(jnp.zeros((0, 2)), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"at least one score, got shape \(0, 2\)"):
        bounds.donsker_varadhan(jnp.zeros(3), jnp.zeros((0, 2)))


@pytest.mark.parametrize("pairs", ["all", "shifted", "classes"])
@pytest.mark.parametrize("bound", bounds.BOUNDS)
def test_objective_equals_its_definition(bound, pairs):
    if pairs == "classes":
        rows, labels, fractions = labelled(scale=4.0)
        scores, weights = all_classes(rows, labels, fractions), fractions / len(rows)
        marginal = np.float64(rows)
        predicted = np.exp(marginal) * fractions
        predicted /= predicted.sum(1, keepdims=True)
        cross_entropy = -np.mean(np.log(predicted[np.arange(len(rows)), labels]))
        infonce = -np.sum(fractions * np.log(fractions)) - cross_entropy
    else:
        matrix, i = np.float64(normal(3, 9, 9, scale=4.0)), np.arange(9)
        shifts = range(1, 9) if pairs == "all" else (1, 4)
        scores = all_pairs(matrix) if pairs == "all" else shifted_pairs(matrix, shifts)
        marginal, weights = np.stack([matrix[i, (i + s) % 9] for s in shifts]), 1 / 9 / len(shifts)
        joint = np.exp(matrix[i, i])
        forward = joint / (joint + sum(np.exp(matrix[i, (i + s) % 9]) for s in shifts))
        backward = joint / (joint + sum(np.exp(matrix[(i - s) % 9, i]) for s in shifts))
        infonce = np.mean(np.log(forward * backward)) / 2 + np.log(1 + len(shifts))
    joint, mean_exp = np.mean(np.float64(scores.joint)), np.sum(weights * np.exp(marginal))
    expected = {
        "infonce": infonce,
        "donsker_varadhan": joint - np.log(mean_exp),
        "mine": joint - mean_exp / np.exp(1.5),
        "nwj": joint - mean_exp / np.e,
        "smile": joint - np.log(np.sum(weights * np.exp(np.clip(marginal, -5, 5)))),
    }[bound]
    value = jitted("objective", bound)(scores, jnp.float32(1.5))
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-5)


def test_objective_unknown_bound_raises():
    with pytest.raises(ValueError, match=r"bound must be one of .*got 'club'"):
        bounds.objective("club", all_pairs(np.eye(3)), jnp.zeros(()))


@given(TABLES)
def test_objective_at_log_ratio_of_joint_distribution_is_information(counts):
    # Samples in the numbers of a table: all their pairs are the product of its marginals.
    joint = counts / counts.sum()
    ratio = np.log(joint / (joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)))
    information = np.sum(joint * ratio)
    x, z = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
    pairs = all_pairs(ratio[x][:, z])._replace(weights=np.ones((len(x), len(x))))
    classes = all_classes(ratio[x], z, np.bincount(z) / len(z))
    for scores in (pairs, classes):
        above = scores._replace(joint=scores.joint + 1, rows=scores.rows + 1)
        np.testing.assert_allclose(jitted("infonce")(scores), information, atol=3e-6)
        np.testing.assert_allclose(jitted("nwj")(above), information, atol=3e-6)
        value = jitted("donsker_varadhan")(scores.joint, scores.rows, scores.weights)
        np.testing.assert_allclose(value, information, atol=3e-6)


@given(MATRICES)
def test_infonce_any_scores_is_at_most_log_of_candidates(matrix):
    assert jitted("infonce")(all_pairs(matrix)) <= np.log(6) + 1e-6
    assert jitted("infonce")(shifted_pairs(matrix, (1, 3))) <= np.log(3) + 1e-6


# The corrected gradient.


@pytest.mark.parametrize("first", [True, False])
def test_bias_corrected_gradient_divides_by_average(first):
    joint, marginal = normal(0, 16), normal(1, 16)

    def surrogate(parameter):  # of T = parameter · feature
        batch = bounds.log_mean_exp(parameter * marginal)
        average = bounds.update_log_partition(0.3, batch, 0.1, first)
        return bounds.bias_corrected(parameter * joint, batch, average)

    weighted = np.exp(1.5 * np.float64(marginal))
    # The average starts from the first batch, whose gradient is the plain one.
    average = weighted.mean() if first else 0.9 * np.exp(0.3) + 0.1 * weighted.mean()
    expected = joint.mean() - (weighted * marginal).mean() / average
    np.testing.assert_allclose(jax.grad(surrogate)(1.5), expected, rtol=1e-5)


@pytest.mark.parametrize("level", [-1000.0, 1000.0])
def test_update_log_partition_huge_values_stays_finite(level):
    average = bounds.update_log_partition(jnp.float32(-level), jnp.float32(level), 0.5, False)
    np.testing.assert_allclose(average, 1000 - np.log(2), rtol=1e-6)


# Held-out values.


def sums_of(matrix):
    """Sums over all pairs, in float64 until the end."""
    matrix, n = np.float64(matrix), len(matrix)
    scores = np.where(np.eye(n, dtype=bool), -np.inf, matrix)
    rows, columns = (np.logaddexp.reduce(scores, axis=axis) for axis in (1, 0))
    full = np.logaddexp.reduce(matrix, axis=1)
    as_negative = np.exp(scores - full[:, None]).sum(axis=0)
    squares = np.logaddexp.reduce(2 * scores.ravel())
    parts = (np.diagonal(matrix), rows, columns, squares, as_negative, n - 1)
    return bounds.Sums(*(jnp.asarray(part, jnp.float32) for part in parts))


@pytest.mark.parametrize("form", FORMS)
@given(matrix=hnp.arrays(np.float32, (6, 6), elements=st.floats(-15, 15, width=32)))
def test_held_out_any_scores_equals_its_definition(form, matrix):
    assert_held_out(held_out(sums_of(matrix), form), matrix, form)


@given(MATRICES)
def test_held_out_huge_scores_is_finite_and_infonce_at_most_log_of_samples(matrix):
    result, other = (held_out(sums_of(matrix), form) for form in ("infonce", "donsker_varadhan"))
    assert result.nats <= np.log(6) + 1e-6
    assert np.isfinite([result.stderr, other.nats, other.stderr]).all()


@pytest.mark.parametrize("form", FORMS)
def test_held_out_stderr_is_that_of_jackknife(form):
    n, rho = 120, 0.8
    x, noise = np.random.default_rng(1).standard_normal((2, n))
    z = rho * x + np.sqrt(1 - rho**2) * noise
    # The log density ratio but for a constant, which matters to NWJ.
    quadratic = rho * np.outer(x, z) - rho**2 * np.add.outer(x**2, z**2) / 2
    matrix = quadratic / (1 - rho**2) + 1 - np.log(1 - rho**2) / 2
    parts = (np.delete(np.delete(matrix, i, 0), i, 1) for i in range(n))
    without = np.array([naive_value(part, form) for part in parts])
    jackknife = np.sqrt((n - 1) * without.var())
    np.testing.assert_allclose(held_out(sums_of(matrix), form).stderr, jackknife, rtol=0.04)


def test_held_out_too_few_samples_or_unknown_bound_raises():
    with pytest.raises(ValueError, match=r"at least 2 samples, got joint scores \(1,\)"):
        bounds.held_out(bounds.Sums(*[jnp.zeros(1)] * 3, jnp.zeros(()), jnp.zeros(1), 0.0))
    with pytest.raises(ValueError, match=r"held_out_discrete needs at least 2 samples"):
        bounds.held_out_discrete(jnp.zeros(1), jnp.zeros((1, 3)), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"donsker_varadhan, infonce or nwj, got 'smile'"):
        bounds.held_out(sums_of(normal(0, 4, 4)), "smile")


@pytest.mark.parametrize("bound", ["infonce", "nwj"])
def test_held_out_discrete_equals_its_definition(bound):
    rows, labels, fractions = labelled(scale=2.0)
    scores = all_classes(rows, labels, fractions)
    evaluate = jitted("held_out_discrete", bound=bound)
    result = evaluate(scores.joint, scores.rows, jnp.log(scores.weights))
    mean_exp = np.exp(np.float64(rows)) @ fractions
    each = np.float64(scores.joint) - (mean_exp / np.e if bound == "nwj" else np.log(mean_exp))
    np.testing.assert_allclose(result.nats, each.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.influence, each, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.stderr, np.sqrt(each.var(ddof=1) / 12), rtol=1e-4)


@pytest.mark.parametrize("level", [-1e6, 1e6])
def test_held_out_discrete_huge_scores_loses_no_digits(level):
    rows, labels, fractions = labelled(scale=3.0)
    rows = np.round(4 * rows) / 4  # quarters, which a float32 of a million still has
    plain, huge = (
        jitted("held_out_discrete")(scores.joint, scores.rows, jnp.log(scores.weights))
        for scores in (all_classes(rows + add, labels, fractions) for add in (0.0, level))
    )
    for got, expected in zip(huge, plain, strict=True):
        np.testing.assert_array_equal(got, expected)
