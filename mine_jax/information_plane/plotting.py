"""Figures: records of a run in, image files out.

This is the only module that imports matplotlib. It builds `Figure` objects directly, so it needs
no display and leaves pyplot's global state and the caller's settings alone.
"""

import itertools
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

__all__ = ["accuracy", "architectures", "information_plane", "mi_over_epochs", "warm_start"]

Rows = Sequence[Mapping[str, Any]]
Array = NDArray[np.float64]

_VARIABLES = ("x", "y")
_RECORD_KEYS = (
    "seed",
    "epoch",
    "layer",
    "variable",
    "mi_nats",
    "stderr",
    "ceiling_nats",
    "reference_nats",
    "converged",
)
_TRAINING_KEYS = ("epoch", "test_accuracy")
_ACCURACY_KEYS = (
    "problem",
    "family",
    "held_out",
    "truth_nats",
    "nats",
    "stderr",
    "ceiling_nats",
)
_GROWTH_KEYS = ("what", "size", "value", "milliseconds", "fastest", "slowest", "mebibytes")
_ARCHITECTURE_KEYS = ("data", "dims", "network", "error", "over_seeds", "over_architectures")
_WARM_START_KEYS = (
    *("carry", "epoch", "source", "layer", "variable", "curve_steps", "curve"),
    "reference_nats",
)
_CONFIG_KEYS = ("dataset", "probe_size", "report_size", "seed", "class_entropy_nats", "notice")

_DPI = 300
_WIDTH = 4.6  # inches; wide enough for one column and a half
_TINY, _SMALL, _NORMAL = 5.5, 7, 8  # points
_MOST_LINES = 30  # in a column of problems
_LINEAR_PERCENT = 3  # up to which errors and spreads are on a linear scale
_INK, _GREY, _LIMIT = "0.15", "0.45", "#9c2a10"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_DASHES = ("-", (0, (7, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (1, 1.2)))
_EXACT_DASH = (0, (2.5, 2))
_EXACT_KEY = {
    "exact value": {
        "color": _GREY,
        "marker": "o",
        "markerfacecolor": "white",
        "linestyle": _EXACT_DASH,
    }
}
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#8f4a7b", "#7a6a00")
# The lightest fifth of viridis is cut off: it would be lost on white paper.
_EPOCH_COLOURS = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.82, 256)))
_HALO = (patheffects.withStroke(linewidth=2, foreground="white"),)


