"""``LlamaForCausalLM`` of transformers with a model's own weights, float32: a peer of ``qsim bench inference``, where
torch and transformers are installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np

from qsim.decoder import Weights
from qsim.decoder_config import DecoderConfig

Tensor = Any
_NORMS = {"input_layernorm": "layernorm_1", "post_attention_layernorm": "layernorm_2"}
_LINEAR = {
    "self_attn.o_proj": "attention_out",
    "mlp.up_proj": "mlp_up",
    "mlp.gate_proj": "mlp_gate",
    "mlp.down_proj": "mlp_down",
}


_PACKAGES = ("torch", "transformers")


def installed() -> bool:
    return all(find_spec(name) is not None for name in _PACKAGES)


def versions() -> str | None:
    """None where one of the packages is missing."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES) if installed() else None


def takes(config: DecoderConfig) -> bool:
    """Whether it is of the Llama type: RMSNorm, rotary positions of whole heads, a gated SiLU, no biases."""
    plain = not (config.parallel_residual or config.biases or config.embedding_norm)
    rotary = config.positions == "rotary" and config.rotary_width == config.head_size
    return plain and rotary and config.norm == "rmsnorm" and config.activation == "silu" and config.gated


class TorchDecoder:
    """Logits (B T, V) of tokens (B, T); a cache, one of ``empty_cache``, is added to."""

    def __init__(self, config: DecoderConfig, weights: Weights, threads: int) -> None:
        self.torch = importlib.import_module("torch")
        self.transformers = importlib.import_module("transformers")
        self.torch.set_num_threads(threads)
        with self.torch.device("meta"):
            self.model = self.transformers.LlamaForCausalLM(self._config(config)).eval()
        tensors = {name: self.torch.from_numpy(np.array(w, order="C")) for name, w in _named(config, weights)}
        self.model.load_state_dict(tensors, strict=False, assign=True)
        self.model.tie_weights()
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(self._config(config))  # it has no weights

    def _config(self, config: DecoderConfig) -> Any:
        return self.transformers.LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_size,
            max_position_embeddings=config.length,
            rms_norm_eps=config.epsilon,
            rope_theta=config.rotary_theta,
            tie_word_embeddings=config.tied,
        )

    def empty_cache(self) -> Any:
        return self.transformers.DynamicCache()

    def __call__(self, tokens: np.ndarray, cache: Any = None) -> np.ndarray:
        with self.torch.inference_mode():
            given = self.torch.from_numpy(tokens.astype(np.int64))
            logits = self.model(given, cache=cache, use_cache=cache is not None).logits
        return logits.reshape(-1, logits.shape[-1]).numpy()


def _named(config: DecoderConfig, weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters by their names there, matrices (out, in)."""
    outer, q, kv = weights.outer(), config.sizes["q"], config.sizes["kv"]
    yield "model.embed_tokens.weight", outer["embedding.tokens"]
    yield "model.norm.weight", outer["layernorm_final.gain"]
    yield "lm_head.weight", outer["embedding.tokens"] if config.tied else outer["logits.weight"].T
    for number in range(config.layers):
        p, prefix = weights.layer(number), f"model.layers.{number}"
        for name, part in zip("qkv", np.split(p["qkv.weight"], (q, q + kv), axis=1), strict=True):
            yield f"{prefix}.self_attn.{name}_proj.weight", part.T
        yield from ((f"{prefix}.{theirs}.weight", p[f"{ours}.gain"]) for theirs, ours in _NORMS.items())
        yield from ((f"{prefix}.{theirs}.weight", p[f"{ours}.weight"].T) for theirs, ours in _LINEAR.items())
