"""The experiment on statistics networks: its data, its plan, its tables, a small run."""

import math

import jax
import numpy as np
import pytest
from conftest import load_experiment, set_flags
from scipy import special

from mine_jax import MineConfig
from mine_jax.information_plane.durable_files import decode_rows

script = load_experiment("architectures")
data = load_experiment("architectures_data")
grids = load_experiment("architectures_grid")
tables = load_experiment("architectures_report")
NETWORKS = {network.name: network for network in grids.NETWORKS}


def test_draw_bars_places_and_turns_them_by_their_latents():
    latents = np.random.default_rng(0).standard_normal((500, 4))
    images = data.draw_bars(latents)
    assert images.shape == (500, 28, 28)
    assert (images.min(), images.max()) == (0, pytest.approx(1, abs=0.05))
    uniform = special.ndtr(latents)
    weight = images / images.sum(axis=(1, 2), keepdims=True)
    at = np.arange(28) + 0.5
    rows, columns = weight.sum(axis=2) @ at, weight.sum(axis=1) @ at
    np.testing.assert_allclose(rows, 8 + 12 * uniform[:, 0], atol=0.15)
    np.testing.assert_allclose(columns, 8 + 12 * uniform[:, 1], atol=0.15)
    down, right = at[None] - rows[:, None], at[None] - columns[:, None]
    of_rows = np.einsum("nij,ni->n", weight, down**2)
    of_columns = np.einsum("nij,nj->n", weight, right**2)
    mixed = np.einsum("nij,ni,nj->n", weight, down, right)
    angle = 0.5 * np.arctan2(2 * mixed, of_columns - of_rows)
    error = angle - 0.8 * math.pi * uniform[:, 2]
    assert np.abs((error + math.pi / 2) % math.pi - math.pi / 2).max() < 0.05
    length = np.sqrt(of_rows + of_columns)
    assert np.corrcoef(length, uniform[:, 3])[0, 1] > 0.99


def test_present_keeps_the_numbers_of_every_place_together():
    maps = np.random.default_rng(0).normal(size=(3, 6, 5, 2))
    shuffled = data.present(maps, "shuffled")
    assert (data.present(maps, "as is") == maps).all()
    assert (data.present(maps, "flattened") == maps.reshape(3, 60)).all()
    assert (shuffled != maps).any()
    places = maps.transpose(1, 2, 0, 3).reshape(30, -1).tolist()
    assert sorted(shuffled.transpose(1, 2, 0, 3).reshape(30, -1).tolist()) == sorted(places)
    with pytest.raises(ValueError, match=r"form must be one of .* got 'turned'"):
        data.present(maps, "turned")


def test_draw_synthetic_shows_the_same_latents_in_all_forms():
    samples = data.draw_synthetic(300, 2, 0, ("rectangle", "bar"))
    x, z = data.latent_pairs(300, 2, 0)
    assert {name: sample.dims for name, sample in samples.items()} == {
        **{"vector": 1, "wide vector": 1},
        **{"rectangle as is": 2, "rectangle flattened": 1, "rectangle shuffled": 2},
        **{"bar as is": 2, "bar flattened": 1, "bar shuffled": 2},
    }
    assert {sample.truth_nats for sample in samples.values()} == {2}
    wide = samples["wide vector"].pair.z.measured
    assert wide.shape == (300, data.WIDE_COLUMNS)
    np.testing.assert_allclose(wide @ data.wide_map().T, z)  # the map is orthonormal
    assert (samples["vector"].pair.x.measured == x).all()
    assert (samples["bar as is"].pair.x.measured[..., 0] == data.draw_bars(x)).all()
    assert (data.latent_pairs(300, 2, 1)[0] != x).any()


def test_latent_pairs_share_the_wanted_nats():
    x, z = data.latent_pairs(100_000, 2, 0)
    correlations = [np.corrcoef(x[:, i], z[:, i])[0, 1] for i in range(data.NUM_LATENTS)]
    nats = -np.log1p(-np.square(correlations)).sum() / 2
    assert nats == pytest.approx(2, abs=0.02)


def test_add_noise_leaves_the_wanted_nats():
    values = np.random.default_rng(0).normal(size=(500, 5, 5, 2)).astype(np.float32)
    layer = data.add_noise(values, 3.0, jax.random.key(0))
    assert layer.nats == pytest.approx(3.0, abs=0.2)
    assert layer.stderr < 0.1
    samples = data.draw_noisy(layer, "conv", 0)
    assert list(samples) == ["conv as is", "conv flattened", "conv shuffled"]
    x, z = (side.measured for side in samples["conv as is"].pair[:2])
    assert (z - x).std() == pytest.approx(layer.noise_std, rel=0.02)
    assert (samples["conv flattened"].pair.z.measured == z.reshape(500, -1)).all()
    assert (samples["conv shuffled"].pair.z.measured == data.present(z, "shuffled")).all()
    assert (data.draw_noisy(layer, "conv", 1)["conv as is"].pair.z.measured != z).any()


