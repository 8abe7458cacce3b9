"""`larimar calibrate`: what a reader's log-odds mean, fitted on facts that it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.serve import fail
from app.cli.train import console


def calibrate(
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="everyday facts (P|Q|T|F or JSON lines), each file one memory; else those shipped")
    ] = None,
    counterfact: Annotated[Path | None, typer.Option("--counterfact", help="CounterFact records, for beginnings of statements")] = None,
    check: Annotated[list[Path] | None, typer.Option("--check", help="files that nothing is fitted on, to report")] = None,
    asks: Annotated[int | None, typer.Option("--asks", min=1, help="questions of each checked file at most, drawn from all")] = None,
    let_in: Annotated[float, typer.Option("--let-in", min=0.001, max=0.5, help="share of near misses that the threshold lets in")] = 0.05,
    out: Annotated[Path | None, typer.Option("--out", help="the calibration; by default beside the reader")] = None,
    rows: Annotated[Path | None, typer.Option("--rows", help="write every question and what was read, as JSON lines")] = None,
) -> None:
    """Fit weights and threshold of the reader that LARIMAR_READER names, and print what they let in and what they miss."""
    from app.server.model_loading import model_of
    from app.server.settings import Settings
    from models.errors import ModelError
    from models.model_files import calibration_file
    from models.training.calibration import SHIPPED, calibrated

    try:
        settings = Settings()
        model = model_of(settings, console.print)
        if model.scope is None:
            fail("LARIMAR_READER=none: there is no reader to calibrate")
        found = calibrated(
            model.scope,
            model.encoder,
            data or SHIPPED,
            counterfact=counterfact,
            check=check or [],
            asks=asks,
            let_in=let_in,
            rows=rows,
            say=console.print,
        )
        found.save(to := out or calibration_file(settings.reader))
        console.print(f"{to}: threshold {found.threshold}", markup=False)
    except (ModelError, OSError, ValueError) as error:
        fail(str(error))
