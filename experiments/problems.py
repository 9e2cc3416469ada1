"""Paired samples with known mutual information, to test estimators on.

That of Gaussian pairs has a closed form, and an invertible map of either side does not change it
(Czyż et al. 2023, "Beyond Normal", https://arxiv.org/abs/2306.11078). Other truths are in closed
form, by quadrature, or by Monte Carlo over known densities. All values are in nats.

Half of the problems are marked `held_out`: an estimator must not be tuned on them.

  for problem in problems():
      x, z = draw(problem, n=10_000, seed=0)
      print(problem.name, problem.truth_nats)
"""

import math
import zlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.floating]
Samples = tuple[np.ndarray, np.ndarray]
Sampler = Callable[[Generator, int], Samples]
Map = Callable[[Array], Array]
Truth = tuple[float, float]

SIDE = 28  # pixels of an image's side
FEATURES = 84  # columns of the features of labels, as in LeNet-5's last hidden layer
SPARSE_NATS = -math.log(1 - 0.8**2)  # two pairs of columns with a correlation of 0.8
MONTE_CARLO_DRAWS, BLOCK_DRAWS = 2_000_000, 50_000


class Problem(NamedTuple):
    """Paired samples with a known mutual information.

    Attributes:
      name: unique, without a comma.
      family: name of the kind of problem.
      truth: returns the mutual information and its standard error, in nats. Monte Carlo is run at
        the first call, always with the same draws.
      sample: maps (generator, n) to x and z, with the n samples on the first axis of both.
      held_out: whether it is excluded from all tuning.
      n: number of samples, where that is the point of the problem.
    """

    name: str
    family: str
    truth: Callable[[], Truth]
    sample: Sampler
    held_out: bool
    n: int | None = None

    @property
    def truth_nats(self) -> float:
        """Mutual information, in nats."""
        return self.truth()[0]

    @property
    def truth_stderr(self) -> float:
        """Standard error of `truth_nats`; zero unless that is from Monte Carlo."""
        return self.truth()[1]


@cache
def problems() -> tuple[Problem, ...]:
    """Return all problems, family by family."""
    families = (
        _gaussian(),
        _rotated(),
        _monotone(),
        _scale(),
        _student_t(),
        _curved(),
        _additive_noise(),
        _function(),
        _multimodal(),
        _labels(),
        _label_channel(),
        _images(),
        _independent(),
    )
    return tuple(problem for family in families for problem in family)


def find(name: str) -> Problem:
    """Return the problem with this full name; ValueError if there is none."""
    for problem in problems():
        if problem.name == name:
            return problem
    raise ValueError(f"there is no problem {name!r}")


def draw(problem: Problem, n: int, seed: int) -> Samples:
    """Draw samples of a problem, the same for the same name, n and seed.

    Args:
      problem: the problem.
      n: number of samples.
      seed: their seed.

    Returns:
      x and z, with the n samples on the first axis of both.
    """
    return problem.sample(np.random.default_rng([zlib.crc32(problem.name.encode()), seed]), n)


# --- Families -----------------------------------------------------------------------------------


def _gaussian() -> list[Problem]:
    """Pairs of d columns, each pair with the same correlation."""
    tuned = [(d, nats) for d in (1, 5, 20) for nats in (1, 2, 4, 6, 8, 10)]
    held_out = [(3, 2), (3, 8), (10, 1), (10, 4), (50, 2), (50, 6)]
    return [
        Problem(
            f"gaussian d={d} I={nats}",
            "gaussian",
            _exact(nats),
            _pairs(d, nats),
            (d, nats) not in tuned,
        )
        for d, nats in tuned + held_out
    ]


