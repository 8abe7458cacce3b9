"""Writes the parts of the documentation that the code knows best: `python docs/reference.py`, or `make reference`.

A part stands between `<!-- begin NAME -->` and `<!-- end NAME -->` on a page of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import typer
from prometheus_client.metrics import MetricWrapperBase
from typer.cli import get_docs_for_click

from app.cli import cli
from app.cli.settings import table
from app.server.gauges import CALIBRATED, GAUGES, RESIDUAL_MAX
from app.server.metrics import Metrics

FOLDER = Path(__file__).parent


def commands() -> str:
    """Every command with its arguments and options, as typer documents it."""
    command = typer.main.get_command(cli)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="larimar"), name="larimar")
    return re.sub(r"^\* `--help`.*\n", "", text, flags=re.MULTILINE).partition("\n")[2].strip()


def metrics() -> str:
    """A table of everything the server exports of its own."""
    rows = ["| metric | kind | labels | what |", "|---|---|---|---|"]
    for metric in filter(lambda m: isinstance(m, MetricWrapperBase), vars(Metrics(tenants=1)).values()):
        (family,) = metric.collect()
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append(f"| `{name}` | {family.type} | {', '.join(metric._labelnames)} | {family.documentation} |")
    gauges = {name: documentation for name, (documentation, _) in GAUGES.items()} | {
        "larimar_residual_max": RESIDUAL_MAX,
        "larimar_reader_calibrated": CALIBRATED,
    }
    rows += [f"| `{name}` | gauge | | {documentation} |" for name, documentation in gauges.items()]
    rows.append("| `larimar_gpu_memory_bytes` | gauge | kind | Memory of the device, on a GPU |")
    rows.append("| `larimar_model_info` | gauge | version, decoder, fingerprint, device | The model that is served |")
    return "\n".join(rows)


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "commands": ("cli.md", commands),
    "metrics": ("operations.md", metrics),
    "settings": ("settings.md", table),
}


def render(name: str) -> str:
    """The page of a part, with that part made anew."""
    page, make = PARTS[name]
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, _, rest = (FOLDER / page).read_text().partition(begin)
    return f"{before}{begin}\n\n{make()}\n\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    for name, (page, _) in PARTS.items():
        (FOLDER / page).write_text(render(name))
