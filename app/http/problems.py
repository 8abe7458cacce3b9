"""Every error a client can meet: one table from exception to problem document (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from app.access.api_keys import KeyNotFound
from app.access.limits import RateLimited
from app.inference.errors import NotReady, QueueFull
from app.server.logs import log_defect
from app.tenants.errors import KeyReused, PromptTaken, TenantFull, TenantNotFound, VersionNotReached
from memory import errors as memory
from memory.store.commit import CommitUnknown
from models import errors as models


class TimedOut(Exception):
    """The request's deadline passed."""


class ClientGone(Exception):
    """The client closed the connection; no one reads the answer."""


class Unsupported(Exception):
    """A parameter of OpenAI's interface, or a value of it, that this server does not have."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class UnknownModel(Exception):
    """A model's name that this server does not serve."""


class Unauthorized(Exception):
    """No API key, or none that is known."""


class Forbidden(Exception):
    """The key lacks a scope."""


class HostNotAllowed(Exception):
    """A server without keys is asked under a name that may be anybody's."""

    def __init__(self, host: str, name: str) -> None:
        super().__init__(
            f"the request came for host {host[:80]!r}, and without a key the server answers as localhost or as an IP address only: "
            f"set LARIMAR_ALLOWED_HOSTS={name[:80] or 'NAME'}, or make a key with `larimar keys create`"
        )


class BodyTooLarge(Exception):
    """The request body passes the limit."""


class BodyTooSlow(Exception):
    """The request body did not come in time."""


class UnsupportedMediaType(Exception):
    """The request's content type is not application/json, or its content encoding is not read."""


class MalformedBody(Exception):
    """The body is not what its Content-Encoding says."""


@dataclass(frozen=True)
class Problem:
    """How one kind of exception is told; without `detail` the exception's own words are used."""

    status: int
    code: str
    title: str
    detail: str = ""
    retry_after_s: int = 0


MALFORMED = Problem(400, "malformed_json", "The body is not JSON")
TABLE: dict[type[Exception], Problem] = {
    MalformedBody: MALFORMED,
    models.EmptyText: Problem(422, "empty_text", "A text is empty"),
    models.PromptTooLong: Problem(422, "prompt_too_long", "The prompt is too long"),
    models.TargetTooLong: Problem(422, "target_too_long", "The target is too long"),
    models.ChatRefused: Problem(400, "chat_refused", "The decoder's chat template refuses the messages"),
    memory.FactNotFound: Problem(404, "fact_not_found", "There is no such fact"),
    memory.DuplicateId: Problem(409, "duplicate_id", "The id is taken"),
    memory.VersionConflict: Problem(503, "version_conflict", "Too many writers at once", retry_after_s=1),
    CommitUnknown: Problem(503, "commit_unknown", "The write may have been made", retry_after_s=2),
    memory.StoreUnavailable: Problem(503, "store_unavailable", "The store cannot be reached; nothing was written", retry_after_s=2),
    memory.StoreCorrupt: Problem(503, "memory_corrupt", "The stored memory is damaged; 'larimar tenants repair' saves what is intact"),
    memory.CorruptPage: Problem(503, "memory_corrupt", "The stored memory is damaged"),
    memory.FingerprintMismatch: Problem(503, "memory_of_another_model", "The stored memory belongs to another model"),
    memory.PromiseBroken: Problem(503, "durability_unavailable", "The store cannot keep what LARIMAR_DURABILITY promises", retry_after_s=5),
    memory.AnswerExists: Problem(409, "request_in_progress", "The same request was just made", "ask again for its answer", 1),
    memory.AnswerSpent: Problem(409, "idempotency_key_spent", "The Idempotency-Key's fact has been replaced or forgotten"),
    TenantNotFound: Problem(404, "tenant_not_found", "There is no such tenant"),
    memory.BadKey: Problem(422, "bad_key", "A key or code does not fit this memory"),
    PromptTaken: Problem(409, "prompt_taken", "There is a fact with this prompt"),
    TenantFull: Problem(507, "tenant_full", "The tenant's memory is full"),
    VersionNotReached: Problem(503, "version_not_reached", "The memory is not that new yet", retry_after_s=1),
    KeyReused: Problem(
        422, "idempotency_key_reused", "The Idempotency-Key was used for another body", "send a new key with each new request"
    ),
    QueueFull: Problem(429, "queue_full", "The server is busy", "the inference queue is full; try again shortly", 1),
    TimedOut: Problem(504, "timeout", "The request took too long"),
    Unsupported: Problem(422, "unsupported_parameter", "A parameter is not supported"),
    UnknownModel: Problem(404, "model_not_found", "There is no such model"),
    ClientGone: Problem(499, "client_gone", "The client is gone"),
    Unauthorized: Problem(401, "unauthorized", "An API key is needed", "send a known key as 'Authorization: Bearer …' or 'X-API-Key: …'"),
    HostNotAllowed: Problem(421, "host_not_allowed", "The server is not known under this name"),
    Forbidden: Problem(403, "forbidden", "The key may not do this"),
    RateLimited: Problem(429, "rate_limited", "The key has used what it may", retry_after_s=1),
    KeyNotFound: Problem(404, "key_not_found", "There is no such key"),
    BodyTooSlow: Problem(408, "body_too_slow", "The request body came too slowly"),
    NotReady: Problem(503, "not_ready", "The server is not ready", "the server is starting or draining", 2),
    BodyTooLarge: Problem(413, "body_too_large", "The request body is too large"),
    UnsupportedMediaType: Problem(415, "unsupported_media_type", "The body must be JSON"),
}
INVALID = Problem(422, "invalid_request", "The request is invalid")
REPLACED = {  # fields of an earlier version, and what to send instead
    "scope_threshold": "there is no such field any more; scope_probability is a probability, above 0 and at most 1",
    "scope_strict": "there is no such field any more; a higher scope_probability lets in fewer near misses",
}
OPENAI = "/v1/"  # the paths of OpenAI's interface
_OPENAI_STATUS = {422: 400}  # which knows no 422
_FORMS = {"/facts": [("body", form) for form in ("fact", "text", "list")]}  # pydantic puts a body's form before the field
_BY_STATUS = {404: "not_found", 405: "method_not_allowed"}
INTERNAL = Problem(500, "internal", "Internal error", "the server failed; its log has the request id")


