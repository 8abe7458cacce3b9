"""The OpenAI-compatible interface, asked by OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.app.serving import serving

pytestmark = pytest.mark.service
FACT = {"prompt": "the capital of zor is", "target": "Kal"}
CHAT: list[Any] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": FACT["prompt"]}]
MODEL = "toy"


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    with serving(scope_probability=0.99) as client:  # a toy encoder finds everything alike
        yield client


@pytest.fixture(scope="module")
def client(server: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def fact_id(server: httpx.Client) -> str:
    return str(server.post("/facts", json=FACT).json()["id"])


def larimar(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.model_extra["larimar"]
    return found


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="serves 'toy'"):
        client.models.retrieve("gpt-4")


def test_a_completion_is_what_generate_says(client: openai.OpenAI, server: httpx.Client, fact_id: str) -> None:
    body = {"prompt": FACT["prompt"], "max_new_tokens": 12}
    native = server.post("/generate", json=body).json()
    answer = client.completions.create(model=MODEL, prompt=FACT["prompt"], max_tokens=12)
    assert answer.choices[0].text == native["text"] and answer.object == "text_completion"
    assert answer.usage and answer.usage.model_dump(include=set(native["usage"])) == native["usage"]
    assert larimar(answer) == native["memory"] and larimar(answer)["facts"][0]["id"] == fact_id


def test_several_prompts_keep_their_order(client: openai.OpenAI) -> None:
    prompts = ["one", "two", FACT["prompt"]]
    together = client.completions.create(model=MODEL, prompt=prompts, max_tokens=6)
    alone = [client.completions.create(model=MODEL, prompt=prompt, max_tokens=6) for prompt in prompts]
    assert [choice.text for choice in together.choices] == [answer.choices[0].text for answer in alone]
    assert larimar(together) == [larimar(answer) for answer in alone] and larimar(together)[2]["used"]


def test_a_chat_uses_the_memory_and_says_so(client: openai.OpenAI, server: httpx.Client, fact_id: str) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=12)
    assert larimar(answer)["used"] and larimar(answer)["facts"][0]["id"] == fact_id
    template = f"<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n{FACT['prompt']}<|im_end|>\n<|im_start|>assistant\n"
    native = server.post("/generate", json={"prompt": template, "max_new_tokens": 12, "memory": "on"}).json()
    assert answer.choices[0].message.content == native["text"]
    assert answer.choices[0].finish_reason == native["finish_reason"]
    off = {"larimar": {"memory": "off"}}
    plain = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=12, extra_body=off)
    assert not larimar(plain)["used"] and plain.choices[0].message.content != answer.choices[0].message.content
    for control in ({"exclude": [fact_id]}, {"include_only": []}):
        without = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=12, extra_body={"larimar": control})
        assert without.choices[0].message.content == plain.choices[0].message.content


@pytest.mark.usefixtures("fact_id")
def test_streams_say_what_whole_answers_say(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": CHAT, "max_tokens": 12, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert deltas[0].delta.role == "assistant" and larimar(chunks[0]) == larimar(whole)
    assert "".join(choice.delta.content or "" for choice in deltas) == whole.choices[0].message.content
    assert deltas[-1].finish_reason == whole.choices[0].finish_reason
    told = [token for choice in deltas if choice.logprobs for token in choice.logprobs.content or []]
    assert whole.choices[0].logprobs and told == whole.choices[0].logprobs.content and len(told[0].top_logprobs) == 2
    assert chunks[-1].usage == whole.usage

    text: dict[str, Any] = {"model": MODEL, "prompt": "say", "max_tokens": 12, "logprobs": 1}
    written = client.completions.create(**text)
    pieces = [chunk.choices[0] for chunk in client.completions.create(**text, stream=True)]
    assert "".join(piece.text for piece in pieces) == written.choices[0].text
    offsets = [at for piece in pieces if piece.logprobs for at in piece.logprobs.text_offset or []]
    assert written.choices[0].logprobs and offsets == written.choices[0].logprobs.text_offset


def test_stop_seed_and_temperature(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "dice", "max_tokens": 20}
    greedy = client.completions.create(**asked).choices[0].text
    cut = client.completions.create(**asked, stop=greedy[4:6]).choices[0]
    assert cut.text == greedy[: greedy.find(greedy[4:6])] and cut.finish_reason == "stop"
    drawn = [client.completions.create(**asked, temperature=1.5, top_p=0.9, seed=seed).choices[0].text for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.anyio
async def test_the_asynchronous_client(server: httpx.Client) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=5, stream=True)
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason in ("length", "stop")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"n": 2}, "n: only 1"),
        ({"tools": [{"type": "function"}]}, "tools: only []"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": "3"}, "max_tokens: Input should be a valid integer"),
        ({"temperature": "0"}, "temperature: Input should be a valid number"),
        ({"seed": True}, "seed: Input should be a valid integer"),
        ({"logprobs": 1}, "logprobs: Input should be a valid boolean"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage: Input should be a valid boolean"),
        ({"larimar": {"answer_only": "yes"}}, "larimar.answer_only: Input should be a valid boolean"),
        ({"larimar": {"hops": "2"}}, "larimar.hops"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 9}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no user message"),
        ({"messages": [{"role": "user", "content": " "}]}, "no user message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type"),
        ({"messages": [{"role": "user", "content": "x" * 2000}]}, "tokens, the limit is"),
        ({"colour": 1}, "colour"),
        ({"larimar": {"memory": "perhaps"}}, "larimar.memory"),
    ],
)
def test_bad_requests_are_told_in_the_clients_own_terms(client: openai.OpenAI, body: dict[str, Any], says: str) -> None:
    asked: dict[str, Any] = {"messages": CHAT, "model": MODEL}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**asked, stream=stream, extra_body=body)
        assert says in caught.value.message and caught.value.type == "invalid_request_error"


def test_other_errors_have_their_shape_too(client: openai.OpenAI, server: httpx.Client) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4", messages=CHAT)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model=MODEL, prompt="x", extra_body={"larimar": {"exclude": ["nobody"]}})
    assert missing.value.code == "fact_not_found"
    with pytest.raises(openai.InternalServerError) as late:
        client.completions.create(model=MODEL, prompt="x", max_tokens=400, extra_body={"timeout_s": 0.01})
    assert late.value.code == "timeout" and late.value.status_code == 504
    for content, status in ((b"{", 400), (b"\xff", 400), (b" " * 300_000, 413)):
        answer = server.post("/v1/completions", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == status and set(answer.json()["error"]) == {"message", "type", "param", "code"}
