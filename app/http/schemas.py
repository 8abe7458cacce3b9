"""Bodies of requests and responses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from app.tenants.tenant import OnConflict

FactId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Scalar = str | int | float | bool | None
LONGEST_S = 3_155_760_000  # 100 years
TTL = Annotated[float, Field(gt=0, le=LONGEST_S)]  # seconds
Time = Annotated[float, Field(ge=0, le=253_402_300_799)]  # Unix time, up to the last second that a calendar knows, of the year 9999
READ_BY = "by what facts and queries find one another: their meaning or, in a script the encoder cannot read, nearly the same words"
GROUP = "text"  # the metadata that tells which text a fact is of
ReadBy = Literal["meaning", "wording"]
NAME_CHARS = 100  # of metadata
VALUE_CHARS = 4000  # 32 such values, escaped as JSON, leave a fact below the 1 MiB of one command to the store
_HALF = re.compile("[\ud800-\udfff]")


def encodable(value: Any) -> Any:
    """A field's text, or the texts of its list or mapping, as UTF-8 can hold them. JSON can escape one half of a surrogate pair
    (`"\\ud800"`), which is no character. Raises PydanticCustomError."""
    if isinstance(value, dict):
        texts = [(f"the name {name!r}", name) for name in value] + [(f"the value of {name!r}", text) for name, text in value.items()]
    else:
        texts = [("the text", text) for text in (value if isinstance(value, list) else [value])]
    for place, text in texts:
        if isinstance(text, str) and not text.isascii() and (half := _HALF.search(text)):
            message = "{place} holds {half}: U+{code} is half of a surrogate pair and no character"
            about = {"place": place[:60], "half": ascii(half[0]), "code": f"{ord(half[0]):04X}"}
            raise PydanticCustomError("half_of_a_pair", message, about)
    return value


def named(metadata: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    """Metadata within its bounds, and that a filter can name. Raises PydanticCustomError, which is a ValueError."""
    for name, value in metadata.items():
        about = {"name": repr(name[:40]), "got": len(name), "limit": NAME_CHARS}
        if not name:
            raise PydanticCustomError("metadata_name", "a name is empty: a filter (name=value) could not say it")
        if "=" in name:
            message = "the name {name} holds '=', which in a filter (name=value) ends the name: take another character"
            raise PydanticCustomError("metadata_name", message, about)
        if len(name) > NAME_CHARS:
            raise PydanticCustomError("metadata_name", "the name {name} has {got} characters, the limit is {limit}", about)
        if isinstance(value, str) and len(value) > VALUE_CHARS:
            message = "the value of {name} has {got} characters, the limit is {limit}"
            raise PydanticCustomError("metadata_value", message, about | {"got": len(value), "limit": VALUE_CHARS})
    return metadata


def _ungrouped(metadata: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    if GROUP in metadata:
        message = "{name} is the text's own, its id: leave it out, and give the text an id or the metadata another name"
        raise PydanticCustomError("metadata_name", message, {"name": repr(GROUP)})
    return metadata


def text_of(value: Scalar) -> str:
    """A value of metadata as a filter says it."""
    return value if isinstance(value, str) else json.dumps(value)


Metadata = Annotated[dict[str, Scalar], AfterValidator(named)]  # as it comes in


class Body(BaseModel):
    """Unknown fields, wrong types and text that is none are refused by name; a whole number may stand for any number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
    _encodable = field_validator("*", mode="before")(encodable)


class FactIn(Body):
    prompt: str = Field(max_length=4000, examples=["The CEO of Acme Rockets is"])
    target: str = Field(max_length=2000, examples=["Wile E. Coyote"])
    id: FactId | None = Field(None, description="a ULID is made when there is none")
    metadata: Metadata = Field(default_factory=dict, max_length=32)
    ttl_s: TTL | None = Field(None, description="seconds until the fact is forgotten by itself")
    on_conflict: OnConflict = Field(
        "supersede", description="the same prompt again: forget the old fact, refuse the new one (409), or keep the old one as history"
    )


class TextIn(Body):
    """Running text; each of its sentences becomes a fact."""

    text: str = Field(max_length=20_000, examples=["Acme Rockets was founded in 1998. Its office is in Flagstaff."])
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,58}$")] | None = Field(
        None, description="its facts are ID.1, ID.2, …; without it they get ULIDs"
    )
    metadata: Annotated[Metadata, AfterValidator(_ungrouped)] = Field(
        default_factory=dict, max_length=31, description="of each fact, beside `text`, which groups them"
    )
    ttl_s: TTL | None = Field(None, description="seconds until the facts are forgotten by themselves")
    on_conflict: OnConflict = "supersede"


class UpdateTimings(BaseModel):
    encode_ms: float = 0.0
    solve_ms: float
    commit_ms: float
    total_ms: float


class FactWritten(BaseModel):
    id: str
    version: int
    page: int
    supersedes: list[str]
    created_at: float
    expires_at: float | None = None
    timings: UpdateTimings
    read_by: ReadBy = Field("meaning", description=READ_BY)


class LineError(BaseModel):
    status: int
    code: str
    title: str
    detail: str


class BulkLine(BaseModel):
    """What became of one line; lines are counted from 1, blank ones too. Either `id` or `error` is there."""

    line: int
    id: str | None = None
    version: int | None = None
    supersedes: list[str] = []
    read_by: ReadBy | None = None
    error: LineError | None = None