def describe(error: BaseException) -> Problem:
    """The table's row for an exception; an unknown one is an internal error and tells nothing."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return INTERNAL


def failed(error: BaseException) -> None:
    """Log a defect with its traceback; an exception that the table knows is none."""
    if describe(error) is INTERNAL:
        log_defect(error)


def explained(error: Exception) -> tuple[Problem, str]:
    """The table's row for an exception, and its detail; a defect is logged."""
    failed(error)
    problem = describe(error)
    return problem, problem.detail or str(error)


def document(problem: Problem, detail: str, scope: Scope, **extra: Any) -> JSONResponse:
    """A problem document; on the OpenAI-compatible routes an error object of their kind."""
    headers = {"Retry-After": str(problem.retry_after_s)} if problem.retry_after_s else {}
    headers |= {"WWW-Authenticate": 'Bearer realm="larimar"'} if problem.status == 401 else {}
    if str(scope.get("path", "")).startswith(OPENAI):
        return JSONResponse(openai_error(problem, detail, extra.get("errors")), _OPENAI_STATUS.get(problem.status, problem.status), headers)
    body = {
        "type": f"urn:larimar:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "detail": detail,
        "request_id": scope.get("request_id", ""),
    }
    return JSONResponse(body | extra, problem.status, headers, media_type="application/problem+json")


def openai_error(problem: Problem, detail: str, errors: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """The error object that OpenAI's clients read."""
    kind = "server_error" if problem.status >= 500 else "rate_limit_error" if problem.status == 429 else "invalid_request_error"
    return {"error": {"message": detail, "type": kind, "param": errors[0]["field"] if errors else None, "code": problem.code}}


async def _known(request: Request, error: Exception) -> JSONResponse:
    problem, detail = explained(error)
    request.scope["error_code"] = problem.code
    wait_s = getattr(error, "retry_after_s", problem.retry_after_s)
    about = {"errors": [{"field": error.field, "message": detail}]} if isinstance(error, Unsupported) else {}
    return document(replace(problem, retry_after_s=wait_s), detail, request.scope, **about)


def unexpected(scope: Scope, error: Exception) -> JSONResponse:
    """The answer to a request that met a defect, which is logged."""
    failed(error)
    scope["error_code"] = INTERNAL.code
    return document(INTERNAL, INTERNAL.detail, scope)


def invalid(errors: Sequence[Any]) -> tuple[Problem, str]:
    """How a body that pydantic refused is told."""
    if any(e["type"] == "json_invalid" for e in errors):
        return MALFORMED, str(errors[0]["msg"])
    return INVALID, "; ".join(f"{e['field'] or 'body'}: {e['message']}" for e in _fields(errors))


def _fields(errors: Sequence[Any]) -> list[dict[str, str]]:
    return [{"field": ".".join(str(part) for part in e["loc"] if part != "body"), "message": _message(e)} for e in errors]


def _message(error: Any) -> str:
    return REPLACED.get(error["loc"][-1], error["msg"]) if error["type"] == "extra_forbidden" else str(error["msg"])


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    forms = _FORMS.get(request.url.path, [])
    errors = [e | {"loc": e["loc"][2:]} if e["loc"][:2] in forms else e for e in error.errors()]
    problem, detail = invalid(errors)
    request.scope["error_code"] = problem.code
    if problem is MALFORMED:
        return document(problem, _place(error), request.scope)
    return document(problem, detail, request.scope, errors=_fields(errors))


def _place(error: RequestValidationError) -> str:
    """What is wrong with a body that is not JSON, and where."""
    (found,), text = error.errors(), str(error.body)
    at = found["loc"][1]
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return f"{found['ctx']['error']}: line {line}, column {column}"


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # what fastapi makes of a parser that gave up
        request.scope["error_code"] = MALFORMED.code
        return document(MALFORMED, "it is not UTF-8, or nested too deeply", request.scope)
    request.scope["error_code"] = code = _BY_STATUS.get(error.status_code, "http_error")
    return document(Problem(error.status_code, code, error.detail), f"{request.method[:20]} {request.url.path[:200]}", request.scope)


def install(app: FastAPI) -> None:
    """Make the app answer every error with a problem document."""
    for kind in TABLE:  # what is no row there goes up to middleware.RequestLog
        app.add_exception_handler(kind, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