def information_plane(records: Rows, config: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Draws I(X; L) against I(Y; L), one path for each layer, coloured by epoch.

    With several seeds each is a thin line, their mean carries the markers, and a band reaches
    two standard errors of the mean to either side. Exact values, where the records have them,
    are a second path beside a layer's own, dashed, with hollow markers of the same shape and
    colours. Values that are not finite are left out. The vertical axis is stretched near H(Y)
    where most values lie there, and says so.

    Args:
        records: rows of `records.jsonl`, in nats: `seed, epoch, layer, variable ("x" or "y"),
            mi_nats, stderr, ceiling_nats, reference_nats, converged`. Layers are taken in order of
            first appearance; of two rows for the same value the later one counts.
        config: `dataset`, `probe_size`, `report_size`, `seed`, `class_entropy_nats` (H(Y)), and
            `notice`, put above the figure unless empty. For layers that are observed with noise
            also `noise_std`, and `noise`, "relative" or "absolute".
        path: file to write, its suffix naming the format (PNG where there is none). It is replaced
            only once the new figure is complete.

    Raises:
        ValueError: `records` is empty, a key is missing, or a variable is neither "x" nor "y".
    """
    _save(_plane_figure(records, config), Path(path))


def mi_over_epochs(
    records: Rows, training: Rows, config: Mapping[str, Any], path: str | os.PathLike
) -> None:
    """Draws I(X; L), I(Y; L) and the test accuracy against the epoch, a panel each.

    Exact values, where the records have them, are dashed lines with hollow markers in the colour
    of their layer.

    Args:
        records: as for `information_plane`.
        training: rows of `training.jsonl`: `epoch`, `test_accuracy` (a fraction, or None). Where
            no row has an accuracy, its panel is left out.
        config: as for `information_plane`.
        path: as for `information_plane`.

    Raises:
        ValueError: `records` is empty, a key is missing, or a variable is neither "x" nor "y".
    """
    _save(_epochs_figure(records, training, config), Path(path))


def accuracy(rows: Rows, path: str | os.PathLike) -> None:
    """Draws estimates against the truths that they should have, and every problem's error.

    A marker is the mean over the seeds of a problem, its bar goes from the smallest to the largest
    value. Values that are not finite are left out.

    Args:
        rows: a row for each problem and seed, in nats: `problem, family, held_out, truth_nats,
            nats, stderr, ceiling_nats`. Problems and families are taken in order of first
            appearance.
        path: as for `information_plane`.

    Raises:
        ValueError: `rows` is empty or a key is missing.
    """
    _save(_accuracy_figure(rows), Path(path))


def growth(rows: Rows, path: str | os.PathLike) -> None:
    """Draws time and memory as one size grows at a time.

    Args:
        rows: a row for each curve and size: `what` is measured, `size` that grows, its `value`,
            `milliseconds` with `fastest` and `slowest`, and `mebibytes`.
        path: as for `information_plane`.

    Raises:
        ValueError: `rows` is empty or a key is missing.
    """
    _require_keys("rows", rows, _GROWTH_KEYS)
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    fig = Figure(figsize=(2.3 * len(sizes), 5.0), layout="constrained")
    axes = fig.subplots(2, len(sizes), sharey="row", squeeze=False)
    for i, size in enumerate(sizes):
        for j, what in enumerate(dict.fromkeys(row["what"] for row in rows)):
            own = [row for row in rows if (row["size"], row["what"]) == (size, what)]
            if not own:
                continue
            values = [row["value"] for row in own]
            colour, marker = _COLOURS[j + 1], _MARKERS[j]
            for ax, key in ((axes[0, i], "milliseconds"), (axes[1, i], "mebibytes")):
                ax.plot(values, [row[key] for row in own], color=colour, marker=marker, label=what)
            axes[0, i].fill_between(
                values,
                [row["fastest"] for row in own],
                [row["slowest"] for row in own],
                color=colour,
                alpha=0.2,
                linewidth=0,
            )
        values = sorted({row["value"] for row in rows if row["size"] == size})
        for ax in axes[:, i]:
            ax.set_xscale("log")
            ax.set_yscale("log")
            _style(ax)
            ax.xaxis.set_major_locator(FixedLocator([values[0], values[-1]]))
            ax.xaxis.set_minor_locator(FixedLocator([]))
            ax.set_xticklabels([f"{value:,}" for value in (values[0], values[-1])])
        axes[1, i].set_xlabel(size)
    for ax in axes.flat:  # the rows share their limits, which are known now
        _draw_proportional(ax)
    axes[0, 0].set_ylabel("milliseconds")
    axes[1, 0].set_ylabel("memory, MiB")
    axes[0, 0].legend(frameon=False, fontsize="small")
    _save(fig, Path(path))


def warm_start(rows: Rows, path: str | os.PathLike, *, layer: str, variable: str) -> None:
    """Draws how fits went with and without networks carried over, a curve for each epoch.

    Left with, right without, as on the poster of Tokovenko, Rigter and Ilse. A curve is the mean
    over the networks; those that have ended keep their last value.

    Args:
        rows: a row for each fit: `carry` ("chain" or "cold"; others are left out), `epoch`,
            `source` (that a carried one comes from), `layer`, `variable`, `curve` (values on the
            stopping samples, nats), `curve_steps` between them, and `reference_nats`, the exact
            value or None.
        path: as for `information_plane`.
        layer: the layer to draw.
        variable: "x" or "y".

    Raises:
        ValueError: `rows` is empty, a key is missing, or there is nothing of that layer.
    """
    _require_keys("rows", rows, _WARM_START_KEYS)
    own = [row for row in rows if (row["layer"], row["variable"]) == (layer, variable)]
    epochs = sorted({row["epoch"] for row in own if row["carry"] == "chain"})
    if not epochs:
        raise ValueError(f"no fit of I({variable.upper()};{layer}) is carried along a chain")
    first = min(row["source"] for row in own if row["carry"] == "chain")
    norm = Normalize(first, max(epochs[-1], first + 1))
    fig = Figure(figsize=(6.2, 3.0), dpi=_DPI, layout="constrained")
    panels = fig.subplots(1, 2, sharex=True, sharey=True)
    for ax, carry, title in (
        (panels[0], "chain", "Networks carried over"),
        (panels[1], "cold", "Fresh networks"),
    ):
        # The first round of a chain is a cold one.
        for epoch in (first, *epochs):
            fits = [
                row
                for row in own
                if row["epoch"] == epoch and row["carry"] == (carry if epoch > first else "cold")
            ]
            colour = _EPOCH_COLOURS(norm(epoch))
            checks = max(len(row["curve"]) for row in fits)
            curves = np.array(
                [
                    [_finite(value) for value in row["curve"]]
                    + [_finite(row["curve"][-1])] * (checks - len(row["curve"]))
                    for row in fits
                ]
            )
            steps = np.arange(checks) * fits[0]["curve_steps"]
            mean, _ = _over_seeds(curves, np.zeros_like(curves))
            ax.plot(steps, mean, color=colour, linewidth=1.1)
            exact, _ = _over_seeds(
                np.array([[_finite(row["reference_nats"])] for row in fits]), np.zeros(1)
            )
            if np.isfinite(exact[0]):
                ax.plot(
                    1.02,
                    exact[0],
                    marker="<",
                    markersize=4,
                    color=colour,
                    clip_on=False,
                    transform=ax.get_yaxis_transform(),
                    markerfacecolor="white",
                )
        ax.set_title(title, fontsize=_NORMAL)
        ax.set_xlabel("MINE steps", fontsize=_NORMAL)
        _style(ax)
    kind = "T" if any(row["reference_nats"] is not None for row in own) else "L"
    name = f"I({variable.upper()}; {kind}) of {layer}"
    panels[0].set_ylabel(f"{name}, stopping samples (nats)", fontsize=_NORMAL)
    if kind == "T":
        mark = Line2D(
            [], [], color=_GREY, marker="<", markerfacecolor="white", linestyle="", markersize=4
        )
        panels[1].legend([mark], ["exact value"], frameon=False, fontsize=_SMALL, loc="lower right")
    bar = fig.colorbar(ScalarMappable(norm, _EPOCH_COLOURS), ax=panels, pad=0.02, aspect=30)
    bar.set_ticks([first, *epochs])
    bar.set_label("epoch of the network", fontsize=_NORMAL)
    bar.ax.tick_params(labelsize=_SMALL)
    bar.outline.set_visible(False)
    _save(fig, Path(path))


def _draw_proportional(ax: Axes) -> None:
    """A line of the slope that growth in proportion to the size has."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    label = "in proportion"
    ends = [low, low * right / left]
    ax.plot([left, right], ends, color="0.7", linestyle=":", zorder=0, label=label)
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)


