"""Figures of a run: the information plane, its values over the epochs, and a sweep of the noise.

`Figure` objects are built directly, so that no display is needed, and neither pyplot's global state
nor the caller's settings change. Names imported as themselves are for other figures.
"""

import itertools
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
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
    COLUMN_WIDTH,
    DPI,
    FULL_WIDTH,
    GREY,
    INK,
    NORMAL,
    Look,
    add_caption,
    add_legend,
    draw_band,
    draw_limit,
    label_points,
    layer_looks,
    save,
    style_axes,
    tints,
    wrap,
)
from mine_jax.information_plane.figure_style import LIMIT as LIMIT
from mine_jax.information_plane.figure_style import SMALL as SMALL
from mine_jax.information_plane.figure_style import look_of as look_of
from mine_jax.information_plane.figure_table import (
    BINS,
    KDE,
    VARIABLES,
    Array,
    Rows,
    Table,
    caption,
    mean_accuracy,
    shows_ceiling,
    tabulate,
    up_to,
)
from mine_jax.information_plane.figure_table import finite_or_nan as finite_or_nan
from mine_jax.information_plane.figure_table import mean_over_seeds as mean_over_seeds
from mine_jax.information_plane.figure_table import require_keys as require_keys

LINE_HEIGHT = 0.14  # inches, of the caption and the legend
LINE_WIDTH, THIN = 0.9, 0.4  # points
PLANE_TITLES = {"observed": "Observed with noise", "deterministic": "Deterministic"}
SYMBOLS = {"observed": ("T", ""), "deterministic": ("L", ", lower bound")}
OTHERS: dict[str, Look] = {
    BINS: {"marker": "+", "markersize": 3.5},
    KDE: {"marker": ".", "markersize": 3.5},
}
OTHER: Look = {"linestyle": ":", "linewidth": 0.7, "alpha": 0.4, "zorder": 1.1}
BRACKET: Look = {"linestyle": "none", "marker": "s", "markersize": 7, "markeredgewidth": 0.6}
BRACKET |= {"markerfacecolor": "0.93", "markeredgecolor": GREY}
FLAGGED: Look = {"linestyle": "none", "marker": r"$\otimes$", "markersize": 5.5, "color": INK}
FLAGGED |= {"markeredgewidth": 0.1}
OWN: Look = {"marker": "o", "markersize": 1.8, "linewidth": 0.4, "alpha": 0.45, "zorder": 1.2}


def information_plane(
    records: Rows,
    description: Mapping[str, Any],
    path: str | os.PathLike | None = None,
    *,
    until: float | None = None,
) -> Figure:
    """Draw I(X; ·) against I(Y; ·), a panel for each plane, one path for each layer.

    Marks are darker from epoch to epoch; the first and last epoch are named. Observed layers have
    their brackets as boxes, deterministic layers the ceiling of their lower bounds. Flagged
    values are hollow and crossed. With several seeds each is a thin line, their mean carries the
    marks, and a band reaches two standard errors of the mean to either side. Values that are not
    finite are gaps.

    Args:
      records: rows of `records.jsonl`, in nats: the keys `RECORD_KEYS` of `figure_table`, and
        perhaps `bins_nats` and `kde_nats`. Layers are taken in order of first appearance; of two
        rows for the same value the later one counts. A plane without rows has no panel.
      description: content of `config.json`: the keys `DESCRIPTION_KEYS` of `figure_table`;
        `notice` is put above the figure unless empty.
      path: PNG file to write; a PDF of the same name is written beside it. Each is replaced only
        once the new one is complete. None for no file.
      until: last epoch to draw, on the axes of all epochs and with their legend and caption, as a
        frame of an animation; None for all.

    Returns:
      The figure.

    Raises:
      ValueError: `records` is empty, a key is missing, or a variable or plane is unknown.
    """
    tables = list(tabulate(records, description, paired=True).values())
    looks = layer_looks(tables[0].layers)
    epoch = "" if until is None else f", epoch {until:g}"
    marks = "Boxes: brackets, on average below and above the true value."
    text = caption(tables, records, description, marks=marks, level=description["noise_level"])
    fig = _described_figure(tables, looks, description, text, len(tables) > 1, 2.75)
    panels = fig.subplots(1, len(tables), squeeze=False)[0]
    for ax, table in zip(panels, tables, strict=True):
        ax.set_title(PLANE_TITLES[table.plane] + epoch, fontsize=NORMAL, loc="left")
    _draw_planes(fig, panels, tables, looks, until=until)
    return save(fig, path)


