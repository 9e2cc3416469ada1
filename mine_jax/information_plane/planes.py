"""`Plane`: the information plane of a network over its training, as records that can be shown."""

import base64
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mine_jax.information_plane.figure_table import (
    DESCRIPTION_KEYS,
    RECORD_KEYS,
    is_flagged,
    is_measured,
    require_keys,
)
from mine_jax.information_plane.files import replacing
from mine_jax.information_plane.records import (
    CONFIG,
    RECORDS,
    TRAINING,
    RunFolder,
    RunFolderError,
)

Row = dict[str, Any]

KIND = "plane"  # of a folder that `Plane.save` may write again
SCREEN_DPI = 110
MAX_LINES = 40  # of the table that `repr` shows
# Control characters and halves of surrogates: terminals obey them, XML and fonts have none.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, repr=False)
class Plane:
    """The information plane: a record for each epoch, plane, layer and variable, in nats.

    >>> import numpy as np
    >>> labels = np.arange(500) % 2
    >>> hidden = np.random.default_rng(0).normal(size=(500, 3)) + labels[:, None]
    >>> found = plane({0: {"hidden": hidden}}, labels)
    >>> [(row["layer"], row["variable"]) for row in found.records]
    [('hidden', 'x'), ('hidden', 'y')]

    Attributes:
      records: rows as in `records.jsonl`, plain dicts; None for what is not a number.
      description: what they are of, as in `config.json`.
      training: rows as in `training.jsonl`, loss and accuracy of each epoch; may be empty.
    """

    records: tuple[Row, ...]
    description: Row
    training: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        for name in ("records", "training"):
            object.__setattr__(self, name, tuple(_json(row) for row in getattr(self, name)))
        object.__setattr__(self, "description", _json(self.description))

    def figure(self, over_epochs: bool = False) -> Any:
        """Draw the information plane, a path for each layer.

        Args:
          over_epochs: draw the values, and the accuracy where it is known, against the epoch.

        Returns:
          A matplotlib `Figure`; its `savefig` writes PNG, PDF or SVG.

        Raises:
          ValueError: if there are no records.
        """
        from mine_jax.information_plane import figures

        if over_epochs:
            return figures.mi_over_epochs(self.records, self.training, self.description)
        return figures.information_plane(self.records, self.description)

    def html(self, path: str | os.PathLike | None = None) -> str:
        """Return the interactive page of the plane, which needs no network.

        Args:
          path: HTML file to write, replaced only once the new one is complete; None for no file.

        Returns:
          The text of the page, about 1 MB.

        Raises:
          ImportError: if the packages of `mine_jax[html]` are not installed.
          ValueError: if there are no records.
        """
        from mine_jax.information_plane.page import page

        text = page(self.records, self.description, self.training)
        if path is not None:
            with replacing(path) as partial:
                partial.write_text(text, encoding="utf-8")
        return text

    def gif(self, path: str | os.PathLike) -> Path:
        """Write the plane as an animated GIF, a frame for each epoch.

        Args:
          path: file to write, replaced only once the new one is complete.

        Returns:
          The path.

        Raises:
          ValueError: if there are no records.
        """
        from mine_jax.information_plane.animation import animation

        return animation(self.records, self.description, path)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the records and their description into a folder, which `load` reads.

        Args:
          folder: a new or empty folder, or one that `save` wrote, which is replaced.

        Returns:
          The folder.

        Raises:
          RunFolderError: if the folder holds something else, or cannot be written.
        """
        to = RunFolder(folder)
        if to.holds_run() and to.description().get("kind") != KIND:
            raise RunFolderError(f"{to.path} already holds a run; choose another folder")
        to.create()
        to.write(CONFIG, self.description | {"kind": KIND})
        to.replace_rows(RECORDS, self.records)
        to.replace_rows(TRAINING, self.training)
        return to.path

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Plane":
        """Read a folder of `save`, of a `Recorder`, or of a run.

        Args:
          folder: the folder.

        Raises:
          RunFolderError: if it holds no records, or those of an earlier version, or is damaged.
        """
        of = RunFolder(folder)
        records, description = of.read(RECORDS), of.description()
        description.pop("kind", None)
        if not records:
            raise RunFolderError(
                f"{of.path} has no records to show ({RECORDS} is absent or empty); if it is a "
                "Recorder's, its plane() measures what was added"
            )
        try:
            require_keys(RECORDS, records, RECORD_KEYS)
            require_keys(CONFIG, [description], DESCRIPTION_KEYS)
        except ValueError as error:
            raise RunFolderError(f"{of.path} is of an earlier version: {error}") from error
        return cls(tuple(records), description, tuple(of.read(TRAINING)))

    def to_pandas(self) -> Any:
        """Return the records as a pandas `DataFrame`, a row each.

        Raises:
          ImportError: if pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return pd.DataFrame(list(self.records))

    def __repr__(self) -> str:
        lines = ["  ".join(cells).rstrip() for cells in _aligned(self._table())]
        if len(lines) > MAX_LINES:
            half = MAX_LINES // 2
            lines = [*lines[:half], f"… {len(lines) - 2 * half} more …", *lines[-half:]]
        return "\n".join([self._heading(), *lines])

    def _repr_html_(self) -> str:
        """Show the figure and the table in a notebook."""
        parts = [f"<p>{escape(self._heading())}</p>"]
        if self.records:
            file = io.BytesIO()
            self.figure().savefig(file, format="png", dpi=SCREEN_DPI)
            image = base64.b64encode(file.getvalue()).decode()
            parts.append(f'<img alt="information plane" src="data:image/png;base64,{image}">')
        rows = [
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
            for cells in self._table()
        ]
        summary = "<details><summary>values in nats</summary>"
        return "".join([*parts, summary, "<table>", *rows, "</table></details>"])

    def _heading(self) -> str:
        counts = {
            name: len({row[name] for row in self.records}) for name in ("epoch", "layer", "seed")
        }
        several = f", {counts['seed']} seeds" if counts["seed"] > 1 else ""
        flagged = sum(map(is_flagged, self.records))
        marked = f"; * marks {_counted(flagged, 'flagged value')}" if flagged else ""
        of = f"{_counted(counts['epoch'], 'epoch')}, {_counted(counts['layer'], 'layer')}"
        return f"Information plane: {of}{several}; nats ± standard error (bracket){marked}"

    def _table(self) -> list[list[str]]:
        """Return the cells of a table with a line for each plane, seed, epoch and layer."""
        places: dict[tuple[Any, ...], dict[str, Row]] = {}
        for row in self.records:
            at = tuple(row[name] for name in ("plane", "seed", "epoch", "layer"))
            places.setdefault(at, {})[row["variable"]] = row
        several = len({row["seed"] for row in self.records}) > 1
        lines = [["plane", *(["seed"] if several else []), "epoch", "layer", "I(X;·)", "I(Y;·)"]]
        for (plane, seed, epoch, layer), of in places.items():
            seeds = [str(seed)] if several else []
            values = [_cell(of.get(variable)) for variable in ("x", "y")]
            lines.append([plane, *seeds, str(epoch), " ".join(layer.split()), *values])
        return lines


