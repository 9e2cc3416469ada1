"""The interactive page of an information plane: one HTML file that needs no network."""

import json
import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from mine_jax.information_plane.figure_panels import PLANE_TITLES, SYMBOLS
from mine_jax.information_plane.figure_style import LIMIT, Look, layer_looks, tints
from mine_jax.information_plane.figure_table import (
    AXIS_KEYS,
    VARIABLES,
    Array,
    Rows,
    Table,
    caption,
    is_flagged,
    is_measured,
    mean_accuracy,
    shows_ceiling,
    tabulate,
)

Row = dict[str, Any]

INSTALL = "pip install 'mine_jax[html]'"
# As `MARKERS` of the static figures, where Vega has the shape.
SHAPES = (
    *("circle", "square", "triangle-up", "diamond"),
    *("triangle-down", "cross", "triangle-right", "triangle-left"),
)
PANEL = (430, 370)  # width and height, pixels
LETTER = 5.3  # mean width of a letter of the caption, pixels
SHOWN, UNTIL = "shown", "until"  # names of what the user chooses: layers, and the last epoch
FLAGGED = "M-.4,-.4L.4,.4M-.4,.4L.4,-.4"  # a cross
MARGIN = 0.06  # of the range of values, on either side
DIGITS = 4  # of values in nats: finer than any error, and a shorter file
INK, GREY = "#262626", "#737373"
STYLE = """
    body {font: 13px sans-serif}
    .vega-bindings {margin: 4px 0 0 58px}
    .vega-bind input {width: 420px; vertical-align: middle}
"""
EMBED = {
    "renderer": "svg",
    "actions": {"export": True, "source": False, "compiled": False, "editor": False},
}


class _ScriptEncoder(json.JSONEncoder):
    """JSON that may stand in a script: no text, such as a layer's name, can end the script."""

    def encode(self, o: Any) -> str:
        return super().encode(o).replace("<", "\\u003c")


def page(records: Rows, description: Mapping[str, Any], training: Rows = ()) -> str:
    """Return an interactive information plane as an HTML page that needs no network.

    A panel for each plane, I(X; ·) against I(Y; ·), and a path through the epochs for each layer. A
    slider plays the epochs, a click in the legend switches a layer off or on, and hovering shows a
    mark's values. Marks, bars, brackets, limits and the treatment of several seeds are those of
    `figures.information_plane`; a value without its x or y is not drawn.

    Args:
      records: rows of `records.jsonl`, in nats, as for `figures.information_plane`.
      description: content of `config.json`, likewise.
      training: rows of `training.jsonl`: `epoch`, `test_accuracy` (a fraction, or None), to be
        shown on hovering; may be empty.

    Returns:
      The text of the file: about 0.9 MB, of which all but the records is Vega.

    Raises:
      ImportError: altair or vl-convert-python is not installed.
      ValueError: `records` is empty, a key is missing, or a variable or plane is unknown.
    """
    text = chart(records, description, training).to_html(
        inline=True, embed_options=dict(EMBED), json_kwds={"cls": _ScriptEncoder}
    )
    return text.replace("<style>", f"<style>{STYLE}", 1)


