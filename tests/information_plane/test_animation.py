"""The animated plane: what a frame shows, that the axes stay, and how the file is written."""

import itertools

import numpy as np
import pytest
from made_records import DESCRIPTION, EPOCHS, LAYERS, PLANES, make_records, path_of
from PIL import Image

from mine_jax.information_plane import Plane, figures
from mine_jax.information_plane.animation import FRAME_MS, LAST_MS, animation, frames


def named(ax, label):
    return [artist for artist in ax.get_children() if artist.get_label() == label]


def test_frames_show_the_epochs_so_far_on_axes_that_stay():
    records = make_records(epochs=(8, 0, 4))
    whole = figures.information_plane(records, DESCRIPTION)
    shown = list(frames(records, DESCRIPTION))
    assert len(shown) == len(EPOCHS)
    for k, figure in enumerate(shown):
        for ax, other, plane in zip(figure.axes, whole.axes, PLANES, strict=True):
            assert (ax.get_xlim(), ax.get_ylim()) == (other.get_xlim(), other.get_ylim())
            np.testing.assert_allclose(ax.get_position().bounds, other.get_position().bounds)
            assert ax.get_title("left").endswith(f", epoch {EPOCHS[k]}")
            for i, layer in enumerate(LAYERS):
                (line,), (marks,) = named(ax, layer), named(ax, f"marks {layer}")
                expected = path_of(plane, i)
                expected[k + 1 :] = np.nan
                for points in (line.get_xydata(), np.ma.filled(marks.get_offsets(), np.nan)):
                    np.testing.assert_allclose(points, expected)
                boxes = named(ax, f"bracket {layer}")
                assert sum(len(b.get_paths()) for b in boxes) == (k + 1) * (plane == "observed")


def test_animation_has_a_frame_for_each_epoch(tmp_path):
    records = make_records()
    path = animation(records, DESCRIPTION, tmp_path / "plane.gif")
    with Image.open(path) as image:
        assert (image.n_frames, image.info["loop"]) == (len(EPOCHS), 0)
        pictures, times = [], []
        for k in range(image.n_frames):
            image.seek(k)
            times.append(image.info["duration"])
            pictures.append(np.asarray(image.convert("L"), float))
    assert times == [FRAME_MS, FRAME_MS, LAST_MS]
    assert all(picture[0, 0] == 255 for picture in pictures)
    changed = [np.abs(a - b) > 64 for a, b in itertools.pairwise(pictures)]
    # Marks and a number in the title change, the axes do not.
    assert all(0.0005 < where.mean() < 0.03 for where in changed)


def test_plane_writes_a_gif_as_a_whole(tmp_path):
    path = tmp_path / "plane.gif"
    plane = Plane(tuple(make_records((0,))), DESCRIPTION | {"class_entropy_nats": None})
    assert plane.gif(path) == path
    before = path.read_bytes()
    with pytest.raises(ValueError, match="empty"):
        Plane((), DESCRIPTION).gif(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["plane.gif"]
