"""Figures of a run, and the style that all figures share.

`Figure` objects are built directly, so that no display is needed, and neither pyplot's global state
nor the caller's settings change.
"""

import itertools
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Rows = Sequence[Mapping[str, Any]]
Array = NDArray[np.float64]
Look = dict[str, Any]  # keyword arguments of `Axes.plot`

VARIABLES = ("x", "y")
VALUE_KEYS = ("mi_nats", "stderr", "reference_nats", "ceiling_nats")
RECORD_KEYS = ("seed", "epoch", "layer", "variable", "converged", *VALUE_KEYS)
DESCRIPTION_KEYS = ("dataset", "probe_size", "report_size", "class_entropy_nats", "notice")

DPI, SMALL, NORMAL = 300, 7, 8  # sizes of text in points
INK, GREY, LIMIT = "0.15", "0.45", "#9c2a10"
COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#8f4a7b", "#7a6a00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
# Layers whose values coincide stay visible, as the later ones are drawn smaller, on top.
MARKER_SIZES, LINE_WIDTHS = (6.5, 3.5), (2.2, 0.8)  # first and last layer, points
REFERENCE: Look = {
    **{"linestyle": (0, (3, 2)), "linewidth": 0.8, "zorder": 5},
    **{"marker": "*", "markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 0.7},
}
INSET = (0.4, 0.14, 0.57, 0.5)  # left, bottom, width and height, as fractions of a panel
MAX_CLOSE_UP = 0.5  # fraction of the range of all values, above which a close-up shows little more


def information_plane(
    records: Rows, description: Mapping[str, Any], path: str | os.PathLike | None = None
) -> Figure:
    """Draw I(X; L) against I(Y; L), one path for each layer, markers darker from epoch to epoch.

    Where the first probe, before training, is far from the others, a second panel leaves it out.
    With several seeds each is a thin line, their mean carries the markers, and a band reaches two
    standard errors of the mean to either side. References are a dashed path beside the layer's.
    Values that are not finite are left out.

    Args:
      records: rows of `records.jsonl`, in nats: `seed, epoch, layer, variable ("x" or "y"),
        mi_nats, stderr, ceiling_nats, reference_nats, converged`. Layers are taken in order of
        first appearance; of two rows for the same value the later one counts.
      description: `dataset`, `probe_size`, `report_size`, `class_entropy_nats` (H(Y)), and
        `notice`, put above the figure unless empty. For layers that are observed with noise
        also `noise_std`, and `noise`, "relative" or "absolute".
      path: PNG file to write; a PDF of the same name is written beside it. Each is replaced only
        once the new one is complete. None for no file.

    Returns:
      The figure.

    Raises:
      ValueError: `records` is empty, a key is missing, or a variable is neither "x" nor "y".
    """
    table = _tabulate(records, description, paired=True)
    epochs = table.epochs
    views = [slice(None), slice(1, None)] if _close_up_helps(table) else [slice(None)]
    fig = _described_figure((7.2 if len(views) > 1 else 4.6, 4.0), records, table, description)
    axes = fig.subplots(1, len(views), squeeze=False)[0]
    norm = Normalize(epochs[0], max(epochs[-1], epochs[0] + 1))
    for ax, view in zip(axes, views, strict=True):
        _draw_paths(ax, table, view, norm)
        _draw_limit(ax, "x", table.ceiling, f"ceiling {table.ceiling:.2f}")
        _draw_limit(ax, "y", table.entropy, f"H(Y)\n{table.entropy:.2f}")
        ax.set_xlabel(f"I(X; {table.symbol}), lower bound (nats)", fontsize=NORMAL)
        style_axes(ax)
        if len(views) > 1:
            name = "All probes" if ax is axes[0] else "Close-up"
            span = "epochs {:g} to {:g}".format(*epochs[view][[0, -1]])
            ax.set_title(f"{name}: {span}", fontsize=NORMAL, pad=14)
    axes[0].set_ylabel(f"I(Y; {table.symbol}), lower bound (nats)", fontsize=NORMAL)
    if len(epochs) > 1:
        colors = LinearSegmentedColormap.from_list("epoch", ["white", INK])
        place = {"ax": axes, "pad": 0.02, "aspect": 30, "ticks": MaxNLocator(integer=True)}
        bar = fig.colorbar(ScalarMappable(norm, colors), **place)
        bar.set_label("epoch (fill of the markers)", fontsize=NORMAL)
        bar.ax.tick_params(labelsize=SMALL)
    return save(fig, path)


def mi_over_epochs(
    records: Rows,
    training: Rows,
    description: Mapping[str, Any],
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw I(X; L), I(Y; L) and the test accuracy against the epoch, a panel each.

    Where all values after the first probe are at the top of their panel, an inset enlarges them.
    Seeds, references and values that are not finite are treated as by `information_plane`.

    Args:
      records: as for `information_plane`.
      training: rows of `training.jsonl`: `epoch`, `test_accuracy` (a fraction, or None). Where
        no row has an accuracy, its panel is left out.
      description: as for `information_plane`.
      path: as for `information_plane`.

    Returns:
      The figure.

    Raises:
      ValueError: `records` is empty, a key is missing, or a variable is neither "x" nor "y".
    """
    table = _tabulate(records, description)
    accuracy = _mean_accuracy(training)
    heights = (1.0, 1.0, 0.6) if len(accuracy) else (1.0, 1.0)
    fig = _described_figure((4.6, 1.4 + 1.6 * sum(heights)), records, table, description)
    panels = fig.subplots(len(heights), sharex=True, height_ratios=heights)
    limits = (("ceiling", table.ceiling), ("H(Y)", table.entropy))
    for j, (ax, (name, limit)) in enumerate(zip(panels, limits, strict=False)):
        _draw_curves(ax, table, j, slice(None))
        _draw_limit(ax, "y", limit, f"{name}\n{limit:.2f}")
        label = f"I({VARIABLES[j].upper()}; {table.symbol}),\nlower bound (nats)"
        ax.set_ylabel(label, fontsize=NORMAL)
        low, high = ax.get_ylim()
        later = (table.mean - 2 * table.stderr)[1:, :, j]
        below = low + (INSET[1] + INSET[3] + 0.05) * (high - low)
        if len(later) > 1 and (later > below).any() and not (later <= below).any():
            inset = ax.inset_axes(INSET)
            _draw_curves(inset, table, j, slice(1, None))
            _draw_limit(inset, "y", limit, "")
            style_axes(inset)
            inset.set_title(f"Close-up: from epoch {table.epochs[1]:g}", fontsize=SMALL, pad=2)
    if len(accuracy):
        panels[2].plot(*accuracy.T, color=INK, linewidth=1.0, marker=".", markersize=4)
        panels[2].set_ylabel("test\naccuracy (%)", fontsize=NORMAL)
    for ax in panels:
        style_axes(ax)
    panels[-1].set_xlabel("epoch", fontsize=NORMAL)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    fig.align_ylabels()
    return save(fig, path)


class _Table(NamedTuple):
    """Records as arrays in nats, NaN where unknown; the last axis is (x, y).

    Attributes:
      seeds: seeds, ascending.
      epochs: (epochs,), ascending.
      looks: layer to its look.
      mi: (seeds, epochs, layers, 2).
      mean, stderr, reference: mean over the seeds, with its standard error; (epochs, layers, 2).
      ceiling: largest ceiling of I(X; L).
      entropy: H(Y).
      symbol: L, or T where the layers are observed with noise.
    """

    seeds: tuple[int, ...]
    epochs: Array
    looks: dict[str, Look]
    mi: Array
    mean: Array
    stderr: Array
    reference: Array
    ceiling: float
    entropy: float
    symbol: str


def _tabulate(records: Rows, description: Mapping[str, Any], paired: bool = False) -> _Table:
    """Check the records and lay them out; `paired` drops values without their x or y."""
    require_keys("records", records, RECORD_KEYS)
    require_keys("description", [description], DESCRIPTION_KEYS)
    for i, row in enumerate(records):
        if row["variable"] not in VARIABLES:
            raise ValueError(f'records[{i}]: variable is {row["variable"]!r}, not "x" or "y"')
    seeds, epochs = (sorted({row[key] for row in records}) for key in ("seed", "epoch"))
    layers = list(dict.fromkeys(row["layer"] for row in records))
    columns = np.full((len(VALUE_KEYS), len(seeds), len(epochs), len(layers), 2), np.nan)
    for row in records:
        at = (seeds.index(row["seed"]), epochs.index(row["epoch"]), layers.index(row["layer"]))
        values = [finite_or_nan(row[key]) for key in VALUE_KEYS]
        columns[(slice(None), *at, VARIABLES.index(row["variable"]))] = values
    mi, stderr, reference, ceilings = columns
    if paired:
        mi = np.where(np.isfinite(mi).all(-1, keepdims=True), mi, np.nan)
    mean, stderr = mean_over_seeds(mi, stderr)
    known = ceilings[..., 0][np.isfinite(ceilings[..., 0])]
    sizes, widths = (np.linspace(*ends, len(layers)) for ends in (MARKER_SIZES, LINE_WIDTHS))
    looks = [
        look_of(i) | {"markersize": sizes[i], "linewidth": widths[i]} for i in range(len(layers))
    ]
    return _Table(
        seeds=tuple(seeds),
        epochs=np.asarray(epochs, float),
        looks=dict(zip(map(str, layers), looks, strict=True)),
        mi=mi,
        mean=mean,
        stderr=stderr,
        reference=mean_over_seeds(reference, np.zeros_like(reference))[0],
        ceiling=float(known.max()) if known.size else math.log(description["report_size"]),
        entropy=float(description["class_entropy_nats"]),
        symbol="T" if description.get("noise_std") else "L",
    )


def _mean_accuracy(training: Rows) -> Array:
    """Return epochs and mean test accuracies in per cent, (epochs, 2), known ones only."""
    require_keys("training", training, ("epoch", "test_accuracy"))
    by_epoch: dict[int, list[float]] = {}
    for row in training:
        if not math.isnan(value := finite_or_nan(row["test_accuracy"])):
            by_epoch.setdefault(row["epoch"], []).append(100 * value)
    return np.asarray([(e, np.mean(v)) for e, v in sorted(by_epoch.items())]).reshape(-1, 2)


def _described_figure(
    size: tuple[float, float], records: Rows, table: _Table, description: Mapping[str, Any]
) -> Figure:
    """Make an empty figure with the notice and a legend above and the caption below."""
    fig = Figure(figsize=size, dpi=DPI, layout="constrained")
    looks = dict(table.looks)
    if np.isfinite(table.reference).any():
        looks["reference"] = REFERENCE | {"color": GREY}
    notice = textwrap.fill(str(description["notice"]), round(16 * size[0]))
    add_legend(fig, looks, title=notice, loc="outside upper center", ncols=5)
    several = len(table.seeds) > 1
    caption = (
        f"{description['dataset']}; n = {description['probe_size']:,} samples, values from "
        f"{description['report_size']:,} of them (test samples); seed{'s' * several} "
        f"{', '.join(map(str, table.seeds))}. Ceiling: ln(number of test samples). "
        f"Bars{' and bands' * several}: ± 2 standard errors"
        + (" of the mean over seeds. Thin lines: single seeds." if several else ".")
    )
    if len(table.epochs) == 1:
        caption += f" Epoch {table.epochs[0]:g} only."
    if table.symbol == "T":
        unit = " × root mean variance of its units" * (description.get("noise") == "relative")
        caption += (
            f" T: the layer with Gaussian noise, σ = {description['noise_std']:g}{unit}. "
            f"References are exact for the {description['probe_size']:,} samples."
        )
    if shared := sum(row.get("network", row["layer"]) != row["layer"] for row in records):
        caption += f" From a later layer's network: {shared} of {len(records)} values."
    if unfinished := sum(not row["converged"] for row in records):
        caption += f" Not converged: {unfinished} of {len(records)} estimates."
    known = np.isfinite(table.mean)
    if names := [layer for i, layer in enumerate(table.looks) if not known[:, i].any()]:
        caption += f" No finite value to draw: {', '.join(names)}."
    add_caption(fig, caption)
    return fig


def _close_up_helps(table: _Table) -> bool:
    """Whether without the first probe the values fill a far smaller part of the plane."""
    values = [mean[np.isfinite(mean).all(-1)] for mean in (table.mean, table.mean[1:])]
    if len(table.epochs) < 3 or not len(values[1]):
        return False
    whole, later = (np.ptp(known, axis=0) for known in values)
    return bool((later < MAX_CLOSE_UP * whole).any())


def _draw_paths(ax: Axes, table: _Table, epochs: slice, norm: Normalize) -> None:
    """Draw the layers' paths through the plane at some of the epochs."""
    for i, look in enumerate(table.looks.values()):
        mean, half = table.mean[epochs, i], 2 * table.stderr[epochs, i]
        tints = LinearSegmentedColormap.from_list("tint", ["white", look["color"]])
        line = {"color": look["color"], "linewidth": 0.8}
        if len(table.seeds) > 1:
            _draw_band(ax, mean, half, tints(0.15))
            for values in table.mi[:, epochs, i]:
                _plot_finite(ax, *values.T, **line | {"linewidth": 0.4}, alpha=0.6)
        bars = {"fmt": "none", "ecolor": look["color"], "elinewidth": 0.5, "zorder": 1.5}
        ax.errorbar(*mean.T, *half[:, ::-1].T, **bars)
        _plot_finite(ax, *mean.T, **line)
        _plot_finite(ax, *table.reference[epochs, i].T, **REFERENCE, color=look["color"])
        shape = {"marker": look["marker"], "s": look["markersize"] ** 2, "zorder": 4}
        fills = tints(norm(table.epochs[epochs]))
        edge = {"edgecolors": look["color"], "linewidths": 0.7}
        ax.scatter(mean[:, 0], mean[:, 1], c=fills, **edge, **shape)


def _draw_band(ax: Axes, points: Array, halves: Array, color: Any) -> None:
    """Fill the area that boxes of half the size `halves`, (n, 2), cover along `points`."""
    known = np.isfinite(points).all(-1)
    signs = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])
    boxes = points[known, None] + halves[known, None] * signs
    # The boxes, and what each side covers on its way to the next box: together their hulls.
    sides = [
        np.stack([before[k], before[k - 1], after[k - 1], after[k]])
        for before, after in itertools.pairwise(boxes)
        for k in range(4)
    ]
    ax.add_collection(PolyCollection([*boxes, *sides], facecolors=color, linewidths=0, zorder=0.5))


