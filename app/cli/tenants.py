"""`larimar tenants`: the tenants of a store, for its administrator."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from memory.store.redis_store import RedisStore

cli = typer.Typer(no_args_is_help=True, help="The store's tenants, without a server: stop it first where the store is embedded.")


@asynccontextmanager
async def opened() -> AsyncIterator[RedisStore]:
    """The settings' store."""
    from app.cli.serve import settings_or_exit
    from app.server.main import open_store
    from app.server.metrics import Metrics

    async with AsyncExitStack() as stack:
        yield await open_store(settings_or_exit(), Metrics(), stack)


@cli.command("list")
def list_tenants() -> None:
    """Names and versions of all tenants, and what is wrong with one."""

    async def work() -> None:
        from memory.errors import MemoryError_

        async with opened() as store:
            for name in sorted([name async for name in store.tenants()]):
                try:
                    found = await store.load(name, None)
                    typer.echo(f"{name:32} version {found.version:8}  {len(found.alive())} facts")
                except MemoryError_ as error:
                    typer.echo(f"{name:32} {error}")

    _run(work())


@cli.command()
def repair(
    tenant: Annotated[str, typer.Argument(help="its name")],
    to: Annotated[Path, typer.Option("--to", help="a new file for what is intact, which `larimar facts import` reads")],
    erase: Annotated[bool, typer.Option("--erase", help="then erase the damaged memory, so that the file can be imported")] = False,
) -> None:
    """Save every fact that is still readable of a damaged memory, or of one that another model wrote."""

    async def work() -> None:
        from app.http.transfer import saved

        async with opened() as store:
            salvaged = await store.salvage(tenant)
            await asyncio.to_thread(_write, to, list(saved(salvaged)))
            typer.echo(f"{len(salvaged.facts)} facts saved in {to}, {salvaged.unreadable} not readable", err=True)
            if erase:
                await store.drop(tenant)
                typer.echo(f"the memory of {tenant} is erased; now start the server and: larimar facts import {to}", err=True)

    _run(work())


@cli.command()
def delete(
    tenant: Annotated[str, typer.Argument(help="its name")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Erase everything of a tenant, be it damaged or of another model: nothing of it is read."""
    if not yes:
        typer.confirm(f"erase every fact of {tenant}, for good?", abort=True, err=True)

    async def work() -> None:
        async with opened() as store:
            dropped = await store.drop(tenant)
            if not dropped.version:
                raise ValueError(f"there is no tenant {tenant!r}; `larimar tenants list` shows all")
            typer.echo(f"the memory of {tenant} is erased: the data keys of {dropped.facts} facts are destroyed", err=True)

    _run(work())


@cli.command()
def reencode(names: Annotated[list[str] | None, typer.Argument(help="tenants; all when none is named")] = None) -> None:
    """Encode the facts of a memory anew, for the model of the settings. Until each is done, servers of the model before go on with it."""

    async def work() -> None:
        from rich.progress import Progress

        from app.cli.serve import settings_or_exit
        from app.server.main import load_model
        from app.tenants.reencoding import reencode
        from memory.page import PageSettings

        settings = settings_or_exit()
        async with opened() as store:
            known = sorted([name async for name in store.tenants()])
            if missing := [name for name in names or () if name not in known]:
                raise ValueError(f"there is no tenant {missing[0]!r}; `larimar tenants list` shows all")
            wanted = names or known
            model = await asyncio.to_thread(load_model, settings)
            with Progress() as progress:
                for name in wanted:
                    bar = progress.add_task(name, total=None)
                    shown = partial(_shown, progress, bar)
                    count = await reencode(store, name, model, PageSettings(slots=settings.page_slots), shown)
                    said = "is of this model already" if count is None else f"{count} facts encoded"
                    progress.update(bar, description=f"{name}: {said}", total=1, completed=1)

    _run(work())


def _shown(progress: Progress, bar: TaskID, done: int, of: int) -> None:
    progress.update(bar, completed=done, total=of)


def _write(path: Path, lines: list[str]) -> None:
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.writelines(line + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def _run(work: Coroutine[Any, Any, None]) -> None:
    from app.cli.serve import fail
    from memory.errors import MemoryError_
    from models.errors import ModelError

    try:
        asyncio.run(work)
    except (MemoryError_, ModelError, OSError, ValueError) as error:
        fail(str(error))
