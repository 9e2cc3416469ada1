"""Problems with known truths: each truth against another kind of computation."""

import itertools
import math

import numpy as np
import pytest
from conftest import load_experiment
from scipy import integrate, spatial, special, stats

problems = load_experiment("problems")
problems.MONTE_CARLO_DRAWS = 200_000  # as many as the tests' errors allow
ALL = problems.problems()


def family(name):
    return [problem for problem in ALL if problem.family == name]


def gaussian_nats(x, z):
    """Estimate the mutual information of Gaussian samples by determinants of correlations."""
    d = x.shape[1]
    correlation = np.corrcoef(np.concatenate([x, z], axis=1), rowvar=False)
    parts = (correlation[:d, :d], correlation[d:, d:], correlation)
    x_part, z_part, joint = (np.linalg.slogdet(np.atleast_2d(part))[1] for part in parts)
    return 0.5 * (x_part + z_part - joint) - d**2 / 2 / len(x)  # without bias


def normal_scores(x):
    """Map each column to normal scores, which inverts any increasing map of normal columns."""
    return special.ndtri((stats.rankdata(x, axis=0) - 0.5) / len(x))


def agrees(pointwise, problem):
    """Tell whether the mean of ln p(x, z) / (p(x) p(z)), (n,), is the truth within its error."""
    error = math.hypot(pointwise.std() / math.sqrt(len(pointwise)), problem.truth_stderr)
    return abs(pointwise.mean() - problem.truth_nats) < 4 * error and error < 0.02


def test_find_returns_each_problem_and_every_family_has_both_halves():
    assert all(problems.find(problem.name) is problem for problem in ALL)  # names are unique
    with pytest.raises(ValueError, match="no problem 'nonsense'"):
        problems.find("nonsense")
    assert not any("," in problem.name for problem in ALL)
    for name in {problem.family for problem in ALL}:
        assert {problem.held_out for problem in family(name)} == {True, False}, name


def test_problems_lists_without_monte_carlo(monkeypatch):
    monkeypatch.setattr(problems, "monte_carlo", lambda pointwise: 1 / 0)
    mixture = next(p for p in problems.problems.__wrapped__() if "mixture" in p.name)
    with pytest.raises(ZeroDivisionError):
        mixture.truth()


def test_draw_returns_paired_finite_samples_that_depend_on_the_seed_alone():
    for problem in ALL:
        x, z = problems.draw(problem, 10, seed=0)
        assert (x != problems.draw(problem, 10, seed=1)[0]).any(), problem.name
        for side, again in zip((x, z), problems.draw(problem, 10, seed=0), strict=True):
            assert (side == again).all(), problem.name
            assert len(side) == 10, problem.name
            assert side.dtype.kind in "if", problem.name
            assert np.isfinite(side).all(), problem.name


def test_sparse_dependence_is_in_two_columns_and_dense_in_all():
    x, z = problems.draw(problems.find("sparse gaussian d=25"), 50_000, seed=0)
    across = np.corrcoef(x, z, rowvar=False)[:25, 25:]
    assert np.diag(across)[:2] == pytest.approx([0.8, 0.8], abs=0.01)
    assert np.abs(across - np.diag([0.8, 0.8, *[0] * 23])).max() < 0.03
    x, z = problems.draw(problems.find("dense sparse gaussian d=25"), 50_000, seed=0)
    across = np.corrcoef(x, z, rowvar=False)[:25, 25:]
    assert np.linalg.svd(across)[1][:3] == pytest.approx([0.8, 0.8, 0], abs=0.05)
    assert np.abs(across).max() < 0.5


def test_truths_of_gaussian_and_rotated_pairs_and_of_increasing_maps():
    plain = [p for p in family("gaussian") + family("rotated") if "d=50" not in p.name]
    mapped = [p for p in ALL if p.family in ("monotone", "scale") or "wiggly" in p.name]
    mapped += [p for p in family("multimodal") if "bimodal" in p.name]
    for problem in plain + mapped:
        samples = problems.draw(problem, 30_000 if problem in plain else 10_000, seed=0)
        nats = gaussian_nats(*(samples if problem in plain else map(normal_scores, samples)))
        assert nats == pytest.approx(problem.truth_nats, abs=0.05), problem.name


def test_draw_has_the_marginals_of_the_names():
    _, z = problems.draw(problems.find("bimodal d=1 rho=0.75"), 20_000, seed=0)
    assert np.mean(z < 0) == pytest.approx(0.3, abs=0.02)
    assert np.mean(np.abs(z) < 0.3) < 0.03
    x, _ = problems.draw(problems.find("one row at 1e6 d=5 I=2"), 1000, seed=0)
    assert (x == 1e6).all(axis=1).sum() == 1
    _, z = problems.draw(problems.find("z^3 d=5 I=2"), 20_000, seed=0)
    assert np.mean(z**2) == pytest.approx(15, rel=0.1)  # E g⁶