def load(folder: str | os.PathLike) -> Plane:
    """Read the plane of a run folder, of a `Recorder`'s folder, or one that `Plane.save` wrote.

    >>> import tempfile
    >>> import numpy as np
    >>> found = plane({0: {"out": np.eye(500, 3)}}, np.arange(500) % 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(found.save(folder)) == found
    True

    Args:
      folder: the folder.

    Raises:
      RunFolderError: if it holds no records, or those of an earlier version, or is damaged.
    """
    return Plane.load(folder)


def printable(text: str) -> str:
    """Return a text with escapes in the place of characters that no text file can hold.

    Args:
      text: a name of a layer, a run or data.
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _cell(row: Row | None) -> str:
    """Return a value with its standard error, its bracket and a mark where it is flagged."""
    if row is None:
        return "–"
    if not is_measured(row):
        return "not measured"
    mark = "*" if is_flagged(row) else ""
    if row["mi_nats"] is None:
        return f"–{mark}"
    text = f"{row['mi_nats']:.2f}"
    if row["stderr"] is not None:
        text += f" ± {row['stderr']:.2f}"
    low, high = row.get("reference_low_nats"), row.get("reference_high_nats")
    if low is not None and high is not None:
        text += f" ({low:.2f} to {high:.2f})"
    return text + mark


def _aligned(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)] for cells in lines
    ]


def _json(value: Any) -> Any:
    """Return what JSON gives back: plain dicts, lists and numbers, None where none is finite.

    Texts become `printable`: they are shown in terminals, figures and pages.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    json.dumps(value, allow_nan=False)  # TypeError for what JSON has no form of
    return value
