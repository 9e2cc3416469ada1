"""Estimates beside known mutual information.

  python experiments/accuracy.py
  python experiments/accuracy.py --problems=gaussian,blob --seeds=1 --estimator=both
  python experiments/accuracy.py --curve

Estimates the mutual information of the problems in problems.py by `mine_jax.lower_bound`, with its
defaults or with MINE as published. A row goes to accuracy.jsonl in --out_dir as soon as it is
known; tables (accuracy.md, also printed) and a figure (accuracy.png) follow. --curve varies the
number of samples instead (curve.md).
"""

import dataclasses
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import common
import problems
from absl import flags
from common import markdown_table, mean
from problems import Problem
from tqdm import tqdm

ROWS = "accuracy.jsonl"
ESTIMATORS = ("default", "published")
SIZES = ("500", "1000", "2000", "5000", "10000", "20000", "60000")
CURVE_PROBLEMS = (
    "gaussian d=5 I=2",
    "blob I=2",
    "labels axes classes=10 s=2",
    "independent d=10",
)
NEAR_CEILING = 0.9  # fraction of the ceiling beyond which a truth cannot be reached
# Flags that a resumed run may change: they say which rows it has, not what is in them.
RESUMABLE_FLAGS = (
    *("n", "seeds", "problems", "half", "estimator", "curve", "sizes"),
    *("platform", "compilation_cache", "num_devices"),
)

Row = Mapping[str, Any]

FLAGS = flags.FLAGS
flags.DEFINE_integer("n", 10_000, "Samples of a problem that does not fix their number.")
flags.DEFINE_integer("seeds", 3, "Estimates of each problem, each of other samples.")
flags.DEFINE_list("problems", [], "Names of problems, or parts of names. Default: all.")
flags.DEFINE_enum(
    "half", "both", ("tuned", "held_out", "both"), "Problems used in tuning, or held out of it."
)
flags.DEFINE_enum(
    "estimator", "default", (*ESTIMATORS, "both"), "Configuration: MineConfig() or published()."
)
flags.DEFINE_string("out_dir", "runs/accuracy", "Folder for rows, tables and the figure.")
flags.DEFINE_bool("resume", False, "Keep the rows in --out_dir and measure the missing ones.")
flags.adopt_module_key_flags(common)
flags.DEFINE_bool("curve", False, "Measure a few problems with several numbers of samples.")
flags.DEFINE_list("sizes", list(SIZES), "Numbers of samples for --curve.")


class Job(NamedTuple):
    """One estimate: a problem, a number of samples, a seed, and one of `ESTIMATORS`."""

    problem: Problem
    n: int
    seed: int
    estimator: str = "default"

    @property
    def key(self) -> tuple[str, int, int, str]:
        """Key of its row."""
        return self.problem.name, self.n, self.seed, self.estimator


def key_of(row: Row) -> tuple[str, int, int, str]:
    """Return the key of a row, as `Job.key`."""
    return row["problem"], row["n"], row["seed"], row["estimator"]


def chosen(parts: Sequence[str], half: str) -> list[Problem]:
    """The problems of this half that are named by these parts; all of it if there are no parts.

    Args:
      parts: full names, each for its problem alone, or parts of names.
      half: "tuned", "held_out" or "both".

    Returns:
      The problems, in the order of `problems.problems`.

    Raises:
      ValueError: if a part names nothing, or nothing is left.
    """
    everything = problems.problems()
    full = {problem.name for problem in everything}

    def names(part: str, problem: Problem) -> bool:
        return part == problem.name if part in full else part in problem.name

    parts = [part.strip() for part in parts if part.strip()]
    if idle := [part for part in parts if not any(names(part, p) for p in everything)]:
        raise ValueError(f"--problems: no problem has {', '.join(map(repr, idle))} in its name")
    named = [p for p in everything if not parts or any(names(part, p) for part in parts)]
    found = [p for p in named if half == "both" or p.held_out == (half == "held_out")]
    if not found:
        raise ValueError(f"--half={half} leaves none of the {len(named)} problems of --problems")
    return found


