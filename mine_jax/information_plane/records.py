"""The run folder: configuration, rows of records, checkpoints.

Rows are flushed to disk as soon as they are known, then comes the checkpoint, with a copy of them.
A resumed run starts from the last checkpoint that is whole: rows of later epochs belong to an
unfinished round and are dropped, so that the files read as if the run had never been interrupted.
Checksums tell of damage, and what the copies hold is restored from them.
"""

import json
import os
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mine_jax.information_plane import durable_files, folder_lock
from mine_jax.information_plane.checkpoints import Checkpoints

CONFIG, FINDINGS, CHECKPOINTS = "config.json", "findings.json", "checkpoints"
TRAINING, RECORDS, RESUMES = "training.jsonl", "records.jsonl", "resumes.jsonl"
CONFIG_COPY = ".config.json.copy"
COPIED = (TRAINING, RECORDS)  # into each checkpoint
NAMED = 6  # differences from another run that a message names

Row = Mapping[str, Any]


class RunFolderError(RuntimeError):
    """The folder cannot take this run, or what it has computed; the message names the remedy."""


class RunFolderWarning(UserWarning):
    """Something in the folder was damaged or not finished; the message says what was done."""


class RunFolder:
    """A folder that holds one run.

    Of several processes in a run, which must see the same folder, one writes rows; orbax lets each
    write its part of a checkpoint.

    Args:
      path: where it is, or will be.
      writes: whether this process writes rows into it.
      keep: number of checkpoints to keep, the last ones; None for all.

    Raises:
      TypeError: if `path` is not a path.
    """

    def __init__(self, path: str | os.PathLike, writes: bool = True, keep: int | None = 2) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"folder must be a path, got {path!r}")
        self.path = Path(path).absolute()
        self._writes = writes
        self._checkpoints = Checkpoints(self.path / CHECKPOINTS, keep)
        self._lock: folder_lock.FolderLock | None = None
        self._removed: set[int] = set()  # checkpoints that were damaged

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
                f"{self.path} already holds a run ({', '.join(names)}): resume it (--resume of the "
                "experiments), or choose another folder"
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

        Warns:
          RunFolderWarning: if something was damaged, and from where the run goes on.
        """
        if not self._writes:
            return False  # the process that writes checks, and may have begun
        resumed = self.check(resume=resume)
        self.create()
        if resumed:
            self._restore_config()
            changed = self._check_same(description, set(may_differ))
            self._restore()
            row = {name: description.get(name) for name in ("versions", "devices")}
            self.append(RESUMES, [row | {"settings": changed}])
        else:
            self.write(CONFIG, description)
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

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn errors of what is written into the folder into those with a remedy.

        Raises:
          RunFolderError: if it cannot be written.
        """
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"cannot write into {self.path}: {error}; what was written before is whole. Free "
                "space or fix permissions"
            ) from error

    def _has(self, name: str) -> bool:
        return (self.path / name).exists()

    def replace_rows(self, name: str, rows: Sequence[Row]) -> None:
        """Write a JSON-lines file atomically.

        Raises:
          RunFolderError: if it cannot be written.
        """
        self._replace(name, durable_files.text_of(rows))

    def write(self, name: str, content: Row) -> None:
        """Write a JSON file atomically.

        Raises:
          RunFolderError: if it cannot be written.
        """
        self._replace(name, durable_files.encode_json(content))
        if name == CONFIG:
            self._replace(CONFIG_COPY, durable_files.encode_json(content))

    def claim(self, resolved: Row) -> None:
        """Check that a run that is there has the same resolved configuration, or begin one.

        Raises:
          RunFolderError: if it holds another run, or cannot be written.

        Warns:
          RunFolderWarning: as `open`.
        """
        if not self._writes:
            return
        description = {"resolved": resolved}
        if not self.holds_run():
            self.open({"settings": {}} | description, resume=False)
            return
        self.create()
        self._restore_config()
        self._check_same(description, set())
        self._restore()

    def append(self, name: str, rows: Sequence[Row]) -> None:
        """Add rows to a JSON-lines file; they are on disk when this returns.

        Raises:
          RunFolderError: if they cannot be written, and then none of them is.
        """
        if self._writes:
            with self.writing():
                durable_files.append(self.path / name, durable_files.text_of(rows))

    def read(self, name: str) -> list[dict[str, Any]]:
        """Read the rows of a JSON-lines file, without a last line that was cut off.

        Raises:
          RunFolderError: naming a damaged line.
        """
        found = self._lines(name)
        for number, reason in found.damage.items():
            raise RunFolderError(
                f"{self.path / name} is damaged in line {number} ({reason}): resume the run, "
                "which restores it, remove that line, or choose another folder"
            )
        return found.rows

    def read_whole(self, name: str) -> list[dict[str, Any]]:
        """Read the rows of a JSON-lines file that are whole.

        Warns:
          RunFolderWarning: naming the damaged lines.
        """
        found = self._lines(name)
        if found.damage:
            numbers = ", ".join(map(str, found.damage))
            self._warn(f"{name} is damaged in line {numbers}: these rows are left out")
        if found.cut:
            self._warn(f"{name} ends in half a line, which is left out")
        return found.rows

    def resume_rows(
        self, name: str, key: Callable[[dict[str, Any]], Hashable]
    ) -> dict[Hashable, dict[str, Any]]:
        """Read a JSON-lines file by key, and remove what is damaged or was cut off from it.

        Of several rows with the same key the last one counts.

        Warns:
          RunFolderWarning: as `read_whole`.
        """
        rows = self.read_whole(name)
        self.replace_rows(name, rows)
        return {key(row): row for row in rows}

    def keep_until(self, name: str, epoch: int) -> list[dict[str, Any]]:
        """Drop the rows of later epochs from a JSON-lines file; return the others.

        Warns:
          RunFolderWarning: as `read_whole`, or if records are dropped: a checkpoint comes right
            after them, so that one is missing.
        """
        rows = self.read_whole(name)
        kept = [row for row in rows if row["epoch"] <= epoch]
        self.replace_rows(name, kept)
        later = {row["epoch"] for row in rows if row["epoch"] > epoch} - self._removed
        if later and name == RECORDS and self._writes:
            range_ = f"{min(later)}" if len(later) == 1 else f"{min(later)} to {max(later)}"
            self._warn(
                f"epoch {range_} has records and no checkpoint, which was removed or not finished: "
                "computed again"
            )
        return kept

    def description(self) -> dict[str, Any]:
        """Return the content of config.json; empty if there is none.

        Raises:
          RunFolderError: if it is damaged.
        """
        if not self._has(CONFIG):
            return {}
        try:
            return durable_files.decode_json((self.path / CONFIG).read_text())
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{self.path / CONFIG} is damaged ({error}); choose another folder"
            ) from error

    def save(self, epoch: int, state: Any) -> None:
        """Write a checkpoint of a pytree of arrays; it is complete when this returns.

        Raises:
          RunFolderError: if it cannot be written.
        """
        paths = [self.path / name for name in COPIED]
        with self.writing():
            copies = {path.name: path.read_bytes() for path in paths if path.exists()}
            self._checkpoints.save(epoch, state, copies if self._writes else None)

    def last_epoch(self) -> int | None:
        """Return the epoch of the last checkpoint; None if there is none."""
        return max(self.epochs(), default=None)

    def epochs(self) -> list[int]:
        """Return the epochs of all checkpoints, ascending."""
        return self._checkpoints.epochs()

    def restore(self, epoch: int, like: Any) -> Any:
        """Read a checkpoint into a pytree with the shapes and types of `like`.

        Raises:
          RunFolderError: if it is missing or damaged.
        """
        try:
            return self._checkpoints.restore(epoch, like)
        except ValueError as error:
            raise RunFolderError(
                f"checkpoint {epoch} in {self.path} is missing, damaged, or of other shapes "
                f"({error}); start again in another folder"
            ) from error

    def _restore(self) -> None:
        """Go back to the last whole checkpoint: remove later ones, and write its rows again."""
        for epoch in reversed(self.epochs()):
            damage = self._checkpoints.damage(epoch)
            if damage is None:
                self._restore_rows(epoch)
                return
            self._warn(f"checkpoint {epoch} is damaged ({damage}): removed, the one before is used")
            with self.writing():
                self._checkpoints.remove(epoch)
            self._removed.add(epoch)

    def _restore_config(self) -> None:
        """Write config.json again from its copy if it is damaged or missing."""
        try:
            if self.description():
                return
            reason = "missing"
        except RunFolderError as error:
            reason = str(error.__cause__)
        try:
            copy = (self.path / CONFIG_COPY).read_text()
            durable_files.decode_json(copy)
        except (OSError, ValueError):
            return
        self._warn(f"{CONFIG} is damaged ({reason}): restored from its copy")
        self._replace(CONFIG, copy)

    def _restore_rows(self, epoch: int) -> None:
        """Write rows that a checkpoint has a copy of again, where they are not whole."""
        for name in COPIED:
            copy, path = self._checkpoints.copy(epoch, name), self.path / name
            if copy is None or (path.exists() and path.read_bytes().startswith(copy)):
                continue
            found, kept = self._lines(name), durable_files.decode_rows(copy.decode())
            lines = ", ".join(map(str, found.damage))
            place = f"damaged in line {lines}" if lines else "missing, or rows of it were"
            self._warn(f"{name} was {place}: restored from checkpoint {epoch}")
            known = set(kept.texts)
            pairs = zip(found.rows, found.texts, strict=True)
            later = [row for row, text in pairs if text not in known]
            self.replace_rows(name, [*kept.rows, *later])

    def _lines(self, name: str) -> durable_files.Lines:
        path = self.path / name
        try:
            text = path.read_bytes().decode(errors="replace") if path.exists() else ""
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read: {error}") from error
        return durable_files.decode_rows(text)

    def _warn(self, text: str) -> None:
        warnings.warn(f"{self.path}: {text}", RunFolderWarning, stacklevel=4)

    def _replace(self, name: str, text: str) -> None:
        if self._writes:
            with self.writing():
                durable_files.replace(self.path / name, text.encode())

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
            more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
            raise RunFolderError(
                f"{self.path} holds another run: {'; '.join(texts[:NAMED])}{more}. Resume with the "
                "settings and versions of that run, or choose another folder"
            )
        return changed


def _differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple]:
    """Yield (path, old value, new value) where two nested mappings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            yield from _differences(old.get(key), new.get(key), (*path, key))
    elif old != new:
        yield path, old, new
