"""The main job as a process of its own, and the comparison of what two of them wrote."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PROGRAM = Path(__file__).parents[1] / "info_plane.py"
# A main job of ten seconds: two layers, observed with noise, three probes.
SHORT = (
    *("--dataset=mnist_5k", "--probe_size=500", "--layers=relu3,softmax", "--nodeterministic"),
    *("--epochs=2", "--probe_every=1", "--max_steps=50"),
)
MAIN = ("--epochs=40", "--probe_every=4")
ROWS = ("training.jsonl", "records.jsonl")
TIMES = ("seconds", "crc32")  # entries of rows that no two runs share
# Written from the rows alone, so that they are equal bit for bit.
DERIVED = (
    "findings.json",
    "information_plane.png",
    "mi_over_epochs.png",
    "information_plane.html",
)


class Outcome(NamedTuple):
    """How a process ended.

    Attributes:
      status: exit status; negative for a signal.
      seconds: wall-clock seconds from its start to its end.
      output: standard output.
      errors: standard error.
    """

    status: int
    seconds: float
    output: str
    errors: str

    @property
    def message(self) -> str:
        """Last line of standard error."""
        return next(iter(self.errors.strip().splitlines()[::-1]), "")


def start(folder: Path, *arguments: str, cache: Path, logs: Path | None = None) -> subprocess.Popen:
    """Start the main job in the background.

    Args:
      folder: its --out_dir.
      arguments: other flags.
      cache: folder for compiled programs.
      logs: files of standard output and error, without ending; None for those beside the folder.
    """
    command = [sys.executable, str(PROGRAM), f"--out_dir={folder}", "--noprogress"]
    command += [f"--compilation_cache={cache}", *arguments]
    paths = _logs(logs or folder)
    with open(paths[0], "w") as output, open(paths[1], "w") as errors:
        return subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True)


def finish(process: subprocess.Popen, logs: Path, since: float, timeout: float = 900) -> Outcome:
    """Wait for a process of `start`.

    Args:
      process: it.
      logs: files of standard output and error, without ending.
      since: its start, by `time.perf_counter`.
      timeout: seconds until it is killed, which counts as hanging.
    """
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    seconds = time.perf_counter() - since
    return Outcome(process.returncode, seconds, *(path.read_text() for path in _logs(logs)))


def run(folder: Path, *arguments: str, cache: Path, logs: Path | None = None) -> Outcome:
    """Run the main job to its end, see `start`."""
    since = time.perf_counter()
    return finish(start(folder, *arguments, cache=cache, logs=logs), logs or folder, since)


def resumed(folder: Path, expected: Path, cache: Path, arguments: Sequence[str]) -> list[str]:
    """Resume a run and return what is wrong, if anything is.

    Args:
      folder: its --out_dir.
      expected: of a run without faults.
      cache: folder for compiled programs.
      arguments: other flags.
    """
    outcome = run(folder, *arguments, "--resume", cache=cache)
    if outcome.status:
        return [f"status {outcome.status}: {outcome.message}"]
    return differences(folder, expected)[:1]


def shared(folder: Path) -> tuple[Path, Path]:
    """Return the folders of compiled programs and of the run without faults, for all parts.

    Args:
      folder: that of a part.
    """
    return folder.parent / "compiled", folder.parent / "whole"


def whole(folder: Path, arguments: Sequence[str], cache: Path) -> Outcome:
    """Return the outcome of a run without faults, which is run where it is not there yet.

    Args:
      folder: its --out_dir.
      arguments: other flags.
      cache: folder for compiled programs.
    """
    note = folder.with_name(f"{folder.name}.json")
    if not note.exists():
        run(folder.with_name(f"{folder.name}_compiles"), *arguments, cache=cache)
        outcome = run(folder, *arguments, cache=cache)
        if outcome.status:
            raise RuntimeError(f"the run without faults failed: {outcome.errors}")
        note.write_text(json.dumps(outcome))
    return Outcome(*json.loads(note.read_text()))


def differences(folder: Path, expected: Path) -> list[str]:
    """Return sentences on what a run wrote that another one did not; none if all is equal.

    Rows are compared bit for bit apart from their times, files made of them as they are.

    Args:
      folder: of the run.
      expected: of the other one.
    """
    found = []
    for name in ROWS:
        ours, theirs = (_rows(each / name) for each in (folder, expected))
        if ours != theirs:
            same = sum(a == b for a, b in zip(ours, theirs, strict=False))
            found.append(f"{name}: {same} of {len(theirs)} rows are equal, and {len(ours)} there")
    for name in DERIVED:
        paths = [each / name for each in (folder, expected)]
        if not paths[0].exists() or paths[0].read_bytes() != paths[1].read_bytes():
            found.append(f"{name} differs")
    return found


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder.

    Args:
      folder: the folder.
    """
    return sum(
        os.path.getsize(os.path.join(place, name))
        for place, _, names in os.walk(folder)
        for name in names
    )


def _logs(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}.{name}") for name in ("out", "err")]


def _rows(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]
