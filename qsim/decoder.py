"""One forward pass for every decoder whose checkpoint is read, over the same arithmetic as training.

Parameters come from an object that gives those outside the layers, and those of one layer when they are asked for, so
that no more than one layer need be in memory.  Names and shapes: ``qsim.decoder_config``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from precision.backends import is_concrete
from qsim import layers
from qsim.decoder_config import DecoderConfig
from qsim.decoder_layers import grouped_attention, mlp_forward, rmsnorm_forward
from qsim.heap import keep_freed_memory
from qsim.held_weights import are_working_copies
from qsim.positions import sinusoidal_table
from qsim.sites import Calculator

Array = Any
Parameters = dict[str, Array]


class Weights(Protocol):
    """Where parameters come from: float32 or, of a quantized model, QArrays, in the names and shapes of
    ``outer_shapes`` and ``layer_shapes``."""

    def outer(self) -> Parameters: ...
    def layer(self, number: int) -> Parameters: ...


@dataclass(frozen=True, kw_only=True)
class ResidentWeights:
    """Parameters in memory, those of the layers stacked as ``blocks.NAME`` (L, ...): the tree of a run."""

    parameters: Parameters

    def outer(self) -> Parameters:
        return {name: w for name, w in self.parameters.items() if not name.startswith("blocks.")}

    def layer(self, number: int) -> Parameters:
        return {name: w[number] for name, w in self.stacked().items()}

    def stacked(self) -> Parameters:
        prefix = "blocks."
        return {k.removeprefix(prefix): w for k, w in self.parameters.items() if k.startswith(prefix)}


@dataclass(kw_only=True)
class KeyValueCache:
    """Keys and values of the positions so far, layer by layer; ``decoder_forward`` adds those of its tokens.

    ``keys`` and ``values`` (B K, S, d) are of the policy's formats in float32; where the calculator quantizes them,
    int8 codes, and ``keys.scale`` and ``values.scale`` (B K, S, 1) the bits of fp16.
    """

    layers: list[dict[str, Array]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for layer in self.layers for x in layer.values())

    @property
    def length(self) -> int:
        return self.layers[0]["keys"].shape[1] if self.layers else 0


class TokenError(ValueError):
    """Tokens that a model cannot read, in one sentence."""


def decoder_forward(
    calculator: Calculator,
    config: DecoderConfig,
    weights: Weights,
    tokens: Array,
    *,
    cache: KeyValueCache | None = None,
) -> Array:
    """Logits (N, V) of tokens (B, T), the policy of the calculator rounding at its sites as in training.

    The activation is the site ``gelu``, both products of a gated MLP are ``mlp_up``, rotary turns are rounded by
    ``scores``, and the norm behind an embedding computes as ``layernorm_final``.  cache: of the tokens before these,
    to which these are added; the logits have the bits of one pass over all of them.  Weights are rounded to the
    policy's working format layer by layer, but for ``HeldWeights`` that are so already.  ``ResidentWeights`` are
    scanned, where no earlier positions are given.
    Errors: TokenError for a token outside the vocabulary, for more positions than the model has, and for other
    sequences than the cache is of.
    """
    ar, first = calculator, 0 if cache is None else cache.length
    if ar.backend.name != "jax":
        keep_freed_memory()
    _check_tokens(config, tokens, first)
    if cache is not None:
        _check_cache(config, tokens, cache)
    rounded = are_working_copies(weights, ar)
    outer = weights.outer() if rounded else ar.working_copy(weights.outer())
    x = layers.embedding_forward(ar, tokens, outer["embedding.tokens"], _positions(ar, config, outer, first))
    if config.embedding_norm:
        x = layers.layernorm_forward(
            ar, "layernorm_final", x, outer["embedding_norm.gain"], outer["embedding_norm.bias"], config.epsilon
        )[0]
    body = partial(_block, ar, config, tokens.shape[0], rounded, cache is not None)
    earlier = None if cache is None or not cache.layers else cache.layers
    x, kept = _through_layers(ar, config, weights, body, x, earlier)
    if cache is not None:
        cache.layers = kept
    if config.final_norm:
        x = _norm(ar, config, "layernorm_final", outer, x)
    table = outer["embedding.tokens"]
    head = outer["logits.weight"] if "logits.weight" in outer else ar.xp.swapaxes(table, 0, 1)
    return layers.linear_forward(ar, "logits", x, head, None)


def _check_tokens(config: DecoderConfig, tokens: Array, first: int) -> None:
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise TokenError(
            f"tokens have shape {tuple(tokens.shape)}; give (sequences, positions), at least one of each"
        )
    last = first + tokens.shape[1]
    if last > config.length and config.positions != "alibi":
        raise TokenError(f"{last} positions are more than the {config.length} of the model; give fewer tokens")
    if is_concrete(tokens):
        values = np.asarray(tokens)
        wrong = values[(values < 0) | (values >= config.vocabulary)]
        if wrong.size:
            raise TokenError(
                f"token {wrong[0]} is outside the vocabulary of {config.vocabulary}; use the model's own tokenizer"
            )


def _check_cache(config: DecoderConfig, tokens: Array, cache: KeyValueCache) -> None:
    sequences = cache.layers[0]["keys"].shape[0] // config.kv_heads if cache.layers else len(tokens)
    if len(tokens) != sequences:
        raise TokenError(f"tokens are of {len(tokens)} sequences and the cache of {sequences}; give as many of both")


def _positions(ar: Calculator, config: DecoderConfig, outer: Parameters, first: int) -> Array | None:
    """Rows that are added to the embedding, from position ``first`` on."""
    if config.positions == "sinusoidal":
        return ar.xp.asarray(sinusoidal_table(config.length, config.hidden, config.position_scale)[first:])
    learned = outer.get("embedding.positions")
    return None if learned is None else learned[config.position_offset + first :]


def _through_layers(
    ar: Calculator,
    config: DecoderConfig,
    weights: Weights,
    body: Callable,
    x: Array,
    earlier: list[dict[str, Array]] | None,
) -> tuple[Array, list[dict[str, Array]]]:
    """x behind the last layer; keys and values of every layer."""
    if isinstance(weights, ResidentWeights) and earlier is None and ar.listener is None:
        x, kept = ar.scan(body, x, {"weights": weights.stacked()})
        return x, [] if kept is None else [{n: w[i] for n, w in kept.items()} for i in range(config.layers)]
    found = []
    for first, last in ar.policy.segments(config.layers):
        step = _step(ar, first, body)
        for number in range(first, last):
            given: dict[str, Any] = {"weights": weights.layer(number)}
            if earlier is not None:
                given["earlier"] = earlier[number]
            x, kept = step(number, x, given)
            found.append(kept)
    return x, found


def _step(ar: Calculator, first: int, body: Callable) -> Callable[[int, Array, Any], tuple[Array, Any]]:
    """(number, x, values of that layer) -> (x, keys and values), compiled once for a segment: its rows are the same.

    What is watched by layer is computed under its own number.
    """

    def computed(number: int, x: Array, given: Any) -> tuple[Array, Any]:
        x, kept = ar.layer(number, body, x, given)
        return x, None if kept is None else {name: w[0] for name, w in kept.items()}

    if ar.watches_outputs or ar.listener is not None or ar.draws_by_layer or ar.proofs is not None:
        return computed
    compiled = ar.backend.jit(partial(computed, first))
    return lambda _, x, given: compiled(x, given)


def _block(
    ar: Calculator, config: DecoderConfig, batch: int, rounded: bool, keep: bool, x: Array, given: dict[str, Any]
) -> tuple[Array, dict[str, Array] | None]:
    """One layer, its weights rounded before or here; its keys and values where they are kept."""
    p = given["weights"] if rounded else ar.working_copy(given["weights"])
    qkv = layers.linear_forward(ar, "qkv", _norm(ar, config, "layernorm_1", p, x), p["qkv.weight"], p.get("qkv.bias"))
    mixed, kept = grouped_attention(ar, config, qkv, batch, given.get("earlier"))
    branch = layers.linear_forward(ar, "attention_out", mixed, p["attention_out.weight"], p.get("attention_out.bias"))
    if config.parallel_residual:
        other = mlp_forward(ar, config, p, _norm(ar, config, "layernorm_2", p, x))
        branch = layers.residual_forward(ar, other, branch)
    x = layers.residual_forward(ar, x, branch)
    if not config.parallel_residual:
        x = layers.residual_forward(ar, x, mlp_forward(ar, config, p, _norm(ar, config, "layernorm_2", p, x)))
    ar.tell("block.output", x)
    return x, kept if keep else None


def _norm(ar: Calculator, config: DecoderConfig, site: str, p: Parameters, x: Array) -> Array:
    if config.norm == "rmsnorm":
        return rmsnorm_forward(ar, site, x, p[f"{site}.gain"], config.epsilon)
    return layers.layernorm_forward(ar, site, x, p[f"{site}.gain"], p[f"{site}.bias"], config.epsilon)[0]
