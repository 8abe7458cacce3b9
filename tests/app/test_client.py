"""The typed client against a real server, and what it does when there is none or a busy one."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from app.client import AsyncClient, Client, LarimarError, Unfinished, checked, facts, forget, forget_all, generate, query, teach, teach_text
from tests.app.serving import serving

PROMPT = "the capital of zor is"
TEXT = "Zor is a blue river. Its capital is Kal."


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as client:
        yield str(client.base_url)


@pytest.mark.service
def test_teach_ask_stream_forget(url: str) -> None:
    with Client(url) as larimar:
        written = larimar.teach(PROMPT, "Kal", metadata={"source": "test"})
        assert larimar.fact(written.id).metadata == {"source": "test"}
        assert larimar.query(PROMPT).readout == "Kal"
        whole = larimar.generate(PROMPT, max_new_tokens=9)
        assert whole.memory.used and whole.memory.facts[0].id == written.id
        events = list(larimar.stream(PROMPT, max_new_tokens=9))
        assert "".join(data["text"] for name, data in events if name == "token") == whole.text
        assert [found.id for found in larimar.facts()] == [written.id]
        assert larimar.forget(written.id).residual < 1e-8
        with pytest.raises(LarimarError, match="fact_not_found") as caught:
            larimar.fact(written.id)
        assert caught.value.status == 404 and caught.value.request_id
        with pytest.raises(LarimarError, match="limit is 512"):
            list(larimar.stream(PROMPT, max_new_tokens=9999))
        with pytest.raises(LarimarError, match="timeout"):
            list(larimar.stream(PROMPT, max_new_tokens=400, timeout_s=0.01))


@pytest.mark.service
@pytest.mark.anyio
async def test_the_same_asynchronously(url: str) -> None:
    async with AsyncClient(url) as larimar:
        written = await larimar.teach(PROMPT, "Kal")
        whole = await larimar.generate(PROMPT, max_new_tokens=9)
        streamed = [data["text"] async for name, data in larimar.stream(PROMPT, max_new_tokens=9) if name == "token"]
        assert "".join(streamed) == whole.text
        assert [found.id async for found in larimar.facts()] == [written.id]
        await larimar.forget(written.id)
        with pytest.raises(LarimarError, match="fact_not_found"):
            await larimar.fact(written.id)


@pytest.mark.service
@pytest.mark.anyio
async def test_a_text_is_taught_sentence_by_sentence(url: str) -> None:
    with Client(url) as larimar:
        lines = larimar.teach_text(TEXT, id="zor", metadata={"source": "test"})
        assert [line.id for line in lines] == ["zor.1", "zor.2"] and larimar.fact("zor.2").metadata == {"text": "zor", "source": "test"}
        taken = larimar.teach_text("Zor is red.", id="zor")[0]
        assert taken.id is None and taken.error is not None and taken.error.code == "duplicate_id"
        with pytest.raises(LarimarError, match="text is empty"):
            larimar.teach_text(" ")
    async with AsyncClient(url) as larimar:
        lines = await larimar.teach_text(TEXT)
        assert [line.supersedes for line in lines] == [["zor.1"], ["zor.2"]]
        receipts = await larimar.forget_all({"text": (await larimar.fact(lines[0].id or "")).metadata["text"]})
        assert [receipt.id for receipt in receipts] == [line.id for line in lines]


@pytest.mark.service
def test_all_that_have_some_metadata_are_forgotten(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.http.routes.facts.AT_ONCE", 2)
    with Client(url) as larimar:
        for number in range(6):
            larimar.teach(f"the river of {number} is", "red", id=f"r{number}", metadata={"draft": number < 5, "person": "a&b=c"})
        receipts = larimar.forget_all({"draft": True, "person": "a&b=c"})
        assert [receipt.id for receipt in receipts] == [f"r{number}" for number in range(5)], "as many requests as it takes"
        assert [found.id for found in larimar.facts()] == ["r5"] and larimar.forget("r5").id == "r5"
        with pytest.raises(LarimarError, match="metadata"):
            larimar.forget_all({})
        larimar.teach("the king is", "Kal", id="king", metadata={"a": "b=c"})
        with pytest.raises(ValueError, match="'a=b' holds '='"):
            larimar.forget_all({"a=b": "c"})
        assert larimar.forget("king").id == "king", "which the server would have read it as"


@pytest.mark.service
@pytest.mark.anyio
async def test_what_is_forgotten_before_an_error_has_its_receipts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.http.routes.facts.AT_ONCE", 2)
    pages = iter([None, LarimarError(503, "store_unavailable", "it is away", "r1", 2.0), None, httpx.ReadError("lost")])

    def page(_: httpx.Request) -> None:
        if (error := next(pages)) is not None:
            raise error

    async def page_again(sent: httpx.Request) -> None:
        page(sent)

    with Client(url, retries=0) as larimar:
        larimar.teach_text(f"{TEXT} It is red now.", id="zor")
        larimar.http.event_hooks = {"request": [page]}
        with pytest.raises(Unfinished, match="store_unavailable: 2 facts are forgotten, then: it is away") as caught:
            larimar.forget_all({"text": "zor"})
        told = caught.value
        assert [receipt.id for receipt in told.receipts] == ["zor.1", "zor.2"]
        assert (told.status, told.request_id, told.retry_after_s) == (503, "r1", 2.0)
    async with AsyncClient(url) as again:
        await again.teach_text(f"{TEXT} It is red now.", id="zor-again")
        again.http.event_hooks = {"request": [page_again]}
        with pytest.raises(Unfinished, match="connection_lost: 2 facts are forgotten, then: lost") as caught:
            await again.forget_all({"text": "zor-again"})
        assert [receipt.id for receipt in caught.value.receipts] == ["zor-again.1", "zor-again.2"]
        again.http.event_hooks = {}
        assert len(await again.forget_all({"text": "zor-again"})) == 1


def flaky(client: Client, *answers: int | str | Exception) -> list[httpx.Request]:
    """Let a client meet these answers in turn (a status, or the code of a 503); the requests it makes."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        given = answers[len(seen) - 1]
        if isinstance(given, Exception):
            raise given
        status, code = (503, given) if isinstance(given, str) else (given, "busy")
        body = {"facts": [], "next_cursor": None} if status == 200 else {"code": code, "detail": "d"}
        return httpx.Response(status, json=body, headers={"retry-after": "0"})

    client.http._transport = httpx.MockTransport(answer)
    return seen


