"""Tables of architectures.py: error and consistency of statistics networks."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from architectures_grid import Architecture, Grid, Row
from common import markdown_table, mean, number

TITLE = "Statistics networks and the shape of the data"
SPREADS = ("over_seeds", "over_architectures")


def summarize(rows: Sequence[Row], base: Architecture) -> list[dict[str, Any]]:
    """Compute error and spreads in % of the truth.

    Args:
      rows: rows of rows.jsonl.
      base: the base architecture.

    Returns:
      For each (data, network, size): `data`, `dims`, `network`, `nats_wanted`, and in % `error`
      (mean over the seeds), `over_seeds` (standard deviation over the seeds, both for the base
      architecture) and `over_architectures` (standard deviation over all architectures of their
      means over the seeds that all of them have). NaN where there are too few values.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["network"], row["nats_wanted"]), []).append(row)
    summaries = []
    for (data, network, nats), group in groups.items():
        errors: dict[Architecture, dict[int, float]] = {}
        for row in group:
            if row["nats"] is not None:
                by_seed = errors.setdefault(Architecture(row["hidden"], row["depth"]), {})
                by_seed[row["seed"]] = 100 * (row["nats"] / row["truth_nats"] - 1)
        at_base = list(errors.get(base, {}).values())
        seeds = set.intersection(*map(set, errors.values())) if errors else set()
        means = [mean(by_seed[seed] for seed in seeds) for by_seed in errors.values()]
        summaries.append(
            {
                "data": data,
                "dims": group[0]["dims"],
                "network": network,
                "nats_wanted": nats,
                "error": mean(at_base),
                "over_seeds": deviation(at_base),
                "over_architectures": deviation(means),
            }
        )
    return summaries


def deviation(values: Sequence[float]) -> float:
    """Compute the standard deviation (n − 1); NaN of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def consistency_table(summaries: Sequence[Row]) -> str:
    """Format error and spreads: a line for each data, a column for each network, and means."""
    dims = {row["data"]: row["dims"] for row in summaries}
    networks = list(dict.fromkeys(row["network"] for row in summaries))
    by_key = {(row["data"], row["network"]): row for row in summaries}

    def cell(group: Sequence[Row], error_form: str) -> str:
        if not group:
            return "–"
        signed = error_form.startswith("+")
        error = mean(row["error"] if signed else abs(row["error"]) for row in group)
        spreads = [mean(row[name] for row in group) for name in SPREADS]
        return " / ".join(
            [number(error, error_form), *(number(spread, ".1f") for spread in spreads)]
        )

    lines = []
    for data in dims:
        groups = [[by_key[data, name]] if (data, name) in by_key else [] for name in networks]
        lines.append([data, f"{dims[data]}-D", *(cell(group, "+.1f") for group in groups)])
    for wanted in sorted(set(dims.values())):
        rows = [row for row in summaries if row["dims"] == wanted]
        groups = [[row for row in rows if row["network"] == name] for name in networks]
        name = f"**mean of {wanted}-D, absolute error**"
        lines.append([name, f"{wanted}-D", *(cell(group, ".1f") for group in groups)])
    return markdown_table(["data", "shape", *networks], lines)


def effects_table(summaries: Sequence[Row], grid: Grid) -> str:
    """Format how the error changes with dimension, content, shape and order of pixels."""
    networks = list(dict.fromkeys(row["network"] for row in summaries))
    errors = {(row["data"], row["network"], row["nats_wanted"]): row["error"] for row in summaries}
    changes: list[tuple[str, str, str | None]] = [
        ("vector of 4", "vector", None),
        ("dimension: 784 columns − 4", "wide vector", "vector"),
    ]
    for shape in grid.shapes:
        changes += [
            (f"{shape}: pixels − 784 columns", f"{shape} flattened", "wide vector"),
            (f"{shape}: 2-D − flattened", f"{shape} as is", f"{shape} flattened"),
            (f"{shape}: shuffled − 2-D", f"{shape} shuffled", f"{shape} as is"),
        ]

    def cell(network: str, after: str, before: str | None) -> str:
        values = [
            errors.get((after, network, size), math.nan)
            - (errors.get((before, network, size), math.nan) if before else 0)
            for size in grid.sizes
        ]
        known = not all(map(math.isnan, values))
        return " / ".join(number(value, "+.1f") for value in values) if known else "–"

    lines = [
        [text, *(cell(name, after, before) for name in networks)] for text, after, before in changes
    ]
    return markdown_table(["", *networks], lines)


def first_table_rows(summaries: Sequence[Row], grid: Grid) -> list[Row]:
    """Select the layers, and the size at which the architectures vary."""
    return [
        row
        for row in summaries
        if row["nats_wanted"] == grid.middle or row["data"].startswith(grid.layers)
    ]


def report(rows: Sequence[Row], grid: Grid) -> str:
    """Format all tables in Markdown, with a sentence each on how to read them."""
    summaries = summarize(rows, grid.base)
    not_finite = sum(row["nats"] is None for row in rows)
    not_converged = sum(not row["converged"] for row in rows)
    parts = [
        f"{len(rows)} values of {max(row['n'] for row in rows):,} samples each, a fifth of them "
        f"for testing; {not_converged} not converged, {not_finite} not finite. Base: "
        f"{grid.base.hidden} units, {grid.base.depth} hidden layers.",
        "## Error and consistency",
        "In % of the truth: mean error / standard deviation over seeds / standard deviation over "
        f"widths and depths. Synthetic data at {grid.middle:g} nats.",
        consistency_table(first_table_rows(summaries, grid)),
    ]
    truths = {
        row["data"].split()[0]: f"{row['truth_nats']:.2f} ± {row['truth_stderr']:.2f}"
        for row in rows
        if row["part"] == "layers"
    }
    if truths:
        parts.append(
            "Truth for the layers with noise, in nats: "
            + ", ".join(f"{name} {value}" for name, value in truths.items())
            + ". Convolutional networks have no Gaussian part there."
        )
    if any(row["part"] == "synthetic" for row in rows):
        parts += [
            "## Dimension, shape, and size of the information",
            "Error, then its change from one form to the next, in % of the truth, at "
            f"{' / '.join(f'{size:g}' for size in grid.sizes)} nats. 2-D and flattened are the "
            "same columns for a network that does not convolve.",
            effects_table(summaries, grid),
        ]
    return "\n\n".join(parts)
