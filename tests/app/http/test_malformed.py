"""Text that no UTF-8 can hold is refused where it comes in, by the field's name; and what one fact raises is that fact's outcome alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from app.http.fact_schemas import FactImport, ImportIn
from app.http.routes.bulk import teach_lines
from app.http.schemas import FactIn
from app.http.transfer import imported
from app.tenants.group_commit import GroupCommit
from memory.store.embedded.valkey import EmbeddedValkey
from tests.app.holding import fact as drawn
from tests.app.holding import holding
from tests.app.hosting import hosted, make_key, opened

pytestmark = [pytest.mark.service, pytest.mark.anyio]
HALF = "\ud800"
JSON = {"Content-Type": "application/json"}
FACT = {"prompt": "the capital of zor is", "target": "Kal"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with hosted(tmp_path_factory.mktemp("malformed")) as client:
        yield client


def send(client: httpx.Client, method: str, path: str, body: Any) -> httpx.Response:
    """The body with its surrogates escaped, as httpx would not send them."""
    return client.request(method, path, content=json.dumps(body), headers=JSON)


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/facts", FACT | {"metadata": {"author": HALF}}, "metadata"),
        ("POST", "/facts", FACT | {"metadata": {HALF: "Ann"}}, "metadata"),
        ("POST", "/facts", FACT | {"prompt": HALF}, "prompt"),
        ("POST", "/facts", FACT | {"target": HALF}, "target"),
        ("POST", "/facts", FACT | {"id": HALF}, "id"),
        ("POST", "/facts", [FACT, FACT | {"metadata": {"author": HALF}}], "1.metadata"),
        ("POST", "/facts", {"text": "Zor is a river.", "metadata": {"author": HALF}}, "metadata"),
        ("PATCH", "/facts/zor", {"metadata": {"author": HALF}}, "metadata"),
        ("PATCH", "/facts/zor", {"target": HALF}, "target"),
        ("POST", "/tenants/default/import", {"facts": [FACT | {"id": "a", "metadata": {"author": HALF}}]}, "facts.0.metadata"),
        ("POST", "/tenants/default/import", {"fingerprint": HALF, "facts": [FACT | {"id": "a"}]}, "fingerprint"),
        ("POST", "/query", {"prompt": HALF}, "prompt"),
        ("POST", "/generate", {"prompt": "a", "stop": ["b", HALF]}, "stop"),
    ],
)
def test_half_a_surrogate_pair_is_refused_by_the_field_that_holds_it(
    client: TestClient, method: str, path: str, body: Any, field: str
) -> None:
    client.post("/facts", json=FACT | {"id": "zor", "prompt": "the river of zor is"})
    before = client.get("/facts").json()
    answer = send(client, method, path, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert "U+D800 is half of a surrogate pair" in answer.json()["detail"]
    assert client.get("/facts").json() == before


def test_administrations_bodies_are_held_to_the_same(tmp_path: Path) -> None:
    with hosted(tmp_path) as client:
        client.headers["authorization"] = f"Bearer {make_key(client, 'a', 'admin')}"
        answer = send(client, "POST", "/admin/keys", {"tenant": "a", "name": HALF})
    assert answer.status_code == 422 and [error["field"] for error in answer.json()["errors"]] == ["name"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("completions", {"prompt": HALF}, "prompt"),
        ("completions", {"prompt": ["a", HALF]}, "prompt"),
        ("completions", {"prompt": "a", "stop": HALF}, "stop"),
        ("chat/completions", {"messages": [{"role": "user", "content": HALF}]}, "messages.0.content"),
    ],
)
def test_openais_bodies_are_held_to_the_same(client: TestClient, path: str, body: dict[str, Any], field: str) -> None:
    answer = send(client, "POST", f"/v1/{path}", body | {"model": "toy"})
    assert answer.status_code == 400, answer.text
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("invalid_request", field)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"n" * 101: 1}, "the name 'nnnnn"),
        ({"": 1}, "a name is empty"),
        ({"author": "x" * 4001}, "the value of 'author' has 4001 characters"),
    ],
)
def test_metadata_has_bounds_that_its_refusal_names(client: TestClient, metadata: dict[str, Any], told: str) -> None:
    for answer in (
        client.post("/facts", json=FACT | {"metadata": metadata}),
        client.post("/tenants/default/import", json={"facts": [FACT | {"id": "a", "metadata": metadata}]}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert told in answer.json()["detail"]


def test_the_most_that_a_fact_may_say_is_written(tmp_path: Path) -> None:
    """Control characters are longest as JSON; no body carries them all under the usual limit."""
    metadata = {f"{number:03d}{chr(1) * 97}": "\x01" * 4000 for number in range(32)}
    with hosted(tmp_path, max_body_bytes=1 << 20) as client:
        answer = client.post("/facts", json={"prompt": "zor is" + "\x01" * 3994, "target": "Kal", "id": "a", "metadata": metadata})
        assert answer.status_code == 201, answer.text
        assert client.get("/facts/a").json()["metadata"] == metadata


async def test_what_one_fact_raises_is_its_line_alone(tmp_path: Path) -> None:
    """The schemas refuse such a fact; here one comes past them, as the next defect would."""
    async with opened(tmp_path) as app:
        facts = [FactIn(prompt=f"the capital of zor {number} is", target="Kal") for number in range(3)]
        lines = list(enumerate([facts[0], facts[1].model_copy(update={"metadata": {"author": HALF}}), facts[2]], 1))
        with capture_logs() as logs:
            results = await teach_lines(app.state.service, "default", lines)
        assert [result.error and result.error.code for result in results] == [None, "internal", None]
        assert ["size_bytes" in entry["traceback"] for entry in logs if entry["event"] == "failed"] == [True]
        assert len(await app.state.service.tenants.fresh("default")) == 2


async def test_an_encoding_that_fails_is_its_lines_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as app:
        good = FactIn(prompt="the capital of zor is", target="Kal")
        lines = list(enumerate([good, good.model_copy(update={"prompt": f"the river {HALF} is"})], 1))
        results = await teach_lines(app.state.service, "default", lines)
        assert [result.error and result.error.code for result in results] == [None, "internal"]


async def test_what_one_fact_of_an_import_raises_is_its_outcome_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as app:
        facts = [FactImport(id=f"f{number}", prompt=f"the capital of zor {number} is", target="Kal") for number in range(3)]
        facts[1] = facts[1].model_copy(update={"metadata": {"author": HALF}})
        outcomes = await imported(app.state.service, "default", ImportIn.model_construct(fingerprint="", facts=facts))
        assert [outcome.version for outcome in outcomes] == [1, None, 2]
        assert (outcomes[1].error or "").startswith("internal: ")


async def test_concurrent_writers_do_not_fail_with_the_one_that_is_malformed(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as valkey:
        async with holding(valkey.url, vault=tmp_path / "keys") as tenants:
            writes = GroupCommit(tenants)
            facts = [drawn(f"f{number}") for number in range(41)]
            facts[7].metadata["author"] = HALF  # type: ignore[index]
            outcomes = await asyncio.gather(*(writes.write("a", fact) for fact in facts), return_exceptions=True)
            refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)]
            assert refused == [7], refused
            assert isinstance(outcomes[7], UnicodeEncodeError)
            assert len(await tenants.fresh("a")) == 40