def architectures(rows: Rows, path: str | os.PathLike) -> None:
    """Draws error and spreads of networks on data of one and of two dimensions.

    Args:
        rows: a row for each data and network, in % of the truth: `data`, its `dims` (1 or 2),
            `network`, the mean `error`, and the standard deviations `over_seeds` and
            `over_architectures`. Data and networks are taken in order of first appearance, those
            of one dimension above those of two. Values that are not finite are left out.
        path: as for `information_plane`.

    Raises:
        ValueError: `rows` is empty or a key is missing.
    """
    _save(_architectures_figure(rows), Path(path))


def _architectures_figure(rows: Rows) -> Figure:
    """Builds the figure of `architectures`."""
    if not len(rows):
        raise ValueError("rows is empty: measure at least one network before drawing")
    _require_keys("rows", rows, _ARCHITECTURE_KEYS)
    dims = {row["data"]: row["dims"] for row in rows}
    data = sorted(dims, key=lambda name: dims[name])
    networks = list(dict.fromkeys(row["network"] for row in rows))
    fig = Figure(figsize=(7.2, 1.3 + 0.36 * len(data)), dpi=_DPI, layout="constrained")
    panels = fig.subplots(1, 3, sharey=True, width_ratios=(1.4, 1, 1))
    looks = {
        network: {"color": _COLOURS[i % len(_COLOURS)], "marker": _look(i)[0]}
        for i, network in enumerate(networks)
    }
    offsets = np.linspace(-0.3, 0.3, len(networks)) if len(networks) > 1 else [0.0]
    for row in rows:
        at = data.index(row["data"]) + offsets[networks.index(row["network"])]
        look = looks[row["network"]]
        error, seeds, others = (_finite(row[key]) for key in _ARCHITECTURE_KEYS[3:])
        if math.isfinite(error):
            bar = None if math.isnan(seeds) else seeds
            panels[0].errorbar(
                error, at, xerr=bar, **look, markersize=3.5, elinewidth=0.7, zorder=3
            )
        for ax, spread in zip(panels[1:], (seeds, others), strict=True):
            if math.isfinite(spread):
                ax.plot(
                    [spread], [at], **look, markersize=3.5, linestyle="", clip_on=False, zorder=3
                )
    labels = (
        "error (% of the truth)",
        "standard deviation over\nseeds (% of the truth)",
        "standard deviation over\narchitectures (% of the truth)",
    )
    for ax, label in zip(panels, labels, strict=True):
        _style(ax)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(label, fontsize=_NORMAL)
        for line in range(1, len(data)):
            between = dims[data[line]] != dims[data[line - 1]]
            ax.axhline(line - 0.5, color=_INK if between else "0.9", linewidth=0.6, zorder=0)
        ax.set_xscale("symlog", linthresh=_LINEAR_PERCENT)
    _ticks_in_percent(panels)
    panels[0].axvline(0, color=_GREY, linewidth=0.8, zorder=1)
    panels[0].set_ylim(len(data) - 0.5, -0.5)
    ticks = panels[0].set_yticks(
        range(len(data)), [f"{name}  {dims[name]}-D" for name in data], fontsize=_SMALL
    )
    for tick in ticks:
        tick.label1.set_parse_math(False)
    handles = [Line2D([], [], markersize=4.5, linestyle="", **look) for look in looks.values()]
    legend = fig.legend(
        handles,
        networks,
        loc="outside upper center",
        ncols=3,
        columnspacing=1.4,
        fontsize=_SMALL,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    caption = (
        "Above the line vectors, below it images and feature maps. Bars at the left: ± 1 standard "
        f"deviation over seeds. Axes are linear up to {_LINEAR_PERCENT} % and logarithmic beyond."
    )
    fig.supxlabel(textwrap.fill(caption, 125), x=0.02, ha="left", fontsize=_SMALL, color=_INK)
    return fig


def _ticks_in_percent(panels: Sequence[Axes]) -> None:
    """Sets limits and round ticks of a panel of errors and of two panels of spreads."""
    sizes = (1, 3, 10, 30, 100, 300, 1000)
    for ax in panels:
        low, high = ax.get_xlim()
        if ax is panels[0]:
            low, high = min(low, -1.0), max(high, 1.0)
        else:  # up to a tick, so that what is beyond the last but one can be read
            low, high = 0, next((size for size in sizes if size >= high), high)
        ticks = [0.0, *(at for size in sizes for at in (-size, size) if low <= at <= high)]
        ax.set_xlim(low, high)
        ax.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
        ax.xaxis.set_minor_locator(FixedLocator([]))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


class _Table(NamedTuple):
    """Records as arrays of shape (seeds, epochs, layers, 2), in nats, NaN where unknown."""

    seeds: tuple[int, ...]
    epochs: Array
    layers: tuple[str, ...]
    mi: Array
    stderr: Array
    reference: Array
    ceiling: Array


def _plane_figure(records: Rows, config: Mapping[str, Any]) -> Figure:
    """Builds the figure of `information_plane`."""
    table = _table(records, config)
    # A point needs both coordinates, from the same seeds.
    mi = np.where(np.isfinite(table.mi).all(-1, keepdims=True), table.mi, np.nan)
    mean, stderr = _over_seeds(mi, table.stderr)
    exact, _ = _over_seeds(table.reference, np.zeros_like(mi))
    fig = _figure(3.9, records, table, config, lost=~np.isfinite(mean).all(-1).any(0))
    ax = fig.add_subplot()
    drawn = np.concatenate([mi, exact[None]])
    _draw_ceiling(ax, "x", drawn[..., 0], stderr[..., 0], table, config)
    label = f"I({{}}; {_symbol(config)}), estimate (nats)"
    _draw_class_entropy(ax, drawn[..., 1], stderr[..., 1], config, label.format("Y"))
    ax.set_xlabel(label.format("X"), fontsize=_NORMAL)
    _style(ax)

    norm = Normalize(table.epochs[0], max(table.epochs[-1], table.epochs[0] + 1))
    colours = _EPOCH_COLOURS(norm(table.epochs))
    ends, paths = {}, []
    for i, layer in enumerate(table.layers):
        marker, line = _look(i)
        for one in mi[:, :, i] if len(table.seeds) > 1 else ():
            _plot(ax, *one.T, linestyle=line, color=_GREY, linewidth=0.4, alpha=0.6)
        _plot(ax, *exact[:, i].T, linestyle=_EXACT_DASH, color=_GREY, linewidth=0.7)
        ax.scatter(
            *exact[:, i].T, s=20, marker=marker, facecolors="white", edgecolors=colours, zorder=3
        )
        y_bars, x_bars = 2 * stderr[:, i, ::-1].T
        if len(table.seeds) > 1:
            _band(ax, mean[:, i], 2 * stderr[:, i])
        ax.errorbar(
            *mean[:, i].T, y_bars, x_bars, fmt="none", ecolor="0.7", elinewidth=0.5, zorder=1
        )
        _plot(ax, *mean[:, i].T, linestyle=line, color=_GREY, linewidth=1.0)
        ax.scatter(
            *mean[:, i].T,
            s=20,
            marker=marker,
            c=colours,
            edgecolors=_INK,
            linewidths=0.4,
            zorder=4,
        )
        points, truths = (at[np.isfinite(at).all(-1)] for at in (mean[:, i], exact[:, i]))
        if len(points):
            ends[layer] = points[-1]
        # Repeated, so that a name rather crosses a line than hides a marker.
        paths += [np.repeat(points, 4, axis=0), truths]
    if np.isfinite(exact).all(-1).any():
        keys = {"estimate": {"color": _GREY, "marker": "o"}} | _EXACT_KEY
        # A line higher than elsewhere, as the ceiling's label is right above these axes.
        _legend(ax, keys, rise=_SMALL + 4)
    if len(table.epochs) > 1:
        bar = fig.colorbar(ScalarMappable(norm, _EPOCH_COLOURS), ax=ax, pad=0.03, aspect=30)
        bar.locator = MaxNLocator(integer=True)
        bar.set_label("epoch", fontsize=_NORMAL)
        bar.ax.tick_params(labelsize=_SMALL)
        bar.outline.set_visible(False)
    _name_ends(ax, ends, paths)
    return fig


def _epochs_figure(records: Rows, training: Rows, config: Mapping[str, Any]) -> Figure:
    """Builds the figure of `mi_over_epochs`."""
    table = _table(records, config)
    accuracy = _accuracy(training)
    mean, stderr = _over_seeds(table.mi, table.stderr)
    exact, _ = _over_seeds(table.reference, np.zeros_like(table.mi))
    ratios = (1.0, 1.0, 0.6) if len(accuracy) else (1.0, 1.0)
    lost = ~np.isfinite(mean).any((0, 2))
    fig = _figure(1.2 + 1.6 * sum(ratios), records, table, config, lost)
    panels = fig.subplots(len(ratios), sharex=True, height_ratios=ratios)
    drawn = np.concatenate([table.mi, exact[None]])
    _draw_ceiling(panels[0], "y", drawn[..., 0], stderr[..., 0], table, config)
    label = f"I({{}}; {_symbol(config)})\nestimate (nats)"
    _draw_class_entropy(panels[1], drawn[..., 1], stderr[..., 1], config, label.format("Y"))
    panels[0].set_ylabel(label.format("X"), fontsize=_NORMAL)

    keys = {}
    for i, layer in enumerate(table.layers):
        marker, line = _look(i)
        keys[layer] = {"marker": marker, "linestyle": line, "color": _COLOURS[i % len(_COLOURS)]}
        truth = keys[layer] | {"linestyle": _EXACT_DASH, "markerfacecolor": "white"}
        for j, ax in enumerate(panels[:2]):
            for one in table.mi[:, :, i, j] if len(table.seeds) > 1 else ():
                style = keys[layer] | {"marker": ""}
                _plot(ax, table.epochs, one, **style, linewidth=0.4, alpha=0.6)
            _plot(ax, table.epochs, exact[:, i, j], **truth, markersize=4, linewidth=0.7)
            _plot(ax, table.epochs, mean[:, i, j], **keys[layer], markersize=4, linewidth=1.0)
            middle, half = mean[:, i, j], 2 * stderr[:, i, j]
            if len(table.seeds) > 1:
                colour, ends = keys[layer]["color"], (middle - half, middle + half)
                ax.fill_between(table.epochs, *ends, color=colour, alpha=0.15, linewidth=0)
            ax.errorbar(
                table.epochs,
                middle,
                half,
                fmt="none",
                ecolor=keys[layer]["color"],
                elinewidth=0.6,
                capsize=1.5,
            )
    if np.isfinite(exact).any():
        keys |= _EXACT_KEY
    _legend(panels[0], keys)
    if len(accuracy):
        panels[2].plot(*accuracy.T, color=_INK, linewidth=1.0, marker=".", markersize=4)
        panels[2].set_ylabel("test\naccuracy (%)", fontsize=_NORMAL)
    for ax in panels:
        _style(ax)
    panels[-1].set_xlabel("epoch", fontsize=_NORMAL)
    if len(table.epochs) > 1 or len(accuracy):
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        panels[-1].set_xticks(table.epochs)
    fig.align_ylabels()
    return fig


class _Answers(NamedTuple):
    """A problem's estimates, in nats, NaN where one is not finite; arrays are (seeds,)."""

    problem: str
    family: str
    held_out: bool
    truth: float
    nats: Array
    stderr: Array
    beyond: bool  # whether the truth is within a tenth of the ceiling, or above it


def _accuracy_figure(rows: Rows) -> Figure:
    """Builds the figure of `accuracy`."""
    answers = _answers(rows)
    ceiling = float(np.median([row["ceiling_nats"] for row in rows]))
    looks = {}
    for answer in answers:
        i = len(looks)
        look = {"marker": _look(i)[0], "color": _COLOURS[i % len(_COLOURS)]}
        looks.setdefault(answer.family, look)
    columns = 1 if len(answers) <= _MOST_LINES else 2
    lines = math.ceil(len(answers) / columns)
    heights = (4.4, 0.7 + 0.115 * lines)
    fig = Figure(figsize=(7.2, 0.5 + sum(heights)), dpi=_DPI, layout="constrained")
    above, below = fig.subfigures(2, height_ratios=heights)
    _draw_against_truth(above.add_subplot(), answers, looks, ceiling)
    panels = below.subplots(1, columns, squeeze=False)[0]
    ends = [_draw_errors(ax, answers[i * lines :][:lines], looks) for i, ax in enumerate(panels)]
    for ax in panels:
        ax.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))
        ax.set_ylim(lines - 0.4, -0.6)
    caption = (
        "Above: means over the seeds; bars: smallest to largest; filled: held out of all tuning; "
        "hollow: not. Below: single seeds, bars ± 2 standard errors"
    )
    if any(answer.beyond for answer in answers):
        caption += "; grey: truth above nine tenths of the ceiling"
    if lost := sum(int(np.isnan(answer.nats).sum()) for answer in answers):
        caption += f". Not finite, so not drawn: {lost} of {len(rows)} values"
    caption = textwrap.fill(caption + ".", 130)
    fig.supxlabel(caption, x=0.02, ha="left", fontsize=_SMALL, color=_INK, parse_math=False)
    return fig


