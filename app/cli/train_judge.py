"""`larimar train-judge`: the cross-encoder that scope asks where keys leave doubt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.lesson import Lesson
from app.cli.serve import fail
from app.cli.train import console, training


def train_judge(
    data: Annotated[Path, typer.Option("--data", help="folder of the public data sets named in the README")],
    steps: Annotated[int, typer.Option("--steps", min=1)] = 1000,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    out: Annotated[Path, typer.Option("--out", help="the judge, for LARIMAR_JUDGE")] = Path("runs/judge/judge.safetensors"),
    start: Annotated[Path | None, typer.Option("--start", help="a judge to go on from")] = None,
    rate: Annotated[float, typer.Option("--rate", min=0.0, help="learning rate")] = 1e-3,
) -> None:
    """Train the judge, some 30 minutes on one core. Stored memories do not depend on it."""
    from models.errors import ModelError

    try:
        _train(data, steps, seed, out, start, rate)
    except (ModelError, OSError) as error:
        fail(str(error))


def _train(data: Path, steps: int, seed: int, out: Path, start: Path | None, rate: float) -> None:
    from models.scope.judge import JudgeUpdate
    from models.training.judge_training import Pairs, Schedule, train
    from models.training.synonyms import SYNONYMS, Synonyms
    from models.training.wordings import digest

    lesson, schedule, last = Lesson.prepare(data), Schedule(steps=steps, seed=seed, learning_rate=rate), dict[str, Any]()
    begun = None if start is None else JudgeUpdate.load(start)
    pairs = Pairs(lesson.corpus, lesson.taught, Synonyms.read())
    with training(steps) as tell:

        def report(record: dict[str, Any]) -> None:
            last.update(record)
            tell(record["step"], f"loss {record['loss']:.3f}" + (f" relation {last['relation']:.3f}" if "relation" in last else ""))

        update = train(lesson.trunk, lesson.tokenizer, pairs, lesson.held_out, schedule, report, begun)
    separation = {name: last[name] for name in ("subject", "name", "relation", "close") if name in last}
    earlier = {} if begun is None else {"start": begun.about}
    about = lesson.about(schedule, separation=separation) | earlier
    about["data"] |= {SYNONYMS.name: digest(SYNONYMS)}
    replace(update, about=about).save(out)
    told = ", ".join(f"{name} {area:.3f}" for name, area in separation.items())
    console.print(f"{out}: area under the curve on kinds never trained on, against another {told}")
