"""A defect is answered as every request is: with its id, the security headers, a count and a log line that leads to it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import StreamingResponse
from starlette.types import Message
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from models.model import Model
from tests.app.hosting import hosted, opened, scope_of
from tests.models import toys

pytestmark = [pytest.mark.service, pytest.mark.anyio]
SAID = "words that somebody wrote"


async def _defect(*_: Any) -> Any:
    raise RuntimeError(SAID)


@pytest.mark.parametrize("path", ["/facts", "/v1/completions"])
def test_a_defect_is_answered_counted_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    with hosted(tmp_path) as client:
        monkeypatch.setattr(client.app.state.service.tenants, "fresh", _defect)
        with capture_logs(processors=[merge_contextvars]) as logs:
            if path == "/facts":
                answer = client.get(path, headers={"X-Request-ID": "mine"})
            else:
                answer = client.post(path, json={"model": "toy", "prompt": "a"}, headers={"X-Request-ID": "mine"})
        told = answer.json()
        assert answer.status_code == 500 and told.get("code", told.get("error", {}).get("code")) == "internal"
        assert answer.headers["X-Request-ID"] == "mine"
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and "Content-Security-Policy" in answer.headers
        assert 'larimar_errors_total{code="internal"} 1.0' in client.get("/metrics").text
        (defect,) = [entry for entry in logs if entry["event"] == "failed"]
        assert (defect["request_id"], defect["error"], defect["log_level"]) == ("mine", "RuntimeError", "error")
        assert "_defect" in defect["traceback"] and SAID not in str(logs)
        (line,) = [entry for entry in logs if entry["event"] == "request"]
        assert (line["status"], line["code"], line["request_id"]) == (500, "internal", "mine")


async def test_a_defect_behind_the_beginning_of_an_answer_leaves_it_unfinished(tmp_path: Path) -> None:
    async with opened(tmp_path) as app:

        async def lines() -> AsyncIterator[str]:
            yield "{}\n"
            raise RuntimeError(SAID)

        app.add_api_route("/broken", lambda: StreamingResponse(lines()))
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return await asyncio.Event().wait()  # type: ignore[return-value]  # never: the client stays and says nothing

        with capture_logs(processors=[merge_contextvars]) as logs:
            await app(scope_of("GET", "/broken"), receive, send)
        assert [message.get("more_body") for message in sent] == [None, True]
        assert [entry["error"] for entry in logs if entry["event"] == "failed"]
        assert all(entry["request_id"] for entry in logs) and SAID not in str(logs)


def _strict(_: Any) -> Model:
    """A model whose chat template refuses as Gemma's and Mistral's do."""
    model = toys.model()
    model.decoder.tokenizer = copy.deepcopy(model.decoder.tokenizer)
    model.decoder.tokenizer.chat_template = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    return model


@pytest.mark.parametrize("stream", [False, True])
def test_messages_that_the_chat_template_refuses_are_the_clients_error(tmp_path: Path, stream: bool) -> None:
    with hosted(tmp_path, load=_strict) as client:
        body = {"model": "toy", "max_tokens": 2, "stream": stream, "messages": [{"role": "user", "content": "a"}] * 2}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "chat_refused"
        assert "roles must alternate" in answer.json()["error"]["message"]
        assert client.post("/v1/chat/completions", json=body | {"messages": body["messages"][:1], "stream": False}).status_code == 200  # type: ignore[index]
