"""Short main jobs are killed and resumed; what they wrote is compared with a whole run."""

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from . import main_job
from .table import Table

TIMES = 20
SEED = 0
STARTED = 1.0  # seconds in which nothing but imports happens
ATTEMPTS = 5
LONGEST = 300.0  # seconds until files of a pattern must have appeared


def measure(folder: Path, times: int | None) -> Table:
    """Kill short main jobs at random moments, and while files are written.

    Args:
      folder: for the runs.
      times: number of kills of each kind; None for `TIMES`.
    """
    times = times or TIMES
    draw = random.Random(SEED)
    cache, expected = main_job.shared(folder)
    seconds = main_job.whole(expected, main_job.SHORT, cache).seconds
    rows, failures = [], []

    def record(fault: str, number: int, returned: str, problems: list[str]) -> None:
        lost = "nothing" if not problems else f"{len(problems)} of {number}: {problems[0]}"
        rows.append((fault, str(number), returned, lost))
        failures.extend(f"{fault}: {problem}" for problem in problems)
        print(rows[-1], flush=True)

    problems, moments = [], []
    for _ in range(times):
        wait = _Sleep(draw, seconds)
        problems += _killed(folder / "kill", expected, cache, wait)
        moments += wait.moments[-1:]
    record(
        f"SIGKILL at a random moment ({min(moments):.0f} to {max(moments):.0f} s of {seconds:.0f}),"
        " resumed",
        times,
        "the rows, findings and figures of a run without faults, bit for bit",
        problems,
    )
    for what, pattern in (
        ("a checkpoint", "checkpoints/*.orbax-checkpoint-tmp*"),
        ("copies and checksums into a checkpoint", "checkpoints/*/.*.partial"),
        ("rows of a probe", "records.jsonl"),
    ):
        number = max(times // 6, 1)
        problems = []
        for _ in range(number):
            watch = _Watch(pattern, draw.randrange(1, 4), draw.uniform(0, 0.02))
            problems += _killed(folder / "kill", expected, cache, watch)
        record(f"SIGKILL during the writing of {what}, resumed", number, "the same", problems)
    return Table(
        "Killed runs",
        ("fault", "times", "what came back", "lost"),
        tuple(rows),
        f"`info_plane.py {' '.join(main_job.SHORT)}` as a process of its own; moments are drawn "
        f"with seed {SEED}. Rows are compared without their times.",
        tuple(failures),
    )


class _Watch:
    """Returns a while after the n-th time that files of a pattern appear or grow."""

    def __init__(self, pattern: str, count: int, delay: float) -> None:
        self.pattern, self.count, self.delay = pattern, count, delay

    def __call__(self, folder: Path, process: subprocess.Popen) -> None:
        seen: set = set()
        until = time.perf_counter() + LONGEST
        while len(seen) < self.count and process.poll() is None and time.perf_counter() < until:
            for path in folder.glob(self.pattern):
                try:
                    stat = path.stat()
                    seen.add((path, stat.st_ino, stat.st_size if path.is_file() else 0))
                except FileNotFoundError:
                    continue
            time.sleep(0.0005)
        time.sleep(self.delay)


class _Sleep:
    """Returns at a random moment; `moments` are those drawn."""

    def __init__(self, draw: random.Random, seconds: float) -> None:
        self.draw, self.seconds = draw, seconds
        self.moments: list[float] = []

    def __call__(self, folder: Path, process: subprocess.Popen) -> None:
        self.moments.append(self.draw.uniform(STARTED, self.seconds))
        time.sleep(self.moments[-1])


def _killed(
    folder: Path, expected: Path, cache: Path, wait: Callable[[Path, subprocess.Popen], None]
) -> list[str]:
    """Kill a run when `wait` returns, resume it, and return what is wrong, if anything is.

    A run that is at its end by then is started again.
    """
    for _ in range(ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        process = main_job.start(folder, *main_job.SHORT, cache=cache)
        wait(folder, process)
        ended = process.poll() is not None
        process.kill()
        process.wait()
        if not ended:
            return main_job.resumed(folder, expected, cache, main_job.SHORT)
    return [f"it had ended before it was killed, {ATTEMPTS} times"]
