"""What /generate and /query answer, without weights: laws, streams, deadlines, and every bad input."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.app.serving import serving

pytestmark = pytest.mark.service
FACT = {"prompt": "the capital of zor is", "target": "Kal"}
QUESTION = {"prompt": "the capital of zor is", "max_new_tokens": 12}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving() as client:
        yield client


@pytest.fixture
def fact_id(client: httpx.Client) -> Iterator[str]:
    made = client.post("/facts", json=FACT).json()["id"]
    yield made
    client.delete(f"/facts/{made}")


def generate(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/generate", json=QUESTION | body)
    assert answer.status_code == 200, answer.text
    out: dict[str, Any] = answer.json()
    return out


def events(client: httpx.Client, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    with client.stream("POST", "/generate", json=QUESTION | body | {"stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "larimar-version" in answer.headers
        lines = [line for line in answer.iter_lines() if line and not line.startswith(":")]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    return list(zip(names, [json.loads(line.removeprefix("data: ")) for line in lines[1::2]], strict=True))


def test_what_if_equals_having_forgotten(client: httpx.Client) -> None:
    plain = generate(client)["text"]
    first = client.post("/facts", json=FACT).json()["id"]
    told = generate(client)
    second = client.post("/facts", json={"prompt": "the river of zor is", "target": "Red"}).json()["id"]
    assert told["memory"]["used"] and told["text"] != plain
    assert generate(client, exclude=[first, second])["text"] == plain
    assert generate(client, include_only=[])["text"] == plain
    assert generate(client, include_only=[first])["text"] == told["text"] == generate(client, exclude=[second])["text"]
    assert generate(client, memory="off")["text"] == plain
    for made in (first, second):
        client.delete(f"/facts/{made}")
    assert generate(client)["text"] == plain
    unknown = client.post("/generate", json=QUESTION | {"include_only": ["nobody"]})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "fact_not_found")


@pytest.mark.usefixtures("fact_id")
def test_a_request_may_set_its_own_scope_probability(client: httpx.Client) -> None:
    near = "what is the capital of zor please"
    plain = generate(client, prompt=near, memory="off")
    strict, lax = (generate(client, prompt=near, scope_probability=x) for x in (1.0, 0.001))
    assert strict["text"] == plain["text"] != lax["text"]
    assert (strict["memory"]["scope"]["threshold"], lax["memory"]["scope"]["threshold"]) == (1.0, 0.001)
    for bad in (0, 0.0, -0.1, 1.01, "high"):
        assert client.post("/query", json={"prompt": near, "scope_probability": bad}).status_code == 422


@pytest.mark.parametrize("path", ["/query", "/generate", "/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("name", ["scope_threshold", "scope_strict"])
def test_the_fields_of_an_earlier_version_are_refused_with_what_replaces_them(client: httpx.Client, path: str, name: str) -> None:
    asked = {"model": "toy"} | ({"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": "x"})
    body = asked | {"larimar": {name: 0.5}} if path.startswith("/v1") else {"prompt": "x", name: 0.5}
    answer = client.post(path, json=body).json()
    (field, message) = (answer["error"]["param"], answer["error"]["message"]) if path.startswith("/v1") else (
        answer["errors"][0]["field"], answer["detail"])
    assert field.rpartition(".")[2] == name and f"{name}: there is no such field any more" in message and "scope_probability" in message


def test_query_explains(client: httpx.Client, fact_id: str) -> None:
    answer = client.post("/query", json={"prompt": FACT["prompt"]}).json()
    assert answer["scope"]["in_scope"] and answer["scope"]["score"] >= answer["scope"]["threshold"]
    (weight,) = answer["facts"]
    assert weight["id"] == fact_id and weight["similarity"] == pytest.approx(answer["scope"]["similarity"], abs=1e-5)
    assert weight["weight"] == pytest.approx(1, abs=1e-6) and 0 <= answer["scope"]["variance"] < 0.01
    assert answer["readout"] == FACT["target"]


def test_each_question_of_a_prompt_names_the_fact_that_answers_it(client: httpx.Client) -> None:
    asked = ["What is the capital of zor?", "Who runs Acme?"]
    made = [client.post("/facts", json={"prompt": text, "target": "Kal"}).json()["id"] for text in asked]
    both = client.post("/query", json={"prompt": " ".join(reversed(asked))}).json()
    assert [(part["query"], part["fact"]) for part in both["parts"]] == list(reversed(list(zip(asked, made, strict=True))))
    assert all(part["score"] >= both["scope"]["threshold"] for part in both["parts"])
    assert generate(client, prompt=" ".join(reversed(asked)))["memory"]["parts"] == both["parts"]
    (one,) = client.post("/query", json={"prompt": asked[0]}).json()["parts"]
    assert one["fact"] == made[0] and one["similarity"] == pytest.approx(1, abs=1e-5)
    assert generate(client, prompt="who is Kal", memory="on", scope_probability=1.0)["memory"]["parts"] == []
    for fact_id in made:
        client.delete(f"/facts/{fact_id}")


@pytest.mark.usefixtures("fact_id")
def test_a_stream_says_what_the_whole_answer_says(client: httpx.Client) -> None:
    whole = generate(client, logprobs=2)
    (first, memory), *tokens, (last, done) = events(client, logprobs=2)
    assert (first, last) == ("memory", "done") and {name for name, _ in tokens} == {"token"}
    assert memory == whole["memory"]
    assert "".join(token["text"] for _, token in tokens) == whole["text"]
    assert [p for _, token in tokens for p in token["logprobs"]] == whole["logprobs"]
    assert done["usage"] == whole["usage"] and done["finish_reason"] == whole["finish_reason"]
    assert done["timings"]["total_ms"] >= done["timings"]["first_token_ms"] > 0


@pytest.mark.parametrize(("tokens", "text"), [(2, ""), (3, "理"), (5, "理"), (6, "理想")])
def test_a_text_that_is_cut_inside_a_character_ends_before_it(client: httpx.Client, tokens: int, text: str) -> None:
    """A byte is a token here; streamed or not, of either interface, and the tokens stay as they are."""
    made = client.post("/facts", json={"prompt": FACT["prompt"], "target": "理想"}).json()["id"]
    whole = generate(client, max_new_tokens=tokens, logprobs=0)
    assert (whole["text"], whole["finish_reason"], len(whole["logprobs"])) == (text, "length", tokens)
    told = events(client, max_new_tokens=tokens)
    assert "".join(data["text"] for name, data in told if name == "token") == text
    asked = {"model": "toy", "prompt": FACT["prompt"], "max_tokens": tokens}
    assert client.post("/v1/completions", json=asked).json()["choices"][0]["text"] == text
    lines = client.post("/v1/completions", json=asked | {"stream": True}).text.splitlines()
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(choice["text"] for piece in pieces for choice in piece["choices"]) == text
    client.delete(f"/facts/{made}")


def test_a_sampled_text_depends_on_its_seed_and_not_on_its_company(client: httpx.Client) -> None:
    bodies = [QUESTION | {"temperature": 1.2, "top_p": 0.95, "top_k": 40, "seed": seed, "memory": "off"} for seed in range(12)]
    alone = [client.post("/generate", json=body).json()["text"] for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(lambda body: client.post("/generate", json=body).json()["text"], bodies))
    assert together == alone and len(set(alone)) > 6


@pytest.mark.usefixtures("fact_id")
def test_answers_alone_change_nothing_where_no_fact_answers(client: httpx.Client) -> None:
    for memory in ("off", "auto"):
        whole, alone = (generate(client, memory=memory, answer_only=only) for only in (False, True))
        assert whole["text"].startswith(alone["text"]) and (memory == "auto" or alone["text"] == whole["text"])


def test_what_one_request_encodes_leaves_room_for_others_between(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of facts and the questions of two hops are encoded in jobs of few texts, and the questions are few themselves."""
    model, facts, keys = client.app.state.service.model, list[int](), list[int]()  # type: ignore[attr-defined]
    encode_facts, encode = model.encode_facts, model.encoder.keys
    monkeypatch.setattr(model, "encode_facts", lambda pairs: facts.append(len(pairs)) or encode_facts(pairs))
    monkeypatch.setattr(model.encoder, "keys", lambda texts: keys.append(len(texts)) or encode(texts))
    taught = client.post("/facts", json=[{"prompt": f"the boss of Acme {n} is", "target": f"Bob{n}"} for n in range(100)]).json()
    assert sum(facts) == 100 and max(facts) <= 32 and [line["line"] for line in taught] == list(range(1, 101))
    taught.append(client.post("/facts", json={"prompt": "the boss of Zor is", "target": "Bob"}).json())
    keys.clear()
    long = " ".join(f"please tell now what good colour the big Zor house door {n} has today near my old town." for n in range(8))
    assert client.post("/query", json={"prompt": long, "hops": 2}).status_code == 200
    assert max(keys) <= 32 and sum(keys) == 8 + 64
    for line in taught:
        client.delete(f"/facts/{line['id']}")


