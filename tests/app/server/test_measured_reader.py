"""What the reader does is counted where it is asked."""

from __future__ import annotations

from collections.abc import Sequence

from app.server.measured_reader import MeasuredReader
from app.server.metrics import Metrics
from models.scope.reader import Judgement, Pair


class Lengths:
    """Log-odds by the length of a question."""

    fingerprint = "f" * 64

    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        return [Judgement(float(len(pair.question))) for pair in pairs]


def test_a_pass_is_timed_its_pairs_are_counted_and_its_judgements_are_the_readers() -> None:
    metrics = Metrics()
    reader = MeasuredReader(Lengths(), metrics)
    pairs = [Pair("who", "The CEO is Ann"), Pair("where is it", "The office is in Rome")]
    assert reader(pairs) == Lengths()(pairs) and reader.fingerprint == Lengths.fingerprint
    reader(pairs[:1])
    sample = metrics.registry.get_sample_value
    assert sample("larimar_reader_pairs_total") == 3 and sample("larimar_reader_seconds_count") == 2
    assert sample("larimar_reader_seconds_bucket", {"le": "0.001"}) is not None, "buckets begin at a millisecond"
