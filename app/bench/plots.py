"""The figures of recorded runs as pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Draw = Callable[[dict[str, Any], Path], None]


def plot(figures: Path, pictures: Path) -> list[Path]:
    """Draw what a folder of `bench … --json` files has figures for; the pictures' paths."""
    return draw_all(figures, pictures, {"decode": _decode, "editors": _editors, "load": _load})


def draw_all(figures: Path, pictures: Path, draws: Mapping[str, Draw]) -> list[Path]:
    """Draw each picture that has its JSON file in a folder; the pictures' paths. The same figures give the same files."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "larimar"
    pictures.mkdir(parents=True, exist_ok=True)
    made = []
    for name, draw in draws.items():
        if (source := figures / f"{name}.json").is_file():
            target = pictures / f"{name}.svg"
            draw(json.loads(source.read_text()), target)
            made.append(target)
    return made


def _axes(told: dict[str, Any], title: str) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    machine = told["machine"]
    axes.set_title(f"{title}\n{machine['cpu']}, {machine['threads']} threads, {machine['device']}", fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes


def save(figure: Any, target: Path) -> None:
    """Write a picture without the date."""
    import matplotlib.pyplot as plt

    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def _decode(told: dict[str, Any], target: Path) -> None:
    found = told["results"]
    figure, axes = _axes(told, f"Tokens a second, {found['decoder']}, {found['dtype']}")
    sizes = [int(size) for size in found["tokens_per_second"]]
    axes.plot(sizes, list(found["tokens_per_second"].values()), marker="o", label="larimar")
    theirs = 1e3 * found["new_tokens"] / found["whole_text"]["transformers"]["p50_ms"]
    axes.axhline(theirs, color="tab:orange", label="transformers' generate, one text")
    axes.axhline(found["tokens_per_second_at_bandwidth"], color="grey", ls="--", label="one text, at the bandwidth of a copy")
    axes.set(xlabel="texts decoded together", ylabel="tokens a second", xticks=sizes, ylim=(0, None))
    axes.legend(fontsize=8)
    save(figure, target)


def _editors(told: dict[str, Any], target: Path) -> None:
    found = told["results"]
    systems = [name for name, value in found.items() if isinstance(value, dict) and "edit" in value]
    figure, axes = _axes(told, f"One edit, {found['decoder']}, {found['n']} CounterFact records")
    times = [found[name]["edit"]["p50_ms"] for name in systems]
    bars = axes.barh(systems, times, color=["tab:blue" if name == "larimar" else "tab:orange" for name in systems])
    labels = [
        f" {time:,.1f} ms; {found[n]['exact']:.0%} / {found[n]['rephrase_exact']:.0%} / {found[n]['neighbourhood_unchanged']:.0%}"
        for n, time in zip(systems, times, strict=True)
    ]
    axes.bar_label(bars, labels, fontsize=8)
    axes.set(xscale="log", xlabel="median ms (logarithmic); exact / rephrased / neighbours unchanged", xlim=(1, 100 * max(times)))
    save(figure, target)


def _load(told: dict[str, Any], target: Path) -> None:
    found = told["results"]
    memory = found["memory_mib_over_time"]
    figure, axes = _axes(told, f"Resident memory under {found['asked_per_second']:g} requests a second")
    axes.plot([found["seconds"] * at / max(1, len(memory) - 1) for at in range(len(memory))], memory)
    axes.set(xlabel="seconds", ylabel="MiB", ylim=(0, None))
    save(figure, target)
