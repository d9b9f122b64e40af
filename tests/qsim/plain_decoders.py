"""Decoders of every architecture as their papers and authors define them, in plain float64 NumPy.

They read a checkpoint's own tensors and config.json; nothing is shared with the project.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]
_erf = np.vectorize(math.erf)


def logits(config: dict[str, Any], tensors: Tensors, tokens: np.ndarray) -> np.ndarray:
    """(B, T) -> (B T, V)"""
    wide = {name: w.astype(np.float64) for name, w in tensors.items()}
    found = _DEFINITIONS[config["model_type"]](config, wide, tokens)
    return found.reshape(tokens.size, -1)


def layernorm(w: Tensors, name: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    deviation = np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return (x - x.mean(-1, keepdims=True)) / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]


def rmsnorm(w: Tensors, name: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * w[f"{name}.weight"]


def linear(w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    """torch.nn.Linear"""
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def conv1d(w: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    """GPT-2's, whose weight is (in, out)."""
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + _erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def heads_of(x: np.ndarray, heads: int) -> np.ndarray:
    """(B, T, H d) -> (B, H, T, d)"""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: Any = 0) -> np.ndarray:
    """Causal, by head: (B, H, T, d) -> (B, T, H d)."""
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]) + bias
    scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = powers / powers.sum(-1, keepdims=True) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(mixed.shape[0], mixed.shape[2], -1)


def turned(x: np.ndarray, width: int, theta: float) -> np.ndarray:
    """Pair (i, i + width / 2) of the first ``width`` values as a complex number, times e^(i angle)."""
    half = width // 2
    angles = np.arange(x.shape[2])[:, None] * theta ** (-np.arange(half) / half)
    z = (x[..., :half] + 1j * x[..., half:width]) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag, x[..., width:]], axis=-1)


def gpt2(c: dict[str, Any], w: Tensors, tokens: np.ndarray) -> np.ndarray:
    p = "transformer." if "transformer.wte.weight" in w else ""
    epsilon, heads = c["layer_norm_epsilon"], c["n_head"]
    activation = {"gelu": gelu, "gelu_new": gelu_tanh}[c["activation_function"]]
    x = w[f"{p}wte.weight"][tokens] + w[f"{p}wpe.weight"][: tokens.shape[1]]
    for i in range(c["n_layer"]):
        at = f"{p}h.{i}"
        qkv = conv1d(w, f"{at}.attn.c_attn", layernorm(w, f"{at}.ln_1", x, epsilon))
        mixed = attention(*(heads_of(part, heads) for part in np.split(qkv, 3, axis=-1)))
        x = x + conv1d(w, f"{at}.attn.c_proj", mixed)
        up = conv1d(w, f"{at}.mlp.c_fc", layernorm(w, f"{at}.ln_2", x, epsilon))
        x = x + conv1d(w, f"{at}.mlp.c_proj", activation(up))
    head = w[f"{p}wte.weight"] if c["tie_word_embeddings"] else w["lm_head.weight"]
    return layernorm(w, f"{p}ln_f", x, epsilon) @ head.T


def opt(c: dict[str, Any], w: Tensors, tokens: np.ndarray) -> np.ndarray:
    p, heads = "model.decoder", c["num_attention_heads"]
    table = w[f"{p}.embed_tokens.weight"]
    x = table[tokens] + w[f"{p}.embed_positions.weight"][2 + np.arange(tokens.shape[1])]
    for i in range(c["num_hidden_layers"]):
        at = f"{p}.layers.{i}"
        a = layernorm(w, f"{at}.self_attn_layer_norm", x, 1e-5)
        q, k, v = (heads_of(linear(w, f"{at}.self_attn.{n}_proj", a), heads) for n in "qkv")
        x = x + linear(w, f"{at}.self_attn.out_proj", attention(q, k, v))
        up = linear(w, f"{at}.fc1", layernorm(w, f"{at}.final_layer_norm", x, 1e-5))
        x = x + linear(w, f"{at}.fc2", np.maximum(up, 0))
    return layernorm(w, f"{p}.final_layer_norm", x, 1e-5) @ table.T


