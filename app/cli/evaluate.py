"""`larimar evaluate`: how well facts are taught, found in other words, kept apart and forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

cli = typer.Typer(no_args_is_help=True, help="Measure editing quality and forgetting, beside other ways to tell a model a fact.")
Data = Annotated[Path, typer.Option("--data", help="records as JSON lines or a JSON list, gzipped or not")]
Count = Annotated[int, typer.Option("--n", min=1, help="how many records")]
InMemory = Annotated[int, typer.Option("--facts-in-memory", min=1, help="facts in the memory; 1 gives every record its own")]
Fill = Annotated[Path | None, typer.Option("--fill", help="CounterFact file with more facts, when --data has too few for the memory")]
Systems = Annotated[str, typer.Option("--systems", help="compared systems: larimar, plain, prompt, retrieved")]
Seed = Annotated[int, typer.Option("--seed", help="draws the records")]
Json = Annotated[Path | None, typer.Option("--json", help="write figures to this file; an interrupted run goes on from beside it")]
Decoder = Annotated[str | None, typer.Option("--decoder", help="default: LARIMAR_DECODER")]
Adapter = Annotated[Path | None, typer.Option("--adapter", help="default: LARIMAR_ADAPTER, or the shipped one")]


def run(experiment: str, function: str, **options: Any) -> None:
    """Run `app.experiments.<module>.<function>` and print its table; known errors end the command with one line."""
    import importlib

    from rich.console import Console

    from app.cli.serve import fail, settings_or_exit
    from app.experiments.setup import Setup
    from models.errors import ModelError

    settings_or_exit()
    try:
        table = getattr(importlib.import_module(f"app.experiments.{function}"), function)(Setup(experiment, **options))
    except (ModelError, ValueError, OSError) as error:
        fail(str(error))
    Console().print(table)


def _command(experiment: str, function: str, n: int, facts: int) -> Callable[..., None]:
    def command(
        data: Data,
        n: Count = n,
        facts_in_memory: InMemory = facts,
        fill: Fill = None,
        systems: Systems = "larimar,plain,prompt,retrieved",
        seed: Seed = 0,
        json_file: Json = None,
        decoder: Decoder = None,
        adapter: Adapter = None,
    ) -> None:
        run(
            experiment,
            function,
            data=data,
            n=n,
            facts_in_memory=facts_in_memory,
            fill=fill,
            systems=tuple(name.strip() for name in systems.split(",")),
            seed=seed,
            json_file=json_file,
            decoder=decoder,
            adapter=adapter,
        )

    return command


EXPERIMENTS = (
    ("counterfact", "editing", 500, 1, "CounterFact in EasyEdit's format: edit success, paraphrase, neighbourhood."),
    ("zsre", "editing", 500, 1, "zsRE in MEND's and EasyEdit's format: questions."),
    ("private", "editing", 40, 40, 'Facts of your own: {"prompt", "target", "rephrases": […], "near_misses": […]} a line.'),
    ("relations", "editing", 500, 1, "LRE relations that training leaves out whole."),
    ("long", "editing", 200, 1, "zsRE questions with answers of 9 to 64 tokens, made of --fill's statements."),
    ("passages", "editing", 200, 1, "The same with answers of 65 to 256 tokens, which take several prefixes."),
    ("several", "several", 200, 1, "Two or three zsRE questions in one prompt, all answers taught."),
    ("hops", "hops", 200, 1, "Two-hop questions (MQuAKE style) from LRE relations: the second fact is about the first one's answer."),
    ("fluency", "fluency", 200, 1, "48 tokens after a CounterFact edit: repetition and perplexity beside the plain model's."),
    ("retention", "retention", 200, 9000, "CounterFact facts written once each: are the first and the last still recalled?"),
    ("evolution", "evolution", 200, 2000, "10,000 random writes, updates and forgets: what is recalled, and what comes back?"),
    ("scope", "scope", 300, 5000, "Scope alone: rephrases against neighbours at every threshold, for growing memories."),
    ("context", "context", 20, 256, "1 to 256 facts in the memory, or all of them in the prompt: what is said, and in which time?"),
    ("untouched", "untouched", 500, 1000, "Running text (--data) with --fill's facts in the memory: perplexity and words as before?"),
    ("ablations", "ablations", 100, 512, "CounterFact with one part left out, or in the paper's form: what is each part worth?"),
    ("membership", "membership", 300, 512, "Can who looks at a memory tell facts that were in it from facts that never were?"),
    ("selective", "selective", 200, 2048, "Half of a memory is forgotten: is that half gone, and the other still there?"),
    ("cleanup", "cleanup", 100, 1, "How noisy a readout may be, and how many facts make it so: theory beside measurement."),
    ("forget", "forgetting", 200, 512, "CounterFact facts forgotten one by one: are plain answers back, and other readouts unmoved?"),
)
for _name, _function, _n, _facts, _help in EXPERIMENTS:
    cli.command(_name, help=_help)(_command(_name, _function, _n, _facts))


@cli.command("everyday")
def everyday_command(
    files: Annotated[list[Path], typer.Argument(help="everyday facts, P|Q|T|F lines or JSON lines; each file is one memory")],
    rows: Annotated[Path | None, typer.Option("--rows", help="write every question and what was read, as JSON lines")] = None,
) -> None:
    """Facts as people write them and ask for them: read rightly, another fact, near misses let in; by file, form and language.

    Each file is taught to a memory of its own, whole, and asked as POST /query does, with the reader and threshold of the settings.
    """
    from rich.console import Console

    from app.cli.serve import fail, settings_or_exit
    from app.experiments.everyday_facts import everyday_facts
    from app.experiments.setup import console
    from app.server.model_loading import model_of, scope_of
    from models.errors import ModelError

    settings = settings_or_exit()
    try:
        model = model_of(settings, console.print)
        table = everyday_facts(files, model, scope_of(model, settings), rows)
    except (ModelError, ValueError, OSError) as error:
        fail(str(error))
    Console().print(table)


@cli.command("plot")
def plot_command(
    figures: Annotated[Path, typer.Option("--from", help="folder of recorded evaluations")] = Path("docs/figures/evaluation"),
    pictures: Annotated[Path, typer.Option("--to", help="folder of the pictures")] = Path("docs/images"),
) -> None:
    """Draw the figures of recorded runs."""
    from app.experiments.figures import plot

    for path in plot(figures, pictures):
        typer.echo(path)
