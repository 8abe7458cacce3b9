"""Bodies of the OpenAI-compatible interface: what is read of a request, and how an answer is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.http.problems import Unsupported
from app.http.schemas import Body, FactId, Hops, MemoryUse, ScopeProbability, Stop, Usage, encodable

NEUTRAL: dict[str, tuple[object, ...]] = {  # parameters of other servers, and what each may say, since it then changes nothing
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "skip_special_tokens": (True,),
    "use_beam_search": (False,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
BOOKKEEPING = frozenset(  # what concerns caches, bills, logs, or a decoder that thinks or words otherwise than ours can
    "chat_id chat_template_kwargs id keep_alive metadata prompt_cache_key prompt_cache_retention reasoning_effort safety_identifier "
    "service_tier session_id store user verbosity".split()
)
OF_MESSAGES = frozenset("annotations cache_control created_at id name reasoning_content timestamp weight".split())
OF_PARTS = frozenset("annotations cache_control id".split())
_HEADER_NAME = re.compile(r"[A-Za-z0-9_.]{1,100}")  # the client chose it: nothing else is repeated in a header
_NAMES = 32  # that a header names at most
LONGEST = 100_000  # characters of a text, parts of a message
TOOLS = ("tool", "function")  # roles


def _texts(value: object) -> object:
    """A text or a list of texts, as a list."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise PydanticCustomError("texts", "wanted a text or a list of texts")
    return value


def _prompt(value: object) -> object:
    _texts(value)
    return value


def _parts(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, (str, list)):
        raise PydanticCustomError("parts", "wanted a text or a list of parts")
    if len(value) > LONGEST:
        raise PydanticCustomError("too_long", "has {got} characters or parts, the limit is {limit}", {"got": len(value), "limit": LONGEST})
    return _deeply_encodable(value)


def _deeply_encodable(value: Any) -> Any:
    """As `encodable`, at any depth."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _deeply_encodable(inner)
    return encodable(value)


def _has(call: Any) -> bool:
    """Whether it is the call of a function."""
    return isinstance(call, dict) and all(isinstance(call.get(name), str) for name in ("name", "arguments"))


class Lenient(Body):
    """Fields that a server of another kind has may come along; `unread` tells which of them must not."""

    model_config = ConfigDict(extra="allow")

    def unread(self, at: str, known: frozenset[str]) -> Iterator[str]:
        """Names of fields that are not read here. Raises Unsupported for one that may change the answer."""
        yield from _unread(self.model_extra or {}, at, known)


def _unread(fields: dict[str, Any], at: str, known: frozenset[str]) -> Iterator[str]:
    for name, value in fields.items():
        if value is not None and name not in known:
            raise Unsupported(f"{at}{name[:40]}", "this server has no such parameter")
        yield re.sub(r"\.\d+(?=\.)", "", at) + name


class MemoryControl(Body):
    """How the memory is used for one request; sent as `extra_body={"larimar": {…}}`."""

    memory: Literal["auto", "on", "off"] = "auto"
    exclude: list[FactId] = Field(default_factory=list, max_length=256)
    include_only: list[FactId] | None = Field(None, max_length=256)
    scope_probability: ScopeProbability = None
    hops: Hops = 1
    answer_only: bool = False


class StreamOptions(Lenient):
    include_usage: bool = False


class CompletionBase(Lenient):
    """What both kinds of completion ask. Temperature is 0 where none is given: an answer from memory is no dice.

    What is null, neutral or bookkeeping of another server is ignored; what else is unknown is refused.
    """

    model: str = Field(max_length=256)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="0 or -1 keeps all tokens")
    seed: int | None = Field(None, ge=-1, lt=2**63, description="-1 draws one")
    stop: Annotated[list[Stop], Field(max_length=8), BeforeValidator(_texts)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    timeout_s: float | None = Field(None, gt=0)
    larimar: MemoryControl = Field(default_factory=MemoryControl)
    max_tokens: int | None = Field(None, ge=1, description="the most that may be, where it is more")

    def ignored(self) -> Iterator[str]:
        """Names of the fields that came and are not read. Raises Unsupported for one that would change the answer."""
        for name, value in (self.model_extra or {}).items():
            if (neutral := NEUTRAL.get(name)) is not None and value is not None and value not in neutral:
                wanted = " or ".join(map(repr, neutral))
                raise Unsupported(name, f"only {wanted} is taken here, got {value!r}"[:200])
        yield from self.unread("", BOOKKEEPING.union(NEUTRAL))
        if self.stream_options is not None:
            yield from self.stream_options.unread("stream_options.", frozenset({"include_obfuscation"}))


def told(names: Iterator[str]) -> dict[str, str]:
    """The header that names what was ignored, if anything was."""
    fit = sorted({name for name in names if _HEADER_NAME.fullmatch(name)})[:_NAMES]
    return {"Larimar-Ignored": ", ".join(fit)} if fit else {}


class CompletionIn(CompletionBase):
    prompt: Annotated[str | list[str], Field(max_length=LONGEST), BeforeValidator(_prompt)]
    logprobs: int | None = Field(None, ge=0, le=5)


class Message(Lenient):
    """A turn. Calls of tools and their answers are of the past, and read as text."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Any, BeforeValidator(_parts), Field(description="a text, or parts of type text")] = None
    name: str | None = Field(None, description="of a tool; else ignored")
    tool_calls: Annotated[list[Any], BeforeValidator(_deeply_encodable)] | None = None
    function_call: Annotated[Any, BeforeValidator(_deeply_encodable)] = None
    tool_call_id: str | None = None
    refusal: str | None = Field(None, max_length=LONGEST)

    @property
    def calls(self) -> dict[str, str]:
        """Name of the function by the call's id."""
        return {str(call.get("id")): call["function"]["name"] for call in self.tool_calls or []}

    @property
    def text(self) -> str:
        """What was said, and a line for each call."""
        parts = [] if self.content is None else [self.content] if isinstance(self.content, str) else self.content
        said = "".join(part if isinstance(part, str) else part.get("text", part.get("refusal", "")) for part in parts)
        functions = [call["function"] for call in self.tool_calls or []] + ([self.function_call] if self.function_call else [])
        calls = [f"[called {function['name']}({function['arguments']})]" for function in functions]
        return "\n".join([text for text in (said or self.refusal,) if text] + calls)

    def ignored(self, at: str) -> Iterator[str]:
        """As CompletionBase.ignored."""
        extra = dict(self.model_extra or {})
        sent = self.model_fields_set
        extra |= {"name": self.name} if "name" in sent and self.role not in TOOLS else {}
        extra |= {"refusal": None} if "refusal" in sent and self.refusal is None else {}
        yield from _unread(extra, at, OF_MESSAGES)
        for number, part in enumerate(self.content if isinstance(self.content, list) else ()):
            yield from self._ignored_of_part(part, f"{at}content.{number}")
        for number, call in enumerate(self.tool_calls or ()):
            place = f"{at}tool_calls.{number}"
            if not isinstance(call, dict) or not _has(call.get("function")):
                raise Unsupported(place, 'wanted a call such as {"function": {"name": …, "arguments": …}}')
            rest = {name: value for name, value in call.items() if name not in ("id", "type", "function")}
            yield from _unread(rest, f"{place}.", frozenset({"index"}))
        if self.function_call is not None and not _has(self.function_call):
            raise Unsupported(f"{at}function_call", 'wanted a call such as {"name": …, "arguments": …}')

    @staticmethod
    def _ignored_of_part(part: Any, at: str) -> Iterator[str]:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in PARTS:
            raise Unsupported(at, f"a part of type {kind[:40]!r} is not read here, only text is")
        if kind is None or not isinstance(part.get(PARTS[kind]), str):
            raise Unsupported(at, 'wanted a part such as {"type": "text", "text": …}')
        yield from _unread({name: value for name, value in part.items() if name not in ("type", PARTS[kind])}, f"{at}.", OF_PARTS)


PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}  # by type, the field with the text


class ChatIn(CompletionBase):
    messages: list[Message] = Field(min_length=1, max_length=256)
    max_completion_tokens: int | None = Field(None, ge=1, description="as max_tokens")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def ignored(self) -> Iterator[str]:
        yield from super().ignored()
        for number, message in enumerate(self.messages):
            yield from message.ignored(f"messages.{number}.")
        if not self.logprobs and self.top_logprobs is not None:
            if self.top_logprobs:
                raise Unsupported("top_logprobs", "needs logprobs to be true")
            yield "top_logprobs"

    def turns(self, until: int | None = None) -> list[dict[str, str]]:
        """The messages, up to number `until`, as turns that every chat template knows: what tools returned is said by the user."""
        turns, called, before = list[dict[str, str]](), dict[str, str](), ""
        for message in self.messages[:until]:
            role, text = message.role, message.text
            called |= message.calls
            if role in TOOLS:
                name = message.name or called.get(message.tool_call_id or "", "tool")
                text = f"[{name} returned] {text}"
                if before in TOOLS:
                    turns[-1]["content"] += f"\n{text}"
                    continue
            turns.append({"role": ROLES.get(role, role), "content": text})
            before = role
        return turns


ROLES = {"developer": "system", "tool": "user", "function": "user"}  # of messages, in a template's words


class Choice(Body):
    index: int
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class TextChoice(Choice):
    text: str


class MessageOut(Body):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(Choice):
    message: MessageOut


class CompletionOut(Body):
    """Of both kinds; `larimar` says what the memory did, for a list of prompts as a list."""

    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice] | list[ChatChoice]
    usage: Usage
    larimar: MemoryUse | list[MemoryUse]


class ModelOut(Body):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when this server loaded it")
    owned_by: str = "larimar"


class ModelList(Body):
    object: Literal["list"] = "list"
    data: list[ModelOut]
