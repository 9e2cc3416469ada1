"""Samples that are padded to a power of two have the same estimates, and share programs."""

import functools
from dataclasses import replace

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from mine_jax.estimate import Pair, Splits, gaussian_start, group_pairs, lower_bound, lower_bounds
from mine_jax.estimate.pairs import stack_group
from mine_jax.estimate.splitting import Grouping, pad_splits, sizes
from mine_jax.mine import MineConfig, Samples
from mine_jax.mine.padding import next_power_of_two, num_rows, pad_rows

pytestmark = pytest.mark.usefixtures("compile_fast")

KEY = jax.random.key(0)
CONFIG = MineConfig(
    network="separable",
    hidden=8,
    depth=1,
    features=4,
    batch_size=32,
    learning_rate=0.03,
    ema_decay=0.9,
    check_every=25,
    max_steps=50,
    folds=2,
    mapper="map",
)
PLAIN = replace(CONFIG, canonical_pairs=0, gaussian_start=False)  # fewer programs
CONCATENATED = replace(PLAIN, network="concatenated", validation_shuffles=16)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def samples(n, kind):
    """A pair, or two encodings of it that compete."""
    x = normal(0, n, 3)
    if kind == "labels":
        labels = np.digitize(x[:, 0] + 0.5 * normal(1, n), [-0.5, 0.7])
        return Pair(Samples(x), Samples(np.eye(3, dtype=np.uint8)[labels]))
    z = x + normal(1, n, 3)
    if kind == "noise in folds and groups":
        of_folds = [(fold + 1) * x for fold in range(2)]
        noisy = tuple(Samples(quiet + 0.7 * normal(2, n, 3), quiet, 0.7) for quiet in of_folds)
        return Pair(noisy, Samples(z))
    one = Pair(Samples(x), Samples(z), encoder="one")
    return [one, Pair(Samples(x**3), Samples(z), encoder="other")] if kind == "two" else one


@functools.cache
def estimates(n, kind, config, padded):
    grouping = None
    if kind == "noise in folds and groups":
        grouping = Grouping(np.arange(n) // 3, np.empty(0, np.int64), 0)
    return lower_bounds(
        {"z": samples(n, kind)}, key=KEY, config=config, grouping=grouping, padded=padded
    )["z"]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("two", CONFIG),
        ("labels", CONFIG),
        ("one", CONCATENATED),
        ("noise in folds and groups", replace(PLAIN, normalize=True)),
    ],
)
def test_lower_bounds_of_padded_samples_are_those_of_the_samples(kind, config):
    got, expected = (estimates(300, kind, config, padded) for padded in (True, False))
    assert expected.nats > 0.1
    for field in ("nats", "stderr", "validation_nats", "validation_stderr", "train_nats"):
        assert getattr(got, field) == pytest.approx(getattr(expected, field), abs=2e-3)
    assert got.influence.shape == expected.influence.shape
    np.testing.assert_allclose(got.influence, expected.influence, atol=0.02)
    assert got.ceiling_nats == expected.ceiling_nats
    assert got.encoders == expected.encoders
    assert got.warnings == expected.warnings


@pytest.mark.parametrize(
    ("kind", "config"),
    [("two", CONFIG), ("labels", CONFIG), ("one", CONCATENATED)],
)
def test_lower_bounds_of_another_n_compile_nothing(kind, config, compilations):
    estimates(300, kind, config, True)
    with compilations() as seen:
        other = estimates(400, kind, config, True)
    assert seen == []
    assert other.influence.shape == (2, 200)


@pytest.mark.parametrize("labels", [False, True])
def test_lower_bound_of_another_n_compiles_nothing(labels, compilations):
    config = MineConfig(
        hidden=8, features=4, batch_size=32, check_every=25, max_steps=25, folds=2, mapper="map"
    )

    def estimate(n):
        x = normal(0, n, 3)
        z = np.sign(x[:, 0]).astype(int) if labels else np.exp(x + normal(1, n, 3))
        return lower_bound(x, z, config=config)

    estimate(300)
    with compilations() as seen:
        assert estimate(400).nats > 0.1
    assert seen == []