def rotate_back(x, i, j):
    angle = -np.sum(x * x, axis=1) / x.shape[1]
    plane = (x[:, i] + 1j * x[:, j]) * np.exp(1j * angle)
    x = x.copy()
    x[:, i], x[:, j] = plane.real, plane.imag
    return x


@pytest.mark.parametrize("d", [3, 5, 25])
def test_spiral_truth(d):
    x, z = problems.draw(problems.find(f"spiral sparse d={d}"), 50_000, seed=0)
    assert gaussian_nats(x, z) < 0.9  # correlations miss a part of it
    nats = gaussian_nats(rotate_back(x, 0, 1), rotate_back(z, 1, 2))
    assert nats == pytest.approx(-math.log(1 - 0.8**2), abs=0.02)


def test_swiss_roll_and_banana_truths():
    x, z = problems.draw(problems.find("swiss roll rho=0.75"), 50_000, seed=0)
    radius = np.linalg.norm(x, axis=1, keepdims=True)
    unrolled = (radius * 21 / (1.5 * math.pi) - 1) / 2
    assert 0 < unrolled.min() < unrolled.max() < 1
    value = gaussian_nats(special.ndtri(unrolled), special.ndtri(z))
    assert value == pytest.approx(-0.5 * math.log(1 - 0.75**2), abs=0.02)
    x, z = problems.draw(problems.find("banana d=2 I=2"), 50_000, seed=0)
    x, z = (np.stack([v[:, 0], v[:, 1] - v[:, 0] ** 2], axis=1) for v in (x, z))
    assert gaussian_nats(x, z[:, ::-1]) == pytest.approx(2, abs=0.03)


@pytest.mark.parametrize("problem", family("student-t"), ids=lambda problem: problem.name)
def test_student_t_truth(problem):
    words = dict(word.split("=") for word in problem.name.split() if "=" in word)
    nu, d, nats = int(words["nu"]), int(words["d"]), float(words.get("I_gauss", 0))
    rho = math.sqrt(1 - math.exp(-2 * nats / d))
    shape = np.kron([[1, rho], [rho, 1]], np.eye(d))
    x, z = problems.draw(problem, 100_000, seed=0)
    marginal = stats.multivariate_t(shape=np.eye(d), df=nu)
    joint = stats.multivariate_t(shape=shape, df=nu).logpdf(np.concatenate([x, z], axis=1))
    assert agrees(joint - marginal.logpdf(x) - marginal.logpdf(z), problem)


@pytest.mark.parametrize("problem", family("additive noise"), ids=lambda problem: problem.name)
def test_additive_noise_truth(problem):
    epsilon = float(problem.name.split("=")[1])
    width = 2 * epsilon

    def density(z):
        return max(0.0, min(1.0, z + epsilon) - max(0.0, z - epsilon)) / width

    corners = [-epsilon, *sorted([epsilon, 1 - epsilon]), 1 + epsilon]
    entropy = sum(
        integrate.quad(lambda z: special.entr(density(z)), low, high)[0]
        for low, high in itertools.pairwise(corners)
    )
    assert problem.truth_nats == pytest.approx(entropy - math.log(width), abs=1e-6)
    x, z = problems.draw(problem, 10_000, seed=0)
    assert np.abs(z - x).max() == pytest.approx(epsilon, rel=0.01)
    assert x.mean() == pytest.approx(0.5, abs=0.02)


def average(log_density, z, nodes):
    """Compute the ln of the mean over nodes of a density, (n,), in blocks of z."""
    blocks = np.array_split(z, 20)
    parts = [special.logsumexp(log_density(block, nodes), axis=1) for block in blocks]
    return np.concatenate(parts) - math.log(len(nodes))


@pytest.mark.parametrize(
    ("name", "log_density"),
    [
        ("x^2 with noise 0.5", lambda z, x: stats.norm.logpdf(z, x**2, 0.5)),
        ("sin(4x) with noise 0.3", lambda z, x: stats.norm.logpdf(z, np.sin(4 * x), 0.3)),
        ("noise of scale |x|", lambda z, x: stats.norm.logpdf(z, 0, np.sqrt(0.1 + x**2))),
        (
            "cross with noise 0.3",
            lambda z, x: np.log(sum(stats.norm.pdf(z, sign * x, 0.3) / 2 for sign in (1, -1))),
        ),
    ],
)
def test_function_truth(name, log_density):
    problem = problems.find(name)
    x, z = problems.draw(problem, 20_000, seed=0)
    nodes = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    given = log_density(z, x)[:, 0]
    assert agrees(given - average(log_density, z, nodes), problem)