def _draw_curves(ax: Axes, table: _Table, variable: int, view: slice) -> None:
    """Draw the layers' values of X (0) or Y (1) at some of the epochs."""
    epochs = table.epochs[view]
    for i, look in enumerate(table.looks.values()):
        mean, half = table.mean[view, i, variable], 2 * table.stderr[view, i, variable]
        color, size = look["color"], look["markersize"]
        if len(table.seeds) > 1:
            ax.fill_between(epochs, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)
            for values in table.mi[:, view, i, variable]:
                _plot_finite(ax, epochs, values, color=color, linewidth=0.4, alpha=0.6)
        bars = {"fmt": "none", "ecolor": color, "elinewidth": 0.6, "capsize": size / 4}
        ax.errorbar(epochs, mean, half, **bars)
        _plot_finite(ax, epochs, mean, **look)
        _plot_finite(ax, epochs, table.reference[view, i, variable], **REFERENCE, color=color)


def _draw_limit(ax: Axes, axis: str, limit: float, label: str) -> None:
    """Draw a line at a limit on the axis "x" or "y", and its label outside the axes."""
    style: dict[str, Any] = {"fontsize": SMALL, "color": LIMIT, "textcoords": "offset points"}
    # Unlike the lines, data limits keep a margin.
    ax.update_datalim([(limit, limit)], updatex=axis == "x", updatey=axis == "y")
    ax.autoscale_view()
    if axis == "x":
        ax.axvline(limit, color=LIMIT, linewidth=0.8, zorder=1)
        at, across = (limit, 1), ax.get_xaxis_transform()
        ax.annotate(label, at, (0, 3), xycoords=across, ha="right", va="bottom", **style)
    else:
        ax.axhline(limit, color=LIMIT, linewidth=0.8, zorder=1)
        ax.annotate(label, (1, limit), (3, 4), xycoords=ax.get_yaxis_transform(), va="top", **style)


