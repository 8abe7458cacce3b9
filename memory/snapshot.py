"""A page and its facts as bytes (safetensors with a metadata header), and back, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from memory.change import describe, recall
from memory.errors import CorruptPage
from memory.fact import Fact
from memory.page import Page, PageSettings

FORMAT = "larimar-page/2"
KNOWN = (FORMAT, "larimar-page/1")  # the first format did not say by which addressing its matrix was solved


def to_bytes(page: Page, facts: Sequence[Fact], version: int) -> bytes:
    """Keys and codes as float32, inverse and matrix as float64, the facts' texts as JSON; `version` is the log position covered."""
    tensors = _tensors(page, facts, version)
    return save(tensors, {"format": FORMAT, "sha256": _digest(tensors)})


def digest(page: Page, facts: Sequence[Fact]) -> str:
    """SHA-256 of a page and its facts. (Of the tensors: safetensors may order its header differently each time.)"""
    return _digest(_tensors(page, facts, 0))


def _tensors(page: Page, facts: Sequence[Fact], version: int) -> dict[str, Tensor]:
    head = {
        "version": version,
        "widths": page.widths,
        "unchecked": page.unchecked,
        "addressing": page.addressing.identity,
        "facts": [describe(fact) for fact in facts],
    }
    tensors = {
        "keys": page.keys.float(),
        "codes": page.codes,
        "inverse": page.inverse,
        "matrix": page.matrix,
        "head": torch.frombuffer(bytearray(json.dumps(head, ensure_ascii=False).encode()), dtype=torch.uint8),
    }
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def from_bytes(raw: bytes, settings: PageSettings, dim: int, device: torch.device | str = "cpu") -> tuple[Page, list[Fact], int]:
    """The page, its facts in row order, and the version it covers. Stored under another addressing, it is solved afresh.

    Raises:
        CorruptPage: torn, altered, of another format, or of other dimensions.
    """
    try:
        length = int.from_bytes(raw[:8], "little")
        metadata = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
        tensors = load(raw)
    except (SafetensorError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptPage(f"a page's bytes cannot be read: {error}") from error
    if metadata.get("format") not in KNOWN:
        raise CorruptPage(f"a page has format {metadata.get('format')!r}, wanted {FORMAT!r}")
    if metadata.get("sha256") != _digest(tensors):
        raise CorruptPage("a page's checksum differs")
    head = json.loads(tensors["head"].numpy().tobytes())
    rows, width = tensors["codes"].shape
    if tensors["keys"].shape[1] != dim or rows > settings.slots:
        raise CorruptPage(
            f"a page holds {rows} keys of {tensors['keys'].shape[1]} dimensions, this memory has {settings.slots} slots of {dim}"
        )
    page = Page(settings, dim, width, device)
    page.widths = list(head["widths"])
    page.keys.copy_(tensors["keys"])
    page.codes.copy_(tensors["codes"])
    if head.get("addressing") == page.addressing.identity:
        page.inverse.copy_(tensors["inverse"])
        page.matrix.copy_(tensors["matrix"])
        page.unchecked = int(head["unchecked"])
    else:  # stored under other settings: the facts are the same, their memory is solved afresh
        page.resolve()
    facts = [
        recall(described, tensors["keys"][row].clone(), tensors["codes"][row, : page.widths[row]].clone())
        for row, described in enumerate(head["facts"])
    ]
    return page, facts, int(head["version"])


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
