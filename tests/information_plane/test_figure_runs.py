"""Several runs: which are merged, and how others are drawn side by side."""

import numpy as np
import pytest
from made_records import DESCRIPTION, EPOCHS, LAYERS, PLANES, make_records, path_of
from matplotlib.text import Text

from mine_jax.information_plane import figure_runs
from mine_jax.information_plane.merging import merge_seeds
from mine_jax.information_plane.planes import Plane


def make_plane(seed=7, epochs=EPOCHS, planes=PLANES, training=True, **description):
    rows = [{"seed": seed, "epoch": epoch, "test_accuracy": 0.9} for epoch in epochs]
    records = make_records(epochs, (seed,), planes)
    return Plane(tuple(records), DESCRIPTION | description, tuple(rows if training else ()))


def line_of(ax, layer):
    return next(line for line in ax.lines if line.get_label() == layer)


def words(figure):
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


RUNS = {
    "one": make_plane(7, notice="A notice."),
    "two$": make_plane(8, (0, 4), PLANES[:1], training=False, noise_level=0.5, dataset=""),
    "three": make_plane(9, dataset="kmnist"),
}


def test_a_column_for_each_run_and_a_row_for_each_plane_with_the_same_scales():
    figure = figure_runs.side_by_side(RUNS)
    titles = [ax.get_title(loc="left").split("\n") for ax in figure.axes]
    observed, deterministic = "Observed with noise", "Deterministic"
    assert titles == [
        *([name, observed] for name in RUNS),
        *([deterministic] for _ in range(2)),  # "two$" has no such plane
    ]
    places = [("observed", 7), ("observed", 8), ("observed", 9)]
    places += [("deterministic", 7), ("deterministic", 9)]
    for ax, (plane, seed) in zip(figure.axes, places, strict=True):
        expected = path_of(plane, 2, seed)
        found = line_of(ax, LAYERS[2]).get_xydata()
        np.testing.assert_allclose(found, expected[: len(found)])
        first = figure.axes[0 if plane == "observed" else 3]
        assert (ax.get_xlim(), ax.get_ylim()) == (first.get_xlim(), first.get_ylim())
    assert [bool(ax.get_ylabel()) for ax in figure.axes] == [True, False, False, True, False]


def test_captions_say_once_what_holds_for_all_runs():
    text = words(figure_runs.side_by_side(RUNS))
    for part in (
        *("one: mnist: n = 20,000 samples", "two$: n = 20,000", "three: kmnist: n = 20,000"),
        *("A notice.", "c = 0.5", "epoch 0 to 8"),
    ):
        assert part in text
    assert text.count("Boxes: brackets") == text.count("Bars: ± 2 standard errors") == 1
    same = {name: make_plane() for name in ("one", "other")}
    assert "one: mnist" not in words(figure_runs.side_by_side(same))


def test_over_epochs_has_a_column_for_each_run_and_plane_and_known_accuracies():
    figure = figure_runs.side_by_side_over_epochs(RUNS)
    titles = [ax.get_title(loc="left").split("\n") for ax in figure.axes[:10:2]]
    assert [title[0] for title in titles] == ["one", "one", "two$", "three", "three"]
    assert len(figure.axes) == 2 * 5 + 2
    values = line_of(figure.axes[4], LAYERS[1]).get_xydata()
    np.testing.assert_allclose(values[:, 1], path_of("observed", 1, 8)[:2, 0])
    assert figure.axes[4].get_ylim() == figure.axes[0].get_ylim()
    figure = figure_runs.side_by_side_over_epochs({"two": RUNS["two$"], "other": RUNS["two$"]})
    assert len(figure.axes) == 4


@pytest.mark.parametrize("draw", [figure_runs.side_by_side, figure_runs.side_by_side_over_epochs])
def test_runs_that_cannot_be_drawn_are_named(draw, tmp_path):
    with pytest.raises(ValueError, match="runs is empty"):
        draw({})
    with pytest.raises(ValueError, match="bad: records is empty"):
        draw({"one": RUNS["one"], "bad": Plane((), DESCRIPTION)})
    draw(RUNS, tmp_path / "runs.png").draw_without_rendering()
    assert {path.name for path in tmp_path.iterdir()} == {"runs.png", "runs.pdf"}


def test_seeds_of_the_same_settings_are_merged():
    of_seed = [{"resolved": {"seed": s, "steps": 3, "split_sha256": str(s)}} for s in (7, 8)]
    planes = [make_plane(s, **d) for s, d in zip((7, 8), of_seed, strict=True)]
    merged = merge_seeds(planes)
    assert merged.records == planes[0].records + planes[1].records
    assert len(merged.training) == 2 * len(EPOCHS)
    mean = line_of(merged.figure().axes[0], LAYERS[0]).get_xydata()
    np.testing.assert_allclose(mean, (path_of("observed", 0, 7) + path_of("observed", 0, 8)) / 2)
    assert merge_seeds(planes[:1]) is planes[0]
    for other in (
        make_plane(7, **of_seed[0]),  # no other seed
        make_plane(8, resolved={"seed": 8, "steps": 4}),
        make_plane(8, dataset="kmnist", **of_seed[1]),
        make_plane(8, EPOCHS[:2], **of_seed[1]),
        make_plane(8, planes=PLANES[:1], **of_seed[1]),
    ):
        assert merge_seeds([planes[0], other]) is None


def test_recorders_with_different_keys_are_merged_and_numbered():
    planes = [make_plane(0, settings={"keys": {"mine": key}, "labels": "a"}) for key in (1, 2)]
    assert {row["seed"] for row in merge_seeds(planes).records} == {0, 1}
    assert merge_seeds([planes[0], planes[0]]) is None
