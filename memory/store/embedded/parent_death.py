"""Run as a script: ties its life to its parent's, then becomes the command it was given.

    python -I -S parent_death.py signal|pipe PARENT_PID COMMAND ARG...

It exists because nothing in the parent can do this safely. `preexec_fn` runs Python between fork and exec,
where a process with other threads (torch starts many) may find any lock held for ever; this script is exec'd
first and has one thread. It costs one interpreter start without site packages (10 ms) and leaves no process
behind: exec keeps the pid and, for a binary without set-user-id, the parent death signal (prctl(2)).

`signal` (Linux): the kernel sends SIGKILL when the parent *thread* that started us ends; `process.py` keeps
that thread. `pipe` (elsewhere): a forked watcher reads standard input, whose writing end only the parent
holds; end of file means that the parent is gone. Weaker: whoever kills the watcher cuts the tether.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_S = 1.0  # how soon the watcher ends after its command has


def _by_signal(parent: int) -> None:
    import ctypes  # here: only this way needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the signal was armed, so none will come
        sys.exit("the parent has ended already")


def _by_pipe() -> None:
    command = os.getpid()
    if os.fork() != 0:
        return
    for fd in map(int, os.listdir("/dev/fd")):
        if fd != 0:  # above all not the lock of the data folder: it must end with the command
            with contextlib.suppress(OSError):  # the one that listed the folder
                os.close(fd)
    while os.getppid() == command:
        readable, _, _ = select.select([0], [], [], _POLL_S)
        if readable and os.getppid() == command:  # still our parent, hence still the same process
            os.kill(command, signal.SIGKILL)
            break
    os._exit(0)


def main(argv: list[str]) -> None:
    mode, parent, *command = argv
    if mode == "signal":
        _by_signal(int(parent))
    else:
        _by_pipe()
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