def test_solve_noise_std_out_of_reach_names_flag_and_range():
    with pytest.raises(ValueError, match=r"--layer_nats=9 is out of reach.* from 0\.1 to 5 nats"):
        data.solve_noise_std(lambda noise_std: 0.1 if noise_std > 10 else 5.0, 9, 1.0)


def test_draw_observed_pairs_noisy_with_noiseless_samples():
    values = np.random.default_rng(0).normal(size=(300, 4, 4, 4)).astype(np.float32)
    layer = data.Layer(values, 2.0, 1.5, 0.1)
    sample = data.draw_observed(layer, "conv2", 0)["conv2 observed"]
    assert (sample.dims, sample.truth_nats, sample.prepared) == (2, 1.5, True)
    noisy = sample.pair.x
    noise = noisy.measured - noisy.noiseless
    assert noise.std() == pytest.approx(noisy.noise_std, rel=0.02)
    assert sample.pair.z.noiseless is None
    other = data.draw_observed(layer, "conv2", 1)["conv2 observed"].pair.x
    assert np.abs(other.measured - other.noiseless - noise).mean() > noisy.noise_std / 2


def test_prepare_pair_gives_each_family_its_samples():
    pair = data.draw_synthetic(200, 2, 0, ("rectangle",))["rectangle as is"].pair
    raw = script.prepare_pair(pair, NETWORKS["concatenated, as published"]).x.measured
    assert raw.shape == (200, 784)
    np.testing.assert_allclose(raw.mean(axis=0), 0, atol=1e-5)
    # Every pixel that varies has unit variance.
    np.testing.assert_allclose(np.square(raw).mean(axis=0)[raw.any(axis=0)], 1, atol=1e-3)
    images = script.prepare_pair(pair, NETWORKS["convolutional, trained as published"])
    assert images.z.measured.shape == (200, 28, 28, 1)
    prepared = script.prepare_pair(pair, NETWORKS["separable (default)"])
    assert prepared.x.measured.ndim == 2
    assert prepared.x.measured.shape == prepared.z.measured.shape != raw.shape


def test_mine_config_published_has_the_width_of_the_architecture():
    base = grids.Architecture(8, 3)
    config = script.mine_config(NETWORKS["concatenated, as published"], base, 784, 100)
    assert config == MineConfig.published(hidden=8, depth=3, max_steps=100)
    convolutional = NETWORKS["convolutional"]
    assert script.mine_config(convolutional, base, 400, 100).gaussian_start
    assert not script.mine_config(convolutional, base, 1600, 100).gaussian_start


def test_measure_fits_equal_samples_once(monkeypatch):
    fitted = []

    def stub(pairs, **_):
        fitted.extend(pairs)
        return dict.fromkeys(pairs)

    monkeypatch.setattr(script.estimate, "lower_bounds", stub)
    monkeypatch.setattr(script, "make_row", lambda job, name, *_: name)
    samples = data.draw_synthetic(100, 2, 0, ("bar",))
    network = NETWORKS["concatenated, as published"]
    names = ("bar as is", "bar flattened", "vector")
    job = grids.Job("synthetic", 2, 0, network, grids.FULL.base, names)
    assert list(script.measure([job], samples, 10)) == [list(names)]
    assert fitted == ["bar as is", "vector"]


def test_plan_jobs_gives_every_row_one_key():
    jobs = grids.plan_jobs(grids.FULL, grids.PARTS, 2, 3.0)
    keys = [job.row_key(name) for job in jobs for name in job.data]
    assert len(set(keys)) == len(keys)
    convolved = {name for job in jobs if job.network.convolves for name in job.data}
    assert convolved == {
        f"{name} {form}" for name in ("rectangle", "bar", "conv2") for form in ("as is", "shuffled")
    }
    observed = {job.network.name for job in jobs if any("observed" in name for name in job.data)}
    assert observed == {"separable (default)", "concatenated"}
    varied = {job.nats for job in jobs if job.architecture != grids.FULL.base}
    assert varied == {grids.FULL.middle, 3.0}
    layers = grids.plan_jobs(grids.FULL, ["layers"], 1, 3.0)
    assert {job.part for job in layers} == {"layers"}


def make_row(name="vector", network="concatenated", nats=2.0, seed=0, **values):
    part = "layers" if name.startswith(("conv", "relu")) else "synthetic"
    dims = 2 if name.endswith(("as is", "shuffled")) else 1
    row = {"part": part, "data": name, "dims": dims, "n": 1000, "nats_wanted": 2, "seed": seed}
    row |= {"network": network, "hidden": 128, "depth": 2, "truth_nats": 2.0, "truth_stderr": 0.01}
    return row | {"nats": nats, "converged": True} | values


