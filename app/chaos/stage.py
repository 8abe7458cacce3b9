"""Where a fault is made, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from app.chaos.processes import Larimar
from app.chaos.workload import Workload

VIOLATIONS = ("lost", "returned", "half", "unasked", "needles")


@dataclass
class Outcome:
    """What a fault did, over all its rounds."""

    fault: str
    store: str
    rounds: int
    seed: int
    writes: int = 0
    forgets: int = 0
    lost: int = 0
    returned: int = 0
    half: int = 0
    unasked: int = 0
    needles: int = 0
    seconds: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not any(getattr(self, name) for name in VIOLATIONS) and self.writes > 0


@dataclass(frozen=True)
class Stage:
    """Where a fault is made.

    Attributes:
        folder: empty; all files of the run.
        weights: folder of converted weights.
        store: `embedded` or `redis`.
    """

    folder: Path
    weights: Path
    store: str
    rounds: int
    seed: int
    say: Callable[[str], None]

    def outcome(self, fault: str) -> Outcome:
        return Outcome(fault, self.store, self.rounds, self.seed)


def wait_until_ready(server: Larimar, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.url}/health/ready", timeout=10, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError("the server did not get ready again")


def count(stage: Stage, outcome: Outcome, number: int, *workloads: Workload) -> None:
    violations = 0
    for workload in workloads:
        found = workload.check()
        violations += found.count
        for name in ("lost", "returned", "half", "unasked"):
            ids = getattr(found, name)
            setattr(outcome, name, getattr(outcome, name) + len(ids))
            outcome.examples += [f"round {number}: {name} {fact_id}" for fact_id in ids[:3]]
    outcome.writes, outcome.forgets = (sum(getattr(w.ledger, name) for w in workloads) for name in ("writes", "forgets"))
    stage.say(f"{outcome.fault} round {number + 1}: {outcome.writes} writes, {outcome.forgets} forgets, {violations} violations")
