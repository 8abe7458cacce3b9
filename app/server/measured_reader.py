"""The reader of scope, measured: its seconds, and the pairs that it reads."""

from __future__ import annotations

import time
from collections.abc import Sequence

from app.server.metrics import Metrics
from models.scope.reader import Judgement, Pair, PairReader


class MeasuredReader:
    """A reader whose calls are observed; one call reads the pairs of a round, of all questions of a prompt."""

    def __init__(self, reader: PairReader, metrics: Metrics) -> None:
        self._reader, self._metrics = reader, metrics
        self.fingerprint = reader.fingerprint

    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        started = time.perf_counter()
        judged = self._reader(pairs)
        self._metrics.reader.observe(time.perf_counter() - started)
        self._metrics.reader_pairs.inc(len(pairs))
        return judged
