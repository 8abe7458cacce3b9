"""`larimar train-reader`: the reader that says whether a fact answers a question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.serve import fail
from app.cli.train import console


def train_reader(
    data: Annotated[Path, typer.Option("--data", help="folder of the public scope_answerable and scope_question_pairs")],
    minutes: Annotated[float, typer.Option("--minutes", min=0.01)] = 90.0,
    out: Annotated[Path, typer.Option("--out", help="the reader's update")] = Path("runs/reader/mpnet-base-reader.safetensors"),
    start: Annotated[Path | None, typer.Option("--start", help="an update to go on from")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1)] = 2,
    seed: Annotated[int, typer.Option("--seed")] = 0,
) -> None:
    """Train the reader's low-rank update, some 20 pairs a second on two cores; then `larimar calibrate` says what it means."""
    from app.server.settings import Settings
    from models.errors import ModelError
    from models.model_files import ENCODER, READER
    from models.training.reader_training import Schedule, train
    from models.weights import locate

    try:
        folder = Settings().weights_dir
        base, near = (locate(name, folder, console.print) for name in (READER, ENCODER))
        schedule = Schedule(minutes=minutes, seed=seed, threads=threads)
        train(base, near.folder, data, out, schedule, lambda line: console.print(line, markup=False), start=start)
    except (ModelError, OSError, ValueError) as error:
        fail(str(error))
