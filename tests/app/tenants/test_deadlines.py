"""A stream's deadline, and what else ends it, is told as an event: to a client that reads slowly too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message

from tests.app.hosting import opened, scope_of

pytestmark = [pytest.mark.service, pytest.mark.anyio]
ASKED = {
    "/generate": {"prompt": "zor", "max_new_tokens": 40, "stream": True},
    "/v1/completions": {"model": "toy", "prompt": "zor", "max_tokens": 40, "stream": True},
    "/v1/chat/completions": {"model": "toy", "messages": [{"role": "user", "content": "zor"}], "max_tokens": 40, "stream": True},
}


async def streamed(app: FastAPI, path: str, more: dict[str, Any], pause_s: float = 0.0) -> str:
    """The whole answer, of which the client takes the second part `pause_s` late."""
    body = json.dumps(ASKED[path] | more).encode()
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])
    said: list[bytes] = []

    async def receive() -> Message:
        return next(asked, None) or await asyncio.Event().wait()  # type: ignore[return-value]  # the client stays

    async def send(message: Message) -> None:
        said.append(message.get("body", b""))
        if len(said) == 3:
            await asyncio.sleep(pause_s)

    await asyncio.wait_for(app(scope_of("POST", path), receive, send), 20)
    return b"".join(said).decode()


@pytest.mark.parametrize("path", ASKED)
async def test_a_deadline_that_passes_while_a_step_is_sent_is_told(tmp_path: Path, path: str) -> None:
    async with opened(tmp_path) as app:
        whole = await streamed(app, path, {"timeout_s": 20})
        assert "timeout" not in whole and whole.count("data:") > 10
        late = await streamed(app, path, {"timeout_s": 0.5}, pause_s=0.8)
        last = json.loads(late.rpartition("data: ")[2])
        assert last.get("code", last.get("error", {}).get("code")) == "timeout", late
        assert "0.5 s" in last.get("detail", last.get("error", {}).get("message"))
        assert "[DONE]" not in late and "event: done" not in late
        assert late.count("data:") < whole.count("data:")


@pytest.mark.parametrize("path", ASKED)
async def test_what_fails_in_a_stream_is_told(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as app:

        def failing(*_: Any) -> None:
            raise RuntimeError("words that somebody wrote")

        monkeypatch.setattr(app.state.service.model, "sequence", failing)
        last = json.loads((await streamed(app, path, {})).rpartition("data: ")[2])
        assert last.get("code", last.get("error", {}).get("code")) == "internal"
        assert "wrote" not in str(last)
