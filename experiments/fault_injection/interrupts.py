"""The main job is ended by Ctrl-C or SIGTERM and resumed."""

import random
import shutil
import signal
import time
from pathlib import Path

from absl import flags

from . import main_job
from .table import Table

TIMES = 3
SEED = 1
STARTED, MOST = 2.0, 0.7  # seconds of imports, and the share of a run in which signals come
LONGEST = 60.0  # seconds in which signals come to the whole main job
LIMIT = 5.0  # seconds


def measure(folder: Path, times: int | None) -> Table:
    """Interrupt short main jobs at random moments, and the whole main job if MNIST is there.

    Args:
      folder: for the runs.
      times: number of interrupts of each kind; None for `TIMES`.
    """
    times = times or TIMES
    draw = random.Random(SEED)
    cache, expected = main_job.shared(folder)
    longest = MOST * main_job.whole(expected, main_job.SHORT, cache).seconds
    rows, failures = [], []
    # A shell has programs in the background ignore SIGINT, and their children with them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGINT", "SIGTERM"):
        problems, slowest = [], 0.0
        for _ in range(times):
            moment = draw.uniform(STARTED, max(longest, STARTED))
            shutil.rmtree(folder / "run", ignore_errors=True)
            found, seconds = _interrupted(folder / "run", main_job.SHORT, cache, name, moment)
            problems += found + main_job.resumed(folder / "run", expected, cache, main_job.SHORT)
            slowest = max(slowest, seconds)
        returned = (
            f"ended after {slowest:.1f} s at most, with the command that goes on; resumed, the "
            "rows, findings and figures of a run without faults, bit for bit"
        )
        rows.append((f"{name} at a random moment", str(times), returned, "; ".join(problems)))
        failures += [f"{name}: {problem}" for problem in problems]
    if flags.FLAGS.data_dir:
        arguments = (
            *main_job.MAIN,
            f"--data_dir={Path(flags.FLAGS.data_dir).absolute()}",
            "--resume",
        )
        shutil.rmtree(folder / "main", ignore_errors=True)
        problems, slowest = [], 0.0
        for number in range(2 * times):
            name, moment = ("SIGINT", "SIGTERM")[number % 2], draw.uniform(STARTED, LONGEST)
            found, seconds = _interrupted(folder / "main", arguments, cache, name, moment)
            problems += found
            slowest = max(slowest, seconds)
        returned = (
            f"ended after {slowest:.1f} s at most, with the command that goes on; its end was not "
            "waited for"
        )
        fault = "SIGINT and SIGTERM in turn, the whole main job, one folder"
        rows.append((fault, str(2 * times), returned, "; ".join(problems)))
        failures += [f"the whole main job: {problem}" for problem in problems]
    return Table(
        "Interrupted runs",
        ("fault", "times", "what came back", "lost"),
        tuple((*row[:3], row[3] or "nothing") for row in rows),
        "",
        tuple(failures),
    )


def _interrupted(
    folder: Path, arguments: tuple[str, ...], cache: Path, name: str, moment: float
) -> tuple[list[str], float]:
    """Return what went wrong, and the seconds from the signal to the end."""
    process = main_job.start(folder, *arguments, cache=cache)
    time.sleep(moment)
    number = getattr(signal, name)
    since = time.perf_counter()
    process.send_signal(number)
    outcome = main_job.finish(process, folder, since)
    problems = []
    if outcome.status != 128 + number or "To go on: " not in outcome.errors:
        problems.append(f"status {outcome.status}: {outcome.message}")
    if outcome.seconds > LIMIT:
        problems.append(f"{outcome.seconds:.1f} s until the end")
    return problems, outcome.seconds
