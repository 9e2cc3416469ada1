"""Problems as people bring them: each truth against another computation."""

import math

import numpy as np
import pytest
from image_latents import latents_of_bars, latents_of_blobs, latents_of_rectangles
from problem_checks import (
    agrees,
    family,
    gaussian_nats,
    normal_scores,
    problems,
    rotate_back,
    table_nats,
)
from problems import digits, samplers, wild_columns, wild_images
from problems.catalogue import draw
from scipy import special, stats


def names(kind):
    return [problem.name for problem in family(f"wild {kind}")]


def samples_of(name, n=20_000):
    problem = problems.find(name)
    return problem, *draw(problem, n, seed=0)


def widths(name):
    return {k: float(v) for k, v in (word.split("=") for word in name.split() if "=" in word)}


def test_each_kind_has_three_problems():
    kinds = [problem.family for problem in problems.problems() if problem.benchmark == "wild"]
    assert {kinds.count(kind) for kind in kinds} == {3, 6}  # images and digits are of two kinds
    assert len(kinds) == 36


# --- Digits ---------------------------------------------------------------------------------------


@pytest.fixture
def few_digits(monkeypatch):
    """4,000 images, the first pixel of which is their number; classes are not of one size."""
    labels = np.random.default_rng(0).choice(10, 4000, p=np.r_[[0.09] * 5, [0.11] * 5])
    images = np.zeros((4000, 28, 28), np.float32)
    images[:, 0, 0] = np.arange(4000)
    monkeypatch.setattr(digits, "load_digits", lambda data_dir: (images, labels))
    return labels


@pytest.mark.parametrize(
    ("name", "classes", "beta"),
    [
        ("digit pairs", range(10), 0.0),
        ("digit pairs beta=0.3", range(10), 0.3),
        ("digit pairs classes=3", (3, 5, 8), 0.0),
    ],
)
def test_digit_pairs_share_their_class_alone(few_digits, name, classes, beta):
    problem, x, z = samples_of(f"wild {name}")
    rows = np.concatenate([x[:, 0, 0], z[:, 0, 0]]).astype(int)
    assert len(set(rows)) == len(rows)  # no image is used twice
    available = np.isin(few_digits, classes).sum()
    assert 0.9 * available < len(rows) <= available
    x_classes, z_classes = np.split(few_digits[rows], 2)
    assert set(x_classes) == set(z_classes) == set(classes)
    assert np.mean(x_classes != z_classes) == pytest.approx(beta, abs=0.03)
    joint = np.full((len(classes),) * 2, beta / (len(classes) - 1)) / len(classes)
    np.fill_diagonal(joint, (1 - beta) / len(classes))
    assert problem.truth_nats == pytest.approx(table_nats(joint))
    assert problem.truth_is_upper
    fewer, _ = draw(problem, 100, seed=0)
    np.testing.assert_array_equal(fewer, x[:100])


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5])
def test_digits_and_labels(few_digits, beta):
    problem, x, z = samples_of("wild digits and labels" + f" beta={beta}" * bool(beta))
    rows = x[:, 0, 0].astype(int)
    assert sorted(rows) == list(range(4000))
    assert np.mean(few_digits[rows] != z) == pytest.approx(beta, abs=0.03)
    assert problem.truth_nats == pytest.approx(
        {0.0: math.log(10), 0.3: 1.033, 0.5: 0.511}[beta], abs=1e-3
    )


def test_digits_are_read_when_they_are_drawn(monkeypatch):
    def load_digits(data_dir):
        raise FileNotFoundError(data_dir)

    monkeypatch.setattr(digits, "load_digits", load_digits)
    listed = next(p for p in problems.problems.__wrapped__() if p.reads_digits)
    assert listed.truth_nats > 0
    with pytest.raises(FileNotFoundError, match="some folder"):
        draw(listed, 10, seed=0, data_dir="some folder")


