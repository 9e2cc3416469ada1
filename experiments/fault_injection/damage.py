"""Files of a run folder are damaged before the run is resumed."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from . import main_job
from .table import Table

SEED = 0


def measure(folder: Path, times: int | None) -> Table:
    """Damage each kind of file in each way, resume, and compare with a run without faults.

    Args:
      folder: for the runs.
      times: number of files of the last checkpoint that are damaged in each way; None for 2.
    """
    draw = random.Random(SEED)
    cache, expected = main_job.shared(folder)
    main_job.whole(expected, main_job.SHORT, cache)
    last, before = "checkpoints/2", "checkpoints/1"
    names = sorted(
        path.relative_to(expected).as_posix()
        for path in (expected / last).rglob("*")
        if path.is_file() and path.stat().st_size
    )
    rows, failures = [], []

    def attempt(fault: str, damage: Callable[[Path], None], word: str) -> None:
        run = folder / "damaged"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(expected, run)
        damage(run)
        outcome = main_job.run(run, *main_job.SHORT, "--resume", cache=cache)
        warnings = [line for line in outcome.errors.splitlines() if word in line]
        problems = main_job.differences(run, expected)
        if outcome.status:
            problems.insert(0, f"status {outcome.status}: {outcome.message}")
        if not warnings and not outcome.status:
            problems.insert(0, f"not noticed: nothing on standard error has {word!r}")
        said = [line.replace(str(run), "FOLDER") for line in warnings]
        rows.append((fault, "1", "; ".join(said), "; ".join(problems) or "nothing"))
        failures.extend(f"{fault}: {problem}" for problem in problems)
        print(rows[-1], flush=True)

    ways = {"a flipped bit in": _flip(draw), "half of": _cut, "without": _remove}
    for way, damage in ways.items():
        for name in ("config.json", *main_job.ROWS):
            attempt(f"{way} {name}", lambda run, d=damage, n=name: d(run / n), name)
        for name in draw.sample(names, times or 2):
            attempt(f"{way} {name}", lambda run, d=damage, n=name: d(run / n), "checkpoint 2")
    attempt("no last checkpoint", lambda run: shutil.rmtree(run / last), "epoch 2")
    attempt(
        "a flipped bit in all checkpoints",
        lambda run: [_flip(draw)(run / place / "SHA256SUMS") for place in (last, before)],
        "checkpoint 1",
    )
    attempt("half a line at the end of records.jsonl", _half_line, "")
    return Table(
        "Damaged run folders",
        ("fault", "times", "what came back, before the run went on", "lost"),
        tuple(rows),
        "A finished main job is damaged and resumed. Nothing is lost where rows, findings and "
        "figures are equal bit for bit in the end; what was damaged is computed again.",
        tuple(failures),
    )


def _flip(draw: random.Random) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(7)
        path.write_bytes(content)

    return flip


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _remove(path: Path) -> None:
    path.unlink()


def _half_line(run: Path) -> None:
    with open(run / "records.jsonl", "a") as file:
        file.write('{"seed": 0, "epoch": 3, "lay')