def _answers(rows: Rows) -> list[_Answers]:
    """Checks the rows of `accuracy` and gathers them by problem."""
    if not len(rows):
        raise ValueError("rows is empty: measure at least one problem before drawing")
    _require_keys("rows", rows, _ACCURACY_KEYS)
    by_problem: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["problem"], []).append(row)
    return [
        _Answers(
            problem=str(problem),
            family=str(own[0]["family"]),
            held_out=bool(own[0]["held_out"]),
            truth=float(own[0]["truth_nats"]),
            nats=np.asarray([_finite(row["nats"]) for row in own]),
            stderr=np.nan_to_num([_finite(row["stderr"]) for row in own]),
            beyond=any(row["truth_nats"] > 0.9 * row["ceiling_nats"] for row in own),
        )
        for problem, own in by_problem.items()
    ]


def _draw_against_truth(
    ax: Axes,
    answers: Sequence[_Answers],
    looks: Mapping[str, Mapping[str, Any]],
    ceiling: float,
) -> None:
    """Draws the mean estimate of each problem against its truth."""
    truths = np.asarray([answer.truth for answer in answers])
    values = np.concatenate([answer.nats for answer in answers])
    reach = float(np.nanmax(np.append(values, truths)))
    low, high = -0.04 * reach - 0.02, 1.06 * reach + 0.05
    low_y = min(low, 1.06 * float(np.nanmin(np.append(values, 0.0))))
    ax.axline((0, 0), slope=1, color=_GREY, linewidth=0.8, zorder=1)
    if 0.9 * ceiling < high:
        ax.axhspan(0.9 * ceiling, min(ceiling, high), color=_LIMIT, alpha=0.1, linewidth=0)
        ax.annotate(
            f"ceiling {ceiling:.2f}",
            (0, min(ceiling, high)),
            (3, -3),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            va="top",
            fontsize=_SMALL,
            color=_LIMIT,
        )
    for answer in answers:
        known = answer.nats[np.isfinite(answer.nats)]
        if not known.size:
            continue
        look = looks[answer.family]
        mean = np.clip(known.mean(), known.min(), known.max())  # rounding may carry it outside
        ax.errorbar(
            answer.truth,
            mean,
            [[mean - known.min()], [known.max() - mean]],
            **look,
            markersize=4.5,
            markerfacecolor=look["color"] if answer.held_out else "white",
            markeredgewidth=0.7,
            elinewidth=0.7,
            capsize=1.5,
            zorder=3,
        )
    ax.set_xlim(low, high)
    ax.set_ylim(low_y, high)
    ax.set_box_aspect(1)
    ax.set_xlabel("true mutual information (nats)", fontsize=_NORMAL)
    ax.set_ylabel("estimate (nats)", fontsize=_NORMAL)
    _style(ax)
    handles = [Line2D([], [], markersize=4.5, linestyle="", **look) for look in looks.values()]
    legend = ax.legend(
        handles,
        list(looks),
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        borderaxespad=0,
        fontsize=_SMALL,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_errors(
    ax: Axes, answers: Sequence[_Answers], looks: Mapping[str, Mapping[str, Any]]
) -> tuple[float, float]:
    """Draws estimate − truth, a line for each problem; returns the ends of what was drawn."""
    ax.axvline(0, color=_GREY, linewidth=0.8, zorder=1)
    ends = [-0.1, 0.1]
    for line, answer in enumerate(answers):
        error = answer.nats - answer.truth
        at = line + np.linspace(-0.2, 0.2, len(error)) if len(error) > 1 else [line]
        look = looks[answer.family] | ({"color": "0.6"} if answer.beyond else {})
        ax.errorbar(
            error,
            at,
            xerr=2 * answer.stderr,
            **look,
            linestyle="",
            markersize=2.2,
            markeredgewidth=0,
            elinewidth=0.5,
            zorder=3,
        )
        known = np.isfinite(error)
        ends += [*(error - 2 * answer.stderr)[known], *(error + 2 * answer.stderr)[known]]
    names = ax.set_yticks(range(len(answers)), [answer.problem for answer in answers])
    for tick, answer in zip(names, answers, strict=True):
        tick.label1.set_parse_math(False)
        tick.label1.set_color(_GREY if answer.beyond else looks[answer.family]["color"])
    ax.set_xscale("symlog", linthresh=0.1)
    ax.xaxis.set_major_locator(FixedLocator([-10, -1, -0.1, 0, 0.1, 1, 10]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    ax.set_xlabel("estimate − truth (nats)", fontsize=_NORMAL)
    _style(ax)
    ax.tick_params(axis="y", labelsize=_TINY, length=0, pad=2)
    return 1.15 * min(ends), 1.15 * max(ends)


def _table(records: Rows, config: Mapping[str, Any]) -> _Table:
    """Checks records and configuration and lays the records out as arrays."""
    if not len(records):
        raise ValueError("records is empty: probe at least once before drawing")
    _require_keys("records", records, _RECORD_KEYS)
    _require_keys("config", [config], _CONFIG_KEYS)
    for i, row in enumerate(records):
        if row["variable"] not in _VARIABLES:
            raise ValueError(f'records[{i}]: variable is {row["variable"]!r}, not "x" or "y"')
    seeds = sorted({row["seed"] for row in records})
    epochs = sorted({row["epoch"] for row in records})
    layers = list(dict.fromkeys(row["layer"] for row in records))
    shape = (len(seeds), len(epochs), len(layers), len(_VARIABLES))
    columns = {
        key: np.full(shape, np.nan)
        for key in ("mi_nats", "stderr", "reference_nats", "ceiling_nats")
    }
    for row in records:
        at = (
            seeds.index(row["seed"]),
            epochs.index(row["epoch"]),
            layers.index(row["layer"]),
            _VARIABLES.index(row["variable"]),
        )
        for key, column in columns.items():
            column[at] = _finite(row[key])
    return _Table(
        seeds=tuple(seeds),
        epochs=np.asarray(epochs, float),
        layers=tuple(map(str, layers)),
        mi=columns["mi_nats"],
        stderr=columns["stderr"],
        reference=columns["reference_nats"],
        ceiling=columns["ceiling_nats"],
    )


def _accuracy(training: Rows) -> Array:
    """Returns epochs and mean test accuracies in per cent, (epochs, 2), known ones only."""
    _require_keys("training", training, _TRAINING_KEYS)
    by_epoch: dict[int, list[float]] = {}
    for row in training:
        if not math.isnan(value := _finite(row["test_accuracy"])):
            by_epoch.setdefault(row["epoch"], []).append(100 * value)
    return np.asarray([(e, np.mean(v)) for e, v in sorted(by_epoch.items())]).reshape(-1, 2)


def _require_keys(name: str, rows: Rows, keys: Sequence[str]) -> None:
    """Raises ValueError that names the first row with missing keys, and those keys."""
    for i, row in enumerate(rows):
        if missing := [key for key in keys if key not in row]:
            place = name if name == "config" else f"{name}[{i}]"
            raise ValueError(f"{place} lacks {', '.join(missing)}; it has {', '.join(row)}")


def _finite(value: float | None) -> float:
    """Returns the value, or NaN for None and anything that is not finite."""
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _over_seeds(values: Array, stderr: Array) -> tuple[Array, Array]:
    """Averages over the first axis, passing over NaN.

    Returns:
        The mean, and its standard error: from the spread of the seeds where there are several,
        else the value's own. NaN and zero respectively where nothing is known.
    """
    known = np.isfinite(values)
    count = known.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, values, 0).sum(0) / count
        spread = np.sqrt(np.where(known, (values - mean) ** 2, 0).sum(0) / (count - 1) / count)
    own = np.where(known, np.nan_to_num(stderr), 0).sum(0)
    return mean, np.where(count > 1, spread, own)


def _figure(
    height: float, records: Rows, table: _Table, config: Mapping[str, Any], lost: NDArray[np.bool_]
) -> Figure:
    """Makes an empty figure with the notice above and the caption below."""
    fig = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    if config["notice"]:
        notice = textwrap.fill(str(config["notice"]), 72)
        fig.suptitle(notice, fontsize=_NORMAL, color=_LIMIT, parse_math=False)
    seeds = [config["seed"]] if len(table.seeds) == 1 else table.seeds
    bars = "standard errors" if len(seeds) == 1 else "standard errors of the mean over seeds"
    caption = (
        f"{config['dataset']}; n = {config['probe_size']:,} samples, values from "
        f"{config['report_size']:,} of them; seed{'s'[: len(seeds) > 1]} "
        f"{', '.join(map(str, seeds))}. Bars{' and bands' * (len(seeds) > 1)}: ± 2 {bars}."
    )
    if len(table.epochs) == 1:
        caption += f" Epoch {table.epochs[0]:g} only."
    if len(seeds) > 1:
        caption += " Thin lines: single seeds."
    if config.get("noise_std"):
        caption += (
            f" T: the layer with Gaussian noise, σ = {config['noise_std']:g}"
            + (" × root mean variance of its units" * (config.get("noise") == "relative"))
            + f". Exact values: of the {config['probe_size']:,} samples alone."
        )
    if unfinished := sum(not row["converged"] for row in records):
        caption += f" Not converged: {unfinished} of {len(records)} estimates."
    if names := [layer for layer, gone in zip(table.layers, lost, strict=True) if gone]:
        caption += f" No finite value to draw: {', '.join(names)}."
    fig.supxlabel(
        textwrap.fill(caption, 86),
        x=0.02,
        ha="left",
        fontsize=_SMALL,
        color=_INK,
        parse_math=False,
    )
    return fig


def _draw_ceiling(
    ax: Axes, axis: str, values: Array, stderr: Array, table: _Table, config: Mapping[str, Any]
) -> None:
    """Sets the range of the axis of I(X; L), "x" or "y", and draws the ceiling across it.

    A ceiling so far off that the values would fill under a third of the axis is only announced.
    """
    known = table.ceiling[..., 0][np.isfinite(table.ceiling[..., 0])]
    ceiling = float(known.max()) if known.size else math.log(config["report_size"])
    n = round(math.exp(min(ceiling, 50.0)))
    sizes = (config["probe_size"], config["report_size"])
    label = ["ceiling", *([f"ln {n:,} ="] if n in sizes else []), f"{ceiling:.2f}"]
    low, high = _range(values, stderr)
    low = min(low, ceiling)
    if (high - low) > (ceiling - low) / 3:
        high = max(high, ceiling + 0.04 * (ceiling - low))
    if axis == "x":
        ax.set_xlim(low, high)
        _draw_limit(ax, axis, ceiling, " ".join([*label, "→"] if ceiling > high else label))
    else:
        ax.set_ylim(low, high)
        _draw_limit(ax, axis, ceiling, "\n".join(["↑", *label] if ceiling > high else label))


def _draw_limit(ax: Axes, axis: str, limit: float, label: str) -> None:
    """Draws a line at a limit on one axis, and its label outside the axes, where nothing is.

    Of a limit beyond the axis there is only the label, at the end of the axis.
    """
    style = {"fontsize": _SMALL, "color": _LIMIT, "textcoords": "offset points"}
    if axis == "x":
        at, across = (min(limit, ax.get_xlim()[1]), 1), ax.get_xaxis_transform()
        ax.annotate(label, at, (0, 3), xycoords=across, ha="right", va="bottom", **style)
        ax.axvline(limit, color=_LIMIT, linewidth=0.8, zorder=1)
    else:
        at, across = (1, min(limit, ax.get_ylim()[1])), ax.get_yaxis_transform()
        ax.annotate(label, at, (3, 4), xycoords=across, va="top", **style)
        ax.axhline(limit, color=_LIMIT, linewidth=0.8, zorder=1)


def _draw_class_entropy(
    ax: Axes, values: Array, stderr: Array, config: Mapping[str, Any], label: str
) -> None:
    """Sets the vertical axis of I(Y; L), stretched near H(Y) if need be, and draws H(Y)."""
    entropy = float(config["class_entropy_nats"])
    low, high = _range(np.append(values, entropy), stderr)
    known = values[np.isfinite(values)]
    near = np.abs(known - entropy) < 0.2 * (entropy - low)
    if known.size and near.mean() > 0.5:
        # Linear within the noise and logarithmic beyond it, so that noise is not blown up.
        noise = np.median(stderr[stderr > 0]) if (stderr > 0).any() else 0.0
        width = max(2 * noise, np.median(np.abs(known - entropy)), 1e-3)

        def stretch(y: Array) -> Array:
            return np.arcsinh((np.asarray(y) - entropy) / width)

        def shrink(y: Array) -> Array:
            return entropy + width * np.sinh(y)

        ax.set_yscale("function", functions=(stretch, shrink))
        top = stretch(max(known.max() + 2 * noise, entropy))
        high = float(shrink(top + 0.08 * (top - stretch(low))))
        ticks = _stretched_ticks(ax, low, high, entropy)
        decimals = max((len(f"{tick:g}".partition(".")[2]) for tick in ticks), default=0)
        ax.set_yticks(ticks, [f"{tick:.{decimals}f}" for tick in ticks])
        label += "\nstretched near H(Y)"
    ax.set_ylim(low, high)
    ax.set_ylabel(label, fontsize=_NORMAL)
    _draw_limit(ax, "y", entropy, f"H(Y)\n{entropy:.2f}")


def _range(values: Array, stderr: Array) -> tuple[float, float]:
    """Returns the ends of an axis that shows the values and, unless they are huge, their bars."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    span = max(high - low, 0.05 * abs(high), 0.01)
    margin = max(0.07 * span, min(2.2 * float(stderr.max()), 0.25 * span))
    return low - margin, high + margin


def _stretched_ticks(ax: Axes, low: float, high: float, centre: float) -> list[float]:
    """Chooses round tick values that stand apart: coarse ones, and finer ones near the centre."""
    place = ax.yaxis.get_transform().transform
    gap = 0.075 * np.ptp(place(np.array([low, high])))
    ticks: list[float] = []
    for step in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005):
        first, last = max(low, centre - 5 * step), min(high, centre + 5 * step)
        for k in range(math.ceil(first / step), math.floor(last / step) + 1):
            tick = round(k * step, 3)
            if all(abs(np.diff(place(np.array([tick, other])))) >= gap for other in ticks):
                ticks.append(tick)
    return sorted(ticks)


def _symbol(config: Mapping[str, Any]) -> str:
    """Returns what is drawn: L, or T where the layers are observed with noise."""
    return "T" if config.get("noise_std") else "L"


def _look(i: int) -> tuple[str, Any]:
    """Returns marker and line style of the i-th layer, the same in all figures."""
    return _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)]


def _style(ax: Axes) -> None:
    """Applies the common look of all panels."""
    ax.tick_params(labelsize=_SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.93", linewidth=0.5)
    ax.set_axisbelow(True)


def _plot(ax: Axes, x: Array, y: Array, **style: object) -> None:
    """Plots a line through the points that are finite, across gaps."""
    ok = np.isfinite(x) & np.isfinite(y)
    ax.plot(x[ok], y[ok], **style)


def _band(ax: Axes, points: Array, halves: Array) -> None:
    """Fills what a box of half the size `halves`, (n, 2), covers on its way along `points`."""
    ok = np.isfinite(points).all(-1) & np.isfinite(halves).all(-1)
    signs = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])
    boxes = points[ok, None] + halves[ok, None] * signs
    # Both boxes and the four sides' ways from one to the other: their hull, in one colour.
    ways = [
        np.stack([before[k], before[k - 1], after[k - 1], after[k]])
        for before, after in itertools.pairwise(boxes)
        for k in range(4)
    ]
    ax.add_collection(
        PolyCollection([*boxes, *ways], facecolors="0.9", edgecolors="none", zorder=0.5)
    )


def _legend(ax: Axes, labels: Mapping[str, Mapping[str, Any]], rise: float = 0.0) -> None:
    """Explains lines, given as label to style, `rise` points above the axes at the left."""
    legend = ax.legend(
        [Line2D([], [], markersize=4, linewidth=1.0, **style) for style in labels.values()],
        list(labels),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        bbox_transform=ax.transAxes
        + ScaledTranslation(0, rise / 72, ax.get_figure().dpi_scale_trans),
        borderaxespad=0.3,
        borderpad=0,
        ncols=5,
        columnspacing=1.2,
        fontsize=_SMALL,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _name_ends(ax: Axes, ends: Mapping[str, Array], paths: Sequence[Array]) -> None:
    """Writes each name near its point, where it covers least, with a short leader line.

    Args:
        ax: axes with their final limits.
        ends: name to the end of its path, (2,), in data units.
        paths: what the names should leave free, each (n, 2), in data units.
    """
    fig = ax.figure
    fig.draw_without_rendering()  # settles the layout that the names are fitted into
    fig.set_layout_engine("none")
    pixels = fig.dpi / 72  # in a point
    frame = ax.get_window_extent()
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ways = np.stack([np.cos(angles), np.sin(angles)], -1)
    to_border = ways / np.abs(ways).max(-1, keepdims=True)  # of a box with half sides of one
    gaps = np.repeat((5, 9, 14, 20, 28, 38, 50), len(ways))[:, None] * pixels
    ways, to_border = np.tile(ways, (7, 1)), np.tile(to_border, (7, 1))
    taken = [_dense(ax.transData.transform(path), pixels) for path in paths]
    for name, end in sorted(ends.items(), key=lambda item: -item[1][1]):
        text = ax.annotate(
            name,
            end,
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_NORMAL,
            color=_INK,
            path_effects=_HALO,
            parse_math=False,
            zorder=6,
        )
        half = text.get_window_extent().size / 2 + pixels
        start = ax.transData.transform(end)
        centres = start + gaps * ways + half * to_border
        apart = np.abs(np.concatenate(taken) - centres[:, None])
        covered = (apart < half + 2 * pixels).all(-1).sum(-1)
        outside = ((centres - half < frame.min) | (centres + half > frame.max)).any(-1)
        best = np.argmin(gaps[:, 0] / pixels + 2 * covered + 1000 * outside)
        text.set_position((centres[best] - start) / pixels)
        leader = np.stack([start, start + gaps[best] * ways[best]])
        ax.plot(*ax.transData.inverted().transform(leader).T, color=_INK, linewidth=0.4, zorder=3)
        rows = [centres[best] + half * [(-1, k), (1, k)] for k in (-1, -0.5, 0, 0.5, 1)]
        taken += [_dense(row, pixels) for row in [*rows, leader]]


def _dense(path: Array, step: float) -> Array:
    """Adds points to a path, (n, 2), so that neighbours are at most about a step apart."""
    pieces = [path]
    for start, end in itertools.pairwise(path):
        pieces.append(np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / step)))
    return np.concatenate(pieces)


def _save(fig: Figure, path: Path) -> None:
    """Writes the figure beside its destination, then moves it there in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        fig.savefig(partial, format=path.suffix.lstrip(".") or "png")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
