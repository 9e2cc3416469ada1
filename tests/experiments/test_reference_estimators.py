"""Reference estimators against mutual information in closed form."""

import math

import numpy as np
import pytest
from conftest import load_experiment

references = load_experiment("reference_estimators")


def gaussian_pair(rng, n, d, nats):
    x, noise = rng.standard_normal((2, n, d))
    rho = math.sqrt(1 - math.exp(-2 * nats / d))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("nats", [0.0, 1.0])
def test_ksg_is_near_the_truth_in_few_columns(d, nats):
    values = [
        references.ksg(*gaussian_pair(np.random.default_rng(seed), 2000, d, nats))
        for seed in range(5)
    ]
    assert np.mean(values) == pytest.approx(nats, abs=0.05)


def test_ksg_counts_the_neighbors_of_the_formula():
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, 40, 1))
    x_scaled, z_scaled = ((side - side.mean()) / side.std() for side in (x, z))
    x_apart, z_apart = (np.abs(side - side.T) for side in (x_scaled, z_scaled))
    distances = np.sort(np.maximum(x_apart, z_apart), axis=1)[:, [3]]  # the first is the point
    counts = [(apart < distances).sum(axis=1) - 1 for apart in (x_apart, z_apart)]
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, 60))])  # ψ(m + 1) + γ
    mean = np.mean(harmonic[counts[0]] + harmonic[counts[1]])
    assert references.ksg(x, z) == pytest.approx(harmonic[2] + harmonic[39] - mean, abs=1e-6)


def test_ksg_does_not_depend_on_units_and_takes_ties():
    x, z = gaussian_pair(np.random.default_rng(1), 500, 2, 1)
    assert references.ksg(1e6 * x + 3, z) == pytest.approx(references.ksg(x, z), abs=1e-3)
    assert math.isfinite(references.ksg(np.rint(x), np.rint(z)))
    constant = np.column_stack([x, np.ones(500)])
    assert math.isfinite(references.ksg(constant, z))


def test_ksg_is_nan_for_labels_images_and_many_columns():
    x = np.random.default_rng(0).standard_normal((100, 2))
    for other in (np.arange(100) % 3, np.zeros((100, 4, 4)), np.zeros((100, 51))):
        assert math.isnan(references.ksg(x, other))
        assert math.isnan(references.ksg(other, x))


def test_cca_is_the_formula_of_gaussian_columns():
    x, z = gaussian_pair(np.random.default_rng(0), 20_000, 3, 2)
    mixed = x @ np.random.default_rng(1).standard_normal((3, 3)) + 5
    assert references.cca(mixed, 1e3 * z) == pytest.approx(references.cca(x, z), abs=1e-9)
    assert references.cca(x, z) == pytest.approx(2, abs=0.03)
    # A column that repeats others changes nothing; the bias of independent columns is d²/2n.
    repeated = np.column_stack([x, x[:, 0] + x[:, 1], np.ones(20_000)])
    assert references.cca(repeated, z) == pytest.approx(references.cca(x, z), abs=1e-9)
    a, b = np.random.default_rng(2).standard_normal((2, 2000, 40))
    assert references.cca(a, b) == pytest.approx(40**2 / 2 / 2000, rel=0.1)


def test_cca_takes_labels_and_images():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 20_000)
    x = np.where(labels, 1.0, -1.0)[:, None] + rng.standard_normal((20_000, 1))
    # The correlation of x with the sign is 1/√2.
    assert references.cca(x, labels) == pytest.approx(0.5 * math.log(2), abs=0.02)
    images = np.repeat(x, 16, axis=1).reshape(-1, 4, 4)
    assert references.cca(images, labels) == pytest.approx(references.cca(x, labels), abs=1e-9)
    assert math.isnan(references.cca(x[:10].repeat(6, axis=1), x[:10].repeat(5, axis=1)))
