"""Checkpoint layouts as data: which tensors of a file are which of our parameters, and how they lie there.

A row: our name, then what it is made of, each with its axes in the file (``DecoderConfig.sizes``).  Several sources
are laid side by side as our columns.  ``turned``: the file has (out, in), ours is (in, out).
``by_head``: rows of the file are [q | k | v] of one head after another, ours are [Q | K | V].  ``pairs``: rows of
each head are neighbours that turn together, ours are the halves of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Order = Literal["plain", "by_head", "pairs"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A tensor of a file: its name, ``{i}`` for the layer, its axes, and the order of its rows."""

    name: str
    axes: tuple[str, ...]
    order: Order = "plain"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One of our parameters and where it comes from."""

    ours: str
    sources: tuple[Source, ...]
    turned: bool = False


@dataclass(frozen=True, kw_only=True)
class TensorNames:
    """A layout.

    prefixes: what stands before names that have one, each tried; bare: names that never have it; ignored: patterns
    of tensors that are no parameters (buffers), or repeat one.
    """

    rows: tuple[Row, ...]
    layers: tuple[Row, ...]
    prefixes: tuple[str, ...] = ("",)
    bare: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def row(ours: str, source: str, *, turned: bool = False) -> Row:
    """A row from a source such as ``wte.weight v h``, its name and its axes."""
    name, *axes = source.split()
    return Row(ours=ours, sources=(Source(name=name, axes=tuple(axes)),), turned=turned)


def norm(ours: str, theirs: str) -> list[Row]:
    """Gain and bias of a LayerNorm."""
    return [row(f"{ours}.gain", f"{theirs}.weight h"), row(f"{ours}.bias", f"{theirs}.bias h")]


def linear(ours: str, inside: str, *sources: str, turned: bool = True, orders: Sequence[Order] = ()) -> list[Row]:
    """Weight and bias of a linear layer, from sources such as ``self_attn.q_proj q``, its name and its outputs."""
    weights, biases = [], []
    each: Sequence[Order] = orders or ["plain"] * len(sources)
    for source, order in zip(sources, each, strict=True):
        name, out = source.split()
        axes = (out, inside) if turned else (inside, out)
        weights.append(Source(name=f"{name}.weight", axes=axes, order=order))
        biases.append(Source(name=f"{name}.bias", axes=(out,), order=order))
    return [
        Row(ours=f"{ours}.weight", sources=tuple(weights), turned=turned),
        Row(ours=f"{ours}.bias", sources=tuple(biases)),
    ]


def _at(prefix: str, rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with a prefix before each name."""
    return tuple(
        replace(one, sources=tuple(replace(source, name=prefix + source.name) for source in one.sources))
        for one in rows
    )


_HEAD = row("logits.weight", "lm_head.weight v h", turned=True)

GPT2 = TensorNames(
    prefixes=("transformer.", ""),
    bare=("lm_head.weight",),
    ignored=("h.*.attn.bias", "h.*.attn.masked_bias", "lm_head.weight"),
    rows=(
        row("embedding.tokens", "wte.weight v h"),
        row("embedding.positions", "wpe.weight t h"),
        *norm("layernorm_final", "ln_f"),
        _HEAD,
    ),
    layers=_at(
        "h.{i}.",
        [
            *norm("layernorm_1", "ln_1"),
            *linear("qkv", "h", "attn.c_attn qkv", turned=False),
            *linear("attention_out", "q", "attn.c_proj h", turned=False),
            *norm("layernorm_2", "ln_2"),
            *linear("mlp_up", "h", "mlp.c_fc m", turned=False),
            *linear("mlp_down", "m", "mlp.c_proj h", turned=False),
        ],
    ),
)

OPT = TensorNames(
    prefixes=("model.decoder.", "decoder."),
    bare=("lm_head.weight",),
    ignored=("lm_head.weight",),
    rows=(
        row("embedding.tokens", "embed_tokens.weight v h"),
        row("embedding.positions", "embed_positions.weight t h"),
        *norm("layernorm_final", "final_layer_norm"),
        _HEAD,
    ),
    layers=_at(
        "layers.{i}.",
        [
            *norm("layernorm_1", "self_attn_layer_norm"),
            *linear("qkv", "h", "self_attn.q_proj q", "self_attn.k_proj kv", "self_attn.v_proj kv"),
            *linear("attention_out", "q", "self_attn.out_proj h"),
            *norm("layernorm_2", "final_layer_norm"),
            *linear("mlp_up", "h", "fc1 m"),
            *linear("mlp_down", "m", "fc2 h"),
        ],
    ),
)

