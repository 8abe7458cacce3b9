"""The adapter file: whole, of the right weights, or refused."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.adapter import FORMAT, Adapter
from models.errors import AdapterCorrupt, AdapterMismatch, AdapterMissing
from tests.models import toys

DECODER, ENCODER = toys.decoder(), toys.encoder()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "toy.safetensors"
    toys.adapter(DECODER, ENCODER).save(path)
    return path


def same(a: Adapter, b: Adapter) -> bool:
    pairs = zip(a.fingerprint_parts, b.fingerprint_parts, strict=True)
    return a.about == b.about and all(torch.equal(x, y) for x, y in pairs)


def test_it_is_read_as_it_was_written(path: Path) -> None:
    assert same(Adapter.load(path, "toy"), toys.adapter(DECODER, ENCODER))
    assert [p.name for p in path.parent.iterdir()] == ["toy.safetensors"]


def test_another_user_may_read_it(path: Path) -> None:
    (path.parent / "plain").touch()
    assert path.stat().st_mode == (path.parent / "plain").stat().st_mode


def test_a_missing_one_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(AdapterMissing, match=r"'toy'.*larimar train --decoder toy"):
        Adapter.load(tmp_path / "none.safetensors", "toy")


def test_one_of_other_weights_is_refused(path: Path) -> None:
    adapter = Adapter.load(path, "toy")
    adapter.check(decoder="toy", decoder_fingerprint=DECODER.fingerprint, encoder_fingerprint=ENCODER.fingerprint)
    for decoder, encoder in (("other", ENCODER.fingerprint), (DECODER.fingerprint, "other")):
        with pytest.raises(AdapterMismatch, match=r"toy-\w+.*this one is other.*larimar train --decoder toy"):
            adapter.check(decoder="toy", decoder_fingerprint=decoder, encoder_fingerprint=encoder)


def test_damage_anywhere_is_refused(path: Path, tmp_path: Path) -> None:
    raw, whole, torn = path.read_bytes(), Adapter.load(path, "toy"), tmp_path / "torn.safetensors"
    header = 8 + int.from_bytes(raw[:8], "little")
    for at in [*range(0, header, 7), *range(header, len(raw), len(raw) // 50)]:
        damaged = bytearray(raw)
        damaged[at] ^= 0x04
        torn.write_bytes(damaged)
        with suppress(AdapterCorrupt):
            assert same(Adapter.load(torn, "toy"), whole), f"byte {at}"  # the checksum's own name may be what broke
    for length in range(0, len(raw), len(raw) // 20):
        torn.write_bytes(raw[:length])
        with pytest.raises(AdapterCorrupt):
            Adapter.load(torn, "toy")


def test_a_file_of_another_kind_is_refused(path: Path, tmp_path: Path) -> None:
    other, tensors = tmp_path / "other.safetensors", load_file(path)
    save_file(tensors, other)
    with pytest.raises(AdapterCorrupt, match=f"format None, wanted '{FORMAT}'"):
        Adapter.load(other, "toy")
    del tensors["prefix.opening"]
    save_file(tensors, other, {"format": FORMAT, "about": "{}"})
    with pytest.raises(AdapterCorrupt, match="lacks a part"):
        Adapter.load(other, "toy")
