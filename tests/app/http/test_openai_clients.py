"""What clients made for other servers send to /v1, and what they get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.http.routes.openai import PROMPTS
from tests.app.serving import serving

pytestmark = pytest.mark.service
ASK: dict[str, Any] = {"role": "user", "content": "what is red"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zor"}'}}
PART = 'wanted a part such as {"type": "text", "text": …}'
CALLED = '[called weather({"city": "Zor"})]'


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(max_new_tokens=24) as client:
        yield client


def chat(client: httpx.Client, *messages: dict[str, Any], **more: Any) -> httpx.Response:
    body = {"model": "toy", "messages": list(messages) or [ASK], "max_tokens": 3} | more
    return client.post("/v1/chat/completions", json=body)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("more", "ignored"),
    [
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"service_tier": "auto"}, "service_tier"),
        ({"verbosity": "low"}, "verbosity"),
        ({"prompt_cache_key": "a", "safety_identifier": "b"}, "prompt_cache_key, safety_identifier"),
        ({"prediction": None}, "prediction"),
        ({"functions": None, "function_call": "none"}, "function_call, functions"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options.include_obfuscation"),
        ({"top_k": -1}, ""),
        ({"seed": -1}, ""),
        ({"top_logprobs": 0}, "top_logprobs"),
        ({"min_p": 0}, "min_p"),
        ({"repetition_penalty": 1}, "repetition_penalty"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"session_id": "s", "keep_alive": "5m"}, "keep_alive, session_id"),
        # of other clients
        ({"n": 1, "tools": None, "tool_choice": None}, "n, tool_choice, tools"),
        ({"user": "ann", "store": False, "metadata": {"a": "b"}}, "metadata, store, user"),
        ({"audio": None, "web_search_options": None, "logit_bias": None}, "audio, logit_bias, web_search_options"),
        ({"temperature": None, "top_p": None, "stop": None, "seed": None, "logprobs": None, "stream_options": None}, ""),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, "parallel_tool_calls, tool_choice, tools"),
        ({"frequency_penalty": 0.0, "presence_penalty": 0}, "frequency_penalty, presence_penalty"),
        ({"repetition_penalty": 1.0, "typical_p": 1.0, "length_penalty": 1.0}, "length_penalty, repetition_penalty, typical_p"),
        ({"skip_special_tokens": True, "ignore_eos": False, "min_tokens": 0}, "ignore_eos, min_tokens, skip_special_tokens"),
        ({"use_beam_search": False, "best_of": 1}, "best_of, use_beam_search"),
        ({"response_format": {"type": "text"}, "modalities": ["text"]}, "modalities, response_format"),
        ({"guided_json": None, "extra": None}, "extra, guided_json"),
        ({"chat_id": "c", "id": "x"}, "chat_id, id"),
        ({"stop": []}, ""),
        ({"nul\r\nX-Evil: 1": None, "blå": None}, ""),  # no name for a header
    ],
)
def test_what_changes_nothing_is_taken_and_named(client: httpx.Client, more: dict[str, Any], ignored: str) -> None:
    answer = chat(client, **more)
    assert said(answer) == said(chat(client))
    assert answer.headers.get("larimar-ignored", "") == ignored and "x-evil" not in answer.headers
    with client.stream("POST", "/v1/chat/completions", json={"model": "toy", "messages": [ASK], "stream": True} | more) as stream:
        assert stream.status_code == 200 and stream.headers.get("larimar-ignored", "") == ignored


@pytest.mark.parametrize(
    ("message", "plain", "ignored"),
    [
        ({"content": "Hi", "refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": None, "parsed": None},
         "Hi", "messages.annotations, messages.audio, messages.parsed, messages.refusal"),
        ({"content": None}, "", ""),
        ({}, "", ""),
        ({"content": "Hi", "id": "msg_1", "timestamp": 17}, "Hi", "messages.id, messages.timestamp"),
        ({"content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}, "Hi", "messages.content.cache_control"),
        ({"content": "", "tool_calls": [CALL]}, CALLED, ""),
        # of other clients
        ({"content": "Let me see.", "tool_calls": [CALL]}, f"Let me see.\n{CALLED}", ""),
        ({"content": None, "tool_calls": [CALL, CALL]}, f"{CALLED}\n{CALLED}", ""),
        ({"content": None, "tool_calls": [CALL | {"index": 0}]}, CALLED, "messages.tool_calls.index"),
        ({"content": None, "function_call": CALL["function"]}, CALLED, ""),
        ({"content": "Hi", "tool_calls": [], "annotations": []}, "Hi", "messages.annotations"),
        ({"content": None, "refusal": "I cannot."}, "I cannot.", ""),
        ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "I cannot.", ""),
        ({"content": "Hi", "name": "bot", "reasoning_content": "Hm."}, "Hi", "messages.name, messages.reasoning_content"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "output_text", "text": "b", "annotations": []}]}, "ab",
         "messages.content.annotations"),
        ({"content": []}, "", ""),
        ({"content": "Hi", "cache_control": {"type": "ephemeral"}}, "Hi", "messages.cache_control"),
        ({"content": "Hi", "created_at": "2026-01-01", "weight": 1}, "Hi", "messages.created_at, messages.weight"),
    ],
)  # fmt: skip
def test_a_turn_of_the_past_is_read_as_its_text(client: httpx.Client, message: dict[str, Any], plain: str, ignored: str) -> None:
    answer = chat(client, ASK, {"role": "assistant"} | message, ASK)
    assert said(answer) == said(written := chat(client, ASK, {"role": "assistant", "content": plain}, ASK))
    assert answer.json()["usage"] == written.json()["usage"]
    assert answer.headers.get("larimar-ignored", "") == ignored


def test_tool_answers_of_the_past_are_turns_and_no_questions(client: httpx.Client) -> None:
    call = {"role": "assistant", "content": CALLED}
    tool = {"role": "tool", "tool_call_id": "call_1", "content": "18 C"}
    told = {"role": "user", "content": "[weather returned] 18 C"}
    for traffic, plain in (
        ([tool], told["content"]),
        ([tool, tool | {"content": [{"type": "text", "text": "rain"}]}], f"{told['content']}\n[weather returned] rain"),
        ([{"role": "function", "name": "weather", "content": "18 C"}], told["content"]),
        ([tool | {"tool_call_id": "other"}], "[tool returned] 18 C"),
    ):
        answer = chat(client, ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}, *traffic)
        written = chat(client, ASK, call, {"role": "user", "content": plain}, larimar={"memory": "off"})
        assert said(answer) == said(written) and answer.json()["usage"] == written.json()["usage"]
    fact_id = client.post("/facts", json={"prompt": ASK["content"], "target": "Kal"}).json()["id"]
    called = [ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}, tool]
    assert [fact["id"] for fact in chat(client, *called).json()["larimar"]["facts"]] == [fact_id]
    client.delete(f"/facts/{fact_id}").raise_for_status()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"colour": 1}, "colour: this server has no such parameter"),
        ({"min_p": 0.1}, "min_p: only 0 is taken here, got 0.1"),
        ({"repetition_penalty": 1.2}, "repetition_penalty: only 1 is taken here, got 1.2"),
        ({"n": 2}, "n: only 1 is taken here, got 2"),
        ({"functions": [{"name": "f"}]}, "functions: only [] is taken here, got [{'name': 'f'}]"),
        ({"tool_choice": "required"}, "tool_choice: only 'none' or 'auto' is taken here, got 'required'"),
        ({"prediction": {"type": "content"}}, "prediction: this server has no such parameter"),
        ({"top_logprobs": 2}, "top_logprobs: needs logprobs to be true"),
        ({"audio": {"voice": "x"}}, "audio: this server has no such parameter"),
        ({"stop": 3}, "stop: wanted a text or a list of texts"),
        ({"stop": ["a", ""]}, "stop.1: String should have at least 1 character"),
        ({"stream_options": {"colour": 1}}, "stream_options.colour: this server has no such parameter"),
        ({"top_k": -2}, "top_k: Input should be greater than or equal to -1"),
        ({"messages": [ASK | {"content": 3}]}, "messages.0.content: wanted a text or a list of parts"),
        ({"messages": [ASK | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages.0.content.0: a part of type 'image_url' is not read here, only text is"),
        ({"messages": [ASK | {"content": ["a"]}]}, f"messages.0.content.0: {PART}"),
        ({"messages": [ASK | {"content": [{"type": "text"}]}]}, f"messages.0.content.0: {PART}"),
        ({"messages": [ASK | {"content": [{"type": "text", "text": "a", "colour": 1}]}]},
         "messages.0.content.0.colour: this server has no such parameter"),
        ({"messages": [ASK, {"role": "assistant", "content": "x", "audio": {"id": "a"}}, ASK]},
         "messages.1.audio: this server has no such parameter"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": [{"id": "c"}]}, ASK]},
         "messages.1.tool_calls.0: wanted a call such as {\"function\": {\"name\": …, \"arguments\": …}}"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": "x"}, ASK]}, "messages.1.tool_calls: Input should be a valid list"),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused_in_one_sentence(client: httpx.Client, more: dict[str, Any], message: str) -> None:
    answer = chat(client, **more)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["message"], error["param"]) == (message, message.partition(":")[0])


def test_prompts_of_a_completion_are_texts(client: httpx.Client) -> None:
    for prompt in (3, [1, 2], [[1, 2]], {}, None):
        answer = client.post("/v1/completions", json={"model": "toy", "prompt": prompt})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "prompt: wanted a text or a list of texts"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("asked", [24, 25, 1000, 1024, 4096, 16_384, 10**12])
def test_a_length_beyond_the_limit_is_cut(client: httpx.Client, field: str, asked: int) -> None:
    answer = client.post("/v1/chat/completions", json={"model": "toy", "messages": [ASK], field: asked, "larimar": {"memory": "off"}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] == "length" and answer.json()["usage"]["completion_tokens"] == 24


def test_the_context_is_a_limit_too() -> None:
    with serving(max_new_tokens=4096) as client:
        for words, asked in ((1, 2000), (100, 1300), (150, 4096), (153, 10**9)):
            prompt = "ab cd " * words
            body = {"model": "toy", "prompt": prompt, "max_tokens": asked, "larimar": {"memory": "off"}}
            answer = client.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            (choice,), usage = answer.json()["choices"], answer.json()["usage"]
            assert choice["finish_reason"] == "length" or usage["completion_tokens"] < 1000
            assert usage["total_tokens"] <= 1400
        beyond = client.post("/v1/completions", json={"model": "toy", "prompt": "ab cd " * 160, "max_tokens": 9})
        assert beyond.status_code == 400 and beyond.json()["error"]["code"] == "prompt_too_long"
        native = client.post("/generate", json={"prompt": "ab cd " * 150, "max_new_tokens": 1000})
        assert native.status_code == 422 and native.json()["code"] == "prompt_too_long"


def test_generate_keeps_its_error(client: httpx.Client) -> None:
    refused = client.post("/generate", json={"prompt": "x", "max_new_tokens": 25})
    assert refused.status_code == 422 and "got 25, the limit is 24" in refused.text


@pytest.mark.parametrize("count", [1, 16, 17, 20, PROMPTS])
def test_many_prompts_are_completed_at_once(client: httpx.Client, count: int) -> None:
    prompts = [f"say {n}" for n in range(count)]
    answer = client.post("/v1/completions", json={"model": "toy", "prompt": prompts, "max_tokens": 1})
    assert answer.status_code == 200 and [choice["index"] for choice in answer.json()["choices"]] == list(range(count))


@pytest.mark.parametrize("count", [0, PROMPTS + 1])
def test_the_bound_on_prompts_is_told(client: httpx.Client, count: int) -> None:
    answer = client.post("/v1/completions", json={"model": "toy", "prompt": ["x"] * count})
    message = f"prompt: 1 to {PROMPTS} prompts are completed at once, got {count}"
    assert answer.status_code == 400 and answer.json()["error"]["message"] == message


def test_a_message_echoed_by_openais_client_is_taken(client: httpx.Client) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as asked:
        first = asked.chat.completions.create(model="toy", messages=[ASK], max_tokens=2000)
        assert first.choices[0].finish_reason == "length"
        echoed = json.loads(json.dumps(first.choices[0].message.model_dump()))
        assert asked.chat.completions.create(model="toy", messages=[ASK, echoed, ASK], max_tokens=3).choices


def test_streamed_places_are_those_of_the_whole_answer(client: httpx.Client) -> None:
    body: dict[str, Any] = {"model": "toy", "prompt": "say", "max_tokens": 20, "logprobs": 1, "larimar": {"memory": "off"}}
    text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    for stop in ([], [text[6:9]], [text[6:8] + "\0"]):
        whole = client.post("/v1/completions", json=body | {"stop": stop}).json()["choices"][0]
        streamed = client.post("/v1/completions", json=body | {"stop": stop, "stream": True}).text
        pieces = [json.loads(line[6:])["choices"][0] for line in streamed.splitlines() if line.startswith("data: {")]
        told = [piece["logprobs"] for piece in pieces if piece["logprobs"]]
        assert [place for one in told for place in one["text_offset"]] == whole["logprobs"]["text_offset"]
        assert [token for one in told for token in one["tokens"]] == whole["logprobs"]["tokens"]
        assert max(whole["logprobs"]["text_offset"]) <= len(whole["text"])
