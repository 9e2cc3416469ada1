"""Figures of a run: what is drawn and where, what is refused, and how files are written."""

import itertools
import math
import re

import numpy as np
import pytest
from made_records import (
    DESCRIPTION,
    EPOCHS,
    HIGH,
    LAYERS,
    LOW,
    PLANES,
    make_records,
    path_of,
)
from matplotlib.figure import Figure
from matplotlib.text import Text

from mine_jax.information_plane import figures
from mine_jax.information_plane.figure_table import mean_over_seeds

TRAINING = [{"epoch": e, "test_accuracy": a} for e, a in ((0, None), (4, 0.96), (8, 0.98))]


def draw(records, training=TRAINING, **description):
    description = DESCRIPTION | description
    plane = figures.information_plane(records, description)
    return plane, figures.mi_over_epochs(records, training, description)


def words(figure: Figure) -> str:
    texts = (text.get_text() for text in figure.findobj(Text))
    return " ".join("\n".join(texts).split())


def named(ax, label):
    """What a panel has under a label."""
    return [artist for artist in ax.get_children() if artist.get_label() == label]


def curve_panels(figure):
    """Panels of `mi_over_epochs` with the plane and the column of x or y they should show."""
    return zip(figure.axes, itertools.product(PLANES, (0, 1)), strict=False)


def test_information_plane_draws_each_plane_in_its_panel_darker_from_epoch_to_epoch():
    figure = draw(make_records(epochs=(8, 0, 4)))[0]
    panels = zip(figure.axes, PLANES, strict=True)
    for (ax, plane), (i, layer) in itertools.product(panels, enumerate(LAYERS)):
        (line,), (marks,) = named(ax, layer), named(ax, f"marks {layer}")
        np.testing.assert_allclose(line.get_xydata(), path_of(plane, i))
        np.testing.assert_allclose(marks.get_offsets(), path_of(plane, i))
        fills = marks.get_facecolors()[:, :3].sum(1)
        assert (np.diff(fills) < 0).all()
        assert fills[0] < 2.9  # white is for flagged values
    looks = [named(ax, layer)[0] for layer in LAYERS]
    for look in ({line.get_color() for line in looks}, {str(line._dash_pattern) for line in looks}):
        assert len(look) == len(LAYERS)
    for ax, rest in zip(figure.axes, ("T) (nats)", "L), lower bound (nats)"), strict=True):
        assert (ax.get_xlabel(), ax.get_ylabel()) == (f"I(X; {rest}", f"I(Y; {rest}")
    assert figure.get_figwidth() == 7


def test_mi_over_epochs_draws_each_plane_in_its_column_and_known_accuracies():
    figure = draw(make_records())[1]
    panels = curve_panels(figure)
    for (ax, (plane, column)), (i, layer) in itertools.product(panels, enumerate(LAYERS)):
        values = path_of(plane, i)[:, column]
        (line,), (marks,) = named(ax, layer), named(ax, f"marks {layer}")
        for points in (line.get_xydata(), marks.get_offsets()):
            np.testing.assert_allclose(points, np.stack([EPOCHS, values], 1))
    np.testing.assert_allclose(figure.axes[4].lines[0].get_xydata(), [[4, 96], [8, 98]])
    assert len(draw(make_records(), TRAINING[:1])[1].axes) == 4


def test_brackets_are_where_the_records_say_and_only_where_both_ends_are_known():
    records = make_records()
    records[0]["reference_high_nats"] = None  # conv1, x, epoch 0
    plane, epochs = draw(records)
    for i, layer in enumerate(LAYERS):
        (boxes,) = named(plane.axes[0], f"bracket {layer}")
        corners = np.array([path.vertices for path in boxes.get_paths()])
        points = path_of("observed", i)[i == 0 :]
        for ends, found in ((LOW, corners.min(1)), (HIGH, corners.max(1))):
            sign = -1 if ends is LOW else 1
            np.testing.assert_allclose(found, points + sign * np.array(list(ends.values())))
        assert not named(plane.axes[1], f"bracket {layer}")
    for ax, (_, column) in list(curve_panels(epochs))[:2]:
        corners = named(ax, "bracket relu3")[0].get_paths()[0].vertices
        low, high = list(LOW.values())[column], list(HIGH.values())[column]
        for epoch, value in zip(EPOCHS, path_of("observed", 2)[:, column], strict=True):
            ends = corners[corners[:, 0] == epoch, 1]
            assert (ends.min(), ends.max()) == pytest.approx((value - low, value + high))
    assert "bracket" in words(plane)
    assert "few samples of each class" not in words(plane)
    assert "few samples of each class" in words(draw(make_records(reference_high_nats=2.2))[0])


