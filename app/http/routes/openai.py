"""OpenAI's interface to the same model and memory: /v1/models, /v1/completions and /v1/chat/completions.

The memory is used by default. A chat asks it with the last user message, and where that refers back, with the question
made to stand alone (models.scope.conversation). The answer's `larimar` field says what the memory did.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from ulid import ULID

from app.http.dependencies import Configured, Reader, Serving, attended, timely, within
from app.http.log_probs import TextOffsets, chat_log_probs, text_log_probs
from app.http.ndjson import line_of
from app.http.openai_schemas import (
    ChatChoice,
    ChatIn,
    CompletionBase,
    CompletionIn,
    CompletionOut,
    MessageOut,
    ModelList,
    ModelOut,
    TextChoice,
)
from app.http.openai_schemas import (
    told as ignoring,
)
from app.http.problems import UnknownModel, Unsupported, explained, openai_error
from app.http.routes.generate import memory_of, sampling_of, usage_of
from app.http.schemas import Usage
from app.server.settings import Settings
from app.service import Request as Ask
from app.service import Service
from memory.query import ScopeChoice
from models.engine.decoder import Decoder
from models.engine.sampling import Generation, Sampling, TokenLogProb
from models.scope.conversation import as_before, asks

REFUSED: dict[int | str, dict[str, Any]] = {
    code: {"description": "An error object as OpenAI's"} for code in (400, 401, 403, 404, 408, 413, 415, 429, 503, 504)
}
router = APIRouter(prefix="/v1", tags=["openai"], responses=REFUSED)
TEXT_TOKENS, CHAT_TOKENS = 16, 256  # generated at most where the request does not say
PROMPTS = 64  # completed at once: a quarter of the default queue, so that one request leaves room for others
Kind = Literal["text_completion", "chat.completion"]


@dataclass(frozen=True)
class _Told:
    """How one kind of completion tells its parts."""

    kind: Kind
    model: str
    id: str
    created: int
    headers: dict[str, str]

    @property
    def head(self) -> dict[str, Any]:
        return {"id": self.id, "object": self.kind, "created": self.created, "model": self.model}

    def choice(self, text: str, finish: str | None, log_probs: dict[str, Any] | None, *, first: bool) -> dict[str, Any]:
        """One streamed piece of choice 0."""
        base = {"index": 0, "finish_reason": finish, "logprobs": log_probs}
        if self.kind == "text_completion":
            return base | {"text": text}
        return base | {"delta": ({"role": "assistant"} if first else {}) | ({"content": text} if text or first else {})}

    def log_probs(self, decoder: Decoder, found: Sequence[TokenLogProb], offsets: Sequence[int]) -> dict[str, Any]:
        return text_log_probs(decoder, found, offsets) if self.kind == "text_completion" else chat_log_probs(decoder, found)


def _told(kind: Kind, body: CompletionBase, service: Service) -> _Told:
    ignored = ignoring(body.ignored())
    if body.model != service.model.name:
        raise UnknownModel(f"this server serves {service.model.name!r}, got {body.model!r}")
    return _Told(kind, service.model.name, f"{'cmpl' if kind == 'text_completion' else 'chatcmpl'}-{ULID()}", int(time.time()), ignored)


def _tokens(asked: int | None, default: int, settings: Settings) -> int:
    """How many to generate at most, of those that the context has room for: clients ask for more than they want."""
    return min(asked or default, settings.max_new_tokens)


@router.head("/models", include_in_schema=False)
@router.get("/models")
async def models(service: Serving, _: Reader) -> ModelList:
    """The one model that is served."""
    return ModelList(data=[ModelOut(id=service.model.name, created=service.started_at)])


@router.head("/models/{name:path}", include_in_schema=False)
@router.get("/models/{name:path}")
async def model(name: str, service: Serving, _: Reader) -> ModelOut:
    """That model by its name."""
    if name != service.model.name:
        raise UnknownModel(f"this server serves {service.model.name!r}, got {name!r}")
    return ModelOut(id=name, created=service.started_at)


@router.post("/completions", response_model=CompletionOut, response_model_exclude_none=False)
async def complete(
    body: CompletionIn, request: Request, response: Response, service: Serving, settings: Configured, tenant: Reader
) -> CompletionOut | EventSourceResponse:
    """Complete a prompt, or each of up to 64."""
    told = _told("text_completion", body, service)
    tokens = _tokens(body.max_tokens, TEXT_TOKENS, settings)
    sampling = sampling_of(body, tokens, body.logprobs, answer_only=body.larimar.answer_only)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not 0 < len(prompts) <= PROMPTS:
        raise Unsupported("prompt", f"1 to {PROMPTS} prompts are completed at once, got {len(prompts)}")
    asked = [_ask(prompt, sampling, body) for prompt in prompts]
    if body.stream:
        if len(asked) > 1:
            raise Unsupported("prompt", "only one prompt can be streamed")
        return await _stream(told, body, asked[0], service, settings, tenant)
    work = asyncio.gather(*(service.generate(tenant, ask) for ask in asked))
    answers = await within(settings, attended(request, work), body.timeout_s)
    choices = [
        TextChoice(
            index=index,
            finish_reason=answered.generation.finish_reason,
            text=answered.generation.text,
            logprobs=None if sampling.logprobs is None else _log_probs(told, service, answered.generation),
        )
        for index, answered in enumerate(answers)
    ]
    usages = [usage_of(answered.generation) for answered in answers]
    usage = Usage(**{name: sum(getattr(u, name) for u in usages) for name in Usage.model_fields})
    memories = [memory_of(answered.read) for answered in answers]
    response.headers.update(told.headers | {"Larimar-Version": str(answers[-1].read.version)})
    return CompletionOut(**told.head, choices=choices, usage=usage, larimar=memories if isinstance(body.prompt, list) else memories[0])


@router.post("/chat/completions", response_model=CompletionOut)
async def chat(
    body: ChatIn, request: Request, response: Response, service: Serving, settings: Configured, tenant: Reader
) -> CompletionOut | EventSourceResponse:
    """Answer the last user message of a conversation, in the decoder's chat template."""
    told = _told("chat.completion", body, service)
    tokens = _tokens(body.max_completion_tokens or body.max_tokens, CHAT_TOKENS, settings)
    logprobs = body.top_logprobs or 0 if body.logprobs else None
    sampling = sampling_of(body, tokens, logprobs, answer_only=body.larimar.answer_only)
    said = [message.text for message in body.messages if message.role == "user"]
    if not said or not said[-1].strip():
        raise Unsupported("messages", "the conversation has no user message with text")
    if service.model.decoder.tokenizer.chat_template is None:
        raise Unsupported("messages", f"{service.model.name} has no chat template; use /v1/completions")
    if service.model.scope is None:
        questions, before = await asyncio.to_thread(asks, said), ""
    else:  # a reader sees the last message together with what was said before it
        last = max(n for n, message in enumerate(body.messages) if message.role == "user")
        questions, before = [said[-1]], as_before([turn for turn in body.turns(last) if turn["role"] != "system"])
    ask = _ask(service.model.decoder.chat(body.turns()), sampling, body, questions, before)
    if body.stream:
        return await _stream(told, body, ask, service, settings, tenant)
    answered = await within(settings, attended(request, service.generate(tenant, ask)), body.timeout_s)
    made = answered.generation
    response.headers.update(told.headers | {"Larimar-Version": str(answered.read.version)})
    choice = ChatChoice(
        index=0,
        finish_reason=made.finish_reason,
        message=MessageOut(content=made.text),
        logprobs=_log_probs(told, service, made) if body.logprobs else None,
    )
    return CompletionOut(**told.head, choices=[choice], usage=usage_of(made), larimar=memory_of(answered.read))