@given(
    n=st.integers(30, 5000),
    folds=st.integers(2, 12),
    fraction=st.floats(0.05, 0.45),
)
def test_pad_splits_of_any_n_up_to_a_power_of_two_has_its_widths(n, folds, fraction):
    config = MineConfig(folds=folds, validation_fraction=fraction)
    widths = set()
    power = next_power_of_two(n)
    for number in (n, power // 2 + 1, power - 1, power):
        test, validation = sizes(number, config)
        parts = number - test - validation, validation, test
        rows = Splits(*(np.arange(2 * size, dtype=np.int32).reshape(2, -1) for size in parts))
        padded = pad_splits(rows, power, config)
        for part, whole, size in zip(padded, rows, parts, strict=True):
            np.testing.assert_array_equal(part[:, :size], whole)
            assert np.all(part[:, size:] == -1)
        widths.add(tuple(part.shape[1] for part in padded))
    assert len(widths) == 1
    _, validation_width, test_width = widths.pop()
    assert validation_width == test_width


def test_pad_splits_of_large_groups_goes_on_to_powers_of_two():
    config = MineConfig(folds=2, validation_fraction=0.1)
    rows = Splits(*(np.zeros((1, size), np.int32) for size in (450, 40, 100)))
    assert [part.shape[1] for part in pad_splits(rows, 1024, config)] == [512, 512, 512]
    # Without a number of samples test and validation rows get one width.
    assert [part.shape[1] for part in pad_splits(rows, None, config)] == [450, 100, 100]


def test_stack_group_pads_samples_and_keeps_what_is_shared():
    x, z = normal(0, 10, 3), np.eye(4, dtype=np.uint8)[np.arange(10) % 4]
    noisy = Samples(x + 1, x, 0.5)
    pairs = {seed: Pair(noisy, Samples(z), seed) for seed in range(2)}
    (group,) = group_pairs(pairs, CONFIG, 16)
    data = stack_group(group, 3)
    assert data.x.measured.shape == data.x.noiseless.shape == (1, 16, 3)
    assert data.z.measured.shape == (1, 16, 4)
    assert data.z.measured.dtype == np.uint8
    np.testing.assert_array_equal(data.x.index, np.zeros(6))
    for values, wanted in zip(
        (data.x.measured, data.x.noiseless, data.z.measured), (x + 1, x, z), strict=True
    ):
        np.testing.assert_array_equal(values[0, :10], wanted)
        np.testing.assert_array_equal(values[0, 10:], 0)


@pytest.mark.parametrize("form", ["canonical", "paired", "discriminant"])
def test_closed_forms_with_padding_equal_those_of_the_rows(form):
    x, labels = 5 + normal(0, 200, 4), np.arange(200) % 3
    x[:, 3] = 7  # a constant column
    noisy = Samples(x + normal(1, 200, 4), x, 1.0)
    z = x + np.eye(3, 4)[labels].astype(np.float32)
    if form == "discriminant":
        x, z = z, np.eye(3, dtype=np.uint8)[labels]
        noisy = Samples(x)
    fold, train, validation = np.zeros(1, np.int32), np.arange(120)[None], np.arange(120, 200)[None]
    parts = []
    for padded in (False, True):
        group = group_pairs({"z": Pair(noisy, Samples(z))}, CONFIG, 256 if padded else None)[0]
        data = stack_group(group, 1)
        rows = [pad_rows(part, 170) if padded else part for part in (train, validation)]
        assert num_rows(rows[0]) == 120
        if form == "canonical":
            found = gaussian_start.canonical_form(data, *rows, fold, 0.02, 4, CONFIG)
        elif form == "paired":
            found = gaussian_start.paired_form(data, rows[0], fold, 4, CONFIG)
        else:
            found = gaussian_start.discriminant_form(data, rows[0], fold, 0.02, 2.5, CONFIG)
        parts.append(found)
    assert np.ptp(parts[1][-1]) > 0.01
    # Directions have no sign, nor have those of equal correlations an order.
    for got, expected in zip(*parts, strict=True):
        np.testing.assert_allclose(np.abs(got), np.abs(expected), rtol=2e-3, atol=2e-3)
