"""How far one request walks through our code: files, functions and changes of thread, counted on a whole server in this process."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import httpx

from app.server.settings import Settings
from models.model import Model

ROOT = Path(__file__).parents[2]
FOLDERS = tuple(f"{ROOT / name}/" for name in ("app", "memory", "models"))
PARTS = ("<module>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")  # frames of their own, and no functions
AFTERWARDS_S = 0.1  # the server's work after the last byte: access log, audit
REQUESTS = ("POST /facts", "POST /generate", "DELETE /facts/{id}")
START_S = 60.0


@dataclass
class Walk:
    """Calls of our functions in the order in which they began, on all threads; a coroutine that goes on counts again.

    Attributes:
        steps: the thread and the function of each.
    """

    steps: list[tuple[int, CodeType]] = field(default_factory=list)

    @property
    def files(self) -> set[str]:
        """Paths, relative to the repository."""
        return {str(Path(code.co_filename).relative_to(ROOT)) for _, code in self.steps}

    def figures(self) -> dict[str, int]:
        functions = {code for _, code in self.steps}
        return {
            "files": len(self.files),
            "functions": len(functions),
            "calls": len(self.steps),
            "changes_of_file": sum(a.co_filename != b.co_filename for (_, a), (_, b) in itertools.pairwise(self.steps)),
            "changes_of_thread": sum(a != b for (a, _), (b, _) in itertools.pairwise(self.steps)),
        }


class Recorder:
    """Profiles every thread that starts within `installed`, and takes down calls within `walking`.

    Tasks that run before a walk begins are not the request's: expiry, snapshots, the audit log.
    """

    def __init__(self) -> None:
        self._walk: Walk | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the server's
        self._loop_thread = 0
        self._before = set[asyncio.Task[Any] | None]()

    def run(self, serving: Coroutine[Any, Any, None]) -> None:
        """Run the server on this thread."""

        async def watched() -> None:
            self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
            await serving

        asyncio.run(watched())

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The calling thread itself is not profiled: the client runs on it."""
        threading.setprofile(self._called)
        try:
            yield
        finally:
            threading.setprofile(None)

    @contextmanager
    def walking(self) -> Iterator[Walk]:
        walk = Walk()
        self._before = set(asyncio.all_tasks(self._loop))
        self._walk = walk
        try:
            yield walk
        finally:
            self._walk = None

    def _called(self, frame: FrameType, event: str, _argument: Any) -> None:
        walk, code, thread = self._walk, frame.f_code, threading.get_ident()
        if walk is None or event != "call" or code.co_name in PARTS or not code.co_filename.startswith(FOLDERS):
            return
        if thread != self._loop_thread or asyncio.current_task(self._loop) not in self._before:
            walk.steps.append((thread, code))


def request_walk(model: Model, *, tokens: int = 8, repeats: int = 5, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Teaches a fact, generates `tokens` tokens from its prompt and forgets it, over a real socket and an embedded store, without keys.

    What the server does beside the request only adds to a walk, and so does the order in which threads happen to run: each figure is
    the least of `repeats` walks.

    Returns:
        Figures of each of REQUESTS; `entered` lists the files of the walk through the fewest.

    Raises:
        httpx.HTTPStatusError: the server refused a request.
        RuntimeError: the server did not start.
    """
    recorder = Recorder()
    walks: dict[str, list[Walk]] = {name: [] for name in REQUESTS}
    with recorder.installed(), _served(model, recorder) as url, httpx.Client(base_url=url, timeout=60) as client:

        def walked(name: str, method: str, path: str, **body: Any) -> None:
            with recorder.walking() as walk:
                client.request(method, path, json=body or None).raise_for_status()
                time.sleep(AFTERWARDS_S)
            walks[name].append(walk)

        for number in range(repeats + 1):
            prompt = f"The captain of ship {number} is"
            walked(REQUESTS[0], "POST", "/facts", prompt=prompt, target=f"Ann {number}", id=f"ship-{number}")
            walked(REQUESTS[1], "POST", "/generate", prompt=prompt, max_new_tokens=tokens)
            walked(REQUESTS[2], "DELETE", f"/facts/ship-{number}")
            tick()
    return {name: _least(found[1:]) for name, found in walks.items()}  # the first of each warms up


def _least(walks: list[Walk]) -> dict[str, Any]:
    figures = [walk.figures() for walk in walks]
    least = {name: min(found[name] for found in figures) for name in figures[0]}
    fewest = min(walks, key=lambda walk: len(walk.files))
    return least | {"entered": sorted(fewest.files)}


@contextmanager
def _served(model: Model, recorder: Recorder) -> Iterator[str]:
    """The address of a server on a thread of its own, with a data folder of its own."""
    import uvicorn

    from app.cli.serve import bind, uvicorn_config
    from app.server.main import create_app

    with tempfile.TemporaryDirectory(prefix="larimar-bench-") as folder:
        settings = Settings(data_dir=Path(folder), durability="memory", store_url="", api_keys="", admin_port=None)
        app = create_app(settings, load=lambda _: model)
        server = uvicorn.Server(uvicorn_config(app, settings))
        with bind("127.0.0.1", 0) as sock:
            thread = threading.Thread(target=lambda: recorder.run(server.serve([sock])), name="server", daemon=True)
            thread.start()
            deadline = time.monotonic() + START_S
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start: {app.state.failure}")
                time.sleep(0.02)
            try:
                yield f"http://127.0.0.1:{sock.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join(START_S)
