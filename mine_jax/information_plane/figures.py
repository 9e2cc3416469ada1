"""Figures of a run: records in, image files out.

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
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

Rows = Sequence[Mapping[str, Any]]
Array = NDArray[np.float64]

VARIABLES = ("x", "y")
RECORD_KEYS = (
    *("seed", "epoch", "layer", "variable", "mi_nats", "stderr"),
    *("ceiling_nats", "reference_nats", "converged"),
)
DESCRIPTION_KEYS = (
    *("dataset", "probe_size", "report_size", "seed"),
    *("class_entropy_nats", "notice"),
)

DPI = 300
WIDTH = 4.6  # inches; wide enough for one column and a half
TINY, SMALL, NORMAL = 5.5, 7, 8  # points
INK, GREY, LIMIT = "0.15", "0.45", "#9c2a10"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES: tuple[Any, ...] = ("-", (0, (7, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (1, 1.2)))
REFERENCE_DASH = (0, (2.5, 2))
REFERENCE_KEY: dict[str, dict[str, Any]] = {
    "reference": {
        "color": GREY,
        "marker": "o",
        "markerfacecolor": "white",
        "linestyle": REFERENCE_DASH,
    }
}
COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#8f4a7b", "#7a6a00")
# The lightest fifth of viridis is left out: it would be lost on white paper.
EPOCH_COLORS = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.82, 256)))


def information_plane(
    records: Rows, description: Mapping[str, Any], path: str | os.PathLike | None = None
) -> Figure:
    """Draw I(X; L) against I(Y; L), one path for each layer, coloured by epoch.

    With several seeds each is a thin line, their mean carries the markers, and a band reaches
    two standard errors of the mean to either side. Reference values, where the records have them,
    are a second path beside a layer's own, dashed, with hollow markers of the same shape and
    colours. Values that are not finite are left out.

    Args:
      records: rows of `records.jsonl`, in nats: `seed, epoch, layer, variable ("x" or "y"),
        mi_nats, stderr, ceiling_nats, reference_nats, converged`. Layers are taken in order of
        first appearance; of two rows for the same value the later one counts.
      description: `dataset`, `probe_size`, `report_size`, `seed`, `class_entropy_nats` (H(Y)), and
        `notice`, put above the figure unless empty. For layers that are observed with noise
        also `noise_std`, and `noise`, "relative" or "absolute".
      path: file to write, its suffix naming the format (PNG where there is none). It is replaced
        only once the new figure is complete.

    Raises:
      ValueError: `records` is empty, a key is missing, or a variable is neither "x" nor "y".
    """
    return save(_plane_figure(records, description), path)


def mi_over_epochs(
    records: Rows,
    training: Rows,
    description: Mapping[str, Any],
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw I(X; L), I(Y; L) and the test accuracy against the epoch, a panel each.

    Reference values, where the records have them, are dashed, with hollow markers in the colour
    of their layer.

    Args:
      records: as for `information_plane`.
      training: rows of `training.jsonl`: `epoch`, `test_accuracy` (a fraction, or None). Where
        no row has an accuracy, its panel is left out.
      description: as for `information_plane`.
      path: as for `information_plane`.

    Raises:
      ValueError: `records` is empty, a key is missing, or a variable is neither "x" nor "y".
    """
    return save(_epochs_figure(records, training, description), path)


class _Table(NamedTuple):
    """Records as arrays of shape (seeds, epochs, layers, 2), in nats, NaN where unknown."""

    seeds: tuple[int, ...]
    epochs: Array
    layers: tuple[str, ...]
    mi: Array
    stderr: Array
    reference: Array
    ceiling: Array


