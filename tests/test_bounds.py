"""Bounds from scores: against their definitions, at their limits, and their standard errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.scipy.special import logsumexp

from mine_jax import bounds

FORMS = ("donsker_varadhan", "infonce", "nwj")


def draw(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def naive(t_joint, t_marginal):
    return np.mean(t_joint, dtype=np.float64) - np.log(np.mean(np.exp(np.float64(t_marginal))))


@functools.cache
def jitted(name, **options):
    return jax.jit(functools.partial(getattr(bounds, name), **options))


def held_out(sums, form):
    return jitted("held_out", bound=form)(sums)


# Scores of a batch, and what a matrix of all scores must give for each of its bounds.


def batch(matrix):
    """All n − 1 others of each sample, as the separable network gives them."""
    n = len(matrix)
    others = np.where(np.eye(n, dtype=bool), -np.inf, matrix).astype(np.float32)
    joint = np.diagonal(matrix).astype(np.float32)
    return bounds.Scores(jnp.asarray(joint), jnp.asarray(others), jnp.asarray(others.T), n - 1.0)


def shifted_batch(matrix, shifts):
    """Only some others of each sample: z_(i + s) for x_i, as the flat network gives them."""
    rows = np.arange(len(matrix))
    others = np.stack([matrix[rows, (rows + s) % len(rows)] for s in shifts], -1)
    partners = np.stack([matrix[(rows - s) % len(rows), rows] for s in shifts], -1)
    joint = jnp.asarray(matrix[rows, rows])
    return bounds.Scores(joint, jnp.asarray(others), jnp.asarray(partners), float(len(shifts)))


def labelled(seed, n=12, classes=4, scale=1.0):
    """Scores of n samples with every class, labels, and the labels' frequencies."""
    rows = draw(seed, n, classes, scale=scale)
    labels = np.arange(n) % (classes - 1)
    labels[-2:] = classes - 1
    frequencies = np.bincount(labels, minlength=classes) / n
    return rows, labels, frequencies


def labelled_batch(rows, labels, frequencies):
    joint = jnp.asarray(rows[np.arange(len(rows)), labels])
    rows, weights = jnp.asarray(rows), jnp.asarray(np.log(frequencies), jnp.float32)
    return bounds.Scores(joint, rows, rows, float(rows.shape[1]), weights)


def naive_infonce(matrix):
    matrix = np.float64(matrix)
    own = np.diagonal(matrix)
    both = [own - np.log(np.mean(np.exp(matrix), axis=axis)) for axis in (0, 1)]
    return np.mean(both)


def naive_off_diagonal(matrix, transform=lambda scores: scores):
    """The log of the mean of exp T over pairs of different samples."""
    others = np.float64(matrix)[~np.eye(len(matrix), dtype=bool)]
    return np.log(np.mean(np.exp(transform(others))))


# A joint distribution p(x, z) in n-ths, as n samples: all their pairs, the joint ones included,
# are exactly the product of the marginals.


def table_samples(counts):
    joint = counts / counts.sum()
    ratio = np.log(joint / (joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)))
    information = float(np.sum(joint * ratio))
    x, z = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
    return ratio, x, z, information


EIGHTHS = np.array([[3, 1], [1, 3]])
# By hand: I = 3/8 log 3/2 + 1/8 log 1/2 + 1/8 log 1/2 + 3/8 log 3/2.
EIGHTHS_INFORMATION = 0.75 * np.log(1.5) - 0.25 * np.log(2)
# Of one size, so that one compilation serves all examples: 12 samples, at least one in each cell.
tables = st.lists(st.integers(0, 5), min_size=6, max_size=6).map(
    lambda cells: 1 + np.bincount(cells, minlength=6).reshape(3, 2)
)


# The Donsker–Varadhan bound and log mean exp.


@pytest.mark.parametrize("shapes", [((7,), (7,)), ((5, 3), (4,)), ((1,), (2, 3, 4))])
def test_donsker_varadhan_is_its_definition(shapes):
    t_joint, t_marginal = draw(0, *shapes[0]), draw(1, *shapes[1], scale=3.0)
    value = bounds.donsker_varadhan(t_joint, t_marginal)
    assert value.shape == ()
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, naive(t_joint, t_marginal), rtol=1e-5, atol=1e-6)


def test_log_mean_exp_is_its_definition():
    values = draw(0, 3, 4)
    np.testing.assert_allclose(
        bounds.log_mean_exp(values), np.log(np.mean(np.exp(np.float64(values)))), rtol=1e-5
    )


