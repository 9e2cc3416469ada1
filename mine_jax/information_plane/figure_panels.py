"""The panels of the information plane's figures: paths, curves, marks, legends, labels."""

import itertools
import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mine_jax.information_plane.figure_style import (
    DPI,
    GREY,
    INK,
    NORMAL,
    Look,
    add_caption,
    add_legend,
    draw_band,
    draw_limit,
    label_points,
    style_axes,
    tints,
    wrap,
)
from mine_jax.information_plane.figure_table import (
    BINS,
    EXACT,
    KDE,
    VARIABLES,
    Array,
    Table,
    shows_ceiling,
    up_to,
)

EPOCH_HEIGHTS = (1.0, 1.0, 0.6)  # of I(X; ·), I(Y; ·) and the accuracy
LINE_HEIGHT = 0.14  # inches, of the caption and the legend
LINE_WIDTH, THIN = 0.9, 0.4  # points
BOX_MARKS = "Boxes: brackets, on average below and above the true value."
CURVE_MARKS = "Shaded, with edges: brackets, on average below and above the true value."
PLANE_TITLES = {"observed": "Observed with noise", "deterministic": "Deterministic"}
SYMBOLS = {"observed": ("T", ""), "deterministic": ("L", ", lower bound")}
OTHERS: dict[str, Look] = {
    BINS: {"marker": "+", "markersize": 3.5},
    KDE: {"marker": ".", "markersize": 3.5},
    # Larger than the marks, which it is on top of.
    EXACT: {"marker": "x", "markersize": 6.5, "linestyle": "none", "alpha": 0.9, "zorder": 4.5}
    | {"markeredgewidth": 0.7},
}
OTHER: Look = {"linestyle": ":", "linewidth": 0.7, "alpha": 0.4, "zorder": 1.1}
BRACKET: Look = {"linestyle": "none", "marker": "s", "markersize": 7, "markeredgewidth": 0.6}
BRACKET |= {"markerfacecolor": "0.93", "markeredgecolor": GREY}
FLAGGED: Look = {"linestyle": "none", "marker": r"$\otimes$", "markersize": 5.5, "color": INK}
FLAGGED |= {"markeredgewidth": 0.1}
OWN: Look = {"marker": "o", "markersize": 1.8, "linewidth": 0.4, "alpha": 0.45, "zorder": 1.2}


