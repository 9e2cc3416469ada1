"""Figures of the experiments: rows in, image files out."""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from mine_jax.information_plane.figures import (
    COLORS,
    DPI,
    EPOCH_COLORS,
    GREY,
    INK,
    LIMIT,
    MARKERS,
    NORMAL,
    SMALL,
    TINY,
    Array,
    Rows,
    finite_or_nan,
    look_of,
    mean_over_seeds,
    require_keys,
    save,
    style_axes,
)

MAX_LINES = 30  # in a column of problems
LINEAR_PERCENT = 3  # up to which errors and spreads are on a linear scale
ACCURACY_KEYS = (
    *("problem", "family", "held_out", "truth_nats"),
    *("nats", "stderr", "ceiling_nats"),
)
GROWTH_KEYS = ("what", "size", "value", "milliseconds", "fastest", "slowest")
ARCHITECTURE_KEYS = ("data", "dims", "network", "error", "over_seeds", "over_architectures")
WARM_START_KEYS = (
    *("carry", "epoch", "source", "layer", "variable", "curve_steps", "curve"),
    "reference_nats",
)


def accuracy(rows: Rows, path: str | os.PathLike | None = None) -> Figure:
    """Draw estimates against the truths that they should have, and every problem's error.

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
    return save(_accuracy_figure(rows), path)


def growth(rows: Rows, path: str | os.PathLike | None = None) -> Figure:
    """Draw time as one size grows at a time.

    Args:
      rows: a row for each curve and size: `what` is measured, `size` that grows, its `value`,
        `milliseconds` with `fastest` and `slowest`.
      path: as for `information_plane`.

    Raises:
      ValueError: `rows` is empty or a key is missing.
    """
    require_keys("rows", rows, GROWTH_KEYS)
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    fig = Figure(figsize=(2.3 * len(sizes), 2.7), layout="constrained")
    axes = fig.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for i, size in enumerate(sizes):
        for j, what in enumerate(dict.fromkeys(row["what"] for row in rows)):
            own = [row for row in rows if (row["size"], row["what"]) == (size, what)]
            if not own:
                continue
            values = [row["value"] for row in own]
            colour, marker = COLORS[j + 1], MARKERS[j]
            times = [row["milliseconds"] for row in own]
            axes[i].plot(values, times, color=colour, marker=marker, label=what)
            axes[i].fill_between(
                values,
                [row["fastest"] for row in own],
                [row["slowest"] for row in own],
                color=colour,
                alpha=0.2,
                linewidth=0,
            )
        values = sorted({row["value"] for row in rows if row["size"] == size})
        axes[i].set_xscale("log")
        axes[i].set_yscale("log")
        style_axes(axes[i])
        axes[i].xaxis.set_major_locator(FixedLocator([values[0], values[-1]]))
        axes[i].xaxis.set_minor_locator(FixedLocator([]))
        axes[i].set_xticklabels([f"{value:,}" for value in (values[0], values[-1])])
        axes[i].set_xlabel(size)
    for ax in axes:  # they share their limits, which are known now
        _draw_proportional(ax)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend(frameon=False, fontsize="small")
    return save(fig, path)


def warm_start(
    rows: Rows, path: str | os.PathLike | None = None, *, layer: str, variable: str
) -> Figure:
    """Draw how fits went with and without networks carried over, a curve for each epoch.

    Left with, right without, as on the poster of Tokovenko, Rigter and Ilse. A curve is the mean
    over the networks; those that have ended keep their last value.

    Args:
      rows: a row for each fit: `carry` ("chain" or "cold"; others are left out), `epoch`,
        `source` (that a carried one comes from), `layer`, `variable`, `curve` (values on the
        validation samples, nats), `curve_steps` between them, and `reference_nats`, the exact
        value or None.
      path: as for `information_plane`.
      layer: the layer to draw.
      variable: "x" or "y".

    Raises:
      ValueError: `rows` is empty, a key is missing, or there is nothing of that layer.
    """
    require_keys("rows", rows, WARM_START_KEYS)
    own = [row for row in rows if (row["layer"], row["variable"]) == (layer, variable)]
    epochs = sorted({row["epoch"] for row in own if row["carry"] == "chain"})
    if not epochs:
        raise ValueError(f"no fit of I({variable.upper()};{layer}) is carried along a chain")
    first = min(row["source"] for row in own if row["carry"] == "chain")
    norm = Normalize(first, max(epochs[-1], first + 1))
    fig = Figure(figsize=(6.2, 3.0), dpi=DPI, layout="constrained")
    panels = fig.subplots(1, 2, sharex=True, sharey=True)
    for ax, carry, title in (
        (panels[0], "chain", "Warm start"),
        (panels[1], "cold", "Cold start"),
    ):
        # The first round of a chain is a cold one.
        for epoch in (first, *epochs):
            fits = [
                row
                for row in own
                if row["epoch"] == epoch and row["carry"] == (carry if epoch > first else "cold")
            ]
            colour = EPOCH_COLORS(norm(epoch))
            checks = max(len(row["curve"]) for row in fits)
            curves = np.array(
                [
                    [finite_or_nan(value) for value in row["curve"]]
                    + [finite_or_nan(row["curve"][-1])] * (checks - len(row["curve"]))
                    for row in fits
                ]
            )
            steps = np.arange(checks) * fits[0]["curve_steps"]
            mean, _ = mean_over_seeds(curves, np.zeros_like(curves))
            ax.plot(steps, mean, color=colour, linewidth=1.1)
            exact, _ = mean_over_seeds(
                np.array([[finite_or_nan(row["reference_nats"])] for row in fits]), np.zeros(1)
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
        ax.set_title(title, fontsize=NORMAL)
        ax.set_xlabel("MINE steps", fontsize=NORMAL)
        style_axes(ax)
    kind = "T" if any(row["reference_nats"] is not None for row in own) else "L"
    name = f"I({variable.upper()}; {kind}) of {layer}"
    panels[0].set_ylabel(f"{name}, validation samples (nats)", fontsize=NORMAL)
    if kind == "T":
        mark = Line2D(
            [], [], color=GREY, marker="<", markerfacecolor="white", linestyle="", markersize=4
        )
        panels[1].legend([mark], ["reference"], frameon=False, fontsize=SMALL, loc="lower right")
    bar = fig.colorbar(ScalarMappable(norm, EPOCH_COLORS), ax=panels, pad=0.02, aspect=30)
    bar.set_ticks([first, *epochs])
    bar.set_label("epoch of the network", fontsize=NORMAL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)
    return save(fig, path)


def _draw_proportional(ax: Axes) -> None:
    """A line of the slope that growth in proportion to the size has."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    label = "in proportion"
    ends = [low, low * right / left]
    ax.plot([left, right], ends, color="0.7", linestyle=":", zorder=0, label=label)
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)