def test_load_digits_reads_all_images_of_the_folder_or_the_subset(monkeypatch):
    images, labels = digits.load_digits.__wrapped__(None)
    assert images.shape == (5000, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10
    from mine_jax.lenet import datasets

    asked = []
    subset = datasets.load("mnist_5k")
    monkeypatch.setattr(datasets, "load", lambda *arguments: asked.append(arguments) or subset)
    digits.load_digits.__wrapped__("folder")
    assert asked == [("mnist", "folder")]


# --- Images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names("images"))
def test_truths_of_images_are_those_of_their_latents(name):
    problem, x, z = samples_of(name, 3000)
    assert x.shape == ((3000, 784) if "blobs I=1" in name else (3000, 28, 28))
    recover = {"bars": latents_of_bars, "blobs": latents_of_blobs}.get(
        name.split()[-2], latents_of_rectangles
    )
    images = [side.reshape(3000, 784) for side in (x, z)]
    if "shuffled" in name:
        places = wild_images._shuffle(np.arange(784).reshape(1, 28, 28)).ravel()
        assert np.mean(places == np.arange(784)) < 0.02
        images = [side[:, np.argsort(places)] for side in images]
    latents = [normal_scores(recover(side.reshape(-1, 28, 28))) for side in images]
    assert gaussian_nats(*latents) == pytest.approx(problem.truth_nats, abs=0.1)


# --- Columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names("embeddings"))
def test_embeddings_share_four_directions_of_little_variance(name):
    problem, x, z = samples_of(name, 10_000)
    d = int(widths(name)["d"])
    assert x.shape == z.shape == (10_000, d)
    x, z = (side @ samplers.orthogonal(d, seed).T for side, seed in ((x, 1), (z, 2)))
    assert gaussian_nats(x[:, :4], z[:, :4]) == pytest.approx(widths(name)["I"], abs=0.05)
    assert problem.truth_nats == widths(name)["I"]
    shared, total = x[:, :4].var(axis=0).sum(), x.var(axis=0).sum()
    assert shared / total < 0.01
    others = np.corrcoef(x[:, 4:], z, rowvar=False)[: d - 4, d - 4 :]
    assert np.abs(others).max() < 6 / math.sqrt(len(x))


@pytest.mark.parametrize("name", names("relu layer"))
def test_relu_layers_determine_their_inputs(name):
    problem, x, z = samples_of(name, 4000)
    d, units = int(widths(name)["d"]), int(widths(name)["units"])
    assert (x.shape, z.shape) == ((4000, d), (4000, units))
    assert (z.min(), np.mean(z == 0) > 0.2) == (0, True)
    weights = samplers.directions(units, d)
    inputs = np.stack(
        [np.linalg.lstsq(weights[row > 0], row[row > 0] - wild_columns.BIAS)[0] for row in z]
    )
    np.testing.assert_allclose(weights @ inputs.T + 0.5 > 0, z.T > 0)
    assert gaussian_nats(x, inputs) == pytest.approx(problem.truth_nats, abs=0.06)


@pytest.mark.parametrize("d", [2, 5])
def test_signs_of_products_are_balanced_and_no_column_tells_them(d):
    problem, x, z = samples_of(f"wild sign of a product d={d}")
    assert x.shape == (20_000, d)
    np.testing.assert_array_equal(z, x[:, 0] * x[:, 1] > 0)
    assert z.mean() == pytest.approx(0.5, abs=0.02)
    assert np.abs(np.corrcoef(x, z, rowvar=False)[-1, :-1]).max() < 0.03
    assert problem.truth_nats == pytest.approx(math.log(2))


def test_noisy_product_truth():
    problem, x, z = samples_of("wild product with noise 0.3")
    nodes = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    scales = np.hypot(nodes, 0.3)  # given one column, the noisy product is normal
    given = stats.norm.logpdf(z, x[:, :1] * x[:, 1:], 0.3)[:, 0]
    parts = [
        special.logsumexp(stats.norm.logpdf(part, 0, scales), axis=1)
        for part in np.array_split(z, 20)
    ]
    assert agrees(given - np.concatenate(parts) + math.log(1000), problem)


def test_integers_have_hundreds_of_values_and_the_truth_of_numbers():
    for name in names("integers"):
        problem = problems.find(name)
        assert problem.n == 2000
        x, z = draw(problem, 2000, seed=0)
        assert x.dtype.kind == "i"
        if "counts" not in name:
            assert 800 < len(np.unique(x)) < 1000
            assert z.dtype.kind == ("i" if name.endswith("x z") else "f")
            x, z = draw(problem, 50_000, seed=0)
            assert gaussian_nats(x, z) == pytest.approx(problem.truth_nats, abs=0.02)


def test_counts_truth():
    problem, x, z = samples_of("wild counts x")
    nodes = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)

    def log_probability(counts, at):
        return stats.poisson.logpmf(counts, np.exp(2 + 0.8 * at))

    parts = [
        special.logsumexp(log_probability(part, nodes), axis=1) for part in np.array_split(x, 20)
    ]
    given = log_probability(x, z)[:, 0]
    assert agrees(given - np.concatenate(parts) + math.log(1000), problem)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_copied_rows_are_ten_times_in_the_data(d):
    problem, x, z = samples_of(f"wild copied rows d={d} I=0.5")
    rows, counts = np.unique(np.concatenate([x, z], axis=1), axis=0, return_counts=True)
    assert (rows.shape, set(counts)) == ((2000, 2 * d), {10})
    assert gaussian_nats(rows[:, :d], rows[:, d:]) == pytest.approx(problem.truth_nats, abs=0.1)
    assert len(draw(problem, 15, seed=0)[0]) == 15


@pytest.mark.parametrize("name", names("series"))
def test_series_are_correlated_in_time_and_not_to_one_another(name):
    problem = problems.find(name)
    assert problem.truth_nats == 0
    across, variances = [], []
    for seed in range(60):
        x, z = draw(problem, 4000, seed)
        across.append(np.corrcoef(x[:, 0], z[:, 0])[0, 1])
        variances.append(x[:50, 0].var() + x[:50, 0].mean() ** 2)
        lagged = np.corrcoef(x[1:, 0], x[:-1, 0])[0, 1]
        assert lagged > 0.9
    assert abs(np.mean(across)) < 4 * np.std(across) / math.sqrt(60)
    if "0.99" in name:  # from the start with the variance that it keeps
        assert np.mean(variances) == pytest.approx(1 / (1 - 0.99**2), rel=0.5)


def test_sharp_edges_truths_add_over_columns():
    one, two = (problems.find(f"wild sharp edges d={d} eps=0.05").truth_nats for d in (1, 2))
    assert two == 2 * one == pytest.approx(2 * (0.05 - math.log(0.1)))
    _, x, z = samples_of("wild sharp edges d=2 eps=0.05")
    assert np.abs(z - x).max(axis=0) == pytest.approx(0.05, rel=0.01)
    assert (x.shape, x.mean()) == ((20_000, 2), pytest.approx(0.5, abs=0.01))


@pytest.mark.parametrize("d", [10, 25, 40])
def test_spiral_truths(d):
    problem, x, z = samples_of(f"wild spiral d={d}")
    nats = gaussian_nats(rotate_back(x, 0, 1), rotate_back(z, 1, 2))
    assert nats == pytest.approx(problem.truth_nats, abs=0.03)