def _plot_finite(ax: Axes, x: Array, y: Array, **look: Any) -> None:
    """Plot a line through the points that are finite, across gaps."""
    finite = np.isfinite(x) & np.isfinite(y)
    ax.plot(x[finite], y[finite], **look)


def look_of(i: int) -> Look:
    """Return colour and marker of the i-th layer, family or network."""
    return {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}


def style_axes(ax: Axes) -> None:
    """Apply the common style of all panels."""
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.93", linewidth=0.5)
    ax.set_axisbelow(True)


def add_legend(parent: Figure | Axes, looks: Mapping[str, Look], **options: Any) -> None:
    """Add a legend of label to look; `options` as for `matplotlib.legend.Legend`."""
    size: Look = {"markersize": 4.5}
    lines = [Line2D([], [], **(size | look)) for look in looks.values()]
    legend = parent.legend(lines, list(looks), fontsize=SMALL, frameon=False, **options)
    legend.get_title().set(fontsize=NORMAL, color=LIMIT)
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)


def add_caption(fig: Figure, caption: str) -> None:
    """Write a caption below the panels, wrapped to the figure's width."""
    text = textwrap.fill(caption, round(18.5 * fig.get_figwidth()))
    fig.supxlabel(text, x=0.02, ha="left", fontsize=SMALL, color=INK, parse_math=False)


