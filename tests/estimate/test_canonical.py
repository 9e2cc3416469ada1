"""Tests of canonical columns: known directions, independence, labels, and what they depend on."""

import numpy as np
import pytest

from mine_jax.estimate.canonical import MAX_DIRECTIONS, canonical_columns
from mine_jax.estimate.preparation import normal_scores

N, FOLDS = 1000, 3
RHO = 0.9


def rows_of(n, seed=0):
    """Training, validation and test rows, (folds, …)."""
    order = np.random.default_rng(seed).permutation(n)
    rolled = np.stack([np.roll(order, -fold * n // 5) for fold in range(FOLDS)])
    return rolled[:, : 7 * n // 10], rolled[:, 7 * n // 10 : 8 * n // 10], rolled[:, 8 * n // 10 :]


def shared_in_small_variance(seed, n=N, columns=60, shared=2):
    """Columns of falling variance after a rotation, of which the last ones are correlated."""
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(2, n, columns))
    z[:, -shared:] = RHO * x[:, -shared:] + np.sqrt(1 - RHO**2) * z[:, -shared:]
    deviations = 10 / np.arange(1, columns + 1)
    rotations = [np.linalg.qr(rng.normal(size=(columns, columns)))[0] for _ in range(2)]
    return [(side * deviations) @ axes for side, axes in zip((x, z), rotations, strict=True)]


def correlations(a, b):
    a, b = (each - each.mean(axis=0) for each in (a, b))
    return np.sum(a * b, axis=0) / np.sqrt(np.sum(a * a, axis=0) * np.sum(b * b, axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_canonical_columns_are_the_shared_directions(seed):
    x, z = shared_in_small_variance(seed)
    train, validation, test = rows_of(N)
    for fold, (left, right) in enumerate(canonical_columns(x, z, train, validation)):
        assert left.shape == right.shape == (N, MAX_DIRECTIONS + 1)
        kept = np.flatnonzero(left[:, :-1].std(axis=0))
        assert list(kept[:2]) == [0, 1]
        assert len(kept) <= 4  # chance
        # Training on 700 samples of 60 columns costs some of it.
        assert np.all(correlations(left[test[fold], :2], right[test[fold], :2]) > RHO - 0.1)
        np.testing.assert_allclose(left[:, kept].std(axis=0), 1, atol=1e-3)


@pytest.mark.parametrize("columns", [5, 60, 300])
def test_canonical_columns_of_independent_columns_are_zero(columns):
    rng = np.random.default_rng(columns)
    x, z = rng.normal(size=(2, N, columns))
    train, validation, _ = rows_of(N)
    kept = [
        np.count_nonzero(left[:, :-1].std(axis=0))
        for left, _ in canonical_columns(x, z, train, validation)
    ]
    # One-sided 2.5 standard errors: 1 of 160 directions, with the best of three ridges.
    assert sum(kept) <= 3


def test_canonical_columns_of_a_fold_rest_on_its_training_and_validation_rows():
    x, z = shared_in_small_variance(3)
    train, validation, test = rows_of(N)
    shuffled = z.copy()
    shuffled[test[0]] = z[np.random.default_rng(0).permutation(test[0])]
    before, after = (list(canonical_columns(x, each, train, validation)) for each in (z, shuffled))
    np.testing.assert_array_equal(after[0][0], before[0][0])
    used = np.concatenate([train[0], validation[0]])
    np.testing.assert_allclose(after[0][1][used], before[0][1][used], atol=1e-4)
    # The same rows train other folds.
    assert not np.allclose(after[1][0], before[1][0], atol=0.1)


def test_canonical_columns_end_with_the_size_of_a_row():
    rng = np.random.default_rng(4)
    size = rng.uniform(0.2, 2, (N, 1))
    x, z = size * rng.normal(size=(2, N, 40))
    train, validation, _ = rows_of(N)
    for left, right in canonical_columns(x, z, train, validation):
        for side, values in ((left, x), (right, z)):
            standardized = (values - values.mean(axis=0)) / values.std(axis=0)
            expected = normal_scores(np.mean(standardized**2, axis=1, keepdims=True))
            np.testing.assert_allclose(side[:, -1:], expected, atol=1e-2)
        assert correlations(left[:, -1:], right[:, -1:]) > 0.9


def test_canonical_columns_beside_labels_tell_classes_apart():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, N)
    x = 5 * rng.normal(size=(N, 60))
    x[:, 7] = 0.1 * rng.normal(size=N) + 0.3 * labels
    train, validation, test = rows_of(N)
    one_hot = np.eye(3, dtype=np.uint8)[labels]
    for fold, (left, _) in enumerate(canonical_columns(x, one_hot, train, validation)):
        assert left.shape == (N, 4)
        rows = test[fold]
        assert abs(correlations(left[rows, :1], labels[rows, None])[0]) > 0.85


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [10, 20, 300])
def test_canonical_columns_of_degenerate_samples_are_finite(n):
    rng = np.random.default_rng(n)
    direction = rng.normal(size=(n, 1)) @ rng.normal(size=(1, 200))
    few = np.repeat(rng.normal(size=(5, 3)), n // 5, axis=0)
    train, validation, _ = rows_of(n)
    for side in (
        np.ones((n, 4)),
        direction,
        direction + 1e-5 * rng.normal(size=(n, 200)),
        few,
        rng.normal(size=(n, 2)) * [1e-6, 1e6],
    ):
        for other in (side, rng.normal(size=(n, 30))):
            for pair in canonical_columns(side, other, train, validation):
                assert all(np.isfinite(columns).all() for columns in pair)
