"""Estimates beside known truths.

  python experiments/accuracy.py
  python experiments/accuracy.py --problems=gaussian,blob --seeds=1
  python experiments/accuracy.py --curve

Estimates the mutual information of the problems in problems.py by `mine_jax.lower_bound` with its
defaults. A row goes to accuracy.csv in --out_dir as soon as it is known; tables (accuracy.md, also
printed) and a figure (accuracy.png) follow. --curve lets the number of samples grow instead
(curve.csv, curve.md).
"""

import csv
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import platforms
import problems
from absl import app, flags, logging
from problems import Problem
from tables import table
from tqdm import tqdm

COLUMNS: Mapping[str, Callable[[str], Any]] = {
    "problem": str,
    "family": str,
    "held_out": lambda text: text == "True",
    "n": int,
    "seed": int,
    "truth_nats": float,
    "truth_stderr": float,
    "nats": float,
    "stderr": float,
    "train_nats": float,
    "ceiling_nats": float,
    "error": float,
    "steps": int,
    "seconds": float,
    "converged": lambda text: text == "True",
    "warnings": str,
}
SIZES = ("500", "1000", "2000", "5000", "10000", "20000", "60000")
CURVE_PROBLEMS = (
    "gaussian d=5 I=2",
    "blob I=2",
    "labels axes classes=10 s=2",
    "independent d=10",
)
NEAR_CEILING = 0.9  # of the ceiling: truths above it cannot be reached

Row = Mapping[str, Any]

FLAGS = flags.FLAGS
flags.DEFINE_integer("n", 10_000, "Samples of a problem that asks for no number of its own.")
flags.DEFINE_integer("seeds", 3, "Estimates of each problem, each with samples of its own.")
flags.DEFINE_list("problems", [], "Names of problems, or parts of names, to measure. Default: all.")
flags.DEFINE_enum(
    "half", "both", ("tuned", "held_out", "both"), "Problems seen in tuning, or held out of it."
)
flags.DEFINE_string("out_dir", "runs/accuracy", "Folder for rows, tables and the figure.")
flags.DEFINE_bool("resume", False, "Keep the rows in --out_dir and measure what is missing.")
flags.adopt_module_key_flags(platforms)
flags.DEFINE_bool("curve", False, "Measure a few problems with more and more samples.")
flags.DEFINE_list("sizes", list(SIZES), "Numbers of samples for --curve.")


class Job(NamedTuple):
    """One estimate to make: a problem, a number of samples, a seed."""

    problem: Problem
    n: int
    seed: int

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells its row from others."""
        return self.problem.name, self.n, self.seed


class Rows:
    """A CSV file of `COLUMNS`; each row is on disk as soon as it is added."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.by_key: dict[tuple[str, int, int], Row] = {}
        whole = self._whole_lines()
        if whole and not resume:
            raise ValueError(
                f"{path} already holds rows: keep them by --resume, or choose another --out_dir"
            )
        if whole and next(csv.reader(whole[:1])) != list(COLUMNS):
            raise ValueError(f"{path} has other columns; choose another --out_dir")
        for row in csv.DictReader(whole):
            try:
                typed = {name: read(row[name]) for name, read in COLUMNS.items()}
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path} has a row that cannot be read: {row}") from error
            self.by_key[typed["problem"], typed["n"], typed["seed"]] = typed
        if not whole:
            whole = [",".join(COLUMNS) + "\n"]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(whole))
        os.replace(partial, path)

    def add(self, row: Row) -> None:
        """Append a row; it is on disk when this returns."""
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, list(COLUMNS), lineterminator="\n").writerow(row)
            file.flush()
            os.fsync(file.fileno())
        self.by_key[row["problem"], row["n"], row["seed"]] = row

    def _whole_lines(self) -> list[str]:
        """The lines of the file but for a last one that was cut off; none if there is no file."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]


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
    """What the flags ask for; raises ValueError that names a flag that is wrong."""
    if FLAGS.n < 1:
        raise ValueError(f"--n must be at least 1, got {FLAGS.n}")
    if FLAGS.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {FLAGS.seeds}")
    seeds = range(FLAGS.seeds)
    if not FLAGS.curve:
        found = chosen(FLAGS.problems, FLAGS.half)
        return [Job(problem, problem.n or FLAGS.n, seed) for problem in found for seed in seeds]
    try:
        sizes = sorted({int(size) for size in FLAGS.sizes})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise ValueError(f"--sizes must be whole numbers above 0, got {','.join(FLAGS.sizes)}")
    if FLAGS.problems:
        found = chosen(FLAGS.problems, FLAGS.half)
    else:
        found = [problems.find(name) for name in CURVE_PROBLEMS]
    return [Job(problem, n, seed) for problem in found for n in sizes for seed in seeds]


def measure(job: Job) -> Row:
    """Draw a problem's samples, estimate, and compare with the truth: a row of `COLUMNS`."""
    import jax

    import mine_jax

    x, z = problems.draw(job.problem, job.n, job.seed)
    start = time.perf_counter()
    try:
        estimate = mine_jax.lower_bound(x, z, key=jax.random.key(job.seed))
        nats = float(estimate.nats)
    except ValueError as error:
        raise ValueError(f"{job.problem.name}: {error}") from error
    seconds = time.perf_counter() - start
    return {
        "problem": job.problem.name,
        "family": job.problem.family,
        "held_out": job.problem.held_out,
        "n": job.n,
        "seed": job.seed,
        "truth_nats": job.problem.truth_nats,
        "truth_stderr": job.problem.truth_stderr,
        "nats": nats,
        "stderr": float(estimate.stderr),
        "train_nats": float(estimate.train_nats),
        "ceiling_nats": float(estimate.ceiling_nats),
        "error": nats - job.problem.truth_nats,
        "steps": int(estimate.steps),
        "seconds": round(seconds, 3),
        "converged": bool(estimate.converged),
        "warnings": " | ".join(estimate.warnings),
    }


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