def described_figure(
    tables: Sequence[Table],
    looks: Mapping[str, Look],
    notice: str,
    text: str,
    width: float,
    height: float,
    fills: bool = True,
) -> Figure:
    """Make an empty figure, with notice and legend above and the caption below.

    It is `width` inches wide, and the panels get about `height`. `fills` tells whether the marks'
    fill shows the epoch.
    """
    entries: dict[str, Look | tuple[Look, ...]] = dict(looks)
    if any(np.isfinite(table.high - table.low).any() for table in tables):
        entries["bracket"] = BRACKET
    first, last = _epoch_range(tables)
    if fills and last > first:
        shades = tints(INK)
        dot: Look = {"linestyle": "none", "marker": "o", "markeredgewidth": 0.7, "color": INK}
        entries[f"epoch {first:g} to {last:g}"] = tuple(
            dot | {"markerfacecolor": shades(at)} for at in (0.0, 0.5, 1.0)
        )
    if any(table.flagged.any() for table in tables):
        entries["flagged"] = FLAGGED
    for name, look in OTHERS.items():
        if any(name in table.others for table in tables):
            entries[name] = OTHER | {"alpha": 0.6} | look | {"color": INK}
    columns = max(3, int(width / 1.7))
    names = list(itertools.chain.from_iterable(list(entries)[i::columns] for i in range(columns)))
    notice = textwrap.fill(notice, round(16 * width))
    lines = wrap(text, width).count("\n") + notice.count("\n") + -(-len(names) // columns)
    fig = Figure(figsize=(width, height + LINE_HEIGHT * (lines + 2)), dpi=DPI, layout="constrained")
    place = {"loc": "outside upper center", "ncols": columns, "columnspacing": 1.4}
    add_legend(fig, {name: entries[name] for name in names}, title=notice, **place)
    add_caption(fig, text)
    return fig


def draw_planes(
    fig: Figure,
    panels: Sequence[Axes],
    tables: Sequence[Table],
    looks: Mapping[str, Look],
    y_named: Collection[Axes] | None = None,
    until: float | None = None,
) -> None:
    """Draw a table in each panel; `y_named` are those that name their y axis, None for all.

    With `until` later epochs are not drawn, but leave their room.
    """
    first, last = _epoch_range(tables)
    norm = Normalize(first, max(last, first + 1))
    for ax, table in zip(panels, tables, strict=True):
        ax.margins(0.09)
        _draw_paths(ax, table, looks, norm)
        symbol, bound = SYMBOLS[table.plane]
        ax.set_xlabel(f"I(X; {symbol}){bound} (nats)", fontsize=NORMAL)
        if y_named is None or ax in y_named:
            ax.set_ylabel(f"I(Y; {symbol}){bound} (nats)", fontsize=NORMAL)
        style_axes(ax)
    paths = [(*ax.lines, *ax.collections) for ax in panels]
    labels: list[list[Annotation]] = []
    for ax, table in zip(panels, tables, strict=True):
        ceiling = shows_ceiling(table)
        # The ceiling's line would cross the name of H(Y) at the right.
        side = "left" if ceiling else "right"
        labels.append([])
        if math.isfinite(table.entropy):
            labels[-1].append(draw_limit(ax, "y", table.entropy, "H(Y)", side))
        if ceiling:
            labels[-1].append(draw_limit(ax, "x", table.ceiling, "ceiling"))
    if until is not None:
        tables = [up_to(table, until) for table in tables]
        for ax, table, path in zip(panels, tables, paths, strict=True):
            ax.autoscale_view()
            ax.autoscale(False)
            for artist in path:
                artist.remove()
            _draw_paths(ax, table, looks, norm)
    fig.draw_without_rendering()  # now the panels' places are known
    for ax, table, taken in zip(panels, tables, labels, strict=True):
        _label_epochs(ax, table, looks, taken)


def draw_epochs(
    fig: Figure,
    tables: Sequence[tuple[str, Table]],
    looks: Mapping[str, Look],
    accuracies: Sequence[tuple[slice, Array]],
) -> None:
    """Draw I(X; ·), I(Y; ·) and test accuracies against the epoch.

    Args:
      fig: where.
      tables: title and table of each column; those of one plane share their scales.
      looks: layer to its look.
      accuracies: the columns below which epochs and accuracies in per cent, (epochs, 2), are drawn.
    """
    heights = EPOCH_HEIGHTS[: 3 if accuracies else 2]
    grid = fig.add_gridspec(len(heights), len(tables), height_ratios=heights)
    panels: list[tuple[int, Axes]] = []
    firsts: dict[tuple[str, int], Axes] = {}
    for (column, (title, table)), (j, variable) in itertools.product(
        enumerate(tables), enumerate(VARIABLES)
    ):
        same = firsts.get((table.plane, j))
        first = panels[0][1] if panels else None
        ax = fig.add_subplot(grid[j, column], sharex=first, sharey=same)
        firsts.setdefault((table.plane, j), ax)
        panels.append((j, ax))
        ax.margins(y=0.12)
        _draw_curves(ax, table, looks, j)
        symbol, bound = SYMBOLS[table.plane]
        label = f"I({variable.upper()}; {symbol}){bound} (nats)"
        ax.set_ylabel(textwrap.fill(label, 16), fontsize=NORMAL)
        if j == 0:
            draw_title(ax, title)
            if shows_ceiling(table):
                draw_limit(ax, "y", table.ceiling, "ceiling")
        elif math.isfinite(table.entropy):
            draw_limit(ax, "y", table.entropy, "H(Y)")
    for columns, accuracy in accuracies:
        same = panels[-1][1] if panels[-1][0] == 2 else None
        ax = fig.add_subplot(grid[2, columns], sharex=panels[0][1], sharey=same)
        panels.append((2, ax))
        ax.plot(*accuracy.T, color=INK, linewidth=1.0, marker=".", markersize=4)
        ax.set_ylabel("test\naccuracy (%)", fontsize=NORMAL)
    for row, ax in panels:
        style_axes(ax)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        # An accuracy panel below two columns has an axis of another length: it names no ticks.
        named = row >= (1 if len(tables) > 1 else len(heights) - 1)
        ax.tick_params(labelbottom=named)
        if named:
            ax.set_xlabel("epoch", fontsize=NORMAL)
    fig.align_ylabels()


def epochs_height(with_accuracy: bool) -> float:
    """Return the height of the panels of `draw_epochs`, in inches."""
    return 0.5 + 1.55 * sum(EPOCH_HEIGHTS[: 3 if with_accuracy else 2])


def draw_title(ax: Axes, title: str) -> None:
    """Write the title of a panel, in which "$" is no formula."""
    ax.set_title(title, fontsize=NORMAL, loc="left", parse_math=False)


def _epoch_range(tables: Sequence[Table]) -> tuple[float, float]:
    """Return the first and the last epoch of all tables."""
    epochs = np.concatenate([table.epochs for table in tables])
    return float(epochs.min()), float(epochs.max())


def _draw_paths(ax: Axes, table: Table, looks: Mapping[str, Look], norm: Normalize) -> None:
    """Draw the layers' paths through the plane."""
    for i, layer in enumerate(table.layers):
        look, color = looks[layer], looks[layer]["color"]
        mean, half = table.mean[:, i], 2 * table.stderr[:, i]
        shades = tints(color)
        line: Look = {"color": color, "linewidth": LINE_WIDTH, "linestyle": look["linestyle"]}
        if len(table.seeds) > 1:
            draw_band(ax, mean, half, tints(color, 0.0)(0.15), f"band {layer}")
            for values in table.mi[:, :, i]:
                ax.plot(*values.T, **line | {"linewidth": THIN, "alpha": 0.6})
        low, high = table.low[:, i], table.high[:, i]
        sides = [(low, low), (high, low), (high, high), (low, high)]
        boxes = np.stack([np.stack([x[:, 0], y[:, 1]], -1) for x, y in sides], 1)
        known = list(boxes[np.isfinite(boxes).all((1, 2))])
        faint: Look = {"facecolors": (color, 0.04), "edgecolors": (color, 0.4), "linewidths": THIN}
        if known:
            ax.add_collection(PolyCollection(known, label=f"bracket {layer}", zorder=1, **faint))
        for name, values in table.others.items():
            ax.plot(*values[:, i].T, color=color, label=name, **OTHER | OTHERS[name])
        # From each reported value to that of the layer's own network, and a mark there.
        own = np.stack([mean, table.own[:, i], np.full_like(mean, np.nan)], 1).reshape(-1, 2)
        place: Look = {"markevery": slice(1, None, 3), "label": f"own {layer}"}
        ax.plot(*own.T, color=color, **place, **OWN)
        bars = {"fmt": "none", "ecolor": color, "elinewidth": 0.5, "zorder": 1.5}
        ax.errorbar(*mean.T, *half[:, ::-1].T, **bars)
        ax.plot(*mean.T, **line, label=layer)
        fills = shades(norm(table.epochs))
        _draw_marks(ax, mean, fills, np.any(table.flagged[:, i], axis=-1), look, layer)


def _draw_marks(
    ax: Axes, points: Array, fills: Array, flagged: NDArray[np.bool_], look: Look, layer: str
) -> None:
    """Draw marks, (n, 2), with fills, (n, 4); flagged ones, (n,), are white and crossed."""
    size, color = look["markersize"], look["color"]
    fills = np.where(flagged[:, None], 1.0, fills)
    shape = {"marker": look["marker"], "s": size**2, "edgecolors": color, "linewidths": 0.7}
    x, y = points.T
    ax.scatter(x, y, c=fills, label=f"marks {layer}", zorder=4, **shape)
    if flagged.any():
        cross: dict[str, Any] = {"marker": "x", "s": (0.55 * size) ** 2, "linewidths": 0.6}
        name = f"flagged {layer}"
        ax.scatter(x[flagged], y[flagged], color=color, label=name, zorder=4, **cross)


def _draw_curves(ax: Axes, table: Table, looks: Mapping[str, Look], variable: int) -> None:
    """Draw the layers' values of X (0) or Y (1) against the epoch."""
    epochs = table.epochs
    for i, layer in enumerate(table.layers):
        look = looks[layer]
        color, size = look["color"], look["markersize"]
        at = (slice(None), i, variable)
        mean, half = table.mean[at], 2 * table.stderr[at]
        low, high = table.low[at], table.high[at]
        shade: Look = {"facecolors": (color, 0.12), "linewidths": 0, "zorder": 0.6}
        ax.fill_between(epochs, low, high, label=f"bracket {layer}", **shade)
        for side in (low, high):
            ax.plot(epochs, side, color=color, linewidth=THIN, alpha=0.6)
        if len(table.seeds) > 1:
            shade |= {"facecolors": (color, 0.25)}
            ax.fill_between(epochs, mean - half, mean + half, label=f"band {layer}", **shade)
            for values in table.mi[:, :, i, variable]:
                ax.plot(epochs, values, color=color, linewidth=THIN, alpha=0.6)
        for name, values in table.others.items():
            ax.plot(epochs, values[at], color=color, label=name, **OTHER | OTHERS[name])
        name = f"own {layer}"
        ax.plot(epochs, table.own[at], color=color, label=name, **OWN | {"linestyle": "none"})
        bars = {"fmt": "none", "ecolor": color, "elinewidth": 0.6, "capsize": size / 4}
        ax.errorbar(epochs, mean, half, **bars)
        line: Look = {"color": color, "linewidth": LINE_WIDTH, "linestyle": look["linestyle"]}
        ax.plot(epochs, mean, **line, label=layer)
        fills = np.tile(tints(color)(1.0), (len(epochs), 1))
        _draw_marks(ax, np.stack([epochs, mean], 1), fills, table.flagged[at], look, layer)


def _label_epochs(
    ax: Axes, table: Table, looks: Mapping[str, Look], taken: Sequence[Annotation]
) -> None:
    """Name the first and the last epoch of each layer's path."""
    labels: list[tuple[str, Array, str]] = []
    steps = np.linspace(0, 1, 10)[:, None]
    corner, limits = ax.viewLim.min, np.array([table.ceiling, table.entropy])
    along = np.linspace(corner, ax.viewLim.max, 100)
    obstacles = [np.where([axis, not axis], along, limits) for axis in (False, True)]
    for i, layer in enumerate(table.layers):
        known = np.isfinite(table.mean[:, i]).all(-1)
        points, epochs = table.mean[known, i], table.epochs[known]
        for at in sorted({0, len(epochs) - 1}) if len(epochs) else ():
            labels.append((f"{epochs[at]:g}", points[at], looks[layer]["color"]))
        # Marks with their bars, and the lines between marks.
        bars = 2 * table.stderr[known, i] * [[[1.0, 0.0]], [[0.0, 1.0]]]
        obstacles += [points, *(points + part * bar for bar in bars for part in (-1, -0.5, 0.5, 1))]
        obstacles += [a + steps * (b - a) for a, b in itertools.pairwise(points)]
    label_points(ax, labels, np.concatenate(obstacles), taken)
