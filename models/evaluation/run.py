"""An evaluation run: all systems on all records, a chunk at a time, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.evaluation.edit_scores import Row, examine
from models.evaluation.examiner import Examiner
from models.evaluation.records import Record
from models.evaluation.systems import System

CHUNK = 20


class Partial:
    """Rows of an unfinished run as JSON lines: first what makes the run, then one line a chunk.

    A file of another run is not used and is written over.

    Args:
        path: None keeps nothing.
        about: what makes the run.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, json.loads(json.dumps(about))
        self.chunks: dict[int, Any] = {}
        lines = path.read_text().splitlines() if path is not None and path.is_file() else []
        if lines and _parsed(lines[0]) == self.about:
            for line in lines[1:]:
                if (chunk := _parsed(line)) is not None:  # the last line may be torn
                    self.chunks[int(chunk["at"])] = chunk["rows"]
        elif path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.about) + "\n")

    def add(self, at: int, rows: Any) -> None:
        self.chunks[at] = rows
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"at": at, "rows": rows}) + "\n")

    def done(self) -> None:
        """The run is complete and its result is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def run(
    examiner: Examiner,
    systems: Mapping[str, System],
    records: Sequence[Record],
    partial: Partial,
    report: Callable[[int], None],
) -> dict[str, list[Row]]:
    """Rows of every system, one a record.

    Args:
        partial: where chunks are kept, and what earlier ones are taken from.
        report: told how many records are done.
    """
    rows: dict[str, list[Row]] = {name: [] for name in systems}
    for at in range(0, len(records), CHUNK):
        chunk = records[at : at + CHUNK]
        if at not in partial.chunks:
            partial.add(at, {name: examine(examiner, system, chunk) for name, system in systems.items()})
        for name in systems:
            rows[name] += partial.chunks[at][name]
        report(at + len(chunk))
    return rows