def jobs() -> list[Job]:
    """Return the estimates that the flags describe; ValueError names a wrong flag."""
    for name in ("n", "seeds"):
        if FLAGS[name].value < 1:
            raise ValueError(f"--{name} must be at least 1, got {FLAGS[name].value}")
    estimators = ESTIMATORS if FLAGS.estimator == "both" else (FLAGS.estimator,)
    if not FLAGS.curve:
        return [
            Job(problem, problem.n or FLAGS.n, seed, estimator)
            for problem in chosen(FLAGS.problems, FLAGS.half)
            for seed in range(FLAGS.seeds)
            for estimator in estimators
        ]
    try:
        sizes = sorted({int(size) for size in FLAGS.sizes})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise ValueError(f"--sizes must be whole numbers above 0, got {','.join(FLAGS.sizes)}")
    wanted = chosen(FLAGS.problems or CURVE_PROBLEMS, FLAGS.half)
    return [
        Job(problem, n, seed, estimator)
        for problem in wanted
        for n in sizes
        for seed in range(FLAGS.seeds)
        for estimator in estimators
    ]


def configurations() -> dict[str, Any]:
    """Return the `MineConfig` of each estimator."""
    import mine_jax

    return {
        "default": mine_jax.MineConfig(),
        "published": mine_jax.MineConfig.published(),
    }


def measure(job: Job) -> Row:
    """Draw a problem's samples, estimate, and compare with the truth."""
    import jax

    import mine_jax

    x, z = problems.draw(job.problem, job.n, job.seed)
    start = time.perf_counter()
    try:
        estimate = mine_jax.lower_bound(
            x, z, key=jax.random.key(job.seed), config=configurations()[job.estimator]
        )
    except ValueError as error:
        raise ValueError(f"{job.problem.name}: {error}") from error
    seconds = time.perf_counter() - start
    nats = float(estimate.nats)
    return {
        "problem": job.problem.name,
        "family": job.problem.family,
        "held_out": job.problem.held_out,
        "n": job.n,
        "seed": job.seed,
        "estimator": job.estimator,
        "truth_nats": job.problem.truth_nats,
        "truth_stderr": job.problem.truth_stderr,
        "nats": nats if math.isfinite(nats) else None,
        "stderr": finite(estimate.stderr),
        "train_nats": finite(estimate.train_nats),
        "ceiling_nats": float(estimate.ceiling_nats),
        "error": finite(nats - job.problem.truth_nats),
        "steps": int(estimate.steps),
        "seconds": round(seconds, 3),
        "converged": bool(estimate.converged),
        "warnings": list(estimate.warnings),
    }


def finite(value: Any) -> float | None:
    """Return a number that JSON can hold: None for nan and infinities."""
    return float(value) if math.isfinite(value) else None


# --- Tables -------------------------------------------------------------------------------------


def near_ceiling(row: Row) -> bool:
    """Whether the truth is too near the ceiling, or above it, to be reached."""
    return row["truth_nats"] > NEAR_CEILING * row["ceiling_nats"]


def noise(row: Row) -> float:
    """Three standard errors of the difference between estimate and truth, in nats."""
    return 3 * math.hypot(row["stderr"], row["truth_stderr"])


def overshoot(row: Row) -> float:
    """How far the estimate is above the truth beyond three standard errors, in nats."""
    return row["error"] - noise(row)


