"""What each part is worth: the same records with one part left out or in the paper's form."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from app.experiments.recall import Recall, RecallOne
from app.experiments.setup import Setup, bar, console
from app.server.model_loading import scope_of
from app.server.settings import Settings
from memory.page import PageSettings
from memory.query import Detector
from memory.scope.rules import Scope
from models.code import OCCUPIED
from models.encoder import Encoder
from models.engine.pointer import Pointer
from models.evaluation.edit_scores import Row, summarise
from models.evaluation.examiner import Examiner
from models.evaluation.run import run
from models.model import Model, Readouts
from models.model_files import Parts
from models.prefix import CLOSING, OPENING, Prefix
from models.scope.sentences import clean

TERMS = ("conflict", "agreement", "frame", "whole_frame", "news", "misfit")
Variant = tuple[str, Callable[[Setup], tuple[Model, PageSettings, Detector]]]


def ablations(setup: Setup) -> Table:
    """`editing` of each variant: n records, `facts_in_memory` facts.

    Raises:
        ModelError: as `editing`.
    """
    records, taught = setup.records("counterfact")
    partial, found = setup.partial(), dict[str, Row]()
    for number, (name, make) in enumerate(_variants()):
        model, pages, scope = make(setup)
        if number not in partial.chunks:
            recall = (Recall if taught else RecallOne)(model, pages, scope)
            for record in taught:
                recall.teach(record)
            with bar(name, setup.n) as report:
                rows = run(Examiner(model), {"larimar": recall}, records, setup.unkept(), report)
            partial.add(number, summarise(rows["larimar"]))
        found[name] = partial.chunks[number]
    setup.write({"ablations": found})
    partial.done()
    title = f"ablations: {setup.n} records, facts in memory: {setup.facts_in_memory} (percent; exact / generated)"
    table = Table("", "edit", "rephrase", "neighbours unchanged", title=title, title_justify="left")
    for name, row in found.items():
        shown = (f"{100 * row[examined]['exact']:.1f} / {100 * row[examined]['generated']:.1f}" for examined in ("edit", "rephrase"))
        table.add_row(name, *shown, f"{100 * row['neighbourhood']['unchanged']:.1f}")
    return table


def _variants() -> Iterator[Variant]:
    yield "all parts", lambda s: _with(s)
    yield "pseudo-inverse addressing (the paper's)", lambda s: _with(s, pages=PageSettings(addressing="pseudo-inverse"))
    yield "readouts not cleaned up", lambda s: _with(s, _Raw(s.model.encoder, s.model.decoder, s.model.adapter, s.model.scope))
    yield "no pointer", lambda s: _with(s, _Pointless(s.model.encoder, s.model.decoder, s.model.adapter, s.model.scope))
    yield "prefix untrained: constants as at the start", lambda s: _with(s, _prefix(s.model, _untrained))
    yield "prefix without its MLP and positions", lambda s: _with(s, _prefix(s.model, _constants))
    yield "keys of meaning alone", lambda s: _with(s, _encoder(s.model, _Meaning))
    yield "keys of words alone", lambda s: _with(s, _encoder(s.model, _Words))
    yield "encoder without its update", lambda s: _with(s, _frozen(s))
    yield "scope by words and likeness, without a reader", lambda s: _with(s, scope=_words(s.model))
    yield "scope by likeness alone", lambda s: _with(s, scope=_words(s.model, **dict.fromkeys(TERMS, 0.0)))
    yield "no scope: every prompt is answered by the nearest fact", lambda s: _with(s, scope=_words(s.model, threshold=-9.0))


def _with(
    setup: Setup, model: Model | None = None, pages: PageSettings | None = None, scope: Detector | None = None
) -> tuple[Model, PageSettings, Detector]:
    return model or setup.model, pages or setup.pages, scope or scope_of(setup.model)


def _words(model: Model, **terms: float) -> Scope:
    return Scope(meaning=model.encoder.meaning_dim, clean=clean, literal=model.script.literal, **terms)  # type: ignore[arg-type]


class _Pointless(Model):
    """Nothing holds the decoder to the readout but the prefix."""

    def conditioning(self, readouts: Readouts) -> tuple[Tensor | None, Pointer | None]:
        return super().conditioning(readouts)[0], None


class _Raw(Model):
    """The prefix is made of the readout's slots as they are, put back into embedding space by the projection's pseudo-inverse."""

    @torch.inference_mode()
    def conditioning(self, readouts: Readouts) -> tuple[Tensor | None, Pointer | None]:
        given = () if readouts is None else (readouts,) if isinstance(readouts, Tensor) else readouts
        back = torch.linalg.pinv(self.adapter.projection)  # (S − 1, d)
        prefixes = []
        for readout in given:
            slots = readout.float().reshape(-1, self.code.slot_dim)
            kept = slots[slots[:, -1] > OCCUPIED / 2]
            if len(kept):
                prefixes.append(self.prefix((kept[:, :-1] @ back + self.adapter.mean).to(self.device)))
        return torch.cat(prefixes) if prefixes else None, None


class _Meaning(Encoder):
    """Keys without their lexical part."""

    def keys(self, texts: Any) -> Tensor:
        found = super().keys(texts).clone()
        found[:, self.meaning_dim :] = 0
        return torch.nn.functional.normalize(found)


class _Words(Encoder):
    """Keys of the lexical part alone."""

    def keys(self, texts: Any) -> Tensor:
        found = super().keys(texts).clone()
        found[:, : self.meaning_dim] = 0
        return torch.nn.functional.normalize(found)


def _encoder(model: Model, kind: type[Encoder]) -> Model:
    of = model.encoder
    return Model(kind(of.trunk, of.tokenizer, idf=of.idf, fingerprint=of.fingerprint), model.decoder, model.adapter)


def _frozen(setup: Setup) -> Model:
    settings = Settings()
    parts = Parts.find(setup.model.name, setup.adapter, None, "", settings.weights_dir, console.print)
    of = parts.encoder
    frozen = Encoder.load(of.folder, setup.model.device, idf=setup.model.adapter.idf, fingerprint=of.fingerprint)
    return Model(frozen, setup.model.decoder, setup.model.adapter, setup.model.scope)


def _prefix(model: Model, change: Callable[[Model, Prefix], None]) -> Model:
    """The model with a prefix of its own."""
    prefix = copy.deepcopy(model.adapter.prefix)
    with torch.no_grad():
        change(model, prefix)
    return Model(model.encoder, model.decoder, replace(model.adapter, prefix=prefix))


def _constants(_: Model, prefix: Prefix) -> None:
    for parameter in (prefix.fall.weight, prefix.fall.bias, prefix.position):
        parameter.zero_()


def _untrained(model: Model, prefix: Prefix) -> None:
    _constants(model, prefix)
    for parameter, text in ((prefix.opening, OPENING), (prefix.closing, CLOSING)):
        parameter.copy_(model.decoder.embed(model.decoder.answer_tokens(text, "")))
