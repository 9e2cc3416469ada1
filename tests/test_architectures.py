"""The experiment on statistics networks: its data, its tables, its figure, and what it refuses."""

import json
import math
from functools import partial

import jax
import numpy as np
import pytest
from conftest import load_experiment, run_experiment
from matplotlib.text import Text
from scipy import special

from mine_jax import estimator
from mine_jax.information_plane import exact, plotting

architectures = load_experiment("architectures")
run = partial(run_experiment, "architectures")


def latents(n=500, seed=0):
    return np.random.default_rng(seed).standard_normal((n, architectures.LATENTS))


# --- Data ---------------------------------------------------------------------------------------


def test_bars_are_where_their_latents_say():
    drawn = latents()
    images = architectures.bars(drawn)
    assert images.shape == (500, 28, 28)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() <= 1
    share = special.ndtr(drawn)
    weight = images / images.sum(axis=(1, 2), keepdims=True)
    at = np.arange(28) + 0.5
    rows, columns = weight.sum(axis=2) @ at, weight.sum(axis=1) @ at
    np.testing.assert_allclose(rows, 8 + 12 * share[:, 0], atol=0.15)
    np.testing.assert_allclose(columns, 8 + 12 * share[:, 1], atol=0.15)
    down, right = at[None] - rows[:, None], at[None] - columns[:, None]
    of_rows = np.einsum("nij,ni->n", weight, down**2)
    of_columns = np.einsum("nij,nj->n", weight, right**2)
    both = np.einsum("nij,ni,nj->n", weight, down, right)
    angle = 0.5 * np.arctan2(2 * both, of_columns - of_rows)
    apart = angle - 0.8 * math.pi * share[:, 2]
    assert np.abs((apart + math.pi / 2) % math.pi - math.pi / 2).max() < 0.05
    half = np.sqrt(3 * (of_rows + of_columns))
    assert np.corrcoef(half, share[:, 3])[0, 1] > 0.99


def test_the_wide_map_is_orthonormal():
    wide = architectures.wide_map()
    assert wide.shape == (architectures.LATENTS, architectures.WIDE_COLUMNS)
    np.testing.assert_allclose(wide @ wide.T, np.eye(len(wide)), atol=1e-12)
    assert (wide == architectures.wide_map()).all()


def test_the_forms_hold_the_same_numbers():
    maps = np.random.default_rng(0).normal(size=(3, 6, 5, 2))
    flattened = architectures.presented(maps, "flattened")
    shuffled = architectures.presented(maps, "shuffled")
    assert (architectures.presented(maps, "as is") == maps).all()
    assert (flattened == maps.reshape(3, 60)).all()
    assert shuffled.shape == maps.shape
    assert (shuffled != maps).any()
    # The same place of every sample, with its channels, goes to the same other place.
    places = maps.transpose(1, 2, 0, 3).reshape(30, -1).tolist()
    assert sorted(shuffled.transpose(1, 2, 0, 3).reshape(30, -1).tolist()) == sorted(places)
    with pytest.raises(ValueError, match=r"form must be one of .* got 'turned'"):
        architectures.presented(maps, "turned")


def test_all_forms_come_from_the_same_latents():
    samples = architectures.synthetic(300, 2, 0, architectures.SHAPES)
    x, z = architectures.latent_pairs(300, 2, 0)
    assert list(samples) == [
        *("vector", "wide vector", "rectangle as is", "rectangle flattened"),
        *("rectangle shuffled", "bar as is", "bar flattened", "bar shuffled"),
    ]
    assert [sample.dims for sample in samples.values()] == [1, 1, 2, 1, 2, 2, 1, 2]
    assert {sample.truth_nats for sample in samples.values()} == {2}
    np.testing.assert_allclose(samples["wide vector"].z @ architectures.wide_map().T, z)
    assert (samples["vector"].x == x).all()
    assert (samples["bar as is"].x[..., 0] == architectures.bars(x)).all()
    other, _ = architectures.latent_pairs(300, 2, 1)
    assert (x != other).any()