def _rotated() -> list[Problem]:
    """Gaussian pairs whose dependence is in few columns, or spread over all by rotations."""

    def dense(sampler: Sampler, d: int) -> Sampler:
        rotate_x, rotate_z = _orthogonal(d, 1), _orthogonal(d, 2)
        return _map_sides(sampler, lambda x: x @ rotate_x, lambda z: z @ rotate_z)

    members = [
        Problem(
            f"dense gaussian d={d} I={nats}",
            "rotated",
            _exact(nats),
            dense(_pairs(d, nats), d),
            held_out,
        )
        for d, nats, held_out in ((5, 2, False), (20, 4, False), (10, 4, True), (50, 2, True))
    ]
    truth = _exact(SPARSE_NATS)
    return [
        *members,
        Problem("sparse gaussian d=25", "rotated", truth, _sparse(25), False),
        Problem("dense sparse gaussian d=25", "rotated", truth, dense(_sparse(25), 25), True),
    ]


def _monotone() -> list[Problem]:
    """Gaussian pairs with an increasing map of each column."""

    def cube(x: Array) -> Array:
        return x**3

    def two_sided_exp(x: Array) -> Array:
        return np.sign(x) * np.expm1(5 * np.abs(x))

    def half_cube(x: Array) -> Array:
        return np.sign(x) * np.abs(x) ** 1.5

    table: list[tuple[str, int, float, Map, Map, bool]] = [
        *(
            (f"z^3 d={d} I={nats}", d, nats, _identity, cube, d != 5)
            for d in (1, 5, 20)
            for nats in (1, 2, 4)
        ),
        ("x^3 z^3 d=1 I=2", 1, 2, cube, cube, True),
        ("two-sided exp z d=5 I=2", 5, 2, _identity, two_sided_exp, False),
        ("two-sided exp x z d=3 I=2", 3, 2, two_sided_exp, two_sided_exp, True),
        ("asinh x z d=5 I=2", 5, 2, np.arcsinh, np.arcsinh, False),
        ("normal cdf x z d=5 I=2", 5, 2, special.ndtr, special.ndtr, False),
        ("exp x z d=5 I=2", 5, 2, np.exp, np.exp, True),
    ]
    members = [
        Problem(name, "monotone", _exact(nats), _map_sides(_pairs(d, nats), on_x, on_z), held_out)
        for name, d, nats, on_x, on_z, held_out in table
    ]
    sampler = _map_sides(_sparse(25), half_cube, half_cube)
    members.append(Problem("half-cube sparse d=25", "monotone", _exact(SPARSE_NATS), sampler, True))
    return members


