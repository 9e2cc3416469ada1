"""The main job on a disk that fills up, in a folder that cannot be written, or that is in use."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import main_job
from .table import Table

SIZES = ("16k", "512k", "3m", "6m")  # full at the start, or at a later checkpoint
ENOUGH = "1g"


def measure(folder: Path, times: int | None) -> Table:
    """Run the main job where it cannot write all, then give it room and resume.

    Small disks are file systems in memory, which only root can mount; elsewhere the table says so.

    Args:
      folder: for the runs.
      times: not used: each size is tried once.
    """
    del times
    cache, expected = main_job.shared(folder)
    main_job.whole(expected, main_job.SHORT, cache)
    rows, failures = [], []

    def record(fault: str, returned: str, problems: list[str]) -> None:
        rows.append((fault, "1", returned, "; ".join(problems) or "nothing"))
        failures.extend(f"{fault}: {problem}" for problem in problems)
        print(rows[-1], flush=True)

    disk = folder / "disk"
    try:
        for size in SIZES:
            with _mounted(disk, size):
                run = disk / "run"
                outcome = main_job.run(run, *main_job.SHORT, cache=cache, logs=folder / "run")
                problems = _problems(outcome)
                _remount(disk, f"size={ENOUGH}")
                again = main_job.run(
                    run, *main_job.SHORT, "--resume", cache=cache, logs=folder / "run"
                )
                problems += [again.message] if again.status else []
                problems += main_job.differences(run, expected)
                record(f"a disk of {size}B, then enough, resumed", _said(outcome, run), problems)
        with _mounted(disk, ENOUGH):
            shutil.copytree(expected, disk / "run")
            _remount(disk, "ro")
            for name in ("run", "new"):
                run = disk / name
                outcome = main_job.run(
                    run, *main_job.SHORT, "--resume", cache=cache, logs=folder / "run"
                )
                problems = _problems(outcome)
                problems += main_job.differences(disk / "run", expected)
                record(f"a read-only disk, --out_dir={name}", _said(outcome, run), problems)
    except subprocess.CalledProcessError as error:
        rows.append(("a full or read-only disk", "0", f"not tried: {error}", "–"))
    run = folder / "used"
    shutil.rmtree(run, ignore_errors=True)
    process = main_job.start(run, *main_job.SHORT, cache=cache)
    while not (run / "training.jsonl").exists():
        time.sleep(0.1)
    since = time.perf_counter()
    other = main_job.run(
        run, *main_job.SHORT, "--resume", cache=cache, logs=folder / "second_process"
    )
    first = main_job.finish(process, run, since)
    problems = _problems(other) + ([first.message] if first.status else [])
    problems += main_job.differences(run, expected)
    record("a second process in the same folder", _said(other, run), problems)
    return Table(
        "Disks and folders",
        ("fault", "times", "what came back", "lost"),
        tuple(rows),
        "Nothing is lost where rows, findings and figures are equal bit for bit in the end.",
        tuple(failures),
    )


def _problems(outcome: main_job.Outcome) -> list[str]:
    """Return what is wrong with how a run ended that could not go on."""
    problems = []
    if outcome.status != 1:
        problems.append(f"status {outcome.status}")
    if "Traceback" in outcome.errors:
        problems.append(f"a traceback: {outcome.message}")
    return problems


def _said(outcome: main_job.Outcome, run: Path) -> str:
    text = outcome.message.replace(str(run), "FOLDER")
    return f"status {outcome.status}, {outcome.seconds:.0f} s: {text[:300]}"


@contextmanager
def _mounted(disk: Path, size: str) -> Iterator[None]:
    disk.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)