def _plane_figure(records: Rows, description: Mapping[str, Any]) -> Figure:
    """Build the figure of `information_plane`."""
    table = _table(records, description)
    # A point needs both coordinates, from the same seeds.
    mi = np.where(np.isfinite(table.mi).all(-1, keepdims=True), table.mi, np.nan)
    mean, stderr = mean_over_seeds(mi, table.stderr)
    exact, _ = mean_over_seeds(table.reference, np.zeros_like(mi))
    fig = _figure(3.9, records, table, description, lost=~np.isfinite(mean).all(-1).any(0))
    ax = fig.add_subplot()
    drawn = np.concatenate([mi, exact[None]])
    _draw_ceiling(ax, "x", drawn[..., 0], stderr[..., 0], table, description)
    label = f"I({{}}; {_symbol(description)}), lower bound (nats)"
    _draw_class_entropy(ax, drawn[..., 1], stderr[..., 1], description)
    ax.set_ylabel(label.format("Y"), fontsize=NORMAL)
    ax.set_xlabel(label.format("X"), fontsize=NORMAL)
    style_axes(ax)

    norm = Normalize(table.epochs[0], max(table.epochs[-1], table.epochs[0] + 1))
    colours = EPOCH_COLORS(norm(table.epochs))
    keys: dict[str, dict[str, Any]] = {}
    for i, layer in enumerate(table.layers):
        marker, line = look_of(i)
        for one in mi[:, :, i] if len(table.seeds) > 1 else ():
            _plot(ax, *one.T, linestyle=line, color=GREY, linewidth=0.4, alpha=0.6)
        _plot(ax, *exact[:, i].T, linestyle=REFERENCE_DASH, color=GREY, linewidth=0.7)
        ax.scatter(
            *exact[:, i].T, s=20, marker=marker, facecolors="white", edgecolors=colours, zorder=3
        )
        y_bars, x_bars = 2 * stderr[:, i, ::-1].T
        if len(table.seeds) > 1:
            _band(ax, mean[:, i], 2 * stderr[:, i])
        ax.errorbar(
            *mean[:, i].T, y_bars, x_bars, fmt="none", ecolor="0.7", elinewidth=0.5, zorder=1
        )
        _plot(ax, *mean[:, i].T, linestyle=line, color=GREY, linewidth=1.0)
        ax.scatter(
            *mean[:, i].T,
            s=20,
            marker=marker,
            c=colours,
            edgecolors=INK,
            linewidths=0.4,
            zorder=4,
        )
        keys[layer] = {"marker": marker, "linestyle": line, "color": GREY}
    if np.isfinite(exact).all(-1).any():
        keys |= REFERENCE_KEY
    # A line higher than elsewhere, as the ceiling's label is right above these axes.
    _legend(ax, keys, rise=SMALL + 4)
    if len(table.epochs) > 1:
        bar = fig.colorbar(ScalarMappable(norm, EPOCH_COLORS), ax=ax, pad=0.03, aspect=30)
        bar.locator = MaxNLocator(integer=True)
        bar.set_label("epoch", fontsize=NORMAL)
        bar.ax.tick_params(labelsize=SMALL)
        bar.outline.set_visible(False)
    return fig


def _epochs_figure(records: Rows, training: Rows, description: Mapping[str, Any]) -> Figure:
    """Build the figure of `mi_over_epochs`."""
    table = _table(records, description)
    accuracy = _accuracy(training)
    mean, stderr = mean_over_seeds(table.mi, table.stderr)
    exact, _ = mean_over_seeds(table.reference, np.zeros_like(table.mi))
    ratios = (1.0, 1.0, 0.6) if len(accuracy) else (1.0, 1.0)
    lost = ~np.isfinite(mean).any((0, 2))
    fig = _figure(1.2 + 1.6 * sum(ratios), records, table, description, lost)
    panels = fig.subplots(len(ratios), sharex=True, height_ratios=ratios)
    drawn = np.concatenate([table.mi, exact[None]])
    _draw_ceiling(panels[0], "y", drawn[..., 0], stderr[..., 0], table, description)
    label = f"I({{}}; {_symbol(description)})\nlower bound (nats)"
    _draw_class_entropy(panels[1], drawn[..., 1], stderr[..., 1], description)
    panels[1].set_ylabel(label.format("Y"), fontsize=NORMAL)
    panels[0].set_ylabel(label.format("X"), fontsize=NORMAL)

    keys = {}
    for i, layer in enumerate(table.layers):
        marker, line = look_of(i)
        keys[layer] = {"marker": marker, "linestyle": line, "color": COLORS[i % len(COLORS)]}
        truth = keys[layer] | {"linestyle": REFERENCE_DASH, "markerfacecolor": "white"}
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
        keys |= REFERENCE_KEY
    _legend(panels[0], keys)
    if len(accuracy):
        panels[2].plot(*accuracy.T, color=INK, linewidth=1.0, marker=".", markersize=4)
        panels[2].set_ylabel("test\naccuracy (%)", fontsize=NORMAL)
    for ax in panels:
        style_axes(ax)
    panels[-1].set_xlabel("epoch", fontsize=NORMAL)
    if len(table.epochs) > 1 or len(accuracy):
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        panels[-1].set_xticks(table.epochs)
    fig.align_ylabels()
    return fig


