"""`larimar train-encoder`: the low-rank update that teaches the sentence encoder which wordings want the same."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.cli.serve import fail, settings_or_exit

console = Console(stderr=True)


def train_encoder(
    data: Annotated[Path, typer.Option("--data", help="folder of the public data sets named in the README")],
    steps: Annotated[int, typer.Option("--steps", min=1)] = 400,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    out: Annotated[Path, typer.Option("--out", help="the update, for LARIMAR_ENCODER_UPDATE")] = Path("runs/encoder/update.safetensors"),
) -> None:
    """Train the encoder's low-rank update, some ten minutes on two cores. A store written with another update has to be encoded anew."""
    from models.errors import ModelError

    try:
        _train(data, steps, seed, out)
    except (ModelError, OSError) as error:
        fail(str(error))


def _train(data: Path, steps: int, seed: int, out: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from models import weights
    from models.corpus import Corpus
    from models.model import ENCODER, hush
    from models.refining import Schedule, refine, separation
    from models.wants import HELD_OUT, Wants, digest, kinds

    corpus, known, schedule = Corpus.read(data), kinds(), Schedule(steps=steps, seed=seed)
    found = weights.locate(ENCODER, settings_or_exit().weights_dir, console.print)
    hush()
    trunk = AutoModel.from_pretrained(found.folder, local_files_only=True, dtype=torch.float32, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(found.folder, local_files_only=True)
    before, started, last = separation(trunk, tokenizer, known[-HELD_OUT:]), time.perf_counter(), dict[str, Any]()
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=steps, said="")

        def report(record: dict[str, Any]) -> None:
            last.update(record)
            progress.update(task, completed=record["step"], said=f"loss {record['loss']:.3f}")

        update = refine(trunk, tokenizer, Wants(corpus, known[:-HELD_OUT]), known[-HELD_OUT:], schedule, report)
    about = {
        "encoder": ENCODER,
        "encoder_fingerprint": found.fingerprint,
        "data": corpus.hashes | {"wordings.jsonl": digest()},
        "schedule": asdict(schedule),
        "train_seconds": round(time.perf_counter() - started),
        "separation_before": before,
        "separation": {name: last[name] for name in before},
    }
    replace(update, about=about).save(out)
    told = ", ".join(f"{name} {before[name]:.3f} before, {last[name]:.3f} now" for name in before)
    console.print(f"{out}: area under the curve on kinds never trained on, against another {told}")