@pytest.mark.parametrize("nats", [1, 2, 4])
def test_the_latents_share_what_they_should(nats):
    x, z = architectures.latent_pairs(100_000, nats, 0)
    assert exact.gaussian(
        [np.corrcoef(x[:, i], z[:, i])[0, 1] for i in range(architectures.LATENTS)]
    ) == pytest.approx(nats, abs=0.02)


def test_the_noise_of_a_layer_leaves_what_is_asked_for():
    values = np.random.default_rng(0).normal(size=(500, 5, 5, 2)).astype(np.float32)
    layer = architectures.observed(values, 3.0, jax.random.key(0))
    assert layer.nats == pytest.approx(3.0, abs=0.2)
    assert layer.stderr < 0.1
    samples = architectures.noisy(layer, "conv", 0)
    assert list(samples) == ["conv as is", "conv flattened", "conv shuffled"]
    first = samples["conv as is"]
    assert (first.z - first.x).std() == pytest.approx(layer.noise_std, rel=0.02)
    assert (samples["conv flattened"].z == first.z.reshape(500, -1)).all()
    assert (samples["conv shuffled"].z == architectures.presented(first.z, "shuffled")).all()
    assert (architectures.noisy(layer, "conv", 1)["conv as is"].z != first.z).any()


def test_a_layer_of_vectors_has_one_form():
    x = latents(10)
    (name, sample), *others = architectures.in_forms("relu3", x, 2 * x, 3.0, 0.1).items()
    assert (name, sample.dims, sample.truth_nats, others) == ("relu3", 1, 3.0, [])
    assert (sample.z == 2 * sample.x).all()


def test_noise_that_cannot_be():
    with pytest.raises(ValueError, match=r"--layer_nats=9 is out of reach.* from 0\.1 to 5 nats"):
        architectures.noise_for(lambda noise_std: 0.1 if noise_std > 10 else 5.0, 9, 1.0)


def test_a_layer_as_the_main_job_observes_it():
    values = np.random.default_rng(0).normal(size=(300, 4, 4, 10)).astype(np.float32)
    layer = architectures.Layer(values, 2.0, 1.5, 0.1)
    made = architectures.as_observed(layer, "conv2", 0)["conv2 observed"]
    assert (made.dims, made.truth_nats, made.truth_stderr) == (2, 1.5, 0.1)
    assert made.x.shape == made.z.shape == (600, estimator.WIDE)
    # Two blocks: with the noise and without.
    assert made.x[:300].var() > 1.5 * made.x[300:].var()
    noise = made.x[:300] - made.x[300:]
    assert noise.std() == pytest.approx(made.level, rel=0.02)
    np.testing.assert_array_equal(made.z[:300], made.z[300:])
    other = architectures.as_observed(layer, "conv2", 1)["conv2 observed"]
    assert np.abs(other.x[:300] - other.x[300:] - noise).mean() > made.level / 2


def test_what_networks_take():
    sample = architectures.synthetic(200, 2, 0, ("rectangle",))["rectangle as is"]
    by_name = {network.name: network for network in architectures.NETWORKS}
    assert len(by_name) == 5
    prepared = architectures.inputs(sample, by_name["separable (default)"])
    assert estimator.choose_network(*prepared) == "separable"
    # Both sides on the axes of both, as lower_bound takes them.
    assert [side.shape[1] for side in prepared] == [10 + 2 * estimator.COMPONENTS] * 2
    raw, _ = architectures.inputs(sample, by_name["flat, as published"])
    assert raw.shape == (200, 784)
    np.testing.assert_allclose(raw.mean(axis=0), 0, atol=1e-5)
    assert np.square(raw).mean() == pytest.approx(1, abs=1e-4)
    _, shaped = architectures.inputs(sample, by_name["convolutional, raw"])
    assert shaped.shape == (200, 28, 28, 1)
    base = architectures.Architecture(8, 3)
    config = architectures.mine_config(by_name["flat, as published"], base, 784, 100)
    assert (config.network, config.bound, config.pairings) == ("flat", "donsker_varadhan", 1)
    assert (config.canonical, config.squares, config.average_decay) == (0, False, 0.0)
    assert (config.hidden, config.depth, config.cross_fit) == (8, 3, False)
    assert architectures.mine_config(by_name["convolutional"], base, 400, 100).gaussian_start
    assert not architectures.mine_config(by_name["convolutional"], base, 1600, 100).canonical