def _table(records: Rows, description: Mapping[str, Any]) -> _Table:
    """Check records and configuration and lays the records out as arrays."""
    if not len(records):
        raise ValueError("records is empty: probe at least once before drawing")
    require_keys("records", records, RECORD_KEYS)
    require_keys("description", [description], DESCRIPTION_KEYS)
    for i, row in enumerate(records):
        if row["variable"] not in VARIABLES:
            raise ValueError(f'records[{i}]: variable is {row["variable"]!r}, not "x" or "y"')
    seeds = sorted({row["seed"] for row in records})
    epochs = sorted({row["epoch"] for row in records})
    layers = list(dict.fromkeys(row["layer"] for row in records))
    shape = (len(seeds), len(epochs), len(layers), len(VARIABLES))
    columns = {
        key: np.full(shape, np.nan)
        for key in ("mi_nats", "stderr", "reference_nats", "ceiling_nats")
    }
    for row in records:
        at = (
            seeds.index(row["seed"]),
            epochs.index(row["epoch"]),
            layers.index(row["layer"]),
            VARIABLES.index(row["variable"]),
        )
        for key, column in columns.items():
            column[at] = finite_or_nan(row[key])
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
    """Return epochs and mean test accuracies in per cent, (epochs, 2), known ones only."""
    require_keys("training", training, ("epoch", "test_accuracy"))
    by_epoch: dict[int, list[float]] = {}
    for row in training:
        if not math.isnan(value := finite_or_nan(row["test_accuracy"])):
            by_epoch.setdefault(row["epoch"], []).append(100 * value)
    return np.asarray([(e, np.mean(v)) for e, v in sorted(by_epoch.items())]).reshape(-1, 2)


def require_keys(name: str, rows: Rows, keys: Sequence[str]) -> None:
    """Raise ValueError that names the first row with missing keys, and those keys."""
    for i, row in enumerate(rows):
        if missing := [key for key in keys if key not in row]:
            place = name if name == "description" else f"{name}[{i}]"
            raise ValueError(f"{place} lacks {', '.join(missing)}; it has {', '.join(row)}")


def finite_or_nan(value: float | None) -> float:
    """Return the value, or NaN for None and anything that is not finite."""
    return float(value) if value is not None and math.isfinite(value) else math.nan


