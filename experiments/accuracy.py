"""Estimates beside known mutual information.

  python experiments/accuracy.py
  python experiments/accuracy.py --problems=gaussian,blob --seeds=1 --estimator=default,published
  python experiments/accuracy.py --benchmark=bmi --estimator=default,ksg,cca --out_dir=runs/bmi
  python experiments/accuracy.py --curve --out_dir=runs/curve

Estimates the mutual information of the problems in problems/ by `mine_jax.lower_bound`, with its
defaults or as others have published, and by the estimators in reference_estimators.py. A row goes
to accuracy.jsonl in --out_dir as soon as it is known; tables (accuracy.md, also printed) and a
figure of the first estimator that is a bound (accuracy.png) follow. --curve varies the number of
samples instead (curve.md).
"""

import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import accuracy_report
import common
import numpy as np
import problems
import reference_estimators
from absl import flags
from problems import Problem
from tqdm import tqdm

if TYPE_CHECKING:  # imported where needed, so that --help answers at once
    from mine_jax import Estimate, MineConfig

ROWS = "accuracy.jsonl"
ESTIMATORS = ("default", "published", "infonce", *reference_estimators.ESTIMATORS)
MIN_SAMPLES = 100  # of an estimate: a fifth of them for testing
SIZES = ("500", "1000", "2000", "5000", "10000", "20000", "60000")
CURVE_PROBLEMS = (
    "gaussian d=5 I=2",
    "labels axes classes=10 s=2",
    "blob I=2",
    "independent d=10",
)
# Flags that a resumed run may change: they say which rows it has, not what is in them.
RESUMABLE_FLAGS = (
    *("n", "seeds", "benchmark", "problems", "half", "estimator", "curve", "sizes"),
    *("platform", "compilation_cache", "num_devices"),
)

Row = Mapping[str, Any]