def grouped(rows: Iterable[Row], name: str) -> dict[Any, list[Row]]:
    """Rows by the value of a column, in order of first appearance."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


def summary(rows: Sequence[Row]) -> str:
    """Summarize the rows of one estimator as a Markdown list."""
    finite_rows = [row for row in rows if row["nats"] is not None]
    reachable = [row for row in finite_rows if not near_ceiling(row)]
    beyond = [row for row in finite_rows if near_ceiling(row)]
    flagged = sum("ceiling" in " ".join(row["warnings"]) for row in beyond)
    lines = [
        f"{len(rows)} estimates of {len(grouped(rows, 'problem'))} problems; "
        f"{sum(not row['converged'] for row in rows)} not converged, "
        f"{len(rows) - len(finite_rows)} not finite"
    ]
    for half, wanted in (("all", (True, False)), ("tuned", (False,)), ("held out", (True,))):
        errors = [abs(row["error"]) for row in reachable if row["held_out"] in wanted]
        if errors:
            lines.append(
                f"mean abs error, {half}: {mean(errors):.4f} nats ({len(errors)} estimates)"
            )
    if finite_rows:
        lines.append(
            "truth within 3 standard errors, or above the estimate: "
            f"{mean(overshoot(row) <= 0 for row in finite_rows):.1%} (within 3 standard errors: "
            f"{mean(abs(row['error']) <= noise(row) for row in finite_rows):.1%})"
        )
        worst = max(finite_rows, key=overshoot)
        lines.append(
            f"largest overshoot beyond 3 standard errors: {overshoot(worst):.4f} nats, "
            f"{worst['problem']}, seed {worst['seed']}"
            if overshoot(worst) > 0
            else "largest overshoot beyond 3 standard errors: none"
        )
    lines.append(
        f"truth above {NEAR_CEILING} of the ceiling, left out of the mean errors: {len(beyond)} "
        f"estimates, {flagged} of them with a warning"
    )
    return "\n".join(f"- {line}" for line in lines)


def comparison(rows: Sequence[Row]) -> str:
    """Return a table of both estimators by family, of truths that can be reached."""

    def line(name: str, family: Sequence[Row]) -> list[str]:
        cells = [name]
        by_estimator = grouped(
            [row for row in family if row["nats"] is not None and not near_ceiling(row)],
            "estimator",
        )
        for estimator in ESTIMATORS:
            own = by_estimator.get(estimator, [])
            cells += [
                common.number(mean(abs(row["error"]) for row in own), ".4f"),
                common.number(mean(row["error"] for row in own), "+.4f"),
                common.number(mean(row["seconds"] for row in own), ".1f"),
            ]
        return cells

    values = ("mean abs error", "mean error", "s")
    head = ["family", *(f"{name}: {value}" for name in ESTIMATORS for value in values)]
    families = grouped(rows, "family").items()
    return markdown_table(head, [*(line(*item) for item in families), line("all", rows)])


def by_family(rows: Sequence[Row]) -> str:
    """A table with a line for each family, and one for all, of truths that can be reached."""

    def line(name: str, own: Sequence[Row]) -> list[str]:
        used = [row for row in own if row["nats"] is not None and not near_ceiling(row)]
        return [
            name,
            str(len(used)),
            f"{mean(abs(row['error']) for row in used):.4f}",
            f"{mean(row['error'] for row in used):+.4f}",
            f"{mean(row['stderr'] for row in used):.4f}",
            f"{mean(overshoot(row) <= 0 for row in used):.0%}",
            f"{mean(row['seconds'] for row in own):.1f}",
            f"{max(row['seconds'] for row in own):.1f}",
        ]

    head = ("family", "runs", "mean abs error", "mean error", "stderr", "not above", "s", "longest")
    families = grouped(rows, "family").items()
    return markdown_table(head, [*(line(name, own) for name, own in families), line("all", rows)])


def by_problem(rows: Sequence[Row]) -> str:
    """A table with a line for each problem: means over its seeds."""
    lines = []
    for name, own in grouped(rows, "problem").items():
        values = [math.nan if row["nats"] is None else row["nats"] for row in own]
        remarks = {
            "near the ceiling": any(near_ceiling(row) for row in own),
            "above the truth": any(overshoot(row) > 0 for row in own),
            "not converged": not all(row["converged"] for row in own),
            "warnings": any(row["warnings"] for row in own),
        }
        lines.append(
            [
                name.replace("|", "\\|"),
                "held out" if own[0]["held_out"] else "tuned",
                f"{own[0]['truth_nats']:.4f}",
                f"{mean(values):.4f}",
                f"{min(values):.4f} … {max(values):.4f}",
                f"{mean(row['stderr'] for row in own):.4f}",
                f"{mean(row['error'] for row in own):+.4f}",
                f"{mean(row['seconds'] for row in own):.1f}",
                ", ".join(remark for remark, holds in remarks.items() if holds),
            ]
        )
    head = ("problem", "half", "truth", "mean", "range", "stderr", "mean error", "s", "remarks")
    return markdown_table(head, lines)


def curve_tables(rows: Sequence[Row]) -> str:
    """Mean error and seconds by problem and number of samples, a table each."""
    sizes = sorted({row["n"] for row in rows})
    parts = []
    for title, name, form in (
        ("Error, nats (mean over the seeds)", "error", "{:+.4f}"),
        ("Standard error, nats", "stderr", "{:.4f}"),
        ("Seconds", "seconds", "{:.1f}"),
    ):
        lines = []
        for problem, own in grouped(rows, "problem").items():
            by_n = grouped(own, "n")
            values = [mean(row[name] for row in by_n[n]) for n in sizes]
            lines.append([problem.replace("|", "\\|"), *map(form.format, values)])
        parts.append(
            f"## {title}\n\n" + markdown_table(["problem", *(f"n = {n:,}" for n in sizes)], lines)
        )
    return "\n\n".join(parts)


def report(rows: Sequence[Row], *, curve: bool) -> str:
    """Return the tables of a run, in Markdown."""
    parts = []
    by_estimator = grouped(rows, "estimator")
    if len(by_estimator) > 1:
        parts += ["## Both estimators by family, in nats", comparison(rows)]
    for estimator, own in by_estimator.items():
        title = "MINE as published" if estimator == "published" else "Default configuration"
        parts += [f"## {title}", summary(own)]
        if curve:
            parts.append(curve_tables(own))
        else:
            parts += ["### By family", by_family(own), "### By problem", by_problem(own)]
    return "\n\n".join(parts)


# --- The run --------------------------------------------------------------------------------------


def experiment() -> None:
    """Validate, measure what is missing, print, draw."""
    with common.user_errors():
        wanted = jobs()
        devices = common.select_devices()
        from mine_jax.information_plane.records import RunFolder

        folder = RunFolder(FLAGS.out_dir)
        configs = {name: dataclasses.asdict(made) for name, made in configurations().items()}
        description = {
            "settings": common.settings_of(sys.modules[__name__]),
            "resolved": configs,
            "versions": common.versions(),
            "devices": devices,
        }
        folder.open(description, resume=FLAGS.resume, may_differ=RESUMABLE_FLAGS)
        by_key = folder.resume_rows(ROWS, key_of)
    missing = [job for job in wanted if job.key not in by_key]
    print(f"{len(wanted)} estimates, {len(missing)} of them to measure; {', '.join(devices)}")
    bar = tqdm(missing, disable=None)  # none where there is no terminal
    with common.device_mesh():
        for job in bar:
            bar.set_description(f"{job.problem.name}, n={job.n}, seed {job.seed}, {job.estimator}")
            row = measure(job)
            folder.append(ROWS, [row])
            by_key[job.key] = row
    import plots

    rows = [by_key[job.key] for job in wanted]
    name = "curve" if FLAGS.curve else "accuracy"
    title = "Error against the number of samples" if FLAGS.curve else "Estimates and truths"
    text = report(rows, curve=FLAGS.curve)
    print(f"\n{text}\n")
    (folder.path / f"{name}.md").write_text(f"# {title}\n\n{text}\n")
    figures = []
    drawn = [row for row in rows if row["estimator"] == rows[0]["estimator"]]
    if not FLAGS.curve:
        figures.append(folder.path / "accuracy.png")
        plots.accuracy(drawn, figures[0])
    if FLAGS.publish:
        common.write_page(name, title, text, figures)
    print(f"Written to {os.path.relpath(folder.path)}")


if __name__ == "__main__":
    common.run(experiment)