@pytest.mark.parametrize("level", [-1e30, -1e4, 1e4, 1e30])
def test_log_mean_exp_of_huge_values_does_not_overflow(level):
    np.testing.assert_allclose(bounds.log_mean_exp(jnp.full((4, 3), level)), level, rtol=1e-6)


@pytest.mark.parametrize("level", [-1e4, 1e4])
def test_adding_a_constant_to_all_scores_changes_nothing(level):
    t_joint, t_marginal = draw(0, 64), draw(1, 64)
    shifted = bounds.donsker_varadhan(t_joint + level, t_marginal + level)
    # A float32 of 1e4 has steps of 1e-3.
    np.testing.assert_allclose(shifted, naive(t_joint, t_marginal), atol=2e-3)


def test_the_gradient_is_finite_and_known_for_scores_of_ten_thousand():
    t_joint, t_marginal = draw(0, 5), jnp.array([1e4, -1e4, 1e4, 0.0])
    on_joint, on_marginal = jax.grad(bounds.donsker_varadhan, argnums=(0, 1))(t_joint, t_marginal)
    np.testing.assert_allclose(on_joint, 1 / 5, rtol=1e-6)
    np.testing.assert_allclose(on_marginal, [-0.5, 0, -0.5, 0], atol=1e-6)


def test_jit_and_vmap_give_the_values_of_plain_calls():
    t_joint, t_marginal = draw(0, 3, 8), draw(1, 3, 8)
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
    ratio, x, z, _ = table_samples(EIGHTHS)
    # Both marginals are (1/2, 1/2): each cell once is their product.
    value = bounds.donsker_varadhan(ratio[x, z], ratio)
    np.testing.assert_allclose(value, EIGHTHS_INFORMATION, rtol=1e-5)
    assert bounds.donsker_varadhan(0.7 * ratio[x, z], 0.7 * ratio) < value


# InfoNCE.


@pytest.mark.parametrize("n", [2, 9])
def test_infonce_is_the_mean_of_both_directions(n):
    matrix = draw(n, n, n, scale=2.0)
    value = jitted("infonce")(batch(matrix))
    np.testing.assert_allclose(value, naive_infonce(matrix), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jitted("infonce")(batch(matrix.T)), value, rtol=1e-5, atol=1e-6)


def test_one_large_score_lowers_both_directions_of_infonce():
    # x_0 with z_1, far above its own: in each direction one of the five samples loses by 50.
    matrix = np.zeros((5, 5))
    matrix[0, 1] = 50.0
    lost = (np.log(5) - 50) / 5
    np.testing.assert_allclose(jitted("infonce")(batch(matrix)), lost, rtol=1e-5)


def test_infonce_with_all_shifts_is_that_of_the_matrix():
    matrix = draw(0, 6, 6)
    np.testing.assert_allclose(
        jitted("infonce")(shifted_batch(matrix, range(1, 6))), naive_infonce(matrix), rtol=1e-5
    )


def test_infonce_of_few_partners_is_its_definition():
    matrix, shifts = draw(0, 6, 6), (1, 4)
    rows = np.arange(6)
    wide = np.exp(np.float64(matrix))
    own = wide[rows, rows]
    forward = own / (own + sum(wide[rows, (rows + s) % 6] for s in shifts))
    backward = own / (own + sum(wide[(rows - s) % 6, rows] for s in shifts))
    expected = np.mean(np.log(3 * forward)) / 2 + np.mean(np.log(3 * backward)) / 2
    np.testing.assert_allclose(
        jitted("infonce")(shifted_batch(matrix, shifts)), expected, rtol=1e-5, atol=1e-6
    )


@given(tables)
def test_optimal_scores_of_a_table_give_its_information(counts):
    ratio, x, z, information = table_samples(counts)
    matrix = ratio[x][:, z]
    infonce = jitted("infonce")
    np.testing.assert_allclose(infonce(batch(matrix)), information, atol=2e-6)
    by_class = labelled_batch(np.float32(ratio[x]), z, np.bincount(z) / len(z))
    np.testing.assert_allclose(infonce(by_class), information, atol=2e-6)


def test_infonce_of_a_table_has_its_known_value():
    ratio, x, z, _ = table_samples(EIGHTHS)
    scores = batch(ratio[x][:, z])
    np.testing.assert_allclose(jitted("infonce")(scores), EIGHTHS_INFORMATION, rtol=1e-5)
    worse = batch(0.5 * ratio[x][:, z])
    assert jitted("infonce")(worse) < EIGHTHS_INFORMATION - 0.01


