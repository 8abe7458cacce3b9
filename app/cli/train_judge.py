"""`larimar train-judge`: the cross-encoder that scope asks where keys leave doubt."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.serve import fail, settings_or_exit
from app.cli.train import console, training


def train_judge(
    data: Annotated[Path, typer.Option("--data", help="folder of the public data sets named in the README")],
    steps: Annotated[int, typer.Option("--steps", min=1)] = 1000,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    out: Annotated[Path, typer.Option("--out", help="the judge, for LARIMAR_JUDGE")] = Path("runs/judge/judge.safetensors"),
) -> None:
    """Train the judge, some 30 minutes on one core. Stored memories do not depend on it."""
    from models.errors import ModelError

    try:
        _train(data, steps, seed, out)
    except (ModelError, OSError) as error:
        fail(str(error))


def _train(data: Path, steps: int, seed: int, out: Path) -> None:
    from models import weights
    from models.corpus import Corpus
    from models.encoder import read
    from models.judging import Pairs, Schedule, train
    from models.model import hush
    from models.parts import ENCODER
    from models.wants import HELD_OUT, digest, kinds

    corpus, known, schedule = Corpus.read(data), kinds(), Schedule(steps=steps, seed=seed)
    found = weights.locate(ENCODER, settings_or_exit().weights_dir, console.print)
    hush()
    started, last = time.perf_counter(), dict[str, Any]()
    with training(steps) as tell:

        def report(record: dict[str, Any]) -> None:
            last.update(record)
            tell(record["step"], f"loss {record['loss']:.3f}" + (f" relation {last['relation']:.3f}" if "relation" in last else ""))

        update = train(*read(found.folder), Pairs(corpus, known[:-HELD_OUT]), known[-HELD_OUT:], schedule, report)
    about = {
        "encoder": ENCODER,
        "encoder_fingerprint": found.fingerprint,
        "data": corpus.hashes | {"wordings.jsonl": digest()},
        "schedule": asdict(schedule),
        "train_seconds": round(time.perf_counter() - started),
        "separation": {name: last[name] for name in ("subject", "relation")},
    }
    replace(update, about=about).save(out)
    told = ", ".join(f"{name} {last[name]:.3f}" for name in ("subject", "relation"))
    console.print(f"{out}: area under the curve on kinds never trained on, against another {told}")
