"""The loss and validation curves of a training run, from its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(log: Path) -> list[dict[str, Any]]:
    """A run's records, one a step. Steps between a checkpoint and a kill were done twice: the later record counts."""
    records = (json.loads(line) for line in log.read_text().splitlines())
    return list({record["step"]: record for record in records}.values())


def plot(log: Path, picture: Path) -> None:
    """Draw a run's JSON-lines log as a PNG.

    Raises:
        ImportError: matplotlib is not installed (extra `train`).
    """
    from matplotlib.figure import Figure

    records = read(log)
    steps, losses = [r["step"] for r in records], [r["loss"] for r in records]
    checks = [(r["step"], 100 * r["validation"]) for r in records if "validation" in r]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, linewidth=0.8, alpha=0.5, label="loss")
    window = max(1, len(losses) // 30)
    smooth = [sum(losses[max(0, i - window) : i + 1]) / len(losses[max(0, i - window) : i + 1]) for i in range(len(losses))]
    axes.plot(steps, smooth, label=f"loss, mean of {window} steps")
    axes.set(xlabel="step", ylabel="loss (nats a token)", yscale="log")
    right = axes.twinx()
    right.plot(*zip(*checks, strict=True), "o-", color="tab:green", label="held-out relations, exact")
    right.set(ylabel="exact (percent)", ylim=(0, 101))
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(picture, dpi=120)
