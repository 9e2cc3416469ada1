"""Records of a run laid out as arrays, and what a figure's caption says of them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = Sequence[Mapping[str, Any]]
Array = NDArray[np.float64]

VARIABLES = ("x", "y")
PLANES = ("observed", "deterministic")
BINS, KDE, EXACT = "30 bins", "pairwise distances", "exact"
# In the records of some runs only; exact are references where the samples are the population.
OTHER_KEYS = {BINS: "bins_nats", KDE: "kde_nats", EXACT: "reference_nats"}
VALUE_KEYS = (
    *("mi_nats", "stderr", "ceiling_nats", "own_nats"),
    *("reference_low_nats", "reference_high_nats"),
)
AXIS_KEYS = ("seed", "epoch", "layer", "variable")
RECORD_KEYS = (
    *(*AXIS_KEYS, "plane"),
    *("converged", "warnings", "network", *VALUE_KEYS),
)
DESCRIPTION_KEYS = (
    *("dataset", "notice", "probe_size", "report_size"),
    *("class_entropy_nats", "noise", "noise_level"),
)
NEAR_CEILING = "Near the ceiling"  # how the warning about it starts
MAX_EPOCHS = 5  # that the caption lists of a layer that was not measured
NEAR_RANGE = 0.3  # of the range of values: how far off the observed plane shows the ceiling
WIDE_NATS = 0.2  # median width of the brackets of I(Y; T) from which the caption explains it
NOISE = {  # spaces about the sign that do not break
    "layer": "σ\u00a0=\u00a0c√(trace of the layer's covariance)",
    "unit": "σ\u00a0=\u00a0c × root mean variance of the layer's units",
    "absolute": "σ\u00a0=\u00a0c",
}


class Table(NamedTuple):
    """Records of one plane as arrays in nats, NaN where unknown; the last axis is (x, y).

    Attributes:
      plane: "observed" or "deterministic".
      seeds: seeds, ascending.
      epochs: (epochs,), ascending.
      layers: layers, by depth.
      mi: (seeds, epochs, layers, 2).
      mean, stderr: mean over the seeds, with its standard error; (epochs, layers, 2).
      low, high: lower and upper end of the brackets, means over the seeds, like `mean`.
      own: values of the layers' own networks, like `mean`; NaN where x and y are both within a
        standard error of the reported value, and thus not worth a mark.
      flagged: whether any seed's estimate is not converged or has a warning; like `mean`.
      others: name of an estimator that bounds nothing, or "exact", to its values, like `mean`.
      ceiling: largest ceiling of the estimates of I(X; ·).
      entropy: H(Y); NaN where Y is not labels.
    """

    plane: str
    seeds: tuple[int, ...]
    epochs: Array
    layers: tuple[str, ...]
    mi: Array
    mean: Array
    stderr: Array
    low: Array
    high: Array
    own: Array
    flagged: NDArray[np.bool_]
    others: dict[str, Array]
    ceiling: float
    entropy: float


def tabulate(
    records: Rows, description: Mapping[str, Any], paired: bool = False
) -> dict[str, Table]:
    """Check the records and lay them out.

    Args:
      records: rows of `records.jsonl`, in nats. Layers are taken in order of first appearance; of
        two rows for the same value the later one counts.
      description: content of `config.json`.
      paired: whether to drop values without their x or y.

    Returns:
      Plane to its table, for the planes that the records have; all have the same axes.

    Raises:
      ValueError: `records` is empty, a key is missing, or a variable or plane is unknown.
    """
    require_keys("records", records, RECORD_KEYS)
    require_keys("description", [description], DESCRIPTION_KEYS)
    for i, row in enumerate(records):
        for key, known in (("variable", VARIABLES), ("plane", PLANES)):
            if row[key] not in known:
                raise ValueError(f"records[{i}]: {key} is {row[key]!r}, not one of {known}")
    axes: list[list[Any]] = [sorted({row[key] for row in records}) for key in AXIS_KEYS[:2]]
    axes += [list(dict.fromkeys(row["layer"] for row in records)), list(VARIABLES)]
    places = [{value: i for i, value in enumerate(axis)} for axis in axes]
    tables = {}
    for plane in PLANES:
        if not (rows := [row for row in records if row["plane"] == plane]):
            continue
        others = {
            name: key
            for name, key in OTHER_KEYS.items()
            if (name != EXACT or description.get("population"))
            and any(row.get(key) is not None for row in rows)
        }
        keys = (*VALUE_KEYS, *others.values())
        columns = np.full((len(keys), *map(len, axes)), np.nan)
        flags = np.zeros(columns.shape[1:], bool)
        for row in rows:
            keys_at = zip(places, AXIS_KEYS, strict=True)
            at = tuple(place[row[key]] for place, key in keys_at)
            for column, key in zip(columns, keys, strict=True):
                column[at] = finite_or_nan(row.get(key))
            flags[at] = is_flagged(row)
        mi, stderr, ceilings, own = columns[:4]
        if paired:
            mi = np.where(np.isfinite(mi).all(-1, keepdims=True), mi, np.nan)
        mean, stderr = mean_over_seeds(mi, stderr)
        low, high, own, *rest = (mean_over_seeds(c)[0] for c in (*columns[4:6], own, *columns[6:]))
        differs = (np.abs(own - mean) > stderr).any(-1, keepdims=True)
        known = ceilings[..., 0][np.isfinite(ceilings[..., 0])]
        tables[plane] = Table(
            plane=plane,
            seeds=tuple(axes[0]),
            epochs=np.asarray(axes[1], float),
            layers=tuple(map(str, axes[2])),
            mi=mi,
            mean=mean,
            stderr=stderr,
            low=low,
            high=high,
            own=np.where(differs, np.where(np.isfinite(own), own, mean), np.nan),
            flagged=np.any(flags, axis=0),
            others=dict(zip(others, rest, strict=True)),
            ceiling=float(known.max()) if known.size else math.log(description["report_size"]),
            entropy=finite_or_nan(description["class_entropy_nats"]),
        )
    return tables


def up_to(table: Table, epoch: float) -> Table:
    """Return the table with NaN for the values of later epochs; its axes stay."""
    late = (table.epochs > epoch)[:, None, None]

    def known(values: Array) -> Array:
        return np.where(late, np.nan, values)

    return table._replace(
        mi=known(table.mi),
        mean=known(table.mean),
        low=known(table.low),
        high=known(table.high),
        own=known(table.own),
        others={name: known(values) for name, values in table.others.items()},
    )


def caption(
    tables: Sequence[Table], records: Rows, description: Mapping[str, Any], *, marks: str = ""
) -> str:
    """Return the caption of a figure of one run as one paragraph; see `caption_sentences`."""
    level = description["noise_level"]
    return " ".join(caption_sentences(tables, records, description, marks=marks, level=level))


def caption_sentences(
    tables: Sequence[Table],
    records: Rows,
    description: Mapping[str, Any],
    *,
    marks: str = "",
    level: float | None = None,
) -> list[str]:
    """Return what a reader of the figure needs to know.

    Args:
      tables: what the figure shows.
      records: the rows that `tables` were made from.
      description: content of `config.json`.
      marks: sentence about the marks of the brackets.
      level: noise level c, or None where each panel has its own.

    Returns:
      Sentences.
    """
    seeds, epochs = tables[0].seeds, tables[0].epochs
    several = "s" * (len(seeds) > 1)
    name = f"{description['dataset']}: " if description["dataset"] else ""
    whole = ", the whole population" if description.get("population") else ""
    parts = [
        f"{name}n = {description['probe_size']:,} samples{whole}, values from "
        f"{description['report_size']:,} of them (test samples); seed{several} "
        f"{', '.join(map(str, seeds))}."
    ]
    if len(epochs) == 1:
        parts.append(f"Epoch {epochs[0]:g} only.")
    by_plane = {table.plane: table for table in tables}
    if "observed" in by_plane:
        sentence = f"Observed: T = L + σε with Gaussian ε, {NOISE[description['noise']]}"
        sentence += "" if level is None else f", c = {level:.3g}"
        if description["noise"] == "layer":
            limit = "" if level is None else f" = {1 / (2 * level**2):.1f}"
            sentence += f"; no layer can hold more than about 1/(2c²){limit} nats"
        parts.append(f"{sentence}.")
        widths = np.concatenate([(t.high - t.low)[..., 1].ravel() for t in tables])
        widths = widths[np.isfinite(widths)]
        parts += [marks] if len(widths) else []
        if len(widths) and np.median(widths) > WIDE_NATS:
            parts.append("The Y bracket is wide, as there are few samples of each class.")
    if "deterministic" in by_plane:
        rows = [row for row in records if row["plane"] == "deterministic"]
        shared = sum(row["network"] not in (row["layer"], None) for row in rows)
        sentence = "Deterministic: the layers L as they are; ceiling = ln(number of test samples)"
        if shared:
            sentence += f"; {shared} of {len(rows)} values are from later layers' networks"
        if np.isfinite(by_plane["deterministic"].own).any():
            sentence += ", faint dots are from the layers' own"
        parts.append(f"{sentence}.")
    parts.append(
        "Bars and bands: ± 2 standard errors of the mean over seeds; thin lines: single seeds."
        if several
        else "Bars: ± 2 standard errors."
    )
    others = dict.fromkeys(itertools.chain.from_iterable(table.others for table in tables))
    if EXACT in others:
        parts.append("Crosses: exact values of the population.")
    if names := [other for other in others if other != EXACT]:
        parts.append(f"No bounds: {', '.join(names)}.")
    if flagged := [row for row in records if is_flagged(row)]:
        counts = {
            "not converged": sum(not row["converged"] for row in flagged),
            "near the ceiling": sum(_near_ceiling(row) for row in flagged),
        }
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        parts.append(
            f"Hollow, crossed: flagged, {len(flagged)} of {len(records)} values"
            + (f" ({kinds})." if kinds else ".")
        )
    parts += _not_measured(records)
    measured = {str(row["layer"]) for row in records if is_measured(row)}
    for table in tables:
        known = np.any(np.isfinite(table.mean), axis=(0, 2))
        drawn = {layer for layer, any_ in zip(table.layers, known, strict=True) if any_}
        if names := [layer for layer in table.layers if layer in measured - drawn]:
            parts.append(f"No finite value to draw ({table.plane}): {', '.join(names)}.")
    return [part for part in parts if part]


def is_measured(row: Mapping[str, Any]) -> bool:
    """Whether a record has an estimate; if not, its warnings say why."""
    return row["mi_nats"] is not None or row["network"] is not None


def is_flagged(row: Mapping[str, Any]) -> bool:
    """Whether a record's estimate is not converged or has a warning."""
    return is_measured(row) and (not row["converged"] or bool(row["warnings"]))


