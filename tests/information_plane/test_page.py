"""The interactive page: what is drawn and where, what a user can do, and that it stays at home."""

import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from made_records import DESCRIPTION, EPOCHS, HIGH, LAYERS, LOW, PLANES, make_records, path_of
from PIL import Image

from mine_jax.information_plane import Plane
from mine_jax.information_plane.figure_style import COLORS
from mine_jax.information_plane.page import chart, page

EXTRA = "pip install 'mine_jax[html]'"
pytest.importorskip("altair", reason=f"altair is absent: {EXTRA}")
vl_convert = pytest.importorskip("vl_convert", reason=f"vl-convert-python is absent: {EXTRA}")

TRAINING = [{"epoch": 0, "test_accuracy": 0.1234}, {"epoch": 4, "test_accuracy": None}]
HARMFUL = "</script><b>&'\"<!--"


def tags_of(text):
    """Names of the tags of a page and of their attributes."""
    tags, attributes = [], set()
    parser = HTMLParser()

    def start(tag, attrs):
        tags.append(tag)
        attributes.update(name for name, _ in attrs)

    parser.handle_starttag = start
    parser.feed(text)
    return tags, attributes


def spec_of(text):
    return json.loads(re.search(r"const spec = (.*);\n", text)[1])


def marks_of(panel, kind):
    return [layer for layer in panel["layer"] if layer["mark"]["type"] == kind]


def drawn(spec, role, **params):
    """SVG elements with a role, where the page's parameters have other values."""
    spec["params"] = [p | {"value": params.get(p["name"], p["value"])} if "value" in p else p
                      for p in spec["params"]]  # fmt: skip
    svg = vl_convert.vegalite_to_svg(spec)
    pattern = rf'<path aria-label="([^"]*)" role="[^"]*" aria-roledescription="{role}"'
    return re.findall(pattern, svg)


def make_spec(records, training=(), **description):
    return chart(records, DESCRIPTION | description, training).to_dict()


def test_page_is_one_small_file_that_needs_no_network():
    text = page(make_records(), DESCRIPTION, TRAINING)
    assert len(text.encode()) < 1.5e6
    address = r"\s*[\\\"']*\s*(https?:)?//"
    for loads in (r"(src|href)\s*=", r"(@import|\bimport|\bfrom)\s*\(?", r"\burl\s*\("):
        assert not re.search(loads + address, text)
    tags, attributes = tags_of(text)
    assert set(tags) == {"html", "head", "meta", "style", "script", "body", "div"}
    assert not {"src", "href"} & attributes


def test_names_cannot_end_the_script():
    records = make_records()
    for row in records:
        row["layer"] = row["layer"].replace("conv2", HARMFUL)
        row["warnings"] = [HARMFUL]
    text = page(records, DESCRIPTION | {"dataset": HARMFUL, "notice": HARMFUL})
    assert tags_of(text) == tags_of(page(make_records(), DESCRIPTION))
    spec = spec_of(text)
    assert HARMFUL in {row["layer"] for row in spec["hconcat"][0]["data"]["values"]}
    assert spec["title"]["text"] == [HARMFUL]


def test_points_bars_and_brackets_are_where_the_records_say():
    spec = make_spec(make_records(epochs=(8, 0, 4)))
    for panel, plane in zip(spec["hconcat"], PLANES, strict=True):
        for i, layer in enumerate(LAYERS):
            rows = [row for row in panel["data"]["values"] if row["layer"] == layer]
            assert [row["epoch"] for row in rows] == list(EPOCHS)
            ends = {name: np.array([[row[f"{name}{v}"] for v in "xy"] for row in rows], float)
                    for name in ("", "from_", "to_", "low_", "high_")}  # fmt: skip
            path = path_of(plane, i)
            np.testing.assert_allclose(ends[""], path, atol=1e-4)
            np.testing.assert_allclose(ends["from_"], path - 0.02, atol=1e-4)
            np.testing.assert_allclose(ends["to_"], path + 0.02, atol=1e-4)
            if plane == "observed":
                low, high = ([ends_["x"], ends_["y"]] for ends_ in (LOW, HIGH))
                np.testing.assert_allclose(ends["low_"], path - low, atol=1e-4)
                np.testing.assert_allclose(ends["high_"], path + high, atol=1e-4)
            else:
                assert np.isnan([ends["low_"], ends["high_"]]).all()
            lightness = [sum(bytes.fromhex(row["fill"][1:])) for row in rows]
            assert lightness[0] > lightness[1] > lightness[2]
        values = panel["data"]["values"]
        (marks, _) = marks_of(panel, "point")
        for v in "xy":
            low, high = marks["encoding"][v]["scale"]["domain"]
            assert all(low < row[f"{end}{v}"] < high for row in values for end in ("from_", "to_"))
        assert marks["encoding"]["color"]["scale"]["range"] == list(COLORS[: len(LAYERS)])
        assert (marks["encoding"]["y"]["title"] == "I(Y; T) (nats)") == (plane == "observed")


def test_slider_and_layers_decide_what_is_drawn():
    count = len(EPOCHS) * len(LAYERS) * len(PLANES)
    spec = make_spec(make_records())
    assert len(drawn(spec, "point")) == count
    assert len(drawn(spec, "line mark")) == len(LAYERS) * len(PLANES)
    assert len(drawn(spec, "point", until=4)) == count * 2 // 3
    (slider,) = (p["bind"] for p in spec["params"] if p["name"] == "until")
    assert (slider["input"], slider["min"], slider["max"], slider["step"]) == ("range", 0, 8, 4)
    few = [{"layer": LAYERS[1]}, {"layer": LAYERS[3]}]
    points = drawn(spec, "point", until=8, shown=few)
    assert len(points) == count // 2
    assert all(LAYERS[1] in text or LAYERS[3] in text for text in points)
    (shown,) = (p for p in spec["params"] if p["name"] == "shown")
    assert (shown["bind"], shown["select"]["toggle"]) == ("legend", "true")
    assert shown["value"] == few
    assert "bind" not in str([p for p in make_spec(make_records((3,)))["params"]
                              if p["name"] == "until"])  # fmt: skip


