"""Random requests by the OpenAPI schema: no answer that the schema does not name, and never a 5xx.

SCHEMA_CASES sets how many requests are made for each operation; the default keeps the run short.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import status_code_conformance

from tests.app.serving import serving

pytestmark = pytest.mark.service
CASES = int(os.environ.get("SCHEMA_CASES", "25"))
HEADERS = {"Authorization": "Bearer the-key-of-the-fuzzer"}
SEARCH = {"deadline": None, "derandomize": True, "database": None, "phases": [Phase.generate]}


@schemathesis.serializer("application/x-ndjson")
def lines(_: schemathesis.SerializationContext, value: object) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode(errors="surrogatepass")


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    with serving(api_keys="the-key-of-the-fuzzer:fuzzed") as client:
        yield client


def test_random_requests(server: httpx.Client) -> None:
    schema = schemathesis.openapi.from_dict(server.get("/openapi.json").json())
    found: dict[str, str] = {}
    made = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=CASES, suppress_health_check=list(HealthCheck), **SEARCH)
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            nonlocal made
            made += 1
            answer = case.call(base_url=str(server.base_url), headers=HEADERS, timeout=30)
            assert answer.status_code < 500 or answer.status_code == 504, answer.text  # 504: the case's own timeout_s
            case.validate_response(answer, checks=[status_code_conformance])

        try:
            ask()
        except (BaseExceptionGroup, AssertionError) as error:  # every operation's failure is told at once
            found[operation.label] = "; ".join(f"{e}"[:400] for e in getattr(error, "exceptions", [error]))
    assert not found, "\n".join(f"{label}: {text}" for label, text in found.items())
    print(f"{made} requests")
    assert made >= CASES
