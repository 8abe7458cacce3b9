"""A connection that drops, delays and truncates: TCP on loopback, between a server and its store."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress
from typing import Literal

Cut = Literal["drop", "delay", "truncate"]


class Proxy:
    """Passes bytes on until it is told to do otherwise; every connection has two threads.

    Args:
        upstream: port of the store.
        delay_s: how long a delayed connection is silent: longer than the server waits.
    """

    def __init__(self, upstream: int, delay_s: float) -> None:
        self._upstream, self._delay_s = upstream, delay_s
        self._rng = random.Random(upstream)
        self._cut: Cut | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def start(self, what: Cut) -> None:
        """From now on, whatever is sent either way meets this."""
        self._cut = what

    def heal(self) -> None:
        self._cut = None

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                store = socket.create_connection(("127.0.0.1", self._upstream))
                for pair in ((client, store), (store, client)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                what = self._cut
                if what == "delay":
                    time.sleep(self._delay_s)
                elif what is not None:
                    if what == "truncate":
                        sink.sendall(data[: self._rng.randrange(len(data))])
                    return
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
