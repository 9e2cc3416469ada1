"""Figures of several runs side by side, a column for each run."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mine_jax.information_plane.figure_panels import (
    BOX_MARKS,
    CURVE_MARKS,
    PLANE_TITLES,
    described_figure,
    draw_epochs,
    draw_planes,
    draw_title,
    epochs_height,
)
from mine_jax.information_plane.figure_style import FULL_WIDTH, Look, layer_looks, save, wrap
from mine_jax.information_plane.figure_table import (
    PLANES,
    Array,
    Table,
    caption_sentences,
    mean_accuracy,
    tabulate,
)
from mine_jax.information_plane.planes import Plane

COLUMN_WIDTH, ROW_HEIGHT = 2.4, 2.5  # inches, of a panel

Tables = dict[str, dict[str, Table]]  # run to plane to table


def side_by_side(runs: Mapping[str, Plane], path: str | os.PathLike | None = None) -> Figure:
    """Draw I(X; ·) against I(Y; ·) of several runs: a column for each run, a row for each plane.

    The panels of a row have the same scales, and layers of the same name the same look. All else
    is as in `figures.information_plane`.

    Args:
      runs: name to run, from left to right.
      path: PNG file to write, with a PDF beside it; None for no file.

    Returns:
      The figure.

    Raises:
      ValueError: `runs` is empty, or the records of a run are faulty, which is named.
    """
    tables = _tabulate(runs, paired=True)
    planes = [plane for plane in PLANES if any(plane in of_run for of_run in tables.values())]
    fig, looks = _figure(runs, tables, BOX_MARKS, ROW_HEIGHT * len(planes), len(runs))
    shape: dict[str, Any] = {"sharex": "row", "sharey": "row", "squeeze": False}
    grid = fig.subplots(len(planes), len(runs), **shape)
    drawn: list[tuple[Axes, Table]] = []
    y_named = []
    for column, (name, of_run) in enumerate(tables.items()):
        title = [wrap(name, COLUMN_WIDTH * 0.7)]
        for ax, plane in zip(grid[:, column], planes, strict=True):
            if plane not in of_run:
                ax.remove()
                continue
            if plane not in [table.plane for _, table in drawn]:
                y_named.append(ax)
            drawn.append((ax, of_run[plane]))
            draw_title(ax, "\n".join([*title, PLANE_TITLES[plane]]))
            title = []
    draw_planes(fig, [ax for ax, _ in drawn], [table for _, table in drawn], looks, y_named)
    return save(fig, path)


def side_by_side_over_epochs(
    runs: Mapping[str, Plane], path: str | os.PathLike | None = None
) -> Figure:
    """Draw I(X; ·), I(Y; ·) and the test accuracy of several runs against the epoch.

    There is a column for each run and plane. Those of a plane have the same scales. All else is as
    in `figures.mi_over_epochs`.

    Args:
      runs: as for `side_by_side`.
      path: likewise.

    Returns:
      The figure.

    Raises:
      ValueError: likewise.
    """
    tables = _tabulate(runs)
    columns: list[tuple[str, Table]] = []
    accuracies: list[tuple[slice, Array]] = []
    for name, of_run in tables.items():
        accuracy = mean_accuracy(runs[name].training)
        if len(accuracy):
            accuracies.append((slice(len(columns), len(columns) + len(of_run)), accuracy))
        title = wrap(name, COLUMN_WIDTH * 0.7)
        columns += [(f"{title}\n{PLANE_TITLES[plane]}", table) for plane, table in of_run.items()]
    height = epochs_height(bool(accuracies))
    fig, looks = _figure(runs, tables, CURVE_MARKS, height, len(columns), fills=False)
    draw_epochs(fig, columns, looks, accuracies)
    return save(fig, path)


def _tabulate(runs: Mapping[str, Plane], paired: bool = False) -> Tables:
    if not runs:
        raise ValueError("runs is empty: there is nothing to draw")
    tables = {}
    for name, run in runs.items():
        try:
            tables[name] = tabulate(run.records, run.description, paired)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return tables


def _figure(
    runs: Mapping[str, Plane],
    tables: Tables,
    marks: str,
    height: float,
    num_columns: int,
    fills: bool = True,
) -> tuple[Figure, dict[str, Look]]:
    """Make an empty figure with notices, legend and caption; return it and the layers' looks."""
    every = [table for of_run in tables.values() for table in of_run.values()]
    looks = layer_looks(dict.fromkeys(layer for table in every for layer in table.layers))
    notices = dict.fromkeys(str(run.description["notice"]) for run in runs.values())
    sentences = {
        name: caption_sentences(
            list(tables[name].values()),
            run.records,
            run.description,
            marks=marks,
            level=run.description["noise_level"],
        )
        for name, run in runs.items()
    }
    size: dict[str, Any] = {"width": max(FULL_WIDTH, COLUMN_WIDTH * num_columns), "height": height}
    notice = " ".join(notice for notice in notices if notice)
    fig = described_figure(every, looks, notice, _join_captions(sentences), **size, fills=fills)
    return fig, looks


def _join_captions(sentences: Mapping[str, Sequence[str]]) -> str:
    """Return a line for each run, and one of what holds for all of them."""
    shared = [
        text
        for text in next(iter(sentences.values()))
        if all(text in of_run for of_run in sentences.values())
    ]
    lines = []
    for name, of_run in sentences.items():
        if own := " ".join(text for text in of_run if text not in shared):
            lines.append(f"{name}: {own}")
    return "\n".join([*lines, " ".join(shared)])
