"""The style that all figures share: sizes, looks, legends, captions, labels and files."""

import itertools
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from mine_jax.information_plane.figure_table import Array
from mine_jax.information_plane.files import replacing

Look = dict[str, Any]  # keyword arguments of `Axes.plot`

DPI, SMALL, NORMAL = 300, 7, 8  # sizes of text in points
FULL_WIDTH, COLUMN_WIDTH = 7.0, 3.4  # inches, of a paper with two columns
INK, GREY, LIMIT = "0.15", "0.45", "#9c2a10"
COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#8f4a7b", "#7a6a00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (2.5, 1)))
# Layers whose values coincide stay visible, as the later ones are drawn smaller, on top.
MARKER_SIZES = (5.2, 3.2)  # first and last layer, points
LIGHTEST = 0.2  # tint of the first probe's marks: not white, which is for flagged values
SAME_PLACE = 6  # points, up to which marks share a label
# Where a label may be, as seen from its mark: nearest first, below and above before the sides.
DISTANCES = (8, 11, 15)  # points
DISTANCE_COST = 0.3  # covered obstacles that a label avoids by being a point farther off
NEARER_COST = 10  # obstacles that a label covers rather than be nearer to another label's point
ANGLES = (90, 270, 0, 180, 45, 135, 225, 315)  # degrees


def look_of(i: int) -> Look:
    """Return color and marker of the i-th layer, family or network."""
    return {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}


def layer_looks(layers: Iterable[str]) -> dict[str, Look]:
    """Return layer to its look, which no other layer has in color, marker and size of the marker.

    Args:
      layers: names, by depth.

    Returns:
      Name to look, in the same order.
    """
    names = list(layers)
    sizes = np.linspace(*MARKER_SIZES, len(names)).tolist()
    return {
        name: look_of(i) | {"linestyle": DASHES[i % len(DASHES)], "markersize": sizes[i]}
        for i, name in enumerate(names)
    }


def tints(color: str, lightest: float = LIGHTEST) -> LinearSegmentedColormap:
    """Return the color map from a tint of the color, white at `lightest` 0, to the color."""
    first = 1 - lightest * (1 - np.array(to_rgb(color)))
    return LinearSegmentedColormap.from_list("tints", [tuple(first), color])


def style_axes(ax: Axes) -> None:
    """Apply the common style of all panels."""
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.93", linewidth=0.5)
    ax.set_axisbelow(True)


def add_legend(
    parent: Figure | Axes, looks: Mapping[str, Look | Sequence[Look]], **options: Any
) -> None:
    """Add a legend of label to look; several looks are drawn side by side.

    Args:
      parent: figure or panel that the legend is for.
      looks: label to one look or several.
      **options: as for `matplotlib.legend.Legend`.
    """
    size: Look = {"markersize": 4.5}
    handles: list[Any] = [
        Line2D([], [], **size | look)
        if isinstance(look, dict)
        else tuple(Line2D([], [], **size | part) for part in look)
        for look in looks.values()
    ]
    side_by_side = {tuple: HandlerTuple(ndivide=None, pad=0.2)}
    style: Look = {"fontsize": SMALL, "frameon": False, "handler_map": side_by_side}
    legend = parent.legend(handles, list(looks), **style | options)
    legend.get_title().set(fontsize=NORMAL, color=LIMIT)
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)


def wrap(text: str, width: float) -> str:
    """Break the lines of small text for a width in inches."""
    return "\n".join(textwrap.fill(line, round(18.5 * width)) for line in text.splitlines())


def add_caption(fig: Figure, caption: str) -> None:
    """Write a caption below the panels, wrapped to the figure's width."""
    style: dict[str, Any] = {"fontsize": SMALL, "color": INK, "parse_math": False}
    fig.supxlabel(wrap(caption, fig.get_figwidth()), x=0.02, ha="left", **style)


