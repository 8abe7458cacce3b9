"""A server with a reader: what /query, /generate and /v1 tell of its decision, and how statement keys travel. The reader here knows what
answers what."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from models.model import Model
from models.model_files import ScopeParts
from models.scope.decision import Calibration
from models.scope.reader import Judgement, Pair
from tests.app.hosting import hosted
from tests.app.serving import toy_model
from tests.models import toys

pytestmark = pytest.mark.service
FACTS = {"boss": ("The head of Acme is", "Ann"), "town": ("Acme lies in", "Rome"), "river": ("The river of Kal is", "the Zor")}
ASKED = {"Who runs Acme?": "Ann", "Where do I find Acme?": "Rome", "and who runs it?": "Ann"}
DOUBT = "Is Acme any good?"


class Knows:
    """Answers by heart; of the doubtful question it thinks something of everything."""

    fingerprint = "knows"

    def __init__(self) -> None:
        self.read = list[Pair]()

    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        self.read += pairs
        return [self._judged(pair) for pair in pairs]

    @staticmethod
    def _judged(pair: Pair) -> Judgement:
        if pair.question == DOUBT:
            return Judgement(-1.0)
        answer = ASKED.get(pair.question)
        if answer is None or not pair.fact.endswith(answer):
            return Judgement(-6.0)
        return Judgement(6.0, None, (len(pair.fact) - len(answer), len(pair.fact)))


READER = Knows()


def model() -> Model:
    plain = toy_model()
    scope = ScopeParts(READER, Calibration(threshold=0.6, maybe=0.1, nearness=-2.0), toys.encoder(1))
    return Model(plain.encoder, plain.decoder, plain.adapter, scope)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with tempfile.TemporaryDirectory() as folder, hosted(Path(folder), load=lambda _: model()) as client:
        for fact_id, (prompt, target) in FACTS.items():
            assert client.post("/facts", json={"id": fact_id, "prompt": prompt, "target": target}).status_code == 201
        yield client


@pytest.fixture(autouse=True)
def _unread() -> None:
    READER.read.clear()


def query(client: TestClient, prompt: str, **more: Any) -> dict[str, Any]:
    answer = client.post("/query", json={"prompt": prompt} | more)
    assert answer.status_code == 200, answer.text
    out: dict[str, Any] = answer.json()
    return out


def test_a_query_tells_the_candidates_with_their_probabilities_and_words(client: TestClient) -> None:
    told = query(client, "Who runs Acme?")
    assert told["scope"]["in_scope"] and told["scope"]["decision"] == "in" and told["scope"]["threshold"] == 0.6
    first, *others = told["candidates"]
    assert (first["id"], first["prompt"], first["target"], first["span"]) == ("boss", *FACTS["boss"], "Ann")
    assert first["probability"] == told["scope"]["score"] > 0.99 and told["facts"][0]["id"] == "boss" and told["readout"] == "Ann"
    assert {other["id"] for other in others} == {"town", "river"} and all(other["span"] is None for other in others)
    probabilities = [candidate["probability"] for candidate in told["candidates"]]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1


def test_near_enough_to_ask_back_is_maybe_and_nothing_is_out(client: TestClient) -> None:
    maybe, out = query(client, DOUBT), query(client, "What is two plus two?")
    assert maybe["scope"]["decision"] == "maybe" and not maybe["scope"]["in_scope"] and len(maybe["candidates"]) == 3
    assert out["scope"]["decision"] == "out" and out["parts"] == [] and max(c["probability"] for c in out["candidates"]) < 0.1


def test_a_requests_own_probability_decides(client: TestClient) -> None:
    assert query(client, DOUBT, scope_probability=0.05)["scope"] | {"threshold": 0} == query(client, DOUBT)["scope"] | {
        "threshold": 0,
        "in_scope": True,
        "decision": "in",
    }
    certain = query(client, "Who runs Acme?", scope_probability=1.0)["scope"]
    assert (certain["in_scope"], certain["decision"], certain["threshold"]) == (False, "maybe", 1.0)
    asked = {"prompt": "Who runs Acme?", "max_new_tokens": 4}
    usual, strict, plain = (
        client.post("/generate", json=asked | more).json() for more in ({}, {"scope_probability": 1.0}, {"memory": "off"})
    )
    assert usual["memory"]["used"] and usual["memory"]["scope"]["decision"] == "in" and not strict["memory"]["used"]
    assert strict["text"] == plain["text"] != usual["text"]
    body = {"model": "toy", "prompt": "Who runs Acme?", "max_tokens": 4}
    for control, used in (({}, True), ({"scope_probability": 1.0}, False)):
        assert client.post("/v1/completions", json=body | {"larimar": control}).json()["larimar"]["used"] == used


def test_a_facts_own_words_are_not_read(client: TestClient) -> None:
    told = query(client, "the head of Acme is")
    assert told["scope"]["in_scope"] and [c["id"] for c in told["candidates"]] == ["boss"] and not READER.read
    assert query(client, "The head of Acme is", scope_probability=1.0)["scope"]["in_scope"]


def test_two_questions_are_two_parts(client: TestClient) -> None:
    told = query(client, "Who runs Acme? Where do I find Acme?")
    assert [part["fact"] for part in told["parts"]] == ["boss", "town"]


def test_an_excluded_fact_is_no_candidate(client: TestClient) -> None:
    for selection in ({"exclude": ["boss"]}, {"include_only": ["town", "river"]}):
        told = query(client, "Who runs Acme?", **selection)
        assert not told["scope"]["in_scope"] and {c["id"] for c in told["candidates"]} == {"town", "river"}
    empty = query(client, "Who runs Acme?", include_only=[])
    assert empty["candidates"] == [] and empty["scope"]["decision"] == "out" and empty["readout"] is None


def test_a_chats_last_message_is_read_together_with_the_turns_before(client: TestClient) -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "Where is Acme?"},
        {"role": "assistant", "content": "In Rome."},
        {"role": "user", "content": "and who runs it?"},
    ]
    told = client.post("/v1/chat/completions", json={"model": "toy", "messages": turns, "max_tokens": 4}).json()["larimar"]
    assert told["used"] and told["facts"][0]["id"] == "boss" and told["scope"]["decision"] == "in"
    assert {pair.before for pair in READER.read} == {"Where is Acme? – In Rome."}
    assert {pair.question for pair in READER.read} == {"and who runs it?"}


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_statement_keys_are_exported_with_the_codes_and_taken_over(client: TestClient) -> None:
    head, *lines = (json.loads(line) for line in client.get("/tenants/default/export?codes=true").text.splitlines())
    encoder = toys.encoder(1)
    for line in lines:
        assert np.allclose(floats(line["statement"]), encoder.meanings([f"{line['prompt']} {line['target']}"])[0].numpy(), atol=1e-5)
    bare = client.get("/tenants/default/export").text
    assert '"statement"' not in bare
    with tempfile.TemporaryDirectory() as folder, hosted(Path(folder), load=lambda _: model()) as other:
        body = {"fingerprint": head["fingerprint"], "facts": lines}
        assert other.post("/tenants/default/import", json=body).json()["imported"] == len(FACTS)
        _, *again = (json.loads(line) for line in other.get("/tenants/default/export?codes=true").text.splitlines())
        assert [line["statement"] for line in again] == [line["statement"] for line in lines]
        assert query(other, "Who runs Acme?")["candidates"] == query(client, "Who runs Acme?")["candidates"]


def test_a_statement_key_that_does_not_fit_is_refused_and_the_memory_goes_on(client: TestClient) -> None:
    head, line, *_ = (json.loads(line) for line in client.get("/tenants/default/export?codes=true").text.splitlines())
    short = base64.b64encode(floats(line["statement"])[:-1].tobytes()).decode()
    for statement, says in ((short, "bad_key"), ("%", "bad_key"), ("AAA=", "bad_key")):
        odd = line | {"id": "odd", "prompt": "an odd fact is", "statement": statement}
        answer = client.post("/tenants/default/import", json={"fingerprint": head["fingerprint"], "facts": [odd]}).json()
        assert answer["imported"] == 0 and answer["outcomes"][0]["error"].startswith(says)
    assert query(client, "Who runs Acme?")["scope"]["in_scope"] and client.get("/facts/odd").status_code == 404
