"""Tables of the accuracy experiment: by benchmark, by family, by problem, by number of samples."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common import markdown_table, mean, number

TITLES = {
    "default": "Default configuration",
    "published": "MINE as published",
    "infonce": "InfoNCE with a separable critic",
    "ksg": "Nearest neighbors (KSG)",
    "cca": "Canonical correlations (CCA)",
}
SOURCES = {
    "default": "`lower_bound` with `MineConfig()`",
    "published": "Belghazi et al. 2018, `lower_bound` with `MineConfig.published()`",
    "infonce": "van den Oord et al. 2018, `lower_bound` with a separable critic",
    "ksg": "Kraskov et al. 2004, k = 3, reference_estimators.py; up to 50 columns",
    "cca": "Gaussian formula on canonical correlations, reference_estimators.py",
}
WORST = 5  # problems that a table of a benchmark names
NEAR_CEILING = 0.9  # fraction of the ceiling above which a truth cannot be reached
STDERRS = 3  # standard errors within which an estimate agrees with its truth

Row = Mapping[str, Any]


# --- Rows -----------------------------------------------------------------------------------------


def near_ceiling(row: Row) -> bool:
    """Tell whether the truth is too near the ceiling, or above it, to be reached."""
    return row["truth_nats"] > NEAR_CEILING * row["ceiling_nats"]


def reachable(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with a finite estimate and a truth that is known and below the ceiling."""
    return [
        row
        for row in rows
        if math.isfinite(row["nats"]) and not near_ceiling(row) and not row["truth_is_upper"]
    ]


def tolerance(row: Row) -> float:
    """Return `STDERRS` standard errors of the difference of estimate and truth, in nats."""
    return STDERRS * math.hypot(row["stderr"], row["truth_stderr"])


def overshoot(row: Row) -> float:
    """Return by how many nats the estimate exceeds the truth beyond the tolerance."""
    return row["error"] - tolerance(row)


def not_above(rows: Iterable[Row]) -> float:
    """Return the fraction of the estimates with an error that do not overshoot."""
    return mean(excess <= 0 for row in rows if not math.isnan(excess := overshoot(row)))


def mean_error(rows: Iterable[Row]) -> str:
    """Format the mean error."""
    return number(mean(row["error"] for row in rows), "+.4f")


def mean_abs_error(rows: Iterable[Row]) -> str:
    """Format the mean absolute error."""
    return number(mean(abs(row["error"]) for row in rows), ".4f")


def group_by(rows: Iterable[Row], column: str) -> dict[Any, list[Row]]:
    """Group rows by the value of a column, in order of first appearance."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


# --- Tables ---------------------------------------------------------------------------------------


def summary(rows: Sequence[Row]) -> str:
    """Summarize the rows of one estimator as a Markdown list."""
    finite = [row for row in rows if math.isfinite(row["nats"])]
    beyond = [row for row in finite if near_ceiling(row)]
    flagged = sum("ceiling" in " ".join(row["warnings"]) for row in beyond)
    lines = [
        f"{len(rows)} estimates of {len(group_by(rows, 'problem'))} problems; "
        f"{sum(not row['converged'] for row in rows)} not converged, "
        f"{len(rows) - len(finite)} not finite"
    ]
    for half, values in (("all", (True, False)), ("tuned", (False,)), ("held out", (True,))):
        used = [row for row in reachable(rows) if row["held_out"] in values]
        if used:
            lines.append(
                f"mean abs error, {half}: {mean_abs_error(used)} nats ({len(used)} estimates)"
            )
    finite = [row for row in finite if not math.isnan(row["stderr"])]
    if finite:
        known = [row for row in finite if not row["truth_is_upper"]]
        within = mean(abs(row["error"]) <= tolerance(row) for row in known)
        lines.append(
            f"not above the truth by more than {STDERRS} standard errors: {not_above(finite):.1%}; "
            f"within {STDERRS} standard errors: {number(within, '.1%')}"
        )
        worst = max(finite, key=overshoot)
        lines.append(
            f"largest overshoot beyond {STDERRS} standard errors: "
            + (
                f"{overshoot(worst):.4f} nats, {worst['problem']}, seed {worst['seed']}"
                if overshoot(worst) > 0
                else "none"
            )
        )
    lines.append(
        f"truth above {NEAR_CEILING} of the ceiling, left out of the mean errors: {len(beyond)} "
        f"estimates, {flagged} of them with a warning"
    )
    if bounded := sum(row["truth_is_upper"] for row in rows):
        lines.append(f"truth only known to be at most a number, left out too: {bounded} estimates")
    return "\n".join(f"- {line}" for line in lines)


def comparison(rows: Sequence[Row], column: str) -> str:
    """Return a table of all estimators side by side, of truths that can be reached.

    Args:
      rows: of all estimators.
      column: "family" or "problem", which has a line for each value; a last line is for all.
    """
    estimators = list(group_by(rows, "estimator"))

    def line(name: str, members: Sequence[Row]) -> list[str]:
        by_estimator = group_by(reachable(members), "estimator")
        used = [by_estimator.get(estimator, []) for estimator in estimators]
        columns = [(mean_abs_error(part), mean_error(part)) for part in used]
        return [escape(name), *(cell for cells in columns for cell in cells)]

    values = ("mean abs error", "mean error")
    head = [column, *(f"{name}: {value}" for name in estimators for value in values)]
    groups = group_by(rows, column).items()
    return markdown_table(head, [*(line(*group) for group in groups), line("all", rows)])


def by_benchmark(rows: Sequence[Row]) -> str:
    """Return a table for each benchmark, with a line for each estimator.

    An error is the mean absolute error of a problem over its seeds. Problems whose truth is near
    the ceiling of an estimator, or known as an upper bound alone, are left out for all. An
    estimator may not apply to all of the others; "common" is the mean over those where all do.
    """
    head = ("estimator", "problems", "mean abs error", "common", "closest", "worst", "source")
    parts = []
    for benchmark, members in group_by(rows, "benchmark").items():
        errors = problem_errors(members)
        common = [name for name, by in errors.items() if not any(map(math.isnan, by.values()))]
        best = {
            name: min((error for error in by.values() if not math.isnan(error)), default=math.nan)
            for name, by in errors.items()
        }
        lines = []
        for estimator in group_by(members, "estimator"):
            own = {name: by[estimator] for name, by in errors.items()}
            known = {name: error for name, error in own.items() if not math.isnan(error)}
            worst = sorted(known, key=lambda name: known[name], reverse=True)[:WORST]
            lines.append(
                [
                    estimator,
                    str(len(known)),
                    number(mean(known.values()), ".4f"),
                    number(mean(own[name] for name in common), ".4f"),
                    str(sum(math.isclose(known[name], best[name]) for name in known)),
                    "; ".join(f"{escape(name)} {known[name]:.2f}" for name in worst),
                    SOURCES[estimator],
                ]
            )
        table = markdown_table(head, lines)
        parts.append(
            f"### Benchmark {benchmark}: {len(errors)} problems, {len(common)} common\n\n{table}"
        )
    return "\n\n".join(parts)


def problem_errors(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Return the mean absolute error by problem and estimator; nan where there is no estimate."""
    errors = {}
    for name, members in group_by(rows, "problem").items():
        if any(near_ceiling(row) or row["truth_is_upper"] for row in members):
            continue
        errors[name] = {
            estimator: mean(abs(row["error"]) for row in part)
            for estimator, part in group_by(members, "estimator").items()
        }
    return errors