def require_keys(name: str, rows: Rows, keys: Sequence[str]) -> None:
    """Raise ValueError if there are no rows, or naming the first with missing keys, and those."""
    if not len(rows):
        raise ValueError(f"{name} is empty: there is nothing to draw")
    for i, row in enumerate(rows):
        if missing := [key for key in keys if key not in row]:
            place = f"{name}[{i}]" if len(rows) > 1 else name
            raise ValueError(f"{place} lacks {', '.join(missing)}; it has {', '.join(row)}")


def finite_or_nan(value: float | None) -> float:
    """Return the value, or NaN for None and anything that is not finite."""
    return float(value) if value is not None and math.isfinite(value) else math.nan


def mean_over_seeds(values: Array, stderr: Array) -> tuple[Array, Array]:
    """Average over the first axis, skipping NaN.

    Returns:
      The mean, and its standard error: from the spread of the seeds where there are several,
      else the value's own. NaN and zero respectively where nothing is known.
    """
    known = np.isfinite(values)
    count = known.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, values, 0).sum(0) / count
        spread = np.sqrt(np.where(known, (values - mean) ** 2, 0).sum(0) / (count - 1) / count)
    single = np.where(known, np.nan_to_num(stderr), 0).sum(0)
    return mean, np.where(count > 1, spread, single)


def save(fig: Figure, path: str | os.PathLike | None) -> Figure:
    """Write a figure as PNG and, under the same name, as PDF, unless `path` is None; return it."""
    targets = [Path(path).with_suffix(suffix) for suffix in (".png", ".pdf")] if path else []
    for target in targets:
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            fig.savefig(partial, format=target.suffix[1:])
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return fig
