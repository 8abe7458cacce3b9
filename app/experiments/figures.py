"""The figures of recorded evaluations as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.bench.plots import draw_all, save


def plot(figures: Path, pictures: Path) -> list[Path]:
    """Draw what a folder of `evaluate … --json` files has figures for; the pictures' paths."""
    draws = {"scope": _scope, "retention": _retention, "context": _context, "cleanup": _cleanup}
    return draw_all(figures, pictures, draws)


def _axes(told: dict[str, Any], title: str) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.set_title(f"{title}, {told['n']} records, {told['decoder']}", fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes


def _two_panels(title: str) -> tuple[Any, Any, Any]:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    return figure, left, right


def _save_panels(figure: Any, target: Path) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    save(figure, target)


def _scope(told: dict[str, Any], target: Path) -> None:
    figure, axes = _axes(told, "Scope at every threshold")
    for number, (facts, found) in enumerate(told["scope"].items()):
        curve = found["curve"]
        axes.plot(
            [100 * point["let_in"] for point in curve],
            [100 * point["missed"] for point in curve],
            color=f"C{number}",
            label=f"{int(facts):,} fact{'s' * (facts != '1')}: equal error rate {100 * found['eer']:.1f}%",
        )
        axes.plot(100 * found["let_in"], 100 * found["missed"], marker="o", color=f"C{number}")
    axes.plot([0, 20], [0, 20], color="grey", ls="--", lw=0.8)
    axes.set(xlabel="neighbours let in, percent", ylabel="rephrases missed, percent", xlim=(0, 20), ylim=(0, 12))
    axes.legend(fontsize=8, title="dots: the calibrated threshold", title_fontsize=8)
    save(figure, target)


def _retention(told: dict[str, Any], target: Path) -> None:
    figure, axes = _axes(told, "Facts written once each, recalled by a rephrase")
    rows = told["retention"]
    for name in ("first", "last", "any"):
        axes.plot([row["facts"] for row in rows], [100 * row[name]["rephrase"] for row in rows], marker="o", label=f"the {name} ones")
    axes.set(xscale="log", xlabel="facts in memory (logarithmic)", ylabel="percent recalled", ylim=(80, 101))
    axes.legend(fontsize=8)
    save(figure, target)


def _context(told: dict[str, Any], target: Path) -> None:
    rows = told["context"]
    title = f"Facts in the memory, or all of them in the prompt, {told['n']} records, {told['decoder']}"
    figure, quality, seconds = _two_panels(title)
    counts = [row["facts"] for row in rows]
    for name, label, colour in (("larimar", "in the memory", "tab:blue"), ("prompt", "in the prompt", "tab:orange")):
        for examined, asked, style in (("edit", "own words", "-"), ("rephrase", "other words", "--")):
            values = [100 * row[name][examined] for row in rows]
            quality.plot(counts, values, marker="o", ls=style, color=colour, label=f"{label}, {asked}")
        seconds.plot(counts, [row[name]["seconds"] for row in rows], marker="o", color=colour, label=label)
    quality.set(xscale="log", xlabel="facts", ylabel="answers said, percent", ylim=(-3, 103))
    seconds.set(xscale="log", yscale="log", xlabel="facts", ylabel="seconds an answer (logarithmic)")
    _save_panels(figure, target)


def _cleanup(told: dict[str, Any], target: Path) -> None:
    by_noise, by_load, rows = (told["cleanup"][name] for name in ("by_noise", "by_load", "rows"))
    figure, noisy, loaded = _two_panels(f"Clean-up of noisy readouts, {told['n']} answers a point, {told['decoder']}")
    levels = [row["noise"] for row in by_noise]
    for number, length in enumerate(by_noise[0]["theory"]):
        colour, label = f"C{number}", f"{length} token{'s' * (length != '1')}"
        noisy.plot(levels, [100 * row["theory"][length] for row in by_noise], color=colour, label=f"{label}, theory")
        noisy.plot(levels, [100 * row["measured"][length] for row in by_noise], "o", color=colour, label=f"{label}, measured")
    noisy.set(xlabel="norm of the noise over norm of the code", ylabel="answers right, percent", ylim=(-3, 103))
    facts = [row["facts"] for row in by_load]
    loaded.plot(facts, [100 * row["theory"] for row in by_load], color="C3", label="error, √(1 − K / N)")
    loaded.plot(facts, [100 * row["root_mean_square"] for row in by_load], "o", color="C3", label="error, measured")
    loaded.plot(facts, [100 * row["right"] for row in by_load], "s-", color="C2", label="answers right after clean-up")
    loaded.axvline(rows, color="grey", ls="--", lw=0.8)
    loaded.set(xlabel=f"facts in one matrix of {rows} rows (paper's addressing)", ylabel="percent", ylim=(-3, 103))
    _save_panels(figure, target)