def test_a_stop_text_ends_the_answer_before_it(client: httpx.Client) -> None:
    text = generate(client, memory="off")["text"]
    stop = text[3:5]
    cut = generate(client, memory="off", stop=[stop, "never said"])
    assert cut["text"] == text[: text.find(stop)] and cut["finish_reason"] == "stop"
    streamed = "".join(data.get("text", "") for _, data in events(client, memory="off", stop=[stop]))
    assert streamed == cut["text"]


def test_a_deadline_gives_504_and_frees_the_place(client: httpx.Client) -> None:
    late = client.post("/generate", json=QUESTION | {"max_new_tokens": 400, "memory": "off", "timeout_s": 0.05})
    assert (late.status_code, late.json()["code"]) == (504, "timeout")
    name, data = events(client, max_new_tokens=400, memory="off", timeout_s=0.05)[-1]
    assert name == "error" and data["code"] == "timeout"
    _empty(client)


def test_a_client_that_leaves_frees_its_place(client: httpx.Client) -> None:
    for stream in (False, True):
        with pytest.raises(httpx.ReadTimeout):
            body = QUESTION | {"max_new_tokens": 400, "memory": "off", "stream": stream}
            with client.stream("POST", "/generate", json=body, timeout=httpx.Timeout(5, read=0.1)) as answer:
                for _ in answer.iter_bytes():
                    time.sleep(0.2)
                    raise httpx.ReadTimeout("enough")
        _empty(client)


