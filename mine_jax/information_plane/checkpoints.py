"""Checkpoints: a pytree of arrays, copies of the files beside it, and checksums of all of it."""

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mine_jax.information_plane import durable_files

SUMS = "SHA256SUMS"  # as of the program sha256sum, which can check it


class Checkpoints:
    """A folder of checkpoints, each named by its epoch.

    Args:
      path: the folder.
      keep: number of checkpoints to keep, the last ones; None for all.
    """

    def __init__(self, path: Path, keep: int | None) -> None:
        self.path = path
        self._keep = keep

    def save(self, epoch: int, state: Any, copies: Mapping[str, bytes] | None) -> None:
        """Write a checkpoint; it is on disk when this returns.

        Args:
          epoch: its name.
          state: pytree of arrays. Of several processes each writes its part.
          copies: names and contents of files to keep with it; None where another process writes
            them.

        Raises:
          OSError: if it cannot be written.
        """
        self._check_space(state, copies or {})
        try:
            with self._manager() as manager:
                args = _orbax().args.StandardSave(_without_empty(state))
                manager.save(epoch, args=args, force=True)  # also an earlier one than the last
                manager.wait_until_finished()
        except (ValueError, RuntimeError) as error:
            if "os_error_code" not in str(error):  # else tensorstore's way to say OSError
                raise
            raise OSError(_first_line(error)) from error
        if copies is not None:
            folder = self.path / str(epoch)
            for name, content in copies.items():
                durable_files.replace(folder / name, content)
            sums = [f"{_sha256(folder / name)}  {name}\n" for name in _files(folder)]
            durable_files.replace(folder / SUMS, "".join(sums).encode())

    def epochs(self) -> list[int]:
        """Return the epochs of the checkpoints that were finished, ascending."""
        # Not by orbax, whose manager waits for all processes. Unfinished ones have other names.
        paths = self.path.iterdir() if self.path.is_dir() else ()
        return sorted(int(path.name) for path in paths if path.is_dir() and path.name.isdigit())

    def damage(self, epoch: int) -> str | None:
        """Tell what is wrong with a checkpoint, in a few words; None if nothing is.

        One without checksums and copies is whole: orbax finished it, and then the process ended, or
        it is of an earlier version.

        Args:
          epoch: its name.
        """
        folder = self.path / str(epoch)
        if not folder.is_dir():
            return "it is not there"
        if not (folder / SUMS).exists():
            copied = any(path.is_file() and path.suffix == ".jsonl" for path in folder.iterdir())
            return f"it has no {SUMS}" if copied else None
        lines = (folder / SUMS).read_bytes().decode(errors="replace").splitlines()
        if not lines:
            return f"{SUMS} is empty"
        for line in lines:
            checksum, _, name = line.partition("  ")
            if name not in _files(folder):
                return f"{name or SUMS} is missing"
            if _sha256(folder / name) != checksum:
                return f"the checksum of {name} differs"
        return None

    def copy(self, epoch: int, name: str) -> bytes | None:
        """Return a file that was kept with a checkpoint; None if there is none.

        Args:
          epoch: name of the checkpoint.
          name: of the file.
        """
        path = self.path / str(epoch) / name
        return path.read_bytes() if path.exists() else None

    def remove(self, epoch: int) -> None:
        """Remove a checkpoint.

        Args:
          epoch: its name.
        """
        shutil.rmtree(self.path / str(epoch))

    def restore(self, epoch: int, like: Any) -> Any:
        """Read a checkpoint into a pytree with the shapes and types of `like`.

        Args:
          epoch: its name.
          like: pytree of arrays or of their shapes and types.

        Raises:
          ValueError: if it is missing, damaged, or of other shapes.
        """
        if damage := self.damage(epoch):
            raise ValueError(damage)
        args = _orbax().args.StandardRestore(_without_empty(like))
        try:
            with self._manager() as manager:
                state = manager.restore(epoch, args=args)
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(_first_line(error)) from error
        return jax.tree.map(
            lambda x, y: y if getattr(x, "size", 1) else np.zeros(x.shape, x.dtype), like, state
        )

    def _check_space(self, state: Any, copies: Mapping[str, bytes]) -> None:
        """Raise OSError if a checkpoint may not fit, as orbax ends a full disk less clearly."""
        sizes = [getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(state)]
        needed = sum(sizes) + sum(map(len, copies.values()))
        self.path.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.path).free
        if free < needed:
            text = f"a checkpoint of {needed / 2**20:.1f} MiB, and {free / 2**20:.1f} MiB are free"
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {text}")

    def _manager(self) -> Any:
        options = _orbax().CheckpointManagerOptions(
            max_to_keep=self._keep, create=True, cleanup_tmp_directories=True
        )
        return _orbax().CheckpointManager(self.path, options=options)


def _files(folder: Path) -> list[str]:
    """Return the names of all files in a checkpoint but its checksums, sorted."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _without_empty(tree: Any) -> Any:
    """Put a number in the place of each empty array, which orbax refuses to save."""
    return jax.tree.map(lambda leaf: leaf if getattr(leaf, "size", 1) else np.zeros(1), tree)


def _orbax() -> Any:
    # Takes a second or two to import: only runs with checkpoints should wait for it.
    import orbax.checkpoint

    return orbax.checkpoint