def noise_sweep(
    runs: Mapping[float, Rows],
    description: Mapping[str, Any],
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw the observed plane at several noise levels, a panel each, with the same I(Y; T) axis.

    Args:
      runs: noise level c to the run's records; those of the deterministic plane are ignored.
      description: as for `information_plane`, of any of the runs; its noise level is ignored.
      path: as for `information_plane`.

    Returns:
      The figure.

    Raises:
      ValueError: there are no runs, a run has no observed layers, or its records are faulty.
    """
    if not runs:
        raise ValueError("runs is empty: there is nothing to draw")
    observed = {
        level: [row for row in rows if row.get("plane", "observed") == "observed"]
        for level, rows in sorted(runs.items())
    }
    tables = []
    for level, rows in observed.items():
        try:
            tables.append(tabulate(rows, description, paired=True)["observed"])
        except ValueError as error:
            raise ValueError(f"observed layers at c = {level:g}: {error}") from error
    records = [row for rows in observed.values() for row in rows]
    looks = layer_looks(dict.fromkeys(itertools.chain.from_iterable(t.layers for t in tables)))
    marks = "Boxes: brackets, on average below and above the true value. Scales of I(X; T) differ."
    text = caption(tables, records, description, marks=marks)
    num_rows = 1 if len(tables) <= 4 else 2
    num_columns = -(-len(tables) // num_rows)
    fig = _described_figure(tables, looks, description, text, True, 2.4 * num_rows)
    grid = fig.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for ax in panels[len(tables) :]:
        ax.remove()
    for ax, level in zip(panels, observed, strict=False):
        ax.set_title(f"c = {level:g}", fontsize=NORMAL, loc="left")
    _draw_planes(fig, panels[: len(tables)], tables, looks, num_columns)
    return save(fig, path)


def mi_over_epochs(
    records: Rows,
    training: Rows,
    description: Mapping[str, Any],
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw I(X; ·), I(Y; ·) and the test accuracy against the epoch; a column for each plane.

    Exact brackets are bands with edges. Seeds, flagged values and values that are not finite are
    treated as by `information_plane`.

    Args:
      records: as for `information_plane`.
      training: rows of `training.jsonl`: `epoch`, `test_accuracy` (a fraction, or None). Where
        no row has an accuracy, its panel is left out.
      description: as for `information_plane`.
      path: as for `information_plane`.

    Returns:
      The figure.

    Raises:
      ValueError: `records` is empty, a key is missing, or a variable or plane is unknown.
    """
    tables = list(tabulate(records, description).values())
    accuracy = mean_accuracy(training)
    looks = layer_looks(tables[0].layers)
    marks = "Shaded, with edges: brackets, on average below and above the true value."
    text = caption(tables, records, description, marks=marks, level=description["noise_level"])
    heights = (1.0, 1.0, 0.6) if len(accuracy) else (1.0, 1.0)
    height = 0.5 + 1.55 * sum(heights)
    fig = _described_figure(tables, looks, description, text, len(tables) > 1, height, False)
    grid = fig.add_gridspec(len(heights), len(tables), height_ratios=heights)
    panels: list[tuple[int, Axes]] = []
    first = None
    for column, table in enumerate(tables):
        symbol, bound = SYMBOLS[table.plane]
        for j, variable in enumerate(VARIABLES):
            ax = fig.add_subplot(grid[j, column], sharex=first)
            first = first or ax
            panels.append((j, ax))
            ax.margins(y=0.12)
            _draw_curves(ax, table, looks, j)
            label = f"I({variable.upper()}; {symbol}){bound} (nats)"
            ax.set_ylabel(textwrap.fill(label, 16), fontsize=NORMAL)
            if j == 0:
                ax.set_title(PLANE_TITLES[table.plane], fontsize=NORMAL, loc="left")
                if shows_ceiling(table):
                    draw_limit(ax, "y", table.ceiling, "ceiling")
            elif math.isfinite(table.entropy):
                draw_limit(ax, "y", table.entropy, "H(Y)")
    if len(accuracy):
        ax = fig.add_subplot(grid[2, :], sharex=first)
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
    return save(fig, path)


def _described_figure(
    tables: Sequence[Table],
    looks: Mapping[str, Look],
    description: Mapping[str, Any],
    text: str,
    wide: bool,
    height: float,
    fills: bool = True,
) -> Figure:
    """Make an empty figure, with notice and legend above and the caption below.

    The panels get about `height` inches. `fills` tells whether the marks' fill shows the epoch.
    """
    width = FULL_WIDTH if wide else COLUMN_WIDTH
    entries: dict[str, Look | tuple[Look, ...]] = dict(looks)
    if any(np.isfinite(table.high - table.low).any() for table in tables):
        entries["bracket"] = BRACKET
    first, last = (tables[0].epochs[[0, -1]]).tolist()
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
            entries[name] = OTHER | look | {"color": INK, "alpha": 0.6}
    columns = 4 if wide else 3
    names = list(itertools.chain.from_iterable(list(entries)[i::columns] for i in range(columns)))
    notice = textwrap.fill(str(description["notice"]), round(16 * width))
    lines = wrap(text, width).count("\n") + notice.count("\n") + -(-len(names) // columns)
    fig = Figure(figsize=(width, height + LINE_HEIGHT * (lines + 2)), dpi=DPI, layout="constrained")
    place = {"loc": "outside upper center", "ncols": columns, "columnspacing": 1.4}
    add_legend(fig, {name: entries[name] for name in names}, title=notice, **place)
    add_caption(fig, text)
    return fig


def _draw_planes(
    fig: Figure,
    panels: Sequence[Axes],
    tables: Sequence[Table],
    looks: Mapping[str, Look],
    num_columns: int | None = None,
    until: float | None = None,
) -> None:
    """Draw a table in each panel; with `num_columns` only the first of a row names its y axis.

    With `until` later epochs are not drawn, but leave their room.
    """
    first, last = min(t.epochs[0] for t in tables), max(t.epochs[-1] for t in tables)
    norm = Normalize(first, max(last, first + 1))
    for i, (ax, table) in enumerate(zip(panels, tables, strict=True)):
        ax.margins(0.09)
        _draw_paths(ax, table, looks, norm)
        symbol, bound = SYMBOLS[table.plane]
        ax.set_xlabel(f"I(X; {symbol}){bound} (nats)", fontsize=NORMAL)
        if num_columns is None or i % num_columns == 0:
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
            ax.plot(*values[:, i].T, color=color, label=name, **OTHER, **OTHERS[name])
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
            ax.plot(epochs, values[at], color=color, label=name, **OTHER, **OTHERS[name])
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
