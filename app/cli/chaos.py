"""`larimar chaos`: faults made on purpose, on this machine only."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def chaos(
    faults: Annotated[list[str] | None, typer.Argument(help="which; all when none is named")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="of each fault")] = 5,
    store: Annotated[str, typer.Option(help="embedded or redis, where a fault leaves the choice")] = "embedded",
    seed: Annotated[int, typer.Option(help="of what is asked and when a fault comes")] = 0,
    report: Annotated[Path | None, typer.Option("--json", help="write the outcomes to this file")] = None,
) -> None:
    """Make faults in servers of this machine, and check that nothing acknowledged is lost and nothing forgotten returns."""
    from app.chaos.faults import FAULTS
    from app.chaos.processes import Missing
    from app.chaos.stage import Stage
    from app.cli.serve import settings_or_exit

    named = faults or list(FAULTS)
    if unknown := [name for name in named if name not in FAULTS]:
        typer.echo(f"larimar: no fault {unknown[0]!r}; there are {', '.join(FAULTS)}", err=True)
        raise typer.Exit(2)
    if store not in ("embedded", "redis"):
        typer.echo(f"larimar: --store {store!r}: wanted embedded or redis", err=True)
        raise typer.Exit(2)
    outcomes, weights = [], settings_or_exit().weights_dir
    for name in named:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="larimar-chaos-") as folder:
            stage = Stage(Path(folder), weights, store, rounds, seed, lambda text: typer.echo(text, err=True))
            try:
                outcome = FAULTS[name](stage)
            except Missing as missing:
                typer.echo(f"larimar: {name}: {missing}", err=True)
                raise typer.Exit(2) from None
        outcome.seconds = round(time.monotonic() - started, 1)
        outcomes.append(outcome)
        typer.echo(f"{name:18} {'passed' if outcome.passed else 'FAILED'}  {outcome}")
    if report is not None:
        report.write_text(json.dumps([asdict(outcome) | {"passed": outcome.passed} for outcome in outcomes], indent=1) + "\n")
    if not all(outcome.passed for outcome in outcomes):
        raise typer.Exit(1)