def _scale() -> list[Problem]:
    """Gaussian pairs in large units, with a large offset, and with an outlying row."""

    def one_outlying_row(x: Array) -> Array:
        x = x.copy()
        x[len(x) // 2] = 1e6
        return x

    table: list[tuple[str, Map, bool]] = [
        ("x times 1e6 d=5 I=2", lambda x: 1e6 * x, False),
        ("one row at 1e6 d=5 I=2", one_outlying_row, False),
        ("x plus 1e6 d=5 I=2", lambda x: 1e6 + x, True),
    ]
    return [
        Problem(name, "scale", _exact(2), _map_sides(_pairs(5, 2), on_x, _identity), held_out)
        for name, on_x, held_out in table
    ]


def _student_t() -> list[Problem]:
    """Multivariate Student-t: Gaussian pairs, each row divided by a random number.

    The truth is that of the Gaussian pair, plus that of the divisor which both sides share
    (Arellano-Valle et al. 2013, doi:10.1111/j.1467-9469.2011.00774.x).
    """

    def sample(rng: Generator, n: int, d: int, nats: float, nu: int) -> Samples:
        x, z = _pairs(d, nats)(rng, n)
        divisor = np.sqrt(rng.chisquare(nu, (n, 1)) / nu)
        return x / divisor, z / divisor

    table = [
        (2, 5, 0, False),
        (2, 2, 1, False),
        (2, 1, 0, True),
        (2, 2, 0, True),
        (3, 2, 0, True),
        (3, 5, 1, True),
    ]
    members = []
    for nu, d, nats, held_out in table:
        truth = nats + 2 * _student_t_entropy(nu, d) - _student_t_entropy(nu, 2 * d)
        name = f"student-t nu={nu} d={d}" + (f" correlated I_gauss={nats}" if nats else "")
        sampler = partial(sample, d=d, nats=nats, nu=nu)
        members.append(Problem(name, "student-t", _exact(truth), sampler, held_out))
    return members


def _curved() -> list[Problem]:
    """Gaussian pairs under invertible curved maps (Czyż et al. 2023, and similar ones)."""

    def spiral(x: Array, i: int, j: int) -> Array:
        """Rotate the plane of columns i and j by the row's mean square."""
        angle = np.sum(x * x, axis=1) / x.shape[1]
        x, (a, b) = x.copy(), (x[:, i], x[:, j])
        x[:, i], x[:, j] = (
            np.cos(angle) * a - np.sin(angle) * b,
            np.sin(angle) * a + np.cos(angle) * b,
        )
        return x

    def roll(x: Array) -> Array:
        t = 1.5 * math.pi * (1 + 2 * special.ndtr(x))
        return t / 21 * np.concatenate([np.cos(t), np.sin(t)], axis=1)

    def wiggly_x(x: Array) -> Array:  # the slope is at least 0.16
        return x + 0.4 * np.sin(x) + 0.2 * np.sin(1.7 * x + 1) + 0.03 * np.sin(3.3 * x - 2.5)

    def wiggly_z(z: Array) -> Array:  # the slope is at least 0.53
        return z - 0.4 * np.sin(0.4 * z) + 0.17 * np.sin(1.3 * z) + 0.02 * np.sin(4.3 * z)

    def banana(x: Array) -> Array:
        return np.stack([x[:, 0], x[:, 1] + x[:, 0] ** 2], axis=1)

    rho = 0.75
    nats = -0.5 * math.log(1 - rho**2)
    members = [
        Problem(
            f"spiral sparse d={d}",
            "curved",
            _exact(SPARSE_NATS),
            _map_sides(_sparse(d), partial(spiral, i=0, j=1), partial(spiral, i=1, j=2)),
            False,
        )
        for d in (3, 5, 25)
    ]
    table: list[tuple[str, int, float, Map, Map, bool]] = [
        ("wiggly d=1 rho=0.75", 1, nats, wiggly_x, wiggly_z, False),
        ("wiggly d=5 I=2", 5, 2, wiggly_x, wiggly_z, True),
        ("swiss roll rho=0.75", 1, nats, roll, special.ndtr, True),
        ("banana d=2 I=2", 2, 2, banana, lambda z: banana(z[:, ::-1]), True),
    ]
    return members + [
        Problem(name, "curved", _exact(truth), _map_sides(_pairs(d, truth), on_x, on_z), held_out)
        for name, d, truth, on_x, on_z, held_out in table
    ]


def _additive_noise() -> list[Problem]:
    """Uniform on (0, 1), and the same plus uniform noise on (−ε, ε)."""

    def sample(rng: Generator, n: int, epsilon: float) -> Samples:
        x = rng.uniform(size=(n, 1))
        return x, x + rng.uniform(-epsilon, epsilon, size=(n, 1))

    def truth(epsilon: float) -> float:
        return epsilon - math.log(2 * epsilon) if epsilon <= 0.5 else 1 / (4 * epsilon)

    return [
        Problem(
            f"additive noise eps={epsilon}",
            "additive noise",
            _exact(truth(epsilon)),
            partial(sample, epsilon=epsilon),
            held_out,
        )
        for epsilon, held_out in ((0.1, False), (0.75, True), (0.02, True))
    ]


def _function() -> list[Problem]:
    """A standard normal column x, and z = mean(x) + scale(x) · noise."""

    def sample(rng: Generator, n: int, mean: Map, scale: Map) -> Samples:
        x, noise = rng.standard_normal((2, n, 1))
        return x, mean(x) + scale(x) * noise

    table: list[tuple[str, Map, Map, bool]] = [
        ("x^2 with noise 0.5", np.square, lambda x: np.full_like(x, 0.5), False),
        ("noise of scale |x|", np.zeros_like, lambda x: np.sqrt(0.1 + x * x), False),
        ("sin(4x) with noise 0.3", lambda x: np.sin(4 * x), lambda x: np.full_like(x, 0.3), True),
    ]
    return [
        Problem(
            name,
            "function",
            cache(partial(_function_truth, mean, scale)),
            partial(sample, mean=mean, scale=scale),
            held_out,
        )
        for name, mean, scale, held_out in table
    ]


def _multimodal() -> list[Problem]:
    """Clusters, branches and rings."""

    def circle(rng: Generator, n: int) -> Samples:
        angle = rng.uniform(0, 2 * math.pi, (n, 1))
        noise = 0.1 * rng.standard_normal((2, n, 1))
        return np.cos(angle) + noise[0], np.sin(angle) + noise[1]

    def cross(rng: Generator, n: int) -> Samples:
        x, noise = rng.standard_normal((2, n, 1))
        return x, np.where(rng.uniform(size=(n, 1)) < 0.5, x, -x) + 0.3 * noise

    def bimodal(x: Array) -> Array:
        """Map normal values to the marginal 0.3 N(−2, 0.5²) + 0.7 N(2, 0.8²)."""
        grid = np.linspace(-7, 9, 20_001)
        cdf = 0.3 * special.ndtr((grid + 2) / 0.5) + 0.7 * special.ndtr((grid - 2) / 0.8)
        # Piecewise linear and increasing: the mutual information does not change.
        return np.interp(special.ndtr(x), cdf, grid)

    def copula(d: int, nats: float) -> Sampler:
        return _map_sides(_pairs(d, nats), bimodal, bimodal)

    nats = -0.5 * math.log(1 - 0.75**2)
    family = "multimodal"
    members = [
        Problem("circle with noise 0.1", family, cache(partial(_circle_truth, 0.1)), circle, False),
        Problem("cross with noise 0.3", family, cache(partial(_cross_truth, 0.3)), cross, True),
        Problem("bimodal d=1 rho=0.75", family, _exact(nats), copula(1, nats), True),
        Problem("bimodal d=5 I=2", family, _exact(2), copula(5, 2), True),
    ]
    for clusters, d in ((4, 1), (5, 2), (3, 5)):
        mixture = Mixture.random(clusters, d, seed=clusters)
        truth = cache(partial(monte_carlo, mixture.pointwise))
        name = f"gaussian mixture clusters={clusters} d={d}"
        members.append(Problem(name, family, truth, mixture.sample, True))
    return members


def _labels() -> list[Problem]:
    """Features of a class: normal around the mean of the class, and softmax outputs."""

    def sample(rng: Generator, n: int, means: Array, one_hot: bool = False) -> Samples:
        labels = rng.integers(0, len(means), n)
        x = means[labels] + rng.standard_normal((n, means.shape[1]))
        return x, np.eye(len(means))[labels] if one_hot else labels

    def softmax_of(sampler: Sampler) -> Sampler:
        return _map_sides(sampler, lambda x: special.softmax(x, axis=1), _identity)

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
                _class_truth(means),
                partial(sample, means=means, one_hot=one_hot),
                kind == "random",
            )
        )
    # The softmax drops the mean of the logits, which is independent of the class.
    certain, uncertain = 12 * np.eye(10), 3 * np.eye(10)
    sampler = softmax_of(partial(sample, means=certain))
    # A wrong logit is the largest once in 10¹⁶ draws.
    members.append(Problem("softmax logit=12", "labels", _exact(math.log(10)), sampler, False))
    sampler = softmax_of(partial(sample, means=uncertain))
    members.append(Problem("softmax logit=3", "labels", _class_truth(uncertain), sampler, True))
    return members