def test_the_plan():
    grid = architectures.FULL
    jobs = architectures.plan(grid, architectures.PARTS, 2, 3.0)
    keys = [job.key(name) for job in jobs for name in job.data]
    assert len(set(keys)) == len(keys)
    assert {job.part for job in jobs} == set(architectures.PARTS)
    shaped = {name for job in jobs if job.network.shaped for name in job.data}
    assert shaped == {
        f"{name} {form}"
        for name in (*architectures.SHAPES, "conv2")
        for form in ("as is", "shuffled")
    }
    flat = {name for job in jobs if not job.network.shaped for name in job.data}
    assert {"vector", "wide vector", "relu3", "conv2 flattened", "bar flattened"} <= flat
    observed = {job.network.name for job in jobs if any("observed" in name for name in job.data)}
    assert observed == {"separable (default)", "flat"}
    varied = {job.nats for job in jobs if job.architecture != grid.base}
    assert varied == {grid.middle, 3.0}
    only = architectures.plan(grid, ["layers"], 1, 3.0)
    assert {job.part for job in only} == {"layers"}


# --- Tables and figure --------------------------------------------------------------------------


def made_row(data="vector", network="flat", nats=2.0, seed=0, hidden=128, depth=2, **values):
    return {
        "part": "layers" if data.startswith(("conv", "relu")) else "synthetic",
        "data": data,
        "dims": 2 if data.endswith(("as is", "shuffled")) else 1,
        "n": 1000,
        "nats_wanted": 2,
        "network": network,
        "hidden": hidden,
        "depth": depth,
        "seed": seed,
        "truth_nats": 2.0,
        "truth_stderr": 0.01,
        "nats": nats,
        "converged": True,
    } | values


def test_the_summaries():
    rows = [
        made_row(nats=1.8),
        made_row(nats=2.0, seed=1),
        made_row(nats=1.6, hidden=64),
        made_row("bar as is", nats=1.0),
        made_row("bar as is", nats=None, seed=1),
    ]
    vector, bar = architectures.summaries(rows, architectures.FULL)
    assert (vector["data"], vector["dims"], vector["network"]) == ("vector", 1, "flat")
    assert vector["error"] == pytest.approx(-5)
    assert vector["over_seeds"] == pytest.approx(10 / math.sqrt(2))
    # Over the seed that both architectures have.
    assert vector["over_architectures"] == pytest.approx(10 / math.sqrt(2))
    assert bar["error"] == pytest.approx(-50)
    assert math.isnan(bar["over_seeds"])
    assert math.isnan(bar["over_architectures"])


def test_the_report():
    data = {"vector": 2.0, "wide vector": 1.9, "bar flattened": 1.7, "bar as is": 1.6}
    rows = [
        made_row(name, network, nats + shift * seed, seed=seed)
        for network, shift in (("flat", 0.1), ("convolutional", 0.0))
        for name, nats in (data | {"relu3": 1.5}).items()
        for seed in (0, 1)
        if network == "flat" or name == "bar as is"
    ]
    rows += [made_row(nats=1.0, nats_wanted=1, truth_nats=1.0, seed=0)]
    text = architectures.report(rows, architectures.FULL)
    for line in (
        "| data | shape | flat | convolutional |",
        "| vector | 1-D | +2.5 / 3.5 / – | – |",
        "| bar as is | 2-D | −17.5 / 3.5 / – | −20.0 / 0.0 / – |",
        "| relu3 | 1-D | −22.5 / 3.5 / – | – |",
        "| **mean of 1-D, without signs** | 1-D | 10.0 / 3.5 / – | – |",
        "| vector of 4 | +0.0 / +2.5 / – | – |",
        "| dimension: 784 columns − 4 | – / −5.0 / – | – |",
        "| bar: 2-D − flattened | – / −5.0 / – | – |",
        "Exact nats of the layers with noise: relu3 2.00 ± 0.01",
        "0 not converged, 0 not finite",
    ):
        assert line in text


