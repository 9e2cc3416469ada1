"""The run folder: configuration, rows of records, checkpoints.

Rows are flushed to disk as soon as they are known, then comes the checkpoint. A resumed run starts
from the last checkpoint: rows of later epochs belong to an unfinished round and are dropped, so
that the files read as if the run had never been interrupted.
"""

import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mine_jax.information_plane import folder_lock

CONFIG, FINDINGS, CHECKPOINTS = "config.json", "findings.json", "checkpoints"
TRAINING, RECORDS, RESUMES = "training.jsonl", "records.jsonl", "resumes.jsonl"

Row = Mapping[str, Any]


class RunFolderError(RuntimeError):
    """The folder cannot take this run; the message names the remedy."""


class RunFolder:
    """A folder that holds one run.

    Of several processes in a run, which must see the same folder, one writes rows; orbax lets each
    write its part of a checkpoint.

    Args:
      path: where it is, or will be.
      writes: whether this process writes rows into it.
      keep: number of checkpoints to keep, the last ones; None for all.
    """

    def __init__(self, path: str | os.PathLike, writes: bool = True, keep: int | None = 2) -> None:
        self.path = Path(path).absolute()
        self._writes = writes
        self._keep = keep
        self._lock: folder_lock.FolderLock | None = None

    def check(self, *, resume: bool) -> bool:
        """Tell whether the folder holds a run.

        Args:
          resume: whether a run that is there may be resumed.

        Raises:
          RunFolderError: if it holds a run and `resume` is off, or is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; choose another folder")
        names = [name for name in (CONFIG, TRAINING, RECORDS, CHECKPOINTS) if self._has(name)]
        if names and not resume:
            raise RunFolderError(
                f"{self.path} already holds a run ({', '.join(names)}): resume it with --resume, "
                "or choose another folder"
            )
        return bool(names)

    def open(self, description: Row, *, resume: bool, may_differ: Iterable[str] = ()) -> bool:
        """Claim the folder for a run.

        A run keeps its first config.json. Each resume adds a line to resumes.jsonl: versions,
        devices, and the settings that differ.

        Args:
          description: content of config.json. Its entries "settings" (flags), "resolved" (the whole
            configuration with the library's defaults, and hashes of the samples) and "versions" (of
            packages) determine the numbers of a run: a resumed run must have the same ones.
          resume: resume the run that is there, if there is one.
          may_differ: names of settings that a resumed run may change; "versions" for all versions.

        Returns:
          Whether a run is resumed; False where this process does not write.

        Raises:
          RunFolderError: as `check`, or if the folder holds a different run, is in use by another
            process, or cannot be written.
        """
        if not self._writes:
            return False  # the process that writes checks, and may have begun
        resumed = self.check(resume=resume)
        changed = self._check_same(description, set(may_differ)) if resumed else {}
        self.create()
        try:
            if resumed:
                row = {name: description.get(name) for name in ("versions", "devices")}
                self.append(RESUMES, [row | {"settings": changed}])
            else:
                self.write(CONFIG, description)
        except OSError as error:
            raise RunFolderError(f"cannot write into {self.path}: {error}") from error
        return resumed

    def holds_run(self) -> bool:
        """Tell whether there is a run, or a part of one."""
        return any(self._has(name) for name in (CONFIG, TRAINING, RECORDS, CHECKPOINTS))

    def create(self) -> None:
        """Make the folder, and keep other processes from writing into it.

        Raises:
          RunFolderError: if it cannot be written, is a file, or is in use by another process.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = folder_lock.lock(self.path)
        except BlockingIOError as error:
            raise RunFolderError(
                f"another process is writing into {self.path}: wait until it ends, or choose "
                "another folder"
            ) from error
        except OSError as error:
            raise RunFolderError(f"cannot write into {self.path}: {error}") from error

    def replace_rows(self, name: str, rows: Sequence[Row]) -> None:
        """Write a JSON-lines file atomically."""
        self._replace(name, _lines(rows))

    def write(self, name: str, content: Row) -> None:
        """Write a JSON file atomically."""
        self._replace(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def claim(self, resolved: Row) -> None:
        """Check that a run that is there has the same resolved configuration, or begin one.

        Raises:
          RunFolderError: if it holds another run, or cannot be written.
        """
        if self._writes:
            description = {"resolved": resolved}
            if self._has(CONFIG):
                self.create()
                self._check_same(description, set())
            else:
                self.open({"settings": {}} | description, resume=False)

    def append(self, name: str, rows: Sequence[Row]) -> None:
        """Add rows to a JSON-lines file; they are on disk when this returns."""
        if not self._writes:
            return
        with open(self.path / name, "a") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())

    def read(self, name: str) -> list[dict[str, Any]]:
        """Read the rows of a JSON-lines file, without a last line that was cut off.

        Raises:
          RunFolderError: naming a damaged line.
        """
        if not self._has(name):
            return []
        text = (self.path / name).read_text()
        rows = []
        for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise RunFolderError(
                    f"{self.path / name} is damaged in line {number} ({error.msg}); remove that "
                    "line, or choose another folder"
                ) from error
        return rows

    def resume_rows(
        self, name: str, key: Callable[[dict[str, Any]], Hashable]
    ) -> dict[Hashable, dict[str, Any]]:
        """Read a JSON-lines file by key, and remove a last line that was cut off from it.

        Of several rows with the same key the last one counts.
        """
        rows = self.read(name)
        self._replace(name, _lines(rows))
        return {key(row): row for row in rows}

    def keep_until(self, name: str, epoch: int) -> list[dict[str, Any]]:
        """Drop the rows of later epochs from a JSON-lines file; return the others."""
        rows = [row for row in self.read(name) if row["epoch"] <= epoch]
        self._replace(name, _lines(rows))
        return rows

    def description(self) -> dict[str, Any]:
        """Return the content of config.json; empty if there is none.

        Raises:
          RunFolderError: if it is damaged.
        """
        if not self._has(CONFIG):
            return {}
        try:
            return json.loads((self.path / CONFIG).read_text())
        except ValueError as error:
            raise RunFolderError(f"{self.path / CONFIG} is damaged ({error})") from error

    def save(self, epoch: int, state: Any) -> None:
        """Write a checkpoint of a pytree of arrays; it is complete when this returns."""
        with self._checkpoints() as manager:
            args = _orbax().args.StandardSave(_without_empty(state))
            manager.save(epoch, args=args, force=True)  # also where it is earlier than the last one
            manager.wait_until_finished()

    def last_epoch(self) -> int | None:
        """Return the epoch of the last complete checkpoint; None if there is none."""
        return max(self.epochs(), default=None)

    def epochs(self) -> list[int]:
        """Return the epochs of all complete checkpoints, ascending."""
        if not self._has(CHECKPOINTS):
            return []
        with self._checkpoints() as manager:
            return sorted(manager.all_steps())

    def restore(self, epoch: int, like: Any) -> Any:
        """Read a checkpoint into a pytree with the shapes and types of `like`.

        Raises:
          RunFolderError: if it is missing or damaged.
        """
        args = _orbax().args.StandardRestore(_without_empty(like))
        try:
            with self._checkpoints() as manager:
                state = manager.restore(epoch, args=args)
        except (ValueError, OSError, KeyError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            raise RunFolderError(
                f"checkpoint {epoch} in {self.path} is missing, damaged, or of other shapes "
                f"({reason}); start again in another folder"
            ) from error
        return jax.tree.map(
            lambda x, y: y if getattr(x, "size", 1) else np.zeros(x.shape, x.dtype), like, state
        )

    def _has(self, name: str) -> bool:
        return (self.path / name).exists()

    def _replace(self, name: str, text: str) -> None:
        if not self._writes:
            return
        partial = self.path / f".{name}.partial"
        partial.write_text(text)
        os.replace(partial, self.path / name)

    def _checkpoints(self) -> Any:
        options = _orbax().CheckpointManagerOptions(max_to_keep=self._keep, create=True)
        return _orbax().CheckpointManager(self.path / CHECKPOINTS, options=options)

    def _check_same(self, description: Row, may_differ: set[str]) -> Row:
        """Return the settings that differ from those of the run, and may; others are an error."""
        stored, wanted = self.description(), json.loads(json.dumps(description))
        parts = [part for part in ("settings", "resolved", "versions") if part in wanted]
        if missing := [part for part in parts if part not in stored]:
            raise RunFolderError(
                f"{self.path} has no {CONFIG}, or that of an older version without "
                f"{', '.join(missing)}, and cannot be resumed; choose another folder"
            )
        changed, texts = {}, []
        for part in parts:
            for path, old, new in _differences(stored[part], wanted[part]):
                place = path if part == "settings" else (part, *path)
                if place[0] not in may_differ:
                    texts.append(f"{'.'.join(place)} was {old!r} and is {new!r} now")
                elif part == "settings":
                    changed[path[0]] = wanted[part].get(path[0])
        if texts:
            raise RunFolderError(
                f"{self.path} holds another run: {'; '.join(texts)}. Resume with the settings and "
                "versions of that run, or choose another folder"
            )
        return changed


def _differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple]:
    """Yield (path, old value, new value) where two nested mappings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            yield from _differences(old.get(key), new.get(key), (*path, key))
    elif old != new:
        yield path, old, new


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _without_empty(tree: Any) -> Any:
    """Put a number in the place of each empty array, which orbax refuses to save."""
    return jax.tree.map(lambda leaf: leaf if getattr(leaf, "size", 1) else np.zeros(1), tree)


def _orbax() -> Any:
    # Takes a second or two to import: only runs with checkpoints should wait for it.
    import orbax.checkpoint

    return orbax.checkpoint