def _not_measured(records: Rows) -> list[str]:
    """Return a sentence that names layers without an estimate, and the epochs, if there are any."""
    epochs: dict[str, list[Any]] = {}
    for row in records:
        if not is_measured(row):
            epochs.setdefault(row["layer"], []).append(row["epoch"])
    parts = []
    for layer, every in epochs.items():
        at = sorted(set(every))
        listed = [str(epoch) for epoch in at]
        if len(listed) > MAX_EPOCHS:
            listed = [*listed[: MAX_EPOCHS - 2], "…", listed[-1]]
        parts.append(f"{layer} at epoch{'s' * (len(at) > 1)} {', '.join(listed)}")
    return [f"Not measured: {'; '.join(parts)}."] if parts else []


def _near_ceiling(row: Mapping[str, Any]) -> bool:
    return any(warning.startswith(NEAR_CEILING) for warning in row["warnings"] or ())


def shows_ceiling(table: Table) -> bool:
    """Whether the ceiling is worth its place: always for lower bounds, else if it is near."""
    values = np.concatenate([v[..., 0].ravel() for v in (table.mean, table.low, table.high)])
    values = values[np.isfinite(values)]
    if table.plane == "deterministic":
        return True
    return bool(len(values) and table.ceiling - values.max() <= NEAR_RANGE * np.ptp(values))


