"""Clients that write and forget at once, and enter every answer in the ledger."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from app.chaos.ledger import Ledger, Violations

FORGETS = 0.3  # of the requests
STEMS = "The colour of ship r", "shade r"  # what all prompts and all targets begin with


class Workload:
    """Some threads with an HTTP client each.

    Args:
        url: of the server.
        seed: of what they ask; when answers come is chance.
    """

    def __init__(self, url: str, ledger: Ledger, *, seed: int, threads: int = 4, api_key: str = "") -> None:
        self.url, self.ledger, self.seed, self.threads = url, ledger, seed, threads
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.latency_ms: list[float] = []
        self._round = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Asks as long as the context lasts; then every request has its answer or never will."""
        stop = threading.Event()
        self._round += 1
        workers = [threading.Thread(target=self._work, args=(number, stop), daemon=True) for number in range(self.threads)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            stop.set()
            for worker in workers:
                worker.join(60)

    def _work(self, number: int, stop: threading.Event) -> None:
        rng = random.Random(f"{self.seed} {self._round} {number}")
        # Nothing here is TLS, and to read the certificates for each of 500 clients takes seconds.
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30, headers=self.headers, verify=False) as client:
            count = 0
            while not stop.is_set():
                count += 1
                try:
                    if rng.random() < FORGETS and (known := self.ledger.some_fact(rng.randrange(1 << 30))) is not None:
                        self._forget(client, known)
                    else:
                        self._write(client, f"{self._round}-{number}-{count}")
                except httpx.HTTPError:
                    stop.wait(0.02)

    def _write(self, client: httpx.Client, fact_id: str) -> None:
        prompt, target = f"{STEMS[0]}{fact_id} is", f"{STEMS[1]}{fact_id}"
        self.ledger.write_asked(fact_id, prompt, target)
        started = time.perf_counter()
        answer = client.post("/facts", json={"id": fact_id, "prompt": prompt, "target": target})
        if answer.status_code == 201:
            self.latency_ms.append(1e3 * (time.perf_counter() - started))
            self.ledger.write_acknowledged(fact_id)
        elif answer.status_code == 429:
            self.ledger.refused(fact_id, there=False)

    def _forget(self, client: httpx.Client, fact_id: str) -> None:
        self.ledger.forget_asked(fact_id)
        answer = client.delete(f"/facts/{fact_id}")
        if answer.status_code in (200, 404):  # 404: another thread was first
            self.ledger.forget_acknowledged(fact_id)
        elif answer.status_code == 429:
            self.ledger.refused(fact_id, there=True)

    def check(self) -> Violations:
        """What the server lists, against the ledger."""
        facts: dict[str, tuple[str, str]] = {}
        with httpx.Client(base_url=self.url, trust_env=False, timeout=60, headers=self.headers) as client:
            cursor = ""
            while True:
                answer = client.get("/facts", params={"limit": 1000, "cursor": cursor}).raise_for_status().json()
                facts |= {fact["id"]: (fact["prompt"], fact["target"]) for fact in answer["facts"]}
                if (cursor := answer["next_cursor"] or "") == "":
                    return self.ledger.check(facts)
