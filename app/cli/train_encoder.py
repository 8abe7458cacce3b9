"""`larimar train-encoder`: the low-rank update that teaches the sentence encoder which wordings want the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.lesson import Lesson
from app.cli.serve import fail
from app.cli.train import console, training


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
    from models.training.encoder_training import Schedule, refine, separation
    from models.training.wordings import Wants

    lesson, schedule, last = Lesson.prepare(data), Schedule(steps=steps, seed=seed), dict[str, Any]()
    before = separation(lesson.trunk, lesson.tokenizer, lesson.held_out)
    with training(steps) as tell:

        def report(record: dict[str, Any]) -> None:
            last.update(record)
            tell(record["step"], f"loss {record['loss']:.3f}")

        update = refine(lesson.trunk, lesson.tokenizer, Wants(lesson.corpus, lesson.taught), lesson.held_out, schedule, report)
    about = lesson.about(schedule, separation_before=before, separation={name: last[name] for name in before})
    replace(update, about=about).save(out)
    told = ", ".join(f"{name} {before[name]:.3f} before, {last[name]:.3f} now" for name in before)
    console.print(f"{out}: area under the curve on kinds never trained on, against another {told}")