def fused_by_head(w: Tensors, name: str, x: np.ndarray, heads: int) -> list[np.ndarray]:
    """q, k and v (B, H, T, d), which stand side by side for each head."""
    qkv = linear(w, name, x).reshape(*x.shape[:2], heads, 3, -1)
    return [qkv[:, :, :, part].transpose(0, 2, 1, 3) for part in range(3)]


def bloom(c: dict[str, Any], w: Tensors, tokens: np.ndarray) -> np.ndarray:
    p, heads, epsilon = "transformer", c["n_head"], c["layer_norm_epsilon"]
    assert heads == 3
    slopes = np.array([2.0**-4, 2.0**-8, 2.0**-2])  # those of two heads, and the first of four
    bias = slopes[:, None, None] * np.arange(tokens.shape[1])  # shifts of a whole row do not matter
    x = layernorm(w, f"{p}.word_embeddings_layernorm", w[f"{p}.word_embeddings.weight"][tokens], epsilon)
    for i in range(c["n_layer"]):
        at = f"{p}.h.{i}"
        a = layernorm(w, f"{at}.input_layernorm", x, epsilon)
        mixed = attention(*fused_by_head(w, f"{at}.self_attention.query_key_value", a, heads), bias)
        x = x + linear(w, f"{at}.self_attention.dense", mixed)
        up = linear(w, f"{at}.mlp.dense_h_to_4h", layernorm(w, f"{at}.post_attention_layernorm", x, epsilon))
        x = x + linear(w, f"{at}.mlp.dense_4h_to_h", gelu_tanh(up))
    return layernorm(w, f"{p}.ln_f", x, epsilon) @ w[f"{p}.word_embeddings.weight"].T


def gpt_neox(c: dict[str, Any], w: Tensors, tokens: np.ndarray) -> np.ndarray:
    p, heads, epsilon = "gpt_neox", c["num_attention_heads"], c["layer_norm_eps"]
    width = int(c["hidden_size"] // heads * c["rotary_pct"])
    x = w[f"{p}.embed_in.weight"][tokens]
    for i in range(c["num_hidden_layers"]):
        at = f"{p}.layers.{i}"
        a = layernorm(w, f"{at}.input_layernorm", x, epsilon)
        q, k, v = fused_by_head(w, f"{at}.attention.query_key_value", a, heads)
        q, k = (turned(one, width, c["rotary_emb_base"]) for one in (q, k))
        after = x + linear(w, f"{at}.attention.dense", attention(q, k, v))
        m = layernorm(w, f"{at}.post_attention_layernorm", x if c["use_parallel_residual"] else after, epsilon)
        x = after + linear(w, f"{at}.mlp.dense_4h_to_h", gelu(linear(w, f"{at}.mlp.dense_h_to_4h", m)))
    return layernorm(w, f"{p}.final_layer_norm", x, epsilon) @ w["embed_out.weight"].T


def llama(c: dict[str, Any], w: Tensors, tokens: np.ndarray) -> np.ndarray:
    heads, groups, epsilon = c["num_attention_heads"], c["num_key_value_heads"], c["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][tokens]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}"
        a = rmsnorm(w, f"{at}.input_layernorm", x, epsilon)
        q = heads_of(linear(w, f"{at}.self_attn.q_proj", a), heads)
        k, v = (heads_of(linear(w, f"{at}.self_attn.{n}_proj", a), groups) for n in "kv")
        q, k = (turned(one, one.shape[-1], c["rope_theta"]) for one in (q, k))
        k, v = (one[:, np.arange(heads) // (heads // groups)] for one in (k, v))
        x = x + linear(w, f"{at}.self_attn.o_proj", attention(q, k, v))
        m = rmsnorm(w, f"{at}.post_attention_layernorm", x, epsilon)
        gate = silu(linear(w, f"{at}.mlp.gate_proj", m))
        x = x + linear(w, f"{at}.mlp.down_proj", gate * linear(w, f"{at}.mlp.up_proj", m))
    head = w["model.embed_tokens.weight"] if c["tie_word_embeddings"] else w["lm_head.weight"]
    return rmsnorm(w, "model.norm", x, epsilon) @ head.T


_DEFINITIONS = {"gpt2": gpt2, "opt": opt, "bloom": bloom, "gpt_neox": gpt_neox, "llama": llama}