def test_circle_truth():
    problem = problems.find("circle with noise 0.1")
    x, z = problems.draw(problem, 20_000, seed=0)
    angles = 2 * math.pi * np.arange(400) / 400

    def around(at, nodes):
        return stats.norm.logpdf(at, nodes, 0.1)

    joint = average(
        lambda at, nodes: around(at[:, :1], np.cos(nodes)) + around(at[:, 1:], np.sin(nodes)),
        np.concatenate([x, z], axis=1),
        angles,
    )
    marginals = average(around, x, np.cos(angles)) + average(around, z, np.sin(angles))
    assert agrees(joint - marginals, problem)


@pytest.mark.parametrize(("clusters", "d"), [(4, 1), (3, 5)])
def test_mixture_truth(clusters, d):
    problem = problems.find(f"gaussian mixture clusters={clusters} d={d}")
    mixture = problems.Mixture.random(clusters, d, seed=clusters)
    covariances = [root @ root.T for root in mixture.roots]

    def log_density(values, columns):
        each = [
            stats.multivariate_normal(mean[columns], covariance[columns, columns]).logpdf(values)
            for mean, covariance in zip(mixture.means, covariances, strict=True)
        ]
        return special.logsumexp(each, axis=0) - math.log(clusters)

    x, z = problems.draw(problem, 40_000, seed=0)
    joint = log_density(np.concatenate([x, z], axis=1), np.s_[:])
    pointwise = joint - log_density(x, np.s_[:d]) - log_density(z, np.s_[d:])
    assert agrees(pointwise, problem)
    assert 0 < problem.truth_stderr < 3e-3


@pytest.mark.parametrize(
    ("kind", "classes", "strength", "form"),
    [("axes", 10, 2, " one-hot"), ("axes", 3, 2, ""), ("random", 10, 1, "")],
)
def test_label_truth_is_that_of_the_posterior_of_all_features(kind, classes, strength, form):
    problem = problems.find(f"labels {kind} classes={classes} s={strength}{form}")
    means = problems.directions(classes, 84) if kind == "random" else np.eye(classes, 84)
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


def table_nats(joint):
    return special.rel_entr(joint, joint.sum(0) * joint.sum(1, keepdims=True)).sum()


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


def latents_of_blobs(images):
    """Compute latents from images: ln of a bump is a parabola, given by three of its values."""
    centers, widths = [], []
    for axis in (2, 1):
        profile = np.log(images.astype(np.float64).sum(axis=axis))
        peak = profile.argmax(axis=1)
        low, mid, high = (profile[np.arange(len(profile)), peak + i] for i in (-1, 0, 1))
        bend = low - 2 * mid + high
        centers.append(peak + (low - high) / 2 / bend)
        widths.append((-bend) ** -0.5)
    uniform = [(centers[0] - 8) / 12, (centers[1] - 8) / 12, (np.mean(widths, axis=0) - 1.5) / 2.5]
    return special.ndtri(np.clip(np.stack(uniform, axis=1), 1e-9, 1 - 1e-9))


def latents_of_rectangles(images):
    """Compute latents from images: the edges are where the covered parts of pixels end."""
    centers, halves = [], []
    for axis in (2, 1):
        profile = images.max(axis=axis).astype(np.float64)
        covered = profile.sum(axis=1)
        full = (profile > 1 - 1e-6).argmax(axis=1)
        low = full - profile[np.arange(len(full)), full - 1]
        centers.append(low + covered / 2)
        halves.append(covered / 2)
    uniform = [*((c - 8) / 12 for c in centers), *((h - 2) / 5 for h in halves)]
    return special.ndtri(np.clip(np.stack(uniform, axis=1), 1e-9, 1 - 1e-9))


@pytest.mark.parametrize(
    ("draw", "recover", "width"),
    [("blobs", latents_of_blobs, 3), ("rectangles", latents_of_rectangles, 4)],
)
def test_images_determine_their_latents(draw, recover, width):
    latents = np.random.default_rng(0).standard_normal((2000, width))
    images = getattr(problems, draw)(latents)
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


def test_independent_samples_are_uncorrelated():
    for problem in family("independent"):
        assert problem.truth() == (0, 0)
        x, z = problems.draw(problem, 4000, seed=0)
        ranks = [stats.rankdata(side.reshape(len(side), -1), axis=0) for side in (x, z)]
        ranks = [side[:, side.std(axis=0) > 0][:, :50] for side in ranks]
        width = ranks[0].shape[1]
        across = np.corrcoef(*ranks, rowvar=False)[:width, width:]
        assert np.abs(across).max() < 6 / math.sqrt(len(x)), problem.name
