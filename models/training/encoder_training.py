"""Training the encoder's low-rank update: texts that want the same come together, near neighbours apart.

The loss is InfoNCE (van den Oord et al. 2018) with several positives: for each text, −log of the share that the other texts
of its want have in the softmax over the batch. Texts of all sorts are held to the vectors of the encoder as it was, so that what it
knew of other languages and subjects stays.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.evaluation.membership_inference import area
from models.lora import LowRank, attach, switched_off
from models.training.wordings import Kind, Wants, fill


@dataclass(frozen=True)
class Schedule:
    """Attributes: temperature: of the softmax over cosines; hold: weight of the distance to the encoder as it was."""

    steps: int = 400
    pairs: int = 48
    held: int = 24
    rank: int = 8
    learning_rate: float = 1e-3
    temperature: float = 0.05
    hold: float = 5.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Warm-up over 20 steps, then a half cosine to zero."""
        return self.learning_rate * min(1.0, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


def vectors(trunk: nn.Module, tokenizer: Any, texts: Sequence[str], *, fast: bool = False) -> Tensor:
    """(n, d) float32 unit vectors, mean-pooled over at most 64 word pieces; `fast`: products in bfloat16."""
    rows = tokenizer(list(texts), padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
        hidden = trunk(**rows).last_hidden_state.float()  # (n, T, d)
    mask = rows["attention_mask"][..., None]
    return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def contrast(ours: Tensor, wants: Sequence[tuple[str, ...]], temperature: float) -> Tensor:
    """The loss of (n, d) unit vectors, at least two of each want."""
    cosines = (ours @ ours.T / temperature).masked_fill(torch.eye(len(wants), dtype=torch.bool), -math.inf)
    same = torch.tensor([[one == other for other in wants] for one in wants])
    wanted = torch.logsumexp(cosines.masked_fill(~same, -math.inf), 1)
    return (torch.logsumexp(cosines, 1) - wanted).mean()


def separation(trunk: nn.Module, tokenizer: Any, kinds: Sequence[Kind], seed: int = 0) -> dict[str, float]:
    """Areas under the ROC curve of two wordings of one want, against another subject and against another relation."""
    rng, texts = random.Random(f"separation:{seed}"), []
    for kind in kinds:
        for relation in kind.relations:
            for _ in range(4):
                subject, stranger = rng.sample(kind.subjects, 2)
                one, other = rng.sample(relation, 2)
                neighbour = rng.choice([wordings for wordings in kind.relations if wordings is not relation])
                texts += [fill(one, subject), fill(other, subject), fill(rng.choice([one, other]), stranger)]
                texts.append(fill(rng.choice(neighbour), subject))
    with torch.no_grad():
        found = torch.cat([vectors(trunk, tokenizer, texts[at : at + 64]) for at in range(0, len(texts), 64)])
    by_four = found.view(len(texts) // 4, 4, -1)
    same, strangers, neighbours = ((by_four[:, 0] * by_four[:, at]).sum(-1).tolist() for at in (1, 2, 3))
    return {"subject": area(same, strangers), "relation": area(same, neighbours)}


def refine(
    trunk: nn.Module,
    tokenizer: Any,
    wants: Wants,
    held_out: Sequence[Kind],
    schedule: Schedule,
    report: Callable[[dict[str, Any]], None],
) -> LowRank:
    """Train an update of a frozen trunk, which keeps the layers it was given only after `LowRank.merge`.

    Args:
        report: told step, loss and distance, and every 100 steps the separation on kinds that are not trained on.
    """
    trunk.requires_grad_(False)
    added = attach(trunk, schedule.rank, schedule.seed)
    optimizer = torch.optim.AdamW([p for layer in added.values() for p in (layer.a, layer.b)], weight_decay=0.01)
    rng, started = random.Random(f"refine:{schedule.seed}"), time.perf_counter()
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        pairs, kept = wants.draw(rng, schedule.pairs), wants.texts(rng, schedule.held)
        asked = [pair.one for pair in pairs] + [pair.other for pair in pairs]
        ours = vectors(trunk, tokenizer, asked + kept, fast=True)
        with torch.no_grad(), switched_off(added):
            were = vectors(trunk, tokenizer, kept, fast=True)
        loss = contrast(ours[: len(asked)], [pair.want for pair in pairs] * 2, schedule.temperature)
        moved = (1 - (ours[len(asked) :] * were).sum(-1)).mean()
        optimizer.zero_grad()
        (loss + schedule.hold * moved).backward()  # type: ignore[no-untyped-call]  # torch's
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        record = {"step": step + 1, "loss": loss.item(), "moved": moved.item(), "seconds": time.perf_counter() - started}
        if (step + 1) % 100 == 0 or step + 1 == schedule.steps:
            record |= separation(trunk, tokenizer, held_out)
        report(record)
    return LowRank({name: (layer.a.detach(), layer.b.detach()) for name, layer in added.items()})
