"""The forward pass of Llama-class decoders for generation: packed weights, preallocated caches, no masks, no padding.

Equal to transformers' own up to the rounding of float32. A decode step reads one token into each of many sequences:
the weights run over all rows at once, attention over each sequence's own cache, so that a row's bits depend on its own
sequence alone (see models.packed_linear).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from models.packed_linear import Linear, pad

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
ROPES = ("default", "linear", "llama3")  # their frequencies do not change with the length


@dataclass
class Cache:
    """Keys and values of one sequence.

    Args:
        held: (L, 2, 1, Hkv, S, dh), keys and values of all layers.
        length: tokens read so far.
    """

    held: Tensor
    length: int = 0

    def __post_init__(self) -> None:
        self.layers: tuple[Tensor, ...] = self.held.unbind()


@dataclass(frozen=True)
class _Layer:
    before_attention: Tensor  # (d,) norm weights
    before_mlp: Tensor  # (d,)
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear


class LlamaTrunk:
    """The layers of a Llama-class causal LM.

    Args:
        model: of transformers; `fits` must hold. Its weights are copied into packed form.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        self.heads, self.kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // self.heads)
        self.eps, self.width = float(config.rms_norm_eps), int(config.hidden_size)
        self.device, self.dtype = model.device, model.dtype
        self._rotated = (self.heads + self.kv_heads) * self.head_dim
        self._layers = [self._pack(layer) for layer in model.base_model.layers]
        self._norm = model.base_model.norm.weight.detach()
        self._head = Linear(model.get_output_embeddings().weight)
        self._rotary = model.base_model.rotary_emb
        self._angles = torch.empty(0, self.head_dim // 2, dtype=torch.complex64, device=self.device)

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this forward computes what the model's own does."""
        config = model.config
        rope = getattr(config, "rope_parameters", None) or {}
        windows = getattr(config, "layer_types", None) or []
        return (
            type(model).__name__ in ARCHITECTURES
            and config.hidden_act == "silu"
            and rope.get("rope_type", "default") in ROPES
            and not getattr(config, "mlp_bias", False)
            and all(kind == "full_attention" for kind in windows)
            and (bool(windows) or getattr(config, "sliding_window", None) is None)
        )

    @staticmethod
    def release(model: Any) -> None:
        """Free the model's own copies of what is packed; its forward cannot run any more."""
        for layer in model.base_model.layers:
            for module in (layer.self_attn, layer.mlp):
                for parameter in module.parameters():
                    parameter.data = parameter.data.new_empty(0)

    def _pack(self, layer: Any) -> _Layer:
        a, m = layer.self_attn, layer.mlp
        projections = [self._interleave(a.q_proj), self._interleave(a.k_proj), (a.v_proj.weight, a.v_proj.bias)]
        weights, biases = zip(*projections, strict=True)
        return _Layer(
            layer.input_layernorm.weight.detach(),
            layer.post_attention_layernorm.weight.detach(),
            Linear(torch.cat(weights), None if biases[0] is None else torch.cat(biases)),
            Linear(a.o_proj.weight, a.o_proj.bias),
            Linear(torch.cat([m.gate_proj.weight, m.up_proj.weight])),
            Linear(m.down_proj.weight),
        )

    def _interleave(self, projection: Any) -> tuple[Tensor, Tensor | None]:
        """Rotation turns dimensions i and i + dh/2 together: side by side they are one complex number."""
        half = self.head_dim // 2
        order = torch.arange(self.head_dim, device=self.device).view(2, half).T.flatten()
        rows = torch.arange(projection.weight.shape[0], device=self.device).view(-1, self.head_dim)[:, order].flatten()
        return projection.weight[rows], None if projection.bias is None else projection.bias[rows]

    def _rotations(self, length: int) -> Tensor:
        """e^{iθ} of the positions up to at least `length`: (n, dh/2) complex64."""
        if len(self._angles) < length:
            count = max(length, 2 * len(self._angles), 512)
            positions = torch.arange(count, device=self.device)[None]
            cos, sin = self._rotary(torch.empty(0, dtype=torch.float32, device=self.device), positions)  # (1, n, dh)
            half = self.head_dim // 2
            self._angles = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())
        return self._angles

    @torch.inference_mode()
    def cache(self, capacity: int, ahead: Cache | None = None) -> Cache:
        """A cache for one sequence of at most `capacity` tokens, empty or with all that another one has read."""
        shape = (len(self._layers), 2, 1, self.kv_heads, capacity, self.head_dim)
        cache = Cache(torch.empty(shape, dtype=self.dtype, device=self.device))
        if ahead is not None:
            cache.length = ahead.length
            cache.held[..., : ahead.length, :] = ahead.held[..., : ahead.length, :]
        return cache

    @torch.inference_mode()
    def extend(self, embeddings: Tensor, cache: Cache) -> Tensor:
        """Read (T, d) embeddings into a cache; outputs (T, d)."""
        out = self._run(embeddings, [cache], torch.arange(cache.length, cache.length + len(embeddings), device=self.device))
        cache.length += len(embeddings)
        return out

    @torch.inference_mode()
    def step(self, embeddings: Tensor, caches: Sequence[Cache]) -> Tensor:
        """Read one embedding (B, d) into each of B caches; outputs (B, d)."""
        out = self._run(embeddings, caches, torch.tensor([cache.length for cache in caches], device=self.device))
        for cache in caches:
            cache.length += 1
        return out

    def _run(self, embeddings: Tensor, caches: Sequence[Cache], positions: Tensor) -> Tensor:
        """(n, d) embeddings through all layers: n tokens of one sequence, or one token of each of n sequences."""
        n = len(embeddings)
        reach = max(cache.length for cache in caches) + (n if len(caches) == 1 else 1)
        rotation = pad(self._rotations(reach)[positions])[:, None]  # (M, 1, dh/2)
        x = pad(embeddings.to(self.dtype))  # (M, d)
        alone = n > 1 and len(caches) == 1
        mask = self._mask(n, caches[0].length) if alone else None
        spoken = torch.zeros(len(x), self.heads * self.head_dim, dtype=self.dtype, device=self.device)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(rms_norm(x, (self.width,), layer.before_attention, self.eps))  # (M, (H + 2 Hkv) dh)
            self._rotate(qkv, rotation)
            if alone:
                self._attend_alone(index, qkv[:n], caches[0], mask, spoken)
            else:
                self._attend_each(index, qkv, caches, spoken)
            x = layer.out.add_to(x, spoken)
            gate, up = layer.gate_up(rms_norm(x, (self.width,), layer.before_mlp, self.eps)).chunk(2, -1)
            x = layer.down.add_to(x, silu(gate).mul_(up))
        return rms_norm(x[:n], (self.width,), self._norm, self.eps)

    def _rotate(self, qkv: Tensor, rotation: Tensor) -> None:
        """Turn queries and keys by their positions, in place."""
        qk = qkv[:, : self._rotated].view(len(qkv), -1, self.head_dim // 2, 2)
        if qkv.dtype == torch.float32:
            torch.view_as_complex(qk).mul_(rotation)
        else:
            qk.copy_(torch.view_as_real(torch.view_as_complex(qk.float()).mul_(rotation)))

    def _mask(self, n: int, past: int) -> Tensor | None:
        """(n, past + n) bool where a chunk follows others; a first chunk is simply causal."""
        return torch.ones(n, past + n, dtype=torch.bool, device=self.device).tril(past) if past else None

    def _attend_alone(self, index: int, qkv: Tensor, cache: Cache, mask: Tensor | None, spoken: Tensor) -> None:
        """Causal attention of n tokens of one sequence."""
        n, end = len(qkv), cache.length + len(qkv)
        by_head = qkv.view(n, -1, self.head_dim).transpose(0, 1)
        q, k, v = torch.split(by_head, [self.heads, self.kv_heads, self.kv_heads])  # (·, n, dh)
        kv = cache.layers[index]
        kv[0, 0, :, cache.length : end], kv[1, 0, :, cache.length : end] = k, v
        out = scaled_dot_product_attention(
            q[None], kv[0, :, :, :end], kv[1, :, :, :end], mask, is_causal=mask is None, enable_gqa=True
        )  # (1, H, n, dh)
        spoken[:n].view(n, self.heads, self.head_dim).copy_(out[0].transpose(0, 1))

    def _attend_each(self, index: int, qkv: Tensor, caches: Sequence[Cache], spoken: Tensor) -> None:
        """Attention of one new token of each sequence. The queries that share a key head stand as its query positions."""
        groups = self.heads // self.kv_heads
        q, fresh = torch.split(qkv, [self.heads * self.head_dim, 2 * self.kv_heads * self.head_dim], -1)
        queries = q.view(-1, 1, self.kv_heads, groups, self.head_dim)
        fresh, answers = fresh.view(-1, 2, 1, self.kv_heads, self.head_dim), spoken.view(queries.shape)
        for row, cache in enumerate(caches):
            kv, at = cache.layers[index], cache.length
            kv[:, :, :, at] = fresh[row]
            keys, values = kv[:, :, :, : at + 1]
            answers[row] = scaled_dot_product_attention(queries[row], keys, values)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """(B, d) outputs to (B, V) float32 logits."""
        return self._head(pad(hidden))[: len(hidden)].float()