def chart(records: Rows, description: Mapping[str, Any], training: Rows = ()) -> Any:
    """Return the Altair chart that `page` shows; arguments and errors are those of `page`."""
    alt = _altair()
    # Neither values of the layers' own networks nor those of other estimators are drawn.
    tables = [
        table._replace(own=np.full_like(table.own, np.nan), others={})
        for table in tabulate(records, description, paired=True).values()
    ]
    layers, epochs = tables[0].layers, tables[0].epochs
    looks = layer_looks(layers)
    shown = alt.selection_point(
        name=SHOWN,
        fields=["layer"],
        bind="legend",
        toggle="true",
        clear=False,
        value=[{"layer": layer} for layer in layers],
    )
    legend = alt.Legend(title=["layer (click:", "off and on)"], symbolSize=70)
    colors = alt.Scale(domain=layers, range=[look["color"] for look in looks.values()])
    shapes = alt.Scale(domain=layers, range=[SHAPES[i % len(SHAPES)] for i in range(len(layers))])
    style = {
        "color": alt.Color("layer:N", scale=colors, legend=legend),
        "shape": alt.Shape("layer:N", scale=shapes, legend=legend),
    }
    hovers = _hovers(records, training)
    panels = [
        _panel(alt, table, hovers, looks, style, params=[] if i else [shown])
        for i, table in enumerate(tables)
    ]
    marks = "Boxes: brackets, on average below and above the true value."
    text = caption(tables, records, description, marks=marks)
    text += " Wheel and drag: zoom and move; double click: back."
    letters = round(PANEL[0] * len(panels) / LETTER)
    notice = textwrap.wrap(str(description["notice"]), letters * 4 // 5)
    title = alt.TitleParams(
        text=notice or ": ".join(filter(None, ["Information plane", description["dataset"]])),
        color=LIMIT if notice else INK,
        subtitle=textwrap.wrap(text, letters),
    )
    return _configured(alt.hconcat(*panels, title=title).add_params(_until(alt, epochs)))


def _altair() -> Any:
    try:
        import altair
        import vl_convert  # noqa: F401  # has the Vega that altair puts into the page
    except ImportError as error:
        raise ImportError(f"the interactive page needs altair: {INSTALL}") from error
    return altair


def _configured(figure: Any) -> Any:
    """Return the figure with the style that all its parts share."""
    words = {"titleFontWeight": "normal", "titleColor": INK, "labelColor": INK}
    title = {"anchor": "start", "fontSize": 13, "subtitleFontSize": 11, "subtitleColor": GREY}
    return (
        figure.configure(font="sans-serif", padding=12)
        .configure_view(stroke=None)
        .configure_axis(gridColor="#ededed", **words)
        .configure_legend(labelLimit=200, **words)
        .configure_title(offset=12, **title)
    )


def _until(alt: Any, epochs: Array) -> Any:
    """Return the parameter for the last epoch shown: a slider where there are several."""
    first, last = epochs[[0, -1]].tolist()
    if first == last:
        return alt.param(name=UNTIL, value=last)
    step = int(np.gcd.reduce(np.diff(epochs).astype(int)))
    slider = alt.binding_range(min=first, max=last, step=step, name="epochs up to ")
    return alt.param(name=UNTIL, value=last, bind=slider)


def _panel(
    alt: Any,
    table: Table,
    hovers: Mapping[tuple[Any, ...], dict[str, str]],
    looks: Mapping[str, Look],
    style: Mapping[str, Any],
    params: list[Any],
) -> Any:
    """Return the panel of one plane; `params` are what a user selects in one panel, for all."""
    limits = (table.ceiling if shows_ceiling(table) else math.nan, table.entropy)
    symbol, bound = SYMBOLS[table.plane]
    scales = [_scale(alt, table, j, limit) for j, limit in enumerate(limits)]
    titles = [f"I({variable.upper()}; {symbol}){bound} (nats)" for variable in VARIABLES]

    def at(x: str, y: str) -> dict[str, Any]:
        axes = zip((alt.X, alt.Y), (x, y), scales, titles, strict=True)
        return {
            name: channel(f"{field}:Q", scale=scale, title=title, axis=alt.Axis(grid=True))
            for name, (channel, field, scale, title) in zip("xy", axes, strict=True)
        }

    def marks(*needed: str) -> Any:
        """Return a chart of the rows that the user has chosen and that have the fields."""
        tests: list[Any] = [f"isValid(datum.{field})" for field in needed]
        drawn = alt.Chart()
        for test in ({"param": SHOWN}, f"datum.epoch <= {UNTIL}", *tests):
            drawn = drawn.transform_filter(test)
        return drawn.encode(color=style["color"])

    corners = ("low_x", "low_y", "high_x", "high_y")
    box = {"fillOpacity": 0.04, "strokeOpacity": 0.45, "strokeWidth": 0.7}
    boxes = marks(*corners).mark_rect(**box).encode(stroke=style["color"])
    path = marks().encode(**at("x", "y"), order="epoch:Q")
    bars = marks("x").mark_rule(strokeWidth=0.9)
    points = marks("x").encode(
        **at("x", "y"),
        size=alt.condition(f"datum.epoch == {UNTIL}", alt.value(110), alt.value(45)),
        tooltip="hover:N",
    )
    fill, crosses = alt.Fill("fill:N", scale=None), points.transform_filter("datum.flagged")
    # Vega-Lite clips marks to a panel whose scales can be moved.
    zoom = alt.selection_interval(name=f"zoom_{table.plane}", bind="scales")
    drawn = [
        _title(alt, PLANE_TITLES[table.plane]),
        *_limits(alt, limits),
        boxes.encode(**at("low_x", "low_y"), x2="high_x", y2="high_y"),
        path.mark_line(strokeWidth=1.4),
        bars.encode(**at("from_x", "y"), x2="to_x"),
        bars.encode(**at("x", "from_y"), y2="to_y"),
        points.mark_point(opacity=1, strokeWidth=1.2)
        .encode(shape=style["shape"], fill=fill)
        .add_params(zoom, *params),
        crosses.mark_point(opacity=1, shape=FLAGGED),
    ]
    if len(table.seeds) > 1:
        seeds = path.properties(data=alt.Data(values=_seed_points(table))).encode(detail="seed:N")
        drawn.append(seeds.mark_line(opacity=0.5, strokeWidth=0.7))
    data = alt.Data(values=_points(table, hovers, looks))
    width, height = PANEL
    return alt.layer(*drawn, data=data).properties(width=width, height=height)


def _scale(alt: Any, table: Table, variable: int, limit: float) -> Any:
    """Return the scale of X (0) or Y (1), which holds all epochs' marks and the limit."""
    half = 2 * table.stderr
    ends = (table.mean - half, table.mean + half, table.low, table.high, table.mi)
    values = np.concatenate([[limit], *(v[..., variable].ravel() for v in ends)])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    margin = MARGIN * (high - low) or 0.1
    return alt.Scale(domain=[_number(low - margin), _number(high + margin)], nice=False, zero=False)


def _title(alt: Any, text: str) -> Any:
    """Return a title at the same height in all panels, whatever stands out of them."""
    mark = alt.Chart(alt.Data(values=[{}])).mark_text(
        text=text, align="left", dy=-14, fontSize=12, color=INK, clip=False
    )
    return mark.encode(x=alt.value(0), y=alt.value(0))


def _limits(alt: Any, limits: tuple[float, float]) -> list[Any]:
    """Return lines and names of the ceiling of I(X; ·) and of H(Y), where they are known."""
    drawn, nothing = [], alt.Data(values=[{}])
    ceiling, entropy = limits
    width, height = PANEL
    words = {"color": LIMIT, "fontSize": 11}
    if math.isfinite(ceiling):
        line = alt.Chart(nothing).encode(x=alt.datum(_number(ceiling)))
        name = line.mark_text(text=f"ceiling {ceiling:.2f}", align="right", dx=-3, dy=-8, **words)
        drawn += [line.mark_rule(color=LIMIT), name.encode(y=alt.value(height))]
    if math.isfinite(entropy):
        line = alt.Chart(nothing).encode(y=alt.datum(_number(entropy)))
        # The ceiling's line would cross a name at the right.
        left = math.isfinite(ceiling)
        side = {"align": "left", "dx": 4} if left else {"align": "right", "dx": -2}
        name = line.mark_text(text=f"H(Y) {entropy:.2f}", dy=-8, **side, **words)
        drawn += [
            line.mark_rule(color=LIMIT),
            name.encode(x=alt.value(0 if left else width)),
        ]
    return drawn


def _points(
    table: Table, hovers: Mapping[tuple[Any, ...], dict[str, str]], looks: Mapping[str, Look]
) -> list[Row]:
    """Return a row for each layer and epoch: place, ends of bar and bracket, fill and hover."""
    first, last = table.epochs[[0, -1]]
    rows = []
    for i, layer in enumerate(table.layers):
        shades = tints(looks[layer]["color"])
        for k, epoch in enumerate(table.epochs):
            mean, half = table.mean[k, i], 2 * table.stderr[k, i]
            ends = {"": mean, "from_": mean - half, "to_": mean + half}
            ends |= {"low_": table.low[k, i], "high_": table.high[k, i]}
            row: Row = {"layer": layer, "epoch": epoch.item()}
            for name, pair in ends.items():
                row |= {f"{name}{v}": _number(pair[j]) for j, v in enumerate(VARIABLES)}
            shade = to_hex(shades((epoch - first) / max(last - first, 1)))
            row["flagged"] = bool(table.flagged[k, i].any())
            row["fill"] = "#ffffff" if row["flagged"] else shade
            row["hover"] = hovers.get((table.plane, epoch, layer))
            rows.append(row)
    return rows


def _seed_points(table: Table) -> list[Row]:
    """Return a row for each seed, layer and epoch."""
    return [
        {"seed": seed, "layer": layer, "epoch": epoch.item()}
        | {v: _number(table.mi[s, k, i, j]) for j, v in enumerate(VARIABLES)}
        for s, seed in enumerate(table.seeds)
        for i, layer in enumerate(table.layers)
        for k, epoch in enumerate(table.epochs)
    ]


def _hovers(records: Rows, training: Rows) -> dict[tuple[Any, ...], dict[str, str]]:
    """Return (plane, epoch, layer) to what hovering shows: names and texts."""
    accuracy = dict(mean_accuracy(training).tolist()) if len(training) else {}
    several = len({row["seed"] for row in records}) > 1
    hovers: dict[tuple[Any, ...], dict[str, str]] = {}
    last = {tuple(row[key] for key in (*AXIS_KEYS, "plane")): row for row in records}
    for row in sorted(last.values(), key=lambda row: (row["variable"], row["seed"])):
        epoch = row["epoch"]
        hover = hovers.setdefault((row["plane"], epoch, str(row["layer"])), {})
        if not hover:
            hover["title"] = f"{row['layer']}, epoch {epoch}"
            if epoch in accuracy:
                hover["test accuracy"] = f"{accuracy[epoch]:.2f} %"
        of_seed = f" seed {row['seed']}" if several else ""
        name = f"I({row['variable'].upper()}; {SYMBOLS[row['plane']][0]}){of_seed}"
        hover[name] = _value(row["mi_nats"], row["stderr"])
        low, high = row["reference_low_nats"], row["reference_high_nats"]
        if low is not None and high is not None:
            hover[f"{name} bracket"] = f"{low:.3f} to {high:.3f} nats"
        if is_flagged(row):
            hover[f"{name} flagged"] = " ".join(row["warnings"] or ()) or "Not converged."
        elif not is_measured(row):
            hover[f"{name} not measured"] = " ".join(row["warnings"])
    return hovers


def _value(nats: float | None, stderr: float | None) -> str:
    if nats is None:
        return "–"
    return f"{nats:.3f} nats" if stderr is None else f"{nats:.3f} ± {stderr:.3f} nats"


def _number(value: float) -> float | None:
    """Return nats as JSON can hold them, without digits beyond any error."""
    return round(float(value), DIGITS) if math.isfinite(value) else None