def _log_probs(told: _Told, service: Service, made: Generation) -> dict[str, Any]:
    decoder = service.model.decoder
    offsets = TextOffsets(decoder)
    offsets.extend(p.token_id for p in made.log_probs)
    return told.log_probs(decoder, made.log_probs, offsets.within(made.text))


def _ask(prompt: str, sampling: Sampling, body: CompletionBase, questions: Sequence[str] = (), before: str = "") -> Ask:
    control = body.larimar
    return Ask(
        prompt,
        sampling,
        control.memory,
        control.exclude,
        control.include_only,
        questions,
        before,
        scope=ScopeChoice(control.scope_probability),
        hops=control.hops,
        fit=True,
    )


async def _stream(
    told: _Told, body: CompletionBase, asked: Ask, service: Service, settings: Settings, tenant: str
) -> EventSourceResponse:
    started = asyncio.get_running_loop().time()
    limit_s = min(settings.request_timeout_s, body.timeout_s or settings.request_timeout_s)
    read = await within(settings, service.read(tenant, asked), limit_s)
    steps = service.speak(read, asked.sampling, each_token=True)
    head = told.head | {"object": "text_completion" if told.kind == "text_completion" else "chat.completion.chunk"}
    with_usage = body.stream_options is not None and body.stream_options.include_usage

    async def events() -> AsyncIterator[ServerSentEvent]:
        first = head | {"choices": [told.choice("", None, None, first=True)], "larimar": memory_of(read).model_dump()}
        yield _event(first)
        decoder = service.model.decoder
        said, counted, offsets = "", 0, TextOffsets(decoder)
        try:
            async with aclosing(timely(steps, limit_s, started)) as said_in_time:
                async for step in said_in_time:
                    made = step.generation
                    offsets.extend(p.token_id for p in step.log_probs[len(offsets) :])
                    settled = len(offsets) if made else offsets.settled(step.text)
                    fresh = step.log_probs[counted:settled]
                    if step.text != said or fresh or made:
                        places = offsets.within(step.text)[counted:settled]
                        log_probs = told.log_probs(decoder, fresh, places) if fresh else None
                        finish = made.finish_reason if made else None
                        yield _event(head | {"choices": [told.choice(step.text[len(said) :], finish, log_probs, first=False)]})
                    said, counted = step.text, settled
                    if made and with_usage:
                        yield _event(head | {"choices": [], "usage": usage_of(made).model_dump()})
            yield ServerSentEvent(data="[DONE]")
        except Exception as error:  # too late for a status
            yield _event(openai_error(*explained(error)))

    return EventSourceResponse(events(), headers=told.headers | {"Larimar-Version": str(read.version)}, ping=15)


def _event(data: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(data=line_of(data))