def architectures(rows: Rows, path: str | os.PathLike | None = None) -> Figure:
    """Draw error and spreads of networks on data of one and of two dimensions.

    Args:
      rows: a row for each data and network, in % of the truth: `data`, its `dims` (1 or 2),
        `network`, the mean `error`, and the standard deviations `over_seeds` and
        `over_architectures`. Data and networks are taken in order of first appearance, those
        of one dimension above those of two. Values that are not finite are left out.
      path: as for `information_plane`.

    Raises:
      ValueError: `rows` is empty or a key is missing.
    """
    return save(_architectures_figure(rows), path)


def _architectures_figure(rows: Rows) -> Figure:
    """Build the figure of `architectures`."""
    if not len(rows):
        raise ValueError("rows is empty: measure at least one network before drawing")
    require_keys("rows", rows, ARCHITECTURE_KEYS)
    dims = {row["data"]: row["dims"] for row in rows}
    data = sorted(dims, key=lambda name: dims[name])
    networks = list(dict.fromkeys(row["network"] for row in rows))
    fig = Figure(figsize=(7.2, 1.3 + 0.36 * len(data)), dpi=DPI, layout="constrained")
    panels = fig.subplots(1, 3, sharey=True, width_ratios=(1.4, 1, 1))
    looks = {
        network: {"color": COLORS[i % len(COLORS)], "marker": look_of(i)[0]}
        for i, network in enumerate(networks)
    }
    offsets = np.linspace(-0.3, 0.3, len(networks)) if len(networks) > 1 else [0.0]
    for row in rows:
        at = data.index(row["data"]) + offsets[networks.index(row["network"])]
        look = looks[row["network"]]
        error, seeds, others = (finite_or_nan(row[key]) for key in ARCHITECTURE_KEYS[3:])
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
        style_axes(ax)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(label, fontsize=NORMAL)
        for line in range(1, len(data)):
            between = dims[data[line]] != dims[data[line - 1]]
            ax.axhline(line - 0.5, color=INK if between else "0.9", linewidth=0.6, zorder=0)
        ax.set_xscale("symlog", linthresh=LINEAR_PERCENT)
    _ticks_in_percent(panels)
    panels[0].axvline(0, color=GREY, linewidth=0.8, zorder=1)
    panels[0].set_ylim(len(data) - 0.5, -0.5)
    ticks = panels[0].set_yticks(
        range(len(data)), [f"{name}  {dims[name]}-D" for name in data], fontsize=SMALL
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
        fontsize=SMALL,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    caption = (
        "Above the line vectors, below it images and feature maps. Bars at the left: ± 1 standard "
        f"deviation over seeds. Axes are linear up to {LINEAR_PERCENT} % and logarithmic beyond."
    )
    fig.supxlabel(textwrap.fill(caption, 125), x=0.02, ha="left", fontsize=SMALL, color=INK)
    return fig


def _ticks_in_percent(panels: Sequence[Axes]) -> None:
    """Set limits and round ticks of a panel of errors and of two panels of spreads."""
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
    """Build the figure of `accuracy`."""
    answers = _answers(rows)
    ceiling = float(np.median([row["ceiling_nats"] for row in rows]))
    looks = {}
    for answer in answers:
        i = len(looks)
        look = {"marker": look_of(i)[0], "color": COLORS[i % len(COLORS)]}
        looks.setdefault(answer.family, look)
    columns = 1 if len(answers) <= MAX_LINES else 2
    lines = math.ceil(len(answers) / columns)
    heights = (4.4, 0.7 + 0.115 * lines)
    fig = Figure(figsize=(7.2, 0.5 + sum(heights)), dpi=DPI, layout="constrained")
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
    fig.supxlabel(caption, x=0.02, ha="left", fontsize=SMALL, color=INK, parse_math=False)
    return fig


def _answers(rows: Rows) -> list[_Answers]:
    """Check the rows of `accuracy` and gathers them by problem."""
    if not len(rows):
        raise ValueError("rows is empty: measure at least one problem before drawing")
    require_keys("rows", rows, ACCURACY_KEYS)
    by_problem: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["problem"], []).append(row)
    return [
        _Answers(
            problem=str(problem),
            family=str(own[0]["family"]),
            held_out=bool(own[0]["held_out"]),
            truth=float(own[0]["truth_nats"]),
            nats=np.asarray([finite_or_nan(row["nats"]) for row in own]),
            stderr=np.nan_to_num([finite_or_nan(row["stderr"]) for row in own]),
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
    """Draw the mean estimate of each problem against its truth."""
    truths = np.asarray([answer.truth for answer in answers])
    values = np.concatenate([answer.nats for answer in answers])
    reach = float(np.nanmax(np.append(values, truths)))
    low, high = -0.04 * reach - 0.02, 1.06 * reach + 0.05
    low_y = min(low, 1.06 * float(np.nanmin(np.append(values, 0.0))))
    ax.axline((0, 0), slope=1, color=GREY, linewidth=0.8, zorder=1)
    if 0.9 * ceiling < high:
        ax.axhspan(0.9 * ceiling, min(ceiling, high), color=LIMIT, alpha=0.1, linewidth=0)
        ax.annotate(
            f"ceiling {ceiling:.2f}",
            (0, min(ceiling, high)),
            (3, -3),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            va="top",
            fontsize=SMALL,
            color=LIMIT,
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
    ax.set_xlabel("true mutual information (nats)", fontsize=NORMAL)
    ax.set_ylabel("estimate (nats)", fontsize=NORMAL)
    style_axes(ax)
    handles = [Line2D([], [], markersize=4.5, linestyle="", **look) for look in looks.values()]
    legend = ax.legend(
        handles,
        list(looks),
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        borderaxespad=0,
        fontsize=SMALL,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_errors(
    ax: Axes, answers: Sequence[_Answers], looks: Mapping[str, Mapping[str, Any]]
) -> tuple[float, float]:
    """Draw estimate − truth, a line for each problem; returns the ends of what was drawn."""
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
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
        tick.label1.set_color(GREY if answer.beyond else looks[answer.family]["color"])
    ax.set_xscale("symlog", linthresh=0.1)
    ax.xaxis.set_major_locator(FixedLocator([-10, -1, -0.1, 0, 0.1, 1, 10]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    ax.set_xlabel("estimate − truth (nats)", fontsize=NORMAL)
    style_axes(ax)
    ax.tick_params(axis="y", labelsize=TINY, length=0, pad=2)
    return 1.15 * min(ends), 1.15 * max(ends)
