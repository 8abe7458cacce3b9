"""`larimar keys`: make, list, revoke and rotate API keys, in the store that LARIMAR_STORE_URL or LARIMAR_DATA_DIR names."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from app.access.api_keys import ApiKey, KeyNotFound, KeyRing, Scope
from app.cli.listing import moment, show
from app.cli.serve import fail, settings_or_exit
from app.cli.store import named, with_store
from app.http.schemas import LONGEST_S

HELP = "API keys: who may do what to which tenant's memory. They lie in the store of the settings; LARIMAR_URL is not asked."
cli = typer.Typer(no_args_is_help=True, help=HELP)
T = TypeVar("T")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(text: str) -> float:
    """A duration such as 90d, 12h or 30m, in seconds; up to 100 years."""
    found = re.fullmatch(r"([0-9]+)([smhdw])", text)
    if found is None:
        fail(f"got the duration {text!r}, wanted a number and one of s m h d w, such as 90d")
    duration = float(found[1]) * SECONDS[found[2]]
    if duration > LONGEST_S:
        fail(f"got the duration {text[:40]!r}, wanted 100 years at most")
    return duration


def _do(work: Callable[[KeyRing], Awaitable[T]]) -> T:
    try:
        return with_store(lambda client: work(KeyRing(client)))
    except KeyNotFound as error:
        fail(f"{error}; `larimar keys list` shows the ids")


def _tell_store() -> None:
    typer.echo(f"in {named(settings_or_exit())}", err=True)


def _show(secret: str, key: ApiKey) -> None:
    typer.echo(secret)
    ends = f", until {moment(key.expires_at)} UTC" if key.expires_at else ""
    typer.echo(f"key {key.id}: tenant {key.tenant}, may {', '.join(key.scopes)}{ends}. It is shown this once.", err=True)
    _tell_store()


@cli.command()
def create(
    tenant: Annotated[str, typer.Option("--tenant", help="whose memory it opens")],
    scope: Annotated[str, typer.Option("--scope", help="of read, write, admin")] = "read,write",
    name: Annotated[str, typer.Option("--name", help="for people")] = "",
    expires: Annotated[str, typer.Option("--expires", help="such as 90d, 12h; never, when not given")] = "",
    requests: Annotated[str, typer.Option("--requests", help="limit, such as 600/minute")] = "",
    tokens: Annotated[str, typer.Option("--tokens", help="limit, such as 20000/minute")] = "",
    facts: Annotated[str, typer.Option("--facts", help="limit of facts written, such as 1000/day")] = "",
) -> None:
    """Make a key and print it, this once."""
    import limits

    scopes: list[Scope] = [part.strip() for part in scope.split(",") if part.strip()]  # type: ignore[misc]  # create refuses others
    expires_at = time.time() + seconds(expires) if expires else None
    for limit in filter(None, (requests, tokens, facts)):
        try:
            limits.parse(limit)
        except ValueError:
            fail(f"got the limit {limit!r}, wanted such as 600/minute")
    granted = {"requests": requests, "tokens": tokens, "facts": facts}
    secret, key = _do(lambda ring: ring.create(tenant, scopes, name=name, expires_at=expires_at, **granted))
    _show(secret, key)


@cli.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="a JSON line for each; never the key itself")] = False) -> None:
    """Show every key's id and what it grants."""
    found = _do(lambda ring: ring.list())
    if as_json:
        for key in found:
            typer.echo(key.to_json())
    else:
        show(("id", "tenant", "may", "name", "made", "state"), [_row(key, time.time()) for key in found])
    _tell_store()


def _row(key: ApiKey, now: float) -> tuple[str, ...]:
    state = "revoked" if key.revoked_at else "usable" if key.usable(now) else "expired"
    if state == "usable" and key.expires_at:
        state += f" until {moment(key.expires_at)}"
    return key.id, key.tenant, ", ".join(key.scopes), key.name, moment(key.created_at), state


@cli.command()
def revoke(key_id: Annotated[str, typer.Argument(help="as `larimar keys list` shows it")]) -> None:
    """Refuse a key from now on, on every replica."""
    key = _do(lambda ring: ring.revoke(key_id))
    typer.echo(f"key {key.id} of tenant {key.tenant} is revoked")
    _tell_store()


@cli.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="as `larimar keys list` shows it")],
    overlap: Annotated[str, typer.Option("--overlap", help="how long the old key still works")] = "1h",
) -> None:
    """Make a key with the same grants, and end the old one after the overlap."""
    overlap_s = seconds(overlap)
    _show(*_do(lambda ring: ring.rotate(key_id, overlap_s)))
