"""The same requests as were recorded get the same answers, of a toy server. What is meant to differ is recorded anew, by
`python -m tests.replay.record`, and looked at."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.replay.record import ANSWERS, DIGEST, exchanged, read

NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def rounded(text: str) -> str:
    """Another processor adds in another order: its last digits differ."""
    return NUMBER.sub(lambda found: f"{float(found[0]):.3f}".replace("-0.000", "0.000"), text)


@pytest.mark.service
def test_answers_are_those_that_were_recorded(tmp_path: Path) -> None:
    wanted, got = read(ANSWERS), exchanged(tmp_path)
    assert len(wanted) > 200
    for before, now in zip(wanted, got, strict=True):
        assert now["status"] == before["status"], now
        if not before["body"].startswith(DIGEST) and not before["request"].startswith("GET /version"):
            assert {**now, "body": rounded(now["body"])} == {**before, "body": rounded(before["body"])}
