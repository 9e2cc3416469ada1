"""Tests of the encoders that compete: which ones, for which samples, and what they rest on."""

import functools

import jax
import numpy as np
import pytest
from scipy.stats import norm

from mine_jax.estimate import split
from mine_jax.estimate.candidates import MAX_CANONICAL_COLUMNS, candidates
from mine_jax.estimate.canonical import MAX_DIRECTIONS
from mine_jax.estimate.eigenmaps import NUM_EIGENMAPS
from mine_jax.estimate.image_moments import NUM_MOMENTS
from mine_jax.estimate.pairs import choose_network
from mine_jax.estimate.preparation import NUM_COMPONENTS, prepare
from mine_jax.estimate.variables import read_variable
from mine_jax.mine import MineConfig, is_labels

N, FOLDS = 200, 5
CONFIG = MineConfig()
ROWS = split(jax.random.key(0), N, CONFIG)
MOMENTS = NUM_MOMENTS + NUM_COMPONENTS


@functools.cache
def kinds():
    """Samples by name, the latent of all of which is one number."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(N, 1))
    place = np.arange(10)[None, :, None] - 4.5 - np.tanh(latent)[:, :, None]
    images = np.exp(-(place**2) / 2) * np.ones((1, 1, 10)) + 0.05 * rng.normal(size=(N, 10, 10))
    low_rank = rng.normal(size=(N, 12)) @ rng.normal(size=(12, 150))
    return {
        "images": images,
        "colors": np.repeat(images[..., None], 3, axis=3) + 0.05 * rng.normal(size=(N, 10, 10, 3)),
        "many": low_rank + 0.1 * latent,
        "other many": rng.normal(size=(N, 150)) + latent,
        "more": low_rank @ rng.normal(size=(150, 200)),
        "five": np.exp(rng.normal(size=(N, 5)) + latent),
        "two": rng.normal(size=(N, 2)) + latent,
        "thirty": rng.normal(size=(N, 30)) + latent,
        "normal": norm.ppf((rng.permuted([np.arange(N)] * 2, axis=1).T + 0.5) / N),
        "one": latent,
        "labels": np.digitize(latent[:, 0], [-0.5, 0.5]),
        "counts": np.arange(N) % 12,
        "words": np.array(["no", "yes"])[(latent[:, 0] > 0).astype(int)],
    }


@functools.cache
def found(x, z):
    sides = (read_variable(kinds()[name], name) for name in (x, z))
    return {pair.encoder: pair for pair in candidates(*sides, ROWS, (x, z), CONFIG)}


def widths(pair):
    return tuple(side.measured.shape[1] for side in pair.of_fold(0))


# Encoders and numbers of columns of both sides, (x, z), by the docstring's table.
# Images of 100 pixels keep all of them as components.
TABLE = {
    ("images", "colors"): {
        "moments": (30, 30),
        "ranks / components": (100, 20),
        "patches": (200, 200),
        "eigenmaps": (20, 20),
    },
    ("images", "many"): {
        "moments / components": (30, 20),
        "ranks / components": (100, 20),
        "patches / eigenmaps": (200, 20),
        "eigenmaps": (20, 20),
    },
    ("images", "five"): {
        "moments / ranks": (30, 5),
        "ranks": (100, 5),
        "patches / ranks": (200, 5),
        "eigenmaps / ranks": (20, 5),
    },
    ("one", "images"): {
        "ranks / moments": (1, 30),
        "ranks": (1, 100),
        "ranks / patches": (1, 200),
        "ranks / eigenmaps": (1, 20),
    },
    ("images", "labels"): {
        "moments": (30, 3),
        "both": (200, 3),
        "patches": (200, 3),
        "eigenmaps": (20, 3),
    },
    ("many", "more"): {"components": (20, 20), "eigenmaps": (20, 20), "canonical": (21, 21)},
    ("many", "five"): {
        "components / ranks": (20, 5),
        "eigenmaps / ranks": (20, 5),
        "canonical": (6, 6),
    },
    ("one", "many"): {"ranks / components": (1, 20), "ranks / eigenmaps": (1, 20)},
    ("many", "labels"): {"components": (20, 3), "eigenmaps": (20, 3), "canonical": (4, 3)},
    ("labels", "many"): {"components": (20, 3), "eigenmaps": (20, 3), "canonical": (4, 3)},
    ("five", "two"): {"ranks": (5, 2), "standardized": (5, 2)},
    ("five", "one"): {"ranks": (5, 1), "standardized": (5, 1)},
    ("one", "one"): {"ranks": (1, 1), "standardized": (1, 1)},
    ("normal", "normal"): {"standardized": (2, 2)},
    ("normal", "five"): {"ranks": (2, 5), "standardized": (2, 5)},
    ("five", "five"): {"ranks": (5, 5), "standardized": (5, 5)},
    ("thirty", "thirty"): {"ranks": (30, 30), "standardized": (30, 30), "canonical": (21, 21)},
    ("thirty", "normal"): {"ranks": (30, 2), "standardized": (30, 2), "canonical": (3, 3)},
    ("five", "labels"): {"both": (10, 3), "both, deep": (10, 3)},
    ("words", "one"): {"both": (2, 2), "both, deep": (2, 2)},
    ("five", "counts"): {"both": (10, 12), "numbers": (5, 1), "both, deep": (10, 12)},
    ("words", "labels"): {"labels": (2, 3)},
    ("counts", "labels"): {"labels": (12, 3), "numbers": (2, 3)},
    ("labels", "counts"): {"labels": (3, 12), "numbers": (2, 3)},
    ("counts", "counts"): {"labels": (12, 12), "numbers": (1, 1)},
}
# Sides of one shape; networks that share layers come with each of them.
ALIKE = {
    ("images", "images"): {
        "moments": (50, 50),
        "ranks": (100, 100),
        "patches": (200, 200),
        "eigenmaps": (20, 20),
    },
    ("many", "other many"): {"components": (40, 40), "eigenmaps": (20, 20), "canonical": (21, 21)},
}
OVERRIDES = {"shared": (("shared", True),), "deep": (("depth", 3),)}


def test_numbers_of_columns_in_the_tables_are_those_of_the_constants():
    assert (NUM_COMPONENTS, NUM_EIGENMAPS, MOMENTS, MAX_DIRECTIONS) == (20, 20, 30, 20)


@pytest.mark.parametrize(("x", "z"), [*TABLE, *ALIKE])
def test_candidates_are_those_of_the_table(x, z):
    expected = TABLE.get((x, z), {})
    if alike := ALIKE.get((x, z)):
        expected = alike | {f"{encoder}, shared": size for encoder, size in alike.items()}
    pairs = found(x, z)
    assert {encoder: widths(pair) for encoder, pair in pairs.items()} == expected
    assert list(pairs) == list(expected)
    for encoder, pair in pairs.items():
        assert pair.overrides == OVERRIDES.get(encoder.rpartition(", ")[2], ())
        for fold in range(FOLDS):
            left, right = (side.measured for side in pair.of_fold(fold))
            assert len(left) == len(right) == N
            assert np.isfinite(left).all()
            assert np.isfinite(right).all()
            assert left.dtype == np.float32
            of_numbers = {"counts"} if encoder == "numbers" else set()
            assert is_labels(right) == bool({x, z} & {"labels", "words", "counts"} - of_numbers)
        one_network = choose_network(left, right)
        assert (one_network == "concatenated") == (max(widths(pair)) <= 2 and not is_labels(right))


@pytest.mark.parametrize(
    ("x", "z", "fields", "expected"),
    [
        ("images", "colors", {"x_encoder": "patches"}, ["patches"]),
        ("normal", "normal", {"x_encoder": "ranks"}, ["ranks"]),
        ("five", "two", {"x_encoder": "canonical"}, ["canonical"]),
        ("images", "five", {"z_encoder": "ranks", "x_encoder": "moments"}, ["moments / ranks"]),
        ("labels", "images", {"z_encoder": "eigenmaps"}, ["eigenmaps"]),
        ("many", "other many", {"shared": False}, ["components", "eigenmaps", "canonical"]),
        ("many", "many", {"shared": True, "x_encoder": "eigenmaps"}, ["eigenmaps, shared"]),
    ],
)
def test_candidates_are_those_that_the_configuration_names(x, z, fields, expected):
    sides = (read_variable(kinds()[name], name) for name in (x, z))
    pairs = candidates(*sides, ROWS, (x, z), MineConfig(**fields))
    assert [pair.encoder for pair in pairs] == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"z_encoder": "moments"},
            r"the encoder of five must be one of .*'ranks'.*got 'moments'",
        ),
        ({"shared": True}, "shared must be False for x and z of different kinds"),
    ],
)
def test_candidates_that_do_not_exist_are_named(fields, message):
    sides = (read_variable(kinds()[name]) for name in ("two", "five"))
    with pytest.raises(ValueError, match=message):
        candidates(*sides, ROWS, ("two", "five"), MineConfig(**fields))


def test_candidates_first_pair_is_what_prepare_returns():
    for x, z, scale in (
        *(("images", "colors", "auto"), ("many", "five", "auto")),
        *(("five", "two", "auto"), ("five", "labels", "both")),
    ):
        first = next(iter(found(x, z).values()))
        for side, name in zip(first[:2], (x, z), strict=True):
            variable = read_variable(kinds()[name])
            np.testing.assert_array_equal(side.measured, prepare(variable.values, name, scale))


@pytest.mark.parametrize(
    ("x", "z"),
    [("images", "colors"), ("many", "more"), ("five", "two"), ("many", "labels"), ("one", "many")],
)
def test_candidates_do_not_depend_on_the_pairing_but_by_canonical_directions(x, z):
    left, right = (read_variable(kinds()[name]) for name in (x, z))
    order = np.random.default_rng(1).permutation(N)
    shuffled = right._replace(values=right.values[order])
    for pair in candidates(left, shuffled, ROWS, (x, z), CONFIG):
        same = np.asarray(pair.of_fold(0)[0].measured)
        expected = np.asarray(found(x, z)[pair.encoder].of_fold(0)[0].measured)
        assert np.array_equal(same, expected) == (pair.encoder != "canonical")


def test_candidates_of_a_fold_do_not_depend_on_the_pairing_of_its_test_rows():
    left, right = (read_variable(kinds()[name]) for name in ("many", "more"))
    order = np.arange(N)
    order[ROWS.test[2]] = ROWS.test[2][::-1]
    shuffled = right._replace(values=right.values[order])
    for pair in candidates(left, shuffled, ROWS, ("x", "z"), CONFIG):
        before = found("many", "more")[pair.encoder]
        same = [
            np.array_equal(pair.of_fold(f)[0].measured, before.of_fold(f)[0].measured)
            for f in range(FOLDS)
        ]
        assert same[2]
        assert all(same) == (pair.encoder != "canonical")


def test_candidates_of_sides_that_are_alike_encode_equal_samples_alike():
    for name in ("images", "many"):
        for encoder, pair in found(name, name).items():
            left, right = (side.measured for side in pair.of_fold(0))
            if not encoder.startswith("canonical"):
                np.testing.assert_array_equal(left, right)


def test_candidates_encode_equal_rows_alike():
    """Sorted samples would tell their places otherwise."""
    place = np.sort(np.random.default_rng(3).integers(0, 30, N))
    for name in ("images", "many"):
        values = kinds()[name][place]
        pairs = candidates(
            read_variable(values), read_variable(kinds()["five"]), ROWS, ("x", "z"), CONFIG
        )
        assert len(pairs) == (4 if name == "images" else 3)
        for pair in pairs:
            columns = np.asarray(pair.of_fold(0)[0].measured)
            for i in range(30):
                np.testing.assert_allclose(np.ptp(columns[place == i], axis=0), 0, atol=1e-4)


def test_candidates_with_lost_variance_say_so():
    for x, z in (("five", "many"), ("many", "more"), ("five", "two"), ("images", "labels")):
        assert not any(pair.warnings for pair in found(x, z).values())
    constant = read_variable(np.ones((N, 150)))
    five = read_variable(kinds()["five"])
    assert not any(pair.warnings for pair in candidates(constant, five, ROWS, ("x", "z"), CONFIG))
    pairs = found("labels", "other many")
    (sentence,) = pairs["components"].warnings
    assert "other many is reduced to principal components with " in sentence
    percent = int(sentence.split("% of its variance")[0].split()[-1])
    columns = kinds()["other many"]
    variances = np.square(np.linalg.svd(columns - columns.mean(axis=0), compute_uv=False))
    assert abs(percent - 100 * variances[:NUM_COMPONENTS].sum() / variances.sum()) < 2
    assert not pairs["eigenmaps"].warnings
    assert not pairs["canonical"].warnings


def test_candidates_of_pixels_without_the_shape_of_images_say_so():
    place = np.arange(12)[None, None] - 5.5 - np.tanh(kinds()["one"])[:, :, None]
    flat = (np.exp(-(place**2) / 2) * np.ones((1, 12, 1))).reshape(N, 144)
    flat = read_variable(flat + 0.01 * np.random.default_rng(0).normal(size=(N, 144)))
    pairs = candidates(flat, read_variable(kinds()["five"]), ROWS, ("gray", "z"), CONFIG)
    assert len(pairs) == 3
    sentence = "The columns of gray seem to be the pixels of images; if so, pass it as (n, 12, 12)"
    assert all(sentence in pair.warnings[-1] for pair in pairs)


def test_candidates_canonical_of_more_columns_than_it_takes():
    rng = np.random.default_rng(2)
    columns = rng.normal(size=(N, MAX_CANONICAL_COLUMNS + 10))
    sides = read_variable(columns), read_variable(kinds()["labels"])
    pairs = {pair.encoder: pair for pair in candidates(*sides, ROWS, ("x", "z"), CONFIG)}
    assert widths(pairs["canonical"]) == (4, 3)


def candidates_of(x, z, **encoders):
    sides = (read_variable(kinds()[name], name) for name in (x, z))
    return candidates(*sides, ROWS, (x, z), MineConfig(**encoders))


def test_candidates_trained_encoder_keeps_the_shape_of_its_side_alone():
    (pair,) = candidates_of("images", "many", x_encoder="convolutional")
    left, right = (side.measured for side in pair.of_fold(0))
    assert (left.shape, right.shape) == ((N, 10, 10, 1), (N, NUM_COMPONENTS))
    assert pair.encoder == "trained"


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({"x_encoder": "numbers"}, "encoder of images must be .*'moments'.*got 'numbers'"),
        ({"z_encoder": "convolutional"}, r"takes images.*five has the shape \(200, 5\)"),
        (
            {"x_encoder": "convolutional", "z_encoder": "ranks"},
            'encoder of five must be "auto" or trained.*ranks',
        ),
    ],
)
def test_candidates_refuse_encoders_that_do_not_fit(encoders, message):
    with pytest.raises(ValueError, match=message):
        candidates_of("images", "five", **encoders)
