"""Training of the prefix with the decoder frozen: the answer must be read from the memory's code, not guessed.

Every step draws its examples from (seed, step) alone, so a run resumed from a checkpoint equals the uninterrupted one.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.engine.decoder import Decoder, Sampling
from models.prefix import Prefix
from models.training.corpus import HELD_OUT, Corpus
from models.training.mixture import Example, Mixture

AFTER_TOKENS = 10  # how much of the continuation is trained on
AFTER_WEIGHT = 0.15  # its weight a token; the end of turn, one token, counts END_WEIGHT
END_WEIGHT = 0.5
PLAIN_ODDS = 0.35  # how many of the statements carry the plain decoder's continuation (it costs a generation)
MAX_TOKENS = 110  # longer examples are left out: a step costs what its longest rows cost
POOL = 8  # batches that are sorted by length together, so that a batch carries little padding


@dataclass(frozen=True)
class Schedule:
    """What makes a run: written into its checkpoints, and a resumed run must agree.

    Raises:
        ValueError: a field out of range.
    """

    steps: int
    batch: int = 48
    learning_rate: float = 1e-3
    warmup: int = 20
    seed: int = 0
    dtype: str = "float32"  # of the frozen decoder

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.learning_rate <= 0:
            raise ValueError(f"a schedule needs steps, batch and learning rate above zero, got {self}")

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to a twentieth of the peak."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class Row:
    """One example as token ids; `answers` are in the memory, weights (n,) belong to `wanted`, which follows `prompt`."""

    answers: list[list[int]]
    prompt: list[int]
    wanted: list[int]
    weights: list[float]

    @property
    def length(self) -> int:
        return sum(map(len, self.answers)) + len(self.prompt) + len(self.wanted)


def encode(decoder: Decoder, example: Example, max_slots: int) -> Row | None:
    """Example to token ids, or None when the answer does not fit the slots."""
    slots = [decoder.answer_tokens(answer) for answer in example.answers]
    said = decoder.answer_tokens(example.said, example.lead)
    if max(map(len, slots)) > max_slots:
        return None
    weight = 2.0 / math.sqrt(len(said))  # long answers count more than short ones, but not by their length
    after, after_weight = [], AFTER_WEIGHT
    if example.after == "end":
        after, after_weight = [decoder.tokenizer.eos_token_id], END_WEIGHT
    elif example.after == "text":
        after = decoder.answer_tokens(example.rest, "")[:AFTER_TOKENS]
    weights = [weight] * len(said) + [after_weight] * len(after)
    return Row(slots, decoder.tokens(example.prompt), said + after, weights)


def batches(mixture: Mixture, schedule: Schedule, max_slots: int, start: int = 0) -> Iterator[list[Row]]:
    """Batches from step `start` on; a pool of them is drawn and sorted by length together."""
    decoder = mixture.decoder
    for pool in range(start // POOL, math.ceil(schedule.steps / POOL)):
        rng = random.Random(f"{schedule.seed}:{pool}")
        drawn: list[tuple[Example, Row]] = []
        while len(drawn) < POOL * schedule.batch:
            example = mixture.draw(rng)
            row = encode(decoder, example, max_slots)
            if row is not None and row.length <= MAX_TOKENS:
                drawn.append((example, row))
        continued = [example.after == "plain" and rng.random() < PLAIN_ODDS for example, _ in drawn]
        chosen = [row for (_, row), wanted in zip(drawn, continued, strict=True) if wanted]
        rows = [row for (_, row), wanted in zip(drawn, continued, strict=True) if not wanted]
        rows = sorted(rows + _continued(decoder, chosen), key=lambda r: r.length)
        chunks = [rows[i : i + schedule.batch] for i in range(0, len(rows), schedule.batch)]
        rng.shuffle(chunks)
        yield from chunks[start % POOL if pool == start // POOL else 0 :]


def _continued(decoder: Decoder, rows: Sequence[Row], batch: int = 48) -> list[Row]:
    """Rows with the plain decoder's own continuation after the answer, generated without a prefix."""
    ordered = sorted(rows, key=lambda r: r.length)
    out = []
    for at in range(0, len(ordered), batch):
        chunk = ordered[at : at + batch]
        sampling = Sampling(max_new_tokens=AFTER_TOKENS)
        said = decoder.generate([r.prompt + r.wanted for r in chunk], [None] * len(chunk), [sampling] * len(chunk))
        for row, generation in zip(chunk, said, strict=True):
            after = list(generation.token_ids)
            if generation.finish_reason == "stop":
                after.append(decoder.tokenizer.eos_token_id)
            out.append(Row(row.answers, row.prompt, row.wanted + after, row.weights + [AFTER_WEIGHT] * len(after)))
    return out