# One shape, so that one compilation serves all examples.
@given(hnp.arrays(np.float32, (6, 6), elements=st.floats(-1e4, 1e4, width=32)))
def test_infonce_is_at_most_the_log_of_all_partners(matrix):
    assert jitted("infonce")(batch(matrix)) <= np.log(6) + 1e-6
    assert jitted("infonce")(shifted_batch(matrix, (1, 3))) <= np.log(3) + 1e-6


def test_infonce_reaches_its_ceiling():
    matrix = 100 * np.eye(8)
    np.testing.assert_allclose(jitted("infonce")(batch(matrix)), np.log(8), rtol=1e-6)
    few = shifted_batch(np.float32(matrix), (1, 2, 5))
    np.testing.assert_allclose(jitted("infonce")(few), np.log(4), rtol=1e-6)


@given(st.integers(0, 2**31), st.floats(0.1, 30.0))
def test_infonce_of_labels_is_their_entropy_less_the_cross_entropy(seed, scale):
    rows, labels, frequencies = labelled(seed, scale=scale)
    logits = np.float64(rows) + np.log(frequencies)
    log_q = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    cross_entropy = -np.mean(log_q[np.arange(len(rows)), labels])
    entropy = -np.sum(frequencies * np.log(frequencies))
    value = jitted("infonce")(labelled_batch(rows, labels, frequencies))
    np.testing.assert_allclose(value, entropy - cross_entropy, rtol=1e-4, atol=1e-5)


# The partition function, NWJ and SMILE.


@pytest.mark.parametrize("n", [2, 9])
def test_the_partition_is_over_pairs_of_different_samples(n):
    matrix = draw(n, n, n, scale=2.0)
    expected = naive_off_diagonal(matrix)
    for scores in (batch(matrix), shifted_batch(matrix, range(1, n))):
        np.testing.assert_allclose(jitted("log_partition")(scores), expected, rtol=1e-5, atol=1e-6)


def test_the_partition_of_labels_is_over_their_distribution():
    rows, labels, frequencies = labelled(0)
    expected = np.log(np.mean(np.exp(np.float64(rows)) @ frequencies))
    value = jitted("log_partition")(labelled_batch(rows, labels, frequencies))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@given(tables)
def test_nwj_is_the_information_at_one_plus_the_log_ratio(counts):
    ratio, x, z, information = table_samples(counts)

    def by_class(scores):
        return jitted("nwj")(labelled_batch(np.float32(scores[x]), z, np.bincount(z) / len(z)))

    def by_pair(scores):
        every = jnp.asarray(scores[x][:, z], jnp.float32)
        joint = jnp.asarray(scores[x, z], jnp.float32)
        return jitted("nwj")(bounds.Scores(joint, every, every.T, float(len(x))))

    for value in (by_class, by_pair):
        np.testing.assert_allclose(value(1 + ratio), information, atol=3e-6)
        # A constant matters here, unlike in the others: mean exp(T − 1) must be 1.
        np.testing.assert_allclose(value(1.5 + ratio), information + 1.5 - np.exp(0.5), atol=3e-6)
        assert value(1 + 0.8 * ratio) < information + 1e-6


@given(hnp.arrays(np.float32, (6, 6), elements=st.floats(-4.875, 4.875, width=32)))
def test_smile_of_small_scores_is_donsker_varadhan(matrix):
    expected = np.trace(np.float64(matrix)) / 6 - naive_off_diagonal(matrix)
    np.testing.assert_allclose(jitted("smile")(batch(matrix)), expected, rtol=1e-5, atol=1e-5)


@given(hnp.arrays(np.float32, (6, 6), elements=st.floats(-80, 80, width=32)))
def test_smile_clips_the_marginals_and_not_the_joint(matrix):
    clipped = naive_off_diagonal(matrix, lambda scores: np.clip(scores, -5, 5))
    expected = np.trace(np.float64(matrix)) / 6 - clipped
    np.testing.assert_allclose(jitted("smile")(batch(matrix)), expected, rtol=1e-5, atol=1e-5)


def test_smile_of_labels_clips_what_the_others_do_not():
    rows, labels, frequencies = labelled(0, scale=8.0)
    assert np.abs(rows).max() > 5
    clipped = np.log(np.mean(np.exp(np.clip(np.float64(rows), -5, 5)) @ frequencies))
    scores = labelled_batch(rows, labels, frequencies)
    np.testing.assert_allclose(jitted("smile")(scores), np.mean(scores.joint) - clipped, rtol=1e-5)


