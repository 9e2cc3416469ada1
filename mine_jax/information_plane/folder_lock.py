"""A run folder has one process that writes into it."""

import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none, and folders are not locked there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


class FolderLock:
    """Keeps other processes out until it is garbage or its process ends, however that ends.

    Args:
      path: the file to lock.

    Raises:
      BlockingIOError: if another process holds it.
      OSError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        file = open(path, "w")  # noqa: SIM115 (open as long as the lock is held)
        weakref.finalize(self, file.close)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks


_held: weakref.WeakValueDictionary[Path, FolderLock] = weakref.WeakValueDictionary()


def lock(folder: Path) -> FolderLock | None:
    """Lock a folder; all that this process has locked is shared within it.

    Args:
      folder: a folder that exists.

    Returns:
      What must be kept as long as the folder is written to; None where there are no locks.

    Raises:
      BlockingIOError: if another process holds it.
      OSError: if the lock's file cannot be written.
    """
    if fcntl is None:
        return None
    path = folder.resolve() / LOCK
    held = _held.get(path)
    if held is None:
        held = _held[path] = FolderLock(path)
    return held