def test_what_may_be_made_again_is_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    lost, away = httpx.ReadError("lost"), httpx.ConnectError("away")
    with Client() as client:
        seen = flaky(client, 429, 503, lost, 200)
        assert client.send(facts()).facts == [] and len(seen) == 4
        seen = flaky(client, lost, 409)
        with pytest.raises(LarimarError, match="busy"):
            client.send(teach("a", "b"))
        keys = {request.headers["idempotency-key"] for request in seen}
        assert len(seen) == 2 and len(keys) == 1, "the same key makes it the same request"
        seen = flaky(client, lost)
        with pytest.raises(httpx.ReadError):  # it may have been forgotten already: 404 would be a lie
            client.send(forget("x"))
        assert len(seen) == 1
        seen = flaky(client, away, away, away, away)
        with pytest.raises(httpx.ConnectError):
            client.send(forget("x"))
        assert len(seen) == 4


ONCE = {"forget": forget("x"), "forget_all": forget_all({"a": "b"}), "teach_text": teach_text("Zor is red.", id="zor")}
ANY = {"facts": facts(), "query": query("a"), "generate": generate("a"), "teach": teach("a", "b")}


@pytest.mark.parametrize("name", [*ONCE, *ANY])
@pytest.mark.parametrize("answer", [502, 504, "commit_unknown", httpx.ReadError("lost")])
def test_a_write_that_may_have_been_made_is_not_made_twice(name: str, answer: int | str | Exception) -> None:
    with Client(retries=1) as client:
        seen = flaky(client, answer, 409)
        with pytest.raises((LarimarError, httpx.ReadError)):
            client.send((ONCE | ANY)[name])
        assert len(seen) == (1 if name in ONCE else 2)


@pytest.mark.parametrize("name", [*ONCE, *ANY])
@pytest.mark.parametrize("answer", [429, "store_unavailable", httpx.ConnectError("away")])
def test_what_was_not_done_is_asked_again(name: str, answer: int | str | Exception) -> None:
    with Client(retries=1) as client:
        seen = flaky(client, answer, 409)
        with pytest.raises(LarimarError, match="busy"):
            client.send((ONCE | ANY)[name])
        assert len(seen) == 2


def test_a_deadline_of_ones_own_is_not_met_several_times_over() -> None:
    with Client() as client:
        seen = flaky(client, 504)
        with pytest.raises(LarimarError, match="busy"):
            client.generate("a", timeout_s=2)
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"code": "busy", "detail": "d"}', "busy: d"),
        ('{"error": {"code": "unsupported_parameter", "message": "no chat template"}}', "unsupported_parameter: no chat template"),
        ('{"error": "of a proxy"}', "http_error: Bad Request"),
        ('["of a proxy"]', "http_error: Bad Request"),
        ("<html>", "http_error: Bad Request"),
    ],
)
def test_what_was_refused_is_told_in_whatever_form_it_came(body: str, says: str) -> None:
    with pytest.raises(LarimarError, match=says):
        checked(httpx.Response(400, text=body))
