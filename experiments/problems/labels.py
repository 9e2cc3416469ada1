"""Labels beside features of their class, and beside other labels."""

import math
from functools import partial

import numpy as np
from numpy.random import Generator
from scipy import special

from .maps import identity
from .problem import Array, Problem, Sampler, Samples
from .samplers import FEATURES, directions, flipped, map_sides
from .truths import channel_nats, class_truth, exact


def labels() -> list[Problem]:
    """Features of a class: normal around the mean of the class, and softmax outputs."""

    def sample(rng: Generator, n: int, means: Array, one_hot: bool = False) -> Samples:
        labels = rng.integers(0, len(means), n)
        x = means[labels] + rng.standard_normal((n, means.shape[1]))
        return x, np.eye(len(means))[labels] if one_hot else labels

    def softmax_of(sampler: Sampler) -> Sampler:
        return map_sides(sampler, lambda x: special.softmax(x, axis=1), identity)

    members = []
    for kind, classes, strength, one_hot in (
        ("axes", 10, 1, False),
        ("axes", 10, 2, False),
        ("axes", 10, 4, False),
        ("axes", 10, 2, True),
        ("axes", 3, 2, False),
        ("axes", 30, 4, False),
        ("random", 10, 1, False),
        ("random", 10, 2, False),
        ("random", 10, 4, False),
        ("random", 10, 3, True),
        ("random", 3, 2, False),
        ("random", 30, 3, False),
    ):
        means = strength * (
            np.eye(classes, FEATURES) if kind == "axes" else directions(classes, FEATURES)
        )
        members.append(
            Problem(
                f"labels {kind} classes={classes} s={strength}" + " one-hot" * one_hot,
                "labels",
                class_truth(means),
                partial(sample, means=means, one_hot=one_hot),
                kind == "random",
            )
        )
    # The softmax drops the mean of the logits, which is independent of the class.
    certain, uncertain = 12 * np.eye(10), 3 * np.eye(10)
    sampler = softmax_of(partial(sample, means=certain))
    # A wrong logit is the largest once in 10¹⁶ draws.
    members.append(Problem("softmax logit=12", "labels", exact(math.log(10)), sampler, False))
    sampler = softmax_of(partial(sample, means=uncertain))
    members.append(Problem("softmax logit=3", "labels", class_truth(uncertain), sampler, True))
    return members


def label_channel() -> list[Problem]:
    """Labels on both sides; a fraction of those of z are replaced by other classes."""

    def sample(rng: Generator, n: int, classes: int, beta: float) -> Samples:
        labels = rng.integers(0, classes, n)
        return labels, flipped(rng, labels, classes, beta)

    return [
        Problem(
            f"label channel classes={classes} beta={beta}",
            "label channel",
            exact(channel_nats(classes, beta)),
            partial(sample, classes=classes, beta=beta),
            held_out,
        )
        for classes, beta, held_out in (
            (10, 0.2, False),
            (3, 0.1, False),
            (10, 0.5, True),
            (30, 0.3, True),
        )
    ]
