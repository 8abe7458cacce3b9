"""Training the statement key's update: a question comes near the fact that answers it, among the facts of its memory.

InfoNCE (van den Oord et al. 2018) over the facts of a batch, all of one file, so that the others are what a server would have to
tell apart. Near misses take no part: the reader tells those.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from models.encoder import read
from models.evaluation.everyday import read_facts
from models.lora import LowRank, attach
from models.training.encoder_training import vectors
from models.training.reader_training import HAND, training_files, varied
from models.weights import fingerprint


def recall(trunk: nn.Module, tokenizer: object, path: Path) -> list[float]:
    facts = read_facts(path)
    statements = list(dict.fromkeys(t for f in facts for t in (f.text or (f.statement,))))
    asked = [(q, statements.index(f.statement)) for f in facts for q in f.questions]

    def embedded(texts: list[str]) -> torch.Tensor:
        return torch.cat([vectors(trunk, tokenizer, texts[at : at + 64], fast=True) for at in range(0, len(texts), 64)])

    with torch.no_grad():
        v, q = embedded(statements), embedded([question for question, _ in asked])
    cosines = q @ v.T
    rank = (cosines > cosines.gather(1, torch.tensor([i for _, i in asked])[:, None])).sum(1)
    return [round(100 * (rank < k).float().mean().item(), 1) for k in (1, 4, 6, 8, 16)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--temperature", type=float, default=0.05)
    a = parser.parse_args()
    trunk, tokenizer = read(a.base)
    trunk.requires_grad_(False)
    memories = [read_facts(path) for path in training_files()]
    watched = [HAND / "everyday" / f"{name}.txt" for name in ("assistant", "texts_2")]
    print([recall(trunk, tokenizer, p) for p in watched], flush=True)
    added = attach(trunk, a.rank, 0)
    params = [p for layer in added.values() for p in (layer.a, layer.b)]
    optimiser = torch.optim.AdamW(params, weight_decay=0.01)
    rng, began, running = random.Random(0), time.time(), 0.0
    for step in range(a.steps):
        for group in optimiser.param_groups:
            group["lr"] = a.rate * min(1, (step + 1) / 30) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / a.steps)))
        facts = rng.choices(memories, [len(m) for m in memories])[0]
        batch = {f.statement: f for f in rng.sample(facts, min(a.size, len(facts)))}
        others = [t for f in batch.values() for t in f.text if t not in batch and rng.random() < 0.3]
        asked = [varied(rng, rng.choice(f.questions)) for f in batch.values()]
        found = vectors(trunk, tokenizer, [*asked, *batch, *dict.fromkeys(others)], fast=True)
        cosines = found[: len(batch)] @ found[len(batch) :].T
        loss = cross_entropy(cosines / a.temperature, torch.arange(len(batch)), label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        running = loss.item() if not step else 0.97 * running + 0.03 * loss.item()
        if (step + 1) % 50 == 0:
            watch = [recall(trunk, tokenizer, p) for p in watched] if (step + 1) % 300 == 0 else ""
            print(step + 1, f"{running:.4f} {(time.time() - began) / 60:.1f} min", watch, flush=True)
    update = LowRank({n: (layer.a.detach(), layer.b.detach()) for n, layer in added.items()}, {"encoder_fingerprint": fingerprint(a.base)})
    update.save(a.out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
