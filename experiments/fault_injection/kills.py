"""The main job is killed and resumed; what it wrote is compared with a whole run."""

import random
import shutil
import time
from pathlib import Path

from absl import flags

from . import main_job
from .table import Table

TIMES = 20
SEED = 0
MAIN = ("--epochs=40", "--probe_every=4")
STARTED = 1.0  # seconds in which nothing but imports happens


def measure(folder: Path, times: int | None) -> Table:
    """Kill short main jobs, one of them many times, and the whole main job if MNIST is there.

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
        moment = draw.uniform(STARTED, seconds)
        moments.append(moment)
        problems += _killed(folder / "kill", expected, cache, lambda _, m=moment: time.sleep(m))
    record(
        f"SIGKILL at a random moment ({min(moments):.0f} to {max(moments):.0f} s of {seconds:.0f}),"
        " resumed",
        times,
        "the rows, findings and figures of a run without faults, bit for bit",
        problems,
    )
    for what, pattern in (
        ("a checkpoint", "checkpoints/*.orbax-checkpoint-tmp*"),
        ("checksums of a checkpoint", "checkpoints/*/.SHA256SUMS.partial"),
        ("rows of a probe", "records.jsonl"),
    ):
        number = max(times // 6, 1)
        problems = []
        for _ in range(number):
            watch = _Watch(pattern, draw.randrange(1, 4), draw.uniform(0, 0.05))
            problems += _killed(folder / "kill", expected, cache, watch)
        record(f"SIGKILL during the writing of {what}, resumed", number, "the same", problems)
    chains = [("the short main job", main_job.SHORT, expected, seconds)]
    if flags.FLAGS.data_dir:
        arguments = (*MAIN, f"--data_dir={Path(flags.FLAGS.data_dir).absolute()}")
        long = folder / "main"
        chains.append(
            ("the main job", arguments, long, main_job.whole(long, arguments, cache).seconds)
        )
    for what, arguments, of, needed in chains:
        problems, most = _chain(folder / "chain", arguments, of, needed, times, draw, cache)
        returned = f"the same; the folder never held more than {most / 2**20:.0f} MiB"
        record(
            f"{what} killed {times} times in one folder, resumed each time", 1, returned, problems
        )
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

    def __call__(self, folder: Path) -> None:
        seen: set = set()
        until = time.perf_counter() + 300
        while len(seen) < self.count and time.perf_counter() < until:
            for path in folder.glob(self.pattern):
                try:
                    seen.add((path.name, path.stat().st_size if path.is_file() else 0))
                except FileNotFoundError:
                    continue
            time.sleep(0.001)
        time.sleep(self.delay)


def _killed(folder: Path, expected: Path, cache: Path, wait) -> list[str]:  # noqa: ANN001
    _clear(folder)
    process = main_job.start(folder, *main_job.SHORT, cache=cache)
    wait(folder)
    process.kill()
    process.wait()
    return resumed(folder, expected, cache, main_job.SHORT)


def resumed(folder: Path, expected: Path, cache: Path, arguments: tuple[str, ...]) -> list[str]:
    """Resume a run and return what is wrong, if anything is."""
    outcome = main_job.run(folder, *arguments, "--resume", cache=cache)
    if outcome.status:
        return [f"status {outcome.status}: {outcome.message}"]
    return main_job.differences(folder, expected)[:1]


def _chain(
    folder: Path,
    arguments: tuple[str, ...],
    expected: Path,
    seconds: float,
    times: int,
    draw: random.Random,
    cache: Path,
) -> tuple[list[str], int]:
    """Kill a run many times in one folder; return what went wrong, and the folder's largest size.

    Every second life is long enough for a probe or two, so that the run gets on.
    """
    _clear(folder)
    most = 0
    for number in range(times):
        process = main_job.start(folder, *arguments, "--resume", cache=cache)
        longest = min(seconds / 4, 60) if number % 2 else min(seconds, 30)
        until = time.perf_counter() + draw.uniform(STARTED, longest)
        while time.perf_counter() < until and process.poll() is None:
            time.sleep(0.05)
            try:
                most = max(most, main_job.size(folder))
            except FileNotFoundError:
                continue
        process.kill()
        process.wait()
    return resumed(folder, expected, cache, arguments), most


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
