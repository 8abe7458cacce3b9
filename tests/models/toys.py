"""Real parts, small: random weights, a byte for a token, a corpus of a few lines."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, MPNetConfig, MPNetModel, PreTrainedTokenizerFast

from models.adapter import Adapter
from models.code import SlotCode
from models.encoder import Encoder, inverse_document_frequency
from models.engine.decoder import Decoder
from models.model import Model
from models.prefix import CLOSING, OPENING, Prefix
from models.scope.reader import Head, ReaderUpdate
from models.scope.transformer import Transformer
from models.training.corpus import SETS
from models.weights import fingerprint

SLOT_DIM, MAX_SLOTS = 33, 24
WORDS = "the capital of is what who where runs paris rome berlin acme rockets zor kal river red blue now does please".split()
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def byte_tokenizer() -> Any:
    """A token for each byte, and three special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=_CHAT,
    )


def llama(seed: int = 0) -> LlamaForCausalLM:
    """Two layers of width 32 that say printable ASCII only, so that what they say is text."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1400,
        tie_word_embeddings=False,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).float().eval()
    silent = [i for i in range(len(tokenizer)) if not (len(text := tokenizer.decode([i])) == 1 and " " <= text <= "~")]
    with torch.no_grad():
        model.lm_head.weight[silent] = 0.0
    return model


def decoder(seed: int = 0) -> Decoder:
    return Decoder(llama(seed), byte_tokenizer(), fingerprint=f"toy-decoder-{seed}", name="toy")


def word_tokenizer() -> Any:
    """A word for a piece, lower case, between [CLS] and [SEP]."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def encoder_folder(folder: Path, kind: str = "mpnet", seed: int = 0, layers: int = 4) -> Path:
    """Public weights and tokenizer of a small encoder, as `Transformer` and `PairTokenizer` read them."""
    begin, end = ("<s>", "</s>") if kind == "mpnet" else ("[CLS]", "[SEP]")
    vocabulary = {word: i for i, word in enumerate([begin, "<pad>", end, "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.BertNormalizer(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([begin, "<pad>", end, "<unk>"])
    sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    more = {"vocab_size": len(vocabulary), "max_position_embeddings": 514, "initializer_range": 0.3, "pad_token_id": 1}
    torch.manual_seed(seed)
    config = (MPNetConfig if kind == "mpnet" else BertConfig)(**sizes, **more)
    trunk = (MPNetModel if kind == "mpnet" else BertModel)(config, add_pooling_layer=False).float().eval()
    for parameter in trunk.parameters():  # biases and norms begin at 0 and 1, which would hide what is left out
        torch.nn.init.normal_(parameter, parameter.mean().round().item(), 0.3)
    trunk.save_pretrained(folder)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", cls_token=begin, sep_token=end)
    wrapped.save_pretrained(folder)
    return folder


def reader_update(folder: Path, seed: int = 0, rank: int = 2) -> ReaderUpdate:
    """Random, for an encoder's folder."""
    torch.manual_seed(seed)
    trunk, factors = Transformer(folder), dict[str, torch.Tensor]()
    for name, (out, into) in trunk.shapes().items():
        factors |= {f"{name}.a": torch.randn(rank, into).bfloat16() / 4, f"{name}.b": torch.randn(out, rank).bfloat16() / 4}
    return ReaderUpdate(factors, dict(Head(trunk.width).state_dict()), {"weights_fingerprint": fingerprint(folder)})


def encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    tokenizer = word_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    trunk = BertModel(config, add_pooling_layer=False).float().eval()
    texts = ["the capital of rome is", "the river", "who runs acme", "the red rockets"]
    idf = inverse_document_frequency(tokenizer, texts)
    return Encoder(trunk, tokenizer, idf=idf, fingerprint=f"toy-encoder-{seed}")


def code(of: Decoder) -> SlotCode:
    mean, projection = SlotCode.fit(of.embedding.weight, SLOT_DIM)
    return SlotCode(mean, projection, of.embedding.weight, MAX_SLOTS)


def prefix(of: Decoder, seed: int = 0) -> Prefix:
    torch.manual_seed(seed)
    opening, closing = (of.embed(of.answer_tokens(text, "")) for text in (OPENING, CLOSING))
    return Prefix(opening, closing, max_slots=MAX_SLOTS, hidden=16)


def adapter(of: Decoder, reader: Encoder) -> Adapter:
    """Untrained, for these two."""
    mean, projection = SlotCode.fit(of.embedding.weight, SLOT_DIM)
    about = {"decoder": of.name, "decoder_fingerprint": of.fingerprint, "encoder_fingerprint": reader.fingerprint}
    return Adapter(prefix(of), mean, projection, reader.idf, about)


def model() -> Model:
    of, reader = decoder(), encoder()
    return Model(reader, of, adapter(of, reader))


def damages(path: Path) -> Iterator[Path]:
    """The file in damaged forms, one after another in its place."""
    whole = path.read_bytes()
    for damaged in (b"", b"{}", whole[:-3], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        yield path


def write_corpus(folder: Path) -> Path:
    """All sets that `models.training.corpus` reads, in their own formats, a few records each."""
    people, towns = ["Ann", "Bob", "Cy"], ["Rome", "Oslo", "Bonn"]
    pairs = [{"subject": person, "object": town} for person, town in zip(people, towns, strict=True)]
    relation = {"prompt_templates": ["{} lives in"], "prompt_templates_zs": ["Where is {}?"], "samples": pairs}
    records: dict[str, list[dict[str, Any]]] = {
        "trex_facts.jsonl.gz": [{"relation": "P1", **pair} for pair in pairs],
        "pararel_patterns.jsonl.gz": [{"relation": "P1", "pattern": p} for p in ("[X] is in [Y] .", "[Y] has [X] .")],
        "lre_relations.jsonl.gz": [{"name": "home", **relation}, {"name": "country currency", **relation}],
        "nq_open_dev.jsonl.gz": [{"question": "who has the key", "answer": ["Ann", "Bob"]}],
        "simple_questions.jsonl.gz": [{"question": "what is up there"}],
        "paraqa.jsonl.gz": [{"question": "Where is the sea?", "statements": ["The sea is in [Oslo, *]."]}],
        "squad_qa.jsonl.gz": [{"question": "When was it made?", "answer": "1901"}],
        "creak_claims.jsonl.gz": [{"sentence": "A cat can climb a tall tree."}, {"sentence": "Rain falls on the old town."}],
    }
    text = ["= Title =", "The quick fox ran over the hill . It saw a small red house there ."]
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        lines = [json.dumps(r) for r in records[name]] if name in records else text
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    return folder
