"""Tiny random checkpoints of every architecture, in the names and layouts their authors publish: NumPy alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray]
Checkpoint = tuple[dict[str, Any], Tensors]  # config.json and the tensors
LAYERS, HIDDEN, HEADS, LENGTH, VOCABULARY, INSIDE = 3, 24, 3, 12, 29, 40
HEAD = HIDDEN // HEADS


class _Drawn:
    """Values wide enough for every term to matter."""

    def __init__(self, seed: int) -> None:
        self.rng, self.tensors = np.random.default_rng(seed), {}

    def weight(self, name: str, *shape: int) -> None:
        self.tensors[name] = self.rng.normal(0, 0.35, shape).astype(np.float32)

    def norm(self, name: str, bias: bool = True) -> None:
        self.weight(f"{name}.weight", HIDDEN)
        self.tensors[f"{name}.weight"] += 1
        if bias:
            self.weight(f"{name}.bias", HIDDEN)

    def linear(self, name: str, rows: int, columns: int, out: int | None = None, bias: bool = True) -> None:
        """Of shape (rows, columns); ``out``: which of the two its bias has, columns by default."""
        self.weight(f"{name}.weight", rows, columns)
        if bias:
            self.weight(f"{name}.bias", columns if out is None else out)

    def turned(self, name: str, out: int, inside: int, bias: bool = True) -> None:
        """(out, in), as torch.nn.Linear keeps it."""
        self.linear(name, out, inside, out, bias)


def gpt2(*, tied: bool = True, prefix: str = "transformer.", seed: int = 1) -> Checkpoint:
    d = _Drawn(seed)
    d.weight(f"{prefix}wte.weight", VOCABULARY, HIDDEN)
    d.weight(f"{prefix}wpe.weight", LENGTH, HIDDEN)
    for i in range(LAYERS):
        at = f"{prefix}h.{i}"
        d.norm(f"{at}.ln_1")
        d.linear(f"{at}.attn.c_attn", HIDDEN, 3 * HIDDEN)
        d.linear(f"{at}.attn.c_proj", HIDDEN, HIDDEN)
        d.norm(f"{at}.ln_2")
        d.linear(f"{at}.mlp.c_fc", HIDDEN, INSIDE)
        d.linear(f"{at}.mlp.c_proj", INSIDE, HIDDEN)
        if not prefix:  # as the published one has it
            d.tensors[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, LENGTH, LENGTH), np.float32))
    d.norm(f"{prefix}ln_f")
    if not tied:
        d.weight("lm_head.weight", VOCABULARY, HIDDEN)
    config = {"model_type": "gpt2", "n_layer": LAYERS, "n_embd": HIDDEN, "n_head": HEADS, "n_inner": INSIDE}
    config |= {"n_positions": LENGTH, "vocab_size": VOCABULARY, "activation_function": "gelu_new"}
    return config | {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": tied, **_NO_TOKENS}, d.tensors


def opt(*, seed: int = 2) -> Checkpoint:
    d = _Drawn(seed)
    d.weight("model.decoder.embed_tokens.weight", VOCABULARY, HIDDEN)
    d.weight("model.decoder.embed_positions.weight", LENGTH + 2, HIDDEN)
    for i in range(LAYERS):
        at = f"model.decoder.layers.{i}"
        d.norm(f"{at}.self_attn_layer_norm")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            d.turned(f"{at}.self_attn.{name}", HIDDEN, HIDDEN)
        d.norm(f"{at}.final_layer_norm")
        d.turned(f"{at}.fc1", INSIDE, HIDDEN)
        d.turned(f"{at}.fc2", HIDDEN, INSIDE)
    d.norm("model.decoder.final_layer_norm")
    config = {"model_type": "opt", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": HEADS}
    config |= {"ffn_dim": INSIDE, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH}
    config |= {"activation_function": "relu", "do_layer_norm_before": True, "word_embed_proj_dim": HIDDEN}
    return config | _NO_TOKENS, d.tensors


def bloom(*, seed: int = 3) -> Checkpoint:
    d = _Drawn(seed)
    d.weight("transformer.word_embeddings.weight", VOCABULARY, HIDDEN)
    d.norm("transformer.word_embeddings_layernorm")
    for i in range(LAYERS):
        at = f"transformer.h.{i}"
        d.norm(f"{at}.input_layernorm")
        d.turned(f"{at}.self_attention.query_key_value", 3 * HIDDEN, HIDDEN)
        d.turned(f"{at}.self_attention.dense", HIDDEN, HIDDEN)
        d.norm(f"{at}.post_attention_layernorm")
        d.turned(f"{at}.mlp.dense_h_to_4h", 4 * HIDDEN, HIDDEN)
        d.turned(f"{at}.mlp.dense_4h_to_h", HIDDEN, 4 * HIDDEN)
    d.norm("transformer.ln_f")
    config = {"model_type": "bloom", "n_layer": LAYERS, "hidden_size": HIDDEN, "n_head": HEADS}
    return config | {"vocab_size": VOCABULARY, "layer_norm_epsilon": 1e-5, **_NO_TOKENS}, d.tensors


def gpt_neox(*, parallel: bool = True, seed: int = 4) -> Checkpoint:
    d = _Drawn(seed)
    d.weight("gpt_neox.embed_in.weight", VOCABULARY, HIDDEN)
    for i in range(LAYERS):
        at = f"gpt_neox.layers.{i}"
        d.norm(f"{at}.input_layernorm")
        d.turned(f"{at}.attention.query_key_value", 3 * HIDDEN, HIDDEN)
        d.turned(f"{at}.attention.dense", HIDDEN, HIDDEN)
        d.norm(f"{at}.post_attention_layernorm")
        d.turned(f"{at}.mlp.dense_h_to_4h", INSIDE, HIDDEN)
        d.turned(f"{at}.mlp.dense_4h_to_h", HIDDEN, INSIDE)
    d.norm("gpt_neox.final_layer_norm")
    d.weight("embed_out.weight", VOCABULARY, HIDDEN)
    config = {"model_type": "gpt_neox", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "hidden_act": "gelu"}
    config |= {"num_attention_heads": HEADS, "intermediate_size": INSIDE, "vocab_size": VOCABULARY}
    config |= {
        "max_position_embeddings": LENGTH,
        "layer_norm_eps": 1e-5,
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
    }
    return config | {"use_parallel_residual": parallel, "tie_word_embeddings": False, **_NO_TOKENS}, d.tensors


def llama(*, tied: bool = False, kv_heads: int = 1, seed: int = 5) -> Checkpoint:
    d = _Drawn(seed)
    d.weight("model.embed_tokens.weight", VOCABULARY, HIDDEN)
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        d.norm(f"{at}.input_layernorm", bias=False)
        for name, heads in (("q_proj", HEADS), ("k_proj", kv_heads), ("v_proj", kv_heads)):
            d.turned(f"{at}.self_attn.{name}", heads * HEAD, HIDDEN, bias=False)
        d.turned(f"{at}.self_attn.o_proj", HIDDEN, HIDDEN, bias=False)
        d.norm(f"{at}.post_attention_layernorm", bias=False)
        d.turned(f"{at}.mlp.gate_proj", INSIDE, HIDDEN, bias=False)
        d.turned(f"{at}.mlp.up_proj", INSIDE, HIDDEN, bias=False)
        d.turned(f"{at}.mlp.down_proj", HIDDEN, INSIDE, bias=False)
    d.norm("model.norm", bias=False)
    if not tied:
        d.weight("lm_head.weight", VOCABULARY, HIDDEN)
    config = {"model_type": "llama", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "hidden_act": "silu"}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": kv_heads, "intermediate_size": INSIDE}
    config |= {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "rms_norm_eps": 1e-5}
    return config | {"rope_theta": 10000.0, "tie_word_embeddings": tied, **_NO_TOKENS}, d.tensors


_NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
CHECKPOINTS: dict[str, Callable[[], Checkpoint]] = {
    "gpt2": gpt2,
    "gpt2, untied": lambda: gpt2(tied=False),
    "gpt2, bare names": lambda: gpt2(prefix=""),
    "opt": opt,
    "bloom": bloom,
    "gpt_neox": gpt_neox,
    "gpt_neox, sequential": lambda: gpt_neox(parallel=False),
    "llama": llama,
    "llama, tied": lambda: llama(tied=True, kv_heads=3),
}


def write(folder: Path, checkpoint: Checkpoint, dtype: Any = np.float32) -> Path:
    """config.json and model.safetensors."""
    config, tensors = checkpoint
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: w.astype(dtype) for name, w in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_shards(folder: Path, checkpoint: Checkpoint, shards: int = 3) -> Path:
    """The same in several files and an index."""
    config, tensors = checkpoint
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    places = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        own = {name: w for n, (name, w) in enumerate(tensors.items()) if n % shards == i}
        save_file(own, folder / file)
        places |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def rounded(checkpoint: Checkpoint, dtype: Any) -> Checkpoint:
    """Tensors as a file of that dtype holds them, float32."""
    return checkpoint[0], {name: w.astype(dtype).astype(np.float32) for name, w in checkpoint[1].items()}


def tokens(batch: int = 2, length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(9).integers(0, VOCABULARY, (batch, length)).astype(np.int32)


def stacked(model: Any) -> Tensors:
    """All parameters of a model that was opened, those of the layers as ``blocks.NAME``: the tree of a run."""
    layers = [model.layer(i) for i in range(model.config.layers)]
    return model.weights.outer() | {f"blocks.{name}": np.stack([w[name] for w in layers]) for name in layers[0]}


BF16 = ml_dtypes.bfloat16
