"""Figures of a run: what is drawn, what is refused, and how files are written."""

import itertools
import math
import re

import numpy as np
import pytest
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from mine_jax.information_plane import figures

LAYERS = ("conv1", "conv2", "relu3", "soft$max$")
EPOCHS = (0, 4, 8)
DESCRIPTION = {"dataset": "mnist", "probe_size": 10_000, "report_size": 4_000}
DESCRIPTION |= {"class_entropy_nats": 2.3017, "notice": ""}
TRAINING = [{"epoch": e, "test_accuracy": a} for e, a in ((0, None), (4, 0.96), (8, 0.98))]


def nats(variable, epoch, layer, seed=7):
    return {"x": 6.0, "y": 2.0}[variable] + 0.01 * epoch + 0.02 * layer + 0.003 * seed


def make_records(epochs=EPOCHS, seeds=(7,), reference=False):
    rows, places = [], itertools.product(seeds, epochs, enumerate(LAYERS), "xy")
    for seed, epoch, (i, layer), variable in places:
        value = nats(variable, epoch, i, seed)
        row = {"seed": seed, "epoch": epoch, "layer": layer, "variable": variable}
        row |= {"mi_nats": value, "reference_nats": value + 0.1 if reference else None}
        rows.append(row | {"stderr": 0.01, "ceiling_nats": math.log(4_000), "converged": True})
    return rows


def path_of(layer, seed=7):
    """The path through the plane, (epochs, 2)."""
    return np.array([[nats(variable, epoch, layer, seed) for variable in "xy"] for epoch in EPOCHS])


def draw(records, training=TRAINING, **description):
    description = DESCRIPTION | description
    plane = figures.information_plane(records, description)
    return plane, figures.mi_over_epochs(records, training, description)


def words(figure: Figure) -> str:
    texts = (text.get_text() for text in figure.findobj(Text))
    return " ".join("\n".join(texts).split())


def lines_of(ax, data):
    """The lines with exactly these points, (n, 2)."""
    lines = [line for line in ax.lines if np.shape(line.get_xydata()) == np.shape(data)]
    return [line for line in lines if np.allclose(line.get_xydata(), data)]


def test_information_plane_draws_each_layer_darker_from_epoch_to_epoch():
    plane, _ = draw(make_records(epochs=(8, 0, 4)))
    ax = plane.axes[0]
    markers = [c for c in ax.collections if isinstance(c, PathCollection)]
    for i, group in enumerate(markers):
        assert len(lines_of(ax, path_of(i))) == 1
        np.testing.assert_allclose(group.get_offsets(), path_of(i))
        brightness = group.get_facecolors()[:, :3].sum(1)
        assert (np.diff(brightness) < 0).all()
    assert len(markers) == len(LAYERS)


def test_mi_over_epochs_draws_each_layer_and_known_accuracies():
    _, epochs = draw(make_records())
    for column, ax in enumerate(epochs.axes[:2]):
        for i in range(len(LAYERS)):
            assert lines_of(ax, np.stack([EPOCHS, path_of(i)[:, column]], 1))
    assert lines_of(epochs.axes[2], [[4, 96], [8, 98]])
    _, epochs = draw(make_records(), TRAINING[:1])
    assert len(epochs.axes) == 2


def test_figures_name_layers_limits_and_circumstances():
    records = make_records()
    records[0]["converged"] = False
    records[1]["network"] = "softmax"
    for figure in draw(records, notice="Embedded images were used."):
        for part in (
            *LAYERS,
            "Embedded images were used.",
            "H(Y) 2.30",
            "ceiling 8.29",
            "mnist; n = 10,000 samples, values from 4,000 of them (test samples); seed 7.",
            "From a later layer's network: 1 of 24 values. Not converged: 1 of 24 estimates.",
        ):
            assert part in words(figure)
        figure.draw_without_rendering()  # "$" in names is no formula
        assert "reference" not in words(figure)