def figure_rows():
    return [
        {
            "data": data,
            "dims": 2 if data.endswith("as is") else 1,
            "network": network,
            "error": -3.0 * place - 20 * i,
            "over_seeds": 0.5 + i,
            "over_architectures": math.nan if i else 2.0,
        }
        for place, data in enumerate(("conv1 as is", "vector", "$bar$ as is"))
        for i, network in enumerate(("flat", "convolutional"))
    ]


def test_the_figure(tmp_path):
    figure = plotting._architectures_figure(figure_rows())
    figure.draw_without_rendering()
    found = {text.get_text() for text in figure.findobj(Text)}
    assert {"vector  1-D", "conv1 as is  2-D", "$bar$ as is  2-D"} <= found
    assert {"flat", "convolutional", "error (% of the truth)"} <= found
    left, middle, right = figure.axes
    # Vectors first.
    assert left.get_yticklabels()[0].get_text() == "vector  1-D"
    assert len(left.containers) == 6
    points = [sum(len(line.get_xdata()) == 1 for line in ax.lines) for ax in (middle, right)]
    assert points == [6, 3]
    for ax in figure.axes:
        low, high = ax.get_xlim()
        assert all(
            low <= line.get_xdata()[0] <= high for line in ax.lines if len(line.get_xdata()) == 1
        )
    plotting.architectures(figure_rows(), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_rows_that_cannot_be_drawn():
    with pytest.raises(ValueError, match="rows is empty"):
        plotting.architectures([], "nowhere.png")
    row = {name: value for name, value in figure_rows()[0].items() if name != "error"}
    with pytest.raises(ValueError, match=r"rows\[0\] lacks error"):
        plotting.architectures([row], "nowhere.png")


# --- Runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--n=10",), "--n must be at least 100, got 10"),
        (("--seeds=0", "--epochs=-1"), "--seeds must be at least 1, got 0; --epochs must be at"),
        (("--layer_nats=0",), "--layer_nats must be positive and finite, got 0.0"),
        (("--n=100", "--layer_nats=5"), "--layer_nats must be below ln n = 4.61, got 5.0"),
        (("--parts=synthetic,more",), "--parts must be out of synthetic, layers, got"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, arguments, message):
    done = run(tmp_path / "run", *arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: {done.stderr.strip().removeprefix('error: ')}"]
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_quick_run_and_its_resumption(tmp_path):
    folder = tmp_path / "run"
    done = run(folder, "--quick")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert f"{len(rows)} values, {len(rows)} of them to measure" in done.stdout
    assert {row["data"] for row in rows if row["part"] == "synthetic"} == {
        *("vector", "wide vector", "rectangle as is", "rectangle flattened", "rectangle shuffled")
    }
    assert {row["data"] for row in rows if row["part"] == "layers"} == {
        *("conv2 as is", "conv2 flattened", "conv2 shuffled")
    }
    assert {row["network"] for row in rows} == {"flat, as published", "convolutional, raw"}
    assert all(row["n"] == 400 and row["nats"] < row["ceiling_nats"] + 1e-6 for row in rows)
    table = (folder / "architectures.md").read_text()
    assert table.strip() in done.stdout
    assert (folder / "architectures.png").stat().st_size > 10_000

    # Another data set in the place of what the network was trained on.
    config = json.loads((folder / "config.json").read_text())
    assert config["dataset_used"] == "mnist_5k"
    (folder / "config.json").write_text(json.dumps(config | {"dataset_used": "mnist"}))
    again = run(folder, "--quick", "--resume")
    assert again.returncode == 1
    assert "is mnist_5k now, but" in again.stderr
    assert "Traceback" not in again.stderr
    (folder / "config.json").write_text(json.dumps(config))
    # The last call, and a row that was cut off by a crash.
    last = [row for row in rows if row["part"] == "layers" and row["seed"] == 1][-2:]
    lines = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join(lines[: -len(last)]) + lines[-1][:20])
    (folder / "architectures.png").unlink()
    resumed = run(folder, "--quick", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{len(rows)} values, {len(last)} of them to measure" in resumed.stdout
    assert (folder / "architectures.png").exists()
