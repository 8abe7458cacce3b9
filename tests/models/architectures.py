"""Small random decoders and a byte tokenizer: real architectures, no weights to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
)

from models.engine.decoder import Decoder

VOCABULARY = 260
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "eos_token_id": 256,
    "bos_token_id": 257,
    "pad_token_id": 256,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_SHAPE),
    "llama, scaled positions": LlamaConfig(
        **_SHAPE,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "mistral": MistralConfig(**_SHAPE, head_dim=16, sliding_window=None),
    "qwen2": Qwen2Config(**_SHAPE),
    "gemma3": Gemma3TextConfig(**_SHAPE, head_dim=8, sliding_window=16, query_pre_attn_scalar=8, tie_word_embeddings=False),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=4, eos_token_id=256, bos_token_id=257),
}


class Bytes:
    """One token a byte."""

    eos_token_id = 256

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")


def toy_decoder(kind: str = "llama") -> Decoder:
    """A random decoder whose greedy texts vary: its embeddings are wide enough for far-apart logits."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(CONFIGS[kind], attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    return Decoder(model, Bytes(), fingerprint=kind, name=kind)
