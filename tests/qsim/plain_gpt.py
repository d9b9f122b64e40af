"""The study's GPT as a user would write it: jax.numpy under named scopes, no arithmetic but JAX's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, named_scope

from qsim.config import ModelConfig

Array = Any


def layernorm(x: Array, gain: Array, bias: Array) -> Array:
    mean = jnp.sum(x, -1, keepdims=True) * (1 / x.shape[-1])
    centred = x - mean
    variance = jnp.sum(centred * centred, -1, keepdims=True) * (1 / x.shape[-1])
    return centred * (1 / jnp.sqrt(variance + 1e-5)) * gain + bias


def linear(site: str, p: dict[str, Array], x: Array) -> Array:
    with named_scope(site):
        return x @ p[f"{site}.weight"] + p[f"{site}.bias"]


def attention(qkv: Array, batch: int, heads: int) -> Array:
    rows, width = qkv.shape
    head = width // (3 * heads)
    q, k, v = (x.swapaxes(1, 2) for x in jnp.moveaxis(qkv.reshape(batch, rows // batch, 3, heads, head), 2, 0))
    mask = jnp.tril(jnp.ones((rows // batch, rows // batch), bool))
    with named_scope("scores"):
        scores = jnp.einsum("bhid,bhjd->bhij", q * head**-0.5, k)
    with named_scope("softmax"):
        largest = jnp.max(jnp.where(mask, scores, -jnp.inf), -1, keepdims=True)
        powers = jnp.where(mask, jnp.exp(scores - largest), 0)
        weights = powers * (1 / jnp.sum(powers, -1, keepdims=True))
    with named_scope("values"):
        mixed = jnp.einsum("bhij,bhjd->bhid", weights, v)
    return mixed.swapaxes(1, 2).reshape(rows, -1)


def block(p: dict[str, Array], x: Array, batch: int, heads: int) -> Array:
    with named_scope("layernorm_1"):
        a = layernorm(x, p["layernorm_1.gain"], p["layernorm_1.bias"])
    branch = linear("attention_out", p, attention(linear("qkv", p, a), batch, heads))
    with named_scope("residual"):
        x = x + branch
    with named_scope("layernorm_2"):
        m = layernorm(x, p["layernorm_2.gain"], p["layernorm_2.bias"])
    up = linear("mlp_up", p, m)
    with named_scope("gelu"):
        active = jax.nn.gelu(up, approximate=False)
    branch = linear("mlp_down", p, active)
    with named_scope("residual"):
        return x + branch


def logits(config: ModelConfig, parameters: dict[str, Array], tokens: Array) -> Array:
    """(B, T) -> (B T, V); learned positions, untied, layers as one scan."""
    with named_scope("embedding"):
        x = parameters["embedding.tokens"][tokens] + parameters["embedding.positions"][: tokens.shape[1]]
    x = x.reshape(tokens.size, -1)
    blocks = {k.removeprefix("blocks."): w for k, w in parameters.items() if k.startswith("blocks.")}

    def body(x: Array, p: dict[str, Array]) -> tuple[Array, None]:
        return block(p, x, len(tokens), config.heads), None

    x, _ = lax.scan(body, x, blocks)
    with named_scope("layernorm_final"):
        x = layernorm(x, parameters["layernorm_final.gain"], parameters["layernorm_final.bias"])
    with named_scope("logits"):
        return x @ parameters["logits.weight"]


def loss(config: ModelConfig, parameters: dict[str, Array], tokens: Array, targets: Array) -> Array:
    z = logits(config, parameters, tokens)
    with named_scope("loss"):
        z = z - lax.stop_gradient(jnp.max(z, -1, keepdims=True))
        picked = jnp.take_along_axis(z, targets.reshape(-1, 1), 1)[:, 0]
        return jnp.sum(jnp.log(jnp.sum(jnp.exp(z), -1)) - picked) * (1 / targets.size)


def of(config: ModelConfig) -> tuple[Any, Any]:
    """logits(parameters, tokens) and loss(parameters, tokens, targets)."""
    return partial(logits, config), partial(loss, config)
