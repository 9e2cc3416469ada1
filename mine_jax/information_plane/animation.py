"""The information plane as an animated GIF, a frame for each epoch."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from mine_jax.information_plane.figure_table import Rows
from mine_jax.information_plane.figures import information_plane
from mine_jax.information_plane.files import replacing

DPI = 130  # pixels per inch
FRAME_MS, LAST_MS = 500, 2500  # how long a frame and the last frame stay


def animation(records: Rows, description: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Write the information plane as a GIF that plays the epochs.

    Args:
      records: rows of `records.jsonl`, in nats, as for `figures.information_plane`.
      description: content of `config.json`, likewise.
      path: file to write, replaced only once the new one is complete.

    Returns:
      The path.

    Raises:
      ValueError: `records` is empty, a key is missing, or a variable or plane is unknown.
    """
    first, *rest = [_image(figure) for figure in frames(records, description)]
    times = [FRAME_MS] * len(rest) + [LAST_MS]
    with replacing(path) as partial:
        options = {"save_all": True, "append_images": rest, "duration": times, "loop": 0}
        first.save(partial, format="GIF", **options)
    return Path(path)


def frames(records: Rows, description: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield the figure of each epoch, ascending, with the epochs before it and the same axes.

    Arguments and errors are those of `animation`.
    """
    epochs = sorted({row["epoch"] for row in records if "epoch" in row})
    for epoch in epochs or [None]:  # without any `information_plane` says what is wrong
        yield information_plane(records, description, until=epoch)


def _image(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return Image.open(file).convert("RGB")
