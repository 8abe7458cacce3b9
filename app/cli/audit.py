"""`larimar audit`: is a word in any file or key?"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from memory.store.byte_search import Hit, Needle


def audit(
    needle: Annotated[Path, typer.Option("--needle", help="file of texts to look for, one a line")],
    data: Annotated[list[Path] | None, typer.Option("--data", help="folder to search, its logs included; may be repeated")] = None,
    store_url: Annotated[str, typer.Option("--store-url", help="also search every key of this store")] = "",
) -> None:
    """Search files, and the keys of a store, for texts byte by byte. Exit code 1 if one is found; texts are not repeated."""
    from app.cli.serve import fail
    from memory.errors import MemoryError_
    from memory.store.byte_search import Needle, files_with

    try:
        texts = [line for line in needle.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{needle} cannot be read: {error}")
    if not texts or not (data or store_url):
        fail("nothing to look for, or nowhere: give --needle with a text a line, and --data or --store-url")
    needles = [
        Needle(f"line {number}", form.content) for number, text in enumerate(texts, 1) for form in Needle.texts(text)
    ]
    found: list[Hit] = []
    for folder in data or []:
        if not folder.is_dir():
            fail(f"there is no folder {folder}")
        found += [hit for hit in files_with(folder, needles) if Path(hit.path) != needle.absolute()]
    if store_url:
        try:
            found += asyncio.run(_searched(store_url, needles))
        except (MemoryError_, ValueError) as error:
            fail(str(error))
    for hit in found:
        typer.echo(f"{hit.needle}: {hit.path} at byte {hit.offset}")
    typer.echo(f"{len(texts)} texts looked for, {len(found)} places found", err=True)
    if found:
        raise typer.Exit(1)


async def _searched(url: str, needles: list[Needle]) -> list[Hit]:
    from redis.exceptions import RedisError

    from memory.errors import StoreUnavailable
    from memory.store.byte_search import keys_with
    from memory.store.connection import connect

    try:
        async with aclosing(connect(url)) as client:
            return [hit async for hit in keys_with(client, needles)]
    except RedisError as error:
        raise StoreUnavailable(f"the store cannot be searched: {type(error).__name__}") from error
