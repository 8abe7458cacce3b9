"""`larimar audit-log`: who wrote, forgot or read which fact, out of the store."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from app.cli.serve import fail
from app.cli.store import with_store

if TYPE_CHECKING:
    from memory.store.cluster import Client

PAGE = 1000
cli = typer.Typer(no_args_is_help=True, help="The audit log: which key wrote, superseded, forgot or read which fact. Never a text.")


@cli.callback()
def _group() -> None:
    """Keeps `export` a command of its own."""


@cli.command()
def export(
    file: Annotated[Path | None, typer.Argument(help="a new file; standard output, when not given")] = None,
    after: Annotated[str, typer.Option("--after", help="only entries after the one with this id, to go on from an earlier export")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="only entries of this tenant")] = "",
) -> None:
    """Write the audit log as JSON lines, oldest first, straight from the store: no server and no key is needed."""
    from app.access.audit_log import AuditLog
    from app.server.metrics import Metrics

    if not re.fullmatch(r"([0-9]{1,20}-[0-9]{1,20})?", after):
        fail(f"got --after {after!r}, wanted the id of an entry, such as 1795578359300-0")

    async def write(client: Client, lines: TextIO) -> int:
        log, cursor, count = AuditLog(client, Metrics(), keep=1), after, 0
        while found := await log.export(cursor, PAGE):
            for entry_id, entry in found:
                if not tenant or entry.tenant == tenant:
                    lines.write(json.dumps({"id": entry_id} | asdict(entry)) + "\n")
                    count += 1
            cursor = found[-1][0]
        return count

    try:
        with open(file, "x", opener=_private) if file else nullcontext(sys.stdout) as lines:
            count = with_store(lambda client: write(client, lines))
    except FileExistsError:
        fail(f"{file} is there already; name a new file")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    typer.echo(f"{count} entries", err=True)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
