"""The main job in two processes, one of which ends in the middle."""

import json
import math
import shutil
import socket
import time
from pathlib import Path

from . import main_job
from .table import Table

LIMIT = 30.0  # seconds in which the other process must end
WITHIN = 3.0  # standard errors of the difference


def measure(folder: Path, times: int | None) -> Table:
    """Kill one of two processes, let one fail, resume, and compare with one process.

    Args:
      folder: for the runs.
      times: number of repetitions of each kill; None for 2.
    """
    cache, expected = main_job.shared(folder)
    main_job.whole(expected, main_job.SHORT, cache)
    rows, failures = [], []

    def record(fault: str, number: int, returned: str, problems: list[str]) -> None:
        rows.append((fault, str(number), returned, "; ".join(problems) or "nothing"))
        failures.extend(f"{fault}: {problem}" for problem in problems)
        print(rows[-1], flush=True)

    run = folder / "two"
    shutil.rmtree(run, ignore_errors=True)
    ended = _wait(run, _start_both(run, cache))
    problems = [each.message for each in ended if each.status]
    returned, found = _compare(run, expected)
    record("none", 1, f"two processes: {returned}", problems + found)
    for victim in (0, 1):
        problems, slowest = [], 0.0
        for _ in range(times or 2):
            shutil.rmtree(run, ignore_errors=True)
            processes = _start_both(run, cache)
            _until_probed(run, processes)
            processes[victim].kill()
            seconds, found = _other_ends(run, processes, 1 - victim)
            slowest = max(slowest, seconds)
            problems += found + _resume(run, cache, expected)
        returned = f"the other ended after {slowest:.0f} s at most; resumed, values as above"
        record(f"SIGKILL of process {victim}", times or 2, returned, problems)
    shutil.rmtree(run, ignore_errors=True)
    processes = _start_both(run, cache)
    _until_probed(run, processes)
    kept = (run / "training.jsonl").rename(folder / "kept.jsonl")
    (run / "training.jsonl").mkdir()  # only process 0 writes rows
    seconds, problems = _other_ends(run, processes, 1)
    said = _wait(run, processes)[0]
    (run / "training.jsonl").rmdir()
    kept.rename(run / "training.jsonl")
    problems += _resume(run, cache, expected)
    returned = f"process 0: {said.message[:120]}; the other ended after {seconds:.0f} s"
    record("process 0 cannot write", 1, returned.replace(str(run), "FOLDER"), problems)
    return Table(
        "Several processes",
        ("fault", "times", "what came back", "lost"),
        tuple(rows),
        f"Values agree if they are within {WITHIN:g} standard errors of those of one process.",
        tuple(failures),
    )


def _start_both(run: Path, cache: Path) -> list:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    several = (f"--coordinator=localhost:{port}", "--num_processes=2")
    return [
        main_job.start(
            run,
            *main_job.SHORT,
            *several,
            f"--process_id={number}",
            "--resume",
            cache=cache,
            logs=run.with_name(f"{run.name}_{number}"),
        )
        for number in range(2)
    ]


def _wait(run: Path, processes: list) -> list[main_job.Outcome]:
    since = time.perf_counter()
    return [
        main_job.finish(process, run.with_name(f"{run.name}_{number}"), since)
        for number, process in enumerate(processes)
    ]


def _until_probed(run: Path, processes: list) -> None:
    """Wait for the first checkpoint and the rows of the epoch after it."""
    path = run / "training.jsonl"
    while all(process.poll() is None for process in processes):
        if path.exists() and path.read_text().count("\n") >= 2:
            return
        time.sleep(0.05)


def _other_ends(run: Path, processes: list, other: int) -> tuple[float, list[str]]:
    since = time.perf_counter()
    name = run.with_name(f"{run.name}_{other}")
    outcome = main_job.finish(processes[other], name, since, timeout=120)
    problems = [] if outcome.seconds <= LIMIT else [f"{outcome.seconds:.0f} s until the end"]
    return outcome.seconds, problems + ([] if outcome.status else ["the other went on"])


def _resume(run: Path, cache: Path, expected: Path) -> list[str]:
    ended = _wait(run, _start_both(run, cache))
    return [each.message for each in ended if each.status] + _compare(run, expected)[1]


def _compare(run: Path, expected: Path) -> tuple[str, list[str]]:
    """Compare the values with those of one process; return a sentence, and what is wrong."""
    ours, theirs = (
        [json.loads(line) for line in (each / "records.jsonl").read_text().splitlines()]
        for each in (run, expected)
    )
    names = ("epoch", "plane", "variable", "layer")
    if [[row[n] for n in names] for row in ours] != [[row[n] for n in names] for row in theirs]:
        return "other rows", [f"{len(ours)} rows, not those of one process"]
    distances = [
        abs(a["mi_nats"] - b["mi_nats"]) / (math.hypot(a["stderr"], b["stderr"]) or math.inf)
        for a, b in zip(ours, theirs, strict=True)
    ]
    worst = max(distances)
    said = f"{len(ours)} values, at most {worst:.2f} standard errors from those of one process"
    return said, [] if worst <= WITHIN else [said]
