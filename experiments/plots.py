"""Figures of the experiments: rows in, image files out."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from mine_jax.information_plane.figure_style import (
    DPI,
    GREY,
    INK,
    LIMIT,
    NORMAL,
    SMALL,
    Look,
    add_caption,
    add_legend,
    look_of,
    save,
    style_axes,
)
from mine_jax.information_plane.figure_table import (
    Array,
    Rows,
    finite_or_nan,
    mean_over_seeds,
    require_keys,
)

TINY = 5.5  # points
MAX_LINES = 30  # in a column of problems
LINEAR_PERCENT = 3  # up to which errors and spreads are on a linear scale
NEAR_CEILING = 0.9  # fraction of the ceiling, above which a truth cannot be expected to be found
# The lightest fifth of viridis is left out: it would be lost on white paper.
EPOCH_COLORS = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.82, 256)))
ACCURACY_KEYS = (
    *("problem", "family", "held_out", "truth_nats"),
    *("nats", "stderr", "ceiling_nats"),
)
ARCHITECTURE_KEYS = ("data", "dims", "network", "error", "over_seeds", "over_architectures")
GROWTH_KEYS = ("what", "size", "value", "milliseconds", "fastest", "slowest")
WARM_START_KEYS = (
    *("start", "epoch", "source", "layer", "variable"),
    *("curve_steps", "curve", "reference_nats"),
)


def growth(rows: Rows, path: str | os.PathLike | None = None) -> Figure:
    """Draw time as one size grows at a time.

    Args:
      rows: a row for each curve and size: `what` is measured, `size` that grows, its `value`,
        `milliseconds` with `fastest` and `slowest`.
      path: PNG file to write; a PDF of the same name is written beside it. None for no file.

    Returns:
      The figure.

    Raises:
      ValueError: `rows` is empty or a key is missing.
    """
    require_keys("rows", rows, GROWTH_KEYS)
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    looks = {row["what"]: {} for row in rows}
    looks = {what: look_of(i + 1) for i, what in enumerate(looks)}
    fig = Figure(figsize=(2.3 * len(sizes), 2.7), layout="constrained")
    panels = fig.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for ax, size in zip(panels, sizes, strict=True):
        for what, look in looks.items():
            curve = [row for row in rows if (row["size"], row["what"]) == (size, what)]
            values, times, *ends = ([row[key] for row in curve] for key in GROWTH_KEYS[2:])
            if curve:
                ax.plot(values, times, label=what, **look)
                ax.fill_between(values, *ends, color=look["color"], alpha=0.2, linewidth=0)
        values = [row["value"] for row in rows if row["size"] == size]
        ticks = [min(values), max(values)]
        ax.set_xscale("log")
        ax.set_yscale("log")
        style_axes(ax)
        ax.set_xticks(ticks, [f"{value:,}" for value in ticks])
        ax.set_xticks([], minor=True)
        ax.set_xlabel(size)
    for ax in panels:  # they share their limits, which are known now
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        line = {"color": "0.7", "linestyle": ":", "zorder": 0, "label": "in proportion"}
        ax.plot([left, right], [low, low * right / left], **line)
        ax.set_xlim(left, right)
        ax.set_ylim(low, high)
    panels[0].set_ylabel("milliseconds")
    panels[0].legend(frameon=False, fontsize="small")
    return save(fig, path)


def warm_start(
    rows: Rows, path: str | os.PathLike | None = None, *, layer: str, variable: str
) -> Figure:
    """Draw the course of fits with warm and with cold starts, a curve for each epoch.

    Left warm, right cold, as on the poster of Tokovenko, Rigter and Ilse. A curve is the mean over
    the networks; those that have ended keep their last value.

    Args:
      rows: a row for each fit: `start` ("chain" or "cold"; others are left out), `epoch`, `source`
        (epoch of the networks that a warm start takes), `layer`, `variable`, `curve` (values on
        the validation samples, nats), `curve_steps` between them, and `reference_nats` or None.
      path: as for `growth`.
      layer: the layer to draw.
      variable: "x" or "y".

    Returns:
      The figure.

    Raises:
      ValueError: `rows` is empty, a key is missing, or that layer has no warm start.
    """
    require_keys("rows", rows, WARM_START_KEYS)
    fits = [row for row in rows if (row["layer"], row["variable"]) == (layer, variable)]
    warm = [row for row in fits if row["start"] == "chain"]
    if not warm:
        raise ValueError(f"rows has no warm start of I({variable.upper()}; {layer}) in a chain")
    first = min(row["source"] for row in warm)  # the first round of a chain is a cold one
    epochs = [first, *sorted({row["epoch"] for row in warm})]
    norm = Normalize(first, max(epochs[-1], first + 1))
    fig = Figure(figsize=(6.2, 3.0), dpi=DPI, layout="constrained")
    panels = fig.subplots(1, 2, sharex=True, sharey=True)
    mark = {"marker": "<", "markersize": 4, "markerfacecolor": "white", "linestyle": ""}
    for ax, start in zip(panels, ("chain", "cold"), strict=True):
        for epoch in epochs:
            kind = start if epoch > first else "cold"
            group = [row for row in fits if (row["epoch"], row["start"]) == (epoch, kind)]
            if not group:
                continue
            color = EPOCH_COLORS(norm(epoch))
            curve = _mean_curve(group)
            ax.plot(np.arange(len(curve)) * group[0]["curve_steps"], curve, color=color)
            references = np.array([finite_or_nan(row["reference_nats"]) for row in group])
            if np.isfinite(references).any():
                look = mark | {"color": color, "transform": ax.get_yaxis_transform()}
                ax.plot(1.02, np.nanmean(references), clip_on=False, **look)
        ax.set_title("Warm start" if start == "chain" else "Cold start", fontsize=NORMAL)
        ax.set_xlabel("MINE steps", fontsize=NORMAL)
        style_axes(ax)
    noisy = any(row["reference_nats"] is not None for row in fits)
    name = f"I({variable.upper()}; {'T' if noisy else 'L'}) of {layer}"
    panels[0].set_ylabel(f"{name}, validation samples (nats)", fontsize=NORMAL)
    if noisy:
        add_legend(panels[1], {"reference": mark | {"color": GREY}}, loc="lower right")
    bar = fig.colorbar(ScalarMappable(norm, EPOCH_COLORS), ax=panels, pad=0.02, aspect=30)
    bar.set_ticks(epochs)
    bar.set_label("epoch of LeNet-5", fontsize=NORMAL)
    bar.ax.tick_params(labelsize=SMALL)
    return save(fig, path)


def _mean_curve(fits: Rows) -> Array:
    """Average the curves of fits, the shorter ones continued by their last value."""
    length = max(len(row["curve"]) for row in fits)
    curves = [
        np.pad(
            [finite_or_nan(value) for value in row["curve"]],
            (0, length - len(row["curve"])),
            "edge",
        )
        for row in fits
    ]
    return mean_over_seeds(np.stack(curves), np.zeros((len(curves), length)))[0]


def architectures(rows: Rows, path: str | os.PathLike | None = None) -> Figure:
    """Draw error and spreads of networks on data of one and of two dimensions.

    Args:
      rows: a row for each data and network, in % of the truth: `data`, its `dims` (1 or 2),
        `network`, the mean `error`, and the standard deviations `over_seeds` and
        `over_architectures`. Data and networks are taken in order of first appearance, those
        of one dimension above those of two. Values that are not finite are left out.
      path: as for `growth`.

    Returns:
      The figure.

    Raises:
      ValueError: `rows` is empty or a key is missing.
    """
    require_keys("rows", rows, ARCHITECTURE_KEYS)
    dims = {row["data"]: row["dims"] for row in rows}
    data = sorted(dims, key=lambda name: dims[name])
    networks = list(dict.fromkeys(row["network"] for row in rows))
    looks = {network: look_of(i) | {"linestyle": ""} for i, network in enumerate(networks)}
    offsets = np.linspace(-0.3, 0.3, len(networks)) if len(networks) > 1 else [0.0]
    fig = Figure(figsize=(7.2, 1.3 + 0.36 * len(data)), dpi=DPI, layout="constrained")
    panels = fig.subplots(1, 3, sharey=True, width_ratios=(1.4, 1, 1))
    for row in rows:
        height = data.index(row["data"]) + offsets[networks.index(row["network"])]
        look = looks[row["network"]] | {"markersize": 3.5, "zorder": 3}
        values = [finite_or_nan(row[key]) for key in ARCHITECTURE_KEYS[3:]]
        for ax, value in zip(panels, values, strict=True):
            if math.isfinite(value):
                bar = values[1] if ax is panels[0] and math.isfinite(values[1]) else None
                ax.errorbar(value, height, xerr=bar, elinewidth=0.7, clip_on=False, **look)
    labels = ("error", "standard deviation over\nseeds", "standard deviation over\narchitectures")
    for ax, label in zip(panels, labels, strict=True):
        style_axes(ax)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(f"{label} (% of the truth)", fontsize=NORMAL)
        for line in range(1, len(data)):
            between = dims[data[line]] != dims[data[line - 1]]
            ax.axhline(line - 0.5, color=INK if between else "0.9", linewidth=0.6, zorder=0)
        _scale_percent(ax, signed=ax is panels[0])
    panels[0].axvline(0, color=GREY, linewidth=0.8, zorder=1)
    panels[0].set_ylim(len(data) - 0.5, -0.5)
    names = [f"{name}  {dims[name]}-D" for name in data]
    panels[0].set_yticks(range(len(data)), names, fontsize=SMALL, parse_math=False)
    add_legend(fig, looks, loc="outside upper center", ncols=3)
    caption = (
        "Above the line vectors, below it images and feature maps. Bars at the left: ± 1 standard "
        f"deviation over seeds. Axes are linear up to {LINEAR_PERCENT} % and logarithmic beyond."
    )
    add_caption(fig, caption)
    return save(fig, path)


def _scale_percent(ax: Axes, signed: bool) -> None:
    """Set scale, limits and round ticks of errors (`signed`) or spreads."""
    sizes = (1, 3, 10, 30, 100, 300, 1000)
    ax.set_xscale("symlog", linthresh=LINEAR_PERCENT)
    low, high = ax.get_xlim()
    if signed:
        low, high = min(low, -1.0), max(high, 1.0)
    else:  # up to a tick, so that values beyond the last tick but one can be read
        low, high = 0, next((size for size in sizes if size >= high), high)
    ticks = [0, *(tick for size in sizes for tick in (-size, size) if low <= tick <= high)]
    ax.set_xlim(low, high)
    _set_ticks(ax, sorted(ticks))


def _set_ticks(ax: Axes, ticks: Sequence[float]) -> None:
    """Set the ticks of a symmetric logarithmic axis."""
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(FixedLocator([]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


class _Problem(NamedTuple):
    """Estimates of a problem, in nats, NaN where one is not finite; arrays are (seeds,)."""

    name: str
    held_out: bool
    truth: float
    nats: Array
    stderr: Array
    near_ceiling: bool
    look: Look


def accuracy(rows: Rows, path: str | os.PathLike | None = None) -> Figure:
    """Draw estimates against the truths, and every problem's error.

    A marker is the mean over the seeds of a problem, its bar goes from the smallest to the largest
    value. Values that are not finite are left out.

    Args:
      rows: a row for each problem and seed, in nats: `problem, family, held_out, truth_nats,
        nats, stderr, ceiling_nats`. Problems and families are taken in order of first
        appearance.
      path: as for `growth`.

    Returns:
      The figure.

    Raises:
      ValueError: `rows` is empty or a key is missing.
    """
    require_keys("rows", rows, ACCURACY_KEYS)
    families = dict.fromkeys(row["family"] for row in rows)
    looks = {str(f): look_of(i) | {"linestyle": ""} for i, f in enumerate(families)}
    problems = _group_by_problem(rows, looks)
    columns = 1 if len(problems) <= MAX_LINES else 2
    lines = math.ceil(len(problems) / columns)
    heights = (4.4, 0.7 + 0.115 * lines)
    fig = Figure(figsize=(7.2, 0.5 + sum(heights)), dpi=DPI, layout="constrained")
    above, below = fig.subfigures(2, squeeze=False, height_ratios=heights)[:, 0]
    ax = above.subplots()
    _draw_against_truth(ax, problems, float(np.median([row["ceiling_nats"] for row in rows])))
    options = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
    add_legend(ax, looks, **options)
    panels = below.subplots(1, columns, sharex=True, squeeze=False)[0]
    for i, ax in enumerate(panels):
        _draw_errors(ax, problems[i * lines :][:lines])
        ax.set_ylim(lines - 0.4, -0.6)
    caption = (
        "Above: means over the seeds; bars: smallest to largest; filled: held out of all tuning; "
        "hollow: not. Below: single seeds, bars ± 2 standard errors"
    )
    if any(problem.near_ceiling for problem in problems):
        caption += f"; grey: truth above {NEAR_CEILING:.0%} of the ceiling"
    if lost := sum(int(np.isnan(problem.nats).sum()) for problem in problems):
        caption += f". Not finite, so not drawn: {lost} of {len(rows)} values"
    add_caption(fig, f"{caption}.")
    return save(fig, path)


def _group_by_problem(rows: Rows, looks: Mapping[str, Look]) -> list[_Problem]:
    """Gather the rows of `accuracy` by problem."""
    by_problem: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["problem"], []).append(row)
    return [
        _Problem(
            name=str(name),
            held_out=bool(group[0]["held_out"]),
            truth=float(group[0]["truth_nats"]),
            nats=np.asarray([finite_or_nan(row["nats"]) for row in group]),
            stderr=np.nan_to_num([finite_or_nan(row["stderr"]) for row in group]),
            near_ceiling=any(r["truth_nats"] > NEAR_CEILING * r["ceiling_nats"] for r in group),
            look=looks[str(group[0]["family"])],
        )
        for name, group in by_problem.items()
    ]


def _draw_against_truth(ax: Axes, problems: Sequence[_Problem], ceiling: float) -> None:
    """Draw the mean estimate of each problem against its truth."""
    ax.axline((0, 0), slope=1, color=GREY, linewidth=0.8, zorder=1)
    for problem in problems:
        nats = problem.nats[np.isfinite(problem.nats)]
        if not nats.size:
            continue
        mean = np.clip(nats.mean(), nats.min(), nats.max())  # rounding may carry it outside
        ends = [[mean - nats.min()], [nats.max() - mean]]
        fill = problem.look["color"] if problem.held_out else "white"
        look = problem.look | {"markersize": 4.5, "markerfacecolor": fill, "markeredgewidth": 0.7}
        ax.errorbar(problem.truth, mean, ends, **look, elinewidth=0.7, capsize=1.5, zorder=3)
    high = max(ax.get_xlim()[1], ax.get_ylim()[1])
    if NEAR_CEILING * ceiling < high:
        top = min(ceiling, high)
        ax.axhspan(NEAR_CEILING * ceiling, top, color=LIMIT, alpha=0.1, linewidth=0)
        at, style = ax.get_yaxis_transform(), {"va": "top", "fontsize": SMALL, "color": LIMIT}
        ax.text(0.01, top - 0.01 * high, f"ceiling {ceiling:.2f}", transform=at, **style)
    ax.set_xlim(right=high)
    ax.set_ylim(top=high)
    ax.set_box_aspect(1)
    ax.set_xlabel("true mutual information (nats)", fontsize=NORMAL)
    ax.set_ylabel("estimate (nats)", fontsize=NORMAL)
    style_axes(ax)


def _draw_errors(ax: Axes, problems: Sequence[_Problem]) -> None:
    """Draw estimate − truth, a line for each problem."""
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    ax.set_xscale("symlog", linthresh=0.1)
    for line, problem in enumerate(problems):
        error = problem.nats - problem.truth
        heights = line + np.linspace(-0.2, 0.2, len(error)) if len(error) > 1 else [line]
        look = problem.look | {"markersize": 2.2, "markeredgewidth": 0}
        look |= {"color": "0.6"} if problem.near_ceiling else {}
        ax.errorbar(error, heights, xerr=2 * problem.stderr, **look, elinewidth=0.5, zorder=3)
    names = [problem.name for problem in problems]
    ax.set_yticks(range(len(problems)), names, parse_math=False)
    _set_ticks(ax, [-10, -1, -0.1, 0, 0.1, 1, 10])
    ax.set_xlabel("estimate − truth (nats)", fontsize=NORMAL)
    style_axes(ax)
    ax.tick_params(axis="y", labelsize=TINY, length=0, pad=2)
    for text, problem in zip(ax.get_yticklabels(), problems, strict=True):
        text.set_color(GREY if problem.near_ceiling else problem.look["color"])