def mean_over_seeds(values: Array, stderr: Array) -> tuple[Array, Array]:
    """Average over the first axis, passing over NaN.

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
    height: float,
    records: Rows,
    table: _Table,
    description: Mapping[str, Any],
    lost: NDArray[np.bool_],
) -> Figure:
    """Make an empty figure with the notice above and the caption below."""
    fig = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    if description["notice"]:
        notice = textwrap.fill(str(description["notice"]), 72)
        fig.suptitle(notice, fontsize=NORMAL, color=LIMIT, parse_math=False)
    seeds = [description["seed"]] if len(table.seeds) == 1 else table.seeds
    bars = "standard errors" if len(seeds) == 1 else "standard errors of the mean over seeds"
    caption = (
        f"{description['dataset']}; n = {description['probe_size']:,} samples, values from "
        f"{description['report_size']:,} of them; seed{'s'[: len(seeds) > 1]} "
        f"{', '.join(map(str, seeds))}. Bars{' and bands' * (len(seeds) > 1)}: ± 2 {bars}."
    )
    if len(table.epochs) == 1:
        caption += f" Epoch {table.epochs[0]:g} only."
    if len(seeds) > 1:
        caption += " Thin lines: single seeds."
    if description.get("noise_std"):
        caption += (
            f" T: the layer with Gaussian noise, σ = {description['noise_std']:g}"
            + (" × root mean variance of its units" * (description.get("noise") == "relative"))
            + f". Reference values: of the {description['probe_size']:,} samples alone."
        )
    if unfinished := sum(not row["converged"] for row in records):
        caption += f" Not converged: {unfinished} of {len(records)} estimates."
    if names := [layer for layer, gone in zip(table.layers, lost, strict=True) if gone]:
        caption += f" No finite value to draw: {', '.join(names)}."
    fig.supxlabel(
        textwrap.fill(caption, 86),
        x=0.02,
        ha="left",
        fontsize=SMALL,
        color=INK,
        parse_math=False,
    )
    return fig


def _draw_ceiling(
    ax: Axes, axis: str, values: Array, stderr: Array, table: _Table, description: Mapping[str, Any]
) -> None:
    """Set the range of the axis of I(X; L), "x" or "y", and draws the ceiling across it.

    A ceiling so far off that the values would fill under a third of the axis is only announced.
    """
    known = table.ceiling[..., 0][np.isfinite(table.ceiling[..., 0])]
    ceiling = float(known.max()) if known.size else math.log(description["report_size"])
    n = round(math.exp(min(ceiling, 50.0)))
    sizes = (description["probe_size"], description["report_size"])
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
    """Draw a line at a limit on one axis, and its label outside the axes, where nothing is.

    Of a limit beyond the axis there is only the label, at the end of the axis.
    """
    style = {"fontsize": SMALL, "color": LIMIT, "textcoords": "offset points"}
    if axis == "x":
        at, across = (min(limit, ax.get_xlim()[1]), 1), ax.get_xaxis_transform()
        ax.annotate(label, at, (0, 3), xycoords=across, ha="right", va="bottom", **style)
        ax.axvline(limit, color=LIMIT, linewidth=0.8, zorder=1)
    else:
        at, across = (1, min(limit, ax.get_ylim()[1])), ax.get_yaxis_transform()
        ax.annotate(label, at, (3, 4), xycoords=across, va="top", **style)
        ax.axhline(limit, color=LIMIT, linewidth=0.8, zorder=1)


def _draw_class_entropy(
    ax: Axes, values: Array, stderr: Array, description: Mapping[str, Any]
) -> None:
    """Set the vertical axis of I(Y; L), and draw H(Y)."""
    entropy = float(description["class_entropy_nats"])
    ax.set_ylim(*_range(np.append(values, entropy), stderr))
    _draw_limit(ax, "y", entropy, f"H(Y)\n{entropy:.2f}")


def _range(values: Array, stderr: Array) -> tuple[float, float]:
    """Return the ends of an axis that shows the values and, unless they are huge, their bars."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    span = max(high - low, 0.05 * abs(high), 0.01)
    margin = max(0.07 * span, min(2.2 * float(stderr.max()), 0.25 * span))
    return low - margin, high + margin


def _symbol(description: Mapping[str, Any]) -> str:
    """Return what is drawn: L, or T where the layers are observed with noise."""
    return "T" if description.get("noise_std") else "L"


def look_of(i: int) -> tuple[str, Any]:
    """Return marker and line style of the i-th layer, the same in all figures."""
    return MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)]


def style_axes(ax: Axes) -> None:
    """Apply the common look of all panels."""
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.93", linewidth=0.5)
    ax.set_axisbelow(True)


def _plot(ax: Axes, x: Array, y: Array, **style: object) -> None:
    """Plot a line through the points that are finite, across gaps."""
    ok = np.isfinite(x) & np.isfinite(y)
    ax.plot(x[ok], y[ok], **style)


def _band(ax: Axes, points: Array, halves: Array) -> None:
    """Fill what a box of half the size `halves`, (n, 2), covers on its way along `points`."""
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
    """Explain lines, given as label to style, `rise` points above the axes at the left."""
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
        fontsize=SMALL,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def save(fig: Figure, path: str | os.PathLike | None) -> Figure:
    """Write a figure to a path, if there is one, and as PDF beside; return it."""
    if path is None:
        return fig
    place = Path(path)
    for target in dict.fromkeys((place, place.with_suffix(".pdf"))):
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            fig.savefig(partial, format=target.suffix.lstrip(".") or "png")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return fig
