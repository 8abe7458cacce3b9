"""Search for texts, keys and codes in the bytes of files and stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from memory.store.cluster import Client, ready, servers

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Needle:
    """Bytes to search for; the report has `name` and never the bytes."""

    name: str
    content: bytes

    @classmethod
    def texts(cls, text: str) -> list[Needle]:
        """A text in the encodings that a file may hold."""
        escaped = text.encode("ascii", "backslashreplace")
        forms = {text.encode(), text.encode("utf-16-le"), escaped, escaped.replace(b"\\x", b"\\u00")}
        return [cls(text, form) for form in sorted(forms)]


@dataclass(frozen=True)
class Hit:
    path: str
    offset: int
    needle: str


def files_with(folder: Path, needles: Sequence[Needle]) -> Iterator[Hit]:
    """For each file below `folder` (links not followed) the first place of each needle in it.

    Raises:
        OSError: a file cannot be read; a file that vanishes meanwhile is skipped.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            yield from _search(path, needles)
        except FileNotFoundError:
            continue


def _search(path: Path, needles: Sequence[Needle]) -> Iterator[Hit]:
    overlap = max((len(needle.content) for needle in needles), default=1) - 1
    left, start, tail = list(needles), 0, b""
    with path.open("rb") as file:
        while left and (chunk := file.read(_CHUNK)):
            window = tail + chunk
            for needle in list(left):
                if (at := window.find(needle.content)) >= 0:
                    yield Hit(str(path), start - len(tail) + at, needle.name)
                    left.remove(needle)
            start += len(chunk)
            tail = window[-overlap:] if overlap else b""


async def keys_with(client: Client, needles: Sequence[Needle]) -> AsyncIterator[Hit]:
    """For each key of a store the needles in its name or value. Raises redis.RedisError."""
    await ready(client)
    for server in servers(client):
        async for name in server.scan_iter(count=1000):
            value = await server.dump(name) or b""
            for needle in needles:
                for content in (name, value):
                    if (at := content.find(needle.content)) >= 0:
                        yield Hit(f"key {name.decode(errors='replace')}", at, needle.name)