BLOOM = TensorNames(
    prefixes=("transformer.", ""),
    bare=("lm_head.weight",),
    ignored=("lm_head.weight",),
    rows=(
        row("embedding.tokens", "word_embeddings.weight v h"),
        *norm("embedding_norm", "word_embeddings_layernorm"),
        *norm("layernorm_final", "ln_f"),
        _HEAD,
    ),
    layers=_at(
        "h.{i}.",
        [
            *norm("layernorm_1", "input_layernorm"),
            *linear("qkv", "h", "self_attention.query_key_value qkv", orders=("by_head",)),
            *linear("attention_out", "q", "self_attention.dense h"),
            *norm("layernorm_2", "post_attention_layernorm"),
            *linear("mlp_up", "h", "mlp.dense_h_to_4h m"),
            *linear("mlp_down", "m", "mlp.dense_4h_to_h h"),
        ],
    ),
)

GPT_NEOX = TensorNames(
    prefixes=("gpt_neox.",),
    bare=("embed_out.weight",),
    ignored=(
        "layers.*.attention.bias",
        "layers.*.attention.masked_bias",
        "*.rotary_emb.inv_freq",
        "embed_out.weight",
    ),
    rows=(
        row("embedding.tokens", "embed_in.weight v h"),
        *norm("layernorm_final", "final_layer_norm"),
        row("logits.weight", "embed_out.weight v h", turned=True),
    ),
    layers=_at(
        "layers.{i}.",
        [
            *norm("layernorm_1", "input_layernorm"),
            *linear("qkv", "h", "attention.query_key_value qkv", orders=("by_head",)),
            *linear("attention_out", "q", "attention.dense h"),
            *norm("layernorm_2", "post_attention_layernorm"),
            *linear("mlp_up", "h", "mlp.dense_h_to_4h m"),
            *linear("mlp_down", "m", "mlp.dense_4h_to_h h"),
        ],
    ),
)

LLAMA = TensorNames(
    prefixes=("model.",),
    bare=("lm_head.weight",),
    ignored=("layers.*.self_attn.rotary_emb.inv_freq", "lm_head.weight"),
    rows=(
        row("embedding.tokens", "embed_tokens.weight v h"),
        row("layernorm_final.gain", "norm.weight h"),
        _HEAD,
    ),
    layers=_at(
        "layers.{i}.",
        [
            row("layernorm_1.gain", "input_layernorm.weight h"),
            *linear("qkv", "h", "self_attn.q_proj q", "self_attn.k_proj kv", "self_attn.v_proj kv"),
            *linear("attention_out", "q", "self_attn.o_proj h"),
            row("layernorm_2.gain", "post_attention_layernorm.weight h"),
            row("mlp_gate.weight", "mlp.gate_proj.weight m h", turned=True),
            *linear("mlp_up", "h", "mlp.up_proj m"),
            *linear("mlp_down", "m", "mlp.down_proj h"),
        ],
    ),
)

# GGUF: as converters for llama.cpp write them, every matrix (out, in)

_GGUF_OUTER = (
    row("embedding.tokens", "token_embd.weight v h"),
    row("embedding.positions", "position_embd.weight t h"),
    *norm("layernorm_final", "output_norm"),
    row("logits.weight", "output.weight v h", turned=True),
)

GGUF_LLAMA = TensorNames(
    rows=_GGUF_OUTER,
    layers=_at(
        "blk.{i}.",
        [
            row("layernorm_1.gain", "attn_norm.weight h"),
            *linear("qkv", "h", "attn_q q", "attn_k kv", "attn_v kv", orders=("pairs", "pairs", "plain")),
            *linear("attention_out", "q", "attn_output h"),
            row("layernorm_2.gain", "ffn_norm.weight h"),
            row("mlp_gate.weight", "ffn_gate.weight m h", turned=True),
            *linear("mlp_up", "h", "ffn_up m"),
            *linear("mlp_down", "m", "ffn_down h"),
        ],
    ),
)

GGUF_GPT2 = TensorNames(
    rows=_GGUF_OUTER,
    layers=_at(
        "blk.{i}.",
        [
            *norm("layernorm_1", "attn_norm"),
            *linear("qkv", "h", "attn_qkv qkv"),
            *linear("attention_out", "q", "attn_output h"),
            *norm("layernorm_2", "ffn_norm"),
            *linear("mlp_up", "h", "ffn_up m"),
            *linear("mlp_down", "m", "ffn_down h"),
        ],
    ),
)