def test_flagged_values_are_white_and_crossed_and_counted():
    records = make_records()
    records[0]["converged"] = False  # observed, conv1, x, epoch 0
    records[-1]["warnings"] = ["Near the ceiling: ..."]  # deterministic, last layer, y, epoch 8
    places = [(0, 0, LAYERS[0], 0), (1, 3, LAYERS[3], 2)]
    for figure, panels in zip(draw(records), ((0, 1), (0, 3)), strict=True):
        for (p, i, layer, at), panel in zip(places, panels, strict=True):
            ax = figure.axes[panel]
            (cross,), (marks,) = named(ax, f"flagged {layer}"), named(ax, f"marks {layer}")
            point = path_of(PLANES[p], i)[at]
            expected = point if len(figure.axes) == 2 else [EPOCHS[at], point[p]]
            np.testing.assert_allclose(cross.get_offsets(), [expected])
            assert np.flatnonzero((marks.get_facecolors()[:, :3] == 1).all(1)).tolist() == [at]
        labels = [str(artist.get_label()) for ax in figure.axes for artist in ax.get_children()]
        assert sum(label.startswith("flagged") for label in labels) == 2
        assert "2 of 48 values (1 not converged, 1 near the ceiling)." in words(figure)
    assert "flagged" not in words(draw(make_records())[0])


def test_layers_that_were_not_measured_are_named_with_their_epochs_and_not_flagged():
    records = make_records(epochs=range(8))
    for row in records:
        if (row["layer"], row["epoch"]) == ("conv1", 3) or row["layer"] == "relu3":
            row |= {"mi_nats": None, "network": None, "converged": False, "warnings": ["why"]}
    records[0]["converged"] = False
    for figure in draw(records):
        text = words(figure)
        assert "1 of 128 values (1 not converged)." in text
        assert "Not measured: relu3 at epochs 0, 1, 2, …, 7; conv1 at epoch 3." in text
        assert "No finite value" not in text


def test_own_networks_values_are_faint_where_they_differ_and_others_have_a_legend():
    records = make_records(planes=("deterministic",), bins_nats=6.5)
    records[4] |= {"own_nats": records[4]["mi_nats"] - 0.1, "network": "relu3"}  # conv1, y, epoch 0
    records[5] |= {"own_nats": records[5]["mi_nats"] - 0.009}  # within the standard error
    figure = draw(records)[0]
    own = {layer: named(figure.axes[0], f"own {layer}")[0] for layer in LAYERS[:2]}
    np.testing.assert_allclose(own["conv1"].get_xydata()[1], path_of(PLANES[1], 0)[0] - [0, 0.1])
    assert np.isnan(own["conv1"].get_ydata()[[4, 7]]).all()
    assert np.isnan(own["conv2"].get_ydata()[1::3]).all()
    assert own["conv1"].get_alpha() < 1
    for part in ("1 of 24 values are from later layers' networks, faint dots", "30 bins"):
        assert part in words(figure)
    assert "pairwise" not in words(figure)


def test_captions_limits_and_notice_say_what_is_drawn():
    figures_ = draw(make_records(), notice="Embedded images were used.")
    for figure in figures_:
        for part in (
            *LAYERS,
            *("Embedded images were used.", "H(Y) 2.30", "ceiling 8.29"),
            "mnist: n = 20,000 samples, values from 4,000 of them (test samples); seed 7.",
            "σ = c√(trace of the layer's covariance), c = 0.25;",
            "no layer can hold more than about 1/(2c²) = 8.0 nats.",
        ):
            assert part in words(figure)
    for ax, limit in zip(figures_[0].axes, (None, math.log(4_000)), strict=True):
        at = [line.get_xdata()[0] for line in ax.lines if [*line.get_ydata()] == [0, 1]]
        assert at == ([] if limit is None else [limit])
        assert ax.get_ylim()[1] > 2.3017
    assert "ceiling 4.50" in words(draw(make_records(planes=PLANES[:1], ceiling_nats=4.5))[0])
    assert "1/(2c²)" not in words(draw(make_records(), noise="unit")[0])