class FactOut(BaseModel):
    id: str
    prompt: str
    target: str
    metadata: dict[str, Scalar]
    created_at: float
    version: int
    expires_at: float | None = None
    superseded_at: int | None = Field(None, description="the version from which on a newer fact stands in its place")


class FactList(BaseModel):
    facts: list[FactOut]
    next_cursor: str | None


class Erased(BaseModel):
    """What held the fact and holds it no more when the receipt is given.

    Log entry, snapshot, idempotency record and the store's files held it sealed with a data key of its own (AES-256-GCM).
    Where that key lay it is overwritten and synced (embedded store) or deleted in the same step as the log was written
    (shared store: its own append-only file may hold the key until it is rewritten). What stays for 24 hours is that an
    Idempotency-Key was used: its digest and the time, nothing of the request or its answer.
    """

    memory: Literal["solved without it"] = "solved without it"
    data_key: Literal["overwritten on disk", "deleted in the store"]
    log: Literal["sealed, key destroyed"] = "sealed, key destroyed"
    snapshot: Literal["sealed, key destroyed"] = "sealed, key destroyed"
    idempotency: Literal["deleted"] = "deleted"


class Receipt(BaseModel):
    id: str
    version: int
    residual: float = Field(description="relative distance of the page after forgetting from one solved without the fact")
    forgotten_at: float
    erased: Erased
    timings: UpdateTimings


class Receipts(BaseModel):
    receipts: list[Receipt]
    left: int = Field(description="facts that were to be forgotten too, but were not: ask again")


class Scope(BaseModel):
    in_scope: bool
    decision: Literal["in", "maybe", "out"] = Field(description="maybe: near enough to ask back")
    score: float = Field(description="the probability that a fact answers")
    threshold: float = Field(description="from which it is in scope")
    similarity: float
    variance: float
    read_by: ReadBy = Field(description=READ_BY)


class ScopeCandidate(BaseModel):
    """A fact that was read beside the question."""

    id: str
    prompt: str
    target: str
    probability: float = Field(description="that it answers, beside the other candidates and none of them")
    span: str | None = Field(None, description="the words of it that answer, if the reader says")


class Weight(BaseModel):
    id: str
    weight: float
    similarity: float | None = Field(description="cosine of the query with the fact's key")


class Question(BaseModel):
    """A question of the prompt, and the fact that answers it."""

    query: str = Field(description="the question as it was asked of the memory")
    fact: str
    score: float = Field(description="of scope")
    similarity: float = Field(description="cosine of the question with the fact's key")


ScopeProbability = Annotated[float | None, Field(gt=0.0, le=1.0, description="probability a fact must have, instead of the calibrated one")]
Hops = Annotated[int, Field(ge=1, le=2, description="2: a fact may also be asked for by what another fact answers")]
Parts = Annotated[list[Question], Field(description="the prompt's questions that are in scope, in their order, at most three")]


class QueryIn(Body):
    prompt: str = Field(max_length=100_000)
    as_of: int | None = Field(None, ge=0, description="read the memory as it was at this version, of what is kept of it")
    exclude: list[FactId] = Field(default_factory=list, max_length=256)
    include_only: list[FactId] | None = Field(None, max_length=256)
    scope_probability: ScopeProbability = None
    hops: Hops = 1
    timeout_s: float | None = Field(None, gt=0)


class QueryOut(BaseModel):
    scope: Scope
    facts: list[Weight] = Field(description="what spoke to `query`, most first, at most eight")
    parts: Parts = []
    candidates: list[ScopeCandidate] = Field([], description="the facts that were read, the likeliest first")
    readout: str | None
    query: str
    version: int


class GenerateIn(Body):
    prompt: str = Field(max_length=100_000, examples=["Who runs Acme Rockets?"])
    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, description="0 keeps all tokens")
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: list[Stop] = Field(default_factory=list, max_length=8)
    logprobs: int | None = Field(None, ge=0, le=20, description="how many alternatives to name beside each token")
    memory: Literal["auto", "on", "off"] = "auto"
    as_of: int | None = Field(None, ge=0, description="with the memory as it was at this version, of what is kept of it")
    exclude: list[FactId] = Field(default_factory=list, max_length=256, description="answer as if these facts were forgotten")
    include_only: list[FactId] | None = Field(None, max_length=256, description="answer as if there were only these facts")
    scope_probability: ScopeProbability = None
    hops: Hops = 1
    answer_only: bool = Field(False, description="end the text where a fact of the memory has been said")
    timeout_s: float | None = Field(None, gt=0, description="an earlier deadline than the server's: 504 when it passes")
    stream: bool = Field(False, description="answer with server-sent events: memory, token …, done")


class TokenLogProbs(BaseModel):
    """A token, its log-probability at temperature 1, and the likeliest tokens there."""

    token: str
    logprob: float
    top: list[tuple[str, float]]


class MemoryUse(BaseModel):
    used: bool
    scope: Scope | None
    facts: list[Weight] = Field(description="what spoke to the question that fits best, most first, at most eight")
    parts: Parts = []


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class GenerateTimings(BaseModel):
    read_ms: float
    first_token_ms: float
    generate_ms: float
    total_ms: float


class GenerateOut(BaseModel):
    text: str
    memory: MemoryUse
    finish_reason: Literal["stop", "length"]
    usage: Usage
    timings: GenerateTimings
    logprobs: list[TokenLogProbs] | None = None


class Problem(BaseModel):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
