"""Bodies of the OpenAI-compatible interface: what is read of a request, and how an answer is told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app.http.problems import Unsupported
from app.http.schemas import Body, FactId, Hops, MemoryUse, ScopeProbability, Stop, Usage

NEUTRAL: dict[str, tuple[object, ...]] = {  # what these may say, since they then change nothing
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
}


class MemoryControl(Body):
    """How the memory is used for one request; sent as `extra_body={"larimar": {…}}`."""

    memory: Literal["auto", "on", "off"] = "auto"
    exclude: list[FactId] = Field(default_factory=list, max_length=256)
    include_only: list[FactId] | None = Field(None, max_length=256)
    scope_probability: ScopeProbability = None
    hops: Hops = 1
    answer_only: bool = False


class StreamOptions(Body):
    include_usage: bool = False


class CompletionBase(Body):
    """What both kinds of completion ask. Temperature is 0 where none is given: an answer from memory is no dice."""

    model: str = Field(max_length=256)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=8)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    timeout_s: float | None = Field(None, gt=0)
    larimar: MemoryControl = Field(default_factory=MemoryControl)
    user: str | None = Field(None, max_length=512, description="ignored")
    store: bool | None = Field(None, description="ignored")
    metadata: dict[str, Any] | None = Field(None, description="ignored")
    n: Any = None
    best_of: Any = None
    echo: Any = None
    suffix: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    response_format: Any = None
    modalities: Any = None

    def check(self) -> None:
        """Raises Unsupported for a parameter that would change the answer, but is not had here."""
        for name, neutral in NEUTRAL.items():
            if (value := getattr(self, name)) not in neutral:
                raise Unsupported(f"{name}: this server has no {name} but its neutral value, got {value!r}"[:200])


class CompletionIn(CompletionBase):
    prompt: str | list[str] = Field(max_length=100_000)
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=5)


class Part(Body):
    type: Literal["text"]
    text: str = Field(max_length=100_000)


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] = Field(max_length=100_000)
    name: str | None = Field(None, description="ignored")

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatIn(CompletionBase):
    messages: list[Message] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


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
    created: int = 0
    owned_by: str = "larimar"


class ModelList(Body):
    object: Literal["list"] = "list"
    data: list[ModelOut]
