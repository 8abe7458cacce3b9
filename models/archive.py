"""Safetensors files with a header that says what they are: written whole or not at all, read with every damage told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.errors import AdapterCorrupt


def write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a file, beside the old one first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(header)))  # save_file: owner only
    beside.replace(path)


def read(path: Path, wanted: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a file whose `format` is the wanted one. Raises AdapterCorrupt."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    except (SafetensorError, OSError) as error:
        raise AdapterCorrupt(f"{path} is no safetensors file: {error}") from error
    if header.get("format") != wanted:
        raise AdapterCorrupt(f"{path} has format {header.get('format')!r}, wanted {wanted!r}")
    return tensors, header


def digest(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """SHA-256 over a text, and over tensors by name, dtype, shape and bytes."""
    found = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        found.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return found.hexdigest()