@pytest.mark.parametrize("plane", PLANES)
def test_plane_without_rows_has_no_panel(plane):
    drawn = draw(make_records(planes=(plane,)))
    for figure, panels in zip(drawn, (1, 3), strict=True):
        assert (len(figure.axes), figure.get_figwidth()) == (panels, 3.4)
        assert ("T = L + σε" in words(figure)) == (plane == "observed")
        assert ("lower bound" in words(figure)) == (plane == "deterministic")
    np.testing.assert_allclose(named(drawn[0].axes[0], "conv2")[0].get_xydata(), path_of(plane, 1))


def test_noise_sweep_has_a_panel_for_each_level_in_order():
    runs = {0.5: make_records(), 0.2: make_records(seeds=(8,))}
    figure = figures.noise_sweep(runs, DESCRIPTION)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["c = 0.2", "c = 0.5"]
    for ax, seed in zip(figure.axes, (8, 7), strict=True):
        np.testing.assert_allclose(named(ax, "relu3")[0].get_xydata(), path_of("observed", 2, seed))
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    with pytest.raises(ValueError, match=r"observed layers at c = 0\.3: records is empty"):
        figures.noise_sweep({0.3: make_records(planes=PLANES[1:])}, DESCRIPTION)


@pytest.mark.parametrize(
    ("epochs", "seeds", "planes"),
    [((0,), (7,), PLANES), (range(0, 44, 4), (1, 2, 3), PLANES), (EPOCHS, (7,), PLANES[:1])],
)
def test_texts_are_apart_and_within_the_figure(epochs, seeds, planes):
    records = make_records(epochs, seeds, planes)
    for row in records:
        row["mi_nats"] *= 1 if row["epoch"] else 0.5
    notice, training = "A sentence about the images. " * 5, TRAINING[: len(epochs)]
    drawn = draw(records, training, notice=notice)
    runs = {level: make_records(epochs, seeds, planes) for level in (0.1, 0.2, 0.3, 0.4)}
    for figure in (*drawn, figures.noise_sweep(runs, DESCRIPTION)):
        figure.draw_without_rendering()  # "$" in names is no formula
        assert ("Epoch 0 only." in words(figure)) == (len(epochs) == 1)
        ticks = [t for ax in figure.axes for t in (*ax.get_xticklabels(), *ax.get_yticklabels())]
        texts = [t for t in figure.findobj(Text) if t.get_visible() and t not in ticks]
        boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts if t.get_text()]
        for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
            assert not box.overlaps(other_box), (one, other)
        for text, box in boxes:
            assert -1 < box.x0 < box.x1 < figure.bbox.x1 + 1, text
            assert -1 < box.y0 < box.y1 < figure.bbox.y1 + 1, text
    for ax in drawn[0].axes:
        labels = [t.get_text() for t in ax.texts if re.fullmatch(r"\d+", t.get_text())]
        assert set(labels) == {str(epochs[0]), str(epochs[-1])}


def test_several_seeds_are_thin_lines_around_mean_and_band():
    half = 2 * 0.003 / math.sqrt(3)
    plane, epochs = draw(make_records(seeds=(1, 2, 3)))
    for ax, name in zip(plane.axes, PLANES, strict=True):
        mean = named(ax, "conv1")[0]
        np.testing.assert_allclose(mean.get_xydata(), path_of(name, 0, 2))
        for seed in (1, 3):
            lines, path = (a for a in ax.lines if len(a.get_xdata()) == 3), path_of(name, 0, seed)
            (thin,) = [line for line in lines if np.allclose(line.get_xydata(), path)]
            assert thin.get_linewidth() < mean.get_linewidth()
        (band,) = named(ax, "band conv1")
        corners = np.concatenate([path.vertices for path in band.get_paths()])
        np.testing.assert_allclose(corners.min(0), path_of(name, 0, 2)[0] - half)
        np.testing.assert_allclose(corners.max(0), path_of(name, 0, 2)[-1] + half)
        between = path_of(name, 0, 2)[:2].mean(0) + 0.9 * half * np.array([1, -1])
        assert any(path.contains_point(between) for path in band.get_paths())
    for ax, (name, column) in curve_panels(epochs):
        top = named(ax, "band conv1")[0].get_paths()[0].vertices[:, 1].max()
        assert top == pytest.approx(path_of(name, 0, 2)[-1, column] + half)
    assert "seeds 7, 8." in words(draw(make_records(seeds=(8, 7)))[0])
    assert not named(draw(make_records())[0].axes[0], "band conv1")


