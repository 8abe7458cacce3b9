"""One owner of a folder at a time, across processes and across kill -9."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

_POLL_S = 0.05


class LockHeld(Exception):
    """Somebody else owns the folder. `pid` is who took it, None if that cannot be read."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(f"{path} is locked by process {pid if pid is not None else '(unknown)'}")
        self.path, self.pid = path, pid


class FolderLock:
    """An flock on `path`, held until every process that has the descriptor closed it or ended.

    The lock belongs to the open file, which a child can inherit: hand it `fd`, and the folder stays locked
    while either of us runs. So a new owner never meets the child of a killed one still writing. For the same
    reason `release` closes and never unlocks: LOCK_UN would take the lock from the child too.

    Args:
        path: the lock file, made if missing; it holds the owner's pid as text and is never removed (removing
            it would let two owners lock two files of one name).
        patience_s: how long to wait for an owner that has ended but whose child has not yet; an owner that is
            alive is not waited for.

    Raises:
        LockHeld: it has an owner.
        OSError: the file cannot be made or locked.
    """

    def __init__(self, path: Path, *, patience_s: float = 5.0) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + patience_s
        try:
            while not _try_lock(self.fd):
                pid = _read_pid(self.fd)
                if _is_alive(pid) or time.monotonic() > deadline:
                    raise LockHeld(path, pid)
                time.sleep(_POLL_S)
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(self.fd)
            raise

    def release(self) -> None:
        """Gives our share up; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _read_pid(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _is_alive(pid: int | None) -> bool:
    if pid is None:
        return False  # the owner is between its lock and its pid, or the file is damaged: worth waiting for
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