# What a training step ascends.


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("bound", bounds.BOUNDS)
def test_the_objective_is_that_of_its_name(bound, discrete):
    if discrete:
        rows, labels, frequencies = labelled(3, scale=4.0)
        scores = labelled_batch(rows, labels, frequencies)
        mean_exp = np.mean(np.exp(np.float64(rows)) @ frequencies)
        clipped = np.mean(np.exp(np.clip(np.float64(rows), -5, 5)) @ frequencies)
        infonce = np.mean(
            np.log(np.exp(np.float64(scores.joint)) / (np.exp(np.float64(rows)) @ frequencies))
        )
    else:
        matrix = draw(3, 9, 9, scale=4.0)
        scores = batch(matrix)
        mean_exp = np.exp(naive_off_diagonal(matrix))
        clipped = np.exp(naive_off_diagonal(matrix, lambda t: np.clip(t, -5, 5)))
        infonce = naive_infonce(matrix)
    joint, average = np.mean(np.float64(scores.joint)), 1.5
    expected = {
        "infonce": infonce,
        "donsker_varadhan": joint - np.log(mean_exp),
        "mine": joint - mean_exp / np.exp(average),
        "nwj": joint - mean_exp / np.e,
        "smile": joint - np.log(clipped),
    }[bound]
    objective = jax.jit(functools.partial(bounds.objective, bound))
    value = objective(scores, jnp.float32(average))
    assert value.shape == ()
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("bound", bounds.BOUNDS)
def test_gradients_are_finite_and_pass_by_scores_that_do_not_count(bound):
    def value(matrix):
        others = jnp.where(jnp.eye(7, dtype=bool), -jnp.inf, matrix)
        scores = bounds.Scores(jnp.diagonal(matrix), others, others.T, 6.0)
        return bounds.objective(bound, scores, jitted("log_partition")(scores))

    gradient = np.asarray(jax.jit(jax.grad(value))(draw(0, 7, 7)))
    assert np.all(np.isfinite(gradient))
    own = np.eye(7, dtype=bool)
    assert np.all(gradient[own] > 0)
    assert np.all(gradient[~own] < 0)
    if bound not in ("infonce", "nwj"):
        np.testing.assert_allclose(gradient[own], 1 / 7, rtol=1e-5)
        np.testing.assert_allclose(np.sum(gradient[~own]), -1, rtol=1e-5)


def corrected_gradient(parameter, average, first):
    """The gradient of the corrected surrogate for T = parameter · feature."""
    joint, marginal = draw(0, 16), draw(1, 16)

    def objective(parameter):
        of_batch = bounds.log_mean_exp(parameter * marginal)
        new = bounds.update_log_partition(average, of_batch, 0.1, first)
        return bounds.bias_corrected(parameter * joint, of_batch, new)

    return jax.jit(jax.grad(objective))(parameter)


def test_the_first_corrected_gradient_is_the_plain_one():
    joint, marginal = draw(0, 16), draw(1, 16)
    plain = jax.grad(lambda p: bounds.donsker_varadhan(p * joint, p * marginal))(1.5)
    np.testing.assert_allclose(corrected_gradient(1.5, 7.0, first=True), plain, rtol=1e-5)


def test_the_corrected_gradient_is_the_plain_one_when_the_averages_agree():
    scores = batch(draw(0, 9, 9, scale=2.0))
    average = jitted("log_partition")(scores)
    gradients = [
        jax.grad(
            lambda joint, rows, bound=bound: bounds.objective(
                bound, scores._replace(joint=joint, rows=rows), average
            ),
            argnums=(0, 1),
        )(scores.joint, scores.rows)
        for bound in ("mine", "donsker_varadhan")
    ]
    for corrected, plain in zip(*gradients, strict=True):
        np.testing.assert_allclose(corrected, plain, rtol=1e-5, atol=1e-8)


def test_the_corrected_gradient_divides_by_the_average():
    joint, marginal = np.float64(draw(0, 16)), np.float64(draw(1, 16))
    weighted = np.exp(1.5 * marginal)
    average = 0.9 * np.exp(0.3) + 0.1 * weighted.mean()
    expected = joint.mean() - (weighted * marginal).mean() / average
    np.testing.assert_allclose(corrected_gradient(1.5, 0.3, first=False), expected, rtol=1e-5)