@pytest.mark.parametrize("missing", [-math.inf, None])
def test_missing_values_are_gaps(missing):
    records = make_records()
    for row in records:
        row["stderr"] = row["ceiling_nats"] = row["own_nats"] = missing
        if row["layer"] == "conv2" or (row["epoch"], row["layer"]) == (4, "conv1"):
            row["mi_nats"] = missing
    paths = ((path := path_of(PLANES[0], 0)), np.stack([EPOCHS, path[:, 0]], 1))
    for figure, expected in zip(draw(records), paths, strict=True):
        assert "No finite value to draw (observed): conv2." in words(figure)
        found = named(figure.axes[0], "conv1")[0].get_xydata()
        np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]])
        assert np.isnan(found[1]).any()
    draw(make_records(mi_nats=missing, reference_low_nats=missing))
    values = np.array([[1.0, 5.0, np.nan], [3.0, np.nan, np.nan]])
    mean, stderr = mean_over_seeds(values, np.array([[0.1, 0.2, 0.3]] * 2))
    np.testing.assert_allclose(mean, [2.0, 5.0, np.nan])
    np.testing.assert_allclose(stderr, [1.0, 0.2, 0.0])


def test_files_are_png_and_pdf_and_one_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    figures.information_plane(make_records(), DESCRIPTION, tmp_path / "plane.png")
    figures.mi_over_epochs(make_records(), TRAINING, DESCRIPTION, str(tmp_path / "epochs.png"))
    figures.noise_sweep({0.1: make_records()}, DESCRIPTION, tmp_path / "sweep.png")
    starts = {path.name: path.read_bytes()[:4] for path in tmp_path.iterdir()}
    kinds = {".png": b"\x89PNG", ".pdf": b"%PDF"}
    files = itertools.product(("plane", "epochs", "sweep"), kinds)
    assert starts == {name + end: kinds[end] for name, end in files}

    def write_half(self, file, **_):
        file.write_bytes(b"\x89PNG, and then nothing")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", write_half)
    (tmp_path / "plane.png").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        figures.save(Figure(), tmp_path / "plane.png")
    assert (tmp_path / "plane.png").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 6


def test_rows_that_cannot_be_drawn_are_named():
    with pytest.raises(ValueError, match="records is empty"):
        draw([])
    records = make_records()
    del records[3]["reference_low_nats"]
    with pytest.raises(ValueError, match=r"records\[3\] lacks reference_low_nats;"):
        draw(records)
    for key in ("variable", "plane"):
        with pytest.raises(ValueError, match=rf"records\[0\]: {key} is 'z'"):
            draw(make_records(**{key: "z"}))
    with pytest.raises(ValueError, match=r"training\[0\] lacks test_accuracy;"):
        draw(make_records(), [{"epoch": 1}] * 2)
    with pytest.raises(ValueError, match=r"description lacks noise_level;"):
        figures.information_plane(make_records(), dict(list(DESCRIPTION.items())[:-1]))


def test_a_target_without_entropy_has_no_line_for_it():
    for figure in draw(make_records(), class_entropy_nats=None):
        assert "H(Y)" not in words(figure)
        assert "nan" not in words(figure)
        assert "ceiling" in words(figure)


def test_data_without_a_name_and_without_accuracies_is_drawn():
    plane, epochs = draw(make_records(), [], dataset="")
    assert len(epochs.axes) == 4
    for figure in (plane, epochs):
        assert "n = 20,000 samples, values from 4,000 of them (test samples)" in words(figure)
        assert "mnist" not in words(figure)


def test_exact_values_of_a_population_are_crosses():
    records = make_records(reference_low_nats=None, reference_high_nats=None)
    for row in records:
        row["reference_nats"] = row["mi_nats"] + 0.1 if row["plane"] == "observed" else None
    for figure, expected in zip(
        draw(records, population=True),
        (path_of("observed", 1) + 0.1, np.stack([EPOCHS, path_of("observed", 1)[:, 0] + 0.1], 1)),
        strict=True,
    ):
        crosses = named(figure.axes[0], "exact")
        assert len(crosses) == len(LAYERS)
        assert {line.get_linestyle() for line in crosses} == {"None"}
        np.testing.assert_allclose(crosses[1].get_xydata(), expected)
        assert not named(figure.axes[-1], "exact")
        text = words(figure)
        for part in ("20,000 samples, the whole population", "Crosses: exact values"):
            assert part in text
        assert "exact" in [label.get_text() for label in figure.legends[0].get_texts()]
        assert "No bounds" not in text
        assert "bracket" not in text
    assert "exact" not in words(draw(records)[0])  # references of samples are not exact