def mean_accuracy(training: Rows) -> Array:
    """Return epochs and test accuracies in per cent, means over seeds, known ones only.

    Args:
      training: rows of `training.jsonl`: `epoch`, `test_accuracy` (a fraction, or None).

    Returns:
      (epochs, 2).

    Raises:
      ValueError: a key is missing.
    """
    if not training:
        return np.empty((0, 2))
    require_keys("training", training, ("epoch", "test_accuracy"))
    by_epoch: dict[int, list[float]] = {}
    for row in training:
        if not math.isnan(value := finite_or_nan(row["test_accuracy"])):
            by_epoch.setdefault(row["epoch"], []).append(100 * value)
    return np.asarray([(e, np.mean(v)) for e, v in sorted(by_epoch.items())]).reshape(-1, 2)


def mean_over_seeds(values: Array, stderr: Array | float = 0.0) -> tuple[Array, Array]:
    """Average over the first axis, skipping NaN.

    Args:
      values: (seeds, ...).
      stderr: standard errors of `values`, of a shape that broadcasts to theirs.

    Returns:
      The mean, and its standard error, both (...): from the spread of the seeds where there are
      several, else the value's own. NaN and zero respectively where nothing is known.
    """
    known = np.isfinite(values)
    count = known.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, values, 0).sum(0) / count
        spread = np.sqrt(np.where(known, (values - mean) ** 2, 0).sum(0) / (count - 1) / count)
    single = np.where(known, np.nan_to_num(stderr), 0).sum(0)
    return mean, np.where(count > 1, spread, single)


def require_keys(name: str, rows: Rows, keys: Sequence[str]) -> None:
    """Raise ValueError if there are no rows, or naming the first with missing keys, and those."""
    if not len(rows):
        raise ValueError(f"{name} is empty: there is nothing to draw")
    for i, row in enumerate(rows):
        if missing := [key for key in keys if key not in row]:
            place = f"{name}[{i}]" if len(rows) > 1 else name
            raise ValueError(f"{place} lacks {', '.join(missing)}; it has {', '.join(row)}")


def finite_or_nan(value: float | None) -> float:
    """Return the value, or NaN for None and anything that is not finite."""
    return float(value) if value is not None and math.isfinite(value) else math.nan
