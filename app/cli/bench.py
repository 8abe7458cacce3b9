"""`larimar bench`: figures of speed, each with the machine it was taken on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from models.model import Model

cli = typer.Typer(no_args_is_help=True, help="Measure speed; figures are taken on this machine, and say so.")
Json = Annotated[Path | None, typer.Option("--json", help="write the figures to this file")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="threads of torch; default: its own choice")]


def load(threads: int | None) -> Model:
    """The configured model."""
    import torch

    from app.cli.serve import settings_or_exit
    from models.model import Model, hush

    if threads:
        torch.set_num_threads(threads)
    hush()
    settings = settings_or_exit()
    return Model.load(settings.decoder, settings.adapter, settings.device, settings.weights_dir)


@contextmanager
def progress(what: str, steps: int) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error; the function moves it one step on."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=steps)
        yield lambda: bar.advance(task)


def report(bench: str, figures: Mapping[str, Any], json_file: Path | None, device: str = "cpu") -> None:
    """Print figures as a table, and write them with the machine's description."""
    from rich.console import Console
    from rich.table import Table

    from app.bench.machine import describe

    machine = describe(device)
    table = Table("figure", "value", title=f"bench {bench} on {machine['cpu']}, {machine['cores']} cores, {machine['device']}")
    for name, value in _rows(figures):
        table.add_row(name, f"{value:,.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
    if json_file:
        json_file.write_text(json.dumps({"bench": bench, "machine": machine, "results": figures}, indent=1) + "\n")


def _rows(figures: Mapping[str, Any], lead: str = "") -> Iterator[tuple[str, object]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{lead}{name} · ")
        elif not isinstance(value, list):
            yield f"{lead}{name}", value


@cli.command()
def decode(
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="generated after the prompt")] = 48,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="of each pair")] = 9,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Decoding beside transformers' `generate` and beside the memory's bandwidth."""
    from app.bench.decode import decode as run

    model = load(threads)
    with progress("decode", 2 * repeats) as tick:
        report("decode", run(model, tokens=tokens, repeats=repeats, tick=tick), json_file, str(model.device))
