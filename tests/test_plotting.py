"""Figures: what is drawn, what is refused, and how files are written."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from mine_jax.information_plane import plotting

LAYERS = ("conv1", "conv2", "relu3", "soft$max$")
CONFIG = {
    "dataset": "mnist",
    "probe_size": 10_000,
    "report_size": 4_000,
    "seed": 7,
    "num_classes": 10,
    "class_entropy_nats": 2.3017,
    "notice": "",
}
TRAINING = [
    {"epoch": 0, "train_loss": None, "test_accuracy": None, "seconds": 0.0},
    {"epoch": 4, "train_loss": 0.1, "test_accuracy": 0.96, "seconds": 1.0},
    {"epoch": 8, "train_loss": 0.05, "test_accuracy": 0.98, "seconds": 1.0},
]


def make_records(epochs=(0, 4, 8), seeds=(7,), layers=LAYERS, y=2.0, exact=False):
    return [
        {
            "seed": seed,
            "epoch": epoch,
            "layer": layer,
            "variable": variable,
            "mi_nats": value + 0.01 * epoch + 0.02 * i + 0.003 * seed,
            "stderr": 0.01,
            "train_nats": value,
            "ceiling_nats": math.log(4_000),
            "reference_nats": value + 0.1 if exact else None,
            "steps": 100,
            "converged": True,
            "warm_start": epoch > 0,
            "seconds": 1.0,
            "warnings": [],
        }
        for seed in seeds
        for epoch in epochs
        for i, layer in enumerate(layers)
        for variable, value in (("x", 6.0), ("y", y))
    ]


def figures(records, training=TRAINING, config=CONFIG):
    plane = plotting._plane_figure(records, config)
    return plane, plotting._epochs_figure(records, training, config)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def all_text(figure: Figure) -> str:
    return " ".join("\n".join(texts(figure)).split())


def boxes(figure: Figure, names) -> list:
    figure.draw_without_rendering()
    found = [text for text in figure.axes[0].texts if text.get_text() in names]
    # Of an annotation, the words alone: its whole extent includes the point that it names.
    return [Text.get_window_extent(text) for text in found]


@pytest.mark.parametrize("suffix", [".png", ""])
def test_writes_png_files(tmp_path, suffix):
    plane, epochs = tmp_path / f"plane{suffix}", tmp_path / f"epochs{suffix}"
    plotting.information_plane(make_records(), CONFIG, plane)
    plotting.mi_over_epochs(make_records(), TRAINING, CONFIG, str(epochs))
    for path in (plane, epochs):
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        width = int.from_bytes(data[16:20], "big")
        assert width >= 200 * 3.4
    assert sorted(tmp_path.iterdir()) == sorted([plane, epochs])


def test_failed_drawing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "plane.png"
    path.write_bytes(b"old")

    def half_written(self, file, **_):
        file.write_bytes(b"\x89PNG, and then nothing")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half_written)
    for draw in (
        lambda: plotting.information_plane(make_records(), CONFIG, path),
        lambda: plotting.mi_over_epochs(make_records(), TRAINING, CONFIG, path),
    ):
        with pytest.raises(OSError, match="disk full"):
            draw()
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_refuses_empty_records(tmp_path):
    with pytest.raises(ValueError, match="records is empty"):
        plotting.information_plane([], CONFIG, tmp_path / "plane.png")
    with pytest.raises(ValueError, match="records is empty"):
        plotting.mi_over_epochs([], TRAINING, CONFIG, tmp_path / "epochs.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["seed", "layer", "mi_nats", "reference_nats", "converged"])
def test_names_the_missing_key_of_a_record(key):
    records = make_records()
    del records[3][key]
    for draw in (
        lambda: plotting._plane_figure(records, CONFIG),
        lambda: plotting._epochs_figure(records, TRAINING, CONFIG),
    ):
        with pytest.raises(ValueError, match=rf"records\[3\] lacks {key};"):
            draw()


def test_names_missing_keys_of_config_and_training():
    config = {key: CONFIG[key] for key in CONFIG if key not in ("notice", "probe_size")}
    with pytest.raises(ValueError, match="config lacks probe_size, notice;"):
        plotting._plane_figure(make_records(), config)
    with pytest.raises(ValueError, match=r"training\[0\] lacks test_accuracy;"):
        plotting._epochs_figure(make_records(), [{"epoch": 1}], CONFIG)


def test_refuses_unknown_variable():
    records = [{**make_records()[0], "variable": "z"}]
    with pytest.raises(ValueError, match=r"records\[0\]: variable is 'z'"):
        plotting._plane_figure(records, CONFIG)


def test_names_layers_limits_and_circumstances():
    records = make_records()
    records[0]["converged"] = False
    config = {**CONFIG, "notice": "The 5,000 embedded images were used in place of MNIST."}
    for figure in figures(records, config=config):
        words = all_text(figure)
        assert set(LAYERS) <= set(texts(figure))
        assert not any(t.get_parse_math() for t in figure.findobj(Text) if t.get_text() in LAYERS)
        for part in (
            config["notice"],
            "H(Y) 2.30",
            "ceiling ln 4,000 = 8.29",
            "mnist; n = 10,000 samples, values from 4,000 of them; seed 7.",
            "Not converged: 1 of 24 estimates.",
        ):
            assert part in words
    plane, epochs = figures(records)
    assert plane.get_suptitle() == epochs.get_suptitle() == ""


def test_paths_are_the_values_in_order_of_epochs():
    records = make_records(epochs=(8, 0, 4))
    plane, epochs = figures(records)
    of = {
        variable: [
            6.0 + 0.01 * e + 0.02 + 0.021 if variable == "x" else 2.041 + 0.01 * e
            for e in (0, 4, 8)
        ]
        for variable in "xy"
    }
    wanted = np.array([of["x"], of["y"]]).T
    drawn = [np.asarray(line.get_xydata()) for line in plane.axes[0].lines]
    assert any(line.shape == wanted.shape and np.allclose(line, wanted) for line in drawn)
    for ax, variable in zip(epochs.axes, "xy", strict=False):
        wanted = np.array([(0, 4, 8), of[variable]]).T
        drawn = [np.asarray(line.get_xydata()) for line in ax.lines]
        assert any(line.shape == wanted.shape and np.allclose(line, wanted) for line in drawn)


def test_accuracy_panel_has_known_epochs_only():
    _, epochs = figures(make_records())
    assert len(epochs.axes) == 3
    np.testing.assert_allclose(epochs.axes[2].lines[0].get_xydata(), [[4, 96], [8, 98]])
    _, epochs = figures(make_records(), TRAINING[:1])
    assert len(epochs.axes) == 2


def test_single_probe(tmp_path):
    records = make_records(epochs=(0,))
    plotting.information_plane(records, CONFIG, tmp_path / "plane.png")
    plotting.mi_over_epochs(records, TRAINING[:1], CONFIG, tmp_path / "epochs.png")
    assert len(list(tmp_path.iterdir())) == 2
    for figure in figures(records, TRAINING[:1]):
        assert set(LAYERS) <= set(texts(figure))
        assert "Epoch 0 only." in all_text(figure)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, None])
def test_leaves_out_what_is_not_finite(tmp_path, bad):
    records = make_records()
    for row in records[:3]:
        row["mi_nats"] = bad
    for row in records:
        row["mi_nats"] = bad if row["layer"] == "conv2" else row["mi_nats"]
        row["stderr"] = row["ceiling_nats"] = row["reference_nats"] = bad
    for figure in figures(records):
        assert "No finite value to draw: conv2." in all_text(figure)
        assert "exact value" not in texts(figure)
        paths = [line for line in figure.axes[0].lines if line.get_linestyle() != "None"]
        assert max(len(line.get_xydata()) for line in paths) == 3
        assert all(np.isfinite(np.asarray(line.get_xydata(), float)).all() for line in paths)
    for row in records:
        row["mi_nats"] = bad
    plotting.information_plane(records, CONFIG, tmp_path / "plane.png")
    plotting.mi_over_epochs(records, TRAINING, CONFIG, tmp_path / "epochs.png")


def test_exact_values_are_drawn_and_explained():
    for figure in figures(make_records(exact=True)):
        assert "exact value" in texts(figure)
    for figure in figures(make_records()):
        assert "exact value" not in texts(figure)
    plane = plotting._plane_figure(make_records(exact=True), CONFIG)
    wanted = [[6.1, 2.1]] * 3
    assert any(np.array_equal(line.get_xydata(), wanted) for line in plane.axes[0].lines)


def moving_truths():
    records = make_records(exact=True)
    for row in records:
        row["reference_nats"] += 0.02 * row["epoch"] + 0.05 * LAYERS.index(row["layer"])
    return records


def test_the_exact_path_is_dashed_and_hollow_beside_the_estimated_one():
    ax = plotting._plane_figure(moving_truths(), CONFIG).axes[0]
    for i in range(len(LAYERS)):
        at = 0.02 * np.array([0, 4, 8]) + 0.05 * i
        truth = np.stack([6.1 + at, 2.1 + at], -1)
        lines = [line for line in ax.lines if np.shape(line.get_xydata()) == truth.shape]
        (line,) = (line for line in lines if np.allclose(line.get_xydata(), truth))
        assert line.is_dashed()
        markers = [m for m in ax.collections if np.allclose(m.get_offsets(), truth)]
        assert len(markers) == 1
        filled = [m for m in ax.collections if np.array_equal(_shape(m), _shape(markers[0]))]
        assert len(filled) == 2  # the same shape for the layer's estimates, in the same colours
        own = next(m for m in filled if m is not markers[0])
        np.testing.assert_array_equal(markers[0].get_edgecolors(), own.get_facecolors())
        np.testing.assert_array_equal(markers[0].get_facecolors(), [[1, 1, 1, 1]])


def _shape(collection):
    paths = collection.get_paths()
    return paths[0].vertices if len(paths) == 1 else np.zeros(0)


def test_exact_values_over_epochs_are_dashed_in_the_colour_of_their_layer():
    figure = plotting._epochs_figure(moving_truths(), TRAINING, CONFIG)
    for ax, start in zip(figure.axes[:2], (6.1, 2.1), strict=True):
        lines = [line for line in ax.lines if line.get_marker() in plotting._MARKERS]
        hollow = [line for line in lines if line.get_markerfacecolor() == "white"]
        filled = [line for line in lines if line.get_markerfacecolor() != "white"]
        assert len(hollow) == len(LAYERS)
        for i, line in enumerate(hollow):
            truth = start + 0.02 * np.array([0, 4, 8]) + 0.05 * i
            np.testing.assert_allclose(line.get_ydata(), truth)
            assert line.is_dashed()
        of_layers = [(line.get_color(), line.get_marker()) for line in hollow]
        assert set(of_layers) == {(line.get_color(), line.get_marker()) for line in filled}
        assert len(set(of_layers)) == len(LAYERS)


def test_the_legend_and_the_labels_above_the_plane_are_apart():
    records = moving_truths()
    for row in records:
        row["reference_nats"] *= 1.7 if row["variable"] == "x" else 1  # ceiling in the middle
    plane = plotting._plane_figure(records, {**CONFIG, "notice": "Something is to be said."})
    plane.draw_without_rendering()
    ax = plane.axes[0]
    (ceiling,) = (t for t in ax.texts if t.get_text().startswith("ceiling"))
    above = [ax.get_legend().get_window_extent(), Text.get_window_extent(ceiling)]
    above.append(next(t for t in plane.texts if "said" in t.get_text()).get_window_extent())
    for i, box in enumerate(above):
        assert not any(box.overlaps(other) for other in above[:i])


@pytest.mark.parametrize(
    ("noise", "unit"), [("relative", " × root mean variance"), ("absolute", "")]
)
def test_noise_is_named(noise, unit):
    config = {**CONFIG, "noise_std": 0.25, "noise": noise}
    for figure in figures(make_records(exact=True), config=config):
        words = all_text(figure)
        assert f"σ = 0.25{unit or '.'}" in words
        assert "Exact values: of the 10,000 samples alone." in words
        assert "I(X; T)" in words
        assert "I(Y; T)" in words
        assert "; L)" not in words
    for figure in figures(make_records(), config={**CONFIG, "noise_std": 0.0, "noise": noise}):
        assert "σ" not in all_text(figure)
        assert "I(X; L)" in all_text(figure)


def test_seeds_are_averaged_with_their_own_standard_error():
    values = np.array([[1.0, 5.0, np.nan], [3.0, np.nan, np.nan]])
    mean, stderr = plotting._over_seeds(values, np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]))
    np.testing.assert_allclose(mean, [2.0, 5.0, np.nan])
    np.testing.assert_allclose(stderr, [1.0, 0.2, 0.0])
    for figure in figures(make_records(seeds=(1, 2, 3))):
        assert "seeds 1, 2, 3. Bars and bands: ± 2 standard errors of" in all_text(figure)


def test_bands_are_two_standard_errors_of_the_mean_wide():
    records = make_records(seeds=(1, 2, 3))
    stderr = 0.003 / math.sqrt(3)
    plane, over_epochs = figures(records)
    bands = [c for c in plane.axes[0].collections if isinstance(c, PolyCollection)]
    assert len(bands) == len(LAYERS)
    corners = np.concatenate([path.vertices for path in bands[0].get_paths()])
    # Halfway between two epochs, and nearly two standard errors aside.
    halfway = np.array([6.026, 2.026])  # from 6.006, 2.006 to 6.046, 2.046
    off = halfway + 1.9 * stderr * np.array([1, -1])
    assert any(path.contains_point(off) for path in bands[0].get_paths())
    for column, value in enumerate((6.0, 2.0)):
        last = value + 0.01 * 8 + 0.003 * 2  # of epoch 8, the mean over seeds
        assert corners[:, column].max() == pytest.approx(last + 2 * stderr)
        # Between the epochs, too.
        drawn = over_epochs.axes[column].collections
        fill = next(c for c in drawn if isinstance(c, PolyCollection))
        (path,) = fill.get_paths()
        assert path.vertices[:, 1].max() == pytest.approx(last + 2 * stderr)
    plane, over_epochs = figures(make_records())
    for ax in (plane.axes[0], *over_epochs.axes):
        assert not [c for c in ax.collections if isinstance(c, PolyCollection)]


def test_names_are_apart_and_inside_even_where_paths_end_together():
    records = make_records()
    for row in records:  # every layer goes through the same points
        row["mi_nats"] = (6.0 if row["variable"] == "x" else 2.0) + 0.01 * row["epoch"]
    plane = plotting._plane_figure(records, CONFIG)
    found = boxes(plane, LAYERS)
    frame = plane.axes[0].get_window_extent()
    assert len(found) == len(LAYERS)
    for i, box in enumerate(found):
        assert frame.contains(box.x0, box.y0)
        assert frame.contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in found[:i])


def test_axis_stretches_only_when_values_are_squeezed_near_class_entropy():
    squeezed = make_records(epochs=(0, 4, 8, 12), y=2.18)
    for row in squeezed:
        if row["epoch"] == 0 and row["variable"] == "y":
            row["mi_nats"] = 1.0
    for figure in figures(squeezed):
        ax = next(ax for ax in figure.axes if "I(Y; L)" in ax.get_ylabel())
        assert "stretched near H(Y)" in ax.get_ylabel()
        low, high = ax.get_ylim()
        assert low < 1.0
        assert high > CONFIG["class_entropy_nats"]
        at = ax.transData.transform([(0, low), (0, 2.2), (0, high)])[:, 1]
        assert (at[1] - at[0]) / (at[2] - at[0]) < 0.75  # it would be 0.92 unstretched
    for figure in figures(make_records(y=0.5)):
        ax = next(ax for ax in figure.axes if "I(Y; L)" in ax.get_ylabel())
        assert "stretched" not in ax.get_ylabel()
        assert ax.get_yscale() == "linear"
        assert ax.get_ylim()[1] > CONFIG["class_entropy_nats"]


def test_distant_ceiling_is_announced_but_does_not_squeeze_the_values():
    records = make_records()
    for row in records:
        row["mi_nats"] /= 3
    plane, epochs = figures(records)
    assert plane.axes[0].get_xlim()[1] < 4
    assert epochs.axes[0].get_ylim()[1] < 4
    assert "ceiling ln 4,000 = 8.29 →" in texts(plane)
    assert "↑ ceiling ln 4,000 = 8.29" in all_text(epochs)


def test_matplotlib_comes_with_plotting_alone_and_pyplot_never():
    code = (
        "import sys, mine_jax; print('matplotlib' in sys.modules);"
        "import mine_jax.information_plane.plotting; print('matplotlib.pyplot' in sys.modules)"
    )
    root = Path(plotting.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["False", "False"]


def growth_rows():
    return [
        {
            "what": what,
            "size": size,
            "value": value,
            "milliseconds": 2.0 * value,
            "fastest": 1.9 * value,
            "slowest": 2.5 * value,
            "mebibytes": 3.0 + value,
        }
        for size in ("samples n", "batch")
        for what in ("step", "judging")
        for value in (10, 100, 1000)
        if (what, size) != ("judging", "batch")
    ]


def test_growth_is_drawn_for_every_size(tmp_path):
    plotting.growth(growth_rows(), tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="mebibytes"):
        plotting.growth([{"what": "step"}], tmp_path / "no.png")