def test_limits_are_within_the_axes_and_off_their_ends():
    entropy = path_of(len(LAYERS) - 1).max(0)[1] + 0.025  # little above all values and bars
    plane, epochs = draw(make_records(), class_entropy_nats=entropy)
    limits = {plane.axes[0].get_ylim: entropy, epochs.axes[1].get_ylim: entropy}
    limits |= {plane.axes[0].get_xlim: math.log(4_000), epochs.axes[0].get_ylim: math.log(4_000)}
    for ends, limit in limits.items():
        low, high = ends()
        assert low < limit < high - 0.03 * (high - low)


def test_information_plane_first_probe_far_off_adds_a_panel_without_it():
    records = make_records(epochs=(0, 4, 8, 12))
    plane, _ = draw(records)
    assert not any(ax.get_title() for ax in plane.axes)
    for row in records:
        row["mi_nats"] -= 1.5 * (row["epoch"] == 0)
    plane, _ = draw(records)
    assert plane.axes[1].get_title() == "Close-up: epochs 4 to 12"
    whole, close_up = (ax.get_ylim() for ax in plane.axes[:2])
    assert whole[0] < 0.6 < 2 < close_up[0]


def test_mi_over_epochs_values_at_the_top_of_their_panel_add_an_inset():
    records = make_records()
    assert not any(ax.child_axes for ax in draw(records)[1].axes)
    for row in records:
        row["mi_nats"] -= 1.5 * (row["epoch"] == 0 and row["variable"] == "y")
    _, epochs = draw(records)
    (inset,) = epochs.axes[1].child_axes
    assert not epochs.axes[0].child_axes
    for i in range(len(LAYERS)):
        assert lines_of(inset, np.stack([EPOCHS, path_of(i)[:, 1]], 1)[1:])
    low, high = inset.get_ylim()
    assert 2 < low < 2.3017 < high


@pytest.mark.parametrize(
    ("epochs", "seeds", "noise_std"),
    [((0,), (7,), 0.0), (range(0, 44, 4), (7,), 0.0), (range(0, 44, 4), (1, 2, 3), 0.25)],
)
def test_texts_are_apart_and_within_the_figure(epochs, seeds, noise_std):
    records = make_records(epochs, seeds, reference=noise_std > 0)
    for row in records:
        row["mi_nats"] *= 1 if row["epoch"] else 0.5
    notice, training = "A sentence about the images. " * 5, TRAINING[: len(epochs)]
    for figure in draw(records, training, noise_std=noise_std, notice=notice):
        figure.draw_without_rendering()
        assert ("Epoch 0 only." in words(figure)) == (len(epochs) == 1)
        boxes = [
            (text.get_text(), Text.get_window_extent(text))  # without the point of an annotation
            for text in figure.findobj(Text)
            if not re.fullmatch(r"[−\d.]*", text.get_text())  # without ticks
        ]
        assert len(boxes) > len(LAYERS)
        for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
            assert not box.overlaps(other_box), (one, other)
        for text, box in boxes:
            assert -1 < box.x0 < box.x1 < figure.bbox.x1 + 1, text


def test_references_are_dashed_in_the_colour_of_their_layer():
    plane, epochs = draw(make_records(reference=True), noise_std=0.25, noise="relative")
    for i in range(len(LAYERS)):
        (estimate,), (reference,) = (lines_of(plane.axes[0], path_of(i) + d) for d in (0, 0.1))
        assert reference.is_dashed()
        assert not estimate.is_dashed()
        assert reference.get_color() == estimate.get_color()
        for column, ax in enumerate(epochs.axes[:2]):
            (line,) = lines_of(ax, np.stack([EPOCHS, path_of(i)[:, column] + 0.1], 1))
            assert line.is_dashed()
            assert line.get_color() == reference.get_color()
    for figure in (plane, epochs):
        assert "reference" in words(figure)
        assert "σ = 0.25 × root mean variance" in words(figure)
        assert "I(X; T), lower bound (nats)" in words(figure)
        assert "; L)" not in words(figure)