def by_family(rows: Sequence[Row]) -> str:
    """Return a table with a line for each family, and one for all, of truths within reach."""

    def line(name: str, members: Sequence[Row]) -> list[str]:
        used = reachable(members)
        return [
            name,
            str(len(used)),
            mean_abs_error(used),
            mean_error(used),
            number(mean(row["stderr"] for row in used), ".4f"),
            number(not_above(used), ".0%"),
            number(mean(row["seconds"] for row in members), ".1f"),
            number(max(row["seconds"] for row in members), ".1f"),
        ]

    head = ("family", "runs", "mean abs error", "mean error", "stderr", "not above", "s", "max s")
    families = group_by(rows, "family").items()
    return markdown_table(head, [*(line(*family) for family in families), line("all", rows)])


def by_problem(rows: Sequence[Row]) -> str:
    """Return a table with a line for each problem: means over its seeds."""
    lines = []
    for name, members in group_by(rows, "problem").items():
        nats = [row["nats"] for row in members]
        remarks = {
            "near the ceiling": any(near_ceiling(row) for row in members),
            "above the truth": any(overshoot(row) > 0 for row in members),
            "not converged": not all(row["converged"] for row in members),
            "warnings": any(row["warnings"] for row in members),
            f"{members[0]['samples']:,} samples": members[0]["samples"] < members[0]["n"],
        }
        at_most = "≤ " * members[0]["truth_is_upper"]
        lines.append(
            [
                escape(name),
                "held out" if members[0]["held_out"] else "tuned",
                at_most + number(members[0]["truth_nats"], ".4f"),
                number(mean(nats), ".4f"),
                f"{number(min(nats), '.4f')} … {number(max(nats), '.4f')}",
                number(mean(row["stderr"] for row in members), ".4f"),
                mean_error(members),
                number(mean(row["seconds"] for row in members), ".1f"),
                ", ".join(remark for remark, holds in remarks.items() if holds),
            ]
        )
    head = ("problem", "half", "truth", "mean", "range", "stderr", "mean error", "s", "remarks")
    return markdown_table(head, lines)


def curves(rows: Sequence[Row]) -> str:
    """Return tables of errors and seconds by problem and number of samples."""
    sizes = sorted({row["n"] for row in rows})
    head = ["problem", *(f"n = {n:,}" for n in sizes)]
    parts = []
    for title, column, form in (
        ("Error, nats (mean over the seeds)", "error", "+.4f"),
        ("Standard error, nats", "stderr", ".4f"),
        ("Seconds", "seconds", ".1f"),
    ):
        lines = []
        for problem, members in group_by(rows, "problem").items():
            by_size = group_by(members, "n")
            means = [mean(row[column] for row in by_size.get(n, [])) for n in sizes]
            lines.append([escape(problem), *(number(value, form) for value in means)])
        parts.append(f"### {title}\n\n{markdown_table(head, lines)}")
    return "\n\n".join(parts)


def report(rows: Sequence[Row], *, curve: bool) -> str:
    """Return the tables of a run, in Markdown."""
    by_estimator = group_by(rows, "estimator")
    parts = [] if curve else ["## By benchmark, in nats", by_benchmark(rows)]
    if len(by_estimator) > 1:
        parts += ["## Estimators side by side, in nats", comparison(rows, "family")]
        parts.append(comparison(rows, "problem"))
    for estimator, members in by_estimator.items():
        parts += [f"## {TITLES[estimator]}", summary(members)]
        if curve:
            parts.append(curves(members))
        else:
            parts += ["### By family", by_family(members), "### By problem", by_problem(members)]
    return "\n\n".join(parts)


def escape(name: str) -> str:
    """Return a problem's name as a cell of a Markdown table."""
    return name.replace("|", "\\|")
