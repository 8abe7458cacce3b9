"""The layers of public sentence encoders, BERT's and MPNet's kind, over texts that stand one behind the other, without padding.

Post-norm transformers (Devlin et al. 2018, arXiv 1810.04805); MPNet (Song et al. 2020, arXiv 2004.09297) has one table of relative
position biases beside, which all layers share. Products are in bfloat16, the residual stream and the norms in float32. Low-rank
factors (Hu et al. 2021, arXiv 2106.09685) are added beside each product while they are trained, and merged into it for serving.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from models.packed_linear import Linear, pad

Factors = Mapping[str, Tensor]  # "LAYER.PART.a" (r, in) and "LAYER.PART.b" (out, r), bfloat16
KINDS = ("bert", "mpnet")
_NAMES = {  # of a layer's modules
    "bert": ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "attention.output"),
    "mpnet": ("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", "attention"),
}


@dataclass(frozen=True)
class Norm:
    weight: Tensor  # (d,)
    bias: Tensor  # (d,)
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Product:
    """y = x Wᵀ + b in bfloat16, with low-rank factors beside it, or packed for the processor once it is frozen."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.bfloat16(), bias.bfloat16()  # (out, in), (out,)
        self._packed: Linear | None = None

    def __call__(self, x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        if self._packed is not None:
            return self._packed(x)
        y = linear(x, self.weight, self.bias)
        return y if a is None or b is None else y + linear(linear(x, a), b)

    def freeze(self) -> None:
        self._packed = Linear(self.weight, self.bias)
        self.weight = self.weight[:0]


@dataclass(frozen=True)
class Layer:
    parts: Mapping[str, Product]  # qkv, out, rise, fall
    after_attention: Norm
    after_mlp: Norm


class Transformer:
    """An encoder's layers.

    Args:
        folder: holds config.json and model.safetensors of a `bert` or `mpnet`.

    Raises:
        ValueError: another kind of model.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.kind: str = config["model_type"]
        if self.kind not in KINDS or config.get("hidden_act", "gelu") != "gelu":
            raise ValueError(f"{folder} holds a model of type {self.kind!r}, wanted one of {', '.join(KINDS)} with gelu")
        self.width, self.heads, self.eps = int(config["hidden_size"]), int(config["num_attention_heads"]), float(config["layer_norm_eps"])
        self.first_place = int(config["pad_token_id"]) + 1 if self.kind == "mpnet" else 0
        self.longest = int(config["max_position_embeddings"]) - self.first_place
        with safe_open(folder / "model.safetensors", "pt") as file:

            def get(name: str) -> Tensor:
                tensor: Tensor = file.get_tensor(name)
                return tensor.float()

            self._words = file.get_tensor("embeddings.word_embeddings.weight")
            self._places = get("embeddings.position_embeddings.weight")
            if self.kind == "bert":
                self._places = self._places + get("embeddings.token_type_embeddings.weight")[0]
            self._before = Norm(get("embeddings.LayerNorm.weight"), get("embeddings.LayerNorm.bias"), self.eps)
            self._bias = get("encoder.relative_attention_bias.weight") if self.kind == "mpnet" else None  # (buckets, H)
            self.layers = [self._layer(get, f"encoder.layer.{n}") for n in range(int(config["num_hidden_layers"]))]
        self._biases: dict[int, Tensor | None] = {}
        self._frozen = False

    def _layer(self, get: Callable[[str], Tensor], name: str) -> Layer:
        def product(*names: str) -> Product:
            weights, biases = zip(*[(get(f"{name}.{n}.weight"), get(f"{name}.{n}.bias")) for n in names], strict=True)
            return Product(torch.cat(weights), torch.cat(biases))

        def norm(part: str) -> Norm:
            return Norm(get(f"{name}.{part}.LayerNorm.weight"), get(f"{name}.{part}.LayerNorm.bias"), self.eps)

        q, k, v, out, attention = _NAMES[self.kind]
        parts = {"qkv": product(q, k, v), "out": product(out), "rise": product("intermediate.dense"), "fall": product("output.dense")}
        return Layer(parts, norm(attention), norm("output"))

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each product that factors can be added to, by "LAYER.PART"."""
        products = ((f"{n}.{part}", p.weight.shape) for n, layer in enumerate(self.layers) for part, p in layer.parts.items())
        return {name: (shape[0], shape[1]) for name, shape in products}

    def merge(self, factors: Factors) -> None:
        """Add the factors' products to the weights for good."""
        for name in {name.rpartition(".")[0] for name in factors}:
            number, part = name.split(".")
            product = self.layers[int(number)].parts[part]
            change = factors[f"{name}.b"].float() @ factors[f"{name}.a"].float()
            product.weight = (product.weight.float() + change).bfloat16()

    def freeze(self) -> None:
        """Pack the weights for inference: nothing can be merged or trained afterwards."""
        for layer in self.layers:
            for product in layer.parts.values():
                product.freeze()
        self._frozen = True

    def __call__(self, texts: Sequence[Sequence[int]], factors: Factors | None = None) -> list[Tensor]:
        """Token ids of texts to the outputs of their tokens, (T, d) float32 each. Frozen, a text's bits do not depend on the
        texts beside it (models.linear)."""
        lengths = [len(text) for text in texts]
        words = torch.tensor([token for text in texts for token in text])
        places = torch.cat([torch.arange(length) for length in lengths]) + self.first_place
        x = self._before(self._words[words].float() + self._places[places])
        if self._frozen:
            x = pad(x)
        factors = factors or {}
        for number, layer in enumerate(self.layers):

            def put(part: str, x: Tensor, number: int = number, layer: Layer = layer) -> Tensor:
                name = f"{number}.{part}"
                return layer.parts[part](x, factors.get(f"{name}.a"), factors.get(f"{name}.b"))

            qkv = put("qkv", x.bfloat16())
            heard = [self._attend(rows) for rows in torch.split(qkv[: len(words)], lengths)]
            if len(x) > len(words):
                heard.append(torch.zeros_like(qkv[len(words) :, : self.width]))
            x = layer.after_attention(x + put("out", torch.cat(heard)))
            x = layer.after_mlp(x + put("fall", gelu(put("rise", x.bfloat16()))))
        return list(torch.split(x[: len(words)], lengths))

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attention within one text: (T, 3 d) to (T, d)."""
        q, k, v = qkv.view(len(qkv), 3, self.heads, -1).permute(1, 2, 0, 3)[:, None].unbind()  # each (1, H, T, dh)
        heard = scaled_dot_product_attention(q, k, v, attn_mask=self._near(len(qkv)))
        return heard[0].transpose(0, 1).reshape(len(qkv), -1)

    def _near(self, length: int) -> Tensor | None:
        """(1, H, T, T) relative position biases."""
        if self._bias is None:
            return None
        if length not in self._biases:
            near = self._bias[relative_buckets(length, len(self._bias))]  # (T, T, H)
            self._biases[length] = near.permute(2, 0, 1)[None].bfloat16().contiguous()
        return self._biases[length]


def relative_buckets(length: int, buckets: int, distance: int = 128) -> Tensor:
    """(T, T) bucket of each (query, key) distance: half of the buckets for either direction, the farther ones in logarithms
    (Raffel et al. 2019, arXiv 1910.10683)."""
    at = torch.arange(length)
    apart = at[:, None] - at[None, :]
    half = buckets // 2
    side = (apart < 0).long() * half
    apart = apart.abs()
    exact = half // 2
    far = exact + (torch.log(apart.clamp_min(1).float() / exact) / math.log(distance / exact) * (half - exact)).long()
    return side + torch.where(apart < exact, apart, far.clamp_max(half - 1))