def loss_of(decoder: Decoder, prefix: Prefix, rows: Sequence[Row]) -> Tensor:
    """Weighted cross-entropy of what should be said; logits are computed at those positions only."""
    inputs, starts = [], []
    for row in rows:
        soft = torch.cat([prefix(decoder.embed(answer)) for answer in row.answers])
        inputs.append(decoder.inputs(row.prompt + row.wanted, soft))
        starts.append(len(soft) + len(row.prompt))
    padded = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)  # (B, T, d)
    # Right padding under a causal mask: no real position sees a padded one, so no mask is needed.
    hidden = decoder.hidden(padded, use_cache=False).last_hidden_state
    picked = torch.cat([hidden[i, s - 1 : s - 1 + len(r.wanted)] for i, (s, r) in enumerate(zip(starts, rows, strict=True))])
    wanted = torch.tensor([t for r in rows for t in r.wanted], device=decoder.device)
    weights = torch.tensor([w for r in rows for w in r.weights], device=decoder.device)
    losses = torch.nn.functional.cross_entropy(decoder.logits(picked), wanted, reduction="none")
    return (losses * weights).sum() / weights.sum()


def validation(corpus: Corpus, decoder: Decoder, seed: int = 0, n: int = 160) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) token ids of held-out relations, with answers of other subjects: nothing to be known."""
    rng = random.Random(f"validation:{seed}")
    out = []
    for name in sorted(HELD_OUT & corpus.held_out.keys()):
        templates, pairs = corpus.held_out[name]
        for _ in range(n // len(corpus.held_out)):
            prompt = rng.choice(templates).replace("{}", rng.choice(pairs)[0])
            out.append((decoder.tokens(prompt), decoder.answer_tokens(rng.choice(pairs)[1])))
    return out


@torch.inference_mode()
def exact_rate(decoder: Decoder, prefix: Prefix, records: Sequence[tuple[list[int], list[int]]], batch: int = 32) -> float:
    """Rate of answers whose every token is the greedy choice, teacher-forced."""
    hits = 0
    for start in range(0, len(records), batch):
        chunk = records[start : start + batch]
        soft = [prefix(decoder.embed(answer)) for _, answer in chunk]
        hits += sum(f.exact for f in decoder.force([p for p, _ in chunk], [a for _, a in chunk], soft))
    return hits / len(records)


class Checkpoint:
    """Prefix and optimizer of one step, in one safetensors file that is replaced whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, prefix: Prefix, optimizer: torch.optim.AdamW, schedule: Schedule, step: int) -> None:
        tensors = {f"prefix.{k}": v for k, v in prefix.state_dict().items()}
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, beside, {"schedule": json.dumps(asdict(schedule)), "step": str(step)})
        beside.replace(self.path)

    def schedule(self) -> Schedule:
        with safe_open(self.path, "pt") as file:
            return Schedule(**json.loads(file.metadata()["schedule"]))

    def restore(self, prefix: Prefix, optimizer: torch.optim.AdamW) -> int:
        """Load into prefix and optimizer; returns the next step."""
        with safe_open(self.path, "pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
            step = int(file.metadata()["step"])
        prefix.load_state_dict({k.removeprefix("prefix."): v for k, v in tensors.items() if k.startswith("prefix.")})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".")
                state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return step + 1


def step_time(prefix: Prefix, mixture: Mixture, schedule: Schedule) -> float:
    """Mean seconds of a step of `schedule`, drawing included; the prefix is left as it is."""
    trial = copy.deepcopy(prefix)
    started = time.perf_counter()
    for rows in batches(mixture, schedule, len(prefix.position)):
        loss_of(mixture.decoder, trial, rows).backward()  # type: ignore[no-untyped-call]
    return (time.perf_counter() - started) / (POOL * math.ceil(schedule.steps / POOL))


Report = Callable[[dict[str, Any]], None]


def train(
    prefix: Prefix,
    mixture: Mixture,
    schedule: Schedule,
    *,
    checkpoint: Checkpoint,
    report: Report,
    validate_every: int = 50,
    stop_after: int | None = None,
) -> None:
    """Train to the schedule's end, or resume from the checkpoint if there is one.

    Args:
        report: gets one record a step: step, loss, rate, seconds (drawing and what came before it included); and
            `validation` now and then.
        stop_after: end early after this step as if interrupted (tests).

    Raises:
        ValueError: the checkpoint belongs to another schedule.
    """
    decoder = mixture.decoder
    trained = [p for p in prefix.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    start = 0
    if checkpoint.path.exists():
        if checkpoint.schedule() != schedule:
            raise ValueError(f"{checkpoint.path} belongs to another schedule: {checkpoint.schedule()}, not {schedule}")
        start = checkpoint.restore(prefix, optimizer)
    held_out = validation(mixture.corpus, decoder)
    started = time.perf_counter()
    for step, rows in enumerate(batches(mixture, schedule, len(prefix.position), start), start):
        if step >= schedule.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss = loss_of(decoder, prefix, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        now = time.perf_counter()
        record = {"step": step, "loss": loss.item(), "rate": schedule.rate(step), "seconds": now - started}
        started = now
        last = step == schedule.steps - 1
        if last or step % validate_every == validate_every - 1:
            record["validation"] = exact_rate(decoder, prefix, held_out)
        if last or step % 25 == 24 or step == stop_after:
            checkpoint.save(prefix, optimizer, schedule, step)
        report(record)
        if step == stop_after:
            return
