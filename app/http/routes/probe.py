"""Does a fact's target come? Asked before or after it is forgotten."""

from __future__ import annotations

import asyncio
import unicodedata

from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError

from app.access.request_context import note
from app.http.dependencies import VERSION, Configured, Reader, Serving, within
from app.http.fact_schemas import Probed, ProbeIn, ProbeOut
from app.http.routes.facts import REFUSED
from app.service import Request, Service, Use
from memory.errors import FactNotFound
from models.engine.sampling import Sampling

router = APIRouter(tags=["facts"])


@router.post("/facts/{fact_id}/probe", responses=REFUSED)
async def probe(
    fact_id: str, body: ProbeIn, response: Response, service: Serving, settings: Configured, tenant: Reader
) -> ProbeOut:
    """Ask the fact's prompt and its paraphrases, with the memory and without: how often does the target come?"""
    memory = await service.tenants.fresh(tenant)
    try:
        fact = memory.get(fact_id)
        note("read", [fact_id])
        prompt, target = body.prompt or fact.prompt, body.target or fact.target
    except FactNotFound:
        missing = [name for name in ("prompt", "target") if getattr(body, name) is None]
        if missing:
            message = "the fact is not in the memory: say what its prompt and target were"
            raise RequestValidationError([{"type": "missing", "loc": ("body", name), "msg": message} for name in missing]) from None
        assert body.prompt is not None and body.target is not None
        fact, prompt, target = None, body.prompt, body.target
    prompts = [prompt, *body.paraphrases]
    probes = await within(settings, _asked(service, tenant, prompts, target, body.max_new_tokens))
    response.headers[VERSION] = str(memory.version)
    return ProbeOut(
        id=fact_id,
        known=fact is not None,
        target=target,
        attack_success=sum(one.comes_with_memory for one in probes) / len(probes),
        without_memory=sum(one.comes_without_memory for one in probes) / len(probes),
        probes=probes,
    )


async def _asked(service: Service, tenant: str, prompts: list[str], target: str, max_new_tokens: int) -> list[Probed]:
    async def say(prompt: str, use: Use) -> str:
        answered = await service.generate(tenant, Request(prompt, Sampling(max_new_tokens), use))
        return answered.generation.text

    uses: tuple[Use, Use] = ("auto", "off")
    texts = await asyncio.gather(*(say(prompt, use) for prompt in prompts for use in uses))
    return [
        Probed(
            prompt=prompt,
            with_memory=with_,
            without_memory=without,
            comes_with_memory=_comes(with_, target),
            comes_without_memory=_comes(without, target),
        )
        for prompt, with_, without in zip(prompts, texts[::2], texts[1::2], strict=True)
    ]


def _comes(text: str, target: str) -> bool:
    """Whether a text starts with the target, whatever the spaces, the case and the form of its letters."""
    said, wanted = (" ".join(unicodedata.normalize("NFKC", t).split()).casefold() for t in (text, target))
    return said.startswith(wanted)
