"""The table of one kind of fault, which the results page shows."""

import dataclasses
import json
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Table:
    """Results of one kind of fault.

    Attributes:
      title: heading.
      columns: names of the columns, such as "fault", "times", "came back", "lost".
      rows: texts, as many in a row as there are columns.
      note: a sentence or two on how the faults were made; may be empty.
      failures: sentences on what did not come back as it should; empty if all did.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    failures: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def table_from_file(path: Path) -> Table:
    """Read a table that `Table.save` wrote.

    Args:
      path: the file.
    """
    content = json.loads(path.read_text())
    return Table(
        title=content["title"],
        columns=tuple(content["columns"]),
        rows=tuple(tuple(row) for row in content["rows"]),
        note=content["note"],
        failures=tuple(content["failures"]),
    )
