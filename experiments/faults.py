"""Faults made on purpose: what came back, and what was lost.

  python experiments/faults.py --parts=kills,damage
  python experiments/faults.py --publish

Each part writes its table into --out_dir; the page is made of all tables that are there, so that
parts can be run one at a time. A part that finds something lost or wrong ends the program with
exit status 1, after its table is written.
"""

import importlib
import re
import sys
import time
from pathlib import Path

import common
from absl import flags
from fault_injection import Table, table_from_file

# In the order of the page. Each is a module of `fault_injection` with a function
# `measure(folder: Path, times: int | None) -> Table`; `times` None for the part's own number.
PARTS = (
    *("kills", "chains", "interrupts", "damage", "storage", "processes"),
    *("flags", "data_files", "inputs", "numerics", "programs"),
)
# Those that install packages from the network, or take hours: only when --parts names them.
ON_REQUEST = ("mutants", "versions", "licenses")
PATH = re.compile(r"(?<=[ ='`])/[\w.-]+/[^\s'`,;:)]*")  # of the machine, in messages

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.DEFINE_list("parts", list(PARTS), "Parts to measure; empty to write the page alone.")
flags.DEFINE_integer("times", None, "Repetitions of each random fault; default: the part's own.")
flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with MNIST's IDX files: with it, chains and interrupts take the whole main job, too.",
)
flags.DEFINE_string("out_dir", "runs/faults", "Folder for tables and for runs with faults.")


def page(tables: list[Table]) -> str:
    """Return the body of the page, in Markdown.

    Args:
      tables: in the order of the page.
    """
    lines = [
        [table.title, str(len(table.rows)), _times(table), str(len(table.failures))]
        for table in tables
    ]
    parts = [common.markdown_table(["part", "kinds", "times", "not as it should be"], lines)]
    for table in tables:
        parts.append(f"## {table.title}")
        parts.extend([table.note] if table.note else [])
        lines = [[cell.replace("|", "\\|") for cell in row] for row in table.rows]
        parts.append(common.markdown_table(table.columns, lines).replace("---:", "---"))  # texts
        parts.extend(f"- **Not as it should be:** {sentence}" for sentence in table.failures)
    return PATH.sub("PATH", "\n\n".join(parts))


def _times(table: Table) -> str:
    """Return how often faults of a table were tried; a dash where its rows are no faults."""
    if "times" not in table.columns:
        return "–"
    cells = [row[table.columns.index("times")] for row in table.rows]
    return f"{sum(int(cell.replace(',', '')) for cell in cells):,}"


def experiment() -> None:
    """Measure the parts, print their tables, and write the page."""
    with common.user_errors():
        known = PARTS + ON_REQUEST
        if unknown := common.unknown_names("parts", FLAGS.parts, known):
            raise ValueError(unknown[0])
        if FLAGS.times is not None and FLAGS.times < 1:
            raise ValueError(f"--times must be at least 1, got {FLAGS.times}")
        out = Path(FLAGS.out_dir).absolute()
        out.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    for name in FLAGS.parts:
        started = time.perf_counter()
        folder = out / name
        folder.mkdir(exist_ok=True)
        module = importlib.import_module(f"fault_injection.{name}")
        table: Table = module.measure(folder, FLAGS.times)
        table.save(out / f"{name}.json")
        failures += table.failures
        print(page([table]), f"\n{time.perf_counter() - started:.0f} s\n", flush=True)
    saved = [out / f"{name}.json" for name in PARTS + ON_REQUEST]
    tables = [table_from_file(path) for path in saved if path.exists()]
    if FLAGS.publish:
        common.write_page("faults", "Faults made on purpose", page(tables))
    if failures:
        sys.exit(f"error: {len(failures)} faults did not end as they should; see the tables")


if __name__ == "__main__":
    common.run(experiment)
