"""Runs are killed many times in one folder: the short main job, and the whole one."""

import random
import shutil
import time
from pathlib import Path

from absl import flags

from . import main_job
from .table import Table

TIMES = 20
SEED = 2
STARTED = 1.0  # seconds in which nothing but imports happens
LONGEST = 90.0  # seconds of a life: some probes of the main job


def measure(folder: Path, times: int | None) -> Table:
    """Kill the short main job in one folder, and the whole main job if MNIST is there.

    Args:
      folder: for the runs.
      times: number of kills of each; None for `TIMES`.
    """
    times = times or TIMES
    draw = random.Random(SEED)
    cache, expected = main_job.shared(folder)
    jobs = [("the short main job", main_job.SHORT, expected)]
    if flags.FLAGS.data_dir:
        arguments = (*main_job.MAIN, f"--data_dir={Path(flags.FLAGS.data_dir).absolute()}")
        jobs.append(("the whole main job", arguments, folder / "main"))
    rows, failures = [], []
    for what, arguments, of in jobs:
        seconds = main_job.whole(of, arguments, cache).seconds
        kills, most, problems = _chain(folder / "chain", arguments, seconds, times, draw, cache)
        problems += main_job.resumed(folder / "chain", of, cache, arguments)
        fault = f"{what} killed many times in one folder, resumed each time"
        returned = (
            "the rows, findings and figures of a run without faults, bit for bit; the folder never "
            f"held more than {most / 2**20:.0f} MiB"
        )
        rows.append((fault, str(kills), returned, problems[0] if problems else "nothing"))
        failures.extend(f"{fault}: {problem}" for problem in problems)
        print(rows[-1], flush=True)
    return Table(
        "Runs killed many times",
        ("fault", "times", "what came back", "lost"),
        tuple(rows),
        "Kills are at random moments, until the run is at its end; each resume starts at once. The "
        f"whole main job is `info_plane.py {' '.join(main_job.MAIN)}` with all of MNIST.",
        tuple(failures),
    )


def _chain(
    folder: Path,
    arguments: tuple[str, ...],
    seconds: float,
    times: int,
    draw: random.Random,
    cache: Path,
) -> tuple[int, int, list[str]]:
    """Kill a run until it is at its end, or `times` times.

    Returns:
      The number of kills, the largest size of the folder, and sentences on lives that failed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    most, problems = 0, []
    for number in range(times):
        process = main_job.start(folder, *arguments, "--resume", cache=cache)
        until = time.perf_counter() + draw.uniform(STARTED, min(seconds, LONGEST))
        while time.perf_counter() < until and process.poll() is None:
            time.sleep(0.05)
            try:
                most = max(most, main_job.size(folder))
            except FileNotFoundError:
                continue
        if process.poll() == 0:
            return number, most, problems
        if process.poll() is not None:
            problems.append(f"life {number} ended with status {process.returncode}")
        process.kill()
        process.wait()
    return times, most, problems
