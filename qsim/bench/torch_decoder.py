"""A decoder in plain float32 torch, where that is installed: what the passes of ``qsim bench inference`` are held
against.  The same weights, in the same memory."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

from qsim.decoder import Weights
from qsim.decoder_config import DecoderConfig
from qsim.positions import rotary_table

Tensor = Any
Cache = list[tuple[Tensor, Tensor]]


def version() -> str | None:
    """None where torch is not installed."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def takes(config: DecoderConfig) -> bool:
    """Whether it is of the Llama type: RMSNorm, rotary positions of whole heads, a gated SiLU, no biases."""
    plain = not (config.parallel_residual or config.biases or config.embedding_norm)
    rotary = config.positions == "rotary" and config.rotary_width == config.head_size
    return plain and rotary and config.norm == "rmsnorm" and config.activation == "silu" and config.gated


class TorchDecoder:
    """Logits (B T, V) of tokens (B, T), as torch's own kernels make them; a cache is added to."""

    def __init__(self, config: DecoderConfig, weights: Weights, threads: int) -> None:
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.config = config
        self._outer = self._tensors(weights.outer())
        self._layers = [self._tensors(weights.layer(number)) for number in range(config.layers)]
        cosine, sine = rotary_table(config.length, config.rotary_width, config.rotary_theta)
        self._cosine, self._sine = (self.torch.from_numpy(np.concatenate([x, x], axis=1)) for x in (cosine, sine))

    def _tensors(self, parameters: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        return {name: self.torch.from_numpy(w) for name, w in parameters.items()}

    def __call__(self, tokens: np.ndarray, cache: Cache | None = None) -> np.ndarray:
        with self.torch.inference_mode():
            return self._logits(self.torch.from_numpy(tokens.astype(np.int64)), cache).numpy()

    def _logits(self, tokens: Tensor, cache: Cache | None) -> Tensor:
        nn = self.torch.nn.functional
        table = self._outer["embedding.tokens"]
        x = nn.embedding(tokens, table)  # (B, T, h)
        for number, p in enumerate(self._layers):
            x = x + self._attention(p, self._norm(p["layernorm_1.gain"], x), number, cache)
            y = self._norm(p["layernorm_2.gain"], x)
            gate = nn.silu(y @ p["mlp_gate.weight"]) * (y @ p["mlp_up.weight"])
            x = x + gate @ p["mlp_down.weight"]
        x = self._norm(self._outer["layernorm_final.gain"], x)
        head = table.T if self.config.tied else self._outer["logits.weight"]
        return (x @ head).reshape(-1, self.config.vocabulary)

    def _norm(self, gain: Tensor, x: Tensor) -> Tensor:
        return self.torch.nn.functional.rms_norm(x, gain.shape, gain, self.config.epsilon)

    def _attention(self, p: dict[str, Tensor], x: Tensor, number: int, cache: Cache | None) -> Tensor:
        c, sizes, (batch, length, _) = self.config, self.config.sizes, x.shape
        parts = (x @ p["qkv.weight"]).split([sizes["q"], sizes["kv"], sizes["kv"]], dim=-1)
        q, k, v = (y.view(batch, length, -1, c.head_size).transpose(1, 2) for y in parts)  # (B, heads, T, d)
        earlier = cache[number] if cache is not None and number < len(cache) else None
        first = 0 if earlier is None else earlier[0].shape[2]
        q, k = self._turned(q, first), self._turned(k, first)
        if earlier is not None:
            k, v = (self.torch.cat(pair, dim=2) for pair in zip(earlier, (k, v), strict=True))
        if cache is not None:
            cache[number : number + 1] = [(k, v)]
        # one new position attends to all
        mixed = self.torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=length > 1, enable_gqa=c.heads != c.kv_heads
        )
        return mixed.transpose(1, 2).reshape(batch, length, -1) @ p["attention_out.weight"]

    def _turned(self, x: Tensor, first: int) -> Tensor:
        rows = slice(first, first + x.shape[2])
        a, b = x.chunk(2, dim=-1)
        return x * self._cosine[rows] + self.torch.cat([-b, a], dim=-1) * self._sine[rows]