def _empty(client: httpx.Client) -> None:
    worker = client.app.state.service.worker  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while worker._speaking or worker.depth:
        assert time.monotonic() < deadline, "a text goes on without its client"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"max_new_tokens": 0}, 422, "max_new_tokens"),
        ({"max_new_tokens": 513}, 422, "got 513, the limit is 512"),
        ({"max_new_tokens": "many"}, 422, "max_new_tokens"),
        ({"max_new_tokens": 1e99}, 422, "max_new_tokens"),
        ({"prompt": "word " * 200}, 422, "prompt has 1000 tokens, the limit is"),
        ({"prompt": "  "}, 422, "prompt is empty"),
        ({"prompt": 5}, 422, "prompt"),
        ({"prompt": None}, 422, "prompt"),
        ({"temperature": -1}, 422, "temperature"),
        ({"temperature": 9}, 422, "temperature"),
        ({"top_p": 0}, 422, "top_p"),
        ({"top_k": -1}, 422, "top_k"),
        ({"seed": 2**64}, 422, "seed"),
        ({"stop": [""]}, 422, "stop.0"),
        ({"stop": ["x"] * 9}, 422, "stop"),
        ({"logprobs": 21}, 422, "logprobs"),
        ({"memory": "maybe"}, 422, "memory"),
        ({"timeout_s": 0}, 422, "timeout_s"),
        ({"max_new_tokens": "3"}, 422, "max_new_tokens: Input should be a valid integer"),
        ({"max_new_tokens": 3.5}, 422, "max_new_tokens: Input should be a valid integer"),
        ({"max_new_tokens": True}, 422, "max_new_tokens: Input should be a valid integer"),
        ({"temperature": "0"}, 422, "temperature: Input should be a valid number"),
        ({"seed": "1"}, 422, "seed: Input should be a valid integer"),
        ({"stop": "a"}, 422, "stop: Input should be a valid list"),
        ({"exclude": {"a": 1}}, 422, "exclude: Input should be a valid list"),
        ({"scope_probability": "0.5"}, 422, "scope_probability: Input should be a valid number"),
        ({"scope_probability": 0}, 422, "scope_probability: Input should be greater than 0"),
        ({"answer_only": 1}, 422, "answer_only: Input should be a valid boolean"),
        ({"hops": "2"}, 422, "hops"),
        ({"hops": True}, 422, "hops"),
        ({"tempreature": 1}, 422, "tempreature"),
        ({"exclude": ["a b"]}, 422, "exclude.0"),
        ({"exclude": ["nobody"]}, 404, "nobody"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(client: httpx.Client, body: dict[str, Any], status: int, says: str) -> None:
    for stream in (False, True):
        answer = client.post("/generate", json=QUESTION | body | {"stream": stream})
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert says in answer.json()["detail"]


def test_whole_numbers_are_numbers(client: httpx.Client) -> None:
    assert generate(client, temperature=0, top_p=1, scope_probability=1, timeout_s=20)["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize(
    "body", [{"as_of": "1"}, {"exclude": "a"}, {"scope_probability": "0.5"}, {"hops": "1"}, {"timeout_s": "5"}]
)
def test_a_query_takes_no_wrong_types_either(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post("/query", json={"prompt": FACT["prompt"]} | body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    assert [error["field"] for error in answer.json()["errors"]] == list(body)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"prompt": "\xff\xfe"}', 400, "malformed_json"),
        (b'{"prompt": "\\ud800"}', 422, "invalid_request"),
        (b'{"\\ud800": 1}', 422, "invalid_request"),
        (b'{"prompt": ' * 1000 + b'""' + b"}" * 1000, 400, "malformed_json"),
        (b"[" * 100_000 + b"]" * 100_000, 400, "malformed_json"),
        (b'{"prompt": NaN}', 422, "invalid_request"),
        (b'{"prompt": "x", "temperature": NaN}', 422, "invalid_request"),
        (b"", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b'"text"', 422, "invalid_request"),
        (b'{"prompt": "x", "prompt": 1}', 422, "invalid_request"),
        (b" " * 10_000_000, 413, "body_too_large"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/query", "/facts"])
def test_bad_bodies_never_fail_the_server(client: httpx.Client, path: str, content: bytes, status: int, code: str) -> None:
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"prompt": "x"}', "target: Field required"),
        (b'[{"prompt": "x"}]', "0.target: Field required"),
        (b'{"text": 3}', "text: Input should be a valid string"),
        (b'{"prompt": 3, "target": "y"}', "prompt: Input should be a valid string"),
        (b'{"prompt": "x", "target": true}', "target: Input should be a valid string"),
        (b'{"prompt": "x", "target": "y", "id": 7}', "id: Input should be a valid string"),
        (b'{"prompt": "x", "target": "y", "metadata": []}', "metadata: Input should be a valid dictionary"),
        (b'{"prompt": "x", "target": "y", "ttl_s": "60"}', "ttl_s: Input should be a valid number"),
        (b'{"prompt": "x", "target": "y", "ttl_s": true}', "ttl_s: Input should be a valid number"),
        (b'{"text": "Zor is red.", "ttl_s": "60"}', "ttl_s: Input should be a valid number"),
        (b'[{"prompt": "x", "target": "y", "ttl_s": "60"}]', "0.ttl_s: Input should be a valid number"),
        (b'{"prompt": "x"', "Expecting ',' delimiter: line 1, column 15"),
        (b'{"prompt": "x",\n "target": y}', "Expecting value: line 2, column 12"),
        (b"prompt", "Expecting value: line 1, column 1"),
    ],
)
def test_what_is_wrong_with_a_fact_is_told_by_its_field_or_place(client: httpx.Client, content: bytes, says: str) -> None:
    answer = client.post("/facts", content=content, headers={"content-type": "application/json"}).json()
    assert answer["detail"] == says
    assert [error["field"] for error in answer.get("errors", [])] == ([says.partition(":")[0]] if answer["status"] == 422 else [])