def _label_channel() -> list[Problem]:
    """Labels on both sides; a fraction of those of z are replaced by other classes."""

    def sample(rng: Generator, n: int, classes: int, beta: float) -> Samples:
        labels = rng.integers(0, classes, n)
        return labels, _flipped(rng, labels, classes, beta)

    return [
        Problem(
            f"label channel classes={classes} beta={beta}",
            "label channel",
            _exact(_channel_nats(classes, beta)),
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


def _images() -> list[Problem]:
    """Images of shapes whose places and sizes are Gaussian pairs, and the kinds of shapes.

    The latents can be computed from the image, so that the mutual information of two images is that
    of their latents. Images come as 784 columns, or as (28, 28, 1) where the name says so.
    """

    def columns(images: Array) -> Array:
        return images.reshape(len(images), -1)

    def channel(images: Array) -> Array:
        return images[..., None]

    def pair(nats: float, width: int, shape: Map, form: Map) -> Sampler:
        return _map_sides(_pairs(width, nats), *[lambda latents: form(shape(latents))] * 2)

    def kinds(rng: Generator, n: int, beta: float) -> Samples:
        labels = rng.integers(0, 4, n)
        images = shapes_of_kinds(rng.standard_normal((n, 4)), labels)
        return columns(images), _flipped(rng, labels, 4, beta)

    members = []
    for name, width, shape, held_out in (
        ("blob", 3, blobs, False),
        ("rectangle", 4, rectangles, True),
    ):
        for nats in (1, 2, 4):
            sampler = pair(nats, width, shape, columns)
            members.append(Problem(f"{name} I={nats}", "images", _exact(nats), sampler, held_out))
            sampler = pair(nats, width, shape, channel)
            full = f"{name} 28x28x1 I={nats}"
            members.append(Problem(full, "images", _exact(nats), sampler, held_out))
    mixed = _map_sides(_pairs(3, 2), _identity, lambda latents: columns(blobs(latents)))
    members.append(Problem("latents-blob I=2", "images", _exact(2), mixed, True))
    mixed = _map_sides(_pairs(4, 2), _identity, lambda latents: channel(rectangles(latents)))
    members.append(Problem("latents-rectangle 28x28x1 I=2", "images", _exact(2), mixed, True))
    for beta, held_out in ((0.0, False), (0.2, True)):
        members.append(
            Problem(
                "shape-kind" + f" beta={beta}" * bool(beta),
                "images",
                _exact(_channel_nats(4, beta)),
                partial(kinds, beta=beta),
                held_out,
            )
        )
    return members


def _independent() -> list[Problem]:
    """Independent samples: an estimator should return zero."""

    def normals(rng: Generator, n: int, d: int) -> Samples:
        return rng.standard_normal((n, d)), rng.standard_normal((n, d))

    def images(rng: Generator, n: int, width: int, shape: Map) -> Samples:
        x, z = (shape(rng.standard_normal((n, width))).reshape(n, -1) for _ in range(2))
        return x, z

    def cauchy(rng: Generator, n: int) -> Samples:
        return rng.standard_cauchy((n, 2)), rng.standard_cauchy((n, 2))

    def labels(rng: Generator, n: int) -> Samples:
        return rng.standard_normal((n, FEATURES)), rng.integers(0, 10, n)

    table: list[tuple[str, Sampler, bool, int | None]] = [
        ("independent d=1", partial(normals, d=1), False, None),
        ("independent d=10", partial(normals, d=10), False, None),
        ("independent d=10 n=500", partial(normals, d=10), False, 500),
        ("independent blobs", partial(images, width=3, shape=blobs), False, None),
        ("independent d=10 n=1000", partial(normals, d=10), True, 1000),
        ("independent cauchy d=2", cauchy, True, None),
        ("independent rectangles", partial(images, width=4, shape=rectangles), True, None),
        ("independent labels classes=10", labels, True, None),
    ]
    return [
        Problem(name, "independent", _exact(0), sampler, held_out, n)
        for name, sampler, held_out, n in table
    ]


# --- Samples ------------------------------------------------------------------------------------


def _pairs(d: int, nats: float, correlated: int | None = None) -> Sampler:
    """Return a sampler of standard normal pairs, (n, d) each.

    Args:
      d: number of columns of both sides.
      nats: the mutual information, of which each correlated column has the same part.
      correlated: number of correlated columns, which are the first ones. Default: all.
    """

    def sample(rng: Generator, n: int) -> Samples:
        x, z = rng.standard_normal((2, n, d))
        column_nats = nats / (correlated or d)
        first = np.s_[:, :correlated]
        # exp(−I) is √(1 − ρ²), which is exact also where ρ is nearly one.
        z[first] = (
            math.sqrt(-math.expm1(-2 * column_nats)) * x[first] + math.exp(-column_nats) * z[first]
        )
        return x, z

    return sample


def _sparse(d: int) -> Sampler:
    """Return a sampler of normal pairs, (n, d), two of whose columns have a correlation of 0.8."""
    return _pairs(d, SPARSE_NATS, correlated=2)


def _map_sides(sampler: Sampler, on_x: Map, on_z: Map) -> Sampler:
    """Return the sampler with a map of each side."""

    def sample(rng: Generator, n: int) -> Samples:
        x, z = sampler(rng, n)
        return on_x(x), on_z(z)

    return sample


def _identity(x: Array) -> Array:
    return x


def _orthogonal(d: int, seed: int) -> Array:
    """Draw an orthogonal matrix, (d, d)."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def directions(count: int, d: int) -> Array:
    """Draw unit vectors, (count, d), the same ones at each call."""
    vectors = np.random.default_rng(count).standard_normal((count, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _flipped(rng: Generator, labels: np.ndarray, classes: int, beta: float) -> np.ndarray:
    """Replace each of the labels, (n,), with probability `beta` by another class."""
    other = (labels + rng.integers(1, classes, len(labels))) % classes
    return np.where(rng.uniform(size=len(labels)) < beta, other, labels)


def _place(latents: Array, low: float, high: float) -> Array:
    """Map standard normal latents to uniform numbers from `low` to `high`."""
    return low + (high - low) * special.ndtr(latents)


def blobs(latents: Array) -> Array:
    """Draw images of a Gaussian bump.

    Args:
      latents: (n, 3), standard normal: of the center's row and column, which are uniform from 8
        to 20 pixels, and of the standard deviation, uniform from 1.5 to 4.

    Returns:
      (n, 28, 28) from 0 to 1, float32.
    """
    center, width = _place(latents[:, :2], 8, 20), _place(latents[:, 2], 1.5, 4)
    off = np.arange(SIDE) - center[..., None]
    return _outer(np.exp(-(off**2) / (2 * width[:, None, None] ** 2)))


def rectangles(latents: Array) -> Array:
    """Draw images of a filled rectangle; the value of a pixel is its covered fraction.

    Args:
      latents: (n, 4), standard normal: of the center's row and column, uniform from 8 to 20
        pixels, and of half the height and half the width, uniform from 2 to 7.

    Returns:
      (n, 28, 28) from 0 to 1, float32. Pixel i covers i to i + 1.
    """
    return _outer(_cover(_place(latents[:, :2], 8, 20), _place(latents[:, 2:], 2, 7)))


def shapes_of_kinds(latents: Array, kinds: np.ndarray) -> Array:
    """Draw images of four kinds of shapes: rectangle, frame, plus, blob.

    Args:
      latents: (n, 4), as for `rectangles`; blobs use the first three, as `blobs`.
      kinds: (n,) integers from 0 to 3.

    Returns:
      (n, 28, 28) from 0 to 1, float32.
    """
    center, half = _place(latents[:, :2], 8, 20), _place(latents[:, 2:], 2, 7)
    full, thin = _cover(center, half), _cover(center, np.ones_like(half))
    rectangle = _outer(full)
    vertical, horizontal = (full[:, 0], thin[:, 1]), (thin[:, 0], full[:, 1])
    plus = np.maximum(*(_outer(np.stack(bar, 1)) for bar in (vertical, horizontal)))
    frame = rectangle - _outer(_cover(center, half - 1))
    return np.choose(kinds[:, None, None], (rectangle, frame, plus, blobs(latents[:, :3])))


def _cover(center: Array, half: Array) -> Array:
    """Compute the fraction of each pixel within center ± half, (…, 28) for (…) each."""
    low, high = (center - half)[..., None], (center + half)[..., None]
    pixel = np.arange(SIDE)
    return np.clip(np.minimum(pixel + 1, high) - np.maximum(pixel, low), 0, 1)


def _outer(profiles: Array) -> Array:
    """Multiply profiles over rows and columns, (n, 2, 28), to images, (n, 28, 28), float32."""
    profiles = profiles.astype(np.float32)
    return profiles[:, 0, :, None] * profiles[:, 1, None, :]


class Mixture(NamedTuple):
    """A mixture of correlated Gaussians over (x, z), d columns each.

    Attributes:
      means: (clusters, 2 d).
      roots: (clusters, 2 d, 2 d), Cholesky factors of the covariances.
    """

    means: Array
    roots: Array

    @classmethod
    def random(cls, clusters: int, d: int, seed: int) -> "Mixture":
        """Draw equally likely clusters with random means and covariances."""
        rng = np.random.default_rng(seed)
        spread = rng.standard_normal((clusters, 2 * d, 2 * d))
        covariances = 0.5 / d * spread @ spread.swapaxes(1, 2) + 0.2 * np.eye(2 * d)
        return cls(2 * rng.standard_normal((clusters, 2 * d)), np.linalg.cholesky(covariances))

    def sample(self, rng: Generator, n: int) -> Samples:
        """Draw x and z, (n, d) each."""
        rows = rng.integers(0, len(self.means), n)
        noise = rng.standard_normal((n, self.means.shape[1]))
        joint = self.means[rows] + np.einsum("nij,nj->ni", self.roots[rows], noise)
        x, z = np.split(joint, 2, axis=1)
        return x, z

    def pointwise(self, rng: Generator, n: int) -> Array:
        """Draw n samples and return ln p(x, z) − ln p(x) − ln p(z), (n,)."""
        x, z = self.sample(rng, n)
        d = x.shape[1]
        joint = self._log_density(np.concatenate([x, z], axis=1), np.s_[:])
        return joint - self._log_density(x, np.s_[:d]) - self._log_density(z, np.s_[d:])

    def _log_density(self, values: Array, columns: slice) -> Array:
        """Compute the log density of these columns, (n,)."""
        log_densities = []
        for mean, root in zip(self.means[:, columns], self.roots[:, columns], strict=True):
            factor = np.linalg.cholesky(root @ root.T)
            white = np.linalg.solve(factor, (values - mean).T)
            log_densities.append(-0.5 * np.sum(white**2, axis=0) - np.log(np.diag(factor)).sum())
        constant = 0.5 * values.shape[1] * math.log(2 * math.pi) + math.log(len(log_densities))
        return special.logsumexp(log_densities, axis=0) - constant


# --- Truths -------------------------------------------------------------------------------------


def _exact(nats: float) -> Callable[[], Truth]:
    return lambda: (float(nats), 0.0)


def monte_carlo(pointwise: Callable[[Generator, int], Array]) -> Truth:
    """Average the result of `pointwise`, (n,), over many draws; return mean and standard error."""
    rng = np.random.default_rng(0)
    parts = np.concatenate(
        [pointwise(rng, BLOCK_DRAWS) for _ in range(MONTE_CARLO_DRAWS // BLOCK_DRAWS)]
    )
    return float(parts.mean()), float(parts.std() / math.sqrt(len(parts)))


def _class_truth(means: Array) -> Callable[[], Truth]:
    """Return the function that computes the mutual information of a class and normal features.

    It is ln(classes) minus the mean of −ln p(class | features).

    Args:
      means: (classes, d), the means of equally likely classes; around them the features are
        independent and have unit variance.
    """
    gram = means @ means.T
    root = np.linalg.cholesky(gram)

    def pointwise(rng: Generator, n: int) -> Array:
        labels = rng.integers(0, len(means), n)
        # The products of the features with the means are sufficient, and normal too.
        products = gram[labels] + rng.standard_normal((n, len(means))) @ root.T
        logits = products - 0.5 * np.diag(gram)
        label_logits = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return math.log(len(means)) + label_logits - special.logsumexp(logits, axis=1)

    return cache(partial(monte_carlo, pointwise))


def _channel_nats(classes: int, beta: float) -> float:
    """Compute the mutual information of labels and the same with a fraction `beta` replaced."""
    return float(
        math.log(classes) - special.entr([beta, 1 - beta]).sum() - beta * math.log(classes - 1)
    )


def _student_t_entropy(nu: float, d: int) -> float:
    """Compute the entropy of a Student-t in d dimensions with identity dispersion, in nats."""
    half, whole = nu / 2, (nu + d) / 2
    return float(
        special.gammaln(half)
        - special.gammaln(whole)
        + d / 2 * math.log(nu * math.pi)
        + whole * (special.digamma(whole) - special.digamma(half))
    )


def _entropy(density: Array, grid: Array) -> float:
    """Compute the entropy of a density on an even grid that covers it, both (points,)."""
    return float(special.entr(density).sum() * (grid[1] - grid[0]))


def _normal(x: Array, mean: Array | float, scale: Array | float) -> Array:
    return np.exp(-0.5 * ((x - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


def _function_truth(mean: Map, scale: Map, points: int = 2001) -> Truth:
    """Compute the truth of `_function` by quadrature."""
    x = np.linspace(-8, 8, points)
    weights = _normal(x, 0, 1) * (x[1] - x[0])
    means, scales = mean(x), scale(x)
    z = np.linspace((means - 8 * scales).min(), (means + 8 * scales).max(), 2 * points)
    density = _apply_in_blocks(lambda at: _normal(at[:, None], means, scales) @ weights, z)
    noise_entropy = 0.5 * math.log(2 * math.pi * math.e) + np.log(scales) @ weights
    return _entropy(density, z) - float(noise_entropy), 0.0


def _cross_truth(scale: float, points: int = 2001) -> Truth:
    """Compute the truth of a standard normal x and ±x + scale · noise by quadrature."""
    x = np.linspace(-8, 8, points)
    z = np.linspace(-8 - 8 * scale, 8 + 8 * scale, points)

    def given(at: Array) -> Array:
        density = 0.5 * (_normal(z, at[:, None], scale) + _normal(z, -at[:, None], scale))
        return special.entr(density).sum(axis=1) * (z[1] - z[0])

    noise_entropy = _apply_in_blocks(given, x) @ _normal(x, 0, 1) * (x[1] - x[0])
    z_entropy = 0.5 * math.log(2 * math.pi * math.e * (1 + scale**2))
    return float(z_entropy - noise_entropy), 0.0


def _circle_truth(scale: float, points: int = 4001) -> Truth:
    """Compute the truth of the coordinates of a noisy unit circle by quadrature."""
    edge = 1 + 10 * scale
    radius, x = np.linspace(0, edge, points), np.linspace(-edge, edge, points)
    # The mean of a normal density around the points of the circle (Rice).
    density = np.exp(-((radius - 1) ** 2) / (2 * scale**2)) * special.i0e(radius / scale**2)
    density /= 2 * math.pi * scale**2
    joint = np.sum(special.entr(density) * 2 * math.pi * radius) * (radius[1] - radius[0])
    angle = np.linspace(0, 2 * math.pi, 1000, endpoint=False)
    marginal = _apply_in_blocks(
        lambda at: _normal(at[:, None], np.cos(angle), scale).mean(axis=1), x
    )
    return 2 * _entropy(marginal, x) - float(joint), 0.0


def _apply_in_blocks(function: Map, at: Array, size: int = 500) -> Array:
    """Apply a function to a vector block by block, to bound its memory."""
    blocks: Sequence[Array] = [function(at[i : i + size]) for i in range(0, len(at), size)]
    return np.concatenate(blocks)
