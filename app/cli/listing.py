"""Tables whose ids can be copied."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

LEAST = 10  # characters that a column keeps in a narrow terminal
UNBOUNDED = 1_000_000


def unwrapped(to: Console) -> Console:
    """The console, so wide that no line is wrapped unless it is a terminal."""
    if not to.is_terminal:
        to.width = UNBOUNDED
    return to


def show(head: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """Print a table. Its first column, the id, is whole however narrow the terminal is; into a pipe all are."""
    widest = max((len(row[0]) for row in rows), default=0)
    table = Table(Column(head[0], no_wrap=True, min_width=widest), *(Column(name, overflow="fold", min_width=LEAST) for name in head[1:]))
    for row in rows:
        table.add_row(*map(escape, row))
    unwrapped(console or Console(highlight=False)).print(table, crop=False)


def moment(at: float) -> str:
    """A Unix time in UTC, to the minute; one that no calendar holds, as facts of earlier versions may have, as its number."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return f"{at:g}"
