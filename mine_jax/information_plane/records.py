"""The run folder: configuration, rows of records, checkpoints.

Rows are flushed to disk as soon as they are known, the checkpoint follows. On resume the last
checkpoint counts: rows that are later than it come from an incomplete round and are dropped, so
that the files read as if nothing had happened.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

CONFIG, TRAINING, RECORDS, FINDINGS = (
    "config.json",
    "training.jsonl",
    "records.jsonl",
    "findings.json",
)
CHECKPOINTS = "checkpoints"

Row = Mapping[str, Any]


class RunFolderError(RuntimeError):
    """The folder cannot take this run; the message says what to do."""


class RunFolder:
    """A folder that holds one run.

    Of several processes in one run, which must see the same folder, one writes into it; of
    checkpoints orbax lets each write its part.
    """

    def __init__(self, path: str | os.PathLike, writes: bool = True, keep: int | None = 2) -> None:
        """Name the folder at `path`, and say whether this process `writes` rows into it.

        `keep` is how many checkpoints stay, the last ones; None for all.
        """
        self.path = Path(path).absolute()
        self._writes = writes
        self._keep = keep

    def check(self, *, resume: bool) -> bool:
        """Whether the folder holds a run; an error if it does and that is not to be resumed.

        Args:
          resume: whether to go on with the run that is there, if there is one.

        Raises:
          RunFolderError: if the folder holds a run and `resume` is off, or it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; choose another --out_dir")
        there = [name for name in (CONFIG, TRAINING, RECORDS, CHECKPOINTS) if self._has(name)]
        if there and not resume:
            raise RunFolderError(
                f"{self.path} already holds a run ({', '.join(there)}): go on with it by --resume, "
                "or choose another --out_dir"
            )
        return bool(there)

    def open(self, config: Row, *, resume: bool, may_differ: Iterable[str] = ()) -> bool:
        """Claim the folder for a run of this configuration.

        Args:
          config: what `config.json` will hold. Its entry `settings` is what makes a run this run
            and no other.
          resume: go on with the run that is there, if there is one.
          may_differ: names of settings that a resumed run may change.

        Returns:
          Whether the folder held a run, which goes on; False where this process does not write.

        Raises:
          RunFolderError: as `check`, or if the folder holds a run of other settings, or cannot be
            written to.
        """
        if not self._writes:
            return False  # the process that writes looks, and may have begun
        there = self.check(resume=resume)
        if there:
            self._check_same(config["settings"], set(may_differ))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write(CONFIG, config)
        except OSError as error:
            raise RunFolderError(f"cannot write into {self.path}: {error}") from error
        return there

    def write(self, name: str, content: Row) -> None:
        """Write a JSON file as a whole, or not at all."""
        if not self._writes:
            return
        partial = self.path / f".{name}.partial"
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        os.replace(partial, self.path / name)

    def append(self, name: str, rows: Sequence[Row]) -> None:
        """Add rows to a JSON-lines file; they are on disk when this returns."""
        if not self._writes:
            return
        with open(self.path / name, "a") as file:
            file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())

    def read(self, name: str) -> list[dict[str, Any]]:
        """All rows of a JSON-lines file; a last line that was cut off is left out."""
        if not self._has(name):
            return []
        lines = (self.path / name).read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def keep_until(self, name: str, epoch: int) -> list[dict[str, Any]]:
        """Drop the rows of later epochs from a JSON-lines file; return those that stay."""
        rows = [row for row in self.read(name) if row["epoch"] <= epoch]
        self.rewrite(name, rows)
        return rows

    def rewrite(self, name: str, rows: Iterable[Row]) -> None:
        """Replace the rows of a JSON-lines file, as a whole or not at all."""
        if not self._writes:
            return
        partial = self.path / f".{name}.partial"
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(partial, self.path / name)

    def description(self) -> dict[str, Any]:
        """What `config.json` holds; nothing if there is none."""
        return json.loads((self.path / CONFIG).read_text()) if self._has(CONFIG) else {}

    def save(self, epoch: int, state: Any) -> None:
        """Write a checkpoint of a pytree of arrays; it is complete when this returns."""
        with self._checkpoints() as manager:
            args = _orbax().args.StandardSave(_without_empty(state))
            manager.save(epoch, args=args, force=True)  # earlier than the last one, too
            manager.wait_until_finished()

    def last_epoch(self) -> int | None:
        """The epoch of the last complete checkpoint; None if there is none."""
        if not self._has(CHECKPOINTS):
            return None
        with self._checkpoints() as manager:
            return manager.latest_step()

    def epochs(self) -> list[int]:
        """The epochs of all complete checkpoints that are there, ascending."""
        if not self._has(CHECKPOINTS):
            return []
        with self._checkpoints() as manager:
            return sorted(manager.all_steps())

    def restore(self, epoch: int, like: Any) -> Any:
        """Read a checkpoint into a pytree of the shapes and types of `like`.

        Raises:
          RunFolderError: if it is not there, or damaged.
        """
        with self._checkpoints() as manager:
            args = _orbax().args.StandardRestore(_without_empty(like))
            try:
                found = manager.restore(epoch, args=args)
            except (ValueError, OSError, KeyError) as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
                raise RunFolderError(
                    f"checkpoint {epoch} in {self.path} is missing, damaged, or of other shapes "
                    f"({reason}); begin anew with another --out_dir"
                ) from error
        return jax.tree.map(
            lambda leaf, wanted: leaf if _size(wanted) else np.zeros(wanted.shape, wanted.dtype),
            found,
            like,
        )

    def _has(self, name: str) -> bool:
        return (self.path / name).exists()

    def _checkpoints(self) -> Any:
        options = _orbax().CheckpointManagerOptions(max_to_keep=self._keep, create=True)
        return _orbax().CheckpointManager(self.path / CHECKPOINTS, options=options)

    def _check_same(self, settings: Row, may_differ: set[str]) -> None:
        if not self._has(CONFIG):
            raise RunFolderError(
                f"{self.path} holds records without {CONFIG}, so it cannot be resumed; "
                "choose another --out_dir"
            )
        # Through JSON, as what is there has come: tuples are lists.
        wanted = json.loads(json.dumps(settings))
        there = self.description().get("settings", {})
        changed = [
            f"{name} is {there.get(name)!r} there and {wanted.get(name)!r} now"
            for name in sorted(set(wanted) | set(there))
            if name not in may_differ and there.get(name) != wanted.get(name)
        ]
        if changed:
            raise RunFolderError(
                f"{self.path} holds another run: {'; '.join(changed)}. Resume with the settings of "
                "that run, or choose another --out_dir"
            )


def _size(leaf: Any) -> int:
    return math.prod(getattr(leaf, "shape", ()))


def _without_empty(tree: Any) -> Any:
    """The tree with a number in the place of each empty array, which orbax refuses to save."""
    return jax.tree.map(lambda leaf: leaf if _size(leaf) else np.zeros(1, np.float32), tree)


def _orbax() -> Any:
    # Takes a second or two to import: only runs that checkpoint should wait for it.
    import orbax.checkpoint

    return orbax.checkpoint