FLAGS = flags.FLAGS
flags.DEFINE_integer("n", 10_000, "Number of samples, where a problem does not fix it.")
flags.DEFINE_integer("seeds", 3, "Estimates per problem, each on new samples.")
flags.DEFINE_enum(
    "benchmark",
    "own",
    (*problems.BENCHMARKS, "all"),
    "own: the problems of this project. bmi: the 40 tasks of Czyż et al. 2023. mutinfo: families "
    "of the tables of mutinfo. wild: what people bring. all: of all.",
)
flags.DEFINE_string(
    "data_dir", None, "Folder of MNIST for problems of digits. Default: 5,000 of its images."
)
flags.DEFINE_list(
    "problems", [], "Names of problems of --benchmark, or parts of names. Default: all of them."
)
flags.DEFINE_enum(
    "half", "both", ("tuned", "held_out", "both"), "Problems used in tuning, or held out of it."
)
flags.DEFINE_list(
    "estimator",
    ["default"],
    "Estimators, each on the same samples. default: MineConfig(). published: MINE as published. "
    "infonce: InfoNCE with a separable critic. ksg: nearest neighbors. cca: correlations.",
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


def row_key(row: Row) -> tuple[str, int, int, str]:
    """Return the key of a row, as `Job.key`."""
    return row["problem"], row["n"], row["seed"], row["estimator"]


def select_problems(
    parts: Sequence[str], half: str = "both", benchmark: str = "own"
) -> list[Problem]:
    """Select problems by name.

    Args:
      parts: full names, each for its problem alone, or parts of names; none for all problems.
      half: "tuned", "held_out" or "both".
      benchmark: one of `problems.BENCHMARKS`, or "all".

    Returns:
      The problems, in the order of `problems.problems`.

    Raises:
      ValueError: if a part is in no name, or no problem is left.
    """
    catalogue = [p for p in problems.problems() if benchmark in (p.benchmark, "all")]
    full_names = {problem.name for problem in catalogue}
    parts = [part.strip() for part in parts if part.strip()]

    def matches(part: str, name: str) -> bool:
        return part == name if part in full_names else part in name

    if idle := [part for part in parts if not any(matches(part, name) for name in full_names)]:
        names = ", ".join(map(repr, idle))
        raise ValueError(
            f"--problems: no problem has {names} in its name in --benchmark={benchmark}"
        )
    named = [p for p in catalogue if not parts or any(matches(part, p.name) for part in parts)]
    selected = [p for p in named if half == "both" or p.held_out == (half == "held_out")]
    if not selected:
        raise ValueError(f"--half={half} leaves none of the {len(named)} problems of --problems")
    return selected


def plan_jobs() -> list[Job]:
    """Return the estimates that the flags describe; ValueError names a wrong flag."""
    for name, minimum in (("n", MIN_SAMPLES), ("seeds", 1)):
        if (value := getattr(FLAGS, name)) < minimum:
            raise ValueError(f"--{name} must be at least {minimum}, got {value}")
    sizes = [int(size) for size in FLAGS.sizes if size.isdecimal()]
    if len(sizes) < max(1, len(FLAGS.sizes)) or min(sizes) < MIN_SAMPLES:
        raise ValueError(
            f"--sizes must be integers of at least {MIN_SAMPLES}, got {','.join(FLAGS.sizes)}"
        )
    if unknown := common.unknown_names("estimator", FLAGS.estimator, ESTIMATORS):
        raise ValueError(*unknown)
    if not FLAGS.estimator:
        raise ValueError(f"--estimator is empty; choose from {', '.join(ESTIMATORS)}")
    names = FLAGS.problems or (CURVE_PROBLEMS if FLAGS.curve else [])
    return [
        Job(problem, n, seed, estimator)
        for problem in select_problems(names, FLAGS.half, FLAGS.benchmark)
        for n in (sorted(set(sizes)) if FLAGS.curve else [problem.n or FLAGS.n])
        for seed in range(FLAGS.seeds)
        for estimator in dict.fromkeys(FLAGS.estimator)
    ]


def configurations() -> dict[str, "MineConfig"]:
    """Return the configuration of each of `ESTIMATORS` that is one of `lower_bound`."""
    from mine_jax import MineConfig

    return {
        "default": MineConfig(),
        "published": MineConfig.published(cross_fit=False),
        # All pairs of a batch, as in van den Oord et al. 2018, https://arxiv.org/abs/1807.03748.
        "infonce": MineConfig.published(network="separable", bound="infonce", form="infonce"),
    }


def measure(job: Job, config: "MineConfig | None") -> dict[str, Any]:
    """Draw a problem's samples, estimate, and compare with the truth.

    Args:
      job: the estimate to make.
      config: of `lower_bound`; None for a reference estimator.

    Returns:
      The row; None for numbers that are not finite or that the estimator does not have.

    Raises:
      ValueError: if `lower_bound` does, naming the problem.
    """
    x, z = problems.draw(job.problem, job.n, job.seed, FLAGS.data_dir)
    start = time.perf_counter()
    try:
        measured = (
            reference_values(reference_estimators.ESTIMATORS[job.estimator](x, z))
            if config is None
            else bound_values(x, z, job.seed, config)
        )
    except ValueError as error:
        raise ValueError(f"{job.problem.name}, n = {job.n}, seed {job.seed}: {error}") from error
    seconds = time.perf_counter() - start
    nats = measured["nats"]
    return {
        "problem": job.problem.name,
        "family": job.problem.family,
        "benchmark": job.problem.benchmark,
        "held_out": job.problem.held_out,
        "n": job.n,
        "seed": job.seed,
        "estimator": job.estimator,
        "truth_nats": job.problem.truth_nats,
        "truth_stderr": job.problem.truth_stderr,
        "truth_is_upper": job.problem.truth_is_upper,
        "samples": len(x),
        **measured,
        "error": None if nats is None else nats - job.problem.truth_nats,
        "seconds": round(seconds, 3),
    }


def bound_values(x: np.ndarray, z: np.ndarray, seed: int, config: "MineConfig") -> dict[str, Any]:
    """Estimate by `lower_bound` and return what a row has of the estimate."""
    import jax

    import mine_jax

    estimate = cast("Estimate", mine_jax.lower_bound(x, z, key=jax.random.key(seed), config=config))
    return {
        "nats": finite_or_none(estimate.nats),
        "stderr": finite_or_none(estimate.stderr),
        "train_nats": finite_or_none(estimate.train_nats),
        "ceiling_nats": float(estimate.ceiling_nats),
        "steps": int(estimate.steps),
        "converged": bool(estimate.converged),
        "warnings": list(estimate.warnings),
    }


def reference_values(nats: float) -> dict[str, Any]:
    """Return the same of an estimator that has neither error nor ceiling nor training."""
    unknown = dict.fromkeys(("stderr", "train_nats", "ceiling_nats"))
    return {
        "nats": finite_or_none(nats),
        **unknown,
        "steps": 0,
        "converged": True,
        "warnings": [],
    }


def finite_or_none(value: float) -> float | None:
    """Return a number that JSON can hold: None for nan and infinities."""
    return float(value) if math.isfinite(value) else None


def with_nan(row: Row) -> Row:
    """Return a row with nan for None."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def experiment() -> None:
    """Validate, measure the missing estimates, print, draw."""
    with common.user_errors():
        from mine_jax.information_plane.records import RunFolder

        jobs = plan_jobs()
        if any(job.problem.reads_digits for job in jobs):
            problems.load_digits(FLAGS.data_dir)
        devices = common.select_devices()
        configs = configurations()
        folder = RunFolder(FLAGS.out_dir)
        description = {
            "settings": common.settings_of(__name__),
            "resolved": {name: dataclasses.asdict(config) for name, config in configs.items()},
            "versions": common.versions(),
            "devices": devices,
        }
        folder.open(description, resume=FLAGS.resume, may_differ=RESUMABLE_FLAGS)
        by_key = folder.resume_rows(ROWS, row_key)
    missing = [job for job in jobs if job.key not in by_key]
    print(f"{len(jobs)} estimates, {len(missing)} missing; {', '.join(devices)}", flush=True)
    bar = tqdm(missing, disable=None)  # none where there is no terminal
    with common.device_mesh():
        for job in bar:
            bar.set_description(f"{job.problem.name}, n={job.n}, seed {job.seed}, {job.estimator}")
            row = measure(job, configs.get(job.estimator))
            folder.append(ROWS, [row])
            by_key[job.key] = row
    rows = [with_nan(by_key[job.key]) for job in jobs]
    name, title = "accuracy", "Estimates beside known mutual information"
    if FLAGS.benchmark != "own":
        name, title = f"accuracy_{FLAGS.benchmark}", f"{title}: {FLAGS.benchmark}"
    if FLAGS.curve:
        name, title = "curve", "Error by number of samples"
    text = accuracy_report.report(rows, curve=FLAGS.curve)
    print(f"\n{text}\n")
    (folder.path / f"{name}.md").write_text(f"# {title}\n\n{text}\n")
    figures = []
    drawn = next((job.estimator for job in jobs if job.estimator in configs), None)
    if drawn and not FLAGS.curve:
        import plots

        figures.append(folder.path / f"{name}.png")
        plots.accuracy([row for row in rows if row["estimator"] == drawn], figures[0])
    if FLAGS.publish:
        common.write_page(name, title, text, figures)
    print(f"Written to {os.path.relpath(folder.path)}")


if __name__ == "__main__":
    common.run(experiment)
