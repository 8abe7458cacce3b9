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
    """The configured model, with the weights that transformers' own forward runs on."""
    import torch

    from app.cli.serve import settings_or_exit
    from app.server.model_loading import model_of
    from models.model import hush, silent

    if threads:
        torch.set_num_threads(threads)
    hush()
    return model_of(settings_or_exit(), silent, release=False)


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


@cli.command()
def update(
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N")] = "cpu",
    repeats: Annotated[int, typer.Option("--repeats", min=1)] = 50,
    slots: Annotated[int, typer.Option("--slots", min=64, help="largest page")] = 512,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """The memory's algebra alone: writes, forgets, blocks and re-solves, by the size of the page."""
    import torch

    from app.bench.update import steps
    from app.bench.update import update as run
    from models.device import pick

    if threads:
        torch.set_num_threads(threads)
    with progress("update", steps(slots)) as tick:
        report("update", run(device=str(pick(device)), repeats=repeats, slots=slots, tick=tick), json_file, device)


@cli.command()
def latency(
    clients: Annotated[str, typer.Option("--clients", help="how many ask at once, by commas")] = "1,8,64",
    facts: Annotated[str, typer.Option("--facts", help="sizes of the tenant, ascending, by commas")] = "10,1000,100000",
    requests: Annotated[int, typer.Option("--requests", min=1, help="of each kind at each point")] = 200,
    durability: Annotated[str, typer.Option("--durability", help="what an acknowledged write survives")] = "memory",
    json_file: Json = None,
) -> None:
    """Requests of every kind against a server of its own, on this machine."""
    import asyncio

    from app.bench.latency import latency as run
    from app.cli.serve import settings_or_exit

    counts, sizes = ([int(part) for part in text.split(",")] for text in (clients, facts))
    with progress("latency", len(counts) * len(sizes)) as tick:
        work = run(settings_or_exit(), clients=counts, facts=sorted(sizes), requests=requests, durability=durability, tick=tick)
        report("latency", asyncio.run(work), json_file)


@cli.command("load")
def load_command(
    rate: Annotated[float, typer.Option("--rate", help="requests a second")] = 5.0,
    seconds: Annotated[float, typer.Option("--seconds", max=7200, help="how long requests arrive")] = 60.0,
    tenants: Annotated[int, typer.Option("--tenants", min=1, max=1000)] = 20,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    json_file: Json = None,
) -> None:
    """An open-loop mix of generate, write and forget over many tenants, for a bounded time."""
    import asyncio

    from app.bench.load import SAMPLES
    from app.bench.load import load as run
    from app.cli.serve import settings_or_exit

    with progress("load", SAMPLES) as tick:
        work = run(settings_or_exit(), rate=rate, seconds=seconds, tenants=tenants, seed=seed, tick=tick)
        report("load", asyncio.run(work), json_file)


@cli.command()
def editors(
    data: Annotated[Path, typer.Option("--data", help="CounterFact records in EasyEdit's format")],
    n: Annotated[int, typer.Option("--n", min=1, help="how many records are edited")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="draws the records")] = 0,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """Our write beside FT, FT-L, a ROME-style and a GRACE-style edit: time and quality on the same records."""
    from app.bench.editors import editors as run
    from app.cli.serve import fail
    from models.errors import DataMissing
    from models.evaluation.records import choose, read

    try:
        drawn = choose(read(data, "counterfact"), n + 200, seed)
    except (DataMissing, OSError) as error:
        fail(str(error))
    model = load(threads)
    with progress("editors", 5 * n) as tick:
        texts = [record.prompt for record in drawn[n:]]  # of records that are not edited
        report("editors", run(model, drawn[:n], texts, seed=seed, tick=tick), json_file, str(model.device))


@cli.command()
def tenant(
    facts: Annotated[int, typer.Option(min=1000, help="of the tenant")] = 10_000,
    repeats: Annotated[int, typer.Option(min=10, help="of each operation that is timed")] = 100,
    threads: Threads = None,
    json_file: Json = None,
) -> None:
    """A tenant of many facts over the embedded store, without a model: write, look up, forget, load."""
    import torch

    from app.bench.large_tenant import run

    if threads:
        torch.set_num_threads(threads)
    with progress("facts", facts // 1000) as done:
        figures = run(facts, repeats, lambda _: done())
    report("tenant", figures, json_file)


@cli.command()
def size(
    tenants: Annotated[int, typer.Option("--tenants", min=2, max=1000, help="half of them are weighed")] = 40,
    facts: Annotated[int, typer.Option("--facts", min=1, help="in each")] = 100,
    json_file: Json = None,
) -> None:
    """Bytes a fact and a tenant take in the server, the store and on disk; facts a second in bulk; tenants a GB."""
    import asyncio

    from app.bench.size import size as run
    from app.cli.serve import settings_or_exit

    with progress("size", tenants) as tick:
        report("size", asyncio.run(run(settings_or_exit(), tenants=tenants, facts=facts, tick=tick)), json_file)


@cli.command("lookups")
def lookups_command(
    facts: Annotated[int, typer.Option("--facts", min=2, help="of the tenant that looks")] = 20_000,
    tokens: Annotated[int, typer.Option("--tokens", min=4, help="of each text that is streamed meanwhile")] = 128,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="texts beside each kind of look-up")] = 3,
    json_file: Json = None,
) -> None:
    """How long another tenant's tokens wait for look-ups through all facts of a large tenant."""
    import asyncio

    from app.bench.lookups import KINDS
    from app.bench.lookups import lookups as run
    from app.cli.serve import settings_or_exit

    with progress("lookups", rounds * KINDS) as tick:
        work = run(settings_or_exit(), facts=facts, tokens=tokens, rounds=rounds, tick=tick)
        report("lookups", asyncio.run(work), json_file)


@cli.command("walk")
def walk_command(
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="generated by POST /generate")] = 8,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="of each request; the least figures count")] = 5,
    json_file: Json = None,
) -> None:
    """Files, functions and changes of thread that a teach, a generate and a forget go through."""
    from app.bench.request_walk import request_walk as run
    from app.server.logs import configure

    configure("warning")  # the server shares our output
    model = load(None)
    with progress("walk", repeats + 1) as tick:
        report("walk", run(model, tokens=tokens, repeats=repeats, tick=tick), json_file, str(model.device))


@cli.command("plot")
def plot_command(
    figures: Annotated[Path, typer.Option("--from", help="folder of decode.json, editors.json, load.json")] = Path("docs/figures"),
    pictures: Annotated[Path, typer.Option("--to", help="folder of the pictures")] = Path("docs/images"),
) -> None:
    """Draw the figures of recorded runs."""
    from app.bench.plots import plot as run

    for path in run(figures, pictures):
        typer.echo(path)
