from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from memory.store.embedded.folder_lock import FolderLock, LockHeld

ABOVE_ANY_PID = 2**22 + 1


def test_one_owner(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "lock")
    with pytest.raises(LockHeld) as caught:
        FolderLock(tmp_path / "lock")
    assert caught.value.pid == os.getpid()
    lock.release()
    lock.release()
    FolderLock(tmp_path / "lock").release()


def test_what_a_dead_owner_left_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"{ABOVE_ANY_PID}\n")
    lock = FolderLock(tmp_path / "lock")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_holds_until_the_child_that_inherited_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FolderLock(path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fd])
    assert child.stdin is not None
    lock.release()
    path.write_text(f"{ABOVE_ANY_PID}\n")  # as if the owner had been killed
    with pytest.raises(LockHeld) as caught:
        FolderLock(path, patience_s=0)
    assert caught.value.pid == ABOVE_ANY_PID
    ending = threading.Timer(0.1, child.stdin.close)
    ending.start()
    FolderLock(path, patience_s=60).release()
    assert child.wait() is not None
    ending.join()


@pytest.mark.parametrize("text", ["", "no number", "-1", "9" * 40])
def test_damaged_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    FolderLock(tmp_path / "lock").release()
