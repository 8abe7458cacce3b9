"""Facts taught, taught and forgotten, never taught: what tells them apart, in the memory, in its time, and for another tenant."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

import httpx
from rich.table import Table

from app.bench.server import serving
from app.experiments.recall import Recall, queries
from app.experiments.setup import Setup, steps
from app.server.settings import Settings
from models.evaluation.examiner import Examiner
from models.evaluation.membership_inference import attack
from models.evaluation.records import Record
from models.evaluation.systems import Ask

READS = 7  # of one prompt, for its median time
KEYS = {"watching": "key-of-watching", "holding": "key-of-holding"}


def membership(setup: Setup) -> Table:
    """Area under the ROC curve of each observation: of the n facts a third is taught, one is taught and forgotten, one never taught.

    Raises:
        ModelError: as `editing`.
    """
    examined, pool = setup.records("counterfact")
    third = len(examined) // 3
    taught, forgotten, never = examined[:third], examined[third : 2 * third], examined[2 * third : 3 * third]
    recall = setup.recall([*pool[len(examined) :], *taught])
    for record in steps("forgetting", forgotten):
        recall.forget(recall.teach(record))
    seen = {name: _observe(setup, recall, group) for name, group in (("taught", taught), ("forgotten", forgotten), ("never", never))}
    seen |= dict(zip(("other tenant's", "nobody's"), asyncio.run(_watch(taught, never)), strict=True))
    figures = {}
    for one, other in (("taught", "never"), ("forgotten", "never"), ("other tenant's", "nobody's")):
        for what in seen[one]:
            figures[f"{one} or {other}: {what}"] = asdict(attack(seen[one][what], seen[other][what], setup.seed))
    setup.write({"membership": figures})
    title = f"membership: {third} facts of each group, {len(recall.memory)} in memory"
    table = Table("told apart by", "area under the curve", "95% interval", title=title, title_justify="left")
    for what, found in figures.items():
        table.add_row(what, f"{found['auc']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}")
    return table


def _observe(setup: Setup, recall: Recall, records: Sequence[Record]) -> dict[str, list[float]]:
    examiner, memory = Examiner(setup.model), recall.memory
    values: dict[str, list[float]] = {"answer differs from the plain model's": [], "variance at its key": [], "norm of the readout": []}
    values["time of a reading"] = []
    for record in steps("observing", records):
        asked = queries(setup.model, record.prompt)
        reading = memory.read(asked)
        said, plain = examiner.say([Ask(record.prompt, reading.readouts), Ask(record.prompt)], 16)
        values["answer differs from the plain model's"].append(float(said != plain))
        values["variance at its key"].append(-reading.variance)
        values["norm of the readout"].append(0.0 if reading.code is None else float(reading.code.norm()))
        times = []
        for _ in range(READS):
            started = time.perf_counter()
            memory.read(asked)
            times.append(time.perf_counter() - started)
        values["time of a reading"].append(median(times))
    return values


async def _watch(held: Sequence[Record], free: Sequence[Record]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """What a tenant sees of facts that another tenant holds, and of facts that nobody holds, in random order."""
    keys = ",".join(f"{key}:{tenant}" for tenant, key in KEYS.items())
    async with (
        serving(Settings(), LARIMAR_API_KEYS=keys) as (url, _),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
    ):
        for record in held:
            body = {"prompt": record.prompt, "target": record.target}
            (await client.post("/facts", json=body, headers={"X-API-Key": KEYS["holding"]})).raise_for_status()
        order = [(record, True) for record in held] + [(record, False) for record in free]
        random.Random(0).shuffle(order)
        seen: dict[bool, dict[str, list[float]]] = {which: {"in scope": [], "time of a query": []} for which in (True, False)}
        for record, which in order:
            times = []
            for _ in range(READS):
                started = time.perf_counter()
                answer = await client.post("/query", json={"prompt": record.prompt}, headers={"X-API-Key": KEYS["watching"]})
                times.append(time.perf_counter() - started)
            seen[which]["in scope"].append(float(answer.json()["scope"]["in_scope"]))
            seen[which]["time of a query"].append(median(times))
    return seen[True], seen[False]
