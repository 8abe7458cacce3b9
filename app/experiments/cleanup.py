"""Clean-up under interference: how noisy may a readout be, and how many facts make it so? Theory beside measurement.

A slot e is taken for another token's f where noise n crosses the plane half way between them: n · (f − e) > |f − e|² / 2. All planes
share the noise along e, so that is integrated over; what is left of each f is taken as independent of the others:

    P(right) = E_g Π_f Φ((|f − e|² / 2σ − g (f − e) · u) / |f⊥|)         u = e / |e|, f⊥ the part of f across u, all less the tokens' mean

and an answer is right with the product over its slots. N facts in K rows are a least-squares fit: up to K facts nothing needs to be left
over, beyond √(1 − K / N) of the codes is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from app.experiments.setup import Setup, bar, steps
from memory.addressing import PseudoInverseAddressing
from models.code import SlotCode

NOISES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # norm of the noise over norm of the code
LENGTHS = (1, 4, 16)  # tokens of an answer
NODES = 24  # of the quadrature over the shared noise
LOADS = (0.25, 0.5, 0.75, 0.875, 1.0, 1.125, 1.25, 1.5, 2.0)  # facts over rows


def cleanup(setup: Setup) -> Table:
    """n answers of each length at each noise; then pages of the paper's addressing with more and more facts in their rows.

    Raises:
        ModelError: bad data or weights, or too few records for twice as many facts as a page has rows.
    """
    rows = setup.pages.slots
    records = setup.with_memory_of(int(LOADS[-1] * rows)).all_records("counterfact")
    code, rng = setup.model.code, random.Random(setup.seed)
    noise = torch.Generator().manual_seed(setup.seed)
    said = sorted({token for record in records for token in setup.model.decoder.answer_tokens(record.target)})
    tokens = rng.sample(said, min(setup.n, len(said)))
    answers = {length: [rng.choices(tokens, k=length) for _ in range(setup.n)] for length in LENGTHS}
    by_noise = []
    with bar("noise", len(NOISES)) as report:
        for number, level in enumerate(NOISES, 1):
            by_noise.append(_noisy(code, level, tokens, answers, noise))
            report(number)
    keys = torch.stack([setup.model.encode_fact(record.prompt, record.target)[0] for record in steps("encoding", records)])
    wanted = [setup.model.decoder.answer_tokens(record.target) for record in records]
    by_load = []
    with bar("facts", len(LOADS)) as report:
        for number, load in enumerate(LOADS, 1):
            count = int(load * rows)
            by_load.append(_loaded(code, rows, keys[:count].double(), wanted[:count], load))
            report(number)
    setup.write({"cleanup": {"rows": rows, "by_noise": by_noise, "by_load": by_load}})
    return _table(by_noise, by_load, rows)


def _noisy(
    code: SlotCode, level: float, tokens: Sequence[int], answers: dict[int, list[list[int]]], generator: torch.Generator
) -> dict[str, Any]:
    """One level of noise, as a share of the codes' norm: answers right by theory and as counted, by their length."""
    deviation = level * float(code.table[list(tokens)].square().mean().sqrt())
    chance = {token: slot_kept(code, token, deviation) for token in tokens}
    found: dict[str, Any] = {"noise": level, "theory": {}, "measured": {}}
    for length, drawn in answers.items():
        right = 0
        for answer in drawn:
            clean = code.encode(answer)
            right += code.clean(clean + deviation * torch.randn(len(clean), generator=generator))[:length] == answer
        found["theory"][str(length)] = sum(math.prod(chance[token] for token in answer) for answer in drawn) / len(drawn)
        found["measured"][str(length)] = right / len(drawn)
    return found


def slot_kept(code: SlotCode, token: int, deviation: float) -> float:
    """Probability that a token's slot is snapped to it, with noise of that standard deviation in each dimension."""
    table = (code.table - code.table[: code.empty].mean(0)).double()
    own = table[token]
    axis = own / own.norm()
    apart = table - own
    distances = apart.square().sum(1)
    others = distances > 1e-9  # tokens of one embedding cannot be told apart at all
    along = apart[others] @ axis
    across = (distances[others] - along.square()).clamp_min(1e-12).sqrt()
    margin = distances[others] / (2 * deviation)
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    shared = (torch.special.log_ndtr((margin - float(node) * along) / across).sum() for node in nodes)
    return sum(float(weight) * float(log.exp()) for weight, log in zip(weights, shared, strict=True)) / math.sqrt(2 * math.pi)


def _loaded(code: SlotCode, rows: int, keys: Tensor, wanted: list[list[int]], load: float) -> dict[str, float]:
    """So many facts in one matrix of `rows` rows, as the paper addresses it: error of the readouts, answers right."""
    slots = max(map(len, wanted))
    codes = torch.zeros(len(wanted), slots * code.slot_dim)
    for row, tokens in zip(codes, wanted, strict=True):
        row[: len(tokens) * code.slot_dim] = code.encode(tokens)
    addressing = PseudoInverseAddressing(rows)
    matrix, right_hand = addressing.system(keys, codes)
    memory = torch.linalg.solve(matrix, right_hand)
    readouts = addressing.address(keys) @ memory
    errors = (readouts - codes).norm(dim=1) / codes.norm(dim=1)
    squared = float((readouts - codes).square().sum() / codes.double().square().sum())
    right = sum(code.clean(readout.float()) == tokens for readout, tokens in zip(readouts, wanted, strict=True))
    return {
        "facts": len(wanted),
        "error": float(errors.median()),
        "root_mean_square": squared**0.5,
        "theory": max(0.0, 1.0 - 1.0 / load) ** 0.5,
        "right": right / len(wanted),
    }


def _table(by_noise: list[dict[str, Any]], by_load: list[dict[str, float]], rows: int) -> Table:
    table = Table("", title="clean-up: answers right, percent, by theory / measured", title_justify="left")
    for length in LENGTHS:
        table.add_column(f"{length} tokens", justify="right")
    for row in by_noise:
        shown = (f"{100 * row['theory'][str(n)]:.1f} / {100 * row['measured'][str(n)]:.1f}" for n in LENGTHS)
        table.add_row(f"noise {row['noise']:.1f} of the code", *shown)
    table.add_section()
    for load in by_load:
        error = f"error {load['theory']:.2f} / {load['root_mean_square']:.2f}"
        table.add_row(f"{load['facts']:,} facts in {rows} rows", error, f"right: {100 * load['right']:.1f}", "")
    return table