def test_no_gradient_flows_through_the_average():
    through = jax.grad(lambda average: bounds.bias_corrected(jnp.zeros(3), 1.0, average))(2.0)
    assert through == 0
    through = jax.grad(lambda new: bounds.update_log_partition(0.0, new, 0.1, False))(2.0)
    assert through == 0


@pytest.mark.parametrize("average", [-3.0, 0.0, 500.0])
def test_the_moving_average_starts_from_the_first_batch(average):
    value = bounds.update_log_partition(jnp.float32(average), jnp.float32(7.0), 0.01, True)
    assert value == 7.0


@pytest.mark.parametrize("level", [-1000.0, 1000.0])
def test_the_moving_average_stays_finite_and_rests_at_a_steady_batch(level):
    update, of_batch = jitted("update_log_partition"), jnp.float32(level)
    average = -of_batch
    for _ in range(20):
        average = update(average, of_batch, 0.5, False)
    # A larger batch is reached at once, in log space; a smaller one by log 2 a step.
    expected = level if level > 0 else -level - 20 * np.log(2)
    np.testing.assert_allclose(average, expected, rtol=1e-5)
    np.testing.assert_allclose(update(of_batch, of_batch, 0.3, False), level, rtol=1e-6)
    np.testing.assert_allclose(update(-of_batch, of_batch, 0.3, True), level)


def test_the_moving_average_is_one_of_mean_exp():
    value = bounds.update_log_partition(jnp.log(2.0), jnp.log(6.0), 0.25, False)
    np.testing.assert_allclose(np.exp(value), 0.75 * 2 + 0.25 * 6, rtol=1e-6)
    np.testing.assert_allclose(bounds.update_log_partition(3.0, jnp.float32(7.0), 1.0, False), 7.0)


# Held-out values: from the scores of all pairs, against sums written out in float64.


def sums_of(matrix):
    """Of all pairs, in float64 until the end."""
    matrix = np.float64(matrix)
    n = len(matrix)
    scores = np.where(np.eye(n, dtype=bool), -np.inf, matrix)
    add = functools.partial(np.logaddexp.reduce, axis=1)
    full = np.logaddexp(add(scores), np.diagonal(matrix))
    parts = (
        np.diagonal(matrix),
        add(scores),
        add(scores.T),
        np.logaddexp.reduce(2 * scores.ravel()),
        np.exp(scores - full[:, None]).sum(axis=0),
        n - 1.0,
    )
    return bounds.Sums(*(jnp.asarray(part, jnp.float32) for part in parts))


def sums_of_shifts(matrix, shifts):
    """The same of x_i with z_i and z_(i + s) only."""
    n = len(matrix)
    rows = np.arange(n)
    taken = np.full((n, n), -np.inf)
    for s in shifts:
        taken[rows, (rows + s) % n] = matrix[rows, (rows + s) % n]
    add = functools.partial(np.logaddexp.reduce, axis=1)
    share = (n - 1) / len(shifts)
    full = np.logaddexp(add(taken) + np.log(share), np.diagonal(matrix))
    parts = (
        np.diagonal(matrix),
        add(taken),
        add(taken.T),
        np.logaddexp.reduce(2 * taken.ravel()),
        share * np.exp(taken - full[:, None]).sum(axis=0),
        float(len(shifts)),
    )
    return bounds.Sums(*(jnp.asarray(part, jnp.float32) for part in parts))


def sums_in_jax(matrix):
    """The same as `sums_of`, for use under `jit`."""
    n = matrix.shape[0]
    scores = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, matrix)
    shares = jnp.exp(scores - logsumexp(matrix, axis=1)[:, None])
    return bounds.Sums(
        jnp.diagonal(matrix),
        logsumexp(scores, axis=1),
        logsumexp(scores, axis=0),
        logsumexp(2 * scores),
        jnp.sum(shares, axis=0),
        jnp.asarray(n - 1.0),
    )


def value_of(matrix, form, weights=None):
    """The value when the samples have these weights, in float64."""
    matrix = np.float64(matrix)
    n = len(matrix)
    weights = np.full(n, 1 / n) if weights is None else weights / weights.sum()
    joint = weights @ np.diagonal(matrix)
    if form == "infonce":
        return joint - weights @ np.log(np.exp(matrix) @ weights)
    both = np.where(np.eye(n, dtype=bool), 0, np.outer(weights, weights))
    mean_exp = np.sum(both * np.exp(matrix)) / both.sum()
    return joint - (np.log(mean_exp) if form == "donsker_varadhan" else mean_exp / np.e)


