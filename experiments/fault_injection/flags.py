"""Commands that cannot be right, run as a user runs them: what they print and what they leave."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fault_injection.table import Table
from fault_injection.wrong_commands import CLI, COMMANDS, RUN, SHORT

EXPERIMENTS = Path(__file__).parent.parent
LIMIT = 120  # seconds, of a command
SHOWN = 150  # characters of a message


class Ended(NamedTuple):
    """How a command ended: exit status (None after `LIMIT`), text on stderr, seconds."""

    status: int | None
    errors: str
    seconds: float


def measure(folder: Path, times: int | None) -> Table:
    """Run each of `COMMANDS` once.

    Args:
      folder: where they are run.
      times: not used: they end in the same way each time.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _make_files(folder)
    failures = []
    if (first := _call(RUN, folder)).status != 0:
        failures.append(f"the run for the others failed: {first.errors[-300:]}")
    before = _sums(folder)
    rows = []
    for command in COMMANDS:
        ended = _call(command, folder)
        after = _sums(folder)
        left = sorted(name for name in before | after if before.get(name) != after.get(name))
        lines = _message(ended.errors)
        shown = " ".join(lines).replace(f"{folder}/", "")
        shown = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}…"
        program, _, arguments = command.replace(f"{SHORT} ", "").partition(" ")
        row = (f"{program} `{arguments}`", str(ended.status), str(len(lines)))
        rows.append((*row, f"{ended.seconds:.1f}", shown, ", ".join(left) or "–"))
        if left or ended.status not in (1, 2) or not 0 < len(lines) <= 2 or _traced(ended.errors):
            failures.append(f"{command}: status {ended.status}, {len(lines)} lines, {left}")
        before = after
    note = (
        "Each command is run once as a process of its own. It should end with status 1 or 2 and a "
        "line or two on stderr (absl adds one on --help; argparse's usage is not counted), without "
        "a traceback, and leave no file, changed or new."
    )
    columns = ("command", "status", "lines", "seconds", "message", "left on disk")
    return Table("Commands that cannot be right", columns, tuple(rows), note, tuple(failures))


def _call(command: str, folder: Path) -> Ended:
    name, *arguments = shlex.split(command)
    program = ["-m", CLI] if name == CLI else [str(EXPERIMENTS / f"{name}.py")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(EXPERIMENTS.parent), os.environ.get("PYTHONPATH", "")]),
        "XDG_CACHE_HOME": str(folder.parent / "cache"),
    }
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    start = time.perf_counter()
    try:
        ended = subprocess.run([sys.executable, *program, *arguments], **options, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return Ended(None, "", time.perf_counter() - start)
    return Ended(ended.returncode, ended.stderr, time.perf_counter() - start)


def _traced(errors: str) -> bool:
    return "Traceback" in errors


def _message(errors: str) -> list[str]:
    """Return the lines on stderr without those of argparse's usage before the message."""
    lines = [line for line in errors.splitlines() if line.strip()]
    if lines and lines[0].startswith("usage: "):
        return [line for line in lines if ": error: " in line]
    return lines


def _sums(folder: Path) -> dict[str, str]:
    """Return the sums of all files but locks, by path; folders have none."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def _make_files(folder: Path) -> None:
    from mine_jax.lenet.datasets import FILES

    (folder / "file").write_text("")
    (folder / "idx").mkdir()
    for name in FILES:
        (folder / "idx" / name).write_bytes(b"<html>404</html>")
    values = np.random.default_rng(0).normal(size=(300, 2))
    options = {"delimiter": ",", "header": "a,b", "comments": ""}
    np.savetxt(folder / "good.csv", values, **options)
    values[7, 0] = np.inf
    np.savetxt(folder / "infinite.csv", values, **options)
    with open(folder / "large.npy", "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**13, 2)}
        np.lib.format.write_array_header_1_0(file, header)
    np.savez_compressed(folder / "damaged.npz", a=values[:, 0], b=values[:, 1])
    content = bytearray((folder / "damaged.npz").read_bytes())
    content[100:140] = bytes(40)
    (folder / "damaged.npz").write_bytes(content)
    np.savez(folder / "objects.npz", a=np.array([{}, {}]), b=np.arange(2.0))
