"""Our write beside gradient-based editing, on the same decoder, machine and records.

Each system is taught each record alone: time of the edit, then whether greedy generation begins with the target after the
prompt and its rephrases, and whether 16 tokens after the neighbours are those of the unedited decoder. Ours reads from a
memory of one fact with its own scope decision; the time is that of encoding and writing it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import Tensor

from app.bench.statistic import summary
from app.server.model_loading import scope_of
from app.service import fact_of
from memory.episodic import EpisodicMemory
from memory.page import PageSettings
from memory.query import Query
from models.engine.decoder import Decoder
from models.engine.pointer import Pointer
from models.engine.sampling import Sampling
from models.engine.trunk import TransformersTrunk
from models.evaluation.baselines.editor import Editor
from models.evaluation.baselines.fine_tuning import FineTuning
from models.evaluation.baselines.grace import Codebook
from models.evaluation.baselines.rome import RankOne
from models.evaluation.records import Record
from models.model import Model

UNCHANGED = 16  # tokens after a neighbour that must be the plain decoder's


def editors(
    model: Model, records: Sequence[Record], texts: Sequence[str], *, seed: int = 0, tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Time and quality of each system.

    Args:
        records: edits.
        texts: ordinary text for ROME's second moment.
    """
    decoder = model.decoder
    layers = len(decoder.model.base_model.layers)
    early, late = layers // 3, 2 * layers // 3
    others: list[Editor] = [
        FineTuning(decoder, early, within=None),
        FineTuning(decoder, early),
        RankOne(decoder, early, texts),
        Codebook(decoder, late),
    ]
    slow = Decoder(decoder.model, decoder.tokenizer, fingerprint=decoder.fingerprint, name=decoder.name)
    slow.__dict__["trunk"] = TransformersTrunk(decoder.model)  # sees edited weights, where packed ones would not
    figures: dict[str, Any] = {"n": len(records), "decoder": decoder.name, "seed": seed, "layers": {"FT, FT-L, ROME": early, "GRACE": late}}
    plain = [[_say(slow, prompt, None) for prompt, _ in record.neighbours] for record in records]
    measure = partial(_measure, records, plain, slow.answer_tokens, tick)
    for system in others:
        figures[system.name] = measure(partial(_edited, slow, system))
    figures["larimar"] = measure(partial(_written, model, slow))
    ours = figures["larimar"]["edit"]["p50_ms"]
    figures["times_faster_than"] = {system.name: figures[system.name]["edit"]["p50_ms"] / ours for system in others}
    return figures


Answer = Callable[[str, int], list[int]]  # a prompt and a number of tokens to the tokens that are said


def _say(decoder: Decoder, prompt: str, prefix: Tensor | None, tokens: int = UNCHANGED, pointer: Pointer | None = None) -> list[int]:
    return list(decoder.generate([decoder.tokens(prompt)], [prefix], [Sampling(tokens)], [pointer])[0].token_ids)


def _edited(slow: Decoder, system: Editor, record: Record) -> tuple[float, Any, Answer]:
    started = time.perf_counter()
    context = system.edited(record.prompt, record.target)
    context.__enter__()
    return time.perf_counter() - started, context, lambda prompt, tokens: _say(slow, prompt, None, tokens)


def _written(model: Model, slow: Decoder, record: Record) -> tuple[float, Any, Answer]:
    memory = EpisodicMemory(model.key_dim, PageSettings(), scope_of(model))
    started = time.perf_counter()
    fact = fact_of(model.encode_fact(record.prompt, record.target), "fact", record.prompt, record.target, 0.0)
    memory.apply([memory.plan_write(fact)])
    elapsed = time.perf_counter() - started

    def answer(prompt: str, tokens: int) -> list[int]:
        reading = memory.read([Query(*found) for found in model.encode_query(prompt)])
        prefix, pointer = model.conditioning(reading.readouts)
        return _say(slow, prompt, prefix, tokens, pointer)

    return elapsed, nullcontext(), answer


def _measure(
    records: Sequence[Record],
    plain: Sequence[Sequence[list[int]]],
    tokens: Callable[[str], list[int]],
    tick: Callable[[], None],
    teach: Callable[[Record], tuple[float, Any, Answer]],
) -> dict[str, Any]:
    seconds: list[float] = []
    edit: list[bool] = []
    rephrase: list[float] = []
    unchanged: list[float] = []
    for record, before in zip(records, plain, strict=True):
        elapsed, context, answer = teach(record)
        try:
            seconds.append(elapsed)
            wanted = tokens(record.target.strip())
            edit.append(_begins(answer, record.prompt, wanted))
            rephrase.append(statistics.fmean(_begins(answer, prompt, wanted) for prompt in record.rephrases))
            same = [answer(prompt, UNCHANGED) == said for (prompt, _), said in zip(record.neighbours, before, strict=True)]
            unchanged.append(statistics.fmean(same))
        finally:
            context.__exit__(None, None, None)
        tick()
    means = {
        "exact": statistics.fmean(edit),
        "rephrase_exact": statistics.fmean(rephrase),
        "neighbourhood_unchanged": statistics.fmean(unchanged),
    }
    return {"edit": summary(seconds)} | means


def _begins(answer: Answer, prompt: str, wanted: Sequence[int]) -> bool:
    """Whether what is said greedily begins with the target's tokens: the same as teacher-forced equality of all of them."""
    return answer(prompt, len(wanted)) == list(wanted)