def naive_influence(matrix, form):
    """Of the definition, with the mean over pairs for each of the pair's two samples."""
    matrix = np.float64(matrix)
    n = len(matrix)
    others = ~np.eye(n, dtype=bool)
    if form == "infonce":
        share = np.exp(matrix) / np.exp(matrix).sum(axis=1, keepdims=True)
        return np.log(n * np.diagonal(share)) - share.sum(axis=0), 0.0, 0.0
    exps = np.where(others, np.exp(matrix), 0)
    mean = exps.sum() / others.sum()
    level = 1 if form == "donsker_varadhan" else mean / np.e
    ratios = exps / mean
    influence = np.diagonal(matrix) - level * (ratios.sum(0) + ratios.sum(1)) / (n - 1)
    pairs = others.sum()
    squares = np.sum(ratios**2) / pairs
    # float32 takes the difference of a mean square and 1, and has the square from its logarithm.
    rounding = level**2 * 1e-5 * squares / pairs
    return influence, level**2 * max(squares - 1, 0) / pairs, rounding


def check_held_out(result, matrix, form, rtol=1e-4):
    influence, second_order, rounding = naive_influence(matrix, form)
    n = len(matrix)
    assert result.nats.shape == result.stderr.shape == ()
    assert result.influence.shape == (n,)
    size = 1 + np.abs(influence).max()
    atol = 1e-6 * (size + np.abs(matrix).max())
    np.testing.assert_allclose(result.nats, value_of(matrix, form), rtol=rtol, atol=atol)
    np.testing.assert_allclose(result.influence, influence, rtol=rtol, atol=10 * atol)
    variance = influence.var(ddof=1) / n + second_order
    low, high = np.sqrt([max(variance - rounding, 0), variance + rounding])
    nearest = np.clip(result.stderr, low, high)
    np.testing.assert_allclose(result.stderr, nearest, rtol=rtol, atol=10 * atol)


@pytest.mark.parametrize("n", [2, 9])
@pytest.mark.parametrize("form", FORMS)
def test_held_out_is_its_definition(form, n):
    matrix = draw(n, n, n, scale=2.0)
    check_held_out(held_out(sums_of(matrix), form), matrix, form)


@pytest.mark.parametrize("form", FORMS)
@given(matrix=hnp.arrays(np.float32, (6, 6), elements=st.floats(-15, 15, width=32)))
def test_held_out_is_its_definition_for_any_scores(form, matrix):
    check_held_out(held_out(sums_of(matrix), form), matrix, form)


def test_held_out_is_donsker_varadhan_unless_asked_otherwise():
    matrix = draw(0, 5, 5)
    plain = jitted("held_out")(sums_of(matrix)).nats
    assert plain == held_out(sums_of(matrix), "donsker_varadhan").nats
    assert plain != held_out(sums_of(matrix), "infonce").nats


@pytest.mark.parametrize("form", FORMS)
def test_all_shifts_are_all_pairs(form):
    matrix = draw(0, 7, 7, scale=2.0)
    check_held_out(held_out(sums_of_shifts(matrix, range(1, 7)), form), matrix, form)