def mean(values: Iterable[float]) -> float:
    """Their mean; NaN of none."""
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


def grouped(rows: Iterable[Row], name: str) -> dict[Any, list[Row]]:
    """Rows by the value of a column, in order of first appearance."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


def summary(rows: Sequence[Row]) -> str:
    """What all rows say together, as a Markdown list."""
    finite = [row for row in rows if math.isfinite(row["nats"])]
    reachable = [row for row in finite if not near_ceiling(row)]
    beyond = [row for row in finite if near_ceiling(row)]
    flagged = sum("ceiling" in row["warnings"] for row in beyond)
    slowest = max(rows, key=lambda row: row["seconds"])
    lines = [
        f"{len(rows)} estimates of {len(grouped(rows, 'problem'))} problems; "
        f"{sum(not row['converged'] for row in rows)} not converged, "
        f"{len(rows) - len(finite)} not finite"
    ]
    for half, wanted in (("all", (True, False)), ("tuned", (False,)), ("held out", (True,))):
        errors = [abs(row["error"]) for row in reachable if row["held_out"] in wanted]
        if errors:
            average = f"{mean(errors):.4f} nats ({len(errors)} estimates)"
            lines.append(f"mean |error|, {half}: {average}")
    if finite:
        lines.append(
            "truth within 3 standard errors, or above the estimate: "
            f"{mean(overshoot(row) <= 0 for row in finite):.1%} (within 3 standard errors: "
            f"{mean(abs(row['error']) <= noise(row) for row in finite):.1%})"
        )
        worst = max(finite, key=overshoot)
        lines.append(
            f"worst overshoot beyond 3 standard errors: {overshoot(worst):.4f} nats, "
            f"{worst['problem']}, seed {worst['seed']}"
            if overshoot(worst) > 0
            else "worst overshoot beyond 3 standard errors: none"
        )
    lines += [
        f"truth above {NEAR_CEILING} of the ceiling, not in the mean errors: {len(beyond)} "
        f"estimates, {flagged} of them flagged",
        f"slowest call: {slowest['seconds']:.1f} s, {slowest['problem']}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def by_family(rows: Sequence[Row]) -> str:
    """A table with a line for each family, and one for all, of truths that can be reached."""

    def line(name: str, own: Sequence[Row]) -> list[str]:
        used = [row for row in own if math.isfinite(row["nats"]) and not near_ceiling(row)]
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
    return table(head, [*(line(name, own) for name, own in families), line("all", rows)])


def by_problem(rows: Sequence[Row]) -> str:
    """A table with a line for each problem: means over its seeds."""
    lines = []
    for name, own in grouped(rows, "problem").items():
        values = [row["nats"] for row in own]
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
    return table(head, lines)


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
        parts.append(f"## {title}\n\n" + table(["problem", *(f"n = {n:,}" for n in sizes)], lines))
    return "\n\n".join(parts)


def report(rows: Sequence[Row], title: str, *, curve: bool) -> str:
    """The tables of a run, in Markdown."""
    parts = [f"# {title}", summary(rows)]
    if curve:
        parts.append(curve_tables(rows))
    else:
        parts += ["## By family", by_family(rows), "## By problem", by_problem(rows)]
    return "\n\n".join(parts)


# --- The run ------------------------------------------------------------------------------------


def main(argv: list[str]) -> None:
    """Run the experiment; an error that the user can mend is a line of text and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(f"no positional arguments are known, got {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)  # JAX tells of every backend that is not there
    try:
        experiment()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def experiment() -> None:
    """Validate, measure what is missing, print, draw."""
    wanted = jobs()
    devices = platforms.select()
    name = "curve" if FLAGS.curve else "accuracy"
    folder = Path(FLAGS.out_dir)
    rows = Rows(folder / f"{name}.csv", resume=FLAGS.resume)
    missing = [job for job in wanted if job.key not in rows.by_key]
    print(f"{len(wanted)} estimates, {len(missing)} of them to make; {', '.join(devices)}")
    bar = tqdm(missing, disable=None)  # none where there is no terminal
    with platforms.spread():
        for job in bar:
            bar.set_description(f"{job.problem.name}, n={job.n}, seed {job.seed}")
            rows.add(measure(job))

    from mine_jax.information_plane import plotting

    made = [rows.by_key[job.key] for job in wanted]
    title = "Error against the number of samples" if FLAGS.curve else "Estimates and truths"
    text = report(made, title, curve=FLAGS.curve)
    print(f"\n{text}\n")
    (folder / f"{name}.md").write_text(text + "\n")
    if not FLAGS.curve:
        plotting.accuracy(made, folder / "accuracy.png")
    print(f"Written to {os.path.relpath(folder)}")


if __name__ == "__main__":
    app.run(main)
