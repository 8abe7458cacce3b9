"""About 220 requests of every kind, in an order in which each finds what it needs: facts, bulk, reading, generation, OpenAI's
routes, tenants, keys, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

TOWNS = ("rome", "paris", "berlin", "acme", "kal", "zor")
PEOPLE = ("Ann Lee", "Bob Ray", "Cy Fox", "Dora Hill", "Emil Bach", "Fay Stone")


@dataclass(frozen=True)
class Sent:
    """A request; `KEY` and `KEY_ID` in its path and headers stand for the API key that an earlier answer made."""

    method: str
    path: str
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


def sent(method: str, path: str, body: Any = None, **headers: str) -> Sent:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is None:
        return Sent(method, path, "", named)
    return Sent(method, path, body if isinstance(body, str) else json.dumps(body), {"Content-Type": "application/json"} | named)


def all_requests() -> list[Sent]:
    parts = (_health, _teaching, _bulk, _looking_up, _reading, _generating, _openai, _changing, _history, _tenants, _refused, _forgetting)
    return [one for part in parts for one in part()]


def _health() -> Iterator[Sent]:
    for path in ("/health/live", "/health/ready", "/version", "/openapi.json", "/v1/models", "/v1/models/no-such-model"):
        yield sent("GET", path)


def _teaching() -> Iterator[Sent]:
    for number, (town, person) in enumerate(zip(TOWNS, PEOPLE, strict=True)):
        body = {"prompt": f"the mayor of {town} is", "target": person, "id": f"mayor-{town}", "metadata": {"row": number, "kind": "mayor"}}
        yield sent("POST", "/facts", body)
        yield sent("POST", "/facts", {"prompt": f"the river of {town} is", "target": f"River {number}", "id": f"river-{town}"})
    once = {"prompt": "the door code is", "target": "4711", "id": "door", "ttl_s": 3600}
    yield sent("POST", "/facts", once, Idempotency_Key="once")
    yield sent("POST", "/facts", once, Idempotency_Key="once")
    yield sent("POST", "/facts", once | {"target": "1"}, Idempotency_Key="once")
    yield sent("POST", "/facts", {"prompt": "The mayor of Rome is", "target": "Gus Hart", "id": "mayor-rome-2"})
    yield sent("POST", "/facts", {"prompt": "the mayor of rome is", "target": "x", "on_conflict": "error"})
    yield sent("POST", "/facts", {"prompt": "the mayor of paris is", "target": "Hal", "id": "mayor-paris-2", "on_conflict": "version"})
    yield sent("POST", "/facts", {"prompt": "a new prompt is", "target": "x", "id": "door"})
    listed = [{"prompt": f"the colour of ship {n} is", "target": "red", "id": f"ship-{n}"} for n in range(5)]
    yield sent("POST", "/facts", [*listed, {"prompt": " ", "target": "x", "id": "empty"}, {"prompt": "p", "target": "", "id": "none"}])
    text = "Acme Rockets was founded in 1998. Its office is in Flagstaff. The red river runs past Paris."
    yield sent("POST", "/facts", {"text": text, "id": "story", "metadata": {"source": "a"}})
    yield sent("POST", "/facts", {"text": text, "id": "story"}, Idempotency_Key="never")
    yield sent("POST", "/facts", {"text": "", "id": "nothing"})


def _bulk() -> Iterator[Sent]:
    rows: list[dict[str, Any]] = [
        {"prompt": f"the number of box {n} is", "target": f"{n * 37 % 101}", "id": f"box-{n}", "metadata": {"box": True}}
        for n in range(40)
    ]
    lines = [json.dumps(row) for row in rows]
    lines[3:3] = ["", "{not json", json.dumps({"prompt": "p"}), json.dumps(rows[0])]
    for body in ("\n".join(lines), "\n", json.dumps(rows[0] | {"extra": 1})):
        yield sent("POST", "/facts:bulk", body, Content_Type="application/x-ndjson")
    yield sent("POST", "/facts:bulk", "{}")


def _looking_up() -> Iterator[Sent]:
    for name in ("mayor-rome", "mayor-rome-2", "mayor-paris", "door", "story.1", "box-7", "no-such", "%20"):
        yield sent("GET", f"/facts/{name}")
    whole = ("limit=5", "limit=500", "history=true&limit=9", "as_of=9", "as_of=0", "as_of=999", "limit=0", "cursor=ship-1", "other=1")
    chosen = ("metadata=kind=mayor", "metadata=row=3", "metadata=box=true", "metadata=kind", "metadata=kind=mayor&metadata=row=1")
    for query in (*whole, *chosen):
        yield sent("GET", f"/facts?{query}")


def _reading() -> Iterator[Sent]:
    asked = [f"the mayor of {town} is" for town in TOWNS] + [f"who is the mayor of {town}?" for town in TOWNS]
    asked += ["the river", "What is the number of box 7?", "Who is the mayor of Kal and what is the river of Zor?"]
    asked += ["hello there", "é 日本 🙂"]
    for prompt in asked:
        yield sent("POST", "/query", {"prompt": prompt})
    base = {"prompt": "the mayor of kal is"}
    options: tuple[dict[str, Any], ...] = (
        {"exclude": ["mayor-kal"]},
        {"include_only": ["mayor-kal", "mayor-zor"]},
        {"include_only": []},
        {"exclude": ["no-such"]},
        {"scope_probability": 1},
        {"scope_probability": 0.01},
        {"scope_probability": 5},
        {"scope_threshold": 0.5, "scope_strict": True},
        {"hops": 2},
        {"hops": 3},
        {"as_of": 4},
        {"as_of": 30},
        {"timeout_s": 20},
        {"prompt": ""},
        {"unknown": 1},
    )
    for more in options:
        yield sent("POST", "/query", base | more)
    yield sent("POST", "/query", base, Larimar_Version="3")
    yield sent("POST", "/query", base, Larimar_Version="x")


def _generating() -> Iterator[Sent]:
    base = {"prompt": "the mayor of zor is", "max_new_tokens": 8}
    options: tuple[dict[str, Any], ...] = (
        {},
        {"memory": "off"},
        {"memory": "on", "prompt": "hello there"},
        {"exclude": ["mayor-zor"]},
        {"include_only": ["river-zor"]},
        {"temperature": 0.8, "seed": 5},
        {"temperature": 1.0, "seed": 6, "top_k": 5, "top_p": 0.9},
        {"stop": ["a", "e"]},
        {"logprobs": 3},
        {"answer_only": True},
        {"hops": 2, "prompt": "who is the mayor of the town of the red river?"},
        {"as_of": 6},
        {"scope_probability": 0.999},
        {"max_new_tokens": 0},
        {"max_new_tokens": 100_000},
        {"prompt": ""},
        {"prompt": "x" * 3000},
        {"temperature": 9},
        {"memory": "maybe"},
    )
    for more in options:
        yield sent("POST", "/generate", base | more)
    for more in ({}, {"memory": "off"}, {"logprobs": 2}, {"prompt": ""}, {"exclude": ["no-such"]}, {"max_new_tokens": 1}):
        yield sent("POST", "/generate", base | more | {"stream": True})
    yield sent("POST", "/facts/mayor-zor/probe", {"paraphrases": ["who is the mayor of zor?"], "max_new_tokens": 6})
    yield sent("POST", "/facts/gone/probe", {"prompt": "the king is", "target": "Jo", "max_new_tokens": 4})
    yield sent("POST", "/facts/gone/probe", {})


def _openai() -> Iterator[Sent]:
    model = "MODEL"
    yield sent("GET", f"/v1/models/{model}")
    text = {"model": model, "prompt": "the mayor of zor is", "max_tokens": 6}
    many: tuple[dict[str, Any], ...] = (
        {},
        {"prompt": ["the mayor of kal is", "the river of acme is"]},
        {"logprobs": 2},
        {"stop": "a"},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"larimar": {"memory": "off"}},
        {"n": 2},
        {"model": "other"},
        {"prompt": ""},
        {"suffix": "x"},
        {"unknown": 1},
    )
    for more in many:
        yield sent("POST", "/v1/completions", text | more)
    question = [{"role": "user", "content": "who is the mayor of zor?"}]
    talk = {"model": model, "messages": question, "max_tokens": 6}
    after = [{"role": "assistant", "content": "Fay"}, {"role": "user", "content": "and kal?"}]
    longer = [{"role": "system", "content": "be brief"}, *question, *after]
    chats: tuple[dict[str, Any], ...] = (
        {},
        {"messages": longer},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "the river of acme is"}]}]},
        {"logprobs": True, "top_logprobs": 2},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"max_completion_tokens": 3},
        {"temperature": 0.7, "seed": 1},
        {"larimar": {"exclude": ["mayor-zor"], "answer_only": True}},
        {"messages": []},
        {"messages": [{"role": "pirate", "content": "x"}]},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
    )
    for more in chats:
        yield sent("POST", "/v1/chat/completions", talk | more)


def _changing() -> Iterator[Sent]:
    for body in ({"target": "Jan Post"}, {"metadata": {"kind": "mayor", "new": None}}, {"ttl_s": 500}, {}, {"prompt": "x"}, {"target": ""}):
        yield sent("PATCH", "/facts/mayor-kal", body)
    yield sent("PATCH", "/facts/no-such", {"target": "x"})
    yield sent("POST", "/query", {"prompt": "the mayor of kal is"})
    yield sent("GET", "/facts/mayor-kal")


def _history() -> Iterator[Sent]:
    for as_of in (1, 10, 20, 40):
        yield sent("GET", f"/facts?as_of={as_of}&limit=3")
        yield sent("POST", "/query", {"prompt": "the mayor of paris is", "as_of": as_of})


def _tenants() -> Iterator[Sent]:
    for path in ("stats", "export", "export?codes=true"):
        yield sent("GET", f"/tenants/default/{path}")
        yield sent("GET", f"/tenants/other/{path}")
    lines = [{"id": f"imported-{n}", "prompt": f"the imported word {n} is", "target": f"word {n}", "created_at": 5.0} for n in range(3)]
    yield sent("POST", "/tenants/default/import", {"facts": [*lines, lines[0], {"id": "bad", "prompt": "", "target": "x"}]})
    yield sent("POST", "/tenants/default/import", {"facts": []})
    yield sent("POST", "/tenants/default/import", {"facts": [lines[0] | {"key": "%", "code": "%"}], "fingerprint": "x"})
    yield sent("DELETE", "/tenants/other")


def _refused() -> Iterator[Sent]:
    for path in ("/", "/nothing", "/facts/a/b"):
        yield sent("GET", path)
    yield sent("PUT", "/facts")
    yield sent("DELETE", "/query")
    fields = ('{"prompt": 3, "target": "x"}', '{"prompt": "x"}', '{"prompt": "p", "target": "t", "more": 1}')
    for body in ("", "{", "[1", "null", "3", '"x"', "{}", *fields):
        yield sent("POST", "/facts", body)
    bad: tuple[dict[str, Any], ...] = (
        {"id": "a b"},
        {"ttl_s": 0},
        {"on_conflict": "merge"},
        {"metadata": {"a=b": 1}},
        {"metadata": {"a": [1]}},
        {"prompt": "x" * 5000},
        {"target": "y" * 3000},
        {"target": "long " * 60},
    )
    for more in bad:
        yield sent("POST", "/facts", {"prompt": "p q", "target": "t"} | more)
    yield sent("POST", "/facts", "prompt=x", Content_Type="text/plain")
    yield sent("POST", "/query", {"prompt": "x"}, X_API_Key="unknown")
    yield sent("POST", "/query", {"prompt": "x"}, Authorization="Bearer unknown")


def _forgetting() -> Iterator[Sent]:
    for name in ("mayor-zor", "mayor-zor", "no-such", "mayor-paris", "story.2"):
        yield sent("DELETE", f"/facts/{name}")
    for query in ("metadata=box=true", "metadata=box=true", "metadata=text=story", "", "metadata=nobody=1"):
        yield sent("DELETE", f"/facts?{query}")
    yield sent("POST", "/query", {"prompt": "the mayor of zor is"})
    yield sent("POST", "/generate", {"prompt": "the mayor of zor is", "max_new_tokens": 6})
    yield sent("GET", "/facts?limit=100")
    yield sent("GET", "/tenants/default/stats")
    yield sent("DELETE", "/tenants/default")
    yield sent("POST", "/query", {"prompt": "the mayor of rome is"})
    yield sent("POST", "/facts", {"prompt": "the mayor of rome is", "target": "Kim", "id": "again"})


def administration() -> Iterator[Sent]:
    known = {"Authorization": "Bearer KEY"}
    wanted = {"tenant": "acme", "scopes": ["read", "write", "admin"], "requests": "600/minute"}
    yield sent("POST", "/admin/keys", wanted)
    yield sent("POST", "/admin/keys", wanted, **known)
    yield sent("GET", "/admin/keys")
    yield sent("GET", "/admin/keys", **known)
    yield sent("POST", "/facts", {"prompt": "the lake is", "target": "blue", "id": "lake"}, **known)
    yield sent("POST", "/query", {"prompt": "the lake is"}, X_API_Key="KEY")
    yield sent("GET", "/tenants/default/stats", **known)
    yield sent("GET", "/tenants/acme/stats", **known)
    yield sent("POST", "/admin/keys", {"tenant": "acme", "scopes": ["fly"]}, **known)
    yield sent("POST", "/admin/keys", {"tenant": "acme", "scopes": ["read"], "tokens": "often"}, **known)
    yield sent("GET", "/admin/audit?limit=5", **known)
    yield sent("POST", "/admin/keys/KEY_ID/rotate", {"overlap_s": 3600}, **known)
    yield sent("DELETE", "/admin/keys/no-such", **known)
    yield sent("DELETE", "/admin/keys/KEY_ID", **known)  # which other servers may hear of a little later
