"""Paired samples whose mutual information is known, to hold estimates against.

Gaussian pairs have it in closed form; maps that can be undone, of each side for itself, leave it as
it is (Czyż et al. 2023, "Beyond Normal", https://arxiv.org/abs/2306.11078); the rest is in closed
form, by quadrature, or by Monte Carlo over densities that are known. Everything is in nats.

Half of the problems are marked `held_out`: those are never looked at while an estimator is tuned.

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
FEATURES = 84  # columns of the features that go with labels, as LeNet-5's last hidden layer has
SPARSE_NATS = -math.log(1 - 0.8**2)  # two pairs of coordinates with a correlation of 0.8
_DRAWS, _CHUNK = 2_000_000, 50_000  # of a Monte Carlo truth


class Problem(NamedTuple):
    """Paired samples with a known mutual information.

    Attributes:
      name: what it is; without a comma.
      family: a word for problems of one kind.
      truth: returns the mutual information and its standard error, in nats. Monte Carlo is run
        when first asked for, always with the same draws.
      sample: (generator, n) to x and z, with the n samples on the first axis of both.
      held_out: whether it is kept out of all tuning.
      n: the number of samples that the problem asks for, where that is its point.
    """

    name: str
    family: str
    truth: Callable[[], Truth]
    sample: Sampler
    held_out: bool
    n: int | None = None

    @property
    def truth_nats(self) -> float:
        """The mutual information, in nats."""
        return self.truth()[0]

    @property
    def truth_stderr(self) -> float:
        """The standard error of `truth_nats`; zero unless that is from Monte Carlo."""
        return self.truth()[1]


@cache
def problems() -> tuple[Problem, ...]:
    """All problems, family by family."""
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
    """The problem of this name.

    Args:
      name: a problem's full name.

    Returns:
      The problem.

    Raises:
      ValueError: if there is none.
    """
    for problem in problems():
        if problem.name == name:
            return problem
    raise ValueError(f"there is no problem {name!r}")


def draw(problem: Problem, n: int, seed: int) -> Samples:
    """Samples of a problem, the same for the same name, n and seed.

    Args:
      problem: what to draw from.
      n: how many samples.
      seed: which ones.

    Returns:
      x and z, the n samples on the first axis of both.
    """
    return problem.sample(np.random.default_rng([zlib.crc32(problem.name.encode()), seed]), n)


# --- Families -----------------------------------------------------------------------------------


def _gaussian() -> list[Problem]:
    """Coordinates in d pairs, each pair with the same correlation."""
    tuned = [(d, nats) for d in (1, 5, 20) for nats in (1, 2, 4, 6, 8, 10)]
    held_out = [(3, 2), (3, 8), (10, 1), (10, 4), (50, 2), (50, 6)]
    return [
        Problem(
            f"gaussian d={d} I={nats}",
            "gaussian",
            _known(nats),
            _pairs(d, nats),
            (d, nats) not in tuned,
        )
        for d, nats in tuned + held_out
    ]


def _rotated() -> list[Problem]:
    """Gaussian pairs of which few coordinates matter, or all a little (each side rotated)."""

    def dense(sampler: Sampler, d: int) -> Sampler:
        turn_x, turn_z = _orthogonal(d, 1), _orthogonal(d, 2)
        return _mapped(sampler, lambda x: x @ turn_x, lambda z: z @ turn_z)

    made = [
        Problem(
            f"dense gaussian d={d} I={nats}",
            "rotated",
            _known(nats),
            dense(_pairs(d, nats), d),
            held_out,
        )
        for d, nats, held_out in ((5, 2, False), (20, 4, False), (10, 4, True), (50, 2, True))
    ]
    truth = _known(SPARSE_NATS)
    return [
        *made,
        Problem("sparse gaussian d=25", "rotated", truth, _sparse(25), False),
        Problem("dense sparse gaussian d=25", "rotated", truth, dense(_sparse(25), 25), True),
    ]


def _monotone() -> list[Problem]:
    """Gaussian pairs with each coordinate through an increasing map."""

    def cube(x: Array) -> Array:
        return x**3

    def two_sided_exp(x: Array) -> Array:
        return np.sign(x) * np.expm1(5 * np.abs(x))

    def half_cube(x: Array) -> Array:
        return np.sign(x) * np.abs(x) ** 1.5

    table: list[tuple[str, int, float, Map, Map, bool]] = [
        *(
            (f"z^3 d={d} I={nats}", d, nats, _same, cube, d != 5)
            for d in (1, 5, 20)
            for nats in (1, 2, 4)
        ),
        ("x^3 z^3 d=1 I=2", 1, 2, cube, cube, True),
        ("two-sided exp z d=5 I=2", 5, 2, _same, two_sided_exp, False),
        ("two-sided exp x z d=3 I=2", 3, 2, two_sided_exp, two_sided_exp, True),
        ("asinh x z d=5 I=2", 5, 2, np.arcsinh, np.arcsinh, False),
        ("normal cdf x z d=5 I=2", 5, 2, special.ndtr, special.ndtr, False),
        ("exp x z d=5 I=2", 5, 2, np.exp, np.exp, True),
    ]
    made = [
        Problem(name, "monotone", _known(nats), _mapped(_pairs(d, nats), on_x, on_z), held_out)
        for name, d, nats, on_x, on_z, held_out in table
    ]
    sampler = _mapped(_sparse(25), half_cube, half_cube)
    made.append(Problem("half-cube sparse d=25", "monotone", _known(SPARSE_NATS), sampler, True))
    return made


def _scale() -> list[Problem]:
    """Gaussian pairs in odd units, and with a row that is wrong."""

    def one_row_far(x: Array) -> Array:
        x = x.copy()
        x[len(x) // 2] = 1e6
        return x

    table: list[tuple[str, Map, bool]] = [
        ("x times 1e6 d=5 I=2", lambda x: 1e6 * x, False),
        ("one row at 1e6 d=5 I=2", one_row_far, False),
        ("x plus 1e6 d=5 I=2", lambda x: 1e6 + x, True),
    ]
    return [
        Problem(name, "scale", _known(2), _mapped(_pairs(5, 2), on_x, _same), held_out)
        for name, on_x, held_out in table
    ]


def _student_t() -> list[Problem]:
    """Multivariate Student-t: Gaussian pairs, each row divided by a random number of its own.

    Arellano-Valle et al. (2013), doi:10.1111/j.1467-9469.2011.00774.x: the information of the
    Gaussian pair, plus that in the number which both sides share.
    """

    def sample(rng: Generator, n: int, d: int, nats: float, nu: int) -> Samples:
        x, z = _pairs(d, nats)(rng, n)
        by = np.sqrt(rng.chisquare(nu, (n, 1)) / nu)
        return x / by, z / by

    table = [
        (2, 5, 0, False),
        (2, 2, 1, False),
        (2, 1, 0, True),
        (2, 2, 0, True),
        (3, 2, 0, True),
        (3, 5, 1, True),
    ]
    made = []
    for nu, d, nats, held_out in table:
        truth = nats + 2 * _student_t_entropy(nu, d) - _student_t_entropy(nu, 2 * d)
        name = f"student-t nu={nu} d={d}" + (f" correlated I_gauss={nats}" if nats else "")
        sampler = partial(sample, d=d, nats=nats, nu=nu)
        made.append(Problem(name, "student-t", _known(truth), sampler, held_out))
    return made


def _curved() -> list[Problem]:
    """Gaussian pairs bent by maps that can be undone (Czyż et al. 2023 and in their manner)."""

    def spiral(x: Array, i: int, j: int) -> Array:
        """Turns the plane of columns i and j by the row's squared norm over its width."""
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
    made = [
        Problem(
            f"spiral sparse d={d}",
            "curved",
            _known(SPARSE_NATS),
            _mapped(_sparse(d), partial(spiral, i=0, j=1), partial(spiral, i=1, j=2)),
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
    return made + [
        Problem(name, "curved", _known(truth), _mapped(_pairs(d, truth), on_x, on_z), held_out)
        for name, d, truth, on_x, on_z, held_out in table
    ]


def _additive_noise() -> list[Problem]:
    """Uniform on (0, 1), and the same with uniform noise on (−ε, ε) added."""

    def sample(rng: Generator, n: int, epsilon: float) -> Samples:
        x = rng.uniform(size=(n, 1))
        return x, x + rng.uniform(-epsilon, epsilon, size=(n, 1))

    def truth(epsilon: float) -> float:
        return epsilon - math.log(2 * epsilon) if epsilon <= 0.5 else 1 / (4 * epsilon)

    return [
        Problem(
            f"additive noise eps={epsilon}",
            "additive noise",
            _known(truth(epsilon)),
            partial(sample, epsilon=epsilon),
            held_out,
        )
        for epsilon, held_out in ((0.1, False), (0.75, True), (0.02, True))
    ]


def _function() -> list[Problem]:
    """One column x, standard normal, and z = mean(x) + scale(x) · noise."""

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
        """To the marginal 0.3 N(−2, 0.5²) + 0.7 N(2, 0.8²)."""
        grid = np.linspace(-7, 9, 20_001)
        cdf = 0.3 * special.ndtr((grid + 2) / 0.5) + 0.7 * special.ndtr((grid - 2) / 0.8)
        # Straight between the points of the grid, so increasing: the information stays as it is.
        return np.interp(special.ndtr(x), cdf, grid)

    def copula(d: int, nats: float) -> Sampler:
        return _mapped(_pairs(d, nats), bimodal, bimodal)

    nats = -0.5 * math.log(1 - 0.75**2)
    family = "multimodal"
    made = [
        Problem("circle with noise 0.1", family, cache(partial(_circle_truth, 0.1)), circle, False),
        Problem("cross with noise 0.3", family, cache(partial(_cross_truth, 0.3)), cross, True),
        Problem("bimodal d=1 rho=0.75", family, _known(nats), copula(1, nats), True),
        Problem("bimodal d=5 I=2", family, _known(2), copula(5, 2), True),
    ]
    for clusters, d in ((4, 1), (5, 2), (3, 5)):
        mixture = Mixture.random(clusters, d, seed=clusters)
        truth = cache(partial(_monte_carlo, mixture.pointwise))
        name = f"gaussian mixture clusters={clusters} d={d}"
        made.append(Problem(name, family, truth, mixture.sample, True))
    return made


def _labels() -> list[Problem]:
    """Features that tell a class: normal around a mean of the class, and softmax outputs."""

    def sample(rng: Generator, n: int, means: Array, one_hot: bool = False) -> Samples:
        labels = rng.integers(0, len(means), n)
        x = means[labels] + rng.standard_normal((n, means.shape[1]))
        return x, np.eye(len(means))[labels] if one_hot else labels

    def softmax_of(sampler: Sampler) -> Sampler:
        return _mapped(sampler, lambda x: special.softmax(x, axis=1), _same)

    made = []
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
            np.eye(classes, FEATURES) if kind == "axes" else _directions(classes, FEATURES)
        )
        made.append(
            Problem(
                f"labels {kind} classes={classes} s={strength}" + " one-hot" * one_hot,
                "labels",
                _class_truth(means),
                partial(sample, means=means, one_hot=one_hot),
                kind == "random",
            )
        )
    # The softmax drops what all logits have in common, and that tells nothing of the class.
    sure, unsure = 12 * np.eye(10), 3 * np.eye(10)
    sampler = softmax_of(partial(sample, means=sure))
    # Another logit is the largest once in 10¹⁶ draws.
    made.append(Problem("softmax logit=12", "labels", _known(math.log(10)), sampler, False))
    sampler = softmax_of(partial(sample, means=unsure))
    made.append(Problem("softmax logit=3", "labels", _class_truth(unsure), sampler, True))
    return made


def _label_channel() -> list[Problem]:
    """Labels on both sides; some of the second are replaced by another class."""

    def sample(rng: Generator, n: int, classes: int, beta: float) -> Samples:
        labels = rng.integers(0, classes, n)
        return labels, _flipped(rng, labels, classes, beta)

    return [
        Problem(
            f"label channel classes={classes} beta={beta}",
            "label channel",
            _known(_channel_nats(classes, beta)),
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
    """Images of shapes whose places and sizes are Gaussian pairs, latents of images and kinds.

    An image tells its latents, so that it knows of another image what the latents know.
    """

    def columns(images: Array) -> Array:
        return images.reshape(len(images), -1)

    def channel(images: Array) -> Array:
        return images[..., None]

    def pair(nats: float, width: int, shape: Map, form: Map) -> Sampler:
        return _mapped(_pairs(width, nats), *[lambda latents: form(shape(latents))] * 2)

    def kinds(rng: Generator, n: int, beta: float) -> Samples:
        labels = rng.integers(0, 4, n)
        images = shapes_of_kinds(rng.standard_normal((n, 4)), labels)
        return columns(images), _flipped(rng, labels, 4, beta)

    made = []
    for name, width, shape, held_out in (
        ("blob", 3, blobs, False),
        ("rectangle", 4, rectangles, True),
    ):
        for nats in (1, 2, 4):
            sampler = pair(nats, width, shape, columns)
            made.append(Problem(f"{name} I={nats}", "images", _known(nats), sampler, held_out))
            sampler = pair(nats, width, shape, channel)
            full = f"{name} 28x28x1 I={nats}"
            made.append(Problem(full, "images", _known(nats), sampler, held_out))
    mixed = _mapped(_pairs(3, 2), _same, lambda latents: columns(blobs(latents)))
    made.append(Problem("latents-blob I=2", "images", _known(2), mixed, True))
    mixed = _mapped(_pairs(4, 2), _same, lambda latents: channel(rectangles(latents)))
    made.append(Problem("latents-rectangle 28x28x1 I=2", "images", _known(2), mixed, True))
    for beta, held_out in ((0.0, False), (0.2, True)):
        made.append(
            Problem(
                "shape-kind" + f" beta={beta}" * bool(beta),
                "images",
                _known(_channel_nats(4, beta)),
                partial(kinds, beta=beta),
                held_out,
            )
        )
    return made


def _independent() -> list[Problem]:
    """Nothing to know, which an estimator should say."""

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
        Problem(name, "independent", _known(0), sampler, held_out, n)
        for name, sampler, held_out, n in table
    ]


# --- Samples ------------------------------------------------------------------------------------


def _pairs(d: int, nats: float, correlated: int | None = None) -> Sampler:
    """Standard normal pairs, (n, d) each, the information shared out evenly.

    Args:
      d: width of both sides.
      nats: the mutual information.
      correlated: how many columns, the first ones, carry it. Default: all.

    Returns:
      The sampler.
    """

    def sample(rng: Generator, n: int) -> Samples:
        x, z = rng.standard_normal((2, n, d))
        share = nats / (correlated or d)
        first = np.s_[:, :correlated]
        # exp(−I) is √(1 − ρ²), and stays exact where ρ is nearly one.
        z[first] = math.sqrt(-math.expm1(-2 * share)) * x[first] + math.exp(-share) * z[first]
        return x, z

    return sample


def _sparse(d: int) -> Sampler:
    """Standard normal pairs, (n, d), of which two columns have a correlation of 0.8."""
    return _pairs(d, SPARSE_NATS, correlated=2)


def _mapped(sampler: Sampler, on_x: Map, on_z: Map) -> Sampler:
    """The sampler with a map on each side."""

    def sample(rng: Generator, n: int) -> Samples:
        x, z = sampler(rng, n)
        return on_x(x), on_z(z)

    return sample


def _same(x: Array) -> Array:
    return x


def _orthogonal(d: int, seed: int) -> Array:
    """An orthogonal matrix, (d, d), the same for the same seed."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def _directions(count: int, d: int) -> Array:
    """Random unit vectors, (count, d), the same every time."""
    vectors = np.random.default_rng(count).standard_normal((count, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _flipped(rng: Generator, labels: np.ndarray, classes: int, beta: float) -> np.ndarray:
    """The labels, (n,), each with probability `beta` replaced by one of the other classes."""
    other = (labels + rng.integers(1, classes, len(labels))) % classes
    return np.where(rng.uniform(size=len(labels)) < beta, other, labels)


def _place(latents: Array, low: float, high: float) -> Array:
    """Standard normal latents as uniform numbers from `low` to `high`."""
    return low + (high - low) * special.ndtr(latents)


def blobs(latents: Array) -> Array:
    """Images of a Gaussian bump.

    Args:
      latents: (n, 3), standard normal: of the centre's row and column, which are uniform from 8
        to 20 pixels, and of the width, uniform from 1.5 to 4.

    Returns:
      (n, 28, 28) from 0 to 1, float32.
    """
    centre, width = _place(latents[:, :2], 8, 20), _place(latents[:, 2], 1.5, 4)
    off = np.arange(SIDE) - centre[..., None]
    return _outer(np.exp(-(off**2) / (2 * width[:, None, None] ** 2)))


def rectangles(latents: Array) -> Array:
    """Images of a filled rectangle; a pixel is as bright as it is covered.

    Args:
      latents: (n, 4), standard normal: of the centre's row and column, uniform from 8 to 20
        pixels, and of half the height and half the width, uniform from 2 to 7.

    Returns:
      (n, 28, 28) from 0 to 1, float32. Pixel i covers i to i + 1.
    """
    return _outer(_cover(_place(latents[:, :2], 8, 20), _place(latents[:, 2:], 2, 7)))


def shapes_of_kinds(latents: Array, kinds: np.ndarray) -> Array:
    """Images of one of four kinds of shapes: rectangle, frame, plus, blob.

    Args:
      latents: (n, 4), as for `rectangles`; of a blob the third is that of its width.
      kinds: (n,) integers from 0 to 3.

    Returns:
      (n, 28, 28) from 0 to 1, float32.
    """
    centre, half = _place(latents[:, :2], 8, 20), _place(latents[:, 2:], 2, 7)
    full, thin = _cover(centre, half), _cover(centre, np.ones_like(half))
    rectangle = _outer(full)
    plus = np.maximum(*(_outer(np.stack(bar, 1)) for bar in _bars(full, thin)))
    frame = rectangle - _outer(_cover(centre, half - 1))
    each = (rectangle, frame, plus, blobs(latents[:, :3]))
    return np.choose(kinds[:, None, None], each)


def _bars(full: Array, thin: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Rows and columns covered by an upright and by a lying bar, (n, 28) each."""
    return (full[:, 0], thin[:, 1]), (thin[:, 0], full[:, 1])


def _cover(centre: Array, half: Array) -> Array:
    """How much of each pixel lies within centre ± half, (…, 28) for (…) each."""
    low, high = (centre - half)[..., None], (centre + half)[..., None]
    pixel = np.arange(SIDE)
    return np.clip(np.minimum(pixel + 1, high) - np.maximum(pixel, low), 0, 1)


def _outer(profiles: Array) -> Array:
    """Images, (n, 28, 28), float32, from profiles over rows and columns, (n, 2, 28)."""
    profiles = profiles.astype(np.float32)
    return profiles[:, 0, :, None] * profiles[:, 1, None, :]


class Mixture(NamedTuple):
    """A mixture of Gaussians over (x, z), d columns each, with correlation within its clusters.

    Attributes:
      means: (clusters, 2 d).
      roots: (clusters, 2 d, 2 d), Cholesky factors of the covariances.
    """

    means: Array
    roots: Array

    @classmethod
    def random(cls, clusters: int, d: int, seed: int) -> "Mixture":
        """Clusters at random places, of random shapes, all equally likely."""
        rng = np.random.default_rng(seed)
        spread = rng.standard_normal((clusters, 2 * d, 2 * d))
        covariances = 0.5 / d * spread @ spread.swapaxes(1, 2) + 0.2 * np.eye(2 * d)
        return cls(2 * rng.standard_normal((clusters, 2 * d)), np.linalg.cholesky(covariances))

    def sample(self, rng: Generator, n: int) -> Samples:
        """Draws x and z, (n, d) each."""
        rows = rng.integers(0, len(self.means), n)
        noise = rng.standard_normal((n, self.means.shape[1]))
        both = self.means[rows] + np.einsum("nij,nj->ni", self.roots[rows], noise)
        x, z = np.split(both, 2, axis=1)
        return x, z

    def pointwise(self, rng: Generator, n: int) -> Array:
        """Draws n times and returns ln p(x, z) − ln p(x) − ln p(z), (n,)."""
        x, z = self.sample(rng, n)
        d = x.shape[1]
        both = self._log_density(np.concatenate([x, z], axis=1), np.s_[:])
        return both - self._log_density(x, np.s_[:d]) - self._log_density(z, np.s_[d:])

    def _log_density(self, values: Array, columns: slice) -> Array:
        """Logarithm of the density of these columns, (n,)."""
        each = []
        for mean, root in zip(self.means[:, columns], self.roots[:, columns], strict=True):
            factor = np.linalg.cholesky(root @ root.T)
            white = np.linalg.solve(factor, (values - mean).T)
            each.append(-0.5 * np.sum(white**2, axis=0) - np.log(np.diag(factor)).sum())
        constant = 0.5 * values.shape[1] * math.log(2 * math.pi) + math.log(len(each))
        return special.logsumexp(each, axis=0) - constant


# --- Truths -------------------------------------------------------------------------------------


def _known(nats: float) -> Callable[[], Truth]:
    return lambda: (float(nats), 0.0)


def _monte_carlo(pointwise: Callable[[Generator, int], Array]) -> Truth:
    """The mean of what `pointwise` returns, (n,), over many draws, and its standard error."""
    rng = np.random.default_rng(0)
    parts = np.concatenate([pointwise(rng, _CHUNK) for _ in range(_DRAWS // _CHUNK)])
    return float(parts.mean()), float(parts.std() / math.sqrt(len(parts)))


def _class_truth(means: Array) -> Callable[[], Truth]:
    """Information in normal features about their class.

    Args:
      means: (classes, d), the classes' means; the classes are equally likely, and the features
        have unit variance and no correlation around their mean.

    Returns:
      What returns the truth: ln(classes) less the mean of −ln p(class | features).
    """
    gram = means @ means.T
    root = np.linalg.cholesky(gram)

    def pointwise(rng: Generator, n: int) -> Array:
        labels = rng.integers(0, len(means), n)
        # Features matter by their products with the means alone, and those are normal too.
        products = gram[labels] + rng.standard_normal((n, len(means))) @ root.T
        logits = products - 0.5 * np.diag(gram)
        right = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return math.log(len(means)) + right - special.logsumexp(logits, axis=1)

    return cache(partial(_monte_carlo, pointwise))


def _channel_nats(classes: int, beta: float) -> float:
    """Information between labels and the same with a share `beta` replaced by other classes."""
    return float(
        math.log(classes) - special.entr([beta, 1 - beta]).sum() - beta * math.log(classes - 1)
    )


def _student_t_entropy(nu: float, d: int) -> float:
    """Entropy of a Student-t in d dimensions with identity dispersion, in nats."""
    half, whole = nu / 2, (nu + d) / 2
    return float(
        special.gammaln(half)
        - special.gammaln(whole)
        + d / 2 * math.log(nu * math.pi)
        + whole * (special.digamma(whole) - special.digamma(half))
    )


def _entropy(density: Array, grid: Array) -> float:
    """Entropy of a density given on an even grid that it fades out in, both (points,)."""
    return float(special.entr(density).sum() * (grid[1] - grid[0]))


def _normal(x: Array, mean: Array | float, scale: Array | float) -> Array:
    return np.exp(-0.5 * ((x - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


def _function_truth(mean: Map, scale: Map, points: int = 2001) -> Truth:
    """Information between x, standard normal, and mean(x) + scale(x) · noise, by quadrature."""
    x = np.linspace(-8, 8, points)
    weights = _normal(x, 0, 1) * (x[1] - x[0])
    means, scales = mean(x), scale(x)
    z = np.linspace((means - 8 * scales).min(), (means + 8 * scales).max(), 2 * points)
    density = _blocks(lambda at: _normal(at[:, None], means, scales) @ weights, z)
    of_noise = 0.5 * math.log(2 * math.pi * math.e) + np.log(scales) @ weights
    return _entropy(density, z) - float(of_noise), 0.0


def _cross_truth(scale: float, points: int = 2001) -> Truth:
    """Information between x, standard normal, and ±x + scale · noise, by quadrature."""
    x = np.linspace(-8, 8, points)
    z = np.linspace(-8 - 8 * scale, 8 + 8 * scale, points)

    def given(at: Array) -> Array:
        density = 0.5 * (_normal(z, at[:, None], scale) + _normal(z, -at[:, None], scale))
        return special.entr(density).sum(axis=1) * (z[1] - z[0])

    of_noise = _blocks(given, x) @ _normal(x, 0, 1) * (x[1] - x[0])
    of_z = 0.5 * math.log(2 * math.pi * math.e * (1 + scale**2))
    return float(of_z - of_noise), 0.0


def _circle_truth(scale: float, points: int = 4001) -> Truth:
    """Information between the coordinates of a noisy unit circle, by quadrature."""
    edge = 1 + 10 * scale
    radius, x = np.linspace(0, edge, points), np.linspace(-edge, edge, points)
    # Rice: the mean over all directions of a normal density around the point.
    density = np.exp(-((radius - 1) ** 2) / (2 * scale**2)) * special.i0e(radius / scale**2)
    density /= 2 * math.pi * scale**2
    both = np.sum(special.entr(density) * 2 * math.pi * radius) * (radius[1] - radius[0])
    angle = np.linspace(0, 2 * math.pi, 1000, endpoint=False)
    one = _blocks(lambda at: _normal(at[:, None], np.cos(angle), scale).mean(axis=1), x)
    return 2 * _entropy(one, x) - float(both), 0.0


def _blocks(function: Map, at: Array, size: int = 500) -> Array:
    """A function of a vector, block by block, so that its tables stay small."""
    blocks: Sequence[Array] = [function(at[i : i + size]) for i in range(0, len(at), size)]
    return np.concatenate(blocks)