def test_picture_has_the_colors_of_the_layers_and_limits():
    spec = make_spec(make_records())
    image = Image.open(io.BytesIO(vl_convert.vegalite_to_png(spec))).convert("RGB")
    pixels = np.asarray(image).reshape(-1, 3)
    # A path, marks and a legend entry have 255 pixels or more in these records.
    for color in COLORS[: len(LAYERS)]:
        assert (pixels == tuple(bytes.fromhex(color[1:]))).all(-1).sum() > 100
    svg = vl_convert.vegalite_to_svg(spec)
    assert svg.count(">H(Y) 2.30<") == 2
    assert svg.count(">ceiling 8.29<") == 1


def test_flagged_and_missing_values_and_no_entropy():
    records = make_records()
    for row in records:
        if row["layer"] == "conv1" and row["epoch"] == 0 and row["plane"] == "observed":
            row |= {"mi_nats": None, "stderr": None, "own_nats": None, "converged": False}
            row |= {"warnings": ["3 rows are not finite."], "reference_low_nats": None}
        if row["layer"] == "conv2" and row["epoch"] == 4 and row["variable"] == "y":
            row["converged"] = False
    spec = make_spec(records, class_entropy_nats=None, noise_level=None, noise="absolute")
    rows = {(row["layer"], row["epoch"]): row for row in spec["hconcat"][0]["data"]["values"]}
    assert rows["conv1", 0]["x"] is rows["conv1", 0]["low_x"] is None
    assert rows["conv1", 0]["hover"]["I(X; T) flagged"] == "3 rows are not finite."
    assert (rows["conv2", 4]["fill"], rows["conv2", 4]["flagged"]) == ("#ffffff", True)
    assert rows["conv2", 4]["hover"]["I(Y; T) flagged"] == "Not converged."
    assert sum(row["flagged"] for row in rows.values()) == 2
    count = len(EPOCHS) * len(LAYERS) * len(PLANES)
    # Two flagged points are crossed, one in either panel; one has no place.
    assert len(drawn(spec, "point")) == count - 1 + 2
    svg = vl_convert.vegalite_to_svg(spec)
    assert "NaN" not in svg
    assert "H(Y)" not in svg
    assert "ceiling" in svg


def test_hovering_shows_value_error_bracket_and_accuracy():
    spec = make_spec(make_records(seeds=(7,)), TRAINING)
    by_plane = [{(row["layer"], row["epoch"]): row["hover"] for row in panel["data"]["values"]}
                for panel in spec["hconcat"]]  # fmt: skip
    assert by_plane[0]["conv1", 0] == {
        "title": "conv1, epoch 0",
        "test accuracy": "12.34 %",
        "I(X; T)": "4.021 ± 0.010 nats",
        "I(X; T) bracket": "3.991 to 4.221 nats",
        "I(Y; T)": "1.021 ± 0.010 nats",
        "I(Y; T) bracket": "1.011 to 1.091 nats",
    }
    assert list(by_plane[1]["conv1", 4]) == ["title", "I(X; L)", "I(Y; L)"]


def test_several_seeds_are_thin_lines_beside_their_mean():
    seeds = (1, 2, 3)
    spec = make_spec(make_records(seeds=seeds))
    for panel, plane in zip(spec["hconcat"], PLANES, strict=True):
        mean, single = marks_of(panel, "line")
        assert single["mark"]["opacity"] < 1
        assert single["encoding"]["detail"]["field"] == "seed"
        for seed in seeds:
            rows = [
                r for r in single["data"]["values"] if (r["seed"], r["layer"]) == (seed, "relu3")
            ]
            np.testing.assert_allclose(
                [[row["x"], row["y"]] for row in rows], path_of(plane, 2, seed), atol=1e-4
            )
        values = [row for row in panel["data"]["values"] if row["layer"] == "relu3"]
        means = np.mean([path_of(plane, 2, seed) for seed in seeds], axis=0)
        np.testing.assert_allclose([[r["x"], r["y"]] for r in values], means, atol=1e-4)
        assert "detail" not in mean["encoding"]
    assert len(drawn(spec, "line mark")) == len(LAYERS) * len(PLANES) * (1 + len(seeds))
    hover = spec["hconcat"][0]["data"]["values"][0]["hover"]
    assert {f"I(X; T) seed {seed}" for seed in seeds} < set(hover)


def test_missing_package_and_faulty_records_are_named(monkeypatch):
    with pytest.raises(ValueError, match="records is empty"):
        page([], DESCRIPTION)
    for name in ("altair", "vl_convert"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(ImportError, match=r"pip install 'mine_jax\[html\]'"):
                page(make_records(), DESCRIPTION)


def test_plane_writes_its_page_as_a_whole(tmp_path):
    plane = Plane(tuple(make_records()), DESCRIPTION)
    path = tmp_path / "plane.html"
    assert plane.html(path) == plane.html() == path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="empty"):
        Plane((), DESCRIPTION).html(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["plane.html"]
    assert spec_of(path.read_text(encoding="utf-8"))