def draw_limit(ax: Axes, axis: str, limit: float, name: str, side: str = "right") -> Annotation:
    """Draw a line at a limit on the axis "x" or "y", and beside it its name and value.

    Args:
      ax: panel.
      axis: axis that the limit is a value of.
      limit: where, in nats.
      name: what the limit is.
      side: "left" or "right", the end of the line for "y" where the label is.

    Returns:
      The label: above the panel for "x", above the line for "y".
    """
    style: dict[str, Any] = {"fontsize": SMALL, "color": LIMIT, "textcoords": "offset points"}
    style |= {"ha": side, "va": "bottom"}
    label = f"{name} {limit:.2f}"
    # Unlike the lines, data limits keep a margin.
    ax.update_datalim([(limit, limit)], updatex=axis == "x", updatey=axis == "y")
    ax.autoscale_view()
    if axis == "x":
        ax.axvline(limit, color=LIMIT, linewidth=0.8, zorder=1)
        return ax.annotate(label, (limit, 1), (2, 3), xycoords=ax.get_xaxis_transform(), **style)
    ax.axhline(limit, color=LIMIT, linewidth=0.8, zorder=1)
    end, inward = ((1, limit), 0) if side == "right" else ((0, limit), 3)
    return ax.annotate(label, end, (inward, 2), xycoords=ax.get_yaxis_transform(), **style)


def draw_band(ax: Axes, points: Array, halves: Array, color: Any, label: str) -> None:
    """Fill the area that boxes of half the size `halves`, (n, 2), cover along `points`."""
    signs = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])
    boxes = points[:, None] + halves[:, None] * signs
    # The boxes, and what each side covers on its way to the next box: together their hulls.
    sides = [
        np.stack([before[k], before[k - 1], after[k - 1], after[k]])
        for before, after in itertools.pairwise(boxes)
        for k in range(4)
    ]
    known = [area for area in (*boxes, *sides) if np.isfinite(area).all()]
    style: Look = {"facecolors": color, "linewidths": 0, "zorder": 0.5, "label": label}
    ax.add_collection(PolyCollection(known, **style))


def label_points(
    ax: Axes,
    labels: Sequence[tuple[str, Array, str]],
    obstacles: Array,
    taken: Sequence[Annotation],
) -> None:
    """Put labels beside points: apart from one another, and off the obstacles where possible.

    The figure must have been laid out. A label that finds no place apart from others is left out,
    and so is one that a point within `SAME_PLACE` has already.

    Args:
      ax: panel.
      labels: text, point (2,) in the panel's data, and color.
      obstacles: (n, 2), points that labels should not cover, in the panel's data.
      taken: texts already there.
    """
    figure = ax.get_figure(root=True)
    scale = (figure.dpi if figure else DPI) / 72
    inside, boxes = ax.get_window_extent(), [text.get_window_extent() for text in taken]
    blocked = ax.transData.transform(obstacles)
    anchors = ax.transData.transform([point for _, point, _ in labels] or np.empty((0, 2)))
    placed: list[tuple[str, Array, Annotation]] = []
    for text, point, color in labels:
        at = ax.transData.transform(point)
        near = [
            note
            for other, place, note in placed
            if other == text and np.hypot(*(place - at)) < SAME_PLACE * scale
        ]
        if near:
            near[0].set_color(INK)
            continue
        style: dict[str, Any] = {"ha": "center", "va": "center", "textcoords": "offset points"}
        note = ax.annotate(text, tuple(point), (0, 0), fontsize=SMALL, color=color, **style)
        note.set_in_layout(False)
        note.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
        extent = note.get_window_extent()
        best, lowest = None, np.inf
        for distance, angle in itertools.product(DISTANCES, ANGLES):
            shift = distance * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
            box = extent.translated(*(shift * scale))
            if not _contains(inside, box) or any(box.overlaps(other) for other in boxes):
                continue
            apart = np.hypot(*(anchors - at - shift * scale).T)
            cost = box.padded(2.5 * scale).count_contains(blocked) + DISTANCE_COST * distance
            cost += NEARER_COST * int((apart < 0.99 * distance * scale).sum())
            if cost < lowest:
                best, lowest = (shift, box), cost
        if best is None:
            note.remove()
            continue
        note.set_position(tuple(best[0]))
        boxes.append(best[1])
        placed.append((text, at, note))


def _contains(outer: Bbox, inner: Bbox) -> bool:
    """Whether a box lies within another."""
    return bool(np.all(inner.min >= outer.min) and np.all(inner.max <= outer.max))


def save(fig: Figure, path: str | os.PathLike | None) -> Figure:
    """Write a figure as PNG and, under the same name, as PDF, unless `path` is None; return it."""
    targets = [Path(path).with_suffix(suffix) for suffix in (".png", ".pdf")] if path else []
    for target in targets:
        with replacing(target) as partial:
            fig.savefig(partial, format=target.suffix[1:])
    return fig
