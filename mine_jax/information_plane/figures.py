"""Figures of a run: the information plane, its values over the epochs, and a sweep of the noise.

`Figure` objects are built directly, so that no display is needed, and neither pyplot's global state
nor the caller's settings change.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

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
from mine_jax.information_plane.figure_style import COLUMN_WIDTH, FULL_WIDTH, layer_looks, save
from mine_jax.information_plane.figure_table import (
    Rows,
    Table,
    caption,
    caption_sentences,
    mean_accuracy,
    tabulate,
)


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
    text = caption(tables, records, description, marks=BOX_MARKS)
    size: dict[str, Any] = {"width": _width(tables), "height": 2.75}
    fig = described_figure(tables, looks, str(description["notice"]), text, **size)
    panels = fig.subplots(1, len(tables), squeeze=False)[0]
    for ax, table in zip(panels, tables, strict=True):
        draw_title(ax, PLANE_TITLES[table.plane] + epoch)
    draw_planes(fig, panels, tables, looks, until=until)
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
    marks = f"{BOX_MARKS} Scales of I(X; T) differ."
    text = " ".join(caption_sentences(tables, records, description, marks=marks))
    num_rows = 1 if len(tables) <= 4 else 2
    num_columns = -(-len(tables) // num_rows)
    size: dict[str, Any] = {"width": FULL_WIDTH, "height": 2.4 * num_rows}
    fig = described_figure(tables, looks, str(description["notice"]), text, **size)
    grid = fig.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for ax in panels[len(tables) :]:
        ax.remove()
    for ax, level in zip(panels, observed, strict=False):
        draw_title(ax, f"c = {level:g}")
    draw_planes(fig, panels[: len(tables)], tables, looks, y_named=panels[::num_columns])
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
        no row has an accuracy, or there are no rows, its panel is left out.
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
    text = caption(tables, records, description, marks=CURVE_MARKS)
    height = epochs_height(bool(len(accuracy)))
    size: dict[str, Any] = {"width": _width(tables), "height": height, "fills": False}
    fig = described_figure(tables, looks, str(description["notice"]), text, **size)
    columns = [(PLANE_TITLES[table.plane], table) for table in tables]
    draw_epochs(fig, columns, looks, [(slice(None), accuracy)] if len(accuracy) else [])
    return save(fig, path)


def _width(tables: Sequence[Table]) -> float:
    return FULL_WIDTH if len(tables) > 1 else COLUMN_WIDTH
