"""`larimar train`: the adapter of a decoder, from nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.cli.serve import fail, settings_or_exit

if TYPE_CHECKING:
    import torch

    from models.adapter import Adapter
    from models.engine.decoder import Decoder
    from models.training.corpus import Corpus
    from models.training.mixture import Mixture
    from models.training.prefix_training import Checkpoint, Schedule

console = Console(stderr=True)


def train(
    data: Annotated[Path, typer.Option("--data", help="folder of the public data sets named in the README")],
    decoder: Annotated[str, typer.Option("--decoder", help="registered name, folder or hub name")] = "smollm2-135m",
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="how long to train; the step time is measured first")] = 30.0,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="steps instead of minutes")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1)] = 48,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="the adapter; default runs/DECODER/adapter.safetensors")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="folder of checkpoint, log and plot; default runs/DECODER")] = None,
) -> None:
    """Train an adapter. Started again with the same --run it goes on from its checkpoint, bit for bit as if never stopped."""
    from models.errors import ModelError

    folder = run or Path("runs") / Path(decoder).name
    try:
        _train(data, decoder, minutes, steps, batch, seed, out or folder / "adapter.safetensors", folder)
    except (ModelError, ValueError, OSError) as error:
        fail(str(error))


@contextmanager
def training(steps: int) -> Iterator[Callable[[int, str], None]]:
    """A progress bar; gives a function that is told how many steps are done and what to say of them."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=steps, said="")
        yield lambda done, said: progress.update(task, completed=done, said=said)


def _train(
    data: Path, decoder_name: str, minutes: float, steps: int | None, batch: int, seed: int, out: Path, folder: Path
) -> None:
    from dataclasses import asdict, replace

    from models.device import pick, training_dtype
    from models.training.corpus import Corpus
    from models.training.curve import plot
    from models.training.mixture import Mixture
    from models.training.prefix_training import Checkpoint

    corpus, checkpoint = Corpus.read(data), Checkpoint(folder / "checkpoint.safetensors")
    settings = settings_or_exit()
    device = pick(settings.device)
    begun = checkpoint.schedule() if checkpoint.path.exists() else None
    dtype = begun.dtype if begun else str(training_dtype(device)).removeprefix("torch.")
    decoder, adapter = _parts(decoder_name, corpus, settings.weights_dir, device, dtype, begun.seed if begun else seed)
    mixture = Mixture(corpus, decoder)
    if begun is None:
        schedule = _schedule(adapter, mixture, minutes, steps, batch, seed, dtype)
    else:  # a run keeps its schedule when it is resumed on a slower day
        schedule = begun
        console.print(f"going on from {checkpoint.path} ({schedule.steps} steps)")
    folder.mkdir(parents=True, exist_ok=True)
    seconds, figures = _run(adapter, mixture, schedule, checkpoint, folder / "log.jsonl")
    about = adapter.about | {"schedule": asdict(schedule), "train_seconds": round(seconds)} | figures
    replace(adapter, about=about).save(out)
    try:
        plot(folder / "log.jsonl", folder / "loss.png")
    except ImportError:
        console.print("no plot: matplotlib is not installed (pip install 'larimar-server[train]')")
    console.print(f"{out}: {100 * figures['validation']:.1f}% exact on relations never trained on, {seconds / 60:.1f} minutes")


def _parts(
    name: str, corpus: Corpus, cache: Path, device: torch.device, dtype: str, seed: int
) -> tuple[Decoder, Adapter]:
    import torch
    from transformers import AutoTokenizer

    from models import weights
    from models.engine.decoder import Decoder
    from models.model import hush
    from models.model_files import ENCODER
    from models.training import fitting

    found, encoder = (weights.locate(what, cache, console.print) for what in (name, ENCODER))
    hush()
    wanted = getattr(torch, dtype)
    decoder = Decoder.load(found.folder, device, fingerprint=found.fingerprint, name=name, dtype=wanted)
    tokenizer = AutoTokenizer.from_pretrained(encoder.folder, local_files_only=True)
    return decoder, fitting.fit(decoder, tokenizer, corpus, encoder_fingerprint=encoder.fingerprint, seed=seed)


def _schedule(
    adapter: Adapter, mixture: Mixture, minutes: float, steps: int | None, batch: int, seed: int, dtype: str
) -> Schedule:
    """One that fills the minutes, by the time of a few steps."""
    from models.training.prefix_training import Schedule, step_time

    if steps is None:
        took = step_time(adapter.prefix, mixture, Schedule(steps=8, batch=batch, seed=seed, dtype=dtype))
        steps = max(30, int(60 * minutes / took))
        console.print(f"{took:.2f} s a step in {dtype}: {steps} steps in {minutes:g} minutes")
    return Schedule(steps=steps, batch=batch, seed=seed, dtype=dtype)


def _run(
    adapter: Adapter, mixture: Mixture, schedule: Schedule, checkpoint: Checkpoint, log: Path
) -> tuple[float, dict[str, float]]:
    """Train with a progress bar; returns the seconds spent (earlier parts of a resumed run included) and the last figures."""
    from models.training.curve import read
    from models.training.prefix_training import train

    with training(schedule.steps) as tell, log.open("a") as file:
        said: dict[str, str] = {}

        def report(record: dict[str, Any]) -> None:
            file.write(json.dumps(record | {"at": round(time.time(), 3)}) + "\n")
            file.flush()
            said["loss"] = f"loss {record['loss']:.3f}"
            if "validation" in record:
                said["validation"] = f"held out {100 * record['validation']:.1f}%"
            tell(record["step"] + 1, " ".join(said.values()))

        train(adapter.prefix, mixture, schedule, checkpoint=checkpoint, report=report)
    adapter.prefix.eval()
    records = read(log)
    return sum(r["seconds"] for r in records), {"validation": [r["validation"] for r in records if "validation" in r][-1]}