@pytest.mark.parametrize("form", FORMS)
def test_few_pairings_stand_for_all(form):
    # Rows of equal scores: which others were taken makes no difference to a row's mean.
    n = 12
    matrix = np.broadcast_to(draw(0, n, 1), (n, n)) + np.eye(n) * 2
    few = held_out(sums_of_shifts(matrix, (1, 5, 8)), form)
    np.testing.assert_allclose(few.nats, value_of(matrix, form), rtol=1e-4)
    np.testing.assert_allclose(few.nats, held_out(sums_of(matrix), form).nats, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_held_out_credits_a_pairing_to_both_of_its_samples(form):
    # One large score, of x_1 with z_3 (shift 2 of 5), must weigh on samples 1 and 3 alone.
    matrix = np.zeros((5, 5))
    matrix[1, 3] = 3.0
    influence = held_out(sums_of_shifts(matrix, (1, 2)), form).influence
    low, high = influence[jnp.array([1, 3])], influence[jnp.array([0, 2, 4])]
    assert np.max(low) < np.min(high) - 0.1


# One shape, so that one compilation serves all examples.
@given(hnp.arrays(np.float32, (6, 6), elements=st.floats(-1e4, 1e4, width=32)))
def test_infonce_held_out_is_at_most_ln_n_for_any_scores(matrix):
    for sums in (sums_of(matrix), sums_of_shifts(matrix, (1, 3, 4))):
        result = held_out(sums, "infonce")
        assert result.nats <= np.log(6) + 1e-6
        assert np.isfinite(result.stderr)
        assert np.all(np.isfinite(result.influence))


def test_infonce_held_out_reaches_ln_n_for_scores_that_know_every_sample():
    result = held_out(sums_of(100 * np.eye(8)), "infonce")
    np.testing.assert_allclose(result.nats, np.log(8), rtol=1e-6)
    np.testing.assert_allclose(result.stderr, 0, atol=1e-5)


@given(st.floats(-1e4, 1e4, width=32))
def test_a_constant_changes_no_held_out_value_but_nwj(level):
    matrix = draw(0, 8, 8)
    for form in ("donsker_varadhan", "infonce"):
        plain, moved = (held_out(sums_of(matrix + add), form) for add in (0, level))
        # A float32 of 1e4 has steps of 1e-3.
        np.testing.assert_allclose(moved.nats, plain.nats, atol=4e-3)
        np.testing.assert_allclose(moved.stderr, plain.stderr, atol=4e-3)


def optimal_scores(x, z, rho):
    """The log density ratio of Gaussian pairs with unit variances, for each x with each z."""
    own = rho**2 / (2 * (1 - rho**2))
    squares = (x**2).sum(-1)[:, None] + (z**2).sum(-1)[None, :]
    return rho / (1 - rho**2) * x @ z.T - own * squares + information(x.shape[1], rho)


def information(dimension, rho):
    return -dimension / 2 * np.log(1 - rho**2)


def gaussian_matrix(seed, n, dimension, rho):
    x, noise = np.random.default_rng(seed).standard_normal((2, n, dimension))
    return optimal_scores(x, rho * x + np.sqrt(1 - rho**2) * noise, rho)


@pytest.mark.parametrize("form", FORMS)
def test_influences_are_the_derivatives_by_the_weights_of_samples(form):
    n, step = 40, 1e-5
    matrix = gaussian_matrix(0, n, 2, 0.7) + (form == "nwj")
    result = held_out(sums_of(matrix), form)
    moved = np.empty(n)
    for i in range(n):
        more, less = np.ones(n), np.ones(n)
        more[i] += n * step
        less[i] -= n * step
        moved[i] = value_of(matrix, form, more) - value_of(matrix, form, less)
    # A sample's weight pulls the value from the mean of the influences towards its own.
    centred = result.influence - np.mean(result.influence)
    np.testing.assert_allclose(centred, moved / (2 * step), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_influences_are_those_of_the_jackknife(form):
    n = 120
    matrix = gaussian_matrix(1, n, 1, 0.8) + (form == "nwj")
    result = held_out(sums_of(matrix), form)
    left = np.array([np.delete(np.delete(matrix, i, 0), i, 1) for i in range(n)])
    without = np.array([value_of(part, form) for part in left])
    jackknife = (n - 1) * (without.mean() - without)
    centred = np.asarray(result.influence) - np.mean(result.influence)
    assert np.corrcoef(centred, jackknife)[0, 1] > 0.999
    stderr = np.sqrt(np.sum(jackknife**2) / n / (n - 1))
    np.testing.assert_allclose(result.stderr, stderr, rtol=0.04)


@pytest.mark.parametrize(("dimension", "rho"), [(1, 0.8), (5, 0.6)])
def test_the_standard_error_is_the_spread_over_data_sets(dimension, rho):
    n, repeats = 300, 200

    def one(key):
        x, noise = jax.random.normal(key, (2, n, dimension))
        matrix = optimal_scores(x, rho * x + np.sqrt(1 - rho**2) * noise, rho)
        sums, sums_above = sums_in_jax(matrix), sums_in_jax(matrix + 1)
        return [held_out(sums_above if f == "nwj" else sums, f) for f in FORMS]

    keys = jax.random.split(jax.random.key(0), repeats)
    exact = information(dimension, rho)
    for form, result in zip(FORMS, jax.jit(lambda k: jax.lax.map(one, k))(keys), strict=True):
        spread = np.std(result.nats, ddof=1)
        # The spread of 200 values is itself off by 5 %.
        assert abs(np.mean(result.stderr) / spread - 1) < 0.15, form
        error, noise = np.mean(result.nats) - exact, spread / np.sqrt(repeats)
        # InfoNCE over n pairs falls short by about the variance of the ratios over 2n.
        short = 0.03 if form == "infonce" else 0.01
        assert -4 * noise - short < error < 4 * noise, form
        if form == "infonce":
            assert np.all(result.nats < np.log(n))
        else:  # an interval of two standard errors holds the information as often as it should
            covered = np.mean(np.abs(result.nats - exact) < 2 * result.stderr)
            assert covered > 0.9, form


def test_scores_near_their_ceiling_stay_below_it():
    # 5.5 nats in 300 samples, whose logarithm is 5.7.
    matrix = gaussian_matrix(0, 300, 5, 0.943)
    value = held_out(sums_of(matrix), "infonce").nats
    assert value < np.log(300)
    assert value < information(5, 0.943)


def test_held_out_says_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"at least 2 samples, got joint scores \(1,\)"):
        bounds.held_out(bounds.Sums(*[jnp.zeros(1)] * 3, jnp.zeros(()), jnp.zeros(1), 0.0))
    with pytest.raises(ValueError, match=r"held_out_discrete needs at least 2 samples"):
        bounds.held_out_discrete(jnp.zeros(1), jnp.zeros((1, 3)), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"donsker_varadhan, infonce or nwj, got 'smile'"):
        bounds.held_out(sums_of(draw(0, 4, 4)), "smile")


# Held-out values for a discrete z.


def test_held_out_of_labels_is_that_of_the_batch_and_its_samples():
    rows, labels, frequencies = labelled(0, scale=3.0)
    scores = labelled_batch(rows, labels, frequencies)
    result = jitted("held_out_discrete")(scores.joint, scores.rows, scores.log_weights)
    wide = np.float64(rows)
    each = wide[np.arange(12), labels] - np.log(np.exp(wide) @ frequencies)
    np.testing.assert_allclose(result.nats, jitted("infonce")(scores), rtol=1e-6)
    np.testing.assert_allclose(result.nats, each.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.influence, each, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.stderr, np.sqrt(each.var(ddof=1) / 12), rtol=1e-4)


def test_held_out_nwj_of_labels_is_its_definition():
    rows, labels, frequencies = labelled(0)
    scores = labelled_batch(rows, labels, frequencies)
    result = jitted("held_out_discrete", bound="nwj")(scores.joint, scores.rows, scores.log_weights)
    wide = np.float64(rows)
    each = wide[np.arange(12), labels] - np.exp(wide - 1) @ frequencies
    np.testing.assert_allclose(result.nats, jitted("nwj")(scores), rtol=1e-5)
    np.testing.assert_allclose(result.influence, each, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.stderr, np.sqrt(each.var(ddof=1) / 12), rtol=1e-4)


@pytest.mark.parametrize("level", [-1e6, 1e6])
def test_huge_scores_of_labels_lose_no_digits(level):
    # Quarters, which a float32 of a million still has.
    rows, labels, frequencies = labelled(0, scale=3.0)
    rows = np.round(4 * rows) / 4
    joint = rows[np.arange(12), labels]
    log_weights = jnp.log(jnp.asarray(frequencies, jnp.float32))
    plain, huge = (
        jitted("held_out_discrete")(jnp.float32(joint + add), jnp.float32(rows + add), log_weights)
        for add in (0.0, level)
    )
    for part, same in zip(huge, plain, strict=True):
        np.testing.assert_array_equal(part, same)


def test_certain_labels_give_their_entropy_exactly():
    _, labels, frequencies = labelled(0)
    rows = jnp.asarray(1e6 * np.eye(4)[labels], jnp.float32)
    log_weights = jnp.log(jnp.asarray(frequencies, jnp.float32))
    result = jitted("held_out_discrete")(jnp.full(12, 1e6), rows, log_weights)
    np.testing.assert_allclose(result.influence, -np.log(frequencies[labels]), rtol=1e-6)
    np.testing.assert_allclose(result.nats, -np.sum(frequencies * np.log(frequencies)), rtol=1e-6)


def test_the_standard_error_of_labels_is_the_spread_over_data_sets():
    counts = np.array([[5, 1, 1], [1, 6, 2]])
    ratio, x, z, exact = table_samples(counts)
    picks = np.random.default_rng(0).integers(len(x), size=(200, 300))
    rows, joint = np.float32(ratio[x[picks]]), np.float32(ratio[x[picks], z[picks]])
    log_weights = np.float32(np.log(np.bincount(z) / len(z)))
    results = jax.jit(jax.vmap(bounds.held_out_discrete, (0, 0, None)))(joint, rows, log_weights)
    spread = np.std(results.nats, ddof=1)
    assert abs(np.mean(results.stderr) / spread - 1) < 0.15
    assert abs(np.mean(results.nats) - exact) < 4 * spread / np.sqrt(200)