def test_summarize_computes_error_and_spreads():
    rows = [
        make_row(nats=1.8),
        make_row(nats=2.0, seed=1),
        make_row(nats=1.6, hidden=64),
        make_row("bar as is", nats=1.0),
        make_row("bar as is", nats=None, seed=1),
    ]
    vector, bar = tables.summarize(rows, grids.FULL.base)
    assert vector["error"] == pytest.approx(-5)
    assert vector["over_seeds"] == pytest.approx(10 / math.sqrt(2))
    # Over the seed that both architectures have.
    assert vector["over_architectures"] == pytest.approx(10 / math.sqrt(2))
    assert bar["error"] == pytest.approx(-50)
    assert math.isnan(bar["over_seeds"])
    assert math.isnan(bar["over_architectures"])


def test_report_shows_errors_spreads_and_changes():
    nats = {"vector": 2.0, "wide vector": 1.9, "bar flattened": 1.7, "bar as is": 1.6, "relu3": 1.5}
    rows = [
        make_row(name, "concatenated", value + 0.1 * seed, seed)
        for name, value in nats.items()
        for seed in (0, 1)
    ]
    rows += [make_row("bar as is", "convolutional", 1.6, seed) for seed in (0, 1)]
    rows.append(make_row(nats=1.0, nats_wanted=1, truth_nats=1.0))
    text = tables.report(rows, grids.FULL)
    for line in (
        "| data | shape | concatenated | convolutional |",
        "| vector | 1-D | +2.5 / 3.5 / – | – |",
        "| bar as is | 2-D | −17.5 / 3.5 / – | −20.0 / 0.0 / – |",
        "| relu3 | 1-D | −22.5 / 3.5 / – | – |",
        "| **mean of 1-D, absolute error** | 1-D | 10.0 / 3.5 / – | – |",
        "| vector of 4 | +0.0 / +2.5 / – | – |",
        "| dimension: 784 columns − 4 | – / −5.0 / – | – |",
        "| bar: 2-D − flattened | – / −5.0 / – | – |",
        "relu3 2.00 ± 0.01",
        "0 not converged, 0 not finite",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 10}, "--n must be at least 100, got 10"),
        ({"seeds": 0, "epochs": -1}, "--seeds must be at least 1, got 0; --epochs must be at"),
        ({"layer_nats": 0.0}, r"--layer_nats must be in \(0, ln n\) = .*, got 0.0"),
        ({"n": 100, "layer_nats": 5.0}, r"--layer_nats must be in .* = \(0, 4.61\), got 5.0"),
        ({"parts": ["synthetic", "more"]}, "--parts has more; choose from synthetic, layers"),
    ],
)
def test_flag_values_wrong_flags_are_named(values, message):
    with set_flags(script, **values), pytest.raises(ValueError, match=message):
        script.flag_values()


@pytest.mark.usefixtures("compile_fast")
@pytest.mark.filterwarnings("ignore:.*ends in half a line")
def test_experiment_resumed_measures_the_missing_rows(tmp_path, capsys, monkeypatch):
    small = grids.QUICK._replace(
        base=grids.Architecture(8, 1), variants=(), networks=grids.QUICK.networks[:1], max_steps=20
    )
    monkeypatch.setattr(script, "QUICK", small)
    monkeypatch.setattr(script.jax, "clear_caches", lambda: None)  # other tests need them
    values = {"out_dir": str(tmp_path), "quick": True, "n": 200, "seeds": 1}
    values |= {"parts": ["layers"], "platform": "cpu"}
    path = tmp_path / "rows.jsonl"
    with set_flags(script, **values):
        script.experiment()
        last_line = (tmp_path / "architectures.md").read_text().splitlines()[-1]
        assert last_line in capsys.readouterr().out
        lines = path.read_text().splitlines(keepends=True)
        rows = decode_rows("".join(lines)).rows
        assert [row["data"] for row in rows] == [f"conv2 {form}" for form in data.FORMS]
        assert all(row["nats"] < row["ceiling_nats"] + 1e-6 for row in rows)

        path.write_text("".join(lines[:-2]) + lines[-2][:20])
        (tmp_path / "architectures.png").unlink()
        missing = []

        def measure_all(jobs, *_):
            missing.extend(name for job in jobs for name in job.data)
            yield rows[1:]

        monkeypatch.setattr(script, "measure_all", measure_all)
        script.FLAGS.resume = True
        script.experiment()
    assert missing == ["conv2 flattened", "conv2 shuffled"]
    assert decode_rows(path.read_text()).rows == rows
    assert (tmp_path / "architectures.png").exists()
