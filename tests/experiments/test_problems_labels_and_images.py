"""Truths of labels and images, against another computation."""

import math

import numpy as np
import pytest
from image_latents import latents_of_bars, latents_of_blobs, latents_of_rectangles
from problem_checks import agrees, family, gaussian_nats, normal_scores, problems, table_nats
from problems import samplers, shapes
from scipy import spatial, special


@pytest.mark.parametrize(
    ("kind", "classes", "strength", "form"),
    [("axes", 10, 2, " one-hot"), ("axes", 3, 2, ""), ("random", 10, 1, "")],
)
def test_label_truth_is_that_of_the_posterior_of_all_features(kind, classes, strength, form):
    problem = problems.find(f"labels {kind} classes={classes} s={strength}{form}")
    means = samplers.directions(classes, 84) if kind == "random" else np.eye(classes, 84)
    assert np.linalg.norm(means, axis=1) == pytest.approx(1)
    x, z = problems.draw(problem, 20_000, seed=0)
    assert x.shape == (20_000, 84)
    labels = z.argmax(axis=1) if form else z
    assert set(labels) == set(range(classes))
    squares = spatial.distance.cdist(x, strength * means, "sqeuclidean")
    posterior = special.log_softmax(-0.5 * squares, axis=1)[np.arange(len(x)), labels]
    assert agrees(math.log(classes) + posterior, problem)


@pytest.mark.parametrize("logit", [3, 12])
def test_softmax_truth(logit):
    problem = problems.find(f"softmax logit={logit}")
    x, labels = problems.draw(problem, 20_000, seed=0)
    assert x.sum(axis=1) == pytest.approx(1)
    # The log of x is the logits up to a number for each row.
    posterior = special.log_softmax(logit * np.log(x), axis=1)[np.arange(len(x)), labels]
    if logit == 12:
        assert (math.log(10) + posterior).mean() == pytest.approx(problem.truth_nats, abs=1e-6)
    else:
        assert agrees(math.log(10) + posterior, problem)


@pytest.mark.parametrize("problem", family("label channel"), ids=lambda problem: problem.name)
def test_label_channel_truth(problem):
    classes, beta = (float(word.split("=")[1]) for word in problem.name.split()[-2:])
    classes = int(classes)
    joint = np.full((classes, classes), beta / (classes - 1)) / classes
    np.fill_diagonal(joint, (1 - beta) / classes)
    assert problem.truth_nats == pytest.approx(table_nats(joint))
    x, z = problems.draw(problem, 100_000, seed=0)
    counted = np.histogram2d(x, z, bins=classes)[0] / len(x)
    assert np.abs(counted - joint).max() < 5 * math.sqrt(joint.max() / len(x))


@pytest.mark.parametrize(
    ("draw", "recover", "width"),
    [
        ("blobs", latents_of_blobs, 3),
        ("rectangles", latents_of_rectangles, 4),
        ("bars", latents_of_bars, 2),
    ],
)
def test_images_determine_their_latents(draw, recover, width):
    latents = np.random.default_rng(0).standard_normal((2000, width))
    images = getattr(shapes, draw)(latents)
    assert images.shape == (2000, 28, 28)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    close = np.abs(latents) < 3  # beyond, a uniform number is too near its end for float32
    np.testing.assert_allclose(recover(images)[close], latents[close], atol=0.02)


def test_image_truths_are_those_of_their_latents():
    for problem in [p for p in family("images") if "shape-kind" not in p.name]:
        x, z = problems.draw(problem, 3000, seed=0)
        recover = latents_of_blobs if "blob" in problem.name else latents_of_rectangles
        shape = (3000, 28, 28, 1) if "28x28x1" in problem.name else (3000, 784)
        for side in (x, z)["latents" in problem.name :]:
            assert side.shape == shape
        x, z = (v if v.shape[1] < 5 else recover(v.reshape(-1, 28, 28)) for v in (x, z))
        nats = gaussian_nats(normal_scores(x), normal_scores(z))
        assert nats == pytest.approx(problem.truth_nats, abs=0.1), problem.name


def test_shapes_of_kinds_can_be_told_apart():
    problem = problems.find("shape-kind")
    x, kinds = problems.draw(problem, 2000, seed=0)
    images = x.reshape(-1, 28, 28)
    filled = (images == 1).sum(axis=(1, 2))
    rows, columns = (images.sum(axis=axis) @ np.arange(28) for axis in (2, 1))
    middle = [
        images[i, round(rows[i] / total), round(columns[i] / total)]
        for i, total in enumerate(images.sum(axis=(1, 2)))
    ]
    rank = np.linalg.matrix_rank(images.astype(np.float64), tol=1e-3)
    found = np.where(rank > 1, np.where(np.array(middle) > 0.1, 2, 1), np.where(filled > 1, 0, 3))
    np.testing.assert_array_equal(found, kinds)
    assert problem.truth_nats == pytest.approx(math.log(4))
    joint = (np.eye(4) * (0.8 - 0.2 / 3) + 0.2 / 3) / 4
    assert problems.find("shape-kind beta=0.2").truth_nats == pytest.approx(table_nats(joint))
