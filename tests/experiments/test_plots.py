"""Figures of the experiments: what is drawn, and what is refused."""

import math

import numpy as np
import pytest
from conftest import load_experiment
from matplotlib.text import Text

plots = load_experiment("plots")


def words(figure):
    figure.draw_without_rendering()
    texts = (text.get_text() for text in figure.findobj(Text) if text.get_visible())
    return " ".join("\n".join(texts).split())


def points(ax):
    """The points of all error bars, in order."""
    return sorted(tuple(bar.lines[0].get_xydata()[0]) for bar in ax.containers)


def accuracy_row(problem="a", truth=2.0, error=-0.1, seed=0, family="gaussian"):
    row = {"problem": problem, "family": family, "held_out": seed == 0, "truth_nats": truth}
    return row | {"nats": truth + error, "stderr": 0.02, "ceiling_nats": math.log(300)}


def test_accuracy_draws_means_families_and_ceiling(tmp_path):
    rows = [accuracy_row(f"problem ${i}$", 2.0 + i, seed=s) for i in (0, 1) for s in (0, 1)]
    rows.append(accuracy_row("far", 9.0, -4.0, family="far away"))
    figure = plots.accuracy(rows, tmp_path / "accuracy.png")
    above, below = figure.subfigs
    wanted = [(2.0, 1.9), (3.0, 2.9), (9.0, 5.0)]
    np.testing.assert_allclose(points(above.axes[0]), wanted)
    assert len(below.axes) == 1
    np.testing.assert_allclose([x for x, _ in points(below.axes[0])], [-4.0, -0.1, -0.1])
    assert np.subtract(*below.axes[0].get_xlim()[::-1]) > 4
    for part in ("problem $0$", "far away", "ceiling 5.70", "grey: truth above 90% of the ceiling"):
        assert part in words(figure)
    assert (tmp_path / "accuracy.png").exists()


def test_accuracy_of_many_problems_has_two_columns():
    figure = plots.accuracy([accuracy_row(f"problem {i}", family=str(i % 9)) for i in range(70)])
    assert [len(part.axes) for part in figure.subfigs] == [1, 2]


def test_accuracy_leaves_out_values_that_are_not_finite():
    rows = [accuracy_row(error=math.nan), accuracy_row(seed=1), accuracy_row("b", error=math.inf)]
    figure = plots.accuracy(rows)
    assert "Not finite, so not drawn: 2 of 3 values" in words(figure)
    np.testing.assert_allclose(points(figure.subfigs[0].axes[0]), [(2.0, 1.9)])


def architecture_rows():
    return [
        {"data": data, "dims": 2 if data.endswith("as is") else 1, "network": network}
        | {"error": -3.0 * place - 20 * i, "over_seeds": 0.5 + i}
        | {"over_architectures": math.nan if i else 2.0}
        for place, data in enumerate(("conv1 as is", "vector", "$bar$ as is"))
        for i, network in enumerate(("concatenated", "convolutional"))
    ]


def test_architectures_draws_errors_and_spreads_vectors_first():
    rows = architecture_rows()
    figure = plots.architectures(rows)
    for part in ("conv1 as is 2-D", "$bar$ as is 2-D", "concatenated", "error (% of the truth)"):
        assert part in words(figure)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "vector  1-D"
    for ax, key in zip(figure.axes, ("error", "over_seeds", "over_architectures"), strict=True):
        drawn = [x for x, _ in points(ax)]
        assert drawn == sorted(row[key] for row in rows if math.isfinite(row[key]))
        assert ax.get_xlim()[0] <= drawn[0] <= drawn[-1] <= ax.get_xlim()[1]


def fit_row(start, epoch, curve, reference=None):
    source = None if start == "cold" else epoch - 4
    row = {"start": start, "epoch": epoch, "source": source, "layer": "relu3", "variable": "y"}
    return row | {"curve_steps": 50, "curve": curve, "reference_nats": reference}


def test_warm_start_draws_mean_curves_from_the_cold_first_fit_on():
    rows = [fit_row("chain", e, [1 + e / 10, *end]) for e in (4, 8) for end in ([2.0, 4.0], [3.0])]
    rows += [fit_row("cold", e, [0.0, 1.0, 2.4], reference=3.0) for e in (0, 4, 8)]
    rows += [fit_row("kept", 8, [9.0, 9.0])]
    figure = plots.warm_start(rows, layer="relu3", variable="y")
    curves = [
        [line.get_xydata().tolist() for line in ax.lines if line.get_linestyle() == "-"]
        for ax in figure.axes[:2]
    ]
    cold = [[0, 0.0], [50, 1.0], [100, 2.4]]
    warm = [[[0, start], [50, 2.5], [100, 3.5]] for start in (1.4, 1.8)]  # 3.0 goes on
    assert curves == [[cold, *warm], [cold] * 3]
    for part in ("Warm start", "Cold start", "reference", "I(Y; T) of relu3, validation samples"):
        assert part in words(figure)
    with pytest.raises(ValueError, match=r"no warm start of I\(X; relu3\)"):
        plots.warm_start(rows, layer="relu3", variable="x")


def test_growth_draws_a_curve_for_each_size():
    rows = [
        {"what": what, "size": size, "value": value}
        | {"milliseconds": 2.0 * value, "fastest": 1.9 * value, "slowest": 2.5 * value}
        for what, size in (("step", "samples n"), ("evaluation", "samples n"), ("step", "batch"))
        for value in (10, 100, 1000)
    ]
    figure = plots.growth(rows)
    labels = ["step", "evaluation", "in proportion"]
    drawn = [[line.get_label() for line in ax.lines] for ax in figure.axes]
    assert drawn == [labels, ["step", "in proportion"]]
    wanted = [[10, 20], [100, 200], [1000, 2000]]
    np.testing.assert_allclose(figure.axes[1].lines[0].get_xydata(), wanted)
    assert "batch 10 1,000" in words(figure)


@pytest.mark.parametrize("draw", [plots.accuracy, plots.architectures, plots.growth])
def test_rows_that_cannot_be_drawn_are_named(draw):
    with pytest.raises(ValueError, match="rows is empty"):
        draw([])
    complete = accuracy_row() | architecture_rows()[0] | dict.fromkeys(plots.GROWTH_KEYS, 1)
    with pytest.raises(ValueError, match=r"rows\[1\] lacks .*; it has other"):
        draw([complete, {"other": 1}])
