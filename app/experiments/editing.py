"""Edit success, paraphrase and neighbourhood, beside the plain model and facts in the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from rich.table import Table

from app.experiments.recall import Retrieved
from app.experiments.setup import Setup, bar
from models.evaluation.edit_scores import Row, summarise
from models.evaluation.examiner import Examiner
from models.evaluation.run import run
from models.evaluation.systems import FactInPrompt, Plain, System


def editing(setup: Setup) -> Table:
    """Run the systems on records of the experiment's format.

    Raises:
        ModelError: weights, adapter or data are not as they must be.
        ValueError: an unknown system.
    """
    records, taught = setup.records(setup.experiment)
    recall = setup.recall(taught)
    known: dict[str, System] = {"larimar": recall, "plain": Plain(), "prompt": FactInPrompt(), "retrieved": Retrieved(recall)}
    if unknown := set(setup.systems) - set(known):
        raise ValueError(f"unknown system {', '.join(sorted(unknown))}: known are {', '.join(known)}")
    systems = {name: known[name] for name in setup.systems}
    partial = setup.partial()
    with bar(setup.experiment, setup.n) as report:
        rows = run(Examiner(setup.model), systems, records, partial, report)
    results = {name: summarise(found) for name, found in rows.items()}
    setup.write({"systems": results, "write_ms_median": 1e3 * median(recall.write_s) if recall.write_s else None})
    partial.done()
    return _table(setup, results)


def _table(setup: Setup, results: Mapping[str, Row]) -> Table:
    title = f"{setup.experiment}: {setup.n} records, facts in memory: {setup.facts_in_memory} (percent)"
    table = Table("", *results, title=title, title_justify="left")
    for examined, measures in next(iter(results.values())).items():
        for measure in measures:
            table.add_row(f"{examined} {measure}", *(f"{100 * found[examined][measure]:.1f}" for found in results.values()))
    return table
