"""The forward pass of BERT-class sentence encoders for short texts: packed weights and no padding.

Texts stand one behind the other as rows of one matrix; the weights run over all rows at once, attention over each
text's own. So a text's vector does not depend on the texts beside it (see models.packed_linear).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from models.packed_linear import Linear, pad


@dataclass(frozen=True)
class _Norm:
    weight: Tensor  # (d,)
    bias: Tensor  # (d,)
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class _Layer:
    qkv: Linear
    out: Linear
    after_attention: _Norm
    rise: Linear
    fall: Linear
    after_mlp: _Norm


class BertTrunk:
    """The layers of a BERT-class encoder.

    Args:
        model: of transformers; `fits` must hold. Its weights are copied into packed form.
    """

    def __init__(self, model: Any) -> None:
        self.heads = int(model.config.num_attention_heads)
        self._words, self._places = model.embeddings.word_embeddings, model.embeddings.position_embeddings
        self._kinds: Tensor = model.embeddings.token_type_embeddings.weight.detach()  # (2, d): of a first and of a second text
        self._before = _norm(model.embeddings.LayerNorm)
        self._layers = [self._pack(layer) for layer in model.encoder.layer]

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this forward computes what the model's own does, and where it is faster: on a CPU."""
        config = model.config
        plain = getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
        return type(model).__name__ == "BertModel" and config.hidden_act == "gelu" and plain and model.device.type == "cpu"

    @staticmethod
    def _pack(layer: Any) -> _Layer:
        a, out = layer.attention.self, layer.attention.output
        parts = (a.query, a.key, a.value)
        return _Layer(
            Linear(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])),
            Linear(out.dense.weight, out.dense.bias),
            _norm(out.LayerNorm),
            Linear(layer.intermediate.dense.weight, layer.intermediate.dense.bias),
            Linear(layer.output.dense.weight, layer.output.dense.bias),
            _norm(layer.output.LayerNorm),
        )

    def means(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Token ids of n texts to the means of their outputs, (n, d)."""
        return torch.stack([rows.mean(0) for rows in self.outputs(texts)])

    @torch.inference_mode()
    def outputs(self, texts: Sequence[Sequence[int]], kinds: Sequence[Sequence[int]] | None = None) -> Sequence[Tensor]:
        """Token ids of n texts to their outputs, (T, d) each.

        Args:
            kinds: of each token, 0 for those of a first and 1 for those of a second text; all 0 without it.
        """
        lengths = [len(text) for text in texts]
        words = torch.tensor([token for text in texts for token in text])
        places = torch.cat([torch.arange(length) for length in lengths])
        kind = self._kinds[0] if kinds is None else self._kinds[torch.tensor([k for row in kinds for k in row])]
        x = pad(self._before(self._words(words) + kind + self._places(places)))  # (M, d)
        heard = torch.zeros_like(x)
        for layer in self._layers:
            qkv = layer.qkv(x)  # (M, 3 d)
            start = 0
            for length in lengths:
                self._attend(qkv[start : start + length], heard[start : start + length])
                start += length
            x = layer.after_attention(layer.out.add_to(x, heard))
            x = layer.after_mlp(layer.fall.add_to(x, gelu(layer.rise(x))))
        return torch.split(x[: len(words)], lengths)

    def _attend(self, qkv: Tensor, heard: Tensor) -> None:
        """Attention within one text: (T, 3 d) into (T, d)."""
        q, k, v = qkv.view(len(qkv), 3, self.heads, -1).permute(1, 2, 0, 3)[:, None].unbind()  # each (1, H, T, dh)
        out = scaled_dot_product_attention(q, k, v)
        heard.view(len(heard), self.heads, -1).copy_(out[0].transpose(0, 1))


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight.detach(), module.bias.detach(), float(module.eps))
