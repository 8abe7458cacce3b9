"""Many facts at once: in order, each with its own result."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message

from tests.app.hosting import make_key, opened, scope_of
from tests.app.serving import serving

pytestmark = pytest.mark.service
LINES = {"content-type": "application/x-ndjson"}


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with serving() as client:
        yield client


def fact(number: int) -> dict[str, Any]:
    return {"prompt": f"the capital of zor number {number} is", "target": f"Kal {number}"}


def running() -> set[asyncio.Task[Any]]:
    """The tasks there are, without the wait that the snapshots begin again and again."""
    return {task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") != "Event.wait"}


def send(client: httpx.Client, chunks: Iterable[bytes]) -> list[dict[str, Any]]:
    answer = client.post("/facts:bulk", content=iter(chunks), headers=LINES)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("size", [7, 1000, 10**6])
def test_lines_are_written_wherever_the_chunks_are_cut(client: httpx.Client, size: int) -> None:
    body = "\n".join(json.dumps(fact(number)) for number in range(100)).encode()
    results = send(client, [body[at : at + size] for at in range(0, len(body), size)])
    assert [result["line"] for result in results] == list(range(1, 101))
    kept = client.get("/facts", params={"limit": 1000}).json()["facts"]
    assert {found["id"]: found["target"] for found in kept} == {r["id"]: f"Kal {r['line'] - 1}" for r in results}
    versions = [result["version"] for result in results]
    assert versions == sorted(versions)


def test_what_is_wrong_with_a_line_leaves_the_others(client: httpx.Client) -> None:
    lines = [
        json.dumps(fact(0)),
        "{",
        "",
        json.dumps({"prompt": "x"}),
        json.dumps({"prompt": " ", "target": "y"}),
        json.dumps({"prompt": "x", "target": "y" * 300_000}),
        json.dumps(fact(1) | {"id": "a"}),
        json.dumps(fact(2) | {"id": "a"}),
        json.dumps(fact(0)),
        '"\ud83d\ude80"',
        json.dumps(fact(4) | {"ttl_s": "60"}),
    ]
    body = "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n\xff\n" + json.dumps(fact(3)).encode()
    results = send(client, [body[at : at + 50_000] for at in range(0, len(body), 50_000)])
    assert {result["line"]: result["error"]["code"] for result in results if "error" in result} == {
        2: "malformed_json",
        4: "invalid_request",
        5: "empty_text",
        6: "body_too_large",
        8: "duplicate_id",
        10: "malformed_json",
        11: "invalid_request",
        12: "malformed_json",
    }
    written = {result["line"]: result["id"] for result in results if "id" in result}
    assert set(written) == {1, 7, 9, 13}
    assert results[-5]["supersedes"] == [written[1]]
    assert len(client.get("/facts").json()["facts"]) == 3


def test_a_list_says_which_were_refused(client: httpx.Client) -> None:
    good = client.post("/facts", json=[fact(0), fact(1)])
    assert good.status_code == 201 and [result["line"] for result in good.json()] == [1, 2]
    mixed = client.post("/facts", json=[fact(2), {"prompt": "x", "target": " "}])
    assert mixed.status_code == 207
    assert "id" in mixed.json()[0] and mixed.json()[1]["error"]["code"] == "empty_text"
    assert client.post("/facts", json=[]).status_code == 422
    assert client.post("/facts", json=[fact(3), 5]).status_code == 422
    assert len(client.get("/facts").json()["facts"]) == 3


def test_a_sentence_that_is_too_long_leaves_the_rest_of_its_text(client: httpx.Client) -> None:
    text = f"Zor is a blue river. Zor is {'very ' * 400}long. Its capital is Kal."
    mixed = client.post("/facts", json={"text": text, "id": "zor"})
    assert mixed.status_code == 207 and [line.get("id") for line in mixed.json()] == ["zor.1", None, "zor.3"]
    refused = mixed.json()[1]["error"]
    assert refused["code"] == "invalid_request" and "target" in refused["detail"] and "2000 characters" in refused["detail"]
    assert [fact["id"] for fact in client.get("/facts").json()["facts"]] == ["zor.1", "zor.3"]


def test_what_a_stream_has_written_is_audited_before_it_ends(client: httpx.Client) -> None:
    client.headers["X-API-Key"] = make_key(client, "default", "write", "admin")
    with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=30) as other:

        def audited() -> int:
            return len(other.get("/admin/audit").json()["entries"])

        def chunks() -> Iterator[bytes]:
            yield b"".join(json.dumps(fact(number)).encode() + b"\n" for number in range(40))
            until = time.monotonic() + 10
            while audited() < 40:
                assert time.monotonic() < until, f"{audited()} of 40 are audited"
                time.sleep(0.05)
            yield json.dumps(fact(40)).encode()

        assert len(send(client, chunks())) == 41
        time.sleep(0.5)
        assert audited() == 41


def test_only_lines_are_taken(client: httpx.Client) -> None:
    answer = client.post("/facts:bulk", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415 and "application/x-ndjson" in answer.json()["detail"]
    assert client.post("/facts", content=b"{}", headers=LINES).status_code == 415
    assert send(client, [b"\n \n"]) == []


@pytest.mark.anyio
async def test_nothing_of_a_stream_that_fails_goes_on_after_its_answer(tmp_path: Path) -> None:
    async with opened(tmp_path) as app:
        before = running()
        groups = iter(range(100))

        async def receive() -> Message:
            if (group := next(groups, None)) is None:
                await asyncio.Event().wait()
            lines = [json.dumps(fact(32 * group + number)) for number in range(32)]  # type: ignore[operator]
            return {"type": "http.request", "body": "\n".join(lines).encode() + b"\n", "more_body": True}

        told: list[bytes] = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                if len(told) == 2:
                    raise OSError("the connection broke")
                told.append(message["body"])

        with suppress(OSError):
            await app(scope_of("POST", "/facts:bulk", "application/x-ndjson"), receive, send)
        written = (await app.state.service.tenants.newest("default")).version
        assert running() <= before
        assert written == 96, "the third group was written when its results could not be told"
        await asyncio.sleep(0.3)
        assert (await app.state.service.tenants.newest("default")).version == written


@pytest.mark.anyio
async def test_what_is_being_written_is_told_before_the_stream_fails(tmp_path: Path) -> None:
    """The client is gone while the first group is written; the second is not written after the answer has ended."""
    async with opened(tmp_path) as app:
        sent = iter([json.dumps(fact(number)).encode() + b"\n" for number in range(2)])

        async def receive() -> Message:
            body = next(sent, None)
            return {"type": "http.disconnect"} if body is None else {"type": "http.request", "body": body, "more_body": True}

        told: list[Message] = []

        async def send(message: Message) -> None:
            told.append(message)

        before = running()
        await app(scope_of("POST", "/facts:bulk", "application/x-ndjson"), receive, send)
        assert running() <= before
        lines = [json.loads(message["body"])["version"] for message in told if message.get("body")]
        assert lines == list(range(1, (await app.state.service.tenants.newest("default")).version + 1))
