"""A whole server that stands up again as often as it is ended, in this process or as one of its own, and every byte it stores."""

from __future__ import annotations

import re
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from app.chaos.processes import Larimar
from app.server.settings import Settings
from memory.store.embedded.valkey import running_url
from memory.store.key_names import EARLIER_EXPIRIES, EXPIRIES
from memory.store.redis_store import HINDSIGHT_S
from tests.app.hosting import hosted

STORED = re.compile(rb"larimar:\{[^}]*\}:(log|pages|parts|data-keys|answers|spent)")  # leases and turns lapse by themselves


class Standing:
    """
    Args:
        own_process: the real program on real weights; otherwise the real app on a toy model in this process.
        settings: by their names in `Settings`.
    """

    def __init__(self, folder: Path, *, own_process: bool, **settings: Any) -> None:
        self.folder, self.own_process, self.settings = folder, own_process, settings
        self.client: httpx.Client
        self._process: Larimar | None = None
        self._hosted: AbstractContextManager[httpx.Client] | None = None

    def start(self, **settings: Any) -> None:
        self.settings |= settings
        if self.own_process:
            named = {name.upper(): str(value) for name, value in self.settings.items()}
            self._process = Larimar(self.folder, Settings().weights_dir, **named)
            self._process.start()
            self.client = httpx.Client(base_url=self._process.url, timeout=60)
        else:
            self._hosted = hosted(self.folder, **self.settings)
            self.client = self._hosted.__enter__()

    def end(self, number: int = signal.SIGTERM) -> None:
        """In this process there is nothing to kill: every end is in order."""
        if self._process is not None:
            self.client.close()
            self._process.end(number)
            self._process = None
        if self._hosted is not None:
            self._hosted.__exit__(None, None, None)
            self._hosted = None

    def stored(self) -> dict[bytes, bytes]:
        """Every key of every tenant in the store, as Redis dumps it, the times of expiry, and every file of data keys."""
        with Redis.from_url(running_url(self.folder)) as store:
            names = [name for name in store.scan_iter(count=1000) if STORED.fullmatch(name)]
            found = {name: store.dump(name) or b"" for name in names}
            marks = store.zrange(EXPIRIES, 0, -1, withscores=True)  # those for hindsight lapse by themselves
            found[EXPIRIES.encode()] = b"\0".join(mark for mark, at in marks if at % HINDSIGHT_S)
        return found | {str(path).encode(): path.read_bytes() for path in (self.folder / "keys").glob("*")}

    def due(self, now: float) -> bool:
        """Whether a time of expiry that is over still stands in the store."""
        with Redis.from_url(running_url(self.folder)) as store:
            return any(store.zcount(key, 0, now) for key in (EXPIRIES, EARLIER_EXPIRIES))
