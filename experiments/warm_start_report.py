"""Tables of warm_start.py: warm starts beside the cold starts of the same pairs."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from common import markdown_table

TITLE = "Warm starts of statistics networks beside cold starts"
COLD, CHAIN = "cold", "chain"
STARTS = {
    "kept": "warm start: weights and moments",
    "reset": "warm start: weights",
    "shrunk": "warm start: half of the weights and a tenth of fresh ones",
    "unrelated": "warm start: head of another layer's network",
}
FRACTION = 0.95  # of the cold fit's value, and of the reference, that counts as reached
PLACE = ("epoch", "layer", "variable", "network", "seed")
HEAD = (
    *("", "fits", "cold: steps to 95 %", "warm", "speed-up, median (range)", "s to 95 %"),
    *("cold: steps to reference ± 5 %", "warm", "speed-up to the end", "warm − cold, nats"),
)
DECREASE_HEAD = (
    *("", "fits", "warm − cold", "warm − reference", "cold − reference"),
    "above reference by 2 SE",
)

Row = dict[str, Any]
Steps = tuple[int | None, int | None]


class Comparison(NamedTuple):
    """A warm start beside the cold start of the same pair.

    Attributes:
      warm: the row of the warm fit.
      cold: the row of the cold fit.
      to_cold: steps of either to `FRACTION` of the highest value of the cold fit's curve; None
        where never reached.
      to_reference: steps of either to within 1 − `FRACTION` of the reference; likewise.
      decreases: whether the reference is lower than at the source; None if unknown.
    """

    warm: Row
    cold: Row
    to_cold: Steps
    to_reference: Steps
    decreases: bool | None


def steps_to(row: Row, low: float, high: float = math.inf) -> int | None:
    """Return the steps to the first check with a value from `low` to `high`, or None.

    The value before training counts as the first check: the resolution is no finer.
    """
    for i, value in enumerate(row["curve"]):
        if value is not None and low <= value <= high:
            return max(1, i) * row["curve_steps"]
    return None


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """Set every warm fit beside its cold one."""

    def place(row: Row) -> tuple:
        return tuple(row[name] for name in PLACE)

    cold_rows = {place(row): row for row in rows if row["start"] == COLD}
    comparisons = []
    for warm in (row for row in rows if row["start"] != COLD):
        cold = cold_rows[place(warm)]
        highest = max((value for value in cold["curve"] if value is not None), default=math.inf)
        to_cold = steps_to(warm, FRACTION * highest), steps_to(cold, FRACTION * highest)
        to_reference: Steps = (None, None)
        decreases = None
        if (reference := warm["reference_nats"]) is not None:
            band = FRACTION * reference, (2 - FRACTION) * reference
            to_reference = steps_to(warm, *band), steps_to(cold, *band)
            source = cold_rows.get(place({**warm, "epoch": warm["source"]}))
            decreases = source is not None and reference < source["reference_nats"]
        comparisons.append(Comparison(warm, cold, to_cold, to_reference, decreases))
    return comparisons


def speed_ups(comparisons: Iterable[Comparison]) -> list[float]:
    """Divide the cold fits' steps to 95 % by the warm fits'.

    Both are rounded up to whole checks. A value that was never reached counts as reached after the
    steps of the longer fit; where neither reached it there is no ratio.
    """
    ratios = []
    for warm, cold, (warm_steps, cold_steps), *_ in comparisons:
        if warm_steps is not None or cold_steps is not None:
            longest = max(warm["steps"], cold["steps"])
            ratios.append(max(1, cold_steps or longest) / max(1, warm_steps or longest))
    return ratios


def difference(comparisons: Iterable[Comparison]) -> tuple[float, float]:
    """Compute the mean of warm − cold on the test samples, in nats, and its standard error.

    The error is the larger of the error by the spread between trained networks and of the mean of
    the fits' errors: all fits are evaluated on the same images.
    """
    rows = [c.warm for c in comparisons if c.warm["over_cold_nats"] is not None]
    if not rows:
        return math.nan, math.nan
    by_network: dict[int, list[float]] = {}
    for row in rows:
        by_network.setdefault(row["network"], []).append(row["over_cold_nats"])
    means = [statistics.fmean(values) for values in by_network.values()]
    between = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0
    within = statistics.fmean(row["over_cold_stderr"] for row in rows)
    return statistics.fmean(row["over_cold_nats"] for row in rows), max(between, within)


def comparison_line(name: str, comparisons: Sequence[Comparison]) -> list[str]:
    """Format the columns of `HEAD`."""

    def median_steps(side: int, column: Literal["to_cold", "to_reference"]) -> str:
        steps = [getattr(comparison, column)[side] for comparison in comparisons]
        reached = [value for value in steps if value is not None]
        text = f"{statistics.median(reached):.0f}" if reached else "–"
        unknown = all(c.warm["reference_nats"] is None for c in comparisons)
        if len(reached) < len(steps) and not (unknown and column == "to_reference"):
            text += f" ({len(steps) - len(reached)} never)"
        return text

    def median_seconds(side: int) -> float:
        rows = [((c.warm, c.cold)[side], c.to_cold[side]) for c in comparisons]
        return statistics.median(
            (steps or row["steps"]) * row["seconds_a_step"] for row, steps in rows
        )

    def median_and_range(values: Sequence[float]) -> str:
        if not values:
            return "–"
        return f"{statistics.median(values):.1f} ({min(values):.2g} … {max(values):.2g})"

    mean, stderr = difference(comparisons)
    return [
        name,
        str(len(comparisons)),
        median_steps(1, "to_cold"),
        median_steps(0, "to_cold"),
        median_and_range(speed_ups(comparisons)),
        f"{median_seconds(1):.2f} → {median_seconds(0):.2f}",
        median_steps(1, "to_reference"),
        median_steps(0, "to_reference"),
        median_and_range(
            [c.cold["steps"] / c.warm["steps"] for c in comparisons if c.warm["steps"]]
        ),
        f"{mean:+.3f} ± {stderr:.3f}",
    ]


def decrease_line(name: str, comparisons: Sequence[Comparison]) -> list[str]:
    """Format the columns of `DECREASE_HEAD`."""

    def mean_error(rows: Iterable[Row]) -> float:
        errors = [r["nats"] - r["reference_nats"] for r in rows if r["nats"] is not None]
        return statistics.fmean(errors) if errors else math.nan

    def is_above(row: Row) -> bool:
        error = math.hypot(row["stderr"], row["reference_stderr"])
        return row["nats"] - row["reference_nats"] > 2 * error

    warm = [comparison.warm for comparison in comparisons]
    mean, stderr = difference(comparisons)
    return [
        name,
        str(len(comparisons)),
        f"{mean:+.3f} ± {stderr:.3f}",
        f"{mean_error(warm):+.3f}",
        f"{mean_error(comparison.cold for comparison in comparisons):+.3f}",
        str(sum(is_above(row) for row in warm if row["nats"] is not None)),
    ]


def report(rows: Sequence[Row]) -> str:
    """Format the tables of a run in Markdown."""
    comparisons = compare(rows)
    chain = [c for c in comparisons if c.warm["start"] == CHAIN]
    others = [c for c in comparisons if c.warm["start"] != CHAIN]
    kept = [c for c in others if c.warm["start"] == "kept"]
    decreasing = [c for c in comparisons if c.decreases]

    def pair(row: Row) -> str:
        return f"I({row['variable'].upper()};{row['layer']})"

    def start(row: Row) -> str:
        return STARTS.get(row["start"], "warm start from probe to probe")

    def distance(row: Row) -> str:
        return f"{row['epoch'] - row['source']} epochs"

    parts = []
    for title, head, line, selection, key in (
        ("Warm starts from probe to probe", HEAD, comparison_line, chain, pair),
        ("By the way of starting", HEAD, comparison_line, others, start),
        ("By distance, weights and moments", HEAD, comparison_line, kept, distance),
        ("Where the reference decreases", DECREASE_HEAD, decrease_line, decreasing, start),
    ):
        if selection:
            lines = [line(name, group) for name, group in grouped(selection, key).items()]
            parts += [f"## {title}", markdown_table(head, lines)]
    return "\n\n".join(parts)


def grouped(
    comparisons: Iterable[Comparison], key: Callable[[Row], str]
) -> Mapping[str, list[Comparison]]:
    """Group comparisons by a name of their warm row, in order of first appearance."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(key(comparison.warm), []).append(comparison)
    return groups
