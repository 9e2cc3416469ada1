"""Bounds from scores: against their definitions, at their limits, and their standard errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mine_jax import bounds

RHO = 0.8
INFORMATION = -0.5 * np.log(1 - RHO**2)


def scores(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def naive(t_joint, t_marginal):
    return np.mean(t_joint, dtype=np.float64) - np.log(np.mean(np.exp(np.float64(t_marginal))))


def optimal_scores(x, z):
    """The log density ratio of a standard Gaussian pair with correlation RHO."""
    return INFORMATION - (RHO**2 * (x**2 + z**2) - 2 * RHO * x * z) / (2 * (1 - RHO**2))


def gaussian_scores(seed, n, shifts):
    """Optimal scores of n pairs, and of the same with shifted partners."""
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, n))
    z = RHO * x + np.sqrt(1 - RHO**2) * noise
    return optimal_scores(x, z), np.stack([optimal_scores(x, np.roll(z, -s)) for s in shifts])


@functools.cache
def jitted(name):
    return jax.jit(getattr(bounds, name))


@pytest.mark.parametrize("shapes", [((7,), (7,)), ((5, 3), (4,)), ((1,), (2, 3, 4))])
def test_donsker_varadhan_is_its_definition(shapes):
    t_joint, t_marginal = scores(0, *shapes[0]), scores(1, *shapes[1], scale=3.0)
    value = bounds.donsker_varadhan(t_joint, t_marginal)
    assert value.shape == ()
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, naive(t_joint, t_marginal), rtol=1e-5, atol=1e-6)


def test_log_mean_exp_is_its_definition():
    values = scores(0, 3, 4)
    np.testing.assert_allclose(
        bounds.log_mean_exp(values), np.log(np.mean(np.exp(np.float64(values)))), rtol=1e-5
    )


@pytest.mark.parametrize("level", [-1e4, 1e4])
def test_adding_a_constant_to_all_scores_changes_nothing(level):
    t_joint, t_marginal = scores(0, 64), scores(1, 64)
    shifted = bounds.donsker_varadhan(t_joint + level, t_marginal + level)
    # A float32 of 1e4 has steps of 1e-3.
    np.testing.assert_allclose(shifted, naive(t_joint, t_marginal), atol=2e-3)


def test_the_gradient_is_finite_and_known_for_scores_of_ten_thousand():
    t_joint, t_marginal = scores(0, 5), jnp.array([1e4, -1e4, 1e4, 0.0])
    on_joint, on_marginal = jax.grad(bounds.donsker_varadhan, argnums=(0, 1))(t_joint, t_marginal)
    np.testing.assert_allclose(on_joint, 1 / 5, rtol=1e-6)
    np.testing.assert_allclose(on_marginal, [-0.5, 0, -0.5, 0], atol=1e-6)


def test_jit_and_vmap_give_the_values_of_plain_calls():
    t_joint, t_marginal = scores(0, 3, 8), scores(1, 3, 8)
    plain = [bounds.donsker_varadhan(a, b) for a, b in zip(t_joint, t_marginal, strict=True)]
    mapped = jax.jit(jax.vmap(bounds.donsker_varadhan))(t_joint, t_marginal)
    np.testing.assert_allclose(mapped, plain, rtol=1e-6)


def test_no_scores_at_all_are_an_error():
    some, none = jnp.zeros(3), jnp.zeros((0, 2))
    with pytest.raises(ValueError, match=r"joint score, got \(0, 2\)"):
        bounds.donsker_varadhan(none, some)
    with pytest.raises(ValueError, match=r"at least one score, got shape \(0, 2\)"):
        bounds.donsker_varadhan(some, none)


def test_the_log_density_ratio_gives_the_exact_information_of_a_small_joint():
    # p(x, z) in eighths. By hand: I = Σ p log p/(p_x p_z)
    #   = 3/8 log 3/2 + 1/8 log 1/2 + 1/8 log 1/2 + 3/8 log 3/2 = 3/4 log 3/2 − 1/4 log 2.
    counts = np.array([[3, 1], [1, 3]])
    joint = counts / 8
    ratio = np.log(joint / (joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)))
    t_joint = np.repeat(ratio.ravel(), counts.ravel())
    # Both marginals are (1/2, 1/2): each cell once is their product.
    value = bounds.donsker_varadhan(t_joint, ratio)
    np.testing.assert_allclose(value, 0.75 * np.log(1.5) - 0.25 * np.log(2), rtol=1e-5)
    assert bounds.donsker_varadhan(0.7 * t_joint, 0.7 * ratio) < value


def all_pairs(n, scale=1.0):
    """A matrix of scores, its diagonal and its n − 1 shifted diagonals."""
    matrix = scores(n, n, n, scale=scale)
    rows = np.arange(n)
    shifts = np.arange(1, n)
    return matrix, matrix[rows, rows], np.stack([matrix[rows, (rows + s) % n] for s in shifts])


@pytest.mark.parametrize("n", [2, 3, 10])
def test_with_all_shifts_the_partition_is_the_mean_over_all_pairs(n):
    matrix, t_joint, t_pairings = all_pairs(n)
    np.testing.assert_allclose(
        bounds.log_partition(t_joint, t_pairings),
        np.log(np.mean(np.exp(np.float64(matrix)))),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("n", [2, 10])
def test_held_out_is_its_definition_when_all_pairs_are_given(n):
    matrix, t_joint, t_pairings = all_pairs(n, scale=2.0)
    result = bounds.held_out(t_joint, t_pairings, jnp.arange(1, n))
    ratios = np.exp(np.float64(matrix)) / np.mean(np.exp(np.float64(matrix)))
    influence = t_joint - ratios.mean(axis=1) - ratios.mean(axis=0)
    np.testing.assert_allclose(result.nats, naive(t_joint, matrix), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.influence, influence, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        result.stderr, np.sqrt(influence.var(ddof=1) / n), rtol=1e-4, atol=1e-5
    )


def test_held_out_credits_a_pairing_to_both_of_its_samples():
    # One large score, of x_1 with z_3 (shift 2 of 5), must weigh on samples 1 and 3 alone.
    t_pairings = np.zeros((2, 5), np.float32)
    t_pairings[1, 1] = 3.0
    influence = bounds.held_out(jnp.zeros(5), t_pairings, jnp.array([1, 2])).influence
    assert influence[1] == influence[3] < influence[0] == influence[2] == influence[4]


# One shape, so that one compilation serves all examples.
@given(
    hnp.arrays(np.float32, 6, elements=st.floats(-1e4, 1e4, width=32)),
    hnp.arrays(np.float32, (3, 6), elements=st.floats(-1e4, 1e4, width=32)),
)
def test_held_out_is_at_most_ln_n_for_any_scores(t_joint, t_pairings):
    result = jitted("held_out")(t_joint, t_pairings, jnp.array([1, 3, 4]))
    # Rounding of a float32 of 1e4.
    assert result.nats <= np.log(6) + 1e-6 + 1e-6 * np.abs(t_joint).max()
    assert np.isfinite(result.stderr)


def test_held_out_reaches_ln_n_for_scores_that_know_every_sample():
    result = bounds.held_out(jnp.full(8, 100.0), jnp.zeros((7, 8)), jnp.arange(1, 8))
    np.testing.assert_allclose(result.nats, np.log(8), rtol=1e-5)


def test_the_standard_error_is_the_spread_over_samples():
    n, shifts, repeats = 400, np.arange(1, 400, 20), 400
    draws = [gaussian_scores(seed, n, shifts) for seed in range(repeats)]
    results = jax.jit(jax.vmap(bounds.held_out, in_axes=(0, 0, None)))(
        *(np.stack(part).astype(np.float32) for part in zip(*draws, strict=True)), shifts
    )
    spread = np.std(results.nats)
    # Over twelve other sets of repeats the ratio was 0.97 to 1.20, 1.06 on average.
    assert abs(np.mean(results.stderr) / spread - 1) < 0.25
    # A lower bound in expectation, and short of the information by about 1/n only.
    error = np.mean(results.nats) - INFORMATION
    assert -4 * spread / np.sqrt(repeats) - 2 / n < error < 3 * spread / np.sqrt(repeats)
    np.testing.assert_allclose(
        np.square(results.stderr), np.var(results.influence, axis=1, ddof=1) / n, rtol=1e-4
    )


def test_influences_tell_how_the_value_moves_when_a_sample_weighs_more():
    n = 300
    t_joint, t_pairings = gaussian_scores(0, n, np.arange(1, n))
    matrix = np.zeros((n, n))
    rows = np.arange(n)
    matrix[rows, rows] = t_joint
    for shift, row in enumerate(t_pairings, start=1):
        matrix[rows, (rows + shift) % n] = row

    def value(weights):
        weights = weights / weights.sum()
        return weights @ np.diag(matrix) - np.log(weights @ np.exp(matrix) @ weights)

    result = bounds.held_out(
        jnp.float32(t_joint), jnp.float32(t_pairings), jnp.arange(1, n, dtype=jnp.int32)
    )
    centred = np.asarray(result.influence) - np.mean(result.influence)
    for sample in (0, 17, int(np.argmax(np.abs(centred)))):
        step = 1e-5
        weights = np.ones(n)
        weights[sample] += step * n
        # The weights add up to n(1 + step): to first order the value moves by step·influence.
        moved = (value(weights) - value(np.ones(n))) / step
        np.testing.assert_allclose(moved, centred[sample], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("t_joint", "t_pairings", "shifts"),
    [((1,), (1, 1), (1,)), ((4,), (2, 5), (2,)), ((4,), (2, 4), (3,))],
)
def test_held_out_says_which_shapes_do_not_fit(t_joint, t_pairings, shifts):
    with pytest.raises(ValueError, match="held_out needs") as error:
        bounds.held_out(jnp.zeros(t_joint), jnp.zeros(t_pairings), jnp.zeros(shifts, int))
    assert f"{t_joint}, {t_pairings} and {shifts}" in str(error.value)


def corrected_gradient(parameter, average, first):
    """The gradient of the corrected surrogate for T = parameter · feature."""
    joint, marginal = scores(0, 16), scores(1, 16)

    def objective(parameter):
        batch = bounds.log_mean_exp(parameter * marginal)
        new = bounds.update_log_partition(average, batch, 0.1, first)
        return bounds.bias_corrected(parameter * joint, batch, new)

    return jax.grad(objective)(parameter)


def test_the_first_corrected_gradient_is_the_plain_one():
    joint, marginal = scores(0, 16), scores(1, 16)
    plain = jax.grad(lambda p: bounds.donsker_varadhan(p * joint, p * marginal))(1.5)
    np.testing.assert_allclose(corrected_gradient(1.5, 7.0, first=True), plain, rtol=1e-5)


def test_the_corrected_gradient_divides_by_the_average():
    joint, marginal = np.float64(scores(0, 16)), np.float64(scores(1, 16))
    weighted = np.exp(1.5 * marginal)
    average = 0.9 * np.exp(0.3) + 0.1 * weighted.mean()
    expected = joint.mean() - (weighted * marginal).mean() / average
    np.testing.assert_allclose(corrected_gradient(1.5, 0.3, first=False), expected, rtol=1e-5)


@pytest.mark.parametrize("level", [-1000.0, 1000.0])
def test_the_moving_average_stays_finite_and_rests_at_a_steady_batch(level):
    update, batch = jitted("update_log_partition"), jnp.float32(level)
    average = -batch
    for _ in range(20):
        average = update(average, batch, 0.5, False)
    # A larger batch is reached at once, in log space; a smaller one by log 2 a step.
    expected = level if level > 0 else -level - 20 * np.log(2)
    np.testing.assert_allclose(average, expected, rtol=1e-5)
    np.testing.assert_allclose(update(batch, batch, 0.3, False), level, rtol=1e-6)
    np.testing.assert_allclose(update(-batch, batch, 0.3, True), level)


def test_the_moving_average_is_one_of_mean_exp():
    value = bounds.update_log_partition(jnp.log(2.0), jnp.log(6.0), 0.25, False)
    np.testing.assert_allclose(np.exp(value), 0.75 * 2 + 0.25 * 6, rtol=1e-6)
    np.testing.assert_allclose(bounds.update_log_partition(3.0, jnp.float32(7.0), 1.0, False), 7.0)


def test_no_gradient_flows_through_the_moving_average_of_a_batch():
    gradient = jax.grad(lambda batch: bounds.update_log_partition(0.0, batch, 0.1, False))(2.0)
    assert gradient == 0