def test_several_seeds_are_thin_lines_around_mean_and_band():
    seeds = (1, 2, 3)
    half = 2 * 0.003 / math.sqrt(3)
    plane, epochs = draw(make_records(seeds=seeds))
    for i in range(len(LAYERS)):
        lines = lines_of(plane.axes[0], path_of(i, 2))  # of the second seed, and the mean
        mean = max(lines, key=lambda line: line.get_linewidth())
        for seed in (1, 3):
            (thin,) = lines_of(plane.axes[0], path_of(i, seed))
            assert thin.get_linewidth() < mean.get_linewidth()
    band = next(c for c in plane.axes[0].collections if isinstance(c, PolyCollection))
    corners = np.concatenate([path.vertices for path in band.get_paths()])
    np.testing.assert_allclose(corners.min(0), path_of(0, 2)[0] - half)
    np.testing.assert_allclose(corners.max(0), path_of(0, 2)[-1] + half)
    between = path_of(0, 2)[:2].mean(0) + 0.9 * half * np.array([1, -1])
    assert any(path.contains_point(between) for path in band.get_paths())
    for column, ax in enumerate(epochs.axes[:2]):
        band = next(c for c in ax.collections if isinstance(c, PolyCollection))
        top = band.get_paths()[0].vertices[:, 1].max()
        assert top == pytest.approx(path_of(0, 2)[-1, column] + half)
    assert "seeds 1, 2, 3." in words(plane)
    assert "Bars and bands: ± 2 standard errors of the mean over seeds" in words(plane)
    for ax in (draw(make_records())[0].axes[0], draw(make_records())[1].axes[0]):
        assert not [c for c in ax.collections if isinstance(c, PolyCollection)]


def test_mean_over_seeds_skips_missing_values():
    values = np.array([[1.0, 5.0, np.nan], [3.0, np.nan, np.nan]])
    mean, stderr = figures.mean_over_seeds(values, np.array([[0.1, 0.2, 0.3]] * 2))
    np.testing.assert_allclose(mean, [2.0, 5.0, np.nan])
    np.testing.assert_allclose(stderr, [1.0, 0.2, 0.0])


@pytest.mark.parametrize("missing", [math.nan, -math.inf, None])
def test_missing_values_are_skipped(missing):
    records = make_records()
    for row in records:
        row["stderr"] = row["ceiling_nats"] = missing
        if row["layer"] == "conv2" or (row["epoch"], row["layer"]) == (4, "conv1"):
            row["mi_nats"] = missing
    for figure in draw(records):
        assert "No finite value to draw: conv2." in words(figure)
        figure.draw_without_rendering()
    plane, epochs = draw(records)
    assert lines_of(plane.axes[0], path_of(0)[[0, 2]])
    assert lines_of(epochs.axes[0], [[0, path_of(0)[0, 0]], [8, path_of(0)[2, 0]]])
    for row in records:
        row["mi_nats"] = missing
    for figure in draw(records):
        figure.draw_without_rendering()


def test_path_writes_png_and_pdf(tmp_path):
    figures.information_plane(make_records(), DESCRIPTION, tmp_path / "plane.png")
    figures.mi_over_epochs(make_records(), TRAINING, DESCRIPTION, str(tmp_path / "epochs.png"))
    starts = {path.name: path.read_bytes()[:4] for path in tmp_path.iterdir()}
    kinds = {".png": b"\x89PNG", ".pdf": b"%PDF"}
    assert starts == {name + end: kinds[end] for name in ("plane", "epochs") for end in kinds}


def test_save_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    def write_half(self, file, **_):
        file.write_bytes(b"\x89PNG, and then nothing")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", write_half)
    path = tmp_path / "plane.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        figures.save(Figure(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_cannot_be_drawn_are_named():
    with pytest.raises(ValueError, match="records is empty"):
        draw([])
    records = make_records()
    del records[3]["reference_nats"]
    with pytest.raises(ValueError, match=r"records\[3\] lacks reference_nats;"):
        draw(records)
    with pytest.raises(ValueError, match=r"records\[0\]: variable is 'z'"):
        draw([make_records()[0] | {"variable": "z"}])
    with pytest.raises(ValueError, match=r"training\[0\] lacks test_accuracy;"):
        draw(make_records(), [{"epoch": 1}] * 2)
    with pytest.raises(ValueError, match=r"description lacks notice;"):
        figures.information_plane(make_records(), dict(list(DESCRIPTION.items())[:-1]))
