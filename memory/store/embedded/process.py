"""A child process that ends when this process does, whichever way it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal

from memory.store.embedded import parent_death

Tether = Literal["signal", "pipe"]
TETHER: Tether = "signal" if sys.platform == "linux" else "pipe"


class Child:
    """Starts `command` in its own session (a Ctrl-C for us is not one for it) and keeps hold of it.

    Linux sends the parent death signal when the *thread* that forked ends, not the process. A child started
    on a worker thread of an executor would be killed when that executor shrinks. So each child has a thread
    of its own, which forks it and then waits for it: it lives exactly as long as the shorter lived of child
    and process.

    Args:
        command: program and arguments; the program is an absolute path.
        cwd: its working directory.
        output: where its standard output and error go.
        pass_fds: file descriptors it inherits.
        tether: how it learns of our death; only tests choose.

    Raises:
        OSError: it could not be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        output: IO[bytes],
        pass_fds: Sequence[int] = (),
        tether: Tether = TETHER,
    ) -> None:
        self._command, self._cwd, self._output = list(command), cwd, output
        self._pass_fds, self._tether = tuple(pass_fds), tether
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._started, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._keep, name=f"keeper of {Path(command[0]).name}", daemon=True).start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        assert self._process is not None
        return self._process.returncode

    def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM, and SIGKILL after `timeout_s`; returns when it is reaped. May be called again."""
        assert self._process is not None
        if self.alive:
            self._process.terminate()
        if not self._ended.wait(timeout_s):
            self._process.kill()
            self._ended.wait()

    def _keep(self) -> None:
        reading, writing = os.pipe()  # not inheritable; the child has a copy of the reading end as its stdin
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", parent_death.__file__, self._tether, str(os.getpid()), *self._command],
                cwd=self._cwd,
                stdin=reading,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=self._pass_fds,
                start_new_session=True,
                umask=0o077,
            )
        except OSError as error:
            self._failure = error
            self._ended.set()
        finally:
            os.close(reading)
            self._started.set()
        if self._process is not None:
            self._process.wait()
        self._ended.set()
        os.close(writing)
